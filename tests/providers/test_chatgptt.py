"""ChatGptt: tokens from a page, a form, and two kinds of reply."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import parse_qsl

import pytest

from llmproviders import (
    AuthenticationError,
    BlockedError,
    ChatGptt,
    EmptyReplyError,
    FinishReason,
    LLMError,
    ModelNotFoundError,
    ProtocolError,
    QuotaExceededError,
    RateLimitError,
    ServerError,
    StreamInterrupted,
)
from llmproviders.provider import Limits
from tests.conftest import RawServerFactory
from tests.support.calls import EVENTS, Canned, Sender, with_sender
from tests.support.http_bytes import http_response
from tests.support.promise import Reading, read
from tests.support.rawserver import Connection, RawServer, Script, keep_alive

HTML = {"Content-Type": "text/html; charset=UTF-8"}
JSON = "application/json"
NONCES = ("a1b2c3d4e5", "f6a7b8c9d0", "0123456789")
SAID = {"status": "success", "data": "It scatters.", "msg": ""}
QUOTA = "You exceeded your current quota, please check your plan and billing details."
FINE = Canned(json.dumps(SAID).encode(), JSON)
CHALLENGES = (
    b"<html><head><title>Just a moment...</title></head><body></body></html>",
    b"<!DOCTYPE html><html><head>\n<title>Attention Required! | Cloudflare</title></html>",
)


def page(nonce: str = NONCES[0], attributes: str = 'data-nonce="{}" data-post-id="7"') -> bytes:
    """A page with the chat widget, whose element has these attributes."""
    return f"<html><body class='x'><div {attributes.format(nonce)}></div></body></html>".encode()


def said(answer: Any, status: int = 200) -> Script:
    """A reply in JSON."""
    return http_response(status, {"Content-Type": JSON}, json.dumps(answer).encode())


class Site:
    """A site whose page has another nonce and another cookie each time.

    Args:
        chats: the reply to each form, the last one for all further ones.
    """

    def __init__(self, *chats: Script) -> None:
        self.chats = list(chats)
        self.pages = 0

    def __call__(self, conn: Connection) -> None:
        """Answer."""
        while not conn.closed:
            if conn.read_request().method == "GET":
                cookie = {"Set-Cookie": f"session=visit-{self.pages}; Path=/; HttpOnly"}
                conn.run(http_response(200, {**HTML, **cookie}, page(NONCES[self.pages])))
                self.pages += 1
            else:
                conn.run(self.chats.pop(0) if len(self.chats) > 1 else self.chats[0])


def ask(
    site: Site, raw_server: RawServerFactory, times: int = 1
) -> tuple[list[Reading], RawServer]:
    """Ask a site so many times."""
    server = raw_server(site)
    with ChatGptt(base_url=server.url) as provider:
        return [read(provider.stream("Why?")) for _ in range(times)], server


def answered(*answers: Canned | LLMError) -> Reading:
    """What comes out of these replies to the forms, one page being there."""
    sender = Sender(Canned(page(), "text/html"), *answers)
    return read(with_sender(ChatGptt, sender).stream("Why?"))


class TestRequest:
    def test_exactly_as_documented(self, raw_server: RawServerFactory) -> None:
        """Page and form have the headers and fields of the site's own script."""
        (reading,), server = ask(Site(said(SAID)), raw_server)
        assert reading.text == "It scatters."
        got, posted = server.requests
        assert (got.method, got.target, got.body) == ("GET", "/", b"")
        assert (posted.method, posted.target) == ("POST", "/wp-admin/admin-ajax.php")
        for request in (got, posted):
            headers = {name.lower(): value for name, value in request.headers}
            for name in ("content-length", "content-type", "cookie", "host"):
                headers.pop(name, None)
            assert re.match(r"Mozilla/5\.0 \(.*Chrome/", headers.pop("user-agent"))
            assert headers == {
                "accept": "application/json",
                "accept-encoding": "gzip, deflate",
                "origin": server.url,
                "referer": f"{server.url}/chat",
            }
        assert posted.header("content-type") == "application/x-www-form-urlencoded"
        form = dict(parse_qsl(posted.body.decode(), keep_blank_values=True))
        assert re.fullmatch("[0-9a-f]{10}", form.pop("wpaicg_chat_client_id"))
        assert form == {
            "_wpnonce": NONCES[0],
            "post_id": "7",
            "url": server.url,
            "action": "wpaicg_chat_shortcode_message",
            "message": "Why?",
            "bot_id": "0",
            "chatbot_identity": "shortcode",
            "wpaicg_chat_history": "",
        }

    def test_the_address_is_the_sites_own(self) -> None:
        """Without ``base_url`` the site's own address stands in the form and the headers."""
        sender = Sender(Canned(page(), "text/html"), FINE)
        read(with_sender(ChatGptt, sender).stream("Why?"))
        got, posted = sender.calls
        assert (got.url, posted.url) == ("https://chatgptt.me/", ChatGptt.api_endpoint)
        assert posted.form is not None
        assert posted.form["url"] == posted.headers["origin"] == "https://chatgptt.me"
        assert posted.headers["referer"] == "https://chatgptt.me/chat"

    def test_the_pages_cookies_come_back(self, raw_server: RawServerFactory) -> None:
        """The form brings the cookies that the nonce is tied to."""
        _, server = ask(Site(said(SAID)), raw_server)
        assert [r.header("cookie") for r in server.requests] == [None, "session=visit-0"]

    def test_a_conversation_is_folded(self) -> None:
        """System messages and history become one text."""
        sender = Sender(Canned(page(), "text/html"), FINE)
        read(with_sender(ChatGptt, sender).stream("Why?", system="Be brief.", temperature=1))
        form = sender.calls[1].form or {}
        assert form["message"] == "System: Be brief.\nUser: Why?\nAssistant:"
        assert "temperature" not in form

    def test_models(self) -> None:
        """Three models are known; the name of another is refused before the page is fetched."""
        provider = with_sender(ChatGptt, sender := Sender(Canned()))
        assert provider.get_model(None) == "gpt-4o"
        with pytest.raises(ModelNotFoundError, match="gpt-4o-mini"):
            next(provider.stream("Hi", model="gpt-4o-mni"))
        assert sender.calls == []


class TestPage:
    @pytest.mark.parametrize(
        "attributes",
        [
            'data-nonce="{}" data-post-id="7"',
            "data-nonce='{}' data-post-id='7'",
            "data-post-id=7 data-nonce={}",
            'data-post-id="7" data-bot-id="0" data-url="/chat" class="x" data-nonce="{}"',
            'id="a"><i data-post-id="9"></i><div DATA-NONCE="{}"\n\tdata-post-id="7" hidden',
        ],
    )
    def test_tokens_are_found(self, attributes: str) -> None:
        """The two attributes are found in any order and quotes, with others between."""
        sender = Sender(Canned(page(attributes=attributes), "text/html"), FINE)
        read(with_sender(ChatGptt, sender).stream("Why?"))
        form = sender.calls[1].form or {}
        assert (form["_wpnonce"], form["post_id"]) == (NONCES[0], "7")

    @pytest.mark.parametrize(
        ("attributes", "missing"),
        [
            ("", "no data-nonce and no data-post-id"),
            ('data-nonce="{}"', "no data-post-id"),
            ('data-post-id="7"', "no data-nonce;"),
            ('data-nonce="" data-post-id="7"', "no data-nonce;"),
            ('data-nonce="{}"><i data-post-id="7"></i', "no data-post-id"),
        ],
    )
    def test_a_missing_token_is_named(self, attributes: str, missing: str) -> None:
        """Where one is not there, or not on the same element, the error says which."""
        sender = Sender(Canned(page(attributes=attributes), "text/html"))
        error = read(with_sender(ChatGptt, sender).stream("Why?")).error
        assert isinstance(error, ProtocolError)
        assert missing in str(error)
        assert "the page of https://chatgptt.me has" in str(error)
        assert len(sender.calls) == 1

    @pytest.mark.parametrize("body", CHALLENGES)
    @pytest.mark.parametrize("status", [200, 403, 503])
    def test_a_challenge_is_told_apart(
        self, raw_server: RawServerFactory, body: bytes, status: int
    ) -> None:
        """A challenge before the page is ``BlockedError``, whatever its status."""
        server = raw_server(http_response(status, HTML, body))
        with ChatGptt(base_url=server.url) as provider:
            error = read(provider.stream("Why?")).error
        assert isinstance(error, BlockedError)
        assert status != 200 or f"stands before {server.url}" in str(error)
        assert len(server.requests) == 1

    @pytest.mark.parametrize("before", ["Чат".encode("cp1251"), b"\xff\xfe", "Чат".encode()])
    def test_a_page_in_any_encoding(self, before: bytes) -> None:
        """The tokens are found also where what stands beside them is not UTF-8."""
        sender = Sender(Canned(before + page(), "text/html"), FINE)
        assert read(with_sender(ChatGptt, sender).stream("Why?")).text == "It scatters."

    def test_markup_that_is_none(self) -> None:
        """What the parser cannot make sense of after the tokens does not hide them."""
        sender = Sender(Canned(page() + b"<![if ]> <![odd[ x ]]>", "text/html"), FINE)
        assert read(with_sender(ChatGptt, sender).stream("Why?")).text == "It scatters."

    def test_a_page_larger_than_a_reply_may_be(self, raw_server: RawServerFactory) -> None:
        """The limits of a reply are not those of the page, of which the beginning is enough."""
        large = page() + b"<p>...</p>" * 1000
        server = raw_server(keep_alive(http_response(200, HTML, large), said(SAID)))
        with ChatGptt(base_url=server.url, limits=Limits(line=1024)) as provider:
            assert read(provider.stream("Why?")).text == "It scatters."

    def test_every_cookie_comes_back(self) -> None:
        """Several cookies of the page come back in one header."""
        cookies = {"session": "visit-0", "consent": "yes"}
        sender = Sender(Canned(page(), "text/html", cookies=cookies), FINE)
        read(with_sender(ChatGptt, sender).stream("Why?"))
        assert sender.calls[1].headers["Cookie"] == "session=visit-0; consent=yes"

    def test_tokens_are_kept(self, raw_server: RawServerFactory) -> None:
        """Two calls fetch one page."""
        readings, server = ask(Site(said(SAID)), raw_server, times=2)
        assert [r.text for r in readings] == ["It scatters."] * 2
        assert [r.method for r in server.requests] == ["GET", "POST", "POST"]

    def test_tokens_are_concealed(self, caplog: pytest.LogCaptureFixture) -> None:
        """An error that quotes the nonce or the cookie quotes them masked."""
        chat = Canned(json.dumps({"status": "error", "msg": f"{NONCES[0]} visit-0"}).encode(), JSON)
        cookies = {"session": "visit-0"}
        sender = Sender(Canned(page(), "text/html", cookies=cookies), chat)
        with caplog.at_level(logging.DEBUG):
            error = read(with_sender(ChatGptt, sender).stream("Why?")).error
        assert str(error).endswith("*** ***")
        assert NONCES[0] not in caplog.text


STALE: dict[str, Callable[[], Script]] = {
    "403": lambda: said({"message": "forbidden"}, 403),
    "403 and -1": lambda: http_response(403, HTML, b"-1"),
    "-1": lambda: http_response(200, HTML, b"-1"),
    "0": lambda: http_response(200, HTML, b"0\n"),
    "-1 as JSON": lambda: said(-1),
    "0 as JSON": lambda: said(0),
    "nonce": lambda: said({"status": "error", "msg": "Invalid nonce"}),
    "session": lambda: said({"status": "error", "msg": "Your Session has expired"}),
}


@pytest.mark.parametrize("stale", STALE.values(), ids=STALE.keys())
class TestRenewal:
    def test_once(self, raw_server: RawServerFactory, stale: Callable[[], Script]) -> None:
        """When the site no longer takes a nonce, page and form are asked again."""
        (reading,), server = ask(Site(stale(), said(SAID)), raw_server)
        assert reading.text == "It scatters."
        assert [r.method for r in server.requests] == ["GET", "POST", "GET", "POST"]
        forms = [dict(parse_qsl(r.body.decode())) for r in server.requests if r.method == "POST"]
        assert [form["_wpnonce"] for form in forms] == list(NONCES[:2])
        assert server.requests[3].header("cookie") == "session=visit-1"
        assert len(reading.finish.attempts) == 1

    def test_not_twice(self, raw_server: RawServerFactory, stale: Callable[[], Script]) -> None:
        """A second refusal is a clear error, and the next call begins with a fresh page."""
        (first, second), server = ask(Site(stale(), stale(), said(SAID)), raw_server, times=2)
        assert isinstance(first.error, AuthenticationError)
        assert "fresh ones too" in str(first.error)
        assert not first.error.retryable
        assert second.text == "It scatters."
        assert [r.method for r in server.requests][:4] == ["GET", "POST", "GET", "POST"]
        assert 1 <= len(server.requests[4:]) <= 2


def test_tokens_that_another_call_renewed() -> None:
    """Of two calls whose tokens are stale one fetches the page, and the other uses what it got."""
    stale = Canned(b"-1", "text/html")

    def late() -> Iterator[bytes]:
        assert read(provider.stream("Why not?")).text == "It scatters."
        yield b"-1"

    first, second = (Canned(page(nonce), "text/html") for nonce in NONCES[:2])
    sender = Sender(first, Canned(late(), "text/html"), stale, second, FINE)
    provider = with_sender(ChatGptt, sender)
    assert read(provider.stream("Why?")).text == "It scatters."
    assert [call.method for call in sender.calls] == ["GET", "POST", "POST", "GET", "POST", "POST"]


@pytest.mark.parametrize(
    ("refusal", "said"),
    [
        (Canned(b"-1", "text/html"), "the site answered -1"),
        (Canned(json.dumps({"msg": "Invalid nonce"}).encode(), JSON), "Invalid nonce"),
        (
            AuthenticationError("HTTP 403", status_code=403, request_id="r7", detail="forbidden"),
            "forbidden",
        ),
    ],
)
def test_a_second_refusal_says_why(refusal: Canned | LLMError, said: str) -> None:
    """The error has what the site said, and what came with it."""
    tokens = Canned(page(), "text/html")
    error = read(with_sender(ChatGptt, Sender(tokens, refusal, tokens, refusal)).stream("Hi")).error
    assert isinstance(error, AuthenticationError)
    assert error.detail == said
    if isinstance(refusal, LLMError):
        assert (error.status_code, error.request_id) == (403, "r7")
    else:
        assert f"the site no longer accepts the page's tokens ({said})" in str(error)


class TestReply:
    def test_json(self) -> None:
        """A JSON object brings the whole text at once, without usage."""
        reading = answered(FINE)
        assert reading.pieces == ("It scatters.",)
        finish = reading.finish
        assert (finish.reason, finish.raw, finish.usage) == ("stop", "", None)
        assert (finish.provider, finish.model) == ("ChatGptt", "gpt-4o")

    def test_events(self) -> None:
        """Where streaming is on, the text comes piece by piece."""
        deltas = [{"content": "It "}, {"content": "scatters."}]
        events = [{"choices": [{"delta": delta, "index": 0}]} for delta in deltas]
        lines = "".join(f"data: {json.dumps(one)}\n\n" for one in events)
        whole = answered(Canned(f"{lines}data: [DONE]\n\n".encode(), EVENTS))
        assert whole.pieces == ("It ", "scatters.")
        assert isinstance(answered(Canned(lines.encode(), EVENTS)).error, StreamInterrupted)

    def test_pieces_come_as_they_arrive(self) -> None:
        """No piece waits for the next one, and each comes once."""
        taken: list[int] = []

        def blocks() -> Iterator[bytes]:
            for number in range(3):
                taken.append(number)
                event = {"choices": [{"delta": {"content": f"{number} "}, "index": 0}]}
                yield f"data: {json.dumps(event)}\n\n".encode()
            yield b"data: [DONE]\n\n"

        sender = Sender(Canned(page(), "text/html"), Canned(blocks(), EVENTS))
        stream = with_sender(ChatGptt, sender).stream("Why?")
        for number in range(3):
            assert (next(stream), taken[-1]) == (f"{number} ", number)
        assert isinstance(next(stream), FinishReason)

    @pytest.mark.parametrize(
        ("answer", "content_type", "cls", "word"),
        [
            ({"status": "error", "msg": "overloaded"}, JSON, ServerError, "overloaded"),
            ({"status": "error"}, JSON, ServerError, "without a reason"),
            ({"status": "success", "data": ""}, JSON, EmptyReplyError, "without any text"),
            ({"status": "success", "data": " \n"}, JSON, EmptyReplyError, "without any text"),
            ({"status": "success", "data": None}, JSON, ServerError, "without a reason"),
            ({"status": "success", "data": ["x"], "msg": "odd"}, JSON, ServerError, "odd"),
            ({"data": "x"}, JSON, ServerError, "x"),
            (["x"], JSON, ProtocolError, "list where an object was due"),
            (7, JSON, ProtocolError, "int where an object was due"),
            (b"{", JSON, ProtocolError, "not JSON"),
            (b"", JSON, ProtocolError, "neither JSON nor events"),
            (b"<html>Hello</html>", "text/html", ProtocolError, "web page"),
            (CHALLENGES[0], "text/html", BlockedError, "stands before https://chatgptt.me"),
            ({"error": {"message": "slow down", "code": 429}}, JSON, RateLimitError, "slow down"),
            ({"status": "error", "msg": "Rate limit reached"}, JSON, RateLimitError, "Rate limit"),
            ({"status": "error", "msg": QUOTA}, JSON, QuotaExceededError, QUOTA),
            ({"success": False, "data": {"message": QUOTA}}, JSON, QuotaExceededError, QUOTA),
            (
                {"success": False, "data": [{"code": "rate_limited", "message": "wait"}]},
                JSON,
                RateLimitError,
                "wait",
            ),
            ({"status": "error", "msg": "Unknown model: x"}, JSON, ModelNotFoundError, "model: x"),
        ],
    )
    def test_errors_with_status_200(
        self, answer: Any, content_type: str, cls: type[LLMError], word: str
    ) -> None:
        """What is no success is an error that says why, and is not asked twice."""
        body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        sender = Sender(Canned(page(), "text/html"), Canned(body, content_type))
        error = read(with_sender(ChatGptt, sender).stream("Why?")).error
        assert type(error) is cls
        assert word in str(error)
        assert cls is not ServerError or error.detail == word
        assert len(sender.calls) == 2

    @pytest.mark.parametrize("content_type", [EVENTS, JSON, "text/html", ""])
    def test_a_body_is_told_by_how_it_begins(self, content_type: str) -> None:
        """A stream and a JSON object are read as such, whatever the label says."""
        event = json.dumps({"choices": [{"delta": {"content": "It scatters."}, "index": 0}]})
        for body in (f"data: {event}\n\ndata: [DONE]\n\n", json.dumps(SAID)):
            reading = answered(Canned(body.encode(), content_type))
            assert (reading.text, reading.error) == ("It scatters.", None)
