"""One measurement, in its own process.

``python -m benchmarks.speed.sample MEASURE CLIENT BASE RUN SERVICE FRAMING PIECES PACE COUNT``
prints a JSON object of numbers. Times are in microseconds unless the name says otherwise.

Only modules that every client needs are imported here, so that a cold start is the client's own.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable

from . import clients

_WARMING_PIECES = 50
_WARMING_TURNS = 5
_CALL_PIECES = 5
_RSS_FROM, _RSS_EVERY = 1_000, 500


class Case:
    """One case: a client, and the reply that the server sends it."""

    def __init__(self, client: str, base: str, run: str, *rest: str) -> None:
        self.client = client
        self._origin = f"{base}/{run}"
        self.service, self.framing, pieces, self.pace, count = rest
        self.pieces, self.count = int(pieces), int(count)

    def base(self, pieces: int, framing: str) -> str:
        """The address that sends ``pieces`` pieces in ``framing``."""
        return f"{self._origin}/{self.service}/{framing}/{pieces}/{self.pace}"

    def make(self, pieces: int | None = None) -> clients.Client:
        """The client, asking for ``pieces`` pieces."""
        base = self.base(self.pieces if pieces is None else pieces, self.framing)
        return clients.make(self.client, base, self.service)

    def check(self, text: str, pieces: int | None = None) -> None:
        """Check that the text is the one that the server sent."""
        from .wire import whole

        assert text == whole(self.pieces if pieces is None else pieces), "a wrong text"

    def warmed(self) -> clients.Client:
        """The client, after everything that it needs has been loaded and has run."""
        few = min(self.pieces, _WARMING_PIECES)
        warming = self.make(few)
        for _ in range(3):
            self.check("".join(warming.stream()), few)
        return self.make()


def _rss_kib() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4


def cpu(case: Case) -> dict[str, float]:
    """Processor and wall time of a piece, over ``count`` streams after ``count > 1`` and 1 more."""
    import gc

    client = case.warmed()
    if case.count > 1:
        case.check("".join(client.stream()))
    gc.collect()
    wall, start = time.perf_counter(), time.process_time()
    for _ in range(case.count):
        pieces = list(client.stream())
    spent, took = time.process_time() - start, time.perf_counter() - wall
    case.check("".join(pieces))
    per = 1e6 / (case.pieces * case.count)
    return {"cpu": spent * per, "wall": took * per}


def beside(case: Case) -> dict[str, float]:
    """The processor time that a client in front of ``own.openai`` adds.

    Both run in turns in one process, ``count`` times each: two processes differ by more. A stream
    is compared by its ratio, a call of ``complete`` by its difference.
    """
    from copy import copy

    inner = copy(case)
    inner.client = "own.openai"
    both = (case, inner)
    cpu = time.process_time
    stream, alone = _by_turns([one.warmed().stream for one in both], case.count, cpu)
    call, call_alone = _by_turns([one.make(_CALL_PIECES).complete for one in both], case.count, cpu)
    return {"stream": stream / alone, "call": (call - call_alone) * 1e6}


def _by_turns(
    asks: list[Callable[[], Iterable[str]]],
    count: int,
    clock: Callable[[], float] = time.perf_counter,
) -> list[float]:
    """The median time of each of ``asks``, after a few turns that do not count."""
    spent: list[list[float]] = [[] for _ in asks]
    for _ in range(_WARMING_TURNS + count):
        for ask, times in zip(asks, spent, strict=True):
            start = clock()
            for _ in ask():
                pass
            times.append(clock() - start)
    return [sorted(times[_WARMING_TURNS:])[count // 2] for times in spent]


_WITHOUT = {"own.limited": "own.openai", "own.run": "own.by_hand"}


def added(case: Case) -> dict[str, float]:
    """What a call of ``complete`` takes longer than one without what is measured.

    Both run by turns in one process. Of a run of functions it is the time for each turn.
    """
    from copy import copy

    plain = copy(case)
    plain.client = _WITHOUT[case.client]
    took, alone = _by_turns([one.make().complete for one in (case, plain)], case.count)
    turns = case.pieces if case.service == "tools" else 1
    return {"wall": (took - alone) * 1e6 / turns}


def call(case: Case) -> dict[str, float]:
    """What a call of ``complete`` takes once it has been made before."""
    client = case.make()
    case.check(client.complete())
    (took,) = _by_turns([client.complete], case.count)
    return {"wall": took * 1e6}


def validation(case: Case) -> dict[str, float]:
    """What it takes to check a reply of ``pieces`` items against a type, beside pydantic alone."""
    import json
    from dataclasses import asdict, dataclass

    from pydantic import TypeAdapter

    from llmproviders.schema import Schema

    from .wire import piece

    @dataclass
    class Item:
        name: str
        count: int
        price: float
        tags: list[str]

    items = [Item(piece(n), n, n * 1.5, ["steel", "M8"]) for n in range(case.pieces)]
    text = json.dumps([asdict(item) for item in items], ensure_ascii=False)
    schema, alone = Schema.of(list[Item]), TypeAdapter(list[Item])
    assert schema.validate(text) == alone.validate_json(text) == items
    checks = (schema.validate, lambda text: alone.validate_json(text, strict=True))
    took, least = _by_turns([lambda check=check: check(text) for check in checks], case.count)
    return {"wall": took * 1e6, "ratio": took / least}


def batch(case: Case) -> dict[str, float]:
    """Rows a second of ``batch.map``, beside as many threads that call ``complete`` themselves."""
    from concurrent.futures import ThreadPoolExecutor

    from llmproviders import OpenAICompatible
    from llmproviders.batch import map as batch_map

    threads = int(case.framing)
    base = case.base(_CALL_PIECES, "single")
    client = OpenAICompatible(base_url=f"{base}/v1", api_key="1234567890")
    prompts = [f"What is the answer to question {number}?" for number in range(case.count)]

    def own() -> list[str]:
        return [str(row.completion) for row in batch_map(client, prompts, workers=threads)]

    def pool() -> list[str]:
        with ThreadPoolExecutor(threads) as executor:
            return [str(reply) for reply in executor.map(client.complete, prompts)]

    assert own() == pool()
    took, alone = _by_turns([own, pool], 5)
    return {"per_s": case.count / took, "ratio": alone / took}


def drain(case: Case) -> dict[str, float]:
    """The server's speed: wall time of a piece that is only read."""
    client = case.make()
    took = []
    for _ in range(3):
        start = time.perf_counter()
        for _ in client.stream():
            pass
        took.append(time.perf_counter() - start)
    return {"wall": min(took) * 1e6 / case.pieces}


def delay(case: Case) -> dict[str, float]:
    """The time from when the server sends a piece until the caller has it."""
    from .server import STAMP_DIGITS

    client = case.make()
    now = time.monotonic_ns
    late = [now() - int(piece[:STAMP_DIGITS]) for piece in client.stream() if piece]
    assert len(late) == case.pieces, f"{len(late)} pieces of {case.pieces}"
    late = sorted(late[5:])
    return {
        "p50": late[len(late) // 2] / 1e3,
        "p99": late[-1 - len(late) // 100] / 1e3,
        "max": late[-1] / 1e3,
    }


def first(case: Case) -> dict[str, float]:
    """The time from the call to the first text, warm and with an open connection; medians."""
    client = case.make()
    took, spent = [], []
    for _ in range(case.count):
        busy, start = time.process_time(), time.perf_counter()
        stream = iter(client.stream())
        pieces = [next(stream)]
        took.append(time.perf_counter() - start)
        spent.append(time.process_time() - busy)
        pieces += stream
        case.check("".join(pieces))
    return {
        "wall": sorted(took)[case.count // 2] * 1e6,
        "cpu": sorted(spent)[case.count // 2] * 1e6,
    }


def cold(case: Case) -> dict[str, float]:
    """The time of the first text of a new process, by the clock of the parent process."""
    stream = iter(case.make().stream())
    pieces = [next(stream)]
    at = time.monotonic()
    pieces += stream
    case.check("".join(pieces))
    return {"at": at}


def calls(case: Case) -> dict[str, float]:
    """``count`` calls of ``complete`` by each of as many threads as ``framing`` says."""
    from concurrent.futures import ThreadPoolExecutor

    threads = int(case.framing)
    case.framing = "single"
    client = case.make()
    with ThreadPoolExecutor(threads) as pool:
        texts = list(pool.map(lambda _: client.complete(), range(threads * 4)))
        wall, start = time.perf_counter(), time.process_time()
        texts = list(pool.map(lambda _: client.complete(), range(threads * case.count)))
        spent, took = time.process_time() - start, time.perf_counter() - wall
    for text in texts:
        case.check(text)
    return {"per_s": len(texts) / took, "cpu": spent * 1e6 / len(texts)}


def connections(case: Case) -> dict[str, float]:
    """``count`` streams, one after another; the server counts the connections."""
    client = case.make()
    for _ in range(case.count):
        case.check("".join(client.stream()))
    return {}


def memory_stream(case: Case) -> dict[str, float]:
    """How much the process grows in a long stream that is not kept, from its 1,000th piece on."""
    from zlib import crc32

    from .wire import whole

    client = case.warmed()
    seen = before = most = 0
    for number, piece in enumerate(client.stream(), 1):
        seen = crc32(piece.encode(), seen)
        if number == _RSS_FROM:
            before = _rss_kib()
        if number % _RSS_EVERY == 0:
            most = max(most, _rss_kib())
    most = max(most, _rss_kib())
    assert seen == crc32(whole(case.pieces).encode()), "a wrong text"
    return {"mib": (most - before) / 1024}


def memory_calls(case: Case) -> dict[str, float]:
    """How much the process grows from the first tenth of many calls to their end."""
    client = case.make()
    for number in range(case.count):
        if number == case.count // 10:
            before = _rss_kib()
        text = client.complete()
    case.check(text)
    return {"mib": (_rss_kib() - before) / 1024}


def main(measure: str, *arguments: str) -> None:
    """Measure and print."""
    numbers = globals()[measure](Case(*arguments))
    import json

    print(json.dumps(numbers))


if __name__ == "__main__":
    main(*sys.argv[1:])
