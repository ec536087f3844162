"""Reading only the text of events that differ in nothing else is reading each of them in full."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from llmproviders import FlowGpt, OpenAICompatible, ProtocolError, Provider
from llmproviders._http.decoding import EventTemplate, decode_json
from llmproviders.providers import _chat_completions, flowgpt
from tests.support.calls import Canned, canned, read_in_full
from tests.support.promise import read

Json = dict[str, Any]
Write = Callable[[Json], str]

TEXTS = st.text(
    st.sampled_from(
        ["a", "x", "é", "天", "😀", '"', "\\", "\n", "\t", "\u2028", "\ud83d", "\ude00"]
    )
    | st.characters(),
    max_size=4,
)
WRITERS = st.builds(
    lambda compact, sort, plain: (
        lambda one: json.dumps(
            one,
            separators=(",", ":") if compact else None,
            sort_keys=sort,
            ensure_ascii=not plain,
        )
    ),
    st.booleans(),
    st.booleans(),
    st.booleans(),
)
KINDS = st.sampled_from(["text"] * 6 + ["id", "role", "reasoning", "second", "usage", "double"])


def chat_event(kind: str, text: str) -> Json:
    """An event of a chat that says ``text``, and something of the ``kind`` beside it."""
    delta: Json = {"content": text}
    choice: Json = {"index": 0, "delta": delta, "finish_reason": None}
    event: Json = {"id": "c", "model": "m", "choices": [choice]}
    if kind == "id":
        event["id"] = text
    elif kind == "role":
        delta["role"] = "assistant"
    elif kind == "reasoning":
        delta["reasoning_content"] = text
    elif kind == "second":
        event["choices"] = [choice, {"index": 1, "delta": {"content": text}}]
    elif kind == "usage":
        event["usage"] = {"total_tokens": len(text)}
    elif kind == "double":
        event["choices"] = [choice, choice]
    return event


def writable(event: Json, write: Write) -> str:
    """The event as JSON in UTF-8, which half a character alone cannot be but escaped."""
    line = write(event)
    return line if line.isascii() or _is_utf8(line) else json.dumps(event)


def _is_utf8(line: str) -> bool:
    try:
        line.encode()
    except UnicodeEncodeError:
        return False
    return True


def as_read(text: str) -> str:
    """Halves of characters that meet are one; what stays alone is U+FFFD."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


class TestStreams:
    @given(st.lists(st.tuples(KINDS, TEXTS), min_size=1, max_size=25), WRITERS)
    @example(
        [("text", "ab"), ("text", "c"), ("text", '"'), ("text", "\\"), ("text", "d")], json.dumps
    )
    @example([("text", "a"), ("reasoning", "b"), ("reasoning", "c"), ("text", "")], json.dumps)
    @example([("id", "x"), ("id", "x"), ("id", "y"), ("id", "xx"), ("text", "x")], json.dumps)
    def test_a_chat(self, said: list[tuple[str, str]], write: Write) -> None:
        """Whatever stands beside the text and however it is written, nothing is lost or added."""
        events = [chat_event(kind, text) for kind, text in said]
        expected = "".join(text * (2 if kind == "double" else 1) for kind, text in said)
        thought = "".join(text for kind, text in said if kind == "reasoning")
        totals = [len(text) for kind, text in said if kind == "usage"]
        body = "".join(f"data: {writable(event, write)}\n\n" for event in events)
        reply = Canned(f"{body}data: [DONE]\n\n".encode())
        if expected.strip():
            reading = read(canned(OpenAICompatible, reply, base_url="http://x/v1").stream("Hi"))
            assert reading.text == as_read(expected)
            assert reading.finish is not None
            assert reading.finish.reasoning == (thought or None)
            assert (reading.finish.usage is not None) is bool(totals)
            if reading.finish.usage is not None:
                assert reading.finish.usage.total_tokens == totals[-1]

    @given(
        st.lists(st.tuples(st.sampled_from(["text"] * 4 + ["ping"]), TEXTS), max_size=25), WRITERS
    )
    def test_json_lines(self, said: list[tuple[str, str]], write: Write) -> None:
        """The same for lines of JSON, among which others say nothing."""
        lines = [writable({"event": kind, "data": text}, write) for kind, text in said]
        expected = "".join(text for kind, text in said if kind == "text")
        if expected.strip():
            reading = read(canned(FlowGpt, Canned("\n".join(lines).encode())).stream("Hi"))
            assert reading.text == as_read(expected)

    @pytest.mark.parametrize("kind", ["text", "role"])
    def test_a_long_chat(self, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
        """Of its events only the first few are read in full, and what comes twice counts twice."""
        whole = read_in_full(monkeypatch, _chat_completions)
        said = [f" {number // 2}" for number in range(200)]
        body = "".join(f"data: {json.dumps(chat_event(kind, text))}\n\n" for text in said)
        reply = Canned(f"{body}data: [DONE]\n\n".encode())
        reading = read(canned(OpenAICompatible, reply, base_url="http://x/v1").stream("Hi"))
        assert reading.text == "".join(said)
        assert 0 < len(whole) < 20

    @pytest.mark.parametrize("where", ["beside", "another choice"])
    def test_the_same_thought_counts_each_time(self, where: str) -> None:
        """What stands beside the text and adds up is read in each event, be it ever the same."""
        events = [chat_event("text", said) for said in "abcdefgh"]
        for event in events:
            if where == "beside":
                event["choices"][0]["delta"]["reasoning_content"] = "hm"
            else:
                event["choices"].append({"index": 0, "delta": {"reasoning_content": "hm"}})
        body = "".join(f"data: {json.dumps(event)}\n\n" for event in events)
        reply = Canned(f"{body}data: [DONE]\n\n".encode())
        reading = read(canned(OpenAICompatible, reply, base_url="http://x/v1").stream("Hi"))
        assert (reading.text, reading.finish.reasoning) == ("abcdefgh", "hm" * 8)

    def test_many_json_lines(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The same for lines of JSON."""
        whole = read_in_full(monkeypatch, flowgpt)
        said = [f" {number // 2}" for number in range(200)]
        lines = [json.dumps({"event": "text", "data": text}) for text in said]
        reading = read(canned(FlowGpt, Canned("\n".join(lines).encode())).stream("Hi"))
        assert reading.text == "".join(said)
        assert 0 < len(whole) < 20

    @pytest.mark.parametrize("broken", [b"\xff", b'"', b"\\", b"\\x", b"\x01", b'"}]}, {"a": "'])
    @pytest.mark.parametrize(
        ("provider", "frame"),
        [
            (
                OpenAICompatible(base_url="http://x/v1"),
                b'data: {"choices": [{"delta": {"content": "%b"}}]}\n\n',
            ),
            (FlowGpt(), b'{"event": "text", "data": "%b"}\n'),
        ],
    )
    def test_what_cannot_stand_in_a_string(
        self, provider: Provider, frame: bytes, broken: bytes
    ) -> None:
        """Between the same bytes as before, what is no JSON is the same error as anywhere."""
        said = [b"one ", b"two ", b"three ", broken, b"four"]
        got: list[str] = []
        with pytest.raises(ProtocolError):
            for piece in provider.parse(Canned(b"".join(frame % text for text in said))):
                got.append(piece)  # noqa: PERF402 - kept, though an error comes
        assert "".join(got) == "one two three "


def reads(data: bytes, text: str) -> bool:
    """Whether a list of one string is ``text`` in it."""
    return bool(decode_json(data) == [text])


class TestFrame:
    def test_what_fits_is_read_without_the_rest(self) -> None:
        """An event with the bytes of the last one around its text is not read in full."""
        frame = EventTemplate()
        assert frame.text_in(b'["one"]') is None
        frame.learn(b'["one"]', "one", reads)
        assert [frame.text_in(b'["%b"]' % raw) for raw in (b"two", b"", b"\\u0041", b'\\"')] == [
            "two",
            "",
            "A",
            '"',
        ]

    def test_a_text_that_grows(self) -> None:
        """Where events repeat the text, only what is new at its end is told."""
        frame = EventTemplate(grows=True)
        frame.learn(b'["one"]', "one", reads)
        assert frame.text_in(b'["one two"]') == " two"
        assert frame.text_in(b'["one two"]') == ""
        assert frame.text_in(b'["one two three"]') == " three"
        assert frame.text_in(b'["one three"]') is None

    @pytest.mark.parametrize("raw", [b"\xef\xbf\xbd", b"\\ud83d", b"\\ude00"])
    def test_half_a_character_is_read_in_full(self, raw: bytes) -> None:
        """A growing text that ends in half a character is for who knows what to do about it."""
        frame = EventTemplate(grows=True)
        frame.learn(b'["one"]', "one", reads)
        assert frame.text_in(b'["one%b"]' % raw) is None
        assert frame.text_in(b'["one two"]') is None

    def test_frames_that_never_come_again_are_given_up(self) -> None:
        """Events of which no two have the same frame are not tried for ever."""
        frame, tried = EventTemplate(), 0

        def count(data: bytes, text: str) -> bool:
            nonlocal tried
            tried += 1
            return bool(decode_json(data)[1] == text)

        for number in range(100):
            data = b'[%d, "a"]' % number
            assert frame.text_in(data) is None
            frame.learn(data, "a", count)
        assert tried <= 8

    def test_a_few_odd_events_come_first(self) -> None:
        """A reply may begin with some events of other frames; those after them are learnt."""
        frame = EventTemplate()
        for odd in ({"role": "a"}, {"id": 1}, {"model": "m"}, {}):
            data = json.dumps({**odd, "text": "one"}).encode()
            assert frame.text_in(data) is None
            frame.learn(data, "one", lambda one, text: bool(decode_json(one)["text"] == text))
        assert frame.text_in(b'{"text": "two"}') == "two"

    @pytest.mark.parametrize("text", ["one", '"one"', '"'])
    def test_nothing_beside_it(self, text: str) -> None:
        """The text may be all that there is."""
        frame = EventTemplate()
        frame.learn(
            json.dumps(text).encode(), text, lambda one, text: bool(decode_json(one) == text)
        )
        assert frame.text_in(b'"two"') == "two"

    @pytest.mark.parametrize("text", ["one", '"one"', '"'])
    def test_strings_beside_it(self, text: str) -> None:
        """Other strings may stand before the text and after it."""
        frame, event = EventTemplate(), {"id": "a b", "text": text, "end": "c"}

        def reads_text(data: bytes, text: str) -> bool:
            return bool(decode_json(data) == {**event, "text": text})

        frame.learn(json.dumps(event).encode(), text, reads_text)
        assert frame.text_in(json.dumps({**event, "text": "two"}).encode()) == "two"

    def test_quotes_inside_of_strings_beside_it(self) -> None:
        """A quote in another string is not taken for the end of the text, be it that of a
        backslash."""
        frame, event = EventTemplate(), {"text": "\\", "end": 'say "hi" to me'}

        def reads_text(data: bytes, text: str) -> bool:
            return bool(decode_json(data) == {**event, "text": text})

        frame.learn(json.dumps(event).encode(), "\\", reads_text)
        assert frame.text_in(json.dumps({**event, "text": "two"}).encode()) == "two"

    def test_strings_that_end_like_it(self) -> None:
        """Of strings with the same end, the text is the one that the text is read from."""
        frame, event = EventTemplate(), {"text": "one", "same": "one", "end": "no one"}

        def reads_text(data: bytes, text: str) -> bool:
            return bool(decode_json(data) == {**event, "text": text})

        frame.learn(json.dumps(event).encode(), "one", reads_text)
        assert frame.text_in(json.dumps({**event, "text": "two"}).encode()) == "two"

    def test_only_where_it_may_end_is_it_sought(self) -> None:
        """An event is not read again for every string in it, but for those that end like it."""
        frame, event, tried = (
            EventTemplate(),
            {"text": "one", **{str(n): "x" for n in range(5)}},
            [],
        )

        def reads_text(data: bytes, text: str) -> bool:
            tried.append(data)
            return bool(decode_json(data) == {**event, "text": text})

        frame.learn(json.dumps(event).encode(), "one", reads_text)
        assert len(tried) == 1
        assert frame.text_in(json.dumps({**event, "text": "two"}).encode()) == "two"

    def test_a_string_full_of_quotes(self) -> None:
        """Quotes inside of the text, escaped, are not taken for its start."""
        frame, text = EventTemplate(), 'a"b\\"c' * 1000
        frame.learn(json.dumps([text]).encode(), text, reads)
        assert frame.text_in(b'["x"]') == "x"

    def test_a_huge_event_is_not_learnt(self) -> None:
        """Finding the text of an event of megabytes would take longer than it spares."""
        frame, text = EventTemplate(), "a" * 2_000_000
        frame.learn(json.dumps([text]).encode(), text, reads)
        assert frame.text_in(b'["x"]') is None
