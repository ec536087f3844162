"""Every provider by everything that can be asked: what is sent, or that nothing is.

The sandbox plays the services, and refuses what they refuse. A provider that is new to the
registry comes under the rules of its class attributes until it has a column of its own.
"""

from __future__ import annotations

import json
from base64 import b64decode
from typing import Any
from urllib.parse import unquote_plus

import pytest
from gigachat.models.chat import Chat
from openai.types.chat import ChatCompletionMessageParam
from pydantic import TypeAdapter

from llmproviders import FailoverClient, UnsupportedError
from llmproviders.providers import REGISTRY
from llmproviders.sandbox import Sandbox
from llmproviders.testing import ScriptedProvider
from tests.support.histories import QUESTION, TOOL, WEATHER, WRITERS, written_by
from tests.support.served import SERVED

TIME = {"name": "time", "parameters": {"type": "object", "properties": {}}}
CLOCK = {"type": "function", "function": TIME}
NAMED = {"type": "function", "function": {"name": "weather"}}
SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
STRICT = {"name": "N", "schema": SCHEMA, "strict": True}
PNG = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}
SYSTEM = [{"role": "system", "content": "Коротко."}, {"role": "system", "content": "По-русски."}]

ASKED: dict[str, dict[str, Any]] = {
    "tools": {"tools": [TOOL]},
    "tools, auto": {"tools": [TOOL], "tool_choice": "auto"},
    "tools, none": {"tools": [TOOL], "tool_choice": "none"},
    "one tool, required": {"tools": [TOOL], "tool_choice": "required"},
    "two tools, required": {"tools": [TOOL, CLOCK], "tool_choice": "required"},
    "tools, named": {"tools": [TOOL, CLOCK], "tool_choice": NAMED},
    "functions": {"functions": [WEATHER]},
    "a function by name": {"functions": [WEATHER], "function_call": {"name": "weather"}},
    "json_object": {
        "prompt": [{"role": "user", "content": "JSON?"}],
        "response_format": {"type": "json_object"},
    },
    "json_schema": {"response_format": {"type": "json_schema", "json_schema": STRICT}},
    "text": {"response_format": {"type": "text"}},
    "no tools": {"tools": [], "tool_choice": "auto", "response_format": None, "attach": []},
    "schema": {"schema": SCHEMA, "prompt": "JSON?"},
    "an image": {
        "prompt": [{"role": "user", "content": [{"type": "text", "text": "Что это?"}, PNG]}]
    },
    "two system messages": {"prompt": [*SYSTEM, QUESTION]},
    "a system message in the middle": {"prompt": [QUESTION, SYSTEM[0], QUESTION]},
}

WORDS = {
    "json_object": ["JSON?"],
    "schema": ["JSON?", "integer"],
    "an image": ["Что это?"],
    "two system messages": ["Коротко.", "По-русски.", "дождь"],
    "a system message in the middle": ["Коротко.", "дождь"],
}
"""What has to stand in what is sent, wherever it is."""

NOTHING = UnsupportedError
"""In a cell: it is refused, and nothing is sent."""

PLAIN: dict[str, Any] = {}
"""In a cell: what is sent is the same as where nothing had been asked for."""


def _picture(parts: list[Any]) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": parts}]}


UNCHANGED = ("tools", "tools, auto", "tools, none", "one tool, required", "two tools, required")

OPENAI: dict[str, Any] = {
    **{name: ASKED[name] for name in (*UNCHANGED, "tools, named", "json_schema", "text")},
    "functions": {"tools": [TOOL]},
    "a function by name": {"tools": [TOOL], "tool_choice": NAMED},
    "json_object": {
        "messages": [{"role": "user", "content": "JSON?"}],
        "response_format": {"type": "json_object"},
    },
    "no tools": PLAIN,
    "schema": {
        "messages": [{"role": "user", "content": "JSON?"}],
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "reply", "schema": SCHEMA},
        },
    },
    "an image": _picture([{"type": "text", "text": "Что это?"}, PNG]),
    "two system messages": {"messages": [*SYSTEM, QUESTION]},
    "a system message in the middle": {"messages": [QUESTION, SYSTEM[0], QUESTION]},
}

# No demanded call while it thinks; a schema goes into the prompt.
DEEPSEEK = {
    **OPENAI,
    "one tool, required": NOTHING,
    "two tools, required": NOTHING,
    "tools, named": NOTHING,
    "a function by name": NOTHING,
    "json_schema": NOTHING,
    "schema": ...,
}

GLM = {
    **DEEPSEEK,
    "tools": {"tools": [TOOL], "tool_stream": True},
    "tools, auto": {"tools": [TOOL], "tool_stream": True},
    "tools, none": PLAIN,
    "functions": {"tools": [TOOL], "tool_stream": True},
}

GIGACHAT: dict[str, Any] = {
    "tools": {"functions": [WEATHER], "function_call": "auto"},
    "tools, auto": {"functions": [WEATHER], "function_call": "auto"},
    "tools, none": {"functions": [WEATHER], "function_call": "none"},
    "one tool, required": {"functions": [WEATHER], "function_call": {"name": "weather"}},
    "two tools, required": NOTHING,
    "tools, named": {"functions": [WEATHER, TIME], "function_call": {"name": "weather"}},
    "functions": {"functions": [WEATHER], "function_call": "auto"},
    "a function by name": {"functions": [WEATHER], "function_call": {"name": "weather"}},
    "json_object": NOTHING,
    "json_schema": {"response_format": {"type": "json_schema", "schema": SCHEMA, "strict": True}},
    "text": PLAIN,
    "no tools": PLAIN,
    "schema": ...,
    "an image": ...,
    "two system messages": NOTHING,
    "a system message in the middle": NOTHING,
}

COLUMNS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "openaicompatible": (
        OPENAI,
        {"model": "sandbox-small", "messages": [QUESTION], "stream": True,
         "stream_options": {"include_usage": True}},
    ),
    "glm": (
        GLM,
        {"model": "glm-5.3", "messages": [QUESTION], "stream": True,
         "stream_options": {"include_usage": True}},
    ),
    "yandexgpt": (
        OPENAI,
        {"model": "gpt://b1gsandbox5f1c9b6e0d/yandexgpt-5.1/latest", "messages": [QUESTION],
         "stream": True},
    ),
    "deepseek": (
        DEEPSEEK,
        {"model": "deepseek-flash", "messages": [QUESTION], "stream": True,
         "stream_options": {"include_usage": True}},
    ),
    "gigachat": (
        GIGACHAT,
        {"model": "GigaChat-2", "messages": [QUESTION], "stream": True, "update_interval": 0.0},
    ),
}  # fmt: skip
"""Provider -> what is sent in each cell beside, or in place of, the fields that are always sent."""


def chats(sandbox: Sandbox) -> list[Any]:
    """The chats that the sandbox got."""
    return [request for request in sandbox.requests if request.kind == "chat"]


def refuses(kind: Any, asked: str) -> bool:
    """Whether a provider's attributes say that it cannot do what is asked."""
    wants = ASKED[asked]
    tools = wants.get("tools") or wants.get("functions")
    form = (wants.get("response_format") or {}).get("type", "text") != "text"
    return bool(
        (tools and not kind.supports_tools)
        or (form and not kind.supports_schema)
        or (asked == "an image" and not kind.supports_images)
    )


def cell(name: str, asked: str) -> Any:
    """What has to be sent: a whole body, NOTHING, or ... where other tests have the words."""
    if name not in COLUMNS:
        return NOTHING if refuses(REGISTRY[name], asked) else ...
    column, always = COLUMNS[name]
    due = column[asked]
    return {**always, **due} if isinstance(due, dict) else due


@pytest.mark.parametrize("asked", ASKED)
@pytest.mark.parametrize("name", REGISTRY)
def test_each_cell(sandbox: Sandbox, name: str, asked: str) -> None:
    """It is sent in the service's own form, byte by byte, or refused with nothing sent.

    Where it is refused, the next provider is asked at once, without a cooldown for this one.
    """
    if name not in SERVED:
        pytest.skip("the sandbox does not play this service")
    question = {"prompt": [QUESTION], **ASKED[asked]}
    due = cell(name, asked)
    if asked == "schema":
        sandbox.reply(name, '{"n": 1}')
    with SERVED[name](**sandbox.provider_arguments(name)) as provider:
        if due is NOTHING:
            with pytest.raises(UnsupportedError):
                provider.complete(**question)
            client = FailoverClient([provider, ScriptedProvider(["next"])], attempts=4)
            attempts = client.complete(**question).attempts
            assert [type(one.error) for one in attempts] == [UnsupportedError, type(None)]
            assert [one.waited for one in attempts] == [0, 0]
            assert sandbox.requests == []
            # There is no cooldown: what it can do it is still asked first.
            assert client.complete("JSON?").provider == provider.name
            return
        provider.complete(**question)
    # Nothing that the service refuses, and then gets once more without it.
    (sent,) = chats(sandbox)
    if due is not ...:
        assert sent.json == due
        assert sent.body == json.dumps(sent.json, ensure_ascii=False).encode()
    for word in WORDS.get(asked, ["дождь"]):
        assert word in unquote_plus(sent.body.decode())
    if asked == "an image" and name == "gigachat":
        (upload,) = (request for request in sandbox.requests if request.kind == "files")
        assert b64decode(PNG["image_url"]["url"].partition(",")[2]) in upload.body
        assert len(sent.json["messages"][0]["attachments"]) == 1


@pytest.mark.parametrize("thoughts", [None, "Let me see."])
@pytest.mark.parametrize("calls", [1, 2])
@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("reader", REGISTRY)
def test_history_of_each_other(
    sandbox: Sandbox, reader: str, writer: str, calls: int, thoughts: str | None
) -> None:
    """A turn of tools that one provider wrote is taken by each in one round trip.

    The official clients' own models read what arrived, and lose nothing of it.
    """
    if reader not in SERVED:
        pytest.skip("the sandbox does not play this service")
    history = written_by(sandbox, writer, calls, thoughts)
    kept, before = json.dumps(history), len(chats(sandbox))
    with SERVED[reader](**sandbox.provider_arguments(reader)) as provider:
        offered = {"tools": [TOOL]} if provider.supports_tools else {}
        assert provider.complete(history, **offered).text
    assert json.dumps(history) == kept
    (sent,) = chats(sandbox)[before:]
    READS.get(reader, reads_openai if provider.supports_tools else reads_folded)(sent, history)


def calls_in(history: list[Any]) -> list[tuple[str, Any, str]]:
    """The calls of a history, each with its name, arguments and result."""
    results = {one["tool_call_id"]: one["content"] for one in history if one["role"] == "tool"}
    return [
        (call["function"]["name"], json.loads(call["function"]["arguments"]), results[call["id"]])
        for call in history[1]["tool_calls"]
    ]


def reads_openai(sent: Any, history: list[Any]) -> None:
    """Each message is one that OpenAI's client could have sent: ids, arguments as text."""
    messages = sent.json["messages"]
    for message in messages:
        own = {name: v for name, v in message.items() if name != "reasoning_content"}
        read = MESSAGE.validate_python(own, extra="forbid")
        # Its list of calls is validated as it is read.
        assert {n: v if isinstance(v, str) else [*v] for n, v in read.items()} == own
    assert messages[0] == history[0]
    assert calls_in(messages) == calls_in(history)
    assert not any("functions_state_id" in message for message in messages)


def reads_deepseek(sent: Any, history: list[Any]) -> None:
    """A turn with calls has its thoughts, be there none."""
    reads_openai(sent, history)
    assert sent.json["messages"][1]["reasoning_content"] in ("", "Let me see.")


def reads_gigachat(sent: Any, history: list[Any]) -> None:
    """One call a turn, an object of arguments, a named result that is JSON, and its own id."""
    messages = sent.json["messages"]
    read = Chat.model_validate(sent.json).model_dump(exclude_none=True, by_alias=True)
    assert read["messages"] == messages
    state = history[1].get("functions_state_id")
    due: list[Any] = [history[0]]
    for number, (name, arguments, result) in enumerate(calls_in(history)):
        called = {"name": name, "arguments": arguments}
        turn = {"role": "assistant", "content": "", "function_call": called}
        due.append({**turn, "functions_state_id": state} if state and not number else turn)
        told = json.dumps({"result": result}, ensure_ascii=False)
        due.append({"role": "function", "name": name, "content": told})
    assert messages == [*due, history[-1]]


def reads_folded(sent: Any, history: list[Any]) -> None:
    """Who knows no tools is told of the calls and their results in words."""
    said = unquote_plus(sent.body.decode()).replace("\\", "")
    for name, arguments, result in calls_in(history):
        assert f"Called {name}({json.dumps(arguments, ensure_ascii=False)})" in said
        assert result in said
    assert "tool_call" not in said


MESSAGE: TypeAdapter[Any] = TypeAdapter(ChatCompletionMessageParam)

READS = {"gigachat": reads_gigachat, "deepseek": reads_deepseek}
