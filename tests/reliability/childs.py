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

import pytest

T = TypeVar("T")
NOBODY = 65534
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")


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


def become_homeless() -> None:
    """Be a user without a home and, if this is root, without a name."""
    for name in [n for n in os.environ if n == "HOME" or n.startswith("XDG_")]:
        del os.environ[name]
    if os.geteuid() == 0:
        os.setgroups([])
        os.setgid(54321)
        os.setuid(54321)


def at_once(function: Callable[[int], object], count: int) -> None:
    """Call ``function`` with each number below ``count``, each in a forked child, all at a time.

    Raises:
        AssertionError: one of them raised something, which it has printed.
    """
    children = []
    for number in range(count):
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                function(number)
                code = 0
            except BaseException:  # noqa: BLE001 - told by the code
                traceback.print_exc()
            finally:
                os._exit(code)
        children.append(pid)
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
    assert codes == [0] * count


def killed_at(
    point: int, modules: tuple[str, ...], folder: Path, function: Callable[[], object]
) -> bool:
    """Whether a child that calls ``function`` was killed at the ``point``-th look of ``folder``.

    That is before the first line, of those in the files ``modules``, at which something in the
    folder is otherwise than at the line before: all lines up to the next such one leave the same.
    False: it came to its end before that.
    """

    def run() -> None:
        with _KillAt(point, modules, folder):
            function()

    try:
        forked(run)
    except ChildKilled:
        return True
    return False


class _KillAt:
    def __init__(self, point: int, modules: tuple[str, ...], folder: Path) -> None:
        self._left = point
        self._modules = modules
        self._folder = folder
        self._look: object = None
        self._known: dict[str, bool] = {}

    def __enter__(self) -> None:
        sys.settrace(self._call)

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)

    def _call(self, frame: FrameType, event: str, argument: Any) -> Any:
        name = frame.f_code.co_filename
        wanted = self._known.get(name)
        if wanted is None:
            wanted = self._known[name] = Path(name).name in self._modules
        return self._line if wanted else None

    def _line(self, frame: FrameType, event: str, argument: Any) -> Any:
        if event == "line" and self._look != (look := _look_of(self._folder)):
            self._look = look
            self._left -= 1
            if self._left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return self._line


def _look_of(folder: Path) -> list[tuple[str, int, bytes]]:
    """What a crash of this process would leave in ``folder``."""
    return sorted(
        (str(path), path.lstat().st_mode, path.read_bytes() if path.is_file() else b"")
        for path in folder.rglob("*")
    )
