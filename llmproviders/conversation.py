"""A conversation: keeps the history and sends it again with each new turn."""

from __future__ import annotations

import json
import os
import re
import weakref
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import closing
from copy import deepcopy
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

from . import _display
from ._account.arguments import spelled_out
from ._checks import whole
from ._request import (
    CompleteParams,
    ConversationParams,
    Params,
    RunParams,
    Self,
    StreamParams,
    Unpack,
    check_names,
)
from ._runtime.files import read, replace
from ._signals import from_handler, let_through
from .errors import LLMError
from .messages import RESULTS, Message, Prompt, calls_of, normalize, text_of
from .results import Completion, StreamText
from .tools import OnTool, Tool

_VERSION = 1

# Fields of an assistant's message that hold the model's thinking.
_THOUGHT = re.compile("reasoning|think|thought")

# Arguments of a call that may be among a conversation's parameters.
_OF_A_CALL = CompleteParams.__annotations__.keys() - Params.__annotations__.keys()

# Both may contain a password.
_NOT_SAVED = ("extra_headers", "proxy")

_LARGEST = 256 * 1024 * 1024


def _document(data: bytes) -> dict[str, Any]:
    """Read a saved conversation.

    Raises:
        ValueError: it is not one, or has another version.
    """
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        let_through(error)
        document = None
    if not isinstance(document, dict) or not document.keys() >= {"version", "params", "messages"}:
        raise ValueError("it holds something else than a conversation; name another file")
    if document["version"] != _VERSION:
        raise ValueError("another version of llmproviders wrote it; name another file")
    return document


class Answering(Protocol):
    """The methods of a client that a conversation uses."""

    @property
    def stream(self) -> Callable[..., Generator[str, None, None]]:
        """Yields the reply to a prompt."""

    @property
    def complete(self) -> Callable[..., Completion]:
        """Returns the reply to a prompt."""

    @property
    def run(self) -> Callable[..., Completion]:
        """Returns the final reply to a prompt, after running the functions that the model calls."""


class Conversation:
    """Keeps the turns of a conversation with one client; usually ``client.conversation()``.

    **What is kept.** A turn is the user's message and the reply. It is kept when the reply is
    whole, or when the caller stopped a stream after some text, since the next message may refer to
    that text. A turn whose reply failed is not kept: ask again. Tool calls are kept; answer them
    with messages of the role ``tool``. The model's thinking is kept only beside calls, where
    services want it back.

    **What is sent.** The system prompt, then the turns, then the new message. If that exceeds
    ``max_messages`` or ``max_characters``, the oldest turns are left out, one whole turn at a time;
    the system prompt and the new message are always sent, and so is the turn whose calls the new
    messages answer. ``messages`` still has all turns.
    Providers without history or system prompts (``supports_message_history``,
    ``supports_system_message``) write all of it as one text, ``Role: content`` in paragraphs.

    Use a conversation in one thread at a time; :meth:`fork` makes another one.

    Args:
        client: a provider or a ``FailoverClient``.
        system: the system prompt.
        model: a model or an alias; None for the default.
        messages: turns to begin with, in the form of ``messages``; a system message at the start
            becomes ``system``.
        max_messages: the most messages to send, the new one included, the system prompt not.
        max_characters: the most characters to send, the system prompt included.
        **params: sampling parameters for every turn.

    Attributes:
        client, system, model, max_messages, max_characters, params: the arguments; they may be
            changed between turns.

    Raises:
        InvalidRequestError: the messages have another shape.
        TypeError: a parameter that no service has.
        ValueError: ``max_messages`` or ``max_characters`` is below 1.

    >>> from llmproviders.testing import ScriptedProvider
    >>> chat = ScriptedProvider(["Because it scatters."]).conversation(system="Be brief.")
    >>> print(chat.ask("Why is the sky blue?"))
    Because it scatters.
    >>> [message["role"] for message in chat.messages]
    ['user', 'assistant']
    """

    @spelled_out(ConversationParams)
    def __init__(
        self,
        client: Answering,
        *,
        system: str | None = None,
        model: str | None = None,
        messages: Prompt = (),
        max_messages: int | None = None,
        max_characters: int | None = None,
        **params: Unpack[ConversationParams],
    ) -> None:
        check_names(params.keys() - _OF_A_CALL)
        self.client = client
        self.system = system
        self.model = model
        self.max_messages = None if max_messages is None else whole("max_messages", max_messages)
        self.max_characters = (
            None if max_characters is None else whole("max_characters", max_characters)
        )
        self.params: dict[str, Any] = {**params}
        self._said = normalize(messages) if messages else []
        if system is None and self._said and self._said[0]["role"] == "system":
            self.system = text_of(self._said.pop(0)["content"])
        self._running: weakref.ref[Generator[str, None, None]] | None = None

    @property
    def messages(self) -> list[Message]:
        """The turns so far, without the system prompt; a copy."""
        return deepcopy(self._said)

    @spelled_out(CompleteParams)
    def ask(self, text: Prompt, **params: Unpack[CompleteParams]) -> Completion:
        """Send ``text`` and return the reply.

        Args:
            text: the user's message, or messages, such as results of tools.
            **params: as for ``complete``, for this turn alone.

        Raises:
            LLMError: there is no whole reply; the turn is not kept.
        """
        self.end()
        said = normalize(text)
        asked, params_of_turn = self._asking(said, params)
        completion = self.client.complete(asked, **params_of_turn)
        self._keep(said, completion)
        return completion

    @spelled_out(RunParams)
    def run(
        self,
        text: Prompt,
        *,
        tools: Iterable[Tool] | None = None,
        max_turns: int = 8,
        on_tool: OnTool | None = None,
        **params: Unpack[RunParams],
    ) -> Completion:
        """Send ``text``, run the functions that the model calls, and return the final reply.

        The calls and their results are kept as part of the turn.

        Args:
            text: the user's message, or messages.
            tools: functions, as for a client's ``run``; None: those of the conversation's
                ``params``.
            max_turns: the most questions to the model.
            on_tool: gets each call and the text that is returned to the model.
            **params: as for a client's ``run``, for this turn alone.

        Raises:
            LLMError: there is no whole reply; the turn is not kept, and ``steps`` has the calls
                that were run.

        >>> from llmproviders.testing import ScriptedProvider
        >>> def weather(city: str) -> str:
        ...     "Tell the weather."
        ...     return "rain"
        >>> chat = ScriptedProvider(["Take one."]).conversation()
        >>> print(chat.run("An umbrella?", tools=[weather]))
        Take one.
        """
        self.end()
        said = normalize(text)
        asked, params_of_turn = self._asking(said, params)
        usual = params_of_turn.pop("tools", None)
        completion = self.client.run(
            asked,
            tools=usual if tools is None else tools,
            max_turns=max_turns,
            on_tool=on_tool,
            **params_of_turn,
        )
        self._keep([*said, *getattr(completion.steps, "messages", ())], completion)
        return completion

    @spelled_out(StreamParams)
    def stream(self, text: Prompt, **params: Unpack[StreamParams]) -> Generator[str, None, None]:
        """Send ``text`` and yield the reply as it arrives, as a client's ``stream`` does.

        A stream that is still open when the next turn begins is closed first.

        Args:
            text: the user's message, or messages, such as results of tools.
            **params: as for a client's ``stream``, for this turn alone.

        Raises:
            LLMError: while iterating; the turn is not kept.

        >>> from llmproviders.testing import ScriptedProvider
        >>> chat = ScriptedProvider(["Because ", "it scatters."]).conversation()
        >>> "".join(chat.stream("Why is the sky blue?"))
        'Because it scatters.'
        """
        self.end()
        said = normalize(text)
        asked, params_of_turn = self._asking(said, params)
        turn = self._turn(said, self.client.stream(asked, **params_of_turn))
        # The generator refers to its conversation. With a strong reference back, a conversation
        # dropped in the middle of a reply would keep its connection until the next garbage
        # collection.
        self._running = weakref.ref(turn)
        return turn

    def _turn(
        self, said: list[Message], stream: Generator[str, None, None]
    ) -> Generator[str, None, None]:
        reply = StreamText()
        try:
            with closing(stream):
                for piece in stream:
                    reply.add(piece)
                    if reply.finish is not None:
                        self._keep(said, reply.completion)
                    yield piece
        except BaseException as error:
            # Anything but a failed call is the caller's: a closed stream, Ctrl-C, SIGTERM.
            stopped = not isinstance(error, LLMError) or from_handler(error) is not None
            if stopped and reply.finish is None:
                self._keep(said, reply.completion)
            raise

    def end(self) -> None:
        """Stop the reply that is still streaming, if any; the text so far is kept."""
        running = self._running() if self._running is not None else None
        self._running = None
        if running is not None:
            running.close()

    def undo(self) -> str | None:
        """Remove the last turn and return what the user said in it; None if there is no turn."""
        self.end()
        turn = _turns(self._said)[-1:]
        told = [text_of(m["content"]) for one in turn for m in one if m["role"] == "user"]
        if not told:
            return None
        del self._said[-len(turn[0]) :]
        return "\n\n".join(told)

    def fork(self) -> Self:
        """Another conversation with the same client that begins with the same turns.

        >>> from llmproviders.testing import ScriptedProvider
        >>> chat = ScriptedProvider(["Yes."]).conversation()
        >>> other = chat.fork()
        >>> _ = other.ask("Sure?")
        >>> len(chat.messages), len(other.messages)
        (0, 2)
        """
        other = type(self)(self.client, **self._settings(), messages=self.messages)
        other.params = {**self.params}
        return other

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the conversation to a JSON file, whole or not at all, that only this user can read.

        Neither the client is written nor the parameters ``extra_headers`` and ``proxy``, which may
        contain a key. An existing file is replaced only if it is a saved conversation of a known
        version, belongs to this user, is closed to others (``chmod 600``), and is neither a link
        nor a device.

        Args:
            path: the file; ``~`` is the home folder.

        Raises:
            OSError: the file cannot be written, or is something else; it is unchanged.
            TypeError: a parameter cannot be written as JSON.

        >>> from llmproviders.testing import ScriptedProvider
        >>> client = ScriptedProvider(["Yes."])
        >>> chat = client.conversation(system="Be brief.")
        >>> _ = chat.ask("Sure?")
        >>> chat.save("chat.json")
        >>> Conversation.load("chat.json", client).system
        'Be brief.'
        """
        document = {
            "version": _VERSION,
            **self._settings(),
            "params": {n: v for n, v in self.params.items() if n not in _NOT_SAVED},
            "messages": self._said,
        }
        data = json.dumps(document, ensure_ascii=False, indent=1).encode() + b"\n"
        place = Path(os.path.expanduser(path))
        replace(place, lambda file: file.write(data), check=_document, most=_LARGEST)

    @classmethod
    def load(cls, path: str | os.PathLike[str], client: Answering) -> Self:
        """Read a conversation from a file that :meth:`save` wrote.

        Args:
            path: the file; ``~`` is the home folder.
            client: the provider or client to continue with.

        Raises:
            OSError: the file cannot be read.
            ValueError: it is not a saved conversation.
        """
        try:
            document = _document(read(Path(os.path.expanduser(path)), most=_LARGEST))
            document.pop("version")
            params = document.pop("params")
            check_names(params.keys() - _OF_A_CALL)
            loaded = cls(client, **document)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"{os.fspath(path)} is not a saved conversation: {error}") from error
        loaded.params = params
        return loaded

    def _settings(self) -> dict[str, Any]:
        return {
            "system": self.system,
            "model": self.model,
            "max_messages": self.max_messages,
            "max_characters": self.max_characters,
        }

    def _asking(
        self, new: list[Message], params: Mapping[str, Any]
    ) -> tuple[list[Message], dict[str, Any]]:
        """The messages to send, the newest turns that fit among them, and the parameters."""
        asked = {"model": self.model, **self.params, **params}
        system = asked.pop("system", None)
        instruction = self._instruction(self.system if system is None else system)
        said = list(self._said)
        answering = new[0]["role"] in RESULTS
        if said and calls_of(said[-1]) and not answering:
            # No service accepts calls without their results.
            content = said.pop()["content"]
            said += [{"role": "assistant", "content": content}] if content else []
        turns = _turns(said)
        # Nor results without their calls.
        new = [*(turns.pop() if answering and turns else ()), *new]
        while turns and not self._fits([*chain(*turns), *new], instruction):
            del turns[0]
        return [*instruction, *chain(*turns), *new], asked

    def _instruction(self, system: str | None) -> list[Message]:
        return [] if system is None else [{"role": "system", "content": system}]

    def _fits(self, sent: list[Message], system: list[Message]) -> bool:
        if self.max_messages is not None and len(sent) > self.max_messages:
            return False
        if self.max_characters is None:
            return True
        return sum(len(text_of(m["content"])) for m in (*system, *sent)) <= self.max_characters

    def _keep(self, said: list[Message], reply: Completion) -> None:
        called = bool(calls_of(reply.message))
        if not (called or reply.text.strip() or reply.finish_reason.images):
            return
        beside = (n for n in reply.message if called or not _THOUGHT.search(n))
        message = {name: deepcopy(reply.message[name]) for name in beside}
        self._said += [*said, {**message, "role": "assistant", "content": reply.text}]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_running": None}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.client!r}, {len(self._said)} messages)"

    def _repr_markdown_(self) -> str:
        said = [*self._instruction(self.system), *self._said]
        return "\n\n".join(
            f"**{message['role'].capitalize()}**\n\n{_display.markdown.harmless(text_of(message['content']))}"
            for message in said
        )


def _turns(messages: list[Message]) -> list[list[Message]]:
    """The turns, each with what the user said, the calls and their results, and the reply."""
    turns: list[list[Message]] = []
    for index, message in enumerate(messages):
        asks = message["role"] in ("user", "system")
        if not turns or (asks and messages[index - 1]["role"] == "assistant"):
            turns.append([])
        turns[-1].append(message)
    return turns
