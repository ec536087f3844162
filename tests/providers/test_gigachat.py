"""GigaChat on the sandbox: what it asks, what it makes of it, and how few tokens it takes."""

from __future__ import annotations

import base64
import copy
import json
import logging
import os
import pickle
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from llmproviders import (
    AuthenticationError,
    Completion,
    ConnectionFailed,
    DeadlineExceeded,
    EmptyReplyError,
    FailoverClient,
    FinishReason,
    GigaChat,
    InvalidRequestError,
    LLMError,
    MissingAuthError,
    ModelNotFoundError,
    ProtocolError,
    QuotaExceededError,
    RateLimitError,
    RefusedError,
    ServerError,
    StreamInterrupted,
    UnsupportedError,
)
from llmproviders._runtime.scope import CancelScope
from llmproviders.providers import gigachat as package
from llmproviders.providers.gigachat import Balance, Embedding, TokenCount
from llmproviders.sandbox import RecordedRequest, Sandbox
from tests.conftest import RawServerFactory
from tests.sandbox.test_sandbox_official import gigachat_client
from tests.support.actors import FakeClock
from tests.support.calls import Canned, Sender, with_sender
from tests.support.golden import goldens
from tests.support.http_bytes import http_response
from tests.support.processes import Child
from tests.support.promise import read
from tests.support.proxies import Proxy
from tests.support.rawserver import Script, keep_alive

SHORT = goldens("gigachat", name="short")[0]
QUESTION = "Why is the sky blue?"
_WRONG_SCOPE = "scope from db not fully includes consumed scope"
KEY = base64.b64encode(b"some-client-id:some-client-secret").decode()
PATIENCE_S = 20.0
WEATHER = {
    "name": "weather",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
}
BUSINESS = "GIGACHAT_API_B2B"


@pytest.fixture
def giga(sandbox: Sandbox) -> Iterator[GigaChat]:
    """A GigaChat that speaks to the sandbox."""
    with GigaChat(**sandbox.provider_arguments("gigachat")) as client:
        yield client


def asked(sandbox: Sandbox, kind: str) -> list[RecordedRequest]:
    """What the sandbox was asked of one kind."""
    return [request for request in sandbox.requests if request.kind == kind]


def last_body(sandbox: Sandbox) -> Any:
    """The body of the last chat request."""
    return asked(sandbox, "chat")[-1].json


def user(text: str) -> dict[str, str]:
    """A message of the user's."""
    return {"role": "user", "content": text}


def system(text: str) -> dict[str, str]:
    """A system message."""
    return {"role": "system", "content": text}


def json_reply(answer: bytes) -> Script:
    """A reply in JSON, after which the connection ends."""
    kind = {"Content-Type": "application/json", "Connection": "close"}
    return http_response(200, kind, answer)


class TestRequest:
    def test_token(self, sandbox: Sandbox, giga: GigaChat) -> None:
        """A token is asked for with the key as it is, the scope, and a fresh id."""
        giga.complete(QUESTION)
        sandbox.expire_tokens()
        giga.complete(QUESTION)
        first, second = asked(sandbox, "token")
        key = sandbox.provider_arguments("gigachat")["api_key"]
        assert first.headers["authorization"] == f"Basic {key}"
        assert first.headers["content-type"] == "application/x-www-form-urlencoded"
        assert first.headers["accept"] == "application/json"
        assert first.form == {"scope": "GIGACHAT_API_PERS"}
        ids = [uuid.UUID(request.headers["rquid"]) for request in (first, second)]
        assert [number.version for number in ids] == [4, 4]
        assert ids[0] != ids[1]

    def test_chat(self, sandbox: Sandbox, giga: GigaChat) -> None:
        """A chat has the model, the messages and the interval between pieces."""
        messages = [system("Be brief."), user("Hi"), {"role": "assistant", "content": "Yes?"}]
        giga.complete([*messages, user(QUESTION)])
        assert last_body(sandbox) == {
            "model": "GigaChat-2",
            "messages": [*messages, user(QUESTION)],
            "stream": True,
            "update_interval": 0,
        }
        assert asked(sandbox, "chat")[0].headers["authorization"].startswith("Bearer ")

    def test_parameters(self, sandbox: Sandbox) -> None:
        """What the service takes is passed on, what it does not take is left out."""
        with GigaChat(**sandbox.provider_arguments("gigachat"), update_interval=0.5) as client:
            taken: dict[str, Any] = {
                "temperature": 0.5,
                "top_p": 0.9,
                "max_tokens": 100,
                "repetition_penalty": 1.1,
                "n": 1,
                "profanity_check": False,
                "functions": [WEATHER],
                "function_call": "auto",
            }
            left_out: dict[str, Any] = {
                "seed": 7,
                "stop": ["."],
                "tools": [],
                "presence_penalty": 1,
            }
            client.complete(QUESTION, **taken, **left_out, extra_body={"flags": ["x"]})
        body = last_body(sandbox)
        assert taken.items() <= body.items()
        assert not left_out.keys() & body.keys()
        assert body["update_interval"] == 0.5
        assert body["flags"] == ["x"]

    def test_whole_reply(self, sandbox: Sandbox, giga: GigaChat) -> None:
        """With ``stream=False`` the service is asked for the whole reply, which is one chunk."""
        text, finish = giga.create_generator("GigaChat-2-Max", [user(QUESTION)], stream=False)
        assert last_body(sandbox)["stream"] is False
        assert last_body(sandbox)["model"] == "GigaChat-2-Max"
        assert QUESTION in text
        assert isinstance(finish, FinishReason)
        assert finish.usage is not None

    def test_session(self, sandbox: Sandbox, giga: GigaChat) -> None:
        """A session's id goes into a header, so that the service caches the prompt."""
        giga.complete(QUESTION, session_id="my-session")
        giga.complete(QUESTION)
        with_id, without = asked(sandbox, "chat")
        assert with_id.headers["x-session-id"] == "my-session"
        assert "x-session-id" not in without.headers
        assert "session_id" not in with_id.json

    def test_request_ids(self, sandbox: Sandbox, giga: GigaChat) -> None:
        """Each request has an id, which results and errors tell, cut replies too."""
        finish = giga.complete(QUESTION).finish_reason
        sandbox.fail("gigachat", status=500)
        with pytest.raises(ServerError) as refused:
            giga.complete(QUESTION)
        sandbox.fail("gigachat", cut_after=2)
        with pytest.raises(StreamInterrupted) as cut:
            giga.complete(QUESTION)
        sent = [request.headers["x-request-id"] for request in asked(sandbox, "chat")]
        assert len(set(sent)) == 3
        assert [finish.request_id, refused.value.request_id, cut.value.request_id] == sent

    @pytest.mark.parametrize(
        ("messages", "params", "where"),
        [
            ([user("Hi"), system("Be brief.")], {}, "it is message 1"),
            ([system("Be brief."), system("Be kind."), user("Hi")], {}, "two or more"),
            ([system("Be brief."), user("Hi")], {"system": "Be kind."}, "two or more"),
        ],
    )
    def test_order_of_system_messages(
        self, sandbox: Sandbox, giga: GigaChat, messages: Any, params: Any, where: str
    ) -> None:
        """What the service always refuses, a second system message, is never sent."""
        with pytest.raises(UnsupportedError, match="one system message") as caught:
            giga.complete(messages, **params)
        assert where in str(caught.value)
        assert caught.value.status_code is None
        assert sandbox.requests == []

    def test_environment(self, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
        """The variables of the official client are read; an argument wins over them."""
        for name, value in sandbox.environ().items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("GIGACHAT_MODEL", "GigaChat-Pro")
        with GigaChat() as client:
            assert client.complete(QUESTION).text
        assert last_body(sandbox)["model"] == "GigaChat-2-Pro"
        with GigaChat(model="GigaChat-2-Max") as client:
            client.complete(QUESTION)
        assert last_body(sandbox)["model"] == "GigaChat-2-Max"
        monkeypatch.setenv("LLMPROVIDERS_GIGACHAT_BASE_URL", "http://127.0.0.1:9/v1")
        assert GigaChat().base_url == "http://127.0.0.1:9/v1"
        assert GigaChat(auth_url="http://127.0.0.1:9/oauth").auth_url == "http://127.0.0.1:9/oauth"

    def test_labelled_as_a_page(self, raw_server: RawServerFactory, tmp_path: Path) -> None:
        """What a gateway labels as a web page is read all the same, but for a file's content."""
        path = tmp_path / "notes.txt"
        path.write_text("Hi")
        file = {"id": "x", "filename": "a", "bytes": 1, "created_at": 1, "purpose": "general"}
        model = {"data": [{"id": "GigaChat-2-Pro"}, {"id": "GigaChat-Pro"}]}
        answers: list[Any] = [
            {"access_token": "t", "expires_at": 9_999_999_999_999},
            *(model, SHORT.body, model, {"balance": [{"usage": "GigaChat", "value": 1}]}),
            [{"tokens": 1, "characters": 2}],
            *({"data": [{"embedding": [1], "index": 0}]}, file, [file], {"deleted": True}, b"a"),
        ]
        html = {"Content-Type": "text/html; charset=UTF-8"}
        bodies = [a if isinstance(a, bytes) else json.dumps(a).encode() for a in answers]
        server = raw_server(keep_alive(*(http_response(200, html, body) for body in bodies)))
        addresses = {"base_url": f"{server.url}/v1", "auth_url": f"{server.url}/oauth"}
        with GigaChat(api_key=KEY, **addresses) as client:
            assert client.complete(QUESTION, model="GigaChat-Pro").text == SHORT.text
            assert client.list_models() == ["GigaChat-2-Pro", "GigaChat-Pro"]
            assert client.balance() == [Balance("GigaChat", 1)]
            assert client.count_tokens("Hi") == [TokenCount(1, 2)]
            assert client.embed("Hi")[0].vector == [1]
            assert [client.upload(path)] == client.files()
            client.delete("x")
            with pytest.raises(ProtocolError, match="web page"):
                client.download("x")

    def test_a_page(self, raw_server: RawServerFactory) -> None:
        """A web page is one whatever was asked for, and however it is labelled."""
        page = b"<html><title>Log in</title></html>"
        for label in ("text/html", "text/plain"):
            server = raw_server(http_response(200, {"Content-Type": label}, page))
            addresses = {"base_url": f"{server.url}/v1", "auth_url": f"{server.url}/oauth"}
            with (
                GigaChat(api_key=KEY, **addresses) as client,
                GigaChat(access_token="some-token", **addresses) as with_token,
            ):
                for call in (client.list_models, with_token.list_models, with_token.balance):
                    with pytest.raises(ProtocolError, match=r"web page.*Log in"):
                        call()

    @pytest.mark.parametrize("query", ["?tenant=a", "?tenant=a?b"])
    def test_an_address_with_a_query(self, query: str) -> None:
        """What stands behind the path of an address stays behind every path that is asked."""
        reply = Canned(b'{"data": [{"id": "GigaChat-2"}]}', "application/json")
        sender = Sender(reply)
        arguments = {"base_url": f"https://host/v1{query}", "access_token": "some-token"}
        assert with_sender(GigaChat, sender, **arguments).list_models() == ["GigaChat-2"]
        assert [call.url for call in sender.calls] == [f"https://host/v1/models{query}"]

    def test_official_addresses(self) -> None:
        """Without any setting it speaks to the service's own hosts."""
        client = GigaChat()
        assert client.base_url == "https://api.giga.chat/v1"
        assert client.auth_url == "https://ngw.devices.sberbank.ru:9443/api/v2/oauth"
        assert client.scope == "GIGACHAT_API_PERS"

    def test_proxy(self, sandbox: Sandbox, http_proxy: Proxy) -> None:
        """The proxy of a call carries the token's request, too."""
        with GigaChat(**sandbox.provider_arguments("gigachat")) as client:
            client.complete(QUESTION, proxy=http_proxy.url())
        assert http_proxy.targets == [
            f"{sandbox.url}/api/v2/oauth",
            f"{sandbox.url}/api/v1/chat/completions",
        ]


class TestReply:
    def test_reasoning(self, giga: GigaChat) -> None:
        """What the model thought stands apart from the text."""
        reply = giga.complete("Think about it")
        assert reply.finish_reason.reasoning
        assert reply.finish_reason.reasoning not in reply.text

    def test_reasoning_in_tags(self) -> None:
        """Thoughts in tags at the start of the text stand apart from it, too."""
        choice = {"message": {"content": "<think>hm</think>It scatters."}, "finish_reason": "stop"}
        reply = Canned(json.dumps({"choices": [choice]}).encode(), "application/json")
        reading = read(with_sender(GigaChat, Sender(reply), access_token="a").stream(QUESTION))
        assert (reading.text, reading.finish.reasoning) == ("It scatters.", "hm")

    def test_filter(self, giga: GigaChat) -> None:
        """A reply that the filter stopped says so; before any text it is an error."""
        reply = giga.complete("Trip the filter")
        assert reply.finish_reason.reason == "content_filter"
        assert reply.finish_reason.raw == "blacklist"
        with pytest.raises(RefusedError):
            giga.complete("Trip the filter at once")

    def test_length(self, giga: GigaChat) -> None:
        """A reply that was too long says so."""
        assert giga.complete(QUESTION, max_tokens=3).finish_reason.reason == "length"

    def test_empty(self, sandbox: Sandbox, giga: GigaChat) -> None:
        """A reply without text is an error."""
        sandbox.fail("gigachat", empty=True)
        with pytest.raises(EmptyReplyError):
            giga.complete(QUESTION)

    @pytest.mark.parametrize("stream", [True, False])
    def test_function(self, sandbox: Sandbox, giga: GigaChat, stream: bool) -> None:
        """A call of a function comes as a tool call, whose result goes back in either dialect."""
        question = user("Call the tool")
        (finish,) = giga.create_generator(None, [question], functions=[WEATHER], stream=stream)
        assert isinstance(finish, FinishReason)
        assert finish.reason == "function_call"
        (call,) = finish.tool_calls
        assert call["function"] == {"name": "weather", "arguments": '{"city": "sandbox"}'}
        assert finish.message["functions_state_id"] == call["id"]
        said = {"role": "assistant", "content": "", "tool_calls": finish.tool_calls}
        result = {"role": "tool", "tool_call_id": call["id"], "content": '{"degrees": 20}'}
        assert giga.complete([question, said, result], functions=[WEATHER]).text
        assert last_body(sandbox)["messages"][1:] == [
            {
                "role": "assistant",
                "content": "",
                "function_call": {"name": "weather", "arguments": {"city": "sandbox"}},
                "functions_state_id": call["id"],
            },
            {"role": "function", "name": "weather", "content": '{"degrees": 20}'},
        ]

    def test_result_without_a_name(self, sandbox: Sandbox, giga: GigaChat) -> None:
        """A result that belongs to no call and has no name is refused before it is sent."""
        with pytest.raises(InvalidRequestError, match="belongs to no call"):
            giga.complete([user("Hi"), {"role": "tool", "content": "{}"}, user(QUESTION)])
        assert sandbox.requests == []

    def test_function_of_another_service(self, sandbox: Sandbox, giga: GigaChat) -> None:
        """Arguments in a string, as OpenAI has them, are sent as this service wants them."""
        called = {"name": "weather", "arguments": '{"city": "Псков"}'}
        said = {"role": "assistant", "content": "", "function_call": called}
        result = {"role": "function", "name": "weather", "content": "{}"}
        giga.complete([user("Hi"), said, result])
        sent = last_body(sandbox)["messages"][1]
        assert sent["function_call"]["arguments"] == {"city": "Псков"}
        assert called["arguments"] == '{"city": "Псков"}'
        with pytest.raises(InvalidRequestError, match="not JSON"):
            giga.complete([user("Hi"), {**said, "function_call": {"arguments": "{"}}, result])


def name_addresses(monkeypatch: pytest.MonkeyPatch, arguments: dict[str, Any]) -> None:
    """Let the environment name the sandbox, so that its keys belong there."""
    monkeypatch.setenv("GIGACHAT_BASE_URL", arguments["base_url"])
    monkeypatch.setenv("GIGACHAT_AUTH_URL", arguments["auth_url"])


class TestKey:
    def test_checked_without_a_call(self) -> None:
        """A key or a token can be looked for before any call: a key's shape counts, too."""
        with pytest.raises(MissingAuthError, match="GIGACHAT_CREDENTIALS"):
            GigaChat().check_credentials()
        with pytest.raises(AuthenticationError, match="not base64"):
            GigaChat(api_key="no key").check_credentials()
        GigaChat(api_key=KEY).check_credentials()
        GigaChat(access_token="made-elsewhere").check_credentials()

    def test_none(self) -> None:
        """Making a client needs no key; its first call says what is missing."""
        client = GigaChat()
        for call in (lambda: client.complete(QUESTION), client.models, client.balance):
            with pytest.raises(MissingAuthError, match="GIGACHAT_CREDENTIALS"):
                call()
        with pytest.raises(MissingAuthError) as caught:
            client.embed("text")
        assert caught.value.provider == "GigaChat"

    def test_looked_up_at_the_call(self, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
        """A key that comes into the environment later is found."""
        arguments = sandbox.provider_arguments("gigachat")
        key = arguments.pop("api_key")
        name_addresses(monkeypatch, arguments)
        with GigaChat(**arguments) as client:
            with pytest.raises(MissingAuthError):
                client.complete(QUESTION)
            monkeypatch.setenv("GIGACHAT_CREDENTIALS", f" {key}\n")
            assert client.complete(QUESTION).text

    @pytest.mark.parametrize(
        ("key", "said"),
        [
            ("some-client-id:some-client-secret", "; it is the pair itself, not encoded: take it"),
            (base64.b64encode(b"7c0f3a52-5a6d-4b8e").decode(), "; decoded, it has no colon; the"),
            (base64.b64encode(b":sec:ret").decode(), "; decoded, it has no client_id: take it"),
            (base64.b64encode(b"identity:").decode(), "; decoded, it has no client_secret: take"),
            ("2d9b7f40-1e8c-4f6a-8b55-5a0db0c5ec7e", "; it is not base64: take it from"),
            ("Bearer c29tZTprZXk=", "; it is not base64: take it from"),
            ("ключ", "; it is not base64: take it from"),
        ],
    )
    def test_no_key_at_all(self, sandbox: Sandbox, key: str, said: str) -> None:
        """What cannot be a key is told apart before it is sent, and is not repeated."""
        arguments = {**sandbox.provider_arguments("gigachat"), "api_key": key}
        with GigaChat(**arguments) as client, pytest.raises(AuthenticationError) as caught:
            client.complete(QUESTION)
        assert "base64 of client_id:client_secret" in str(caught.value)
        assert said in str(caught.value)
        assert key not in str(caught.value)
        assert sandbox.requests == []

    def test_secrets_stay_secret(self, sandbox: Sandbox, caplog: pytest.LogCaptureFixture) -> None:
        """Neither key nor token is in a repr, a log line, an error or its pickle."""
        caplog.set_level(logging.DEBUG)
        arguments = sandbox.provider_arguments("gigachat")
        with GigaChat(**arguments) as client:
            client.complete(QUESTION)
            token = asked(sandbox, "chat")[0].headers["authorization"].removeprefix("Bearer ")
            body = {"status": 400, "message": f"bad token {token} of {arguments['api_key']}"}
            sandbox.fail("gigachat", status=400, body=body)
            with pytest.raises(InvalidRequestError) as caught:
                client.complete(QUESTION)
        shown = [repr(client), str(caught.value), repr(caught.value), caplog.text]
        shown += [repr(pickle.dumps(caught.value)), repr(caught.value.__dict__)]
        for secret in (token, arguments["api_key"]):
            assert not [text for text in shown if secret in text]

    def test_the_secret_in_a_key_stays_secret(self, sandbox: Sandbox) -> None:
        """The client's secret is masked by itself, too, and may have a colon in it."""
        key = base64.b64encode(b"some-client-id:first-half:second-half").decode()
        said = {"code": 6, "message": "first-half:second-half is wrong"}
        sandbox.fail("gigachat", status=401, body=said, on="token")
        arguments = {**sandbox.provider_arguments("gigachat"), "api_key": key}
        with GigaChat(**arguments) as client, pytest.raises(AuthenticationError) as caught:
            client.complete(QUESTION)
        assert "*** is wrong" in str(caught.value)
        assert "-half" not in str(caught.value)

    def test_pickle(self, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
        """A client can be sent to another process: with a key that was given, without one that
        the environment has there, too."""
        arguments = sandbox.provider_arguments("gigachat")
        data = pickle.dumps(GigaChat(**arguments, max_concurrency=2))
        with pickle.loads(data) as client:
            assert client.complete(QUESTION).text
            assert client.max_concurrency == 2
        key = arguments.pop("api_key")
        name_addresses(monkeypatch, arguments)
        monkeypatch.setenv("GIGACHAT_CREDENTIALS", key)
        data = pickle.dumps(GigaChat(**arguments))
        assert key.encode() not in data
        with pickle.loads(data) as client:
            assert client.complete(QUESTION).text
        with copy.deepcopy(GigaChat(**arguments)) as client:
            assert client.complete(QUESTION).text


class TestTokenService:
    @pytest.mark.parametrize(
        ("scope", "said"),
        [
            ("GIGACHAT_API", "'GIGACHAT_API' is not a scope"),
            ("GIGACHAT_API_CORP", "this key is not for the scope 'GIGACHAT_API_CORP'"),
        ],
    )
    def test_scopes(self, sandbox: Sandbox, scope: str, said: str) -> None:
        """Each way in which a scope is wrong comes with its remedy."""
        arguments = {**sandbox.provider_arguments("gigachat"), "scope": scope}
        with GigaChat(**arguments) as client, pytest.raises(InvalidRequestError) as caught:
            client.complete(QUESTION)
        assert said in str(caught.value)
        assert "GIGACHAT_API_PERS for individuals" in str(caught.value)
        assert caught.value.status_code == 400

    @pytest.mark.parametrize("key", [KEY, base64.b64encode(b"some-client-id:\xff").decode()])
    def test_refused_key(self, sandbox: Sandbox, key: str) -> None:
        """A key that the service refuses is an error that says where to look; it is asked once."""
        arguments = {**sandbox.provider_arguments("gigachat"), "api_key": key}
        with GigaChat(**arguments) as client, pytest.raises(AuthenticationError) as caught:
            client.complete(QUESTION)
        assert "GIGACHAT_CREDENTIALS, or api_key=, is the whole key" in str(caught.value)
        assert "developers.sber.ru" in str(caught.value)
        assert "credentials doesn't match" in str(caught.value)
        assert "credentials doesn't match" in str(caught.value.detail)
        assert sandbox.count("gigachat") == 1

    def test_too_many_requests(self, sandbox: Sandbox, giga: GigaChat) -> None:
        """429 of the token service is the client's to wait out, within its own attempts."""
        sandbox.fail("gigachat", status=429, headers={"Retry-After": "0"}, on="token")
        reply = FailoverClient([giga]).complete(QUESTION)
        assert [type(attempt.error) for attempt in reply.attempts] == [RateLimitError, type(None)]
        assert sandbox.count("gigachat", "token") == 2

    @pytest.mark.parametrize(
        "fault", [{"status": 429}, {"status": 503}, {"reset": True}, {"garbage": True}]
    )
    def test_trouble(self, sandbox: Sandbox, giga: GigaChat, fault: dict[str, Any]) -> None:
        """Any other trouble of it is an error like the API's own, for the client to repeat."""
        sandbox.fail("gigachat", **fault, on="token")
        with pytest.raises(LLMError) as caught:
            giga.complete(QUESTION)
        assert caught.value.retryable
        assert caught.value.provider == "GigaChat"
        assert giga.complete(QUESTION).text

    @pytest.mark.parametrize("fault", [{"status": 503}, {"reset": True}])
    def test_names_its_address(
        self, sandbox: Sandbox, giga: GigaChat, fault: dict[str, Any]
    ) -> None:
        """An error of the token service says which host it was, and what the matter is."""
        sandbox.fail("gigachat", **fault, on="token")
        with pytest.raises((ServerError, ConnectionFailed)) as caught:
            giga.complete(QUESTION)
        assert f"no access token from {sandbox.url}/api/v2/oauth: " in str(caught.value)

    @pytest.mark.parametrize(
        ("answer", "kind", "said"),
        [
            ({"status": 429, "message": "Too Many Requests"}, RateLimitError, "Too Many Requests"),
            ({"code": 7, "message": _WRONG_SCOPE}, InvalidRequestError, "not for the scope"),
            ({"code": 6, "message": "doesn't match"}, AuthenticationError, "refused the author"),
            ({"error": {"message": "fell off"}}, ServerError, "fell off"),
            ({"message": "fell off"}, ServerError, "fell off"),
            ({"access_token": None, "message": "fell off"}, ServerError, "fell off"),
        ],
    )
    def test_an_error_with_status_200(
        self, raw_server: RawServerFactory, answer: Any, kind: type[LLMError], said: str
    ) -> None:
        """It has its own class and words, advice, and the wait of the answer's headers."""
        headers = {"Content-Type": "application/json", "Retry-After": "7"}
        server = raw_server(http_response(200, headers, json.dumps(answer).encode()))
        with (
            GigaChat(auth_url=f"{server.url}/oauth", api_key=KEY) as client,
            pytest.raises(kind, match=said) as caught,
        ):
            client.complete(QUESTION)
        words = (answer.get("error") or answer)["message"]
        assert words in str(caught.value)
        assert caught.value.detail == words
        assert caught.value.retry_after == (7 if caught.value.retryable else None)
        assert len(server.requests) == 1

    @pytest.mark.parametrize("call", ["embed", "count_tokens"])
    def test_an_error_about_texts_with_status_200(self, call: str) -> None:
        """It is raised by its own class and words, with the wait of the reply's headers."""
        body = b'{"status": 429, "message": "Too Many Requests"}'
        reply = Canned(body, "application/json", headers={"retry-after": "7"})
        client = with_sender(GigaChat, Sender(reply), access_token="some-token")
        with pytest.raises(RateLimitError, match="Too Many Requests") as caught:
            getattr(client, call)("text")
        assert caught.value.retry_after == 7

    def test_empty_answer(self, sandbox: Sandbox, giga: GigaChat) -> None:
        """An answer without a token is told apart."""
        sandbox.fail("gigachat", empty=True, on="token")
        with pytest.raises(ProtocolError, match="no access_token"):
            giga.complete(QUESTION)

    def test_wrong_address(self, sandbox: Sandbox) -> None:
        """An address without a token service is told apart from a wrong ``base_url``."""
        arguments = {**sandbox.provider_arguments("gigachat"), "auth_url": f"{sandbox.url}/oauth"}
        with GigaChat(**arguments) as client, pytest.raises(InvalidRequestError) as caught:
            client.complete(QUESTION)
        assert str(caught.value).startswith(f"there is no token service at {sandbox.url}/oauth")

    def test_older_form(self, sandbox: Sandbox, raw_server: RawServerFactory) -> None:
        """The older form of the answer, with seconds, is understood."""
        with GigaChat(**sandbox.provider_arguments("gigachat")) as client:
            client.complete(QUESTION)
        token = asked(sandbox, "chat")[0].headers["authorization"].removeprefix("Bearer ")
        answer = f'{{"tok": "{token}", "exp": {2**33}}}'.encode()
        older = raw_server(json_reply(answer))
        arguments = {**sandbox.provider_arguments("gigachat"), "auth_url": f"{older.url}/oauth"}
        with GigaChat(**arguments) as client:
            assert client.complete(QUESTION).text
        assert [request.target for request in older.requests] == ["/oauth"]

    def test_deadline(self, sandbox: Sandbox, giga: GigaChat) -> None:
        """A token service that does not answer costs the call no more than its deadline."""
        sandbox.fail("gigachat", stall=True, before_head=True, on="token")
        with pytest.raises(DeadlineExceeded):
            sandbox.client(giga, deadline=0.2).complete(QUESTION)
        assert sandbox.count("gigachat", "chat") == 0

    def test_wrong_clock(self) -> None:
        """A machine whose clock is a day ahead is told so, by the service's ``Date``."""
        clock = FakeClock()
        with Sandbox(clock=lambda: clock.wall() - 86_400) as sandbox:
            client = sandbox.client("gigachat", clock=clock, attempts=1)
            with pytest.raises(LLMError, match="clock is 86400 s ahead") as caught:
                client.complete(QUESTION)
            assert isinstance(caught.value.__cause__, AuthenticationError)
            client.close()


class TestRefusedToken:
    def test_repeated_once(self, sandbox: Sandbox, giga: GigaChat) -> None:
        """A token that dies before its time is replaced, and the request repeated."""
        giga.complete(QUESTION)
        sandbox.expire_tokens()
        reply = giga.complete(QUESTION)
        assert len(reply.attempts) == 1
        assert sandbox.count("gigachat", "token") == 2
        assert [request.status for request in asked(sandbox, "chat")] == [200, 401, 200]

    def test_second_refusal(self, sandbox: Sandbox, giga: GigaChat) -> None:
        """A fresh token that is refused, too, is an error; there is no third try."""
        sandbox.fail("gigachat", status=401, times=2)
        with pytest.raises(AuthenticationError, match="a token that it had just given"):
            giga.complete(QUESTION)
        assert sandbox.count("gigachat", "token") == 2
        assert sandbox.count("gigachat", "chat") == 2

    def test_other_calls(self, sandbox: Sandbox, giga: GigaChat) -> None:
        """The same holds for every other call."""
        giga.models()
        for call in (giga.models, giga.balance, lambda: giga.embed("x")):
            sandbox.expire_tokens()
            assert call()
        assert sandbox.count("gigachat", "token") == 4

    def test_given_token(self, sandbox: Sandbox, giga: GigaChat) -> None:
        """A token made elsewhere is used as it is; when it is refused, that is an error."""
        giga.complete(QUESTION)
        token = asked(sandbox, "chat")[0].headers["authorization"].removeprefix("Bearer ")
        arguments = sandbox.provider_arguments("gigachat")
        del arguments["api_key"]
        with GigaChat(**arguments, access_token=token) as client:
            assert client.complete(QUESTION).text
            sandbox.expire_tokens()
            with pytest.raises(AuthenticationError, match="access token that was given") as caught:
                client.complete(QUESTION)
        assert token not in str(caught.value)
        assert sandbox.count("gigachat", "token") == 1

    def test_a_given_token_stays_secret(self, sandbox: Sandbox) -> None:
        """An error that quotes a token made elsewhere quotes it masked."""
        body = {"status": 400, "message": "bad token made-elsewhere-7"}
        sandbox.fail("gigachat", status=400, body=body)
        arguments = {**sandbox.provider_arguments("gigachat"), "access_token": "made-elsewhere-7"}
        with GigaChat(**arguments) as client, pytest.raises(InvalidRequestError) as caught:
            client.complete(QUESTION)
        assert "bad token ***" in str(caught.value)
        assert "made-elsewhere" not in str(caught.value)

    def test_given_token_and_key(self, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
        """With a key beside it, a given token is replaced when it is refused."""
        monkeypatch.setenv("GIGACHAT_ACCESS_TOKEN", "made-long-ago")
        arguments = sandbox.provider_arguments("gigachat")
        name_addresses(monkeypatch, arguments)
        with GigaChat(**arguments) as client:
            assert client.complete(QUESTION).text
        assert [request.status for request in asked(sandbox, "chat")] == [200]
        monkeypatch.setenv("GIGACHAT_CREDENTIALS", arguments.pop("api_key"))
        with GigaChat(**arguments) as client:
            assert client.complete(QUESTION).text
            assert client.complete(QUESTION).text
        assert [request.status for request in asked(sandbox, "chat")] == [200, 401, 200, 200]

    def test_neither_is_taken(self, sandbox: Sandbox) -> None:
        """Where the key's own token is refused, too, the error is about that one."""
        sandbox.fail("gigachat", status=401, times=2)
        arguments = sandbox.provider_arguments("gigachat")
        with (
            GigaChat(**arguments, access_token="made-long-ago") as client,
            pytest.raises(AuthenticationError, match="a token that it had just given"),
        ):
            client.complete(QUESTION)


class TestModel:
    def test_default_that_is_gone(self, caplog: pytest.LogCaptureFixture) -> None:
        """A default model that is gone is replaced by the first for chats, with a warning."""
        with (
            Sandbox(gigachat_models=("GigaChat-3-Lite", "GigaChat-3")) as sandbox,
            GigaChat(**sandbox.provider_arguments("gigachat")) as client,
            caplog.at_level(logging.WARNING, "llmproviders"),
        ):
            reply = client.complete(QUESTION)
            client.complete(QUESTION)
            assert client.count_tokens("text")
            chats = asked(sandbox, "chat")
            counts = asked(sandbox, "tokens")
            listings = sandbox.count("gigachat", "models")
        assert reply.model == "GigaChat-3-Lite:2.0.28.2"
        assert reply.attempts[0].model == "GigaChat-3-Lite"
        assert [request.json["model"] for request in chats] == [
            "GigaChat-2",
            "GigaChat-3-Lite",
            "GigaChat-3-Lite",
        ]
        assert counts[0].json["model"] == "GigaChat-3-Lite"
        assert listings == 1
        (record,) = caplog.records
        assert "GigaChat-3-Lite is asked instead" in record.getMessage()

    @pytest.mark.parametrize("where", ["call", "instance", "environment"])
    def test_named_model(
        self, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, where: str
    ) -> None:
        """A model that the caller named is never replaced: the error has those there are."""
        if where == "environment":
            monkeypatch.setenv("GIGACHAT_MODEL", "GigaChat-2-Mox")
        given = {"model": "GigaChat-2-Mox"}
        arguments = sandbox.provider_arguments("gigachat")
        with (
            GigaChat(**arguments, **(given if where == "instance" else {})) as client,
            pytest.raises(ModelNotFoundError) as caught,
        ):
            client.complete(QUESTION, **(given if where == "call" else {}))
        assert "did you mean 'GigaChat-2-Max'?" in str(caught.value)
        assert "GigaChat-2, GigaChat-2-Pro, GigaChat-2-Max, Embeddings" in str(caught.value)
        assert caught.value.status_code == 404
        assert caught.value.request_id

    def test_named_in_the_body(self, sandbox: Sandbox, giga: GigaChat) -> None:
        """A model that ``extra_body`` names counts as named, too."""
        with pytest.raises(ModelNotFoundError, match="'GigaChat-0'"):
            giga.complete(QUESTION, extra_body={"model": "GigaChat-0"})
        assert giga.complete(QUESTION).attempts[0].model == "GigaChat-2"

    @pytest.mark.parametrize(
        ("listed", "found"),
        [
            ([{"id": "other"}, {"id": "GigaChat-9"}, {"id": "gigachat-8"}], "GigaChat-9"),
            ([{"id": "GigaChat-2"}, {"id": "gigachat-8", "type": "chat"}], "gigachat-8"),
            ([{"id": "GigaEmbeddings"}, {"id": 7}, {}, {"id": "other"}, {"id": "more"}], "other"),
            ([{"id": "GigaChat-V", "type": "image"}, {"id": "GigaChat-Embed"}], None),
            ([], None),
        ],
    )
    def test_what_stands_in_for_the_default(self, listed: list[Any], found: str | None) -> None:
        """It is the first for chats that the service calls its own, else the first for chats."""
        gone = InvalidRequestError("HTTP 404", status_code=404, request_id="r7", detail="No model")
        listing = Canned(json.dumps({"data": listed}).encode(), "application/json")
        sender = Sender(gone, listing, Canned(SHORT.body))
        reading = read(with_sender(GigaChat, sender, access_token="some-token").stream(QUESTION))
        assert sender.calls[1].url == "https://api.giga.chat/v1/models"
        assert "application/json" in sender.calls[1].headers["Accept"]
        assert listing.closed == 1
        if found is None:
            assert isinstance(reading.error, ModelNotFoundError)
            assert (reading.error.request_id, reading.error.detail) == ("r7", "No model")
        else:
            assert sender.calls[-1].json["model"] == found
            assert reading.finish.attempts[0].model == found

    def test_models_cannot_be_asked(self, sandbox: Sandbox, giga: GigaChat) -> None:
        """Where the models cannot be listed, the address is what is to be checked."""
        sandbox.fail("gigachat", status=404)
        sandbox.fail("gigachat", status=404, on="models")
        with pytest.raises(InvalidRequestError, match=f"check base_url: it is {giga.base_url}$"):
            giga.complete(QUESTION)

    def test_models_that_are_not_listed_in_time(self, sandbox: Sandbox, giga: GigaChat) -> None:
        """A list of models that does not come costs the call no more than its deadline."""
        sandbox.fail("gigachat", status=404)
        sandbox.fail("gigachat", stall=True, before_head=True, on="models")
        with pytest.raises(DeadlineExceeded):
            sandbox.client(giga, deadline=1).complete(QUESTION)
        assert sandbox.count("gigachat", "models") == 1

    def test_wrong_address(self, sandbox: Sandbox) -> None:
        """An address without its path is told apart from a model."""
        arguments = {**sandbox.provider_arguments("gigachat"), "base_url": f"{sandbox.url}/api"}
        with (
            GigaChat(**arguments) as client,
            pytest.raises(
                InvalidRequestError, match="check base_url, which usually ends in /v1: it is http"
            ) as caught,
        ):
            client.complete(QUESTION)
        assert not isinstance(caught.value, ModelNotFoundError)

    @pytest.mark.parametrize(
        ("asked_for", "sent"),
        [
            ("GigaChat:latest", "GigaChat-2"),
            ("GigaChat-Pro", "GigaChat-2-Pro"),
            ("GigaChat-Max", "GigaChat-2-Max"),
            ("GigaChat-2-Max", "GigaChat-2-Max"),
            ("GigaChat-9-preview", "GigaChat-9-preview"),
        ],
    )
    def test_names(self, asked_for: str, sent: str) -> None:
        """Older names stand for today's, and unknown ones go to the service."""
        assert GigaChat().get_model(asked_for) == sent
        assert GigaChat(model=asked_for).get_model(None) == sent


def test_the_module_names_what_its_calls_return() -> None:
    """What it does not load before it is asked for is there by its name; other names are not."""
    assert {kind.__name__ for kind in (Balance, Embedding, TokenCount)} <= set(package.__all__)
    assert issubclass(package.UnverifiedTLSWarning, Warning)


class TestRest:
    def test_models(self, giga: GigaChat) -> None:
        """The class names what is known, an instance asks the service."""
        assert GigaChat.models == ("GigaChat-2", "GigaChat-2-Pro", "GigaChat-2-Max")
        assert giga.models() == [*GigaChat.models, "Embeddings"]

    def test_balance(self, giga: GigaChat) -> None:
        """The balance is told for each model."""
        assert giga.balance()[0] == Balance(model="GigaChat-2", tokens=900_000)

    def test_a_balance_that_is_not_told(self, sandbox: Sandbox) -> None:
        """A token that is refused is not taken for an account without a balance."""
        arguments = sandbox.provider_arguments("gigachat")
        del arguments["api_key"]
        with (
            GigaChat(**arguments, access_token="made-elsewhere") as client,
            pytest.raises(AuthenticationError, match="the access token that was given") as caught,
        ):
            client.balance()
        assert caught.value.status_code == 401
        assert "pays as it goes" not in str(caught.value)

    def test_no_balance(self) -> None:
        """An account that pays as it goes is told that it has none."""
        with (
            Sandbox(gigachat_scope="GIGACHAT_API_CORP") as sandbox,
            GigaChat(**sandbox.provider_arguments("gigachat")) as client,
            pytest.raises(AuthenticationError, match="pays as it goes") as caught,
        ):
            client.balance()
        assert caught.value.status_code == 403
        assert caught.value.provider == "GigaChat"

    def test_count_tokens(self, sandbox: Sandbox, giga: GigaChat) -> None:
        """Tokens and characters are counted for each text."""
        assert giga.count_tokens(["one two", "Небо"], model="GigaChat-Pro") == [
            TokenCount(tokens=2, characters=7),
            TokenCount(tokens=1, characters=4),
        ]
        body = asked(sandbox, "tokens")[0].json
        assert body == {"model": "GigaChat-2-Pro", "input": ["one two", "Небо"]}
        assert giga.count_tokens("one") == [TokenCount(1, 3)]

    def test_embed(self, sandbox: Sandbox, giga: GigaChat) -> None:
        """Each text becomes a vector, in the order of the texts."""
        one, two = giga.embed(["one", "two words"])
        assert one != two
        assert (one.prompt_tokens, two.prompt_tokens) == (1, 2)
        assert all(isinstance(number, float) for number in one.vector)
        assert giga.embed("one") == [one]
        assert giga.embed("one", model=None) == [one]
        assert isinstance(one, Embedding)
        assert {each.json["model"] for each in asked(sandbox, "embeddings")} == {"Embeddings"}

    def test_embeddings_in_another_order(
        self, giga: GigaChat, sandbox: Sandbox, raw_server: RawServerFactory
    ) -> None:
        """The index in the reply says which text a vector is for."""
        entries = [
            f'{{"embedding": [{number}], "index": {number}, "object": "embedding"}}'
            for number in (1, 0)
        ]
        answer = f'{{"data": [{", ".join(entries)}], "object": "list"}}'.encode()
        server = raw_server(json_reply(answer))
        with GigaChat(base_url=f"{server.url}/v1", access_token="some-token") as client:
            assert client.embed(["a", "b"]) == [Embedding([0.0]), Embedding([1.0])]

    @pytest.mark.parametrize("texts", [[], [1], [None], None, 7])
    def test_no_texts(self, giga: GigaChat, sandbox: Sandbox, texts: Any) -> None:
        """What is no text is refused before anything is sent."""
        for call in (giga.embed, giga.count_tokens):
            with pytest.raises(InvalidRequestError, match="at least one"):
                call(texts)
        assert sandbox.requests == []

    @pytest.mark.parametrize(
        "answer", [b"[]", b"{}", b'[{"tokens": "7"}]', b'{"data": [7]}', b'{"balance": [{}]}']
    )
    def test_misshapen(self, raw_server: RawServerFactory, answer: bytes) -> None:
        """An answer of another shape is an error of ours."""
        server = raw_server(json_reply(answer))
        with GigaChat(base_url=f"{server.url}/v1", access_token="some-token") as client:
            for call in (lambda: client.count_tokens("a"), lambda: client.embed("a")):
                with pytest.raises(ProtocolError):
                    call()
            if answer != b"[]":
                with pytest.raises(ProtocolError):
                    client.balance()

    @pytest.mark.parametrize(
        "call", ["balance", "count_tokens", "embed", "upload", "files", "delete", "list_models"]
    )
    @pytest.mark.parametrize("shape", ["sentence", "beside a null"])
    def test_a_sentence(self, call: str, shape: str, tmp_path: Path) -> None:
        """A sentence in place of JSON, or beside nothing, is an error with its class and words."""
        path = tmp_path / "notes.txt"
        path.write_text("Hi")
        arguments: dict[str, tuple[Any, ...]] = {"upload": (path,)}
        arguments.update(dict.fromkeys(("balance", "list_models", "files"), ()))
        said = "Rate limit reached: wait for 20 seconds"
        reply = Canned(f"{said}\n".encode(), "text/plain")
        if shape != "sentence":
            answer = {**dict.fromkeys(("data", "balance", "id")), "message": said}
            reply = Canned(json.dumps(answer).encode(), "application/json")
        client = with_sender(GigaChat, Sender(reply), access_token="some-token")
        with pytest.raises(RateLimitError) as caught:
            getattr(client, call)(*arguments.get(call, ("text",)))
        assert caught.value.detail == said
        assert caught.value.retry_after == 20

    def test_a_sentence_in_place_of_a_token(self, raw_server: RawServerFactory) -> None:
        """So is one in place of a token."""
        said = b"Rate limit reached: wait for 20 seconds\n"
        server = raw_server(http_response(200, {"Content-Type": "text/plain"}, said))
        arguments = {"base_url": f"{server.url}/v1", "auth_url": f"{server.url}/oauth"}
        with (
            GigaChat(api_key=KEY, **arguments) as client,
            pytest.raises(RateLimitError, match="wait for 20 seconds"),
        ):
            client.complete("Hi", deadline=10)
        assert {request.target for request in server.requests} == {"/oauth"}

    @pytest.mark.parametrize(
        ("call", "answer", "found"),
        [
            ("balance", {"balance": ["x"]}, "NoneType where usage"),
            ("balance", {"balance": [{}]}, "NoneType where usage"),
            ("balance", {"balance": [{"usage": "GigaChat", "value": "7"}]}, "str where value"),
            ("balance", {"balance": [{"usage": 7, "value": 7}]}, "int where usage"),
            ("count_tokens", [{"tokens": "7"}], "str where tokens"),
            ("count_tokens", [{"tokens": 7}], "NoneType where characters"),
            ("count_tokens", ["x"], "NoneType where tokens"),
            ("count_tokens", [{"tokens": -1, "characters": 7}], "a number where tokens"),
            ("embed", ["x"], "str where data"),
            ("embed", [{"embedding": 7, "index": 0}], "int where embedding"),
            ("embed", [{"embedding": ["x"], "index": 0}], "str where embedding"),
        ],
    )
    def test_the_error_says_what_was_wrong(self, call: str, answer: Any, found: str) -> None:
        """It names the field, and what stood there in place of what was due."""
        reply = Canned(json.dumps(answer).encode(), "application/json")
        client = with_sender(GigaChat, Sender(reply), access_token="some-token")
        texts = () if call == "balance" else ("text",)
        with pytest.raises(ProtocolError, match=f"the reply has {found} was due"):
            getattr(client, call)(*texts)

    def test_no_place_for_vectors(self, giga: GigaChat) -> None:
        """A thread that holds the only place gets no vectors before it gives it back."""
        with closing(giga.stream(QUESTION)) as stream:
            next(stream)
            with pytest.raises(RateLimitError, match="holds open itself") as caught:
                giga.embed("text")
        assert caught.value.provider == "GigaChat"
        assert giga.embed("text")

    def test_an_interrupt_before_there_is_a_place(self) -> None:
        """An interrupt while vectors wait for their place lets go of all that the call holds."""
        let_go: list[bool] = []

        class Interrupted(GigaChat):
            def slot(self, scope: CancelScope) -> AbstractContextManager[float]:
                scope.attach(self, lambda: let_go.append(scope.over))
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            Interrupted(access_token="some-token").embed("text")
        assert let_go == [True]

    @pytest.mark.parametrize(("on", "model"), [("embeddings", "Embedings"), ("tokens", "x")])
    def test_unknown_model(self, sandbox: Sandbox, giga: GigaChat, on: str, model: str) -> None:
        """A model that is not there for vectors or counts is named like one for chats."""
        sandbox.fail("gigachat", status=404, on=on)
        call = {"embeddings": giga.embed, "tokens": giga.count_tokens}[on]
        with pytest.raises(ModelNotFoundError, match="It has: GigaChat-2, ") as caught:
            call("text", model=model)
        assert asked(sandbox, on)[0].json["model"] == model
        assert caught.value.provider == "GigaChat"
        assert caught.value.status_code == 404

    @pytest.mark.parametrize(
        ("status", "kind", "said"),
        [
            (402, QuotaExceededError, "paid for GigaChat-2-Max are used up; balance() shows"),
            (403, AuthenticationError, "denies access"),
            (413, InvalidRequestError, "shorten the prompt"),
            (422, InvalidRequestError, "Unprocessable"),
            (429, RateLimitError, "token_cache"),
            (500, ServerError, "500"),
        ],
    )
    def test_errors(
        self, sandbox: Sandbox, giga: GigaChat, status: int, kind: type[LLMError], said: str
    ) -> None:
        """Each status is the error of the contract, and says what to do."""
        sandbox.fail("gigachat", status=status)
        with pytest.raises(kind) as caught:
            giga.complete(QUESTION, model="GigaChat-2-Max")
        assert said in str(caught.value)
        assert "refused a token" not in str(caught.value)
        assert caught.value.status_code == status
        assert caught.value.request_id == asked(sandbox, "chat")[0].headers["x-request-id"]
        assert caught.value.attempts[0].error is caught.value

    def test_a_quota_for_vectors(self, sandbox: Sandbox, giga: GigaChat) -> None:
        """Whose tokens are used up is told for other calls, too."""
        sandbox.fail("gigachat", status=402, on="embeddings")
        with pytest.raises(QuotaExceededError, match="paid for EmbeddingsGigaR are used up"):
            giga.embed("text", model="EmbeddingsGigaR")

    def test_the_services_words(self, sandbox: Sandbox, giga: GigaChat) -> None:
        """What the service calls wrong is told in its own words."""
        with pytest.raises(
            InvalidRequestError, match="max_tokens must be a whole number"
        ) as caught:
            giga.complete(QUESTION, max_tokens=0)
        assert caught.value.status_code == 422

    def test_retry_after(self, sandbox: Sandbox, giga: GigaChat) -> None:
        """A wait that the service asks for survives the better words."""
        sandbox.fail("gigachat", status=429, headers={"retry-after": "7"})
        with pytest.raises(RateLimitError) as caught:
            giga.complete(QUESTION)
        assert caught.value.retry_after == 7
        assert caught.value.retryable


@pytest.fixture
def business() -> Iterator[Sandbox]:
    """A sandbox with places enough for a crowd."""
    with Sandbox(gigachat_scope=BUSINESS, gigachat_max_concurrency=64) as sandbox:
        yield sandbox


@pytest.fixture(scope="module")
def warm(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Load what a call needs, so that each forked child need not."""
    cache = tmp_path_factory.mktemp("warm") / "tokens.json"
    with (
        Sandbox() as sandbox,
        GigaChat(**sandbox.provider_arguments("gigachat"), token_cache=cache) as client,
    ):
        client.complete(QUESTION)


def crowd(run: Callable[[int], object], count: int) -> list[Any]:
    """Run it in so many threads at once; what each gave back, or raised."""
    start = threading.Barrier(count)
    results: list[Any] = [None] * count

    def one(number: int) -> None:
        start.wait(PATIENCE_S)
        try:
            results[number] = run(number)
        except Exception as error:  # noqa: BLE001 - it is what is looked at
            results[number] = error

    threads = [threading.Thread(target=one, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    return results


def test_whose_requests_wait_for_one_another() -> None:
    """Places are counted for a key and its scope, or for a token; without either there are none.

    A thread that would wait for itself is told so.
    """

    def place(**arguments: Any) -> AbstractContextManager[float]:
        return GigaChat(**{"max_concurrency": 1, **arguments}).slot(CancelScope())

    ways: list[dict[str, Any]] = [
        {"api_key": KEY},
        {"api_key": KEY, "scope": BUSINESS},
        {"api_key": KEY, "auth_url": "http://127.0.0.1:9/oauth"},
        {"api_key": base64.b64encode(b"another:secret").decode()},
        {"access_token": "one"},
        {"access_token": "another"},
    ]
    with ExitStack() as held:
        assert [held.enter_context(place(**way)) for way in ways] == [0.0] * 6
        with pytest.raises(RateLimitError, match="holds open itself"), place(access_token="one"):
            pass
        with place() as waited, place():
            assert waited == 0.0


@pytest.mark.usefixtures("warm")
class TestTokenRequests:
    def test_64_threads(self, business: Sandbox) -> None:
        """64 threads at a cold start make one token request, on one client or on many."""
        arguments = business.provider_arguments("gigachat")
        clients = [GigaChat(**arguments, max_concurrency=64) for _ in range(8)]
        replies = crowd(lambda number: clients[number % 8].complete(QUESTION), 64)
        assert [type(reply) for reply in replies] == [Completion] * 64
        assert business.count("gigachat", "token") == 1
        for client in clients:
            client.close()

    def test_16_processes(self, business: Sandbox, tmp_path: Path) -> None:
        """16 processes that share a file make one token request."""
        arguments = business.provider_arguments("gigachat")
        waiting, go = os.pipe()

        def run() -> None:
            client = GigaChat(**arguments, token_cache=tmp_path / "tokens.json")
            os.read(waiting, 1)
            assert client.complete(QUESTION).text

        children = [Child(run) for _ in range(16)]
        os.write(go, b"!" * 16)
        for child in children:
            child.wait()
        os.close(waiting)
        os.close(go)
        assert business.count("gigachat", "token") == 1
        assert business.count("gigachat", "chat") == 16

    def test_revoked_between_processes(self, business: Sandbox, tmp_path: Path) -> None:
        """When a shared token is revoked, one process fetches a new one for all."""
        arguments = business.provider_arguments("gigachat")
        waiting, go = os.pipe()
        ready, told = os.pipe()

        def run() -> None:
            client = GigaChat(**arguments, token_cache=tmp_path / "tokens.json")
            client.complete(QUESTION)
            os.write(told, b"!")
            os.read(waiting, 1)
            assert client.complete(QUESTION).text

        children = [Child(run) for _ in range(4)]
        for _ in children:
            os.read(ready, 1)
        business.expire_tokens()
        os.write(go, b"!" * 4)
        for child in children:
            child.wait()
        for pipe in (waiting, go, ready, told):
            os.close(pipe)
        assert business.count("gigachat", "token") == 2

    def test_a_day_of_cron(self, tmp_path: Path) -> None:
        """A process every five minutes for a day makes 58 token requests at most; none fails."""
        now = [FakeClock().wall()]
        with Sandbox(clock=lambda: now[0], reply="one two", keep_requests=10) as sandbox:
            giga = GigaChat(
                **sandbox.provider_arguments("gigachat"), token_cache=tmp_path / "tokens.json"
            )

            def run() -> None:
                clock = FakeClock(wall=now[0])
                with FailoverClient([giga], clock=clock, attempts=1) as client:
                    assert client.complete(QUESTION).text == "one two"

            for _ in range(288):
                Child(run).wait()
                now[0] += 300.0
            assert sandbox.count("gigachat", "chat") == 288
            assert 48 <= sandbox.count("gigachat", "token") <= 58

    def test_users_cache(self, sandbox: Sandbox, home: Path) -> None:
        """``token_cache="user"`` is a file in the user's cache folder; it never holds the key."""
        arguments = sandbox.provider_arguments("gigachat")
        with GigaChat(**arguments, token_cache="user") as client:
            client.complete(QUESTION)
        (path,) = (home / "cache" / "llmproviders").glob("*.json")
        assert path.stat().st_mode & 0o777 == 0o600
        content = path.read_text()
        token = asked(sandbox, "chat")[0].headers["authorization"].removeprefix("Bearer ")
        assert token in content
        assert arguments["api_key"] not in content
        assert base64.b64decode(arguments["api_key"]).decode() not in content

    def test_a_file_in_the_home_folder(self, sandbox: Sandbox, home: Path) -> None:
        """A cache's path may begin with ``~``."""
        arguments = sandbox.provider_arguments("gigachat")
        with GigaChat(**arguments, token_cache="~/mine/tokens.json") as client:
            client.complete(QUESTION)
        assert (home / "mine" / "tokens.json").exists()

    def test_keys_and_scopes_do_not_share(self, sandbox: Sandbox, tmp_path: Path) -> None:
        """Another scope, another key, another token service: none gets this one's token."""
        arguments = sandbox.provider_arguments("gigachat")
        cache = tmp_path / "tokens.json"
        with GigaChat(**arguments, token_cache=cache) as client:
            client.complete(QUESTION)
        for change in ({"scope": BUSINESS}, {"api_key": KEY}):
            with (
                GigaChat(**{**arguments, **change}, token_cache=cache) as client,
                pytest.raises(LLMError),
            ):
                client.complete(QUESTION)
        elsewhere = {**arguments, "auth_url": f"{arguments['auth_url']}?again"}
        with GigaChat(**elsewhere, token_cache=cache) as client:
            client.complete(QUESTION)
        assert sandbox.count("gigachat", "token") == 4


class TestOfficial:
    """The official client and ours on the same sandbox."""

    def test_same_reply(self, sandbox: Sandbox, giga: GigaChat) -> None:
        """Text, finish and usage are the same, streamed and whole."""
        with gigachat_client(sandbox) as official:
            theirs = official.chat(QUESTION)
            streamed = list(official.stream(QUESTION))
        ours = giga.complete(QUESTION)
        assert ours.text == theirs.choices[0].message.content
        assert ours.text == "".join(chunk.choices[0].delta.content or "" for chunk in streamed)
        assert ours.usage is not None
        counts = {**theirs.usage.model_dump(), "reasoning_tokens": None}
        counts["cached_tokens"] = counts["precached_prompt_tokens"]
        assert ours.usage.as_dict().items() <= counts.items()
        assert ours.finish_reason.raw == theirs.choices[0].finish_reason
        assert ours.model == theirs.model

    def test_same_rest(self, sandbox: Sandbox, giga: GigaChat) -> None:
        """Models, balance, counts and vectors are the same."""
        with gigachat_client(sandbox) as official:
            assert giga.models() == [model.id_ for model in official.get_models().data]
            theirs = [(entry.usage, entry.value) for entry in official.get_balance().balance]
            assert [(entry.model, entry.tokens) for entry in giga.balance()] == theirs
            counts = official.tokens_count(["one two", "three"])
            assert [(c.tokens, c.characters) for c in giga.count_tokens(["one two", "three"])] == [
                (count.tokens, count.characters) for count in counts
            ]
            vectors = [entry.embedding for entry in official.embeddings(["one"]).data]
            assert [entry.vector for entry in giga.embed(["one"])] == vectors

    def test_cold_start_with_8_clients(self, business: Sandbox, tmp_path: Path) -> None:
        """Eight client objects make eight token requests with theirs, one with ours and a file."""
        theirs = [gigachat_client(business, scope=BUSINESS) for _ in range(8)]
        assert all(crowd(lambda number: theirs[number].chat(QUESTION).choices, 8))
        for official in theirs:
            official.close()
        assert business.count("gigachat", "token") == 8
        arguments = business.provider_arguments("gigachat")
        ours = [GigaChat(**arguments, token_cache=tmp_path / "tokens.json") for _ in range(8)]
        replies = crowd(lambda number: ours[number].complete(QUESTION).text, 8)
        assert [type(reply) for reply in replies] == [str] * 8
        for client in ours:
            client.close()
        assert business.count("gigachat", "token") == 9

    def test_revoked_under_load(self, business: Sandbox) -> None:
        """A token that is revoked under load costs one new one, and no call."""
        with GigaChat(**business.provider_arguments("gigachat"), max_concurrency=32) as client:
            client.complete(QUESTION)
            half = threading.Barrier(32, action=business.expire_tokens)

            def run(_: int) -> int:
                texts = [client.complete(QUESTION).text for _ in range(3)]
                half.wait(PATIENCE_S)
                texts += [client.complete(QUESTION).text for _ in range(3)]
                return len(texts)

            assert crowd(run, 32) == [6] * 32
        assert business.count("gigachat", "token") == 2

    def test_expiry_in_mid_run(self, tmp_path: Path) -> None:
        """When a token's time is over in mid-run, theirs pays with a refused call, ours not."""
        clock = FakeClock()
        with Sandbox(clock=clock.wall) as sandbox:
            with sandbox.client("gigachat", clock=clock) as ours:
                for _ in range(3):
                    assert ours.complete(QUESTION).text
                    clock.pass_(1000)
            assert {request.status for request in asked(sandbox, "chat")} == {200}
            assert sandbox.count("gigachat", "token") == 2
        with Sandbox(gigachat_token_life_s=3600) as sandbox, gigachat_client(sandbox) as official:
            assert official.chat(QUESTION).choices
            sandbox.expire_tokens()
            assert official.chat(QUESTION).choices
            assert [request.status for request in asked(sandbox, "chat")] == [200, 401, 200]

    def test_cut_stream(self, sandbox: Sandbox, giga: GigaChat) -> None:
        """Of a stream cut after three pieces theirs repeats the beginning, ours does not."""
        whole = giga.complete(QUESTION).text
        with gigachat_client(sandbox, max_retries=1, retry_backoff_factor=0.0) as official:
            sandbox.fail("gigachat", cut_after=3)
            chunks = official.stream(QUESTION)
            theirs = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
        assert theirs == whole[: len(theirs) - len(whole)] + whole
        assert len(theirs) > len(whole)
        client = sandbox.client(giga)
        sandbox.fail("gigachat", cut_after=3)
        got: list[str] = []
        with pytest.raises(StreamInterrupted) as caught:
            got.extend(client.stream(QUESTION))
        assert len(got) == 3
        assert whole.startswith("".join(got))
        assert caught.value.partial_text == "".join(got)
        sandbox.fail("gigachat", cut_after=3)
        assert client.complete(QUESTION).text == whole

    def test_stream_is_not_repeated_after_text(self, sandbox: Sandbox, giga: GigaChat) -> None:
        """Once text is out, a token that dies changes nothing: the stream goes on to its end."""
        stream = giga.stream(QUESTION)
        first = next(stream)
        sandbox.expire_tokens()
        rest = "".join(stream)
        assert sandbox.count("gigachat", "chat") == 1
        assert first + rest == giga.complete(QUESTION).text
