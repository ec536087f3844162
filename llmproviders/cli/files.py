"""Prompts that come in, a reply's file that goes out, and the lock that keeps two runs apart."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from .._runtime import files as _files
from .._runtime.scope import CancelScope
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
    """Look whether a file can be written beside others, before anything is asked.

    Raises:
        click.UsageError: it could never be written.
    """
    with _telling(path):
        place = _files.target_of(path)
        if isinstance(place, Path) and (place.is_dir() or not place.exists()):
            _files.opened_in_place(place)
        if isinstance(place, Path) and place.is_file():
            _files.check_folder(place.parent)


@contextmanager
def _telling(path: str) -> Iterator[None]:
    """Make wrong usage of what the system says about an output."""
    try:
        yield
    except _files.Unusable as trouble:
        raise click.UsageError(str(trouble)) from trouble
    except IsADirectoryError as error:
        raise click.UsageError(f"{path} is a folder; name a file") from error
    except (FileNotFoundError, NotADirectoryError) as error:
        folder = Path(os.path.realpath(path)).parent
        raise click.UsageError(f"there is no folder {folder}; make it first") from error
    except OSError as error:
        raise click.UsageError(f"{path} cannot be written: {error.strerror}") from error


class WholeFile:
    """A file that is written whole or not at all; until then the old one stays.

    What cannot be replaced is opened at once, and written in place: a pipe, a terminal, an open
    descriptor such as ``/dev/stdout``, another user's file, a file in a closed folder.

    Args:
        path: the file.

    Attributes:
        path: the same.

    Raises:
        click.UsageError: it could never be written.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        with _telling(path):
            self._place = _files.target_of(path)
            if isinstance(self._place, int):
                self._descriptor: int | None = os.dup(self._place)
                # To write nothing is an error where nothing can be written.
                os.write(self._descriptor, b"")
            else:
                self._descriptor = _files.opened_in_place(self._place)

    def write(self, text: str) -> None:
        """Put ``text`` in the file's place; once.

        Raises:
            OSError: it cannot be written; a file that can be replaced is as it was.
        """
        data = text.encode("utf-8", errors="backslashreplace")
        if self._descriptor is None:
            assert isinstance(self._place, Path)
            _files.replace(
                self._place, lambda file: file.write(data), mode=self._mode(), in_place=True
            )
            return
        with open(self._descriptor, "wb") as file:
            if isinstance(self._place, int):
                file.write(data)
            else:
                _files.overwrite(file, lambda file: file.write(data))

    def _mode(self) -> int:
        assert isinstance(self._place, Path)
        if self._place.exists():
            return stat.S_IMODE(self._place.stat().st_mode)
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
    try:
        held = _files.try_lock(Path(path), CancelScope())
    except _files.Unusable as trouble:
        raise click.UsageError(f"the lock cannot be made: {trouble}") from trouble
    if held is None:
        raise CommandError(f"another run holds the lock {path}", Exit.TRY_LATER)
    with held:
        yield
