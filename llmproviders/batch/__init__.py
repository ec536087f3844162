"""Many requests through one client: from any iterable, or from JSON lines to JSON lines.

Memory stays flat however long the input is: a few requests for each worker are under way, and
the next one is read when one of them has ended.
"""

from __future__ import annotations

from ._dask import dask_executor
from ._file import run_file
from ._output import BatchLocked
from ._report import BatchReport
from ._rows import as_row
from ._run import run
from ._summary import Summary
from ._task import BatchResult

__all__ = [
    "BatchLocked",
    "BatchReport",
    "BatchResult",
    "Summary",
    "as_row",
    "dask_executor",
    "run",
    "run_file",
]
