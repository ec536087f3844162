"""The servers that the tests stand on do what they say."""

from __future__ import annotations

import contextlib
import gzip
import http.client
import socket
import ssl
import threading
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
import trustme

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
from tests.support.rawserver import (
    Close,
    Connection,
    RawServer,
    Read,
    Reset,
    Stall,
    Wait,
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
