"""A real llama.cpp server: what this client sends it takes, and what it sends is understood."""

from __future__ import annotations

import json
import socket
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from llmproviders import (
    AuthenticationError,
    ConnectionFailed,
    FailoverClient,
    InvalidRequestError,
    OpenAICompatible,
    StreamInterrupted,
    UnsupportedError,
)
from llmproviders.sandbox import Sandbox
from llmproviders.testing import ScriptedProvider
from tests.conftest import RawServerFactory
from tests.real.conftest import Llama
from tests.support.histories import TOOL, WRITERS, written_by
from tests.support.http_bytes import http_response
from tests.support.promise import read
from tests.support.rawserver import Connection

JSON = {"Content-Type": "application/json"}
LONG: dict[str, Any] = {"max_tokens": 900, "extra_body": {"ignore_eos": True}}
"""Words without end, of which there are too many to be on the way at once."""

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Whether it rains.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "enum": ["Omsk", "Pskov"]}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
MOOD = {
    "type": "object",
    "properties": {"mood": {"enum": ["good", "bad"]}, "sure": {"type": "boolean"}},
    "required": ["mood", "sure"],
    "additionalProperties": False,
}


@pytest.fixture
def provider(llama: Llama) -> Any:
    """A provider that asks the server."""
    with OpenAICompatible(base_url=llama.url) as made:
        yield made


def test_stream_and_whole_say_the_same(provider: OpenAICompatible) -> None:
    """With one seed, a stream and a whole reply have the same text, end and count of tokens."""
    params: dict[str, Any] = {"temperature": 0, "max_tokens": 20, "seed": 1}
    stream = read(provider.stream("Why is the sky blue?", **params))
    whole = read(provider.create_generator(None, "Why is the sky blue?", stream=False, **params))
    assert stream.text == whole.text != ""
    assert len(stream.pieces) > len(whole.pieces) == 1
    for finish in (stream.finish, whole.finish):
        assert finish.model == "tiny"
        assert finish.usage.prompt_tokens > 0
        assert finish.usage.total_tokens == (
            finish.usage.prompt_tokens + finish.usage.completion_tokens
        )
    assert stream.finish.usage.completion_tokens == whole.finish.usage.completion_tokens


def test_the_end_that_max_tokens_makes(provider: OpenAICompatible) -> None:
    """It is told as ``length``, with as many tokens as either name of the limit allowed."""
    for name in ("max_tokens", "max_completion_tokens"):
        params: dict[str, Any] = {name: 5, "extra_body": {"ignore_eos": True}}
        finish = provider.complete("Why?", **params).finish_reason
        assert finish.reason == "length"
        assert finish.usage is not None
        assert finish.usage.completion_tokens == 5


def test_stop_ends_before_its_text(provider: OpenAICompatible) -> None:
    """A reply ends before a stop string, with ``stop``."""
    params: dict[str, Any] = {"temperature": 0, "seed": 1}
    text = str(provider.complete("Why?", **params, **{**LONG, "max_tokens": 40}))
    words = text.split()
    word = next(w for w in words[3:] if w not in words[:3] and len(w) > 1)
    reply = provider.complete("Why?", stop=[word], **params, **LONG)
    assert reply.finish_reason.reason == "stop"
    assert str(reply) == text[: text.index(word)]


def test_a_schema_is_satisfied(provider: OpenAICompatible) -> None:
    """A response_format makes the reply JSON of that shape, whatever the model would say."""
    form = {"type": "json_schema", "json_schema": {"name": "m", "strict": True, "schema": MOOD}}
    for seed in range(3):
        reply = json.loads(str(provider.complete("Hi", response_format=form, seed=seed)))
        assert reply["mood"] in ("good", "bad")
        assert type(reply["sure"]) is bool


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("offer", ["tools", "functions"])
def test_a_call_and_its_result(provider: OpenAICompatible, offer: str, stream: bool) -> None:
    """A demanded call is parsed, and goes back in the history with its result."""
    tools = {"tools": [WEATHER]} if offer == "tools" else {"functions": [WEATHER["function"]]}
    messages: list[Any] = [{"role": "user", "content": "Does it rain in Omsk?"}]
    # The model is random: it is led to the mark with which a call begins.
    likely = {"logit_bias": {"<tool_call>\n": 100}}
    asked = provider.create_generator(
        *(None, messages), stream=stream, tool_choice="required", max_tokens=200, seed=1,
        extra_body=likely, **tools,
    )  # fmt: skip
    finish = read(asked).finish
    first = finish.tool_calls[0]
    assert first["function"]["name"] == "weather"
    assert json.loads(first["function"]["arguments"])["city"] in ("Omsk", "Pskov")
    turn = {**finish.message, "tool_calls": [first]}
    result = {"role": "tool", "tool_call_id": first["id"], "content": "no"}
    # Left to itself, the random model may or may not call again.
    told = [*messages, turn, result]
    again = provider.complete(told, max_tokens=9, tool_choice="none", **tools)
    assert again.usage is not None


def test_a_turn_of_gigachat_is_taken(provider: OpenAICompatible) -> None:
    """A history in GigaChat's shape goes to this server in one round trip."""
    call = {"name": "weather", "arguments": {"city": "Omsk"}}
    messages: list[Any] = [
        {"role": "user", "content": "Rain?"},
        {"role": "assistant", "content": "", "function_call": call, "functions_state_id": "7"},
        {"role": "function", "name": "weather", "content": '{"rain": false}'},
    ]
    offered: dict[str, Any] = {"functions": [WEATHER["function"]], "function_call": "none"}
    reading = read(provider.stream(messages, max_tokens=9, **offered))
    assert reading.finish.usage is not None


@pytest.mark.parametrize("writer", WRITERS)
def test_turns_of_every_writer_are_taken(
    provider: OpenAICompatible, sandbox: Sandbox, writer: str
) -> None:
    """Two calls in one turn and their results go to this server in one round trip."""
    history = written_by(sandbox, writer, 2, "Let me see.")
    with OpenAICompatible(base_url=provider.base_url, max_concurrency=1) as asked:
        reply = asked.complete(history, tools=[TOOL], tool_choice="none", max_tokens=9)
    assert reply.usage is not None
    assert not asked._refused


def test_a_prompt_that_is_too_long(provider: OpenAICompatible) -> None:
    """It is the caller's error, in the server's words, and is not tried again."""
    with pytest.raises(InvalidRequestError, match=r"shorten it.*context size") as caught:
        provider.complete("sky " * 3000)
    assert caught.value.status_code == 400
    assert not caught.value.retryable


def test_an_image_for_a_model_that_reads_text(provider: OpenAICompatible, tmp_path: Path) -> None:
    """The server's 500 is told as what it means, and the next provider is asked."""
    picture = tmp_path / "a.png"
    picture.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(20))
    with pytest.raises(UnsupportedError, match="image input is not supported"):
        provider.complete("What is this?", attach=str(picture))


def test_models(provider: OpenAICompatible) -> None:
    """The server lists its model, and answers for it whatever name it is asked by."""
    assert provider.list_models() == ["tiny"]
    assert provider.complete("Hi", model="no-such-model", max_tokens=9).model == "tiny"


def test_vectors_from_a_server_that_makes_none(provider: OpenAICompatible) -> None:
    """The error has the server's own words."""
    with pytest.raises(Exception, match="does not support embeddings"):
        provider.embed("sky", model="tiny")


def test_sixteen_threads(provider: OpenAICompatible) -> None:
    """One provider serves sixteen threads; each gets the reply to its own prompt, whole."""
    prompts = ["sky " * (number + 1) for number in range(16)]
    with ThreadPoolExecutor(16) as threads:
        replies = list(
            threads.map(lambda p: read(provider.stream(p, temperature=0, max_tokens=20)), prompts)
        )
    assert all(reply.error is None and reply.finish is not None for reply in replies)
    # Each prompt is a word longer than the one before, and the server counts its tokens.
    counts = [reply.finish.usage.prompt_tokens for reply in replies]
    word = counts[1] - counts[0]
    assert word > 0
    assert counts == [counts[0] + word * number for number in range(16)]


def test_an_object_that_satisfies_a_schema(provider: OpenAICompatible) -> None:
    """``schema=`` gives the value itself, by the server's own grammar."""
    for seed in range(2):
        mood = provider.complete("Hi", schema=MOOD, seed=seed).data
        assert mood["mood"] in ("good", "bad")
        assert type(mood["sure"]) is bool


def test_azures_shape(llama: Llama, raw_server: RawServerFactory) -> None:
    """A deployment's address with a version, and a key in a header of its own, reach the server."""

    def azure(connection: Connection) -> None:
        """Answer as Azure's gateway does, with the server's replies."""
        request = connection.read_request()
        path, _, query = request.target.partition("?")
        known = path == "/openai/deployments/tiny/chat/completions" and "api-version=" in query
        if request.header("api-key") != "azure-key" or request.header("Authorization"):
            refusal = b'{"error": {"code": "401", "message": "Access denied"}}'
            connection.run(http_response(401, JSON, refusal))
        elif not known:
            refusal = b'{"error": {"code": "404", "message": "Resource not found"}}'
            connection.run(http_response(404, JSON, refusal))
        else:
            body = request.body
            head = "POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n"
            head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
            with socket.create_connection(("127.0.0.1", llama.port)) as upstream:
                upstream.sendall(head.encode() + body)
                connection.relay(upstream)

    origin = raw_server(azure).url
    base_url = f"{origin}/openai/deployments/tiny?api-version=2024-10-21"
    with OpenAICompatible(base_url=base_url, headers={"api-key": "azure-key"}) as provider:
        stream = read(provider.stream("Why?", max_tokens=9))
        assert stream.text
        assert stream.finish.usage.completion_tokens > 0
        assert str(provider.complete("Why?", max_tokens=9, stream=False))
    with OpenAICompatible(base_url=base_url, headers={"api-key": "other"}) as stranger:
        assert isinstance(read(stranger.stream("Why?")).error, AuthenticationError)


def test_a_client_that_hangs_up(provider: OpenAICompatible) -> None:
    """The server is free for the next ones at once: none of three dropped streams holds a slot."""
    for _ in range(3):
        with closing(provider.stream("Why?", **LONG)) as stream:
            assert next(stream)
    assert provider.complete("Hi", max_tokens=9, deadline=20).finish_reason is not None


def test_a_server_that_is_killed_and_comes_back(own_llama: Llama) -> None:
    """A reply that is cut says so with its text; the next provider helps, then the server again."""
    with OpenAICompatible(base_url=own_llama.url, name="llama") as provider:
        stream = provider.stream("Why?", **LONG)
        text = next(stream)
        own_llama.kill()
        with pytest.raises(StreamInterrupted) as caught:
            for piece in stream:
                text += piece
        assert caught.value.partial_text == text
        with pytest.raises(ConnectionFailed, match=str(own_llama.port)):
            provider.complete("Why?")
        with pytest.raises(ConnectionFailed, match="Connection refused"):
            provider.complete("Why?", stream=False)
        helped = FailoverClient([provider, ScriptedProvider(["Because."])], attempts=1)
        assert str(helped.complete("Why?")) == "Because."
        own_llama.start()
        assert str(provider.complete("Why?", max_tokens=9))
