"""The text of a reply so far, kept small."""

from __future__ import annotations

import zlib

_FOLD_AT = 1024


class Transcript:
    """Collects the pieces of a stream, in case it breaks and its text so far is asked for.

    Only a broken stream needs the text again, so what is older than the last thousand pieces is
    kept compressed: a long stream that the caller does not keep must not fill the memory.
    """

    __slots__ = ("_folded", "_recent")

    def __init__(self) -> None:
        self._recent: list[str] = []
        self._folded: list[bytes] = []

    def append(self, piece: str) -> None:
        """Add a piece."""
        recent = self._recent
        recent.append(piece)
        if len(recent) >= _FOLD_AT:
            self._folded.append(zlib.compress("".join(recent).encode("utf-8", "surrogatepass"), 1))
            recent.clear()

    def text(self) -> str:
        """All pieces, joined."""
        folded = (zlib.decompress(block).decode("utf-8", "surrogatepass") for block in self._folded)
        return "".join([*folded, *self._recent])

    @property
    def count(self) -> int:
        """How many pieces there were."""
        return len(self._folded) * _FOLD_AT + len(self._recent)
