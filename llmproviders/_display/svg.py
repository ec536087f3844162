"""Elements of SVG pictures that take the colours of the page around them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import sha256

from .text import escape

HATCHED = "url(#hatch)"
"""The fill of time that was spent waiting."""


_STYLE = (
    "<style>:root{color:#1f2328}@media(prefers-color-scheme:dark){:root{color:#e6edf3}}</style>"
)

_HATCH = (
    '<pattern id="h{key}" width="6" height="6" patternUnits="userSpaceOnUse" '
    'patternTransform="rotate(45)"><rect width="2" height="6" fill="#808080"/></pattern>'
)


def picture(
    title: str, story: str, body: str, *, width: float, height: float, standalone: bool = False
) -> str:
    """A whole picture, with a text alternative.

    Args:
        title: what it is.
        story: what it shows, in words.
        body: its elements.
        width: in pixels; a narrower page makes it smaller.
        height: in pixels.
        standalone: whether it is a separate file, which follows the reader's choice of light or
            dark.
    """
    # All pictures of a page share one set of ids, so an id is a hash of the content.
    key = sha256(f"{title}{story}{body}".encode()).hexdigest()[:8]
    hatch = f"<defs>{_HATCH.format(key=key)}</defs>" if HATCHED in body else ""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-labelledby="t{key} d{key}" '
        f'viewBox="0 0 {width:g} {height:g}" width="{width:g}" height="{height:g}" '
        'style="max-width:100%;height:auto" font-family="system-ui,sans-serif" font-size="12" '
        f'fill="currentColor"><title id="t{key}">{escape(title)}</title>'
        f'<desc id="d{key}">{escape(story)}</desc>{_STYLE if standalone else ""}{hatch}'
        f"{body.replace(HATCHED, f'url(#h{key})')}</svg>"
    )


def group(title: str, *elements: str) -> str:
    """Elements with a tooltip."""
    return f"<g><title>{escape(title)}</title>{''.join(elements)}</g>"


def text(x: float, middle: float, words: str, *, anchor: str = "start", faint: bool = False) -> str:
    """Words at ``x``, centred on the height ``middle``."""
    opacity = ' opacity="0.75"' if faint else ""
    return (
        f'<text x="{x:.1f}" y="{middle + 4:.1f}" text-anchor="{anchor}"{opacity}>'
        f"{escape(words)}</text>"
    )


def bar(x: float, y: float, width: float, height: float, fill: str, *, pale: bool = False) -> str:
    """A rectangle; a pale one has an outline."""
    edge = f' fill-opacity="0.4" stroke="{fill}"' if pale else ""
    size = f'width="{max(width, 0):.1f}" height="{max(height, 0):.1f}"'
    return f'<rect x="{x:.1f}" y="{y:.1f}" {size} rx="2" fill="{fill}"{edge}/>'


def upright(x: float, top: float, bottom: float, *, opacity: float = 0.2, dashes: str = "") -> str:
    """A thin line from ``top`` to ``bottom``."""
    dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
    return (
        f'<path d="M{x:.1f} {top:.1f}V{bottom:.1f}" stroke="currentColor" '
        f'stroke-opacity="{opacity:g}"{dashed}/>'
    )


def level(y: float, left: float, right: float) -> str:
    """A faint line from ``left`` to ``right``."""
    return f'<path d="M{left:.1f} {y:.1f}H{right:.1f}" stroke="currentColor" stroke-opacity="0.2"/>'


def legend(
    entries: Sequence[tuple[str, Callable[[float, float], str]]],
    middle: float,
    *,
    width: float,
    left: float,
) -> tuple[str, float]:
    """A legend, on as many lines as it needs.

    Args:
        entries: each a label, and a function that draws its sample at an x and a middle height.
        middle: the height of the first line.
        width: of the picture.
        left: where each line starts.

    Returns:
        The elements, and the height of the last line.
    """
    parts, x = [], left
    for words, draw in entries:
        taken = 40 + 6.2 * len(words)
        if x + taken > width:
            x, middle = left, middle + 24
        parts.append(draw(x, middle) + text(x + 24, middle, words))
        x += taken
    return "".join(parts), middle


def swatch(fill: str) -> Callable[[float, float], str]:
    """A function that draws a patch of colour, for :func:`legend`."""
    return lambda x, middle: bar(x, middle - 7, 18, 14, fill)
