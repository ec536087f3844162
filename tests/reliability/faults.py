"""Every way in which a reply can go wrong, as bytes on a socket, and what each must come out as."""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from itertools import chain, repeat

from llmproviders import errors
from llmproviders.provider import Limits
from tests.reliability.services import JSON, SSE, Service
from tests.support.http_bytes import (
    Body,
    chunked,
    close_delimited,
    content_length,
    gzip_stream,
    http_response,
)
from tests.support.rawserver import Connection, Read, Reset, Script, Stall

GOOD = "a whole reply"
Outcome = type[BaseException] | str
KIB = 1024
SMALL = Limits(line=64 * KIB, reply=256 * KIB, error_body=4 * KIB)


@dataclass(frozen=True)
class Asked:
    """What a fault answers: one service's chat request, or the request before it.

    ``scheme``, ``here`` and ``elsewhere`` are for redirects: how the request came, the port that it
    came to, and the port of another server.
    """

    service: Service
    stream: bool
    before: bool
    scheme: str = "http"
    here: str = ""
    elsewhere: str = ""

    @property
    def content_type(self) -> str:
        """That of a good reply."""
        if self.before and self.service.before:
            return self.service.before[0]
        return self.service.good(stream=self.stream)[0]

    @property
    def pieces(self) -> tuple[bytes, ...]:
        """Those of a good reply."""
        if self.before and self.service.before:
            return (self.service.before[1],)
        return self.service.good(stream=self.stream)[1]

    @property
    def is_events(self) -> bool:
        """Whether a good reply is a stream of events."""
        return self.content_type == SSE

    @property
    def is_page(self) -> bool:
        """Whether a web page is what is asked for."""
        return self.content_type == "text/html"

    def reply(
        self, body: Body | bytes | None = None, *, status: int = 200, **headers: str
    ) -> list[bytes]:
        """A reply of the right content type; with the good body unless another is given."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        if self.before:
            named["Connection"] = "close"
        return http_response(
            status,
            {"Content-Type": self.content_type, **named},
            chunked(self.pieces) if body is None else body,
        )


Serve = Callable[[Asked], Script | Callable[[Connection], None]]
Expect = Outcome | tuple[Outcome, ...] | Callable[[Asked], Outcome | tuple[Outcome, ...]]


@dataclass(frozen=True)
class Fault:
    """One way to go wrong.

    Attributes:
        name: what the table calls it.
        expect: the classes that a cell may end in, or ``GOOD``; by what was asked where it differs.
        serve: what the server does instead of a good reply; None: there is no server.
        port: ``"refused"`` or ``"black hole"`` where there is no server.
        unread: it strikes before the request is read.
        deadline_s: the call's deadline, for what only that ends.
        limits: how large a reply may be.
        strays: another server runs, to which nobody may connect.
        again: an innocent call of the same provider follows, which must get its own reply.
        alarm: what a handler of ``SIGALRM`` raises, in the main thread.
        tls: whether it is met over TLS as well.
    """

    name: str
    expect: Expect
    serve: Serve | None = None
    port: str | None = None
    unread: bool = False
    deadline_s: float | None = None
    limits: Limits | None = field(default=None)
    strays: bool = False
    again: bool = False
    alarm: type[BaseException] | None = None
    tls: bool = False

    @property
    def silent(self) -> bool:
        """Whether only a timeout ends it; elsewhere a slow machine must not."""
        return self.port == "black hole" or self.name.startswith("stall")

    def expected(self, asked: Asked) -> tuple[Outcome, ...]:
        """The outcomes that one cell may have."""
        found = self.expect
        if callable(found) and not isinstance(found, type):
            found = found(asked)
        return found if isinstance(found, tuple) else (found,)


def _half(asked: Asked) -> bytes:
    """The start of a good reply's first piece, cut in the middle of its line."""
    first = asked.pieces[0]
    return first[: len(first) // 2]


def _endless(head: list[bytes], block: bytes) -> Callable[[Connection], None]:
    def serve(conn: Connection) -> None:
        for part in head:
            conn.send(part)
        while not conn.closed:
            conn.send(block)

    return serve


def _drip(data: Iterator[bytes]) -> Callable[[Connection], None]:
    def serve(conn: Connection) -> None:
        for piece in data:
            conn.send(piece)
            conn.pause(0.05)

    return serve


def _bytes_of(data: bytes) -> Iterator[bytes]:
    return (data[i : i + 1] for i in range(len(data)))


def _head(asked: Asked, *more: str) -> bytes:
    lines = ["HTTP/1.1 200 OK", f"Content-Type: {asked.content_type}", *more]
    return "\r\n".join(lines).encode() + b"\r\n\r\n"


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def _gzip(data: bytes, rounds: int = 1) -> bytes:
    for _ in range(rounds):
        packer = zlib.compressobj(9, wbits=31)
        data = packer.compress(data) + packer.flush()
    return data


_NOISE = random.Random(20).randbytes(2 * KIB).replace(b"<", b".")
CHALLENGE = b"<html><head><title>Just a moment...</title></head><body>wait</body></html>"
BUSY = b"<html><title>Busy</title><body>come back</body></html>"


def bomb(mebibytes: int) -> bytes:
    """The start of a gzip stream, which becomes so many MiB of the letter ``a``."""
    packer = zlib.compressobj(9, wbits=31)
    block = b"a" * (1 << 20)
    # What comes after a full flush does not refer to what was before it.
    first, again = (packer.compress(block) + packer.flush(zlib.Z_FULL_FLUSH) for _ in range(2))
    return first + again * (mebibytes - 1)


_BOMB = bomb(8)
_COMMENTS = _gzip(b":\n" * 2_000_000)


def _coded(coding: str) -> Serve:
    return lambda asked: asked.reply(Content_Encoding=coding)


def _raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


def _cut(asked: Asked) -> Outcome | tuple[Outcome, ...]:
    return errors.StreamInterrupted


def _end_is_missing(asked: Asked) -> Outcome:
    """What becomes of a stream without its last event: after a finish reason it is whole."""
    finished = asked.is_events and asked.service.name != "ChatGLM" and not asked.before
    return GOOD if finished else errors.StreamInterrupted


def _garbage(asked: Asked) -> Outcome:
    return errors.StreamInterrupted if asked.is_events else errors.ProtocolError


def _no_body(asked: Asked) -> Outcome:
    if asked.service.name == "FlowGpt":
        return errors.EmptyReplyError
    return _garbage(asked)


def _cut_head(asked: Asked) -> Outcome:
    # A head that ends early is taken for a reply of no type and no text, which is none either.
    if asked.before:
        return errors.ProtocolError
    return errors.EmptyReplyError if asked.service.name == "FlowGpt" else errors.StreamInterrupted


def _page_aside(otherwise: Outcome, page: Outcome = errors.ProtocolError) -> Expect:
    return lambda asked: page if asked.is_page else otherwise


CONNECTING = (
    Fault("refused", errors.ConnectionFailed, port="refused"),
    Fault("black hole", errors.ProviderTimeout, port="black hole"),
    Fault("reset at connect", errors.ConnectionFailed, lambda a: [Reset()], unread=True),
    Fault("closed at connect", errors.ConnectionFailed, lambda a: [], unread=True),
    Fault("closed before the reply", errors.ConnectionFailed, lambda a: []),
    Fault("reset before the reply", errors.ConnectionFailed, lambda a: [Reset()]),
    Fault("stall before the reply", errors.ProviderTimeout, lambda a: [Stall()]),
    Fault("no HTTP", errors.ProtocolError, lambda a: [b"SSH-2.0-OpenSSH_9.2\r\n"]),
    Fault("noise", errors.ProtocolError, lambda a: [_NOISE]),
    Fault("status 42", errors.ProtocolError, lambda a: [b"HTTP/1.1 42 What\r\n\r\n"]),
)

HEADERS = (
    Fault("closed in the head", _cut_head, lambda a: [b"HTTP/1.1 200 O"]),
    Fault("stall in the head", errors.ProviderTimeout, lambda a: [_head(a)[:-6], Stall()]),
    Fault(
        "head drips",
        errors.DeadlineExceeded,
        lambda a: _drip(_bytes_of(_head(a, "X: " + "y" * 1000))),
        deadline_s=0.4,
    ),
    Fault(
        "endless headers",
        errors.ProtocolError,
        lambda a: _endless([_head(a)[:-2]], b"X-More: and more\r\n"),
    ),
    Fault(
        "endless header",
        errors.ProtocolError,
        lambda a: _endless([_head(a)[:-2], b"X-Long: "], b"y" * KIB),
    ),
    Fault("endless status line", errors.ProtocolError, lambda a: _endless([b"HTTP/1.1 200 "], _A)),
    Fault(
        "endless 100 Continue",
        errors.DeadlineExceeded,
        lambda a: _endless([], b"HTTP/1.1 100 Continue\r\n\r\n"),
        deadline_s=0.4,
    ),
    Fault("100, then the reply", GOOD, lambda a: [b"HTTP/1.1 100 Continue\r\n\r\n", *a.reply()]),
    Fault(
        "103, then the reply",
        GOOD,
        lambda a: [b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n", *a.reply()],
    ),
    Fault(
        "102, then the reply",
        GOOD,
        lambda a: [b"HTTP/1.1 102 Processing\r\n\r\n", *a.reply()],
    ),
    Fault(
        "101 Switching Protocols",
        errors.ProtocolError,
        lambda a: [b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n"],
    ),
    Fault(
        "no headers at all",
        GOOD,
        lambda a: [b"HTTP/1.1 200 OK\r\n\r\n", b"".join(a.pieces)],
    ),
    Fault(
        "negative length",
        GOOD,
        lambda a: [_head(a, "Content-Length: -5"), b"".join(a.pieces)],
    ),
    Fault(
        "two lengths",
        errors.ProtocolError,
        lambda a: [_head(a, "Content-Length: 5", "Content-Length: 6"), b"".join(a.pieces)],
    ),
)
_A = b"a" * KIB

BODY = (
    Fault("reset after the head", errors.StreamInterrupted, lambda a: [_head(a), Reset()]),
    Fault(
        "reset in mid-line",
        errors.StreamInterrupted,
        lambda a: [_head(a, "Transfer-Encoding: chunked"), _chunk(_half(a)), Reset()],
    ),
    Fault(
        "stall after the head",
        errors.ProviderTimeout,
        lambda a: [_head(a, "Transfer-Encoding: chunked"), Stall()],
    ),
    Fault(
        "stall in mid-line",
        errors.ProviderTimeout,
        lambda a: [_head(a, "Transfer-Encoding: chunked"), _chunk(_half(a)), Stall()],
    ),
    Fault(
        "stall before the end",
        lambda a: (
            _end_is_missing(a) if not a.before and len(a.pieces) > 1 else errors.ProviderTimeout
        ),
        lambda a: [
            _head(a, "Transfer-Encoding: chunked"),
            *map(_chunk, a.pieces[:-1] or (_half(a),)),
            Stall(),
        ],
    ),
    Fault(
        "body drips",
        errors.DeadlineExceeded,
        lambda a: _drip(
            iter([_head(a, "Content-Length: 99999"), *_bytes_of(b"".join(a.pieces) + b" " * 999)])
        ),
        deadline_s=0.4,
    ),
    Fault(
        "comments for ever",
        errors.DeadlineExceeded,
        lambda a: _drip(chain([_head(a)], repeat(b": hi\n\n" if a.is_events else b"\n"))),
        deadline_s=0.4,
    ),
    Fault("cut by length", _cut, lambda a: a.reply(content_length(_half(a), announced=9999))),
    Fault("cut in a chunk", _cut, lambda a: [_head(a, "Transfer-Encoding: chunked"), b"ff\r\n{"]),
    Fault("cut in a chunk's size", _cut, lambda a: [_head(a, "Transfer-Encoding: chunked"), b"ff"]),
    Fault(
        "cut before the last chunk",
        _end_is_missing,
        lambda a: a.reply(chunked(a.pieces[:-1], end=False)),
    ),
    Fault(
        "cut where nothing frames it",
        lambda a: (
            errors.StreamInterrupted
            if a.is_events or a.service.name == "FlowGpt"
            else errors.ProtocolError
        ),
        lambda a: a.reply(close_delimited(_half(a))),
    ),
    Fault(
        "cut in gzip",
        errors.StreamInterrupted,
        lambda a: a.reply(close_delimited(gzip_stream(a.pieces)[0][:-8]), Content_Encoding="gzip"),
    ),
    Fault(
        "cut in gzip after a line",
        lambda a: GOOD if a.is_events else errors.StreamInterrupted,
        lambda a: a.reply(close_delimited(gzip_stream(a.pieces)[:-1]), Content_Encoding="gzip"),
    ),
    Fault(
        "cut in gzip with a length",
        errors.StreamInterrupted,
        lambda a: a.reply(
            content_length(gzip_stream(a.pieces)[0][:-8], announced=9999), Content_Encoding="gzip"
        ),
    ),
    Fault(
        "cut in gzip, its chunks whole",
        errors.StreamInterrupted,
        lambda a: a.reply(chunked(gzip_stream(a.pieces)[0][:-8]), Content_Encoding="gzip"),
    ),
    Fault(
        "cut in gzip after a line, its chunks whole",
        lambda a: GOOD if a.is_events else errors.StreamInterrupted,
        lambda a: a.reply(chunked(gzip_stream(a.pieces)[:-1]), Content_Encoding="gzip"),
    ),
    Fault(
        "broken chunk size",
        errors.StreamInterrupted,
        lambda a: [_head(a, "Transfer-Encoding: chunked"), b"zz\r\n", _NOISE],
    ),
    Fault(
        "negative chunk size",
        (errors.StreamInterrupted, errors.ProtocolError),
        lambda a: [_head(a, "Transfer-Encoding: chunked"), b"-5\r\n", _NOISE],
    ),
    Fault(
        "endless chunk size",
        errors.StreamInterrupted,
        lambda a: _endless([_head(a, "Transfer-Encoding: chunked")], b"0" * KIB),
    ),
    Fault("empty body", _no_body, lambda a: a.reply(b"")),
    Fault("garbage bytes", _garbage, lambda a: a.reply(_NOISE)),
    Fault(
        "garbage in an event",
        errors.ProtocolError,
        lambda a: a.reply(b"data: " + _NOISE.replace(b"\n", b".").replace(b"\r", b".") + b"\n\n"),
    ),
    Fault(
        "invalid UTF-8",
        _page_aside(errors.ProtocolError, GOOD),
        lambda a: a.reply(_spoil(b"".join(a.pieces))),
    ),
    Fault(
        "deep nesting",
        errors.ProtocolError,
        lambda a: a.reply((b"data: " if a.is_events else b"") + b"[" * 200_000 + b"\n\n"),
    ),
    Fault(
        "another content type",
        GOOD,
        lambda a: http_response(
            200, {"Content-Type": "image/png", "Connection": "close"}, b"".join(a.pieces)
        ),
    ),
    Fault(
        "a web page",
        errors.ProtocolError,
        lambda a: http_response(200, {"Content-Type": "text/html; charset=utf-8"}, BUSY),
    ),
    Fault(
        "a challenge",
        errors.BlockedError,
        lambda a: http_response(200, {"Content-Type": "text/html"}, CHALLENGE),
    ),
    Fault(
        "a challenge as 403",
        errors.BlockedError,
        lambda a: http_response(403, {"Content-Type": "text/html"}, CHALLENGE),
    ),
    Fault(
        "huge line",
        errors.ProtocolError,
        lambda a: a.reply(b"data: " + b"a" * (512 * KIB)),
        limits=SMALL,
    ),
    Fault("endless line", errors.ProtocolError, lambda a: _endless([_head(a)], _A), limits=SMALL),
    Fault(
        "endless lines",
        errors.ProtocolError,
        lambda a: _endless([_head(a)], b": comment\n\n" * 99 if a.is_events else b"\n" * KIB),
        limits=replace(SMALL, reply=16 * KIB),
    ),
    Fault(
        "endless error body",
        errors.ServerError,
        lambda a: _endless([b"HTTP/1.1 500 Oops\r\nContent-Type: text/plain\r\n\r\n"], _A),
        limits=SMALL,
    ),
    Fault(
        "gzip bomb",
        errors.ProtocolError,
        lambda a: a.reply(_BOMB, Content_Encoding="gzip"),
        limits=SMALL,
    ),
    Fault(
        "gzip bomb in gzip",
        errors.ProtocolError,
        lambda a: a.reply(_gzip(_BOMB), Content_Encoding="gzip, gzip"),
        limits=SMALL,
    ),
    Fault(
        "gzip bomb in an error",
        errors.ServerError,
        lambda a: a.reply(_BOMB, status=502, Content_Encoding="gzip"),
        limits=SMALL,
    ),
    Fault(
        "gzip a hundred times",
        errors.ProtocolError,
        lambda a: a.reply(_gzip(b"a", 100), Content_Encoding=", ".join(["gzip"] * 100)),
    ),
    Fault(
        "not gzip",
        errors.ProtocolError,
        lambda a: a.reply(b"".join(a.pieces), Content_Encoding="gzip"),
    ),
    Fault(
        "not deflate",
        errors.ProtocolError,
        lambda a: a.reply(b"\xff" + b"".join(a.pieces), Content_Encoding="deflate"),
    ),
    Fault("unknown coding", GOOD, lambda a: a.reply(Content_Encoding="x")),
    Fault("br that was not asked for", errors.ProtocolError, _coded("br")),
    Fault("zstd that was not asked for", errors.ProtocolError, _coded("gzip, zstd")),
    Fault(
        "deflate without its header",
        GOOD,
        lambda a: a.reply(_raw_deflate(b"".join(a.pieces)), Content_Encoding="deflate"),
    ),
    Fault(
        "bytes after the reply",
        GOOD,
        lambda a: [b"".join([*a.reply(), *http_response(200, {"Content-Type": JSON}, b"{}")])],
    ),
    Fault(
        "bytes after the length",
        GOOD,
        lambda a: [b"".join([*a.reply(b"".join(a.pieces)), b"x" * KIB])],
    ),
    Fault(
        "comments without end in gzip",
        lambda a: errors.ProtocolError,
        lambda a: a.reply(_COMMENTS, Content_Encoding="gzip"),
    ),
)


def _spoil(data: bytes) -> bytes:
    letters = "天".encode()
    return data.replace(letters, letters[:2]) if letters in data else data + b"\xff\xfe"


def _redirect(status: int, location: str) -> Serve:
    return lambda a: http_response(status, {"Location": location})


def _move(status: int) -> Serve:
    def serve(asked: Asked) -> Script:
        return [*http_response(status, {"Location": "/moved?to=here"}), Read(), *asked.reply()]

    return serve


def _wander(times: int) -> Script:
    moves = (http_response(307, {"Location": f"/moved/{number}"}) for number in range(times))
    return [part for move in moves for part in (*move, Read())]


REDIRECTS = (
    Fault("307 on the same host", GOOD, _move(307)),
    Fault("308 on the same host", GOOD, _move(308)),
    # What would go on as a GET is not the request that was made.
    Fault(
        "302 on the same host", lambda a: GOOD if a.is_page else errors.ProtocolError, _move(302)
    ),
    Fault(
        "303 on the same host", lambda a: GOOD if a.is_page else errors.ProtocolError, _move(303)
    ),
    Fault("307 to another host", errors.ProtocolError, _redirect(307, "http://127.0.0.2:9/v1")),
    Fault("302 to another host", errors.ProtocolError, _redirect(302, "//127.0.0.2:9/v1")),
    Fault("307 to another port", errors.ProtocolError, _redirect(307, "http://127.0.0.1:9/v1")),
    Fault("308 to itself for ever", errors.ProtocolError, _redirect(308, "")),
    Fault("307 to ever new paths", errors.ProtocolError, lambda a: _wander(20)),
    Fault("307 to user-info", errors.ProtocolError, _redirect(307, "http://a:b@127.0.0.2/")),
    Fault("307 to a file", errors.ProtocolError, _redirect(307, "file:///etc/passwd")),
    Fault("307 to a broken address", errors.ProtocolError, _redirect(307, "http://[half/")),
    Fault("307 to a broken port", errors.ProtocolError, _redirect(307, "http://127.0.0.1:99999/")),
    Fault("307 to a control character", errors.ProtocolError, _redirect(307, "http://\x01\x7f/")),
    Fault("304", errors.ProtocolError, lambda a: http_response(304)),
    Fault("300 without a place", errors.ProtocolError, lambda a: http_response(300)),
)


def _status(status: int, expect: Expect) -> Fault:
    return Fault(
        str(status),
        expect,
        lambda a: http_response(
            status, {"Content-Type": JSON, "Connection": "close"}, b'{"message": "m"}'
        ),
    )


_NAMED: dict[int, Outcome] = {
    400: errors.InvalidRequestError,
    401: errors.AuthenticationError,
    402: errors.QuotaExceededError,
    403: errors.AuthenticationError,
    407: errors.ConnectionFailed,
    408: errors.ProviderTimeout,
    409: errors.ServerError,
    424: errors.ServerError,
    498: errors.RateLimitError,
    425: errors.ServerError,
    429: errors.RateLimitError,
}
_UNREGISTERED = (419, 420, 430, 440, 444, 449, 450, 460, 463, *range(494, 500), 509)
_UNREGISTERED += (*range(520, 528), 529, 530, 540, 561, 598, 599)


def _class_of(status: int) -> Outcome:
    usual = errors.InvalidRequestError if status < 500 else errors.ServerError
    return _NAMED.get(status, usual)


STATUSES = (
    Fault("204", errors.EmptyReplyError, lambda a: [b"HTTP/1.1 204 No Content\r\n\r\n"]),
    Fault("205", errors.EmptyReplyError, lambda a: http_response(205)),
    Fault("202, with a reply", GOOD, lambda a: a.reply(status=202)),
    *(
        _status(status, _class_of(status))
        for status in sorted({*map(int, HTTPStatus), *_UNREGISTERED})
        if status >= 400
    ),
    *(_status(status, errors.ProtocolError) for status in (600, 999)),
)

FAULTS = (*CONNECTING, *HEADERS, *BODY, *REDIRECTS, *STATUSES)


def _line(mebibytes: int) -> Serve:
    def serve(asked: Asked) -> Script:
        beginning = b"data: " if asked.is_events else b""
        return [_head(asked), beginning, *[b"a" * (KIB * KIB)] * mebibytes]

    return serve


_LARGE_BOMB = bomb(1024)

#: What is large beyond the limits that are in force where a user sets none.
LARGE = (
    Fault("line of 64 MiB", errors.ProtocolError, _line(64)),
    Fault(
        "gzip bomb of 1 GiB",
        errors.ProtocolError,
        lambda a: a.reply(_LARGE_BOMB, Content_Encoding="gzip"),
    ),
    Fault(
        "gzip bomb of 1 GiB in an error",
        errors.ServerError,
        lambda a: a.reply(_LARGE_BOMB, status=500, Content_Encoding="gzip"),
    ),
)
__all__ = ["FAULTS", "GOOD", "LARGE", "Asked", "Fault"]
