"""Where tasks are done: own threads, or any executor."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Executor, Future, ThreadPoolExecutor
from functools import partial
from math import inf
from typing import Protocol

from .._clock import Scope, in_slices
from ..provider import BaseClient, Request
from ..results import Completion
from . import _dask
from ._carrier import Carrier, work
from ._task import Outcome, Task

Answer = tuple[Completion | None, Exception | None]

#: How a task came back: done, not begun and taken back (None), or what broke the executor.
Ended = Outcome | BaseException | None
Tell = Callable[[Ended], None]


class Lane(Protocol):
    """Does tasks, and tells of each as it ends."""

    def send(self, task: Task, request: Request) -> None:
        """Have one done."""

    def withdraw(self) -> None:
        """Take back those that have surely not begun."""

    def close(self) -> None:
        """Take back whatever can be, and end the own threads."""


class Threads:
    """Own threads, started as they are needed.

    Not a ``ThreadPoolExecutor``: an interrupt that comes while it hands over a task can leave a
    lock behind that nobody opens any more. Queues have no such moment.

    Args:
        workers: how many there are at most.
        do: what is to be done with a request.
        tell: called with each task as it ends, in its thread.
    """

    def __init__(self, workers: int, do: Callable[[Request], Answer], tell: Tell) -> None:
        self._workers = workers
        self._do = do
        self._tell = tell
        self._waiting: queue.SimpleQueue[tuple[Task, Request] | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []

    def send(self, task: Task, request: Request) -> None:
        """Have one done."""
        self._waiting.put((task, request))
        if len(self._threads) < self._workers:
            thread = threading.Thread(target=self._serve, name="llmproviders batch", daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self) -> None:
        while (given := self._waiting.get()) is not None:
            task, request = given
            try:
                self._tell(Outcome(task, *self._do(request)))
            except BaseException as error:  # noqa: BLE001 - the batch raises it
                self._tell(error)

    def withdraw(self) -> None:
        """Take back those that have not begun."""
        try:
            while True:
                self._waiting.get_nowait()
                self._tell(None)
        except queue.Empty:
            pass

    def close(self) -> None:
        """Take back those that have not begun, and wait for the others."""
        self.withdraw()
        for _ in self._threads:
            self._waiting.put(None)
        for thread in self._threads:
            in_slices(partial(_ended, thread), inf)


def _ended(thread: threading.Thread, within_s: float) -> bool:
    thread.join(within_s)
    return not thread.is_alive()


class ViaExecutor:
    """Any executor; it is not shut down.

    Args:
        submit: sends a request to it.
        tell: called with each task as it ends, in any thread.
        knows_begun: whether what the executor lets be cancelled has surely not begun.
    """

    def __init__(
        self, submit: Callable[[Request], Future[Answer]], tell: Tell, *, knows_begun: bool
    ) -> None:
        self._submit = submit
        self._tell = tell
        self._knows_begun = knows_begun
        self._tasks: dict[Future[Answer], Task] = {}
        self._withdrawing = False

    def send(self, task: Task, request: Request) -> None:
        """Have one done."""
        future = self._submit(request)
        self._tasks[future] = task
        future.add_done_callback(self._done)

    def _done(self, future: Future[Answer]) -> None:
        self._tell(self._end_of(self._tasks.pop(future), future))

    def _end_of(self, task: Task, future: Future[Answer]) -> Ended:
        if future.cancelled():
            if self._withdrawing:
                return None
            return BrokenExecutor("the executor cancelled a request of the batch")
        error = future.exception()
        if error is None:
            return Outcome(task, *future.result())
        if isinstance(error, BrokenExecutor) or not isinstance(error, Exception):
            return error
        return Outcome(task, None, error)

    def withdraw(self) -> None:
        """Take back those that have surely not begun."""
        if self._knows_begun:
            self._withdraw_all()

    def _withdraw_all(self) -> None:
        self._withdrawing = True
        for future in list(self._tasks):
            future.cancel()

    def close(self) -> None:
        """Take back whatever the executor lets go."""
        self._withdraw_all()


def lane_for(
    client: BaseClient,
    tell: Tell,
    *,
    workers: int,
    executor: Executor | None,
    scope: Scope,
    deadline: float | None,
) -> Lane:
    """Where the tasks of a batch are done; nothing is sent yet.

    Args:
        client: what answers there.
        tell: called with each task as it ends, in any thread.
        workers: how many own threads there are.
        executor: threads, processes, Dask's, or any other; None: own threads.
        scope: ends what runs in this process.
        deadline: seconds for each request, or None.

    Raises:
        TypeError: the client cannot be sent to other processes.
        ValueError: it carries a key that all of a cluster could read.
    """
    on_dask = executor is not None and _dask.is_executor(executor)
    carrier = Carrier(client, scope, _dask.share_places if on_dask else None)
    if executor is None:
        return Threads(workers, lambda request: work(carrier, request, deadline), tell)
    if on_dask:
        _dask.check_keyless(client, carrier.pack())
    elif not isinstance(executor, ThreadPoolExecutor):
        from concurrent.futures import ProcessPoolExecutor

        if isinstance(executor, ProcessPoolExecutor):
            carrier.pack()
    # Dask takes the same function of the same arguments for the same task; and its futures count
    # as waiting until they have ended.
    extra = {"pure": False} if on_dask else {}

    def submit(request: Request) -> Future[Answer]:
        return executor.submit(work, carrier, request, deadline, **extra)

    return ViaExecutor(submit, tell, knows_begun=not on_dask)
