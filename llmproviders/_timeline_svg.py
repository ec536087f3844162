"""A timeline as an SVG picture; pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ._drawing import count, seconds, shorten, ticks
from ._svg import HATCHED, bar, group, legend, picture, swatch, text, upright
from ._timeline import Row, Timeline

if TYPE_CHECKING:
    from .results import Attempt

_LEFT, _CHART, _RIGHT = 210, 400, 290
_WIDTH = _LEFT + _CHART + _RIGHT
_ROW, _BAR, _TOP, _MARGIN = 28, 14, 8, 12.0
_BREAK = "2 4"


def svg(attempts: Sequence[Attempt], *, standalone: bool = False, cut_pauses: bool = False) -> str:
    """Draw attempts as an SVG picture.

    Text takes the colour of the page around it, so that it is readable in light and dark.

    Args:
        attempts: in order.
        standalone: whether it is to be a file of its own, which has no page around it and
            follows the reader's choice of light or dark.
        cut_pauses: whether they are of several calls, so that pauses between them are cut short.
    """
    timeline = Timeline.of(attempts, cut_pauses=cut_pauses)
    scale = _CHART / timeline.end
    bottom = _TOP + _ROW * len(timeline.rows)
    meanings, below = _legend(timeline, bottom + 44)
    body = (
        *(_tick(at * scale, label, bottom) for at, label in ticks(timeline.end)),
        *(_break(at * scale, gap, bottom) for at, gap in timeline.pauses),
        *(_row(row, _TOP + _ROW * number, scale) for number, row in enumerate(timeline.rows)),
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


def _row(row: Row, top: float, scale: float) -> str:
    middle = top + _ROW / 2
    y = middle - _BAR / 2
    x = _LEFT + row.start * scale
    width = max((row.end - row.start) * scale, 2.0)
    colour = row.outcome.colour
    parts = [text(_LEFT - 12, middle, shorten(row.who, 28), anchor="end")]
    if row.attempt.waited > 0:
        wait = _LEFT + row.wait * scale
        parts.append(bar(wait, y, x - wait, _BAR, HATCHED))
    # Paler as long as no text has come.
    parts.append(bar(x, y, width, _BAR, colour, pale=True))
    if row.first_text is not None:
        first = _LEFT + row.first_text * scale
        parts += [bar(first, y, x + width - first, _BAR, colour), _mark(first, middle)]
    parts.append(text(_LEFT + _CHART + 14, middle, shorten(row.verdict, 46)))
    return group(row.story, *parts)


def _mark(x: float, middle: float) -> str:
    """A pin: visible on every colour, whatever is left of the bar."""
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
    """What the colours and marks mean, and the height at which that ends."""
    entries: list[tuple[str, Callable[[float, float], str]]] = [
        (outcome.label, swatch(outcome.colour)) for outcome in timeline.outcomes
    ]
    if timeline.has_waits:
        entries.append(("wait", swatch(HATCHED)))
    if timeline.has_text:
        entries.append(("first text", lambda x, y: _mark(x + 9, y + 2)))
    if timeline.pauses:
        entries.append(("pause, cut short", lambda x, y: _dashes(x + 9, y - 9, y + 9)))
    return legend(entries, middle, width=_WIDTH, left=_MARGIN)
