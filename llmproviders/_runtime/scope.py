"""Deadlines and cancellation: the clock of a call, its deadline, and how to end it early."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from math import inf
from typing import Protocol

from .._signals import ignoring
from ..errors import DeadlineExceeded, LLMError, ProviderTimeout

STOPPED = "stopped"
"""The ``limit`` of the error of a request that was not sent because its batch was stopped."""

LONGEST_S = 1e6
"""Longer timeouts count as infinite: 11 days. Sockets take at most 24."""


SLICE_S = 0.2
"""Longest single wait: a signal that arrives just before a wait is only handled when it returns."""


def in_slices(wait: Callable[[float], object], seconds: float) -> bool:
    """Wait in steps of at most ``SLICE_S``; return whether the wait succeeded.

    Args:
        wait: waits for at most the given seconds, and returns true on success.
        seconds: total time; may be infinite.
    """
    end = time.monotonic() + seconds
    while True:
        left = end - time.monotonic()
        if wait(max(0.0, min(left, SLICE_S))):
            return True
        if left <= SLICE_S:
            return False


class Waker:
    """Wakes a waiting thread; set by another thread, a cancelled scope or a finalizer.

    It uses a plain lock, not an ``Event``. An ``Event`` briefly holds an internal lock in each
    operation: an interrupt at that moment would leave it locked, and a finalizer that runs in the
    waiting thread would deadlock.
    """

    __slots__ = ("_lock",)

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()

    def set(self) -> None:
        """End the current or the next wait; may be called more than once."""
        with ignoring(RuntimeError):
            self._lock.release()

    def is_set(self) -> bool:
        """Return whether it is set."""
        return not self._lock.locked()

    def clear(self) -> None:
        """Reset it, so that the next wait blocks again."""
        self._lock.acquire(blocking=False)

    def wait(self, seconds: float) -> bool:
        """Wait for at most ``seconds``; return whether it is set."""
        if self._lock.acquire(timeout=seconds):
            self.set()
            return True
        return False


class Drain:
    """Keeps the requests of a batch from being sent, once it has begun; replies are still read.

    Args:
        file: a path whose existence begins it, for processes that share nothing else; or None.

    Attributes:
        file: the same path.
    """

    __slots__ = ("_begun", "_waiting", "file")

    def __init__(self, file: str | None = None) -> None:
        self.file = file
        self._begun = False
        self._waiting: dict[int, Waker] = {}

    def begin(self) -> None:
        """Begin it, and end the waits of what was not sent. A signal handler may call this."""
        if not self._begun and self.file is not None:
            with ignoring(OSError):
                os.close(os.open(self.file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        self._begun = True
        for wake in list(self._waiting.values()):
            wake.set()

    @property
    def begun(self) -> bool:
        """Whether nothing more may be sent."""
        if not self._begun and self.file is not None:
            self._begun = self.file in _begun_elsewhere or os.path.exists(self.file)
        return self._begun

    @staticmethod
    def begin_here(file: str | None) -> None:
        """Begin those of ``file`` in this process, which another machine cannot reach by a file."""
        _begun_elsewhere.add(file)

    def end(self) -> None:
        """Delete its file, once nobody looks at it any more; calling it again does nothing."""
        if self.file is not None:
            with ignoring(OSError):
                os.unlink(self.file)

    def wait(self, wait: Callable[[float], object], seconds: float, wake: Waker) -> None:
        """Call ``wait`` for at most ``seconds``; ``wake``, which ends it, is set when it begins."""
        self._waiting[id(wake)] = wake
        try:
            step = seconds if self.file is None else SLICE_S
            while seconds > 0 and not self.begun and not wake.is_set():
                wait(min(step, seconds))
                seconds -= step
        finally:
            self._waiting.pop(id(wake), None)


_begun_elsewhere: set[str | None] = set()


class Clock(Protocol):
    """A source of time; tests pass one that does not wait."""

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
        """Wait for ``seconds``, or until ``wake`` is set; a signal handler runs without delay."""
        in_slices(time.sleep if wake is None else wake.wait, seconds)


SYSTEM_CLOCK: Clock = SystemClock()


class CancelScope:
    """A deadline with cancellation.

    Every wait of a call (sockets, sleeps, locks) asks its scope how long it may take. A scope can
    also have an earlier ``limit`` for a part of the call, such as the first text of an attempt;
    when it passes, that attempt has failed, not the call.

    Args:
        at: the deadline, in seconds of ``clock.monotonic()``.
        clock: source of time; ignored with a ``parent``, whose clock is used.
        parent: the enclosing scope; its deadline, limits, cancellation and drain also apply.
        sends: False for what is done after a reply, which no drain keeps from being done.
    """

    __slots__ = (
        *("__weakref__", "_cutters", "_ended", "_lock", "_wake"),
        *("at", "clock", "drain", "limit", "parent"),
    )

    def __init__(
        self,
        at: float = inf,
        *,
        clock: Clock = SYSTEM_CLOCK,
        parent: CancelScope | None = None,
        sends: bool = True,
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
        self.drain: Drain | None = parent.drain if parent is not None and sends else None
        if parent is not None:
            parent.attach(self, self._cancel_with_parent)

    @classmethod
    def lasting(
        cls, seconds: float | None, *, clock: Clock, parent: CancelScope | None = None
    ) -> CancelScope:
        """A scope that ends after ``seconds``; None: never."""
        clock = clock if parent is None else parent.clock
        at = inf if seconds is None else clock.monotonic() + seconds
        return cls(at, clock=clock, parent=parent)

    @property
    def bounded(self) -> bool:
        """Whether it has a deadline or a limit."""
        return self._end() != inf

    def remaining(self) -> float:
        """Seconds left: negative when it is over, infinite without a deadline or limit."""
        end = self._end()
        return inf if end == inf else end - self.clock.monotonic()

    def _end(self) -> float:
        # Read each time: a parent's limit may be lifted while the call runs.
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
        """Whether it was cancelled, or its deadline or limit has passed."""
        return self.cancelled or self.remaining() <= 0

    @property
    def cancelled(self) -> bool:
        """Whether it was cancelled."""
        return self._ended is not None

    def cancellable(self) -> CancelScope:
        """Make :meth:`cancel` also end sleeps, including those of child scopes; return itself."""
        if self._wake is None:
            self._wake = Waker()
        return self

    def drained_by(self, drain: Drain) -> CancelScope:
        """Have ``drain`` keep its calls, and those of later children, from sending; return itself.

        Waits before a request then end, too.
        """
        self.drain = drain
        return self.cancellable()

    @property
    def draining(self) -> bool:
        """Whether nothing more may be sent, though what was sent may end."""
        return self.drain is not None and self.drain.begun

    def check_sends(self) -> None:
        """Check that a request may be sent.

        Raises:
            LLMError: the batch that it belongs to was stopped; its ``limit`` is ``STOPPED``.
        """
        if self.draining:
            # Not a timeout: urllib3 would handle that itself.
            error = LLMError("the batch was stopped before this request was sent", retryable=False)
            error.limit = STOPPED
            raise error

    def cancel(self, why: str = "the call was ended") -> None:
        """End the call now, from any thread; call what was attached, newest first.

        After an interrupt, which may have stopped other clean-up half-way, this releases whatever
        is left.
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
        """Call ``cut`` on :meth:`cancel`, until ``owner`` is detached."""
        with self._lock:
            self._cutters[id(owner)] = cut
            if self.cancelled:
                cut()

    def detach(self, owner: object) -> None:
        """Remove what was attached for ``owner``; it is not called once this returns."""
        with self._lock:
            self._cutters.pop(id(owner), None)

    def close(self) -> None:
        """Detach from the parent, which may outlive this scope."""
        if self.parent is not None:
            self.parent.detach(self)

    def sleep(self, seconds: float) -> None:
        """Sleep for ``seconds``, or for what is left if that is less.

        Raises:
            LLMError: the scope ended during the wait; see :meth:`error`.
        """
        left = self.remaining()
        if seconds > 0 and left > 0:
            self._pause(
                lambda most: self.clock.sleep(most, self._wake), min(seconds, left), self._wake
            )
        if self.over:
            raise self.error()
        self.check_sends()

    def _pause(self, wait: Callable[[float], object], seconds: float, wake: Waker | None) -> None:
        if self.drain is None or wake is None:
            wait(seconds)
        else:
            self.drain.wait(wait, seconds, wake)

    def wait(self, wake: Waker) -> None:
        """Wait for ``wake`` for at most ``SLICE_S``; the caller then checks its condition again.

        Raises:
            LLMError: the scope ended; see :meth:`error`.
        """
        self.attach(wake, wake.set)
        try:
            self._pause(wake.wait, max(0.0, min(self.remaining(), SLICE_S)), wake)
            wake.clear()
        finally:
            self.detach(wake)
        if self.over:
            raise self.error()
        self.check_sends()

    def error(self) -> LLMError:
        """The error to raise when it is over."""
        if self._ended is not None:
            return ProviderTimeout(self._ended, retryable=False)
        if self.expired:
            return DeadlineExceeded("the deadline of the call passed")
        return ProviderTimeout("no text came within first_chunk_timeout")


class ForkLock:
    """A reentrant lock that is always free in a forked child.

    It is reentrant because the garbage collector may close a forgotten stream at any moment, in a
    thread that already holds it.
    """

    def __init__(self) -> None:
        self._by_process: dict[int, threading.RLock] = {}

    @property
    def mine(self) -> threading.RLock:
        """This process's lock, to be used in a ``with`` block.

        A built-in lock enters and leaves a ``with`` block without being interrupted. An
        ``__enter__`` in Python could be interrupted after acquiring it, and leave it locked.
        """
        pid = os.getpid()
        return self._by_process.get(pid) or self._by_process.setdefault(pid, threading.RLock())
