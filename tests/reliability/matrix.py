"""Runs the fault matrix; ``python -m tests.reliability.matrix`` prints it."""

from __future__ import annotations

import signal
import ssl
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from tempfile import TemporaryDirectory
from types import FrameType
from typing import Any

import trustme

from llmproviders import FailoverClient, FinishReason
from llmproviders.provider import BaseClient
from tests.reliability.faults import FAULTS, GOOD, Asked, Fault
from tests.reliability.services import SERVICES, TEXT
from tests.reliability.traps import TRAPS
from tests.support.rawserver import (
    Connection,
    RawServer,
    black_hole,
    refused_port,
    server_context,
)

ROWS = (*FAULTS, *TRAPS)

MODES = ("stream", "complete", "whole")
WITHIN_S = 15.0
_PATIENCE_S = 10.0
_IMPATIENCE_S = 0.5


@dataclass(frozen=True)
class Cell:
    """One cell: a fault, met by one service's request, asked for in one way.

    ``mode`` is ``"stream"``, ``"complete"``, or ``"whole"``: a reply that is not streamed.
    """

    fault: Fault
    asked: Asked
    mode: str

    def __str__(self) -> str:
        place = " before the chat" if self.asked.before else ""
        way = f"{self.asked.scheme}, {self.mode}{place}"
        return f"{self.asked.service.name} ({way}): {self.fault.name}"


@dataclass(frozen=True)
class Result:
    """What a cell came out as, and what is wrong with that; an empty ``wrong`` is success."""

    outcome: str
    took_s: float
    wrong: str


def cells(fault: Fault) -> Iterator[Cell]:
    """The fault's row: each service, each way to ask, the requests before the chat too."""
    for service in SERVICES:
        for mode in MODES:
            yield Cell(fault, Asked(service, mode != "whole", before=False), mode)
        if service.before is not None:
            for mode in ("stream", "complete"):
                yield Cell(fault, Asked(service, stream=True, before=True), mode)
        if fault.tls:
            for before in {False, service.before is not None}:
                yield Cell(fault, Asked(service, True, before, scheme="https"), "stream")


_making = threading.Lock()


@lru_cache
def _authority() -> tuple[TemporaryDirectory[str], str, ssl.SSLContext]:
    """A folder, the file in it with an authority's certificate, and a server's context."""
    folder, authority = TemporaryDirectory(), trustme.CA()
    authority.cert_pem.write_to_path(f"{folder.name}/ca.pem")
    return folder, f"{folder.name}/ca.pem", server_context(authority)


def run(cell: Cell) -> Result:
    """Meet the fault and judge what comes of it."""
    fault, asked = cell.fault, cell.asked
    sent = threading.Event()
    with ExitStack() as serving:
        bundle, tls = None, None
        if asked.scheme == "https":
            with _making:
                _, bundle, tls = _authority()
        elsewhere = None
        if fault.strays:
            # Whoever comes gets a good reply, which is no outcome that is due.
            elsewhere = serving.enter_context(RawServer(asked.reply(), tls=tls))
            asked = replace(asked, elsewhere=str(elsewhere.port))
        if fault.port == "refused":
            port = serving.enter_context(refused_port())
        elif fault.port == "black hole":
            port = serving.enter_context(black_hole())
        else:
            port = serving.enter_context(RawServer(*_behaviours(fault, asked, sent), tls=tls)).port
        timeout = _IMPATIENCE_S if fault.silent else _PATIENCE_S
        options: dict[str, Any] = {"timeout": timeout, "limits": fault.limits}
        if bundle is not None:
            options["ca_bundle"] = bundle
        provider = serving.enter_context(
            asked.service.make(f"{asked.scheme}://127.0.0.1:{port}", **options)
        )
        client: BaseClient = provider
        if fault.deadline_s is not None:
            tries = 1 if fault.alarm is None else 3
            client = FailoverClient([provider], attempts=tries, deadline=fault.deadline_s)
        rung = fault.alarm("the alarm") if fault.alarm is not None else None
        start = time.monotonic()
        try:
            with _alarm(rung):
                outcome: object = _ask(client, cell.mode)
        except BaseException as error:  # noqa: BLE001 - whatever comes out is what is judged
            outcome = error
        took_s = time.monotonic() - start
        result = _judge(cell, outcome, took_s)
        if elsewhere is not None and elsewhere.connections:
            result = replace(result, wrong=f"{result.wrong} {cell}: connected elsewhere")
        if rung is not None and outcome is not rung:
            result = replace(result, wrong=f"{result.wrong} {cell}: not what the handler raised")
        if fault.again:
            result = replace(result, wrong=result.wrong + _after(cell, provider, sent))
    return result


@contextmanager
def _alarm(error: BaseException | None) -> Iterator[None]:
    """Have a handler of SIGALRM raise ``error``; the fault's server sends the signal."""
    if error is None:
        yield
        return

    def ring(_: int, frame: FrameType | None) -> None:
        if _loses_errors(frame):
            signal.setitimer(signal.ITIMER_REAL, 0.01)
            return
        raise error

    before = signal.signal(signal.SIGALRM, ring)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _loses_errors(frame: FrameType | None) -> bool:
    """Whether Python drops what is raised here: in a finalizer, or a weak reference's callback."""
    while frame is not None:
        code = frame.f_code
        if code.co_name == "__del__" or code.co_filename.endswith(("_weakrefset.py", "weakref.py")):
            return True
        frame = frame.f_back
    return False


def _after(cell: Cell, client: BaseClient, sent: threading.Event) -> str:
    """What is wrong with the call that follows, once all that belongs to the fault was sent."""
    sent.wait(_PATIENCE_S)
    try:
        text: object = _ask(client, cell.mode)
    except Exception as error:  # noqa: BLE001 - whatever comes out is what is judged
        text = error
    return "" if text == TEXT else f" {cell}: the call that follows got {text!r}"


def run_row(fault: Fault) -> list[tuple[Cell, Result]]:
    """All cells of a fault, several at a time: most of them wait."""
    row = list(cells(fault))
    if fault.alarm is not None:
        # Handlers run in the main thread alone.
        return [(cell, run(cell)) for cell in row]
    with ThreadPoolExecutor(8) as pool:
        return list(zip(row, pool.map(run, row), strict=True))


def _behaviours(fault: Fault, asked: Asked, sent: threading.Event) -> tuple[object, ...]:
    service = asked.service
    assert fault.serve is not None
    behaviour = fault.serve

    def serve(conn: Connection) -> None:
        request = conn.read_request()
        if service.is_before(request.target) and not asked.before:
            conn.run(service.before_reply())
        elif fault.again and sent.is_set():
            _answer(conn, request.target)
        elif not asked.before or service.is_before(request.target):
            here = (request.header("Host") or "").rpartition(":")[2]
            _do(conn, replace(asked, here=here))
        else:
            _answer(conn, request.target)

    def _do(conn: Connection, asked: Asked = asked) -> None:
        script = behaviour(asked)
        try:
            if callable(script):
                script(conn)
            else:
                conn.run(script)
        finally:
            sent.set()
        if fault.again:
            # A reply in another's place would be taken for one to the request that comes now.
            _answer(conn, conn.read_request().target)

    def _answer(conn: Connection, target: str) -> None:
        if service.is_before(target) or (asked.before and target.startswith("/moved")):
            conn.run(service.before_reply())
        else:
            conn.run(service.reply(stream=asked.stream))

    if not fault.unread:
        return (serve,)
    return (serve, _do) if service.before and not asked.before else (_do,)


def _ask(client: BaseClient, mode: str) -> str:
    if mode == "complete":
        return client.complete("Why?").text
    if mode == "stream":
        items = list(client.stream("Why?"))
    else:
        items = list(client.create_generator(None, "Why?", stream=False))
    assert isinstance(items[-1], FinishReason), "the last item is no FinishReason"
    return "".join(items)


def _judge(cell: Cell, outcome: object, took_s: float) -> Result:
    expected = cell.fault.expected(cell.asked)
    if isinstance(outcome, BaseException):
        name = type(outcome).__name__
        right = type(outcome) in expected
    else:
        name = GOOD
        right = GOOD in expected and outcome == TEXT
    names = " or ".join(e if isinstance(e, str) else e.__name__ for e in expected)
    wrong = "" if right else f"{cell}: {outcome!r} where {names} was due"
    if took_s > WITHIN_S:
        wrong += f" {cell}: took {took_s:.1f} s"
    return Result(name, took_s, wrong)


def main() -> None:
    """Print the matrix as a table: a line for each fault, a column for each service."""
    start, count, wrong = time.monotonic(), 0, []
    print("| fault |", " | ".join(service.name for service in SERVICES), "|")  # noqa: T201
    print("| --- |" + " --- |" * len(SERVICES))  # noqa: T201
    for fault in ROWS:
        row = run_row(fault)
        columns = []
        for service in SERVICES:
            results = [r for c, r in row if c.asked.service is service]
            columns.append(", ".join(dict.fromkeys(r.outcome for r in results)))
        print(f"| {fault.name} |", " | ".join(columns), "|", flush=True)  # noqa: T201
        count += len(row)
        wrong += [result.wrong for _, result in row if result.wrong]
    took = time.monotonic() - start
    print(f"\n{count} cells in {took:.0f} s, {len(wrong)} wrong", *wrong, sep="\n")  # noqa: T201


if __name__ == "__main__":
    main()
