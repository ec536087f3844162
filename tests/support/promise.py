"""The promise of a stream, from ``llmproviders.testing``."""

from __future__ import annotations

from llmproviders.testing import Reading, read_stream

__all__ = ["Reading", "read"]

read = read_stream
