"""The reference pages name what there is: variables, keys, commands."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import llmproviders
from llmproviders import FailoverClient
from llmproviders._schema import arguments_of
from llmproviders.providers import REGISTRY

PACKAGE = Path(llmproviders.__file__).parent
REFERENCE = PACKAGE.parent / "docs" / "reference"


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


def test_every_variable_is_in_the_reference() -> None:
    """What the code reads from the environment, the page about it names."""
    page = (REFERENCE / "environment.md").read_text(encoding="utf-8")
    names = looked_up()
    for kind in REGISTRY.values():
        for argument in arguments_of(kind):
            names |= set(kind.environment_of(argument))
    assert {"NO_COLOR", "LLMPROVIDERS_CONFIG", "GIGACHAT_CREDENTIALS"} <= names
    assert {name for name in names if f"`{name}`" not in page} == set()


def test_every_key_is_in_the_reference() -> None:
    """What can stand in a configuration, the page about it names."""
    page = (REFERENCE / "configuration.md").read_text(encoding="utf-8")
    told = set(re.findall(r"`(\w+)`", page))
    for cls in (*REGISTRY.values(), FailoverClient):
        for argument in arguments_of(cls).values():
            name = f"{argument.name}_file" if argument.secret else argument.name
            assert name in told, name
