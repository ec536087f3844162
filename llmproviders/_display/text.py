"""Helpers for tables and pictures: escaped text, widths, durations, axes and colours."""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Iterator
from html import escape as escape_html
from math import floor, log10
from typing import Any

from .._printable import one_line

GOOD, HALF, PASSING, FINAL, IDLE, NEUTRAL = (
    "#1f9d6b",
    "#8a6fd1",
    "#c77700",
    "#d64545",
    "#808080",
    "#3b82d6",
)
"""Each has a contrast of at least 3:1 on white and on a nearly black page (WCAG 1.4.11)."""


_UNITS = ((3600, "h"), (60, "min"), (1, "s"))


def escape(value: object) -> str:
    """A value as one line of text inside HTML or XML.

    >>> escape("<b>")
    '&lt;b&gt;'
    """
    return escape_html(one_line(value))


def shorten(text: str, width: int) -> str:
    """At most ``width`` characters of ``text``, with an ellipsis if it was cut."""
    return text if len(text) <= width else text[: width - 1].rstrip() + "…"


def columns(text: str) -> int:
    """The number of terminal columns that a text takes: two for each wide character.

    >>> columns("sky"), columns("天空")
    (3, 4)
    """
    return sum(2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text)


def seconds(value: float | None) -> str:
    """Seconds in a readable form; an empty string for None.

    >>> seconds(0.0421), seconds(1.5), seconds(75.0)
    ('42 ms', '1.50 s', '75.0 s')
    """
    if value is None:
        return ""
    if value < 0.0995:
        return f"{value * 1000:.0f} ms"
    return f"{value:.2f} s" if value < 9.995 else f"{value:.1f} s"


def shell() -> Any:
    """The running IPython, or None. IPython is not imported for this."""
    ipython = sys.modules.get("IPython")
    return None if ipython is None else ipython.get_ipython()


def in_notebook() -> bool:
    """Whether there is a page, with a button that stops a cell, rather than a terminal."""
    return hasattr(shell(), "kernel")


def count(number: int, thing: str) -> str:
    """A number and its noun, in the plural if needed.

    >>> count(1, "piece"), count(2, "piece")
    ('1 piece', '2 pieces')
    """
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def ticks(end: float, most: int = 6) -> Iterator[tuple[float, str]]:
    """Round numbers of seconds from 0 to ``end``, at most ``most`` of them, each with its label.

    >>> list(ticks(1.3, 4))
    [(0.0, '0 s'), (0.5, '0.5 s'), (1.0, '1 s')]
    >>> list(ticks(7200.0, 3))
    [(0.0, '0 h'), (3600.0, '1 h'), (7200.0, '2 h')]
    """
    factor, unit = next((f, u) for f, u in _UNITS if end >= 2 * f or f == 1)
    for value in steps(end / factor, most):
        yield value * factor, f"{value:g} {unit}"


def steps(end: float, most: int) -> Iterator[float]:
    """Round numbers from 0 to ``end``, at most ``most`` of them.

    >>> list(steps(70, 5))
    [0.0, 20.0, 40.0, 60.0]
    """
    power = 10.0 ** floor(log10(end / most))
    step = next(
        power * factor for factor in (1, 2, 5, 10, 20) if floor(end / (power * factor)) < most
    )
    for number in range(floor(end / step) + 1):
        yield float(f"{number * step:.6g}")
