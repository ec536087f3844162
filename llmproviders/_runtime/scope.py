"""The one clock of a call: what time it is, how long is left, and how another thread ends it."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from math import inf
from typing import Protocol

from .._signals import ignoring
from ..errors import DeadlineExceeded, LLMError, ProviderTimeout

LONGEST_S = 1e6
"""Eleven days; a socket cannot be told to wait for more than 24, so that more is for ever."""


SLICE_S = 0.2
"""No wait is longer in one go: of a signal that comes just before one, Python learns after it."""


def in_slices(wait: Callable[[float], object], seconds: float) -> bool:
    """Wait in goes of at most ``SLICE_S``, and return whether what is waited for came.

    Args:
        wait: waits for so many seconds at most; its value is true when what it waits for is there.
        seconds: how long in all; may be infinite.
    """
    end = time.monotonic() + seconds
    while True:
        left = end - time.monotonic()
        if wait(max(0.0, min(left, SLICE_S))):
            return True
        if left <= SLICE_S:
            return False


class Waker:
    """What one thread waits for, set by another thread, a cancelled scope or a finalizer.

    A bare lock and not an ``Event``, which holds a lock of its own for a moment in all that it
    does: an interrupt in that moment would leave it held, and a finalizer that runs in it, in the
    very thread that waits, would stand before it.
    """

    __slots__ = ("_lock",)

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()

    def set(self) -> None:
        """End the wait; before it began, too, and more than once."""
        with ignoring(RuntimeError):
            self._lock.release()

    def is_set(self) -> bool:
        """Whether it is set."""
        return not self._lock.locked()

    def clear(self) -> None:
        """Let the next wait last until it is set anew."""
        self._lock.acquire(blocking=False)

    def wait(self, seconds: float) -> bool:
        """Wait for at most so many seconds; whether it is set."""
        if self._lock.acquire(timeout=seconds):
            self.set()
            return True
        return False


class Clock(Protocol):
    """Where time comes from; tests pass one that does not wait."""

    def monotonic(self) -> float:
        """Seconds from an arbitrary moment; never goes back."""

    def wall(self) -> float:
        """Unix time in seconds."""

    def sleep(self, seconds: float, wake: Waker | None = None) -> None:
        """Wait for ``seconds``, or until ``wake`` is set."""


class SystemClock:
    """The machine's clock."""

    monotonic = staticmethod(time.monotonic)
    wall = staticmethod(time.time)

    @staticmethod
    def sleep(seconds: float, wake: Waker | None = None) -> None:
        """Wait for ``seconds``, or until ``wake`` is set; a signal's handler runs at once."""
        in_slices(time.sleep if wake is None else wake.wait, seconds)


SYSTEM_CLOCK: Clock = SystemClock()


class CancelScope:
    """The moment at which a call must have ended, and the means to end it before that.

    Everything that waits, a socket, a sleep, a lock, asks its scope how long it may. A scope may
    have a nearer ``limit`` for a while (the first text of an attempt); when that passes, the
    attempt failed, not the call.

    Args:
        at: the deadline, in seconds of ``clock.monotonic()``.
        clock: where the time comes from; a scope inside another goes by that one's clock.
        parent: a scope inside which this one lives; it cannot outlast it, nor its limits.
    """

    __slots__ = (
        *("__weakref__", "_cutters", "_ended", "_lock", "_wake"),
        *("at", "clock", "limit", "parent"),
    )

    def __init__(
        self, at: float = inf, *, clock: Clock = SYSTEM_CLOCK, parent: CancelScope | None = None
    ) -> None:
        self.clock: Clock = clock if parent is None else parent.clock
        self.parent = parent
        self.at: float = at if parent is None else min(at, parent.at)
        self.limit = inf
        self._lock = threading.RLock()
        self._ended: str | None = None
        waits = parent is not None and parent._wake is not None
        self._wake: Waker | None = Waker() if waits else None
        self._cutters: dict[int, Callable[[], None]] = {}
        if parent is not None:
            parent.attach(self, self._cancel_with_parent)

    @classmethod
    def lasting(
        cls, seconds: float | None, *, clock: Clock, parent: CancelScope | None = None
    ) -> CancelScope:
        """A scope that ends in ``seconds``; None: never."""
        clock = clock if parent is None else parent.clock
        at = inf if seconds is None else clock.monotonic() + seconds
        return cls(at, clock=clock, parent=parent)

    @property
    def bounded(self) -> bool:
        """Whether there is any moment at which it ends."""
        return self._end() != inf

    def remaining(self) -> float:
        """Seconds left, negative when it is over, infinite where nothing bounds it."""
        end = self._end()
        return inf if end == inf else end - self.clock.monotonic()

    def _end(self) -> float:
        # A limit is lifted while a call runs, so the scopes inside have to ask for it each time.
        end = self.at
        scope: CancelScope | None = self
        while scope is not None:
            if scope.limit < end:
                end = scope.limit
            scope = scope.parent
        return end

    @property
    def expired(self) -> bool:
        """Whether the deadline has passed."""
        return self.at != inf and self.clock.monotonic() >= self.at

    @property
    def over(self) -> bool:
        """Whether the deadline or the nearer limit has passed, or another thread ended it."""
        return self.cancelled or self.remaining() <= 0

    @property
    def cancelled(self) -> bool:
        """Whether another thread ended it."""
        return self._ended is not None

    def cancellable(self) -> CancelScope:
        """Let sleeps end, too, when :meth:`cancel` is called, those of scopes made inside it as
        well; returns itself.
        """
        if self._wake is None:
            self._wake = Waker()
        return self

    def cancel(self, why: str = "the call was ended") -> None:
        """End the call now, from any thread: what it waits for is cut off, the newest first.

        After an interrupt, which may have come in the midst of letting go of something, this is
        what lets go of whatever is left.
        """
        with self._lock:
            self._ended = why
            if self._wake is not None:
                self._wake.set()
            for cut in reversed(list(self._cutters.values())):
                cut()

    def _cancel_with_parent(self) -> None:
        assert self.parent is not None
        self.cancel(self.parent._ended or "the call was ended")

    def attach(self, owner: object, cut: Callable[[], None]) -> None:
        """Have :meth:`cancel` call ``cut``, until ``owner`` is detached."""
        with self._lock:
            self._cutters[id(owner)] = cut
            if self.cancelled:
                cut()

    def detach(self, owner: object) -> None:
        """Forget what was attached for ``owner``; once this returns it is not cut any more."""
        with self._lock:
            self._cutters.pop(id(owner), None)

    def close(self) -> None:
        """Leave the parent; for scopes that end before it does."""
        if self.parent is not None:
            self.parent.detach(self)

    def sleep(self, seconds: float) -> None:
        """Wait for ``seconds``, not longer than is left.

        Raises:
            LLMError: the scope ended during the wait; see :meth:`error`.
        """
        left = self.remaining()
        if seconds > 0 and left > 0:
            self.clock.sleep(min(seconds, left), self._wake)
        if self.over:
            raise self.error()

    def wait(self, wake: Waker) -> None:
        """Wait for ``wake`` for a moment, after which the caller looks again what has come of it.

        Raises:
            LLMError: the scope ended; see :meth:`error`.
        """
        self.attach(wake, wake.set)
        try:
            wake.wait(max(0.0, min(self.remaining(), SLICE_S)))
            wake.clear()
        finally:
            self.detach(wake)
        if self.over:
            raise self.error()

    def error(self) -> LLMError:
        """What to raise when it is over."""
        if self._ended is not None:
            return ProviderTimeout(self._ended, retryable=False)
        if self.expired:
            return DeadlineExceeded("the deadline of the call passed")
        return ProviderTimeout("no text came within first_chunk_timeout")


class ForkLock:
    """A lock that a forked child finds free, whichever thread of its parent held it.

    The thread that holds it may take it again: the garbage collector can close a forgotten stream
    at any moment, and what that does may need the lock.
    """

    def __init__(self) -> None:
        self._by_process: dict[int, threading.RLock] = {}

    @property
    def mine(self) -> threading.RLock:
        """The lock in this process, for a ``with`` block.

        That block takes it and lets it go in one step each, between which no interrupt comes. An
        ``__enter__`` in Python could be interrupted when it has taken it, and it would stay taken.
        """
        pid = os.getpid()
        return self._by_process.get(pid) or self._by_process.setdefault(pid, threading.RLock())
