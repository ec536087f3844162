"""What is told: replies on standard output, everything else, and how much of it, on the other."""

from __future__ import annotations

import logging
import shutil
import sys
from collections.abc import Callable
from typing import Any

import click

from .. import _environ
from .._redact import redact
from ..results import Attempt, FinishReason, Usage

_NAME = "llmproviders"
NOTHING = logging.CRITICAL + 1


def use_colour(stream: Any) -> bool:
    """Whether colour is wanted on ``stream``; https://no-color.org is heeded."""
    return bool(stream.isatty()) and _environ.lookup("NO_COLOR") is None


def styled(text: str, stream: Any, **style: Any) -> str:
    """``text`` in a style where ``stream`` shows one."""
    return click.style(text, **style) if use_colour(stream) else text


def say(message: str, **style: Any) -> None:
    """Tell the user something on standard error, after the program's name."""
    print(styled(redact(f"{_NAME}: {message}"), sys.stderr, **style), file=sys.stderr, flush=True)


def tell(text: str) -> None:
    """Tell what belongs to a conversation on standard error."""
    print(styled(text, sys.stderr, dim=True), file=sys.stderr, flush=True)


class Line:
    """Standard output, which a line break ends where the text has none."""

    def __init__(self) -> None:
        self._ended = True

    def write(self, text: str) -> None:
        """Put out some text at once."""
        try:
            sys.stdout.write(text)
            sys.stdout.flush()
        except OSError:
            # Where this cannot be written, no line break can be either.
            self._ended = True
            raise
        self._ended = text.endswith("\n")

    def close(self) -> None:
        """End the line, if one has begun."""
        if not self._ended:
            self.write("\n")


def usual_level() -> int:
    """From which level on logs are shown unless asked for: warnings, at a terminal alone."""
    return logging.WARNING if sys.stderr.isatty() else NOTHING


def show_logs(level: int) -> None:
    """Show what the library logs, and what Python warns of, from ``level`` on."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter(f"{_NAME}: %(message)s"))
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

    def attempt(self, attempt: Attempt) -> None:
        """Tell of an attempt that has ended; to be a client's ``on_event``."""
        if self.verbose:
            say(described(attempt), dim=True)

    def reply(self, finish: FinishReason) -> None:
        """Tell how a reply ended."""
        if finish.reason == "content_filter":
            why = f": {finish.detail}" if finish.detail else ""
            say(f"the filter of {finish.provider} stopped the reply{why}")
        elif finish.reason == "length":
            self.warn("the reply reached its largest length; raise --max-tokens for more")
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
        from .._timeline_text import text

        in_order = sorted(self._attempts, key=lambda attempt: attempt.started_at)
        width = shutil.get_terminal_size((100, 24)).columns
        drawing = text(in_order, width=width, colour=use_colour(sys.stderr))
        print(redact(drawing), file=sys.stderr, flush=True)


def described(attempt: Attempt) -> str:
    """An attempt in a line."""
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
