"""Forks: a stream belongs to its process, and a child forked at any moment can make calls."""

from __future__ import annotations

import gc
import os
import random
import threading
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
import requests
import trustme

from llmproviders import (
    Cached,
    FailoverClient,
    FinishReason,
    GigaChat,
    InvalidRequestError,
    LLMError,
    OpenAICompatible,
    batch,
)
from llmproviders.notebook import show
from llmproviders.provider import BaseClient
from llmproviders.sandbox import Sandbox
from llmproviders.testing import ScriptedProvider
from tests.reliability.interrupts import SUBJECTS, at_forks
from tests.support.http_bytes import chunked, http_response
from tests.support.processes import Child, in_child
from tests.support.rawserver import Connection, RawServer

PATIENCE_S = 20.0
PIECES = 12
TEXT = "".join(f"piece {number} " for number in range(PIECES))

Stream = Generator[str, None, None]


def sse(text: str) -> bytes:
    """An event with a piece of text."""
    return b'data: {"choices": [{"index": 0, "delta": {"content": "%s"}}]}\n\n' % text.encode()


END = b'data: {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}\n\ndata: [DONE]\n\n'


class Service:
    """Sends half of a reply, and the other half when it is told to."""

    def __init__(self, tls: trustme.CA | None = None) -> None:
        self.go_on = threading.Event()
        self.server = RawServer(self._serve, tls=tls)

    def _serve(self, conn: Connection) -> None:
        pieces = [sse(f"piece {number} ") for number in range(PIECES)]
        while True:
            conn.read_request()
            reply = http_response(
                200, {"Content-Type": "text/event-stream"}, chunked([*pieces, END])
            )
            conn.run(reply[: PIECES // 2])
            conn.wait(self.go_on)
            conn.run(reply[PIECES // 2 :])

    @property
    def url(self) -> str:
        """Its address, as ``base_url`` wants it."""
        return f"{self.server.url}/v1"


@pytest.fixture(params=["plain", "tls"])
def service(
    request: pytest.FixtureRequest, ca: trustme.CA, ca_file: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Service]:
    """A service, in clear and over TLS."""
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(ca_file))
    made = Service(ca if request.param == "tls" else None)
    with made.server:
        yield made
        made.go_on.set()


def _provider(url: str, **arguments: object) -> OpenAICompatible:
    return OpenAICompatible(base_url=url, model="m", api_key="key-of-a-test", **arguments)  # type: ignore[arg-type]


def _session() -> requests.Session:
    session = requests.Session()
    session.verify = os.environ["REQUESTS_CA_BUNDLE"]
    return session


def _hedged(url: str) -> FailoverClient:
    return FailoverClient(
        [_provider(url, name="first"), _provider(url, name="second")], hedge_after=5
    )


#: How to begin a stream at an address.
BEGINNINGS: dict[str, Callable[[str], Stream]] = {
    "provider": lambda url: _provider(url).stream("Why?"),
    "create_generator": lambda url: _provider(url).create_generator(None, "Why?"),
    "session": lambda url: _provider(url, session=_session()).stream("Why?"),
    "place": lambda url: _provider(url, max_concurrency=1).stream("Why?"),
    "failover": lambda url: FailoverClient(
        [_provider(url), ScriptedProvider(["next"])], on_interrupt="restart"
    ).stream("Why?"),
    "nested": lambda url: FailoverClient([FailoverClient([_provider(url)])]).stream("Why?"),
    "hedged": lambda url: _hedged(url).stream("Why?"),
    "conversation": lambda url: _provider(url).conversation().stream("Why?"),
}


def refused(stream: Iterator[object]) -> None:
    """Fail unless this process is told that a stream is not its own."""
    with pytest.raises(InvalidRequestError, match=r"belongs to process \d+") as caught:
        next(stream)
    assert not caught.value.retryable
    assert caught.value.provider
    assert str(os.getppid()) in str(caught.value)


def iterate(stream: Stream) -> None:
    """Iterate it, as a child does that goes on where its parent was."""
    refused(stream)
    assert list(stream) == []


def close(stream: Stream) -> None:
    """Close it."""
    stream.close()


def show_it(stream: Stream) -> None:
    """Show it in a notebook."""
    with pytest.raises(InvalidRequestError, match="belongs to process"):
        show(stream)


@pytest.mark.parametrize("beginning", BEGINNINGS)
@pytest.mark.parametrize("use", [iterate, close, show_it])
def test_a_stream_belongs_to_its_process(
    service: Service, beginning: str, use: Callable[[Stream], None]
) -> None:
    """A child cannot go on with its parent's stream, which is whole whatever the child does."""
    stream = BEGINNINGS[beginning](service.url)
    first = next(stream)

    def child() -> None:
        use(stream)
        gc.collect()

    in_child(child)
    service.go_on.set()
    *texts, end = list(stream)
    assert first + "".join(texts) == TEXT
    assert isinstance(end, FinishReason)
    assert len(service.server.requests) == 1


@pytest.mark.parametrize("beginning", BEGINNINGS)
def test_a_child_that_ends_as_programs_do(service: Service, beginning: str) -> None:
    """Python's end in a child, which closes all that is still open, leaves the parent's stream."""
    stream = BEGINNINGS[beginning](service.url)
    first = next(stream)
    pid = os.fork()
    if pid == 0:
        # As at Python's end, where nothing keeps anything any more.
        import llmproviders._runtime.process as process

        stream.close()
        kept = process._inherited
        while kept:
            item = kept.pop()
            if isinstance(item, Generator):
                item.close()
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    service.go_on.set()
    assert first + "".join(stream) == TEXT


def test_a_child_that_was_dropped_a_stream(service: Service) -> None:
    """Dropping the parent's stream in a child leaves it alone, in a reference cycle too."""
    streams = [_provider(service.url).stream("Why?")]
    first = next(streams[0])
    streams.append(streams)  # type: ignore[arg-type]

    def child() -> None:
        streams.clear()
        gc.collect()

    in_child(child)
    service.go_on.set()
    assert first + "".join(streams[0]) == TEXT


def test_a_stream_that_nobody_began(service: Service) -> None:
    """A stream of which nothing was read yet is whose who reads it first, here a child's."""
    service.go_on.set()
    stream = _provider(service.url).stream("Why?")
    in_child(lambda: _check_whole(stream))
    _check_whole(stream)
    assert len(service.server.connections) == 2


def _check_whole(stream: Stream) -> None:
    assert "".join(stream) == TEXT


def test_the_child_asks_itself(service: Service) -> None:
    """A child that was refused its parent's stream asks the same client, on its own connection."""
    service.go_on.set()
    provider = _provider(service.url, max_concurrency=1)
    stream = provider.stream("Why?")
    first = next(stream)

    def child() -> None:
        refused(stream)
        assert str(provider.complete("Why?")) == TEXT

    in_child(child)
    assert first + "".join(stream) == TEXT
    assert len(service.server.connections) == 2


def test_a_session_in_a_child(service: Service) -> None:
    """A session that was used in the parent opens connections of its own in a child."""
    service.go_on.set()
    provider = _provider(service.url, session=_session())
    assert str(provider.complete("Why?")) == TEXT
    in_child(lambda: _check_whole(provider.stream("Why?")))
    assert str(provider.complete("Why?")) == TEXT
    ports = [request.peer_port for request in service.server.requests]
    assert ports[0] == ports[2] != ports[1]


def test_a_session_whose_cookies_are_held(service: Service) -> None:
    """A child does not wait for its session's cookies, which a thread of the parent had locked."""
    service.go_on.set()
    session = _session()
    provider = _provider(service.url, session=session)
    _check_whole(provider.stream("Why?"))
    held, over = threading.Event(), threading.Event()

    def hold() -> None:
        with session.cookies._cookies_lock:  # type: ignore[attr-defined]
            held.set()
            over.wait(PATIENCE_S)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(PATIENCE_S)
    try:
        Child(lambda: _check_whole(provider.stream("Why?"))).end_within(PATIENCE_S)
    finally:
        over.set()
        thread.join()


def test_nothing_is_retried_or_remembered(service: Service) -> None:
    """A client neither tries again nor holds it against the provider, and calls no ``on_event``."""
    events: list[object] = []
    client = FailoverClient(
        [_provider(service.url), ScriptedProvider(["next"])], on_event=events.append
    )
    stream = client.stream("Why?")
    next(stream)

    def child() -> None:
        refused(stream)
        assert events == []
        assert client.report().providers[0].tries == 0
        assert not client._settings.health.store.read()

    in_child(child)
    service.go_on.set()
    assert len(list(stream)) == PIECES


def test_a_batch_belongs_to_its_process(sandbox: Sandbox) -> None:
    """A child cannot take results of its parent's batch, which misses none of them."""
    client = sandbox.client("openai")
    results = batch.run(client, (f"question {number}" for number in range(20)), workers=3)
    first = next(results)

    def child() -> None:
        refused(results)

    in_child(child)
    assert sorted(result.index for result in [first, *results]) == list(range(20))
    other = batch.run(client, ["one", "two"])
    next(other)
    in_child(other.close)
    assert [result.error for result in other] == [None]
    client.close()


def test_a_conversation_in_a_child(service: Service) -> None:
    """A child's next turn leaves alone the one that is under way in the parent."""
    service.go_on.set()
    chat = _provider(service.url).conversation()
    stream = chat.stream("Why?")
    first = next(stream)

    def child() -> None:
        assert chat.ask("How?").text == TEXT

    in_child(child)
    assert first + "".join(stream) == TEXT
    assert chat.messages[-1]["content"] == TEXT


# -- forks at random moments


@contextmanager
def calling(client: BaseClient, threads: int) -> Iterator[None]:
    """Have threads call a client all the time."""
    over = threading.Event()
    failures: list[BaseException] = []

    def run() -> None:
        while not over.is_set():
            try:
                client.complete("Why?")
                list(client.stream("Why?"))
            except BaseException as error:  # noqa: BLE001 - told at the end
                failures.append(error)
                return

    with ThreadPoolExecutor(threads) as pool:
        for _ in range(threads):
            pool.submit(run)
        try:
            yield
        finally:
            over.set()
    assert failures == []


def fork_at_random(client: BaseClient, times: int, *, seed: int) -> None:
    """Fork again and again beside threads that call; each child makes a call."""
    chance = random.Random(seed)

    def child() -> None:
        assert client.complete("Why?").text

    with calling(client, 4):
        for _ in range(times):
            time.sleep(chance.uniform(0.0, 0.01))
            Child(child).end_within(PATIENCE_S)


def test_forked_at_any_moment(tmp_path: Path) -> None:
    """Whenever a child is forked beside threads that call, it can call itself: 200 of 200 times."""
    with Sandbox(reply="one two three") as sandbox:
        client = FailoverClient(
            [
                ScriptedProvider(["lost"], error=LLMError("on purpose")),
                OpenAICompatible(**sandbox.provider_arguments("openai"), max_concurrency=3),
            ],
            attempts=1,
            cooldown=0.0001,
            health=tmp_path / "health.json",
            on_interrupt="restart",
        )
        fork_at_random(client, 150, seed=1)
        hedged = sandbox.client("openai", "chatglm", hedge_after=0.001)
        fork_at_random(hedged, 50, seed=2)
        client.close()
        hedged.close()


def test_forked_while_tokens_are_fetched(tmp_path: Path) -> None:
    """Nor does a token that threads fetch, or the file in which it is, keep a child waiting."""
    with Sandbox(reply="one", gigachat_token_life_s=1, gigachat_max_concurrency=16) as sandbox:
        arguments = sandbox.provider_arguments("gigachat")
        client = GigaChat(**arguments, token_cache=tmp_path / "tokens.json", max_concurrency=8)
        fork_at_random(client, 30, seed=3)
        client.close()


@pytest.mark.parametrize("kind", ["limits", "cache"])
def test_forked_beside_threads_in_sqlite(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite's own locks, and what it knows of its files, keep no child waiting."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    client: BaseClient = ScriptedProvider(["It scatters."], per_day=10**6, per_minute=10**6)
    if kind == "cache":
        client = Cached(ScriptedProvider(["It scatters."]), tmp_path / "replies.db", ttl=0.001)
    with client:
        fork_at_random(client, 40, seed=4)


@pytest.mark.parametrize("name", SUBJECTS)
def test_forked_beside_every_kind_of_call(name: str) -> None:
    """Whatever kind of call a thread makes at that moment, a forked child can make it, too."""
    assert [result.wrong for result in at_forks(name, 3)] == [()] * 3


def test_forked_during_the_first_call() -> None:
    """A child that is forked in the midst of its parent's very first call can call, too."""
    for _ in range(5):
        with Sandbox(reply="one") as sandbox:
            client = sandbox.client("openai", "chatglm", attempts=1)
            sandbox.fail("openai", status=503, times=1000)
            began = threading.Event()

            def first(began: threading.Event = began, client: FailoverClient = client) -> None:
                began.set()
                client.complete("Why?")

            thread = threading.Thread(target=first)
            thread.start()
            began.wait(PATIENCE_S)
            Child(partial(client.complete, "Why?")).end_within(PATIENCE_S)
            thread.join()
            client.close()
