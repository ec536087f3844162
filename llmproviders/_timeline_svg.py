"""A timeline as an SVG picture; pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from hashlib import sha256
from typing import TYPE_CHECKING

from . import _drawing as draw
from ._drawing import escape, seconds, shorten
from ._timeline import Row, Timeline

if TYPE_CHECKING:
    from .results import Attempt

_LEFT, _CHART, _RIGHT = 210, 400, 290
_WIDTH = _LEFT + _CHART + _RIGHT
_ROW, _BAR, _TOP, _MARGIN = 28, 14, 8, 12.0


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
    axis = "".join(_tick(at * scale, label, bottom) for at, label in draw.ticks(timeline.end))
    breaks = "".join(_break(at * scale, gap, bottom) for at, gap in timeline.pauses)
    body = "".join(_row(row, _TOP + _ROW * n, scale) for n, row in enumerate(timeline.rows))
    legend, below = _legend(timeline, bottom + 44)
    drawn = axis + breaks + body + legend
    height = below + 16
    key = sha256(drawn.encode()).hexdigest()[:8]
    return (
        f'<svg xmlns="{draw.SVG}" role="img" aria-labelledby="t{key} d{key}" '
        f'viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}" '
        'style="max-width:100%;height:auto" font-family="system-ui,sans-serif" font-size="12" '
        f'fill="currentColor"><title id="t{key}">'
        f"Timeline of {draw.count(len(attempts), 'attempt')}</title>"
        f'<desc id="d{key}">{escape(_story(timeline))}</desc>{_STYLE if standalone else ""}'
        f"<defs>{_HATCH.format(key=key)}</defs>{drawn}</svg>"
    ).replace("url(#hatch)", f"url(#h{key})")


def _story(timeline: Timeline) -> str:
    sentences = [row.story for row in timeline.rows]
    if timeline.more:
        sentences.append(f"{timeline.more} more")
    return ". ".join(sentences)


_STYLE = (
    "<style>:root{color:#1f2328}@media(prefers-color-scheme:dark){:root{color:#e6edf3}}</style>"
)
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


def _break(x: float, gap: float, bottom: float) -> str:
    return f"<g><title>nothing for {seconds(gap)}</title>{_dashes(_LEFT + x, _TOP, bottom)}</g>"


def _legend(timeline: Timeline, middle: float) -> tuple[str, float]:
    """What the colours and marks mean, and the height at which that ends."""
    entries: list[tuple[str, Callable[[float, float], str]]] = [
        (outcome.label, partial(_swatch, outcome.colour)) for outcome in timeline.outcomes
    ]
    if timeline.has_waits:
        entries.append(("wait", partial(_swatch, "url(#hatch)")))
    if timeline.has_text:
        entries.append(("first text", lambda x, y: _mark(x + 9, y + 2)))
    if timeline.pauses:
        entries.append(("pause, cut short", lambda x, y: _dashes(x + 9, y - 9, y + 9)))
    parts, x = [], _MARGIN
    for words, swatch in entries:
        width = 24 + 6.2 * len(words) + 16
        if x + width > _WIDTH:
            x, middle = _MARGIN, middle + 24
        parts.append(swatch(x, middle) + _text(x + 24, middle, words))
        x += width
    return "".join(parts), middle


def _swatch(fill: str, x: float, middle: float) -> str:
    return _rect(x, middle - _BAR / 2, 18, fill=fill)


def _dashes(x: float, top: float, bottom: float) -> str:
    return (
        f'<path d="M{x:.1f} {top:.1f}V{bottom:.1f}" '
        'stroke="currentColor" stroke-opacity="0.6" stroke-dasharray="2 4"/>'
    )
