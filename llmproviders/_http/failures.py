"""Map exceptions of the underlying libraries to errors, before and during a reply."""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import Iterator
from http.client import HTTPException, IncompleteRead, RemoteDisconnected
from urllib.parse import urlsplit

import requests
import socks
from requests.exceptions import RequestException
from urllib3 import exceptions as urllib3_errors
from urllib3.exceptions import HTTPError

from .. import errors
from .._redact import redact, scrub
from .._runtime.scope import CancelScope
from .._signals import let_through
from .error_rules import CERTIFICATE_HINTS, NOTHING_LISTENS, UNKNOWN_AUTHORITY
from .types import SOCKS_SCHEMES

BROKEN = (HTTPError, HTTPException, RequestException, OSError, ValueError, AttributeError)
"""What reading a body may raise, in any layer."""


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
    (TypeError, errors.InvalidRequestError, "a header or address that cannot be sent", None),
)


# tinyproxy says 401 where others say 407.
_TUNNEL_REFUSED = re.compile(r"Tunnel connection failed: (?P<status>[0-9]{3})\b")
_LOGIN_WANTED = ("401", "407")

_NO_HTTP = (HTTPException, urllib3_errors.InvalidHeader)

_PLAIN_THERE = re.compile(r"WRONG_VERSION_NUMBER|wrong version number|record layer failure", re.I)

# The proxy looks names up.
_NAMED_THERE = ("socks4a://", "socks5h://")

_CHECK_PROXY = (
    "check proxy=, LLMPROVIDERS_PROXY, the session's proxies, HTTP_PROXY, HTTPS_PROXY and ALL_PROXY"
)


def opening_error(
    error: BaseException, scope: CancelScope, url: str = "", proxy: str | None = None
) -> errors.LLMError:
    """The error for a failure before the reply's headers.

    Args:
        error: what the libraries raised; secrets in its messages are masked in place.
        scope: the call's; if it has ended, that is the error.
        url: where the request went; the message has its host and port.
        proxy: the URL of the proxy on the way, or None; the message has its host and port.
    """
    let_through(error)
    scrub(error)
    if scope.over:
        return scope.error()
    root = root_of(error)
    is_proxy_error = isinstance(error, requests.exceptions.ProxyError)
    at = _at(url, proxy)
    if isinstance(root, ssl.SSLCertVerificationError):
        presented = getattr(root, "presented", None)
        issuer = f"; it was issued by {presented!r}" if presented else ""
        whose, hint = "server", CERTIFICATE_HINTS.get(root.verify_code, UNKNOWN_AUTHORITY)
        if is_proxy_error:
            whose, hint = "proxy", "; name the file of its authority in REQUESTS_CA_BUNDLE"
        return errors.ConnectionFailed(
            f"the {whose}'s certificate is not trusted ({root.verify_message}{issuer}){at}{hint}",
            retryable=False,
            detail=None if is_proxy_error else "certificate",
        )
    about_proxy = _about_proxy(error, root, url, proxy)
    if about_proxy is not None:
        wants_login = _wants_login(root)
        return errors.ConnectionFailed(
            f"the proxy failed: {about_proxy}", retryable=False if wants_login else None
        )
    if isinstance(root, _NO_HTTP) and not isinstance(root, RemoteDisconnected):
        return errors.ProtocolError(f"the service's answer is not HTTP: {_brief(root)}{at}")
    for cls, kind, said, retryable in _REQUESTS_TABLE:
        if isinstance(error, cls):
            hint = ""
            if isinstance(root, ConnectionRefusedError) and said == "no connection":
                is_here = urlsplit(url).hostname in ("localhost", "127.0.0.1", "::1")
                hint = NOTHING_LISTENS if is_here and proxy is None else ""
            elif isinstance(root, ssl.SSLError) and _PLAIN_THERE.search(str(root)):
                hint = "; the server does not speak TLS there; try http://"
            return kind(f"{said}: {_brief(root)}{at}{hint}", retryable=retryable)
    raise AssertionError(f"{type(error).__name__} has no place in the table") from error


def _about_proxy(
    error: BaseException, root: BaseException, url: str, proxy: str | None
) -> str | None:
    """What went wrong with the proxy, and what to do; None if it was something else."""
    links = list(_wrapped(error))
    # A session's SOCKS proxy: a name that is looked up here can only be the proxy's.
    is_unknown = isinstance(root, socket.gaierror) and (proxy or "").startswith(_NAMED_THERE)
    is_unknown = is_unknown and not isinstance(links[-2], urllib3_errors.NameResolutionError)
    is_socks = any(isinstance(link, socks.ProxyError) for link in links)
    if not (is_socks or is_unknown) and not any(
        isinstance(link, (requests.exceptions.ProxyError, urllib3_errors.ProxyError))
        for link in links
    ):
        return None
    place = place_of_proxy(proxy)
    who, target = f"the proxy{place and ' '}{place}", _place(url) or "the service"
    cause = _reason(root)
    if _wants_login(root):
        return (
            f"{who} requires a user and password, or refused them: {cause}; put them in its URL, "
            f"percent-encoded (to reach {target})"
        )
    if _TUNNEL_REFUSED.search(cause):
        return f"{who} did not connect to {target}: {cause}"
    if isinstance(root, ssl.SSLError):
        hint = ""
        if _PLAIN_THERE.search(cause):
            hint = "; it does not speak TLS: write its address with http://"
        return f"{who} could not be reached over TLS: {cause}{hint} (to reach {target})"
    if isinstance(root, _NO_HTTP) and not isinstance(root, RemoteDisconnected):
        return f"{who} gave an answer that is not HTTP: {cause} (to reach {target})"
    is_reached = isinstance(root, RemoteDisconnected) or (
        is_socks and not any(isinstance(link, socks.ProxyConnectionError) for link in links)
    )
    if is_reached:
        return f"{who} did not connect to {target}: {cause}"
    return f"{who} cannot be reached: {cause}; {_CHECK_PROXY} (to reach {target})"


def _wants_login(root: BaseException) -> bool:
    """Whether a proxy wants a login, or another one."""
    found = _TUNNEL_REFUSED.search(str(root))
    is_refused = found is not None and found["status"] in _LOGIN_WANTED
    return is_refused or isinstance(root, socks.SOCKS5AuthError)


def reading_error(error: BaseException, scope: CancelScope, url: str = "") -> errors.LLMError:
    """The error for a failure in the middle of a body; arguments as for :func:`opening_error`."""
    let_through(error)
    scrub(error)
    if scope.over:
        return scope.error()
    root = root_of(error)
    if isinstance(error, (urllib3_errors.ReadTimeoutError, requests.Timeout)) or isinstance(
        root, TimeoutError
    ):
        return errors.ProviderTimeout(
            f"no more of the reply arrived within the read timeout{_at(url)}"
        )
    if isinstance(error, urllib3_errors.DecodeError):
        return errors.ProtocolError(f"the reply's compression is broken: {_brief(root)}")
    return errors.StreamInterrupted(f"the reply was cut short: {_cut(root)}{_at(url)}")


def _cut(root: BaseException) -> str:
    """How a reply was cut, in words."""
    if isinstance(root, (IncompleteRead, urllib3_errors.IncompleteRead)):
        return "the connection was closed before the end of the reply"
    if isinstance(root, urllib3_errors.InvalidChunkLength):
        return "what arrived is not a chunk of the reply"
    return _brief(root)


# Each is raised while connecting, before any of the request is written.
_BEFORE_SENDING = (
    urllib3_errors.ConnectTimeoutError,
    urllib3_errors.ProxyError,
    ssl.SSLCertVerificationError,
)


def never_sent(error: errors.LLMError) -> bool:
    """Whether a request certainly never left this machine; False if that is unknown."""
    if error.limit is not None:
        return True
    if isinstance(error, errors.InvalidRequestError) and error.status_code is None:
        return True
    return any(isinstance(one, _BEFORE_SENDING) for one in _wrapped(error))


def root_of(error: BaseException) -> BaseException:
    """The innermost error that the libraries wrapped."""
    *_, root = _wrapped(error)
    return root


def _wrapped(error: BaseException) -> Iterator[BaseException]:
    """An error, and those that the libraries wrapped in it, from the outside in."""
    seen = {id(error)}
    while True:
        yield error
        inner = [getattr(error, "reason", None), getattr(error, "socket_err", None)]
        inner += [*error.args, error.__cause__]
        # Of the contexts only this one: others lead to what the caller was handling at the time of
        # the call. urllib3 does not chain the error of a session's SOCKS proxy.
        if isinstance(error, urllib3_errors.NewConnectionError):
            context = error.__context__
            inner.append(context if isinstance(context, socks.ProxyError) else None)
        deeper = next(
            (e for e in inner if isinstance(e, BaseException) and id(e) not in seen), None
        )
        if deeper is None:
            return
        seen.add(id(deeper))
        error = deeper


def _at(url: str, proxy: str | None = None) -> str:
    """Host and port of an address and of the proxy on the way, in parentheses; never a login."""
    place = _place(url)
    through = f", through the proxy {place_of_proxy(proxy)}" if proxy else ""
    return f" (at {place}{through})" if place else ""


def _place(url: str) -> str:
    """Host and port of an address; empty if it has none."""
    try:
        parts = urlsplit(url)
        port = parts.port or _PORTS.get(parts.scheme)
    except ValueError as error:
        let_through(error)
        return ""
    host = parts.hostname or ""
    return f"{f'[{host}]' if ':' in host else host}:{port}" if host else ""


_PORTS = {"https": 443, "http": 80, **dict.fromkeys(SOCKS_SCHEMES, 1080)}


def place_of_proxy(proxy: str | None) -> str:
    """Host and port of a proxy; empty if there is none."""
    scheme, mark, rest = (proxy or "").rpartition("://")
    # Everything before the last @ belongs to the login, even if it is malformed.
    return _place(f"{scheme.lower() if mark else 'http'}://{rest.rpartition('@')[2]}")


def _reason(error: BaseException) -> str:
    """An error's words, without the number that the operating system gives it."""
    if isinstance(error, OSError) and not isinstance(error, ssl.SSLError) and error.strerror:
        return redact(str(error.strerror))
    return _brief(error)


def _brief(error: BaseException) -> str:
    said = redact(str(error)) or type(error).__name__
    text = "".join(letter if letter.isprintable() else " " for letter in said).strip()
    return text if len(text) <= 300 else text[:297] + "..."
