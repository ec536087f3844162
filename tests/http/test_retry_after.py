"""How a service's wish to be left alone for a while is read, and what comes of it."""

from __future__ import annotations

import time
from email.utils import formatdate
from typing import Any

import pytest
import tenacity
from hypothesis import given
from hypothesis import strategies as st

from llmproviders import (
    AllProvidersFailed,
    FailoverClient,
    OpenAICompatible,
    RateLimitError,
    ServerError,
)
from llmproviders._http.error_map import parse_retry_after
from tests.conftest import RawServerFactory
from tests.support.actors import Actor, FakeClock
from tests.support.http_bytes import http_response

GOOD = ["It scatters."]
NOW = 1_700_000_000.0
DATE = formatdate(NOW, usegmt=True)


def busy(seconds: float) -> list[Any]:
    """An act: too many requests, come back in so many seconds."""
    return [RateLimitError("busy", status_code=429, retry_after=seconds)]


@pytest.fixture
def clock() -> FakeClock:
    """Return a clock that a sleep sets forward."""
    return FakeClock()


class TestParser:
    @pytest.mark.parametrize(
        ("headers", "seconds"),
        [
            ({}, None),
            ({"retry-after": "5"}, 5.0),
            ({"retry-after": " 5 "}, 5.0),
            ({"retry-after": "0"}, 0.0),
            ({"retry-after": "1.5"}, 1.5),
            ({"retry-after": "1."}, 1.0),
            ({"retry-after": "5s"}, 5.0),
            ({"retry-after": "1m30s"}, 90.0),
            ({"retry-after": "2023-11-14T22:13:50Z"}, 30.0),
            ({"retry-after": "2023-11-14T22:13:50Z", "date": DATE}, 30.0),
            ({"retry-after-ms": "1500"}, 1.5),
            ({"retry-after-ms": "20.5"}, 0.0205),
            ({"retry-after-ms": "1500", "retry-after": "9"}, 1.5),
            ({"retry-after-ms": "soon", "retry-after": "9"}, 9.0),
            ({"retry-after-ms": "-3", "retry-after": "9"}, 9.0),
            ({"retry-after": formatdate(NOW + 30, usegmt=True), "date": DATE}, 30.0),
            ({"retry-after": formatdate(NOW + 30, usegmt=True)}, 30.0),
            # The service's clock is an hour slow, and it says so itself.
            (
                {
                    "retry-after": formatdate(NOW - 3570, usegmt=True),
                    "date": formatdate(NOW - 3600, usegmt=True),
                },
                30.0,
            ),
            ({"retry-after": formatdate(NOW + 30, usegmt=True), "date": "today"}, 30.0),
            ({"retry-after": formatdate(NOW + 30)}, 30.0),
            ({"retry-after": formatdate(NOW + 30).removesuffix(" -0000")}, 30.0),
            ({"retry-after": "Tuesday, 14-Nov-23 22:13:50 GMT"}, 30.0),
            ({"retry-after": "Tue Nov 14 22:13:50 2023"}, 30.0),
            ({"retry-after": "Wed, 15 Nov 2023 01:13:50 +0300"}, 30.0),
            ({"retry-after": formatdate(NOW - 30, usegmt=True)}, None),
            ({"retry-after": str(7 * 24 * 3600)}, 7 * 24 * 3600.0),
            ({"retry-after": str(7 * 24 * 3600 + 1)}, 7 * 24 * 3600.0),
            ({"retry-after": "2592000"}, 7 * 24 * 3600.0),
            ({"retry-after": "99999999"}, None),
            ({"retry-after": "30, 30"}, 30.0),
            ({"retry-after": "5, 60"}, 60.0),
            ({"retry-after": f"5, {formatdate(NOW + 30, usegmt=True)}"}, 30.0),
            ({"retry-after": ", ".join([formatdate(NOW + 30, usegmt=True)] * 2)}, 30.0),
            *(
                ({"retry-after": nonsense}, None)
                for nonsense in (
                    "", " ", "soon", "-1", "+1", "nan", "inf", "1e3", "1_000", "0x10", "5x", ",",
                    "٥", "9" * 5000, "Tue, 99 Nov 2023 22:13:50 GMT", "1" + "0" * 400, "1.5.5",
                )
            ),
        ],
    )  # fmt: skip
    def test_forms(self, headers: dict[str, str], seconds: float | None) -> None:
        """Seconds, fractions, milliseconds and dates are read; nonsense is no wish at all."""
        found = parse_retry_after(headers, now=NOW)
        assert found == (seconds if seconds is None else pytest.approx(seconds))

    @pytest.mark.skipif(not hasattr(time, "tzset"), reason="the zone cannot be set here")
    def test_the_machines_zone_does_not_matter(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A date that names no zone is Universal Time wherever it is read."""
        with monkeypatch.context() as patch:
            patch.setenv("TZ", "XXX-9")
            time.tzset()
            found = parse_retry_after({"retry-after": "Tue Nov 14 22:13:50 2023"}, now=NOW)
        time.tzset()
        assert found == 30.0

    @given(st.text(max_size=40), st.text(max_size=40), st.text(max_size=40))
    def test_never_fails(self, seconds: str, milliseconds: str, date: str) -> None:
        """Whatever a service sends, the answer is a number of seconds within a week, or None."""
        headers = {"retry-after": seconds, "retry-after-ms": milliseconds, "date": date}
        found = parse_retry_after(headers, now=NOW)
        assert found is None or 0 <= found <= 7 * 24 * 3600

    @pytest.mark.parametrize(
        ("status", "headers", "seconds"),
        [
            (429, {"Retry-After": "5"}, 5.0),
            (429, {"RETRY-AFTER-MS": "250"}, 0.25),
            (503, {"retry-after": formatdate(NOW + 8, usegmt=True), "Date": DATE}, 8.0),
            (429, {"Retry-After": "whenever"}, None),
        ],
    )
    def test_from_the_wire(
        self,
        raw_server: RawServerFactory,
        status: int,
        headers: dict[str, str],
        seconds: float | None,
    ) -> None:
        """The error of a reply has what its headers ask for."""
        server = raw_server(http_response(status, headers, b"{}"))
        provider = OpenAICompatible(base_url=f"{server.url}/v1")
        with provider, pytest.raises((RateLimitError, ServerError)) as caught:
            provider.complete("Why?", model="m")
        assert caught.value.retry_after == seconds


class TestWaiting:
    def test_a_floor_with_jitter_above(self, clock: FakeClock) -> None:
        """The wait is at least what was asked for, and a little longer, never the same twice."""
        for _ in range(20):
            provider = Actor(busy(4.0), GOOD)
            FailoverClient([provider, Actor(GOOD)], clock=clock).complete("Why?")
        assert all(4.0 <= wait <= 4.4 for wait in clock.slept)
        assert len(set(clock.slept)) == 20

    def test_a_longer_wait_stays(self, clock: FakeClock) -> None:
        """A wait of the caller's that is longer than what was asked for is kept."""
        client = FailoverClient([Actor(busy(2.0), GOOD)], wait=tenacity.wait_fixed(7), clock=clock)
        client.complete("Why?")
        assert clock.slept == [7.0]

    def test_too_long_moves_on(self, clock: FakeClock) -> None:
        """More than max_retry_after is not waited for while another provider is left."""
        for most, expected in ((5.0, "second"), (5.9, "second"), (6.0, "first")):
            first = Actor(busy(6.0), GOOD, name="first")
            client = FailoverClient(
                [first, Actor(GOOD, name="second")], max_retry_after=most, clock=clock
            )
            assert client.complete("Why?").provider == expected
        assert len(clock.slept) == 1

    @pytest.mark.parametrize(("asked", "expected"), [(5.0, "first"), (5.1, "second")])
    def test_five_seconds_unless_told(self, clock: FakeClock, asked: float, expected: str) -> None:
        """Unless the caller says otherwise, five seconds are worth waiting for."""
        first = Actor(busy(asked), GOOD, name="first")
        client = FailoverClient([first, Actor(GOOD, name="second")], clock=clock)
        assert client.complete("Why?").provider == expected

    def test_what_was_not_asked_for_is_not_too_long(self, clock: FakeClock) -> None:
        """Who waits for no Retry-After still tries again after an error that has none."""
        first = Actor([ServerError("down")], GOOD, name="first")
        client = FailoverClient([first, Actor(GOOD)], max_retry_after=0, clock=clock)
        assert client.complete("Why?").provider == "first"

    def test_longer_than_the_deadline_leaves(self, clock: FakeClock) -> None:
        """A wait that the deadline would cut off is not begun; the provider rests for as long."""
        first = Actor(busy(4.0), name="first")
        client = FailoverClient([first, Actor(GOOD, name="second")], deadline=3.0, clock=clock)
        assert client.complete("Why?").provider == "second"
        assert clock.slept == []
        assert client.report().providers[0].condition.cooling == 30.0

    def test_cools_for_as_long_as_asked(self, clock: FakeClock) -> None:
        """The rest asked for is kept where it is longer than the cooldown, and without one."""
        for cooldown in (30.0, 0.0):
            client = FailoverClient(
                [Actor(busy(90.0)), Actor(GOOD)], cooldown=cooldown, clock=clock
            )
            client.complete("Why?")
            assert client.report().providers[0].condition.cooling == 90.0

    def test_the_last_is_waited_for(self, clock: FakeClock) -> None:
        """The last provider left is waited for up to a minute."""
        first, last = Actor(busy(60.0), name="first"), Actor(busy(60.0), GOOD, name="last")
        reply = FailoverClient([first, last], clock=clock).complete("Why?")
        assert (reply.provider, first.tries, last.tries) == ("last", 1, 2)
        assert 60.0 <= clock.slept[0] <= 61.0
        assert len(clock.slept) == 1

    def test_the_last_is_not_waited_for_longer(self, clock: FakeClock) -> None:
        """More than a minute ends the call at once, and the error says when to come back."""
        client = FailoverClient([Actor(busy(61.0))], clock=clock)
        with pytest.raises(AllProvidersFailed) as caught:
            client.complete("Why?")
        assert (clock.slept, caught.value.retry_after) == ([], 61.0)

    def test_the_last_does_not_sleep_in_vain(self, clock: FakeClock) -> None:
        """What the deadline does not leave time for ends the call at once."""
        client = FailoverClient([Actor(busy(20.0))], deadline=10.0, clock=clock)
        with pytest.raises(AllProvidersFailed) as caught:
            client.complete("Why?")
        assert clock.slept == []
        assert isinstance(caught.value.__cause__, RateLimitError)

    def test_all_cooling(self, clock: FakeClock) -> None:
        """When all rest, the one that is due first is tried first."""
        first, second = Actor(busy(90.0), GOOD, name="a"), Actor(busy(70.0), GOOD, name="b")
        client = FailoverClient([first, second], clock=clock)
        with pytest.raises(AllProvidersFailed):
            client.complete("Why?")
        assert client.complete("Why?").provider == "b"
        assert clock.slept == []
