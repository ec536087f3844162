"""Bytes become lines, events and JSON, however they were cut on their way."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from typing import Any

import pytest
from httpx_sse._decoders import SSEDecoder
from hypothesis import example, given
from hypothesis import strategies as st

from llmproviders import ProtocolError, StreamInterrupted
from llmproviders._http.decoding import Tail, decode_json, decode_object, iter_events, iter_lines

MIB = 1024 * 1024
GENEROUS_S = 10.0
"""Of the processor's time, of which a busy machine takes no more: what is linear takes well under
a second; what is quadratic, minutes.
"""

ALPHABET = [b"\r", b"\n", b"\r\n", b"a", b":", b" ", b"data", b"data: ", b"event: x", b": c"]
ALPHABET += [b"\xef\xbb\xbf", "ё".encode(), "\u0085".encode(), "\u2028".encode(), b"\x0b\x0c\x1c"]
BODIES = st.lists(st.sampled_from(ALPHABET), max_size=24).map(b"".join)


def cut(body: bytes, places: Iterable[int]) -> list[bytes]:
    """Cut a body at some places; two equal ones make an empty piece."""
    places = sorted(place % (len(body) + 1) for place in places)
    return [body[a:b] for a, b in zip([0, *places], [*places, len(body)], strict=True)]


def reference_lines(body: bytes) -> list[bytes]:
    """The lines by definition: LF, CR LF and CR end one, nothing else does."""
    lines = body.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
    return lines[:-1] if not lines[-1] else lines


def lines_of(*blocks: bytes) -> list[bytes]:
    """The lines of some blocks."""
    return list(iter_lines(blocks))


def within(started: float) -> bool:
    """Whether this thread has worked for no more than a generous time."""
    return time.thread_time() - started < GENEROUS_S


class TestLines:
    @pytest.mark.parametrize(
        ("blocks", "lines"),
        [
            ([], []),
            ([b""], []),
            ([b"a"], [b"a"]),
            ([b"a\n"], [b"a"]),
            ([b"a\r\nb\rc\nd"], [b"a", b"b", b"c", b"d"]),
            ([b"\n\r\n\r"], [b"", b"", b""]),
            ([b"a\r", b"\nb"], [b"a", b"b"]),
            ([b"a\r", b"", b"\nb"], [b"a", b"b"]),
            ([b"a\r", b"\n", b"\nb"], [b"a", b"", b"b"]),
            ([b"a\r", b"\n\n"], [b"a", b""]),
            ([b"a\r", b"\rb"], [b"a", b"", b"b"]),
            ([b"a\r", b"b"], [b"a", b"b"]),
            ([b"a", b"b", b"\n"], [b"ab"]),
            (["a\u0085b\u2028c\u2029d\n".encode()], ["a\u0085b\u2028c\u2029d".encode()]),
            ([b"a\x0bb\x0cc\x1cd\x1de\x1ef\n"], [b"a\x0bb\x0cc\x1cd\x1de\x1ef"]),
        ],
    )
    def test_table(self, blocks: list[bytes], lines: list[bytes]) -> None:
        """LF, CR LF and CR end a line, a CR LF cut in two is one end, and nothing else is any."""
        assert lines_of(*blocks) == lines

    @given(BODIES, st.lists(st.integers(0, 200), max_size=12))
    @example(b"a\r\n\n", [2, 3])
    def test_any_cut_gives_the_same_lines(self, body: bytes, places: list[int]) -> None:
        """However the bytes are cut, the lines are those of the whole."""
        assert lines_of(*cut(body, places)) == reference_lines(body)

    @given(BODIES)
    def test_byte_by_byte(self, body: bytes) -> None:
        """Cut at every byte they are the same, too."""
        assert lines_of(*cut(body, range(len(body)))) == reference_lines(body)

    @given(BODIES.filter(bool), st.lists(st.integers(0, 5000), max_size=4))
    def test_large_blocks(self, body: bytes, places: list[int]) -> None:
        """The lines of a block of thousands of bytes are the same as those of a small one."""
        body *= 4096 // len(body) + 1
        assert lines_of(*cut(body, places)) == reference_lines(body)

    def test_a_line_comes_with_the_block_that_ends_it(self) -> None:
        """No line waits for the block after the one that ends it, a CR neither."""
        for end in (b"\n", b"\r\n", b"\r"):
            taken: list[int] = []

            def blocks(end: bytes = end, taken: list[int] = taken) -> Iterable[bytes]:
                for number, block in enumerate([b"on", b"e" + end + b"tw", b"o" + end]):
                    taken.append(number)
                    yield block

            lines = iter_lines(blocks())
            assert (next(lines), taken[-1]) == (b"one", 1)
            assert (next(lines), taken[-1]) == (b"two", 2)

    @pytest.mark.parametrize(
        ("body", "is_tail"), [(b"a\nb", True), (b"a\nb\n", False), (b"a\nb\r", False)]
    )
    def test_the_tail_is_marked(self, body: bytes, is_tail: bool) -> None:
        """A last line that nothing ended is told apart: it may have been cut."""
        first, last = lines_of(body)
        assert not isinstance(first, Tail)
        assert isinstance(last, Tail) is is_tail

    @pytest.mark.parametrize(
        "blocks", [[b"x" * 11], [b"x" * 6, b"x" * 5], [b"x" * 4] * 3, [b"x" * 11 + b"\n"]]
    )
    def test_a_line_has_a_limit(self, blocks: list[bytes]) -> None:
        """A line longer than allowed is an error before its end is seen."""
        assert list(iter_lines([b"x" * 10, b"\n"], max_line=10)) == [b"x" * 10]
        with pytest.raises(ProtocolError, match=r"10 bytes.*Limits\.line"):
            list(iter_lines(blocks, max_line=10))
        with pytest.raises(ProtocolError, match="10 bytes"):
            list(iter_events(blocks, max_line=10))

    def test_the_limit_holds_inside_a_block(self) -> None:
        """A long line is found between two short ones of the same block, too."""
        for blocks in ([b"a\n" + b"x" * 11 + b"\nb\n"], [b"a\n" + b"x" * 11]):
            with pytest.raises(ProtocolError, match="10 bytes"):
                list(iter_lines(blocks, max_line=10))


class TestEvents:
    @pytest.mark.parametrize(
        ("body", "events"),
        [
            (b"data: a\n\n", [b"a"]),
            (b"data:a\n\ndata:  b\n\n", [b"a", b" b"]),
            (b"data: a\ndata: b\n\n", [b"a\nb"]),
            (b"data\ndata: b\ndata\n\n", [b"\nb\n"]),
            (b"data:\n\n", [b""]),
            (b": comment\n\n:\n\ndata: a\n\n", [b"a"]),
            (b"data: a\n: between\ndata: b\n\n", [b"a\nb"]),
            (b"event: x\nid: 7\nretry: 9\ndata: a\n\n", [b"a"]),
            (b"event: x\n\n", []),
            (b"\n\n\ndata: a\n\n\n\n", [b"a"]),
            (b"\xef\xbb\xbfdata: a\n\n", [b"a"]),
            (b"\xef\xbb\xbf\n\ndata: a\n\n", [b"a"]),
            (b"data: a\n\n\xef\xbb\xbfdata: b\n\n", [b"a"]),
            (b"database: a\n\nDATA: b\n\n data: c\n\n", []),
            (b"data: a\r\n\r\ndata: b\r\r", [b"a", b"b"]),
            ("data: a\u0085b\u2028c\n\n".encode(), ["a\u0085b\u2028c".encode()]),
            (b"data: a", [b"a"]),
            (b"data: a\n", [b"a"]),
        ],
    )
    def test_table(self, body: bytes, events: list[bytes]) -> None:
        """Data, comments, other fields and byte order marks are read as the standard has it."""
        assert list(iter_events([body])) == events

    def test_a_byte_order_mark_is_one_at_the_start_alone(self) -> None:
        """Further on it is part of a line, even where a block begins with it."""
        blocks = [b"\xef\xbb\xbfdata: a\n\n", b"\xef\xbb\xbfdata: b\n\n"]
        assert list(iter_events(blocks)) == [b"a"]

    @given(BODIES, st.lists(st.integers(0, 200), max_size=8))
    def test_as_another_decoder_reads_it(self, body: bytes, places: list[int]) -> None:
        """On whole streams, cut anywhere, httpx-sse's decoder finds the same events."""
        body = body + b"\n\n"
        found = list(iter_events(cut(body, places)))
        assert found == oracle(body)

    @pytest.mark.parametrize(
        ("body", "is_tail"), [(b"data: a\n\n", False), (b"data: a\n", True), (b"data: a", True)]
    )
    def test_what_the_end_cut_off_is_marked(self, body: bytes, is_tail: bool) -> None:
        """An event that no blank line ended may have been cut, and says so."""
        (event,) = iter_events([body])
        assert isinstance(event, Tail) is is_tail


def oracle(body: bytes) -> list[bytes]:
    """The events' data as httpx-sse's decoder reads our lines."""
    decoder, found = SSEDecoder(), []
    lines: Sequence[bytes] = reference_lines(body.removeprefix(b"\xef\xbb\xbf"))
    has_data = False
    for line in lines:
        has_data = has_data or line == b"data" or line.startswith(b"data:")
        event = decoder.decode(line.decode())
        if event is not None and has_data:
            found.append(event.data.encode())
        has_data = has_data and bool(line)
    return found


class TestLinear:
    @pytest.mark.parametrize("size", [1024, 1000, 1])
    def test_a_large_line_in_small_blocks(self, size: int) -> None:
        """A line of 4 MB in 4,096 blocks, or a smaller one byte by byte, costs what it weighs."""
        count = 4096 if size > 1 else MIB // 4
        started = time.thread_time()
        (line,) = lines_of(*[b"x" * size] * count, b"\n")
        assert len(line) == size * count
        assert within(started)

    def test_a_large_event_in_many_lines(self) -> None:
        """An event of 4 MB in 4,096 lines of data costs what it weighs."""
        started = time.thread_time()
        (event,) = iter_events([b"data: " + b"x" * 1024 + b"\n"] * 4096 + [b"\n"])
        assert len(event) == 4096 * 1025 - 1
        assert within(started)

    def test_many_small_lines(self) -> None:
        """A million lines in one block, and in blocks of two, cost what they weigh."""
        started = time.thread_time()
        assert sum(1 for _ in iter_lines([b"\n" * 1_000_000])) == 1_000_000
        assert sum(1 for _ in iter_lines([b"a\r\n"] * 300_000)) == 300_000
        assert within(started)


class TestJson:
    @pytest.mark.parametrize("value", [{"a": [1, None, "ё\u2028"]}, [], "x", 7, None, True])
    def test_values(self, value: Any) -> None:
        """Any JSON value is read, with white space around it, escaped or not."""
        for ascii_only in (True, False):
            data = json.dumps(value, ensure_ascii=ascii_only).encode()
            assert decode_json(data) == value
            assert decode_json(b" \r\n\t" + data + b"\n ") == value

    @pytest.mark.parametrize(
        "data",
        [
            b"",
            b" ",
            b"{",
            b"{'a': 1}",
            b"{} {}",
            b"{}x",
            b"\xff",
            b'"\xff"',
            b"<html>",
            b"[" * 10**5,
        ],
    )
    def test_not_json(self, data: bytes) -> None:
        """What is no JSON is a ``ProtocolError``; where the end cut it, an interruption."""
        with pytest.raises(ProtocolError, match=f"{len(data)} bytes") as caught:
            decode_json(data)
        assert str(caught.value).endswith(type(caught.value.__cause__).__name__)
        assert isinstance(caught.value.__cause__, ValueError | RecursionError)
        with pytest.raises(StreamInterrupted):
            decode_json(Tail(data))

    @pytest.mark.parametrize(
        ("data", "kind"), [(b"[]", "list"), (b"null", "NoneType"), (b"7", "int"), (b'"x"', "str")]
    )
    def test_not_an_object(self, data: bytes, kind: str) -> None:
        """Where an object is due, any other value is an error that says what came."""
        with pytest.raises(ProtocolError, match=f"holds a {kind} where an object was due"):
            decode_object(data)
        assert decode_object(b'{"a": 1}') == {"a": 1}
