"""Soak: ``python -m benchmarks.soak [--short] [--calls N] [--threads N] [--seed N]``.

50,000 calls from 16 threads over three providers, a tenth with a random fault. One in fifty goes to
a server that sends an unrequested second reply after each reply. Meanwhile the main thread makes
calls, and alarms whose handler raises end them at random moments. Every text must be right, every
error one of the library's or the alarm's own, and at the end there must be as many open sockets,
threads, file descriptors and as much memory as after the first thousand calls.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import tenacity

import llmproviders
from benchmarks.soak.services import POISONED, PROVIDERS, reply_to
from llmproviders import (
    FailoverClient,
    FinishReason,
    LLMError,
    OpenAICompatible,
    Restart,
    StreamInterrupted,
)
from llmproviders.provider import BaseClient
from tests.support.leaks import open_sockets

FAULT_SHARE = 0.1
POISONED_SHARE = 0.02
ALARMS_PER_THOUSAND = 20
FAULTS: tuple[dict[str, Any], ...] = (
    {"status": 500},
    {"status": 503},
    {"status": 429, "headers": {"Retry-After": "0"}},
    {"status": 401},
    {"cut_after": 0},
    {"cut_after": 2},
    {"reset": True},
    {"reset": True, "cut_after": 1},
    {"garbage": True},
    {"garbage": True, "cut_after": 1},
    {"html": True},
    {"empty": True},
    {"stall": True, "cut_after": 1},
)
TOKEN_FAULTS: tuple[dict[str, Any], ...] = (
    {"provider": "GigaChat", "on": "token", "status": 503},
    {"provider": "GigaChat", "on": "token", "reset": True},
)


@dataclass(frozen=True)
class State:
    """The resources of the process."""

    calls: int
    seconds: float
    sockets: int
    threads: int
    descriptors: int
    memory_kib: int

    def row(self) -> str:
        """A line of the table."""
        return (
            f"| {self.calls:,} | {self.seconds:.0f} | {self.sockets} | {self.threads} "
            f"| {self.descriptors} | {self.memory_kib / 1024:.1f} |"
        )


def state(calls: int, start: float) -> State:
    """The current resources of the process."""
    gc.collect()
    with open("/proc/self/statm") as file:
        pages = int(file.read().split()[1])
    return State(
        calls,
        time.monotonic() - start,
        len(open_sockets()),
        threading.active_count(),
        len(os.listdir("/proc/self/fd")),
        pages * os.sysconf("SC_PAGE_SIZE") // 1024,
    )


class Services:
    """The process with the sandbox."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._orders = process.stdin
        self._lock = threading.Lock()
        self.arguments: dict[str, dict[str, Any]] = json.loads(process.stdout.readline())

    def spoil(self, dice: random.Random) -> str:
        """Make a coming request fail; return its fault."""
        chance = dice.random()
        order: Any
        if chance < 0.03:
            order = "expire"
        elif chance < 0.06:
            order = dice.choice(TOKEN_FAULTS)
        else:
            order = {"provider": dice.choice(PROVIDERS), **dice.choice(FAULTS)}
        with self._lock:
            self._orders.write(json.dumps(order) + "\n")
            self._orders.flush()
        return order if isinstance(order, str) else ", ".join(map(str, order.items()))


@contextmanager
def serving() -> Iterator[Services]:
    """Run the services."""
    command = [sys.executable, "-m", "benchmarks.soak.services"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield Services(process)
        assert process.stdin is not None
        process.stdin.close()


class Soak:
    """The calls and their outcomes."""

    def __init__(
        self, client: FailoverClient, poisoned: BaseClient, services: Services, seed: int
    ) -> None:
        self._client = client
        self._poisoned = poisoned
        self._services = services
        self._alarm = TimeoutError("the alarm")
        self._seed = seed
        self._lock = threading.Lock()
        self.outcomes: Counter[str] = Counter()
        self.spoiled = 0
        self.wrong: list[str] = []

    def one(self, number: int) -> None:
        """One call."""
        dice = random.Random(self._seed + number)
        if dice.random() < FAULT_SHARE:
            self._services.spoil(dice)
            with self._lock:
                self.spoiled += 1
        is_poisoned = dice.random() < POISONED_SHARE
        self._judge(number, self._poisoned if is_poisoned else self._client)

    def alarmed(self, number: int) -> None:
        """One call of the main thread, which an alarm may end."""
        dice = random.Random(self._seed + number)

        # A new one for each: an exception keeps the frames of all its raises.
        self._alarm = TimeoutError("the alarm")

        def ring(*_: object) -> None:
            raise self._alarm

        before = signal.signal(signal.SIGALRM, ring)
        try:
            try:
                signal.setitimer(signal.ITIMER_REAL, dice.uniform(0.001, 0.1))
                self._judge(number, self._client)
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
        except TimeoutError:
            # It arrived when the call was over.
            pass
        finally:
            signal.signal(signal.SIGALRM, before)

    def _judge(self, number: int, client: BaseClient) -> None:
        question = f"{number} почему? 为什么?"
        expected = reply_to([{"content": question}])
        outcome, wrong = self._ask(client, question, expected, streamed=number % 2 == 0)
        with self._lock:
            self.outcomes[outcome] += 1
            if wrong:
                self.wrong.append(f"call {number}: {wrong}")

    def _ask(
        self, client: BaseClient, question: str, expected: str, *, streamed: bool
    ) -> tuple[str, str]:
        pieces: list[str] = []
        try:
            if not streamed:
                text = client.complete(question).text
                return "complete", "" if text == expected else f"the text is {text!r}"
            for piece in client.stream(question):
                pieces.append(piece)  # noqa: PERF402 - what came before an error counts
            text = "".join(pieces)
            right = text == expected and isinstance(pieces[-1], FinishReason)
            return "stream", "" if right else f"the pieces are {pieces!r}"
        except StreamInterrupted as error:
            shown = "".join(pieces)
            right = shown == error.partial_text and expected.startswith(shown)
            return "StreamInterrupted", "" if right else f"{error.partial_text!r} after {shown!r}"
        except LLMError as error:
            right = not pieces or isinstance(pieces[-1], Restart)
            return type(error).__name__, "" if right else f"{error!r} after {pieces!r}"
        except BaseException as error:  # noqa: BLE001 - no other exception is allowed
            if error is self._alarm:
                return "alarm", ""
            return type(error).__name__, f"{error!r} is none of the library's errors"


def main(arguments: list[str]) -> int:
    """Run the soak and print its table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak")
    parser.add_argument("--short", action="store_true", help="3,000 calls")
    parser.add_argument("--calls", type=int)
    parser.add_argument("--threads", type=int, default=16)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    calls = options.calls or (3_000 if options.short else 50_000)
    step = max(1_000, calls // 5)
    with serving() as services:
        poisoned = OpenAICompatible(**services.arguments.pop(POISONED))
        providers = [
            getattr(llmproviders, name)(timeout=(5.0, 1.0), **given)
            for name, given in services.arguments.items()
        ]
        client = FailoverClient(providers, wait=tenacity.wait_fixed(0.01), cooldown=0.2)
        soak = Soak(client, poisoned, services, options.seed)
        print("| calls | seconds | sockets | threads | descriptors | memory, MiB |")
        print("| --- | --- | --- | --- | --- | --- |")
        start = time.monotonic()
        states = []
        for begin, end in _stretches(calls, step):
            # A thousand at a time: pending calls take memory, too.
            for first in range(begin, end, 1_000):
                with ThreadPoolExecutor(options.threads) as pool:
                    done = pool.map(soak.one, range(first, min(first + 1_000, end)))
                    for number in range(first, first + ALARMS_PER_THOUSAND):
                        soak.alarmed(-number)
                    list(done)
            states.append(state(end, start))
            print(states[-1].row(), flush=True)
        client.close()
        poisoned.close()
    print(f"\n{soak.spoiled:,} faults; outcomes: {dict(soak.outcomes.most_common())}")
    problems = [*soak.wrong, *_grown(states[0], states[-1], options.threads)]
    print(f"{len(problems)} problems", *problems[:20], sep="\n")
    return 1 if problems else 0


def _stretches(calls: int, step: int) -> Iterator[tuple[int, int]]:
    begin = 0
    end = 1_000
    while begin < calls:
        yield begin, min(end, calls)
        begin, end = end, (end // step + 1) * step


def _grown(first: State, last: State, threads: int) -> Iterator[str]:
    # Each provider keeps as many connections as were ever in use at once, which the first
    # thousand calls need not have reached.
    kept = threads * len(PROVIDERS)
    for name, most in (
        ("sockets", max(first.sockets, kept)),
        ("threads", first.threads),
        ("descriptors", first.descriptors + max(0, kept - first.sockets)),
        ("memory_kib", first.memory_kib + 8 * 1024),
    ):
        if getattr(last, name) > most:
            yield f"{name}: {getattr(last, name)} at the end, {getattr(first, name)} at first"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
