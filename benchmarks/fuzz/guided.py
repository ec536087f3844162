"""One target under atheris, which is guided by the coverage of the library's code."""

from __future__ import annotations

import logging
import sys

import atheris

with atheris.instrument_imports(include=["llmproviders"]):
    from tests.fuzz.targets import BY_NAME

if __name__ == "__main__":
    logging.disable()
    program, target, *options = sys.argv
    atheris.Setup([program, *options], BY_NAME[target].run)
    atheris.Fuzz()
