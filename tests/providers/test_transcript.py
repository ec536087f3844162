"""The text of a stream so far is kept whole, and small."""

from __future__ import annotations

import pytest

from llmproviders.results import Transcript

PIECES = ["a", "тест", "😀", " \n", "half \ud83d"]


@pytest.mark.parametrize("count", [0, 1, 255, 256, 257, 5000])
def test_all_pieces_are_there(count: int) -> None:
    """However many pieces there were, their text comes back as it was, and their number."""
    transcript = Transcript()
    pieces = [PIECES[number % len(PIECES)] for number in range(count)]
    for piece in pieces:
        transcript.append(piece)
    assert transcript.text() == "".join(pieces)
    assert transcript.count == count


def test_it_can_be_read_in_between() -> None:
    """Asking for the text changes nothing about what comes after."""
    transcript, text = Transcript(), ""
    for number in range(3000):
        transcript.append(f"{number} ")
        text += f"{number} "
        if number % 500 == 0:
            assert transcript.text() == text
    assert transcript.text() == text
