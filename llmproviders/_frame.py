"""Events of a stream that differ in nothing but their text: only that is read of them."""

from __future__ import annotations

import json
from collections.abc import Callable

from ._characters import is_settled
from ._lines import decode_json
from .errors import ProtocolError

_CANDIDATES = 24
_TRIES_WITHOUT_SUCCESS = 4
_LONGEST = 1024 * 1024


class Frame:
    """The bytes around the text of an event, which often are those of the event before it.

    Most of the cost of a stream is reading JSON that was read before. Where the text stands is
    not guessed: of an event's quotes, it ends at the one before which an inserted letter turns up
    at the end of the text and nowhere else. Between the same bytes, whatever can stand in a JSON
    string is the text and nothing more; anything else is to be read in full.

    Args:
        grows: whether an event repeats the text of the one before it; then only what it adds is
            told.
    """

    def __init__(self, *, grows: bool = False) -> None:
        self._grows = grows
        self._around: tuple[bytes, bytes] | None = None
        self._tries = _TRIES_WITHOUT_SUCCESS

    def text_in(self, data: bytes) -> str | None:
        """The text of ``data``, or what it adds to a growing one; None: read it in full."""
        if self._around is None:
            return None
        before, after = self._around
        start, end = len(before), len(data) - len(after)
        if start <= end and data.startswith(before) and data.endswith(after):
            text = _string_in(data[start:end])
            if text is not None and (not self._grows or is_settled(text)):
                self._tries = _TRIES_WITHOUT_SUCCESS
                if self._grows:
                    self._around = data[:end], after
                return text
        self._around = None
        return None

    def learn(self, data: bytes, text: str, reads: Callable[[bytes, str], bool]) -> None:
        """Find the text in an event that was read in full.

        Where the events after the last few that were learnt had other frames, it is not tried
        any more.

        Args:
            data: the event.
            text: its text, which is not empty.
            reads: whether an event, read in full, is this one with that text.
        """
        if self._tries == 0 or len(data) > _LONGEST:
            return
        self._tries -= 1
        end, ends = len(data), _ends(text)
        for _ in range(_CANDIDATES):
            end = data.rfind(b'"', 0, end)
            if end < 0:
                return
            if data.endswith(ends, 0, end) and _holds(reads, data, end, text):
                start = end if self._grows else _start(data, end)
                self._around = data[:start], data[end:]
                return


def _ends(text: str) -> tuple[bytes, bytes]:
    """How the end of a text is written in JSON; spares reading most candidates."""
    end = text[-8:]
    return end.encode("utf-8", "surrogatepass"), json.dumps(end)[1:-1].encode()


def _holds(reads: Callable[[bytes, str], bool], data: bytes, end: int, text: str) -> bool:
    try:
        return reads(data[:end] + b"x" + data[end:], text + "x")
    except ProtocolError:
        return False


def _start(data: bytes, end: int) -> int:
    """Where the string that ends at ``end`` starts: a quote within it stands behind a backslash."""
    start = data.rfind(b'"', 0, end)
    while data[start - 1] == ord("\\"):
        start = data.rfind(b'"', 0, start)
    return start + 1


def _string_in(raw: bytes) -> str | None:
    """What ``raw`` means between the quotes of a JSON string; None where it cannot stand there."""
    try:
        text = raw.decode()
        if not text.isprintable() or '"' in text or "\\" in text:
            text = decode_json(b'"%b"' % raw)
    except (UnicodeDecodeError, ProtocolError):
        return None
    return text
