"""The output of a batch: locked, and without the rows that must be done again."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from .._runtime import files as _files
from .._runtime.files import Unusable
from .._runtime.scope import CancelScope
from .._signals import let_through
from ..errors import InvalidRequestError
from ._input import Digests, Input, id_digest, pair_digest


class BatchLocked(RuntimeError):  # noqa: N818 - named like the other errors
    """Another run is writing the same output."""


def target_of(output: str | os.PathLike[str]) -> str:
    """The file that ``output`` names, with links followed.

    Raises:
        InvalidRequestError: it is a link of another user, who would choose the file that is
            written; or a pipe, a device or a folder, which a rerun could not read.
    """
    try:
        place = _files.target_of(output)
    except Unusable as trouble:
        raise InvalidRequestError(str(trouble)) from trouble
    if isinstance(place, int) or (place.exists() and not place.is_file()):
        raise InvalidRequestError(
            f"{os.fspath(output)} is not a regular file, so a rerun could not read it; choose "
            "another output"
        )
    return str(place)


@contextlib.contextmanager
def locked(output: str) -> Iterator[None]:
    """Hold the lock file beside ``output``; the system releases it when the process dies.

    Raises:
        BatchLocked: another run holds it.
        OSError: nothing can be locked there.
    """
    place = Path(output)
    if not place.parent.is_dir():
        raise FileNotFoundError(
            errno.ENOENT, "the output's folder does not exist", str(place.parent)
        )
    try:
        held = _files.try_lock(_files.beside(place, ".{}.lock"), CancelScope())
    except Unusable as trouble:
        raise OSError(f"the output cannot be locked: {trouble}") from trouble
    if held is None:
        raise BatchLocked(
            f"another run is writing {output}; wait until it ends, or choose another output"
        )
    with held:
        yield


@contextlib.contextmanager
def appending(output: str) -> Iterator[Callable[[bytes], None]]:
    """Append to a file: each row is handed to the system at once, and all to the disk in the end.

    Raises:
        OSError: it cannot be written; the error names it.
    """
    rows = open(output, "ab")  # noqa: SIM115 - closed below, where an error is named

    def append(row: bytes) -> None:
        with _naming(output):
            rows.write(row)
            rows.flush()

    try:
        yield append
        with _naming(output):
            os.fsync(rows.fileno())
    finally:
        with _naming(output):
            rows.close()


@contextlib.contextmanager
def _naming(output: str) -> Iterator[None]:
    """Name the file in a system error, which a full disk's does not."""
    try:
        yield
    except OSError as error:
        let_through(error)
        error.filename = output
        raise


class Finished:
    """The rows of earlier runs that are kept.

    Torn and failed rows are dropped, as are rows whose request has changed, and a second row of
    the same id. Rows of requests that are no longer in the input are kept.

    Args:
        output: the file; it need not exist.
        asked: the requests of this run.

    Attributes:
        pairs: the id and the request hash of each row that is kept.

    Raises:
        InvalidRequestError: the file is not the output of a batch.
    """

    def __init__(self, output: str, asked: Input) -> None:
        self._output = output
        self._asked = asked
        self._all_stand = True
        self.pairs = Digests()
        if os.path.exists(output):
            self._survey()

    def _survey(self) -> None:
        ids = Digests()
        for line, row in self._rows():
            pair = None if row is None else self._pair_if_kept(row)
            if row is None or pair is None:
                self._all_stand = False
                continue
            ids.add(id_digest(row["id"]))
            self.pairs.add(pair)
            if not line.endswith(b"\n"):
                self._all_stand = False
        self._repeated = ids.repeated()
        if self._repeated:
            self._all_stand = False

    def _rows(self) -> Iterator[tuple[bytes, dict[str, Any] | None]]:
        with open(self._output, "rb") as rows:
            for number, line in enumerate(rows, 1):
                yield line, _row_in(line, f"line {number} of {self._output}")

    def _pair_if_kept(self, row: dict[str, Any]) -> int | None:
        if row["error"] is not None:
            return None
        pair = pair_digest(row["id"], row["request_hash"])
        if pair in self._asked.pairs or id_digest(row["id"]) not in self._asked.ids:
            return pair
        return None

    def keep(self) -> None:
        """Rewrite the file with these rows only, atomically if it can be replaced."""
        if self._all_stand:
            return
        output = Path(self._output)
        with _naming(self._output):
            _files.replace(
                output,
                self._write_kept,
                mode=stat.S_IMODE(output.stat().st_mode),
                in_place=True,
                scratch=_files.beside(output, ".{}.new"),
            )

    def _write_kept(self, kept: BinaryIO) -> None:
        seen = set()
        for line, row in self._rows():
            if row is None or self._pair_if_kept(row) is None:
                continue
            own = id_digest(row["id"])
            if own in self._repeated:
                if own in seen:
                    continue
                seen.add(own)
            kept.write(line if line.endswith(b"\n") else line + b"\n")


def _row_in(line: bytes, where: str) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        let_through(error)
        # A crash tears a row, and a power failure may leave zeros in its place.
        if line.strip(b"\0\r\n")[:1] in (b"", b"{"):
            return None
        row = None
    if (
        isinstance(row, dict)
        and row.keys() >= {"id", "error", "request_hash"}
        and isinstance(row["id"], (str, int, type(None)))
    ):
        return row
    raise InvalidRequestError(f"{where} is not a row of a batch; choose another output")
