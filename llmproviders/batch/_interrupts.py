"""Ctrl-C, SIGTERM and SIGHUP while work is under way: finish it, then end."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterable
from types import FrameType
from typing import Any

ENDING = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)
"""The signals that ask a process to end."""


class Interrupts:
    """Calls ``stop`` at the first signal, in a ``with`` block of the main thread.

    A second signal calls ``end``; a third has its usual effect at once. That is the last resort: an
    exception raised at an arbitrary point can leave a lock held. The block may be entered again. In
    another thread, or for a signal that is ignored, nothing changes.

    Args:
        stop: called from the signal handler.
        end: called from the signal handler.
        then: called at the end of the signal handler; it may raise.
        signals: the signals to handle.
    """

    def __init__(
        self,
        stop: Callable[[], object],
        end: Callable[[], object],
        *,
        then: Callable[[], object] = lambda: None,
        signals: Iterable[signal.Signals] = ENDING,
    ) -> None:
        self._next = [stop, end]
        self._then = then
        self._signals = tuple(signals)
        self._before: dict[int, Any] = {}
        self._pending: list[int] = []
        self._handling = False
        self.received: int | None = None

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            for number in self._signals:
                if signal.getsignal(number) not in (signal.SIG_IGN, None):
                    self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._pending.append(number)
        # The handler may itself be interrupted, perhaps in the middle of a print, which is not
        # reentrant: then the outer handler takes this signal next. It checks once more at its end,
        # so that a signal just before that is not lost.
        while self._pending and not self._handling:
            try:
                self._handling = True
                while self._pending:
                    self._take(self._pending.pop(0))
            finally:
                self._handling = False
        if not self._handling:
            self._then()

    def _take(self, number: int) -> None:
        self.received = number
        if self._next:
            self._next.pop(0)()
        else:
            self._restore()
            signal.raise_signal(number)

    def pass_on(self) -> None:
        """After the block: give the received signal its usual effect."""
        if self.received is not None:
            signal.raise_signal(self.received)
