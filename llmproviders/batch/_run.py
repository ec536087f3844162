"""A batch in memory: requests in, results out as they finish."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from concurrent.futures import Executor

from .._checks import whole
from .._runtime.process import owned
from ..client import BaseClient
from ..messages import Prompt
from ._flow import Flow
from ._task import BatchResult, tasks_of

BatchRequest = Prompt | Mapping[str, object]


def run(
    client: BaseClient,
    requests: Iterable[BatchRequest],
    *,
    workers: int = 4,
    executor: Executor | None = None,
    on_result: Callable[[BatchResult], object] | None = None,
) -> Generator[BatchResult, None, None]:
    """Answer many requests at a time, and yield each one's result as it finishes.

    A request that fails is a result with an ``error``. The input is read as room becomes free,
    and may be endless; four requests for each worker are under way at most, however slow the
    consumer. Closing the generator breaks off what is under way.

    Args:
        client: a provider or a ``FailoverClient``.
        requests: each a string, a list of messages, or a dict
            ``{"id": ..., "prompt" | "messages": ..., "model": ..., **params}``.
        workers: how many run at a time; with an ``executor``: how many it has.
        executor: where they run, any ``concurrent.futures.Executor``; default: threads. It is not
            shut down.
        on_result: called with each result before it is yielded.

    Returns:
        A generator of one ``BatchResult`` for each request, in the order in which they finish.
        Nothing is sent before its first ``next()``. It belongs to the process that made that
        first ``next()``; a forked child cannot go on with it.

    Raises:
        InvalidRequestError: two requests have the same id: of a list at once, before anything is
            sent; of an iterator, which can be read but once, when the second one comes up: it is
            not sent, and the results of those before it come first.
        TypeError: no client, one string or dict instead of a list of them, or a client that
            cannot be sent to the executor's processes.
        concurrent.futures.BrokenExecutor: while iterating; the executor does not work any more.

    >>> from llmproviders.testing import ScriptedProvider
    >>> client = ScriptedProvider(["Because."])
    >>> for result in run(client, [{"id": "sky", "prompt": "Why blue?"}]):
    ...     print(result.id, result.completion)
    sky Because.
    """
    workers = check_arguments(client, workers)
    if isinstance(requests, (str, bytes, Mapping)):
        raise TypeError("requests is a list or another iterable of them; put the one into a list")
    if isinstance(requests, Sequence):
        for _ in tasks_of(requests):
            pass
    flow = Flow(client, tasks_of(requests), workers=workers, executor=executor)
    return owned(_results(flow, on_result), client.name)


def check_arguments(client: BaseClient, workers: int) -> int:
    """The number of workers, after a look at what no batch can work with.

    Raises:
        TypeError: no client.
        InvalidRequestError: the number of workers is none.
    """
    if not isinstance(client, BaseClient):
        raise TypeError(f"a provider or a FailoverClient is needed, not {client!r}")
    return whole("workers", workers)


def _results(
    flow: Flow, on_result: Callable[[BatchResult], object] | None
) -> Generator[BatchResult, None, None]:
    with flow:
        for outcome in flow.outcomes():
            result = outcome.result()
            if on_result is not None:
                on_result(result)
            yield result
