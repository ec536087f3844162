"""The sandbox as a server: its memory of requests, its connections, its start and end."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import requests

from llmproviders import OpenAICompatible
from llmproviders.sandbox import Headers, RecordedRequest, Sandbox
from tests.sandbox.caller import (
    STREAMING,
    Caller,
    calling,
    text_of,
    user,
)

TEN_WORDS = "one two three four five six seven eight nine ten"


@pytest.fixture
def caller(sandbox: Sandbox) -> Iterator[Caller]:
    """Ask the sandbox of the test."""
    with contextlib.closing(Caller(sandbox)) as asking:
        yield asking


class TestRequests:
    def test_record(self, caller: Caller) -> None:
        """What was asked is recorded: service, kind, target, headers, body."""
        caller.post("/v1/chat/completions?a=b", json={"x": 1}, headers={"X-Mine": "Yes"})
        (record,) = caller.sandbox.requests
        assert isinstance(record, RecordedRequest)
        assert (record.service, record.kind, record.method) == ("openai", "chat", "POST")
        assert (record.path, record.query) == ("/v1/chat/completions", "a=b")
        assert record.headers["x-MINE"] == "Yes"
        assert record.json == {"x": 1}
        assert record.form == {}
        assert record.body == b'{"x": 1}'
        assert abs(time.monotonic() - record.at) < 60
        assert record.status == 401

    def test_form(self, caller: Caller) -> None:
        """A form is recorded parsed, and is no JSON."""
        caller.get_token(scope="a b")
        (record,) = caller.sandbox.requests
        assert record.form == {"scope": "a b"}
        assert record.json is None

    def test_secrets_stay_out_of_the_repr(self, caller: Caller) -> None:
        """The representation of a record shows neither headers' values nor the body."""
        caller.ask("openai", "private words")
        shown = repr(caller.sandbox.requests) + repr(caller.sandbox.requests[0].headers)
        assert caller.sandbox.environ()["OPENAI_API_KEY"] not in shown
        assert "private" not in shown

    def test_record_is_frozen(self, caller: Caller) -> None:
        """A record cannot be changed by who reads it."""
        caller.get("/")
        with pytest.raises(AttributeError):
            caller.sandbox.requests[0].path = "/other"  # type: ignore[misc]

    def test_counts(self, caller: Caller) -> None:
        """Requests are counted by provider and kind, exactly, whatever is remembered."""
        with calling(keep_requests=3) as caller:
            for _ in range(5):
                caller.ask("gigachat")
            caller.ask("chatgptt")
            sandbox = caller.sandbox
            assert sandbox.count("GigaChat", "chat") == 5
            assert sandbox.count("gigachat", "token") == 1
            assert sandbox.count("gigachat") == 6
            assert sandbox.count(kind="chat") == 6
            assert sandbox.count() == 8
            assert sandbox.count("openai-compatible") == 0
            assert len(sandbox.requests) == 3

    def test_unknown_path(self, caller: Caller) -> None:
        """A request that no service knows is recorded and gets 404."""
        assert caller.get("/favicon.ico").status_code == 404
        assert caller.get("/v1/nothing").status_code == 404
        found = [(record.service, record.kind) for record in caller.sandbox.requests]
        assert found == [("", "unknown"), ("openai", "unknown")]

    @pytest.mark.parametrize("provider", STREAMING)
    def test_aborted(self, provider: str) -> None:
        """A client that leaves a reply before its end is noticed; one that reads it all is not."""
        with calling(reply=TEN_WORDS, piece_delay_s=0.001) as caller:
            sandbox = caller.sandbox
            assert caller.ask(provider).content
            assert sandbox.wait_for(lambda s: s.requests[-1].ended)
            assert not sandbox.requests[-1].aborted
            sandbox.fail(provider, stall=True, cut_after=2)
            caller.ask(provider).close()
            assert sandbox.wait_for(lambda s: s.requests[-1].aborted)

    def test_aborted_while_a_whole_reply_is_made(self) -> None:
        """A client that gives up waiting for a whole reply is noticed."""
        with calling(reply="word " * 10_000, piece_delay_s=1.0) as caller:
            with pytest.raises(requests.ReadTimeout):
                caller.http.post(
                    caller.sandbox.url + "/v1/chat/completions",
                    json={"model": "gpt-4o", "messages": [user("hi")]},
                    headers={
                        "Authorization": f"Bearer {caller.sandbox.environ()['OPENAI_API_KEY']}"
                    },
                    timeout=0.2,
                )
            assert caller.sandbox.wait_for(lambda s: s.requests[-1].aborted)

    def test_wait_for_gives_up(self, sandbox: Sandbox) -> None:
        """Waiting for what does not come ends with False."""
        assert not sandbox.wait_for(lambda s: s.requests, timeout_s=0.01)

    def test_headers_are_a_mapping(self) -> None:
        """Headers are found in any case, and iterate in lower case."""
        headers = Headers({"x-a": "1"})
        assert ("X-A" in headers, "y" in headers, 7 in headers) == (True, False, False)
        assert dict(headers) == {"x-a": "1"}
        assert len(headers) == 1


class TestConnections:
    def test_keep_alive(self, caller: Caller) -> None:
        """One connection serves request after request, streaming and not."""
        for number in range(6):
            assert caller.ask("openai", stream=number % 2 == 0).content
        assert {record.connection for record in caller.sandbox.requests} == {1}

    def test_connection_close(self, sandbox: Sandbox) -> None:
        """A client that wants the connection closed gets it closed."""
        with socket.create_connection(("127.0.0.1", sandbox.port)) as raw:
            raw.sendall(b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n")
            assert b"</html>" in b"".join(iter(lambda: raw.recv(4096), b""))

    def test_pipelined_requests(self, sandbox: Sandbox) -> None:
        """Requests that come at once are answered one after another, each at its pace."""
        with socket.create_connection(("127.0.0.1", sandbox.port)) as raw:
            raw.sendall(b"GET / HTTP/1.1\r\n\r\nGET /none HTTP/1.1\r\nConnection: close\r\n\r\n")
            reply = b"".join(iter(lambda: raw.recv(4096), b""))
        assert re.findall(rb"HTTP/1.1 (\d+)", reply) == [b"200", b"404"]

    def test_request_in_small_pieces(self, sandbox: Sandbox) -> None:
        """A request may come byte by byte."""
        with socket.create_connection(("127.0.0.1", sandbox.port)) as raw:
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for byte in b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n":
                raw.sendall(bytes([byte]))
            assert b"</html>" in b"".join(iter(lambda: raw.recv(4096), b""))

    def test_chunked_request(self, caller: Caller) -> None:
        """A request's body may come in chunks."""
        body = json.dumps({"model": "gpt-4o", "messages": [user("hi")]}).encode()
        key = caller.sandbox.environ()["OPENAI_API_KEY"]
        headers = {"Authorization": f"Bearer {key}"}
        parts = iter([body[:5], body[5:]])
        assert caller.post("/v1/chat/completions", data=parts, headers=headers).status_code == 200
        assert caller.sandbox.requests[0].body == body

    def test_expect_continue(self, sandbox: Sandbox) -> None:
        """A client that asks whether to go on is told so."""
        with socket.create_connection(("127.0.0.1", sandbox.port)) as raw:
            head = b"POST /x HTTP/1.1\r\nContent-Length: 2\r\nExpect: 100-continue\r\n"
            raw.sendall(head + b"Connection: close\r\n\r\n")
            assert raw.recv(4096).startswith(b"HTTP/1.1 100")
            raw.sendall(b"ab")
            assert raw.recv(4096).startswith(b"HTTP/1.1 404")
        assert sandbox.requests[0].body == b"ab"

    def test_head(self, sandbox: Sandbox) -> None:
        """A HEAD request gets no body."""
        connection = http.client.HTTPConnection("127.0.0.1", sandbox.port)
        with contextlib.closing(connection):
            for path in ("/", "/none"):
                connection.request("HEAD", path)
                assert connection.getresponse().read() == b""

    @pytest.mark.parametrize(
        ("raw_request", "status"),
        [
            (b"nonsense\r\n\r\n", 400),
            (b"GET / HTTP/1.1\r\nno colon\r\n\r\n", 400),
            (b"POST / HTTP/1.1\r\nContent-Length: x\r\n\r\n", 400),
            (b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400),
            (b"POST / HTTP/1.1\r\nContent-Length: 999999999999\r\n\r\n", 413),
            (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
            (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffff\r\n", 413),
            (b"GET / HTTP/1.1\r\nX: " + b"x" * 300_000, 431),
            (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n" + b"0" * 300_000, 400),
        ],
    )
    def test_bytes_that_are_no_request(
        self, sandbox: Sandbox, raw_request: bytes, status: int
    ) -> None:
        """Bytes that are no request get an error, and the connection is closed."""
        with socket.create_connection(("127.0.0.1", sandbox.port)) as raw:
            raw.sendall(raw_request)
            assert raw.recv(4096).startswith(b"HTTP/1.1 %d" % status)

    def test_client_that_leaves_in_mid_request(self, leak_guard: None) -> None:
        """A client that leaves in the middle of a request leaves nothing behind."""
        with Sandbox() as sandbox:
            for part in (b"GET", b"POST / HTTP/1.1\r\nContent-Length: 9\r\n\r\nx"):
                with socket.create_connection(("127.0.0.1", sandbox.port)) as raw:
                    raw.sendall(part)
            chunked = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n"
            with socket.create_connection(("127.0.0.1", sandbox.port)) as raw:
                raw.sendall(chunked)
            with socket.create_connection(("127.0.0.1", sandbox.port)) as raw:
                raw.sendall(chunked[:-1])
        assert sandbox.requests == []

    def test_many_clients_at_once(self) -> None:
        """Many clients at once each get the reply to their own question."""
        answers: dict[str, str] = {}
        with Sandbox() as sandbox:

            def ask(name: str) -> None:
                with contextlib.closing(Caller(sandbox)) as caller:
                    for provider in ("openai", "chatglm", "flowgpt", "chatgptt"):
                        text = text_of(provider, caller.ask(provider, name).content)
                        answers[f"{provider} {name}"] = text

            threads = [threading.Thread(target=ask, args=(f"q{n}",)) for n in range(20)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert sandbox.count(kind="chat") == 80
        assert all(f"You asked: {name.split()[1]}." in text for name, text in answers.items())
        assert len(answers) == 80


class TestLife:
    @pytest.mark.parametrize(
        "fault", [{"stall": True}, {"stall": True, "before_head": True}, {"drip_s": 60.0}]
    )
    def test_close_ends_everything(self, leak_guard: None, fault: dict[str, Any]) -> None:
        """Closing ends idle, stalled and dripping connections at once and leaves no thread."""
        with calling() as caller:
            caller.ask("openai")
            caller.sandbox.fail("openai", **fault)
            asked = threading.Thread(target=_ask_in_vain, args=(caller,))
            asked.start()
            assert caller.sandbox.wait_for(lambda s: s.count("openai") == 2)
            began = time.monotonic()
            caller.sandbox.close()
            asked.join()
        assert time.monotonic() - began < 10
        assert not caller.sandbox.requests[-1].aborted

    def test_close_while_a_client_does_not_read(self, leak_guard: None) -> None:
        """Closing ends a reply that nobody takes."""
        with Sandbox(reply="a_word_of_a_length " * 50_000) as sandbox:
            body = json.dumps({"model": "gpt-4o", "messages": [user("hi")], "stream": True})
            head = (
                "POST /v1/chat/completions HTTP/1.1\r\n"
                f"Authorization: Bearer {sandbox.environ()['OPENAI_API_KEY']}\r\n"
                f"Content-Length: {len(body)}\r\n\r\n"
            )
            with socket.create_connection(("127.0.0.1", sandbox.port)) as raw:
                raw.sendall((head + body).encode())
                assert sandbox.wait_for(lambda s: s.requests and s.requests[0].pieces > 10)
                sandbox.close()

    @pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
    def test_close_with_a_forked_process_around(self) -> None:
        """A process that was forked, and has copies of the sockets, keeps nothing open."""
        reading, writing = os.pipe()
        with calling() as caller:
            caller.ask("openai")
            if (pid := os.fork()) == 0:
                os.close(writing)
                os.read(reading, 1)
                os._exit(0)
            try:
                caller.sandbox.fail("openai", cut_after=0)
                _ask_in_vain(caller)
                caller.sandbox.close()
                with pytest.raises(requests.ConnectionError):
                    caller.get("/")
            finally:
                os.close(writing)
                os.waitpid(pid, 0)
                os.close(reading)

    def test_close_twice(self) -> None:
        """A sandbox may be closed twice, and before it starts."""
        sandbox = Sandbox()
        sandbox.close()
        sandbox.start()
        sandbox.close()
        sandbox.close()

    def test_close_from_a_reply(self, leak_guard: None) -> None:
        """A reply function may close the sandbox."""
        sandbox = Sandbox(reply=lambda messages: sandbox.close() or "bye")
        with sandbox, contextlib.closing(Caller(sandbox)) as caller:
            _ask_in_vain(caller)

    def test_refused_after_close_and_back_again(self, caller: Caller) -> None:
        """A closed sandbox refuses connections; started again, it serves on the same port."""
        assert caller.ask("openai").status_code == 200
        url = caller.sandbox.url
        caller.sandbox.close()
        with pytest.raises(requests.ConnectionError):
            caller.ask("openai")
        caller.sandbox.start()
        assert caller.sandbox.url == url
        assert caller.ask("openai").status_code == 200

    def test_port_given(self) -> None:
        """A port can be given; it must be free."""
        with Sandbox() as first, pytest.raises(OSError, match="in use"):
            Sandbox(port=first.port).start()
        with Sandbox(port=first.port) as second:
            assert second.url == f"http://127.0.0.1:{first.port}"

    def test_no_port_before_start(self) -> None:
        """The address is known once the sandbox has started."""
        with pytest.raises(RuntimeError, match="start"):
            Sandbox().url  # noqa: B018

    def test_start_twice(self, sandbox: Sandbox) -> None:
        """Starting again changes nothing."""
        port = sandbox.port
        assert sandbox.start().port == port

    def test_wait(self) -> None:
        """Waiting lasts until the sandbox is closed."""
        with Sandbox() as sandbox:
            waiting = threading.Thread(target=sandbox.wait)
            waiting.start()
            assert waiting.is_alive()
            sandbox.close()
            waiting.join(10)
        assert not waiting.is_alive()

    def test_loopback_only(self, sandbox: Sandbox) -> None:
        """The sandbox listens on the loopback address and no other."""
        with socket.socket() as other:
            other.bind(("127.0.0.2", sandbox.port))


def _ask_in_vain(caller: Caller) -> None:
    with contextlib.suppress(requests.RequestException):
        caller.ask("openai").content  # noqa: B018


class TestPointing:
    def test_environ(self, sandbox: Sandbox) -> None:
        """The environment points every provider at the sandbox, with keys of its own."""
        environ = sandbox.environ()
        assert environ["LLMPROVIDERS_CHATGLM_BASE_URL"] == sandbox.url
        assert environ["LLMPROVIDERS_CHATGPTT_BASE_URL"] == sandbox.url
        assert environ["LLMPROVIDERS_FLOWGPT_BASE_URL"] == sandbox.url
        assert environ["GIGACHAT_BASE_URL"] == sandbox.url + "/api/v1"
        assert environ["GIGACHAT_AUTH_URL"] == sandbox.url + "/api/v2/oauth"
        assert environ["OPENAI_BASE_URL"] == sandbox.url + "/v1"
        assert environ["GIGACHAT_CREDENTIALS"]
        assert environ["OPENAI_API_KEY"]

    @pytest.mark.parametrize("name", ["ChatGLM", "chat-gptt", "FLOWGPT"])
    def test_guest_arguments(self, sandbox: Sandbox, name: str) -> None:
        """The guest services need an address alone."""
        assert sandbox.provider_arguments(name) == {"base_url": sandbox.url}

    @pytest.mark.parametrize("name", ["gigachat", "openai"])
    def test_arguments_with_keys(self, sandbox: Sandbox, name: str) -> None:
        """The others get the keys of the sandbox, and the addresses of its environment."""
        arguments = sandbox.provider_arguments(name)
        assert set(arguments.values()) <= set(sandbox.environ().values())
        assert arguments["api_key"]

    def test_client_of_all(self, sandbox: Sandbox) -> None:
        """Without a choice a client has all five providers, GigaChat first."""
        with sandbox.client() as client:
            assert client.complete("Why?").provider == "GigaChat"

    def test_client_by_name(self, sandbox: Sandbox) -> None:
        """A client has the providers that are named, in that order."""
        sandbox.fail("flowgpt", status=503)
        with sandbox.client("FlowGpt", "openai-compatible", attempts=1) as client:
            reply = client.complete("Why?")
        assert [attempt.provider for attempt in reply.attempts] == ["FlowGpt", "OpenAICompatible"]
        assert "You asked: Why?" in reply.text

    def test_client_with_models_and_providers(self, sandbox: Sandbox) -> None:
        """A choice may be a pair with a model, or a provider of the caller's own."""
        own = OpenAICompatible(**sandbox.provider_arguments("openai"), name="mine")
        with sandbox.client(own, ("openai", "gpt-4o")) as client:
            assert client.complete("Why?").provider == "mine"
            sandbox.fail("openai", status=401)
            assert client.complete("Why?").model == "gpt-4o"

    def test_unknown_provider(self, sandbox: Sandbox) -> None:
        """An unknown provider is an error that names the nearest."""
        with pytest.raises(ValueError, match="did you mean 'flowgpt'"):
            sandbox.provider_arguments("flowgtp")
