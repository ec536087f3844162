"""The only module that talks: connections, proxies, TLS, timeouts, and what their failures mean."""

from __future__ import annotations

import json
import logging
import os
import re
import ssl
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache, partial
from http.client import HTTPException, RemoteDisconnected
from ipaddress import ip_address
from math import inf
from typing import Any
from urllib.parse import unquote, urlencode, urljoin, urlsplit

import certifi
import requests
import socks
from requests.adapters import HTTPAdapter
from requests.cookies import RequestsCookieJar, extract_cookies_to_jar
from requests.exceptions import RequestException
from requests.structures import CaseInsensitiveDict
from requests.utils import get_environ_proxies, select_proxy
from urllib3 import PoolManager, ProxyManager
from urllib3 import exceptions as urllib3_errors
from urllib3.exceptions import HTTPError

from . import _environ, errors
from ._call import DEFAULT_TIMEOUT, Call, Limits, Timeout, Trust, check_proxy, check_timeout
from ._clock import Scope
from ._headers import parse_retry_after
from ._lines import decode_json, iter_events, iter_lines
from ._log import logger
from ._redact import conceal_user_info, redact, scrub
from ._sockets import BoundedTLS, Exchange, SocksProxy, pool_classes, serving
from ._status import SAID_BY_STATUS, class_of_status, is_challenge, service_message

_BLOCK = 64 * 1024
_CONNECTIONS_KEPT = 64
_MOST_REDIRECTS = 5
_DEFAULT_HEADERS = {"User-Agent": "llmproviders"}
_SOCKS_VERSIONS = {
    "socks4": (socks.SOCKS4, False),
    "socks4a": (socks.SOCKS4, True),
    "socks5": (socks.SOCKS5, False),
    "socks5h": (socks.SOCKS5, True),
}


_BROKEN = (HTTPError, HTTPException, RequestException, OSError, ValueError, AttributeError)
"""What reading a body may raise, in whatever layer."""


class HTTPReply:
    """A service's answer, its body still on the way; iterating yields the body as it arrives."""

    def __init__(self, response: requests.Response, exchange: Exchange, limits: Limits) -> None:
        self._response = response
        self._exchange = exchange
        self.limits = limits
        self._size = 0
        self.status: int = response.status_code
        self.headers: Mapping[str, str] = response.headers
        content_type = self.headers.get("content-type", "")
        self.content_type = content_type.partition(";")[0].strip().lower()

    @property
    def request_id(self) -> str | None:
        """The service's id for the request."""
        given = self.headers.get("x-request-id")
        return None if given is None else redact(given)

    @property
    def cookies(self) -> dict[str, str]:
        """The cookies that came with the reply."""
        jar = RequestsCookieJar()
        extract_cookies_to_jar(jar, self._response.request, self._response.raw)  # type: ignore[no-untyped-call]
        return {cookie.name: cookie.value or "" for cookie in jar}

    def __iter__(self) -> Iterator[bytes]:
        """Yield what has arrived, decompressed, as soon as it has.

        Raises:
            StreamInterrupted: the connection broke, or the body is shorter than announced.
            ProviderTimeout: nothing came for the read timeout.
            DeadlineExceeded: the scope's deadline passed.
            ProtocolError: the framing or compression is broken, or a limit was passed.
        """
        read = self._reader()
        scope, limit = self._exchange.scope, self.limits.reply
        # Own sockets ask the scope at each receive; what is buffered or inflates goes on without.
        step = 1 if self._exchange.sock is None else _BLOCK
        look_at = self._size
        while True:
            if self._size >= look_at:
                look_at = self._size + step
                if scope.bounded and scope.over:
                    raise scope.error()
            try:
                block = read(_BLOCK)
            except _BROKEN as error:
                raise reading_error(error, scope) from error
            if not block:
                if scope.cancelled:
                    raise scope.error()
                if _cut_in_compression(self._response.raw):
                    raise errors.StreamInterrupted("the reply was cut in its compressed data")
                self._response.raw.release_conn()
                return
            self._size += len(block)
            if self._size > limit:
                raise errors.ProtocolError(
                    f"the reply is larger than {limit} bytes; if that is right, raise Limits.reply"
                )
            yield block

    def _reader(self) -> Callable[[int], bytes]:
        """What reads the next block.

        A stream has a chunk for each piece of text, and urllib3 takes three times as long over
        each as ``http.client`` under it does. Where nothing is left for urllib3 to decode it is
        passed over.
        """
        raw, below = self._response.raw, self._exchange.reply
        if below is None or not below.chunked or raw.headers.get("content-encoding"):
            return partial(raw.read1, decode_content=True)
        return below.read1

    def lines(self) -> Iterator[bytes]:
        """The body's lines, each as soon as it has arrived; see :func:`._lines.iter_lines`."""
        return iter_lines(self, max_line=self.limits.line)

    def events(self) -> Iterator[bytes]:
        """The data of its server-sent events, likewise; see :func:`._lines.iter_events`."""
        return iter_events(self, max_line=self.limits.line)

    def read(self, limit: int | None = None) -> bytes:
        """The whole body, or its first ``limit`` bytes where that is given."""
        blocks, size = [], 0
        for block in self:
            blocks.append(block)
            size += len(block)
            if limit is not None and size >= limit:
                return b"".join(blocks)[:limit]
        return b"".join(blocks)

    def json(self) -> Any:
        """The body as JSON; see :func:`._lines.decode_json` for what is raised."""
        return decode_json(self.read())

    def finish(self, patience_s: float = 0.25) -> None:
        """Read the little that comes after the end mark, so that the connection can be kept.

        A service that sends nothing more but does not end the body either is given
        ``patience_s`` and its connection is dropped.
        """
        scope = self._exchange.scope
        limit, scope.limit = scope.limit, scope.clock.monotonic() + patience_s
        try:
            self.read(_BLOCK)
        except errors.LLMError as error:
            logger.debug("connection not kept: %s", error)
        finally:
            scope.limit = limit
            self.close()

    def close(self) -> None:
        """Give the connection back if the body was read to its end, else close it."""
        sock = self._exchange.sock
        try:
            self._exchange.unbind()
            self._response.close()
        except BaseException:
            if sock is not None:
                sock.cut()
            raise


def _cut_in_compression(raw: Any) -> bool:
    """Whether a body that only the connection's end delimits ends before its gzip stream does.

    urllib3 takes such a body for whole; where there is a length or a last chunk, that tells.
    """
    if raw.chunked or raw.headers.get("content-length") is not None:
        return False
    packed = getattr(getattr(raw, "_decoder", None), "_obj", None)
    return getattr(packed, "eof", True) is False


def tls_context(trust: Trust) -> ssl.SSLContext:
    """A context for ``trust``; the same one for the same trust, for making one takes 30 ms."""
    bundle = _environ.lookup("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE") or certifi.where()
    return _context(trust, bundle)


@lru_cache(maxsize=64)
def _context(trust: Trust, bundle: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.sslsocket_class = BoundedTLS
    if not trust.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context
    try:
        if os.path.isdir(bundle):
            context.load_verify_locations(capath=bundle)
        else:
            context.load_verify_locations(cafile=bundle)
    except (OSError, ssl.SSLError) as error:
        raise errors.ConnectionFailed(
            f"the certificate bundle {bundle!r} cannot be read; "
            "check REQUESTS_CA_BUNDLE and CURL_CA_BUNDLE",
            retryable=False,
        ) from error
    if trust.extra is not None:
        context.load_verify_locations(cadata=trust.extra)
    return context


class _Adapter(HTTPAdapter):
    """requests' adapter on this package's sockets and trust; safe to share between threads."""

    def __init__(self, trust: Trust) -> None:
        self._trust = trust
        self._pools: dict[tuple[str | None, str | None], Any] = {}
        super().__init__(pool_maxsize=_CONNECTIONS_KEPT)

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

    def _proxy_manager(self, proxy: str) -> PoolManager:
        parts = urlsplit(proxy)
        if parts.scheme not in _SOCKS_VERSIONS:
            manager = ProxyManager(
                proxy,
                proxy_headers=self.proxy_headers(proxy),
                proxy_ssl_context=tls_context(Trust()) if parts.scheme == "https" else None,
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
                None if parts.password is None else unquote(parts.password),
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
        """The pool for a request; the same one for the same address and proxy, since finding it
        costs as much as sending.
        """
        key = (request.url, select_proxy(str(request.url), proxies) if proxies else None)
        pool = self._pools.get(key)
        if pool is None:
            pool = super().get_connection_with_tls_context(request, verify, proxies, cert)
            self._pools[key] = pool
        return pool

    def build_response(self, request: requests.PreparedRequest, raw: Any) -> requests.Response:
        """What is asked of a response here, and no more: cookies take longer than the rest."""
        response = requests.Response()
        response.status_code = raw.status
        response.headers = raw.headers
        response.raw = raw
        response.request = request
        return response

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


class Transport:
    """Sends calls for one provider. Any number of threads may use it; a fork starts afresh.

    Args:
        proxy: the proxy's URL for all calls, checked, or None for the environment's.
        asked: whether ``proxy`` is an argument, which holds for loopback addresses too.
        timeout: seconds, or ``(connect, read)``.
        trust: whose certificates are believed.
        session: a session to send with instead of own connections.
        limits: how large a reply may be.
    """

    def __init__(
        self,
        *,
        proxy: str | None = None,
        asked: bool = True,
        timeout: Timeout = DEFAULT_TIMEOUT,
        trust: Trust,
        session: requests.Session | None = None,
        limits: Limits,
    ) -> None:
        self._proxy = proxy
        self._asked = asked
        self._timeout = check_timeout(timeout, DEFAULT_TIMEOUT)
        self._trust = trust
        self._session = session
        self._limits = limits
        self._adapters: dict[int, _Adapter] = {}
        # What is found out once about an address; a provider has a handful of them.
        self._prepared_urls: dict[str, str] = {}
        self._found_proxies: dict[str, dict[str, str]] = {}

    def open(
        self,
        call: Call,
        scope: Scope,
        *,
        timeout: Timeout | None = None,
        proxy: str | None = None,
    ) -> HTTPReply:
        """Send ``call`` and return its reply once the headers are there and tell of success.

        Args:
            call: what to send.
            scope: how long all of it may take.
            timeout: seconds, or ``(connect, read)``, for this call.
            proxy: a proxy's URL for this call.

        Raises:
            LLMError: the class that the failure has in the table of errors.
        """
        request = self._prepare(call)
        for _ in range(_MOST_REDIRECTS):
            reply = self._send(request, scope, timeout, proxy)
            try:
                target = _redirect(reply, request)
                if target is None:
                    check_reply(reply, call, scope)
                    return reply
            except BaseException:
                reply.close()
                raise
            reply.finish()
            request = request.copy()
            request.prepare_url(target, None)
        raise errors.ProtocolError(f"the service redirected {_MOST_REDIRECTS} times in a row")

    def probe(self, url: str, scope: Scope) -> HTTPReply:
        """Connect and ask for ``url``; whatever the answer, it is returned.

        Args:
            url: an address of the service.
            scope: how long it may take.

        Raises:
            LLMError: there is no connection or no answer.
        """
        return self._send(self._prepare(Call("HEAD", url)), scope, None, None)

    def proxy_for(self, url: str) -> str | None:
        """The proxy by which ``url`` is reached, from the arguments or the environment.

        Raises:
            InvalidRequestError: the environment names one that cannot be used.
        """
        return select_proxy(url, self._proxies(url, None))

    def _prepare(self, call: Call) -> requests.PreparedRequest:
        request = requests.PreparedRequest()
        request.prepare_method(call.method)
        request.prepare_hooks(None)
        request.headers = CaseInsensitiveDict(_DEFAULT_HEADERS)
        request.headers.update(call.headers)
        try:
            request.url = self._prepared_url(call.url)
            request.body, kind = _body(call)
        except (RequestException, UnicodeError) as error:
            raise opening_error(error, Scope()) from error
        if request.body is not None:
            request.headers.setdefault("Content-Type", kind)
            request.headers["Content-Length"] = str(len(request.body))
        if call.authorization is not None:
            request.headers["Authorization"] = call.authorization
        return request

    def _prepared_url(self, url: str) -> str:
        prepared = self._prepared_urls.get(url)
        if prepared is None:
            request = requests.PreparedRequest()
            request.prepare_url(url, None)
            prepared = self._prepared_urls[url] = str(request.url)
        return prepared

    def _send(
        self,
        request: requests.PreparedRequest,
        scope: Scope,
        timeout: Timeout | None,
        proxy: str | None,
    ) -> HTTPReply:
        if scope.over:
            raise scope.error()
        connect, read = self._timeout if timeout is None else check_timeout(timeout, timeout)
        # Own sockets ask the scope at each wait; those of a session can be told but once.
        left = inf if self._session is None else scope.remaining()
        exchange = Exchange(scope)
        try:
            with serving(exchange):
                response = self._sender()(
                    request,
                    stream=True,
                    timeout=(_least(connect, left), _least(read, left)),
                    verify=self._trust.verify,
                    proxies=self._proxies(str(request.url), proxy),
                )
        except (RequestException, HTTPError, OSError, ValueError) as error:
            exchange.unbind()
            if isinstance(error, errors.LLMError):
                raise
            raise opening_error(error, scope) from error
        except BaseException:
            exchange.cut()
            raise
        if logger.isEnabledFor(logging.DEBUG):
            url = redact(str(request.url))
            logger.debug("%s %s: %s", request.method, url, response.status_code)
        return HTTPReply(response, exchange, self._limits)

    def _sender(self) -> Callable[..., requests.Response]:
        if self._session is not None:
            session = self._session

            def send(request: requests.PreparedRequest, **kwargs: Any) -> requests.Response:
                if session.verify is not True and kwargs["verify"]:
                    kwargs["verify"] = session.verify
                kwargs["proxies"] = kwargs["proxies"] or session.proxies
                return session.send(request, allow_redirects=False, **kwargs)

            return send
        pid = os.getpid()
        adapter = self._adapters.get(pid)
        if adapter is None:
            # What a parent process left is dropped, never closed or used: it is the parent's.
            fresh = {pid: _Adapter(self._trust)}
            if pid not in self._adapters:
                self._adapters = fresh
            adapter = self._adapters.setdefault(pid, fresh[pid])
        return adapter.send

    def _proxies(self, url: str, proxy: str | None) -> dict[str, str]:
        if proxy is not None:
            return _both(check_proxy(proxy))
        if self._proxy is not None and self._asked:
            return _both(self._proxy)
        found = self._found_proxies.get(url)
        if found is None:
            found = self._found_proxies[url] = self._find_proxies(url)
        return found

    def _find_proxies(self, url: str) -> dict[str, str]:
        if is_loopback(urlsplit(url).hostname or ""):
            return {}
        if self._proxy is not None:
            return _both(self._proxy)
        named = select_proxy(url, get_environ_proxies(url, None))
        return _both(check_proxy(named)) if named else {}

    def close(self) -> None:
        """Close the connections; the next call opens new ones."""
        adapter = self._adapters.pop(os.getpid(), None)
        if adapter is not None:
            adapter.close()


def is_loopback(host: str) -> bool:
    """Whether ``host`` is this machine by its loopback address or name."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _both(proxy: str) -> dict[str, str]:
    return {"http": proxy, "https": proxy}


def _least(timeout: float, left: float) -> float | None:
    least = min(timeout, left)
    return None if least == inf else max(least, 0.001)


_encode = json.JSONEncoder(allow_nan=False).encode


def _body(call: Call) -> tuple[bytes | None, str]:
    if call.json is not None:
        try:
            return _encode(call.json).encode(), "application/json"
        except (TypeError, ValueError, RecursionError) as error:
            raise errors.InvalidRequestError(
                f"the request cannot be written as JSON: {error}"
            ) from error
    if call.form is not None:
        return urlencode(call.form).encode(), "application/x-www-form-urlencoded"
    return None, ""


def _redirect(reply: HTTPReply, request: requests.PreparedRequest) -> str | None:
    """Where a redirect leads, None where there is none; only to the same host, and not to http.

    A prompt or a key must not go where nobody sent it.
    """
    location = reply.headers.get("location")
    if not 300 <= reply.status < 400 or not location:
        return None
    old = urlsplit(str(request.url))
    try:
        target = urljoin(str(request.url), location)
        new = urlsplit(target)
        port = new.port
    except ValueError:
        # Not chained: the text of that error has the address, with a password that it may hold.
        raise errors.ProtocolError(
            "the service redirects to something that is no address",
            status_code=reply.status,
            retryable=False,
        ) from None
    keeps_method = request.method == "GET" or reply.status in (307, 308)
    if new.hostname == old.hostname and keeps_method:
        same_place = (new.scheme, port) == (old.scheme, old.port)
        if same_place or (old.scheme, new.scheme) == ("http", "https"):
            return target
    conceal_user_info(target)
    raise errors.ProtocolError(
        f"the service redirects to {new.scheme}://{new.hostname}, which is not followed; "
        "if it is right, set base_url to it",
        status_code=reply.status,
        retryable=False,
    )


_BODILESS = (204, 205, 304)


def check_reply(reply: HTTPReply, call: Call, scope: Scope) -> None:
    """Raise what a reply's status and kind mean, if that is an error."""
    if reply.status == 200 and (call.accept == "html" or reply.content_type != "text/html"):
        return
    if 200 < reply.status < 300 and reply.status not in (204, 205):
        return
    # What comes on a connection after a reply that has no body is not this reply's: it is not
    # read, so that closing the reply closes the connection.
    body = b"" if reply.status < 200 or reply.status in _BODILESS else _error_body(reply)
    is_page = reply.content_type == "text/html" and b"<" in body
    said = None if is_page else service_message(body)
    kind = class_of_status(reply.status)
    message = SAID_BY_STATUS.get(reply.status, f"the service answered {reply.status}")
    if is_page and (is_challenge(body) or reply.status == 403):
        kind = errors.BlockedError
        message = "a challenge or access-denied page stands before the service"
    elif reply.status in (204, 205):
        kind, message = errors.EmptyReplyError, "the service answered without content"
    elif reply.status == 200:
        message = "the service answered with a web page where a reply was due; check base_url"
    raise kind(
        f"{message} (HTTP {reply.status}{': ' + said if said else ''})",
        status_code=reply.status,
        retry_after=parse_retry_after(reply.headers, now=scope.clock.wall()),
        request_id=reply.request_id,
        retryable=False if reply.status == 407 else None,
        detail=said,
    )


def _error_body(reply: HTTPReply) -> bytes:
    try:
        return reply.read(reply.limits.error_body)
    except errors.DeadlineExceeded:
        raise
    except errors.LLMError as error:
        logger.debug("the body of an error reply could not be read: %s", error)
        return b""


# Order matters: urllib3's NewConnectionError is a ConnectTimeoutError, requests' ConnectTimeout
# and ProxyError are ConnectionErrors.
_REQUESTS_TABLE: tuple[tuple[type[BaseException], type[errors.LLMError], str, bool | None], ...] = (
    (requests.exceptions.ProxyError, errors.ConnectionFailed, "the proxy failed", None),
    (requests.exceptions.SSLError, errors.ConnectionFailed, "no secure connection", None),
    (requests.exceptions.ConnectTimeout, errors.ProviderTimeout, "no connection in time", None),
    (requests.exceptions.ReadTimeout, errors.ProviderTimeout, "no answer in time", None),
    (requests.exceptions.Timeout, errors.ProviderTimeout, "no answer in time", None),
    (requests.exceptions.ConnectionError, errors.ConnectionFailed, "no connection", None),
    (requests.exceptions.ChunkedEncodingError, errors.StreamInterrupted, "the reply broke", None),
    (requests.exceptions.ContentDecodingError, errors.ProtocolError, "bad compression", None),
    (requests.exceptions.StreamConsumedError, errors.StreamInterrupted, "the reply broke", None),
    (requests.exceptions.TooManyRedirects, errors.ProtocolError, "too many redirects", None),
    (requests.exceptions.JSONDecodeError, errors.ProtocolError, "the reply is not JSON", None),
    (requests.exceptions.InvalidJSONError, errors.InvalidRequestError, "not JSON", None),
    (requests.exceptions.HTTPError, errors.ServerError, "the service failed", None),
    (requests.exceptions.RetryError, errors.ServerError, "the service failed", None),
    (requests.exceptions.URLRequired, errors.InvalidRequestError, "a URL is missing", None),
    (requests.exceptions.MissingSchema, errors.InvalidRequestError, "a wrong URL", None),
    (requests.exceptions.InvalidSchema, errors.InvalidRequestError, "a wrong URL", None),
    (requests.exceptions.InvalidProxyURL, errors.InvalidRequestError, "a wrong proxy URL", None),
    (requests.exceptions.InvalidURL, errors.InvalidRequestError, "a wrong URL", None),
    (requests.exceptions.InvalidHeader, errors.InvalidRequestError, "a wrong header", None),
    (requests.exceptions.UnrewindableBodyError, errors.InvalidRequestError, "a wrong body", None),
    (urllib3_errors.LocationValueError, errors.InvalidRequestError, "a wrong URL", None),
    (urllib3_errors.ReadTimeoutError, errors.ProviderTimeout, "no answer in time", None),
    (urllib3_errors.SSLError, errors.ConnectionFailed, "no secure connection", None),
    (UnicodeError, errors.InvalidRequestError, "a header or address that cannot be sent", None),
    (TimeoutError, errors.ProviderTimeout, "no answer in time", None),
    (OSError, errors.ConnectionFailed, "no connection", None),
    (HTTPError, errors.ConnectionFailed, "no connection", None),
    (ValueError, errors.InvalidRequestError, "a header or address that cannot be sent", None),
)


# tinyproxy says 401 where others say 407.
_LOGIN_REFUSED = re.compile(r"Tunnel connection failed: 40[17]\b")
_NO_HTTP = (HTTPException, urllib3_errors.InvalidHeader)


def opening_error(error: BaseException, scope: Scope) -> errors.LLMError:
    """What a failure before the reply's headers means; the texts of ``error`` are redacted."""
    scrub(error)
    if scope.over:
        return scope.error()
    root = _root(error)
    if isinstance(root, ssl.SSLCertVerificationError):
        return errors.ConnectionFailed(
            f"the server's certificate is not trusted ({root.verify_message})",
            retryable=False,
            detail="certificate",
        )
    not_http = isinstance(root, _NO_HTTP) and not isinstance(root, RemoteDisconnected)
    if not_http and not isinstance(error, requests.exceptions.ProxyError):
        return errors.ProtocolError(f"the service's answer is not HTTP: {_brief(root)}")
    login_refused = isinstance(root, socks.SOCKS5AuthError) or bool(
        _LOGIN_REFUSED.search(str(root))
    )
    for cls, kind, said, retryable in _REQUESTS_TABLE:
        if isinstance(error, cls):
            return kind(f"{said}: {_brief(root)}", retryable=False if login_refused else retryable)
    raise AssertionError(f"{type(error).__name__} has no place in the table") from error


def reading_error(error: BaseException, scope: Scope) -> errors.LLMError:
    """What a failure in the middle of a body means; the texts of ``error`` are redacted."""
    scrub(error)
    if scope.over:
        return scope.error()
    root = _root(error)
    if isinstance(error, (urllib3_errors.ReadTimeoutError, requests.Timeout)) or isinstance(
        root, TimeoutError
    ):
        return errors.ProviderTimeout("nothing more of the reply came within the read timeout")
    if isinstance(error, urllib3_errors.DecodeError):
        return errors.ProtocolError(f"the reply's compression is broken: {_brief(root)}")
    return errors.StreamInterrupted(f"the reply was cut short: {_brief(root)}")


def _root(error: BaseException) -> BaseException:
    """The innermost error that the libraries wrapped."""
    seen = {id(error)}
    while True:
        inner = [getattr(error, "reason", None), getattr(error, "socket_err", None)]
        # Not the context: it leads to whatever the caller was handling when the call was made.
        inner += [*error.args, error.__cause__]
        deeper = next(
            (e for e in inner if isinstance(e, BaseException) and id(e) not in seen), None
        )
        if deeper is None:
            return error
        seen.add(id(deeper))
        error = deeper


def _brief(error: BaseException) -> str:
    said = str(error) or type(error).__name__
    text = "".join(letter if letter.isprintable() else " " for letter in said).strip()
    return text if len(text) <= 300 else text[:297] + "..."
