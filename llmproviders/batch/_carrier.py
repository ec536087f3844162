"""How a client gets to where the work is done, and the work itself."""

from __future__ import annotations

import pickle
import signal
import sys
import threading
from collections.abc import Callable

from .._clock import SYSTEM_CLOCK, Scope
from .._locks import ForkLock
from .._redact import redact
from .._signals import let_through
from ..provider import BaseClient, Request
from ..results import Completion

_CLIENTS_KEPT = 8
_clients: dict[bytes, BaseClient] = {}
_building = ForkLock()


class Carrier:
    """A client as a task carries it: itself within this process, rebuilt once in any other.

    Args:
        client: the client.
        scope: ends what runs in this process; it does not travel.
        on_arrival: called with the client where it was rebuilt, once in each process; a function
            that pickles by its name.
    """

    def __init__(
        self,
        client: BaseClient,
        scope: Scope,
        on_arrival: Callable[[BaseClient], object] | None = None,
    ) -> None:
        self._client: BaseClient | None = client
        self._scope: Scope | None = scope
        self._on_arrival = on_arrival
        self._packed: bytes | None = None

    def pack(self) -> bytes:
        """The client's pickle, made once.

        Raises:
            TypeError: it cannot be pickled.
        """
        if self._packed is None:
            try:
                self._packed = pickle.dumps(self._client)
            except Exception as error:
                let_through(error)
                raise TypeError(
                    f"the client cannot be sent to other processes: {redact(str(error))}; "
                    "functions that it was given (accept, on_event) must stand in a module"
                ) from error
        return self._packed

    def __getstate__(self) -> tuple[bytes, Callable[[BaseClient], object] | None]:
        return self.pack(), self._on_arrival

    def __setstate__(self, state: tuple[bytes, Callable[[BaseClient], object] | None]) -> None:
        self._packed, self._on_arrival = state
        self._client = self._scope = None

    def answer(self, request: Request, deadline: float | None) -> Completion:
        """Ask the client, for at most ``deadline`` seconds."""
        scope = Scope.lasting(deadline, clock=SYSTEM_CLOCK, parent=self._scope)
        try:
            return self._here().answer(request, scope)
        finally:
            scope.close()

    def _here(self) -> BaseClient:
        if self._client is None:
            assert self._packed is not None
            self._client = _rebuild(self._packed, self._on_arrival)
        return self._client


def _rebuild(packed: bytes, on_arrival: Callable[[BaseClient], object] | None) -> BaseClient:
    with _building.mine:
        client = _clients.get(packed)
        if client is None:
            _leave_interrupts_to_the_parent()
            client = pickle.loads(packed)  # noqa: S301 - came in the executor's own pickle
            assert isinstance(client, BaseClient)
            if on_arrival is not None:
                on_arrival(client)
            while len(_clients) >= _CLIENTS_KEPT:
                del _clients[next(iter(_clients))]
            _clients[packed] = client
        return client


def _leave_interrupts_to_the_parent() -> None:
    # A terminal's Ctrl-C reaches a pool's processes too, and would break off what the parent lets
    # them finish. Where nobody has loaded multiprocessing, this is none of its processes.
    multiprocessing = sys.modules.get("multiprocessing")
    in_main_thread = threading.current_thread() is threading.main_thread()
    if multiprocessing and in_main_thread and multiprocessing.parent_process() is not None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def work(
    carrier: Carrier, request: Request, deadline: float | None
) -> tuple[Completion | None, Exception | None]:
    """One request: its reply, or why there is none."""
    try:
        return carrier.answer(request, deadline), None
    except Exception as error:  # noqa: BLE001 - whatever it is, it is this request's alone
        let_through(error)
        return None, error
