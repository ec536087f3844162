"""Streams raced against one another: the first that has text or thinks goes on."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator
from math import inf

from .._runtime.scope import CancelScope, ForkLock, Waker, in_slices
from ..errors import SLOWER, LLMError
from ..results import Reasoning

_LOSERS_END_WITHIN_S = 0.3

_OVERDUE_S = 0.1


Start = Callable[[CancelScope, Callable[[], bool]], Generator[str, None, None]]


class Runner:
    """One stream in the race, on the way to its first item in a thread of its own.

    Attributes:
        error: what it failed with, once it has.
        defect: what else it raised.
        handed_over: whether its thread is done and has left the stream to the race.
    """

    def __init__(self, race: Race, start: Start) -> None:
        self.error: LLMError | None = None
        self.defect: BaseException | None = None
        self.handed_over = False
        self._race = race
        self._scope = CancelScope(parent=race.scope).cancellable()
        self._stream = start(self._scope, self._wins)
        self._first = ""
        self._thread = threading.Thread(target=self._run, name="llmproviders hedge", daemon=True)

    def begin(self) -> None:
        """Start its thread."""
        self._thread.start()

    def _wins(self) -> bool:
        if self._race.won_by(self):
            return True
        self.cut_off()
        return False

    def _run(self) -> None:
        try:
            self._first = next(self._stream)
        except LLMError as error:
            self.error = error
        except BaseException as defect:  # noqa: BLE001 - raised again where the race is waited for
            self.defect = defect
        self._race.ended(self)

    def stream(self, *, reasoning: bool) -> Generator[str, None, None]:
        """What the winner yields, from its first item on.

        Args:
            reasoning: whether thoughts are wanted; its first item may be one all the same.
        """
        if reasoning or type(self._first) is not Reasoning:
            yield self._first
        yield from self._stream

    def cut_off(self) -> None:
        """End whatever it waits for."""
        self._scope.cancel(SLOWER)

    def join(self, until: float) -> bool:
        """Wait for its thread until a moment of the clock; whether it has ended."""
        return in_slices(self._ends, until - self._scope.clock.monotonic())

    def _ends(self, within_s: float) -> bool:
        if self._thread.is_alive():
            self._thread.join(within_s)
        return not self._thread.is_alive()

    def close(self) -> None:
        """Close its stream, which its thread must be done with."""
        self._stream.close()
        self._scope.close()


class Race:
    """Runs streams beside one another until one has text.

    Args:
        scope: how long all of it may take.
        hedge_after: seconds after which another stream is wanted beside the slow ones.
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
            start: makes it, from a scope to run within and a function that it calls when it has
                its first item, which says whether it was the first to have one.
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
        """The next stream that has text or failed; None when it is time for another one.

        Args:
            more: whether another one could be started.

        Raises:
            LLMError: the scope ended, and the streams in it did not.
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
        """Whether ``runner``, which has an item, was the first to have one; then the others end."""
        with self._lock.mine:
            if self._over or self._winner is not None:
                return self._winner is runner
            self._winner = runner
            others = [other for other in self._runners if other is not runner]
        for other in others:
            other.cut_off()
        return True

    def ended(self, runner: Runner) -> None:
        """Called by a stream's thread as its last act."""
        with self._lock.mine:
            runner.handed_over = not self._over
        self._news.append(runner)
        self._woken.set()
        if not runner.handed_over:
            runner.close()

    def settle(self) -> None:
        """Wait for the losers' threads, which end at once when their connections are cut."""
        if self._over:
            return
        until = self.scope.clock.monotonic() + _LOSERS_END_WITHIN_S
        for runner in self._runners:
            if runner is not self._winner:
                runner.join(until)

    def end(self) -> None:
        """Cut off whatever still runs, and close all; who takes longer closes its own later."""
        with self._lock.mine:
            self._over = True
        until = self.scope.clock.monotonic() + _OVERDUE_S
        for runner in self._runners:
            runner.cut_off()
        for runner in self._runners:
            if runner.join(until) or runner.handed_over:
                runner.close()
