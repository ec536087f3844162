"""JSON lines: reading the requests of an input, writing the rows of an output."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

from .._redact import redact
from .._signals import let_through
from ..errors import InvalidRequestError, LLMError, error_as_dict
from ..results import Completion
from ._task import Task, request_hash, task_of

_BOM = b"\xef\xbb\xbf"

_LINE_ENDS = {ord(char): f"\\u{ord(char):04x}" for char in "\x85\u2028\u2029"}


def _refuse_constant(word: str) -> None:
    raise ValueError(f"{word} is not JSON")


# json.loads and json.dumps would create these again for each row.
_decode = json.JSONDecoder(parse_constant=_refuse_constant).decode

_encode = json.JSONEncoder(ensure_ascii=False).encode


def tasks_in(lines: Iterable[bytes]) -> Iterator[Task]:
    """Read a request from each JSON line; a broken line is a task with an error.

    Blank lines are skipped, but counted in the line numbers, which start at 1.
    """
    for index, line in enumerate(lines):
        if index == 0:
            line = line.removeprefix(_BOM)
        if line.strip():
            yield _task_in(line, index)


def _task_in(line: bytes, index: int) -> Task:
    try:
        item = _decode(line.decode())
    except UnicodeDecodeError:
        why = "it is not UTF-8"
    except RecursionError:
        why = "it is nested too deeply"
    except ValueError as error:
        let_through(error)
        why = str(error)
    else:
        return task_of(item, index)
    broken = InvalidRequestError(f"line {index + 1} of the input is not a JSON value: {why}")
    return Task(index + 1, index, None, broken, id_known=False)


def as_row(completion: Completion | None, error: BaseException | None) -> dict[str, Any]:
    """A reply or an error as a JSON object: an output row without ``id`` and ``request_hash``.

    ``tool_calls`` is present if the model asked for calls, ``images`` if the service drew pictures,
    ``data`` if a ``schema`` was given, and ``cached`` if the reply came from a cache.

    Args:
        completion: the reply, or None.
        error: why there is none, or None.

    >>> from llmproviders.testing import ScriptedProvider
    >>> row = as_row(ScriptedProvider(["Because."]).complete("Why?"), None)
    >>> row["text"], row["finish_reason"], row["error"]
    ('Because.', 'stop', None)
    """
    finish = completion.finish_reason if completion is not None else None
    attempts = completion.attempts if completion is not None else getattr(error, "attempts", ())
    row: dict[str, Any] = {
        "text": completion.text if completion is not None else None,
        "provider": completion.provider if completion is not None else _provider_of(error),
        "model": completion.model if completion is not None else None,
        "finish_reason": finish.reason if finish is not None else None,
        "usage": completion.usage.as_dict() if completion and completion.usage else None,
        "attempts": [attempt.as_dict() for attempt in attempts],
        "error": _error_as_dict(error),
    }
    if finish is not None and finish.tool_calls:
        row["tool_calls"] = finish.tool_calls
    if finish is not None and finish.images:
        row["images"] = [image.address for image in finish.images]
    if completion is not None and completion.cached:
        row["cached"] = True
    if completion is not None and completion.data is not None:
        row["data"] = _plain(completion.data)
    return row


def _plain(data: Any) -> Any:
    """A validated object as JSON: models and dataclasses become objects, dates text."""
    if type(data) in (str, int, float, bool):
        return data
    from pydantic import TypeAdapter

    return TypeAdapter(Any).dump_python(data, mode="json")


def _provider_of(error: BaseException | None) -> str | None:
    return error.provider if isinstance(error, LLMError) else None


def _error_as_dict(error: BaseException | None) -> dict[str, str] | None:
    told = error_as_dict(error)
    if told is not None and not isinstance(error, LLMError):
        told["message"] = redact(told["message"])
    return told


def row_of(task: Task, completion: Completion | None, error: Exception | None) -> bytes:
    """An output row as one line of JSON."""
    row = {
        "id": task.id,
        **as_row(completion, error),
        "request_hash": None if task.request is None else request_hash(task.request),
    }
    return json_line(row).encode() + b"\n"


def json_line(value: Any) -> str:
    r"""JSON in UTF-8 on one line, without characters that some readers treat as line ends.

    >>> print(json_line({"text": "Зачем?\u2028"}))
    {"text": "Зачем?\u2028"}
    """
    text = _encode(value)
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(value)
    return text.translate(_LINE_ENDS)
