"""Draws the plots: ``python plots.py RESULTS.json FOLDER``; needs matplotlib and nothing else."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib as mpl

mpl.use("svg")
from matplotlib import pyplot as plt

NAMES = {
    "floor": "bare socket",
    "own.gigachat": "llmproviders, GigaChat",
    "own.openai": "llmproviders, OpenAICompatible",
    "own.failover": "llmproviders, FailoverClient",
    "plain.lines": "requests, iter_lines",
    "plain.content": "requests, own splitter",
    "plain.prepared": "requests, prepared once",
    "gigachat_sdk": "gigachat",
    "openai_sdk": "openai",
    "g4f_sdk": "g4f",
    "litellm_sdk": "litellm",
    "langchain_sdk": "langchain",
    "pydantic_ai_sdk": "pydantic-ai",
    "any_llm_sdk": "any-llm",
}
OWN, OTHERS, GREY = "#2a7de1", "#c2703d", "#808080"
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "speed",
    "font.size": 9,
    "text.color": GREY,
    "axes.labelcolor": GREY,
    "axes.edgecolor": GREY,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def _colour(client: str) -> str:
    return GREY if client == "floor" else OWN if client.startswith("own") else OTHERS


def _median(rounds: list[dict[str, float]], name: str) -> float:
    return median(numbers[name] for numbers in rounds)


def _plain(value: float, _place: object = None) -> str:
    """A number to three digits, never with an exponent."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _logarithmic(axis: Any) -> None:
    axis.axes.set(**{f"{axis.axis_name}scale": "log"})
    axis.set_major_formatter(_plain)


def bars(results: Any, scenario: str, number: str, unit: float, label: str) -> Any:
    """One bar for each client, on a logarithmic scale."""
    values = {
        client: _median(results[scenario][client], number) / unit
        for client in reversed(NAMES)
        if client in results[scenario]
    }
    figure, axes = plt.subplots(figsize=(6.4, 0.3 * len(values) + 0.8))
    colours = [_colour(client) for client in values]
    drawn = axes.barh([NAMES[c] for c in values], list(values.values()), color=colours)
    axes.bar_label(drawn, [_plain(value) for value in values.values()], padding=3, color=GREY)
    _logarithmic(axes.xaxis)
    axes.set_xlabel(label)
    axes.margins(x=0.15)
    return figure


def growth(results: Any) -> Any:
    """The cost of a piece in replies of all lengths."""
    figure, axes = plt.subplots(figsize=(6.4, 3.6))
    lengths = sorted(int(name.split()[1]) for name in results if name.startswith("growth"))
    for client, said in NAMES.items():
        points = [
            (length, _median(results[f"growth {length}"][client], "cpu"))
            for length in lengths
            if client in results[f"growth {length}"]
        ]
        if points:
            style = "-" if client.startswith("own") else "--"
            axes.plot(*zip(*points, strict=True), style, marker="o", markersize=3, label=said)
    _logarithmic(axes.xaxis)
    _logarithmic(axes.yaxis)
    axes.set_xlabel("pieces in a reply")
    axes.set_ylabel("CPU per piece, µs")
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def delay(results: Any) -> Any:
    """The delay of pieces, by framing."""
    framings = {"single": "chunked", "split": "split", "close": "close-delimited", "gzip": "gzip"}
    figure, panels = plt.subplots(1, 4, figsize=(9.6, 3.2), sharey=True, sharex=True)
    shown = [c for c in reversed(NAMES) if c in results["delay single"]]
    for axes, (framing, said) in zip(panels, framings.items(), strict=True):
        measured = results[f"delay {framing}"]
        for place, client in enumerate(shown):
            if client not in measured:
                continue
            p50, p99 = (_median(measured[client], name) / 1000 for name in ("p50", "p99"))
            axes.plot([p50, p99], [place, place], color=_colour(client), linewidth=2)
            axes.plot([p99], [place], "o", color=_colour(client), markersize=4)
        axes.set_yticks(range(len(shown)), [NAMES[c] for c in shown])
        _logarithmic(axes.xaxis)
        axes.set_title(said, fontsize=9)
    figure.supxlabel("median to 99th percentile of the delay of a piece, ms")
    return figure


def main(source: str, folder: str) -> None:
    """Draw all of them."""
    results = json.loads(Path(source).read_text())
    mpl.rcParams.update(STYLE)
    figures = {
        "cpu": bars(results, "cpu single", "cpu", 1, "CPU per piece, µs"),
        "first": bars(results, "first", "wall", 1000, "warm first text, ms"),
        "cold": bars(results, "cold", "wall", 1000, "first text of a new process, ms"),
        "growth": growth(results),
        "delay": delay(results),
    }
    for name, figure in figures.items():
        path = Path(folder) / f"speed-{name}.svg"
        figure.savefig(
            path, bbox_inches="tight", transparent=True, metadata={"Date": None, "Creator": None}
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
