"""The requests that a sandbox received: the last ones, their counts, and waiting for them."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any
from urllib.parse import parse_qsl

from llmproviders.sandbox._settings import SLICE_S


class Headers(Mapping[str, str]):
    """The headers of a request, looked up by name in any case.

    Args:
        lower_case: the values by name, names in lower case.

    >>> Headers({"x-request-id": "7"})["X-Request-ID"]
    '7'
    """

    __slots__ = ("_values",)

    def __init__(self, lower_case: dict[str, str]) -> None:
        self._values = lower_case

    def __getitem__(self, name: str) -> str:
        return self._values[name.lower()]

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name.lower() in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"Headers({sorted(self._values)})"


@dataclass
class Progress:
    """Progress of the reply to one request."""

    status: int | None = None
    pieces: int = 0
    ended: bool = False
    aborted: bool = False


@dataclass(frozen=True, eq=False)
class RecordedRequest:
    """One request as it arrived.

    Attributes:
        service: ``"gigachat"``, ``"openai"``, ``"chatglm"``, ``"chatgptt"``, ``"flowgpt"``, or
            ``""`` for a path that belongs to none of them.
        kind: ``"chat"``, ``"token"``, ``"page"``, ``"models"``, ..., or ``"unknown"``.
        method: ``"POST"``, ...
        path, query: the target, split at the question mark.
        headers: looked up by name in any case.
        body: the bytes; :attr:`json` and :attr:`form` read them.
        at: when the whole request had arrived, in seconds of ``time.monotonic``.
        connection: the number of the TCP connection, from 1; a reused one keeps its number.
        progress: how far the reply is, kept up to date; :attr:`status`, :attr:`pieces`,
            :attr:`ended` and :attr:`aborted` read it.

    >>> from llmproviders.sandbox import Sandbox
    >>> with Sandbox() as sandbox:
    ...     reply = sandbox.client("openai").complete("Why is the sky blue?")
    >>> [asked] = sandbox.requests
    >>> asked.kind, asked.path, asked.json["messages"][0]["content"], asked.status
    ('chat', '/v1/chat/completions', 'Why is the sky blue?', 200)
    """

    service: str
    kind: str
    method: str
    path: str
    query: str
    headers: Headers = field(repr=False)
    body: bytes = field(repr=False)
    at: float
    connection: int
    progress: Progress = field(default_factory=Progress, repr=False)

    @cached_property
    def json(self) -> Any:
        """The body as JSON, or None if it is not JSON."""
        try:
            return json.loads(self.body)
        except ValueError:
            return None

    @cached_property
    def form(self) -> dict[str, str]:
        """The body as form fields; empty if its content type is another."""
        if not self.headers.get("content-type", "").startswith("application/x-www-form-urlencoded"):
            return {}
        text = self.body.decode("utf-8", "replace")
        return dict(parse_qsl(text, keep_blank_values=True))

    @property
    def status(self) -> int | None:
        """The HTTP status that was sent, or None if none was sent yet."""
        return self.progress.status

    @property
    def pieces(self) -> int:
        """The number of pieces of text sent so far."""
        return self.progress.pieces

    @property
    def ended(self) -> bool:
        """Whether the sandbox has finished with this request, for whatever reason."""
        return self.progress.ended

    @property
    def aborted(self) -> bool:
        """Whether the client closed the connection before the end of the reply."""
        return self.progress.aborted


class RequestLog:
    """The last requests and exact counts of all; thread-safe."""

    def __init__(self, keep: int) -> None:
        self._records: deque[RecordedRequest] = deque(maxlen=keep)
        self._counts: Counter[tuple[str, str]] = Counter()
        self._changed = threading.Condition()

    def add(self, record: RecordedRequest) -> None:
        """Add a request that has just arrived."""
        with self._changed:
            self._records.append(record)
            self._counts[record.service, record.kind] += 1
            self._changed.notify_all()

    def end(self, record: RecordedRequest, *, aborted: bool) -> None:
        """Record that the reply to a request has ended."""
        with self._changed:
            record.progress.ended = True
            record.progress.aborted = aborted
            self._changed.notify_all()

    def piece(self, record: RecordedRequest) -> None:
        """Count one more piece of text."""
        with self._changed:
            record.progress.pieces += 1
            self._changed.notify_all()

    def snapshot(self) -> list[RecordedRequest]:
        """Return the requests that are kept, oldest first."""
        with self._changed:
            return list(self._records)

    def count(self, service: str | None, kind: str | None) -> int:
        """Return how many requests there were, of one service and one kind or of all."""
        with self._changed:
            return sum(
                number
                for (of_service, of_kind), number in self._counts.items()
                if service in (None, of_service) and kind in (None, of_kind)
            )

    def wait_for(self, predicate: Callable[[], object], timeout_s: float) -> bool:
        """Wait until the predicate holds, checking at each change; return False on timeout."""
        end = time.monotonic() + timeout_s
        with self._changed:
            while True:
                left = end - time.monotonic()
                if self._changed.wait_for(predicate, min(left, SLICE_S)):
                    return True
                if left <= SLICE_S:
                    return False
