"""The client that a notebook uses where none is named."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from ..client import BaseClient

_chosen: tuple[BaseClient, dict[str, Any]] | None = None


def use(client: BaseClient | None, **params: Any) -> None:
    """Let ``show`` and ``%%llm`` use this client from now on; what ``%llm_config`` does.

    Args:
        client: a provider or a ``FailoverClient``; None: what the configuration says, as in the
            beginning.
        **params: what goes with every call that does not say otherwise: ``model``, ``system``,
            sampling parameters.

    >>> from llmproviders.testing import ScriptedProvider
    >>> use(ScriptedProvider(["Yes."]), system="Be brief.")
    >>> use(None)
    """
    global _chosen
    _chosen = None if client is None else (client, params)


def chosen() -> tuple[BaseClient, dict[str, Any]] | None:
    """The client in use and its parameters; None: the configuration decides."""
    return _chosen


@contextmanager
def in_use() -> Generator[tuple[BaseClient, dict[str, Any]], None, None]:
    """The client in use and its parameters; a client of the configuration ends with the block."""
    if _chosen is not None:
        yield _chosen
        return
    from ..cli.options import Choices

    with Choices().client() as client:
        yield client, {}
