"""The values of ``type`` in a configuration: a provider, a local program, or a class."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module

from .._signals import let_through
from ..provider import Provider
from ..providers import ALIASES, REGISTRY, broken, every, find, names
from ..providers._local_servers import LOCAL_SERVERS, LocalServer


@dataclass(frozen=True)
class ProviderType:
    """The meaning of a type's name.

    Attributes:
        name: the name in its usual spelling.
        kind: the class.
        server: the program, if it is one.
    """

    name: str
    kind: type[Provider]
    server: LocalServer | None = None


def find_type(name: str) -> ProviderType | None:
    """Look up a type by name; None if there is no such type.

    >>> find_type("Ollama").server.base_url
    'http://localhost:11434/v1'

    Raises:
        ValueError: the provider of an installed package, or ``module:Class``, cannot be loaded,
            or is not a provider.
    """
    plain = name.lower().replace("-", "").replace("_", "").replace(".", "")
    if plain in LOCAL_SERVERS:
        return ProviderType(plain, REGISTRY["openaicompatible"], LOCAL_SERVERS[plain])
    kind = _load(name) if ":" in name else find(name)
    if kind is None and plain in broken():
        raise ValueError(broken()[plain].why)
    return None if kind is None else ProviderType(name_of(kind), kind)


def name_of(kind: type[Provider]) -> str:
    """The type name of a class: its registered name, else ``module:Class``."""
    known = REGISTRY if kind in REGISTRY.values() else every()
    own = f"{kind.__module__}:{kind.__qualname__}"
    return next((name for name, other in known.items() if other is kind), own)


def names_of_types() -> list[str]:
    """All type names except ``module:Class``; does not load installed packages."""
    return [*names(), *ALIASES, *LOCAL_SERVERS]


def _load(name: str) -> type[Provider]:
    module, _, path = name.partition(":")
    try:
        found: object = import_module(module)
        for part in path.split("."):
            found = getattr(found, part)
    except KeyboardInterrupt:
        raise
    # A third-party module may raise anything, or exit, while it is imported.
    except BaseException as error:
        let_through(error)
        kind = "" if isinstance(error, ImportError) else f"{type(error).__name__}: "
        said = " ".join(f"{kind}{error}".split())
        raise ValueError(f"type {name!r} cannot be loaded: {said}") from error
    if not (isinstance(found, type) and issubclass(found, Provider)):
        raise ValueError(f"type {name!r} is not a subclass of llmproviders.Provider")
    return found
