"""A provider as one client has it: its statistics, its budget for retries, its health records."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from math import ceil
from urllib.parse import urlsplit

from .._runtime.scope import ForkLock
from .._signals import let_through
from ..client import BaseClient
from ..errors import Attempt, LLMError
from ._health import Condition, HealthKey
from ._report import ProviderReport, Report

_TIMES_KEPT = 1000

_ATTEMPTS_KEPT = 100

LEAST_RETRIES_AHEAD = 100
"""Retries in a full budget; more if ``attempts`` allows more in one call."""

REPLIES_PER_RETRY = 5
"""Replies without a retry that earn one retry."""

_DIGEST_LENGTH = 16


class RetryBudget:
    """How many retries of one provider a client has left, over all its calls.

    Retries help with occasional failures, but multiply the load in an outage. So each retry is
    taken from a budget, which replies refill: a reply after retries returns those, any other reply
    a fifth of one. With an empty budget, each call still has its first try.

    Args:
        most: retries in a full budget.
    """

    def __init__(self, most: int) -> None:
        # Counted in whole numbers, since ten times 0.2 is not quite 2.
        self._most = self._left = most * REPLIES_PER_RETRY
        self._lock = ForkLock()

    def take(self) -> bool:
        """Take one retry; False if the budget is empty."""
        with self._lock.mine:
            if self._left < REPLIES_PER_RETRY:
                return False
            self._left -= REPLIES_PER_RETRY
            return True

    def give_back(self, retries: int) -> None:
        """Refill the budget after a whole reply that took ``retries`` retries."""
        if self._left < self._most:
            with self._lock.mine:
                gained = retries * REPLIES_PER_RETRY or 1
                self._left = min(self._most, self._left + gained)


class ProviderStats:
    """Counters for one provider; safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = ForkLock()
        self._calls = 0
        self._tries = 0
        self._successes = 0
        self._failures: Counter[str] = Counter()
        self._waited = 0.0
        self._first_texts: deque[float] = deque(maxlen=_TIMES_KEPT)

    def called(self) -> None:
        """Count a call that has ended."""
        with self._lock.mine:
            self._calls += 1

    def tried(self, attempts: Sequence[Attempt], error: LLMError | None) -> None:
        """Count a try that ended with a whole reply, or with ``error``."""
        first = attempts[-1].first_chunk_after if attempts else None
        with self._lock.mine:
            self._tries += 1
            self._waited += sum(attempt.waited for attempt in attempts)
            if error is None:
                self._successes += 1
            else:
                self._failures[type(error).__name__] += 1
            if first is not None:
                self._first_texts.append(first)

    def record(
        self, provider: str, model: str | None, condition: Condition, inside: Report | None
    ) -> ProviderReport:
        """The current counts."""
        with self._lock.mine:
            times = sorted(self._first_texts)
            return ProviderReport(
                provider=provider,
                model=model,
                calls=self._calls,
                tries=self._tries,
                successes=self._successes,
                failures=dict(self._failures),
                waited=self._waited,
                first_text_median=_percentile(times, 0.5),
                first_text_p95=_percentile(times, 0.95),
                condition=condition,
                inside=() if inside is None else inside.providers,
            )


def _percentile(times: Sequence[float], share: float) -> float | None:
    """Nearest-rank percentile of sorted ``times``; None without any."""
    return times[ceil(share * len(times)) - 1] if times else None


class History:
    """The last attempts of a client."""

    def __init__(self) -> None:
        self._attempts: deque[Attempt] = deque(maxlen=_ATTEMPTS_KEPT)

    def add(self, attempt: Attempt) -> None:
        """Keep an attempt, without the text, frames and connections that its error refers to."""
        if attempt.error is not None:
            attempt = replace(attempt, error=_light(attempt.error))
        self._attempts.append(attempt)

    def recent(self) -> tuple[Attempt, ...]:
        """The last attempts, the oldest first."""
        return tuple(self._attempts.copy())


def _light(error: LLMError) -> LLMError:
    # Not by calling its class: a user's own error may take other arguments.
    light: LLMError = type(error).__new__(type(error))
    light.args = error.args
    light.__dict__.update(error.__dict__, partial_text="", attempts=())
    return light


@dataclass(frozen=True)
class Target:
    """A provider as one client has it.

    Attributes:
        client: the provider, or another client.
        model: model to ask for if the call names none; None: the provider's default.
        budget: limits its retries.
        number: index in priority order.
        namesakes: how many targets before it have the same name, address and model.
        stats: its counters.
    """

    client: BaseClient
    model: str | None
    budget: RetryBudget = field(compare=False)
    number: int = 0
    namesakes: int = 0
    stats: ProviderStats = field(default_factory=ProviderStats, compare=False)

    @classmethod
    def all_of(
        cls, chosen: Iterable[tuple[BaseClient, str | None]], *, attempts: int
    ) -> tuple[Target, ...]:
        """A target for each provider and model, in priority order.

        Args:
            chosen: the providers and models.
            attempts: the most tries of each in a call.
        """
        targets: list[Target] = []
        for number, (client, model) in enumerate(chosen):
            server = server_of(client, model)
            namesakes = sum(server_of(other.client, other.model) == server for other in targets)
            budget = RetryBudget(max(LEAST_RETRIES_AHEAD, attempts))
            targets.append(cls(client, model, budget, number, namesakes))
        return tuple(targets)

    def health_key(self) -> HealthKey:
        """The names of its health records, which contain no secret.

        Computed for each use, since a renewed key starts without failures.
        """
        server = server_of(self.client, self.model)
        try:
            digest = self.client.credential_digest()
        except Exception as error:  # noqa: BLE001 - the call itself will say what is missing or fails
            let_through(error)
            digest = None
        if digest is None:
            # Two providers of the same service may have different keys.
            alone = f"{server}#{self.namesakes + 1}" if self.namesakes else server
            return HealthKey(alone, alone)
        credential = f"{server}|{digest[:_DIGEST_LENGTH]}"
        # A client of several providers has no server of its own.
        return HealthKey(server if _address(self.client) else credential, credential)


def server_of(client: BaseClient, model: str | None) -> str:
    """A provider's name, its address and the model asked for.

    Without the address's password and query, which may contain a key.
    """
    model = model or getattr(client, "model", None) or ""
    return "|".join((client.name, _address(client), model))


def _address(client: BaseClient) -> str:
    url = urlsplit(getattr(client, "base_url", ""))
    return f"{url.scheme}://{url.netloc.rpartition('@')[2]}{url.path}" if url.netloc else ""
