"""The names of the services, and the kinds of requests of each."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from llmproviders.sandbox.services import SERVICES

CLASS_NAMES = {service.name: service.class_name for service in SERVICES}
"""Service to provider class, in the default order of `Sandbox.client`."""


KINDS = {
    service.name: tuple(dict.fromkeys(("chat", *service.routes.values()))) for service in SERVICES
}
"""Service to the kinds of requests that a fault can be put on, chat first."""


_ALIASES = {"openaicompatible": "openai"}


def is_service(name: str) -> bool:
    """Whether `service_name` knows a name."""
    return _plain(name) in CLASS_NAMES


def service_name(name: str) -> str:
    """Return the service that a provider's name stands for, in any case, with or without dashes.

    Raises ValueError, with the nearest known name, for any other.

    >>> service_name("OpenAI-Compatible")
    'openai'
    """
    service = _plain(name)
    if service not in CLASS_NAMES:
        raise ValueError(f"unknown provider {name!r}; {suggest(service, CLASS_NAMES)}")
    return service


def _plain(name: str) -> str:
    plain = name.lower().replace("-", "").replace("_", "")
    return _ALIASES.get(plain, plain)


def suggest(word: str, known: Iterable[str]) -> str:
    """Return a hint with the known word nearest to a wrong one, for an error message."""
    words = list(known)
    near = difflib.get_close_matches(word, words, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"{hint}known: {', '.join(words)}"
