"""``llmproviders ask``: one prompt, one reply."""

from __future__ import annotations

import json
from contextlib import closing
from typing import Any

import click

from .. import _environment as _places
from .._runtime.scope import SYSTEM_CLOCK, CancelScope
from ..batch import as_row
from ..client import BaseClient
from ..config._settings import ConfigError, failover_in_force
from ..errors import DeadlineExceeded, LLMError
from ..failover._client import FailoverClient
from ..results import Completion, FinishReason, StreamText
from .arguments import FILE, TEXT
from .exits import CommandError, Exit, exit_of_error, exit_of_reply
from .files import WholeFile, locked, read_prompt, read_schema
from .notes import Line, Notes, Trace, check_stdout, explained, say, tell
from .options import ATTACH, Choices, call_options, takes_back

_SOON_S = 0.001


@click.command(
    "ask",
    epilog='Example: git diff | llmproviders ask -p gigachat "Review this change."',
)
@click.argument("prompt", required=False, type=TEXT)
@click.option(
    "--stdin/--no-stdin",
    "with_stdin",
    default=None,
    help="Wait for standard input, which may not be empty, or add nothing from it to PROMPT.",
)
@click.option("--no-stream", is_flag=True, help="Print the reply once it is complete.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, on failure too.")
@click.option(
    "-o",
    "--output",
    type=FILE,
    metavar="FILE",
    help="Write the reply to FILE, whole or not at all.",
)
@click.option("--lock", type=FILE, metavar="FILE", help="Exit with 75 if another run holds FILE.")
@click.option("--allow-cut", is_flag=True, help="Accept a reply that --max-tokens cut.")
@click.option(
    "--schema",
    type=FILE,
    metavar="FILE",
    help="Answer with JSON that satisfies the JSON Schema in FILE.",
)
@ATTACH
@click.option("--usage", is_flag=True, help="Print the number of tokens on standard error.")
@click.option("--cache", is_flag=True, help="Reuse the reply of an earlier run if nothing changed.")
@click.option("--plain", is_flag=True, help="Do not render Markdown at a terminal.")
@click.option("--trace", is_flag=True, help="Draw the attempts over time on standard error.")
@call_options
def command(
    choices: Choices,
    prompt: str | None,
    with_stdin: bool | None,
    no_stream: bool,
    as_json: bool,
    output: str | None,
    lock: str | None,
    allow_cut: bool,
    schema: str | None,
    attach: tuple[str, ...],
    usage: bool,
    cache: bool,
    plain: bool,
    trace: bool,
) -> Exit:
    """Ask for one reply, and stream it to standard output.

    Without PROMPT, or with -, the prompt is read from standard input. If PROMPT is given, standard
    input is added to it if it is a file, or a pipe that has data or ends within a second.
    """
    notes = choices.notes()
    drawing = Trace(notes.attempt)
    whole = no_stream or as_json or output is not None or schema is not None
    params = choices.params()
    if schema is not None:
        params["schema"] = read_schema(schema)
    if attach:
        params["attach"] = attach
    file = None if output in (None, "-") else WholeFile(output)
    if file is None:
        check_stdout()
    destination = _Destination(as_json=as_json, file=file, plain=plain or schema is not None)
    try:
        configuration = choices.configuration()
        whole = whole or takes_back(configuration)
        deadline = failover_in_force(configuration)["deadline"].value
        scope = CancelScope.lasting(deadline, clock=SYSTEM_CLOCK)
        text = read_prompt(prompt, scope, with_stdin=with_stdin, notes=notes)
        if scope.bounded:
            configuration = configuration.having(deadline=max(scope.remaining(), _SOON_S))
        with locked(lock), configuration.having(on_event=drawing.add).client() as asked:
            client = _cached(asked) if cache else asked
            if not whole:
                finish = _stream(client, text, params, Line(markdown=not plain))
                if usage:
                    notes.tokens(finish.usage)
                return _ended(finish, notes, allow_cut)
            completion = client.complete(text, stream=False if no_stream else None, **params)
    except (LLMError, ConfigError, CommandError, KeyboardInterrupt, SystemExit) as error:
        if whole:
            destination.failed(error)
        if isinstance(error, DeadlineExceeded):
            message = explained(error, (settings.name for settings in configuration.providers))
            raise CommandError(message, exit_of_error(error)) from error
        raise
    finally:
        if trace:
            drawing.draw()
    destination.replied(completion, allow_cut=allow_cut)
    if usage:
        notes.tokens(completion.usage)
    return _ended(completion.finish_reason, notes, allow_cut)


def _cached(client: FailoverClient) -> BaseClient:
    path = _places.reply_cache()
    why = _places.why_unwritable(path)
    if why is not None:
        say(f"{why}, so no reply is kept; set HOME")
        return client
    # Only this option loads sqlite3.
    from ..cache import Cached  # type: ignore[import-not-found,unused-ignore]

    cached: BaseClient = Cached(client, path)
    return cached


def _ended(finish: FinishReason, notes: Notes, allow_cut: bool) -> Exit:
    """Report how a reply ended, and return the exit code."""
    hint = ", or take it as it is with --allow-cut"
    notes.reply(finish, allow_cut=allow_cut, hint=hint)
    return exit_of_reply(finish, allow_cut=allow_cut)


def _stream(client: BaseClient, text: str, params: dict[str, Any], shown: Line) -> FinishReason:
    said = StreamText()
    with closing(client.stream(text, **params)) as stream, closing(shown) as line:
        for piece in stream:
            said.add(piece)
            try:
                line.add(piece)
            except BrokenPipeError:
                raise
            except OSError as error:
                for more in stream:
                    said.add(more)
                raise _rescued(said.text, "standard output", error) from error
    return said.completion.finish_reason


def _rescued(text: str, place: str, error: OSError) -> CommandError:
    """Print a reply that cannot be written where it belongs, and return the error to raise."""
    tell(text)
    return CommandError(
        f"{place} cannot be written: {error.strerror or error}; the reply is above, on standard "
        "error",
        Exit.UNEXPECTED,
    )


class _Destination:
    """Where a reply is written once it is complete."""

    def __init__(self, *, as_json: bool, file: WholeFile | None, plain: bool) -> None:
        self._as_json = as_json
        self._plain = as_json or plain
        self._file = file

    def replied(self, completion: Completion, *, allow_cut: bool) -> None:
        """Write the reply; one that was cut or that a filter stopped does not change a file."""
        text = _row(completion, None) if self._as_json else _text_of(completion)
        ended = exit_of_reply(completion.finish_reason, allow_cut=allow_cut)
        if self._file is None or ended is Exit.OK:
            self._put(text)
        elif self._as_json:
            _print(text)

    def failed(self, error: BaseException) -> None:
        """Show the part of a reply that arrived; a file is not changed."""
        partial = str(getattr(error, "partial_text", ""))
        if self._as_json:
            _print(_row(None, error, partial_text=partial))
        elif self._file is None and partial:
            _print(partial, plain=self._plain)

    def _put(self, text: str) -> None:
        try:
            if self._file is None:
                _print(text, plain=self._plain)
            else:
                self._file.write(text if text.endswith("\n") or not text else text + "\n")
        except OSError as error:
            if self._file is not None:
                raise _rescued(text, self._file.path, error) from error
            if isinstance(error, BrokenPipeError):
                raise
            raise _rescued(text, "standard output", error) from error


def _text_of(completion: Completion) -> str:
    """The reply's text; with a schema, only its JSON."""
    data = getattr(completion, "data", None)
    return completion.text if data is None else json.dumps(data, ensure_ascii=False, indent=2)


def _print(text: str, *, plain: bool = True) -> None:
    with closing(Line(markdown=not plain)) as line:
        line.write(text)


def _row(
    completion: Completion | None, error: BaseException | None, *, partial_text: str = ""
) -> str:

    row = as_row(completion, error)
    if partial_text:
        row["text"] = partial_text
    return json.dumps(row, ensure_ascii=False)
