"""What belongs to the process that made it: a forked child has a copy that it must not use."""

from __future__ import annotations

import os
from collections.abc import Callable


class Process:
    """Represents this process. In a forked child there is another one.

    Comparing it takes a tenth of the time of ``os.getpid()``, which is a system call.
    """


this = Process()
"""This process; it changes in a forked child, so read it through its module."""


# Objects that a child inherited and must not touch. Dropping them would run their clean-up, or take
# a lock that a thread of the parent held.
_inherited: list[object] = []


def current() -> Process:
    """This process."""
    return this


def keep_untouched(inherited: object) -> None:
    """Keep an object of the parent, so that it is not cleaned up here."""
    _inherited.append(inherited)


def in_each_child(function: Callable[[], object]) -> None:
    """Call ``function`` in every forked child, before anything else runs there."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=function)


def around_forks(
    before: Callable[[], object],
    *,
    in_parent: Callable[[], object],
    in_child: Callable[[], object],
) -> None:
    """Call ``before`` when this process is about to fork, and one of the others afterwards."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(before=before, after_in_parent=in_parent, after_in_child=in_child)


def _become_another() -> None:
    global this
    this = Process()


in_each_child(_become_another)
