"""Send requests and read replies: timeouts, limits, redirects, compression."""

from __future__ import annotations

import json
import logging
import os
import re
import socket
import ssl
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from io import BytesIO
from math import inf
from typing import Any
from urllib.parse import urlencode, urlsplit

import requests
from requests.cookies import RequestsCookieJar, extract_cookies_to_jar
from requests.exceptions import InvalidURL, RequestException
from requests.utils import select_proxy
from urllib3 import encode_multipart_formdata
from urllib3.exceptions import HTTPError

from .. import errors
from .._log import logger
from .._redact import (
    Redacted,
    conceal,
    conceal_user_info,
    hidden,
    is_telling,
    redact,
    redact_record,
)
from .._runtime.scope import CancelScope
from .._signals import Unstoppable, from_handler, let_through
from .connections import Adapter
from .decoding import CODINGS, decode_json, decompress, iter_events, iter_lines, read_document
from .error_map import check_reply
from .failures import BROKEN, opening_error, place_of_proxy, reading_error, root_of
from .native import Native, foreign
from .proxies import both, environment_proxies
from .redirects import target_of
from .sessions import SessionSender
from .sockets import Bounded, Exchange, serving
from .types import (
    DEFAULT_TIMEOUT,
    HTTPRequest,
    Limits,
    Timeout,
    Trust,
    check_proxy,
    check_timeout,
    conceal_header,
    is_loopback,
    plain_headers,
)

# urllib3 logs the addresses of requests, including redirect targets.
logging.getLogger("urllib3.connectionpool").addFilter(redact_record)


_BLOCK = 64 * 1024

_MOST_CODINGS = 5

# Codings that make a body unreadable unless they are undone, which happens only if the request
# asked for them and urllib3 can.
_OTHER_CODINGS = ("br", "zstd", "compress", "x-compress", "dcb", "dcz")

_MOST_REDIRECTS = 5

_USER_AGENT = "llmproviders"


class HTTPReply:
    """A service's answer, its body still on the way; iterating yields the body as it arrives.

    Attributes:
        status: the status.
        headers: the headers.
        content_type: the media type of the body, without parameters, in lower case.
        texts: returns how many pieces of text the body has brought so far.
        asked: what the caller asked for, if this answers a chat; else None.
    """

    def __init__(self, response: requests.Response, exchange: Exchange, limits: Limits) -> None:
        self._response = response
        self._exchange = exchange
        self.limits = limits
        self._decompressed: Iterator[bytes] | None = None
        self._limit_before: float | None = None
        self.status: int = response.status_code
        self.headers: Mapping[str, str] = response.raw.headers
        content_type = self.headers.get("content-type", "")
        self.content_type = content_type.partition(";")[0].strip().lower()
        self.texts: Callable[[], int] = int
        self.asked: Any = None
        self._release: Callable[[], None] = response.release  # type: ignore[attr-defined]

    @property
    def request_id(self) -> str | None:
        """The service's id for the request."""
        given = self.headers.get("x-request-id")
        return None if given is None else redact(given)

    @property
    def cookies(self) -> dict[str, str]:
        """The cookies that came with the reply; their values are masked from here on."""
        jar = RequestsCookieJar()
        extract_cookies_to_jar(jar, self._response.request, self._response.raw)  # type: ignore[no-untyped-call]
        for cookie in jar:
            conceal(cookie.value)
        return {cookie.name: Redacted(cookie.value or "") for cookie in jar}

    def __iter__(self) -> Iterator[bytes]:
        """Yield the body, decompressed, as soon as it arrives.

        Raises:
            StreamInterrupted: the connection broke, or the body is shorter than announced.
            ProviderTimeout: nothing came for the read timeout.
            DeadlineExceeded: the scope's deadline passed.
            ProtocolError: the framing or compression is broken, or a limit was passed.
        """
        if self._decompressed is not None:
            return self._decompressed
        raw, below = self._response.raw, self._exchange.reply
        codings = _codings(self.headers.get("content-encoding"))
        ours = not codings or all(coding in CODINGS for coding in codings)
        if not ours:
            self._check_asked(codings)
        if ours and below is not None and below.chunked:
            # A stream has a chunk per piece of text, and urllib3 takes three times as long per
            # chunk as the ``http.client`` below it.
            read = below.read1
        else:
            read = partial(raw.read1, decode_content=not ours)
        blocks = self._arriving(read)
        if ours and codings:
            for coding in reversed(codings):
                blocks = decompress(blocks, coding)
            # Reading after the end mark continues in the middle of the compressed data.
            blocks = self._decompressed = self._counted(blocks)
        return blocks

    def _arriving(self, read: Callable[[int], bytes]) -> Iterator[bytes]:
        scope, limit = self._exchange.scope, self.limits.reply
        # Our sockets ask the scope at each receive; buffered data is read without a receive.
        step = _BLOCK if isinstance(self._exchange.sock, Bounded) else 1
        size, look_at = 0, step - 1
        while True:
            if size >= look_at:
                look_at = size + step
                if scope.bounded and scope.over:
                    raise scope.error()
            try:
                block = read(_BLOCK)
            except Unstoppable as error:
                let_through(error)
                raise
            except BROKEN as error:
                url = str(self._response.request.url)
                raise reading_error(error, scope, url) from error
            if not block:
                if scope.cancelled:
                    raise scope.error()
                self._give_back()
                return
            size += len(block)
            if size > limit:
                raise _too_large(limit)
            yield block

    def _counted(self, blocks: Iterator[bytes]) -> Iterator[bytes]:
        """The same blocks, limited by size: decompressed data can be much larger than the body."""
        scope, limit, size = self._exchange.scope, self.limits.reply, 0
        for block in blocks:
            size += len(block)
            if size > limit:
                raise _too_large(limit)
            if scope.bounded and scope.over:
                raise scope.error()
            yield block

    def _check_asked(self, codings: Sequence[str]) -> None:
        """Raise a ``ProtocolError`` if the body is in a coding that the request did not ask for."""
        asked = (self._response.request.headers.get("Accept-Encoding") or "").lower()
        for coding in codings:
            known = coding in CODINGS or coding in self._response.raw.CONTENT_DECODERS
            if coding not in CODINGS and not (known and coding in asked):
                raise errors.ProtocolError(
                    f"the reply is compressed with {redact(coding)}, which was not requested; "
                    "a proxy or gateway may have done it"
                )

    def _give_back(self) -> None:
        """Keep the connection for the next call, unless extra data has arrived on it.

        Extra data that Python or TLS has already read would be taken for the next reply.
        """
        if self._exchange.reply is not None:
            # If left to Python, it is closed during the next call, and an interrupt then is lost.
            self._exchange.reply.close()
        below, connection = self._exchange.reply, self._response.raw.connection
        unclean = below is None or below.leftover
        if unclean:
            self._exchange.cut()
        self._exchange.unbind()
        if connection is not None and (unclean or not connection.is_connected):
            connection.close()
        self._release()

    def lines(self) -> Iterator[bytes]:
        """The body's lines, each as soon as it has arrived; see :func:`.decoding.iter_lines`."""
        return iter_lines(iter(self), max_line=self.limits.line, texts=self.texts)

    def events(self) -> Iterator[bytes]:
        """The data of its server-sent events, as they arrive; see :func:`.decoding.iter_events`."""
        return iter_events(
            iter(self),
            max_line=self.limits.line,
            texts=self.texts,
            hasten=self.hasten,
            plain=True,
        )

    def read(self, limit: int | None = None) -> bytes:
        """The whole body, or its first ``limit`` bytes.

        Raises:
            ProtocolError: the body exceeds ``Limits.line``, since all of it is held in memory.
        """
        if limit is None:
            return read_document(self, max_line=self.limits.line, hasten=self.hasten)
        # A buffer, not a list: blocks may be as small as two bytes.
        body = BytesIO()
        for block in self._first(limit):
            body.write(block)
        return body.getvalue()

    def read_error(self, limit: int) -> bytes:
        """As much of the first ``limit`` bytes as arrives; the status tells that it is an error.

        Raises:
            DeadlineExceeded: the scope's deadline passed.
        """
        return read_document(self._arrived(limit), max_line=limit, hasten=self.hasten)

    def _arrived(self, limit: int) -> Iterator[bytes]:
        try:
            yield from self._first(limit)
        except errors.DeadlineExceeded:
            raise
        except errors.LLMError as error:
            let_through(error)
            logger.debug("the body of an error reply could not be read: %s", error)

    def _first(self, limit: int) -> Iterator[bytes]:
        for block in self:
            yield block[:limit]
            limit -= len(block)
            if limit <= 0:
                return

    def json(self) -> Any:
        """The body as JSON; see :func:`.decoding.decode_json` for the errors."""
        return decode_json(self.read())

    def finish(self, patience_s: float = 0.25) -> None:
        """Read what follows the end mark, so that the connection can be kept.

        If a service neither sends more nor ends the body within ``patience_s``, its connection is
        dropped.
        """
        scope = self._exchange.scope
        limit, scope.limit = scope.limit, scope.clock.monotonic() + patience_s
        try:
            self.read(_BLOCK)
        except errors.LLMError as error:
            let_through(error)
            logger.debug("connection not kept: %s", error)
        finally:
            scope.limit = limit
            self.close()

    def hasten(self, seconds: float) -> None:
        """Limit the time for the rest of the reply, counted from now.

        It may be called again and then counts anew; the limits of the call still apply.
        """
        scope = self._exchange.scope
        if self._limit_before is None:
            self._limit_before = scope.limit
        scope.limit = min(self._limit_before, scope.clock.monotonic() + seconds)
        sock = self._exchange.sock or getattr(self._response.raw.connection, "sock", None)
        # Our sockets ask the scope at each wait; a session's sockets need a new timeout.
        if sock is not None and not isinstance(sock, Bounded) and sock.fileno() >= 0:
            sock.settimeout(seconds)

    def close(self) -> None:
        """Give the connection back if the body was read to its end, else close it."""
        self._decompressed = None
        if self._limit_before is not None:
            self._exchange.scope.limit = self._limit_before
        try:
            self._exchange.unbind()
            self._response.close()
            self._release()
        except BaseException:
            self._exchange.cut()
            raise


def _too_large(limit: int) -> errors.ProtocolError:
    return errors.ProtocolError(
        f"the reply is larger than {limit} bytes; if that is right, raise Limits.reply"
    )


def _codings(header: str | None) -> list[str]:
    """The content codings to undo, in the order in which they were applied."""
    named = [name.strip().lower() for name in (header or "").split(",")]
    codings = [name for name in named if name in CODINGS or name in _OTHER_CODINGS]
    if len(codings) > _MOST_CODINGS:
        raise errors.ProtocolError(f"the reply is compressed {len(codings)} times over")
    return codings


_NOT_SENT = (RequestException, HTTPError, OSError, ValueError, TypeError)


class Transport:
    """Sends calls for one provider. It is thread-safe; a forked child starts without connections.

    Args:
        proxy: the URL of the proxy for all calls, already checked; None: the environment's.
        asked: whether ``proxy`` was passed as an argument, so that it also applies to loopback.
        timeout: seconds, or ``(connect, read)``.
        trust: which certificates are trusted.
        session: a session to send with instead of our own connections.
        limits: how large a reply may be.
        headers: headers for every request, which replace the provider's own.
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
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self._proxy = proxy
        self._asked = asked
        self._timeout = check_timeout(timeout, DEFAULT_TIMEOUT)
        self._trust = trust
        self._session = None if session is None else SessionSender(session, trust)
        self._given = _checked(headers or {})
        for name, value in self._given.items():
            conceal_header(name, value)
        self._limits = limits
        self._adapters: dict[object, Adapter] = {}
        # Caches per address or host; a provider has only a handful of them.
        self._prepared_urls: dict[str, str] = {}
        self._found_proxies: dict[tuple[str, str], dict[str, str]] = {}

    def open(
        self,
        call: HTTPRequest,
        scope: CancelScope,
        *,
        timeout: Timeout | None = None,
        proxy: str | None = None,
    ) -> HTTPReply:
        """Send ``call`` and return its reply once headers with a success status have arrived.

        Args:
            call: what to send.
            scope: how long all of it may take.
            timeout: seconds, or ``(connect, read)``, for this call.
            proxy: a proxy's URL for this call.

        Raises:
            LLMError: the class depends on the failure; see the table of errors.
        """
        request = self._prepare(call)
        for _ in range(_MOST_REDIRECTS):
            reply = self._send(request, scope, timeout, proxy)
            try:
                target = None
                if 300 <= reply.status < 400:
                    target = target_of(reply, request)
                if target is None:
                    if reply.status != 200 or reply.content_type == "text/html":
                        now, most = scope.clock.wall(), self._limits.error_body
                        relay = self._relay(str(request.url), proxy)
                        check_reply(reply, call, now=now, most=most, relay=relay)
                    return reply
            except BaseException:
                reply.close()
                raise
            reply.finish()
            request = request.copy()
            request.url = target
        raise errors.ProtocolError(f"the service redirected {_MOST_REDIRECTS} times in a row")

    def probe(self, url: str, scope: CancelScope) -> HTTPReply:
        """Connect, request ``url``, and return the answer, whatever its status.

        Args:
            url: an address of the service.
            scope: how long it may take.

        Raises:
            LLMError: there is no connection or no answer.
        """
        return self._send(self._prepare(HTTPRequest("HEAD", url)), scope, None, None)

    def proxy_for(self, url: str) -> str | None:
        """The proxy for ``url``, from the arguments, the session or the environment.

        Raises:
            InvalidRequestError: the environment names a proxy that cannot be used.
        """
        return self._chosen_proxy(url, None)

    def _chosen_proxy(self, url: str, given: str | None) -> str | None:
        proxies = self._proxies(url, given)
        if self._session is not None:
            proxies = self._session.proxies_for(proxies)
        return select_proxy(url, proxies)

    def _relay(self, url: str, given: str | None) -> str:
        """Host and port of the HTTP proxy that passes on requests to ``url`` in clear, if any."""
        chosen = self._chosen_proxy(url, given) if url.startswith("http:") else None
        return "" if chosen is None or chosen.startswith("socks") else place_of_proxy(chosen)

    def _prepare(self, call: HTTPRequest) -> requests.PreparedRequest:
        given = self._given
        if call.extra_headers:
            given = _merged(given, _checked(call.extra_headers))
            for name, value in call.extra_headers.items():
                conceal_header(name, value)
        try:
            url = self._prepared_url(call.url)
            body, kind = _body(call)
            own = _headers(call, body, kind)
            if self._session is not None:
                return self._session.prepare(call.method, url, body, own, given)
        except errors.LLMError:
            raise
        except (RequestException, TypeError, ValueError) as error:
            raise opening_error(error, CancelScope(), call.url) from error
        request = requests.PreparedRequest()
        request.method, request.url, request.body = call.method, url, body
        if given:
            own = _merged(own, given)
        # A plain dict: CaseInsensitiveDict is slow, and nothing looks headers up here.
        request.headers = own  # type: ignore[assignment]
        return request

    def _prepared_url(self, url: str) -> str:
        prepared = self._prepared_urls.get(url)
        if prepared is None:
            conceal_user_info(url)
            request = requests.PreparedRequest()
            request.prepare_url(url, None)
            prepared = str(request.url)
            host = urlsplit(prepared).netloc.rpartition("@")[2]
            if "%" in host and not host.startswith("["):
                raise InvalidURL(f"{redact(url)} has a host with characters that are not allowed")
            self._prepared_urls[url] = prepared
        return prepared

    def _send(
        self,
        request: requests.PreparedRequest,
        scope: CancelScope,
        timeout: Timeout | None,
        proxy: str | None,
    ) -> HTTPReply:
        if scope.drain is not None:
            scope.check_sends()
        # Our sockets ask the scope at each wait; a session takes one timeout.
        bounded = self._session is None and (socket.socket is Native or not foreign())
        if not bounded and scope.over:
            raise scope.error()
        connect, read = self._timeout if timeout is None else check_timeout(timeout, timeout)
        left = inf if bounded else scope.remaining()
        arguments = {
            "stream": True,
            "timeout": (_least(connect, left), _least(read, left)),
            "verify": True,
            "proxies": self._proxies(str(request.url), proxy),
        }
        send = self._sender()
        exchange = Exchange(scope)
        while True:
            try:
                before = serving.get()
                serving.set(exchange)
                try:
                    response = send(request, **arguments)
                finally:
                    serving.set(before)
                if logger.isEnabledFor(logging.DEBUG):
                    url = redact(str(request.url))
                    logger.debug("%s %s: %s", request.method, url, response.status_code)
                return HTTPReply(response, exchange, self._limits)
            except BaseException as error:
                if not isinstance(error, _NOT_SENT) or from_handler(error):
                    exchange.drop()
                    let_through(error)
                    raise
                closed = exchange.found_closed(root_of(error))
                exchange.unbind()
                if isinstance(error, errors.LLMError):
                    raise
                if not closed:
                    url = str(request.url)
                    chosen = self._chosen_proxy(url, proxy)
                    raise opening_error(error, scope, url, chosen) from error
            logger.debug("a kept connection had been closed, asking again on a new one")
            exchange = Exchange(scope, anew=True)

    def _sender(self) -> Callable[..., requests.Response]:
        if self._session is not None:
            return self._session.send
        key = _owner()
        adapter = self._adapters.get(key)
        if adapter is None:
            # The parent's connections are dropped, never closed or used: they belong to the parent.
            fresh = {key: Adapter(self._trust)}
            if key not in self._adapters:
                self._adapters = fresh
            adapter = self._adapters.setdefault(key, fresh[key])
        return adapter.send

    def _proxies(self, url: str, proxy: str | None) -> dict[str, str]:
        if proxy is not None:
            return both(check_proxy(proxy))
        if self._proxy is not None and self._asked:
            return both(self._proxy)
        # Only scheme and host: redirects can lead to ever new paths.
        host = urlsplit(url)[:2]
        found = self._found_proxies.get(host)
        if found is None:
            found = self._found_proxies[host] = self._find_proxies(url)
        return found

    def _find_proxies(self, url: str) -> dict[str, str]:
        if self._proxy is not None:
            return {} if is_loopback(urlsplit(url).hostname or "") else both(self._proxy)
        if self._session is not None and not self._session.reads_environment:
            return {}
        return environment_proxies(url)

    def close(self) -> None:
        """Close the connections; the next call opens new ones."""
        adapter = self._adapters.pop(_owner(), None)
        if adapter is not None:
            adapter.close()


def _owner() -> object:
    """The owner of connections: the process, and whether gevent or the like has patched it."""
    return os.getpid(), socket.socket, ssl.SSLContext


def _merged(headers: Mapping[str, str], later: Mapping[str, str]) -> dict[str, str]:
    """Combine headers: later ones replace earlier ones of the same name, in any case."""
    replaced = {name.lower() for name in later}
    kept = {name: value for name, value in headers.items() if name.lower() not in replaced}
    return {**kept, **later}


def _least(timeout: float, left: float) -> float | None:
    least = min(timeout, left)
    return None if least == inf else max(least, 0.001)


_as_utf8 = json.JSONEncoder(allow_nan=False, ensure_ascii=False).encode

_as_ascii = json.JSONEncoder(allow_nan=False).encode


def _body(call: HTTPRequest) -> tuple[bytes | None, str]:
    if call.json is not None:
        try:
            return _in_json(call.json), "application/json"
        except (TypeError, ValueError, RecursionError) as error:
            let_through(error)
            raise errors.InvalidRequestError(
                f"the request cannot be written as JSON: {error}"
            ) from error
    if call.files is not None:
        return encode_multipart_formdata({**plain_headers(call.form or {}), **call.files})
    if call.form is not None:
        return urlencode(plain_headers(call.form)).encode(), "application/x-www-form-urlencoded"
    return None, ""


def _in_json(value: Any) -> bytes:
    try:
        return _as_utf8(value).encode()
    except UnicodeEncodeError:
        # Half a character, which can only be written as an escape.
        return _as_ascii(value).encode()


def _headers(call: HTTPRequest, body: bytes | None, kind: str) -> dict[str, str]:
    headers = dict(call.headers)
    names = {name.lower(): name for name in headers}
    if "user-agent" not in names:
        headers["User-Agent"] = _USER_AGENT
    if body is not None:
        if "content-type" not in names:
            headers["Content-Type"] = kind
        headers[names.get("content-length", "Content-Length")] = str(len(body))
    if call.authorization is not None:
        headers[names.get("authorization", "Authorization")] = call.authorization
    return _checked(headers)


# HTTP allows a tab and the printable part of Latin-1 in a header.
_UNSENDABLE = re.compile(r"[^\t\x20-\x7e\x80-\xff]")


def _checked(headers: Mapping[str, str]) -> dict[str, str]:
    """Check headers, and hide the values that are likely to be credentials.

    Raises:
        InvalidRequestError: a value cannot be sent. The message omits it, since it may be a key.
    """
    checked = dict(headers)
    for name, value in headers.items():
        if type(value) is str and is_telling(name):
            checked[name] = hidden(value)
        # Callers and third-party providers may pass anything here.
        if not isinstance(value, str) or _UNSENDABLE.search(value):  # type: ignore[redundant-expr]
            raise errors.InvalidRequestError(
                f"the header {name} cannot be sent: its value, which is not shown, is not a "
                "string, or has a line break or another character that HTTP does not allow"
            )
    return checked
