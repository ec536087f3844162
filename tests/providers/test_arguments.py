"""The arguments that every provider takes, whatever others it has, in code and configuration."""

from __future__ import annotations

import inspect
import json
import logging
import pickle
import re
import ssl
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import requests
import requests_mock
import responses
import trustme

from llmproviders import (
    Cached,
    ConnectionFailed,
    FailoverClient,
    InvalidRequestError,
    LLMError,
    ProtocolError,
    Provider,
)
from llmproviders.config import load
from llmproviders.notebook import show
from llmproviders.provider import Limits
from llmproviders.providers import REGISTRY
from llmproviders.providers.gigachat import UnverifiedTLSWarning
from llmproviders.sandbox import Sandbox
from tests.conftest import RawServerFactory
from tests.support.golden import PAGE, Answering, arguments_at, goldens, on_the_wire, provider_at
from tests.support.http_bytes import http_response
from tests.support.promise import read
from tests.support.proxies import Proxy
from tests.support.rawserver import Connection, RawServer, server_context
from tests.support.served import SERVED


def made(service: str, sandbox: Sandbox, **arguments: Any) -> Provider:
    """A provider that speaks to the sandbox."""
    return SERVED[service](**sandbox.provider_arguments(service), **arguments)


@pytest.mark.parametrize("service", SERVED)
def test_proxy_and_session(sandbox: Sandbox, http_proxy: Proxy, service: str) -> None:
    """A proxy carries every request, be it named itself or by the session that sends them."""
    with requests.Session() as session:
        session.proxies = {"http": http_proxy.url()}
        for arguments in ({"proxy": http_proxy.url()}, {"session": session}):
            with made(service, sandbox, **arguments) as provider:
                assert read(provider.stream("Hi")).text
    assert sandbox.count(service, "chat") == 2
    assert len(http_proxy.targets) == sandbox.count()


@pytest.mark.parametrize("service", SERVED)
def test_name_timeout_and_limits(sandbox: Sandbox, service: str) -> None:
    """What it is called, how long a silence and how long a line may be is the caller's to say."""
    with made(service, sandbox, name="mine", timeout=(5, 6), limits=Limits(line=10)) as provider:
        assert provider.timeout == (5, 6)
        error = read(provider.stream("Hi")).error
    assert isinstance(error, ProtocolError)
    assert error.provider == "mine"
    assert "raise Limits.line" in str(error)


@pytest.mark.parametrize("public", [FailoverClient, Cached, show], ids=lambda one: one.__name__)
def test_a_clock_is_for_tests(public: Callable[..., object]) -> None:
    """No public signature shows the clock that only tests pass; every other keyword is there."""
    names = inspect.signature(public).parameters
    assert "clock" not in names
    assert {"name", "ttl", "note"} & names.keys()


Make = Callable[..., Provider]

WAYS = ("code", "configuration")

SECRETS = ("planted-secret-one", "planted-secret-two", "planted-secret-three")


def _written(folder: Path, name: str, value: str) -> str:
    """The name of a file that holds a secret."""
    file = folder / f"{name}.secret"
    file.write_text(f" {value}\n")
    file.chmod(0o600)
    return json.dumps(str(file))


def configured(folder: Path, name: str, arguments: dict[str, Any]) -> Path:
    """A configuration with these arguments; secrets are in files, as it wants them."""
    lines = ["[[provider]]", f'type = "{name}"']
    for argument, value in arguments.items():
        if argument in ("api_key", "access_token"):
            lines.append(f"{argument}_file = {_written(folder, argument, value)}")
        elif argument == "headers":
            fields = [
                f"{field}_file = {_written(folder, field, text)}"
                if text in SECRETS
                else f"{field} = {json.dumps(text)}"
                for field, text in value.items()
            ]
            lines.append(f"headers = {{ {', '.join(fields)} }}")
        else:
            lines.append(f"{argument} = {json.dumps(value)}")
    path = folder / "config.toml"
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(params=WAYS)
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Make:
    """A function that makes a provider for a server, in code or by a configuration."""

    def made(name: str, url: str, **arguments: Any) -> Provider:
        if request.param == "code":
            return provider_at(name, url, **arguments)
        path = configured(tmp_path, name, {**arguments_at(name, url), **arguments})
        (settings,) = load(path).providers
        return settings.make()

    return made


ANSWERED = [name for name in REGISTRY if goldens(name, name="short")]
"""Providers with a golden reply; that each has one is a test of its own."""


def answering(name: str) -> Answering:
    """A behaviour that answers with a provider's short golden reply."""
    (golden,) = goldens(name, name="short")
    behaviour = Answering()
    behaviour.chat = b"".join(on_the_wire(golden.body, "close", golden.content_type))
    return behaviour


def check(provider: Provider, name: str) -> None:
    """It reads the golden reply."""
    goldens(name, name="short")[0].agrees_with(read(provider.stream("Hi")))


@pytest.mark.parametrize("name", ANSWERED)
def test_headers(raw_server: RawServerFactory, make: Make, name: str) -> None:
    """``headers=`` go with every request in place of the provider's, ``extra_headers=`` win."""
    server = raw_server(answering(name))
    headers = {"X-Team": "blue", "user-agent": "mine", "X-Api-Key": SECRETS[0]}
    extra = {"x-team": "red", "X-Trace-Token": SECRETS[1]}
    with make(name, server.url, headers=headers) as provider:
        check(provider, name)
        assert read(provider.stream("Hi", extra_headers=extra)).error is None
    for request in server.requests:
        sent = [field.lower() for field, _ in request.headers]
        assert len(sent) == len(set(sent))
        assert request.header("User-Agent") == "mine"
        assert request.header("X-Api-Key") == SECRETS[0]
    chats = [request for request in server.requests if request.method == "POST"]
    assert [request.header("X-Team") for request in chats] == ["blue", "red"]
    assert [request.header("X-Trace-Token") for request in chats] == [None, SECRETS[1]]


def echo(conn: Connection) -> None:
    """Refuse a request with all of its headers in the words."""
    said = json.dumps({"error": {"message": f"no: {conn.read_request().headers}"}})
    conn.run(http_response(400, {"Content-Type": "application/json"}, said.encode()))


@pytest.mark.parametrize("header", ["Content-Length", "transfer-encoding"])
@pytest.mark.parametrize("name", ANSWERED)
def test_headers_that_frame_the_body_are_refused(
    raw_server: RawServerFactory, name: str, header: str
) -> None:
    """``headers=`` and ``extra_headers=`` cannot say how long the body is; nothing is sent."""
    server = raw_server(echo)
    with pytest.raises(InvalidRequestError, match=f"headers has {header}, which is set"):
        provider_at(name, server.url, headers={header: "5"})
    with provider_at(name, server.url) as provider:
        for ask in (provider.complete, FailoverClient([provider]).complete):
            with pytest.raises(InvalidRequestError, match=f"extra_headers has {header}"):
                ask("Hi", extra_headers={header: "5"})
    assert server.requests == []


@pytest.mark.parametrize("name", ANSWERED)
def test_secrets_in_headers_are_seen_nowhere(
    raw_server: RawServerFactory, make: Make, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    """A service that says headers back, a log at DEBUG, a repr, a pickle: none shows a secret."""
    caplog.set_level(logging.DEBUG)
    server = raw_server(echo)
    headers = {"X-Api-Key": SECRETS[0], "Cookie": SECRETS[1]}
    with make(name, server.url, headers=headers) as provider:
        client = FailoverClient([provider], attempts=1)
        seen = [repr(provider), str(vars(provider)), repr(client), str(vars(client))]
        for ask in (provider.complete, client.complete):
            with pytest.raises(LLMError) as caught:
                ask("Hi", extra_headers={"X-Trace-Token": SECRETS[2]})
            error = caught.value
            seen += ["".join(traceback.format_exception(error)), repr(error), str(vars(error))]
            seen += [pickle.dumps(error).decode("latin-1"), client.report()._repr_html_()]
    assert all(any(one in str(r.headers) for r in server.requests) for one in SECRETS[:2])
    for secret in SECRETS:
        assert secret not in "".join(seen) + caplog.text


@pytest.mark.parametrize("name", ANSWERED)
def test_a_bundle(
    raw_server: RawServerFactory, make: Make, ca: trustme.CA, ca_file: Path, name: str
) -> None:
    """``ca_bundle=`` is believed by the provider that it was given to, and by no other."""
    server = raw_server(answering(name), tls=ca)
    with make(name, server.url, ca_bundle=str(ca_file)) as provider:
        check(provider, name)
    with make(name, server.url) as other, pytest.raises(ConnectionFailed) as caught:
        other.complete("Hi")
    assert not caught.value.retryable
    with make(name, server.url, ca_bundle=str(ca_file) + ".gone") as wrong:
        reply = FailoverClient([wrong, provider_at(name, raw_server(answering(name)).url)])
        attempts = reply.complete("Hi").attempts
        assert [type(one.error) for one in attempts][1:] == [type(None)]
        assert f"{ca_file}.gone" in str(attempts[0].error)


@pytest.mark.parametrize("name", ANSWERED)
def test_no_verification(
    raw_server: RawServerFactory, make: Make, ca: trustme.CA, name: str
) -> None:
    """``verify=False`` believes anybody, with a warning; without it, nobody is believed."""
    server = raw_server(answering(name), tls=ca)
    with pytest.warns(UnverifiedTLSWarning):
        provider = make(name, server.url, verify=False)
    with provider:
        check(provider, name)


@pytest.mark.parametrize("name", ANSWERED)
def test_a_client_certificate(
    raw_server: RawServerFactory,
    make: Make,
    ca: trustme.CA,
    ca_file: Path,
    tmp_path: Path,
    name: str,
) -> None:
    """``cert=``, a file or a pair of files, is shown to a server that asks for one."""
    context = server_context(ca)
    ca.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    issued = ca.issue_cert("client@example.org")
    certificate, key, both = (str(tmp_path / one) for one in ("c.pem", "k.pem", "both.pem"))
    issued.cert_chain_pems[0].write_to_path(certificate)
    issued.private_key_pem.write_to_path(key)
    issued.private_key_and_cert_chain_pem.write_to_path(both)
    server: RawServer = raw_server(answering(name), tls=context)
    for cert in ((certificate, key), both):
        with make(name, server.url, ca_bundle=str(ca_file), cert=cert) as provider:
            check(provider, name)
    with make(name, server.url, ca_bundle=str(ca_file)) as provider:
        error = read(provider.stream("Hi")).error
    assert isinstance(error, LLMError)
    assert sum(request.method == "POST" for request in server.requests) == 2


@pytest.mark.parametrize("name", ANSWERED)
def test_the_systems_store(
    raw_server: RawServerFactory,
    make: Make,
    ca: trustme.CA,
    ca_file: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    """``trust="system"`` believes whom the operating system believes."""
    pytest.importorskip("truststore", reason="truststore is in the extra `real`")
    # On Linux the store is where OpenSSL looks.
    monkeypatch.setenv("SSL_CERT_FILE", str(ca_file))
    server = raw_server(answering(name), tls=ca)
    with make(name, server.url, trust="system") as provider:
        assert provider.system_trust
        check(provider, name)


URL = "https://mocked.example"


@pytest.mark.parametrize("library", ["requests_mock", "responses"])
@pytest.mark.parametrize("name", ANSWERED)
def test_mocks(name: str, library: str) -> None:
    """Users' mocks answer what goes through a session; without one the error says to pass it."""
    (golden,) = goldens(name, name="short")
    page, chat = (PAGE, "text/html"), (golden.body, golden.content_type)
    answers = {"GET": page, "POST": chat}
    mock: Any
    if library == "requests_mock":
        mock = requests_mock.Mocker()
        for method, (body, kind) in answers.items():
            headers = {"Content-Type": kind}
            mock.register_uri(method, requests_mock.ANY, content=body, headers=headers)
    else:
        mock = responses.RequestsMock(assert_all_requests_are_fired=False)
        for method, (body, kind) in answers.items():
            mock.add(method, re.compile(URL), body=body, content_type=kind)
    with mock, requests.Session() as session:
        with provider_at(name, URL, session=session) as provider:
            check(provider, name)
        with provider_at(name, URL) as provider:
            error = read(provider.stream("Hi")).error
    assert isinstance(error, LLMError)
    assert f"mocked by {library}" in str(error)
    assert "pass session=requests.Session()" in str(error)


@pytest.mark.parametrize("name", SERVED)
def test_a_cassette(sandbox: Sandbox, tmp_path: Path, name: str) -> None:
    """vcrpy records what goes through a session, and plays it back with nothing sent."""
    vcr = pytest.importorskip("vcr", reason="vcrpy is in the extra `test`")
    said = []
    for mode in ("once", "none"):
        tape = vcr.use_cassette(
            str(tmp_path / "tape.yaml"), record_mode=mode, match_on=["method", "path"]
        )
        with tape, requests.Session() as session:
            arguments = sandbox.provider_arguments(name)
            tokens = {"token_cache": tmp_path / mode} if name == "gigachat" else {}
            with SERVED[name](**arguments, **tokens, session=session) as provider:
                said.append(provider.complete("Hi").text)
        count = sandbox.count()
    assert said[0] == said[1]
    assert count == sandbox.count(name) > 0
    with (
        vcr.use_cassette(str(tmp_path / "tape.yaml")),
        made(name, sandbox) as provider,
        pytest.raises(LLMError, match="mocked by vcr"),
    ):
        provider.complete("Hi")
