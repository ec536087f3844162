"""What belongs to the process that made it: a forked child has a copy that it must not use."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator
from typing import TypeVar

from ..errors import InvalidRequestError

T = TypeVar("T")


class Process:
    """Stands for this process. In a forked child there is another one.

    Comparing it costs a tenth of ``os.getpid()``, which is a call of the system.
    """


_current = Process()


# What a child inherited and must not touch. Dropping it would run its clean-up, or take a lock
# that a thread of the parent held.
_inherited: list[object] = []


def current() -> Process:
    """This process."""
    return _current


def keep_untouched(inherited: object) -> None:
    """Keep what belongs to the parent, so that nothing cleans it up here."""
    _inherited.append(inherited)


def in_each_child(function: Callable[[], object]) -> None:
    """Have ``function`` called in every forked child, before anything else runs there."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=function)


def _become_another() -> None:
    global _current
    _current = Process()


in_each_child(_become_another)


def owned(stream: Generator[T, None, None], name: str) -> Generator[T, None, None]:
    """The same stream, for the process alone that makes the first ``next()``.

    In any other process nothing is read from it, and closing or dropping it there leaves alone
    what it has open.

    Args:
        stream: what to yield from.
        name: the client's, for the error.

    Raises:
        InvalidRequestError: in another process.
    """
    owner, pid = _current, os.getpid()
    try:
        for piece in stream:
            yield piece
            if _current is not owner:
                raise InvalidRequestError(
                    f"this stream belongs to process {pid}, which began to read it; this is "
                    f"process {os.getpid()}, forked from it: start a stream of its own here",
                    provider=name,
                )
    finally:
        if _current is owner:
            stream.close()
        else:
            keep_untouched(stream)
