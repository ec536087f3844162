"""The clients that are compared: a module each, which imports nothing but its own library.

A client's module has ``make(base, service)``: ``base`` is the server's address with the path that
says what to send, ``service`` is the protocol. It returns an object with

- ``stream()``: an iterable of the pieces of text;
- ``complete()``: the whole text (only if calls per second are measured).
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from typing import Protocol

PROMPT = "Why is the sky blue?"


class Client(Protocol):
    """The object that each module's ``make`` returns."""

    def stream(self) -> Iterable[str]:
        """The pieces of one reply."""

    def complete(self) -> str:
        """One whole reply."""


def make(name: str, base: str, service: str) -> Client:
    """The client of that name: a module here, and after a dot its variant."""
    module, _, variant = name.partition(".")
    found = import_module(f"{__name__}.{module}")
    client: Client = (getattr(found, variant) if variant else found.make)(base, service)
    return client
