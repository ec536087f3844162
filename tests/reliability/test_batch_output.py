"""A batch's output: whatever is done to it, no row is lost, torn for good, or paid for twice."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from llmproviders import FailoverClient, InvalidRequestError
from llmproviders.batch import BatchLocked, Summary, run_file
from llmproviders.testing import ScriptedProvider
from tests.reliability.childs import (
    NOBODY,
    as_root,
    at_once,
    become_homeless,
    become_nobody,
    disk_full_after,
    killed_at,
)
from tests.reliability.childs import forked as in_child
from tests.reliability.clocks import YEAR_S, Jumping
from tests.reliability.places import a_folder, a_pipe, in_a_file, in_proc
from tests.reliability.services import TEXT

MODULES = ("_file.py", "_output.py", "_rows.py")


def batch(folder: Path, count: int = 5) -> Path:
    """Write an input of so many requests."""
    source = folder / "in.jsonl"
    rows = [json.dumps({"id": f"row-{n}", "prompt": f"Question {n}?"}) for n in range(count)]
    source.write_text("\n".join(rows) + "\n")
    return source


def run(source: Path, output: Path, provider: ScriptedProvider | None = None) -> Summary:
    """Run the batch, one request at a time."""
    return run_file(provider or ScriptedProvider([TEXT]), source, output, workers=1)


def ids(output: Path) -> list[str]:
    """The rows that are there, each of which must be whole."""
    return [json.loads(line)["id"] for line in output.read_bytes().splitlines()]


def whole_lines(path: Path) -> list[bytes]:
    """The lines that are there from beginning to end."""
    data = path.read_bytes() if path.exists() else b""
    return [line for line in data.splitlines(keepends=True) if line.endswith(b"\n")]


def spoil(output: Path) -> bytes:
    """Let the second row have failed and tear the last; the rows that stand."""
    first, second, third = output.read_bytes().splitlines(keepends=True)
    row = json.loads(second)
    row.update(text=None, error={"type": "ServerError", "message": "down"})
    output.write_bytes(first + json.dumps(row).encode() + b"\n" + third[:-20])
    return first


def test_a_full_disk_ends_it_with_an_error_and_loses_no_row(folder: Path) -> None:
    """The disk's error is told, and a rerun with room keeps whole rows and does the rest."""
    source, output = batch(folder), folder / "out.jsonl"

    def on_a_full_disk() -> str:
        disk_full_after(700)
        try:
            run(source, output)
        except OSError as error:
            return errno.errorcode[error.errno or 0]
        return "no error"

    assert in_child(on_a_full_disk) == "EFBIG"
    assert output.stat().st_size == 700
    assert run(source, output).skipped >= 1
    assert sorted(ids(output)) == [f"row-{n}" for n in range(5)]


def test_a_rerun_on_a_full_disk_leaves_the_rows_as_they_were(folder: Path) -> None:
    """Where the rows that stand cannot be rewritten, all of the old file is still there."""
    source, output = batch(folder, 3), folder / "out.jsonl"
    run(source, output)
    spoil(output)
    before = output.read_bytes()

    def on_a_full_disk() -> int:
        disk_full_after(50)
        provider = ScriptedProvider([TEXT])
        with contextlib.suppress(OSError):
            run(source, output, provider)
        return len(provider.requests)

    assert in_child(on_a_full_disk) == 0
    assert output.read_bytes() == before
    assert run(source, output).skipped == 1
    assert sorted(ids(output)) == ["row-0", "row-1", "row-2"]


def test_killed_at_any_point_it_pays_for_no_row_twice(folder: Path) -> None:
    """Killed at any point of its own code, a batch leaves each finished row once."""
    source, output = batch(folder, 2), folder / "out.jsonl"
    points = 0
    while killed_at(points + 1, MODULES, folder, lambda: run(source, output)):
        points += 1
        kept = whole_lines(output)
        assert run(source, output).skipped == len(kept)
        assert sorted(ids(output)) == ["row-0", "row-1"]
        output.unlink()
    assert points > 2


def test_a_rerun_killed_at_any_point_loses_no_row(folder: Path) -> None:
    """Killed at any point of its own code, a rerun leaves what stood, and the next ends it."""
    source, output = batch(folder, 3), folder / "out.jsonl"
    run(source, output)
    whole = output.read_bytes()
    points = 0
    stands = spoil(output)
    while killed_at(points + 1, MODULES, folder, lambda: run(source, output)):
        points += 1
        kept = [line for line in whole_lines(output) if b'"ServerError"' not in line]
        assert stands in kept
        assert run(source, output).skipped == len(kept)
        assert sorted(ids(output)) == ["row-0", "row-1", "row-2"]
        output.write_bytes(whole)
        spoil(output)
    assert points > 4


@pytest.mark.parametrize("place", [in_a_file, in_proc, a_folder, a_pipe])
def test_where_it_cannot_write_it_sends_nothing(
    place: Callable[[Path], Path], folder: Path
) -> None:
    """Where the output cannot be made, an error says so before anything is paid for."""
    provider = ScriptedProvider([TEXT])
    with pytest.raises((OSError, InvalidRequestError)):
        run(batch(folder), place(folder), provider)
    assert provider.requests == []


@as_root
@pytest.mark.parametrize("there", [False, True])
def test_in_a_read_only_folder_or_over_another_users_file_it_sends_nothing(
    there: bool, folder: Path
) -> None:
    """What this user may not write is an error before anything is paid for, and stays as it is."""
    source, output = batch(folder), folder / "out.jsonl"
    source.chmod(0o644)
    if there:
        output.write_text("")

    def without_rights() -> tuple[int, str]:
        become_nobody()
        provider = ScriptedProvider([TEXT])
        try:
            run(source, output, provider)
        except OSError as error:
            return len(provider.requests), str(error)
        return len(provider.requests), "no error"

    requests, said = in_child(without_rights)
    assert (requests, "ermission denied" in said) == (0, True), said
    assert not output.exists() or output.read_bytes() == b""


MOUNTED = """
mount --bind elsewhere out.jsonl && exec "$0" -c "
from llmproviders.batch import run_file
from llmproviders.testing import ScriptedProvider
done = run_file(ScriptedProvider(['It scatters.']), 'in.jsonl', 'out.jsonl', workers=1)
print(done.done, done.skipped)
"
"""


def test_a_file_that_is_mounted_by_itself_is_written_in_place(folder: Path) -> None:
    """As containers have it: such a file cannot be replaced, and a rerun rewrites it even so."""
    unshare = shutil.which("unshare")
    trial = [unshare or "false", "-rm", "mount", "--bind", "/tmp", "/tmp"]
    if subprocess.run(trial, capture_output=True, check=False).returncode:
        pytest.skip("nothing can be mounted here")
    source, output = batch(folder, 3), folder / "out.jsonl"
    run(source, output)
    spoil(output)
    output.rename(folder / "elsewhere")
    output.touch()
    command = ["unshare", "-rm", "sh", "-c", MOUNTED, sys.executable]
    environ = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    ran = subprocess.run(
        command, cwd=folder, env=environ, capture_output=True, text=True, check=False
    )
    assert (ran.stdout, ran.stderr) == ("2 1\n", "")
    assert sorted(ids(folder / "elsewhere")) == ["row-0", "row-1", "row-2"]
    assert output.read_bytes() == b""


@as_root
def test_another_users_link_is_not_followed(folder: Path) -> None:
    """A link that somebody else put in place of the output is refused; its target stays."""
    victim, output = folder / "victim", folder / "out.jsonl"
    victim.write_text("")
    output.symlink_to(victim)
    os.lchown(output, NOBODY, NOBODY)
    provider = ScriptedProvider([TEXT])
    with pytest.raises(InvalidRequestError, match="another user"):
        run(batch(folder), output, provider)
    assert provider.requests == []
    assert victim.read_text() == ""


@pytest.mark.parametrize("name", [".out.jsonl.lock", ".out.jsonl.new"])
def test_a_link_in_place_of_what_stands_beside_it_is_not_followed(name: str, folder: Path) -> None:
    """What a link in place of the lock or of the rewritten rows points to is left alone."""
    source, output, victim = batch(folder, 3), folder / "out.jsonl", folder / "victim"
    run(source, output)
    spoil(output)
    victim.write_text("precious")
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(victim)
    with contextlib.suppress(OSError):
        run(source, output)
    assert victim.read_text() == "precious"


def test_without_a_home_it_works_as_ever(folder: Path) -> None:
    """Nothing of a batch lies in a home: a user without one gets every row."""
    source, output = batch(folder), folder / "out.jsonl"
    folder.chmod(0o777)

    def homeless() -> int:
        become_homeless()
        return run(source, output).done

    assert in_child(homeless) == 5
    assert sorted(ids(output)) == [f"row-{n}" for n in range(5)]


def test_runs_at_the_same_time_write_each_row_once(folder: Path) -> None:
    """Of processes that run the same batch one writes at a time; the others say so or skip."""
    source, output = batch(folder), folder / "out.jsonl"

    def run_too(_: int) -> None:
        with contextlib.suppress(BatchLocked):
            run(source, output)

    at_once(run_too, 6)
    assert sorted(ids(output)) == [f"row-{n}" for n in range(5)]


@pytest.mark.parametrize("jump", [-YEAR_S, YEAR_S])
def test_a_clock_that_jumps_does_no_row_again(jump: float, folder: Path) -> None:
    """What is done is known by its request, not by a date."""
    source, output = batch(folder), folder / "out.jsonl"
    clock = Jumping()
    client = FailoverClient([ScriptedProvider([TEXT])], clock=clock)
    assert run_file(client, source, output).done == 5
    clock.by = jump
    assert run_file(client, source, output).skipped == 5
