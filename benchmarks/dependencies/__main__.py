"""Test the wheel: ``python -m benchmarks.dependencies [lowest] [newest] [--short] [-- PYTEST...]``.

Builds the wheel, installs it into a fresh environment with the lowest releases that ``setup.cfg``
allows, or with the newest, and runs the tests from a folder without the library's source.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import venv
from configparser import ConfigParser
from pathlib import Path

ROOT = Path(__file__).parents[2]
KINDS = ("lowest", "newest")
# These tests read the checkout itself.
OF_THE_CHECKOUT = (
    "docs",
    "real/test_frozen.py",
    "test_architecture.py",
    "test_packaging.py",
    "test_typing.py",
)
SHORT = (
    "tests/providers",
    "tests/providers/test_stream_promise.py",
    "tests/failover/test_retry.py",
)


def main(arguments: list[str]) -> int:
    """Run the tests with each requested kind of dependencies."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.dependencies")
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=" or ".join(KINDS))
    parser.add_argument("--short", action="store_true", help="some tests, only with the lowest")
    end = arguments.index("--") if "--" in arguments else len(arguments)
    given, pytest_arguments = parser.parse_args(arguments[:end]), arguments[end + 1 :]
    wrong = [kind for kind in given.kinds if kind not in KINDS]
    if wrong:
        parser.error(f"no such kind: {', '.join(wrong)}")
    codes = []
    for kind in given.kinds or (KINDS[:1] if given.short else KINDS):
        print(f"== {kind}", flush=True)
        with tempfile.TemporaryDirectory(prefix="wheel-") as name:
            wanted = pytest_arguments or list(SHORT if given.short else ("tests",))
            codes.append(_test(Path(name), kind, wanted))
    return 1 if any(codes) else 0


def _test(folder: Path, kind: str, wanted: list[str]) -> int:
    python = _environment(folder / "venv")
    wheel = _wheel(folder / "wheels")
    constraints = folder / "constraints.txt"
    constraints.write_text("\n".join(lowest() if kind == "lowest" else ()))
    _run(python, "-m", "pip", "install", "-q", "-c", str(constraints), f"{wheel}[test]")
    listed = _run(python, "-m", "pip", "list", "--format=freeze", capture=True)
    names = {re.split("[<>=]", pin)[0].lower() for pin in lowest()}
    print(*(pin for pin in listed.split() if pin.split("==")[0].lower() in names), flush=True)
    elsewhere = folder / "elsewhere"
    for name in ("tests", "docs"):  # some tests try the commands of a page
        made = shutil.ignore_patterns("__pycache__", "_build")
        shutil.copytree(ROOT / name, elsewhere / name, ignore=made)
    for file in (ROOT / "setup.cfg", ROOT / "conftest.py", *ROOT.glob("*.md")):
        shutil.copy(file, elsewhere)
    ignored = [f"--ignore=tests/{name}" for name in OF_THE_CHECKOUT]
    command = [str(python), "-m", "pytest", "-q", "-p", "no:cacheprovider", *ignored, *wanted]
    return subprocess.run(command, cwd=elsewhere, check=False).returncode


def lowest() -> list[str]:
    """The lower bounds in ``setup.cfg`` for this Python, as exact pins."""
    parser = ConfigParser()
    parser.read(ROOT / "setup.cfg")
    pins = []
    for line in parser["options"]["install_requires"].split("\n"):
        bound = re.match(r"([\w-]+)>=([\w.]+)(?:,[^;]*)?(;.*)?$", line.strip())
        if bound is not None and (bound[3] is None or sys.version_info < (3, 11)):
            pins.append(f"{bound[1]}=={bound[2]}")
    return pins


def _environment(path: Path) -> Path:
    venv.create(path, with_pip=True)
    return path / ("Scripts" if sys.platform == "win32" else "bin") / "python"


def _wheel(folder: Path) -> Path:
    pip = ("-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(folder))
    with tempfile.TemporaryDirectory(prefix="source-") as name:
        # A build leaves files in the folder that it builds from.
        source = Path(name) / "source"
        shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(".git", "build", "*.egg-info"))
        _run(Path(sys.executable), *pip, str(source))
    return next(folder.glob("*.whl"))


def _run(python: Path, *arguments: str, capture: bool = False) -> str:
    command = [str(python), *arguments]
    ran = subprocess.run(command, check=True, stdout=subprocess.PIPE if capture else None)
    return ran.stdout.decode() if capture else ""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
