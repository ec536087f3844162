"""A small threaded HTTP/1.1 server on loopback whose connections can misbehave on request."""

from __future__ import annotations

import contextlib
import itertools
import os
import selectors
import socket
import struct
import threading
import time
from collections.abc import Callable
from math import inf
from typing import NamedTuple

from llmproviders.sandbox._record import Headers
from llmproviders.sandbox._settings import SLICE_S

HOST = "127.0.0.1"

_MAX_HEAD = 256 * 1024

_MAX_BODY = 256 * 1024 * 1024

_READ_SIZE = 256 * 1024

_JOIN_S = 10.0

_RESET_ON_CLOSE = struct.pack("hh" if os.name == "nt" else "ii", 1, 0)


class ConnectionOverError(Exception):
    """Nothing more can be sent; `client_left` tells who ended it."""

    def __init__(self, *, client_left: bool) -> None:
        super().__init__("the client left" if client_left else "the sandbox closed")
        self.client_left = client_left


class BadRequestError(Exception):
    """A request that is not valid HTTP; `status` is the status to answer with."""

    def __init__(self, status: int) -> None:
        super().__init__(f"HTTP {status}")
        self.status = status


class Incoming(NamedTuple):
    """A request as it was read."""

    method: str
    path: str
    query: str
    version: str
    headers: Headers
    body: bytes

    @property
    def wants_close(self) -> bool:
        """Whether the client wants the connection closed after this reply."""
        choice = self.headers.get("connection", "").lower()
        return choice == "close" or (self.version == "HTTP/1.0" and choice != "keep-alive")


class Connection:
    """One TCP connection: reads requests, sends bytes, and notices when the client leaves."""

    def __init__(self, sock: socket.socket, number: int, closing: threading.Event) -> None:
        self.number = number
        self._sock = sock
        self._closing = closing
        self._unread = bytearray()

    def read_request(self) -> Incoming | None:
        """Return the next request, or None if the client sends no more.

        Raises BadRequestError, and ConnectionOverError if the client leaves in the middle of one.
        """
        while (end := self._unread.find(b"\r\n\r\n")) < 0:
            if len(self._unread) > _MAX_HEAD:
                raise BadRequestError(431)
            if not self._receive():
                return None
        lines = self._take(end + 4).decode("latin-1")[:-4].split("\r\n")
        try:
            method, target, version = lines[0].split(" ")
        except ValueError:
            raise BadRequestError(400) from None
        values: dict[str, str] = {}
        for line in lines[1:]:
            name, colon, value = line.partition(":")
            if not colon or name != name.strip():
                raise BadRequestError(400)
            name, value = name.lower(), value.strip()
            values[name] = f"{values[name]}, {value}" if name in values else value
        path, _, query = target.partition("?")
        body = self._read_body(values)
        return Incoming(method, path, query, version, Headers(values), body)

    def _read_body(self, headers: dict[str, str]) -> bytes:
        chunked = headers.get("transfer-encoding", "").lower() == "chunked"
        try:
            length = int(headers.get("content-length", 0))
        except ValueError:
            raise BadRequestError(400) from None
        if not chunked and length == 0:
            return b""
        if length < 0:
            raise BadRequestError(400)
        if length > _MAX_BODY:
            raise BadRequestError(413)
        if headers.get("expect", "").lower() == "100-continue":
            self.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        return self._read_chunks() if chunked else self._read_exactly(length)

    def _read_chunks(self) -> bytes:
        body = bytearray()
        while True:
            size_text = self._read_line().partition(b";")[0]
            try:
                size = int(size_text, 16)
            except ValueError:
                raise BadRequestError(400) from None
            if len(body) + size > _MAX_BODY:
                raise BadRequestError(413)
            if size == 0:
                while self._read_line():
                    pass
                return bytes(body)
            body += self._read_exactly(size)
            self._read_line()

    def _read_line(self) -> bytes:
        while (end := self._unread.find(b"\r\n")) < 0:
            if len(self._unread) > _MAX_HEAD:
                raise BadRequestError(400)
            if not self._receive():
                raise ConnectionOverError(client_left=True)
        return self._take(end + 2)[:-2]

    def _read_exactly(self, size: int) -> bytes:
        while len(self._unread) < size:
            if not self._receive():
                raise ConnectionOverError(client_left=True)
        return self._take(size)

    def _take(self, size: int) -> bytes:
        data = bytes(self._unread[:size])
        del self._unread[:size]
        return data

    def _receive(self) -> bool:
        try:
            data = self._sock.recv(_READ_SIZE)
        except OSError:
            data = b""
        self._unread += data
        return bool(data)

    def send(self, data: bytes) -> None:
        """Send bytes at once; raise ConnectionOverError if the connection is closed."""
        try:
            self._sock.sendall(data)
        except OSError:
            raise self._over() from None

    def wait(self, seconds: float | None) -> None:
        """Wait (None: forever); raise ConnectionOverError if the connection ends."""
        try:
            self._sock.settimeout(seconds)
            next_byte = self._sock.recv(1, socket.MSG_PEEK)
        except (TimeoutError, BlockingIOError):
            return
        except OSError:
            raise self._over() from None
        finally:
            with contextlib.suppress(OSError):
                self._sock.settimeout(None)
        if not next_byte or self._closing.wait(seconds):
            raise self._over()

    def _over(self) -> ConnectionOverError:
        return ConnectionOverError(client_left=not self._closing.is_set())

    def reset(self) -> None:
        """End the connection with an RST."""
        with contextlib.suppress(OSError):
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        self._sock.close()

    def interrupt(self) -> None:
        """Wake the thread that reads, sends or waits on this connection."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """End the connection."""
        self.interrupt()
        self._sock.close()


class Server:
    """Accepts connections on 127.0.0.1 and gives each one a thread.

    `handle` is called in that thread with the connection and a request (or a ``BadRequestError``),
    sends the reply, and returns whether the connection can take another request.
    """

    def __init__(self, handle: Callable[[Connection, Incoming | BadRequestError], bool]) -> None:
        self._handle = handle
        self._closing = threading.Event()
        self._numbers = itertools.count(1)
        self._connections: dict[Connection, threading.Thread] = {}
        self._lock = threading.Lock()

    def start(self, port: int) -> int:
        """Listen on a port (0: any free one), and return it."""
        self._listener = socket.create_server((HOST, port), backlog=1024)
        self._listener.setblocking(False)
        self._waker, self._woken = socket.socketpair()
        self._acceptor = threading.Thread(target=self._accept, name="sandbox-accept", daemon=True)
        self._acceptor.start()
        bound: int = self._listener.getsockname()[1]
        return bound

    def close(self) -> None:
        """End every connection and every thread."""
        self._closing.set()
        # Works even if a forked process holds copies of the sockets.
        self._waker.send(b"!")
        _join(self._acceptor, inf)
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        for sock in (self._listener, self._waker, self._woken):
            sock.close()
        with self._lock:
            connections = dict(self._connections)
        for connection in connections:
            connection.interrupt()
        give_up_at = time.monotonic() + _JOIN_S
        for thread in connections.values():
            if thread is not threading.current_thread():
                _join(thread, give_up_at)

    def _accept(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._listener, selectors.EVENT_READ)
            selector.register(self._woken, selectors.EVENT_READ)
            while not self._closing.is_set():
                selector.select()
                try:
                    sock, _ = self._listener.accept()
                    sock.setblocking(True)
                    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                except BlockingIOError:
                    continue
                except OSError:
                    # Out of file descriptors, or the client has already left: both are temporary.
                    self._closing.wait(0.01)
                    continue
                self._open(sock)

    def _open(self, sock: socket.socket) -> None:
        connection = Connection(sock, next(self._numbers), self._closing)
        thread = threading.Thread(
            target=self._serve, args=(connection,), name=f"sandbox-{connection.number}", daemon=True
        )
        with self._lock:
            self._connections[connection] = thread
        thread.start()

    def _serve(self, connection: Connection) -> None:
        try:
            while not self._closing.is_set():
                request: Incoming | BadRequestError | None
                try:
                    request = connection.read_request()
                except BadRequestError as error:
                    request = error
                if request is None or not self._handle(connection, request):
                    break
        except ConnectionOverError:
            pass
        finally:
            connection.close()
            with self._lock:
                del self._connections[connection]


def _join(thread: threading.Thread, until: float) -> None:
    """Wait for a thread to end, until a time of the monotonic clock."""
    while thread.is_alive() and (left := until - time.monotonic()) > 0:
        thread.join(min(left, SLICE_S))
