"""Tables for standard output."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import Any

from .._printable import one_line
from .notes import put

_HEAD: dict[str, Any] = {"bold": True}


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows under a header, each column as wide as its widest cell."""
    lines = [[one_line(cell) for cell in row] for row in (header, *rows)]
    widths = [max(map(_width, column)) for column in zip(*lines, strict=True)]
    for number, row in enumerate(lines):
        cells = (
            cell + " " * (width - _width(cell)) for cell, width in zip(row, widths, strict=True)
        )
        line = "  ".join(cells).rstrip()
        put(line, **_HEAD if number == 0 else {})


def _width(text: str) -> int:
    """How many columns of a terminal a text takes."""
    return sum(2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text)
