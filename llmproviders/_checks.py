"""Checks of values from callers, configuration, and services' JSON."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from math import inf
from numbers import Real
from operator import index
from typing import Any, TypeGuard, get_args, get_origin

from ._redact import Secret, conceal_words, hidden, is_telling
from ._signals import let_through
from .errors import InvalidRequestError

if sys.version_info >= (3, 11):
    from typing import get_type_hints as get_type_hints
else:
    # Python 3.10's own makes every parameter whose default is None optional.
    from typing_extensions import get_type_hints as get_type_hints

FINITE = sys.float_info.max
"""The largest number of seconds where the time must be finite."""


_LARGEST_COUNT = 2**63 - 1

_LONGEST_SHOWN = 40

_NUMBERS_REQUESTS = re.compile("request-?id|correlation|trace", re.IGNORECASE)


def is_finite(value: object) -> TypeGuard[float]:
    """Whether ``value`` is a number that a float can hold; True and False are not numbers.

    >>> is_finite(10**300), is_finite(10**400), is_finite(float("nan"))
    (True, False, False)
    """
    return type(value) in (int, float) and abs(value) <= FINITE  # type: ignore[arg-type]


def is_count(value: object) -> TypeGuard[int]:
    """Whether ``value`` can be a number of tokens or the like.

    >>> is_count(5), is_count(-1), is_count(5.0), is_count(True), is_count(10**400)
    (True, False, False, False, False)
    """
    return type(value) is int and 0 <= value <= _LARGEST_COUNT


def whole(name: str, value: object, *, least: int = 1, most: int = _LARGEST_COUNT) -> int:
    """Check a whole number that a caller passed.

    Args:
        name: the argument's.
        value: the value; numpy's integers are whole numbers too.
        least: the smallest allowed number.
        most: the largest allowed number.

    Raises:
        InvalidRequestError: it is no such number.
    """
    try:
        number = None if isinstance(value, bool) else index(value)  # type: ignore[arg-type]
    except TypeError as error:
        let_through(error)
        number = None
    if number is None or not least <= number <= most:
        limit = f" of at least {least}" if most == _LARGEST_COUNT else f" from {least} to {most}"
        if least < -_LARGEST_COUNT:
            limit = "" if number is None else " of 64 bits"
        raise InvalidRequestError(f"{name} must be a whole number{limit}, not {shown(value)}")
    return number


def seconds(name: str, value: object, *, zero: bool = False, most: float = inf) -> float:
    """Check a number of seconds that a caller passed.

    Args:
        name: the argument's.
        value: what was given.
        zero: whether 0 is allowed.
        most: the largest allowed number; infinity unless given.

    Raises:
        InvalidRequestError: it is no such number.
    """
    number = as_float(value)
    if number is None or not (0 <= number <= most) or (number == 0 and not zero):
        limit = "of at least 0" if zero else "above 0"
        if most != inf:
            limit += f", {most:g} at most" if most < FINITE else ", not infinite"
        raise InvalidRequestError(f"{name} must be a number of seconds {limit}, not {shown(value)}")
    return number


# A header's name, and what HTTP allows in its value: a tab and the printable part of Latin-1.
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HEADER_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")


# A second opinion on where a body ends makes its rest the next request on the connection.
_OF_THE_FRAME = ("content-length", "transfer-encoding")


def header_fields(name: str, value: object) -> dict[str, str]:
    """Check headers that a caller passed; values that look like secrets are masked.

    Args:
        name: the argument's name.
        value: the headers; names and values are strings.

    Raises:
        InvalidRequestError: they cannot be sent as headers, or say how long the body is; no value
            is shown.
    """
    if not isinstance(value, Mapping):
        raise InvalidRequestError(f"{name} must be a dict of headers, not {type(value).__name__}")
    fields: dict[str, str] = {}
    for field, text in value.items():
        if not isinstance(field, str) or not _HEADER_NAME.fullmatch(field):
            raise InvalidRequestError(f"{name} has {shown(field)}, which is not a header name")
        if field.lower() in _OF_THE_FRAME:
            raise InvalidRequestError(
                f"{name} has {field}, which is set from the body that is sent; another value would "
                "break the connection: leave it out"
            )
        if isinstance(text, str):
            text = text.strip(" \t\r\n")
            if is_telling(field):
                text = hidden(text)
                conceal_words(text)
        if not isinstance(text, str) or not _HEADER_VALUE.fullmatch(text):
            raise InvalidRequestError(
                f"{name} has a value for {field} that cannot be sent and is not shown: it is not a "
                "string, or has a line break or another character that HTTP does not allow"
            )
        fields[field] = text
    return fields


def counted_headers(headers: Mapping[str, Any]) -> dict[str, Any]:
    """The headers that make a request another one.

    Those with credentials do not, nor do those that number requests: each run may have new ones.
    """
    return {
        name.lower(): value
        for name, value in headers.items()
        if not is_telling(name) and not _NUMBERS_REQUESTS.search(name)
    }


def text(name: str, value: object) -> str:
    """Check a string that a caller passed; return it without surrounding white space.

    Args:
        name: the argument's name.
        value: what was given.

    Raises:
        InvalidRequestError: it is not a string, or is blank.
    """
    if not isinstance(value, str):
        raise InvalidRequestError(f"{name} must be a string, not {type(value).__name__}")
    stripped = value.strip()
    if not stripped:
        raise InvalidRequestError(f"{name} is blank; leave it out for the default")
    return hidden(stripped) if isinstance(value, Secret) else stripped


def boolean(name: str, value: object) -> bool:
    """Check a True or False that a caller passed.

    Args:
        name: the argument's name.
        value: what was given.

    Raises:
        InvalidRequestError: it is neither.
    """
    if not isinstance(value, bool):
        raise InvalidRequestError(f"{name} must be True or False, not {shown(value)}")
    return value


def as_float(value: object) -> float | None:
    """``value`` as a float; None if it is not a number, or too large for a float."""
    if isinstance(value, bool) or not isinstance(value, Real):
        return None
    try:
        return float(value)
    except OverflowError:
        return None


def shown(value: object) -> str:
    """A value as messages show it.

    >>> shown("60"), shown(10**5000)
    ("'60'", 'something of type int that is too large to show')
    """
    try:
        text = repr(value)
    except (ValueError, RecursionError) as error:
        let_through(error)
        # Python does not write out integers of more than 4,300 digits.
        return f"something of type {type(value).__name__} that is too large to show"
    return text if len(text) <= _LONGEST_SHOWN else f"{text[: _LONGEST_SHOWN - 3]}..."


def is_typed_dict(kind: object) -> bool:
    """Whether ``kind`` is a ``TypedDict``, of ``typing`` or of ``typing_extensions``."""
    return isinstance(kind, type) and issubclass(kind, dict) and hasattr(kind, "__total__")


def typed_dict_fields(kind: Any) -> dict[str, tuple[Any, bool]]:
    """The fields of a ``TypedDict``: each its type, and whether it is required."""
    fields = {}
    for name, hint in get_type_hints(kind, include_extras=True).items():
        required = name in kind.__required_keys__
        # The class does not know it if the annotations are strings.
        while (mark := getattr(get_origin(hint), "_name", None)) in ("Required", "NotRequired"):
            required = mark == "Required"
            hint = get_args(hint)[0]
        fields[name] = hint, required
    return fields


def nearest(name: str, known: Iterable[str], *, cutoff: float = 0.5) -> str | None:
    """The item of ``known`` that is most similar to ``name``, if any is.

    Args:
        name: the name.
        known: the names to choose from.
        cutoff: how similar it has to be, from 0 to 1.
    """
    by_lower = {candidate.lower(): candidate for candidate in known}
    found = get_close_matches(name.lower(), by_lower, n=1, cutoff=cutoff)
    return by_lower[found[0]] if found else None
