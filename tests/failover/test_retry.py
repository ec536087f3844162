"""When one provider is tried again, after what wait, and what each class of error leads to."""

from __future__ import annotations

from math import inf
from pathlib import Path
from typing import Any

import pytest
import tenacity

from llmproviders import (
    AllProvidersFailed,
    AuthenticationError,
    EmptyReplyError,
    FailoverClient,
    LLMError,
    ProtocolError,
    RateLimitError,
    ServerError,
    errors,
)
from llmproviders.failover import OUTCOMES
from llmproviders.failover._target import counts_against, outcome_of
from tests.support.actors import Act, Actor, FakeClock

GOOD = ["It scatters."]
DOCS = Path(__file__).parents[2] / "docs" / "reference" / "outcomes.md"

CLASSES = [
    value
    for value in vars(errors).values()
    if isinstance(value, type) and issubclass(value, LLMError)
]


@pytest.fixture
def clock() -> FakeClock:
    """Return a clock that a sleep sets forward."""
    return FakeClock()


def tried(clock: FakeClock, *acts: Act, **arguments: Any) -> tuple[int, list[float]]:
    """How often a provider that plays these acts was tried, and after what waits."""
    provider = Actor(*acts)
    client = FailoverClient([provider, Actor(GOOD)], clock=clock, **arguments)
    client.complete("Why?")
    return provider.tries, clock.slept


class TestWaits:
    def test_default(self, clock: FakeClock) -> None:
        """Waits begin at half a second, double, are jittered by up to half a second, end at 8."""
        _, waits = tried(clock, [ServerError()], attempts=8)
        floors = [0.5, 1.0, 2.0, 4.0, 7.5, 7.5, 7.5]
        assert len(waits) == 7
        assert all(f <= w <= f + 0.5 for w, f in zip(waits, floors, strict=True))

    def test_jitter(self, clock: FakeClock) -> None:
        """No two clients wait alike."""
        for _ in range(5):
            tried(clock, [ServerError()], attempts=2)
        assert len(set(clock.slept)) == 5

    @pytest.mark.parametrize(
        ("wait", "expected"),
        [
            (tenacity.wait_none(), []),
            (tenacity.wait_fixed(3), [3.0, 3.0]),
            (tenacity.wait_incrementing(1, 2), [1.0, 3.0]),
            (tenacity.wait_chain(tenacity.wait_fixed(1), tenacity.wait_fixed(4)), [1.0, 4.0]),
            (tenacity.wait_fixed(1) + tenacity.wait_fixed(2), [3.0, 3.0]),
            (tenacity.wait_exception(lambda e: float(str(e))), [7.0, 7.0]),
        ],
        ids=["none", "fixed", "incrementing", "chain", "sum", "exception"],
    )
    def test_any_wait(self, clock: FakeClock, wait: Any, expected: list[float]) -> None:
        """Any wait of tenacity's does, and sees the error and the number of the try."""
        assert tried(clock, [ServerError("7")], wait=wait) == (3, expected)

    def test_no_sleep_of_nothing(self, clock: FakeClock) -> None:
        """Attempt.waited says what was slept."""
        client = FailoverClient(
            [Actor([ServerError()], GOOD)], wait=tenacity.wait_fixed(2), clock=clock
        )
        assert [a.waited for a in client.complete("Why?").attempts] == [0.0, 2.0]


class TestPredicates:
    @pytest.mark.parametrize(
        ("retry", "tries"),
        [
            (tenacity.retry_if_exception_type(ServerError), {"503": 3, "429": 1, "401": 1}),
            (tenacity.retry_if_not_exception_type(ServerError), {"503": 1, "429": 3, "401": 3}),
            (tenacity.retry_if_exception(lambda e: e.status_code == 401), {"503": 1, "401": 3}),
            (tenacity.retry_if_exception_message(match="soon"), {"503": 1, "429": 3, "401": 1}),
            (tenacity.retry_always, {"503": 3, "429": 3, "401": 3}),
            (tenacity.retry_never, {"503": 1, "429": 1, "401": 1}),
            (
                tenacity.retry_if_exception_type(ServerError)
                | tenacity.retry_if_exception_type(RateLimitError),
                {"503": 3, "429": 3, "401": 1},
            ),
            (None, {"503": 3, "429": 3, "401": 1}),
        ],
        ids=["type", "not type", "predicate", "message", "always", "never", "or", "default"],
    )
    def test_any_predicate(self, clock: FakeClock, retry: Any, tries: dict[str, int]) -> None:
        """Any predicate of tenacity's over the error decides what is tried again."""
        failures: dict[str, LLMError] = {
            "503": ServerError("down", status_code=503),
            "429": RateLimitError("soon", status_code=429),
            "401": AuthenticationError("no", status_code=401),
        }
        found = {name: tried(clock, [failures[name]], retry=retry)[0] for name in tries}
        assert found == tries

    @pytest.mark.parametrize(
        ("stop", "tries"),
        [
            (tenacity.stop_after_attempt(2), 2),
            (tenacity.stop_after_attempt(9), 5),
            (tenacity.stop_after_delay(2.5), 4),
            (tenacity.stop_before_delay(2.5), 3),
            (tenacity.stop_after_delay(1) | tenacity.stop_after_attempt(4), 2),
            (lambda state: state.idle_for >= 3, 4),
        ],
        ids=["fewer", "more", "after delay", "before delay", "or", "function"],
    )
    def test_any_stop(self, clock: FakeClock, stop: Any, tries: int) -> None:
        """A stop of tenacity's ends the tries earlier than ``attempts``, by the client's clock."""
        wait = tenacity.wait_fixed(1)
        assert tried(clock, [ServerError()], attempts=5, wait=wait, stop=stop)[0] == tries

    @pytest.mark.parametrize("deadline", [3.5, 4.0])
    def test_the_deadline_holds_all_the_same(self, clock: FakeClock, deadline: float) -> None:
        """Whatever wait and predicate say, no wait begins that the deadline would cut off."""
        client = FailoverClient(
            [Actor([ServerError()])],
            attempts=100,
            wait=tenacity.wait_fixed(1),
            retry=tenacity.retry_always,
            deadline=deadline,
            clock=clock,
        )
        with pytest.raises(AllProvidersFailed):
            client.complete("Why?")
        assert clock.slept == [1.0] * 3

    def test_interrupts_are_never_asked_about(self, clock: FakeClock) -> None:
        """Not even a predicate that says yes to all retries a Ctrl-C."""

        def interrupt() -> None:
            raise KeyboardInterrupt

        provider = Actor([interrupt], GOOD)
        client = FailoverClient([provider], retry=tenacity.retry_always, clock=clock)
        with pytest.raises(KeyboardInterrupt):
            client.complete("Why?")
        assert (provider.tries, provider.playing) == (1, 0)


class TestTable:
    def test_every_class_has_its_row(self) -> None:
        """No class of error is left to its base's row by accident."""
        assert set(OUTCOMES) == set(CLASSES)

    def test_a_class_of_a_users_own(self) -> None:
        """A subclass that a user makes is treated like its base."""

        class ThrottledError(RateLimitError):
            pass

        class OddError(LLMError):
            pass

        assert outcome_of(ThrottledError()) is OUTCOMES[RateLimitError]
        assert outcome_of(OddError()) is OUTCOMES[LLMError]

    @pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
    def test_calls_go_by_it(self, clock: FakeClock, kind: type[LLMError]) -> None:
        """What a call does about an error is what the table says."""
        error = kind("x")
        first, second = Actor([error], name="first"), Actor(GOOD, name="second")
        client = FailoverClient([first, second], attempts=4, clock=clock)
        assert client.complete("Why?").provider == "second"
        assert first.tries == (min(4, OUTCOMES[kind].tries) if error.retryable else 1)
        assert (client.report().providers[0].condition.cooling > 0) is (
            counts_against(error) is not None
        )

    def test_a_protocol_error_is_tried_twice(self, clock: FakeClock) -> None:
        """A reply that cannot be understood is asked for once more, not oftener."""
        assert tried(clock, [ProtocolError("HTML")], attempts=9)[0] == 2
        assert tried(clock, [ServerError()], [ProtocolError("HTML")], attempts=9)[0] == 2
        assert tried(clock, [ProtocolError("HTML")], [EmptyReplyError()], attempts=9)[0] == 9

    def test_the_docs_have_it(self) -> None:
        """The table in the docs is the code's."""
        page = DOCS.read_text(encoding="utf-8")
        head = "| error | again here | cools down |"
        _, _, below = page.partition(head)
        table = below.partition("\n\n")[0].splitlines()[2:]
        assert table == [row(kind) for kind in OUTCOMES]


def row(kind: type[LLMError]) -> str:
    """A class's line in the docs, but for its last column, which is prose there."""
    outcome, error = OUTCOMES[kind], kind()
    if not error.retryable:
        again = "no"
    elif outcome.tries == inf:
        again = "yes"
    else:
        again = f"yes, {outcome.tries} tries at most"
    cooling = f"the {outcome.against}" if outcome.against else "no"
    return f"| `{kind.__name__}` | {again} | {cooling} |"
