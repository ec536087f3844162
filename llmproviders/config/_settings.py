"""The settings: providers, failover settings, and the origin of each value.

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
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from .. import _environment as _environ
from .._account.keys import KeyFile, KeyVariable
from .._checks import nearest
from .._environment import config_folder
from .._redact import redact
from .._runtime.files import check_path
from .._signals import let_through
from ..errors import AuthenticationError, MissingAuthError
from ..failover._client import FailoverClient
from ..provider import Provider
from ..providers import REGISTRY
from ..providers._local_servers import LOCAL_SERVERS, LocalServer
from ._arguments import Argument, arguments_of
from ._types import ProviderType, find_type, name_of, names_of_types

Client = TypeVar("Client", bound=FailoverClient)

ProviderClass = type[Provider]


VARIABLE = "LLMPROVIDERS_CONFIG"


class ConfigError(ValueError):
    """The configuration cannot be used; the message names file, line and key."""


class NoProviderError(ConfigError):
    """Neither the configuration nor the environment names a provider."""


@dataclass(frozen=True)
class Value:
    """A setting in force and where it comes from.

    Attributes:
        value: the value for the constructor; a key is a reference to where it is stored.
        origin: ``"argument"``, ``"environment NAME"``, ``"FILE:LINE"`` or ``"default"``.
        held_back: why a key in the environment is not sent; None if it is sent or is not a key.
    """

    value: Any
    origin: str
    held_back: str | None = None

    def read(self) -> Any:
        """The value, with the secrets of a table, such as headers, read from their sources.

        Raises:
            ConfigError: one of them is missing.
        """
        if not isinstance(self.value, Mapping):
            return self.value
        kept = (KeyFile, KeyVariable)
        try:
            return {n: p.read() if isinstance(p, kept) else p for n, p in self.value.items()}
        except (MissingAuthError, AuthenticationError) as error:
            raise ConfigError(f"{self.origin}: {error}") from error


@dataclass(frozen=True)
class ProviderSettings:
    """One provider as it is configured, not created yet.

    Attributes:
        kind: its class.
        given: the arguments that were given, by name.
        origin: where it is named: ``"FILE:LINE"``, ``"argument"``, ``"environment"`` or
            ``"default"``.
        type: the name of its type, if that is not its class's.
    """

    # Not type[Provider]: in this class ``type`` is a field.
    kind: ProviderClass
    given: Mapping[str, Value] = field(default_factory=dict)
    origin: str = "default"
    type: str = ""

    @classmethod
    def of(cls, found: ProviderType, given: Mapping[str, Value], origin: str) -> ProviderSettings:
        """The settings of a provider of a type that was found by its name."""
        server = found.server
        if server is not None:
            usual = {"name": server.name, "base_url": server.base_url}
            given = {**{n: Value(v, f"type {found.name}") for n, v in usual.items()}, **given}
        return cls(found.kind, given, origin, found.name)

    @property
    def type_name(self) -> str:
        """The name of its type, as a configuration gives it."""
        return self.type or name_of(self.kind)

    @property
    def server(self) -> LocalServer | None:
        """The program on this machine that it stands for, if it is one."""
        return LOCAL_SERVERS.get(self.type)

    @property
    def name(self) -> str:
        """Its name."""
        given = self.given.get("name")
        return str(given.value) if given is not None else self.kind.__name__

    def having(self, **arguments: Any) -> ProviderSettings:
        """The same settings, with ``arguments`` replacing those that were given.

        None is ignored, as are arguments that its class does not have.
        """
        return replace(self, given={**self.given, **self._values(arguments, "argument")})

    def defaulting(self, **arguments: Any) -> ProviderSettings:
        """The same settings, with defaults for missing arguments; see :meth:`having`."""
        return replace(self, given={**self._values(arguments, "default"), **self.given})

    def _values(self, arguments: Mapping[str, Any], origin: str) -> dict[str, Value]:
        known = arguments_of(self.kind)
        return {n: Value(v, origin) for n, v in arguments.items() if v is not None and n in known}

    def without(self, *arguments: str) -> ProviderSettings:
        """The same settings, as if ``arguments`` had not been given."""
        return replace(self, given={n: v for n, v in self.given.items() if n not in arguments})

    def make(self) -> Provider:
        """The provider.

        Raises:
            ConfigError: its class refuses an argument or cannot be made, or a secret among the
                headers is not where the configuration says.
        """
        try:
            return self.kind(**{name: value.read() for name, value in self.given.items()})
        except ConfigError:
            raise
        except ValueError as error:
            origin = _origin_of(error, self.given, self.origin)
            raise ConfigError(f"{origin}: {self.name}: {error}") from error
        # A third-party class may raise anything; from a built-in one that is a defect, and is
        # raised.
        except Exception as error:
            let_through(error)
            if self.kind in REGISTRY.values():
                raise
            said = redact(" ".join(f"{type(error).__name__}: {error}".split()))
            where = f"{self.origin}: " if ":" in self.origin else ""
            raise ConfigError(f"{where}{self.name} cannot be made: {said}") from error

    def in_force(self) -> dict[str, Value]:
        """Every argument with its effective value and origin; keys come first."""
        made = self.make()
        values = {}
        for argument in arguments_of(self.kind).values():
            found = self.given.get(argument.name)
            if found is None:
                found = _from_environment(made, argument)
            values[argument.name] = found or Value(_default(made, argument), "default")
        return values

    def key(self) -> Value | None:
        """Where its key or token is, or None if it takes, has or sends none."""
        return next((key for key in self._keys() if key.held_back is None), None)

    def why_held_back(self) -> str | None:
        """Why the key in the environment is not sent; None if one is sent."""
        keys = self._keys()
        sent = [key for key in keys if key.held_back is None]
        return None if sent or not keys else keys[0].held_back

    def _keys(self) -> list[Value]:
        in_force = self.in_force()
        found = [in_force[name] for name in secrets_of(self.kind)]
        return [key for key in found if key.value is not None]

    def key_from(self) -> str | None:
        """A description of where its key is; None if there is no readable key."""
        key = self.key()
        if key is None:
            return None
        if not isinstance(key.value, (KeyFile, KeyVariable)):
            return key.origin
        try:
            key.value.read()
        except MissingAuthError:
            return None
        except AuthenticationError:
            pass  # it exists, although it is not a key
        return source_of(key.value)


@dataclass(frozen=True)
class Configuration:
    """The effective configuration.

    Attributes:
        providers: in priority order.
        failover: the arguments of ``FailoverClient``, by name.
        path: the file that was read, or None.
        path_origin: where the path comes from: ``"argument"``, ``"environment NAME"`` or
            ``"default"``.
        warnings: problems that should be fixed, although it works.
    """

    providers: tuple[ProviderSettings, ...]
    failover: Mapping[str, Value] = field(default_factory=dict)
    path: Path | None = None
    path_origin: str = "default"
    warnings: tuple[str, ...] = ()

    def choose(self, names: Iterable[str]) -> Configuration:
        """The same configuration, with only the providers in ``names``, in that order.

        A name is a configured provider's own, else the type of configured ones, else a type.

        Raises:
            ConfigError: there is none of that name.
        """
        chosen: list[ProviderSettings] = []
        for name in names:
            chosen += [found for found in self._named(name) if found not in chosen]
        return replace(self, providers=tuple(chosen)) if chosen else self

    def _named(self, name: str) -> list[ProviderSettings]:
        found = [item for item in self.providers if item.name.lower() == name.lower()]
        if found:
            return found
        try:
            wanted = find_type(name)
        except ValueError as error:
            raise ConfigError(str(error)) from error
        if wanted is None:
            known = [*(item.name for item in self.providers), *names_of_types()]
            raise ConfigError(f"there is no provider {name!r}{_hint(name, known)}")
        found = [item for item in self.providers if item.type_name == wanted.name]
        return found or [ProviderSettings.of(wanted, {}, "argument")]

    def having(self, **arguments: Any) -> Configuration:
        """The same, with ``arguments`` of ``FailoverClient`` replacing those that were given."""
        new = {name: Value(value, "argument") for name, value in arguments.items()}
        return replace(self, failover={**self.failover, **new})

    def defaulting(self, **arguments: Any) -> Configuration:
        """The same, with defaults for missing ``arguments`` of ``FailoverClient``."""
        new = {name: Value(value, "default") for name, value in arguments.items()}
        return replace(self, failover={**new, **self.failover})

    def client(self) -> FailoverClient:
        """A client of the providers; see :meth:`make`."""
        return self.make(FailoverClient)

    def make(self, kind: type[Client]) -> Client:
        """A client of the providers.

        Args:
            kind: its class.

        Raises:
            NoProviderError: there is no provider.
            ConfigError: an argument is refused.
        """
        if not self.providers:
            raise NoProviderError(self.nobody_to_ask())
        providers = [settings.make() for settings in self.providers]
        arguments = {name: value.value for name, value in self.failover.items()}
        try:
            return kind(providers, **arguments)
        except ValueError as error:
            origin = _origin_of(error, self.failover, str(self.path or "arguments"))
            raise ConfigError(f"{origin}: [failover]: {error}") from error

    def nobody_to_ask(self) -> str:
        """The message for a missing provider: the reason, and what to do."""
        where = "no configuration"
        if self.path:
            where = f'{self.path} names no provider (add one, or remove the "# " before one)'
        keys = [
            kind.environment_of(secrets_of(kind)[0])[0]
            for kind in REGISTRY.values()
            if secrets_of(kind)
        ]
        guests = (name for name, kind in REGISTRY.items() if kind.working and not secrets_of(kind))
        guest = next(guests, "NAME")
        return f"""\
nobody to ask: {where}, and no key in the environment. Do one of these:
  set a key                   {", ".join(keys)}
  list providers in a file    llmproviders config init
  use a model on this machine llmproviders ask -p ollama -m MODEL ...
  name a guest service        llmproviders ask -p {guest} ... (it sees your prompt)
  try it without network      llmproviders demo"""


def locate(path: str | os.PathLike[str] | None = None) -> tuple[Path, str]:
    """The path of the configuration file, which may not exist, and where it comes from.

    Raises:
        ConfigError: no file can have this path.
    """
    origin = "argument"
    if path is None:
        path, origin = _environ.lookup(VARIABLE), f"environment {VARIABLE}"
    if path is None:
        return config_folder() / "config.toml", "default"
    try:
        check_path("the configuration", path)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    return Path(os.path.expanduser(path)), origin


def providers_of_environment() -> tuple[ProviderSettings, ...]:
    """The providers that the environment names.

    First those with credentials in it, then those that need none and have a base address in it. A
    guest service is only asked if it is named, since a prompt is private.
    """
    named = sorted(
        (kind for kind in REGISTRY.values() if _is_named(kind)),
        key=lambda kind: not secrets_of(kind),
    )
    return tuple(ProviderSettings(kind, origin="environment") for kind in named)


def failover_in_force(configuration: Configuration) -> dict[str, Value]:
    """Every argument of ``FailoverClient`` with its effective value and origin."""
    return {
        name: configuration.failover.get(name, Value(argument.default, "default"))
        for name, argument in arguments_of(FailoverClient).items()
    }


def secrets_of(kind: type[Provider]) -> list[str]:
    """The arguments of a provider that are keys or tokens."""
    return [argument.name for argument in arguments_of(kind).values() if argument.secret]


def variables_of(kind: type[Provider]) -> dict[str, tuple[str, ...]]:
    """The environment variables for a provider's arguments; the first that is set wins."""
    named = {name: kind.environment_of(name) for name in arguments_of(kind)}
    return {argument: names for argument, names in named.items() if names}


def source_of(key: KeyFile | KeyVariable) -> str:
    """A description of where a key is stored."""
    return f"file {key.path}" if isinstance(key, KeyFile) else f"environment {key.name}"


def exposed(path: str | os.PathLike[str]) -> str | None:
    """Advice for a file that more people can read than should; None if there are none.

    Another user's file is meant to be read by its group, and so is one that root gave to a group.
    """
    try:
        found = os.stat(path)
    except OSError as error:
        let_through(error)
        return None
    if os.name != "posix":
        return None
    is_shared = found.st_uid != os.geteuid() or (found.st_uid == 0 and found.st_gid != 0)
    if not found.st_mode & (0o007 if is_shared else 0o077):
        return None
    remedy = f"chgrp GROUP {path}; chmod 640 {path}" if is_shared else f"chmod 600 {path}"
    return f"{path} can be read by others (mode {found.st_mode & 0o777:04o}); do: {remedy}"


def _is_named(kind: type[Provider]) -> bool:
    telling = [*secrets_of(kind), "cert", *([] if kind.needs_auth else ["base_url"])]
    return any(_environ.first_set(kind.environment_of(argument)) for argument in telling)


def _origin_of(error: Exception, given: Mapping[str, Value], otherwise: str) -> str:
    """Where the argument that an error is about was given."""
    words = re.findall(r"\w+", str(error))[:3]
    return next((given[word].origin for word in words if word in given), otherwise)


def _from_environment(made: Provider, argument: Argument) -> Value | None:
    found = _environ.first_set(made.variables_for(argument.name))
    if found is None:
        return None
    name, value = found
    origin = f"environment {name}"
    if not argument.secret:
        # As the provider parsed it: a number of seconds, not a string.
        return Value(vars(made).get(argument.name, value), origin)
    return Value(KeyVariable(name), origin, made.why_held_back(argument.name))


def _default(made: Provider, argument: Argument) -> Any:
    """The value that a provider uses for an argument that was not given."""
    if argument.secret:
        return None
    # An argument may have the name of a method, such as trust.
    value = vars(made).get(argument.name, argument.default)
    # A third-party class may lack one.
    usual = getattr(made, "default_model", None)
    return usual if argument.name == "model" and value is None else value


def _hint(name: str, known: Iterable[str]) -> str:
    known = list(known)
    near = nearest(name, known)
    return f"; did you mean {near!r}?" if near else f"; known: {', '.join(known)}"
