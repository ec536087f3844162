"""Keys that are read only when they are needed, so that no pickle or repr contains them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from typing import NamedTuple
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
    """The hash, in hex, that identifies credentials in memory and in files.

    >>> digest("key", "scope") == digest("keys", "cope")
    False
    """
    return sha256(b"".join(sha256(part.encode()).digest() for part in parts)).hexdigest()


@dataclass(frozen=True)
class KeyFile:
    """A key stored in a file; surrounding white space is ignored.

    Args:
        path: the file; it is read at each use, so that a renewed key takes effect at once.

    Raises:
        ValueError: the name is not valid for a file.
    """

    path: str

    def __post_init__(self) -> None:
        _files.check_path("the key file", self.path)

    def read(self) -> Secret:
        """The key.

        Raises:
            MissingAuthError: the file cannot be read, is not a regular file, or is empty.
            AuthenticationError: it holds more than a key.
        """
        try:
            # Undecodable bytes are replaced: a UnicodeDecodeError would contain the whole file.
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
    """A key stored in an environment variable.

    Args:
        name: the variable; it is read at each use.
    """

    name: str

    def read(self) -> Secret:
        """The key.

        Raises:
            MissingAuthError: the variable is unset or blank.
            AuthenticationError: it holds more than a key.
        """
        key = Secret(_environ.lookup(self.name) or "")
        if not key:
            raise MissingAuthError(
                f"the environment variable {self.name} is not set: it should hold the key"
            )
        return _checked(key, f"the environment variable {self.name}")


Key = str | KeyFile | KeyVariable


class Site(NamedTuple):
    """One of several addresses of a service, each with keys of its own.

    Attributes:
        url: the address.
        api_key: the environment variable for a key of this site.
        base_url: the environment variable for another address of this site.
    """

    url: str
    api_key: str
    base_url: str

    def addresses(self) -> list[str]:
        """Where its keys may be sent."""
        return [*filter(None, (self.url, _environ.lookup(self.base_url)))]


def take(argument: str, key: Key | None) -> Key | None:
    """Wrap a key or token that was passed to a constructor, so that it stays hidden.

    Args:
        argument: the argument's name, for the error.
        key: what was given.

    Raises:
        InvalidRequestError: it is neither a string nor a ``KeyFile`` or ``KeyVariable``, or is
            blank.
    """
    if key is None or isinstance(key, (KeyFile, KeyVariable)):
        return key
    if not isinstance(key, str):
        raise InvalidRequestError(f"{argument} must be a string, not {type(key).__name__}")
    key = Secret(key.strip())
    if not key:
        raise InvalidRequestError(f"{argument} is blank; leave it out if there is none")
    return key


def find(argument: str, key: Key | None, variables: Iterable[str]) -> Secret | None:
    """The key or token itself, wherever it is stored; None if there is none.

    Args:
        argument: the argument's name, for the error.
        key: what was given to the constructor.
        variables: environment variables to read otherwise; the first that is set wins.

    Raises:
        MissingAuthError: the given file or variable has none.
        AuthenticationError: the value cannot be a key.
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

    It may be sent to their hosts. On this machine the port has to match too, since another user may
    own another port.

    >>> belongs_to("https://host/v2", ["https://host/v1"])
    True
    >>> belongs_to("http://127.0.0.1:8001/v1", ["http://127.0.0.1:8000/v1"])
    False
    """
    here = _host_of(url)
    return here is not None and here in map(_host_of, homes)


def _host_of(url: str) -> tuple[str, int | None] | None:
    """The host of an address, with the port for this machine; None if it has no host."""
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


# What people paste along with a key, and the advice. No part of the key is shown.
_PASTED = (
    (r"[\"'`“”„«»‘’].*|.*[\"'`“”„«»‘’]", "It contains quotation marks: remove them"),
    (r"(authorization\s*:\s*)?basic\b.*", "It begins with the word Basic: remove it"),
    (r"(authorization\s*:\s*)?bearer\b.*", "It begins with the word Bearer: remove it"),
    (
        r"(export\s+|set\s+)?[A-Za-z_][A-Za-z0-9_]{2,40}\s*[=:]\s*[^=\s].*",
        "It begins with the name of a variable: give only what follows the = or :",
    ),
    (r".*\s.*", "It contains a space or a line break: remove it"),
)


def pasted_with(key: str) -> str:
    """Advice on what seems to have been pasted along with a key; shows no part of the key."""
    for pattern, hint in _PASTED:
        if re.fullmatch(pattern, key, re.DOTALL | re.IGNORECASE):
            return hint
    return ""


# Of OpenAI and those like it, of Yandex and of Google; else a long run of letters and digits, as in
# base64 and hex.
_LIKE_A_KEY = re.compile(
    r"(?:(?:sk|gsk|hf|xai)[-_]|AQVN|AIza)[\w.=+-]{16,}|(?=.*[0-9])(?=.*[a-z]).*[A-Za-z0-9]{20}.*"
)


def looks_like_key(name: str) -> bool:
    """Whether the name of a file or variable looks like a key that was put in its place.

    >>> looks_like_key("sk-0123456789abcdef"), looks_like_key("openai-key-2026.txt")
    (True, False)
    """
    return _LIKE_A_KEY.fullmatch(name) is not None


def _checked(key: Secret, source: str) -> Secret:
    conceal(key)
    if _NOT_IN_A_KEY.search(key):
        conceal_words(key)
        hint = pasted_with(key) or "It contains a character that no key has"
        raise AuthenticationError(
            f"{source} is not a key or token, which is one line, as the service shows it. {hint}"
        )
    return key
