"""The only reader of the process's environment."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path

from platformdirs import user_cache_path, user_config_path, user_state_path

from ._signals import let_through


def first_set(names: Iterable[str]) -> tuple[str, str] | None:
    """The first of ``names`` that is set and not blank, with its value, stripped of white space."""
    for name in names:
        value = os.environ.get(name, "").strip()
        if value:
            return name, value
    return None


def lookup(*names: str) -> str | None:
    """The value of the first of ``names`` that is set and not blank, stripped of white space."""
    found = first_set(names)
    return None if found is None else found[1]


def hide(names: Iterable[str]) -> None:
    """Remove ``names`` from the environment of this process and of those that it starts."""
    for name in names:
        os.environ.pop(name, None)


_NAME = "llmproviders"


def _own(find: Callable[..., Path]) -> Path:
    """A folder of the user's; without a home folder, a path that cannot exist.

    A folder for temporary files would not do: files in it may belong to another user.
    """
    try:
        path = find(_NAME, appauthor=False)
    except RuntimeError as error:
        let_through(error)
        path = Path()
    # Older releases of platformdirs leave the ~ in it.
    return path if path.is_absolute() else Path(os.devnull, _NAME)


def is_nowhere(path: str | os.PathLike[str]) -> bool:
    """Whether a path has no place because there is no home folder."""
    return Path(os.devnull) in Path(path).parents


def closed_folder(path: Path) -> Path | None:
    """The folder that keeps a file from being written; None if nothing does.

    Args:
        path: the file; it and its folder may be missing.
    """
    folder = path.parent
    while not os.path.lexists(folder) and folder != folder.parent:
        folder = folder.parent
    return None if os.access(folder, os.W_OK | os.X_OK) else folder


def why_unwritable(path: Path) -> str | None:
    """Why a file in one of the user's folders cannot be written; None if it can."""
    if is_nowhere(path):
        return "there is no home folder"
    return None if closed_folder(path) is None else f"{path.parent} cannot be written"


def why_stateless() -> str | None:
    """Why no tokens and no health can be kept between runs; None if they can."""
    return why_unwritable(token_cache()) or why_unwritable(health_file())


def config_folder() -> Path:
    """The user's configuration folder."""
    return _own(user_config_path)


def token_cache() -> Path:
    """The file in which the command line keeps tokens between runs."""
    return _own(user_cache_path) / "tokens.json"


def usage_file() -> Path:
    """The database in which requests and tokens are counted."""
    return _own(user_state_path) / "usage.sqlite3"


def reply_cache() -> Path:
    """The file in which ``ask --cache`` keeps replies."""
    return _own(user_cache_path) / "replies.sqlite"


def health_file() -> Path:
    """The file in which the command line remembers which providers are in trouble."""
    return _own(user_state_path) / "health.json"


def uploads_file() -> Path:
    """The file that remembers which files GigaChat already has."""
    return _own(user_state_path) / "gigachat-files.json"
