"""How many requests of one credential run at a time: the others wait for their turn."""

from __future__ import annotations

import gc
import os
import threading
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from weakref import WeakValueDictionary

from . import _files
from ._clock import Scope
from ._files import Held, Unusable
from ._locks import ForkLock
from ._wake import Wake
from .errors import RateLimitError


def check_limit(limit: object) -> int:
    """``limit`` as it is.

    Raises:
        ValueError: it is no number of requests.
    """
    if type(limit) is not int or limit < 1:
        raise ValueError(f"max_concurrency is a whole number above zero, not {limit!r}")
    return limit


class _Turn:
    """One request's place, or its wait for one."""

    __slots__ = ("_fate", "thread", "wake")

    def __init__(self) -> None:
        self.thread = threading.current_thread()
        self.wake = Wake()
        self._fate: dict[str, str] = {}

    def settle(self, fate: str) -> bool:
        """Whether ``fate`` is what becomes of it; the first one to say so decides."""
        return self._fate.setdefault("is", fate) == fate


class _Pool:
    """The places of one credential in this process.

    There is no lock: a stream that is dropped gives its place back wherever the garbage collector
    finds it, be it in the midst of this code. What changes hands is in deques and dictionaries,
    whose single operations are atomic.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._free: deque[None] = deque([None] * limit)
        self._waiting: deque[_Turn] = deque()
        self._holders: dict[int, _Turn] = {}

    def enter(self, turn: _Turn, scope: Scope) -> bool:
        """Take a place, the first come first; whether there was a wait for it."""
        try:
            self._waiting.append(turn)
            self._hand_out()
            if id(turn) in self._holders:
                return False
            self._look_after_abandoned(turn)
            turn.wake.wait(scope)
        except BaseException:
            self._give_up(turn)
            raise
        return True

    def leave(self, turn: _Turn) -> None:
        """Give the place back."""
        if self._holders.pop(id(turn), None) is not None:
            self._free.append(None)
            self._hand_out()

    def _give_up(self, turn: _Turn) -> None:
        if turn.settle("given up"):
            with suppress(ValueError, IndexError):
                self._waiting.remove(turn)
        else:
            self.leave(turn)

    def _hand_out(self) -> None:
        while self._free and self._waiting:
            try:
                self._free.pop()
            except IndexError:
                return
            seated = False
            try:
                seated = self._seat_next()
            finally:
                # Who came while this place was out of sight found none, so look again.
                if not seated:
                    self._free.append(None)

    def _seat_next(self) -> bool:
        with suppress(IndexError):
            while True:
                turn = self._waiting.popleft()
                self._holders[id(turn)] = turn
                if turn.settle("seated"):
                    turn.wake.up()
                    return True
                del self._holders[id(turn)]
        return False

    def _look_after_abandoned(self, turn: _Turn) -> None:
        """See to places that nobody may ever give back, before waiting for them."""
        others = self._others(turn)
        if any(other.thread is turn.thread or not other.thread.is_alive() for other in others):
            # A stream that was dropped in a reference cycle is still open until it is collected.
            gc.collect()
            others = self._others(turn)
        if len(others) >= self.limit and all(other.thread is turn.thread for other in others):
            raise RateLimitError(
                f"this thread waits for a stream that it holds open itself ({self.limit} at a "
                "time for this key): read the stream to its end or close it, or raise "
                "max_concurrency"
            )

    def _others(self, turn: _Turn) -> list[_Turn]:
        return [other for other in list(self._holders.values()) if other is not turn]


class Place:
    """A place among the requests of one credential; as a context, taken and given back.

    Its value as a context is the seconds waited for it. It may be given back in another thread,
    and is, at the latest, when the generator that holds it is dropped.

    Args:
        credential: what the places are counted by; see :func:`._secret.digest`.
        limit: how many there are.
        scope: how long to wait.
        file: a file of this user's whose sharers count the places together; None: this process
            alone.

    Raises:
        LLMError: the scope ended first; see :meth:`Scope.error`.
        RateLimitError: all places are held by streams that this very thread has open.
    """

    __slots__ = ("_credential", "_file", "_held", "_limit", "_pool", "_scope", "_turn")

    def __init__(
        self, credential: str, limit: int, scope: Scope, *, file: Path | None = None
    ) -> None:
        self._credential = credential
        self._limit = limit
        self._scope = scope
        self._file = file

    def __enter__(self) -> float:
        clock = self._scope.clock
        start = clock.monotonic()
        self._pool = _pool(self._credential, self._limit)
        self._turn = _Turn()
        self._held: Held | None = None
        waited = self._pool.enter(self._turn, self._scope)
        try:
            if self._file is not None:
                waited |= self._enter_shared(self._file)
        except BaseException:
            self._pool.leave(self._turn)
            raise
        return clock.monotonic() - start if waited else 0.0

    def __exit__(self, *_: object) -> None:
        if self._held is not None:
            self._held.release()
        self._pool.leave(self._turn)

    def _enter_shared(self, file: Path) -> bool:
        """Take one of the lock files that all processes share; whether there was a wait for it.

        Who wants one stands in the door meanwhile, so that a process that comes back at once
        stands behind those that waited.
        """
        try:
            stem = _files.locks_folder(file) / self._credential[:16]
            door = stem.with_suffix(".door")
            seats = [stem.with_suffix(f".{number}") for number in range(self._limit)]
            waited = False
            standing = _files.try_lock(door)
            if standing is None:
                waited = True
                standing = _files.wait_for_lock(door, self._scope)
            with standing:
                while True:
                    self._held = _first(map(_files.try_lock, seats))
                    if self._held is not None:
                        return waited
                    waited = True
                    _files.pause(self._scope)
        except Unusable as trouble:
            _files.tell_once(file, trouble)
            return False


def _first(locks: Iterable[Held | None]) -> Held | None:
    return next((held for held in locks if held is not None), None)


_pools: WeakValueDictionary[tuple[int, str, int], _Pool] = WeakValueDictionary()
_pools_lock = ForkLock()


def _pool(credential: str, limit: int) -> _Pool:
    # By process: in a forked child nobody gives back what the parent's threads hold.
    key = (os.getpid(), credential, limit)
    with _pools_lock:
        pool = _pools.get(key)
        if pool is None:
            pool = _pools[key] = _Pool(limit)
        return pool
