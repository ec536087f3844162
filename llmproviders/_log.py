"""The library's logger, which says nothing unless its user configures logging."""

from __future__ import annotations

import logging

logger = logging.getLogger("llmproviders")

logger.addHandler(logging.NullHandler())
