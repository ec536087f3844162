"""The cost of a dead first provider for the calls after the one that discovered it.

``python -m benchmarks.failover.overhead`` compares calls of a client whose first provider is dead
with calls of one that has only the healthy provider: in one process, and each in a new process,
with the memory of failures in a file.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

from benchmarks.failover import page
from benchmarks.failover.services import Service, at_once
from benchmarks.speed.environments import ROOT
from llmproviders import FailoverClient, OpenAICompatible
from tests.support.rawserver import RawServer, refused_port

CALLS = 200
PROCESSES = 31


def _client(dead: str | None, alive: str, health: str | None = None) -> FailoverClient:
    origins = [origin for origin in (dead, alive) if origin]
    return FailoverClient(
        [OpenAICompatible(base_url=f"{o}/v1", model="m", name=o) for o in origins],
        attempts=1,
        cooldown=600,
        health=health,
    )


def _seconds(client_of: Callable[[], FailoverClient]) -> float:
    start = time.perf_counter()
    client_of().complete("Why is the sky blue?")
    return time.perf_counter() - start


def in_one_process(dead: str, alive: str) -> tuple[float, float]:
    """Medians, in seconds, with the healthy provider alone and with the dead one before it."""
    alone, behind = _client(None, alive), _client(dead, alive)
    for client in (alone, behind):
        client.complete("Why is the sky blue?")
    pairs = [(_seconds(lambda: alone), _seconds(lambda: behind)) for _ in range(CALLS)]
    return median(a for a, _ in pairs), median(b for _, b in pairs)


def in_new_processes(dead: str, alive: str) -> tuple[float, float]:
    """The same, each in a process that has made another call with a third client.

    Creating the client counts: the modules that it loads for its file are part of the cost. Modules
    are already compiled, as in an installed library.
    """
    with tempfile.TemporaryDirectory() as folder:
        health = str(Path(folder) / "health.json")
        _client(dead, alive, health).complete("Why is the sky blue?")
        compiled = {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": folder}

        def child(*words: str) -> float:
            command = [sys.executable, "-m", "benchmarks.failover.overhead", "--child", *words]
            done = subprocess.run(
                command,
                check=True,
                cwd=ROOT,
                env={**os.environ, **compiled},
                capture_output=True,
                text=True,
            )
            return float(json.loads(done.stdout))

        child(dead, alive, health)
        pairs = [(child("", alive, ""), child(dead, alive, health)) for _ in range(PROCESSES)]
    return median(a for a, _ in pairs), median(b for _, b in pairs)


def measure() -> dict[str, tuple[float, float]]:
    """Both kinds."""
    service = Service("second", at_once)
    with refused_port() as port, RawServer(service.handle) as server:
        dead = f"http://127.0.0.1:{port}"
        return {
            "in one process": in_one_process(dead, server.url),
            "in a new process each": in_new_processes(dead, server.url),
        }


def table(found: dict[str, tuple[float, float]]) -> str:
    """The medians as Markdown."""
    lines = [
        "| a call, median | the healthy provider alone | behind a dead one | costs |",
        "| --- | ---: | ---: | ---: |",
    ]
    lines += [
        f"| {name} | {a * 1e3:.1f} ms | {b * 1e3:.1f} ms | {round((b - a) * 1e3, 1) + 0:.1f} ms |"
        for name, (a, b) in found.items()
    ]
    return "\n".join(lines)


def main() -> None:
    """Measure, print, and write the requested files."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.failover.overhead")
    parser.add_argument("--docs", action="store_true", help="put the table into the docs")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        dead, alive, health = options.child
        _client(None, alive).complete("Why is the sky blue?")
        print(json.dumps(_seconds(lambda: _client(dead or None, alive, health or None))))
        return
    found = measure()
    print(table(found))
    if options.docs:
        page.fill("explanation/comparison.md", "overhead", table(found))


if __name__ == "__main__":
    main()
