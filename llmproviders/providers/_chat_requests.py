"""Requests in OpenAI's format: tools, images, and fields that a server does not accept."""

from __future__ import annotations

import os
import re
from base64 import b64encode
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from .._runtime import files
from .._signals import let_through
from ..errors import InvalidRequestError, ModelNotFoundError, UnsupportedError
from ..messages import Message

OTHER_NAME = {"max_tokens": "max_completion_tokens", "max_completion_tokens": "max_tokens"}

DISPENSABLE = (
    *("stream_options", "stream", *OTHER_NAME, "temperature", "top_p", "stop", "seed"),
    *("presence_penalty", "frequency_penalty", "repetition_penalty", "reasoning_effort"),
)
"""Optional fields: if a server refuses one, the request is sent again without it."""

DISPENSABLE_IN_HISTORY = (
    *("reasoning_content", "reasoning", "reasoning_details", "thinking_blocks", "refusal"),
    *("annotations", "extra_content"),
)
"""Likewise for fields that other services added to messages."""

_REFUSAL = re.compile(
    r"unsupported|not (currently |yet )?(be )?(supported|permitted|allowed|accepted|available"
    r"|recogni[sz]ed|enabled|compatible)|(does not|doesn't|do not|don't|cannot|can't) "
    r"(currently )?(support|accept|allow|recogni[sz]e|stream)|isn't (supported|allowed)"
    r"|un(recogni[sz]ed|known|expected)|\bextra (inputs?|parameters?|fields?)"
    r"|additional propert|no longer|deprecated|use '?max_\w*tokens'? instead|verified to stream",
    re.IGNORECASE,
)

# An error about a value, which another value would mend.
_VALUE = re.compile(
    r"\b(more|less|fewer|greater|larger|longer|higher|lower|smaller) than\b|\b(above|below) \d"
    r"|\bat (most|least)\b|\bbetween\b|\bexceed|out of range"
    r"|\btoo (large|long|many|small|high|low)",
    re.IGNORECASE,
)

# Begins a list of what would be accepted.
_ACCEPTED = re.compile(
    r"\b(expected|one of"
    r"|(supported|allowed|accepted|valid|permitted|known)( \w+){1,2}( (are|is)\b|:)"
    r"|only\b.{1,300}\b(are|is) (supported|allowed|accepted|permitted)).*",
    re.IGNORECASE | re.DOTALL,
)

# Only GigaChat has these.
_FOREIGN_TO_FUNCTIONS = ("few_shot_examples", "return_parameters")

REFUSALS = (400, 422)
"""The statuses with which servers refuse a field."""


def refused_field(error: InvalidRequestError, sent: Mapping[str, Any]) -> str | None:
    """The optional field that an error says is not accepted; None if there is none.

    An error about the value of a field, such as "temperature must be below 2", names none.

    Args:
        error: what the server answered.
        sent: the body of the request.
    """
    words = error.detail or ""
    if (
        error.status_code not in REFUSALS
        or isinstance(error, ModelNotFoundError)
        or not _REFUSAL.search(words)
        or _VALUE.search(words)
    ):
        return None
    words = _ACCEPTED.sub("", words)
    told = {name for message in sent.get("messages", ()) for name in _fields(message)}
    could_be = {*(sent.keys() & set(DISPENSABLE)), *(told & set(DISPENSABLE_IN_HISTORY))}
    named = {
        name: found.start()
        for name in could_be
        if (found := re.search(_named(name), words, re.IGNORECASE))
    }
    return min(named, key=named.__getitem__, default=None)


def _fields(message: Message) -> Iterator[str]:
    """The names of a message's fields, and of those of its calls."""
    yield from message
    for call in message.get("tool_calls") or ():
        yield from call


def _named(field: str) -> str:
    # Some services name fields in camel case, and streaming instead of stream.
    return rf"\b{field.replace('_', '_?')}(?:ing)?\b"


_BATCH = re.compile(
    r"batch|too many (inputs|texts|items)|(inputs?|array|list|items|texts)\b.{0,60}\b(at most|"
    r"maximum|larger|longer|exceed|limit|less than|or fewer)",
    re.IGNORECASE,
)

# A single text that is too long.
_TOO_LONG = re.compile(
    r"context (length|window|size)|(input|sequence|prompt) length|physical batch", re.IGNORECASE
)


def is_batch_too_large(error: InvalidRequestError) -> bool:
    """Whether a server refused a request because it has too many texts."""
    words = error.detail or ""
    many = _BATCH.search(words) and not _TOO_LONG.search(words)
    return error.status_code in (*REFUSALS, 413) and bool(many)


def without(params: dict[str, Any], refused: Iterable[str]) -> dict[str, Any]:
    """The fields of a body that the server accepts, by the names that it accepts."""
    taken = dict(params)
    for name in refused:
        if name in taken:
            value, other = taken.pop(name), OTHER_NAME.get(name)
            if other is not None and other not in refused:
                taken[other] = value
    told = set(refused) & set(DISPENSABLE_IN_HISTORY)
    if told:
        taken["messages"] = [_message_without(told, message) for message in taken["messages"]]
    return taken


def _message_without(names: set[str], message: Message) -> Message:
    left = {name: value for name, value in message.items() if name not in names}
    if calls := left.get("tool_calls"):
        left["tool_calls"] = [{n: v for n, v in call.items() if n not in names} for call in calls]
    return left


TOOL_PARAMS = frozenset(
    ("tools", "tool_choice", "parallel_tool_calls", "functions", "function_call")
)


def tool_choice(params: Mapping[str, Any]) -> Any:
    """The ``tool_choice`` that is sent for these parameters; ``"auto"`` if there is none."""
    if TOOL_PARAMS.isdisjoint(params):
        return "auto"
    return with_tools(params).get("tool_choice", "auto")


def with_tools(params: Mapping[str, Any]) -> dict[str, Any]:
    """``params`` with ``functions`` and ``function_call`` as ``tools`` and ``tool_choice``."""
    told = {n: v for n, v in params.items() if n not in ("functions", "function_call")}
    tools = list(told.pop("tools", None) or ())
    for function in params.get("functions") or ():
        known = {n: v for n, v in function.items() if n not in _FOREIGN_TO_FUNCTIONS}
        tools.append({"type": "function", "function": known})
    choice = params.get("function_call")
    if isinstance(choice, Mapping):
        choice = {"type": "function", "function": {"name": choice.get("name")}}
    choice = told.pop("tool_choice", None) or choice
    if tools:
        told["tools"] = tools
    # Without tools, servers refuse any tool_choice, even "none".
    if choice is not None and (tools or choice not in ("auto", "none")):
        told["tool_choice"] = choice
    if not tools:
        told.pop("parallel_tool_calls", None)
    return told


# The first bytes of each file type.
_IMAGES = (
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
)

MOST_IMAGE_BYTES = 20 * 1024 * 1024


def with_images(messages: Sequence[Message], paths: Sequence[str]) -> list[Message]:
    """``messages`` with image files as parts of the last one of the user.

    Raises:
        InvalidRequestError: a file is missing or too large.
        UnsupportedError: it is not an image of a type that these services accept.
    """
    told, last = list(messages), _last_of_user(messages)
    parts = [_image_part(path) for path in paths]
    content = told[last]["content"]
    before = [{"type": "text", "text": content}] if isinstance(content, str) else list(content)
    told[last] = {**told[last], "content": [*before, *parts]}
    return told


def check_images(messages: Sequence[Message], paths: Sequence[str]) -> None:
    """Check what :func:`with_images` needs, without reading whole files.

    Raises:
        InvalidRequestError: as for :func:`with_images`.
    """
    _last_of_user(messages)
    for path in paths:
        _image(path, first=_LONGEST_START)


def _last_of_user(messages: Sequence[Message]) -> int:
    last = max((n for n, m in enumerate(messages) if m["role"] == "user"), default=None)
    if last is None:
        raise InvalidRequestError("attach needs a user message to belong to")
    return last


def _image_part(path: str) -> dict[str, Any]:
    kind, data = _image(path)
    url = f"data:{kind};base64,{b64encode(data).decode()}"
    return {"type": "image_url", "image_url": {"url": url}}


_LONGEST_START = 12


def _image(path: str, *, first: int | None = None) -> tuple[str, bytes]:
    """The media type of an image file and its content, or its first bytes alone."""
    try:
        place = os.path.expanduser(path)
        data = files.read(place, most=MOST_IMAGE_BYTES, first=first)
    except (OSError, ValueError) as error:
        let_through(error)
        said = getattr(error, "strerror", None) or str(error)
        raise InvalidRequestError(f"the file {path!r} cannot be read: {said}") from error
    kind = next((kind for start, kind in _IMAGES if data.startswith(start)), None)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        kind = "image/webp"
    if kind is None:
        raise UnsupportedError(
            f"the attachment {path} is not a JPEG, PNG, GIF or WebP image; only these can be "
            "sent here"
        )
    return kind, data
