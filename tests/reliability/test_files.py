"""Files that processes share: whatever is done to them, no call fails and nothing is corrupted."""

from __future__ import annotations

import json
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import certifi
import pytest
import requests

from llmproviders import FailoverClient, GigaChat, LLMError, OpenAICompatible, ServerError
from llmproviders._account import tokens as token_module
from llmproviders._account.keys import KeyFile
from llmproviders._account.tokens import Token, TokenFile
from llmproviders._http.types import HTTPRequest
from llmproviders._runtime.scope import CancelScope
from llmproviders.config import ConfigError, load
from llmproviders.conversation import Conversation
from llmproviders.failover._health import FailureRecord, FileStore
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
from tests.reliability.services import JSON, SERVICES, SSE, TEXT, TOKEN
from tests.reliability.stub import StubReply, StubSender, stubbed

AT_MOST_S = 10.0
KEY = "Z2lnYS1pZDpnaWdhLXNlY3JldA=="


class GigaChatSender(StubSender):
    """Answers a token request with a token, and any other with a chat."""

    def open(self, call: HTTPRequest, scope: CancelScope, **_: Any) -> StubReply:
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
            assert ask(Path(folder) / ask.__name__ / "file.json") == TEXT


def _regular(folder: Path) -> Path:
    return folder / "file.json"


def _missing_folders(folder: Path) -> Path:
    return folder / "some" / "more" / "file.json"


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


def _a_link_to_a_device(folder: Path) -> Path:
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
    in_a_file,
    in_proc,
    a_folder,
    a_pipe,
    _containing(b""),
    _containing(b"\xff\x00garbage"),
    _containing(b'{"version": 1, "tokens": [], "providers": 5}'),
    _containing(b"[" * 100_000),
    _containing(_HUGE),
    _endless,
    _open_to_all,
    _a_link_to_a_device,
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
        folder.chmod(0o777)
        become_homeless()
        if ask is ask_gigachat:
            return ask("user")  # type: ignore[arg-type]
        from llmproviders._environment import health_file

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
def test_a_link_to_a_folder_in_place_of_its_locks_is_not_followed(ask: Ask, folder: Path) -> None:
    """No lock comes to be in a folder that a link points to."""
    victim = folder / "victim"
    victim.mkdir(mode=0o700)
    for ending in (".lock", ".locks"):
        (folder / f"file.json{ending}").symlink_to(victim)
    assert ask(folder / "file.json") == TEXT
    assert list(victim.iterdir()) == []


@as_root
@pytest.mark.parametrize("ask", ASKS)
def test_another_users_link_to_a_folder_is_not_followed(ask: Ask, folder: Path) -> None:
    """Where somebody else made a link in place of the file's folder, nothing is put behind it."""
    victim, link = folder / "victim", folder / "link"
    victim.mkdir(mode=0o700)
    link.symlink_to(victim)
    os.lchown(link, NOBODY, NOBODY)
    assert ask(link / "file.json") == TEXT
    assert list(victim.iterdir()) == []


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
    file.write(Token(f"token-{number}", time.time() + 1000, time.time()), CancelScope())


def read_tokens(path: Path) -> list[str]:
    """All tokens in the file, which must be one of tokens."""
    content = json.loads(path.read_bytes()) if path.exists() else {"tokens": {}}
    return [entry["access_token"] for entry in content["tokens"].values()]


def write_trouble(path: Path, number: int) -> None:
    """Remember that a provider of its own number failed."""
    now = time.time()
    trouble = FailureRecord(1, now, now + 30, 30)
    FileStore(path).change(lambda troubles: troubles.update({f"provider-{number}": trouble}))


def read_troubles(path: Path) -> list[str]:
    """All providers in the file, which must be one of cooldowns."""
    content = json.loads(path.read_bytes()) if path.exists() else {"providers": {}}
    return list(content["providers"])


Write = Callable[[Path, int], None]
Read = Callable[[Path], list[str]]
STORES = ((write_token, read_tokens), (write_trouble, read_troubles))


@pytest.mark.parametrize("anew", [True, False])
@pytest.mark.parametrize(("write", "read"), STORES)
def test_killed_at_any_point_of_a_write_the_file_is_whole(
    write: Write, read: Read, anew: bool, folder: Path
) -> None:
    """Killed at any point of a write, old or new content is there, and the next write works."""
    path = folder / "sub" / "file.json"
    modules = ("files.py", "tokens.py", "_health.py", "tempfile.py", "_unix.py")
    points = 0
    before: list[str] = []
    while killed_at(points + 1, modules, folder, lambda: write(path, 1)):
        points += 1
        assert set(before) <= set(read(path))
        start = time.monotonic()
        write(path, 0)
        assert time.monotonic() - start < AT_MOST_S
        before = read(path)
        assert "0" in {name.rsplit("-", 1)[1] for name in before}
        assert (path.stat().st_mode & 0o777) == 0o600
        if anew:
            shutil.rmtree(path.parent)
            before = []
    assert points > (5 if anew else 3)


@pytest.mark.parametrize(("write", "read"), STORES)
def test_concurrent_writers_keep_the_file_whole(write: Write, read: Read, folder: Path) -> None:
    """While many processes write, the file is whole, and no token is lost.

    A cooldown may be: for its sake no call waits long for a lock.
    """
    path = folder / "file.json"

    def write_eight(writer: int) -> None:
        for number in range(8):
            write(path, writer * 100 + number)
            read(path)

    at_once(write_eight, 4)
    found = {name.rsplit("-", 1)[1] for name in read(path)}
    wanted = {str(writer * 100 + number) for writer in range(4) for number in range(8)}
    assert found == wanted if write is write_token else found <= wanted
    assert found


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


def _a_node(folder: Path) -> Path:
    path = folder / "file.json"
    os.mknod(path, 0o600 | stat.S_IFCHR, os.makedev(1, 3))
    return path


def _a_link(folder: Path) -> Path:
    path = folder / "file.json"
    path.symlink_to(_containing(b"{}")(folder).rename(folder / "target"))
    return path


def _another_users(folder: Path) -> Path:
    path = _containing(b"{}")(folder)
    os.chown(path, NOBODY, NOBODY)
    return path


@as_root
@pytest.mark.parametrize("ask", ASKS)
@pytest.mark.parametrize("place", [_a_node, a_pipe, a_folder, _a_link, _another_users])
def test_nothing_is_put_beside_what_is_no_file_of_ours(
    ask: Ask, place: Callable[[Path], Path], folder: Path
) -> None:
    """Where the file can be none of ours, no lock comes to be beside it."""
    path = place(folder)
    before = sorted(os.listdir(folder))
    assert ask(path) == TEXT
    assert sorted(os.listdir(folder)) == before


@pytest.mark.parametrize("ask", ASKS)
def test_a_lock_that_is_something_else_is_left_alone(ask: Ask, folder: Path) -> None:
    """A file that has the name of a lock, but holds something, keeps content and mode."""
    path = folder / "file.json"
    (folder / "file.json.locks").mkdir(mode=0o700)
    others = [folder / "file.json.lock", folder / "file.json.locks" / "write"]
    for other in others:
        other.write_text("precious")
        other.chmod(0o644)
    assert ask(path) == TEXT
    for other in others:
        assert (other.read_text(), stat.S_IMODE(other.stat().st_mode)) == ("precious", 0o644)


@pytest.mark.parametrize("ask", ASKS)
def test_a_name_as_long_as_names_may_be(ask: Ask, folder: Path) -> None:
    """A store can have any name that a file can have; its locks and new files have shorter ones."""
    path = folder / ("n" * 255)
    assert ask(path) == TEXT
    assert json.loads(path.read_bytes())["version"] >= 1


@pytest.mark.parametrize("place", [a_folder, a_pipe])
def test_a_renewal_leaks_no_descriptor(place: Callable[[Path], Path], folder: Path) -> None:
    """Where the token's file is none, no renewal leaves a descriptor open."""
    path = place(folder)
    ask_gigachat(path)
    before = sorted(os.listdir("/dev/fd"))
    for _ in range(5):
        ask_gigachat(path)
    assert sorted(os.listdir("/dev/fd")) == before


def _read_key(path: Path) -> None:
    OpenAICompatible(base_url="http://127.0.0.1:9/v1", api_key=KeyFile(str(path))).complete("Why?")


def _read_configuration(path: Path) -> None:
    load(path)


def _read_bundle(path: Path) -> None:
    GigaChat(access_token="a.b.c", ca_bundle=path).complete("Why?")


def _read_usual_bundle(path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REQUESTS_CA_BUNDLE", str(path))
        OpenAICompatible(base_url="https://127.0.0.1:9/v1", api_key="k").complete("Why?")


def _read_bundle_of_session(path: Path) -> None:
    session = requests.Session()
    session.verify = str(path)
    _ask_with(session)


def _read_certificate_of_session(path: Path) -> None:
    session = requests.Session()
    session.cert = str(path)
    _ask_with(session)


def _read_key_of_session(path: Path) -> None:
    session = requests.Session()
    session.cert = (certifi.where(), str(path))
    _ask_with(session)


def _ask_with(session: requests.Session) -> None:
    url = "https://127.0.0.1:9/v1"
    OpenAICompatible(base_url=url, api_key="k", session=session).complete("Why?")


def _read_conversation(path: Path) -> None:
    Conversation.load(path, ScriptedProvider())


@as_root
@pytest.mark.parametrize(
    "read",
    [
        _read_key,
        _read_configuration,
        _read_bundle,
        _read_usual_bundle,
        _read_bundle_of_session,
        _read_certificate_of_session,
        _read_key_of_session,
        _read_conversation,
    ],
)
@pytest.mark.parametrize(("place", "kind"), [(a_pipe, "a pipe"), (_a_node, "a device")])
def test_what_a_reader_could_wait_at_is_refused_at_once(
    read: Callable[[Path], None], place: Callable[[Path], Path], kind: str, folder: Path
) -> None:
    """A pipe or a device in place of a file that is read: an error that names it, and no wait."""
    path = place(folder)
    start = time.monotonic()
    with pytest.raises((LLMError, ConfigError, OSError), match=kind) as caught:
        read(path)
    assert time.monotonic() - start < AT_MOST_S
    assert str(path) in str(caught.value)
