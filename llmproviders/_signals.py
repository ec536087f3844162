"""Exceptions that a signal's handler raised: they are the caller's, and no failure of a call.

A handler runs wherever the main thread happens to be, inside a ``try`` too, and may raise any
class: Python's documentation shows one for ``SIGALRM`` that raises an ``OSError``. So whatever
catches by class first asks here where an exception comes from.
"""

from __future__ import annotations

from contextlib import suppress
from types import TracebackType


class Unstoppable(BaseException):
    """Carries a handler's exception, its cause, through code of others that would swallow it."""


def from_handler(error: BaseException) -> BaseException | None:
    """What a signal's handler raised, if ``error`` is that or was caused by it; else None."""
    found = None
    seen: set[int] = set()
    waiting = [error]
    while waiting:
        error = waiting.pop()
        if id(error) in seen:
            continue
        seen.add(id(error))
        if _left_a_handler(error.__traceback__):
            # No reason to stop: urllib3 gives what it wraps an exception in that one's traceback.
            found = error
        inner = (
            *error.args,
            error.__cause__,
            _replaced_by(error),
            *(getattr(error, name, None) for name in _INNER),
        )
        waiting += [value for value in inner if isinstance(value, BaseException)]
    return found


# Where urllib3 and PySocks keep what they wrapped.
_INNER = ("reason", "socket_err")


def _replaced_by(error: BaseException) -> BaseException | None:
    """What was being handled when ``error`` was raised, if that was caught on the way of it.

    Else it is what the caller was handling when the call was made.
    """
    context = error.__context__
    if context is None or context.__traceback__ is None:
        return None
    caught_in = context.__traceback__.tb_frame
    traceback = error.__traceback__
    while traceback is not None:
        if traceback.tb_frame is caught_in:
            return context
        traceback = traceback.tb_next
    return None


def _left_a_handler(traceback: TracebackType | None) -> bool:
    """Whether an exception came out of a function that was called as handlers are.

    Python calls a handler with the frame that it interrupted, and nothing else is called so.
    """
    while traceback is not None and traceback.tb_next is not None:
        interrupted = traceback.tb_frame
        traceback = traceback.tb_next
        for value in traceback.tb_frame.f_locals.values():
            values = value if type(value) is tuple else (value,)
            if any(one is interrupted for one in values):
                return True
    return False


def let_through(error: BaseException) -> None:
    """Raise what a signal's handler raised, if ``error`` is that or was caused by it."""
    found = from_handler(error)
    if found is not None:
        context = found.__context__
        try:
            raise found
        finally:
            # The error that wrapped it would otherwise become its context, and form a cycle.
            found.__context__ = context


class ignoring(suppress):  # noqa: N801 - it is read as a verb, as ``suppress`` is
    """Ignore exceptions of some classes, save what a signal's handler raised."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        if error is not None:
            let_through(error)
        return super().__exit__(kind, error, traceback)
