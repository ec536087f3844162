"""Draws the simulation: ``python -m benchmarks.failover.plots OUTCOMES.json PICTURE.svg``.

Needs matplotlib, but not the library.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("svg")

from matplotlib import pyplot as plt

COLOURS = ("#7f7f7f", "#8c564b", "#1f77b4", "#2ca02c", "#d62728")


def draw(outcomes: list[dict[str, Any]], path: Path) -> None:
    """Draw the share of failed calls, and the distribution of the waits for the first text."""
    mpl.rcParams.update({"svg.hashsalt": "llmproviders", "svg.fonttype": "none", "font.size": 9})
    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.4), width_ratios=(2, 3))
    failed = [o["failed"] for o in outcomes]
    names = [o["strategy"] for o in outcomes]
    bars = left.barh(names, [max(n, 0.5) for n in failed], color=COLOURS, log=True)
    left.bar_label(bars, [f"{n:,}" for n in failed], padding=3)
    left.set_xlim(0.5, max(failed) * 4)
    left.set_xticks([1, 10, 100], ["1", "10", "100"])
    left.minorticks_off()
    left.invert_yaxis()
    left.set_xlabel(f"calls of {outcomes[0]['calls']:,} that failed")
    for outcome, colour in zip(outcomes, COLOURS, strict=True):
        times = outcome["times"]
        shares = [1 - n / len(times) for n in range(len(times))]
        right.plot(times, shares, color=colour, label=outcome["strategy"], linewidth=1.4)
    right.set(xscale="log", yscale="log", xlim=(0.3, 100), ylim=(1e-4, 1))
    right.set_xticks([0.5, 1, 2, 5, 10, 20, 50], ["0.5", "1", "2", "5", "10", "20", "50"])
    right.set_yticks([1, 0.1, 0.01, 0.001, 0.0001], ["all", "10 %", "1 %", "0.1 %", "0.01 %"])
    right.minorticks_off()
    right.set_xlabel("seconds to the first text")
    right.set_ylabel("replies that took longer")
    right.grid(alpha=0.3)
    right.legend(fontsize=8)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    draw(json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]))
