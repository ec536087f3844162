"""DeepSeek: thoughts that go back with the calls, and what is refused while it thinks."""

from __future__ import annotations

import json
from typing import Any

import pytest

from llmproviders import (
    AuthenticationError,
    DeepSeek,
    InvalidRequestError,
    LLMError,
    MissingAuthError,
    ModelNotFoundError,
    OpenAICompatible,
    QuotaExceededError,
    RateLimitError,
    RefusedError,
    ServerError,
    UnsupportedError,
    Usage,
)
from llmproviders.sandbox import Sandbox
from tests.conftest import RawServerFactory
from tests.support.calls import Canned, Sender, with_sender
from tests.support.golden import goldens
from tests.support.http_bytes import http_response
from tests.support.promise import read

SHORT = goldens("deepseek", name="short")[0]
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
CALL = {"id": "1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
PLAIN = {"extra_body": {"thinking": {"type": "disabled"}}}


def sent_by(prompt: Any = "Hi", **params: Any) -> dict[str, Any]:
    """The body that is sent."""
    sender = Sender(Canned(SHORT.body))
    error = read(with_sender(DeepSeek, sender, api_key="k").stream(prompt, **params)).error
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

    @pytest.mark.parametrize("thoughts", ["Hm.", None])
    def test_every_turn_with_calls_has_its_thoughts(self, thoughts: str | None) -> None:
        """They go back in every later request, even if there were none."""
        turn = {"role": "assistant", "content": "", "tool_calls": [CALL]}
        if thoughts is not None:
            turn["reasoning_content"] = thoughts
        messages = [
            {"role": "user", "content": "Rain?"},
            turn,
            {"role": "tool", "tool_call_id": "1", "content": "no"},
            {"role": "assistant", "content": "No."},
            {"role": "user", "content": "Sure?"},
        ]
        told = sent_by(messages)["messages"]
        assert told[1]["reasoning_content"] == (thoughts or "")
        assert "reasoning_content" not in told[3]

    @pytest.mark.parametrize(
        ("params", "words"),
        [
            ({"tools": [TOOL], "tool_choice": "required"}, "while it thinks"),
            ({"tools": [TOOL], "tool_choice": TOOL, "extra_body": {"thinking": {}}}, "thinks"),
            ({"response_format": {"type": "json_schema", "json_schema": {}}}, "json_schema"),
        ],
    )
    def test_what_it_cannot_do_is_told_before_sending(
        self, params: dict[str, Any], words: str
    ) -> None:
        """A demanded call while thinking, and a schema."""
        with pytest.raises(UnsupportedError, match=words):
            sent_by(**params)

    def test_a_call_can_be_demanded_without_thinking(self) -> None:
        """With thinking switched off, any choice is sent."""
        body = sent_by(tools=[TOOL], tool_choice="required", **PLAIN)
        assert (body["tool_choice"], body["thinking"]) == ("required", {"type": "disabled"})

    @pytest.mark.parametrize(
        ("effort", "sent"),
        [
            ("none", {"thinking": {"type": "disabled"}}),
            ("minimal", {"reasoning_effort": "low"}),
            ("low", {"reasoning_effort": "low"}),
            ("medium", {"reasoning_effort": "high"}),
            ("high", {"reasoning_effort": "high"}),
            ("xhigh", {"reasoning_effort": "max"}),
            ("max", {"reasoning_effort": "max"}),
        ],
    )
    def test_an_effort_by_any_services_word(self, effort: str, sent: dict[str, Any]) -> None:
        """One word serves every provider of a list: the service's own three, or no thinking."""
        body = sent_by(reasoning_effort=effort)
        assert {n: body[n] for n in ("reasoning_effort", "thinking") if n in body} == sent

    def test_a_call_can_be_demanded_with_no_effort(self) -> None:
        """An effort of none is no thinking, so that any choice is sent."""
        body = sent_by(tools=[TOOL], tool_choice="required", reasoning_effort="none")
        assert (body["tool_choice"], body["thinking"]) == ("required", {"type": "disabled"})

    def test_a_missing_key(self) -> None:
        """The call names the variable, and sends nothing."""
        provider = with_sender(DeepSeek, sender := Sender(Canned()))
        with pytest.raises(MissingAuthError, match="DEEPSEEK_API_KEY"):
            provider.complete("Hi")
        assert sender.calls == []


def test_an_empty_balance(raw_server: RawServerFactory) -> None:
    """A 402 is a spent quota, which is not asked again."""
    body = b'{"error": {"message": "Insufficient Balance", "code": "invalid_request_error"}}'
    server = raw_server(http_response(402, {"Content-Type": "application/json"}, body))
    with DeepSeek(base_url=server.url, api_key="k") as provider:
        error = read(provider.stream("Hi")).error
    assert isinstance(error, QuotaExceededError)
    assert not error.retryable


class TestSandbox:
    def test_a_turn_with_a_tool(self, sandbox: Sandbox) -> None:
        """A call, its result and the answer, whole and as a stream, with thoughts before."""
        with DeepSeek(**sandbox.provider_arguments("deepseek")) as provider:
            messages: list[Any] = [{"role": "user", "content": "think, then call the tool"}]
            first = provider.complete(messages, tools=[TOOL])
            assert first.message["reasoning_content"]
            call = first.tool_calls[0]
            result = {"role": "tool", "tool_call_id": call["id"], "content": "no rain"}
            messages += [first.message, result]
            assert str(provider.complete(messages, tools=[TOOL]))
            whole = read(provider.create_generator(None, messages, stream=False))
            assert whole.text

    @pytest.mark.parametrize(
        "body",
        [
            {"tool_choice": "required"},
            {"reasoning_effort": "medium"},
            {"response_format": {"type": "json_schema"}},
            {"response_format": {"type": "json_object"}},
            {
                "messages": [
                    {"role": "user", "content": "Rain?"},
                    {"role": "assistant", "content": "", "tool_calls": [CALL]},
                    {"role": "tool", "tool_call_id": "1", "content": "no"},
                ]
            },
        ],
    )
    def test_it_refuses_what_the_service_refuses(
        self, sandbox: Sandbox, body: dict[str, Any]
    ) -> None:
        """A demanded call, a schema, json_object without the word, a turn without thoughts."""
        with OpenAICompatible(**sandbox.provider_arguments("deepseek")) as provider:
            error = read(provider.stream("Hi", extra_body=body)).error
        assert isinstance(error, InvalidRequestError)
        assert error.status_code == 400

    def test_whatever_effort_is_asked_for(self, sandbox: Sandbox) -> None:
        """Each word of other services gets a reply."""
        with DeepSeek(**sandbox.provider_arguments("deepseek")) as provider:
            for effort in ("none", "minimal", "medium", "xhigh"):
                assert str(provider.complete("Hi", reasoning_effort=effort))

    @pytest.mark.parametrize("model", ["deepseek-chat", "deepseek-reasoner"])
    def test_a_model_that_has_ended(self, sandbox: Sandbox, model: str) -> None:
        """The service's 400 for it is a missing model."""
        with DeepSeek(**sandbox.provider_arguments("deepseek")) as provider:
            error = read(provider.stream("Hi", model=model)).error
        assert isinstance(error, ModelNotFoundError)
        assert "Model Not Exist" in str(error)


@pytest.mark.parametrize(
    ("status", "words", "kind"),
    [
        (400, "Content Exists Risk", RefusedError),
        (400, "messages[0]: unknown variant `image_url`, expected `text`", UnsupportedError),
        (400, "This model's maximum context length is 131072 tokens.", InvalidRequestError),
        (401, "Authentication Fails (no such user)", AuthenticationError),
        (402, "Insufficient Balance", QuotaExceededError),
        (429, "Rate limit reached", RateLimitError),
        (503, "Server overloaded", ServerError),
    ],
)
def test_errors(
    raw_server: RawServerFactory, status: int, words: str, kind: type[LLMError]
) -> None:
    """Each of its refusals has its class, with the service's words."""
    body = json.dumps({"error": {"message": words, "type": "x", "code": "x"}}).encode()
    server = raw_server(http_response(status, {"Content-Type": "application/json"}, body))
    with DeepSeek(base_url=server.url, api_key="k") as provider:
        error = read(provider.stream("Hi")).error
    assert type(error) is kind
    assert words in str(error)


def test_waiting_and_what_came_from_the_cache() -> None:
    """Comments while it waits are no events; the cache and the thoughts are counted."""
    usage = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
    usage_told = {
        **usage,
        "prompt_cache_hit_tokens": 4,
        "prompt_cache_miss_tokens": 6,
        "completion_tokens_details": {"reasoning_tokens": 3},
    }
    events: list[dict[str, Any]] = [
        {"choices": [{"index": 0, "delta": {"content": None, "reasoning_content": "Hm."}}]},
        {"choices": [{"index": 0, "delta": {"content": "Hi"}}]},
        {
            "choices": [{"index": 0, "delta": {"content": ""}, "finish_reason": "stop"}],
            "usage": usage_told,
        },
    ]
    wait = b": keep-alive\n\n"
    body = b"".join(wait + b"data: " + json.dumps(event).encode() + b"\n\n" for event in events)
    sender = Sender(Canned(wait + body + wait + b"data: [DONE]\n\n"))
    finish = read(with_sender(DeepSeek, sender, api_key="k").stream("Hi")).finish
    assert finish is not None
    assert finish.reasoning == "Hm."
    assert finish.usage == Usage(10, 5, 15, cached_tokens=4, reasoning_tokens=3)
