"""What is told: replies on standard output, everything else, and how much of it, on the other."""

from __future__ import annotations

import logging
import shutil
import sys
import textwrap
from collections.abc import Callable
from typing import Any

import click

from .. import _environment as _environ
from .._printable import one_line, printable
from .._redact import redact
from ..errors import Attempt
from ..results import FinishReason, Usage
from .exits import CommandError, Exit

_NAME = "llmproviders"

NOTHING = logging.CRITICAL + 1

NO_STDOUT = "standard output is closed; send it to a file, or to /dev/null"


def use_colour(stream: Any) -> bool:
    """Whether colour is wanted on ``stream``; https://no-color.org is heeded."""
    plain = _environ.lookup("NO_COLOR") is not None or _environ.lookup("TERM") == "dumb"
    return bool(stream.isatty()) and not plain


def _styled(text: str, stream: Any, style: dict[str, Any]) -> str:
    return click.style(text, **style) if style and use_colour(stream) else text


def wrapped(text: str, *, indent: str = "", hanging: str | None = None) -> str:
    """A paragraph in lines that fit the terminal; in one line where there is none.

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
    """Print on standard output, at once; a terminal gets nothing that it would obey."""
    shown = printable(text) if sys.stdout.isatty() else text
    print(_styled(shown, sys.stdout, style), end=end, flush=True)


def note(text: str, **style: Any) -> None:
    """Print on standard error, on lines of its own, nothing that a terminal would obey."""
    Line.make_room()
    print(_styled(printable(redact(text)), sys.stderr, style), file=sys.stderr, flush=True)


def say(message: str, **style: Any) -> None:
    """Tell the user something on standard error, after the program's name."""
    note(f"{_NAME}: {message}", **style)


def check_stdout() -> None:
    """Look whether there is a standard output, before anything is asked.

    Raises:
        CommandError: it is closed.
    """
    if not sys.stdout.writable():
        raise CommandError(NO_STDOUT, Exit.UNEXPECTED)


def tell(text: str) -> None:
    """Tell what belongs to a conversation on standard error."""
    note(text, dim=True)


class Line:
    """The reply on standard output; a line break ends it where the text has none."""

    _open: Line | None = None

    def __init__(self) -> None:
        self._begun = False
        self._obeyed = sys.stdout.isatty()

    def write(self, text: str) -> None:
        """Put out some text at once; a terminal gets nothing that it would obey."""
        try:
            sys.stdout.write(printable(text) if self._obeyed else text)
            sys.stdout.flush()
        except OSError:
            # Where this cannot be written, no line break can be either.
            self._begun = False
            raise
        self._begun = not text.endswith("\n")
        Line._open = self

    def close(self) -> None:
        """End the line, if one has begun."""
        if self._begun:
            self.write("\n")
        Line._open = None

    @classmethod
    def make_room(cls) -> None:
        """End the line of a reply that has begun, where a note would stand on it."""
        if cls._open is not None and sys.stdout.isatty() and sys.stderr.isatty():
            cls._open.close()


def usual_level() -> int:
    """From which level on logs are shown unless asked for: warnings, at a terminal alone."""
    return logging.WARNING if sys.stderr.isatty() else NOTHING


class _Log(logging.Handler):
    """Tells what is logged."""

    def emit(self, record: logging.LogRecord) -> None:
        """Tell it as it is told by the commands themselves."""
        say(self.format(record))


def show_logs(level: int) -> None:
    """Show what the library logs, and what Python warns of, from ``level`` on."""
    handler = _Log()
    logging.captureWarnings(True)
    for name in (_NAME, "py.warnings"):
        logger = logging.getLogger(name)
        logger.handlers[:] = [handler]
        logger.setLevel(level)


class Notes:
    """Tells how a call goes.

    Args:
        verbose: 0 tells warnings alone, and those only at a terminal, since cron mails what is
            printed; 1 each attempt; 2 all that the library logs.
        quiet: tell nothing but errors.
    """

    def __init__(self, *, verbose: int = 0, quiet: bool = False) -> None:
        self.verbose = 0 if quiet else verbose
        if self.verbose:
            self._level = logging.INFO if self.verbose == 1 else logging.DEBUG
        else:
            self._level = NOTHING if quiet else usual_level()
        show_logs(self._level)

    def warn(self, message: str) -> None:
        """Tell what is not an error, at a terminal or where more was asked for."""
        if self._level <= logging.WARNING:
            say(message, fg="yellow")

    def detail(self, message: str) -> None:
        """Tell what only those want to know who asked for more."""
        if self.verbose:
            say(message, dim=True)

    def tokens(self, usage: Usage | None) -> None:
        """Tell how many tokens a reply took, for those who asked."""
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
        """Tell of an attempt that has ended; to be a client's ``on_event``."""
        if self.verbose:
            say(described(attempt), dim=True)

    def reply(self, finish: FinishReason, *, allow_cut: bool = False, hint: str = "") -> None:
        """Tell how a reply ended.

        Args:
            finish: its end.
            allow_cut: whether one that ``max_tokens`` cut counts as whole.
            hint: what else can be done about such a one.
        """
        if finish.reason == "content_filter":
            why = f": {finish.detail}" if finish.detail else ""
            say(one_line(f"the filter of {finish.provider} stopped the reply{why}"))
        elif finish.reason == "length":
            tell_cut = self.warn if allow_cut else say
            tell_cut(
                "the reply is cut: it reached its largest length; raise --max-tokens for more"
                + ("" if allow_cut else hint)
            )
        if self.verbose:
            say(f"{finish.provider} answered{_tokens(finish.usage)}", dim=True)


class Trace:
    """Collects attempts, and draws them over time.

    Args:
        also: what else gets each attempt as it ends.
    """

    def __init__(self, also: Callable[[Attempt], object]) -> None:
        self._also = also
        self._attempts: list[Attempt] = []

    def add(self, attempt: Attempt) -> None:
        """Take an attempt that has ended; to be a client's ``on_event``."""
        self._attempts.append(attempt)
        self._also(attempt)

    def draw(self) -> None:
        """Draw them on standard error, as wide as the terminal."""
        from .._display.timeline import timeline_text as text

        in_order = sorted(self._attempts, key=lambda attempt: attempt.started_at)
        width = shutil.get_terminal_size((100, 24)).columns
        drawing = text(in_order, width=width, colour=use_colour(sys.stderr))
        Line.make_room()
        print(redact(drawing), file=sys.stderr, flush=True)


def described(attempt: Attempt) -> str:
    """An attempt in a line."""
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
