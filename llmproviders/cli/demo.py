"""``llmproviders demo``: the main job on the embedded sandbox, told step by step."""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import closing
from typing import Any

import click

from .. import _environment as _environ
from ..config._settings import variables_of
from ..errors import Attempt
from ..failover._client import FailoverClient
from ..providers import REGISTRY
from ..results import FinishReason, Restart
from ..sandbox import Sandbox
from .notes import described, put, wrapped

_QUESTION = "Why is the sky blue?"

_PIECE_DELAY_S = 0.02

_PROVIDERS = ("gigachat", "deepseek", "chatglm")


@click.command("demo", epilog="Example: llmproviders demo")
def command() -> None:
    """See it work, with no key and no network.

    The services are stand-ins on this machine, which the command starts and stops.
    """
    for kind in REGISTRY.values():
        for names in variables_of(kind).values():
            _environ.hide(names)
    with Sandbox(piece_delay_s=_PIECE_DELAY_S) as sandbox:
        _say(
            "Stand-ins for the services now run on this machine and fail on request. The client "
            "asks three of them in this order:"
        )
        _code("client = FailoverClient([GigaChat(), DeepSeek(), ChatGLM()])")
        with sandbox.client(*_PROVIDERS, attempts=2) as client:
            _stream(client)
            _failover(client, sandbox)
        with sandbox.client(*_PROVIDERS, attempts=2, on_interrupt="restart") as client:
            _restart(client, sandbox)
            _recovery(client, sandbox)
    _heading("That's it")
    _say("To ask your own questions: llmproviders ask. To try things out: llmproviders sandbox.")
    _say("To see what works on this machine: llmproviders providers.")


def _stream(client: FailoverClient) -> None:
    _heading("1. A stream")
    _say("The first service answers, and its text is printed as it arrives.")
    _code(f'for chunk in client.stream("{_QUESTION}"): print(chunk, end="", flush=True)')
    _show(client.stream(_QUESTION))


def _failover(client: FailoverClient, sandbox: Sandbox) -> None:
    _heading("2. A failover")
    _say(
        "Now the first service answers 503 Service Unavailable, twice. The client tries it again "
        "after a short wait, then asks the second one."
    )
    sandbox.fail("gigachat", status=503, times=2)
    _show(client.stream(_QUESTION))


def _restart(client: FailoverClient, sandbox: Sandbox) -> None:
    _heading("3. A reply that is cut short")
    _say(
        'The connection closes early, in the middle of a reply. With on_interrupt="restart" the '
        "stream tells you to drop the text so far, and starts again."
    )
    sandbox.fail("gigachat", cut_after=9)
    _show(client.stream(_QUESTION))


def _recovery(client: FailoverClient, sandbox: Sandbox) -> None:
    _heading("4. The same, for a whole reply")
    _say("complete() has shown nothing yet, so it asks again by itself: you get one whole reply.")
    _code(f'reply = client.complete("{_QUESTION}")')
    sandbox.fail("gigachat", cut_after=9)
    reply = client.complete(_QUESTION)
    put(reply.text, fg="green")
    _attempts(reply.attempts)


def _show(stream: Any) -> None:
    attempts: Iterable[Attempt] = ()
    with closing(stream):
        for piece in stream:
            if isinstance(piece, Restart):
                put("")
                text = f"{piece.provider} closed the connection early; the text above is void."
                put(wrapped(text, indent="  "), fg="yellow")
            elif isinstance(piece, FinishReason):
                attempts = piece.attempts
            else:
                put(piece, end="", fg="green")
    put("")
    _attempts(attempts)


def _attempts(attempts: Iterable[Attempt]) -> None:
    for number, attempt in enumerate(attempts, 1):
        colour = "cyan" if attempt.error is None else "yellow"
        text = f"attempt {number}: {_in_short(attempt)}"
        put(wrapped(text, indent="  ", hanging="      "), fg=colour)


def _in_short(attempt: Attempt) -> str:
    """An attempt in one line, without the messages of the underlying libraries."""
    return re.split(r": IncompleteRead| \(HTTP ", described(attempt))[0]


def _say(text: str) -> None:
    put(wrapped(text))


def _heading(text: str) -> None:
    put("")
    put(text, bold=True)


def _code(text: str) -> None:
    put(f"    {text}", dim=True)
