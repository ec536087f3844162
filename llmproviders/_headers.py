"""Facts that a service sends in its reply's headers."""

from __future__ import annotations

from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from math import isfinite

_LONGEST_S = 7 * 24 * 3600.0


def parse_retry_after(headers: Mapping[str, str], *, now: float) -> float | None:
    """Seconds that a reply asks to wait, or None.

    Reads ``retry-after-ms`` (milliseconds), else ``Retry-After`` as seconds, fractions included,
    or as an HTTP date, counted from the reply's own ``Date`` so that a wrong clock on either side
    does no harm. Nonsense, negative and absurd (over a week) values are None.
    Source: RFC 9110, 10.2.3.

    Args:
        headers: the reply's headers, looked up without regard to case.
        now: Unix time in seconds, for a reply without ``Date``.

    >>> parse_retry_after({"retry-after-ms": "1500"}, now=0)
    1.5
    """
    seconds = _number(headers.get("retry-after-ms"))
    if seconds is not None:
        seconds /= 1000
    else:
        value = headers.get("retry-after")
        seconds = _number(value)
        if seconds is None and (moment := parse_http_date(value)) is not None:
            date = parse_http_date(headers.get("date"))
            seconds = max(0.0, moment - (now if date is None else date))
    if seconds is None or not 0 <= seconds <= _LONGEST_S:
        return None
    return seconds


def parse_http_date(value: str | None) -> float | None:
    """An HTTP date as Unix time in seconds; None where it is not one."""
    if not value:
        return None
    try:
        return parsedate_to_datetime(value).timestamp()
    except (ValueError, TypeError, OverflowError, IndexError):
        return None


def _number(value: str | None) -> float | None:
    if value is None:
        return None
    try:
        number = float(value)
    except ValueError:
        return None
    return number if isfinite(number) else None
