"""Run every benchmark: ``python -m benchmarks [--short]``; arguments go to each of them.

A benchmark is a package beside this file with its own ``__main__``.
"""

from __future__ import annotations

import pkgutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def main(arguments: list[str]) -> int:
    """Run the benchmarks one after another, each in its own process."""
    failed = []
    for module in pkgutil.iter_modules([str(HERE)]):
        if not (HERE / module.name / "__main__.py").exists():
            continue
        print(f"== {module.name}", flush=True)
        command = [sys.executable, "-m", f"benchmarks.{module.name}", *arguments]
        if subprocess.run(command, check=False, cwd=HERE.parent).returncode != 0:
            failed.append(module.name)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
