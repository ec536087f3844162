"""Mutation testing: ``python -m benchmarks.mutation [--short] [--limit-s N] [MODULE ...]``.

Needs mutmut beside the library. Each module is mutated in a copy of the checkout and tested with
the tests that are its own; what survives is listed. ``--short`` takes the lines alone;
``--limit-s`` ends a module's run after so many seconds and counts what was done until then.
"""

from __future__ import annotations

import argparse
import importlib.util
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from configparser import RawConfigParser
from pathlib import Path

ROOT = Path(__file__).parents[2]
TESTS: dict[str, tuple[str, ...]] = {
    "_lines": ("tests/test_lines.py", "tests/reliability/test_limits.py"),
    "_retry": ("tests/test_retry.py", "tests/test_failover.py"),
    "_token": ("tests/test_token.py",),
    "failover": ("tests/test_failover.py", "tests/test_health.py", "tests/test_hedge.py"),
    "_chat_completions": ("tests/providers/test_openai_compatible.py", "tests/providers"),
    "providers/chatglm": ("tests/providers/test_chatglm.py",),
    "providers/chatgptt": ("tests/providers/test_chatgptt.py",),
    "providers/flowgpt": ("tests/providers/test_flowgpt.py",),
    "providers/gigachat": ("tests/providers/test_gigachat.py",),
}
_KILLED = ("killed", "timeout", "segfault")


def main(arguments: list[str]) -> int:
    """Mutate the modules one after another and print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.mutation")
    parser.add_argument("modules", nargs="*", metavar="MODULE", help=", ".join(TESTS))
    parser.add_argument("--short", action="store_true", help="the lines alone")
    parser.add_argument("--limit-s", type=float)
    given = parser.parse_args(arguments)
    if importlib.util.find_spec("mutmut") is None:
        print("mutmut is not installed: pip install mutmut")
        return 0 if given.short else 1
    survivors: list[str] = []
    print("| module | mutants | killed | share | not tried |\n| --- | --- | --- | --- | --- |")
    for module in given.modules or (["_lines"] if given.short else TESTS):
        counts, alive = _mutate(module, given.limit_s)
        killed = sum(counts[word] for word in _KILLED)
        tried = sum(counts.values()) - counts["not checked"]
        share = f"{killed / tried:.0%}" if tried else "-"
        print(f"| {module} | {tried} | {killed} | {share} | {counts['not checked']} |", flush=True)
        survivors += alive
    print("\nalive:", *survivors, sep="\n")
    return 0


def _mutate(module: str, limit_s: float | None) -> tuple[Counter[str], list[str]]:
    with tempfile.TemporaryDirectory(prefix="mutants-") as name:
        copy = Path(name) / "copy"
        left_out = shutil.ignore_patterns(".git", "__pycache__", "build", "*.egg-info", ".venv")
        shutil.copytree(ROOT, copy, ignore=left_out)
        _configure(copy / "setup.cfg", module)
        with (copy / "tests" / "conftest.py").open("a") as conftest:
            conftest.write(_PROFILE)
        mutmut = [sys.executable, "-m", "mutmut"]
        run = subprocess.Popen(
            [*mutmut, "run", "--max-children", "1"], cwd=copy, stdout=subprocess.DEVNULL
        )
        try:
            run.wait(limit_s)
        except subprocess.TimeoutExpired:
            run.terminate()
            run.wait()
        told = subprocess.run(
            [*mutmut, "results", "--all", "true"],
            cwd=copy,
            capture_output=True,
            text=True,
            check=False,
        ).stdout
    rows = re.findall(r"^\s*(\S+): (.+)$", told, re.MULTILINE)
    alive = [f"{mutant}: {state}" for mutant, state in rows if state in ("survived", "no tests")]
    return Counter(state for _, state in rows), alive


# mutmut runs the tests many times in one process, which hypothesis takes for a mistake.
_PROFILE = """
from hypothesis import HealthCheck

settings.register_profile(
    "mutation",
    settings.get_profile("default"),
    suppress_health_check=[HealthCheck.differing_executors],
)
settings.load_profile("mutation")
"""


def _configure(path: Path, module: str) -> None:
    parser = RawConfigParser()
    parser.read(path)
    parser["mutmut"] = {
        "source_paths": "llmproviders",
        "only_mutate": f"llmproviders/{module}.py",
        "also_copy": "\n".join(["", "llmproviders", "conftest.py", "README.md", "docs"]),
        "pytest_add_cli_args_test_selection": "\n".join(["", *TESTS[module]]),
        "pytest_add_cli_args": "\n".join(["", "-q", "-x", "-p", "no:cacheprovider"]),
    }
    with path.open("w") as file:
        parser.write(file)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
