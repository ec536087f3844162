"""A batch from a file to a file, which can be stopped at any moment and resumed."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor
from contextlib import AbstractContextManager
from itertools import groupby

from .._checks import seconds, whole
from .._display.text import count
from .._printable import be_brief, one_line
from .._runtime.files import check_path
from ..client import BaseClient, briefly
from ..errors import InvalidRequestError
from ._flow import Flow
from ._input import Input, lines_of, pair_digest
from ._interrupts import Interrupts
from ._output import Finished, appending, locked, target_of
from ._rows import row_of
from ._run import check_arguments, refuse_table
from ._summary import BatchStats, Summary, announce, bar_if
from ._task import BatchResult, FinishedTask, Task, request_hash

GRACE_S = 30.0


@briefly
def run_file(
    client: BaseClient,
    input: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    workers: int = 4,
    executor: Executor | None = None,
    on_result: Callable[[BatchResult], object] | None = None,
    progress: bool = False,
    deadline: float | None = None,
    max_failures: int | None = None,
    grace_s: float = GRACE_S,
    cache: str | os.PathLike[str] | None = None,
) -> Summary:
    """Answer the requests in a file of JSON lines, and write a row of JSON for each to another.

    Each row is written and flushed as its request ends. A rerun skips what is done, by id and a
    hash of the request, and does the rest: what failed, what has changed, what is new. If the
    process is killed, no written row is lost, and a rerun does not pay for it again.

    On Ctrl-C, SIGTERM and SIGHUP nothing more is sent, not even what only waited for its turn or
    for a retry. The replies to what was sent have ``grace_s`` seconds to arrive and are written;
    then the signal has its usual effect. A second signal ends the wait.

    Whatever else ends the batch, such as an error of ``on_result`` or of the executor, the replies
    that have arrived are written first.

    Args:
        client: a provider or a ``FailoverClient``.
        input: a file with a request on each line, as :func:`run` takes them. A broken line
            becomes an error row, whose id is the line's number, from 1, or null if another request
            has that id.
        output: a file of rows, appended to. Only one run at a time may write it.
        workers: how many requests run at a time; with an ``executor``: how many it has.
        executor: where they run, any ``concurrent.futures.Executor``; default: threads.
        on_result: called with each result after its row was written.
        progress: show a progress bar on standard error.
        deadline: seconds for each request, waits and retries included.
        max_failures: stop early when this many rows have failed in this run.
        grace_s: seconds for requests in progress to finish after a signal.
        cache: as for :func:`run`.

    Returns:
        How many rows succeeded, were skipped or failed; the duration; the tokens.

    Raises:
        InvalidRequestError: two requests have the same id; or the output is another kind of file,
            a pipe, a device, or behind another user's link. Nothing was sent.
        BatchLocked: another run is writing the same output.
        OSError: a file cannot be read or written.
        TypeError, ValueError: as for :func:`run`, and for numbers that are too small.

    >>> import pathlib, tempfile
    >>> from llmproviders.testing import ScriptedProvider
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> _ = (folder / "in.jsonl").write_text('{"id": "sky", "prompt": "Why blue?"}')
    >>> client = ScriptedProvider(["Because."])
    >>> run_file(client, folder / "in.jsonl", folder / "out.jsonl").done
    1
    >>> run_file(client, folder / "in.jsonl", folder / "out.jsonl").skipped
    1
    """
    refuse_table("input", input)
    check_path("input", input)
    return answer_into(
        client,
        lines_of(input),
        output,
        workers=workers,
        executor=executor,
        on_result=on_result,
        progress=progress,
        deadline=deadline,
        max_failures=max_failures,
        grace_s=grace_s,
        cache=cache,
        input=input,
    )


def answer_into(
    client: BaseClient,
    source: AbstractContextManager[Callable[[], Iterable[Task]]],
    output: str | os.PathLike[str],
    *,
    workers: int,
    executor: Executor | None = None,
    on_result: Callable[[BatchResult], object] | None = None,
    progress: bool = False,
    deadline: float | None = None,
    max_failures: int | None = None,
    grace_s: float = GRACE_S,
    cache: str | os.PathLike[str] | None = None,
    input: str | os.PathLike[str] | None = None,
) -> Summary:
    """Do the tasks of ``source``, and write their rows to ``output``, as :func:`run_file` does."""
    client, workers, deadline = check_arguments(client, workers, deadline, cache)
    max_failures = None if max_failures is None else whole("max_failures", max_failures)
    grace_s = seconds("grace_s", grace_s, zero=True)
    began = time.monotonic()
    stats = BatchStats()
    check_path("output", output)
    target = target_of(output)
    asked: Input | None = None
    skipped = 0
    try:
        with source as read, locked(target):
            if input is not None and os.path.exists(target) and os.path.samefile(input, target):
                raise InvalidRequestError(f"{target} is the input; choose another output")
            asked = Input(read, hashes=os.path.exists(target))
            finished = Finished(target, asked)
            finished.keep()
            skipped = sum(pair in asked.pairs for pair, _ in groupby(finished.pairs))
            tasks = _left(asked, finished)
            flow = Flow(client, tasks, workers=workers, executor=executor, deadline=deadline)
            interrupts = Interrupts(
                lambda: flow.stop(
                    within_s=grace_s, announce=lambda running: announce(running, grace_s, bar)
                ),
                lambda: flow.stop(within_s=0),
                then=flow.stop_reading,
            )
            with interrupts, appending(target) as append:

                def keep(outcome: FinishedTask) -> None:
                    append(row_of(*outcome))
                    stats.add(outcome)

                try:
                    with flow, bar_if(progress, total=len(asked), skipped=skipped) as bar:
                        for outcome in flow.outcomes():
                            keep(outcome)
                            if bar is not None:
                                bar.show(stats)
                            if on_result is not None:
                                on_result(outcome.result())
                            if stats.failed == max_failures:
                                flow.stop()
                finally:
                    for outcome in flow.arrived():
                        keep(outcome)
        interrupts.pass_on()
    except KeyboardInterrupt as interrupt:
        found = ""
        if asked is not None:
            done, place = skipped + stats.done, one_line(os.fsdecode(output))
            are = "is" if done == 1 else "are"
            found = f": {done:,} of {count(len(asked), 'row')} {are} in {place}"
        be_brief(interrupt, f"Stopped{found}. Run the cell again to continue.")
        raise
    stopped = max_failures is not None and stats.failed >= max_failures
    return stats.summary(skipped=skipped, duration=time.monotonic() - began, stopped=stopped)


def _left(asked: Input, finished: Finished) -> Iterator[Task]:
    for task in asked.tasks():
        if (
            not finished.pairs
            or task.request is None
            or pair_digest(task.id, request_hash(task.request)) not in finished.pairs
        ):
            yield task
