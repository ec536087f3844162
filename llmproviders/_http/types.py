"""Requests as plain data, and checks of the arguments for sending them."""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from math import inf
from typing import Any, Literal, Protocol
from urllib.parse import urlsplit

from .._checks import as_float, shown, whole
from .._redact import (
    MASK,
    Redacted,
    Secret,
    conceal,
    conceal_query,
    conceal_user_info,
    hidden,
    is_telling,
    redact,
)
from .._runtime.scope import LONGEST_S, CancelScope
from .._signals import let_through
from ..errors import InvalidRequestError

MAX_LINE = 16 * 1024 * 1024


Timeout = float | tuple[float | None, float | None]

Rate = Mapping[str, int]
"""Limits per period: numbers of ``"requests"`` and ``"tokens"``, either or both."""

DEFAULT_TIMEOUT = (10.0, 60.0)


SOCKS_SCHEMES = ("socks4", "socks4a", "socks5", "socks5h")

PROXY_SCHEMES = ("http", "https", *SOCKS_SCHEMES)


@dataclass(frozen=True)
class Limits:
    """Size limits of a reply, in bytes after decompression; beyond them: ``ProtocolError``.

    Attributes:
        line: one line of a stream, or a reply that is not a stream; both are held in memory.
            ChatGLM repeats the whole text in each line.
        reply: all of a stream.
        error_body: how much of an error's body is read.
    """

    line: int = MAX_LINE
    reply: int = 1024 * 1024 * 1024
    error_body: int = 64 * 1024

    def __post_init__(self) -> None:
        for name in ("line", "reply", "error_body"):
            object.__setattr__(self, name, whole(f"limits.{name}", getattr(self, name)))


@dataclass(frozen=True)
class HTTPRequest:
    """One HTTP request as plain data.

    Attributes:
        method: ``"GET"`` or ``"POST"``.
        url: the full address.
        headers: all headers except the authorization.
        json: a body to send as JSON, or None.
        form: a body to send form-encoded, or None.
        files: files to send along with ``form``, as multipart: field -> ``(name, content, media
            type)``; or None.
        authorization: the value of the ``Authorization`` header, or None; kept separate so that
            nothing else, ``~/.netrc`` in particular, can replace it.
        accept: ``"html"`` if a web page is expected, or the reader can distinguish a page from a
            reply; otherwise a page is an error.
        extra_headers: the caller's headers for this call; they replace others of the same names.
    """

    method: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    json: Any = None
    form: Mapping[str, str] | None = None
    files: Mapping[str, tuple[str, bytes, str]] | None = field(default=None, repr=False)
    authorization: str | None = field(default=None, repr=False)
    accept: Literal["any", "html"] = "any"
    extra_headers: Mapping[str, str] = field(default_factory=dict)

    def __repr__(self) -> str:
        headers = {
            name: MASK if is_telling(name) else value for name, value in self.headers.items()
        }
        return redact(
            f"Call({self.method!r}, {self.url!r}, headers={headers!r}, json={self.json!r}, "
            f"form={self.form!r}, accept={self.accept!r})"
        )


class HTTPResponse(Protocol):
    """A service's answer as a provider sees it; the body may still be arriving.

    Attributes:
        asked: what the caller asked for, if this answers a chat; else None.
    """

    status: int
    headers: Mapping[str, str]
    content_type: str
    texts: Callable[[], int]
    asked: Any

    @property
    def request_id(self) -> str | None:
        """The service's id for the request."""

    @property
    def cookies(self) -> dict[str, str]:
        """The cookies that came with it."""

    def lines(self) -> Iterator[bytes]:
        """The body's lines, each as soon as it has arrived."""

    def events(self) -> Iterator[bytes]:
        """The data of the body's server-sent events, each as soon as it has arrived."""

    def read(self, limit: int | None = None) -> bytes:
        """The whole body, or its first ``limit`` bytes."""

    def json(self) -> Any:
        """The body as JSON."""

    def finish(self) -> None:
        """Read what follows the end mark, so that the connection can be kept."""

    def close(self) -> None:
        """Release the connection if the body was read to its end, else close it."""


class ErrorReply(HTTPResponse, Protocol):
    """An answer whose body may be that of an error."""

    def read_error(self, limit: int) -> bytes:
        """As much of the body's first ``limit`` bytes as arrives."""


class Sender(Protocol):
    """Sends a provider's calls."""

    def open(
        self,
        call: HTTPRequest,
        scope: CancelScope,
        *,
        timeout: Timeout | None = None,
        proxy: str | None = None,
    ) -> HTTPResponse:
        """Send ``call`` and return its reply; raise unless it is a success."""

    def close(self) -> None:
        """Close the connections."""


def plain_headers(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Headers or fields as plain strings, for libraries that print, pickle or record them."""
    return {n: str.__str__(v) if isinstance(v, str) else v for n, v in fields.items()}


def conceal_header(name: str, value: object) -> None:
    """Mask a header's value from now on, if its name suggests a credential."""
    if not isinstance(value, str) or not is_telling(name):
        return
    value = value[:]
    conceal(value)
    if name.lower() == "cookie":
        for pair in value.split(";"):
            conceal(pair.partition("=")[2].strip())
    else:
        # The name of the scheme before it is not secret.
        conceal(value.partition(" ")[2])


@dataclass(frozen=True)
class Trust:
    """Which certificates are trusted, and which client certificate is presented.

    The files are read when the first connection over TLS is opened.

    Attributes:
        verify: False trusts any server.
        extra: certificates in PEM, trusted in addition to the usual ones.
        ca_bundle: a file in PEM or DER with certificates to trust in addition to the usual ones.
        bundle_named: the settings that name that file, for errors.
        cert: a client certificate: one file, or the certificate's and the key's.
        system: whether the system's own store is used instead of certifi's list.
    """

    verify: bool = True
    extra: str | None = None
    ca_bundle: str | None = None
    bundle_named: str = "ca_bundle"
    cert: str | tuple[str, str] | None = None
    system: bool = False


class UnverifiedTLSWarning(UserWarning):
    """A client was made that trusts any server; others on the network can read keys and prompts."""


def warn_unverified(name: str) -> None:
    """Warn that a client trusts any server; every time, unless the user's filters differ."""
    # The caller's line is above all the constructors, one per class.
    level, frame = 2, sys._getframe(1)
    while frame.f_code.co_name == "__init__" and frame.f_back is not None:
        level, frame = level + 1, frame.f_back
    warnings.simplefilter("always", UnverifiedTLSWarning, append=True)
    warnings.warn(
        f"{name} does not verify certificates: others on the network can read the key and "
        "the prompts. Pass the authority's certificate with ca_bundle= instead (for GigaChat, run "
        "`llmproviders trust gigachat --download`)",
        UnverifiedTLSWarning,
        stacklevel=level,
    )


def check_timeout(timeout: Timeout | None, default: Timeout) -> tuple[float, float]:
    """``timeout`` as a pair ``(connect, read)`` in seconds; infinite if there is none.

    Raises:
        InvalidRequestError: it is neither a positive number nor a pair of them.
    """
    value = default if timeout is None else timeout
    pair = value if isinstance(value, (tuple, list)) else (value, value)
    seconds = [inf if part is None else as_float(part) for part in pair]
    connect, read = seconds if len(seconds) == 2 else (None, None)
    if connect is None or read is None or not (connect > 0 and read > 0):
        raise InvalidRequestError(
            f"timeout must be seconds or a pair (connect, read), above zero, not {shown(timeout)}"
        )
    return (inf if connect > LONGEST_S else connect), (inf if read > LONGEST_S else read)


def check_proxy(proxy: str) -> str:
    """A proxy's URL as requests takes it; ``socks://`` means ``socks5h://``.

    Raises:
        InvalidRequestError: it is not the URL of a proxy of a known kind.
    """
    proxy = hidden(proxy)
    if not isinstance(proxy, str):
        raise InvalidRequestError(f"proxy must be the URL of a proxy, not {type(proxy).__name__}")
    conceal_user_info(proxy)
    if not _is_proxy(*_split_proxy(proxy)):
        raise InvalidRequestError(_about_proxy(*_split_proxy(proxy)))
    return Secret("://".join(_split_proxy(proxy)))


def _split_proxy(proxy: str) -> tuple[str, str]:
    scheme, mark, rest = proxy.strip().partition("://")
    if not mark:
        return "http", scheme
    return "socks5h" if scheme.lower() == "socks" else scheme.lower(), rest


def _is_proxy(scheme: str, rest: str) -> bool:
    try:
        parts = urlsplit(f"{scheme}://{rest}")
        return scheme in PROXY_SCHEMES and bool(parts.hostname) and parts.port != 0
    except ValueError as error:
        let_through(error)
        return False


def _about_proxy(scheme: str, rest: str) -> str:
    # Everything before the last @ belongs to the login, even if it is malformed.
    login, at, place = rest.rpartition("@")
    hint = "; in a user or password, / ? # @ have to be percent-encoded" if at else ""
    return (
        f"the proxy {scheme}://{MASK if login else ''}{at}{place} is not a URL such as "
        f"http://host:port or socks5h://host:port{hint} "
        f"(known schemes: {', '.join(PROXY_SCHEMES)})"
    )


def is_loopback(host: str) -> bool:
    """Whether ``host`` is this machine by its loopback address or name."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError as error:
        let_through(error)
        return False


_NOT_IN_A_URL = re.compile(r"[\x00-\x20\x7f\\]")


def check_url(url: str, source: str) -> str:
    """A service's address, without slashes at its end.

    Args:
        url: the address.
        source: the argument or variable that it comes from, for the error.

    Raises:
        InvalidRequestError: it is not an HTTP URL. The message omits it, since it may contain a
            password or be a misplaced key.
    """
    url = hidden(url)
    conceal_user_info(url)
    conceal_query(url)
    wrong = _fault_of_url(url)
    if wrong:
        raise InvalidRequestError(
            f"{source} is not a URL: it {wrong}; it should look like https://host/v1"
        )
    return Redacted(url.rstrip("/"))


def _fault_of_url(url: str) -> str | None:
    if _NOT_IN_A_URL.search(url):
        return "contains a space, a control character or a backslash"
    if "#" in url:
        return "has a part behind a #, which is never sent"
    try:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https"):
            return "does not begin with http:// or https://"
        if not parts.hostname:
            return "names no host"
        if parts.port == 0 or ("%" in parts.hostname and ":" not in parts.hostname):
            return "has an invalid host or port"
    except ValueError as error:
        let_through(error)
        return "has an invalid host or port"
    return None
