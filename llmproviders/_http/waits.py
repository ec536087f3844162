"""How long a service asks to wait, in headers, fields and words."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime, timedelta, timezone
from email.utils import parsedate_to_datetime

from .._signals import let_through

_LONGEST_S = 7 * 24 * 3600.0
"""A longer wait is cut to this."""

_ABSURD_S = 366 * 24 * 3600.0

_NUMBER = re.compile(r"[0-9]{1,18}(\.[0-9]{0,18})?")


# Patterns are compiled on first use: most processes never get an error that asks to wait, and
# compiling takes longer than importing this module.
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "秒": 1.0, "分": 60.0, "小": 3600.0}

_AMOUNT = r"[0-9]{1,9}(?:\.[0-9]{0,9})?"

_UNIT = (
    r"(?:ms|milliseconds?|s|secs?|seconds?|m|mins?|minutes?|h|hrs?|hours?|d|days?|秒|分钟|小时)"
    r"(?![a-z])"
)

_PART = rf"({_AMOUNT})\s*({_UNIT})"

_DURATION = rf"{_AMOUNT}\s*{_UNIT}(?:\s*,?\s*(?:and\s+)?{_AMOUNT}\s*{_UNIT}){{0,4}}"

_IN_WORDS = (
    rf"\b(?:try again|retry|wait|again|resets?|available)\b[^0-9\n]{{0,30}}?({_DURATION})"
    rf"|({_DURATION})\s*后(?:再|重)?试"
)

# Not the comma behind a date's weekday.
_BETWEEN_WAITS = r"(?<!mon)(?<!tue)(?<!wed)(?<!thu)(?<!fri)(?<!sat)(?<!sun)(?<!day),"

# ISO 8601 and clocks: PT1M30S, 00:01:30.
_ISO_DURATION = r"PT((?:[0-9.]+[HMS])+)"

_CLOCK = r"([0-9]{1,3}):([0-5][0-9]):([0-5][0-9])"

_ISO_DATE = (
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})[T ]([0-9]{2}:[0-9]{2}:[0-9]{2})(\.[0-9]+)?\s*"
    r"(Z|UTC|GMT|[+-][0-9]{2}:?[0-9]{2})?"
)

_RESET_AT = (
    rf"\b(?:reset|try again|retry)[^0-9\n]{{0,20}}({_ISO_DATE})",
    rf"({_ISO_DATE})\s*重置",
)

_BEIJING = timezone(timedelta(hours=8))


def parse_retry_after(headers: Mapping[str, str], *, now: float) -> float | None:
    """How many seconds a reply asks to wait, or None.

    Reads ``retry-after-ms`` or ``x-ms-retry-after-ms`` (milliseconds), else ``Retry-After`` in any
    form that :func:`parse_wait` knows. Dates are counted from the reply's own ``Date``, so that a
    wrong clock on either side does not matter. Invalid, negative and absurd (over a year) values
    give None; more than a week counts as one. Of several values the longest counts. Source: RFC
    9110, 10.2.3.

    Args:
        headers: the reply's headers; case does not matter.
        now: Unix time in seconds, for a reply without ``Date``.

    >>> parse_retry_after({"retry-after-ms": "1500"}, now=0)
    1.5
    """
    for name in ("retry-after-ms", "x-ms-retry-after-ms"):
        milliseconds = _header_number(headers.get(name))
        if milliseconds is not None:
            return _at_most_a_week(milliseconds / 1000)
    value, now = headers.get("retry-after") or "", _moment_of(headers, now)
    wait = parse_wait(value, now=now)
    if wait is None and "," in value:
        # Sent twice, the header arrives as one; a date has a comma of its own.
        found = (
            parse_wait(one, now=now) for one in re.split(_BETWEEN_WAITS, value, flags=re.IGNORECASE)
        )
        wait = max((one for one in found if one is not None), default=None)
    return wait


def parse_reset(headers: Mapping[str, str], *, now: float) -> float | None:
    """Seconds until the rate limits in a reply's headers are reset, or None.

    Reads ``x-ratelimit-reset``, ``x-ratelimit-reset-requests``, ``ratelimit-reset``,
    ``anthropic-ratelimit-tokens-reset`` and the like. If there are several, only those with
    ``remaining`` 0 count; if none has, all do. The longest wait wins.

    Args:
        headers: the reply's headers.
        now: Unix time in seconds, for a reply without ``Date``.

    >>> parse_reset({"x-ratelimit-reset-tokens": "6m0s"}, now=0)
    360.0
    """
    lowered = {str(name).lower(): str(value) for name, value in headers.items()}
    now = _moment_of(lowered, now)
    waits: dict[bool, list[float]] = {True: [], False: []}
    for name, value in lowered.items():
        if "reset" in name and ("ratelimit" in name or "rate-limit" in name):
            wait = parse_wait(value, now=now)
            if wait is not None:
                spent = lowered.get(name.replace("reset", "remaining"), "").strip() == "0"
                waits[spent].append(wait)
    # Combined headers, as in the drafts of the standard: 'limit=10, remaining=0, reset=5',
    # '"a";r=0;t=5'.
    for item in re.finditer(r"\b(?:reset|t)=([0-9]+)", lowered.get("ratelimit", "")):
        waits[False].append(float(item[1]))
    return max(waits[True] or waits[False], default=None)


def parse_wait(value: str | None, *, now: float) -> float | None:
    """The seconds from now that a value of a header or field stands for, or None.

    It may be a number of seconds, a duration (``2s``, ``1m30s``, ``20 seconds``, ``PT30S``,
    ``00:00:30``), a date (of HTTP or ISO 8601), or Unix time in seconds or milliseconds.

    Args:
        value: the value.
        now: Unix time in seconds.

    >>> parse_wait("1m30s", now=0)
    90.0
    """
    value = (value or "").strip()
    seconds = _header_number(value)
    if seconds is not None:
        # Nobody asks to wait for thirty years: a number that large is a point in time.
        if seconds >= 1e9:
            seconds = seconds / (1000 if seconds >= 1e11 else 1) - now
    elif re.fullmatch(_DURATION, value, re.IGNORECASE):
        seconds = _duration(value)
    elif (found := re.fullmatch(_ISO_DURATION, value, re.IGNORECASE)) is not None:
        seconds = _duration(found[1])
    elif (found := re.fullmatch(_CLOCK, value)) is not None:
        hours, minutes, rest = map(int, found.groups())
        seconds = hours * 3600.0 + minutes * 60 + rest
    elif (moment := _parse_iso_date(value) or parse_http_date(value)) is not None:
        seconds = moment - now
    return None if seconds is None else _at_most_a_week(seconds)


def find_wait(words: str, *, now: float) -> float | None:
    """The seconds to wait that a sentence mentions, or None.

    Args:
        words: what the service says.
        now: Unix time in seconds.

    >>> find_wait("Rate limit reached. Please try again in 7.66s.", now=0)
    7.66
    """
    found = re.search(_IN_WORDS, words, re.IGNORECASE)
    if found is not None:
        return _at_most_a_week(_duration(found[1] or found[2]))
    for pattern in _RESET_AT:
        reset = re.search(pattern, words, re.IGNORECASE)
        # Only Zhipu writes such dates without a zone, in its local time.
        moment = None if reset is None else _parse_iso_date(reset[1], zone=_BEIJING)
        if moment is not None:
            return _at_most_a_week(moment - now)
    return None


def parse_http_date(value: str | None) -> float | None:
    """An HTTP date as Unix time in seconds; None if it is not one."""
    if not value:
        return None
    try:
        moment = parsedate_to_datetime(value)
    except (ValueError, TypeError, OverflowError, IndexError) as error:
        let_through(error)
        return None
    # A date without a zone, or with the zone -0000, is UTC as well: HTTP has no other.
    return (moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)).timestamp()


def _parse_iso_date(value: str, *, zone: timezone = timezone.utc) -> float | None:
    found = re.fullmatch(_ISO_DATE, value, re.IGNORECASE)
    if found is None:
        return None
    day, time, fraction, offset = found.groups()
    if offset:
        offset = "+00:00" if offset[0] not in "+-" else f"{offset[:3]}:{offset[-2:]}"
    try:
        moment = datetime.fromisoformat(f"{day}T{time}{offset or ''}")
        moment = moment if offset else moment.replace(tzinfo=zone)
        return moment.timestamp() + float(f"0{fraction or ''}")
    except (ValueError, OverflowError) as error:
        let_through(error)
        return None


def _moment_of(headers: Mapping[str, str], now: float) -> float:
    date = parse_http_date(headers.get("date"))
    return now if date is None else date


def _duration(text: str) -> float:
    parts = re.findall(_PART, text, re.IGNORECASE)
    return sum(float(amount) * _seconds_in(unit.lower()) for amount, unit in parts)


def _seconds_in(unit: str) -> float:
    if unit == "ms" or unit.startswith("milli"):
        return 0.001
    return _UNITS[unit[0]]


def _at_most_a_week(seconds: float) -> float | None:
    return min(seconds, _LONGEST_S) if 0 <= seconds <= _ABSURD_S else None


def _header_number(value: str | None) -> float | None:
    found = _NUMBER.fullmatch((value or "").strip())
    return float(found[0]) if found else None
