"""``llmproviders models``: the models of a provider."""

from __future__ import annotations

import json

import click

from .._printable import one_line
from ..config._settings import ConfigError, Configuration, NoProviderError, ProviderSettings
from ..errors import LLMError
from .arguments import TEXT
from .exits import Exit, exit_of_error
from .notes import print_table, put, say
from .options import Choices, providers_like, setup_options


@click.command("models", epilog="Example: llmproviders models gigachat")
@click.argument("provider", required=False, type=TEXT, shell_complete=providers_like)
@click.option("--json", "as_json", is_flag=True, help="Print a list of names; of all: an object.")
@setup_options
def command(choices: Choices, provider: str | None, as_json: bool) -> Exit:
    """List the models of a provider.

    Services that can list their models are asked. PROVIDER is the name of a configured provider, or
    a type; without it, the models of all configured providers are listed.
    """
    if provider is None:
        return _list_all(choices.configuration(), as_json=as_json)
    settings, *others = choices.naming(provider).configuration().providers
    if others:
        names = ", ".join(item.name for item in (settings, *others))
        raise ConfigError(f"there are several of the type {provider!r}; name one: {names}")
    models = _models_of(settings)
    if as_json:
        put(json.dumps(models))
        return Exit.OK
    if not models:
        say(f"{settings.name} lists no models")
    for name in models:
        put(one_line(name))
    return Exit.OK


def _list_all(configuration: Configuration, *, as_json: bool) -> Exit:
    """List the models of several providers; report the failures and continue."""
    if not configuration.providers:
        raise NoProviderError(
            f"{configuration.nobody_to_ask()}\n"
            "  list the models of one      llmproviders models gigachat"
        )
    found: dict[str, list[str]] = {}
    code = Exit.OK
    for settings in configuration.providers:
        try:
            found[settings.name] = _models_of(settings)
        except LLMError as error:
            say(f"{settings.name}: {error}")
            code = exit_of_error(error)
    if as_json:
        put(json.dumps(found))
    elif found:
        rows = [
            [provider if place == 0 else "", model]
            for provider, models in found.items()
            for place, model in enumerate(models or ["(lists no models)"])
        ]
        print_table(["provider", "model"], rows)
    return code


def _models_of(settings: ProviderSettings) -> list[str]:
    with settings.make() as made:
        return made.list_models()
