"""The system's store of certificates, by ``truststore``."""

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
from tests.real.test_patched_sockets import answer

SHAKES_HANDS = """
import os, sys, threading
deaf, url, bundle = sys.argv[1:]
from llmproviders import LLMError, OpenAICompatible

def ask(url, **how):
    with OpenAICompatible(base_url=url, api_key="k", trust="system", ca_bundle=bundle) as provider:
        return provider.complete("hi", **how).text

threading.Thread(target=ask, args=(deaf,), kwargs={"timeout": 300}, daemon=True).start()
sys.stdin.readline()
sys.stdout.write(ask(url, deadline=60))
sys.stdout.flush()
os._exit(0)
"""

FORGETS = """
import sys
from llmproviders import ConnectionFailed, OpenAICompatible
provider = OpenAICompatible(base_url=sys.argv[1], api_key="k", trust="system")
try:
    provider.complete("hi", deadline=60)
except ConnectionFailed as error:
    sys.stdout.write(str(error))
"""


@pytest.mark.real_programs
def test_a_handshake_holds_up_no_other(
    real_python: str, raw_server: RawServerFactory, ca: trustme.CA, ca_file: Path
) -> None:
    """While one server does not shake hands, calls to others go on.

    truststore's own sockets are made under a lock that they hold until the handshake is over.
    """
    deaf = raw_server(lambda conn: conn.stall())
    server = raw_server(answer, tls=ca)
    arguments = [deaf.url.replace("http:", "https:"), f"{server.url}/v1", str(ca_file)]
    with subprocess.Popen(
        [real_python, "-c", SHAKES_HANDS, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        deaf.wait_for(lambda server: len(server.connections) == 1)
        said, _ = process.communicate("go on\n", timeout=100)
    assert said == "hello"


@pytest.mark.real_programs
def test_an_authority_that_the_system_does_not_know(
    real_python: str, raw_server: RawServerFactory, ca: trustme.CA
) -> None:
    """A server whose authority the system does not know is not believed; its issuer is told."""
    server = raw_server(answer, tls=ca)
    ended = subprocess.run(
        [real_python, "-c", FORGETS, f"{server.url}/v1"], capture_output=True, text=True
    )
    assert "certificate is not trusted" in ended.stdout, ended.stderr
    assert "trustme" in ended.stdout
    assert server.requests == []


def test_without_truststore(monkeypatch: pytest.MonkeyPatch) -> None:
    """``trust="system"`` says what to install where truststore is not."""
    monkeypatch.setitem(sys.modules, "truststore", None)
    certificates._context.cache_clear()  # an earlier test may have made one
    with pytest.raises(InvalidRequestError, match="pip install truststore"):
        certificates.tls_context(Trust(system=True))
