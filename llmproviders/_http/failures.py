"""Map exceptions of the underlying libraries to errors, before and during a reply."""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterator
from http.client import HTTPException, RemoteDisconnected
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
from .error_map import NOTHING_LISTENS

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
_LOGIN_REFUSED = re.compile(r"Tunnel connection failed: 40[17]\b")

_NO_HTTP = (HTTPException, urllib3_errors.InvalidHeader)


def opening_error(error: BaseException, scope: CancelScope, url: str = "") -> errors.LLMError:
    """The error for a failure before the reply's headers.

    Args:
        error: what the libraries raised; secrets in its messages are masked in place.
        scope: the call's; if it has ended, that is the error.
        url: where the request went; the message has its host and port.
    """
    let_through(error)
    scrub(error)
    if scope.over:
        return scope.error()
    root = root_of(error)
    if isinstance(root, ssl.SSLCertVerificationError):
        presented = getattr(root, "presented", None)
        issuer = f"; it was issued by {presented!r}" if presented else ""
        return errors.ConnectionFailed(
            f"the server's certificate is not trusted ({root.verify_message}{issuer}){_at(url)}",
            retryable=False,
            detail="certificate",
        )
    not_http = isinstance(root, _NO_HTTP) and not isinstance(root, RemoteDisconnected)
    if not_http and not isinstance(error, requests.exceptions.ProxyError):
        return errors.ProtocolError(f"the service's answer is not HTTP: {_brief(root)}{_at(url)}")
    login_refused = isinstance(root, socks.SOCKS5AuthError) or bool(
        _LOGIN_REFUSED.search(str(root))
    )
    for cls, kind, said, retryable in _REQUESTS_TABLE:
        if isinstance(error, cls):
            hint = ""
            if any(isinstance(link, socks.ProxyConnectionError) for link in _wrapped(error)):
                said = "the proxy failed"
            elif said == "no connection" and isinstance(root, ConnectionRefusedError):
                is_here = urlsplit(url).hostname in ("localhost", "127.0.0.1", "::1")
                hint = NOTHING_LISTENS if is_here else ""
            return kind(
                f"{said}: {_brief(root)}{_at(url)}{hint}",
                retryable=False if login_refused else retryable,
            )
    raise AssertionError(f"{type(error).__name__} has no place in the table") from error


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
    return errors.StreamInterrupted(f"the reply was cut short: {_brief(root)}{_at(url)}")


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
        # Not the context: it leads to what the caller was handling at the time of the call.
        inner += [*error.args, error.__cause__]
        deeper = next(
            (e for e in inner if isinstance(e, BaseException) and id(e) not in seen), None
        )
        if deeper is None:
            return
        seen.add(id(deeper))
        error = deeper


def _at(url: str) -> str:
    """Host and port of an address, in parentheses; never its user and password."""
    try:
        parts = urlsplit(url)
        port = parts.port or {"https": 443, "http": 80}.get(parts.scheme)
    except ValueError as error:
        let_through(error)
        return ""
    host = parts.hostname or ""
    return f" (at {f'[{host}]' if ':' in host else host}:{port})" if host else ""


def _brief(error: BaseException) -> str:
    said = redact(str(error)) or type(error).__name__
    text = "".join(letter if letter.isprintable() else " " for letter in said).strip()
    return text if len(text) <= 300 else text[:297] + "..."
