"""Make the virtual environments that the clients are measured in.

``python -m benchmarks.speed.environments FOLDER`` makes one for each client and one for the plots;
existing ones are kept, except that this library is installed again each time. ``--before COMMIT``
adds one with this library as it was.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import venv
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).parents[2]

NEEDS = {
    "own": ["./llmproviders[schema]", "gevent"],
    "plain": ["requests", "tenacity"],
    "gigachat_sdk": ["gigachat", "gevent"],
    "openai_sdk": ["openai", "gevent"],
    "g4f_sdk": ["g4f", "gevent"],
    "litellm_sdk": ["litellm", "gevent"],
    "langchain_sdk": ["langchain", "langchain-openai", "gevent"],
    "instructor_sdk": ["instructor"],
    "any_llm_sdk": ["any-llm-sdk[openai]", "gevent"],
    "pydantic_ai_sdk": ["pydantic-ai-slim[openai]", "gevent"],
    "plots": ["matplotlib"],
}
"""Environment -> the packages installed there. All but the last are named after their clients."""


DISTRIBUTIONS = {
    "own": ("llmproviders",),
    "plain": ("requests", "urllib3"),
    "langchain_sdk": ("langchain-core", "langchain-openai"),
    "pydantic_ai_sdk": ("pydantic-ai-slim",),
    "any_llm_sdk": ("any-llm-sdk",),
}
"""What is installed under another name than the client's module has."""

BEFORE = "before"
"""The environment of this library at an earlier commit."""


def make(folder: Path) -> None:
    """Make the missing ones in ``folder``."""
    for name, needs in NEEDS.items():
        home = folder / name
        finished = home / "finished"
        is_there = finished.exists() and finished.read_text() == " ".join(needs)
        if is_there and name != "own":
            continue
        print(f"{name}: {' '.join(needs)}", file=sys.stderr, flush=True)
        if not (home / "bin" / "python").exists():
            venv.create(home, with_pip=True)
        again = ["--force-reinstall", "--no-deps"] if is_there else []
        command = [str(home / "bin" / "python"), "-m", "pip", "install", "-q", *again, *needs]
        with tempfile.TemporaryDirectory() as copies:
            _copy_own(Path(copies) / "llmproviders")
            subprocess.run(command, check=True, cwd=copies)
        finished.write_text(" ".join(needs))


def make_before(folder: Path, commit: str) -> None:
    """Make the environment of this library at ``commit``, anew if there is one."""
    home = folder / BEFORE
    venv.create(home, with_pip=True, clear=True)
    with tempfile.TemporaryDirectory() as copy:
        git = ["git", "-C", str(ROOT), "archive", commit]
        archive = subprocess.run(git, check=True, capture_output=True).stdout
        subprocess.run(["tar", "-x", "-C", copy], check=True, input=archive)
        command = [str(home / "bin" / "python"), "-m", "pip", "install", "-q", copy]
        subprocess.run(command, check=True)


def _copy_own(target: Path) -> None:
    """A copy to install from: a build leaves files behind where it runs."""
    tracked = ("setup.cfg", "setup.py", "README.md", "LICENSE")
    target.mkdir()
    for name in tracked:
        shutil.copy(ROOT / name, target)
    shutil.copytree(
        ROOT / "llmproviders", target / "llmproviders", ignore=shutil.ignore_patterns("*.pyc")
    )


def python(folder: Path | None, name: str) -> str:
    """The interpreter of an environment; this one if there is no folder."""
    return sys.executable if folder is None else str(folder / name / "bin" / "python")


def versions(environments: Path, clients: Iterable[str]) -> str:
    """Which releases were compared."""
    code = (
        "import importlib.metadata as m, sys\n"
        "found = []\n"
        "for name in sys.argv[1:]:\n"
        "    try: found.append(f'{name} {m.version(name)}')\n"
        "    except m.PackageNotFoundError: pass\n"
        "print(', '.join(found))"
    )
    found: dict[str, None] = {}
    for module in dict.fromkeys(client.partition(".")[0] for client in clients):
        names = DISTRIBUTIONS.get(module, (module.removesuffix("_sdk"),))
        command = [python(environments, module), "-c", code, *names]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        found[done.stdout.strip()] = None
    return ", ".join(filter(None, found))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--before", metavar="COMMIT", help="to compare this library with")
    options = parser.parse_args()
    make(options.folder.resolve())
    if options.before:
        make_before(options.folder.resolve(), options.before)
