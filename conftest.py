"""Runs every example in the documents and docstrings, against the sandbox."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from doctest import ELLIPSIS, NORMALIZE_WHITESPACE, OutputChecker
from pathlib import Path

import pytest
from sybil import Example, Sybil
from sybil.parsers.myst import CodeBlockParser, PythonCodeBlockParser, SkipParser
from sybil.parsers.rest import DocTestParser

from tests.support.environment import clean

_PROMPT = "$ "


@pytest.fixture(scope="session")
def documented(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Give the examples a sandbox to talk to, the command on the path and an empty folder."""
    from llmproviders.sandbox import Sandbox

    folder = tmp_path_factory.mktemp("documented")
    before = Path.cwd()
    with pytest.MonkeyPatch.context() as monkeypatch, Sandbox() as sandbox:
        clean(monkeypatch, folder / "home")
        for name, value in sandbox.environ().items():
            monkeypatch.setenv(name, value)
        scripts = Path(sys.executable).parent
        monkeypatch.setenv("PATH", f"{scripts}{os.pathsep}{os.environ['PATH']}")
        monkeypatch.setenv("COLUMNS", "100")
        (folder / "work").mkdir()
        os.chdir(folder / "work")
        try:
            yield folder / "work"
        finally:
            os.chdir(before)


def run_console(example: Example) -> str | None:
    """Run the commands after each ``$``; what stands below one must be what it prints.

    As in a doctest, ``...`` stands for anything. A command without output below it has to
    succeed; what it prints does not matter.
    """
    commands: list[tuple[str, list[str]]] = []
    for line in example.parsed.splitlines():
        if line.startswith(_PROMPT):
            commands.append((line[len(_PROMPT) :], []))
        elif commands and commands[-1][0].endswith("\\"):
            commands[-1] = (f"{commands[-1][0]}\n{line}", [])
        elif commands:
            commands[-1][1].append(line)
    for command, expected in commands:
        done = subprocess.run(
            ["bash", "-c", command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
        )
        want = "\n".join(expected).strip() + "\n"
        if not expected and done.returncode != 0:
            return f"{command}\nended with {done.returncode}:\n{done.stdout}"
        flags = ELLIPSIS | NORMALIZE_WHITESPACE
        if expected and not OutputChecker().check_output(want, done.stdout, flags):
            return f"{command}\nprinted:\n{done.stdout}\nand not:\n{want}"
    return None


pytest_collect_file = (
    Sybil(
        parsers=[
            PythonCodeBlockParser(doctest_optionflags=ELLIPSIS),
            CodeBlockParser(language="console", evaluator=run_console),
            SkipParser(),
        ],
        patterns=["README*.md", "docs/*.md", "docs/**/*.md"],
        fixtures=["documented"],
    )
    + Sybil(
        parsers=[DocTestParser(optionflags=ELLIPSIS)],
        patterns=["llmproviders/*.py", "llmproviders/**/*.py"],
        fixtures=["documented"],
    )
).pytest()
