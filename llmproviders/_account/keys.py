"""Keys that stay where they are until they are needed: no pickle and no repr carries them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from urllib.parse import urlsplit

from .. import _environment as _environ
from .._http.types import is_loopback
from .._redact import Secret, conceal, conceal_words, hidden
from .._runtime import files as _files
from .._signals import let_through
from ..errors import AuthenticationError, InvalidRequestError, MissingAuthError

_NOT_IN_A_KEY = re.compile(r"[^!-~]")


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

    def read(self) -> Secret:
        """The key.

        Raises:
            MissingAuthError: the file cannot be read, is no plain file, or is empty.
            AuthenticationError: it holds more than a key.
        """
        try:
            # What cannot be decoded is replaced: the error would carry the whole file along.
            key = Secret(_files.read(self.path).decode("utf-8-sig", "replace").strip())
        except OSError as error:
            let_through(error)
            raise MissingAuthError(
                f"the key file {self.path} cannot be read: {error.strerror}"
            ) from error
        if "\N{REPLACEMENT CHARACTER}" in key:
            raise MissingAuthError(
                f"the key file {self.path} cannot be read: it is not a text in UTF-8"
            )
        if not key:
            raise MissingAuthError(f"the key file {self.path} is empty: write the key into it")
        return _checked(key, f"the key file {self.path}")


@dataclass(frozen=True)
class KeyVariable:
    """A key that is the value of an environment variable.

    Args:
        name: the variable; it is read at each use.
    """

    name: str

    def read(self) -> Secret:
        """The key.

        Raises:
            MissingAuthError: the variable is not set or blank.
            AuthenticationError: it holds more than a key.
        """
        key = Secret(_environ.lookup(self.name) or "")
        if not key:
            raise MissingAuthError(
                f"the environment variable {self.name} is not set: it should hold the key"
            )
        return _checked(key, f"the environment variable {self.name}")


Key = str | KeyFile | KeyVariable


def take(argument: str, key: Key | None) -> Key | None:
    """A key or token as it was given to a constructor, kept from being seen.

    Args:
        argument: the argument's name, for the error.
        key: what was given.

    Raises:
        InvalidRequestError: it is neither a text nor a place where a key is kept, or blank.
    """
    if key is None or isinstance(key, (KeyFile, KeyVariable)):
        return key
    if not isinstance(key, str):
        raise InvalidRequestError(f"{argument} is a text, not {type(key).__name__}")
    key = Secret(key.strip())
    if not key:
        raise InvalidRequestError(f"{argument} is blank; leave it out where there is none")
    return key


def find(argument: str, key: Key | None, variables: Iterable[str]) -> Secret | None:
    """A key or token itself, from wherever it is; None where there is none.

    Args:
        argument: the name of the argument for it, for the error.
        key: what was given to the constructor.
        variables: names of the environment that stand for it, the first that is set wins.

    Raises:
        MissingAuthError: the place that was given has none.
        AuthenticationError: what is there cannot be one.
    """
    if key is None:
        key = _variable(variables)
    if key is None:
        return None
    if isinstance(key, (KeyFile, KeyVariable)):
        return key.read()
    return _checked(hidden(key), f"the argument {argument}")


def belongs_to(url: str, homes: Iterable[str]) -> bool:
    """Whether a key that belongs to the addresses ``homes`` may be sent to ``url``.

    It may be sent to their hosts; on this machine, where each port may be another user's, only to
    their ports, too.

    >>> belongs_to("https://host/v2", ["https://host/v1"])
    True
    >>> belongs_to("http://127.0.0.1:8001/v1", ["http://127.0.0.1:8000/v1"])
    False
    """
    here = _host_of(url)
    return here is not None and here in map(_host_of, homes)


def _host_of(url: str) -> tuple[str, int | None] | None:
    """The host that an address names, with the port if it is this machine; None if it has none."""
    try:
        parts = urlsplit(url)
        host = (parts.hostname or "").rstrip(".")
        if not host:
            return None
        return host, (parts.port if is_loopback(host) else None)
    except ValueError as error:
        let_through(error)
        return None


def _variable(names: Iterable[str]) -> KeyVariable | None:
    found = _environ.first_set(names)
    return None if found is None else KeyVariable(found[0])


# What people paste together with a key, and what to say of it. Nothing of the key is shown.
_PASTED = (
    (r"[\"'`“”„«»‘’].*|.*[\"'`“”„«»‘’]", "It stands in quotation marks: leave them out"),
    (r"(authorization\s*:\s*)?basic\b.*", "It begins with the word Basic: leave that out"),
    (r"(authorization\s*:\s*)?bearer\b.*", "It begins with the word Bearer: leave that out"),
    (
        r"(export\s+|set\s+)?[A-Za-z_][A-Za-z0-9_]{2,40}\s*[=:]\s*[^=\s].*",
        "It begins with the name of a variable: give only what stands behind the = or :",
    ),
    (r".*\s.*", "There is a space or a line break inside: remove it"),
)


def pasted_with(key: str) -> str:
    """What seems to have been pasted together with a key, and what to do; nothing of the key."""
    for pattern, hint in _PASTED:
        if re.fullmatch(pattern, key, re.DOTALL | re.IGNORECASE):
            return hint
    return ""


def _checked(key: Secret, source: str) -> Secret:
    conceal(key)
    if _NOT_IN_A_KEY.search(key):
        conceal_words(key)
        hint = pasted_with(key) or "There is a character inside that no key has"
        raise AuthenticationError(
            f"{source} is not a key or token, which is one line, as the service shows it. {hint}"
        )
    return key
