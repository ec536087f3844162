"""``llmproviders batch``: a file of prompts in, a file of replies out."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import ExitStack, contextmanager

import click

from ..batch import BatchLocked, BatchReport, BatchResult, Summary, dask_executor, run_file
from ..errors import LLMError
from .arguments import FILE, File
from .exits import CommandError, Exit
from .files import WholeFile, check_place, locked
from .notes import Notes, say
from .options import Choices, batch_options

_REASONS = 3
"""How many kinds of errors are listed for failed rows."""


def _checked_address(
    _context: click.Context, _parameter: click.Parameter, address: str | None
) -> str | None:
    # Dask hangs if the address has no port.
    if address is not None and not re.fullmatch(r"([a-z]+://)?[^/\s]+:\d+", address):
        raise click.BadParameter(f"{address!r} is not like tcp://HOST:PORT")
    return address


@click.command(
    "batch",
    epilog="Example: llmproviders batch prompts.jsonl -o replies.jsonl --workers 8",
)
@click.argument("input", type=File(exists=True, dir_okay=False), metavar="IN")
@click.option(
    "-o", "--output", type=FILE, metavar="OUT", required=True, help="File for the replies."
)
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    default=4,
    show_default=True,
    metavar="COUNT",
    help="Requests at a time.",
)
@click.option(
    "--max-failures",
    type=click.IntRange(min=1),
    metavar="COUNT",
    help="Stop when this many rows have failed.",
)
@click.option(
    "--dask",
    metavar="ADDRESS",
    callback=_checked_address,
    help="Send the work to the Dask scheduler at tcp://HOST:PORT.",
)
@click.option("--lock", type=FILE, metavar="FILE", help="Exit with 75 if another run holds FILE.")
@click.option("--report", type=FILE, metavar="FILE", help="Write a report of OUT to FILE, as HTML.")
@batch_options
def command(
    choices: Choices,
    input: str,
    output: str,
    workers: int,
    max_failures: int | None,
    dask: str | None,
    lock: str | None,
    report: str | None,
) -> Exit:
    """Answer a file of prompts, one JSON object per line.

    Each line of IN is {"id": ..., "prompt": ...} or {"id": ..., "messages": [...]}, optionally with
    its own "model" and sampling parameters. OUT gets a row for each as it finishes; a rerun does
    the rest. --deadline applies to each row.
    """
    if output == "-":
        raise click.UsageError("a rerun could not read standard output; name a file with -o")
    check_place(output)
    page = None if report is None else WholeFile(report)
    notes = Notes(verbose=choices.verbose - 1, quiet=choices.verbose == 0)

    def tell(result: BatchResult) -> None:
        reply = result.completion
        attempts = reply.attempts if reply is not None else getattr(result.error, "attempts", ())
        for attempt in attempts:
            notes.attempt(attempt)

    with locked(lock), choices.client() as client, _cluster(dask) as (executor, threads):
        try:
            summary = run_file(
                client,
                input,
                output,
                workers=threads or workers,
                executor=executor,
                max_failures=max_failures,
                on_result=tell if notes.verbose else None,
                progress=sys.stderr.isatty() and not choices.quiet,
            )
        except BatchLocked as error:
            raise CommandError(str(error), Exit.TRY_LATER) from error
        except ValueError as error:
            if isinstance(error, LLMError):
                raise
            raise CommandError(str(error), Exit.USAGE) from error
        except OSError as error:
            raise CommandError(_trouble(error, input, output), Exit.UNEXPECTED) from error
    if page is not None:
        html = BatchReport.read(output).to_html()
        try:
            page.write(html)
        except BrokenPipeError:
            raise
        except OSError as error:
            message = f"{page.path} cannot be written: {error.strerror or error}"
            raise CommandError(
                f"{message}; the replies are in {output}", Exit.UNEXPECTED
            ) from error
    if choices.verbose or summary.failed or summary.cut or summary.filtered:
        say(_described(summary))
        for reason, count in summary.reasons[:_REASONS]:
            say(f"{count} failed: {reason}")
    return Exit.ROWS_FAILED if summary.failed else Exit.OK


@contextmanager
def _cluster(address: str | None) -> Iterator[tuple[Executor | None, int | None]]:
    """Dask's executor and its number of threads; None for both without an address."""
    if address is None:
        yield None, None
        return
    with ExitStack() as stack:
        try:
            found = stack.enter_context(dask_executor(address))
        except ModuleNotFoundError as error:
            raise CommandError(str(error), Exit.USAGE) from error
        except OSError as error:
            message = f"no Dask scheduler at {address}: {error}"
            raise CommandError(message, Exit.TRY_LATER) from error
        yield found


def _trouble(error: OSError, input: str, output: str) -> str:
    if error.filename in (None, input):
        return str(error)
    return f"{output} cannot be written: {error.strerror}; a rerun continues"


def _described(summary: Summary) -> str:
    tokens = summary.usage.total_tokens
    halves = [
        words
        for number, words in (
            (summary.cut, f"{summary.cut} cut by max_tokens"),
            (summary.filtered, f"{summary.filtered} stopped by a filter"),
        )
        if number
    ]
    parts = [
        f"{summary.done} done" + (f" ({', '.join(halves)})" if halves else ""),
        f"{summary.skipped} done before",
        f"{summary.failed} failed" + (", stopped early" if summary.stopped else ""),
        f"{summary.duration:.1f} s",
    ]
    return ", ".join(parts if tokens is None else [*parts, f"{tokens} tokens"])
