"""Draw the wings of the package and what each imports: ``python docs/draw_house.py``.

The order of the rows is that of the list in ``contributing/house.md``; the lines are read from the
imports at the top of the modules.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from pathlib import Path

DOCS = Path(__file__).parent
PACKAGE = DOCS.parent / "llmproviders"
PICTURE = DOCS / "_static" / "house.svg"

WIDTH, ROW, BOX, GAP = 900, 62, 30, 14
COLUMNS = (0.5, 0.24, 0.76)
EVERYWHERE = {"errors", "_checks", "_environment", "_redact", "_log", "_signals", "_printable"}
"""Imported by nearly all modules; lines to these would hide the others."""

STYLE = """
  text { font: 13px system-ui, sans-serif; text-anchor: middle; fill: #1f2937; }
  rect { fill: #e0ecff; stroke: #3b6fb6; }
  rect.wing { fill: #cfe8d5; stroke: #2f7d4f; }
  path { fill: none; stroke: #8a94a6; stroke-opacity: .7; }
  @media (prefers-color-scheme: dark) {
    text { fill: #e5e7eb; }
    rect { fill: #1e3250; }
    rect.wing { fill: #1d4030; }
  }
"""


def rows() -> list[list[str]]:
    """The wings in the order of the page, those that import the others first."""
    page = (DOCS / "contributing" / "house.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```text\n(.*?)```", page, re.DOTALL)
    return [line.split() for line in reversed(block.splitlines())]


def imports() -> Counter[tuple[str, str]]:
    """How many modules of one wing import another wing, by both their names."""
    found: Counter[tuple[str, str]] = Counter()
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        depth = len(parts) - 1
        wing = parts[0]
        seen = set()
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if not isinstance(node, ast.ImportFrom):
                continue
            if node.level == depth + 1:
                names = [node.module] if node.module else [alias.name for alias in node.names]
            elif node.module and node.module.startswith("llmproviders."):
                names = [node.module.partition(".")[2]]
            else:
                continue
            seen |= {str(name).partition(".")[0] for name in names}
        found.update((wing, other) for other in seen - {wing})
    return found


def draw() -> str:
    """The picture as SVG."""
    places: dict[str, tuple[float, float, float]] = {}
    boxes = []
    for number, row in enumerate(rows()):
        widths = [26 + 8 * len(name) for name in row]
        x = COLUMNS[number % 3] * WIDTH - (sum(widths) + GAP * (len(row) - 1)) / 2
        y = 10 + number * ROW
        for name, width in zip(row, widths, strict=True):
            places[name] = (x + width / 2, y, width)
            kind = ' class="wing"' if (PACKAGE / name).is_dir() else ""
            boxes.append(
                f'<rect{kind} x="{x:.0f}" y="{y}" width="{width}" height="{BOX}" rx="6"/>'
                f'<text x="{x + width / 2:.0f}" y="{y + 20}">{name}</text>'
            )
            x += width + GAP
    lines = []
    for (above, below), count in sorted(imports().items()):
        if above in places and below in places and below not in EVERYWHERE:
            (x1, y1, _), (x2, y2, _) = places[above], places[below]
            bend = (y2 - y1 - BOX) / 2
            lines.append(
                f'<path d="M{x1:.0f} {y1 + BOX} C{x1:.0f} {y1 + BOX + bend:.0f} '
                f'{x2:.0f} {y2 - bend:.0f} {x2:.0f} {y2}" '
                f'stroke-width="{min(1 + count / 4, 5):.1f}"/>'
            )
    height = 10 + ROW * len(rows())
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}">'
        f"<style>{STYLE}</style>{''.join(lines)}{''.join(boxes)}</svg>\n"
    )


if __name__ == "__main__":
    PICTURE.write_text(draw(), encoding="utf-8")
