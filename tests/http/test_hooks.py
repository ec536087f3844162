"""Hooks into other libraries fail closed: without one, a call ends in an error or as it should."""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import requests
import trustme
import urllib3.connection
import urllib3.connectionpool
import urllib3.contrib
import urllib3.exceptions
import urllib3.poolmanager
import urllib3.response
import urllib3.util.ssltransport
from requests.adapters import HTTPAdapter

import llmproviders
from llmproviders import ConnectionFailed, LLMError, OpenAICompatible
from llmproviders._http import connections
from tests.conftest import RawServerFactory
from tests.support.http_bytes import chunked, http_response
from tests.support.processes import in_child
from tests.support.proxies import Proxy
from tests.support.rawserver import Connection, RawServer, keep_alive

JSON = {"Content-Type": "application/json"}


def reply(text: str) -> bytes:
    """A whole reply in one piece."""
    choice = {"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    return b"".join(http_response(200, JSON, json.dumps({"choices": [choice]}).encode()))


def ask(server: RawServer, **arguments: object) -> str:
    """The text of a reply that is not streamed."""
    with OpenAICompatible(base_url=f"{server.url}/v1", **arguments) as provider:  # type: ignore[arg-type]
        return "".join(provider.create_generator("m", "Why?", stream=False))


Patch = Callable[[pytest.MonkeyPatch], None]


class Renamed:
    """An attribute that its own library still finds, and this package finds no more."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, owner: object, kind: type) -> object:
        if owner is None or sys._getframe(1).f_globals["__name__"] == connections.__name__:
            raise AttributeError(self.name)
        return owner.__dict__[self.name]

    def __set__(self, owner: object, value: object) -> None:
        owner.__dict__[self.name] = value


def without_new_conn(patch: pytest.MonkeyPatch) -> None:
    """urllib3 opens its sockets by a method of another name."""
    cls = urllib3.connection.HTTPConnection
    patch.setattr(cls, "_open_socket", cls._new_conn, raising=False)

    def connect(self: urllib3.connection.HTTPConnection) -> None:
        self.sock = self._open_socket()  # type: ignore[attr-defined]

    patch.setattr(cls, "connect", connect)


def without_pool_classes(patch: pytest.MonkeyPatch) -> None:
    """A PoolManager takes the classes of its pools from an attribute of another name."""

    def pool(self: object, scheme: str, host: str, port: int, request_context: object = None):  # type: ignore[no-untyped-def]
        return urllib3.connectionpool.HTTPConnectionPool(host, port)

    patch.setattr(urllib3.poolmanager.PoolManager, "_new_pool", pool)


def without_response_class(patch: pytest.MonkeyPatch) -> None:
    """http.client makes a reply of a class that it knows by another name."""
    patch.setattr(connections.Tracked, "response_class", http.client.HTTPResponse)


def without_the_class_of_sockets(patch: pytest.MonkeyPatch) -> None:
    """A context has another name for the class of its sockets."""
    patch.setattr(connections, "BoundedTLS", connections.ssl.SSLSocket)


class TestOwnConnections:
    @pytest.mark.parametrize(
        "lose", [without_new_conn, without_pool_classes, without_response_class]
    )
    def test_a_connection_that_would_not_be_bounded(
        self, raw_server: RawServerFactory, monkeypatch: pytest.MonkeyPatch, lose: Patch
    ) -> None:
        """Without the sockets, pools or replies of this package, a call is an error at once."""
        lose(monkeypatch)
        with pytest.raises(LLMError, match="this release of urllib3") as caught:
            ask(raw_server(keep_alive([reply("a")])))
        assert not caught.value.retryable

    def test_tls_that_would_not_be_bounded(
        self,
        raw_server: RawServerFactory,
        ca: trustme.CA,
        ca_file: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """So is one over TLS whose socket is of another class."""
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(ca_file))
        without_the_class_of_sockets(monkeypatch)
        with pytest.raises(LLMError, match="this release of urllib3"):
            ask(raw_server(keep_alive([reply("a")]), tls=ca))

    def test_tls_inside_the_tls_of_a_proxy(
        self,
        raw_server: RawServerFactory,
        ca: trustme.CA,
        ca_file: Path,
        https_proxy: Proxy,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """Where the socket inside cannot be found, nothing is sent on it."""
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(ca_file))
        monkeypatch.setattr(connections, "_innermost", lambda sock: sock)
        server = raw_server(keep_alive([reply("a")]), tls=ca)
        with pytest.raises(LLMError, match="this release of urllib3"):
            ask(server, proxy=https_proxy.url())
        assert server.requests == []

    @pytest.mark.parametrize("name", ["sslobj", "incoming"])
    def test_what_is_unread_inside_the_tls_of_a_proxy(
        self,
        raw_server: RawServerFactory,
        ca: trustme.CA,
        ca_file: Path,
        https_proxy: Proxy,
        monkeypatch: pytest.MonkeyPatch,
        name: str,
    ) -> None:
        """Where it cannot be seen whether a connection is clean, its call is an error."""
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(ca_file))
        transport = urllib3.util.ssltransport.SSLTransport
        monkeypatch.setattr(transport, name, Renamed(name), raising=False)
        server = raw_server(keep_alive([reply("a")], [reply("b")]), tls=ca)
        with pytest.raises(LLMError, match="this release of urllib3"):
            ask(server, proxy=https_proxy.url())

    @pytest.mark.filterwarnings("ignore::llmproviders.providers.gigachat.UnverifiedTLSWarning")
    def test_a_connection_whose_trust_cannot_be_told(
        self,
        raw_server: RawServerFactory,
        ca: trustme.CA,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """urllib3 warns at each request without a check, and what is not trusted stays so."""
        unseen = property(lambda _: False, lambda *_: None)
        monkeypatch.setattr(connections._DialingTLS, "is_verified", unseen, raising=False)
        server = raw_server(keep_alive([reply("a")]), keep_alive([reply("a")]), tls=ca)
        with pytest.warns(urllib3.exceptions.InsecureRequestWarning):
            assert ask(server, verify=False) == "a"
        with pytest.raises(LLMError, match="not trusted"):
            ask(server)

    def test_a_child_that_keeps_what_it_inherited(
        self, raw_server: RawServerFactory, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Without the hook that lets a child forget connections, it opens its own all the same."""
        monkeypatch.setattr(connections.Adapter, "leave_to_parent", lambda _: None)
        server = raw_server(keep_alive([reply("a")], [reply("b")]), keep_alive([reply("child")]))
        with OpenAICompatible(base_url=f"{server.url}/v1") as provider:

            def once() -> str:
                return "".join(provider.create_generator("m", "Why?", stream=False))

            def of_the_child() -> None:
                assert once() == "child"

            assert once() == "a"
            in_child(of_the_child)
            assert once() == "b"

    def test_interim_replies(
        self, raw_server: RawServerFactory, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Without the hook that skips interim replies, one of them is an error, and no reply."""
        monkeypatch.delattr(connections.TrackedReply, "_read_status")
        interim = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
        with pytest.raises(LLMError):
            ask(raw_server(keep_alive([interim, reply("a")])))

    @pytest.mark.parametrize("own", [True, False], ids=["own", "session"])
    def test_what_comes_after_a_reply(
        self, raw_server: RawServerFactory, monkeypatch: pytest.MonkeyPatch, own: bool
    ) -> None:
        """If a connection cannot be held back, a spoilt one is still not used again."""
        monkeypatch.setattr(connections, "hold_back", lambda raw: raw.release_conn)
        monkeypatch.setattr("llmproviders._http.sessions.hold_back", lambda raw: raw.release_conn)
        body = json.dumps({"choices": []}).encode()
        first = b"".join(http_response(200, JSON, chunked([body])))
        server = raw_server(keep_alive([first + reply("of another")]), keep_alive([reply("own")]))
        with requests.Session() as session:
            arguments = {} if own else {"session": session}
            with OpenAICompatible(base_url=f"{server.url}/v1", **arguments) as provider:  # type: ignore[arg-type]
                with pytest.raises(LLMError):
                    "".join(provider.create_generator("m", "Why?", stream=False))
                assert "".join(provider.create_generator("m", "Why?", stream=False)) == "own"

    def test_a_release_that_is_not_there(
        self, raw_server: RawServerFactory, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Without ``release_conn`` there is no reply at all."""
        monkeypatch.delattr(urllib3.response.HTTPResponse, "release_conn")
        with pytest.raises((NotImplementedError, LLMError)):
            ask(raw_server(keep_alive([reply("a")])))

    def test_the_login_of_a_proxy(
        self,
        raw_server: RawServerFactory,
        ca: trustme.CA,
        ca_file: Path,
        http_proxy_with_password: Proxy,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """Without the hook that hides the login for a tunnel, it is sent, or the call fails.

        Some releases of Python and urllib3 format headers, which masks a login.
        """
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(ca_file))
        monkeypatch.delattr(connections._DialingTLS, "_tunnel")
        server = raw_server(keep_alive([reply("a")]), tls=ca)
        proxy = http_proxy_with_password.url()
        try:
            assert ask(server, proxy=proxy) == "a"
        except ConnectionFailed as refused:
            assert "407" in str(refused)  # noqa: PT017 - it need not be refused

    def test_an_issuer_that_cannot_be_seen(
        self, raw_server: RawServerFactory, ca: trustme.CA, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Without OpenSSL's chain, the error about a certificate names no issuer."""

        def missing(_: object) -> str:
            raise AttributeError("get_unverified_chain")

        monkeypatch.setattr(connections, "full_name_in", missing)
        with pytest.raises(LLMError, match="not trusted") as caught:
            ask(raw_server(keep_alive([reply("a")]), tls=ca))
        assert "issued by" not in str(caught.value)


class TestSessions:
    def test_a_pool_that_cannot_be_tracked(
        self, raw_server: RawServerFactory, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A session whose connections are not known keeps none on which more may have come."""
        monkeypatch.setattr("llmproviders._http.sessions.track", lambda *_: None)

        def twice(conn: Connection) -> None:
            conn.read_request()
            conn.send(reply("a") + reply("of another"))
            conn.stall()

        server = raw_server(twice, keep_alive([reply("own")]))
        with requests.Session() as session:
            assert ask(server, session=session) == "a"
            assert ask(server, session=session) == "own"

    def test_a_session_that_takes_no_certificates(
        self,
        raw_server: RawServerFactory,
        ca: trustme.CA,
        ca_file: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """A pool that has another name for its arguments has no bundle, and trusts nobody."""

        class Renamed(urllib3.connectionpool.HTTPSConnectionPool):
            def _new_conn(self) -> object:  # type: ignore[override]
                with monkeypatch.context() as patch:
                    patch.setattr(self, "conn_kw", {}, raising=False)
                    return super()._new_conn()

        server = raw_server(keep_alive([reply("a")]), tls=ca)
        with requests.Session() as session:
            manager = session.get_adapter(server.url).poolmanager  # type: ignore[attr-defined]
            manager.pool_classes_by_scheme = {"https": Renamed}
            with pytest.raises(LLMError, match="not trusted"):
                ask(server, session=session, ca_bundle=str(ca_file))

    @pytest.mark.parametrize("name", ["__getstate__", "__setstate__"])
    def test_a_session_that_cannot_be_renewed(
        self, raw_server: RawServerFactory, monkeypatch: pytest.MonkeyPatch, name: str
    ) -> None:
        """A child without the way to renew its session never uses its parent's connection."""
        server = raw_server(keep_alive([reply("a")], [reply("b")]), keep_alive([reply("child")]))
        with (
            requests.Session() as session,
            OpenAICompatible(base_url=f"{server.url}/v1", session=session) as provider,
        ):

            def once() -> str:
                return "".join(provider.create_generator("m", "Why?", stream=False))

            def of_the_child() -> None:
                monkeypatch.delattr(HTTPAdapter, name)
                # Python 3.11 and later have a __getstate__ for every object, which serves too.
                with suppress(LLMError):
                    assert once() == "child"

            assert once() == "a"
            in_child(of_the_child)
            assert once() == "b"


def test_hooks_stand_in_one_module() -> None:
    """No other module uses a private name of requests, urllib3, http.client or ssl."""
    root = Path(llmproviders.__file__).parent
    private = (
        *("._new_conn", "._sslobj", "_tunnel", "._read_status", "ConnectionCls", "._ctx"),
        *("release_conn", "pool_classes_by_scheme", "conn_kw", ".queue", ".is_verified"),
        *(".sslobj", ".incoming", "_cookies_lock", "sslsocket_class", "response_class"),
        *(".__getstate__", ".__setstate__"),
    )
    found = {
        (path.name, name)
        for path in root.rglob("*.py")
        for name in private
        if path.name != "connections.py" and name in path.read_text(encoding="utf-8")
    }
    assert found == set()


def test_each_library_is_there() -> None:
    """A process that makes a provider loads the wing without a warning."""
    code = "from llmproviders import OpenAICompatible as O; O(base_url='http://127.0.0.1:9/v1')"
    root = str(Path(llmproviders.__file__).parents[1])
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, cwd=root, timeout=60)
