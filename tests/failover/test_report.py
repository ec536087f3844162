"""What a client says about its providers when it is asked."""

from __future__ import annotations

import gc
import json
import pickle
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest
import tenacity

from llmproviders import (
    AllProvidersFailed,
    AuthenticationError,
    FailoverClient,
    RateLimitError,
    ServerError,
    StreamInterrupted,
)
from llmproviders.failover._report import ProviderReport, Report
from tests.support.actors import Actor, FakeClock

GOOD = ["It ", "scatters."]
DOWN = [ServerError("down", status_code=503)]


@pytest.fixture
def clock() -> FakeClock:
    """Return a clock that a sleep sets forward."""
    return FakeClock()


def record_of(client: FailoverClient, index: int = 0) -> ProviderReport:
    """One provider's record."""
    return client.report().providers[index]


def test_before_any_call() -> None:
    """A client that was not used yet has a row of zeros for each provider, in order."""
    client = FailoverClient([Actor(name="a"), (Actor(name="b"), "large")], name="pair")
    report = client.report()
    assert (report.client, report.recent) == ("pair", ())
    assert [(p.provider, p.model, p.calls) for p in report.providers] == [
        ("a", None, 0),
        ("b", "large", 0),
    ]
    assert str(report).splitlines() == [
        "provider   calls  tries  whole  failed  waited  first text  p95  health",
        "a              0      0      0  0        0.0 s           -    -  well",
        "b (large)      0      0      0  0        0.0 s           -    -  well",
    ]


def test_sums(clock: FakeClock) -> None:
    """Calls, tries, successes, failures by class and waits are counted for each provider."""
    busy = [RateLimitError("busy", retry_after=2.0)]
    first = Actor(GOOD, DOWN, busy, GOOD, DOWN, name="first")
    client = FailoverClient(
        [first, Actor(GOOD, name="second")],
        wait=tenacity.wait_fixed(1),
        cooldown=0,
        clock=clock,
    )
    for _ in range(3):
        client.complete("Why?")
    record, other = client.report().providers
    assert (record.calls, record.tries, record.successes) == (3, 7, 2)
    assert record.failures == {"ServerError": 4, "RateLimitError": 1}
    assert record.waited == pytest.approx(sum(clock.slept))
    assert (other.calls, other.tries, other.successes, other.failures) == (1, 1, 1, {})


def test_time_to_first_text(clock: FakeClock) -> None:
    """The median and the 95th percentile are those of the tries that had text."""
    seconds = [float(n) for n in range(1, 21)]
    actor = Actor(*([s, "text", 100.0] for s in seconds), [500.0, *DOWN])
    client = FailoverClient([actor], attempts=1, clock=clock)
    for _ in seconds:
        client.complete("Why?")
    with pytest.raises(AllProvidersFailed):
        client.complete("Why?")
    record = record_of(client)
    assert (record.first_text_median, record.first_text_p95) == (10.0, 19.0)


def test_failures_after_text_count_as_such(clock: FakeClock) -> None:
    """A reply that broke had its first text, and is a failure."""
    actor = Actor([1.0, "It ", StreamInterrupted("cut")], GOOD)
    client = FailoverClient([actor], clock=clock)
    client.complete("Why?")
    record = record_of(client)
    assert (record.failures, record.successes) == ({"StreamInterrupted": 1}, 1)
    assert record.first_text_p95 == 1.0


def test_health(clock: FakeClock) -> None:
    """The state of each provider's health is the one of now."""
    client = FailoverClient([Actor(DOWN, name="a"), Actor(GOOD)], attempts=1, clock=clock)
    client.complete("Why?")
    assert str(record_of(client).condition) == "cooling, 30 s"
    clock.pass_(12.0)
    assert record_of(client).condition.cooling == 18.0
    assert "cooling, 18 s" in str(client.report())


def test_a_client_inside(clock: FakeClock) -> None:
    """A client inside is one row, with those of its own providers below."""
    inner = FailoverClient(
        [Actor(DOWN, name="a"), Actor(DOWN, name="b")], attempts=1, name="inner", clock=clock
    )
    client = FailoverClient([inner, Actor(GOOD, name="c")], attempts=1, clock=clock)
    client.complete("Why?")
    record = record_of(client)
    assert (record.calls, record.tries) == (1, 1)
    assert record.failures == {"AllProvidersFailed": 1}
    assert [(p.provider, p.failures) for p in record.inside] == [
        ("a", {"ServerError": 1}),
        ("b", {"ServerError": 1}),
    ]
    names = [line.split("  ")[0] or line.split()[0] for line in str(client.report()).splitlines()]
    assert names == ["provider", "inner", "a", "b", "c"]


def test_recent_attempts(clock: FakeClock) -> None:
    """The last hundred attempts are there as they were, with what their errors said."""
    client = FailoverClient(
        [Actor([AuthenticationError("no", status_code=401)], name="a"), Actor(GOOD, name="b")],
        cooldown=0,
        clock=clock,
    )
    replies = [client.complete("Why?") for _ in range(60)]
    recent = client.report().recent
    assert len(recent) == 100
    assert recent[-1] == replies[-1].attempts[-1]
    error = recent[-2].error
    assert isinstance(error, AuthenticationError)
    assert (str(error), error.status_code, error.provider) == ("no", 401, "a")


def test_keeps_no_text_and_no_frames(clock: FakeClock) -> None:
    """What is remembered holds neither a reply's text nor what a traceback holds on to."""

    class Thing:
        pass

    things: list[weakref.ref[Thing]] = []

    def fail() -> None:
        thing = Thing()
        things.append(weakref.ref(thing))
        raise StreamInterrupted("cut")

    client = FailoverClient([Actor(["rosebud", fail], GOOD)], clock=clock)
    client.complete("Why?")
    gc.collect()
    assert things[0]() is None
    assert "rosebud" not in str(client.report().as_dict())
    assert client.report().recent[0].error is not None
    assert client.report().recent[0].error.partial_text == ""


def test_an_error_of_a_users_own(clock: FakeClock) -> None:
    """An error class that wants arguments of its own is remembered like any other."""

    class MeterError(ServerError):
        def __init__(self, *, meter: int) -> None:
            super().__init__(f"meter {meter} is full", status_code=503)

    def fail() -> None:
        raise MeterError(meter=7)

    client = FailoverClient([Actor([fail]), Actor(GOOD)], attempts=1, clock=clock)
    client.complete("Why?")
    error = client.report().recent[0].error
    assert isinstance(error, MeterError)
    assert (str(error), error.status_code) == ("meter 7 is full", 503)


def test_as_dict(clock: FakeClock) -> None:
    """The report is plain data for a log or a file, and it pickles."""
    client = FailoverClient([Actor(DOWN, name="a"), Actor(GOOD)], attempts=1, clock=clock)
    client.complete("Why?")
    report = client.report()
    data = json.loads(json.dumps(report.as_dict()))
    assert data["providers"][0]["failures"] == {"ServerError": 1}
    assert data["providers"][0]["health"] == "cooling, 30 s"
    assert data["recent"][0]["error"]["type"] == "ServerError"
    again: Report = pickle.loads(pickle.dumps(report))
    assert str(again) == str(report)


def test_sixteen_threads() -> None:
    """Nothing is counted twice or lost, however many threads call."""
    client = FailoverClient(
        [Actor(*[DOWN] * 40, GOOD, name="a"), Actor(GOOD, name="b")],
        attempts=2,
        wait=tenacity.wait_none(),
        cooldown=0,
    )
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda _: client.complete("Why?"), range(200)))
    first, second = client.report().providers
    assert first.calls == 200
    assert first.successes + second.successes == 200
    assert first.tries == first.successes + first.failures.get("ServerError", 0)


def test_an_abandoned_call(clock: FakeClock) -> None:
    """A stream that its caller closed is a call that neither succeeded nor failed."""
    client = FailoverClient([Actor(GOOD)], clock=clock)
    stream = client.stream("Why?")
    next(stream)
    stream.close()
    record = record_of(client)
    assert (record.calls, record.tries, record.failures) == (1, 0, {})
