"""The services on loopback, in a separate process; their replies are made beforehand.

The address of a client says what it gets: ``/RUN/SERVICE/FRAMING/PIECES/PACE/...``. ``RUN`` is any
word; ``/stats/RUN`` has its number of connections. The service ``tools`` calls a function PIECES
times before it answers. ``PACE`` is ``once`` for a reply sent as a whole; ``each`` for its head and
each piece sent separately, as a real service does; or the milliseconds between pieces, which then
start with the time when they were sent, in nanoseconds of the machine's monotonic clock.
"""

from __future__ import annotations

import argparse
import json
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from benchmarks.speed import wire

ROOT = Path(__file__).parents[2]
STAMP_DIGITS = 20
_FIELDS = 5


def _paced(pieces: int, pace: str) -> Iterator[str]:
    if pace == "each":
        yield from map(wire.piece, range(pieces))
        return
    due = time.monotonic()
    for index in range(pieces):
        due += float(pace) / 1000
        time.sleep(max(0.0, due - time.monotonic()))
        yield f"{time.monotonic_ns():0{STAMP_DIGITS}}{wire.piece(index)}"


class _Used:
    """How many connections each run has used."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()

    def enter(self, run: str) -> None:
        """Count one more connection of ``run``."""
        with self._lock:
            self._counts[run] += 1

    def by(self, run: str) -> int:
        """The connections that ``run`` has used."""
        return self._counts[run]


class _Connection:
    """Answers the requests of one connection, one after another."""

    def __init__(self, sock: socket.socket, used: _Used) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._sock = sock
        self._used = used
        self._runs: set[str] = set()
        self._received = b""

    def serve(self) -> None:
        """Answer until the client has gone; ``Connection: close`` is kept."""
        try:
            with self._sock:
                while self._answer():
                    pass
        except OSError:
            return

    def _more(self) -> bool:
        data = self._sock.recv(65536)
        self._received += data
        return bool(data)

    def _answer(self) -> bool:
        while b"\r\n\r\n" not in self._received:
            if not self._more():
                return False
        start, _, self._received = self._received.partition(b"\r\n\r\n")
        size = _body_size(start)
        while len(self._received) < size:
            if not self._more():
                return False
        body, self._received = self._received[:size], self._received[size:]
        return self._reply(start.split(None, 2)[1].decode(), body)

    def _reply(self, path: str, body: bytes) -> bool:
        run, *fields = path.strip("/").split("/", _FIELDS)
        if run == "stats":
            self._sock.sendall(_json({"connections": self._used.by(fields[0])}))
            return True
        if run not in self._runs:
            self._runs.add(run)
            self._used.enter(run)
        service, framing, count, pace = fields[:4]
        rest = fields[4] if len(fields) > 4 else ""
        if service == "page" and not rest:
            self._sock.sendall(wire.with_length(wire.PAGE, b"text/html"))
            return True
        pieces = int(count)
        if service == "tools":
            self._sock.sendall(_turn(body, pieces))
            return True
        if service in ("chat", "strict") and b"true" not in body.partition(b'"stream"')[2][:8]:
            self._sock.sendall(wire.with_length(wire.completion(pieces), b"application/json"))
            return True
        start = wire.stream_head(service, framing)
        if pace == "once":
            self._sock.sendall(start + wire.stream_body(service, framing, pieces))
        else:
            self._sock.sendall(start)
            for data in wire.FRAMINGS[framing][1](wire.EVENTS[service](_paced(pieces, pace))):
                self._sock.sendall(data)
        return framing != "close"


def _body_size(start: bytes) -> int:
    _, found, rest = start.lower().partition(b"\r\ncontent-length:")
    return int(rest.partition(b"\r\n")[0]) if found else 0


def _turn(body: bytes, turns: int) -> bytes:
    """A stream with the next call of a function, or with an answer once there were ``turns``."""
    done = sum(message["role"] == "tool" for message in json.loads(body)["messages"])
    events = wire.chat_events([wire.piece(0)]) if done == turns else wire.call_events(done)
    return wire.stream_head("chat", "single") + b"".join(wire.FRAMINGS["single"][1](events))


def _json(value: object) -> bytes:
    return wire.with_length(json.dumps(value).encode(), b"application/json")


def run() -> None:
    """Serve until standard input ends, having printed the port."""
    used = _Used()
    listener = socket.create_server(("127.0.0.1", 0), backlog=128)
    print(listener.getsockname()[1], flush=True)
    threading.Thread(target=_accept, args=(listener, used), daemon=True).start()
    sys.stdin.read()


def _accept(listener: socket.socket, used: _Used) -> None:
    while True:
        sock, _ = listener.accept()
        threading.Thread(target=_Connection(sock, used).serve, daemon=True).start()


class Server:
    """The server's process, as a context manager; its value is the base address."""

    def __enter__(self) -> str:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.speed.server"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        return f"http://127.0.0.1:{int(self._process.stdout.readline())}"

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    run()
