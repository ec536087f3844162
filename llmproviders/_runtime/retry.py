"""The only importer of tenacity: when to try the same provider again, and after what wait."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from math import inf
from random import random
from typing import TYPE_CHECKING, Literal

from .. import errors
from .._signals import let_through
from .scope import CancelScope

if TYPE_CHECKING:
    from tenacity import RetryCallState
    from tenacity.retry import RetryBaseT
    from tenacity.stop import StopBaseT
    from tenacity.wait import WaitBaseT


LONGEST_LAST_WAIT_S = 60.0

_JITTER = 0.1

_MOST_JITTER_S = 1.0


Part = Literal["server", "credential"]
"""Whose failure it is: the server's, which concerns everybody, or one credential's."""


@dataclass(frozen=True)
class RetryRule:
    """What a client does about one class of error.

    Attributes:
        tries: of one provider in a call, at most, where the error is one to retry; the client's
            ``attempts`` bounds it too.
        against: whose health it tells against, the server's or the credential's, so that it may
            cool down. What is the caller's own doing tells against nobody's.
    """

    tries: float = inf
    against: Part | None = "server"


OUTCOMES: dict[type[errors.LLMError], RetryRule] = {
    errors.MissingAuthError: RetryRule(against=None),
    errors.AuthenticationError: RetryRule(against="credential"),
    errors.QuotaExceededError: RetryRule(against="credential"),
    errors.RateLimitError: RetryRule(against="credential"),
    errors.InvalidRequestError: RetryRule(against=None),
    errors.ModelNotFoundError: RetryRule(against=None),
    errors.UnsupportedError: RetryRule(against=None),
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
    errors.LLMError: RetryRule(),
}


def outcome_of(error: errors.LLMError) -> RetryRule:
    """The row of the table for ``error``: its class's, else its nearest base's."""
    return next(OUTCOMES[cls] for cls in type(error).__mro__ if cls in OUTCOMES)


def counts_against(error: errors.LLMError) -> Part | None:
    """Whose health ``error`` tells against; several do if any of them does."""
    if isinstance(error, errors.AllProvidersFailed):
        inside = [a.error for a in error.attempts if a.error is not None and a.error is not error]
        if inside and not any(map(counts_against, inside)):
            return None
    return outcome_of(error).against


@dataclass(frozen=True, kw_only=True)
class Policy:
    """How often and after what waits one provider is tried in a call.

    Attributes:
        attempts: tries, the first included.
        wait: a tenacity wait, or None: exponential from 0.5 s, jittered, at most 8 s.
        retry: a tenacity retry predicate over the error, or None: the ``retryable`` errors.
        stop: a tenacity stop that ends the tries earlier, or None.
        max_retry_after: the longest ``Retry-After``, in seconds, waited for while another
            provider is left.
    """

    attempts: int
    wait: WaitBaseT | None
    retry: RetryBaseT | None
    stop: StopBaseT | None
    max_retry_after: float


def load_tenacity() -> None:
    """Import tenacity, so that no call has to."""
    import_module("tenacity")


class Tries:
    """The tries of one provider in one call, the first of which begins now.

    Args:
        policy: how often, and after what waits.
        scope: what no wait may outlast.
        is_last: whether no other provider is left to turn to.
        made: tries of this provider that the call has made before.
    """

    def __init__(
        self, policy: Policy, scope: CancelScope, *, is_last: Callable[[], bool], made: int = 0
    ) -> None:
        self.made = made + 1
        self._policy = policy
        self._scope = scope
        self._is_last = is_last
        self._began = scope.clock.monotonic()
        self._state: RetryCallState | None = None

    def wait_after(self, error: errors.LLMError) -> float | None:
        """Seconds to wait before the next try, now that this one failed; None: there is none."""
        policy = self._policy
        most = min(policy.attempts, outcome_of(error).tries)
        longest = LONGEST_LAST_WAIT_S if self._is_last() else policy.max_retry_after
        if (
            self.made >= most
            or self._scope.over
            or (error.retry_after or 0.0) > longest
            or (policy.retry is None and not error.retryable)
        ):
            return None
        seconds = self._ask_tenacity(error)
        if seconds is None or seconds >= self._scope.remaining():
            return None
        self.made += 1
        return seconds

    def _ask_tenacity(self, error: errors.LLMError) -> float | None:
        import tenacity

        policy, state = self._policy, self._state
        if state is None:
            retrying = tenacity.Retrying(
                wait=_at_least_retry_after(policy.wait),
                stop=policy.stop or tenacity.stop_never,
                retry=policy.retry or tenacity.retry_always,
                reraise=True,
            )
            state = self._state = tenacity.RetryCallState(retrying, None, (), {})
            state.start_time = self._began
            state.attempt_number = self.made
        state.set_exception((type(error), error, error.__traceback__))
        state.outcome_timestamp = self._scope.clock.monotonic()
        # Its statistics belong to a thread, and a lane may change threads.
        state.retry_object.begin()
        try:
            action = state.retry_object.iter(state)
        except errors.LLMError as ended:
            let_through(ended)
            return None
        assert isinstance(action, tenacity.DoSleep)
        state.prepare_for_next_attempt()
        return float(action)


def _at_least_retry_after(wait: WaitBaseT | None) -> Callable[[RetryCallState], float]:
    import tenacity

    # Not wait_exponential_jitter: its first argument has two names, neither known to all releases.
    chosen = wait or (
        tenacity.wait_exponential(multiplier=0.5, max=7.5) + tenacity.wait_random(0, 0.5)
    )

    def seconds(state: RetryCallState) -> float:
        assert state.outcome is not None
        floor = getattr(state.outcome.exception(), "retry_after", None) or 0.0
        return max(float(chosen(state)), floor + random() * min(floor * _JITTER, _MOST_JITTER_S))

    return seconds
