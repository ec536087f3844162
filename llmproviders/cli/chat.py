"""``llmproviders chat``: a conversation at a terminal."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import click

from .._checks import nearest
from .._display.text import count
from .._runtime.scope import SLICE_S
from ..client import BaseClient
from ..conversation import Conversation
from ..errors import LLMError
from ..messages import text_of
from ..results import FinishReason, StreamText
from .arguments import FILE, path_of
from .exits import CommandError, Exit, exit_of_error, exit_of_reply
from .files import WholeFile
from .notes import Line, Notes, check_stdout, explained, put, say, tell
from .options import Choices, call_options, takes_back

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
def command(choices: Choices, load: str | None, plain: bool) -> Exit:
    """Hold a conversation at the terminal.

    Ctrl-C stops a reply and keeps the conversation, Ctrl-D leaves; /help lists the commands.
    """
    check_stdout()
    notes = choices.notes()
    configuration = choices.configuration()
    with configuration.having(on_event=notes.attempt).client() as client:
        names = [provider.name for provider in client.providers]
        notes.tell(f"Talking to {', '.join(names)}. /help lists the commands, Ctrl-D leaves.")
        conversation = _loaded(load, client) if load else Conversation(client)
        params = choices.params()
        conversation.system = params.pop("system", conversation.system)
        conversation.params.update(params)
        if load:
            conversation.model = choices.model or conversation.model
            notes.tell(f"Going on after {len(conversation.messages)} messages of {load}.")
        chat = Chat(conversation, notes, names, plain=plain, whole=takes_back(configuration))
        ended = chat.run(_questions())
    return Exit.OK if sys.stdin.isatty() else ended


def _loaded(path: str, client: BaseClient) -> Conversation:
    try:
        return Conversation.load(path, client)
    except OSError as error:
        raise CommandError(f"{path} cannot be read: {error.strerror}", Exit.USAGE) from error
    except ValueError as error:
        raise CommandError(str(error), Exit.USAGE) from error


class Chat:
    """Runs the lines of a conversation: questions and commands.

    Args:
        conversation: what they continue.
        notes: what to print on standard error.
        providers: the names of those that are asked.
        plain: whether to leave Markdown as it is.
        whole: whether to print each reply only once it has ended.
    """

    def __init__(
        self,
        conversation: Conversation,
        notes: Notes,
        providers: list[str],
        *,
        plain: bool,
        whole: bool,
    ) -> None:
        self._conversation = conversation
        self._plain = plain
        self._whole = whole
        self._notes = notes
        self._providers = providers
        self._failed: str | None = None
        self._last = self._earlier = Exit.OK
        self._commands: dict[str, Callable[[str], None]] = {
            "retry": self._retry,
            "system": self._set_system,
            "model": self._set_model,
            "save": self._save,
            "help": lambda _: tell(_HELP.rstrip()),
        }

    def run(self, read: Callable[[], str]) -> Exit:
        """Take lines from ``read`` until it raises ``EOFError`` or one of them ends it.

        Returns:
            The code of the last failure, except for a question that ``/retry`` then got answered.
        """
        while True:
            try:
                line = read().strip()
            except EOFError:
                break
            except KeyboardInterrupt:
                tell("\n/quit or Ctrl-D leaves.")
                continue
            if line == "/quit":
                break
            if line.startswith("/") and not line.startswith("//"):
                self._command(line)
            elif line:
                self._ask(line.removeprefix("/"))
        return self._last or self._earlier

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
        self._earlier = self._last or self._earlier
        self._failed = question
        try:
            finish = self._show(question)
            self._failed = None
            self._notes.reply(finish)
            self._last = exit_of_reply(finish)
        except KeyboardInterrupt:
            self._last = Exit.INTERRUPTED
            tell("(stopped)")
            if self._conversation.messages[-2:-1] == [{"role": "user", "content": question}]:
                self._failed = None
        except LLMError as error:
            self._last = exit_of_error(error)
            say(explained(error, self._providers), fg="red")

    def _show(self, question: str) -> FinishReason:
        said = StreamText()
        with (
            closing(self._conversation.stream(question)) as stream,
            closing(Line(markdown=not self._plain)) as line,
        ):
            try:
                for piece in stream:
                    said.add(piece)
                    if not self._whole:
                        line.add(piece)
            finally:
                if self._whole:
                    line.add(said.text)
        return said.completion.finish_reason

    def _retry(self, _rest: str) -> None:
        question = self._failed or self._conversation.undo()
        if question is None:
            tell("There is nothing to ask again.")
        else:
            self._last = Exit.OK
            self._ask(question)

    def _set_system(self, rest: str) -> None:
        if rest:
            self._conversation.system = None if rest == "-" else rest
        self._tell_setting(f"System prompt: {self._conversation.system or '(none)'}", rest)

    def _set_model(self, rest: str) -> None:
        if rest:
            self._conversation.model = None if rest == "-" else rest
        self._tell_setting(f"Model: {self._conversation.model or '(default)'}", rest)

    def _tell_setting(self, text: str, changed: str) -> None:
        (self._notes.tell if changed else tell)(text)

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
            self._notes.tell(f"Saved {len(self._conversation.messages)} messages in {path}")


def _as_markdown(conversation: Conversation) -> str:
    system = conversation.system
    said = [{"role": "system", "content": system}] if system else []
    said += conversation.messages
    return "\n".join(f"## {m['role'].capitalize()}\n\n{_told(m['content'])}\n" for m in said)


def _told(content: str | Sequence[Mapping[str, Any]]) -> str:
    """The text of a message, and how many pictures or files it has."""
    if isinstance(content, str):
        return content
    others = sum(part["type"] != "text" for part in content)
    about = f"({count(others, 'attachment')})" if others else ""
    return "\n\n".join(filter(None, (text_of(content), about)))


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
