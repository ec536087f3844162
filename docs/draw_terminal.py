"""Records the demo at a terminal as an animated picture: ``python docs/draw_terminal.py``."""

from __future__ import annotations

import os
import pty
import re
import sys
import tempfile
import time
from collections.abc import Iterator
from html import escape
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

PICTURE = Path(__file__).parent / "_static" / "demo.svg"

COLUMNS, ROWS = 92, 10
CELL, LINE, EDGE, BAR = 7.8, 18, 16, 30
TYPED_S, LAST_S = 0.7, 6.0
FRAMES_A_SECOND = 20

STYLES = {"1": "b", "2": "d", "32": "g", "33": "y", "36": "c"}
"""SGR code -> class."""

CSS = """\
:root{--page:#f6f8fa;--edge:#d0d7de;--ink:#1f2328;--dim:#636c76;--green:#116329;--amber:#8a4600;\
--blue:#0b5cad}
@media(prefers-color-scheme:dark){:root{--page:#161b22;--edge:#3d444d;--ink:#e6edf3;--dim:#9198a1;\
--green:#56d364;--amber:#e3b341;--blue:#79c0ff}}
text{fill:var(--ink);white-space:pre;font:13px ui-monospace,SFMono-Regular,Menlo,Consolas,\
"DejaVu Sans Mono","Liberation Mono",monospace}
.b{font-weight:700}.d{fill:var(--dim)}.g{fill:var(--green)}.y{fill:var(--amber)}.c{fill:var(--blue)}
@media(prefers-reduced-motion:reduce){*{animation:none!important}}
"""


class Run(NamedTuple):
    """Some text of one style that appeared at once, and where."""

    at_s: float
    row: int
    column: int
    style: str
    text: str


def main() -> None:
    """Run the demo and write the picture."""
    PICTURE.write_text(picture(list(screen(recorded()))), encoding="utf-8")


def recorded() -> list[tuple[float, str]]:
    """The demo's output at a terminal, each piece with the time in seconds when it was printed."""
    # As wide as the picture; independent of the user's folders and keys.
    size = {"COLUMNS": str(COLUMNS), "LINES": str(ROWS), "TERM": "xterm-256color"}
    with tempfile.TemporaryDirectory() as home:
        child, terminal = pty.fork()
        if child == 0:
            command = [sys.executable, "-m", "llmproviders", "demo"]
            path = os.pathsep.join(filter(None, sys.path))
            settings = {"HOME": home, "PYTHONPATH": path, **size}
            os.execve(sys.executable, command, settings)  # noqa: S606
        begin, pieces, data = 0.0, [], b""
        while True:
            try:
                read = os.read(terminal, 65536)
            except OSError:  # on Linux: the other end was closed
                read = b""
            if not read:
                break
            begin = begin or time.monotonic()
            data += read
            text = data.decode(errors="ignore")
            data = data[len(text.encode()) :]
            pieces.append((TYPED_S + time.monotonic() - begin, text))
        _, status = os.waitpid(child, 0)
    if status:
        raise SystemExit("the demo failed")
    return [(0.0, "\x1b[2m$\x1b[0m llmproviders demo\n"), *pieces]


def screen(pieces: list[tuple[float, str]]) -> Iterator[Run]:
    """Lay text out in rows as wide as the terminal."""
    row = column = 0
    style = ""
    for at_s, text in pieces:
        for word in re.findall(r"\x1b\[[\d;]*m|\r|\n|[^\x1b\r\n]+", text):
            if word == "\n":
                row, column = row + 1, 0
            elif word == "\r":
                column = 0
            elif word.startswith("\x1b"):
                codes = word[2:-1].split(";")
                style = " ".join(STYLES[code] for code in codes if code in STYLES)
            while word.isprintable() and word:
                if column == COLUMNS:
                    row, column = row + 1, 0
                part, word = word[: COLUMNS - column], word[COLUMNS - column :]
                yield Run(round(at_s * FRAMES_A_SECOND) / FRAMES_A_SECOND, row, column, style, part)
                column += len(part)


def picture(runs: list[Run]) -> str:
    """Draw each text at its time; without animation, the last screen."""
    moments = sorted({run.at_s for run in runs})
    lasts_s = moments[-1] + LAST_S
    shares = {at_s: f"{100 * at_s / lasts_s:.2f}%" for at_s in moments}
    css = [CSS]
    for number, at_s in enumerate(moments[1:], 1):
        css.append(
            f"@keyframes k{number}{{0%{{visibility:hidden}}{shares[at_s]}{{visibility:visible}}}}"
            f".k{number}{{animation:k{number} {lasts_s:.2f}s step-end infinite}}\n"
        )
    last = max(run.row for run in runs)
    scrolled = {run.row: run.at_s for run in reversed(runs) if run.row >= ROWS}
    up = {at_s: (row - ROWS + 1) * LINE for row, at_s in sorted(scrolled.items())}
    steps = "".join(f"{shares[at_s]}{{transform:translateY({-y}px)}}" for at_s, y in up.items())
    end = max(0, last - ROWS + 1) * LINE
    css.append(
        f"@keyframes up{{0%{{transform:none}}{steps}}}\n"
        f".up{{transform:translateY({-end}px);animation:up {lasts_s:.2f}s step-end infinite}}"
    )
    names = {at_s: f"k{number}" if number else "" for number, at_s in enumerate(moments)}
    lines = []
    for key, same in groupby(runs, key=lambda run: (run.at_s, run.row, run.style)):
        (at_s, row, style), here = key, list(same)
        kind = " ".join(filter(None, (style, names[at_s])))
        said = "".join(run.text for run in here)
        words, long = escape(said, quote=False), len(said) * CELL
        x, y = EDGE + here[0].column * CELL, BAR + LINE * (row + 0.8)
        lines.append(
            f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" textLength="{long:.1f}">{words}</text>'
        )
    width, height = round(2 * EDGE + COLUMNS * CELL), BAR + ROWS * LINE + EDGE
    story = escape(" ".join(run.text for run in runs), quote=False)
    dots = "".join(
        f'<circle cx="{20 + 18 * number}" cy="16" r="5.5" fill="{colour}"/>'
        for number, colour in enumerate(("#ff5f57", "#febc2e", "#28c840"))
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-labelledby="t d" '
        f'viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'xml:space="preserve">'
        '<title id="t">llmproviders demo, recorded at a terminal</title>'
        f'<desc id="d">{story}</desc>\n<style>\n{"".join(css)}\n</style>\n'
        f'<rect x=".5" y=".5" width="{width - 1}" height="{height - 1}" rx="8" '
        f'fill="var(--page)" stroke="var(--edge)"/>{dots}'
        f'<clipPath id="s"><rect y="{BAR}" width="{width}" height="{ROWS * LINE + 4}"/></clipPath>'
        f'<g clip-path="url(#s)"><g class="up">\n' + "\n".join(lines) + "\n</g></g></svg>\n"
    )


if __name__ == "__main__":
    main()
