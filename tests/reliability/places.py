"""Places where a file cannot be: each is made in a folder, and returned."""

from __future__ import annotations

import os
from pathlib import Path

NAME = "file.json"


def in_a_file(folder: Path) -> Path:
    """Below what is no folder."""
    (folder / "plain").write_text("not a folder")
    return folder / "plain" / NAME


def in_proc(folder: Path) -> Path:
    """Where the system lets nobody make a file."""
    return Path("/proc/llmproviders") / NAME


def a_folder(folder: Path) -> Path:
    """Where a folder is."""
    (folder / NAME).mkdir()
    return folder / NAME


def a_pipe(folder: Path) -> Path:
    """Where a pipe is, which whoever opens it would wait at."""
    os.mkfifo(folder / NAME)
    return folder / NAME
