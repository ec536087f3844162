"""Replies that would lead a request, the next call or an alarm astray, as rows of the matrix."""

from __future__ import annotations

import signal
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass

import requests
from urllib3.exceptions import ProtocolError as BrokenConnection

from llmproviders import errors
from tests.reliability.faults import GOOD, Asked, Expect, Fault, Serve
from tests.reliability.services import JSON
from tests.support.http_bytes import chunked, content_length, gzip_stream, http_response
from tests.support.rawserver import Connection, Script, Stall

_HERE, _EVIL = "127.0.0.1:{here}", "localhost:{elsewhere}"

#: What programs read in different ways, or read as another place.
_PLACES = {
    "another host": f"{{scheme}}://{_EVIL}/x",
    "no scheme": f"//{_EVIL}/x",
    "a backslash before @": f"{{scheme}}://{_EVIL}\\@{_HERE}/x",
    "a backslash behind the host": f"{{scheme}}://{_HERE}\\@{_EVIL}/x",
    "backslashes for slashes": f"\\\\{_EVIL}/x",
    "a slash and a backslash": f"/\\{_EVIL}/x",
    "a tab between slashes": f"/\t/{_EVIL}/x",
    "a tab in the scheme": f"ht\ttp://{_EVIL}/x",
    "user info": f"{{scheme}}://{_HERE}@{_EVIL}/x",
    "# before @": f"{{scheme}}://{_EVIL}#@{_HERE}/x",
    "? before @": f"{{scheme}}://{_EVIL}?@{_HERE}/x",
    "no slashes": f"{{scheme}}:{_EVIL}/x",
    "one slash": f"{{scheme}}:/{_EVIL}/x",
    "full stops of Chinese": "{scheme}://127。0。0。1:{elsewhere}/x",
    "a quoted host": "{scheme}://%31%32%37.0.0.1:{elsewhere}/x",
    "a short address": "{scheme}://127.1:{elsewhere}/x",
    "an IPv6 zone": "{scheme}://[::1%25lo]:{elsewhere}/x",
    "a port of both": "{scheme}://127.0.0.1:{here}:{elsewhere}/x",
}


def _lead(status: int, place: str) -> Serve:
    def serve(asked: Asked) -> list[bytes]:
        place_now = place.format(scheme=asked.scheme, here=asked.here, elsewhere=asked.elsewhere)
        head = f"HTTP/1.1 {status} Moved\r\nContent-Length: 0\r\nLocation: {place_now}\r\n\r\n"
        return [head.encode()]

    return serve


LED = tuple(
    Fault(
        f"{status} to {name}",
        errors.ProtocolError,
        _lead(status, place),
        strays=True,
        tls=status in (302, 307),
    )
    for name, place in _PLACES.items()
    for status in (301, 302, 303, 307, 308)
)


def _stale(asked: Asked) -> bytes:
    """A whole reply to a chat, which is nobody's; its text has as many bytes as the good one."""
    reply = asked.service.reply(stream=asked.stream, framing=content_length)
    return b"".join(reply).replace(b"scatters", b"leftover")


def _whole(asked: Asked, status: int = 200, **headers: str) -> list[bytes]:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return http_response(status, {"Content-Type": asked.content_type, **named}, asked.pieces)


def _behind(first: Callable[[Asked], list[bytes]], stale: Callable[[Asked], bytes]) -> Serve:
    """Send the stale bytes in the packet or TLS record of the reply's last piece."""

    def serve(asked: Asked) -> Script:
        *parts, last = first(asked)
        return [*parts, last + stale(asked)]

    return serve


def _at_once(first: Callable[[Asked], list[bytes]]) -> Callable[[Asked], list[bytes]]:
    return lambda asked: [b"".join(first(asked))]


def _in_chunks(asked: Asked) -> list[bytes]:
    return http_response(200, {"Content-Type": asked.content_type}, chunked(asked.pieces))


def _in_gzip(asked: Asked) -> list[bytes]:
    head = {"Content-Type": asked.content_type, "Content-Encoding": "gzip"}
    return http_response(200, head, chunked(gzip_stream(asked.pieces)))


def _refusal(asked: Asked) -> list[bytes]:
    return http_response(500, {"Content-Type": JSON}, b'{"message": "m"}')


def _move(asked: Asked) -> list[bytes]:
    return http_response(307, {"Location": "/moved?to=here"})


def _short(asked: Asked) -> list[bytes]:
    """A reply whose length counts characters instead of bytes."""
    body = b"".join(asked.pieces)
    framed = content_length(body, announced=len(body.decode()))
    return http_response(200, {"Content-Type": asked.content_type}, framed)


def _of_short(asked: Asked) -> tuple[type[BaseException] | str, ...]:
    return (GOOD, errors.StreamInterrupted, errors.ProtocolError)


_REPLIES: dict[str, tuple[Expect, Callable[[Asked], list[bytes]]]] = {
    "a reply with a length": (GOOD, _whole),
    "a reply in one packet": (GOOD, _at_once(_whole)),
    "a reply in chunks": (GOOD, _in_chunks),
    "a reply in chunks in one packet": (GOOD, _at_once(_in_chunks)),
    "a reply in gzip": (GOOD, _at_once(_in_gzip)),
    "an error": (errors.ServerError, _at_once(_refusal)),
    "a redirect": (GOOD, _at_once(_move)),
    "204": (errors.EmptyReplyError, lambda a: [b"HTTP/1.1 204 No Content\r\n\r\n"]),
    "a length in characters": (_of_short, _at_once(_short)),
}

_STALE: dict[str, Callable[[Asked], bytes]] = {
    "a reply to nobody": _stale,
    "the head of one": lambda a: _stale(a).partition(b"\r\n\r\n")[0],
    "a line end": lambda a: b"\r\n",
}

LEFT = (
    *(
        Fault(f"{stale} behind {name}", expect, _behind(first, _STALE[stale]), again=True, tls=True)
        for name, (expect, first) in _REPLIES.items()
        for stale in (_STALE if name == "a reply in one packet" else ("a reply to nobody",))
    ),
    Fault(
        "a reply to nobody in a packet of its own",
        GOOD,
        # Before a chat, which follows at once, it could arrive after that has been sent.
        lambda a: [b"".join([*_whole(a), _stale(a)])] if a.before else [*_whole(a), _stale(a)],
        again=True,
        tls=True,
    ),
)


@dataclass(frozen=True)
class _Ring:
    """Send the main thread, which makes the call, a SIGALRM."""

    def run(self, conn: Connection) -> None:
        """Send it."""
        main = threading.main_thread().ident
        assert main is not None
        signal.pthread_kill(main, signal.SIGALRM)


_RING: Script = (_Ring(), Stall())

_PHASES: dict[str, Callable[[Asked], Script]] = {
    "before the reply": lambda a: _RING,
    "in the head": lambda a: [b"HTTP/1.1 200 OK\r\nContent-", *_RING],
    "after the head": lambda a: [_whole(a)[0], *_RING],
    "in mid-line": lambda a: [_whole(a)[0], a.pieces[0][:9], *_RING],
    "before the last byte": lambda a: [*_whole(a)[:-1], _whole(a)[-1][:-1], *_RING],
    "in an error": lambda a: [*http_response(500, {}, content_length(b"m", announced=9)), *_RING],
    "behind a redirect": lambda a: [
        *http_response(307, {"Location": "/moved"}, content_length(b"m", announced=9)),
        *_RING,
    ],
}

_RUNG = (
    TimeoutError,
    ConnectionResetError,
    ssl.SSLWantReadError,
    requests.ReadTimeout,
    BrokenConnection,
    errors.ProviderTimeout,
)

RUNG = tuple(
    Fault(
        f"{error.__name__} of an alarm {phase}",
        error,
        serve,
        deadline_s=30.0,
        again=True,
        alarm=error,
        tls=error is TimeoutError,
    )
    for phase, serve in _PHASES.items()
    for error in _RUNG
)

TRAPS = (*LED, *LEFT, *RUNG)
