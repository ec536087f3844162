"""``show``: display a reply as it grows."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from typing import Any

from .._account.arguments import spelled_out
from .._display.text import count, seconds, shell
from .._printable import be_brief
from .._request import StreamParams, Unpack
from .._runtime.scope import SYSTEM_CLOCK, Clock
from ..cli.options import Choices
from ..client import BaseClient, briefly
from ..conversation import Conversation
from ..messages import Prompt
from ..results import Completion, FinishReason, Restart, StreamText
from ._page import DisplayPlace, display_place

_chosen: tuple[BaseClient, dict[str, Any]] | None = None


@spelled_out(StreamParams)
def use(client: BaseClient | None, **params: Unpack[StreamParams]) -> None:
    """Choose the client that ``show`` and ``%%llm`` use from now on, as ``%llm_config`` does.

    Args:
        client: a provider or a ``FailoverClient``; None to use the configuration again.
        **params: defaults for every call: ``model``, ``system``, sampling parameters.

    >>> from llmproviders.testing import ScriptedProvider
    >>> use(ScriptedProvider(["Yes."]), system="Be brief.")
    >>> use(None)
    """
    global _chosen
    _chosen = None if client is None else (client, {**params})


def chosen() -> tuple[BaseClient, dict[str, Any]] | None:
    """The client in use and its parameters; None if it comes from the configuration."""
    return _chosen


@contextmanager
def in_use() -> Generator[tuple[BaseClient, dict[str, Any]], None, None]:
    """The client in use and its parameters; one made from the configuration is closed."""
    if _chosen is not None:
        yield _chosen
        return
    with Choices().client() as client:
        yield client, {}


@spelled_out(StreamParams, without="schema")
@briefly
def show(
    stream_or_prompt: Iterator[str] | Completion | Prompt,
    client: BaseClient | Conversation | None = None,
    *,
    note: bool = True,
    **params: Unpack[StreamParams],
) -> Completion:
    """Display a reply as it grows, and return it.

    In a notebook the text is shown as Markdown, updated at most about ten times a second, with a
    small line below it: provider, model, tokens and time. Elsewhere the text goes to standard
    output.

    Stopping the cell closes the connection, keeps the text so far on the page with a note, and
    raises ``KeyboardInterrupt``, so no later cell runs by accident; its ``partial_text`` has the
    text. After an error the text stays on the page too.

    Args:
        stream_or_prompt: what a client's ``stream`` returned; a ``Completion``, which is there
            already; or a prompt: a text or messages.
        client: a provider, a ``FailoverClient`` or a ``Conversation`` that the prompt is sent to.
            None: the one that ``%llm_config`` chose, or else the one from the configuration.
        note: whether to show the small line.
        **params: parameters for the client's ``stream``; only with a prompt. For a ``schema``, pass
            what ``complete`` returned.

    Raises:
        LLMError: there is no whole reply.
        KeyboardInterrupt: the cell was stopped.
        TypeError: a client or parameters were given together with a stream or a ``Completion``, or
            a ``schema``.

    >>> from llmproviders.testing import ScriptedProvider
    >>> reply = show("Why is the sky blue?", ScriptedProvider(["It ", "scatters."]), note=False)
    It scatters.
    >>> reply.provider
    'ScriptedProvider'
    """
    asked: dict[str, Any] = {**params}
    # Not a keyword of its own: only tests pass it.
    clock: Clock = asked.pop("clock", SYSTEM_CLOCK)
    if asked.get("schema") is not None:
        raise TypeError(
            "a schema needs the whole reply: use show(client.complete(prompt, schema=...))"
        )
    with ExitStack() as stack:
        if isinstance(stream_or_prompt, (Iterator, Completion)):
            if client is not None or asked:
                raise TypeError(
                    "a stream comes from its client with all parameters; pass only the stream"
                )
            if isinstance(stream_or_prompt, Completion):
                return _shown_whole(stream_or_prompt, display_place(clock), note=note)
            stream = stream_or_prompt
        else:
            if client is None:
                client, usual = stack.enter_context(in_use())
                asked = {**usual, **asked}
            stream = client.stream(stream_or_prompt, **asked)
        return _shown(stream, display_place(clock), clock, note=note)


def _cell() -> int | None:
    number: int | None = getattr(shell(), "execution_count", None)
    return number


def _display_again(cell: int | None) -> None:
    """Called by IPython to display a reply that ``cell`` has already shown."""
    if cell is None or cell != _cell():
        raise NotImplementedError


def _shown(stream: Iterator[str], page: DisplayPlace, clock: Clock, *, note: bool) -> Completion:
    began = clock.monotonic()
    first_text_after: float | None = None
    said = StreamText()
    page.begin()
    try:
        with ExitStack() as stack:
            if isinstance(stream, Generator):
                stack.enter_context(closing(stream))
            for piece in stream:
                said.add(piece)
                if isinstance(piece, Restart):
                    page.restart(piece.provider)
                elif piece:
                    if first_text_after is None:
                        first_text_after = clock.monotonic() - began
                    page.add(piece)
    except BaseException as error:
        page.end(_end_of(error, clock.monotonic() - began, begun=first_text_after is not None))
        if isinstance(error, KeyboardInterrupt):
            error.partial_text = said.text  # type: ignore[attr-defined]
            be_brief(error)
        raise
    reply = said.completion
    line = _line(reply.finish_reason, clock.monotonic() - began, first_text_after)
    return _ended(reply, page, line if note else _trouble(reply.finish_reason))


def _shown_whole(reply: Completion, page: DisplayPlace, *, note: bool) -> Completion:
    finish = reply.finish_reason
    if reply.text:
        page.add(reply.text)
    return _ended(reply, page, _line(finish, None, None) if note else _trouble(finish))


def _ended(reply: Completion, page: DisplayPlace, line: str) -> Completion:
    page.end(line)
    for image in reply.finish_reason.images:
        page.draw(image)
    # As the last value of its cell, IPython would display it a second time.
    object.__setattr__(reply, "_ipython_display_", partial(_display_again, _cell()))
    return reply


def _line(finish: FinishReason, took: float | None, first_text_after: float | None) -> str:
    failed = sum(attempt.error is not None for attempt in finish.attempts)
    first = "" if first_text_after is None else f" (first text after {seconds(first_text_after)})"
    words = (
        finish.provider,
        finish.model,
        _tokens(finish),
        seconds(took) + first,
        f"after {count(failed, 'failed attempt')}" if failed else None,
        _trouble(finish),
    )
    return " · ".join(word for word in words if word)


def _tokens(finish: FinishReason) -> str | None:
    usage = finish.usage
    if usage is None:
        return None
    if usage.prompt_tokens is not None and usage.completion_tokens is not None:
        return f"{usage.prompt_tokens:,} + {usage.completion_tokens:,} tokens"
    return None if usage.total_tokens is None else f"{usage.total_tokens:,} tokens"


def _trouble(finish: FinishReason) -> str:
    """A warning for a reply that is not complete."""
    if finish.reason == "length":
        return "cut at its largest length; raise max_tokens for more"
    if finish.reason == "content_filter":
        return "stopped by the service's filter" + (f": {finish.detail}" if finish.detail else "")
    if finish.tool_calls:
        return f"asks for {count(len(finish.tool_calls), 'call')} of a tool"
    return ""


def _end_of(error: BaseException, after: float, *, begun: bool) -> str:
    if isinstance(error, KeyboardInterrupt):
        return f"stopped after {seconds(after)}; the connection is closed"
    if not begun:
        return f"no reply: {type(error).__name__}"
    return f"broke off after {seconds(after)}: {type(error).__name__}"
