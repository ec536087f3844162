"""The keeper of an access token: one fetch for all, in time, and a file that may be anything."""

from __future__ import annotations

import contextlib
import errno
import gc
import itertools
import json
import logging
import os
import resource
import stat
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from llmproviders import (
    AuthenticationError,
    DeadlineExceeded,
    FailoverClient,
    GigaChat,
    LLMError,
    ProtocolError,
    ProviderTimeout,
    RateLimitError,
    ServerError,
)
from llmproviders._account.tokens import Token, TokenKeeper, _Flight, _keepers, keeper, token_of
from llmproviders._runtime.scope import SYSTEM_CLOCK, CancelScope, Clock
from tests.conftest import RawServerFactory
from tests.support.actors import Actor, FakeClock
from tests.support.http_bytes import http_response
from tests.support.processes import in_child

LIFE_S = 1800.0
PATIENCE_S = 10.0


class Service:
    """A token service: counts what it is asked, and may fail first.

    Args:
        clock: by which its tokens live.
        errors: raised in turn before it gives tokens.
    """

    def __init__(self, clock: Clock, *errors: LLMError, life_s: float = LIFE_S) -> None:
        self.clock = clock
        self.errors = list(errors)
        self.life_s = life_s
        self.asked = 0
        self._numbers = itertools.count(1)

    def __call__(self) -> Token:
        """Give a token, or fail."""
        self.asked += 1
        if self.errors:
            raise self.errors.pop(0)
        now = self.clock.wall()
        return Token(f"token-{next(self._numbers)}", now + self.life_s, now)


@pytest.fixture
def clock() -> FakeClock:
    """A clock that nobody waits for."""
    return FakeClock()


@pytest.fixture
def service(clock: FakeClock) -> Service:
    """A token service that works."""
    return Service(clock)


def scope(clock: Clock = SYSTEM_CLOCK, seconds: float | None = None) -> CancelScope:
    """How long one call may take."""
    return CancelScope.lasting(seconds, clock=clock)


def fresh_keeper(path: Path | None = None) -> TokenKeeper:
    """The keeper of a credential that nobody used before."""
    return TokenKeeper(uuid.uuid4().hex, path)


class TestTokenOf:
    @pytest.mark.parametrize(
        "answer",
        [
            {"access_token": "a.b", "expires_at": 1_700_001_800_000},
            {"access_token": "a.b", "expires_at": 1_700_001_800},
            {"tok": "a.b", "exp": 1_700_001_800},
            {"tok": "a.b", "exp": 1_700_001_800_000.0},
        ],
    )
    def test_both_forms(self, answer: dict[str, Any]) -> None:
        """Milliseconds and seconds are told apart by their magnitude, whatever the field."""
        token = token_of(answer, now=1_700_000_000.0, date=None)
        assert (token.value, token.expires_at) == ("a.b", 1_700_001_800.0)
        assert token.fetched_at == 1_700_000_000.0

    @pytest.mark.parametrize(
        "answer",
        [
            {},
            {"access_token": "a.b"},
            {"access_token": "", "expires_at": 1_700_001_800},
            {"access_token": None, "expires_at": 1_700_001_800},
            {"access_token": "a\r\nX: y", "expires_at": 1_700_001_800},
            {"access_token": "ключ", "expires_at": 1_700_001_800},
            {"access_token": "a.b", "expires_at": "soon"},
            {"access_token": "a.b", "expires_at": True},
            {"access_token": "a.b", "expires_at": float("nan")},
            {"access_token": "a.b", "expires_at": 10**400},
            {"access_token": "a.b", "expires_at": 0},
        ],
        ids=repr,
    )
    def test_no_token(self, answer: dict[str, Any]) -> None:
        """An answer without a token, or without its end, cannot be understood."""
        with pytest.raises(ProtocolError):
            token_of(answer, now=1_700_000_000.0, date=None)

    @pytest.mark.parametrize(
        ("ahead_s", "said"),
        [(86_400.0, "86400 s ahead"), (1801.0, "1801 s ahead"), (-3600.0, "3600 s behind")],
    )
    def test_wrong_clock(self, ahead_s: float, said: str) -> None:
        """A clock by which no token can be judged is an error that says how wrong it is."""
        date = 1_700_000_000.0
        answer = {"access_token": "a.b", "expires_at": (date + LIFE_S) * 1000}
        with pytest.raises(AuthenticationError, match=said) as caught:
            token_of(answer, now=date + ahead_s, date=date)
        assert caught.value.detail == "clock"
        assert not caught.value.retryable

    @pytest.mark.parametrize("ago_s", [60, 0])
    @pytest.mark.parametrize(
        ("date", "whose"), [(None, "this machine's"), (1_700_000_000.0, "its own")]
    )
    def test_expired_on_arrival(self, date: float | None, whose: str, ago_s: int) -> None:
        """A token that has expired when it comes is an error that says so, and by which clock."""
        answer = {"tok": "a.b", "exp": 1_700_000_000 - ago_s}
        said = f"expired {ago_s} s ago by {whose} clock"
        with pytest.raises(AuthenticationError, match=said) as caught:
            token_of(answer, now=1_700_000_000.0, date=date)
        assert caught.value.detail == "clock"

    def test_concealed(self, clock: FakeClock) -> None:
        """From then on no message shows the token."""
        value = uuid.uuid4().hex
        assert value in str(ServerError(f"bad {value}"))
        Token(value, clock.wall() + LIFE_S, clock.wall())
        assert value not in str(ServerError(f"bad {value}"))

    @pytest.mark.parametrize("ahead_s", [-600.0, 600.0])
    def test_clock_a_little_off(self, ahead_s: float) -> None:
        """A clock that is some minutes off does no harm."""
        date = 1_700_000_000.0
        answer = {"access_token": "a.b", "expires_at": (date + LIFE_S) * 1000}
        assert token_of(answer, now=date + ahead_s, date=date).value == "a.b"


class TestLife:
    def test_one_fetch_for_many_calls(self, clock: FakeClock, service: Service) -> None:
        """As long as a token is fresh, nothing is fetched."""
        kept = fresh_keeper()
        for _ in range(5):
            assert kept.get(service, scope(clock)) == "token-1"
            clock.pass_(299)
        assert service.asked == 1

    @pytest.mark.parametrize(
        ("life_s", "age_s", "asked"),
        [
            (1800, 1499, 1),
            (1800, 1500, 2),
            (1800, 1800, 2),
            (1800, 5000, 2),
            (40, 29, 1),
            (40, 30, 2),
        ],
    )
    def test_renewed_in_time(
        self, clock: FakeClock, life_s: float, age_s: float, asked: int
    ) -> None:
        """A token is renewed in its last five minutes; one that lives less, in its last quarter."""
        service = Service(clock, life_s=life_s)
        kept = fresh_keeper()
        kept.get(service, scope(clock))
        clock.pass_(age_s)
        assert kept.get(service, scope(clock)) == f"token-{asked}"
        assert service.asked == asked

    def test_early_failure_is_no_failure(self, clock: FakeClock, service: Service) -> None:
        """A renewal before its time that fails costs nobody his call, and is let rest a while."""
        kept = fresh_keeper()
        kept.get(service, scope(clock))
        clock.pass_(1500)
        service.errors = [ServerError("down"), RateLimitError("slow"), ServerError("down")]
        assert kept.get(service, scope(clock)) == "token-1"
        assert kept.get(service, scope(clock)) == "token-1"
        assert service.asked == 2
        clock.pass_(31)
        assert kept.get(service, scope(clock)) == "token-1"
        assert service.asked == 3
        assert clock.slept == []

    def test_late_failure_is_one(self, clock: FakeClock, service: Service) -> None:
        """In the last minute a token counts as none: what the renewal fails with is raised."""
        kept = fresh_keeper()
        kept.get(service, scope(clock))
        clock.pass_(1740)
        service.errors = [ServerError("down")]
        with pytest.raises(ServerError, match="down"):
            kept.get(service, scope(clock))
        assert kept.get(service, scope(clock)) == "token-2"

    def test_early_renewal_leaves_the_call_its_time(self, clock: FakeClock) -> None:
        """A renewal before its time takes five seconds at most, and half of what is left."""
        service = Service(clock)
        kept = fresh_keeper()
        kept.get(service, scope(clock))
        clock.pass_(1600)
        for deadline, allowed in ((None, 5.0), (4.0, 2.0)):
            call = scope(clock, deadline)
            left: list[float] = []

            def fetch(call: CancelScope = call, left: list[float] = left) -> Token:
                left.append(call.remaining())
                raise ProviderTimeout("too slow")

            assert kept.get(fetch, call) == "token-1"
            assert left == [allowed]
            assert call.remaining() == (deadline or float("inf"))
            clock.pass_(30)

    def test_refused(self, clock: FakeClock, service: Service) -> None:
        """A token that the service refuses is replaced; one that has been already is not."""
        kept = fresh_keeper()
        first = kept.get(service, scope(clock))
        kept.refuse(first)
        second = kept.get(service, scope(clock))
        kept.refuse(first)
        assert kept.get(service, scope(clock)) == second == "token-2"
        kept.refuse(second)
        kept.refuse(first)
        assert kept.get(service, scope(clock)) == "token-3"

    def test_credentials_never_share(self, clock: FakeClock, service: Service) -> None:
        """Each credential has its own token, and one keeper in a process."""
        one, other = uuid.uuid4().hex, uuid.uuid4().hex
        now = clock.wall()
        assert keeper(one, None, now=now) is keeper(one, None, now=now)
        first = keeper(one, None, now=now).get(service, scope(clock))
        assert keeper(other, None, now=now).get(service, scope(clock)) != first

    def test_spent_keepers_are_forgotten(self, clock: FakeClock, service: Service) -> None:
        """Of more than 256 credentials, only those are remembered whose tokens live."""

        def known(credential: str) -> TokenKeeper:
            return keeper(credential, None, now=clock.wall())

        living, spent = known("living"), known("spent")
        living.get(service, scope(clock))
        for number in range(254):
            known(f"{number}")
        assert known("spent") is spent
        known("one more")
        assert known("living") is living
        assert known("spent") is not spent

    def test_spent(self, clock: FakeClock, service: Service) -> None:
        """A keeper is spent from the moment its token ends, but not while it fetches a new one."""
        kept, seen = fresh_keeper(), list[bool]()
        kept.get(service, scope(clock))
        clock.pass_(LIFE_S - 1)
        assert not kept.is_spent(clock.wall())
        clock.pass_(1)
        assert kept.is_spent(clock.wall())

        def fetch() -> Token:
            seen.append(kept.is_spent(clock.wall()))
            return service()

        kept.get(fetch, scope(clock))
        assert seen == [False]

    def test_they_are_forgotten_while_others_come(self, clock: FakeClock) -> None:
        """A credential that turns up while the spent ones are forgotten makes no call fail."""
        prefix, now = uuid.uuid4().hex, clock.wall()
        for number in range(256):
            keeper(f"{prefix}{number}", None, now=now)

        class Garbage:
            def __init__(self) -> None:
                self.itself = self

            def __del__(self) -> None:
                _keepers[f"{prefix}-late", None] = TokenKeeper(prefix, None)

        before = gc.get_threshold()
        gc.collect()
        Garbage()
        gc.set_threshold(50)
        try:
            assert keeper(prefix, None, now=now)
        finally:
            gc.set_threshold(*before)
        gc.collect()
        assert (f"{prefix}-late", None) in _keepers


class TestTooManyRequests:
    @pytest.mark.parametrize("retry_after", [None, 3.0])
    def test_asked_once(self, clock: FakeClock, retry_after: float | None) -> None:
        """A token service with too many requests is asked once, and what to do is the caller's."""
        service = Service(clock, RateLimitError("slow", retry_after=retry_after))
        kept = fresh_keeper()
        with pytest.raises(RateLimitError) as caught:
            kept.get(service, scope(clock))
        assert caught.value.retry_after == retry_after
        assert (service.asked, clock.slept) == (1, [])
        assert kept.get(service, scope(clock)) == "token-1"

    @pytest.mark.parametrize("shared", [False, True])
    def test_one_budget(
        self, clock: FakeClock, raw_server: RawServerFactory, tmp_path: Path, shared: bool
    ) -> None:
        """A call asks it as often as its client's attempts say, and waits as they do between."""
        busy = raw_server(http_response(429, {"Connection": "close"}, b"{}"))
        giga = GigaChat(
            api_key="c2VjcmV0OnNlY3JldA==",
            base_url="http://127.0.0.1:9/v1",
            auth_url=f"{busy.url}/oauth",
            token_cache=tmp_path / "tokens.json" if shared else None,
        )
        with FailoverClient([giga, Actor(["Hello"], name="next")], clock=clock) as client:
            reply = client.complete("Hi")
        assert reply.provider == "next"
        assert len(busy.requests) == len(reply.attempts) - 1 == 3
        assert sum(clock.slept) < 3.0

    def test_a_provider_alone(self, raw_server: RawServerFactory) -> None:
        """A provider without a client over it asks once, and raises what it is told."""
        busy = raw_server(http_response(429, {"Connection": "close", "Retry-After": "2"}, b"{}"))
        giga = GigaChat(api_key="c2VjcmV0OnNlY3JldA==", auth_url=f"{busy.url}/oauth")
        with giga, pytest.raises(RateLimitError) as caught:
            giga.complete("Hi")
        assert caught.value.retry_after == 2.0
        assert len(busy.requests) == 1


class Crowd:
    """Threads that all want a token at once, and what became of each."""

    def __init__(
        self, kept: TokenKeeper, fetch: Callable[[], Token], count: int, *, routes: int = 1
    ) -> None:
        self.results: list[str | LLMError] = []
        self._start = threading.Barrier(count)
        self.threads = [
            threading.Thread(target=self._run, args=(kept, fetch, number % routes))
            for number in range(count)
        ]
        for thread in self.threads:
            thread.start()

    def _run(self, kept: TokenKeeper, fetch: Callable[[], Token], route: int) -> None:
        self._start.wait(PATIENCE_S)
        try:
            self.results.append(kept.get(fetch, scope(), route=route))
        except LLMError as error:
            self.results.append(error)

    def join(self) -> list[str | LLMError]:
        """Wait for all of them."""
        for thread in self.threads:
            thread.join(PATIENCE_S)
        assert not any(thread.is_alive() for thread in self.threads)
        return self.results


class Gate:
    """A token service that answers when the test says so."""

    def __init__(self, answer: Callable[[], Token]) -> None:
        self.answer = answer
        self.asked = threading.Event()
        self.open = threading.Event()
        self.count = 0

    def __call__(self) -> Token:
        """Wait for the test, then answer."""
        self.count += 1
        self.asked.set()
        assert self.open.wait(PATIENCE_S)
        return self.answer()


def wait_for_waiting(kept: TokenKeeper, count: int) -> None:
    """Wait until so many threads wait for a fetch that is under way."""
    (flight,) = kept._flights.values()
    tick = threading.Event()
    while len(flight._waiting) < count:
        tick.wait(0.001)


def failing(error: LLMError) -> Callable[[], Token]:
    """A token service that always fails in this way."""

    def fetch() -> Token:
        raise error

    return fetch


class TestSingleFlight:
    def test_cold_start(self) -> None:
        """64 threads at a cold start make one fetch."""
        gate = Gate(Service(SYSTEM_CLOCK))
        crowd = Crowd(fresh_keeper(), gate, 64)
        assert gate.asked.wait(PATIENCE_S)
        gate.open.set()
        assert crowd.join() == ["token-1"] * 64
        assert gate.count == 1

    def test_a_failure_is_shared(self) -> None:
        """Who waited for a fetch that fails, fails like it, without asking once more."""
        gate = Gate(failing(ServerError("down", status_code=503)))
        kept = fresh_keeper()
        crowd = Crowd(kept, gate, 1)
        assert gate.asked.wait(PATIENCE_S)
        others = Crowd(kept, gate, 16)
        wait_for_waiting(kept, 16)
        gate.open.set()
        results = crowd.join() + others.join()
        assert gate.count == 1
        assert {str(error) for error in results} == {"down"}
        assert len({id(error) for error in results}) == 17

    def test_another_way_is_tried(self) -> None:
        """Who would go another way, through another proxy, tries that one."""
        gate = Gate(failing(ServerError("down")))
        crowd = Crowd(fresh_keeper(), gate, 4, routes=2)
        assert gate.asked.wait(PATIENCE_S)
        gate.open.set()
        crowd.join()
        assert gate.count >= 2

    def test_a_fetch_that_has_just_ended(self) -> None:
        """Who finds a fetch under way that ends before he begins to wait does not wait."""
        flight = _Flight(None)
        flight.end()
        flight.wait(scope(seconds=0.5))

    def test_the_leaders_end_is_not_the_others(self) -> None:
        """When the call that fetches is ended, another one fetches."""
        kept, service = fresh_keeper(), Service(SYSTEM_CLOCK)
        leading = scope().cancellable()
        gate = Gate(failing(ProviderTimeout("ended", retryable=False)))
        ended: list[BaseException] = []

        def lead() -> None:
            try:
                kept.get(gate, leading, route=0)
            except LLMError as error:
                ended.append(error)

        leader = threading.Thread(target=lead)
        leader.start()
        assert gate.asked.wait(PATIENCE_S)
        crowd = Crowd(kept, service, 3)
        wait_for_waiting(kept, 3)
        leading.cancel()
        gate.open.set()
        leader.join(PATIENCE_S)
        assert crowd.join() == ["token-1"] * 3
        assert len(ended) == 1

    def test_a_deadline_holds_for_who_waits(self) -> None:
        """Who waits for another's fetch waits no longer than his own deadline."""
        gate = Gate(Service(SYSTEM_CLOCK))
        kept = fresh_keeper()
        crowd = Crowd(kept, gate, 1)
        assert gate.asked.wait(PATIENCE_S)
        with pytest.raises(DeadlineExceeded):
            kept.get(gate, scope(seconds=0.05))
        gate.open.set()
        assert crowd.join() == ["token-1"]

    def test_cancelling_wakes_who_waits(self) -> None:
        """Who waits for another's fetch wakes when his call is ended."""
        gate = Gate(Service(SYSTEM_CLOCK))
        kept = fresh_keeper()
        crowd = Crowd(kept, gate, 1)
        assert gate.asked.wait(PATIENCE_S)
        waiting = scope()
        timer = threading.Timer(0.05, waiting.cancel, args=["another was faster"])
        timer.start()
        with pytest.raises(ProviderTimeout, match="another was faster"):
            kept.get(gate, waiting)
        timer.join()
        gate.open.set()
        crowd.join()

    def test_others_go_on_with_the_old_one(self, clock: FakeClock) -> None:
        """While one thread renews a token before its time, others use the old one at once."""
        service = Service(clock)
        kept = fresh_keeper()
        kept.get(service, scope(clock))
        clock.pass_(1550)
        gate = Gate(service)
        renewing = threading.Thread(target=kept.get, args=(gate, scope(clock)))
        renewing.start()
        assert gate.asked.wait(PATIENCE_S)
        assert [kept.get(gate, scope(clock)) for _ in range(5)] == ["token-1"] * 5
        gate.open.set()
        renewing.join(PATIENCE_S)
        assert kept.get(gate, scope(clock)) == "token-2"
        assert gate.count == 1

    def test_a_fork_in_mid_fetch(self) -> None:
        """A child that is forked while its parent fetches does not wait for its parent."""
        gate = Gate(Service(SYSTEM_CLOCK))
        kept = fresh_keeper()
        crowd = Crowd(kept, gate, 1)
        assert gate.asked.wait(PATIENCE_S)

        def child() -> None:
            assert kept.get(Service(SYSTEM_CLOCK), scope(seconds=PATIENCE_S)) == "token-1"

        in_child(child)
        gate.open.set()
        crowd.join()


@contextlib.contextmanager
def one_warning(caplog: pytest.LogCaptureFixture, words: str = "") -> Iterator[None]:
    """Fail unless the block logs one warning, with these words."""
    caplog.clear()
    with caplog.at_level(logging.WARNING, "llmproviders"):
        yield
    (record,) = [r for r in caplog.records if r.name == "llmproviders"]
    assert record.levelno == logging.WARNING
    assert words in record.getMessage()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file for tokens, in a folder that is not there yet."""
    return tmp_path / "cache" / "tokens.json"


def entry(**changes: Any) -> dict[str, Any]:
    """A token as a file has it."""
    return {
        "access_token": "from-file",
        "expires_at": FakeClock().wall() + LIFE_S,
        "fetched_at": FakeClock().wall(),
        **changes,
    }


def write_tokens(path: Path, tokens: Any) -> None:
    """Put tokens into a file as it should be."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.touch(mode=0o600)
    path.write_text(json.dumps({"version": 1, "tokens": tokens}))


class TestFile:
    def test_shared(self, clock: FakeClock, service: Service, path: Path) -> None:
        """What one keeper fetched, the next one finds in the file."""
        assert TokenKeeper("c", path).get(service, scope(clock)) == "token-1"
        assert TokenKeeper("c", path).get(service, scope(clock)) == "token-1"
        assert TokenKeeper("d", path).get(service, scope(clock)) == "token-2"
        assert TokenKeeper("c", path).get(service, scope(clock)) == "token-1"
        assert service.asked == 2

    def test_what_is_in_it(self, clock: FakeClock, service: Service, path: Path) -> None:
        """A file has a version, and a token for each credential that this process uses it for."""
        for credential in "cd":
            keeper(credential, path, now=clock.wall()).get(service, scope(clock))
        content = json.loads(path.read_text())
        assert content == {
            "version": 1,
            "tokens": {"c": entry(access_token="token-1"), "d": entry(access_token="token-2")},
        }

    def test_not_read_without_need(self, clock: FakeClock, service: Service, path: Path) -> None:
        """As long as a token is fresh the file is left alone, whatever is in it."""
        kept = TokenKeeper("c", path)
        kept.get(service, scope(clock))
        write_tokens(path, {"c": entry(expires_at=clock.wall() + 2 * LIFE_S)})
        clock.pass_(1499)
        assert kept.get(service, scope(clock)) == "token-1"

    def test_modes(self, clock: FakeClock, service: Service, path: Path) -> None:
        """Folder and file are the user's alone, whatever the umask."""
        before = os.umask(0)
        try:
            TokenKeeper("c", path).get(service, scope(clock))
        finally:
            os.umask(before)
        found = [path.parent, path, *path.with_name("tokens.json.locks").iterdir()]
        modes = {item.name: stat.S_IMODE(item.stat().st_mode) for item in found}
        assert modes.pop("cache") == 0o700
        assert modes == dict.fromkeys(["tokens.json", "c.refresh", "write"], 0o600)
        assert [item.name for item in sorted(path.parent.iterdir())] == [
            "tokens.json",
            "tokens.json.locks",
        ]

    def test_replaced_as_a_whole(self, clock: FakeClock, service: Service, path: Path) -> None:
        """A new token comes in a new file; whoever reads the old one reads it to its end."""
        kept = TokenKeeper("c", path)
        kept.get(service, scope(clock))
        with path.open() as before:
            clock.pass_(LIFE_S)
            kept.get(service, scope(clock))
            assert json.load(before)["tokens"]["c"]["access_token"] == "token-1"
        assert json.loads(path.read_text())["tokens"]["c"]["access_token"] == "token-2"

    def test_other_tokens_stay(self, clock: FakeClock, service: Service, path: Path) -> None:
        """Other credentials' tokens stay in the file as long as they live."""
        dead = entry(expires_at=clock.wall())
        write_tokens(path, {"other": entry(), "dead": dead, "odd": 7})
        TokenKeeper("c", path).get(service, scope(clock))
        assert json.loads(path.read_text())["tokens"].keys() == {"other", "c"}

    @pytest.mark.parametrize(
        "odd",
        [None, 7, [], {}, {"access_token": "x"}, entry(access_token=""), entry(expires_at="x")],
        ids=repr,
    )
    def test_odd_entry(self, clock: FakeClock, service: Service, path: Path, odd: Any) -> None:
        """An entry that is no token is replaced by one."""
        write_tokens(path, {"c": odd})
        assert TokenKeeper("c", path).get(service, scope(clock)) == "token-1"
        assert json.loads(path.read_text())["tokens"]["c"]["access_token"] == "token-1"

    def test_empty_file(self, clock: FakeClock, service: Service, path: Path) -> None:
        """An empty file is one without tokens."""
        path.parent.mkdir()
        path.touch(mode=0o600)
        TokenKeeper("c", path).get(service, scope(clock))
        assert TokenKeeper("c", path).get(service, scope(clock)) == "token-1"

    def test_renewed_by_another_process(
        self, clock: FakeClock, service: Service, path: Path
    ) -> None:
        """A token that is old is looked for in the file before it is fetched."""
        kept = TokenKeeper("c", path)
        assert kept.get(service, scope(clock)) == "token-1"
        clock.pass_(1550)
        newer = entry(expires_at=clock.wall() + LIFE_S, fetched_at=clock.wall())
        write_tokens(path, {"c": newer})
        assert kept.get(service, scope(clock)) == "from-file"
        assert service.asked == 1

    def test_refused_token_in_the_file(
        self, clock: FakeClock, service: Service, path: Path
    ) -> None:
        """A token that was refused is not taken from the file again, and is replaced there."""
        one, other = TokenKeeper("c", path), TokenKeeper("c", path)
        first = one.get(service, scope(clock))
        assert other.get(service, scope(clock)) == first
        one.refuse(first)
        other.refuse(first)
        assert one.get(service, scope(clock)) == "token-2"
        assert other.get(service, scope(clock)) == "token-2"
        assert service.asked == 2

    def test_fetched_by_another_process(
        self, clock: FakeClock, service: Service, path: Path
    ) -> None:
        """Who finds another process fetching waits, and takes what that one puts in the file."""
        (path.parent / "tokens.json.locks").mkdir(parents=True)
        lock = FileLock(path.parent / "tokens.json.locks" / "c.refresh")
        lock.acquire()
        sleep = clock.sleep

        def arrive(seconds: float, wake: threading.Event | None = None) -> None:
            write_tokens(path, {"c": entry()})
            sleep(seconds, wake)

        clock.sleep = arrive  # type: ignore[method-assign]
        assert TokenKeeper("c", path).get(service, scope(clock)) == "from-file"
        assert service.asked == 0
        lock.release()

    def test_early_while_another_process_renews(
        self, clock: FakeClock, service: Service, path: Path
    ) -> None:
        """In the early window nobody waits for another process."""
        kept = TokenKeeper("c", path)
        kept.get(service, scope(clock))
        clock.pass_(1550)
        with FileLock(path.parent / "tokens.json.locks" / "c.refresh"):
            assert kept.get(service, scope(clock)) == "token-1"
        assert clock.slept == []
        assert kept.get(service, scope(clock)) == "token-2"

    @pytest.mark.parametrize(("deadline", "waited"), [(None, 30.0), (10.0, 5.0)])
    def test_lock_held_too_long(
        self,
        clock: FakeClock,
        service: Service,
        path: Path,
        caplog: pytest.LogCaptureFixture,
        deadline: float | None,
        waited: float,
    ) -> None:
        """A lock that is never let go costs a wait, and then the process goes on alone."""
        (path.parent / "tokens.json.locks").mkdir(parents=True)
        with (
            FileLock(path.parent / "tokens.json.locks" / "c.refresh"),
            one_warning(caplog, "another process"),
        ):
            kept = TokenKeeper("c", path)
            assert kept.get(service, scope(clock, deadline)) == "token-1"
            assert waited <= sum(clock.slept) < waited + 0.1
            clock.pass_(LIFE_S)
            assert kept.get(service, scope(clock)) == "token-2"

    def test_file_locked_too_long(
        self, clock: FakeClock, service: Service, path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A file that another process never lets be written costs two seconds, once a token."""
        (path.parent / "tokens.json.locks").mkdir(parents=True)
        kept = TokenKeeper("c", path)
        with (
            FileLock(path.parent / "tokens.json.locks" / "write"),
            one_warning(caplog, "locked by another process for 2 s"),
        ):
            assert kept.get(service, scope(clock)) == "token-1"
            assert 2.0 <= sum(clock.slept) < 2.1
            assert kept.get(service, scope(clock)) == "token-1"
        assert service.asked == 1
        assert not path.exists()


def corrupt(path: Path) -> None:
    """Something that is no JSON."""
    path.write_text("not a token")
    path.chmod(0o600)


def something_else(path: Path) -> None:
    """JSON of another kind."""
    path.write_text('["a list"]')
    path.chmod(0o600)


def too_deep(path: Path) -> None:
    """JSON that no parser follows."""
    path.write_text("[" * 100_000)
    path.chmod(0o600)


def world_readable(path: Path) -> None:
    """A good file that everybody can read."""
    write_tokens(path, {})
    path.chmod(0o644)


def link(path: Path) -> None:
    """A link to a good file."""
    write_tokens(path.with_name("real.json"), {})
    path.symlink_to(path.with_name("real.json"))


def folder(path: Path) -> None:
    """A folder."""
    path.mkdir()


def fifo(path: Path) -> None:
    """A pipe, which would make a reader wait."""
    os.mkfifo(path, 0o600)


def foreign(path: Path) -> None:
    """Somebody else's file."""
    if os.geteuid() != 0:
        pytest.skip("only root can give a file away")
    write_tokens(path, {})
    os.chown(path, 65534, 65534)


def foreign_locks(path: Path) -> None:
    """A folder of locks that is somebody else's."""
    if os.geteuid() != 0:
        pytest.skip("only root can give a folder away")
    locks = path.with_name(f"{path.name}.locks")
    locks.mkdir(mode=0o700)
    os.chown(locks, 65534, 65534)


def file_for_folder(path: Path) -> None:
    """A file where the folder of the locks should be."""
    path.with_name(f"{path.name}.locks").touch()


class TestUnusableFile:
    @pytest.mark.parametrize(
        ("spoil", "why"),
        [
            (corrupt, "does not contain tokens; delete it"),
            (something_else, "does not contain tokens; delete it"),
            (too_deep, "does not contain tokens; delete it"),
            (world_readable, "is open to other users; delete it, or chmod 600 it"),
            (link, os.strerror(errno.ELOOP)),
            (folder, os.strerror(errno.EISDIR)),
            (fifo, "is not a plain file"),
            (foreign, "belongs to another user"),
            (foreign_locks, "belongs to another user"),
            (file_for_folder, "it is not a folder"),
        ],
    )
    def test_goes_on_in_memory(
        self,
        clock: FakeClock,
        service: Service,
        path: Path,
        caplog: pytest.LogCaptureFixture,
        spoil: Callable[[Path], None],
        why: str,
    ) -> None:
        """Whatever the file is, the token lives in memory, after one warning that says why."""
        path.parent.mkdir(mode=0o700)
        spoil(path)
        before = path.lstat() if os.path.lexists(path) else None
        kept = TokenKeeper("c", path)
        with one_warning(caplog, why):
            assert kept.get(service, scope(clock)) == "token-1"
            assert kept.get(service, scope(clock)) == "token-1"
            clock.pass_(LIFE_S)
            assert kept.get(service, scope(clock)) == "token-2"
        assert clock.slept == []
        if before is not None:
            assert path.lstat() == before

    @pytest.mark.parametrize("place", ["/proc/llmproviders/tokens.json", "{tmp}/file/tokens.json"])
    def test_no_such_folder(
        self,
        clock: FakeClock,
        service: Service,
        tmp_path: Path,
        caplog: pytest.LogCaptureFixture,
        place: str,
    ) -> None:
        """A folder that cannot be made leaves the token in memory."""
        (tmp_path / "file").touch()
        kept = TokenKeeper("c", Path(place.format(tmp=tmp_path)))
        with one_warning(caplog, "tokens.json"):
            assert kept.get(service, scope(clock)) == "token-1"
            assert kept.get(service, scope(clock)) == "token-1"

    def test_full_disk(self, clock: FakeClock, service: Service, path: Path) -> None:
        """A disk that takes no byte more leaves the token in memory, and no half file behind."""

        def child() -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
            kept = TokenKeeper("c", path)
            assert kept.get(service, scope(clock)) == "token-1"
            assert kept.get(service, scope(clock)) == "token-1"

        in_child(child)
        assert [item.name for item in path.parent.iterdir()] == ["tokens.json.locks"]

    def test_read_only_folder(self, clock: FakeClock, service: Service, tmp_path: Path) -> None:
        """A folder that must not be written to leaves the token in memory."""
        shut = tmp_path / "shut"
        shut.mkdir(mode=0o500)

        def child() -> None:
            os.chdir(shut)
            if os.geteuid() == 0:
                os.chown(shut, 65534, 65534)
                os.setgid(65534)
                os.setuid(65534)
            kept = TokenKeeper("c", Path("tokens.json"))
            assert kept.get(service, scope(clock)) == "token-1"
            assert kept.get(service, scope(clock)) == "token-1"

        in_child(child)
        assert list(shut.iterdir()) == []
