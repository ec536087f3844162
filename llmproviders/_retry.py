"""The only importer of tenacity: when to try the same provider again, and after what wait."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from random import random
from typing import TYPE_CHECKING, Any

from . import errors
from ._clock import Scope

if TYPE_CHECKING:
    from tenacity import RetryCallState, Retrying
    from tenacity.retry import RetryBaseT
    from tenacity.stop import StopBaseT
    from tenacity.wait import WaitBaseT

LONGEST_LAST_WAIT_S = 60.0
_JITTER = 0.1


@dataclass(frozen=True)
class Outcome:
    """What a client does about one class of error.

    Attributes:
        tries: of one provider in a call, at most, where the error is one to retry; the client's
            ``attempts`` bounds it too.
        moves_on: whether the next provider is tried.
        counts: whether it tells against the provider's health, so that it may cool down. What
            is the caller's own doing does not.
    """

    tries: float = inf
    moves_on: bool = True
    counts: bool = True


OUTCOMES: dict[type[errors.LLMError], Outcome] = {
    errors.MissingAuthError: Outcome(counts=False),
    errors.AuthenticationError: Outcome(),
    errors.QuotaExceededError: Outcome(),
    errors.RateLimitError: Outcome(),
    errors.InvalidRequestError: Outcome(counts=False),
    errors.ModelNotFoundError: Outcome(counts=False),
    errors.ServerError: Outcome(),
    errors.BlockedError: Outcome(),
    errors.ConnectionFailed: Outcome(),
    errors.ProviderTimeout: Outcome(),
    errors.DeadlineExceeded: Outcome(tries=1, moves_on=False, counts=False),
    errors.StreamInterrupted: Outcome(),
    errors.ProtocolError: Outcome(tries=2),
    errors.EmptyReplyError: Outcome(),
    errors.RefusedError: Outcome(counts=False),
    errors.RejectedReplyError: Outcome(counts=False),
    errors.AllProvidersFailed: Outcome(),
    errors.LLMError: Outcome(),
}


def outcome_of(error: errors.LLMError) -> Outcome:
    """The row of the table for ``error``: its class's, else its nearest base's."""
    return next(OUTCOMES[cls] for cls in type(error).__mro__ if cls in OUTCOMES)


def not_sent(error: errors.LLMError) -> bool:
    """Whether a request was found invalid before anything was sent."""
    return (
        isinstance(error, errors.InvalidRequestError)
        and not isinstance(error, errors.ModelNotFoundError)
        and error.status_code is None
    )


class Policy:
    """How often and after what waits one provider is tried in a call.

    Args:
        attempts: tries, the first included.
        wait: a tenacity wait, or None: exponential from 0.5 s, jittered, at most 8 s.
        retry: a tenacity retry predicate over the error, or None: the ``retryable`` errors.
        stop: a tenacity stop that ends the tries earlier, or None.
        max_retry_after: the longest ``Retry-After``, in seconds, waited for while another
            provider is left.
    """

    def __init__(
        self,
        *,
        attempts: int,
        wait: WaitBaseT | None,
        retry: RetryBaseT | None,
        stop: StopBaseT | None,
        max_retry_after: float,
    ) -> None:
        self._attempts = attempts
        self._wait = wait
        self._retry = retry
        self._stop = stop
        self._max_retry_after = max_retry_after

    def tries(self, scope: Scope, *, is_last: Callable[[], bool], before: Any) -> Retrying:
        """Tries of one provider, for a ``for`` loop that records each one's outcome.

        Args:
            scope: what no wait may outlast.
            is_last: whether no other provider is left to turn to.
            before: called with the seconds of each wait, before it.
        """
        import tenacity

        def waits(state: RetryCallState) -> float:
            base = float(wait(state))
            floor = _error(state).retry_after
            return base if floor is None else max(base, floor * (1 + _JITTER * random()))

        def stops(state: RetryCallState) -> bool:
            error = _error(state)
            if state.attempt_number >= min(self._attempts, outcome_of(error).tries):
                return True
            longest = LONGEST_LAST_WAIT_S if is_last() else self._max_retry_after
            if error.retry_after is not None and error.retry_after > longest:
                return True
            return state.upcoming_sleep >= scope.remaining() or (
                self._stop is not None and bool(self._stop(state))
            )

        def sleep(seconds: float) -> None:
            before(seconds)
            scope.sleep(seconds)

        wait = self._wait or tenacity.wait_exponential_jitter(initial=0.5, max=8, jitter=0.5)
        retry = self._retry or tenacity.retry_if_exception(lambda e: getattr(e, "retryable", False))
        return tenacity.Retrying(wait=waits, stop=stops, retry=retry, sleep=sleep, reraise=True)


def _error(state: RetryCallState) -> errors.LLMError:
    assert state.outcome is not None
    error = state.outcome.exception()
    assert isinstance(error, errors.LLMError)
    return error
