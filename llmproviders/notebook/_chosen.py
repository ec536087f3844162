"""The client that a notebook uses when none is named."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from .._account.arguments import spelled_out
from .._request import StreamParams, Unpack
from ..cli.options import Choices
from ..client import BaseClient

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
