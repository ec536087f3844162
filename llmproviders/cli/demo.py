"""``llmproviders demo``: the main job on the embedded sandbox, told step by step."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from contextlib import closing
from typing import Any

import click

from .. import _environ
from ..config import variables_of
from ..failover import FailoverClient
from ..providers import REGISTRY
from ..results import Attempt, FinishReason, Restart
from ..sandbox import Sandbox
from .notes import described, styled

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
        _tell("Five services run on this machine now, as stand-ins for the real ones, and go wrong")
        _tell("when told to. The client knows three of them, in this order:")
        _code("client = FailoverClient([GigaChat(), ChatGLM(), FlowGpt()])")
        with sandbox.client(*_PROVIDERS, attempts=2) as client:
            _stream(client)
            _failover(client, sandbox)
        with sandbox.client(*_PROVIDERS, attempts=2, on_interrupt="restart") as client:
            _restart(client, sandbox)
            _recovery(client, sandbox)
    _heading("That was all of it")
    _tell("Your own questions: llmproviders ask, with llmproviders sandbox for trying things out.")
    _tell("What works on this machine: llmproviders providers.")


def _stream(client: FailoverClient) -> None:
    _heading("1. A stream")
    _tell("The first service answers, and its text is shown piece by piece as it comes.")
    _code(f'for chunk in client.stream("{_QUESTION}"): print(chunk, end="", flush=True)')
    _show(client.stream(_QUESTION))


def _failover(client: FailoverClient, sandbox: Sandbox) -> None:
    _heading("2. A failover")
    _tell("Now the first service answers twice with 503, Service Unavailable. It is tried again")
    _tell("after a short wait, and then the second service answers.")
    sandbox.fail("gigachat", status=503, times=2)
    _show(client.stream(_QUESTION))


def _restart(client: FailoverClient, sandbox: Sandbox) -> None:
    _heading("3. A reply that breaks off")
    _tell('The connection is cut in the middle of the reply. With on_interrupt="restart" a stream')
    _tell("says that what it gave so far is void, and begins anew.")
    sandbox.fail("gigachat", cut_after=9)
    _show(client.stream(_QUESTION))


def _recovery(client: FailoverClient, sandbox: Sandbox) -> None:
    _heading("4. The same, unseen")
    _tell("Who wants the whole reply sees nothing of it: complete() asks again by itself.")
    _code(f'reply = client.complete("{_QUESTION}")')
    sandbox.fail("gigachat", cut_after=9)
    reply = client.complete(_QUESTION)
    _print(reply.text, fg="green")
    _attempts(reply.attempts)


def _show(stream: Any) -> None:
    attempts: Iterable[Attempt] = ()
    with closing(stream):
        for piece in stream:
            if isinstance(piece, Restart):
                _print("")
                _print(f"  {piece.provider} broke off; the text above is void.", fg="yellow")
            elif isinstance(piece, FinishReason):
                attempts = piece.attempts
            else:
                sys.stdout.write(styled(piece, sys.stdout, fg="green"))
                sys.stdout.flush()
    _print("")
    _attempts(attempts)


def _attempts(attempts: Iterable[Attempt]) -> None:
    for number, attempt in enumerate(attempts, 1):
        colour = "cyan" if attempt.error is None else "yellow"
        _print(f"  attempt {number}: {described(attempt)}", fg=colour)


def _heading(text: str) -> None:
    _print("")
    _print(text, bold=True)


def _tell(text: str) -> None:
    _print(text)


def _code(text: str) -> None:
    _print(f"    {text}", dim=True)


def _print(text: str, **style: Any) -> None:
    print(styled(text, sys.stdout, **style) if style else text, flush=True)
