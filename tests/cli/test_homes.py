"""Commands without a home folder, and in another user's."""

from __future__ import annotations

import importlib
import os
import sys
import tempfile
from pathlib import Path

import pytest

from llmproviders.cli.overview import COMMANDS
from llmproviders.cli.run import run as run_command
from llmproviders.sandbox import Sandbox
from tests.reliability.childs import as_root, become_homeless, forked

pytestmark = as_root

ASK = ["ask", "-p", "gigachat", "Why?"]


def outcome(words: list[str], home: Path | None, folder: Path) -> tuple[int, str, str]:
    """What a command of a user without a name ends with and writes."""
    streams = [folder / name for name in ("out", "err")]
    for stream in streams:
        stream.write_text("")

    def child() -> int:
        for number, stream in enumerate(streams, 1):
            os.dup2(os.open(stream, os.O_WRONLY), number)
        become_homeless()
        if home is not None:
            os.environ["HOME"] = str(home)
        sys.stdin = open(os.devnull)  # noqa: SIM115
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
        code = run_command(words)
        sys.stdout.flush()
        return int(code)

    code = forked(child)
    return code, streams[0].read_text(), streams[1].read_text()


def let_in(folder: Path) -> None:
    """Let other users enter a folder for temporary files."""
    while folder != Path(tempfile.gettempdir()):
        folder.chmod(0o755)
        folder = folder.parent


@pytest.fixture
def giga(at_sandbox: Sandbox) -> Sandbox:
    """A sandbox, and in memory all that the commands load, which a stranger may not read."""
    for name in COMMANDS:
        importlib.import_module(f"llmproviders.cli.{name}")
    at_sandbox.client("gigachat").complete("Why?")
    return at_sandbox


@pytest.mark.parametrize(
    "words",
    [
        ASK,
        [*ASK, "-v"],
        ["providers"],
        ["models", "gigachat"],
        ["health"],
        ["health", "--reset"],
        ["config", "show"],
        ["trust", "gigachat", "--list"],
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("kind", ["none", "foreign"])
def test_commands_work_without_state(
    giga: Sandbox, tmp_path: Path, words: list[str], kind: str
) -> None:
    """Without a home folder, or in one that cannot be written, a command works and says so once."""
    home = None
    if kind == "foreign":
        home = tmp_path / "foreign"
        home.mkdir(mode=0o755)
        let_in(tmp_path)
    code, out, err = outcome(words, home, tmp_path)
    assert code == 0, err
    assert err.count("kept between runs") == ("-v" in words)
    assert "/dev/null" not in out + err
    assert "Traceback" not in err


def test_a_configuration_that_is_closed(giga: Sandbox, tmp_path: Path) -> None:
    """A configuration in another user's folder is told with its file and the way out."""
    home = tmp_path / "foreign"
    (home / ".config").mkdir(parents=True)
    home.chmod(0o700)
    let_in(tmp_path)
    code, out, err = outcome(ASK, home, tmp_path)
    assert (code, out) == (2, "")
    assert f"{home}/.config/llmproviders/config.toml cannot be read: Permission denied" in err
    assert "--config" in err
    code, out, _ = outcome(["doctor", "--offline"], home, tmp_path)
    assert code == 1
    assert "Permission denied" in out


def test_a_configuration_has_no_place(giga: Sandbox, tmp_path: Path) -> None:
    """Without a home folder no configuration is made, and none is said to be in /dev/null."""
    for words in (["config", "init"], ["config", "path"]):
        code, out, err = outcome(words, None, tmp_path)
        assert (code, out) == (2, "")
        assert "no home folder" in err
        assert "--config" in err
