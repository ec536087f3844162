"""Help, version and completion; and that they load nothing they do not need."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from llmproviders import __version__
from llmproviders.cli.overview import COMMANDS, overview
from tests.cli.process import command, environ, run

REFERENCE = Path(__file__).parents[2] / "docs" / "reference" / "cli.md"
SUBCOMMANDS = [("config", "init"), ("config", "path"), ("config", "show")]


@pytest.mark.parametrize("words", [*((name,) for name in COMMANDS), *SUBCOMMANDS])
def test_help(words: tuple[str, ...]) -> None:
    """Each command explains itself as the reference does, with an example.

    Its first sentence is the overview's.
    """
    result = run(*words, "--help")
    assert (result.code, result.err) == (0, "")
    assert "Example: " in result.out
    assert f"```text\n{result.out}```" in REFERENCE.read_text(encoding="utf-8")
    if len(words) == 1:
        assert COMMANDS[words[0]] in re.sub(r"\s+", " ", result.out)


def test_overview(home: object) -> None:
    """-h, --help and no command at all list every command; the last is wrong usage."""
    for arguments, code in [(("--help",), 0), (("-h",), 0), (("--config", "x", "--help"), 0)]:
        result = run(*arguments)
        assert (result.code, result.out, result.err) == (code, overview(), "")
    result = run()
    assert (result.code, result.out, result.err) == (2, "", overview())


def test_a_command_without_its_subcommand() -> None:
    """The same for a command that has commands of its own: its help, as wrong usage."""
    result = run("config")
    assert (result.code, result.out, result.err) == (2, "", run("config", "--help").out)


def test_version() -> None:
    """--version prints the package's version."""
    assert run("--version").out == f"llmproviders {__version__}\n"


def test_a_command_that_there_is_not() -> None:
    """The nearest command is named."""
    result = run("provider")
    assert result.code == 2
    assert "Did you mean 'providers'?" in result.err


def test_a_question_without_its_command() -> None:
    """A question where a command is due is answered with the command that asks it."""
    for words in (["why is the sky blue?"], ["why", "is", "the sky", "blue?"]):
        result = run(*words)
        assert result.code == 2
        assert "llmproviders ask 'why is the sky blue?'" in result.err


def test_a_prompt_that_begins_with_a_dash() -> None:
    """What looks like an option but is a question is led behind --."""
    result = run("ask", "-5 plus 3?")
    assert result.code == 2
    assert "llmproviders ask -- TEXT" in result.err


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("llmproviders c", {"chat", "config"}),
        ("llmproviders ask --max", {"--max-tokens"}),
        ("llmproviders ask -p chatg", {"chatglm", "chatgptt"}),
        ("llmproviders models olla", {"ollama"}),
        ("llmproviders models open", {"openai"}),
        ("llmproviders ask -p gigachat -m GigaChat-2-P", {"GigaChat-2-Pro"}),
        ("llmproviders sandbox --fail Giga", {"gigachat="}),
        ("llmproviders chat -p glm -p gigachat -m gigachat-2-m", {"GigaChat-2-Max"}),
    ],
)
def test_completion(line: str, expected: set[str]) -> None:
    """The shell's completion offers commands, options, models, services, and each provider once."""
    words = line.split()
    env = {
        "_LLMPROVIDERS_COMPLETE": "bash_complete",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(words) - 1),
    }
    offered = {item.split(",")[1] for item in run(env=env).out.split()}
    assert offered == expected


def test_completion_script() -> None:
    """The script for the shell is printed."""
    result = run(env={"_LLMPROVIDERS_COMPLETE": "zsh_source"})
    assert result.code == 0
    assert "#compdef llmproviders" in result.out


def test_help_loads_nothing() -> None:
    """The overview needs neither click nor any other module of weight."""
    code = (
        "import sys; from llmproviders.cli import main; main(['--help']); "
        "print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environ()
    )
    loaded = set(done.stderr.split())
    assert "llmproviders.cli.overview" in loaded
    heavy = {"click", "requests", "tenacity", "tqdm", "platformdirs", "llmproviders.sandbox"}
    assert loaded & heavy == set()


def test_help_of_a_command_loads_no_network() -> None:
    """What a command does is told without what does it."""
    env = environ()
    for name in ("ask", "batch"):
        code = (
            f"import sys; from llmproviders.cli import main; main(['{name}', '--help']); "
            "print(*sys.modules, file=sys.stderr)"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
        loaded = set(done.stderr.split())
        assert "click" in loaded
        assert loaded & {"requests", "tenacity", "tqdm", "llmproviders.sandbox"} == set()


def test_as_a_module(home: object) -> None:
    """python -m llmproviders is the same command."""
    arguments = [sys.executable, "-m", "llmproviders", "--version"]
    done = subprocess.run(arguments, capture_output=True, text=True, env=environ())
    assert done.stdout == run("--version").out
    assert os.path.basename(command()[0]) in ("llmproviders", os.path.basename(sys.executable))
