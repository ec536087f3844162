"""Wrong arguments of a call: the message says what to pass instead, and nothing is sent."""

from __future__ import annotations

from dataclasses import make_dataclass
from pathlib import Path
from typing import Any

import pytest

from llmproviders import (
    FailoverClient,
    InvalidRequestError,
    LLMError,
    OpenAICompatible,
    SchemaError,
)
from llmproviders.testing import RawServer, ScriptedProvider, http_response, keep_alive

REPLY = ScriptedProvider(["Yes."]).complete("Hi")
ORDER = make_dataclass("Order", ["count"])(3)
AROUND = {"name": "o", "schema": {"type": "object"}}


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"response_format": dict[str, int]}, "pass a type as schema="),
        ({"response_format": int}, "pass a type as schema="),
        ({"schema": {"type": "json_schema", "json_schema": AROUND}}, "pass the inner one"),
        ({"schema": AROUND}, "pass the inner one"),
        ({"schema": ORDER}, "pass its type, Order"),
        ({"max_tokens": "200"}, "max_tokens must be a whole number, not '200'"),
        ({"seed": 1.5}, "seed must be a whole number, not 1.5"),
        ({"seed": 2**70}, "seed must be a whole number of 64 bits"),
        ({"stop": [1]}, "stop must be a string or a list of strings, not [1]"),
        ({"attach": "https://example.com/cat.png"}, "attach takes the path of a file"),
        ({"attach": [Path("https://example.com/cat.png")]}, "goes into a part of a message"),
    ],
)
def test_parameters(params: dict[str, Any], words: str) -> None:
    """A parameter of a wrong kind is told with the right one."""
    provider = ScriptedProvider(["Yes."])
    with pytest.raises(InvalidRequestError) as caught:
        provider.complete("Hi", **params)
    assert words in str(caught.value)
    assert provider.requests == []


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ([{"role": "user", "content": "Hi"}, REPLY], "message 1 is Completion, .* its .message"),
        ([REPLY.finish_reason], "use its .message"),
        (REPLY, "use its .message, in a list"),
        ({"role": "user", "content": "Hi"}, "put it in a list"),
        (["Hi"], "use {'role': 'user'"),
    ],
)
def test_prompts(prompt: Any, words: str) -> None:
    """An object of an earlier call in a history is told with what to put there."""
    with pytest.raises(InvalidRequestError, match=words):
        ScriptedProvider(["Yes."]).complete(prompt)


def test_broken_json() -> None:
    """JSON with a slip is told as such, with the place."""
    with pytest.raises(SchemaError, match=r"no JSON value in it: .* at position"):
        ScriptedProvider(['{"wrong": "JSON",}']).complete("Hi", schema={"type": "object"})


def test_an_address_that_is_too_long() -> None:
    """A ``base_url`` that has the path of the chat is told without it, if nothing is there."""
    with (
        RawServer(keep_alive(http_response(404))) as server,
        OpenAICompatible(base_url=f"{server.url}/v1/chat/completions", model="m") as provider,
        pytest.raises(LLMError, match=r"base_url is .*; leave out /chat/completions"),
    ):
        provider.complete("Hi")


def test_the_reason_of_another_try(caplog: pytest.LogCaptureFixture) -> None:
    """The line about another try says why the connection failed."""
    provider = OpenAICompatible(base_url="http://127.0.0.1:9/v1", model="m")
    with (
        caplog.at_level("INFO", logger="llmproviders"),
        FailoverClient([provider], attempts=2, wait=lambda _: 0.0) as client,
        pytest.raises(LLMError),
    ):
        client.complete("Hi")
    assert any("127.0.0.1:9" in line for line in caplog.messages)
