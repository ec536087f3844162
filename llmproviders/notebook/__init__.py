"""Replies in a notebook: ``show``, and the magics of ``%load_ext llmproviders``.

Works in plain scripts and terminals, too, where it writes to standard output. IPython is met only
in this package, and only where it runs already.
"""

from __future__ import annotations

from ._chosen import use
from ._show import show

__all__ = ["show", "use"]
