"""Python's own sockets, their replacements by gevent and others, and waiting for either."""

from __future__ import annotations

import select
import socket
import ssl
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from inspect import isbuiltin
from math import ceil, inf
from traceback import walk_tb
from typing import Any

from .._runtime.scope import SLICE_S, CancelScope
from .._signals import ignoring, let_through


def _native() -> Any:
    """Python's own socket class, even if it has been replaced."""
    for cls in socket.socket.__mro__:
        if cls.__module__ == "socket":
            return cls
    gevent, eventlet = sys.modules.get("gevent.monkey"), sys.modules.get("eventlet.patcher")
    if gevent is not None and gevent.is_object_patched("socket", "socket"):
        return gevent.get_original("socket", "socket")
    return eventlet.original("socket").socket if eventlet is not None else socket.socket


Native: Any = _native()


def is_socket(sock: object) -> bool:
    """Whether it is a socket: Python's own or a replacement."""
    return isinstance(sock, (Native, socket.socket))


def cooperative() -> bool:
    """Whether gevent or eventlet has replaced Python's sockets and ``select``.

    Python's own sockets still work then: they never block, and ``select`` waits while other
    greenlets run. So the order of imports does not matter.
    """
    library = socket.socket.__module__.partition(".")[0]
    return library in ("gevent", "eventlet") and not isbuiltin(select.select)


def foreign() -> bool:
    """Whether an unknown library has replaced Python's sockets."""
    return socket.socket is not Native and not cooperative()


def ready(reading: Sequence[Any], writing: Sequence[Any], seconds: float) -> list[Any]:
    """Wait until a socket can be read from or written to; return those that can.

    Args:
        reading: sockets to read from.
        writing: sockets to write to, or that connect.
        seconds: the longest wait for the first one.
    """
    # Neither needs its own descriptor, which an interrupt could leave open. Windows has no
    # ``poll``, and eventlet removes it.
    if not hasattr(select, "poll"):
        return [
            sock for found in select.select(reading, writing, writing, seconds) for sock in found
        ]
    poll = select.poll()
    for sock in reading:
        poll.register(sock, select.POLLIN)
    for sock in writing:
        poll.register(sock, select.POLLOUT)
    found = {descriptor for descriptor, _ in poll.poll(ceil(seconds * 1000))}
    return [sock for sock in (*reading, *writing) if sock.fileno() in found]


@contextmanager
def closing_unfinished() -> Iterator[None]:
    """Close the TLS socket of a handshake that fails; eventlet leaves it to the collector."""
    try:
        yield
    except BaseException as error:
        for frame, _ in walk_tb(error.__traceback__):
            sock = frame.f_locals.get("self")
            if isinstance(sock, ssl.SSLSocket):
                sock.close()
        raise


def receive(sock: Any, scope: CancelScope, buffer: Any) -> int:
    """Receive on a socket that is not bounded, for no longer than the scope lasts.

    Raises:
        TimeoutError: the scope has ended, or nothing arrived within the socket's timeout.
    """
    if not scope.bounded:
        return int(sock.recv_into(buffer))
    patience = sock.gettimeout()
    try:
        end = inf if patience is None else time.monotonic() + patience
        while True:
            left = min(scope.remaining(), end - time.monotonic())
            if left <= 0:
                raise TimeoutError("timed out")
            sock.settimeout(min(left, SLICE_S))
            try:
                return int(sock.recv_into(buffer))
            except TimeoutError as error:
                let_through(error)
    finally:
        with ignoring(OSError):
            sock.settimeout(patience)
