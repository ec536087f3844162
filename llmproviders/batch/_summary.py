"""What a batch has done so far, and in the end."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

from ..results import Usage
from ._task import FinishedTask


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


class BatchStats:
    """Counts rows as they end."""

    def __init__(self) -> None:
        self.done = 0
        self.failed = 0
        self.cut = 0
        self._tokens: dict[str, int] = {}

    def add(self, outcome: FinishedTask) -> None:
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


class Bar:
    """Shows how many rows are done, how fast, how many failed, and the tokens so far.

    Args:
        total: rows of the input.
        skipped: how many of them an earlier run has done.
    """

    def __init__(self, *, total: int, skipped: int) -> None:
        from tqdm.auto import tqdm

        self._bar = tqdm(total=total, initial=skipped, unit="row", dynamic_ncols=True)

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *_: Any) -> None:
        self._bar.close()

    def show(self, tally: BatchStats) -> None:
        """One more row has ended."""
        self._bar.set_postfix_str(tally.line(), refresh=False)
        self._bar.update()


def bar_if(shown: bool, *, total: int, skipped: int) -> Bar | AbstractContextManager[None]:
    """A bar where one is wanted."""
    return Bar(total=total, skipped=skipped) if shown else nullcontext()
