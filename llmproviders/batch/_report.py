"""The report of a batch: how long rows took, what providers did, and when it retried.

It is made from output rows and keeps only numbers, so a report of a million rows fits into memory.
"""

from __future__ import annotations

import json
import os
from array import array
from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import datetime, timezone
from typing import Any

from .. import errors
from .._display.html import table
from .._display.text import count, escape, shorten
from .._display.timeline import AttemptOutcome
from .._printable import one_line
from .._request import Self
from .._signals import let_through
from . import _charts as pictures
from ._task import HALVES

_EXAMPLES = 3

_PAGE = (
    ":root{color-scheme:light dark}"
    "body{font:15px/1.5 system-ui,sans-serif;max-width:56rem;margin:2rem auto;padding:0 1rem;"
    "color:#1f2328;background:#fff}"
    "@media(prefers-color-scheme:dark){body{color:#e6edf3;background:#0d1117}}"
    "h1{font-size:1.5rem}figure{margin:1.5rem 0}figcaption,caption{font-weight:600}"
)


class BatchReport:
    """Numbers and pictures of a batch's rows, for a notebook or as a page of their own.

    ``BatchReport.read("replies.jsonl")`` makes one of an output file.

    Args:
        name: the name of the batch.

    Attributes:
        done, failed: how many rows have a reply, and how many an error.
        cut, filtered: how many of the done rows ``max_tokens`` cut, and how many a service's filter
            stopped.
        tokens: the tokens of every try of every row, as the services counted them; rejected and
            broken replies cost tokens too, those from a cache do not.

    >>> report = BatchReport()
    >>> report.add({"id": "sky", "error": None, "attempts": [], "usage": {"total_tokens": 7}})
    >>> report.done, report.failed, report.tokens
    (1, 0, 7)
    >>> report.to_html()[:15]
    '<!doctype html>'
    """

    def __init__(self, name: str = "batch") -> None:
        """Start an empty report of the batch called ``name``."""
        self.name = name
        self.done = 0
        self.failed = 0
        self.cut = 0
        self.filtered = 0
        self.tokens = 0
        self._latencies = {kind: array("d") for kind in ("whole", "half", "failed")}
        self._tries = {True: array("d"), False: array("d")}
        self._outcomes: dict[str, Counter[AttemptOutcome]] = {}
        self._errors: Counter[str] = Counter()
        self._examples: dict[str, list[str]] = {}

    @classmethod
    def of(cls, rows: Iterable[Mapping[str, Any]], name: str = "batch") -> Self:
        """The report of ``rows``, objects as in a batch's output, of the batch called ``name``."""
        report = cls(name)
        for row in rows:
            report.add(row)
        return report

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Self:
        """The report of a file of output rows; torn rows are skipped.

        Args:
            path: the file; its name becomes the name of the report.

        Raises:
            OSError: the file cannot be read.
        """
        report = cls(os.path.basename(path))
        with open(path, "rb") as lines:
            for line in lines:
                try:
                    row = json.loads(line)
                except ValueError as error:
                    let_through(error)
                    continue
                if isinstance(row, dict):
                    report.add(row)
        return report

    def add(self, row: Mapping[str, Any]) -> None:
        """Count ``row``, an object as in a batch's output."""
        error, reason = row.get("error"), row.get("finish_reason")
        kind = "failed" if error is not None else "half" if reason in HALVES else "whole"
        if error is None:
            self.done += 1
            self.cut += reason == "length"
            self.filtered += reason == "content_filter"
        else:
            self.failed += 1
            self._fail(str(error.get("type")), row.get("id"), str(error.get("message")))
        attempts = row.get("attempts") or []
        used = [usage for attempt in attempts if (usage := attempt.get("usage"))]
        if not used and row.get("usage") and not row.get("cached"):
            used = [row["usage"]]
        self.tokens += sum(usage.get("total_tokens") or 0 for usage in used)
        for number, attempt in enumerate(attempts):
            outcomes = self._outcomes.setdefault(str(attempt["provider"]), Counter())
            outcomes[_outcome(attempt, half=kind == "half")] += 1
            self._tries[number == 0].append(attempt["started_at"])
        if attempts:
            begun = min(attempt["started_at"] - attempt["waited"] for attempt in attempts)
            ended = max(attempt["started_at"] + attempt["duration"] for attempt in attempts)
            self._latencies[kind].append(ended - begun)

    def _fail(self, kind: str, own_id: object, message: str) -> None:
        self._errors[kind] += 1
        examples = self._examples.setdefault(kind, [])
        if len(examples) < _EXAMPLES:
            examples.append(f"{own_id}: {shorten(' '.join(one_line(message).split()), 160)}")

    def to_html(self) -> str:
        """A complete page that loads nothing from elsewhere, readable in light and dark."""
        name = escape(self.name)
        return (
            '<!doctype html><html lang="en"><head><meta charset="utf-8">'
            '<meta http-equiv="Content-Security-Policy" '
            "content=\"default-src 'none'; style-src 'unsafe-inline'\">"
            '<meta name="viewport" content="width=device-width">'
            f"<title>Report of {name}</title><style>{_PAGE}</style></head>"
            f"<body><h1>Report of {name}</h1>{self._repr_html_()}</body></html>\n"
        )

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self.name}: {self._summary()}>"

    def _repr_html_(self) -> str:
        parts = [f"<p>{escape(self._summary())}</p>"]
        if any(self._latencies.values()):
            latencies = pictures.latencies(**self._latencies)
            parts += [
                _figure("How long rows took, waits included", latencies),
                _figure("How attempts ended, by provider", pictures.outcomes(self._outcomes)),
                _figure("Attempts over time", pictures.tries(*self._tries.values())),
            ]
        if self._errors:
            rows = (
                (kind, f"{number:,}", tuple(self._examples[kind]))
                for kind, number in self._errors.most_common()
            )
            columns = ("error", "rows", "for instance")
            parts.append(table("Failed rows", columns, rows, numeric=("rows",)))
        return f"<div>{''.join(parts)}</div>"

    def _summary(self) -> str:
        whole = self.done - self.cut - self.filtered
        parts = [f"{count(self.done + self.failed, 'row')}: {whole:,} whole"]
        if self.cut:
            parts.append(f"{self.cut:,} cut by max_tokens")
        if self.filtered:
            parts.append(f"{self.filtered:,} stopped by a filter")
        parts.append(f"{self.failed:,} failed")
        if self.tokens:
            parts.append(count(self.tokens, "token"))
        if self._tries[True]:
            begun = datetime.fromtimestamp(min(self._tries[True]), timezone.utc)
            parts.append(f"since {begun:%Y-%m-%d %H:%M:%S} UTC")
        return ", ".join(parts)


def _figure(caption: str, picture: str) -> str:
    return f"<figure><figcaption>{caption}</figcaption>{picture}</figure>"


def _outcome(attempt: Mapping[str, Any], *, half: bool) -> AttemptOutcome:
    """The outcome of an attempt in an output row, whose reply may be half."""
    error = attempt["error"]
    if error is None:
        return AttemptOutcome.CUT if half else AttemptOutcome.WHOLE
    if error["message"] == errors.SLOWER:
        return AttemptOutcome.OVERTAKEN
    if attempt["first_chunk_after"] is not None:
        return AttemptOutcome.CUT
    kind = getattr(errors, error["type"], errors.LLMError)
    return AttemptOutcome.PASSING if kind.retryable_by_default else AttemptOutcome.FINAL
