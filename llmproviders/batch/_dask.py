"""A Dask cluster as the executor of a batch. Dask is imported when it is first needed."""

from __future__ import annotations

import contextlib
import io
import pickle
import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from functools import partial
from typing import Any

from .._redact import redact
from .._runtime.scope import CancelScope, Drain
from ..client import BaseClient
from ..config._arguments import arguments_of
from ..provider import Provider

_ASK_AGAIN_S = 0.5

_MOST_LEASES = 1 << 30


@contextlib.contextmanager
def dask_executor(address: str) -> Iterator[tuple[Executor, int]]:
    """Connect to a Dask scheduler, in a ``with`` block.

    The value of the block is the executor and the number of requests that its workers take at a
    time, for ``executor`` and ``workers`` of ``run`` and ``run_file``.

    Args:
        address: such as ``tcp://10.0.0.5:8786``.

    Raises:
        ModuleNotFoundError: Dask is not installed.
        OSError: there is no scheduler at that address.

    >>> from llmproviders import OpenAICompatible
    >>> from llmproviders.batch import run_file
    >>> with dask_executor("tcp://10.0.0.5:8786") as (dask, threads):  # doctest: +SKIP
    ...     run_file(
    ...         OpenAICompatible(), "in.jsonl", "out.jsonl", executor=dask, workers=threads
    ...     )
    """
    try:
        from distributed import Client
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            'Dask is not installed; install it with: pip install "llmproviders[dask]"'
        ) from error
    connect: Any = Client  # has no types
    with connect(address, set_as_default=False) as client:
        yield client.get_executor(), max(1, sum(client.ncores().values()))


def is_executor(executor: Executor) -> bool:
    """Whether an executor is Dask's."""
    return type(executor).__name__ == "ClientExecutor" and hasattr(executor, "_client")


def begin_drain(executor: Any, file: str | None) -> None:
    """On every worker, begin the drain of ``file``, without waiting for their answers.

    Dask's futures do not say whether they have begun: they can be cancelled until they end.
    """
    run: Callable[..., object] = executor._client.run
    tell = partial(run, Drain.begin_here, file, on_error="ignore")
    threading.Thread(target=tell, name="llmproviders stop", daemon=True).start()


def check_keyless(client: BaseClient, packed: bytes) -> None:
    """Refuse to send a key to a cluster, where everybody could see it.

    Args:
        client: the client.
        packed: its pickle.

    Raises:
        ValueError: the client has a key, a session, or a password in an address.
    """
    _KeyFinder(io.BytesIO()).dump(client)
    text = packed.decode("latin-1")
    if redact(text) != text:
        raise ValueError(
            "the client contains a secret, such as a proxy's password, which a Dask cluster would "
            "show; let each worker read it from its environment"
        )


class _KeyFinder(pickle.Pickler):
    def reducer_override(self, item: Any) -> Any:
        if isinstance(item, Provider):
            _check_provider(item)
        return NotImplemented


def _check_provider(provider: Provider) -> None:
    given = provider._given.kwargs
    for argument in arguments_of(type(provider)).values():
        if argument.secret and isinstance(given.get(argument.name), str):
            names = " or ".join(provider.environment_of(argument.name))
            raise ValueError(
                f"{provider.name} has its {argument.name} as an argument, which a Dask cluster "
                f"would show; set {names} on the workers instead, or keep the key in a file there "
                f"({argument.name}_file in the configuration)"
            )
    if given.get("session") is not None:
        raise ValueError(
            f"{provider.name} has its own session, whose cookies and keys a Dask cluster "
            "would show; let it make its own connections"
        )


def share_limits(client: BaseClient) -> None:
    """On a worker: count each provider's requests at a time across all workers."""
    for provider in _providers_of(client):
        limit = getattr(provider, "max_concurrency", None)
        if limit is not None:
            provider.slot = _SharedLimit(provider, limit).hold  # type: ignore[method-assign]


def _providers_of(client: BaseClient) -> Iterator[Provider]:
    if isinstance(client, Provider):
        yield client
    for member in getattr(client, "providers", ()):
        yield from _providers_of(member)


class _SharedLimit:
    """The requests at a time of one provider, counted by the cluster's scheduler.

    A scheduler's semaphore has one size, but clients may have several limits for one service. So
    each limit has its own semaphore, which wakes those that wait for it, and a second one, large
    enough for all, counts the requests of all limits together.
    """

    def __init__(self, provider: Provider, limit: int) -> None:
        # Named by address, not by key, so that no part of a key reaches the scheduler.
        name = f"llmproviders {type(provider).__name__} {redact(provider.base_url)}"
        self._limit = limit
        self._turns = _semaphore(f"{name} {limit}", limit)
        self._all = _semaphore(name, _MOST_LEASES)
        self._own: Callable[[CancelScope], contextlib.AbstractContextManager[float]] = provider.slot

    @contextlib.contextmanager
    def hold(self, scope: CancelScope) -> Iterator[float]:
        """Wait for a free slot; the value of the block is the seconds waited."""
        began = scope.clock.monotonic()
        with self._own(scope), self._turn(scope), self._counted(scope):
            yield scope.clock.monotonic() - began

    @contextlib.contextmanager
    def _turn(self, scope: CancelScope) -> Iterator[None]:
        while not self._turns.acquire(timeout=min(_ASK_AGAIN_S, scope.remaining())):
            if scope.over:
                raise scope.error()
            scope.check_sends()
        try:
            yield
        finally:
            self._turns.release()

    @contextlib.contextmanager
    def _counted(self, scope: CancelScope) -> Iterator[None]:
        while True:
            self._all.acquire()
            try:
                if self._all.get_value() <= self._limit:
                    yield
                    return
            finally:
                self._all.release()
            # At random, so that two that made room for each other do not collide again.
            scope.sleep(random.uniform(0.1, 1.0) * _ASK_AGAIN_S)


def _semaphore(name: str, leases: int) -> Any:
    from distributed import Semaphore, get_worker

    worker = get_worker()
    make: Any = Semaphore  # has no types
    return make(max_leases=leases, name=name, scheduler_rpc=worker.scheduler, loop=worker.loop)
