"""HTTP replies as the exact bytes that go over the wire, piece by piece."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from http import HTTPStatus

Pieces = bytes | Iterable[bytes]
"""A body: at once, or in the pieces in which it shall be framed and sent."""


@dataclass(frozen=True)
class Body:
    """A framed body: the headers that announce it, and its pieces as they are on the wire."""

    headers: tuple[tuple[str, str], ...]
    pieces: tuple[bytes, ...]

    def __bytes__(self) -> bytes:
        return b"".join(self.pieces)


def _as_pieces(body: Pieces) -> tuple[bytes, ...]:
    return (body,) if isinstance(body, bytes) else tuple(body)


def chunked(body: Pieces, *, end: bool = True) -> Body:
    """Frame each non-empty piece as one chunk; ``end=False`` leaves out the terminating chunk."""
    chunks = [b"%x\r\n%b\r\n" % (len(piece), piece) for piece in _as_pieces(body) if piece]
    if end:
        chunks.append(b"0\r\n\r\n")
    return Body((("Transfer-Encoding", "chunked"),), tuple(chunks))


def content_length(body: Pieces, *, announced: int | None = None) -> Body:
    """Frame by length; ``announced`` (bytes) makes the header say something else than is sent."""
    pieces = _as_pieces(body)
    length = sum(map(len, pieces)) if announced is None else announced
    return Body((("Content-Length", str(length)),), pieces)


def close_delimited(body: Pieces) -> Body:
    """Frame by nothing but the end of the connection."""
    return Body((("Connection", "close"),), _as_pieces(body))


def gzip_stream(pieces: Iterable[bytes]) -> list[bytes]:
    """Compress to one gzip stream, flushed after each piece so that each can be read at once.

    The list is one longer than the input: its last item is the end of the stream.
    """
    packer = zlib.compressobj(wbits=zlib.MAX_WBITS | 16)
    packed = [packer.compress(piece) + packer.flush(zlib.Z_SYNC_FLUSH) for piece in pieces]
    return [*packed, packer.flush(zlib.Z_FINISH)]


def http_response(
    status: int = 200,
    headers: Mapping[str, str] | None = None,
    body: Body | Pieces = b"",
) -> list[bytes]:
    """Build a whole reply: first its head, then each piece of its body.

    A body that is not framed yet is framed by its length.
    """
    framed = body if isinstance(body, Body) else content_length(body)
    phrase = HTTPStatus(status).phrase if status in HTTPStatus._value2member_map_ else "Unknown"
    lines = [f"HTTP/1.1 {status} {phrase}"]
    lines += [f"{name}: {value}" for name, value in ((headers or {}).items())]
    lines += [f"{name}: {value}" for name, value in framed.headers]
    head = "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n"
    return [head, *framed.pieces]
