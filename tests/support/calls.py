"""Providers without a network: what they send is kept, and what they get is canned."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, TypeVar

import pytest

from llmproviders import LLMError, Provider
from llmproviders._http.decoding import decode_json, decode_object, iter_events, iter_lines
from llmproviders._runtime.scope import CancelScope
from llmproviders.provider import Call, Reply

P = TypeVar("P", bound=Provider)

EVENTS = "text/event-stream"


@dataclass
class Canned:
    """A reply whose body is there; see ``llmproviders.provider.Reply``.

    ``closed`` counts how often it was closed, ``finished`` says whether it was read to its end.
    """

    body: bytes | Iterable[bytes] = b""
    content_type: str = EVENTS
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    request_id: str | None = None
    cookies: dict[str, str] = field(default_factory=dict)
    closed: int = 0
    finished: bool = False
    asked: Any = None

    def lines(self) -> Iterator[bytes]:
        """The body's lines."""
        return iter_lines(self._blocks())

    def events(self) -> Iterator[bytes]:
        """The data of the body's events."""
        return iter_events(self._blocks())

    def _blocks(self) -> Iterable[bytes]:
        return [self.body] if isinstance(self.body, bytes) else self.body

    def read(self, limit: int | None = None) -> bytes:
        """The body."""
        body = self.body if isinstance(self.body, bytes) else b"".join(self.body)
        return body[:limit]

    def json(self) -> Any:
        """The body as JSON."""
        return decode_json(self.read())

    def finish(self) -> None:
        """Note it."""
        self.finished = True

    def close(self) -> None:
        """Note it."""
        self.closed += 1


def read_in_full(monkeypatch: pytest.MonkeyPatch, module: ModuleType) -> list[bytes]:
    """The events that ``module`` reads in full from now on, as they are read."""
    events: list[bytes] = []
    decode = decode_object

    def keep(data: bytes) -> dict[str, Any]:
        events.append(data)
        return decode(data)

    monkeypatch.setattr(module, "decode_object", keep)
    return events


class Sender:
    """Keeps each call and gives the next reply or error, the last one again and again."""

    def __init__(self, *answers: Reply | LLMError) -> None:
        self.answers = list(answers)
        self.calls: list[Call] = []
        self.options: list[dict[str, Any]] = []

    def open(self, call: Call, scope: CancelScope, **options: Any) -> Reply:
        """Answer."""
        self.calls.append(call)
        self.options.append(options)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, LLMError):
            raise answer
        return answer

    def close(self) -> None:
        """Nothing is open."""


def with_sender(cls: type[P], sender: Sender, **arguments: Any) -> P:
    """Make a provider that sends with ``sender``."""
    made = type(cls.__name__, (cls,), {"make_transport": lambda self: sender})
    provider: P = made(**arguments)
    return provider


def canned(cls: type[P], *answers: Reply | LLMError, **arguments: Any) -> P:
    """Make a provider that gets these answers, whatever it sends."""
    return with_sender(cls, Sender(*answers), **arguments)
