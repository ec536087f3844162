"""``llmproviders batch``: files in, files out, and how it ends."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
from filelock import FileLock

from llmproviders.sandbox import Sandbox
from tests.cli.process import Running, run


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """Return a file with ten prompts."""
    path = tmp_path / "in.jsonl"
    path.write_text("".join(json.dumps({"id": n, "prompt": f"row {n}"}) + "\n" for n in range(10)))
    return path


def written(path: Path) -> list[dict[str, object]]:
    """Return the rows of an output."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_batch_and_its_rerun(at_sandbox: Sandbox, rows: Path, tmp_path: Path) -> None:
    """Nothing is printed on success; a rerun asks nothing again; -v tells what was done."""
    out = tmp_path / "out.jsonl"
    command = ("batch", str(rows), "-o", str(out), "-p", "openai", "--workers", "2")
    result = run(*command)
    assert (result.code, result.out, result.err) == (0, "", "")
    assert sorted(row["id"] for row in written(out)) == list(range(10))
    result = run(*command, "-v")
    assert (result.code, result.out) == (0, "")
    assert result.err.startswith("llmproviders: 0 done, 10 done before, 0 failed, ")
    assert result.err.count("\n") == 1
    assert at_sandbox.count("openai") == 10


def test_cut_rows(at_sandbox: Sandbox, tmp_path: Path) -> None:
    """Rows that max_tokens cut are done, say so in their finish reason, and are counted."""
    asked, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    asked.write_text('{"prompt": "Why?", "max_tokens": 3}\n{"prompt": "Why?"}\n')
    result = run("batch", str(asked), "-o", str(out), "-p", "openai")
    assert (result.code, result.out) == (0, "")
    assert "2 done (1 cut by max_tokens), 0 done before, 0 failed" in result.err
    assert sorted(str(row["finish_reason"]) for row in written(out)) == ["length", "stop"]


def test_filtered_rows(at_sandbox: Sandbox, tmp_path: Path) -> None:
    """Rows that a filter stopped after some text are done, and counted on standard error."""
    asked, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    asked.write_text('{"prompt": "trip the filter"}\n{"prompt": "Why?", "max_tokens": 3}\n')
    result = run("batch", str(asked), "-o", str(out), "-p", "openai")
    assert (result.code, result.out) == (0, "")
    assert "2 done (1 cut by max_tokens, 1 stopped by a filter), 0 done before" in result.err


@pytest.mark.usefixtures("no_retries")
def test_failed_rows(at_sandbox: Sandbox, rows: Path, tmp_path: Path) -> None:
    """A batch with failed rows is 65 and says how many and why; --max-failures ends it early."""
    out = tmp_path / "out.jsonl"
    command = ("batch", str(rows), "-o", str(out), "-p", "openai", "--no-state", "--workers=1")
    at_sandbox.fail("openai", status=402)
    result = run(*command)
    assert (result.code, result.out) == (65, "")
    assert "9 done, 0 done before, 1 failed" in result.err
    assert "1 failed: OpenAICompatible: QuotaExceededError: " in result.err
    assert [row["error"]["type"] for row in written(out) if row["error"]]  # type: ignore[index]
    out.unlink()
    at_sandbox.fail("openai", status=402, times=100)
    result = run(*command, "--max-failures", "2")
    assert result.code == 65
    assert "failed, stopped early" in result.err
    assert len(written(out)) < 10


def test_a_batch_that_cannot_begin(at_sandbox: Sandbox, rows: Path, tmp_path: Path) -> None:
    """Wrong files and ids that stand twice are 2, a lock that is held 75; nothing is sent."""
    out = str(tmp_path / "out.jsonl")
    twice = tmp_path / "twice.jsonl"
    twice.write_text('{"id": 1, "prompt": "a"}\n{"id": 1, "prompt": "b"}\n')
    table = [
        (("no-such-file", "-o", out), "no-such-file"),
        ((str(rows), "-o", str(tmp_path / "no" / "out")), "no folder"),
        ((str(rows), "-o", str(rows)), "choose another output"),
        ((str(rows), "-o", "-"), "name a file with -o"),
        ((str(rows), "-o", "/dev/stdout"), "choose another output"),
        ((str(twice), "-o", out), "the id 1"),
        ((str(rows), "-o", out, "--dask", "tcp://no-port"), "--dask"),
    ]
    for arguments, words in table:
        result = run("batch", *arguments, "-p", "openai")
        assert (result.code, result.out) == (2, ""), result
        assert words in result.err
    with FileLock(str(tmp_path / "lock")):
        result = run("batch", str(rows), "-o", out, "--lock", str(tmp_path / "lock"))
    assert (result.code, result.err.count("\n")) == (75, 1)
    assert at_sandbox.count() == 0


def test_an_output_that_cannot_be_locked(at_sandbox: Sandbox, rows: Path, tmp_path: Path) -> None:
    """An error of the system that is not about writing says what it is about; nothing is sent."""
    (tmp_path / ".out.jsonl.lock").mkdir()
    result = run("batch", str(rows), "-o", str(tmp_path / "out.jsonl"), "-p", "openai")
    assert (result.code, result.out) == (1, "")
    assert result.err.startswith("llmproviders: the output cannot be locked: ")
    assert at_sandbox.count() == 0


LIMITED = ("bash", "-c", 'ulimit -f 2; exec "$@"', "-")
"""Starts a command that can write no file above 2 KiB, as on a full disk."""

WITHOUT_STDOUT = (*LIMITED[:2], f"{LIMITED[2]} >&-", LIMITED[3])


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such limit")
@pytest.mark.parametrize("before", [LIMITED, WITHOUT_STDOUT], ids=["pipes", "no stdout"])
@pytest.mark.parametrize("full", ["output", "old output", "report"])
def test_a_full_disk(
    at_sandbox: Sandbox, rows: Path, tmp_path: Path, before: tuple[str, ...], full: str
) -> None:
    """What cannot be written is named, with the reason, whether or not there is a standard output;
    the code is 1, and a rerun does the rest.
    """
    out, report = tmp_path / "out.jsonl", tmp_path / "report.html"
    command = ("batch", str(rows), "-o", str(out), "-p", "openai", "--no-state")
    if full == "old output":
        assert run(*command).code == 0
        out.write_bytes(out.read_bytes()[:-1])
    elif full == "report":
        rows.write_text('"row 0"\n')
    asked = at_sandbox.count("openai")
    with Running(*command, "--report", str(report), before=before) as batch:
        result = batch.end()
    place, rest = (report, f"the replies are in {out}")
    if full != "report":
        place, rest = out, "a rerun continues"
    assert (result.code, result.out) == (1, "")
    assert result.err == f"llmproviders: {place} cannot be written: File too large; {rest}\n"
    assert full != "old output" or at_sandbox.count("openai") == asked
    assert run(*command, "--report", str(report)).code == 0
    assert len({str(row["id"]) for row in written(out)}) == (1 if full == "report" else 10)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals(rows: Path, tmp_path: Path, number: signal.Signals, code: int) -> None:
    """A signal lets what is under way be finished, ends the batch, and a rerun does the rest."""
    out = tmp_path / "out.jsonl"
    command = ("batch", str(rows), "-o", str(out), "-p", "openai", "--workers", "1")
    with Sandbox(reply="one two", piece_delay_s=0.05) as sandbox:
        with Running(*command, env=sandbox.environ()) as batch:
            assert sandbox.wait_for(lambda serving: serving.count("openai") == 1, timeout_s=20)
            batch.signal(number)
            result = batch.end()
        assert (result.code, result.out) == (code, "")
        assert "Traceback" not in result.err
        finished = len(written(out))
        assert 1 <= finished < 10
        assert sandbox.count("openai") == finished
        assert run(*command, env=sandbox.environ()).code == 0
        assert sorted(str(row["id"]) for row in written(out)) == [str(n) for n in range(10)]
        assert sandbox.count("openai") == 10


@pytest.mark.filterwarnings("ignore::DeprecationWarning:distributed")
def test_a_batch_on_a_cluster(at_sandbox: Sandbox, rows: Path, tmp_path: Path) -> None:
    """--dask sends the rows to a scheduler's workers, and is as silent as any other batch."""
    distributed = pytest.importorskip("distributed")
    out = tmp_path / "out.jsonl"
    settings = {"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0", "silence_logs": 50}
    with distributed.LocalCluster(n_workers=1, threads_per_worker=2, **settings) as cluster:
        address = cluster.scheduler_address
        result = run("batch", str(rows), "-o", str(out), "-p", "openai", "--dask", address)
    assert (result.code, result.out, result.err) == (0, "", "")
    assert len(written(out)) == at_sandbox.count("openai") == 10
