"""Results as tables, and as the page of the documentation."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable, Sequence
from math import inf
from pathlib import Path
from statistics import median

from .environments import BEFORE
from .plan import FRAMINGS, GOALS
from .rounds import Results

_HERE = Path(__file__).parent
_OVERVIEW = (
    ("CPU per piece, x floor", "cpu single", "cpu", "floor"),
    ("warm first text, x floor", "first", "wall", "floor"),
    ("cold first text, ms", "cold", "wall", 1_000),
    ("p99 delay of a piece, ms", "delay single", "p99", 1_000),
    ("import, ms", "import", "cpu", 1_000),
    ("growth over a stream, MiB", "memory stream", "mib", 1),
    ("calls per second, 16 threads", "calls 16", "per_s", 1),
)
"""Column -> scenario, number, and its divisor: another client's number, or a unit."""

_ROWS = {
    "llmproviders, GigaChat": ("own.gigachat", "own"),
    "llmproviders, OpenAICompatible": ("own.openai", "own"),
    "llmproviders, FailoverClient": ("own.failover", "own"),
    "`requests`, `iter_lines()`": ("plain.lines", "plain.tenacity", "plain.post"),
    "`requests`, `iter_content` and an own splitter": ("plain.content",),
    "the same, prepared once, no look for proxies": ("plain.prepared",),
    "`gigachat`": ("gigachat_sdk",),
    "`openai`": ("openai_sdk",),
    "`g4f`": ("g4f_sdk",),
    "`litellm`": ("litellm_sdk",),
    "`langchain-openai`": ("langchain_sdk",),
    "`pydantic-ai`": ("pydantic_ai_sdk",),
    "`any-llm`": ("any_llm_sdk",),
}
"""Row of the overview -> its client's name in the scenarios."""


class Numbers:
    """The measurements by scenario, client and name of the number."""

    def __init__(self, results: Results) -> None:
        self._results = results

    def rounds(self, scenario: str, client: str, name: str) -> list[float]:
        """The number in each round."""
        return [numbers[name] for numbers in self._results[scenario][client]]

    def ratio(self, scenario: str, client: str, name: str, by: str | float) -> float:
        """The median of a number over another client's, or over a unit."""
        own = self.rounds(scenario, client, name)
        if not isinstance(by, str):
            return median(own) / by
        pairs = zip(own, self.rounds(scenario, by, name), strict=False)
        return median(one / other for one, other in pairs)


def medians(results: Results) -> str:
    """The median of every number."""
    lines = []
    for scenario in sorted(results):
        for client, rounds in sorted(results[scenario].items()):
            numbers = {name: median(r[name] for r in rounds) for name in rounds[0]}
            said = "  ".join(f"{name} {value:,.2f}" for name, value in numbers.items())
            lines.append(f"{scenario:16} {client:16} {said}")
    return "\n".join(lines)


def goals(results: Results, *, short: bool = False) -> tuple[str, list[str]]:
    """The table of goals, and the missed ones; goals without a measurement are left out."""
    rows, missed = [], []
    for goal in GOALS:
        try:
            value = median(goal.values(Numbers(results).rounds))
        except KeyError:
            continue
        met = goal.met(value, short=short)
        if not met:
            missed.append(goal.said)
        bound = f"at least {goal.least:g}" if goal.least > -inf else f"at most {goal.most:g}"
        rows.append((goal.said, bound, _said(value), "" if met else "missed"))
    return _table(("", "goal", "measured", ""), rows), missed


def changes(results: Results) -> str:
    """Each number of this library over that of its earlier commit."""
    numbers = Numbers(results)
    rows = []
    for scenario, clients in results.items():
        for client in sorted(clients):
            other = client.replace("own", BEFORE)
            if other == client or other not in clients:
                continue
            for name in clients[client][0]:
                value = _said(numbers.ratio(scenario, client, name, other))
                rows.append((scenario, client, name, value))
    return _table(("", "client", "number", "x before"), rows)


def _overview(numbers: Numbers) -> str:
    rows = []
    for said, clients in _ROWS.items():
        cells = []
        for _, scenario, name, by in _OVERVIEW:
            found = [c for c in clients if _has(numbers, scenario, c, name)]
            cells.append(_said(numbers.ratio(scenario, found[0], name, by)) if found else "")
        rows.append((said, *cells))
    return _table(("", *(column for column, *_ in _OVERVIEW)), rows)


def _framings(numbers: Numbers) -> str:
    clients = ("own.gigachat", "own.openai", "own.failover", "plain.lines", "plain.content")
    rows = [
        (client, *(_said(numbers.ratio(f"cpu {f}", client, "cpu", "floor")) for f in FRAMINGS))
        for client in clients
    ]
    return _table(("x floor", *FRAMINGS), rows)


def _has(numbers: Numbers, scenario: str, client: str, name: str) -> bool:
    try:
        return bool(numbers.rounds(scenario, client, name))
    except KeyError:
        return False


def _said(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def write(results: Results, docs: Path, plotter: str, released: str) -> None:
    """Write the page, its plots and the numbers below ``docs``.

    Args:
        results: of the full form.
        docs: the documentation.
        plotter: an interpreter that has matplotlib.
        released: the releases that were measured.
    """
    static = docs / "_static"
    static.mkdir(exist_ok=True)
    raw = static / "speed.json"
    raw.write_text(json.dumps(_rounded(results), sort_keys=True) + "\n")
    numbers = Numbers(results)
    page = (_HERE / "page.md").read_text()
    for name, text in (
        ("overview", _overview(numbers)),
        ("goals", goals(results)[0]),
        ("framings", _framings(numbers)),
        ("versions", released),
    ):
        page = page.replace(f"@{name}@", text)
    (docs / "explanation" / "speed.md").write_text(page)
    subprocess.run([plotter, str(_HERE / "plots.py"), str(raw), str(static)], check=True)


def _rounded(results: Results) -> Results:
    return {
        scenario: {
            client: [{name: float(f"{n:.5g}") for name, n in numbers.items()} for numbers in rounds]
            for client, rounds in clients.items()
        }
        for scenario, clients in results.items()
    }
