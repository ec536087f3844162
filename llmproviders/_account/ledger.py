"""The ledger: requests and tokens, counted in an SQLite file that all processes of a user share.

Nothing of a prompt, a reply or a key is in it; a credential is kept as its hash.
"""

from __future__ import annotations

import atexit
import os
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from .. import _environment
from .._printable import one_line
from .._runtime.files import Unusable, make_private_file, pause, tell_once
from .._runtime.process import Process, current, keep_untouched
from .._runtime.scope import CancelScope, ForkLock
from .._signals import let_through
from ..errors import Usage

T = TypeVar("T")

KEPT_DAYS = 90

DAY_S = 86400

_MOST_NAMES_A_DAY = 500
"""Pairs of provider and model; what comes above them in a day is counted as one."""

_OTHERS = "(others)"

_MOST_DAY_COUNTS = 1000

_LONGEST_NAME = 120

_BUSY_S = 0.1
"""One wait of SQLite for another process, during which no signal is handled."""

_PATIENCE_S = 10.0

# "LLMu". SQLite keeps it in the file's header, by which the file is known for ours.
_APPLICATION_ID = 0x4C4C4D75

_VERSION = 1

_SCHEMA = """
CREATE TABLE days (
    credential TEXT NOT NULL, day INTEGER NOT NULL,
    requests INTEGER NOT NULL, tokens INTEGER NOT NULL,
    PRIMARY KEY (credential, day)
) WITHOUT ROWID;
CREATE TABLE recent (
    id INTEGER PRIMARY KEY, credential TEXT NOT NULL, at REAL NOT NULL, tokens INTEGER NOT NULL
);
CREATE INDEX recent_at ON recent (credential, at);
CREATE TABLE used (
    day INTEGER NOT NULL, provider TEXT NOT NULL, model TEXT NOT NULL,
    requests INTEGER NOT NULL DEFAULT 0, failures INTEGER NOT NULL DEFAULT 0,
    prompt_tokens INTEGER NOT NULL DEFAULT 0, completion_tokens INTEGER NOT NULL DEFAULT 0,
    total_tokens INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (day, provider, model)
) WITHOUT ROWID;
"""


class Ledger:
    """The file, and this process's connection to it.

    Every change is one short transaction that is on disk, as far as other processes are concerned,
    before it returns: what a killed process had counted stays counted. Where the file cannot be
    used, there is one warning, and this process counts in its memory.

    Args:
        path: the file; it and its folder are made when something is counted.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = ForkLock()
        self._open: tuple[Process, sqlite3.Connection] | None = None
        self._in_memory: Process | None = None

    def change(self, alter: Callable[[sqlite3.Connection], T], scope: CancelScope) -> T:
        """Call ``alter`` in a transaction, which is undone if it raises.

        Args:
            alter: changes the tables; it may be called more than once.
            scope: how long to wait for other processes.

        Raises:
            LLMError: the scope ended; see :meth:`CancelScope.error`.
        """
        return self._retried(lambda db: _in_transaction(db, alter), scope)

    def read(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """The rows of a query."""
        return self._retried(lambda db: db.execute(statement, values).fetchall(), CancelScope())

    def _retried(self, use: Callable[[sqlite3.Connection], T], scope: CancelScope) -> T:
        """Use the connection, again where another process kept the file busy."""
        end = time.monotonic() + _PATIENCE_S
        while True:
            try:
                with self._lock.mine:
                    return use(self._connection())
            except (sqlite3.Error, Unusable) as trouble:
                let_through(trouble)
                if _is_busy(trouble) and time.monotonic() < end:
                    pause(scope)
                    continue
                if self._in_memory is current():
                    raise
                self._go_on_alone(trouble)

    def _go_on_alone(self, trouble: Exception) -> None:
        tell_once(self.path, trouble)
        with self._lock.mine:
            self.close()
            self._in_memory = current()

    def _connection(self) -> sqlite3.Connection:
        if self._open is not None and self._open[0] is not current():
            # A connection must not be used, nor closed, by a forked child.
            keep_untouched(self._open)
            self._open = None
        if self._open is None:
            self._open = current(), self._connect()
        return self._open[1]

    def _connect(self) -> sqlite3.Connection:
        if self._in_memory is current():
            db = _connection_to(":memory:")
            _create(db)
            return db
        make_private_file(self.path)
        db = _connection_to(os.fspath(self.path))
        try:
            if _is_new(db):
                db.execute("PRAGMA journal_mode = WAL")
                _in_transaction(db, _create)
            db.execute("PRAGMA synchronous = NORMAL")
            return db
        except BaseException:
            db.close()
            raise

    def close(self) -> None:
        """Close this process's connection; the next use opens one."""
        with self._lock.mine:
            if self._open is not None and self._open[0] is current():
                self._open[1].close()
                self._open = None


def _connection_to(name: str) -> sqlite3.Connection:
    return sqlite3.connect(name, timeout=_BUSY_S, isolation_level=None, check_same_thread=False)


def _in_transaction(db: sqlite3.Connection, alter: Callable[[sqlite3.Connection], T]) -> T:
    try:
        db.execute("BEGIN IMMEDIATE")
        result = alter(db)
        db.execute("COMMIT")
        return result
    finally:
        # After an error, or an interrupt between any two steps.
        if db.in_transaction:
            db.execute("ROLLBACK")


def _is_new(db: sqlite3.Connection) -> bool:
    """Whether a file is empty yet.

    Raises:
        Unusable: it is something else than ours.
    """
    ((kind,),) = db.execute("PRAGMA application_id")
    ((version,),) = db.execute("PRAGMA user_version")
    ((tables,),) = db.execute("SELECT count(*) FROM sqlite_master")
    if (kind, version, tables) == (0, 0, 0):
        return True
    if kind != _APPLICATION_ID:
        raise Unusable("it is a database, but not one of usage; move it away")
    if version != _VERSION:
        raise Unusable("another version of llmproviders wrote it; move it away")
    return False


def _create(db: sqlite3.Connection) -> None:
    if not _is_new(db):
        # Another process was faster.
        return
    for statement in _SCHEMA.split(";"):
        db.execute(statement)
    db.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
    db.execute(f"PRAGMA user_version = {_VERSION}")


def _is_busy(trouble: Exception) -> bool:
    # Its error codes have names from Python 3.11 on.
    return isinstance(trouble, sqlite3.OperationalError) and "locked" in str(trouble)


_ledgers: dict[Path, Ledger] = {}


def ledger() -> Ledger:
    """The ledger in the user's state folder; this process has one for each path."""
    path = _environment.usage_file()
    found = _ledgers.get(path)
    if found is None:
        found = _ledgers.setdefault(path, Ledger(path))
        atexit.register(found.close)
    return found


def count_request(
    db: sqlite3.Connection, day: int, provider: str, model: str
) -> tuple[int, str, str]:
    """Count a request; returns the day and the names that it is counted under."""
    counted = "UPDATE used SET requests = requests + 1 WHERE (day, provider, model) = (?, ?, ?)"
    if db.execute(counted, (day, provider, model)).rowcount:
        return day, provider, model
    db.execute("DELETE FROM used WHERE day <= ?", (day - KEPT_DAYS,))
    ((names,),) = db.execute("SELECT count(*) FROM used WHERE day = ?", (day,))
    if names >= _MOST_NAMES_A_DAY:
        provider = model = _OTHERS
    db.execute(
        "INSERT INTO used (day, provider, model, requests) VALUES (?, ?, ?, 1)"
        " ON CONFLICT DO UPDATE SET requests = requests + 1",
        (day, provider, model),
    )
    return day, provider, model


def count_result(
    db: sqlite3.Connection, where: tuple[int, str, str], *, failed: bool, usage: Usage | None
) -> None:
    """Count how a request ended, with the tokens that the service told."""
    usage = usage or Usage()
    db.execute(
        "UPDATE used SET failures = failures + ?, prompt_tokens = prompt_tokens + ?,"
        " completion_tokens = completion_tokens + ?, total_tokens = total_tokens + ?"
        " WHERE (day, provider, model) = (?, ?, ?)",
        (
            failed,
            usage.prompt_tokens or 0,
            usage.completion_tokens or 0,
            total_of(usage) or 0,
            *where,
        ),
    )


def uncount_request(db: sqlite3.Connection, where: tuple[int, str, str]) -> None:
    """Take back a request that was never sent."""
    db.execute(
        "UPDATE used SET requests = requests - 1 WHERE (day, provider, model) = (?, ?, ?)", where
    )
    db.execute("DELETE FROM used WHERE requests <= 0 AND (day, provider, model) = (?, ?, ?)", where)


def prune_days(db: sqlite3.Connection, day: int) -> None:
    """Forget old counts of limits once there are many.

    By their number and not by their age alone: when a clock that was far ahead is set right,
    today's counts are still there.
    """
    db.execute(
        "DELETE FROM days WHERE day < ? AND (SELECT count(*) FROM days) > ?",
        (day - 1, _MOST_DAY_COUNTS),
    )


def total_of(usage: Usage | None) -> int | None:
    """All tokens of a reply, or None where the service did not tell."""
    if usage is None:
        return None
    if usage.total_tokens is not None:
        return usage.total_tokens
    parts = usage.prompt_tokens, usage.completion_tokens
    return None if None in parts else sum(part or 0 for part in parts)


def name_of(text: str) -> str:
    """A provider's or model's name as it is kept: one line, of bounded length."""
    return one_line(text)[:_LONGEST_NAME]
