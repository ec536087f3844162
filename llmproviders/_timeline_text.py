"""A timeline in the characters of a terminal; pure."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ._drawing import shorten, ticks
from ._timeline import Row, Timeline

if TYPE_CHECKING:
    from .results import Attempt


@dataclass(frozen=True)
class Glyphs:
    """The characters of a drawing."""

    wait: str
    pending: str
    text: str
    first: str
    axis: str
    tick: str


BLOCKS = Glyphs("╱", "░", "█", "◆", "─", "├")
ASCII = Glyphs("/", "-", "#", "*", ".", "|")


def text(
    attempts: Sequence[Attempt],
    *,
    width: int = 100,
    colour: bool = False,
    glyphs: Glyphs = BLOCKS,
) -> str:
    """Draw attempts with characters.

    Args:
        attempts: of one call, in order.
        width: columns that it may take.
        colour: whether the terminal understands ANSI colours.
        glyphs: ``BLOCKS``, or ``ASCII`` where the terminal's encoding has no more.

    >>> from llmproviders import Attempt, ServerError
    >>> down = Attempt("GigaChat", None, 0.0, None, 0.5, ServerError("down", status_code=503))
    >>> good = Attempt("ChatGLM", None, 1.0, 0.5, 1.0, waited=0.5, chunks=7)
    >>> print(text([down, good], width=72, glyphs=ASCII))
    GigaChat --------                          ServerError 503, 0.50 s
    ChatGLM          ////////---------*####### whole reply, 7 pieces, 1.00 s
             |0 s............|1 s.............
    / wait  - no text yet  * first text  # text
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
        bar = _bar(row, chart, chart / end, glyphs)
        if colour:
            bar = f"\x1b[{row.outcome.ansi}m{bar}\x1b[0m"
        line = f"{_fit(row.who, left)} {bar} {shorten(row.verdict, right)}".rstrip()
        lines.append(_ascii(line) if glyphs is ASCII else line)
    if timeline.more:
        lines.append(f"{timeline.more} more")
    lines += [_scale(end, chart, left, glyphs), _key(timeline, glyphs)]
    return "\n".join(lines)


def _bar(row: Row, chart: int, scale: float, glyphs: Glyphs) -> str:
    def column(at: float) -> int:
        return min(round(at * scale), chart - 1)

    cells = [" "] * chart
    start = column(row.start)
    stop = max(min(round(row.end * scale), chart), start + 1)
    cells[column(row.wait) : start] = glyphs.wait * (start - column(row.wait))
    cells[start:stop] = glyphs.pending * (stop - start)
    if row.first_text is not None:
        first = min(column(row.first_text), stop - 1)
        cells[first:stop] = glyphs.first + glyphs.text * (stop - first - 1)
    return "".join(cells)


def _scale(end: float, chart: int, left: int, glyphs: Glyphs) -> str:
    cells = [glyphs.axis] * chart
    for at, label in ticks(end, max(2, chart // 8)):
        column = round(at * chart / end)
        words = glyphs.tick + label
        if column + len(words) <= chart:
            cells[column : column + len(words)] = words
    return f"{' ' * left} {''.join(cells)}"


def _key(timeline: Timeline, glyphs: Glyphs) -> str:
    words = []
    if timeline.has_waits:
        words.append(f"{glyphs.wait} wait")
    words.append(f"{glyphs.pending} no text yet")
    if timeline.has_text:
        words += [f"{glyphs.first} first text", f"{glyphs.text} text"]
    return "  ".join(words)


def _ascii(words: str) -> str:
    return words.replace("·", "/").replace("…", "~").encode("ascii", "replace").decode()


def _cells(words: str) -> int:
    """The columns that a terminal gives a text: two for each wide character."""
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in words)


def _fit(words: str, width: int) -> str:
    while _cells(words) > width:
        words = shorten(words, len(words) - 1)
    return words + " " * (width - _cells(words))
