"""Files that processes share: whatever is done to them, no call fails and nothing is corrupted."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from llmproviders import FailoverClient, GigaChat, InvalidRequestError, ServerError
from llmproviders import _token as token_module
from llmproviders import _trust as trust
from llmproviders._call import Call
from llmproviders._clock import SYSTEM_CLOCK, Scope, SystemClock
from llmproviders._health import Trouble
from llmproviders._health_file import FileStore
from llmproviders._token import Token, TokenFile
from llmproviders.batch import run_file
from llmproviders.testing import ScriptedProvider
from tests.reliability.childs import NOBODY, ChildKilled, KillAt, become_nobody, disk_full_after
from tests.reliability.childs import forked as in_child
from tests.reliability.services import JSON, SERVICES, SSE, TEXT, TOKEN
from tests.reliability.stub import StubReply, StubSender, stubbed

AT_MOST_S = 10.0
KEY = "Z2lnYS1pZDpnaWdhLXNlY3JldA=="
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")


class GigaChatSender(StubSender):
    """Answers a token request with a token, and any other with a chat."""

    def open(self, call: Call, scope: Scope, **_: Any) -> StubReply:
        """The reply to ``call``."""
        self.calls.append(call)
        if call.url.endswith("/oauth"):
            return StubReply([TOKEN], JSON)
        return StubReply(list(SERVICES[3].pieces), SSE)


def ask_gigachat(path: Path) -> str:
    """A call that keeps its token in the file ``path``."""
    token_module._keepers.clear()
    provider = GigaChat(api_key=KEY, token_cache=path, auth_url="http://127.0.0.1:9/oauth")
    return stubbed(provider, GigaChatSender()).complete("Why?").text


def ask_failing_over(path: Path) -> str:
    """Two calls that remember in the file ``path`` that the first provider is down."""
    down = ScriptedProvider(error=ServerError("down"), name="down")
    client = FailoverClient([down, ScriptedProvider([TEXT])], attempts=1, health=path)
    client.complete("Why?")
    return client.complete("Why?").text


ASKS = (ask_gigachat, ask_failing_over)
Ask = Callable[[Path], str]


@pytest.fixture(autouse=True)
def preloaded() -> None:
    """Import what a call imports at its first use, for children that may not read it."""
    import filelock  # noqa: F401
    import tenacity  # noqa: F401

    with tempfile.TemporaryDirectory() as folder:
        for ask in ASKS:
            assert ask(Path(folder) / "a" / "file.json") == TEXT


@pytest.fixture
def folder() -> Iterator[Path]:
    """Return a folder that every user can enter."""
    path = Path(tempfile.mkdtemp(prefix="shared-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


def _regular(folder: Path) -> Path:
    return folder / "file.json"


def _missing_folders(folder: Path) -> Path:
    return folder / "some" / "more" / "file.json"


def _in_a_file(folder: Path) -> Path:
    (folder / "plain").write_text("not a folder")
    return folder / "plain" / "file.json"


def _in_proc(folder: Path) -> Path:
    return Path("/proc/llmproviders/file.json")


def _a_folder(folder: Path) -> Path:
    (folder / "file.json").mkdir()
    return folder / "file.json"


def _a_pipe(folder: Path) -> Path:
    os.mkfifo(folder / "file.json")
    return folder / "file.json"


def _containing(data: bytes) -> Callable[[Path], Path]:
    def prepare(folder: Path) -> Path:
        path = folder / "file.json"
        path.write_bytes(data)
        path.chmod(0o600)
        return path

    return prepare


def _endless(folder: Path) -> Path:
    path = folder / "file.json"
    path.touch(0o600)
    os.truncate(path, 1 << 40)
    return path


def _open_to_all(folder: Path) -> Path:
    path = _containing(b"{}")(folder)
    path.chmod(0o666)
    return path


def _a_device(folder: Path) -> Path:
    (folder / "file.json").symlink_to("/dev/full")
    return folder / "file.json"


def _a_loop(folder: Path) -> Path:
    (folder / "file.json").symlink_to(folder / "file.json")
    return folder / "file.json"


def _locks_are_files(folder: Path) -> Path:
    for ending in (".locks", ".lock"):
        (folder / f"file.json{ending}").write_text("in the way")
        (folder / f"file.json{ending}").chmod(0)
    return folder / "file.json"


def _locks_are_pipes(folder: Path) -> Path:
    for ending in (".locks", ".lock"):
        os.mkfifo(folder / f"file.json{ending}")
    return folder / "file.json"


_HUGE_NUMBER = 10**400
_HUGE = json.dumps(
    {
        "version": 1,
        "tokens": {
            "0": {
                "access_token": "a.b",
                **dict.fromkeys(("expires_at", "fetched_at"), _HUGE_NUMBER),
            }
        },
        "providers": {"down": {"failures": 1, "at": _HUGE_NUMBER, "until": _HUGE_NUMBER}},
    }
).encode()

PLACES = (
    _regular,
    _missing_folders,
    _in_a_file,
    _in_proc,
    _a_folder,
    _a_pipe,
    _containing(b""),
    _containing(b"\xff\x00garbage"),
    _containing(b'{"version": 1, "tokens": [], "providers": 5}'),
    _containing(b"[" * 100_000),
    _containing(_HUGE),
    _endless,
    _open_to_all,
    _a_device,
    _a_loop,
    _locks_are_files,
    _locks_are_pipes,
)


@pytest.mark.parametrize("ask", ASKS)
@pytest.mark.parametrize("place", PLACES)
def test_a_file_in_no_state_makes_a_call_fail(
    ask: Ask, place: Callable[[Path], Path], folder: Path
) -> None:
    """Whatever stands where the shared file is due, the call succeeds, and soon."""
    path = place(folder)
    start = time.monotonic()
    assert ask(path) == TEXT
    assert time.monotonic() - start < AT_MOST_S


@pytest.mark.parametrize("ask", ASKS)
@pytest.mark.parametrize("size", [0, 1, 40])
def test_a_full_disk_makes_no_call_fail(ask: Ask, size: int, folder: Path) -> None:
    """Where nothing more can be written the call succeeds, and no half file is left."""

    def on_a_full_disk() -> str:
        disk_full_after(size)
        return ask(folder / "file.json")

    assert in_child(on_a_full_disk) == TEXT
    left = [path for path in folder.rglob("*") if path.is_file() and path.stat().st_size]
    assert left == []


@pytest.mark.parametrize("ask", ASKS)
def test_a_full_disk_leaves_the_file_as_it_was(ask: Ask, folder: Path) -> None:
    """What was in the file before the disk was full is in it afterwards."""
    path = folder / "file.json"
    content = b'{"version": 1, "tokens": {}, "providers": {}}'
    path.write_bytes(content)
    path.chmod(0o600)

    def on_a_full_disk() -> str:
        disk_full_after(0)
        return ask(path)

    assert in_child(on_a_full_disk) == TEXT
    assert path.read_bytes() == content


@pytest.mark.parametrize("ask", ASKS)
def test_a_read_only_folder_makes_no_call_fail(ask: Ask, folder: Path) -> None:
    """Where the folder cannot be written the call succeeds."""
    folder.chmod(0o555)

    def without_rights() -> str:
        become_nobody()
        return ask(folder / "file.json")

    assert in_child(without_rights) == TEXT
    folder.chmod(0o755)
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("ask", ASKS)
def test_without_a_home_no_call_fails(ask: Ask, folder: Path) -> None:
    """A user without a home and without a name can call, and no folder ``~`` appears."""

    def homeless() -> str:
        os.chdir(folder)
        for name in [n for n in os.environ if n == "HOME" or n.startswith("XDG_")]:
            del os.environ[name]
        if os.geteuid() == 0:
            folder.chmod(0o777)
            os.setgid(54321)
            os.setuid(54321)
        if ask is ask_gigachat:
            return ask("user")  # type: ignore[arg-type]
        from llmproviders._places import health_file

        return ask(health_file())

    assert in_child(homeless) == TEXT
    assert not (folder / "~").exists()


@as_root
@pytest.mark.parametrize("ask", ASKS)
def test_another_users_file_is_neither_believed_nor_changed(ask: Ask, folder: Path) -> None:
    """A file of another user is left alone, and the call succeeds without it."""
    path = folder / "file.json"
    content = json.dumps(
        {
            "version": 1,
            "tokens": {},
            "providers": {"ScriptedProvider": {"failures": 9, "at": 1, "until": 9e9}},
        }
    ).encode()
    path.write_bytes(content)
    path.chmod(0o600)
    os.chown(path, NOBODY, NOBODY)
    assert ask(path) == TEXT


@pytest.mark.parametrize("ask", ASKS)
@pytest.mark.parametrize("ending", ["", ".lock", ".locks", ".locks/write"])
def test_a_symlink_in_its_place_is_not_followed(ask: Ask, ending: str, folder: Path) -> None:
    """What a link in place of the file or its lock points to keeps content, mode and place."""
    victim = folder / "victim"
    victim.write_text("precious")
    victim.chmod(0o644)
    if "/" in ending:
        (folder / "file.json.locks").mkdir(mode=0o700)
    link = folder / f"file.json{ending}"
    link.symlink_to(victim)
    assert ask(folder / "file.json") == TEXT
    assert victim.read_text() == "precious"
    assert stat.S_IMODE(victim.stat().st_mode) == 0o644


@pytest.mark.parametrize("ask", ASKS)
def test_a_symlink_to_nowhere_creates_nothing(ask: Ask, folder: Path) -> None:
    """No file comes to be where a link in place of the file or its locks points."""
    nowhere = folder / "nowhere"
    for ending in ("", ".lock", ".locks"):
        (folder / f"file.json{ending}").symlink_to(nowhere)
    assert ask(folder / "file.json") == TEXT
    assert not nowhere.exists()


@pytest.mark.parametrize("ask", ASKS)
def test_files_are_for_their_user_alone(ask: Ask, folder: Path) -> None:
    """The file, its folder and its locks can be read by nobody else, whatever the umask."""

    def with_an_open_umask() -> str:
        os.umask(0)
        return ask(folder / "sub" / "file.json")

    assert in_child(with_an_open_umask) == TEXT
    made = list((folder / "sub").rglob("*"))
    assert (folder / "sub" / "file.json") in made
    assert [p for p in (folder / "sub", *made) if p.stat().st_mode & 0o077] == []


def write_token(path: Path, number: int) -> None:
    """Keep a token under a credential of its own number."""
    file = TokenFile(path, f"credential-{number}")
    file.write(Token(f"token-{number}", time.time() + 1000, time.time()), Scope())


def read_tokens(path: Path) -> list[str]:
    """All tokens in the file, which must be one of tokens."""
    content = json.loads(path.read_bytes()) if path.exists() else {"tokens": {}}
    return [entry["access_token"] for entry in content["tokens"].values()]


def write_trouble(path: Path, number: int) -> None:
    """Remember that a provider of its own number failed."""
    now = time.time()
    with FileStore(path).change() as troubles:
        troubles[f"provider-{number}"] = Trouble(1, now, now + 30, 30)


def read_troubles(path: Path) -> list[str]:
    """All providers in the file, which must be one of cooldowns."""
    content = json.loads(path.read_bytes()) if path.exists() else {"providers": {}}
    return list(content["providers"])


Write = Callable[[Path, int], None]
Read = Callable[[Path], list[str]]
STORES = ((write_token, read_tokens), (write_trouble, read_troubles))


@pytest.mark.parametrize(("write", "read"), STORES)
def test_killed_at_any_point_of_a_write_the_file_is_whole(
    write: Write, read: Read, folder: Path
) -> None:
    """Killed before any line of a write, old or new content is there, and the next write works."""
    path = folder / "file.json"
    modules = ("_files.py", "_token.py", "_health_file.py", "tempfile.py", "_unix.py")

    def count() -> int:
        with KillAt(0, *modules) as killing:
            write(path, 1)
        return killing.steps

    steps = in_child(count)
    assert steps > 20
    for step in range(1, steps + 1, max(1, steps // 25)):
        before = read(path)

        def killed(step: int = step) -> None:
            with KillAt(step, *modules):
                write(path, step + 1)

        with pytest.raises(ChildKilled):
            in_child(killed)
        assert set(before) <= set(read(path))
        start = time.monotonic()
        write(path, 0)
        assert time.monotonic() - start < AT_MOST_S
        assert set(before) <= set(read(path))
    assert (path.stat().st_mode & 0o777) == 0o600


@pytest.mark.parametrize(("write", "read"), STORES)
def test_concurrent_writers_keep_the_file_whole(write: Write, read: Read, folder: Path) -> None:
    """While many processes write, the file is whole, and no token is lost.

    A cooldown may be: for its sake no call waits long for a lock.
    """
    path = folder / "file.json"
    children = []
    for writer in range(4):
        pid = os.fork()
        if pid == 0:
            try:
                for number in range(8):
                    write(path, writer * 100 + number)
            finally:
                os._exit(0)
        children.append(pid)
    while children:
        read(path)
        done, _ = os.waitpid(-1, os.WNOHANG)
        if done:
            children.remove(done)
    found = {name.rsplit("-", 1)[1] for name in read(path)}
    wanted = {str(writer * 100 + number) for writer in range(4) for number in range(8)}
    assert found == wanted if write is write_token else found <= wanted
    assert found


class Jumping(SystemClock):
    """A clock whose wall time is off by ``by`` seconds."""

    def __init__(self) -> None:
        self.by = 0.0

    def wall(self) -> float:  # type: ignore[override]
        """Unix time in seconds, more or less."""
        return SYSTEM_CLOCK.wall() + self.by


YEAR_S = 365 * 24 * 3600.0


@pytest.mark.parametrize("jump", [-YEAR_S, -3600.0, -1.0, 1.0, 3600.0, YEAR_S])
def test_a_clock_that_jumps_makes_no_call_fail(jump: float, folder: Path) -> None:
    """After a jump in either direction the providers answer, and none cools down for ever."""
    clock = Jumping()
    down = ScriptedProvider(error=ServerError("down"), name="down")
    good = ScriptedProvider([TEXT], name="good")
    client = FailoverClient(
        [down, good], attempts=1, health=folder / "health.json", clock=clock, cooldown=30
    )
    assert client.complete("Why?").text == TEXT
    clock.by = jump
    down.error = None
    down.chunks = ("back",)
    assert client.complete("Why?").text in (TEXT, "back")
    clock.by += 700.0
    assert client.complete("Why?").text == "back"


@pytest.mark.parametrize("jump", [-YEAR_S, -3600.0, 3600.0, YEAR_S])
def test_a_token_from_before_a_clock_jump_is_not_trusted_for_ever(
    jump: float, folder: Path
) -> None:
    """A token that was kept before a jump is used or fetched anew; the call succeeds."""
    path = folder / "tokens.json"
    assert ask_gigachat(path) == TEXT
    content = json.loads(path.read_bytes())
    (entry,) = content["tokens"].values()
    entry.update(fetched_at=time.time() + jump, expires_at=time.time() + jump + 1800)
    path.write_text(json.dumps(content))
    assert ask_gigachat(path) == TEXT


def _batch(folder: Path, count: int = 5) -> Path:
    source = folder / "in.jsonl"
    rows = [json.dumps({"id": f"row-{n}", "prompt": f"Question {n}?"}) for n in range(count)]
    source.write_text("\n".join(rows) + "\n")
    return source


def _ids(output: Path) -> list[str]:
    return [json.loads(line)["id"] for line in output.read_bytes().splitlines()]


def test_a_batch_on_a_full_disk_ends_with_an_error_and_loses_no_row(folder: Path) -> None:
    """The disk's error is told, and a rerun with room keeps whole rows and does the rest."""
    source, output = _batch(folder), folder / "out.jsonl"

    def on_a_full_disk() -> str:
        disk_full_after(700)
        try:
            run_file(ScriptedProvider([TEXT]), source, output, workers=1)
        except OSError as error:
            return str(error.strerror)
        return "no error"

    assert in_child(on_a_full_disk) == "File too large"
    assert output.stat().st_size == 700
    summary = run_file(ScriptedProvider([TEXT]), source, output, workers=1)
    assert summary.skipped >= 1
    assert sorted(_ids(output)) == [f"row-{n}" for n in range(5)]


def test_a_batch_killed_at_any_point_pays_for_no_row_twice(folder: Path) -> None:
    """Killed before any line of its own code, a batch leaves each finished row once."""
    source, output = _batch(folder, 3), folder / "out.jsonl"
    modules = ("_file.py", "_output.py", "_rows.py")

    def run(step: int) -> int:
        with KillAt(step, *modules) as killing:
            run_file(ScriptedProvider([TEXT]), source, output, workers=1)
        return killing.steps

    steps = in_child(lambda: run(0))
    assert steps > 50
    for step in range(1, steps + 1, max(1, steps // 25)):
        output.unlink(missing_ok=True)
        with pytest.raises(ChildKilled):
            in_child(lambda step=step: run(step))
        kept = _whole_lines(output)
        summary = run_file(ScriptedProvider([TEXT]), source, output, workers=1)
        assert summary.skipped == len(kept)
        assert sorted(_ids(output)) == ["row-0", "row-1", "row-2"]


def _whole_lines(path: Path) -> list[bytes]:
    data = path.read_bytes() if path.exists() else b""
    return [line for line in data.splitlines(keepends=True) if line.endswith(b"\n")]


@pytest.mark.parametrize("place", [_in_a_file, _in_proc, _a_folder])
def test_a_batch_that_cannot_write_sends_nothing(
    place: Callable[[Path], Path], folder: Path
) -> None:
    """Where the output cannot be made, an error says so before anything is paid for."""
    provider = ScriptedProvider([TEXT])
    with pytest.raises((OSError, InvalidRequestError)):
        run_file(provider, _batch(folder), place(folder))
    assert provider.requests == []


@as_root
def test_a_batch_does_not_follow_another_users_link(folder: Path) -> None:
    """A link that somebody else put in place of the output is refused; its target stays."""
    victim, output = folder / "victim", folder / "out.jsonl"
    victim.write_text("")
    output.symlink_to(victim)
    os.lchown(output, NOBODY, NOBODY)
    provider = ScriptedProvider([TEXT])
    with pytest.raises((OSError, InvalidRequestError)):
        run_file(provider, _batch(folder), output)
    assert provider.requests == []
    assert victim.read_text() == ""


def test_a_batchs_lock_follows_no_link(folder: Path) -> None:
    """What a link in place of the lock points to is not emptied."""
    victim = folder / "victim"
    victim.write_text("precious")
    (folder / ".out.jsonl.lock").symlink_to(victim)
    with contextlib.suppress(OSError):
        run_file(ScriptedProvider([TEXT]), _batch(folder), folder / "out.jsonl")
    assert victim.read_text() == "precious"


def test_the_trust_store_is_replaced_whole(
    folder: Path, monkeypatch: pytest.MonkeyPatch, ca_file: Path
) -> None:
    """Killed at any point of taking a certificate in, there is the whole one or none."""
    import hashlib
    import ssl

    der = ssl.PEM_cert_to_DER_cert(ca_file.read_text())
    fingerprint = hashlib.sha256(der).hexdigest()
    monkeypatch.setenv("XDG_CONFIG_HOME", str(folder))
    modules = ("_trust.py", "_files.py", "tempfile.py")

    def take(step: int) -> int:
        with KillAt(step, *modules) as killing:
            trust.install(ca_file, fingerprint=fingerprint)
        return killing.steps

    steps = in_child(lambda: take(0))
    for step in range(1, steps + 1, max(1, steps // 25)):
        trust.remove()
        with pytest.raises(ChildKilled):
            in_child(lambda step=step: take(step))
        assert [c.fingerprint for c in trust.installed()] in ([], [fingerprint])
    assert trust.install(ca_file, fingerprint=fingerprint).fingerprint == fingerprint


def test_the_trust_store_believes_nothing_that_was_put_into_it(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    ca_file: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A certificate without its own fingerprint, a link, a pipe, a folder: none is believed."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(folder))
    place = trust.folder()
    place.mkdir(parents=True)
    (place / f"{'0' * 64}.pem").write_bytes(ca_file.read_bytes())
    (place / f"{'1' * 64}.pem").symlink_to(ca_file)
    os.mkfifo(place / f"{'2' * 64}.pem")
    (place / f"{'3' * 64}.pem").mkdir()
    caplog.set_level(logging.CRITICAL)
    assert trust.installed() == []
    assert trust.pinned() == ""
    assert ask_gigachat(folder / "tokens.json") == TEXT
