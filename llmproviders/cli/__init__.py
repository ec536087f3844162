"""The command line: ``llmproviders COMMAND``, also ``python -m llmproviders``."""

from __future__ import annotations

import sys

from .overview import overview


def main(arguments: list[str] | None = None) -> int:
    """Run a command and return its exit code, one of :class:`.exits.Exit`.

    Args:
        arguments: the arguments after the program's name; None: those of the process.
    """
    given = sys.argv[1:] if arguments is None else arguments
    if given in (["--help"], ["-h"]) and sys.stdout is not None:
        # The most frequent question is answered without loading anything.
        try:
            print(overview(), end="", flush=True)
        except OSError as error:
            from .run import stdout_failed

            return stdout_failed(error)
        return 0
    try:
        from .run import run
    except KeyboardInterrupt:
        return 130
    return run(given)
