"""The sandbox's GigaChat refuses what the service refuses, and has files, schemas and logins."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest
import requests

from llmproviders import GigaChat
from llmproviders.sandbox import Sandbox
from llmproviders.sandbox._samples import sample
from llmproviders.sandbox.services.gigachat import PASSWORD, USER

USER_MESSAGE = {"role": "user", "content": "Hi"}
FUNCTION = {"name": "weather", "parameters": {"type": "object", "properties": {}}}
SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
CALL = {"role": "assistant", "function_call": {"name": "weather", "arguments": {}}}


def token_of(sandbox: Sandbox) -> dict[str, str]:
    """The header that lets a request in."""
    arguments = sandbox.provider_arguments("gigachat")
    reply = requests.post(
        arguments["auth_url"],
        data={"scope": arguments["scope"]},
        headers={
            "Authorization": f"Basic {arguments['api_key']}",
            "RqUID": "7c0f3a52-5a6d-4b8e-9c31-5a0db0c5a11e",
        },
        timeout=20,
    )
    return {"Authorization": f"Bearer {reply.json()['access_token']}"}


def post(sandbox: Sandbox, body: dict[str, Any], **headers: str) -> requests.Response:
    """Send a chat as it is."""
    return requests.post(
        f"{sandbox.url}/api/v1/chat/completions",
        json={"model": "GigaChat-2", "messages": [USER_MESSAGE], **body},
        headers={**token_of(sandbox), **headers},
        timeout=20,
    )


def history(*messages: dict[str, Any]) -> dict[str, Any]:
    """A body with these messages after the user's."""
    return {"messages": [USER_MESSAGE, *messages]}


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"tools": []}, "unknown field tools"),
        ({"tool_choice": "auto"}, "unknown field tool_choice"),
        ({"temperature": 0}, "temperature must be greater than 0"),
        ({"reasoning_effort": "none"}, "reasoning_effort"),
        ({"functions": [{"name": "погода"}]}, "function name is invalid"),
        ({"functions": [FUNCTION], "function_call": "required"}, "function_call must be"),
        ({"functions": [FUNCTION], "function_call": {"name": "other"}}, "is not offered"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": SCHEMA}}},
            "response_format",
        ),
        (history({"role": "system", "content": "x"}), "must be the first message"),
        (
            {"messages": [{"role": "system", "content": "x"}] * 2 + [USER_MESSAGE]},
            "must be the first message",
        ),
        (history(CALL, {"role": "function", "name": "weather", "content": "warm"}), "function res"),
        (history(CALL, {"role": "function", "name": "weather", "content": "NaN"}), "function res"),
        (history(CALL, {"role": "function", "content": "{}"}), "must have a name"),
        (history({**CALL, "functions_state_id": "call_1"}), "unknown functions_state_id"),
        (
            history({**CALL, "function_call": {"name": "weather", "arguments": "{}"}}),
            "arguments must be an object",
        ),
        (history({**CALL, "tool_calls": []}), "unknown field tool_calls"),
        (history({"role": "tool", "content": "{}"}), "unknown role"),
        (history({"role": "user", "content": [{"type": "text", "text": "x"}]}), "must be a string"),
    ],
)
def test_refused(sandbox: Sandbox, body: dict[str, Any], words: str) -> None:
    """What the service takes in another form alone is a 422 that says which."""
    reply = post(sandbox, body)
    assert reply.status_code == 422
    assert words in reply.json()["message"]


def test_files_belong_to_a_client(sandbox: Sandbox) -> None:
    """A file exists for the client that uploaded it, and for no other."""
    mine = {**token_of(sandbox), "X-Client-ID": "me"}
    files = f"{sandbox.url}/api/v1/files"
    about = requests.post(
        files,
        headers=mine,
        data={"purpose": "general"},
        files={"file": ("note.txt", b"A note.", "text/plain")},
        timeout=20,
    ).json()
    assert requests.get(f"{files}/{about['id']}", headers=mine, timeout=20).json() == about
    with GigaChat(**sandbox.provider_arguments("gigachat")) as giga:
        assert giga.files() == []
    question = history({**USER_MESSAGE, "attachments": [about["id"]]})
    assert post(sandbox, question).status_code == 404
    assert post(sandbox, question, **{"X-Client-ID": "me"}).status_code == 200


@pytest.mark.parametrize(
    ("purpose", "media_type", "status"),
    [("", "text/plain", 400), ("general", "image/gif", 400), ("general", "video/mp4", 400)],
)
def test_uploads_that_are_refused(
    sandbox: Sandbox, purpose: str, media_type: str, status: int
) -> None:
    """A file without a purpose, or of a type that the service does not take, is refused."""
    reply = requests.post(
        f"{sandbox.url}/api/v1/files",
        headers=token_of(sandbox),
        data={"purpose": purpose},
        files={"file": ("file", b"content", media_type)},
        timeout=20,
    )
    assert reply.status_code == status


def test_a_schema_is_answered(sandbox: Sandbox) -> None:
    """A reply to a schema satisfies it, and a named function is called without being asked for."""
    wanted = {"type": "json_schema", "schema": SCHEMA, "strict": True}
    message = post(sandbox, {"response_format": wanted}).json()["choices"][0]["message"]
    jsonschema.validate(json.loads(message["content"]), SCHEMA)
    named = {"functions": [FUNCTION], "function_call": {"name": "weather"}}
    choice = post(sandbox, named).json()["choices"][0]
    assert choice["finish_reason"] == "function_call"
    assert choice["message"]["function_call"] == {"name": "weather", "arguments": {}}


NODE = {
    "type": "object",
    "properties": {"value": {"type": "number"}, "next": {"$ref": "#/$defs/Node"}},
    "required": ["value"],
}


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "string", "minLength": 20},
        {"type": "string", "maxLength": 3},
        {"type": ["integer", "null"], "minimum": 5, "multipleOf": 4},
        {"type": "number", "exclusiveMinimum": 7, "maximum": 7.5},
        {"type": "integer", "maximum": -3},
        {"type": "array", "items": {"type": "boolean"}, "minItems": 3},
        {"enum": [None, 1]},
        {"const": {"a": 1}},
        {"anyOf": [{"type": "null"}, {"type": "string"}]},
        {"allOf": [{"$ref": "#/$defs/A"}, {"required": ["b"]}], "$defs": {"A": SCHEMA}},
        {"$ref": "#/$defs/Node", "$defs": {"Node": NODE}},
    ],
)
def test_samples_satisfy_their_schema(schema: dict[str, Any]) -> None:
    """What is made up for a schema satisfies it, also for one that holds itself."""
    jsonschema.validate(sample(schema), schema)


def test_a_login(sandbox: Sandbox) -> None:
    """A user with the right password gets a token that lets them in; others do not."""
    url = sandbox.provider_arguments("gigachat")["base_url"]
    with GigaChat(base_url=url, user=USER, password=PASSWORD) as giga:
        assert giga.complete("Hi").text
        assert giga.complete("Hi").text
    assert sandbox.count("gigachat", "token") == 1
    assert requests.post(f"{url}/token", auth=(USER, "other"), timeout=20).status_code == 401
