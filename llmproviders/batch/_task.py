"""The requests of a batch: how each is read, and how it is identified."""

from __future__ import annotations

import json
import operator
import os
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from math import inf
from typing import Any, NamedTuple

from .._checks import boolean, counted_headers
from .._display.text import shorten
from .._request import ChatRequest
from .._runtime.files import open_plain
from .._runtime.scope import STOPPED
from .._signals import let_through
from ..errors import InvalidRequestError, LLMError
from ..messages import Prompt
from ..results import Attempts, Completion

Id = str | int

_OF_THE_CALL = ("model", "timeout", "proxy", "deadline", "accept")

HALVES = {
    "length": "max_tokens cut the reply",
    "content_filter": "the service's filter stopped the reply",
}
"""The finish reasons of replies that are not whole, and what each means."""

_BLOCK = 2**20

_canonical = json.JSONEncoder(sort_keys=True, separators=(",", ":")).encode


@dataclass(frozen=True, repr=False)
class BatchResult:
    """The result of one request of a batch; one of ``completion`` and ``error`` is None.

    Attributes:
        id: the request's own id, else its number, from 1; None if the id could not be read and
            another request has that number as its id.
        index: its position in the input, from 0.
        completion: the reply.
        error: why there is none; an ``LLMError`` unless something unforeseen happened.

    >>> from llmproviders.batch import run
    >>> from llmproviders.testing import ScriptedProvider
    >>> [result] = run(ScriptedProvider(["Four."]), [{"id": "sum", "prompt": "Two and two?"}])
    >>> result.id, result.index, str(result.completion), result.error
    ('sum', 0, 'Four.', None)
    """

    id: Id | None
    index: int
    completion: Completion | None
    error: Exception | None

    def __repr__(self) -> str:
        reply, error = self.completion, self.error
        said = repr(str(error) if reply is None else reply.text)
        kind = type(error).__name__
        if reply is not None:
            reason = reply.finish_reason.reason
            kind = f"text ({reason})" if reason in HALVES else "text"
        return f"<{type(self).__name__} {self.id!r}: {kind} {shorten(said, 60)}>"

    @property
    def data(self) -> Any:
        """The reply as parsed by a ``schema``; None without a schema or a reply."""
        return None if self.completion is None else self.completion.data


@dataclass(frozen=True, slots=True)
class Task:
    """One request of a batch, checked; one of ``request`` and ``error`` is None.

    Attributes:
        id: the request's id.
        index: its position in the input, from 0.
        request: what is asked.
        error: why the request cannot be sent.
        id_known: whether ``id`` is the request's own, or its number by default. False if a broken
            line may have had any id; ``id`` is then a stand-in.
    """

    id: Id | None
    index: int
    request: ChatRequest | None
    error: InvalidRequestError | None = None
    id_known: bool = True

    def unless_taken(self, taken: bool) -> Task:
        """The task, without its stand-in id if another request has that id."""
        return replace(self, id=None) if taken and not self.id_known else self


class FinishedTask(NamedTuple):
    """A task that has ended."""

    task: Task
    completion: Completion | None
    error: Exception | None

    def if_sent(self) -> FinishedTask | None:
        """The task; None if the stop of its batch kept it from being sent.

        If an earlier try was sent and failed, that is its error.
        """
        stop = self.error
        if not isinstance(stop, LLMError) or stop.limit != STOPPED:
            return self
        failed = [
            attempt
            for attempt in stop.attempts
            if attempt.error is not None and attempt.error.limit != STOPPED
        ]
        if not failed:
            return None
        error = failed[-1].error
        assert error is not None
        error.attempts = Attempts(failed)
        return self._replace(error=error)

    def result(self) -> BatchResult:
        """The result that callers get."""
        return BatchResult(self.task.id, self.task.index, self.completion, self.error)


def task_of(item: object, index: int) -> Task:
    """Read one request of a batch; any problem becomes the task's error.

    Args:
        item: a string, a list of messages, or
            ``{"id": ..., "prompt" | "messages": ..., "model": ..., **params}``.
        index: its position in the input, from 0.

    >>> task_of({"id": "sky", "prompt": "Why blue?"}, 0).request.messages
    ({'role': 'user', 'content': 'Why blue?'},)
    >>> task_of("Why blue?", 6).id
    7
    >>> print(task_of({"promt": "Why blue?"}, 0).error)
    a request needs a "prompt" or "messages"
    """
    own_id: Id = index + 1
    id_known = isinstance(item, Mapping)
    try:
        if isinstance(item, Mapping):
            fields = dict(item)
            given = fields.pop("id", None)
            if given is not None:
                id_known = False
                own_id = _check_id(given)
                id_known = True
            return Task(own_id, index, _request_of(fields))
        return Task(own_id, index, ChatRequest.of(item, params={}))  # type: ignore[arg-type]
    except InvalidRequestError as error:
        return Task(own_id, index, None, error, id_known)
    except TypeError as error:
        let_through(error)
        return Task(own_id, index, None, InvalidRequestError(str(error)), id_known)


def _check_id(given: object) -> Id:
    if isinstance(given, str):
        try:
            given.encode()
        except UnicodeEncodeError:
            raise InvalidRequestError(
                "the id has a lone surrogate, so it cannot be encoded"
            ) from None
        return given
    try:
        if not isinstance(given, bool):
            return operator.index(given)  # type: ignore[arg-type]
    except TypeError as error:
        let_through(error)
    raise InvalidRequestError(f"an id must be a string or a whole number, not {given!r:.40}")


def _request_of(fields: dict[str, Any]) -> ChatRequest:
    asked = [name for name in ("prompt", "messages") if name in fields]
    if len(asked) != 1:
        raise InvalidRequestError(
            'a request has both "prompt" and "messages"; give one'
            if asked
            else 'a request needs a "prompt" or "messages"'
        )
    return request_of(fields.pop(asked[0]), fields)


def request_of(prompt: Prompt, asked: Mapping[str, Any]) -> ChatRequest:
    """A request with the keywords that ``complete`` takes.

    Raises:
        TypeError: a keyword that no service has, or ``stream=True``.
        InvalidRequestError: a value that no service could accept.
    """
    params = dict(asked)
    of_the_call = {name: params.pop(name) for name in _OF_THE_CALL if name in params}
    stream = params.pop("stream", None)
    if stream is not None and boolean("stream", stream):
        raise TypeError("a batch returns whole replies: stream must be False or left out")
    return ChatRequest.of(prompt, stream=stream is None, params=params, **of_the_call)


class SeenIds:
    """A set of ids; an id that equals the number of its request takes no memory.

    Every other id is kept, which takes about 100 bytes.
    """

    def __init__(self) -> None:
        self._others: set[Id] = set()
        # Where the requests start, or stop, having their number as id.
        self._turns: list[int] = []

    def add(self, own_id: Id, number: int) -> bool:
        """Add the id of request ``number``, from 1, and return whether it is new."""
        if self.has(own_id, before=number):
            return False
        numbered = own_id == number
        if numbered != bool(len(self._turns) % 2):
            self._turns.append(number)
        if not numbered:
            self._others.add(own_id)
        return True

    def has(self, own_id: Id, *, before: float) -> bool:
        """Whether a request with a number below ``before`` has the id."""
        if own_id in self._others:
            return True
        if isinstance(own_id, str) or own_id >= before:
            return False
        return bool(bisect_right(self._turns, own_id) % 2)


def tasks_of(requests: Iterable[object], known: SeenIds | None = None) -> Iterator[Task]:
    """Read the requests of a batch, each when it is asked for.

    Args:
        requests: strings, lists of messages, or dicts; or tasks.
        known: the ids of all of them, if they were read before.

    Raises:
        InvalidRequestError: while iterating, at a request with the id of an earlier one.
    """
    seen = SeenIds()
    for index, item in enumerate(requests):
        task = item if isinstance(item, Task) else task_of(item, index)
        if not task.id_known:
            number = index + 1
            taken = known.has(number, before=inf) if known else seen.has(number, before=number)
            yield task.unless_taken(taken)
            continue
        assert task.id is not None
        if not seen.add(task.id, index + 1):
            raise duplicate(task.id)
        yield task


def duplicate(own_id: Id, *lines: int) -> InvalidRequestError:
    """The error for an id that two requests have, on ``lines`` of the input if it has lines."""
    where = f" (lines {', '.join(map(str, lines))})" if lines else ""
    return InvalidRequestError(
        f"two requests have the id {own_id!r}{where}; each id may be used once, and a request "
        "without an id has the number of its line as its id"
    )


def request_hash(request: ChatRequest) -> str:
    """A hash that is equal for equal messages, model and parameters, however they are written.

    Attached files count by their content, and headers unless they hold a credential or number a
    request.

    >>> once = task_of("Why?", 0).request
    >>> again = task_of({"id": 5, "messages": [{"role": "user", "content": "Why?"}]}, 1).request
    >>> request_hash(once) == request_hash(again)
    True
    """
    asked: dict[str, Any] = {
        "messages": request.messages,
        "model": request.model,
        "params": request.params,
    }
    schema = getattr(request, "schema", None)
    if schema is not None:
        asked["schema"] = schema.json_schema
    attached = getattr(request, "attach", ())
    if attached:
        asked["attach"] = [_file_digest(path) for path in attached]
    headers = counted_headers(getattr(request, "extra_headers", {}))
    if headers:
        asked["extra_headers"] = headers
    return sha256(_canonical(asked).encode()).hexdigest()


def _file_digest(path: str) -> str:
    """A hash of a file's content; its path, if it cannot be read."""
    found = sha256()
    try:
        with open_plain(os.path.expanduser(path)) as file:
            while block := file.read(_BLOCK):
                found.update(block)
    except (OSError, ValueError) as error:
        let_through(error)
        return path
    return found.hexdigest()
