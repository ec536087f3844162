"""The problems that GigaChat finds in the body of a chat request, in its own words."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Container, Iterator, Mapping

from llmproviders.sandbox._record import RecordedRequest
from llmproviders.sandbox.services._completions import Object, messages_problem, numbers_problem

_ROLES = ("system", "user", "assistant", "function")

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]*")

_FOREIGN_FIELDS = ("tools", "tool_choice", "parallel_tool_calls", "max_completion_tokens")

_FOREIGN_IN_MESSAGES = ("tool_calls", "tool_call_id")

_EFFORTS = (None, "low", "medium", "high")


def chat_problem(body: Object, state_ids: Container[str]) -> str | None:
    """Return what the service finds wrong, or None.

    Args:
        body: the request.
        state_ids: the ids that the service gave to calls of functions.
    """
    return (
        messages_problem(body.get("messages"), _ROLES)
        or numbers_problem(body)
        or next(_fields(body), None)
        or next(_functions(body), None)
        or next(_messages(body["messages"], state_ids), None)
    )


def _fields(body: Object) -> Iterator[str]:
    for name in _FOREIGN_FIELDS:
        if name in body:
            yield f"unknown field {name}"
    temperature = body.get("temperature")
    if temperature is not None and not temperature > 0:
        yield "temperature must be greater than 0"
    if body.get("reasoning_effort") not in _EFFORTS:
        yield "reasoning_effort must be low, medium or high"
    wanted = body.get("response_format")
    if wanted is not None:
        is_schema = isinstance(wanted, dict) and wanted.get("type") == "json_schema"
        if not is_schema or not isinstance(wanted.get("schema"), dict):
            yield "response_format must have the type json_schema and a schema"


def _functions(body: Object) -> Iterator[str]:
    names = []
    for function in body.get("functions") or ():
        name = function.get("name") if isinstance(function, dict) else None
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            yield "function name is invalid"
        elif not isinstance(function.get("parameters", {}), dict):
            yield "function parameters must be an object"
        names.append(name)
    choice = body.get("function_call", "auto")
    if isinstance(choice, dict):
        if choice.get("name") not in names:
            yield "function_call names a function that is not offered"
    elif choice not in ("auto", "none"):
        yield "function_call must be auto, none or an object with a name"


def _messages(messages: list[Object], state_ids: Container[str]) -> Iterator[str]:
    for number, message in enumerate(messages):
        content = message.get("content", "")
        if not isinstance(content, str):
            yield "content must be a string"
        elif message["role"] == "system" and number > 0:
            yield "system message must be the first message"
        elif message["role"] == "function":
            yield from _result(message, content)
        for name in _FOREIGN_IN_MESSAGES:
            if name in message:
                yield f"unknown field {name} in a message"
        call = message.get("function_call")
        if call is not None and not isinstance(call, dict):
            yield "function_call must be an object"
        elif call is not None and not isinstance(call.get("arguments"), dict):
            yield "arguments must be an object"
        state_id = message.get("functions_state_id")
        if state_id is not None and state_id not in state_ids:
            yield "unknown functions_state_id"


def _result(message: Object, content: str) -> Iterator[str]:
    if not message.get("name"):
        yield "function message must have a name"
    try:
        json.loads(content, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        yield "invalid function result"


def _refuse_constant(word: str) -> None:
    raise ValueError(word)


def attached(body: Object) -> list[str]:
    """Return the ids of the files that a request's messages refer to."""
    return [one for message in body["messages"] for one in message.get("attachments") or ()]


def multipart(request: RecordedRequest) -> Mapping[str, tuple[str, str, bytes]]:
    """Return the parts of a form: field to file name, media type and content."""
    kind, _, boundary = request.headers.get("content-type", "").partition("boundary=")
    if not kind.startswith("multipart/form-data") or not boundary:
        return {}
    parts = {}
    for part in request.body.split(b"--" + boundary.strip('"').encode())[1:-1]:
        head, _, content = part[2:].partition(b"\r\n\r\n")
        find = _finder(head.decode("utf-8", "replace"))
        media_type = find(r"content-type:\s*([^\s;]+)")
        parts[find(r'\bname="([^"]*)"')] = (find(r'filename="([^"]*)"'), media_type, content[:-2])
    return parts


def _finder(head: str) -> Callable[[str], str]:
    def find(pattern: str) -> str:
        found = re.search(pattern, head, re.IGNORECASE)
        return found[1] if found else ""

    return find
