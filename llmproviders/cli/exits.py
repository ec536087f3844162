"""The exit codes, and the outcomes that they stand for."""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum

from ..errors import (
    AllProvidersFailed,
    AuthenticationError,
    InvalidRequestError,
    LLMError,
    MissingAuthError,
    ModelNotFoundError,
    ProviderTimeout,
    RefusedError,
    RejectedReplyError,
    UnsupportedError,
)
from ..results import FinishReason


class Exit(IntEnum):
    """How a command ended; the value is the process's exit code."""

    OK = 0
    UNEXPECTED = 1
    USAGE = 2
    INCOMPLETE = 3
    FILTERED = 4
    ROWS_FAILED = 65
    FAILED = 69
    TRY_LATER = 75
    CREDENTIALS = 77
    INTERRUPTED = 130
    TERMINATED = 143


MEANING = {
    Exit.OK: "a whole reply; a batch whose rows all succeeded; a doctor without a problem",
    Exit.UNEXPECTED: (
        "an unexpected error; a reply that cannot be written, and is on standard error; "
        "doctor found a problem"
    ),
    Exit.USAGE: (
        "wrong usage or configuration; a model that no provider has; a request that none can take"
    ),
    Exit.INCOMPLETE: (
        "an incomplete reply: cut, stopped by the deadline, or ended by max_tokens, after text"
    ),
    Exit.FILTERED: "the service's filter stopped the reply, or accept rejected it",
    Exit.ROWS_FAILED: "a batch that ended with failed rows",
    Exit.FAILED: "every provider failed for good",
    Exit.TRY_LATER: "a provider failed in a way that may pass; a lock that another run holds",
    Exit.CREDENTIALS: "credentials missing or refused, and nothing else to try later",
    Exit.INTERRUPTED: "ended by Ctrl-C",
    Exit.TERMINATED: "ended by SIGTERM, or by a terminal that was closed (SIGHUP)",
}


class CommandError(Exception):
    """Ends a command with a message and an exit code."""

    def __init__(self, message: str, code: Exit) -> None:
        super().__init__(message)
        self.code = code


_CREDENTIALS = (MissingAuthError, AuthenticationError)

_FILTERED = (RefusedError, RejectedReplyError)


def exit_of_error(error: LLMError) -> Exit:
    """The code for a call that failed.

    If several providers failed, the most hopeful outcome decides: one that may pass by itself, then
        one that a key would fix, then one that a filter stopped.
    """
    if error.partial_text and not isinstance(error, RejectedReplyError):
        return Exit.INCOMPLETE
    failures = [a.error for a in error.attempts if a.error and not a.overtaken] or [error]
    if isinstance(error, AllProvidersFailed):
        return _exit_of_all(failures)
    return _exit_of_all([error])


def _exit_of_all(failures: Iterable[LLMError]) -> Exit:
    failures = list(failures)
    # A limit of time may allow the next call, whether or not this one could try again.
    if any(error.retryable or isinstance(error, ProviderTimeout) for error in failures):
        return Exit.TRY_LATER
    if any(isinstance(error, _CREDENTIALS) for error in failures):
        return Exit.CREDENTIALS
    if any(isinstance(error, _FILTERED) for error in failures):
        return Exit.FILTERED
    if all(_is_usage(error) for error in failures):
        return Exit.USAGE
    return Exit.FAILED


def _is_usage(error: LLMError) -> bool:
    unsent = isinstance(error, InvalidRequestError) and error.status_code is None
    return unsent or isinstance(error, (ModelNotFoundError, UnsupportedError))


def exit_of_reply(finish: FinishReason, *, allow_cut: bool = False) -> Exit:
    """The code for a reply that came to its end.

    Args:
        finish: its end.
        allow_cut: whether one that ``max_tokens`` cut counts as whole.
    """
    if finish.reason == "content_filter":
        return Exit.FILTERED
    return Exit.INCOMPLETE if finish.reason == "length" and not allow_cut else Exit.OK
