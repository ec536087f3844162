"""Which arguments of a constructor a configuration can give, read off its signature."""

from __future__ import annotations

import inspect
import os
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from .._checks import is_finite

_CHOICES = re.compile(r"Literal\[(.*)\]")

_PATH = "os.PathLike[str]"

_SECRET = "Key"  # noqa: S105 - the name of the type, as signatures spell it

_WORDS = {
    "str": "a text",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "Timeout": "seconds, or a pair [connect, read] of seconds",
    _PATH: "a path",
}


@dataclass(frozen=True)
class Argument:
    """One argument that TOML can express.

    Attributes:
        name: as the constructor has it.
        types: the alternatives of its annotation, without ``None``.
        default: what the constructor takes where it is not given.
        choices: the texts that it may be, where only some are allowed.
    """

    name: str
    types: tuple[str, ...]
    default: Any
    choices: tuple[str, ...] = ()

    @property
    def secret(self) -> bool:
        """Whether it is a key or a token, which never stands in a file in clear."""
        return _SECRET in self.types

    @property
    def is_path(self) -> bool:
        """Whether it names a file, relative to the configuration's folder."""
        return _PATH in self.types

    @property
    def due(self) -> str:
        """What its value has to be, in words."""
        if self.choices:
            return " or ".join(f'"{choice}"' for choice in self.choices)
        kinds = [_PATH] if self.is_path else self.types
        return " or ".join(_WORDS[kind] for kind in kinds)

    def accepts(self, value: object) -> bool:
        """Whether a value out of TOML has the right type."""
        if self.choices:
            return value in self.choices
        return any(_is_a(value, kind) for kind in self.types)


def _is_a(value: object, kind: str) -> bool:
    number = is_finite(value) or isinstance(value, float)
    if kind == "Timeout":
        pair = isinstance(value, list) and len(value) == 2
        return number or (pair and all(_is_a(part, "float") for part in value))  # type: ignore[attr-defined]
    return {
        "str": isinstance(value, str),
        "int": number and isinstance(value, int),
        "float": number,
        "bool": isinstance(value, bool),
        _PATH: isinstance(value, str),
    }[kind]


@cache
def arguments_of(cls: type) -> dict[str, Argument]:
    """The keyword arguments of a class that can stand in a configuration, by name.

    Those whose annotation names anything else, a session or a callable, are left out.

    >>> from llmproviders import FailoverClient
    >>> arguments_of(FailoverClient)["deadline"].due
    'a number'
    >>> "accept" in arguments_of(FailoverClient)
    False
    """
    found = {}
    # A provider's __new__ takes anything; what it takes indeed is in its __init__.
    for parameter in inspect.signature(cls.__init__).parameters.values():  # type: ignore[misc]
        if parameter.kind is not parameter.KEYWORD_ONLY:
            continue
        argument = _argument(parameter)
        if argument is not None:
            found[parameter.name] = argument
    return found


def _argument(parameter: inspect.Parameter) -> Argument | None:
    annotation = str(parameter.annotation)
    literal = _CHOICES.fullmatch(annotation)
    if literal is not None:
        choices = tuple(re.findall(r"[\"']([^\"']*)[\"']", literal[1]))
        return Argument(parameter.name, ("str",), parameter.default, choices)
    types = tuple(kind for kind in annotation.split(" | ") if kind != "None")
    if not types or not all(kind in _WORDS or kind == _SECRET for kind in types):
        return None
    return Argument(parameter.name, types, parameter.default)


def as_argument(argument: Argument, value: Any, folder: Path) -> Any:
    """A value out of TOML as the constructor takes it.

    A relative path lies in ``folder``; ``"user"`` is no path but a word for one of the user's.
    """
    if argument.is_path and value != "user":
        return str(folder / os.path.expanduser(value))
    return tuple(value) if isinstance(value, list) else value
