"""``llmproviders config``: make, show or find the configuration."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import click

from .._account.keys import KeyFile, KeyVariable
from .._environment import is_nowhere
from .._redact import redact
from ..config._settings import Configuration, Value, failover_in_force, locate
from ..errors import AuthenticationError, MissingAuthError
from .exits import CommandError, Exit
from .files import WholeFile
from .group import CONTEXT, Subcommands
from .notes import put
from .options import Choices, check_options, config_option

_WIDEST = 40

_BARE = re.compile("[A-Za-z0-9_-]+")

TEMPLATE = """\
# The configuration of llmproviders. Remove the "# " of what you want to use.
# Every key: the page "Configuration" of the documentation.

# Providers, in order of priority. Without any: those whose credentials, or, if they need none,
# whose address is in the environment.

# [[provider]]
# type = "gigachat"
# api_key_file = "gigachat.key"    # chmod 600; or api_key_env = "NAME of a variable"
# model = "GigaChat-2"

# [[provider]]
# type = "ollama"                  # also lmstudio, llamacpp, vllm: at their usual addresses
# model = "llama3.2"
# timeout = [5, 120]               # seconds to connect, and between two pieces

# [[provider]]
# type = "openai"                  # any other service that speaks OpenAI's protocol
# name = "work"
# base_url = "https://llm.example.com/v1"
# api_key_env = "WORK_LLM_KEY"

# [[provider]]
# type = "chatglm"                 # a guest service: it is asked only if it is named

# [failover]
# attempts = 3                     # tries of one provider before the next
# deadline = 120                   # seconds for a whole call
# first_chunk_timeout = 20         # seconds for a provider's first text
# cooldown = 30                    # seconds for which a provider that failed is put last
"""


@click.group(
    "config",
    cls=Subcommands,
    context_settings=CONTEXT,
    epilog="Example: llmproviders config show",
)
def command() -> None:
    """Make, show or find the configuration."""


@command.command("init", epilog="Example: llmproviders config init")
@click.option("--force", is_flag=True, help="Replace an existing file.")
@config_option
def init(choices: Choices, force: bool) -> None:
    """Make a configuration to start from, with every key commented out."""
    path = _path(choices)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if force:
            WholeFile(str(path)).write(TEMPLATE)
        else:
            with open(path, "x", encoding="utf-8", newline="\n") as file:
                file.write(TEMPLATE)
    except FileExistsError:
        raise CommandError(f"{path} already exists; --force replaces it", Exit.USAGE) from None
    except OSError as error:
        raise CommandError(f"{path} cannot be written: {error.strerror}", Exit.USAGE) from None
    put(str(path))


@command.command("path", epilog='Example: $EDITOR "$(llmproviders config path)"')
@config_option
def path(choices: Choices) -> None:
    """Print where the configuration is, or would be."""
    put(str(_path(choices)))


def _path(choices: Choices) -> Path:
    path, _ = locate(choices.config)
    if is_nowhere(path):
        raise CommandError(
            "there is no home folder for it; name a file with --config or LLMPROVIDERS_CONFIG",
            Exit.USAGE,
        )
    return path


@command.command("show", epilog="Example: llmproviders config show")
@check_options
def show(choices: Choices) -> None:
    """Show the settings in force and where each value comes from.

    The output is TOML. Keys are never shown, only where they are and whether they can be read.
    """
    for line in _lines(choices.configuration()):
        put(line)


def _lines(configuration: Configuration) -> list[str]:
    path, origin = configuration.path, configuration.path_origin
    if path is None:
        usual = locate()[0]
        why = "there is no home folder" if is_nowhere(usual) else f"there is no {usual}"
        lines = [f"# no configuration: {why}"]
    else:
        lines = [f"# {path} ({origin})"]
    for settings in configuration.providers:
        lines += ["", f"[[provider]]  # {settings.origin}", f"type = {_toml(settings.type_name)}"]
        lines += _aligned(settings.in_force())
    return [*lines, "", "[failover]", *_aligned(failover_in_force(configuration))]


def _aligned(values: dict[str, Value]) -> list[str]:
    shown = [(_assignment(name, value), value) for name, value in values.items()]
    width = min(max(len(text) for text, _ in shown), _WIDEST)
    return [f"{text:<{width}}  # {_origin(value)}" for text, value in shown]


def _assignment(name: str, value: Value) -> str:
    if value.value is None:
        return f"# {name}"
    pair = _toml_pair(name, value.value)
    # As a comment: from a configuration file it would be sent.
    return pair if value.held_back is None else f"# {pair}"


def _origin(value: Value) -> str:
    if not isinstance(value.value, (KeyFile, KeyVariable)):
        return value.origin if value.value is not None else "not set"
    if value.held_back is not None:
        return f"not sent: {value.held_back}"
    try:
        value.value.read()
    except (MissingAuthError, AuthenticationError) as error:
        return f"{value.origin}; {error}"
    return f"{value.origin}; ***"


def _toml(value: Any) -> str:
    if isinstance(value, tuple):
        value = list(value)
    if isinstance(value, dict):
        return f"{{ {', '.join(_toml_pair(*pair) for pair in value.items())} }}"
    return json.dumps(redact(value) if isinstance(value, str) else value, ensure_ascii=False)


def _toml_pair(name: str, value: Any) -> str:
    if isinstance(value, KeyFile):
        name, value = f"{name}_file", value.path
    elif isinstance(value, KeyVariable):
        name, value = f"{name}_env", value.name
    return f"{name if _BARE.fullmatch(name) else _toml(name)} = {_toml(value)}"
