"""What the sandbox is told to answer, and what it makes of a schema."""

from __future__ import annotations

import json

import pytest
import requests

from llmproviders import GLM, OpenAICompatible
from llmproviders.providers import find
from llmproviders.sandbox import Sandbox, parse_fault
from llmproviders.sandbox._names import CLASS_NAMES
from tests.support.promise import read

TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer", "minimum": 2}},
            "required": ["city"],
        },
    },
}
CALLS = [
    {"name": "weather", "arguments": {"city": "Омск"}},
    {"function": {"name": "time", "arguments": '{"zone": "Omsk"}'}},
]
WITH_TOOLS = ("openai", "glm", "yandexgpt", "deepseek")


@pytest.mark.parametrize("service", CLASS_NAMES)
def test_a_text_for_so_many_chats(sandbox: Sandbox, service: str) -> None:
    """Every service says the text as often as was said, then its own words again."""
    sandbox.reply(service, "Forty-two.", times=2)
    sandbox.reply(service, "Why?")
    client = sandbox.client(service)
    said = [str(client.complete("Hi")) for _ in range(4)]
    assert said[:3] == ["Forty-two.", "Forty-two.", "Why?"]
    assert "sandbox" in said[3]


@pytest.mark.parametrize("service", WITH_TOOLS)
@pytest.mark.parametrize("stream", [True, False])
def test_calls_thoughts_and_usage(sandbox: Sandbox, service: str, stream: bool) -> None:
    """Calls of tools, thoughts and counts come as they were given, whole and as a stream."""
    usage = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
    sandbox.reply(service, tool_calls=CALLS, reasoning="Hm. Well.", usage=usage)
    kind = find(service)
    assert kind is not None
    with kind(**sandbox.provider_arguments(service)) as provider:
        finish = read(provider.create_generator(None, "Hi", stream=stream, tools=[TOOL])).finish
    told = [
        (c["function"]["name"], json.loads(c["function"]["arguments"])) for c in finish.tool_calls
    ]
    assert told == [("weather", {"city": "Омск"}), ("time", {"zone": "Omsk"})]
    assert (finish.reason, finish.reasoning) == ("tool_calls", "Hm. Well.")
    if service != "yandexgpt" or not stream:
        assert finish.usage.total_tokens == 3


@pytest.mark.parametrize("asked", [True, False, None])
def test_calls_of_glm_in_pieces(sandbox: Sandbox, asked: bool | None) -> None:
    """GLM streams a call in pieces only where ``tool_stream`` says so; both mean the same."""
    sandbox.reply("glm", tool_calls=CALLS, times=2)
    arguments = sandbox.provider_arguments("glm")
    body = {
        "model": "glm-5.3",
        "messages": [{"role": "user", "content": "Hi"}],
        "tools": [TOOL],
        "stream": True,
        **({} if asked is None else {"tool_stream": asked}),
    }
    with requests.Session() as session:
        session.trust_env = False
        told = session.post(
            f"{arguments['base_url']}/chat/completions",
            json=body,
            headers={"Authorization": f"Bearer {arguments['api_key']}"},
        )
    assert told.text.count('"tool_calls":') == (3 if asked else 1) * len(CALLS)
    with GLM(**arguments) as provider:
        reply = provider.complete("Hi", tools=[TOOL], extra_body={"tool_stream": asked})
    assert [call["function"]["name"] for call in reply.tool_calls] == ["weather", "time"]
    assert json.loads(reply.tool_calls[0]["function"]["arguments"]) == {"city": "Омск"}


@pytest.mark.parametrize("finish", ["stop", "length", "content_filter"])
def test_how_it_ends(sandbox: Sandbox, finish: str) -> None:
    """The reply ends as was said."""
    sandbox.reply("openai", "Forty-two.", finish=finish)
    with OpenAICompatible(**sandbox.provider_arguments("openai")) as provider:
        assert read(provider.stream("Hi")).finish.reason == finish


def test_arguments_that_make_no_sense(sandbox: Sandbox) -> None:
    """A word or a name that there is not is told with the nearest one."""
    with pytest.raises(ValueError, match="did you mean 'stop'"):
        sandbox.reply("openai", "x", finish="stopp")
    with pytest.raises(ValueError, match="did you mean 'deepseek'"):
        sandbox.reply("depseek", "x")


def test_a_schema_is_satisfied(sandbox: Sandbox) -> None:
    """A response_format is answered with JSON that has the schema's shape."""
    schema = {"type": "object", "properties": {"n": {"type": "integer", "minimum": 7}}}
    wanted = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}
    with OpenAICompatible(**sandbox.provider_arguments("openai")) as provider:
        assert json.loads(str(provider.complete("Hi", response_format=wanted))) == {"n": 7}
        anything = provider.complete("Hi", response_format={"type": "json_object"})
        assert isinstance(json.loads(str(anything)), dict)


@pytest.mark.parametrize("service", CLASS_NAMES)
@pytest.mark.parametrize("stream", [None, False])
def test_wrong_json(sandbox: Sandbox, service: str, stream: bool | None) -> None:
    """Once it is repaired; for ever, the next provider is asked; what else is scripted waits."""
    other = "openai" if service != "openai" else "glm"
    good = '{"n": 7}'
    client = sandbox.client(service, other, attempts=1)
    sandbox.reply(service, good, times=2)
    sandbox.fail(service, wrong_json=True)
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    reply = client.complete("Hi", schema=schema, stream=stream)
    assert (reply.data, len(reply.attempts)) == ({"n": 7}, 2)
    name, arguments = parse_fault(f"{service}=wrong-jsonxalways")
    sandbox.fail(name, **arguments)
    sandbox.reply(other, good)
    reply = client.complete("Hi", schema=schema, stream=stream)
    assert (reply.data, len(reply.attempts)) == ({"n": 7}, 3)
    assert [attempt.error is None for attempt in reply.attempts] == [False, False, True]


def test_a_demanded_call(sandbox: Sandbox) -> None:
    """``tool_choice="required"`` is answered with a call whose arguments fit its parameters."""
    with OpenAICompatible(**sandbox.provider_arguments("openai")) as provider:
        reply = provider.complete("Hi", tools=[TOOL], tool_choice="required")
    arguments = json.loads(reply.tool_calls[0]["function"]["arguments"])
    assert arguments == {"city": "sandbox", "days": 2}
