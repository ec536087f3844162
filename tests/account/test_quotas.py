"""Limits by the minute and by the day, and the counts of what was used."""

from __future__ import annotations

import os
import resource
import sqlite3
import stat
import subprocess
import sys
import tempfile
import threading
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from datetime import date, datetime, timedelta, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import llmproviders
from llmproviders import (
    Attempt,
    ConnectionFailed,
    DeadlineExceeded,
    EmptyReplyError,
    FailoverClient,
    FinishReason,
    InvalidRequestError,
    OpenAICompatible,
    ProviderTimeout,
    QuotaExceededError,
    ServerError,
    Usage,
)
from llmproviders._account import ledger as ledgers
from llmproviders._account.quotas import DEFAULT_MAX_TOKENS, Limit, estimate
from llmproviders._account.usage import DailyUsage, UsageTable
from llmproviders._environment import usage_file
from llmproviders._runtime.scope import CancelScope
from llmproviders.provider import Call, Fetch, Request
from llmproviders.sandbox import Sandbox
from tests.support.actors import Act, Actor, FakeClock
from tests.support.processes import Child, in_child

ROOT = Path(__file__).parents[2]
SVG = "{http://www.w3.org/2000/svg}"
NOON = 1_700_000_000.0 // 86400 * 86400 + 12 * 3600
GOOD: Act = ["It scatters."]
NOBODY = 65534


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Put the user's state folder into a folder of this test; returns the file of usage."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.delenv("LLMPROVIDERS_USAGE", raising=False)
    yield usage_file()
    ledgers.ledger().close()


@pytest.fixture
def clock() -> FakeClock:
    """A clock that stands at noon, UTC."""
    return FakeClock(wall=NOON)


def told(total: int) -> FinishReason:
    """The end of a reply whose service counts tokens."""
    half = total // 2
    return FinishReason(
        usage=Usage(prompt_tokens=half, completion_tokens=total - half, total_tokens=total)
    )


def client_of(provider: Actor, clock: FakeClock, **arguments: Any) -> FailoverClient:
    """A client that tries once, by a clock that nobody waits for."""
    return FailoverClient([provider], attempts=1, clock=clock, **arguments)


def spent(client: FailoverClient) -> QuotaExceededError:
    """Ask in vain; returns why the first provider was passed over."""
    with pytest.raises(llmproviders.AllProvidersFailed) as failed:
        client.complete("Why?")
    error = failed.value.attempts[0].error
    assert isinstance(error, QuotaExceededError)
    return error


class Narrow(Actor):
    """A service that answers one request of a key at a time."""

    max_concurrency = 1


class TestADay:
    def test_it_is_spent_after_so_many_requests(self, clock: FakeClock) -> None:
        """Beyond the limit nothing is sent, and the error tells how long until midnight UTC."""
        provider = Actor(GOOD, per_day=3)
        client = client_of(provider, clock)
        for _ in range(3):
            client.complete("Why?")
        error = spent(client)
        assert (provider.tries, error.retry_after, error.retryable) == (3, 12 * 3600, False)
        assert error.limit == "per_day"
        assert "3 of 3 requests" in str(error)
        assert "12 h 00 min" in str(error)

    def test_a_new_day_begins_at_midnight_utc(self, clock: FakeClock) -> None:
        """Yesterday's requests do not count."""
        client = client_of(Actor(GOOD, per_day=1), clock)
        client.complete("Why?")
        spent(client)
        clock.pass_(12 * 3600)
        client.complete("Why?")
        spent(client)

    def test_a_plain_provider(self) -> None:
        """Without a FailoverClient it is the same error."""
        provider = Actor(GOOD, per_day=1)
        provider.complete("Why?")
        with pytest.raises(QuotaExceededError, match="nothing was sent"):
            provider.complete("Why?")

    def test_a_client_moves_on(self, clock: FakeClock) -> None:
        """The next provider is asked without a wait; the spent one is tried again tomorrow."""
        first, second = Actor(GOOD, name="first", per_day=1), Actor(GOOD, name="second")
        client = FailoverClient([first, second], clock=clock)
        names = [client.complete("Why?").provider for _ in range(4)]
        assert names == ["first", "second", "second", "second"]
        assert (clock.slept, first.tries) == ([], 1)
        assert str(client.report().providers[0].condition) == "well"
        clock.pass_(12 * 3600)
        assert client.complete("Why?").provider == "first"

    def test_tokens_are_settled_by_the_replys_usage(self, clock: FakeClock) -> None:
        """What is reserved before a request is replaced by what the service counted."""
        provider = Actor(["Hi", told(40)], per_day={"tokens": 100})
        client = client_of(provider, clock)
        for _ in range(3):
            client.complete("Why?")
        assert "120 of 100 tokens" in str(spent(client))

    @pytest.mark.parametrize(
        ("usage", "counted"),
        [
            (Usage(3, 4, 9), (3, 4, 9)),
            (Usage(3, 4), (3, 4, 7)),
            (Usage(total_tokens=9), (0, 0, 9)),
            (Usage(0, 0), (0, 0, 0)),
        ],
    )
    def test_a_service_that_tells_a_part_of_it(
        self, clock: FakeClock, usage: Usage, counted: tuple[int, int, int]
    ) -> None:
        """Without a total, the tokens of prompt and reply are added up."""
        clock.set_wall(datetime.now(timezone.utc).timestamp())
        total = counted[2]
        client = client_of(Actor(["Hi", FinishReason(usage=usage)], per_day={"tokens": 18}), clock)
        client.complete("Why?")
        (row,) = llmproviders.usage()
        assert (row.prompt_tokens, row.completion_tokens, row.total_tokens) == counted
        client_of(Actor(GOOD, per_day={"tokens": total + 1}), clock).complete("Why?")
        spent(client)

    @pytest.mark.parametrize("usage", [Usage(3), Usage(None, 4), Usage(cached_tokens=1)])
    def test_a_service_that_tells_too_little(self, clock: FakeClock, usage: Usage) -> None:
        """What does not make a total leaves what was reserved."""
        clock.set_wall(datetime.now(timezone.utc).timestamp())
        client = client_of(Actor(["Hi", FinishReason(usage=usage)], per_day={"tokens": 10}), clock)
        client.complete("Why?", max_tokens=9)
        assert "10 of 10 tokens" in str(spent(client))
        (row,) = llmproviders.usage()
        assert row.prompt_tokens == (usage.prompt_tokens or 0)
        assert row.completion_tokens == (usage.completion_tokens or 0)
        assert row.total_tokens == 0

    def test_a_reply_without_usage_settles_at_what_was_reserved(self, clock: FakeClock) -> None:
        """The prompt's bytes / 3 and max_tokens are what such a reply counts for."""
        client = client_of(Actor(GOOD, per_day={"tokens": 100}), clock)
        client.complete("Q" * 60, max_tokens=79)
        client.complete("Q" * 3, max_tokens=1)
        assert "101 of 100 tokens" in str(spent(client))

    def test_a_day_begins_with_all_its_tokens(self, clock: FakeClock) -> None:
        """Any limit of tokens leaves room for a first request."""
        client = client_of(Actor(GOOD, per_day={"tokens": 1}), clock)
        client.complete("Why?")
        spent(client)

    def test_tokens_are_passed_by_one_reply_at_most(self, clock: FakeClock) -> None:
        """Requests under way count with their reservation, so that only one passes the limit."""
        started, finish = threading.Barrier(2), threading.Event()

        def hold() -> None:
            started.wait(10)
            assert finish.wait(10)

        slow = Actor([hold, "Hi", told(3)], per_day={"tokens": 1000})
        with ThreadPoolExecutor(1) as pool:
            reply = pool.submit(client_of(slow, clock).complete, "Why?")
            started.wait(10)
            spent(client_of(Actor(GOOD, per_day={"tokens": 1000}), clock))
            finish.set()
            reply.result()
        client_of(Actor(GOOD, per_day={"tokens": 1000}), clock).complete("Why?")

    def test_a_stream_that_is_closed_early_counts(self, clock: FakeClock) -> None:
        """What was read of it was paid for; the estimate stays, and nothing failed."""
        client = client_of(Actor(GOOD, per_day=1), clock)
        clock.set_wall(datetime.now(timezone.utc).timestamp())
        stream = client.stream("Why?")
        assert next(stream) == GOOD[0]
        stream.close()
        spent(client)
        assert [(u.requests, u.failures) for u in llmproviders.usage()] == [(1, 0)]

    def test_what_fails_before_it_is_sent_is_given_back(self, clock: FakeClock) -> None:
        """A request that prepare could not make costs nothing of the day."""

        class Unready(Actor):
            def prepare(self, request: Request, fetch: Fetch) -> Call:
                """Fail as a token service does."""
                raise ServerError("the token service is down", status_code=503)

        with pytest.raises(llmproviders.AllProvidersFailed):
            client_of(Unready(per_day=1), clock).complete("Why?")
        client = client_of(Actor(GOOD, per_day=1), clock)
        client.complete("Why?")
        spent(client)

    def test_a_failed_try_counts(self, clock: FakeClock) -> None:
        """A request that was sent counts, whatever became of it."""
        provider = Actor([ServerError("down", status_code=503)], per_day=2)
        client = FailoverClient([provider], attempts=3, clock=clock)
        with pytest.raises(llmproviders.AllProvidersFailed):
            client.complete("Why?")
        assert provider.tries == 2

    def test_a_request_that_never_left_is_given_back(self) -> None:
        """A refused connection costs nothing of the day."""
        provider = OpenAICompatible(base_url="http://127.0.0.1:9/v1", api_key="k", per_day=1)
        for _ in range(3):
            with pytest.raises(ConnectionFailed):
                provider.complete("Why?")
        assert llmproviders.usage() == ()

    def test_one_that_was_sent_is_not(self) -> None:
        """A service that fails has had the request."""
        with Sandbox() as sandbox:
            arguments = sandbox.provider_arguments("openai_compatible")
            provider = OpenAICompatible(**arguments, per_day=1)
            sandbox.fail("openai_compatible", status=503)
            with pytest.raises(ServerError):
                provider.complete("Why?")
            with pytest.raises(QuotaExceededError):
                provider.complete("Why?")
            provider.close()

    def test_only_chats_count(self) -> None:
        """Lists of models and embeddings are not limited; a chat is."""
        with Sandbox() as sandbox:
            arguments = sandbox.provider_arguments("openai_compatible")
            with OpenAICompatible(**arguments, per_day=1) as provider:
                provider.list_models()
                provider.embed(["sky"], model="small")
                provider.complete("Why?")
                provider.embed(["sea"], model="small")
                with pytest.raises(QuotaExceededError):
                    provider.complete("Why?")

    @pytest.mark.parametrize("ask", ["complete", "stream"])
    def test_it_does_not_wait_for_a_slot(self, clock: FakeClock, ask: str) -> None:
        """A spent day is told at once, though all slots of the key are taken."""
        provider = Narrow(GOOD, per_day=1)
        client = client_of(provider, clock)
        held = client.stream("Why?")
        next(held)

        def ask_elsewhere() -> None:
            with pytest.raises(llmproviders.AllProvidersFailed) as failed:
                "".join(getattr(client, ask)("Why?", deadline=5))
            assert isinstance(failed.value.attempts[0].error, QuotaExceededError)

        with ThreadPoolExecutor(1) as pool:
            pool.submit(ask_elsewhere).result()
        assert clock.slept == []
        held.close()

    def test_each_credential_has_its_own(self, clock: FakeClock) -> None:
        """Two keys of one service do not share a limit; two clients with one key do."""
        with Sandbox() as sandbox:
            address = sandbox.provider_arguments("openai_compatible")["base_url"]

            def ask(key: str) -> None:
                provider = OpenAICompatible(base_url=address, api_key=key, per_day=1)
                # The service refuses both keys: the requests were sent.
                with provider, suppress(llmproviders.AuthenticationError):
                    provider.complete("Why?")

            ask("one-key-of-a-user")
            ask("another-key-of-a-user")
            with pytest.raises(QuotaExceededError):
                ask("one-key-of-a-user")


class TestAMinute:
    def test_it_waits_its_turn(self, clock: FakeClock) -> None:
        """The request beyond the limit goes when the first of them is a minute old."""
        client = client_of(Actor(GOOD, per_minute=2), clock)
        client.complete("Why?")
        clock.pass_(20)
        for _ in range(3):
            reply = client.complete("Why?")
        assert clock.slept == pytest.approx([40.0, 20.0])
        (attempt,) = reply.attempts
        assert (attempt.waited, attempt.duration) == (pytest.approx(20.0), 0.0)

    def test_less_than_a_second(self, clock: FakeClock) -> None:
        """Its turn is waited for however soon it comes."""
        client = client_of(Actor(GOOD, per_minute=1), clock)
        client.complete("Why?")
        clock.pass_(59.75)
        client.complete("Why?")
        assert clock.slept == pytest.approx([0.25])

    def test_another_one_that_goes_first(self) -> None:
        """Who waited, and finds that others took the turn, waits again; both waits are told."""

        class Crowded(FakeClock):
            def sleep(self, seconds: float, wake: threading.Event | None = None) -> None:
                """Let time pass, at the end of which another one asks, the first time."""
                super().sleep(seconds, wake)
                if len(self.slept) == 1:
                    client_of(Actor(GOOD, per_day=9), self).complete("Why?")

        clock = Crowded(wall=NOON)
        client = client_of(Actor(GOOD, per_minute=1), clock)
        client.complete("Why?")
        (attempt,) = client.complete("Why?").attempts
        assert clock.slept == pytest.approx([60.0, 60.0])
        assert attempt.waited == pytest.approx(120.0)

    def test_providers_of_one_key_share_it(self, clock: FakeClock) -> None:
        """Also the requests of one that has no limit by the minute, but another."""
        client_of(Actor(GOOD, per_day=9), clock).complete("Why?")
        client_of(Actor(GOOD, per_minute=1), clock).complete("Why?")
        assert clock.slept == [60.0]

    def test_a_reply_that_comes_late_settles_its_own_request(self, clock: FakeClock) -> None:
        """After more than a minute, it leaves what was reserved for others as it is."""

        def ask_meanwhile() -> None:
            clock.pass_(70)
            with pytest.raises(llmproviders.AllProvidersFailed):
                client_of(Actor([ServerError("down")], per_minute=1), clock).complete("Why?")

        slow = Actor([ask_meanwhile, "Hi", told(3)], per_minute={"tokens": 100})
        client_of(slow, clock).complete("Why?")
        client_of(Actor(GOOD, per_minute={"tokens": 100}), clock).complete("Why?")
        assert clock.slept == [60.0]

    def test_within_the_deadline(self, clock: FakeClock) -> None:
        """A turn that comes too late is an error at once, before anything is sent."""
        provider = Actor(GOOD, per_minute=1)
        client = client_of(provider, clock, deadline=30.0)
        client.complete("Why?")
        with pytest.raises(llmproviders.AllProvidersFailed) as failed:
            client.complete("Why?")
        error = failed.value.attempts[0].error
        assert isinstance(error, DeadlineExceeded)
        assert (provider.tries, clock.slept, error.retry_after) == (1, [], 60.0)
        assert (error.retryable, error.limit) == (False, "per_minute")
        assert "in 60.0 s, but only 30.0 s are left; nothing was sent" in str(error)

    def test_a_client_moves_on(self, clock: FakeClock) -> None:
        """Where the turn comes too late, the next provider is asked at once."""
        first, second = Actor(GOOD, name="first", per_minute=1), Actor(GOOD, name="second")
        client = FailoverClient([first, second], clock=clock, deadline=30.0)
        assert [client.complete("Why?").provider for _ in range(2)] == ["first", "second"]
        assert str(client.report().providers[0].condition) == "well"

    def test_tokens(self, clock: FakeClock) -> None:
        """Tokens of the last minute hold the next request back, too."""
        client = client_of(Actor(["Hi", told(80)], per_minute={"tokens": 100}), clock)
        for _ in range(3):
            client.complete("Why?")
        assert clock.slept == [60.0]

    def test_within_the_time_for_a_first_text(self, clock: FakeClock) -> None:
        """A turn that comes after ``first_chunk_timeout`` is a timeout, not the call's deadline."""
        client = client_of(Actor(GOOD, per_minute=1), clock, first_chunk_timeout=30.0)
        client.complete("Why?")
        with pytest.raises(llmproviders.AllProvidersFailed) as failed:
            client.complete("Why?")
        error = failed.value.attempts[0].error
        assert type(error) is ProviderTimeout
        assert (clock.slept, error.limit, error.retryable) == ([], "per_minute", False)

    def test_a_turn_that_comes_just_too_late(self, clock: FakeClock) -> None:
        """A turn at the moment of the deadline is too late; a moment before it, it is not."""
        for left, is_late in ((60.0, True), (60.5, False), (0.25, True)):
            provider = Actor(GOOD, per_minute=1, base_url=f"http://{left}")
            client = client_of(provider, clock)
            client.complete("Why?")
            if is_late:
                with pytest.raises(llmproviders.AllProvidersFailed) as failed:
                    client.complete("Why?", deadline=left)
                words = f"in 60.0 s, but only {left:.1f} s are left"
                assert words in str(failed.value.attempts[0].error)
            else:
                assert client.complete("Why?", deadline=left).text == GOOD[0]

    def test_tokens_of_several_requests(self, clock: FakeClock) -> None:
        """The wait ends with the first request without whose tokens there is room."""
        client = client_of(Actor(["Hi", told(60)], per_minute={"tokens": 100}), clock)
        client.complete("Why?")
        clock.pass_(10)
        client.complete("Why?")
        clock.pass_(10)
        client.complete("Why?")
        assert clock.slept == pytest.approx([40.0])

    def test_a_limit_that_is_lower_than_what_was_sent(self, clock: FakeClock) -> None:
        """Another limit of the same credential waits until so many of its requests are old."""
        many = client_of(Actor(GOOD, per_minute=9), clock)
        for _ in range(3):
            many.complete("Why?")
            clock.pass_(10)
        client_of(Actor(GOOD, per_minute=2), clock).complete("Why?")
        assert clock.slept == pytest.approx([40.0])

    @pytest.mark.parametrize("jump", [-86400.0, -3600.0, -1.0])
    def test_a_clock_that_is_set_back(self, clock: FakeClock, jump: float) -> None:
        """Requests from the future count as sent just now: no wait is longer than a minute."""
        client = client_of(Actor(GOOD, per_minute=1), clock)
        client.complete("Why?")
        clock.set_wall(NOON + jump)
        client.complete("Why?")
        assert clock.slept == [60.0]

    def test_a_clock_that_was_far_ahead(self, clock: FakeClock) -> None:
        """What was counted today still counts when a clock that was far ahead is set right."""
        client = client_of(Actor(GOOD, per_day=2), clock)
        client.complete("Why?")
        clock.set_wall(NOON + 400 * 86400)
        client.complete("Why?")
        clock.set_wall(NOON)
        client.complete("Why?")
        spent(client)


class TestArguments:
    @pytest.mark.parametrize(
        "value", [0, -1, 1.5, "30", True, {}, {"request": 3}, {"tokens": 0}, {"requests": None}]
    )
    def test_what_is_no_limit(self, value: Any) -> None:
        """A limit that is none is found when the provider is made, and the argument is named."""
        for argument in ("per_day", "per_minute"):
            with pytest.raises(InvalidRequestError, match=f"^{argument}"):
                Actor(**{argument: value})

    def test_what_is_one(self) -> None:
        """A number is one of requests; a dict has one of requests, one of tokens, or both."""
        for given, limit in (
            (None, None),
            (5, Limit(requests=5)),
            ({"requests": 5}, Limit(requests=5)),
            ({"tokens": 9}, Limit(tokens=9)),
            ({"tokens": 9, "requests": 5}, Limit(5, 9)),
        ):
            assert Limit.of("per_day", given) == limit
        with pytest.raises(InvalidRequestError, match=r"per_day\['tokens'\] must be a whole num"):
            Limit.of("per_day", {"tokens": 0})
        with pytest.raises(InvalidRequestError, match=r"^per_day must be .*, not \{'calls': 3\}$"):
            Limit.of("per_day", {"calls": 3})

    def test_a_limit_of_both(self) -> None:
        """Whichever is reached first counts."""
        limit = Limit.of("per_day", {"requests": 2, "tokens": 10})
        assert limit is not None
        assert [limit.is_spent(*used) for used in [(1, 9), (2, 0), (0, 10)]] == [False, True, True]

    def test_the_estimate(self) -> None:
        """A third of the prompt's UTF-8 bytes and what the reply may have; 1,024 if not given."""
        messages = [{"role": "user", "content": "Ъ" * 30}]
        assert estimate(messages, {"max_tokens": 5}) == 25  # type: ignore[arg-type]
        assert estimate(messages, {}) == 20 + DEFAULT_MAX_TOKENS  # type: ignore[arg-type]
        for most, counted in (
            ("5", DEFAULT_MAX_TOKENS),
            (-1, DEFAULT_MAX_TOKENS),
            (0, 0),
            (10**9, 10**9),
            (10**9 + 1, DEFAULT_MAX_TOKENS),
        ):
            assert estimate(messages, {"max_tokens": most}) == 20 + counted  # type: ignore[arg-type]
            assert estimate(messages, {"max_completion_tokens": most}) == 20 + counted  # type: ignore[arg-type]

    @pytest.mark.parametrize(
        ("content", "tokens"),
        [
            ([{"type": "text", "text": "Ъ" * 3}, {"type": "text", "text": "abc"}], 3),
            (({"type": "text", "text": "abcde"},), 1),
            ([{"type": "image_url", "image_url": {"url": "data:..."}}], 0),
            (["abc", 7, {"text": "def"}], 1),
            ("a\ud800", 1),
            (None, 0),
        ],
    )
    def test_the_estimate_of_parts(self, content: Any, tokens: int) -> None:
        """The text of each part counts, and whatever else a message may have does not."""
        messages: list[Any] = [{"role": "user", "content": content}, {"role": "assistant"}]
        assert estimate(messages, {"max_tokens": 1}) == tokens + 1

    def test_making_one_touches_no_file(self, state: Path) -> None:
        """The file is made with the first request, not with the provider."""
        Actor(per_day=3)
        assert not state.exists()


class TestUsage:
    def test_by_day_provider_and_model(self, clock: FakeClock) -> None:
        """Requests, failures and tokens are told for each day, provider and model."""
        today = datetime.now(timezone.utc)
        clock.set_wall((today - timedelta(days=1)).timestamp())
        ended = Actor(["Hi", told(40)], [ServerError("down")], name="first", per_day=9)
        client = client_of(ended, clock)
        client.complete("Why?")
        with pytest.raises(llmproviders.AllProvidersFailed):
            client.complete("Why?")
        clock.set_wall(today.timestamp())
        other = Actor(["Hi", told(8)], name="second", per_day=9)
        client_of(other, clock).complete("Why?", model="large")
        used = llmproviders.usage()
        assert [(u.provider, u.model, u.requests, u.failures, u.total_tokens) for u in used] == [
            ("first", "actor", 2, 1, 40),
            ("second", "large", 1, 0, 8),
        ]
        assert used[1].day == today.date()
        assert llmproviders.usage(since=today.date()) == used[1:]
        assert llmproviders.usage(since=today.date().isoformat()) == used[1:]
        assert used.as_dicts()[0]["day"] == (today.date() - timedelta(days=1)).isoformat()

    def test_tokens_of_a_reply_of_no_use(self) -> None:
        """What the service told before the reply failed is counted, as a failure."""
        with pytest.raises(EmptyReplyError):
            Actor([told(40)], per_day=9).complete("Why?")
        (row,) = llmproviders.usage()
        assert (row.requests, row.failures, row.total_tokens) == (1, 1, 40)

    def test_names_of_models(self, clock: FakeClock) -> None:
        """A model counts under its own name, be it asked for by an alias, here or by default."""

        class Aliased(Actor):
            model_aliases = {"short": "long-name", "actor": "actor-1"}

        clock.set_wall(datetime.now(timezone.utc).timestamp())
        for model in (None, "short", "other"):
            provider = Aliased(GOOD, per_day=9, model=model)
            client_of(provider, clock).complete("Why?")
            client_of(provider, clock).complete("Why?", model="long-name")
        assert [(u.model, u.requests) for u in llmproviders.usage()] == [
            ("actor-1", 1),
            ("long-name", 4),
            ("other", 1),
        ]

    def test_it_prints_as_a_table(self) -> None:
        """Names stand at the left of their columns, numbers at the right, in groups of three."""
        used = UsageTable(
            [
                DailyUsage(date(2026, 5, 1), "first", "m", 1234567, 2, 30, 10, 40),
                DailyUsage(date(2026, 5, 31), "a second one", "model-2", 1, 0, 0, 0, 1234),
            ]
        )
        table = [
            "day         provider      model     requests  failures  tokens",
            "2026-05-01  first         m        1,234,567         2      40",
            "2026-05-31  a second one  model-2          1         0   1,234",
        ]
        shown: list[str] = []
        used._repr_pretty_(SimpleNamespace(text=shown.append), False)
        assert str(used).splitlines() == table
        assert shown == [str(used)]

    def test_a_notebook_shows_it(self) -> None:
        """A chart of requests, one of tokens, a bar for each day that was used, and the table."""
        days = (date(2026, 5, 1), date(2026, 5, 1), date(2026, 5, 31))
        used = UsageTable(DailyUsage(day, "first", "<b>", 7, 2, 30, 10, 40) for day in days)
        page = ElementTree.fromstring(used._repr_html_())
        charts = page.findall(f"./{SVG}svg")
        assert [len(chart.findall(f"{SVG}g")) for chart in charts] == [2, 2]
        assert [chart.findtext(f"{SVG}desc") for chart in charts] == [
            "15 not failed, 6 failed",
            "120 tokens",
        ]
        assert [chart.findtext(f"{SVG}g/{SVG}title") for chart in charts] == [
            "2026-05-01: 10 + 4",
            "2026-05-01: 80",
        ]
        assert [cell.text for cell in page.findall(".//tr")[-1]] == [
            *("2026-05-31", "first", "<b>", "7", "2", "40")
        ]

    def test_a_notebook_shows_what_there_is(self) -> None:
        """Before anything was used there is no chart; without tokens there is none of them."""
        assert "<svg" not in UsageTable()._repr_html_()
        untold = DailyUsage(date(2026, 5, 1), "first", "m", 1, 1, 0, 0, 0)
        page = ElementTree.fromstring(UsageTable([untold])._repr_html_())
        (chart,) = page.findall(f"./{SVG}svg")
        assert chart.findtext(f"{SVG}desc") == "0 not failed, 1 failed"

    def test_a_notebook_shows_days_that_are_far_apart(self) -> None:
        """A day from a clock that was wrong leaves bars that can be seen."""
        days = (date(2026, 5, 1), date(2026, 5, 31), date(2037, 1, 1), date(9999, 12, 31))
        used = UsageTable(DailyUsage(day, "first", "m", 7, 2, 30, 10, 40) for day in days)
        page = ElementTree.fromstring(used._repr_html_())
        bars = page.findall(f"./{SVG}svg/{SVG}g/{SVG}rect")
        assert len(bars) == 4 * 2 + 4
        assert min(float(rect.attrib["width"]) for rect in bars) > 1

    def test_it_is_kept_for_90_days(self, clock: FakeClock) -> None:
        """Older counts are not told, and are deleted when a new day is counted."""
        now = datetime.now(timezone.utc)
        client = client_of(Actor(GOOD, per_day=9), clock)
        for days in (91, 90, 89, 1, 0):
            clock.set_wall((now - timedelta(days=days)).timestamp())
            client.complete("Why?")
        assert [(now.date() - u.day).days for u in llmproviders.usage()] == [89, 1, 0]
        rows = ledgers.ledger().read("SELECT count(*) FROM used")
        assert rows == [(3,)]

    def test_a_clock_that_was_far_ahead(self, clock: FakeClock) -> None:
        """Counts outlive a day on which the clock was years ahead."""
        now = datetime.now(timezone.utc)
        client = client_of(Actor(GOOD, per_day=9), clock)
        for days in (-30, 0, 4000, 0):
            clock.set_wall((now + timedelta(days=days)).timestamp())
            client.complete("Why?")
        assert [(u.day - now.date()).days for u in llmproviders.usage()] == [-30, 0, 4000]
        assert [u.requests for u in llmproviders.usage()] == [1, 2, 1]

    def test_it_is_bounded(self, clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> None:
        """However many models are asked for in a day, the file does not grow without end."""
        monkeypatch.setattr(ledgers, "_MOST_NAMES_A_DAY", 3)
        clock.set_wall(datetime.now(timezone.utc).timestamp())
        client = client_of(Actor(GOOD, per_day=99), clock)
        for number in range(6):
            client.complete("Why?", model=f"model-{number}" + "x" * 500)
        used = llmproviders.usage()
        assert sorted(u.requests for u in used) == [1, 1, 1, 3]
        assert max(len(u.model) for u in used) == 120

    def test_nothing_of_a_prompt_a_reply_or_a_key_is_kept(self, state: Path) -> None:
        """The files hold none of them."""
        with Sandbox() as sandbox:
            arguments = sandbox.provider_arguments("openai_compatible")
            with OpenAICompatible(**arguments, per_day=5) as provider:
                reply = provider.complete("A very private prompt")
        for file in state.parent.iterdir():
            data = file.read_bytes()
            for secret in ("private prompt", str(reply)[:20], arguments["api_key"]):
                assert secret.encode() not in data, file

    def test_without_limits_it_is_counted_on_request(
        self, state: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A provider without limits is counted where the environment says so, else not."""
        client_of(Actor(GOOD), clock).complete("Why?")
        for no in ("0", "", "false", "No"):
            monkeypatch.setenv("LLMPROVIDERS_USAGE", no)
            client_of(Actor(GOOD), clock).complete("Why?")
        assert not state.exists()
        monkeypatch.setenv("LLMPROVIDERS_USAGE", "1")
        clock.set_wall(datetime.now(timezone.utc).timestamp())
        client_of(Actor(GOOD), clock).complete("Why?")
        assert [u.requests for u in llmproviders.usage()] == [1]

    def test_nothing_was_counted_for_long(self, clock: FakeClock) -> None:
        """What is older than 90 days is not told, though it has not been deleted yet."""
        now = datetime.now(timezone.utc)
        client = client_of(Actor(GOOD, per_day=9), clock)
        for days in (90, 88):
            clock.set_wall((now - timedelta(days=days)).timestamp())
            client.complete("Why?")
        assert [(now.date() - u.day).days for u in llmproviders.usage()] == [88]

    @pytest.mark.skipif(not hasattr(time, "tzset"), reason="the zone cannot be set here")
    def test_a_moment_in_any_zone(self, clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> None:
        """The first day is that of the moment in UTC; without a zone, the one that is written."""
        yesterday = datetime.now(timezone.utc).date() - timedelta(days=1)
        midnight = datetime.combine(yesterday, datetime.min.time(), timezone.utc)
        client = client_of(Actor(GOOD, per_day=9), clock)
        for days in (0, 1):
            clock.set_wall((midnight + timedelta(days=days)).timestamp())
            client.complete("Why?")
        east, west = (timezone(timedelta(hours=hours)) for hours in (9, -9))
        moments = (
            (midnight + timedelta(hours=23)).astimezone(east),
            (midnight + timedelta(hours=25)).astimezone(west),
            datetime.combine(yesterday, datetime.max.time()),
            (midnight + timedelta(days=1)).replace(tzinfo=None),
        )
        with monkeypatch.context() as patch:
            patch.setenv("TZ", "XXX-9")
            time.tzset()
            told = [len(llmproviders.usage(since=since)) for since in moments]
        time.tzset()
        assert told == [2, 1, 2, 1]

    @pytest.mark.parametrize(
        ("since", "words"),
        [("yesterday", "not 'yesterday'"), (5, "not int"), ("2026-13-01", "not '2026-13-01'")],
    )
    def test_a_day_that_is_none(self, since: Any, words: str) -> None:
        """What is no date is an error that names the argument, and what was given."""
        with pytest.raises(InvalidRequestError, match=f"^since .*{words}"):
            llmproviders.usage(since=since)

    def test_before_anything_was_counted(self, state: Path) -> None:
        """Asking makes no file."""
        assert llmproviders.usage(since=date(2020, 1, 1)) == ()
        assert not state.exists()

    def test_numbers_that_a_service_makes_up(self) -> None:
        """Whatever usage is told, what is counted stays a whole number."""
        provider = Actor(["Hi", told(2**63 - 2)], per_day=9)
        for _ in range(3):
            provider.complete("Why?")
        (row,) = llmproviders.usage()
        assert (type(row.total_tokens), type(row.prompt_tokens)) == (int, int)
        assert row.total_tokens == 3 * 10**12


class TestTheFile:
    def test_it_is_for_this_user_alone(self, state: Path, clock: FakeClock) -> None:
        """The file, and what SQLite puts beside it, are closed to others, as is the folder."""
        client_of(Actor(GOOD, per_day=3), clock).complete("Why?")
        for path in state.parent.iterdir():
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(state.parent.stat().st_mode) == 0o700

    @pytest.mark.parametrize("content", [b"notes of mine", b"SQLite format 3\0" + b"\1" * 4096])
    def test_a_file_of_another_kind_is_left_alone(
        self, state: Path, clock: FakeClock, content: bytes, caplog: pytest.LogCaptureFixture
    ) -> None:
        """It is not changed; there is one error, and this process counts by itself.

        Without limits it is a warning, which does not keep the error away.
        """
        state.parent.mkdir(parents=True, mode=0o700)
        state.write_bytes(content)
        state.chmod(0o600)
        assert llmproviders.usage() == ()
        client = client_of(Actor(GOOD, per_day=2), clock)
        client.complete("Why?")
        client.complete("Why?")
        spent(client)
        assert state.read_bytes() == content
        told = [r for r in caplog.records if str(state) in r.getMessage()]
        assert [r.levelname for r in told] == ["WARNING", "ERROR"]
        assert "each process keeps to per_minute and per_day by itself" in told[1].getMessage()

    def test_somebody_elses_database(self, state: Path, clock: FakeClock) -> None:
        """A database that is not one of usage keeps every table and every row."""
        state.parent.mkdir(parents=True, mode=0o700)
        with sqlite3.connect(state) as theirs:
            theirs.execute("CREATE TABLE days (mine)")
        theirs.close()
        state.chmod(0o600)
        before = state.read_bytes()
        client_of(Actor(GOOD, per_day=2), clock).complete("Why?")
        assert state.read_bytes() == before

    def test_a_file_that_is_open_to_others(self, state: Path, clock: FakeClock) -> None:
        """It is not used: others could have written any count into it."""
        state.parent.mkdir(parents=True, mode=0o700)
        state.touch(mode=0o644)
        client = client_of(Actor(GOOD, per_day=1), clock)
        client.complete("Why?")
        spent(client)
        assert state.stat().st_size == 0

    @pytest.mark.parametrize("spoil", ["full", "shut"])
    def test_one_that_cannot_be_written(
        self, monkeypatch: pytest.MonkeyPatch, clock: FakeClock, spoil: str
    ) -> None:
        """A process that can only read it goes on from its counts, and tells them."""
        # Not in pytest's own folder, which other users cannot enter.
        home = tempfile.TemporaryDirectory()
        monkeypatch.setenv("XDG_STATE_HOME", home.name)
        state = usage_file()
        clock.set_wall(datetime.now(timezone.utc).timestamp())
        client = client_of(Actor(GOOD, per_day=3), clock)
        client.complete("Why?")
        client.complete("Why?")
        ledgers.ledger().close()

        def ask() -> None:
            if spoil == "full":
                resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
            elif not os.geteuid():
                os.setuid(NOBODY)
            assert [u.requests for u in llmproviders.usage()] == [2]
            client.complete("Why?")
            spent(client)
            assert [u.requests for u in llmproviders.usage()] == [3]

        if spoil == "shut":
            for path, mode in ((state, 0o400), (state.parent, 0o500), (state.parents[1], 0o500)):
                os.chown(path, os.geteuid() or NOBODY, -1)
                path.chmod(mode)
        in_child(ask)
        state.parent.chmod(0o700)
        home.cleanup()

    def test_one_that_can_be_written_again(
        self, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A process adds what it counted for itself, and nothing twice, once the disk has room."""
        monkeypatch.setattr(ledgers, "_AGAIN_S", 0.0)
        clock.set_wall(datetime.now(timezone.utc).timestamp())
        client = client_of(Actor(["Hi", told(4)], per_day=6, per_minute=9), clock)
        client.complete("Why?")
        client.complete("Why?")
        ledgers.ledger().close()

        def ask() -> None:
            unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (0, unlimited[1]))
            client.complete("Why?")
            client.complete("Why?", model="large")
            resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
            client.complete("Why?")

        in_child(ask)
        client.complete("Why?")
        spent(client)
        assert [(u.model, u.requests, u.total_tokens) for u in llmproviders.usage()] == [
            ("actor", 5, 20),
            ("large", 1, 4),
        ]

    def test_one_that_cannot_be_made(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: FakeClock
    ) -> None:
        """Where there is no place for it, a process counts for itself, and tells that."""
        (tmp_path / "plain").touch()
        monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "plain" / "below"))
        clock.set_wall(datetime.now(timezone.utc).timestamp())
        client = client_of(Actor(GOOD, per_day=1), clock)
        assert llmproviders.usage() == ()
        client.complete("Why?")
        spent(client)
        assert [u.requests for u in llmproviders.usage()] == [1]

    def test_one_that_cannot_be_reached(self, state: Path) -> None:
        """Where its folder is closed to this user, usage is told all the same: there is none."""
        state.parent.mkdir(parents=True)
        state.parent.chmod(0)

        def ask() -> None:
            if not os.geteuid():
                os.setuid(NOBODY)
            assert llmproviders.usage() == ()

        in_child(ask)
        state.parent.chmod(0o700)

    def test_one_that_is_deleted_meanwhile(self, state: Path, clock: FakeClock) -> None:
        """A process that has it open begins anew in the file that others see."""
        client = client_of(Actor(GOOD, per_day=1), clock)
        client.complete("Why?")
        for path in list(state.parent.iterdir()):
            path.unlink()
        client.complete("Why?")
        assert state.exists()
        in_child(lambda: spent(client))

    @pytest.mark.parametrize("value", ["much", b"\xff\xfe", 2**62, -5, 1.5])
    @pytest.mark.parametrize("table", ["days", "recent", "used"])
    def test_values_that_nobody_wrote(
        self, state: Path, clock: FakeClock, table: str, value: object
    ) -> None:
        """Whatever stands in its columns, calls go on and usage can be told."""
        clock.set_wall(datetime.now(timezone.utc).timestamp())
        client = client_of(Actor(["Hi", told(4)], per_day=9, per_minute=9), clock)
        client.complete("Why?")
        ledgers.ledger().close()
        with sqlite3.connect(state) as db:
            names = [row[1] for row in db.execute(f"PRAGMA table_info({table})")]
            for name in set(names) - {"id"}:
                with suppress(sqlite3.IntegrityError):
                    db.execute(f"UPDATE {table} SET {name} = ?", (value,))
        db.close()
        for _ in range(2):
            with suppress(llmproviders.AllProvidersFailed):
                client.complete("Why?")
        used = llmproviders.usage()
        assert str(used)
        assert used._repr_html_()
        for row in used:
            assert isinstance(row.total_tokens, int)
            assert row.requests >= 0

    def test_one_that_another_process_keeps_busy(self, state: Path, clock: FakeClock) -> None:
        """A reply does not wait beyond its deadline to be settled; the estimate stays."""
        client_of(Actor(GOOD, per_day=9, base_url="http://there"), clock).complete("Why?")
        other = sqlite3.connect(state, isolation_level=None)

        def lock() -> None:
            other.execute("BEGIN IMMEDIATE")

        provider = Actor(["Hi", lock, told(4)], GOOD, per_day={"tokens": 100})
        client = client_of(provider, clock)
        assert client.complete("Why?", max_tokens=99, deadline=0.1).text == "Hi"
        other.execute("ROLLBACK")
        other.close()
        assert "100 of 100 tokens" in str(spent(client))

    def test_a_forked_child_has_a_connection_of_its_own(self, clock: FakeClock) -> None:
        """Parent and child count on in the same file."""
        client = client_of(Actor(GOOD, per_day=3), clock)
        client.complete("Why?")
        in_child(lambda: client.complete("Why?"))
        client.complete("Why?")
        spent(client)


@contextmanager
def held(state: Path, mode: str = "NORMAL") -> Iterator[sqlite3.Connection]:
    """Let another program change the file for as long as it takes."""
    ledgers.ledger().close()
    with closing(sqlite3.connect(state, isolation_level=None)) as other:
        other.execute(f"PRAGMA locking_mode = {mode}")
        other.execute("BEGIN IMMEDIATE")
        yield other


class TestAlone:
    """A process that cannot use the file counts for itself for a minute, then tries again."""

    @pytest.fixture
    def now(self, monkeypatch: pytest.MonkeyPatch) -> list[float]:
        """The only moment that the ledger knows, in seconds; it has no patience with others."""
        moments = [1000.0]
        monkeypatch.setattr(ledgers, "time", SimpleNamespace(monotonic=lambda: moments[-1]))
        monkeypatch.setattr(ledgers, "_PATIENCE_S", 0.0)
        return moments

    def test_what_it_counts_is_added(
        self, state: Path, clock: FakeClock, now: list[float], caplog: pytest.LogCaptureFixture
    ) -> None:
        """It goes on from the file's counts, and adds what it counted, once, when it can."""
        clock.set_wall(datetime.now(timezone.utc).timestamp())
        client = client_of(Actor(["Hi", told(4)], per_day=9, per_minute=99), clock)
        keys = ("model", "requests", "failures", "prompt_tokens", "completion_tokens")

        def ask(*models: str) -> None:
            for model in models:
                clock.pass_(1)
                client.complete("Why?", model=model)

        def usage() -> list[tuple[Any, ...]]:
            return [tuple(row.as_dict()[key] for key in keys) for row in llmproviders.usage()]

        ask("small", "small")
        with held(state) as other:
            ask("small", "small", "large")
            now.append(now[-1] + 60)
            # Tried once more, in vain; and not again for a minute.
            ask("large")
            assert usage() == [("large", 2, 0, 4, 4), ("small", 4, 0, 8, 8)]
            other.execute("ROLLBACK")
            now.append(now[-1] + 59)
            ask("large")
            assert other.execute("SELECT sum(requests) FROM used").fetchall() == [(2,)]
        now.append(now[-1] + 1)
        ask("small")
        with closing(sqlite3.connect(state)) as other:
            assert other.execute("SELECT sum(requests) FROM used").fetchall() == [(8,)]
            assert other.execute("SELECT requests, tokens FROM days").fetchall() == [(8, 32)]
        assert usage() == [("large", 3, 0, 6, 6), ("small", 5, 0, 10, 10)]
        # Those of the last minute, too.
        client_of(Actor(GOOD, per_minute=8), clock).complete("Why?")
        assert clock.slept == pytest.approx([53.0])
        spent(client)
        assert len([told for told in caplog.messages if "not shared between" in told]) == 1

    def test_a_file_that_is_put_right(
        self, state: Path, clock: FakeClock, now: list[float]
    ) -> None:
        """So does one that could not read the file at all."""
        clock.set_wall(datetime.now(timezone.utc).timestamp())
        state.parent.mkdir(parents=True, mode=0o700)
        state.touch(mode=0o644)
        client = client_of(Actor(GOOD, per_day=3), clock)
        assert llmproviders.usage() == ()
        now.append(now[-1] + 60)
        client.complete("Why?")
        state.chmod(0o600)
        client.complete("Why?")
        assert state.stat().st_size == 0
        now.append(now[-1] + 60)
        client.complete("Why?")
        with closing(sqlite3.connect(state)) as other:
            assert other.execute("SELECT requests FROM days").fetchall() == [(3,)]
        assert [u.requests for u in llmproviders.usage()] == [3]

    def test_a_file_without_tables(
        self, state: Path, clock: FakeClock, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A file that has lost its tables is no reason for a call to fail."""
        client_of(Actor(GOOD, per_day=1), clock).complete("Why?")
        ledgers.ledger().close()
        with closing(sqlite3.connect(state)) as other:
            for table in ("days", "recent", "used"):
                other.execute(f"DROP TABLE {table}")
        client = client_of(Actor(GOOD, per_day=1), clock)
        client.complete("Why?")
        spent(client)
        assert "no such table" in caplog.text

    def test_a_fork(self, state: Path, clock: FakeClock, now: list[float]) -> None:
        """A child of it begins with the file, and not with what its parent has counted."""
        client = client_of(Actor(GOOD, per_day=3), clock)
        client.complete("Why?")
        with held(state):
            client.complete("Why?")

            def ask() -> None:
                client.complete("Why?")
                client.complete("Why?")
                spent(client)

            Child(ask).end_within(30)
            client.complete("Why?")
            spent(client)

    @pytest.mark.parametrize("mode", ["NORMAL", "EXCLUSIVE"])
    def test_patience(self, state: Path, clock: FakeClock, mode: str) -> None:
        """It waits for others that are busy with the file, and counts nothing for itself."""
        client_of(Actor(GOOD, per_day=9), clock).complete("Why?")
        provider = Actor(GOOD, per_day=2)
        with held(state, mode) as other:

            class Releasing(FakeClock):
                def sleep(self, *_: Any) -> None:
                    other.close()

            client_of(provider, Releasing(wall=NOON)).complete("Why?")
        in_child(lambda: spent(client_of(Actor(GOOD, per_day=2), clock)))

    def test_the_patience_of_usage(
        self, state: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Who asks for usage waits for them, too."""
        clock.set_wall(datetime.now(timezone.utc).timestamp())
        client_of(Actor(GOOD, per_day=9), clock).complete("Why?")
        with held(state, "EXCLUSIVE") as other:
            pause = ledgers.pause

            def release(scope: CancelScope) -> None:
                other.close()
                pause(scope)

            monkeypatch.setattr(ledgers, "pause", release)
            assert [u.requests for u in llmproviders.usage()] == [1]
        assert ledgers.ledger().trouble is None


ASKING = """if True:
    import os, random, signal, sys, time
    from llmproviders import QuotaExceededError
    from llmproviders.testing import ScriptedProvider

    class Counting(ScriptedProvider):
        def parse(self, reply):
            # What leaves the machine: one byte in a file.
            os.write(sent, b".")
            yield from super().parse(reply)

    sent = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    provider = Counting(["Hi"], per_day=int(sys.argv[2]))

    def ask():
        try:
            while True:
                provider.complete("Why?")
        except QuotaExceededError:
            pass

    chance = random.Random(7)
    for _ in range(int(sys.argv[3])):
        wanted = os.fstat(sent).st_size + chance.randrange(1, 8)
        child = os.fork()
        if not child:
            ask()
            os._exit(0)
        ended = 0
        while os.fstat(sent).st_size < wanted and not ended:
            time.sleep(0.0005)
            ended = os.waitpid(child, os.WNOHANG)[0]
        if not ended:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
    ask()
"""


def asking(tmp_path: Path, limit: int, *, killed: int = 0) -> subprocess.Popen[bytes]:
    """A process that asks until its day is spent, after children of it were killed as they did."""
    return subprocess.Popen(
        [sys.executable, "-c", ASKING, str(tmp_path / "sent"), str(limit), str(killed)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


class TestProcesses:
    def test_eight_share_a_limit(self, tmp_path: Path) -> None:
        """Eight processes with a limit of 100 send 100 requests, not one more or less."""
        running = [asking(tmp_path, 100) for _ in range(8)]
        assert [process.wait(120) for process in running] == [0] * 8
        assert (tmp_path / "sent").stat().st_size == 100

    def test_killed_at_any_moment(self, tmp_path: Path) -> None:
        """50 processes that are killed never make a day longer than its limit.

        Each may have counted one request that it did not come to send.
        """
        assert asking(tmp_path, 1000, killed=50).wait(120) == 0
        assert 1000 - 50 <= (tmp_path / "sent").stat().st_size <= 1000

    def test_threads_share_a_limit(self) -> None:
        """So do the threads of one process."""
        provider = Actor(GOOD, per_day=40)

        def ask(_: int) -> bool:
            try:
                provider.complete("Why?")
            except QuotaExceededError:
                return False
            return True

        with ThreadPoolExecutor(8) as pool:
            assert sum(pool.map(ask, range(80))) == 40
        assert provider.tries <= 80


class TestAttempts:
    def test_a_try_tells_its_usage(self) -> None:
        """An attempt has the tokens that the service told."""
        (attempt,) = Actor(["Hi", told(40)]).complete("Why?").attempts
        assert attempt.usage == told(40).usage
        assert attempt.as_dict()["usage"]["total_tokens"] == 40

    def test_a_failed_try_does_too(self) -> None:
        """Tokens of a reply that is of no use were paid for, and are told."""
        with pytest.raises(EmptyReplyError) as failed:
            Actor([told(40)]).complete("Why?")
        assert failed.value.attempts[0].usage == told(40).usage
        with pytest.raises(llmproviders.RejectedReplyError) as rejected:
            Actor(["Hi", told(40)]).complete("Why?", accept=lambda _: False)
        assert rejected.value.attempts[0].usage == told(40).usage

    def test_nothing_told(self) -> None:
        """Where the service does not count, there is none."""
        attempt: Attempt = Actor(GOOD).complete("Why?").attempts[0]
        assert attempt.usage is None
