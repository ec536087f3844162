"""A reader of streams that fails if one breaks the rules."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ..errors import LLMError
from ..results import FinishReason, Reasoning


@dataclass(frozen=True)
class Reading:
    """A stream, read to its end.

    Attributes:
        pieces: the pieces of text.
        finish: the ``FinishReason`` that ended it, or None.
        error: the ``LLMError`` that ended it, or None.
    """

    pieces: tuple[str, ...]
    finish: FinishReason | None
    error: LLMError | None

    @property
    def text(self) -> str:
        """The pieces, joined."""
        return "".join(self.pieces)


def read_stream(stream: Iterable[str]) -> Reading:
    """Read a stream to its end, and fail if it breaks the rules that every stream follows.

    The rules: pieces of text, none of them empty, and then exactly one ``FinishReason`` as the last
    item; or an ``LLMError`` with the text so far. The first piece is not blank, and each can be
    encoded. ``Reasoning`` items may come between the pieces.

    Args:
        stream: the generator that ``stream()`` or ``create_generator()`` returned.

    Raises:
        AssertionError: a rule is broken.

    >>> from llmproviders.testing import ScriptedProvider
    >>> reading = read_stream(ScriptedProvider(["Hello", "!"]).stream("Hi"))
    >>> reading.text, reading.finish.reason, reading.error
    ('Hello!', 'stop', None)
    """
    pieces: list[str] = []
    finish: FinishReason | None = None
    error: LLMError | None = None
    try:
        for item in stream:
            require(finish is None, "something came after the FinishReason")
            if isinstance(item, FinishReason):
                finish = item
            elif not isinstance(item, Reasoning):
                require(type(item) is str, f"a piece is a str, not {type(item).__name__}")
                require(item != "", "a piece has no text")
                item.encode()
                pieces.append(item)
    except LLMError as caught:
        error = caught
        require(finish is None, "an error came after the FinishReason")
        same = error.partial_text == "".join(pieces)
        require(same, "the error's partial_text is not the text so far")
    ended = (finish is None) is (error is not None)
    require(ended, "the stream ended with neither a FinishReason nor an error")
    if pieces:
        require(pieces[0].strip() != "", "the first piece is white space alone")
    elif finish is not None:
        without = bool(finish.tool_calls or finish.images)
        require(without, "a whole reply has neither text nor a tool call nor an image")
    return Reading(tuple(pieces), finish, error)


def require(condition: bool, problem: str) -> None:
    """Fail with ``problem`` unless ``condition`` holds.

    Raises:
        AssertionError: it does not.
    """
    if not condition:
        raise AssertionError(problem)
