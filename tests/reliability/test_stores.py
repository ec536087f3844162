"""Every store of the package, at every kind of thing that is none of its own: nothing changes."""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
import trustme

from llmproviders import Cached, FailoverClient, GigaChat, LLMError, ServerError, batch, usage
from llmproviders._account import tokens
from llmproviders._log import logger
from llmproviders.conversation import Conversation
from llmproviders.providers.gigachat import _root
from llmproviders.sandbox import Sandbox
from llmproviders.testing import ScriptedProvider
from tests.cli.process import run
from tests.reliability.childs import NOBODY, as_root
from tests.reliability.test_trust_store import Store as TrustStore

TEXT = "It scatters."

pytestmark = as_root


# -- what stands where a store is due


def _node(path: Path) -> None:
    os.mknod(path, 0o600 | stat.S_IFCHR, os.makedev(1, 3))


def _disk(path: Path) -> None:
    os.mknod(path, 0o600 | stat.S_IFBLK, os.makedev(7, 200))


def _socket(path: Path) -> None:
    os.mknod(path, 0o600 | stat.S_IFSOCK)


def _pipe(path: Path) -> None:
    os.mkfifo(path, 0o600)


def _folder(path: Path) -> None:
    path.mkdir(mode=0o700)
    (path / "inside").touch()


def _link(path: Path) -> None:
    target = path.with_name("target")
    target.write_text("{}")
    target.chmod(0o600)
    path.symlink_to(target)


def _link_to_a_node(path: Path) -> None:
    _node(path.with_name("target"))
    path.symlink_to("target")


def _link_to_nowhere(path: Path) -> None:
    path.symlink_to("nowhere")


def _anothers_link(path: Path) -> None:
    _link(path)
    os.lchown(path, NOBODY, NOBODY)


def _file(content: bytes, path: Path) -> None:
    path.write_bytes(content)
    path.chmod(0o600)


def _anothers(path: Path) -> None:
    _file(b"", path)
    os.chown(path, NOBODY, NOBODY)


def _open_to_others(path: Path) -> None:
    _file(b"", path)
    path.chmod(0o666)


def _database(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE notes (text)")
    connection.close()
    path.chmod(0o600)


def _newer(path: Path) -> None:
    """A file that a newer version of this package wrote, be it JSON or a database."""
    if path.suffix in (".sqlite3", ".sqlite"):
        connection = sqlite3.connect(path)
        kind = b"LLMu" if "usage" in path.name else b"llmc"
        connection.execute(f"PRAGMA application_id = {int.from_bytes(kind, 'big')}")
        connection.execute("PRAGMA user_version = 99")
        connection.execute("CREATE TABLE replies (all_different)")
        connection.close()
        path.chmod(0o600)
        return
    fields = ("providers", "tokens", "files", "params", "messages")
    _file(b'{"version": 99, %s}' % b", ".join(b'"%s": {}' % f.encode() for f in fields), path)


def _endless(path: Path) -> None:
    _file(b"", path)
    os.truncate(path, 1 << 40)


DEVICES = (_node, _disk, _socket, _pipe, _folder)
FOREIGN = (
    *(*DEVICES, _link, _link_to_a_node, _link_to_nowhere, _anothers_link),
    *(_anothers, _open_to_others, _endless, _database, _newer),
    partial(_file, b"Notes of mine.\n"),
    partial(_file, b"\xff\x00\x01"),
    partial(_file, b'{"name": "project", "version": "1.0"}'),
    partial(_file, b"[" * 100_000),
)
Stand = Callable[[Path], None]


# -- the stores


@dataclass
class Bench:
    """What a store is used with: a service, and the user's folders in one of the test's own."""

    folder: Path
    sandbox: Sandbox
    ca: trustme.CA

    @property
    def own(self) -> Path:
        """The folder of this package in the user's state and configuration folders."""
        path = self.folder / "llmproviders"
        path.mkdir(mode=0o700, exist_ok=True)
        return path

    def gigachat(self, path: Path | None = None) -> GigaChat:
        """A client that has not asked yet, with its tokens and slots in the file ``path``."""
        tokens._keepers.clear()
        return GigaChat(**{**self.sandbox.provider_arguments("gigachat"), "token_cache": path})


def _health(bench: Bench, path: Path) -> None:
    down = ScriptedProvider(error=ServerError("down"), name="down")
    client = FailoverClient([down, ScriptedProvider([TEXT])], attempts=1, health=path)
    assert client.complete("Why?").text == TEXT


def _tokens(bench: Bench, path: Path) -> None:
    assert bench.gigachat(path).complete("Why?").text == TEXT


def _slots(bench: Bench, path: Path) -> None:
    """The folder of the locks, where each place that is taken is a file."""
    assert bench.gigachat(path.with_suffix("")).complete("Why?").text == TEXT


def _usage(bench: Bench, path: Path) -> None:
    provider = ScriptedProvider([TEXT], per_day=100, per_minute=100)
    assert provider.complete("Why?").text == TEXT
    usage()


def _replies(bench: Bench, path: Path) -> None:
    with Cached(ScriptedProvider([TEXT]), path) as client:
        for _ in range(2):
            assert client.complete("Why?").text == TEXT


def _uploads(bench: Bench, path: Path) -> None:
    picture = bench.folder / "note.txt"
    picture.write_text("It scatters.")
    client = bench.gigachat()
    for _ in range(2):
        assert client.complete("Why?", attach=[picture]).text == TEXT


def _conversation(bench: Bench, path: Path) -> None:
    Conversation(ScriptedProvider([TEXT]), system="Be brief.").save(path)


def _trust(bench: Bench, path: Path) -> None:
    store = TrustStore(bench.folder, bench.sandbox, bench.ca)
    _root.install(store.pem, fingerprint=store.fingerprint)


def _asked(bench: Bench, *arguments: str) -> None:
    done = run(*arguments, env={**bench.sandbox.environ(), "LLMPROVIDERS_CONFIG": None})
    if done.code:
        raise OSError(done.err.splitlines()[-1])


def _output(bench: Bench, path: Path) -> None:
    _asked(bench, "ask", "-p", "openai", "Why?", "-o", str(path))


def _lock(bench: Bench, path: Path) -> None:
    _asked(bench, "ask", "-p", "openai", "Why?", "-q", "--lock", str(path))


def _configuration(bench: Bench, path: Path) -> None:
    _asked(bench, "config", "init", "--config", str(path))


def _batch(bench: Bench, path: Path) -> None:
    requests = bench.folder / "in.jsonl"
    requests.write_text('"Why?"\n')
    batch.run_file(ScriptedProvider([TEXT]), requests, path)


def _batch_lock(bench: Bench, path: Path) -> None:
    requests = bench.folder / "in.jsonl"
    requests.write_text('"Why?"\n')
    output = path.with_name(path.name.removeprefix(".").removesuffix(".lock"))
    batch.run_file(ScriptedProvider([TEXT]), requests, output)


Use = Callable[[Bench, Path], None]

#: How each store is used, and what its file is called.
STORES: dict[str, tuple[Use, str]] = {
    "health": (_health, "health.json"),
    "tokens": (_tokens, "tokens.json"),
    "slots": (_slots, "tokens.locks"),
    "usage": (_usage, "llmproviders/usage.sqlite3"),
    "replies": (_replies, "replies.sqlite"),
    "uploads": (_uploads, "llmproviders/gigachat-files.json"),
    "conversation": (_conversation, "talk.json"),
    "trust": (_trust, "llmproviders/trust/gigachat/{}.pem"),
}

#: What replaces, or writes in place, any file that its user names, but nothing else.
OUTPUTS: dict[str, tuple[Use, str]] = {
    "output": (_output, "reply.txt"),
    "lock": (_lock, "run.lock"),
    "configuration": (_configuration, "config.toml"),
    "batch": (_batch, "out.jsonl"),
    "batch lock": (_batch_lock, ".out.jsonl.lock"),
}


@pytest.fixture
def bench(folder: Path, ca: trustme.CA, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """The user's folders in a folder of the test's own, and services."""
    monkeypatch.setenv("XDG_STATE_HOME", str(folder))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(folder))
    with Sandbox(reply=TEXT) as sandbox:
        yield Bench(folder, sandbox, ca)


def _everything_in(folder: Path) -> dict[str, tuple[object, ...]]:
    """What is in ``folder`` but locks and inputs: what each is, whose, since when, and content."""
    found = {}
    for path in folder.rglob("*"):
        s = path.lstat()
        is_small = stat.S_ISREG(s.st_mode) and s.st_size < 1 << 20
        content = path.read_bytes() if is_small else b""
        if path.name not in ("note.txt", "in.jsonl") and ".locks" not in path.parent.name:
            about = s.st_ino, s.st_mode, s.st_uid, s.st_rdev, s.st_size, s.st_mtime_ns, content
            # A folder's size and time change with what is put beside a store: its lock, say.
            name = str(path.relative_to(folder))
            found[name] = about[:4] if stat.S_ISDIR(s.st_mode) else about
    return found


def _place_of(bench: Bench, name: str) -> Path:
    fingerprint = TrustStore(bench.folder, bench.sandbox, bench.ca).fingerprint
    path = bench.folder / name.format(fingerprint)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    return path


def _used(use: Use, bench: Bench, path: Path) -> int:
    """Use a store; returns how many errors it raised."""
    try:
        use(bench, path)
    except (LLMError, OSError, ValueError) as error:
        # What is told as an error is counted as a warning would be.
        logger.warning("%s: %s", path, error)
        return 1
    return 0


@pytest.mark.parametrize("stand", FOREIGN)
@pytest.mark.parametrize("store", STORES)
def test_nothing_is_changed_and_told_once(
    bench: Bench, store: str, stand: Stand, caplog: pytest.LogCaptureFixture
) -> None:
    """A device, a pipe, a folder, a link or a foreign file stays as it is; it is told once.

    It is a warning, and an error where a limit depends on the file.
    """
    use, name = STORES[store]
    if store == "slots" and stand is _folder:
        return  # a folder is what they are
    path = _place_of(bench, name)
    stand(path)
    before = _everything_in(bench.folder)
    caplog.clear()
    if not _used(use, bench, path):
        _used(use, bench, path)
    named = path.with_suffix("") if store == "slots" else path
    level = "ERROR" if store == "usage" else "WARNING"
    records = [r.getMessage() for r in caplog.records if r.levelname == level]
    told = [said for said in records if str(named) in said]
    # Two caches are two clients, each of which tells its own user.
    assert len(told) == (2 if store == "replies" else 1), told
    after = _everything_in(bench.folder)
    assert {name: after.get(name) for name in before} == before


@pytest.mark.parametrize("stand", [*DEVICES, _link, _anothers, _open_to_others])
@pytest.mark.parametrize("ending", ["-wal", "-shm", "-journal"])
@pytest.mark.parametrize("store", ["usage", "replies"])
def test_what_stands_beside_a_database(
    bench: Bench, store: str, ending: str, stand: Stand, caplog: pytest.LogCaptureFixture
) -> None:
    """What SQLite would read or write beside its file is looked at, too."""
    use, name = STORES[store]
    path = _place_of(bench, name)
    stand(path.with_name(path.name + ending))
    before = _everything_in(bench.folder)
    caplog.clear()
    assert not _used(use, bench, path)
    told = [record.getMessage() for record in caplog.records]
    assert [str(path) in said for said in told] == [True]
    after = _everything_in(bench.folder)
    assert {file: after.get(file) for file in before} == before


@pytest.mark.parametrize("stand", [*DEVICES, _anothers_link])
@pytest.mark.parametrize("output", OUTPUTS)
def test_what_a_user_names_is_replaced_only_if_it_is_a_file(
    bench: Bench, output: str, stand: Stand
) -> None:
    """A device, a pipe, a socket or a folder in place of an output is there afterwards."""
    use, name = OUTPUTS[output]
    path = _place_of(bench, name)
    stand(path)
    before = _everything_in(bench.folder)
    failed = _used(use, bench, path)
    # What is written in place is no loss: the device takes it.
    assert failed or stand is _node
    after = _everything_in(bench.folder)
    assert {file: after[file][:4] for file in before} == {
        file: about[:4] for file, about in before.items()
    }
