"""Fixtures for every test: a clean environment, servers that misbehave, proxies, the sandbox."""

from __future__ import annotations

import itertools
import os
import signal
import ssl
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trustme
from hypothesis import settings

from tests.support.environment import clean
from tests.support.leaks import no_leaks
from tests.support.rawserver import Behaviour, RawServer, black_hole, refused_port

if TYPE_CHECKING:
    from llmproviders.sandbox import Sandbox

pytest_plugins = ["tests.support.proxies"]

# Read at import, since the tests' own environment has no such variable.
_SKIPS_FAIL = "LLMPROVIDERS_TEST_NO_SKIPS" in os.environ

# A shell that runs the tests in the background ignores Ctrl-C, nohup the end of the terminal, and
# so would what they start.
signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP"):
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

settings.register_profile(
    "default", derandomize=True, database=None, deadline=None, max_examples=60, print_blob=True
)
settings.register_profile(
    "nightly", settings.get_profile("default"), derandomize=False, max_examples=5000
)
settings.load_profile("default")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """With ``LLMPROVIDERS_TEST_NO_SKIPS`` set, fail a skipped test of a browser or a proxy."""
    report = yield
    is_due = any(map(item.get_closest_marker, ("browser", "proxies")))
    if _SKIPS_FAIL and report.skipped and is_due:
        report.outcome, report.longrepr = "failed", report.longrepr[-1]
    return report


@pytest.fixture(scope="session")
def homes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return paths for home folders, without end."""
    base = tmp_path_factory.mktemp("homes")
    return (base / str(number) for number in itertools.count())


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, homes: Iterator[Path]) -> None:
    """Take away what a user's environment could change: proxies, trust, netrc, keys, folders."""
    clean(monkeypatch, next(homes))


@pytest.fixture(autouse=True)
def forget_tokens() -> None:
    """Forget the tokens of earlier tests, whose sandboxes may have had the same port."""
    from llmproviders._account import tokens as _token

    _token._keepers.clear()


@pytest.fixture(autouse=True)
def forget_secrets() -> None:
    """Forget the secrets of earlier tests, which would be masked in this one's messages."""
    from llmproviders import _redact

    _redact._concealed.clear()


@pytest.fixture
def home() -> Path:
    """Return the test's own, empty home folder."""
    return Path(os.environ["HOME"])


@pytest.fixture
def leak_guard() -> Iterator[None]:
    """Fail the test when it leaves a thread or an open socket behind.

    Name it before the fixtures that start servers, so that those end first.
    """
    with no_leaks():
        yield


RawServerFactory = Callable[..., RawServer]


@pytest.fixture
def raw_server() -> Iterator[RawServerFactory]:
    """Return a function that starts a ``RawServer``; all are stopped when the test ends."""
    with ExitStack() as running:

        def start(
            *behaviours: Behaviour, tls: trustme.CA | ssl.SSLContext | None = None
        ) -> RawServer:
            return running.enter_context(RawServer(*behaviours, tls=tls))

        yield start


@pytest.fixture(scope="session")
def ca() -> trustme.CA:
    """Return a certificate authority that nothing on this machine trusts."""
    return trustme.CA()


@pytest.fixture(scope="session")
def ca_file(ca: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a PEM file with the certificate of ``ca``."""
    path = tmp_path_factory.mktemp("ca") / "ca.pem"
    ca.cert_pem.write_to_path(path)
    return path


@pytest.fixture(name="black_hole")
def black_hole_port() -> Iterator[int]:
    """Return a port on which connecting takes for ever."""
    with black_hole() as port:
        yield port


@pytest.fixture(name="refused_port")
def refused() -> Iterator[int]:
    """Return a port on which every connection is refused."""
    with refused_port() as port:
        yield port


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    """Serve the protocols of all five services on loopback."""
    from llmproviders.sandbox import Sandbox

    with Sandbox() as serving:
        yield serving
