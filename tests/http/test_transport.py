"""The transport: what arrives is given at once, what fails is one of our errors, nothing leaks."""

from __future__ import annotations

import inspect
import json
import logging
import math
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import certifi
import pytest
import requests
import trustme
import urllib3
from requests.adapters import HTTPAdapter

from llmproviders import (
    ChatGptt,
    ConnectionFailed,
    DeadlineExceeded,
    FinishReason,
    FlowGpt,
    InvalidRequestError,
    LLMError,
    OpenAICompatible,
    ProtocolError,
    Provider,
    ProviderTimeout,
    ServerError,
    StreamInterrupted,
)
from llmproviders._http.failures import opening_error, reading_error
from llmproviders._http.sockets import resolve
from llmproviders._http.types import is_loopback
from llmproviders._runtime.scope import SYSTEM_CLOCK, CancelScope
from llmproviders.provider import Call, Fetch, Limits, Request
from tests.conftest import RawServerFactory
from tests.support.golden import FRAMINGS, goldens, on_the_wire, provider_at
from tests.support.http_bytes import chunked, close_delimited, http_response
from tests.support.leaks import no_leaks, open_sockets
from tests.support.processes import Child
from tests.support.promise import Reading, read
from tests.support.proxies import Proxy
from tests.support.rawserver import (
    Connection,
    Pause,
    RawServer,
    Stall,
    Wait,
    keep_alive,
    server_context,
)

KEY = "sk-test-0123456789abcdef"
JSON = {"Content-Type": "application/json"}
DEADLINE_S = 0.3
LATE_S = 8.0
"""A deadline is kept to within a quarter of a second, but a busy machine takes a while to run
anything at all; without it, the shortest of these waits is the ten seconds of a connection.
"""


def line(text: str) -> bytes:
    """A line of FlowGPT's with a piece of text."""
    return json.dumps({"event": "text", "data": text}).encode() + b"\n"


def reply(*texts: str) -> list[bytes]:
    """A whole reply of FlowGPT's."""
    return http_response(200, None, chunked([line(text) for text in texts]))


def begun(*texts: str) -> list[bytes]:
    """A reply of FlowGPT's that goes on."""
    return http_response(200, None, chunked([line(text) for text in texts], end=False))


def ask(server: RawServer | str, **arguments: Any) -> Reading:
    """Ask a FlowGPT at a server, once."""
    url = server if isinstance(server, str) else server.url
    with FlowGpt(base_url=url, **arguments) as provider:
        return read(provider.stream("Hi"))


def within(scope: CancelScope, provider: Provider) -> Reading:
    """Ask within a scope."""
    return read(provider.generate(Request.of("Hi", params={}), scope))


class TestArrival:
    @pytest.mark.parametrize("framing", FRAMINGS)
    @pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
    def test_each_line_comes_at_once(
        self,
        raw_server: RawServerFactory,
        trusted: trustme.CA,
        framing: str,
        tls: bool,
    ) -> None:
        """A piece of text is delivered before the server sends the next one, however it travels."""
        texts = ["a", "b", "c" * 600, "d"]
        received = [threading.Event() for _ in texts]
        head, *pieces = http_response(200, None, FRAMINGS[framing]([line(text) for text in texts]))
        script: list[Any] = [head]
        for number, piece in enumerate(pieces):
            script += [piece, Wait(received[number])] if number < len(texts) else [piece]
        server = raw_server(script, tls=trusted if tls else None)
        with FlowGpt(base_url=server.url) as provider:
            stream = provider.stream("Hi")
            for text, event in zip(texts, received, strict=True):
                assert next(stream) == text
                event.set()
            assert isinstance(next(stream), FinishReason)

    def test_a_line_in_pieces(self, raw_server: RawServerFactory) -> None:
        """A line that comes byte by byte is one piece of text, when it is whole."""
        server = raw_server(http_response(200, None, chunked(bytes([b]) for b in line("天空"))))
        assert ask(server).pieces == ("天空",)

    def test_many_lines_at_once(self, raw_server: RawServerFactory) -> None:
        """Lines that come in one packet are pieces of their own."""
        server = raw_server([b"".join(reply(*"abc"))])
        assert ask(server).pieces == ("a", "b", "c")

    def test_lines_end_where_lines_end(self, raw_server: RawServerFactory) -> None:
        """What other alphabets have inside their text is no line end, whatever the charset says."""
        text = "a\u0085b\u2028c\u2029d\x0b\x0c\x1c"
        raw = b'{"event": "text", "data": "%b"}\r\n' % text[:-3].encode()
        for kind in ("text/event-stream", "text/plain; charset=latin-1"):
            server = raw_server(http_response(200, {"Content-Type": kind}, close_delimited(raw)))
            assert ask(server).text == text[:-3]


def classes_of(module: Any, base: type[BaseException]) -> list[type[BaseException]]:
    """The exceptions of a module that are no warnings."""
    found = [cls for _, cls in inspect.getmembers(module, inspect.isclass)]
    return [c for c in found if issubclass(c, base) and not issubclass(c, Warning)]


REQUESTS = classes_of(requests.exceptions, requests.exceptions.RequestException)
URLLIB3 = classes_of(urllib3.exceptions, urllib3.exceptions.HTTPError)
OPENING: dict[str, tuple[type[LLMError], bool]] = {
    "RequestException": (ConnectionFailed, True),
    "ProxyError": (ConnectionFailed, True),
    "SSLError": (ConnectionFailed, True),
    "ConnectionError": (ConnectionFailed, True),
    "ConnectTimeout": (ProviderTimeout, True),
    "ReadTimeout": (ProviderTimeout, True),
    "Timeout": (ProviderTimeout, True),
    "ChunkedEncodingError": (StreamInterrupted, True),
    "StreamConsumedError": (StreamInterrupted, True),
    "ContentDecodingError": (ProtocolError, True),
    "TooManyRedirects": (ProtocolError, True),
    "JSONDecodeError": (ProtocolError, True),
    "InvalidJSONError": (InvalidRequestError, False),
    "HTTPError": (ServerError, True),
    "RetryError": (ServerError, True),
    "URLRequired": (InvalidRequestError, False),
    "MissingSchema": (InvalidRequestError, False),
    "InvalidSchema": (InvalidRequestError, False),
    "InvalidProxyURL": (InvalidRequestError, False),
    "InvalidURL": (InvalidRequestError, False),
    "InvalidHeader": (InvalidRequestError, False),
    "UnrewindableBodyError": (InvalidRequestError, False),
}
"""requests' exceptions before a reply: the class that each means, and whether to try again."""


def made(cls: type[BaseException]) -> BaseException:
    """One of a class, whatever its constructor wants."""
    if cls is urllib3.exceptions.IncompleteRead:
        return urllib3.exceptions.IncompleteRead(1, 2)
    if cls is urllib3.exceptions.InvalidChunkLength:
        return urllib3.exceptions.InvalidChunkLength(urllib3.HTTPResponse(), b"x")
    error = cls.__new__(cls)
    error.args = ("what",)
    return error


class TestTables:
    @pytest.mark.parametrize("cls", REQUESTS, ids=lambda cls: cls.__name__)
    def test_every_exception_of_requests_is_mapped(self, cls: type[BaseException]) -> None:
        """Each has a row here, and means that row's class; a new one fails until it has one."""
        error = opening_error(made(cls), CancelScope())
        assert (type(error), error.retryable) == OPENING[cls.__name__]
        assert "what" in str(error)

    def test_every_row_is_an_exception_of_requests(self) -> None:
        """No row is left over."""
        assert {cls.__name__ for cls in REQUESTS} == OPENING.keys()

    @pytest.mark.parametrize("cls", [*REQUESTS, *URLLIB3, OSError, ValueError, AttributeError])
    def test_whatever_breaks_a_body(self, cls: type[BaseException]) -> None:
        """While a body is read, each of them is an error of ours, urllib3's own too."""
        error = reading_error(made(cls), CancelScope())
        assert type(error) in (StreamInterrupted, ProviderTimeout, ProtocolError)
        assert error.retryable

    @pytest.mark.parametrize("framing", ["Content-Length: 90", "Transfer-Encoding: chunked"])
    def test_a_cut_in_words(self, raw_server: RawServerFactory, framing: str) -> None:
        """A reply that breaks off is told in words; the library's error stays its cause."""
        head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n{framing}\r\n\r\n"
        begun = b"30\r\n{" if "chunked" in framing else b"{"
        error = ask(raw_server([head.encode(), begun])).error
        assert type(error) is StreamInterrupted
        assert "IncompleteRead" not in str(error)
        assert "was cut short: the connection was closed before the end of the reply" in str(error)
        assert error.__cause__ is not None

    @pytest.mark.parametrize("cls", URLLIB3, ids=lambda cls: cls.__name__)
    def test_urllib3_below_requests(self, cls: type[BaseException]) -> None:
        """What requests lets through of urllib3's is an error of ours, too."""
        error = opening_error(made(cls), CancelScope())
        assert type(error) in (
            ConnectionFailed,
            ProviderTimeout,
            ProtocolError,
            InvalidRequestError,
        )

    @pytest.mark.parametrize("translate", [opening_error, reading_error])
    def test_the_end_of_the_scope_goes_before(
        self, translate: Callable[[BaseException, CancelScope], LLMError]
    ) -> None:
        """Whatever a socket said when its call was over, the call is what ended."""
        lost = requests.exceptions.ConnectionError("lost")
        assert type(translate(lost, CancelScope(0.0))) is DeadlineExceeded
        scope = CancelScope()
        scope.cancel("not needed any more")
        ended = translate(lost, scope)
        assert (type(ended), str(ended)) == (ProviderTimeout, "not needed any more")


class TestConnecting:
    def test_refused_is_no_timeout(self, refused_port: int) -> None:
        """A refused connection is ``ConnectionFailed``, which Python's own name catches."""
        error = ask(f"http://127.0.0.1:{refused_port}").error
        assert type(error) is ConnectionFailed
        assert f"(at 127.0.0.1:{refused_port}); nothing listens there" in str(error)
        assert isinstance(error, ConnectionError)
        assert not isinstance(error, TimeoutError)
        assert error.retryable

    def test_no_answer_to_a_connection(self, black_hole: int) -> None:
        """An address that does not answer is a timeout, of the connect timeout's length."""
        error = ask(f"http://127.0.0.1:{black_hole}", timeout=(0.2, 60)).error
        assert type(error) is ProviderTimeout
        assert isinstance(error, TimeoutError)

    @pytest.mark.parametrize("host", ["nowhere.invalid", "a" * 64 + ".com", "é" * 70])
    def test_no_such_host(self, host: str) -> None:
        """A name that nobody has is ``ConnectionFailed``, or no address at all."""
        error = ask(f"http://{host}:9").error
        assert type(error) in (ConnectionFailed, InvalidRequestError)

    def test_a_name_that_takes_for_ever(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A resolver that does not answer is left behind when time is up, or the call ends."""
        answer = threading.Event()
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_: answer.wait(30))
        with pytest.raises(TimeoutError):
            resolve("slow.invalid", 80, CancelScope.lasting(0.05, clock=SYSTEM_CLOCK))
        scope = CancelScope()
        threading.Timer(0.05, scope.cancel).start()
        with pytest.raises(TimeoutError):
            resolve("slow.invalid", 80, scope)
        answer.set()

    @pytest.mark.parametrize(
        "base_url",
        [
            "127.0.0.1:9",
            "ftp://127.0.0.1",
            "http://",
            "https:///v1",
            "http://[::1",
            "http://127.0.0.1:port",
            "http://127.0.0.1:99999",
            "http://a b",
            "http://a\tb",
            "http://a\\b",
            "http://no such host:9",
            "http://a%20b:80/v1",
            "//127.0.0.1",
            "file:///etc/passwd",
        ],
    )
    def test_no_address(self, base_url: str) -> None:
        """What is no address is the caller's mistake, found when the provider is made."""
        with pytest.raises(InvalidRequestError, match="base_url is not a URL: it") as caught:
            FlowGpt(base_url=base_url)
        assert caught.value.status_code is None

    def test_silence_before_the_reply(self, raw_server: RawServerFactory) -> None:
        """A server that says nothing is a timeout, of the read timeout's length."""
        error = ask(raw_server([Stall()]), timeout=(60, 0.2)).error
        assert type(error) is ProviderTimeout

    def test_silence_in_the_reply(self, raw_server: RawServerFactory) -> None:
        """A silence after text cuts the reply short; its cause is the timeout."""
        reading = ask(raw_server([*begun("a"), Stall()]), timeout=0.2)
        assert reading.text == "a"
        assert type(reading.error) is StreamInterrupted
        assert type(reading.error.__cause__) is ProviderTimeout

    def test_the_calls_timeout_wins(self, raw_server: RawServerFactory) -> None:
        """A timeout given to a call holds for it, not the provider's."""
        with FlowGpt(base_url=raw_server([Stall()]).url, timeout=60) as provider:
            error = read(provider.stream("Hi", timeout=0.1)).error
        assert type(error) is ProviderTimeout

    @pytest.mark.parametrize("timeout", [(None, None), math.inf, 1e12])
    def test_no_timeout(self, raw_server: RawServerFactory, timeout: Any) -> None:
        """None, and numbers beyond what a socket takes, are no limit."""
        assert ask(raw_server(reply("a")), timeout=timeout).text == "a"

    def test_a_lifted_limit(self, raw_server: RawServerFactory) -> None:
        """A limit on the first text does not bound the silences after it."""
        go = threading.Event()
        server = raw_server([*begun("a"), Wait(go), chunked([line("b")]).pieces[0], b"0\r\n\r\n"])
        scope = CancelScope()
        scope.limit = time.monotonic() + 1.0
        with FlowGpt(base_url=server.url) as provider:
            stream = provider.generate(Request.of("Hi", params={}), scope)
            assert next(stream) == "a"
            threading.Timer(scope.remaining() + 0.1, go.set).start()
            scope.limit = math.inf
            assert next(stream) == "b"


class TestBody:
    def test_what_cannot_be_written_as_json(self) -> None:
        """A parameter that JSON does not have is the caller's mistake, found before sending."""
        with OpenAICompatible(base_url="http://127.0.0.1:9/v1") as provider:
            circle: dict[str, Any] = {}
            circle["self"] = circle
            for value in ({1, 2}, object(), math.nan, math.inf, b"x", circle):
                error = read(provider.stream("Hi", extra_body={"x": value})).error
                assert type(error) is InvalidRequestError
                assert error.status_code is None
                assert "JSON" in str(error)

    def test_a_large_prompt(self, raw_server: RawServerFactory) -> None:
        """A prompt of megabytes arrives whole."""
        server = raw_server(reply("a"))
        text = "天空" * 500_000
        with FlowGpt(base_url=server.url) as provider:
            assert str(provider.complete(text)) == "a"
        assert json.loads(server.requests[0].body)["question"] == text

    def test_a_reply_has_a_limit(self, raw_server: RawServerFactory) -> None:
        """A reply larger than allowed is an error that says what to raise."""
        reading = ask(raw_server(reply(*["x" * 50] * 20)), limits=Limits(reply=300))
        assert isinstance(reading.error, ProtocolError)
        assert "Limits.reply" in str(reading.error)
        assert reading.text

    def test_an_errors_body_is_not_read_for_ever(self, raw_server: RawServerFactory) -> None:
        """Of an error's body the beginning is read, of however much there is."""

        def endless(conn: Connection) -> None:
            conn.read_request()
            conn.send(b"HTTP/1.1 503 No\r\nContent-Type: text/plain\r\n\r\n")
            while True:
                conn.send(b"x" * 65536)

        error = ask(raw_server(endless)).error
        assert type(error) is ServerError
        assert len(str(error)) < 1000


class Shouting(OpenAICompatible):
    """Names its headers in another case than this library does."""

    def prepare(self, request: Request, fetch: Fetch) -> Call:
        """The same call, with headers of its own."""
        own = {
            "USER-AGENT": "mine",
            "CONTENT-TYPE": "application/mine",
            "CONTENT-LENGTH": "1",
            "AUTHORIZATION": "mine",
        }
        return replace(super().prepare(request, fetch), headers=own)


class TestHeaders:
    @pytest.mark.parametrize("own_session", [False, True])
    def test_none_is_sent_twice(self, raw_server: RawServerFactory, own_session: bool) -> None:
        """Whatever the case, a provider's own kind and agent stand, its length and key do not."""
        server = raw_server(http_response(500))
        arguments: dict[str, Any] = {"session": requests.Session()} if own_session else {}
        with Shouting(base_url=server.url, api_key=KEY, **arguments) as provider:
            read(provider.stream("Hi"))
        (request,) = server.requests
        sent = {name.lower(): value for name, value in request.headers}
        assert len(sent) == len(request.headers)
        assert (sent["user-agent"], sent["content-type"]) == ("mine", "application/mine")
        assert sent["content-length"] == str(len(request.body))
        assert sent["authorization"] == f"Bearer {KEY}"


class TestAuthorization:
    @pytest.fixture(autouse=True)
    def netrc(self, home: Path) -> None:
        """A ``~/.netrc`` with a login for the server."""
        file = home / ".netrc"
        file.write_text("machine 127.0.0.1 login netrc-user password netrc-password\n")
        file.chmod(0o600)

    @pytest.mark.parametrize("own_session", [False, True])
    @pytest.mark.parametrize(("key", "header"), [(KEY, f"Bearer {KEY}"), (None, None)])
    def test_netrc_is_left_alone(
        self, raw_server: RawServerFactory, key: str | None, header: str | None, own_session: bool
    ) -> None:
        """Neither does it replace a key, nor is it sent where there is none."""
        server = raw_server(http_response(500))
        arguments: dict[str, Any] = {"session": requests.Session()} if own_session else {}
        with OpenAICompatible(base_url=server.url, api_key=key, **arguments) as provider:
            read(provider.stream("Hi"))
        assert server.requests[0].header("authorization") == header

    def test_log_lines_name_no_secret(
        self, raw_server: RawServerFactory, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A request is a line at DEBUG: method, address and status, and no key or prompt."""
        server = raw_server(http_response(500))
        with caplog.at_level(logging.DEBUG, "llmproviders"):
            address = server.url.replace("//", "//me:hunter22@")
            with OpenAICompatible(base_url=address, api_key=KEY) as provider:
                read(provider.stream("my prompt"))
        assert f"POST http://***@127.0.0.1:{server.port}/chat/completions: 500" in caplog.messages
        for secret in (KEY, "hunter22", "my prompt"):
            assert secret not in caplog.text


@pytest.fixture
def trusted(ca: trustme.CA, ca_file: Path, monkeypatch: pytest.MonkeyPatch) -> trustme.CA:
    """A certificate authority that the environment says to trust."""
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(ca_file))
    return ca


class TestTrust:
    def test_an_unknown_authority(self, raw_server: RawServerFactory, ca: trustme.CA) -> None:
        """A certificate that nobody vouches for is an error that is not worth a second try."""
        error = ask(raw_server(reply("a"), tls=ca)).error
        assert type(error) is ConnectionFailed
        assert (error.retryable, error.detail) == (False, "certificate")
        assert "not trusted" in str(error)
        assert str(error).endswith("; pass the file of its authority with ca_bundle=")
        assert "GIGACHAT" not in str(error)

    def test_an_unusable_bundle(self, raw_server: RawServerFactory, tmp_path: Path) -> None:
        """An unusable bundle names the setting that it came from, and no other provider's."""
        path = tmp_path / "ca.pem"
        path.write_text("no certificate")
        with OpenAICompatible(base_url="https://127.0.0.1:9/v1", ca_bundle=path) as provider:
            error = read(provider.stream("Hi")).error
        assert str(error).endswith("check ca_bundle")

    @pytest.mark.parametrize("with_session", [False, True])
    def test_no_tls_there(self, raw_server: RawServerFactory, with_session: bool) -> None:
        """https: to a port that speaks plain HTTP: the message says to try http://."""
        server = raw_server(lambda conn: conn.send(b"HTTP/1.1 400 Bad Request\r\n\r\n"))
        session = requests.Session() if with_session else None
        with OpenAICompatible(base_url=f"https://127.0.0.1:{server.port}/v1", session=session) as p:
            error = read(p.stream("Hi")).error
        assert type(error) is ConnectionFailed
        assert "the server does not speak TLS there; try http://" in str(error)
        assert error.__cause__ is not None

    @pytest.mark.parametrize("name", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
    def test_the_environments_bundle(
        self,
        raw_server: RawServerFactory,
        ca: trustme.CA,
        ca_file: Path,
        name: str,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """What the environment says to trust is trusted."""
        monkeypatch.setenv(name, str(ca_file))
        assert ask(raw_server(reply("a"), tls=ca)).text == "a"

    def test_a_bundle_that_is_not_there(self, monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
        """A bundle that cannot be read is named, with the variables that may name it."""
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(home / "none.pem"))
        error = ask("https://127.0.0.1:9").error
        assert type(error) is ConnectionFailed
        assert "none.pem" in str(error)
        assert "REQUESTS_CA_BUNDLE" in str(error)
        assert not error.retryable

    def test_another_name(self, raw_server: RawServerFactory, trusted: trustme.CA) -> None:
        """A certificate for another host is not taken."""
        error = ask(raw_server(reply("a"), tls=server_context(trusted, "example.org"))).error
        assert str(error).endswith("; check base_url")
        assert type(error) is ConnectionFailed
        assert not error.retryable

    def test_no_tls_at_all(self, raw_server: RawServerFactory) -> None:
        """A server that does not speak TLS is a failed connection."""
        server = raw_server(lambda conn: conn.send(b"HTTP/1.1 400 Bad\r\n\r\n"))
        assert type(ask(server.url.replace("http:", "https:")).error) is ConnectionFailed

    def test_a_redirect_to_https_is_followed(self, raw_server: RawServerFactory) -> None:
        """From port 80 to 443 of the same host, from http to https, the same request goes on."""
        moved = http_response(308, {"Location": "https://service.invalid/moved"})
        proxy = raw_server(moved, http_response(502))
        assert ask("http://service.invalid", proxy=proxy.url).error is not None
        assert [r.target for r in proxy.requests] == [
            "http://service.invalid/v3/chat-anonymous",
            "service.invalid:443",
        ]

    def test_a_redirect_to_another_port_over_tls_is_refused(
        self, raw_server: RawServerFactory, trusted: trustme.CA
    ) -> None:
        """Another port of the same host may be another user's server, with TLS too."""
        secure = raw_server(reply("a"), tls=trusted)
        plain = raw_server(http_response(308, {"Location": f"{secure.url}/v3/chat-anonymous"}))
        assert type(ask(plain).error) is ProtocolError
        assert secure.connections == []

    def test_a_page_that_moved_is_found(self, raw_server: RawServerFactory) -> None:
        """A GET follows a 302 of the same host."""
        page = b'<i data-nonce="abcdef" data-post-id="1"></i>'
        answer = json.dumps({"status": "success", "data": "a"}).encode()
        html = {"Content-Type": "text/html"}
        moved = http_response(302, {"Location": "/en/"})
        server = raw_server(
            keep_alive(moved, http_response(200, html, page), http_response(200, JSON, answer))
        )
        with ChatGptt(base_url=server.url) as provider:
            assert str(provider.complete("Hi")) == "a"
        assert [r.target for r in server.requests[:2]] == ["/", "/en/"]


class TestConnections:
    @pytest.mark.parametrize("provider", ["flowgpt", "openaicompatible", "chatglm"])
    def test_twenty_calls_use_one(self, raw_server: RawServerFactory, provider: str) -> None:
        """Calls in a row use one connection, though some replies end before their body does."""
        golden = goldens(provider, name="short")[0]
        head, body = on_the_wire(golden.body, "chunked", golden.content_type)
        server = raw_server(keep_alive([head, body[:-5], Pause(0.001), body[-5:]]))
        with provider_at(provider, server.url) as asked:
            for _ in range(20):
                golden.agrees_with(read(asked.stream("Hi")))
        assert len(server.connections) == 1

    def test_a_body_that_does_not_end(self, raw_server: RawServerFactory) -> None:
        """A server that goes on after its end mark loses its connection, and nobody waits long."""
        golden = goldens("openaicompatible", name="short")[0]
        head, body = on_the_wire(golden.body, "chunked", golden.content_type)
        server = raw_server([head, body[:-5], Stall()])
        with OpenAICompatible(base_url=server.url) as provider:
            started = time.monotonic()
            for _ in range(2):
                golden.agrees_with(read(provider.stream("Hi")))
            assert time.monotonic() - started < 5
            assert server.connections[0].client_closed.wait(5)
        assert len(server.connections) == 2

    @pytest.mark.parametrize("end", ["break", "close", "error"])
    def test_nothing_leaks(self, leak_guard: None, raw_server: RawServerFactory, end: str) -> None:
        """A reply that is left, closed or broken gives up its connection at once."""
        server = raw_server([*begun("a"), Stall()])
        provider = FlowGpt(base_url=server.url, timeout=(5, 0.1 if end == "error" else 60))
        stream = provider.stream("Hi")
        if end == "break":
            for _ in stream:
                break
            stream.close()
        elif end == "close":
            next(stream)
            stream.close()
        else:
            assert type(read(stream).error) is StreamInterrupted
        assert server.connections[0].client_closed.wait(5)

    def test_an_error_that_is_kept_keeps_no_socket(self, raw_server: RawServerFactory) -> None:
        """The traceback of an error holds frames, and they hold no open connection."""
        kept = []
        for script in ([*begun("a"), Stall()], [Stall()], http_response(503), [b"noise\r\n\r\n"]):
            server = raw_server(script)
            before = open_sockets()
            provider = FlowGpt(base_url=server.url, timeout=0.2)
            kept.append(read(provider.stream("Hi")).error)
            provider.close()
            server.stop()
            assert open_sockets() <= before
        assert all(error.__traceback__ for error in kept)

    def test_close_closes(self, raw_server: RawServerFactory) -> None:
        """``close`` closes what is kept, and the next call opens anew."""
        server = raw_server(keep_alive(reply("a")))
        with no_leaks():
            provider = FlowGpt(base_url=server.url)
            for _ in range(2):
                assert str(provider.complete("Hi")) == "a"
                provider.close()
                assert server.connections[-1].client_closed.wait(5)
        assert len(server.connections) == 2

    def test_a_connection_that_the_server_closed(self, raw_server: RawServerFactory) -> None:
        """A kept connection that the server has closed meanwhile is not used again."""
        server = raw_server(reply("a"))
        with FlowGpt(base_url=server.url) as provider:
            assert str(provider.complete("Hi")) == "a"
            server.wait_for(lambda s: s.connections[0].closed)
            assert str(provider.complete("Hi")) == "a"

    def test_threads(self, raw_server: RawServerFactory) -> None:
        """Threads share a provider, each call on a connection of its own while it lasts."""

        def echo(conn: Connection) -> None:
            while True:
                question = json.loads(conn.read_request().body)["question"]
                conn.run(reply(*question))

        server = raw_server(echo)
        with FlowGpt(base_url=server.url) as provider, ThreadPoolExecutor(6) as pool:
            questions = [f"question {n}" for n in range(60)]
            answers = pool.map(lambda question: str(provider.complete(question)), questions)
            assert list(answers) == questions
        assert 1 <= len(server.connections) <= 6

    @pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
    def test_a_fork(self, raw_server: RawServerFactory, trusted: trustme.CA, tls: bool) -> None:
        """A child opens a connection of its own, and the parent's goes on."""
        server = raw_server(keep_alive(reply("a")), tls=trusted if tls else None)
        with FlowGpt(base_url=server.url) as provider:
            assert str(provider.complete("Hi")) == "a"

            def in_child() -> None:
                assert str(provider.complete("Hi")) == "a"
                provider.close()

            Child(in_child).wait()
            assert str(provider.complete("Hi")) == "a"
        assert [r.peer_port for r in server.requests].count(server.requests[0].peer_port) == 2
        assert len(server.connections) == 2


def drip(data: bytes, every_s: float = 0.1) -> Callable[[Connection], None]:
    """Take a request, then send bytes one by one."""

    def handle(conn: Connection) -> None:
        conn.read_request()
        for byte in data:
            conn.send(bytes([byte]))
            conn.pause(every_s)
        conn.stall()

    return handle


def slow_socks(greeting: bytes, answer: bytes) -> Callable[[Connection], None]:
    """A SOCKS proxy that sends its greeting, and its answer byte by byte."""

    def handle(conn: Connection) -> None:
        conn.pause(0.05)
        conn.send(greeting)
        for byte in answer:
            conn.pause(0.1)
            conn.send(bytes([byte]))
        conn.stall()

    return handle


class TestDeadline:
    """Beside the tests of the client's deadline: what only sockets under TLS and proxies show."""

    def exceeded(self, provider: Provider) -> None:
        """Fail unless the deadline ends the call, in time."""
        started = time.monotonic()
        error = within(CancelScope.lasting(DEADLINE_S, clock=SYSTEM_CLOCK), provider).error
        assert type(error) is DeadlineExceeded
        assert time.monotonic() - started < DEADLINE_S + LATE_S

    @pytest.mark.parametrize(
        "behaviour",
        [
            drip(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 500),
            drip(b"HTTP/1.1 200 OK\r\n\r\n" + b": x\n" * 100),
            [Stall()],
            [*begun("a")[:1], Stall()],
        ],
        ids=["head drips", "body drips", "mute", "stalls"],
    )
    def test_inside_tls(
        self, raw_server: RawServerFactory, trusted: trustme.CA, behaviour: Any
    ) -> None:
        """A server behind TLS that is slow in any way."""
        with FlowGpt(base_url=raw_server(behaviour, tls=trusted).url) as provider:
            self.exceeded(provider)

    @pytest.mark.parametrize(
        ("greeting", "answer"),
        [
            (b"", b""),
            (b"\x05", b""),
            (b"\x05\x00", b""),
            (b"\x05\x00", b"\x05\x00\x00\x01" + b"\x00" * 6),
            (b"\x05\x00", b"\x05\x00\x00\x03\xff" + b"x" * 250),
            (b"\x05\x02", b""),
        ],
        ids=["mute", "half a greeting", "no answer", "drips", "drips a long name", "login"],
    )
    def test_a_slow_socks_proxy(
        self, raw_server: RawServerFactory, greeting: bytes, answer: bytes
    ) -> None:
        """A SOCKS proxy that falls silent or drips at any point of its negotiation."""
        proxy = raw_server(slow_socks(greeting, answer)).url.replace("http", "socks5h")
        address = proxy.replace("//", "//me:hunter22@")
        with FlowGpt(base_url="http://127.0.0.1:9", proxy=address) as provider:
            self.exceeded(provider)

    def test_a_slow_proxy_with_tls(self, raw_server: RawServerFactory, trusted: trustme.CA) -> None:
        """A proxy that is spoken to over TLS and drips its answer to CONNECT."""
        proxy = raw_server(drip(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 500), tls=trusted)
        with FlowGpt(base_url="https://127.0.0.1:9", proxy=proxy.url) as provider:
            self.exceeded(provider)

    def test_a_reused_connection_inside_tls_inside_tls(
        self, raw_server: RawServerFactory, trusted: trustme.CA, https_proxy: Proxy
    ) -> None:
        """The second call on a tunnel through a proxy with TLS is bounded as the first."""
        server = raw_server(keep_alive(reply("a"), [Stall()]), tls=trusted)
        with FlowGpt(base_url=server.url, proxy=https_proxy.url()) as provider:
            assert str(provider.complete("Hi")) == "a"
            self.exceeded(provider)
        assert len(server.connections) == 1

    def test_a_large_prompt_that_nobody_takes(self, raw_server: RawServerFactory) -> None:
        """Sending is bounded as receiving is."""
        done = threading.Event()
        server = raw_server(lambda _: done.wait(30))
        with FlowGpt(base_url=server.url) as provider:
            big = Request.of("x" * 30_000_000, params={})
            started = time.monotonic()
            scope = CancelScope.lasting(DEADLINE_S, clock=SYSTEM_CLOCK)
            error = read(provider.generate(big, scope)).error
            done.set()
            assert type(error) is DeadlineExceeded
            assert time.monotonic() - started < DEADLINE_S + LATE_S

    def test_an_expired_scope_sends_nothing(self, raw_server: RawServerFactory) -> None:
        """A call that is over before it begins opens no connection."""
        server = raw_server(reply("a"))
        with FlowGpt(base_url=server.url) as provider:
            assert type(within(CancelScope(0.0), provider).error) is DeadlineExceeded
        assert server.connections == []

    def test_a_session_of_the_callers(self, raw_server: RawServerFactory) -> None:
        """With a session of the caller's no wait is longer than what was left."""
        with requests.Session() as session:
            provider = FlowGpt(base_url=raw_server([Stall()]).url, session=session)
            self.exceeded(provider)


class TestCancel:
    """Another thread ends a call wherever it waits."""

    @pytest.fixture
    def cancelled(self) -> Callable[[Provider, Callable[[], object]], Reading]:
        """Ask in a thread, cancel once a point is reached, and return what the call gave."""

        def run(provider: Provider, reached: Callable[[], object]) -> Reading:
            scope, done = CancelScope(), []
            thread = threading.Thread(target=lambda: done.append(within(scope, provider)))
            thread.start()
            reached()
            scope.cancel("not needed any more")
            thread.join(5)
            assert not thread.is_alive()
            provider.close()
            assert type(done[0].error) in (ProviderTimeout, StreamInterrupted)
            assert "not needed any more" in str(done[0].error)
            reading: Reading = done[0]
            return reading

        return run

    def test_a_read(self, raw_server: RawServerFactory, cancelled: Any) -> None:
        """A call that waits for the head."""
        server = raw_server([Stall()])
        cancelled(FlowGpt(base_url=server.url), lambda: server.wait_for(lambda s: s.requests))

    @pytest.mark.parametrize("frame", [chunked, close_delimited])
    def test_a_body(self, raw_server: RawServerFactory, cancelled: Any, frame: Any) -> None:
        """A call that waits in a body is ended, not taken for whole."""
        first = frame([line("a")]).pieces[0]
        server = raw_server([http_response(200, None, frame([]))[0], first, Stall()])
        provider = FlowGpt(base_url=server.url)
        taken = threading.Event()
        parse = provider.parse

        def noting(reply: Any) -> Iterator[str]:
            for piece in parse(reply):
                taken.set()
                yield piece

        provider.parse = noting  # type: ignore[method-assign]
        reading = cancelled(provider, lambda: taken.wait(5))
        assert reading.text == "a"

    def test_a_connect(self, black_hole: int, cancelled: Any) -> None:
        """A call that waits for a connection."""
        started = threading.Event()
        provider = FlowGpt(base_url=f"http://127.0.0.1:{black_hole}")
        threading.Timer(0.1, started.set).start()
        cancelled(provider, lambda: started.wait(5))

    def test_a_handshake(self, raw_server: RawServerFactory, cancelled: Any) -> None:
        """A call that waits for a TLS handshake."""
        server = raw_server(lambda conn: conn.stall())
        provider = FlowGpt(base_url=server.url.replace("http:", "https:"))
        cancelled(provider, lambda: server.wait_for(lambda s: s.connections))

    @pytest.mark.parametrize("scheme", ["http", "socks5", "socks5h"])
    def test_a_proxy(self, raw_server: RawServerFactory, cancelled: Any, scheme: str) -> None:
        """A call that waits for a proxy."""
        server = raw_server(lambda conn: conn.stall())
        provider = FlowGpt(base_url="https://127.0.0.1:9", proxy=server.url.replace("http", scheme))
        cancelled(provider, lambda: server.wait_for(lambda s: s.connections))

    def test_not_the_next_call(self, raw_server: RawServerFactory) -> None:
        """What ends a call that has ended already does not touch the next one on its connection."""
        go = threading.Event()
        head, body, last = reply("b")
        server = raw_server(keep_alive(reply("a"), [head, Wait(go), body, last]))
        with FlowGpt(base_url=server.url) as provider:
            scope = CancelScope()
            assert within(scope, provider).text == "a"
            with ThreadPoolExecutor(1) as pool:
                second = pool.submit(provider.complete, "Hi")
                server.wait_for(lambda s: len(s.requests) == 2)
                scope.cancel()
                go.set()
                assert str(second.result(5)) == "b"
        assert len(server.connections) == 1


class Counting(HTTPAdapter):
    """Counts what it sends."""

    sent = 0

    def send(self, *args: Any, **kwargs: Any) -> requests.Response:
        """Count."""
        self.sent += 1
        return super().send(*args, **kwargs)


class TestSession:
    def test_it_sends(
        self, raw_server: RawServerFactory, ca: trustme.CA, ca_file: Path, http_proxy: Proxy
    ) -> None:
        """The caller's session sends everything, with its adapters, proxies and certificates."""
        server = raw_server(keep_alive(reply("a")), tls=ca)
        with requests.Session() as session:
            session.mount("https://", adapter := Counting())
            session.verify = str(ca_file)
            session.proxies = {"https": http_proxy.url()}
            provider = FlowGpt(base_url=server.url, session=session)
            for _ in range(2):
                assert str(provider.complete("Hi")) == "a"
        assert adapter.sent == 2
        assert http_proxy.targets == [f"127.0.0.1:{server.port}"]

    def test_its_bundle_goes_before_the_environments(
        self,
        raw_server: RawServerFactory,
        ca: trustme.CA,
        ca_file: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """``REQUESTS_CA_BUNDLE`` does not replace what the session was told to trust."""
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", certifi.where())
        with requests.Session() as session:
            session.verify = str(ca_file)
            assert ask(raw_server(reply("a"), tls=ca), session=session).text == "a"

    def test_an_argument_wins(self, raw_server: RawServerFactory, http_proxy: Proxy) -> None:
        """A proxy given to the provider goes before the session's."""
        server = raw_server(reply("a"))
        with requests.Session() as session:
            session.proxies = {"http": "http://127.0.0.1:9"}
            provider = FlowGpt(base_url=server.url, session=session, proxy=http_proxy.url())
            assert str(provider.complete("Hi")) == "a"
        assert http_proxy.targets == [f"{server.url}/v3/chat-anonymous"]

    def test_it_stays_the_callers(self, raw_server: RawServerFactory) -> None:
        """Closing the provider leaves the session, whose errors are translated as any."""
        server = raw_server(keep_alive(reply("a"), http_response(503)))
        with requests.Session() as session:
            with FlowGpt(base_url=server.url, session=session) as provider:
                assert str(provider.complete("Hi")) == "a"
            assert type(read(provider.stream("Hi")).error) is ServerError
        assert len(server.connections) == 1


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.8.9.1", True),
        ("::1", True),
        ("localhost", True),
        ("api.localhost", True),
        ("128.0.0.1", False),
        ("localhost.example.org", False),
        ("example.org", False),
        ("", False),
    ],
)
def test_loopback(host: str, loopback: bool) -> None:
    """This machine is known by its loopback addresses and names alone."""
    assert is_loopback(host) is loopback


def test_contexts_are_made_once(
    raw_server: RawServerFactory, trusted: trustme.CA, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading certificates takes 30 ms, so providers with the same trust share one context."""
    server = raw_server(keep_alive(reply("a")), tls=trusted)
    assert ask(server).text == "a"
    made: list[Any] = []
    original = ssl.SSLContext.load_verify_locations
    monkeypatch.setattr(
        ssl.SSLContext,
        "load_verify_locations",
        lambda *args, **kwargs: made.append(args) or original(*args, **kwargs),
    )
    for _ in range(3):
        assert ask(server).text == "a"
    assert made == []
