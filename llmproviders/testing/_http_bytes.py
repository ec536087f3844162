"""HTTP replies as the exact bytes that go over the wire, piece by piece."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from http import HTTPStatus

Pieces = bytes | Iterable[bytes]
"""A body: as one piece, or in the pieces that are framed and sent one by one."""


@dataclass(frozen=True)
class Body:
    """A framed body: the headers that announce it, and its pieces as sent over the wire."""

    headers: tuple[tuple[str, str], ...]
    pieces: tuple[bytes, ...]

    def __bytes__(self) -> bytes:
        return b"".join(self.pieces)


def _as_pieces(body: Pieces) -> tuple[bytes, ...]:
    return (body,) if isinstance(body, bytes) else tuple(body)


def chunked(body: Pieces, *, end: bool = True) -> Body:
    r"""Frame each non-empty piece as one chunk.

    Args:
        body: what is framed.
        end: False leaves out the terminating chunk.

    >>> bytes(chunked([b"Hel", b"lo"]))
    b'3\r\nHel\r\n2\r\nlo\r\n0\r\n\r\n'
    """
    chunks = [b"%x\r\n%b\r\n" % (len(piece), piece) for piece in _as_pieces(body) if piece]
    if end:
        chunks.append(b"0\r\n\r\n")
    return Body((("Transfer-Encoding", "chunked"),), tuple(chunks))


def content_length(body: Pieces, *, announced: int | None = None) -> Body:
    """Frame by length.

    Args:
        body: what is framed.
        announced: the length in the header, if it should differ from the real one.

    >>> content_length(b"Hello", announced=99).headers
    (('Content-Length', '99'),)
    """
    pieces = _as_pieces(body)
    length = sum(map(len, pieces)) if announced is None else announced
    return Body((("Content-Length", str(length)),), pieces)


def close_delimited(body: Pieces) -> Body:
    """Frame only by the end of the connection.

    Args:
        body: what is framed.

    >>> close_delimited(b"Hello").headers
    (('Connection', 'close'),)
    """
    return Body((("Connection", "close"),), _as_pieces(body))


def gzip_stream(pieces: Iterable[bytes]) -> list[bytes]:
    """Compress to one gzip stream, flushed after each piece so that each can be read on arrival.

    Args:
        pieces: what is compressed.

    Returns:
        The compressed pieces, then the end of the stream as the last piece.

    >>> import gzip
    >>> gzip.decompress(b"".join(gzip_stream([b"Hel", b"lo"])))
    b'Hello'
    """
    packer = zlib.compressobj(wbits=zlib.MAX_WBITS | 16)
    packed = [packer.compress(piece) + packer.flush(zlib.Z_SYNC_FLUSH) for piece in pieces]
    return [*packed, packer.flush(zlib.Z_FINISH)]


def _gzipped(frame: Callable[[list[bytes]], Body]) -> Callable[[list[bytes]], Body]:
    def framed(lines: list[bytes]) -> Body:
        body = frame(gzip_stream(lines))
        return replace(body, headers=(*body.headers, ("Content-Encoding", "gzip")))

    return framed


FRAMINGS: dict[str, Callable[[list[bytes]], Body]] = {
    "chunked": chunked,
    "length": content_length,
    "close": close_delimited,
    "gzip-chunked": _gzipped(chunked),
    "gzip-close": _gzipped(close_delimited),
}
"""Every way in which a body can travel; each gets the body's lines, with their ends."""


def http_response(
    status: int = 200,
    headers: Mapping[str, str] | None = None,
    body: Body | Pieces = b"",
) -> list[bytes]:
    r"""Build a whole reply: first its head, then each piece of its body.

    Args:
        status: the status, as a number.
        headers: other headers than those that announce the body.
        body: already framed, or else framed by its length.

    Returns:
        A script for a ``RawServer``.

    >>> http_response(204)[0]
    b'HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n'
    """
    framed = body if isinstance(body, Body) else content_length(body)
    phrase = HTTPStatus(status).phrase if status in HTTPStatus._value2member_map_ else "Unknown"
    lines = [f"HTTP/1.1 {status} {phrase}"]
    lines += [f"{name}: {value}" for name, value in ((headers or {}).items())]
    lines += [f"{name}: {value}" for name, value in framed.headers]
    head = "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n"
    return [head, *framed.pieces]
