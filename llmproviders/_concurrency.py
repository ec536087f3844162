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
from ._clock import Scope, Wake
from ._files import Held, Unusable
from ._locks import ForkLock
from .errors import RateLimitError


class _Turn:
    """One request's turn at a place, or its wait for one.

    A place is a chain of turns. Each is followed by one other, once; the last one has the place,
    until it is over.
    """

    __slots__ = ("_next", "over", "thread", "wake")

    def __init__(self, *, over: bool = False) -> None:
        self.thread = threading.current_thread()
        self.wake = Wake()
        self.over = over
        self._next: dict[str, _Turn] = {}

    def last(self) -> _Turn:
        """The last of those that followed."""
        turn = self
        while (following := turn._next.get("is")) is not None:
            turn = following
        return turn

    def followed_by(self, turn: _Turn) -> bool:
        """Whether ``turn`` is what follows; the first one to ask does."""
        return self._next.setdefault("is", turn) is turn


class _Pool:
    """The places of one credential in this process.

    There is no lock: a stream that is dropped gives its place back wherever the garbage collector
    finds it, be it in the midst of this code, and an interrupt may end any of it. Whatever
    changes, changes by one operation that is atomic, and who waits looks again now and then.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._places = [_Turn(over=True) for _ in range(limit)]
        self._waiting: deque[_Turn] = deque()

    def enter(self, turn: _Turn, scope: Scope) -> bool:
        """Take a place, the first come first; whether there was a wait for it."""
        self._waiting.append(turn)
        if self._take(turn):
            return False
        self._look_after_abandoned(turn)
        while not self._take(turn):
            scope.wait(turn.wake)
        return True

    def leave(self, turn: _Turn) -> None:
        """Give the place back, or give up the wait for it; more than once does no harm."""
        turn.over = True
        self._step_out_of_line(turn)

    def _take(self, turn: _Turn) -> bool:
        """Take a place if there is one and nobody has waited longer."""
        with suppress(IndexError):
            if self._waiting[0] is turn:
                for number, place in enumerate(self._places):
                    last = self._places[number] = place.last()
                    if last.over and last.followed_by(turn):
                        self._step_out_of_line(turn)
                        return True
        return False

    def _step_out_of_line(self, turn: _Turn) -> None:
        with suppress(ValueError):
            self._waiting.remove(turn)
        with suppress(IndexError):
            self._waiting[0].wake.set()

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
        last = [place.last() for place in self._places]
        return [other for other in last if not other.over and other is not turn]


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
        stands behind those that waited.
        """
        try:
            stem = _files.locks_folder(file) / self._credential[:16]
            door = stem.with_suffix(".door")
            seats = [stem.with_suffix(f".{number}") for number in range(self._limit)]
            waited = False
            standing = _files.try_lock(door, self._scope)
            if standing is None:
                waited = True
                standing = _files.wait_for_lock(door, self._scope)
            with standing:
                while True:
                    self._held = _first(_files.try_lock(seat, self._scope) for seat in seats)
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
# A pool lives as long as a place of it is held; these few are spared being made for every call.
_latest_pools: deque[_Pool] = deque(maxlen=16)
_pools_lock = ForkLock()


def _pool(credential: str, limit: int) -> _Pool:
    # By process: in a forked child nobody gives back what the parent's threads hold.
    key = (os.getpid(), credential, limit)
    with _pools_lock.mine:
        pool = _pools.get(key)
        if pool is None:
            pool = _pools[key] = _Pool(limit)
            _latest_pools.append(pool)
        return pool
