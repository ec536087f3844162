"""One provider's part in one call: its tries, the waits between them, and their record."""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from math import inf
from typing import Literal
from urllib.parse import urlsplit

from .._log import logger
from .._request import Accept, ChatRequest
from .._runtime.retry import Policy, Tries, counts_against
from .._runtime.scope import CancelScope, Clock, ForkLock
from .._signals import from_handler, let_through
from ..client import BaseClient
from ..errors import (
    SLOWER,
    AllProvidersFailed,
    Attempt,
    LLMError,
    MissingAuthError,
    ModelNotFoundError,
    ProviderTimeout,
    RejectedReplyError,
    StreamInterrupted,
    UnsupportedError,
)
from ..provider import accepted, rejected
from ..results import Attempts, FinishReason, Reasoning, Restart
from ._health import Health, HealthKey, Permit
from ._hedging import Race, Runner
from ._report import History, ProviderStats

_DIGEST_LENGTH = 16


@dataclass(frozen=True)
class Target:
    """A provider as one client has it.

    Attributes:
        client: the provider, or another client.
        model: what it is asked for where the call does not say; None: its own default.
        number: which one it is, in priority order, from 0.
        namesakes: how many before it have the same name, address and model.
        tally: counts what happens to it.
    """

    client: BaseClient
    model: str | None
    number: int = 0
    namesakes: int = 0
    tally: ProviderStats = field(default_factory=ProviderStats, compare=False)

    @classmethod
    def all_of(cls, chosen: Iterable[tuple[BaseClient, str | None]]) -> tuple[Target, ...]:
        """A member for each provider and model, in priority order."""
        members: list[Target] = []
        for number, (client, model) in enumerate(chosen):
            server = server_of(client, model)
            namesakes = sum(server_of(other.client, other.model) == server for other in members)
            members.append(cls(client, model, number, namesakes))
        return tuple(members)

    def health_key(self) -> HealthKey:
        """What its health is remembered by; nothing of it is secret.

        It is made anew for each use: a key that was renewed since has no failures yet.
        """
        server = server_of(self.client, self.model)
        try:
            digest = self.client.credential_digest()
        except MissingAuthError:
            # The call will say so, where it can be helped.
            digest = None
        if digest is None:
            # Two of one service that nothing tells apart may well have a key each.
            alone = f"{server}#{self.namesakes + 1}" if self.namesakes else server
            return HealthKey(alone, alone)
        credential = f"{server}|{digest[:_DIGEST_LENGTH]}"
        # A client of several has no server of its own.
        return HealthKey(server if _address(self.client) else credential, credential)


def server_of(client: BaseClient, model: str | None) -> str:
    """A provider's name, its address and the model asked for.

    A password in the address is left out, and so is a query, where keys are put, too.
    """
    model = model or getattr(client, "model", None) or ""
    return "|".join((client.name, _address(client), model))


def _address(client: BaseClient) -> str:
    url = urlsplit(getattr(client, "base_url", ""))
    return f"{url.scheme}://{url.netloc.rpartition('@')[2]}{url.path}" if url.netloc else ""


@dataclass(frozen=True)
class FailoverSettings:
    """What a client's arguments say about every call."""

    policy: Policy
    health: Health
    first_chunk_timeout: float | None
    on_event: Callable[[Attempt], object] | None
    history: History


class AttemptLog:
    """The attempts of one call, each told to ``on_event`` as it ends."""

    def __init__(self, rules: FailoverSettings) -> None:
        self.attempts = Attempts()
        self._rules = rules
        self._lock = ForkLock()

    def add(
        self,
        attempts: Sequence[Attempt],
        *,
        waited: float,
        tally: ProviderStats,
        error: LLMError | None,
    ) -> None:
        """Enter one try, which came after ``waited`` seconds and ended with ``error``, if any."""
        if attempts and waited:
            first = replace(attempts[0], waited=attempts[0].waited + waited)
            attempts = (first, *attempts[1:])
        tally.tried(attempts, error)
        with self._lock.mine:
            self.attempts = Attempts((*self.attempts, *attempts))
        for attempt in attempts:
            self._rules.history.add(attempt)
            self._tell(attempt)

    def _tell(self, attempt: Attempt) -> None:
        if self._rules.on_event is None:
            return
        try:
            self._rules.on_event(attempt)
        except Exception as error:
            let_through(error)
            logger.exception("on_event failed; the call goes on")


@dataclass
class CallState:
    """One call of a client, over all its tries.

    Attributes:
        request: what is asked.
        scope: how long all of it may take.
        rules: the client's.
        restarts: whether a reply that breaks after text may begin anew.
        accept: what a whole reply has to please, or None.
        on_length: whether a reply that ``max_tokens`` cut is returned, or the next one asked for.
        waiting: the providers that are left to turn to, in priority order.
        ledger: the attempts.
        tries: how often each provider was tried, by its number.
        voided: stands before the next text, where text of a reply that broke is already out.
        broken: whether the call is over because text is out and it may not restart.
        longest: the text and the end of the longest reply that ``max_tokens`` cut, while a whole
            one is looked for.
        cut: what the last try failed with, if it was cut so.
        settle: to be called before the end is told, so that every attempt has ended.
    """

    request: ChatRequest
    scope: CancelScope
    rules: FailoverSettings
    restarts: bool
    accept: Accept | None
    on_length: Literal["return", "next"]
    waiting: list[Target]
    ledger: AttemptLog
    tries: dict[int, int] = field(default_factory=dict)
    voided: Restart | None = None
    broken: bool = False
    longest: tuple[str, FinishReason] | None = None
    cut: LLMError | None = None
    settle: Callable[[], None] = lambda: None

    def weigh(self, text: str, finish: FinishReason) -> None:
        """Look at a reply that ``max_tokens`` cut: is it the one to return?

        Raises:
            RejectedReplyError: another one is longer, or may turn out to be whole.
        """
        if self.longest is None or len(text) > len(self.longest[0]):
            self.longest = text, finish
        if self.longest[1] is finish and not self.waiting:
            return
        self.cut = rejected("max_tokens cut the reply", text, finish, detail="length")
        raise self.cut

    def next_member(self) -> tuple[Target, Permit]:
        """The provider to turn to now, by priority and health."""
        visit = self.rules.health.visit([member.health_key for member in self.waiting])
        return self.waiting.pop(visit.index), visit


class RetryLoop:
    """What one provider does for one call.

    Args:
        call: the call.
        member: the provider.
        visit: as its health granted it.
        scope: how long this may take: the call's, or one inside it.
        wins: asked when the first item is there: whether it may be delivered, or another lane
            was faster; None where there is no other lane. The first thought counts as an item
            and is yielded then, whether thoughts are wanted or not.
    """

    def __init__(
        self,
        call: CallState,
        member: Target,
        visit: Permit,
        scope: CancelScope,
        wins: Callable[[], bool] | None = None,
    ) -> None:
        self._call = call
        self._member = member
        self._visit = visit
        self._scope = scope
        self._wins = wins
        self._told = False

    def run(self) -> Generator[str, None, None]:
        """Yield its reply, with its tries, waits and restarts; or raise what it failed with."""
        call, member = self._call, self._member
        tries = Tries(
            call.rules.policy,
            self._scope,
            is_last=lambda: not call.waiting,
            made=call.tries.get(member.number, 0),
        )
        waited = 0.0
        try:
            member.tally.called()
            while True:
                call.tries[member.number] = tries.made
                one = _Try(call, member, self._scope)
                try:
                    for piece in one.stream:
                        if piece:
                            if not one.delivered:
                                self._claim(one)
                                one.deliver()
                                if call.voided is not None:
                                    yield call.voided
                                    call.voided = None
                            yield piece
                        elif type(piece) is Reasoning:
                            first = not one.claimed
                            self._claim(one)
                            one.live()
                            if call.request.reasoning:
                                if call.voided is not None:
                                    yield call.voided
                                    call.voided = None
                                one.thought = True
                                yield piece
                            elif first and self._wins is not None:
                                yield piece
                        else:
                            yield self._end(one, piece, waited)
                    return
                except LLMError as error:
                    let_through(error)
                    waited = self._pause(self._failure(one, error, waited), tries)
                finally:
                    one.close()
                self._scope.sleep(waited)
        except LLMError as error:
            let_through(error)
            error.provider = error.provider or member.client.name
            part = counts_against(error)
            if part is not None and not self._scope.over:
                self._told = True
                call.rules.health.failed(self._visit, part, retry_after=error.retry_after or 0.0)
            raise
        finally:
            if not self._told:
                call.rules.health.left(self._visit)

    def _pause(self, error: LLMError, tries: Tries) -> float:
        """Seconds to wait before the next try; raises ``error`` where there is none."""
        pause = None if self._call.broken else tries.wait_after(error)
        if pause is None:
            raise error
        name = self._member.client.name
        logger.info("%s failed (%s), try %d in %.2f s", name, brief(error), tries.made, pause)
        return pause

    def _claim(self, one: _Try) -> None:
        """Ask, before the first item, whether it may be delivered."""
        if not one.claimed:
            if self._wins is not None and not self._wins():
                raise _lost(one.attempt())
            one.claimed = True

    def _end(self, one: _Try, piece: str, waited: float) -> str:
        """What to yield for an item that is no text: the end of a reply, or a restart inside."""
        self._claim(one)
        if not isinstance(piece, FinishReason):
            return piece
        call = self._call
        self._enter(piece.attempts, waited, None)
        self._told = True
        call.rules.health.succeeded(self._visit)
        call.settle()
        if piece.attempts == call.ledger.attempts:
            return piece
        return piece.evolve(attempts=call.ledger.attempts)

    def _failure(self, one: _Try, error: LLMError, waited: float) -> LLMError:
        """What a try failed with, as callers are told of it."""
        call = self._call
        self._enter(error.attempts, waited, error)
        if self._scope.over:
            return error
        if not one.delivered:
            if one.thought:
                call.voided = Restart(provider=self._member.client.name)
            return error
        if call.restarts:
            call.voided = Restart(error.partial_text, provider=self._member.client.name)
            return error
        call.broken = True
        if isinstance(error, (StreamInterrupted, RejectedReplyError)):
            return error
        cut = StreamInterrupted.of(error)
        cut.partial_text = error.partial_text
        cut.__cause__ = error
        return cut

    def _enter(self, attempts: Sequence[Attempt], waited: float, error: LLMError | None) -> None:
        self._call.ledger.add(attempts, waited=waited, tally=self._member.tally, error=error)


class _Try:
    """One try of a provider.

    Attributes:
        stream: its reply.
        claimed: whether it may be delivered.
        delivered: whether text of it is out.
        thought: whether thoughts of it are out.
    """

    def __init__(self, call: CallState, member: Target, parent: CancelScope) -> None:
        self.claimed = self.delivered = self.thought = False
        self._client = member.client
        self._model = call.request.model or member.model
        self._scope = scope = CancelScope(parent=parent)
        self._started_at, self._start = scope.clock.wall(), scope.clock.monotonic()
        if call.rules.first_chunk_timeout is not None:
            scope.limit = self._start + call.rules.first_chunk_timeout
        # Thoughts are a sign of life, whether the caller wants to see them or not.
        request = replace(call.request, model=self._model, reasoning=True)
        self.stream = self._client.generate(request, scope)
        if call.accept is not None:
            holds = not call.request.stream
            self.stream = accepted(self.stream, call.accept, holds=holds)
        if call.restarts and call.on_length == "next":
            self.stream = _weighed(self.stream, call)

    def deliver(self) -> None:
        """Its first text goes out."""
        self.delivered = True
        self.live()

    def live(self) -> None:
        """It has text or thinks, so that the rest has the time of the call."""
        self._scope.limit = inf

    def attempt(self) -> Attempt:
        """What there is to say of it, should it end now."""
        now = self._scope.clock.monotonic() - self._start
        return Attempt(self._client.name, self._model, self._started_at, now, now)

    def close(self) -> None:
        """End it."""
        self.stream.close()
        self._scope.close()


def _lost(attempt: Attempt) -> ProviderTimeout:
    error = ProviderTimeout(SLOWER, retryable=False)
    error.attempts = (replace(attempt, error=error, chunks=1),)
    return error


def _weighed(stream: Generator[str, None, None], call: CallState) -> Generator[str, None, None]:
    """The same stream, which fails at its end where ``max_tokens`` cut it and others are left."""
    kept: list[str] = []
    with closing(stream):
        for piece in stream:
            if type(piece) is str:
                kept.append(piece)
            elif isinstance(piece, Restart):
                kept.clear()
            elif isinstance(piece, FinishReason) and piece.reason == "length":
                call.weigh("".join(kept), piece)
            yield piece


def brief(error: LLMError) -> str:
    """An error for a log: its class and its status, never its words, which may be a prompt's."""
    name = type(error).__name__
    return name if error.status_code is None else f"{name} {error.status_code}"


FallThrough = type[LLMError] | tuple[type[LLMError], ...] | Callable[[LLMError], bool]


class Router:
    """Runs calls over the providers of one client.

    Args:
        name: the client's.
        members: its providers, in priority order.
        rules: what holds for every call.
        deadline: seconds for a whole call, or None.
        clock: where time comes from.
        hedge_after: seconds after which the next provider is started beside a slow one, or None.
        fall_through: the errors after which the next provider is tried, or None: all.
        on_length: whether a reply that ``max_tokens`` cut is returned, or the next one asked for.
    """

    def __init__(
        self,
        name: str,
        members: tuple[Target, ...],
        rules: FailoverSettings,
        *,
        deadline: float | None,
        clock: Clock,
        hedge_after: float | None,
        fall_through: FallThrough | None,
        on_length: Literal["return", "next"],
    ) -> None:
        self._name = name
        self._deadline = deadline
        self._clock = clock
        self._members = members
        self._rules = rules
        self._hedge_after = hedge_after
        self._fall_through = fall_through
        self._on_length = on_length

    def run(
        self,
        request: ChatRequest,
        parent: CancelScope | None,
        *,
        restarts: bool,
        accept: Accept | None,
    ) -> Generator[str, None, None]:
        """Yield the first whole reply and its ``FinishReason``; or raise an ``LLMError``.

        Args:
            request: what is asked.
            parent: the scope of what it is part of, or None.
            restarts: whether a reply that breaks after text may begin anew.
            accept: what a whole reply has to please, or None.
        """
        deadline = self._deadline if request.deadline is None else request.deadline
        scope = CancelScope.lasting(deadline, clock=self._clock, parent=parent)
        call = CallState(
            request=request.plain(),
            scope=scope,
            rules=self._rules,
            restarts=restarts,
            accept=accept,
            on_length=self._on_length,
            waiting=list(self._members),
            ledger=AttemptLog(self._rules),
        )
        try:
            failures: list[LLMError] = []
            while call.waiting:
                try:
                    if self._hedge_after is None or len(call.waiting) == 1:
                        member, visit = _turn(call, failures[-1] if failures else None)
                        yield from RetryLoop(call, member, visit, scope).run()
                    else:
                        yield from self._race(call, failures, self._hedge_after)
                except LLMError as error:
                    let_through(error)
                    failures.append(error)
                    if call.broken:
                        raise
                    if not scope.over and self._moves_on(call, error):
                        continue
                    if call.longest is not None:
                        break
                    if scope.over:
                        _raise_ended(scope, error)
                    raise
                else:
                    return
            if call.longest is not None:
                yield from _cut_reply(call, *call.longest)
                return
            raise _all_failed(self._name, failures) from failures[-1]
        except BaseException as error:
            if not isinstance(error, LLMError) or from_handler(error):
                scope.cancel("the call was interrupted")
                raise
            call.settle()
            error.attempts = call.ledger.attempts
            if call.voided is not None:
                error.partial_text = call.voided.discarded_text
            raise
        finally:
            scope.close()

    def _race(
        self, call: CallState, failures: list[LLMError], hedge_after: float
    ) -> Generator[str, None, None]:
        """The first members' reply that has text, each started a while after the one before."""
        race = Race(call.scope, hedge_after)
        call.settle = race.settle
        racing: dict[Runner, Target] = {}
        try:
            failure = failures[-1] if failures else None
            while True:
                if race.wants_another and call.waiting:
                    member, visit = _turn(call, failure, beside=racing.values())
                    racing[race.start(partial(_lane, call, member, visit))] = member
                    failure = None
                ended = race.wait(more=bool(call.waiting))
                if ended is None:
                    continue
                del racing[ended]
                failure = ended.error
                if failure is None:
                    self._take_back(call, racing.values())
                    yield from ended.stream(reasoning=call.request.reasoning)
                    return
                if not self._moves_on(call, failure):
                    if not racing:
                        raise failure
                    call.waiting.clear()
                if not (racing or call.waiting):
                    raise failure
                failures.append(failure)
        finally:
            race.end()

    def _take_back(self, call: CallState, losers: Collection[Target]) -> None:
        """Let a call turn again to those that were not slow enough to have failed.

        Should the winner break, they are tried with what is left of their tries.
        """
        most = self._rules.policy.attempts
        call.waiting = [
            member
            for member in self._members
            if member in call.waiting
            or (member in losers and call.tries.get(member.number, 0) < most)
        ]

    def _moves_on(self, call: CallState, error: LLMError) -> bool:
        chosen = self._fall_through
        if chosen is None or error is call.cut:
            return True
        if isinstance(error, (ModelNotFoundError, UnsupportedError)):
            return True
        if isinstance(chosen, (type, tuple)):
            return isinstance(error, chosen)
        return chosen(error)


def _turn(
    call: CallState, failure: LLMError | None, beside: Collection[Target] = ()
) -> tuple[Target, Permit]:
    """The provider to turn to next, and the reason for the log: a failure, or slow others."""
    member, visit = call.next_member()
    name = member.client.name
    if failure is not None:
        logger.warning("%s failed (%s), %s is next", failure.provider, brief(failure), name)
    elif beside:
        slow = ", ".join(other.client.name for other in beside)
        logger.info("%s has no text yet, %s is started beside it", slow, name)
    return member, visit


def _lane(
    call: CallState, member: Target, visit: Permit, scope: CancelScope, wins: Callable[[], bool]
) -> Generator[str, None, None]:
    return RetryLoop(call, member, visit, scope, wins).run()


def _cut_reply(call: CallState, text: str, finish: FinishReason) -> Generator[str, None, None]:
    """The longest of the replies that ``max_tokens`` cut, where there is no whole one."""
    call.settle()
    if call.voided is not None:
        yield call.voided
        call.voided = None
    if text:
        yield text
    yield finish.evolve(attempts=call.ledger.attempts)


def _raise_ended(scope: CancelScope, error: LLMError) -> None:
    """Raise what ended the call, unless ``error`` says so itself."""
    ended = scope.error()
    if not isinstance(error, type(ended)):
        ended.partial_text = error.partial_text
        raise ended from error


def _all_failed(name: str, failures: Sequence[LLMError]) -> AllProvidersFailed:
    lines = [f"{e.provider}: {type(e).__name__}: {e}".replace("\n", "\n  ") for e in failures]
    rests = [e.retry_after for e in failures if e.retry_after is not None]
    return AllProvidersFailed(
        "\n  ".join(["every provider failed:", *lines]),
        provider=name,
        retry_after=min(rests, default=None),
    )
