"""Sockets that end with their call, and the urllib3 connections that use them.

A read timeout bounds one silence, so a server that sends a byte a second, or comments for ever,
defeats it. Here each receive, in a proxy's greeting, in headers or in a body, asks the scope of
its call how long it may take, and another thread can cut it off. No timer, no thread.
"""

from __future__ import annotations

import contextlib
import errno
import io
import ipaddress
import os
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from http.client import HTTPResponse, parse_headers
from math import inf
from typing import Any, TypeVar

import socks
from urllib3.connection import HTTPConnection
from urllib3.util import wait_for_write
from urllib3.util.connection import allowed_gai_family

from .._redact import MASK, Secret
from .._runtime.process import in_each_child, keep_untouched
from .._runtime.scope import SLICE_S, CancelScope, Waker, in_slices
from .._signals import Unstoppable, from_handler, ignoring, let_through

T = TypeVar("T")


_BUFFER = 64 * 1024

_UNDER_WAY = (errno.EINPROGRESS, errno.EWOULDBLOCK)

# The other end is gone; RemoteDisconnected is one of the first.
_GONE = (ConnectionError, ssl.SSLEOFError, ssl.SSLZeroReturnError)


class Exchange:
    """One request and its reply: ties the socket that serves it to the scope of its call.

    Args:
        scope: how long both may take.
        anew: whether no kept connection may serve it.

    Attributes:
        scope: how long both may take.
        anew: whether no kept connection may serve it.
        opened: whether its connection was opened for it.
        sock: what they travel on.
        reply: the reply as ``http.client`` reads it, under what urllib3 makes of it.
    """

    __slots__ = ("anew", "opened", "reply", "scope", "sock")

    def __init__(self, scope: CancelScope, *, anew: bool = False) -> None:
        self.scope = scope
        self.anew = anew
        self.opened = False
        self.sock: socket.socket | None = None
        self.reply: TrackedReply | None = None

    @property
    def bounded(self) -> bool:
        """Whether each wait for its socket asks the scope how long it may take."""
        return isinstance(self.sock, Bounded)

    def bind(self, sock: Any) -> None:
        """Let ``sock`` serve this exchange, and no longer the one that it served before."""
        sock = getattr(sock, "socket", sock)  # urllib3's TLS inside the TLS of a proxy
        if sock is self.sock or not isinstance(sock, socket.socket):
            return
        self.unbind()
        if isinstance(sock, Bounded):
            if sock.exchange is not None:
                sock.exchange.unbind()
            sock.exchange = self
            _in_use[id(sock)] = sock
        self.sock = sock
        self.scope.attach(sock, partial(_cut, sock))

    def found_closed(self, error: BaseException) -> bool:
        """Whether it failed with ``error`` because a kept connection had been closed meanwhile.

        A connection that is closed says so in its own time, which may be just after it was taken
        for the next request. Then not a byte of a reply has come.
        """
        begun = self.reply is not None and self.reply.begun
        return (
            not (self.opened or self.sock is None or begun)
            and isinstance(error, _GONE)
            and not self.scope.over
        )

    def drop(self) -> None:
        """Close the connection, whoever holds it, and let go of it."""
        sock, reply = self.sock, self.reply
        self.unbind()
        if sock is not None:
            _cut(sock)
            # Before there is a reply, TLS may be about to take the descriptor over.
            if reply is not None:
                reply.close()
                sock.close()

    def unbind(self) -> None:
        """Let go of the socket; from here on the scope cannot touch it."""
        _in_use.pop(id(self.sock), None)
        sock, self.sock = self.sock, None
        if sock is not None:
            self.scope.detach(sock)
            if isinstance(sock, Bounded):
                sock.exchange = None

    def cut(self) -> None:
        """Wake whoever waits for its socket, from another thread, too."""
        if self.sock is not None:
            _cut(self.sock)


def _cut(sock: socket.socket) -> None:
    # SSLSocket.shutdown would drop its TLS state under the reader's feet.
    with ignoring(OSError):
        socket.socket.shutdown(sock, socket.SHUT_RDWR)


class _Held(bytearray):
    """What waits to be sent; its ``repr`` does not show the keys and the prompt in it."""

    def __repr__(self) -> str:
        return f"<{len(self)} bytes>"


class Bounded(socket.socket):
    """A socket none of whose operations outlasts the exchange that it serves."""

    exchange: Exchange | None = None
    patience: float | None = None
    _fitted: float | None = None
    _held: bytearray | None = None

    def settimeout(self, value: float | None) -> None:
        """Bound the silence between two reads, as any socket does."""
        self.patience = self._fitted = value
        super().settimeout(value)

    def gettimeout(self) -> float | None:
        """What was set; a single wait is shorter."""
        return self.patience

    def recv_into(self, *args: Any, **kwargs: Any) -> int:
        """Receive as any socket does, for no longer than the scope lasts."""
        return self._in_slices(super().recv_into, *args, **kwargs)

    def recv(self, *args: Any, **kwargs: Any) -> bytes:
        """Receive as any socket does, for no longer than the scope lasts."""
        return self._in_slices(super().recv, *args, **kwargs)

    def send(self, *args: Any, **kwargs: Any) -> int:
        """Send as any socket does, for no longer than the scope lasts."""
        return self._in_slices(super().send, *args, **kwargs)

    def sendall(self, data: Any, *args: Any) -> None:
        """Send as any socket does, for no longer than the scope lasts."""
        if self._held is not None:
            self._held += data
            return
        with memoryview(data) as view, view.cast("B") as left:
            sent = 0
            while sent < len(left):
                sent += self.send(left[sent:], *args)

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Send at its end, in one go, what is sent in the block."""
        self._held = held = _Held()
        try:
            yield
        finally:
            self._held = None
        self.sendall(held)

    def _in_slices(self, operate: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        waited = 0.0
        while True:
            slice_s = self._fit(waited)
            try:
                return operate(*args, **kwargs)
            except TimeoutError as error:
                let_through(error)
                waited += slice_s

    def _fit(self, waited: float) -> float:
        """Let the next wait be one slice, no longer than the scope lasts; its seconds.

        Args:
            waited: seconds that the operation has taken so far.

        Raises:
            TimeoutError: the scope is over, or the silence has been too long.
        """
        left = inf if self.exchange is None else self.exchange.scope.remaining()
        if left <= 0:
            raise TimeoutError("the call is over")
        patience = inf if self.patience is None else self.patience - waited
        if patience <= 0:
            raise TimeoutError("timed out")
        fitting = min(left, patience, SLICE_S)
        if fitting != self._fitted:
            self._fitted = fitting
            super().settimeout(fitting)
        return fitting

    def leave_to_parent(self) -> None:
        """In a forked child: close its copy, which tells neither the server nor the parent."""
        descriptor = self.detach()
        if descriptor >= 0:
            os.close(descriptor)


class BoundedTLS(Bounded, ssl.SSLSocket):
    """The same over TLS; a context makes them when it is its ``sslsocket_class``."""

    _sslobj: Any

    def leave_to_parent(self) -> None:
        """In a forked child: close its copy, and forget the parent's TLS state."""
        # It would go on to use the number of the descriptor, which another file gets next. Nor is
        # it freed: a thread of the parent may have been in the midst of it.
        keep_untouched(self._sslobj)
        self._sslobj = None
        super().leave_to_parent()

    def do_handshake(self, block: bool = False) -> None:
        """Shake hands, for no longer than the scope lasts of the exchange that wants it."""
        try:
            # The socket is this one from here on; the plain one before has lost its descriptor.
            _current().bind(self)
            self._in_slices(super().do_handshake, block)
        except BaseException:
            self.close()
            raise


_in_use: dict[int, Bounded] = {}


def _leave_connections_to_parent() -> None:
    while _in_use:
        _in_use.popitem()[1].leave_to_parent()


# Two processes that read one connection would each get pieces of the reply, and a shutdown in one
# ends it for both. Without a descriptor nothing that runs in the child can touch it.
in_each_child(_leave_connections_to_parent)


def _connect(sock: socket.socket, address: Any) -> None:
    """Connect as any socket does, but in slices."""
    # Not as methods of ``sock``: those of a SOCKS socket do more.
    patience = socket.socket.gettimeout(sock)
    socket.socket.setblocking(sock, False)
    error = socket.socket.connect_ex(sock, address)
    if error in _UNDER_WAY:
        if not in_slices(partial(wait_for_write, sock), inf if patience is None else patience):
            raise TimeoutError("timed out")
        error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if error:
        raise OSError(error, os.strerror(error))
    socket.socket.settimeout(sock, patience)


class _Connecting(socket.socket):
    def connect(self, address: Any) -> None:
        _connect(self, address)


class _SocksNegotiation(Bounded, socks.socksocket, _Connecting):
    """Speaks to a SOCKS proxy; once through, its connection goes on as a plain socket.

    To the proxy itself, ``socksocket`` connects by what comes after it here.
    """


@dataclass(frozen=True)
class SocksProxy:
    """Where a SOCKS proxy is and how it wants to be spoken to."""

    version: int
    host: str
    port: int
    remote_names: bool
    username: str | None = None
    password: Secret | None = None


def resolve(host: str, port: int, scope: CancelScope) -> list[tuple[Any, ...]]:
    """Addresses of ``host`` as ``getaddrinfo`` gives them, within the scope.

    A resolver cannot be given a time limit nor be interrupted, so one that has to ask the network
    is asked in a thread of its own, and left behind when time is up.

    Raises:
        TimeoutError: the scope ended first.
        OSError: there is no such name.
    """
    if _needs_no_network(host):
        return socket.getaddrinfo(host, port, allowed_gai_family(), socket.SOCK_STREAM)
    answer: list[Any] = []
    done = Waker()

    def ask() -> None:
        try:
            answer.append(socket.getaddrinfo(host, port, allowed_gai_family(), socket.SOCK_STREAM))
        except (OSError, UnicodeError) as error:
            answer.append(error)
        done.set()

    scope.attach(done, done.set)
    try:
        threading.Thread(target=ask, name=f"resolve {host}", daemon=True).start()
        in_slices(done.wait, scope.remaining())
    finally:
        scope.detach(done)
    if not answer:
        raise TimeoutError(f"the name {host} was not resolved in time")
    if isinstance(answer[0], UnicodeError):
        raise socket.gaierror(socket.EAI_NONAME, f"{host!r} is not a host name")
    if isinstance(answer[0], OSError):
        raise answer[0]
    return list(answer[0])


def _needs_no_network(host: str) -> bool:
    return host == "localhost" or is_address(host)


def is_address(host: str) -> bool:
    """Whether ``host`` is an IP address rather than a name."""
    try:
        ipaddress.ip_address(host.strip("[]"))
    except ValueError as error:
        let_through(error)
        return False
    return True


def dial(
    host: str,
    port: int,
    *,
    timeout: float | None,
    exchange: Exchange,
    options: Any = (),
    proxy: SocksProxy | None = None,
) -> Bounded:
    """Open a connection, through ``proxy`` where there is one, trying each address in turn.

    Args:
        host: a name or an address.
        port: a TCP port.
        timeout: seconds for one address.
        exchange: what the socket will serve; its scope bounds all of it.
        options: socket options as urllib3 has them.
        proxy: a SOCKS proxy to go through.

    Raises:
        OSError: the last address's error; ``TimeoutError`` and ``socket.gaierror`` among them.
    """
    scope = exchange.scope
    if proxy is not None and not proxy.remote_names and not is_address(host):
        host = str(resolve(host, port, scope)[0][4][0])
    near = (host, port) if proxy is None else (proxy.host, proxy.port)
    failure: OSError = OSError(f"{near[0]} has no address")
    for family, kind, number, _, address in resolve(near[0].strip("[]"), near[1], scope):
        sock = (Bounded if proxy is None else _SocksNegotiation)(family, kind, number)
        try:
            for option in options or ():
                sock.setsockopt(*option)
            exchange.bind(sock)
            left = min(inf if timeout is None else timeout, scope.remaining())
            if left <= 0 or scope.cancelled:
                raise TimeoutError("the call is over")
            sock.settimeout(None if left == inf else left)
            if isinstance(sock, _SocksNegotiation):
                assert proxy is not None
                _pass_through(sock, proxy, address, (host, port))
            else:
                _connect(sock, address)
            # What cut it off before it was connected had no effect on it.
            if scope.cancelled:
                raise TimeoutError("the call is over")
            return sock
        except BaseException as error:
            _drop(sock, exchange)
            if not isinstance(error, OSError) or from_handler(error):
                raise
            failure = error
    raise failure


def _pass_through(
    sock: _SocksNegotiation,
    proxy: SocksProxy,
    address: tuple[Any, ...],
    target: tuple[str, int],
) -> None:
    sock.set_proxy(
        proxy.version,
        address[0],
        address[1],
        rdns=True,
        username=proxy.username,
        password=proxy.password,
    )
    sock.connect(target)
    # In one step: of a descriptor on its way to another socket an interrupt would leave no owner.
    sock.__class__ = Bounded  # type: ignore[assignment]
    sock.settimeout(sock.patience)


def _drop(sock: socket.socket, exchange: Exchange) -> None:
    exchange.unbind()
    # Not ``close``, which waits for the files that were made of it, and a traceback may hold one.
    with ignoring(OSError):
        socket.close(sock.detach())


_local = threading.local()


@contextlib.contextmanager
def serving(exchange: Exchange) -> Iterator[None]:
    """Let the connections that this thread opens or reuses in the block serve ``exchange``."""
    before = getattr(_local, "exchange", None)
    _local.exchange = exchange
    try:
        yield
    finally:
        _local.exchange = before


def _serving() -> Exchange | None:
    return getattr(_local, "exchange", None)


def _current() -> Exchange:
    return _serving() or Exchange(CancelScope())


class _Incoming(io.RawIOBase):
    """What arrives on a socket, as the file that ``http.client`` reads one reply from.

    Attributes:
        begun: whether any of it has arrived.
        leftover: whether more than the reply had been read when it ended.
    """

    _file: Any = None  # what closing it looks at, should an interrupt end its making

    def __init__(self, sock: Any) -> None:
        # It keeps the descriptor open, as any file that is made of a socket does.
        self._file = sock.makefile("rb", buffering=0)
        self._receive = sock.recv_into
        self.begun = self.leftover = self._ended = False

    def makefile(self, mode: str) -> io.BufferedReader:
        """What ``http.client`` asks a socket for."""
        return _Buffer(self, _BUFFER)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if self._ended:
            return 0
        try:
            count: int = self._receive(buffer)
        except Exception as error:
            # Python's buffer and http.client take some errors for their own.
            if from_handler(error):
                raise Unstoppable from error
            raise
        if count:
            self.begun = True
        return count

    def end(self, buffer: io.BufferedReader) -> None:
        """Receive nothing more, and look what ``buffer`` has that nobody asked for."""
        self._ended = True
        self.leftover = bool(buffer.peek(1))

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        super().close()


class _Buffer(io.BufferedReader):
    raw: _Incoming

    def close(self) -> None:
        try:
            if not self.closed:
                self.raw.end(self)
        finally:
            super().close()


class TrackedReply(HTTPResponse):
    """A reply of ``http.client`` that its exchange knows."""

    # What closing it looks at, should an interrupt end its making.
    fp: Any = None
    _incoming: _Incoming | None = None

    def __init__(self, sock: Any, *args: Any, **kwargs: Any) -> None:
        exchange = _serving()
        if exchange is not None:
            exchange.reply = self
        self._incoming = _Incoming(sock)
        super().__init__(self._incoming, *args, **kwargs)  # type: ignore[arg-type]

    @property
    def begun(self) -> bool:
        """Whether any of it has arrived."""
        return self._incoming is not None and self._incoming.begun

    @property
    def leftover(self) -> bool:
        """Whether more had arrived with it when it ended."""
        return self._incoming is not None and self._incoming.leftover

    def close(self) -> None:
        try:
            super().close()
        finally:
            if self._incoming is not None:
                self._incoming.close()

    # Of the replies that come before the reply, http.client itself passes over 100 alone. There
    # is no public hook; each receive asks the scope, so that an endless series ends with the call.
    def _read_status(self) -> tuple[str, int, str]:
        while True:
            version, status, reason = super()._read_status()  # type: ignore[misc]
            if not 102 <= status < 200:
                return version, status, reason
            parse_headers(self.fp)


class _Head(bytes):
    """The head of a request with its secrets, shown without them.

    Attributes:
        shown: what its ``repr`` shows.
    """

    shown: bytes

    @classmethod
    def of(cls, head: bytes, secrets: Mapping[str, str]) -> _Head:
        """``head``, which ends in a blank line, with more headers."""
        lines = "".join(f"{name}: {secret[:]}\r\n" for name, secret in secrets.items())
        self = cls(head[:-2] + lines.encode("latin-1") + b"\r\n")
        self.shown = head[:-2] + "".join(f"{name}: {MASK}\r\n" for name in secrets).encode()
        return self

    def __repr__(self) -> str:
        return repr(self.shown)


def _apart(headers: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """Headers that may be seen, and those that may not."""
    seen: dict[str, str] = {}
    secrets: dict[str, str] = {}
    for name, value in headers.items():
        (secrets if isinstance(value, Secret) else seen)[name] = value
    return seen, secrets


class Tracked(HTTPConnection):
    """A connection that makes its socket and its reply known to the exchange that it serves."""

    response_class = TrackedReply

    @property
    def is_connected(self) -> bool:
        """Whether it can serve a request: it is open, and nothing has come that nobody reads."""
        exchange = _serving()
        wanted = exchange is None or not exchange.anew
        return wanted and super().is_connected and not _pending(self.sock)

    def connect(self) -> None:
        exchange = _serving()
        if exchange is not None:
            exchange.opened = True
        super().connect()
        if exchange is not None:
            exchange.bind(self.sock)

    def request(self, *args: Any, **kwargs: Any) -> None:
        if self.sock is None:
            self.connect()
        sock = self.sock
        exchange = _serving()
        if exchange is not None:
            exchange.bind(sock)
        try:
            # http.client sends head and body apart: two packets, and two wake-ups of the server.
            with sock.together() if isinstance(sock, Bounded) else contextlib.nullcontext():
                super().request(*args, **kwargs)
        except OSError as error:
            # Of some errors urllib3 takes no notice, whoever raised them.
            if from_handler(error):
                raise Unstoppable from error
            # As of this one: a server may answer before it has read all, and close.
            if isinstance(error, _GONE):
                raise BrokenPipeError(errno.EPIPE, str(error)) from error
            raise


def _pending(sock: Any) -> int:
    """How many bytes TLS has received and decrypted that nobody has read."""
    if isinstance(sock, ssl.SSLSocket):
        return sock.pending()
    outer = getattr(sock, "socket", None)
    if outer is None:
        return 0
    # urllib3's TLS inside the TLS of a proxy.
    return int(sock.sslobj.pending() + sock.incoming.pending + _pending(outer))


def track(pool: Any) -> None:
    """Let the connections that a pool of the caller's opens from now on be :class:`Tracked`.

    urllib3 names no hook for one pool, but ``ConnectionCls`` is what its documentation has
    subclasses of pools change.
    """
    cls = getattr(pool, "ConnectionCls", None)
    if isinstance(cls, type) and issubclass(cls, HTTPConnection) and not issubclass(cls, Tracked):
        pool.ConnectionCls = type(f"Tracked{cls.__name__}", (Tracked, cls), {})
