"""Connecting: dead addresses cost little, a name counts against the timeout, SOCKS by the book."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from llmproviders._http import sockets
from llmproviders._http.proxies import bypasses
from llmproviders._http.sockets import Exchange, SocksProxy, dial, resolve
from llmproviders._redact import Secret
from llmproviders._runtime.scope import SYSTEM_CLOCK, CancelScope
from tests.conftest import RawServerFactory
from tests.support.leaks import no_leaks
from tests.support.rawserver import Connection, Stall

TCP = (socket.SOCK_STREAM, socket.IPPROTO_TCP, "")


def v4(port: int) -> tuple[Any, ...]:
    """A loopback address as the resolver gives it."""
    return (socket.AF_INET, *TCP, ("127.0.0.1", port))


def answers(*addresses: tuple[Any, ...]) -> Callable[..., list[tuple[Any, ...]]]:
    """A resolver that knows one host."""
    return lambda _host, _port: list(addresses)


def connect(*addresses: tuple[Any, ...], timeout: float = 10, at: float | None = None) -> Any:
    """Dial a host that has these addresses."""
    scope = CancelScope.lasting(at, clock=SYSTEM_CLOCK)
    return dial(
        "llm.test", 1, timeout=timeout, exchange=Exchange(scope), look_up=answers(*addresses)
    )


class TestRace:
    def test_two_dead_addresses(self, raw_server: RawServerFactory, black_hole: int) -> None:
        """Two addresses that never answer cost half a second, and nothing of them stays open."""
        server = raw_server([Stall()])
        with no_leaks():
            begin = time.monotonic()
            sock = connect(v4(black_hole), v4(black_hole), v4(server.port))
            took = time.monotonic() - begin
            assert sock.getpeername()[1] == server.port
            sock.close()
        assert 0.45 < took < 5

    def test_a_refusal_does_not_wait(self, raw_server: RawServerFactory, refused_port: int) -> None:
        """The next address is tried at once where one is refused; the last error is raised."""
        server = raw_server([Stall()])
        with connect(v4(refused_port), v4(refused_port), v4(server.port)) as sock:
            assert sock.getpeername()[1] == server.port
        with pytest.raises(ConnectionRefusedError):
            connect(v4(refused_port), v4(refused_port))

    def test_the_first_that_answers_wins(
        self, raw_server: RawServerFactory, black_hole: int
    ) -> None:
        """An address that answers within its head start is alone: no other is asked."""
        first, second = raw_server([Stall()]), raw_server([Stall()])
        with connect(v4(first.port), v4(second.port)) as sock:
            assert sock.getpeername()[1] == first.port
        assert second.connections == []

    def test_families_take_turns(self) -> None:
        """Addresses of both families are tried in turn, beginning with the resolver's first."""
        six = [(socket.AF_INET6, *TCP, (f"::{n}", 1, 0, 0)) for n in range(3)]
        four = [v4(n) for n in range(1, 3)]
        order = sockets._interleaved([*six, *four])
        assert order == [six[0], four[0], six[1], four[1], six[2]]

    @pytest.mark.parametrize(("timeout", "at"), [(0.4, None), (30, 0.4)])
    def test_all_dead(self, black_hole: int, timeout: float, at: float | None) -> None:
        """All addresses together take no longer than the timeout and the deadline."""
        begin = time.monotonic()
        with no_leaks(), pytest.raises(TimeoutError):
            connect(*[v4(black_hole)] * 9, timeout=timeout, at=at)
        assert time.monotonic() - begin < 5

    def test_cancelled(self, black_hole: int) -> None:
        """Another thread ends it, and nothing stays open."""
        scope = CancelScope()
        threading.Timer(0.1, scope.cancel).start()
        with no_leaks(), pytest.raises(TimeoutError):
            dial(
                "llm.test", 1, timeout=60, exchange=Exchange(scope),
                look_up=answers(v4(black_hole), v4(black_hole)),
            )  # fmt: skip


class TestNames:
    def test_a_name_counts_against_the_timeout(self) -> None:
        """A resolver that does not answer is given up after the connect timeout."""
        found = threading.Event()

        def look_up(_host: str, _port: int) -> list[Any]:
            found.wait(30)
            return []

        begin = time.monotonic()
        try:
            with pytest.raises(TimeoutError, match="not resolved in time"):
                dial("llm.test", 1, timeout=0.3, exchange=Exchange(CancelScope()), look_up=look_up)
        finally:
            found.set()
        assert time.monotonic() - begin < 5

    def test_no_thread_to_be_had(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Where the system allows no more threads, a name is resolved in place."""

        def start(_: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        monkeypatch.setattr(threading.Thread, "start", start)
        with caplog.at_level(logging.DEBUG, "llmproviders"):
            assert resolve("llm.test", 1, CancelScope(), look_up=answers(v4(7))) == [v4(7)]
        assert "resolved in place" in caplog.text


class Socks:
    """A SOCKS5 proxy of the book, as a script for a raw server; it keeps what it was told."""

    def __init__(self) -> None:
        self.login = b""
        self.target = b""

    def __call__(self, conn: Connection) -> None:
        """Take a login and a target, and say hello."""
        sock = conn._sock
        assert sock.recv(2) == b"\5\2"
        sock.recv(2)
        sock.sendall(b"\5\2")
        head = sock.recv(2)
        if not head:
            return
        user = sock.recv(head[1])
        self.login = user + b":" + sock.recv(sock.recv(1)[0])
        sock.sendall(b"\1\0")
        head = sock.recv(5)
        self.target = sock.recv(head[4]) + sock.recv(2)
        sock.sendall(b"\5\0\0\3\4host\0\1")
        sock.sendall(b"hello")
        conn.stall()


@pytest.mark.parametrize("length", [1, 127, 128, 200, 255])
def test_long_socks_passwords(raw_server: RawServerFactory, length: int) -> None:
    """A user and a password for SOCKS5 may have 255 bytes each."""
    script = Socks()
    server = raw_server(script)
    word = "p" * length
    proxy = SocksProxy(5, "127.0.0.1", server.port, True, word, Secret(word))
    with dial("llm.test", 443, timeout=10, exchange=Exchange(CancelScope()), proxy=proxy) as sock:
        assert sock.recv(5) == b"hello"
    assert script.login == f"{word}:{word}".encode()
    assert script.target == b"llm.test\1\xbb"


def test_a_socks_password_that_is_too_long(raw_server: RawServerFactory) -> None:
    """A longer one is refused with a sentence before it is sent."""
    script = Socks()
    server = raw_server(script)
    proxy = SocksProxy(5, "127.0.0.1", server.port, True, "me", Secret("p" * 256))
    with pytest.raises(OSError, match="1 to 255 bytes"):
        dial("llm.test", 443, timeout=10, exchange=Exchange(CancelScope()), proxy=proxy)


@pytest.mark.parametrize(
    ("host", "port", "no_proxy", "direct"),
    [
        ("fd00::7", 443, "fd00::/8", True),
        ("fd00::7", 443, "[fd00::]/8", True),
        ("fe80::7", 443, "fd00::/8", False),
        ("::1", 80, "[::1]", True),
        ("2001:db8::1", 8080, "[2001:db8::1]:8080", True),
        ("2001:db8::1", 80, "[2001:db8::1]:8080", False),
        ("2001:db8::1", 80, "2001:db8:0::1", True),
        ("10.1.2.3", 80, "192.168.0.0/16, 10.0.0.0/8", True),
        ("10.1.2.3", 80, "10.1.2.3:80", True),
        ("llm.corp.example", 443, "localhost *.corp.example", True),
        ("corp.example", 443, "*.corp.example", True),
        ("evilcorp.example", 443, "*.corp.example", False),
        ("llm.corp.example", 443, "  .corp.example ,", True),
        ("LLM.corp.example.", 443, "corp.EXAMPLE", True),
        ("llm.corp.example", 443, "corp.example:8443", False),
        ("anything", 1, "*", True),
        ("anything", 1, "", False),
        ("anything", 1, "*.", False),
    ],
)
def test_no_proxy(host: str, port: int, no_proxy: str, direct: bool) -> None:
    """``NO_PROXY`` takes networks of both families, brackets, ports, spaces and ``*.host``."""
    assert bypasses(host, port, no_proxy) is direct
