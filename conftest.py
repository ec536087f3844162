"""Runs every example in the documents and docstrings, against the sandbox."""

from __future__ import annotations

import gc
import os
import re
import subprocess
import sys
from collections.abc import Generator, Iterator
from contextlib import redirect_stdout
from doctest import ELLIPSIS, NORMALIZE_WHITESPACE, OutputChecker
from io import StringIO
from pathlib import Path

import pytest
from sybil import Example, Sybil
from sybil.evaluators.python import PythonEvaluator
from sybil.parsers.myst import CodeBlockParser, SkipParser
from sybil.parsers.rest import DocTestParser

from tests.support.environment import clean

_PROMPT = "$ "
_PRINTED = "_printed"
_TIME = re.compile(r"\d[\d.]* m?s\b")
_BARS = re.compile(r"[╱░█◆]+|^.*├.*$", re.MULTILINE)
_evaluate = PythonEvaluator()


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Keep what is collected out of the garbage collector.

    It would look through all of it again and again: some hundred thousand objects in each worker,
    and in each process that is forked from one.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.collect()
        gc.freeze()
        gc.enable()


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


def run_python(example: Example) -> None:
    """Run a block of Python, and keep what it prints for a block of output below it."""
    with redirect_stdout(StringIO()) as printed:
        _evaluate(example)
    example.namespace[_PRINTED] = printed.getvalue()


def check_output(example: Example) -> str | None:
    """Compare what the Python above has printed, but for times and the length of bars."""
    printed = example.namespace.pop(_PRINTED)
    if _is(_without_times(example.parsed), _without_times(printed)):
        return None
    return f"printed:\n{printed}\nand not:\n{example.parsed}"


def read_configuration(example: Example) -> None:
    """Make a client of a block of configuration, which takes known keys and values alone."""
    from llmproviders import FailoverClient

    path = Path("documented.toml")
    path.write_text(example.parsed, encoding="utf-8")
    FailoverClient.from_config(path).close()


def _without_times(text: str) -> str:
    return _BARS.sub("", _TIME.sub("0 s", text))


def _is(expected: str, printed: str) -> bool:
    flags = ELLIPSIS | NORMALIZE_WHITESPACE
    return OutputChecker().check_output(expected.strip() + "\n", printed, flags)


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
        want = "\n".join(expected)
        if not expected and done.returncode != 0:
            return f"{command}\nended with {done.returncode}:\n{done.stdout}"
        if expected and not _is(want, done.stdout):
            return f"{command}\nprinted:\n{done.stdout}\nand not:\n{want}"
    return None


pytest_collect_file = (
    Sybil(
        parsers=[
            CodeBlockParser(language="python", evaluator=run_python),
            CodeBlockParser(language="output", evaluator=check_output),
            CodeBlockParser(language="toml", evaluator=read_configuration),
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
