"""HTML: tables, the tables and timelines of attempts, charts of usage, and drawn images."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, timedelta

from .bars import BOTTOM, CHART, LEFT, stacked_bars
from .svg import swatch, text
from .text import FINAL, GOOD, NEUTRAL, count, escape, seconds, shorten
from .timeline import TimedAttempt
from .timeline import timeline_svg as svg

_CELL = "padding:2px 10px;white-space:pre-wrap;text-align:"

_RECENT = 20

_LINE = "border-bottom:1px solid rgba(128,128,128,.4);"


def table(
    caption: str,
    columns: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    numeric: Iterable[str] = (),
) -> str:
    """A table as HTML, with every cell escaped, in the colours of the page around it.

    Args:
        caption: what it shows.
        columns: the headings.
        rows: a cell for each column; None is an empty cell, a tuple is a cell with several lines.
        numeric: the columns to align to the right.
    """
    right = {columns.index(name) for name in numeric}
    align = ["right" if n in right else "left" for n in range(len(columns))]
    head = "".join(
        f'<th scope="col" style="{_LINE}{_CELL}{side}">{escape(name)}</th>'
        for name, side in zip(columns, align, strict=True)
    )
    body = "".join(
        "<tr>"
        + "".join(
            f'<td style="{_CELL}{side}">{_content(cell)}</td>'
            for cell, side in zip(row, align, strict=True)
        )
        + "</tr>"
        for row in rows
    )
    return (
        '<div style="overflow-x:auto"><table style="border-collapse:collapse;color:inherit">'
        f'<caption style="text-align:left">{escape(caption)}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _content(cell: object) -> str:
    lines = cell if isinstance(cell, tuple) else ("" if cell is None else cell,)
    return "<br>".join(map(escape, lines))


def attempts(given: Sequence[TimedAttempt]) -> str:
    """The timeline and the table of one call's attempts."""
    numbers = ("waited", "first text after", "duration", "pieces")
    columns = ("provider", "model", *numbers, "outcome")
    rows = (
        (
            a.provider,
            a.model,
            seconds(a.waited or None),
            seconds(a.first_chunk_after),
            seconds(a.duration),
            f"{a.chunks:,}",
            "whole reply" if a.error is None else f"{type(a.error).__name__}: {a.error}",
        )
        for a in given
    )
    listed = table(f"Attempts ({len(given)})", columns, rows, numeric=numbers)
    return f"<div>{svg(given)}{listed}</div>" if given else listed


def report(
    client: str,
    columns: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    numeric: Iterable[str],
    recent: Sequence[TimedAttempt],
) -> str:
    """The table of a client's providers, and the timeline of its recent attempts."""
    listed = table(client, columns, rows, numeric=numeric)
    latest = recent[-_RECENT:]
    return f"<div>{listed}{svg(latest, cut_pauses=True) if latest else ''}</div>"


def image(name: str, content: bytes | None) -> str:
    """A picture on the page, or its name if its content is not available."""
    if content is None:
        return f"<p>[image: {escape(shorten(name, 200))}]</p>"
    # Browsers recognize the format of a picture by its content, whatever its media type says.
    source = f"data:image/png;base64,{b64encode(content).decode()}"
    return f'<img alt="{escape(shorten(name, 80))}" src="{source}" style="max-width:100%"/>'


def paragraphs(text: str, below: Iterable[str]) -> str:
    """A text with its line breaks, and elements below it."""
    return f"<div><p>{'<br/>'.join(map(escape, text.splitlines()))}</p>{''.join(below)}</div>"


_DATES = 8

_LONGEST = 366
"""The most days that a chart shows with those on which nothing was used."""


def daily_usage(
    days: Mapping[date, tuple[int, int, int]],
    columns: Sequence[str],
    rows: Sequence[Sequence[object]],
) -> str:
    """Usage: charts of requests and of tokens by day, and a table below them.

    Args:
        days: for each day the requests that did not fail, those that did, and the tokens.
        columns: the table's headings; all but the first three are numbers.
        rows: its rows.
    """
    listed = table(f"Usage ({count(len(rows), 'row')})", columns, rows, numeric=columns[3:])
    other, failed, tokens = (sum(counts[n] for counts in days.values()) for n in range(3))
    if not other + failed:
        return listed
    span = (max(days) - min(days)).days + 1
    # A day far off the others comes from a clock that was wrong.
    every = [min(days) + timedelta(n) for n in range(span)] if span <= _LONGEST else sorted(days)
    span = len(every)
    used = [days.get(day, (0, 0, 0)) for day in every]
    dates = [
        text(LEFT + CHART * (n + 0.5) / span, BOTTOM + 12, f"{day:%m-%d}", anchor="middle")
        for n, day in enumerate(every)
        if n % (span // _DATES + 1) == 0
    ]
    charts = stacked_bars(
        "Requests by day",
        f"{other:,} not failed, {failed:,} failed",
        [(f"{d}", [(GOOD, o), (FINAL, f)]) for d, (o, f, _) in zip(every, used, strict=True)],
        dates,
        [("not failed", swatch(GOOD)), ("failed", swatch(FINAL))],
    )
    if tokens:
        charts += stacked_bars(
            "Tokens by day",
            count(tokens, "token"),
            [(f"{d}", [(NEUTRAL, t)]) for d, (_, _, t) in zip(every, used, strict=True)],
            dates,
            [("tokens", swatch(NEUTRAL))],
        )
    return f"<div>{charts}{listed}</div>"
