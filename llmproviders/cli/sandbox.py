"""``llmproviders sandbox``: the services' protocols on loopback."""

from __future__ import annotations

import shlex
import sys
from typing import Any

import click

from ..sandbox import Sandbox, parse_fault
from ..sandbox._names import CLASS_NAMES
from .exits import CommandError, Exit
from .notes import put, say
from .options import Number


def _fault(spec: str) -> tuple[str, dict[str, Any]]:
    try:
        return parse_fault(spec)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def _services_like(_context: click.Context, _parameter: click.Parameter, begun: str) -> list[str]:
    """The services that can fail, each with the sign that comes before its fault."""
    return [f"{name}=" for name in CLASS_NAMES if name.startswith(begun.lower())]


@click.command(
    "sandbox",
    epilog="Example: llmproviders sandbox --port 8123 --fail gigachat=503x2 --fail chatglm=cut:3",
)
@click.option(
    "--port", type=click.IntRange(0, 65535), default=0, help="Where to listen; 0: any free one."
)
@click.option(
    "--fail",
    "faults",
    type=_fault,
    multiple=True,
    shell_complete=_services_like,
    metavar="PROVIDER=FAULT[xTIMES]",
    help="What goes wrong: a status (503, 429:2 with a Retry-After), cut:N, stall, drip, "
    "reset, garbage, html, empty, wrong-json (for a schema). TIMES is a number or always. "
    "PROVIDER-token and chatgptt-page apply to the requests before a chat.",
)
@click.option(
    "--delay",
    type=Number(min=0, max=3600),
    default=0.02,
    show_default=True,
    metavar="SECONDS",
    help="Time between two pieces of a reply.",
)
def command(port: int, faults: tuple[tuple[str, dict[str, Any]], ...], delay: float) -> None:
    """Serve all protocols on this machine, with faults on request.

    It first prints lines of export NAME=value: the environment that points every other command at
    it. Copy them into another terminal. Ctrl-C or SIGTERM ends it.
    """
    sandbox = Sandbox(port=port, piece_delay_s=delay)
    for provider, fault in faults:
        sandbox.fail(provider, **fault)
    try:
        sandbox.start()
    except OSError as error:
        message = f"port {port} cannot be used: {error.strerror}"
        raise CommandError(message, Exit.USAGE) from None
    with sandbox:
        for name, value in sandbox.environ().items():
            put(f"export {name}={shlex.quote(value)}")
        if sys.stderr.isatty():
            say(f"serving at {sandbox.url}; Ctrl-C ends it")
        sandbox.wait()
