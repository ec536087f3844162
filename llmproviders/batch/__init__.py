"""Many requests through one client.

:func:`run` takes any iterable and yields results, :func:`map` returns a list, :func:`table` fills
a DataFrame, and :func:`run_file` reads and writes JSON lines. Memory stays flat however long the
input is: a few requests for each worker are under way, and the next one is read when one ends.
"""

from __future__ import annotations

from ._dask import dask_executor
from ._file import run_file
from ._output import BatchLocked
from ._report import BatchReport
from ._rows import as_row
from ._run import map, run
from ._summary import Summary
from ._table import table
from ._task import BatchResult

__all__ = [
    "BatchLocked",
    "BatchReport",
    "BatchResult",
    "Summary",
    "as_row",
    "dask_executor",
    "map",
    "run",
    "run_file",
    "table",
]
