"""From what a caller passes as a prompt to messages that a provider can send; pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .errors import InvalidRequestError

Message = dict[str, Any]

Prompt = str | Sequence[Mapping[str, Any]]


ROLES = ("system", "user", "assistant", "tool", "function")

_ALIASES = {"developer": "system"}


def normalize(prompt: Prompt, *, system: str | None = None) -> list[Message]:
    """Turn a prompt into a list of messages whose content is one string each.

    Args:
        prompt: a text, or messages ``{"role": ..., "content": ...}`` where ``content`` is a text
            or a list of ``{"type": "text", "text": ...}``. The role ``developer`` is taken as
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
        )
    if not any(m["role"] != "system" and (_says(m["content"]) or len(m) > 2) for m in messages):
        raise InvalidRequestError("the prompt is empty: there is no text to send")
    if system is not None:
        messages.insert(0, _message({"role": "system", "content": system}, 0))
    return messages


def fold(messages: Sequence[Message]) -> str:
    """Write a conversation as one text, for services that take no history.

    One message alone is sent as it is; else each non-empty one becomes a paragraph
    ``Role: content``, and a last line asks for the assistant's turn.

    Args:
        messages: as :func:`normalize` makes them.

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
        return str(messages[0]["content"])
    lines = [f"{m['role'].capitalize()}: {m['content']}" for m in messages if m["content"]]
    return "\n".join([*lines, "Assistant:"])


def _message(item: object, index: int) -> Message:
    if not isinstance(item, Mapping):
        raise InvalidRequestError(
            f"message {index} is {type(item).__name__}, not an object with role and content"
        )
    role = item.get("role")
    role = _ALIASES.get(role, role) if isinstance(role, str) else role
    if role not in ROLES:
        known = ", ".join(ROLES)
        raise InvalidRequestError(f"message {index} has the role {role!r}; known are {known}")
    message = dict(item, role=role)
    message["content"] = _text(item.get("content"), index, calls=_has_calls(item))
    return message


def _is_image(part: Any) -> bool:
    image = part.get("image_url") if isinstance(part, Mapping) else None
    return isinstance(image, Mapping) and isinstance(image.get("url"), str)


def _says(content: str | list[dict[str, Any]]) -> bool:
    return bool(content.strip() if isinstance(content, str) else content)


def _is_list(value: object) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, (str, bytes, bytearray))


def _has_calls(item: Mapping[str, Any]) -> bool:
    return bool(item.get("tool_calls") or item.get("function_call"))


def _text(content: object, index: int, *, calls: bool) -> str | list[dict[str, Any]]:
    if content is None and calls:
        return ""
    if isinstance(content, Sequence) and _is_list(content):
        if any(map(_is_image, content)):
            return [
                dict(part) if _is_image(part) else {"type": "text", "text": _part(part, index)}
                for part in content
            ]
        content = "".join(_part(part, index) for part in content)
    if not isinstance(content, str):
        raise InvalidRequestError(
            f"message {index} has content of type {type(content).__name__}; "
            "it must be a string or a list of text parts"
        )
    try:
        content.encode()
    except UnicodeEncodeError as error:
        raise InvalidRequestError(
            f"message {index} holds a lone surrogate at position {error.start}, "
            "which cannot be sent; decode the text with errors='replace'"
        ) from None
    return content


def _part(part: object, index: int) -> str:
    if isinstance(part, Mapping) and part.get("type") == "text":
        text = part.get("text")
        if isinstance(text, str):
            return text
    raise InvalidRequestError(
        f"message {index} has a part that is not {{'type': 'text', 'text': ...}}; "
        "only text can be sent"
    )
