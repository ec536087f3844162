"""Which providers are failing: cooldowns, kept by one client or shared between processes."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

from .._checks import is_finite
from .._runtime.files import (
    Held,
    Unusable,
    beside,
    check_path,
    check_private,
    json_object,
    make_private_folder,
    read_private,
    replace_private,
    tell_once,
    wait_for_lock,
)
from .._runtime.scope import CancelScope, ForkLock
from .._signals import let_through

T = TypeVar("T")

Part = Literal["server", "credential"]
"""What a failure counts against: the server, for all its users, or one credential."""


LONGEST_COOLDOWN_S = 600.0

LONGEST_REST_S = 7 * 24 * 3600.0
"""Longest wait that a service may ask for."""


_PROBE_LEASE_S = 120.0


@dataclass(frozen=True, slots=True)
class HealthKey:
    """The names of the two records that make up a provider's health.

    Attributes:
        server: its server's record, shared by all credentials.
        credential: its credential's record; the same as ``server`` if there is no credential.
    """

    server: str
    credential: str

    @property
    def records(self) -> tuple[str, ...]:
        """Both names, or one if they are the same."""
        both = self.server, self.credential
        return both if self.server != self.credential else both[:1]


@dataclass(frozen=True, slots=True)
class FailureRecord:
    """The record of a server or a credential that failed; times by the store's clock.

    Attributes:
        failures: failed calls in a row.
        at: time of the last one.
        until: end of the cooldown; 0 without one.
        cooldown: length of the last cooldown, in seconds.
        probe_until: until then, one caller is testing whether it works again.
    """

    failures: int
    at: float
    until: float = 0.0
    cooldown: float = 0.0
    probe_until: float = 0.0

    @property
    def due(self) -> float:
        """When it is tried in priority order again."""
        return max(self.until, self.probe_until)


class Store(Protocol):
    """Keeps failure records by name."""

    def now(self) -> float:
        """Current time, in seconds of this store's clock."""

    def read(self) -> Mapping[str, FailureRecord]:
        """All records."""

    def change(self, alter: Callable[[dict[str, FailureRecord]], T]) -> T:
        """Call ``alter`` with all records, which nothing else changes meanwhile."""


class MemoryStore:
    """Records in this process's memory."""

    def __init__(self, now: Callable[[], float]) -> None:
        self.now = now
        self._records: Mapping[str, FailureRecord] = {}
        self._lock = ForkLock()

    def read(self) -> Mapping[str, FailureRecord]:
        """All records."""
        return self._records

    def change(self, alter: Callable[[dict[str, FailureRecord]], T]) -> T:
        """Call ``alter`` with all records, which nothing else changes meanwhile."""
        with self._lock.mine:
            records = dict(self._records)
            result = alter(records)
            self._records = records
            return result


@dataclass(frozen=True, slots=True)
class Permit:
    """Permission to call a provider.

    Attributes:
        index: the provider's index among those to choose from.
        key: returns the names of its records.
        began: when the call started, by the store's clock.
        probes: names of the records that this call tests for all callers.
    """

    index: int
    key: Callable[[], HealthKey]
    began: float
    probes: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Condition:
    """How a provider is doing.

    Attributes:
        failures: failed calls in a row.
        cooling: seconds left of its cooldown, 0 without one.
        probed: whether a call is testing it right now.

    >>> print(Condition(failures=2, cooling=12.4))
    cooling, 12 s
    """

    failures: int = 0
    cooling: float = 0.0
    probed: bool = False

    def __str__(self) -> str:
        if self.cooling > 0:
            return f"cooling, {self.cooling:.0f} s"
        if self.probed:
            return "being probed"
        return f"{self.failures} failed in a row" if self.failures else "well"


class Health:
    """Chooses a provider by past failures, and records how each call ended.

    Args:
        store: keeps the records.
        cooldown: seconds for which a provider that failed is put last.
        threshold: failed calls in a row before a cooldown starts.
    """

    def __init__(self, store: Store, *, cooldown: float, threshold: int) -> None:
        self.store = store
        self._cooldown = cooldown
        self._threshold = threshold

    def visit(self, keys: Sequence[Callable[[], HealthKey]]) -> Permit:
        """Choose among providers in priority order.

        Returns the first one that is not cooling down, or, if all are, the one whose cooldown
        ends first. After a cooldown, one caller gets the provider to test it; the others skip it
        until that call has ended.

        Args:
            keys: functions that return each provider's key; only called after a failure.
        """
        now = self.store.now()
        records = self.store.read()
        if not records:
            return Permit(0, keys[0], now)
        cooling: list[tuple[float, int]] = []
        for index, key in enumerate(keys):
            waiting = {
                name: record.due
                for name, record in _known(records, key(), now).items()
                if record.until
            }
            if not waiting:
                return Permit(index, key, now)
            due = max(waiting.values())
            if due <= now and self._claim(waiting, now):
                return Permit(index, key, now, probes=frozenset(waiting))
            cooling.append((due, index))
        _, index = min(cooling)
        return Permit(index, keys[index], now)

    def _claim(self, names: Iterable[str], now: float) -> bool:
        def claim(records: dict[str, FailureRecord]) -> bool:
            left = [name for name in names if name in records]
            if any(records[name].due > now for name in left):
                return False
            for name in left:
                records[name] = replace(records[name], probe_until=now + _PROBE_LEASE_S)
            return True

        return self.store.change(claim)

    def succeeded(self, permit: Permit) -> None:
        """A call succeeded: forget the provider's failures, unless they are newer than the call."""
        before = self.store.read()
        if not before:
            return
        names = permit.key().records

        def forget(records: dict[str, FailureRecord]) -> None:
            now = self.store.now()
            for name in names:
                record = records.get(name)
                if record is None or permit.began >= record.at or record.at > now:
                    records.pop(name, None)
            _end_probe(records, permit)

        if not before.keys().isdisjoint(names):
            self.store.change(forget)

    def failed(self, permit: Permit, part: Part = "server", *, retry_after: float = 0.0) -> None:
        """A call failed.

        Args:
            permit: the call's.
            part: what failed.
            retry_after: seconds that the service asked to wait.
        """
        key = permit.key()
        name = key.server if part == "server" else key.credential
        before = _known(self.store.read(), key, self.store.now()).get(name)
        # Calls that were already running when the cooldown began fail for the same reason.
        is_stale = before is not None and permit.began < before.until
        if retry_after <= 0 and (is_stale or self._cooldown <= 0):
            self.left(permit)
            return

        def enter(records: dict[str, FailureRecord]) -> None:
            now = self.store.now()
            before = _known(records, key, now).get(name) or FailureRecord(0, now)
            after = replace(before, failures=before.failures + 1, at=now)
            is_fresh = permit.began >= before.until
            if is_fresh and self._cooldown > 0 and after.failures >= self._threshold:
                cooldown = max(self._cooldown, min(before.cooldown * 2, LONGEST_COOLDOWN_S))
                after = replace(after, cooldown=cooldown, until=now + cooldown)
            if retry_after > 0:
                rest = min(retry_after, LONGEST_REST_S)
                after = replace(after, until=max(after.until, now + rest))
            records[name] = after
            _end_probe(records, permit)

        self.store.change(enter)

    def left(self, permit: Permit) -> None:
        """A call ended without a result; if it was testing the provider, the next call may."""
        if permit.probes:
            self.store.change(lambda records: _end_probe(records, permit))

    def condition(self, key: HealthKey) -> Condition:
        """The provider's current condition."""
        now = self.store.now()
        records = _known(self.store.read(), key, now).values()
        return Condition(
            max((record.failures for record in records), default=0),
            max((record.until - now for record in records if record.until > now), default=0.0),
            any(record.until <= now < record.probe_until for record in records),
        )


def parts_of(record: str) -> tuple[str, str, str, str]:
    """Split a record's name: provider, address, model, start of the credential's hash.

    Missing parts are empty.

    >>> parts_of("ChatGLM|https://chatglm.cn|")
    ('ChatGLM', 'https://chatglm.cn', '', '')
    """
    name, address, model, credential = [*record.split("|"), "", "", ""][:4]
    return name, address, model, credential


def _known(
    records: Mapping[str, FailureRecord], key: HealthKey, now: float
) -> dict[str, FailureRecord]:
    """A provider's records, without those from the future, left by a clock that was set back."""
    found = ((name, records.get(name)) for name in key.records)
    return {name: record for name, record in found if record is not None and record.at <= now}


def _end_probe(records: dict[str, FailureRecord], permit: Permit) -> None:
    for name in permit.probes & records.keys():
        records[name] = replace(records[name], probe_until=0.0)


# Version 1 counted one credential's failures against all others, so it is ignored.
_VERSION = 2

_MOST_ENTRIES = 256

_FORGOTTEN_AFTER_S = 24 * 3600.0

_LOCK_PATIENCE_S = 0.1

_LOCK_PAUSE_S = 5.0

_FOREIGN = "it holds something other than cooldowns; name another file as health, or delete it"


_Stamp = tuple[int, int, int] | None


class FileStore:
    """Records in a file, in Unix time.

    Reading an unchanged file costs one ``stat``. If the file cannot be written (no space, no
    permission, no lock), this process keeps the records in memory.

    Args:
        path: the file; it and its folder are created on the first failure.
        now: returns Unix time in seconds.

    Raises:
        ValueError: not a valid file name.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, now: Callable[[], float] = time.time
    ) -> None:
        check_path("health", path)
        # Loads filelock now, since no call may import anything.
        import_module("filelock")
        self.path = Path(os.path.expanduser(path)).absolute()
        self.now = now
        self._lock = ForkLock()
        self._alone_again = 0.0
        self._seen: tuple[_Stamp, Mapping[str, FailureRecord]] = (None, {})

    def read(self) -> Mapping[str, FailureRecord]:
        """All records that the file has; the last known ones if it cannot be read."""
        stamp = self._stamp()
        if stamp != self._seen[0]:
            self._seen = (stamp, self._load(stamp))
        return self._seen[1]

    def trouble(self) -> str | None:
        """Why the file cannot be used; None if it can, or is not there yet."""
        try:
            _decode(read_private(self.path))
        except (Unusable, ValueError) as error:
            let_through(error)
            return str(error)
        return None

    def change(self, alter: Callable[[dict[str, FailureRecord]], T]) -> T:
        """Call ``alter`` with all records, which nothing else changes meanwhile."""
        scope = CancelScope()
        with self._lock.mine:
            try:
                alone = self._keep_others_out(scope)
                before = self.read()
                records = dict(before)
                result = alter(records)
                if records != before:
                    records = _bounded(records, self.now())
                    if alone is not None:
                        self._save(records)
                    self._seen = (self._stamp(), records)
                if alone is not None:
                    alone.release()
                return result
            except BaseException:
                scope.cancel()
                raise

    def clear(self) -> None:
        """Delete all records."""
        self.change(dict.clear)

    def _stamp(self) -> _Stamp:
        try:
            status = os.stat(self.path)
        except OSError as error:
            let_through(error)
            return None
        return status.st_ino, status.st_mtime_ns, status.st_size

    def _load(self, stamp: _Stamp) -> Mapping[str, FailureRecord]:
        if stamp is None:
            return {}
        try:
            return _decode(read_private(self.path))
        except (Unusable, ValueError) as error:
            let_through(error)
            tell_once(self.path, error)
            return self._seen[1]

    def _keep_others_out(self, scope: CancelScope) -> Held | None:
        """Lock the file against other processes; None if that fails, or failed just before."""
        if time.monotonic() < self._alone_again:
            return None
        try:
            check_private(self.path)
            make_private_folder(self.path.parent)
            return wait_for_lock(beside(self.path, "{}.lock"), scope, _LOCK_PATIENCE_S)
        except Unusable as error:
            tell_once(self.path, error)
            self._alone_again = time.monotonic() + _LOCK_PAUSE_S
            return None

    def _save(self, records: Mapping[str, FailureRecord]) -> None:
        try:
            replace_private(self.path, _encode(records), _decode)
        except Unusable as error:
            tell_once(self.path, error)


def _bounded(records: Mapping[str, FailureRecord], now: float) -> dict[str, FailureRecord]:
    """Only the newest records, without expired ones."""
    newest_first = sorted(records.items(), key=lambda item: -item[1].at)
    return {
        key: record
        for key, record in newest_first[:_MOST_ENTRIES]
        if now < max(record.at + _FORGOTTEN_AFTER_S, record.due)
    }


def _encode(records: Mapping[str, FailureRecord]) -> bytes:
    providers = {key: asdict(record) for key, record in records.items()}
    return json.dumps({"version": _VERSION, "providers": providers}, indent=1).encode()


def _decode(data: bytes) -> dict[str, FailureRecord]:
    """The records in a file; none if an older version wrote it.

    Raises:
        ValueError: it is another kind of file, or a newer version wrote it.
    """
    if not data:
        return {}
    content = json_object(data)
    if content is None or content.keys() != {"version", "providers"}:
        raise ValueError(_FOREIGN)
    version, entries = content["version"], content["providers"]
    if type(version) is not int or not isinstance(entries, dict):
        raise ValueError(_FOREIGN)
    if version > _VERSION:
        raise ValueError("a newer version of llmproviders wrote it; name another file as health")
    if version < _VERSION:
        return {}
    found = ((key, _record(entry)) for key, entry in entries.items())
    return {key: record for key, record in found if record is not None}


def _record(entry: object) -> FailureRecord | None:
    if not isinstance(entry, dict):
        return None
    values: dict[str, Any] = {field.name: entry.get(field.name) for field in fields(FailureRecord)}
    if not all(is_finite(value) and value >= 0 for value in values.values()):
        return None
    record = FailureRecord(**values)
    return record if record.due <= record.at + LONGEST_REST_S else None
