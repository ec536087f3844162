"""The providers: those of this package a line each, and those that others add.

An installed package adds its own by the entry points of the group ``llmproviders.providers``
(name = ``module:Class``), a program by :func:`register`. A built-in name wins over theirs.
"""

from __future__ import annotations

import warnings
from functools import cache
from importlib.metadata import EntryPoint, entry_points

from .._signals import let_through
from ..provider import Provider
from .chatglm import ChatGLM
from .chatgptt import ChatGptt
from .deepseek import DeepSeek
from .flowgpt import FlowGpt
from .gigachat._provider import GigaChat
from .glm import GLM
from .openai_compatible import OpenAICompatible
from .yandexgpt import YandexGPT

REGISTRY: dict[str, type[Provider]] = {
    "chatglm": ChatGLM,
    "chatgptt": ChatGptt,
    "flowgpt": FlowGpt,
    "gigachat": GigaChat,
    "openaicompatible": OpenAICompatible,
    "glm": GLM,
    "yandexgpt": YandexGPT,
    "deepseek": DeepSeek,
}
ALIASES = {"openai": "openaicompatible"}


GROUP = "llmproviders.providers"

_registered: dict[str, type[Provider]] = {}


def find(name: str) -> type[Provider] | None:
    """The provider of that name, in any case, with or without dashes; None if there is none.

    Installed packages are looked through only for a name that is not built in.

    >>> find("OpenAI-Compatible").__name__
    'OpenAICompatible'
    """
    key = _plain(name)
    key = ALIASES.get(key, key)
    known = REGISTRY.get(key) or _registered.get(key)
    if known is not None:
        return known
    return next((kind for name, kind in _installed().items() if name == key), None)


def every() -> dict[str, type[Provider]]:
    """All providers by name: built in, registered, and of installed packages."""
    return {**_installed(), **_registered, **REGISTRY}


def register(cls: type[Provider], *, name: str | None = None) -> None:
    """Make a provider known by a name, as the built-in ones are.

    Args:
        cls: the class.
        name: how commands and the configuration call it; default: the class's name.

    Raises:
        TypeError: ``cls`` is not a subclass of ``Provider``.

    >>> from llmproviders.testing import ScriptedProvider
    >>> register(ScriptedProvider, name="scripted")
    >>> find("Scripted").__name__
    'ScriptedProvider'
    """
    if not _is_provider(cls):
        raise TypeError(f"{cls!r} is not a subclass of llmproviders.Provider")
    _registered[_plain(name or cls.__name__)] = cls


def _is_provider(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, Provider)


def _plain(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "")


@cache
def _installed() -> dict[str, type[Provider]]:
    """The providers of installed packages; one that does not load is a warning, once."""
    found = {}
    for entry in entry_points(group=GROUP):
        kind = _load(entry)
        if kind is not None:
            found[_plain(entry.name)] = kind
    return found


def _load(entry: EntryPoint) -> type[Provider] | None:
    try:
        kind: type[Provider] = entry.load()
        if not _is_provider(kind):
            raise TypeError("it is not a subclass of llmproviders.Provider")
    # A package of somebody else's may raise anything while it is imported.
    except Exception as error:  # noqa: BLE001
        let_through(error)
        warnings.warn(
            f"the provider {entry.name!r} ({entry.value}) does not load: "
            f"{type(error).__name__}: {error}",
            RuntimeWarning,
            stacklevel=2,
        )
        return None
    return kind
