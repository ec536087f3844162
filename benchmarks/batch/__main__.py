"""The command ``python -m benchmarks.batch``."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
SERVER = """
import json, sys
from llmproviders.sandbox import Sandbox
with Sandbox(keep_requests=10) as sandbox:
    print(json.dumps(sandbox.environ()), flush=True)
    sys.stdin.read()
"""

ROWS, SHORT_ROWS = 100_000, 1_000
ROUND_ROWS, SHORT_ROUND_ROWS = 4_000, 500
LEAST_RATIO, SHORT_LEAST_RATIO = 0.9, 0.5
MOST_GROWTH_MB = 60.0
RESTART_ROWS = 1_000_000
LONGEST_RESTART_S = 60.0
MOST_RESTART_MB = 80.0

Figures = dict[str, float]


@contextlib.contextmanager
def sandbox() -> Iterator[dict[str, str]]:
    """Serve in a separate process; the value of the block is the environment for clients."""
    server = subprocess.Popen(
        [sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT
    )
    assert server.stdout is not None
    try:
        yield {**os.environ, **json.loads(server.stdout.readline()), "PYTHONPATH": str(ROOT)}
    finally:
        server.communicate()


def measure(kind: str, rows: int, workers: int, environment: dict[str, str]) -> Figures:
    """Run one kind in a fresh process."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "in.jsonl")
        with source.open("w") as lines:
            for number in range(rows):
                prompt = f"What is the answer to question {number}?"
                lines.write(json.dumps({"id": f"row {number}", "prompt": prompt}) + "\n")
        command = [sys.executable, "-m", "benchmarks.batch.work", kind]
        command += [str(source), str(Path(folder, "out.jsonl")), str(workers)]
        done = subprocess.run(
            command, env=environment, cwd=ROOT, check=True, stdout=subprocess.PIPE
        )
    figures: Figures = json.loads(done.stdout)
    return figures


def restart(rows: int) -> int:
    """Measure a restart, print, and say whether the goals were met."""
    command = [sys.executable, "-m", "benchmarks.batch.work", "restart", str(rows)]
    done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE)
    found: Figures = json.loads(done.stdout)
    print(f"restart of a batch of {rows:,} rows, half of them done:")
    print(f"  until the first new row        {found['seconds']:6.1f} s", end="")
    print(f"  (goal: at most {LONGEST_RESTART_S:g}; CPU {found['cpu_seconds']:.1f} s)")
    print(f"  most memory                    {found['peak_mb']:6.1f} MB", end="")
    print(f"  (goal: at most {MOST_RESTART_MB:g})")
    return 0 if found["seconds"] <= LONGEST_RESTART_S and found["peak_mb"] <= MOST_RESTART_MB else 1


def main() -> int:
    """Measure, print, and say whether the goals were met."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.batch", description=__doc__)
    parser.add_argument("--short", action="store_true", help="few rows, for CI")
    parser.add_argument("--rows", type=int, help=f"of the long run; default {ROWS}")
    parser.add_argument("--rounds", type=int, help="of the comparison; default 5, short 3")
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures")
    parser.add_argument("--restart", action="store_true", help="resume a half-done batch")
    options = parser.parse_args()
    if options.restart:
        return restart(options.rows or RESTART_ROWS)
    rows = options.rows or (SHORT_ROWS if options.short else ROWS)
    round_rows = SHORT_ROUND_ROWS if options.short else ROUND_ROWS
    least = SHORT_LEAST_RATIO if options.short else LEAST_RATIO

    kinds = ("batch", "loop")
    found: dict[str, list[Figures]] = {kind: [] for kind in kinds}
    with sandbox() as environment:
        for number in range(options.rounds or (3 if options.short else 5)):
            for kind in sorted(kinds, reverse=bool(number % 2)):
                found[kind].append(measure(kind, round_rows, options.workers, environment))
        long = measure("batch", rows, options.workers, environment)

    def median(kind: str, figure: str) -> float:
        return statistics.median(figures[figure] for figures in found[kind])

    ratio = statistics.median(
        own["rows_per_s"] / plain["rows_per_s"]
        for own, plain in zip(found["batch"], found["loop"], strict=True)
    )
    growth = long["peak_mb"] - long["before_mb"]
    print(f"{options.workers} workers, rounds of {round_rows:,} rows, medians:")
    for kind, name in (("loop", "loop over requests in threads"), ("batch", "batch")):
        rate, cpu_ms = median(kind, "rows_per_s"), median(kind, "cpu_ms_per_row")
        print(f"  {name:30} {rate:6.0f} rows/s  {cpu_ms:5.2f} ms of CPU for each")
    print(f"  ratio of the rates             {ratio:6.2f}  (goal: at least {least})")
    print(f"one batch of {long['rows']:,.0f} rows:")
    print(f"  rate                           {long['rows_per_s']:6.0f} rows/s")
    print(f"  memory at its start            {long['before_mb']:6.1f} MB")
    print(f"  most memory                    {long['peak_mb']:6.1f} MB")
    print(f"  growth                         {growth:6.1f} MB  (goal: at most {MOST_GROWTH_MB})")
    if options.json:
        options.json.write_text(json.dumps({**found, "long": long}, indent=1))
    return 0 if ratio >= least and growth <= MOST_GROWTH_MB else 1


if __name__ == "__main__":
    sys.exit(main())
