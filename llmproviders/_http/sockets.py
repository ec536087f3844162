"""Sockets whose waits end with their call: resolving, connecting, SOCKS, receiving, sending.

A read timeout only limits the time between two bytes, so a server that sends a byte a second, or
endless comments, defeats it. Here each receive, in a proxy's greeting, in headers or in a body,
asks the scope of its call how long it may take, and another thread can cut it off. There is no
timer, and no thread except for name lookups.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from itertools import zip_longest
from math import inf
from typing import Any, Protocol, TypeVar
from urllib.parse import unquote, urlsplit

import socks
from urllib3.util.connection import allowed_gai_family

from .._log import logger
from .._redact import Secret
from .._runtime.process import in_each_child
from .._runtime.scope import SLICE_S, CancelScope, Waker, in_slices
from .._signals import from_handler, ignoring, let_through
from .native import Native, cooperative, is_socket, ready

T = TypeVar("T")


_UNDER_WAY = (errno.EINPROGRESS, errno.EWOULDBLOCK)

# The peer is gone; RemoteDisconnected is a subclass of the first.
GONE = (ConnectionError, ssl.SSLEOFError, ssl.SSLZeroReturnError)


class ReplyBelow(Protocol):
    """The ``http.client`` reply under urllib3's response."""

    chunked: Any

    def read1(self, n: int = -1, /) -> bytes:
        """Read what has arrived; wait if nothing has."""

    @property
    def leftover(self) -> bool:
        """Whether more than the reply had been read by its end."""

    @property
    def begun(self) -> bool:
        """Whether any of it has arrived."""

    def close(self) -> None:
        """Close the file that it reads from."""


class Exchange:
    """One request and its reply; ties their socket to the scope of the call.

    Args:
        scope: how long both may take.
        anew: whether no kept connection may serve it.

    Attributes:
        scope: how long both may take.
        anew: whether no kept connection may serve it.
        opened: whether its connection was opened for it.
        sent: whether its request is being sent, or was.
        sock: the socket that carries them.
        reply: the ``http.client`` reply under urllib3's response.
    """

    __slots__ = ("anew", "opened", "reply", "scope", "sent", "sock")

    def __init__(self, scope: CancelScope, *, anew: bool = False) -> None:
        self.scope = scope
        self.anew = anew
        self.opened = False
        self.sent = False
        self.sock: socket.socket | None = None
        self.reply: ReplyBelow | None = None

    def begin(self, sock: Any) -> None:
        """Move ``sock``, which is connected, to this exchange, and begin to send.

        Raises:
            LLMError: see :meth:`CancelScope.check_sends`.
        """
        self.bind(sock)
        if self.scope.drain is not None:
            self.scope.check_sends()
        self.sent = True

    def bind(self, sock: Any) -> None:
        """Move ``sock`` to this exchange from the one that it served before."""
        if sock is self.sock or not (isinstance(sock, Bounded) or is_socket(sock)):
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
        """Whether ``error`` means that a kept connection had been closed in the meantime.

        The notice may arrive just after the connection was taken for the next request. In that case
        not a byte of a reply has come.
        """
        begun = self.reply is not None and self.reply.begun
        return (
            not (self.opened or self.sock is None or begun)
            and isinstance(error, GONE)
            and not self.scope.over
        )

    def drop(self) -> None:
        """Close the connection, even if something else still refers to it."""
        sock, reply = self.sock, self.reply
        self.unbind()
        if sock is not None:
            _cut(sock)
            # Until there is a reply, TLS may be about to take over the descriptor.
            if reply is not None:
                reply.close()
                sock.close()

    def unbind(self) -> None:
        """Release the socket; from here on the scope cannot cut it."""
        _in_use.pop(id(self.sock), None)
        sock, self.sock = self.sock, None
        if sock is not None:
            self.scope.detach(sock)
            if isinstance(sock, Bounded):
                sock.exchange = None

    def cut(self) -> None:
        """Wake the thread that waits for its socket; any thread may call this."""
        if self.sock is not None:
            _cut(self.sock)


def _cut(sock: Any) -> None:
    # SSLSocket.shutdown would drop the TLS state while another thread reads.
    cls = Native if isinstance(sock, Native) else socket.socket
    with ignoring(OSError):
        # eventlet's class has none; each of its sockets does.
        if hasattr(cls, "shutdown"):
            cls.shutdown(sock, socket.SHUT_RDWR)
        else:
            sock.shutdown(socket.SHUT_RDWR)


_Socket: Any = object


class Bounded(_Socket):  # type: ignore[misc]
    """A mixin for sockets: every operation ends when the scope of its exchange does.

    Attributes:
        exchange: the exchange that it serves.
        patience: the longest silence in seconds; None: no limit.
        waits: whether an operation blocks; if not, other greenlets run while it waits.
    """

    exchange: Exchange | None = None
    patience: float | None = None
    waits = True
    _fitted: float | None = None

    def settimeout(self, value: float | None) -> None:
        """Limit the silence between two reads, as any socket does."""
        self.patience = value
        self._fitted = value if self.waits else 0.0
        super().settimeout(self._fitted)

    def gettimeout(self) -> float | None:
        """The limit that was set; a single wait is shorter."""
        return self.patience

    def recv_into(self, *args: Any, **kwargs: Any) -> int:
        """Receive as any socket does, for no longer than the scope lasts."""
        count: int = self._in_slices(super().recv_into, *args, **kwargs)
        return count

    def recv(self, *args: Any, **kwargs: Any) -> bytes:
        """Receive as any socket does, for no longer than the scope lasts."""
        block: bytes = self._in_slices(super().recv, *args, **kwargs)
        return block

    def send(self, *args: Any, **kwargs: Any) -> int:
        """Send as any socket does, for no longer than the scope lasts."""
        count: int = self._in_slices(super().send, *args, **kwargs)
        return count

    def sendall(self, data: Any, *args: Any) -> None:
        """Send as any socket does, for no longer than the scope lasts."""
        with memoryview(data) as view, view.cast("B") as left:
            sent = 0
            while sent < len(left):
                sent += self.send(left[sent:], *args)

    def _in_slices(self, operate: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        waited = 0.0
        while True:
            slice_s = self._fit(waited)
            try:
                return operate(*args, **kwargs)
            except TimeoutError as error:
                let_through(error)
                waited += slice_s
            except BlockingIOError as error:
                let_through(error)
                sends = operate.__name__ == "send"
                if not ready([] if sends else [self], [self] if sends else [], slice_s):
                    waited += slice_s

    def _fit(self, waited: float) -> float:
        """Set the timeout of the next wait, within the scope, and return it in seconds.

        Args:
            waited: seconds that the operation has taken so far.

        Raises:
            TimeoutError: the scope has ended, or the silence was too long.
            LLMError: nothing was sent yet, and nothing may be.
        """
        exchange = self.exchange
        if exchange is not None and not exchange.sent and exchange.scope.drain is not None:
            exchange.scope.check_sends()
        left = inf if exchange is None else exchange.scope.remaining()
        if left <= 0:
            raise TimeoutError("the call is over")
        patience = inf if self.patience is None else self.patience - waited
        if patience <= 0:
            raise TimeoutError("timed out")
        fitting = min(left, patience, SLICE_S)
        timeout = fitting if self.waits else 0.0
        if timeout != self._fitted:
            self._fitted = timeout
            super().settimeout(timeout)
        return fitting

    def leave_to_parent(self) -> None:
        """In a forked child: close its copy without affecting the server or the parent."""
        descriptor = self.detach()
        if descriptor >= 0:
            os.close(descriptor)


class BoundedSocket(Bounded, Native):  # type: ignore[misc]
    """A bounded socket over TCP."""


_in_use: dict[int, Bounded] = {}


def _leave_connections_to_parent() -> None:
    while _in_use:
        _in_use.popitem()[1].leave_to_parent()


# Two processes that read from one connection would each get parts of the reply, and a shutdown in
# one ends it for both. Without a descriptor, the child cannot touch it.
in_each_child(_leave_connections_to_parent)


@dataclass(frozen=True)
class SocksProxy:
    """A SOCKS proxy, and how to log in to it.

    Attributes:
        version: 4 or 5.
        host: its name or address.
        port: its TCP port.
        remote_names: whether the proxy resolves names.
        username: the user, or None.
        password: the password, or None.
    """

    version: int
    host: str
    port: int
    remote_names: bool
    username: str | None = None
    password: Secret | None = None

    @classmethod
    def at(cls, url: str) -> SocksProxy | None:
        """The SOCKS proxy of a URL; None if the URL names another kind of proxy."""
        parts = urlsplit(url)
        if parts.scheme not in _SOCKS_VERSIONS:
            return None
        version, remote_names = _SOCKS_VERSIONS[parts.scheme]
        return cls(
            version,
            parts.hostname or "",
            parts.port or 1080,
            remote_names,
            None if parts.username is None else unquote(parts.username),
            None if parts.password is None else Secret(unquote(parts.password)),
        )


_SOCKS_VERSIONS = {
    "socks4": (4, False),
    "socks4a": (4, True),
    "socks5": (5, False),
    "socks5h": (5, True),
}

Addresses = Sequence[tuple[Any, ...]]
"""What ``socket.getaddrinfo`` returns."""

Lookup = Callable[..., Addresses]


def _look_up(host: str, port: int) -> Addresses:
    return socket.getaddrinfo(host, port, allowed_gai_family(), socket.SOCK_STREAM)


def resolve(
    host: str,
    port: int,
    scope: CancelScope,
    *,
    timeout: float = inf,
    look_up: Lookup = _look_up,
) -> Addresses:
    """Look up the addresses of ``host``, as ``getaddrinfo`` does, within the scope.

    A resolver has no time limit and cannot be interrupted, so it runs in a separate thread, which
    is abandoned when time is up.

    Args:
        host: a name or an address.
        port: a TCP port.
        scope: how long the call may take.
        timeout: seconds for the lookup.
        look_up: asks the resolver for a host and a port.

    Raises:
        TimeoutError: time is up.
        OSError: the name does not exist.
    """
    if host == "localhost" or is_address(host):
        return look_up(host, port)
    answer: list[Addresses | Exception] = []
    done = Waker()

    def ask() -> None:
        try:
            answer.append(look_up(host, port))
        except (OSError, UnicodeError) as error:
            answer.append(error)
        done.set()

    scope.attach(done, done.set)
    try:
        try:
            threading.Thread(target=ask, name=f"resolve {host}", daemon=True).start()
        except RuntimeError as error:
            let_through(error)
            logger.debug("no thread can be started (%s); %s is resolved in place", error, host)
            ask()
        in_slices(lambda s: done.wait(s) or scope.draining, min(timeout, scope.remaining()))
    finally:
        scope.detach(done)
    if not answer:
        scope.check_sends()
        raise TimeoutError(f"the name {host} was not resolved in time")
    found = answer[0]
    if isinstance(found, UnicodeError):
        raise socket.gaierror(socket.EAI_NONAME, f"{host!r} is not a host name")
    if isinstance(found, Exception):
        raise found
    return found


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
    options: Iterable[tuple[Any, ...]] | None = (),
    proxy: SocksProxy | None = None,
    look_up: Lookup = _look_up,
) -> BoundedSocket:
    """Open a connection, through ``proxy`` if there is one.

    Args:
        host: a name or an address.
        port: a TCP port.
        timeout: seconds for name lookup and connecting together.
        exchange: the exchange that the socket will serve; its scope limits all of it.
        options: socket options in urllib3's form.
        proxy: a SOCKS proxy to go through.
        look_up: asks the resolver for a host and a port.

    Raises:
        OSError: the last address's error; ``TimeoutError`` and ``socket.gaierror`` among them.
        socks.ProxyConnectionError: the proxy cannot be reached.
        socks.ProxyError: it refuses, breaks off, or does not speak SOCKS.
    """
    scope = exchange.scope
    patience = inf if timeout is None else timeout
    end = time.monotonic() + patience
    near = (host, port)
    if proxy is not None:
        near = (proxy.host, proxy.port)
        if not proxy.remote_names and not is_address(host):
            found = resolve(host, port, scope, timeout=patience, look_up=look_up)
            # SOCKS 4 has no IPv6.
            old = [one for one in found if proxy.version == 4 and one[0] == socket.AF_INET]
            host = str((old or found)[0][4][0])
    left = end - time.monotonic()
    opened: list[BoundedSocket] = []
    try:
        try:
            found = resolve(near[0].strip("[]"), near[1], scope, timeout=left, look_up=look_up)
            sock = _connect_first(found, scope, end, options or (), opened)
        except OSError as error:
            if proxy is None or isinstance(error, TimeoutError) or from_handler(error):
                raise
            raise socks.ProxyConnectionError("no connection to the proxy", error) from error
        exchange.bind(sock)
        left = min(patience, scope.remaining())
        # A cut before it was connected had no effect on it.
        if left <= 0 or scope.cancelled:
            raise TimeoutError("the call is over")
        sock.waits = not cooperative()
        sock.settimeout(None if left == inf else left)
        if proxy is not None:
            try:
                _pass_through(sock, proxy, host, port)
            except ConnectionError as error:
                if from_handler(error):
                    raise
                raise socks.GeneralProxyError("the proxy broke off", error) from error
        return sock
    except BaseException:
        exchange.unbind()
        for one in opened:
            _close(one)
        raise


_NEXT_ADDRESS_S = 0.25
"""Head start of an address before the next one is tried in parallel; RFC 8305, section 8."""


def _connect_first(
    addresses: Addresses,
    scope: CancelScope,
    end: float,
    options: Iterable[tuple[Any, ...]],
    opened: list[BoundedSocket],
) -> BoundedSocket:
    """Connect to the address that answers first; RFC 8305, section 5.

    Args:
        addresses: what the resolver found, in its order.
        scope: how long the call may take.
        end: when to give up, in seconds of ``time.monotonic()``.
        options: socket options.
        opened: gets every socket, so that the caller can close it after an interrupt.
    """
    waiting = _interleaved(addresses)
    failure = OSError("the name has no address")
    winner: BoundedSocket | None = None
    next_at = 0.0
    connecting: list[BoundedSocket] = []
    while winner is None and (waiting or connecting):
        now = time.monotonic()
        if scope.over:
            raise TimeoutError("the call is over")
        scope.check_sends()
        if now >= end:
            raise TimeoutError("timed out")
        if waiting and (now >= next_at or not connecting):
            family, kind, number, _, address = waiting.pop(0)
            try:
                sock = BoundedSocket(family, kind, number)
                opened.append(sock)
                error = _begin(sock, address, options)
            except OSError as trouble:
                let_through(trouble)
                failure = trouble
                continue
            if error == 0:
                winner = sock
            elif error in _UNDER_WAY:
                connecting.append(sock)
                next_at = now + _NEXT_ADDRESS_S
            else:
                failure = OSError(error, os.strerror(error))
            continue
        left = min(end - now, scope.remaining(), SLICE_S)
        if waiting:
            left = min(left, next_at - now)
        for sock in ready([], connecting, max(0.0, left)):
            connecting.remove(sock)
            error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if error == 0:
                winner = sock
                break
            failure = OSError(error, os.strerror(error))
            next_at = now
    if winner is None:
        raise failure
    for sock in opened:
        if sock is not winner:
            _close(sock)
    return winner


def _begin(sock: BoundedSocket, address: Any, options: Iterable[tuple[Any, ...]]) -> int:
    for option in options:
        sock.setsockopt(*option)
    sock.setblocking(False)
    return int(sock.connect_ex(address))


def _interleaved(addresses: Addresses) -> list[tuple[Any, ...]]:
    """Alternate the addresses of both families, starting with the resolver's first one."""
    families: dict[Any, list[tuple[Any, ...]]] = {}
    for address in addresses:
        families.setdefault(address[0], []).append(address)
    rows = zip_longest(*families.values())
    return [address for row in rows for address in row if address is not None]


def _pass_through(sock: Bounded, proxy: SocksProxy, host: str, port: int) -> None:
    """Ask the SOCKS proxy that ``sock`` is connected to for a connection to a host.

    Raises:
        socks.ProxyError: the proxy refuses, or does not speak SOCKS.
    """
    if proxy.version == 4:
        _pass_through_4(sock, proxy, host, port)
    else:
        _pass_through_5(sock, proxy, host, port)


def _pass_through_4(sock: Bounded, proxy: SocksProxy, host: str, port: int) -> None:
    name = b""
    if not is_address(host):
        # SOCKS 4a: an invalid address, with the name at the end.
        host, name = "0.0.0.1", _host_bytes(host) + b"\0"
    if ":" in host:
        raise socks.SOCKS4Error("SOCKS4 does not support IPv6 addresses; use socks5://")
    user = (proxy.username or "").encode()
    sock.sendall(b"\4\1" + port.to_bytes(2, "big") + socket.inet_aton(host) + user + b"\0" + name)
    reply = _receive(sock, 8)
    if reply[0] != 0:
        raise socks.GeneralProxyError("the SOCKS4 proxy's answer is not SOCKS4")
    if reply[1] != 0x5A:
        raise socks.SOCKS4Error(f"{reply[1]:#04x}: {socks.SOCKS4_ERRORS.get(reply[1], 'refused')}")


_NO_METHOD = 0xFF


def _pass_through_5(sock: Bounded, proxy: SocksProxy, host: str, port: int) -> None:
    """SOCKS 5, RFC 1928, with a login as in RFC 1929."""
    login = proxy.username is not None and proxy.password is not None
    sock.sendall(b"\5\2\0\2" if login else b"\5\1\0")
    version, method = _receive(sock, 2)
    if version != 5:
        raise socks.GeneralProxyError("the SOCKS5 proxy's answer is not SOCKS5")
    if method == 2 and login:
        _log_in(sock, (proxy.username or "").encode(), (proxy.password or "").encode())
    elif method == _NO_METHOD:
        raise socks.SOCKS5AuthError("the SOCKS5 proxy requires a login, or another kind of login")
    elif method != 0:
        raise socks.GeneralProxyError("the SOCKS5 proxy chose a login that was not offered")
    host = host.strip("[]")
    if not is_address(host):
        name = _host_bytes(host)
        target = bytes([3, len(name)]) + name
    elif ":" in host:
        target = b"\4" + socket.inet_pton(socket.AF_INET6, host.partition("%")[0])
    else:
        target = b"\1" + socket.inet_aton(host)
    sock.sendall(b"\5\1\0" + target + port.to_bytes(2, "big"))
    _, status, _, kind = _receive(sock, 4)
    if status:
        raise socks.SOCKS5Error(f"{status:#04x}: {socks.SOCKS5_ERRORS.get(status, 'refused')}")
    bound = {1: 4, 4: 16}.get(kind) or _receive(sock, 1)[0]
    _receive(sock, bound + 2)


def _log_in(sock: Bounded, user: bytes, password: bytes) -> None:
    if not (0 < len(user) < 256 and 0 < len(password) < 256):
        raise socks.SOCKS5AuthError("a user and a password for SOCKS5 have 1 to 255 bytes each")
    login = bytes([1, len(user)]) + user + bytes([len(password)]) + password
    sock.sendall(login)
    if _receive(sock, 2)[1] != 0:
        raise socks.SOCKS5AuthError("the SOCKS5 proxy refused the user and password")


def _host_bytes(host: str) -> bytes:
    try:
        return host.encode("ascii") if host.isascii() else host.encode("idna")
    except UnicodeError as error:
        let_through(error)
        raise socket.gaierror(socket.EAI_NONAME, f"{host!r} is not a host name") from error


def _receive(sock: Bounded, count: int) -> bytes:
    """Exactly ``count`` bytes of a proxy's answer."""
    answer = b""
    while len(answer) < count:
        block = sock.recv(count - len(answer))
        if not block:
            raise socks.GeneralProxyError("the proxy closed the connection")
        answer += block
    return answer


def _close(sock: BoundedSocket) -> None:
    # Not ``close``: it waits for files made from the socket, and a traceback may hold one.
    with ignoring(OSError):
        socket.close(sock.detach())


# Not a ``threading.local``: if made before gevent or eventlet patched it, all greenlets share it.
serving: ContextVar[Exchange | None] = ContextVar("serving", default=None)
"""The exchange of this thread or greenlet, for connections that it opens or reuses."""
