"""Attempts over time, as a picture (SVG) and as characters for a terminal; pure.

Both have a row for each attempt: what it waited, the time until its first text, the time while
text came, and how it ended.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from hashlib import sha256
from typing import TYPE_CHECKING

from . import _drawing as draw
from ._drawing import escape, plain, seconds, shorten
from .errors import SLOWER

if TYPE_CHECKING:
    from .results import Attempt

_MOST_ROWS = 60


class Outcome(Enum):
    """How an attempt ended: its words in a legend, its colour, its ANSI colour."""

    WHOLE = ("whole reply", draw.GOOD, "32")
    CUT = ("cut after text", draw.HALF, "35")
    PASSING = ("failed, may pass", draw.PASSING, "33")
    FINAL = ("failed for good", draw.FINAL, "31")
    OVERTAKEN = (SLOWER, draw.IDLE, "90")

    def __init__(self, label: str, colour: str, ansi: str) -> None:
        self.label = label
        self.colour = colour
        self.ansi = ansi

    @classmethod
    def of(cls, attempt: Attempt) -> Outcome:
        """The outcome of an attempt."""
        error = attempt.error
        if error is None:
            return cls.WHOLE
        if str(error) == SLOWER:
            return cls.OVERTAKEN
        if attempt.first_chunk_after is not None:
            return cls.CUT
        return cls.PASSING if error.retryable else cls.FINAL


@dataclass(frozen=True)
class Row:
    """One attempt on an axis that begins with the first wait, in seconds.

    Attributes:
        attempt: the attempt.
        outcome: how it ended.
        wait: when the wait before it began.
        start: when it began.
        first_text: when its first text came, or None.
        end: when it ended.
    """

    attempt: Attempt
    outcome: Outcome
    wait: float
    start: float
    first_text: float | None
    end: float

    @property
    def who(self) -> str:
        """The provider, and the model where there is one."""
        a = self.attempt
        return plain(f"{a.provider} · {a.model}" if a.model else a.provider)

    @property
    def verdict(self) -> str:
        """How it ended, in a few words."""
        a = self.attempt
        if a.error is None:
            what = "whole reply"
        elif self.outcome is Outcome.OVERTAKEN:
            what = SLOWER
        else:
            status = f" {a.error.status_code}" if a.error.status_code else ""
            what = type(a.error).__name__ + status
        pieces = f", {count(a.chunks, 'piece')}" if a.chunks else ""
        return f"{what}{pieces}, {seconds(a.duration)}"

    @property
    def story(self) -> str:
        """All of it in a sentence."""
        a = self.attempt
        waited = f" after a wait of {seconds(a.waited)}" if a.waited else ""
        first = (
            "" if self.first_text is None else f", first text after {seconds(a.first_chunk_after)}"
        )
        why = "" if a.error is None else f" ({plain(a.error)})"
        return f"{self.who}{waited}: {self.verdict}{first}{why}"


def count(number: int, thing: str) -> str:
    """A number and its thing, in the plural where it takes one.

    >>> count(1, "piece"), count(2, "piece")
    ('1 piece', '2 pieces')
    """
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def rows(attempts: Sequence[Attempt]) -> list[Row]:
    """Put attempts on one axis."""
    origin = min((a.started_at - a.waited for a in attempts), default=0.0)
    found = []
    for a in attempts:
        start = a.started_at - origin
        first = None if a.first_chunk_after is None else start + a.first_chunk_after
        found.append(
            Row(a, Outcome.of(a), start - a.waited, start, first, start + max(0.001, a.duration))
        )
    return found


def title(attempts: Sequence[Attempt]) -> str:
    """What the picture is, in a few words."""
    return f"Timeline of {count(len(attempts), 'attempt')}"


_LEFT, _CHART, _RIGHT = 210, 400, 290
_WIDTH = _LEFT + _CHART + _RIGHT
_ROW, _BAR, _TOP = 28, 14, 8


def svg(attempts: Sequence[Attempt], *, standalone: bool = False) -> str:
    """Draw attempts as an SVG picture.

    Text takes the colour of the page around it, so that it is readable in light and dark.

    Args:
        attempts: of one call, in order.
        standalone: whether it is to be a file of its own, which has no page around it and
            follows the reader's choice of light or dark.
    """
    shown = rows(attempts[:_MOST_ROWS])
    end = max((row.end for row in shown), default=1.0)
    scale = _CHART / end
    bottom = _TOP + _ROW * len(shown)
    body = "".join(_row(row, _TOP + _ROW * n, scale) for n, row in enumerate(shown))
    axis = "".join(_tick(at * scale, label, bottom) for at, label in draw.ticks(end))
    legend, below = _legend(shown, bottom + 44)
    height = below + 16
    more = len(attempts) - len(shown)
    story = ". ".join(row.story for row in shown) + (f". {more} more." if more else "")
    key = sha256((body + axis).encode()).hexdigest()[:8]
    style = (
        "<style>:root{color:#1f2328}@media(prefers-color-scheme:dark){:root{color:#e6edf3}}</style>"
        if standalone
        else ""
    )
    return (
        f'<svg xmlns="{draw.SVG}" role="img" aria-labelledby="t{key} d{key}" '
        f'viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}" '
        'style="max-width:100%;height:auto" font-family="system-ui,sans-serif" font-size="12" '
        f'fill="currentColor"><title id="t{key}">{title(attempts)}</title>'
        f'<desc id="d{key}">{escape(story)}</desc>{style}<defs>{_HATCH.format(key=key)}</defs>'
        f"{axis}{body}{legend}</svg>"
    ).replace("url(#hatch)", f"url(#h{key})")


_HATCH = (
    '<pattern id="h{key}" width="6" height="6" patternUnits="userSpaceOnUse" '
    'patternTransform="rotate(45)"><rect width="2" height="6" fill="#808080"/></pattern>'
)


def _row(row: Row, top: float, scale: float) -> str:
    middle = top + _ROW / 2
    y = middle - _BAR / 2
    x = _LEFT + row.start * scale
    width = max((row.end - row.start) * scale, 2.0)
    colour = row.outcome.colour
    parts = [
        f"<g><title>{escape(row.story)}</title>",
        _text(_LEFT - 12, middle, shorten(row.who, 28), anchor="end"),
    ]
    if row.attempt.waited > 0:
        wait = _LEFT + row.wait * scale
        parts.append(_rect(wait, y, x - wait, fill="url(#hatch)"))
    # Paler as long as no text has come.
    parts.append(_rect(x, y, width, fill=colour, extra=f' fill-opacity="0.4" stroke="{colour}"'))
    if row.first_text is not None:
        first = _LEFT + row.first_text * scale
        parts += [_rect(first, y, x + width - first, fill=colour), _mark(first, middle)]
    parts.append(_text(_LEFT + _CHART + 14, middle, shorten(row.verdict, 46)))
    return "".join(parts) + "</g>"


def _rect(x: float, y: float, width: float, *, fill: str, extra: str = "") -> str:
    size = f'width="{max(width, 0):.1f}" height="{_BAR}"'
    return f'<rect x="{x:.1f}" y="{y:.1f}" {size} rx="2" fill="{fill}"{extra}/>'


def _text(x: float, middle: float, text: str, *, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{middle + 4:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _mark(x: float, middle: float) -> str:
    """A pin: visible on every colour, whatever is left of the bar."""
    top, foot = middle - _BAR / 2 - 4, middle + _BAR / 2 + 2
    return (
        f'<path d="M{x:.1f} {top:.1f}V{foot:.1f}" stroke="currentColor" stroke-width="1.5"/>'
        f'<circle cx="{x:.1f}" cy="{top:.1f}" r="2.5"/>'
    )


def _tick(x: float, label: str, bottom: float) -> str:
    at = _LEFT + x
    return (
        f'<path d="M{at:.1f} {_TOP}V{bottom}" stroke="currentColor" stroke-opacity="0.2"/>'
        f'<text x="{at:.1f}" y="{bottom + 16}" text-anchor="middle" opacity="0.75">{label}</text>'
    )


def _legend(shown: Sequence[Row], middle: float) -> tuple[str, float]:
    """What the colours and marks mean, and the height at which that ends."""
    present = {row.outcome for row in shown}
    swatches = [(outcome.colour, outcome.label) for outcome in Outcome if outcome in present]
    if any(row.attempt.waited > 0 for row in shown):
        swatches.append(("url(#hatch)", "wait"))
    parts, x = [], 12.0

    def entry(words: str) -> float:
        """Take the place for one more entry, on a new line where this one is full."""
        nonlocal x, middle
        width = 24 + 6.2 * len(words) + 16
        if x + width > _WIDTH:
            x, middle = 12.0, middle + 24
        at, x = x, x + width
        parts.append(_text(at + 24, middle, words))
        return at

    for fill, words in swatches:
        at = entry(words)
        parts.append(_rect(at, middle - _BAR / 2, 18, fill=fill))
    if any(row.first_text is not None for row in shown):
        at = entry("first text")
        parts.append(_mark(at + 9, middle + 2))
    return "".join(parts), middle


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
    shown = rows(attempts[:_MOST_ROWS])
    if not shown:
        return "no attempt"
    left = min(max(_cells(row.who) for row in shown), 30)
    right = min(max(len(row.verdict) for row in shown), 44)
    chart = max(width - left - right - 2, 10)
    end = max(row.end for row in shown)
    lines = []
    for row in shown:
        bar = _bar(row, chart, chart / end, glyphs)
        if colour:
            bar = f"\x1b[{row.outcome.ansi}m{bar}\x1b[0m"
        line = f"{_fit(row.who, left)} {bar} {shorten(row.verdict, right)}".rstrip()
        lines.append(_ascii(line) if glyphs is ASCII else line)
    if len(attempts) > len(shown):
        lines.append(f"{len(attempts) - len(shown)} more")
    lines += [_scale(end, chart, left, glyphs), _key(shown, glyphs)]
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
    for at, label in draw.ticks(end, max(2, chart // 8)):
        column = round(at * chart / end)
        words = glyphs.tick + label
        if column + len(words) <= chart:
            cells[column : column + len(words)] = words
    return f"{' ' * left} {''.join(cells)}"


def _key(shown: Sequence[Row], glyphs: Glyphs) -> str:
    words = []
    if any(row.attempt.waited > 0 for row in shown):
        words.append(f"{glyphs.wait} wait")
    words.append(f"{glyphs.pending} no text yet")
    if any(row.first_text is not None for row in shown):
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
