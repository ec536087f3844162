"""Interrupts calls at every step, and forks beside them.

``python -m tests.reliability.interrupts`` prints a table.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import fcntl
import gc
import json
import os
import random
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path

import tenacity
import trustme

from llmproviders import Cached, FailoverClient, GigaChat, OpenAICompatible
from llmproviders._account import tokens as _token
from llmproviders._account.ledger import ledger
from llmproviders._environment import uploads_file
from llmproviders.provider import BaseClient
from llmproviders.sandbox import Sandbox
from tests.reliability.services import SSE
from tests.support.http_bytes import chunked, http_response
from tests.support.interrupts import Interrupter, interrupted, signalled
from tests.support.processes import Child
from tests.support.proxies import running_proxy
from tests.support.rawserver import RawServer, keep_alive

TEXT = "Hello"
ENDS_WITHIN_S = 20.0
"""The promise is 0.3; a busy machine may take a while to run anything at all."""

_PATIENCE_S = 10.0
_SOON_S = 1.0
_HANGS_S = 120.0
"""After that long without a result, every thread's stack is printed, and the program ends."""


@dataclass(frozen=True)
class Subject:
    """A call to interrupt.

    Attributes:
        client: what is asked.
        port: of the server, which is in this process, so that its sockets do not count.
        prepare: called before each call.
        settle: called after it.
        folder: of the files that the client shares with other processes, or None.
        ask: makes the call.
    """

    client: BaseClient
    port: int
    prepare: Callable[[], object]
    settle: Callable[[], object] = lambda: None
    folder: Path | None = None
    ask: Callable[[BaseClient], str] = lambda client: "".join(client.stream("Why?"))


@dataclass(frozen=True)
class Result:
    """What an interrupt came to; an empty ``wrong`` is success."""

    where: str
    took_s: float
    wrong: tuple[str, ...]


class Bench:
    """Interrupts one subject's call, again and again, and looks at what that leaves.

    The garbage collector, which would tidy up, has to be off.
    """

    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        subject.prepare()
        assert subject.ask(subject.client) == TEXT
        subject.settle()
        self._check_works()
        subject.client.close()
        self._most_descriptors = len(self._descriptors())
        self._most_sockets = len(self._sockets())

    def by_step(self, step: int, *, once: bool = False) -> Result | None:
        """Interrupt the call before a step; None where it has not so many."""
        interrupter = Interrupter(step, once=once)
        took_s, wrong = self._judge(lambda call: interrupted(call, interrupter), exact=True)
        if not interrupter.where:
            return None
        return Result(f"step {step}, {interrupter.where}", took_s, wrong)

    def by_signal(self, after_s: float) -> Result:
        """Interrupt the call by a real signal, after so many seconds."""
        took_s, wrong = self._judge(lambda call: signalled(call, after_s), exact=False)
        return Result(f"after {after_s * 1000:.1f} ms", took_s - after_s, wrong)

    def _judge(
        self, interrupt: Callable[[Callable[[], str]], str | BaseException], *, exact: bool
    ) -> tuple[float, tuple[str, ...]]:
        """How long an interrupted call took, and what is wrong with what it left.

        Args:
            interrupt: makes a call, interrupts it, and returns what it came to.
            exact: whether it came at a step of the library's own. Where Python makes a socket or
                opens a file, nobody else knows of it yet: a socket is closed when the error is
                dropped, and a file, of which there is a number alone, never. Where Python clears
                an object away, it loses the interrupt.
        """
        subject = self._subject
        threads = set(threading.enumerate())
        lost: list[BaseException | None] = []
        hook, sys.unraisablehook = sys.unraisablehook, lambda it: lost.append(it.exc_value)
        try:
            subject.prepare()
            start = time.monotonic()
            # In a list, from which it is taken: held by a local variable, it would hold itself.
            came_to = [interrupt(lambda: subject.ask(subject.client))]
            took_s = time.monotonic() - start
            subject.settle()
            wrong = list(self._looked_at(came_to, threads, exact=exact))
            if took_s > ENDS_WITHIN_S:
                wrong.append(f"it took {took_s:.1f} s")
        finally:
            sys.unraisablehook = hook
        # Descriptors are counted, and an interrupt that was lost is missed.
        counted = (ResourceWarning, KeyboardInterrupt)
        wrong += [f"lost: {error!r}" for error in lost if not isinstance(error, counted)]
        return took_s, tuple(wrong)

    def _looked_at(
        self, came_to: list[str | BaseException], threads: set[threading.Thread], *, exact: bool
    ) -> Iterator[str]:
        result = came_to.pop()
        if not isinstance(result, KeyboardInterrupt) and (exact or result != TEXT):
            yield f"it came to {result!r}"
        if not _soon(lambda: _ours(threading.enumerate()) <= threads):
            yield f"threads left: {_ours(threading.enumerate()) - threads}"
        if self._subject.folder is not None:
            yield from state_of(self._subject.folder)
        try:
            self._check_works()
        except Exception as error:  # noqa: BLE001 - whatever is wrong is told
            yield f"afterwards: {error!r}"
        # What is kept for the next call is not left; in a race, how much that is depends on speed.
        self._subject.client.close()
        # The traceback lives, as it does in a notebook until the next error.
        if exact and not self._no_more_descriptors() and not _took_over(result):
            yield f"left while the error lives: {self._descriptors()}"
        del result
        if exact and not self._no_more_descriptors():
            yield f"left for good: {self._descriptors()}"
        if not _soon(lambda: len(self._sockets()) <= self._most_sockets):
            yield f"sockets left for good: {self._sockets()}"

    def _check_works(self) -> None:
        """Ask from another thread, which no lock of this one may keep from an answer at once."""
        text: list[str] = []
        thread = threading.Thread(
            target=lambda: text.append(str(self._subject.client.complete("Why?"))), daemon=True
        )
        thread.start()
        thread.join(_PATIENCE_S)
        if text != [TEXT]:
            frame = sys._current_frames().get(thread.ident or 0)
            raise AssertionError(f"{text} {''.join(traceback.format_stack(frame))}")

    def _no_more_descriptors(self) -> bool:
        return _soon(lambda: len(self._descriptors()) <= self._most_descriptors)

    def _descriptors(self) -> list[str]:
        """This process's descriptors, without those of the server in it."""
        found = []
        for name in os.listdir("/dev/fd"):
            with contextlib.suppress(OSError):  # the folder's own descriptor is closed by now
                if _local_port(int(name)) != self._subject.port:
                    found.append(os.readlink(f"/dev/fd/{name}"))
        return found

    def _sockets(self) -> list[str]:
        return [what for what in self._descriptors() if what.startswith("socket")]


def _local_port(descriptor: int) -> int | None:
    if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
        return None
    with socket.socket(fileno=os.dup(descriptor)) as sock:
        return sock.getsockname()[1] if sock.family == socket.AF_INET else None


def _ours(threads: Iterable[threading.Thread]) -> set[threading.Thread]:
    """Threads, without those of the servers in this process."""
    return {thread for thread in threads if not thread.name.startswith(("sandbox", "rawserver"))}


def _soon(condition: Callable[[], bool]) -> bool:
    end = time.monotonic() + _SOON_S
    while not (holds := condition()) and time.monotonic() < end:
        time.sleep(0.002)
    return holds


def _took_over(result: str | BaseException) -> bool:
    """Whether Python itself was moving a descriptor from a socket to its TLS socket.

    Nothing but the traceback knows of it then, and closes it with itself.
    """
    if isinstance(result, str):
        return False
    return any(
        frame.f_code.co_name == "_create" and frame.f_code.co_filename.endswith("ssl.py")
        for frame, _ in traceback.walk_tb(result.__traceback__)
    )


def state_of(folder: Path) -> Iterator[str]:
    """What is wrong with files that processes share: broken, or locked still."""
    for path in folder.rglob("*"):
        if path.suffix == ".json":
            try:
                json.loads(path.read_bytes())
            except ValueError as error:
                yield f"{path.name}: {error}"
        elif path.is_file():
            with path.open("rb") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except OSError:
                    yield f"{path.name} is locked"


@contextmanager
def _sandbox(**arguments: object) -> Iterator[tuple[Sandbox, OpenAICompatible]]:
    with (
        Sandbox(reply=TEXT) as sandbox,
        OpenAICompatible(**{**sandbox.provider_arguments("openai"), **arguments}) as provider,
    ):
        yield sandbox, provider


@contextmanager
def _connecting(
    ask: Callable[[BaseClient], str] = Subject.ask, **arguments: object
) -> Iterator[Subject]:
    """A call that makes its connection."""
    with _sandbox(**arguments) as (sandbox, provider):
        yield Subject(provider, sandbox.port, provider.close, ask=ask)


@contextmanager
def _connected() -> Iterator[Subject]:
    """A call on a connection that was kept."""
    with _sandbox() as (sandbox, provider):
        yield Subject(provider, sandbox.port, lambda: provider.complete("Why?"))


@contextmanager
def _fetching_a_token(
    ask: Callable[[BaseClient], str] = Subject.ask, *, shared: bool = False
) -> Iterator[Subject]:
    """A call that fetches a token and takes a place, in memory or in a file."""
    with Sandbox(reply=TEXT) as sandbox, tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "tokens.json") if shared else None
        provider = GigaChat(**sandbox.provider_arguments("gigachat"), token_cache=file)

        def prepare() -> None:
            provider.close()
            _token._keepers.clear()
            if file is not None:
                file.unlink(missing_ok=True)

        with provider:
            yield Subject(provider, sandbox.port, prepare, folder=Path(folder), ask=ask)


@contextmanager
def _in_line(*, shared: bool) -> Iterator[Subject]:
    """A call that waits for a place that another thread has for a moment."""
    with Sandbox(reply=TEXT) as sandbox, tempfile.TemporaryDirectory() as folder:
        provider: BaseClient = (
            GigaChat(
                **sandbox.provider_arguments("gigachat"), token_cache=Path(folder, "tokens.json")
            )
            if shared
            else OpenAICompatible(**sandbox.provider_arguments("openai"), max_concurrency=1)
        )
        holders: list[threading.Thread] = []

        def prepare() -> None:
            holding = threading.Event()
            holders.append(threading.Thread(target=hold, args=(holding,)))
            holders[-1].start()
            holding.wait(_PATIENCE_S)

        def hold(holding: threading.Event) -> None:
            with contextlib.closing(provider.stream("Why?")) as stream:
                next(stream)
                holding.set()
                time.sleep(0.02)

        with provider:
            yield Subject(
                provider,
                sandbox.port,
                prepare,
                lambda: holders.pop().join(),
                Path(folder),
            )


@contextmanager
def _failing_over(
    *providers: str, fault: dict[str, object], health: bool = False, **arguments: object
) -> Iterator[Subject]:
    """A call whose first try meets a fault."""
    with Sandbox(reply=TEXT) as sandbox, tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "health.json") if health else None
        client: FailoverClient = sandbox.client(*providers, health=file, **arguments)

        def prepare() -> None:
            client.close()
            if file is not None:
                file.unlink(missing_ok=True)
            sandbox.fail(providers[0], **fault)

        with client:
            yield Subject(client, sandbox.port, prepare, sandbox.heal, Path(folder))


@contextmanager
def _counted() -> Iterator[Subject]:
    """A call that is counted in the file of usage before and after it."""
    with (
        tempfile.TemporaryDirectory() as folder,
        _environment(XDG_STATE_HOME=folder),
        _sandbox(per_day=10**6, per_minute=10**6) as (sandbox, provider),
    ):
        yield Subject(provider, sandbox.port, ledger().close)
        ledger().close()


@contextmanager
def _cached() -> Iterator[Subject]:
    """A call whose reply is kept in a file."""
    with tempfile.TemporaryDirectory() as folder, _sandbox() as (sandbox, provider):
        client = Cached(provider, Path(folder, "replies.db"))

        def prepare() -> None:
            client.clear()
            client.close()

        with client:
            yield Subject(client, sandbox.port, prepare)


@contextmanager
def _with_a_file() -> Iterator[Subject]:
    """A call that uploads a file, which is remembered."""
    with (
        Sandbox(reply=TEXT) as sandbox,
        tempfile.TemporaryDirectory() as name,
        _environment(XDG_STATE_HOME=name),
        GigaChat(**sandbox.provider_arguments("gigachat")) as provider,
    ):
        note = Path(name, "note.txt")
        note.write_text("It scatters.")

        def prepare() -> None:
            provider.close()
            uploads_file().unlink(missing_ok=True)

        yield Subject(
            provider,
            sandbox.port,
            prepare,
            folder=uploads_file().parent,
            ask=lambda client: "".join(client.stream("Why?", attach=[note])),
        )


@contextmanager
def _looking_up_a_name() -> Iterator[Subject]:
    """A call to a name that a resolver has to be asked for, in a thread of its own."""
    look_up = socket.getaddrinfo
    try:
        with _sandbox() as (sandbox, provider):
            provider.base_url = f"http://service.invalid:{sandbox.port}/v1"
            socket.getaddrinfo = lambda host, *rest: look_up(  # type: ignore[assignment]
                "127.0.0.1" if host == "service.invalid" else host, *rest
            )
            yield Subject(provider, sandbox.port, provider.close)
    finally:
        socket.getaddrinfo = look_up


@contextmanager
def _over_tls() -> Iterator[Subject]:
    """A call over TLS."""
    events = (
        b'data: {"choices": [{"index": 0, "delta": {"content": "Hello"}}]}\n\n',
        b'data: {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}\n\n',
        b"data: [DONE]\n\n",
    )
    reply = http_response(200, {"Content-Type": SSE}, chunked(events))
    ca = trustme.CA()
    with (
        ca.cert_pem.tempfile() as bundle,
        _environment(REQUESTS_CA_BUNDLE=bundle),
        RawServer(keep_alive(reply), tls=ca) as server,
        OpenAICompatible(base_url=f"{server.url}/v1", model="m", api_key="k") as provider,
    ):
        yield Subject(provider, server.port, provider.close)


@contextmanager
def _environment(**names: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(names)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def _through_socks() -> Iterator[Subject]:
    """A call through a SOCKS proxy."""
    with (
        tempfile.TemporaryDirectory() as folder,
        running_proxy("socks5", Path(folder)) as proxy,
        _connecting(proxy=proxy.url()) as subject,
    ):
        yield subject


SUBJECTS: dict[str, Callable[[], AbstractContextManager[Subject]]] = {
    "complete": lambda: _connecting(lambda client: str(client.complete("Why?"))),
    "stream": _connecting,
    "not streamed": lambda: _connecting(
        lambda client: "".join(client.create_generator(None, "Why?", stream=False))  # type: ignore[arg-type]
    ),
    "kept connection": _connected,
    "token": _fetching_a_token,
    "embeddings": lambda: _fetching_a_token(
        lambda client: TEXT if client.embed(TEXT) else ""  # type: ignore[attr-defined]
    ),
    "token file": lambda: _fetching_a_token(shared=True),
    "place": lambda: _in_line(shared=False),
    "place file": lambda: _in_line(shared=True),
    # A forked child may meet the faults of several calls of the thread beside it.
    "retry": lambda: _failing_over(
        "openai", fault={"status": 503}, attempts=20, wait=tenacity.wait_fixed(0.01)
    ),
    "failover, health file": lambda: _failing_over(
        "chatglm", "openai", fault={"status": 503}, attempts=1, health=True
    ),
    "hedge": lambda: _failing_over(
        "chatglm", "openai", fault={"stall": True}, hedge_after=0.01, cooldown=0
    ),
    "limits": _counted,
    "cache": _cached,
    "file": _with_a_file,
    "name": _looking_up_a_name,
    "tls": _over_tls,
    "socks": _through_socks,
}


@contextmanager
def bench(name: str) -> Iterator[Bench]:
    """A bench for the subject of that name."""
    with SUBJECTS[name]() as subject:
        gc.collect()
        gc.disable()
        try:
            yield Bench(subject)
        finally:
            gc.enable()


def at_every_step(name: str, *, stride: int = 1, once: bool = False) -> Iterator[Result]:
    """Interrupt a subject's call before every step, or every so many steps."""
    with bench(name) as made:
        step = 1
        while (result := made.by_step(step, once=once)) is not None:
            yield result
            step += stride


def at_random(name: str, times: int, *, seed: int = 1) -> Iterator[Result]:
    """Interrupt a subject's call at random moments."""
    chance = random.Random(seed)
    with bench(name) as made:
        for _ in range(times):
            yield made.by_signal(chance.uniform(0.0, 0.05))


def at_forks(name: str, times: int, *, seed: int = 1) -> Iterator[Result]:
    """Fork at random moments beside a thread that makes a subject's calls; the child makes one."""
    chance = random.Random(seed)
    with SUBJECTS[name]() as subject, _called_by_a_thread(subject):
        for _ in range(times):
            after_s = chance.uniform(0.0, 0.05)
            time.sleep(after_s)
            start = time.monotonic()
            wrong: tuple[str, ...] = ()
            try:
                Child(partial(_ask, subject)).end_within(ENDS_WITHIN_S)
            except AssertionError as error:
                wrong = (str(error),)
            where = f"forked after {after_s * 1000:.1f} ms"
            yield Result(where, time.monotonic() - start, wrong)


def _ask(subject: Subject) -> None:
    assert subject.ask(subject.client) == TEXT


@contextmanager
def _called_by_a_thread(subject: Subject) -> Iterator[None]:
    """Have a thread make a subject's calls, one after another."""
    over = threading.Event()
    wrong: list[BaseException] = []

    def run() -> None:
        while not over.is_set() and not wrong:
            try:
                subject.prepare()
                _ask(subject)
                subject.settle()
            except BaseException as error:  # noqa: BLE001 - told at the end
                wrong.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
    if wrong:
        raise AssertionError(f"beside the forks: {wrong[0]!r}") from wrong[0]


_CALLING = """if True:
    import sys
    from pathlib import Path
    from llmproviders import ChatGLM, FailoverClient, GigaChat
    from llmproviders._account import tokens as _token

    folder = Path(sys.argv[1])
    tokens = folder / "tokens.json"
    client = FailoverClient(
        [ChatGLM(), GigaChat(token_cache=tokens)],
        attempts=1, cooldown=0.001, health=folder / "health.json",
    )
    while True:
        assert str(client.complete("Why?")) == "Hello"
        print("called", flush=True)
        _token._keepers.clear()
        tokens.unlink(missing_ok=True)
"""


def in_processes(times: int, *, beside: int = 3, seed: int = 1) -> Iterator[Result]:
    """Interrupt processes that share their files, at random moments of calls, as Ctrl-C does."""
    chance = random.Random(seed)
    with Sandbox(reply=TEXT) as sandbox, tempfile.TemporaryDirectory() as name:
        sandbox.fail("chatglm", status=503, times=1_000_000)
        environment = {**os.environ, **sandbox.environ()}
        for _ in range(times // beside):
            calling = [_Calling(Path(name), environment) for _ in range(beside)]
            results = [one.interrupt(chance.uniform(0.0, 0.1)) for one in calling]
            wrong = tuple(state_of(Path(name)))
            yield from (replace(result, wrong=(*result.wrong, *wrong)) for result in results)


class _Calling:
    """A process that calls again and again."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _CALLING, str(folder)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def interrupt(self, after_s: float) -> Result:
        """Have it interrupted so long after its first call; it ends as Ctrl-C ends a program."""
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "called\n"
        time.sleep(after_s)
        start = time.monotonic()
        for _ in range(3):
            # Python loses an interrupt that comes as it clears an object away.
            self._process.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                _, said = self._process.communicate(timeout=ENDS_WITHIN_S)
                break
        else:
            self._process.kill()
            _, said = self._process.communicate()
        took_s = time.monotonic() - start
        ended = self._process.returncode == -signal.SIGINT and "KeyboardInterrupt" in said
        return Result(f"after {after_s * 1000:.1f} ms", took_s, () if ended else (said,))


def main() -> None:
    """Print what came of it as a table: a line for each subject."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(SUBJECTS)}")
    parser.add_argument("--stride", type=int, default=1, help="steps from one to the next")
    parser.add_argument("--signals", type=int, default=200, help="real ones, at random moments")
    parser.add_argument("--forks", type=int, default=50, help="at random moments")
    options = parser.parse_args()
    stride, signals = options.stride, options.signals
    # A shell has what it runs in the background ignore interrupts.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    rows = [
        (
            name,
            chain(
                at_every_step(name, stride=stride),
                at_random(name, signals),
                at_forks(name, options.forks),
            ),
        )
        for name in options.names or SUBJECTS
    ]
    if not options.names:
        rows.append(("processes", in_processes(signals)))
    print("| call | interrupts and forks | wrong | slowest, s |")  # noqa: T201
    print("| --- | --- | --- | --- |")  # noqa: T201
    wrong: list[str] = []
    for name, under_way in rows:
        results: list[Result] = []
        for result in under_way:
            faulthandler.dump_traceback_later(_HANGS_S, exit=True)
            results.append(result)
        bad = [result for result in results if result.wrong]
        slowest = max(result.took_s for result in results)
        print(f"| {name} | {len(results)} | {len(bad)} | {slowest:.2f} |", flush=True)  # noqa: T201
        wrong += [f"{name}, {result.where}: {'; '.join(result.wrong)}" for result in bad]
    faulthandler.cancel_dump_traceback_later()
    print("", *wrong, sep="\n")  # noqa: T201
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
