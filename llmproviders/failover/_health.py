"""Which providers are in trouble: cooldowns, kept by one client or shared by processes."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, TypeVar

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
from ._outcomes import Part

T = TypeVar("T")


LONGEST_COOLDOWN_S = 600.0

LONGEST_REST_S = 7 * 24 * 3600.0
"""A rest that a service asks for is kept for a week at most."""


_PROBE_LEASE_S = 120.0


@dataclass(frozen=True, slots=True)
class HealthKey:
    """The two records that a provider's health consists of.

    Attributes:
        server: the record of its server, shared by all credentials.
        credential: the record of its credential there; the same one where there is none.
    """

    server: str
    credential: str

    @property
    def records(self) -> tuple[str, ...]:
        """Both, or the one where they are the same."""
        both = self.server, self.credential
        return both if self.server != self.credential else both[:1]


@dataclass(frozen=True, slots=True)
class FailureRecord:
    """What is remembered of a server or a credential that failed, in seconds of the store's clock.

    Attributes:
        failures: failed calls in a row.
        at: when the last one was.
        until: the end of the cooldown, 0 while there is none.
        cooldown: how long the last failure made it, in seconds.
        probe_until: until then one caller is finding out whether it works again.
    """

    failures: int
    at: float
    until: float = 0.0
    cooldown: float = 0.0
    probe_until: float = 0.0

    @property
    def due(self) -> float:
        """When the next caller may try it in its place."""
        return max(self.until, self.probe_until)


class Store(Protocol):
    """Where troubles are kept, by the names of their records."""

    def now(self) -> float:
        """The time that this store goes by."""

    def read(self) -> Mapping[str, FailureRecord]:
        """All of them."""

    def change(self, alter: Callable[[dict[str, FailureRecord]], T]) -> T:
        """Call ``alter`` with all of them, to be changed by nobody else meanwhile."""


class MemoryStore:
    """Troubles in this process's memory."""

    def __init__(self, now: Callable[[], float]) -> None:
        self.now = now
        self._troubles: Mapping[str, FailureRecord] = {}
        self._lock = ForkLock()

    def read(self) -> Mapping[str, FailureRecord]:
        """All of them."""
        return self._troubles

    def change(self, alter: Callable[[dict[str, FailureRecord]], T]) -> T:
        """Call ``alter`` with all of them, to be changed by nobody else meanwhile."""
        with self._lock.mine:
            troubles = dict(self._troubles)
            result = alter(troubles)
            self._troubles = troubles
            return result


@dataclass(frozen=True, slots=True)
class Permit:
    """A call that turns to a provider.

    Attributes:
        index: which one, of those it could choose from.
        key: gives what its health is remembered by.
        began: when, by the store's clock.
        probes: the records for which it finds out, for all callers, if the provider works again.
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
        cooling: seconds until it is tried in its place again, 0 where it is now.
        probed: whether a call is finding out at the moment.

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
    """Says whom to turn to by what is known of them, and learns from each call.

    Args:
        store: where the knowledge is kept.
        cooldown: seconds for which a provider that failed is put last.
        threshold: failed calls in a row before that.
    """

    def __init__(self, store: Store, *, cooldown: float, threshold: int) -> None:
        self.store = store
        self._cooldown = cooldown
        self._threshold = threshold

    def visit(self, keys: Sequence[Callable[[], HealthKey]]) -> Permit:
        """Choose among providers in priority order.

        The first that is not cooling down; where all are, the one that is due first. When a
        cooldown has passed, one caller gets the provider in its place, to probe it, and the
        others pass it by until that one has reported.

        Args:
            keys: each gives a provider's key; none is called as long as nothing has failed.
        """
        now = self.store.now()
        troubles = self.store.read()
        if not troubles:
            return Permit(0, keys[0], now)
        cooling: list[tuple[float, int]] = []
        for index, key in enumerate(keys):
            waiting = {
                record: trouble.due
                for record, trouble in _known(troubles, key(), now).items()
                if trouble.until
            }
            if not waiting:
                return Permit(index, key, now)
            due = max(waiting.values())
            if due <= now and self._claim(waiting, now):
                return Permit(index, key, now, probes=frozenset(waiting))
            cooling.append((due, index))
        _, index = min(cooling)
        return Permit(index, keys[index], now)

    def _claim(self, records: Iterable[str], now: float) -> bool:
        def claim(troubles: dict[str, FailureRecord]) -> bool:
            left = [record for record in records if record in troubles]
            if any(troubles[record].due > now for record in left):
                return False
            for record in left:
                troubles[record] = replace(troubles[record], probe_until=now + _PROBE_LEASE_S)
            return True

        return self.store.change(claim)

    def succeeded(self, visit: Permit) -> None:
        """A call succeeded: whatever was held against the provider is forgotten.

        Unless it failed after this call had begun, which is the fresher news.
        """
        before = self.store.read()
        if not before:
            return
        records = visit.key().records

        def forget(troubles: dict[str, FailureRecord]) -> None:
            now = self.store.now()
            for record in records:
                trouble = troubles.get(record)
                if trouble is None or visit.began >= trouble.at or trouble.at > now:
                    troubles.pop(record, None)
            _end_probe(troubles, visit)

        if not before.keys().isdisjoint(records):
            self.store.change(forget)

    def failed(self, visit: Permit, part: Part = "server", *, retry_after: float = 0.0) -> None:
        """A call failed.

        Args:
            visit: the call.
            part: whose failure it is.
            retry_after: seconds of a rest that the service asked for.
        """
        key = visit.key()
        record = key.server if part == "server" else key.credential
        before = _known(self.store.read(), key, self.store.now()).get(record)
        # Calls that were under way when the cooldown began all fail for the one reason.
        is_stale = before is not None and visit.began < before.until
        if retry_after <= 0 and (is_stale or self._cooldown <= 0):
            self.left(visit)
            return

        def enter(troubles: dict[str, FailureRecord]) -> None:
            now = self.store.now()
            before = _known(troubles, key, now).get(record) or FailureRecord(0, now)
            after = replace(before, failures=before.failures + 1, at=now)
            is_fresh = visit.began >= before.until
            if is_fresh and self._cooldown > 0 and after.failures >= self._threshold:
                cooldown = max(self._cooldown, min(before.cooldown * 2, LONGEST_COOLDOWN_S))
                after = replace(after, cooldown=cooldown, until=now + cooldown)
            if retry_after > 0:
                rest = min(retry_after, LONGEST_REST_S)
                after = replace(after, until=max(after.until, now + rest))
            troubles[record] = after
            _end_probe(troubles, visit)

        self.store.change(enter)

    def left(self, visit: Permit) -> None:
        """A call ended without telling anything: if it was a probe, the next caller may probe."""
        if visit.probes:
            self.store.change(lambda troubles: _end_probe(troubles, visit))

    def condition(self, key: HealthKey) -> Condition:
        """How a provider is doing now."""
        now = self.store.now()
        troubles = _known(self.store.read(), key, now).values()
        return Condition(
            max((trouble.failures for trouble in troubles), default=0),
            max((trouble.until - now for trouble in troubles if trouble.until > now), default=0.0),
            any(trouble.until <= now < trouble.probe_until for trouble in troubles),
        )


def parts_of(record: str) -> tuple[str, str, str, str]:
    """The provider's name, its address, the model and the beginning of the credential's hash.

    What a record does not have is empty.

    >>> parts_of("ChatGLM|https://chatglm.cn|")
    ('ChatGLM', 'https://chatglm.cn', '', '')
    """
    name, address, model, credential = [*record.split("|"), "", "", ""][:4]
    return name, address, model, credential


def _known(
    troubles: Mapping[str, FailureRecord], key: HealthKey, now: float
) -> dict[str, FailureRecord]:
    """What is known of a provider, but nothing from the future: the clock was set back since."""
    found = ((record, troubles.get(record)) for record in key.records)
    return {
        record: trouble for record, trouble in found if trouble is not None and trouble.at <= now
    }


def _end_probe(troubles: dict[str, FailureRecord], visit: Permit) -> None:
    for record in visit.probes & troubles.keys():
        troubles[record] = replace(troubles[record], probe_until=0.0)


# Version 1 kept what one credential had failed with against all others: nothing of it is believed.
_VERSION = 2

_MOST_ENTRIES = 256

_FORGOTTEN_AFTER_S = 24 * 3600.0

_LOCK_PATIENCE_S = 0.1

_LOCK_PAUSE_S = 5.0

_FOREIGN = "it holds something else than cooldowns; name another file as health, or delete it"


_Stamp = tuple[int, int, int] | None


class FileStore:
    """Troubles in a file, by Unix time.

    Reading costs one look at the file's date as long as nobody changed it. What cannot be written,
    for want of space, rights or a free lock, is remembered by this process alone.

    Args:
        path: the file; its folder is made when there is something to remember.
        now: Unix time in seconds.

    Raises:
        ValueError: no file can have that name.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, now: Callable[[], float] = time.time
    ) -> None:
        check_path("health", path)
        # The door to filelock: no call imports anything.
        import_module("filelock")
        self.path = Path(path).expanduser().absolute()
        self.now = now
        self._lock = ForkLock()
        self._alone_again = 0.0
        self._seen: tuple[_Stamp, Mapping[str, FailureRecord]] = (None, {})

    def read(self) -> Mapping[str, FailureRecord]:
        """All of them, as far as the file can be read."""
        stamp = self._stamp()
        if stamp != self._seen[0]:
            self._seen = (stamp, self._load(stamp))
        return self._seen[1]

    def change(self, alter: Callable[[dict[str, FailureRecord]], T]) -> T:
        """Call ``alter`` with all of them, to be changed by nobody else meanwhile."""
        scope = CancelScope()
        with self._lock.mine:
            try:
                alone = self._keep_others_out(scope)
                before = self.read()
                troubles = dict(before)
                result = alter(troubles)
                if troubles != before:
                    troubles = _bounded(troubles, self.now())
                    if alone is not None:
                        self._save(troubles)
                    self._seen = (self._stamp(), troubles)
                if alone is not None:
                    alone.release()
                return result
            except BaseException:
                scope.cancel()
                raise

    def clear(self) -> None:
        """Forget all of them."""
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
        except (Unusable, ValueError) as trouble:
            let_through(trouble)
            tell_once(self.path, trouble)
            return self._seen[1]

    def _keep_others_out(self, scope: CancelScope) -> Held | None:
        """The lock that keeps other processes out; None if it cannot be had, or just could not."""
        if time.monotonic() < self._alone_again:
            return None
        try:
            check_private(self.path)
            make_private_folder(self.path.parent)
            return wait_for_lock(beside(self.path, "{}.lock"), scope, _LOCK_PATIENCE_S)
        except Unusable as trouble:
            tell_once(self.path, trouble)
            self._alone_again = time.monotonic() + _LOCK_PAUSE_S
            return None

    def _save(self, troubles: Mapping[str, FailureRecord]) -> None:
        try:
            replace_private(self.path, _encode(troubles), _decode)
        except Unusable as trouble:
            tell_once(self.path, trouble)


def _bounded(troubles: Mapping[str, FailureRecord], now: float) -> dict[str, FailureRecord]:
    """What is worth remembering: the newest, and nothing that is long over."""
    newest_first = sorted(troubles.items(), key=lambda item: -item[1].at)
    return {
        key: trouble
        for key, trouble in newest_first[:_MOST_ENTRIES]
        if now < max(trouble.at + _FORGOTTEN_AFTER_S, trouble.due)
    }


def _encode(troubles: Mapping[str, FailureRecord]) -> bytes:
    providers = {key: asdict(trouble) for key, trouble in troubles.items()}
    return json.dumps({"version": _VERSION, "providers": providers}, indent=1).encode()


def _decode(data: bytes) -> dict[str, FailureRecord]:
    """What a file holds; of one of an older version, nothing.

    Raises:
        ValueError: it is not one of these, or of a newer version.
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
    found = ((key, _trouble(entry)) for key, entry in entries.items())
    return {key: trouble for key, trouble in found if trouble is not None}


def _trouble(entry: object) -> FailureRecord | None:
    if not isinstance(entry, dict):
        return None
    values: dict[str, Any] = {field.name: entry.get(field.name) for field in fields(FailureRecord)}
    if not all(is_finite(value) and value >= 0 for value in values.values()):
        return None
    trouble = FailureRecord(**values)
    return trouble if trouble.due <= trouble.at + LONGEST_REST_S else None
