"""What a stream promises, as a reader that fails where it is broken."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from llmproviders import FinishReason, LLMError


@dataclass(frozen=True)
class Reading:
    """A stream, read to its end: its pieces, and the finish or the error that ended it."""

    pieces: tuple[str, ...]
    finish: FinishReason | None
    error: LLMError | None

    @property
    def text(self) -> str:
        """The pieces, joined."""
        return "".join(self.pieces)


def read(stream: Iterable[str]) -> Reading:
    """Read a stream to its end; anything but what a stream promises fails.

    The promise: pieces of text, none empty, then exactly one ``FinishReason`` as the last item;
    or an ``LLMError``, which has the text so far. The text can be encoded, and is not blank.
    """
    pieces: list[str] = []
    finish: FinishReason | None = None
    error: LLMError | None = None
    try:
        for item in stream:
            assert finish is None, "something came after the FinishReason"
            if isinstance(item, FinishReason):
                finish = item
            else:
                assert type(item) is str
                assert item, "a piece without text"
                item.encode()
                pieces.append(item)
    except LLMError as caught:
        error = caught
        assert finish is None, "an error came after the FinishReason"
        assert error.partial_text == "".join(pieces)
    assert (finish is None) is (error is not None), "neither a finish nor an error at the end"
    if pieces:
        assert pieces[0].strip(), "white space alone was taken for a first text"
    elif finish is not None:
        assert finish.tool_calls, "a finish without text"
    return Reading(tuple(pieces), finish, error)
