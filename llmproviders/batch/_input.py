"""The input of a batch: read once to check its ids, and again to do the work."""

from __future__ import annotations

import contextlib
import heapq
import os
import shutil
import tempfile
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from hashlib import blake2b
from itertools import islice
from typing import IO

from ._rows import tasks_in
from ._task import Id, Task, duplicate, request_hash

_RUN = 1 << 16


def digest(*parts: str) -> int:
    """A 64-bit hash of ``parts``."""
    return int.from_bytes(blake2b("\0".join(parts).encode(), digest_size=8).digest(), "big")


class Digests:
    """A multiset of 64-bit numbers in eight bytes each: add all, then look up.

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
        """Add one; a number may be added more than once."""
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
        """The numbers that were added more than once."""
        found = set()
        before = None
        for number in self:
            if number == before:
                found.add(number)
            before = number
        return found


class Input:
    """The requests of a batch, which can be read more than once.

    Args:
        read: reads the requests from the start, the same ones each time.
        hashes: whether ``pairs`` are needed.

    Attributes:
        ids: the ids of all requests, without the stand-ins of broken lines.
        pairs: the id and the hash of each valid request.

    Raises:
        InvalidRequestError: two requests have the same id.
    """

    def __init__(self, read: Callable[[], Iterable[Task]], *, hashes: bool) -> None:
        self._read = read
        self._count = 0
        self.ids = Digests()
        self.pairs = Digests()
        for task in read():
            self._count += 1
            if task.id_known:
                self.ids.add(id_digest(task.id))
            if hashes and task.request is not None:
                self.pairs.add(pair_digest(task.id, request_hash(task.request)))
        self._refuse_duplicates(self.ids.repeated())

    def __len__(self) -> int:
        return self._count

    def tasks(self) -> Iterator[Task]:
        """Read every request, from the start."""
        for task in self._read():
            yield task if task.id_known else task.unless_taken(id_digest(task.id) in self.ids)

    def _refuse_duplicates(self, suspects: set[int]) -> None:
        if not suspects:
            return
        first_lines: dict[Id | None, int] = {}
        for task in self._read():
            if task.id_known and id_digest(task.id) in suspects:
                line = task.index + 1
                if task.id in first_lines:
                    assert task.id is not None
                    raise duplicate(task.id, first_lines[task.id], line)
                first_lines[task.id] = line


@contextlib.contextmanager
def lines_of(path: str | os.PathLike[str]) -> Iterator[Callable[[], Iterator[Task]]]:
    """Open a file of JSON lines; return a function that reads its tasks from the start.

    Lines that are added after the first time are left to the next run. A pipe is copied to a
    temporary file first.
    """
    with open(path, "rb") as stream:
        if stream.seekable():
            yield _Lines(stream).tasks
            return
        with tempfile.TemporaryFile() as copy:
            shutil.copyfileobj(stream, copy)
            yield _Lines(copy).tasks


class _Lines:
    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._count: int | None = None

    def tasks(self) -> Iterator[Task]:
        self._stream.seek(0)
        if self._count is None:
            return tasks_in(self._counted())
        return tasks_in(islice(self._stream, self._count))

    def _counted(self) -> Iterator[bytes]:
        count = 0
        for line in self._stream:
            count += 1
            yield line
        self._count = count


def id_digest(own_id: Id | None) -> int:
    """A number for an id; ``"1"`` and ``1`` are two ids."""
    return digest(repr(own_id))


def pair_digest(own_id: Id | None, hashed: str) -> int:
    """A number for an id and the hash of its request."""
    return digest(repr(own_id), hashed)
