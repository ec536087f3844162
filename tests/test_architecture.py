"""The modules stand in layers, and what is heavy or global has one importer each."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import llmproviders
from llmproviders.providers import REGISTRY

ROOT = Path(llmproviders.__file__).parent
LAYERS = (
    "_printable _signals",
    "_log _redact _params _environ _characters _transcript _headers _places",
    "errors",
    "_numbers _schema",
    "messages results _drawing _html _markdown _svg _timeline _timeline_svg _timeline_text",
    "_process _batch_pictures _batch_report",
    "_clock _files _lines _frame _call _status _sockets _adapter _failures _transport",
    "_chat_completions _cumulative _page",
    "_secret _token _trust _oauth _locks _concurrency _retry",
    "_health _health_file _report _hedge _request",
    "_attempt _gigachat",
    "conversation provider",
    "providers",
    "_lane _turns failover testing",
    "__init__ config batch",
    "cli notebook __main__",
)
"""Lower never imports higher; ``providers`` and ``cli`` stand for all their modules."""

LAYER = {name: height for height, names in enumerate(LAYERS) for name in names.split()}
APART = ("sandbox",)
"""Stands alone; the tests of the sandbox say what it may import."""

UPWARD = {("failover", "config"), ("__init__", "notebook._magic")}
"""Imports against the direction, inside a function: ``from_config`` is made of a configuration,
and ``%load_ext llmproviders`` asks the package itself for its magics."""

ONLY_IMPORTER = {
    "requests": ["_adapter", "_failures", "_transport"],
    "urllib3": ["_adapter", "_failures", "_sockets", "_transport"],
    "socks": ["_adapter", "_failures", "_sockets"],
    "tenacity": ["_retry"],
    "IPython": ["notebook._magic", "notebook._page"],
}


def modules() -> dict[str, ast.Module]:
    """Parse every module but the sandbox's, by its dotted name inside the package."""
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        if name.partition(".")[0] not in APART:
            found[name] = ast.parse(path.read_text())
    return found


MODULES = modules()


def running(node: ast.AST) -> Iterator[ast.AST]:
    """Walk through what runs: everything but what only a type checker sees."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            continue
        yield child
        yield from running(child)


def imports(name: str) -> Iterator[str]:
    """What a module imports: absolute names as they are, its own package's with a dot before."""
    is_package = (ROOT / name.replace(".", "/") / "__init__.py").exists()
    package = [] if name == "__init__" else name.split(".")
    if not is_package:
        package = package[:-1]
    for node in running(MODULES[name]):
        if isinstance(node, ast.Import):
            yield from (_own(alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield from (_own(f"{node.module}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1]
            stem = [*start, *(node.module or "").split(".")] if node.module else start
            yield from ("." + ".".join([*stem, alias.name]) for alias in node.names)


def _own(name: str) -> str:
    return name.removeprefix("llmproviders") if name.startswith("llmproviders.") else name


@cache
def own_modules(name: str) -> set[str]:
    """The modules of the package that a module imports."""
    found = set()
    for imported in imports(name):
        if imported.startswith(".") and imported.split(".")[1] not in APART:
            dotted = imported[1:]
            while dotted and dotted not in MODULES:
                dotted = dotted.rpartition(".")[0]
            found.add(dotted or "__init__")
    return {found for found in found - {name} if (name, found) not in UPWARD}


def test_every_module_has_a_layer() -> None:
    """A module that nobody gave a place to fails here, not in a review."""
    tops = {name.partition(".")[0] for name in MODULES}
    assert sorted(tops - LAYER.keys()) == []


@pytest.mark.parametrize("name", sorted(MODULES))
def test_imports_point_down(name: str) -> None:
    """No module imports from a layer above its own."""
    height = LAYER[name.partition(".")[0]]
    tops = {imported.partition(".")[0] for imported in own_modules(name)}
    assert {top for top in tops if LAYER[top] > height} == set()


def test_no_module_imports_itself_through_others() -> None:
    """The imports have no cycle, inside a layer neither."""
    TopologicalSorter({name: own_modules(name) for name in MODULES}).prepare()


def test_providers_know_only_the_contract() -> None:
    """Providers import neither one another nor what sends, retries or fails over."""
    providers = [name for name in MODULES if name.startswith("providers.")]
    assert {kind.__module__.removeprefix("llmproviders.") for kind in REGISTRY.values()} <= {
        *providers
    }
    banned = ("_transport", "_sockets", "_retry", "_health", "_environ", "providers")
    for name in providers:
        tops = {imported.partition(".")[0] for imported in own_modules(name)}
        assert tops.isdisjoint(banned), name


@pytest.mark.parametrize("library", ONLY_IMPORTER)
def test_a_library_has_one_importer(library: str) -> None:
    """requests and what lies under it is met in the transport, tenacity in the retries, alone."""
    importers = [
        name
        for name in MODULES
        if library in {imported.partition(".")[0] for imported in imports(name)}
    ]
    assert importers == ONLY_IMPORTER[library]


READING = ("os.environ", "os.environb", "os.getenv", "os.getenvb", "os.putenv")


def test_the_environment_has_one_reader() -> None:
    """``os.environ`` and ``os.getenv`` stand in one module."""
    readers = {
        name
        for name, tree in MODULES.items()
        for node in ast.walk(tree)
        if (isinstance(node, ast.Attribute) and ast.unparse(node) in READING)
        or (isinstance(node, ast.ImportFrom) and node.module == "os")
    }
    assert readers == {"_environ"}


ENDLESS = {"acquire", "get", "join", "poll", "result", "select", "wait"}
"""Methods that wait without an end where they are given none."""

NEVER_IN_A_SIGNALS_WAY = {
    ("_clock", "Wake.__init__", "self._lock.acquire()"),
    ("batch._lanes", "Threads._serve", "self._waiting.get()"),
    ("batch._lanes", "ViaExecutor._end_of", "future.result()"),
    ("batch._file", "run_file", "outcome.result()"),
    ("batch._run", "_results", "outcome.result()"),
    ("cli.providers", "ask_each", "future.result()"),
    ("cli.sandbox", "command", "sandbox.wait()"),
    ("sandbox._delivery", "Delivery._break_off", "self.line.wait(None)"),
    ("sandbox._http", "Server._accept", "selector.select()"),
}
"""What does not wait, waits in slices itself, or waits in a thread of its own, where no handler of
a signal runs."""


def _waits(node: ast.AST, where: str = "") -> Iterator[tuple[str, str]]:
    for child in ast.iter_child_nodes(node):
        named = isinstance(child, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
        inside = f"{where}.{child.name}".lstrip(".") if named else where  # type: ignore[attr-defined]
        if (
            isinstance(child, ast.Call)
            and isinstance(child.func, ast.Attribute)
            and child.func.attr in ENDLESS
            and all(ast.unparse(argument) == "None" for argument in child.args)
            and all(ast.unparse(option.value) == "None" for option in child.keywords)
        ):
            yield where, ast.unparse(child)
        yield from _waits(child, inside)


def test_every_wait_goes_in_slices() -> None:
    """No thread that may have to run a signal's handler waits without an end in one go."""
    found = {
        (".".join(path.relative_to(ROOT).with_suffix("").parts), where, call)
        for path in ROOT.rglob("*.py")
        for where, call in _waits(ast.parse(path.read_text()))
    }
    assert found == NEVER_IN_A_SIGNALS_WAY
