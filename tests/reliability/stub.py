"""A provider whose replies are given as bytes, for tests of what it makes of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from llmproviders._http.decoding import decode_json, iter_events, iter_lines
from llmproviders._http.types import HTTPRequest
from llmproviders._runtime.scope import CancelScope
from llmproviders.provider import Provider


class StubReply:
    """A reply whose body is already here, cut into blocks."""

    def __init__(
        self,
        blocks: Sequence[bytes],
        content_type: str = "text/event-stream",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.status = 200
        self.headers: Mapping[str, str] = headers or {}
        self.content_type = content_type
        self.cookies: dict[str, str] = {}
        self.request_id: str | None = None
        self._blocks = blocks
        self.closed = False

    def lines(self) -> Iterator[bytes]:
        """The body's lines."""
        return iter_lines(self._blocks, max_line=1 << 20)

    def events(self) -> Iterator[bytes]:
        """The data of the body's events."""
        return iter_events(self._blocks, max_line=1 << 20)

    def read(self, limit: int | None = None) -> bytes:
        """The whole body."""
        return b"".join(self._blocks)[:limit]

    read_error = read

    def json(self) -> Any:
        """The body as JSON."""
        return decode_json(self.read())

    def finish(self) -> None:
        """Nothing is left to read."""
        self.close()

    def close(self) -> None:
        """Remember that it was given back."""
        self.closed = True


class StubSender:
    """Answers each call with the next reply, then with the last one again."""

    def __init__(self, *replies: StubReply) -> None:
        self.replies = list(replies)
        self.calls: list[HTTPRequest] = []

    def open(self, call: HTTPRequest, scope: CancelScope, **_: Any) -> StubReply:
        """The reply to ``call``."""
        if scope.over:
            raise scope.error()
        self.calls.append(call)
        index = min(len(self.calls), len(self.replies)) - 1
        return self.replies[index]

    def close(self) -> None:
        """Nothing is open."""


def stubbed(provider: Provider, sender: StubSender) -> Provider:
    """``provider`` itself, its calls answered by ``sender`` from now on."""
    provider.make_transport = lambda: sender  # type: ignore[method-assign]
    return provider
