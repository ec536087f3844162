"""What is published holds what it should, and the commands that people copy are there."""

from __future__ import annotations

import ast
import importlib.metadata
import shutil
import subprocess
import sys
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import llmproviders

ROOT = Path(__file__).parent.parent
NOT_SOURCE = shutil.ignore_patterns(
    ".git", ".venv", "venv", "__pycache__", ".*_cache", "build", "dist", "*.egg-info", "_build"
)


@pytest.fixture(scope="session")
def wheel_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build a wheel from a copy of the whole source, with the tools of this environment."""
    folder = tmp_path_factory.mktemp("wheel")
    source = shutil.copytree(ROOT, folder / "source", ignore=NOT_SOURCE)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder)]
    built = subprocess.run([*command, str(source)], capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    [path] = folder.glob("*.whl")
    return path


@pytest.fixture(scope="session")
def wheel_files(wheel_path: Path) -> dict[str, bytes]:
    """Return the wheel's files, the folder of its metadata called only ``dist-info``."""
    with zipfile.ZipFile(wheel_path) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    dist_info = f"llmproviders-{llmproviders.__version__}.dist-info/"
    return {name.replace(dist_info, "dist-info/"): data for name, data in contents.items()}


@pytest.fixture(scope="session")
def metadata(wheel_files: dict[str, bytes]) -> Message:
    """Return the wheel's metadata."""
    return Parser().parsestr(wheel_files["dist-info/METADATA"].decode())


def _requirements(metadata: Message) -> list[Requirement]:
    return [Requirement(text) for text in metadata.get_all("Requires-Dist", [])]


def test_the_wheel_holds_the_package_alone(wheel_files: dict[str, bytes]) -> None:
    """Every file of the package is in the wheel, and no test, document or build product."""
    package = ROOT / "llmproviders"
    source = {
        path.relative_to(ROOT).as_posix()
        for path in package.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert {name for name in wheel_files if not name.startswith("dist-info/")} == source
    assert "llmproviders/py.typed" in source
    assert {Path(name).name for name in wheel_files if name.startswith("dist-info/")} == {
        "LICENSE",
        "METADATA",
        "RECORD",
        "WHEEL",
        "entry_points.txt",
        "top_level.txt",
    }


def test_the_wheel_imports_where_it_is_installed(wheel_path: Path, tmp_path: Path) -> None:
    """Installed by itself, away from the source, the package imports and tells its version."""
    place = tmp_path / "installed"
    options = ["--quiet", "--no-deps", "--no-index", "--no-warn-script-location"]
    subprocess.run(
        [sys.executable, "-m", "pip", "install", *options, "--target", place, wheel_path],
        check=True,
    )
    code = "import llmproviders as p; print(p.__version__, p.__file__)"
    found = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"PYTHONPATH": str(place)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.split() == [
        llmproviders.__version__,
        str(place / "llmproviders" / "__init__.py"),
    ]


def test_the_metadata_says_what_is_promised(metadata: Message) -> None:
    """Name, version, licence, oldest Python and extras are those of the documents."""
    assert metadata["Name"] == "llmproviders"
    assert metadata["Version"] == llmproviders.__version__
    assert metadata["License"] == "MIT"
    assert metadata["Requires-Python"] == ">=3.10"
    extras = {"dask", "notebook", "pandas", "real", "rich", "schema", "truststore"}
    extras |= {"docs", "test", "dev"}
    assert {*metadata.get_all("Provides-Extra", [])} == extras
    assert metadata.get_payload() == (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_entry_points(wheel_files: dict[str, bytes]) -> None:
    """The one console script is ``llmproviders``, and PyInstaller is told where its hook is."""
    scripts = wheel_files["dist-info/entry_points.txt"].decode().split("\n")
    assert [line for line in scripts if line] == [
        "[console_scripts]",
        "llmproviders = llmproviders.cli:main",
        "[pyinstaller40]",
        "hook-dirs = llmproviders._pyinstaller:hook_dirs",
    ]


def test_every_run_time_requirement_has_a_lower_bound(metadata: Message) -> None:
    """The oldest release that works is named for each library that a user installs."""
    for requirement in _requirements(metadata):
        if "extra ==" not in str(requirement.marker):
            operators = {specifier.operator for specifier in requirement.specifier}
            assert ">=" in operators, requirement


def test_every_import_is_declared(metadata: Message) -> None:
    """What the package imports from others is required, by the package itself or by an extra."""
    user_extras = ('"dask"', '"notebook"', '"pandas"', '"rich"', '"schema"', '"truststore"')
    declared = {
        canonicalize_name(requirement.name)
        for requirement in _requirements(metadata)
        if "extra ==" not in str(requirement.marker)
        or str(requirement.marker).endswith(user_extras)
    }
    distributions = importlib.metadata.packages_distributions()
    # Python 3.10 has no tomllib and takes tomli. PyInstaller runs the hook that imports it.
    known = {*sys.stdlib_module_names, "llmproviders", "tomli", "tomllib", "PyInstaller"}
    for path in (ROOT / "llmproviders").rglob("*.py"):
        for module in _imported_packages(path) - known:
            # Python 3.10 does not know the packages of every distribution
            names = {canonicalize_name(name) for name in distributions.get(module, [module])}
            assert names & declared, f"{path} imports {module}"


def _imported_packages(path: Path) -> set[str]:
    """Return the top-level packages that the file imports when it runs."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for_typing = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    found = set()
    for node in ast.walk(tree):
        if node in for_typing:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.partition(".")[0])
    return found


@pytest.mark.parametrize("last", ["llmproviders demo", "pytest"])
def test_the_readme_has_the_two_commands(last: str) -> None:
    """The README has the commands that a newcomer and ``.ci/run`` execute, one line each."""
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    [command] = [line for line in lines if line.endswith(f"&& .venv/bin/{last}")]
    setup, install, _ = command.split(" && ")
    assert setup == "python3 -m venv .venv"
    assert install.startswith(".venv/bin/pip install -q")


def test_the_changelog_has_this_version_or_an_unreleased_part() -> None:
    """The changelog's newest part is what is not released yet, or the version at hand."""
    lines = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8").splitlines()
    newest = next(line for line in lines if line.startswith("## "))
    assert newest.startswith(("## [Unreleased]", f"## [{llmproviders.__version__}]"))


def test_there_is_no_pyproject() -> None:
    """A ``pyproject.toml`` would break offline installs on a stock Debian 12."""
    assert not (ROOT / "pyproject.toml").exists()
