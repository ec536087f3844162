"""Markdown at a terminal, rendered by rich."""

from __future__ import annotations

import re
import shutil
from functools import partial
from io import StringIO
from math import ceil

from .._display.text import columns

_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")

_MARKUP = re.compile(r"[*_`|~\[]|^ {0,3}(?:[#>+-]|\d+[.)] )", re.MULTILINE)


class MarkdownPage:
    """Text at a terminal: it appears as it arrives; each block is rendered once it is complete.

    Raises:
        ImportError: rich is not installed.
    """

    def __init__(self) -> None:
        # An extra, which only a reply at a terminal needs.
        from rich.console import Console
        from rich.markdown import Markdown

        self._console = partial(Console, file=StringIO(), force_terminal=True, highlight=False)
        # A link that a terminal opens could hide where it leads.
        self._markdown = partial(Markdown, hyperlinks=False)
        self._block = ""

    def add(self, text: str) -> str:
        """What to write for some more text, which is printable."""
        self._block += text
        whole = _whole_blocks(self._block)
        return text + (self._redraw(whole) if whole else "")

    def end(self) -> str:
        """What to write at the end of the text, after its last line break."""
        return self._redraw(len(self._block))

    def _redraw(self, length: int) -> str:
        """Replace the first ``length`` characters, which are on the screen, by what they mean."""
        shown, block = self._block, self._block[:length]
        self._block = shown[length:]
        width, height = shutil.get_terminal_size()
        up = sum(max(1, ceil(columns(line) / width)) for line in shown.split("\n")) - 1
        # Text that has scrolled off the screen cannot be replaced.
        if not _MARKUP.search(block) or up >= height:
            return ""
        start = f"\r\x1b[{up}A" if up else "\r"
        space = "\n" * (len(block) - len(block.rstrip("\n")))
        return f"{start}\x1b[J{self._rendered(block, width)}{space}{self._block}"

    def _rendered(self, text: str, width: int) -> str:
        console = self._console(width=width)
        with console.capture() as captured:
            console.print(self._markdown(text))
        return re.sub(r" +$", "", captured.get(), flags=re.MULTILINE).strip("\n")


def _whole_blocks(text: str) -> int:
    r"""The length of the blocks in ``text`` that no later text can change.

    >>> _whole_blocks("One.\n\nTwo"), _whole_blocks("- One\n\n  Two")
    (6, 0)
    """
    fence, end, blank, at = "", 0, 0, 0
    for line in text.splitlines(keepends=True):
        # An indented block continues the list before it.
        if blank and not line[0].isspace():
            end, blank = blank, 0
        at += len(line)
        found = _FENCE.match(line)
        if found and not fence:
            fence = found[1]
        elif fence and found and found[1].startswith(fence):
            fence = ""
        elif not fence and line == "\n":
            blank = at
    return end
