"""Where files of the user's lie: what is configured, what is cached, what is remembered."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

_NAME = "llmproviders"


def _own(find: Callable[..., Path]) -> Path:
    """A folder of the user's; where there is no home, one that cannot be, and so holds nothing.

    A folder for temporary files would not do: what lies there may be somebody else's.
    """
    try:
        path = find(_NAME, appauthor=False)
    except RuntimeError:
        path = Path()
    # Older releases of platformdirs leave the ~ in it.
    return path if path.is_absolute() else Path(os.devnull, _NAME)


def config_folder() -> Path:
    """The user's configuration folder."""
    from platformdirs import user_config_path

    return _own(user_config_path)


def token_cache() -> Path:
    """The file in which the command line keeps tokens between runs."""
    from platformdirs import user_cache_path

    return _own(user_cache_path) / "tokens.json"


def health_file() -> Path:
    """The file in which the command line remembers which providers are in trouble."""
    from platformdirs import user_state_path

    return _own(user_state_path) / "health.json"
