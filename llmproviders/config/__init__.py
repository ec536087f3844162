"""The configuration: the providers, how they fail over, and where each value comes from."""

from ._reader import TABLES, load
from ._settings import (
    VARIABLE,
    ConfigError,
    Configuration,
    NoProviderError,
    ProviderSettings,
    Value,
    exposed,
    failover_in_force,
    locate,
    providers_of_environment,
    secrets_of,
    source_of,
    variables_of,
)

__all__ = [
    "TABLES",
    "VARIABLE",
    "ConfigError",
    "Configuration",
    "NoProviderError",
    "ProviderSettings",
    "Value",
    "exposed",
    "failover_in_force",
    "load",
    "locate",
    "providers_of_environment",
    "secrets_of",
    "source_of",
    "variables_of",
]
