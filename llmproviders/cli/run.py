"""Runs a command in a process: its streams, its signals, its last words, its exit code."""

from __future__ import annotations

import errno
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from types import FrameType
from typing import Any, NoReturn

import click

from .. import _environ
from .._redact import redact, scrub
from ..config import ConfigError
from ..errors import LLMError
from .exits import CommandError, Exit, exit_of_error
from .group import PROGRAM, group
from .notes import say, show_logs, usual_level

_COMPLETE = "_LLMPROVIDERS_COMPLETE"


def run(arguments: Sequence[str]) -> int:
    """Run the command line ``arguments`` and return its exit code; nothing is raised."""
    speak_utf8()
    show_logs(usual_level())
    signal.signal(signal.SIGTERM, _terminated)
    try:
        code = _run(arguments)
        sys.stdout.flush()
    except BrokenPipeError:
        return reader_left()
    except KeyboardInterrupt:
        return Exit.INTERRUPTED
    except SystemExit as ending:
        return ending.code if isinstance(ending.code, int) else Exit.UNEXPECTED
    except OSError as error:
        if error.errno == errno.EPIPE:
            return reader_left()
        say(f"{error.strerror or error}" + (f": {error.filename}" if error.filename else ""))
        return Exit.UNEXPECTED
    except Exception as error:  # noqa: BLE001 - whatever it is, it has an exit code
        scrub(error)
        say(redact(f"unexpected error\n{traceback.format_exc()}"))
        return Exit.UNEXPECTED
    return code


def _run(arguments: Sequence[str]) -> int:
    instruction = _environ.lookup(_COMPLETE)
    if instruction is not None:
        from click.shell_completion import shell_complete

        return shell_complete(group, {}, PROGRAM, _COMPLETE, instruction)
    try:
        with group.make_context(PROGRAM, list(arguments)) as context:
            returned: Any = group.invoke(context)
    except click.exceptions.Exit as ending:
        return ending.exit_code
    except click.ClickException as error:
        error.show()
        return Exit.USAGE
    except ConfigError as error:
        say(str(error))
        return Exit.USAGE
    except CommandError as error:
        say(str(error))
        return error.code
    except LLMError as error:
        say(str(error))
        return exit_of_error(error)
    return int(returned or 0)


def speak_utf8() -> None:
    """Read and write UTF-8, whatever the locale says."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            # Closed by whoever started the process: what is written goes nowhere.
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115
        errors = "replace" if mode == "r" else "backslashreplace"
        getattr(sys, name).reconfigure(encoding="utf-8", errors=errors)


def _terminated(_number: int, _frame: FrameType | None) -> NoReturn:
    raise SystemExit(int(Exit.TERMINATED))


def reader_left() -> int:
    """Whoever read the output has gone: end as every other tool does, without a word."""
    sink = os.open(os.devnull, os.O_WRONLY)
    os.dup2(sink, 1)
    if hasattr(signal, "SIGPIPE"):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        signal.raise_signal(signal.SIGPIPE)
    return Exit.UNEXPECTED
