"""Bytes become lines, events and JSON, however they were cut on their way."""

from __future__ import annotations

import json
import time
import zlib
from collections.abc import Iterable, Sequence
from typing import Any

import pytest
from httpx_sse._decoders import SSEDecoder
from hypothesis import example, given
from hypothesis import strategies as st

from llmproviders import LLMError, ProtocolError, ProviderTimeout, StreamInterrupted
from llmproviders._http.decoding import (
    AFTER_END_S,
    COMPRESSION,
    MOST_IDLE,
    Document,
    ErrorEvent,
    Tail,
    decode_json,
    decode_object,
    decompress,
    encodable,
    expect,
    expect_number,
    iter_events,
    iter_lines,
    whole_characters,
)

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

    def test_an_event_has_a_limit(self) -> None:
        """The lines of an event together have the limit of one line."""
        lines = b"data:aa\ndata:bb\n"
        assert list(iter_events([lines + b"data:c\n\n"], max_line=7)) == [b"aa\nbb\nc"]
        with pytest.raises(ProtocolError, match=r"event .* longer than 7 bytes.*Limits\.line"):
            list(iter_events([lines + b"data:cc\n\n"], max_line=7))

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
            (b"\r\n\xef\xbb\xbf\r\ndata: a\n\n", [b"a"]),
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


def typed(*blocks: bytes) -> list[tuple[type[bytes], bytes]]:
    """The events of some blocks, each with its type."""
    return [(type(event), bytes(event)) for event in iter_events(blocks)]


class TestNamedEvents:
    @pytest.mark.parametrize("name", ["ping", "heartbeat", "keepalive", "keep-alive", "PING"])
    @pytest.mark.parametrize("colon", [":", ": "])
    def test_signs_of_life_are_skipped(self, name: str, colon: str) -> None:
        """What is named as a sign of life is no event, whatever its data; what follows is one."""
        for data in ("", "data: {}\n", "data: x\ndata: y\n"):
            ping = f"event{colon}{name}\n{data}\n".encode()
            assert typed(ping + b"data: a\n\n" + ping) == [(bytes, b"a")]
            assert typed(b"data: a\n\n" + ping[:-1]) == [(bytes, b"a")]

    def test_the_last_name_counts(self) -> None:
        """An event that was named as a sign of life and then otherwise is an event."""
        assert typed(b"event: ping\nevent: message\ndata: a\n\n") == [(bytes, b"a")]
        assert typed(b"event: message\nevent: ping\ndata: a\n\n") == []

    @pytest.mark.parametrize(
        ("body", "data"),
        [
            (b"event: error\ndata: a\n", b"a"),
            (b"event:ERROR \ndata: a\n", b"a"),
            (b"data: a\nevent: error\n", b"a"),
            (b"event: error\nevent: message\ndata: a\n", b"a"),
            (b"event: error\ndata: a\ndata: b\n", b"a\nb"),
            (b"event: error\ndata\ndata: b\n", b"\nb"),
            (b"event: error\n", b""),
        ],
    )
    def test_an_event_named_error(self, body: bytes, data: bytes) -> None:
        """It is told apart from others, also without data and cut off; the next one is none."""
        assert typed(body) == [(ErrorEvent, data)]
        assert typed(body + b"\ndata: c\n\n") == [(ErrorEvent, data), (bytes, b"c")]

    @pytest.mark.parametrize(
        ("before", "events"),
        [
            (b"", []),
            (b"data: a\n", [(bytes, b"a")]),
            (b"data: a\ndata: b\n", [(bytes, b"a\nb")]),
            (b"event: error\n", [(ErrorEvent, b"")]),
            (b"event: error\ndata: a\n", [(ErrorEvent, b"a")]),
        ],
    )
    @pytest.mark.parametrize("after", [b"", b"\n", b"\ndata: c\n\n", b"data: c\n\n"])
    def test_a_field_named_error(
        self, before: bytes, events: list[tuple[type[bytes], bytes]], after: bytes
    ) -> None:
        """It is an event of its own, also amid another, which ends with it."""
        later = [(bytes, b"c")] if b"c" in after else []
        for line, said in ((b"error: busy \n", b"busy"), (b"error:7\n", b"7")):
            found = typed(before + line + after)
            assert found == [*events, (ErrorEvent, said), *later]

    def test_a_field_named_error_that_says_nothing(self) -> None:
        """An empty one is none."""
        assert typed(b"data: a\nerror: \ndata: b\n\n") == [(bytes, b"a\nb")]

    @pytest.mark.parametrize(
        ("line", "is_one"),
        [
            (b'{"error": "busy"}', True),
            (b'{"error": "busy"} ', True),
            (b'{"status": 429, "message": "busy"}', True),
            (b'{"code": 1302, "msg": "busy"}', True),
            (b'{"detail": "busy"}', True),
            (b'{"note": "busy"}', False),
            (b'{"error": "bu', False),
            (b'x{"error": "busy"}', False),
        ],
    )
    def test_an_error_without_a_field(self, line: bytes, is_one: bool) -> None:
        """A line of JSON that tells an error counts, though it is no event; no other line does."""
        found = typed(b"data: a\n\n" + line + b"\ndata: b\n\n")
        assert found == [(bytes, b"a"), *[(bytes, line.strip())] * is_one, (bytes, b"b")]


class TestMissingBlankLines:
    @pytest.mark.parametrize(
        ("body", "events"),
        [
            (b"data: {}\ndata: {}\n\n", [b"{}", b"{}"]),
            (b"data: {}\ndata:  [1]\ndata: {}\n\n", [b"{}", b" [1]\n{}"]),
            (b"data: {}\ndata: x\n\n", [b"{}\nx"]),
            (b"data: x\ndata: {}\n\n", [b"x\n{}"]),
            (b'data: {"a":\ndata: {}}\n\n', [b'{"a":\n{}}']),
            (b"data: [{\ndata: }\ndata: ,{}]\n\n", [b"[{\n}\n,{}]"]),
            (b"data: x\ndata: {}\ndata: {}\n\n", [b"x\n{}\n{}"]),
        ],
    )
    def test_an_object_after_an_object(self, body: bytes, events: list[bytes]) -> None:
        """A line of data after a whole object begins another event; any other line goes on."""
        assert list(iter_events([body])) == events

    def test_after_an_error(self) -> None:
        """The object before it has the name of the event, the one after it has none."""
        found = typed(b"event: error\ndata: {}\ndata: {}\n\n")
        assert found == [(ErrorEvent, b"{}"), (bytes, b"{}")]


def breaking(*blocks: bytes, error: LLMError) -> Iterable[bytes]:
    """Blocks after which the connection breaks."""
    yield from blocks
    raise error


class TestDocuments:
    @pytest.mark.parametrize(
        "body",
        [
            b'{"a": 1}',
            b'[{"a": 1},\n{"b": 2}]',
            b"<html>\ndata: a\n\n</html>",
            b"-1",
            b"0",
            b"7\n",
            b'{"a": {\n}\n}',
            b'{\n"a": {},\n"b": {}\n}',
            b"{} {}",
            b"{}\n",
            b"{}\nx",
            b"{",
            b" {}",
        ],
    )
    @pytest.mark.parametrize("before", [b"", b"\n\r\n", b"\xef\xbb\xbf", b"\xef\xbb\xbf\n"])
    def test_what_is_no_stream(self, body: bytes, before: bytes) -> None:
        """A body that begins as JSON or a page is one document, however it is cut."""
        for blocks in ([before + body], cut(before + body, range(len(before + body)))):
            (document,) = iter_events(blocks)
            assert (type(document), document) == (Document, body)

    @pytest.mark.parametrize(
        ("body", "events"),
        [
            (b'{"a": 1}\n{"b": 2}\n{"c": 3}\n', [b'{"a": 1}', b'{"b": 2}', b'{"c": 3}']),
            (b"{}\r\n\r\ndata: x\r\n", [b"{}", b"x"]),
            (b'{} \t\n \n{"a": {}}\ndata:{}', [b"{}", b'{"a": {}}', b"{}"]),
            (b"{}\ndata: {}\ndata: [DONE]", [b"{}", b"{}", b"[DONE]"]),
        ],
    )
    def test_objects_in_lines(self, body: bytes, events: list[bytes]) -> None:
        """What goes on with a line of its own after an object is a stream; its end may be cut."""
        found = list(iter_events([body]))
        assert found == events
        assert [type(event) for event in found] == [bytes] * (len(events) - 1) + [Tail]

    def test_the_limit_of_its_size(self) -> None:
        """A document as long as a line may be is taken; a byte more is an error."""
        for blocks in ([b'{"a": 12}'], [b'{"a"', b": 12}"]):
            assert list(iter_events(blocks, max_line=9)) == [b'{"a": 12}']
            with pytest.raises(ProtocolError, match=r"larger than 8 bytes.*Limits\.line"):
                list(iter_events(blocks, max_line=8))

    def test_blanks_before_it(self) -> None:
        """White space before the reply has the limit of a line; empty lines have none."""
        assert list(iter_events([b" " * 8, b"data: a\n\n"], max_line=50)) == []
        assert list(iter_events([b"\n" * 90, b"{}"], max_line=8)) == [b"{}"]
        assert list(iter_events([b" " * 6, b"{}"], max_line=8)) == [b" " * 6 + b"{}"]
        assert list(iter_events([b" " * 8], max_line=8)) == []
        with pytest.raises(ProtocolError, match="begins with more than 8 blanks"):
            list(iter_events([b" " * 5, b" " * 4, b"{}"], max_line=8))

    @pytest.mark.parametrize(
        "error", [StreamInterrupted("cut"), ProviderTimeout("silence")], ids=str
    )
    def test_one_that_is_whole_before_its_connection_breaks(self, error: LLMError) -> None:
        """JSON that is whole is taken, however its connection ends; a part of it is not."""
        for whole in ([b'{"a": {}}'], [b'{"a": {}', b"}"], [b"[]"], [b"{}", b"\n"], [b"-1"]):
            assert list(iter_events(breaking(*whole, error=error))) == [b"".join(whole)]
        for part in ([b'{"a": {}'], [b"<html>"], [b"[", b"]]"]):
            with pytest.raises(type(error)) as caught:
                list(iter_events(breaking(*part, error=error)))
            assert caught.value is error

    def test_one_whose_checksum_is_missing(self) -> None:
        """Compressed JSON that was cut is not taken, though it looks whole."""
        error = StreamInterrupted("cut", detail=COMPRESSION)
        with pytest.raises(StreamInterrupted):
            list(iter_events(breaking(b"{}", error=error)))
        packer = zlib.compressobj(wbits=31)
        packed = packer.compress(b"{}") + packer.flush()
        assert list(iter_events(decompress([packed], "gzip"))) == [b"{}"]
        with pytest.raises(StreamInterrupted):
            list(iter_events(decompress([packed[:-4]], "gzip")))

    @pytest.mark.parametrize(
        ("blocks", "is_whole"),
        [
            ([b'{"a": {}}'], True),
            ([b'{"a": {}', b', "b": {}}'], True),
            ([b"[1]\n"], True),
            ([b'{"a"', b": {}}", b"\n", b"\n"], True),
            ([b'{"a": {}'], False),
            ([b"<html>"], False),
        ],
    )
    def test_the_rest_is_not_waited_for_long(self, blocks: list[bytes], is_whole: bool) -> None:
        """Once a document is whole JSON, its sender has a moment to end it; told once."""
        waits: list[float] = []
        assert list(iter_events(blocks, hasten=waits.append)) == [b"".join(blocks)]
        assert waits == [AFTER_END_S] * is_whole


class TestIdle:
    """A reply has a limit for what brings no text."""

    @staticmethod
    def blocks(line: bytes, count: int) -> Iterable[bytes]:
        """A line so many times, the last one in a block of its own."""
        yield line * (count - 1)
        yield line

    @pytest.mark.parametrize(
        ("line", "each"), [(b"data: x\n\n", 1), (b": hi\n", 1), (b"event: x\n\n", 2)]
    )
    def test_events(self, line: bytes, each: int) -> None:
        """A quarter of a million events, or lines that are none, are taken, one more is not."""
        most = MOST_IDLE // each

        def read(count: int, texts: int | None = 0) -> int:
            said = None if texts is None else lambda: texts
            return sum(1 for _ in iter_events(self.blocks(line, count), texts=said))

        events = line.startswith(b"data")
        assert read(most) == most * events
        with pytest.raises(ProtocolError, match=f"{MOST_IDLE} events of the reply"):
            read(most + 1)
        assert read(most + 1, None) == (most + 1) * events
        if events:
            assert read(most + 7, 7) == most + 7
            with pytest.raises(ProtocolError, match="no text"):
                read(most + 8, 7)

    def test_lines_beside_the_data(self) -> None:
        """An event may have four lines that are not its data, and no more for ever."""
        for others, taken in ((4, True), (5, False)):
            event = b": hi\n" * others + b"data: x\n\n"
            events = iter_events([b": hi\n" * MOST_IDLE, event, event], texts=lambda: 7)
            if taken:
                assert list(events) == [b"x", b"x"]
            else:
                with pytest.raises(ProtocolError, match="no text"):
                    list(events)

    def test_lines(self) -> None:
        """So are a quarter of a million lines."""

        def read(count: int, texts: int | None = 0) -> int:
            said = None if texts is None else lambda: texts
            return sum(1 for _ in iter_lines(self.blocks(b"x\n", count), texts=said))

        assert read(MOST_IDLE) == MOST_IDLE
        assert read(MOST_IDLE + 1, None) == read(MOST_IDLE + 1, 1) == MOST_IDLE + 1
        for texts in (0, 1):
            with pytest.raises(ProtocolError, match=f"{MOST_IDLE} lines of the reply"):
                read(MOST_IDLE + 1 + texts, texts)


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

    def test_a_document_in_many_pieces(self) -> None:
        """A document of which every piece looks like its end is not read again for each."""
        started = time.thread_time()
        pieces = [b'[{"a": 0}', *[b', {"a": 0}'] * 30_000]
        (document,) = iter_events(pieces)
        assert document == b"".join(pieces)
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
        if data == b"\xff":
            assert "(byte 0 does not belong to text in UTF-8)" in str(caught.value)
        if data == b"{} {}":
            assert "(more follows the value)" in str(caught.value)
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

    def test_an_object_of_too_many_values(self) -> None:
        """An object of megabytes may hold 131,072 values, nested ones included, and no more."""
        most = 2**17
        fits, larger = (
            b'{"a": [' + b"0," * (count - 1) + b"0" + b" " * most + b"]}"
            for count in (most - 1, most)
        )
        assert len(decode_object(fits)["a"]) == most - 1
        with pytest.raises(ProtocolError, match=f"more than {most} values"):
            decode_object(larger)

    @pytest.mark.parametrize(
        ("data", "values"),
        [
            (b"[1, 2, 3]", 3),
            (b'{"a": {"b": [[], {}]}}', 6),
            (b" [1, 2, 3]", 3),
            (rb'["a,b", "[{", "\",,,,", "\\", "c"]', 5),
            (rb'[",,\\", ",,", 1]', 3),
            (b'["[[[[[["]', 1),
            (b"[[[[]]]]", 4),
        ],
    )
    def test_the_limit_of_values(self, data: bytes, values: int) -> None:
        """Values are counted by the marks before them, those inside of strings left out."""
        assert decode_json(data, max_values=values) == json.loads(data)
        with pytest.raises(ProtocolError, match=f"holds more than {values - 1} values"):
            decode_json(data, max_values=values - 1)

    def test_a_string_without_end_among_values(self) -> None:
        """Marks after a quote that is never closed are no values; the data is no JSON."""
        assert decode_json(b'"[[[[[["', max_values=1) == "[[[[[["
        with pytest.raises(ProtocolError, match="not JSON"):
            decode_json(b'[1, "' + b"," * 100, max_values=10)


class TestExpected:
    @pytest.mark.parametrize(("value", "kind"), [([1], list), ("", str), ({}, dict), (7, int)])
    def test_the_type_that_was_due(self, value: Any, kind: type) -> None:
        """A value of the type is given back; null stands for an empty one where it may."""
        assert expect(value, kind, "it") is value
        assert expect(value, kind, "it", optional=True) is value
        assert expect(None, kind, "it", optional=True) == kind()

    @pytest.mark.parametrize(
        ("value", "kind", "found"),
        [(None, str, "NoneType"), (True, int, "bool"), ([], dict, "list"), ("1", int, "str")],
    )
    def test_any_other_type(self, value: Any, kind: type, found: str) -> None:
        """Any other is an error that names it and the field."""
        with pytest.raises(ProtocolError, match=f"has {found} where it was due"):
            expect(value, kind, "it")
        if value is not None:
            with pytest.raises(ProtocolError, match=f"has {found} where it was due"):
                expect(value, kind, "it", optional=True)

    def test_numbers(self) -> None:
        """A finite number is given as a float; anything else is an error that names the field."""
        found = [expect_number(value, "it") for value in (1, 0.5, -2)]
        assert found == [1.0, 0.5, -2.0]
        assert {type(number) for number in found} == {float}
        for value, kind in (("1", "str"), (None, "NoneType"), (True, "bool"), (1e999, "float")):
            with pytest.raises(ProtocolError, match=f"has {kind} where it was due"):
                expect_number(value, "it")


class TestCharacters:
    @pytest.mark.parametrize(
        ("pieces", "whole"),
        [
            (["a", "é", "😀"], ["a", "é", "😀"]),
            (["a\ud83d", "\ude00b", "c"], ["a", "😀b", "c"]),
            (["\ud83d", "", "\ude00"], ["", "", "😀"]),
            (["\ud83d", "b", "c"], ["", "\ufffdb", "c"]),
            (["\ud83d\ud83d", "\ude00"], ["\ufffd", "😀"]),
            (["\ude00", "c"], ["\ufffd", "c"]),
            (["\ud800", "\udc00"], ["", "\U00010000"]),
            (["\udbff", "\udfff"], ["", "\U0010ffff"]),
            (["\ud7ff\ue000"], ["\ud7ff\ue000"]),
            (["a\ude00b"], ["a\ufffdb"]),
        ],
    )
    def test_halves(self, pieces: list[str], whole: list[str]) -> None:
        """Halves of a character that meet are one; one that stays alone is U+FFFD."""
        assert list(whole_characters(pieces)) == whole

    @pytest.mark.parametrize(
        ("text", "whole", "half"),
        [
            ("é😀", "é😀", ""),
            ("a\ud83d", "a", "\ud83d"),
            ("\ude00a", "\ufffda", ""),
            ("\ud83d\ude00", "😀", ""),
            ("\ud83da\udbff", "\ufffda", "\udbff"),
            ("", "", ""),
        ],
    )
    def test_what_can_be_encoded(self, text: str, whole: str, half: str) -> None:
        """The part that can be encoded comes first, and half a character at the end apart."""
        assert encodable(text) == (whole, half)

    def test_the_end_of_the_text(self) -> None:
        """A half that waits when the text ends comes before the end, once."""

        class End(str):
            __slots__ = ()

        end = End("stop")
        assert list(whole_characters(["a\ud83d", end])) == ["a", "\ufffd", end]
        assert list(whole_characters(["a", end, "b"])) == ["a", end, "b"]
        more = ["\ud83d", end, "b", "\ude00"]
        assert list(whole_characters(more)) == ["", "\ufffd", end, "b", "\ufffd"]
        assert next(iter(whole_characters([end]))) is end
