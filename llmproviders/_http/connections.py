"""Connect requests and urllib3 to this package's sockets, proxies and TLS settings.

All code that uses undocumented parts of other libraries is in this module. Each place has a comment
that says which public API is missing, and fails closed: if the library changes, the call ends in an
error.
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
from .certificates import full_name_in, give_context, tls_context
from .native import closing_unfinished, cooperative, foreign, is_socket, ready, receive
from .sockets import GONE, Bounded, Exchange, SocksProxy, dial, serving
from .types import Trust

_BUFFER = 64 * 1024


class BoundedTLS(Bounded, ssl.SSLSocket):
    """A bounded socket over TLS; a context makes them when it is its ``sslsocket_class``."""

    # OpenSSL's connection state. Python has no public way to drop it without freeing it or, before
    # 3.13, to read a certificate that was not trusted.
    _sslobj: Any

    def leave_to_parent(self) -> None:
        """In a forked child: close its copy, and forget the parent's TLS state."""
        # OpenSSL would keep using the descriptor's number, which the next file will get. The state
        # is not freed: a thread of the parent may have been using it.
        keep_untouched(self._sslobj)
        self._sslobj = None
        super().leave_to_parent()

    def do_handshake(self, block: bool = False) -> None:
        """Do the handshake within the scope of the exchange that needs the connection."""
        try:
            # From here on this is the socket; the plain one before it has lost its descriptor.
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

    truststore's contexts hold a lock for the whole handshake; those of gevent and eventlet create
    their own sockets. urllib3 uses this class for TLS inside a proxy's TLS.
    """

    def _ssl_io_loop(self, func: Any, *args: Any) -> Any:
        try:
            return super()._ssl_io_loop(func, *args)
        except ssl.SSLCertVerificationError as error:
            error.__dict__["presented"] = _presented_issuer(getattr(self.sslobj, "_sslobj", None))
            raise

    @classmethod
    def wrap(cls, context: ssl.SSLContext, sock: Any, **kwargs: Any) -> TLSOverBounded:
        """Replace ``context.wrap_socket``, including the handshake."""
        try:
            return cls(sock, context, kwargs.get("server_hostname"))
        except BaseException:
            sock.close()
            raise


def _presented_issuer(sslobj: Any) -> str | None:
    """The issuer of the last certificate that the server presented; None if unknown."""
    try:
        return full_name_in(sslobj.get_unverified_chain()[-1].get_info().get("issuer"))
    except (AttributeError, ValueError, TypeError, IndexError) as error:
        let_through(error)
        return None


def own_tls_context(trust: Trust) -> ssl.SSLContext:
    """The context for ``trust``; its sockets respect the deadline of their call."""
    context = tls_context(trust)
    if type(context).__module__ == "ssl" and not cooperative():
        context.sslsocket_class = BoundedTLS
    else:
        context.wrap_socket = partial(TLSOverBounded.wrap, context)  # type: ignore[method-assign, assignment]
    return context


class _Incoming(io.RawIOBase):
    """The bytes that arrive on a socket, as the file from which ``http.client`` reads a reply.

    Attributes:
        begun: whether any of it has arrived.
        leftover: whether more than the reply had been read by its end.
    """

    _file: Any = None  # read by close() even if an interrupt ends __init__ early

    def __init__(self, sock: Any) -> None:
        exchange, below = serving.get(), _innermost(sock)
        self._receive: Callable[[Any], int] = sock.recv_into
        if exchange is not None and not isinstance(below, Bounded) and is_socket(below):
            self._receive = partial(receive, sock, exchange.scope)
        self.begun = self.leftover = self._ended = False
        # Like any file made from a socket, it keeps the descriptor open. It is made last, since an
        # interrupt after it would leave it to the traceback.
        self._file = sock.makefile("rb", buffering=0)

    def makefile(self, mode: str) -> io.BufferedReader:
        """The socket method that ``http.client`` calls."""
        return _Buffer(self, _BUFFER)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if self._ended:
            return 0
        try:
            count = self._receive(buffer)
        except Exception as error:
            # Python's buffer and http.client would handle some errors themselves.
            if from_handler(error):
                raise Unstoppable from error
            raise
        if count:
            self.begun = True
        return count

    def end(self, buffer: io.BufferedReader) -> None:
        """Stop receiving, and check ``buffer`` for unread bytes."""
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
    """An ``http.client`` reply that registers with its exchange."""

    # Read by close() even if an interrupt ends __init__ early.
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
        """Whether more bytes had arrived by its end."""
        return self._incoming is not None and self._incoming.leftover

    def close(self) -> None:
        if self._incoming is not None and self._incoming.closed:
            # http.client would flush it and replace an interrupt with its own error.
            self.fp = None
        try:
            super().close()
        finally:
            if self._incoming is not None:
                self._incoming.close()

    # http.client skips only interim replies with status 100 and has no public hook for the others.
    # Without this hook, they are errors. An endless series of them ends with the call.
    def _read_status(self) -> tuple[str, int, str]:
        while True:
            version, status, reason = super()._read_status()  # type: ignore[misc]
            if not 102 <= status < 200:
                return version, status, reason
            parse_headers(self.fp)


class _Head(bytes):
    """The head of a request; its ``repr`` leaves out the secrets.

    Attributes:
        shown: what its ``repr`` shows.
    """

    shown = b""

    @classmethod
    def of(cls, head: bytes, secrets: Mapping[str, str]) -> _Head:
        """Add headers to ``head``, which ends in a blank line."""
        lines = "".join(f"{name}: {secret[:]}\r\n" for name, secret in secrets.items())
        self = cls(head[:-2] + lines.encode("latin-1") + b"\r\n")
        self.shown = head[:-2] + "".join(f"{name}: {MASK}\r\n" for name in secrets).encode()
        return self

    def __repr__(self) -> str:
        return repr(self.shown)


def _split_secrets(headers: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """Split headers into public and secret ones."""
    seen: dict[str, str] = {}
    secrets: dict[str, str] = {}
    for name, value in headers.items():
        (secrets if isinstance(value, Secret) else seen)[name] = value
    return seen, secrets


class _HiddenBytes(bytearray):
    """Data to send; its ``repr`` hides the keys and the prompt."""

    def __repr__(self) -> str:
        return f"<{len(self)} bytes>"


class Tracked(HTTPConnection):
    """A connection that registers its socket and reply with its exchange."""

    response_class = TrackedReply
    _held: _HiddenBytes | None = None

    def send(self, data: Any) -> None:
        if self._held is None:
            super().send(data)
            return
        if self.debuglevel > 0:
            print("send:", repr(data))  # noqa: T201 - as http.client does
        self._held += data

    @property
    def is_connected(self) -> bool:
        """Whether it can serve a request: it is open and has no unread data."""
        try:
            exchange = serving.get()
            if self.sock is None or (exchange is not None and exchange.anew):
                return False
            if _pending(self.sock):
                return False
            # eventlet removes what urllib3's own check uses.
            waits = getattr(self.sock, "waits", False)
            return super().is_connected if waits else not ready([self.sock], [], 0)
        except BaseException:
            # urllib3 has already taken it from the pool and would lose it.
            self.close()
            raise

    def connect(self) -> None:
        exchange = serving.get()
        if exchange is not None:
            exchange.opened = True
        give_context(self)
        with closing_unfinished():
            super().connect()
        if exchange is not None:
            exchange.bind(_innermost(self.sock))

    def request(self, *args: Any, **kwargs: Any) -> None:
        if self.sock is None:
            self.connect()
        sock = self.sock
        exchange = serving.get()
        if exchange is not None:
            exchange.begin(_innermost(sock))
        try:
            # http.client sends head and body separately: two packets, two wake-ups of the server.
            # Not for a session: its caller may send files.
            held = self._held = _HiddenBytes() if isinstance(sock, Bounded) else None
            try:
                super().request(*args, **kwargs)
            finally:
                self._held = None
            if held is not None:
                sock.sendall(held)
        except OSError as error:
            # urllib3 ignores some errors here, even if a signal handler raised them.
            if from_handler(error):
                raise Unstoppable from error
            # BrokenPipeError is one of them: a server may answer before it has read everything.
            if isinstance(error, GONE):
                raise BrokenPipeError(errno.EPIPE, str(error)) from error
            raise


def _innermost(sock: Any) -> Any:
    """The innermost socket if urllib3 uses TLS inside a proxy's TLS.

    urllib3 has no public name for it. Without this hook, the connection is refused as unbounded.
    """
    return getattr(sock, "socket", sock)


def _pending(sock: Any) -> int:
    """How many received and decrypted bytes are still unread."""
    if isinstance(sock, ssl.SSLSocket):
        return int(sock.pending())
    outer = _innermost(sock)
    if outer is sock:
        return 0
    # urllib3 has no public API for this.
    try:
        return int(sock.sslobj.pending() + sock.incoming.pending + _pending(outer))
    except AttributeError as error:
        raise _moved("urllib3", "keeps TLS inside the TLS of a proxy") from error


def hold_back(raw: Any) -> Callable[[], None]:
    """Stop urllib3 from releasing a reply's connection; return a function that releases it.

    urllib3 would release it as soon as the body has been read, before we can check for extra data
    on the connection, and has no public switch for that. If this has no effect, the connection is
    cut as soon as extra data arrives.
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
    """Refuse to bypass a mock of requests, which only sees what a session sends.

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
def _warn_replaced_sockets(cls: type) -> None:
    warnings.warn(
        f"{cls.__module__}.{cls.__qualname__} replaces Python's sockets: it is used, "
        "and a deadline is less exact while a connection is being opened",
        RuntimeWarning,
        stacklevel=2,
    )


class _Dialing(Tracked):
    socks_proxy: SocksProxy | None = None
    # The secret headers of the request about to be sent. http.client prints what it sends if
    # ``debuglevel`` is set, and its arguments appear in tracebacks.
    _secrets: Mapping[str, str] | None = None

    def connect(self) -> None:
        super().connect()
        if not (isinstance(_innermost(self.sock), Bounded) or foreign()):
            self.close()
            raise _moved("urllib3", "opens a connection")

    # urllib3's own SOCKS support overrides the same method; there is no public one. ``connect``
    # notices if it was not called.
    def _new_conn(self) -> socket.socket:
        if foreign() and self.socks_proxy is None:
            _warn_replaced_sockets(socket.socket)
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
            raise ConnectTimeoutError(self, f"connecting to {self.host} timed out") from error
        except OSError as error:
            raise NewConnectionError(self, f"no connection to {self.host}: {error}") from error

    def request(
        self, method: str, url: str, body: Any = None, headers: Any = None, **kwargs: Any
    ) -> None:
        if self.sock is None:
            self.connect()
        seen, self._secrets = _split_secrets(headers or {})
        super().request(method, url, body, seen, **kwargs)

    def send(self, data: Any) -> None:
        secrets, self._secrets = self._secrets, None
        super().send(_Head.of(data, secrets) if secrets else data)


def _moved(library: str, what: str) -> ProtocolError:
    # Not a connection error: urllib3 would handle that itself.
    return ProtocolError(
        f"this release of {library} {what} in a way that is not supported; "
        f"install the release of {library} that this package was made for",
        retryable=False,
    )


class _DialingTLS(_Dialing, HTTPSConnection):
    # http.client cannot hide a header from its debug output. Without this hook, ``debuglevel``
    # shows a proxy's login, or the login is sent masked and refused.
    def _tunnel(self) -> None:
        headers: dict[str, str] = self._tunnel_headers  # type: ignore[has-type]
        self._tunnel_headers, self._secrets = _split_secrets(headers)
        try:
            super()._tunnel()
        except HTTPException as error:
            raise requests.exceptions.ProxyError("its answer is not HTTP", error) from None
        finally:
            self._tunnel_headers = headers

    def connect(self) -> None:
        super().connect()
        # urllib3 would warn at each request; the provider has already warned once.
        self.is_verified = True


class _Stack:
    """A pool's connections, last in, first out; replaces urllib3's ``LifoQueue``.

    LifoQueue's lock is taken in Python code. An interrupt there would leave it locked and block
    every later call of the provider.
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
        """How many connections are kept."""
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
    """Scheme and host with port; paths are left out, since redirects can lead to ever new ones."""
    return urlsplit(url)[:2]


class _Answer:
    """What the transport needs of a response; requests would create a cookie jar for each one."""

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
                # Before urllib3 2.8, unencrypted requests through a proxy used this context.
                ssl_context=context,
                maxsize=_CONNECTIONS_KEPT,
            )
            manager.pool_classes_by_scheme = pool_classes()
            return manager
        direct = PoolManager(maxsize=_CONNECTIONS_KEPT)
        direct.pool_classes_by_scheme = pool_classes(socks)
        return direct

    def get_connection_with_tls_context(
        self, request: requests.PreparedRequest, verify: Any, proxies: Any = None, cert: Any = None
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
        """The target in the request line: the path, or the full URL for an HTTP proxy."""
        return super().request_url(request, proxies) if proxies else request.path_url

    def build_response(self, request: requests.PreparedRequest, raw: Any) -> Any:
        exchange = serving.get()
        # Without it, extra data on the connection would go unnoticed.
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
        """Do nothing: the context has the bundles; loading them again would take 30 ms."""

    def leave_to_parent(self) -> None:
        """In a forked child: close the copies of kept connections and recreate the pools.

        Threads of the parent may hold the pools' locks, and urllib3 has no public way to drop a
        pool's connections without taking one. Without this hook, the child has copies of the
        parent's sockets but does not use them: its calls have their own adapter.
        """
        for pool in self._pools.values():
            kept = pool.pool
            if kept is not None:
                for connection in kept.queue:
                    sock = _innermost(getattr(connection, "sock", None))
                    if isinstance(sock, Bounded):
                        sock.leave_to_parent()
                type(kept).__init__(kept, kept.maxsize)


# Not a WeakSet: it would lose an interrupt that arrives while it drops an item.
_adapters: dict[int, ref[Adapter]] = {}


def _leave_connections_to_parent() -> None:
    for found in _adapters.values():
        adapter = found()
        if adapter is not None:
            adapter.leave_to_parent()


in_each_child(_leave_connections_to_parent)


def track(pool: Any, extra: str | None) -> None:
    """Prepare a pool of a caller's session for a call.

    Connections that it opens from now on register with their exchange and trust ``extra``
    (certificates in PEM) as well as what the session trusts. urllib3 has no hook for a single pool;
    its documentation has subclasses set ``ConnectionCls``. Without it, only timeouts bound these
    connections.
    """
    cls: Any = getattr(pool, "ConnectionCls", None)
    # A cassette recorder manages its own connections.
    is_plain = isinstance(cls, type) and not hasattr(cls, "cassette")
    if is_plain and issubclass(cls, HTTPConnection) and not issubclass(cls, Tracked):
        pool.ConnectionCls = type(f"Tracked{cls.__name__}", (Tracked, cls), {})
    if extra and isinstance(pool, HTTPSConnectionPool):
        pool.conn_kw["ca_cert_data"] = extra


def leave_session_to_parent(session: requests.Session) -> None:
    """In a forked child: make a session open new connections, as it does when unpickled.

    A thread of the parent may hold the lock of its cookie jar, which has no public replacement.
    """
    if isinstance(session.cookies, CookieJar):
        session.cookies._cookies_lock = threading.RLock()  # type: ignore[attr-defined]
    for adapter in session.adapters.values():
        if isinstance(adapter, HTTPAdapter):
            keep_untouched((adapter.poolmanager, adapter.proxy_manager))
            try:
                adapter.__setstate__(adapter.__getstate__())  # type: ignore[attr-defined]
            except AttributeError as error:
                raise _moved("requests", "renews its connections") from error
