"""``llmproviders chat``: a conversation at a terminal."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import click

from .._checks import nearest
from .._runtime.scope import SLICE_S
from ..client import BaseClient
from ..conversation import Conversation
from ..errors import LLMError
from ..results import FinishReason
from .arguments import FILE, path_of
from .exits import CommandError, Exit
from .files import WholeFile
from .notes import Line, Notes, check_stdout, explained, put, say, tell
from .options import Choices, call_options

_HELP = """\
/retry        ask the last question again
/system TEXT  set the system prompt; /system - removes it, /system shows it
/model NAME   use this model; /model - resets it to the default, /model shows it
/save FILE    write the conversation: as Markdown, or, if FILE ends in .json, for
              Conversation.load
/help         show this
/quit         leave, as does Ctrl-D
Ctrl-C stops a reply and keeps the text so far. To ask a question that starts with /, type //.
"""


@click.command("chat", epilog='Example: llmproviders chat -p chatglm -s "Answer briefly."')
@click.option("--load", type=FILE, metavar="FILE", help="Continue a conversation saved as FILE.")
@click.option("--plain", is_flag=True, help="Do not render Markdown.")
@call_options
def command(choices: Choices, load: str | None, plain: bool) -> None:
    """Hold a conversation at the terminal.

    Ctrl-C stops a reply and keeps the conversation, Ctrl-D leaves; /help lists the commands.
    """
    check_stdout()
    notes = choices.notes()
    with choices.client(on_event=notes.attempt) as client:
        names = [provider.name for provider in client.providers]
        tell(f"Talking to {', '.join(names)}. /help lists the commands, Ctrl-D leaves.")
        conversation = _loaded(load, client) if load else Conversation(client)
        params = choices.params()
        conversation.system = params.pop("system", conversation.system)
        conversation.params.update(params)
        if load:
            conversation.model = choices.model or conversation.model
            tell(f"Going on after {len(conversation.messages)} messages of {load}.")
        Chat(conversation, notes, names, plain=plain).run(_questions())


def _loaded(path: str, client: BaseClient) -> Conversation:
    try:
        return Conversation.load(path, client)
    except OSError as error:
        raise CommandError(f"{path} cannot be read: {error.strerror}", Exit.USAGE) from error
    except ValueError as error:
        raise CommandError(str(error), Exit.USAGE) from error


class Chat:
    """Runs the lines of a conversation: questions and commands."""

    def __init__(
        self, conversation: Conversation, notes: Notes, providers: list[str], *, plain: bool
    ) -> None:
        self._conversation = conversation
        self._plain = plain
        self._notes = notes
        self._providers = providers
        self._failed: str | None = None
        self._commands: dict[str, Callable[[str], None]] = {
            "retry": self._retry,
            "system": self._set_system,
            "model": self._set_model,
            "save": self._save,
            "help": lambda _: tell(_HELP.rstrip()),
        }

    def run(self, read: Callable[[], str]) -> None:
        """Take lines from ``read`` until it raises ``EOFError`` or one of them ends it."""
        while True:
            try:
                line = read().strip()
            except EOFError:
                return
            except KeyboardInterrupt:
                tell("\n/quit or Ctrl-D leaves.")
                continue
            if line == "/quit":
                return
            if line.startswith("/") and not line.startswith("//"):
                self._command(line)
            elif line:
                self._ask(line.removeprefix("/"))

    def _command(self, line: str) -> None:
        word, _, rest = line[1:].partition(" ")
        action = self._commands.get(word)
        if action is None:
            near = nearest(word, self._commands)
            hint = f"did you mean /{near}?" if near else "/help lists the commands."
            tell(f"There is no /{word}; {hint}")
        else:
            action(rest.strip())

    def _ask(self, question: str) -> None:
        self._failed = question
        try:
            with (
                closing(self._conversation.stream(question)) as stream,
                closing(Line(markdown=not self._plain)) as line,
            ):
                for piece in stream:
                    line.add(piece)
                    if isinstance(piece, FinishReason):
                        line.close()
                        self._notes.reply(piece)
                        self._failed = None
        except KeyboardInterrupt:
            tell("(stopped)")
            if self._conversation.messages[-2:-1] == [{"role": "user", "content": question}]:
                self._failed = None
        except LLMError as error:
            say(explained(error, self._providers), fg="red")

    def _retry(self, _rest: str) -> None:
        question = self._failed or self._conversation.undo()
        if question is None:
            tell("There is nothing to ask again.")
        else:
            self._ask(question)

    def _set_system(self, rest: str) -> None:
        if rest:
            self._conversation.system = None if rest == "-" else rest
        tell(f"System prompt: {self._conversation.system or '(none)'}")

    def _set_model(self, rest: str) -> None:
        if rest:
            self._conversation.model = None if rest == "-" else rest
        tell(f"Model: {self._conversation.model or '(default)'}")

    def _save(self, rest: str) -> None:
        if not rest:
            tell("Name a file: /save FILE")
            return
        path = Path(path_of(rest)).expanduser()
        try:
            if path.suffix == ".json":
                self._conversation.save(path)
            else:
                WholeFile(str(path)).write(_as_markdown(self._conversation))
        except CommandError as error:
            say(str(error))
        except OSError as error:
            say(f"{path}: {error.strerror or error}")
        else:
            tell(f"Saved {len(self._conversation.messages)} messages in {path}")


def _as_markdown(conversation: Conversation) -> str:
    system = conversation.system
    said = [{"role": "system", "content": system}] if system else []
    said += conversation.messages
    return "\n".join(f"## {m['role'].capitalize()}\n\n{m['content']}\n" for m in said)


def _questions() -> Callable[[], str]:
    """Return a function that reads a line, with editing at a terminal."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        return _piped
    with suppress(ImportError):
        # Gives input() editing and history.
        import readline

        # In a locale such as C, it treats bytes of non-ASCII letters as commands.
        for setting in ("input-meta on", "output-meta on", "convert-meta off"):
            readline.parse_and_bind(f"set {setting}")
    return _typed


def _typed() -> str:
    try:
        with _waking():
            return input("> ")
    except EOFError:
        put("")
        raise
    except SystemError as error:
        # input() runs the handlers of signals once more when one has raised. Python then takes the
        # timer's for a function that broke its rules.
        if isinstance(error.__cause__, (KeyboardInterrupt, SystemExit)):
            raise error.__cause__ from None
        raise


@contextmanager
def _waking() -> Iterator[None]:
    """Let every signal be handled within a fifth of a second while a line is typed.

    Without this, Python handles one that arrives just before readline begins to wait only at the
    next key.
    """
    if not hasattr(signal, "setitimer"):
        yield
        return
    signal.signal(signal.SIGALRM, lambda _number, _frame: None)
    signal.setitimer(signal.ITIMER_REAL, SLICE_S, SLICE_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _piped() -> str:
    try:
        line = sys.stdin.readline()
    except OSError as error:
        message = f"standard input cannot be read: {error.strerror or error}"
        raise CommandError(message, Exit.USAGE) from error
    if not line:
        raise EOFError
    return line
