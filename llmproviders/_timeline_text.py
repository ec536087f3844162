"""A timeline in the characters of a terminal; pure."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ._drawing import shorten, ticks
from ._timeline import Row, Timeline

if TYPE_CHECKING:
    from .results import Attempt


_WAIT, _PENDING, _TEXT, _FIRST, _AXIS, _TICK = "╱░█◆─├"


def text(attempts: Sequence[Attempt], *, width: int = 100, colour: bool = False) -> str:
    """Draw attempts with characters.

    Args:
        attempts: of one call, in order.
        width: columns that it may take.
        colour: whether the terminal understands ANSI colours.

    >>> from llmproviders import Attempt, ServerError
    >>> down = Attempt("GigaChat", None, 0.0, None, 0.5, ServerError("down", status_code=503))
    >>> good = Attempt("ChatGLM", None, 1.0, 0.5, 1.0, waited=0.5, chunks=7)
    >>> print(text([down, good], width=72))
    GigaChat ░░░░░░░░                          ServerError 503, 0.50 s
    ChatGLM          ╱╱╱╱╱╱╱╱░░░░░░░░░◆███████ whole reply, 7 pieces, 1.00 s
             ├0 s────────────├1 s─────────────
    ╱ wait  ░ no text yet  ◆ first text  █ text
    """
    timeline = Timeline.of(attempts)
    shown, end = timeline.rows, timeline.end
    if not shown:
        return "no attempt"
    left = min(max(_cells(row.who) for row in shown), 30)
    right = min(max(len(row.verdict) for row in shown), 44)
    chart = max(width - left - right - 2, 10)
    lines = []
    for row in shown:
        bar = _bar(row, chart, chart / end)
        if colour:
            bar = f"\x1b[{row.outcome.ansi}m{bar}\x1b[0m"
        lines.append(f"{_fit(row.who, left)} {bar} {shorten(row.verdict, right)}".rstrip())
    if timeline.more:
        lines.append(f"{timeline.more} more")
    lines += [_scale(end, chart, left), _key(timeline)]
    return "\n".join(lines)


def _bar(row: Row, chart: int, scale: float) -> str:
    def column(at: float) -> int:
        return min(round(at * scale), chart - 1)

    cells = [" "] * chart
    start = column(row.start)
    stop = max(min(round(row.end * scale), chart), start + 1)
    cells[column(row.wait) : start] = _WAIT * (start - column(row.wait))
    cells[start:stop] = _PENDING * (stop - start)
    if row.first_text is not None:
        first = min(column(row.first_text), stop - 1)
        cells[first:stop] = _FIRST + _TEXT * (stop - first - 1)
    return "".join(cells)


def _scale(end: float, chart: int, left: int) -> str:
    cells = [_AXIS] * chart
    for at, label in ticks(end, max(2, chart // 8)):
        column = round(at * chart / end)
        words = _TICK + label
        if column + len(words) <= chart:
            cells[column : column + len(words)] = words
    return f"{' ' * left} {''.join(cells)}"


def _key(timeline: Timeline) -> str:
    words = []
    if timeline.has_waits:
        words.append(f"{_WAIT} wait")
    words.append(f"{_PENDING} no text yet")
    if timeline.has_text:
        words += [f"{_FIRST} first text", f"{_TEXT} text"]
    return "  ".join(words)


def _cells(words: str) -> int:
    """The columns that a terminal gives a text: two for each wide character."""
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in words)


def _fit(words: str, width: int) -> str:
    while _cells(words) > width:
        words = shorten(words, len(words) - 1)
    return words + " " * (width - _cells(words))
