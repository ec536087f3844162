"""The services' own clients talk to the sandbox as they do to the services."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gigachat
import openai
import pytest
from gigachat.exceptions import AuthenticationError, NotFoundError, RateLimitError

from llmproviders.sandbox import Sandbox

QUESTION = "Why is the sky blue?"
MESSAGES: list[Any] = [{"role": "user", "content": QUESTION}]


def gigachat_client(sandbox: Sandbox, **settings: Any) -> gigachat.GigaChat:
    """Return the official client of GigaChat, pointed at a sandbox."""
    arguments = sandbox.provider_arguments("gigachat")
    usual = {
        "base_url": arguments["base_url"],
        "auth_url": arguments["auth_url"],
        "credentials": arguments["api_key"],
        "model": "GigaChat-2",
        "verify_ssl_certs": False,
    }
    return gigachat.GigaChat(**{**usual, **settings})


@pytest.fixture
def giga(sandbox: Sandbox) -> Iterator[gigachat.GigaChat]:
    """Ask as the official client of GigaChat does."""
    with gigachat_client(sandbox) as client:
        yield client


@pytest.fixture
def ai(sandbox: Sandbox) -> Iterator[openai.OpenAI]:
    """Ask as the official client of OpenAI does."""
    arguments = sandbox.provider_arguments("openai")
    with openai.OpenAI(
        base_url=arguments["base_url"], api_key=arguments["api_key"], max_retries=0
    ) as client:
        yield client


class TestGigaChat:
    def test_same_text_streaming_and_not(self, giga: gigachat.GigaChat) -> None:
        """The official client reads the same text from a stream and from a whole reply."""
        whole = giga.chat(QUESTION).choices[0].message.content
        pieces = [chunk.choices[0].delta.content or "" for chunk in giga.stream(QUESTION)]
        assert "".join(pieces) == whole
        assert f"You asked: {QUESTION}" in whole
        assert len(pieces) > 10

    def test_finish_reason_and_usage(self, giga: gigachat.GigaChat) -> None:
        """It finds the finish reason and the usage in the last event."""
        last = list(giga.stream(QUESTION))[-1]
        assert last.choices[0].finish_reason == "stop"
        assert last.usage is not None
        assert last.usage.total_tokens > 0

    def test_one_token_for_many_calls(self, sandbox: Sandbox, giga: gigachat.GigaChat) -> None:
        """It asks for one token and uses it again."""
        for _ in range(3):
            giga.chat(QUESTION)
        assert sandbox.count("gigachat", "token") == 1

    def test_expired_token(self, sandbox: Sandbox, giga: gigachat.GigaChat) -> None:
        """It takes an expired token for what it is, and fetches another."""
        giga.chat(QUESTION)
        sandbox.expire_tokens()
        assert giga.chat(QUESTION).choices[0].message.content
        assert sandbox.count("gigachat", "token") == 2

    def test_function_call(self, giga: gigachat.GigaChat) -> None:
        """It reads a function call."""
        functions = [{"name": "weather", "parameters": {"type": "object", "properties": {}}}]
        messages = [{"role": "user", "content": "Call the tool"}]
        reply = giga.chat({"messages": messages, "functions": functions})
        call = reply.choices[0].message.function_call
        assert call is not None
        assert call.name == "weather"
        assert reply.choices[0].finish_reason == "function_call"

    def test_reasoning(self, giga: gigachat.GigaChat) -> None:
        """It reads what the model thought."""
        chunks = giga.stream("Think about it")
        assert any(chunk.choices[0].delta.reasoning_content for chunk in chunks)

    def test_other_calls(self, giga: gigachat.GigaChat) -> None:
        """It reads the models, the balance, token counts and embeddings."""
        assert giga.get_models().data[0].id_ == "GigaChat-2"
        assert giga.get_balance().balance[0].value > 0
        assert giga.tokens_count(["one two"])[0].tokens == 2
        assert giga.embeddings(["one"]).data[0].embedding

    def test_errors(self, sandbox: Sandbox, giga: gigachat.GigaChat) -> None:
        """It takes the errors for what they are."""
        with pytest.raises(NotFoundError, match="No such model"):
            giga.chat({"model": "GigaChat-0", "messages": MESSAGES})
        sandbox.fail("gigachat", status=429)
        with pytest.raises(RateLimitError):
            giga.chat(QUESTION)
        with (
            gigachat_client(sandbox, credentials="bm86a2V5") as stranger,
            pytest.raises(AuthenticationError),
        ):
            stranger.chat(QUESTION)


class TestOpenAI:
    def test_same_text_streaming_and_not(self, ai: openai.OpenAI) -> None:
        """The official client reads the same text from a stream and from a whole reply."""
        ask = ai.chat.completions.create
        whole = ask(model="gpt-4o", messages=MESSAGES).choices[0].message.content
        stream = ask(model="gpt-4o", messages=MESSAGES, stream=True)
        pieces = [chunk.choices[0].delta.content or "" for chunk in stream]
        assert "".join(pieces) == whole
        assert f"You asked: {QUESTION}" in (whole or "")

    def test_usage(self, ai: openai.OpenAI) -> None:
        """It finds the usage in the event that has no choices."""
        stream = ai.chat.completions.create(
            model="gpt-4o",
            messages=MESSAGES,
            stream=True,
            stream_options={"include_usage": True},
        )
        last = list(stream)[-1]
        assert last.choices == []
        assert last.usage is not None
        assert last.usage.total_tokens > 0

    def test_tool_call(self, ai: openai.OpenAI) -> None:
        """It reads a tool call, whole and from a stream."""
        parameters = {"type": "object", "properties": {"city": {"type": "string"}}}
        tools: list[Any] = [
            {"type": "function", "function": {"name": "weather", "parameters": parameters}}
        ]
        messages: list[Any] = [{"role": "user", "content": "Call the tool"}]
        asked: dict[str, Any] = {"model": "gpt-4o", "messages": messages, "tools": tools}
        (call,) = ai.chat.completions.create(**asked).choices[0].message.tool_calls or []
        with ai.chat.completions.stream(**asked) as stream:
            final = stream.get_final_completion()
        (streamed,) = final.choices[0].message.tool_calls or []
        assert call.function.arguments == streamed.function.arguments == '{"city": "sandbox"}'
        assert streamed.function.name == "weather"

    def test_models(self, ai: openai.OpenAI) -> None:
        """It reads the models."""
        assert "gpt-4o" in [model.id for model in ai.models.list()]

    def test_errors(self, sandbox: Sandbox, ai: openai.OpenAI) -> None:
        """It takes the errors for what they are."""
        ask = ai.chat.completions.create
        with pytest.raises(openai.NotFoundError, match="does not exist"):
            ask(model="unheard-of", messages=MESSAGES)
        sandbox.fail("openai", status=429)
        with pytest.raises(openai.RateLimitError):
            ask(model="gpt-4o", messages=MESSAGES)
        sandbox.fail("openai", status=503)
        with pytest.raises(openai.InternalServerError):
            ask(model="gpt-4o", messages=MESSAGES)
        with pytest.raises(openai.AuthenticationError):
            ai.with_options(api_key="sk-other").models.list()

    def test_error_inside_a_stream(self, sandbox: Sandbox, ai: openai.OpenAI) -> None:
        """An error inside a stream reaches it as an error."""
        sandbox.fail(
            "openai",
            headers={"Content-Type": "text/event-stream"},
            body='data: {"error": {"message": "overloaded"}}\n\n',
        )
        stream = ai.chat.completions.create(model="gpt-4o", messages=MESSAGES, stream=True)
        with pytest.raises(openai.APIError, match="overloaded"):
            list(stream)
