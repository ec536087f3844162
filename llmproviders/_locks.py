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

    def _mine(self) -> threading.RLock:
        pid = os.getpid()
        return self._by_process.get(pid) or self._by_process.setdefault(pid, threading.RLock())

    def __enter__(self) -> None:
        self._mine().acquire()

    def __exit__(self, *_: object) -> None:
        self._mine().release()
