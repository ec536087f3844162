"""GLM: OpenAI's protocol with Zhipu's own ranges, refusals and keys."""

from __future__ import annotations

from typing import Any

import pytest

from llmproviders import (
    GLM,
    InvalidRequestError,
    MissingAuthError,
    ModelNotFoundError,
    UnsupportedError,
)
from llmproviders.sandbox import Sandbox
from tests.support.calls import Canned, Sender, with_sender
from tests.support.golden import goldens
from tests.support.promise import read

SHORT = goldens("glm", name="short")[0]
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
SITES = {
    "ZHIPUAI": "https://open.bigmodel.cn/api/paas/v4",
    "ZAI": "https://api.z.ai/api/paas/v4",
}


def sent_by(prompt: Any = "Hi", *, stream: bool = True, **params: Any) -> dict[str, Any]:
    """The body that is sent."""
    sender = Sender(Canned(SHORT.body))
    provider = with_sender(GLM, sender, api_key="k")
    error = read(provider.create_generator(None, prompt, stream=stream, **params)).error
    if error is not None:
        assert sender.calls == []
        raise error
    body: dict[str, Any] = sender.calls[0].json
    return body


class TestRequest:
    @pytest.mark.parametrize(
        ("params", "expected"),
        [
            ({"temperature": 1.5, "top_p": 1}, {"temperature": 0.99, "top_p": 0.99}),
            ({"temperature": 0.3, "top_p": 0.5}, {"temperature": 0.3, "top_p": 0.5}),
            ({"temperature": 0}, {"do_sample": False}),
            ({"stop": "END"}, {"stop": ["END"]}),
            ({"stop": ["END", "STOP"]}, {"stop": ["END"]}),
            ({"reasoning_effort": "low"}, {"reasoning_effort": "low"}),
            ({"presence_penalty": 1, "frequency_penalty": 1}, {}),
            ({"tools": [TOOL]}, {"tools": [TOOL], "tool_stream": True}),
            ({"tools": [TOOL], "tool_choice": "auto"}, {"tools": [TOOL], "tool_stream": True}),
            ({"tools": [TOOL], "tool_choice": "none"}, {}),
            ({"tools": [TOOL], "stream": False}, {"tools": [TOOL]}),
            ({"response_format": {"type": "json_object"}},) * 2,
        ],
    )
    def test_parameters_are_put_into_its_ranges(
        self, params: dict[str, Any], expected: dict[str, Any]
    ) -> None:
        """Ranges, a stop that is a list of one, a temperature of 0, calls in pieces."""
        body = sent_by(**params)
        usual = ("model", "messages", "stream", "stream_options")
        assert {n: v for n, v in body.items() if n not in usual} == expected

    @pytest.mark.parametrize(
        ("params", "words"),
        [
            ({"tools": [TOOL], "tool_choice": "required"}, "tool_choice"),
            (
                {"functions": [TOOL["function"]], "function_call": {"name": "weather"}},
                "tool_choice",
            ),
            ({"response_format": {"type": "json_schema", "json_schema": {}}}, "json_schema"),
            ({"prompt": [{"role": "assistant", "content": "Hi"}]}, "user message"),
        ],
    )
    def test_what_it_cannot_do_is_told_before_sending(
        self, params: dict[str, Any], words: str
    ) -> None:
        """A demanded call, a schema and a conversation without a user are not sent."""
        with pytest.raises(UnsupportedError, match=words):
            sent_by(**params)

    def test_thoughts_go_back_with_the_calls_that_followed(self) -> None:
        """The message of a reply with calls has the thoughts, which the service wants back."""
        tools = goldens("glm", name="tools")[0]
        provider = with_sender(GLM, Sender(Canned(tools.body)), api_key="k")
        finish = read(provider.stream("Rain?")).finish
        assert finish.message["reasoning_content"] == "Hm."
        result = {"role": "tool", "tool_call_id": "call_8", "content": "no"}
        told = sent_by([{"role": "user", "content": "Rain?"}, finish.message, result])["messages"]
        assert told[1]["reasoning_content"] == "Hm."


class TestKey:
    @pytest.mark.parametrize("site", SITES)
    def test_a_key_goes_with_its_own_address(
        self, monkeypatch: pytest.MonkeyPatch, site: str
    ) -> None:
        """The key of one site is never sent to the address of the other."""
        for other in SITES:
            monkeypatch.setenv(f"{other}_BASE_URL", f"https://{other.lower()}.example/v4")
        monkeypatch.setenv(f"{site}_API_KEY", "its-key")
        sender = Sender(Canned(SHORT.body))
        read(with_sender(GLM, sender).stream("Hi"))
        assert sender.calls[0].authorization == "Bearer its-key"
        assert sender.calls[0].url == f"https://{site.lower()}.example/v4/chat/completions"
        for other in SITES:
            monkeypatch.delenv(f"{other}_BASE_URL")
        assert GLM().base_url == SITES[site]

    @pytest.mark.parametrize("where", ["argument", "own variable"])
    @pytest.mark.parametrize("site", SITES)
    def test_keys_of_both_sites(
        self, monkeypatch: pytest.MonkeyPatch, site: str, where: str
    ) -> None:
        """With both keys set, each address gets the key of its own site, and no other's."""
        for one in SITES:
            monkeypatch.setenv(f"{one}_API_KEY", f"key-of-{one}")
        if where == "own variable":
            monkeypatch.setenv("LLMPROVIDERS_GLM_BASE_URL", SITES[site])
        arguments = {"base_url": SITES[site]} if where == "argument" else {}
        sender = Sender(Canned(SHORT.body))
        provider = with_sender(GLM, sender, **arguments)
        assert read(provider.stream("Hi")).error is None
        assert sender.calls[0].authorization == f"Bearer key-of-{site}"
        assert sender.calls[0].url.startswith(SITES[site])

    def test_keys_of_both_sites_at_a_strangers(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Neither goes to another address; the one that counts elsewhere is told."""
        for one in SITES:
            monkeypatch.setenv(f"{one}_API_KEY", f"key-of-{one}")
        sender = Sender(Canned(SHORT.body))
        provider = with_sender(GLM, sender, base_url="https://api.z.ai.example/v4")
        with pytest.raises(MissingAuthError, match="ZHIPUAI_API_KEY was held back"):
            provider.complete("Hi")
        assert sender.calls == []

    def test_a_missing_key(self) -> None:
        """The error names both variables; nothing is sent."""
        provider = with_sender(GLM, sender := Sender(Canned()))
        with pytest.raises(MissingAuthError, match="ZHIPUAI_API_KEY or ZAI_API_KEY"):
            provider.complete("Hi")
        assert sender.calls == []


class TestSandbox:
    def test_it_takes_what_is_sent(self, sandbox: Sandbox) -> None:
        """Parameters out of its ranges, tools and two stop strings get a reply."""
        with GLM(**sandbox.provider_arguments("glm")) as provider:
            assert provider.list_models()[0] == "glm-5.3"
            reply = provider.complete(
                "call the tool", tools=[TOOL], temperature=2, top_p=1, stop=["a", "b"]
            )
            assert reply.tool_calls[0]["function"]["name"] == "weather"
            assert str(provider.complete("Hi", temperature=0))

    @pytest.mark.parametrize(
        "body",
        [
            {"tool_choice": "required"},
            {"stop": ["a", "b"]},
            {"stop": "a"},
            {"temperature": 1.5},
            {"temperature": 0},
            {"top_p": 0},
            {"response_format": {"type": "json_schema"}},
            {"presence_penalty": 1},
        ],
    )
    def test_it_refuses_what_the_service_refuses(
        self, sandbox: Sandbox, body: dict[str, Any]
    ) -> None:
        """A request that was not put into its ranges is refused with one of Zhipu's codes."""
        with GLM(**sandbox.provider_arguments("glm")) as provider:
            error = read(provider.stream("Hi", extra_body=body)).error
        assert isinstance(error, InvalidRequestError)
        assert error.status_code == 400

    def test_a_model_that_is_not_there(self, sandbox: Sandbox) -> None:
        """Zhipu's 1211 comes with 400 and is a missing model."""
        with GLM(**sandbox.provider_arguments("glm")) as provider:
            error = read(provider.stream("Hi", model="glm-9")).error
        assert isinstance(error, ModelNotFoundError)
