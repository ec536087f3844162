"""Pieces of text that were cut in the middle of a character."""

from __future__ import annotations

from collections.abc import Iterable, Iterator


def whole_characters(pieces: Iterable[str]) -> Iterator[str]:
    r"""Yield ``pieces`` so that each can be encoded.

    JSON can say half of a character, a lone surrogate, and services that cut their text by UTF-16
    units do. A first half waits for the next piece; a half that stays alone becomes U+FFFD.
    Whatever is not exactly a ``str`` ends the text.

    >>> list(whole_characters(["a\ud83d", "\ude00b", "c"]))
    ['a', '😀b', 'c']
    """
    half = ""
    for piece in pieces:
        if type(piece) is not str:
            if half:
                yield "\ufffd"
        elif half or not piece.isascii():
            piece, half = _mended(half + piece)
        yield piece


def _mended(text: str) -> tuple[str, str]:
    """``text`` as it can be encoded, and the first half of a character that it ends with."""
    try:
        text.encode()
    except UnicodeEncodeError:
        half = text[-1] if "\ud800" <= text[-1] <= "\udbff" else ""
        units = text[: len(text) - len(half)].encode("utf-16-le", "surrogatepass")
        return units.decode("utf-16-le", "replace"), half
    return text, ""
