"""Which proxy a request goes through: the given one, or the environment's."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from urllib.parse import urlsplit

from requests.utils import get_environ_proxies, select_proxy

from .. import _environment as _environ
from .._signals import let_through
from .types import check_proxy, is_loopback

_PORTS = {"http": 80, "https": 443}


def both(proxy: str) -> dict[str, str]:
    """One proxy for both schemes, as requests takes it."""
    return {"http": proxy, "https": proxy}


def environment_proxies(url: str) -> dict[str, str]:
    """The proxy that the environment names for ``url``, as requests takes it.

    Raises:
        InvalidRequestError: that proxy cannot be used.
    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    port = parts.port or _PORTS.get(parts.scheme, 0)
    if is_loopback(host) or bypasses(host, port, _environ.lookup("no_proxy", "NO_PROXY") or ""):
        return {}
    named = select_proxy(url, get_environ_proxies(url, None))
    return both(check_proxy(named)) if named else {}


def bypasses(host: str, port: int, no_proxy: str) -> bool:
    """Whether a ``NO_PROXY`` list says to connect to a host directly.

    Entries are separated by commas or spaces. Each is ``*``, a name (which stands for the names
    below it too, with or without ``.`` or ``*.`` before it), an address, or a network such as
    ``10.0.0.0/8`` or ``fd00::/8``; a name or an address may have a port, and IPv6 brackets.

    >>> bypasses("llm.corp.example", 443, "localhost, *.corp.example")
    True
    >>> bypasses("fd00::7", 443, "[fd00::]/8")
    True
    """
    host = host.rstrip(".").lower()
    return any(_matches(host, port, entry.lower()) for entry in no_proxy.replace(",", " ").split())


def _matches(host: str, port: int, entry: str) -> bool:
    if entry == "*":
        return True
    try:
        address = ip_address(host.strip("[]").partition("%")[0])
    except ValueError as error:
        let_through(error)
        address = None
    place, wanted = _split_port(entry)
    if wanted is not None and wanted != port:
        return False
    if address is None:
        name = place.removeprefix("*").strip(".")
        return bool(name) and (host == name or host.endswith(f".{name}"))
    try:
        return address in ip_network(place, strict=False)
    except ValueError as error:
        let_through(error)
        return False


def _split_port(entry: str) -> tuple[str, int | None]:
    """An entry without brackets, and its port."""
    if entry.startswith("["):
        place, _, rest = entry[1:].partition("]")
        if rest.startswith("/"):
            return place + rest, None
        return place, int(rest[1:]) if rest[1:].isdigit() else None
    place, _, port = entry.rpartition(":")
    if place and ":" not in place and port.isdigit():
        return place, int(port)
    return entry, None
