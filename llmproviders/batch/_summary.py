"""The progress of a batch, and its summary."""

from __future__ import annotations

import re
import sys
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from .._display.text import count, in_notebook, shorten
from .._printable import one_line
from .._redact import redact
from ..errors import AllProvidersFailed
from ..results import Usage
from ._task import FinishedTask

_LONGEST_REASON = 160

_MOST_REASONS = 100
"""Reasons distinguished by their words; beyond these, only by their class."""

# What differs between messages that say the same.
_VARIABLE = re.compile(r"'[^']*'|\"[^\"]*\"|\d+")


@dataclass(frozen=True, slots=True)
class Summary:
    r"""The summary of a run.

    Attributes:
        done: rows that have a reply from this run, also those counted by ``cut`` and ``filtered``.
        skipped: rows that an earlier run had done.
        failed: rows whose ``error`` says why there is no reply.
        duration: seconds.
        usage: the tokens of this run, summed over every try of every row, as the services
            counted them: rejected, broken and retried replies cost tokens too. A count that no
            service gave is None.
        stopped: whether it ended early, because of ``max_failures``.
        cut: how many of the done rows ``max_tokens`` cut; their ``finish_reason`` is ``length``.
        reasons: why rows failed: each kind of error, described by the message of its first row,
            with the number of rows, in order of appearance. A service's errors are distinguished
            by its name and their class, those of the input by what is wrong.
        filtered: how many of the done rows a service's filter stopped after some text; their
            ``finish_reason`` is ``content_filter``.

    >>> from pathlib import Path
    >>> from llmproviders.batch import run_file
    >>> from llmproviders.testing import ScriptedProvider
    >>> _ = Path("sums.jsonl").write_text('"Two and two?"\n"Two and three?"\n')
    >>> summary = run_file(ScriptedProvider(["Four."]), "sums.jsonl", "answers.jsonl")
    >>> summary.done, summary.skipped, summary.failed, summary.stopped
    (2, 0, 0, False)
    """

    done: int
    skipped: int
    failed: int
    duration: float
    usage: Usage
    stopped: bool = False
    cut: int = 0
    reasons: tuple[tuple[str, int], ...] = ()
    filtered: int = 0


class BatchStats:
    """Counts rows as they end."""

    def __init__(self) -> None:
        self.done = 0
        self.failed = 0
        self.cut = 0
        self.filtered = 0
        self._tokens: dict[str, int] = {}
        self._reasons: dict[tuple[str | None, str, str], list[Any]] = {}

    def add(self, outcome: FinishedTask) -> None:
        """Count one."""
        for usage in _paid(outcome):
            for name, number in usage.as_dict().items():
                if number is not None:
                    self._tokens[name] = self._tokens.get(name, 0) + number
        if outcome.completion is None:
            self.failed += 1
            if outcome.error is not None:
                self._add_reason(outcome.error)
            return
        self.done += 1
        reason = outcome.completion.finish_reason.reason
        self.cut += reason == "length"
        self.filtered += reason == "content_filter"

    def _add_reason(self, error: Exception) -> None:
        if isinstance(error, AllProvidersFailed) and error.attempts:
            # The last provider's own error says more than "all providers failed".
            error = error.attempts[-1].error or error
        provider = getattr(error, "provider", None)
        kind = type(error).__name__
        # A service may put anything into its messages; what is wrong with a line, we say.
        pattern = "" if provider else _VARIABLE.sub("", str(error).partition(": ")[0])
        if len(self._reasons) >= _MOST_REASONS:
            pattern = ""
        counted = self._reasons.get((provider, kind, pattern))
        if counted is None:
            message = shorten(one_line(redact(str(error))), _LONGEST_REASON)
            words = f"{provider}: {kind}: {message}" if provider else f"{kind}: {message}"
            counted = self._reasons[provider, kind, pattern] = [words, 0]
        counted[1] += 1

    @property
    def usage(self) -> Usage:
        """The tokens so far."""
        return Usage(**self._tokens)

    def summary(self, *, skipped: int, duration: float, stopped: bool) -> Summary:
        """The summary of the whole run."""
        reasons = tuple((words, number) for words, number in self._reasons.values())
        return Summary(
            self.done,
            skipped,
            self.failed,
            duration,
            self.usage,
            stopped,
            self.cut,
            reasons,
            self.filtered,
        )

    def line(self) -> str:
        """A few words for a progress bar."""
        parts = [f"{self.failed} failed"] if self.failed else []
        if self.cut:
            parts.append(f"{self.cut} cut")
        if self.filtered:
            parts.append(f"{self.filtered} filtered")
        if "total_tokens" in self._tokens:
            parts.append(f"{self._tokens['total_tokens']:,} tokens")
        return ", ".join(parts)


def _paid(outcome: FinishedTask) -> list[Usage]:
    """The tokens of every try of a row, rejected and broken ones too; a cache's are not paid."""
    reply = outcome.completion
    attempts = getattr(outcome.error if reply is None else reply, "attempts", ())
    used = [attempt.usage for attempt in attempts if attempt.usage is not None]
    if not used and reply is not None and reply.usage is not None and not reply.cached:
        # A client of the caller's own may tell no attempts.
        return [reply.usage]
    return used


class Bar:
    """A progress bar: rows done, rows a second, failed rows, and tokens so far.

    Args:
        total: rows of the input, if known.
        skipped: how many of them an earlier run has done.
    """

    def __init__(self, *, total: int | None, skipped: int = 0) -> None:
        bar: Any
        if find_spec("ipywidgets") is None:
            # In a notebook tqdm.auto would warn that it is missing.
            from tqdm import tqdm as bar
        else:
            from tqdm.auto import tqdm as bar
        self._bar = bar(total=total, initial=skipped, unit="row", dynamic_ncols=True)

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *_: Any) -> None:
        self._bar.close()

    def show(self, stats: BatchStats) -> None:
        """Show that one more row has ended."""
        self._bar.set_postfix_str(stats.line(), refresh=False)
        self._bar.update()

    def write(self, line: str) -> None:
        """Print a line above the bar."""
        self._bar.write(line, file=sys.stderr)


def announce(running: int, within_s: float, bar: Bar | None) -> None:
    """Say on standard error that a stopped batch finishes what is running, and how to end that."""
    again = "stop again" if in_notebook() else "press Ctrl-C again"
    them = "it" if running == 1 else "them"
    line = f"finishing {count(running, 'request')} (at most {within_s:g} s); {again} to drop {them}"
    if bar is not None:
        bar.write(line)
    elif sys.stderr is not None:
        sys.stderr.write(f"{line}\n")
        sys.stderr.flush()


def bar_if(
    shown: bool | None, *, total: int | None, skipped: int = 0
) -> Bar | AbstractContextManager[None]:
    """A progress bar, if requested."""
    return Bar(total=total, skipped=skipped) if shown else nullcontext()
