"""``llmproviders chat``: a conversation at a terminal."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from contextlib import closing, suppress
from typing import Any

import click

from .._params import nearest
from ..errors import LLMError
from ..failover import FailoverClient
from ..messages import Message
from ..results import FinishReason, Restart
from .files import WholeFile
from .notes import Notes, say, styled
from .options import Choices, call_options

_HELP = """\
/retry        ask the last question again
/system TEXT  set the system prompt; /system - takes it away, /system shows it
/model NAME   ask this model; /model - the default one again, /model shows it
/save FILE    write the conversation: as JSON where FILE ends in .json, else as Markdown
/help         show this
/quit         leave, as does Ctrl-D
Ctrl-C stops a reply and keeps what came of it. A line that starts with // is a question with /.
"""


@click.command("chat", epilog='Example: llmproviders chat -p chatglm -s "Answer briefly."')
@call_options
def command(choices: Choices) -> None:
    """Hold a conversation at the terminal.

    Ctrl-C stops a reply and keeps the conversation, Ctrl-D leaves; /help tells the rest.
    """
    notes = choices.notes()
    with choices.client(on_event=notes.attempt) as client:
        names = ", ".join(provider.name for provider in client.providers)
        _tell(f"Talking to {names}. /help tells what there is, Ctrl-D leaves.")
        Chat(client, notes, model=choices.model, **choices.params()).run(_questions())


class Chat:
    """The messages so far, and what a line does to them."""

    def __init__(
        self,
        client: FailoverClient,
        notes: Notes,
        *,
        model: str | None = None,
        system: str | None = None,
        **params: Any,
    ) -> None:
        self._client = client
        self._notes = notes
        self._model = model
        self._system = system
        self._params = params
        self._messages: list[Message] = []
        self._commands: dict[str, Callable[[str], None]] = {
            "retry": self._retry,
            "system": self._set_system,
            "model": self._set_model,
            "save": self._save,
            "help": lambda _: _tell(_HELP.rstrip()),
        }

    def run(self, read: Callable[[], str]) -> None:
        """Take lines from ``read`` until it raises ``EOFError``, or a line says so."""
        while True:
            try:
                line = read().strip()
            except EOFError:
                return
            except KeyboardInterrupt:
                _tell("\n/quit or Ctrl-D leaves.")
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
            hint = f"did you mean /{near}?" if near else "/help tells what there is."
            _tell(f"There is no /{word}; {hint}")
            return
        try:
            action(rest.strip())
        except (click.UsageError, OSError) as error:
            say(error.format_message() if isinstance(error, click.UsageError) else str(error))

    def _ask(self, question: str) -> None:
        if self._messages and self._messages[-1]["role"] == "user":
            # It had no reply, and was not asked again.
            self._messages.pop()
        self._messages.append({"role": "user", "content": question})
        reply = self._reply()
        if reply:
            self._messages.append({"role": "assistant", "content": reply})

    def _reply(self) -> str:
        """The reply, or what came of it."""
        pieces: list[str] = []
        try:
            with closing(self._stream()) as stream:
                for piece in stream:
                    if isinstance(piece, Restart):
                        pieces.clear()
                        _tell(f"\n{piece.provider} broke off; what came of its reply is void.")
                    elif isinstance(piece, FinishReason):
                        self._end_line(pieces)
                        self._notes.reply(piece)
                    else:
                        pieces.append(piece)
                        sys.stdout.write(piece)
                        sys.stdout.flush()
        except KeyboardInterrupt:
            self._end_line(pieces)
            _tell("(stopped)")
        except LLMError as error:
            self._end_line(pieces)
            say(str(error), fg="red")
        return "".join(pieces)

    def _stream(self) -> Any:
        params = {"system": self._system, **self._params}
        given = {name: value for name, value in params.items() if value is not None}
        return self._client.stream(self._messages, model=self._model, **given)

    def _end_line(self, pieces: list[str]) -> None:
        if pieces and not pieces[-1].endswith("\n"):
            print(flush=True)

    def _retry(self, _rest: str) -> None:
        while self._messages and self._messages[-1]["role"] == "assistant":
            self._messages.pop()
        if not self._messages:
            _tell("There is nothing to ask again.")
            return
        self._ask(self._messages.pop()["content"])

    def _set_system(self, rest: str) -> None:
        if rest:
            self._system = None if rest == "-" else rest
        _tell(f"System prompt: {self._system or '(none)'}")

    def _set_model(self, rest: str) -> None:
        if rest:
            self._model = None if rest == "-" else rest
        _tell(f"Model: {self._model or '(default)'}")

    def _save(self, rest: str) -> None:
        if not rest:
            _tell("Name a file: /save FILE")
            return
        system = [{"role": "system", "content": self._system}] if self._system else []
        messages = [*system, *self._messages]
        if rest.endswith(".json"):
            text = json.dumps(messages, ensure_ascii=False, indent=2)
        else:
            text = "\n\n".join(f"## {m['role'].capitalize()}\n\n{m['content']}" for m in messages)
        WholeFile(rest).write(text + "\n")
        _tell(f"Saved {len(self._messages)} messages in {rest}")


def _questions() -> Callable[[], str]:
    """What reads a line: with editing at a terminal."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        return lambda: _line_of(sys.stdin.readline())
    with suppress(ImportError):
        import readline  # noqa: F401 - input() uses it once it is loaded
    return lambda: input("> ")


def _line_of(line: str) -> str:
    if not line:
        raise EOFError
    return line


def _tell(text: str) -> None:
    print(styled(text, sys.stderr, dim=True), file=sys.stderr, flush=True)
