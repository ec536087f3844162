"""Clients and processes that show what a batch does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import BrokenExecutor, Executor, Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from llmproviders._runtime.scope import CancelScope
from llmproviders.errors import ServerError
from llmproviders.provider import BaseClient, Request
from llmproviders.results import FinishReason, Usage

WAIT_S = 20.0
"""How long a test waits for what has to come."""


class Echo(BaseClient):
    """Gives the prompt back, fails where it has ``fail`` in it, and remembers what it was asked."""

    name = "Echo"

    def __init__(self) -> None:
        self.asked: list[str] = []

    def generate(
        self, request: Request, scope: CancelScope | None = None
    ) -> Generator[str, None, None]:
        """Repeat the last message."""
        text = request.messages[-1]["content"]
        self.asked.append(text)
        if "fail" in text:
            raise ServerError("told to fail", provider=self.name)
        yield text
        yield FinishReason("stop", provider=self.name, model=request.model, usage=Usage(1, 2, 3))

    def close(self) -> None:
        """Nothing is open."""


class Gate(Echo):
    """Keeps each request waiting until its prompt is let through."""

    def __init__(self) -> None:
        super().__init__()
        self.running: set[str] = set()
        self.most_running = 0
        self._open: set[str] = set()
        self._all = False
        self._changed = threading.Condition()

    def generate(
        self, request: Request, scope: CancelScope | None = None
    ) -> Generator[str, None, None]:
        """Wait, then repeat the last message."""
        text = request.messages[-1]["content"]
        with self._changed:
            self.running.add(text)
            self.most_running = max(self.most_running, len(self.running))
            self._changed.notify_all()
            assert self._changed.wait_for(lambda: self._all or text in self._open, WAIT_S)
        try:
            yield from super().generate(request, scope)
        finally:
            with self._changed:
                self.running.discard(text)
                self._changed.notify_all()

    def let_through(self, *prompts: str) -> None:
        """Let these prompts go on, without any: all."""
        with self._changed:
            self._open.update(prompts)
            self._all = self._all or not prompts
            self._changed.notify_all()

    def wait_running(self, count: int) -> bool:
        """Wait until so many requests are waiting here; whether they came in time."""
        with self._changed:
            return self._changed.wait_for(lambda: len(self.running) >= count, WAIT_S)


class Inline(Executor):
    """Does the work at once, in the thread that submits it, where a signal's handler runs at once.

    Args:
        breaks_after: takes so many requests, and then breaks; None: takes all.
        answers: whether it says how the work ended.
    """

    def __init__(self, breaks_after: int | None = None, *, answers: bool = True) -> None:
        self._left = breaks_after
        self._answers = answers

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Do it."""
        if self._left is not None:
            if not self._left:
                raise BrokenExecutor("it takes no more")
            self._left -= 1
        future: Future[Any] = Future()
        if self._answers:
            future.set_result(fn(*args, **kwargs))
        else:
            future.set_running_or_notify_cancel()
        return future


PROGRAM = """
import json, sys
import filelock
import llmproviders._http.transport
from llmproviders import OpenAICompatible
from llmproviders.batch import run_file
print("ready", flush=True)
options = json.loads(sys.argv[3])
summary = run_file(OpenAICompatible(), sys.argv[1], sys.argv[2], **options)
print("ended", summary.done, flush=True)
"""


class Child:
    """A process that runs a batch, with its output as lines."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def wait_ready(self) -> None:
        """Wait until its imports are done."""
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"

    def send(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    def send_to_all(self, number: signal.Signals) -> None:
        """Send it and its own processes a signal, as a terminal does."""
        os.killpg(self.process.pid, number)

    def end(self) -> tuple[int, str, str]:
        """Wait for its end; the exit code, and what it wrote."""
        out, err = self.process.communicate(timeout=WAIT_S)
        return self.process.returncode, out, err


@contextmanager
def child(
    source: Path, output: Path, environ: dict[str, str], options: str = "{}", program: str = PROGRAM
) -> Iterator[Child]:
    """Run a batch in a process of its own, killed when the block ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(source), str(output), options],
        cwd=Path(__file__).parents[2],
        env={**os.environ, **environ},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield Child(process)
    finally:
        process.kill()
        process.communicate()
