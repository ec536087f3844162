"""Exceptions raised by a signal handler: they belong to the caller and are not failures of a call.

A handler runs wherever the main thread happens to be, even inside a ``try``, and may raise any
class: Python's documentation shows one for ``SIGALRM`` that raises an ``OSError``. So code that
catches exceptions by class first checks here where an exception comes from.
"""

from __future__ import annotations

from contextlib import suppress
from types import TracebackType


class Unstoppable(BaseException):
    """Carries a handler's exception, its cause, through third-party code that would swallow it."""


def from_handler(error: BaseException) -> BaseException | None:
    """The exception of a signal handler that ``error`` is or was caused by; else None."""
    found = None
    seen: set[int] = set()
    waiting = [error]
    while waiting:
        error = waiting.pop()
        if id(error) in seen:
            continue
        seen.add(id(error))
        if _left_a_handler(error.__traceback__):
            # Not a reason to stop: urllib3 gives its wrapper the traceback of the wrapped
            # exception.
            found = error
        inner = (
            *error.args,
            error.__cause__,
            _replaced_by(error),
            *(getattr(error, name, None) for name in _INNER),
        )
        waiting += [value for value in inner if isinstance(value, BaseException)]
    return found


# Where urllib3 and PySocks keep the wrapped exception.
_INNER = ("reason", "socket_err")


def _replaced_by(error: BaseException) -> BaseException | None:
    """The exception being handled when ``error`` was raised, if it was caught during the call.

    Otherwise it is one that the caller was already handling when the call was made.
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
    """Whether an exception came out of a function that was called the way signal handlers are.

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
    """Raise the exception of a signal handler that ``error`` is or was caused by, if any."""
    found = from_handler(error)
    if found is not None:
        context = found.__context__
        try:
            raise found
        finally:
            # The error that wrapped it would otherwise become its context, and form a cycle.
            found.__context__ = context


class ignoring(suppress):  # noqa: N801 - read as a verb, like ``suppress``
    """Ignore exceptions of some classes, except those raised by a signal handler."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        if error is not None:
            let_through(error)
        return super().__exit__(kind, error, traceback)
