"""A prompt filled from each row of a DataFrame, and the replies as a DataFrame."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Executor
from contextlib import nullcontext
from functools import partial
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from .._account.arguments import spelled_out
from .._checks import nearest
from .._request import BatchParams, Unpack
from ..client import BaseClient, briefly
from ..errors import AllProvidersFailed, InvalidRequestError
from ._file import answer_into
from ._rows import as_row
from ._run import check_params, label_id, run, with_params
from ._task import HALVES, Task, request_hash, task_of

if TYPE_CHECKING:
    from pandas import DataFrame  # type: ignore[import-untyped,unused-ignore]
else:
    # The library is an extra; type hints can be read without it.
    DataFrame = Any

_FIELD = re.compile(r"\{\{|\}\}|\{([^{}]*)\}")


@spelled_out(BatchParams)
@briefly
def table(
    client: BaseClient,
    template: str,
    frame: DataFrame,
    *,
    output: str | os.PathLike[str] | None = None,
    workers: int = 4,
    executor: Executor | None = None,
    progress: bool | None = None,
    deadline: float | None = None,
    cache: str | os.PathLike[str] | None = None,
    **params: Unpack[BatchParams],
) -> DataFrame:
    """Ask a prompt for each row of a DataFrame, and return the replies as a DataFrame.

    A row with a missing value in a column that the template names is not asked; its ``error`` says
    so.

    With ``output`` each reply is written to that file as it arrives, as in :func:`run_file`: after
    an interruption, or with more rows, call it again and only the missing rows are asked. A stop
    lets the replies to what was sent arrive for up to 30 seconds, without ``output`` ten.

    Args:
        client: a provider or a ``FailoverClient``.
        template: the prompt; ``{comment}`` is the row's value in the column ``comment``, and
            ``{{`` and ``}}`` are braces.
        frame: a pandas DataFrame.
        output: a file of rows to resume from, or None. If the call is stopped, the rows so far are
            in it.
        workers: how many requests run at a time; with an ``executor``: how many it has.
        executor: as for :func:`run`.
        progress: True shows a progress bar on standard error; None, the default, and False do not.
        deadline: seconds for each request, waits and retries included.
        cache: as for :func:`run`.
        **params: ``schema``, what each reply has to be, ``model``, ``system`` and the others that
            ``complete`` takes.

    Returns:
        A DataFrame with the index of ``frame``. Its columns are ``text``, or the fields of the
        schema as its JSON Schema names them (``data``, the whole value, where it names none), and
        ``error``: None for a whole reply, else the error's class and message in one line. For a
        reply that ``max_tokens`` cut or a filter stopped, ``error`` has the finish reason and its
        meaning, beside the text. Where a row failed, the other columns have None, and a column of
        floats NaN; whole numbers stay whole.

    Raises:
        ModuleNotFoundError: pandas is not installed.
        InvalidRequestError: the template names a column that the frame does not have or has twice,
            or names none though the frame has several rows; or ``output`` cannot be used. Nothing
            was sent.
        BatchLocked: another run is writing the same output.
        TypeError: not a DataFrame, not a string, or a parameter that no service has.
        KeyboardInterrupt: without ``output``, its ``results`` are those that have arrived.

    >>> import pandas
    >>> from llmproviders import batch
    >>> from llmproviders.testing import ScriptedProvider
    >>> frame = pandas.DataFrame({"comment": ["Lovely!", "Hm."]}, index=["a", "b"])
    >>> replies = batch.table(ScriptedProvider(["good"]), "Mood of: {comment}", frame)
    >>> replies.loc["b", "text"]
    'good'
    """
    pandas = _pandas()
    if not isinstance(frame, pandas.DataFrame):
        raise TypeError(f"frame must be a pandas DataFrame, not {type(frame).__name__}")
    if not isinstance(template, str):
        raise TypeError(f"template must be a string, not {type(template).__name__}")
    requests = _Requests(template, frame, params)
    columns = _columns(check_params(params))
    options: dict[str, Any] = {
        "workers": workers,
        "executor": executor,
        "progress": bool(progress),
        "deadline": deadline,
        "cache": cache,
    }
    found: list[dict[str, Any] | None] = [None] * len(frame)
    if output is None:
        # Kept until the end, so that an interrupt finds them.
        tasks: list[Any] = list(requests.tasks())
        results = list(run(client, tasks, **options))
        for result in results:
            found[result.index] = as_row(result.completion, result.error)
    else:
        answer_into(client, nullcontext(requests.tasks), output, **options)
        found = _rows_of(output, requests)
    replies = pandas.DataFrame(
        {
            name: _column(pandas, [None if row is None else cell(row) for row in found])
            for name, cell in columns.items()
        }
    )
    replies.index = frame.index
    return replies


def _pandas() -> Any:
    try:
        import pandas
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            'pandas is not installed; install it with: pip install "llmproviders[pandas]"'
        ) from error
    return pandas


class _Requests:
    """The requests for the rows of a frame, each made when it is read.

    The id of each is its label in the index, or its number where labels repeat.
    """

    def __init__(self, template: str, frame: DataFrame, params: Mapping[str, Any]) -> None:
        self._template = template
        self._params = params
        names = {found[1] for found in _FIELD.finditer(template) if found[1] is not None}
        by_name = {str(column): number for number, column in enumerate(frame.columns)}
        if len(by_name) < len(frame.columns):
            twice = names.intersection(
                name for name, number in Counter(map(str, frame.columns)).items() if number > 1
            )
            if twice:
                raise InvalidRequestError(f"the frame has two columns {min(twice)!r}; rename one")
        for name in sorted(names - by_name.keys()):
            near = nearest(name, by_name)
            hint = f"; did you mean {near!r}?" if near else f"; its columns are {list(by_name)}"
            raise InvalidRequestError(
                f"the template names the column {name!r}, which the frame does not have{hint}"
            )
        if not names and len(frame) > 1:
            raise InvalidRequestError(
                "the template names no column, so every row would be asked the same question; put "
                f"a column in braces, such as {{{next(iter(by_name), 'comment')}}}"
            )
        self._values = {name: frame.iloc[:, by_name[name]] for name in names}
        self._missing = {name: column.isna().tolist() for name, column in self._values.items()}
        self._ids: list[str | int] = [label_id(label) for label in frame.index]
        if len(set(self._ids)) < len(self._ids):
            self._ids = list(range(1, len(self._ids) + 1))

    def tasks(self) -> Iterator[Task]:
        """Make the tasks, from the start."""
        for number, own_id in enumerate(self._ids):
            missing = [name for name, lacks in self._missing.items() if lacks[number]]
            if missing:
                error = InvalidRequestError(
                    f"the row has no value in the column {missing[0]!r}, and was not asked; fill "
                    'it, for example with frame.fillna("")'
                )
                yield Task(own_id, number, None, error)
                continue
            values = {name: column.iloc[number] for name, column in self._values.items()}
            request = {"id": own_id, "prompt": self._filled(values)}
            yield task_of(with_params(request, self._params), number)

    def _filled(self, values: Mapping[str, Any]) -> str:
        return _FIELD.sub(
            lambda found: found[0][0] if found[1] is None else str(values[found[1]]),
            self._template,
        )


_Cell = Callable[[dict[str, Any]], Any]


def _columns(request: Any) -> dict[str, _Cell]:
    """The name of each column, and what takes its value from a row of an output."""
    schema = getattr(request, "schema", None)
    if schema is None:
        return {"text": itemgetter("text"), "error": _error_in}
    properties = schema.json_schema.get("properties", ())
    if "error" in properties:
        raise InvalidRequestError(
            "the schema has a field called error, which is the table's own column; rename it"
        )
    fields: dict[str, _Cell] = {
        name: partial(_field_in, (own_name, name))
        for name, own_name in zip(properties, schema.fields(), strict=True)
    }
    return {**(fields or {"data": lambda row: row.get("data")}), "error": _error_in}


def _rows_of(output: str | os.PathLike[str], requests: _Requests) -> list[dict[str, Any] | None]:
    """The output's row for each request, in the order of the requests."""
    places = {
        (task.id, None if task.request is None else request_hash(task.request)): task.index
        for task in requests.tasks()
    }
    found: list[dict[str, Any] | None] = [None] * len(places)
    with open(output, "rb") as rows:
        for line in rows:
            row = json.loads(line)
            index = places.get((row["id"], row["request_hash"]))
            if index is not None:
                found[index] = row
    return found


def _in_a_line(type: str, message: str) -> str:
    """An error as its class and its message; where every provider failed, what each one said."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    causes = lines[1:] if type == AllProvidersFailed.__name__ else lines
    return f"{type}: {'; '.join(causes or lines)}"


def _error_in(row: dict[str, Any]) -> str | None:
    if row["error"] is not None:
        return _in_a_line(**row["error"])
    half = HALVES.get(row["finish_reason"])
    return None if half is None else f"{row['finish_reason']}: {half}"


def _field_in(names: Iterable[str], row: dict[str, Any]) -> Any:
    """The value of a field, under the first of ``names`` that the reply has."""
    data = row.get("data")
    if not isinstance(data, Mapping):
        return None
    return next((data[name] for name in names if name in data), None)


def _column(pandas: Any, values: list[Any]) -> Any:
    # Beside text pandas would turn None into NaN, and beside None whole numbers into floats, which
    # changes large ones. A column of floats is left to it, with NaN, since only numbers can be
    # plotted.
    gaps = any(value is None for value in values)
    floats = any(isinstance(value, float) for value in values)
    return pandas.Series(values, dtype=object if gaps and not floats else None)
