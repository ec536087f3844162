"""Runs a plan: rounds of samples, the clients of each scenario in a new random order each time."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from . import startup
from .environments import BEFORE, ROOT, python
from .plan import COMPARABLE, HEAVY, HEAVY_ROUNDS, Scenario
from .server import Server

Numbers = dict[str, float]
Results = dict[str, dict[str, list[Numbers]]]
"""Scenario -> client -> its numbers in each round."""

_LONGEST_SAMPLE_S = 300


def run(
    scenarios: list[Scenario], environments: Path | None, rounds: int, *, before: bool = False
) -> Results:
    """Take every sample of ``scenarios``, ``rounds`` times.

    Args:
        scenarios: the plan.
        environments: the folder of virtual environments; None: this interpreter, and no peers.
        rounds: how often each sample is taken.
        before: whether this library at an earlier commit takes part, and the peers do not.
    """
    results: Results = {scenario.name: {} for scenario in scenarios}
    with Server() as address, tempfile.TemporaryDirectory() as elsewhere:
        taker = _Taker(address, environments, elsewhere)
        for number in range(rounds):
            print(f"round {number + 1} of {rounds}", file=sys.stderr, flush=True)
            for scenario in random.sample(scenarios, len(scenarios)):
                left_out = HEAVY if number >= HEAVY_ROUNDS else ()
                peers = set(scenario.peers).difference(left_out) if environments else set()
                clients = (*scenario.clients, *sorted(peers))
                if before:
                    clients = (*scenario.clients, *map(_earlier, COMPARABLE & {*scenario.clients}))
                for client in random.sample(clients, len(clients)):
                    numbers = taker.take(scenario, client)
                    results[scenario.name].setdefault(client, []).append(numbers)
    return results


class _Taker:
    """Takes samples, each in a fresh process."""

    def __init__(self, address: str, environments: Path | None, elsewhere: str) -> None:
        self._address = address
        self._environments = environments
        self._elsewhere = elsewhere
        self._runs = 0
        self._environment = {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": elsewhere,
            # litellm asks the network for prices when it is imported; that is not its start-up.
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        }

    def take(self, scenario: Scenario, client: str) -> Numbers:
        """One sample."""
        interpreter = python(self._environments, _environment_of(client))
        client = client.replace(BEFORE, "own")
        if hasattr(startup, scenario.measure):
            environment = dict(self._environment)
            if self._environments is None:
                environment["PYTHONPATH"] = str(ROOT)
            numbers: Numbers = getattr(startup, scenario.measure)(
                interpreter, client, self._address, environment
            )
            return numbers
        self._runs += 1
        run = f"run{self._runs}"
        pieces = scenario.fewer.get(client, scenario.pieces)
        words = (scenario.measure, client, self._address, run, scenario.service, scenario.framing)
        started = time.monotonic()
        count = scenario.rarer.get(client, scenario.count)
        numbers = self._sample(interpreter, *words, pieces, scenario.pace, count)
        if "at" in numbers:
            numbers = {"wall": (numbers["at"] - started) * 1e6}
        if scenario.measure == "connections":
            with urllib.request.urlopen(f"{self._address}/stats/{run}") as reply:
                numbers = json.load(reply)
        return numbers

    def _sample(self, interpreter: str, *words: object) -> Numbers:
        command = [interpreter, "-m", "benchmarks.speed.sample", *map(str, words)]
        done = subprocess.run(
            command,
            check=False,
            cwd=ROOT,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=_LONGEST_SAMPLE_S,
        )
        if done.returncode != 0:
            sys.stderr.write(done.stderr)
            raise SystemExit(f"failed: {' '.join(command)}")
        numbers: Numbers = json.loads(done.stdout.splitlines()[-1])
        return numbers


def _earlier(client: str) -> str:
    """The same client of this library, at an earlier commit."""
    return client.replace("own", BEFORE)


def _environment_of(client: str) -> str:
    """The environment of a client; the floor needs nothing and runs in this library's."""
    name = client.partition(".")[0]
    return "own" if name in ("floor", "python") else name
