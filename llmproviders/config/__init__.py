"""The configuration: providers, failover settings, and the origin of each value."""

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
