"""``llmproviders models``: the models of a provider."""

from __future__ import annotations

import json

import click

from .._printable import one_line
from ..config._settings import ConfigError
from .notes import put, say
from .options import TEXT, Choices, providers_like, setup_options


@click.command("models", epilog="Example: llmproviders models gigachat")
@click.argument("provider", type=TEXT, shell_complete=providers_like)
@click.option("--json", "as_json", is_flag=True, help="Print a list of names.")
@setup_options
def command(choices: Choices, provider: str, as_json: bool) -> None:
    """List the models of a provider.

    A service that can say is asked. PROVIDER is the name of a configured one, or a type.
    """
    settings, *others = choices.naming(provider).configuration().providers
    if others:
        names = ", ".join(item.name for item in (settings, *others))
        raise ConfigError(f"there are several of the type {provider!r}; name one: {names}")
    with settings.make() as made:
        names_of_models = made.list_models()
    if as_json:
        put(json.dumps(names_of_models))
        return
    if not names_of_models:
        say(f"{settings.name} lists no models")
    for name in names_of_models:
        put(one_line(name))
