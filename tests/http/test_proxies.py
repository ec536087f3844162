"""Through proxies, real ones, of every kind and given in every way; and never around them."""

from __future__ import annotations

import base64
import json
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import requests
import trustme

from llmproviders import (
    AuthenticationError,
    ChatGptt,
    ConnectionFailed,
    FlowGpt,
    InvalidRequestError,
    LLMError,
)
from llmproviders._http.failures import place_of_proxy
from tests.conftest import RawServerFactory
from tests.support.golden import PAGE
from tests.support.http_bytes import chunked, close_delimited, http_response
from tests.support.promise import Reading, read
from tests.support.proxies import HTTP_PASSWORD, SOCKS_PASSWORD, USER, Proxy
from tests.support.rawserver import Connection, RawServer, Script, server_context

CARRIED = b'{"event": "text", "data": "carried"}\n'
ANSWER = http_response(200, None, chunked([CARRIED]))
LAST_ANSWER = http_response(200, None, close_delimited([CARRIED]))
"""tinyproxy closes after each plain answer without saying so; the end says it."""

WITH_AND_WITHOUT = [
    ("http_proxy", "http"),
    ("http_proxy_with_password", "http"),
    ("socks_proxy", "socks5"),
    ("socks_proxy", "socks5h"),
    ("socks_proxy", "socks"),
    ("socks_proxy_with_password", "socks5"),
    ("socks_proxy_with_password", "socks5h"),
    ("socks_proxy_with_password", "socks"),
]
ANYWHERE = "0.0.0.0"
"""An address that is not loopback's, yet leads a proxy on this machine to it."""

Server = Callable[..., RawServer]


@pytest.fixture
def server(raw_server: RawServerFactory, ca: trustme.CA) -> Server:
    """Start a server, plain or with TLS, that answers every question."""

    def start(*answers: Script, tls: bool = False) -> RawServer:
        context = server_context(ca, "127.0.0.1", "localhost", ANYWHERE) if tls else None
        remaining = list(answers)

        def answer(conn: Connection) -> None:
            # tinyproxy passes one request on and says that it is the last one
            while conn.read_request().header("connection") != "close":
                conn.run(remaining.pop(0) if remaining else ANSWER)
            conn.run(remaining.pop(0) if remaining else LAST_ANSWER)

        return raw_server(answer, tls=context)

    return start


@pytest.fixture(autouse=True)
def trusted(ca_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trust the authority of the tests."""
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(ca_file))


def ask(url: str, **arguments: Any) -> Reading:
    """Ask a FlowGPT at an address, once."""
    with FlowGpt(base_url=url, **arguments) as provider:
        return read(provider.stream("Hi"))


def at(server: RawServer, host: str) -> str:
    """The address of a server, under another host."""
    return server.url.replace("127.0.0.1", host)


class TestKinds:
    @pytest.mark.parametrize(("fixture", "scheme"), WITH_AND_WITHOUT)
    @pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
    @pytest.mark.parametrize("way", ["constructor", "call"])
    def test_carried(
        self,
        request: pytest.FixtureRequest,
        server: Server,
        fixture: str,
        scheme: str,
        tls: bool,
        way: str,
    ) -> None:
        """Every kind of proxy carries plain and encrypted calls, with and without a password."""
        proxy: Proxy = request.getfixturevalue(fixture)
        target = server(tls=tls)
        address = proxy.url(scheme)
        constructor, call = (
            ({"proxy": address}, {}) if way == "constructor" else ({}, {"proxy": address})
        )
        with FlowGpt(base_url=at(target, "localhost"), **constructor) as provider:
            for _ in range(2):
                reading = read(provider.stream("Hi", **call))
                assert (reading.text, reading.error) == ("carried", None)
        host = "127.0.0.1" if scheme == "socks5" else "localhost"
        place = f"{host}:{target.port}"
        if scheme == "http" and not tls:
            assert proxy.targets == [f"http://{place}/v3/chat-anonymous"] * 2
        else:
            assert proxy.targets == [place]
            assert len(target.connections) == 1
        for sent in target.requests:
            assert sent.header("proxy-authorization") is None
            assert sent.target == "/v3/chat-anonymous"

    def test_a_proxy_with_tls(self, server: Server, https_proxy: Proxy) -> None:
        """A proxy that is itself spoken to over TLS carries both, too."""
        plain, secure = server(), server(tls=True)
        for target in (plain, secure):
            assert ask(target.url, proxy=https_proxy.url()).text == "carried"
        assert https_proxy.targets == [
            f"{plain.url}/v3/chat-anonymous",
            f"127.0.0.1:{secure.port}",
        ]

    def test_a_call_goes_its_own_way(
        self, server: Server, http_proxy: Proxy, socks_proxy: Proxy
    ) -> None:
        """A call's proxy goes before the provider's, and the next call is the provider's again."""
        target = server()
        with FlowGpt(base_url=target.url, proxy=http_proxy.url()) as provider:
            for proxy in (None, socks_proxy.url(), None):
                assert str(provider.complete("Hi", proxy=proxy)) == "carried"
        assert len(http_proxy.targets) == 2
        assert socks_proxy.targets == [f"127.0.0.1:{target.port}"]

    def test_every_request_goes_through(self, server: Server, http_proxy: Proxy) -> None:
        """The page that comes before a question goes through the proxy as the question does."""
        said = json.dumps({"status": "success", "data": "carried"}).encode()
        page = http_response(200, {"Content-Type": "text/html"}, close_delimited([PAGE]))
        answer = http_response(200, {"Content-Type": "application/json"}, close_delimited([said]))
        for way in ("constructor", "call"):
            target = server(page, answer)
            address = {"proxy": http_proxy.url()}
            http_proxy.forget()
            with ChatGptt(
                base_url=target.url, **(address if way == "constructor" else {})
            ) as provider:
                assert (
                    str(provider.complete("Hi", **(address if way == "call" else {}))) == "carried"
                )
            assert http_proxy.targets == [
                f"{target.url}/",
                f"{target.url}/wp-admin/admin-ajax.php",
            ]

    def test_login_of_an_http_proxy(self, raw_server: RawServerFactory) -> None:
        """User and password are decoded from the URL, however strange they are."""
        proxy = raw_server(ANSWER)
        address = proxy.url.replace("//", "//m%40e:s3%3Acr%2Fet%25@")
        assert ask("http://service.invalid", proxy=address).text == "carried"
        (request,) = proxy.requests
        login = base64.b64encode(b"m@e:s3:cr/et%").decode()
        assert request.header("proxy-authorization") == f"Basic {login}"
        assert request.target == "http://service.invalid/v3/chat-anonymous"


class TestEnvironment:
    @pytest.mark.parametrize(
        ("tls", "name"),
        [
            (False, "HTTP_PROXY"),
            (False, "http_proxy"),
            (False, "ALL_PROXY"),
            (False, "LLMPROVIDERS_PROXY"),
            (True, "HTTPS_PROXY"),
            (True, "https_proxy"),
            (True, "all_proxy"),
            (True, "LLMPROVIDERS_PROXY"),
        ],
    )
    @pytest.mark.parametrize("scheme", ["http", "socks5h", "socks"])
    @pytest.mark.proxies
    def test_where_none_is_given(
        self,
        request: pytest.FixtureRequest,
        monkeypatch: pytest.MonkeyPatch,
        server: Server,
        tls: bool,
        name: str,
        scheme: str,
    ) -> None:
        """The environment's proxy carries calls to other machines, as desktops export it, too."""
        fixture = "http_proxy_with_password" if scheme == "http" else "socks_proxy_with_password"
        proxy: Proxy = request.getfixturevalue(fixture)
        target = server(tls=tls)
        monkeypatch.setenv(name, proxy.url(scheme))
        monkeypatch.setenv("FTP_PROXY", "nonsense://somewhere")
        monkeypatch.setenv("NO_PROXY", "localhost,127.0.0.0/8,::1,.corp")
        assert ask(at(target, ANYWHERE)).text == "carried"
        assert len(proxy.targets) == 1

    def test_ours_goes_before_the_others(
        self, monkeypatch: pytest.MonkeyPatch, server: Server, http_proxy: Proxy, refused_port: int
    ) -> None:
        """``LLMPROVIDERS_PROXY`` is for us, so it wins; an argument wins over it."""
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{refused_port}")
        monkeypatch.setenv("LLMPROVIDERS_PROXY", http_proxy.url())
        assert ask(at(server(), ANYWHERE)).text == "carried"
        monkeypatch.setenv("LLMPROVIDERS_PROXY", f"http://127.0.0.1:{refused_port}")
        assert ask(at(server(), ANYWHERE), proxy=http_proxy.url()).text == "carried"

    @pytest.mark.parametrize("name", ["HTTP_PROXY", "ALL_PROXY", "LLMPROVIDERS_PROXY"])
    @pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
    def test_never_to_loopback(
        self,
        monkeypatch: pytest.MonkeyPatch,
        server: Server,
        refused_port: int,
        name: str,
        host: str,
    ) -> None:
        """A server on this machine is reached directly, whatever the environment says."""
        monkeypatch.setenv(name, f"http://127.0.0.1:{refused_port}")
        assert ask(at(server(), host)).text == "carried"

    @pytest.mark.parametrize(
        "exempt", ["service.invalid", "*", ".invalid", "other,service.invalid"]
    )
    def test_no_proxy(
        self, monkeypatch: pytest.MonkeyPatch, raw_server: RawServerFactory, exempt: str
    ) -> None:
        """What ``NO_PROXY`` names does not go through the environment's proxy."""
        proxy = raw_server(ANSWER)
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        assert ask("http://service.invalid").text == "carried"
        monkeypatch.setenv("NO_PROXY", exempt)
        assert type(ask("http://service.invalid").error) is ConnectionFailed
        assert len(proxy.requests) == 1

    @pytest.mark.parametrize("exempt", ["::1", "localhost,::1", "[::1]:80", "a b", "http://x/"])
    def test_strange_exemptions(
        self, monkeypatch: pytest.MonkeyPatch, raw_server: RawServerFactory, exempt: str
    ) -> None:
        """What stands in ``NO_PROXY`` is a list of hosts, and no proxy to be checked."""
        monkeypatch.setenv("HTTP_PROXY", raw_server(ANSWER).url)
        monkeypatch.setenv("NO_PROXY", exempt)
        assert ask("http://service.invalid").text == "carried"

    def test_a_proxy_without_a_scheme(
        self, monkeypatch: pytest.MonkeyPatch, raw_server: RawServerFactory
    ) -> None:
        """``host:port`` means an HTTP proxy."""
        monkeypatch.setenv("HTTP_PROXY", raw_server(ANSWER).url.removeprefix("http://"))
        assert ask("http://service.invalid").text == "carried"

    def test_a_proxy_of_an_unknown_kind(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A proxy in the environment that cannot be used is named without its password."""
        monkeypatch.setenv("HTTP_PROXY", "nonsense://me:hunter22@127.0.0.1:1")
        error = ask("http://service.invalid").error
        assert type(error) is InvalidRequestError
        assert "nonsense://" in str(error)
        assert "hunter22" not in shown(error)


def shown(error: LLMError | None) -> str:
    """All that a user may see of an error: its traceback with every cause."""
    assert error is not None
    return f"{error!r}" + "".join(traceback.format_exception(error))


class TestFailures:
    @pytest.mark.parametrize("given", ["wrong-password", None], ids=["wrong", "none"])
    @pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
    @pytest.mark.parametrize(
        ("fixture", "scheme"),
        [
            ("http_proxy_with_password", "http"),
            ("socks_proxy_with_password", "socks5"),
            ("socks_proxy_with_password", "socks5h"),
        ],
    )
    def test_a_wrong_password(
        self,
        request: pytest.FixtureRequest,
        server: Server,
        fixture: str,
        scheme: str,
        tls: bool,
        given: str | None,
    ) -> None:
        """A refused login is not worth a second try, and nothing prints a password.

        The one that cannot be told from the service's own refusal is the 401 that tinyproxy gives
        to a plain request.
        """
        proxy: Proxy = request.getfixturevalue(fixture)
        target = server(tls=tls)
        address = proxy.url(scheme, password=given)
        if given is None:
            address = f"{scheme}://127.0.0.1:{proxy.port}"
        error = ask(target.url, proxy=address).error
        is_plain_401 = (scheme, tls, error.status_code) == ("http", False, 401)
        assert type(error) is (AuthenticationError if is_plain_401 else ConnectionFailed)
        assert not error.retryable
        for secret in ("wrong-password", HTTP_PASSWORD, SOCKS_PASSWORD, f"{USER}:"):
            assert secret not in shown(error)
        assert target.connections == []

    @pytest.mark.parametrize("scheme", ["http", "https", "socks5", "socks5h", "socks"])
    @pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
    def test_a_dead_proxy_is_not_gone_around(
        self, server: Server, refused_port: int, scheme: str, tls: bool
    ) -> None:
        """Where the proxy does not answer, the call fails: it never goes out by itself.

        The message is about the proxy, whatever its kind.
        """
        target = server(tls=tls)
        error = ask(target.url, proxy=f"{scheme}://me:hunter22@127.0.0.1:{refused_port}").error
        assert type(error) is ConnectionFailed
        assert str(error).startswith(
            f"the proxy failed: the proxy 127.0.0.1:{refused_port} cannot be reached: "
            "Connection refused; check proxy="
        )
        assert f"to reach 127.0.0.1:{target.port}" in str(error)
        assert "listens" not in str(error)
        assert error.retryable
        assert "hunter22" not in shown(error)
        assert target.connections == []

    @pytest.mark.parametrize(
        ("fixture", "scheme"), [("http_proxy", "http"), ("socks_proxy", "socks5h")]
    )
    def test_a_target_that_the_proxy_cannot_reach(
        self, request: pytest.FixtureRequest, refused_port: int, fixture: str, scheme: str
    ) -> None:
        """A proxy that works and a service that does not are a failed connection."""
        proxy: Proxy = request.getfixturevalue(fixture)
        error = ask(f"https://127.0.0.1:{refused_port}", proxy=proxy.url(scheme)).error
        assert type(error) is ConnectionFailed
        assert error.retryable

    @pytest.mark.parametrize(
        ("answer", "scheme"),
        [
            (b"HTTP/1.1 403 Forbidden\r\n\r\n", "http"),
            (b"HTTP/1.1 502 Bad Gateway\r\n\r\n", "http"),
            (b"noise\r\n\r\n", "http"),
            (b"", "http"),
            (b"\x04\x00", "socks5h"),
            (b"\x05\xff", "socks5h"),
            (b"\x05\x00\x05\x02\x00\x01\x00\x00\x00\x00\x00\x00", "socks5h"),
            (b"\x05\x00\x05\x04\x00\x01\x00\x00\x00\x00\x00\x00", "socks5h"),
            (b"\x05\x00\x05\x00\x00\x09", "socks5h"),
            (b"HTTP/1.1 400 Bad\r\n\r\n", "socks5h"),
            (b"", "socks5h"),
        ],
    )
    def test_what_else_a_proxy_may_say(
        self, raw_server: RawServerFactory, answer: bytes, scheme: str
    ) -> None:
        """A proxy that refuses, or speaks another language, is a failed connection."""
        proxy = raw_server(lambda conn: conn.send(answer))
        error = ask("https://127.0.0.1:9", proxy=proxy.url.replace("http", scheme)).error
        assert type(error) is ConnectionFailed


SCHEMES = ["http", "https", "socks4", "socks4a", "socks5", "socks5h"]
FAR = "198.51.100.7"
"""An address that is never reached: the proxy answers first, or nobody does."""


def through(proxy: str, url: str, way: str) -> LLMError:
    """The error of a call through a proxy that is given as an argument, or by a session."""
    if way == "argument":
        error = ask(url, proxy=proxy).error
    else:
        with requests.Session() as session:
            session.trust_env = False
            session.proxies = {"http": proxy, "https": proxy}
            error = ask(url, session=session).error
    assert isinstance(error, LLMError)
    assert error.status_code or error.__cause__ is not None
    assert "hunter22" not in shown(error)
    assert "Tracked" not in str(error)
    return error


@pytest.mark.parametrize("way", ["argument", "session"])
@pytest.mark.parametrize("target", ["http", "https"])
class TestNamed:
    @pytest.mark.parametrize("scheme", SCHEMES)
    def test_a_dead_proxy(self, refused_port: int, scheme: str, target: str, way: str) -> None:
        """The message names the dead proxy, what to check, and not the service in its place."""
        proxy = f"{scheme}://me:hunter22@127.0.0.1:{refused_port}"
        error = through(proxy, f"{target}://{FAR}", way)
        assert type(error) is ConnectionFailed
        assert error.retryable
        assert str(error).startswith(
            f"the proxy failed: the proxy 127.0.0.1:{refused_port} cannot be reached: "
            "Connection refused; check proxy=, LLMPROVIDERS_PROXY, the session's proxies, HTTP_"
        )
        assert f"(at {FAR}" not in str(error)

    @pytest.mark.parametrize("scheme", ["http", "socks4a", "socks5h"])
    def test_an_unknown_name(self, scheme: str, target: str, way: str) -> None:
        """A proxy's name that nobody knows is not taken for the service's."""
        error = through(f"{scheme}://me:hunter22@nowhere.invalid:3128", f"{target}://{FAR}", way)
        assert type(error) is ConnectionFailed
        assert "the proxy nowhere.invalid:3128 cannot be reached: " in str(error)

    @pytest.mark.parametrize("status", [403, 407, 502, 503])
    def test_a_refusal(
        self, raw_server: RawServerFactory, status: int, target: str, way: str
    ) -> None:
        """What a proxy answers itself is said to be the proxy's; only a login is never retried."""
        proxy = raw_server(http_response(status))
        error = through(f"http://127.0.0.1:{proxy.port}", f"{target}://{FAR}", way)
        assert f"127.0.0.1:{proxy.port}" in str(error)
        if status == 407:
            assert type(error) is ConnectionFailed
            assert "put them in its URL" in str(error)
            assert not error.retryable
        elif target == "https":
            assert type(error) is ConnectionFailed
            assert f"did not connect to {FAR}:443: Tunnel connection failed: {status}" in str(error)

    @pytest.mark.parametrize(
        ("scheme", "answer"), [("socks5h", b"\x05\x00\x05\x02\x00\x01"), ("socks5h", b"HTTP/1.1 4")]
    )
    def test_a_socks_proxy_that_refuses(
        self, raw_server: RawServerFactory, scheme: str, answer: bytes, target: str, way: str
    ) -> None:
        """A SOCKS proxy that refuses, or speaks another language, is named too."""
        proxy = raw_server(lambda conn: conn.send(answer))
        error = through(f"{scheme}://127.0.0.1:{proxy.port}", f"{target}://{FAR}", way)
        assert type(error) is ConnectionFailed
        assert f"the proxy 127.0.0.1:{proxy.port} did not connect to {FAR}" in str(error)

    def test_plain_where_tls_is_spoken_to(
        self, raw_server: RawServerFactory, target: str, way: str
    ) -> None:
        """An https:// proxy that speaks plain HTTP: the message says how to write its address."""
        proxy = raw_server(lambda conn: conn.send(b"HTTP/1.1 400 Bad Request\r\n\r\n"))
        error = through(f"https://127.0.0.1:{proxy.port}", f"{target}://{FAR}", way)
        assert type(error) is ConnectionFailed
        assert f"the proxy 127.0.0.1:{proxy.port} could not be reached over TLS" in str(error)
        assert "write its address with http://" in str(error)


@pytest.mark.parametrize("login", ["me:hunter22@", "me:hun/ter22@", "me:hun#ter22@", "h@nter22@"])
def test_no_login_is_named(login: str) -> None:
    """Whatever a login holds, the place of a proxy has none of it."""
    assert place_of_proxy(f"http://{login}proxy.example:3128") == "proxy.example:3128"
