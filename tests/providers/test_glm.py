"""GLM: OpenAI's protocol with Zhipu's own ranges, refusals and keys."""

from __future__ import annotations

import json
from typing import Any

import pytest

from llmproviders import (
    GLM,
    AuthenticationError,
    InvalidRequestError,
    LLMError,
    MissingAuthError,
    ModelNotFoundError,
    QuotaExceededError,
    RateLimitError,
    RefusedError,
    ServerError,
    StreamInterrupted,
    UnsupportedError,
)
from llmproviders.sandbox import Sandbox
from tests.support.calls import Canned, Sender, with_sender
from tests.support.golden import goldens
from tests.support.promise import read

SHORT = goldens("glm", name="short")[0]
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
UNTHINKING = {"type": "disabled"}
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
    def test_the_newer_name_of_a_limit(self) -> None:
        """``max_completion_tokens`` is sent as ``max_tokens``, which the service knows."""
        body = sent_by(max_completion_tokens=7)
        assert body["max_tokens"] == 7
        assert "max_completion_tokens" not in body

    @pytest.mark.parametrize(
        ("params", "expected"),
        [
            ({"temperature": 1.5, "top_p": 1}, {"temperature": 0.99, "top_p": 0.99}),
            ({"temperature": 0.3, "top_p": 0.5}, {"temperature": 0.3, "top_p": 0.5}),
            ({"temperature": 0}, {"do_sample": False}),
            ({"temperature": 0.0, "top_p": 0}, {"do_sample": False, "top_p": 0.01}),
            ({"stop": []}, {"stop": []}),
            ({"functions": [TOOL["function"]]}, {"tools": [TOOL], "tool_stream": True}),
            (
                {"extra_body": {"thinking": {"type": "disabled"}}},
                {"thinking": {"type": "disabled"}},
            ),
            ({"stop": "END"}, {"stop": ["END"]}),
            ({"stop": ["END", "STOP"]}, {"stop": ["END"]}),
            ({"reasoning_effort": "low"}, {"reasoning_effort": "low"}),
            ({"presence_penalty": 1, "frequency_penalty": 1}, {}),
            ({"tools": [TOOL]}, {"tools": [TOOL], "tool_stream": True}),
            ({"tools": [TOOL], "tool_choice": "auto"}, {"tools": [TOOL], "tool_stream": True}),
            ({"tools": [TOOL], "tool_choice": "none"}, {}),
            ({"tools": [TOOL], "tool_choice": "none", "parallel_tool_calls": False}, {}),
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


def asked(status: int, body: bytes, content_type: str = "application/json") -> Any:
    """What comes of a reply."""
    reply = Canned(body, content_type, status)
    return read(with_sender(GLM, Sender(reply), api_key="k").stream("Hi"))


CODES: dict[type[LLMError], tuple[str, ...]] = {
    AuthenticationError: ("1000", "1001", "1002", "1003", "1004", "1005", "1110", "1111", "1112"),
    QuotaExceededError: ("1113", "1304", "1308", "1310"),
    RateLimitError: ("1302", "1303", "1305", "1312"),
    InvalidRequestError: ("1210", "1212", "1213", "1214", "1215", "1261"),
    ModelNotFoundError: ("1211",),
    RefusedError: ("1301",),
    ServerError: ("1234", "500"),
}


@pytest.mark.parametrize(
    ("kind", "code"), [(k, code) for k, codes in CODES.items() for code in codes]
)
def test_codes(kind: type[LLMError], code: str) -> None:
    """Each of Zhipu's codes has its class, also where it comes inside a stream with 200."""
    body = json.dumps({"error": {"code": code, "message": "words"}}).encode()
    for told in (asked(200, body), asked(200, b"data: " + body + b"\n\n", "text/event-stream")):
        assert type(told.error) is kind
        assert told.error.retryable is (kind in (RateLimitError, ServerError))


@pytest.mark.parametrize("code", ["1110", "1111", "1112", "1121"])
def test_a_locked_account(code: str) -> None:
    """It is not asked again, though its status says that there were too many requests."""
    told = asked(429, json.dumps({"error": {"code": code, "message": "locked"}}).encode())
    assert isinstance(told.error, AuthenticationError)
    assert not told.error.retryable


@pytest.mark.parametrize("code", ["1121", "1113"])
def test_a_code_after_text(code: str) -> None:
    """An error after text means that the reply was cut, with the service's words."""
    begun = b'data: {"choices": [{"index": 0, "delta": {"content": "Hi"}}]}\n\n'
    error = json.dumps({"error": {"code": code, "message": "its words"}}).encode()
    told = asked(200, begun + b"data: " + error + b"\n\n", "text/event-stream")
    assert isinstance(told.error, StreamInterrupted)
    assert (told.text, "its words" in str(told.error)) == ("Hi", True)


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("stop", "stop"),
        ("tool_calls", "tool_calls"),
        ("length", "length"),
        ("sensitive", "content_filter"),
        ("model_context_window_exceeded", "length"),
        ("network_error", None),
    ],
)
def test_finish_reasons(word: str, reason: str | None) -> None:
    """Each of its words has its meaning, and the usage tells what came from the cache."""
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    events: list[dict[str, Any]] = [
        {"choices": [{"index": 0, "delta": {"content": "Hi"}}]},
        {
            "choices": [{"index": 0, "delta": {"content": ""}, "finish_reason": word}],
            "usage": {**usage, "prompt_tokens_details": {"cached_tokens": 2}},
        },
    ]
    body = b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events)
    told = asked(200, body + b"data: [DONE]\n\n", "text/event-stream")
    if reason is None:
        assert isinstance(told.error, StreamInterrupted)
        return
    assert (told.finish.reason, told.finish.raw) == (reason, word)
    assert told.finish.usage.cached_tokens == 2


@pytest.mark.parametrize("arguments", ['{"city": "Омск"}', {"city": "Омск"}])
def test_arguments_of_a_call_in_a_whole_reply(arguments: Any) -> None:
    """As an object or as a text, they are JSON in a text to the caller."""
    call = {"id": "1", "type": "function", "function": {"name": "weather", "arguments": arguments}}
    message = {"role": "assistant", "content": None, "tool_calls": [call]}
    body = json.dumps({"choices": [{"message": message, "finish_reason": "tool_calls"}]}).encode()
    (found,) = asked(200, body).finish.tool_calls
    assert json.loads(found["function"]["arguments"]) == {"city": "Омск"}
