"""Turn a caller's prompt into messages that a provider can send."""

from __future__ import annotations

import dataclasses
import enum
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date
from typing import Any

from ._signals import let_through
from .errors import InvalidRequestError
from .results import Completion

Message = dict[str, Any]

Prompt = str | Sequence[Mapping[str, Any]]


ROLES = ("system", "user", "assistant", "tool", "function")

RESULTS = ("tool", "function")

# Fields that say something without any text.
_SAYING = ("tool_calls", "function_call", "attachments", "audio")

_ALIASES = {"developer": "system"}


def normalize(prompt: Prompt, *, system: str | None = None) -> list[Message]:
    """Turn a prompt into a list of messages in OpenAI's shape.

    The content of each is one string, or a list of parts if there are images, or fields beside the
    texts such as ``cache_control``. The arguments of tool calls are JSON text. Other fields of a
    message are kept.

    Args:
        prompt: a text, or messages ``{"role": ..., "content": ...}`` where ``content`` is a text
            or a list of ``{"type": "text", "text": ...}`` and
            ``{"type": "image_url", "image_url": {"url": ...}}``. The role ``developer`` becomes
            ``system``.
        system: a system prompt to put before them.

    Raises:
        InvalidRequestError: the prompt is empty or not of this shape.

    >>> normalize("Why?", system="Be brief.")
    [{'role': 'system', 'content': 'Be brief.'}, {'role': 'user', 'content': 'Why?'}]
    """
    if isinstance(prompt, str):
        messages = [_message({"role": "user", "content": prompt}, 0)]
    elif _is_list(prompt):
        messages = [_message(item, index) for index, item in enumerate(prompt)]
    else:
        raise InvalidRequestError(
            f"a prompt is a string or a list of messages, not {type(prompt).__name__}"
            f"{_instead_of_prompt(prompt)}"
        )
    if not any(m["role"] != "system" and _says_something(m) for m in messages):
        raise InvalidRequestError("the prompt is empty: there is no text to send")
    if system is not None:
        messages.insert(0, _message({"role": "system", "content": system}, 0))
    return messages


def _says_something(message: Message) -> bool:
    content = message["content"]
    said = content if isinstance(content, list) else content.strip()
    return bool(said) or message["role"] in RESULTS or any(map(message.get, _SAYING))


def text_of(content: str | Sequence[Mapping[str, Any]]) -> str:
    """The text of a message's content, without its images.

    >>> text_of([{"type": "text", "text": "What is this?"}, {"type": "image_url"}])
    'What is this?'
    """
    if isinstance(content, str):
        return content
    return "".join(part["text"] for part in content if part["type"] == "text")


def has_images(content: str | Sequence[Mapping[str, Any]]) -> bool:
    """Whether a message's content has anything but text."""
    return not isinstance(content, str) and any(part["type"] != "text" for part in content)


def without_tools(messages: Iterable[Message]) -> list[Message]:
    """The same turns with only the roles ``system``, ``user`` and ``assistant``.

    For services without tools: calls and their results are written out as text.

    >>> call = {
    ...     "id": "1",
    ...     "type": "function",
    ...     "function": {"name": "sum", "arguments": "[2, 3]"},
    ... }
    >>> for turn in without_tools(
    ...     [
    ...         {"role": "assistant", "content": "", "tool_calls": [call]},
    ...         {"role": "tool", "tool_call_id": "1", "content": "5"},
    ...     ]
    ... ):
    ...     print(turn)
    {'role': 'assistant', 'content': 'Called sum([2, 3])'}
    {'role': 'user', 'content': 'Result of sum: 5'}
    """
    turns: list[Message] = []
    for message, name, content in _written_out(messages):
        role = message["role"]
        if role in RESULTS:
            role, content = "user", f"Result{' of ' if name else ''}{name}: {content}"
        turns.append({"role": role, "content": content})
    return turns


def _written_out(messages: Iterable[Message]) -> Iterator[tuple[Message, str, str]]:
    """Each message with the function whose result it is, if any, and its text with its calls."""
    messages = list(messages)
    answers = answered(messages)
    for index, message in enumerate(messages):
        lines = [text_of(message["content"])]
        lines += [
            f"Called {_name(call) or ''}({call['function']['arguments']})"
            for call in calls_of(message)
            if "function" in call
        ]
        name = message.get("name") if message["role"] in RESULTS else None
        if name is None and index in answers:
            turn, number = answers[index]
            name = _name(calls_of(messages[turn])[number])
        yield message, name or "", "\n".join(filter(None, lines))


def calls_of(message: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The tool calls in an assistant's message; a ``function_call`` counts as one."""
    calls: list[dict[str, Any]] = list(message.get("tool_calls") or ())
    if not calls and message.get("function_call"):
        function = message["function_call"]
        arguments = _arguments_text(function.get("arguments"))
        calls = [{"type": "function", "function": {**function, "arguments": arguments}}]
    return calls


def answered(messages: Sequence[Message]) -> dict[int, tuple[int, int]]:
    """Which call each result of a function answers.

    A call is known by its place in the history, since servers repeat ids. Of the calls that have no
    result yet, the latest turn first, a result answers the one with its id, and with its name if
    several have that id. A result whose id is no call's answers the one with its name, else the
    first one of its turn.

    Args:
        messages: as :func:`normalize` returns them.

    Returns:
        For the index of each result that answers a call: the index of the message with the call,
        and the call's index in that message.

    >>> call = {"id": "1", "function": {"name": "sum", "arguments": "[2, 3]"}}
    >>> answered(
    ...     [
    ...         {"role": "assistant", "content": "", "tool_calls": [call]},
    ...         {"role": "tool", "tool_call_id": "1", "content": "5"},
    ...     ]
    ... )
    {1: (0, 0)}
    """
    found: dict[int, tuple[int, int]] = {}
    # The calls without a result, the latest turn first.
    turns: list[_Calls] = []
    results: list[int] = []
    for index, message in enumerate(messages):
        if message["role"] in RESULTS:
            results.append(index)
        elif calls := calls_of(message):
            turn = {(index, number): call for number, call in enumerate(calls)}
            if turns and messages[index - 1]["role"] == "assistant":
                turns[0] |= turn
            else:
                found |= _pairs(messages, results, turns)
                turns, results = [turn, *filter(None, turns)], []
    return found | _pairs(messages, results, turns)


_Calls = dict[tuple[int, int], dict[str, Any]]


def _pairs(
    messages: Sequence[Message], results: list[int], turns: list[_Calls]
) -> dict[int, tuple[int, int]]:
    """The call of each of ``results``; it is removed from ``turns``."""
    if not (results and turns):
        return {}
    found: dict[int, tuple[int, int]] = {}
    ids = {call.get("id") for call in turns[0].values()} - {None, ""}
    own = {i: (messages[i].get("tool_call_id"), messages[i].get("name")) for i in results}
    strange = [i for i in results if own[i][0] not in ids]
    named = [i for i in results if own[i][0] and own[i][1]]
    for some, with_id, with_name, among in (
        (named, True, True, turns),
        ([i for i in results if own[i][0]], True, False, turns),
        ([i for i in strange if own[i][1]], False, True, turns),
        (strange, False, False, turns[:1]),
    ):
        for i in some:
            if i not in found:
                own_id, name = own[i]
                place = _take(among, own_id if with_id else None, name if with_name else None)
                if place is not None:
                    found[i] = place
    return found


def _take(turns: list[_Calls], own_id: str | None, name: str | None) -> tuple[int, int] | None:
    """Remove the first call with this id and this name; None for any."""
    for turn in turns:
        for place, call in turn.items():
            if own_id in (None, call.get("id")) and name in (None, _name(call)):
                del turn[place]
                return place
    return None


def _name(call: Mapping[str, Any]) -> Any:
    """The name of the function that a call is for; None if it is for something else."""
    return (call.get("function") or {}).get("name")


def fold(messages: Sequence[Message]) -> str:
    """Write a conversation as one text, for services that do not accept a history.

    A single message is sent unchanged; otherwise each non-empty one becomes a paragraph
    ``Role: content``, and a last line asks for the assistant's turn. Tool calls and their results
    are written out.

    Args:
        messages: as :func:`normalize` returns them, without images.

    >>> print(
    ...     fold(
    ...         [
    ...             {"role": "user", "content": "Hi"},
    ...             {"role": "assistant", "content": "Yes?"},
    ...             {"role": "user", "content": "Why?"},
    ...         ]
    ...     )
    ... )
    User: Hi
    Assistant: Yes?
    User: Why?
    Assistant:
    """
    if len(messages) == 1:
        return text_of(messages[0]["content"])
    lines = [
        f"{message['role'].capitalize()}{' ' if name else ''}{name}: {content}"
        for message, name, content in _written_out(messages)
        if content
    ]
    return "\n".join([*lines, "Assistant:"])


def _instead_of_prompt(prompt: object) -> str:
    """What to do about something that is no prompt."""
    if isinstance(prompt, Mapping):
        return "; put it in a list"
    advice = _instead(prompt)
    return advice and f"{advice}, in a list"


def _instead(item: object) -> str:
    """What to do about an object in the place of a message."""
    inner = getattr(item, "message", None)
    if isinstance(inner, Mapping):
        return "; use its .message"
    if isinstance(item, str):
        return "; use {'role': 'user', 'content': ...}"
    if hasattr(item, "choices"):
        return "; use its .choices[0].message.model_dump()"
    if hasattr(inner, "model_dump"):
        return "; use its .message.model_dump()"
    if hasattr(item, "role") and hasattr(item, "model_dump"):
        return "; use its .model_dump()"
    if hasattr(item, "content"):
        return "; use {'role': ..., 'content': its .content}"
    return ""


def _message(item: object, index: int) -> Message:
    if not isinstance(item, Mapping):
        raise InvalidRequestError(
            f"message {index} is {type(item).__name__}, not an object with role and content"
            f"{_instead(item)}"
        )
    role = item.get("role")
    role = _ALIASES.get(role, role) if isinstance(role, str) else role
    if role not in ROLES:
        known = ", ".join(ROLES)
        raise InvalidRequestError(f"message {index} has the role {role!r}; known are {known}")
    message = dict(item, role=role)
    if item.get("tool_calls") is not None:
        message["tool_calls"] = _calls(item["tool_calls"], index)
    if item.get("function_call") is not None:
        _arguments_of(item["function_call"], f"the function_call of message {index}")
    if item.get("tool_call_id") is not None:
        message["tool_call_id"] = _id(item["tool_call_id"], f"the tool_call_id of message {index}")
    called = bool(message.get("tool_calls") or message.get("function_call"))
    message["content"] = _content(item.get("content"), index, called=called)
    return message


def _calls(calls: Any, index: int) -> list[dict[str, Any]]:
    """Tool calls with their arguments as JSON text."""
    if not isinstance(calls, Sequence) or not _is_list(calls):
        raise InvalidRequestError(f"message {index} has tool_calls that are not a list")
    checked = []
    for call in calls:
        if not isinstance(call, Mapping):
            raise InvalidRequestError(
                f"message {index} has a call in tool_calls that is not an object"
            )
        what = f"a call in tool_calls of message {index}"
        told = dict(call)
        if told.get("id") is not None:
            told["id"] = _id(told["id"], f"the id of {what}")
        function: Any = told.get("function")
        # Otherwise it is a call of something other than a function.
        if function is not None:
            arguments = _arguments_of(function, what)
            told["function"] = {**function, "arguments": arguments}
        checked.append(told)
    return checked


def _id(value: object, what: str) -> str:
    if not isinstance(value, (str, int)):
        raise InvalidRequestError(f"{what} is {type(value).__name__}, not a string")
    return str(value)


def _arguments_of(function: object, what: str) -> str:
    """The arguments of a call as JSON text."""
    if not isinstance(function, Mapping):
        raise InvalidRequestError(f"{what} is not an object with a name and arguments")
    arguments = function.get("arguments")
    if not isinstance(arguments, (str, Mapping, type(None))):
        raise InvalidRequestError(f"{what} has arguments that are neither JSON text nor an object")
    try:
        text = _arguments_text(arguments)
        text.encode()
    except (TypeError, ValueError, RecursionError) as error:
        let_through(error)
        raise InvalidRequestError(
            f"{what} has arguments that cannot be written as JSON: {error}"
        ) from error
    return text


def _arguments_text(arguments: Any) -> str:
    if isinstance(arguments, str):
        return arguments
    return json.dumps({} if arguments is None else arguments, ensure_ascii=False, allow_nan=False)


def _is_list(value: object) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, (str, bytes, bytearray))


def _content(content: object, index: int, *, called: bool) -> str | list[dict[str, Any]]:
    if content is None and called:
        return ""
    if isinstance(content, Sequence) and _is_list(content):
        parts = [_part(part, index) for part in content]
        if has_images(parts) or any(len(part) > 2 for part in parts):
            return parts
        content = text_of(parts)
    if not isinstance(content, str):
        raise InvalidRequestError(
            f"message {index} has content of type {type(content).__name__}; "
            "it must be a string or a list of parts"
        )
    return _encodable(content, index)


def _encodable(text: str, index: int) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidRequestError(
            f"message {index} holds a lone surrogate at position {error.start}, "
            "which cannot be sent; decode the text with errors='replace'"
        ) from None
    return text


def _part(part: object, index: int) -> dict[str, Any]:
    kind = part.get("type") if isinstance(part, Mapping) else None
    value = part.get(kind) if isinstance(part, Mapping) and isinstance(kind, str) else None
    # Some libraries write missing fields as null, or as empty lists.
    known = part.items() if isinstance(part, Mapping) else ()
    beside = {n: v for n, v in known if v is not None and v != []}
    if kind == "text" and isinstance(value, str):
        return {**beside, "text": _encodable(value, index)}
    if kind == "image_url" and isinstance(value, Mapping) and isinstance(value.get("url"), str):
        return {**beside, "image_url": {**value, "url": _image_url(value["url"], index)}}
    raise InvalidRequestError(
        f"message {index} has a part that is neither {{'type': 'text', 'text': ...}} nor "
        "{'type': 'image_url', 'image_url': {'url': ...}}"
    )


def _image_url(url: str, index: int) -> str:
    url = _DATA.sub("data:", url.strip())
    if url.lower().startswith(("https://", "data:")) and not _NOT_IN_A_URL.search(url):
        return url
    hint = "; http: is not encrypted" if url.lower().startswith("http:") else ""
    raise InvalidRequestError(
        f"message {index} has an image whose address is neither https: nor data:{hint}"
    )


_DATA = re.compile("^data:", re.IGNORECASE)

_NOT_IN_A_URL = re.compile(r"[\x00-\x20\x7f]")


def as_content(result: object) -> str:
    """What a function returned, as text for the model."""
    if isinstance(result, str):
        return result
    if isinstance(result, Completion):
        return result.text
    try:
        return as_json(result, text_inside=isinstance(result, (dict, list, tuple)))
    except (TypeError, ValueError) as error:
        let_through(error)
        return str(result)


def as_json(value: object, *, text_inside: bool = False) -> str:
    """Convert a Python value to JSON.

    Args:
        value: a JSON value, or an enum, dataclass, set, date, pydantic model, or number or array of
            numpy.
        text_inside: whether any other value inside it is converted with ``str()``.

    Raises:
        TypeError: it cannot be written as JSON.
        ValueError: it contains itself, or NaN or infinity.
    """
    inside = _plain_or_text if text_inside else _plain_value
    return json.dumps(value, ensure_ascii=False, allow_nan=False, default=inside)


def _plain_value(value: Any) -> Any:
    if isinstance(value, Completion):
        return value.text
    if isinstance(value, enum.Enum):
        return value.value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, (set, frozenset, tuple)):
        return list(value)
    if isinstance(value, date):
        return value.isoformat()
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    if hasattr(value, "tolist"):  # numpy's numbers and arrays
        return value.tolist()
    raise TypeError(f"{type(value).__name__} is not a JSON value")


def _plain_or_text(value: Any) -> Any:
    try:
        return _plain_value(value)
    except TypeError as error:
        let_through(error)
        return str(value)
