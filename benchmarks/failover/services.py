"""Services on loopback that speak OpenAI's and GigaChat's protocol, and fail on request."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tests.support.http_bytes import chunked, content_length, http_response
from tests.support.rawserver import Connection, RawServer, Request, black_hole, refused_port

PIECES = 8
PIECE_S = 0.003
SSE = {"Content-Type": "text/event-stream"}
JSON = {"Content-Type": "application/json"}
_PAGE = b"<!DOCTYPE html><html><head><title>Just a moment...</title></head><body></body></html>"
_OVERLOADED = {"error": {"message": "overloaded", "type": "server_error", "code": 503}}


def text_of(name: str) -> str:
    """The whole reply of a service."""
    return "".join(_words(name))


def _words(name: str) -> list[str]:
    return [f"{name}-{number} " for number in range(PIECES)]


def event(delta: dict[str, Any], finish: str | None = None) -> bytes:
    """An event of a stream."""
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    value = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    return b"data: " + json.dumps({**value, "choices": [choice]}).encode() + b"\n\n"


def _events(words: Sequence[str]) -> list[bytes]:
    first = event({"role": "assistant", "content": ""})
    return [first, *(event({"content": word}) for word in words)]


_END = [event({}, "stop"), b"data: [DONE]\n\n"]


def whole(text: str | None, finish: str = "stop", **beside: Any) -> bytes:
    """A whole reply, with the fields of its message other than the text."""
    message = {"role": "assistant", "content": text, **beside}
    choice = {"index": 0, "message": message, "finish_reason": finish}
    usage = {"prompt_tokens": 1, "completion_tokens": 8, "total_tokens": 9}
    value = {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "usage": usage}
    return json.dumps({**value, "choices": [choice]}).encode()


Answer = Callable[[Connection, str, bool], None]
"""Answers one chat request; gets the connection, the service's name, and whether to stream."""


def _send(conn: Connection, pieces: Sequence[bytes], *, end: bool = True) -> None:
    """Send a stream as services do: piece by piece, not in one packet."""
    head, *frames = http_response(200, SSE, chunked(pieces, end=end))
    conn.send(head)
    for frame in frames:
        conn.send(frame)
        conn.pause(PIECE_S)


def good(conn: Connection, name: str, streams: bool) -> None:
    """The whole reply, which takes as long in one piece as in several."""
    events = [*_events(_words(name)), *_END]
    if streams:
        _send(conn, events)
    else:
        conn.pause(PIECE_S * len(events))
        conn.run(http_response(200, JSON, whole(text_of(name))))


def at_once(conn: Connection, name: str, _streams: bool) -> None:
    """The whole reply in one packet."""
    conn.run([b"".join(http_response(200, SSE, chunked([*_events(_words(name)), *_END])))])


def status(number: int, headers: dict[str, str] | None = None) -> Answer:
    """An error by its HTTP status."""

    def answer(conn: Connection, _name: str, _streams: bool) -> None:
        body = json.dumps({"error": {"message": "no", "type": "error"}}).encode()
        conn.run(http_response(number, {**JSON, **(headers or {})}, body))

    return answer


def cut(conn: Connection, name: str, streams: bool) -> None:
    """Three pieces, then the connection closes; half of the reply if it does not stream."""
    if streams:
        _send(conn, _events(_words(name)[:3]), end=False)
    else:
        body = whole(text_of(name))
        half = content_length(body[: len(body) // 2], announced=len(body))
        conn.run(http_response(200, JSON, half))
    conn.close()


def empty(conn: Connection, _name: str, streams: bool) -> None:
    """A well-formed reply without text."""
    if streams:
        _send(conn, [*_events([]), *_END])
    else:
        conn.run(http_response(200, JSON, whole("")))


def page(conn: Connection, _name: str, _streams: bool) -> None:
    """A challenge page with the status 200."""
    conn.run(http_response(200, {"Content-Type": "text/html"}, _PAGE))


def error_inside(conn: Connection, _name: str, streams: bool) -> None:
    """An error object with the status 200."""
    value = json.dumps(_OVERLOADED).encode()
    if streams:
        conn.run(http_response(200, SSE, chunked([b"data: " + value + b"\n\n"])))
    else:
        conn.run(http_response(200, JSON, value))


def drip(conn: Connection, name: str, streams: bool) -> None:
    """The whole reply, a byte a second."""
    data = b"".join([*_events(_words(name)), *_END]) if streams else whole(text_of(name))
    kind = SSE if streams else JSON
    conn.run(http_response(200, kind, chunked([data], end=False))[:1])
    for byte in data:
        conn.run(chunked([bytes([byte])], end=False).pieces)
        conn.pause(1.0)


def comments(conn: Connection, _name: str, streams: bool) -> None:
    """Comments that keep a connection alive, ten times a second, forever."""
    filler = b": still here\n\n" if streams else b" "
    conn.run(http_response(200, SSE if streams else JSON, chunked([filler], end=False)))
    while True:
        conn.run(chunked([filler], end=False).pieces)
        conn.pause(0.1)


class Service:
    """Answers chat requests with its faults in turn, and repeats the last one.

    Args:
        name: the source of its text.
        answers: its answers, one after another.
        tokens_last: chat requests for which an access token is valid; None: no limit.
    """

    def __init__(self, name: str, *answers: Answer, tokens_last: int | None = None) -> None:
        self.name = name
        self._answers = answers
        self._tokens_last = tokens_last
        self._lock = threading.Lock()
        self._asked = 0
        self._tokens: list[int] = []

    def handle(self, conn: Connection) -> None:
        """Serve one connection, request after request."""
        while not conn.closed:
            request = conn.read_request()
            if request.target.endswith("/oauth"):
                self._give_token(conn)
            elif request.target.endswith("/chat/completions"):
                self._chat(conn, request)
            else:
                models = {"object": "list", "data": [{"id": "m", "object": "model"}]}
                conn.run(http_response(200, JSON, json.dumps(models).encode()))

    def _give_token(self, conn: Connection) -> None:
        with self._lock:
            self._tokens.append(0)
            token = {"access_token": f"token-{len(self._tokens)}", "expires_at": 4102444800000}
        conn.run(http_response(200, JSON, json.dumps(token).encode()))

    def _chat(self, conn: Connection, request: Request) -> None:
        streams = bool(json.loads(request.body).get("stream"))
        with self._lock:
            answer = self._answers[min(self._asked, len(self._answers) - 1)]
            self._asked += 1
            if self._tokens_last is not None and not self._takes(request):
                answer = status(401)
        answer(conn, self.name, streams)

    def _takes(self, request: Request) -> bool:
        assert self._tokens_last is not None
        number = int((request.header("Authorization") or "0").rpartition("-")[2] or 0)
        if not 0 < number <= len(self._tokens):
            return False
        self._tokens[number - 1] += 1
        return self._tokens[number - 1] <= self._tokens_last


@dataclass(frozen=True)
class Scenario:
    """One kind of fault.

    Attributes:
        name: its name in the table.
        first: the first service; ``"black hole"`` and ``"refused"`` for addresses without one.
        calls: how many calls are made.
        needs_tokens: it only applies to clients that fetch access tokens.
    """

    name: str
    first: tuple[Answer, ...] | str
    calls: int = 1
    needs_tokens: bool = False


SCENARIOS = (
    Scenario("503 twice, then good", (status(503), status(503), good)),
    Scenario("429 with `Retry-After: 5`", (status(429, {"Retry-After": "5"}), good)),
    Scenario("cut after three pieces, once", (cut, good)),
    Scenario("cut after three pieces, always", (cut,)),
    Scenario("empty 200", (empty,)),
    Scenario("HTML with 200", (page,)),
    Scenario("error inside a 200", (error_inside,)),
    Scenario("black hole", "black hole"),
    Scenario("a byte a second", (drip,)),
    Scenario("comments for ever", (comments,)),
    Scenario("expired token", (good,), needs_tokens=True),
    Scenario("dead first service, 100 calls", "refused", calls=100),
)


@contextmanager
def serving(scenario: Scenario) -> Iterator[tuple[str, str]]:
    """Run the two services of a scenario; yield their addresses."""
    with RawServer(Service("second", good).handle) as second:
        if scenario.first == "black hole":
            with black_hole() as port:
                yield f"http://127.0.0.1:{port}", second.url
        elif scenario.first == "refused":
            with refused_port() as port:
                yield f"http://127.0.0.1:{port}", second.url
        else:
            assert not isinstance(scenario.first, str)
            tokens_last = 1 if scenario.needs_tokens else None
            first = Service("first", *scenario.first, tokens_last=tokens_last)
            with RawServer(first.handle) as server:
                yield server.url, second.url
