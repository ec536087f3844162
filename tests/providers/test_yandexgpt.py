"""YandexGPT: folders, addresses of models, and a reply without a finish reason."""

from __future__ import annotations

import json
from typing import Any

import pytest

from llmproviders import (
    InvalidRequestError,
    MissingAuthError,
    ModelNotFoundError,
    StreamInterrupted,
    YandexGPT,
)
from llmproviders.errors import LLMError
from llmproviders.sandbox import Sandbox
from tests.support.calls import Canned, Sender, canned, with_sender
from tests.support.golden import goldens
from tests.support.promise import read

SHORT = goldens("yandexgpt", name="short")[0]
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}


def call_of(prompt: Any = "Hi", *, arguments: dict[str, Any] | None = None, **params: Any) -> Any:
    """The call that is sent."""
    sender = Sender(Canned(SHORT.body))
    made = {"api_key": "k", "folder_id": "b1g", **(arguments or {})}
    read(with_sender(YandexGPT, sender, **made).stream(prompt, **params))
    return sender.calls[0]


class TestRequest:
    def test_as_documented(self) -> None:
        """The key, the folder in a header, and the full address of the model; nothing refused."""
        call = call_of(temperature=0.3, stop=["x"], seed=7)
        assert call.url == "https://ai.api.cloud.yandex.net/v1/chat/completions"
        assert call.authorization == "Bearer k"
        assert call.headers["OpenAI-Project"] == "b1g"
        assert "x-data-logging-enabled" not in call.headers
        assert call.json == {
            "model": "gpt://b1g/yandexgpt-5.1/latest",
            "messages": [{"role": "user", "content": "Hi"}],
            "stream": True,
            "temperature": 0.3,
        }

    @pytest.mark.parametrize(
        ("model", "address"),
        [
            ("aliceai-llm", "gpt://b1g/aliceai-llm/latest"),
            ("yandexgpt/rc", "gpt://b1g/yandexgpt/rc"),
            ("gpt://other/mine/latest", "gpt://other/mine/latest"),
        ],
    )
    def test_a_short_model_gets_its_address(self, model: str, address: str) -> None:
        """A name is put into the folder, a version and a full address stay."""
        assert call_of(model=model).json["model"] == address

    @pytest.mark.parametrize(
        ("model", "address"),
        [
            (None, "emb://b1g/text-search-doc/latest"),
            ("text-search-query", "emb://b1g/text-search-query/latest"),
            ("text-search-query/rc", "emb://b1g/text-search-query/rc"),
            ("emb://other/mine/latest", "emb://other/mine/latest"),
        ],
    )
    def test_so_does_a_model_for_vectors(self, model: str | None, address: str) -> None:
        """Its address has another scheme than that of a model for chats."""
        reply = Canned(b'{"data": [{"index": 0, "embedding": [1]}]}', "application/json")
        provider = with_sender(YandexGPT, sender := Sender(reply), api_key="k", folder_id="b1g")
        provider.embed("sky", model=model)
        assert sender.calls[0].json["model"] == address

    def test_prompts_can_be_kept_out_of_the_logs(self) -> None:
        """``data_logging=False`` says so with every request."""
        headers = call_of(arguments={"data_logging": False}).headers
        assert headers["x-data-logging-enabled"] == "false"
        with pytest.raises(InvalidRequestError, match=r"^data_logging "):
            call_of(arguments={"data_logging": "maybe"})

    def test_the_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Key and folder are read by either of their names."""
        for key, folder in (
            ("YANDEX_CLOUD_API_KEY", "YANDEX_CLOUD_FOLDER"),
            ("YC_API_KEY", "YC_FOLDER_ID"),
        ):
            monkeypatch.setenv(key, f"key of {key}".replace(" ", "-"))
            monkeypatch.setenv(folder, folder)
            sender = Sender(Canned(SHORT.body))
            read(with_sender(YandexGPT, sender).stream("Hi"))
            assert sender.calls[0].authorization == f"Bearer key-of-{key}"
            assert sender.calls[0].headers["OpenAI-Project"] == folder

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            ({"api_key": "k"}, "YC_FOLDER_ID or YANDEX_CLOUD_FOLDER or pass folder_id="),
            ({"folder_id": "b1g"}, "YC_API_KEY or YANDEX_CLOUD_API_KEY"),
        ],
    )
    def test_what_is_missing(self, arguments: dict[str, Any], words: str) -> None:
        """Without a key or a folder the call says what to set, and sends nothing."""
        provider = with_sender(YandexGPT, sender := Sender(Canned()), **arguments)
        with pytest.raises(MissingAuthError, match=words):
            provider.complete("Hi")
        assert sender.calls == []


def test_models_that_chat() -> None:
    """Of the folder's models those are listed that answer prompts: no speech, no vectors."""
    names = ["gpt://f/yandexgpt/latest", "gpt://f/speech-x", "gpt://f/realtime-x", "emb://f/doc"]
    body = json.dumps({"object": "list", "data": [{"id": name} for name in names]}).encode()
    provider = with_sender(YandexGPT, Sender(Canned(body=body)), api_key="k", folder_id="f")
    assert provider.list_models() == names[:1]


class TestSandbox:
    def test_it_takes_what_is_sent(self, sandbox: Sandbox) -> None:
        """Two calls with parameters that the service does not take get their replies."""
        with YandexGPT(**sandbox.provider_arguments("yandexgpt")) as provider:
            assert str(provider.complete("Hi", stop=["x"], seed=1))
            models = provider.list_models()
        assert len(models) == 3
        assert all(name.endswith("/latest") for name in models)

    def test_alice_gives_no_finish_reason(self, sandbox: Sandbox) -> None:
        """A call that she makes is a whole reply all the same."""
        with YandexGPT(**sandbox.provider_arguments("yandexgpt")) as provider:
            reply = provider.complete("call the tool", model="aliceai-llm", tools=[TOOL])
        assert reply.finish_reason.reason == "tool_calls"
        assert reply.tool_calls[0]["function"]["name"] == "weather"

    def test_two_calls_of_one_function(self, sandbox: Sandbox) -> None:
        """The service gives both the same id; they are told apart here, whole and streamed."""
        calls = [{"name": "weather", "arguments": {"city": city}} for city in ("Омск", "Псков")]
        with YandexGPT(**sandbox.provider_arguments("yandexgpt")) as provider:
            for stream in (True, False):
                sandbox.reply("yandexgpt", tool_calls=calls)
                asked = provider.create_generator(None, "Rain?", tools=[TOOL], stream=stream)
                found = read(asked).finish
                assert found is not None
                assert len({call["id"] for call in found.tool_calls}) == 2
                told = [json.loads(call["function"]["arguments"]) for call in found.tool_calls]
                assert told == [{"city": "Омск"}, {"city": "Псков"}]

    def test_the_usage_comes_unasked(self, sandbox: Sandbox) -> None:
        """A stream has its usage in an event without choices, though nothing asks for it."""
        with YandexGPT(**sandbox.provider_arguments("yandexgpt")) as provider:
            finish = read(provider.stream("Hi")).finish
        assert finish is not None
        assert finish.usage is not None
        assert finish.usage.total_tokens

    def test_alice_with_tools_that_she_does_not_call(self, sandbox: Sandbox) -> None:
        """A text without a finish reason is whole at its end mark."""
        with YandexGPT(**sandbox.provider_arguments("yandexgpt")) as provider:
            finish = read(provider.stream("Hi", model="aliceai-llm", tools=[TOOL])).finish
        assert finish is not None
        assert finish.reason == "stop"

    @pytest.mark.parametrize("body", [{"stop": ["x"]}, {"seed": 1}, {"stream_options": {}}])
    def test_it_refuses_what_the_service_refuses(
        self, sandbox: Sandbox, body: dict[str, Any]
    ) -> None:
        """A field that the service does not take is refused, if the caller insists on it."""
        with YandexGPT(**sandbox.provider_arguments("yandexgpt")) as provider:
            error = read(provider.stream("Hi", extra_body=body)).error
        assert isinstance(error, InvalidRequestError)
        assert error.status_code == 400

    def test_a_model_that_is_not_there(self, sandbox: Sandbox) -> None:
        """An address that leads to no model is a missing model."""
        with YandexGPT(**sandbox.provider_arguments("yandexgpt")) as provider:
            error = read(provider.stream("Hi", model="yandexgpt-9")).error
        assert isinstance(error, ModelNotFoundError)
        assert "Failed to get model" in str(error)

    def test_a_short_model_is_refused(self, sandbox: Sandbox) -> None:
        """The service takes addresses alone; its words for another are a missing model."""
        with YandexGPT(**sandbox.provider_arguments("yandexgpt")) as provider:
            error = read(provider.stream("Hi", extra_body={"model": "yandexgpt-5.1"})).error
        assert isinstance(error, ModelNotFoundError)
        assert "Failed to parse model URI" in str(error)


@pytest.mark.parametrize(
    ("code", "status"),
    [(3, 400), (4, 504), (7, 403), (8, 429), (12, 501), (13, 500), (14, 503), (16, 401)],
)
def test_codes_of_grpc(code: int, status: int) -> None:
    """An error that has a code of gRPC alone gets the status that goes with it."""
    for name in ("code", "grpcCode"):
        body = f'{{"error": {{"{name}": {code}, "message": "m", "details": []}}}}'.encode()
        event = b"data: " + body + b"\n\n"
        for reply in (Canned(body, "application/json"), Canned(event)):
            error = read(canned(YandexGPT, reply, api_key="k", folder_id="b1g").stream("Hi")).error
            assert isinstance(error, LLMError)
            assert error.status_code == status


@pytest.mark.parametrize(
    "told", ["its words", {"message": "its words"}, {"grpcCode": 14, "message": "its words"}]
)
def test_an_error_after_text(told: Any) -> None:
    """An error in any of its shapes after text means that the reply was cut."""
    begun = b'data: {"choices": [{"index": 0, "delta": {"content": "Hi"}}]}\n\n'
    event = b"data: " + json.dumps({"error": told}).encode() + b"\n\n"
    reply = Canned(begun + event)
    reading = read(canned(YandexGPT, reply, api_key="k", folder_id="b1g").stream("Hi"))
    assert isinstance(reading.error, StreamInterrupted)
    assert (reading.text, "its words" in str(reading.error)) == ("Hi", True)


def test_ten_requests_at_a_time() -> None:
    """That is what the service allows an organization, unless another number is given."""
    assert YandexGPT().max_concurrency == 10
    assert YandexGPT(max_concurrency=2).max_concurrency == 2
