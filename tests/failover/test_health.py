"""What is remembered of providers in trouble, in memory and in a file that processes share."""

from __future__ import annotations

import errno
import json
import logging
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from llmproviders import (
    AllProvidersFailed,
    AuthenticationError,
    ChatGLM,
    ChatGptt,
    DeadlineExceeded,
    FailoverClient,
    FlowGpt,
    GigaChat,
    InvalidRequestError,
    LLMError,
    MissingAuthError,
    OpenAICompatible,
    Provider,
    RateLimitError,
    RefusedError,
    RejectedReplyError,
    ServerError,
)
from llmproviders._account.keys import KeyFile
from llmproviders._runtime import files
from llmproviders.failover._health import (
    Condition,
    FailureRecord,
    FileStore,
    Health,
    HealthKey,
    MemoryStore,
    Permit,
    Store,
)
from llmproviders.failover._target import server_of
from tests.conftest import RawServerFactory
from tests.support.actors import Actor, FakeClock
from tests.support.http_bytes import http_response
from tests.support.rawserver import Connection, Pause, RawServer


def named(record: str, credential: str | None = None) -> Callable[[], HealthKey]:
    """Return what gives a provider's key; without a credential it has one record."""
    return partial(HealthKey, record, credential or record)


A, B, C = named("a"), named("b"), named("c")
KEYS = [A, B, C]
GOOD = ["It scatters."]
KEY = "c2VjcmV0OnNlY3JldA=="
OTHER_KEY = "b3RoZXI6c2VjcmV0"
WHOLE = b"""data: {"choices": [{"delta": {"content": "ok"}, "finish_reason": "stop"}]}

data: [DONE]

"""
DOWN = [ServerError("down", status_code=503)]
SHARED = b'{"version": 2, "providers": {"a": {%b}}}'


@pytest.fixture
def clock() -> FakeClock:
    """Return a clock that the test sets forward."""
    return FakeClock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return where a shared memory may come to be."""
    return tmp_path / "state" / "health.json"


@pytest.fixture(params=["memory", "file"])
def store(request: pytest.FixtureRequest, clock: FakeClock, path: Path) -> Store:
    """Return each kind of store."""
    return (
        MemoryStore(clock.monotonic)
        if request.param == "memory"
        else FileStore(path, now=clock.wall)
    )


@pytest.fixture
def health(store: Store) -> Health:
    """Return a health of 30 s cooldowns at the first failure."""
    return Health(store, cooldown=30.0, threshold=1)


def before_and_after_a_cooldown(health: Health, clock: FakeClock) -> tuple[Permit, Permit]:
    """A call that turns to "a" a second before its cooldown ends, and the probe after that."""
    health.failed(health.visit(KEYS))
    clock.pass_(29.0)
    early = health.visit([A])
    clock.pass_(1.0)
    return early, health.visit(KEYS)


def order(health: Health) -> list[str]:
    """In what order a call would turn to the providers, if none of them answered."""
    left, found = list(KEYS), []
    while left:
        visit = health.visit(left)
        health.left(visit)
        found.append(left.pop(visit.index)().server)
    return found


class TestCooldown:
    def test_one_that_failed_is_put_last(self, health: Health, clock: FakeClock) -> None:
        """For its cooldown a provider comes after the others, then in its place again."""
        health.failed(health.visit(KEYS))
        assert order(health) == ["b", "c", "a"]
        clock.pass_(29.9)
        assert order(health) == ["b", "c", "a"]
        clock.pass_(0.1)
        assert order(health) == ["a", "b", "c"]

    def test_all_cooling(self, health: Health, clock: FakeClock) -> None:
        """When every provider cools down, the one that is due first is tried first."""
        for key, wait in (("b", 5.0), ("a", 5.0), ("c", 5.0)):
            health.failed(health.visit([named(key)]))
            clock.pass_(wait)
        assert order(health) == ["b", "a", "c"]

    def test_success_forgets(self, health: Health, clock: FakeClock) -> None:
        """A success clears the failures, the cooldown and its growth."""
        for _ in range(3):
            health.failed(health.visit([A]))
            clock.pass_(600.0)
        health.succeeded(health.visit([A]))
        assert health.store.read() == {}
        health.failed(health.visit([A]))
        assert health.condition(A()).cooling == 30.0

    def test_a_failed_probe_doubles(self, health: Health, clock: FakeClock) -> None:
        """Each probe that fails doubles the cooldown, up to ten minutes."""
        cooldowns = []
        for _ in range(7):
            visit = health.visit([A])
            health.failed(visit)
            cooldowns.append(health.condition(A()).cooling)
            clock.pass_(cooldowns[-1])
        assert cooldowns == [30.0, 60.0, 120.0, 240.0, 480.0, 600.0, 600.0]

    def test_a_longer_cooldown_than_ten_minutes(self, store: Store, clock: FakeClock) -> None:
        """A cooldown that the caller wants longer stays as long as he wants it."""
        health = Health(store, cooldown=3600.0, threshold=1)
        for _ in range(2):
            health.failed(health.visit([A]))
            assert health.condition(A()).cooling == 3600.0
            clock.pass_(3600.0)

    def test_threshold(self, store: Store) -> None:
        """With a threshold, so many failures in a row come before the cooldown."""
        health = Health(store, cooldown=30.0, threshold=3)
        health.failed(health.visit(KEYS))
        health.failed(health.visit(KEYS))
        assert [health.visit(KEYS).key().server for _ in range(2)] == ["a", "a"]
        assert str(health.condition(A())) == "2 failed in a row"
        health.succeeded(health.visit(KEYS))
        for _ in range(3):
            assert order(health)[0] == "a"
            health.failed(health.visit(KEYS))
        assert order(health)[0] == "b"

    def test_retry_after_needs_no_threshold(self, store: Store, clock: FakeClock) -> None:
        """A rest that a service asks for counts at once, for as long as it asks."""
        health = Health(store, cooldown=30.0, threshold=3)
        health.failed(health.visit(KEYS), retry_after=100.0)
        clock.pass_(99.0)
        assert order(health)[0] == "b"
        clock.pass_(1.0)
        assert order(health)[0] == "a"

    def test_no_cooldown(self, store: Store, clock: FakeClock) -> None:
        """A cooldown of 0 switches it off, but not what a service asks for."""
        health = Health(store, cooldown=0.0, threshold=1)
        health.failed(health.visit(KEYS))
        assert order(health)[0] == "a"
        assert str(health.condition(A())) == "well"
        health.failed(health.visit(KEYS), retry_after=0.5)
        assert order(health)[0] == "b"

    def test_no_cooldown_where_others_have_one(self, store: Store, clock: FakeClock) -> None:
        """Who has switched it off does not lengthen what another one in the same memory began."""
        other = Health(store, cooldown=30.0, threshold=1)
        other.failed(other.visit(KEYS))
        clock.pass_(30.0)
        health = Health(store, cooldown=0.0, threshold=1)
        health.failed(health.visit(KEYS), retry_after=1.0)
        assert health.condition(A()).cooling == 1.0

    def test_a_short_cooldown(self, store: Store, clock: FakeClock) -> None:
        """A cooldown of less than a second is one, too."""
        health = Health(store, cooldown=0.5, threshold=1)
        health.failed(health.visit(KEYS))
        assert order(health)[0] == "b"
        clock.pass_(0.5)
        assert order(health)[0] == "a"

    def test_calls_that_fail_for_the_same_reason(self, health: Health) -> None:
        """Calls that were under way when a provider went down lengthen its cooldown once."""
        visits = [health.visit([A]) for _ in range(16)]
        for visit in visits:
            health.failed(visit)
        assert health.condition(A()) == Condition(failures=1, cooling=30.0)

    def test_late_news(self, health: Health, clock: FakeClock) -> None:
        """A success of a call that began before the failure does not end the cooldown."""
        early = health.visit([A])
        clock.pass_(1.0)
        health.failed(health.visit([A]))
        health.succeeded(early)
        assert health.condition(A()).cooling == 30.0

    def test_news_between_two_failures(self, store: Store, clock: FakeClock) -> None:
        """It is the last failure that a success has to be fresher than."""
        health = Health(store, cooldown=30.0, threshold=2)
        health.failed(health.visit([A]))
        clock.pass_(1.0)
        between = health.visit([A])
        clock.pass_(1.0)
        health.failed(health.visit([A]))
        health.succeeded(between)
        assert health.condition(A()).cooling == 30.0

    def test_success_while_all_cool(self, health: Health, clock: FakeClock) -> None:
        """A provider that answers in its cooldown, since nobody else was left, is well again."""
        for key in ("b", "a"):
            health.failed(health.visit([named(key)]))
            clock.pass_(1.0)
        visit = health.visit([A, B])
        assert (visit.key().server, visit.probes) == ("b", frozenset())
        health.succeeded(visit)
        assert str(health.condition(B())) == "well"

    def test_conditions(self, health: Health, clock: FakeClock) -> None:
        """The state of a provider reads in a word or two."""
        assert str(health.condition(A())) == "well"
        health.failed(health.visit([A]))
        clock.pass_(10.0)
        assert str(health.condition(A())) == "cooling, 20 s"
        clock.pass_(19.25)
        assert str(health.condition(A())) == "cooling, 1 s"
        clock.pass_(0.75)
        health.visit([A])
        assert str(health.condition(A())) == "being probed"


class TestProbe:
    def test_one_caller_probes(self, health: Health, clock: FakeClock) -> None:
        """After the cooldown one caller gets the provider first, the others pass it by."""
        health.failed(health.visit(KEYS))
        clock.pass_(30.0)
        probe = health.visit(KEYS)
        assert (probe.key().server, probe.probes) == ("a", {"a"})
        assert [health.visit(KEYS).key().server for _ in range(5)] == ["b"] * 5
        health.succeeded(probe)
        assert health.visit(KEYS).key().server == "a"

    def test_sixteen_callers_one_probe(self, health: Health, clock: FakeClock) -> None:
        """Of sixteen threads that come at once exactly one probes."""
        health.failed(health.visit(KEYS))
        clock.pass_(30.0)
        together = threading.Barrier(16)

        def visit(_: int) -> str:
            together.wait()
            return health.visit(KEYS).key().server

        with ThreadPoolExecutor(16) as pool:
            assert sorted(pool.map(visit, range(16))) == ["a"] + ["b"] * 15

    def test_a_probe_that_tells_nothing(self, health: Health, clock: FakeClock) -> None:
        """A probing call that is closed before it knows gives the probe to the next caller."""
        health.failed(health.visit(KEYS))
        clock.pass_(30.0)
        probe, other = health.visit(KEYS), health.visit(KEYS)
        health.left(other)
        assert health.visit(KEYS).key().server == "b"
        health.left(probe)
        assert health.visit(KEYS).key().server == "a"

    def test_a_probe_that_never_ends(self, health: Health, clock: FakeClock) -> None:
        """A caller that died while it probed holds the others up for two minutes, not longer."""
        health.failed(health.visit(KEYS))
        clock.pass_(30.0)
        health.visit(KEYS)
        clock.pass_(119.0)
        assert health.visit(KEYS).key().server == "b"
        clock.pass_(1.0)
        assert health.visit(KEYS).key().server == "a"

    def test_a_probe_that_fails_at_once(self, health: Health, clock: FakeClock) -> None:
        """The next probe comes after the longer cooldown, whatever was granted to the last one."""
        health.failed(health.visit(KEYS))
        clock.pass_(30.0)
        health.failed(health.visit(KEYS))
        clock.pass_(60.0)
        assert health.visit(KEYS).probes

    def test_a_probe_that_is_no_longer_news(self, health: Health, clock: FakeClock) -> None:
        """A probe that succeeds after a rest was asked for leaves the rest, and the next probe."""
        early, probe = before_and_after_a_cooldown(health, clock)
        clock.pass_(1.0)
        health.failed(early, retry_after=5.0)
        health.succeeded(probe)
        assert health.condition(A()).cooling == 5.0
        assert health.visit(KEYS).key().server == "b"
        clock.pass_(5.0)
        assert health.visit(KEYS).probes

    def test_a_probe_that_fails_in_a_rest(self, health: Health, clock: FakeClock) -> None:
        """A probe that fails after a rest was asked for leaves the next probe to another."""
        early, probe = before_and_after_a_cooldown(health, clock)
        health.failed(early, retry_after=5.0)
        health.failed(probe, retry_after=10.0)
        assert health.condition(A()).cooling == 10.0
        clock.pass_(10.0)
        assert health.visit(KEYS).probes

    def test_a_failure_beside_a_probe(self, health: Health, clock: FakeClock) -> None:
        """A call that had nobody else to turn to and fails leaves the probe to who makes it."""
        health.failed(health.visit([A]))
        clock.pass_(30.0)
        probe, beside = health.visit([A]), health.visit([A])
        health.failed(beside)
        clock.pass_(60.0)
        assert not health.visit([A]).probes
        health.left(probe)
        assert health.visit([A]).probes

    def test_a_failed_probe_without_a_cooldown(self, store: Store, clock: FakeClock) -> None:
        """Where cooldowns are switched off, a failed probe holds nobody up either."""
        health = Health(store, cooldown=0.0, threshold=1)
        health.failed(health.visit(KEYS), retry_after=20.0)
        clock.pass_(20.0)
        health.failed(health.visit(KEYS))
        assert health.visit(KEYS).key().server == "a"

    def test_a_probe_that_is_closed_late(self, clock: FakeClock) -> None:
        """A stream that had its whole reply, and is closed long after, leaves a later probe."""
        first = Actor(DOWN, GOOD, DOWN, GOOD, name="first")
        client = FailoverClient([first, Actor(GOOD, name="good")], attempts=1, clock=clock)
        client.complete("Why?")
        clock.pass_(30.0)
        whole = client.stream("Why?")
        assert [next(whole) for _ in range(2)] == ["It scatters.", ""]
        client.complete("Why?")
        clock.pass_(30.0)
        probing = client.stream("Why?")
        next(probing)
        whole.close()
        assert client.complete("Why?").provider == "good"
        probing.close()

    def test_only_who_needs_it_probes(self, clock: FakeClock) -> None:
        """A call that is answered before its turn comes to the provider does not hold its probe."""
        first, second = Actor(GOOD, name="first"), Actor(DOWN, GOOD, name="second")
        client = FailoverClient([first, second], attempts=1, clock=clock)
        FailoverClient.complete(client, "Why?")
        health = client._settings.health
        health.failed(health.visit([client._targets[1].health_key]))
        clock.pass_(30.0)
        client.complete("Why?")
        assert not client.report().providers[1].condition.probed


class TestInCalls:
    @pytest.mark.parametrize("where", ["memory", "file"])
    def test_a_dead_first_provider_is_asked_once(
        self, clock: FakeClock, path: Path, where: str
    ) -> None:
        """The first call finds out; the next hundred do not ask it again."""
        dead, good = Actor(DOWN, name="dead"), Actor(GOOD, name="good")
        client = FailoverClient(
            [dead, good], attempts=2, clock=clock, health=path if where == "file" else None
        )
        for _ in range(100):
            assert client.complete("Why?").provider == "good"
        assert dead.tries == 2

    @pytest.mark.parametrize("where", ["memory", "file"])
    def test_success_in_its_place_again(self, clock: FakeClock, path: Path, where: str) -> None:
        """After its cooldown a provider that works again gets its place back."""
        first, good = Actor(DOWN, GOOD, name="first"), Actor(GOOD, name="good")
        client = FailoverClient(
            [first, good], attempts=1, clock=clock, health=path if where == "file" else None
        )
        assert client.complete("Why?").provider == "good"
        clock.pass_(30.0)
        assert [client.complete("Why?").provider for _ in range(2)] == ["first", "first"]

    def test_cooling_never_makes_a_call_fail(self, clock: FakeClock) -> None:
        """When all cool down, they are tried all the same."""
        a, b = Actor(DOWN, DOWN, GOOD, name="a"), Actor(DOWN, name="b")
        client = FailoverClient([a, b], attempts=1, clock=clock)
        for _ in range(2):
            with pytest.raises(AllProvidersFailed):
                client.complete("Why?")
        assert client.complete("Why?").provider == "a"

    @pytest.mark.parametrize(
        "error",
        [
            MissingAuthError("no key"),
            InvalidRequestError("bad", status_code=400),
            RefusedError("no"),
            RejectedReplyError("no"),
        ],
    )
    def test_the_callers_own_doing(self, clock: FakeClock, error: LLMError) -> None:
        """What lies in the request or the caller does not count against a provider."""
        first, good = Actor([error], name="first"), Actor(GOOD, name="good")
        client = FailoverClient([first, good], attempts=1, clock=clock)
        for _ in range(2):
            client.complete("Why?")
        assert first.tries == 2
        assert str(client.report().providers[0].condition) == "well"

    def test_the_callers_own_deadline(self, clock: FakeClock) -> None:
        """A deadline that was too short says nothing about the provider."""
        slow = Actor([5.0, *GOOD], name="slow")
        client = FailoverClient([slow], deadline=1.0, clock=clock)
        with pytest.raises(DeadlineExceeded):
            client.complete("Why?")
        assert str(client.report().providers[0].condition) == "well"

    def test_two_keys_of_one_service(self, clock: FakeClock) -> None:
        """Two members that differ in nothing but their key are well or ill each for itself."""
        refused = [AuthenticationError("no", status_code=401)]
        first, second = Actor(refused, name="same"), Actor(GOOD, name="same")
        client = FailoverClient([first, second], clock=clock)
        for _ in range(3):
            client.complete("Why?")
        assert (first.tries, second.tries) == (1, 3)

    def test_retry_after_cools_for_as_long(self, clock: FakeClock) -> None:
        """A rest longer than is worth waiting for goes to the next provider at once."""
        busy = Actor([RateLimitError("busy", retry_after=300.0)], GOOD, name="busy")
        client = FailoverClient([busy, Actor(GOOD, name="good")], clock=clock)
        assert client.complete("Why?").provider == "good"
        assert clock.slept == []
        clock.pass_(299.0)
        assert client.complete("Why?").provider == "good"
        clock.pass_(1.0)
        assert client.complete("Why?").provider == "busy"


class Bank:
    """A server that knows one key, and answers every other one with an error.

    Args:
        status: the error's status.
        headers: its headers.
    """

    def __init__(self, status: int, headers: Mapping[str, str] | None = None) -> None:
        self.status = status
        self.headers = headers or {}
        self.is_down = False

    def __call__(self, conn: Connection) -> None:
        """Answer one request."""
        request = conn.read_request()
        headers = {"Connection": "close"}
        if self.is_down:
            conn.run(http_response(503, headers, b"{}"))
        elif request.header("Authorization") == f"Bearer {KEY}":
            headers["Content-Type"] = "text/event-stream"
            conn.run(http_response(200, headers, WHOLE))
        else:
            conn.run(http_response(self.status, {**headers, **self.headers}, b"{}"))


class TestCredentials:
    @pytest.fixture
    def job(self, path: Path, clock: FakeClock) -> Callable[..., FailoverClient]:
        """Return what makes the client of one more job, with a key of its own."""

        def make(server: RawServer, key: object) -> FailoverClient:
            bank = OpenAICompatible(
                base_url=f"{server.url}/v1",
                api_key=key,  # type: ignore[arg-type]
                name="bank",
            )
            providers = [bank, Actor(GOOD, name="other")]
            return FailoverClient(providers, attempts=1, clock=clock, health=path)

        return make

    @pytest.mark.parametrize("status", [401, 402, 403, 429])
    @pytest.mark.parametrize("headers", [{}, {"Retry-After": "604800"}], ids=["", "a week"])
    def test_another_jobs_key(
        self,
        job: Callable[..., FailoverClient],
        raw_server: RawServerFactory,
        status: int,
        headers: dict[str, str],
    ) -> None:
        """A key that is refused, spent or too busy puts the service last for that key alone."""
        server = raw_server(Bank(status, headers))
        with job(server, "sk-revoked") as bad, job(server, KEY) as good:
            assert [bad.complete("Why?").provider for _ in range(2)] == ["other"] * 2
            assert len(server.requests) == 1
            assert [good.complete("Why?").provider for _ in range(2)] == ["bank"] * 2
            assert bad.complete("Why?").provider == "other"
            assert len(server.requests) == 3
            assert bad.report().providers[0].condition.cooling > 0
            assert good.report().providers[0].condition == Condition()

    def test_two_keys_in_one_client(self, raw_server: RawServerFactory, clock: FakeClock) -> None:
        """Two members with a key each share their server's failures and not each other's."""
        bank = Bank(401)
        server = raw_server(bank)
        two = [
            OpenAICompatible(base_url=f"{server.url}/v1", api_key=key, name="bank")
            for key in ("sk-revoked", KEY)
        ]
        with FailoverClient([*two, Actor(GOOD, name="o")], attempts=1, clock=clock) as client:
            assert [len(client.complete("Why?").attempts) for _ in range(2)] == [2, 1]
            clock.pass_(30.0)
            bank.is_down = True
            assert [client.complete("Why?").provider for _ in range(2)] == ["o", "o"]
            assert len(server.requests) == 4

    def test_a_server_that_is_down(
        self, job: Callable[..., FailoverClient], raw_server: RawServerFactory, clock: FakeClock
    ) -> None:
        """What the server fails with puts it last for every key, and one success ends that."""
        bank = Bank(401)
        bank.is_down = True
        server = raw_server(bank)
        with job(server, KEY) as one, job(server, "sk-another") as other:
            assert one.complete("Why?").provider == "other"
            assert other.complete("Why?").provider == "other"
            assert len(server.requests) == 1
            bank.is_down = False
            clock.pass_(30.0)
            assert one.complete("Why?").provider == "bank"
            assert other.report().providers[0].condition == Condition()

    def test_a_renewed_key(
        self, job: Callable[..., FailoverClient], raw_server: RawServerFactory, tmp_path: Path
    ) -> None:
        """A key that was renewed in its file counts at once, whatever the old one did."""
        file = tmp_path / "the.key"
        file.write_text("sk-revoked")
        with job(raw_server(Bank(429, {"Retry-After": "604800"})), KeyFile(str(file))) as client:
            assert [client.complete("Why?").provider for _ in range(2)] == ["other"] * 2
            file.write_text(KEY)
            assert client.complete("Why?").provider == "bank"

    def test_what_is_kept(
        self, job: Callable[..., FailoverClient], raw_server: RawServerFactory, path: Path
    ) -> None:
        """A credential's record has the beginning of a hash in its name, and nothing of the key."""
        server = raw_server(Bank(401))
        with job(server, "sk-revoked") as client:
            client.complete("Why?")
        (record,) = entries(path)
        assert re.fullmatch(rf"bank\|{re.escape(server.url)}/v1\|\|[0-9a-f]{{16}}", record)
        assert "revoked" not in path.read_text()

    def test_a_servers_probe_with_a_bad_key(self, health: Health, clock: FakeClock) -> None:
        """A probe of a server that ends with a refused key leaves the probe to the next caller."""
        mine, other = named("a", "a|mine"), named("a", "a|other")
        health.failed(health.visit([mine]))
        clock.pass_(30.0)
        probe = health.visit([other, B])
        assert probe.probes == {"a"}
        health.failed(probe, "credential")
        assert health.visit([other, B]).index == 1
        assert health.visit([mine, B]).probes == {"a"}

    def test_both_records(self, health: Health, clock: FakeClock) -> None:
        """A provider cools down as long as either of its records does, and is probed for both."""
        mine = named("a", "a|mine")
        visits = [health.visit([mine]) for _ in range(2)]
        health.failed(visits[0], "credential", retry_after=50.0)
        health.failed(visits[1])
        assert health.condition(mine()).cooling == 50.0
        clock.pass_(30.0)
        assert health.visit([mine, B]).index == 1
        clock.pass_(20.0)
        probe = health.visit([mine, B])
        assert probe.probes == {"a", "a|mine"}
        assert str(health.condition(mine())) == "being probed"
        assert health.visit([mine, B]).index == 1
        health.succeeded(probe)
        assert health.store.read() == {}

    def test_a_rest_of_more_than_a_week(self, health: Health, clock: FakeClock) -> None:
        """No rest is kept for longer than a week, whatever an error says."""
        health.failed(health.visit([A]), retry_after=1e9)
        assert health.condition(A()).cooling == 7 * 24 * 3600.0


class TestKeys:
    @pytest.mark.parametrize(
        ("address", "model", "key"),
        [
            ("http://127.0.0.1:1/v1", None, "name|http://127.0.0.1:1/v1|own"),
            ("http://127.0.0.1:1/v1", "other", "name|http://127.0.0.1:1/v1|other"),
            ("http://me:pass@word@127.0.0.1:1/v1?key=k", None, "name|http://127.0.0.1:1/v1|own"),
        ],
    )
    def test_a_providers(self, address: str, model: str | None, key: str) -> None:
        """Its name, its address without what is secret in it, and the model asked for."""
        provider = OpenAICompatible(base_url=address, name="name", model="own")
        assert server_of(provider, model) == key

    def test_a_clients(self, path: Path) -> None:
        """A client inside another one is remembered by its name and by what is in it."""

        def record(*members: str) -> HealthKey:
            inside = FailoverClient([Actor(GOOD, name=member) for member in members], name="pair")
            return FailoverClient([inside], health=path)._targets[0].health_key()

        assert record("a", "b") == record("a", "b")
        assert record("a", "b") != record("a", "c")
        assert record("a").server == record("a").credential
        assert record("a").server.startswith("pair|||")

    @pytest.mark.parametrize(
        ("provider", "other"),
        [
            (OpenAICompatible(api_key=KEY), OpenAICompatible(api_key="sk-another")),
            (
                OpenAICompatible(api_key=KEY, base_url="http://127.0.0.1:1/v1"),
                OpenAICompatible(api_key=KEY, base_url="http://127.0.0.1:2/v1"),
            ),
            (GigaChat(api_key=KEY), GigaChat(api_key=OTHER_KEY)),
            (GigaChat(api_key=KEY), GigaChat(api_key=KEY, scope="GIGACHAT_API_CORP")),
            (GigaChat(access_token=KEY), GigaChat(access_token="another")),
            (GigaChat(access_token=KEY), GigaChat()),
        ],
        ids=["key", "address", "authorization key", "scope", "token", "none"],
    )
    def test_a_credentials(self, provider: Provider, other: Provider) -> None:
        """Each credential at each address has a digest of its own, which does not show it."""
        digest = provider.credential_digest()
        assert digest is not None
        assert len(digest) == 64
        assert KEY not in digest
        assert digest == provider.credential_digest() != other.credential_digest()

    @pytest.mark.parametrize("provider", [ChatGLM(), ChatGptt(), FlowGpt(), GigaChat()], ids=repr)
    def test_no_credential(self, provider: Provider) -> None:
        """Where there is no credential, there is one record, the server's."""
        assert provider.credential_digest() is None
        key = FailoverClient([provider])._targets[0].health_key()
        assert key.records == (server_of(provider, None),)

    def test_a_key_that_is_gone(self, tmp_path: Path) -> None:
        """A key file that is not there is the call's failure, not its health's."""
        gone = OpenAICompatible(api_key=KeyFile(str(tmp_path / "gone")), name="gone")  # type: ignore[arg-type]
        client = FailoverClient([gone, Actor(GOOD, name="good")], attempts=1)
        client._settings.health.failed(client._settings.health.visit([B]))
        assert client.complete("Why?").provider == "good"
        assert client.report().providers[0].condition == Condition()


def entries(path: Path) -> dict[str, Any]:
    """What a health file holds."""
    found: dict[str, Any] = json.loads(path.read_text())["providers"]
    return found


class TestFile:
    @pytest.fixture
    def shared(self, path: Path, clock: FakeClock) -> Callable[[], Health]:
        """Return what makes a health like that of one more process."""
        return lambda: Health(FileStore(path, now=clock.wall), cooldown=30.0, threshold=1)

    def test_processes_share_it(self, shared: Callable[[], Health], clock: FakeClock) -> None:
        """What one process learns all know, and one of them probes for all."""
        one, other = shared(), shared()
        one.failed(one.visit(KEYS))
        assert other.visit(KEYS).key().server == "b"
        clock.pass_(30.0)
        assert other.visit(KEYS).probes
        assert one.visit(KEYS).key().server == "b"

    def test_a_new_process_knows(self, path: Path) -> None:
        """A process that starts later does not ask a provider that is known to be down."""
        code = """if True:
            import sys
            sys.path.insert(0, sys.argv[2])
            from llmproviders import FailoverClient
            from tests.support.actors import Actor
            from llmproviders import ServerError
            dead, good = Actor([ServerError("down")], name="dead"), Actor(["ok"], name="good")
            reply = FailoverClient([dead, good], attempts=1, health=sys.argv[1]).complete("Why?")
            print(reply.provider, dead.tries)
        """
        root = str(Path(__file__).parents[2])
        runs = [
            subprocess.run(
                [sys.executable, "-c", code, str(path), root], capture_output=True, text=True
            )
            for _ in range(2)
        ]
        assert [run.stderr for run in runs] == ["", ""]
        assert [run.stdout.split() for run in runs] == [["good", "1"], ["good", "0"]]

    def test_one_of_many_processes_probes(self, path: Path, raw_server: RawServerFactory) -> None:
        """Of processes that call at once after a cooldown exactly one asks the sick provider."""
        sick = raw_server([Pause(0.5), *http_response(503, {}, b"{}")])
        provider = OpenAICompatible(base_url=f"{sick.url}/v1", model="m", name="sick")
        client = FailoverClient([provider], attempts=1, cooldown=0.01, health=path)
        with client, pytest.raises(AllProvidersFailed):
            client.complete("Why?")
        code = """if True:
            import sys
            sys.path.insert(0, sys.argv[3])
            from llmproviders import FailoverClient, OpenAICompatible
            from llmproviders.failover import _health as _health_file
            from tests.support.actors import Actor
            _health_file._LOCK_PATIENCE_S = 10.0
            sick = OpenAICompatible(base_url=sys.argv[2] + "/v1", model="m", name="sick")
            client = FailoverClient([sick, Actor(["ok"])], attempts=1, health=sys.argv[1])
            print("ready", flush=True)
            sys.stdin.readline()
            print(len(client.complete("Why?").attempts))
        """
        command = [sys.executable, "-c", code, str(path), sick.url, str(Path(__file__).parents[2])]
        running = [
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            for _ in range(4)
        ]
        ready = [process.stdout and process.stdout.readline() for process in running]
        tries = [process.communicate("go\n")[0].strip() for process in running]
        assert (ready, sorted(tries)) == (["ready\n"] * 4, ["1", "1", "1", "2"])
        assert len(sick.requests) == 2

    def test_nobody_else_may_read_it(self, shared: Callable[[], Health], path: Path) -> None:
        """The file and its lock are the user's alone, and so is a folder made for them."""
        health = shared()
        health.failed(health.visit(KEYS))
        assert path.stat().st_mode & 0o777 == 0o600
        assert path.with_name("health.json.lock").stat().st_mode & 0o777 == 0o600
        assert path.parent.stat().st_mode & 0o777 == 0o700
        assert sorted(p.name for p in path.parent.iterdir()) == ["health.json", "health.json.lock"]

    def test_no_secret_and_no_prompt(self, path: Path) -> None:
        """It names providers, addresses and models; no key, no password, no text."""
        provider = OpenAICompatible(
            base_url="http://user:hunter22@127.0.0.1:9/v1?key=s3cret99", api_key="sk-hush-hush"
        )
        client = FailoverClient([(provider, "m")], attempts=1, health=path)
        with pytest.raises(AllProvidersFailed):
            client.complete("a prompt about rosebuds")
        assert list(entries(path)) == ["OpenAICompatible|http://127.0.0.1:9/v1|m"]
        assert not any(
            word in path.read_text() for word in ("hunter22", "s3cret99", "hush", "rosebud")
        )

    def test_many_of_one_kind(self, path: Path) -> None:
        """Members with one name, address and model are numbered, alike in every process."""
        same = [Actor(DOWN, name="same") for _ in range(3)]
        with pytest.raises(AllProvidersFailed):
            FailoverClient(same, attempts=1, health=path).complete("Why?")
        key = "same|stage://here|"
        assert sorted(entries(path)) == [key, f"{key}#2", f"{key}#3"]

    def test_a_healthy_call_does_not_write(self, shared: Callable[[], Health], path: Path) -> None:
        """As long as nothing fails, the file is not even made."""
        health = shared()
        health.succeeded(health.visit(KEYS))
        assert not path.parent.exists()

    def test_it_is_read_once(
        self, shared: Callable[[], Health], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A file that nobody changed is not read again."""
        one, other = shared(), shared()
        one.failed(one.visit(KEYS))
        reads: list[Path] = []
        read = files.read_private

        def counting(path: Path) -> bytes:
            reads.append(path)
            return read(path)

        monkeypatch.setattr("llmproviders.failover._health.read_private", counting)
        assert [other.visit(KEYS).key().server for _ in range(5)] == ["b"] * 5
        assert len(reads) == 1

    @pytest.mark.parametrize(
        "content",
        [
            b"",
            b'{"version": 0, "providers": {"a": 1}}',
            b'{"version": 1, "providers": {"a": 1, "b": {"failures": 1}}}',
            b'{"version": 2, "providers": {"a": 1, "b": {"failures": 1}}}',
            SHARED % b'"failures": 1, "at": 1e9, "until": 1e300, "cooldown": 0, "probe_until": 0',
            SHARED % b'"failures": 1, "at": NaN, "until": Infinity, "cooldown": -1',
            SHARED % b'"failures": "1", "at": 1, "until": 2, "cooldown": 0, "probe_until": 0',
        ],
    )
    def test_corrupt(self, shared: Callable[[], Health], path: Path, content: bytes) -> None:
        """Whatever is in one of ours, calls go on, and the next failure makes it whole again."""
        path.parent.mkdir()
        path.write_bytes(content)
        path.chmod(0o600)
        health = shared()
        visit = health.visit(KEYS)
        assert visit.key().server == "a"
        health.failed(visit)
        assert list(entries(path)) == ["a"]
        assert shared().visit(KEYS).key().server == "b"

    @pytest.mark.parametrize(
        "content",
        [
            b"{",
            b"\xff\xfe",
            b"[]",
            b"null",
            b'{"version": 99, "providers": {"a": 1}}',
            b'{"version": "1", "providers": {}}',
            b'{"version": true, "providers": {}}',
            b'{"version": 1}',
            b'{"version": 1, "providers": []}',
            b'{"version": 1, "providers": {}, "more": 1}',
            b"[" * 100_000,
            b" " * 2_000_000,
        ],
    )
    def test_another_file_is_left_alone(
        self,
        shared: Callable[[], Health],
        path: Path,
        content: bytes,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        """What no version up to this one wrote stays, after one warning; memory goes on alone."""
        path.parent.mkdir()
        path.write_bytes(content)
        path.chmod(0o600)
        health = shared()
        health.failed(health.visit(KEYS))
        assert health.visit(KEYS).key().server == "b"
        assert path.read_bytes() == content
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        assert str(path) in caplog.text

    def test_random_bytes(self, shared: Callable[[], Health], path: Path) -> None:
        """No one byte of a good file, when it is another, makes a call fail."""
        health = shared()
        health.failed(health.visit(KEYS))
        good = path.read_bytes()
        for at in range(len(good)):
            path.write_bytes(good[:at] + b"\x00" + good[at + 1 :])
            shared().visit(KEYS)
            path.write_bytes(good[:at])
            shared().visit(KEYS)

    def test_a_clock_set_back(self, shared: Callable[[], Health], clock: FakeClock) -> None:
        """What the future is said to have seen is not believed."""
        health = shared()
        health.failed(health.visit(KEYS))
        clock.set_wall(clock.wall() - 7 * 24 * 3600)
        assert health.visit(KEYS).key().server == "a"
        health.failed(health.visit(KEYS))
        assert health.condition(A()).cooling == 30.0

    def test_the_clock_was_set_forward(
        self, shared: Callable[[], Health], clock: FakeClock
    ) -> None:
        """A cooldown that the clock has left behind is over."""
        health = shared()
        health.failed(health.visit(KEYS))
        clock.set_wall(clock.wall() + 365 * 24 * 3600)
        assert health.visit(KEYS).key().server == "a"

    def test_bounded(self, shared: Callable[[], Health], path: Path, clock: FakeClock) -> None:
        """The file keeps the 256 providers that failed last, and nothing that is long over."""
        health = shared()
        now = clock.wall()
        health.store.change(
            lambda troubles: troubles.update(
                {f"p{n}": FailureRecord(1, now - 300 + n, now + 30, 30.0) for n in range(300)}
            )
        )
        assert sorted(entries(path)) == sorted(f"p{n}" for n in range(44, 300))
        clock.pass_(24 * 3600.0)
        health.failed(health.visit([named("new")]))
        assert list(entries(path)) == ["new"]

    def test_clear(self, shared: Callable[[], Health], path: Path) -> None:
        """What was remembered can be forgotten at once."""
        health = shared()
        health.failed(health.visit(KEYS))
        FileStore(path).clear()
        assert entries(path) == {}
        assert health.visit(KEYS).key().server == "a"


class TestFileTrouble:
    @pytest.fixture
    def dead(self, path: Path, clock: FakeClock) -> Iterator[Callable[[], int]]:
        """Return what makes two calls past a dead provider and says how often it was asked."""

        def calls() -> int:
            dead = Actor(DOWN, name="dead")
            client = FailoverClient(
                [dead, Actor(GOOD, name="good")], attempts=1, clock=clock, health=path
            )
            assert [client.complete("Why?").provider for _ in range(2)] == ["good"] * 2
            return dead.tries

        return calls

    def test_the_disk_is_full(
        self,
        dead: Callable[[], int],
        path: Path,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        """What cannot be written is remembered by the process, and told once in the log."""

        def full(*_: object) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        caplog.set_level(logging.WARNING)
        monkeypatch.setattr(os, "replace", full)
        assert dead() == 1
        assert [p.name for p in path.parent.iterdir()] == ["health.json.lock"]
        told = [r.getMessage() for r in caplog.records if str(path) in r.getMessage()]
        assert len(told) == 1
        assert "No space left" in told[0]

    def test_the_path_is_a_folder(self, dead: Callable[[], int], path: Path) -> None:
        """A folder in the file's place does no harm."""
        path.mkdir(parents=True)
        assert dead() == 1

    def test_a_file_in_the_folders_place(self, dead: Callable[[], int], path: Path) -> None:
        """A folder that cannot be made does no harm."""
        path.parent.write_text("not a folder")
        assert dead() == 1

    def test_the_lock_is_held(self, dead: Callable[[], int], path: Path) -> None:
        """A lock that somebody holds for ever is waited for once, a tenth of a second."""
        path.parent.mkdir()
        with FileLock(f"{path}.lock"):
            assert dead() == 1
        assert not path.exists()

    def test_it_vanishes(self, dead: Callable[[], int], path: Path) -> None:
        """A file that was deleted is an empty memory."""
        assert dead() == 1
        path.unlink()
        assert dead() == 1

    def test_many_processes(self, path: Path) -> None:
        """Processes that write at the same time lose nothing of one another's."""
        code = """if True:
            import sys
            sys.path.insert(0, sys.argv[2])
            from llmproviders.failover import _health as _health_file
            from llmproviders.failover._health import FailureRecord
            _health_file._LOCK_PATIENCE_S = 10.0
            store = _health_file.FileStore(sys.argv[1])
            for n in range(10):
                new = {f"{sys.argv[3]}-{n}": FailureRecord(1, store.now())}
                store.change(lambda troubles: troubles.update(new))
        """
        root = str(Path(__file__).parents[2])
        running = [
            subprocess.Popen([sys.executable, "-c", code, str(path), root, str(number)])
            for number in range(4)
        ]
        assert [process.wait(60) for process in running] == [0] * 4
        assert len(entries(path)) == 40
