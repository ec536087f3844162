"""Locks that survive a fork."""

from __future__ import annotations

import os
import threading


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
