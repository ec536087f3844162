"""The official client's environment variables, other than keys and addresses."""

from __future__ import annotations

import os
from pathlib import Path

from ... import _environment as _environ
from ..._checks import seconds, shown
from ..._log import logger
from ...errors import InvalidRequestError

_FALSE = ("0", "f", "false", "n", "no", "off")

_TRUE = ("1", "t", "true", "y", "yes", "on")


def check_version(base_url: str) -> None:
    """Refuse the address of version 2 of the API, whose chats have another format."""
    path = base_url.partition("?")[0].rstrip("/").removesuffix("/chat/completions")
    if path.lower().endswith("/v2"):
        raise InvalidRequestError(
            f"base_url is {base_url}: version 2 of GigaChat's API is not supported; use the "
            "address that ends in /v1"
        )


def timeout() -> float | None:
    """The timeout in the environment, in seconds; None if it is not set."""
    value = _environ.lookup("GIGACHAT_TIMEOUT")
    if value is None:
        return None
    try:
        return seconds("GIGACHAT_TIMEOUT", float(value))
    except ValueError:
        raise InvalidRequestError(
            f"GIGACHAT_TIMEOUT must be a number of seconds above 0, not {shown(value)}"
        ) from None


def profanity_check() -> bool | None:
    """Whether the service should check for profanity; None if it is not set."""
    value = _environ.lookup("GIGACHAT_PROFANITY_CHECK")
    if value is not None and value.lower() not in (*_TRUE, *_FALSE):
        raise InvalidRequestError(
            f"GIGACHAT_PROFANITY_CHECK must be true or false, not {shown(value)}"
        )
    return None if value is None else value.lower() in _TRUE


def certificate() -> str | tuple[str, str] | None:
    """The client certificate's file, with that of the key if separate."""
    certificate = _environ.lookup("GIGACHAT_CERT_FILE")
    key = _environ.lookup("GIGACHAT_KEY_FILE")
    return (certificate, key) if certificate and key else certificate


def warn_of_unread() -> None:
    """Warn about variables that only the official client reads, and name the alternative."""
    if _environ.lookup("GIGACHAT_MAX_RETRIES") not in (None, "0"):
        logger.warning(
            "GIGACHAT_MAX_RETRIES is not read; FailoverClient(attempts=...) sets how often a "
            "provider is tried"
        )


def token_file(token_cache: str | os.PathLike[str] | None) -> Path | None:
    """The file in which processes share tokens; None: each process has its own."""
    if token_cache is None:
        return None
    if token_cache == "user":  # noqa: S105 - the name of a place
        return _environ.token_cache()
    return Path(os.path.expanduser(token_cache)).absolute()
