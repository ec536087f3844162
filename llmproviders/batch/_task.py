"""What a batch is asked, one request at a time, and what comes of each."""

from __future__ import annotations

import json
import operator
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, NamedTuple

from .._request import ChatRequest
from ..errors import InvalidRequestError
from ..messages import Prompt
from ..results import Completion

Id = str | int


_canonical = json.JSONEncoder(sort_keys=True, separators=(",", ":")).encode


@dataclass(frozen=True, slots=True)
class BatchResult:
    """What came of one request of a batch; one of ``completion`` and ``error`` is None.

    Attributes:
        id: the request's own, else its number, from 1.
        index: its place in the input, from 0.
        completion: the reply.
        error: why there is none; an ``LLMError`` unless something unforeseen happened.

    >>> from llmproviders.batch import run
    >>> from llmproviders.testing import ScriptedProvider
    >>> [result] = run(ScriptedProvider(["Four."]), [{"id": "sum", "prompt": "Two and two?"}])
    >>> result.id, result.index, str(result.completion), result.error
    ('sum', 0, 'Four.', None)
    """

    id: Id
    index: int
    completion: Completion | None
    error: Exception | None


@dataclass(frozen=True, slots=True)
class Task:
    """One request of a batch, checked; one of ``request`` and ``error`` is None."""

    id: Id
    index: int
    request: ChatRequest | None
    error: InvalidRequestError | None = None


class FinishedTask(NamedTuple):
    """A task that has ended."""

    task: Task
    completion: Completion | None
    error: Exception | None

    def result(self) -> BatchResult:
        """As callers see it."""
        return BatchResult(self.task.id, self.task.index, self.completion, self.error)


def task_of(item: object, index: int) -> Task:
    """The task that ``item`` stands for; what is wrong with it becomes the task's error.

    Args:
        item: a string, a list of messages, or
            ``{"id": ..., "prompt" | "messages": ..., "model": ..., **params}``.
        index: its place in the input, from 0.

    >>> task_of({"id": "sky", "prompt": "Why blue?"}, 0).request.messages
    ({'role': 'user', 'content': 'Why blue?'},)
    >>> task_of("Why blue?", 6).id
    7
    >>> print(task_of({"promt": "Why blue?"}, 0).error)
    a request needs a "prompt" or "messages"
    """
    own_id: Id = index + 1
    try:
        if isinstance(item, Mapping):
            fields = dict(item)
            given = fields.pop("id", None)
            if given is not None:
                own_id = _check_id(given)
            return Task(own_id, index, _request_of(fields))
        return Task(own_id, index, ChatRequest.of(item, params={}))  # type: ignore[arg-type]
    except InvalidRequestError as error:
        return Task(own_id, index, None, error)
    except TypeError as error:
        return Task(own_id, index, None, InvalidRequestError(str(error)))


def _check_id(given: object) -> Id:
    if isinstance(given, str):
        try:
            given.encode()
        except UnicodeEncodeError:
            raise InvalidRequestError("the id holds a lone surrogate, which is no text") from None
        return given
    try:
        if not isinstance(given, bool):
            return operator.index(given)  # type: ignore[arg-type]
    except TypeError:
        pass
    raise InvalidRequestError(f"an id is a string or a whole number, not {given!r:.40}")


def _request_of(fields: dict[str, Any]) -> ChatRequest:
    asked = [name for name in ("prompt", "messages") if name in fields]
    if len(asked) != 1:
        raise InvalidRequestError(
            'a request has both "prompt" and "messages"; give one'
            if asked
            else 'a request needs a "prompt" or "messages"'
        )
    prompt: Prompt = fields.pop(asked[0])
    model = fields.pop("model", None)
    if not isinstance(model, (str, type(None))):
        raise InvalidRequestError(f"a model is a name, not {type(model).__name__}")
    return ChatRequest.of(prompt, model=model, params=fields)


def tasks_of(requests: Iterable[object]) -> Iterator[Task]:
    """The tasks of a batch, each made when it is wanted.

    Raises:
        InvalidRequestError: while iterating, at a request whose id stood before.
    """
    seen = _SeenIds()
    for index, item in enumerate(requests):
        task = task_of(item, index)
        if not seen.add(task.id, index + 1):
            raise duplicate(task.id)
        yield task


class _SeenIds:
    """The ids so far; those that are the number of their request take no memory."""

    def __init__(self) -> None:
        self._others: set[Id] = set()
        self._turns: list[int] = []  # where requests begin, or cease, to have their number as id

    def add(self, own_id: Id, number: int) -> bool:
        """Add the id of the request ``number``, counted from 1; whether it is a new one."""
        if own_id in self._others or self._is_number_before(own_id, number):
            return False
        numbered = own_id == number
        if numbered != bool(len(self._turns) % 2):
            self._turns.append(number)
        if not numbered:
            self._others.add(own_id)
        return True

    def _is_number_before(self, own_id: Id, number: int) -> bool:
        if isinstance(own_id, str) or own_id >= number:
            return False
        return bool(bisect_right(self._turns, own_id) % 2)


def duplicate(own_id: Id, *lines: int) -> InvalidRequestError:
    """The error for an id that stands twice, in the input's ``lines`` where it has such."""
    where = f" (lines {', '.join(map(str, lines))})" if lines else ""
    return InvalidRequestError(
        f"two requests have the id {own_id!r}{where}; every id may stand once, "
        "and a request without one has the number of its line"
    )


def request_hash(request: ChatRequest) -> str:
    """The same for the same messages, model and parameters, however they were written.

    >>> once = task_of("Why?", 0).request
    >>> again = task_of({"id": 5, "messages": [{"role": "user", "content": "Why?"}]}, 1).request
    >>> request_hash(once) == request_hash(again)
    True
    """
    asked = {"messages": request.messages, "model": request.model, "params": request.params}
    return sha256(_canonical(asked).encode()).hexdigest()
