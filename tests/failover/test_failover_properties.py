"""Random faults over three providers: whatever happens, the promises about text, order and time."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import tenacity
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from llmproviders import (
    AllProvidersFailed,
    Attempt,
    AuthenticationError,
    ConnectionFailed,
    DeadlineExceeded,
    FailoverClient,
    FinishReason,
    InvalidRequestError,
    LLMError,
    ModelNotFoundError,
    ProtocolError,
    ProviderTimeout,
    RateLimitError,
    RefusedError,
    Restart,
    ServerError,
    StreamInterrupted,
)
from llmproviders.failover import OUTCOMES
from llmproviders.failover._engine import LONGEST_LAST_WAIT_S
from llmproviders.provider import Call as HTTPRequest
from llmproviders.provider import Fetch, Request
from tests.support.actors import Actor, FakeClock
from tests.support.simclock import SimulatedClock

NAMES = ("a", "b", "c")
WAITS = {
    "none": tenacity.wait_none(),
    "fixed": tenacity.wait_fixed(1),
    "exponential": tenacity.wait_exponential(multiplier=0.5, max=8),
    "default": None,
}
LONGEST_WAIT_S = 8.0
EPSILON = 1e-6

retry_afters = st.sampled_from([None, None, 0.0, 1.5, 3.0, 4.0, 5.0, 20.0, 59.0, 61.0, 400.0])
errors = st.one_of(
    st.builds(RateLimitError, st.just("busy"), status_code=st.just(429), retry_after=retry_afters),
    st.builds(ServerError, st.just("down"), status_code=st.just(503), retry_after=retry_afters),
    st.sampled_from(
        [
            StreamInterrupted("cut"),
            ConnectionFailed("refused"),
            ConnectionFailed("certificate", retryable=False),
            ProviderTimeout("silence"),
            ProtocolError("not JSON"),
            AuthenticationError("no", status_code=401),
            ModelNotFoundError("no such model", status_code=404),
            InvalidRequestError("too long", status_code=413),
            InvalidRequestError("wrong"),
            RefusedError("filter"),
        ]
    ),
)
pauses = st.sampled_from([0.0, 0.0, 0.0, 0.1, 1.0, 10.0, 100.0])


@dataclass(frozen=True)
class Fate:
    """How one try goes: pieces of text, the pauses around them, and an error instead of an end."""

    pieces: int = 3
    before_text: float = 0.0
    after_text: float = 0.0
    error: LLMError | None = None
    cut: bool = False


fates = st.builds(
    Fate,
    pieces=st.integers(0, 3),
    before_text=pauses,
    after_text=pauses,
    error=st.none() | errors,
    cut=st.booleans(),
)
plots = st.lists(st.tuples(st.integers(0, 2), fates), max_size=9)
"""What goes wrong in a call, or at least slowly: who, and how; further tries go well."""


class Fated(Actor):
    """A provider whose every try has the fate at hand, and text like no other try's."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.fates: deque[Fate] = deque()
        self.whole: dict[str, str] = {}

    def prepare(self, request: Request, fetch: Fetch) -> HTTPRequest:
        """Choose the act that is played next."""
        call = super().prepare(request, fetch)
        fate = self.fates.popleft() if self.fates else Fate()
        words = [f"{self.name}{self.tries}.{n} " for n in range(fate.pieces)]
        steps: list[Any] = [fate.before_text]
        for word in words:
            steps += [word, fate.after_text]
        if fate.error is not None:
            steps.append(fate.error)
        elif fate.cut:
            steps.append(StreamInterrupted("no end mark"))
        elif words:
            self.whole["".join(words)] = self.name
        self.acts = (*self.acts, steps)
        return call


Plot = list[tuple[int, Fate]]


@dataclass
class Seen:
    """What a caller saw of one call."""

    text: str = ""
    voided: int = 0
    finish: FinishReason | None = None
    error: LLMError | None = None
    events: list[Attempt] = field(default_factory=list)

    @property
    def attempts(self) -> tuple[Attempt, ...]:
        """The attempts, as the end of the call tells them."""
        ending = self.finish if self.error is None else self.error
        assert ending is not None
        return ending.attempts


ARGUMENTS: dict[str, st.SearchStrategy[Any]] = {
    "attempts": st.integers(1, 4),
    "wait": st.sampled_from(sorted(WAITS)),
    "deadline": st.none() | st.sampled_from([0.05, 2.0, 15.0, 130.0]),
    "first_chunk_timeout": st.none() | st.sampled_from([0.05, 5.0, 50.0]),
    "cooldown": st.sampled_from([0.0, 30.0]),
    "failure_threshold": st.integers(1, 3),
    "max_retry_after": st.sampled_from([0.0, 5.0, 30.0]),
    "on_interrupt": st.sampled_from(["raise", "restart"]),
}


class Calls(RuleBasedStateMachine):
    """Calls of one client, with faults in between."""

    @initialize(**ARGUMENTS)
    def make(self, **arguments: Any) -> None:
        """Make the client."""
        self._make(FakeClock(), **arguments)

    def _make(self, clock: FakeClock | SimulatedClock, *, wait: str, **arguments: Any) -> None:
        self.clock = clock
        self.providers = [Fated(name=name) for name in NAMES]
        self.events: list[Attempt] = []
        self.arguments = arguments
        self.threads = threading.active_count()
        self.client = FailoverClient(
            self.providers,
            wait=WAITS[wait],
            on_event=self.events.append,
            clock=self.clock,
            **arguments,
        )

    @rule(seconds=st.sampled_from([1.0, 29.0, 31.0, 700.0]))
    def later(self, seconds: float) -> None:
        """Time passes between calls."""
        self.clock.sleep(seconds)

    @rule(plot=plots)
    def stream(self, plot: Plot) -> None:
        """A stream is read to its end."""
        seen = self._begin(plot)
        try:
            for item in self.client.stream("Why?"):
                assert seen.finish is None, "something came after the FinishReason"
                if isinstance(item, FinishReason):
                    seen.finish = item
                elif isinstance(item, Restart):
                    assert item.discarded_text == seen.text
                    seen.text = ""
                    seen.voided += 1
                else:
                    assert item
                    seen.text += item
        except LLMError as error:
            seen.error = error
        self._end(seen, restarts=self.arguments["on_interrupt"] == "restart")
        if seen.error is not None:
            assert seen.error.partial_text == seen.text
        if self.arguments["on_interrupt"] == "raise":
            assert seen.voided == 0

    @rule(plot=plots)
    def complete(self, plot: Plot) -> None:
        """A whole reply is asked for."""
        seen = self._begin(plot)
        try:
            reply = self.client.complete("Why?")
        except LLMError as error:
            seen.error = error
        else:
            seen.text, seen.finish = str(reply), reply.finish_reason
            assert reply.attempts == reply.finish_reason.attempts
        self._end(seen, restarts=True)

    @rule(items=st.integers(1, 3), plot=plots)
    def abandon(self, items: int, plot: Plot) -> None:
        """A stream is closed before its end."""
        self._begin(plot)
        stream = self.client.stream("Why?")
        try:
            for _ in range(items):
                next(stream)
        except (LLMError, StopIteration):
            pass
        finally:
            stream.close()
        self._nothing_is_left()

    def _begin(self, plot: Plot) -> Seen:
        for provider in self.providers:
            provider.fates.clear()
        for who, fate in plot:
            self.providers[who].fates.append(fate)
        self.events.clear()
        self.tries = [provider.tries for provider in self.providers]
        self.start = self.clock.monotonic()
        self.conditions = [record.condition for record in self.client.report().providers]
        return Seen()

    def _end(self, seen: Seen, *, restarts: bool) -> None:
        self._text_is_one_reply(seen)
        self._the_error_fits(seen, restarts=restarts)
        self._order_is_kept(seen)
        self._tries_are_counted(seen)
        self._time_is_kept(seen)
        self._nothing_is_left()
        assert seen.attempts == tuple(self.events)

    def _text_is_one_reply(self, seen: Seen) -> None:
        if seen.finish is None:
            assert seen.error is not None
            return
        assert seen.error is None
        whole = {t: n for provider in self.providers for t, n in provider.whole.items()}
        assert whole[seen.text] == seen.finish.provider
        assert seen.attempts[-1].error is None
        assert seen.attempts[-1].provider == seen.finish.provider
        assert all(attempt.error is not None for attempt in seen.attempts[:-1])

    def _the_error_fits(self, seen: Seen, *, restarts: bool) -> None:
        error = seen.error
        if error is None:
            return
        deadline = self.arguments["deadline"]
        if isinstance(error, DeadlineExceeded):
            assert self.clock.monotonic() - self.start >= deadline - EPSILON
            assert isinstance(seen.attempts[-1].error, DeadlineExceeded), "it slept in vain"
        elif isinstance(error, StreamInterrupted):
            assert not restarts
            assert seen.attempts[-1].chunks > 0
        elif isinstance(error, InvalidRequestError):
            assert error.status_code is None
        else:
            assert isinstance(error, AllProvidersFailed)
            assert {attempt.provider for attempt in seen.attempts} == set(NAMES)
            assert deadline is None or self.clock.monotonic() - self.start < deadline

    def _order_is_kept(self, seen: Seen) -> None:
        order = [a.provider for a in seen.attempts]
        visited = list(dict.fromkeys(order))
        assert order == sorted(order, key=visited.index), "a provider was left and come back to"
        assert visited[0] == self._first_in_turn()
        ready = [n for n, c in zip(NAMES, self.conditions, strict=True) if not c.cooling]
        of_them = [name for name in visited if name in ready]
        assert of_them == ready[: len(of_them)]

    def _first_in_turn(self) -> str:
        """The first that was not cooling down when the call began, else the one due first."""
        return min(zip(NAMES, self.conditions, strict=True), key=lambda pair: pair[1].cooling)[0]

    def _tries_are_counted(self, seen: Seen) -> None:
        for provider, before in zip(self.providers, self.tries, strict=True):
            own = [a for a in seen.attempts if a.provider == provider.name]
            assert len(own) == provider.tries - before <= self.arguments["attempts"]
            self._every_retry_was_due(own)

    def _every_retry_was_due(self, own: Sequence[Attempt]) -> None:
        for number, attempt in enumerate(own[:-1], 1):
            assert attempt.error is not None
            assert attempt.error.retryable
            assert number < OUTCOMES[type(attempt.error)].tries

    def _time_is_kept(self, seen: Seen) -> None:
        took = self.clock.monotonic() - self.start
        if self.arguments["deadline"] is not None:
            assert took <= self.arguments["deadline"] + EPSILON
        last_visited = seen.attempts[-1].provider
        for before, attempt in zip(seen.attempts, seen.attempts[1:], strict=False):
            if attempt.provider != before.provider:
                assert attempt.waited == 0
                continue
            wished = (before.error and before.error.retry_after) or 0.0
            assert wished <= attempt.waited <= max(LONGEST_WAIT_S, wished + 1.0)
            may_wait = self.arguments["max_retry_after"]
            if attempt.provider == last_visited:
                may_wait = max(may_wait, LONGEST_LAST_WAIT_S)
            assert wished <= may_wait

    def _nothing_is_left(self) -> None:
        assert [provider.playing for provider in self.providers] == [0, 0, 0]
        assert threading.active_count() == self.threads

    def teardown(self) -> None:
        """What the report says adds up."""
        if not hasattr(self, "client"):
            return
        for record, provider in zip(self.client.report().providers, self.providers, strict=True):
            abandoned = record.tries - record.successes - sum(record.failures.values())
            assert abandoned == 0
            assert record.tries <= provider.tries
            if record.condition.cooling:
                assert record.failures


class Races(Calls):
    """Calls of a client that hedges: whoever wins, the same holds of text, tries, time and rest."""

    @initialize(hedge_after=st.sampled_from([0.05, 0.1, 1.0, 5.0]), **ARGUMENTS)
    def make(self, **arguments: Any) -> None:
        """Make the client, on a clock that stands still while any of its threads is at work."""
        self._make(SimulatedClock(), **arguments)

    def _text_is_one_reply(self, seen: Seen) -> None:
        if seen.finish is None:
            assert seen.error is not None
            return
        whole = {t: n for provider in self.providers for t, n in provider.whole.items()}
        assert whole[seen.text] == seen.finish.provider
        assert [a.provider for a in seen.attempts if a.error is None] == [seen.finish.provider]

    def _the_error_fits(self, seen: Seen, *, restarts: bool) -> None:
        deadline = self.arguments["deadline"]
        if isinstance(seen.error, DeadlineExceeded):
            assert self.clock.monotonic() - self.start >= deadline - EPSILON
        elif isinstance(seen.error, StreamInterrupted):
            assert not restarts

    def _order_is_kept(self, seen: Seen) -> None:
        assert min(seen.attempts, key=lambda a: a.started_at).provider == self._first_in_turn()

    def _every_retry_was_due(self, own: Sequence[Attempt]) -> None:
        """Who lost a race may be tried again, should the winner break."""

    def _time_is_kept(self, seen: Seen) -> None:
        if self.arguments["deadline"] is not None:
            took = self.clock.monotonic() - self.start
            assert took <= self.arguments["deadline"] + EPSILON


TestCalls = Calls.TestCase
TestRaces = Races.TestCase
TestCalls.settings = TestRaces.settings = settings(stateful_step_count=20)
TestCalls.__doc__ = "No sequence of calls and faults breaks a promise."
TestRaces.__doc__ = "Nor does one of races."
