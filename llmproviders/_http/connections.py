"""requests' adapter on this package's own sockets, proxies and trust."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from http.client import HTTPException
from typing import Any
from urllib.parse import unquote, urlsplit
from weakref import ref

import requests
import socks
from requests.adapters import HTTPAdapter
from requests.utils import select_proxy
from urllib3 import PoolManager, ProxyManager
from urllib3.connection import HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import ConnectTimeoutError, NameResolutionError, NewConnectionError

from .._redact import Secret
from .._runtime.process import in_each_child
from .certificates import tls_context
from .sockets import Bounded, SocksProxy, Tracked, _apart, _current, _Head, dial
from .types import Trust


class _Dialing(Tracked):
    socks_proxy: SocksProxy | None = None
    # The secret headers of a request whose head is about to be sent. http.client prints what it
    # sends where its ``debuglevel`` is set, and what it was given stands in tracebacks.
    _secrets: Mapping[str, str] | None = None

    # The same hook that urllib3's own SOCKS support overrides; urllib3 has no public one.
    def _new_conn(self) -> socket.socket:
        try:
            return dial(
                self.host,
                self.port,
                timeout=self.timeout,
                exchange=_current(),
                options=self.socket_options,
                proxy=self.socks_proxy,
            )
        except socket.gaierror as error:
            raise NameResolutionError(self.host, self, error) from error
        except TimeoutError as error:
            raise ConnectTimeoutError(self, f"no connection to {self.host} in time") from error
        except OSError as error:
            if isinstance(_socket_error(error), TimeoutError):
                raise ConnectTimeoutError(self, "the proxy did not answer in time") from error
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


def _socket_error(error: OSError) -> BaseException | None:
    return getattr(error, "socket_err", None)


class _DialingTLS(_Dialing, HTTPSConnection):
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
        # urllib3 would warn at each request; who wants no verification was warned when asking.
        self.is_verified = True


def pool_classes(proxy: SocksProxy | None = None) -> dict[str, type[HTTPConnectionPool]]:
    """urllib3 pools, by scheme, whose connections are dialled here, through ``proxy`` if any."""
    plain = type("Connection", (_Dialing,), {"socks_proxy": proxy})
    tls = type("TLSConnection", (_DialingTLS,), {"socks_proxy": proxy})
    return {
        "http": type("Pool", (HTTPConnectionPool,), {"ConnectionCls": plain}),
        "https": type("TLSPool", (HTTPSConnectionPool,), {"ConnectionCls": tls}),
    }


_CONNECTIONS_KEPT = 64

_SOCKS_VERSIONS = {
    "socks4": (socks.SOCKS4, False),
    "socks4a": (socks.SOCKS4, True),
    "socks5": (socks.SOCKS5, False),
    "socks5h": (socks.SOCKS5, True),
}


def host_of(url: str) -> tuple[str, str]:
    """Scheme and host with port: the path is ever new where a service redirects to such."""
    return urlsplit(url)[:2]


class _Answer:
    """What is asked of a response here, and no more: requests makes a jar for cookies each time."""

    __slots__ = ("raw", "request", "status_code")

    def __init__(self, request: requests.PreparedRequest, raw: Any) -> None:
        self.request = request
        self.raw = raw
        self.status_code: int = raw.status

    def close(self) -> None:
        self.raw.close()
        self.raw.release_conn()


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

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> PoolManager:
        manager: PoolManager | None = self.proxy_manager.get(proxy)
        if manager is None:
            manager = self.proxy_manager[proxy] = self._proxy_manager(proxy)
        return manager

    def proxy_headers(self, proxy: str) -> dict[str, str]:
        """The login for a proxy as a header."""
        return {name: Secret(value) for name, value in super().proxy_headers(proxy).items()}

    def _proxy_manager(self, proxy: str) -> PoolManager:
        parts = urlsplit(proxy)
        if parts.scheme not in _SOCKS_VERSIONS:
            context = tls_context(Trust()) if parts.scheme == "https" else None
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
        version, remote_names = _SOCKS_VERSIONS[parts.scheme]
        direct = PoolManager(maxsize=_CONNECTIONS_KEPT)
        direct.pool_classes_by_scheme = pool_classes(
            SocksProxy(
                version,
                parts.hostname or "",
                parts.port or 1080,
                remote_names,
                None if parts.username is None else unquote(parts.username),
                None if parts.password is None else Secret(unquote(parts.password)),
            )
        )
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
            self._pools[key] = pool
        return pool

    def request_url(self, request: requests.PreparedRequest, proxies: Any) -> str:
        """What the request line names: the path, unless a proxy has to be told the host."""
        return super().request_url(request, proxies) if proxies else request.path_url

    def build_response(self, request: requests.PreparedRequest, raw: Any) -> Any:
        return _Answer(request, raw)

    def build_connection_pool_key_attributes(
        self, request: requests.PreparedRequest, verify: Any, cert: Any = None
    ) -> Any:
        host, _ = super().build_connection_pool_key_attributes(request, True, cert)
        tls = {"ssl_context": tls_context(self._trust)} if host["scheme"] == "https" else {}
        return host, tls

    def close(self) -> None:
        # urllib3 leaves it to the garbage collector to close pools, and an error's traceback
        # keeps them from it.
        for manager in (self.poolmanager, *self.proxy_manager.values()):
            for key in manager.pools.keys():  # noqa: SIM118 - it is no dict, and does not iterate
                pool = manager.pools.get(key)
                if pool is not None:
                    pool.close()
        super().close()

    def cert_verify(self, conn: Any, url: str, verify: Any, cert: Any) -> None:
        """The context has it all; loading bundles again would cost 30 ms a connection."""

    def leave_to_parent(self) -> None:
        """In a forked child: close the copies of what is kept, and make the pools anew.

        Of the locks in them, threads of the parent may hold some.
        """
        for pool in self._pools.values():
            kept = pool.pool
            if kept is not None:
                for connection in kept.queue:
                    sock = getattr(connection, "sock", None)
                    sock = getattr(sock, "socket", sock)  # urllib3's TLS inside the TLS of a proxy
                    if isinstance(sock, Bounded):
                        sock.leave_to_parent()
                type(kept).__init__(kept, kept.maxsize)


# No WeakSet: an interrupt that comes as it forgets something is lost.
_adapters: dict[int, ref[Adapter]] = {}


def _leave_connections_to_parent() -> None:
    for found in _adapters.values():
        adapter = found()
        if adapter is not None:
            adapter.leave_to_parent()


in_each_child(_leave_connections_to_parent)
