"""Ctrl-C and SIGTERM end a call at once, wherever it is, and leave nothing open."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from llmproviders import FailoverClient, ServerError, StreamInterrupted
from llmproviders.sandbox import Sandbox
from tests.conftest import RawServerFactory
from tests.support.actors import Actor, FakeClock
from tests.support.http_bytes import chunked, http_response
from tests.support.rawserver import Stall

ENDS_WITHIN_S = 0.3
EVENT = b'data: {"choices": [{"index": 0, "delta": {"content": "%b"}}]}\n\n'
BEGUN = http_response(
    200, {"Content-Type": "text/event-stream"}, chunked([EVENT % b"It ", EVENT % b"is"], end=False)
)
CHILD = """if True:
    import json, os, signal, sys, threading, time
    sys.path.insert(0, os.getcwd())
    from llmproviders import FailoverClient, OpenAICompatible
    from tests.support.leaks import open_sockets

    how, handler, arguments, *urls = json.loads(sys.argv[1])
    class Stop(Exception):
        pass
    def stop(*_):
        raise Stop
    if handler == "exit":
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    elif handler == "raise":
        signal.signal(signal.SIGTERM, stop)
    providers = [
        OpenAICompatible(base_url=url + "/v1", model="m", name=str(n)) for n, url in enumerate(urls)
    ]
    client = FailoverClient(providers, on_event=lambda a: print("event", flush=True), **arguments)
    print("ready", flush=True)
    try:
        if how == "complete":
            client.complete("Why?")
        else:
            for piece in client.stream("Why?"):
                print("piece", flush=True)
    except BaseException as error:
        ended = time.monotonic()
        client.close()
        print(json.dumps({
            "error": type(error).__name__,
            "ended": ended,
            "sockets": len(open_sockets()),
            "threads": threading.active_count(),
            "partial": getattr(error, "partial_text", None),
        }), flush=True)
"""


class Child:
    """A process in the middle of a call."""

    def __init__(self, *urls: str, how: str = "complete", handler: str = "", **arguments: Any):
        order = json.dumps([how, handler, arguments, *urls])
        self._process = subprocess.Popen(
            [sys.executable, "-c", CHILD, order],
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        )
        self.expect("ready")

    def expect(self, word: str) -> None:
        """Wait until it says a word."""
        assert self._process.stdout is not None
        assert self._process.stdout.readline().strip() == word

    def end(self, number: signal.Signals = signal.SIGINT) -> dict[str, Any]:
        """Send it a signal and return what came of it."""
        assert self._process.stdout is not None
        sent = time.monotonic()
        self._process.send_signal(number)
        found: dict[str, Any] = json.loads(self._process.stdout.read().splitlines()[-1])
        self._process.wait(10)
        found["took"] = found.pop("ended") - sent
        return found

    def kill(self) -> None:
        """End it for good."""
        self._process.kill()
        self._process.wait(10)
        assert self._process.stdout is not None
        self._process.stdout.close()


Start = Callable[..., Child]


@pytest.fixture
def start() -> Iterator[Start]:
    """Return what starts a child process; all are killed when the test ends."""
    children: list[Child] = []

    def make(*urls: str, **settings: Any) -> Child:
        children.append(Child(*urls, **settings))
        return children[-1]

    yield make
    for child in children:
        child.kill()


def interrupted(
    make: Callable[[], Child], number: signal.Signals = signal.SIGINT
) -> dict[str, Any]:
    """What came of a signal; the best of three has to be in time, for the machine may be busy."""
    for _ in range(3):
        found = make().end(number)
        if found["took"] < ENDS_WITHIN_S:
            break
    assert found.pop("took") < ENDS_WITHIN_S
    assert (found.pop("sockets"), found.pop("threads")) == (0, 1)
    return found


def connecting(port: int) -> int:
    """How many connections to a port wait for their SYN to be answered (Linux)."""
    fields = (line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:])
    return sum(f[2].endswith(f":{port:04X}") and f[3] == "02" for f in fields)


def test_a_read(raw_server: RawServerFactory, start: Start) -> None:
    """A call that waits for a reply's head."""
    server = raw_server([Stall()])
    asked = 0

    def waiting() -> Child:
        nonlocal asked
        child = start(server.url)
        asked += 1
        server.wait_for(lambda s: len(s.requests) == asked)
        return child

    assert interrupted(waiting) == {"error": "KeyboardInterrupt", "partial": ""}
    assert server.connections[-1].client_closed.wait(10)
    assert len(server.connections) == asked


def test_a_stream(raw_server: RawServerFactory, start: Start) -> None:
    """A stream that waits for its next piece."""
    server = raw_server([*BEGUN, Stall()])

    def waiting() -> Child:
        child = start(server.url, how="stream")
        child.expect("piece")
        child.expect("piece")
        return child

    assert interrupted(waiting)["error"] == "KeyboardInterrupt"
    assert server.connections[-1].client_closed.wait(10)


def test_a_connect(black_hole: int, start: Start) -> None:
    """A call whose connection is not answered."""

    def waiting() -> Child:
        before = connecting(black_hole)
        child = start(f"http://127.0.0.1:{black_hole}")
        end = time.monotonic() + 10
        while connecting(black_hole) <= before and time.monotonic() < end:
            os.sched_yield()
        return child

    assert interrupted(waiting) == {"error": "KeyboardInterrupt", "partial": ""}


def test_a_wait(raw_server: RawServerFactory, start: Start) -> None:
    """A call that sleeps before it tries again; it does not try again."""
    server = raw_server(http_response(429, {"Retry-After": "50"}, b"{}"))
    asked = 0

    def waiting() -> Child:
        nonlocal asked
        asked += 1
        child = start(server.url)
        child.expect("event")
        return child

    assert interrupted(waiting) == {"error": "KeyboardInterrupt", "partial": ""}
    assert len(server.requests) == asked


def test_a_race(raw_server: RawServerFactory, start: Start) -> None:
    """A call that races two providers: both connections and both threads end."""
    slow, other = raw_server([Stall()]), raw_server([Stall()])
    asked = 0

    def waiting() -> Child:
        nonlocal asked
        asked += 1
        child = start(slow.url, other.url, hedge_after=0.01)
        for server in (slow, other):
            server.wait_for(lambda s: len(s.requests) == asked)
        return child

    assert interrupted(waiting) == {"error": "KeyboardInterrupt", "partial": ""}
    assert slow.connections[-1].client_closed.wait(10)
    assert other.connections[-1].client_closed.wait(10)


@pytest.mark.parametrize(("handler", "error"), [("exit", "SystemExit"), ("raise", "Stop")])
def test_sigterm(raw_server: RawServerFactory, start: Start, handler: str, error: str) -> None:
    """Whatever a handler of SIGTERM raises ends the call in the same way, and is not retried."""
    server = raw_server([Stall()])
    asked = 0

    def waiting() -> Child:
        nonlocal asked
        asked += 1
        child = start(server.url, handler=handler)
        server.wait_for(lambda s: len(s.requests) == asked)
        return child

    assert interrupted(waiting, signal.SIGTERM) == {"error": error, "partial": ""}
    assert len(server.connections) == asked


@pytest.mark.usefixtures("leak_guard")
class TestInThisProcess:
    def test_the_text_so_far(self) -> None:
        """``complete`` leaves the text so far in the interrupt, and tries nobody else."""
        other = Actor(["other"])
        cut = Actor(["It ", "scat", lambda: signal.raise_signal(signal.SIGINT)])
        with pytest.raises(KeyboardInterrupt) as caught:
            FailoverClient([cut, other]).complete("Why?")
        assert caught.value.partial_text == "It scat"  # type: ignore[attr-defined]
        assert (cut.tries, cut.playing, other.tries) == (1, 0, 0)

    def test_text_that_was_void_is_not_in_it(self) -> None:
        """Text of a try that was given up is no part of the text so far."""
        broken = ["void", StreamInterrupted("cut")]
        cut = Actor(broken, ["It ", lambda: signal.raise_signal(signal.SIGINT)])
        with pytest.raises(KeyboardInterrupt) as caught:
            FailoverClient([cut]).complete("Why?")
        assert caught.value.partial_text == "It "  # type: ignore[attr-defined]

    def test_the_client_goes_on(self, sandbox: Sandbox) -> None:
        """After an interrupt the same client, its token, its place and its health are in order."""
        with sandbox.client("gigachat") as client:
            stream = client.stream("Why?")
            next(stream)
            with pytest.raises(KeyboardInterrupt):
                stream.throw(KeyboardInterrupt)
            assert str(client.complete("Why?"))
            assert sandbox.count("gigachat", "token") == 1
            assert str(client.report().providers[0].condition) == "well"

    def test_a_probe_that_is_interrupted(self) -> None:
        """An interrupted probe tells nothing, and the next call probes."""
        clock = FakeClock()
        probed = Actor(
            [ServerError("down")], [lambda: signal.raise_signal(signal.SIGINT)], ["up"], name="p"
        )
        client = FailoverClient([probed, Actor(["ok"])], attempts=1, clock=clock)
        client.complete("Why?")
        clock.pass_(30)
        with pytest.raises(KeyboardInterrupt):
            client.complete("Why?")
        assert client.complete("Why?").provider == "p"
