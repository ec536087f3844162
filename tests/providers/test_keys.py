"""A key from the environment goes only where it belongs, and what was not sent is not blamed."""

from __future__ import annotations

import json
from typing import Any

import pytest
import requests

from llmproviders import (
    GLM,
    AuthenticationError,
    ChatGLM,
    DeepSeek,
    GigaChat,
    LLMError,
    MissingAuthError,
    OpenAICompatible,
    YandexGPT,
)
from llmproviders._account.keys import KeyVariable, belongs_to
from tests.conftest import RawServerFactory
from tests.support.http_bytes import http_response
from tests.support.rawserver import RawServer

KEY = "sk-planted-0123456789abcdef"


def refusal(said: str | None = "who are you?") -> bytes:
    """A 401, with words or without."""
    body = b"" if said is None else json.dumps({"error": {"message": said}}).encode()
    return http_response(401, {"Content-Type": "application/json", "Connection": "close"}, body)


@pytest.fixture
def server(raw_server: RawServerFactory) -> RawServer:
    """Return a server that refuses everybody."""
    return raw_server(refusal())


def sent(server: RawServer) -> str:
    """The headers of all that came in."""
    return str([request.headers for request in server.requests])


def logging_in(way: str, login: dict[str, str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The arguments of a provider and of a call that set Authorization in one of four ways."""
    session = requests.Session()
    arguments: dict[str, Any] = {"session": session}
    call: dict[str, Any] = {}
    if way == "extra_headers":
        call["extra_headers"] = login
    elif way == "headers":
        arguments["headers"] = login
    elif way == "session.headers":
        session.headers.update(login)
    else:
        session.auth = ("me", "a-password")
    return arguments, call


@pytest.mark.parametrize("way", ["extra_headers", "headers", "session.headers", "session.auth"])
@pytest.mark.parametrize("cls", [DeepSeek, GLM, YandexGPT, OpenAICompatible])
def test_an_own_login_needs_no_key(
    cls: type[OpenAICompatible], way: str, server: RawServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A caller who sets Authorization needs no key: it is sent, and no key that was held back."""
    for name in ("DEEPSEEK_API_KEY", "ZAI_API_KEY", "YC_API_KEY", "OPENAI_API_KEY"):
        monkeypatch.setenv(name, KEY)
    login = {"Authorization": "Api-Key of-the-caller"}
    arguments, call = logging_in(way, login)
    if cls is YandexGPT:
        arguments["folder_id"] = "b1g"
    with (
        cls(base_url=server.url, model="m", **arguments) as provider,
        pytest.raises(AuthenticationError),
    ):
        provider.complete("Why?", **call)
    expected = "Basic " if way == "session.auth" else login["Authorization"]
    assert str(server.requests[0].header("Authorization")).startswith(expected)
    assert KEY not in sent(server)


@pytest.mark.parametrize("way", ["extra_headers", "headers", "session.headers", "session.auth"])
def test_gigachat_with_an_own_login(way: str, server: RawServer) -> None:
    """GigaChat without a key sends the caller's Authorization, and fetches no token."""
    login = {"authorization": "Bearer of-the-caller"}
    arguments, call = logging_in(way, login)
    url = server.url
    with (
        GigaChat(base_url=url, auth_url=f"{url}/oauth", **arguments) as provider,
        pytest.raises(AuthenticationError),
    ):
        provider.complete("Why?", **call)
    assert [request.target for request in server.requests] == ["/chat/completions"]
    expected = "Basic " if way == "session.auth" else login["authorization"]
    assert str(server.requests[0].header("Authorization")).startswith(expected)


@pytest.mark.parametrize("cls", [DeepSeek, GLM, YandexGPT])
def test_an_own_login_wins_over_a_key(cls: type[OpenAICompatible], server: RawServer) -> None:
    """A header of one call replaces the provider's key."""
    arguments: dict[str, Any] = {"folder_id": "b1g"} if cls is YandexGPT else {}
    provider = cls(base_url=server.url, api_key=KEY, model="m", **arguments)
    with provider, pytest.raises(AuthenticationError):
        provider.complete("Why?", extra_headers={"authorization": "Bearer of-the-caller"})
    assert server.requests[0].header("Authorization") == "Bearer of-the-caller"
    assert KEY not in sent(server)


@pytest.mark.parametrize(
    ("url", "own", "belongs"),
    [
        ("https://api.example/v1", ["https://api.example/v1"], True),
        ("https://api.example/other?x=1", ["https://api.example/v1"], True),
        ("https://API.example.:8443/v1", ["https://api.example/v1"], True),
        ("https://evil.example/v1", ["https://api.example/v1"], False),
        ("https://api.example.evil/v1", ["https://api.example/v1"], False),
        ("https://api.example@evil/v1", ["https://api.example/v1"], False),
        ("https://evil/api.example", ["https://api.example/v1"], False),
        ("https://sub.api.example/v1", ["https://api.example/v1"], False),
        ("https://b/v1", ["https://a/v1", "https://b/v2"], True),
        ("http://127.0.0.1:8000/v1", ["https://api.example/v1"], False),
        ("http://127.0.0.1:8000/v2", ["http://127.0.0.1:8000/v1"], True),
        ("http://127.0.0.1:8001/v1", ["http://127.0.0.1:8000/v1"], False),
        ("http://localhost:8000/v1", ["http://127.0.0.1:8000/v1"], False),
        ("https://a/v1", ["not an address", ""], False),
    ],
)
def test_where_a_key_belongs(url: str, own: list[str], belongs: bool) -> None:
    """It belongs to the hosts of its addresses; on loopback, to their ports."""
    assert belongs_to(url, own) is belongs


def test_held_back(server: RawServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key from the environment is not sent to another host, and the error says what to do."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with OpenAICompatible(base_url=f"http://127.0.0.1:{server.port}/v1") as provider:
        assert provider.held_back("api_key") == "OPENAI_API_KEY"
        with pytest.raises(MissingAuthError) as caught:
            provider.complete("Hi")
        with pytest.raises(MissingAuthError, match="OPENAI_API_KEY was held back"):
            provider.list_models()
    assert KEY not in sent(server)
    said = str(caught.value)
    assert "OPENAI_API_KEY was held back" in said
    assert "api_key=" in said
    assert "api_key_env" in said
    assert "who are you?" in said
    assert KEY not in said
    assert caught.value.status_code == 401


@pytest.mark.parametrize("variable", ["OPENAI_BASE_URL", "LLMPROVIDERS_OPENAICOMPATIBLE_BASE_URL"])
def test_sent_where_the_environment_says(
    server: RawServer, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    """Any variable for the address names where the key belongs; then a refusal is the key's."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv(variable, f"http://127.0.0.1:{server.port}/v1")
    for arguments in ({}, {"base_url": f"http://127.0.0.1:{server.port}/other"}):
        with OpenAICompatible(**arguments) as provider, pytest.raises(AuthenticationError):
            provider.complete("Hi")
    assert sent(server).count(KEY) == 2


@pytest.mark.parametrize("key", [KEY, KeyVariable("OPENAI_API_KEY")])
def test_what_is_given_is_sent(
    server: RawServer, monkeypatch: pytest.MonkeyPatch, key: Any
) -> None:
    """A key that is given, or whose variable is named, goes to whatever address is given."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    url = f"http://127.0.0.1:{server.port}/v1"
    with (
        OpenAICompatible(base_url=url, api_key=key) as provider,
        pytest.raises(AuthenticationError),
    ):
        provider.complete("Hi")
    assert KEY in sent(server)


def test_two_addresses_of_one_key(server: RawServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """GigaChat's key is held back where the token service or the API is another one."""
    monkeypatch.setenv("GIGACHAT_CREDENTIALS", "aWQ6c2VjcmV0LXBsYW50ZWQ=")
    here = f"http://127.0.0.1:{server.port}"
    for arguments in (
        {"base_url": f"{here}/api/v1"},
        {"auth_url": f"{here}/oauth"},
        {"base_url": f"{here}/api/v1", "auth_url": f"{here}/oauth"},
    ):
        with GigaChat(**arguments) as provider:
            assert provider.held_back("api_key") == "GIGACHAT_CREDENTIALS"
            with pytest.raises(MissingAuthError, match="GIGACHAT_CREDENTIALS was held back") as e:
                provider.check_credentials()
            # The address that it does not belong to, be it one or the other.
            assert next(iter(arguments.values())) in str(e.value) or len(arguments) == 2
            with pytest.raises(MissingAuthError, match="GIGACHAT_CREDENTIALS was held back"):
                provider.complete("Hi")
    assert server.connections == []
    monkeypatch.setenv("GIGACHAT_BASE_URL", f"{here}/api/v1")
    monkeypatch.setenv("GIGACHAT_AUTH_URL", f"{here}/oauth")
    assert GigaChat().held_back("api_key") is None


@pytest.mark.parametrize("said", ["who are you?", None])
@pytest.mark.parametrize("kind", [OpenAICompatible, ChatGLM])
def test_no_key_is_blamed_where_none_was_sent(
    raw_server: RawServerFactory, kind: Any, said: str | None
) -> None:
    """Without a key no error says that the service refused one."""
    server = raw_server(refusal(said))
    with (
        kind(base_url=f"http://127.0.0.1:{server.port}/v1") as provider,
        pytest.raises(AuthenticationError) as caught,
    ):
        provider.complete("Hi")
    assert "refused the key" not in str(caught.value)
    assert "none was sent" in str(caught.value)


@pytest.mark.parametrize("kind", [OpenAICompatible, DeepSeek, GLM])
def test_no_advice_that_would_be_held_back(server: RawServer, kind: Any) -> None:
    """At another address than the service's own, nobody is told to set its variable."""
    with kind(base_url=f"http://127.0.0.1:{server.port}/v1") as provider:
        with pytest.raises(LLMError) as caught:
            provider.complete("Hi")
        assert "pass api_key= (in a configuration, api_key_env)" in str(caught.value)
        assert "_API_KEY" not in str(caught.value)
    with kind() as provider, pytest.raises(MissingAuthError, match=r"set .*_API_KEY or pass"):
        provider.complete("Hi")


@pytest.mark.parametrize(
    "arguments",
    [
        {"headers": {"api-key": KEY}},
        {"api_key": KEY},
        {"cert": "client.pem"},
    ],
)
def test_other_ways_to_send_one(raw_server: RawServerFactory, arguments: dict[str, Any]) -> None:
    """A key in a header, or a certificate, was sent; a refusal is about it, and shows nothing."""
    server = raw_server(refusal(None))
    with OpenAICompatible(base_url=f"http://127.0.0.1:{server.port}/v1", **arguments) as provider:
        with pytest.raises(LLMError) as caught:
            provider.complete("Hi")
        assert KEY not in repr(provider)
    assert isinstance(caught.value, AuthenticationError)
    assert "none was sent" not in str(caught.value)
    assert KEY not in str(caught.value)
