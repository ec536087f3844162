"""A stopped batch: nothing more is sent, and what was sent is read to its end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
import tenacity

from llmproviders import (
    ConnectionFailed,
    FailoverClient,
    GigaChat,
    OpenAICompatible,
    ServerError,
    StreamInterrupted,
)
from llmproviders.batch import BatchResult, _flow, run, run_file, table
from llmproviders.batch import map as batch_map
from llmproviders.batch._task import FinishedTask, task_of
from llmproviders.sandbox import Sandbox
from tests.support.batches import WAIT_S, Inline

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")

QUESTIONS = [f"question {n}" for n in range(20)]


@pytest.fixture
def slow() -> Iterator[Sandbox]:
    """A sandbox whose replies take a second, so that a stop comes while they do."""
    with Sandbox(piece_delay_s=0.05) as sandbox:
        yield sandbox


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give requests that were not sent all the time that a loaded machine needs to come back."""
    monkeypatch.setattr(_flow, "_SETTLE_S", 3.0)


def stopped(work: Callable[[], object], when: Callable[[], object]) -> list[BatchResult]:
    """Do ``work``, stopped once ``when`` has returned; the results that the interrupt has."""

    def press() -> None:
        when()
        os.kill(os.getpid(), signal.SIGINT)

    presser = threading.Thread(target=press)
    presser.start()
    try:
        with pytest.raises(KeyboardInterrupt) as caught:
            work()
    finally:
        presser.join()
    return getattr(caught.value, "results", [])


def sent(sandbox: Sandbox, service: str, count: int = 1) -> Callable[[], object]:
    """A function that waits until the service has got so many requests."""
    return lambda: sandbox.wait_for(lambda s: s.count(service, "chat") >= count, timeout_s=WAIT_S)


def from_environment(monkeypatch: pytest.MonkeyPatch, sandbox: Sandbox) -> None:
    """Have clients find the sandbox."""
    for name, value in sandbox.environ().items():
        monkeypatch.setenv(name, value)


WAYS: dict[str, Callable[[Any, Path], object]] = {
    "run": lambda client, _: list(run(client, QUESTIONS, workers=8)),
    "map": lambda client, _: batch_map(client, QUESTIONS, workers=8),
    "table": lambda client, _: table(client, "Why {q}?", frame(), workers=8),
    "table with output": lambda client, folder: table(
        client, "Why {q}?", frame(), workers=8, output=folder / "out.jsonl"
    ),
    "run_file": lambda client, folder: run_file(
        client, asked(folder), folder / "out.jsonl", workers=8
    ),
    "threads of the caller": lambda client, _: in_threads(client),
}


def frame() -> Any:
    """The questions as a table."""
    return pytest.importorskip("pandas").DataFrame({"q": QUESTIONS})


def asked(folder: Path) -> Path:
    """The questions as a file."""
    path = folder / "in.jsonl"
    path.write_text("".join(f'"{question}"\n' for question in QUESTIONS))
    return path


def in_threads(client: Any) -> None:
    """Ask the questions in a pool of the caller's own."""
    with ThreadPoolExecutor(8) as pool:
        list(run(client, QUESTIONS, workers=8, executor=pool))


@pytest.mark.parametrize("way", WAYS)
def test_waiting_for_a_slot(
    way: str,
    slow: Sandbox,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Rows that only wait for their turn at a service are not sent after a stop, and are not among
    those that are being finished.
    """
    from_environment(monkeypatch, slow)
    with GigaChat(max_concurrency=1) as client:
        stopped(lambda: WAYS[way](client, tmp_path), sent(slow, "gigachat"))
    assert slow.count("gigachat", "chat") == 1
    assert not any(record.aborted for record in slow.requests)
    assert "finishing 8" not in capsys.readouterr().err
    if (tmp_path / "out.jsonl").exists():
        assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 1


def test_what_was_sent_is_a_result(slow: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reply to what was sent is read to its end; rows that were not sent are no results."""
    from_environment(monkeypatch, slow)
    with OpenAICompatible(max_concurrency=2) as client:
        results = stopped(lambda: list(run(client, QUESTIONS, workers=8)), sent(slow, "openai", 2))
    assert len(results) == slow.count("openai", "chat") == 2
    assert all(result.completion for result in results)


def test_a_slot_shared_by_processes(
    slow: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor are those sent that wait for another process, which holds the slot's file."""
    from_environment(monkeypatch, slow)
    slow.fail("gigachat", stall=True, cut_after=1)
    cache = tmp_path / "tokens.json"
    program = (
        "import sys\n"
        "from llmproviders import GigaChat\n"
        "stream = GigaChat(token_cache=sys.argv[1]).stream('Why?')\n"
        "print(next(stream), flush=True)\n"
        "sys.stdin.read()\n"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", program, str(cache)],
        env={**os.environ, **slow.environ()},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    begun = threading.Event()
    try:
        assert other.stdout is not None
        assert other.stdout.readline()
        with GigaChat(token_cache=cache) as client:
            results = stopped(
                lambda: list(run(client, read_by(begun), workers=1)), lambda: begun.wait(WAIT_S)
            )
    finally:
        other.kill()
        other.communicate()
    assert results == []
    assert slow.count("gigachat", "chat") == 1


def read_by(begun: threading.Event) -> Iterator[str]:
    """The questions; sets the event when some of them were read."""
    for number, question in enumerate(QUESTIONS):
        if number == 3:
            begun.set()
        yield question


def test_waiting_for_per_minute(slow: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that wait for the caller's own limit are not sent after a stop."""
    from_environment(monkeypatch, slow)
    with OpenAICompatible(per_minute=1) as client:
        results = stopped(lambda: list(run(client, QUESTIONS, workers=4)), sent(slow, "openai"))
    assert slow.count("openai", "chat") == len(results) == 1


def test_waiting_for_a_token(slow: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows whose token is still on its way are not sent after a stop, and the next call is not
    hurt.
    """
    from_environment(monkeypatch, slow)
    slow.fail("gigachat", drip_s=0.01, times=1, on="token")
    with GigaChat(max_concurrency=10) as client:
        results = stopped(
            lambda: list(run(client, QUESTIONS, workers=8)),
            lambda: slow.wait_for(lambda s: s.count("gigachat", "token") == 1, timeout_s=WAIT_S),
        )
        assert results == []
        assert slow.count("gigachat", "chat") == 0
        assert client.complete("Why?").text


class Pressing(GigaChat):
    """Is stopped when its token was refused."""

    pressed = False

    def recover(self, *args: Any) -> str | None:
        """Press, and then get a new token as always."""
        if not self.pressed:
            self.pressed = True
            signal.raise_signal(signal.SIGINT)
        return super().recover(*args)


def test_a_token_that_is_refused(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request whose token was refused is not sent again after a stop."""
    from_environment(monkeypatch, sandbox)
    with Pressing() as client:
        client.complete("Why?")
        sandbox.expire_tokens()
        with pytest.raises(KeyboardInterrupt):
            list(run(client, QUESTIONS, workers=1, executor=Inline()))
    assert client.pressed
    assert sandbox.count("gigachat", "chat") == 2


def test_waiting_for_a_retry(slow: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row that waits for its next try is not sent again: it ends with the error of its last
    try, and the waits of the others end.
    """
    from_environment(monkeypatch, slow)
    slow.fail("openai", status=503, times=100)
    failed = threading.Semaphore(0)

    def wait() -> None:
        for _ in range(4):
            assert failed.acquire(timeout=WAIT_S)

    client = FailoverClient(
        [OpenAICompatible()],
        wait=tenacity.wait_fixed(1000),
        on_event=lambda _: failed.release(),
    )
    with client:
        results = stopped(lambda: list(run(client, QUESTIONS, workers=4)), wait)
    assert slow.count("openai", "chat") == 4
    assert [type(result.error) for result in results] == [ServerError] * 4
    assert all(len(result.error.attempts) == 1 for result in results)  # type: ignore[union-attr]


@pytest.mark.parametrize("hedge_after", [None, 1000.0], ids=["in turn", "hedged"])
def test_no_retry_after_a_stop(
    slow: Sandbox, monkeypatch: pytest.MonkeyPatch, hedge_after: float | None
) -> None:
    """A reply that breaks off after a stop is neither asked for again nor asked of another."""
    from_environment(monkeypatch, slow)
    slow.fail("openai", cut_after=8, times=100)
    client = FailoverClient(
        [OpenAICompatible(), OpenAICompatible(name="second", model="second")],
        hedge_after=hedge_after,
    )
    with client:
        results = stopped(lambda: list(run(client, QUESTIONS, workers=2)), sent(slow, "openai", 2))
    assert slow.count("openai", "chat") == 2
    assert [type(result.error) for result in results] == [StreamInterrupted] * 2
    assert client.report().providers[1].tries == 0


def test_no_second_form_after_a_stop(slow: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """An invalid reply that ends after a stop is not shown to the model again; its row has the
    tokens that were paid for.
    """
    from_environment(monkeypatch, slow)
    slow.reply("openai", "This is no JSON, but a text of several words.", times=100)
    request = {"prompt": "Why?", "schema": {"type": "integer"}}
    with OpenAICompatible() as client:
        results = stopped(lambda: list(run(client, [request], workers=1)), sent(slow, "openai"))
    assert slow.count("openai", "chat") == 1
    (result,) = results
    assert type(result.error).__name__ == "SchemaError"
    assert result.error.attempts[0].usage is not None  # type: ignore[union-attr]


def test_while_connecting(black_hole: int, capsys: pytest.CaptureFixture[str]) -> None:
    """A row whose connection is not there yet was not sent, and is not waited for."""
    client = OpenAICompatible(base_url=f"http://127.0.0.1:{black_hole}/v1", timeout=1000)
    begun = threading.Event()
    with client:
        results = stopped(
            lambda: list(run(client, read_by(begun), workers=2)), lambda: begun.wait(WAIT_S)
        )
    assert results == []
    assert "finishing" not in capsys.readouterr().err


def test_a_full_batch(slow: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``max_failures`` stops in the same way: what only waits for its turn is not sent."""
    from_environment(monkeypatch, slow)
    slow.fail("gigachat", status=400, times=1)
    with GigaChat(max_concurrency=1) as client:
        summary = run_file(
            client, asked(tmp_path), tmp_path / "out.jsonl", workers=8, max_failures=1
        )
    assert summary.stopped
    assert summary.done + summary.failed == slow.count("gigachat", "chat") <= 2


def test_processes(slow: Sandbox, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What a pool's processes have taken over, but not sent, is not sent after a stop either."""
    from_environment(monkeypatch, slow)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        results = stopped(
            lambda: list(run(OpenAICompatible(), QUESTIONS, workers=2, executor=pool)),
            sent(slow, "openai", 2),
        )
    assert len(results) == slow.count("openai", "chat") == 2
    assert all(result.completion for result in results)
    assert list(tmp_path.glob("llmproviders-*")) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_command(number: signal.Signals, slow: Sandbox, tmp_path: Path) -> None:
    """The command sends nothing more, says how long it waits, and writes what was paid for."""
    output = tmp_path / "out.jsonl"
    words = [sys.executable, "-m", "llmproviders", "batch", str(asked(tmp_path)), "-o", str(output)]
    process = subprocess.Popen(
        [*words, "-p", "gigachat", "--workers", "8"],
        env={**os.environ, **slow.environ()},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        sent(slow, "gigachat")()
        process.send_signal(number)
        _, said = process.communicate(timeout=WAIT_S)
    finally:
        process.kill()
    assert process.returncode == {signal.SIGINT: 130, signal.SIGTERM: 143}[number]
    assert slow.count("gigachat", "chat") == 1
    assert len(output.read_text().splitlines()) == 1
    assert "finishing" not in said or "(at most 30 s); press Ctrl-C again to drop" in said


def test_other_errors_stay() -> None:
    """Only the error of a stop takes a row back."""
    task = task_of("Why?", 0)
    failed = FinishedTask(task, None, ConnectionFailed("no connection"))
    assert failed.if_sent() is failed
    assert FinishedTask(task, None, ValueError("odd")).if_sent() is not None
