"""A client's statistics about its providers, as numbers and as a table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from .. import _display
from .._printable import one_line
from ..errors import Attempt
from ._health import Condition


@dataclass(frozen=True)
class ProviderReport:
    """One provider's record.

    Attributes:
        provider: its name.
        model: the model that this client asks for; None: the call's, or the provider's default.
        calls: the calls that it took part in, without those still running.
        tries: requests to it, retries included.
        successes: tries that gave a whole reply.
        failures: tries that failed, by the name of the error's class.
        waited: seconds slept before its tries.
        first_text_median: median seconds to the first text, over the last 1,000 tries with text.
        first_text_p95: the 95th percentile of the same.
        condition: its current condition.
        inside: records of its own providers, if it is a client of several.
    """

    provider: str
    model: str | None
    calls: int = 0
    tries: int = 0
    successes: int = 0
    failures: Mapping[str, int] = field(default_factory=dict)
    waited: float = 0.0
    first_text_median: float | None = None
    first_text_p95: float | None = None
    condition: Condition = field(default_factory=Condition)
    inside: tuple[ProviderReport, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """The record as a JSON object."""
        return {
            **{name: getattr(self, name) for name in _PLAIN},
            "failures": dict(self.failures),
            "health": str(self.condition),
            "inside": [record.as_dict() for record in self.inside],
        }


_PLAIN = (
    "provider",
    "model",
    "calls",
    "tries",
    "successes",
    "waited",
    "first_text_median",
    "first_text_p95",
)


@dataclass(frozen=True)
class Report:
    """Statistics of a client. ``str(report)`` is a table; a notebook also shows a timeline of the
    recent attempts.

    Attributes:
        client: the client's name.
        providers: a record for each, in priority order.
        recent: the last 100 attempts in the order in which they ended, their errors without the
            partial text.
    """

    client: str
    providers: tuple[ProviderReport, ...]
    recent: tuple[Attempt, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """The report as a JSON object."""
        return {
            "client": self.client,
            "providers": [record.as_dict() for record in self.providers],
            "recent": [attempt.as_dict() for attempt in self.recent],
        }

    def _repr_html_(self) -> str:
        rows = [_cells(record, depth) for record, depth in _flat(self.providers)]
        numeric = [_HEAD[column] for column in _RIGHT]
        return _display.html.report(self.client, _HEAD, rows, numeric=numeric, recent=self.recent)

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        printer.text(str(self))

    def __str__(self) -> str:
        rows = [_HEAD, *(_cells(record, depth) for record, depth in _flat(self.providers))]
        widths = [max(len(row[column]) for row in rows) for column in range(len(_HEAD))]
        return "\n".join(
            "  ".join(
                cell.rjust(width) if column in _RIGHT else cell.ljust(width)
                for column, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in rows
        )


_HEAD: tuple[str, ...] = (
    "provider",
    "calls",
    "tries",
    "whole",
    "failed",
    "waited",
    "first text",
    "p95",
    "health",
)

_RIGHT = (1, 2, 3, 5, 6, 7)


def _flat(
    records: Iterable[ProviderReport], depth: int = 0
) -> Iterable[tuple[ProviderReport, int]]:
    for record in records:
        yield record, depth
        yield from _flat(record.inside, depth + 1)


def _cells(record: ProviderReport, depth: int) -> tuple[str, ...]:
    name = f"{record.provider} ({record.model})" if record.model else record.provider
    most_first = sorted(record.failures.items(), key=lambda item: (-item[1], item[0]))
    return (
        "  " * depth + one_line(name),
        str(record.calls),
        str(record.tries),
        str(record.successes),
        ", ".join(f"{count} {kind}" for kind, count in most_first) or "0",
        f"{record.waited:.1f} s",
        _seconds(record.first_text_median),
        _seconds(record.first_text_p95),
        str(record.condition),
    )


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f} s"
