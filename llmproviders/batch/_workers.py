"""Where the requests of a batch run: threads, processes, Dask, or any other executor."""

from __future__ import annotations

import os
import pickle
import queue
import signal
import sys
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import (
    BrokenExecutor,
    Executor,
    Future,
    ProcessPoolExecutor,
)
from functools import partial
from math import inf
from typing import Protocol
from uuid import uuid4

from .._log import logger
from .._redact import redact
from .._request import ChatRequest
from .._runtime.scope import SYSTEM_CLOCK, CancelScope, Drain, ForkLock, in_slices
from .._signals import let_through
from ..client import BaseClient
from ..results import Completion
from . import _dask
from ._task import FinishedTask, Task

_CLIENTS_KEPT = 8

_clients: dict[bytes, BaseClient] = {}

_building = ForkLock()


_Parcel = tuple[bytes, str | None, Callable[[BaseClient], object] | None]


class Carrier:
    """Carries a client to the process of a task: unchanged in this one, rebuilt once in others.

    Args:
        client: the client.
        scope: ends what runs in this process; it is not pickled.
        drain: the drain of ``scope``; other processes look at its file.
        on_arrival: a function of a module, called with the rebuilt client once in each process.
    """

    def __init__(
        self,
        client: BaseClient,
        scope: CancelScope,
        drain: Drain,
        on_arrival: Callable[[BaseClient], object] | None = None,
    ) -> None:
        self._client: BaseClient | None = client
        self._scope = scope
        self._drain = drain
        self._on_arrival = on_arrival
        self._packed: bytes | None = None

    def pack(self) -> bytes:
        """The client's pickle, made once.

        Raises:
            TypeError: it cannot be pickled.
        """
        if self._packed is None:
            try:
                self._packed = pickle.dumps(self._client)
            except Exception as error:
                let_through(error)
                raise TypeError(
                    f"the client cannot be sent to other processes: {redact(str(error))}; "
                    "functions that it was given (accept, on_event) must be defined in a module"
                ) from error
        return self._packed

    def __getstate__(self) -> _Parcel:
        return self.pack(), self._drain.file, self._on_arrival

    def __setstate__(self, state: _Parcel) -> None:
        self._packed, file, self._on_arrival = state
        self._drain = Drain(file)
        self._scope = CancelScope().drained_by(self._drain)
        self._client = None

    def answer(self, request: ChatRequest, deadline: float | None) -> Completion:
        """Ask the client, within ``deadline`` seconds or the request's own deadline."""
        if request.deadline is not None:
            # It also overrides the client's own deadline.
            deadline = None
        scope = CancelScope.lasting(deadline, clock=SYSTEM_CLOCK, parent=self._scope)
        try:
            return self._here().answer(request, scope)
        finally:
            scope.close()

    def _here(self) -> BaseClient:
        if self._client is None:
            assert self._packed is not None
            self._client = _rebuild(self._packed, self._on_arrival)
        return self._client


def _rebuild(packed: bytes, on_arrival: Callable[[BaseClient], object] | None) -> BaseClient:
    with _building.mine:
        client = _clients.get(packed)
        if client is None:
            _leave_interrupts_to_the_parent()
            client = pickle.loads(packed)  # noqa: S301 - came in the executor's pickle
            assert isinstance(client, BaseClient)
            if on_arrival is not None:
                on_arrival(client)
            while len(_clients) >= _CLIENTS_KEPT:
                del _clients[next(iter(_clients))]
            _clients[packed] = client
        return client


def _leave_interrupts_to_the_parent() -> None:
    # A terminal's Ctrl-C also reaches a pool's processes and would interrupt work that the parent
    # lets them finish. A process that has not loaded multiprocessing is not one of its children.
    multiprocessing = sys.modules.get("multiprocessing")
    in_main_thread = threading.current_thread() is threading.main_thread()
    if multiprocessing and in_main_thread and multiprocessing.parent_process() is not None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)


Answer = tuple[Completion | None, Exception | None]


def work(carrier: Carrier, request: ChatRequest, deadline: float | None) -> Answer:
    """Do one request, and return its reply or its error."""
    try:
        return carrier.answer(request, deadline), None
    except Exception as error:  # noqa: BLE001 - whatever it is, it is this request's alone
        let_through(error)
        return None, error


#: How a task ended: finished, taken back before it began (None), or with a broken executor.
Ended = FinishedTask | BaseException | None

Tell = Callable[[Ended], None]


class Worker(Protocol):
    """Does tasks, and reports each one as it ends."""

    def send(self, task: Task, request: ChatRequest) -> None:
        """Start a task."""

    def withdraw(self) -> None:
        """Take back the tasks that have certainly not begun."""

    def close(self) -> None:
        """Take back every task that can be taken back, and end our own threads."""


class Threads:
    """Daemon threads, started as they are needed.

    A ``ThreadPoolExecutor`` would not do: an interrupt while it hands over a task can leave one of
    its locks held forever. A queue does not have this problem.

    Args:
        workers: the most threads.
        do: does a request.
        tell: called with each task as it ends, in its thread.
    """

    def __init__(self, workers: int, do: Callable[[ChatRequest], Answer], tell: Tell) -> None:
        self._workers = workers
        self._do = do
        self._tell = tell
        self._waiting: queue.SimpleQueue[tuple[Task, ChatRequest] | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []

    def send(self, task: Task, request: ChatRequest) -> None:
        """Start a task."""
        self._waiting.put((task, request))
        if len(self._threads) < self._workers:
            thread = threading.Thread(target=self._serve, name="llmproviders batch", daemon=True)
            self._threads.append(thread)
            try:
                thread.start()
            except RuntimeError as error:
                let_through(error)
                self._threads.remove(thread)
                logger.debug(
                    "no thread can be started (%s); %d do the work", error, len(self._threads)
                )
                if not self._threads:
                    # The caller's thread does the work, up to this mark.
                    self._waiting.put(None)
                    self._serve()

    def _serve(self) -> None:
        while (given := self._waiting.get()) is not None:
            task, request = given
            try:
                self._tell(FinishedTask(task, *self._do(request)))
            except BaseException as error:  # noqa: BLE001 - the batch raises it
                self._tell(error)

    def withdraw(self) -> None:
        """Take back the tasks that have not begun."""
        try:
            while True:
                self._waiting.get_nowait()
                self._tell(None)
        except queue.Empty:
            pass

    def close(self) -> None:
        """Take back the tasks that have not begun, and wait for the others."""
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
        drain: what keeps its tasks from sending, once the batch is stopped.
        stop: has its machines look at ``drain``; None: a task that it cancels has certainly not
            begun.
    """

    def __init__(
        self,
        submit: Callable[[ChatRequest], Future[Answer]],
        tell: Tell,
        *,
        drain: Drain,
        stop: Callable[[], object] | None,
    ) -> None:
        self._submit = submit
        self._tell = tell
        self._drain = drain
        self._stop = stop
        self._tasks: dict[Future[Answer], Task] = {}
        self._withdrawing = False

    def send(self, task: Task, request: ChatRequest) -> None:
        """Start a task."""
        future = self._submit(request)
        self._tasks[future] = task
        future.add_done_callback(self._done)

    def _done(self, future: Future[Answer]) -> None:
        self._tell(self._end_of(self._tasks.pop(future), future))
        if self._withdrawing and not self._tasks:
            self._drain.end()

    def _end_of(self, task: Task, future: Future[Answer]) -> Ended:
        if future.cancelled():
            if self._withdrawing:
                return None
            return BrokenExecutor("the executor cancelled a request of the batch")
        error = future.exception()
        if error is None:
            return FinishedTask(task, *future.result())
        if isinstance(error, BrokenExecutor) or not isinstance(error, Exception):
            return error
        return FinishedTask(task, None, error)

    def withdraw(self) -> None:
        """Take back the tasks that have certainly not begun; the others look at the drain."""
        if self._stop is None:
            self._withdraw_all()
        else:
            self._stop()

    def _withdraw_all(self) -> None:
        self._withdrawing = True
        for future in list(self._tasks):
            future.cancel()

    def close(self) -> None:
        """Cancel every task that the executor lets cancel."""
        self._withdraw_all()
        if not self._tasks:
            self._drain.end()


def drain_for(executor: Executor | None) -> Drain:
    """The drain of a batch; with a file, in case that the executor has other processes."""
    if executor is None:
        return Drain()
    return Drain(os.path.join(tempfile.gettempdir(), f"llmproviders-{uuid4().hex}.stopped"))


def worker_for(
    client: BaseClient,
    tell: Tell,
    *,
    workers: int,
    executor: Executor | None,
    scope: CancelScope,
    drain: Drain,
    deadline: float | None,
) -> Worker:
    """Choose where the tasks of a batch run; nothing is sent yet.

    Args:
        client: answers the requests.
        tell: called with each task as it ends, in any thread.
        workers: the number of our own threads.
        executor: threads, processes, Dask's, or any other; None for our own threads.
        scope: ends what runs in this process.
        drain: the drain of ``scope``.
        deadline: seconds for each request, or None.

    Raises:
        TypeError: the client cannot be sent to other processes.
        ValueError: it contains a key that everybody on a cluster could read.
    """
    on_dask = executor is not None and _dask.is_executor(executor)
    carrier = Carrier(client, scope, drain, _dask.share_limits if on_dask else None)
    if executor is None:
        return Threads(workers, lambda request: work(carrier, request, deadline), tell)
    if on_dask:
        _dask.check_keyless(client, carrier.pack())
    elif isinstance(executor, ProcessPoolExecutor):
        carrier.pack()
    # Dask merges equal calls unless they are marked as impure, and its futures can be cancelled
    # until they have ended.
    extra = {"pure": False} if on_dask else {}

    def submit(request: ChatRequest) -> Future[Answer]:
        return executor.submit(work, carrier, request, deadline, **extra)

    stop = partial(_dask.begin_drain, executor, drain.file) if on_dask else None
    return ViaExecutor(submit, tell, drain=drain, stop=stop)
