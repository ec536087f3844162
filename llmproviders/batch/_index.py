"""Which ids and requests stand in a file, at a few bytes each."""

from __future__ import annotations

import heapq
from array import array
from bisect import bisect_left
from collections.abc import Iterator
from hashlib import blake2b

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
