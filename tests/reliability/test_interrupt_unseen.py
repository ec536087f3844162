"""A signal that comes just before a wait begins wakes it not, and still is seen in time."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from llmproviders import FailoverClient, GigaChat, LLMError, OpenAICompatible
from llmproviders._http.sockets import Exchange, dial
from llmproviders._runtime.scope import SLICE_S, CancelScope, in_slices
from llmproviders.provider import Provider, Request
from llmproviders.sandbox import Sandbox
from tests.conftest import RawServerFactory
from tests.support.http_bytes import http_response
from tests.support.interrupts import unnoticed
from tests.support.rawserver import Connection, RawServer, Stall

SEEN_WITHIN_S = 2.0
"""The promise is 0.3; the waits of these tests would last ten seconds and more."""

PATIENCE = (20.0, 20.0)


def assert_seen(call: Callable[[], object], waits: Callable[[], object] = lambda: None) -> None:
    """Fail unless a signal that wakes nothing ends a call soon."""
    result, took = unnoticed(call, waits)
    assert isinstance(result, KeyboardInterrupt)
    assert took < SEEN_WITHIN_S


def asking(url: str, **arguments: Any) -> Provider:
    """A provider that is patient."""
    return OpenAICompatible(base_url=f"{url}/v1", model="m", timeout=PATIENCE, **arguments)


def connected(server: RawServer) -> Callable[[], None]:
    """What returns when a server has a connection."""
    return lambda: server.wait_for(lambda s: s.connections)


def asked(server: RawServer) -> Callable[[], None]:
    """What returns when a server has a request."""
    return lambda: server.wait_for(lambda s: s.requests)


@contextlib.contextmanager
def elsewhere(provider: Provider) -> Iterator[None]:
    """Another thread's call, which ends with the block."""
    scope = CancelScope().cancellable()

    def ask() -> None:
        with contextlib.suppress(LLMError):
            list(provider.generate(Request.of("Why?", params={}), scope))

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield
    finally:
        scope.cancel()
        thread.join()


pytestmark = pytest.mark.usefixtures("leak_guard")


class TestSlices:
    def test_each_is_short(self) -> None:
        """However long the whole, no wait of it is longer than a slice."""
        waits: list[float] = []
        assert in_slices(lambda seconds: waits.append(seconds) or len(waits) == 5, 1e9)
        assert waits == [SLICE_S] * 5

    def test_the_last_is_what_is_left(self) -> None:
        """What never comes is waited for as long as was said, and not in vain before that."""
        waits: list[float] = []
        start = time.monotonic()
        assert not in_slices(lambda seconds: waits.append(seconds) or time.sleep(seconds), 0.25)
        assert time.monotonic() - start >= 0.25
        assert waits[0] == SLICE_S
        assert 0 < waits[-1] < SLICE_S

    @pytest.mark.parametrize("seconds", [0.0, -1.0])
    def test_no_time(self, seconds: float) -> None:
        """Without time there still is one look."""
        waits: list[float] = []
        assert not in_slices(waits.append, seconds)
        assert waits == [0.0]


class TestWaits:
    def test_a_sleep(self, raw_server: RawServerFactory) -> None:
        """The wait before the next try."""
        server = raw_server(http_response(429, {"Retry-After": "30"}, b"{}"))
        told = threading.Event()
        client = FailoverClient([asking(server.url)], on_event=lambda _: told.set())
        with client:
            assert_seen(lambda: client.complete("Why?"), told.wait)

    def test_a_sleep_that_may_be_cut_off(self) -> None:
        """A sleep that another thread may end, too."""
        scope = CancelScope().cancellable()
        assert_seen(lambda: scope.sleep(20))

    def test_a_connect(self, black_hole: int) -> None:
        """A connection that is not answered."""
        assert_seen(lambda: asking(f"http://127.0.0.1:{black_hole}").complete("Why?"))

    def test_a_connect_to_a_proxy(self, black_hole: int) -> None:
        """A SOCKS proxy that does not answer."""
        provider = asking("http://service.invalid", proxy=f"socks5h://127.0.0.1:{black_hole}")
        assert_seen(lambda: provider.complete("Why?"))

    @pytest.mark.parametrize("scheme", ["socks5h", "http"])
    def test_a_greeting(self, raw_server: RawServerFactory, scheme: str) -> None:
        """A proxy that takes the connection and says nothing."""
        server = raw_server(Connection.stall)
        proxy = f"{scheme}://127.0.0.1:{server.port}"
        with asking("https://service.invalid", proxy=proxy) as provider:
            assert_seen(lambda: provider.complete("Why?"), connected(server))

    def test_a_name(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A resolver that does not answer."""
        answer = threading.Event()
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_: answer.wait(20))
        assert_seen(lambda: asking("http://service.invalid").complete("Why?"))
        answer.set()

    def test_a_handshake(self, raw_server: RawServerFactory) -> None:
        """A server that takes the connection and does not shake hands."""
        server = raw_server(Connection.stall)
        with asking(f"https://127.0.0.1:{server.port}") as provider:
            assert_seen(lambda: provider.complete("Why?"), connected(server))

    def test_a_read(self, raw_server: RawServerFactory) -> None:
        """A server that does not answer."""
        server = raw_server([Stall()])
        with asking(server.url) as provider:
            assert_seen(lambda: provider.complete("Why?"), asked(server))

    def test_a_send(self, raw_server: RawServerFactory) -> None:
        """A server that does not read."""

        def deaf(connection: Connection) -> None:
            done.wait(20)

        done = threading.Event()
        server = raw_server(deaf)
        with asking(server.url) as provider:
            assert_seen(lambda: provider.complete("Why? " * 4_000_000), connected(server))
        done.set()

    def test_a_place(self, raw_server: RawServerFactory) -> None:
        """A place that another thread has."""
        server = raw_server([Stall()])
        with asking(server.url, max_concurrency=1) as provider, elsewhere(provider):
            assert_seen(lambda: provider.complete("Why?"), asked(server))

    def test_a_token(self, sandbox: Sandbox) -> None:
        """A token that another thread fetches."""
        sandbox.fail("gigachat", on="token", stall=True, before_head=True)
        arguments = sandbox.provider_arguments("gigachat")
        with (
            GigaChat(**arguments, timeout=PATIENCE, max_concurrency=2) as provider,
            elsewhere(provider),
        ):
            sandbox.wait_for(lambda s: s.count("gigachat", "token"))
            assert_seen(lambda: provider.complete("Why?"))

    def test_a_race(self, raw_server: RawServerFactory) -> None:
        """Two providers that have no text yet."""
        slow, other = raw_server([Stall()]), raw_server([Stall()])
        with FailoverClient([asking(slow.url), asking(other.url)], hedge_after=0.01) as client:
            assert_seen(lambda: client.complete("Why?"), asked(other))


def test_cut_off_just_before_it_is_connected(raw_server: RawServerFactory) -> None:
    """A connection that another thread cut off when it was not made yet is not used."""

    class Ending(CancelScope):
        """Ends when the connection is about to be made, after the last look at that."""

        answers = iter([False, False])

        @property
        def cancelled(self) -> bool:
            return next(self.answers, True)

    server = raw_server([Stall()])
    exchange = Exchange(Ending())
    with pytest.raises(TimeoutError, match="the call is over"):
        dial("127.0.0.1", server.port, timeout=10, exchange=exchange)
    server.wait_for(lambda s: s.connections)
    assert server.connections[0].client_closed.wait(10)
    assert exchange.sock is None
