"""The system's store of certificates, by ``truststore``: the deadline holds all the same."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import trustme

from llmproviders import InvalidRequestError
from llmproviders._http import certificates
from llmproviders._http.types import Trust
from tests.conftest import RawServerFactory
from tests.support.rawserver import Stall

CODE = """
import sys, time
injected, system, url, bundle = sys.argv[1] == "1", sys.argv[2] == "1", *sys.argv[3:]
if injected:
    import truststore
    truststore.inject_into_ssl()
from llmproviders import DeadlineExceeded
from llmproviders._http.transport import Transport
from llmproviders._http.types import HTTPRequest, Limits, Trust
from llmproviders._runtime.scope import SYSTEM_CLOCK, CancelScope

transport = Transport(trust=Trust(ca_bundle=bundle, system=system), limits=Limits())
try:
    transport.open(HTTPRequest("GET", url), CancelScope.lasting(0.5, clock=SYSTEM_CLOCK))
except DeadlineExceeded:
    print("kept")
"""


@pytest.mark.parametrize(("injected", "system"), [("1", "0"), ("0", "1"), ("1", "1")])
def test_the_deadline_holds(
    raw_server: RawServerFactory, ca: trustme.CA, ca_file: Path, injected: str, system: str
) -> None:
    """A silent server over TLS is left at the deadline, with truststore injected or asked for."""
    pytest.importorskip("truststore", reason="truststore is in the extra `real`")
    server = raw_server([Stall()], tls=ca)
    arguments = [injected, system, server.url, str(ca_file)]
    ended = subprocess.run(
        [sys.executable, "-c", CODE, *arguments], capture_output=True, text=True, timeout=20
    )
    assert ended.stdout == "kept\n", ended.stderr


def test_without_truststore(monkeypatch: pytest.MonkeyPatch) -> None:
    """``trust="system"`` says what to install where truststore is not."""
    monkeypatch.setitem(sys.modules, "truststore", None)
    with pytest.raises(InvalidRequestError, match="pip install truststore"):
        certificates.tls_context(Trust(system=True))
