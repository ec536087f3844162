"""Tasks on their way, a bounded number of them at a time."""

from __future__ import annotations

import queue
import time
from collections.abc import Generator, Iterator
from concurrent.futures import Executor
from math import inf
from typing import TYPE_CHECKING, Any

from .._runtime.scope import CancelScope
from .._signals import let_through
from ..client import BaseClient
from ._task import FinishedTask, Task
from ._workers import Ended, worker_for

if TYPE_CHECKING:
    from typing_extensions import Self


_UNDER_WAY_PER_WORKER = 4


# A signal that comes just before a wait begins is not noticed until the wait is over; on
# Windows none is at any time.
_LOOK_UP_S = 0.2


class _Wake:
    """Stands in the queue of what ended to have a look at what was asked meanwhile."""


_WAKE = _Wake()


class Flow:
    """Sends tasks to be done and hands back each as it ends.

    Four tasks for each worker are under way at a time, so that none waits for the next; those
    that ended and were not taken count, too.

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
        self._under_way = 0
        self._scope = CancelScope().cancellable()
        self._ended: queue.SimpleQueue[Ended | _Wake] = queue.SimpleQueue()
        self._lane = worker_for(
            client,
            self._ended.put,
            workers=workers,
            executor=executor,
            scope=self._scope,
            deadline=deadline,
        )
        self._input_error: BaseException | None = None
        self._more = True
        self._give_up_at = inf

    def stop(self, *, within_s: float = inf) -> None:
        """Send nothing more, and wait ``within_s`` seconds for what is under way; reentrant, for
        signal handlers.
        """
        self._more = False
        self._give_up_at = time.monotonic() + within_s
        self._ended.put(_WAKE)

    def outcomes(self) -> Generator[FinishedTask, None, None]:
        """Every task as it ends.

        An error of the input is raised when what was sent before it has ended.

        Raises:
            BrokenExecutor: the executor does not work any more.
        """
        while True:
            if self._more and self._under_way < self._room:
                task = self._next_task()
                if task is not None and task.request is not None:
                    self._under_way += 1
                    self._lane.send(task, task.request)
                elif task is not None:
                    yield FinishedTask(task, None, task.error)
                continue
            if not self._under_way:
                break
            left = self._give_up_at - time.monotonic()
            try:
                ended = self._ended.get(timeout=min(max(0.0, left), _LOOK_UP_S))
            except queue.Empty:
                if left <= 0:
                    break
                continue
            if isinstance(ended, _Wake):
                self._lane.withdraw()
                continue
            self._under_way -= 1
            if isinstance(ended, BaseException):
                raise ended
            if ended is not None:
                yield ended
        if self._input_error is not None:
            raise self._input_error

    def _next_task(self) -> Task | None:
        try:
            return next(self._tasks)
        except StopIteration:
            self._more = False
        except Exception as error:  # noqa: BLE001 - raised at the end
            let_through(error)
            self._more = False
            self._input_error = error
        return None

    def close(self) -> None:
        """Break off whatever is under way."""
        self._more = False
        self._scope.cancel("the batch was ended")
        self._lane.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()
