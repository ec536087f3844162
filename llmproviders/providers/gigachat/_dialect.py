"""Convert requests from OpenAI's format to GigaChat's; pure functions.

GigaChat has functions in place of tools, one call a turn, arguments as an object, results that are
JSON and carry the function's name, one system message that comes first, and files in place of
parts that hold an image.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from ..._checks import shown
from ..._signals import let_through
from ...errors import InvalidRequestError, UnsupportedError
from ...messages import Message, answered, has_images, text_of
from ._files import Attachment

Fields = dict[str, Any]

#: Parameters that have the same name and meaning here.
SAME = ("temperature", "top_p", "max_tokens", "repetition_penalty", "n", "profanity_check")

#: All parameters that are sent in some form.
TAKEN = frozenset(
    {
        *SAME,
        *("functions", "function_call", "tools", "tool_choice", "parallel_tool_calls"),
        *("response_format", "reasoning_effort", "session_id"),
    }
)

_EFFORTS = ("low", "medium", "high")

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]*")

_OWN_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")

_FUNCTION_FIELDS = (
    *("name", "description", "parameters", "few_shot_examples", "return_parameters"),
)

_MOST_IMAGES = 10


def fields(params: Mapping[str, Any]) -> Fields:
    """The fields of a request's body for the caller's parameters.

    Raises:
        UnsupportedError: GigaChat cannot do what they ask for.
        InvalidRequestError: they contradict one another or have the wrong shape.

    >>> fields({"temperature": 0, "response_format": {"type": "text"}})
    {'top_p': 0}
    """
    if not params:
        return {}
    found = {name: params[name] for name in SAME if params.get(name) is not None}
    if found.get("temperature") == 0:
        # The temperature must be above zero; top_p 0 also selects the most likely token.
        del found["temperature"]
        found["top_p"] = 0
    if params.get("reasoning_effort") in _EFFORTS:
        found["reasoning_effort"] = params["reasoning_effort"]
    found.update(_functions(params))
    found.update(_response_format(params.get("response_format")))
    return found


def _functions(params: Mapping[str, Any]) -> Fields:
    functions = [*(params.get("functions") or ()), *map(_function, params.get("tools") or ())]
    for function in functions:
        name = function.get("name")
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise UnsupportedError(
                f"GigaChat refuses the function name {shown(name)}: a name is a Latin letter, then "
                "letters, digits, '_', '.' or '-'"
            )
    choice = params.get("function_call")
    if choice is None:
        choice = params.get("tool_choice")
    called = _choice(choice, [function["name"] for function in functions])
    return {"functions": functions, "function_call": called} if functions else {}


def _function(tool: Mapping[str, Any]) -> Fields:
    """A tool in OpenAI's form as a function."""
    kind, function = tool.get("type"), tool.get("function")
    if kind != "function" or not isinstance(function, Mapping):
        raise UnsupportedError(
            f"GigaChat takes tools of the type 'function' only, not {shown(kind)}"
        )
    found = {name: function[name] for name in _FUNCTION_FIELDS if function.get(name) is not None}
    return {**found, "parameters": found.get("parameters", {"type": "object", "properties": {}})}


def _choice(choice: Any, names: Sequence[str]) -> Any:
    """The function to call, in the form of ``function_call``."""
    if choice is None or choice in ("auto", "none"):
        return choice or "auto"
    if choice in ("required", "any"):
        if len(names) != 1:
            raise UnsupportedError(
                "GigaChat cannot be made to call any one of several functions: name it in "
                "tool_choice, or pass only one function"
                if names
                else f"tool_choice is {choice!r} and there are no tools"
            )
        return {"name": names[0]}
    if not isinstance(choice, Mapping):
        raise InvalidRequestError(f"tool_choice cannot be {shown(choice)}")
    named = choice.get("function", choice) if choice.get("type", "function") == "function" else {}
    name = named.get("name") if isinstance(named, Mapping) else None
    if name is None:
        raise UnsupportedError(f"GigaChat has no tool_choice such as {shown(dict(choice))}")
    if name not in names:
        raise InvalidRequestError(f"tool_choice names {shown(name)}, which is none of the tools")
    return {key: value for key, value in named.items() if key in ("name", "partial_arguments")}


def _response_format(wanted: Mapping[str, Any] | None) -> Fields:
    if wanted is None:
        return {}
    kind = wanted.get("type")
    if kind == "text":
        return {}
    if kind != "json_schema":
        raise UnsupportedError(
            f"GigaChat has no response_format of the type {shown(kind)}; it has 'json_schema'"
        )
    inner = wanted.get("json_schema", wanted)
    schema = inner.get("schema") if isinstance(inner, Mapping) else None
    if not isinstance(schema, Mapping):
        raise InvalidRequestError("response_format of the type json_schema has no schema")
    strict = inner.get("strict")
    beside = {} if strict is None else {"strict": strict}
    return {"response_format": {"type": "json_schema", "schema": schema, **beside}}


def messages(history: Sequence[Message], attach: Iterable[Attachment] = ()) -> list[Message]:
    """Convert a conversation from OpenAI's format to GigaChat's.

    Args:
        history: messages that any provider or caller wrote, normalized.
        attach: files to add to the last user message.

    Returns:
        The messages; ``attachments`` holds ids, and an ``Attachment`` for each file to upload.

    Raises:
        UnsupportedError: it contains something that GigaChat does not accept.
        InvalidRequestError: a result of a function belongs to no call.
    """
    answers = answered(history)
    found = [*_system(history)]
    for index, message in enumerate(history):
        if message["role"] == "assistant":
            # A result has to follow its call.
            results = [(n, history[i]) for i, (turn, n) in answers.items() if turn == index]
            found += _turns(message, results)
        elif message["role"] == "user":
            found.append(_user(message))
        elif message["role"] != "system" and index not in answers:
            found.append(_result(message, None))
    _add_attachments(found, list(attach))
    return found


def _system(history: Sequence[Message]) -> Iterator[Message]:
    """The single system message, if there is one."""
    places = [n for n, message in enumerate(history) if message["role"] == "system"]
    if places not in ([], [0]):
        where = "there are two or more" if len(places) > 1 else f"it is message {places[0]}"
        raise UnsupportedError(
            f"GigaChat takes one system message, which has to be the first; {where}: join them"
        )
    if places:
        yield {"role": "system", "content": _text(history[0])}


def _turns(message: Message, results: Sequence[tuple[int, Message]]) -> Iterator[Message]:
    """An assistant's message and the results of its calls, one call per turn.

    Args:
        message: the assistant's message.
        results: each with the index of its call.
    """
    calls = _calls(message)
    said: Message = {"role": "assistant", "content": _text(message)}
    state = message.get("functions_state_id")
    if state is None and len(calls) == 1 and _OWN_ID.fullmatch(calls[0]["id"]):
        # Our parser uses the state's id as the call's id; ids of other services look different.
        state = calls[0]["id"]
    beside = {"functions_state_id": state} if isinstance(state, str) else {}
    if not calls:
        yield {**said, **beside}
    for number, call in enumerate(calls):
        function = {"name": call["name"], "arguments": call["arguments"]}
        yield {**said, "function_call": function, **beside}
        said, beside = {**said, "content": ""}, {}
        for answered_call, result in results:
            if answered_call == number:
                yield _result(result, call["name"])


def _calls(message: Message) -> list[Fields]:
    """The calls of an assistant's message: id, name, and the arguments as an object."""
    told = message.get("tool_calls") or ()
    calls = [(str(call.get("id") or ""), call.get("function")) for call in told]
    if not calls and message.get("function_call"):
        calls = [("", message["function_call"])]
    found = []
    for call_id, function in calls:
        if not isinstance(function, Mapping):
            raise UnsupportedError("GigaChat takes calls of functions only")
        arguments = _arguments(function.get("arguments"))
        if not isinstance(function.get("name"), str):
            raise InvalidRequestError("a call of a function has no name")
        found.append({"id": call_id, "name": function["name"], "arguments": arguments})
    return found


def _arguments(arguments: Any) -> Mapping[str, Any]:
    if isinstance(arguments, str):
        try:
            arguments = _decode(arguments) if arguments.strip() else {}
        except ValueError:
            raise UnsupportedError("the arguments of a function call are not JSON") from None
    if arguments is None:
        return {}
    if not isinstance(arguments, Mapping):
        raise UnsupportedError(
            "GigaChat takes the arguments of a function call as a JSON object, not "
            f"{type(arguments).__name__}"
        )
    return arguments


def _result(message: Message, called: str | None) -> Message:
    """The result of a function, with the function's name and content that is JSON."""
    name = called or message.get("name")
    if not isinstance(name, str) or not name:
        raise InvalidRequestError(
            "a result of a function belongs to no call before it and has no name: GigaChat has to "
            "know the function's name"
        )
    content = _text(message)
    try:
        _decode(content)
    except ValueError as error:
        let_through(error)
        content = json.dumps({"result": content}, ensure_ascii=False)
    return {"role": "function", "name": name, "content": content}


def _decode(text: str) -> Any:
    """Read JSON strictly: ``NaN`` is not valid.

    Raises:
        ValueError: it is not JSON.
    """
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _refuse_constant(word: str) -> None:
    raise ValueError(f"{word} is not JSON")


def _text(message: Message) -> str:
    """The text of a message that may only have text."""
    content = message["content"]
    if has_images(content):
        raise UnsupportedError(
            f"GigaChat takes images in messages of the user only, not of {message['role']!r}"
        )
    return text_of(content)


def _user(message: Message) -> Message:
    """A user message; its images become attachments."""
    content = message["content"]
    attachments = message.get("attachments") or ()
    if isinstance(attachments, str) or not all(isinstance(one, str) for one in attachments):
        raise InvalidRequestError(
            f"attachments must be a list of ids of files, not {shown(attachments)}"
        )
    attachments = list(attachments)
    if not isinstance(content, str):
        images = [part for part in content if part["type"] == "image_url"]
        attachments += [Attachment.of_url(part["image_url"]["url"]) for part in images]
        content = text_of(content)
    found: Message = {"role": "user", "content": content}
    return {**found, "attachments": attachments} if attachments else found


def _add_attachments(found: list[Message], attach: list[Attachment]) -> None:
    """Add files to the last user message, and check the number of images."""
    if attach:
        last = [message for message in found if message["role"] == "user"][-1:]
        if not last:
            raise InvalidRequestError("there is no user message to attach a file to")
        last[0]["attachments"] = [*last[0].get("attachments", ()), *attach]
    images = [
        sum(isinstance(one, Attachment) and one.is_image for one in message.get("attachments", ()))
        for message in found
    ]
    if any(count > 1 for count in images):
        raise UnsupportedError("GigaChat takes one image a message; send them in several messages")
    if sum(images) > _MOST_IMAGES:
        raise UnsupportedError(f"GigaChat takes {_MOST_IMAGES} images a request at most")
