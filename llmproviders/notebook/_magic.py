"""The cell magic ``%%llm`` and the line magic ``%llm_config``."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import click
from IPython.core.error import UsageError
from IPython.core.interactiveshell import InteractiveShell

from .._printable import be_brief, one_line, printable
from .._redact import redact
from ..cli.exits import CommandError, Exit, exit_of_reply
from ..cli.files import WholeFile
from ..cli.options import ATTACH, Choices, call_options
from ..client import BaseClient
from ..config._settings import ConfigError
from ..conversation import Conversation
from ..errors import LLMError
from ..failover._client import FailoverClient
from ..results import Attempts
from ._page import put
from ._prompt import MissingVariableError, fill
from ._show import chosen, show, use

_SETTINGS = {"terminal_width": 88, "help_option_names": ["-h", "--help"]}

# Not the proxy, whose address may be a secret.
_OF_THE_CLIENT = ("model", "deadline", "timeout", "config", "stateless")
"""The options that make a client, beside ``-p``."""

_made_of: WeakKeyDictionary[BaseClient, Choices] = WeakKeyDictionary()
"""The options that the client in use was made of."""

_HERE = {
    "verbose": "The same as --trace.",
    "quiet": "Show only the text.",
}


@dataclass(frozen=True)
class _Cell:
    """The options in the first line of a cell."""

    choices: Choices
    name: str | None
    client: str | None
    no_stream: bool
    output: str | None
    allow_cut: bool
    attach: tuple[str, ...]
    trace: bool


@click.command("%%llm", context_settings=_SETTINGS)
@click.option("--as", "name", metavar="NAME", help="Store the Completion in this variable.")
@click.option("--client", metavar="NAME", help="Use the client or Conversation in this variable.")
@click.option("--no-stream", is_flag=True, help="Show the reply only when it is complete.")
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    help="Also write the reply to FILE, if it is complete.",
)
@click.option("--allow-cut", is_flag=True, help="Write a reply that --max-tokens cut, too.")
@ATTACH
@click.option("--trace", is_flag=True, help="Show a timeline of the attempts below the reply.")
@call_options
def _cell_line(choices: Choices, **options: Any) -> _Cell:
    """Show the reply to the cell's text as it grows.

    {name} in the text is replaced with the notebook's variable of that name; {{name}} gives the
    braces themselves. The client is the one that %llm_config chose, or else the one from the
    configuration; -p, --deadline, --first-chunk-timeout, --config and --no-state make one for this
    cell.

    Stopping the cell keeps the text so far on the page and closes the connection. NAME keeps its
    old value unless the reply is complete.
    """
    trace = options.pop("trace") or (choices.verbose > 0 and not choices.quiet)
    return _Cell(choices, trace=trace, **options)


@click.command("%llm_config", context_settings=_SETTINGS)
@click.argument("name", required=False)
@click.option("--reset", is_flag=True, help="Use the configuration again.")
@call_options
def _config_line(
    choices: Choices, name: str | None, reset: bool
) -> tuple[Choices, str | None, bool]:
    """Choose the client that %%llm and show() use from now on.

    NAME is a variable that holds a client; without it, a client is made from the options. Options
    of a call (model, system prompt, sampling) are defaults for every call. Without arguments,
    prints what is in use.
    """
    return choices, name, reset


for _parameter in _cell_line.params:
    if isinstance(_parameter, click.Option) and _parameter.name in _HERE:
        _parameter.help = _HERE[_parameter.name]

_config_line.params = [option for option in _config_line.params if option.name not in _HERE]


def load(shell: InteractiveShell) -> None:
    """Register the magics with an IPython."""
    for command, kind, name, run in (
        (_cell_line, "cell", "llm", _llm),
        (_config_line, "line", "llm_config", _llm_config),
    ):
        # IPython calls a magic without the shell, and shows its docstring as help.
        magic = _bound(run, shell)
        magic.__doc__ = _help(command)
        shell.magics_manager.register_function(magic, magic_kind=kind, magic_name=name)


def _bound(run: Callable[..., None], shell: InteractiveShell) -> Callable[..., None]:
    def magic(*texts: str) -> None:
        with _plainly():
            run(shell, *texts)

    return magic


def _help(command: click.Command) -> str:
    with click.Context(command, info_name=command.name, terminal_width=88) as context:
        return command.get_help(context)


@contextmanager
def _plainly() -> Iterator[None]:
    """Print errors without a traceback, whose frames are all of this package."""
    try:
        yield
    except (click.ClickException, CommandError, ConfigError, MissingVariableError) as error:
        words = error.format_message() if isinstance(error, click.ClickException) else str(error)
        raise UsageError(printable(words)) from error
    except LLMError as error:
        be_brief(error, f"{type(error).__name__}: {error}")
        raise


def _llm(shell: InteractiveShell, line: str, text: str) -> None:
    asked = _parsed(_cell_line, line)
    if not isinstance(asked, _Cell):
        return
    if asked.name is not None and not asked.name.isidentifier():
        raise click.UsageError(f"--as {asked.name}: that is no name for a variable")
    # The page has the reply anyway, as standard output has it for ask.
    file = None if asked.output in (None, "-") else WholeFile(asked.output)
    prompt = fill(text, shell.user_ns)
    choices = asked.choices
    with ExitStack() as stack:
        client, params = _client(asked, shell, stack)
        if asked.attach:
            params = {**params, "attach": asked.attach}
        try:
            if asked.no_stream:
                reply = show(_whole(client, prompt, params), note=not choices.quiet)
            else:
                reply = show(client.stream(prompt, **params), note=not choices.quiet)
        except LLMError as error:
            if asked.trace:
                put(Attempts(error.attempts))
            raise
    if asked.name is not None:
        shell.user_ns[asked.name] = reply
    if asked.trace:
        put(reply.attempts)
    ended = exit_of_reply(reply.finish_reason, allow_cut=asked.allow_cut)
    if file is not None and ended is Exit.OK:
        file.write(f"{reply.text}\n")


def _parsed(command: click.Command, line: str) -> Any:
    try:
        words = shlex.split(line)
    except ValueError as error:
        raise click.UsageError(f"a quotation mark is missing: {error}") from None
    return command.main(words, prog_name=command.name, standalone_mode=False)


def _client(
    asked: _Cell, shell: InteractiveShell, stack: ExitStack
) -> tuple[BaseClient | Conversation, dict[str, Any]]:
    choices = asked.choices
    own = (
        choices.providers
        or choices.deadline
        or choices.first_chunk_timeout
        or choices.config is not None
        or choices.stateless
    )
    if asked.client is not None:
        if own:
            raise click.UsageError(
                "--client and -p, --deadline, --first-chunk-timeout, --config, --no-state: "
                "choose one"
            )
        return _variable(shell, asked.client), _of_call(choices)
    usual = chosen()
    if usual is None or own:
        return stack.enter_context(choices.client()), choices.params()
    client, params = usual
    return client, {**params, **_of_call(choices)}


def _of_call(choices: Choices) -> dict[str, Any]:
    """The options that apply to a client that already exists."""
    route = {"model": choices.model, "timeout": choices.timeout, "proxy": choices.proxy}
    return {
        **{name: value for name, value in route.items() if value is not None},
        **choices.params(),
    }


def _variable(shell: InteractiveShell, name: str) -> BaseClient | Conversation:
    client = shell.user_ns.get(name)
    if not isinstance(client, (BaseClient, Conversation)):
        raise click.UsageError(
            f"there is no client {name}"
            if client is None
            else f"{name} is {type(client).__name__}, not a client"
        )
    return client


def _whole(client: BaseClient | Conversation, prompt: str, params: dict[str, Any]) -> Iterator[str]:
    ask = client.ask if isinstance(client, Conversation) else client.complete
    completion = ask(prompt, **params)
    if completion.text:
        yield completion.text
    yield completion.finish_reason


def _llm_config(shell: InteractiveShell, line: str) -> None:
    parsed = _parsed(_config_line, line)
    if not isinstance(parsed, tuple):
        return
    choices, name, reset = parsed
    if reset and (name is not None or choices != Choices()):
        raise click.UsageError("--reset stands alone")
    if name is not None:
        client = _variable(shell, name)
        if isinstance(client, Conversation):
            raise click.UsageError(f"{name} is a Conversation; name it in a cell, with --client")
        if (
            choices.providers
            or choices.first_chunk_timeout
            or choices.config is not None
            or choices.stateless
        ):
            raise click.UsageError(
                f"{name} and -p, --first-chunk-timeout, --config, --no-state: choose one"
            )
        limit = {} if choices.deadline is None else {"deadline": choices.deadline}
        use(client, **limit, **_of_call(choices))
    elif reset:
        use(None)
    elif choices != Choices():
        client = choices.client()
        use(client, **choices.params())
        _made_of.clear()
        _made_of[client] = choices
    click.echo(_told())


def _told() -> str:
    usual = chosen()
    if usual is None:
        return f"by the configuration: {_names(Choices().client())}"
    client, params = usual
    choices = _made_of.get(client, Choices())
    settings = {name: getattr(choices, name) for name in _OF_THE_CLIENT}
    if isinstance(client, FailoverClient):
        settings["deadline"] = client.deadline
    settings = {name: value for name, value in settings.items() if value} | params
    also = "".join(f", {name}={value!r}" for name, value in settings.items())
    return one_line(redact(f"{_names(client)}{also}"))


def _names(client: BaseClient) -> str:
    if isinstance(client, FailoverClient):
        return ", then ".join(_names(provider) for provider in client.providers)
    return client.name
