"""What one call may say for itself: its deadline, what its reply has to please, how it is asked."""

from __future__ import annotations

import time
from collections.abc import Callable
from math import inf
from typing import Any

import pytest
import requests

from llmproviders import (
    AllProvidersFailed,
    Completion,
    DeadlineExceeded,
    FailoverClient,
    FinishReason,
    GigaChat,
    InvalidRequestError,
    OpenAICompatible,
    Reasoning,
    RejectedReplyError,
    Restart,
    ServerError,
)
from llmproviders.provider import BaseClient
from llmproviders.sandbox import Sandbox
from llmproviders.testing import ScriptedProvider
from tests.conftest import RawServerFactory
from tests.support.actors import Actor, FakeClock
from tests.support.http_bytes import chunked, http_response
from tests.support.rawserver import Stall

pytestmark = pytest.mark.usefixtures("leak_guard")

GOOD = ["It ", "scatters."]
CUT = ["It ", FinishReason("length")]
LONGER = ["It scatt", FinishReason("length")]
DOWN = [ServerError("down", status_code=503)]
FIRST = b'data: {"choices": [{"index": 0, "delta": {"content": "It "}}]}\n\n'
STREAM = {"Content-Type": "text/event-stream"}

WAYS: dict[str, Callable[..., object]] = {
    "stream": lambda client, **k: list(client.stream("Why?", **k)),
    "complete": lambda client, **k: client.complete("Why?", **k),
    "complete whole": lambda client, **k: client.complete("Why?", stream=False, **k),
    "generator": lambda client, **k: list(client.create_generator(None, "Why?", **k)),
    "generator whole": lambda client, **k: list(
        client.create_generator(None, "Why?", stream=False, **k)
    ),
    "conversation": lambda client, **k: client.conversation().ask("Why?", **k),
}
EVERY_WAY = pytest.mark.parametrize("way", WAYS.values(), ids=list(WAYS))


def finished(client: BaseClient, **arguments: Any) -> tuple[str, FinishReason]:
    """The text of a stream that is whole, and its end."""
    *texts, finish = client.stream("Why?", **arguments)
    assert isinstance(finish, FinishReason)
    return "".join(texts), finish


@pytest.fixture
def clock() -> FakeClock:
    """Return a clock that a sleep sets forward."""
    return FakeClock()


class TestDeadline:
    @EVERY_WAY
    @pytest.mark.parametrize("own_session", [False, True], ids=["", "session"])
    @pytest.mark.parametrize("over", [False, True], ids=["provider", "client"])
    def test_it_holds(
        self,
        raw_server: RawServerFactory,
        way: Callable[..., object],
        own_session: bool,
        over: bool,
    ) -> None:
        """A call's deadline ends it in mid-reply, with the text so far, whoever is asked."""
        stalled = http_response(200, STREAM, chunked([FIRST], end=False))
        server = raw_server([*stalled, Stall()])
        with requests.Session() as session:
            provider = OpenAICompatible(
                base_url=f"{server.url}/v1", session=session if own_session else None
            )
            client: BaseClient = FailoverClient([provider], deadline=60) if over else provider
            began = time.monotonic()
            with client, pytest.raises(DeadlineExceeded) as caught:
                way(client, deadline=0.5)
        assert caught.value.partial_text == "It "
        assert [attempt.provider for attempt in caught.value.attempts] == ["OpenAICompatible"]
        assert time.monotonic() - began < 30

    def test_it_wins_over_the_clients(self, clock: FakeClock) -> None:
        """It is longer or shorter than the client's, as the call wants it."""
        client = FailoverClient([Actor([5.0, *GOOD])], deadline=1.0, clock=clock)
        for longer in (10.0, inf):
            assert client.complete("Why?", deadline=longer).text == "It scatters."
        with pytest.raises(DeadlineExceeded):
            client.complete("Why?")
        with pytest.raises(DeadlineExceeded):
            FailoverClient([Actor([5.0, *GOOD])], deadline=60.0, clock=clock).complete(
                "Why?", deadline=1.0
            )

    def test_it_is_for_all_of_a_call(self, clock: FakeClock) -> None:
        """It is one moment for all providers, not a number of seconds for each."""
        slow = [Actor([0.6, *DOWN], name=name) for name in "abc"]
        client = FailoverClient([FailoverClient(slow[:2], attempts=1), slow[2]], clock=clock)
        with pytest.raises(DeadlineExceeded):
            client.complete("Why?", deadline=1.0)
        assert [member.tries for member in slow] == [1, 1, 0]

    def test_it_begins_with_the_first_piece(self, clock: FakeClock) -> None:
        """Time that passes before a stream is asked for its first piece does not count."""
        stream = FailoverClient([Actor([0.5, *GOOD])], clock=clock).stream("Why?", deadline=1.0)
        clock.pass_(5.0)
        assert "".join(stream) == "It scatters."

    @EVERY_WAY
    @pytest.mark.parametrize("deadline", ["60", 0, -1, True, 10**400])
    def test_no_deadline(self, way: Callable[..., object], deadline: Any) -> None:
        """What is no number of seconds is refused before anything is sent."""
        provider = Actor(GOOD)
        with pytest.raises(InvalidRequestError, match="deadline must be a number of seconds"):
            way(provider, deadline=deadline)
        assert provider.tries == 0


class TestAccept:
    @EVERY_WAY
    def test_a_provider_alone(self, way: Callable[..., object]) -> None:
        """A provider's reply that is turned down is an error with the reason and the text."""
        seen: list[Completion] = []

        def refuse(completion: Completion) -> str:
            seen.append(completion)
            return "too short"

        provider = Actor(GOOD, name="one")
        with pytest.raises(RejectedReplyError, match="turned the reply down: too short") as caught:
            way(provider, accept=refuse)
        assert (caught.value.partial_text, caught.value.detail) == ("It scatters.", "too short")
        assert caught.value.provider == "one"
        assert [completion.text for completion in seen] == ["It scatters."]
        assert [a.error for a in caught.value.attempts] == [caught.value]

    @EVERY_WAY
    def test_what_pleases(self, way: Callable[..., object]) -> None:
        """A reply that pleases is as if nobody had looked."""
        assert str(way(Actor(GOOD), accept=lambda _: True)) == str(way(Actor(GOOD)))

    def test_it_wins_over_the_clients(self) -> None:
        """A call's own stands instead of its client's."""
        client = FailoverClient(
            [Actor(["short"], name="a"), Actor(GOOD, name="b")], accept=lambda c: c.text != "short"
        )
        assert client.complete("Why?").provider == "b"
        assert client.complete("Why?", accept=lambda c: c.text == "short").provider == "a"
        assert client.complete("Why?").provider == "b"

    @pytest.mark.parametrize("whole", [False, True])
    def test_the_next_provider(self, whole: bool) -> None:
        """Where no text was shown, the next provider is asked."""
        first, second = Actor(["no"], name="first"), Actor(GOOD, name="second")
        client = FailoverClient([first, second])
        if whole:
            generator = client.create_generator(
                None, "Why?", stream=False, accept=lambda c: c.text != "no"
            )
            assert list(generator)[:-1] == ["It scatters."]
        else:
            reply = client.complete("Why?", accept=lambda c: c.text != "no")
            assert [a.provider for a in reply.attempts] == ["first", "second"]

    def test_a_stream_that_was_shown(self) -> None:
        """Of a stream whose text is out, the error says so, unless it may restart."""
        first, second = Actor(["no"], name="first"), Actor(GOOD, name="second")
        shown = FailoverClient([first, second]).stream("Why?", accept=lambda c: c.text != "no")
        assert next(shown) == "no"
        with pytest.raises(RejectedReplyError):
            next(shown)
        again = FailoverClient([first, second], on_interrupt="restart")
        pieces = list(again.stream("Why?", accept=lambda c: c.text != "no"))
        assert [type(piece) for piece in pieces] == [str, Restart, str, str, FinishReason]

    @EVERY_WAY
    def test_no_function(self, way: Callable[..., object]) -> None:
        """What cannot be called is a ``TypeError`` with a sentence, before anything is sent."""
        provider = Actor(GOOD)
        with pytest.raises(TypeError, match="accept must be a function"):
            way(provider, accept=True)
        with pytest.raises(TypeError, match="accept must be a function"):
            FailoverClient([provider], accept="yes")  # type: ignore[arg-type]
        assert provider.tries == 0


class TestWhole:
    def test_asked_at_once(self, sandbox: Sandbox) -> None:
        """With ``stream=False`` the service is asked for the whole reply at once."""
        with sandbox.client("openai") as client:
            replies = [client.complete("Why?", stream=stream) for stream in (False, None)]
        asked = [request.json["stream"] for request in sandbox.requests]
        assert asked == [False, True]
        assert replies[0].text == replies[1].text

    @pytest.mark.parametrize("make", [lambda p: p, lambda p: FailoverClient([p])])
    def test_no_stream(self, make: Callable[[Actor], BaseClient]) -> None:
        """``complete`` cannot stream, and says what can."""
        with pytest.raises(TypeError, match=r"use stream\(\)"):
            make(Actor(GOOD)).complete("Why?", stream=True)


class TestOnLength:
    @pytest.mark.parametrize("hedge_after", [None, 0.05])
    def test_the_next_provider(self, hedge_after: float | None) -> None:
        """A reply that ``max_tokens`` cut makes room for the next provider's whole one."""
        client = FailoverClient(
            [Actor(CUT, name="a"), Actor(GOOD, name="b")],
            on_length="next",
            hedge_after=hedge_after,
            fall_through=ServerError,
        )
        reply = client.complete("Why?")
        assert (reply.text, reply.provider) == ("It scatters.", "b")
        first, second = reply.attempts
        assert isinstance(first.error, RejectedReplyError)
        assert (first.error.detail, second.error) == ("length", None)
        assert client.report().providers[0].condition.failures == 0

    @pytest.mark.parametrize(
        ("acts", "text", "provider"),
        [
            ([CUT], "It ", "0"),
            ([CUT, LONGER], "It scatt", "1"),
            ([LONGER, CUT], "It scatt", "0"),
            ([CUT, ["No ", FinishReason("length")]], "It ", "0"),
            ([CUT, LONGER, CUT], "It scatt", "1"),
            ([LONGER, DOWN], "It scatt", "0"),
            ([DOWN, CUT], "It ", "1"),
        ],
    )
    def test_the_longest(self, acts: list[Any], text: str, provider: str) -> None:
        """Where no whole reply is to be had, the longest one is returned, whoever failed since."""
        members = [Actor(act, name=str(number)) for number, act in enumerate(acts)]
        client = FailoverClient(members, on_length="next", attempts=1)
        reply = client.complete("Why?")
        assert (reply.text, reply.provider) == (text, provider)
        assert reply.finish_reason.reason == "length"
        assert len(reply.attempts) == len(acts)
        assert [member.tries for member in members] == [1] * len(acts)

    def test_the_deadline(self, clock: FakeClock) -> None:
        """What was cut is better than a deadline that passes while a whole reply is looked for."""
        members = [Actor(CUT, name="a"), Actor([60.0, *GOOD], name="b")]
        client = FailoverClient(members, on_length="next", deadline=30.0, clock=clock)
        assert client.complete("Why?").text == "It "

    def test_turned_down(self) -> None:
        """A cut reply that does not please is not returned either."""
        client = FailoverClient(
            [Actor(CUT, name="a"), Actor(DOWN, name="b")],
            on_length="next",
            attempts=1,
            accept=lambda c: len(c.text) > 5,
        )
        with pytest.raises(AllProvidersFailed):
            client.complete("Why?")

    def test_by_default(self) -> None:
        """By default the reply is returned as it is."""
        second = Actor(GOOD, name="b")
        assert FailoverClient([Actor(CUT, name="a"), second]).complete("Why?").text == "It "
        assert second.tries == 0

    def test_a_stream(self) -> None:
        """A stream whose text is out ends with it, unless it may restart."""
        members = [Actor(LONGER, name="a"), Actor(CUT, name="b")]
        text, finish = finished(FailoverClient(members, on_length="next"))
        assert (text, finish.reason, members[1].tries) == ("It scatt", "length", 0)
        restarting = FailoverClient(members, on_length="next", on_interrupt="restart")
        pieces = list(restarting.stream("Why?"))
        assert [str(piece) for piece in pieces] == ["It scatt", "", "It ", "", "It scatt", ""]
        kinds = [str, Restart, str, Restart, str, FinishReason]
        assert [type(piece) for piece in pieces] == kinds
        assert [p.discarded_text for p in pieces if isinstance(p, Restart)] == ["It scatt", "It "]

    @pytest.mark.parametrize("hedge_after", [None, 600.0])
    @pytest.mark.parametrize("on_interrupt", ["raise", "restart"])
    @pytest.mark.parametrize("nested", [False, True])
    def test_a_generator_that_does_not_stream(
        self, hedge_after: float | None, on_interrupt: Any, nested: bool
    ) -> None:
        """With ``stream=False`` nothing was yielded, so that the next provider is tried."""
        client = FailoverClient(
            [Actor(CUT, name="a"), Actor(GOOD, name="b")],
            on_length="next",
            hedge_after=hedge_after,
            on_interrupt=on_interrupt,
        )
        asked = FailoverClient([client]) if nested else client
        *pieces, finish = asked.create_generator(None, "Why?", stream=False)
        assert pieces == ["It scatters."]
        assert isinstance(finish, FinishReason)
        assert finish.provider == "b"

    @pytest.mark.parametrize("on_interrupt", ["raise", "restart"])
    def test_thoughts_of_a_generator_that_does_not_stream(self, on_interrupt: Any) -> None:
        """A restart shows after thoughts that were yielded, although no text was."""
        client = FailoverClient(
            [Actor([Reasoning("Hm."), *CUT], name="a"), Actor(GOOD, name="b")],
            on_length="next",
            on_interrupt=on_interrupt,
        )
        pieces = list(client.create_generator(None, "Why?", stream=False, reasoning=True))
        assert [type(piece) for piece in pieces] == [Reasoning, Restart, str, FinishReason]
        assert [str(piece) for piece in pieces] == ["", "", "It scatters.", ""]
        assert [p.discarded_text for p in pieces if isinstance(p, Restart)] == [""]

    def test_no_such_word(self) -> None:
        """Any other word is refused."""
        with pytest.raises(ValueError, match="on_length is 'return' or 'next'"):
            FailoverClient([Actor(GOOD)], on_length="again")  # type: ignore[arg-type]


class TestProviders:
    @pytest.mark.parametrize("providers", [GigaChat(), GigaChat, "gigachat", None, 3])
    def test_no_list(self, providers: Any) -> None:
        """What is no list of providers is a ``TypeError`` that shows how to write one."""
        with pytest.raises(
            TypeError, match=r"write FailoverClient\(\[GigaChat\(\), ChatGLM\(\)\]\)"
        ):
            FailoverClient(providers)

    @pytest.mark.parametrize("pair", [(), ("one",), ("one", "a", "b"), ("one", 5), (5, "one")])
    def test_no_pair(self, pair: tuple[Any, ...]) -> None:
        """What is no pair of a provider and a model's name is a ``TypeError`` that says so."""
        provider = ScriptedProvider(["a"])
        item: Any = tuple(provider if part == "one" else part for part in pair)
        with pytest.raises(TypeError, match=r"a pair \(provider, model\) or a client is needed"):
            FailoverClient([item])
