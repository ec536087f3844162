"""A timeline of attempts: one row each, with its wait, the time until its first text, the time
while text arrived, and how it ended.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Protocol

from .._printable import one_line
from . import text as draw
from .svg import HATCHED, bar, group, legend, picture, swatch, text, upright
from .text import columns, count, seconds, shorten, ticks

MOST_ROWS = 60

_PAUSE_DRAWN = 0.04


class Failure(Protocol):
    """The parts of an attempt's error that a timeline shows."""

    @property
    def retryable(self) -> bool: ...

    @property
    def status_code(self) -> int | None: ...


class TimedAttempt(Protocol):
    """The parts of an attempt that a timeline shows; ``llmproviders.Attempt`` has them."""

    @property
    def provider(self) -> str: ...

    @property
    def model(self) -> str | None: ...

    @property
    def started_at(self) -> float: ...

    @property
    def first_chunk_after(self) -> float | None: ...

    @property
    def duration(self) -> float: ...

    @property
    def error(self) -> Failure | None: ...

    @property
    def waited(self) -> float: ...

    @property
    def chunks(self) -> int: ...

    @property
    def overtaken(self) -> bool: ...


class AttemptOutcome(Enum):
    """How an attempt ended: its label in a legend, its colour, its ANSI colour."""

    WHOLE = ("whole reply", draw.GOOD, "32")
    CUT = ("cut after text", draw.HALF, "35")
    PASSING = ("failed, may pass", draw.PASSING, "33")
    FINAL = ("failed for good", draw.FINAL, "31")
    OVERTAKEN = ("another provider was faster", draw.IDLE, "90")

    def __init__(self, label: str, colour: str, ansi: str) -> None:
        self.label = label
        self.colour = colour
        self.ansi = ansi

    @classmethod
    def of(cls, attempt: TimedAttempt) -> AttemptOutcome:
        """The outcome of an attempt."""
        error = attempt.error
        if error is None:
            return cls.WHOLE
        if attempt.overtaken:
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
        first_text: when its first text arrived, or None.
        end: when it ended.
    """

    attempt: TimedAttempt
    outcome: AttemptOutcome
    wait: float
    start: float
    first_text: float | None
    end: float

    @property
    def who(self) -> str:
        """The provider, and the model if there is one."""
        a = self.attempt
        return one_line(f"{a.provider} · {a.model}" if a.model else a.provider)

    @property
    def verdict(self) -> str:
        """How it ended, in a few words."""
        a = self.attempt
        if a.error is None:
            what = "whole reply"
        elif self.outcome is AttemptOutcome.OVERTAKEN:
            what = self.outcome.label
        else:
            status = f" {a.error.status_code}" if a.error.status_code else ""
            what = type(a.error).__name__ + status
        pieces = f", {count(a.chunks, 'piece')}" if a.chunks else ""
        return f"{what}{pieces}, {seconds(a.duration)}"

    @property
    def story(self) -> str:
        """The whole attempt in one sentence."""
        a = self.attempt
        waited = f" after a wait of {seconds(a.waited)}" if a.waited else ""
        first = (
            "" if self.first_text is None else f", first text after {seconds(a.first_chunk_after)}"
        )
        why = "" if a.error is None else f" ({one_line(a.error)})"
        return f"{self.who}{waited}: {self.verdict}{first}{why}"


@dataclass(frozen=True)
class Timeline:
    """Attempts on one axis.

    Attributes:
        rows: the first ones, in order.
        more: how many attempts are not shown.
        pauses: long gaps that are drawn short: where each is, and its seconds.
    """

    rows: tuple[Row, ...]
    more: int = 0
    pauses: tuple[tuple[float, float], ...] = ()

    @classmethod
    def of(cls, attempts: Sequence[TimedAttempt], *, cut_pauses: bool = False) -> Timeline:
        """Put attempts on an axis.

        Args:
            attempts: in order.
            cut_pauses: whether to shorten the gaps between several calls.
        """
        found = _rows(attempts[:MOST_ROWS])
        more = len(attempts) - len(found)
        return _with_pauses_cut(found, more) if cut_pauses else cls(tuple(found), more)

    @property
    def end(self) -> float:
        """Where the axis ends, in seconds."""
        return max((row.end for row in self.rows), default=1.0)

    @property
    def outcomes(self) -> list[AttemptOutcome]:
        """The outcomes shown, in the order of a legend."""
        present = {row.outcome for row in self.rows}
        return [outcome for outcome in AttemptOutcome if outcome in present]

    @property
    def has_waits(self) -> bool:
        """Whether a wait is shown."""
        return any(row.attempt.waited > 0 for row in self.rows)

    @property
    def has_text(self) -> bool:
        """Whether a first text is shown."""
        return any(row.first_text is not None for row in self.rows)


def _rows(attempts: Sequence[TimedAttempt]) -> list[Row]:
    origin = min((a.started_at - a.waited for a in attempts), default=0.0)
    found = []
    for a in attempts:
        start = a.started_at - origin
        first = None if a.first_chunk_after is None else start + a.first_chunk_after
        found.append(
            Row(
                a,
                AttemptOutcome.of(a),
                start - a.waited,
                start,
                first,
                start + max(0.001, a.duration),
            )
        )
    return found


def _with_pauses_cut(found: list[Row], more: int) -> Timeline:
    in_time = sorted(found, key=lambda row: row.wait)
    gaps, busy, busy_until = [], 0.0, 0.0
    for row in in_time:
        gaps.append(max(0.0, row.wait - busy_until))
        busy += max(0.0, row.end - max(row.wait, busy_until))
        busy_until = max(busy_until, row.end)
    longest = busy * _PAUSE_DRAWN
    moved, pauses, cut = {}, [], 0.0
    for row, gap in zip(in_time, gaps, strict=True):
        if gap > 5 * longest:
            cut += gap - longest
            pauses.append((row.wait - cut - longest / 2, gap))
        moved[id(row)] = _earlier(row, cut)
    return Timeline(tuple(moved[id(row)] for row in found), more, tuple(pauses))


def _earlier(row: Row, by: float) -> Row:
    first = None if row.first_text is None else row.first_text - by
    return replace(
        row, wait=row.wait - by, start=row.start - by, first_text=first, end=row.end - by
    )


_WAIT, _PENDING, _TEXT, _FIRST, _AXIS, _TICK = "╱░█◆─├"


def timeline_text(
    attempts: Sequence[TimedAttempt], *, width: int = 100, colour: bool = False
) -> str:
    """Draw attempts as text.

    Args:
        attempts: of one call, in order.
        width: terminal columns to use.
        colour: whether to use ANSI colours.

    >>> from llmproviders import Attempt, ServerError
    >>> down = Attempt("GigaChat", None, 0.0, None, 0.5, ServerError("down", status_code=503))
    >>> good = Attempt("ChatGLM", None, 1.0, 0.5, 1.0, waited=0.5, chunks=7)
    >>> print(timeline_text([down, good], width=72))
    GigaChat ░░░░░░░░                          ServerError 503, 0.50 s
    ChatGLM          ╱╱╱╱╱╱╱╱░░░░░░░░░◆███████ whole reply, 7 pieces, 1.00 s
             ├0 s────────────├1 s─────────────
    ╱ wait  ░ no text yet  ◆ first text  █ text
    """
    timeline = Timeline.of(attempts)
    shown, end = timeline.rows, timeline.end
    if not shown:
        return "no attempt"
    left = min(max(columns(row.who) for row in shown), 30)
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


def _fit(words: str, width: int) -> str:
    while columns(words) > width:
        words = shorten(words, len(words) - 1)
    return words + " " * (width - columns(words))


_LEFT, _CHART, _RIGHT = 210, 400, 290

_WIDTH = _LEFT + _CHART + _RIGHT

_ROW, _BAR, _TOP, _MARGIN = 28, 14, 8, 12.0

_BREAK = "2 4"


def timeline_svg(
    attempts: Sequence[TimedAttempt], *, standalone: bool = False, cut_pauses: bool = False
) -> str:
    """Draw attempts as an SVG picture.

    Text takes the colour of the page around it, so it is readable in light and dark.

    Args:
        attempts: in order.
        standalone: whether it is a separate file, not part of a page; it then follows the reader's
            choice of light or dark.
        cut_pauses: whether to shorten the gaps between several calls.
    """
    timeline = Timeline.of(attempts, cut_pauses=cut_pauses)
    scale = _CHART / timeline.end
    bottom = _TOP + _ROW * len(timeline.rows)
    meanings, below = _legend(timeline, bottom + 44)
    body = (
        *(_tick(at * scale, label, bottom) for at, label in ticks(timeline.end)),
        *(_break(at * scale, gap, bottom) for at, gap in timeline.pauses),
        *(_svg_row(row, _TOP + _ROW * number, scale) for number, row in enumerate(timeline.rows)),
        meanings,
    )
    return picture(
        f"Timeline of {count(len(attempts), 'attempt')}",
        _story(timeline),
        "".join(body),
        width=_WIDTH,
        height=below + 16,
        standalone=standalone,
    )


def _story(timeline: Timeline) -> str:
    sentences = [row.story for row in timeline.rows]
    if timeline.more:
        sentences.append(f"{timeline.more} more")
    return ". ".join(sentences)


def _svg_row(row: Row, top: float, scale: float) -> str:
    middle = top + _ROW / 2
    y = middle - _BAR / 2
    x = _LEFT + row.start * scale
    width = max((row.end - row.start) * scale, 2.0)
    colour = row.outcome.colour
    parts = [text(_LEFT - 12, middle, shorten(row.who, 28), anchor="end")]
    if row.attempt.waited > 0:
        wait = _LEFT + row.wait * scale
        parts.append(bar(wait, y, x - wait, _BAR, HATCHED))
    # Paler until the first text arrives.
    parts.append(bar(x, y, width, _BAR, colour, pale=True))
    if row.first_text is not None:
        first = _LEFT + row.first_text * scale
        parts += [bar(first, y, x + width - first, _BAR, colour), _mark(first, middle)]
    parts.append(text(_LEFT + _CHART + 14, middle, shorten(row.verdict, 46)))
    return group(row.story, *parts)


def _mark(x: float, middle: float) -> str:
    """A pin, visible on every colour and on a bar of any length."""
    top, foot = middle - _BAR / 2 - 4, middle + _BAR / 2 + 2
    pin = upright(x, top, foot, opacity=1)
    return f'{pin}<circle cx="{x:.1f}" cy="{top:.1f}" r="2.5"/>'


def _tick(x: float, label: str, bottom: float) -> str:
    words = text(_LEFT + x, bottom + 12, label, anchor="middle", faint=True)
    return upright(_LEFT + x, _TOP, bottom) + words


def _break(x: float, gap: float, bottom: float) -> str:
    return group(f"nothing for {seconds(gap)}", _dashes(_LEFT + x, _TOP, bottom))


def _dashes(x: float, top: float, bottom: float) -> str:
    return upright(x, top, bottom, opacity=0.6, dashes=_BREAK)


def _legend(timeline: Timeline, middle: float) -> tuple[str, float]:
    """The legend, and the height of its last line."""
    entries: list[tuple[str, Callable[[float, float], str]]] = [
        (outcome.label, swatch(outcome.colour)) for outcome in timeline.outcomes
    ]
    if timeline.has_waits:
        entries.append(("wait", swatch(HATCHED)))
    entries.append(
        ("no text yet", lambda x, y: bar(x, y - _BAR / 2, 18, _BAR, draw.IDLE, pale=True))
    )
    if timeline.has_text:
        entries.append(("first text", lambda x, y: _mark(x + 9, y + 2)))
    if timeline.pauses:
        entries.append(("pause, cut short", lambda x, y: _dashes(x + 9, y - 9, y + 9)))
    return legend(entries, middle, width=_WIDTH, left=_MARGIN)
