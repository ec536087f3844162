"""A slow provider and one started beside it: the first text wins, nothing of the other stays."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Generator
from contextlib import closing
from typing import Any

import pytest
import tenacity

from llmproviders import (
    AllProvidersFailed,
    Attempt,
    AuthenticationError,
    DeadlineExceeded,
    FailoverClient,
    FinishReason,
    InvalidRequestError,
    OpenAICompatible,
    ProtocolError,
    ProviderTimeout,
    Restart,
    ServerError,
    StreamInterrupted,
)
from llmproviders._runtime.scope import CancelScope
from llmproviders.errors import SLOWER
from llmproviders.failover._hedging import Race
from tests.conftest import RawServerFactory
from tests.support.actors import Act, Actor, FakeClock
from tests.support.http_bytes import chunked, http_response
from tests.support.rawserver import Connection, Handler, RawServer, Stall, Wait

pytestmark = pytest.mark.usefixtures("leak_guard")

GOOD = ["It ", "scatters."]
NEVER = [60.0]
SOON = 0.03
EVENT = b'data: {"choices": [{"index": 0, "delta": {"content": "%b"}}]}\n\n'
REPLY = [
    *http_response(200, {"Content-Type": "text/event-stream"}, chunked([EVENT % b"ok"], end=False)),
    *chunked([b"data: [DONE]\n\n"]).pieces,
]


def actor(name: str, *acts: Act) -> Actor:
    """A provider that plays these acts."""
    return Actor(*acts, name=name)


def hedged(*providers: Any, **arguments: Any) -> FailoverClient:
    """A client that starts the next provider after a moment, and waits for nothing else."""
    settings = {"hedge_after": SOON, "wait": tenacity.wait_none(), "attempts": 1}
    return FailoverClient(providers, **{**settings, **arguments})


def served(server: RawServer, name: str) -> OpenAICompatible:
    """A provider that asks a raw server."""
    return OpenAICompatible(base_url=f"{server.url}/v1", model="m", name=name)


def holding(reached: threading.Event) -> Handler:
    """Read a request, say so, and answer nothing."""

    def handle(connection: Connection) -> None:
        connection.read_request()
        reached.set()
        connection.stall()

    return handle


def ends(attempts: tuple[Attempt, ...]) -> list[tuple[str, str]]:
    """Who was tried and how that ended, in no order."""
    return sorted((a.provider, "whole" if a.error is None else str(a.error)) for a in attempts)


class TestWinning:
    def test_the_slow_one_is_overtaken(self) -> None:
        """The first text wins; both show among the attempts."""
        slow, quick = actor("slow", NEVER), actor("quick", GOOD)
        reply = hedged(slow, quick).complete("Why?")
        assert (str(reply), reply.provider) == ("It scatters.", "quick")
        assert ends(reply.attempts) == [("quick", "whole"), ("slow", SLOWER)]
        error = next(a.error for a in reply.attempts if a.provider == "slow")
        assert type(error) is ProviderTimeout
        assert not error.retryable
        assert (slow.playing, quick.playing) == (0, 0)

    def test_a_quick_first_is_alone(self) -> None:
        """A first provider that has text in time is the only one asked."""
        quick, other = actor("quick", GOOD), actor("other", GOOD)
        reply = hedged(quick, other, hedge_after=30.0).complete("Why?")
        assert (reply.provider, other.tries) == ("quick", 0)
        assert ends(reply.attempts) == [("quick", "whole")]

    def test_the_first_may_still_win(self) -> None:
        """The one started later is cut off when the earlier one has text first."""
        begun = threading.Event()
        slow = actor("slow", [lambda: begun.wait(10), *GOOD])
        other = actor("other", [begun.set, *NEVER])
        reply = hedged(slow, other).complete("Why?")
        assert reply.provider == "slow"
        assert ends(reply.attempts) == [("other", SLOWER), ("slow", "whole")]

    def test_each_one_in_turn(self) -> None:
        """The next is started beside all that are slow, one after another."""
        actors = [actor(f"slow{n}", NEVER) for n in range(3)]
        reply = hedged(*actors, actor("quick", GOOD)).complete("Why?")
        assert reply.provider == "quick"
        assert [a.tries for a in actors] == [1, 1, 1]
        assert len(reply.attempts) == 4

    def test_a_failure_starts_the_next_at_once(self) -> None:
        """What fails is not waited for until its rival's time has come."""
        dead, good = actor("dead", [AuthenticationError("no")]), actor("good", GOOD)
        reply = hedged(dead, good, hedge_after=30.0).complete("Why?")
        assert reply.provider == "good"
        assert ends(reply.attempts) == [("dead", "no"), ("good", "whole")]

    def test_both_have_text_at_once(self) -> None:
        """However near they come, one reply is delivered, whole, and the other is on record."""
        for _ in range(20):
            together = threading.Barrier(2, timeout=10)
            first = actor("first", [together.wait, "first ", "text"])
            second = actor("second", [together.wait, "second ", "text"])
            reply = hedged(first, second).complete("Why?")
            assert str(reply) == f"{reply.provider} text"
            loser = "second" if reply.provider == "first" else "first"
            assert ends(reply.attempts) == sorted([(loser, SLOWER), (reply.provider, "whole")])
            assert (first.playing, second.playing) == (0, 0)

    def test_a_reply_that_comes_too_late(self) -> None:
        """One that comes when another has won is on record, as the slower one."""
        won = threading.Event()
        call = FinishReason("tool_calls", tool_calls=[{"id": "1"}])
        late = actor("late", [lambda: won.wait(10), call])
        quick = actor("quick", ["It ", won.set, "scatters."])
        reply = hedged(late, quick).complete("Why?", model="m")
        (attempt,) = (a for a in reply.attempts if a.provider == "late")
        assert isinstance(attempt.error, ProviderTimeout)
        assert (str(attempt.error), attempt.error.provider) == (SLOWER, "late")
        assert not attempt.error.retryable
        assert (attempt.model, attempt.chunks) == ("m", 1)
        assert attempt.started_at > 0
        assert 0 < attempt.duration == attempt.first_chunk_after < 10

    def test_a_tool_call_wins_too(self) -> None:
        """A reply that is a tool call has no text, and is a reply."""
        call = FinishReason("tool_calls", tool_calls=[{"id": "1"}])
        reply = hedged(actor("slow", NEVER), actor("caller", [call])).complete("Why?")
        assert reply.finish_reason.tool_calls == [{"id": "1"}]

    def test_a_stream(self) -> None:
        """A stream's pieces come one by one from the winner, its FinishReason last."""
        *pieces, finish = hedged(actor("slow", NEVER), actor("quick", GOOD)).stream("Why?")
        assert pieces == GOOD
        assert isinstance(finish, FinishReason)
        assert ends(finish.attempts) == [("quick", "whole"), ("slow", SLOWER)]

    def test_the_loser_is_not_ill(self) -> None:
        """Having been overtaken does not count against a provider's health."""
        client = hedged(actor("slow", NEVER), actor("quick", GOOD))
        client.complete("Why?")
        assert [str(p.condition) for p in client.report().providers] == ["well", "well"]


class TestFailing:
    def test_all_fail(self) -> None:
        """When all have failed, each with its retries, the error has every attempt."""
        a, b = actor("a", [SOON * 2, ServerError("a down")]), actor("b", [ServerError("b down")])
        with pytest.raises(AllProvidersFailed) as caught:
            hedged(a, b, attempts=2).complete("Why?")
        assert ends(caught.value.attempts) == [("a", "a down")] * 2 + [("b", "b down")] * 2
        assert "a: ServerError: a down" in str(caught.value)
        assert "b: ServerError: b down" in str(caught.value)

    def test_the_deadline_is_one_for_all(self) -> None:
        """The deadline ends every one of them, and the error has them all."""
        a, b = actor("a", NEVER), actor("b", NEVER)
        with pytest.raises(DeadlineExceeded) as caught:
            hedged(a, b, deadline=0.2).complete("Why?")
        assert [name for name, _ in ends(caught.value.attempts)] == ["a", "b"]
        assert all(isinstance(x.error, DeadlineExceeded) for x in caught.value.attempts)

    def test_a_thread_that_does_not_end(self) -> None:
        """Not even a provider that obeys no deadline holds the call up beyond it."""
        stubborn = threading.Event()
        a, b = actor("a", [lambda: stubborn.wait(10)]), actor("b", [lambda: stubborn.wait(10)])
        with pytest.raises(DeadlineExceeded):
            hedged(a, b, deadline=0.1).complete("Why?")
        assert [t.name for t in threading.enumerate()].count("llmproviders hedge") == 2
        stubborn.set()

    def test_what_one_cannot_take_the_other_may(self) -> None:
        """A request that the second finds wrong does not end the first, which is at work."""
        begun = threading.Event()
        slow = actor("slow", [lambda: begun.wait(10), *GOOD])
        picky = actor("picky", [begun.set, InvalidRequestError("too long")])
        third = actor("third", GOOD)
        assert hedged(slow, picky, third).complete("Why?").provider in ("slow", "third")

    def test_invalid_alone_starts_the_next(self) -> None:
        """A request that the first finds wrong goes to the second at once."""
        other = actor("other", GOOD)
        picky = actor("picky", [InvalidRequestError("wrong")])
        assert hedged(picky, other, hedge_after=30.0).complete("Why?").provider == "other"

    def test_threads_that_do_not_end_let_the_process_end(self) -> None:
        """The threads of a race bear a name, and keep no process alive."""
        seen: list[threading.Thread] = []
        note = [lambda: seen.append(threading.current_thread()), *NEVER]
        hedged(actor("slow", note), actor("quick", GOOD)).complete("Why?")
        assert [(t.name, t.daemon) for t in seen] == [("llmproviders hedge", True)]

    def test_a_defect_is_told(self) -> None:
        """A bug of a provider is its failure, which the next one makes good; it is its cause."""

        def bug() -> None:
            raise ZeroDivisionError

        reply = hedged(actor("buggy", [bug]), actor("other", GOOD)).complete("Why?")
        assert reply.provider == "other"
        error = reply.attempts[0].error
        assert isinstance(error, ProtocolError)
        assert isinstance(error.__cause__, ZeroDivisionError)

    def test_a_winner_that_breaks(self) -> None:
        """Who was only slower gets another chance when the winner's reply breaks."""
        slow = actor("slow", NEVER, GOOD)
        cut = actor("cut", ["It ", StreamInterrupted("cut")])
        reply = hedged(slow, cut, attempts=2).complete("Why?")
        assert (str(reply), reply.provider) == ("It scatters.", "slow")
        assert (slow.tries, cut.tries) == (2, 2)

    @pytest.mark.parametrize("attempts", [1, 2])
    def test_attempts_hold_all_the_same(self, attempts: int) -> None:
        """The try that was overtaken is one of those that ``attempts`` allows."""
        slow = actor("slow", NEVER, [ServerError("down")])
        cut = actor("cut", ["It ", StreamInterrupted("cut")])
        with pytest.raises(AllProvidersFailed):
            hedged(slow, cut, attempts=attempts).complete("Why?")
        assert (slow.tries, cut.tries) == (attempts, attempts)

    def test_restart(self) -> None:
        """A stream whose winner broke restarts visibly at the other."""
        slow = actor("slow", NEVER, GOOD)
        cut = actor("cut", ["It ", StreamInterrupted("cut")])
        items = [*hedged(slow, cut, attempts=2, on_interrupt="restart").stream("Why?")]
        assert [type(i) for i in items] == [str, Restart, str, Restart, str, str, FinishReason]

    def test_raise(self) -> None:
        """Without restart the break of the winner is the call's, and nobody is asked again."""
        slow = actor("slow", NEVER, GOOD)
        cut = actor("cut", ["It ", StreamInterrupted("cut")])
        stream = hedged(slow, cut, attempts=2).stream("Why?")
        assert next(stream) == "It "
        with pytest.raises(StreamInterrupted) as caught:
            next(stream)
        assert (slow.tries, cut.tries) == (1, 1)
        assert len(caught.value.attempts) == 2


class TestRace:
    def test_one_wins(self) -> None:
        """However many have text at once, one is told that it was the first."""
        race, told = Race(CancelScope(), 30.0), list[bool]()

        def start(_: CancelScope, wins: Callable[[], bool]) -> Generator[str, None, None]:
            told.append(wins())
            yield "text"

        for _ in range(3):
            race.start(start)
        assert [race.wait(more=False) for _ in range(3)].count(None) == 0
        race.end()
        assert sorted(told) == [False, False, True]

    def test_nobody_wins_after_the_end(self) -> None:
        """Text that comes when the race is over is not delivered."""
        race, told = Race(CancelScope(), 30.0), list[bool]()
        begun, ended = threading.Event(), threading.Event()

        def start(_: CancelScope, wins: Callable[[], bool]) -> Generator[str, None, None]:
            begun.set()
            ended.wait(10)
            told.append(wins())
            yield "text"

        race.start(start)
        assert begun.wait(10)
        race.end()
        ended.set()
        race.wait(more=False)
        assert told == [False]

    def test_a_winner_that_the_end_does_not_wait_for(self) -> None:
        """A stream that won but takes long to hand its text over is closed when it has."""
        race = Race(CancelScope(), 30.0)
        won, ended, closed = (threading.Event() for _ in range(3))

        def start(_: CancelScope, wins: Callable[[], bool]) -> Generator[str, None, None]:
            try:
                assert wins()
                won.set()
                ended.wait(10)
                yield "text"
            finally:
                closed.set()

        race.start(start)
        assert won.wait(10)
        race.end()
        assert not closed.is_set()
        ended.set()
        assert closed.wait(10)

    def test_a_thread_that_begins_after_the_end(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """An interrupt that comes while a thread is started ends the race; the thread asks nobody.

        It may begin as late as its stream is being closed.
        """
        threads, asked = list[threading.Thread](), list[bool]()

        class Asking:
            def __next__(self) -> str:
                asked.append(True)
                return "text"

            def close(self) -> None:
                threads[0].run()

        def interrupt(thread: threading.Thread) -> None:
            threads.append(thread)
            raise KeyboardInterrupt

        monkeypatch.setattr(threading.Thread, "start", interrupt)
        race = Race(CancelScope(), 30.0)
        with pytest.raises(KeyboardInterrupt):
            race.start(lambda *_: Asking())  # type: ignore[arg-type, return-value]
        race.end()
        assert asked == []

    def test_started_too_late(self) -> None:
        """A stream that is started when another has won is over before it asks anybody."""
        race, over = Race(CancelScope(), 30.0), list[bool]()

        def start(scope: CancelScope, wins: Callable[[], bool]) -> Generator[str, None, None]:
            over.append(scope.over)
            wins()
            yield "text"

        for _ in range(2):
            race.start(start)
            race.wait(more=True)
        race.end()
        assert over == [False, True]

    def test_streams_that_do_not_end(self) -> None:
        """They have a tenth of a second after the deadline to say how they ended, and no more."""
        clock = FakeClock()
        race = Race(CancelScope.lasting(60.0, clock=clock), 60.0)
        assert race.wait(more=True) is None
        with pytest.raises(DeadlineExceeded):
            race.wait(more=True)
        assert clock.slept == pytest.approx([60.0, 0.1])

    def test_nobody_is_left_to_be_started(self) -> None:
        """Those that run are then waited for in one go, not looked at again and again."""
        clock = FakeClock()
        with pytest.raises(DeadlineExceeded):
            Race(CancelScope.lasting(60.0, clock=clock), 0.5).wait(more=False)
        assert clock.slept == pytest.approx([60.1])


class TestEnding:
    def test_the_losers_connection_is_closed_at_once(self, raw_server: RawServerFactory) -> None:
        """The service that was too slow sees its connection end while the winner still talks."""
        reached, slow_closed = threading.Event(), threading.Event()
        slow = raw_server(holding(reached))
        quick = raw_server([Wait(reached), *REPLY[:2], Wait(slow_closed), *REPLY[2:]])
        client = hedged(served(slow, "slow"), served(quick, "quick"))
        with client, closing(client.stream("Why?")) as stream:
            assert next(stream) == "ok"
            assert slow.connections[0].client_closed.wait(10)
            slow_closed.set()
            *_, finish = stream
        assert isinstance(finish, FinishReason)
        assert ends(finish.attempts) == [("quick", "whole"), ("slow", SLOWER)]

    def test_a_loser_that_still_connects(
        self, raw_server: RawServerFactory, black_hole: int
    ) -> None:
        """A connection that was still being made is given up."""
        hole = OpenAICompatible(base_url=f"http://127.0.0.1:{black_hole}/v1", name="hole")
        with hedged(hole, served(raw_server(REPLY), "quick")) as client:
            reply = client.complete("Why?", model="m")
        assert ends(reply.attempts) == [("hole", SLOWER), ("quick", "whole")]

    def test_a_loser_that_waits_to_try_again(self) -> None:
        """A wait before a retry ends with the race."""
        dead = actor("dead", [ServerError("down")])
        client = hedged(dead, actor("quick", GOOD), attempts=9, wait=tenacity.wait_fixed(60))
        reply = client.complete("Why?")
        assert reply.provider == "quick"
        assert dead.tries == 1

    def test_a_loser_that_is_a_client(self) -> None:
        """A client among the losers ends as a whole: its waits, and its other providers, too."""
        dead, other = actor("dead", [ServerError("down")]), actor("other", GOOD)
        inner = FailoverClient([dead, other], wait=tenacity.wait_fixed(60), name="inner")
        assert hedged(inner, actor("quick", GOOD)).complete("Why?").provider == "quick"
        assert (dead.tries, other.tries) == (1, 0)

    def test_a_race_in_a_race(self) -> None:
        """Clients that hedge may stand in a client that hedges."""
        inner = hedged(actor("a", NEVER), actor("b", NEVER), name="inner")
        reply = hedged(inner, actor("c", GOOD), hedge_after=SOON * 4).complete("Why?")
        assert reply.provider == "c"
        assert ends(reply.attempts) == [("a", SLOWER), ("b", SLOWER), ("c", "whole")]

    def test_closing_in_the_middle(self, raw_server: RawServerFactory) -> None:
        """Closing the stream closes the winner's connection as well."""
        reached = threading.Event()
        slow = raw_server(holding(reached))
        quick = raw_server([Wait(reached), *REPLY[:2], Stall()])
        with hedged(served(slow, "slow"), served(quick, "quick")) as client:
            stream = client.stream("Why?")
            next(stream)
            stream.close()
            assert quick.connections[0].client_closed.wait(10)
            assert slow.connections[0].client_closed.wait(10)

    def test_the_last_has_no_thread(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Where nobody could be started beside it, a provider runs in the caller's thread."""

        def refuse(thread: threading.Thread) -> None:
            raise AssertionError("a thread was started")

        monkeypatch.setattr(threading.Thread, "start", refuse)
        assert str(hedged(actor("only", GOOD)).complete("Why?")) == "It scatters."

    def test_no_thread_to_be_had(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Where the system gives no more threads, hedging is left out, which the log tells."""

        def refuse(thread: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        monkeypatch.setattr(threading.Thread, "start", refuse)
        caplog.set_level(logging.DEBUG, logger="llmproviders")
        client = hedged(actor("bad", [ServerError("no")] * 3), actor("good", GOOD))
        assert str(client.complete("Why?")) == "It scatters."
        assert "hedging is left out" in caplog.text

    def test_log(self, caplog: pytest.LogCaptureFixture) -> None:
        """That another one was started is told at INFO, a failure at WARNING."""
        caplog.set_level(logging.INFO, logger="llmproviders")
        hedged(actor("slow", NEVER), actor("quick", GOOD)).complete("Why?")
        dead = actor("dead", [AuthenticationError("no")])
        hedged(dead, actor("good", GOOD), hedge_after=30.0).complete("Why?")
        told = [(r.levelname, r.getMessage()) for r in caplog.records]
        assert told == [
            ("INFO", "slow has no text yet, quick is started beside it"),
            ("WARNING", "dead failed (AuthenticationError), good is next"),
        ]

    def test_log_of_a_second_race(self, caplog: pytest.LogCaptureFixture) -> None:
        """When a winner broke, who races next is told as after any failure."""
        caplog.set_level(logging.INFO, logger="llmproviders")
        slow = [actor(name, NEVER, GOOD) for name in ("slow", "lame")]
        cut = actor("cut", ["It ", StreamInterrupted("cut")])
        hedged(*slow, cut, attempts=2).complete("Why?")
        told = [r.getMessage() for r in caplog.records]
        assert told[:4] == [
            "slow has no text yet, lame is started beside it",
            "slow, lame has no text yet, cut is started beside it",
            "cut failed (StreamInterrupted), try 2 in 0.00 s",
            "cut failed (StreamInterrupted), slow is next",
        ]
