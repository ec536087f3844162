"""``llmproviders demo``: the main job on the embedded sandbox, told step by step."""

from __future__ import annotations

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
from .notes import described, put

_QUESTION = "Why is the sky blue?"

_PIECE_DELAY_S = 0.02

_PROVIDERS = ("gigachat", "chatglm", "flowgpt")


@click.command("demo", epilog="Example: llmproviders demo")
def command() -> None:
    """See it work, with no key and no network.

    The services are stand-ins on this machine, which the command starts and ends.
    """
    for kind in REGISTRY.values():
        for names in variables_of(kind).values():
            _environ.hide(names)
    with Sandbox(piece_delay_s=_PIECE_DELAY_S) as sandbox:
        put("Five services run on this machine now, as stand-ins for the real ones, and go wrong")
        put("when told to. The client knows three of them, in this order:")
        _code("client = FailoverClient([GigaChat(), ChatGLM(), FlowGpt()])")
        with sandbox.client(*_PROVIDERS, attempts=2) as client:
            _stream(client)
            _failover(client, sandbox)
        with sandbox.client(*_PROVIDERS, attempts=2, on_interrupt="restart") as client:
            _restart(client, sandbox)
            _recovery(client, sandbox)
    _heading("That was all of it")
    put("Your own questions: llmproviders ask, with llmproviders sandbox for trying things out.")
    put("What works on this machine: llmproviders providers.")


def _stream(client: FailoverClient) -> None:
    _heading("1. A stream")
    put("The first service answers, and its text is shown piece by piece as it comes.")
    _code(f'for chunk in client.stream("{_QUESTION}"): print(chunk, end="", flush=True)')
    _show(client.stream(_QUESTION))


def _failover(client: FailoverClient, sandbox: Sandbox) -> None:
    _heading("2. A failover")
    put("Now the first service answers twice with 503, Service Unavailable. It is tried again")
    put("after a short wait, and then the second service answers.")
    sandbox.fail("gigachat", status=503, times=2)
    _show(client.stream(_QUESTION))


def _restart(client: FailoverClient, sandbox: Sandbox) -> None:
    _heading("3. A reply that breaks off")
    put('The connection is cut in the middle of the reply. With on_interrupt="restart" a stream')
    put("says that what it gave so far is void, and begins anew.")
    sandbox.fail("gigachat", cut_after=9)
    _show(client.stream(_QUESTION))


def _recovery(client: FailoverClient, sandbox: Sandbox) -> None:
    _heading("4. The same, unseen")
    put("Who wants the whole reply sees nothing of it: complete() asks again by itself.")
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
                put(f"  {piece.provider} broke off; the text above is void.", fg="yellow")
            elif isinstance(piece, FinishReason):
                attempts = piece.attempts
            else:
                put(piece, end="", fg="green")
    put("")
    _attempts(attempts)


def _attempts(attempts: Iterable[Attempt]) -> None:
    for number, attempt in enumerate(attempts, 1):
        colour = "cyan" if attempt.error is None else "yellow"
        put(f"  attempt {number}: {described(attempt)}", fg=colour)


def _heading(text: str) -> None:
    put("")
    put(text, bold=True)


def _code(text: str) -> None:
    put(f"    {text}", dim=True)
