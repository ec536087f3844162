"""The faults of the sandbox: each one as asked for, and no other."""

from __future__ import annotations

import contextlib
import json
import re
import socket
from collections.abc import Iterator
from typing import Any

import pytest
import requests
import urllib3

from llmproviders.sandbox import Sandbox, parse_fault
from tests.sandbox.caller import (
    PROVIDERS,
    STREAMING,
    Caller,
    calling,
    events,
    text_of,
)

TEN_WORDS = "one two three four five six seven eight nine ten"


def read_until_broken(response: requests.Response) -> bytes:
    """Return what comes before the connection breaks; fail if the reply ends as a whole one."""
    data = bytearray()
    with pytest.raises((requests.ConnectionError, requests.exceptions.ChunkedEncodingError)):
        for read in response.iter_content(None):
            data += read
    return bytes(data)


@pytest.fixture
def caller(sandbox: Sandbox) -> Iterator[Caller]:
    """Ask the sandbox of the test."""
    with contextlib.closing(Caller(sandbox)) as asking:
        yield asking


class TestFaults:
    @pytest.mark.parametrize("provider", PROVIDERS)
    @pytest.mark.parametrize("status", [402, 403, 429, 500, 503, 599])
    def test_status(self, caller: Caller, provider: str, status: int) -> None:
        """A status is sent once, and the next request is well again."""
        caller.sandbox.fail(provider, status=status)
        assert caller.ask(provider).status_code == status
        assert text_of(provider, caller.ask(provider).content)

    @pytest.mark.parametrize("provider", PROVIDERS)
    @pytest.mark.parametrize("body", [b"\x00bytes", "text", {"a": "object"}])
    def test_status_headers_body(self, caller: Caller, provider: str, body: Any) -> None:
        """A reply can be given with status, headers and body."""
        headers = {"Retry-After": "7", "content-type": "application/x-test"}
        caller.sandbox.fail(provider, status=429, headers=headers, body=body)
        response = caller.ask(provider)
        assert response.headers["Retry-After"] == "7"
        assert response.headers["Content-Type"] == "application/x-test"
        sent = body if isinstance(body, bytes) else body.encode() if isinstance(body, str) else None
        assert response.content == (b'{"a":"object"}' if sent is None else sent)

    def test_default_bodies(self, caller: Caller) -> None:
        """The body that goes with a status is what the service itself would say."""
        shapes = {}
        for provider in PROVIDERS:
            caller.sandbox.fail(provider, status=503)
            shapes[provider] = caller.ask(provider).text
        assert json.loads(shapes["gigachat"]) == {"status": 503, "message": "Service Unavailable"}
        assert json.loads(shapes["openai"])["error"]["type"] == "server_error"
        assert json.loads(shapes["chatglm"])["message"] == "Service Unavailable"
        assert json.loads(shapes["flowgpt"])["statusCode"] == 503
        assert "<title>503" in shapes["chatgptt"]

    def test_no_content(self, caller: Caller) -> None:
        """A status that has no body gets none, and the connection lives on."""
        caller.sandbox.fail("openai", status=204)
        assert caller.ask("openai").content == b""
        assert caller.ask("openai").status_code == 200

    def test_headers_alone(self, caller: Caller) -> None:
        """Headers without a status are added to the usual reply."""
        caller.sandbox.fail("openai", headers={"X-Ratelimit-Remaining": "0"})
        response = caller.ask("openai")
        assert response.headers["X-Ratelimit-Remaining"] == "0"
        assert response.status_code == 200

    def test_body_inside_a_stream(self, caller: Caller) -> None:
        """A body alone comes with HTTP 200: an error inside a stream, for instance."""
        headers = {"Content-Type": "text/event-stream"}
        caller.sandbox.fail("openai", body='data: {"error": {}}\n\n', headers=headers)
        response = caller.ask("openai")
        assert (response.status_code, events(response.content)) == (200, [{"error": {}}])

    @pytest.mark.parametrize("provider", STREAMING)
    @pytest.mark.parametrize("pieces", [0, 1, 4])
    def test_cut(self, provider: str, pieces: int) -> None:
        """A cut reply has so many pieces and no end."""
        with calling(reply=TEN_WORDS) as caller:
            caller.sandbox.fail(provider, cut_after=pieces)
            data = read_until_broken(caller.ask(provider))
            assert text_of(provider, data) == " ".join(TEN_WORDS.split()[:pieces])
            assert b"[DONE]" not in data

    @pytest.mark.parametrize("provider", STREAMING)
    def test_cut_where_closing_is_the_end(self, provider: str) -> None:
        """Without chunks a cut is seen by the missing end mark alone."""
        with calling(reply="one two three", chunked=False) as caller:
            caller.sandbox.fail(provider, cut_after=3)
            data = caller.ask(provider).content
        assert text_of(provider, data) == "one two three"
        assert b"[DONE]" not in data
        assert b"finish" not in data

    @pytest.mark.parametrize("provider", ["gigachat", "openai", "chatgptt"])
    @pytest.mark.parametrize("pieces", [0, 2])
    def test_cut_of_a_whole_reply(self, caller: Caller, provider: str, pieces: int) -> None:
        """Of a reply that does not stream comes nothing, or the first half."""
        caller.sandbox.fail(provider, cut_after=pieces)
        response = caller.ask(provider, stream=False)
        data = bytearray()
        with pytest.raises(urllib3.exceptions.ProtocolError):
            while True:
                data += response.raw.read1(65536)
        length = int(response.headers["Content-Length"])
        assert len(data) == (length // 2 if pieces else 0)

    @pytest.mark.parametrize("provider", PROVIDERS)
    def test_reset(self, caller: Caller, provider: str) -> None:
        """A reset comes instead of a reply."""
        caller.sandbox.fail(provider, reset=True)
        with pytest.raises(requests.ConnectionError, match=r"(?i)reset"):
            caller.ask(provider)
        assert caller.sandbox.requests[-1].status is None

    @pytest.mark.parametrize("provider", STREAMING)
    def test_reset_after_pieces(self, provider: str) -> None:
        """A reset can come in mid-reply."""
        with calling(reply=TEN_WORDS) as caller:
            caller.sandbox.fail(provider, reset=True, cut_after=2)
            data = read_until_broken(caller.ask(provider))
        assert text_of(provider, data) in ("", "one", "one two")

    @pytest.mark.parametrize("provider", PROVIDERS)
    def test_stall(self, caller: Caller, provider: str) -> None:
        """A stalled reply has a head and then nothing, until the client leaves."""
        caller.sandbox.fail(provider, stall=True)
        response = caller.ask(provider)
        record = caller.sandbox.requests[-1]
        assert response.status_code == 200
        assert not record.ended
        response.close()
        assert caller.sandbox.wait_for(lambda _: record.ended)
        assert record.aborted

    @pytest.mark.parametrize("provider", STREAMING)
    def test_stall_after_pieces(self, provider: str) -> None:
        """A reply can stall after some pieces, which have arrived."""
        with calling(reply=TEN_WORDS) as caller:
            caller.sandbox.fail(provider, stall=True, cut_after=3)
            response = caller.ask(provider)
            data = b""
            for read in response.iter_content(None):  # pragma: no branch
                data += read
                if b"three" in data:
                    break
            response.close()
            assert text_of(provider, data) == "one two three"

    def test_stall_before_the_head(self, caller: Caller) -> None:
        """A service can accept a request and say nothing at all."""
        caller.sandbox.fail("openai", stall=True, before_head=True)
        with pytest.raises(requests.ReadTimeout):
            caller.http.post(caller.sandbox.url + "/v1/chat/completions", timeout=0.1)
        assert caller.sandbox.wait_for(lambda s: s.requests[-1].aborted)

    @pytest.mark.parametrize(
        ("provider", "before_head"), [*((name, False) for name in PROVIDERS), ("openai", True)]
    )
    def test_drip(self, provider: str, before_head: bool) -> None:
        """A dripping reply is whole in the end."""
        with calling(reply="ok") as caller:
            caller.sandbox.fail(provider, drip_s=0.0001, before_head=before_head)
            assert text_of(provider, caller.ask(provider).content) == "ok"

    @pytest.mark.parametrize("before_head", [True, False])
    def test_drip_byte_by_byte(self, caller: Caller, before_head: bool) -> None:
        """The bytes of a dripping reply come one at a time, the head's too if wished."""
        caller.sandbox.fail("chatgptt", drip_s=0.05, before_head=before_head, on="page")
        with socket.create_connection(("127.0.0.1", caller.sandbox.port)) as raw:
            raw.sendall(b"GET / HTTP/1.1\r\n\r\n")
            raw.settimeout(10)
            if not before_head:
                assert b"\r\n\r\n" in raw.recv(4096)
            assert len(raw.recv(4096)) < 50
        assert caller.sandbox.wait_for(lambda s: s.requests[-1].aborted)

    @pytest.mark.parametrize("provider", STREAMING)
    @pytest.mark.parametrize("pieces", [None, 2])
    def test_garbage(self, provider: str, pieces: int | None) -> None:
        """One event cannot be read; it is the first with text, or the one after so many."""
        with calling(reply=TEN_WORDS) as caller:
            caller.sandbox.fail(provider, garbage=True, cut_after=pieces)
            data = caller.ask(provider).content
        parts = [line for line in data.split(b"\n") if line]
        (broken,) = [number for number, line in enumerate(parts) if b"\xff" in line]
        with pytest.raises(ValueError, match=r"decode|Expecting|Unterminated|delimiter"):
            json.loads(parts[broken].removeprefix(b"data: "))
        before = b"\n".join(parts[:broken])
        assert text_of(provider, before) == " ".join(TEN_WORDS.split()[: pieces or 0])
        assert parts[broken + 1 :]

    @pytest.mark.parametrize("provider", ["gigachat", "openai", "chatgptt"])
    def test_garbage_in_a_whole_reply(self, caller: Caller, provider: str) -> None:
        """A reply that does not stream cannot be read as JSON."""
        caller.sandbox.fail(provider, garbage=True)
        response = caller.ask(provider, stream=False)
        with pytest.raises(ValueError, match=r"decode|Expecting|Unterminated|delimiter"):
            json.loads(response.content)

    @pytest.mark.parametrize("provider", ["gigachat", "openai", "chatglm", "chatgptt"])
    def test_garbage_in_place_of_the_end(self, provider: str) -> None:
        """A reply that has fewer pieces than said, and an end mark, has that one unreadable."""
        with calling(reply="one", chatgptt_streams=True) as caller:
            caller.sandbox.fail(provider, garbage=True, cut_after=5)
            data = caller.ask(provider).content
        assert b"\xff" in data
        assert b"[DONE]" not in data

    @pytest.mark.parametrize("provider", PROVIDERS)
    def test_html(self, caller: Caller, provider: str) -> None:
        """A challenge page comes with HTTP 200, or with the status that is given."""
        caller.sandbox.fail(provider, html=True)
        caller.sandbox.fail(provider, html=True, status=403)
        for status in (200, 403):
            response = caller.ask(provider)
            assert response.status_code == status
            assert response.headers["Content-Type"].startswith("text/html")
            assert "<title>Just a moment...</title>" in response.text

    @pytest.mark.parametrize("provider", PROVIDERS)
    def test_empty(self, caller: Caller, provider: str) -> None:
        """An empty reply is whole and has no text."""
        caller.sandbox.fail(provider, empty=True)
        response = caller.ask(provider)
        assert response.status_code == 200
        assert text_of(provider, response.content) == ""

    def test_token_request(self, caller: Caller) -> None:
        """Faults can be put on the token requests, and do not touch the chat."""
        caller.sandbox.fail("gigachat", status=500, on="token")
        assert caller.get_token().json() == {"code": 500, "message": "Internal Server Error"}
        caller.sandbox.fail("gigachat", empty=True, on="token")
        assert caller.get_token().json() == {}
        assert caller.ask("gigachat").status_code == 200

    def test_page_request(self, caller: Caller) -> None:
        """Faults can be put on the page requests: a page without tokens, a challenge."""
        caller.sandbox.fail("chatgptt", empty=True, on="page")
        assert "data-nonce" not in caller.get("/").text
        caller.sandbox.fail("chatgptt", html=True, on="page")
        assert "Just a moment..." in caller.get("/").text
        assert "data-nonce" in caller.get("/").text

    def test_models_request(self, caller: Caller) -> None:
        """Faults can be put on the lists of models."""
        caller.sandbox.fail("gigachat", empty=True, on="models")
        caller.sandbox.fail("openai", status=500, on="models")
        assert caller.api("GET", "models").json() == {}
        assert caller.get("/v1/models").status_code == 500

    def test_times_and_order(self, caller: Caller) -> None:
        """Faults queue up, each as many times as said."""
        caller.sandbox.fail("openai", status=503, times=2)
        caller.sandbox.fail("openai", status=429)
        statuses = [caller.ask("openai").status_code for _ in range(4)]
        assert statuses == [503, 503, 429, 200]

    def test_heal(self, caller: Caller) -> None:
        """Faults still to come can be called off, of one provider or of all."""
        for provider in PROVIDERS:
            caller.sandbox.fail(provider, status=503, times=100)
        caller.sandbox.heal("openai")
        assert caller.ask("openai").status_code == 200
        assert caller.ask("gigachat").status_code == 503
        caller.sandbox.heal()
        assert [caller.ask(name).status_code for name in PROVIDERS] == [200] * 5

    def test_replacing_fault_comes_before_the_checks(self, caller: Caller) -> None:
        """A fault that replaces the reply hits a request that would be refused."""
        caller.sandbox.fail("gigachat", status=503)
        assert caller.post("/api/v1/chat/completions").status_code == 503
        assert caller.post("/api/v1/chat/completions").status_code == 401

    def test_spoiling_fault_waits_for_an_accepted_request(self, caller: Caller) -> None:
        """A fault that spoils a reply is not wasted on a refusal."""
        caller.sandbox.fail("gigachat", cut_after=0)
        assert caller.post("/api/v1/chat/completions").json()["status"] == 401
        read_until_broken(caller.ask("gigachat"))

    @pytest.mark.parametrize(
        ("arguments", "hint"),
        [
            ({}, "what should go wrong"),
            ({"status": 99}, "from 200 to 599"),
            ({"cut_after": -1}, "of at least 0"),
            ({"drip_s": 0}, "above 0"),
            ({"status": 500, "times": 0}, "of at least 1"),
            ({"reset": True, "stall": True}, "stall and reset"),
            ({"status": 500, "empty": True}, "status or body and empty"),
            ({"html": True, "body": "x"}, "one of html and body"),
            ({"empty": True, "before_head": True}, "before_head"),
            ({"status": 500, "on": "page"}, "'page'"),
            ({"status": 500, "on": "modles"}, "did you mean"),
        ],
    )
    def test_nonsense(self, sandbox: Sandbox, arguments: dict[str, Any], hint: str) -> None:
        """A fault that makes no sense is an error that says why."""
        with pytest.raises(ValueError, match=hint):
            sandbox.fail("openai", **arguments)

    def test_unknown_provider(self, sandbox: Sandbox) -> None:
        """An unknown provider is an error that names the nearest."""
        with pytest.raises(ValueError, match="did you mean 'gigachat'"):
            sandbox.fail("gigachad", status=503)


class TestParseFault:
    @pytest.mark.parametrize(
        ("spec", "provider", "arguments"),
        [
            ("gigachat=503x2", "gigachat", {"status": 503, "times": 2}),
            ("gigachat=503", "gigachat", {"status": 503}),
            ("gigachat=429:2", "gigachat", {"status": 429, "headers": {"Retry-After": "2"}}),
            ("chatglm=cut:3", "chatglm", {"cut_after": 3}),
            ("chatglm=cut", "chatglm", {"cut_after": 0}),
            ("ChatGLM=stall", "chatglm", {"stall": True}),
            ("chat-glm=stall:2x3", "chatglm", {"stall": True, "cut_after": 2, "times": 3}),
            ("flowgpt=drip", "flowgpt", {"drip_s": 1.0}),
            ("flowgpt=drip:0.25", "flowgpt", {"drip_s": 0.25}),
            ("openai=reset", "openai", {"reset": True}),
            ("openai-compatible=reset:1", "openai", {"reset": True, "cut_after": 1}),
            ("OpenAICompatible=garbage", "openai", {"garbage": True}),
            ("chatgptt=html", "chatgptt", {"html": True}),
            ("chatgptt=emptyx9", "chatgptt", {"empty": True, "times": 9}),
            ("openai=wrong-json", "openai", {"wrong_json": True}),
            ("chatglm=wrong-jsonx2", "chatglm", {"wrong_json": True, "times": 2}),
            ("glm=wrong-jsonxalways", "glm", {"wrong_json": True, "times": 10**18}),
            ("glm=503xalways", "glm", {"status": 503, "times": 10**18}),
            ("gigachat-token=401x1", "gigachat", {"status": 401, "on": "token", "times": 1}),
            ("chatgptt-page=html", "chatgptt", {"html": True, "on": "page"}),
            ("openai-compatible-models=500", "openai", {"status": 500, "on": "models"}),
        ],
    )
    def test_forms(self, spec: str, provider: str, arguments: dict[str, Any]) -> None:
        """Each short form means the arguments of a fault."""
        assert parse_fault(spec) == (provider, arguments)
        Sandbox().fail(provider, **arguments)

    @pytest.mark.parametrize(
        ("spec", "hint"),
        [
            ("gigachat", "PROVIDER=FAULT"),
            ("gigachat=", "PROVIDER=FAULT"),
            ("gigachat=503y2", "PROVIDER=FAULT"),
            ("gigachat=cut:-1", "did you mean 'cut'"),
            ("gigachat=drip:1.2.3", "did you mean 'drip'"),
            ("gigachat=stal", "did you mean 'stall'"),
            ("gigachat=empty:2", "takes no such number"),
            ("gigachat=cut:1.5", "takes no such number"),
            ("gigachat=700", "from 200 to 599"),
            ("gigachat=503x0", "of at least 1"),
            ("gigachat=503xever", "PROVIDER=FAULT"),
            ("gigachat=wrong-jason", "did you mean 'wrong-json'"),
            ("gigachat=wrong-json:2", "takes no such number"),
            ("gigachat-token=wrong-json", "not to a 'token' request"),
            ("gigachat=drip:0", "above 0"),
            ("gigacht=503", "did you mean 'gigachat'"),
            ("gigachat-tokne=503", "did you mean 'token'"),
            ("chatglm-token=503", "known: chat"),
            ("=503", "unknown provider"),
        ],
    )
    def test_mistakes(self, spec: str, hint: str) -> None:
        """A mistake in a short form is an error that helps."""
        with pytest.raises(ValueError, match=re.escape(hint)):
            parse_fault(spec)
