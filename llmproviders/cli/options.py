"""Options that several commands share, and the client that they describe."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, replace
from functools import wraps
from math import isinf, isnan
from typing import Any, TypeVar

import click

from .. import _environment as _places
from .._http.types import Timeout
from .._log import logger
from ..config._reader import load
from ..config._settings import ConfigError, Configuration, ProviderSettings
from ..config._types import ProviderType, find_type, names_of_types
from ..failover._client import FailoverClient
from .arguments import FILE, TEXT
from .notes import Notes

Function = TypeVar("Function", bound=Callable[..., Any])


def _overflows(number: float, text: object) -> bool:
    """Whether ``number`` is infinite, but ``text`` does not say so."""
    return isinf(number) and "inf" not in str(text).lower()


def _timeout(value: str) -> Timeout:
    try:
        parts = [float(part) for part in value.split(",")]
    except ValueError:
        parts = []
    usable = all(part > 0 and not _overflows(part, value) for part in parts)
    if len(parts) not in (1, 2) or not usable:
        raise click.BadParameter(f"{value!r} is neither seconds nor CONNECT,READ in seconds")
    return parts[0] if len(parts) == 1 else (parts[0], parts[1])


class Number(click.FloatRange):
    """A number in a range; ``nan``, and digits that a float cannot hold, are never in range."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """The number that ``value`` stands for."""
        number: float = super().convert(value, param, ctx)
        if isnan(number) or _overflows(number, value):
            self.fail(f"{value!r} is not a number.", param, ctx)
        return number


_USERS = "user"


def providers_like(_context: click.Context, _parameter: click.Parameter, begun: str) -> list[str]:
    """The names of providers that begin so, for the shell's completion."""
    # An alias replaces the longer name of the same type.
    types = {(found.kind, found.server): name for name, found in _types()}
    # A configured provider with the name of its type stands for that type.
    names = {name.lower(): name for name in (*types.values(), *(s.name for s in _configured()))}
    return _beginning(begun, names.values())


def models_like(context: click.Context, _parameter: click.Parameter, begun: str) -> list[str]:
    """The models, and their aliases, of the providers that were named, or else configured."""
    named = context.params.get("providers") or ()
    found = [find_type(name) for name in named]
    kinds = [settings.kind for settings in _configured() if not named or settings.name in named]
    kinds += [each.kind for each in found if each is not None]
    names = [name for kind in kinds for name in (*kind.models, *kind.model_aliases)]
    return _beginning(begun, dict.fromkeys(names))


def _types() -> list[tuple[str, ProviderType]]:
    found = ((name, find_type(name)) for name in names_of_types())
    return [(name, each) for name, each in found if each is not None]


def _configured() -> tuple[ProviderSettings, ...]:
    try:
        return load().providers
    except ConfigError:
        return ()


def _beginning(begun: str, names: Iterable[str]) -> list[str]:
    return [name for name in names if name.lower().startswith(begun.lower())]


SECONDS = Number(min=0, min_open=True)


_CONFIG = click.option("--config", type=FILE, metavar="FILE", help="Configuration to use.")

_PROVIDERS = click.option(
    "-p",
    "--provider",
    "providers",
    multiple=True,
    type=TEXT,
    shell_complete=providers_like,
    metavar="NAME",
    help="Provider to ask; repeat it in order of priority.",
)

_PROXY = click.option("--proxy", type=TEXT, metavar="URL", help="Proxy for every request.")

_STATE = click.option(
    "--no-state",
    "stateless",
    is_flag=True,
    help="Keep no tokens and no record of failures between runs.",
)

_MODEL = click.option(
    "-m",
    "--model",
    type=TEXT,
    shell_complete=models_like,
    metavar="NAME",
    help="Model, or an alias of one.",
)

_DEADLINE = click.option(
    "--deadline", type=SECONDS, metavar="SECONDS", help="Limit for the whole call, waits included."
)

ATTACH = click.option(
    "-a",
    "--attach",
    type=FILE,
    multiple=True,
    metavar="FILE",
    help="Let the model look at FILE; repeatable.",
)

_FIRST_CHUNK = click.option(
    "--first-chunk-timeout",
    type=SECONDS,
    metavar="SECONDS",
    help="Limit for the first text or thought of each attempt.",
)

_TIMEOUT = click.option(
    "--timeout",
    type=_timeout,
    metavar="SECONDS",
    help="Limit for connecting and for each silence; or CONNECT,READ.",
)


def _verbose(help_text: str) -> Callable[[Any], Any]:
    return click.option("-v", "--verbose", count=True, help=help_text)


_QUIET = click.option("-q", "--quiet", is_flag=True, help="Print only errors.")

_SAMPLING = (
    click.option("-s", "--system", type=TEXT, metavar="TEXT", help="System prompt."),
    click.option(
        "--temperature",
        type=Number(min=0),
        metavar="NUMBER",
        help="Sampling temperature.",
    ),
    click.option(
        "--max-tokens",
        type=click.IntRange(min=1),
        metavar="COUNT",
        help="Longest reply, in tokens.",
    ),
)

_SETUP = (_STATE, _CONFIG)

_WAY = (_DEADLINE, _FIRST_CHUNK, _TIMEOUT, _PROXY, *_SETUP, _QUIET)

_CALL = (
    _PROVIDERS,
    _MODEL,
    *_SAMPLING,
    *_WAY,
    _verbose("Print each attempt on standard error; twice: also the library's log."),
)

_BATCH = (
    _PROVIDERS,
    _MODEL,
    *_WAY,
    _verbose("Print on standard error what was done; twice: also each attempt."),
)


@dataclass(frozen=True)
class Choices:
    """The values of the shared options."""

    config: str | None = None
    providers: tuple[str, ...] = ()
    model: str | None = None
    system: str | None = None
    temperature: float | None = None
    max_tokens: int | None = None
    deadline: float | None = None
    first_chunk_timeout: float | None = None
    timeout: Timeout | None = None
    proxy: str | None = None
    stateless: bool = False
    verbose: int = 0
    quiet: bool = False

    def naming(self, *providers: str) -> Choices:
        """A copy with other providers."""
        return replace(self, providers=providers)

    def notes(self) -> Notes:
        """What to print on standard error."""
        return Notes(verbose=self.verbose, quiet=self.quiet)

    def params(self) -> dict[str, Any]:
        """The sampling parameters that were given, by name."""
        given = {
            "system": self.system,
            "temperature": self.temperature,
            "max_tokens": self.max_tokens,
        }
        return {name: value for name, value in given.items() if value is not None}

    def configuration(self) -> Configuration:
        """The configuration, changed by the options.

        Raises:
            ConfigError: it cannot be used, or names no such provider.
        """
        configuration = load(self.config).choose(self.providers)
        providers = [
            settings.having(model=self.model, timeout=self.timeout, proxy=self.proxy)
            for settings in configuration.providers
        ]
        why = None if self.stateless else _places.why_stateless()
        if why is not None:
            logger.warning("%s, so nothing is kept between runs; set HOME, or give --no-state", why)
        if self.stateless:
            providers = [settings.without("token_cache") for settings in providers]
        elif why is None:
            providers = [settings.defaulting(token_cache=_USERS) for settings in providers]
        configuration = replace(configuration, providers=tuple(providers))
        limits = {"deadline": self.deadline, "first_chunk_timeout": self.first_chunk_timeout}
        given = {name: limit for name, limit in limits.items() if limit is not None}
        configuration = configuration.having(**given)
        if self.stateless:
            return configuration.having(health=None)
        # A file that the configuration names may be in another place.
        return configuration.defaulting(health=None if why else str(_places.health_file()))

    def client(self, **arguments: Any) -> FailoverClient:
        """The client that the options describe; ``arguments`` of its class win over them."""
        return self.configuration().having(**arguments).client()


def takes_back(configuration: Configuration) -> bool:
    """Whether a stream may discard text that was already written to a file or pipe."""
    chosen = configuration.failover.get("on_interrupt")
    return chosen is not None and chosen.value == "restart" and not sys.stdout.isatty()


def call_options(function: Function) -> Function:
    """Give a command the options of a call; it gets them as its first argument, ``Choices``."""
    return _with_choices(function, _CALL)


def batch_options(function: Function) -> Function:
    """Give a command the options of many calls, whose prompts bring their own parameters."""
    return _with_choices(function, _BATCH)


def setup_options(function: Function) -> Function:
    """Give a command the options of the setup alone; it gets ``Choices``, too."""
    return _with_choices(function, _SETUP)


def check_options(function: Function) -> Function:
    """Give a command the options that say what to check; it gets ``Choices``, too."""
    return _with_choices(function, (_PROVIDERS, _PROXY, *_SETUP))


def config_option(function: Function) -> Function:
    """Give a command ``--config`` alone; it gets ``Choices``, too."""
    return _with_choices(function, (_CONFIG,))


def _with_choices(function: Function, options: tuple[Callable[[Any], Any], ...]) -> Function:
    @wraps(function)
    def collected(*args: Any, **given: Any) -> Any:
        names = [field.name for field in fields(Choices) if field.name in given]
        chosen = {name: given.pop(name) for name in names}
        if chosen["config"] is None:
            chosen["config"] = click.get_current_context().obj
        return function(Choices(**chosen), *args, **given)

    for option in reversed(options):
        collected = option(collected)
    return collected  # type: ignore[return-value]
