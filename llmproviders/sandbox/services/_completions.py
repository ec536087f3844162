"""The chat completion replies that GigaChat and OpenAI-compatible servers share."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from llmproviders.sandbox._record import RecordedRequest
from llmproviders.sandbox._reply import HeaderPairs, ReplyPiece, event
from llmproviders.sandbox._samples import sample
from llmproviders.sandbox._script import Script

Object = dict[str, Any]

DONE = ReplyPiece(b"data: [DONE]\n\n")

# Only GigaChat has these.
_FOREIGN_IN_HISTORY = ("functions_state_id", "attachments")


@dataclass(frozen=True)
class Dialect:
    """Where the two differ; `finish` has the words for `Script.finish`."""

    finish: dict[str, str]
    stream_object: str
    role_in_each_delta: bool
    keep_alive: bytes | None


@dataclass(frozen=True)
class CompletionScript:
    """One reply, sent whole or in pieces.

    `call` is the part of a message that calls a tool, with its finish reason in `call_finish`.
    `envelope` holds the fields that every object of the reply has.
    """

    dialect: Dialect
    script: Script
    envelope: Object
    usage: Object
    choices: int = 1
    call: Object | None = None
    call_finish: str = ""

    @property
    def _finish(self) -> str:
        return self.call_finish if self.call else self.dialect.finish[self.script.finish]

    def whole(self) -> Object:
        """Return the reply as one object."""
        message: Object = {"role": "assistant", "content": "" if self.call else self.script.text}
        if self.script.thought:
            message["reasoning_content"] = "".join(self.script.thought)
        message.update(self.call or {})
        choices = [
            {"message": message, "index": index, "finish_reason": self._finish}
            for index in range(self.choices)
        ]
        return {
            "choices": choices,
            **self.envelope,
            "usage": self.usage,
            "object": "chat.completion",
        }

    def frames(self, call_deltas: list[Object]) -> Iterator[ReplyPiece]:
        """Yield the events before the one with the finish reason."""
        if not self.dialect.role_in_each_delta:
            yield from self._say({"role": "assistant", "content": ""})
        for piece in self.script.thought:
            yield from self._say({"reasoning_content": piece})
        for delta in call_deltas:
            yield from self._say(delta)
        keep_alive = self.dialect.keep_alive
        for number, piece in enumerate([] if self.call else self.script.pieces):
            if keep_alive and number % 10 == 0:
                yield ReplyPiece(keep_alive)
            yield from self._say({"content": piece}, is_text=True)

    def _say(self, delta: Object, *, is_text: bool = False) -> Iterator[ReplyPiece]:
        if self.dialect.role_in_each_delta:
            delta = {**delta, "role": "assistant"}
        for index in range(self.choices):
            choice = {"delta": delta, "index": index}
            yield self._event([choice], {}, is_text=is_text and index == 0)

    def finish(self, extra: Object) -> ReplyPiece:
        """Return the event with the finish reason, and more fields for it."""
        choices = [
            {"delta": {}, "index": index, "finish_reason": self._finish}
            for index in range(self.choices)
        ]
        if self.dialect.role_in_each_delta:
            choices = [{**choice, "delta": {"content": ""}} for choice in choices]
        return self._event(choices, extra)

    def usage_event(self) -> ReplyPiece:
        """Return the event with the usage and no choices."""
        return self._event([], {"usage": self.usage})

    def _event(self, choices: list[Object], extra: Object, *, is_text: bool = False) -> ReplyPiece:
        told = {"choices": choices, **self.envelope, "object": self.dialect.stream_object}
        return event({**told, **extra}, is_text=is_text)


def is_finish(piece: ReplyPiece) -> bool:
    """Return whether an event has a finish reason."""
    return b'"finish_reason":' in piece.data


def offered_functions(body: Object) -> list[Object]:
    """Return the functions that a request offers, as `tools` or as `functions`."""
    tools = body.get("tools") or []
    functions = [tool.get("function") for tool in tools if isinstance(tool, dict)]
    found = functions or body.get("functions") or []
    return [function for function in found if isinstance(function, dict)]


def calls_of(body: Object, script: Script, question: str) -> list[Object]:
    """Return the calls that a reply makes, each with `name` and `arguments`, an object.

    These are the scripted calls, or else one call of an offered function; see
    :func:`called_function`.
    """
    if script.calls:
        return list(script.calls)
    function = called_function(body, question)
    if function is None:
        return []
    return [{"name": function.get("name"), "arguments": sample_arguments(function)}]


def answer_to_format(body: Object) -> str | None:
    """Return the JSON that satisfies a request's `response_format`; None if that is text."""
    wanted = body.get("response_format") or {}
    if wanted.get("type") == "json_object":
        return '{"sandbox": true}'
    if wanted.get("type") != "json_schema":
        return None
    # GigaChat has the schema without a wrapper.
    schema = (wanted.get("json_schema") or wanted).get("schema") or {}
    return json.dumps(sample(schema), ensure_ascii=False)


def called_function(body: Object, question: str) -> Object | None:
    """Return the offered function that the reply calls, or None.

    It calls one if the last message is the user's and says "call the tool", or if the request
    requires a call.
    """
    functions = offered_functions(body)
    choice = body.get("tool_choice", body.get("function_call"))
    if not functions or choice == "none" or body["messages"][-1]["role"] != "user":
        return None
    if isinstance(choice, dict):
        name = choice.get("function", choice).get("name")
        return next((function for function in functions if function.get("name") == name), None)
    asked = choice == "required" or "call the tool" in question.lower()
    return functions[0] if asked else None


def sample_arguments(function: Object) -> Object:
    """Return arguments that fit the function's parameters."""
    parameters = function.get("parameters") or {}
    return dict(sample({"type": "object", **parameters}))


def id_header(request: RecordedRequest, name: str) -> HeaderPairs:
    """Return the header that gives a request's or session's id: the caller's own, or a new one."""
    return ((name, request.headers.get(name) or str(uuid.uuid4())),)


def numbers_problem(body: Object) -> str | None:
    """Return what is wrong with the numbers among a request's parameters."""
    for name in ("n", "max_tokens", "max_completion_tokens"):
        value = body.get(name)
        if value is not None and (not isinstance(value, int) or value < 1):
            return f"{name} must be a whole number, 1 or more"
    return None


def messages_problem(messages: Any, roles: tuple[str, ...]) -> str | None:
    """Return what is wrong with the list of messages, whatever the service."""
    if not isinstance(messages, list) or not messages:
        return "messages must be a list that is not empty"
    for message in messages:
        if not isinstance(message, dict):
            return "a message must be an object"
        if message.get("role") not in roles:
            return f"unknown role {message.get('role')!r}"
    return None


def history_problem(messages: list[Object]) -> str | None:
    """Return what is wrong with the calls of tools in a history, and with their results."""
    return next(_history_problems(messages), None)


def _history_problems(messages: list[Object]) -> Iterator[str]:
    waiting: list[str] = []
    for number, message in enumerate(messages):
        place = f"messages[{number}]"
        for name in _FOREIGN_IN_HISTORY:
            if name in message:
                yield f"Unrecognized field {place}.{name}"
        if message["role"] == "tool":
            if message.get("tool_call_id") not in waiting:
                yield f"{place} must be a response to a preceding message with 'tool_calls'"
            waiting.remove(message["tool_call_id"])
            continue
        if waiting:
            yield f"these tool_call_ids have no response before {place}: {', '.join(waiting)}"
        calls = message.get("tool_calls", ())
        if calls is None or ("tool_calls" in message and not calls):
            yield f"{place}.tool_calls must be a list that is not empty"
        for call in calls:
            if not _is_call(call):
                yield f"{place}.tool_calls: each has an id, a type, a name, arguments as a string"
        waiting = [call["id"] for call in calls]
        called = message.get("function_call")
        if called is not None and not isinstance(called.get("arguments"), str):
            yield f"{place}.function_call.arguments must be a string"
        if message["role"] == "function" and not message.get("name"):
            yield f"{place}.name is required"
    if waiting:
        yield f"these tool_call_ids have no response: {', '.join(waiting)}"


def _is_call(call: Any) -> bool:
    function = call.get("function") if isinstance(call, dict) else None
    return (
        isinstance(function, dict)
        and call.get("type") == "function"
        and isinstance(call.get("id"), str)
        and bool(call["id"])
        and isinstance(function.get("name"), str)
        and isinstance(function.get("arguments"), str)
    )
