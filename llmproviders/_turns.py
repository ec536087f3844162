"""Whose turn it is in the calls of one client, by priority and health, one by one or in a race."""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Sequence
from functools import partial
from typing import Literal

from ._clock import Clock, Scope
from ._health import Visit
from ._hedge import Race, Runner
from ._lane import Call, Lane, Ledger, Member, Rules, brief
from ._log import logger
from ._request import Accept, Request
from ._signals import from_handler, let_through
from .errors import AllProvidersFailed, LLMError, ModelNotFoundError, UnsupportedError
from .results import FinishReason

FallThrough = type[LLMError] | tuple[type[LLMError], ...] | Callable[[LLMError], bool]


class Turns:
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
        members: tuple[Member, ...],
        rules: Rules,
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
        self, request: Request, parent: Scope | None, *, restarts: bool, accept: Accept | None
    ) -> Generator[str, None, None]:
        """Yield the first whole reply and its ``FinishReason``; or raise an ``LLMError``.

        Args:
            request: what is asked.
            parent: the scope of what it is part of, or None.
            restarts: whether a reply that breaks after text may begin anew.
            accept: what a whole reply has to please, or None.
        """
        deadline = self._deadline if request.deadline is None else request.deadline
        scope = Scope.lasting(deadline, clock=self._clock, parent=parent)
        call = Call(
            request=request.plain(),
            scope=scope,
            rules=self._rules,
            restarts=restarts,
            accept=accept,
            on_length=self._on_length,
            waiting=list(self._members),
            ledger=Ledger(self._rules),
        )
        try:
            failures: list[LLMError] = []
            while call.waiting:
                try:
                    if self._hedge_after is None or len(call.waiting) == 1:
                        member, visit = _turn(call, failures[-1] if failures else None)
                        yield from Lane(call, member, visit, scope).run()
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
        self, call: Call, failures: list[LLMError], hedge_after: float
    ) -> Generator[str, None, None]:
        """The first members' reply that has text, each started a while after the one before."""
        race = Race(call.scope, hedge_after)
        call.settle = race.settle
        racing: dict[Runner, Member] = {}
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

    def _take_back(self, call: Call, losers: Collection[Member]) -> None:
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

    def _moves_on(self, call: Call, error: LLMError) -> bool:
        chosen = self._fall_through
        if chosen is None or error is call.cut:
            return True
        if isinstance(error, (ModelNotFoundError, UnsupportedError)):
            return True
        if isinstance(chosen, (type, tuple)):
            return isinstance(error, chosen)
        return chosen(error)


def _turn(
    call: Call, failure: LLMError | None, beside: Collection[Member] = ()
) -> tuple[Member, Visit]:
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
    call: Call, member: Member, visit: Visit, scope: Scope, wins: Callable[[], bool]
) -> Generator[str, None, None]:
    return Lane(call, member, visit, scope, wins).run()


def _cut_reply(call: Call, text: str, finish: FinishReason) -> Generator[str, None, None]:
    """The longest of the replies that ``max_tokens`` cut, where there is no whole one."""
    call.settle()
    if call.voided is not None:
        yield call.voided
        call.voided = None
    if text:
        yield text
    yield finish.evolve(attempts=call.ledger.attempts)


def _raise_ended(scope: Scope, error: LLMError) -> None:
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
