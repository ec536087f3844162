"""The only reader of the process's environment."""

from __future__ import annotations

import os
from collections.abc import Iterable


def first_set(names: Iterable[str]) -> tuple[str, str] | None:
    """The first of ``names`` that is set and not blank, with its value without space around."""
    for name in names:
        value = os.environ.get(name, "").strip()
        if value:
            return name, value
    return None


def lookup(*names: str) -> str | None:
    """The value of the first of ``names`` that is set and not blank, without space around it."""
    found = first_set(names)
    return None if found is None else found[1]


def hide(names: Iterable[str]) -> None:
    """Take ``names`` away from this process and those that it starts."""
    for name in names:
        os.environ.pop(name, None)
