"""Replies in a notebook: ``show``, and the magics of ``%load_ext llmproviders``.

Plain scripts and terminals work too: there the text goes to standard output. IPython is used only
where it is already running.
"""

from __future__ import annotations

from ._show import show, use

__all__ = ["show", "use"]
