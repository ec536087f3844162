"""Limits hold to the byte, wherever the blocks of a reply are cut."""

from __future__ import annotations

import pytest

from llmproviders._http.decoding import Tail, iter_events, iter_lines
from llmproviders.errors import ProtocolError


@pytest.mark.parametrize(
    "blocks",
    [
        [b"12345678\n"],
        [b"1234", b"5678\n"],
        [b"1234", b"5678", b"\n"],
        [b"a\n1234", b"56", b"78"],
        [b"12345678"],
        [b"1234", b"5678\nabc", b"defgh"],
    ],
)
def test_a_line_of_the_limits_length_passes(blocks: list[bytes]) -> None:
    """A line of exactly ``max_line`` bytes is one, however it is cut."""
    assert b"".join(iter_lines(blocks, max_line=8)) == b"".join(blocks).replace(b"\n", b"")


@pytest.mark.parametrize(
    "blocks",
    [
        [b"123456789\n"],
        [b"1234", b"56789"],
        [b"1234", b"56789\n"],
        [b"12345678", b"9"],
        [b"a\n12345678", b"9\n"],
        [b"1\n123456789\n"],
        [b"1", b"2345678\r", b"123456789"],
    ],
)
def test_a_byte_more_does_not(blocks: list[bytes]) -> None:
    """A line of one byte more is refused, before its end has come."""
    with pytest.raises(ProtocolError, match=r"longer than 8 bytes; if .* Limits\.line$"):
        list(iter_lines(blocks, max_line=8))


def test_a_cut_event_of_two_lines_is_a_tail() -> None:
    """The lines of an event that the end cut off are joined as those of any event."""
    (event,) = iter_events([b"data: a\nda", b"ta: b"])
    assert (event, type(event)) == (b"a\nb", Tail)
