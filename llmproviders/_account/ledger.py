"""The ledger: counts of requests and tokens in an SQLite file shared by a user's processes.

It contains no prompts, replies or keys; a credential is stored as its hash.
"""

from __future__ import annotations

import atexit
import logging
import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from operator import sub
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from .. import _environment
from .._log import logger
from .._printable import one_line
from .._redact import redact
from .._runtime.database import Database, in_transaction, is_busy
from .._runtime.files import Unusable, pause, tell_once
from .._runtime.process import Process, current
from .._runtime.scope import CancelScope
from .._signals import ignoring, let_through
from ..errors import Usage

T = TypeVar("T")

KEPT_DAYS = 90

DAY_S = 86400

MINUTE_S = 60.0

_MOST_NAMES_A_DAY = 500
"""Most pairs of provider and model in a day; all further ones are counted as one."""

_OTHERS = "(others)"

_MOST_DAY_COUNTS = 1000

_MOST_TOKENS = 10**12
"""The most tokens that one reply counts for."""

_LONGEST_NAME = 120

_PATIENCE_S = 10.0

_AGAIN_S = 60.0
"""After how long a process that counts in memory tries the file again."""

# "LLMu". SQLite stores it in the file's header, which identifies the file as ours.
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

    Every change is one short transaction that other processes see once it returns, so counts
    survive if a process is killed. If the file cannot be used, that is logged once, as an error if
    a limit depends on it, and this process goes on in memory, from the counts of the file if it can
    be read. It tries the file again after a minute, and adds what it has counted meanwhile.

    Args:
        path: the file; it and its folder are created on the first count.

    Attributes:
        trouble: why the file cannot be used, once that was found.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.trouble: Exception | None = None
        self._file = _database(path)
        self._alone: _Memory | None = None

    def change(
        self,
        alter: Callable[[sqlite3.Connection], T],
        scope: CancelScope,
        *,
        limited: bool = False,
    ) -> T:
        """Call ``alter`` in a transaction, which is rolled back if it raises.

        Args:
            alter: changes the tables; it may be called more than once.
            scope: how long to wait for other processes.
            limited: whether a limit depends on it.

        Raises:
            LLMError: the scope ended; see :meth:`CancelScope.error`.
        """
        return self._retried(lambda db: in_transaction(db, alter), scope, limited)

    def look(
        self,
        find: Callable[[sqlite3.Connection], T],
        scope: CancelScope,
        *,
        limited: bool = False,
    ) -> T:
        """Call ``find``, which changes nothing.

        Args:
            find: reads the tables; it may be called more than once.
            scope: how long to wait for other processes.
            limited: whether a limit depends on it.

        Raises:
            LLMError: the scope ended; see :meth:`CancelScope.error`.
        """
        return self._retried(find, scope, limited)

    def read(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """The rows of a query."""
        return self.look(lambda db: db.execute(statement, values).fetchall(), CancelScope())

    def _retried(
        self, use: Callable[[sqlite3.Connection], T], scope: CancelScope, limited: bool
    ) -> T:
        """Use the file; try again while another process keeps it busy."""
        end = time.monotonic() + _PATIENCE_S
        tries_again = True
        while True:
            alone = self._alone
            if alone is not None and alone.process is current():
                if tries_again and time.monotonic() >= alone.again_at:
                    tries_again = False
                    self._try_file_again(alone)
                if limited and self.trouble is not None:
                    # So far only a provider without limits may have found it.
                    self._tell(self.trouble, limited)
                done = alone.database.use(partial(self._use_of, alone, use))
                if done is None:
                    # Its counts have just been added to the file, here or by another thread.
                    continue
                return done[0]
            try:
                return self._file.use(use)
            except (sqlite3.Error, Unusable) as trouble:
                let_through(trouble)
                if is_busy(trouble) and time.monotonic() < end:
                    pause(scope)
                    continue
                self._tell(trouble, limited)
                self.trouble = trouble
                self._use_memory()

    def _tell(self, trouble: Exception, limited: bool) -> None:
        if limited:
            each = f"{trouble}; each process keeps to per_minute and per_day by itself"
            tell_once(self.path, each, logging.ERROR)
        else:
            tell_once(self.path, trouble)

    def _use_of(
        self, alone: _Memory, use: Callable[[sqlite3.Connection], T], db: sqlite3.Connection
    ) -> tuple[T] | None:
        return (use(db),) if self._alone is alone else None

    def _use_memory(self) -> None:
        again_at = time.monotonic() + _AGAIN_S
        memory = _Memory(current(), _database(None), again_at, _Counts([], [], []))
        with ignoring(sqlite3.Error, Unusable):
            counts = self._file.use(_all_counts)
            memory.database.use(lambda db: in_transaction(db, lambda db: _add(db, counts)))
            memory.start = counts
        # Another thread may have just done the same and counted.
        if self._alone is None or self._alone.process is not current():
            self._alone = memory

    def _try_file_again(self, alone: _Memory) -> None:
        """Add to the file what was counted in memory, if that can be done."""
        alone.again_at = time.monotonic() + _AGAIN_S
        # It may have been opened for reading only.
        self._file.close()
        with ignoring(sqlite3.Error, Unusable):
            self._file.use(lambda db: self._add_counts_of(alone, db))

    def _add_counts_of(self, alone: _Memory, db: sqlite3.Connection) -> None:
        # No other thread uses a database meanwhile.
        if self._alone is alone:
            counts = _gained(alone.start, alone.database.use(_all_counts))
            in_transaction(db, lambda db: _add(db, counts))
            self._alone = self.trouble = None
            logger.info("%s is shared between processes again", self.path)

    def close(self) -> None:
        """Close this process's connection; the next use opens one."""
        self._file.close()


def _database(path: Path | None) -> Database:
    return Database(path, kind=_APPLICATION_ID, version=_VERSION, schema=_SCHEMA)


class _Counts(NamedTuple):
    """All rows of the tables."""

    days: list[tuple[Any, ...]]
    recent: list[tuple[Any, ...]]
    used: list[tuple[Any, ...]]


@dataclass
class _Memory:
    """Where a process counts that cannot use the file.

    Attributes:
        process: the process.
        database: its counts, and those of the file at the start.
        again_at: when to try the file again, in seconds of ``time.monotonic()``.
        start: the counts of the file at the start.
    """

    process: Process
    database: Database
    again_at: float
    start: _Counts


def _all_counts(db: sqlite3.Connection) -> _Counts:
    # A damaged file may have values of other types.
    return _Counts(
        db.execute(
            "SELECT credential, day, CAST(requests AS INTEGER), CAST(tokens AS INTEGER) FROM days"
        ).fetchall(),
        db.execute("SELECT credential, at, CAST(tokens AS INTEGER) FROM recent").fetchall(),
        db.execute(
            "SELECT day, provider, model, CAST(requests AS INTEGER), CAST(failures AS INTEGER),"
            " CAST(prompt_tokens AS INTEGER), CAST(completion_tokens AS INTEGER),"
            " CAST(total_tokens AS INTEGER) FROM used"
        ).fetchall(),
    )


def _gained(before: _Counts, after: _Counts) -> _Counts:
    """What has been added to ``before``."""
    return _Counts(
        _increases(before.days, after.days, 2),
        [row for row in after.recent if row not in before.recent],
        _increases(before.used, after.used, 3),
    )


def _increases(
    before: list[tuple[Any, ...]], after: list[tuple[Any, ...]], names: int
) -> list[tuple[Any, ...]]:
    """The rows whose numbers, which stand behind so many names, have grown, and by how much."""
    old = {row[:names]: row[names:] for row in before}
    grown = []
    for row in after:
        name, numbers = row[:names], row[names:]
        earlier = old.get(name, (0,) * len(numbers))
        if numbers != earlier:
            grown.append((*name, *(max(0, gain) for gain in map(sub, numbers, earlier))))
    return grown


def _add(db: sqlite3.Connection, counts: _Counts) -> None:
    """Add counts to the tables."""
    db.executemany(
        "INSERT INTO days VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE"
        " SET requests = requests + excluded.requests, tokens = tokens + excluded.tokens",
        counts.days,
    )
    db.executemany("INSERT INTO recent (credential, at, tokens) VALUES (?, ?, ?)", counts.recent)
    db.executemany(
        "INSERT INTO used VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE"
        " SET requests = requests + excluded.requests, failures = failures + excluded.failures,"
        " prompt_tokens = prompt_tokens + excluded.prompt_tokens,"
        " completion_tokens = completion_tokens + excluded.completion_tokens,"
        " total_tokens = total_tokens + excluded.total_tokens",
        counts.used,
    )


_ledgers: dict[Path, Ledger] = {}


def ledger() -> Ledger:
    """The ledger in the user's state folder; one per path in this process."""
    path = _environment.usage_file()
    found = _ledgers.get(path)
    if found is None:
        found = _ledgers.setdefault(path, Ledger(path))
        atexit.register(found.close)
    return found


def counts_of(db: sqlite3.Connection, credential: str, day: int) -> tuple[int, int]:
    """The requests and tokens that a credential has used on a day."""
    # A damaged file may have values of other types.
    of_the_day = (
        "SELECT CAST(requests AS INTEGER), CAST(tokens AS INTEGER) FROM days"
        " WHERE (credential, day) = (?, ?)"
    )
    return db.execute(of_the_day, (credential, day)).fetchone() or (0, 0)


def count_day(db: sqlite3.Connection, credential: str, day: int, tokens: int) -> None:
    """Count a request of a credential, with an estimate of its tokens."""
    counted = (
        "UPDATE days SET requests = requests + 1, tokens = tokens + ?"
        " WHERE (credential, day) = (?, ?)"
    )
    if db.execute(counted, (tokens, credential, day)).rowcount:
        return
    # By number and not only by age, and never the latest day before this one: after a clock that
    # was far ahead is set right, the counts of today are still there.
    db.execute(
        "DELETE FROM days WHERE (SELECT count(*) FROM days) > ?"
        " AND day < (SELECT max(day) FROM days WHERE day < ?)",
        (_MOST_DAY_COUNTS, day),
    )
    db.execute("INSERT INTO days VALUES (?, ?, 1, ?)", (credential, day, tokens))


def last_minute(db: sqlite3.Connection, credential: str, now: float) -> list[tuple[float, int]]:
    """The times and tokens of a credential's requests of the last minute, the oldest first."""
    # A time in the future means that the clock was set back; the real time is unknown.
    db.execute("UPDATE recent SET at = ? WHERE at > ?", (now, now))
    db.execute("DELETE FROM recent WHERE at <= ?", (now - MINUTE_S,))
    return db.execute(
        "SELECT at, CAST(tokens AS INTEGER) FROM recent WHERE credential = ? ORDER BY at",
        (credential,),
    ).fetchall()


def count_recent(
    db: sqlite3.Connection, credential: str, now: float, tokens: int
) -> tuple[int | None, float]:
    """Count a request in the last minute; return the number and the time of its row."""
    row = (credential, now, tokens)
    added = db.execute("INSERT INTO recent (credential, at, tokens) VALUES (?, ?, ?)", row)
    return added.lastrowid, now


def count_request(
    db: sqlite3.Connection, day: int, provider: str, model: str
) -> tuple[int, str, str]:
    """Count a request; return the day and the names that it is counted under."""
    counted = "UPDATE used SET requests = requests + 1 WHERE (day, provider, model) = (?, ?, ?)"
    if db.execute(counted, (day, provider, model)).rowcount:
        return day, provider, model
    # By the latest day before this one: a clock that is far ahead deletes nothing, unless it stays
    # so for another day.
    db.execute(
        "DELETE FROM used WHERE day <= (SELECT max(day) FROM used WHERE day < ?) - ?",
        (day, KEPT_DAYS - 1),
    )
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
    """Count how a request ended, with the tokens that the service reported."""
    usage = usage or Usage()
    db.execute(
        "UPDATE used SET failures = failures + ?, prompt_tokens = prompt_tokens + ?,"
        " completion_tokens = completion_tokens + ?, total_tokens = total_tokens + ?"
        " WHERE (day, provider, model) = (?, ?, ?)",
        (
            failed,
            _bounded(usage.prompt_tokens or 0),
            _bounded(usage.completion_tokens or 0),
            total_of(usage) or 0,
            *where,
        ),
    )


def uncount_request(db: sqlite3.Connection, where: tuple[int, str, str]) -> None:
    """Undo the count of a request that was never sent."""
    db.execute(
        "UPDATE used SET requests = requests - 1 WHERE (day, provider, model) = (?, ?, ?)", where
    )
    db.execute("DELETE FROM used WHERE requests <= 0 AND (day, provider, model) = (?, ?, ?)", where)


def total_of(usage: Usage | None) -> int | None:
    """All tokens of a reply, or None if the service did not report them."""
    if usage is None:
        return None
    if usage.total_tokens is not None:
        return _bounded(usage.total_tokens)
    parts = usage.prompt_tokens, usage.completion_tokens
    return None if None in parts else _bounded(sum(part or 0 for part in parts))


def _bounded(tokens: int) -> int:
    # A service may report any number, and SQLite's sums end at 2 ** 63.
    return min(tokens, _MOST_TOKENS)


def name_of(text: str) -> str:
    """A provider's or model's name as it is stored: one line of limited length."""
    return one_line(redact(text))[:_LONGEST_NAME]
