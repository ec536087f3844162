"""A clock that is set while a call runs."""

from __future__ import annotations

from llmproviders._runtime.scope import SYSTEM_CLOCK, SystemClock

YEAR_S = 365 * 24 * 3600.0


class Jumping(SystemClock):
    """A clock whose wall time is off by ``by`` seconds."""

    def __init__(self) -> None:
        self.by = 0.0

    def wall(self) -> float:  # type: ignore[override]
        """Unix time in seconds, more or less."""
        return SYSTEM_CLOCK.wall() + self.by
