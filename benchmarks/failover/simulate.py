"""Ten thousand calls over three services in trouble: ``python -m benchmarks.failover.simulate``.

For a year a script runs every 35 hours and makes forty calls each time, one after another with a
second of its own work in between. The client is the library's own; only the clock and the services
are replaced (see ``world``).
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import ceil
from pathlib import Path
from typing import Any

from benchmarks.failover import page
from benchmarks.failover.world import HOUR, SERVICES, Simulated, Weather
from benchmarks.speed.environments import ROOT, python
from llmproviders import FailoverClient, LLMError
from tests.support.simclock import SimulatedClock

SESSIONS = 250
CALLS = 40
EVERY_S = 35 * HOUR
BETWEEN_S = 1.0
DEADLINE_S = 90.0

STRATEGIES: dict[str, tuple[int, dict[str, Any]]] = {
    "one provider": (1, {"attempts": 1}),
    "retries only": (1, {}),
    "failover": (3, {"cooldown": 0}),
    "failover with cooldown": (3, {}),
    "with hedging after 2 s": (3, {"hedge_after": 2.0}),
}
"""Name -> how many of the services, and the client's arguments."""


@dataclass(frozen=True)
class Outcome:
    """How the calls ended under one strategy; times to the first text in seconds.

    Attributes:
        strategy: its name.
        calls: how many were made.
        failed: how many ended without a whole reply.
        asked: requests that were sent to the services.
        median, p95, p99: of the successful calls' times, waits and failed tries included.
        times: all of them, sorted.
    """

    strategy: str
    calls: int
    failed: int
    asked: int
    median: float
    p95: float
    p99: float
    times: tuple[float, ...]

    @property
    def availability(self) -> float:
        """The share of calls that got a whole reply."""
        return 1 - self.failed / self.calls


def run(name: str, *, sessions: int = SESSIONS, seed: int = 1) -> Outcome:
    """Play one strategy; with the same seed, all strategies meet the same failures."""
    count, arguments = STRATEGIES[name]
    random.seed(f"waits {seed}")  # the client's own jitter
    clock = SimulatedClock()
    lasting_s = (sessions + 1) * EVERY_S
    providers = []
    for number, service in enumerate(SERVICES[:count]):
        weather = Weather(service, lasting_s, random.Random(f"weather {number} {seed}"))
        chance = random.Random(f"chance {number} {seed}")
        providers.append(Simulated(service, weather, clock, chance))
    client = FailoverClient(providers, deadline=DEADLINE_S, clock=clock, **arguments)
    times, failed = [], 0
    for session in range(sessions):
        clock.sleep(max(0.0, session * EVERY_S - clock.monotonic()))
        for _ in range(CALLS):
            began = clock.wall()
            try:
                last = client.complete("Why is the sky blue?").attempts[-1]
            except LLMError:
                failed += 1
            else:
                assert last.first_chunk_after is not None
                times.append(last.started_at + last.first_chunk_after - began)
            clock.sleep(BETWEEN_S)
    times.sort()
    return Outcome(
        name,
        sessions * CALLS,
        failed,
        sum(provider.asked for provider in providers),
        _percentile(times, 0.5),
        _percentile(times, 0.95),
        _percentile(times, 0.99),
        tuple(times),
    )


def _percentile(times: Sequence[float], share: float) -> float:
    return times[ceil(share * len(times)) - 1]


def table(outcomes: Sequence[Outcome]) -> str:
    """The outcomes as a table in Markdown."""
    lines = [
        "| strategy | calls that failed | availability | median | 95 % | 99 % | requests sent |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    lines += [
        f"| {o.strategy} | {o.failed:,} | {o.availability:.2%} | {o.median:.2f} s | {o.p95:.2f} s "
        f"| {o.p99:.2f} s | {o.asked:,} |"
        for o in outcomes
    ]
    return "\n".join(lines)


def plot(outcomes: Sequence[Outcome], path: Path, interpreter: str) -> None:
    """Draw them, with an interpreter that has matplotlib."""
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump([asdict(outcome) for outcome in outcomes], file)
        file.flush()
        command = [interpreter, "-m", "benchmarks.failover.plots", file.name, str(path)]
        subprocess.run(command, check=True, cwd=ROOT)


def main() -> None:
    """Simulate, print, and write the requested files."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.failover.simulate")
    parser.add_argument("--sessions", type=int, default=SESSIONS, help="of 40 calls each")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--docs", action="store_true", help="put table and plot into the docs")
    parser.add_argument("--environments", type=Path, metavar="FOLDER", help="with the plots' own")
    options = parser.parse_args()
    outcomes = [run(name, sessions=options.sessions, seed=options.seed) for name in STRATEGIES]
    print(table(outcomes))
    if options.docs:
        folder = options.environments.resolve() if options.environments else None
        plot(outcomes, page.DOCS / "_static" / "failover-simulation.svg", python(folder, "plots"))
        page.fill("explanation/failover.md", "simulation", table(outcomes))


if __name__ == "__main__":
    main()
