"""The services of the sandbox: what they accept, refuse and answer."""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import socket
import time
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from llmproviders.sandbox import Sandbox
from tests.sandbox.caller import (
    PROVIDERS,
    STREAMING,
    Caller,
    calling,
    chatglm_body,
    chatglm_headers,
    chatgptt_form,
    choices,
    delta_text,
    events,
    flowgpt_body,
    flowgpt_headers,
    glm_text,
    text_of,
    user,
)

TEN_WORDS = "one two three four five six seven eight nine ten"


class Clock:
    """Unix time that only a test moves."""

    def __init__(self) -> None:
        self.now = time.time()

    def __call__(self) -> float:
        """Return the time."""
        return self.now


def weather() -> dict[str, Any]:
    """Return a function for a model to call."""
    properties = {
        "city": {"type": "string"},
        "unit": {"type": "string", "enum": ["C", "F"]},
        "days": {"type": "integer"},
    }
    return {"name": "weather", "parameters": {"type": "object", "properties": properties}}


@pytest.fixture
def caller(sandbox: Sandbox) -> Iterator[Caller]:
    """Ask the sandbox of the test."""
    with contextlib.closing(Caller(sandbox)) as asking:
        yield asking


class TestReplies:
    @pytest.mark.parametrize("provider", PROVIDERS)
    def test_own_words(self, caller: Caller, provider: str) -> None:
        """Every service says that it is a sandbox, and what it was asked."""
        text = text_of(provider, caller.ask(provider, "Why is the sky blue?").content)
        assert "sandbox, not the real service" in text
        assert "You asked: Why is the sky blue? " in text

    @pytest.mark.parametrize("provider", PROVIDERS)
    def test_same_question_same_words(self, caller: Caller, provider: str) -> None:
        """The same question gets the same text."""
        first, second = (text_of(provider, caller.ask(provider, "Hm?").content) for _ in range(2))
        assert first == second

    @pytest.mark.parametrize("provider", STREAMING)
    def test_own_words_stream_in_a_few_dozen_pieces(self, caller: Caller, provider: str) -> None:
        """A reply in the sandbox's own words comes in ten to thirty pieces."""
        assert caller.ask(provider, "Why is the sky blue?").content
        record = caller.sandbox.requests[-1]
        assert caller.sandbox.wait_for(lambda _: record.ended)
        assert 10 <= record.pieces <= 30

    @pytest.mark.parametrize("provider", PROVIDERS)
    @pytest.mark.parametrize(
        "text",
        ["one", "two  words\n\nand lines", " edges ", "Небо синее。天空是蓝色" * 9, "a\nb"],
    )
    def test_text_given(self, provider: str, text: str) -> None:
        """A text given as the reply arrives as it is, whatever its spaces, lines and letters."""
        with calling(reply=text) as caller:
            assert text_of(provider, caller.ask(provider).content) == text

    @pytest.mark.parametrize("provider", PROVIDERS)
    def test_reply_function(self, provider: str) -> None:
        """A function given as the reply gets the messages, the user's last, with plain text."""
        seen: list[Any] = []

        def reply(messages: list[dict[str, Any]]) -> str:
            seen.append(messages[-1])
            return "fine"

        with calling(reply=reply) as caller:
            assert text_of(provider, caller.ask(provider, "How?").content) == "fine"
        assert seen == [user("How?")]

    @pytest.mark.parametrize("provider", PROVIDERS)
    def test_reply_function_that_fails(
        self, provider: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A reply function that raises is a broken service (500) and a line in the log."""

        def reply(messages: list[dict[str, Any]]) -> str:
            raise KeyError("mine")

        with caplog.at_level(logging.ERROR, "llmproviders.sandbox"), calling(reply=reply) as caller:
            assert [caller.ask(provider).status_code for _ in range(2)] == [500, 500]
        assert "KeyError" in caplog.text

    def test_long_question_is_shortened(self, caller: Caller) -> None:
        """A long question is quoted in part, its white space made one line."""
        text = text_of("openai", caller.ask("openai", "word\n" * 100).content)
        assert "word word" in text
        assert "…" in text
        assert len(text) < 250

    @pytest.mark.parametrize("provider", ["chatglm", "chatgptt"])
    def test_folded_conversation(self, caller: Caller, provider: str) -> None:
        """Out of a conversation folded into one message, the last question is quoted."""
        folded = "System: Be brief.\nUser: Hi\nAssistant: Hello\nUser: And\nwhy?\nAssistant:"
        text = text_of(provider, caller.ask(provider, folded).content)
        assert "You asked: And why? " in text

    @pytest.mark.parametrize("provider", STREAMING)
    def test_stream_is_chunked_piece_by_piece(self, provider: str) -> None:
        """Each piece of a stream is one HTTP chunk of its own."""
        with calling(reply=TEN_WORDS) as caller:
            chunks = list(caller.ask(provider).raw.read_chunked())
        word = [chunk for chunk in chunks if b"seven" in chunk]
        assert len(chunks) >= 10
        assert b"eight" not in word[0]

    @pytest.mark.parametrize("provider", PROVIDERS)
    @pytest.mark.parametrize("settings", [{"compress": True}, {"chunked": False}])
    def test_framings(self, provider: str, settings: dict[str, Any]) -> None:
        """A reply is the same compressed, and ended by closing the connection."""
        with calling(reply=TEN_WORDS, **settings) as caller:
            response = caller.ask(provider)
            assert text_of(provider, response.content) == TEN_WORDS
        if "compress" in settings:
            assert response.headers["Content-Encoding"] == "gzip"
        elif provider in STREAMING:
            assert "Transfer-Encoding" not in response.headers

    def test_compressed_pieces_can_be_read_as_they_come(self) -> None:
        """A compressed stream gives each piece at once."""
        with calling(reply=TEN_WORDS, compress=True) as caller:
            seen = [read for read in caller.ask("openai").iter_content(None) if b"seven" in read]
        assert b"eight" not in seen[0]

    def test_compression_is_off_by_default(self, caller: Caller) -> None:
        """A client that accepts compression gets none unless the sandbox was told to."""
        assert "Content-Encoding" not in caller.ask("openai").headers

    def test_http_1_0(self, sandbox: Sandbox) -> None:
        """A client that speaks HTTP/1.0 gets no chunks, and the connection closed."""
        with socket.create_connection(("127.0.0.1", sandbox.port)) as raw:
            raw.sendall(b"GET / HTTP/1.0\r\n\r\n")
            reply = b"".join(iter(lambda: raw.recv(4096), b""))
        assert b"Connection: close" in reply
        assert b"data-nonce" in reply

    def test_date_follows_the_clock(self) -> None:
        """The Date header tells the time of the clock that was given."""
        with calling(clock=lambda: 0.0) as caller:
            assert caller.get("/").headers["Date"] == "Thu, 01 Jan 1970 00:00:00 GMT"


class TestChatGLM:
    def told(self, caller: Caller, text: str = "Why?") -> list[Any]:
        """Return the events of a reply."""
        return events(caller.ask("chatglm", text).content)

    def test_text_is_cumulative(self, caller: Caller) -> None:
        """Every event carries the text so far; the first has none, the last says finish."""
        told = self.told(caller)
        texts = [glm_text(event) for event in told]
        assert texts[0] == ""
        assert all(later.startswith(former) for former, later in itertools.pairwise(texts))
        assert [event["status"] for event in told] == ["init"] * (len(told) - 1) + ["finish"]

    def test_last_text_may_come_with_the_finish(self, caller: Caller) -> None:
        """A long reply's last word comes in the event that says finish."""
        told = self.told(caller)
        assert len(glm_text(told[-1])) > len(glm_text(told[-2]))

    def test_first_part_is_not_text(self, caller: Caller) -> None:
        """The first part is code, or a thought where the prompt asks for one."""
        assert self.told(caller)[-1]["parts"][0]["content"][0]["type"] == "code"
        part = self.told(caller, "Please think")[-1]["parts"][0]
        assert part["content"][0]["think"]

    def test_lines_come_in_two_parts(self) -> None:
        """A text of two lines comes in two parts, for a client to join by a line break."""
        with calling(reply="first line\nsecond line") as caller:
            parts = self.told(caller)[-1]["parts"][1:]
        assert [part["content"][0]["text"] for part in parts] == ["first line", "second line"]
        assert len({part["logic_id"] for part in parts}) == 2

    def test_intervention(self, caller: Caller) -> None:
        """A filter's stop is the last event, without text, and says why."""
        told = self.told(caller, "Please trip the filter")
        assert told[-1]["status"] == "intervene"
        assert told[-1]["last_error"]["intervene_text"]
        assert glm_text(told[-1]) == ""
        assert glm_text(told[-2])

    @pytest.mark.parametrize(
        ("header", "value"),
        [
            ("Authorization", "Bearer x"),
            ("App-Name", "other"),
            ("X-App-Platform", "ios"),
            ("X-App-Version", ""),
            ("X-Device-Id", "0d1ec0de-0000-4000-8000-00000000c0de"),
            ("Content-Type", "text/plain"),
        ],
    )
    def test_refused_headers(self, caller: Caller, header: str, value: str) -> None:
        """A header that is not as the web client sends it is refused, with HTTP 200."""
        response = caller.post(
            "/chatglm/mainchat-api/guest/stream",
            data=json.dumps(chatglm_body("hi")),
            headers={**chatglm_headers(), "Content-Type": "application/json", header: value},
        )
        assert response.status_code == 200
        assert response.headers["Content-Type"].startswith("application/json")
        assert response.json()["status"] != 0
        assert header.lower() in response.json()["message"]

    @pytest.mark.parametrize(
        "change",
        [
            {"assistant_id": "nobody"},
            {"conversation_id": None},
            {"meta_data": None},
            {"meta_data": {}},
            {"messages": []},
            {"messages": [user("a"), user("b")]},
            {"messages": [{"role": "system", "content": [{"type": "text", "text": "a"}]}]},
            {"messages": [user("a string")]},
            {"messages": [{"role": "user", "content": [{"type": "image", "image": "x"}]}]},
        ],
    )
    def test_refused_bodies(self, caller: Caller, change: dict[str, Any]) -> None:
        """A body that the guest service cannot take is refused: history, system, wrong fields."""
        response = caller.ask("chatglm", extra=change)
        assert response.status_code == 200
        assert response.json()["status"] != 0

    def test_body_that_is_not_json(self, caller: Caller) -> None:
        """A body that is not JSON is refused."""
        headers = {**chatglm_headers(), "Content-Type": "application/json"}
        path = "/chatglm/mainchat-api/guest/stream"
        assert caller.post(path, data=b"{", headers=headers).json()["status"] != 0


class TestChatGptt:
    path = "/wp-admin/admin-ajax.php"

    def test_reply_is_json(self, caller: Caller) -> None:
        """The reply is one JSON object unless the site streams."""
        assert caller.ask("chatgptt").json()["status"] == "success"

    def test_site_with_streaming(self) -> None:
        """A site that streams answers in events, to a DONE."""
        with calling(chatgptt_streams=True, reply=TEN_WORDS) as caller:
            response = caller.ask("chatgptt")
            assert response.headers["Content-Type"] == "text/event-stream"
            told = events(response.content)
        assert delta_text(told) == TEN_WORDS
        assert told[-1] == "[DONE]"

    def test_page_is_written_in_two_ways(self, caller: Caller) -> None:
        """Visitors get the widget with double quotes and single quotes in turn."""
        pages = [caller.get("/").text for _ in range(2)]
        assert 'data-nonce="' in pages[0]
        assert "data-nonce='" in pages[1]

    def test_nonce_lasts_for_the_session(self, caller: Caller) -> None:
        """The same cookie gets the same nonce, and may use it again."""
        forms = [chatgptt_form(caller.get("/").text, "hi") for _ in range(2)]
        assert forms[0]["_wpnonce"] == forms[1]["_wpnonce"]
        assert [caller.post(self.path, data=form).status_code for form in forms] == [200, 200]

    def test_nonce_needs_its_cookie(self, caller: Caller) -> None:
        """A nonce without the cookie of its page is refused with 403 and -1."""
        form = chatgptt_form(caller.get("/").text, "hi")
        caller.http.cookies.clear()
        response = caller.post(self.path, data=form)
        assert (response.status_code, response.text) == (403, "-1")

    def test_nonce_of_another_visitor(self, caller: Caller) -> None:
        """A nonce does not go with another visitor's cookie."""
        form = chatgptt_form(caller.get("/").text, "hi")
        caller.http.cookies.clear()
        caller.get("/")
        assert caller.post(self.path, data=form).status_code == 403

    def test_nonce_expires(self) -> None:
        """A nonce dies after its time, and the page then gives another."""
        clock = Clock()
        with calling(clock=clock, chatgptt_nonce_life_s=60) as caller:
            form = chatgptt_form(caller.get("/").text, "hi")
            clock.now += 59
            assert caller.post(self.path, data=form).status_code == 200
            clock.now += 2
            assert caller.post(self.path, data=form).text == "-1"
            assert chatgptt_form(caller.get("/").text, "hi")["_wpnonce"] != form["_wpnonce"]

    def test_expire_nonces(self, caller: Caller) -> None:
        """Nonces can be expired at will."""
        form = chatgptt_form(caller.get("/").text, "hi")
        caller.sandbox.expire_nonces()
        assert caller.post(self.path, data=form).status_code == 403
        assert caller.ask("chatgptt").status_code == 200

    @pytest.mark.parametrize(
        "change",
        [
            {"post_id": "1"},
            {"bot_id": "7"},
            {"chatbot_identity": ""},
            {"wpaicg_chat_client_id": "no hex"},
            {"url": ""},
            {"message": ""},
            {"wpaicg_chat_history": "[]"},
        ],
    )
    def test_refused_fields(self, caller: Caller, change: dict[str, str]) -> None:
        """A wrong field is an error in JSON, with HTTP 200."""
        response = caller.ask("chatgptt", extra=change)
        assert response.status_code == 200
        assert response.json()["status"] == "error"
        assert response.json()["msg"]

    def test_other_action(self, caller: Caller) -> None:
        """An action that the site does not have gets 400 and 0, as in WordPress."""
        response = caller.ask("chatgptt", extra={"action": "heartbeat"})
        assert (response.status_code, response.text) == (400, "0")


class TestFlowGpt:
    path = "/v3/chat-anonymous"

    def test_reply_has_other_lines_too(self, caller: Caller) -> None:
        """Among the text events are events of other kinds and lines without an event."""
        told = [json.loads(line) for line in caller.ask("flowgpt").content.splitlines()]
        kinds = {event.get("event") for event in told}
        assert {"text", "start", None} <= kinds
        assert told[-1]["event"] == "text"

    @pytest.mark.parametrize(
        ("header", "value"),
        [
            ("Authorization", "Bearer undefined"),
            ("x-timestamp", "1.5"),
            ("x-nonce", "short"),
            ("x-signature", "0" * 32),
            ("x-flow-device-id", "f-UPPERCASE"),
        ],
    )
    def test_refused_signature(self, caller: Caller, header: str, value: str) -> None:
        """A signature header that is malformed or does not match is refused with 401."""
        headers = {**flowgpt_headers(), header: value}
        response = caller.post(self.path, json=flowgpt_body("hi"), headers=headers)
        assert response.status_code == 401
        assert header in response.json()["message"]

    def test_body_that_is_not_json(self, caller: Caller) -> None:
        """A body that is not JSON gets 400."""
        assert caller.post(self.path, data=b"[", headers=flowgpt_headers()).status_code == 400

    @pytest.mark.parametrize("off_by", [-600, 600])
    def test_refused_clock(self, caller: Caller, off_by: int) -> None:
        """A timestamp that is ten minutes off is refused with 401."""
        headers = flowgpt_headers(at=time.time() + off_by)
        response = caller.post(self.path, json=flowgpt_body("hi"), headers=headers)
        assert response.status_code == 401

    @pytest.mark.parametrize("field", sorted(flowgpt_body("hi")))
    def test_missing_field(self, caller: Caller, field: str) -> None:
        """Every field of the body is needed."""
        assert caller.ask("flowgpt", extra={field: None}).status_code == 400

    @pytest.mark.parametrize(
        "change",
        [
            {"model": "gpt-99"},
            {"promptId": "model-gpt-4-turbo"},
            {"question": ""},
            {"history": ["hi"]},
            {"history": [{"role": "system", "content": "hi"}]},
        ],
    )
    def test_refused_body(self, caller: Caller, change: dict[str, Any]) -> None:
        """A field of a wrong value is refused with 400."""
        assert caller.ask("flowgpt", extra=change).status_code == 400


class TestGigaChatToken:
    def test_token(self, caller: Caller) -> None:
        """A token lives half an hour, told in milliseconds."""
        granted = caller.get_token().json()
        assert granted["expires_at"] / 1000 == pytest.approx(time.time() + 1800, abs=60)
        caller.token = granted["access_token"]
        assert caller.ask("gigachat").status_code == 200

    def test_bearer_key(self, caller: Caller) -> None:
        """The key is taken as Bearer too."""
        key = caller.sandbox.environ()["GIGACHAT_CREDENTIALS"]
        assert caller.get_token(Authorization=f"Bearer {key}").status_code == 200

    @pytest.mark.parametrize(
        ("arguments", "status", "code"),
        [
            ({"scope": ""}, 400, 5),
            ({"scope": "GIGACHAT_API_CORP"}, 400, 7),
            ({"scope": "all of them"}, 400, 1),
            ({"key": "bm86a2V5"}, 401, 6),
            ({"Authorization": "nothing"}, 401, 4),
            ({"RqUID": ""}, 400, 2),
            ({"RqUID": uuid.uuid4().hex}, 400, 2),
            ({"RqUID": str(uuid.uuid1())}, 400, 2),
        ],
    )
    def test_refusals(
        self, caller: Caller, arguments: dict[str, str], status: int, code: int
    ) -> None:
        """A bad scope, key or RqUID is refused with the token service's code and a message."""
        response = caller.get_token(**arguments)
        assert response.status_code == status
        assert response.json()["code"] == code
        assert response.json()["message"]

    def test_scope_of_the_key(self) -> None:
        """The scope that the key has can be set."""
        with calling(gigachat_scope="GIGACHAT_API_CORP") as caller:
            assert caller.get_token().status_code == 200
            assert caller.get_token(scope="GIGACHAT_API_PERS").json()["code"] == 7

    def test_unknown_scope_setting(self) -> None:
        """A scope that does not exist is an error at once."""
        with pytest.raises(ValueError, match="GIGACHAT_API_B2B"):
            Sandbox(gigachat_scope="GIGACHAT_API_ALL")

    def test_token_expires(self) -> None:
        """A token dies after its time."""
        clock = Clock()
        with calling(clock=clock, gigachat_token_life_s=60) as caller:
            assert caller.ask("gigachat").status_code == 200
            clock.now += 61
            refused = caller.ask("gigachat")
        assert refused.json() == {"status": 401, "message": "Token has expired"}
        assert refused.status_code == 401

    def test_expire_tokens(self, caller: Caller) -> None:
        """Tokens can be expired at will; a new one works."""
        caller.ask("gigachat")
        caller.sandbox.expire_tokens()
        assert caller.ask("gigachat").json() == {"status": 401, "message": "Token has expired"}
        caller.token = None
        assert caller.ask("gigachat").status_code == 200

    def test_unknown_token(self, caller: Caller) -> None:
        """A token that was never issued is refused."""
        caller.token = "made-up"
        response = caller.ask("gigachat")
        assert response.json() == {"status": 401, "message": "Unauthorized"}


class TestGigaChat:
    def test_whole(self, caller: Caller) -> None:
        """A reply that does not stream is one object with usage."""
        told = caller.ask("gigachat", stream=False).json()
        assert told["choices"][0]["finish_reason"] == "stop"
        assert told["object"] == "chat.completion"
        usage = told["usage"]
        assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
        assert "precached_prompt_tokens" in usage

    def test_stream(self, caller: Caller) -> None:
        """A stream ends with a finish reason, which brings the usage, and DONE."""
        told = events(caller.ask("gigachat").content)
        assert told[-1] == "[DONE]"
        assert told[-2]["choices"][0]["finish_reason"] == "stop"
        assert told[-2]["usage"]["total_tokens"]
        assert told[0]["choices"][0]["delta"]["role"] == "assistant"

    def test_whole_and_stream_say_the_same(self, caller: Caller) -> None:
        """The text is the same, streaming or not."""
        whole = caller.ask("gigachat", stream=False).json()["choices"][0]["message"]["content"]
        assert text_of("gigachat", caller.ask("gigachat").content) == whole

    def test_ids(self, caller: Caller) -> None:
        """Replies carry the ids of the request and the session, the caller's own if given."""
        own = {"X-Request-ID": "r-1", "X-Session-ID": "s-1"}
        response = caller.post("/api/v1/chat/completions", json={}, headers=own)
        assert response.status_code == 401
        assert response.headers["x-request-id"] == "r-1"
        assert response.headers["x-session-id"] == "s-1"
        assert uuid.UUID(caller.ask("gigachat").headers["x-request-id"]).version == 4

    @pytest.mark.parametrize(
        ("change", "status"),
        [
            ({"messages": [user("a"), {"role": "system", "content": "b"}]}, 422),
            ({"messages": [{"role": "system", "content": "b"}] * 2 + [user("a")]}, 422),
            ({"messages": []}, 422),
            ({"messages": ["a"]}, 422),
            ({"messages": [{"role": "tool", "content": "a"}]}, 422),
            ({"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}]}, 422),
            ({"n": 0}, 422),
            ({"max_tokens": "many"}, 422),
            ({"model": "GigaChat-1"}, 404),
            ({"model": None}, 404),
        ],
    )
    def test_refusals(self, caller: Caller, change: dict[str, Any], status: int) -> None:
        """Bad messages and numbers get 422, an unknown model 404, in the service's words."""
        response = caller.ask("gigachat", extra=change)
        assert response.status_code == response.json()["status"] == status
        message = response.json()["message"]
        assert message.startswith("Invalid params: " if status == 422 else "No such model")

    def test_body_that_is_not_json(self, caller: Caller) -> None:
        """A body that is not JSON gets 400."""
        assert caller.api("POST", "chat/completions", data=b"{").status_code == 400

    @pytest.mark.parametrize("model", ["GigaChat", "GigaChat:latest", "GigaChat-2-Max"])
    def test_known_models(self, caller: Caller, model: str) -> None:
        """Older names still work, for today's model; the reply names it with its version."""
        told = caller.ask("gigachat", stream=False, extra={"model": model}).json()
        assert told["model"].startswith("GigaChat-2")

    def test_models_given(self) -> None:
        """The catalogue can be set, as when a model is retired."""
        with calling(gigachat_models=("GigaChat-3",)) as caller:
            assert caller.ask("gigachat").status_code == 404
            listed = [model["id"] for model in caller.api("GET", "models").json()["data"]]
            assert caller.ask("gigachat", extra={"model": listed[0]}).status_code == 200
        assert listed == ["GigaChat-3", "Embeddings"]

    def test_one_stream_for_a_person(self) -> None:
        """A personal key has one chat request at a time: the next gets 429 until it ends."""
        with calling(piece_delay_s=0.01, reply="word " * 2000) as caller:
            first = caller.ask("gigachat")
            assert caller.ask("gigachat").status_code == 429
            first.close()
            assert caller.sandbox.wait_for(lambda s: any(r.aborted for r in s.requests))
            assert caller.ask("gigachat").status_code == 200

    def test_stream_dropped_for_the_next(self) -> None:
        """A client that drops a stream may ask again at once."""
        with calling(piece_delay_s=0.01, reply="word " * 2000) as caller:
            for _ in range(5):
                response = caller.ask("gigachat")
                assert response.status_code == 200
                response.close()

    def test_place_is_free_when_the_reply_has_ended(self, caller: Caller) -> None:
        """One reply after another needs no pause between."""
        answers = [caller.ask("gigachat", stream=number % 2 == 0) for number in range(40)]
        assert [answer.status_code for answer in answers if answer.content] == [200] * 40

    @pytest.mark.parametrize("settings", [{"gigachat_scope": "GIGACHAT_API_B2B"}, {}])
    def test_more_streams(self, settings: dict[str, Any]) -> None:
        """A business key has ten chat requests at a time; another number can be set."""
        settings = settings or {"gigachat_max_concurrency": 10}
        with calling(piece_delay_s=0.01, reply="word " * 2000, **settings) as caller:
            open_replies = [caller.ask("gigachat") for _ in range(11)]
        assert [reply.status_code for reply in open_replies] == [200] * 10 + [429]

    def test_filter(self, caller: Caller) -> None:
        """The filter stops a reply with the finish reason blacklist."""
        told = events(caller.ask("gigachat", "trip the filter").content)
        assert told[-2]["choices"][0]["finish_reason"] == "blacklist"
        assert delta_text(told)
        told = events(caller.ask("gigachat", "trip the filter at once").content)
        assert delta_text(told) == ""

    @pytest.mark.parametrize("stream", [True, False])
    def test_function_call(self, caller: Caller, stream: bool) -> None:
        """A function that is offered can be called, with arguments as an object."""
        functions = [weather()]
        extra = {"functions": functions}
        response = caller.ask("gigachat", "Please call the tool", stream=stream, extra=extra)
        if stream:
            told = events(response.content)
            message = told[0]["choices"][0]["delta"]
            reason = told[-2]["choices"][0]["finish_reason"]
        else:
            message = response.json()["choices"][0]["message"]
            reason = response.json()["choices"][0]["finish_reason"]
        arguments = {"city": "sandbox", "unit": "C", "days": 1}
        assert message["function_call"] == {"name": "weather", "arguments": arguments}
        assert reason == "function_call"

    def test_function_is_not_called_again(self, caller: Caller) -> None:
        """After the function's result the reply is text."""
        messages = [user("call the tool"), {"role": "function", "content": "{}", "name": "weather"}]
        extra = {"functions": [weather()], "messages": messages}
        assert delta_text(events(caller.ask("gigachat", extra=extra).content))

    def test_reasoning(self, caller: Caller) -> None:
        """A prompt that asks to think gets reasoning first, apart from the text."""
        told = events(caller.ask("gigachat", "Think first").content)
        thoughts = [choices(e)[0]["delta"].get("reasoning_content") for e in told if choices(e)]
        assert thoughts[0]
        assert thoughts[-1] is None
        message = caller.ask("gigachat", "Think", stream=False).json()["choices"][0]["message"]
        assert message["reasoning_content"]

    def test_max_tokens(self, caller: Caller) -> None:
        """A reply ends at max_tokens pieces with the reason length."""
        told = events(caller.ask("gigachat", extra={"max_tokens": 2}).content)
        assert delta_text(told) == "This is"
        assert told[-2]["choices"][0]["finish_reason"] == "length"

    def test_balance(self, caller: Caller) -> None:
        """The balance tells the tokens left for each model."""
        balance = caller.api("GET", "balance").json()["balance"]
        assert {"usage": "GigaChat-2", "value": 900_000} in balance

    def test_no_balance_for_who_pays_as_they_go(self) -> None:
        """A postpaid account has no balance."""
        with calling(gigachat_scope="GIGACHAT_API_CORP") as caller:
            response = caller.api("GET", "balance")
        assert response.json() == {"status": 403, "message": "Permission denied"}

    def test_token_count(self, caller: Caller) -> None:
        """Tokens are counted for each text."""
        body = {"model": "GigaChat-2", "input": ["one two"]}
        counted = caller.api("POST", "tokens/count", json=body).json()
        assert counted == [{"object": "tokens", "tokens": 2, "characters": 7}]

    def test_embeddings(self, caller: Caller) -> None:
        """Embeddings are the same for the same text."""
        body = {"model": "Embeddings", "input": ["one", "two", "one"]}
        data = caller.api("POST", "embeddings", json=body).json()["data"]
        assert data[0]["embedding"] == data[2]["embedding"] != data[1]["embedding"]

    @pytest.mark.parametrize("path", ["embeddings", "tokens/count"])
    def test_bad_inputs(self, caller: Caller, path: str) -> None:
        """Inputs that are not a list of strings get 422."""
        assert caller.api("POST", path, json={"input": "one"}).status_code == 422

    def test_unknown_path(self, caller: Caller) -> None:
        """An unknown path gets 404 in the service's shape, a wrong method 405."""
        assert caller.api("GET", "nothing").json() == {"status": 404, "message": "Not Found"}
        assert caller.api("GET", "chat/completions").status_code == 405


def called(call_id: str, arguments: Any = "{}") -> dict[str, Any]:
    """A call as OpenAI's messages have it."""
    function = {"name": "weather", "arguments": arguments}
    return {"id": call_id, "type": "function", "function": function}


def turn(*calls: Any, **more: Any) -> dict[str, Any]:
    """An assistant's message with calls."""
    return {"role": "assistant", "content": "", "tool_calls": list(calls), **more}


def told(call_id: str) -> dict[str, Any]:
    """The result of a call."""
    return {"role": "tool", "tool_call_id": call_id, "content": "20"}


FAULTY_HISTORIES: dict[str, tuple[list[Any], str]] = {
    "arguments that are an object": ([turn(called("a", {})), told("a")], "arguments as a string"),
    "a call without an id": ([turn(called("")), told("")], "each has an id"),
    "a call that is none": ([turn("weather")], "each has an id"),
    "no call": ([turn()], "not empty"),
    "calls that are null": ([turn(tool_calls=None)], "not empty"),
    "a result of no call": ([told("a")], "must be a response"),
    "a result without an id": (
        [turn(called("a")), {"role": "tool", "content": "20"}],
        "must be a response",
    ),
    "two results of one call": ([turn(called("a")), told("a"), told("a")], "must be a response"),
    "one result of two": ([turn(called("a"), called("b")), told("a")], "no response"),
    "a turn in between": (
        [turn(called("a")), {"role": "user", "content": "So?"}, told("a")],
        "no response before",
    ),
    "GigaChat's id": ([turn(called("a"), functions_state_id="7"), told("a")], "functions_state_id"),
    "GigaChat's files": ([{"role": "user", "content": "x", "attachments": ["7"]}], "attachments"),
    "GigaChat's arguments": (
        [{"role": "assistant", "content": "", "function_call": {"name": "f", "arguments": {}}}],
        "must be a string",
    ),
    "a function without a name": ([{"role": "function", "content": "20"}], "name is required"),
}


class TestOpenAI:
    def test_whole(self, caller: Caller) -> None:
        """A reply that does not stream is one object with usage."""
        told = caller.ask("openai", stream=False).json()
        assert told["id"].startswith("chatcmpl-")
        assert told["model"] == "sandbox-small"
        assert told["usage"]["total_tokens"] > 0

    def test_stream(self, caller: Caller) -> None:
        """A stream begins with a role, has comments between, and ends with DONE."""
        data = caller.ask("openai").content
        told = events(data)
        assert told[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
        assert told[-1] == "[DONE]"
        assert data.count(b"\n: ") >= 2
        assert not any(event.get("usage") for event in told[:-1])

    @pytest.mark.parametrize("fault", FAULTY_HISTORIES)
    def test_history_that_is_refused(self, caller: Caller, fault: str) -> None:
        """Calls and results that OpenAI does not take in a history are a 400 that says which."""
        messages, words = FAULTY_HISTORIES[fault]
        reply = caller.ask("openai", extra={"messages": [user("Rain?"), *messages]})
        assert reply.status_code == 400
        assert words in reply.json()["error"]["message"]

    def test_history_that_is_taken(self, caller: Caller) -> None:
        """Two calls in a turn, their results in any order, and the next turn are taken."""
        messages = [turn(called("a"), called("b")), told("b"), told("a"), turn(called("a"))]
        extra = {"messages": [user("Rain?"), *messages, told("a"), user("So?")]}
        assert caller.ask("openai", extra=extra).status_code == 200

    def test_usage_on_request(self, caller: Caller) -> None:
        """Usage comes, if asked for, in a last event that has no choices."""
        extra = {"stream_options": {"include_usage": True}}
        told = events(caller.ask("openai", extra=extra).content)
        assert told[-2]["choices"] == []
        assert told[-2]["usage"]["total_tokens"] > 0

    @pytest.mark.parametrize(
        ("change", "status", "code"),
        [
            ({"model": "unheard-of"}, 404, "model_not_found"),
            ({"model": None}, 400, None),
            ({"messages": []}, 400, None),
            ({"messages": [{"role": "robot", "content": "a"}]}, 400, None),
            ({"messages": [{"role": "user", "content": 7}]}, 400, None),
            ({"n": 0}, 400, None),
            ({"max_completion_tokens": 0.5}, 400, None),
        ],
    )
    def test_refusals(
        self, caller: Caller, change: dict[str, Any], status: int, code: str | None
    ) -> None:
        """An unknown model gets 404, a bad request 400, in an error object."""
        response = caller.ask("openai", extra=change)
        assert response.status_code == status
        assert response.json()["error"]["code"] == code
        assert response.json()["error"]["message"]

    @pytest.mark.parametrize("authorization", ["", "Bearer sk-other", "Basic sk-other"])
    def test_refused_key(self, caller: Caller, authorization: str) -> None:
        """A key that is not the sandbox's is refused, whatever the request."""
        for path in ("/v1/models", "/v1/chat/completions"):
            method = caller.get if path.endswith("models") else caller.post
            response = method(path, headers={"Authorization": authorization})
            assert response.status_code == 401
            assert response.json()["error"]["code"] == "invalid_api_key"

    def test_models(self, caller: Caller) -> None:
        """The models are listed."""
        key = caller.sandbox.environ()["OPENAI_API_KEY"]
        listed = caller.get("/v1/models", headers={"Authorization": f"Bearer {key}"}).json()
        assert listed["data"][0]["id"] == caller.sandbox.environ()["OPENAI_MODEL"]

    def test_content_in_items(self, caller: Caller) -> None:
        """Content may be a list of texts."""
        items = [{"type": "text", "text": "one "}, {"type": "text", "text": "two"}]
        extra = {"messages": [{"role": "user", "content": items}]}
        assert "You asked: one two." in text_of("openai", caller.ask("openai", extra=extra).content)

    def test_body_that_is_not_json(self, caller: Caller) -> None:
        """A body that is not JSON gets 400."""
        key = caller.sandbox.environ()["OPENAI_API_KEY"]
        headers = {"Authorization": f"Bearer {key}"}
        assert caller.post("/v1/chat/completions", data=b"{", headers=headers).status_code == 400

    def test_no_user_message(self, caller: Caller) -> None:
        """A conversation without a user's message is answered as well."""
        extra = {"messages": [{"role": "system", "content": "Be brief."}]}
        assert "You asked: ." in text_of("openai", caller.ask("openai", extra=extra).content)

    def test_several_choices(self, caller: Caller) -> None:
        """A request for n choices gets them, streaming or not."""
        whole = caller.ask("openai", stream=False, extra={"n": 3}).json()
        assert [choice["index"] for choice in whole["choices"]] == [0, 1, 2]
        told = events(caller.ask("openai", extra={"n": 2}).content)
        assert {choices(event)[0]["index"] for event in told if choices(event)} == {0, 1}

    @pytest.mark.parametrize("offer", ["tools", "functions"])
    def test_calls(self, caller: Caller, offer: str) -> None:
        """A tool or function that is offered can be called, its arguments in several pieces."""
        offered = [{"type": "function", "function": weather()}] if offer == "tools" else [weather()]
        extra = {offer: offered}
        whole = caller.ask("openai", "call the tool", stream=False, extra=extra).json()
        told = events(caller.ask("openai", "call the tool", extra=extra).content)
        deltas = [event["choices"][0]["delta"] for event in told[1:-2]]
        if offer == "tools":
            called = whole["choices"][0]["message"]["tool_calls"][0]["function"]
            parts = [delta["tool_calls"][0]["function"] for delta in deltas]
            reason = "tool_calls"
        else:
            called = whole["choices"][0]["message"]["function_call"]
            parts = [delta["function_call"] for delta in deltas]
            reason = "function_call"
        arguments = "".join(part["arguments"] for part in parts)
        assert (parts[0]["name"], arguments) == ("weather", called["arguments"])
        assert json.loads(arguments) == {"city": "sandbox", "unit": "C", "days": 1}
        assert told[-2]["choices"][0]["finish_reason"] == reason
        assert whole["choices"][0]["finish_reason"] == reason

    @pytest.mark.parametrize(
        ("choice", "calls"),
        [
            ("none", False),
            ("auto", False),
            ("required", True),
            ({"type": "function", "function": {"name": "weather"}}, True),
            ({"type": "function", "function": {"name": "other"}}, False),
        ],
    )
    def test_tool_choice(self, caller: Caller, choice: Any, calls: bool) -> None:
        """A request can demand a call, and forbid it."""
        extra = {"tools": [{"type": "function", "function": weather()}], "tool_choice": choice}
        told = caller.ask("openai", stream=False, extra=extra).json()
        assert ("tool_calls" in told["choices"][0]["message"]) is calls

    def test_reasoning(self, caller: Caller) -> None:
        """A prompt that asks to think gets reasoning first, apart from the text."""
        told = events(caller.ask("openai", "think").content)
        assert told[1]["choices"][0]["delta"]["reasoning_content"]

    def test_filter_length_and_stop(self, caller: Caller) -> None:
        """The finish reason tells a filter and a length; a stop word ends the text."""
        for text, extra, reason in (
            ("trip the filter", {}, "content_filter"),
            ("hi", {"max_tokens": 3}, "length"),
            ("hi", {"stop": "sandbox"}, "stop"),
        ):
            told = events(caller.ask("openai", text, extra=extra).content)
            assert told[-2]["choices"][0]["finish_reason"] == reason
        assert delta_text(told) == "This is the OpenAI-compatible "

    def test_unknown_path(self, caller: Caller) -> None:
        """An unknown path gets 404 in the protocol's shape."""
        response = caller.get("/v1/nothing")
        assert response.status_code == 404
        assert response.json()["error"]["message"] == "Not Found"
