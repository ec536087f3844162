"""Real proxies on loopback, written by others, for SOCKS5 and for HTTP and CONNECT.

They come from PyPI (tiny-proxy and proxy.py, see ``pypi_proxies``); with
``LLMPROVIDERS_TEST_PROXIES=debian`` in the environment they are Debian's microsocks and tinyproxy.
``pytest -m proxies`` runs the tests that need one.

Each runs once for the whole test session. A test asks for one of the fixtures at the end of this
module and gets the ``Proxy``, whose ``targets`` begin empty in every test.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import trustme

from tests.support.rawserver import PATIENCE_S, Connection, RawServer, free_port

USER = "user"
HTTP_PASSWORD = "s3cret-word"
SOCKS_PASSWORD = "s3:cr/et@%41"
"""What must be percent-encoded in a URL; tinyproxy's configuration would not take it."""

FIXTURES = {
    "http_proxy",
    "http_proxy_with_password",
    "https_proxy",
    "socks_proxy",
    "socks_proxy_with_password",
}

_PACKAGES = {"microsocks": "microsocks", "tinyproxy": "tinyproxy-bin"}
_TARGETS = re.compile(
    r"^Target: (?P<pypi_http>\S+)$"
    r"|CONNECT \(.*\) -> \('(?P<pypi_host>\S+)', (?P<pypi_port>\d+)\)$"
    r"|Request \(file descriptor \d+\): \S+ (?P<tinyproxy>\S+) HTTP/"
    r"|: connected to (?P<microsocks>\S+)",
    re.MULTILINE,
)


class Proxy:
    """A running proxy.

    Args:
        port: where it listens, on 127.0.0.1.
        log: the file it writes what it does to.
        scheme: of the URLs that lead to it.
        password: of the user ``USER``, or None where none is asked for.
    """

    def __init__(self, port: int, log: Path, *, scheme: str, password: str | None = None) -> None:
        self.port = port
        self.password = password
        self.log = log
        self._scheme = scheme
        self._forgotten = 0

    def url(self, scheme: str | None = None, *, password: str | None = None) -> str:
        """Return the address; with the right user and password, unless another is given."""
        password = password or self.password
        login = f"{USER}:{quote(password, safe='')}@" if password else ""
        return f"{scheme or self._scheme}://{login}127.0.0.1:{self.port}"

    @property
    def targets(self) -> list[str]:
        """What was asked for in this test: ``host:port``, or the URL of a plain HTTP request.

        The host is as the client named it, so that a name tells that the proxy resolved it.
        Some proxies note only the connections that they could make.
        """
        seen = _TARGETS.finditer(self.log.read_text()[self._forgotten :])
        return [":".join(filter(None, match.groups())) for match in seen]

    def forget(self) -> None:
        """Begin anew with an empty list of targets."""
        self._forgotten = len(self.log.read_text())


def _is_ready(process: subprocess.Popen[bytes], port: int) -> bool:
    """Wait until the process takes connections (True) or has ended (False)."""
    for _ in range(int(PATIENCE_S / 0.02)):
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.02)
            return False
        with contextlib.suppress(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S).close()
            return True
    return False


def find_program(name: str) -> str:
    """Return the path of an installed program; fail the test where it is missing."""
    found = shutil.which(name)
    if not found:
        pytest.fail(
            f"{name} is not installed: run `apt-get install {_PACKAGES[name]}`"
            " (.ci/system-packages.txt lists all that the tests need)",
            pytrace=False,
        )
    return found


@contextlib.contextmanager
def _running(command: Callable[[int], list[str]], log: Path) -> Iterator[int]:
    """Run what ``command`` makes of a free port, until the block ends; yield the port."""
    for _ in range(5):  # somebody else may take the port before the program does
        port = free_port()
        with log.open("wb") as output:
            process = subprocess.Popen(
                command(port), stdin=subprocess.DEVNULL, stdout=output, stderr=output, env={}
            )
        if _is_ready(process, port):
            break
        process.kill()
        process.wait(PATIENCE_S)
    else:
        pytest.fail(f"{command(0)[0]} does not start:\n{log.read_text()}", pytrace=False)
    try:
        yield port
    finally:
        process.terminate()
        process.wait(PATIENCE_S)


def _from_pypi(kind: str, port: int, folder: Path, password: str | None) -> list[str]:
    program = Path(__file__).with_name("pypi_proxies.py")
    login = [f"{USER}:{password}"] if password else []
    return [sys.executable, str(program), kind, str(port), str(folder), *login]


def _from_debian(kind: str, port: int, folder: Path, password: str | None) -> list[str]:
    if kind == "socks5":
        login = ["-u", USER, "-P", password] if password else []
        return [find_program("microsocks"), "-i", "127.0.0.1", "-p", str(port), *login]
    lines = [f"Port {port}", "Listen 127.0.0.1", "LogLevel Connect", "MaxClients 100"]
    lines += [f"BasicAuth {USER} {password}"] if password else []
    settings = folder / "tinyproxy.conf"
    settings.write_text("\n".join(lines) + "\n")
    return [find_program("tinyproxy"), "-d", "-c", str(settings)]


# Read at import, since the tests' own environment has no such variable.
_command_of = {"pypi": _from_pypi, "debian": _from_debian}[
    os.environ.get("LLMPROVIDERS_TEST_PROXIES", "pypi")
]


@contextlib.contextmanager
def running_proxy(kind: str, folder: Path, *, password: str | None = None) -> Iterator[Proxy]:
    """Run a proxy of a kind, ``http`` or ``socks5``; its log and settings are kept in a folder."""

    def command(port: int) -> list[str]:
        return _command_of(kind, port, folder, password)

    scheme = "socks5h" if kind == "socks5" else kind
    log = folder / "log"
    with _running(command, log) as port:
        yield Proxy(port, log, scheme=scheme, password=password)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test that asks for a proxy, in its arguments or its parameters."""
    for item in items:
        if isinstance(item, pytest.Function):
            parameters = item.callspec.params.values() if hasattr(item, "callspec") else ()
            names = {*item.fixturenames, *(name for name in parameters if isinstance(name, str))}
            if names & FIXTURES:
                item.add_marker("proxies")


def _session_proxy(kind: str, password: str | None = None) -> Any:
    """Make a fixture that runs a proxy for the whole session."""

    def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
        with running_proxy(kind, tmp_path_factory.mktemp(kind), password=password) as proxy:
            yield proxy

    return pytest.fixture(run, scope="session")


_socks_proxy = _session_proxy("socks5")
_socks_proxy_with_password = _session_proxy("socks5", SOCKS_PASSWORD)
_http_proxy = _session_proxy("http")
_http_proxy_with_password = _session_proxy("http", HTTP_PASSWORD)


@pytest.fixture
def socks_proxy(_socks_proxy: Proxy) -> Proxy:
    """Return a SOCKS5 proxy that asks for no password."""
    _socks_proxy.forget()
    return _socks_proxy


@pytest.fixture
def socks_proxy_with_password(_socks_proxy_with_password: Proxy) -> Proxy:
    """Return a SOCKS5 proxy that asks for a password, one with characters a URL must encode."""
    _socks_proxy_with_password.forget()
    return _socks_proxy_with_password


@pytest.fixture
def http_proxy(_http_proxy: Proxy) -> Proxy:
    """Return a proxy for plain HTTP and CONNECT that asks for no password."""
    _http_proxy.forget()
    return _http_proxy


@pytest.fixture
def http_proxy_with_password(_http_proxy_with_password: Proxy) -> Proxy:
    """Return a proxy for plain HTTP and CONNECT that asks for a password (407 without)."""
    _http_proxy_with_password.forget()
    return _http_proxy_with_password


@pytest.fixture
def https_proxy(http_proxy: Proxy, ca: trustme.CA) -> Iterator[Proxy]:
    """Return a proxy that is itself spoken to over TLS, with a certificate of ``ca``."""

    def relay(connection: Connection) -> None:
        with socket.create_connection(("127.0.0.1", http_proxy.port)) as upstream:
            connection.relay(upstream)

    with RawServer(relay, tls=ca) as front:
        proxy = Proxy(front.port, http_proxy.log, scheme="https")
        proxy.forget()
        yield proxy
