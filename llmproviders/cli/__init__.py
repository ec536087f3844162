"""The command line: ``llmproviders COMMAND``, also ``python -m llmproviders``."""

from __future__ import annotations

import sys
from contextlib import suppress

from .overview import overview


def main(arguments: list[str] | None = None) -> int:
    """Run a command and return its exit code, one of :class:`.exits.Exit`.

    Args:
        arguments: what stands behind the program's name; None: those of the process.
    """
    given = sys.argv[1:] if arguments is None else arguments
    if given in (["--help"], ["-h"]) and sys.stdout is not None:
        # What is asked most is told without loading anything; what fails is left to what does.
        with suppress(OSError):
            print(overview(), end="", flush=True)
            return 0
    try:
        from .run import run
    except KeyboardInterrupt:
        return 130
    return run(given)
