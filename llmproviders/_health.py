"""Which providers are in trouble: cooldowns, kept by one client or shared by processes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

from ._locks import ForkLock

T = TypeVar("T")

LONGEST_COOLDOWN_S = 600.0
_PROBE_LEASE_S = 120.0


@dataclass(frozen=True, slots=True)
class Trouble:
    """What is remembered of a provider that failed; times in seconds of the store's clock.

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
    """Where troubles are kept, by a key for each provider."""

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
        key: what its health is remembered by.
        began: when, by the store's clock.
        probes: whether it finds out for all callers if the provider works again.
    """

    index: int
    key: str
    began: float
    probes: bool = False


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
        if self.probed:
            return "being probed"
        if self.cooling > 0:
            return f"cooling, {self.cooling:.0f} s"
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

    def visit(self, keys: Sequence[str]) -> Visit:
        """Choose among providers in priority order.

        The first that is not cooling down; where all are, the one that is due first. When a
        cooldown has passed, one caller gets the provider in its place, to probe it, and the
        others pass it by until that one has reported.
        """
        now = self.store.now()
        troubles = self.store.read()
        cooling: list[tuple[float, int]] = []
        for index, key in enumerate(keys):
            trouble = _known(troubles, key, now)
            if trouble is None or not trouble.until:
                return Visit(index, key, now)
            if trouble.due <= now and self._claim(key, now):
                return Visit(index, key, now, probes=True)
            cooling.append((trouble.due, index))
        _, index = min(cooling)
        return Visit(index, keys[index], now)

    def _claim(self, key: str, now: float) -> bool:
        def claim(troubles: dict[str, Trouble]) -> bool:
            trouble = troubles.get(key)
            if trouble is None or trouble.due > now:
                return trouble is None
            troubles[key] = replace(trouble, probe_until=now + _PROBE_LEASE_S)
            return True

        return self.store.change(claim)

    def succeeded(self, visit: Visit) -> None:
        """A call succeeded: whatever was held against the provider is forgotten.

        Unless it failed after this call had begun, which is the fresher news.
        """

        def forget(troubles: dict[str, Trouble]) -> None:
            trouble = _known(troubles, visit.key, self.store.now())
            if trouble is None or visit.began >= trouble.at:
                troubles.pop(visit.key, None)
            elif visit.probes:
                troubles[visit.key] = replace(trouble, probe_until=0.0)

        if visit.key in self.store.read():
            self.store.change(forget)

    def failed(self, visit: Visit, *, retry_after: float = 0.0) -> None:
        """A call failed; ``retry_after`` seconds is a rest that the service asked for."""
        before = _known(self.store.read(), visit.key, self.store.now())
        # Calls that were under way when the cooldown began all fail for the one reason.
        is_stale = before is not None and visit.began < before.until
        if retry_after <= 0 and (is_stale or self._cooldown <= 0):
            self.left(visit)
            return

        def enter(troubles: dict[str, Trouble]) -> None:
            now = self.store.now()
            before = _known(troubles, visit.key, now) or Trouble(0, now)
            after = replace(before, failures=before.failures + 1, at=now)
            if visit.probes:
                after = replace(after, probe_until=0.0)
            is_fresh = visit.began >= before.until
            if is_fresh and self._cooldown > 0 and after.failures >= self._threshold:
                cooldown = max(self._cooldown, min(before.cooldown * 2, LONGEST_COOLDOWN_S))
                after = replace(after, cooldown=cooldown, until=now + cooldown)
            if retry_after > 0:
                after = replace(after, until=max(after.until, now + retry_after))
            troubles[visit.key] = after

        self.store.change(enter)

    def left(self, visit: Visit) -> None:
        """A call ended without telling anything: if it was a probe, the next caller may probe."""

        def end_probe(troubles: dict[str, Trouble]) -> None:
            if visit.key in troubles:
                troubles[visit.key] = replace(troubles[visit.key], probe_until=0.0)

        if visit.probes:
            self.store.change(end_probe)

    def condition(self, key: str) -> Condition:
        """How a provider is doing now."""
        now = self.store.now()
        trouble = _known(self.store.read(), key, now)
        if trouble is None:
            return Condition()
        probed = trouble.until <= now < trouble.probe_until
        return Condition(trouble.failures, max(0.0, trouble.until - now), probed)


def _known(troubles: Mapping[str, Trouble], key: str, now: float) -> Trouble | None:
    """What is known of a provider, but nothing from the future: the clock was set back since."""
    trouble = troubles.get(key)
    return None if trouble is None or trouble.at > now else trouble
