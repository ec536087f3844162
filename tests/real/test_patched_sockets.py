"""Where gevent, eventlet, truststore or something else has replaced Python's sockets or TLS."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import trustme

from tests.conftest import RawServerFactory
from tests.support.http_bytes import http_response
from tests.support.rawserver import Connection, Stall

ASKS = Path(__file__).with_name("asks.py")

WHOLE = (
    b'{"choices": [{"index": 0, "finish_reason": "stop",'
    b' "message": {"role": "assistant", "content": "hello"}}]}'
)

TOLERANCE_S = 0.25

ENDED = ["hello", "hello", *["DeadlineExceeded"] * 5]


def answer(conn: Connection) -> None:
    """Answer every request on the connection."""
    while True:
        conn.read_request()
        conn.run(http_response(200, {"Content-Type": "application/json"}, WHOLE))


def drip(conn: Connection) -> None:
    """Send a comment of a stream now and then, without end."""
    conn.read_request()
    conn.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
    while True:
        conn.send(b":")
        conn.pause(0.2)


@pytest.fixture
def urls(raw_server: RawServerFactory, ca: trustme.CA) -> list[str]:
    """Return servers that answer, are silent, drip, and one that never shakes hands."""
    found = [
        raw_server(behaviour, tls=tls).url
        for behaviour in (answer, [Stall()], drip)
        for tls in (None, ca)
    ]
    deaf = raw_server(lambda conn: conn.stall()).url
    return [*found, deaf.replace("http:", "https:")]


def asked(python: str, told: str, bundle: Path, urls: list[str]) -> dict[str, Any]:
    """What the process prints that asks all of them at once.

    The best of three processes has to keep the deadline, since the machine may be busy.
    """
    for _ in range(3):
        ended = subprocess.run(
            [python, str(ASKS), told, str(bundle), *urls],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert ended.returncode == 0, ended.stderr
        found: dict[str, Any] = json.loads(ended.stdout)
        if found["late"] < TOLERANCE_S:
            return found
    raise AssertionError(f"the deadline passed {found['late']} s before the last call ended")


@pytest.mark.real_programs
@pytest.mark.parametrize("library", ["gevent", "eventlet"])
@pytest.mark.parametrize("moment", ["first", "requests", "made", "called", "called+session"])
def test_cooperative_sockets(
    real_python: str, urls: list[str], ca_file: Path, library: str, moment: str
) -> None:
    """Whatever was imported, made or called before, deadlines hold and all calls wait at once.

    A silent server, a drip and a handshake that never comes, over http and https; each call ends
    within 0.25 s of its deadline.
    """
    found = asked(real_python, f"{library}-{moment}", ca_file, urls)
    assert found["ended"] == ENDED
    assert found["again"] == ["hello", "hello"]
    # Were they to hold the others up, there would be one turn after each.
    assert found["turns"] > len(urls) + 1
    assert found["said"] == []


@pytest.mark.real_programs
@pytest.mark.parametrize(
    "told", ["truststore-first", "truststore-called", "truststore-called+session", "system"]
)
def test_the_system_store(real_python: str, urls: list[str], ca_file: Path, told: str) -> None:
    """Deadlines hold with truststore, injected or asked for."""
    found = asked(real_python, told, ca_file, urls)
    assert found["ended"] == ENDED
    assert found["again"] == ["hello", "hello"]


def test_other_sockets(urls: list[str], ca_file: Path) -> None:
    """Another replacement of Python's sockets is used, with one warning.

    Deadlines hold there, too.
    """
    found = asked(sys.executable, "socket-first", ca_file, urls)
    assert found["ended"] == ENDED
    assert found["again"] == ["hello", "hello"]
    (warning,) = found["said"]
    assert warning.startswith("__main__.Own replaces Python's sockets")
