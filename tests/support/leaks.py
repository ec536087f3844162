"""What a piece of code leaves behind: threads and open sockets."""

from __future__ import annotations

import contextlib
import gc
import os
import stat
import threading
import time
from collections.abc import Iterator


def open_sockets() -> set[int]:
    """Return the inodes of this process's open sockets."""
    found = set()
    for name in os.listdir("/dev/fd"):
        with contextlib.suppress(OSError):  # the folder's own descriptor is closed by now
            status = os.fstat(int(name))
            if stat.S_ISSOCK(status.st_mode):
                found.add(status.st_ino)
    return found


@contextlib.contextmanager
def no_leaks(*, within_s: float = 5.0) -> Iterator[None]:
    """Fail when the block leaves a thread or an open socket that was not there before.

    What a server in the same process still has to close gets ``within_s`` seconds; the garbage
    collector does not run, so that a socket held by a reference cycle alone counts as a leak.
    """
    threads, sockets = set(threading.enumerate()), open_sockets()
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
        end = time.monotonic() + within_s
        tick = threading.Event()
        while True:
            new_threads = set(threading.enumerate()) - threads
            new_sockets = open_sockets() - sockets
            if not new_threads and not new_sockets:
                return
            if time.monotonic() > end:
                break
            tick.wait(0.01)
    finally:
        if collecting:
            gc.enable()
    names = sorted(thread.name for thread in new_threads)
    raise AssertionError(f"left behind: threads {names}, {len(new_sockets)} open sockets")
