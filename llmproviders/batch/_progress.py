"""A progress bar on stderr."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ._tally import Tally


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

    def show(self, tally: Tally) -> None:
        """One more row has ended."""
        self._bar.set_postfix_str(tally.line(), refresh=False)
        self._bar.update()


def bar_if(shown: bool, *, total: int, skipped: int) -> Bar | AbstractContextManager[None]:
    """A bar where one is wanted."""
    return Bar(total=total, skipped=skipped) if shown else nullcontext()
