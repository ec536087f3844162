"""Batches on a real Dask cluster: two worker processes on loopback."""

from __future__ import annotations

import itertools
import json
import os
import pickle
import signal
import threading
from collections.abc import Generator, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from llmproviders import (
    DeadlineExceeded,
    FailoverClient,
    GigaChat,
    InvalidRequestError,
    OpenAICompatible,
)
from llmproviders._account.keys import KeyVariable
from llmproviders.batch import BatchResult, dask_executor, run, run_file
from llmproviders.provider import Request
from llmproviders.sandbox import Sandbox
from tests.support.batches import WAIT_S, Echo

distributed = pytest.importorskip("distributed")

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:distributed")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Return a cluster of two worker processes with two threads each."""
    with distributed.LocalCluster(
        n_workers=2,
        threads_per_worker=2,
        processes=True,
        host="127.0.0.1",
        dashboard_address="127.0.0.1:0",
        silence_logs=50,
    ) as running:
        yield running


@pytest.fixture
def dask(cluster: Any) -> Iterator[Any]:
    """Return a client of the cluster, both of whose workers are there."""
    with distributed.Client(cluster, set_as_default=False) as client:
        client.wait_for_workers(2, timeout=WAIT_S)
        yield client


@pytest.fixture
def executor(dask: Any) -> Executor:
    """Return the cluster's executor."""
    made: Executor = dask.get_executor()
    return made


def keys_on_workers(dask: Any, sandbox: Sandbox) -> None:
    """Give the workers, and them alone, the sandbox's keys, and the addresses of these."""
    keys = sandbox.environ()

    def set_there() -> None:
        import os

        os.environ.update(keys)

    dask.run(set_there)


def without_key(sandbox: Sandbox, provider: str) -> dict[str, Any]:
    """The arguments of a provider that asks the sandbox and has no key."""
    return {n: v for n, v in sandbox.provider_arguments(provider).items() if n != "api_key"}


class Maker(Echo):
    """Tells, with each reply, in which process it was made and how often one was made there."""

    made = 0

    def __init__(self) -> None:
        super().__init__()
        type(self).made += 1

    def generate(self, request: Request, scope: Any = None) -> Generator[str, None, None]:
        """Tell."""
        told = super().generate(request, scope)
        next(told)
        yield json.dumps([os.getpid(), type(self).made])
        yield from told

    def __reduce__(self) -> Any:
        return Maker, ()


class DiesOnce(Echo):
    """Kills its process when it is first asked a certain question."""

    def __init__(self, mark: str) -> None:
        super().__init__()
        self.mark = mark

    def generate(self, request: Request, scope: Any = None) -> Generator[str, None, None]:
        """Die, or repeat the question."""
        if request.messages[-1]["content"] == "question 5" and not os.path.exists(self.mark):
            Path(self.mark).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().generate(request, scope)


def test_settings_travel(dask: Any, executor: Executor, sandbox: Sandbox) -> None:
    """The client on the workers has the settings of the one at home, and the workers' keys."""
    keys_on_workers(dask, sandbox)
    arguments = {**without_key(sandbox, "openai"), "model": "sandbox-large", "name": "far"}
    client = FailoverClient([OpenAICompatible(**arguments)], attempts=2)
    results = list(run(client, [f"question {n}" for n in range(40)], executor=executor))
    assert sorted(result.index for result in results) == list(range(40))
    for result in results:
        assert result.error is None
        assert result.completion is not None
        assert f"You asked: question {result.index}." in result.completion.text
        assert (result.completion.provider, result.completion.model) == ("far", "sandbox-large")


def test_the_same_question_twice(executor: Executor, sandbox: Sandbox, dask: Any) -> None:
    """Equal requests are two requests, though Dask takes equal tasks for one."""
    keys_on_workers(dask, sandbox)
    client = OpenAICompatible(**without_key(sandbox, "openai"))
    assert len(list(run(client, ["a", "a", "a"], executor=executor))) == 3
    assert sandbox.count("openai", "chat") == 3


def test_one_client_in_each_worker(executor: Executor) -> None:
    """A client is made once in each worker process, however many requests it serves there."""
    told = [json.loads(str(r.completion)) for r in run(Maker(), ["a"] * 40, executor=executor)]
    assert {pid for pid, _ in told}.isdisjoint({os.getpid()})
    assert 1 <= len({pid for pid, _ in told}) <= 2
    assert {count for _, count in told} == {1}


def test_errors_come_back(dask: Any, executor: Executor, sandbox: Sandbox, tmp_path: Path) -> None:
    """An error is a row, with its class, its message and the attempts."""
    keys_on_workers(dask, sandbox)
    sandbox.fail("openai", status=402)
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("".join(f'"question {n}"\n' for n in range(20)))
    client = OpenAICompatible(**without_key(sandbox, "openai"))
    summary = run_file(client, source, output, executor=executor)
    assert (summary.done, summary.failed) == (19, 1)
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    (failed,) = (row for row in rows if row["error"] is not None)
    assert failed["error"]["type"] == "QuotaExceededError"
    assert len(failed["attempts"]) == 1
    assert sorted(row["id"] for row in rows) == list(range(1, 21))


class TestKeys:
    def test_refused(self, executor: Executor, sandbox: Sandbox) -> None:
        """A client that carries a key is refused before anything is sent, with the remedy."""
        inner = OpenAICompatible(**sandbox.provider_arguments("openai"))
        for client in (inner, FailoverClient([FailoverClient([(inner, "gpt-4o")])])):
            with pytest.raises(ValueError, match="set OPENAI_API_KEY on the workers") as caught:
                run(client, ["a"], executor=executor)
            assert sandbox.environ()["OPENAI_API_KEY"] not in str(caught.value)
        assert sandbox.count() == 0

    @pytest.mark.parametrize(
        "arguments",
        [
            {"proxy": "http://me:a-password@127.0.0.1:1"},
            {"base_url": "http://me:a-password@127.0.0.1:1/v1"},
        ],
    )
    def test_passwords(self, executor: Executor, arguments: dict[str, str]) -> None:
        """A password in an address is a secret, too."""
        with pytest.raises(ValueError, match="secret") as caught:
            run(OpenAICompatible(**arguments), ["a"], executor=executor)
        assert "a-password" not in str(caught.value)

    def test_session(self, executor: Executor) -> None:
        """A session of the caller's may hold cookies and keys, and stays at home."""
        import requests

        with requests.Session() as session, pytest.raises(ValueError, match="session"):
            run(OpenAICompatible(session=session), ["a"], executor=executor)

    def test_nothing_of_a_key_at_the_scheduler(
        self, dask: Any, executor: Executor, sandbox: Sandbox
    ) -> None:
        """No key is in what the scheduler holds of the tasks."""
        keys_on_workers(dask, sandbox)
        client = OpenAICompatible(
            **without_key(sandbox, "openai"), api_key=KeyVariable("OPENAI_API_KEY")
        )
        key = sandbox.environ()["OPENAI_API_KEY"]
        seen: list[bytes] = []

        def look(dask_scheduler: Any = None) -> bytes:
            tasks = dask_scheduler.tasks.values()
            return pickle.dumps([(task.key, repr(task.run_spec)) for task in tasks]) + b"".join(
                pickle.dumps(task.run_spec) for task in tasks
            )

        def spy(_: BatchResult) -> None:
            seen.append(dask.run_on_scheduler(look))

        questions = [f"question {n}" for n in range(10)]
        results = list(run(client, questions, executor=executor, on_result=spy))
        assert [result.error for result in results] == [None] * 10
        assert any(b"question 9" in held for held in seen)
        assert not any(key.encode() in held for held in seen)


def test_one_stream_across_workers(dask: Any, executor: Executor) -> None:
    """GigaChat's one stream at a time is kept across the workers: no two requests overlap."""
    with Sandbox(piece_delay_s=0.002) as sandbox:
        keys_on_workers(dask, sandbox)
        client = GigaChat(**without_key(sandbox, "gigachat"))
        results = list(run(client, [f"question {n}" for n in range(12)], executor=executor))
    assert [result.error for result in results] == [None] * 12
    assert all(result.completion is not None for result in results)
    attempts = sorted(
        (attempt.started_at, attempt.started_at + attempt.duration)
        for result in results
        if result.completion is not None
        for attempt in result.completion.attempts
    )
    assert len(attempts) == 12
    for (_, end), (start, _) in itertools.pairwise(attempts):
        assert end < start + 0.005


def test_limits_count_together(dask: Any, executor: Executor) -> None:
    """Two batches with limits of their own for one service share one count: no more than the
    larger limit run at a time, and one with the smaller limit waits for all others.
    """
    with Sandbox(piece_delay_s=0.002) as sandbox, ThreadPoolExecutor(1) as beside:
        keys_on_workers(dask, sandbox)
        wide, narrow = (
            GigaChat(**without_key(sandbox, "gigachat"), max_concurrency=limit, name=str(limit))
            for limit in (2, 1)
        )
        questions = [f"question {n}" for n in range(8)]
        other = beside.submit(list, run(wide, questions, executor=executor))
        results = [*run(narrow, questions, executor=executor), *other.result(WAIT_S)]
    assert [result.error for result in results] == [None] * 16
    spans = sorted(
        (a.started_at, a.started_at + a.duration, int(a.provider))
        for result in results
        if result.completion is not None
        for a in result.completion.attempts
    )
    for start, _, limit in spans:
        running = sum(begun < start < end - 0.005 for begun, end, _ in spans)
        assert running < limit


def test_a_place_is_waited_for_until_the_deadline(dask: Any, executor: Executor) -> None:
    """Where another row holds the one place for longer than a row may take, the row says so."""
    released = threading.Event()

    def reply(_: object) -> str:
        return "in time" if released.wait(2 * WAIT_S) else "too late"

    with Sandbox(reply=reply) as sandbox, ThreadPoolExecutor(1) as beside:
        keys_on_workers(dask, sandbox)
        giga = GigaChat(**without_key(sandbox, "gigachat"))
        try:
            held = beside.submit(list, run(giga, ["a"], executor=executor))
            assert sandbox.wait_for(lambda s: s.count("gigachat", "chat"), timeout_s=WAIT_S)
            hasty = FailoverClient([giga], deadline=0.5)
            errors = [type(result.error) for result in run(hasty, ["b", "c"], executor=executor)]
        finally:
            released.set()
        assert errors == [DeadlineExceeded] * 2
        assert sandbox.count("gigachat", "chat") == 1
        assert [str(result.completion) for result in held.result(WAIT_S)] == ["in time"]
        later = run(giga, ["b", "c"], executor=executor)
        assert [result.error for result in later] == [None, None]


def test_a_killed_worker(executor: Executor, tmp_path: Path) -> None:
    """When a worker is killed, its rows are done by others; each has one result."""
    client = DiesOnce(str(tmp_path / "mark"))
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("".join(f'"question {n}"\n' for n in range(60)))
    summary = run_file(client, source, output, executor=executor)
    assert (summary.done, summary.failed) == (60, 0)
    assert (tmp_path / "mark").exists()
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert sorted(row["id"] for row in rows) == list(range(1, 61))


def test_leaving_early(dask: Any, executor: Executor) -> None:
    """A batch that is left takes back what the cluster has not done."""

    def held(dask_scheduler: Any = None) -> int:
        return len(dask_scheduler.tasks)

    results = run(Echo(), (f"question {n}" for n in range(10**9)), executor=executor)
    next(results)
    results.close()
    assert dask.run_on_scheduler(held) <= 16


def test_connecting(cluster: Any, dask: Any) -> None:
    """An address is enough; the number of requests at a time is the cluster's."""
    with dask_executor(cluster.scheduler_address) as (executor, workers):
        assert workers == 4
        results = list(run(Echo(), ["a", "b"], executor=executor, workers=workers))
    assert len(results) == 2


def test_no_scheduler(refused_port: int) -> None:
    """Where there is no scheduler, connecting fails in time."""
    import dask

    with (
        dask.config.set({"distributed.comm.timeouts.connect": "300ms"}),
        pytest.raises(OSError, match="Timed out"),
        dask_executor(f"tcp://127.0.0.1:{refused_port}"),
    ):
        pass


def test_duplicates(executor: Executor) -> None:
    """What is refused at home is refused before anything is sent."""
    with pytest.raises(InvalidRequestError):
        run(Echo(), [{"id": 1, "prompt": "a"}] * 2, executor=executor)


@pytest.mark.parametrize("shared", [True, False], ids=["a folder of all", "machines apart"])
def test_a_stop_reaches_the_workers(
    shared: bool, dask: Any, executor: Executor, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """After a stop the workers send nothing more, and finish what they have sent."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path if shared else tmp_path / "elsewhere"))
    with Sandbox(piece_delay_s=0.1) as slow:
        keys_on_workers(dask, slow)
        client = OpenAICompatible(**without_key(slow, "openai"))

        def press() -> None:
            assert slow.wait_for(lambda s: s.count("openai", "chat") == 4, timeout_s=WAIT_S)
            os.kill(os.getpid(), signal.SIGINT)

        presser = threading.Thread(target=press)
        presser.start()
        with pytest.raises(KeyboardInterrupt) as caught:
            list(run(client, [f"question {n}" for n in range(40)], executor=executor))
        presser.join()
        results: list[BatchResult] = caught.value.results  # type: ignore[attr-defined]
        assert all(result.completion for result in results)
        assert len(results) == slow.count("openai", "chat") == 4
    assert list(tmp_path.iterdir()) == []
