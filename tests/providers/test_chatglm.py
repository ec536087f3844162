"""ChatGLM: the request, and a text that comes again and again, longer each time."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from llmproviders import (
    ChatGLM,
    InvalidRequestError,
    LLMError,
    ModelNotFoundError,
    ProtocolError,
    RateLimitError,
    RefusedError,
    ServerError,
    StreamInterrupted,
)
from llmproviders.providers import chatglm as _cumulative
from tests.conftest import RawServerFactory
from tests.support.calls import Canned, Sender, canned, read_in_full, with_sender
from tests.support.golden import goldens, on_the_wire
from tests.support.promise import Reading, read
from tests.support.rawserver import keep_alive

SHORT = goldens("chatglm", name="short")[0]
Json = dict[str, Any]


def text(said: str) -> Json:
    """An item of text."""
    return {"type": "text", "text": said}


def part(key: str | None, *items: Json) -> Json:
    """A part of a reply."""
    return {"logic_id": key, "role": "assistant", "status": "init", "content": list(items)}


def event(status: str, *parts: Json, **more: Any) -> Json:
    """An event."""
    return {
        "conversation_id": "c",
        "parts": list(parts),
        "status": status,
        "last_error": {},
        **more,
    }


def stream(events: Sequence[Json], write: Callable[[Json], str] = json.dumps) -> bytes:
    """The events as they are sent."""
    return "".join(f"data: {write(one)}\n\n" for one in events).encode()


def ask(*events: Json, write: Callable[[Json], str] = json.dumps) -> Reading:
    """What comes out of a stream of events."""
    return read(canned(ChatGLM, Canned(stream(events, write))).stream("Hi"))


def growing(*texts: str) -> list[Json]:
    """Events that repeat one part's text, the last of them at the end."""
    *before, last = (part("p", text(said)) for said in texts)
    return [*(event("init", one) for one in before), event("finish", last)]


class TestRequest:
    def test_exactly_as_documented(self, raw_server: RawServerFactory) -> None:
        """Path, headers and body are those of the service's own page."""
        server = raw_server(
            keep_alive([b"".join(on_the_wire(SHORT.body, "chunked", SHORT.content_type))])
        )
        with ChatGLM(base_url=server.url) as provider:
            for _ in range(2):
                assert str(provider.complete("Why?")) == SHORT.text
        first, second = server.requests
        assert (first.method, first.target) == ("POST", "/chatglm/mainchat-api/guest/stream")
        headers = {name.lower(): value for name, value in first.headers}
        device = headers.pop("x-device-id")
        assert re.fullmatch("[0-9a-f]{32}", device)
        assert second.header("x-device-id") != device
        assert re.match(r"Mozilla/5\.0 \(.*Chrome/", headers.pop("user-agent"))
        assert headers == {
            "accept": "text/event-stream",
            "accept-encoding": "gzip, deflate",
            "accept-language": "en-US,en;q=0.9",
            "app-name": "chatglm",
            "authorization": "undefined",
            "content-length": str(len(first.body)),
            "content-type": "application/json",
            "host": f"127.0.0.1:{server.port}",
            "origin": "https://chatglm.cn",
            "x-app-platform": "pc",
            "x-app-version": "0.0.1",
        }
        assert json.loads(first.body) == {
            "assistant_id": "65940acff94777010aa6b796",
            "conversation_id": "",
            "meta_data": {
                "if_plus_model": False,
                "is_test": False,
                "input_question_type": "xxxx",
                "channel": "",
                "draft_id": "",
                "quote_log_id": "",
                "platform": "pc",
            },
            "messages": [{"role": "user", "content": [{"type": "text", "text": "Why?"}]}],
        }

    def test_a_conversation_is_folded(self) -> None:
        """System messages and history, which the service does not take, become one message."""
        sender = Sender(Canned(SHORT.body))
        provider = with_sender(ChatGLM, sender)
        history = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes?"}]
        read(provider.stream([*history, {"role": "user", "content": "Why?"}], system="Be brief."))
        (message,) = sender.calls[0].json["messages"]
        assert message["role"] == "user"
        assert message["content"] == [
            text("System: Be brief.\nUser: Hi\nAssistant: Yes?\nUser: Why?\nAssistant:")
        ]

    def test_parameters_are_left_out(self, caplog: pytest.LogCaptureFixture) -> None:
        """The service takes none; ``extra_body`` chooses another assistant."""
        sender = Sender(Canned(SHORT.body))
        provider = with_sender(ChatGLM, sender)
        with caplog.at_level(logging.DEBUG, "llmproviders"):
            read(provider.stream("Hi", temperature=1, seed=2, extra_body={"assistant_id": "mine"}))
        assert "ChatGLM takes no seed, temperature; left out" in caplog.messages
        body = sender.calls[0].json
        assert body["assistant_id"] == "mine"
        assert not body.keys() & {"temperature", "seed", "model"}

    @pytest.mark.parametrize("extra", [None, {}])
    def test_no_extra_body(self, extra: Any) -> None:
        """An ``extra_body`` of None adds nothing, as with other clients."""
        sender = Sender(Canned(SHORT.body))
        read(with_sender(ChatGLM, sender).stream("Hi", extra_body=extra))
        assert sender.calls[0].json["assistant_id"] == "65940acff94777010aa6b796"

    def test_models(self) -> None:
        """There is one model, which has an older name; any other is refused before sending."""
        provider = ChatGLM()
        assert [provider.get_model(n) for n in (None, "glm-4", "all-tools-230b")] == ["glm-4"] * 3
        with pytest.raises(ModelNotFoundError, match="did you mean 'glm-4'"):
            next(provider.stream("Hi", model="glm4"))


class TestText:
    @pytest.mark.parametrize(
        ("events", "pieces"),
        [
            (growing("a", "ab", "abc"), ["a", "b", "c"]),
            (growing("a", "a", "ab"), ["a", "b"]),
            (growing("abc"), ["abc"]),
            ([event("init", part("p", text("abc"))), event("finish")], ["abc"]),
            ([event("init"), event("init", part("p")), *growing("a", "ab")], ["a", "b"]),
            (growing("", "\n", "\na"), ["\na"]),
            # half a character at the end waits for the other half
            (growing("Н\ufffd", "Не", "Нет"), ["Н", "е", "т"]),
            (growing("a\ufffd\ufffd", "a\ufffd", "a😀"), ["a", "😀"]),
            (growing("a\ud83d", "a😀", "a😀b"), ["a", "😀", "b"]),
            (growing("abc\ud83d", "abc😀"), ["abc", "😀"]),
            (growing("a\ud800", "a\U00010000"), ["a", "\U00010000"]),
            (growing("a\udbff", "a\U0010ffff"), ["a", "\U0010ffff"]),
            (growing("a", "a\ufffd"), ["a", "\ufffd"]),
            (growing("a\ufffdb", "a\ufffdbc"), ["a\ufffdb", "c"]),
            (growing("a", "a\ude00b", "a\ude00bc"), ["a", "\ufffdb", "c"]),
            # what is out stays out
            (growing("Hello world", "Hello", "Hello wo", "Hello world!"), ["Hello world", "!"]),
            (growing("Hello", "Help", "Help me"), ["Hello", " me"]),
            (growing("Hello", "", "Hello you"), ["Hello", " you"]),
            (growing("abc", "ab", "a"), ["abc"]),
            # an event in between that says nothing of the text
            ([event("init", part("p", text("a"))), event("init"), *growing("ab")], ["a", "b"]),
            # one that has no parts, and a part that has no content
            ([{"status": "init"}, {"status": "init", "parts": None}, *growing("a")], ["a"]),
            ([{"status": "init", "parts": [{}, {"content": None}]}, *growing("a")], ["a"]),
            # what grows beside the text
            ([event("init", part("p", text("a")), note="n" * n) for n in range(3)], ["a"]),
        ],
    )
    def test_only_what_is_new(self, events: list[Json], pieces: list[str]) -> None:
        """Of a text that is sent again and again, each piece comes once, none twice."""
        for write in (json.dumps, lambda e: json.dumps(e, separators=(",", ":"), sort_keys=True)):
            reading = ask(*events, event("finish"), write=write)
            assert list(reading.pieces) == pieces
            assert reading.finish is not None

    def test_a_rewrite_is_told(self) -> None:
        """When the service rewrote what was out already, the finish says so."""
        assert "rewrote" in str(ask(*growing("Hello", "Help", "Help me")).finish.detail)
        assert ask(*growing("Hello", "Hello you")).finish.detail is None

    @pytest.mark.parametrize(
        ("parts", "whole"),
        [
            ([part("a", text("one")), part("b", text("two"))], "one\ntwo"),
            ([part("a", {"type": "code", "code": "x"}), part("b", text("two"))], "two"),
            ([part("a", {"type": "think", "think": "hm"}, text("one"))], "one"),
            ([part("a", text("one "), text("more"))], "one more"),
            ([part("a"), part("b", text("")), part("c", text("three"))], "three"),
            ([part("a", {"type": "image", "image": [{"image_url": "u"}]}, text("one"))], "one"),
            ([part(None, text("one")), part(None, text("two"))], "one\ntwo"),
            ([part("", text("one")), part("", text("two"))], "one\ntwo"),
            ([part("a", text("one")), part("a", text("two"))], "one\ntwo"),
            ([{"content": [text("one")]}, {"content": [text("two")]}], "one\ntwo"),
            ([part("a", {"type": "new kind"}, text("one"))], "one"),
        ],
    )
    def test_parts(self, parts: list[Json], whole: str) -> None:
        """Text items of all parts are the reply, a line each; nothing else is."""
        assert ask(event("finish", *parts)).text == whole
        assert ask(event("init", *parts), event("finish")).text == whole

    def test_a_sentence_as_an_event(self) -> None:
        """Words in place of JSON are an error with its class; after text they cut the reply."""
        said = b"data: Rate limit reached\n\n"
        for before, cls in (
            (b"", RateLimitError),
            (stream(growing("a", "a")[:1]), StreamInterrupted),
        ):
            error = read(canned(ChatGLM, Canned(before + said)).stream("Hi")).error
            assert (type(error), error.detail) == (cls, "Rate limit reached")
        whole = Canned(b"429 Too Many Requests", "text/plain")
        assert type(read(canned(ChatGLM, whole).stream("Hi")).error) is RateLimitError

    def test_images_come_with_the_finish(self) -> None:
        """Images of all events and parts are in the finish, once, in their order."""

        def draws(key: str, *addresses: Any) -> Json:
            shown = [{"image_url": address} for address in addresses]
            return part(key, {"type": "image", "image": shown}, text("Look"))

        one, two = "https://pictures.example/1.png", "https://pictures.example/2.png"
        events = [event("init", draws("a", one)), event("init", draws("a", one, two))]
        reading = ask(
            *events, event("finish", part("a", text("Look")), draws("b", two, None, "", 7))
        )
        assert reading.text == "Look\nLook"
        assert [image.id for image in reading.finish.images] == [one, two]

    def test_images_alone_are_a_reply(self) -> None:
        """A reply of images without any text is whole."""
        drawn = {"type": "image", "image": [{"image_url": "https://pictures.example/1.png"}]}
        reading = ask(event("init", part("a")), event("finish", part("a", drawn)))
        assert reading.error is None
        assert [image.id for image in reading.finish.images] == ["https://pictures.example/1.png"]

    @pytest.mark.parametrize("image", [7, "u", {"image_url": "u"}, [7], ["u"]])
    def test_images_of_another_shape(self, image: Any) -> None:
        """What is no list of objects is an error, not a reply that lost its images."""
        odd = part("a", {"type": "image", "image": image})
        assert isinstance(ask(event("finish", odd)).error, ProtocolError)

    @pytest.mark.parametrize(
        "item",
        [
            lambda n: {"type": "image", "image": [{"image_url": f"{n}{'u' * 1_000_000}"}]},
            lambda n: {"type": "think", "think": f"{n}{'h' * 1_000_000}"},
        ],
        ids=["images", "thoughts"],
    )
    def test_what_is_kept_is_bounded(self, item: Callable[[int], Json]) -> None:
        """Thoughts and images that never end are an error before they fill the memory."""
        error = ask(*(event("init", part(f"p{n}", item(n))) for n in range(18))).error
        assert isinstance(error, ProtocolError)
        assert "larger than 16777216 bytes" in str(error)

    def test_an_earlier_part_ends_while_the_next_begins(self) -> None:
        """What an event adds to the part before the new one comes before it."""
        first = event("init", part("a", text("on\ufffd")))
        reading = ask(first, event("finish", part("a", text("one")), part("b", text("two"))))
        assert reading.text == "one\ntwo"

    def test_a_part_may_come_before_another(self) -> None:
        """What is new stands in the order in which it came, also from a part put before others."""
        one, two = part("a", text("one")), part("b", text("two"))
        assert ask(event("init", one), event("finish", two, one)).text == "one\ntwo"

    def test_a_part_may_come_alone(self) -> None:
        """An event that repeats only the part that grows does not end the others."""
        events = [part("a", text("one")), part("b", text("t")), part("b", text("two"))]
        assert ask(*(event("init", one) for one in events), event("finish")).text == "one\ntwo"

    def test_reasoning_is_no_text(self) -> None:
        """What the model thought comes with the finish, once."""
        grown = [part("p", {"type": "think", "think": said}, text("x")) for said in ("a", "ab")]
        reading = ask(*(event("init", one) for one in grown), event("finish", grown[-1]))
        assert reading.text == "x"
        assert reading.finish is not None
        assert reading.finish.reasoning == "ab"

    def test_reasoning_comes_as_it_grows(self) -> None:
        """A stream with ``reasoning=True`` yields each new piece of thought, once."""

        def thinks(key: str, said: str) -> Json:
            return part(key, {"type": "think", "think": said})

        told = [
            *(event("init", thinks("p", said)) for said in ("Let \ud83d", "Let 😀", "Let 😀")),
            event("init", thinks("p", "Let 😀"), thinks("q", "So")),
            event("finish", thinks("q", "So\ud83d"), part("r", text("Blue."))),
        ]
        with canned(ChatGLM, Canned(stream(told))) as provider:
            items = list(provider.stream("Why?", reasoning=True))
        assert [getattr(item, "text", str(item)) for item in items[:-1]] == [
            *("Let ", "😀", "\nSo", "\ufffd", "Blue."),
        ]
        assert items[-1].reasoning == "Let 😀\nSo\ufffd"

    def test_reasoning_of_several_parts(self) -> None:
        """The thoughts of each part are a line of their own."""
        parts = [part(key, {"type": "think", "think": key}, text("x")) for key in "ab"]
        assert ask(event("finish", *parts)).finish.reasoning == "a\nb"


SAID = st.text(
    st.sampled_from(
        ["a", "x", "é", "天", "😀", '"', "\\", "\n", "\u2028", "\ufffd", "\ud83d", "\ude00"]
    )
    | st.characters(),
    max_size=4,
)
STEP = st.tuples(
    st.sampled_from(["grow", "grow", "grow", "grow", "shrink", "rewrite", "part", "think", "code"]),
    SAID,
)


def played(steps: list[tuple[str, str]]) -> list[Json]:
    """The events of a reply that grows, shrinks, is rewritten and gets more parts."""
    parts: list[dict[str, str]] = [{"text": "", "think": ""}]
    events = []
    for kind, said in steps:
        last = parts[-1]
        if kind == "part":
            parts.append({"text": said, "think": ""})
        elif kind == "think":
            last["think"] += said
        elif kind == "code":
            last["code"] = said
        else:
            kept = {"grow": last["text"], "shrink": last["text"][:-2], "rewrite": ""}[kind]
            last["text"] = kept + (said if kind != "shrink" else "")
        items = [
            part(str(key), *({"type": kind, kind: value} for kind, value in fields.items()))
            for key, fields in enumerate(parts)
        ]
        events.append(json.loads(json.dumps(event("init", *items))))
    events.append({**events[-1], "status": "finish"} if events else event("finish"))
    return events


def by_definition(events: list[Json]) -> str:
    """The text, with every event read whole: what is new at the end of the part that speaks."""
    out, seen, speaking = "", dict[str, str](), ""
    for one in events:
        for each in one["parts"]:
            key = each["logic_id"]
            said = "".join(item.get("text", "") for item in each["content"])
            if one["status"] != "finish":
                said = re.sub("[\ufffd\ud800-\udbff]+$", "", said)
            if said and key not in seen:
                out += ("\n" if seen else "") + said
                seen[key], speaking = said, key
            elif said and said.startswith(seen[key]):
                out += said[len(seen[key]) :] if key == speaking else ""
                seen[key] = said
            elif said and not seen[key].startswith(said):
                seen[key] = said
    return out.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


WRITERS = st.builds(
    lambda compact, sort: (
        lambda one: json.dumps(one, separators=(",", ":") if compact else None, sort_keys=sort)
    ),
    st.booleans(),
    st.booleans(),
)


class TestGrowth:
    @given(st.lists(STEP, max_size=25), WRITERS)
    @example([("grow", "ab"), ("shrink", ""), ("grow", "x"), ("grow", "y")], json.dumps)
    @example([("grow", '"'), ("grow", "\\"), ("grow", '\\"'), ("grow", "u0041")], json.dumps)
    @example([("grow", "a\ud83d"), ("grow", "\ude00"), ("grow", "b"), ("grow", "c")], json.dumps)
    def test_reading_the_new_end_is_reading_it_all(
        self, steps: list[tuple[str, str]], write: Callable[[Json], str]
    ) -> None:
        """Whatever a reply does, its text is the same as if each event were read from its start."""
        events = played(steps)
        reading = ask(*events, write=write)
        expected = by_definition(events)
        if expected.strip():
            assert reading.text == expected
            assert reading.finish is not None

    @given(st.lists(SAID, min_size=1, max_size=25), WRITERS)
    def test_a_text_that_only_grows_comes_whole(
        self, pieces: list[str], write: Callable[[Json], str]
    ) -> None:
        """The pieces of a text that only grows are the text, also in raw UTF-8."""
        whole = "".join(pieces).encode("utf-8", "replace").decode()
        ends = sorted({min(len(whole), n * 3) for n in range(len(whole) // 3 + 2)})
        if whole.strip():
            events = growing(*(whole[:end] for end in ends))
            assert ask(*events, write=write).text == whole
            raw = ask(*events, write=lambda one: json.dumps(one, ensure_ascii=False))
            assert raw.text == whole

    @pytest.mark.parametrize("around", [{}, {"zone": ["x", {}]}])
    @pytest.mark.parametrize("unit", ["word ", '"\\', "天\n"])
    def test_a_long_reply_is_not_read_again_and_again(
        self, monkeypatch: pytest.MonkeyPatch, unit: str, around: Json
    ) -> None:
        """What repeats the text so far is read to its new end alone, but for the first events."""
        whole = read_in_full(monkeypatch, _cumulative)
        said = [unit * n for n in range(1, 200)]
        events = [event("init", part("p", text(one)), **around) for one in said]
        assert ask(*events, event("finish")).text == said[-1]
        assert 0 < len(whole) < 20

    def test_a_place_that_is_not_found_is_not_sought_for_ever(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Where the end of the text lies too far inside, each event is read once, whole."""
        whole = read_in_full(monkeypatch, _cumulative)
        said = ["x" * n for n in range(1, 200)]
        events = [event("init", part("p", text(one)), after=["x"] * 30) for one in said]
        assert ask(*events, event("finish")).text == said[-1]
        assert 0 < len(whole) < 300

    def test_a_text_that_was_rewritten_is_followed_again(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """After each rewrite the place where the text grows is found anew."""
        whole = read_in_full(monkeypatch, _cumulative)
        said = [f"{turn}" + "x" * n for turn in range(9) for n in range(1, 50)]
        events = [event("init", part("p", text(one))) for one in said]
        assert ask(*events, event("finish")).finish is not None
        assert 0 < len(whole) < 9 * 10


class TestEnd:
    def test_the_last_event_can_carry_text(self) -> None:
        """The event that ends the reply can bring the last piece of text, or none."""
        assert ask(*growing("a", "ab")).pieces == ("a", "b")
        reading = ask(event("init", part("p", text("ab"))), event("finish", part("p", text("ab"))))
        assert reading.pieces == ("ab",)
        assert (reading.finish.reason, reading.finish.raw) == ("stop", "finish")
        assert (reading.finish.provider, reading.finish.model) == ("ChatGLM", "glm-4")

    def test_nothing_after_the_end_counts(self) -> None:
        """What follows the end mark is not read as text."""
        assert ask(*growing("a"), event("init", part("q", text("b")))).text == "a"

    def test_moderation_after_text(self) -> None:
        """Moderation ends the stream with its reason, which is not the model's word."""
        error = {"intervene_type": "x", "intervene_text": "Why.", "risk_level": "high"}
        stopped = event("intervene", part("p"), last_error=error)
        reading = ask(event("init", part("p", text("ab"))), stopped)
        assert reading.pieces == ("ab",)
        finish = reading.finish
        assert (finish.reason, finish.raw) == ("content_filter", "intervene")
        assert finish.detail == "Why."

    @pytest.mark.parametrize(
        ("last_error", "detail"),
        [
            ({"intervene_text": "Why."}, "Why."),
            ({}, "moderation stopped the reply"),
            ({"intervene_text": 7}, "moderation stopped the reply"),
            (None, "moderation stopped the reply"),
            ("x", "moderation stopped the reply"),
        ],
    )
    def test_moderation_before_text(self, last_error: Any, detail: str) -> None:
        """A reply that moderation stopped before any text is refused, with the reason."""
        error = ask(event("init"), event("intervene", last_error=last_error)).error
        assert isinstance(error, RefusedError)
        assert error.detail == detail
        assert detail in str(error)

    @pytest.mark.parametrize("events", [[], [event("init")], growing("a", "ab")[:1]])
    def test_no_end_mark(self, events: list[Json]) -> None:
        """A stream that neither finishes nor is moderated was cut short."""
        assert isinstance(ask(*events).error, StreamInterrupted)

    @pytest.mark.parametrize(
        "body",
        [
            b"data: {not json}\n\n",
            b"data: []\n\n",
            b'data: {"odd": 1}\n\n',
            stream([event("init")])[:-3] + b"\n\n",
            stream([event("init", part("p", text("a")))]).replace(b'"a"', b'"\xff"'),
            stream([{"status": "init", "parts": {}}]),
            stream([{"status": "init", "parts": ["x"]}]),
            stream([{"status": "init", "parts": [{"content": "x"}]}]),
            stream([{"status": "init", "parts": [{"content": ["x"]}]}]),
            stream([event("init", part("p", {"type": "text"}))]),
            stream([event("init", part("p", {"type": "text", "text": 7}))]),
            stream([event("init", part("p", {"type": "think", "think": None}))]),
            stream([event("init", part("p", {"type": "text", "text": ["x"]}))]),
        ],
    )
    def test_what_cannot_be_understood(self, body: bytes) -> None:
        """Undecodable JSON and fields of another type are errors, never lost text."""
        for before in (b"", stream(growing("a", "ab")[:1])):
            reading = read(canned(ChatGLM, Canned(before + body)).stream("Hi"))
            assert isinstance(reading.error, ProtocolError)

    @pytest.mark.parametrize(
        ("parts", "wrong"),
        [
            ({}, "dict where parts was due"),
            (["x"], "str where parts was due"),
            ([{"content": "x"}], "str where content was due"),
            ([part("p", {"type": "text"})], "NoneType where text was due"),
            ([part("p", {"type": "think", "think": 7})], "int where think was due"),
        ],
    )
    def test_the_error_says_what_was_wrong(self, parts: Any, wrong: str) -> None:
        """It names the field that is not what it should be."""
        assert wrong in str(ask({"status": "init", "parts": parts}).error)

    @pytest.mark.parametrize(
        ("answer", "content_type", "cls"),
        [
            ({"message": "limit", "status": 429}, "application/json", RateLimitError),
            ({"message": "busy", "status": 1}, "application/json", ServerError),
            ({"code": 10061, "msg": "busy"}, "application/json", ServerError),
            ({"code": 400, "msg": "bad"}, "text/plain", InvalidRequestError),
            ({"msg": "busy"}, "application/json", ServerError),
            ({"status": 429}, "application/json", RateLimitError),
            ({"code": 429}, "application/json", RateLimitError),
            ({"message": "busy", "status": 1}, "", ServerError),
            ({"message": "busy", "status": 1}, "text/event-stream", ServerError),
            ({"message": "busy"}, "text/event-stream", ServerError),
            ({"message": "busy", "status": "10041"}, "application/json", ServerError),
            ({"msg": "limit", "code": 429, "status": "error"}, "text/plain", RateLimitError),
            ({"msg": "bad", "status": "400"}, "text/event-stream", InvalidRequestError),
            (
                event("error", last_error={"error_code": 429, "error_msg": "limit"}),
                "text/event-stream",
                RateLimitError,
            ),
            ({"other": 1}, "application/json", ProtocolError),
            (["x"], "application/json", ProtocolError),
        ],
    )
    def test_errors_with_status_200(
        self, answer: Any, content_type: str, cls: type[LLMError]
    ) -> None:
        """An error object in place of a stream, or in it, is the error that it tells of."""
        data = json.dumps(answer)
        body = f"data: {data}\n\n" if content_type == "text/event-stream" else data
        error = read(canned(ChatGLM, Canned(body.encode(), content_type)).stream("Hi")).error
        assert type(error) is cls
        for word in ("limit", "busy", "bad"):
            assert (word in str(error)) is (word in data)

    @pytest.mark.parametrize("content_type", ["text/event-stream", "application/json", ""])
    def test_a_body_is_told_by_how_it_begins(self, content_type: str) -> None:
        """A stream is one, and an error object is one, whatever the label says."""
        body = stream([*growing("It", "It scatters."), event("finish")])
        reading = read(canned(ChatGLM, Canned(body, content_type)).stream("Hi"))
        assert (reading.text, reading.error) == ("It scatters.", None)
        busy = Canned(b'{"message": "busy", "status": 429}', content_type)
        assert type(read(canned(ChatGLM, busy).stream("Hi")).error) is RateLimitError

    def test_a_page_instead_of_a_stream(self) -> None:
        """A web page with the label of a stream is named as what it is."""
        for before in (b"", b"\n", b" "):
            page = Canned(before + b"<html><title>Welcome</title></html>", "text/event-stream")
            error = read(canned(ChatGLM, page).stream("Hi")).error
            assert type(error) is ProtocolError
            assert "web page" in str(error)

    @pytest.mark.parametrize("blank", ["", " ", "\n\n"])
    def test_an_error_after_a_blank_piece_is_not_cut(self, blank: str) -> None:
        """An error keeps its class until there is text; space alone is none."""
        busy = {"message": "limit", "status": 429}
        events = [event("init", part("p", text(blank * size))) for size in (1, 2, 3)]
        assert type(ask(*events, busy).error) is RateLimitError

    def test_an_event_named_error(self) -> None:
        """It is an error of the service's, before text and after it."""
        failed = b"event: error\ndata: rate limit reached\n\n"
        for before, cls in (
            (b"", RateLimitError),
            (stream(growing("It", "It sc")[:1]), StreamInterrupted),
        ):
            error = read(canned(ChatGLM, Canned(before + failed)).stream("Hi")).error
            assert type(error) is cls
            assert "rate limit" in str(error)
