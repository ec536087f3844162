"""Where files of the user's lie: what is configured, what is cached, what is remembered."""

from __future__ import annotations

from pathlib import Path

_NAME = "llmproviders"


def config_folder() -> Path:
    """The user's configuration folder."""
    from platformdirs import user_config_path

    return user_config_path(_NAME, appauthor=False)


def token_cache() -> Path:
    """The file in which the command line keeps tokens between runs."""
    from platformdirs import user_cache_path

    return user_cache_path(_NAME, appauthor=False) / "tokens.json"


def health_file() -> Path:
    """The file in which the command line remembers which providers are in trouble."""
    from platformdirs import user_state_path

    return user_state_path(_NAME, appauthor=False) / "health.json"
