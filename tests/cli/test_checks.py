"""What ``doctor`` finds where something is wrong, and the remedy that it names."""

from __future__ import annotations

import datetime
import json
import os
import socket
import ssl
import sys
import time
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from llmproviders import ChatGLM, GigaChat, OpenAICompatible
from llmproviders._environment import token_cache
from llmproviders.cli.checks import (
    Finding,
    Level,
    check_expiry,
    check_provider,
    check_proxies,
    check_python,
    check_state,
)
from llmproviders.config import Configuration, ProviderSettings, Value
from llmproviders.config._types import find_type
from llmproviders.provider import Provider
from llmproviders.providers.gigachat import _root
from llmproviders.providers.gigachat._root import Certificate
from llmproviders.sandbox import Sandbox
from tests.conftest import RawServerFactory
from tests.reliability.childs import become_nobody, forked
from tests.support.http_bytes import http_response

KEY = {"api_key": "Z2lnYS1pZDpnaWdhLXNlY3JldA=="}


def settings(kind: type[Provider], **arguments: Any) -> ProviderSettings:
    """A provider's settings, as a configuration gives them."""
    return ProviderSettings(kind, {n: Value(v, "argument") for n, v in arguments.items()})


def found(findings: Iterable[Finding]) -> dict[str, Finding]:
    """What was found, by what was looked at; what failed hides what did not."""
    by_level = sorted(findings, key=lambda finding: list(Level).index(finding.level))
    return {finding.topic: finding for finding in by_level}


def check(kind: type[Provider], **arguments: Any) -> dict[str, Finding]:
    """What is found of one provider without connecting to it."""
    return found(check_provider(settings(kind, **arguments), offline=True, live=False))


def connect(kind: type[Provider], **arguments: Any) -> dict[str, Finding]:
    """What is found of one provider that is connected to."""
    return found(check_provider(settings(kind, **arguments), offline=False, live=False))


def test_libraries_that_are_too_old_or_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each library that is not as the package wants it is named with the command that mends it."""
    metadata = tmp_path / "llmproviders-99.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text(
        "Metadata-Version: 2.1\nName: llmproviders\nVersion: 99\n"
        "Requires-Dist: click>=999\nRequires-Dist: no-such-library>=1.2\n"
        "Requires-Dist: certifi>=1\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    findings = list(check_python())
    assert [finding.level for finding in findings] == [Level.OK, Level.FAIL, Level.FAIL, Level.OK]
    assert findings[1].remedy == "pip install -U 'click>=999'"
    assert findings[2].text == "no-such-library is missing"
    assert findings[2].remedy == "pip install 'no-such-library>=1.2'"
    assert findings[3].text.partition(", ")[0].startswith("click ")


def test_an_argument_that_is_turned_down() -> None:
    """A provider that cannot be made is a problem of the configuration, and the only one."""
    findings = check(GigaChat, max_concurrency=0)
    assert list(findings) == ["GigaChat"]
    assert (findings["GigaChat"].level, findings["GigaChat"].remedy) == (
        Level.FAIL,
        "correct the configuration",
    )


def test_a_reply_that_does_not_come(sandbox: Sandbox) -> None:
    """--live sends a request, and tells the error that comes of it."""
    sandbox.fail("openai", status=402)
    asked = settings(OpenAICompatible, **sandbox.provider_arguments("openai"))
    finding = found(check_provider(asked, offline=True, live=True))["OpenAICompatible, reply"]
    assert finding.level is Level.FAIL
    assert "QuotaExceededError" in finding.text


def test_a_bundle_that_cannot_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bundle that is not there is told before anything is sent."""
    assert check(ChatGLM)["ChatGLM, certificates"].level is Level.OK
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/no/such/bundle.pem")
    assert "/no/such/bundle.pem" in check(ChatGLM)["ChatGLM, certificates"].text
    finding = check(GigaChat, **KEY, ca_bundle="/no/such/ca.pem")["GigaChat, certificates"]
    assert (finding.level, "/no/such/ca.pem" in finding.text) == (Level.FAIL, True)


@pytest.mark.filterwarnings("ignore::llmproviders._http.types.UnverifiedTLSWarning")
def test_certificates_that_are_not_verified() -> None:
    """verify=False works, and should be seen to."""
    finding = check(GigaChat, **KEY, verify=False)["GigaChat, certificates"]
    assert (finding.level, finding.remedy) == (Level.WARN, "remove verify")


def authority(days: int) -> bytes:
    """A certificate authority that ends in so many days, in PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Some Root")])
    now = datetime.datetime.now(datetime.timezone.utc)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    return made.public_bytes(serialization.Encoding.PEM)


@pytest.mark.parametrize(("days", "level"), [(400, Level.OK), (30, Level.WARN)])
def test_a_certificate_that_ends_soon(days: int, level: Level) -> None:
    """A trusted authority is told with its end, two months ahead of which there is a warning."""
    pem = authority(days)
    fingerprint = sha256(ssl.PEM_cert_to_DER_cert(pem.decode())).hexdigest()
    _root.install(pem, fingerprint=fingerprint)
    finding = check(GigaChat, **KEY)["GigaChat, certificates"]
    assert finding.level is level
    assert finding.text.startswith("Some Root, until ")
    assert bool(finding.remedy) is (level is Level.WARN)


def test_a_bundle_of_ones_own(ca_file: Path) -> None:
    """With a bundle of one's own nothing has to be taken in."""
    finding = check(GigaChat, **KEY, ca_bundle=str(ca_file))["GigaChat, certificates"]
    assert (finding.level, finding.text) == (Level.OK, "those of ca_bundle")


def test_nobody_answers(refused_port: int) -> None:
    """An address where nobody listens is a problem of the network."""
    finding = connect(ChatGLM, base_url=f"http://127.0.0.1:{refused_port}")["ChatGLM, connection"]
    assert finding.level is Level.FAIL
    assert finding.remedy == "check the network, the proxy and base_url"


def test_an_authority_that_is_not_trusted(raw_server: RawServerFactory, ca: trustme.CA) -> None:
    """A certificate of an unknown authority names the variable for one's own."""
    server = raw_server(http_response(200), tls=ca)
    finding = connect(ChatGLM, base_url=server.url)["ChatGLM, connection"]
    assert (finding.level, "REQUESTS_CA_BUNDLE" in finding.remedy) == (Level.FAIL, True)


def test_what_is_no_web_server(raw_server: RawServerFactory) -> None:
    """An address that answers something else than HTTP is a wrong one."""
    server = raw_server([b"SSH-2.0-OpenSSH_9.2\r\n"])
    finding = connect(ChatGLM, base_url=server.url)["ChatGLM, connection"]
    assert (finding.level, finding.remedy) == (Level.FAIL, "check base_url")


@pytest.mark.parametrize(
    ("ahead_s", "level"), [(0, Level.OK), (100, Level.WARN), (-100, Level.WARN), (400, Level.FAIL)]
)
def test_the_clock(ahead_s: float, level: Level) -> None:
    """A clock that is off is told by how much; by five minutes it keeps tokens from working."""
    with Sandbox(clock=lambda: time.time() + ahead_s) as sandbox:
        arguments = sandbox.provider_arguments("chatglm")
        finding = connect(ChatGLM, **arguments)["ChatGLM, clock"]
    assert finding.level is level
    assert ("behind" in finding.text) is (ahead_s > 0)
    assert bool(finding.remedy) is (level is not Level.OK)


def test_a_proxy_that_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy that the environment names wrongly is told, without its password."""
    monkeypatch.setenv("HTTPS_PROXY", "gopher://me:hunter22@proxy:70")
    (finding,) = [f for f in check_proxies([settings(ChatGLM)], offline=True) if f.remedy]
    assert finding.level is Level.FAIL
    assert "gopher" in finding.text
    assert "hunter22" not in finding.text


def proxies(proxy: str, base_url: str = "https://service.invalid") -> list[Finding]:
    """What is found of a proxy."""
    return list(check_proxies([settings(ChatGLM, base_url=base_url, proxy=proxy)], offline=False))


def test_a_proxy_that_is_not_there(refused_port: int) -> None:
    """A proxy that cannot be reached is a problem, whoever resolves names."""
    for scheme in ("http", "socks5h"):
        *_, last = proxies(f"{scheme}://me:hunter22@127.0.0.1:{refused_port}")
        assert (last.level, "cannot be reached" in last.text) == (Level.FAIL, True)
        assert "hunter22" not in last.text


def test_a_proxy_that_leaves_names_to_this_machine() -> None:
    """Where names are resolved here, a name that is not known here is a problem."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        proxy = f"socks5://127.0.0.1:{listening.getsockname()[1]}"
        first, last = proxies(proxy)
        assert (first.level, first.remedy) == (
            Level.WARN,
            "write socks5h:// to leave that to it",
        )
        assert (last.level, last.text) == (
            Level.FAIL,
            "this machine cannot resolve service.invalid",
        )
        assert [f.level for f in proxies(proxy, "http://127.0.0.1:9")] == [Level.WARN]
        assert [f.level for f in proxies(proxy.replace("socks5", "socks5h"))] == [Level.OK]


def state(cache: str, health: Path | None = None) -> dict[str, Finding]:
    """What is found of the files between runs."""
    giga = settings(GigaChat, token_cache=cache)
    failover = {} if health is None else {"health": Value(health, "argument")}
    return found(check_state(Configuration((giga,), failover)))


def test_a_token_cache_that_others_can_read() -> None:
    """A token cache that is not used for its mode is told, and how to be rid of it."""
    path = token_cache()
    path.parent.mkdir(parents=True)
    path.write_text("{}")
    path.chmod(0o644)
    finding = state("user")["token cache"]
    assert (finding.level, finding.remedy) == (Level.FAIL, f"rm {path}")
    path.unlink()
    assert state("user")["token cache"].text == f"{path} (not there yet)"


def test_a_token_cache_that_is_something_else(tmp_path: Path) -> None:
    """Nobody is told to delete a file that is none of ours."""
    notes = tmp_path / "notes"
    notes.write_text("precious")
    notes.chmod(0o600)
    finding = state(str(notes))["token cache"]
    assert (finding.level, finding.remedy) == (Level.FAIL, "name another file as token_cache")


def test_a_provider_that_rests(tmp_path: Path) -> None:
    """A provider that other runs put last is named, and how to forget that."""
    path = tmp_path / "health.json"
    now = time.time()
    trouble = {"failures": 1, "at": now, "until": now + 60, "cooldown": 60.0, "probe_until": 0.0}
    for record, said in (
        ("ChatGLM|http://a|", "ChatGLM is put last for a while, since"),
        ("GigaChat|http://a||0123456789abcdef", "GigaChat is put last for a while for the key 012"),
    ):
        path.write_text(json.dumps({"version": 2, "providers": {record: trouble}}))
        path.chmod(0o600)
        finding = state("user", path)["health file"]
        assert finding.level is Level.WARN
        assert finding.text.startswith(said)
        assert "--reset" in finding.remedy


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")
def test_a_folder_that_is_closed() -> None:
    """A file that could never be written is a problem before it is missed."""

    def unprivileged() -> tuple[str, str]:
        become_nobody()
        finding = state("/proc/llmproviders/tokens.json")["token cache"]
        return finding.level.name, finding.text

    level, text = forked(unprivileged)
    assert (level, text.partition(":")[2]) == ("FAIL", " /proc is closed")


def test_a_model_that_the_server_lacks(sandbox: Sandbox) -> None:
    """A missing model is told without a prompt, with what there is; Ollama's with its command."""
    arguments = {**sandbox.provider_arguments("openai"), "model": "nowhere-7b"}
    finding = connect(OpenAICompatible, **arguments)["OpenAICompatible, models"]
    assert (finding.level, finding.remedy) == (Level.FAIL, "name one of these as model")
    assert "no model nowhere-7b; there are sandbox-small" in finding.text
    given = {n: Value(v, "argument") for n, v in arguments.items()}
    kind = find_type("ollama")
    assert kind is not None
    settings = ProviderSettings.of(kind, given, "argument")
    finding = found(check_provider(settings, offline=False, live=False))["Ollama, models"]
    assert finding.remedy == "ollama pull nowhere-7b"
    assert sandbox.count("openai", "chat") == 0


def test_an_address_without_v1(sandbox: Sandbox) -> None:
    """An address that ends too early is told, with what is usual, and no prompt is sent."""
    arguments = {**sandbox.provider_arguments("openai"), "base_url": f"{sandbox.url}/nowhere"}
    finding = connect(OpenAICompatible, **arguments)["OpenAICompatible, models"]
    assert (finding.level, "/v1" in finding.remedy) == (Level.FAIL, True)


def test_a_key_that_is_refused(sandbox: Sandbox) -> None:
    """A key that the server refuses is told without a prompt."""
    arguments = {**sandbox.provider_arguments("openai"), "api_key": "sk-wrong-wrong"}
    finding = connect(OpenAICompatible, **arguments)["OpenAICompatible, models"]
    assert finding.level is Level.FAIL
    assert "sk-wrong" not in finding.text


def test_a_program_that_is_not_started(refused_port: int) -> None:
    """A program at its usual address that is not running names the command that starts it."""
    kind = find_type("ollama")
    assert kind is not None
    given = {"base_url": Value(f"http://127.0.0.1:{refused_port}/v1", "argument")}
    settings = ProviderSettings.of(kind, given, "argument")
    finding = found(check_provider(settings, offline=False, live=False))["Ollama, connection"]
    assert (finding.level, finding.remedy) == (Level.FAIL, "start it: ollama serve")


def test_a_bad_bundle_is_not_blamed_on_the_proxy() -> None:
    """A bundle that cannot be read is told once, by the check of certificates."""
    broken = settings(GigaChat, **KEY, ca_bundle="/no/such/ca.pem")
    assert [f.level for f in check_proxies([broken], offline=True)] == [Level.OK]


def test_what_was_taken_in_is_no_authority(tmp_path: Path) -> None:
    """A certificate that is none of an authority is told as such, with the way out."""
    leaf = Certificate("00", "unknown", "unknown", tmp_path / "leaf.pem")
    [finding] = check_expiry("GigaChat, certificates", [leaf])
    assert (finding.level, "--remove" in finding.remedy) == (Level.FAIL, True)


def test_without_a_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no home folder nothing suggests to delete a file in /dev/null."""
    nowhere = Path(os.devnull, "llmproviders")
    monkeypatch.setattr("llmproviders._environment._own", lambda _find: nowhere)
    findings = state("user", nowhere / "health.json")
    assert (findings["state"].level, findings["state"].remedy) == (
        Level.WARN,
        "set HOME to a folder of your own",
    )
    assert "/dev/null" not in repr(findings)
