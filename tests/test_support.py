"""The servers that the tests stand on do what they say."""

from __future__ import annotations

import contextlib
import gzip
import http.client
import os
import re
import socket
import ssl
import subprocess
import sys
import threading
import urllib.parse
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
import socks
import trustme
import urllib3

from tests.conftest import RawServerFactory
from tests.support.http_bytes import (
    Body,
    chunked,
    close_delimited,
    content_length,
    gzip_stream,
    http_response,
)
from tests.support.leaks import no_leaks
from tests.support.proxies import SOCKS_PASSWORD, USER, Proxy, find_program
from tests.support.rawserver import (
    Close,
    Connection,
    RawServer,
    Read,
    Reset,
    Stall,
    Wait,
    free_port,
    keep_alive,
)

PIECES = [b"one ", b"two ", b"three"]


def _connect(server: RawServer) -> socket.socket:
    return socket.create_connection((server.host, server.port), timeout=10)


def _get(server: RawServer, context: ssl.SSLContext | None = None) -> tuple[int, str | None, bytes]:
    """Return status, ``X-Mark`` and body."""
    connection = http.client.HTTPConnection(server.host, server.port, timeout=10)
    if context:
        connection = http.client.HTTPSConnection(
            server.host, server.port, timeout=10, context=context
        )
    with contextlib.closing(connection):
        connection.request("GET", "/")
        reply = connection.getresponse()
        return reply.status, reply.getheader("X-Mark"), reply.read()


@pytest.mark.parametrize("frame", [chunked, content_length, close_delimited])
def test_every_framing_carries_the_body(
    raw_server: RawServerFactory, frame: Callable[[list[bytes]], Body]
) -> None:
    """A standard HTTP client reads the same body out of each framing."""
    server = raw_server(http_response(200, {"X-Mark": "yes"}, frame(PIECES)))
    assert _get(server) == (200, "yes", b"".join(PIECES))


def test_requests_are_recorded_whole(raw_server: RawServerFactory) -> None:
    """Method, target, headers and a chunked or counted body are recorded as they were sent."""
    server = raw_server(keep_alive(http_response()))
    connection = http.client.HTTPConnection(server.host, server.port, timeout=10)
    connection.request("POST", "/a?b=c", body=b"counted", headers={"X-One": "1"})
    connection.getresponse().read()
    connection.request("PUT", "/d", body=iter([b"in ", b"chunks"]), encode_chunked=True)
    connection.getresponse().read()
    connection.close()
    first, second = server.requests
    assert (first.method, first.target, first.body) == ("POST", "/a?b=c", b"counted")
    assert first.header("x-one") == "1"
    assert (second.method, second.target, second.body) == ("PUT", "/d", b"in chunks")
    assert len(server.connections) == 1


def test_each_connection_has_its_behaviour(raw_server: RawServerFactory) -> None:
    """The behaviours serve one connection each, in turn, and the last one all that follow."""
    server = raw_server(http_response(500), http_response(200))
    assert [_get(server)[0] for _ in range(3)] == [500, 200, 200]
    assert len(server.connections) == 3


def test_gzip_pieces_can_be_read_one_by_one() -> None:
    """Each compressed piece gives its plain piece back as soon as it is there."""
    packed = gzip_stream(PIECES)
    unpack = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
    assert [unpack.decompress(piece) for piece in packed] == [*PIECES, b""]
    assert gzip.decompress(b"".join(packed)) == b"".join(PIECES)


def test_a_cut_chunked_body_is_cut(raw_server: RawServerFactory) -> None:
    """Without its terminating chunk a chunked body is incomplete."""
    server = raw_server(http_response(200, None, chunked(PIECES, end=False)))
    with pytest.raises(http.client.IncompleteRead):
        _get(server)


def test_wait_holds_the_next_piece_back(raw_server: RawServerFactory) -> None:
    """What stands after a ``Wait`` is sent when the test sets the event, not before."""
    go = threading.Event()
    server = raw_server([b"before", Wait(go), b"after"])
    with _connect(server) as client:
        client.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert client.recv(100) == b"before"
        client.settimeout(0.05)
        with pytest.raises(TimeoutError):
            client.recv(100)
        client.settimeout(10)
        go.set()
        assert client.recv(100) == b"after"
        assert client.recv(100) == b""


def test_reset_is_a_reset(raw_server: RawServerFactory) -> None:
    """``Reset`` gives the client ECONNRESET, where ``Close`` gives it an end of file."""
    server = raw_server([Reset()], [Close()])
    with _connect(server) as client:
        client.sendall(b"GET / HTTP/1.1\r\n\r\n")
        with pytest.raises(ConnectionResetError):
            client.recv(100)
    with _connect(server) as client:
        client.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert client.recv(100) == b""


def test_a_stall_ends_with_the_client(raw_server: RawServerFactory) -> None:
    """``Stall`` sends nothing, and the server notices when the client closes."""
    server = raw_server([b"x", Stall()])
    with _connect(server) as client:
        client.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert client.recv(100) == b"x"
        assert not server.connections[0].client_closed.is_set()
    assert server.connections[0].client_closed.wait(10)


def test_stopping_ends_whatever_goes_on(ca: trustme.CA) -> None:
    """Leaving a server ends stalls, waits, half requests and handshakes; nothing leaks."""
    with no_leaks():
        with RawServer([Stall()], [Wait(threading.Event())], [Read()]) as server:
            clients = [_connect(server) for _ in range(4)]
            for client in clients[:3]:
                client.sendall(b"GET / HTTP/1.1\r\n\r\n")
            server.wait_for(lambda s: len(s.requests) == 3 and len(s.connections) == 4)
        with RawServer([Stall()], tls=ca) as server:
            clients.append(_connect(server))
            server.wait_for(lambda s: len(s.connections) == 1)
        for client in clients:
            client.close()


def test_a_failing_handler_fails_the_test() -> None:
    """What a handler raises comes out where the server is left."""

    def handler(conn: Connection) -> None:
        assert conn.read_request().target == "/expected"

    with pytest.raises(AssertionError), RawServer(handler) as server, _connect(server) as client:
        client.sendall(b"GET /other HTTP/1.1\r\n\r\n")
        assert client.recv(100) == b""


def test_tls_is_trusted_by_the_ca_alone(
    raw_server: RawServerFactory, ca: trustme.CA, ca_file: Path
) -> None:
    """A client that trusts the CA is served, and one that does not is a failed handshake."""
    server = raw_server(http_response(200, None, b"safe"), tls=ca)
    assert _get(server, ssl.create_default_context(cafile=ca_file))[2] == b"safe"
    with pytest.raises(ssl.SSLCertVerificationError):
        _get(server, ssl.create_default_context())
    server.wait_for(lambda s: len(s.failed_handshakes) == 1)


def test_a_black_hole_takes_for_ever(black_hole: int) -> None:
    """Connecting to the black hole neither succeeds nor is refused, again and again."""
    for _ in range(2):
        with pytest.raises(TimeoutError):
            socket.create_connection(("127.0.0.1", black_hole), timeout=0.2)


def test_a_free_port_is_for_whoever_asks_for_it() -> None:
    """Another program can listen there; a server that takes any port does not get it."""
    port = free_port()
    with socket.create_server(("127.0.0.1", port)):
        for _ in range(100):
            with socket.create_server(("127.0.0.1", 0)) as other:
                assert other.getsockname()[1] >= 32_000 > port


def test_a_refused_port_refuses(refused_port: int) -> None:
    """Connecting to the refused port is refused at once, again and again."""
    for _ in range(2):
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", refused_port), timeout=10)


def test_only_loopback_can_be_reached() -> None:
    """A connection to any other address is blocked, whatever the machine's network."""
    with socket.socket() as client, pytest.raises(Warning, match="allowed"):
        client.connect(("192.0.2.1", 80))


def test_a_leak_is_found() -> None:
    """An open socket and a running thread that a block leaves behind fail it."""
    end = threading.Event()
    thread = threading.Thread(target=end.wait, name="left-over")
    with (
        pytest.raises(AssertionError, match=r"left-over.*1 open socket"),
        no_leaks(within_s=0.05),
    ):
        thread.start()
        left_over = socket.socket()
    left_over.close()
    end.set()
    thread.join()


@pytest.fixture(params=["socks_proxy", "socks_proxy_with_password"])
def any_socks_proxy(request: pytest.FixtureRequest) -> Proxy:
    """Return each SOCKS5 proxy in turn."""
    proxy: Proxy = request.getfixturevalue(request.param)
    return proxy


@pytest.fixture(params=["http_proxy", "http_proxy_with_password"])
def any_http_proxy(request: pytest.FixtureRequest) -> Proxy:
    """Return each HTTP proxy in turn."""
    proxy: Proxy = request.getfixturevalue(request.param)
    return proxy


def _get_through_socks(proxy: Proxy, server: RawServer, *, password: str | None) -> bytes:
    with socks.socksocket() as client:
        client.set_proxy(
            socks.SOCKS5, "127.0.0.1", proxy.port, True, USER if password else None, password
        )
        client.connect(("localhost", server.port))
        client.sendall(b"GET / HTTP/1.1\r\n\r\n")
        return _body(client)


def _body(client: socket.socket) -> bytes:
    """Read the one reply that comes over the socket."""
    reply = http.client.HTTPResponse(client)
    reply.begin()
    with contextlib.closing(reply):
        return reply.read()


def test_the_socks_proxies_carry_and_record(
    raw_server: RawServerFactory, any_socks_proxy: Proxy
) -> None:
    """A client with the right password or none is carried, its target recorded by name."""
    server = raw_server(http_response(200, None, b"carried"))
    body = _get_through_socks(any_socks_proxy, server, password=any_socks_proxy.password)
    assert body == b"carried"
    assert any_socks_proxy.targets == [f"localhost:{server.port}"]
    any_socks_proxy.forget()
    assert any_socks_proxy.targets == []


@pytest.mark.parametrize("password", [None, "wrong"])
def test_the_socks_proxy_wants_its_password(
    raw_server: RawServerFactory, socks_proxy_with_password: Proxy, password: str | None
) -> None:
    """Without the right password nothing is carried."""
    server = raw_server(http_response())
    with pytest.raises(socks.ProxyError):
        _get_through_socks(socks_proxy_with_password, server, password=password)
    assert server.connections == []
    assert socks_proxy_with_password.targets == []


def test_the_http_proxies_carry_and_record(
    raw_server: RawServerFactory, any_http_proxy: Proxy
) -> None:
    """Plain requests and CONNECT are carried, and recorded by URL and by host and port."""
    server = raw_server(http_response(200, None, b"carried"))
    with urllib3.ProxyManager(any_http_proxy.url(), proxy_headers=_login(any_http_proxy)) as pool:
        assert pool.request("GET", server.url + "/x").data == b"carried"
    tunnel = http.client.HTTPConnection("127.0.0.1", any_http_proxy.port, timeout=10)
    tunnel.set_tunnel("localhost", server.port, _login(any_http_proxy))
    with contextlib.closing(tunnel):
        tunnel.request("GET", "/y")
        assert tunnel.getresponse().read() == b"carried"
    assert any_http_proxy.targets == [f"{server.url}/x", f"localhost:{server.port}"]


def _login(proxy: Proxy) -> dict[str, str]:
    if not proxy.password:
        return {}
    return urllib3.make_headers(proxy_basic_auth=f"{USER}:{proxy.password}")


def test_the_http_proxy_wants_its_password(http_proxy_with_password: Proxy) -> None:
    """Without the right password the proxy answers 407."""
    proxy = http_proxy_with_password
    wrong = urllib3.make_headers(proxy_basic_auth=f"{USER}:wrong")
    with urllib3.ProxyManager(f"http://127.0.0.1:{proxy.port}", proxy_headers=wrong) as pool:
        reply = pool.request("GET", "http://127.0.0.1:9/", retries=False)
    assert reply.status in (401, 407)


def test_the_https_proxy_is_spoken_to_over_tls(
    raw_server: RawServerFactory, https_proxy: Proxy, ca: trustme.CA, ca_file: Path
) -> None:
    """A target with TLS is reached through the tunnel of a proxy with TLS."""
    server = raw_server(http_response(200, None, b"carried"), tls=ca)
    with urllib3.ProxyManager(https_proxy.url(), ca_certs=str(ca_file)) as pool:
        assert pool.request("GET", server.url).data == b"carried"
    assert https_proxy.targets == [f"127.0.0.1:{server.port}"]


def test_a_missing_proxy_fails_and_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without the program a test fails, not skips, and names the package."""
    monkeypatch.setenv("PATH", "")
    with pytest.raises(pytest.fail.Exception, match="apt-get install tinyproxy-bin"):
        find_program("tinyproxy")


@pytest.mark.parametrize(
    ("settings", "code", "said"),
    [
        ({}, 0, r"SKIPPED \[\d+\] tests/\S*: needs a browser: apt-get install"),
        ({"LLMPROVIDERS_TEST_NO_SKIPS": "1"}, 1, "ERROR tests/.* - Skipped: needs a browser"),
    ],
    ids=["skips", "no skips"],
)
def test_without_a_browser(
    request: pytest.FixtureRequest, settings: dict[str, str], code: int, said: str
) -> None:
    """Tests that need a browser are skipped, with one line that says why; where skips count, fail.

    ``.ci/run`` has skips count.
    """
    root = request.config.rootpath
    [path] = root.joinpath("tests").rglob("test_jupyterlab.py")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-n0", str(path)],
        cwd=root,
        env={**os.environ, "PATH": "", "COLUMNS": "200", **settings},
        capture_output=True,
        text=True,
    )
    summary = done.stdout.partition("short test summary info")[2]
    assert done.returncode == code, done.stdout + done.stderr
    assert re.search(said, summary)
    assert summary.count("SKIPPED") == (code == 0)


def test_urls_of_proxies_encode_the_password(socks_proxy_with_password: Proxy) -> None:
    """The URL holds the password percent-encoded, under the scheme that is asked for."""
    parts = urllib.parse.urlsplit(socks_proxy_with_password.url("socks5"))
    assert parts.scheme == "socks5"
    assert parts.username == USER
    assert urllib.parse.unquote(parts.password or "") == SOCKS_PASSWORD
