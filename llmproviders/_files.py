"""Files that the processes of one user share: private, locked, and replaced as a whole."""

from __future__ import annotations

import contextlib
import os
import stat
import threading
from collections.abc import Iterator
from math import inf
from pathlib import Path
from random import uniform
from typing import TYPE_CHECKING

from ._clock import Scope
from ._log import logger

if TYPE_CHECKING:
    from filelock import BaseFileLock


_LARGEST = 1024 * 1024
_POLL_S = (0.01, 0.03)

# What a forked child inherits is its parent's. Some releases of filelock unlock, for both, what
# the child drops, so it is never dropped.
_inherited: list[BaseFileLock] = []

_told: dict[Path, object] = {}


class Unusable(Exception):  # noqa: N818 - it says what the file is, and never reaches a caller
    """A shared file cannot be used; the message says why, and what to do where one can tell."""


def tell_once(path: Path, trouble: object) -> None:
    """Warn that this process goes on without the file ``path``; once in its life."""
    first = object()
    if _told.setdefault(path, first) is first:
        logger.warning("%s is not shared between processes: %s", path, trouble)


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, NotImplementedError) as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise Unusable(f"{path}: {reason}") from error


def read_private(path: Path) -> bytes:
    """The content of a file that this user owns and nobody else can read; nothing if it is none.

    Raises:
        Unusable: it is somebody else's, open to others, no plain file, or cannot be read.
    """
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    with _naming(path):
        try:
            descriptor = os.open(path, flags)
        except FileNotFoundError:
            return b""
        with open(descriptor, "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise Unusable(f"{path} is not a plain file")
            _check_owner(path, status)
            if os.name == "posix" and status.st_mode & 0o077:
                raise Unusable(f"{path} is open to other users; delete it, or chmod 600 it")
            return file.read(_LARGEST)


def replace(path: Path, data: bytes, *, mode: int = 0o600) -> None:
    """Put ``data`` in place of a file at once, readable for this user alone until it is whole.

    Args:
        path: the file; its folder is there.
        data: all of it.
        mode: its permissions in the end.

    Raises:
        OSError: it cannot be written; the file is then as it was before.
    """
    import tempfile

    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with open(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, mode)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def replace_private(path: Path, data: bytes) -> None:
    """Put ``data`` in place of a file at once, readable for this user alone from the first byte.

    Raises:
        Unusable: it cannot be written; the file is then as it was before.
    """
    make_private_folder(path.parent)
    with _naming(path):
        replace(path, data)


def make_private_folder(path: Path) -> None:
    """Make a folder for this user alone; one that is there stays as it is.

    Raises:
        Unusable: it cannot be made, or another user's link stands in its place.
    """
    with _naming(path):
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = os.lstat(path)
    # The system's own links, /tmp on some, are root's.
    if stat.S_ISLNK(status.st_mode) and status.st_uid != 0:
        _check_owner(path, status)


def locks_folder(path: Path) -> Path:
    """Make the folder of the locks that belong to the file ``path``.

    Raises:
        Unusable: it cannot be made, or is somebody else's.
    """
    folder = path.with_name(f"{path.name}.locks")
    make_private_folder(path.parent)
    make_private_folder(folder)
    with _naming(folder):
        status = os.lstat(folder)
    if not stat.S_ISDIR(status.st_mode):
        raise Unusable(f"{folder} is not a folder")
    _check_owner(folder, status)
    return folder


def _check_owner(path: Path, status: os.stat_result) -> None:
    if os.name == "posix" and status.st_uid != os.geteuid():
        raise Unusable(f"{path} belongs to another user")


class Held:
    """A lock that this process holds on a file; any of its threads may let it go.

    Args:
        lock: the lock, which is taken once this is made.
        scope: has it let go, too, if it is cancelled where it was taken, after an interrupt.
    """

    def __init__(self, lock: BaseFileLock, scope: Scope) -> None:
        self._lock = lock
        self._scope = scope
        self._pid = os.getpid()
        self._thread = threading.get_ident()
        scope.attach(self, self._abandon)

    def release(self) -> None:
        """Let it go, if it is held; in a forked child it stays its parent's."""
        if self._pid != os.getpid():
            _inherited.append(self._lock)
            return
        with contextlib.suppress(OSError):
            self._lock.release()
        self._scope.detach(self)

    def _abandon(self) -> None:
        if self._thread == threading.get_ident():
            self.release()

    def __enter__(self) -> Held:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def try_lock(path: Path, scope: Scope) -> Held | None:
    """The lock on ``path``, or None where somebody holds it; it ends with its process.

    Raises:
        Unusable: the lock's file cannot be made or locked.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(str(path), thread_local=False, mode=0o600)
    held = Held(lock, scope)
    try:
        with _naming(path):
            try:
                lock.acquire(timeout=0)
                return held
            except Timeout:
                pass
    except BaseException:
        held.release()
        raise
    held.release()
    return None


def wait_for_lock(path: Path, scope: Scope, patience_s: float = inf) -> Held:
    """The lock on ``path``, once it is free.

    Raises:
        Unusable: the lock's file cannot be made or locked, or was held for ``patience_s`` seconds.
        LLMError: the scope ended; see :meth:`Scope.error`.
    """
    end = scope.clock.monotonic() + patience_s
    while True:
        held = try_lock(path, scope)
        if held is not None:
            return held
        if scope.clock.monotonic() >= end:
            raise Unusable(f"{path} has been locked by another process for {patience_s:g} s")
        pause(scope)


def pause(scope: Scope) -> None:
    """Wait a moment before a lock is tried again; no two processes keep in step.

    Raises:
        LLMError: the scope ended; see :meth:`Scope.error`.
    """
    scope.sleep(uniform(*_POLL_S))
