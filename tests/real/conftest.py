"""Programs that others wrote: a llama.cpp server for the whole session, and the extra `real`."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import threading
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from tests.support.rawserver import free_port

SERVE = Path(__file__).with_name("serve_llama.py")
START_S = 60.0


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Tell in one line of the summary why tests of other programs are skipped, not once a test."""
    report = yield
    if report.skipped and item.get_closest_marker("real_programs"):
        report.longrepr = (__file__, 0, report.longrepr[-1])
    return report


class Llama:
    """A server that can be killed and started again on the same port.

    Args:
        model: where the model is, or is to be written.
    """

    def __init__(self, model: Path) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}/v1"
        self._model = model
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Start it, and return when it serves."""
        log = self._model.with_suffix(f".{self.port}.log")
        command = [sys.executable, str(SERVE), str(self._model), str(self.port)]
        with log.open("a") as errors:
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)
        self._process = process
        late = threading.Timer(START_S, process.kill)
        late.start()
        assert process.stdout is not None
        line = process.stdout.readline()
        late.cancel()
        assert line.startswith("http"), log.read_text()[-4000:]

    def kill(self) -> None:
        """End it at once, whatever it is doing."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()


@pytest.fixture(scope="session")
def real_python() -> str:
    """Return the Python in whose environment the extra `real` is installed."""
    named = os.environ.get("LLMPROVIDERS_TEST_REAL")
    if named:
        return named
    modules = ("gevent", "eventlet", "gunicorn", "truststore", "PyInstaller")
    if not all(map(importlib.util.find_spec, modules)):
        pytest.skip(f"needs {', '.join(modules)}: pip install -e '.[real]', or let .ci/run do it")
    return sys.executable


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return where the model is; the first server writes it."""
    for module in ("xllamacpp", "gguf", "numpy"):
        pytest.importorskip(module, reason=f"{module} has no wheel for this machine")
    return tmp_path_factory.mktemp("llama") / "tiny.gguf"


@pytest.fixture(scope="session")
def llama(model: Path) -> Iterator[Llama]:
    """Serve the model for all tests."""
    server = Llama(model)
    server.start()
    yield server
    server.kill()


@pytest.fixture
def own_llama(llama: Llama, model: Path) -> Iterator[Llama]:
    """Serve the model for one test, which may kill the server."""
    server = Llama(model)
    server.start()
    yield server
    server.kill()
