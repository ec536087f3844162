"""``llmproviders providers``: the providers, which of them work, and where keys come from."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass
from functools import partial
from math import inf
from typing import Any

import click

from .._printable import one_line
from .._redact import redact
from .._runtime.scope import in_slices
from .._signals import let_through
from ..config._settings import ConfigError, Configuration, ProviderSettings, secrets_of
from ..errors import AllProvidersFailed, LLMError
from ..providers import REGISTRY, broken, every, find
from .exits import Exit, exit_of_error
from .notes import NOTHING, print_table, put, say, show_logs
from .options import Choices, setup_options

TINY_PROMPT = "Answer with one word: ready?"

_CHECK_TIMEOUT_S = 20.0


@click.command("providers", epilog="Example: llmproviders providers --check")
@click.option("--json", "as_json", is_flag=True, help="Print a list of objects.")
@click.option(
    "--check", is_flag=True, help="Send each one a tiny request; this may cost a few tokens."
)
@setup_options
def command(choices: Choices, as_json: bool, check: bool) -> Exit:
    """List the providers: what works, and where keys come from.

    Configured providers come first, in order of priority. With --check the exit code is 0 if at
    least one of them answers. A guest service is only asked if it is named.
    """
    show_logs(NOTHING)
    configuration = choices.configuration()
    listed, unusable = every_provider(configuration)
    in_force = configuration.providers
    # A guest service that was not named is never contacted.
    asked = [item for item in listed if item in in_force or item.kind.needs_auth]
    found = dict(zip(map(id, asked), ask_each(asked) if check else [], strict=False))
    checks = [found.get(id(item)) for item in listed]
    if as_json:
        rows = [_as_object(item) for item in listed]
        if check:
            for row, result in zip(rows, checks, strict=True):
                row["check"] = None if result is None else str(result)
        unknown = dict.fromkeys(rows[0])
        for name, why in unusable.items():
            rows.append({**unknown, "name": name, "type": name, "working": False, "error": why})
        put(json.dumps(rows, ensure_ascii=False, indent=2))
    else:
        _print(listed, checks, checked=check)
        for why in unusable.values():
            say(why)
    return _exit_of(checks)


def every_provider(
    configuration: Configuration,
) -> tuple[list[ProviderSettings], dict[str, str]]:
    """The configured providers in order of priority, then the other types.

    Returns:
        The providers; and by name, why some providers of installed packages cannot be used.
    """
    named = {item.kind for item in configuration.providers}
    listed = list(configuration.providers)
    unusable = {name: plug_in.why for name, plug_in in broken().items()}
    for name, kind in every().items():
        settings = ProviderSettings(kind, type=name)
        if kind in named:
            continue
        why = None if name in REGISTRY else why_unusable(settings)
        if why is None:
            listed.append(settings)
        else:
            unusable[name] = why
    return listed, unusable


def why_unusable(settings: ProviderSettings) -> str | None:
    """Why a provider from elsewhere cannot be made; None if it can."""
    try:
        settings.in_force()
    # A third-party class may raise anything.
    except Exception as error:  # noqa: BLE001
        let_through(error)
        return str(error) if isinstance(error, ConfigError) else f"{type(error).__name__}: {error}"
    return None


@dataclass(frozen=True)
class Check:
    """The outcome of a tiny request: an error or None, and the seconds it took."""

    error: LLMError | None
    seconds: float

    def __str__(self) -> str:
        if self.error is None:
            return f"ok after {self.seconds:.1f} s"
        return one_line(f"{type(self.error).__name__}: {self.error}")


def ask_each(listed: Sequence[ProviderSettings]) -> list[Check]:
    """Send each a tiny request, all at once; an interrupt does not wait for them."""
    asked = [_asking(settings) for settings in listed]
    for future in asked:
        in_slices(partial(_is_done, future), inf)
    return [future.result() for future in asked]


def _asking(settings: ProviderSettings) -> Future[Check]:
    future: Future[Check] = Future()

    def ask() -> None:
        try:
            future.set_result(ask_one(settings))
        except BaseException as error:  # noqa: BLE001 - raised where the result is asked for
            future.set_exception(error)

    # Not a pool: Python waits for a pool's threads when it exits.
    try:
        threading.Thread(target=ask, daemon=True).start()
    except RuntimeError as error:
        let_through(error)
        ask()
    return future


def _is_done(future: Future[Check], within_s: float) -> bool:
    return bool(wait([future], within_s).done)


def ask_one(settings: ProviderSettings) -> Check:
    """Send one a tiny request."""
    begin = time.monotonic()
    try:
        with settings.having(timeout=_CHECK_TIMEOUT_S).make() as provider:
            provider.complete(TINY_PROMPT)
    except LLMError as error:
        return Check(error, time.monotonic() - begin)
    return Check(None, time.monotonic() - begin)


def _as_object(settings: ProviderSettings) -> dict[str, Any]:
    kind, in_force = settings.kind, settings.in_force()
    return {
        "name": _name(settings),
        "type": _type(settings),
        "working": kind.working,
        "needs_auth": kind.needs_auth,
        "key_from": settings.key_from(),
        "supports_stream": kind.supports_stream,
        "default_model": in_force["model"].value,
        "base_url": redact(in_force["base_url"].value),
    }


def _print(
    listed: Sequence[ProviderSettings], checks: Sequence[Check | None], *, checked: bool
) -> None:
    header = ["name", "works", "key needed", "streams", "default model", "key from"]
    rows = []
    for settings, check in zip(listed, checks, strict=True):
        kind = settings.kind
        row = [
            _name(settings),
            _yes_or_no(kind.working),
            _yes_or_no(kind.needs_auth),
            _yes_or_no(kind.supports_stream),
            settings.in_force()["model"].value,
            settings.key_from() or _missing(settings),
        ]
        rows.append([*row, str(check or "not asked")] if checked else row)
    print_table([*header, "check"] if checked else header, rows)


def _name(settings: ProviderSettings) -> str:
    """The name that ``-p`` takes."""
    return settings.name if "name" in settings.given else _type(settings)


def _type(settings: ProviderSettings) -> str:
    """The name of its type: its class's, unless it is known by another one."""
    name = settings.kind.__name__
    return name if find(name) is settings.kind else settings.type_name


def _missing(settings: ProviderSettings) -> str:
    secrets = secrets_of(settings.kind)
    if not secrets:
        return "-"
    if settings.why_held_back() is not None:
        return "held back; see config show"
    cert = settings.in_force().get("cert")
    if cert is not None and cert.value is not None:
        return "a client certificate"
    if secrets[0] in settings.given:
        return "not found where the configuration says"
    return f"set {settings.kind.environment_of(secrets[0])[0]}" if settings.kind.needs_auth else "-"


def _yes_or_no(value: bool) -> str:
    return "yes" if value else "no"


def _exit_of(checks: Sequence[Check | None]) -> Exit:
    errors = [check.error for check in checks if check is not None]
    failed = [error for error in errors if error is not None]
    if len(failed) < len(errors) or not errors:
        return Exit.OK
    attempts = tuple(attempt for error in failed for attempt in error.attempts)
    return exit_of_error(AllProvidersFailed(attempts=attempts))
