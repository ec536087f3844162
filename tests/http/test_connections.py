"""Kept connections: each reply is its own request's, and what is closed or spoilt is replaced."""

from __future__ import annotations

import json
import sys
import threading
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import requests
import trustme

from llmproviders import (
    ConnectionFailed,
    FailoverClient,
    FlowGpt,
    InvalidRequestError,
    OpenAICompatible,
    ProtocolError,
    Provider,
    ServerError,
    StreamInterrupted,
)
from llmproviders._http.decoding import MOST_IDLE, decompress, iter_events, iter_lines
from tests.conftest import RawServerFactory
from tests.support.http_bytes import chunked, close_delimited, content_length, http_response
from tests.support.leaks import no_leaks
from tests.support.rawserver import Connection, RawServer, Reset, Stall, keep_alive

JSON = {"Content-Type": "application/json"}
SSE = {"Content-Type": "text/event-stream"}


def whole(text: str) -> bytes:
    """The body of a whole reply of OpenAI's shape."""
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return json.dumps({"choices": [choice]}, ensure_ascii=False).encode()


def reply(text: str, **headers: str) -> bytes:
    """A whole reply in one piece."""
    return b"".join(http_response(200, {**JSON, **headers}, whole(text)))


def ask(provider: Provider) -> str:
    """The text of a reply that is not streamed."""
    return "".join(provider.create_generator("m", "Why?", stream=False))


Make = Callable[[RawServer], OpenAICompatible]


@pytest.fixture(params=["own", "session"])
def make(
    request: pytest.FixtureRequest, ca_file: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Make]:
    """Return what makes a provider for a server: on own connections, or on a caller's session."""
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(ca_file))
    with ExitStack() as open_ones:

        def make_one(server: RawServer) -> OpenAICompatible:
            arguments: dict[str, Any] = {}
            if request.param == "session":
                arguments["session"] = open_ones.enter_context(requests.Session())
                arguments["session"].verify = str(ca_file)
            provider = OpenAICompatible(base_url=f"{server.url}/v1", **arguments)
            return open_ones.enter_context(provider)

        yield make_one


@pytest.fixture(params=["plain", "tls"])
def serve(
    request: pytest.FixtureRequest, raw_server: RawServerFactory, ca: trustme.CA
) -> Callable[..., RawServer]:
    """Return what starts a server, without TLS and with it."""
    tls = ca if request.param == "tls" else None
    return lambda *behaviours: raw_server(*behaviours, tls=tls)


OTHERS = reply("of another call")


class TestPoisoned:
    @pytest.mark.parametrize("size", [1, 3, 20_000])
    @pytest.mark.parametrize("framing", ["length", "chunks", "gzip"])
    def test_bytes_after_a_reply(
        self, serve: Callable[..., RawServer], make: Make, framing: str, size: int
    ) -> None:
        """What follows a reply in the same packet or record is never the next call's reply."""
        body = whole("x" * size)
        first = {
            "length": lambda: http_response(200, JSON, body),
            "chunks": lambda: http_response(200, JSON, chunked([body])),
            "gzip": lambda: http_response(200, {**JSON, "Content-Encoding": "gzip"}, gzip(body)),
        }[framing]()
        server = serve(keep_alive([b"".join(first) + OTHERS]), keep_alive([reply("its own")]))
        provider = make(server)
        assert ask(provider) == "x" * size
        assert server.connections[0].client_closed.wait(10)
        assert ask(provider) == "its own"

    def test_a_length_in_characters(self, serve: Callable[..., RawServer], make: Make) -> None:
        """A length that counts characters instead of bytes costs nobody else a call."""
        body = whole("почему") + b" " * 6
        wrong = b"".join(http_response(200, JSON, content_length(body, announced=len(body) - 6)))
        server = serve(keep_alive([wrong]), keep_alive([reply("its own")]))
        provider = make(server)
        assert [ask(provider), ask(provider)] == ["почему", "its own"]
        assert len(server.connections) == 2

    def test_bytes_that_come_meanwhile(self, serve: Callable[..., RawServer], make: Make) -> None:
        """A kept connection on which something has arrived since is not used again."""
        go, sent = threading.Event(), threading.Event()

        def poison(conn: Connection) -> None:
            conn.read_request()
            conn.send(reply("first"))
            conn.wait(go)
            conn.send(OTHERS)
            sent.set()
            conn.stall()

        server = serve(poison, keep_alive([reply("its own")]))
        provider = make(server)
        assert ask(provider) == "first"
        go.set()
        assert sent.wait(10)
        assert ask(provider) == "its own"

    def test_a_good_connection_is_kept(self, serve: Callable[..., RawServer], make: Make) -> None:
        """Nothing is dropped for nothing, whatever the framing."""
        replies = [
            http_response(200, JSON, framing)
            for framing in (chunked([whole("a")]), whole("a"), chunked([whole("a")]))
        ]
        server = serve(keep_alive(*([b"".join(r)] for r in replies)))
        provider = make(server)
        assert [ask(provider) for _ in range(10)] == ["a"] * 10
        assert len(server.connections) == 1


def test_no_lock_guards_what_is_kept(raw_server: RawServerFactory) -> None:
    """An interrupt at any step of giving a connection back keeps no later call waiting.

    ``Condition.__enter__`` is where one leaves a lock held that nobody lets go of.
    """
    server = raw_server(keep_alive([reply("text")]))
    with OpenAICompatible(base_url=f"{server.url}/v1", model="m", api_key="k") as provider:
        entered: list[str] = []

        def look(frame: FrameType, event: str, argument: Any) -> None:
            if event == "call" and frame.f_code is threading.Condition.__enter__.__code__:
                entered.append(str(frame.f_back))

        sys.setprofile(look)
        try:
            for _ in range(3):
                assert ask(provider) == "text"
        finally:
            sys.setprofile(None)
        assert entered == []


class TestClosedMeanwhile:
    @pytest.mark.parametrize("end", [[], [Reset()]], ids=["closed", "reset"])
    def test_it_is_asked_again(
        self, serve: Callable[..., RawServer], make: Make, end: list[Any]
    ) -> None:
        """A request on a kept connection that ends without a byte is sent once more, anew."""

        def once(conn: Connection) -> None:
            conn.read_request()
            conn.send(reply("first"))
            conn.read_request()
            conn.run(end)

        server = serve(once, keep_alive([reply("again")]))
        provider = make(server)
        assert [ask(provider), ask(provider)] == ["first", "again"]
        assert len(server.requests) == 3

    def test_no_other_kept_connection_is_tried(self, raw_server: RawServerFactory) -> None:
        """The second time it is a new connection, however many others are kept."""
        both = threading.Barrier(2)

        def once(conn: Connection) -> None:
            conn.read_request()
            both.wait(10)
            conn.send(reply("first"))
            conn.read_request()

        server = raw_server(once, once, keep_alive([reply("anew")]))
        with OpenAICompatible(base_url=f"{server.url}/v1") as provider:
            threads = [threading.Thread(target=ask, args=[provider]) for _ in range(2)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(10)
            assert ask(provider) == "anew"
        assert len(server.connections) == 3

    def test_a_new_connection_is_no_such(self, serve: Callable[..., RawServer], make: Make) -> None:
        """A connection that was made for the request, and ends without a byte, has failed."""
        server = serve([])
        with pytest.raises(ConnectionFailed):
            ask(make(server))
        assert len(server.requests) == 1

    @pytest.mark.parametrize(
        "begun", [b"HTTP/1.1 2", b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 200 OK\r\nX-"]
    )
    def test_a_reply_that_has_begun_is_not_asked_for_again(
        self, serve: Callable[..., RawServer], make: Make, begun: bytes
    ) -> None:
        """Once a byte has come, the service may have done the work, and be paid for it."""

        def once(conn: Connection) -> None:
            conn.read_request()
            conn.send(reply("first"))
            conn.read_request()
            conn.send(begun)

        server = serve(once, keep_alive([reply("again")]))
        provider = make(server)
        assert ask(provider) == "first"
        with pytest.raises((ConnectionFailed, ProtocolError, StreamInterrupted)):
            ask(provider)
        assert len(server.requests) == 2

    def test_it_is_asked_again_once(self, serve: Callable[..., RawServer], make: Make) -> None:
        """A server that closes the new connection, too, has failed."""

        def once(conn: Connection) -> None:
            conn.read_request()
            conn.send(reply("first"))
            conn.read_request()

        server = serve(once, [], keep_alive([reply("again")]))
        provider = make(server)
        assert ask(provider) == "first"
        with pytest.raises(ConnectionFailed):
            ask(provider)
        assert len(server.requests) == 3


class TestBeforeAndAfter:
    @pytest.mark.parametrize("status", ["100 Continue", "102 Processing", "103 Early Hints"])
    def test_interim_replies(
        self, serve: Callable[..., RawServer], make: Make, status: str
    ) -> None:
        """Replies before the reply are passed over, and the connection serves the next call."""
        interim = f"HTTP/1.1 {status}\r\nLink: </a>\r\n\r\n".encode()
        server = serve(keep_alive([interim, interim, reply("a")]))
        provider = make(server)
        assert [ask(provider), ask(provider)] == ["a", "a"]
        assert len(server.connections) == 1

    @pytest.mark.parametrize("patience_s", [0.0, 0.2])
    def test_a_reply_sent_before_the_request_was_read(
        self, serve: Callable[..., RawServer], make: Make, patience_s: float
    ) -> None:
        """A 413 that comes while a large prompt is sent is read, although the server closes."""

        def refuse(conn: Connection) -> None:
            conn._read_until(b"\r\n\r\n")
            conn.send(b"".join(http_response(413, JSON, b'{"message": "too large"}')))
            conn.pause(patience_s)

        provider = make(serve(refuse))
        with pytest.raises(InvalidRequestError, match="too large") as caught:
            "".join(provider.create_generator("m", "x" * 8_000_000, stream=False))
        assert caught.value.status_code == 413

    def test_a_losers_session(self, serve: Callable[..., RawServer], ca_file: Path) -> None:
        """A hedged loser on a caller's session leaves no connection and no thread."""
        slow, quick = serve([Stall()]), serve([reply("quick")])
        with no_leaks(), requests.Session() as session:
            session.verify = str(ca_file)
            client = FailoverClient(
                [
                    OpenAICompatible(base_url=f"{s.url}/v1", session=session, name=s.url, model="m")
                    for s in (slow, quick)
                ],
                hedge_after=0.1,
            )
            with client:
                assert str(client.complete("Why?", model="m")) == "quick"
                assert slow.connections[0].client_closed.wait(10)


def gzip(data: bytes) -> bytes:
    """Compressed with gzip."""
    packer = zlib.compressobj(wbits=31)
    return packer.compress(data) + packer.flush()


def raw_deflate(data: bytes) -> bytes:
    """Compressed without the header that deflate should have."""
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


TEXT = b"".join(b"line %d\n" % n for n in range(5000))
PACKED = {"gzip": gzip(TEXT), "deflate": zlib.compress(TEXT), "raw": raw_deflate(TEXT)}


class TestCompression:
    @pytest.mark.parametrize("step", [1, 2, 7, 100_000])
    @pytest.mark.parametrize("packed", PACKED)
    def test_any_cut_gives_the_same(self, packed: str, step: int) -> None:
        """Each coding is undone, however its bytes arrive, and whatever comes after its end."""
        data = PACKED[packed] + b"\0\0"
        blocks = [data[at : at + step] for at in range(0, len(data), step)]
        coding = "gzip" if packed == "gzip" else "deflate"
        assert b"".join(decompress(blocks, coding)) == TEXT

    def test_members(self) -> None:
        """gzip in several members is one text."""
        assert b"".join(decompress([gzip(b"one"), gzip(b"two")], "gzip")) == b"onetwo"
        assert b"".join(decompress([gzip(b"one") + gzip(b"two")], "gzip")) == b"onetwo"
        for gap in ([b"\0\0", b""], [b"", b"\0\0"]):
            blocks = [gzip(b"one") + gap[0], gap[1] + gzip(b"two")]
            assert b"".join(decompress(blocks, "gzip")) == b"onetwo"
            assert b"".join(decompress([b"".join(blocks)], "gzip")) == b"onetwo"

    def test_nothing_at_all(self) -> None:
        """The shortest body of each coding is an empty text."""
        for packed, coding in ((gzip(b""), "gzip"), (raw_deflate(b""), "deflate")):
            assert b"".join(decompress([packed], coding)) == b""
        assert len(raw_deflate(b"")) == 2

    @pytest.mark.parametrize("after", [b"junk", b"\0\0junk", b"\x1f", gzip(b"two")])
    def test_what_comes_after_its_end(self, after: bytes) -> None:
        """Of what follows only another member of gzip counts, which may be cut."""
        for packed, data in PACKED.items():
            coding = "gzip" if packed == "gzip" else "deflate"
            more = coding == "gzip" and after.startswith(b"\x1f")
            for blocks in ([data + after], [data, after]):
                if more and len(after) == 1:
                    with pytest.raises(StreamInterrupted):
                        list(decompress(blocks, coding))
                    continue
                found = b"".join(decompress(blocks, coding))
                assert found == (TEXT + b"two" if more else TEXT)

    @pytest.mark.parametrize("packed", PACKED)
    def test_a_little_that_becomes_much(self, packed: str) -> None:
        """Data that unpacks to megabytes comes in small pieces, however it is cut."""
        pack = {"gzip": gzip, "deflate": zlib.compress, "raw": raw_deflate}[packed]
        coding = "gzip" if packed == "gzip" else "deflate"
        for size in (3 << 20, (64 << 10) + 1):
            data = pack(bytes(size))
            for blocks in ([data], [data[:40], data[40:]]):
                pieces = list(decompress(blocks, coding))
                assert b"".join(pieces) == bytes(size)
                assert max(map(len, pieces)) <= 64 * 1024

    @pytest.mark.parametrize(
        ("data", "coding"),
        [
            (zlib.compress(TEXT), "gzip"),
            (b"\x1f\x8b\x08 no more of it than that", "gzip"),
            (b"plain text", "x-gzip"),
            (gzip(TEXT), "deflate"),
            (b"\x78\x9c plain text", "deflate"),
            (b"plain text", "deflate"),
        ],
    )
    def test_data_of_another_coding(self, data: bytes, coding: str) -> None:
        """Data that is not in its coding is an error that says so."""
        with pytest.raises(ProtocolError, match="compression is broken: "):
            list(decompress([data], coding))

    @pytest.mark.parametrize("packed", PACKED)
    def test_a_cut_is_seen(self, packed: str) -> None:
        """Data that is cut anywhere before its end is never taken for whole."""
        data = PACKED[packed]
        coding = "gzip" if packed == "gzip" else "deflate"
        for end in (0, 1, 2, 10, len(data) // 2, len(data) - 1):
            with pytest.raises(StreamInterrupted):
                list(decompress([data[:end]], coding))

    @pytest.mark.parametrize("coding", ["br", "zstd", "gzip, br"])
    def test_a_coding_that_nobody_asked_for(
        self, serve: Callable[..., RawServer], make: Make, coding: str
    ) -> None:
        """A body in another coding is told as such, and not as broken JSON."""
        server = serve([reply("a", **{"Content-Encoding": coding})])
        with pytest.raises(ProtocolError, match=r"compressed with (br|zstd), .* not requested"):
            ask(make(server))

    def test_an_error_in_such_a_coding(self, serve: Callable[..., RawServer], make: Make) -> None:
        """The status of an error counts, whatever its body is compressed with."""
        server = serve(http_response(503, {"Content-Encoding": "br"}, b"\x0b\x02\x80"))
        with pytest.raises(ServerError):
            ask(make(server))

    def test_what_comes_after_the_end_mark(self, raw_server: RawServerFactory) -> None:
        """A compressed stream that is read to its end keeps its connection."""
        event = b'data: {"choices": [{"index": 0, "delta": {"content": "a"}}]}\n\n'
        end = b'data: {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}\n\n'
        body = gzip(event + end + b"data: [DONE]\n\n" + b": bye\n\n" * 1000)
        head = {**SSE, "Content-Encoding": "gzip"}
        cuts = [body[:20], body[20:60], body[60:]]
        server = raw_server(keep_alive([b"".join(http_response(200, head, chunked(cuts)))]))
        with OpenAICompatible(base_url=f"{server.url}/v1", model="m") as provider:
            assert [str(provider.complete("Why?")) for _ in range(3)] == ["a"] * 3
        assert len(server.connections) == 1


MIB = 1 << 20


def peak_of(call: Callable[[], object]) -> float:
    """How many MiB a call allocates at its peak."""
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1] / MIB
    finally:
        tracemalloc.stop()


IDLE = b'data: {"choices": [{"index": 0, "delta": {}}]}\n\n'


class TestWhatIsKept:
    def test_a_line_in_small_pieces(self) -> None:
        """A line takes a few times its size, however small the pieces in which it comes."""
        assert peak_of(lambda: list(iter_lines(b"xx" for _ in range(MIB // 4)))) < 3

    def test_an_event_of_small_lines(self) -> None:
        """An event takes a few times its size, and has a limit, however small its lines."""
        lines = [b"data: xx\n"] * 1000
        assert peak_of(lambda: list(iter_events([b"".join(lines)] * 300, max_line=MIB))) < 6
        with pytest.raises(ProtocolError, match="event of the reply"):
            list(iter_events([b"".join(lines)] * 400, max_line=MIB))

    def test_a_body_in_small_pieces(self, raw_server: RawServerFactory) -> None:
        """So does a reply that is no stream."""
        text = "x" * (MIB // 8)
        pieces = whole(text)
        cut = [pieces[at : at + 2] for at in range(0, len(pieces), 2)]
        server = raw_server([b"".join(http_response(200, JSON, chunked(cut)))])
        with OpenAICompatible(base_url=f"{server.url}/v1") as provider:
            assert peak_of(lambda: ask(provider)) < 4

    @pytest.mark.parametrize("line", [b": hi\n\n", b"event: ping\n", IDLE])
    def test_events_without_text(self, raw_server: RawServerFactory, line: bytes) -> None:
        """A hundred thousand events that bring no text are taken; without end they are an error."""
        end = b'data: {"choices": [{"delta": {"content": "a"}, "finish_reason": "stop"}]}\n\n'
        packed = gzip(line * 100_000 + b"\n" + end + b"data: [DONE]\n\n")
        head = {**SSE, "Content-Encoding": "gzip"}
        endless = gzip(line * (5 * MOST_IDLE) + end)
        server = raw_server(
            http_response(200, head, close_delimited(packed)),
            http_response(200, head, close_delimited(endless)),
        )
        with OpenAICompatible(base_url=f"{server.url}/v1", model="m") as provider:
            assert str(provider.complete("Why?")) == "a"
            with pytest.raises(ProtocolError, match="no text"):
                provider.complete("Why?")

    def test_lines_without_text(self, raw_server: RawServerFactory) -> None:
        """So are lines, where a service sends no events."""
        text = b'{"event": "text", "data": "a"}\n'
        server = raw_server(
            http_response(200, None, close_delimited(b"\n" * 100_000 + text)),
            http_response(200, None, close_delimited(b"\n" * (2 * MOST_IDLE) + text)),
        )
        with FlowGpt(base_url=server.url) as provider:
            assert str(provider.complete("Why?")) == "a"
            with pytest.raises(ProtocolError, match="no text"):
                provider.complete("Why?")

    def test_text_may_go_on(self) -> None:
        """Events that bring text are as many as they like."""
        texts = 0

        def count() -> int:
            return texts

        for _ in iter_events([b"data: x\n\n" * 1000] * 600, texts=count):
            texts += 1
        assert texts == 600_000
