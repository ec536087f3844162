"""Services on loopback that speak OpenAI's and GigaChat's protocol, and fail on request."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tests.support.http_bytes import chunked, content_length, http_response
from tests.support.rawserver import Connection, RawServer, Request, black_hole, refused_port

PIECES = 8
PIECE_S = 0.003
SSE = {"Content-Type": "text/event-stream"}
JSON = {"Content-Type": "application/json"}
THINKING_S, THOUGHT_S = 5.0, 0.25
SLOW_S = 0.5
ARGUMENTS = '{"word": "sky"}'
_PAGE = b"<!DOCTYPE html><html><head><title>Just a moment...</title></head><body></body></html>"
_OVERLOADED = {"error": {"message": "overloaded", "type": "server_error", "code": 503}}


def text_of(name: str) -> str:
    """The whole reply of a service."""
    return "".join(_words(name))


def _words(name: str) -> list[str]:
    return [f"{name}-{number} " for number in range(PIECES)]


def event(delta: Mapping[str, Any], finish: str | None = None) -> bytes:
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


def cut_with_blank_reasons(conn: Connection, name: str, _streams: bool) -> None:
    """Three pieces, each with a blank finish reason, and a well-formed end of the body."""
    _send(conn, [event({"content": word}, "") for word in _words(name)[:3]])


def cut_with_an_error_line(conn: Connection, name: str, _streams: bool) -> None:
    """Three pieces, a line that says what went wrong, and a well-formed end of the body."""
    _send(conn, [*_events(_words(name)[:3]), b'error: {"message": "overloaded"}\n\n'])


def spent(conn: Connection, _name: str, _streams: bool) -> None:
    """No tokens are left on the account, with the status of too many requests."""
    about = {"message": "You exceeded your current quota, please check your plan and billing."}
    value = {"error": {**about, "type": "insufficient_quota", "code": "insufficient_quota"}}
    conn.run(http_response(429, JSON, json.dumps(value).encode()))


def thinking(conn: Connection, name: str, streams: bool) -> None:
    """Thoughts for longer than anybody waits for a first text, then the whole reply."""
    if not streams:
        conn.pause(THINKING_S)
        conn.run(http_response(200, JSON, whole(text_of(name))))
        return
    conn.run(http_response(200, SSE, chunked([], end=False))[:1])
    for _ in range(int(THINKING_S / THOUGHT_S)):
        conn.run(chunked([event({"reasoning_content": "hm "})], end=False).pieces)
        conn.pause(THOUGHT_S)
    conn.run(chunked([*_events(_words(name)), *_END]).pieces)


def poisoned(conn: Connection, name: str, streams: bool) -> None:
    """The whole reply, and behind it in the same packet one that nobody has asked for."""
    replies = []
    for said in (name, "another"):
        kind, body = (SSE, chunked([*_events(_words(said)), *_END])) if streams else (JSON, None)
        replies += http_response(200, kind, body or whole(text_of(said)))
    conn.run([b"".join(replies)])


def silent(conn: Connection, _name: str, _streams: bool) -> None:
    """Nothing, with the connection open."""
    conn.pause(60)


def slow(conn: Connection, name: str, streams: bool) -> None:
    """The whole reply after half a second."""
    conn.pause(SLOW_S)
    good(conn, name, streams)


def without_tools(conn: Connection, _name: str, _streams: bool) -> None:
    """Tools are not supported."""
    about = {"message": "tools is not supported", "type": "invalid_request_error"}
    body = {"error": {**about, "param": "tools", "code": "unsupported_parameter"}}
    conn.run(http_response(400, JSON, json.dumps(body).encode()))


def calling(conn: Connection, _name: str, streams: bool) -> None:
    """A call of the tool, its arguments in two parts where it streams."""
    function = {"name": "look_up", "arguments": ARGUMENTS}
    if streams:
        _send(conn, [*_parts_of_a_call(ARGUMENTS), event({}, "tool_calls"), _END[1]])
        return
    call = {"id": "call_1", "type": "function", "function": function}
    conn.run(http_response(200, JSON, whole(None, "tool_calls", tool_calls=[call])))


def lost_in_a_call(conn: Connection, name: str, streams: bool) -> None:
    """Half of a call's arguments, then the connection closes; half of the body without a stream."""
    if streams:
        _send(conn, _parts_of_a_call(ARGUMENTS[:-6]), end=False)
        conn.close()
    else:
        cut(conn, name, streams)


def _parts_of_a_call(arguments: str) -> list[bytes]:
    first = {"name": "look_up", "arguments": ""}
    call = {"index": 0, "id": "call_1", "type": "function", "function": first}
    halves = (arguments[:5], arguments[5:])
    return [
        event({"role": "assistant", "tool_calls": [call]}),
        *(event({"tool_calls": [{"index": 0, "function": {"arguments": h}}]}) for h in halves),
    ]


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

    def handle(self, conn: Connection, told: list[str] | None = None) -> None:
        """Serve one connection, request after request; note in ``told`` what each one says."""
        while not conn.closed:
            request = conn.read_request()
            if told is not None:
                told += ["prompt"] if request.body else []
                told += ["key"] if request.header("Authorization") else []
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
        first: the first service; ``"black hole"`` and ``"refused"`` for addresses without one,
            ``"redirect"`` for one that redirects every request to another host.
        calls: how many calls are made.
        needs_tokens: it only applies to clients that fetch access tokens.
        mode: how they are made: ``"plain"``, one after another; ``"alarm"``, with a handler of
            ``SIGALRM`` that raises; ``"gevent"``, all at once, in green threads.
        hows: the ways to ask that the fault applies to.
        second: the second service's answer.
    """

    name: str
    first: tuple[Answer, ...] | str
    calls: int = 1
    needs_tokens: bool = False
    mode: str = "plain"
    hows: tuple[str, ...] = ("stream", "complete")
    second: Answer = good


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
    Scenario(
        'cut, each piece with `finish_reason: ""`', (cut_with_blank_reasons,), hows=("stream",)
    ),
    Scenario("cut, with an `error:` line", (cut_with_an_error_line,), hows=("stream",)),
    Scenario("spent quota, as a 429", (spent,)),
    Scenario("thoughts for 5 s, then good", (thinking,)),
    Scenario("redirect to another host", "redirect"),
    Scenario("a second reply behind the first, 10 calls", (poisoned,), calls=10),
    Scenario("silence, and an alarm after 1 s", (silent,), mode="alarm"),
    Scenario("half a second, 10 calls under gevent", (slow,), calls=10, mode="gevent"),
    Scenario("`tools` are refused", (without_tools,), hows=("tools",), second=calling),
    Scenario("the connection is cut in a call", (lost_in_a_call,), hows=("tools",), second=calling),
)


@contextmanager
def serving(scenario: Scenario) -> Iterator[tuple[str, str, list[str]]]:
    """Run the two services of a scenario; yield their addresses, and the requests of a third one.

    The third one is where the first one redirects to.
    """
    told: list[str] = []
    with RawServer(Service("second", scenario.second).handle) as second:
        if scenario.first == "black hole":
            with black_hole() as port:
                yield f"http://127.0.0.1:{port}", second.url, told
        elif scenario.first == "refused":
            with refused_port() as port:
                yield f"http://127.0.0.1:{port}", second.url, told
        elif scenario.first == "redirect":
            third = Service("first", good)
            with RawServer(lambda conn: third.handle(conn, told)) as elsewhere:
                place = elsewhere.url.replace("127.0.0.1", "localhost") + "/v1/chat/completions"
                first = Service("first", status(307, {"Location": place}))
                with RawServer(first.handle) as server:
                    yield server.url, second.url, told
        else:
            assert not isinstance(scenario.first, str)
            tokens_last = 1 if scenario.needs_tokens else None
            first = Service("first", *scenario.first, tokens_last=tokens_last)
            with RawServer(first.handle) as server:
                yield server.url, second.url, told
