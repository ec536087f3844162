"""What a batch has done so far, and in the end."""

from __future__ import annotations

from dataclasses import dataclass

from ..results import Usage
from ._task import Outcome


@dataclass(frozen=True, slots=True)
class Summary:
    r"""What a run did.

    Attributes:
        done: rows that succeeded in it.
        skipped: rows that an earlier run had done.
        failed: rows whose ``error`` says why there is no reply.
        duration: seconds.
        usage: the tokens of its replies, summed; None where no service counted.
        stopped: whether it ended early, for ``max_failures``.
        cut: how many of the done rows ``max_tokens`` cut; their ``finish_reason`` is ``length``.

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


class Tally:
    """Counts rows as they end."""

    def __init__(self) -> None:
        self.done = 0
        self.failed = 0
        self.cut = 0
        self._tokens: dict[str, int] = {}

    def add(self, outcome: Outcome) -> None:
        """Count one."""
        if outcome.completion is None:
            self.failed += 1
            return
        self.done += 1
        self.cut += outcome.completion.finish_reason.reason == "length"
        usage = outcome.completion.usage
        for name, count in usage.as_dict().items() if usage is not None else ():
            if count is not None:
                self._tokens[name] = self._tokens.get(name, 0) + count

    @property
    def usage(self) -> Usage:
        """The tokens so far."""
        return Usage(**self._tokens)

    def summary(self, *, skipped: int, duration: float, stopped: bool) -> Summary:
        """All of it, with what only the run knows."""
        return Summary(self.done, skipped, self.failed, duration, self.usage, stopped, self.cut)

    def line(self) -> str:
        """A few words for a progress bar."""
        parts = [f"{self.failed} failed"] if self.failed else []
        if self.cut:
            parts.append(f"{self.cut} cut")
        if "total_tokens" in self._tokens:
            parts.append(f"{self._tokens['total_tokens']:,} tokens")
        return ", ".join(parts)
