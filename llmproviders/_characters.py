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
                half = ""
        elif half or not _is_encodable(piece):
            piece, half = _mended(half + piece)
        yield piece


def encodable(text: str) -> tuple[str, str]:
    """``text`` as it can be encoded, and the first half of a character that it ends with."""
    return (text, "") if _is_encodable(text) else _mended(text)


def _is_encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _mended(text: str) -> tuple[str, str]:
    half = text[-1] if "\ud800" <= text[-1] <= "\udbff" else ""
    units = text[: len(text) - len(half)].encode("utf-16-le", "surrogatepass")
    return units.decode("utf-16-le", "replace"), half


def settled(text: str) -> int:
    """How much of ``text`` stays: its end may be half a character, which more text mends."""
    end = len(text)
    while end and (text[end - 1] == "\ufffd" or "\ud800" <= text[end - 1] <= "\udbff"):
        end -= 1
    return end


def is_settled(text: str) -> bool:
    """Whether all of ``text`` stays, and can be encoded."""
    return settled(text) == len(text) and _is_encodable(text)
