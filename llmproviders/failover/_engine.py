"""Runs one call over several providers: the order, the number of tries, the waits between them.

From the top down: ``Router`` goes from provider to provider, ``RetryLoop`` retries one of them, and
``_Try`` is a single try. They share a ``CallState``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Generator, Sequence
from contextlib import closing
from copy import copy
from dataclasses import dataclass, field, replace
from functools import partial
from math import inf
from typing import Literal

from .._log import logger
from .._request import Accept, ChatRequest
from .._runtime.scope import STOPPED, CancelScope, Clock
from .._signals import from_handler, let_through
from ..errors import (
    SLOWER,
    AllProvidersFailed,
    Attempt,
    ConnectionFailed,
    LLMError,
    ModelNotFoundError,
    ProviderTimeout,
    RejectedReplyError,
    StreamInterrupted,
    UnsupportedError,
)
from ..results import Attempts, FinishReason, Reasoning, Restart, StreamText, accepted, rejected
from ._health import Health, Permit
from ._hedging import Race, Runner
from ._target import (
    History,
    ProviderStats,
    Target,
    TenacityBackoff,
    counts_against,
    outcome_of,
)

LONGEST_LAST_WAIT_S = 60.0
"""The longest ``Retry-After``, in seconds, that is waited for when no other provider is left."""

FallThrough = type[LLMError] | tuple[type[LLMError], ...] | Callable[[LLMError], bool]


@dataclass(frozen=True)
class FailoverSettings:
    """The settings of a client that apply to every call.

    Attributes:
        attempts: the most tries of one provider in a call, the first included.
        backoff: decides whether there is a next try, and after what wait.
        max_retry_after: the longest ``Retry-After``, in seconds, waited for while another
            provider is left.
        health: the condition of the providers.
        first_chunk_timeout: seconds a provider has for its first text or thought, or None.
        on_event: gets every attempt as it ends, or None.
        history: keeps the last attempts.
    """

    attempts: int
    backoff: TenacityBackoff
    max_retry_after: float
    health: Health
    first_chunk_timeout: float | None
    on_event: Callable[[Attempt], object] | None
    history: History


@dataclass(frozen=True)
class Router:
    """Runs the calls of one client over its providers.

    Attributes:
        name: the client's name.
        targets: its providers, in priority order.
        settings: the settings for every call.
        deadline: seconds for a whole call, or None.
        clock: the source of time.
        hedge_after: seconds after which the next provider is started beside a slow one, or None.
        fall_through: the errors after which the next provider is tried, or None: all.
        on_length: whether a reply that ``max_tokens`` cut is returned, or the next provider tried.
    """

    name: str
    targets: tuple[Target, ...]
    settings: FailoverSettings
    deadline: float | None
    clock: Clock
    hedge_after: float | None
    fall_through: FallThrough | None
    on_length: Literal["return", "next"]

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
            parent: the scope that this call is part of, or None.
            restarts: whether a reply that breaks after text may start over.
            accept: the check that a whole reply has to pass, or None.
        """
        deadline = self.deadline if request.deadline is None else request.deadline
        scope = CancelScope.lasting(deadline, clock=self.clock, parent=parent)
        call = CallState(
            request=request,
            scope=scope,
            settings=self.settings,
            restarts=restarts,
            accept=accept,
            on_length=self.on_length,
            waiting=list(self.targets),
            log=AttemptLog(self.settings),
        )
        try:
            failures: list[LLMError] = []
            while call.waiting:
                try:
                    if self.hedge_after is None or len(call.waiting) == 1:
                        target, permit = call.next_target(failures[-1] if failures else None)
                        yield from RetryLoop(call, target, permit, scope).run()
                    else:
                        yield from self._race(call, failures, self.hedge_after)
                except LLMError as error:
                    let_through(error)
                    failures.append(error)
                    if call.broken:
                        raise
                    if not scope.over and self._tries_next(call, error):
                        continue
                    if call.longest is not None:
                        break
                    if scope.over:
                        _raise_ended(scope, error)
                    raise
                else:
                    return
            if call.longest is not None:
                yield from call.longest_reply(*call.longest)
                return
            for failure in failures:
                logger.debug("%s failed", failure.provider, exc_info=failure)
            # A copy, without traceback and causes: an uncaught error is then read in a few lines.
            # The attempts and the log have all of it.
            raise _all_failed(self.name, failures) from copy(failures[-1])
        except BaseException as error:
            if not isinstance(error, LLMError) or from_handler(error):
                scope.cancel("the call was interrupted")
                raise
            call.settle()
            error.attempts = call.log.attempts
            if call.voided is not None:
                error.partial_text = call.voided.discarded_text
            raise
        finally:
            scope.close()

    def _race(
        self, call: CallState, failures: list[LLMError], hedge_after: float
    ) -> Generator[str, None, None]:
        """Start providers one after another, and yield the first reply that has text."""
        race = Race(call.scope, hedge_after)
        call.settle = race.settle
        racing: dict[Runner, Target] = {}
        try:
            failure = failures[-1] if failures else None
            while True:
                if race.wants_another and call.waiting:
                    target, permit = call.next_target(failure, beside=racing.values())
                    racing[race.start(partial(_start, call, target, permit))] = target
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
                if not self._tries_next(call, failure):
                    if not racing:
                        raise failure
                    call.waiting.clear()
                if not (racing or call.waiting):
                    raise failure
                failures.append(failure)
        finally:
            race.end()

    def _take_back(self, call: CallState, losers: Collection[Target]) -> None:
        """Put the losers of a race back into the waiting list: they were slower, but did not fail.

        If the winner's reply breaks off, they still have the rest of their tries.
        """
        most = self.settings.attempts
        call.waiting = [
            target
            for target in self.targets
            if target in call.waiting or (target in losers and call.tries[target.number] < most)
        ]

    def _tries_next(self, call: CallState, error: LLMError) -> bool:
        """Whether the next provider is tried after ``error``."""
        if call.scope.draining:
            return False
        chosen = self.fall_through
        if chosen is None or error is call.cut:
            return True
        if isinstance(error, (ModelNotFoundError, UnsupportedError)):
            return True
        if isinstance(chosen, (type, tuple)):
            return isinstance(error, chosen)
        return chosen(error)


def _start(
    call: CallState, target: Target, permit: Permit, scope: CancelScope, wins: Callable[[], bool]
) -> Generator[str, None, None]:
    return RetryLoop(call, target, permit, scope, wins).run()


def _raise_ended(scope: CancelScope, error: LLMError) -> None:
    """Raise the error of the ended scope, unless ``error`` is already of that class."""
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


@dataclass
class CallState:
    """The state of one call, over all its tries.

    Attributes:
        request: what is asked.
        scope: how long all of it may take.
        settings: the client's.
        restarts: whether a reply that breaks after text may start over.
        accept: the check that a whole reply has to pass, or None.
        on_length: whether a reply that ``max_tokens`` cut is returned, or the next provider tried.
        waiting: the providers not tried yet, in priority order.
        log: the attempts.
        tries: how often each provider was tried, by its number.
        voided: the ``Restart`` to yield before the next text, if some of a broken reply was
            yielded.
        broken: whether the call is over because text was yielded and it may not restart.
        longest: the text and the end of the longest reply that ``max_tokens`` cut, while other
            providers are tried for a whole one.
        cut: the error of the last try, if ``max_tokens`` cut it.
        settle: waits until every attempt has ended; called before the call's end is reported.
    """

    request: ChatRequest
    scope: CancelScope
    settings: FailoverSettings
    restarts: bool
    accept: Accept | None
    on_length: Literal["return", "next"]
    waiting: list[Target]
    log: AttemptLog
    tries: Counter[int] = field(default_factory=Counter)
    voided: Restart | None = None
    broken: bool = False
    longest: tuple[str, FinishReason] | None = None
    cut: LLMError | None = None
    settle: Callable[[], None] = lambda: None

    def next_target(
        self, failure: LLMError | None, beside: Collection[Target] = ()
    ) -> tuple[Target, Permit]:
        """Choose the next provider, by priority and health.

        Args:
            failure: the error of the previous one, for the log, or None.
            beside: the slow ones that are still running.
        """
        permit = self.settings.health.visit([target.health_key for target in self.waiting])
        target = self.waiting.pop(permit.index)
        name = target.client.name
        if failure is not None:
            logger.warning("%s failed (%s), %s is next", failure.provider, brief(failure), name)
        elif beside:
            slow = ", ".join(other.client.name for other in beside)
            logger.info("%s has no text yet, %s is started beside it", slow, name)
        return target, permit

    def restart(self) -> tuple[Restart, ...]:
        """Return the ``Restart`` to yield before the next item, if one is due."""
        if self.voided is None:
            return ()
        due, self.voided = self.voided, None
        return (due,)

    def weigh(self, text: str, finish: FinishReason) -> None:
        """Keep a reply that ``max_tokens`` cut, unless a longer one is kept already.

        Raises:
            RejectedReplyError: another one is longer, or a provider is left that may do better.
        """
        if self.longest is None or len(text) > len(self.longest[0]):
            self.longest = text, finish
        if self.longest[1] is finish and not self.waiting:
            return
        self.cut = rejected(
            "max_tokens cut the reply", text, finish, detail="length", kind=RejectedReplyError
        )
        raise self.cut

    def longest_reply(self, text: str, finish: FinishReason) -> Generator[str, None, None]:
        """Yield the longest reply that ``max_tokens`` cut; used if no reply was whole."""
        self.settle()
        yield from self.restart()
        if text:
            yield text
        yield finish.evolve(attempts=self.log.attempts)


class AttemptLog:
    """The attempts of one call; calls ``on_event`` for each as it ends.

    Racing providers add to it from their own threads; extending a list is atomic.
    """

    def __init__(self, settings: FailoverSettings) -> None:
        self._attempts: list[Attempt] = []
        self._settings = settings

    @property
    def attempts(self) -> Attempts:
        """The attempts so far, in the order in which they ended."""
        return Attempts(self._attempts)

    def add(
        self,
        attempts: Sequence[Attempt],
        *,
        waited: float,
        stats: ProviderStats,
        error: LLMError | None,
    ) -> None:
        """Add one try, which came after ``waited`` seconds and ended with ``error``, if any."""
        if attempts and waited:
            first = replace(attempts[0], waited=attempts[0].waited + waited)
            attempts = (first, *attempts[1:])
        stats.tried(attempts, error)
        self._attempts.extend(attempts)
        for attempt in attempts:
            self._settings.history.add(attempt)
            self._tell(attempt)

    def _tell(self, attempt: Attempt) -> None:
        if self._settings.on_event is None:
            return
        try:
            self._settings.on_event(attempt)
        except Exception as error:
            let_through(error)
            logger.exception("on_event failed; the call continues")


class RetryLoop:
    """Tries one provider in one call, with the waits between tries.

    Args:
        call: the call.
        target: the provider.
        permit: the permit from its health.
        scope: how long this may take: the call's, or one inside it.
        wins: called in a race when the first item has arrived; returns whether this provider was
            the first. A thought counts as an item, and is then yielded even if the caller did not
            ask for thoughts. None: there is no race.
    """

    def __init__(
        self,
        call: CallState,
        target: Target,
        permit: Permit,
        scope: CancelScope,
        wins: Callable[[], bool] | None = None,
    ) -> None:
        self._call = call
        self._target = target
        self._permit = permit
        self._scope = scope
        self._wins = wins
        self._made = call.tries[target.number]
        self._began = 0.0
        self._slept = 0.0
        self._waited = 0.0
        self._reported = False

    def run(self) -> Generator[str, None, None]:
        """Yield the provider's reply, after retries if needed; or raise its last error."""
        call, target = self._call, self._target
        try:
            self._began = self._scope.clock.monotonic()
            while True:
                self._made += 1
                call.tries[target.number] = self._made
                one = _Try(call, target, self._scope)
                try:
                    for piece in one.stream:
                        if piece:
                            if not one.delivered:
                                self._claim(one)
                                one.deliver()
                                yield from call.restart()
                            yield piece
                        elif type(piece) is Reasoning:
                            yield from self._thought(one, piece)
                        else:
                            yield self._end(one, piece)
                    return
                except LLMError as error:
                    let_through(error)
                    self._waited = self._wait_after(self._failure(one, error))
                finally:
                    one.close()
                self._scope.sleep(self._waited)
                self._slept += self._waited
        except LLMError as error:
            let_through(error)
            error.provider = error.provider or target.client.name
            part = counts_against(error)
            if part is not None and not self._scope.over:
                self._reported = True
                rest = error.retry_after or 0.0
                call.settings.health.failed(self._permit, part, retry_after=rest)
            raise
        finally:
            target.stats.called()
            if not self._reported:
                call.settings.health.left(self._permit)

    def _claim(self, one: _Try) -> None:
        """Before yielding the first item of a try in a race, check that it has won."""
        if not one.claimed:
            if self._wins is not None and not self._wins():
                raise _lost(one.attempt())
            one.claimed = True

    def _thought(self, one: _Try, piece: str) -> Generator[str, None, None]:
        is_first = not one.claimed
        self._claim(one)
        one.live()
        if self._call.request.reasoning:
            yield from self._call.restart()
            one.thought = True
            yield piece
        elif is_first and self._wins is not None:
            yield piece

    def _end(self, one: _Try, piece: str) -> str:
        """Return the item to yield for the end of a reply, or for a restart of an inner client."""
        self._claim(one)
        if not isinstance(piece, FinishReason):
            return piece
        call = self._call
        self._log(piece.attempts, None)
        self._reported = True
        call.settings.health.succeeded(self._permit)
        self._target.budget.give_back(self._made - 1)
        call.settle()
        attempts = call.log.attempts
        return piece if piece.attempts == attempts else piece.evolve(attempts=attempts)

    def _failure(self, one: _Try, error: LLMError) -> LLMError:
        """The error of a failed try, as callers see it."""
        call = self._call
        attempts = error.attempts
        if not attempts and isinstance(error, UnsupportedError):
            # The provider was skipped without an attempt; report one, so the caller sees why.
            attempts = (one.attempt(error),)
        if error.limit != STOPPED:
            self._log(attempts, error)
        if self._scope.over:
            return error
        if not one.delivered:
            if one.thought:
                call.voided = Restart(provider=self._target.client.name)
            return error
        if call.restarts:
            call.voided = Restart(error.partial_text, provider=self._target.client.name)
            return error
        call.broken = True
        if isinstance(error, (StreamInterrupted, RejectedReplyError)):
            return error
        cut = StreamInterrupted.of(error)
        cut.partial_text = error.partial_text
        cut.__cause__ = error
        return cut

    def _log(self, attempts: Sequence[Attempt], error: LLMError | None) -> None:
        stats = self._target.stats
        self._call.log.add(attempts, waited=self._waited, stats=stats, error=error)

    def _wait_after(self, error: LLMError) -> float:
        """Seconds to wait before the next try; raise ``error`` if there is none."""
        call, scope = self._call, self._scope
        settings = call.settings
        longest = settings.max_retry_after if call.waiting else LONGEST_LAST_WAIT_S
        if (
            call.broken
            or scope.over
            or scope.draining
            or self._made >= min(settings.attempts, outcome_of(error).tries)
            or (error.retry_after or 0.0) > longest
        ):
            raise error
        now = scope.clock.monotonic()
        wait = settings.backoff(
            error, made=self._made, began=self._began, now=now, slept=self._slept
        )
        if wait is None or wait >= scope.remaining():
            raise error
        name = self._target.client.name
        if not self._target.budget.take():
            logger.info("%s failed (%s), its retries are used up", name, brief(error))
            raise error
        logger.info("%s failed (%s), try %d in %.2f s", name, brief(error), self._made + 1, wait)
        return wait


class _Try:
    """One try of a provider.

    Attributes:
        stream: its reply.
        claimed: whether it may be yielded: there is no race, or it has won.
        delivered: whether some of its text was yielded.
        thought: whether some of its thoughts were yielded.
    """

    def __init__(self, call: CallState, target: Target, parent: CancelScope) -> None:
        self.claimed = self.delivered = self.thought = False
        self._client = target.client
        self._model = call.request.model or target.model
        self._scope = scope = CancelScope(parent=parent)
        self._started_at, self._start = scope.clock.wall(), scope.clock.monotonic()
        if call.settings.first_chunk_timeout is not None:
            scope.limit = self._start + call.settings.first_chunk_timeout
        request = replace(
            call.request,
            model=self._model,
            # Thoughts show that the provider answers, even if the caller did not ask for them.
            reasoning=True,
            # Both apply to the whole call and are handled here.
            deadline=None,
            accept=None,
            # A client inside this one may start over if this one may.
            reader="restarting"
            if call.restarts and call.request.reader == "stream"
            else call.request.reader,
        )
        self.stream = self._client.generate(request, scope)
        if call.accept is not None:
            holds = not call.request.stream
            self.stream = accepted(self.stream, call.accept, holds=holds)
        if call.restarts and call.on_length == "next":
            self.stream = _failing_if_cut(self.stream, call)

    def deliver(self) -> None:
        """Record that its first text is yielded."""
        self.delivered = True
        self.live()

    def live(self) -> None:
        """Lift the limit of the first item: text or a thought has arrived."""
        self._scope.limit = inf

    def attempt(self, error: LLMError | None = None) -> Attempt:
        """The attempt, as if it ended now."""
        now = self._scope.clock.monotonic() - self._start
        return Attempt(self._client.name, self._model, self._started_at, None, now, error)

    def close(self) -> None:
        """Close its stream and scope."""
        self.stream.close()
        self._scope.close()


def _lost(attempt: Attempt) -> ProviderTimeout:
    error = ProviderTimeout(SLOWER, retryable=False)
    error.attempts = (replace(attempt, error=error, first_chunk_after=attempt.duration, chunks=1),)
    return error


def _failing_if_cut(
    stream: Generator[str, None, None], call: CallState
) -> Generator[str, None, None]:
    """The same stream; a reply that ``max_tokens`` cut fails if other providers are left."""
    said = StreamText()
    with closing(stream):
        for piece in stream:
            said.add(piece)
            if said.finish is not None and said.finish.reason == "length":
                call.weigh(said.text, said.finish)
            yield piece


def brief(error: LLMError) -> str:
    """An error for the log, without a service's words, which may quote a prompt."""
    name = type(error).__name__
    if isinstance(error, (ConnectionFailed, ProviderTimeout)) and error.status_code is None:
        return f"{name}: {error}"
    return name if error.status_code is None else f"{name} {error.status_code}"
