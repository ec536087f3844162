"""Which providers are in trouble: cooldowns, kept by one client or shared by processes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

from ._locks import ForkLock
from ._retry import Part

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
class Trouble:
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

    def read(self) -> Mapping[str, Trouble]:
        """All of them."""

    def change(self, alter: Callable[[dict[str, Trouble]], T]) -> T:
        """Call ``alter`` with all of them, to be changed by nobody else meanwhile."""


class MemoryStore:
    """Troubles in this process's memory."""

    def __init__(self, now: Callable[[], float]) -> None:
        self.now = now
        self._troubles: Mapping[str, Trouble] = {}
        self._lock = ForkLock()

    def read(self) -> Mapping[str, Trouble]:
        """All of them."""
        return self._troubles

    def change(self, alter: Callable[[dict[str, Trouble]], T]) -> T:
        """Call ``alter`` with all of them, to be changed by nobody else meanwhile."""
        with self._lock.mine:
            troubles = dict(self._troubles)
            result = alter(troubles)
            self._troubles = troubles
            return result


@dataclass(frozen=True, slots=True)
class Visit:
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

    def visit(self, keys: Sequence[Callable[[], HealthKey]]) -> Visit:
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
            return Visit(0, keys[0], now)
        cooling: list[tuple[float, int]] = []
        for index, key in enumerate(keys):
            waiting = {
                record: trouble.due
                for record, trouble in _known(troubles, key(), now).items()
                if trouble.until
            }
            if not waiting:
                return Visit(index, key, now)
            due = max(waiting.values())
            if due <= now and self._claim(waiting, now):
                return Visit(index, key, now, probes=frozenset(waiting))
            cooling.append((due, index))
        _, index = min(cooling)
        return Visit(index, keys[index], now)

    def _claim(self, records: Iterable[str], now: float) -> bool:
        def claim(troubles: dict[str, Trouble]) -> bool:
            left = [record for record in records if record in troubles]
            if any(troubles[record].due > now for record in left):
                return False
            for record in left:
                troubles[record] = replace(troubles[record], probe_until=now + _PROBE_LEASE_S)
            return True

        return self.store.change(claim)

    def succeeded(self, visit: Visit) -> None:
        """A call succeeded: whatever was held against the provider is forgotten.

        Unless it failed after this call had begun, which is the fresher news.
        """
        before = self.store.read()
        if not before:
            return
        records = visit.key().records

        def forget(troubles: dict[str, Trouble]) -> None:
            now = self.store.now()
            for record in records:
                trouble = troubles.get(record)
                if trouble is None or visit.began >= trouble.at or trouble.at > now:
                    troubles.pop(record, None)
            _end_probe(troubles, visit)

        if not before.keys().isdisjoint(records):
            self.store.change(forget)

    def failed(self, visit: Visit, part: Part = "server", *, retry_after: float = 0.0) -> None:
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

        def enter(troubles: dict[str, Trouble]) -> None:
            now = self.store.now()
            before = _known(troubles, key, now).get(record) or Trouble(0, now)
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

    def left(self, visit: Visit) -> None:
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


def _known(troubles: Mapping[str, Trouble], key: HealthKey, now: float) -> dict[str, Trouble]:
    """What is known of a provider, but nothing from the future: the clock was set back since."""
    found = ((record, troubles.get(record)) for record in key.records)
    return {
        record: trouble for record, trouble in found if trouble is not None and trouble.at <= now
    }


def _end_probe(troubles: dict[str, Trouble], visit: Visit) -> None:
    for record in visit.probes & troubles.keys():
        troubles[record] = replace(troubles[record], probe_until=0.0)
