"""What a client of several providers promises about order, text, errors and its own record."""

from __future__ import annotations

import logging
import os
import pickle
import threading
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any, Literal

import pytest
import tenacity

from llmproviders import (
    AllProvidersFailed,
    Attempt,
    AuthenticationError,
    BlockedError,
    Cached,
    ChatGLM,
    Completion,
    ConnectionFailed,
    DeadlineExceeded,
    EmptyReplyError,
    FailoverClient,
    FinishReason,
    FlowGpt,
    InvalidRequestError,
    LLMError,
    ModelNotFoundError,
    OpenAICompatible,
    ProtocolError,
    ProviderTimeout,
    RateLimitError,
    RefusedError,
    RejectedReplyError,
    Restart,
    ServerError,
    StreamInterrupted,
    batch,
)
from llmproviders._runtime.scope import CancelScope
from llmproviders.provider import BaseClient
from llmproviders.provider import Request as ChatRequest
from llmproviders.sandbox import Sandbox
from llmproviders.testing import ScriptedProvider
from tests.support.actors import Act, Actor, FakeClock

DOWN = [ServerError("down", status_code=503)]
REFUSED = [AuthenticationError("who are you?", status_code=401)]
GOOD = ["It ", "scatters."]
CUT = ["It ", "scat", StreamInterrupted("cut")]

Client = Callable[..., FailoverClient]


@pytest.fixture
def clock() -> FakeClock:
    """Return a clock that a sleep sets forward."""
    return FakeClock()


@pytest.fixture
def client(clock: FakeClock) -> Client:
    """Return what makes a client on the test's clock, without jitter in its waits."""

    def make(*providers: Any, **arguments: Any) -> FailoverClient:
        arguments.setdefault("wait", tenacity.wait_exponential(multiplier=0.5, max=8))
        return FailoverClient(providers, clock=clock, **arguments)

    return make


def actor(name: str, *acts: Act, **arguments: Any) -> Actor:
    """A provider that plays these acts."""
    return Actor(*acts, name=name, **arguments)


class Tooled(Actor):
    """A provider whose model can call functions."""

    supports_tools = True


def names(attempts: tuple[Attempt, ...]) -> list[tuple[str, str | None]]:
    """Who was tried, and with what error."""
    return [(a.provider, None if a.error is None else type(a.error).__name__) for a in attempts]


def drain(stream: Iterator[str]) -> tuple[list[str], LLMError | None]:
    """All items of a stream, and the error that ended it."""
    items: list[str] = []
    try:
        items.extend(stream)
    except LLMError as error:
        return items, error
    return items, None


class TestOrder:
    def test_the_first_that_works_answers(self, client: Client) -> None:
        """The first provider answers as long as it can, and nobody else is asked."""
        first, second = actor("first", GOOD), actor("second", GOOD)
        reply = client(first, second).complete("Why?")
        assert (str(reply), reply.provider) == ("It scatters.", "first")
        assert (first.tries, second.tries) == (1, 0)
        assert names(reply.attempts) == [("first", None)]

    def test_503_twice_then_good(self, client: Client, clock: FakeClock) -> None:
        """What is retryable is tried again at the same provider, after growing waits."""
        first, second = actor("first", DOWN, DOWN, GOOD), actor("second", GOOD)
        reply = client(first, second).complete("Why?")
        assert (str(reply), reply.provider, second.tries) == ("It scatters.", "first", 0)
        assert clock.slept == [0.5, 1.0]
        assert [a.waited for a in reply.attempts] == [0.0, 0.5, 1.0]
        assert names(reply.attempts) == [
            ("first", "ServerError"),
            ("first", "ServerError"),
            ("first", None),
        ]

    def test_attempts_bound_the_tries(self, client: Client) -> None:
        """A provider is tried as often as ``attempts`` says, then the next one is."""
        first, second = actor("first", DOWN), actor("second", GOOD)
        reply = client(first, second, attempts=2).complete("Why?")
        assert (reply.provider, first.tries, second.tries) == ("second", 2, 1)

    @pytest.mark.parametrize("error", [REFUSED[0], BlockedError("challenge"), RefusedError("no")])
    def test_what_cannot_pass_moves_on_at_once(
        self, client: Client, clock: FakeClock, error: LLMError
    ) -> None:
        """An error that is not retryable goes to the next provider with no wait."""
        first, second = actor("first", [error]), actor("second", GOOD)
        assert client(first, second).complete("Why?").provider == "second"
        assert (first.tries, clock.slept) == (1, [])

    def test_all_failed(self, client: Client) -> None:
        """When all fail, the error tells in a line each what happened, and has every attempt."""
        providers = actor("first", DOWN), actor("second", REFUSED)
        with pytest.raises(AllProvidersFailed) as caught:
            client(*providers, attempts=2).complete("Why?")
        error = caught.value
        assert str(error).splitlines() == [
            "every provider failed:",
            "  first: ServerError: down",
            "  second: AuthenticationError: who are you?",
        ]
        assert names(error.attempts) == [
            ("first", "ServerError"),
            ("first", "ServerError"),
            ("second", "AuthenticationError"),
        ]
        assert isinstance(error.__cause__, AuthenticationError)
        assert error.provider == "FailoverClient"
        assert not error.retryable

    def test_all_failed_says_when_to_come_back(self, client: Client) -> None:
        """The nearest Retry-After of those that failed is the error's."""
        busy = [[RateLimitError("busy", retry_after=s)] for s in (90.0, 70.0)]
        with pytest.raises(AllProvidersFailed) as caught:
            client(actor("first", busy[0]), actor("second", busy[1])).complete("Why?")
        assert caught.value.retry_after == 70.0

    def test_nothing_before_the_first_next(self, client: Client) -> None:
        """Making a stream asks nobody."""
        first = actor("first", GOOD)
        stream = client(first).stream("Why?")
        assert first.tries == 0
        assert [*stream][:-1] == GOOD

    def test_needs_a_provider(self) -> None:
        """An empty list, a class in place of a provider, a wrong number: said at once."""
        with pytest.raises(ValueError, match="at least one provider"):
            FailoverClient([])
        with pytest.raises(TypeError, match=r"make it with \(\)"):
            FailoverClient([ChatGLM])  # type: ignore[list-item]
        with pytest.raises(TypeError, match=r"not 'ChatGLM'$"):
            FailoverClient(["ChatGLM"])  # type: ignore[list-item]
        for arguments in (
            {"deadline": 0},
            {"attempts": 0},
            {"hedge_after": -1},
            {"first_chunk_timeout": float("nan")},
            {"cooldown": -1},
            {"cooldown": float("inf")},
            {"max_retry_after": -1},
            {"failure_threshold": 0},
            {"on_interrupt": "ignore"},
            {"health": ""},
        ):
            with pytest.raises(ValueError, match=next(iter(arguments))):
                FailoverClient([ScriptedProvider()], **arguments)  # type: ignore[arg-type]

    @pytest.mark.parametrize("way", ["complete", "stream"])
    def test_all_are_asked_the_same(self, client: Client, way: str) -> None:
        """Whoever is tried gets the call's own question, timeout, proxy and parameters."""
        first, second = actor("first", REFUSED), actor("second", GOOD)
        asked = getattr(client(first, second), way)(
            "Why?", timeout=(1, 2), proxy="http://127.0.0.1:1", temperature=0.5
        )
        assert "".join(asked if way == "stream" else asked.text) == "It scatters."
        for (request,) in (first.requests, second.requests):
            assert request.messages == ({"role": "user", "content": "Why?"},)
            assert (request.timeout, request.proxy) == ((1, 2), "http://127.0.0.1:1")
            assert request.params == {"temperature": 0.5}

    def test_repr(self) -> None:
        """A client shows its class and its providers, and no key."""
        client = FailoverClient([OpenAICompatible(api_key="sk-hush-hush", name="local")])
        assert repr(client) == f"FailoverClient([{client.providers[0]!r}])"
        assert "hush" not in repr(client)


class TestInterruption:
    @pytest.mark.parametrize(
        "error",
        [
            StreamInterrupted("cut"),
            ServerError("in the stream"),
            ProviderTimeout("silence"),
            ConnectionFailed("reset"),
            ProtocolError("not JSON"),
        ],
    )
    def test_raise(self, client: Client, error: LLMError) -> None:
        """After text a failure is a StreamInterrupted with that text, and nobody is tried again."""
        first, second = actor("first", ["It ", "scat", error]), actor("second", GOOD)
        items, raised = drain(client(first, second).stream("Why?"))
        assert items == ["It ", "scat"]
        assert type(raised) is StreamInterrupted
        assert type(error) in (type(raised), type(raised.__cause__))
        assert raised.partial_text == "It scat"
        assert (first.tries, second.tries) == (1, 0)
        assert len(raised.attempts) == 1

    def test_restart_at_the_same_provider(self, client: Client) -> None:
        """With "restart" a Restart says what is void, and the next try begins anew."""
        first = actor("first", CUT, GOOD)
        items, raised = drain(client(first, on_interrupt="restart").stream("Why?"))
        assert raised is None
        assert items[:2] + items[3:5] == ["It ", "scat", *GOOD]
        restart = items[2]
        assert isinstance(restart, Restart)
        assert (restart.discarded_text, restart.provider) == ("It scat", "first")
        assert isinstance(items[5], FinishReason)

    def test_restart_at_the_next_provider(self, client: Client) -> None:
        """The Restart comes with the text that replaces the old, not before it."""
        first, second = actor("first", CUT), actor("second", DOWN, GOOD)
        stream = client(first, second, attempts=2, on_interrupt="restart").stream("Why?")
        items, raised = drain(stream)
        assert raised is None
        kinds = ["R" if isinstance(i, Restart) else str(i) for i in items[:-1]]
        assert kinds == ["It ", "scat", "R", "It ", "scat", "R", "It ", "scatters."]
        finish = items[-1]
        assert isinstance(finish, FinishReason)
        assert finish.provider == "second"
        assert len(finish.attempts) == 4

    def test_restart_that_never_comes(self, client: Client) -> None:
        """Text that no later try replaces is the error's partial text."""
        first, second = actor("first", CUT, DOWN), actor("second", REFUSED)
        stream = client(first, second, attempts=2, on_interrupt="restart").stream("Why?")
        items, raised = drain(stream)
        assert items == ["It ", "scat"]
        assert isinstance(raised, AllProvidersFailed)
        assert raised.partial_text == "It scat"

    def test_the_last_text_counts(self, client: Client) -> None:
        """Of several broken tries the partial text is what was shown last."""
        first, second = actor("first", CUT, REFUSED), actor("second", ["An", *CUT[2:]], REFUSED)
        stream = client(first, second, on_interrupt="restart").stream("Why?")
        _, raised = drain(stream)
        assert isinstance(raised, AllProvidersFailed)
        assert raised.partial_text == "An"

    def test_complete_recovers(self, client: Client) -> None:
        """A whole reply is asked for again where one broke in the middle, whatever on_interrupt."""
        first, second = actor("first", CUT), actor("second", CUT, GOOD)
        reply = client(first, second, attempts=2).complete("Why?")
        assert str(reply) == "It scatters."
        assert [a.provider for a in reply.attempts] == ["first", "first", "second", "second"]

    def test_closing_closes(self, client: Client) -> None:
        """A stream that is closed or dropped in the middle closes the reply under way."""
        first = actor("first", GOOD)
        with closing(client(first).stream("Why?")) as stream:
            assert next(stream) == "It "
            assert first.playing == 1
        assert first.playing == 0
        stream = client(first).stream("Why?")
        next(stream)
        del stream
        assert first.playing == 0


class TestAccept:
    @pytest.mark.parametrize(
        ("verdict", "taken"),
        [(True, True), (1, True), (False, False), (None, False), ("too short", False)],
    )
    def test_verdicts(self, client: Client, verdict: Any, taken: bool) -> None:
        """What is true takes the reply; what is false, or a reason, asks the next provider."""
        finish = FinishReason("stop", request_id="r7")
        first, second = actor("first", ["short", finish]), actor("second", GOOD)

        def accept(completion: Completion) -> Any:
            return verdict if completion.text == "short" else True

        reply = client(first, second, accept=accept).complete("Why?")
        assert reply.provider == ("first" if taken else "second")
        if not taken:
            error = reply.attempts[0].error
            assert isinstance(error, RejectedReplyError)
            assert (error.provider, error.partial_text) == ("first", "short")
            assert error.request_id == "r7"
            assert error.detail == (verdict or None)
            said = "accept turned the reply down"
            assert str(error) == (f"{said}: {verdict}" if verdict else said)

    def test_turned_down_inside(self, client: Client) -> None:
        """Of a client's attempts it is the last one whose reply was turned down."""
        inner = client(actor("a", DOWN, REFUSED), actor("b", ["short"]), name="inner")
        outer = client(inner, actor("c", GOOD), accept=lambda c: c.text != "short")
        attempts = outer.complete("Why?").attempts
        assert names(attempts) == [
            ("a", "ServerError"),
            ("a", "AuthenticationError"),
            ("b", "RejectedReplyError"),
            ("c", None),
        ]
        assert attempts[2].error is not None
        assert attempts[2].error.provider == "b"

    def test_streams_are_not_judged(self, client: Client) -> None:
        """``accept`` is for ``complete``: what a stream has shown cannot be taken back."""
        first = actor("first", GOOD)
        assert [*client(first, accept=lambda _: False).stream("Why?")][:-1] == GOOD

    def test_judges_the_last_try_alone(self, client: Client) -> None:
        """Text of a broken try is not part of what ``accept`` sees."""
        seen: list[str] = []

        def accept(completion: Completion) -> bool:
            seen.append(completion.text)
            return True

        inner = client(actor("inner", CUT, GOOD), on_interrupt="restart")
        client(inner, accept=accept).complete("Why?")
        client(actor("first", CUT, GOOD), accept=accept).complete("Why?")
        assert seen == ["It scatters."] * 2


class TestNotAReply:
    """What looks like an answer of a service and is none leads to the next provider."""

    @pytest.mark.parametrize(
        ("fault", "kind"),
        [
            ({"cut_after": 3}, StreamInterrupted),
            ({"cut_after": 0}, StreamInterrupted),
            ({"empty": True}, EmptyReplyError),
            ({"html": True}, BlockedError),
            ({"status": 200, "body": "<html><body>Welcome</body></html>"}, ProtocolError),
            ({"status": 200, "body": {"error": {"message": "overloaded"}}}, ServerError),
            ({"garbage": True}, ProtocolError),
            ({"status": 503}, ServerError),
            ({"reset": True}, ConnectionFailed),
        ],
        ids=lambda value: "_".join(value) if isinstance(value, dict) else value.__name__,
    )
    def test_faults(self, sandbox: Sandbox, fault: dict[str, Any], kind: type[LLMError]) -> None:
        """Cut, empty, a page, an error inside a 200, nonsense: each has its own class."""
        sandbox.fail("openai", times=9, **fault)
        with sandbox.client("openai", "chatglm", wait=tenacity.wait_none()) as client:
            reply = client.complete("Why?")
        assert reply.provider == "ChatGLM"
        assert {type(a.error) for a in reply.attempts[:-1]} == {kind}

    def test_white_space_alone(self) -> None:
        """A reply of nothing but white space is an empty one."""
        with (
            Sandbox(reply=" \n\t ") as blank,
            Sandbox() as good,
            FailoverClient(
                [
                    OpenAICompatible(**blank.provider_arguments("openai")),
                    ChatGLM(**good.provider_arguments("chatglm")),
                ],
                wait=tenacity.wait_none(),
            ) as client,
        ):
            reply = client.complete("Why?")
        assert names(reply.attempts) == [("OpenAICompatible", "EmptyReplyError")] * 3 + [
            ("ChatGLM", None)
        ]

    def test_a_filter_before_any_text(self, sandbox: Sandbox) -> None:
        """A refusal is not asked for again, and does not count against the service."""
        with sandbox.client("openai", actor("other", GOOD)) as client:
            reply = client.complete("trip the filter at once")
            assert names(reply.attempts) == [
                ("OpenAICompatible", "RefusedError"),
                ("other", None),
            ]
            assert str(client.report().providers[0].condition) == "well"


class TestFallThrough:
    def test_invalid_before_a_provider_is_turned_to(self, client: Client) -> None:
        """What no service could take ends the call before any provider is asked."""
        first = actor("first", GOOD)
        with pytest.raises(InvalidRequestError):
            client(first, actor("second", GOOD)).complete("")
        assert first.tries == 0

    def test_invalid_for_one_provider_moves_on(self, client: Client) -> None:
        """What one provider cannot take, its own settings included, is that provider's failure."""
        second = actor("second", GOOD)
        reply = client(actor("first", [InvalidRequestError("bad")]), second).complete("Why?")
        assert names(reply.attempts) == [("first", "InvalidRequestError"), ("second", None)]

    def test_invalid_to_a_service_moves_on(self, client: Client) -> None:
        """What one service calls wrong, another may take."""
        wrong = [InvalidRequestError("bad", status_code=422)]
        second = actor("second", GOOD)
        assert client(actor("first", wrong), second).complete("Why?").provider == "second"

    def test_classes_and_predicates(self, client: Client) -> None:
        """The caller may say after which errors the next provider is tried."""
        for fall_through in (
            ServerError,
            (ServerError, EmptyReplyError),
            lambda error: error.status_code == 503,
        ):
            second = actor("second", GOOD)
            make = {"attempts": 1, "fall_through": fall_through}
            assert client(actor("first", DOWN), second, **make).complete("?").provider == "second"
            with pytest.raises(AuthenticationError) as caught:
                client(actor("first", REFUSED), second, **make).complete("Why?")
            assert names(caught.value.attempts) == [("first", "AuthenticationError")]
            assert second.tries == 1


class TestModels:
    def test_pairs(self, client: Client) -> None:
        """A pair (provider, model) asks for that model where the call does not say another."""
        first = actor("first", GOOD)
        pair = client((first, "large"))
        pair.complete("Why?")
        pair.complete("Why?", model="small")
        assert [request.model for request in first.requests] == ["large", "small"]

    def test_a_model_of_another_provider(self, client: Client) -> None:
        """A provider that lacks the model is passed by, unasked and without a cooldown."""
        flow = FlowGpt()
        second = actor("second", GOOD)
        both = client(flow, second, fall_through=ServerError)
        reply = both.complete("Why?", model="sandbox-large")
        assert names(reply.attempts) == [("FlowGpt", "ModelNotFoundError"), ("second", None)]
        assert str(both.report().providers[0].condition) == "well"

    def test_a_model_that_nobody_has(self, client: Client) -> None:
        """Where all lack it, the attempts say so."""
        with pytest.raises(AllProvidersFailed) as caught:
            client(FlowGpt(), ChatGLM()).complete("Why?", model="gpt-99")
        assert all(isinstance(a.error, ModelNotFoundError) for a in caught.value.attempts)


class TestNested:
    def test_stands_where_a_provider_stands(self, client: Client) -> None:
        """A client in a client is tried like a provider; all attempts are told."""
        inner = client(actor("a", DOWN), actor("b", DOWN), attempts=1, name="inner")
        outer = client(inner, actor("c", GOOD), attempts=1)
        reply = outer.complete("Why?")
        assert reply.provider == "c"
        assert [a.provider for a in reply.attempts] == ["a", "b", "c"]

    def test_is_retried_as_a_whole(self, client: Client) -> None:
        """All its attempts are told each time, and the wait before them stands at the first."""
        inner = client(actor("a", DOWN), actor("b", DOWN, GOOD), attempts=1, cooldown=0)
        outer = client(inner, attempts=2, retry=tenacity.retry_always)
        reply = outer.complete("Why?")
        assert [(a.provider, a.waited) for a in reply.attempts] == [
            ("a", 0.0),
            ("b", 0.0),
            ("a", 0.5),
            ("b", 0.0),
        ]

    def test_its_restart_passes_through(self, client: Client) -> None:
        """A Restart of the inner client reaches the caller of the outer one."""
        inner = client(actor("a", CUT, GOOD), on_interrupt="restart")
        items, raised = drain(client(inner).stream("Why?"))
        assert raised is None
        assert [type(i) for i in items] == [str, str, Restart, str, str, FinishReason]

    @pytest.mark.parametrize("stream", [None, False])
    @pytest.mark.parametrize("wrapped", [False, True])
    def test_recovers_in_mid_reply(
        self, client: Client, tmp_path: Path, stream: Literal[False] | None, wrapped: bool
    ) -> None:
        """``complete`` recovers from a broken reply inside an inner client, also in a cache."""
        inner: BaseClient = client(actor("a", CUT), actor("b", GOOD), attempts=1, name="inner")
        if wrapped:
            inner = Cached(inner, tmp_path / "replies.db")
        outer = client(inner, attempts=1)
        assert outer.complete("Why?", stream=stream).text == "It scatters."
        assert outer.complete("Why, again?", stream=stream).provider == "b"

    @pytest.mark.parametrize("outer_of", ["client", "hedged", "cache", "twice"])
    def test_its_own_accept_holds(self, client: Client, tmp_path: Path, outer_of: str) -> None:
        """The ``accept`` of an inner client is asked when ``complete`` is called on the outer."""
        inner = client(actor("a", ["bad"]), actor("b", GOOD), accept=lambda c: c.text != "bad")
        outer = {
            "client": lambda: client(inner),
            "hedged": lambda: client(inner, actor("c", DOWN), hedge_after=600.0),
            "cache": lambda: client(Cached(inner, tmp_path / "replies.db")),
            "twice": lambda: client(client(inner)),
        }[outer_of]()
        assert outer.complete("Why?").text == "It scatters."
        assert [str(r.completion) for r in batch.run(outer, ["Why not?"])] == ["It scatters."]
        assert next(outer.stream("What else?")) == "bad"

    def test_its_own_accept_in_a_run(self, client: Client) -> None:
        """In a ``run`` it checks the final reply, not the ones that call functions."""

        def weather() -> str:
            """Tell the weather."""
            return "rain"

        calls = [{"id": "1", "type": "function", "function": {"name": "weather"}}]
        calling = [FinishReason("tool_calls", tool_calls=calls)]
        inner = client(
            Tooled(calling, ["bad"], name="a"),
            Tooled(GOOD, name="b"),
            accept=lambda completion: completion.text == "It scatters.",
        )
        reply = client(inner).run("Why?", tools=[weather])
        assert (reply.text, reply.provider) == ("It scatters.", "b")
        assert [step.result for step in reply.steps] == ["rain"]

    def test_its_own_on_length_holds(self, client: Client) -> None:
        """A reply that was cut leads to the next provider inside of an inner client, too."""
        cut = ["half", FinishReason("length")]
        inner = client(actor("a", cut), actor("b", GOOD), on_length="next")
        assert client(inner).complete("Why?").text == "It scatters."
        assert [*client(inner).stream("Why?")][:-1] == ["half"]

    def test_restarts_inside_if_the_outer_one_does(self, client: Client) -> None:
        """A stream that may restart also restarts inside of an inner client."""
        inner = client(actor("a", CUT), actor("b", GOOD), attempts=1, name="inner")
        outer = client(inner, attempts=1, on_interrupt="restart")
        items, raised = drain(outer.stream("Why?"))
        assert raised is None
        assert [type(i) for i in items] == [str, str, Restart, str, str, FinishReason]

    def test_its_broken_stream_is_its_providers(self, client: Client) -> None:
        """Of a stream that breaks inside of a client it is told which provider broke it."""
        _, raised = drain(client(client(actor("a", CUT), name="inner")).stream("Why?"))
        assert isinstance(raised, StreamInterrupted)
        assert raised.provider == "a"

    def test_its_own_deadline_is_a_failure_like_others(self, client: Client) -> None:
        """An inner client that is out of time is passed by, and cools down."""
        slow = client(actor("slow", [9.0, *GOOD]), deadline=2.0, name="inner")
        outer = client(slow, actor("c", GOOD))
        reply = outer.complete("Why?")
        assert names(reply.attempts) == [("slow", "DeadlineExceeded"), ("c", None)]
        assert outer.report().providers[0].condition.cooling > 0

    def test_the_outer_deadline_holds_inside(self, client: Client, clock: FakeClock) -> None:
        """The outer deadline ends everything: nobody is tried after it, inside or outside."""
        start = clock.monotonic()
        other = actor("b", GOOD)
        inner = client(actor("a", [60.0]), other)
        with pytest.raises(DeadlineExceeded) as caught:
            client(inner, actor("c", GOOD), deadline=2.0).complete("Why?")
        assert clock.monotonic() - start == 2.0
        assert other.tries == 0
        assert names(caught.value.attempts) == [("a", "DeadlineExceeded")]

    def test_a_whole_reply_inside_of_something_larger(
        self, client: Client, clock: FakeClock
    ) -> None:
        """A whole reply that is part of a batch, say, ends with that."""
        with pytest.raises(DeadlineExceeded):
            client(actor("a", [60.0, *GOOD])).answer(
                ChatRequest.of("Why?", params={}), CancelScope.lasting(2.0, clock=clock)
            )

    def test_the_outer_first_chunk_timeout_holds_inside(self, client: Client) -> None:
        """A client that has no text in time is left whole, not only its first provider."""
        other = actor("b", GOOD)
        inner = client(actor("a", [60.0]), other, name="inner")
        outer = client(inner, actor("c", GOOD), first_chunk_timeout=2.0, attempts=1)
        reply = outer.complete("Why?")
        assert names(reply.attempts) == [("a", "ProviderTimeout"), ("c", None)]
        assert other.tries == 0

    def test_one_that_fails_as_a_whole_cools(self, client: Client) -> None:
        """A client all of whose providers are down is put last."""
        inner = client(actor("a", DOWN), actor("b", DOWN), attempts=1, name="inner")
        outer = client(inner, actor("c", GOOD), attempts=1)
        assert outer.complete("Why?").provider == "c"
        assert outer.report().providers[0].condition.cooling > 0

    def test_its_failures_stand_below_it(self, client: Client) -> None:
        """What happened inside of a client is told further in, a line for each provider."""
        inner = client(actor("a", DOWN), actor("b", REFUSED), attempts=1, name="inner")
        with pytest.raises(AllProvidersFailed) as caught:
            client(inner, actor("c", DOWN), attempts=1).complete("Why?")
        assert str(caught.value).splitlines() == [
            "every provider failed:",
            "  inner: AllProvidersFailed: every provider failed:",
            "    a: ServerError: down",
            "    b: AuthenticationError: who are you?",
            "  c: ServerError: down",
        ]

    def test_what_was_its_callers_doing_does_not_cool_it(self, client: Client) -> None:
        """A client all of whose providers lack the model is not ill."""
        inner = client(FlowGpt(), name="inner")
        outer = client(inner, actor("c", GOOD))
        assert outer.complete("Why?", model="gpt-99").provider == "c"
        assert str(outer.report().providers[0].condition) == "well"


class TestLedger:
    def test_on_event_gets_each_attempt_as_it_ends(self, client: Client) -> None:
        """Every attempt is told once, in order, before the next one begins."""
        told: list[Attempt] = []
        seen: list[int] = []
        first = actor("first", [lambda: seen.append(len(told)), *DOWN])
        second = actor("second", [lambda: seen.append(len(told)), *GOOD])
        reply = client(first, second, attempts=2, on_event=told.append).complete("Why?")
        assert tuple(told) == reply.attempts
        assert seen == [0, 1, 2]

    def test_on_event_that_fails(self, client: Client, caplog: pytest.LogCaptureFixture) -> None:
        """A listener's own error is logged, and the call goes on."""

        def listen(_: Attempt) -> None:
            raise ZeroDivisionError

        assert str(client(actor("first", GOOD), on_event=listen).complete("Why?")) == "It scatters."
        assert "on_event failed" in caplog.text

    def test_attempt(self, client: Client, clock: FakeClock) -> None:
        """An attempt has its times by the one clock, its pieces and its model."""
        reply = client(actor("first", [1.0, "It ", 2.0, "scatters."])).complete("Why?")
        attempt = reply.attempts[0]
        assert attempt.started_at == clock.wall() - 3.0
        assert (attempt.first_chunk_after, attempt.duration, attempt.chunks) == (1.0, 3.0, 2)
        assert (attempt.provider, attempt.model) == ("first", "actor")

    def test_a_client_that_keeps_none(self, client: Client) -> None:
        """A client of one's own that tells of no attempts is tried again after a wait, too."""

        class Bare(BaseClient):
            name = "bare"
            tries = 0

            def generate(
                self, request: ChatRequest, scope: CancelScope | None = None
            ) -> Generator[str, None, None]:
                self.tries += 1
                if self.tries == 1:
                    raise ServerError("down", status_code=503)
                yield "Hello"
                yield FinishReason("stop")

            def close(self) -> None:
                pass

        reply = client(Bare()).complete("Why?")
        assert (str(reply), reply.attempts) == ("Hello", ())

    def test_finish_reason_and_completion_agree(self, client: Client) -> None:
        """A stream's last item has the attempts, as a completion has."""
        *_, finish = client(actor("first", DOWN, GOOD)).stream("Why?")
        assert isinstance(finish, FinishReason)
        assert names(finish.attempts) == [("first", "ServerError"), ("first", None)]

    def test_logs(self, client: Client, caplog: pytest.LogCaptureFixture) -> None:
        """Retries are told at INFO, failovers at WARNING, in numbers: no prompt and no reply."""
        caplog.set_level(logging.DEBUG, logger="llmproviders")
        echo = [ServerError("your words were: rosebud", status_code=503)]
        client(actor("first", echo), actor("second", GOOD), attempts=2).complete("rosebud")
        told = [(r.levelname, r.getMessage()) for r in caplog.records]
        assert told == [
            ("INFO", "first failed (ServerError 503), try 2 in 0.50 s"),
            ("WARNING", "first failed (ServerError 503), second is next"),
        ]


class TestSharing:
    def test_pickle(self, refused_port: int) -> None:
        """A client pickles with its providers and arguments, and without what it remembers."""
        client = FailoverClient(
            [
                (OpenAICompatible(base_url=f"http://127.0.0.1:{refused_port}/v1"), "m"),
                ChatGLM(name="glm"),
            ],
            attempts=2,
            wait=tenacity.wait_fixed(0),
            name="pair",
        )
        again = pickle.loads(pickle.dumps(client))
        assert [p.name for p in again.providers] == ["OpenAICompatible", "glm"]
        assert again.name == "pair"
        with pytest.raises(AllProvidersFailed) as caught:
            FailoverClient([again], attempts=1).complete("Why?", timeout=0.5, model="glm-4")
        assert [a.provider for a in caught.value.attempts][:2] == ["OpenAICompatible"] * 2

    def test_sixteen_threads(self, sandbox: Sandbox) -> None:
        """One client serves many threads at once: each gets its own whole reply."""
        with sandbox.client("chatglm", "openai") as client, ThreadPoolExecutor(16) as pool:
            expected = {n: str(client.complete(f"question {n}")) for n in range(4)}
            assert len(set(expected.values())) == 4
            replies = list(pool.map(lambda n: str(client.complete(f"question {n % 4}")), range(96)))
        assert replies == [expected[n % 4] for n in range(96)]

    def test_sixteen_threads_with_faults(self, sandbox: Sandbox) -> None:
        """Faults that hit some of many calls cost none of them its reply."""
        sandbox.fail("chatglm", status=503, times=10)
        sandbox.fail("chatglm", cut_after=2, times=10)
        with (
            sandbox.client("chatglm", "openai", wait=tenacity.wait_none(), attempts=2) as client,
            ThreadPoolExecutor(16) as pool,
        ):
            replies = list(pool.map(lambda n: client.complete("same question"), range(64)))
        assert {r.provider for r in replies} <= {"ChatGLM", "OpenAICompatible"}
        assert len({str(r) for r in replies if r.provider == "ChatGLM"}) <= 1
        assert all(str(r) for r in replies)

    @pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
    def test_fork_after_use(self, sandbox: Sandbox) -> None:
        """A forked child uses the client on connections of its own, and so does the parent."""
        client = sandbox.client("openai")
        expected = str(client.complete("Why?"))
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            os.write(write, str(client.complete("Why?")).encode())
            os._exit(0)
        os.close(write)
        with os.fdopen(read) as pipe:
            assert pipe.read() == expected
        os.waitpid(child, 0)
        assert str(client.complete("Why?")) == expected
        connections = [r.connection for r in sandbox.requests]
        assert connections[0] == connections[2] != connections[1]
        client.close()

    @pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
    def test_fork_while_a_lock_is_held(self, client: Client) -> None:
        """A child that was forked while another thread held the client's memory can use it."""
        both = client(actor("first", DOWN), actor("second", GOOD), attempts=1)
        held, done = threading.Event(), threading.Event()

        def hold() -> None:
            both._settings.health.store.change(lambda _: held.set() or done.wait(10))

        thread = threading.Thread(target=hold)
        thread.start()
        held.wait(10)
        child = os.fork()
        if child == 0:
            os._exit(0 if both.complete("Why?").provider == "second" else 1)
        _, status = os.waitpid(child, 0)
        done.set()
        thread.join()
        assert status == 0

    def test_no_thread(self, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
        """Without ``hedge_after`` no thread is made."""

        def refuse(thread: threading.Thread) -> None:
            raise AssertionError("a thread was started")

        monkeypatch.setattr(threading.Thread, "start", refuse)
        assert client(actor("a", DOWN), actor("b", GOOD)).complete("Why?").provider == "b"

    def test_closes_its_providers(self, sandbox: Sandbox) -> None:
        """Leaving the block closes every provider's connections."""
        with sandbox.client("openai", "chatglm") as client:
            client.complete("Why?")
        assert all(p._transport._adapters == {} for p in client.providers)  # type: ignore[attr-defined]

    def test_create_generator(self, client: Client) -> None:
        """The documents' call order works for a client, and fails over as well."""
        both = client(actor("a", REFUSED), actor("b", GOOD))
        messages = [{"role": "user", "content": "Why?"}]
        assert [*both.create_generator(None, messages, stream=False)][:-1] == ["It scatters."]
