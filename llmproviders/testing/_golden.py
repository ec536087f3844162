"""Golden replies: bodies as a service sends them, and the expected result of each."""

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
    r"""One reply, and the expected result of reading it.

    Attributes:
        name: its name in messages.
        body: its bytes, without framing.
        content_type: its ``Content-Type`` header.
        text: the expected text; with an error, the text before it.
        finish: expected attributes of the ``FinishReason``; None: an error is expected.
        error: the name of the expected error's class as ``type``, and expected attributes.

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
        """Fail unless the result of reading it is the expected one.

        Args:
            reading: the result of ``read_stream``.

        Raises:
            AssertionError: it is another.
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
    r"""Fail unless a reply is read correctly in every framing.

    It is sent in each of ``FRAMINGS`` line by line, and once in chunks of one byte.

    Args:
        golden: the reply.
        make: makes the provider for a server at an address such as ``"http://127.0.0.1:8123"``.
        before: answers the provider's requests before a chat.

    Raises:
        AssertionError: the result is another, or breaks the contract of a stream.

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
    r"""Fail unless a cut of the reply at any byte is noticed.

    A cut in its head has to be an error. A cut in its body has to be an error after the start of
    its text, or, if only data after the end mark is missing, give the whole reply. This makes one
    connection per byte, so choose a short reply.

    Args:
        golden: the reply.
        make: as for :func:`check_golden`.
        framing: one of ``FRAMINGS``.
        before: as for :func:`check_golden`.
        has_end_mark: False for a protocol without one: if only the end of the connection frames a
            reply, a cut reply looks complete.

    Raises:
        AssertionError: a cut was not noticed, or the text is not the reply's.

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
