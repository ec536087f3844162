"""Wrong arguments of a call: the message says what to pass instead, and nothing is sent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from llmproviders import InvalidRequestError, SchemaError
from llmproviders.testing import ScriptedProvider

REPLY = ScriptedProvider(["Yes."]).complete("Hi")
AROUND = {"name": "o", "schema": {"type": "object"}}


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"response_format": dict[str, int]}, "pass a type as schema="),
        ({"response_format": int}, "pass a type as schema="),
        ({"schema": {"type": "json_schema", "json_schema": AROUND}}, "pass the inner one"),
        ({"schema": AROUND}, "pass the inner one"),
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
