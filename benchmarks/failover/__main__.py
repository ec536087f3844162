"""The command ``python -m benchmarks.failover``: this library alone; the package names the rest."""

from __future__ import annotations

import argparse
import importlib.util
import sys

from benchmarks.failover import compare, overhead, schemas, simulate
from benchmarks.failover.services import SCENARIOS

QUICK = (
    "empty 200",
    "HTML with 200",
    "cut after three pieces, always",
    'cut, each piece with `finish_reason: ""`',
    "spent quota, as a 429",
    "redirect to another host",
    "a second reply behind the first, 10 calls",
    "expired token",
    "the connection is cut in a call",
)
DEAR_MS = 5.0


def main() -> int:
    """Play the faults, send the calls, and report the calls that ended in the wrong way."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.failover", description=__doc__)
    parser.add_argument("--short", action="store_true", help="the quick half, for CI")
    options = parser.parse_args()
    wrong = []
    for scenario in SCENARIOS:
        if options.short and scenario.name not in QUICK:
            continue
        if scenario.mode == "gevent" and importlib.util.find_spec("gevent") is None:
            print(f"{scenario.name}: gevent is not installed")
            continue
        asked = (("own", "complete"), ("own.make_restarting", "stream"), ("own", "tools"))
        for client, how in asked:
            if how not in scenario.hows:
                continue
            result = compare.run(scenario, client, how, None)
            print(f"{how}, {scenario.name}: {compare.cell(result, scenario)}")
            if result.verdict != "right":
                wrong.append(scenario.name)
    for typed in schemas.SCENARIOS[2:3] if options.short else schemas.SCENARIOS:
        made = schemas.run(typed, "own", None)
        print(f"typed, {typed.name}: {made}")
        if made.verdict != "right":
            wrong.append(typed.name)
    names = simulate.STRATEGIES
    sessions = 10 if options.short else simulate.SESSIONS
    outcomes = [simulate.run(name, sessions=sessions) for name in names]
    print(simulate.table(outcomes))
    if outcomes[-2].failed > outcomes[0].failed:
        wrong.append("the simulation: failover lost more calls than one provider alone")
    if not options.short:
        found = overhead.measure()
        print(overhead.table(found))
        dear = [name for name, (alone, behind) in found.items() if behind - alone > DEAR_MS / 1e3]
        wrong += [f"a dead first provider costs more than {DEAR_MS:g} ms {name}" for name in dear]
    for name in wrong:
        print(f"wrong: {name}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
