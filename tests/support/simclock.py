"""A clock that jumps to the next moment at which anybody wakes, for races and simulations."""

from __future__ import annotations

import threading

_LOOK_AGAIN_S = 0.001


class SimulatedClock:
    """Time passes only when every thread of the process sleeps on it, and then all at once.

    Threads that hedge run for real, so what is seen of a race is what the client does; only the
    waiting is skipped. Threads that were there before the clock and its maker's are not counted.
    """

    def __init__(self) -> None:
        self._strangers = threading.active_count() - 1
        self._now = 0.0
        self._sleepers: dict[int, tuple[float, threading.Event | None]] = {}
        self._changed = threading.Condition()

    def monotonic(self) -> float:
        """Seconds since the simulation began."""
        return self._now

    def wall(self) -> float:
        """The same: the simulation begins with the epoch."""
        return self._now

    def sleep(self, seconds: float, wake: threading.Event | None = None) -> None:
        """Wait for ``seconds`` of the simulation, or until ``wake`` is set."""
        me = threading.get_ident()
        with self._changed:
            until = self._now + seconds
            self._sleepers[me] = until, wake
            try:
                while not (wake is not None and wake.is_set()):
                    self._advance()
                    if self._now >= until:
                        break
                    # Nobody tells the clock of an event that is set, or of a thread's end.
                    self._changed.wait(_LOOK_AGAIN_S)
            finally:
                del self._sleepers[me]

    def _advance(self) -> None:
        if len(self._sleepers) < threading.active_count() - self._strangers:
            return
        if any(wake is not None and wake.is_set() for _, wake in self._sleepers.values()):
            return
        nearest = min(until for until, _ in self._sleepers.values())
        if nearest > self._now:
            self._now = nearest
            self._changed.notify_all()
