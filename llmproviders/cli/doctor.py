"""``llmproviders doctor``: every check, and what to do about each problem."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

import click

from .._printable import one_line
from .._redact import redact
from ..config._settings import ConfigError, Configuration
from .checks import (
    Finding,
    Level,
    check_configuration,
    check_plug_ins,
    check_provider,
    check_proxies,
    check_python,
    check_state,
    fail,
)
from .exits import Exit
from .notes import NOTHING, put, show_logs, wrapped
from .options import Choices, check_options

_INDENT = " " * 6

_COLOURS = {Level.OK: "green", Level.WARN: "yellow", Level.FAIL: "red"}


@click.command("doctor", epilog="Example: llmproviders doctor --offline")
@click.option("--offline", is_flag=True, help="Do not connect to anything.")
@click.option("--live", is_flag=True, help="Send each provider a tiny request, too.")
@check_options
def command(choices: Choices, offline: bool, live: bool) -> Exit:
    """Check this machine's setup and say what to do about each problem.

    A FAIL keeps something from working and makes the exit code 1; a WARN may do so one day. Without
    --live nothing that costs money is sent.
    """
    if offline and live:
        raise click.UsageError("--offline and --live cannot be combined")
    show_logs(NOTHING)
    told: set[Finding] = set()
    for finding in _findings(choices, offline=offline, live=live):
        # Providers that share a file or a bundle share its problems.
        if finding not in told:
            _print(finding)
        told.add(finding)
    failed = any(finding.level is Level.FAIL for finding in told)
    return Exit.UNEXPECTED if failed else Exit.OK


def _findings(choices: Choices, *, offline: bool, live: bool) -> Iterator[Finding]:
    yield from check_python()
    try:
        configuration = choices.configuration()
    except ConfigError as error:
        given = f" --config {shlex.quote(choices.config)}" if choices.config else ""
        remedy = f'edit it: $EDITOR "$(llmproviders config path{given})"'
        if isinstance(error.__context__, FileNotFoundError):
            remedy = f"make it: llmproviders config init{given}"
        yield fail("configuration", str(error), remedy)
        # Only providers in the configuration file are asked.
        configuration = Configuration(())
    else:
        yield from check_configuration(configuration)
    yield from check_plug_ins()
    yield from check_proxies(configuration.providers, offline=offline)
    for settings in configuration.providers:
        yield from check_provider(settings, offline=offline, live=live)
    yield from check_state(configuration)


def _print(finding: Finding) -> None:
    put(f"{finding.level.value:<4}", end="  ", fg=_COLOURS[finding.level], bold=True)
    text = one_line(redact(f"{finding.topic}: {finding.text}"))
    put(wrapped(text, indent=_INDENT).lstrip())
    if finding.remedy:
        remedy = one_line(redact(f"do: {finding.remedy}"))
        put(wrapped(remedy, indent=_INDENT, hanging=_INDENT + "    "))
