"""What belongs to the process that made it: a forked child has a copy that it must not use."""

from __future__ import annotations

import os
from collections.abc import Callable


class Process:
    """Stands for this process. In a forked child there is another one.

    Comparing it costs a tenth of ``os.getpid()``, which is a call of the system.
    """


this = Process()
"""This process; it changes in a forked child, so that it is read through its module."""


# What a child inherited and must not touch. Dropping it would run its clean-up, or take a lock
# that a thread of the parent held.
_inherited: list[object] = []


def current() -> Process:
    """This process."""
    return this


def keep_untouched(inherited: object) -> None:
    """Keep what belongs to the parent, so that nothing cleans it up here."""
    _inherited.append(inherited)


def in_each_child(function: Callable[[], object]) -> None:
    """Have ``function`` called in every forked child, before anything else runs there."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=function)


def around_forks(
    before: Callable[[], object],
    *,
    in_parent: Callable[[], object],
    in_child: Callable[[], object],
) -> None:
    """Have ``before`` called when this process is about to fork, and one of the others after."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(before=before, after_in_parent=in_parent, after_in_child=in_child)


def _become_another() -> None:
    global this
    this = Process()


in_each_child(_become_another)
