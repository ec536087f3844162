"""FlowGPT: a signed request, and a reply in JSON lines without an end mark."""

from __future__ import annotations

import hashlib
import json
import re
import time
from typing import Any

import pytest

from llmproviders import (
    AuthenticationError,
    EmptyReplyError,
    FlowGpt,
    LLMError,
    ModelNotFoundError,
    ProtocolError,
    QuotaExceededError,
    RateLimitError,
    ServerError,
    StreamInterrupted,
)
from tests.conftest import RawServerFactory
from tests.support.calls import Canned, Sender, canned, with_sender
from tests.support.golden import goldens, on_the_wire
from tests.support.promise import Reading, read
from tests.support.rawserver import keep_alive

SHORT = goldens("flowgpt", name="short")[0]
GREETING = {"role": "assistant", "content": "Hello, how can I help you today?"}
HELPFUL = "You are helpful assistant. Follow the user's instructions carefully."


def user(content: str) -> dict[str, str]:
    """A user's message."""
    return {"role": "user", "content": content}


def body_of(prompt: Any, **params: Any) -> dict[str, Any]:
    """The body that is sent for a prompt."""
    sender = Sender(Canned(SHORT.body))
    read(with_sender(FlowGpt, sender).stream(prompt, **params))
    body: dict[str, Any] = sender.calls[0].json
    return body


def ask(*lines: Any) -> Reading:
    """What comes out of some lines, each a JSON value or as it is."""
    raw = [line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines]
    return read(canned(FlowGpt, Canned(b"\n".join(raw))).stream("Hi"))


class TestRequest:
    def test_exactly_as_documented(self, raw_server: RawServerFactory) -> None:
        """Path, headers and body are those of the service's own page."""
        reply = b"".join(on_the_wire(SHORT.body, "chunked", SHORT.content_type))
        server = raw_server(keep_alive([reply]))
        with FlowGpt(base_url=server.url) as provider:
            before = int(time.time())
            for _ in range(2):
                assert str(provider.complete("Why?")) == SHORT.text
            after = int(time.time())
        first, second = server.requests
        assert (first.method, first.target) == ("POST", "/v3/chat-anonymous")
        headers = {name.lower(): value for name, value in first.headers}
        stamp, nonce = headers.pop("x-timestamp"), headers.pop("x-nonce")
        device = headers.pop("x-flow-device-id")
        assert before <= int(stamp) <= after
        assert re.fullmatch("[0-9a-f]{32}", nonce)
        assert re.fullmatch("f-[a-z0-9]{19}", device)
        assert second.header("x-nonce") != nonce
        assert second.header("x-flow-device-id") != device
        signed = hashlib.md5(f"{stamp}-{nonce}-Bearer null".encode()).hexdigest()
        assert headers.pop("x-signature") == signed
        assert re.match(r"Mozilla/5\.0 \(.*Chrome/", headers.pop("user-agent"))
        assert headers == {
            "accept": "*/*",
            "accept-encoding": "gzip, deflate",
            "accept-language": "en-US;q=0.7,en;q=0.3",
            "authorization": "Bearer null",
            "content-length": str(len(first.body)),
            "content-type": "application/json",
            "host": f"127.0.0.1:{server.port}",
            "origin": "https://flowgpt.com",
            "referer": "https://flowgpt.com/",
            "sec-fetch-dest": "empty",
            "sec-fetch-mode": "cors",
            "sec-fetch-site": "same-site",
        }
        assert json.loads(first.body) == {
            "model": "gpt-3.5-turbo",
            "nsfw": False,
            "question": "Why?",
            "history": [GREETING],
            "system": HELPFUL,
            "temperature": 0.7,
            "promptId": "model-gpt-3.5-turbo",
            "documentIds": [],
            "chatFileDocumentIds": [],
            "generateImage": False,
            "generateAudio": False,
        }

    def test_history_and_system_travel_apart(self) -> None:
        """The last message is the question, those before it the history; system ones go apart."""
        answer = {"role": "assistant", "content": "Yes?"}
        late = {"role": "system", "content": "No jokes."}
        body = body_of([user("Hi"), answer, late, user("Why?")], system="Be brief.")
        assert body["question"] == "Why?"
        assert body["history"] == [GREETING, user("Hi"), answer]
        assert body["system"] == "Be brief.\nNo jokes."

    def test_only_role_and_content_are_sent(self) -> None:
        """What else a message has is not the service's business."""
        body = body_of([{**user("Hi"), "name": "me"}, {**user("Why?"), "name": "me"}])
        assert body["history"] == [GREETING, user("Hi")]

    def test_parameters(self) -> None:
        """The service takes a temperature; ``extra_body`` is merged as it is."""
        body = body_of("Hi", temperature=0.1, max_tokens=5, extra_body={"nsfw": True})
        assert (body["temperature"], body["nsfw"]) == (0.1, True)
        assert "max_tokens" not in body
        assert body_of("Hi", temperature=None)["temperature"] == 0.7

    @pytest.mark.parametrize(
        ("asked", "model"),
        [
            (None, "gpt-3.5-turbo"),
            ("gemini", "google-gemini"),
            ("gemini-pro", "google-gemini"),
            ("Mixtral-8x7B", "Mixtral-8x7B"),
        ],
    )
    def test_models(self, asked: str | None, model: str) -> None:
        """A model goes by its own name, in two places, or by an alias."""
        body = body_of("Hi", model=asked)
        assert (body["model"], body["promptId"]) == (model, f"model-{model}")

    def test_an_unknown_model(self) -> None:
        """A name that the service certainly lacks is refused with the nearest, before sending."""
        provider = with_sender(FlowGpt, sender := Sender(Canned()))
        with pytest.raises(
            ModelNotFoundError, match=r"mixtral'; did you mean 'Mixtral-8x7B'\?.*pygm"
        ):
            next(provider.stream("Hi", model="mixtral"))
        assert sender.calls == []


class TestReply:
    @pytest.mark.parametrize(
        ("lines", "pieces"),
        [
            ([{"event": "text", "data": "a"}, {"event": "text", "data": "b"}], ["a", "b"]),
            (
                [{"data": "x"}, {"event": "text", "data": "a"}, {"event": "image", "data": "u"}],
                ["a"],
            ),
            ([{"event": "text", "data": ""}, {"event": "text", "data": "a"}], ["a"]),
            ([b"", b"  ", {"event": "text", "data": "a"}, b"\r"], ["a"]),
            ([{"event": "text", "data": "\ud83d"}, {"event": "text", "data": "\ude00"}], ["😀"]),
            ([{"event": "text", "data": " \n"}, {"event": "text", "data": " a"}], [" \n a"]),
        ],
    )
    def test_text_events_are_the_reply(self, lines: list[Any], pieces: list[str]) -> None:
        """Text events make the text; lines without an event and other events do not."""
        reading = ask(*lines)
        assert [piece for piece in reading.pieces if piece] == pieces
        assert (reading.finish.reason, reading.finish.raw) == ("stop", "")
        assert reading.finish.model == "gpt-3.5-turbo"

    @pytest.mark.parametrize("before", [[], [{"event": "text", "data": "a"}]])
    @pytest.mark.parametrize("data", ["overloaded", {"message": "overloaded"}, None, 7])
    def test_an_error_event_is_an_error(self, before: list[Any], data: Any) -> None:
        """An event that names an error is one, with what it says; after text, an interruption."""
        error = ask(*before, {"event": "error", "data": data}).error
        assert isinstance(error, StreamInterrupted if before else ServerError)
        assert "overloaded" in str(error) or not data or data == 7

    @pytest.mark.parametrize(
        ("line", "cls", "said"),
        [
            ({"event": "error", "data": "You exceeded your quota"}, QuotaExceededError, "quota"),
            ({"event": "error", "data": "Rate limit reached"}, RateLimitError, "Rate limit"),
            ({"event": "error", "data": {"code": 429, "message": "m7"}}, RateLimitError, "m7"),
            ({"event": "error", "code": 429, "data": "m7"}, RateLimitError, "m7"),
            ({"event": "error", "message": "Unknown model: x"}, ModelNotFoundError, "model: x"),
            ({"code": 401, "message": "Signature is wrong"}, AuthenticationError, "Signature"),
            ({"error": {"message": "slow down"}}, RateLimitError, "slow down"),
            ({"message": "Insufficient balance"}, QuotaExceededError, "Insufficient balance"),
            (b"Rate limit reached", RateLimitError, "Rate limit reached"),
            ("Service is down", ServerError, "Service is down"),
            ("Сервис недоступен".encode(), ServerError, "Сервис недоступен"),
        ],
    )
    def test_the_class_of_an_error(self, line: Any, cls: type[LLMError], said: str) -> None:
        """Codes and words give it, in JSON or plain; blank pieces before it do not matter."""
        for before in ([], [{"event": "text", "data": " "}] * 3):
            error = ask(*before, line).error
            assert type(error) is cls
            assert said in str(error.detail)
        assert type(ask({"event": "text", "data": "a"}, line).error) is StreamInterrupted

    def test_it_asks_to_wait(self) -> None:
        """A wait in the words of an error is read."""
        error = ask({"event": "error", "data": "Rate limit reached. Try again in 20s."}).error
        assert isinstance(error, RateLimitError)
        assert error.retry_after == 20

    @pytest.mark.parametrize(
        "lines", [[], [b""], [{"event": "end"}], [{"event": "text", "data": " "}]]
    )
    def test_no_text_is_no_success(self, lines: list[Any]) -> None:
        """A reply without any text is an empty one."""
        assert isinstance(ask(*lines).error, EmptyReplyError)

    @pytest.mark.parametrize(
        "line",
        [
            b"{",
            b"data: {}",
            b"[]",
            b"null",
            b'"x"',
            b"<html>",
            {"event": "text"},
            {"event": "text", "data": 7},
        ],
    )
    def test_what_cannot_be_understood(self, line: Any) -> None:
        """A line that is no JSON object, and a text event without text, lose no text in silence."""
        end = {"event": "text", "data": "b"}
        for lines in ([line, end], [{"event": "text", "data": "a"}, line, end]):
            assert isinstance(ask(*lines).error, ProtocolError)

    @pytest.mark.parametrize(("data", "kind"), [(7, "int"), (None, "NoneType"), (["x"], "list")])
    def test_the_error_says_what_came(self, data: Any, kind: str) -> None:
        """It names the type of what stood in the place of a text."""
        error = ask({"event": "text", "data": data}).error
        assert str(error).endswith(f"the reply has {kind} where data was due")

    def test_a_cut_line(self) -> None:
        """A body that ends in the middle of a line was cut."""
        reading = ask({"event": "text", "data": "a"}, b'{"event": "text", "da')
        assert isinstance(reading.error, StreamInterrupted)
        assert reading.text == "a"
