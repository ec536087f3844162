"""``llmproviders usage``: requests and tokens by day, provider and model."""

from __future__ import annotations

import json

import click

from .._account.ledger import ledger
from .._account.usage import usage
from .arguments import TEXT
from .exits import CommandError, Exit
from .notes import put, say


@click.command("usage", epilog="Example: llmproviders usage --since 2026-05-01")
@click.option("--since", type=TEXT, metavar="DATE", help="First day, such as 2026-05-01, in UTC.")
@click.option("--json", "as_json", is_flag=True, help="Print a list of objects.")
def command(since: str | None, as_json: bool) -> None:
    """Show requests, failures and tokens by day, provider and model.

    They are counted on this machine, for all of your processes. Prompts, replies and keys are not
    kept.
    """
    table = usage(since=since)
    trouble = ledger().trouble
    if trouble is not None and not table:
        message = f"the counts in {ledger().path} cannot be read: {trouble}"
        raise CommandError(message, Exit.UNEXPECTED) from trouble
    if as_json:
        put(json.dumps(table.as_dicts(), ensure_ascii=False, indent=2))
    elif table:
        put(str(table))
    else:
        say(
            "no requests were counted; a provider without per_minute or per_day is counted only "
            "with LLMPROVIDERS_USAGE=1"
        )
