"""Where a reply is shown: in a notebook, or on standard output."""

from __future__ import annotations

import sys
from collections.abc import Callable
from io import StringIO
from typing import Any, Protocol, TextIO

from .._display.markdown import harmless
from .._display.text import escape, in_notebook, seconds
from .._printable import one_line, printable
from .._runtime.scope import Clock
from ..results import Image

SHORTEST_INTERVAL_S = 0.1

_CHARACTERS_A_SECOND = 100_000
"""Each update sends the whole text, and a notebook server drops data beyond its rate limit."""


def put(item: object) -> None:
    """Display something with IPython."""
    from IPython.display import display

    show: Callable[..., Any] = display
    show(item)


class DisplayPlace(Protocol):
    """A place where one reply is shown as it grows."""

    def begin(self) -> None:
        """The request is about to be sent."""

    def add(self, piece: str) -> None:
        """More text has arrived."""

    def restart(self, provider: str) -> None:
        """``provider`` broke off, and the reply starts over: drop the text so far."""

    def end(self, note: str) -> None:
        """The reply has ended; ``note`` describes it."""

    def draw(self, image: Image) -> None:
        """Show an image of the reply below it."""


def display_place(clock: Clock) -> DisplayPlace:
    """The notebook's page if there is one, else standard output."""
    if not in_notebook():
        # Without a console there is none, and print() does nothing.
        return Terminal(sys.stdout or StringIO())
    from IPython.display import display

    return NotebookDisplay(display, clock)


class NotebookDisplay:
    """One display in a notebook, updated as the text grows.

    Args:
        display: IPython's function of that name.
        clock: decides when the next update is due.
    """

    def __init__(self, display: Callable[..., Any], clock: Clock) -> None:
        self._display = display
        self._clock = clock
        self._handle: Any = None
        self._text: list[str] = []
        self._began = self._due = clock.monotonic()

    def begin(self) -> None:
        """Show that a reply is on its way."""
        self._update("waiting for the first text")
        self._due = self._began

    def add(self, piece: str) -> None:
        """Add to the text, and update the display if that is due."""
        self._text.append(piece)
        if self._clock.monotonic() >= self._due:
            self._update(self._so_far())

    def restart(self, provider: str) -> None:
        """Clear the text."""
        self._text.clear()
        self._update(f"{provider} broke off; its text was dropped, and the reply starts over")

    def end(self, note: str) -> None:
        """Show the whole text and the note."""
        plain_text = "\n\n".join(filter(None, ("".join(self._text), note)))
        # jupyter console writes this to its terminal.
        self._update(note, {"text/plain": printable(plain_text)})

    def draw(self, image: Image) -> None:
        """Show it in a display of its own."""
        self._display(image)

    def _so_far(self) -> str:
        return f"{seconds(self._clock.monotonic() - self._began)} …"

    def _update(self, note: str, also: dict[str, str] | None = None) -> None:
        text = "".join(self._text)
        below = f"\n\n<div><small>{escape(note)}</small></div>" if note else ""
        bundle = {"text/markdown": harmless(text) + below, **(also or {})}
        if self._handle is None:
            self._handle = self._display(bundle, raw=True, display_id=True)
        else:
            self._handle.update(bundle, raw=True)
        interval = max(SHORTEST_INTERVAL_S, len(text) / _CHARACTERS_A_SECOND)
        self._due = self._clock.monotonic() + interval


class Terminal:
    """Writes each piece to a text stream as it arrives.

    Args:
        stream: the stream; characters that its encoding does not have are escaped, and on a
            terminal control characters too.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._is_terminal = stream.isatty()
        self._ended = True

    def begin(self) -> None:
        """Show nothing yet."""

    def add(self, piece: str) -> None:
        """Write the piece."""
        self._write(printable(piece) if self._is_terminal else piece)
        self._ended = piece.endswith("\n")

    def restart(self, provider: str) -> None:
        """Write a line that says so; written text cannot be removed."""
        self._line(f"[{one_line(provider)} broke off; the text above is void]")

    def end(self, note: str) -> None:
        """End the line, and write the note."""
        self._line(f"[{one_line(note)}]" if note else "")

    def draw(self, image: Image) -> None:
        """Write its name."""
        self._line(f"[image: {one_line(image.id)[:80]}]")

    def _line(self, words: str) -> None:
        lines = ("" if self._ended else "\n") + (f"{words}\n" if words else "")
        self._write(lines)
        self._ended = True

    def _write(self, text: str) -> None:
        try:
            self._stream.write(text)
        except UnicodeEncodeError:
            encoding = self._stream.encoding
            self._stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
        self._stream.flush()
