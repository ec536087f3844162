"""A loopback server that sends exactly the bytes that a test specifies, when it should.

A test gives one behaviour for each connection, in turn; the last one also serves all further
connections. A behaviour is a script or a function:

- a script is a list of steps. The server first reads one request, then goes through the steps,
  then closes. Steps are bytes to send and the classes below: ``Read``, ``Wait``, ``Pause``,
  ``Stall``, ``Reset``, ``Close``. What ``http_response`` returns is a script.
- a function gets the ``RawConnection`` and does everything itself, including reading.
"""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, TypeVar

T = TypeVar("T")

PATIENCE_S = 10.0
"""How long the server waits for what should be quick: a request's rest, a thread's end."""


class ClientGone(Exception):  # noqa: N818 - it marks an end, not an error
    """The client closed the connection, or the server is being stopped."""


@dataclass(frozen=True)
class RawRequest:
    """A request as it arrived; ``headers`` in order, ``body`` without its framing."""

    method: str
    target: str
    headers: tuple[tuple[str, str], ...]
    body: bytes
    peer_port: int

    def header(self, name: str) -> str | None:
        """Return the first header of that name, in any case."""
        return next((v for k, v in self.headers if k.lower() == name.lower()), None)


class Step(Protocol):
    """One step of a script."""

    def run(self, conn: RawConnection) -> None:
        """Do it."""


@dataclass(frozen=True)
class Read:
    """Read one more request on this connection."""

    def run(self, conn: RawConnection) -> None:
        """Read and record it."""
        conn.read_request()


@dataclass(frozen=True)
class Wait:
    """Continue when the test sets the event."""

    event: threading.Event

    def run(self, conn: RawConnection) -> None:
        """Wait for it, while there is a client."""
        conn.wait(self.event)


@dataclass(frozen=True)
class Pause:
    """Continue after that many seconds."""

    seconds: float

    def run(self, conn: RawConnection) -> None:
        """Wait, while there is a client."""
        conn.pause(self.seconds)


@dataclass(frozen=True)
class Stall:
    """Send nothing more until the client closes the connection."""

    def run(self, conn: RawConnection) -> None:
        """Hold the connection."""
        conn.stall()


@dataclass(frozen=True)
class Reset:
    """End the connection with a TCP reset."""

    def run(self, conn: RawConnection) -> None:
        """Reset it."""
        conn.reset()


@dataclass(frozen=True)
class Close:
    """Close the connection normally, as the end of a script does."""

    def run(self, conn: RawConnection) -> None:
        """Close it."""
        conn.close()


Script = Sequence[bytes | Step]
Handler = Callable[["RawConnection"], None]
Behaviour = Script | Handler


def keep_alive(*replies: Script) -> Handler:
    """Answer several requests on one connection, each with the next script, then with the last one.

    Args:
        replies: a script for each request.

    >>> from llmproviders.testing import http_response
    >>> with RawServer(keep_alive(http_response(503), http_response(404))) as server:
    ...     server.url
    'http://127.0.0.1:...'
    """

    def handle(conn: RawConnection) -> None:
        served = 0
        while not conn.closed:
            conn.read_request()
            conn.run(replies[min(served, len(replies) - 1)])
            served += 1

    return handle


class RawConnection:
    """The server's end of one connection."""

    def __init__(self, server: RawServer, sock: socket.socket, peer_port: int) -> None:
        self._server = server
        self._sock = sock
        self._received = b""
        self.peer_port = peer_port
        self.client_closed = threading.Event()
        """Set as soon as the server has seen the client close the connection."""
        self.closed = False

    def start_tls(self, context: ssl.SSLContext) -> None:
        """Do the TLS handshake; raises ``OSError`` if the client refuses it."""
        tls = context.wrap_socket(self._sock, server_side=True, do_handshake_on_connect=False)
        self._sock = tls
        if self._server.stopping:  # abort() may have shut down the socket that TLS replaces
            raise ClientGone
        tls.do_handshake()

    def read_request(self) -> RawRequest:
        """Read one whole request, and record it.

        Raises:
            ClientGone: the client closed first.
        """
        head = self._read_until(b"\r\n\r\n").decode("latin-1")
        start, *lines = head.split("\r\n")
        method, target, _version = start.split(" ", 2)
        headers = tuple((k, v.strip()) for k, _, v in (line.partition(":") for line in lines))
        request = RawRequest(method, target, headers, b"", self.peer_port)
        if (request.header("Transfer-Encoding") or "").lower() == "chunked":
            body = self._read_chunks()
        else:
            body = self._read_exactly(int(request.header("Content-Length") or 0))
        request = RawRequest(method, target, headers, body, self.peer_port)
        self._server.record(request)
        return request

    def send(self, data: bytes) -> None:
        """Send all of it.

        Raises:
            ClientGone: the client no longer receives it.
        """
        try:
            self._sock.sendall(data)
        except OSError as error:
            raise self._gone() from error

    def run(self, script: Script) -> None:
        """Run the steps until one of them ends the connection."""
        for step in script:
            if self.closed:
                return
            if isinstance(step, bytes):
                self.send(step)
            else:
                step.run(self)

    def wait(self, event: threading.Event) -> None:
        """Wait for the event.

        Raises:
            ClientGone: the client closed meanwhile, or the server is being stopped.
        """
        while not event.wait(0.005):
            self._watch_client(0)

    def pause(self, seconds: float) -> None:
        """Do nothing for that many seconds.

        Raises:
            ClientGone: the client closed meanwhile, or the server is being stopped.
        """
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self._watch_client(left)

    def stall(self) -> None:
        """Do nothing until the client closes the connection or the server is stopped."""
        with contextlib.suppress(ClientGone):
            while True:
                self._watch_client(None)

    def relay(self, upstream: socket.socket) -> None:
        """Pass bytes on, both ways, until one side closes."""
        while True:
            readable, _, _ = select.select([self._sock, upstream, self._server.wake], [], [])
            if self._server.wake in readable:
                return
            if self._sock in readable:
                self._receive()
                upstream.sendall(self._received)
                self._received = b""
            if upstream in readable:
                data = upstream.recv(65536)
                if not data:
                    return
                self.send(data)

    def reset(self) -> None:
        """Close with a TCP reset: unsent data is dropped, and the client gets ECONNRESET."""
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()

    def close(self) -> None:
        """Close normally."""
        self.closed = True
        self._sock.close()

    def abort(self) -> None:
        """Wake the thread that reads from or writes to the connection; for ``RawServer.stop``."""
        with contextlib.suppress(OSError):
            # not SSLSocket's own, which drops the TLS state while another thread reads
            socket.socket.shutdown(self._sock, socket.SHUT_RDWR)

    def _watch_client(self, timeout_s: float | None) -> None:
        """Keep the data that the client sends; raise ``ClientGone`` if it has closed."""
        if self._server.stopping:
            raise ClientGone
        readable, _, _ = select.select([self._sock, self._server.wake], [], [], timeout_s)
        if self._sock in readable:
            self._receive()

    def _receive(self) -> None:
        try:
            data = self._sock.recv(65536)
        except OSError as error:
            raise self._gone() from error
        if not data:
            raise self._gone()
        self._received += data

    def _gone(self) -> ClientGone:
        if not self._server.stopping:
            self.client_closed.set()
        return ClientGone()

    def _read_until(self, mark: bytes) -> bytes:
        while mark not in self._received:
            self._receive()
        found, _, self._received = self._received.partition(mark)
        return found

    def _read_exactly(self, count: int) -> bytes:
        while len(self._received) < count:
            self._receive()
        found, self._received = self._received[:count], self._received[count:]
        return found

    def _read_chunks(self) -> bytes:
        body = b""
        while size := int(self._read_until(b"\r\n").split(b";")[0], 16):
            body += self._read_exactly(size)
            self._read_exactly(2)
        self._read_until(b"\r\n")
        return body


class RawServer:
    """A context manager that serves on a free port of 127.0.0.1, with a thread for each connection.

    Args:
        behaviours: one for each connection, in turn; the last one for all further ones.
        tls: a server's context; None: plain HTTP.

    On exit, it ends every connection and joins every thread, and raises an exception of a behaviour
    (for example from an ``assert`` in a handler).

    Attributes:
        url: the address, without a slash at its end.
        port: the port.
        requests: the requests, in order.
        connections: the connections, in order.
        failed_handshakes: the errors of TLS handshakes.

    Raises:
        TypeError: no behaviour is given.

    >>> from llmproviders import OpenAICompatible
    >>> from llmproviders.testing import http_response
    >>> with RawServer(http_response(402, {}, b"no money")) as server:
    ...     try:
    ...         OpenAICompatible(base_url=server.url, model="m").complete("Hi")
    ...     except Exception as error:
    ...         print(type(error).__name__, server.requests[0].target)
    QuotaExceededError /chat/completions
    """

    def __init__(self, *behaviours: Behaviour, tls: ssl.SSLContext | None = None) -> None:
        if not behaviours:
            raise TypeError("RawServer needs a behaviour")
        self._behaviours = behaviours
        self._tls = tls
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.wake, self.waker = socket.socketpair()
        self._changed = threading.Condition()
        self._threads = [threading.Thread(target=self._accept, name="rawserver", daemon=True)]
        self._failures: list[BaseException] = []
        self.host = "127.0.0.1"
        self.port: int = self._listener.getsockname()[1]
        self.stopping = False
        self.connections: list[RawConnection] = []
        self.requests: list[RawRequest] = []
        self.failed_handshakes: list[OSError] = []

    @property
    def url(self) -> str:
        """The address, without a slash at its end."""
        return f"{'https' if self._tls else 'http'}://{self.host}:{self.port}"

    def __enter__(self) -> RawServer:
        self._threads[0].start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()
        if self._failures and error is None:
            raise self._failures[0]

    def wait_for(self, condition: Callable[[RawServer], bool]) -> None:
        """Wait for a condition, such as a number of connections or requests.

        Args:
            condition: gets the server, and returns whether it holds.

        Raises:
            TimeoutError: it did not hold within 10 seconds.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: condition(self), PATIENCE_S):
                raise TimeoutError(
                    f"after {PATIENCE_S:g} s: {len(self.connections)} connections,"
                    f" {len(self.requests)} requests"
                )

    def stop(self) -> None:
        """End all connections and threads; a second call does nothing.

        Raises:
            TimeoutError: a behaviour did not end within 10 seconds.
        """
        if self.stopping:
            return
        self.stopping = True
        self.waker.send(b"!")
        self._threads[0].join(PATIENCE_S)
        for connection in self.connections:
            connection.abort()
        for thread in self._threads:
            thread.join(PATIENCE_S)
        self._listener.close()
        self.wake.close()
        self.waker.close()
        if any(thread.is_alive() for thread in self._threads):
            raise TimeoutError("a behaviour of the raw server did not end")

    def record(self, request: RawRequest) -> None:
        """Add a request to ``requests``; for ``RawConnection``.

        Args:
            request: the request.
        """
        self._note(self.requests, request)

    def _note(self, seen: list[T], item: T) -> None:
        with self._changed:
            seen.append(item)
            self._changed.notify_all()

    def _accept(self) -> None:
        while True:
            readable, _, _ = select.select([self._listener, self.wake], [], [])
            if self.wake in readable:
                return
            # Not read from the socket later: the client may have reset the connection by then.
            sock, address = self._listener.accept()
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            behaviour = self._behaviours[min(len(self.connections), len(self._behaviours) - 1)]
            connection = RawConnection(self, sock, address[1])
            self._note(self.connections, connection)
            thread = threading.Thread(
                target=self._serve, args=(connection, behaviour), name="rawserver", daemon=True
            )
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: RawConnection, behaviour: Behaviour) -> None:
        try:
            if self._tls:
                try:
                    connection.start_tls(self._tls)
                except OSError as error:
                    self._note(self.failed_handshakes, error)
                    return
            if callable(behaviour):
                behaviour(connection)
            else:
                connection.read_request()
                connection.run(behaviour)
        except ClientGone:
            pass
        except BaseException as failure:  # noqa: BLE001 - raised again by stop()
            self._failures.append(failure)
        finally:
            connection.close()
