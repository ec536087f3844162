"""Runs a command in a process: streams, signals, error messages and exit code."""

from __future__ import annotations

import errno
import io
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from types import FrameType
from typing import Any, NoReturn

import click

from .. import _environment as _environ
from .._redact import redact, scrub
from ..config._settings import ConfigError, NoProviderError
from ..errors import LLMError
from .arguments import decoded
from .exits import CommandError, Exit, exit_of_error
from .group import PROGRAM, group
from .notes import NO_STDOUT, note, say, show_logs, usual_level

_COMPLETE = "_LLMPROVIDERS_COMPLETE"


def run(arguments: Sequence[str]) -> int:
    """Run the command line ``arguments`` and return its exit code; nothing is raised."""
    speak_utf8()
    show_logs(usual_level())
    signal.signal(signal.SIGTERM, _terminated)
    # Under nohup, it should survive the terminal.
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:
        signal.signal(signal.SIGHUP, _terminated)
    try:
        code = _run(arguments)
        sys.stdout.flush()
    except (KeyboardInterrupt, SystemExit) as ending:
        return _code_of(ending)
    except OSError as error:
        return stdout_failed(error)
    except Exception as error:  # noqa: BLE001 - whatever it is, it has an exit code
        scrub(error)
        say(redact(f"unexpected error\n{traceback.format_exc()}"))
        return Exit.UNEXPECTED
    return code


def stdout_failed(error: OSError) -> int:
    """Report why standard output failed, and return the exit code."""
    _give_up_stdout()
    signalled = _ending_before(error)
    if signalled is not None:
        # For example, the terminal is gone, so the line cannot be ended.
        return _code_of(signalled)
    if error.errno == errno.EPIPE:
        return _reader_left()
    if error.filename is None and not sys.stdout.writable():
        say(NO_STDOUT)
    else:
        say(f"{error.strerror or error}" + (f": {error.filename}" if error.filename else ""))
    return Exit.UNEXPECTED


def _code_of(ending: BaseException) -> int:
    if isinstance(ending, SystemExit):
        return ending.code if isinstance(ending.code, int) else Exit.UNEXPECTED
    return Exit.INTERRUPTED


def _ending_before(error: BaseException) -> BaseException | None:
    """The exception of a signal, if ``error`` was raised while ending because of it."""
    link = error.__context__
    while link is not None and not isinstance(link, (KeyboardInterrupt, SystemExit)):
        link = link.__context__
    return link


def _run(arguments: Sequence[str]) -> int:
    instruction = _environ.lookup(_COMPLETE)
    if instruction is not None:
        from click.shell_completion import shell_complete

        return shell_complete(group, {}, PROGRAM, _COMPLETE, instruction)
    try:
        with group.make_context(PROGRAM, [*map(decoded, arguments)]) as context:
            returned: Any = group.invoke(context)
    except click.exceptions.Exit as ending:
        return ending.exit_code
    except click.ClickException as error:
        note(_usage(error))
        return Exit.USAGE
    except ConfigError as error:
        say(str(error))
        return Exit.CREDENTIALS if isinstance(error, NoProviderError) else Exit.USAGE
    except CommandError as error:
        say(str(error))
        return error.code
    except LLMError as error:
        say(str(error))
        return exit_of_error(error)
    return int(returned or 0)


def _usage(error: click.ClickException) -> str:
    """Click's message about wrong usage, with hints that it does not have."""
    with io.StringIO() as told:
        error.show(told)
        said = told.getvalue().rstrip("\n")
    context = error.ctx if isinstance(error, click.NoSuchOption) else None
    if context is not None and any(isinstance(p, click.Argument) for p in context.command.params):
        said += f"\nPut text that begins with a dash after --: {context.command_path} -- TEXT"
    return said


class _Unfailing(io.RawIOBase):
    """Standard error whose failures are ignored.

    Args:
        stream: where it is written to; kept, since its descriptor is closed with it.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._raw: io.RawIOBase = getattr(stream.buffer, "raw", stream.buffer)

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._raw.fileno()

    def isatty(self) -> bool:
        return self._raw.isatty()

    def write(self, data: Any) -> int | None:
        try:
            return self._raw.write(data)
        except OSError:
            return len(data)


def speak_utf8() -> None:
    """Read and write UTF-8, whatever the locale says.

    If the parent process closed them: standard input is empty, writing to standard output fails,
        and standard error is discarded.
    """
    for name, mode in (("stdin", "r"), ("stdout", "r"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115
        with suppress(OSError, AttributeError):
            # A parent may have left its end of a pipe non-blocking. Python would take a pause of
            # the writer for the end, and lose without an error what the reader is slow to take.
            os.set_blocking(getattr(sys, name).fileno(), True)
    for stream, errors in ((sys.stdin, "replace"), (sys.stdout, "backslashreplace")):
        stream.reconfigure(encoding="utf-8", errors=errors)  # type: ignore[union-attr]
    unfailing = io.BufferedWriter(_Unfailing(sys.stderr))
    sys.stderr = io.TextIOWrapper(
        unfailing, encoding="utf-8", errors="backslashreplace", line_buffering=True
    )


def _terminated(_number: int, _frame: FrameType | None) -> NoReturn:
    raise SystemExit(int(Exit.TERMINATED))


def _give_up_stdout() -> None:
    """Discard unwritten output, which Python would otherwise try to write again at exit."""
    sink = os.open(os.devnull, os.O_WRONLY)
    os.dup2(sink, 1)
    os.close(sink)


def _reader_left() -> int:
    """The reader of the output has left: exit silently, as other tools do."""
    if hasattr(signal, "SIGPIPE"):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        signal.raise_signal(signal.SIGPIPE)
    return Exit.UNEXPECTED
