"""Read prompts, write a reply's file, and lock out a second run."""

from __future__ import annotations

import json
import os
import re
import select
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from .._runtime import files as _files
from .._runtime.scope import SLICE_S, CancelScope, in_slices
from ..errors import retold
from .exits import CommandError, Exit
from .notes import Notes

_MOMENT_S = 1.0

_READ_SIZE = 1024 * 1024


def read_prompt(
    argument: str | None, scope: CancelScope, *, with_stdin: bool | None, notes: Notes
) -> str:
    """Read the prompt: an argument, standard input, or both, with standard input below.

    A prompt argument may be in a script whose standard input belongs to another program, so only
        available input is added, unless the caller asks for all of it: a file from its beginning,
        or a pipe that has data or ends within a second.

    Args:
        argument: the command-line argument; None or ``-`` means standard input only.
        scope: until when standard input may be read.
        with_stdin: whether to add standard input to ``argument``: True waits for its end, and
            requires that it has text; None adds what is available.
        notes: gets a message about what was read, or why nothing was.

    Raises:
        DeadlineExceeded: the deadline passed before standard input ended.
        CommandError: standard input cannot be read, is not UTF-8, or is empty but required.
    """
    typed = None if argument == "-" else argument
    if (typed is None or with_stdin) and sys.stdin.isatty():
        click.echo("Type the prompt; end it with Ctrl-D (Windows: Ctrl-Z, Enter).", err=True)
    if typed is not None and not (_is_meant(notes, scope) if with_stdin is None else with_stdin):
        return typed
    piped = _read_stdin(scope)
    if with_stdin and not piped.strip():
        raise CommandError(
            "standard input is empty; if a command was to write it, see whether that failed",
            Exit.USAGE,
        )
    if typed is None:
        return piped
    notes.detail(
        f"standard input was added to the prompt: {len(piped):,} characters; "
        "--no-stdin leaves it alone"
    )
    return f"{typed}\n\n{piped}" if piped.strip() else typed


def _is_meant(notes: Notes, scope: CancelScope) -> bool:
    """Whether standard input belongs to the prompt argument; /dev/null never does."""
    try:
        descriptor = sys.stdin.fileno()
        mode = os.fstat(descriptor).st_mode
        os.read(descriptor, 0)  # fails where it was opened for writing, as nohup does
        if stat.S_ISREG(mode):
            if not os.lseek(descriptor, 0, os.SEEK_CUR):
                return True
            notes.detail(
                "standard input was left alone: another program has begun to read this file"
            )
            return False
    except OSError:
        return False
    if not (stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)):
        return False
    if _is_script(descriptor):
        notes.detail("standard input was left alone: a shell reads its script from it")
        return False
    if _has_input(descriptor, min(_MOMENT_S, scope.remaining())):
        return True
    notes.warn(
        "standard input was left alone: nothing came within a second; --stdin waits for it, "
        "--no-stdin leaves it alone without a word"
    )
    return False


_SHELL = re.compile(rb"-?(?:.*/)?[a-z]*sh\d*")


def _is_script(descriptor: int) -> bool:
    """Whether a shell above this process reads its script from the same pipe.

    ``%%bash`` in a notebook and ``curl ... | bash`` do so. Without ``/proc`` this is unknown.
    """
    ours, pid = os.fstat(descriptor), os.getppid()
    try:
        while os.path.samestat(os.stat(f"/proc/{pid}/fd/0"), ours):
            name, *arguments = Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").split(b"\0")
            if _SHELL.fullmatch(name) and _names_no_script(arguments):
                return True
            pid = int(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[1])
    except (OSError, ValueError):
        pass
    return False


def _names_no_script(arguments: list[bytes]) -> bool:
    """Whether a shell with these arguments takes its commands from standard input."""
    left = iter(arguments)
    for argument in left:
        is_long = argument.startswith(b"--")
        if argument[:1] not in (b"-", b"+") or (not is_long and b"c" in argument):
            return False
        if not is_long and b"s" in argument:
            return True
        if not is_long and argument.endswith((b"o", b"O")):
            next(left, None)
    return True


def _has_input(descriptor: int, seconds: float) -> bool:
    """Whether a pipe has data or ends within the given seconds."""
    if os.name == "nt":  # select() only takes sockets there
        return True
    return in_slices(lambda left: select.select([descriptor], [], [], left)[0], seconds)


def _read_stdin(scope: CancelScope) -> str:
    descriptor, parts = sys.stdin.fileno(), []
    while True:
        # In slices: a signal that arrives just before a read is only handled when it returns.
        while not _has_input(descriptor, min(SLICE_S, scope.remaining())):
            if scope.over:
                raise retold(scope.error(), "the deadline passed before standard input ended")
        try:
            data = os.read(descriptor, _READ_SIZE)
        except OSError as error:
            message = f"standard input cannot be read: {error.strerror}"
            raise CommandError(message, Exit.USAGE) from error
        if not data:
            break
        parts.append(data)
    try:
        return b"".join(parts).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise CommandError(
            f"standard input is not UTF-8 (byte {error.start}); convert it, for instance with "
            "iconv -f CP1251 -t UTF-8, or drop stray bytes with iconv -c -f UTF-8 -t UTF-8",
            Exit.USAGE,
        ) from None


def read_schema(path: str) -> Any:
    """The JSON Schema in a file.

    Raises:
        CommandError: the file cannot be read, or is not a JSON object.
    """
    try:
        schema = json.loads(_files.read(path).decode("utf-8-sig"))
    except OSError as error:
        raise CommandError(f"{path} cannot be read: {error.strerror}", Exit.USAGE) from error
    except (ValueError, RecursionError) as error:
        raise CommandError(f"{path} is not JSON: {error}", Exit.USAGE) from error
    if not isinstance(schema, dict):
        raise CommandError(f"{path} is not a JSON Schema, which is an object", Exit.USAGE)
    return schema


def check_place(path: str) -> None:
    """Check, before anything is sent, that a file can be written.

    Raises:
        CommandError: it could never be written.
    """
    _refuse_folder(path)
    with _telling(path):
        place = _files.target_of(path)
        if isinstance(place, Path) and (place.is_dir() or not place.exists()):
            _files.opened_in_place(place)
        if isinstance(place, Path) and place.is_file():
            _files.check_folder(place.parent)


def _refuse_folder(path: str) -> None:
    # The path as given: pathlib drops a slash at the end.
    if path.endswith(("/", os.sep)) and not os.path.isdir(path):
        raise CommandError(f"{path} names a folder; name a file", Exit.USAGE)


@contextmanager
def _telling(path: str) -> Iterator[None]:
    """Turn system errors about an output file into errors of the command."""
    try:
        yield
    except _files.Unusable as trouble:
        raise CommandError(str(trouble), Exit.USAGE) from trouble
    except IsADirectoryError as error:
        raise CommandError(f"{path} is a folder; name a file", Exit.USAGE) from error
    except (FileNotFoundError, NotADirectoryError) as error:
        folder = Path(os.path.realpath(path)).parent
        message = f"there is no folder {folder}; make it first"
        raise CommandError(message, Exit.USAGE) from error
    except OSError as error:
        message = f"{path} cannot be written: {error.strerror}"
        raise CommandError(message, Exit.USAGE) from error


class WholeFile:
    """A file that is written completely or not at all; until then, the old one stays.

    Files that cannot be replaced are opened at once and written in place: a pipe, a terminal, an
        open descriptor such as ``/dev/stdout``, another user's file, or a file in a read-only
        folder.

    Args:
        path: the file.

    Attributes:
        path: the same.

    Raises:
        CommandError: it could never be written.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        _refuse_folder(path)
        with _telling(path):
            self._place = _files.target_of(path)
            if isinstance(self._place, int):
                self._descriptor: int | None = os.dup(self._place)
                # Writing nothing fails if the file is not writable.
                os.write(self._descriptor, b"")
            else:
                self._descriptor = _files.opened_in_place(self._place)

    def write(self, text: str) -> None:
        """Write ``text`` to the file; may be called once.

        Raises:
            OSError: it cannot be written; a file that can be replaced is unchanged.
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
    """Hold a lock on the file ``path``; None: no lock.

    Raises:
        CommandError: another run holds it, or it could never be held.
    """
    if path is None:
        yield
        return
    try:
        held = _files.try_lock(Path(path), CancelScope())
    except _files.Unusable as trouble:
        raise CommandError(f"the lock cannot be made: {trouble}", Exit.USAGE) from trouble
    if held is None:
        raise CommandError(f"another run holds the lock {path}", Exit.TRY_LATER)
    with held:
        yield
