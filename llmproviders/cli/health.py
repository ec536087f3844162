"""``llmproviders health``: the failures that all processes share."""

from __future__ import annotations

import logging
import time

import click

from ..failover._health import FailureRecord, FileStore, parts_of
from .notes import print_table, put, show_logs
from .options import Choices, config_option


@click.command("health", epilog="Example: llmproviders health --reset")
@click.option("--reset", is_flag=True, help="Forget all of it.")
@config_option
def command(choices: Choices, reset: bool) -> None:
    """Show or clear the shared memory of providers in trouble.

    A provider that failed is asked last for a while, also by the next process. A server's failures
    apply to all keys; a key's failures, shown by the beginning of its hash, only to that key.
    """
    kept = choices.configuration().failover["health"].value
    if kept is None:
        put("No memory is kept between runs.")
        return
    show_logs(logging.WARNING)
    store = FileStore(kept)
    if reset:
        store.clear()
    troubles = store.read()
    if not troubles:
        put(f"No provider is in trouble ({store.path}).")
        return
    rows = [_row(key, trouble) for key, trouble in sorted(troubles.items())]
    print_table(["provider", "address", "model", "key", "failures", "last", "put last for"], rows)


def _row(key: str, trouble: FailureRecord) -> list[str]:
    name, address, model, credential = parts_of(key)
    now = time.time()
    left = trouble.due - now
    return [
        name,
        address or "-",
        model or "-",
        credential[:8] or "every",
        str(trouble.failures),
        f"{max(0.0, now - trouble.at):.0f} s ago",
        f"{left:.0f} s" if left > 0 else "-",
    ]
