"""What the front door prints runs as it stands, one paragraph after another, for a newcomer."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import nbformat
import pytest
from nbclient import NotebookClient

from tests.cli.process import PATIENCE_S, command, environ

ROOT = Path(__file__).parents[2]
ANSWER = "This is the GigaChat sandbox, not the real service. You asked: "


@pytest.fixture(params=["README.md", "README.ru.md"])
def blocks(request: pytest.FixtureRequest) -> list[tuple[str, str]]:
    """Return the page's blocks, each with its language."""
    text = (ROOT / request.param).read_text(encoding="utf-8")
    return re.findall(r"^```(\w+)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def block(blocks: list[tuple[str, str]], language: str, mark: str) -> str:
    """Return the one block of a language that has ``mark`` in it."""
    [found] = [text for name, text in blocks if name == language and mark in text]
    return found


def line(blocks: list[tuple[str, str]], mark: str) -> str:
    """Return the one line for a shell that has ``mark`` in it."""
    [found] = [
        line for name, text in blocks if name == "sh" for line in text.splitlines() if mark in line
    ]
    return found


@pytest.fixture
def clone(home: Path) -> Path:
    """Return a folder in the home folder that has ``.venv``, with this environment's programs."""
    programs = home / "llmproviders" / ".venv" / "bin"
    programs.mkdir(parents=True)
    (programs / "activate").write_text(f'PATH="{programs}:$PATH"\n')
    for name, start in [("llmproviders", command()), ("python", [sys.executable])]:
        (programs / name).write_text(f'#!/bin/sh\nexec {shlex.join(start)} "$@"\n')
        (programs / name).chmod(0o755)
    return home / "llmproviders"


@pytest.fixture
def terminal(clone: Path) -> dict[str, str]:
    """Return the environment of a terminal, which has nothing that a login does not give."""
    found = {name: value for name, value in environ().items() if name == "PYTHONPATH"}
    return {"HOME": str(clone.parent), "PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", **found}


def shell(*lines: str, cwd: Path, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Type lines into a shell."""
    return subprocess.run(
        ["/bin/sh", "-ec", "\n".join(lines)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        cwd=cwd,
        env=env,
    )


@pytest.fixture
def settings(
    blocks: list[tuple[str, str]], clone: Path, terminal: dict[str, str]
) -> Iterator[Path]:
    """Start the sandbox as the page says, and return the file that it has written."""
    start = line(blocks, "sandbox > ")
    path = clone / "llm.env"
    with subprocess.Popen(
        ["/bin/sh", "-ec", start], cwd=clone, env=terminal, start_new_session=True
    ) as sandbox:
        try:
            shell(
                f"until grep -q DEEPSEEK_API_KEY {path.name} 2>/dev/null; do sleep 0.05; done",
                cwd=clone,
                env=terminal,
            )
            yield path
        finally:
            os.killpg(sandbox.pid, signal.SIGTERM)


def test_the_script(
    blocks: list[tuple[str, str]], settings: Path, clone: Path, terminal: dict[str, str]
) -> None:
    """Saved and run as the page says, the script prints both replies and who gave them."""
    (clone / "ask.py").write_text(block(blocks, "python", "FailoverClient("), encoding="utf-8")
    take = line(blocks, ". ./llm.env")
    done = shell(take, "python ask.py", cwd=clone, env=terminal)
    assert (done.returncode, done.stderr) == (0, "")
    streamed, whole, told = done.stdout.splitlines()
    assert streamed == whole
    assert streamed.startswith(ANSWER)
    assert told.startswith("GigaChat, Usage(")


def test_the_crontab_line(
    blocks: list[tuple[str, str]], settings: Path, clone: Path, terminal: dict[str, str]
) -> None:
    """Run as cron runs it, the line writes the reply and prints nothing, so nothing is mailed."""
    *when, run = block(blocks, "text", ". ./llm.env").strip().split(maxsplit=5)
    assert len(when) == 5
    assert "%" not in run
    job = {name: value for name, value in terminal.items() if name != "LANG"}
    done = shell(run, cwd=clone.parent, env=job)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (clone / "disks.txt").read_text(encoding="utf-8").startswith(ANSWER)


def test_the_notebook(
    blocks: list[tuple[str, str]], settings: Path, clone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a notebook that stands alone, the cell shows the reply, once."""
    for name, value in re.findall(r"export (\w+)=(.*)", settings.read_text()):
        monkeypatch.setenv(name, value)
    cell = nbformat.v4.new_code_cell(block(blocks, "python", "show("))
    notebook = nbformat.v4.new_notebook(cells=[cell])
    NotebookClient(
        notebook,
        timeout=120,
        kernel_name="python3",
        resources={"metadata": {"path": str(clone)}},
    ).execute()
    [shown] = cell.outputs
    assert shown["data"]["text/markdown"].startswith(ANSWER)


def _words(text: str) -> str:
    """Return what was said, without times, ports, white space and the line breaks of a terminal."""
    return re.sub(r"[\d.]+ s|(?<=:)\d{4,5}|\s", "", text)


def test_the_recording_shows_the_demo() -> None:
    """The picture at the top is of the demo as it is now (``python docs/draw_terminal.py``)."""
    picture = ElementTree.parse(ROOT / "docs" / "_static" / "demo.svg").getroot()
    shown = _words(picture.findtext("{*}desc", ""))
    done = subprocess.run(
        [*command(), "demo"], capture_output=True, text=True, timeout=PATIENCE_S, env=environ()
    )
    for line in done.stdout.splitlines():
        assert _words(line) in shown, line
