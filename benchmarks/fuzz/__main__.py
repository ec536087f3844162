"""Fuzz: ``python -m benchmarks.fuzz [--short] [--inputs N] [--seconds S] [TARGET ...]``.

Each target gets N inputs, a million, from atheris where it is installed (guided by the coverage of
the library's code) and from hypothesis elsewhere; with ``--short``, five hundred from hypothesis.
With ``--seconds`` atheris stops after that time instead, whatever the number of inputs.
An input that raises anything but the library's own errors is printed and kept; make a test of it.
"""

from __future__ import annotations

import argparse
import importlib.util
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, settings

from tests.fuzz.inputs import inputs_for
from tests.fuzz.targets import BY_NAME, Target

ENGINES = ("atheris", "hypothesis")


def main(arguments: list[str]) -> int:
    """Fuzz the targets one after another and print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fuzz")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join(BY_NAME))
    parser.add_argument("--short", action="store_true", help="five hundred inputs each")
    parser.add_argument("--inputs", type=int)
    parser.add_argument("--seconds", type=int, help="for each target, with atheris")
    parser.add_argument("--engine", choices=ENGINES)
    given_ = parser.parse_args(arguments)
    inputs = given_.inputs or (500 if given_.short else 1_000_000)
    limit = f"-max_total_time={given_.seconds}" if given_.seconds else f"-runs={inputs}"
    guided = not given_.short and importlib.util.find_spec("atheris") is not None
    engine = given_.engine or ENGINES[0 if guided else 1]
    if given_.seconds and engine != "atheris":
        parser.error("--seconds needs atheris")
    print(f"| target | inputs ({engine}) | seconds | result |\n| --- | --- | --- | --- |")
    failed = False
    for name in given_.targets or BY_NAME:
        start = time.monotonic()
        target = BY_NAME[name]
        done, trouble = (
            _by_atheris(target, limit) if engine == "atheris" else _by_hypothesis(target, inputs)
        )
        took = time.monotonic() - start
        print(f"| {name} | {done:,} | {took:.0f} | {trouble or 'nothing'} |", flush=True)
        failed |= trouble is not None
    return 1 if failed else 0


def _by_hypothesis(target: Target, inputs: int) -> tuple[int, str | None]:
    done = 0

    @settings(
        max_examples=inputs,
        deadline=None,
        database=None,
        derandomize=False,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(inputs_for(target))
    def search(data: bytes) -> None:
        nonlocal done
        done += 1
        target.run(data)

    try:
        search()
    except Exception as error:  # noqa: BLE001 - such an exception is the finding
        return done, f"{type(error).__name__}: {error} {getattr(error, '__notes__', '')}"
    return done, None


def _by_atheris(target: Target, limit: str) -> tuple[int, str | None]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        corpus = folder / "corpus"
        corpus.mkdir()
        for index, seed in enumerate(target.seeds):
            (corpus / str(index)).write_bytes(seed)
        words = folder / "words"
        words.write_text("\n".join(map(_quoted, target.words)))
        command = [sys.executable, "-m", "benchmarks.fuzz.guided", target.name]
        options = [
            limit,
            f"-dict={words}",
            f"-max_len={target.longest}",
            "-rss_limit_mb=4096",
        ]
        found = Path(tempfile.gettempdir()) / f"found-{target.name}-"
        options += [f"-artifact_prefix={found}", str(corpus)]
        ran = subprocess.run([*command, *options], capture_output=True, text=True, check=False)
    counts = [int(n) for n in re.findall(r"^#(\d+)", ran.stderr, re.MULTILINE)]
    if ran.returncode == 0:
        return max(counts, default=0), None
    print(ran.stdout[-2000:], ran.stderr[-4000:], sep="\n", file=sys.stderr)
    return max(counts, default=0), f"found: see {found}*"


def _quoted(word: bytes) -> str:
    return '"' + "".join(f"\\x{byte:02x}" for byte in word[:64]) + '"'


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
