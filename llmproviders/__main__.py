"""``python -m llmproviders``: the same as the command ``llmproviders``."""

from __future__ import annotations

import sys

from .cli import main

sys.exit(main())
