"""Prompts that come in, a reply's file that goes out, and the lock that keeps two runs apart."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from .._files import replace
from .exits import CommandError, Exit


def read_prompt(argument: str | None) -> str:
    """The prompt: an argument, standard input, or the one with the other below it.

    Args:
        argument: what stands on the command line; None or ``-`` is standard input alone.
    """
    if argument is None or argument == "-":
        if sys.stdin.isatty():
            click.echo("Type the prompt; end it with Ctrl-D (Windows: Ctrl-Z, Enter).", err=True)
        return _read_stdin()
    prompt = decoded(argument)
    piped = _read_stdin() if _is_piped() else ""
    return f"{prompt}\n\n{piped}" if piped.strip() else prompt


def decoded(argument: str) -> str:
    """An argument's text in UTF-8, whatever the locale took it for."""
    try:
        return os.fsencode(argument).decode("utf-8")
    except UnicodeError:
        return argument


def _is_piped() -> bool:
    """Whether standard input is a file or another program's output; /dev/null is neither."""
    try:
        mode = os.fstat(0).st_mode
    except OSError:
        return False
    return stat.S_ISREG(mode) or stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)


def _read_stdin() -> str:
    try:
        return sys.stdin.buffer.read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise click.UsageError(
            f"standard input is not UTF-8 (byte {error.start}); convert it, for instance: "
            "iconv -f CP1251 -t UTF-8"
        ) from None


def check_place(path: str) -> None:
    """Look whether a file can be written, before anything is asked.

    Raises:
        click.UsageError: it could never be written.
    """
    real = Path(os.path.realpath(path))
    if real.is_dir():
        raise click.UsageError(f"{path} is a folder; name a file")
    if not real.parent.is_dir():
        raise click.UsageError(f"there is no folder {real.parent}; make it first")
    if not os.access(real.parent, os.W_OK):
        raise click.UsageError(f"the folder {real.parent} cannot be written to")


class WholeFile:
    """A file that is written whole or not at all; until then the old one stays.

    Args:
        path: the file; a device or a pipe is written as it is.

    Raises:
        click.UsageError: it could never be written.
    """

    def __init__(self, path: str) -> None:
        check_place(path)
        self._path = Path(os.path.realpath(path))

    def write(self, text: str) -> None:
        """Put ``text`` in the file's place."""
        data = text.encode("utf-8", errors="backslashreplace")
        if self._path.exists() and not self._path.is_file():
            self._path.write_bytes(data)
            return
        replace(self._path, data, mode=self._mode())

    def _mode(self) -> int:
        if self._path.exists():
            return stat.S_IMODE(self._path.stat().st_mode)
        umask = os.umask(0)
        os.umask(umask)
        return 0o666 & ~umask


@contextmanager
def locked(path: str | None) -> Iterator[None]:
    """Hold the lock in the file ``path``; None holds nothing.

    Raises:
        CommandError: another run holds it.
        click.UsageError: it could never be held.
    """
    if path is None:
        yield
        return
    from filelock import FileLock, Timeout

    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise CommandError(f"another run holds the lock {path}", Exit.TRY_LATER) from None
    except OSError as error:
        raise click.UsageError(f"the lock {path} cannot be made: {error.strerror}") from None
    try:
        yield
    finally:
        lock.release()
