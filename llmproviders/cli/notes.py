"""Output: replies on standard output, everything else on standard error, and how much of it."""

from __future__ import annotations

import logging
import os
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any

import click

from .. import _display
from .. import _environment as _environ
from .._display.text import columns, count
from .._printable import one_line, printable
from .._redact import redact
from ..errors import Attempt, DeadlineExceeded, LLMError
from ..results import FinishReason, Restart, Usage
from .arguments import shown
from .exits import CommandError, Exit
from .rendered import MarkdownPage

_NAME = "llmproviders"

NOTHING = logging.CRITICAL + 1

NO_STDOUT = "standard output is closed; send it to a file, or to /dev/null"


def use_colour(stream: Any) -> bool:
    """Whether to use colour on ``stream``; follows https://no-color.org."""
    plain = _environ.lookup("NO_COLOR") is not None or _environ.lookup("TERM") == "dumb"
    return bool(stream.isatty()) and not plain


def _styled(text: str, stream: Any, style: dict[str, Any]) -> str:
    return click.style(text, **style) if style and use_colour(stream) else text


def wrapped(text: str, *, indent: str = "", hanging: str | None = None) -> str:
    """Wrap a paragraph to the terminal's width; one line without a terminal.

    Args:
        text: the paragraph.
        indent: what begins the first line.
        hanging: what begins the others; default: ``indent``.
    """
    if not sys.stdout.isatty():
        return indent + text
    return textwrap.fill(
        text,
        max(shutil.get_terminal_size((80, 24)).columns - 1, 20),
        initial_indent=indent,
        subsequent_indent=indent if hanging is None else hanging,
        break_long_words=False,
        break_on_hyphens=False,
    )


def put(text: str, *, end: str = "\n", **style: Any) -> None:
    """Print on standard output, unbuffered, with control characters escaped for a terminal."""
    text = shown(text)
    if sys.stdout.isatty():
        text = printable(text)
    print(_styled(text, sys.stdout, style), end=end, flush=True)


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows under a header, each column as wide as its widest cell."""
    lines = [[one_line(cell) for cell in row] for row in (header, *rows)]
    widths = [max(map(columns, column)) for column in zip(*lines, strict=True)]
    for number, row in enumerate(lines):
        cells = (
            cell + " " * (width - columns(cell)) for cell, width in zip(row, widths, strict=True)
        )
        style: dict[str, Any] = {"bold": True} if number == 0 else {}
        put("  ".join(cells).rstrip(), **style)


def note(text: str, **style: Any) -> None:
    """Print on standard error, on separate lines, with control characters escaped."""
    Line.make_room()
    print(_styled(printable(shown(redact(text))), sys.stderr, style), file=sys.stderr, flush=True)


def say(message: str, **style: Any) -> None:
    """Print a message on standard error, after the program's name."""
    note(f"{_NAME}: {message}", **style)


def check_stdout() -> None:
    """Check, before anything is sent, that standard output is open.

    Raises:
        CommandError: it is closed.
    """
    if not sys.stdout.writable():
        raise CommandError(NO_STDOUT, Exit.UNEXPECTED)


def tell(text: str) -> None:
    """Print a message that is part of a conversation on standard error."""
    note(text, dim=True)


class Line:
    """The reply on standard output; a line break is added if the text does not end with one.

    Args:
        markdown: whether to render it at a terminal, if rich is installed.
    """

    _open: Line | None = None

    def __init__(self, *, markdown: bool = False) -> None:
        self._begun = False
        self._obeyed = sys.stdout.isatty()
        self._page = _page() if markdown and use_colour(sys.stdout) else None

    def add(self, piece: str) -> None:
        """Write an item of a stream; for a ``Restart``, say that what came before it is void."""
        if isinstance(piece, Restart):
            self.close()
            tell(f"{piece.provider} broke off; what came of its reply is void.")
        elif piece:
            self.write(piece)

    def write(self, text: str) -> None:
        """Write text unbuffered, with control characters escaped for a terminal."""
        shown = printable(text) if self._obeyed else text
        self._put(shown if self._page is None else self._page.add(shown))
        self._begun = not text.endswith("\n")
        Line._open = self

    def _put(self, text: str) -> None:
        try:
            sys.stdout.write(text)
            sys.stdout.flush()
        except OSError:
            # If this cannot be written, neither can a line break.
            self._begun = False
            raise

    def close(self) -> None:
        """End the line, if one has begun."""
        if self._begun:
            self.write("\n")
        Line._open = None
        if self._page is not None:
            self._put(self._page.end())

    @classmethod
    def make_room(cls) -> None:
        """End the current line of a reply, if a note would be printed on it."""
        if cls._open is not None and _streams_meet():
            cls._open.close()


def _streams_meet() -> bool:
    """Whether both streams go to terminals, or to the same file or pipe (``> log 2>&1``)."""
    if sys.stdout.isatty() and sys.stderr.isatty():
        return True
    with suppress(OSError):
        return os.path.sameopenfile(sys.stdout.fileno(), sys.stderr.fileno())
    return False


def usual_level() -> int:
    """The default log level: errors, and warnings only at a terminal."""
    return logging.WARNING if sys.stderr.isatty() else logging.ERROR


def _page() -> MarkdownPage | None:
    with suppress(ImportError):
        return MarkdownPage()
    return None


class _Log(logging.Handler):
    """Prints log records."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print a record as the commands print messages."""
        say(self.format(record))


def show_logs(level: int) -> None:
    """Show the library's logs and Python's warnings, from ``level`` up."""
    handler = _Log()
    logging.captureWarnings(True)
    for name in (_NAME, "py.warnings"):
        logger = logging.getLogger(name)
        logger.handlers[:] = [handler]
        logger.setLevel(level)


class Notes:
    """Reports on a call.

    Args:
        verbose: 0 prints only errors, and at a terminal warnings, since cron mails all output; 1
            adds each attempt; 2 adds the library's log.
        quiet: print only errors.
    """

    def __init__(self, *, verbose: int = 0, quiet: bool = False) -> None:
        self.verbose = 0 if quiet else verbose
        if self.verbose:
            self._level = logging.INFO if self.verbose == 1 else logging.DEBUG
        else:
            self._level = logging.ERROR if quiet else usual_level()
        show_logs(self._level)

    def warn(self, message: str) -> None:
        """Print a warning, at a terminal or with -v."""
        if self._level <= logging.WARNING:
            say(message, fg="yellow")

    def tell(self, message: str) -> None:
        """Print a message that is part of a conversation, at a terminal or with -v."""
        if self._level <= logging.WARNING:
            tell(message)

    def detail(self, message: str) -> None:
        """Print a detail, only with -v."""
        if self.verbose:
            say(message, dim=True)

    def tokens(self, usage: Usage | None) -> None:
        """Print how many tokens a reply took."""
        if usage is None or usage.total_tokens is None:
            say("the service did not say how many tokens it took")
            return
        parts = [
            f"{count:,} {kind}"
            for count, kind in (
                (usage.prompt_tokens, "prompt"),
                (usage.completion_tokens, "completion"),
                (usage.reasoning_tokens, "reasoning"),
                (usage.cached_tokens, "cached"),
            )
            if count is not None
        ]
        say(f"{usage.total_tokens:,} tokens" + (f": {', '.join(parts)}" if parts else ""))

    def attempt(self, attempt: Attempt) -> None:
        """Print an attempt that has ended; used as ``on_event``."""
        if self.verbose:
            say(described(attempt), dim=True)

    def reply(self, finish: FinishReason, *, allow_cut: bool = False, hint: str = "") -> None:
        """Report how a reply ended.

        Args:
            finish: its end.
            allow_cut: whether one that ``max_tokens`` cut counts as whole.
            hint: other advice for a reply that was cut.
        """
        if finish.reason == "content_filter":
            why = f": {finish.detail}" if finish.detail else ""
            say(one_line(f"the filter of {finish.provider} stopped the reply{why}"))
        elif finish.reason == "length":
            tell_cut = self.warn if allow_cut else say
            tell_cut(
                "the reply is cut at its maximum length; raise --max-tokens for more"
                + ("" if allow_cut else hint)
            )
        if finish.images:
            drawn = count(len(finish.images), "picture")
            self.warn(f"the service drew {drawn}, not shown here; --json has the address of each")
        if self.verbose:
            say(f"{finish.provider} answered{_tokens(finish.usage)}", dim=True)


class Trace:
    """Collects attempts and draws them as a timeline.

    Args:
        also: another function that gets each attempt as it ends.
    """

    def __init__(self, also: Callable[[Attempt], object]) -> None:
        self._also = also
        self._attempts: list[Attempt] = []

    def add(self, attempt: Attempt) -> None:
        """Add an attempt that has ended; used as ``on_event``."""
        self._attempts.append(attempt)
        self._also(attempt)

    def draw(self) -> None:
        """Draw the timeline on standard error, as wide as the terminal."""
        in_order = sorted(self._attempts, key=lambda attempt: attempt.started_at)
        width = shutil.get_terminal_size((100, 24)).columns
        drawing = _display.timeline.timeline_text(
            in_order, width=width, colour=use_colour(sys.stderr)
        )
        Line.make_room()
        print(redact(drawing), file=sys.stderr, flush=True)


def explained(error: LLMError, providers: Iterable[str]) -> str:
    """The message of a call that failed.

    If the deadline passed, it has a line for each attempt, and for each of the ``providers`` that
        was not asked.
    """
    if not isinstance(error, DeadlineExceeded):
        return str(error)
    asked = {attempt.provider for attempt in error.attempts}
    lines = [described(attempt) for attempt in error.attempts]
    lines += [f"{name}: not asked" for name in providers if name not in asked]
    return "\n  ".join([f"{error}:", *lines]) if lines else str(error)


def described(attempt: Attempt) -> str:
    """An attempt as one line."""
    return one_line(_described(attempt))


def _described(attempt: Attempt) -> str:
    name = f"{attempt.provider} ({attempt.model})" if attempt.model else attempt.provider
    waited = f" after a wait of {attempt.waited:.2f} s" if attempt.waited >= 0.005 else ""
    if attempt.error is not None:
        kind = type(attempt.error).__name__
        return f"{name}{waited}: {kind} after {attempt.duration:.2f} s: {attempt.error}"
    first = attempt.first_chunk_after
    start = f", the first after {first:.2f} s" if first is not None else ""
    return f"{name}{waited}: {attempt.chunks} pieces in {attempt.duration:.2f} s{start}"


def _tokens(usage: Usage | None) -> str:
    if usage is None or usage.total_tokens is None:
        return ""
    return f": {usage.total_tokens} tokens"
