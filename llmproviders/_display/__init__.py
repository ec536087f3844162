"""Text, tables and pictures for people; knows no other part of the package.

A door: each module is loaded when it is first used, since most programs draw nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from . import html as html
    from . import markdown as markdown
    from . import text as text
    from . import timeline as timeline


def __getattr__(name: str) -> object:
    if name in ("html", "markdown", "text", "timeline"):
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
