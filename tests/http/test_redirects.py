"""Where a redirect may lead: nowhere but to the origin that the request was for."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import requests
import trustme
from hypothesis import example, given
from hypothesis import strategies as st
from requests.adapters import HTTPAdapter
from urllib3 import PoolManager

from llmproviders import GigaChat, OpenAICompatible, ProtocolError
from llmproviders._http.redirects import target_of
from llmproviders._redact import MASK, redact
from tests.conftest import RawServerFactory
from tests.reliability.services import JSON, SERVICES, TEXT, Service
from tests.support.http_bytes import http_response
from tests.support.rawserver import Connection

HERE, EVIL = "127.0.0.1:{here}", "localhost:{evil}"
HOSTILE = (
    # What urlsplit reads as the first host, urllib3 reads as the second, or the other way round.
    f"http://{EVIL}\\@{HERE}/x",
    f"http://{EVIL}\\\\@{HERE}/x",
    f"http://{HERE}\\@{EVIL}/x",
    f"//{EVIL}\\@{HERE}/x",
    f"\\\\{EVIL}/x",
    f"/\\{EVIL}/x",
    f"\\/{EVIL}/x",
    f"http:\\\\{EVIL}/x",
    f"/x\\@{EVIL}/",
    f"http://{EVIL}#@{HERE}/x",
    f"http://{EVIL}?@{HERE}/x",
    f"http://{EVIL}/@{HERE}/x",
    f"http://{EVIL};@{HERE}/x",
    f"http://{HERE}@{EVIL}/x",
    f"http://user:word@{EVIL}/x",
    f"http://user:word@{HERE}/x",
    f"http://@{HERE}/x",
    f"//user@{HERE}/x",
    f"//{EVIL}/x",
    f"///{EVIL}/x",
    f"////{EVIL}/x",
    f"http:{EVIL}/x",
    f"http:/{EVIL}/x",
    f"http:///{EVIL}/x",
    f"{EVIL}/x",
    f"\t//{EVIL}/x",
    f"/\t/{EVIL}/x",
    f"ht\ttp://{EVIL}/x",
    f"http://{EVIL}\t@{HERE}/x",
    f"http://{HERE} @{EVIL}/x",
    f"http://{HERE}\x0b/x",
    f"/x\r\n //{EVIL}/x",
    f"/x, //{EVIL}/x",
    "http://127。0。0。2:{evil}/x",
    "http://127。0。0。1:{here}/x",
    "http://127%2e0%2e0%2e2:{evil}/x",
    "http://127.0.0.1%00.evil:{here}/x",
    "http://127.0.0.1%2f@127.0.0.2:{evil}/x",
    "http://localhost:{here}/x",
    "http://LOCALHOST:{evil}/x",
    "http://127.1:{here}/x",
    "http://0x7f.0.0.1:{here}/x",
    "http://2130706433:{here}/x",
    "http://127.0.0.1.:{here}/x",
    "http://[::1]:{evil}/x",
    "http://[::ffff:127.0.0.1]:{here}/x",
    "http://[::1%25lo]:{evil}/x",
    "http://[fe80::1%lo]:{evil}/x",
    "http://127.0.0.1/x",
    "http://127.0.0.1:80/x",
    "http://127.0.0.1:{evil}/x",
    "http://127.0.0.1:{here}{here}/x",
    "http://127.0.0.1:/x",
    "https://127.0.0.1:{here}/x",
    "https://127.0.0.1/x",
    "HTTP://127.0.0.2:{evil}/x",
    "ws://127.0.0.1:{here}/x",
    "file:///etc/passwd",
    "javascript:alert(1)",
    "data:,x",
    "http://",
    "http://[/x",
    "http://127.0.0.1:{here}]/x",
    f"http:////{EVIL}/x",
    f"http:\t//{EVIL}/x",
    f"\x0c//{EVIL}/x",
    "\x0c/x",
    f"http://{EVIL}%5c@{HERE}/x",
    f"http://{HERE}%40{EVIL}/x",
    "http://127.0.0.1:{evil}#:{here}",
    "http://127.0.0.1:{evil}\\:{here}/x",
    "http://127.0.0.1:+{here}/x",
    "http://127.0.0.1: {here}/x",
    "http://①27.0.0.1:{here}/x",
    "http://0177.0.0.1:{here}/x",
    "http://[127.0.0.1]:{here}/x",
    "http://:{evil}/x",
    f"http:/{EVIL}",
    f"https:{EVIL}",
)
FRIENDLY = (
    "/x",
    "x",
    "./x",
    "../x",
    "?x=1",
    "#part",
    "/x#@evil",
    "/x?to=http://evil/",
    "/x//evil",
    "/x/http://evil",
    "//127.0.0.1:{here}/x",
    "http://127.0.0.1:{here}/x",
    "HTTP://127.0.0.1:{here}/x",
    "http://127.0.0.1:{here}",
    "http://127.0.0.1:{here}?x",
    "http://127.0.0.1:0{here}/x",
    "  /x  ",
)


def moving(
    location: str, evil: int, *later: list[bytes], status: int = 307
) -> Callable[[Connection], None]:
    """A server that redirects the first request, and answers the later ones."""
    scripts = iter(later)

    def serve(conn: Connection) -> None:
        request = conn.read_request()
        here = (request.header("Host") or "").rpartition(":")[2]
        place = location.format(here=here, evil=evil)
        head = f"HTTP/1.1 {status} Moved\r\nContent-Length: 0\r\nLocation: {place}\r\n\r\n"
        conn.run([head.encode()])
        for script in scripts:
            conn.read_request()
            conn.run(script)

    return serve


@pytest.mark.parametrize("own", [True, False], ids=["own connections", "a session"])
@pytest.mark.parametrize("location", HOSTILE)
def test_a_redirect_that_may_lead_elsewhere_is_refused(
    location: str, own: bool, raw_server: RawServerFactory
) -> None:
    """No place but the request's own origin gets a key or a prompt, however it is written."""
    evil = raw_server(http_response(200, {"Content-Type": JSON}, b"{}"))
    server = raw_server(moving(location, evil.port))
    session = None if own else requests.Session()
    provider = OpenAICompatible(base_url=f"{server.url}/v1", api_key="sk-stays", session=session)
    with provider, pytest.raises(ProtocolError, match="the service redirects to") as caught:
        provider.complete("Why?")
    assert str(caught.value).isprintable()
    assert (caught.value.status_code, caught.value.retryable) == (307, False)
    assert len(server.requests) == 1
    assert evil.connections == []


@pytest.mark.parametrize("own", [True, False], ids=["own connections", "a session"])
@pytest.mark.parametrize("location", FRIENDLY)
def test_a_redirect_to_the_same_origin_is_followed(
    location: str, own: bool, raw_server: RawServerFactory
) -> None:
    """A path, or the same scheme, host and port, is followed, in whatever form it comes."""
    server = raw_server(moving(location, 9, SERVICES[4].reply(stream=True)))
    session = None if own else requests.Session()
    provider = OpenAICompatible(base_url=f"{server.url}/v1", api_key="sk-goes", session=session)
    with provider:
        assert provider.complete("Why?").text == TEXT
    assert [request.header("Authorization") for request in server.requests] == [
        "Bearer sk-goes",
        "Bearer sk-goes",
    ]


@pytest.mark.parametrize("service", [s for s in SERVICES if s.before], ids=lambda s: s.name)
@pytest.mark.parametrize("location", [f"http://{EVIL}\\@{HERE}/x", f"http://{HERE}\\@{EVIL}/x"])
def test_the_requests_before_a_chat_are_not_led_away_either(
    service: Service, location: str, raw_server: RawServerFactory
) -> None:
    """A token service's key and a page's request stay with their hosts as a chat does."""
    evil = raw_server(http_response(200, {"Content-Type": JSON}, b"{}"))
    server = raw_server(moving(location, evil.port))
    with (
        service.make(server.url) as provider,
        pytest.raises(ProtocolError, match=r"the service redirects to|no access token"),
    ):
        provider.complete("Why?")
    assert len(server.requests) == 1
    assert evil.connections == []


CALLS: dict[str, Callable[[GigaChat, Path], object]] = {
    "models": lambda giga, _: giga.list_models(),
    "vectors": lambda giga, _: giga.embed(["Why?"]),
    "count": lambda giga, _: giga.count_tokens("Why?"),
    "balance": lambda giga, _: giga.balance(),
    "files": lambda giga, _: giga.files(),
    "download": lambda giga, _: giga.download("a-file"),
    "upload": lambda giga, path: giga.upload(path),
    "attached": lambda giga, path: giga.complete("Why?", attach=[path]),
}


@pytest.mark.parametrize("own", [True, False], ids=["own connections", "a session"])
@pytest.mark.parametrize("status", [302, 307])
@pytest.mark.parametrize("call", CALLS)
def test_no_other_call_is_led_away(
    call: str, status: int, own: bool, raw_server: RawServerFactory, tmp_path: Path
) -> None:
    """What lists, counts, uploads and downloads stays with its host, as a chat does."""
    attached = tmp_path / "attached.txt"
    attached.write_text(f"{call} {status} {own}")
    evil = raw_server(http_response(200, {"Content-Type": JSON}, b"{}"))
    for location in (f"http://{EVIL}\\@{HERE}/x", f"http://{HERE}@{EVIL}/x", f"/\t/{EVIL}/x"):
        server = raw_server(moving(location, evil.port, status=status))
        session = None if own else requests.Session()
        giga = GigaChat(base_url=f"{server.url}/v1", access_token="t0ken-stays", session=session)
        with giga, pytest.raises(ProtocolError, match="the service redirects to"):
            CALLS[call](giga, attached)
        assert len(server.requests) == 1
    assert evil.connections == []


def test_a_redirect_over_tls_is_not_led_away(
    raw_server: RawServerFactory,
    ca: trustme.CA,
    ca_file: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What two parsers read differently is refused over TLS as well."""
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(ca_file))
    evil = raw_server(http_response(200, {"Content-Type": JSON}, b"{}"), tls=ca)
    location = f"https://{EVIL}\\@{HERE}/x"
    server = raw_server(moving(location, evil.port), tls=ca)
    with (
        SERVICES[4].make(server.url) as provider,
        pytest.raises(ProtocolError, match="the service redirects to"),
    ):
        provider.complete("Why?")
    assert evil.connections == []


ORIGIN = "http://good.example:8080"
PIECES = (
    *("http:", "https:", "//", "/", "\\", "@", "#", "?", ":", ";", ".", "..", "[", "]", "::1"),
    *("%2f", "%40", "%5c", "%00", "%25lo", "\t", "\r", "\n", "\x00", "\x7f", " ", "\u2028"),
    *("good.example", "GOOD.example", "evil.example", "good.example.", "ⓖood.example", "。"),
    *(":8080", ":80", ":08080", "user:word", "x", "é"),
)


@pytest.mark.parametrize(
    ("url", "location", "target"),
    [
        (f"{ORIGIN}/v1/chat", "X", f"{ORIGIN}/v1/X"),
        (f"{ORIGIN}/v1/chat", "?x=1", f"{ORIGIN}/v1/chat?x=1"),
        (f"{ORIGIN}/v1/chat", " /x\t", f"{ORIGIN}/x"),
        ("http://good.example/v1", "http://good.example:80/x", "http://good.example:80/x"),
        ("http://good.example/v1", "https://good.example/x", "https://good.example/x"),
        ("http://good.example:80/v1", "https://good.example:443/x", "https://good.example:443/x"),
        ("https://good.example/v1", "https://good.example:443/x", "https://good.example:443/x"),
        ("http://good.example/v1", "https://good.example:80/x", None),
        ("http://good.example/v1", "https://evil.example/x", None),
        ("http://good.example/v1", "http://good.example:443/x", None),
        ("https://good.example/v1", "http://good.example/x", None),
        ("https://good.example:80/v1", "https://good.example/x", None),
        (f"{ORIGIN}/v1", "https://good.example/x", None),
        (f"{ORIGIN}/v1", "https://good.example:8080/x", None),
        (f"{ORIGIN}/v1", f"http://good.example:{'9' * 6}/x", None),
    ],
)
def test_where_a_place_leads(url: str, location: str, target: str | None) -> None:
    """A place leads where a browser would go: to the same origin, or from http to https where both
    have their usual port. Any other is refused."""
    request = requests.Request("POST", url).prepare()
    if target is not None:
        assert target_of(Moved(location), request) == target  # type: ignore[arg-type]
        return
    with pytest.raises(ProtocolError) as caught:
        target_of(Moved(location), request)  # type: ignore[arg-type]
    assert (caught.value.status_code, caught.value.retryable) == (307, False)


@pytest.mark.parametrize("status", [300, 301, 302, 303, 307, 308, 399])
def test_which_statuses_move_a_request(status: int) -> None:
    """A GET follows each 3xx that names a place; a POST only those that keep it a POST."""
    get, post = (requests.Request(method, ORIGIN).prepare() for method in ("GET", "POST"))
    moved = Moved("/x", status)
    assert target_of(Moved("", status), get) is None  # type: ignore[arg-type]
    assert target_of(moved, get) == f"{ORIGIN}/x"  # type: ignore[arg-type]
    if status in (307, 308):
        assert target_of(moved, post) == f"{ORIGIN}/x"  # type: ignore[arg-type]
        return
    with pytest.raises(ProtocolError, match=rf"redirects to {re.escape(ORIGIN)},") as caught:
        target_of(moved, post)  # type: ignore[arg-type]
    assert (caught.value.status_code, caught.value.retryable) == (status, False)


@pytest.mark.parametrize(
    ("location", "shown"),
    [
        ("http://127.0.0.1:8080/v1?key=k3y-moved", "http://127.0.0.1:8080"),
        ("https://evil.example:443/v1", "https://evil.example"),
        ("http://evil.example:443/t0ken/v1#part", "http://evil.example:443"),
        ("http://[::1]:99/v1", "http://[::1]:99"),
    ],
)
def test_where_a_redirect_leads_is_told(location: str, shown: str) -> None:
    """The error names scheme, host and, unless it is the usual one, port; nothing after them."""
    request = requests.Request("POST", "http://127.0.0.1:9/v1").prepare()
    with pytest.raises(ProtocolError) as caught:
        target_of(Moved(location), request)  # type: ignore[arg-type]
    assert f"redirects to {shown}, which is not followed" in str(caught.value)


def test_a_credential_in_a_place_is_masked() -> None:
    """A password, or a key in the query, of a place is masked wherever it is said later."""
    request = requests.Request("POST", ORIGIN).prepare()
    with pytest.raises(ProtocolError):
        target_of(Moved("//me:w0rd-moved@good.example/?key=k3y-moved"), request)  # type: ignore[arg-type]
    assert redact("w0rd-moved and k3y-moved") == f"{MASK} and {MASK}"


@given(st.lists(st.sampled_from(PIECES), max_size=8).map("".join) | st.text(max_size=30))
@example("http://evil.example:8080\\@good.example:8080/x")
@example("//good.example:8080@evil.example/x")
def test_a_place_that_is_followed_is_where_urllib3_connects(location: str) -> None:
    """Wherever urllib3 would connect is the origin of the request, or the place is refused."""
    reply = Moved(location)
    request = requests.Request("POST", f"{ORIGIN}/v1/chat").prepare()
    try:
        target = target_of(reply, request)  # type: ignore[arg-type]
    except ProtocolError:
        return
    if target is None:
        assert not location
        return
    context, _ = HTTPAdapter().build_connection_pool_key_attributes(
        requests.Request("POST", target).prepare(), True
    )
    assert context == {"scheme": "http", "host": "good.example", "port": 8080}
    pool = PoolManager().connection_from_url(target)
    assert (pool.scheme, pool.host, pool.port) == ("http", "good.example", 8080)


class Moved:
    """What is looked at of a reply that redirects."""

    def __init__(self, location: str, status: int = 307) -> None:
        self.status = status
        self.headers = {"location": location}
