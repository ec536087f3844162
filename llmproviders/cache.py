"""A client that answers repeated questions from a file, without sending anything."""

from __future__ import annotations

import json
import os
import sqlite3
import threading
from collections.abc import Generator
from contextlib import closing
from dataclasses import fields
from hashlib import sha256
from pathlib import Path
from typing import Any

from ._account.arguments import for_tests
from ._checks import FINITE, seconds, whole
from ._log import logger
from ._request import ChatRequest
from ._runtime.database import Database, is_busy
from ._runtime.files import Unusable, check_path
from ._runtime.scope import SLICE_S, CancelScope, Clock, Waker
from ._signals import let_through
from .client import BaseClient
from .errors import SchemaError
from .results import Completion, FinishReason, Reasoning, StreamText, Usage
from .schema import Schema

_APPLICATION = int.from_bytes(b"llmc", "big")
"""SQLite's ``application_id``, which identifies the file as ours."""

_VERSION = 1

_SCHEMA = (
    "CREATE TABLE replies"
    " (key TEXT PRIMARY KEY, made REAL NOT NULL, reply TEXT NOT NULL) WITHOUT ROWID"
)

_TRIES = 10
"""How long SQLite waits for another process that writes; after that a reply is not kept."""

_WAITS = 2
"""How many others that fail a question waits for. In an outage, more would only add up."""

_LARGEST = 256 * 1024 * 1024

_EVICTED = 10
"""The fraction (one in this many) of the oldest replies to delete if the file is too large."""

# How a question is asked, not what it asks: the reply is the same.
_NOT_IN_THE_KEY = frozenset(
    {"stream", "timeout", "proxy", "deadline", "accept", "reasoning", "reader"}
)

_KEPT = ("reason", "raw", "provider", "model", "detail", "reasoning", "request_id", "message")


class Cached(BaseClient):
    """Wraps a client and keeps its replies in a file.

    The same messages, model, parameters and providers give the same completion, with ``cached``
    True and without ``attempts``. Only whole replies that ended with ``stop`` are kept, neither
    prompts nor keys. Many processes may share a file. If the file cannot be used, there is one
    warning, and every question is sent.

    If several threads ask the same question with ``complete`` at the same time, one sends it and
    the others wait for its reply. If that fails, another one sends it.

    Args:
        client: a provider or a ``FailoverClient``.
        path: the file, an SQLite database, created with access for this user only (0600);
            ``~`` is the home folder.
        ttl: seconds after which a question is sent again; None: never.
        max_bytes: the largest size of the file; beyond it, the oldest replies are deleted.

    Raises:
        TypeError: ``client`` is not a client.
        ValueError: the file name is not valid, or ``ttl`` or ``max_bytes`` is out of range.

    >>> from llmproviders.testing import ScriptedProvider
    >>> with Cached(ScriptedProvider(["Because."]), "replies.db") as client:
    ...     [client.complete("Why?").cached for _ in range(2)]
    [False, True]
    """

    @for_tests("clock")
    def __init__(
        self,
        client: BaseClient,
        path: str | os.PathLike[str],
        *,
        ttl: float | None = None,
        max_bytes: int = _LARGEST,
        clock: Clock | None = None,
    ) -> None:
        if not isinstance(client, BaseClient):
            raise TypeError(f"Cached needs a provider or a client, not {client!r}")
        check_path("path", path)
        self._given = {"ttl": ttl, "max_bytes": max_bytes, "clock": clock}
        self._client = client
        self._path = Path(os.path.abspath(os.path.expanduser(path)))
        self._store = _Store(
            self._path,
            ttl=None if ttl is None else seconds("ttl", ttl, most=FINITE),
            max_bytes=whole("max_bytes", max_bytes, least=64 * 1024),
        )
        self._flights: dict[tuple[int, str], _Asking] = {}
        self.name = client.name
        self.deadline = client.deadline
        self.accept = client.accept
        self.clock = clock or client.clock

    def generate(
        self, request: ChatRequest, scope: CancelScope | None = None
    ) -> Generator[str, None, None]:
        """Yield a kept reply, or ask the client and keep its reply."""
        key = self._key(request)
        found = self._found(key, request)
        if found is not None:
            text, finish = found
            if request.reasoning and finish.reasoning:
                yield Reasoning(finish.reasoning)
            yield text
            yield finish
            return
        said = StreamText()
        with closing(self._client.generate(request, scope)) as stream:
            for piece in stream:
                said.add(piece)
                if said.finish is not None:
                    self._keep(key, said.text, said.finish)
                yield piece

    def answer(self, request: ChatRequest, scope: CancelScope | None = None) -> Completion:
        """Return a kept reply, or ask the client and keep its reply."""
        key = self._key(request)
        found = self._found(key, request)
        if found is not None:
            return Completion.of(*found)
        if key is None:
            return self._client.answer(request, scope)
        limit = self.deadline if request.deadline is None else request.deadline
        with closing(CancelScope.lasting(limit, clock=self.clock, parent=scope)) as bounded:
            flight, place = _Asking(), (os.getpid(), key)
            try:
                for _ in range(_WAITS):
                    other = self._flights.setdefault(place, flight)
                    # A question asked while it is being answered, for example from accept, would
                    # wait for itself.
                    if other.thread == threading.get_ident():
                        break
                    other.wait(bounded)
                    found = self._found(key, request)
                    if found is not None:
                        return Completion.of(*found)
                    if other.answered:
                        # Its reply was not one to keep, nor will the next one be.
                        break
                completion = self._client.answer(request, bounded)
                flight.answered = True
                self._keep(key, completion.text, completion.finish_reason)
                return completion
            finally:
                if self._flights.get(place) is flight:
                    del self._flights[place]
                flight.land()

    def _key(self, request: ChatRequest) -> str | None:
        """The key of a reply; None if the question cannot be distinguished from others."""
        asked = {
            field.name: getattr(request, field.name)
            for field in fields(request)
            if field.name not in _NOT_IN_THE_KEY
        }
        try:
            # The files at these paths may change.
            files = [Path(os.path.expanduser(path)) for path in request.attach]
            asked["attach"] = [sha256(file.read_bytes()).hexdigest() for file in files]
            told = json.dumps([self.identity(), asked], sort_keys=True, default=_schema_alone)
        except (TypeError, ValueError, OSError, RecursionError) as error:
            let_through(error)
            logger.debug("the cache cannot keep a reply to this: %s", type(error).__name__)
            return None
        return sha256(told.encode()).hexdigest()

    def _found(self, key: str | None, request: ChatRequest) -> tuple[str, FinishReason] | None:
        """The kept reply, if it is valid for this question."""
        document = None if key is None else self._store.get(key, self.clock.wall())
        if document is None:
            return None
        try:
            text, finish = _reply_of(document)
            if request.schema is not None:
                finish = finish.evolve(data=request.schema.validate(text))
        except SchemaError:
            return None
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            let_through(error)
            self._store.warn("a reply in it is damaged")
            return None
        accept = request.accept or self.accept
        verdict = True if accept is None else accept(Completion.of(text, finish))
        if isinstance(verdict, str) or not verdict:
            return None
        return text, finish

    def _keep(self, key: str | None, text: str, finish: FinishReason) -> None:
        if key is None or finish.reason != "stop" or finish.cached or not text:
            return
        if finish.images or finish.tool_calls:
            return
        kept = {name: getattr(finish, name) for name in _KEPT}
        usage = None if finish.usage is None else finish.usage.as_dict()
        try:
            document = json.dumps({"text": text, "usage": usage, **kept})
        except (TypeError, ValueError) as error:
            let_through(error)
            logger.debug("the cache cannot keep this reply: %s", type(error).__name__)
            return
        self._store.put(key, document, self.clock.wall())

    def clear(self) -> None:
        """Delete all replies in the file.

        Raises:
            OSError: the file is not one of ours, or cannot be written.
        """
        self._store.clear()

    def report(self) -> Any:
        """What was sent: the report of the ``FailoverClient`` that this cache is for."""
        return self._client.report()  # type: ignore[attr-defined]

    def identity(self) -> list[Any]:
        """The client's identity: keeping replies does not change them."""
        return self._client.identity()

    def credential_digest(self) -> str | None:
        """The client's digest."""
        return self._client.credential_digest()

    def close(self) -> None:
        """Close the file and the client's connections; the next call opens them again."""
        self._store.close()
        self._client.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return _remake, (type(self), self._client, self._path, self._given)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._client!r}, {str(self._path)!r})"


def _remake(cls: type[Cached], client: BaseClient, path: Path, given: dict[str, Any]) -> Cached:
    return cls(client, path, **given)


def _schema_alone(value: Any) -> Any:
    if isinstance(value, Schema):
        return value.json_schema
    raise TypeError("a value that JSON has no word for")


def _reply_of(document: str) -> tuple[str, FinishReason]:
    kept = json.loads(document)
    text = kept["text"]
    if not isinstance(text, str) or not text:
        raise ValueError("the text is missing")
    about = {name: kept[name] for name in _KEPT}
    return text, FinishReason(**about, usage=Usage.from_json(kept["usage"]), cached=True)


class _Asking:
    """A question in progress that others wait for.

    Attributes:
        thread: the thread that asks it.
        answered: whether there was a reply.
    """

    def __init__(self) -> None:
        self.thread = threading.get_ident()
        self.answered = False
        self._over = False
        self._waker = Waker()

    def land(self) -> None:
        """Mark it as ended, successfully or not."""
        self._over = True
        self._waker.set()

    def wait(self, scope: CancelScope) -> None:
        """Wait until it has ended.

        Raises:
            LLMError: the scope ended first.
        """
        while not self._over:
            if scope.over:
                raise scope.error()
            scope.check_sends()
            self._waker.wait(min(scope.remaining(), SLICE_S))


class _Store:
    """The file: an SQLite database with one table.

    Every change is one statement, which SQLite runs completely or not at all, so an interrupt
    cannot leave a transaction open.
    """

    def __init__(self, path: Path, *, ttl: float | None, max_bytes: int) -> None:
        self._path = path
        self._ttl = ttl
        self._max_bytes = max_bytes
        self._file = Database(path, kind=_APPLICATION, version=_VERSION, schema=_SCHEMA)
        self._warned = self._unreadable = self._unwritable = False

    def warn(self, trouble: object) -> None:
        """Warn once about a problem with the file."""
        if not self._warned:
            self._warned = True
            logger.warning("the cache %s: %s", self._path, trouble)

    def get(self, key: str, now: float) -> str | None:
        """The reply kept under ``key``, unless it is too old."""
        if self._unreadable:
            return None
        found = self._try("SELECT reply, made FROM replies WHERE key = ?", key)
        if not found:
            self._unreadable = found is None
            return None
        document, made = found[0]
        if self._ttl is not None and not 0 <= now - made < self._ttl:
            return None
        return str(document)

    def put(self, key: str, document: str, now: float) -> None:
        """Keep ``document`` under ``key``."""
        if self._unwritable or len(document) > self._max_bytes // _EVICTED:
            return
        if self._try("INSERT OR REPLACE INTO replies VALUES (?, ?, ?)", key, now, document) is None:
            # What it has can still be read, from a read-only folder for example.
            self._unwritable = True
            return
        size = self._try(
            "SELECT (page_count - freelist_count) * page_size"
            " FROM pragma_page_count, pragma_freelist_count, pragma_page_size"
        )
        if size and size[0][0] > self._max_bytes:
            self._try(
                "DELETE FROM replies WHERE key IN (SELECT key FROM replies ORDER BY made"
                " LIMIT (SELECT count(*) / ? + 1 FROM replies))",
                _EVICTED,
            )

    def clear(self) -> None:
        """Delete all.

        Raises:
            OSError: the file is not ours or cannot be written.
        """
        try:
            for statement in ("DELETE FROM replies", "VACUUM"):
                self._run(statement)
        except (Unusable, sqlite3.Error) as error:
            let_through(error)
            raise OSError(f"the cache {self._path} cannot be cleared: {error}") from error

    def close(self) -> None:
        """Close it."""
        self._file.close()
        self._unreadable = self._unwritable = False

    def _run(self, statement: str, *values: object) -> list[Any]:
        """The result of a statement; waits only briefly for other processes."""
        for _ in range(_TRIES):
            try:
                return self._file.use(lambda db: db.execute(statement, values).fetchall())
            except sqlite3.OperationalError as error:
                let_through(error)
                if not is_busy(error):
                    raise
                trouble = error
        raise trouble

    def _try(self, statement: str, *values: object) -> list[Any] | None:
        """The same; empty if others keep the file busy, None if it cannot be used so."""
        try:
            return self._run(statement, *values)
        except (Unusable, sqlite3.Error, OSError) as error:
            let_through(error)
            if is_busy(error):
                logger.debug("the cache %s is busy", self._path)
                return []
            self.warn(f"{error}; no reply is added to it")
            return None
