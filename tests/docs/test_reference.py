"""The reference pages name what there is: variables, keys, commands."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

import llmproviders
from llmproviders import FailoverClient
from llmproviders.config._arguments import arguments_of
from llmproviders.providers import REGISTRY

PACKAGE = Path(llmproviders.__file__).parent
ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "docs" / "reference"
PAGES = [*sorted((ROOT / "docs").rglob("*.md")), *sorted(ROOT.glob("*.md"))]
# What click reads, what the tests read, what an example of a page makes, and GigaChat's scopes.
NO_VARIABLES = {
    "_LLMPROVIDERS_COMPLETE",
    "LLMPROVIDERS_TEST_NO_SKIPS",
    "LLMPROVIDERS_TEST_PROXIES",
    "LLMPROVIDERS_TEST_REAL",
    "LLMPROVIDERS_MINE_BASE_URL",
    "GIGACHAT_API_PERS",
    "GIGACHAT_API_B2B",
    "GIGACHAT_API_CORP",
}


def looked_up() -> set[str]:
    """Return every name that the code looks up in the environment as it stands there."""
    names = set()
    for path in PACKAGE.rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        constants = {
            target.id: node.value.value
            for node in ast.walk(tree)
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "_environ.lookup":
                for argument in node.args:
                    if isinstance(argument, ast.Constant):
                        names.add(argument.value)
                    elif isinstance(argument, ast.Name):
                        names.add(constants[argument.id])
    return names


@cache
def variables() -> frozenset[str]:
    """Return every name that the code reads from the environment."""
    names = looked_up()
    for kind in REGISTRY.values():
        for argument in arguments_of(kind):
            names |= set(kind.environment_of(argument))
    assert {"NO_COLOR", "LLMPROVIDERS_CONFIG", "GIGACHAT_CREDENTIALS"} <= names
    return frozenset(names)


def test_every_variable_is_in_the_reference() -> None:
    """What the code reads from the environment, the page about it names."""
    page = (REFERENCE / "environment.md").read_text(encoding="utf-8")
    assert {name for name in variables() if f"`{name}`" not in page} == set()


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_variable_in_a_page_is_read(path: Path) -> None:
    """A variable that a page names does something: no misspelt name, none of an older version."""
    text = path.read_text(encoding="utf-8")
    named = set(re.findall(r"\b_?(?:LLMPROVIDERS|GIGACHAT|OPENAI)_[A-Z_0-9]*[A-Z0-9]\b", text))
    assert named - variables() <= NO_VARIABLES


def test_every_key_is_in_the_reference() -> None:
    """What can stand in a configuration, the page about it names."""
    page = (REFERENCE / "configuration.md").read_text(encoding="utf-8")
    told = set(re.findall(r"`(\w+)`", page))
    for cls in (*REGISTRY.values(), FailoverClient):
        for argument in arguments_of(cls).values():
            name = f"{argument.name}_file" if argument.secret else argument.name
            assert name in told, name
