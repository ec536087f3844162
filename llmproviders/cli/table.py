"""Tables for standard output."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .._display.text import columns
from .._printable import one_line
from .notes import put

_HEAD: dict[str, Any] = {"bold": True}


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows under a header, each column as wide as its widest cell."""
    lines = [[one_line(cell) for cell in row] for row in (header, *rows)]
    widths = [max(map(columns, column)) for column in zip(*lines, strict=True)]
    for number, row in enumerate(lines):
        cells = (
            cell + " " * (width - columns(cell)) for cell, width in zip(row, widths, strict=True)
        )
        line = "  ".join(cells).rstrip()
        put(line, **_HEAD if number == 0 else {})
