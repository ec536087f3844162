"""Usage by day, provider and model, as callers see it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import date, datetime, timedelta, timezone
from typing import Any

from .. import _display
from .._signals import ignoring, let_through
from ..errors import InvalidRequestError


@dataclass(frozen=True)
class DailyUsage:
    """The usage of one model on one day.

    Attributes:
        day: the day, in UTC.
        provider: the provider's name.
        model: the model asked for.
        requests: requests that were sent.
        failures: requests without a complete reply.
        prompt_tokens: as far as the service reported them.
        completion_tokens: as far as the service reported them.
        total_tokens: as far as the service reported them.
    """

    day: date
    provider: str
    model: str
    requests: int
    failures: int
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int

    def as_dict(self) -> dict[str, Any]:
        """The row as a JSON object, with the day as ``"2026-05-31"``."""
        return {**self.__dict__, "day": self.day.isoformat()}


class UsageTable(tuple[DailyUsage, ...]):
    """Usage by day, provider and model, the oldest day first.

    It prints as a table; in a notebook it also shows a chart of requests and tokens by day.
    """

    __slots__ = ()

    _HEAD = ("day", "provider", "model", "requests", "failures", "tokens")

    def as_dicts(self) -> list[dict[str, Any]]:
        """The rows as JSON objects."""
        return [row.as_dict() for row in self]

    def _cells(self) -> list[tuple[str, ...]]:
        return [
            (
                row.day.isoformat(),
                row.provider,
                row.model,
                f"{row.requests:,}",
                f"{row.failures:,}",
                f"{row.total_tokens:,}",
            )
            for row in self
        ]

    def __str__(self) -> str:
        rows = [self._HEAD, *self._cells()]
        widths = [max(len(row[column]) for row in rows) for column in range(len(self._HEAD))]
        return "\n".join(
            "  ".join(
                cell.ljust(widths[column]) if column < 3 else cell.rjust(widths[column])
                for column, cell in enumerate(row)
            )
            for row in rows
        )

    def _repr_html_(self) -> str:
        days: dict[date, tuple[int, int, int]] = {}
        for row in self:
            other, failed, tokens = days.get(row.day, (0, 0, 0))
            other += max(0, row.requests - row.failures)
            days[row.day] = other, failed + row.failures, tokens + row.total_tokens
        return _display.html.daily_usage(days, self._HEAD, self._cells())

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        printer.text(str(self))


def usage(since: date | datetime | str | None = None) -> UsageTable:
    """Requests, failures and tokens by day, provider and model, for all processes of this user.

    Providers with limits (``per_minute``, ``per_day``) are counted, or all providers if the
    environment variable ``LLMPROVIDERS_USAGE`` is 1. Counts are kept for 90 days, on this machine.

    Args:
        since: the first day, in UTC: a date, or a string such as ``"2026-05-31"``; None: all days.

    Raises:
        InvalidRequestError: ``since`` is not a date.

    >>> [row.requests for row in usage(since="2100-01-01")]
    []
    """
    # Imported here because it loads sqlite3.
    from .ledger import DAY_S, KEPT_DAYS, ledger

    first = int(time.time()) // DAY_S - KEPT_DAYS + 1
    if since is not None:
        first = max(first, _day_number(since))
    book = ledger()
    with ignoring(PermissionError):
        if book.trouble is None and not book.path.exists():
            return UsageTable()
    rows = book.read(
        # A damaged file may have values of other types.
        "SELECT day, CAST(provider AS TEXT), CAST(model AS TEXT),"
        " max(0, CAST(requests AS INTEGER)), max(0, CAST(failures AS INTEGER)),"
        " max(0, CAST(prompt_tokens AS INTEGER)), max(0, CAST(completion_tokens AS INTEGER)),"
        " max(0, CAST(total_tokens AS INTEGER))"
        " FROM used WHERE day BETWEEN ? AND ? AND typeof(day) = 'integer'"
        " ORDER BY day, provider, model",
        first,
        (date.max - _EPOCH).days,
    )
    return UsageTable(DailyUsage(_date_of(row[0]), *row[1:]) for row in rows)


_EPOCH = date(1970, 1, 1)


def _date_of(day: int) -> date:
    return _EPOCH + timedelta(days=day)


def _day_number(since: date | datetime | str) -> int:
    if isinstance(since, str):
        try:
            since = date.fromisoformat(since.strip())
        except ValueError as error:
            let_through(error)
            raise InvalidRequestError(
                f"since must be a day such as 2026-05-31, not {since!r}"
            ) from error
    if isinstance(since, datetime):
        since = since.astimezone(timezone.utc).date() if since.tzinfo else since.date()
    if not isinstance(since, date):
        raise InvalidRequestError(f"since must be a date, not {type(since).__name__}")
    return (since - _EPOCH).days
