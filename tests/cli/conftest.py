"""Fixtures for the tests of the command line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from llmproviders.providers import REGISTRY
from tests.support.served import SERVED

if TYPE_CHECKING:
    from llmproviders.sandbox import Sandbox

Configure = Callable[[str], Path]


@pytest.fixture
def configure(home: Path, monkeypatch: pytest.MonkeyPatch) -> Configure:
    """Return a function that makes a text the user's configuration."""
    path = home / "given.toml"

    def write(text: str) -> Path:
        path.write_text(text, encoding="utf-8")
        monkeypatch.setenv("LLMPROVIDERS_CONFIG", str(path))
        return path

    return write


@pytest.fixture
def at_sandbox(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> Sandbox:
    """Point the commands of the test at a sandbox, and what it does not serve at nobody."""
    for name, value in sandbox.environ().items():
        monkeypatch.setenv(name, value)
    for name in REGISTRY.keys() - SERVED.keys():
        [variable] = REGISTRY[name].environment_of("base_url")
        monkeypatch.setenv(variable, "http://127.0.0.1:9")
    return sandbox


@pytest.fixture
def no_retries(configure: Configure) -> None:
    """Let each provider be tried once, so that no test waits for a retry."""
    configure("[failover]\nattempts = 1\n")
