"""What a signal's handler raises reaches the caller as it is, from wherever a call is."""

from __future__ import annotations

import ast
import base64
import contextlib
import functools
import gc
import json
import os
import signal
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from http.client import HTTPException
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import requests

import llmproviders
from llmproviders import (
    AllProvidersFailed,
    Cached,
    DeadlineExceeded,
    FailoverClient,
    FlowGpt,
    GigaChat,
    LLMError,
    OpenAICompatible,
    ProviderTimeout,
    batch,
)
from llmproviders._environment import usage_file
from llmproviders._http.decoding import decode_json
from llmproviders._http.sockets import resolve
from llmproviders._runtime.files import read_private, wait_for_lock
from llmproviders._runtime.scope import SYSTEM_CLOCK, CancelScope, Waker
from llmproviders._signals import from_handler, ignoring, let_through
from llmproviders.provider import BaseClient
from tests.conftest import RawServerFactory
from tests.support.actors import Actor, FakeClock
from tests.support.http_bytes import chunked, http_response
from tests.support.leaks import open_sockets
from tests.support.rawserver import Connection, RawServer, Read, Stall

SOON_S = 0.05
EVENT = b'data: {"choices": [{"index": 0, "delta": {"content": "a"}}]}\n\n'
BEGUN = http_response(200, {"Content-Type": "text/event-stream"}, chunked([EVENT], end=False))

CLASSES: tuple[type[BaseException], ...] = (
    TimeoutError,
    OSError,
    ConnectionResetError,
    BrokenPipeError,
    FileNotFoundError,
    ValueError,
    RuntimeError,
    AttributeError,
    HTTPException,
    requests.Timeout,
    ProviderTimeout,
    DeadlineExceeded,
)
of_any_class = pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
Alarm = Callable[..., None]


@pytest.fixture(scope="module", autouse=True)
def before() -> set[int]:
    """Have all loaded that a call loads; return the sockets that are open before the tests.

    An alarm may not come before a call waits.
    """
    sockets = open_sockets()
    busy = http_response(503, {"Connection": "close"})
    with (
        RawServer(busy) as server,
        providers(server, server) as client,
        pytest.raises(AllProvidersFailed),
    ):
        client.complete("Why?")
    with FailoverClient([Actor(["a"]), Actor(["b"])], hedge_after=1) as client:
        client.complete("Why?")
    return sockets


@pytest.fixture
def alarm() -> Iterator[Alarm]:
    """Return what has a handler of SIGALRM raise an exception, in a moment if not told when."""
    before = signal.getsignal(signal.SIGALRM)

    def after_a_moment(error: BaseException, after_s: float = SOON_S) -> None:
        def ring(signum: int, frame: FrameType | None) -> None:
            raise error

        signal.signal(signal.SIGALRM, ring)
        signal.setitimer(signal.ITIMER_REAL, after_s)

    yield after_a_moment
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def silent(conn: Connection) -> None:
    """Take a request, have the alarm ring in a moment, and answer nothing."""
    conn.read_request()
    signal.setitimer(signal.ITIMER_REAL, SOON_S)
    conn.run([Stall()])


def ring_now(cls: type[BaseException] = OSError) -> BaseException:
    """Have a handler raise an exception here and now, and return it; it stays unraised."""
    error = cls("the alarm")

    def ring(*_: object) -> None:
        raise error

    before = signal.signal(signal.SIGALRM, ring)
    try:
        signal.raise_signal(signal.SIGALRM)
    except BaseException as rung:  # noqa: BLE001 - it is what was asked for
        return rung
    finally:
        signal.signal(signal.SIGALRM, before)
    raise AssertionError("no alarm")


def expect(error: BaseException, call: Callable[[], object]) -> None:
    """The call raises that very exception."""
    with pytest.raises(type(error)) as caught:
        call()
    assert caught.value is error


def providers(*servers: RawServer | str, **arguments: Any) -> FailoverClient:
    """A client that would try again, and others, after an error of its own."""
    urls = [server if isinstance(server, str) else server.url for server in servers]
    return FailoverClient(
        [
            OpenAICompatible(base_url=f"{url}/v1", model="m", name=str(number), **arguments)
            for number, url in enumerate(urls)
        ],
        attempts=3,
    )


class TestWhereItComesFrom:
    def test_a_handlers(self) -> None:
        """A handler's exception is known, however the handler is written."""

        class Bell:
            def __call__(self, signum: int, frame: FrameType | None) -> None:
                raise OSError("the alarm")

            def method(self, signum: int, frame: FrameType | None) -> None:
                self(signum, frame)

        def ring(said: str, *_: object) -> None:
            raise OSError(said)

        for handler in (Bell(), Bell().method, functools.partial(ring, "the alarm")):
            before = signal.signal(signal.SIGALRM, handler)
            try:
                with pytest.raises(OSError, match="alarm") as caught:
                    signal.raise_signal(signal.SIGALRM)
            finally:
                signal.signal(signal.SIGALRM, before)
            assert from_handler(caught.value) is caught.value

    def test_what_wraps_it(self) -> None:
        """It is found in what other libraries made of it."""
        error = ring_now()
        wrapped = requests.ConnectionError(HTTPException("aborted", error))
        assert from_handler(wrapped) is error
        chained = ValueError()
        chained.__cause__ = wrapped
        assert from_handler(chained) is error

    def test_no_handlers(self) -> None:
        """Any other exception is none, in a call that is made while a handler's is handled, too."""

        def call() -> None:
            with pytest.raises(FileNotFoundError) as caught:
                read_bytes(Path("/does/not/exist"))
            assert from_handler(caught.value) is None
            assert caught.value.__context__ is error

        def read_bytes(path: Path) -> bytes:
            return path.read_bytes()

        error = ring_now()
        try:
            raise error
        except OSError:
            call()

    def test_what_replaced_it(self) -> None:
        """It is found where code of others caught it by class and raised something else."""
        error = ring_now()

        def misread() -> None:
            try:
                raise error
            except OSError:
                raise ValueError("misread") from None

        with pytest.raises(ValueError, match="misread") as caught:
            misread()
        assert from_handler(caught.value) is error

    def test_it_is_raised_as_it_was(self) -> None:
        """It gets no context of what wrapped it, which would hold it in a circle."""
        error = ring_now()
        wrapped = requests.ConnectionError(error)
        with pytest.raises(OSError, match="alarm") as caught:
            try:
                raise wrapped
            except requests.ConnectionError as found:
                let_through(found)
        assert caught.value is error
        assert error.__context__ is None

    def test_ignoring(self) -> None:
        """What is ignored is one's own, and never a handler's."""
        with ignoring(OSError):
            raise FileNotFoundError
        with pytest.raises(OSError, match="alarm"), ignoring(OSError):
            raise ring_now()


@pytest.mark.usefixtures("leak_guard")
class TestInACall:
    @of_any_class
    def test_a_reply_that_does_not_begin(
        self, raw_server: RawServerFactory, alarm: Alarm, cls: type[BaseException]
    ) -> None:
        """Whatever its class, it ends the call: nothing is asked again, and nothing stays open."""
        server = raw_server(silent)
        with providers(server) as client:
            alarm(error := cls("the alarm"), 30)
            expect(error, lambda: client.complete("Why?"))
            assert server.connections[0].client_closed.wait(10)
            assert len(server.requests) == 1
            assert str(client.report().providers[0].condition) == "well"

    @of_any_class
    def test_a_reply_that_stalls(
        self, raw_server: RawServerFactory, alarm: Alarm, cls: type[BaseException]
    ) -> None:
        """In the midst of a stream, too."""
        server = raw_server([*BEGUN, Stall()])
        with providers(server) as client:
            stream = client.stream("Why?")
            assert next(stream) == "a"
            alarm(error := cls("the alarm"))
            expect(error, lambda: next(stream))
            assert server.connections[0].client_closed.wait(10)
            assert len(server.requests) == 1

    @of_any_class
    def test_a_prompt_that_nobody_takes(
        self, raw_server: RawServerFactory, alarm: Alarm, cls: type[BaseException]
    ) -> None:
        """While it sends, where urllib3 takes no notice of a broken pipe."""
        held = threading.Event()

        def take_nothing(conn: Connection) -> None:
            signal.setitimer(signal.ITIMER_REAL, SOON_S)
            held.wait(10)

        server = raw_server(take_nothing)
        with providers(server) as client:
            alarm(error := cls("the alarm"), 30)
            expect(error, lambda: client.complete("x" * 20_000_000))
            held.set()
            assert len(server.connections) == 1

    @of_any_class
    def test_a_connection_that_nobody_answers(
        self, black_hole: int, alarm: Alarm, cls: type[BaseException]
    ) -> None:
        """While it connects."""
        with providers(f"http://127.0.0.1:{black_hole}") as client:
            alarm(error := cls("the alarm"))
            expect(error, lambda: client.complete("Why?"))

    @of_any_class
    def test_a_handshake(
        self, raw_server: RawServerFactory, alarm: Alarm, cls: type[BaseException]
    ) -> None:
        """While TLS shakes hands."""
        server = raw_server([Stall()])
        with providers(server.url.replace("http:", "https:")) as client:
            alarm(error := cls("the alarm"))
            expect(error, lambda: client.complete("Why?"))

    @pytest.mark.parametrize("scheme", ["http", "https", "socks5h"])
    def test_a_mute_proxy(self, raw_server: RawServerFactory, alarm: Alarm, scheme: str) -> None:
        """While a proxy is greeted."""
        server = raw_server(lambda conn: conn.stall())
        proxy = f"{scheme}://127.0.0.1:{server.port}"
        with providers("https://llm.invalid", proxy=proxy) as client:
            alarm(error := TimeoutError("the alarm"))
            expect(error, lambda: client.complete("Why?"))

    @of_any_class
    def test_a_session_of_the_callers(
        self, raw_server: RawServerFactory, alarm: Alarm, cls: type[BaseException]
    ) -> None:
        """On a caller's session it is no other."""
        server = raw_server(silent)
        with requests.Session() as session, providers(server, session=session) as client:
            alarm(error := cls("the alarm"), 30)
            expect(error, lambda: client.complete("Why?"))
            assert len(server.requests) == 1

    @of_any_class
    def test_a_wait_before_the_next_try(
        self, raw_server: RawServerFactory, alarm: Alarm, cls: type[BaseException]
    ) -> None:
        """While a client waits to try again."""
        busy = http_response(429, {"Retry-After": "30", "Connection": "close"}, b"{}")

        def serve(conn: Connection) -> None:
            conn.read_request()
            conn.run(busy)
            conn.close()
            time.sleep(SOON_S)
            os.kill(os.getpid(), signal.SIGALRM)

        server = raw_server(serve)
        with providers(server) as client:
            alarm(error := cls("the alarm"), 30)
            expect(error, lambda: client.complete("Why?"))
            assert len(server.requests) == 1

    @of_any_class
    def test_a_race(
        self, raw_server: RawServerFactory, alarm: Alarm, cls: type[BaseException]
    ) -> None:
        """While two providers are raced."""
        slow, other = raw_server([Stall()]), raw_server([Stall()])
        client = FailoverClient(
            [FlowGpt(base_url=slow.url), FlowGpt(base_url=other.url)], hedge_after=0.01
        )
        with client:
            alarm(error := cls("the alarm"))
            expect(error, lambda: client.complete("Why?"))
            assert slow.connections[0].client_closed.wait(10)

    def test_after_the_finish_reason(self, raw_server: RawServerFactory, alarm: Alarm) -> None:
        """While what comes after the end mark is read, once the text is whole."""
        end = b'data: {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}\n\n'
        done = [EVENT, end, b"data: [DONE]\n\n"]
        head = {"Content-Type": "text/event-stream"}
        server = raw_server([*http_response(200, head, chunked(done, end=False)), Read()])
        with providers(server) as client:
            stream = client.stream("Why?")
            assert [next(stream), next(stream)] == ["a", ""]
            alarm(error := TimeoutError("the alarm"))
            expect(error, lambda: next(stream))

    @of_any_class
    def test_what_others_call(self, alarm: Alarm, cls: type[BaseException]) -> None:
        """From what a provider, ``accept`` or ``on_event`` does in a call, whichever class."""

        def ring(*_: object) -> bool:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.raise_signal(signal.SIGALRM)
            return True

        for arguments in ({"accept": ring}, {"on_event": ring}):
            other = Actor(["b"])
            client = FailoverClient([Actor(["a"]), other], **arguments)
            alarm(error := cls("the alarm"))
            expect(error, lambda client=client: client.complete("Why?"))  # type: ignore[misc]
            assert other.tries == 0
        acting = Actor(["a", ring], ["b"])
        alarm(error := cls("the alarm"))
        expect(error, lambda: FailoverClient([acting]).complete("Why?"))
        assert acting.tries == 1

    def test_a_batch(self, raw_server: RawServerFactory, alarm: Alarm) -> None:
        """A batch ends with it, instead of giving a request the error."""
        server = raw_server([Stall()])
        with providers(server) as client:
            alarm(error := TimeoutError("the alarm"))
            expect(error, lambda: list(batch.run(client, ["Why?"], workers=1)))

    def test_the_input_of_a_batch(self, alarm: Alarm) -> None:
        """In what a batch reads its requests from, too: at once, not when all has been answered."""

        def requests_of() -> Iterator[str]:
            signal.setitimer(signal.ITIMER_REAL, 0)
            yield "Why?"
            signal.raise_signal(signal.SIGALRM)

        actor = Actor(["a"])
        alarm(error := OSError("the alarm"))
        results = batch.run(FailoverClient([actor]), requests_of(), workers=1)
        expect(error, lambda: list(results))


class TestWaits:
    @of_any_class
    def test_waits(self, alarm: Alarm, cls: type[BaseException]) -> None:
        """A sleep, and a wait for another thread."""
        for wait in (lambda: SYSTEM_CLOCK.sleep(30), lambda: SYSTEM_CLOCK.sleep(30, Waker())):
            alarm(error := cls("the alarm"))
            expect(error, wait)

    @of_any_class
    def test_a_name_lookup(
        self, alarm: Alarm, cls: type[BaseException], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A name that is looked up for ever."""
        found = threading.Event()
        monkeypatch.setattr("socket.getaddrinfo", lambda *_: found.wait(10) and [])
        alarm(error := cls("the alarm"))
        expect(error, lambda: resolve("llm.invalid", 80, CancelScope()))
        found.set()

    @of_any_class
    def test_a_file_lock(self, alarm: Alarm, cls: type[BaseException], tmp_path: Path) -> None:
        """A lock that another holds; Python itself loses what comes in a finalizer of filelock."""

        class Ringing(FakeClock):
            def sleep(self, seconds: float, wake: Waker | None = None) -> None:
                signal.raise_signal(signal.SIGALRM)

        with wait_for_lock(tmp_path / "lock", CancelScope()):
            alarm(error := cls("the alarm"), 30)
            scope = CancelScope(clock=Ringing())
            expect(error, lambda: wait_for_lock(tmp_path / "lock", scope))


@pytest.mark.usefixtures("leak_guard")
class TestBehindOthers:
    """Waits for what another thread or process of the user's has."""

    @pytest.fixture
    def ask_first(self) -> Iterator[Callable[[BaseClient, RawServer, int], None]]:
        """Return what makes a call in a thread, and waits until the server has had its requests."""
        threads = []

        def ask(client: BaseClient, server: RawServer, requests: int) -> None:
            def call() -> None:
                with contextlib.suppress(LLMError):
                    client.complete("Why?")

            thread = threading.Thread(target=call)
            threads.append((thread, server))
            thread.start()
            server.wait_for(lambda server: len(server.requests) >= requests)

        yield ask
        for thread, server in threads:
            server.stop()
            thread.join(10)

    @of_any_class
    @pytest.mark.parametrize("shared", [False, True], ids=["this process", "a file"])
    def test_a_place(
        self,
        raw_server: RawServerFactory,
        alarm: Alarm,
        ask_first: Callable[..., None],
        tmp_path: Path,
        shared: bool,
        cls: type[BaseException],
    ) -> None:
        """A place among the requests of one key."""
        server = raw_server([Stall()])
        tokens = tmp_path / "tokens.json" if shared else None
        with GigaChat(
            base_url=f"{server.url}/v1",
            access_token=f"t0ken-{cls.__name__}",
            max_concurrency=1,
            token_cache=tokens,
        ) as giga:
            client = FailoverClient([giga], attempts=3)
            ask_first(giga, server, 1)
            alarm(error := cls("the alarm"))
            expect(error, lambda: client.complete("Why?"))
            assert len(server.requests) == 1

    @of_any_class
    def test_a_token(
        self,
        raw_server: RawServerFactory,
        alarm: Alarm,
        ask_first: Callable[..., None],
        cls: type[BaseException],
    ) -> None:
        """A token that another thread is fetching."""
        server = raw_server([Stall()])
        key = base64.b64encode(f"id:{cls.__name__}".encode()).decode()
        auth_url = f"{server.url}/oauth"
        with GigaChat(base_url=f"{server.url}/v1", auth_url=auth_url, api_key=key) as giga:
            client = FailoverClient([giga], attempts=3)
            ask_first(giga, server, 1)
            alarm(error := cls("the alarm"))
            expect(error, lambda: client.complete("Why?"))
            assert len(server.requests) == 1

    @of_any_class
    def test_an_answer(
        self,
        raw_server: RawServerFactory,
        alarm: Alarm,
        ask_first: Callable[..., None],
        tmp_path: Path,
        cls: type[BaseException],
    ) -> None:
        """An answer that another thread has asked for, to be kept in a cache."""
        server = raw_server([Stall()])
        with OpenAICompatible(base_url=f"{server.url}/v1") as provider:
            cached = Cached(provider, tmp_path / "replies.db")
            ask_first(cached, server, 1)
            alarm(error := cls("the alarm"))
            expect(error, lambda: cached.complete("Why?"))
            assert len(server.requests) == 1
            cached.close()

    @of_any_class
    def test_a_limit(self, alarm: Alarm, cls: type[BaseException]) -> None:
        """A turn under a limit by the minute."""
        actor = Actor(["a"], ["b"], per_minute=1)
        client = FailoverClient([actor], attempts=3)
        client.complete("Why?")
        alarm(error := cls("the alarm"))
        expect(error, lambda: client.complete("Why?"))
        assert actor.tries == 1

    @of_any_class
    def test_a_locked_database(self, alarm: Alarm, cls: type[BaseException]) -> None:
        """A file of counts that another process holds."""
        actor = Actor(["a"], ["b"], per_day=9)
        client = FailoverClient([actor], attempts=3)
        client.complete("Why?")
        with contextlib.closing(sqlite3.connect(usage_file(), isolation_level=None)) as held:
            held.execute("BEGIN EXCLUSIVE")
            alarm(error := cls("the alarm"))
            expect(error, lambda: client.complete("Why?"))
            held.execute("ROLLBACK")
        assert actor.tries == 1


def rings(monkeypatch: pytest.MonkeyPatch, name: str, error: BaseException) -> None:
    """Have the alarm ring inside a function of Python's."""

    def ring(*_: object, **__: object) -> Any:
        signal.signal(signal.SIGALRM, lambda *_: (_ for _ in ()).throw(error))
        signal.raise_signal(signal.SIGALRM)

    monkeypatch.setattr(name, ring)


class TestFilesAndParsing:
    @of_any_class
    def test_a_private_file(
        self, cls: type[BaseException], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """While a shared file is opened, it is not a reason to go on without the file."""
        error = cls("the alarm")
        path = tmp_path / "file"
        path.touch(0o600)
        with monkeypatch.context() as patched:
            rings(patched, "os.open", error)
            expect(error, lambda: read_private(path))

    @of_any_class
    def test_the_health_file(
        self, cls: type[BaseException], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """While the shared memory of cooldowns is looked at."""
        error = cls("the alarm")
        client = FailoverClient([Actor(["a"]), Actor(["b"])], health=tmp_path / "health")
        with monkeypatch.context() as patched:
            rings(patched, "os.stat", error)
            expect(error, lambda: client.complete("Why?"))

    @pytest.mark.parametrize("kind", ["limits", "cache"])
    @pytest.mark.parametrize("place", ["sqlite3.connect", "os.open", "os.stat"])
    @pytest.mark.parametrize("cls", [*CLASSES, sqlite3.OperationalError, UnicodeDecodeError])
    def test_a_database(
        self,
        cls: type[BaseException],
        place: str,
        kind: str,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """While limits are counted, or a reply is looked for that was kept."""
        monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
        said = ("utf-8", b"\xff", 0, 1, "the alarm") if cls is UnicodeDecodeError else ("locked",)
        error = cls(*said)
        asked: BaseClient = Actor(["a"], per_day=9)
        if kind == "cache":
            asked = Cached(Actor(["a"]), tmp_path / "replies.db")
        with monkeypatch.context() as patched:
            rings(patched, place, error)
            expect(error, lambda: asked.complete("Why?"))

    @of_any_class
    def test_json(self, cls: type[BaseException], monkeypatch: pytest.MonkeyPatch) -> None:
        """While JSON is parsed, the reply is not to blame."""
        error = cls("the alarm")
        with monkeypatch.context() as patched:
            rings(patched, "llmproviders._http.decoding._raw_decode", error)
            expect(error, lambda: decode_json(json.dumps("text").encode()))


def test_no_socket_is_left(before: set[int]) -> None:
    """The tests above have left none open, once their servers have closed theirs."""
    gc.collect()
    end = time.monotonic() + 5
    while (left := open_sockets() - before) and time.monotonic() < end:
        time.sleep(0.01)
    assert not left


SWALLOWING = {
    "OSError", "TimeoutError", "ConnectionError", "ValueError", "TypeError", "RuntimeError",
    "Exception", "BaseException", "LLMError",
}  # fmt: skip
"""What a signal's handler may well raise, and a clause of the library may catch by its class."""

ELSEWHERE = {
    "_http.sockets": "(OSError, UnicodeError)",
    "batch._workers": "BaseException",
    "failover._hedging": "LLMError, BaseException",
}
"""Clauses that run in a thread of their own, where no handler ever does."""

OF_THE_PROGRAM = ("cli", "sandbox", "testing")
"""Wings that are the program itself, or tests: their handlers are their own."""


def _caught(kind: ast.expr | None) -> set[str]:
    """The names of the classes that an ``except`` clause catches."""
    if kind is None:
        return {"BaseException"}
    parts = kind.elts if isinstance(kind, ast.Tuple) else [kind]
    return {ast.unparse(part).rpartition(".")[2] for part in parts}


def _swallows(clause: ast.ExceptHandler) -> bool:
    """Whether a clause ends without raising, and never asks where the exception is from."""
    if "let_through(" in ast.unparse(clause.body[0]):
        return False
    if any("from_handler(" in ast.unparse(line) for line in clause.body):
        return False
    leaves = any(isinstance(n, (ast.Return, ast.Break, ast.Continue)) for n in ast.walk(clause))
    return leaves or not isinstance(clause.body[-1], ast.Raise)


def test_no_clause_swallows_what_a_handler_raises() -> None:
    """Every ``except`` that may catch a handler's exception raises, or lets it through first.

    So does every ``suppress``: the library has ``ignoring`` for it.
    """
    root = Path(llmproviders.__file__).parent
    found = []
    for path in sorted(root.rglob("*.py")):
        module = ".".join(path.relative_to(root).with_suffix("").parts)
        if module.startswith(OF_THE_PROGRAM):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ExceptHandler):
                caught = _caught(node.type)
                known = ast.unparse(node.type or node) in ELSEWHERE.get(module, "")
                wrong = not known and _swallows(node)
            elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("suppress"):
                caught, wrong = set().union(*map(_caught, node.args)), True
            else:
                continue
            if wrong and caught & SWALLOWING:
                found.append(f"{module}:{node.lineno}")
    assert found == []
