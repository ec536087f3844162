"""How many requests of one credential run at a time: the others wait for their turn."""

from __future__ import annotations

import gc
import os
import threading
import time
from collections import deque
from itertools import count, takewhile
from pathlib import Path
from weakref import WeakValueDictionary

from .._runtime import files as _files
from .._runtime.files import Held, Unusable
from .._runtime.scope import SLICE_S, CancelScope, ForkLock, Waker
from .._signals import ignoring
from ..errors import RateLimitError


class _Waiter:
    """One request's turn among those of its credential: waiting for a place, then holding it.

    Attributes:
        limit: how many may hold a place at a time, this one included, when it takes its own.
        thread: which thread it is for.
        wake: set when there may be a place.
        over: whether it has given its place back, or given up waiting.
    """

    __slots__ = ("limit", "over", "thread", "wake")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.thread = threading.current_thread()
        self.wake = Waker()
        self.over = False


class _SlotPool:
    """The requests of one credential in this process: those that hold a place, and those in line.

    Each waits by its own limit for the number of all that hold one, so that those of a smaller
    limit and of a larger one share. First come, first served; but who is kept waiting by a
    smaller limit of its own keeps nobody else waiting.

    There is no lock: a stream that is dropped gives its place back wherever the garbage collector
    finds it, be it in the midst of this code, and an interrupt may end any of it. Whatever
    changes, changes by one operation that is atomic, and who waits looks again now and then.
    """

    def __init__(self) -> None:
        self._holding: set[_Waiter] = set()
        self._waiting: deque[_Waiter] = deque()

    def enter(self, turn: _Waiter, scope: CancelScope) -> bool:
        """Take a place; whether there was a wait for it."""
        self._waiting.append(turn)
        if self._take(turn):
            return False
        self._look_after_abandoned(turn)
        while not self._take(turn):
            scope.wait(turn.wake)
            _collect_garbage()
        return True

    def leave(self, turn: _Waiter) -> None:
        """Give the place back, or give up the wait for it; more than once does no harm."""
        turn.over = True
        self._holding.discard(turn)
        self._step_out_of_line(turn)

    def _take(self, turn: _Waiter) -> bool:
        """Take a place if there is one, and it is this one's turn."""
        if len(self._holding) >= turn.limit or self._next_in_line() is not turn:
            return False
        self._holding.add(turn)
        # Others may have done the same since the look; who finds too many steps back. And if this
        # one was ended meanwhile, nobody would give the place back.
        if len(self._holding) > turn.limit or turn.over:
            self._holding.discard(turn)
            return False
        self._step_out_of_line(turn)
        return True

    def _next_in_line(self) -> _Waiter | None:
        """The first whose limit leaves room, if there is one."""
        with ignoring(IndexError):
            # Nearly always all have the same limit, and the first one tells for all.
            first = self._waiting[0]
            if len(self._holding) < first.limit:
                return first
        # A copy, made in one step: others come and go meanwhile.
        return next((t for t in self._waiting.copy() if len(self._holding) < t.limit), None)

    def _step_out_of_line(self, turn: _Waiter) -> None:
        with ignoring(ValueError):
            self._waiting.remove(turn)
        following = self._next_in_line()
        if following is not None:
            following.wake.set()

    def _look_after_abandoned(self, turn: _Waiter) -> None:
        """See to places that nobody may ever give back, before waiting for them."""
        others = self._others(turn)
        if any(other.thread is turn.thread or not other.thread.is_alive() for other in others):
            # A stream that was dropped in a reference cycle is still open until it is collected.
            gc.collect()
            others = self._others(turn)
        else:
            _collect_garbage()
        if len(others) >= turn.limit and all(other.thread is turn.thread for other in others):
            raise RateLimitError(
                f"this thread waits for a stream that it holds open itself ({turn.limit} at a "
                "time for this key): read the stream to its end or close it, or raise "
                "max_concurrency"
            )

    def _others(self, turn: _Waiter) -> set[_Waiter]:
        return self._holding.copy() - {turn}


class Slot:
    """A place among the requests of one credential; as a context, taken and given back.

    Its value as a context is the seconds waited for it. It may be given back in another thread,
    and is, at the latest, when the generator that holds it is dropped.

    Args:
        credential: what the places are counted by; see :func:`._secret.digest`.
        limit: how many may be taken at a time, this one included, when it is taken.
        scope: how long to wait.
        file: a file of this user's whose sharers count the places together; None: this process
            alone.

    Raises:
        LLMError: the scope ended first; see :meth:`CancelScope.error`.
        RateLimitError: all places are held by streams that this very thread has open.
    """

    __slots__ = ("_credential", "_file", "_held", "_limit", "_pool", "_scope", "_turn")

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
        self._turn = _Waiter(self._limit)
        self._held: Held | None = None
        self._scope.attach(self, self._leave)
        try:
            waited = self._pool.enter(self._turn, self._scope)
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
        self._pool.leave(self._turn)

    def _enter_shared(self, file: Path) -> bool:
        """Take one of the lock files that all processes share; whether there was a wait for it.

        Who wants one stands in the door meanwhile, so that a process that comes back at once
        stands behind those that waited. Each limit has a door of its own: who is kept waiting by
        a smaller limit keeps nobody else waiting.
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
                    self._held = self._seat(stem)
                    if self._held is not None:
                        return waited
                    waited = True
                    _files.pause(self._scope)
        except Unusable as trouble:
            _files.tell_once(file, trouble)
            return False

    def _seat(self, stem: Path) -> Held | None:
        """The first free one of the lock files, unless others hold as many as the limit.

        There are as many files as were ever in use at a time; they stay.
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
    """Have garbage collected, in which there may be a stream that was dropped in a reference cycle.

    It holds its place until then, and nothing is collected while everybody waits. However large a
    program is, a tenth of its time at most goes into it.
    """
    global _collect_again_at
    now = time.monotonic()
    if now >= _collect_again_at:
        _collect_again_at = now + SLICE_S
        if threading.current_thread() is threading.main_thread():
            # An interrupt that comes while something is cleared away is lost, so not in here.
            threading.Thread(target=_collect, name="llmproviders gc", daemon=True).start()
        else:
            _collect()


def _collect() -> None:
    global _collect_again_at
    began = time.monotonic()
    gc.collect()
    ended = time.monotonic()
    _collect_again_at = ended + (ended - began) / _SHARE_OF_TIME


_pools: WeakValueDictionary[tuple[int, str], _SlotPool] = WeakValueDictionary()

# A pool lives as long as a place of it is held; these few are spared being made for every call.
_latest_pools: deque[_SlotPool] = deque(maxlen=16)

_pools_lock = ForkLock()


def _pool(credential: str) -> _SlotPool:
    # By process: in a forked child nobody gives back what the parent's threads hold.
    key = (os.getpid(), credential)
    with _pools_lock.mine:
        pool = _pools.get(key)
        if pool is None:
            pool = _pools[key] = _SlotPool()
            _latest_pools.append(pool)
        return pool
