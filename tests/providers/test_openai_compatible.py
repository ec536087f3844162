"""OpenAICompatible: chat completions as a dozen servers speak them."""

from __future__ import annotations

import json
import logging
import pickle
import threading
from collections.abc import Callable, Generator
from contextlib import ExitStack, closing
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from llmproviders import (
    AuthenticationError,
    DeadlineExceeded,
    DeepSeek,
    EmptyReplyError,
    FailoverClient,
    InvalidRequestError,
    LLMError,
    MissingAuthError,
    ModelNotFoundError,
    OpenAICompatible,
    ProtocolError,
    QuotaExceededError,
    RateLimitError,
    RefusedError,
    ServerError,
    StreamInterrupted,
    UnsupportedError,
    Usage,
)
from llmproviders._account.keys import KeyFile
from tests.conftest import RawServerFactory
from tests.support.calls import Canned, Sender, canned, with_sender
from tests.support.golden import goldens, on_the_wire
from tests.support.http_bytes import chunked, content_length, http_response
from tests.support.promise import Reading, read
from tests.support.rawserver import Reset, Stall, keep_alive

SHORT = goldens("openaicompatible", name="short")[0]
KEY = "sk-test-0123456789abcdef"
JSON = "application/json"
LOCAL = "http://127.0.0.1:9/v1"
PATIENCE_S = 10.0
DONE = b"data: [DONE]\n\n"


def chunk(content: Any = None, **more: Any) -> dict[str, Any]:
    """An event with one choice."""
    delta = {} if content is None else {"content": content}
    return {"choices": [{"index": 0, "delta": {**delta, **more}, "finish_reason": None}]}


def stop(reason: str = "stop") -> dict[str, Any]:
    """The event that tells why the reply ends."""
    return {"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]}


def events(*values: Any, end: bytes = DONE) -> bytes:
    """A stream of events; bytes are taken as they are."""
    raw = (v if isinstance(v, bytes) else f"data: {json.dumps(v)}\n\n".encode() for v in values)
    return b"".join(raw) + end


def ask(*values: Any, end: bytes = DONE) -> Reading:
    """What comes out of a stream of events."""
    provider = canned(OpenAICompatible, Canned(events(*values, end=end)), base_url=LOCAL)
    return read(provider.stream("Hi"))


def whole(message: Any, reason: str = "stop", **more: Any) -> Reading:
    """What comes out of a whole reply in JSON."""
    choice = {"index": 0, "message": message, "finish_reason": reason}
    body = json.dumps({"choices": [choice], **more}).encode()
    provider = canned(OpenAICompatible, Canned(body, JSON), base_url=LOCAL)
    return read(provider.create_generator(None, "Hi", stream=False))


def call_of(prompt: Any = "Hi", *, stream: bool = True, **arguments: Any) -> dict[str, Any]:
    """The body that is sent."""
    sender = Sender(Canned(SHORT.body))
    provider = with_sender(OpenAICompatible, sender, base_url=LOCAL)
    read(
        provider.create_generator(arguments.pop("model", None), prompt, stream=stream, **arguments)
    )
    body: dict[str, Any] = sender.calls[0].json
    return body


class TestRequest:
    def test_exactly_as_documented(self, raw_server: RawServerFactory) -> None:
        """Path, headers and body are those that these servers know."""
        reply = b"".join(on_the_wire(SHORT.body, "chunked", SHORT.content_type))
        server = raw_server(keep_alive([reply]))
        address = f"{server.url}/some/v1/"
        with OpenAICompatible(base_url=address, api_key=KEY, model="llama3.2") as provider:
            assert str(provider.complete("Why?", temperature=0.5)) == SHORT.text
        (request,) = server.requests
        assert (request.method, request.target) == ("POST", "/some/v1/chat/completions")
        assert {name.lower(): value for name, value in request.headers} == {
            "accept": "application/json, text/event-stream",
            "accept-encoding": "gzip, deflate",
            "authorization": f"Bearer {KEY}",
            "content-length": str(len(request.body)),
            "content-type": "application/json",
            "host": f"127.0.0.1:{server.port}",
            "user-agent": "llmproviders",
        }
        assert json.loads(request.body) == {
            "model": "llama3.2",
            "messages": [{"role": "user", "content": "Why?"}],
            "stream": True,
            "stream_options": {"include_usage": True},
            "temperature": 0.5,
        }

    def test_not_streaming(self) -> None:
        """Asked for a whole reply, a server is not asked to stream, nor for options of a stream."""
        body = call_of(stream=False)
        assert body["stream"] is False
        assert "stream_options" not in body

    def test_messages_and_parameters(self, caplog: pytest.LogCaptureFixture) -> None:
        """Roles are kept, parameters that these servers know are sent, others left out and told."""
        messages = [
            {"role": "user", "content": [{"type": "text", "text": "Hi"}], "name": "me"},
            {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]},
            {"role": "tool", "content": "7", "tool_call_id": "1"},
        ]
        with caplog.at_level(logging.DEBUG, "llmproviders"):
            body = call_of(
                messages, system="S", seed=0, stop=["x"], tools=[{}], top_p=None, profanity_check=1
            )
        assert body["messages"] == [
            {"role": "system", "content": "S"},
            {"role": "user", "content": "Hi", "name": "me"},
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [{"id": "1", "type": "function"}],
            },
            {"role": "tool", "content": "7", "tool_call_id": "1"},
        ]
        assert (body["seed"], body["stop"], body["tools"]) == (0, ["x"], [{}])
        assert not body.keys() & {"top_p", "profanity_check"}
        assert "OpenAICompatible takes no profanity_check; left out" in caplog.messages

    def test_a_reply_with_another_label(self, raw_server: RawServerFactory) -> None:
        """What comes with the label of a web page is read all the same; a page is none."""
        html = {"Content-Type": "text/html; charset=UTF-8"}
        page = b"<html><title>Welcome</title></html>"
        models, vectors = b'{"data": [{"id": "a"}]}', b'{"data": [{"index": 0, "embedding": [1]}]}'
        bodies = (SHORT.body, models, vectors, page)
        server = raw_server(keep_alive(*(http_response(200, html, body) for body in bodies)))
        with OpenAICompatible(base_url=f"{server.url}/v1", model="m") as provider:
            assert str(provider.complete("Why?")) == SHORT.text
            assert provider.list_models() == ["a"]
            assert provider.embed("Why?")[0].vector == [1]
            calls: list[Callable[[], object]] = [
                lambda: provider.complete("Why?"),
                lambda: provider.embed("Why?"),
                provider.list_models,
            ]
            for call in calls:
                with pytest.raises(ProtocolError, match="web page"):
                    call()

    def test_formats_of_a_reply(self) -> None:
        """A server without schemas takes JSON; a schema, and tools beside it, are refused unsent.

        The error names what the server cannot do.
        """

        class Plain(OpenAICompatible):
            supports_schema = False
            supports_tools = False

        some, schema = {"type": "json_object"}, {"type": "json_schema", "json_schema": {}}
        sender = Sender(Canned(SHORT.body))
        plain = with_sender(Plain, sender, base_url=LOCAL, name="plain")
        assert read(plain.stream("Hi", response_format=some, seed=1)).error is None
        body = sender.calls[0].json
        assert (body["response_format"], body["seed"]) == (some, 1)
        for params, words in (
            ({"response_format": schema}, "plain has no json_schema, only json_object"),
            ({"response_format": {"type": "regex"}}, "plain cannot answer in a response_format"),
            ({"response_format": some, "tools": [{}]}, "plain cannot call functions"),
        ):
            with pytest.raises(UnsupportedError, match=words):
                next(plain.stream("Hi", **params))
        assert len(sender.calls) == 1
        assert call_of(response_format=schema)["response_format"] == schema

    def test_extra_body_is_merged_as_it_is(self) -> None:
        """It adds fields, wins over what is there, and takes out what is None."""
        body = call_of(extra_body={"top_k": 5, "stream_options": None}, model="any-name")
        assert (body["top_k"], "stream_options" in body, body["model"]) == (5, False, "any-name")


class TestKey:
    def test_a_local_server_needs_none(self) -> None:
        """Without a key nothing is sent in its place."""
        provider = with_sender(
            OpenAICompatible, sender := Sender(Canned(SHORT.body)), base_url=LOCAL
        )
        read(provider.stream("Hi"))
        assert sender.calls[0].authorization is None

    def test_openai_itself_needs_one(self) -> None:
        """Where the address wants a key, a missing one is reported at the call, before sending."""
        provider = with_sender(OpenAICompatible, sender := Sender(Canned()))
        stream = provider.stream("Hi")
        for ask_for in (lambda: next(stream), provider.list_models):
            with pytest.raises(MissingAuthError, match=r"OPENAI_API_KEY.*api_key=") as caught:
                ask_for()
            said = str(caught.value)
            assert said.startswith("OpenAICompatible needs a key: ")
            assert said.endswith(", or set OPENAI_BASE_URL to a server that needs none")
        assert sender.calls == []

    def test_whether_there_is_one(self) -> None:
        """It is checked without asking anybody; a service that always needs one says just that."""
        OpenAICompatible(base_url=LOCAL).check_credentials()
        OpenAICompatible(api_key=KEY).check_credentials()
        for provider in (OpenAICompatible(), DeepSeek(), DeepSeek(base_url=LOCAL)):
            with pytest.raises(MissingAuthError) as caught:
                provider.check_credentials()
            said = str(caught.value)
            assert said.startswith(f"{provider.name} needs a key: ")
            assert ("server that needs none" in said) is (type(provider) is OpenAICompatible)

    def test_one_that_is_held_back(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A service that always needs a key says that the one there is goes to its own address."""
        monkeypatch.setenv("DEEPSEEK_API_KEY", KEY)
        DeepSeek().check_credentials()
        with pytest.raises(MissingAuthError, match="needs a key: DEEPSEEK_API_KEY was held back"):
            DeepSeek(base_url=LOCAL).check_credentials()

    def test_a_file_is_read_again_and_again(self, tmp_path: Path) -> None:
        """A key that was renewed in its file goes with the next call; one that was given stays."""
        path = tmp_path / "key"
        sender = Sender(Canned(SHORT.body))
        provider = with_sender(OpenAICompatible, sender, base_url=LOCAL, api_key=KeyFile(str(path)))
        for key in ("one", "two"):
            path.write_text(key)
            path.chmod(0o600)
            read(provider.stream("Hi"))
        assert [call.authorization for call in sender.calls] == ["Bearer one", "Bearer two"]

    def test_what_tells_providers_apart(self) -> None:
        """Keys have digests by their address; whether thoughts are text makes another provider."""
        one, other = (OpenAICompatible(base_url=LOCAL, api_key=key) for key in (KEY, "other"))
        moved = OpenAICompatible(base_url="http://x/v1", api_key=KEY)
        digests = {provider.credential_digest() for provider in (one, other, moved)}
        assert len(digests) == 3
        assert None not in digests
        assert KEY not in str(digests)
        assert OpenAICompatible(base_url=LOCAL).credential_digest() is None
        assert one.identity() == other.identity() != moved.identity()
        tags = OpenAICompatible(base_url=LOCAL, think_tags=False)
        assert tags.identity() != one.identity()

    def test_the_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Key, address and model come from the environment unless an argument says otherwise."""
        monkeypatch.setenv("OPENAI_API_KEY", KEY)
        monkeypatch.setenv("OPENAI_BASE_URL", LOCAL)
        monkeypatch.setenv("OPENAI_MODEL", "from-env")
        for arguments, expected in [
            ({}, (f"Bearer {KEY}", LOCAL, "from-env")),
            ({"api_key": "other", "model": "m"}, ("Bearer other", LOCAL, "m")),
            ({"base_url": "http://x/v1"}, (None, "http://x/v1", "from-env")),
        ]:
            sender = Sender(Canned(SHORT.body))
            read(with_sender(OpenAICompatible, sender, **arguments).stream("Hi"))
            (call,) = sender.calls
            address = call.url.removesuffix("/chat/completions")
            assert (call.authorization, address, call.json["model"]) == expected

    def test_our_own_name_for_the_address_wins(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """``LLMPROVIDERS_OPENAICOMPATIBLE_BASE_URL`` goes before ``OPENAI_BASE_URL``."""
        monkeypatch.setenv("OPENAI_BASE_URL", "http://x/v1")
        monkeypatch.setenv("LLMPROVIDERS_OPENAICOMPATIBLE_BASE_URL", LOCAL)
        assert OpenAICompatible().base_url == LOCAL

    @pytest.mark.parametrize("key", [f"{KEY} {KEY}", f"{KEY}\r\nX-Injected: 1", "ключ-" + KEY])
    def test_a_key_that_cannot_be_sent(self, raw_server: RawServerFactory, key: str) -> None:
        """A key with a line end, a space or strange letters inside is an error without it."""
        server = raw_server(http_response())
        with OpenAICompatible(base_url=server.url, api_key=key) as provider:
            error = read(provider.stream("Hi")).error
        assert isinstance(error, AuthenticationError)
        assert error.status_code is None
        assert server.requests == []
        assert KEY not in f"{error!r} {error} {error.__cause__!r} {error.__cause__}"

    def test_nothing_shows_it(self, caplog: pytest.LogCaptureFixture) -> None:
        """No ``repr``, log line, error that echoes the key, or pickle of it shows it."""
        echo = AuthenticationError(f"Incorrect API key provided: {KEY}", status_code=401)
        sender = Sender(Canned(json.dumps({"error": {"message": f"bad {KEY}"}}).encode(), JSON))
        with caplog.at_level(logging.DEBUG):
            provider = with_sender(OpenAICompatible, sender, base_url=LOCAL, api_key=KEY)
            error = read(provider.stream("Hi")).error
        shown = [repr(provider), caplog.text, str(error), repr(error), str(echo.detail)]
        assert KEY not in "".join(shown)
        assert KEY.encode() not in pickle.dumps(error)

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            ({"max_concurrency": 0}, "max_concurrency must be a whole number of at least 1"),
            ({"max_concurrency": "2"}, "max_concurrency must be"),
            ({"think_tags": "no"}, "think_tags must be"),
            ({"api_key": 7}, "^api_key "),
        ],
    )
    def test_arguments_that_are_none(self, arguments: dict[str, Any], words: str) -> None:
        """An argument of another type, or out of its range, is refused by its name."""
        with pytest.raises(InvalidRequestError, match=words):
            OpenAICompatible(base_url=LOCAL, **arguments)

    def test_thoughts_in_tags(self) -> None:
        """What stands in tags before the text is reasoning, unless it is asked for as text."""
        body = events(chunk("<think>hm</think>a"), stop())
        for tags, text in ((True, "a"), (False, "<think>hm</think>a")):
            provider = canned(OpenAICompatible, Canned(body), base_url=LOCAL, think_tags=tags)
            assert read(provider.stream("Hi")).text == text


class TestPlaces:
    def test_one_for_a_key_and_an_address(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A stream holds a place of its key at its address until it ends; others have their own.

        A thread that would wait for a stream of its own is told so.
        """

        def begin(**arguments: Any) -> Generator[str, None, None]:
            arguments = {"base_url": LOCAL, "max_concurrency": 1, **arguments}
            stream = canned(OpenAICompatible, Canned(SHORT.body), **arguments).stream("Hi")
            next(stream)
            return stream

        with ExitStack() as open_streams:
            for arguments in (
                {"api_key": KEY},
                {"api_key": "another"},
                {"api_key": KEY, "base_url": "http://x/v1"},
            ):
                open_streams.enter_context(closing(begin(**arguments)))
            begin().close()
            monkeypatch.setenv("OPENAI_API_KEY", KEY)
            monkeypatch.setenv("OPENAI_BASE_URL", LOCAL)
            with pytest.raises(RateLimitError, match="holds open itself"):
                begin()
        assert read(begin(api_key=KEY)).error is None

    def test_a_wait_for_one_ends_with_the_call(self) -> None:
        """Where another thread has the only place, a call waits as long as its deadline lets it."""
        provider = canned(OpenAICompatible, Canned(SHORT.body), base_url=LOCAL, max_concurrency=1)
        inside, leave = threading.Event(), threading.Event()

        def hold() -> None:
            with closing(provider.stream("Hi")) as stream:
                next(stream)
                inside.set()
                leave.wait(PATIENCE_S)

        holder = threading.Thread(target=hold)
        holder.start()
        try:
            assert inside.wait(PATIENCE_S)
            with pytest.raises(DeadlineExceeded):
                FailoverClient([provider], deadline=0.05).complete("Hi")
        finally:
            leave.set()
            holder.join()

    def test_any_number_without_a_limit(self) -> None:
        """Without a limit, a key's requests run at the same time."""
        provider = canned(OpenAICompatible, Canned(SHORT.body), base_url=LOCAL)
        streams = [provider.stream("Hi") for _ in range(3)]
        assert all(next(stream) for stream in streams)
        for stream in streams:
            stream.close()


class TestStream:
    @pytest.mark.parametrize(
        ("values", "pieces"),
        [
            ([chunk("a"), chunk("b"), stop()], ["a", "b"]),
            ([chunk(role="assistant"), chunk("", role="assistant"), chunk("a"), stop()], ["a"]),
            ([b": keep-alive\n\n", b":\n", chunk("a"), b": keep-alive\n\n", stop()], ["a"]),
            ([{"choices": []}, chunk("a"), stop(), {"choices": [], "usage": None}], ["a"]),
            ([chunk("a"), {"choices": None, "usage": {"total_tokens": 1}}], ["a"]),
            ([{"choices": [{"delta": {"content": "a"}}]}], ["a"]),
            ([{"choices": [{"delta": {"content": "a"}, "index": None}]}], ["a"]),
            ([{"choices": [{"delta": {"content": "b"}, "index": 1}]}, chunk("a")], ["a"]),
            ([{"choices": [{"index": 1, "delta": {}}, *chunk("a")["choices"]]}], ["a"]),
            ([{"choices": [*chunk("a")["choices"], *chunk("b")["choices"]]}], ["ab"]),
            ([{"choices": [{"delta": {"content": said}} for said in "ab"]}], ["a"]),
            ([chunk("a"), {"choices": [], "usage": {"total_tokens": 1}, "error": {}}], ["a"]),
            ([chunk("a"), {"choices": [], "error": {"code": 0, "message": ""}}], ["a"]),
            ([{"choices": [], "prompt_filter_results": [], "error": {}}, chunk("a")], ["a"]),
            ([{"choices": [{"delta": None, "finish_reason": None}]}, chunk("a")], ["a"]),
            ([chunk([{"type": "text", "text": "a"}, {"type": "image"}]), stop()], ["a"]),
            ([chunk([{"type": "text", "text": t} for t in "ab"]), stop()], ["ab"]),
            ([chunk("\ud83d"), chunk("\ude00"), stop()], ["😀"]),
            ([chunk("\ud800"), chunk("\udc00"), stop()], ["\U00010000"]),
            ([chunk("\udbff"), chunk("\udfff"), stop()], ["\U0010ffff"]),
            ([chunk("a\ud83d"), stop()], ["a", "\ufffd"]),
            ([chunk("a"), b"data:   : waiting\n\n", b"data:  Null \n\n", stop()], ["a"]),
            *(([{**chunk("a"), "error": e}, stop()], ["a"]) for e in (None, False, 0, 0.0, [], {})),
            *(([{**chunk("a"), "error": e}, stop()], ["a"]) for e in ("", " ", "Null", "NONE")),
            *(([{"choices": [], "error": e}, chunk("a"), stop()], ["a"]) for e in (False, 0, [])),
        ],
    )
    def test_text(self, values: list[Any], pieces: list[str]) -> None:
        """The first choice's content is the text; everything else in the stream is not."""
        reading = ask(*values)
        assert [piece for piece in reading.pieces if piece] == pieces
        assert reading.finish is not None

    def test_parts(self) -> None:
        """Of content in parts each is what its type says; without one it is text."""
        image = {"image_url": {"url": "data:image/png;base64,AAEC"}}
        parts: list[Any] = [None, "a", {"text": "b"}, {"type": "text", "text": None}]
        parts += [{"type": "output_text", "text": {"value": "c"}}]
        parts += [{"type": "thinking", "thinking": "h"}, {"type": "reasoning", "text": "m"}]
        odd = [{"type": "audio", "image_url": "data:audio/wav;base64,AAAA"}]
        odd += [{"type": "file", "refusal": "no"}]
        reading = ask(chunk([*parts, *odd, {"type": "image_url", **image}]), stop())
        assert (reading.text, reading.finish.reasoning) == ("abc", "hm")
        assert [picture.bytes() for picture in reading.finish.images] == [bytes([0, 1, 2])]
        assert reading.finish.detail is None
        refused = ask(chunk([{"type": "refusal", "refusal": "no"}]), stop()).error
        assert isinstance(refused, RefusedError)
        assert refused.detail == "no"

    @pytest.mark.parametrize(
        ("raw", "reason"),
        [
            ("stop", "stop"),
            ("length", "length"),
            ("max_tokens", "length"),
            ("content_filter", "content_filter"),
            ("tool_calls", "tool_calls"),
            ("function_call", "function_call"),
            ("eos", "stop"),
            ("MAX_TOKENS", "length"),
            ("endTurn", "stop"),
            ("hm", "other"),
        ],
    )
    def test_finish(self, raw: str, reason: str) -> None:
        """The reason is one of ours, ``raw`` is the service's word."""
        finish = ask({**chunk("a"), "model": "m-1"}, stop(raw)).finish
        assert (finish.reason, finish.raw, finish.model) == (reason, raw, "m-1")
        assert finish.provider == "OpenAICompatible"

    @pytest.mark.parametrize(
        ("words", "raw", "reason"),
        [
            (["length", "stop"], "length", "length"),
            (["stop", "length"], "length", "length"),
            (["hm", "stop"], "stop", "stop"),
            (["hm", "length"], "length", "length"),
            ([{"type": "length"}], "length", "length"),
            ([False, "length"], "length", "length"),
        ],
    )
    def test_several_reasons(self, words: list[Any], raw: str, reason: str) -> None:
        """A later reason counts, but that a mere "stop" takes nothing back."""
        finish = ask(chunk("a"), *map(stop, words)).finish
        assert (finish.raw, finish.reason) == (raw, reason)

    @pytest.mark.parametrize("later", ["stop", "length"])
    def test_a_failure_stays_one(self, later: str) -> None:
        """Whatever reason follows the word that a reply failed, it has failed."""
        assert isinstance(ask(stop("error"), stop(later)).error, ServerError)

    def test_text_of_a_completion(self) -> None:
        """The older form of a choice has its text, and its usage, in the choice itself."""
        event = {"choices": [{"text": "a", "index": 0, "usage": {"total_tokens": 3}}]}
        reading = ask(event, {"choices": [{"text": 7}]}, {"choices": [{"text": "b"}]}, stop())
        assert (reading.text, reading.finish.usage) == ("ab", Usage(total_tokens=3))

    def test_the_model_is_as_asked_where_the_service_names_none(self) -> None:
        """Without a word of the service's own, the model is the one asked for."""
        provider = canned(OpenAICompatible, Canned(SHORT.body), base_url=LOCAL, model="mine")
        assert read(provider.stream("Hi")).finish.model == "mine"
        assert read(provider.stream("Hi", model="other")).finish.model == "other"

    def test_usage(self) -> None:
        """Usage comes with an event of its own, or with any other; a later one wins."""
        counts = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
        assert ask(chunk("a"), stop(), {"choices": [], "usage": counts}).finish.usage == Usage(
            1, 2, 3
        )
        early = {**chunk("a"), "usage": {"total_tokens": 1}}
        assert ask(early, {**stop(), "usage": counts}).finish.usage == Usage(1, 2, 3)
        halves = [{**stop(), "usage": {name: counts[name]}} for name in list(counts)[:2]]
        assert ask(chunk("a"), *halves).finish.usage == Usage(1, 2)
        assert ask(chunk("a"), stop()).finish.usage is None

    @pytest.mark.parametrize("end", [DONE, b"data: [DONE]", b"data:[DONE]\r\n\r\n", b""])
    def test_whole_streams(self, end: bytes) -> None:
        """A stream is whole at its end mark, or at the end of its body after a finish reason."""
        assert ask(chunk("a"), stop(), end=end).finish is not None

    @pytest.mark.parametrize("end", [b"", b"data: [DON", b": x\n\n", b'data: {"choices": [{"del'])
    def test_cut_streams(self, end: bytes) -> None:
        """Without a finish reason and an end mark a stream was cut."""
        reading = ask(chunk("a"), end=end)
        assert reading.text == "a"
        assert isinstance(reading.error, StreamInterrupted)

    def test_an_end_mark_without_a_reason(self) -> None:
        """The end mark alone makes a whole reply."""
        assert ask(chunk("a")).finish.reason == "stop"


class TestThinkingAndTools:
    @pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
    def test_reasoning(self, name: str) -> None:
        """What the model thought is collected apart from its text."""
        reading = ask(chunk(**{name: "hm, "}), chunk(**{name: "yes"}), chunk("a"), stop())
        assert (reading.pieces, reading.finish.reasoning) == (("a",), "hm, yes")
        assert whole({"content": "a", name: "hm"}).finish.reasoning == "hm"

    def test_tool_calls_are_put_together(self) -> None:
        """Names and arguments that come in pieces are joined by index; text is not needed."""
        pieces = [
            [
                {
                    "index": 0,
                    "id": "1",
                    "type": "function",
                    "function": {"name": "f", "arguments": ""},
                }
            ],
            [{"index": 0, "function": {"arguments": '{"a"'}}],
            [{"index": 1, "id": "2", "function": {"name": "g", "arguments": "{}"}}],
            [{"index": 0, "function": {"arguments": ": 1}"}}],
        ]
        reading = ask(*(chunk(tool_calls=one) for one in pieces), stop("tool_calls"))
        assert reading.finish.reason == "tool_calls"
        assert reading.finish.tool_calls == [
            {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}},
            {"id": "2", "type": "function", "function": {"name": "g", "arguments": "{}"}},
        ]

    def test_tool_calls_of_a_whole_reply(self) -> None:
        """Calls without an index are calls of their own."""
        calls = [{"id": str(n), "type": "function", "function": {"name": "f"}} for n in range(2)]
        reading = whole({"content": None, "tool_calls": calls}, "tool_calls")
        assert [call["function"] for call in reading.finish.tool_calls] == [
            {"name": "f", "arguments": "{}"}
        ] * 2
        assert [call["id"] for call in reading.finish.tool_calls] == ["0", "1"]
        same = [{"index": 0, "function": {"name": "f"}}] * 2
        assert len(whole({"tool_calls": same}, "tool_calls").finish.tool_calls) == 2

    def test_a_tool_call_of_another_type(self) -> None:
        """A call keeps the type that the service gives it."""
        call = {"index": 0, "id": "1", "type": "custom", "function": {"name": "f"}}
        (found,) = ask(chunk(tool_calls=[call]), stop("tool_calls")).finish.tool_calls
        assert found == {
            "id": "1",
            "type": "custom",
            "function": {"name": "f", "arguments": "{}"},
        }

    @pytest.mark.parametrize("index", [None, "0", [], 0.5])
    def test_an_index_that_is_no_number(self, index: Any) -> None:
        """A call whose index is no whole number is the first one."""
        pieces = ({"index": i, "function": {"arguments": a}} for i, a in ((0, "{"), (index, "}")))
        reading = ask(*(chunk(tool_calls=[piece]) for piece in pieces), stop("tool_calls"))
        (call,) = reading.finish.tool_calls
        assert call["function"] == {"arguments": "{}"}

    def test_a_function_call_counts_as_one(self) -> None:
        """The older form is a tool call, too."""
        first = chunk(function_call={"name": "f", "arguments": "{"})
        reading = ask(first, chunk(function_call={"arguments": "}"}), stop("function_call"))
        assert reading.finish.reason == "function_call"
        (call,) = reading.finish.tool_calls
        function = {"name": "f", "arguments": "{}"}
        assert call == {"id": call["id"], "type": "function", "function": function}

    def test_a_call_told_in_both_forms(self) -> None:
        """It is one call; where the newer form is there but empty, the older one counts."""
        function = {"name": "f", "arguments": "{}"}
        for calls in ([{"index": 0, "id": "1", "function": function}], [], {}, None):
            reading = ask(chunk(tool_calls=calls, function_call=function), stop("tool_calls"))
            assert [call["function"] for call in reading.finish.tool_calls] == [function]

    def test_the_state_of_functions(self) -> None:
        """It goes back with the history; what comes in its place later, and is none, is ignored."""
        first = chunk(function_call={"name": "f"}, functions_state_id="s")
        for later in ("", None, 7, {}):
            finish = ask(first, chunk(functions_state_id=later), stop("function_call")).finish
            assert finish.message["functions_state_id"] == "s"

    def test_calls_without_a_reason(self) -> None:
        """Where the service gives no reason, calls of tools are one."""
        call = {"index": 0, "id": "1", "function": {"name": "f"}}
        assert ask(chunk(tool_calls=[call])).finish.reason == "tool_calls"

    def test_a_refusal_is_the_filters_word(self) -> None:
        """A refusal tells why a filter stopped the reply before any text."""
        error = ask(chunk(refusal="I can"), chunk(refusal="not."), stop("content_filter")).error
        assert isinstance(error, RefusedError)
        assert error.detail == "I cannot."

    def test_a_refusal_without_words(self) -> None:
        """A field for a refusal that holds no words is no refusal."""
        for blank in ("", None, ["x"], {"x": 1}):
            finish = ask(chunk("a", refusal=blank), stop()).finish
            assert (finish.reason, finish.detail) == ("stop", None)

    @pytest.mark.parametrize(
        "said",
        [
            {"reasoning": "hm"},
            {"refusal": "no"},
            {"tool_calls": [{"index": 0, "id": "1", "function": {"name": "f"}}]},
            {"images": [{"image_url": "data:image/png;base64,AAEC"}]},
            {"content": "<think>hm"},
            {"content": " <thi"},
            {"content": "b"},
        ],
    )
    def test_a_message_that_repeats_its_piece(self, said: dict[str, Any]) -> None:
        """What a piece has said is not taken again from the message beside it, whatever it is."""
        once, twice = (
            ask({"choices": [{"index": 0, **choice}]}, chunk("</think>a"), stop())
            for choice in ({"delta": said}, {"delta": said, "message": said})
        )
        assert twice.text == once.text
        for name in ("reasoning", "detail", "tool_calls"):
            assert getattr(twice.finish, name) == getattr(once.finish, name)
        assert len(twice.finish.images) == len(once.finish.images)


class TestWhole:
    def test_one_piece(self) -> None:
        """A whole reply is one piece, and has what a stream's end has."""
        counts = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
        reading = whole({"content": "a\nb"}, "length", model="m-1", usage=counts)
        assert reading.pieces == ("a\nb",)
        finish = reading.finish
        assert (finish.reason, finish.model, finish.usage) == ("length", "m-1", Usage(1, 2, 3))

    @pytest.mark.parametrize(
        "message", [{"content": ""}, {"content": None}, {}, {"content": " \n"}]
    )
    def test_no_text(self, message: Any) -> None:
        """A whole reply without text is an empty one."""
        assert isinstance(whole(message).error, EmptyReplyError)
        error = whole(message, "length").error
        assert "max_tokens" in str(error)

    def test_a_stream_that_is_asked_for_whole(self) -> None:
        """A server that streams all the same still gives one piece."""
        provider = canned(OpenAICompatible, Canned(events(chunk("a"), chunk("b"))), base_url=LOCAL)
        reading = read(provider.create_generator(None, "Hi", stream=False))
        assert reading.pieces == ("ab",)

    @pytest.mark.parametrize("before", [[], [None]])
    def test_no_reason(self, before: list[Any]) -> None:
        """A message is a whole reply without a reason, too; a piece of a stream is not."""

        def reading_of(choice: dict[str, Any]) -> Reading:
            body = json.dumps({"choices": [*before, choice]}).encode()
            return read(canned(OpenAICompatible, Canned(body, JSON), base_url=LOCAL).stream("Hi"))

        assert reading_of({"message": {"content": "a"}}).finish.reason == "stop"
        assert isinstance(reading_of({"delta": {"content": "a"}}).error, StreamInterrupted)

    @pytest.mark.parametrize(
        ("body", "words"),
        [
            (b"[]", "list where the reply was due"),
            (b'{"choices": 7}', "int where choices was due"),
            (b"{}", "NoneType where choices was due"),
            (b"\n <html><title>Log in</title>", "Log in"),
            (b'{"choices": [' + b"{}," * 2**17 + b"{}]}", "values"),
            (b'data: [{"message": "x"}, ' + b"{}," * 2**17 + b"{}]\n\n", "values"),
        ],
        ids=["list", "number", "nothing", "page", "many", "event"],
    )
    def test_the_error_says_what_it_was(self, body: bytes, words: str) -> None:
        """It says what came in place of a whole reply; a page is told by its title."""
        provider = canned(OpenAICompatible, Canned(body, JSON), base_url=LOCAL)
        error = read(provider.create_generator(None, "Hi", stream=False)).error
        assert isinstance(error, ProtocolError)
        assert words in str(error)

    @pytest.mark.parametrize(
        ("body", "cls", "detail"),
        [
            ({"title": "Too many requests", "status": 429}, RateLimitError, "Too many requests"),
            ([{"message": "slow", "code": 429}], RateLimitError, "slow"),
            ([{"more": 1}, {"error": {"message": "slow", "code": 429}}], RateLimitError, "slow"),
            ([{"error": {"code": 429, "message": m}} for m in "ab"], RateLimitError, "a"),
            ({"error": [{"message": m, "code": 429} for m in "ab"]}, RateLimitError, "a"),
            ({"choices": [], "message": "busy"}, ServerError, "busy"),
            ({"message": 7}, ServerError, None),
        ],
    )
    def test_an_error_in_its_place(self, body: Any, cls: type[LLMError], detail: str) -> None:
        """Words in place of a whole reply are an error, of a list of errors the first one."""
        reply = Canned(json.dumps(body).encode(), JSON)
        error = read(canned(OpenAICompatible, reply, base_url=LOCAL).stream("Hi")).error
        assert (type(error), error.detail) == (cls, detail)


class TestErrors:
    @pytest.mark.parametrize(
        ("error", "cls"),
        [
            ({"message": "slow down", "code": 429}, RateLimitError),
            ({"message": "pay", "type": "insufficient_quota"}, QuotaExceededError),
            ({"message": "who?", "code": "401"}, AuthenticationError),
            ({"message": "bad", "code": 400}, InvalidRequestError),
            ({"message": "busy", "type": "server_error", "param": None, "code": None}, ServerError),
            ("busy", ServerError),
            ({}, ServerError),
            ([{"message": "busy"}], ServerError),
        ],
    )
    @pytest.mark.parametrize("before", [[], [chunk("a")]])
    def test_an_error_inside_a_stream(
        self, before: list[Any], error: Any, cls: type[LLMError]
    ) -> None:
        """An error that comes with status 200 is what its code says; after text, an interruption.

        The service's words are told in both.
        """
        reading = ask(*before, {"error": error})
        assert type(reading.error) is (StreamInterrupted if before else cls)
        assert reading.text == ("a" if before else "")
        said = error.get("message", "") if isinstance(error, dict) else "busy"
        assert said in str(reading.error)

    def test_an_error_inside_a_choice(self) -> None:
        """An error of the choice itself is one of the stream; an empty one is none."""
        error = ask({"choices": [{"error": {"message": "slow down", "code": 429}}]}).error
        assert isinstance(error, RateLimitError)
        assert "slow down" in str(error)
        for nothing in ({}, {"code": None}, "", None):
            choice = {**chunk("a")["choices"][0], "error": nothing}
            assert ask({"choices": [choice]}, stop()).text == "a"

    @pytest.mark.parametrize(
        ("told", "cls"),
        [
            ({"object": "error"}, ServerError),
            ({"type": "error"}, ServerError),
            ({"errors": {"model": ["no"]}}, ServerError),
            *(({name: 429}, RateLimitError) for name in ("code", "Error-Code", "errCode")),
            *(({name: 429}, RateLimitError) for name in ("errorCode", "status_code")),
            *(({"status": status}, RateLimitError) for status in (429, "429")),
            ({"status": 300}, ServerError),
            ({"status": "failed"}, ServerError),
            ({"success": False}, ServerError),
            ({"base_resp": {"status_code": 1002}}, RateLimitError),
            ({"error": True}, ServerError),
        ],
    )
    def test_a_message_that_is_an_error(self, told: dict[str, Any], cls: type[LLMError]) -> None:
        """A message with the mark of a failure ends the reply, before its text and amid it."""
        event = {"message": "no", **told}
        assert type(ask(event, chunk("a"), stop()).error) is cls
        reading = ask(chunk("a"), event, chunk("b"), stop())
        assert (type(reading.error), reading.text) == (StreamInterrupted, "a")
        assert "no" in str(reading.error)
        assert type(ask(chunk("a"), [event], stop()).error) is StreamInterrupted
        assert type(ask(chunk("a"), stop(), event).error) is StreamInterrupted

    @pytest.mark.parametrize(
        "told",
        [
            {"object": "info"},
            {"type": "progress", "status": "queued"},
            {"status": 200},
            {"status": "299"},
            {"success": True},
            {"code": 0, "errCode": "0", "status_code": 200},
            {"code": "ok", "error": None, "errors": [], "base_resp": {"status_code": 0}},
        ],
    )
    def test_a_message_that_is_none(self, told: dict[str, Any]) -> None:
        """A message that says how a reply proceeds does no harm, wherever it stands."""
        event = {"message": "wait", **told}
        assert ask(event, chunk("a"), event, chunk("b"), stop(), event).text == "ab"

    @pytest.mark.parametrize("said", [b"Rate limit reached", b'"Rate limit reached"'])
    def test_a_sentence_as_an_event(self, said: bytes) -> None:
        """It is an error; after text it cuts the reply, and after its end it does no harm."""
        data = b"data: " + said + b"\n\n"
        for before in ([], [chunk(role="assistant")]):
            error = ask(*before, data, end=b"").error
            assert (type(error), error.detail) == (RateLimitError, "Rate limit reached")
        reading = ask(chunk("Hel"), data)
        assert (type(reading.error), reading.text) == (StreamInterrupted, "Hel")
        assert reading.error.detail == "Rate limit reached"
        assert ask(chunk("a"), stop(), data).text == "a"

    @pytest.mark.parametrize(
        ("before", "line"),
        [
            *product(
                [
                    b"",
                    b": keep-alive\n\n",
                    events(chunk(role="assistant"), end=b""),
                    b"data: ping\n\n",
                ],
                [
                    b'{"status": 429, "message": "Slow down, try again in 20 seconds"}',
                    b'{"code": 1302, "msg": "Slow down, try again in 20 seconds"}',
                    b"Slow down, try again in 20 seconds",
                ],
            ),
            (
                b": keep-alive\n\n",
                b'{\n "error": {\n  "message": "Slow down, try again in 20 seconds"\n }\n}',
            ),
        ],
    )
    def test_an_error_that_is_no_event(
        self, raw_server: RawServerFactory, before: bytes, line: bytes
    ) -> None:
        """JSON or words on lines of their own keep their class, their words and their wait."""
        body = before + line + b"\n"
        server = raw_server(http_response(200, {"Content-Type": "text/event-stream"}, body))
        with OpenAICompatible(base_url=server.url, model="m") as provider:
            error = read(provider.stream("Hi")).error
        assert type(error) is RateLimitError
        assert (error.detail, error.retry_after) == ("Slow down, try again in 20 seconds", 20)

    def test_words_beside_a_whole_reply(self, raw_server: RawServerFactory) -> None:
        """What a proxy says beside a reply that ends as it should does no harm."""
        body = b"Served by a proxy\n\n" + events(chunk("a"), stop(), end=b"Closed by a proxy\n")
        server = raw_server(http_response(200, {"Content-Type": "text/event-stream"}, body))
        with OpenAICompatible(base_url=server.url, model="m") as provider:
            assert provider.complete("Hi").text == "a"

    @pytest.mark.parametrize("status", [400, 429, 500])
    @pytest.mark.parametrize("end", ["chunk", "length", "stall", "reset"])
    def test_an_error_that_breaks_off(
        self, raw_server: RawServerFactory, status: int, end: str
    ) -> None:
        """JSON that has arrived in full is read, however its connection ends, and at once."""
        told = {"error": {"message": "You are out of credit", "code": "insufficient_quota"}}
        raw = json.dumps(told).encode()
        long = content_length(raw, announced=len(raw) + 7)
        body = long if end == "length" else chunked([raw], end=False)
        rest = {"stall": [Stall()], "reset": [Reset()]}.get(end, [])
        server = raw_server([*http_response(status, {"Content-Type": JSON}, body), *rest])
        with OpenAICompatible(base_url=server.url, model="m", timeout=60) as provider:
            error = read(provider.stream("Hi", deadline=20)).error
        assert type(error) is QuotaExceededError
        assert error.detail == "You are out of credit"

    def test_an_error_without_its_words(self, raw_server: RawServerFactory) -> None:
        """An error whose body is cut has the class of its status, and the words that arrived."""
        for said, kind in (
            (b"", RateLimitError),
            (b"Slow down", RateLimitError),
            (b"You exceeded your current quota", QuotaExceededError),
        ):
            reply = http_response(429, {"Content-Type": "text/plain"}, chunked([said], end=False))
            with OpenAICompatible(base_url=raw_server(reply).url, model="m") as provider:
                error = read(provider.stream("Hi")).error
            assert (type(error), error.detail) == (kind, said.decode() or None)

    def test_a_deadline_in_an_error(self, raw_server: RawServerFactory) -> None:
        """Where nothing of an error's body has arrived, the deadline of the call holds."""
        head = http_response(429, {"Content-Type": JSON}, chunked([], end=False))
        server = raw_server([*head, Stall()])
        with OpenAICompatible(base_url=server.url, model="m", timeout=60) as provider:
            assert type(read(provider.stream("Hi", deadline=0.5)).error) is DeadlineExceeded

    def test_a_message_and_no_reply(self) -> None:
        """Of several messages that came instead of a reply the first one is told.

        It is not told where the reply ends for another reason, or where it stood beside text.
        """
        told = {"message": "Too many requests"}
        cut = b'data: {"choi'
        for end in (b"", DONE, cut):
            error = ask({"message": 7}, told, {"message": "bye"}, end=end).error
            assert (type(error), error.detail) == (RateLimitError, "Too many requests")
        assert type(ask(told, 7).error) is ProtocolError
        for event in ({**chunk("a"), "message": "fine"}, {"title": "Processing"}):
            error = ask(chunk("a"), event, end=b"").error
            assert (type(error), error.detail) == (StreamInterrupted, None)

    @pytest.mark.parametrize(
        ("data", "cls", "words"),
        [
            (b'[{"more": 1}, {"message": "slow down", "code": 429}]', RateLimitError, "slow down"),
            (b"\xff busy", ServerError, "\ufffd busy"),
        ],
    )
    def test_an_event_of_errors(self, data: bytes, cls: type[LLMError], words: str) -> None:
        """An event that is named an error may have a list of them, or any text."""
        error = ask(b"event: error\ndata: %b\n\n" % data).error
        assert type(error) is cls
        assert words in str(error)

    def test_the_finish_reason_error(self) -> None:
        """A reply that the service itself calls failed is a ``ServerError``, or was cut short."""
        assert isinstance(ask(stop("error")).error, ServerError)
        assert isinstance(ask(chunk("a"), stop("error")).error, StreamInterrupted)

    @pytest.mark.parametrize(
        "value",
        [
            b"data: {\n\n",
            b"data: <html>\n\n",
            b"data: \xff\n\n",
            [7],
            "x",
            7,
            {"choices": {}},
            {"choices": "x"},
            {"choices": [[]]},
            {"choices": [{"delta": [7]}]},
            {"choices": [{"delta": "x"}]},
            {"choices": [{"delta": {}, "finish_reason": 7}]},
            {"choices": [{"delta": {}, "finish_reason": {}}]},
            {"choices": [{"delta": {}, "index": "x"}]},
            chunk(7),
            chunk({"text": "x"}),
            chunk(True),
            chunk([7]),
            chunk([{"type": "text", "text": 7}]),
            chunk([{"type": "text"}]),
            chunk(tool_calls="x"),
            chunk(tool_calls=["x"]),
            chunk(tool_calls=[{"index": 0, "function": "x"}]),
            chunk(function_call="x"),
            chunk(function_call=[1]),
        ],
    )
    def test_what_cannot_be_understood(self, value: Any) -> None:
        """No JSON, and a field that carries text but has another type, are errors."""
        for before in ([], [chunk("a")]):
            reading = ask(*before, value, chunk("b"), stop())
            assert isinstance(reading.error, ProtocolError)
            assert reading.text == ("a" if before else "")

    @pytest.mark.parametrize(
        ("value", "found", "field"),
        [
            ([{"more": 1}], "list", "an object"),
            ({"choices": {}}, "dict", "choices"),
            ({"choices": [7]}, "int", "choices"),
            ({"choices": [{"index": "x"}]}, "str", "index"),
            ({"choices": [{"finish_reason": 7}]}, "int", "finish_reason"),
            ({"choices": [{"delta": 7}]}, "int", "delta"),
            ({"choices": [{"message": 7}]}, "int", "message"),
            (chunk(7), "int", "content"),
            (chunk([7]), "int", "content"),
            (chunk([{"type": "text", "text": 7}]), "int", "text"),
            (chunk(tool_calls="x"), "str", "tool_calls"),
            (chunk(tool_calls=[7]), "int", "tool_calls"),
            (chunk(images="x"), "str", "images"),
            (chunk(function_call=[1]), "list", "function"),
            (
                chunk(tool_calls=[{"index": 0, "function": {"arguments": a}} for a in ([1], "")]),
                "list",
                "arguments",
            ),
        ],
    )
    def test_the_error_says_what_was_wrong(self, value: Any, found: str, field: str) -> None:
        """It names the field, and what stood there in place of what was due."""
        assert f"{found} where {field} was due" in str(ask(value).error)

    @pytest.mark.parametrize(
        "odd",
        [
            {"usage": [1]},
            {"usage": "x"},
            {"usage": {"total_tokens": "three"}},
            {"model": 7},
            {"created": "now"},
            {"object": None},
        ],
    )
    def test_what_is_beside_the_text_does_not_spoil_it(self, odd: dict[str, Any]) -> None:
        """A count or a name of another type is left out, and the reply is whole."""
        reading = ask({**chunk("a"), **odd}, stop())
        assert reading.text == "a"
        assert reading.finish.usage in (None, Usage())
        assert reading.finish.model == "gpt-4o-mini"

    @pytest.mark.parametrize("label", ["text/plain", "text/event-stream", "application/json"])
    @pytest.mark.parametrize(
        ("said", "kind"),
        [
            ("upstream connect error or disconnect/reset before headers", ServerError),
            ("Rate limit reached. Please try again in 20s.\n", RateLimitError),
            ("\r\nYou exceeded your current quota: see https://x.example\r\n", QuotaExceededError),
            ('"Service is down for maintenance"', ServerError),
            ("Сервис: техническое обслуживание", ServerError),
            ("服务繁忙，请稍后再试", ServerError),
            ("429 Too Many Requests", RateLimitError),
            ("Error: rate limit reached", RateLimitError),
            ("Limite de requêtes\u00a0: rate limit reached", RateLimitError),
            ("Too many requests.\nTry again in 20 seconds.", RateLimitError),
        ],
    )
    def test_a_sentence_instead_of_a_reply(
        self, raw_server: RawServerFactory, label: str, said: str, kind: type[LLMError]
    ) -> None:
        """A body of plain text with status 200 is an error, with its class and its words."""
        server = raw_server(http_response(200, {"Content-Type": label}, said.encode()))
        with OpenAICompatible(base_url=server.url, model="m") as provider:
            error = read(provider.stream("Hi")).error
        assert type(error) is kind
        assert error.detail == " ".join(said.split()).strip('"')
        assert error.retry_after == (20 if "20" in said else None)

    @pytest.mark.parametrize(
        "body",
        [
            *(b"data", b"even", b"event: a b\n", b": a comment of a proxy\n", b"id: a b\n"),
            *(b"\xff a b", b"Rate\x1b[2J limit", b"(7 a b", b""),
        ],
    )
    def test_a_start_without_an_event_was_cut(
        self, raw_server: RawServerFactory, body: bytes
    ) -> None:
        """The beginning of a stream that ends before its first event is no sentence."""
        server = raw_server(http_response(200, {"Content-Type": "text/event-stream"}, body))
        with OpenAICompatible(base_url=server.url, model="m") as provider:
            assert type(read(provider.stream("Hi")).error) is StreamInterrupted

    @pytest.mark.parametrize(
        "body", [b"", b"{", b"[]", b"{}", b'{"choices": 7}', b"null", b"<html>"]
    )
    def test_a_whole_reply_that_is_none(self, body: bytes) -> None:
        """So is a whole reply of another shape."""
        provider = canned(OpenAICompatible, Canned(body, JSON), base_url=LOCAL)
        error = read(provider.create_generator(None, "Hi", stream=False)).error
        assert isinstance(error, ProtocolError)

    @pytest.mark.parametrize(
        ("path", "body", "cls", "words"),
        [
            (
                "/v1",
                {"error": {"message": "The model `x` does not exist"}},
                ModelNotFoundError,
                "'x'",
            ),
            ("/v1", {"error": {"message": "model 'x' not found"}}, ModelNotFoundError, "models()"),
            ("/v1", {"detail": "Not Found"}, InvalidRequestError, "check base_url"),
            ("", {"detail": "Not Found"}, InvalidRequestError, "usually ends in /v1"),
            ("/api", b"<html>404</html>", InvalidRequestError, "usually ends in /v1"),
        ],
    )
    def test_404(
        self, raw_server: RawServerFactory, path: str, body: Any, cls: type[LLMError], words: str
    ) -> None:
        """A 404 says whether the model or the address is wrong, and hints at a missing /v1."""
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        kind = "text/html" if isinstance(body, bytes) else JSON
        headers = {"Content-Type": kind, "X-Request-ID": "r7"}
        server = raw_server(http_response(404, headers, raw))
        with OpenAICompatible(base_url=server.url + path, model="x") as provider:
            error = read(provider.stream("Hi")).error
        assert type(error) is cls
        assert (error.status_code, error.request_id) == (404, "r7")
        assert isinstance(body, bytes) or str(error.detail) in str(body)
        assert words in str(error)
        assert ("usually ends" in str(error)) is (path != "/v1")
        if cls is InvalidRequestError and path == "/v1":
            assert str(error).endswith(f"base_url is {server.url}/v1")

    def test_an_address_with_a_query(self, raw_server: RawServerFactory) -> None:
        """It is the path before the query that usually ends in /v1."""
        server = raw_server(http_response(404, {"Content-Type": JSON}, b'{"detail": "Not Found"}'))
        with OpenAICompatible(base_url=f"{server.url}/v1?version=1") as provider:
            error = read(provider.stream("Hi")).error
        assert str(error).endswith(f"base_url is {server.url}/v1?version=1")


class TestModels:
    def test_the_server_is_asked(self, raw_server: RawServerFactory) -> None:
        """``models()`` and ``list_models()`` give the names that the server has."""
        listing = {
            "object": "list",
            "data": [{"id": "b", "object": "model"}, {"id": "a"}, {"x": 1}],
        }
        reply = http_response(200, {"Content-Type": JSON}, json.dumps(listing).encode())
        server = raw_server(keep_alive(reply))
        with OpenAICompatible(base_url=f"{server.url}/v1", api_key=KEY) as provider:
            assert provider.models() == provider.list_models() == ["b", "a"]
        assert [(r.method, r.target) for r in server.requests] == [("GET", "/v1/models")] * 2
        assert server.requests[0].header("authorization") == f"Bearer {KEY}"
        assert len(server.connections) == 1

    def test_the_names_known_without_asking(self) -> None:
        """The class has a tuple of names; any other name is passed on."""
        assert OpenAICompatible.models == ("gpt-4o-mini", "gpt-4o")
        assert OpenAICompatible().models == ("gpt-4o-mini", "gpt-4o")
        assert OpenAICompatible().get_model("whatever") == "whatever"
        assert OpenAICompatible().get_model(None) == "gpt-4o-mini"

    @pytest.mark.parametrize(
        ("listing", "names"),
        [
            ([{"id": "a"}, {"id": "b"}], ["a", "b"]),
            (["a", "b"], ["a", "b"]),
            ({"data": ["a"]}, ["a"]),
            ({"object": "list", "data": None}, []),
            ({"data": []}, []),
            ([], []),
            ({"models": [{"name": "llama3:latest", "model": "llama3:latest"}]}, ["llama3:latest"]),
            ({"data": [{"id": None, "name": "a"}, {"object": "model"}]}, ["a"]),
            ({"data": ["a"], "code": 7, "message": "fine"}, ["a"]),
            ({"data": [], "message": "none yet"}, []),
            ({"code": 0, "message": "success", "data": None}, []),
            ({"data": None, "message": ""}, []),
        ],
    )
    def test_every_shape_of_a_listing(self, listing: Any, names: list[str]) -> None:
        """Names are found in every shape that servers send; a server may have none yet."""
        reply = Canned(json.dumps(listing).encode(), JSON)
        assert canned(OpenAICompatible, reply, base_url=LOCAL).list_models() == names

    @pytest.mark.parametrize(
        ("body", "cls", "words"),
        [
            (
                {"error": "Unexpected endpoint or method. (GET /models)"},
                InvalidRequestError,
                "base_url",
            ),
            ({"error": {"message": "no", "code": 401}}, AuthenticationError, "no"),
            ({"message": "busy", "status": 503}, ServerError, "busy"),
            ({"message": "busy"}, ServerError, "busy"),
            ({"data": None, "message": "busy"}, ServerError, "busy"),
            ({"data": None, "models": None, "detail": "busy"}, ServerError, "busy"),
        ],
    )
    def test_an_error_in_place_of_a_listing(
        self, body: Any, cls: type[LLMError], words: str
    ) -> None:
        """An error that comes with status 200 is what it says, not a listing of another shape."""
        provider = canned(OpenAICompatible, Canned(json.dumps(body).encode(), JSON), base_url=LOCAL)
        with pytest.raises(cls, match=words):
            provider.list_models()

    def test_a_listing_that_breaks_off(self, raw_server: RawServerFactory) -> None:
        """A listing that has arrived in full is read, though its connection does not end well."""
        raw = json.dumps({"data": [{"id": "a"}]}).encode()
        reply = http_response(200, {"Content-Type": JSON}, chunked([raw], end=False))
        with OpenAICompatible(base_url=raw_server(reply).url) as provider:
            assert provider.list_models() == ["a"]
        cut = http_response(200, {"Content-Type": JSON}, chunked([raw[:-1]], end=False))
        with (
            OpenAICompatible(base_url=raw_server(cut).url) as provider,
            pytest.raises(StreamInterrupted),
        ):
            provider.list_models()

    def test_a_page_in_place_of_a_listing(self) -> None:
        """A web page is told as one, with its title."""
        for before in (b"\n ", b"\xef\xbb\xbf"):
            page = Canned(before + b"<html><title>Log in</title></html>", "text/html")
            with pytest.raises(ProtocolError, match=r"web page.*Log in"):
                canned(OpenAICompatible, page, base_url=LOCAL).list_models()

    @pytest.mark.parametrize(
        ("said", "cls"),
        [
            ("Rate limit reached. Please try again in 20s.\nSorry.", RateLimitError),
            ("You exceeded your current quota: see https://x.example", QuotaExceededError),
            ('"Ollama is running"', ServerError),
            ("Сервис недоступен", ServerError),
            ("429 Too Many Requests", RateLimitError),
            ("RateLimitError: too many requests", RateLimitError),
            ("error: rate limit reached", RateLimitError),
            ("OK", ProtocolError),
        ],
    )
    def test_a_sentence_in_place_of_a_listing(self, said: str, cls: type[LLMError]) -> None:
        """A sentence is an error with its words; a word alone says nothing."""
        reply = Canned(f"\n{said}\n".encode(), "text/plain")
        with pytest.raises(cls) as caught:
            canned(OpenAICompatible, reply, base_url=LOCAL).list_models()
        assert type(caught.value) is cls
        words = None if said == "OK" else " ".join(said.split()).strip('"')
        assert caught.value.detail == words

    @pytest.mark.parametrize("status", [404, 405, 501])
    def test_no_listing_beside_chats_that_work(
        self, raw_server: RawServerFactory, status: int
    ) -> None:
        """A server without a list of models says so, and that chats may work."""
        headers = {"Content-Type": JSON, "X-Request-ID": "r7"}
        reply = http_response(status, headers, b'{"detail": "Not Found"}')
        with (
            OpenAICompatible(base_url=f"{raw_server(reply).url}/v1") as provider,
            pytest.raises(InvalidRequestError, match="does not list its models") as caught,
        ):
            provider.list_models()
        assert "chats may work" in str(caught.value)
        assert "Not Found" in str(caught.value)
        error = caught.value
        assert (error.status_code, error.request_id, error.detail) == (status, "r7", "Not Found")
        assert error.provider == provider.name
        assert f"{provider.base_url}/models" in str(error)

    @pytest.mark.parametrize("status", [400, 403, 422, 500])
    def test_a_listing_that_is_refused(self, raw_server: RawServerFactory, status: int) -> None:
        """Another refusal is told as it is: it does not mean that there is no list."""
        reply = http_response(status, {"Content-Type": JSON}, b'{"detail": "no"}')
        with (
            OpenAICompatible(base_url=f"{raw_server(reply).url}/v1") as provider,
            pytest.raises(LLMError) as caught,
        ):
            provider.list_models()
        assert caught.value.status_code == status
        assert "does not list" not in str(caught.value)

    def test_a_name_that_holds_a_key(self) -> None:
        """What looks like a credential in a listing is not shown."""
        reply = Canned(b'{"data": [{"id": "https://me:hunter22@x.example/m"}]}', JSON)
        provider = canned(OpenAICompatible, reply, base_url=LOCAL)
        assert provider.list_models() == ["https://***@x.example/m"]

    @pytest.mark.parametrize(
        ("listing", "found", "field"),
        [
            ({}, "NoneType", "data"),
            ({"data": {}}, "dict", "data"),
            ({"data": [7]}, "int", "data"),
            (7, "int", "the reply"),
            (None, "NoneType", "the reply"),
        ],
    )
    def test_a_listing_that_is_none(self, listing: Any, found: str, field: str) -> None:
        """A listing of another shape is an error that names the provider and what is wrong."""
        reply = Canned(json.dumps(listing).encode(), JSON)
        provider = canned(OpenAICompatible, reply, base_url=LOCAL, name="mine")
        with pytest.raises(ProtocolError) as caught:
            provider.list_models()
        assert f"the reply has {found} where {field} was due" in str(caught.value)
        assert caught.value.provider == "mine"
        assert reply.closed == 1
