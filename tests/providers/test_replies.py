"""Replies as services really send them: each case says what has to come out of it."""

from __future__ import annotations

import itertools
import json
import logging
import time
import tracemalloc
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
import requests
import tenacity
from urllib3 import HTTPResponse

from llmproviders import (
    FailoverClient,
    FinishReason,
    LLMError,
    OpenAICompatible,
    ProtocolError,
    RateLimitError,
    ServerError,
    StreamInterrupted,
)
from llmproviders.providers import _chat_completions, _finish_words
from llmproviders.providers._chat_completions import MAX_SILENT_EVENTS
from llmproviders.providers._chat_parts import MAX_TOOL_CALLS
from llmproviders.providers._finish_words import FAILED_WORDS, FINISH_WORDS, NO_WORDS, reason_of
from llmproviders.testing import ScriptedProvider
from tests.conftest import RawServerFactory
from tests.support.calls import Canned, canned
from tests.support.cases import Case, load, provider_for
from tests.support.http_bytes import close_delimited, http_response
from tests.support.promise import read
from tests.support.rawserver import Connection, keep_alive

MIB = 1 << 20
GENEROUS_S = 10.0
"""Of the processor's time; what is linear takes a fraction of it, what is not takes minutes."""


def _function(name: str, arguments: str) -> dict[str, Any]:
    return {"function": {"name": name, "arguments": arguments}}


def _event(delta: dict[str, Any], finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n"


def _calls(*calls: dict[str, Any]) -> bytes:
    return _event({"tool_calls": list(calls)})


def _end(reason: str) -> bytes:
    return _event({}, reason) + b"data: [DONE]\n\n"


def _of(*blocks: bytes) -> Iterator[str]:
    return canned(OpenAICompatible, Canned(blocks), base_url="http://x/v1").stream("Hi")


CASES = [*load("openai-compatible.jsonl"), *load("more.jsonl")]
CHATS = [case for case in CASES if case.call != "models"]
MODELS = [case for case in CASES if case.call == "models"]
FAILING = [case for case in CHATS if "error" in case.expect]


@pytest.mark.parametrize("case", CHATS, ids=str)
def test_a_reply(raw_server: RawServerFactory, case: Case) -> None:
    """Over a real connection, a reply gives what its case says, in the time that it says."""
    server = raw_server(case.script())
    with provider_for(server.url) as provider:
        began = time.monotonic()
        reading = case.read(provider)
        took = time.monotonic() - began
    case.agrees_with(reading)
    assert took < case.expect.get("within", 10.0) + 3.0


@pytest.mark.parametrize("case", FAILING, ids=str)
def test_the_next_provider_answers(raw_server: RawServerFactory, case: Case) -> None:
    """Where a reply fails, the next provider's text comes, after as many tries as the class has."""
    server = raw_server(keep_alive(case.script()))
    with provider_for(server.url) as provider:
        client = FailoverClient(
            [provider, ScriptedProvider(["All is well."])], wait=tenacity.wait_none()
        )
        completion = client.complete("Hi")
    assert str(completion) == "All is well."
    case.agrees_with_error(completion.attempts[0].error)
    tried = [a.error for a in completion.attempts if a.error is not None]
    assert len(server.requests) == len(tried) <= 3
    assert len(server.requests) <= case.expect.get("requests", 3 if tried[0].retryable else 1)


@pytest.mark.parametrize("case", MODELS, ids=str)
def test_a_listing(raw_server: RawServerFactory, case: Case) -> None:
    """A listing of models gives the names that it has, or says what is wrong."""
    server = raw_server(keep_alive(case.script()))
    with provider_for(server.url) as provider:
        if "error" not in case.expect:
            assert provider.list_models() == case.expect["models"]
            return
        with pytest.raises(LLMError) as caught:
            provider.list_models()
    case.agrees_with_error(caught.value)


@pytest.mark.parametrize("case", [case for case in CHATS if case.status == 200], ids=str)
def test_a_reply_cut_at_every_byte(case: Case) -> None:
    """Cut anywhere, a reply is never more than what came of it, and never whole too soon."""
    body = case.raw
    full = read(_stream(body, case))
    for end in range(len(body)):
        reading = read(_stream(body[:end], case))
        if full.error is None:
            assert full.text.startswith(reading.text)
        if reading.finish is not None and full.finish is not None:
            assert reading.text == full.text
            assert reading.finish.reasoning == full.finish.reasoning
            names = [call["function"]["name"] for call in full.finish.tool_calls]
            assert [c["function"]["name"] for c in reading.finish.tool_calls] == names


@pytest.mark.parametrize("case", [case for case in CHATS if case.status == 200], ids=str)
def test_a_reply_in_single_bytes(case: Case) -> None:
    """A reply that comes byte by byte gives what its case says, as one that comes at once."""
    blocks = [bytes([byte]) for byte in case.raw]
    whole, drip = read(_stream(case.raw, case)), read(_stream(blocks, case))
    case.agrees_with(drip)
    assert drip.pieces == whole.pieces
    assert type(drip.error) is type(whole.error)
    if whole.finish is not None and drip.finish is not None:
        assert drip.finish._arguments().keys() == FinishReason()._arguments().keys()
        assert (drip.finish.reason, drip.finish.tool_calls) == (
            whole.finish.reason,
            whole.finish.tool_calls,
        )


def _stream(body: bytes | list[bytes], case: Case) -> Iterator[str]:
    reply = Canned(body, (case.type or "").partition(";")[0])
    return canned(OpenAICompatible, reply, base_url="http://x/v1").stream("Hi")


@pytest.mark.parametrize("coding", ["br", "zstd"])
def test_a_compression_that_was_not_asked_for(
    raw_server: RawServerFactory, coding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A body in a compression that cannot be read here is an error that names it."""
    monkeypatch.setattr(HTTPResponse, "CONTENT_DECODERS", ["gzip", "deflate"])
    headers = {"Content-Type": "text/event-stream", "Content-Encoding": coding}
    server = raw_server(http_response(200, headers, b"\x1b\x05\x00\xf8"))
    with provider_for(server.url) as provider:
        error = read(provider.stream("Hi")).error
    assert isinstance(error, ProtocolError)
    assert f"compressed with {coding}" in str(error)


def test_replies_before_the_reply(raw_server: RawServerFactory) -> None:
    """Any number of replies with a 1xx come before the one that counts."""
    case = next(case for case in CASES if case.id == "json-as-text")
    early = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n"
    server = raw_server([early * 3, *case.script()])
    with provider_for(server.url) as provider:
        case.agrees_with(case.read(provider))


def test_a_finish_without_an_end_through_a_session(raw_server: RawServerFactory) -> None:
    """With a session of the caller's, too, silence after a finish reason is waited for briefly."""
    case = next(case for case in CASES if case.id == "finish-then-silence")
    server = raw_server(case.script())
    with requests.Session() as session, provider_for(server.url, session=session) as provider:
        began = time.monotonic()
        case.agrees_with(case.read(provider))
    assert time.monotonic() - began < 10.0


def test_a_reply_that_nobody_ends_keeps_the_deadline(raw_server: RawServerFactory) -> None:
    """Comments without end after the finish reason do not hold the reply for longer."""
    body = next(case for case in CASES if case.id == "finish-then-silence").raw

    def drip(connection: Connection) -> None:
        connection.read_request()
        connection.run(
            http_response(200, {"Content-Type": "text/event-stream"}, close_delimited(body))
        )
        while not connection.closed:
            connection.pause(0.1)
            connection.send(b": keep-alive\n\n")

    server = raw_server(drip)
    with provider_for(server.url) as provider:
        began = time.monotonic()
        assert read(provider.stream("Hi")).text == "hi"
    assert time.monotonic() - began < 10.0


class TestLimits:
    """What a reply may hold, whatever it is sent in; memory and time are those of what is kept."""

    def test_a_thousand_calls_are_taken(self) -> None:
        """A thousand calls in one event or in as many are read, in order."""
        calls = [{"index": n, "id": f"c{n}", **_function("f", "{}")} for n in range(1000)]
        for events in ([_calls(*calls)], [_calls(call) for call in calls]):
            finish = read(_of(*events, _end("tool_calls"))).finish
            assert finish is not None
            assert [call["id"] for call in finish.tool_calls] == [f"c{n}" for n in range(1000)]

    def test_more_calls_are_not(self) -> None:
        """Calls beyond the limit are an error before they fill the memory."""
        many = [_calls({"index": n, **_function("f", "{}")}) for n in range(MAX_TOOL_CALLS + 1)]
        reading = read(_of(*many))
        assert isinstance(reading.error, ProtocolError)
        assert "calls of tools" in str(reading.error)

    def test_what_is_kept_is_counted(self) -> None:
        """Arguments and thoughts of more than 16 MiB are an error, in little more memory."""
        piece = "a" * 65536
        kinds = (
            _calls({"index": 0, **_function("f", piece)}),
            _event({"reasoning_content": piece}),
            _calls({"index": 0, "extra": {"a": piece}, **_function("f", "")}),
        )
        for event in kinds:
            tracemalloc.start()
            try:
                error = read(_of(*itertools.repeat(event, 1024))).error
                peak = tracemalloc.get_traced_memory()[1]
            finally:
                tracemalloc.stop()
            if b"extra" not in event:
                assert isinstance(error, ProtocolError)
            assert peak < 40 * MIB

    def test_arguments_in_many_pieces(self) -> None:
        """Arguments in tens of thousands of pieces are put together in time linear in them."""
        began = time.thread_time()
        pieces = [_calls({"index": 0, "function": {"arguments": "ab"}})] * 50_000
        first = _calls({"index": 0, "id": "x", **_function("f", '{"a":"')})
        last = _calls({"index": 0, "function": {"arguments": '"}'}})
        finish = read(_of(first, *pieces, last, _end("tool_calls"))).finish
        assert finish is not None
        (call,) = finish.tool_calls
        assert json.loads(call["function"]["arguments"]) == {"a": "ab" * 50_000}
        assert time.thread_time() - began < GENEROUS_S

    @pytest.mark.parametrize("opened", [False, True], ids=["text", "thoughts"])
    def test_white_space_in_many_pieces(self, opened: bool) -> None:
        """White space before a text or its thoughts costs no more where it comes in pieces."""
        began = time.thread_time()
        pieces = b"".join([_event({"content": "\n\n"})] * 1000)
        last = _event({"content": "<think>hm</think>a" if opened else "a"})
        finished = read(_of(*[pieces] * 240, last, _end("stop")))
        assert finished.text == ("a" if opened else "\n" * 480_000 + "a")
        assert time.thread_time() - began < GENEROUS_S

    @pytest.mark.parametrize("marks", [{"id": "x"}, {}], ids=["id", "name"])
    def test_pieces_that_look_like_calls(self, marks: dict[str, str]) -> None:
        """Pieces each of which could begin the next call of the same id or name cost no more."""
        began = time.thread_time()
        first = {"index": 0, **marks, **_function("f", '{"a":"')}
        piece = {"index": 0, **marks, **_function("f", "{" + "x" * 400 + "}")}
        finish = read(_of(_calls(first, *[piece] * 10_000), _end("tool_calls"))).finish
        assert finish is not None
        (call,) = finish.tool_calls
        assert len(call["function"]["arguments"]) > 4_000_000
        assert time.thread_time() - began < GENEROUS_S

    def test_arguments_that_are_nested_deeply(self) -> None:
        """Arguments of any depth are a text like any other."""
        first = {"index": 0, "id": "x", **_function("f", "[" * 200_000 + "{}")}
        reading = read(_of(_calls(first, {**first, **_function("f", "{}")}), _end("tool_calls")))
        assert reading.finish is not None
        assert len(reading.finish.tool_calls) == 1

    def test_pieces_that_each_have_an_id(self) -> None:
        """Arguments whose pieces have an id each are one call, in time linear in their number."""
        began = time.thread_time()
        pieces = [
            _calls({"index": 0, "id": f"p{n}", "function": {"arguments": "{}"}})
            for n in range(20_000)
        ]
        first = _calls({"index": 0, "id": "x", **_function("f", '{"a":"')})
        last = _calls({"index": 0, "id": "y", "function": {"arguments": '"}'}})
        finish = read(_of(first, *pieces, last, _end("tool_calls"))).finish
        assert finish is not None
        (call,) = finish.tool_calls
        assert call["id"] == "x"
        assert json.loads(call["function"]["arguments"]) == {"a": "{}" * 20_000}
        assert time.thread_time() - began < GENEROUS_S

    @pytest.mark.parametrize(
        "body",
        [
            b'data: {"choices": [' + b"{}," * (5 * MIB) + b"{}]}\n\n",
            b'{"choices": [' + b"{}," * (5 * MIB) + b"{}]}",
            b'data: {"choices": [' + b'"ab",' * (3 * MIB) + b"{}]}\n\n",
            _calls(*[{"index": 0, "function": {"arguments": "a"}}] * 200_000),
        ],
        ids=["event", "whole", "strings", "calls"],
    )
    def test_an_event_of_many_values(self, body: bytes) -> None:
        """Megabytes of tiny values in one event are an error, at once and in little memory."""
        began = time.thread_time()
        assert isinstance(read(_of(body)).error, ProtocolError)
        assert time.thread_time() - began < GENEROUS_S
        tracemalloc.start()
        try:
            read(_of(body))
            assert tracemalloc.get_traced_memory()[1] < 40 * MIB
        finally:
            tracemalloc.stop()

    def test_an_error_of_many_values(self) -> None:
        """An error that has more values than an event may have is told without reading them."""
        body = b"event: error\ndata: [" + b"{}," * 2**19 + b"{}]\n\n"
        tracemalloc.start()
        try:
            assert type(read(_of(body)).error) is ServerError
            assert tracemalloc.get_traced_memory()[1] < 12 * len(body)
        finally:
            tracemalloc.stop()

    def test_a_long_text_full_of_commas(self) -> None:
        """A text may hold as many commas and quotes as it likes."""
        text = '{"a": [1, 2]}, ' * 200_000
        assert read(_of(_event({"content": text}), _end("stop"))).text == text

    def test_events_without_text(self) -> None:
        """A hundred thousand events without text are passed over; without end they are not."""
        silent = b"data: {}\n\n" * 1000
        text = [_event({"content": "hi"}), _end("stop")]
        assert read(_of(*[silent] * 100, *text)).text == "hi"
        endless = read(_of(*[silent] * (MAX_SILENT_EVENTS // 1000 + 1), *text)).error
        assert isinstance(endless, ProtocolError)
        assert "brought no text" in str(endless)
        blank = _event({"content": ""})
        error = read(_of(*text[:1], *[blank * 1000] * (MAX_SILENT_EVENTS // 1000 + 1))).error
        assert isinstance(error, ProtocolError)


class TestCounts:
    """Where the limits of a reply lie, with smaller ones."""

    def test_events_that_bring_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """As many events as are allowed may bring nothing, and not one more."""
        monkeypatch.setattr(_chat_completions, "MAX_SILENT_EVENTS", 3)
        for silent in (b"data: {}\n\n", _event({}), _event({"content": ""})):
            text = [_event({"content": "hi"}), _end("stop")]
            assert read(_of(*[silent] * 3, *text)).text == "hi"
            assert isinstance(read(_of(*[silent] * 4, *text)).error, ProtocolError)

    @pytest.mark.parametrize(
        "delta",
        [
            {"reasoning": "hm"},
            {"refusal": "no"},
            {"images": [{"image_url": "data:image/png;base64,AAEC"}]},
            {"tool_calls": [{"index": 0, **_function("f", "a")}]},
            {"content": "<think>hm"},
            {"content": " "},
            {"content": "a"},
        ],
        ids=lambda delta: next(iter(delta)),
    )
    def test_events_that_bring_something(
        self, delta: dict[str, Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Thoughts, refusals, images, calls and a tag that has begun are no silence."""
        monkeypatch.setattr(_chat_completions, "MAX_SILENT_EVENTS", 1)
        assert not isinstance(read(_of(*[_event(delta)] * 5, _end("stop"))).error, ProtocolError)

    def test_bytes_that_are_kept(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """As many bytes as are allowed may be kept, and not one more."""
        monkeypatch.setattr(_chat_completions, "MAX_KEPT", 8)
        end = [_event({"content": "hi"}), _end("stop")]
        for delta in ({"reasoning": "\u00e9\u00e9"}, {"refusal": "hm, "}):
            pieces = [_event(delta)] * 2
            assert read(_of(*pieces, *end)).text == "hi"
            error = read(_of(*pieces, _event({"reasoning": "x"}), *end)).error
            assert isinstance(error, ProtocolError)


class Hastened(Canned):
    """A reply that keeps how often its end was hastened."""

    times = 0

    def hasten(self, seconds: float) -> None:
        """Note it."""
        assert 0 < seconds <= 1
        self.times += 1


def test_the_wait_after_the_reason_begins_once() -> None:
    """What follows a finish reason without text does not prolong the wait for the end."""
    counts = b'data: {"choices": [], "usage": {"total_tokens": 1}}\n\n'
    end = _event({}, "stop")
    for rest, times in ((b"", 1), (counts * 3 + end, 1), (_event({"content": "b"}), 2)):
        reply = Hastened(_event({"content": "a"}) + end + rest + b"data: [DONE]\n\n")
        read(canned(OpenAICompatible, reply, base_url="http://x/v1").stream("Hi"))
        assert reply.times == times


def test_an_unknown_word_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    """A finish reason that nobody knows is a reply all the same, and is logged once."""
    with caplog.at_level(logging.WARNING, "llmproviders"):
        for _ in range(2):
            finish = read(_of(_event({"content": "a"}), _end("evaporated"))).finish
            assert finish is not None
            assert (finish.reason, finish.raw) == ("other", "evaporated")
    assert [m for m in caplog.messages if "evaporated" in m] == [
        "a reply ended with the finish reason 'evaporated', which is not known"
    ]


def test_every_word_has_one_reason() -> None:
    """No word stands in the table twice, and each is written as it is looked up."""
    words = [word for words in FINISH_WORDS.values() for word in words]
    words += [*FAILED_WORDS, *NO_WORDS]
    assert len(set(words)) == len(words)
    for reason, known in FINISH_WORDS.items():
        assert {reason_of(word) for word in known} == {reason}
        assert {reason_of(word.upper()) for word in known} == {reason}
    assert {reason_of(word) for word in FAILED_WORDS} == {None}


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("endTurn", "stop"),
        (" End-of Turn ", "stop"),
        ("<|endoftext|>", "stop"),
        ("FinishReason.STOP", "stop"),
        ("stop_reason.end_turn", "stop"),
        ("ALTERNATIVE_STATUS_FINAL", "stop"),
        ("content_filter: RECITATION", "content_filter"),
        ("MAX TOKENS : 5 : of 5", "length"),
        ("FinishReason.ABORT", None),
        ("abort: by the user", None),
        ("brandNewError", None),
        ("error of the third kind", "other"),
        ("unstoppable", "other"),
        ("non-stop", "other"),
    ],
)
def test_ways_to_write_a_word(word: str, reason: str | None) -> None:
    """A word is known in any case and spelling, behind its type's name and before details."""
    assert reason_of(word) == reason


@pytest.mark.parametrize("word", ["", " ", "NULL", "inProgress", "FINISH_REASON_UNSPECIFIED"])
def test_a_word_that_says_nothing(word: str) -> None:
    """A reply goes on after a word that means that there is none, however it is written."""
    first, last = (_event({"content": text}, word) for text in ("a", "b"))
    assert read(_of(first, last, _end("stop"))).text == "ab"


def test_unknown_words_without_end(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A service that makes up a new word for each reply does not fill the log."""
    monkeypatch.setattr(_finish_words, "_unknown_words", set())
    with caplog.at_level(logging.WARNING, "llmproviders"):
        for number in range(150):
            assert read(_of(_event({"content": "a"}), _end(f"made up {number}"))).text == "a"
    assert len(caplog.messages) == 100


def test_images() -> None:
    """What a service drew comes with the finish reason, and a reply of images is not empty."""
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAEC"}}
    finish = read_items(_of(_event({"content": "", "images": [image]}), _end("stop")))
    assert [picture.bytes() for picture in finish.images] == [bytes([0, 1, 2])]


def test_forms_of_an_image() -> None:
    """An image's address may stand alone; what has none is no image, and does no harm."""
    address = "data:image/png;base64,AAEC"
    images = [{"image_url": address}, {"image_url": {"url": address}}]
    odd = ["x", 7, {}, {"image_url": ""}, {"image_url": {"url": 7}}, {"image_url": 7}]
    finish = read_items(_of(_event({"content": "a", "images": [*odd, *images]}), _end("stop")))
    assert [picture.bytes() for picture in finish.images] == [bytes([0, 1, 2])] * 2


def _failing(*events: Any, done: bool = False, **arguments: Any) -> LLMError:
    """What a stream of these events raises."""
    body = b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events)
    body += b"data: [DONE]\n\n" if done else b""
    reply = Canned([body], headers=arguments.pop("headers", {}))
    provider = canned(OpenAICompatible, reply, base_url="http://x/v1", **arguments)
    with pytest.raises(LLMError) as caught:
        list(provider.stream("Hi"))
    return caught.value


def _piece(text: str, **fields: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}], **fields}


@pytest.mark.parametrize("done", [False, True])
@pytest.mark.parametrize(
    ("event", "kind"),
    [
        ({"message": "Too many requests"}, RateLimitError),
        ({"Error": {"Message": "Too many requests", "Code": 429}}, RateLimitError),
        ({"errors": "Too many requests"}, RateLimitError),
        ({"errors": {"model": ["Too many requests"]}}, RateLimitError),
        ({"Detail": "Too many requests"}, RateLimitError),
    ],
)
def test_an_error_told_without_a_mark(event: Any, kind: type[LLMError], done: bool) -> None:
    """An error in any shape, instead of a reply, is raised with its own class and words."""
    error = _failing(event, done=done)
    assert type(error) is kind
    assert error.detail is not None
    assert "Too many requests" in error.detail


def test_a_message_amid_a_reply() -> None:
    """A message before the text of a whole reply is no error."""
    events = [{"message": "loading the model"}, {"detail": "queued"}, _piece("Hi.")]
    body = b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events)
    assert "".join(_of(body + _end("stop"))) == "Hi."
    assert "".join(_of(body + b"data: [DONE]\n\n")) == "Hi."


def test_words_beside_a_failed_finish() -> None:
    """What a service says beside a finish reason that means a failure is in the error."""
    failed = {"choices": [{"index": 0, "delta": {}, "finish_reason": "error"}]}
    error = _failing({**failed, "message": "the GPU fell off", "code": 500})
    assert type(error) is ServerError
    assert (error.detail, error.status_code) == ("the GPU fell off", 500)
    error = _failing({**failed, "message": {"role": "assistant", "content": "words"}})
    assert (type(error), error.detail) == (ServerError, None)


def test_the_tokens_of_a_reply_that_failed() -> None:
    """Tokens that were counted before a reply failed or was cut are in its attempt."""
    counted = _piece("ab", usage={"prompt_tokens": 5, "completion_tokens": 7})
    ends: list[list[Any]] = [
        [],
        [{"error": {"message": "x"}}],
        [{"choices": [{"index": 0, "delta": {}, "finish_reason": "error"}]}],
    ]
    for end in ends:
        error = _failing(counted, *end)
        assert isinstance(error, StreamInterrupted)
        (attempt,) = error.attempts
        assert attempt.usage is not None
        assert (attempt.usage.prompt_tokens, attempt.usage.completion_tokens) == (5, 7)


@pytest.mark.parametrize("first", ["", " ", "\n"])
def test_an_error_after_a_blank_piece_and_text(first: str) -> None:
    """An error after text is an interruption, also if the first piece was blank."""
    pieces = [_piece(first), _piece("ab"), _piece("cd")]
    told = {"error": {"message": "slow", "code": 429}}
    error = _failing(*pieces, told, think_tags=False)
    assert isinstance(error, StreamInterrupted)
    assert error.partial_text.strip() == "abcd"


@pytest.mark.parametrize(
    ("told", "retryable"),
    [
        ({"code": "insufficient_quota", "message": "no credit"}, False),
        ({"code": "context_length_exceeded", "message": "too long"}, False),
        ({"message": "busy", "code": 503}, True),
    ],
)
def test_whether_an_interruption_passes(told: dict[str, Any], retryable: bool) -> None:
    """An interruption is worth another try if its cause is."""
    error = _failing(_piece("ab"), {"error": told})
    assert isinstance(error, StreamInterrupted)
    assert error.retryable is retryable


def test_a_wait_in_the_headers_of_a_failed_stream() -> None:
    """The headers of a reply with status 200 tell how long to wait after an error inside it."""
    told = {"error": {"message": "slow", "code": 429}}
    assert _failing(told, headers={"retry-after": "42"}).retry_after == 42.0


def test_half_characters_beside_the_text() -> None:
    """A refusal and a model with half characters can be printed."""
    body = (
        _event({"content": "x"}) + _event({"refusal": "no \ud83d"}) + _event({"refusal": "\ude00"})
    )
    body = body.replace(b'{"choices"', b'{"model": "m\\ud83d", "choices"')
    *_, finish = _of(body + _end("stop"))
    assert isinstance(finish, FinishReason)
    assert (finish.detail, finish.model) == ("no \U0001f600", "m\ufffd")


def read_items(stream: Iterable[str]) -> FinishReason:
    """The end of a stream of which nothing else is looked at."""
    *_, finish = stream
    assert isinstance(finish, FinishReason)
    return finish
