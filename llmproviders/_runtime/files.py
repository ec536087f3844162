"""The package's files: read without waiting, locked, and replaced as a whole if they are ours.

All replacing is done here, by :func:`replace`, which touches nothing but a plain file of this user.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import stat
import tempfile
import threading
from collections.abc import Callable, Iterator
from hashlib import sha256
from importlib import import_module
from math import inf
from pathlib import Path
from random import uniform
from typing import TYPE_CHECKING, Any, BinaryIO

from .._log import logger
from .._signals import ignoring, let_through
from .scope import CancelScope

if TYPE_CHECKING:
    from filelock import BaseFileLock


_LARGEST = 1024 * 1024

_LONGEST_NAME = 255

_MOST_LINKS = 40

_POLL_S = (0.01, 0.03)

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFLNK: "a link",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}

_OPENED_BY_NUMBER = ("/dev/fd", "/proc/self/fd")


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
        let_through(error)
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise Unusable(f"{path}: {reason}") from error


def json_object(data: bytes) -> dict[str, Any] | None:
    """The JSON object that a file's content is; None where it is something else."""
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        let_through(error)
        return None
    return content if isinstance(content, dict) else None


def check_path(name: str, path: str | os.PathLike[str]) -> None:
    """Refuse a path that no file can have.

    Args:
        name: what the path is called, for the message.
        path: the path.

    Raises:
        ValueError: there is a NUL in it, or a character that the file system cannot hold.
    """
    try:
        encoded = os.fsencode(path)
    except UnicodeEncodeError:
        encoded = b"\0"
    if b"\0" in encoded:
        raise ValueError(f"{name}: no file can be called {os.fspath(path)!r}")


def _look(path: str | os.PathLike[str], *, follow: bool) -> os.stat_result:
    try:
        return os.stat(path, follow_symlinks=follow)
    except ValueError as error:
        reason = "no file can have this name"
        raise OSError(errno.EINVAL, reason, os.fspath(path)) from error


def _check_plain(path: str | os.PathLike[str], status: os.stat_result) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
    if not stat.S_ISREG(status.st_mode):
        kind = _KINDS.get(stat.S_IFMT(status.st_mode), "something else")
        raise OSError(errno.EINVAL, f"it is not a plain file but {kind}", os.fspath(path))


def _is_own(status: os.stat_result) -> bool:
    return os.name != "posix" or status.st_uid == os.geteuid()


def _check_owner(path: Path, status: os.stat_result) -> None:
    if not _is_own(status):
        raise PermissionError(errno.EPERM, "it belongs to another user", os.fspath(path))


def _check_private(path: Path, status: os.stat_result) -> None:
    _check_plain(path, status)
    _check_owner(path, status)
    if os.name == "posix" and status.st_mode & 0o077:
        reason = "it is open to other users; delete it, or chmod 600 it"
        raise PermissionError(errno.EPERM, reason, os.fspath(path))


def open_plain(path: str | os.PathLike[str], *, follow: bool = True) -> BinaryIO:
    """Open a plain file for reading; this waits for nobody.

    Args:
        path: the file.
        follow: whether a link in its place is followed.

    Raises:
        OSError: it cannot be read, or is a pipe, a device or a folder; ``strerror`` says which.
    """
    status = _look(path, follow=follow)
    if not stat.S_ISLNK(status.st_mode):
        # Some devices do something as soon as they are opened.
        _check_plain(path, status)
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    descriptor = os.open(path, flags if follow else flags | getattr(os, "O_NOFOLLOW", 0))
    try:
        _check_plain(path, os.fstat(descriptor))
        return open(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read(path: str | os.PathLike[str], *, most: int = _LARGEST) -> bytes:
    """The content of a plain file.

    Args:
        path: the file; a link is followed.
        most: bytes that it may have.

    Raises:
        OSError: it cannot be read, is larger, or is a pipe, a device or a folder; ``strerror``
            says which.
    """
    with open_plain(path) as file:
        return _content(file, path, most)


def _content(file: BinaryIO, path: str | os.PathLike[str], most: int) -> bytes:
    data = file.read(most + 1) if os.fstat(file.fileno()).st_size <= most else None
    if data is None or len(data) > most:
        reason = f"it is larger than {most / 1024**2:g} MiB"
        raise OSError(errno.EFBIG, reason, os.fspath(path))
    return data


def _read_private(path: Path, most: int) -> bytes:
    with open_plain(path, follow=False) as file:
        _check_private(path, os.fstat(file.fileno()))
        return _content(file, path, most)


def read_private(path: Path) -> bytes:
    """The content of a file that this user owns and nobody else can read; nothing if it is none.

    Raises:
        Unusable: it is somebody else's, open to others, no plain file, or cannot be read.
    """
    with _naming(path):
        try:
            return _read_private(path, _LARGEST)
        except FileNotFoundError as error:
            let_through(error)
            return b""


def replace(
    path: Path,
    write: Callable[[BinaryIO], object],
    *,
    mode: int = 0o600,
    check: Callable[[bytes], object] | None = None,
    most: int = _LARGEST,
    in_place: bool = False,
    scratch: Path | None = None,
) -> None:
    """Put a new file in place of one at once, readable for this user alone until it is whole.

    What is no plain file of this user is never replaced.

    Args:
        path: the file; its folder is there.
        write: writes all of the new one.
        mode: its permissions in the end.
        check: gets what is in the old one, and raises a ``ValueError`` where that is not what
            this package writes there. Such a file must be closed to other users, too. None: any
            content may be replaced.
        most: bytes that a file to be checked may have.
        in_place: write into a file that cannot be replaced, since it is another user's or is
            mounted by itself, once the new one is whole beside it.
        scratch: the new file's name until it is whole; what a killed process left there is
            deleted. None: a name of its own.

    Raises:
        OSError: it must not or cannot be replaced; ``strerror`` says why, and the file is as it
            was before, unless it was written in place.
    """
    own = _check_old(path, check, most, in_place=in_place)
    descriptor, temporary = _made(path, scratch)
    try:
        with open(descriptor, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        if own and _moved(temporary, path, mode, in_place=in_place):
            return
        with open(temporary, "rb") as whole, open(_to_write(path), "wb") as file:
            overwrite(file, lambda old: shutil.copyfileobj(whole, old))
        os.unlink(temporary)
    except BaseException:
        with ignoring(OSError):
            os.unlink(temporary)
        raise


def _check_old(
    path: Path, check: Callable[[bytes], object] | None, most: int, *, in_place: bool
) -> bool:
    """Whether the file is this user's, or there is none."""
    try:
        status = _look(path, follow=False)
        _check_plain(path, status)
        if check is None:
            if not in_place:
                _check_owner(path, status)
            return _is_own(status)
        data = _read_private(path, most)
    except FileNotFoundError:
        return True
    if data:
        try:
            check(data)
        except ValueError as error:
            raise FileExistsError(errno.EEXIST, str(error), os.fspath(path)) from error
    return True


def _made(path: Path, scratch: Path | None) -> tuple[int, Path]:
    if scratch is None:
        # All of a long name, and what makes it one of its own, could be longer than names may be.
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name[:30]}.", dir=path.parent)
        return descriptor, Path(name)
    scratch.unlink(missing_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    return os.open(scratch, flags, 0o600), scratch


def _moved(temporary: Path, path: Path, mode: int, *, in_place: bool) -> bool:
    """Whether a file could be put in another's place; not if that is mounted by itself."""
    os.chmod(temporary, mode)
    try:
        os.replace(temporary, path)
    except OSError as error:
        let_through(error)
        if error.errno != errno.EBUSY or not in_place:
            raise
        return False
    return True


def _to_write(path: Path, flags: int = 0) -> int:
    names = ("O_NOFOLLOW", "O_NOCTTY", "O_BINARY")
    return os.open(path, sum((getattr(os, name, 0) for name in names), os.O_WRONLY | flags))


def overwrite(file: BinaryIO, write: Callable[[BinaryIO], object]) -> None:
    """Write a file in place; what was longer before is cut off at the end.

    Args:
        file: opened for writing, at its start.
        write: writes all that is to be in it.

    Raises:
        OSError: it cannot be written; a part of it may have been.
    """
    write(file)
    file.flush()
    if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.truncate()
        os.fsync(file.fileno())


def replace_private(path: Path, data: bytes, check: Callable[[bytes], object]) -> None:
    """Put ``data`` in place of a file at once, readable for this user alone from the first byte.

    Args:
        path: the file; its folder is made if need be.
        data: all of it.
        check: as for :func:`replace`.

    Raises:
        Unusable: it is not to be replaced, or cannot be written; the file is then as it was.
    """
    make_private_folder(path.parent)
    with _naming(path):
        replace(path, lambda file: file.write(data), check=check)


def target_of(path: str | os.PathLike[str]) -> Path | int:
    """The file that a path names, through links too; or the number of the open descriptor that
    it names, as ``/dev/stdout`` and ``/dev/fd/63`` do.

    Raises:
        Unusable: a link on the way is another user's, who would choose which file is written.
        OSError: there are too many links.
    """
    place = os.path.join(os.getcwd(), path)
    for _ in range(_MOST_LINKS):
        folder, name = os.path.split(place)
        if name.isascii() and name.isdecimal() and _lists_descriptors(folder):
            return int(name)
        try:
            status = _look(place, follow=False)
        except FileNotFoundError:
            break
        if not stat.S_ISLNK(status.st_mode):
            break
        if not _is_own(status) and status.st_uid != 0:
            raise Unusable(f"{place} is a link that belongs to another user; name another file")
        place = os.path.join(folder, os.readlink(place))
    else:
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), os.fspath(path))
    return Path(os.path.realpath(place))


def _lists_descriptors(folder: str) -> bool:
    return os.path.realpath(folder) in map(os.path.realpath, _OPENED_BY_NUMBER)


def check_folder(folder: Path) -> None:
    """Refuse a folder that takes no new file.

    Raises:
        OSError: it is not there, or takes none.
    """
    with tempfile.TemporaryFile(dir=folder):
        pass


def opened_in_place(path: Path) -> int | None:
    """A descriptor to write to what cannot be replaced; None for what can, or is yet to be made.

    What can only be written in place is a pipe, a terminal or another device of characters,
    another user's file, and a file in a folder that takes no new one.

    Args:
        path: no link.

    Raises:
        OSError: it can neither be made nor be written.
    """
    try:
        status = _look(path, follow=False)
    except FileNotFoundError:
        status = None
    if status is None:
        check_folder(path.parent)
        return None
    if stat.S_ISREG(status.st_mode) and _is_own(status):
        try:
            check_folder(path.parent)
            return None
        except OSError as error:
            let_through(error)
            if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
                raise
    elif not (stat.S_ISFIFO(status.st_mode) or stat.S_ISCHR(status.st_mode)):
        _check_plain(path, status)
    try:
        # Else a pipe would wait for its reader, and a serial line for its carrier.
        descriptor = _to_write(path, getattr(os, "O_NONBLOCK", 0))
    except OSError as error:
        if error.errno == errno.ENXIO and stat.S_ISFIFO(status.st_mode):
            reason = "nobody reads this pipe; start its reader first"
            raise OSError(errno.ENXIO, reason, os.fspath(path)) from error
        raise
    if os.name == "posix":
        os.set_blocking(descriptor, True)
    return descriptor


def beside(path: Path, form: str) -> Path:
    """A path of ours beside another, whose name it has in place of ``{}``.

    Where that would be longer than names may be, a hash stands for the name.
    """
    name = form.format(path.name)
    if len(os.fsencode(name)) > _LONGEST_NAME:
        name = form.format(sha256(os.fsencode(path.name)).hexdigest()[:32])
    return path.with_name(name)


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


def check_private(path: Path) -> None:
    """Refuse what could be no file of this user's alone, before anything is put beside it.

    Raises:
        Unusable: something stands there that is no plain file, somebody else's or open to others.
    """
    with _naming(path), contextlib.suppress(FileNotFoundError):
        _check_private(path, _look(path, follow=False))


def make_private_file(path: Path) -> None:
    """Make an empty file for this user alone; one that is there has to be such a file.

    Raises:
        Unusable: it cannot be made, or something stands there that is no plain file, somebody
            else's or open to others.
    """
    make_private_folder(path.parent)
    with _naming(path):
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
        with ignoring(FileExistsError):
            os.close(os.open(path, flags, 0o600))
        _check_private(path, _look(path, follow=False))


def locks_folder(path: Path) -> Path:
    """Make the folder of the locks that belong to the file ``path``.

    Raises:
        Unusable: it cannot be made, or is somebody else's; or so is the file.
    """
    check_private(path)
    folder = beside(path, "{}.locks")
    make_private_folder(path.parent)
    make_private_folder(folder)
    with _naming(folder):
        status = os.lstat(folder)
        if not stat.S_ISDIR(status.st_mode):
            raise NotADirectoryError(errno.ENOTDIR, "it is not a folder", os.fspath(folder))
        _check_owner(folder, status)
    return folder


class Held:
    """A lock that this process holds on a file; any of its threads may let it go.

    Args:
        lock: the lock, which is taken once this is made.
        scope: has it let go, too, if it is cancelled where it was taken, after an interrupt.
    """

    def __init__(self, lock: BaseFileLock, scope: CancelScope) -> None:
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
        with ignoring(OSError):
            self._lock.release()
        self._scope.detach(self)

    def _abandon(self) -> None:
        if self._thread == threading.get_ident():
            self.release()

    def __enter__(self) -> Held:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def load_locks() -> None:
    """Import filelock, so that no call has to."""
    import_module("filelock")


def try_lock(path: Path, scope: CancelScope) -> Held | None:
    """The lock on ``path``, or None where somebody holds it; it ends with its process.

    Raises:
        Unusable: the lock's file cannot be made or locked, or something else stands there.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(str(path), thread_local=False, mode=0o600)
    held = Held(lock, scope)
    try:
        with _naming(path):
            _check_lock(path)
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


def _check_lock(path: Path) -> None:
    # Some releases of filelock empty what they lock, and change its mode.
    try:
        status = _look(path, follow=False)
    except FileNotFoundError:
        return
    _check_plain(path, status)
    if status.st_size:
        raise FileExistsError(errno.EEXIST, "it is not empty, so no lock", os.fspath(path))


def wait_for_lock(path: Path, scope: CancelScope, patience_s: float = inf) -> Held:
    """The lock on ``path``, once it is free.

    Raises:
        Unusable: the lock's file cannot be made or locked, or was held for ``patience_s`` seconds.
        LLMError: the scope ended; see :meth:`CancelScope.error`.
    """
    end = scope.clock.monotonic() + patience_s
    while True:
        held = try_lock(path, scope)
        if held is not None:
            return held
        if scope.clock.monotonic() >= end:
            raise Unusable(f"{path} has been locked by another process for {patience_s:g} s")
        pause(scope)


def pause(scope: CancelScope) -> None:
    """Wait a moment before a lock is tried again; no two processes keep in step.

    Raises:
        LLMError: the scope ended; see :meth:`CancelScope.error`.
    """
    scope.sleep(uniform(*_POLL_S))
