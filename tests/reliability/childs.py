"""Code that runs in a forked child: as another user, under limits, or up to where it is killed."""

from __future__ import annotations

import os
import pickle
import resource
import signal
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

T = TypeVar("T")
NOBODY = 65534


class ChildKilled(Exception):  # noqa: N818 - it is what the test wanted
    """The child was killed by a signal."""


def forked(function: Callable[[], T]) -> T:
    """What ``function`` returns, run in a forked child.

    Raises:
        ChildKilled: a signal ended it.
        AssertionError: it raised something; the message has its traceback.
    """
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        # Newer Pythons warn that threads do not survive a fork: none of them is needed here.
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        os.close(reading)
        _run_child(function, writing)
    os.close(writing)
    with open(reading, "rb") as pipe:
        data = pipe.read()
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        raise ChildKilled(signal.Signals(os.WTERMSIG(status)).name)
    ok, value = pickle.loads(data)
    assert ok, value
    return value  # type: ignore[no-any-return]


def _run_child(function: Callable[[], Any], writing: int) -> None:
    try:
        answer = (True, function())
    except BaseException:  # noqa: BLE001 - told to the parent
        answer = (False, traceback.format_exc())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
        with open(writing, "wb") as pipe:
            pipe.write(pickle.dumps(answer))
        os._exit(0)


def disk_full_after(size: int) -> None:
    """Let no file of this process grow beyond ``size`` bytes, as on a full disk."""
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))


def become_nobody() -> None:
    """Give up root's rights, if this is root, so that modes of files count."""
    if os.geteuid() == 0:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)


class KillAt:
    """Kills this process before the ``step``-th line that runs in one of the files ``modules``.

    As a context; ``steps`` counts the lines, so that a ``step`` of 0 tells how many there are.
    """

    def __init__(self, step: int, *modules: str) -> None:
        self.steps = 0
        self._step = step
        self._modules = modules
        self._known: dict[str, bool] = {}

    def __enter__(self) -> KillAt:
        sys.settrace(self._call)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)

    def _call(self, frame: FrameType, event: str, argument: Any) -> Any:
        name = frame.f_code.co_filename
        wanted = self._known.get(name)
        if wanted is None:
            wanted = self._known[name] = Path(name).name in self._modules
        return self._line if wanted else None

    def _line(self, frame: FrameType, event: str, argument: Any) -> Any:
        if event == "line":
            self.steps += 1
            if self.steps == self._step:
                os.kill(os.getpid(), signal.SIGKILL)
        return self._line
