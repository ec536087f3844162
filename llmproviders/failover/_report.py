"""What a client has seen of its providers since it was made, in numbers and as a table."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import ceil
from typing import Any

from .._printable import one_line
from .._runtime.scope import ForkLock
from ..errors import Attempt, LLMError
from ._health import Condition

_TIMES_KEPT = 1000

_ATTEMPTS_KEPT = 100


@dataclass(frozen=True)
class ProviderReport:
    """One provider's record.

    Attributes:
        provider: its name.
        model: the model that this client asks it for, or None for the call's or its own default.
        calls: calls that came to it.
        tries: how often it was asked, retries included.
        successes: tries that gave a whole reply.
        failures: tries that failed, by the name of the error's class.
        waited: seconds slept before tries of it.
        first_text_median: seconds to the first text, of the last thousand tries that had one.
        first_text_p95: what 95 of 100 of them stayed below.
        condition: how it is doing now.
        inside: the records of the providers inside, where it is a client itself.
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
    """What a client has seen of its providers; ``str(report)`` is a table, and on a notebook's
    page the timeline of the recent attempts stands below it.

    Attributes:
        client: the client's name.
        providers: a record for each, in priority order.
        recent: the last hundred attempts as they ended, their errors without the text that had
            come.
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
        from .._display.html import report

        rows = [_cells(record, depth) for record, depth in _flat(self.providers)]
        numeric = [_HEAD[column] for column in _RIGHT]
        return report(self.client, _HEAD, rows, numeric=numeric, recent=self.recent)

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


class ProviderStats:
    """Counts what happens to one provider; any number of threads may use it."""

    def __init__(self) -> None:
        self._lock = ForkLock()
        self._calls = 0
        self._tries = 0
        self._successes = 0
        self._failures: Counter[str] = Counter()
        self._waited = 0.0
        self._first_texts: deque[float] = deque(maxlen=_TIMES_KEPT)

    def called(self) -> None:
        """A call that came to it has ended."""
        with self._lock.mine:
            self._calls += 1

    def tried(self, attempts: Sequence[Attempt], error: LLMError | None) -> None:
        """A try of it ended: with a whole reply, or with ``error``."""
        first = attempts[-1].first_chunk_after if attempts else None
        with self._lock.mine:
            self._tries += 1
            self._waited += sum(attempt.waited for attempt in attempts)
            if error is None:
                self._successes += 1
            else:
                self._failures[type(error).__name__] += 1
            if first is not None:
                self._first_texts.append(first)

    def record(
        self, provider: str, model: str | None, condition: Condition, inside: Report | None
    ) -> ProviderReport:
        """The record as it is now."""
        with self._lock.mine:
            times = sorted(self._first_texts)
            return ProviderReport(
                provider=provider,
                model=model,
                calls=self._calls,
                tries=self._tries,
                successes=self._successes,
                failures=dict(self._failures),
                waited=self._waited,
                first_text_median=_percentile(times, 0.5),
                first_text_p95=_percentile(times, 0.95),
                condition=condition,
                inside=() if inside is None else inside.providers,
            )


def _percentile(times: Sequence[float], share: float) -> float | None:
    """The nearest rank: the smallest that ``share`` of ``times``, sorted, do not exceed."""
    return times[ceil(share * len(times)) - 1] if times else None


class History:
    """The last attempts of a client; appending to a deque needs no lock."""

    def __init__(self) -> None:
        self._attempts: deque[Attempt] = deque(maxlen=_ATTEMPTS_KEPT)

    def add(self, attempt: Attempt) -> None:
        """Keep an attempt, without what its error holds on to: text, frames, connections."""
        if attempt.error is not None:
            attempt = replace(attempt, error=_light(attempt.error))
        self._attempts.append(attempt)

    def recent(self) -> tuple[Attempt, ...]:
        """The last attempts, the oldest first."""
        return tuple(self._attempts.copy())


def _light(error: LLMError) -> LLMError:
    # Not made by its class, which may be a user's own that wants other arguments.
    light: LLMError = type(error).__new__(type(error))
    light.args = error.args
    light.__dict__.update(error.__dict__, partial_text="", attempts=())
    return light
