"""How tasks get to an executor: what travels with them, and what can be taken back."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import NamedTuple

from .._clock import Scope
from ..provider import BaseClient, Request
from ..results import Completion
from . import _dask
from ._carrier import Carrier, work

Answer = tuple[Completion | None, Exception | None]


class Route(NamedTuple):
    """The way to an executor.

    Attributes:
        send: submits one request.
        knows_started: whether a future that can still be cancelled has surely not begun.
    """

    send: Callable[[Request], Future[Answer]]
    knows_started: bool


def route_to(executor: Executor, client: BaseClient, scope: Scope, deadline: float | None) -> Route:
    """The way to ``executor``; nothing is sent yet.

    Args:
        executor: threads, processes, Dask's, or any other.
        client: what answers there.
        scope: ends what runs in this process.
        deadline: seconds for each request, or None.

    Raises:
        TypeError: the client cannot be sent to other processes.
        ValueError: it carries a key that all of a cluster could read.
    """
    on_dask = _dask.is_executor(executor)
    carrier = Carrier(client, scope, _dask.share_places if on_dask else None)
    if not isinstance(executor, ThreadPoolExecutor):
        from concurrent.futures import ProcessPoolExecutor

        if on_dask:
            _dask.check_keyless(client, carrier.pack())
        elif isinstance(executor, ProcessPoolExecutor):
            carrier.pack()
    # Dask takes the same function of the same arguments for the same task; and its futures count
    # as waiting until they have ended.
    extra = {"pure": False} if on_dask else {}

    def send(request: Request) -> Future[Answer]:
        return executor.submit(work, carrier, request, deadline, **extra)

    return Route(send, not on_dask)
