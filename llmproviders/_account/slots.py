"""Slots limit how many requests of one credential run at a time. The others wait in line."""

from __future__ import annotations

import gc
import os
import threading
import time
from collections import deque
from itertools import count, takewhile
from pathlib import Path
from weakref import WeakValueDictionary

from .._log import logger
from .._runtime import files as _files
from .._runtime.files import Held, Unusable
from .._runtime.scope import SLICE_S, CancelScope, ForkLock, Waker
from .._signals import ignoring, let_through
from ..errors import RateLimitError


class _Waiter:
    """One request that waits for a slot, then holds it.

    Attributes:
        limit: how many may hold a slot at a time, this one included, when it takes its own.
        thread: the thread that asked for it.
        wake: set when a slot may be free.
        over: whether it has given its slot back, or given up waiting.
    """

    __slots__ = ("limit", "over", "thread", "wake")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.thread = threading.current_thread()
        self.wake = Waker()
        self.over = False


class _SlotPool:
    """The slots of one credential in this process: who holds one, and who waits in line.

    First come, first served, with one exception: requests of one credential may have different
    limits, and one that is kept waiting by a small limit does not hold up those behind it whose
    limit leaves room.

    There is no lock. A dropped stream gives its slot back when the garbage collector finds it,
    which may be in the middle of these very lines, and Ctrl-C may end them between any two. A lock
    could be held at that moment, and nobody would release it. Instead:

    - ``_holding`` is a set and ``_waiting`` a list. Each is changed by single operations (add,
      discard, append, remove), which the interpreter does not interrupt, and is read from a copy
      or by its length.
    - A slot is taken by adding oneself to ``_holding`` and then counting. If two have added
      themselves for the last slot, both see one too many, step back, and try again.
    - Whoever leaves wakes the next in line. A wake that is lost costs a moment: a waiter looks
      again every ``SLICE_S`` seconds anyway.
    """

    def __init__(self) -> None:
        self._holding: set[_Waiter] = set()
        self._waiting: list[_Waiter] = []

    def enter(self, waiter: _Waiter, scope: CancelScope) -> bool:
        """Take a slot; return whether it had to wait."""
        if not self._waiting and self._hold(waiter):
            return False
        self._waiting.append(waiter)
        if self._take_turn(waiter):
            return False
        self._look_after_abandoned(waiter)
        while not self._take_turn(waiter):
            scope.wait(waiter.wake)
            _collect_garbage()
        return True

    def leave(self, waiter: _Waiter) -> None:
        """Give the slot back, or stop waiting for it; safe to call more than once."""
        waiter.over = True
        self._holding.discard(waiter)
        self._leave_line(waiter)

    def _take_turn(self, waiter: _Waiter) -> bool:
        """Take a slot if one is free and this waiter is next in line."""
        if self._next_in_line() is not waiter or not self._hold(waiter):
            return False
        self._leave_line(waiter)
        return True

    def _hold(self, waiter: _Waiter) -> bool:
        """Take a slot if one is free."""
        if len(self._holding) >= waiter.limit:
            return False
        self._holding.add(waiter)
        # Another may have done the same since the check. And if this one was cancelled in between,
        # nobody would give its slot back.
        if len(self._holding) <= waiter.limit and not waiter.over:
            return True
        self._holding.discard(waiter)
        self._wake_next()
        return False

    def _leave_line(self, waiter: _Waiter) -> None:
        if waiter in self._waiting:
            # Another thread may cancel it at the same time.
            with ignoring(ValueError):
                self._waiting.remove(waiter)
        self._wake_next()

    def _wake_next(self) -> None:
        following = self._next_in_line()
        if following is not None:
            following.wake.set()

    def _next_in_line(self) -> _Waiter | None:
        """The first in line whose limit leaves room."""
        for waiter in self._waiting.copy():
            if len(self._holding) < waiter.limit:
                return waiter
        return None

    def _look_after_abandoned(self, waiter: _Waiter) -> None:
        """Before a wait, check whether the slots are held by abandoned streams.

        Raises:
            RateLimitError: this thread holds all slots itself, so the wait would never end.
        """
        others = self._others(waiter)
        if any(other.thread is waiter.thread or not other.thread.is_alive() for other in others):
            # A stream that was dropped in a reference cycle is still open until it is collected.
            gc.collect()
            others = self._others(waiter)
        else:
            _collect_garbage()
        if len(others) >= waiter.limit and all(o.thread is waiter.thread for o in others):
            raise RateLimitError(
                f"this thread waits for a stream that it holds open itself ({waiter.limit} at a "
                "time for this key): read the stream to its end or close it, or raise "
                "max_concurrency"
            )

    def _others(self, waiter: _Waiter) -> set[_Waiter]:
        return self._holding.copy() - {waiter}


class Slot:
    """A context manager that holds one of a credential's slots.

    The context's value is the seconds waited. The slot may be given back in another thread; it is
    given back at the latest when the generator that holds it is dropped.

    Args:
        credential: what the slots are counted by; see :func:`.keys.digest`.
        limit: how many may be held at a time, this one included, when it is taken.
        scope: how long to wait.
        file: a file of this user; all processes with the same file share the slots. None: this
            process only.

    Raises:
        LLMError: the scope ended first; see :meth:`CancelScope.error`.
        RateLimitError: all slots are held by streams that this thread has open.
    """

    __slots__ = ("_credential", "_file", "_held", "_limit", "_pool", "_scope", "_waiter")

    def __init__(
        self, credential: str, limit: int, scope: CancelScope, *, file: Path | None = None
    ) -> None:
        self._credential = credential
        self._limit = limit
        self._scope = scope
        self._file = file

    def __enter__(self) -> float:
        clock = self._scope.clock
        start = clock.monotonic()
        self._pool = _pool(self._credential)
        self._waiter = _Waiter(self._limit)
        self._held: Held | None = None
        self._scope.attach(self, self._leave)
        try:
            waited = self._pool.enter(self._waiter, self._scope)
            if self._file is not None:
                waited |= self._enter_shared(self._file)
            return clock.monotonic() - start if waited else 0.0
        except BaseException:
            self.__exit__()
            raise

    def __exit__(self, *_: object) -> None:
        self._leave()
        self._scope.detach(self)

    def _leave(self) -> None:
        if self._held is not None:
            self._held.release()
        self._pool.leave(self._waiter)

    def _enter_shared(self, file: Path) -> bool:
        """Take one of the lock files shared by all processes; return whether it had to wait.

        While a process waits, it holds the door's lock file, so that a process which returns at
        once queues behind it. Each limit has its own door: a process that waits because of a small
        limit does not block those with a larger one.
        """
        try:
            stem = _files.locks_folder(file) / self._credential[:16]
            door = stem.with_suffix(f".{self._limit}.door")
            waited = False
            standing = _files.try_lock(door, self._scope)
            if standing is None:
                waited = True
                standing = _files.wait_for_lock(door, self._scope)
            with standing:
                while True:
                    self._held = self._lock_free_file(stem)
                    if self._held is not None:
                        return waited
                    waited = True
                    _files.pause(self._scope)
        except Unusable as trouble:
            _files.tell_once(file, trouble)
            return False

    def _lock_free_file(self, stem: Path) -> Held | None:
        """Lock the first free one of the lock files, unless others hold as many as the limit.

        There are as many files as were ever locked at once; they are never deleted.
        """
        seats = (stem.with_suffix(f".{number}") for number in count())
        there = list(takewhile(os.path.exists, seats))
        mine: Held | None = None
        taken = 0
        try:
            for number, seat in enumerate([*there, stem.with_suffix(f".{len(there)}")]):
                if mine is not None and taken + len(there) - number < self._limit:
                    break
                held = _files.try_lock(seat, self._scope)
                if held is None:
                    taken += 1
                elif mine is None:
                    mine = held
                else:
                    held.release()
                if taken >= self._limit:
                    break
        except BaseException:
            if mine is not None:
                mine.release()
            raise
        if mine is not None and taken >= self._limit:
            mine.release()
            return None
        return mine


_SHARE_OF_TIME = 0.1


_collect_again_at = 0.0


def _collect_garbage() -> None:
    """Collect garbage, which may include a stream dropped in a reference cycle.

    Such a stream holds its slot until it is collected, and Python collects nothing while all
    threads wait. At most a tenth of the time is spent on it, however large the program is.
    """
    global _collect_again_at
    now = time.monotonic()
    if now >= _collect_again_at:
        _collect_again_at = now + SLICE_S
        if threading.current_thread() is threading.main_thread():
            # Not in this thread: an interrupt during an object's finalizer would be lost.
            try:
                threading.Thread(target=_collect, name="llmproviders gc", daemon=True).start()
                return
            except RuntimeError as error:
                let_through(error)
                logger.debug("no thread can be started (%s); garbage is collected in place", error)
        _collect()


def _collect() -> None:
    global _collect_again_at
    began = time.monotonic()
    gc.collect()
    ended = time.monotonic()
    _collect_again_at = ended + (ended - began) / _SHARE_OF_TIME


_pools: WeakValueDictionary[tuple[int, str], _SlotPool] = WeakValueDictionary()

# A pool lives as long as one of its slots is held; the most recent ones are kept for the next call.
_latest_pools: deque[_SlotPool] = deque(maxlen=16)

_pools_lock = ForkLock()


def _pool(credential: str) -> _SlotPool:
    # Keyed by process: in a forked child nobody gives back the slots of the parent's threads.
    key = (os.getpid(), credential)
    with _pools_lock.mine:
        pool = _pools.get(key)
        if pool is None:
            pool = _pools[key] = _SlotPool()
            _latest_pools.append(pool)
        return pool
