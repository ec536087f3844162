"""The registry of providers: one line for each built-in one, plus those that others add.

An installed package adds providers through the entry point group ``llmproviders.providers`` (name =
``module:Class``), a program through :func:`register`. Built-in names take precedence.
"""

from __future__ import annotations

import warnings
from collections import UserDict
from collections.abc import Iterable, Iterator
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

from .._signals import ignoring, let_through
from ..provider import Provider
from ._local_servers import LOCAL_SERVERS

if TYPE_CHECKING:
    from importlib.metadata import Distribution, EntryPoint


class _Registry(UserDict[str, Any]):
    """Built-in providers by name; a value given as ``module:Class`` is imported when looked up."""

    def __getitem__(self, name: str) -> Any:
        value = self.data[name]
        if not isinstance(value, str):
            return value
        # A program loads the providers that it uses, not all of them.
        module, _, kind = value.partition(":")
        return getattr(import_module(f"{__name__}.{module}"), kind)


REGISTRY: UserDict[str, type[Provider]] = _Registry(
    {
        "chatglm": "chatglm:ChatGLM",
        "chatgptt": "chatgptt:ChatGptt",
        "flowgpt": "flowgpt:FlowGpt",
        "gigachat": "gigachat:GigaChat",
        "openaicompatible": "openai_compatible:OpenAICompatible",
        "glm": "glm:GLM",
        "yandexgpt": "yandexgpt:YandexGPT",
        "deepseek": "deepseek:DeepSeek",
    }
)
ALIASES = {"openai": "openaicompatible"}

_TAKEN = {*REGISTRY, *ALIASES, *LOCAL_SERVERS}

GROUP = "llmproviders.providers"

_registered: dict[str, type[Provider]] = {}


def __getattr__(name: str) -> type[Provider]:
    """Load the built-in provider whose class has that name."""
    for key, place in REGISTRY.data.items():
        if str(place).endswith(f":{name}"):
            return REGISTRY[key]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def find(name: str) -> type[Provider] | None:
    """The provider with a name, in any case, with or without dashes; None if there is none.

    Installed packages are searched only if the name is not built in.

    >>> find("OpenAI-Compatible").__name__
    'OpenAICompatible'
    """
    key = _plain(name)
    key = ALIASES.get(key, key)
    known = REGISTRY.get(key) or _registered.get(key)
    if known is not None:
        return known
    return _installed().kinds.get(key)


def every() -> dict[str, type[Provider]]:
    """All providers by name: built-in, registered, and from installed packages."""
    known = {**_installed().kinds, **_registered, **REGISTRY}
    return {name: known[name] for name in names() if name in known}


class BrokenPlugIn(NamedTuple):
    """A provider of an installed package that does not load, or whose name is taken.

    Attributes:
        why: a description of the provider and of the problem.
        package: the package that provides it; None if unknown.
    """

    why: str
    package: str | None


def broken() -> dict[str, BrokenPlugIn]:
    """The providers of installed packages that do not load, by name."""
    return dict(_installed().broken)


def ignored() -> list[BrokenPlugIn]:
    """The providers of installed packages whose names are taken."""
    return list(_installed().ignored)


def names() -> list[str]:
    """The names of all providers; does not load installed packages."""
    installed = (_plain(entry.name) for entry in _entries())
    return list(dict.fromkeys([*REGISTRY, *_registered, *installed]))


def register(cls: type[Provider], *, name: str | None = None) -> None:
    """Register a provider under a name, like the built-in ones.

    Args:
        cls: the class.
        name: the name in commands and the configuration; default: the class's name.

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


class _Installed(NamedTuple):
    """The providers of installed packages; by name, if nothing else has that name."""

    kinds: dict[str, type[Provider]]
    broken: dict[str, BrokenPlugIn]
    ignored: list[BrokenPlugIn]


@cache
def _installed() -> _Installed:
    """The providers of installed packages; warns once about each that does not load."""
    found = _Installed({}, {}, [])
    for entry in _entries():
        name = _plain(entry.name)
        if name in _TAKEN or name in found.kinds or name in found.broken:
            rival = "a built-in one" if name in _TAKEN else "another one"
            why = f"{_described(entry)} is ignored: {rival} has that name"
            found.ignored.append(BrokenPlugIn(why, _package(entry)))
            if name not in _TAKEN:
                _warn(why)
            continue
        try:
            found.kinds[name] = _load(entry)
        except KeyboardInterrupt:
            raise
        # A third-party package may raise anything, or exit, while it is imported; a panic in an
        # extension written in Rust is a BaseException.
        except BaseException as error:  # noqa: BLE001
            let_through(error)
            said = " ".join(f"{type(error).__name__}: {error}".split())
            found.broken[name] = BrokenPlugIn(
                f"{_described(entry)} does not load: {said}", _package(entry)
            )
            _warn(found.broken[name].why)
    return found


def _entries() -> Iterable[EntryPoint]:
    # Imported here because it would slow every other start by 5 ms.
    metadata = import_module("importlib.metadata")
    try:
        found: Iterable[EntryPoint] = metadata.entry_points(group=GROUP)
        return found
    # One package with unreadable metadata hides all others in that folder.
    except Exception as error:  # noqa: BLE001
        let_through(error)
        return list(_readable_entries(metadata.distributions()))


def _readable_entries(packages: Iterable[Distribution]) -> Iterator[EntryPoint]:
    for package in packages:
        with ignoring(Exception):
            yield from [entry for entry in package.entry_points if entry.group == GROUP]


def _described(entry: EntryPoint) -> str:
    package = _package(entry)
    return f"the provider {entry.name!r} ({entry.value}" + (f" of {package})" if package else ")")


def _package(entry: EntryPoint) -> str | None:
    return entry.dist.name if entry.dist is not None else None


def _load(entry: EntryPoint) -> type[Provider]:
    kind: type[Provider] = entry.load()
    if not _is_provider(kind):
        raise TypeError("it is not a subclass of llmproviders.Provider")
    return kind


def _warn(message: str) -> None:
    warnings.warn(message, RuntimeWarning, stacklevel=4)
