"""Runs the fault matrix; ``python -m tests.reliability.matrix`` prints it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass

from llmproviders import FailoverClient, FinishReason
from llmproviders.provider import BaseClient
from tests.reliability.faults import FAULTS, GOOD, Asked, Fault
from tests.reliability.services import SERVICES, TEXT
from tests.support.rawserver import Connection, RawServer, black_hole, refused_port

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
        return f"{self.asked.service.name} {self.mode}{place}: {self.fault.name}"


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


def run(cell: Cell) -> Result:
    """Meet the fault and judge what comes of it."""
    fault, asked = cell.fault, cell.asked
    with ExitStack() as serving:
        if fault.port == "refused":
            port = serving.enter_context(refused_port())
        elif fault.port == "black hole":
            port = serving.enter_context(black_hole())
        else:
            port = serving.enter_context(RawServer(*_behaviours(fault, asked))).port
        timeout = _IMPATIENCE_S if fault.silent else _PATIENCE_S
        provider = serving.enter_context(
            asked.service.make(f"http://127.0.0.1:{port}", timeout=timeout, limits=fault.limits)
        )
        client: BaseClient = provider
        if fault.deadline_s is not None:
            client = FailoverClient([provider], attempts=1, deadline=fault.deadline_s)
        start = time.monotonic()
        try:
            outcome: object = _ask(client, cell.mode)
        except Exception as error:  # noqa: BLE001 - whatever comes out is what is judged
            outcome = error
        took_s = time.monotonic() - start
    return _judge(cell, outcome, took_s)


def run_row(fault: Fault) -> list[tuple[Cell, Result]]:
    """All cells of a fault, several at a time: most of them wait."""
    row = list(cells(fault))
    with ThreadPoolExecutor(8) as pool:
        return list(zip(row, pool.map(run, row), strict=True))


def _behaviours(fault: Fault, asked: Asked) -> tuple[object, ...]:
    service = asked.service
    assert fault.serve is not None
    behaviour = fault.serve(asked)

    def serve(conn: Connection) -> None:
        request = conn.read_request()
        if service.is_before(request.target) and not asked.before:
            conn.run(service.before_reply())
        elif not asked.before or service.is_before(request.target):
            _do(conn)
        else:
            conn.run(service.reply(stream=asked.stream))

    def _do(conn: Connection) -> None:
        if callable(behaviour):
            behaviour(conn)
        else:
            conn.run(behaviour)

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
    for fault in FAULTS:
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
