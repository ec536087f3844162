"""Decide whether to retry a provider, and after what wait. Only this module imports tenacity.

tenacity takes 85 ms to import, so this module is loaded by the first ``FailoverClient``.
"""

from __future__ import annotations

from random import random
from typing import TYPE_CHECKING

import tenacity

from ..errors import LLMError

if TYPE_CHECKING:
    from tenacity.retry import RetryBaseT
    from tenacity.stop import StopBaseT
    from tenacity.wait import WaitBaseT

_JITTER = 0.1

_MOST_JITTER_S = 1.0


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
        # Not wait_exponential_jitter: the name of its first argument differs between releases.
        self._wait = wait or (
            tenacity.wait_exponential(multiplier=0.5, max=7.5) + tenacity.wait_random(0, 0.5)
        )
        self._retry = retry or tenacity.retry_if_exception(_is_retryable)
        self._stop = stop or tenacity.stop_never
        self._retrying = tenacity.Retrying(wait=self._wait, retry=self._retry, stop=self._stop)

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
        state = tenacity.RetryCallState(self._retrying, None, (), {})
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
