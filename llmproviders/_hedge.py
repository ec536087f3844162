"""Streams raced against one another: the first that has text goes on, the others are cut off."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator
from math import inf

from ._clock import Scope
from .errors import LLMError

_LOSERS_END_WITHIN_S = 0.3
_SLOWER = "another provider was faster"


class Runner:
    """One stream in the race, waiting for its first item in a thread of its own."""

    def __init__(self, race: Race, make: Callable[[Scope], Generator[str, None, None]]) -> None:
        self.error: LLMError | None = None
        self.defect: BaseException | None = None
        self.scope = Scope(clock=race.scope.clock, parent=race.scope).cancellable()
        self._race = race
        self._stream = make(self.scope)
        self._first: str = ""
        self.thread = threading.Thread(target=self._run, name="llmproviders hedge", daemon=True)

    def _run(self) -> None:
        try:
            self._first = next(self._stream)
        except LLMError as error:
            self.error = error
            self._race.report(self)
        except BaseException as defect:
            self.defect = defect
            self._race.report(self)
        else:
            if not self._race.report(self):
                self._stream.close()
                self.scope.close()

    def stream(self) -> Generator[str, None, None]:
        """What the winner yields, from its first item on."""
        try:
            yield self._first
            yield from self._stream
        finally:
            self._stream.close()
            self.scope.close()


class Race:
    """Runs streams beside one another until one has text.

    Args:
        scope: how long all of it may take.
        hedge_after: seconds after which another stream is wanted beside the slow ones.
    """

    def __init__(self, scope: Scope, hedge_after: float) -> None:
        self.scope = scope
        self._hedge_after = hedge_after
        self._runners: list[Runner] = []
        self._ended: queue.SimpleQueue[Runner] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._winner: Runner | None = None
        self._over = False
        self.running = 0
        self.wants_another = True

    def start(self, make: Callable[[Scope], Generator[str, None, None]]) -> None:
        """Start a stream; ``make`` makes it, within the scope that it is given."""
        runner = Runner(self, make)
        self._runners.append(runner)
        self.running += 1
        self.wants_another = False
        runner.thread.start()

    def wait(self, *, more: bool) -> Runner | None:
        """The next stream that has text or failed; None when it is time for another one.

        Args:
            more: whether another one could be started.
        """
        patience = self._hedge_after if more else inf
        try:
            ended = self._ended.get(timeout=None if patience == inf else patience)
        except queue.Empty:
            self.wants_another = True
            return None
        self.running -= 1
        if ended.defect is not None:
            raise ended.defect
        if ended.error is None:
            self._cut_off_losers()
        else:
            self.wants_another = True
        return ended

    def report(self, runner: Runner) -> bool:
        """Called by a stream's thread; False tells it that another one has won."""
        with self._lock:
            if runner.error is None and runner.defect is None:
                if self._over or self._winner is not None:
                    return False
                self._winner = runner
            self._ended.put(runner)
            return True

    def _cut_off_losers(self) -> None:
        for runner in self._runners:
            if runner is not self._winner:
                runner.scope.cancel(_SLOWER)

    def settle(self) -> None:
        """Wait for the losers' threads, which end at once when their connections are cut."""
        for runner in self._runners:
            if runner is not self._winner:
                runner.thread.join(_LOSERS_END_WITHIN_S)

    def end(self) -> None:
        """Cut off whatever still runs."""
        with self._lock:
            self._over = True
            winner = self._winner
        self._cut_off_losers()
        if winner is not None:
            winner.stream().close()
        self.settle()
