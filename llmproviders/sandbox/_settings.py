"""The settings of a sandbox, for its services."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from numbers import Real
from operator import index
from sys import float_info
from typing import Any

from llmproviders.errors import InvalidRequestError

SLICE_S = 0.2
"""Longest single wait: a signal that arrives just before one is only handled when it returns."""

LONGEST_WAIT_S = 1e6
"""Longest pause that a caller can ask for."""

_LARGEST_COUNT = 2**63 - 1


Message = dict[str, Any]
"""One message of a conversation: ``role`` and ``content``, the content as plain text."""


ReplyText = str | Callable[[list[Message]], str] | None
"""A text for every reply, a function of the messages, or None for the sandbox's own words."""


@dataclass(frozen=True)
class Settings:
    """The settings of one sandbox, each explained at `Sandbox`."""

    reply: ReplyText
    piece_delay_s: float
    compress: bool
    chunked: bool
    clock: Callable[[], float]
    gigachat_scope: str
    gigachat_max_concurrency: int
    gigachat_token_life_s: float
    gigachat_models: tuple[str, ...]
    openai_models: tuple[str, ...]
    chatgptt_streams: bool
    chatgptt_nonce_life_s: float


# The sandbox stands alone, so it does not borrow the package's private checks.
def whole(name: str, value: Any, *, least: int = 1, most: int = _LARGEST_COUNT) -> int:
    """Check a whole number that was given for the argument ``name``.

    Raises:
        InvalidRequestError: it is not a whole number from ``least`` to ``most``.
    """
    try:
        number = None if isinstance(value, bool) else index(value)
    except TypeError:
        number = None
    if number is None or not least <= number <= most:
        limit = f"of at least {least}" if most == _LARGEST_COUNT else f"from {least} to {most}"
        raise InvalidRequestError(f"{name} must be a whole number {limit}")
    return number


def seconds(name: str, value: Any, *, zero: bool = False, most: float = float_info.max) -> float:
    """Check a number of seconds that was given for the argument ``name``.

    Args:
        name: the argument.
        value: what was given.
        zero: whether 0 is allowed.
        most: the largest number allowed.

    Raises:
        InvalidRequestError: it is not such a number.
    """
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    if not is_number or not 0 <= value <= most or (value == 0 and not zero):
        limit = "of at least 0" if zero else "above 0"
        raise InvalidRequestError(f"{name} must be a number of seconds {limit}, {most:g} at most")
    return float(value)
