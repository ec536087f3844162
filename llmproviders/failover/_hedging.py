"""Hedging: run several streams at once and keep the first that has text or a thought."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator
from math import inf

from .._log import logger
from .._runtime.scope import CancelScope, ForkLock, Waker, in_slices
from .._signals import let_through
from ..errors import SLOWER, LLMError
from ..results import Reasoning

_LOSERS_END_WITHIN_S = 0.3

_OVERDUE_S = 0.1


Start = Callable[[CancelScope, Callable[[], bool]], Generator[str, None, None]]


class Runner:
    """One stream of a race; a separate thread waits for its first item.

    Attributes:
        error: the error that ended it, or None.
        defect: any other exception that it raised, or None.
        begun: whether its thread runs, or has run.
        handed_over: whether its thread has finished and the race owns the stream.
    """

    def __init__(self, race: Race, start: Start) -> None:
        self.error: LLMError | None = None
        self.defect: BaseException | None = None
        self.begun = False
        self.handed_over = False
        self._race = race
        self._scope = CancelScope(parent=race.scope).cancellable()
        self._stream = start(self._scope, self._wins)
        self._first = ""
        self._thread = threading.Thread(target=self._run, name="llmproviders hedge", daemon=True)

    def begin(self) -> None:
        """Start its thread; if that fails, run to its first item in the caller's thread."""
        try:
            self._thread.start()
        except RuntimeError as error:
            let_through(error)
            logger.debug("no thread can be started (%s); hedging is left out", error)
            self._run()

    def _wins(self) -> bool:
        if self._race.won_by(self):
            return True
        self.cut_off()
        return False

    def _run(self) -> None:
        if not self._race.begins(self):
            return
        try:
            self._first = next(self._stream)
        except LLMError as error:
            self.error = error
        except BaseException as defect:  # noqa: BLE001 - raised again where the race is waited for
            self.defect = defect
        self._race.ended(self)

    def stream(self, *, reasoning: bool) -> Generator[str, None, None]:
        """Yield the winner's items, including the first.

        Args:
            reasoning: whether the caller asked for thoughts; if not, a first one is dropped.
        """
        if reasoning or type(self._first) is not Reasoning:
            yield self._first
        yield from self._stream

    def cut_off(self) -> None:
        """Interrupt whatever it is waiting for."""
        self._scope.cancel(SLOWER)

    def join(self, until: float) -> bool:
        """Wait for its thread until a time of the clock; return whether it has ended."""
        return in_slices(self._ends, until - self._scope.clock.monotonic())

    def _ends(self, within_s: float) -> bool:
        if self._thread.is_alive():
            self._thread.join(within_s)
        return not self._thread.is_alive()

    def close(self) -> None:
        """Close its stream; its thread must have finished."""
        self._stream.close()
        self._scope.close()


class Race:
    """Runs streams in parallel until one has its first item.

    Args:
        scope: limits the whole race.
        hedge_after: seconds without an item after which another stream is started.
    """

    def __init__(self, scope: CancelScope, hedge_after: float) -> None:
        self.scope = scope
        self.wants_another = True
        self._hedge_after = hedge_after
        self._runners: list[Runner] = []
        self._lock = ForkLock()
        self._winner: Runner | None = None
        self._over = False
        self._news: deque[Runner] = deque()
        self._woken = Waker()

    def start(self, start: Start) -> Runner:
        """Start a stream.

        Args:
            start: makes the stream. It gets a scope to run in, and a function to call with the
                first item, which returns whether this stream has won.
        """
        runner = Runner(self, start)
        with self._lock.mine:
            self._runners.append(runner)
            too_late = self._winner is not None
        if too_late:
            runner.cut_off()
        runner.begin()
        return runner

    def wait(self, *, more: bool) -> Runner | None:
        """Wait for the next stream to have an item or fail; None if another one should start.

        Args:
            more: whether another one can be started.

        Raises:
            LLMError: the scope ended but its streams did not.
        """
        if not self._news:
            patience = self._hedge_after if more else inf
            patience = min(patience, self.scope.remaining() + _OVERDUE_S)
            self.scope.clock.sleep(min(patience, threading.TIMEOUT_MAX), self._woken)
        self._woken.clear()
        if not self._news:
            if self.scope.remaining() < -_OVERDUE_S / 2:
                raise self.scope.error()
            self.wants_another = True
            return None
        runner = self._news.popleft()
        if runner.defect is not None:
            raise runner.defect
        self.wants_another = runner.error is not None
        return runner

    def won_by(self, runner: Runner) -> bool:
        """Return whether ``runner`` was the first to have an item; if so, cut off the others."""
        with self._lock.mine:
            if self._over or self._winner is not None:
                return self._winner is runner
            self._winner = runner
            others = [other for other in self._runners if other is not runner]
        for other in others:
            other.cut_off()
        return True

    def begins(self, runner: Runner) -> bool:
        """A stream's thread calls this first; return whether it may run.

        After an interrupt while a thread was being started, it may begin when the race is over.
        """
        with self._lock.mine:
            runner.begun = not self._over
        return runner.begun

    def ended(self, runner: Runner) -> None:
        """A stream's thread calls this last."""
        with self._lock.mine:
            runner.handed_over = not self._over
        self._news.append(runner)
        self._woken.set()
        if not runner.handed_over:
            runner.close()

    def settle(self) -> None:
        """Wait for the losers' threads, which end as soon as their connections are cut."""
        if self._over:
            return
        until = self.scope.clock.monotonic() + _LOSERS_END_WITHIN_S
        for runner in self._runners:
            if runner is not self._winner:
                runner.join(until)

    def end(self) -> None:
        """Cut off and close all streams; a thread that takes longer closes its own."""
        with self._lock.mine:
            self._over = True
        until = self.scope.clock.monotonic() + _OVERDUE_S
        for runner in self._runners:
            runner.cut_off()
        for runner in self._runners:
            if not runner.begun or runner.join(until) or runner.handed_over:
                runner.close()
