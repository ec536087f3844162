"""The trust store: whatever is done to it, no call fails, and nothing is believed for it."""

from __future__ import annotations

import logging
import os
import ssl
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest
import trustme

from llmproviders import GigaChat
from llmproviders.providers.gigachat import _root
from llmproviders.sandbox import Sandbox
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

pytestmark = pytest.mark.usefixtures("quiet")


@pytest.fixture
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    """Leave out what is told about certificates that are not used."""
    caplog.set_level(logging.CRITICAL)


class Store:
    """A trust store in ``folder``, a certificate to take in, and a service to call.

    Attributes:
        place: where certificates lie.
        pem: the certificate.
        fingerprint: its own.
    """

    def __init__(self, folder: Path, sandbox: Sandbox, ca: trustme.CA) -> None:
        self.place = folder / "llmproviders" / "trust" / "gigachat"
        self.pem = ca.cert_pem.bytes()
        self.fingerprint = sha256(ssl.PEM_cert_to_DER_cert(self.pem.decode())).hexdigest()
        self._arguments = sandbox.provider_arguments("gigachat")

    def install(self) -> None:
        """Take the certificate in."""
        _root.install(self.pem, fingerprint=self.fingerprint)

    def fails_to_install(self) -> bool:
        """Whether taking it in is the system's error."""
        try:
            self.install()
        except OSError:
            return True
        return False

    def call(self) -> bool:
        """Whether a provider that looks into the store is answered."""
        with GigaChat(**self._arguments) as provider:
            return bool(provider.complete("Why?").text)

    @property
    def known(self) -> list[str]:
        """The fingerprints that are believed."""
        return [certificate.fingerprint for certificate in _root.installed()]


@pytest.fixture
def store(folder: Path, monkeypatch: pytest.MonkeyPatch, sandbox: Sandbox, ca: trustme.CA) -> Store:
    """Return a store that is empty."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(folder))
    made = Store(folder, sandbox, ca)
    # What a call imports at its first use may not be readable for the children's user.
    assert made.call()
    return made


@pytest.mark.parametrize("size", [0, 1, 40])
def test_a_full_disk(size: int, store: Store) -> None:
    """What cannot be written is an error, leaves no half certificate, and no call fails."""

    def on_a_full_disk() -> tuple[bool, bool]:
        disk_full_after(size)
        return store.fails_to_install(), store.call()

    assert in_child(on_a_full_disk) == (True, True)
    assert list(store.place.iterdir()) == []
    store.install()
    assert in_child(on_a_full_disk) == (True, True)
    assert store.known == [store.fingerprint]


@as_root
def test_a_read_only_folder(folder: Path, store: Store) -> None:
    """Where the folder cannot be written, taking in is an error, and no call fails."""

    def without_rights() -> tuple[bool, bool]:
        become_nobody()
        return store.fails_to_install(), store.call()

    assert in_child(without_rights) == (True, True)
    assert list(folder.iterdir()) == []


def test_no_home(folder: Path, store: Store) -> None:
    """Without a home nothing can be taken in, nothing is believed, and no call fails."""
    folder.chmod(0o777)

    def homeless() -> tuple[bool, bool, list[str]]:
        os.chdir(folder)
        become_homeless()
        return store.fails_to_install(), store.call(), store.known

    assert in_child(homeless) == (True, True, [])
    assert list(folder.iterdir()) == []


@as_root
def test_another_users_certificate(store: Store) -> None:
    """A certificate that belongs to somebody else is not believed, and no call fails."""
    store.install()
    (path,) = store.place.iterdir()
    os.chown(path, NOBODY, NOBODY)
    assert store.known == []
    assert _root.pinned() == ""
    assert store.call()


@as_root
def test_a_folder_that_may_not_be_read(store: Store) -> None:
    """Where the store is closed to this user nothing is believed, and no call fails."""
    store.install()
    store.place.chmod(0o700)

    def without_rights() -> tuple[list[str], bool]:
        become_nobody()
        return store.known, store.call()

    assert in_child(without_rights) == ([], True)


@as_root
def test_another_users_link_to_a_folder(folder: Path, store: Store) -> None:
    """Where somebody else made a link in place of the store, nothing is put behind it."""
    victim = folder / "victim"
    victim.mkdir(mode=0o700)
    store.place.parent.mkdir(parents=True)
    store.place.symlink_to(victim)
    os.lchown(store.place, NOBODY, NOBODY)
    assert store.fails_to_install()
    assert list(victim.iterdir()) == []
    assert store.call()


def _a_link(path: Path, pem: Path) -> None:
    path.symlink_to(pem)


def _a_pipe(path: Path, pem: Path) -> None:
    os.mkfifo(path)


def _a_folder(path: Path, pem: Path) -> None:
    path.mkdir()


def _open_to_all(path: Path, pem: Path) -> None:
    path.write_bytes(pem.read_bytes())
    path.chmod(0o666)


def _another_one(path: Path, pem: Path) -> None:
    path.with_stem("0" * 64).write_bytes(pem.read_bytes())
    path.with_stem("0" * 64).chmod(0o600)


@pytest.mark.parametrize("put", [_a_link, _a_pipe, _a_folder, _open_to_all, _another_one])
def test_what_was_put_into_it(
    put: Callable[[Path, Path], None], store: Store, ca_file: Path
) -> None:
    """A link, a pipe, a folder, a file of others, another fingerprint: none is believed."""
    store.place.mkdir(parents=True)
    put(store.place / f"{store.fingerprint}.pem", ca_file)
    assert store.known == []
    assert _root.pinned() == ""
    assert store.call()


@pytest.mark.parametrize("put", [_a_link, _a_pipe, _a_folder, _open_to_all])
def test_what_was_put_into_it_is_not_replaced(
    put: Callable[[Path, Path], None], store: Store, ca_file: Path
) -> None:
    """What stands where the certificate is due, and is none of ours, stays; that is an error."""
    store.place.mkdir(parents=True)
    path = store.place / f"{store.fingerprint}.pem"
    put(path, ca_file)
    before = path.lstat()
    assert store.fails_to_install()
    assert path.lstat() == before


def test_what_is_no_certificate_is_not_replaced(store: Store) -> None:
    """A text where the certificate is due stays; the error says how to be rid of it."""
    store.install()
    (path,) = store.place.iterdir()
    path.write_text("Notes of mine.")
    with pytest.raises(OSError, match="it holds no certificate; delete it, or run `llmproviders"):
        store.install()
    assert path.read_text() == "Notes of mine."
    _root.remove()
    store.install()
    assert store.known == [store.fingerprint]


def test_concurrent_writers(store: Store) -> None:
    """While many processes take it in, read it and remove it, it is whole or not there."""

    def churn(number: int) -> None:
        for _ in range(8):
            store.install()
            assert store.known in ([], [store.fingerprint])
            if number == 0:
                try:
                    _root.remove()
                except FileNotFoundError:
                    continue

    at_once(churn, 4)
    store.install()
    assert store.known == [store.fingerprint]


def test_killed_at_any_point(folder: Path, store: Store) -> None:
    """Killed at any point of taking it in, there is the whole certificate or none."""
    points = 0
    modules = ("_root.py", "files.py", "tempfile.py")
    while killed_at(points + 1, modules, folder, store.install):
        points += 1
        assert store.known in ([], [store.fingerprint])
        store.install()
        assert store.known == [store.fingerprint]
        _root.remove()
    assert points > 3
