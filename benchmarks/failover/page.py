"""Puts the figures into a page of the documentation."""

from __future__ import annotations

import re
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"


def fill(page: str, name: str, content: str) -> None:
    """Write ``content`` between the marks ``<!-- name -->`` and ``<!-- /name -->`` of a page."""
    path = DOCS / page
    between = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
    text, found = between.subn(lambda marks: f"{marks[1]}{content}\n{marks[2]}", path.read_text())
    if not found:
        raise ValueError(f"{page} has no place for {name}")
    path.write_text(text)
