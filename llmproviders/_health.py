"""Which providers are in trouble: cooldowns, kept by one client or shared by processes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Protocol

LONGEST_COOLDOWN_S = 600.0
_PROBE_LEASE_S = 120.0


@dataclass(frozen=True, slots=True)
class Trouble:
    """What is remembered of a provider that failed; times in seconds of the store's clock.

    Attributes:
        failures: failed calls in a row.
        at: when the last one was.
        until: the end of the cooldown, 0 while there is none.
        cooldown: how long it is, in seconds.
        probe_until: until then one caller is finding out whether it works again.
    """

    failures: int
    at: float
    until: float = 0.0
    cooldown: float = 0.0
    probe_until: float = 0.0


class Store(Protocol):
    """Where troubles are kept, by a key for each provider."""

    def now(self) -> float:
        """The time that this store goes by."""

    def read(self) -> dict[str, Trouble]:
        """All of them; not to be changed."""

    def change(self) -> AbstractContextManager[dict[str, Trouble]]:
        """All of them, to be changed by nobody else meanwhile."""


class MemoryStore:
    """Troubles in this process's memory."""

    def __init__(self, now: Callable[[], float]) -> None:
        self.now = now
        self._troubles: dict[str, Trouble] = {}
        self._lock = threading.Lock()

    def read(self) -> dict[str, Trouble]:
        """All of them; not to be changed."""
        return self._troubles

    def change(self) -> AbstractContextManager[dict[str, Trouble]]:
        """All of them, to be changed by nobody else meanwhile."""
        return _Changing(self)


class _Changing:
    def __init__(self, store: MemoryStore) -> None:
        self._store = store

    def __enter__(self) -> dict[str, Trouble]:
        self._store._lock.acquire()
        self._changed = dict(self._store._troubles)
        return self._changed

    def __exit__(self, *_: object) -> None:
        self._store._troubles = self._changed
        self._store._lock.release()


class Health:
    """Ranks providers by what is known of them, and learns from each call.

    Args:
        store: where the knowledge is kept.
        cooldown: seconds for which a provider that failed is put last.
        threshold: failed calls in a row before that.
    """

    def __init__(self, store: Store, *, cooldown: float, threshold: int) -> None:
        self.store = store
        self._cooldown = cooldown
        self._threshold = threshold

    def rank(self, keys: Sequence[str]) -> list[int]:
        """The order in which to try the providers, as indices into ``keys``.

        Those that are cooling down come last, the one that is due first before the others. When a
        cooldown has passed, one caller gets the provider in its old place, to probe it, and the
        others still find it last until that one has reported.
        """
        troubles = self.store.read()
        if not any(key in troubles for key in keys):
            return list(range(len(keys)))
        now = self.store.now()
        healthy, cooling = [], []
        for index, key in enumerate(keys):
            trouble = troubles.get(key)
            if trouble is None or trouble.until == 0 or now < trouble.at or self._claim(key, now):
                healthy.append(index)
            else:
                cooling.append((max(trouble.until, trouble.probe_until), index))
        return healthy + [index for _, index in sorted(cooling)]

    def _claim(self, key: str, now: float) -> bool:
        trouble = self.store.read().get(key)
        if trouble is not None and now < max(trouble.until, trouble.probe_until):
            return False
        with self.store.change() as troubles:
            trouble = troubles.get(key)
            if trouble is None:
                return True
            if now < max(trouble.until, trouble.probe_until):
                return False
            troubles[key] = replace(trouble, probe_until=now + _PROBE_LEASE_S)
            return True

    def succeeded(self, key: str) -> None:
        """A call succeeded: whatever was held against the provider is forgotten."""
        if key in self.store.read():
            with self.store.change() as troubles:
                troubles.pop(key, None)

    def failed(self, key: str, *, retry_after: float = 0.0) -> None:
        """A call failed; ``retry_after`` seconds is a rest that the service asked for."""
        if self._cooldown <= 0 and retry_after <= 0:
            return
        now = self.store.now()
        with self.store.change() as troubles:
            before = troubles.get(key) or Trouble(0, now)
            failures = before.failures + 1
            cooldown, until = before.cooldown, before.until
            if failures >= self._threshold and now >= until:
                cooldown = min(before.cooldown * 2, LONGEST_COOLDOWN_S) or self._cooldown
                until = now + cooldown
            if retry_after > 0:
                until = max(until, now + retry_after)
            troubles[key] = Trouble(failures, now, until, cooldown)

    def released(self, key: str) -> None:
        """A probe ended without telling anything: the next caller may probe."""
        trouble = self.store.read().get(key)
        if trouble is not None and trouble.probe_until:
            with self.store.change() as troubles:
                if key in troubles:
                    troubles[key] = replace(troubles[key], probe_until=0.0)
