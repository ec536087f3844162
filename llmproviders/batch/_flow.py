"""Tasks through an executor, a bounded number of them under way."""

from __future__ import annotations

import queue
import time
from collections.abc import Generator, Iterator
from concurrent.futures import BrokenExecutor, Executor, Future, ThreadPoolExecutor
from math import inf
from typing import TYPE_CHECKING, Any, NamedTuple

from .._clock import Scope
from ..provider import BaseClient, Request
from ..results import Completion
from ._route import Answer, route_to
from ._task import BatchResult, Task

if TYPE_CHECKING:
    from typing_extensions import Self

_UNDER_WAY_PER_WORKER = 4


class Outcome(NamedTuple):
    """A task that has ended."""

    task: Task
    completion: Completion | None
    error: Exception | None

    def result(self) -> BatchResult:
        """As callers see it."""
        return BatchResult(self.task.id, self.task.index, self.completion, self.error)


class Flow:
    """Sends tasks to an executor and hands back each as it ends.

    Four tasks for each worker are with the executor at a time, so that none waits for the next;
    those that ended and were not taken count, too.

    Args:
        client: what answers.
        tasks: read one at a time, when there is room.
        workers: how many requests run at a time.
        executor: where they run; None: own threads.
        deadline: seconds for each request, or None.
    """

    def __init__(
        self,
        client: BaseClient,
        tasks: Iterator[Task],
        *,
        workers: int,
        executor: Executor | None,
        deadline: float | None = None,
    ) -> None:
        self._tasks = tasks
        self._room = workers * _UNDER_WAY_PER_WORKER
        self._scope = Scope().cancellable()
        self._own = ThreadPoolExecutor(workers, "llmproviders batch") if executor is None else None
        self._route = route_to(executor or self._own, client, self._scope, deadline)  # type: ignore[arg-type]
        self._under_way: dict[Future[Answer], Task] = {}
        self._ended: queue.SimpleQueue[Future[Answer] | None] = queue.SimpleQueue()
        self._input_error: BaseException | None = None
        self._more = True
        self._give_up_at = inf

    def stop(self, *, within_s: float = inf) -> None:
        """Send nothing more, and wait ``within_s`` seconds for what is under way; reentrant, for
        signal handlers.
        """
        self._more = False
        self._give_up_at = time.monotonic() + within_s
        self._ended.put(None)

    def outcomes(self) -> Generator[Outcome, None, None]:
        """Every task as it ends.

        An error of the input is raised when what was sent before it has ended.

        Raises:
            BrokenExecutor: the executor does not work any more.
        """
        while True:
            if self._has_room():
                task = self._next_task()
                if task is not None and task.request is not None:
                    self._send(task, task.request)
                elif task is not None:
                    yield Outcome(task, None, task.error)
                continue
            if not self._under_way:
                break
            outcome = self._take()
            if outcome is not None:
                yield outcome
            elif time.monotonic() >= self._give_up_at and self._ended.empty():
                break
        if self._input_error is not None:
            raise self._input_error

    def _has_room(self) -> bool:
        return self._more and len(self._under_way) < self._room

    def _next_task(self) -> Task | None:
        try:
            return next(self._tasks)
        except StopIteration:
            self._more = False
        except Exception as error:  # noqa: BLE001 - raised at the end
            self._more = False
            self._input_error = error
        return None

    def _send(self, task: Task, request: Request) -> None:
        future = self._route.send(request)
        self._under_way[future] = task
        future.add_done_callback(self._ended.put)

    def _take(self) -> Outcome | None:
        patience = self._give_up_at - time.monotonic()
        try:
            future = self._ended.get(timeout=None if patience == inf else max(0.0, patience))
        except queue.Empty:
            return None
        if future is None:
            if self._route.knows_started:
                self._withdraw()
            return None
        task = self._under_way.pop(future, None)
        if task is None:
            return None
        if future.cancelled():
            raise BrokenExecutor("the executor cancelled a request of the batch; was it shut down?")
        error = future.exception()
        if error is None:
            return Outcome(task, *future.result())
        if isinstance(error, Exception) and not isinstance(error, BrokenExecutor):
            return Outcome(task, None, error)
        raise error

    def _withdraw(self) -> None:
        for future in list(self._under_way):
            if future.cancel():
                del self._under_way[future]

    def close(self) -> None:
        """Break off whatever is under way, and end the own threads."""
        self._more = False
        self._scope.cancel("the batch was ended")
        self._withdraw()
        if self._own is not None:
            self._own.shutdown()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()
