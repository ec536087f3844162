"""Ctrl-C and SIGTERM while work is under way: a request to finish, then an end."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupts:
    """Calls ``stop`` at the first Ctrl-C or SIGTERM, in a ``with`` block of the main thread.

    A second one calls ``end``, and a third does at once what it would have done without the
    block. An exception raised wherever the interpreter happens to be can leave a lock behind, so
    that is the last resort. In another thread, and for a signal that is ignored, nothing is
    changed.

    Args:
        stop: called from the signal's handler.
        end: called from the signal's handler.
    """

    def __init__(self, stop: Callable[[], object], end: Callable[[], object]) -> None:
        self._next = [stop, end]
        self._before: dict[int, Any] = {}
        self.received: int | None = None

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
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
        self.received = number
        if self._next:
            self._next.pop(0)()
        else:
            self._restore()
            signal.raise_signal(number)

    def pass_on(self) -> None:
        """After the block: let the signal that came do what it does."""
        if self.received is not None:
            signal.raise_signal(self.received)
