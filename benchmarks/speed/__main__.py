"""The command ``python -m benchmarks.speed``."""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path

from . import environments, plan, report, rounds

_DOCS = environments.ROOT / "docs"


def main() -> int:
    """Measure, print the goals, and write the requested files."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed", description=__doc__)
    parser.add_argument("--short", action="store_true", help="no peers, few rounds, for CI")
    parser.add_argument("--environments", type=Path, metavar="FOLDER", help="made beforehand")
    parser.add_argument(
        "--before", action="store_true", help="compare with the earlier commit made beforehand"
    )
    parser.add_argument("--rounds", type=int, help="default 7, short 3")
    parser.add_argument("--only", metavar="REGEX", help="scenarios to measure")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers")
    parser.add_argument("--docs", action="store_true", help="write the page and its plots")
    options = parser.parse_args()
    scenarios = plan.short() if options.short else plan.full()
    if options.before:
        scenarios = plan.comparable()
    scenarios = [s for s in scenarios if not options.only or re.search(options.only, s.name)]
    folder = options.environments.resolve() if options.environments else None
    number = options.rounds or (3 if options.short else 7)
    results = rounds.run(scenarios, folder, number, before=options.before)
    if options.json:
        options.json.write_text(json.dumps(results, indent=1))
    print(report.medians(results))
    if options.before:
        print(report.changes(results))
        return 0
    table, missed = report.goals(results, short=options.short)
    print(table)
    if missed and options.short:
        print(f"Missed, and measured again in case the machine was busy: {', '.join(missed)}")
        again = report.goals(rounds.run(scenarios, folder, options.rounds or 3), short=True)
        print(again[0])
        missed = [said for said in missed if said in again[1]]
    if options.docs:
        clients = ("own", "plain", *plan.PEERS, *plan.HEAVY)
        released = environments.versions(folder, clients) if folder else ""
        report.write(results, _DOCS, environments.python(folder, "plots"), released)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
