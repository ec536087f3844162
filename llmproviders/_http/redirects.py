"""Follow only redirects that do not send a prompt or a key to another server."""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import urljoin, urlsplit

import requests
from requests.exceptions import RequestException
from urllib3.exceptions import HTTPError
from urllib3.util import parse_url

from .. import errors
from .._redact import conceal_query, conceal_user_info
from .._signals import let_through
from .types import HTTPResponse

# A location that all programs read the same way: a host, optionally with a port, or a path on the
# same host, in printable ASCII without a backslash.
_PLAIN_PLACE = re.compile(
    r"(?:(?:https?:)?//[a-z0-9._~-]+(?::[0-9]*)?(?=[/?#]|$)"
    r"|(?:https?:)?//\[[0-9a-f:.]+\](?::[0-9]*)?(?=[/?#]|$)"
    r"|(?!//)(?![^/?#]*:))"
    r"[!-\[\]-~]*",
    re.IGNORECASE,
)

_PORTS = {"http": 80, "https": 443}


def target_of(reply: HTTPResponse, request: requests.PreparedRequest) -> str | None:
    """The target of a reply with a status of 3xx; None if it names none.

    A prompt or a key must not go to an unexpected server: only redirects to the same scheme, host
    and port are followed, or to the same host over TLS if both use the default ports.
    """
    location = reply.headers.get("location")
    if not location:
        return None
    conceal_user_info(location)
    conceal_query(location)
    place = location.strip(" \t")
    found = _joined(str(request.url), place) if _PLAIN_PLACE.fullmatch(place) else None
    if found is None:
        raise errors.ProtocolError(
            "the service redirects to an address that is invalid, or that programs read in "
            "different ways; it is not followed",
            status_code=reply.status,
            retryable=False,
        )
    target, there = found
    here = _origin(str(request.url))
    if (request.method == "GET" or reply.status in (307, 308)) and (
        there == here or there == _encrypted(here)
    ):
        return target
    raise errors.ProtocolError(
        f"the service redirects to {there}, which is not followed; "
        "if it is right, set base_url to it",
        status_code=reply.status,
        retryable=False,
    )


def _joined(url: str, place: str) -> tuple[str, _Origin] | None:
    """A reply's location resolved against ``url``, as requests does; None if it is invalid."""
    request = requests.PreparedRequest()
    try:
        request.prepare_url(urljoin(url, place), None)
        target = str(request.url)
        return target, _origin(target)
    except (RequestException, HTTPError, ValueError) as error:
        let_through(error)
        return None


class _Origin(NamedTuple):
    """Where a request goes, as read by both requests and urllib3."""

    scheme: str
    named: str | None
    connected: str | None
    port: int | None

    def __str__(self) -> str:
        # A path or a query may hold a secret.
        port = "" if self.port == _PORTS.get(self.scheme) else f":{self.port}"
        return f"{self.scheme}://{self.connected}{port}"


def _origin(url: str) -> _Origin:
    named, connected = urlsplit(url), parse_url(url)
    if named.port != connected.port:
        raise ValueError("a port that can be read in two ways")
    port = _PORTS.get(named.scheme) if named.port is None else named.port
    return _Origin(named.scheme, named.hostname, connected.host, port)


def _encrypted(origin: _Origin) -> _Origin | None:
    """The same host over TLS, if its port is the default one."""
    if (origin.scheme, origin.port) != ("http", _PORTS["http"]):
        return None
    return origin._replace(scheme="https", port=_PORTS["https"])
