"""Facts that a service sends in its reply's headers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import timezone
from email.utils import parsedate_to_datetime

_LONGEST_S = 7 * 24 * 3600.0
_NUMBER = re.compile(r"[0-9]{1,18}(\.[0-9]{0,18})?")


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
    milliseconds = _number(headers.get("retry-after-ms"))
    value = headers.get("retry-after")
    seconds = _number(value) if milliseconds is None else milliseconds / 1000
    if seconds is None and (moment := parse_http_date(value)) is not None:
        date = parse_http_date(headers.get("date"))
        seconds = moment - (now if date is None else date)
    return seconds if seconds is not None and 0 <= seconds <= _LONGEST_S else None


def parse_http_date(value: str | None) -> float | None:
    """An HTTP date as Unix time in seconds; None where it is not one."""
    if not value:
        return None
    try:
        moment = parsedate_to_datetime(value)
    except (ValueError, TypeError, OverflowError, IndexError):
        return None
    # A date without a zone, or of the zone -0000, is Universal Time, too: HTTP has no other.
    return (moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)).timestamp()


def _number(value: str | None) -> float | None:
    found = _NUMBER.fullmatch((value or "").strip())
    return float(found[0]) if found else None
