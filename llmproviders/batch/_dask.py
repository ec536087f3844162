"""A cluster of machines as the executor of a batch; Dask itself loads when it is first needed."""

from __future__ import annotations

import contextlib
import io
import pickle
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from typing import Any

from .._redact import redact
from .._runtime.scope import CancelScope
from ..client import BaseClient
from ..config._arguments import arguments_of
from ..provider import Provider

_ASK_AGAIN_S = 0.5


@contextlib.contextmanager
def dask_executor(address: str) -> Iterator[tuple[Executor, int]]:
    """Connect to a Dask scheduler, in a ``with`` block.

    The value of the block is the executor, and how many requests its workers take at a time now:
    what ``run`` and ``run_file`` want as ``executor`` and ``workers``.

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
    module = sys.modules.get("distributed.cfexecutor")
    return module is not None and isinstance(executor, module.ClientExecutor)


def check_keyless(client: BaseClient, packed: bytes) -> None:
    """Refuse to send a key to where everybody who can see the scheduler could read it.

    Args:
        client: what is to travel.
        packed: its pickle.

    Raises:
        ValueError: it carries a key, a session of its own, or a password in an address.
    """
    _KeyFinder(io.BytesIO()).dump(client)
    text = packed.decode("latin-1")
    if redact(text) != text:
        raise ValueError(
            "the client carries a secret, such as a proxy's password, which a Dask cluster would "
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
                f"({argument.name}_file in a configuration)"
            )
    if given.get("session") is not None:
        raise ValueError(
            f"{provider.name} has a session of its own, whose cookies and keys a Dask cluster "
            "would show; let it make its own connections"
        )


def share_places(client: BaseClient) -> None:
    """On a worker: keep each provider's limit of requests at a time across all workers."""
    for provider in _providers_of(client):
        limit = getattr(provider, "max_concurrency", None)
        if limit is not None:
            places = _SharedPlaces(provider, limit)
            provider.place = places.hold  # type: ignore[method-assign]


def _providers_of(client: BaseClient) -> Iterator[Provider]:
    if isinstance(client, Provider):
        yield client
    for member in getattr(client, "providers", ()):
        yield from _providers_of(member)


class _SharedPlaces:
    """The places of one provider, counted by the cluster's scheduler."""

    def __init__(self, provider: Provider, limit: int) -> None:
        from distributed import Semaphore, get_worker

        worker = get_worker()
        # Told apart by address, not by key: nothing of a key reaches the scheduler.
        name = f"llmproviders {type(provider).__name__} {redact(provider.base_url)} {limit}"
        make: Any = Semaphore  # has no types
        self._semaphore = make(
            max_leases=limit, name=name, scheduler_rpc=worker.scheduler, loop=worker.loop
        )
        self._own: Callable[[CancelScope], contextlib.AbstractContextManager[float]] = (
            provider.place
        )

    @contextlib.contextmanager
    def hold(self, scope: CancelScope) -> Iterator[float]:
        """Wait for a place; the value of the block is the seconds waited."""
        began = scope.clock.monotonic()
        with self._own(scope):
            while not self._semaphore.acquire(timeout=min(_ASK_AGAIN_S, scope.remaining())):
                if scope.over:
                    raise scope.error()
            try:
                yield scope.clock.monotonic() - began
            finally:
                self._semaphore.release()
