"""Read the configuration: providers, failover settings, and the origin of each value.

A TOML file with ``[[provider]]`` tables in priority order and a ``[failover]`` table::

    [[provider]]
    type = "gigachat"
    api_key_file = "gigachat.key"

    [[provider]]
    type = "openai"
    name = "local"
    base_url = "http://localhost:11434/v1"
    model = "llama3.2"

    [failover]
    deadline = 120
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from .. import _environment as _environ
from .._account.keys import KeyFile, KeyVariable, looks_like_key
from .._account.names import Place, about_unknown
from .._checks import shown
from .._log import logger
from .._redact import conceal_user_info, conceal_words, is_telling
from .._runtime import files as _files
from .._signals import let_through
from ..failover._client import FailoverClient
from ._arguments import Argument, arguments_of, as_argument
from ._settings import (
    ConfigError,
    Configuration,
    ProviderSettings,
    Value,
    _hint,
    exposed,
    locate,
    providers_of_environment,
)
from ._types import find_type, names_of_types

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

TABLES = ("provider", "failover")

_VARIABLE = re.compile("[A-Za-z_][A-Za-z0-9_]*")

_WAY_OUT = "name another file with --config or LLMPROVIDERS_CONFIG"

_Source = type[KeyFile] | type[KeyVariable]

_SOURCES: dict[str, _Source] = {"_env": KeyVariable, "_file": KeyFile}


def load(path: str | os.PathLike[str] | None = None) -> Configuration:
    """Read the configuration; without a file, use the environment.

    Args:
        path: the file; None: ``LLMPROVIDERS_CONFIG``, else the one in the user's configuration
            folder, if it exists.

    Raises:
        ConfigError: the file cannot be read or used.
    """
    file, origin = locate(path)
    if origin == "default" and not _is_there(file):
        return Configuration(providers_of_environment())
    try:
        configuration = _Reader(file).read()
    except RecursionError as error:
        raise ConfigError(f"{file} cannot be read: it is nested too deeply") from error
    for warning in configuration.warnings:
        logger.warning("%s", warning)
    return replace(configuration, path_origin=origin)


def _is_there(file: Path) -> bool:
    try:
        file.stat()
    except PermissionError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror}; {_WAY_OUT}") from error
    except OSError as error:
        let_through(error)
        return False
    return True


class _Reader:
    """Reads one file; every error names its line."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._warnings: list[str] = []
        try:
            self._text = _files.read(path).decode("utf-8-sig")
        except FileNotFoundError:
            raise ConfigError(
                f"there is no configuration at {path}; `llmproviders config init` makes one"
            ) from None
        except (OSError, ValueError) as error:
            let_through(error)
            reason = getattr(error, "strerror", None) or error
            raise ConfigError(f"{path} cannot be read: {reason}; {_WAY_OUT}") from error

    def read(self) -> Configuration:
        try:
            document = tomllib.loads(self._text)
        except RecursionError as error:
            raise ConfigError(f"{self._path} cannot be read: it is nested too deeply") from error
        except ValueError as error:
            # Not only TOMLDecodeError: a number may have too many digits.
            at = re.search(r"at line (\d+)", str(error))
            place = f"{self._path}:{at[1]}" if at else str(self._path)
            raise ConfigError(f"{place}: this is not TOML: {error}") from error
        for key in document:
            if key not in TABLES:
                raise self._error(_Table(), key, f"unknown key {key!r}{_hint(key, TABLES)}")
        tables = document.get("provider", [])
        if not isinstance(tables, list) or not all(isinstance(item, dict) for item in tables):
            raise self._error(_Table(), "provider", "write each provider under [[provider]]")
        failover = document.get("failover", {})
        if not isinstance(failover, dict):
            raise self._error(_Table(), "failover", "write these settings under [failover]")
        providers = [self._provider(item, index) for index, item in enumerate(tables)]
        self._check_names(providers)
        return Configuration(
            providers=tuple(providers) if providers else providers_of_environment(),
            failover=self._values(failover, arguments_of(FailoverClient), _Table("failover")),
            path=self._path,
            warnings=tuple(self._warnings),
        )

    def _provider(self, item: dict[str, Any], index: int) -> ProviderSettings:
        table = _Table("provider", index)
        rest = dict(item)
        name = rest.pop("type", None)
        if not isinstance(name, str):
            known = ", ".join(names_of_types())
            raise self._error(table, "type", f"type is missing; known: {known}")
        try:
            found = find_type(name)
        except ValueError as error:
            raise self._error(table, "type", str(error)) from error
        if found is None:
            hint = _hint(name, names_of_types())
            raise self._error(table, "type", f"unknown type {name!r}{hint}")
        values = self._values(rest, arguments_of(found.kind), table)
        return ProviderSettings.of(found, values, self._place(table, "type"))

    def _values(
        self, given: dict[str, Any], known: Mapping[str, Argument], table: _Table
    ) -> dict[str, Value]:
        values: dict[str, Value] = {}
        for key, value in given.items():
            name, source = _key_source(key, known)
            if name in values:
                ways = " and by ".join(name + ending for ending in _SOURCES)
                raise self._error(table, key, f"{name} is given twice: by {ways}")
            origin = self._place(table, key)
            if source is not None:
                values[name] = Value(self._key(source, value, key, table), origin)
                continue
            argument = known.get(key)
            if argument is None:
                names = _names_in_file(known.values(), table)
                place: Place = "provider" if table.name == "provider" else "client"
                advice = about_unknown(key, names, place) or _hint(key, names)
                raise self._error(table, key, f"unknown key {key!r} in {table}{advice}")
            if argument.secret:
                raise self._error(
                    table,
                    key,
                    f"{key} must not stand here in clear: write it into a file of its own and "
                    f"name that as {key}_file, or name an environment variable as {key}_env",
                )
            if not argument.accepts(value):
                raise self._error(table, key, f"{key} must be {argument.due}, not {shown(value)}")
            if argument.is_table and isinstance(value, dict):
                value = self._table(value, key, table)
            self._refuse_password(value, key, table)
            values[key] = Value(as_argument(argument, value, self._path.parent), origin)
        return values

    def _table(self, given: dict[str, str], key: str, table: _Table) -> dict[str, Any]:
        """A table of strings, such as headers; a secret in it is named, not shown."""
        values: dict[str, Any] = {}
        for name, value in given.items():
            ending = next((e for e in _SOURCES if name.endswith(e) and name != e), None)
            if ending is not None:
                source = _SOURCES[ending]
                values[name.removesuffix(ending)] = self._key(source, value, name, table)
            elif is_telling(name):
                raise self._error(
                    table,
                    key,
                    f"{key}: the value of {name!r} must not stand here in clear: name a file as "
                    f"{name}_file, or an environment variable as {name}_env",
                )
            else:
                values[name] = value
        return values

    def _key(self, source: _Source, value: Any, key: str, table: _Table) -> KeyFile | KeyVariable:
        if not isinstance(value, str) or not value.strip():
            raise self._error(table, key, f"{key} must be a text, not {shown(value)}")
        if source is KeyVariable:
            if not _VARIABLE.fullmatch(value):
                conceal_words(value)
                raise self._error(
                    table, key, f"{key} must be the name of an environment variable, not the key"
                )
            if _environ.first_set((value,)) is None:
                self._hide_key(value, key, table)
            return KeyVariable(value)
        file = str(self._path.parent / os.path.expanduser(value))
        if not os.path.dirname(value) and not os.path.lexists(file):
            self._hide_key(value, key, table)
        try:
            found = KeyFile(file)
        except ValueError as error:
            raise self._error(table, key, str(error)) from error
        warning = exposed(file)
        if warning:
            self._warnings.append(f"the key file {warning}")
        return found

    def _hide_key(self, name: str, key: str, table: _Table) -> None:
        """Hide the name of a missing file or variable if it looks like a key."""
        if looks_like_key(name):
            conceal_words(name)
            self._warnings.append(
                f"{self._place(table, key)}: {key} looks like a key; do: name the file or variable "
                "that holds it"
            )

    def _refuse_password(self, value: Any, key: str, table: _Table) -> None:
        if not isinstance(value, str) or "@" not in value:
            return
        try:
            password = urlsplit(value).password
        except ValueError as error:
            let_through(error)
            return
        if password:
            conceal_user_info(value)
            remedy = "set LLMPROVIDERS_PROXY in the environment instead"
            message = f"{key} must not hold a password" + (f": {remedy}" if key == "proxy" else "")
            raise self._error(table, key, message)

    def _check_names(self, providers: list[ProviderSettings]) -> None:
        seen: set[str] = set()
        for index, settings in enumerate(providers):
            name = settings.name
            if name.lower() in seen:
                raise self._error(
                    _Table("provider", index),
                    "name",
                    f"there are two providers called {name!r}: give each a different name",
                )
            seen.add(name.lower())

    def _error(self, table: _Table, key: str, message: str) -> ConfigError:
        return ConfigError(f"{self._place(table, key)}: {message}")

    def _place(self, table: _Table, key: str) -> str:
        line = table.find(self._text, key)
        return str(self._path) if line is None else f"{self._path}:{line}"


@dataclass(frozen=True)
class _Table:
    """A table of the file: the ``index``-th of that name, or the top level without a name."""

    name: str = ""
    index: int = 0

    def find(self, text: str, key: str) -> int | None:
        """The line of ``key`` in this table, else of the table itself, counted from 1."""
        wanted = re.compile(rf"""\s*\[*\s*["']?{re.escape(key)}["']?\s*[=.\]]""")
        current, seen, line_of_table = "", -1, None
        for number, line in enumerate(text.splitlines(), 1):
            header = re.match(r"\s*\[\[?\s*([^\]\s]+)\s*\]", line)
            if header is not None:
                current = header[1]
                if current == f"{self.name}.{key}" and seen == self.index:
                    return number
                seen += current == self.name
                if current == self.name and seen == self.index:
                    line_of_table = number
            here = current == self.name and seen == self.index
            if (here or not self.name) and wanted.match(line):
                return number
        return line_of_table

    def __str__(self) -> str:
        return "[[provider]]" if self.name == "provider" else f"[{self.name}]"


def _key_source(key: str, known: Mapping[str, Argument]) -> tuple[str, _Source | None]:
    for ending, source in _SOURCES.items():
        name = key.removesuffix(ending)
        if name != key and name in known and known[name].secret:
            return name, source
    return key, None


def _names_in_file(arguments: Iterable[Argument], table: _Table) -> list[str]:
    names = ["type"] if table.name == "provider" else []
    for argument in arguments:
        names += [argument.name + e for e in _SOURCES] if argument.secret else [argument.name]
    return names
