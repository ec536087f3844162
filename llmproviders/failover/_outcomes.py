"""What a ``FailoverClient`` does about each class of error: one table."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import Literal

from .. import errors

Part = Literal["server", "credential"]
"""What a failure counts against: the server, for all its users, or one credential."""


@dataclass(frozen=True)
class RetryRule:
    """What a client does about one class of error.

    Attributes:
        tries: the most tries of one provider in a call when it keeps failing like this; the
            client's ``attempts`` is a limit too.
        against: what the failure counts against, and so what gets a cooldown; None: nothing,
            because the request or the caller caused it.
    """

    tries: float = inf
    against: Part | None = "server"


OUTCOMES: dict[type[errors.LLMError], RetryRule] = {
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
    errors.LLMError: RetryRule(),
}
"""Error class -> what a client does about it. A class that is not listed is treated as its base."""


def outcome_of(error: errors.LLMError) -> RetryRule:
    """The rule for ``error``: its class's, else its nearest base's."""
    return next(OUTCOMES[cls] for cls in type(error).__mro__ if cls in OUTCOMES)


def counts_against(error: errors.LLMError) -> Part | None:
    """What ``error`` counts against; None for nothing."""
    if error.limit is not None:
        return None
    if isinstance(error, errors.AllProvidersFailed):
        inside = [a.error for a in error.attempts if a.error is not None and a.error is not error]
        if inside and not any(map(counts_against, inside)):
            return None
    return outcome_of(error).against
