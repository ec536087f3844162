"""The wings stand in the order of the documentation, imports at the top, each name once."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import pytest

import llmproviders
from benchmarks.way.__main__ import ways

ROOT = Path(llmproviders.__file__).parent
PAGE = ROOT.parent / "docs" / "contributing" / "house.md"

ROOT_MODULES = 20
LONGEST_MODULE = 700
MOST_DOORS = 30

LIBRARIES_BEHIND_DOORS = {
    "requests", "urllib3", "tenacity", "filelock", "readline",
    "click", "tqdm", "pydantic", "jsonschema", "dask", "distributed", "pandas", "IPython", "rich",
    "truststore", "referencing", "typing_extensions",
}  # fmt: skip
"""Extras, and what costs a process more than the rest of the package."""

DOORS = {
    "_http.transport": "requests, urllib3 and ssl: opened when the first provider is made",
    "_http.certificates": "ssl and certifi: loaded along with _http.transport",
    "providers.gigachat._root": "likewise, for its certificates",
    "_account.quotas": "sqlite3: opened when a provider is made whose requests are counted",
    "_account.ledger": "sqlite3: opened by usage()",
    "_display": "pictures and tables, for those who look at them",
    "config": "opened by FailoverClient.from_config()",
    "schema": "pydantic: opened by schema=",
    "cache": "sqlite3: opened by whoever caches",
    "_account.usage": "sqlite3: opened where requests are counted",
    "notebook": "opened by %load_ext llmproviders",
    "sandbox": "opened by the commands that need it",
    "cli": "a command loads what it needs when it is run",
    "batch": "likewise",
}
"""Wings and modules that may be imported inside a function, and why."""

UPWARD = {("failover", "config")}
"""A door that leads up: a client is made of a configuration."""


class Import(NamedTuple):
    """One import of one module of the package, or of a library (``own`` False)."""

    target: str
    own: bool
    lazy: bool
    line: int


def _name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


SOURCES = {_name(path): path.read_text(encoding="utf-8") for path in sorted(ROOT.rglob("*.py"))}
TREES = {name: ast.parse(text) for name, text in SOURCES.items()}
PACKAGES = {_name(path) for path in ROOT.rglob("__init__.py")} - {"__init__"}


def _statements(node: ast.AST, lazy: bool = False) -> Iterator[tuple[ast.stmt, bool]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.Import, ast.ImportFrom)):
            yield child, lazy
        inside = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef))
        yield from _statements(child, lazy or inside)


def _home(dotted: str) -> str:
    """The module of the package that a dotted name stands in."""
    while dotted and dotted not in TREES:
        dotted = dotted.rpartition(".")[0]
    return dotted or "__init__"


def imports(name: str) -> Iterator[Import]:
    """What a module imports, what only a type checker reads included."""
    package = [] if name == "__init__" else name.split(".")
    if name not in PACKAGES and name != "__init__":
        package = package[:-1]
    for node, lazy in _statements(TREES[name]):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            assert isinstance(node, ast.ImportFrom)
            start = package[: len(package) - node.level + 1] if node.level else []
            stem = [*start, *(node.module or "").split(".")] if node.module else start
            prefix = "llmproviders." if node.level else ""
            names = [prefix + ".".join([*stem, alias.name]) for alias in node.names]
        for dotted in names:
            first, _, rest = dotted.partition(".")
            own = first == "llmproviders"
            yield Import(_home(rest) if own else first, own, lazy, node.lineno)


IMPORTS = {name: list(imports(name)) for name in TREES}


def order() -> list[list[str]]:
    """The wings as the page lists them, each row above what may import it."""
    (block,) = re.findall(r"```text\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    return [line.split() for line in block.splitlines()]


HEIGHT = {wing: height for height, row in enumerate(order()) for wing in row}
HEIGHT |= {"__init__": len(HEIGHT), "__main__": len(HEIGHT)}


def wing(name: str) -> str:
    """The wing of a module: the part of its name before the first dot."""
    return name.partition(".")[0]


def test_the_page_names_every_wing() -> None:
    """Every module and folder at the root has a place in the page's list, and nothing else has."""
    assert {wing(name) for name in TREES} == HEIGHT.keys()


@pytest.mark.parametrize("name", sorted(TREES))
def test_imports_point_down(name: str) -> None:
    """No module imports from a wing that stands above its own, not even for a type."""
    above = {
        found.target
        for found in IMPORTS[name]
        if found.own
        and HEIGHT[wing(found.target)] > HEIGHT[wing(name)]
        and not (found.lazy and (wing(name), wing(found.target)) in UPWARD)
        and name != "__init__"
    }
    assert above == set()


def test_no_circle() -> None:
    """No module imports itself through others; the doors that lead up are left out."""
    graph = {
        name: {
            found.target
            for found in found_here
            if found.own
            and found.target not in (name, "__init__")
            and (wing(name), wing(found.target)) not in UPWARD
        }
        for name, found_here in IMPORTS.items()
        if name != "__init__"
    }
    TopologicalSorter(graph).prepare()


def _is_door(name: str, found: Import) -> bool:
    if not found.own:
        return found.target in LIBRARIES_BEHIND_DOORS
    return any(found.target == door or found.target.startswith(f"{door}.") for door in DOORS)


def test_only_doors_are_lazy() -> None:
    """An import inside a function is one of the doors named above; there are few of them."""
    lazy = [(name, found) for name, here in IMPORTS.items() for found in here if found.lazy]
    others = [f"{n}:{f.line} {f.target}" for n, f in lazy if n != "__init__" and not _is_door(n, f)]
    assert others == []
    assert len({(name, found.line) for name, found in lazy}) <= MOST_DOORS


def test_type_checking_is_for_libraries_alone() -> None:
    """What only a type checker imports comes from libraries; own types are imported at the top.

    A package whose modules are loaded when they are first used names them for type checkers.
    """
    assert [name for name, text in SOURCES.items() if "TYPE_CHECKING = False" in text] == []
    own = [
        f"{name}:{sub.lineno}"
        for name, tree in TREES.items()
        if name not in ("__init__", "_display")
        for node in tree.body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for sub in node.body
        if isinstance(sub, ast.ImportFrom) and sub.level
    ]
    assert own == []


def test_a_class_name_stands_once() -> None:
    """No two modules define a class of the same name."""
    homes = defaultdict(list)
    for name, tree in TREES.items():
        for node in tree.body:
            if isinstance(node, ast.ClassDef):
                homes[node.name].append(name)
    assert {cls: found for cls, found in homes.items() if len(found) > 1} == {}


def test_the_root_is_small() -> None:
    """The package's root has few modules, and no module is long."""
    assert len(list(ROOT.glob("*.py"))) <= ROOT_MODULES
    long = {name: text.count("\n") for name, text in SOURCES.items()}
    assert {name: lines for name, lines in long.items() if lines > LONGEST_MODULE} == {}


ONLY_IN = {
    "requests": {"_http", "_account"},
    "urllib3": {"_http"},
    "socks": {"_http"},
    "ssl": {"_http", "testing"},
    "tenacity": {"failover"},
    "filelock": {"_runtime"},
    "IPython": {"notebook", "__init__"},
    "click": {"cli", "notebook"},
}
"""Library -> the wings that may import it; outside _http, requests serves as a type alone."""


@pytest.mark.parametrize("library", ONLY_IN)
def test_a_library_has_one_home(library: str) -> None:
    """A library is met in its own wing and nowhere else."""
    found = {
        wing(name)
        for name, here in IMPORTS.items()
        if wing(name) != "sandbox"
        for one in here
        if not one.own and one.target == library
    }
    assert found <= ONLY_IN[library]


def test_the_sandbox_stands_alone() -> None:
    """The sandbox speaks the protocols by itself: it imports public names, and no wing."""
    private = [
        found.target
        for name, here in IMPORTS.items()
        if wing(name) == "sandbox"
        for found in here
        if found.own and wing(found.target).startswith("_") and found.target != "__init__"
    ]
    assert private == []


READING = ("os.environ", "os.environb", "os.getenv", "os.getenvb", "os.putenv")


def test_the_environment_has_one_reader() -> None:
    """``os.environ`` and ``os.getenv`` stand in one module."""
    readers = {
        name
        for name, tree in TREES.items()
        if wing(name) != "sandbox"
        for node in ast.walk(tree)
        if (isinstance(node, ast.Attribute) and ast.unparse(node) in READING)
        or (isinstance(node, ast.ImportFrom) and node.module == "os")
    }
    assert readers == {"_environment"}


def test_the_way_of_a_call_is_short() -> None:
    """A warm call enters at most 16 files with 60 moves to its first text; a retry 20 with 150.

    The page tells the same figures. A reply that comes in more pieces than usual has more moves,
    so that the shortest of a few calls counts.
    """
    found = [ways("openai_compatible") for _ in range(8)]
    warm, retried = (min(tracers, key=lambda t: t.moves) for tracers in zip(*found, strict=True))
    assert (len(warm.files) <= 16, warm.moves <= 60) == (True, True)
    assert (len(retried.files) <= 20, retried.moves <= 150) == (True, True)
    page = PAGE.read_text(encoding="utf-8")
    for files in (len(warm.files), len(retried.files)):
        assert re.search(rf"\| {files} \| [0-9]+ \|$", page, re.MULTILINE)


TESTS = Path(__file__).parent

ABOUT_ALL = {"reliability", "fuzz", "support", "docs", "real", "conftest.py", "test_import.py"}
"""Tests, and help for them, that are about the package as a whole."""

FOUNDATION = {"_runtime", *(name for name in TREES.keys() - PACKAGES if re.match("_[a-z]+$", name))}

BORROWED = {
    "_account.ledger": "a record of use with hostile names, for the commands",
    "_http.certificates": "contexts that were made, for the checks of doctor",
    "_account.keys": "keys in files and variables, which only configurations make",
    "_display.timeline": "the colours of a report",
    "config._types": "the names of providers, for the checks of doctor",
    "providers.gigachat._root": "the pinned certificate, for the checks of doctor",
    "providers._chat_completions": "the reader that is fastest by the template of an event",
}
"""Private modules of other wings that tests of a wing may import, and for what."""


def _private(test: Path) -> Iterator[str]:
    """The private modules of the package that a test imports, or names for ``monkeypatch``."""
    named = []
    for node in ast.walk(ast.parse(test.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            named += [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            named += [alias.name for alias in node.names]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            named += re.findall(r"(?:^|::?)(llmproviders\.[\w.]+)$", node.value)
    found = (_home(name.partition(".")[2]) for name in named if name.startswith("llmproviders."))
    yield from (name for name in found if re.search(r"(^|\.)_[a-z]", name))


def test_tests_stay_in_their_wing() -> None:
    """A test imports private modules of its own wing, and of what all wings stand on."""
    strangers = set()
    for test in TESTS.rglob("*.py"):
        folder = test.relative_to(TESTS).parts[0]
        if folder in ABOUT_ALL:
            continue
        for name in _private(test):
            home = wing(name)
            if home.strip("_") != folder and home not in FOUNDATION and name not in BORROWED:
                strangers.add((str(test.relative_to(TESTS)), name))
    assert strangers == set()
