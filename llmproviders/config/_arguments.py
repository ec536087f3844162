"""The arguments of a constructor that a configuration can give, read from its signature."""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, is_typeddict

from .._account import arguments as _provider_arguments
from .._account.keys import KeyFile
from .._checks import is_finite

_CHOICES = re.compile(r"Literal\[(.*)\]")

_TABLE = re.compile(r"(?:Mapping|dict)\[str, (.*)\]")

_PAIR = re.compile(r"tuple\[([^,]*), ([^,]*)\]")

_OPTIONAL = re.compile(r"(?:\w+\.)?Optional\[(.*)\]")

_UNPACKED = re.compile(r"(?:\w+\.)?Unpack\[(\w+)\]")

_PATH = "os.PathLike[str]"

_SECRET = "Key"  # noqa: S105 - the name of the type, as signatures spell it

_WORDS = {
    "str": "a text",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "Timeout": "seconds, or a pair [connect, read] of seconds",
    _PATH: "a path",
    "Rate": "{ requests = 1000, tokens = 200000 }",
}

_PLURAL = {"str": "texts", "int": "whole numbers", "float": "numbers", _PATH: "paths"}


@dataclass(frozen=True)
class Argument:
    """One argument that TOML can express.

    Attributes:
        name: the name in the constructor.
        types: the alternatives of its annotation, without ``None``; ``dict[T]`` is a table whose
            values are ``T``, ``pair[T]`` a list of two.
        default: what the constructor uses when it is not given.
        choices: the allowed strings, if only some are allowed.
    """

    name: str
    types: tuple[str, ...]
    default: Any
    choices: tuple[str, ...] = ()

    @property
    def secret(self) -> bool:
        """Whether it is a key, token or password, which must not be in the file in plain text."""
        return _SECRET in self.types

    @property
    def is_path(self) -> bool:
        """Whether it names a file, relative to the configuration's folder."""
        return _PATH in self.types

    @property
    def is_table(self) -> bool:
        """Whether it is a table of texts, whose values may be secrets."""
        return "dict[str]" in self.types

    @property
    def due(self) -> str:
        """A description of valid values."""
        if self.choices:
            return " or ".join(f'"{choice}"' for choice in self.choices)
        return " or ".join(dict.fromkeys(_words(kind) for kind in self._kinds))

    @property
    def _kinds(self) -> list[str]:
        """The types, without the text that a path is, too."""
        return [kind for kind in self.types if not (self.is_path and kind == "str")]

    def accepts(self, value: object) -> bool:
        """Whether a value read from TOML has the right type."""
        if self.choices:
            return value in self.choices
        return any(_is_a(value, kind) for kind in self._kinds)


def _part_of(kind: str) -> str:
    """The type inside ``dict[...]`` or ``pair[...]``."""
    return kind.partition("[")[2][:-1]


def _words(kind: str) -> str:
    if kind.startswith("dict["):
        return f"a table of {_PLURAL[_part_of(kind)]}"
    if kind.startswith("pair["):
        return f"a list of two {_PLURAL[_part_of(kind)]}"
    return _WORDS[kind]


def _is_a(value: object, kind: str) -> bool:
    number = is_finite(value) or isinstance(value, float)
    if kind == "Timeout":
        return number or _is_a(value, "pair[float]")
    if kind.startswith("dict["):
        part = _part_of(kind)
        return isinstance(value, dict) and all(_is_a(item, part) for item in value.values())
    if kind.startswith("pair["):
        part = _part_of(kind)
        two = isinstance(value, list) and len(value) == 2
        return two and all(_is_a(item, part) for item in value)  # type: ignore[attr-defined]
    if kind == "Rate":
        return isinstance(value, dict) and all(_is_a(part, "int") for part in value.values())
    return {
        "str": isinstance(value, str),
        "int": number and isinstance(value, int),
        "float": number,
        "bool": isinstance(value, bool),
        _PATH: isinstance(value, str) and bool(value.strip()),
    }[kind]


@cache
def arguments_of(cls: type) -> dict[str, Argument]:
    """The keyword arguments of a class that a configuration can set, by name.

    An argument whose annotation names anything else, such as a session or a callable, is left
    out.

    >>> from llmproviders import FailoverClient
    >>> arguments_of(FailoverClient)["deadline"].due
    'a number'
    >>> "accept" in arguments_of(FailoverClient)
    False
    """
    found: dict[str, Argument] = {}
    for name, annotation, default, known in _keywords_of(cls):
        argument = _argument(name, annotation, default, known)
        if argument is not None:
            found.setdefault(name, argument)
    return found


def _keywords_of(cls: type) -> Iterator[tuple[str, str, Any, dict[str, Any]]]:
    """Yield name, annotation, default and the annotation's namespace of each keyword.

    ``**options`` stands for the keys of the TypedDict that it unpacks, or, without one, for the
    arguments of the base class.
    """
    # A provider's __new__ accepts anything; __init__ has the real signature.
    for base in cls.__mro__:
        constructor = vars(base).get("__init__")
        if not inspect.isfunction(constructor):
            continue
        rest = None
        # A signature may show arguments of the base class, whose annotations use its namespace.
        known = {**vars(_provider_arguments), **constructor.__globals__}
        for parameter in inspect.signature(constructor).parameters.values():
            if parameter.kind is parameter.KEYWORD_ONLY:
                yield parameter.name, _spelled(parameter.annotation), parameter.default, known
            elif parameter.kind is parameter.VAR_KEYWORD:
                rest = parameter
        if rest is None:
            return
        unpacked = _UNPACKED.fullmatch(str(rest.annotation))
        if unpacked is not None and is_typeddict(known.get(unpacked[1])):
            for name, annotation in known[unpacked[1]].__annotations__.items():
                yield name, _spelled(annotation), None, known


def _spelled(annotation: Any) -> str:
    """An annotation as source code; ``Optional[X]`` becomes ``X | None``."""
    found = getattr(annotation, "__forward_arg__", annotation)
    if isinstance(found, str):
        optional = _OPTIONAL.fullmatch(found)
        return f"{optional[1]} | None" if optional is not None else found
    # Third-party modules may have evaluated annotations.
    parts = get_args(found) if get_origin(found) in (Union, UnionType) else (found,)
    if KeyFile in parts:
        return _SECRET
    return " | ".join(
        "None" if part is NoneType else inspect.formatannotation(part) for part in parts
    )


def _argument(name: str, annotation: str, default: Any, known: dict[str, Any]) -> Argument | None:
    kinds: list[str] = []
    choices: list[str] = []
    for part in _alternatives(annotation):
        literal = _CHOICES.fullmatch(part)
        if literal is not None:
            choices += re.findall(r"[\"']([^\"']*)[\"']", literal[1])
            kinds.append("str")
        elif part != "None":
            read = _kinds(part, known)
            if not read:
                return None
            kinds += read
    return Argument(name, tuple(dict.fromkeys(kinds)), default, tuple(choices)) if kinds else None


def _alternatives(annotation: str) -> list[str]:
    """The parts of a union, split outside brackets.

    >>> _alternatives("int | dict[str, int | None] | None")
    ['int', 'dict[str, int | None]', 'None']
    """
    parts, depth = [""], 0
    for char in annotation:
        depth += {"[": 1, "]": -1}.get(char, 0)
        if char == "|" and not depth:
            parts.append("")
        else:
            parts[-1] += char
    return [part.strip() for part in parts]


def _kinds(part: str, known: dict[str, Any]) -> list[str]:
    """The TOML types that one alternative of an annotation accepts; empty if there are none."""
    if part in _WORDS or part == _SECRET:
        return [part]
    table = _TABLE.fullmatch(part)
    if table is not None:
        inner = [kind for kind in _alternatives(table[1]) if kind in _PLURAL]
        return [f"dict[{inner[0]}]"] if inner else []
    pair = _PAIR.fullmatch(part)
    if pair is not None:
        inner = [kind for kind in (_PATH, *_alternatives(pair[1])) if kind in pair[1]]
        return [f"pair[{inner[0]}]"] if inner and inner[0] in _PLURAL else []
    alias = known.get(part)
    if not get_args(alias):
        return []
    spelled = inspect.formatannotation(alias)
    found = [_kinds(each, known) if each != part else [] for each in _alternatives(spelled)]
    return [kind for kinds in found for kind in kinds] if all(found) else []


def as_argument(argument: Argument, value: Any, folder: Path) -> Any:
    """Convert a value from TOML to the constructor's type.

    A relative path is relative to ``folder``. As ``token_cache``, ``"user"`` is not a path but a
    keyword for the user's folder.
    """
    if isinstance(value, list):
        paths = f"pair[{_PATH}]" in argument.types
        return tuple(_in_folder(folder, part) if paths else part for part in value)
    is_word = argument.name == "token_cache" and value == "user"
    if argument.is_path and isinstance(value, str) and not is_word:
        return _in_folder(folder, value)
    return value


def _in_folder(folder: Path, name: str) -> str:
    return str(folder / os.path.expanduser(name))
