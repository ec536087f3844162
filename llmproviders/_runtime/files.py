"""Reads, locks and atomically replaces the package's files.

Files are replaced only here, by :func:`replace`, which only touches plain files of this user.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
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


# A forked child inherits its parent's locks. Some releases of filelock release them for both
# processes when the child drops them, so they are kept here.
_inherited: list[BaseFileLock] = []


_told: dict[tuple[Path, int], object] = {}


class Unusable(Exception):  # noqa: N818 - it says what the file is, and never reaches a caller
    """A shared file cannot be used; the message says why and, if possible, what to do."""


def tell_once(path: Path, trouble: object, level: int = logging.WARNING) -> None:
    """Log, once per process and level, that it goes on without the file ``path``."""
    first = object()
    if _told.setdefault((path, level), first) is first:
        logger.log(level, "%s is not shared between processes: %s", path, trouble)


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, NotImplementedError) as error:
        let_through(error)
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise Unusable(f"{path}: {reason}") from error


def json_object(data: bytes) -> dict[str, Any] | None:
    """Parse a file's content as a JSON object; None if it is anything else."""
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        let_through(error)
        return None
    return content if isinstance(content, dict) else None


def check_path(name: str, path: str | os.PathLike[str]) -> None:
    """Reject a path that no file can have.

    Args:
        name: what the path is called, for the message.
        path: the path.

    Raises:
        ValueError: it is blank, or contains a NUL, or a character that the file system does not
            allow.
    """
    if not os.fspath(path).strip():
        raise ValueError(f"{name} is blank: name a file")
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
    """Open a plain file for reading, without ever blocking.

    Args:
        path: the file.
        follow: whether to follow a symbolic link.

    Raises:
        OSError: it cannot be read, or is a pipe, a device or a folder; ``strerror`` says which.
    """
    status = _look(path, follow=follow)
    if not stat.S_ISLNK(status.st_mode):
        # Opening some devices has side effects.
        _check_plain(path, status)
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    file = _opened(path, flags if follow else flags | getattr(os, "O_NOFOLLOW", 0), "rb")
    try:
        _check_plain(path, os.fstat(file.fileno()))
    except BaseException:
        file.close()
        raise
    return file


def _opened(path: str | os.PathLike[str], flags: int, mode: str) -> BinaryIO:
    """Open a file with the flags of ``os.open``; a new one belongs to this user alone."""
    # In C from one end to the other: an interrupt between two steps of Python's would lose the
    # descriptor.
    return next(map(open, map(os.open, (path,), (flags,), (0o600,)), (mode,)))  # type: ignore[return-value]


def read(path: str | os.PathLike[str], *, most: int = _LARGEST, first: int | None = None) -> bytes:
    """The content of a plain file.

    Args:
        path: the file; a link is followed.
        most: largest size, in bytes.
        first: how many bytes to read from its beginning; None: all.

    Raises:
        OSError: it cannot be read, is larger, or is a pipe, a device or a folder; ``strerror``
            says which.
    """
    with open_plain(path) as file:
        return _content(file, path, most, first)


def _content(
    file: BinaryIO, path: str | os.PathLike[str], most: int, first: int | None = None
) -> bytes:
    length = most + 1 if first is None else first
    data = file.read(length) if os.fstat(file.fileno()).st_size <= most else None
    if data is None or len(data) > most:
        reason = f"it is larger than {most / 1024**2:g} MiB"
        raise OSError(errno.EFBIG, reason, os.fspath(path))
    return data


def _read_private(path: Path, most: int) -> bytes:
    with open_plain(path, follow=False) as file:
        _check_private(path, os.fstat(file.fileno()))
        return _content(file, path, most)


def read_private(path: Path) -> bytes:
    """Read a file that only this user can read; empty if there is no file.

    Raises:
        Unusable: another user owns it or can read it, it is not a plain file, or reading failed.
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
    """Replace a file atomically. Only this user can read the new one until it is complete.

    Only plain files of this user are replaced.

    Args:
        path: the file; its folder must exist.
        write: writes the whole new content.
        mode: the final permissions.
        check: gets the old content, and raises a ``ValueError`` if this package did not write
            it. The old file must then also be closed to other users. None: replace any content.
        most: largest size, in bytes, of an old file to check.
        in_place: if the file cannot be replaced, because another user owns it or it is a mount
            point, write into it after the new content is complete in a file beside it.
        scratch: temporary name of the new file; a leftover of a killed process is deleted.
            None: a unique name.

    Raises:
        OSError: it must not or cannot be replaced; ``strerror`` says why. The old file is
            unchanged, unless it was written in place.
    """
    own = _check_old(path, check, most, in_place=in_place)
    new, temporary = _made(path, scratch)
    try:
        with new as file:
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
    """Return whether this user owns the file, or there is none."""
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


def _made(path: Path, scratch: Path | None) -> tuple[BinaryIO, Path]:
    if scratch is None:
        # The whole name plus a unique part could be too long for a file name. Not by tempfile,
        # whose lock a forked child may find held.
        scratch = path.with_name(f".{path.name[:30]}.{os.urandom(8).hex()}")
    else:
        scratch.unlink(missing_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    return _opened(scratch, flags, "wb"), scratch


def _moved(temporary: Path, path: Path, mode: int, *, in_place: bool) -> bool:
    """Try to rename a file over another; return False if that is a mount point."""
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
    """Write into an existing file, and cut off what was longer before.

    Args:
        file: opened for writing, positioned at the start.
        write: writes the whole content.

    Raises:
        OSError: writing failed, perhaps after a part.
    """
    write(file)
    file.flush()
    if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.truncate()
        os.fsync(file.fileno())


def replace_private(path: Path, data: bytes, check: Callable[[bytes], object]) -> None:
    """Replace a file atomically with ``data``, which only this user can ever read.

    Args:
        path: the file; its folder is created if missing.
        data: the whole content.
        check: as for :func:`replace`.

    Raises:
        Unusable: it must not be replaced or cannot be written; the old file is unchanged.
    """
    make_private_folder(path.parent)
    with _naming(path):
        replace(path, lambda file: file.write(data), check=check)


def target_of(path: str | os.PathLike[str]) -> Path | int:
    """Resolve a path and its links, to a file or to the number of an open descriptor.

    Paths such as ``/dev/stdout`` and ``/dev/fd/63`` name a descriptor.

    Raises:
        Unusable: another user owns one of the links, and so could choose the file.
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
    """Check that a file can be created in a folder.

    Raises:
        OSError: it does not exist, or creating a file fails.
    """
    with tempfile.TemporaryFile(dir=folder):
        pass


def opened_in_place(path: Path) -> int | None:
    """Open for writing what cannot be replaced; None if it can be replaced or does not exist.

    Pipes, terminals and other character devices, another user's file, and a file in a folder that
    is not writable can only be written in place.

    Args:
        path: not a symbolic link.

    Raises:
        OSError: it can be neither created nor written.
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
        # Without O_NONBLOCK, a pipe waits for a reader and a serial line for a carrier.
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
    """A path in the same folder, named ``form`` with the file's name in place of ``{}``.

    If that is too long for a file name, a hash replaces the name.
    """
    name = form.format(path.name)
    if len(os.fsencode(name)) > _LONGEST_NAME:
        name = form.format(sha256(os.fsencode(path.name)).hexdigest()[:32])
    return path.with_name(name)


def make_private_folder(path: Path) -> None:
    """Create a folder that only this user can enter; an existing one is left unchanged.

    Raises:
        Unusable: it cannot be created, or is a link that another user owns.
    """
    with _naming(path):
        # Not with exist_ok: pathlib then checks whether it is a folder, and swallows exceptions.
        with ignoring(FileExistsError):
            try:
                os.mkdir(path, 0o700)
            except FileNotFoundError:
                path.mkdir(mode=0o700, parents=True)
        status = os.lstat(path)
        # Links of the system, such as /tmp on some systems, belong to root.
        if stat.S_ISLNK(status.st_mode) and status.st_uid != 0:
            _check_owner(path, status)


def check_private(path: Path) -> None:
    """Check, before creating files beside it, that a file is private to this user.

    Raises:
        Unusable: it is not a plain file, or another user owns it or can read it.
    """
    with _naming(path), contextlib.suppress(FileNotFoundError):
        _check_private(path, _look(path, follow=False))


def make_private_file(path: Path) -> None:
    """Create an empty file that only this user can read, or check that an existing one is.

    Raises:
        Unusable: it cannot be created, is not a plain file, or another user owns it or can read
            it.
    """
    make_private_folder(path.parent)
    with _naming(path):
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
        with ignoring(FileExistsError):
            _opened(path, flags, "wb").close()
        _check_private(path, _look(path, follow=False))


def locks_folder(path: Path) -> Path:
    """Create the folder for the locks of the file ``path``.

    Raises:
        Unusable: it cannot be created, or another user owns it or the file.
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
    """A lock on a file, held by this process; any thread may release it.

    Args:
        lock: the lock; it is acquired after this object exists.
        scope: if the thread that acquired it cancels this scope, after an interrupt, the lock is
            released.
    """

    def __init__(self, lock: BaseFileLock, scope: CancelScope) -> None:
        self._lock = lock
        self._scope = scope
        self._pid = os.getpid()
        self._thread = threading.get_ident()
        scope.attach(self, self._abandon)

    def release(self) -> None:
        """Release it if it is held; in a forked child, the parent keeps it."""
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
    """Import filelock, so that no call imports it."""
    import_module("filelock")


def try_lock(path: Path, scope: CancelScope) -> Held | None:
    """Lock ``path``, or return None if it is locked. The lock ends with its process.

    Raises:
        Unusable: the lock file cannot be created or locked, or is something else.
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
    # Some releases of filelock truncate the file that they lock and change its mode.
    try:
        status = _look(path, follow=False)
    except FileNotFoundError:
        return
    _check_plain(path, status)
    if status.st_size:
        raise FileExistsError(errno.EEXIST, "it is not empty, so no lock", os.fspath(path))


def wait_for_lock(path: Path, scope: CancelScope, patience_s: float = inf) -> Held:
    """Wait until ``path`` can be locked, and lock it.

    Raises:
        Unusable: the lock file cannot be created or locked, or stayed locked for ``patience_s``
            seconds.
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
    """Sleep for a short random time before trying a lock again.

    Raises:
        LLMError: the scope ended; see :meth:`CancelScope.error`.
    """
    scope.sleep(uniform(*_POLL_S))
