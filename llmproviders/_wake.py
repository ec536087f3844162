"""Waking one thread that waits: from another thread, a cancelled scope, or a finalizer."""

from __future__ import annotations

import threading
from contextlib import suppress
from math import inf

from ._clock import Scope


class Wake:
    """One wait of one thread, which :meth:`up` ends.

    A bare lock and not an ``Event``: the garbage collector may run a finalizer that calls ``up``
    inside the very wait, and would stand before the lock that an ``Event`` holds there.
    """

    __slots__ = ("_lock",)

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()

    def up(self) -> None:
        """End the wait; before it began, too, and more than once."""
        with suppress(RuntimeError):
            self._lock.release()

    def wait(self, scope: Scope) -> None:
        """Wait for :meth:`up`.

        Raises:
            LLMError: the scope ended; see :meth:`Scope.error`.
        """
        scope.attach(self, self.up)
        try:
            while not scope.over:
                left = scope.remaining()
                patience = -1 if left == inf else min(max(left, 0.0), threading.TIMEOUT_MAX)
                if self._lock.acquire(timeout=patience):
                    break
        finally:
            scope.detach(self)
        if scope.over:
            raise scope.error()
