"""Retries are paid from a budget: an outage does not multiply the load, and replies fill it up."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import tenacity

from llmproviders import (
    AllProvidersFailed,
    FailoverClient,
    LLMError,
    ServerError,
    UnsupportedError,
)
from llmproviders.failover._target import LEAST_RETRIES_AHEAD, RetryBudget
from llmproviders.provider import Call, Fetch, Request
from tests.support.actors import Act, Actor, FakeClock

GOOD = ["It scatters."]


class Service(Actor):
    """Works or does not, whoever asks."""

    down = False

    def prepare(self, request: Request, fetch: Fetch) -> Call:
        """Choose the act."""
        call = super().prepare(request, fetch)
        self.acts = ([ServerError("down", status_code=503)],) if self.down else (GOOD,)
        return call


def client_of(*services: Service, attempts: int = 3) -> FailoverClient:
    """A client that waits for nothing."""
    wait = tenacity.wait_none()
    return FailoverClient(services, attempts=attempts, wait=wait, clock=FakeClock())


def fails(client: FailoverClient) -> None:
    """Ask in vain."""
    with pytest.raises(AllProvidersFailed):
        client.complete("Why?")


class TestAnOutage:
    def test_of_all_providers_under_16_threads(self) -> None:
        """Calls x providers + 100 retries of each is the most that is sent, whoever asks."""
        services = [Service(name=f"service {n}") for n in range(3)]
        for service in services:
            service.down = True
        client = client_of(*services)
        with ThreadPoolExecutor(16) as pool:
            list(pool.map(lambda _: fails(client), range(16 * 100)))
        assert [service.tries for service in services] == [1600 + LEAST_RETRIES_AHEAD] * 3

    def test_each_call_has_its_first_try(self) -> None:
        """An empty budget ends retries, not calls: each provider is still tried once."""
        broken, other = Service(name="broken"), Service(name="other")
        broken.down = True
        client = client_of(broken, other)
        for number in range(200):
            before = broken.tries
            assert client.complete("Why?").provider == "other"
            client._settings.health.store.change(dict.clear)
            if number >= LEAST_RETRIES_AHEAD:
                assert broken.tries == before + 1

    def test_one_provider_does_not_spend_anothers(self) -> None:
        """Each provider of a client has a budget of its own."""
        broken, other = Service(name="broken"), Service(name="other")
        broken.down = True
        alone = client_of(broken)
        both = client_of(broken, other)
        for _ in range(LEAST_RETRIES_AHEAD):
            fails(alone)
        before = broken.tries
        both.complete("Why?")
        assert broken.tries == before + 3


class TestRecovery:
    def test_replies_fill_it_up(self) -> None:
        """Five replies pay for one retry."""
        service = Service()
        service.down = True
        client = client_of(service)
        for _ in range(LEAST_RETRIES_AHEAD):
            fails(client)
        service.down = False
        for _ in range(10):
            client.complete("Why?")
        service.down = True
        before = service.tries
        fails(client)
        assert service.tries == before + 3
        fails(client)
        assert service.tries == before + 4

    def test_a_retry_that_helps_is_given_back(self) -> None:
        """Failures that a retry mends never empty it."""
        service = Actor([ServerError("down")], GOOD)
        client = FailoverClient([service], wait=tenacity.wait_none(), clock=FakeClock())
        for _ in range(3 * LEAST_RETRIES_AHEAD):
            service.requests.clear()
            assert str(client.complete("Why?")) == GOOD[0]

    def test_it_never_overflows(self) -> None:
        """However many replies came, a full budget is the most."""
        budget = RetryBudget(2)
        for _ in range(100):
            budget.give_back(3)
        assert [budget.take() for _ in range(3)] == [True, True, False]

    def test_many_attempts_of_one_call(self) -> None:
        """A client whose ``attempts`` are more than the budget has them all the same."""
        service = Service()
        service.down = True
        client = client_of(service, attempts=150)
        fails(client)
        assert service.tries == 150


class TestWhatAProviderCannotDo:
    @pytest.mark.parametrize("act", [[UnsupportedError("it takes no tools")]])
    def test_it_is_passed_over(self, act: Act) -> None:
        """It costs no wait, no retry and no cooldown, whatever ``retry`` says; an attempt tells."""
        clock = FakeClock()
        limited, able = Actor(act, name="limited"), Actor(GOOD, name="able")
        client = FailoverClient([limited, able], retry=tenacity.retry_always, clock=clock)
        reply = client.complete("Why?")
        assert (reply.provider, limited.tries, clock.slept) == ("able", 1, [])
        assert str(reply.attempts[0].error) == "it takes no tools"
        assert str(client.report().providers[0].condition) == "well"

    def test_found_before_any_attempt(self) -> None:
        """An error without an attempt of its own gets one, so that the caller sees the reason."""

        class Early(Actor):
            def generate(self, request: Request, scope: object = None) -> object:  # type: ignore[override]
                """Refuse."""
                raise UnsupportedError("it takes no tools")
                yield

        reply = FailoverClient([Early(name="limited"), Actor(GOOD)]).complete("Why?")
        first = reply.attempts[0]
        assert (first.provider, first.chunks) == ("limited", 0)
        assert isinstance(first.error, UnsupportedError)


def test_a_limit_of_the_callers_own_is_no_failure_of_the_service() -> None:
    """What the caller's own limit kept from being sent cools nothing down."""

    def spent() -> None:
        error = LLMError("spent", retry_after=50_000.0)
        error.limit = "per_day"
        raise error

    client = FailoverClient([Actor([spent]), Actor(GOOD)], clock=FakeClock())
    client.complete("Why?")
    assert str(client.report().providers[0].condition) == "well"
