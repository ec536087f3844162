"""A caller's session: all of it counts, as in ``session.post``; mocks of requests see the call."""

from __future__ import annotations

import json
import shutil
import ssl
import subprocess
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import requests
import requests_mock
import responses
import trustme
from requests.adapters import HTTPAdapter
from requests.auth import HTTPDigestAuth

from llmproviders import (
    AuthenticationError,
    ConnectionFailed,
    InvalidRequestError,
    OpenAICompatible,
    RateLimitError,
)
from llmproviders._http.transport import Transport
from llmproviders._http.types import HTTPRequest, Limits, Trust
from llmproviders._redact import redact
from llmproviders._runtime.scope import CancelScope
from tests.conftest import RawServerFactory
from tests.support.http_bytes import http_response
from tests.support.rawserver import RawServer, keep_alive, server_context

JSON = {"Content-Type": "application/json"}
KEY = "sk-test-0123456789abcdef"
WHOLE = {"choices": [{"message": {"role": "assistant", "content": "a"}, "finish_reason": "stop"}]}
REPLY = b"".join(http_response(200, JSON, json.dumps(WHOLE).encode()))


@pytest.fixture
def session() -> Iterator[requests.Session]:
    """Return a session."""
    with requests.Session() as made:
        yield made


@pytest.fixture
def server(raw_server: RawServerFactory) -> RawServer:
    """Return a server that answers every request."""
    return raw_server(keep_alive([REPLY]))


def ask(server: RawServer, session: requests.Session, key: str | None = KEY, **given: Any) -> str:
    """The text of a reply that is not streamed."""
    with OpenAICompatible(
        base_url=f"{server.url}/v1", api_key=key, session=session, **given
    ) as provider:
        return "".join(provider.create_generator("m", "Why?", stream=False))


def send(url: str, session: requests.Session | None, **arguments: Any) -> bytes:
    """The body of the reply to one call of a transport."""
    own = {"X-Own": "own", "X-Both": "own", "X-All": "own", "Cookie": "own=1"}
    extra = arguments.pop("extra", {})
    call = HTTPRequest("POST", url, headers=own, json={}, extra_headers=extra)
    trust = arguments.pop("trust", Trust())
    transport = Transport(trust=trust, limits=Limits(), session=session, **arguments)
    reply = transport.open(call, CancelScope())
    try:
        return reply.read()
    finally:
        reply.close()
        transport.close()


class TestWhatCounts:
    def test_headers_cookies_and_parameters(
        self, server: RawServer, session: requests.Session
    ) -> None:
        """The session's headers, cookies and parameters are sent along."""
        session.headers["X-Tenant"] = "blue"
        session.cookies.set("visit", "twice")
        session.params = {"api-version": "1"}
        assert ask(server, session) == "a"
        (request,) = server.requests
        assert request.target == "/v1/chat/completions?api-version=1"
        assert request.header("x-tenant") == "blue"
        assert request.header("cookie") == "visit=twice"
        assert request.header("authorization") == f"Bearer {KEY}"

    def test_the_order_of_headers(self, server: RawServer, session: requests.Session) -> None:
        """requests' own < the provider's < the session's < headers= < those of the call."""
        session.headers.update({"X-Both": "session", "x-all": "session", "X-Last": "session"})
        session.cookies.set("jar", "2")
        send(
            server.url,
            session,
            headers={"X-ALL": "headers", "X-Last": "headers"},
            extra={"x-last": "extra"},
        )
        (request,) = server.requests
        sent = {name.lower(): value for name, value in request.headers}
        assert len(sent) == len(request.headers)
        assert [sent[f"x-{name}"] for name in ("own", "both", "all", "last")] == [
            "own", "session", "headers", "extra",
        ]  # fmt: skip
        assert sent["user-agent"] == "llmproviders"
        assert sent["cookie"] == "own=1; jar=2"

    @pytest.mark.parametrize(
        ("key", "auth", "header", "expected"),
        [
            (KEY, ("me", "pw"), None, f"Bearer {KEY}"),
            (None, ("me", "pw"), None, "Basic bWU6cHc="),
            (None, None, "Mine 1", "Mine 1"),
            (KEY, None, "Mine 1", "Mine 1"),
            (None, ("me", "pw"), "Mine 1", "Basic bWU6cHc="),
        ],
    )
    def test_the_login(
        self,
        server: RawServer,
        session: requests.Session,
        key: str | None,
        auth: Any,
        header: str | None,
        expected: str,
    ) -> None:
        """A key goes before ``session.auth``; without one, that and the session's header count."""
        session.auth = auth
        if header:
            session.headers["Authorization"] = header
        assert ask(server, session, key=key) == "a"
        assert server.requests[0].header("authorization") == expected

    @pytest.mark.parametrize("key", [KEY, None])
    def test_a_login_that_signs(
        self, server: RawServer, session: requests.Session, key: str | None
    ) -> None:
        """An ``auth`` that signs the request, body and all, does so beside a key, too."""

        def sign(request: requests.PreparedRequest) -> requests.PreparedRequest:
            body = request.body or b""
            assert isinstance(body, bytes)
            request.headers["X-Signature"] = sha256(body).hexdigest()
            request.headers.setdefault("Authorization", "Signed")
            return request

        session.auth = sign
        assert ask(server, session, key=key) == "a"
        (request,) = server.requests
        assert request.header("X-Signature") == sha256(request.body).hexdigest()
        assert request.header("Authorization") == (f"Bearer {key}" if key else "Signed")

    def test_a_key_goes_before_digest(
        self, raw_server: RawServerFactory, session: requests.Session
    ) -> None:
        """A key that is refused is not replaced by another login behind the caller's back."""
        challenge = {"WWW-Authenticate": 'Digest realm="r", nonce="n", qop="auth"'}
        server = raw_server(keep_alive([b"".join(http_response(401, challenge, b"{}"))], [REPLY]))
        session.auth = HTTPDigestAuth("me", "pw")
        with pytest.raises(AuthenticationError):
            ask(server, session, key=KEY)
        assert len(server.requests) == 1

    def test_a_login_that_needs_two_requests(
        self, raw_server: RawServerFactory, session: requests.Session
    ) -> None:
        """Digest authentication answers the server's challenge, as it does for ``session.post``."""
        challenge = {"WWW-Authenticate": 'Digest realm="r", nonce="n", qop="auth"'}
        refused = b"".join(http_response(401, challenge, b"{}"))
        server = raw_server(keep_alive([refused], [REPLY]))
        session.auth = HTTPDigestAuth("me", "pw")
        assert ask(server, session, key=None) == "a"
        assert str(server.requests[1].header("authorization")).startswith("Digest username")

    def test_hooks(self, server: RawServer, session: requests.Session) -> None:
        """A hook sees the response, and may read it."""
        seen: list[str] = []
        session.hooks["response"].append(lambda response, **_: seen.append(response.text))
        assert ask(server, session) == "a"
        assert json.loads(seen[0]) == WHOLE

    def test_a_hook_that_raises_for_the_status(
        self, raw_server: RawServerFactory, session: requests.Session
    ) -> None:
        """What a status means is told by the reply, with its wait, and not by the hook."""
        headers = {**JSON, "Retry-After": "7"}
        server = raw_server(http_response(429, headers, b'{"message": "slow down"}'))
        session.hooks["response"].append(lambda response, **_: response.raise_for_status())
        with pytest.raises(RateLimitError, match="slow down") as caught:
            ask(server, session)
        assert caught.value.retry_after == 7

    def test_the_environments_bundle(
        self,
        raw_server: RawServerFactory,
        session: requests.Session,
        ca: trustme.CA,
        ca_file: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """``REQUESTS_CA_BUNDLE`` counts, unless the session does not look at the environment."""
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(ca_file))
        server = raw_server(keep_alive([REPLY]), keep_alive([REPLY]), tls=ca)
        assert ask(server, session) == "a"
        with requests.Session() as blind:
            blind.trust_env = False
            with pytest.raises(ConnectionFailed, match="not trusted"):
                ask(server, blind)

    def test_a_bundle_of_the_provider(
        self, raw_server: RawServerFactory, session: requests.Session, ca: trustme.CA, ca_file: Path
    ) -> None:
        """``ca_bundle`` is believed beside what the session believes."""
        server = raw_server(keep_alive([REPLY]), tls=ca)
        assert json.loads(send(server.url, session, trust=Trust(ca_bundle=str(ca_file)))) == WHOLE

    def test_a_client_certificate(
        self,
        raw_server: RawServerFactory,
        session: requests.Session,
        tmp_path: Path,
        ca: trustme.CA,
    ) -> None:
        """The session's ``cert`` is shown to a server that asks for one."""
        server = raw_server(keep_alive([REPLY]), tls=asking_for_certificates(ca))
        session.verify, session.cert = client_files(ca, tmp_path)
        assert ask(server, session) == "a"

    def test_secrets_are_masked(self, server: RawServer, session: requests.Session) -> None:
        """Values of headers and cookies that are likely to be credentials are masked from then."""
        session.headers["X-API-Key"] = "very-secret-1"
        session.cookies.set("sid", "very-secret-2")
        session.auth = ("me", "very-secret-3")
        ask(server, session, key=None)
        said = redact(f"very-secret-1 very-secret-2 {server.requests[0].header('authorization')}")
        assert said == "*** *** ***"


def asking_for_certificates(ca: trustme.CA) -> Any:
    """The context of a server that wants to see a client's certificate."""
    context = server_context(ca)
    ca.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def client_files(ca: trustme.CA, folder: Path) -> tuple[str, tuple[str, str]]:
    """Files of an authority, and of a client's certificate and its key."""
    issued = ca.issue_cert("client@example.org")
    paths = [folder / name for name in ("ca.pem", "client.pem", "key.pem")]
    ca.cert_pem.write_to_path(paths[0])
    issued.cert_chain_pems[0].write_to_path(paths[1])
    issued.private_key_pem.write_to_path(paths[2])
    authority, certificate, key = map(str, paths)
    return authority, (certificate, key)


class TestOwnConnections:
    def test_the_order_of_headers(self, server: RawServer) -> None:
        """The provider's < headers= < those of the call, whatever their case."""
        send(server.url, None, headers={"x-ALL": "headers", "X-Both": "h"}, extra={"X-BOTH": "e"})
        (request,) = server.requests
        sent = {name.lower(): value for name, value in request.headers}
        assert len(sent) == len(request.headers)
        assert [sent[f"x-{n}"] for n in ("own", "both", "all")] == ["own", "e", "headers"]

    def test_a_header_that_cannot_be_sent(self, server: RawServer) -> None:
        """A key with a line break is refused before anything is sent, and not shown."""
        with pytest.raises(InvalidRequestError, match="api-key cannot be sent") as caught:
            send(server.url, None, headers={"api-key": "sk-one\nsk-two"})
        assert "sk-" not in str(caught.value)
        assert server.requests == []

    def test_a_secret_in_headers_is_masked(self, server: RawServer) -> None:
        """What ``api-key`` and the like hold is masked like a key, before the first call too."""
        send(server.url, None, headers={"api-key": "azure-secret-1"}, extra={"x-key": "secret-22"})
        assert redact("azure-secret-1 secret-22") == "*** ***"

    @pytest.mark.parametrize("der", [False, True])
    def test_a_bundle_is_added(
        self, raw_server: RawServerFactory, ca: trustme.CA, tmp_path: Path, der: bool
    ) -> None:
        """``ca_bundle``, PEM or DER, is believed for this transport, and for no other."""
        pem = ca.cert_pem.bytes()
        file = tmp_path / "ca"
        file.write_bytes(ssl.PEM_cert_to_DER_cert(pem.decode()) if der else pem)
        server = raw_server(keep_alive([REPLY]), keep_alive([REPLY]), tls=ca)
        assert json.loads(send(server.url, None, trust=Trust(ca_bundle=str(file)))) == WHOLE
        with pytest.raises(ConnectionFailed, match="not trusted"):
            send(server.url, None)

    def test_the_issuer_is_named(self, raw_server: RawServerFactory, ca: trustme.CA) -> None:
        """An error about a certificate says who issued it: whom a corporate proxy stands for."""
        with pytest.raises(ConnectionFailed, match=r"issued by 'Testing CA .*trustme"):
            send(raw_server(keep_alive([REPLY]), tls=ca).url, None)

    def test_a_client_certificate(
        self, raw_server: RawServerFactory, ca: trustme.CA, tmp_path: Path
    ) -> None:
        """``cert`` is shown to a server that asks for one; a wrong one is named in an error."""
        bundle, cert = client_files(ca, tmp_path)
        server = raw_server(keep_alive([REPLY]), tls=asking_for_certificates(ca))
        trust = Trust(ca_bundle=bundle, cert=cert)
        assert json.loads(send(server.url, None, trust=trust)) == WHOLE
        for wrong in ((cert[0], bundle), bundle, str(tmp_path / "gone.pem")):
            with pytest.raises(ConnectionFailed, match="check cert") as caught:
                send(server.url, None, trust=Trust(ca_bundle=bundle, cert=wrong))
            assert not caught.value.retryable

    @pytest.mark.parametrize("name", ["SSL_CERT_FILE", "SSL_CERT_DIR"])
    def test_openssls_variables(
        self,
        raw_server: RawServerFactory,
        ca: trustme.CA,
        ca_file: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        name: str,
    ) -> None:
        """``SSL_CERT_FILE`` and ``SSL_CERT_DIR`` count where ``REQUESTS_CA_BUNDLE`` is not set."""
        if name == "SSL_CERT_FILE":
            monkeypatch.setenv(name, str(ca_file))
        else:
            monkeypatch.setenv(name, str(hashed_folder(ca_file, tmp_path)))
        server = raw_server(keep_alive([REPLY]), keep_alive([REPLY]), tls=ca)
        assert json.loads(send(server.url, None)) == WHOLE
        other = tmp_path / "other.pem"
        trustme.CA().cert_pem.write_to_path(other)
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(other))
        with pytest.raises(ConnectionFailed, match="not trusted"):
            send(server.url, None)

    def test_a_bundle_that_was_replaced(
        self, raw_server: RawServerFactory, ca: trustme.CA, ca_file: Path, tmp_path: Path
    ) -> None:
        """A file that has changed since is read anew."""
        file = tmp_path / "ca.pem"
        trustme.CA().cert_pem.write_to_path(file)
        server = raw_server(keep_alive([REPLY]), keep_alive([REPLY]), tls=ca)
        with pytest.raises(ConnectionFailed, match="not trusted"):
            send(server.url, None, trust=Trust(ca_bundle=str(file)))
        file.write_bytes(ca_file.read_bytes() + b"\n")
        assert json.loads(send(server.url, None, trust=Trust(ca_bundle=str(file)))) == WHOLE


def hashed_folder(ca_file: Path, folder: Path) -> Path:
    """A folder of certificates as OpenSSL reads it: each under a hash of its subject."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl on this machine tells the hash of a subject")
    made = folder / "certificates"
    made.mkdir()
    name = subprocess.run(
        ["openssl", "x509", "-hash", "-noout", "-in", str(ca_file)],
        capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip
    (made / f"{name}.0").write_bytes(ca_file.read_bytes())
    return made


URL = "https://llm.example/v1"


def provider(session: requests.Session | None) -> OpenAICompatible:
    """A provider of a service that there is not."""
    return OpenAICompatible(base_url=URL, api_key=KEY, model="m", session=session)


def mocked_by_responses() -> None:
    """Let ``responses`` answer."""
    responses.add(responses.POST, f"{URL}/chat/completions", json=WHOLE)


class TestMocks:
    @responses.activate
    def test_responses(self, session: requests.Session) -> None:
        """``responses`` answers what goes through a session."""
        mocked_by_responses()
        with provider(session) as made:
            assert made.complete("Why?", stream=False).text == "a"
        assert responses.calls[0].request.headers["Authorization"] == f"Bearer {KEY}"

    def test_requests_mock(self, session: requests.Session) -> None:
        """So does ``requests_mock``, for all sessions and mounted to one."""
        with requests_mock.Mocker() as mock, provider(session) as made:
            mock.post(f"{URL}/chat/completions", json=WHOLE)
            assert made.complete("Why?", stream=False).text == "a"
        adapter = requests_mock.Adapter()
        adapter.register_uri("POST", f"{URL}/chat/completions", json=WHOLE)
        session.mount("https://", adapter)
        with provider(session) as made:
            assert made.complete("Why?", stream=False).text == "a"

    def test_a_stream(self, session: requests.Session) -> None:
        """A mocked stream of events is read like any."""
        events = b'data: {"choices": [{"delta": {"content": "a"}, "finish_reason": "stop"}]}\n\n'
        with requests_mock.Mocker() as mock, provider(session) as made:
            mock.post(
                f"{URL}/chat/completions",
                content=events + b"data: [DONE]\n\n",
                headers={"Content-Type": "text/event-stream"},
            )
            assert made.complete("Why?").text == "a"

    @pytest.mark.parametrize("library", ["responses", "requests_mock"])
    def test_without_a_session(self, library: str) -> None:
        """Own connections do not go through a mock, and say what to pass."""
        mocks: dict[str, Callable[[], Any]] = {
            "responses": responses.RequestsMock,
            "requests_mock": requests_mock.Mocker,
        }
        with (
            mocks[library](),
            provider(None) as made,
            pytest.raises(InvalidRequestError, match=f"mocked by {library}.*pass session="),
        ):
            made.complete("Why?")

    def test_an_adapter_whose_raw_is_a_file(self, session: requests.Session) -> None:
        """An adapter of the caller's own need not answer with urllib3's objects."""

        class Canned(HTTPAdapter):
            def send(self, request: requests.PreparedRequest, **_: Any) -> requests.Response:  # type: ignore[override]
                response = requests.Response()
                response.status_code, response.request = 200, request
                response.headers.update(JSON)
                response._content = json.dumps(WHOLE).encode()
                return response

        session.mount("https://", Canned())
        with provider(session) as made:
            assert made.complete("Why?", stream=False).text == "a"
