"""Run a limited number of tasks at a time."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Executor
from contextlib import suppress
from math import inf
from typing import TYPE_CHECKING, Any, NamedTuple

from .._request import ChatRequest
from .._runtime.scope import CancelScope
from .._signals import let_through
from ..client import BaseClient
from ._task import FinishedTask, Task
from ._workers import Ended, drain_for, worker_for

if TYPE_CHECKING:
    from typing_extensions import Self


_UNDER_WAY_PER_WORKER = 4


# Longest single wait: a signal that arrives just before a wait, or at any time on Windows, is
# only handled when the wait returns.
_LONGEST_WAIT_S = 0.2

# A request that was not sent yet looks this often, at the latest, whether it still may be.
_SETTLE_S = 0.5

# An executor that broke may never tell how its other requests ended.
_BROKEN_GRACE_S = 30.0


class _Stopped(NamedTuple):
    """Put among the finished tasks by :meth:`Flow.stop`, to wake the thread that waits."""

    announce: Callable[[int], object] | None


class _InputStopped(BaseException):
    """Ends a read of the input, from a signal's handler."""


class Flow:
    """Sends tasks to workers, and yields each one as it ends.

    At most four tasks per worker are in progress, so no worker has to wait for the next one.
    Finished tasks count until they are taken.

    Args:
        client: answers the requests.
        tasks: read one at a time, when there is room.
        workers: how many requests run at a time.
        executor: runs them; None for our own threads.
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
        self._drain = drain_for(executor)
        self._scope = CancelScope().drained_by(self._drain)
        self._ended: queue.SimpleQueue[Ended | _Stopped] = queue.SimpleQueue()
        self._worker = worker_for(
            client,
            self._ended.put,
            workers=workers,
            executor=executor,
            scope=self._scope,
            drain=self._drain,
            deadline=deadline,
        )
        self._error: BaseException | None = None
        self._more = True
        self._reading = False
        self._give_up_at = inf

    def stop(
        self, *, within_s: float = inf, announce: Callable[[int], object] | None = None
    ) -> None:
        """Send nothing more, and read the replies to what was sent.

        Reentrant, so a signal handler may call it.

        Args:
            within_s: seconds to wait for requests in progress.
            announce: called with the number of requests in progress, if any, by the thread that
                reads the outcomes, once those that only waited for their turn have come back.
        """
        self._more = False
        self._give_up_at = time.monotonic() + within_s
        self._drain.begin()
        self._ended.put(_Stopped(announce))

    def stop_reading(self) -> None:
        """End a read of the input that is under way, after :meth:`stop`; for a signal's handler.

        Otherwise an input that waits, such as a terminal or a queue, would hold up the end.
        """
        if self._reading:
            raise _InputStopped

    def outcomes(self) -> Generator[FinishedTask, None, None]:
        """Yield every task as it ends.

        An error of the input is raised once the tasks before it have ended, and one of the executor
        once the replies to what was sent have been yielded.

        Raises:
            BrokenExecutor: the executor no longer works.
        """
        announce: Callable[[int], object] | None = None
        announce_at = inf
        while True:
            if self._more and self._under_way < self._room:
                task = self._next_task()
                if task is None or not self._more:
                    # Read to its end, or stopped meanwhile.
                    continue
                if task.request is None:
                    yield FinishedTask(task, None, task.error)
                    continue
                self._send(task, task.request)
                continue
            if not self._under_way:
                break
            now = time.monotonic()
            left = self._give_up_at - now
            if now >= announce_at:
                running, announce_at = self._under_way - self._ended.qsize(), inf
                if announce is not None and running > 0:
                    announce(running)
            try:
                wait = min(left, announce_at - now, _LONGEST_WAIT_S)
                ended = self._ended.get(timeout=max(0.0, wait))
            except queue.Empty:
                if left <= 0:
                    break
                continue
            if isinstance(ended, _Stopped):
                self._worker.withdraw()
                announce, announce_at = ended.announce, time.monotonic() + _SETTLE_S
                continue
            self._under_way -= 1
            if isinstance(ended, BaseException):
                self._break(ended)
                continue
            sent = None if ended is None else ended.if_sent()
            if sent is not None:
                yield sent
        if self._error is not None:
            raise self._error

    def _send(self, task: Task, request: ChatRequest) -> None:
        self._under_way += 1
        try:
            self._worker.send(task, request)
        except Exception as error:  # noqa: BLE001 - raised at the end
            let_through(error)
            self._under_way -= 1
            self._break(error)

    def _break(self, error: BaseException) -> None:
        if self._error is None:
            self._error = error
            left = self._give_up_at - time.monotonic()
            self.stop(within_s=min(left, _BROKEN_GRACE_S))

    def _next_task(self) -> Task | None:
        try:
            try:
                self._reading = True
                return next(self._tasks)
            finally:
                self._reading = False
        except (StopIteration, _InputStopped):
            self._more = False
        except Exception as error:  # noqa: BLE001 - raised at the end
            let_through(error)
            self._more = False
            self._error = error
        return None

    def arrived(self) -> Iterator[FinishedTask]:
        """After :meth:`close`: the replies that nobody has taken."""
        with suppress(queue.Empty):
            while True:
                ended = self._ended.get_nowait()
                if isinstance(ended, FinishedTask) and ended.completion is not None:
                    yield ended

    def close(self) -> None:
        """Cancel the requests in progress."""
        self._more = False
        if self._under_way:
            self._drain.begin()
        self._scope.cancel("the batch was ended")
        self._worker.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()
