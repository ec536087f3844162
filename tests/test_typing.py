"""The interface is typed: good uses pass a strict check, and slips are found by it."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from mypy import api

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "tests" / "typing"


@pytest.fixture(scope="module")
def found() -> dict[str, set[tuple[int, str]]]:
    """Return the errors that mypy finds, as line and code, by the file's name."""
    # As in a check of the package, so that what that one keeps of a module serves here.
    options = [f"--config-file={ROOT / 'setup.cfg'}", f"--cache-dir={ROOT / '.mypy_cache'}"]
    limit = sys.getrecursionlimit()
    report, trouble, _ = api.run([*options, *map(str, FOLDER.glob("*.py"))])
    # mypy raises it, and tests of what is nested too deeply may follow in this process.
    sys.setrecursionlimit(limit)
    assert not trouble
    errors: dict[str, set[tuple[int, str]]] = {}
    for name, line, code in re.findall(r"(\w+\.py):(\d+): error: .*\[([\w-]+)\]", report):
        errors.setdefault(name, set()).add((int(line), code))
    return errors


def test_good_uses_are_accepted(found: dict[str, set[tuple[int, str]]]) -> None:
    """What the documents show passes a strict type check."""
    assert found.get("good.py", set()) == set()


def test_slips_are_found(found: dict[str, set[tuple[int, str]]]) -> None:
    """A wrong argument, a misspelt name, a changed result: each is refused where it stands."""
    lines = (FOLDER / "bad.py").read_text(encoding="utf-8").splitlines()
    expected = {
        (number, match[1])
        for number, line in enumerate(lines, 1)
        if (match := re.search(r"# error: ([\w-]+)$", line))
    }
    assert found.get("bad.py", set()) == expected
