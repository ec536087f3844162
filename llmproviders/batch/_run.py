"""A batch in memory: requests in, results out."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence, Sized
from concurrent.futures import Executor
from typing import Any
from weakref import WeakValueDictionary

from .._account.arguments import spelled_out
from .._checks import seconds, shown, whole
from .._display.text import count
from .._printable import be_brief
from .._request import BatchParams, ChatRequest, Unpack
from .._signals import let_through
from ..cache import Cached
from ..client import BaseClient, briefly, owned
from ..errors import InvalidRequestError
from ..messages import Prompt
from ._flow import Flow
from ._interrupts import Interrupts
from ._summary import BatchStats, announce, bar_if
from ._task import BatchResult, SeenIds, request_of, tasks_of

BatchRequest = Prompt | Mapping[str, object]

GRACE_S = 10.0
"""Seconds for requests in progress to finish after Ctrl-C."""


@briefly
def run(
    client: BaseClient,
    requests: Iterable[BatchRequest],
    *,
    workers: int = 4,
    executor: Executor | None = None,
    on_result: Callable[[BatchResult], object] | None = None,
    progress: bool = False,
    deadline: float | None = None,
    cache: str | os.PathLike[str] | None = None,
) -> Generator[BatchResult, None, None]:
    """Answer many requests at a time, and yield each result as its request finishes.

    A request that fails is a result with an ``error``. The input is read as workers become free,
    and may be endless; at most four requests per worker are in progress, however slow the consumer.
    Closing the generator cancels the requests in progress.

    On Ctrl-C nothing more is sent, not even what only waited for its turn or for a retry. The
    replies to what was sent have ten seconds to arrive and are yielded, and then
    ``KeyboardInterrupt`` is raised. Its ``results`` are the results still in use, for
    example all of them if ``list(run(...))`` was interrupted, and those that were not yielded yet.
    A second Ctrl-C does not wait.

    Args:
        client: a provider or a ``FailoverClient``.
        requests: each a string, a list of messages, or a dict
            ``{"id": ..., "prompt" | "messages": ..., **keywords}`` with the keywords of
            ``complete``, such as ``"stream": False``. A pandas Series gives its index as ids.
        workers: how many requests run at a time; with an ``executor``: how many it has.
        executor: where they run, any ``concurrent.futures.Executor``; default: threads. It is not
            shut down.
        on_result: called with each result before it is yielded.
        progress: show a progress bar on standard error.
        deadline: seconds for each request, waits and retries included.
        cache: a file of replies; questions in it are not asked again, see
            :class:`~llmproviders.Cached`.

    Returns:
        A generator of one ``BatchResult`` for each request, in the order in which they finish.
        Nothing is sent before its first ``next()``. It belongs to the process that made that
        first ``next()``; a forked child cannot continue it.

    Raises:
        InvalidRequestError: two requests have the same id. In a list this is raised at once,
            before anything is sent; in an iterator when the second one comes up, after the
            results of those before it.
        TypeError: not a client; one string, one dict or a DataFrame instead of a list of
            requests; or a client that cannot be sent to the executor's processes.
        concurrent.futures.BrokenExecutor: while iterating, after the replies that have arrived; the
            executor no longer works.

    >>> from llmproviders.testing import ScriptedProvider
    >>> client = ScriptedProvider(["Because."])
    >>> for result in run(client, [{"id": "sky", "prompt": "Why blue?"}]):
    ...     print(result.id, result.completion)
    sky Because.
    """
    client, workers, deadline = check_arguments(client, workers, deadline, cache)
    requests = _listed(requests)
    known = None
    if isinstance(requests, Sequence):
        known = SeenIds()
        for task in tasks_of(requests):
            if task.id_known:
                known.add(task.id, task.index + 1)  # type: ignore[arg-type]
    tasks = tasks_of(requests, known)
    flow = Flow(client, tasks, workers=workers, executor=executor, deadline=deadline)
    total = len(requests) if isinstance(requests, Sized) else None
    return owned(_results(flow, on_result, progress=progress, total=total), client.name)


@spelled_out(BatchParams)
@briefly
def map(
    client: BaseClient,
    prompts: Iterable[BatchRequest],
    *,
    workers: int = 4,
    progress: bool | None = None,
    executor: Executor | None = None,
    deadline: float | None = None,
    cache: str | os.PathLike[str] | None = None,
    **params: Unpack[BatchParams],
) -> list[BatchResult]:
    """Answer many prompts at a time, and return their results in the order of the prompts.

    Args:
        client: a provider or a ``FailoverClient``.
        prompts: each as a request of :func:`run`.
        workers: how many requests run at a time; with an ``executor``: how many it has.
        progress: True shows a progress bar on standard error; None, the default, and False do not.
        executor: as for :func:`run`.
        deadline: seconds for each request, waits and retries included.
        cache: as for :func:`run`.
        **params: ``model``, ``system``, ``schema``, ``stream=False`` and the others that
            ``complete`` takes, for every prompt that does not have its own.

    Raises:
        InvalidRequestError: two prompts have the same id.
        TypeError: as for :func:`run`, or a parameter that no service has.
        KeyboardInterrupt: its ``results`` are those that have arrived.

    >>> from llmproviders import batch
    >>> from llmproviders.testing import ScriptedProvider
    >>> client = ScriptedProvider(["Blue."])
    >>> results = batch.map(client, ["The sky?", "The sea?"], temperature=0)
    >>> [str(result.completion) for result in results]
    ['Blue.', 'Blue.']
    """
    check_params(params)
    results = run(
        client,
        [with_params(request, params) for request in _listed(prompts)],
        workers=workers,
        executor=executor,
        progress=bool(progress),
        deadline=deadline,
        cache=cache,
    )
    return sorted(results, key=lambda result: result.index)


def check_arguments(
    client: BaseClient,
    workers: int,
    deadline: float | None,
    cache: str | os.PathLike[str] | None,
) -> tuple[BaseClient, int, float | None]:
    """Return the client behind its cache, the number of workers, and the deadline.

    Raises:
        TypeError: not a client.
        InvalidRequestError: a wrong number.
    """
    if not isinstance(client, BaseClient):
        raise TypeError(f"a provider or a FailoverClient is needed, not {client!r}")
    workers = whole("workers", workers)
    deadline = None if deadline is None else seconds("deadline", deadline)
    if cache is not None:
        client = Cached(client, cache)
    return client, workers, deadline


def check_params(params: Mapping[str, Any]) -> ChatRequest:
    """A request with the parameters common to a batch.

    Raises:
        TypeError: a parameter that no service has.
        InvalidRequestError: a value that no service could accept.
    """
    return request_of("-", params)


def with_params(request: BatchRequest, params: Mapping[str, Any]) -> BatchRequest:
    """The request with defaults for parameters that it does not set."""
    if not params:
        return request
    if isinstance(request, Mapping):
        return {**params, **request}
    return {**params, "prompt": request}


def _listed(requests: Iterable[BatchRequest]) -> Iterable[BatchRequest]:
    """The requests, those of a pandas Series as a list with the index as ids.

    Raises:
        TypeError: one request, or a table.
        InvalidRequestError: the index of a Series has a label twice.
    """
    if isinstance(requests, (str, bytes, Mapping)):
        raise TypeError("requests must be a list or another iterable; put a single one into a list")
    refuse_table("requests", requests)
    pandas: Any = sys.modules.get("pandas")
    if pandas is not None and isinstance(requests, pandas.Series):
        if not requests.index.is_unique:
            twice = shown(label_id(requests.index[requests.index.duplicated()][0]))
            raise InvalidRequestError(
                f"the index of the Series, whose labels are the ids, has {twice} more than once; "
                "pass series.reset_index(drop=True)"
            )
        return [
            with_params(request, {"id": label_id(label)}) for label, request in requests.items()
        ]
    return requests


def refuse_table(argument: str, given: object) -> None:
    """Raise a ``TypeError`` for a DataFrame of any library, which says what to pass instead."""
    if any(base.__name__ == "DataFrame" for base in type(given).__mro__):
        raise TypeError(
            f"{argument} is a DataFrame; pass one of its columns, such as frame['prompt'], to "
            "llmproviders.batch.map, or fill a prompt from each row with "
            "llmproviders.batch.table(client, template, frame)"
        )


def label_id(label: object) -> str | int:
    """The id for a label of an index: itself if it can be an id, else its text."""
    if isinstance(label, str):
        # An id cannot have a lone surrogate.
        return label.encode("utf-8", "backslashreplace").decode()
    try:
        return whole("label", label, least=-sys.maxsize)
    except ValueError as error:
        let_through(error)
        return str(label)


def _results(
    flow: Flow,
    on_result: Callable[[BatchResult], object] | None,
    *,
    progress: bool,
    total: int | None,
) -> Generator[BatchResult, None, None]:
    # An interrupted list(run(...)) loses its list, but only after its items were collected here.
    in_use: WeakValueDictionary[int, BatchResult] = WeakValueDictionary()
    stats = BatchStats()
    try:
        with flow, bar_if(progress, total=total) as bar:
            interrupts = Interrupts(
                lambda: flow.stop(
                    within_s=GRACE_S, announce=lambda running: announce(running, GRACE_S, bar)
                ),
                lambda: flow.stop(within_s=0),
                then=flow.stop_reading,
                signals=(signal.SIGINT,),
            )
            outcomes = flow.outcomes()
            while True:
                with interrupts:
                    outcome = next(outcomes, None)
                if outcome is None:
                    break
                result = outcome.result()
                in_use[result.index] = result
                if bar is not None:
                    stats.add(outcome)
                    bar.show(stats)
                if on_result is not None:
                    on_result(result)
                yield result
                del result, outcome
        interrupts.pass_on()
    except KeyboardInterrupt as interrupt:
        found = [*in_use.values(), *(outcome.result() for outcome in flow.arrived())]
        found.sort(key=lambda result: result.index)
        interrupt.results = found  # type: ignore[attr-defined]
        be_brief(interrupt, f"Stopped: {count(len(found), 'result')} are in sys.last_value.results")
        raise
