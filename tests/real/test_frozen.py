"""The package in a program that PyInstaller made, in a zip file, and in a folder of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import zipapp
from pathlib import Path

import pytest

from tests.test_packaging import wheel_path

__all__ = ["wheel_path"]

PROGRAM = """
import sys
from llmproviders.cli import main
sys.exit(main())
"""


def installed(wheel: Path, folder: Path) -> Path:
    """Install the wheel, and nothing that it needs, into a folder of its own."""
    place = folder / "installed"
    options = ["--quiet", "--no-deps", "--no-index", "--no-warn-script-location"]
    command = [sys.executable, "-m", "pip", "install", *options, "--target", str(place), str(wheel)]
    subprocess.run(command, check=True)
    return place


def works(*command: str, environ: dict[str, str] | None = None) -> None:
    """Check that the program knows its providers, and runs the whole demonstration."""
    for arguments, expected in (
        (["providers"], "YandexGPT"),
        (["demo"], "That's it"),
        (["doctor", "--offline"], "certifi "),
    ):
        ended = subprocess.run(
            [*command, *arguments],
            cwd="/",
            env={**os.environ, **(environ or {})},
            capture_output=True,
            text=True,
        )
        assert expected in ended.stdout, ended.stdout + ended.stderr
        assert "Traceback" not in ended.stderr


@pytest.mark.real_programs
def test_pyinstaller(real_python: str, wheel_path: Path, tmp_path: Path) -> None:
    """A program that PyInstaller made has every provider and command, without any option."""
    place = installed(wheel_path, tmp_path)
    (tmp_path / "ask.py").write_text(PROGRAM)
    subprocess.run(
        [real_python, "-m", "PyInstaller", "--log-level", "ERROR", "ask.py"],
        cwd=tmp_path,
        # Where packages stand beside it that this one needs.
        env={**os.environ, "PYTHONPATH": str(place)},
        check=True,
    )
    works(str(tmp_path / "dist" / "ask" / "ask"))


def test_zipapp(wheel_path: Path, tmp_path: Path) -> None:
    """It runs from a zip file, which has no folders that it could look into."""
    place = installed(wheel_path, tmp_path)
    zipapp.create_archive(place, tmp_path / "ask.pyz", main="llmproviders.cli:main")
    works(sys.executable, str(tmp_path / "ask.pyz"))


def test_target(wheel_path: Path, tmp_path: Path) -> None:
    """It runs from where ``pip install --target`` has put it."""
    place = installed(wheel_path, tmp_path)
    works(sys.executable, "-m", "llmproviders", environ={"PYTHONPATH": str(place)})
