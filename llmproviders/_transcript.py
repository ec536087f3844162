"""The text of a reply so far, kept small."""

from __future__ import annotations

import zlib

_FOLD_AT = 256


class Transcript:
    """Collects the pieces of a stream, in case it breaks and its text so far is asked for.

    Only a broken stream needs the text again, so what is older than the last few hundred pieces is
    kept compressed: a long stream that the caller does not keep must not fill the memory.
    """

    __slots__ = ("_folded", "_packed", "_packer", "_recent")

    def __init__(self) -> None:
        self._recent: list[str] = []
        self._folded = 0
        self._packed: list[bytes] = []
        self._packer: zlib._Compress | None = None

    def append(self, piece: str) -> None:
        """Add a piece."""
        recent = self._recent
        recent.append(piece)
        if len(recent) >= _FOLD_AT:
            self._fold()

    def _fold(self) -> None:
        if self._packer is None:
            # This small window packs prose as well as the usual one, in 64 KiB instead of 256.
            self._packer = zlib.compressobj(level=1, wbits=13, memLevel=6)
        text = "".join(self._recent).encode("utf-8", "surrogatepass")
        self._packed.append(self._packer.compress(text))
        self._folded += len(self._recent)
        self._recent.clear()

    def text(self) -> str:
        """All pieces, joined."""
        if self._packer is None:
            return "".join(self._recent)
        packed = b"".join([*self._packed, self._packer.copy().flush()])
        folded = zlib.decompress(packed).decode("utf-8", "surrogatepass")
        return "".join([folded, *self._recent])

    @property
    def count(self) -> int:
        """How many pieces there were."""
        return self._folded + len(self._recent)
