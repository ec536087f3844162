"""YandexGPT: folders, addresses of models, and a reply without a finish reason."""

from __future__ import annotations

from typing import Any

import pytest

from llmproviders import MissingAuthError, ModelNotFoundError, YandexGPT
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

    def test_prompts_can_be_kept_out_of_the_logs(self) -> None:
        """``data_logging=False`` says so with every request."""
        headers = call_of(arguments={"data_logging": False}).headers
        assert headers["x-data-logging-enabled"] == "false"

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
        [({"api_key": "k"}, "YC_FOLDER_ID.*folder_id="), ({"folder_id": "b1g"}, "YC_API_KEY")],
    )
    def test_what_is_missing(self, arguments: dict[str, Any], words: str) -> None:
        """Without a key or a folder the call says what to set, and sends nothing."""
        provider = with_sender(YandexGPT, sender := Sender(Canned()), **arguments)
        with pytest.raises(MissingAuthError, match=words):
            provider.complete("Hi")
        assert sender.calls == []


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
    body = f'{{"error": {{"code": {code}, "message": "m", "details": []}}}}'.encode()
    reply = Canned(body, "application/json")
    error = read(canned(YandexGPT, reply, api_key="k", folder_id="b1g").stream("Hi")).error
    assert isinstance(error, LLMError)
    assert error.status_code == status
