"""Keys that stay where they are until they are needed: no pickle and no repr carries them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256

from . import _environ, _files
from ._redact import conceal
from .errors import MissingAuthError


@lru_cache(maxsize=64)
def digest(*parts: str) -> str:
    """What credentials are remembered by, in memory and in files: their hash, in hex.

    >>> digest("key", "scope") == digest("keys", "cope")
    False
    """
    return sha256(b"".join(sha256(part.encode()).digest() for part in parts)).hexdigest()


@dataclass(frozen=True)
class KeyFile:
    """A key that is the content of a file; white space around it does not count.

    Args:
        path: the file; it is read at each use, so that a renewed key counts at once.

    Raises:
        ValueError: no file can have that name.
    """

    path: str

    def __post_init__(self) -> None:
        _files.check_path("the key file", self.path)

    def read(self) -> str:
        """The key.

        Raises:
            MissingAuthError: the file cannot be read, is no plain file, or is empty.
        """
        try:
            key = _files.read(self.path).decode("utf-8-sig").strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is not a text in UTF-8"
            raise MissingAuthError(f"the key file {self.path} cannot be read: {reason}") from error
        if not key:
            raise MissingAuthError(f"the key file {self.path} is empty: write the key into it")
        conceal(key)
        return key


@dataclass(frozen=True)
class KeyVariable:
    """A key that is the value of an environment variable.

    Args:
        name: the variable; it is read at each use.
    """

    name: str

    def read(self) -> str:
        """The key.

        Raises:
            MissingAuthError: the variable is not set or empty.
        """
        key = _environ.lookup(self.name)
        if key is None:
            raise MissingAuthError(
                f"the environment variable {self.name} is not set: it should hold the key"
            )
        conceal(key)
        return key


Key = str | KeyFile | KeyVariable


def reveal(key: Key | None) -> str | None:
    """The key itself, from wherever it is."""
    return key if key is None or isinstance(key, str) else key.read()
