"""A provider as one client has it: when a failed try is repeated, and how its tries went.

One table says how a client handles each class of error. tenacity decides about the wait, and a
budget limits the retries over all calls.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from math import ceil, inf
from random import random
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from .. import errors
from .._runtime.scope import ForkLock
from .._signals import let_through
from ..client import BaseClient
from ..errors import Attempt, LLMError
from ._health import Condition, HealthKey, Part
from ._report import ProviderReport, Report

if TYPE_CHECKING:
    from tenacity.retry import RetryBaseT
    from tenacity.stop import StopBaseT
    from tenacity.wait import WaitBaseT

_TIMES_KEPT = 1000

_ATTEMPTS_KEPT = 100

LEAST_RETRIES_AHEAD = 100
"""Retries in a full budget; more if ``attempts`` allows more in one call."""

REPLIES_PER_RETRY = 5
"""Replies without a retry that earn one retry."""

_DIGEST_LENGTH = 16

_JITTER = 0.1

_MOST_JITTER_S = 1.0


@dataclass(frozen=True)
class RetryRule:
    """How a client handles one class of error.

    Attributes:
        tries: the most tries of one provider in a call when it keeps failing like this; the
            client's ``attempts`` is a limit too.
        against: what the failure counts against, and so what gets a cooldown; None: nothing,
            because the request or the caller caused it.
    """

    tries: float = inf
    against: Part | None = "server"


OUTCOMES: dict[type[LLMError], RetryRule] = {
    errors.MissingAuthError: RetryRule(against=None),
    errors.AuthenticationError: RetryRule(against="credential"),
    errors.QuotaExceededError: RetryRule(against="credential"),
    errors.RateLimitError: RetryRule(against="credential"),
    errors.InvalidRequestError: RetryRule(against=None),
    errors.ModelNotFoundError: RetryRule(tries=1, against=None),
    errors.UnsupportedError: RetryRule(tries=1, against=None),
    errors.ServerError: RetryRule(),
    errors.BlockedError: RetryRule(),
    errors.ConnectionFailed: RetryRule(),
    errors.ProviderTimeout: RetryRule(),
    errors.DeadlineExceeded: RetryRule(),
    errors.StreamInterrupted: RetryRule(),
    errors.ProtocolError: RetryRule(tries=2),
    errors.EmptyReplyError: RetryRule(),
    errors.RefusedError: RetryRule(against=None),
    errors.RejectedReplyError: RetryRule(against=None),
    errors.SchemaError: RetryRule(against=None),
    errors.AllProvidersFailed: RetryRule(),
    LLMError: RetryRule(),
}
"""Error class -> how a client handles it. A class that is not listed is treated as its base."""


def outcome_of(error: LLMError) -> RetryRule:
    """The rule for ``error``: its class's, else its nearest base's."""
    return next(OUTCOMES[cls] for cls in type(error).__mro__ if cls in OUTCOMES)


def counts_against(error: LLMError) -> Part | None:
    """What ``error`` counts against; None for nothing."""
    if error.limit is not None:
        return None
    if isinstance(error, errors.AllProvidersFailed):
        inside = [a.error for a in error.attempts if a.error is not None and a.error is not error]
        if inside and not any(map(counts_against, inside)):
            return None
    return outcome_of(error).against


class TenacityBackoff:
    """Asks tenacity's ``retry``, ``wait`` and ``stop`` about each failure.

    Each is called with a ``RetryCallState``, as tenacity documents. tenacity's own loop is not
    used, since it sleeps itself and keeps thread-local state.

    Args:
        wait: a tenacity wait, or None: exponential from 0.5 s, jittered, at most 8 s.
        retry: a tenacity retry predicate over the error, or None: the ``retryable`` errors.
        stop: a tenacity stop that ends the retries earlier, or None.
    """

    def __init__(
        self, *, wait: WaitBaseT | None, retry: RetryBaseT | None, stop: StopBaseT | None
    ) -> None:
        # It takes 85 ms to import, and a program without a FailoverClient does not need it.
        import tenacity

        # Not wait_exponential_jitter: the name of its first argument differs between releases.
        self._wait = wait or (
            tenacity.wait_exponential(multiplier=0.5, max=7.5) + tenacity.wait_random(0, 0.5)
        )
        self._retry = retry or tenacity.retry_if_exception(_is_retryable)
        self._stop = stop or tenacity.stop_never
        retrying = tenacity.Retrying(wait=self._wait, retry=self._retry, stop=self._stop)
        self._new_state = partial(tenacity.RetryCallState, retrying, None, (), {})

    def __call__(
        self, error: LLMError, *, made: int, began: float, now: float, slept: float
    ) -> float | None:
        """Seconds to wait before the next try; None if there should not be one.

        Args:
            error: the failure of the last try.
            made: tries made so far, the last one included.
            began: when the first one began, in seconds of a monotonic clock.
            now: when the last one ended, by the same clock.
            slept: seconds slept between them.
        """
        state = self._new_state()
        state.attempt_number, state.idle_for = made, slept
        state.set_exception((type(error), error, error.__traceback__))
        state.start_time, state.outcome_timestamp = began, now
        if not self._retry(state):
            return None
        wait = float(self._wait(state))
        floor = error.retry_after or 0.0
        wait = max(wait, floor + random() * min(floor * _JITTER, _MOST_JITTER_S))
        # Read by stop_before_delay.
        state.upcoming_sleep = wait
        return None if self._stop(state) else wait


def _is_retryable(error: BaseException) -> bool:
    return isinstance(error, LLMError) and error.retryable


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
