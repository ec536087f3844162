"""A bar chart of counts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from .svg import bar, group, legend, level, picture, text
from .text import steps

WIDTH, LEFT, CHART = 900, 60, 820
"""The picture's width, and where the bars begin and how wide they are together, in pixels."""

TOP, HEIGHT = 44, 150

BOTTOM = TOP + HEIGHT


Stack = tuple[str, Sequence[tuple[str, int]]]


def stacked_bars(
    title: str,
    story: str,
    stacks: Sequence[Stack],
    marks: Iterable[str],
    meanings: Sequence[tuple[str, Callable[[float, float], str]]],
) -> str:
    """A bar chart of stacked counts.

    Args:
        title: what it is.
        story: what it shows, in words.
        stacks: a bar each, from left to right: its tooltip, and the fill and the height of each
            of its parts, from the bottom up; one of them is above zero.
        marks: further elements.
        meanings: the legend, as :func:`legend` takes it.
    """
    tallest = max(sum(number for _, number in stack) for _, stack in stacks)
    width = CHART / len(stacks)
    parts = []
    for at in filter(float.is_integer, steps(tallest, 4)):
        y = BOTTOM - HEIGHT * at / tallest
        parts.append(text(LEFT - 8, y, f"{at:,.0f}", anchor="end", faint=True))
        parts.append(level(y, LEFT, LEFT + CHART))
    for place, (words, stack) in enumerate(stacks):
        y = float(BOTTOM)
        told = []
        drawn = []
        for fill, number in stack:
            if number:
                height = HEIGHT * number / tallest
                y -= height
                drawn.append(bar(LEFT + width * place + 0.5, y, width - 1, height, fill))
                told.append(f"{number:,}")
        if drawn:
            parts.append(group(f"{words}: {' + '.join(told)}", *drawn))
    words, below = legend(meanings, BOTTOM + 36, width=WIDTH, left=float(LEFT))
    body = "".join([*parts, *marks, words])
    return picture(title, story, body, width=WIDTH, height=below + 16)
