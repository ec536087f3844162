"""What is asked is done, dropped because it asks for nothing, or refused before sending."""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote_plus

import pytest

from llmproviders import FailoverClient, UnsupportedError
from llmproviders.sandbox import Sandbox
from llmproviders.testing import ScriptedProvider
from tests.support.served import SERVED

GUESTS = ("chatglm", "chatgptt", "flowgpt")

WEATHER = {
    "name": "weather",
    "description": "Weather of a city",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
}
TOOLS = [{"type": "function", "function": WEATHER}]
NAMED = {"type": "function", "function": {"name": "weather"}}
SCHEMA = {"type": "json_schema", "json_schema": {"name": "it", "schema": {"type": "object"}}}
PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAEC"}}
LOOK = [{"role": "user", "content": [{"type": "text", "text": "What is this?"}, PICTURE]}]

REFUSED_BY_GUESTS: dict[str, dict[str, Any]] = {
    "tools": {"tools": TOOLS},
    "tools that may not be called": {"tools": TOOLS, "tool_choice": "none"},
    "required": {"tools": TOOLS, "tool_choice": "required"},
    "required alone": {"tool_choice": "required"},
    "named": {"tools": TOOLS, "tool_choice": NAMED},
    "functions": {"functions": [WEATHER]},
    "function_call": {"function_call": {"name": "weather"}},
    "json_object": {"response_format": {"type": "json_object"}},
    "json_schema": {"response_format": SCHEMA},
    "an image": {"prompt": LOOK},
    "a file": {"attach": "picture.png"},
    "files": {"attach": ["picture.png", "page.pdf"]},
}

ASKS_FOR_NOTHING: dict[str, dict[str, Any]] = {
    "no tools": {"tools": []},
    "tools of None": {"tools": None, "functions": None, "response_format": None},
    "auto": {"tool_choice": "auto", "function_call": "auto"},
    "none": {"tool_choice": "none", "function_call": "none", "parallel_tool_calls": False},
    "text": {"response_format": {"type": "text"}},
    "no file": {"attach": []},
    "two system messages": {
        "prompt": [
            {"role": "system", "content": "Be brief."},
            {"role": "developer", "content": "Be kind."},
            {"role": "user", "content": "Hi"},
        ]
    },
}


@pytest.mark.parametrize("asked", REFUSED_BY_GUESTS)
@pytest.mark.parametrize("service", GUESTS)
def test_guests_refuse_before_sending(sandbox: Sandbox, service: str, asked: str) -> None:
    """What would change the reply and cannot be done is ``UnsupportedError``; nothing is sent."""
    question = {"prompt": "Hi", **REFUSED_BY_GUESTS[asked]}
    with SERVED[service](**sandbox.provider_arguments(service)) as provider:
        with pytest.raises(UnsupportedError, match="ask another provider") as caught:
            provider.complete(**question)
        with pytest.raises(UnsupportedError):
            list(provider.stream(**question))
    assert sandbox.requests == []
    assert caught.value.provider == provider.name
    (attempt,) = caught.value.attempts
    assert (attempt.error, attempt.waited, attempt.chunks) == (caught.value, 0, 0)


@pytest.mark.parametrize("asked", ASKS_FOR_NOTHING)
@pytest.mark.parametrize("service", GUESTS)
def test_guests_drop_what_asks_for_nothing(sandbox: Sandbox, service: str, asked: str) -> None:
    """What asks for nothing is dropped; a guest answers all the same."""
    question = {"prompt": "Hi", **ASKS_FOR_NOTHING[asked]}
    with SERVED[service](**sandbox.provider_arguments(service)) as provider:
        assert provider.complete(**question).text
    assert sandbox.count(service, "chat") == 1
    for name in ("tools", "functions", "tool_choice", "function_call", "response_format"):
        assert name not in str(sandbox.requests[-1].body)


@pytest.mark.parametrize("service", GUESTS)
def test_guests_get_the_turns_of_tools_as_text(sandbox: Sandbox, service: str) -> None:
    """Calls and results in the history are written out for a service that knows no tools."""
    call = {"id": "7", "type": "function", "function": {"name": "weather", "arguments": '"Omsk"'}}
    history = [
        {"role": "user", "content": "Rain?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "7", "content": "yes, drizzle"},
        {"role": "user", "content": "So?"},
    ]
    with SERVED[service](**sandbox.provider_arguments(service)) as provider:
        assert provider.complete(history).text
    said = unquote_plus(sandbox.requests[-1].body.decode())
    assert "Called weather" in said
    assert "drizzle" in said
    assert "tool_calls" not in said


@pytest.mark.parametrize("asked", ["tools", "json_schema", "an image"])
def test_a_client_passes_over_who_cannot(sandbox: Sandbox, asked: str) -> None:
    """The next provider answers at once; the one passed over has no cooldown."""
    able = ScriptedProvider(["yes"], name="able")
    question = {"prompt": "Hi", **REFUSED_BY_GUESTS[asked]}
    with SERVED["chatglm"](**sandbox.provider_arguments("chatglm")) as guest:
        client = FailoverClient([guest, able])
        reply = client.complete(**question)
        assert [type(attempt.error) for attempt in reply.attempts] == [
            UnsupportedError,
            type(None),
        ]
        assert client.complete("Hi").provider == guest.name


def test_third_parties_say_what_they_can() -> None:
    """A provider that says nothing about tools, formats and images is not asked for them."""

    class Plain(ScriptedProvider):
        supports_tools = supports_schema = supports_images = False

    plain = Plain(["Hi"])
    for asked in REFUSED_BY_GUESTS.values():
        with pytest.raises(UnsupportedError):
            plain.complete(**{"prompt": "Hi", **asked})
    assert plain.requests == []
