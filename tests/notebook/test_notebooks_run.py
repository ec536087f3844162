"""The notebooks of the documents run as they stand, and show what they show."""

from __future__ import annotations

import importlib.util
import re
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from llmproviders.sandbox import Sandbox

DOCS = Path(__file__).parents[2] / "docs"


def _runner() -> ModuleType:
    spec = importlib.util.spec_from_file_location("run_notebooks", DOCS / "run_notebooks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


RUNNER = _runner()
executed = cache(RUNNER.executed)

EVERY = pytest.mark.parametrize("path", RUNNER.NOTEBOOKS, ids=lambda path: path.stem)


def outputs(notebook: Any) -> list[Any]:
    """Every output of every cell."""
    return [output for cell in notebook.cells for output in cell.get("outputs", ())]


def test_the_notebooks_are_there() -> None:
    """There is a tour, and a task with data."""
    assert {"tour", "data"} <= {path.stem for path in RUNNER.NOTEBOOKS}


@EVERY
def test_they_run(path: Path) -> None:
    """Run from the top, no cell fails and nothing is written to standard error."""
    shown = outputs(executed(path))
    assert shown
    assert [output for output in shown if output["output_type"] == "error"] == []
    assert [output["text"] for output in shown if output.get("name") == "stderr"] == []


@EVERY
def test_their_outputs_are_fresh(path: Path) -> None:
    """What the file shows is what a run shows, but for times (``python docs/run_notebooks.py``)."""
    kept = nbformat.read(path, as_version=4)
    assert RUNNER.comparable(kept) == RUNNER.comparable(executed(path))


@EVERY
def test_they_show_pictures(path: Path) -> None:
    """Each has pictures of what happened, which a reader of the documents sees without running."""
    kept = nbformat.read(path, as_version=4)
    pages = [output.get("data", {}).get("text/html", "") for output in outputs(kept)]
    assert sum(page.count("<svg") for page in pages) >= 2


@EVERY
def test_they_speak_of_no_machine(path: Path) -> None:
    """No path of the machine on which they ran is in them."""
    assert not re.search(r"/(?:home|root|tmp|Users|work)/", path.read_text(encoding="utf-8"))


CACHED = """
import os
from llmproviders import Cached, ChatGLM, FailoverClient, FlowGpt, GigaChat, OpenAICompatible

KINDS = {"gigachat": GigaChat, "chatglm": ChatGLM, "flowgpt": FlowGpt, "openai": OpenAICompatible}

class sandbox:
    @staticmethod
    def client(*names, **arguments):
        return Cached(FailoverClient([KINDS[n]() for n in names], **arguments), "replies.db")

    fail = close = staticmethod(lambda *_, **__: None)

client = sandbox.client("gigachat", "chatglm", "flowgpt")
"""
"""In place of the tour's sandbox: one that outlives the kernel, its clients behind a cache."""


def test_the_tour_again_with_a_cache_sends_nothing(
    sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Run from the top in a new kernel, it shows the same replies, and no service hears of it."""
    for name, value in sandbox.environ().items():
        monkeypatch.setenv(name, value)
    shown = []
    for _ in range(2):
        notebook = nbformat.read(DOCS / "notebooks" / "tour.ipynb", as_version=4)
        first = next(cell for cell in notebook.cells if "Sandbox(" in cell.source)
        first.source = "from llmproviders import StreamInterrupted" + CACHED
        asked = len(sandbox.requests)
        resources = {"metadata": {"path": str(tmp_path)}}
        NotebookClient(
            notebook, timeout=RUNNER.LONGEST_CELL_S, kernel_name="python3", resources=resources
        ).execute()
        pages = (output.get("data", {}) for output in outputs(notebook))
        texts = (page["text/markdown"] for page in pages if "text/markdown" in page)
        shown.append([text.splitlines()[0] for text in texts if text])
        sent = len(sandbox.requests) - asked
    assert asked > 0
    assert sent == 0
    assert shown[0] == shown[1] != []


def test_the_page_about_notebooks_runs(
    sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cells that the how-to prints, pasted into a notebook from the top, do what they say."""
    page = (DOCS / "how-to" / "jupyter.md").read_text(encoding="utf-8")
    cells = re.findall(r"^```i?python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    # Nobody is there to type a key.
    cells = [cell for cell in cells if "getpass" not in cell]
    for name, value in sandbox.environ().items():
        monkeypatch.setenv(name, value)
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    NotebookClient(
        notebook,
        timeout=RUNNER.LONGEST_CELL_S,
        kernel_name="python3",
        resources={"metadata": {"path": str(tmp_path)}},
    ).execute()
    shown = {cell.source: cell.outputs for cell in notebook.cells}
    [magic] = [source for source in shown if source.startswith("%%llm ")]
    [reply] = shown[magic]
    assert "What do the columns ['age', 'dose', 'outcome']" in reply["data"]["text/markdown"]
    assert [o for outputs in shown.values() for o in outputs if o.get("name") == "stderr"] == []
    assert (tmp_path / "timeline.svg").read_text(encoding="utf-8").startswith("<svg")
