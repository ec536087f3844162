"""Every fault of a connection or a reply, for every provider, ends in the documented error."""

from __future__ import annotations

import gc
import itertools
import ssl
import threading
import tracemalloc
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import requests
import trustme

from llmproviders import ChatGLM, ConnectionFailed, FlowGpt, LLMError, OpenAICompatible
from llmproviders.errors import EmptyReplyError, ProtocolError
from llmproviders.provider import Provider
from llmproviders.providers import REGISTRY
from llmproviders.results import FinishReason
from tests.conftest import RawServerFactory
from tests.reliability.faults import GOOD, KIB, LARGE, Asked, Fault
from tests.reliability.matrix import MODES, ROWS, Cell, cells, run, run_row
from tests.reliability.services import JSON, SERVICES, SSE, TEXT, Service, dumps, event, spoiled
from tests.reliability.stub import StubReply, StubSender, stubbed
from tests.support.http_bytes import chunked, http_response
from tests.support.rawserver import Connection, keep_alive

MIB = 1 << 20


# An alarm inside Python's own SocketIO.__init__ leaves an object that cannot be closed.
@pytest.mark.filterwarnings(
    "ignore:Exception ignored in. <socket.SocketIO:pytest.PytestUnraisableExceptionWarning"
)
@pytest.mark.parametrize("fault", ROWS, ids=[fault.name for fault in ROWS])
def test_a_fault_ends_in_its_documented_class_in_time(fault: Fault) -> None:
    """Each provider, streamed or whole, before the chat or in it, says what the table says."""
    wrong = [result.wrong for _, result in run_row(fault) if result.wrong]
    assert wrong == []


def _with_a_session(origin: str, **options: Any) -> Provider:
    session = requests.Session()
    return OpenAICompatible(
        base_url=f"{origin}/v1", api_key="sk-of-session", session=session, **options
    )


# Of a session's sockets no deadline is known, and requests takes any 1xx but 100 for the reply.
UNDATED = [
    f for f in ROWS if (f.deadline_s is None or f.alarm) and f.name[:3] not in ("102", "103")
]


@pytest.mark.parametrize("fault", UNDATED, ids=[fault.name for fault in UNDATED])
def test_with_a_session_of_the_callers_a_fault_ends_in_the_same_class(fault: Fault) -> None:
    """What requests makes of a reply on its own way through a session changes nothing."""
    service = replace(SERVICES[4], make=_with_a_session)
    for mode, scheme in itertools.product(("stream", "whole"), ("http", "https")):
        if scheme == "http" or fault.tls:
            asked = Asked(service, mode == "stream", before=False, scheme=scheme)
            assert run(Cell(fault, asked, mode)).wrong == ""


@pytest.mark.parametrize("name", REGISTRY)
def test_the_matrix_has_every_service(name: str) -> None:
    """The matrix walks over every provider whose protocol is described, once."""
    found = [service.name for service in SERVICES].count(REGISTRY[name].__name__)
    if not found:
        pytest.skip("a protocol of its own, which tests/reliability/services.py does not describe")
    assert found == 1


of_each_service = pytest.mark.parametrize("service", SERVICES, ids=[s.name for s in SERVICES])


@pytest.mark.parametrize("mode", MODES)
@of_each_service
def test_a_field_of_another_type_is_an_error_of_ours(service: Service, mode: str) -> None:
    """Whatever stands where a field is due, the stream keeps its promise or raises our error."""
    count = 0
    for content_type, objects in service.examples:
        for index, value in enumerate(objects):
            for bad in spoiled(value):
                _expect_promise_kept(service, content_type, [*objects[:index], bad], mode)
                count += 1
    assert count > 50


def _expect_promise_kept(
    service: Service, content_type: str, objects: list[Any], mode: str
) -> None:
    try:
        blocks = [_written(content_type, value) for value in objects]
    except UnicodeEncodeError:
        return
    if content_type == SSE and service.name != "ChatGLM":
        blocks.append(b"data: [DONE]\n\n")
    _ask(_answering(service, *(StubReply(blocks, content_type) for _ in range(3))), mode)


def _ask(provider: Provider, mode: str) -> None:
    try:
        if mode == "complete":
            reply = provider.complete("Why?")
            last, pieces = reply.finish_reason, [reply.text] if reply.text else []
        else:
            *pieces, last = provider.create_generator(None, "Why?", stream=mode == "stream")
    except LLMError:
        return
    assert isinstance(last, FinishReason)
    assert all(type(piece) is str and piece for piece in pieces)


def _written(content_type: str, value: Any) -> bytes:
    return event(value) if content_type == SSE else dumps(value) + b"\n"


def _answering(service: Service, *replies: StubReply) -> Provider:
    before = []
    if service.before is not None:
        before = [StubReply([service.before[1]], service.before[0])]
    return stubbed(service.make("http://127.0.0.1:9"), StubSender(*before, *replies))


@pytest.mark.parametrize(
    "answer",
    [
        {"access_token": "t0ken-of-service", "expires_at": 4102444800000},
        {"tok": "t0ken-of-service", "exp": 4102444800},
    ],
)
def test_a_field_of_another_type_in_a_tokens_answer_is_an_error_of_ours(
    answer: dict[str, Any],
) -> None:
    """Whatever the token service gives for a token, the chat succeeds or our error is raised."""
    service = SERVICES[3]
    chat = StubReply(service.pieces)
    for bad in spoiled(answer):
        try:
            token = StubReply([dumps(bad)], JSON)
        except UnicodeEncodeError:
            continue
        _ask(stubbed(service.make("http://127.0.0.1:9"), StubSender(token, chat)), "stream")


_MODELS = {"object": "list", "data": [{"id": "m-1", "object": "model", "owned_by": "me"}]}
_BALANCE = {"balance": [{"usage": "GigaChat", "value": 5}]}
_COUNTS = [{"object": "tokens", "tokens": 1, "characters": 4}]
_USAGE = {"prompt_tokens": 1}
_EMBEDDING = {"object": "embedding", "embedding": [0.5], "index": 0, "usage": _USAGE}


@pytest.mark.parametrize(
    ("service", "call", "answer"),
    [
        (SERVICES[4], "list_models", _MODELS),
        (SERVICES[3], "list_models", _MODELS),
        (SERVICES[3], "balance", _BALANCE),
        (SERVICES[3], "count_tokens", _COUNTS),
        (SERVICES[3], "embed", {"object": "list", "data": [_EMBEDDING], "model": "Embeddings"}),
    ],
)
def test_a_field_of_another_type_in_another_answer_is_an_error_of_ours(
    service: Service, call: str, answer: Any
) -> None:
    """Whatever comes where models, a balance, counts or vectors are due, it is an error of ours."""
    arguments = () if call in ("list_models", "balance") else ("Why?",)
    outcomes = set()
    for bad in (answer, *spoiled(answer)):
        try:
            reply = StubReply([dumps(bad)], JSON)
        except UnicodeEncodeError:
            continue
        try:
            outcomes.add(type(getattr(_answering(service, reply), call)(*arguments)))
        except LLMError as error:
            outcomes.add(type(error))
    assert {list, ProtocolError} <= outcomes


@pytest.fixture
def traced() -> Iterator[None]:
    """Trace the memory that is allocated."""
    tracemalloc.start()
    yield
    tracemalloc.stop()


@pytest.mark.parametrize("fault", LARGE, ids=[fault.name for fault in LARGE])
def test_what_is_too_large_does_not_fill_the_memory(fault: Fault, traced: None) -> None:
    """Whoever sends it, whatever was asked for: it is given up, with no limit set by anybody."""
    for cell in cells(fault):
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        assert run(cell).wrong == ""
        assert tracemalloc.get_traced_memory()[1] - before < 40 * MIB, cell


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
@pytest.mark.parametrize("before", [False, True])
def test_a_redirect_to_another_place_takes_nothing_along(
    raw_server: RawServerFactory, status: int, host: str, before: bool
) -> None:
    """No request, and so no key and no prompt, goes to the place that a redirect names."""
    other = raw_server(http_response(200, {"Content-Type": JSON}, b"{}"))
    place = f"http://{host}:{other.port}/v1/chat/completions"
    moved = http_response(status, {"Location": place, "Connection": "close"})
    for service in SERVICES:
        if before and service.before is None:
            continue

        def serve(conn: Connection, service: Service = service) -> None:
            is_before = service.is_before(conn.read_request().target)
            conn.run(moved if is_before == before else service.before_reply())

        server = raw_server(serve)
        with (
            service.make(f"http://127.0.0.1:{server.port}") as provider,
            pytest.raises(ProtocolError, match="redirects"),
        ):
            provider.complete("Why?")
        assert len(server.requests) == (2 if service.before and not before else 1)
    assert other.connections == []


def test_a_redirect_on_the_same_host_is_followed_with_the_same_request(
    raw_server: RawServerFactory,
) -> None:
    """A 307 to another path of the same origin gets the same body and key."""
    chat = http_response(200, {"Content-Type": SSE}, chunked(SERVICES[-1].pieces))
    moved = http_response(307, {"Location": "/v2/chat/completions"})
    server = raw_server(keep_alive(moved, chat), keep_alive(chat))
    base_url = f"http://127.0.0.1:{server.port}/v1"
    assert OpenAICompatible(base_url=base_url, api_key="sk-follows").complete("Why?").text == TEXT
    first, second = server.requests
    assert (second.target, second.body) == ("/v2/chat/completions", first.body)
    assert second.header("Authorization") == "Bearer sk-follows"


def test_redirects_to_ever_new_paths_do_not_fill_the_memory(
    raw_server: RawServerFactory, traced: None
) -> None:
    """Of a place that a service redirects to nothing is kept once the call is over."""
    chat = http_response(200, {"Content-Type": SSE}, chunked(SERVICES[-1].pieces))

    def serve(conn: Connection) -> None:
        while not conn.closed:
            for number in range(1000):
                if "moved" not in conn.read_request().target:
                    path = f"/moved/{number}/{'x' * 8 * KIB}"
                    conn.run(http_response(307, {"Location": path}))
                else:
                    conn.run(chat)

    server = raw_server(serve)
    with OpenAICompatible(base_url=f"http://127.0.0.1:{server.port}/v1") as provider:

        def held_after(calls: int) -> int:
            for _ in range(calls):
                assert provider.complete("Why?").text == TEXT
                server.requests.clear()
            gc.collect()
            return tracemalloc.get_traced_memory()[0]

        # Python and requests remember some hundred addresses.
        before = held_after(150)
        assert held_after(20) - before < 40 * KIB


@of_each_service
def test_a_redirect_from_https_to_http_is_refused(
    service: Service,
    raw_server: RawServerFactory,
    ca: trustme.CA,
    ca_file: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What was encrypted does not go on in clear, neither the chat nor what comes before it."""
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(ca_file))
    plain = raw_server(http_response(200, {"Content-Type": JSON}, b"{}"))
    for status, target in itertools.product((302, 307), ("/chat", "")):
        place = f"http://127.0.0.1:{plain.port}{target}"
        server = raw_server(http_response(status, {"Location": place}), tls=ca)
        provider = service.make(f"https://127.0.0.1:{server.port}")
        with provider, pytest.raises(ProtocolError, match="redirects to http"):
            provider.complete("Why?")
        assert len(server.requests) == 1
    assert plain.connections == []


@pytest.mark.parametrize(
    "first",
    [b"HTTP/1.1 101 Switching Protocols\r\n\r\n", b"HTTP/1.1 204 No Content\r\n\r\n"],
)
def test_a_late_reply_is_not_taken_for_the_next_ones(
    raw_server: RawServerFactory, first: bytes
) -> None:
    """What follows a reply that has no body is never read as the answer to the next request."""
    sent = threading.Event()
    stale = http_response(200, {"Content-Type": SSE}, _said("an old answer"))
    fresh = http_response(200, {"Content-Type": SSE}, _said("its own answer"))

    def serve_late(conn: Connection) -> None:
        conn.read_request()
        conn.send(first)
        conn.wait(sent)
        conn.run([b"".join(stale)])

    server = raw_server(serve_late, keep_alive(fresh))
    with ChatGLM(base_url=f"http://127.0.0.1:{server.port}") as provider:
        with pytest.raises((ProtocolError, EmptyReplyError)):
            provider.complete("first")
        with closing(provider.stream("second")) as stream:
            sent.set()
            assert next(stream) == "its own answer"


def _said(text: str) -> bytes:
    part = {"logic_id": "1", "content": [{"type": "text", "text": text}]}
    return event({"status": "finish", "parts": [part]})


def test_what_the_caller_was_handling_does_not_colour_an_error(refused_port: int) -> None:
    """A call made while another error is handled is judged by its own cause alone."""
    provider = ChatGLM(base_url=f"http://127.0.0.1:{refused_port}")
    try:
        raise ssl.SSLCertVerificationError("certificate verify failed")
    except ssl.SSLCertVerificationError:
        with pytest.raises(ConnectionFailed) as caught:
            provider.complete("Why?")
    assert caught.value.retryable
    assert "refused" in str(caught.value).lower()


def test_an_error_quotes_no_control_characters(raw_server: RawServerFactory) -> None:
    """What a server sends instead of HTTP cannot steer the terminal that shows the error."""
    server = raw_server([b"\x1b[2J\x07gone\r\n"])
    with pytest.raises(ProtocolError, match="not HTTP") as caught:
        FlowGpt(base_url=f"http://127.0.0.1:{server.port}").complete("Why?")
    assert str(caught.value).isprintable()


def test_good_replies_are_good() -> None:
    """The replies that the faults spoil are whole ones to begin with."""
    assert [r.wrong for _, r in run_row(Fault("none", GOOD, lambda a: a.reply()))] == [""] * 28
