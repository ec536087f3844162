"""Numbers that come from elsewhere: JSON and TOML have larger ones than can be reckoned with."""

from __future__ import annotations

from sys import float_info
from typing import TypeGuard


def is_finite(value: object) -> TypeGuard[float]:
    """Whether ``value`` is a number that a float can hold; True and False are none.

    >>> is_finite(10**300), is_finite(10**400), is_finite(float("nan"))
    (True, False, False)
    """
    return type(value) in (int, float) and abs(value) <= float_info.max  # type: ignore[arg-type]
