"""One module for each service whose protocol the sandbox speaks."""

from __future__ import annotations
