"""A client over several providers: tries them in order, with retries, within a deadline."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from .._account.arguments import for_tests, refuses_unknown
from .._account.keys import digest
from .._checks import FINITE, seconds, whole
from .._request import Accept, ChatRequest, Self, check_accept
from .._runtime.files import load_locks
from .._runtime.scope import SYSTEM_CLOCK, CancelScope, Clock
from ..client import BaseClient, collect
from ..errors import Attempt
from ..results import Completion, joined, unless_called
from ._engine import FailoverSettings, FallThrough, Router
from ._health import FileStore, Health, MemoryStore, Store
from ._report import Report
from ._target import History, Target, TenacityBackoff

if TYPE_CHECKING:
    from tenacity.retry import RetryBaseT
    from tenacity.stop import StopBaseT
    from tenacity.wait import WaitBaseT
else:
    # For get_type_hints; tenacity itself is imported by the constructor.
    RetryBaseT = StopBaseT = WaitBaseT = Any


Choice = BaseClient | tuple[BaseClient, str]


class FailoverClient(BaseClient):
    """Tries providers in priority order until one gives a whole reply.

    If none does, ``stream`` and ``complete`` raise ``AllProvidersFailed``, whose ``attempts`` say
    what each did. ``complete`` has shown nothing yet: if a reply breaks off in the middle, or if
    ``accept`` turns it down, it asks the same provider or the next one again.

    Args:
        providers: each a ``Provider``, a pair ``(provider, model)``, or another client.
        attempts: tries of one provider before the next, the first included.
        wait: any tenacity wait; default exponential from 0.5 s, jittered, at most 8 s.
        retry: any tenacity retry predicate over the error; default: ``retryable`` errors.
        stop: any tenacity stop, which may end the tries of a provider earlier.
        deadline: seconds for a whole call, waits and stream included.
        first_chunk_timeout: seconds a provider has for its first text or thought, each attempt.
        hedge_after: seconds after which the next provider is started beside a slow one.
        cooldown: seconds for which a provider that failed is put last.
        failure_threshold: failed calls in a row before that.
        health: where failures are remembered: None, in this client; a path, in a file that all
            processes of the user share.
        on_interrupt: what a stream does when a provider fails after text: ``"raise"`` the error,
            or ``"restart"``: yield a ``Restart``, and the reply from its beginning.
        fall_through: the errors after which the next provider is tried: classes, or a predicate;
            default: all of them. A missing model or ability always counts.
        on_length: what to do with a reply that ``max_tokens`` cut, unless its text was already
            yielded: ``"return"`` it, or ``"next"``: ask the next provider, and return the longest
            one if all are cut.
        accept: for ``complete``: gets the ``Completion`` and returns True, or False or a reason.
        max_retry_after: the longest ``Retry-After``, in seconds, waited for while another
            provider is left; the last one is waited for up to 60 s.
        on_event: gets every ``Attempt`` as it ends, in the thread that made it.
        name: its name in errors, logs and reports.

    Raises:
        ValueError: an argument is out of range, or there is no provider.

    >>> from llmproviders.testing import ScriptedProvider
    >>> client = FailoverClient(
    ...     [ScriptedProvider(["short"]), ScriptedProvider(["long enough"])],
    ...     accept=lambda completion: len(completion.text) > 5,
    ... )
    >>> print(client.complete("Why is the sky blue?"))
    long enough
    """

    @for_tests("clock")
    @refuses_unknown("client")
    def __init__(
        self,
        providers: Sequence[Choice],
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
        on_length: Literal["return", "next"] = "return",
        accept: Accept | None = None,
        max_retry_after: float = 5.0,
        on_event: Callable[[Attempt], object] | None = None,
        name: str = "FailoverClient",
        clock: Clock | None = None,
    ) -> None:
        providers = _listed(providers)
        self._given = {k: v for k, v in locals().items() if k != "self"}
        clock = clock or SYSTEM_CLOCK
        given = {
            "deadline": deadline,
            "first_chunk_timeout": first_chunk_timeout,
            "hedge_after": hedge_after,
        }
        limits = {n: None if v is None else seconds(n, v) for n, v in given.items()}
        if on_interrupt not in ("raise", "restart"):
            raise ValueError(f"on_interrupt is 'raise' or 'restart', not {on_interrupt!r}")
        if on_length not in ("return", "next"):
            raise ValueError(f"on_length is 'return' or 'next', not {on_length!r}")
        if accept is not None:
            check_accept(accept)
        most = whole("attempts", attempts)
        self._targets = Target.all_of(_chosen(providers), attempts=most)
        self.name = name
        self._restarts = on_interrupt == "restart"
        self.accept = accept
        self.deadline = limits["deadline"]
        self.clock = clock
        self._settings = FailoverSettings(
            attempts=most,
            backoff=TenacityBackoff(wait=wait, retry=retry, stop=stop),
            max_retry_after=seconds("max_retry_after", max_retry_after, zero=True),
            health=Health(
                _store(health, clock),
                cooldown=seconds("cooldown", cooldown, zero=True, most=FINITE),
                threshold=whole("failure_threshold", failure_threshold),
            ),
            first_chunk_timeout=limits["first_chunk_timeout"],
            on_event=on_event,
            history=History(),
        )
        self._router = Router(
            name,
            self._targets,
            self._settings,
            deadline=self.deadline,
            clock=clock,
            hedge_after=limits["hedge_after"],
            fall_through=fall_through,
            on_length=on_length,
        )

    @classmethod
    def from_config(cls, path: str | os.PathLike[str] | None = None) -> Self:
        """A client of the providers and settings that a configuration names.

        Args:
            path: the file; None: ``LLMPROVIDERS_CONFIG``, else ``llmproviders/config.toml`` in the
                user's configuration folder, else the providers in the environment.

        Raises:
            llmproviders.config.ConfigError: a ``ValueError`` that names file, line and key.
        """
        from ..config._reader import load

        return load(path).make(cls)

    @property
    def providers(self) -> tuple[BaseClient, ...]:
        """The providers in priority order."""
        return tuple(target.client for target in self._targets)

    def answer(self, request: ChatRequest, scope: CancelScope | None = None) -> Completion:
        """The first whole reply that ``accept`` accepts; a reply that breaks off is retried."""
        if request.reader != "run":
            request = replace(request, reader="completion")
        return collect(self.generate(request, scope))

    def generate(
        self, request: ChatRequest, scope: CancelScope | None = None
    ) -> Generator[str, None, None]:
        """Yield one provider's whole reply and its ``FinishReason``; or raise an ``LLMError``."""
        accept, reader = request.accept, request.reader
        if accept is None and self.accept is not None and reader in ("completion", "run"):
            accept = unless_called(self.accept) if reader == "run" else self.accept
        # Without streaming, nothing is yielded before the end.
        restarts = self._restarts or reader != "stream" or not request.stream
        stream = self._router.run(request, scope, restarts=restarts, accept=accept)
        return stream if request.stream else joined(stream)

    def report(self) -> Report:
        """Statistics about this client's providers; ``print`` shows a table.

        >>> from llmproviders.testing import ScriptedProvider
        >>> client = FailoverClient([ScriptedProvider(["Hello"], name="first")])
        >>> reply = client.complete("Hi")
        >>> record = client.report().providers[0]
        >>> record.provider, record.calls, record.successes, str(record.condition)
        ('first', 1, 1, 'well')
        """
        return Report(
            self.name,
            tuple(
                target.stats.record(
                    target.client.name,
                    target.model,
                    self._settings.health.condition(target.health_key()),
                    target.client.report() if isinstance(target.client, FailoverClient) else None,
                )
                for target in self._targets
            ),
            self._settings.history.recent(),
        )

    def identity(self) -> list[Any]:
        """The providers in priority order, each with the model it is asked for."""
        return [[target.client.identity(), target.model] for target in self._targets]

    def credential_digest(self) -> str:
        """A hash of the providers and their credentials."""
        return digest(*(target.health_key().credential for target in self._targets))

    def close(self) -> None:
        """Close every provider's connections; the next call opens new ones."""
        for target in self._targets:
            target.client.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return _remake, (type(self), self._given)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({list(self.providers)!r})"


def _remake(cls: type[FailoverClient], given: dict[str, Any]) -> FailoverClient:
    return cls(**given)


def _listed(providers: Sequence[Choice]) -> tuple[Choice, ...]:
    if isinstance(providers, (BaseClient, str, type)) or not isinstance(providers, Iterable):
        what = "one" if isinstance(providers, BaseClient) else repr(providers)
        raise TypeError(
            f"providers is a list, not {what}: write FailoverClient([GigaChat(), ChatGLM()])"
        )
    return tuple(providers)


def _chosen(providers: Iterable[Any]) -> list[tuple[BaseClient, str | None]]:
    chosen: list[tuple[BaseClient, str | None]] = []
    for item in providers:
        pair = item if isinstance(item, tuple) else (item, None)
        client, model = pair if len(pair) == 2 else (None, None)
        if not isinstance(client, BaseClient) or not isinstance(model, (str, type(None))):
            raise TypeError(
                f"a provider, a pair (provider, model) or a client is needed, not {item!r}"
                + ("; make it with ()" if isinstance(item, type) else "")
            )
        chosen.append((client, model))
    if not chosen:
        raise ValueError("a FailoverClient needs at least one provider")
    return chosen


def _store(health: str | os.PathLike[str] | None, clock: Clock) -> Store:
    if health is None:
        return MemoryStore(clock.monotonic)
    load_locks()
    return FileStore(health, now=clock.wall)
