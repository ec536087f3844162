"""The settings of Sphinx."""

from __future__ import annotations

import llmproviders

project = "llmproviders"
author = "llmproviders authors"
copyright = f"2026, {author}"
version = release = llmproviders.__version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
nb_execution_mode = "off"  # docs/run_notebooks.py does that, and a test looks whether it did
html_theme = "furo"
html_title = f"llmproviders {release}"
autodoc_typehints = "description"
nitpicky = True
# References to other projects' documents would need the network, and annotations name types that
# are described where they are used; what the text itself refers to has to exist.
nitpick_ignore_regex = [
    ("py:.*", r"(collections|concurrent|contextlib|os|pathlib|requests|tenacity|threading)\..*"),
    ("py:class", r"\w+|llmproviders\..*"),
]
html_static_path = ["_static"]
