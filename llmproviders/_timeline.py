"""Attempts over time: a row for each one, with what it waited, the time until its first text, the
time while text came, and how it ended; pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import TYPE_CHECKING

from . import _drawing as draw
from ._drawing import count, seconds
from ._printable import one_line
from .errors import SLOWER

if TYPE_CHECKING:
    from .results import Attempt

MOST_ROWS = 60
_PAUSE_DRAWN = 0.04


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
        return one_line(f"{a.provider} · {a.model}" if a.model else a.provider)

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
        why = "" if a.error is None else f" ({one_line(a.error)})"
        return f"{self.who}{waited}: {self.verdict}{first}{why}"


@dataclass(frozen=True)
class Timeline:
    """Attempts on one axis.

    Attributes:
        rows: the first ones, in order.
        more: how many there are besides.
        pauses: where nothing happened for so long that it is cut short: the place and the seconds.
    """

    rows: tuple[Row, ...]
    more: int = 0
    pauses: tuple[tuple[float, float], ...] = ()

    @classmethod
    def of(cls, attempts: Sequence[Attempt], *, cut_pauses: bool = False) -> Timeline:
        """Put attempts on an axis.

        Args:
            attempts: in order.
            cut_pauses: whether they are of several calls, between which nothing happened.
        """
        found = _rows(attempts[:MOST_ROWS])
        more = len(attempts) - len(found)
        return _with_pauses_cut(found, more) if cut_pauses else cls(tuple(found), more)

    @property
    def end(self) -> float:
        """Where the axis ends, in seconds."""
        return max((row.end for row in self.rows), default=1.0)

    @property
    def outcomes(self) -> list[Outcome]:
        """The outcomes that it shows."""
        present = {row.outcome for row in self.rows}
        return [outcome for outcome in Outcome if outcome in present]

    @property
    def has_waits(self) -> bool:
        """Whether a wait is shown."""
        return any(row.attempt.waited > 0 for row in self.rows)

    @property
    def has_text(self) -> bool:
        """Whether a first text is shown."""
        return any(row.first_text is not None for row in self.rows)


def _rows(attempts: Sequence[Attempt]) -> list[Row]:
    origin = min((a.started_at - a.waited for a in attempts), default=0.0)
    found = []
    for a in attempts:
        start = a.started_at - origin
        first = None if a.first_chunk_after is None else start + a.first_chunk_after
        found.append(
            Row(a, Outcome.of(a), start - a.waited, start, first, start + max(0.001, a.duration))
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
