"""The package's SQLite files: opened if they are ours, and closed while this process forks."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote
from weakref import ref

from .._signals import ignoring, let_through
from .files import Unusable, check_private, make_private_file, open_plain
from .process import Process, around_forks, current, keep_untouched

T = TypeVar("T")

_BUSY_S = 0.1
"""One wait of SQLite for another process, during which no signal is handled."""

_FORK_WAITS_S = 2.0
"""How long a fork waits for other threads, which are in SQLite for a moment only."""

_MAGIC = b"SQLite format 3\0"

# Files that SQLite puts beside a database, and would read whoever wrote them.
_COMPANIONS = ("-journal", "-wal", "-shm")

# SQLite has its own locks, and remembers in memory which files it has locked. A child that is
# forked while a thread is in SQLite, or while a file is open, could wait forever or damage the
# file. So there is one lock for all databases; before a fork it is taken and the files are closed.
_lock = threading.RLock()

_databases: dict[int, ref[Database]] = {}


class Database:
    """An SQLite file of one kind and version, and this process's connection to it.

    It is opened at its first use, and again at the next one after :meth:`close` or a fork.

    Args:
        path: the file; it and its folder are created on first use. None: a database in this
            process's memory.
        kind: the number in a file's header that identifies it as ours.
        version: the version number in the header.
        schema: the statements that create its tables, separated by semicolons.
    """

    def __init__(self, path: Path | None, *, kind: int, version: int, schema: str) -> None:
        self._path = path
        self._kind = kind
        self._version = version
        self._schema = schema
        self._opened: tuple[Process, sqlite3.Connection] | None = None
        self._place: tuple[int, int] | None = None
        self._in_use = False
        for key, other in _databases.copy().items():
            if other() is None:
                _databases.pop(key, None)
        _databases[id(self)] = ref(self)

    def use(self, function: Callable[[sqlite3.Connection], T]) -> T:
        """Call ``function`` with the connection, while no other thread uses one.

        Raises:
            Unusable: the file is not ours, or a file beside it that SQLite would read is not.
            sqlite3.Error: SQLite cannot use it.
        """
        with _lock:
            outer = self._in_use
            try:
                if not outer and self._was_replaced():
                    self.close()
                self._in_use = True
                return function(self._connection())
            except UnicodeDecodeError as error:
                raise Unusable(f"it is damaged: {error}") from error
            finally:
                self._in_use = outer

    def close(self) -> None:
        """Close the connection, unless this thread is using it."""
        with _lock:
            if self._opened is None or self._in_use:
                return
            (process, connection), self._opened = self._opened, None
            if process is current():
                connection.close()
            else:
                keep_untouched(connection)

    __del__ = close

    def _close_for_fork(self) -> None:
        if self._path is not None:
            self.close()

    def _connection(self) -> sqlite3.Connection:
        if self._opened is not None and self._opened[0] is not current():
            keep_untouched(self._opened)
            self._opened = None
        if self._opened is None:
            self._opened = current(), self._connect()
        return self._opened[1]

    def _was_replaced(self) -> bool:
        """Whether the file that is open was deleted, or another one stands in its place."""
        return (
            self._opened is not None
            and self._path is not None
            and _place_of(self._path) != self._place
        )

    def _connect(self) -> sqlite3.Connection:
        if self._path is None:
            return self._connection_to(":memory:")
        self._make(self._path)
        self._place = _place_of(self._path)
        try:
            return self._connection_to(os.fspath(self._path))
        except sqlite3.OperationalError as error:
            let_through(error)
            if is_busy(error):
                raise
            # It, or its folder, cannot be written; its rows can still be read.
            name = f"file:{quote(self._path.as_posix())}?immutable=1"
            return self._connection_to(name, only_reads=True)

    def _connection_to(self, name: str, *, only_reads: bool = False) -> sqlite3.Connection:
        db = sqlite3.connect(
            name,
            timeout=_BUSY_S,
            isolation_level=None,
            check_same_thread=False,
            uri=only_reads,
        )
        try:
            if only_reads:
                return db
            if self._is_new(db):
                # Before the write-ahead log: with it, the file could have a header and no tables
                # yet.
                in_transaction(db, self._create)
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = NORMAL")
            return db
        except BaseException:
            db.close()
            raise

    def _make(self, path: Path) -> None:
        """Create the file, or check that it is ours."""
        make_private_file(path)
        for ending in _COMPANIONS:
            check_private(path.with_name(path.name + ending))
        try:
            with open_plain(path, follow=False) as file:
                header = file.read(72)
        except OSError as error:
            raise Unusable(f"{path}: {error.strerror}") from error
        numbers = int.from_bytes(header[68:72], "big"), int.from_bytes(header[60:64], "big")
        # An empty one was created a moment ago, here or in another process.
        if header and (header[:16] != _MAGIC or numbers[0] != self._kind):
            raise Unusable(
                "it belongs to another program, or is damaged; name another file, or move it away"
            )
        if header and numbers[1] != self._version:
            raise Unusable("another version of llmproviders wrote it; move it away")

    def _is_new(self, db: sqlite3.Connection) -> bool:
        ((kind,),) = db.execute("PRAGMA application_id")
        return bool(kind != self._kind)

    def _create(self, db: sqlite3.Connection) -> None:
        if not self._is_new(db):
            # Another process was faster.
            return
        for statement in self._schema.split(";"):
            db.execute(statement)
        db.execute(f"PRAGMA application_id = {self._kind}")
        db.execute(f"PRAGMA user_version = {self._version}")


def _place_of(path: Path) -> tuple[int, int] | None:
    """What tells the file at ``path`` from another one; None if there is none."""
    try:
        status = os.stat(path)
    except OSError as error:
        let_through(error)
        return None
    return status.st_dev, status.st_ino


def in_transaction(db: sqlite3.Connection, alter: Callable[[sqlite3.Connection], T]) -> T:
    """Call ``alter`` in a transaction, which is rolled back if it raises."""
    try:
        db.execute("BEGIN IMMEDIATE")
        result = alter(db)
        db.execute("COMMIT")
        return result
    finally:
        # After an error, or an interrupt between any two steps.
        if db.in_transaction:
            db.execute("ROLLBACK")


def is_busy(trouble: Exception) -> bool:
    """Whether another process held a file for longer than one wait."""
    # Its error codes have names from Python 3.11 on.
    return isinstance(trouble, sqlite3.OperationalError) and "locked" in str(trouble)


def _close_for_fork() -> None:
    if not _lock.acquire(timeout=_FORK_WAITS_S):
        return
    for found in _databases.copy().values():
        database = found()
        if database is not None:
            database._close_for_fork()


def _after_fork() -> None:
    # It is not held if that took too long, or if a signal handler raised.
    with ignoring(RuntimeError):
        _lock.release()


def _after_fork_in_child() -> None:
    global _lock
    _lock = threading.RLock()


around_forks(_close_for_fork, in_parent=_after_fork, in_child=_after_fork_in_child)
