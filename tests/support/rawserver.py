"""The raw server of ``llmproviders.testing``, certificates, and ports where nobody answers."""

from __future__ import annotations

import contextlib
import random
import select
import socket
import ssl
from collections.abc import Iterator

import trustme

from llmproviders.testing import (
    Behaviour,
    Close,
    Handler,
    Pause,
    RawConnection,
    RawRequest,
    Read,
    Reset,
    Script,
    Stall,
    Wait,
    keep_alive,
)
from llmproviders.testing import RawServer as PlainServer
from llmproviders.testing._raw_server import PATIENCE_S

__all__ = [
    "PATIENCE_S",
    "Behaviour",
    "Close",
    "Connection",
    "Handler",
    "Pause",
    "RawServer",
    "Read",
    "Request",
    "Reset",
    "Script",
    "Stall",
    "Wait",
    "black_hole",
    "free_port",
    "keep_alive",
    "refused_port",
    "server_context",
]

Connection = RawConnection
Request = RawRequest


def server_context(ca: trustme.CA, *names: str) -> ssl.SSLContext:
    """Make a TLS context whose certificate holds for the names (default: loopback's)."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert(*(names or ("127.0.0.1", "localhost"))).configure_cert(context)
    return context


class RawServer(PlainServer):
    """A raw server whose ``tls`` may also be a CA, which signs its certificate then."""

    def __init__(
        self, *behaviours: Behaviour, tls: trustme.CA | ssl.SSLContext | None = None
    ) -> None:
        super().__init__(
            *behaviours, tls=server_context(tls) if isinstance(tls, trustme.CA) else tls
        )

    def __enter__(self) -> RawServer:
        super().__enter__()
        return self


def free_port() -> int:
    """Return a port for another program, which may take seconds to listen there.

    No system hands it out for port 0, so no server of a test that runs meanwhile gets it: who waits
    for the program would take that server for it.
    """
    while True:
        port = random.randrange(10_000, 32_000)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


@contextlib.contextmanager
def refused_port() -> Iterator[int]:
    """Hold a port on which every connection is refused: bound, so nobody else gets it."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield sock.getsockname()[1]


@contextlib.contextmanager
def black_hole() -> Iterator[int]:
    """Hold a port on which connecting takes for ever.

    Linux drops a SYN when the listener's backlog is full, so the backlog is made as short as it
    gets and filled until a connection no longer comes to be.
    """
    with contextlib.ExitStack() as held:
        listener = held.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(16):
            filler = held.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
            _, connected, _ = select.select([], [filler], [], 0.2)
            if not connected:
                break
        else:
            raise RuntimeError("the backlog of a listening socket does not fill on this system")
        yield listener.getsockname()[1]
