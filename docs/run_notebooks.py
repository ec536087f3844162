"""Runs the notebooks on the sandbox, so that their outputs match the code.

``python docs/run_notebooks.py`` updates their outputs.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).parent / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
LONGEST_CELL_S = 120

_PICTURE = re.compile(r"<svg.*?</svg>", re.DOTALL)
_NUMBER = re.compile(r"\d[\d,.:]*")
_BARS = re.compile(r"[^\n]*[╱░█◆─├][^\n]*")
_UNIT = re.compile(r"0 m?s\b")


def executed(path: Path) -> Any:
    """Run the notebook in a file and return it with its new outputs.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell failed.
    """
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(
        notebook, timeout=LONGEST_CELL_S, kernel_name="python3", coalesce_streams=True
    ).execute()
    notebook.metadata = {
        "kernelspec": notebook.metadata["kernelspec"],
        "language_info": {"name": "python", "pygments_lexer": "ipython3"},
    }
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
    return notebook


def comparable(notebook: Any) -> list[list[str]]:
    """Return the output of each cell, without times and the lengths of bars."""
    return [
        [_without_times(text) for output in cell.get("outputs", ()) for text in _texts(output)]
        for cell in notebook.cells
    ]


def _texts(output: Any) -> list[str]:
    if output["output_type"] == "stream":
        return [f"{output['name']}: {output['text']}"]
    data = output.get("data", {})
    kinds = [kind for kind in ("text/html", "text/markdown", "text/plain") if kind in data]
    return [f"{kind}: {data[kind]}" for kind in kinds[:1]]


def _without_times(text: str) -> str:
    text = _BARS.sub("(bars)", _PICTURE.sub("(picture)", text))
    return _UNIT.sub("0 s", _NUMBER.sub("0", text))


if __name__ == "__main__":
    for path in NOTEBOOKS:
        nbformat.write(executed(path), path)
