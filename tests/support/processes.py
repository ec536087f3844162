"""Code that runs in a forked child of the test."""

from __future__ import annotations

import os
import signal
import time
import traceback
import warnings
from collections.abc import Callable


class Child:
    """A process that runs a function and ends, without what Python does at its end.

    Its parent's fixtures and threads are not its own, so nothing of theirs may run in it.
    """

    def __init__(self, run: Callable[[], object]) -> None:
        with warnings.catch_warnings():
            # Python 3.12 and later warn of forking beside threads, which is what is tested.
            warnings.simplefilter("ignore", DeprecationWarning)
            self.pid = os.fork()
        if self.pid == 0:
            code = 1
            try:
                run()
                code = 0
            except BaseException:  # noqa: BLE001 - told by the exit code
                traceback.print_exc()
            finally:
                os._exit(code)

    def kill(self) -> None:
        """End it as nothing can be prepared for."""
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)

    def wait(self) -> None:
        """Wait for its end; fail unless it ended well."""
        _, status = os.waitpid(self.pid, 0)
        assert os.waitstatus_to_exitcode(status) == 0, "the child failed; see its standard error"

    def end_within(self, seconds: float) -> None:
        """Wait so long for its end; fail unless it ended well, and kill it if it hangs."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                code = os.waitstatus_to_exitcode(status)
                assert code == 0, f"the child failed ({code}); see its standard error"
                return
            time.sleep(0.002)
        self.kill()
        raise AssertionError(f"the child hung for {seconds:g} s")


def in_child(run: Callable[[], object]) -> None:
    """Run a function in a forked child; fail where it fails."""
    Child(run).wait()
