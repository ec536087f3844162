"""PyInstaller runs this file where a program imports ``llmproviders``."""

from __future__ import annotations

from PyInstaller.utils.hooks import collect_submodules, copy_metadata

# Providers and commands are imported by name when they are first used.
hiddenimports = collect_submodules("llmproviders")

# Entry points of other packages, and the versions that ``doctor`` tells, are read from it.
datas = copy_metadata("llmproviders", recursive=True)
