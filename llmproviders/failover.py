"""One client over several providers: tries them in order, retries, moves on, keeps the deadline."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Any, Literal

from ._clock import SYSTEM_CLOCK, Clock, Scope
from ._health import Health, MemoryStore
from ._retry import Policy, not_sent, outcome_of
from .errors import (
    AllProvidersFailed,
    DeadlineExceeded,
    LLMError,
    ModelNotFoundError,
    RejectedReplyError,
    StreamInterrupted,
)
from .messages import Prompt
from .provider import BaseClient, Request, collect
from .results import Attempt, Completion, FinishReason, Restart

if TYPE_CHECKING:
    import os

    from tenacity.retry import RetryBaseT
    from tenacity.stop import StopBaseT
    from tenacity.wait import WaitBaseT
    from typing_extensions import Self

    from ._call import Timeout

logger = logging.getLogger("llmproviders")

Member = BaseClient | tuple[BaseClient, str]
Accept = Callable[[Completion], "bool | str"]
FallThrough = type[LLMError] | tuple[type[LLMError], ...] | Callable[[LLMError], bool]


@dataclass(frozen=True)
class _Member:
    client: BaseClient
    model: str | None

    @property
    def key(self) -> str:
        """What its health is remembered by: nothing of it is secret."""
        return "|".join((self.client.name, getattr(self.client, "base_url", ""), self.model or ""))


class _Ledger:
    """The attempts of one call, each told to ``on_event`` as it ends."""

    def __init__(self, on_event: Callable[[Attempt], object] | None) -> None:
        self.attempts: tuple[Attempt, ...] = ()
        self._on_event = on_event
        self._lock = threading.Lock()

    def add(self, attempts: Sequence[Attempt], *, waited: float) -> None:
        """Enter ``attempts``, the first of which came after ``waited`` seconds."""
        if not attempts:
            return
        first = replace(attempts[0], waited=attempts[0].waited + waited)
        with self._lock:
            self.attempts += (first, *attempts[1:])
        if self._on_event is not None:
            for attempt in (first, *attempts[1:]):
                try:
                    self._on_event(attempt)
                except Exception:
                    logger.exception("on_event failed; the call goes on")


@dataclass
class _Call:
    """One call of a client, over all its tries.

    Attributes:
        voided: stands before the next text, where text of a reply that broke is already out.
        settle: to be called before the end is told, so that every attempt has ended.
    """

    request: Request
    scope: Scope
    ledger: _Ledger
    restarts: bool
    accept: Accept | None
    waiting: list[_Member]
    voided: Restart | None = None
    settle: Callable[[], None] = lambda: None


class FailoverClient(BaseClient):
    """Tries providers in priority order until one gives a whole reply.

    Args:
        providers: each a ``Provider``, a pair ``(provider, model)``, or another client.
        attempts: tries of one provider before the next, the first included.
        wait: any tenacity wait; default exponential from 0.5 s, jittered, at most 8 s.
        retry: any tenacity retry predicate over the error; default: the ``retryable`` ones.
        stop: any tenacity stop, which may end the tries of a provider earlier.
        deadline: seconds for a whole call, waits and stream included.
        first_chunk_timeout: seconds a provider has for its first text, each attempt.
        hedge_after: seconds after which the next provider is started beside a slow one.
        cooldown: seconds for which a provider that failed is put last.
        failure_threshold: failed calls in a row before that.
        health: None: this client remembers; a path: all processes of the user do, in that file.
        on_interrupt: ``"raise"`` or ``"restart"``, when a provider fails after text.
        fall_through: the errors after which the next provider is tried: classes, or a predicate.
        accept: for ``complete``: gets the ``Completion`` and returns True, or False or a reason.
        max_retry_after: the longest ``Retry-After``, in seconds, waited for while another
            provider is left; the last one is waited for up to 60 s.
        on_event: gets every ``Attempt`` as it ends.
        name: how it is called where it stands in another client.
        clock: where time comes from.

    Raises:
        ValueError: an argument out of its range, or no provider.

    >>> from llmproviders.testing import ScriptedProvider
    >>> client = FailoverClient([ScriptedProvider(["It scatters."])])
    >>> print(client.complete("Why is the sky blue?"))
    It scatters.
    """

    def __init__(
        self,
        providers: Sequence[Member],
        *,
        attempts: int = 3,
        wait: WaitBaseT | None = None,
        retry: RetryBaseT | None = None,
        stop: StopBaseT | None = None,
        deadline: float | None = None,
        first_chunk_timeout: float | None = None,
        hedge_after: float | None = None,
        cooldown: float = 30.0,
        failure_threshold: int = 1,
        health: str | os.PathLike[str] | None = None,
        on_interrupt: Literal["raise", "restart"] = "raise",
        fall_through: FallThrough | None = None,
        accept: Accept | None = None,
        max_retry_after: float = 5.0,
        on_event: Callable[[Attempt], object] | None = None,
        name: str = "FailoverClient",
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._given = {k: v for k, v in locals().items() if k not in ("self", "__class__")}
        _check_positive(
            deadline=deadline, first_chunk_timeout=first_chunk_timeout, hedge_after=hedge_after
        )
        if attempts < 1 or failure_threshold < 1:
            raise ValueError("attempts and failure_threshold must be at least 1")
        if on_interrupt not in ("raise", "restart"):
            raise ValueError(f"on_interrupt is 'raise' or 'restart', not {on_interrupt!r}")
        self._members = tuple(_member(item) for item in providers)
        if not self._members:
            raise ValueError("a FailoverClient needs at least one provider")
        self.name = name
        self._deadline = deadline
        self._first_chunk_timeout = first_chunk_timeout
        self._hedge_after = hedge_after
        self._restarts = on_interrupt == "restart"
        self._fall_through = fall_through
        self._accept = accept
        self._on_event = on_event
        self._clock = clock
        self._policy = Policy(
            attempts=attempts, wait=wait, retry=retry, stop=stop, max_retry_after=max_retry_after
        )
        self._max_retry_after = max_retry_after
        self._health = Health(
            MemoryStore(clock.monotonic), cooldown=cooldown, threshold=failure_threshold
        )

    @classmethod
    def from_config(cls, path: str | os.PathLike[str] | None = None) -> Self:
        """A client of the providers and settings that a configuration names.

        Args:
            path: the file; None: ``LLMPROVIDERS_CONFIG``, else ``llmproviders/config.toml`` in
                the user's configuration folder, else what the environment gives.

        Raises:
            llmproviders.config.ConfigError: a ``ValueError`` that names file, line and key.
        """
        from .config import load

        return load(path).client(cls)

    @property
    def providers(self) -> tuple[BaseClient, ...]:
        """The providers in priority order."""
        return tuple(member.client for member in self._members)

    def complete(
        self,
        prompt: Prompt,
        *,
        model: str | None = None,
        timeout: Timeout | None = None,
        proxy: str | None = None,
        **params: Any,
    ) -> Completion:
        """Ask, and return the first whole reply that ``accept`` takes.

        Nothing was shown yet, so that a reply which breaks in the middle is asked for again, from
        the same provider or the next. Arguments as for :meth:`stream`.

        >>> from llmproviders.testing import ScriptedProvider
        >>> client = FailoverClient(
        ...     [ScriptedProvider(["short"]), ScriptedProvider(["long enough"])],
        ...     accept=lambda completion: len(completion.text) > 5,
        ... )
        >>> print(client.complete("Hi"))
        long enough
        """
        return super().complete(prompt, model=model, timeout=timeout, proxy=proxy, **params)

    def answer(self, request: Request, scope: Scope | None = None) -> Completion:
        """The first whole reply that ``accept`` takes; nothing was shown, so any may be retried."""
        return collect(self._run(request, scope, restarts=True, accept=self._accept))

    def generate(self, request: Request, scope: Scope | None = None) -> Generator[str, None, None]:
        """Yield one provider's whole reply and its ``FinishReason``; or raise an ``LLMError``."""
        return self._run(request, scope, restarts=self._restarts, accept=None)

    def _run(
        self, request: Request, parent: Scope | None, *, restarts: bool, accept: Accept | None
    ) -> Generator[str, None, None]:
        scope = Scope.lasting(self._deadline, clock=self._clock, parent=parent)
        order = self._health.rank([member.key for member in self._members])
        waiting = [self._members[index] for index in order]
        call = _Call(request, scope, _Ledger(self._on_event), restarts, accept, waiting)
        failures: list[LLMError] = []
        try:
            while waiting:
                try:
                    if self._hedge_after is None or len(waiting) == 1:
                        yield from self._lane(waiting.pop(0), call, scope)
                    else:
                        yield from self._race(call, failures)
                except LLMError as error:
                    if error.partial_text and not restarts or not self._moves_on(error, scope):
                        raise
                    failures.append(error)
                    if waiting:
                        logger.warning("%s; %s is next", error, waiting[0].client.name)
                else:
                    return
            raise _all_failed(failures) from failures[-1]
        except LLMError as error:
            call.settle()
            error.attempts = call.ledger.attempts
            raise
        finally:
            scope.close()

    def _lane(self, member: _Member, call: _Call, scope: Scope) -> Generator[str, None, None]:
        """One member's reply, with its tries, waits and restarts; or what it failed with."""
        told = False
        try:
            for piece in self._tries(member, call, scope):
                if type(piece) is not str and isinstance(piece, FinishReason):
                    self._health.succeeded(member.key)
                    told = True
                yield piece
        except LLMError as error:
            told = self._tell(member, error, call.scope)
            raise
        finally:
            if not told:
                self._health.released(member.key)

    def _tell(self, member: _Member, error: LLMError, scope: Scope) -> bool:
        if not outcome_of(error).counts or scope.over:
            return False
        rest = error.retry_after or 0.0
        self._health.failed(member.key, retry_after=rest if rest > self._max_retry_after else 0.0)
        return True

    def _tries(self, member: _Member, call: _Call, scope: Scope) -> Generator[str, None, None]:
        request = replace(call.request, model=call.request.model or member.model)
        waited = 0.0

        def before(seconds: float) -> None:
            nonlocal waited
            waited = seconds
            logger.info("%s failed, next try in %.2f s", member.client.name, seconds)

        def is_last() -> bool:
            return not call.waiting

        for attempt in self._policy.tries(scope, is_last=is_last, before=before):
            within = Scope(clock=self._clock, parent=scope)
            if self._first_chunk_timeout is not None:
                within.limit = self._clock.monotonic() + self._first_chunk_timeout
            try:
                yield from self._try(member, call, request, within, waited)
            except LLMError as error:
                attempt.retry_state.set_exception((type(error), error, error.__traceback__))
            else:
                return
            finally:
                within.close()

    def _try(
        self, member: _Member, call: _Call, request: Request, scope: Scope, waited: float
    ) -> Generator[str, None, None]:
        delivered = False
        kept: list[str] | None = [] if call.accept is not None else None
        stream = member.client.generate(request, scope)
        try:
            for piece in stream:
                if type(piece) is str:
                    if not delivered:
                        delivered = True
                        scope.limit = inf
                        if call.voided is not None:
                            yield call.voided
                            call.voided = None
                    if kept is not None:
                        kept.append(piece)
                    yield piece
                elif isinstance(piece, FinishReason):
                    if kept is not None:
                        _check_accepted(call.accept, "".join(kept), piece)
                    call.ledger.add(piece.attempts, waited=waited)
                    call.settle()
                    yield piece.evolve(attempts=call.ledger.attempts)
                else:
                    if kept is not None:
                        kept.clear()
                    yield piece
        except LLMError as error:
            call.ledger.add(error.attempts, waited=waited)
            if not delivered or isinstance(error, DeadlineExceeded):
                raise
            if not call.restarts:
                raise _interrupted(error) from error
            call.voided = Restart(error.partial_text, provider=member.client.name)
            raise
        finally:
            stream.close()

    def _race(self, call: _Call, failures: list[LLMError]) -> Generator[str, None, None]:
        """The first members' reply that has text, each started a while after the one before."""
        from ._hedge import Race

        assert self._hedge_after is not None
        race = Race(call.scope, self._hedge_after)
        call.settle = race.settle
        try:
            while True:
                if race.wants_another and call.waiting:
                    member = call.waiting.pop(0)
                    race.start(partial(self._lane, member, call))
                ended = race.wait(more=bool(call.waiting))
                if ended is None:
                    continue
                if ended.error is None:
                    yield from ended.stream()
                    return
                if not (race.running or call.waiting) or not self._moves_on(
                    ended.error, call.scope
                ):
                    raise ended.error
                failures.append(ended.error)
                logger.warning("%s; another provider is tried", ended.error)
        finally:
            race.end()

    def _moves_on(self, error: LLMError, scope: Scope) -> bool:
        if isinstance(error, DeadlineExceeded):
            return not scope.over
        if isinstance(error, ModelNotFoundError):
            return True
        chosen = self._fall_through
        if chosen is None:
            return not not_sent(error)
        if isinstance(chosen, (type, tuple)):
            return isinstance(error, chosen)
        return chosen(error)

    def close(self) -> None:
        """Close every provider's connections; the next call opens new ones."""
        for member in self._members:
            member.client.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return _remake, (type(self), self._given)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({[member.client for member in self._members]!r})"


def _remake(cls: type[FailoverClient], given: dict[str, Any]) -> FailoverClient:
    return cls(**given)


def _member(item: Member) -> _Member:
    client, model = item if isinstance(item, tuple) else (item, None)
    if not isinstance(client, BaseClient):
        raise TypeError(
            f"a provider, a pair (provider, model) or a client is needed, not {item!r}"
            + ("; make it with ()" if isinstance(item, type) else "")
        )
    return _Member(client, model)


def _check_positive(**seconds: float | None) -> None:
    for name, value in seconds.items():
        if value is not None and not value > 0:
            raise ValueError(f"{name} is a number of seconds above zero, or None, not {value!r}")


def _check_accepted(accept: Accept | None, text: str, finish: FinishReason) -> None:
    verdict = accept(Completion.of(text, finish)) if accept is not None else True
    if verdict is True:
        return
    error = RejectedReplyError(
        f"accept turned the reply down{': ' + verdict if isinstance(verdict, str) else ''}",
        provider=finish.provider,
        request_id=finish.request_id,
        partial_text=text,
        detail=verdict if isinstance(verdict, str) else None,
    )
    *before, last = finish.attempts
    error.attempts = (*before, replace(last, error=error))
    raise error


def _interrupted(error: LLMError) -> LLMError:
    if isinstance(error, StreamInterrupted):
        return error
    return StreamInterrupted(
        f"the reply was cut short: {error}",
        provider=error.provider,
        status_code=error.status_code,
        request_id=error.request_id,
        partial_text=error.partial_text,
        attempts=error.attempts,
    )


def _all_failed(failures: Sequence[LLMError]) -> AllProvidersFailed:
    lines = [f"{e.provider}: {type(e).__name__}: {e}" for e in failures]
    return AllProvidersFailed(
        "\n  ".join(["every provider failed:", *lines]),
        partial_text=next((e.partial_text for e in reversed(failures) if e.partial_text), ""),
    )
