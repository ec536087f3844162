"""Tells PyInstaller what a frozen program needs of this package, which imports much of it late."""

from __future__ import annotations

from pathlib import Path


def hook_dirs() -> list[str]:
    """Folders with hooks; PyInstaller finds this function by the entry point ``hook-dirs``."""
    return [str(Path(__file__).parent)]
