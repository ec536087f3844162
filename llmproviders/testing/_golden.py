"""Golden replies: bodies as a service sends them, and what a provider must read from each."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..provider import Provider
from ..results import Usage
from ._http_bytes import FRAMINGS, http_response
from ._promise import Reading, read_stream, require
from ._raw_server import RawConnection, RawRequest, RawServer, Script

QUESTION = "Why is the sky blue?"

Before = Callable[[RawRequest], Script | None]
"""Answers a request before a chat, such as one for a page or a token; None: it is the chat."""


@dataclass(frozen=True)
class GoldenReply:
    r"""One recorded reply, and what a provider must read from it.

    Attributes:
        name: its name in messages.
        body: its bytes, without a framing.
        content_type: its ``Content-Type`` header.
        text: the expected text; if an error is expected, the text before it.
        finish: the expected attributes of the ``FinishReason``; None if an error is expected.
        error: the expected error: ``type``, the name of its class, and its attributes.

    >>> body = b'data: {"choices": [{"delta": {"content": "Hi"}}]}\n\ndata: [DONE]\n\n'
    >>> golden = GoldenReply(
    ...     "short", body, "text/event-stream", "Hi", finish={"reason": "stop"}
    ... )
    """

    name: str
    body: bytes
    content_type: str
    text: str
    finish: Mapping[str, Any] | None = None
    error: Mapping[str, Any] | None = None

    @classmethod
    def load(cls, path: Path) -> GoldenReply:
        """Read ``NAME.body``, and the other attributes from ``NAME.json`` beside it.

        Args:
            path: the path of ``NAME.body``.
        """
        known = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        return cls(name=path.stem, body=path.read_bytes(), **known)

    def __str__(self) -> str:
        return self.name

    def agrees_with(self, reading: Reading) -> None:
        """Fail unless a provider read what it should.

        Args:
            reading: the result of ``read_stream``.

        Raises:
            AssertionError: the text, the end or the error is another one.
        """
        what = f"{self}: "
        require(reading.text == self.text, f"{what}the text is {reading.text!r}: {reading.error!r}")
        if self.error is not None:
            kind = type(reading.error).__name__
            require(kind == self.error["type"], f"{what}it ended with {reading.error!r}")
        known = self.finish or {n: v for n, v in (self.error or {}).items() if n != "type"}
        ended = reading.finish if reading.error is None else reading.error
        found = {name: getattr(ended, name) for name in known}
        if isinstance(found.get("usage"), Usage):
            found["usage"] = asdict(found["usage"])
        require(found == known, f"{what}it ended with {found}, not {known}")


def golden_replies(folder: str | os.PathLike[str]) -> list[GoldenReply]:
    """The golden replies in a folder: each ``NAME.body`` with its ``NAME.json``.

    Args:
        folder: its path.

    >>> golden_replies("no-such-folder")
    []
    """
    return [GoldenReply.load(path) for path in sorted(Path(folder).glob("*.body"))]


def check_golden(
    golden: GoldenReply, make: Callable[[str], Provider], *, before: Before | None = None
) -> None:
    r"""Fail unless a provider reads a reply correctly, however it is sent.

    It is sent line by line in each of ``FRAMINGS``, and once in chunks of one byte.

    Args:
        golden: the reply.
        make: makes the provider for a server at an address such as ``"http://127.0.0.1:8123"``.
        before: answers the requests that the provider sends before a chat.

    Raises:
        AssertionError: the provider read something else, or its stream breaks the rules.

    >>> from llmproviders import OpenAICompatible
    >>> body = b'data: {"choices": [{"delta": {"content": "Hi"}}]}\n\ndata: [DONE]\n\n'
    >>> golden = GoldenReply(
    ...     "short", body, "text/event-stream", "Hi", finish={"reason": "stop"}
    ... )
    >>> check_golden(golden, lambda url: OpenAICompatible(base_url=url))
    """
    lines = golden.body.splitlines(keepends=True)
    bytewise = [bytes([byte]) for byte in golden.body]
    sent = [(framing, lines) for framing in FRAMINGS]
    with _Server(golden, before) as server, make(server.url) as provider:
        for framing, pieces in [*sent, ("chunked", bytewise)]:
            golden.agrees_with(server.read(provider, b"".join(server.wire(pieces, framing))))


def check_cuts(
    golden: GoldenReply,
    make: Callable[[str], Provider],
    framing: str,
    *,
    before: Before | None = None,
    has_end_mark: bool = True,
) -> None:
    r"""Fail unless a provider notices a reply that is cut, at any byte.

    A cut in the head must be an error. A cut in the body must be an error too, after the beginning
    of the text; only if nothing but bytes after the end mark is missing, the reply is whole. Each
    byte takes a connection, so choose a short reply.

    Args:
        golden: the reply.
        make: as for :func:`check_golden`.
        framing: one of ``FRAMINGS``.
        before: as for :func:`check_golden`.
        has_end_mark: False for a protocol without one: if only the end of the connection frames
            its reply, a cut reply looks like a whole one.

    Raises:
        AssertionError: a cut was not noticed, or the text is not that of the reply.

    >>> from llmproviders import OpenAICompatible
    >>> body = b'data: {"choices": [{"delta": {"content": "Hi"}}]}\n\ndata: [DONE]\n\n'
    >>> golden = GoldenReply(
    ...     "short", body, "text/event-stream", "Hi", finish={"reason": "stop"}
    ... )
    >>> check_cuts(golden, lambda url: OpenAICompatible(base_url=url), "chunked")
    """
    undetectable = not has_end_mark and framing == "close"
    failures = 0
    with _Server(golden, before) as server, make(server.url) as provider:
        head, *pieces = server.wire(golden.body.splitlines(keepends=True), framing)
        for place in range(len(head)):
            reading = server.read(provider, head[:place])
            cut = f"{golden}: cut after {place} bytes of its head"
            require(reading.error is not None and not reading.text, f"{cut} there is no error")
        body = b"".join(pieces)
        for place in range(len(body)):
            reading = server.read(provider, head + body[:place])
            failures += reading.error is not None
            begun = golden.text.startswith(reading.text)
            cut = f"{golden}: cut after {place} of {len(body)} bytes ({framing})"
            require(begun, f"{cut} its text is {reading.text!r}")
            if reading.finish is not None and not undetectable:
                golden.agrees_with(reading)
    noticed = failures > len(body) // 3 or undetectable
    require(noticed, f"{golden}: {len(body) - failures} of {len(body)} cuts were not noticed")


class _Server(RawServer):
    """Answers each chat with the bytes last passed to :meth:`read`."""

    def __init__(self, golden: GoldenReply, before: Before | None) -> None:
        super().__init__(self._answer)
        self._headers = {"Content-Type": golden.content_type}
        self._before = before
        self._chat = b""

    def __enter__(self) -> _Server:
        super().__enter__()
        return self

    def read(self, provider: Provider, chat: bytes) -> Reading:
        """Have the provider read a reply."""
        self._chat = chat
        return read_stream(provider.stream(QUESTION))

    def wire(self, pieces: Iterable[bytes], framing: str) -> list[bytes]:
        """The head of a reply, then the pieces of its framed body."""
        return http_response(200, self._headers, FRAMINGS[framing](list(pieces)))

    def _answer(self, connection: RawConnection) -> None:
        while True:
            request = connection.read_request()
            answer = self._before(request) if self._before is not None else None
            if answer is None:
                connection.send(self._chat)
                return
            connection.run(answer)
