"""requests and urllib3 on this package's own sockets, proxies and trust.

Whatever reaches into another library beyond its documented interface is in this module, each time
with a comment that says which public way is missing. Each fails closed: if the library moves what
is used here, the call ends in an error.
"""

from __future__ import annotations

import errno
import io
import queue
import socket
import ssl
import threading
import warnings
from collections import deque
from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from http.client import HTTPException, HTTPResponse, parse_headers
from http.cookiejar import CookieJar
from typing import Any
from urllib.parse import urlsplit
from weakref import ref

import requests
from requests.adapters import HTTPAdapter
from requests.utils import select_proxy
from urllib3 import PoolManager, ProxyManager
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import ConnectTimeoutError, NameResolutionError, NewConnectionError
from urllib3.util.ssltransport import SSLTransport

from .._redact import MASK, Secret
from .._runtime.process import in_each_child, keep_untouched
from .._runtime.scope import CancelScope
from .._signals import Unstoppable, from_handler, let_through
from ..errors import InvalidRequestError, ProtocolError
from .certificates import full_name_in, tls_context
from .native import cooperative, foreign, is_socket, ready, receive
from .sockets import GONE, Bounded, Exchange, SocksProxy, dial, serving
from .types import Trust

_BUFFER = 64 * 1024


class BoundedTLS(Bounded, ssl.SSLSocket):
    """A bounded socket over TLS; a context makes them when it is its ``sslsocket_class``."""

    # OpenSSL's state of the connection. Python has no public way to let go of it without freeing
    # it, nor, before 3.13, to see a certificate that was not believed.
    _sslobj: Any

    def leave_to_parent(self) -> None:
        """In a forked child: close its copy, and forget the parent's TLS state."""
        # It would go on to use the number of the descriptor, which another file gets next. Nor is
        # it freed: a thread of the parent may have been in the midst of it.
        keep_untouched(self._sslobj)
        self._sslobj = None
        super().leave_to_parent()

    def do_handshake(self, block: bool = False) -> None:
        """Shake hands, within the scope of the exchange that needs the connection."""
        try:
            # The socket is this one from here on; the plain one before has lost its descriptor.
            (serving.get() or Exchange(CancelScope())).bind(self)
            self._in_slices(super().do_handshake, block)
        except ssl.SSLCertVerificationError as error:
            error.__dict__["presented"] = _presented_issuer(self._sslobj)
            self.close()
            raise
        except BaseException:
            self.close()
            raise


class TLSOverBounded(SSLTransport):
    """TLS on a bounded socket, for contexts that cannot make a :class:`BoundedTLS`.

    truststore's hold a lock as long as a server takes to shake hands, and those of gevent and
    eventlet make sockets of their own. urllib3 has it for TLS inside the TLS of a proxy.
    """

    def _ssl_io_loop(self, func: Any, *args: Any) -> Any:
        try:
            return super()._ssl_io_loop(func, *args)
        except ssl.SSLCertVerificationError as error:
            error.__dict__["presented"] = _presented_issuer(getattr(self.sslobj, "_sslobj", None))
            raise

    @classmethod
    def wrap(cls, context: ssl.SSLContext, sock: Any, **kwargs: Any) -> TLSOverBounded:
        """What ``context.wrap_socket`` does, and shake hands."""
        try:
            return cls(sock, context, kwargs.get("server_hostname"))
        except BaseException:
            sock.close()
            raise


def _presented_issuer(sslobj: Any) -> str | None:
    """Who issued the last certificate that the server showed, None where that is not known."""
    try:
        return full_name_in(sslobj.get_unverified_chain()[-1].get_info().get("issuer"))
    except (AttributeError, ValueError, TypeError, IndexError) as error:
        let_through(error)
        return None


def own_tls_context(trust: Trust) -> ssl.SSLContext:
    """The context for ``trust``, whose sockets keep to the deadline of their call."""
    context = tls_context(trust)
    if type(context).__module__ == "ssl" and not cooperative():
        context.sslsocket_class = BoundedTLS
    else:
        context.wrap_socket = partial(TLSOverBounded.wrap, context)  # type: ignore[method-assign, assignment]
    return context


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
        exchange, below = serving.get(), _innermost(sock)
        self._receive: Callable[[Any], int] = sock.recv_into
        if exchange is not None and not isinstance(below, Bounded) and is_socket(below):
            self._receive = partial(receive, sock, exchange.scope)
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
            count = self._receive(buffer)
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
        exchange = serving.get()
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
        if self._incoming is not None and self._incoming.closed:
            # http.client would flush it, and put an error of its own in an interrupt's place.
            self.fp = None
        try:
            super().close()
        finally:
            if self._incoming is not None:
                self._incoming.close()

    # Of the interim replies, http.client skips 100 alone, and has no public hook for the others.
    # Without this hook, one is an error. An endless series of them ends with the call.
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

    shown = b""

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


class _Held(bytearray):
    """What waits to be sent; its ``repr`` does not show the keys and the prompt in it."""

    def __repr__(self) -> str:
        return f"<{len(self)} bytes>"


class Tracked(HTTPConnection):
    """A connection that makes its socket and its reply known to the exchange that it serves."""

    response_class = TrackedReply
    _held: _Held | None = None

    def send(self, data: Any) -> None:
        if self._held is None:
            super().send(data)
            return
        if self.debuglevel > 0:
            print("send:", repr(data))  # noqa: T201 - as http.client does
        self._held += data

    @property
    def is_connected(self) -> bool:
        """Whether it can serve a request: it is open, and nothing has come that nobody reads."""
        try:
            exchange = serving.get()
            if self.sock is None or (exchange is not None and exchange.anew):
                return False
            if _pending(self.sock):
                return False
            # eventlet takes away what urllib3 asks.
            waits = getattr(self.sock, "waits", False)
            return super().is_connected if waits else not ready([self.sock], [], 0)
        except BaseException:
            # urllib3 has taken it from its pool to ask this, and would lose it.
            self.close()
            raise

    def connect(self) -> None:
        exchange = serving.get()
        if exchange is not None:
            exchange.opened = True
        super().connect()
        if exchange is not None:
            exchange.bind(_innermost(self.sock))

    def request(self, *args: Any, **kwargs: Any) -> None:
        if self.sock is None:
            self.connect()
        sock = self.sock
        exchange = serving.get()
        if exchange is not None:
            exchange.bind(_innermost(sock))
        try:
            # http.client sends head and body apart: two packets, and two wake-ups of the server.
            # Not on a session's sockets: the caller may send files on them.
            held = self._held = _Held() if isinstance(sock, Bounded) else None
            try:
                super().request(*args, **kwargs)
            finally:
                self._held = None
            if held is not None:
                sock.sendall(held)
        except OSError as error:
            # urllib3 ignores some errors here, also when a signal's handler raised them.
            if from_handler(error):
                raise Unstoppable from error
            # BrokenPipeError is one of them: a server may answer before it has read all.
            if isinstance(error, GONE):
                raise BrokenPipeError(errno.EPIPE, str(error)) from error
            raise


def _innermost(sock: Any) -> Any:
    """The socket itself, where urllib3 speaks TLS inside the TLS of a proxy.

    urllib3 has no public name for it. Without this hook, the connection is refused as unbounded.
    """
    return getattr(sock, "socket", sock)


def _pending(sock: Any) -> int:
    """How many bytes TLS has received and decrypted that nobody has read."""
    if isinstance(sock, ssl.SSLSocket):
        return int(sock.pending())
    outer = _innermost(sock)
    if outer is sock:
        return 0
    # urllib3 has no public way to ask it; without these attributes, the call ends in an error.
    return int(sock.sslobj.pending() + sock.incoming.pending + _pending(outer))


def hold_back(raw: Any) -> Callable[[], None]:
    """Keep urllib3 from giving a reply's connection back; return what gives it back.

    urllib3 would do so once the body has been read, before anybody has looked whether more has
    come on the connection, and has no public way to be told not to. Where this has no effect, the
    connection is cut as soon as something more has come.
    """
    release: Callable[[], None] = raw.release_conn
    raw.release_conn = lambda: None
    return release


_PATCHED = (
    (HTTPAdapter, "send"),
    (requests.Session, "send"),
    (requests.Session, "get_adapter"),
    (HTTPConnectionPool, "ConnectionCls"),
)

_MOCKS = ("requests_mock", "responses", "unittest", "vcr")


def refuse_mocks() -> None:
    """Refuse to send past a mock of requests, which only sees what goes through a session.

    Raises:
        InvalidRequestError: such a mock is active.
    """
    for owner, name in _PATCHED:
        library = getattr(owner, name).__module__.partition(".")[0]
        if library in _MOCKS:
            raise InvalidRequestError(
                f"requests is mocked by {library}, which only sees what goes through a session; "
                "pass session=requests.Session() to the provider"
            )


@lru_cache
def _warn_of(cls: type) -> None:
    warnings.warn(
        f"{cls.__module__}.{cls.__qualname__} stands in the place of Python's sockets: it is used, "
        "and a deadline then holds less exactly while a connection is being made",
        RuntimeWarning,
        stacklevel=2,
    )


class _Dialing(Tracked):
    socks_proxy: SocksProxy | None = None
    # The secret headers of a request whose head is about to be sent. http.client prints what it
    # sends where its ``debuglevel`` is set, and what it was given stands in tracebacks.
    _secrets: Mapping[str, str] | None = None

    def connect(self) -> None:
        super().connect()
        if not (isinstance(_innermost(self.sock), Bounded) or foreign()):
            self.close()
            raise _moved("urllib3", "opens a connection")

    # urllib3's own SOCKS support overrides the same method; there is no public one. ``connect``
    # finds out if it is not called.
    def _new_conn(self) -> socket.socket:
        if foreign() and self.socks_proxy is None:
            _warn_of(socket.socket)
            return super()._new_conn()
        try:
            return dial(
                self.host,
                self.port,
                timeout=self.timeout,
                exchange=serving.get() or Exchange(CancelScope()),
                options=self.socket_options,
                proxy=self.socks_proxy,
            )
        except socket.gaierror as error:
            raise NameResolutionError(self.host, self, error) from error
        except TimeoutError as error:
            raise ConnectTimeoutError(self, f"no connection to {self.host} in time") from error
        except OSError as error:
            raise NewConnectionError(self, f"no connection to {self.host}: {error}") from error

    def request(
        self, method: str, url: str, body: Any = None, headers: Any = None, **kwargs: Any
    ) -> None:
        if self.sock is None:
            self.connect()
        seen, self._secrets = _apart(headers or {})
        super().request(method, url, body, seen, **kwargs)

    def send(self, data: Any) -> None:
        secrets, self._secrets = self._secrets, None
        super().send(_Head.of(data, secrets) if secrets else data)


def _moved(library: str, what: str) -> ProtocolError:
    # No error of a connection: urllib3 would take it for its own.
    return ProtocolError(
        f"this release of {library} {what} in a way that is not known here; "
        f"install the release of {library} that this package was made for",
        retryable=False,
    )


class _DialingTLS(_Dialing, HTTPSConnection):
    # http.client has no public way to send a header that no log shows. Without this hook, the
    # login for a proxy is sent and ``debuglevel`` shows it, or it is sent masked, and refused.
    def _tunnel(self) -> None:
        headers: dict[str, str] = self._tunnel_headers  # type: ignore[has-type]
        self._tunnel_headers, self._secrets = _apart(headers)
        try:
            super()._tunnel()
        except HTTPException as error:
            raise OSError(f"the proxy's answer is not HTTP: {error}") from None
        finally:
            self._tunnel_headers = headers

    def connect(self) -> None:
        super().connect()
        # urllib3 would warn at each request, and the caller was warned when the provider was made.
        self.is_verified = True


class _Stack:
    """A pool's connections, the last one first: what urllib3 has a ``LifoQueue`` for.

    That one has a lock which is taken in Python's own code. An interrupt there leaves it held, and
    every later call of the provider would wait for it for ever.
    """

    def __init__(self, maxsize: int = 0) -> None:
        self.maxsize = maxsize
        self.queue: deque[Any] = deque()

    def put(self, item: Any, block: bool = False, timeout: float | None = None) -> None:
        """Keep a connection; this never waits."""
        if len(self.queue) >= self.maxsize:
            raise queue.Full
        self.queue.append(item)

    def get(self, block: bool = False, timeout: float | None = None) -> Any:
        """The connection that was kept last; this never waits."""
        try:
            return self.queue.pop()
        except IndexError as error:
            let_through(error)
            raise queue.Empty from None

    def qsize(self) -> int:
        """How many there are."""
        return len(self.queue)


def pool_classes(proxy: SocksProxy | None = None) -> dict[str, type[HTTPConnectionPool]]:
    """urllib3 pools, by scheme, whose connections are dialled here, through ``proxy`` if any."""
    plain = type("Connection", (_Dialing,), {"socks_proxy": proxy})
    tls = type("TLSConnection", (_DialingTLS,), {"socks_proxy": proxy})
    own = {"QueueCls": _Stack}
    return {
        "http": type("Pool", (HTTPConnectionPool,), {"ConnectionCls": plain, **own}),
        "https": type("TLSPool", (HTTPSConnectionPool,), {"ConnectionCls": tls, **own}),
    }


_CONNECTIONS_KEPT = 64


def host_of(url: str) -> tuple[str, str]:
    """Scheme and host with port: the path is ever new where a service redirects to such."""
    return urlsplit(url)[:2]


class _Answer:
    """What the transport needs of a response; requests would make a jar for cookies each time."""

    __slots__ = ("raw", "release", "request", "status_code")

    def __init__(self, request: requests.PreparedRequest, raw: Any) -> None:
        self.request = request
        self.raw = raw
        self.release = hold_back(raw)
        self.status_code: int = raw.status

    def close(self) -> None:
        self.raw.close()
        self.release()


class Adapter(HTTPAdapter):
    """requests' adapter on this package's sockets and trust; safe to share between threads."""

    def __init__(self, trust: Trust) -> None:
        self._trust = trust
        self._pools: dict[tuple[tuple[str, str], str | None], Any] = {}
        super().__init__(pool_maxsize=_CONNECTIONS_KEPT)
        for key, other in _adapters.copy().items():
            if other() is None:
                _adapters.pop(key, None)
        _adapters[id(self)] = ref(self)

    def init_poolmanager(
        self, connections: int, maxsize: int, block: bool = False, **kwargs: Any
    ) -> None:
        super().init_poolmanager(connections, maxsize, block, **kwargs)
        self.poolmanager.pool_classes_by_scheme = pool_classes()

    def send(self, *args: Any, **kwargs: Any) -> Any:
        """Send a request, as requests' own adapter does."""
        refuse_mocks()
        return super().send(*args, **kwargs)

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> PoolManager:
        manager: PoolManager | None = self.proxy_manager.get(proxy)
        if manager is None:
            manager = self.proxy_manager[proxy] = self._proxy_manager(proxy)
        return manager

    def proxy_headers(self, proxy: str) -> dict[str, str]:
        """The login for a proxy as a header."""
        return {name: Secret(value) for name, value in super().proxy_headers(proxy).items()}

    def _proxy_manager(self, proxy: str) -> PoolManager:
        socks = SocksProxy.at(proxy)
        if socks is None:
            trust = Trust(system=self._trust.system)
            context = own_tls_context(trust) if urlsplit(proxy).scheme == "https" else None
            manager = ProxyManager(
                proxy,
                proxy_headers=self.proxy_headers(proxy),
                proxy_ssl_context=context,
                # Before urllib3 2.8, it is this one for what is not encrypted behind the proxy.
                ssl_context=context,
                maxsize=_CONNECTIONS_KEPT,
            )
            manager.pool_classes_by_scheme = pool_classes()
            return manager
        direct = PoolManager(maxsize=_CONNECTIONS_KEPT)
        direct.pool_classes_by_scheme = pool_classes(socks)
        return direct

    def get_connection_with_tls_context(
        self,
        request: requests.PreparedRequest,
        verify: Any,
        proxies: Any = None,
        cert: Any = None,
    ) -> Any:
        """The pool for a request; the same one for the same host and proxy, since finding it
        costs as much as sending.
        """
        url = str(request.url)
        key = (host_of(url), select_proxy(url, proxies) if proxies else None)
        pool = self._pools.get(key)
        if pool is None:
            pool = super().get_connection_with_tls_context(request, verify, proxies, cert)
            if not issubclass(getattr(pool, "ConnectionCls", object), _Dialing):
                raise _moved("urllib3", "makes its connections")
            self._pools[key] = pool
        return pool

    def request_url(self, request: requests.PreparedRequest, proxies: Any) -> str:
        """What the request line names: the path, unless a proxy has to be told the host."""
        return super().request_url(request, proxies) if proxies else request.path_url

    def build_response(self, request: requests.PreparedRequest, raw: Any) -> Any:
        exchange = serving.get()
        # Without it, nobody could tell whether more than the reply has come on the connection.
        if exchange is None or exchange.reply is None:
            raw.close()
            raise _moved("urllib3", "reads a reply")
        return _Answer(request, raw)

    def build_connection_pool_key_attributes(
        self, request: requests.PreparedRequest, verify: Any, cert: Any = None
    ) -> Any:
        host, _ = super().build_connection_pool_key_attributes(request, True, cert)
        tls = {"ssl_context": own_tls_context(self._trust)} if host["scheme"] == "https" else {}
        return host, tls

    def close(self) -> None:
        # PoolManager.clear() leaves pools to the garbage collector, and a traceback may hold one.
        for pool in list(self._pools.values()):
            pool.close()
        self._pools.clear()
        super().close()

    def cert_verify(self, conn: Any, url: str, verify: Any, cert: Any) -> None:
        """The context has it all; loading bundles again would cost 30 ms a connection."""

    def leave_to_parent(self) -> None:
        """In a forked child: close the copies of what is kept, and make the pools anew.

        Threads of the parent may hold some of the locks in them. urllib3 has no public way to
        forget a pool's connections without taking such a lock. Without this hook, the child has
        copies of the parent's sockets, but uses none of them: its calls have an adapter of their
        own.
        """
        for pool in self._pools.values():
            kept = pool.pool
            if kept is not None:
                for connection in kept.queue:
                    sock = _innermost(getattr(connection, "sock", None))
                    if isinstance(sock, Bounded):
                        sock.leave_to_parent()
                type(kept).__init__(kept, kept.maxsize)


# Not a WeakSet: it would lose an interrupt that comes while it forgets something.
_adapters: dict[int, ref[Adapter]] = {}


def _leave_connections_to_parent() -> None:
    for found in _adapters.values():
        adapter = found()
        if adapter is not None:
            adapter.leave_to_parent()


in_each_child(_leave_connections_to_parent)


def track(pool: Any, extra: str | None) -> None:
    """Prepare a pool of a caller's session for a call.

    The connections that it opens from now on make themselves known to the exchange that they
    serve, and believe ``extra``, certificates in PEM, beside what the session believes. urllib3 has
    no hook for one pool; ``ConnectionCls`` is what its documentation has subclasses of pools
    change. Without it, such connections are bounded by their timeouts alone.
    """
    cls: Any = getattr(pool, "ConnectionCls", None)
    # A recorder of cassettes looks after its connections by itself.
    is_plain = isinstance(cls, type) and not hasattr(cls, "cassette")
    if is_plain and issubclass(cls, HTTPConnection) and not issubclass(cls, Tracked):
        pool.ConnectionCls = type(f"Tracked{cls.__name__}", (Tracked, cls), {})
    if extra and isinstance(pool, HTTPSConnectionPool):
        pool.conn_kw["ca_cert_data"] = extra


def leave_session_to_parent(session: requests.Session) -> None:
    """In a forked child: let a session open connections of its own, as it does when unpickled.

    A thread of the parent may hold the lock of its cookies, which has no public way to be renewed
    in a jar that others know. Without that, such a child waits for ever.
    """
    if isinstance(session.cookies, CookieJar):
        session.cookies._cookies_lock = threading.RLock()  # type: ignore[attr-defined]
    for adapter in session.adapters.values():
        if isinstance(adapter, HTTPAdapter):
            keep_untouched((adapter.poolmanager, adapter.proxy_manager))
            state = adapter.__getstate__()
            adapter.__setstate__(state)  # type: ignore[attr-defined]
