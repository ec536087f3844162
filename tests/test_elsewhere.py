"""The page on writing a provider, done as it says: a package, from an empty folder to an answer."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from llmproviders.testing import RawServer, http_response, keep_alive
from tests.test_packaging import NOT_SOURCE, ROOT

PAGE = ROOT / "docs" / "how-to" / "write-a-provider.md"
PORT = "8123"

FILE = re.compile(r"^```\{code-block\} \w+\n:caption: (\S+)\n\n(.*?)^```", re.MULTILINE | re.DOTALL)
COMMANDS = re.compile(r"^```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)

BROKEN = {
    "imports": 'raise ImportError("no libfoo here")',
    "exits": "import sys\nsys.exit(3)",
    "kind": "Mine = dict",
    "making": """
from llmproviders import Provider

class Mine(Provider):
    url = "https://mine.example"
    default_model = "mine-1"
    def __init__(self, **arguments):
        raise RuntimeError("no device")
    def prepare(self, request, fetch): ...
    def parse(self, reply): ...
""",
}
"""How a plug-in may be broken -> its module."""


class Workshop:
    """A folder with an environment of its own, which has the wheel of this package."""

    def __init__(self, folder: Path, wheels: Path, home: Path) -> None:
        self.folder = folder
        self._environ = {
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "COLUMNS": "100",
            # Nothing is fetched: what is not installed there comes from the wheels.
            "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": str(wheels),
            "PIP_NO_BUILD_ISOLATION": "0",
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        }

    def run(self, command: str, *, code: int = 0) -> str:
        """Run a command and return what it printed, on standard error too."""
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", command],
            cwd=self.folder,
            env=self._environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=240,
        )
        assert done.returncode == code, f"{command}\n{done.stdout}"
        return done.stdout

    def set(self, **values: str) -> None:
        """Set variables for the commands to come."""
        self._environ.update(values)


def lend_libraries(environment: Path, folder: Path) -> None:
    """Give an environment the libraries of this one, all but this package itself."""
    folder.mkdir()
    for entry in map(Path, sys.path):
        if entry.name == "site-packages":
            for found in entry.iterdir():
                own = found.name.startswith(("llmproviders", "__editable__"))
                if not own and found.suffix != ".pth" and not (folder / found.name).exists():
                    (folder / found.name).symlink_to(found)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    site = environment / "lib" / version / "site-packages"
    (site / "lent.pth").write_text(f"{folder}\n", encoding="utf-8")


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    """An empty folder, and the environment that the page has people make in it."""
    base = tmp_path_factory.mktemp("elsewhere")
    source = shutil.copytree(ROOT, base / "source", ignore=NOT_SOURCE)
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", base]
    built = subprocess.run([*build, source], capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    (base / "mine").mkdir()
    made = Workshop(base / "mine", base, base / "home")
    made.run(f"{sys.executable} -m venv .venv")
    lend_libraries(made.folder / ".venv", base / "lent")
    return made


@pytest.fixture(scope="module")
def service() -> Iterator[RawServer]:
    """What service.py of the page does, on a port of its own."""
    answer = b'{"piece": "Light scatters."}\n{"end": true}\n'
    with RawServer(keep_alive(http_response(200, {}, answer))) as running:
        yield running


@pytest.mark.skipif(os.name != "posix", reason="the page's commands are for a POSIX shell")
class TestThePage:
    def test_as_it_says(self, workshop: Workshop, service: RawServer) -> None:
        """Its files and commands, in their order, make a package that answers."""
        page = PAGE.read_text(encoding="utf-8").replace(PORT, str(service.port))
        for name, text in FILE.findall(page):
            path = workshop.folder / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
        printed = {}
        for block in COMMANDS.findall(page):
            for command in block.splitlines():
                variable = re.fullmatch(r"export (\w+)=(\S+)", command)
                if variable is not None:
                    workshop.set(**{variable[1]: variable[2]})
                elif "-m venv" not in command and not command.endswith("&"):
                    printed[command] = workshop.run(command)
        assert "passed" in printed[".venv/bin/python -m pytest"]
        asked = [text for command, text in printed.items() if " ask " in command]
        assert asked == ["Light scatters.\n"] * 2
        table = printed[".venv/bin/llmproviders providers"]
        assert re.search(r"^Mine +yes +no +yes +mine-1 ", table, re.MULTILINE)
        doctor = printed[".venv/bin/llmproviders doctor -p mine"]
        assert "plug-ins: mine" in doctor
        assert f"Mine, connection: {service.url} answers" in doctor

    def test_the_service_of_the_page(self, tmp_path: Path) -> None:
        """The server that the page shows is a program without a fault."""
        page = PAGE.read_text(encoding="utf-8")
        compile(dict(FILE.findall(page))["service.py"], "service.py", "exec")

    def test_it_comes_out_of_a_pickle_in_another_process(self, workshop: Workshop) -> None:
        """A provider of an installed package goes to other processes as the built-in ones do."""
        code = (
            "import pickle, subprocess, sys; from llmproviders.providers import find;"
            "data = pickle.dumps(find('mine')(base_url='http://127.0.0.1:9', name='x'));"
            "there = 'import pickle, sys; print(repr(pickle.load(sys.stdin.buffer)))';"
            "subprocess.run([sys.executable, '-c', there], input=data, check=True)"
        )
        told = workshop.run(f'.venv/bin/python -c "{code}"')
        assert told == "Mine(name='x', base_url='http://127.0.0.1:9')\n"

    def test_broken_ones(self, workshop: Workshop, service: RawServer) -> None:
        """Whatever is broken in a plug-in is told by name, and harms no other provider."""
        folder = workshop.folder / "broken"
        folder.mkdir()
        entries = []
        for how, code in BROKEN.items():
            (folder / f"broken_{how}.py").write_text(code, encoding="utf-8")
            entries.append(f'broken-{how} = "broken_{how}:Mine"')
        modules = [f"broken_{how}" for how in BROKEN]
        (folder / "pyproject.toml").write_text(
            '[build-system]\nrequires = ["setuptools"]\n'
            'build-backend = "setuptools.build_meta"\n'
            '[project]\nname = "llmproviders-broken"\nversion = "0.1"\n'
            '[project.entry-points."llmproviders.providers"]\n' + "\n".join(entries) + "\n"
            f"[tool.setuptools]\npy-modules = {json.dumps(modules)}\n"
        )
        workshop.run(".venv/bin/pip wheel --no-deps --wheel-dir broken/dist ./broken")
        workshop.run(".venv/bin/pip install broken/dist/*.whl")
        workshop.set(LLMPROVIDERS_MINE_BASE_URL=service.url)
        try:
            self._fails_well(workshop)
        finally:
            workshop.run(".venv/bin/pip uninstall -q -y llmproviders-broken")

    def _fails_well(self, workshop: Workshop) -> None:
        command = ".venv/bin/llmproviders"
        assert workshop.run(f"{command} ask -p mine Why") == "Light scatters.\n"
        why = {
            "imports": "does not load: ImportError: no libfoo here",
            "exits": "does not load: SystemExit: 3",
            "kind": "does not load: TypeError: it is not a subclass",
            "making": "cannot be made: RuntimeError: no device",
        }
        for how, words in why.items():
            assert words in workshop.run(f"{command} ask -p broken-{how} Why", code=2)
            config = workshop.folder / f"{how}.toml"
            config.write_text(f'[[provider]]\ntype = "broken-{how}"\n')
            said = workshop.run(f"{command} --config {config.name} ask Why", code=2)
            assert words in said
            assert f"{config.name}:2: " in said
        table = workshop.run(f"{command} providers")
        assert re.search(r"^Mine +yes ", table, re.MULTILINE)
        assert all(words in table for words in why.values())
        doctor = " ".join(workshop.run(f"{command} doctor -p mine").split())
        for how in ("imports", "exits", "kind"):
            assert doctor.count(f"broken-{how}") == 1
        assert "pip uninstall llmproviders-broken" in doctor
        assert "Mine, connection" in doctor
        failing = workshop.run(f"{command} --config making.toml doctor", code=1)
        assert "FAIL Mine: " in " ".join(failing.split())
