"""Where a reply goes with ``-o``: a file, a pipe, a device; and where it goes if that fails."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from llmproviders.sandbox import Sandbox
from tests.cli.process import Result, command, environ, run
from tests.reliability.childs import NOBODY, as_root

ASK = ("ask", "-p", "openai", "Why?", "-o")
REPLY = "This is the OpenAI-compatible sandbox"
LONG = "n" * 250
needs_full = pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")


def shell(script: str, *arguments: str, cwd: Path | None = None) -> Result:
    """Run a script of bash; ``"$@"`` in it is the command with ``arguments``."""
    done = subprocess.run(
        ["bash", "-c", script, "bash", *command(*arguments)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        env=environ(),
        cwd=cwd,
        timeout=60,
    )
    return Result(done.returncode, done.stdout.decode(), done.stderr.decode())


def mounted(script: str, *arguments: str, cwd: Path) -> Result:
    """Run a script as :func:`shell` does; what it mounts goes with it."""
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("only root can mount")
    if subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode != 0:
        pytest.skip("this system lets nobody mount")
    return shell(f"exec unshare -m bash -c '{script}' bash \"$@\"", *arguments, cwd=cwd)


@pytest.mark.parametrize("place", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"])
def test_standard_output_by_name(at_sandbox: Sandbox, place: str, tmp_path: Path) -> None:
    """Standard output's other names are written to, whether it is a pipe or a file."""
    if not os.path.exists(place):
        pytest.skip(f"this system has no {place}")
    piped = run(*ASK, place)
    assert (piped.code, piped.err) == (0, "")
    assert piped.out.startswith(REPLY)
    log = tmp_path / "log"
    log.write_text("before\n")
    assert shell(f'"$@" >> {log}', *ASK, place).code == 0
    assert log.read_text() == f"before\n{piped.out}"


def test_a_log_of_both(at_sandbox: Sandbox, tmp_path: Path) -> None:
    """In a file or pipe that takes both, a note begins on a new line, and the reply is whole."""
    reply = run(*ASK[:-1]).out
    for script in ('"$@" > log 2>&1; cat log', '"$@" 2>&1 | cat'):
        said = shell(script, *ASK[:-1], "-v", cwd=tmp_path).out
        assert said.startswith(f"{reply}llmproviders: OpenAICompatible (sandbox-small): ")
        assert "\n\n" not in said
    apart = shell('"$@" > log 2> notes; cat log', *ASK[:-1], "-v", cwd=tmp_path)
    assert apart.out == reply


def test_a_process_that_reads(at_sandbox: Sandbox) -> None:
    """``-o >(cat)`` gives the reply to the process."""
    result = shell('"$@" >(tr a-z A-Z); wait $!', *ASK)
    assert (result.code, result.err) == (0, "")
    assert result.out.startswith(REPLY.upper())


def test_a_named_pipe(at_sandbox: Sandbox, tmp_path: Path) -> None:
    """A named pipe with a reader is written to and stays; without one nothing is asked."""
    os.mkfifo(tmp_path / "pipe")
    result = run(*ASK, str(tmp_path / "pipe"))
    assert result.code == 2
    assert "nobody reads this pipe" in result.err
    assert at_sandbox.count() == 0
    # A descriptor for both ways is a reader that is there before the command starts.
    result = shell('exec 7<> pipe; "$@"; head -n 1 <&7', *ASK, "pipe", cwd=tmp_path)
    assert result.out.startswith(REPLY)
    assert stat.S_ISFIFO((tmp_path / "pipe").lstat().st_mode)


@as_root
def test_a_device(at_sandbox: Sandbox, tmp_path: Path) -> None:
    """A device of characters is written to, not replaced; one of blocks is refused."""
    null, disk = tmp_path / "null", tmp_path / "disk"
    os.mknod(null, 0o600 | stat.S_IFCHR, os.makedev(1, 3))
    os.mknod(disk, 0o600 | stat.S_IFBLK, os.makedev(7, 200))
    before = null.lstat()
    result = run(*ASK, str(null))
    assert (result.code, result.out, result.err) == (0, "", "")
    assert null.lstat().st_ino == before.st_ino
    assert null.lstat().st_mode == before.st_mode
    result = run(*ASK, str(disk))
    assert (result.code, "a device" in result.err) == (2, True)
    assert at_sandbox.count() == 1


@pytest.mark.parametrize("name", [LONG, "я" * 125, "n" * 255])
def test_a_long_name(at_sandbox: Sandbox, name: str, tmp_path: Path) -> None:
    """A name as long as names may be is written, and nothing else is left beside it."""
    for _ in range(2):
        result = run(*ASK, str(tmp_path / name))
        assert (result.code, result.err) == (0, "")
    assert os.listdir(tmp_path) == [name]
    assert (tmp_path / name).read_text().startswith(REPLY)


def test_what_could_never_be_written_is_told_before(at_sandbox: Sandbox, tmp_path: Path) -> None:
    """A name that is too long, a closed descriptor, one to read: wrong usage, and nothing sent."""
    (tmp_path / "in").touch()
    for place in (str(tmp_path / ("n" * 256)), "/dev/fd/77", "/dev/stdin"):
        result = shell('"$@" < in', *ASK, place, cwd=tmp_path)
        assert (result.code, result.out) == (2, "")
        assert "cannot be written" in result.err
    assert at_sandbox.count() == 0


def test_a_file_that_is_mounted_by_itself(at_sandbox: Sandbox, tmp_path: Path) -> None:
    """A file that cannot be replaced, since it is a mount, is written in place, and cut off."""
    (tmp_path / "outside").write_text("old " * 1000)
    (tmp_path / "out").touch()
    script = 'mount --bind outside out && "$@"'
    result = mounted(script, *ASK, "out", cwd=tmp_path)
    assert (result.code, result.out, result.err) == (0, "", "")
    assert (tmp_path / "outside").read_text().startswith(REPLY)
    assert "old" not in (tmp_path / "outside").read_text()
    assert sorted(os.listdir(tmp_path)) == ["out", "outside"]


def test_a_file_in_a_closed_folder(at_sandbox: Sandbox, tmp_path: Path) -> None:
    """A file that can be written, in a folder that takes no new one, is written in place."""
    (tmp_path / "shut").mkdir()
    (tmp_path / "outside").write_text("old " * 1000)
    script = (
        "mount -t tmpfs none shut && touch shut/out && mount --bind outside shut/out && "
        'mount -o remount,ro shut && "$@"'
    )
    result = mounted(script, *ASK, "shut/out", cwd=tmp_path)
    assert (result.code, result.err) == (0, "")
    assert (tmp_path / "outside").read_text().startswith(REPLY)
    assert "old" not in (tmp_path / "outside").read_text()


@as_root
def test_another_users_file_is_written_in_place(at_sandbox: Sandbox, tmp_path: Path) -> None:
    """A file that belongs to somebody else keeps its owner and its mode."""
    file = tmp_path / "out"
    file.write_text("old " * 1000)
    file.chmod(0o640)
    os.chown(file, NOBODY, NOBODY)
    before = file.stat()
    assert run(*ASK, str(file)).code == 0
    after = file.stat()
    assert (after.st_ino, after.st_uid, after.st_mode) == (before.st_ino, NOBODY, before.st_mode)
    assert "old" not in file.read_text()


@as_root
@pytest.mark.parametrize("further", [False, True])
def test_another_users_link_is_refused(at_sandbox: Sandbox, further: bool, tmp_path: Path) -> None:
    """Whoever made a link does not choose which file is written, by a link of one's own either."""
    victim, link, out = tmp_path / "victim", tmp_path / "link", tmp_path / "out"
    victim.write_text("precious")
    link.symlink_to(victim)
    os.lchown(link, NOBODY, NOBODY)
    if further:
        out.symlink_to(link)
    result = run(*ASK, str(out if further else link))
    assert (result.code, "another user" in result.err) == (2, True)
    assert victim.read_text() == "precious"
    assert at_sandbox.count() == 0


def test_a_link_of_ones_own_is_followed(at_sandbox: Sandbox, tmp_path: Path) -> None:
    """The file behind a link is replaced, or made; the link stays."""
    for name in ("there", "missing"):
        link = tmp_path / f"to-{name}"
        link.symlink_to(name)
        if name == "there":
            (tmp_path / name).write_text("old")
        assert run(*ASK, str(link)).code == 0
        assert link.is_symlink()
        assert (tmp_path / name).read_text().startswith(REPLY)


@needs_full
@pytest.mark.parametrize("options", [("-o", "/dev/full"), ("--json", "-o", "/dev/full")])
def test_what_was_paid_for_is_not_lost(at_sandbox: Sandbox, options: tuple[str, ...]) -> None:
    """A reply that cannot be written is on standard error, with a sentence that says why."""
    result = run("ask", "-p", "openai", "Why?", *options)
    assert (result.code, result.out) == (1, "")
    assert REPLY in result.err
    assert "/dev/full cannot be written: No space left on device" in result.err
    assert "Traceback" not in result.err


@needs_full
@pytest.mark.parametrize("options", ["", "--no-stream", "--json"])
def test_a_full_disk_behind_standard_output(at_sandbox: Sandbox, options: str) -> None:
    """What standard output does not take is on standard error, streamed or not."""
    result = shell(f'"$@" {options} > /dev/full', "ask", "-p", "openai", "Why?")
    assert result.code == 1
    assert REPLY in result.err
    assert "costs nothing." in result.err
    assert "standard output cannot be written: No space left on device" in result.err


def test_a_full_disk(at_sandbox: Sandbox, tmp_path: Path) -> None:
    """On a full disk the old file stays, and the reply is on standard error."""
    (tmp_path / "full").mkdir()
    script = (
        "mount -t tmpfs -o size=8k none full && echo old > full/out && "
        'head -c 4096 /dev/zero > full/z; "$@"; echo $?; cat full/out; ls -A full'
    )
    result = mounted(script, *ASK, "full/out", cwd=tmp_path)
    assert result.out == "1\nold\nout\nz\n"
    assert REPLY in result.err
    assert "No space left" in result.err


def test_a_reader_that_left(at_sandbox: Sandbox) -> None:
    """A pipe that nobody reads any more: the reply is on standard error."""
    result = shell('"$@" | true; exit ${PIPESTATUS[0]}', *ASK, "/dev/stdout")
    assert (result.code, REPLY in result.err) == (1, True)


def test_init_replaces_no_other_thing(home: Path, tmp_path: Path) -> None:
    """``config init --force`` replaces a file whole; a pipe in its place stays one."""
    path, pipe = tmp_path / "config.toml", tmp_path / "pipe"
    path.write_text("old " * 5000)
    os.mkfifo(pipe)
    assert run("config", "init", "--force", "--config", str(path)).code == 0
    assert "old old" not in path.read_text()
    assert run("config", "init", "--force", "--config", str(pipe)).code == 2
    assert stat.S_ISFIFO(pipe.lstat().st_mode)


def test_a_lock_is_a_file_of_its_own(at_sandbox: Sandbox, tmp_path: Path) -> None:
    """What is given as ``--lock`` and holds something, or is no file, is refused and stays."""
    notes, pipe = tmp_path / "notes", tmp_path / "pipe"
    notes.write_text("precious")
    os.mkfifo(pipe)
    for path in (notes, pipe):
        result = run("ask", "-p", "openai", "Why?", "--lock", str(path))
        assert (result.code, str(path) in result.err) == (2, True)
    assert notes.read_text() == "precious"
    assert at_sandbox.count() == 0


@as_root
def test_a_batch_refuses_what_no_rerun_could_read(at_sandbox: Sandbox, tmp_path: Path) -> None:
    """A pipe, a device, standard output: wrong usage, nothing sent, and nothing put beside it."""
    rows = tmp_path / "in.jsonl"
    rows.write_text('{"id": 1, "prompt": "x"}\n')
    folder = tmp_path / "folder"
    folder.mkdir()
    os.mkfifo(folder / "pipe")
    os.mknod(folder / "null", 0o600 | stat.S_IFCHR, os.makedev(1, 3))
    for place in (folder / "pipe", folder / "null", "/dev/stdout"):
        result = run("batch", str(rows), "-p", "openai", "-o", str(place))
        assert (result.code, "not a regular file" in result.err) == (2, True)
    assert at_sandbox.count() == 0
    assert sorted(os.listdir(folder)) == ["null", "pipe"]
    assert stat.S_ISCHR((folder / "null").lstat().st_mode)


def test_a_batch_with_a_long_name(at_sandbox: Sandbox, tmp_path: Path) -> None:
    """A name as long as names may be is no hindrance, nor for a rerun that rewrites it."""
    rows, out = tmp_path / "in.jsonl", tmp_path / LONG
    rows.write_text('{"id": 1, "prompt": "x"}\n')
    arguments = ("batch", str(rows), "-p", "openai", "-o", str(out))
    assert run(*arguments).code == 0
    out.write_text(out.read_text() + '{"id": 2, "te')
    assert run(*arguments).code == 0
    assert out.read_text().count("\n") == 1


def test_a_batch_to_a_file_that_is_mounted_by_itself(at_sandbox: Sandbox, tmp_path: Path) -> None:
    """A rerun drops what is torn from a file that cannot be replaced, and keeps the rest."""
    (tmp_path / "in.jsonl").write_text('{"id": 1, "prompt": "x"}\n')
    arguments = ("batch", "in.jsonl", "-p", "openai", "-o")
    assert run(*arguments, "outside", cwd=tmp_path).code == 0
    whole = (tmp_path / "outside").read_text()
    (tmp_path / "outside").write_text('{"id": 2, "te\n' + whole)
    (tmp_path / "out").touch()
    result = mounted('mount --bind outside out && "$@"', *arguments, "out", cwd=tmp_path)
    assert (result.code, result.err) == (0, "")
    assert (tmp_path / "outside").read_text() == whole
    assert not (tmp_path / ".out.new").exists()


def test_a_folder_that_is_not_there(at_sandbox: Sandbox, tmp_path: Path) -> None:
    """A name that ends in a slash is a folder's: it is refused before anything is asked."""
    for words in (("ask", "-p", "chatglm", "Why?", "-o"), ("batch", "in.jsonl", "-o")):
        (tmp_path / "in.jsonl").write_text('{"prompt": "Why?"}\n')
        result = run(*words, "new/", cwd=tmp_path)
        assert (result.code, result.out) == (2, "")
        assert "new/ names a folder; name a file" in result.err
    assert at_sandbox.count() == 0
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]
