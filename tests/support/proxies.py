"""Real proxies on loopback: microsocks for SOCKS5, tinyproxy for HTTP and CONNECT.

Each runs once for the whole test session. A test asks for one of the fixtures at the end of this
module and gets the ``Proxy``, whose ``targets`` begin empty in every test.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
import trustme

from tests.support.rawserver import PATIENCE_S, Connection, RawServer

USER = "user"
HTTP_PASSWORD = "s3cret-word"
SOCKS_PASSWORD = "s3:cr/et@%41"
"""What must be percent-encoded in a URL; tinyproxy's configuration would not take it."""

_PACKAGES = {"microsocks": "microsocks", "tinyproxy": "tinyproxy-bin"}
_TARGETS = re.compile(
    r"Request \(file descriptor \d+\): \S+ (?P<http>\S+) HTTP/|: connected to (?P<socks>\S+)"
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
        microsocks notes only the connections that it could make.
        """
        seen = _TARGETS.finditer(self.log.read_text()[self._forgotten :])
        return [match["http"] or match["socks"] for match in seen]

    def forget(self) -> None:
        """Begin anew with an empty list of targets."""
        self._forgotten = len(self.log.read_text())


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


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
        port = _free_port()
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


@contextlib.contextmanager
def microsocks(folder: Path, *, password: str | None = None) -> Iterator[Proxy]:
    """Run a SOCKS5 proxy that writes what it does into a folder."""
    program = find_program("microsocks")
    login = ["-u", USER, "-P", password] if password else []

    def command(port: int) -> list[str]:
        return [program, "-i", "127.0.0.1", "-p", str(port), *login]

    log = folder / "microsocks.log"
    with _running(command, log) as port:
        yield Proxy(port, log, scheme="socks5h", password=password)


@contextlib.contextmanager
def _tinyproxy(folder: Path, *, password: str | None = None) -> Iterator[Proxy]:
    program = find_program("tinyproxy")
    settings = folder / "tinyproxy.conf"

    def command(port: int) -> list[str]:
        lines = [f"Port {port}", "Listen 127.0.0.1", "LogLevel Connect", "MaxClients 100"]
        if password:
            lines.append(f"BasicAuth {USER} {password}")
        settings.write_text("\n".join(lines) + "\n")
        return [program, "-d", "-c", str(settings)]

    log = folder / "tinyproxy.log"
    with _running(command, log) as port:
        yield Proxy(port, log, scheme="http", password=password)


@pytest.fixture(scope="session")
def _socks_proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    with microsocks(tmp_path_factory.mktemp("microsocks")) as proxy:
        yield proxy


@pytest.fixture(scope="session")
def _socks_proxy_with_password(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    folder = tmp_path_factory.mktemp("microsocks")
    with microsocks(folder, password=SOCKS_PASSWORD) as proxy:
        yield proxy


@pytest.fixture(scope="session")
def _http_proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    with _tinyproxy(tmp_path_factory.mktemp("tinyproxy")) as proxy:
        yield proxy


@pytest.fixture(scope="session")
def _http_proxy_with_password(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    folder = tmp_path_factory.mktemp("tinyproxy")
    with _tinyproxy(folder, password=HTTP_PASSWORD) as proxy:
        yield proxy


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
