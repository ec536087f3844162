"""The input of a batch: read once for what is in it, and again for the work."""

from __future__ import annotations

import contextlib
import heapq
import json
import os
import shutil
import tempfile
from array import array
from bisect import bisect_left
from collections.abc import Iterator
from hashlib import blake2b
from itertools import islice
from typing import IO

from ._rows import tasks_in
from ._task import Id, Task, duplicate, request_hash

_RUN = 1 << 16


def digest(*parts: str) -> int:
    """A number of 64 bits for ``parts``."""
    return int.from_bytes(blake2b("\0".join(parts).encode(), digest_size=8).digest(), "big")


class Digests:
    """Numbers of 64 bits, eight bytes each: first all are added, then they are looked up.

    >>> digests = Digests()
    >>> for word in ("a", "b", "a"):
    ...     digests.add(digest(word))
    >>> digest("b") in digests, digest("c") in digests, digests.repeated() == {digest("a")}
    (True, False, True)
    """

    def __init__(self) -> None:
        self._runs: list[array[int]] = []
        self._last = array("Q")

    def add(self, number: int) -> None:
        """Add one; the same one may be added again."""
        self._last.append(number)
        if len(self._last) == _RUN:
            self._end_run()

    def _end_run(self) -> None:
        self._runs.append(array("Q", sorted(self._last)))
        self._last = array("Q")

    def _sorted(self) -> array[int]:
        if self._last:
            self._end_run()
        if len(self._runs) != 1:
            self._runs = [array("Q", heapq.merge(*self._runs))]
        return self._runs[0]

    def __contains__(self, number: int) -> bool:
        numbers = self._sorted()
        place = bisect_left(numbers, number)
        return place < len(numbers) and numbers[place] == number

    def __iter__(self) -> Iterator[int]:
        return iter(self._sorted())

    def __len__(self) -> int:
        return sum(map(len, self._runs)) + len(self._last)

    def repeated(self) -> set[int]:
        """Those that were added more than once."""
        found = set()
        before = None
        for number in self:
            if number == before:
                found.add(number)
            before = number
        return found


@contextlib.contextmanager
def opened(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """Open a file to be read twice; a pipe is copied to a temporary file first."""
    with open(path, "rb") as stream:
        if stream.seekable():
            yield stream
            return
        with tempfile.TemporaryFile() as copy:
            shutil.copyfileobj(stream, copy)
            copy.seek(0)
            yield copy


class Input:
    """JSON lines of requests.

    Args:
        stream: opened for reading bytes, and seekable.
        hashes: whether the requests' hashes are wanted.

    Attributes:
        ids: of every request.
        pairs: an id with the hash of its request, of every valid one, where hashes are wanted.

    Raises:
        InvalidRequestError: an id stands twice.
    """

    def __init__(self, stream: IO[bytes], *, hashes: bool) -> None:
        self._stream = stream
        self.ids = Digests()
        self.pairs = Digests()
        self._lines = 0
        for task in tasks_in(self._counted()):
            self.ids.add(id_digest(task.id))
            if hashes and task.request is not None:
                self.pairs.add(pair_digest(task.id, request_hash(task.request)))
        self._refuse_duplicates(self.ids.repeated())

    def __len__(self) -> int:
        return len(self.ids)

    def _counted(self) -> Iterator[bytes]:
        for line in self._stream:
            self._lines += 1
            yield line

    def tasks(self) -> Iterator[Task]:
        """Every task, from the start; lines that came later are not read."""
        self._stream.seek(0)
        return tasks_in(islice(self._stream, self._lines))

    def _refuse_duplicates(self, suspects: set[int]) -> None:
        if not suspects:
            return
        first_lines: dict[Id, int] = {}
        for task in self.tasks():
            if id_digest(task.id) in suspects:
                line = task.index + 1
                if task.id in first_lines:
                    raise duplicate(task.id, first_lines[task.id], line)
                first_lines[task.id] = line


def id_digest(own_id: Id) -> int:
    """A number for an id; the string of a number is another id than the number."""
    return digest(json.dumps(own_id))


def pair_digest(own_id: Id, hashed: str) -> int:
    """A number for an id with the hash of its request."""
    return digest(json.dumps(own_id), hashed)
