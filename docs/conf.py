"""The settings of Sphinx."""

from __future__ import annotations

import inspect
from types import ModuleType
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util import logging

import llmproviders
from llmproviders import batch, conversation, notebook, sandbox, testing

project = "llmproviders"
author = "llmproviders authors"
copyright = f"2026, {author}"
version = release = llmproviders.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinx_design",
]
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 2  # links to headings, as GitHub makes them
# If there is a prompt, only the text after it is copied.
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
copybutton_line_continuation_character = "\\"
exclude_patterns = ["_build"]
nb_execution_mode = "off"  # docs/run_notebooks.py does that, and a test checks it
smartquotes = False  # error messages and commands have straight quotes
html_theme = "furo"
html_title = f"llmproviders {release}"
autodoc_typehints = "description"
napoleon_use_ivar = True
autodoc_typehints_description_target = "documented_params"
nitpicky = True
# References to other projects' documentation would need the network, and annotations name types
# that are described where they are used. References in the text have to exist.
nitpick_ignore_regex = [
    (
        "py:.*",
        r"(collections|concurrent|contextlib|datetime|os|pathlib|requests|ssl|tenacity|threading|typing_extensions)\..*",
    ),
    ("py:class", r"\w+|llmproviders\..*"),
]
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_js_files = ["site.js"]

logger = logging.getLogger(__name__)

BY_HAND = {"Before", "Behaviour", "Handler", "Script", "FRAMINGS"}
BY_HAND |= {"Read", "Wait", "Pause", "Stall", "Reset", "Close"}
"""Names for annotations, and names that are described by hand or in one line."""

PUBLIC: dict[ModuleType, list[str]] = {
    llmproviders: llmproviders.__all__,
    batch: batch.__all__,
    notebook: notebook.__all__,
    sandbox: sandbox.__all__,
    conversation: ["Conversation"],
    testing: [name for name in testing.__all__ if name not in BY_HAND],
}


def setup(app: Sphinx) -> None:
    """Have Sphinx report names missing from the reference, and show what errors share once."""
    app.connect("env-check-consistency", check_reference)
    app.connect("autodoc-process-docstring", leave_out_tree)
    app.connect("autodoc-process-signature", shorten)
    app.connect("doctree-read", draw_dashes)


def shorten(*event: Any) -> tuple[str, None] | None:
    """Leave out the arguments of errors that have the same ones as ``LLMError``."""
    _, what, _, value, *_ = event
    inherits = what == "exception" and value is not llmproviders.LLMError
    return ("", None) if inherits and value.__init__ is llmproviders.LLMError.__init__ else None


def leave_out_tree(*event: Any) -> None:
    """Leave out the tree of errors, which the page about them has itself."""
    _, _, name, *_, lines = event
    if name == "llmproviders.errors":
        lines.clear()


def draw_dashes(_: Sphinx, document: nodes.document) -> None:
    """Put a dash between an argument and its description, where Sphinx puts two hyphens."""
    for text in [text for text in document.findall(nodes.Text) if text == " -- "]:
        text.parent.replace(text, nodes.Text(" \N{EN DASH} "))


def check_reference(_: Sphinx, env: BuildEnvironment) -> None:
    """Warn about each public name or method that no page describes."""
    described = set(env.get_domain("py").objects)
    for module, names in PUBLIC.items():
        for name in names:
            value = getattr(module, name)
            for member in ["", *_methods(value)]:
                if described.isdisjoint(place + member for place in _places(module, value)):
                    logger.warning("%s.%s%s is not in the reference", module.__name__, name, member)


def _methods(value: Any) -> list[str]:
    if not inspect.isclass(value):
        return []
    # described at Provider, for authors
    inner = ("answer", "generate", "credential_digest", "identity", "check_supported")
    inner += ("chat_params", "how_to_send")
    return [
        f".{name}"
        for name, method in inspect.getmembers(value, inspect.isroutine)
        # Another name of a method is an old one, for providers that still use it.
        if name == getattr(method, "__name__", None)
        and name[0] != "_"
        and name not in inner
        and _is_own(method)
    ]


def _places(module: ModuleType, value: Any) -> list[str]:
    """The names under which an object, or the one it inherits from, may be described."""
    classes = value.__mro__ if inspect.isclass(value) else (value,)
    homes = [f"{_public(each.__module__)}.{each.__qualname__}" for each in classes if _is_own(each)]
    return [f"{module.__name__}.{value.__name__}", *homes]


def _public(module: str) -> str:
    """The public package from which a name in a private module is imported."""
    return ".".join(part for part in module.split(".") if not part.startswith("_"))


def _is_own(value: Any) -> bool:
    return str(getattr(value, "__module__", "")).startswith("llmproviders")
