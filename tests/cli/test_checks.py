"""What ``doctor`` finds where something is wrong, and the remedy that it names."""

from __future__ import annotations

import datetime
import json
import os
import socket
import ssl
import sys
import tempfile
import time
from collections.abc import Iterable
from contextlib import closing
from hashlib import sha256
from pathlib import Path
from typing import Any

import certifi
import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import pkcs7
from cryptography.x509.oid import NameOID

from llmproviders import ChatGLM, GigaChat, OpenAICompatible
from llmproviders._account.keys import KeyFile, KeyVariable
from llmproviders._account.ledger import Ledger
from llmproviders._environment import token_cache, usage_file
from llmproviders._http import certificates
from llmproviders.cli.checks import (
    Finding,
    Level,
    check_configuration,
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
from llmproviders.testing import ScriptedProvider
from tests.conftest import RawServerFactory
from tests.reliability.childs import become_nobody, forked
from tests.support.http_bytes import http_response
from tests.support.rawserver import Script, keep_alive

JSON = {"Content-Type": "application/json"}
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
    page = finding.remedy.removeprefix("look it up in ")
    assert (Path(__file__).parents[2] / page).is_file()


@pytest.mark.parametrize(
    ("content", "remedy"),
    [
        (None, "write the key, and nothing else, into FILE"),
        ("", "write the key, and nothing else, into FILE"),
        ("Basic Zm9v", "write the key, and nothing else, into FILE"),
        ("closed", "let this user read it: chown USER FILE; or chgrp GROUP, and chmod 640"),
    ],
)
@pytest.mark.parametrize("base_url", [None, "https://giga.example/v1"])
def test_a_key_file_without_a_key(
    tmp_path: Path, base_url: str | None, content: str | None, remedy: str
) -> None:
    """What to do is about the file that the configuration names, whatever the address."""
    file = tmp_path / "giga.key"
    if content is not None:
        file.write_text(content)
    where = {} if base_url is None else {"base_url": base_url}
    if content == "closed" and os.geteuid() != 0:
        pytest.skip("only root can give a file away")

    def told() -> tuple[str, str]:
        if content == "closed":
            file.chmod(0o600)
            tmp_path.chmod(0o755)
            become_nobody()
        finding = check(GigaChat, api_key=KeyFile(file.name), **where)["GigaChat, key"]
        return finding.level.name, finding.remedy

    def in_folder() -> tuple[str, str]:
        # Its path may lead through folders that are closed to others.
        os.chdir(tmp_path)
        return told()

    assert forked(in_folder) == ("FAIL", remedy.replace("FILE", file.name))


def test_a_variable_without_a_key() -> None:
    """The variable that the configuration names is the one to set."""
    finding = check(GigaChat, api_key=KeyVariable("WORK_KEY"))["GigaChat, key"]
    assert (finding.level, finding.remedy) == (
        Level.FAIL,
        "set WORK_KEY to the key, and nothing else",
    )


def test_a_configuration_without_a_provider(home: Path) -> None:
    """With a file there already, the remedy is to add to it, not to make it."""
    for path, remedy in (
        (None, "set a key, or write a file: llmproviders config init"),
        (
            home / "config.toml",
            'set a key, or add a [[provider]] to the file: remove the "# " before one',
        ),
    ):
        [finding] = check_configuration(Configuration((), path=path))
        assert (finding.level, finding.remedy) == (Level.FAIL, remedy)


def test_a_bundle_that_cannot_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bundle that is not there is told before anything is sent."""
    assert check(ChatGLM)["ChatGLM, certificates"].level is Level.OK
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/no/such/bundle.pem")
    assert "/no/such/bundle.pem" in check(ChatGLM)["ChatGLM, certificates"].text
    finding = check(GigaChat, **KEY, ca_bundle="/no/such/ca.pem")["GigaChat, certificates"]
    assert (finding.level, "/no/such/ca.pem" in finding.text) == (Level.FAIL, True)


@pytest.mark.filterwarnings("ignore::llmproviders.providers.gigachat.UnverifiedTLSWarning")
def test_certificates_that_are_not_verified() -> None:
    """verify=False works, and should be seen to."""
    finding = check(GigaChat, **KEY, verify=False)["GigaChat, certificates"]
    assert (finding.level, finding.remedy) == (Level.WARN, "remove verify")


def authority(days: int, *, is_ca: bool = True) -> bytes:
    """A certificate authority, or what is none, that ends in so many days, in PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Some Root")])
    now = datetime.datetime.now(datetime.timezone.utc)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=9))
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
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


@pytest.mark.parametrize(
    ("days", "is_ca", "level", "words"),
    [
        (400, False, Level.WARN, "not of an authority"),
        (-3, True, Level.FAIL, "it expired on"),
        (400, True, Level.OK, "those of ca_bundle"),
    ],
)
@pytest.mark.parametrize("kind", [GigaChat, OpenAICompatible])
def test_what_is_in_a_bundle(
    tmp_path: Path, kind: type[Provider], days: int, is_ca: bool, level: Level, words: str
) -> None:
    """A bundle of a server's certificate, or of one that has ended, is told as such."""
    path = tmp_path / "ca.pem"
    path.write_bytes(authority(days, is_ca=is_ca))
    given = {
        "api_key": KEY["api_key"],
        "base_url": "https://127.0.0.1:1/v1",
        "ca_bundle": str(path),
    }
    findings = list(check_provider(settings(kind, **given), offline=True, live=False))
    told = [f for f in findings if f.topic.endswith("certificates")]
    assert told[0].level is level
    assert words in told[0].text
    assert bool(told[0].remedy) is (level is not Level.OK)


def test_a_root_among_the_usual_authorities(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who has GigaChat's root in the machine's own bundle is not told to take it in once more."""
    pem = authority(400)
    (tmp_path / "all.pem").write_bytes(Path(certifi.where()).read_bytes() + pem)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "all.pem"))
    assert check(GigaChat, **KEY)["GigaChat, certificates"].level is Level.FAIL
    fingerprint = sha256(ssl.PEM_cert_to_DER_cert(pem.decode())).hexdigest()
    monkeypatch.setattr(_root, "KNOWN_FINGERPRINT", fingerprint)
    finding = check(GigaChat, **KEY)["GigaChat, certificates"]
    assert (finding.level, "GigaChat's among them" in finding.text) == (Level.OK, True)


def test_a_bundle_in_another_form(tmp_path: Path) -> None:
    """One in PKCS #7 gets the command that converts it, and the proxy is not blamed."""
    path = tmp_path / "ca.p7b"
    certificate = x509.load_pem_x509_certificate(authority(400))
    form = serialization.Encoding.DER
    path.write_bytes(pkcs7.serialize_certificates([certificate], form))
    broken = settings(GigaChat, **KEY, ca_bundle=str(path))
    finding = found(check_provider(broken, offline=True, live=False))["GigaChat, certificates"]
    assert finding.level is Level.FAIL
    assert f"`openssl pkcs7 -inform DER -print_certs -in {path}" in finding.text
    assert [f.level for f in check_proxies([broken], offline=True)] == [Level.OK]


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


YESTERDAY = datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(days=1)


@pytest.mark.parametrize(
    ("host", "end", "remedy"),
    [("127.0.0.1", YESTERDAY, "clock"), ("other.example", None, "check base_url")],
)
def test_a_certificate_that_no_authority_mends(
    raw_server: RawServerFactory,
    ca: trustme.CA,
    ca_file: Path,
    host: str,
    end: datetime.datetime | None,
    remedy: str,
) -> None:
    """One that has ended, or is another host's, does not send for an authority that is known."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert(host, not_after=end).configure_cert(context)
    server = raw_server(http_response(200), tls=context)
    arguments = {"base_url": f"{server.url}/v1", "ca_bundle": str(ca_file)}
    finding = connect(OpenAICompatible, **arguments)["OpenAICompatible, connection"]
    assert (finding.level, remedy in finding.remedy) == (Level.FAIL, True)
    assert "ca_bundle" not in finding.remedy
    assert "issued by 'Testing CA" in finding.text


@pytest.mark.parametrize("variable", [None, "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"])
def test_a_bad_bundle_is_told_once(
    raw_server: RawServerFactory,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    variable: str | None,
) -> None:
    """Where certificates cannot be read, no connection is tried, and none is blamed."""
    path = tmp_path / "ca.p7b"
    certificate = x509.load_pem_x509_certificate(authority(400))
    path.write_bytes(pkcs7.serialize_certificates([certificate], serialization.Encoding.PEM))
    if variable is not None:
        monkeypatch.setenv(variable, str(path))
    server = raw_server(http_response(200))
    arguments = {"base_url": f"https://127.0.0.1:{server.port}/v1"}
    arguments |= {"ca_bundle": str(path)} if variable is None else {}
    findings = list(
        check_provider(settings(OpenAICompatible, **arguments), offline=False, live=False)
    )
    [failed] = [finding for finding in findings if finding.level is not Level.OK]
    assert failed.topic == "OpenAICompatible, certificates"
    assert f"`openssl pkcs7 -print_certs -in {path}" in failed.text
    assert "convert it" in failed.remedy
    assert server.connections == []


def test_what_is_no_web_server(raw_server: RawServerFactory) -> None:
    """An address that answers something other than HTTP is a wrong one."""
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
            "write socks5h:// to leave that to the proxy",
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
    assert (finding.level, finding.remedy) == (Level.FAIL, "set token_cache to another file")


def test_a_health_file_that_is_something_else(tmp_path: Path) -> None:
    """A health file that no call can use is a problem, and what it is is told."""
    pipe = tmp_path / "health.json"
    os.mkfifo(pipe, 0o600)
    finding = state("user", pipe)["health file"]
    assert (finding.level, finding.remedy) == (Level.FAIL, "name another file as health")
    assert "a pipe" in finding.text


@pytest.mark.parametrize("limited", [True, False])
def test_counts_that_cannot_be_kept(limited: bool) -> None:
    """A damaged file of counts is a problem where a limit depends on it, and else a warning."""
    path = usage_file()
    provider = settings(OpenAICompatible, **({"per_day": 9} if limited else {}))
    configuration = Configuration((provider,))
    assert ("usage file" in found(check_state(configuration))) == limited
    path.parent.mkdir(parents=True, mode=0o700)
    path.write_text("garbage")
    path.chmod(0o600)
    finding = found(check_state(configuration))["usage file"]
    assert finding.level is (Level.FAIL if limited else Level.WARN)
    assert "it belongs to another program, or is damaged" in finding.text
    assert f"rm {path}*" in finding.remedy
    path.unlink()
    with closing(Ledger(path)) as ledger:
        assert ledger.read("SELECT * FROM days") == []
    finding = found(check_state(configuration))["usage file"]
    assert (finding.level, finding.text) == (Level.OK, f"{path} (mode 0600)")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs another user")
def test_counts_that_can_only_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of counts, or its folder, that cannot be written is a problem for a limit."""
    configuration = Configuration((settings(OpenAICompatible, per_minute=9),))

    def unprivileged() -> list[str]:
        become_nobody()
        told = []
        with tempfile.TemporaryDirectory() as home:
            monkeypatch.setenv("XDG_STATE_HOME", home)
            path = usage_file()
            with closing(Ledger(path)) as ledger:
                ledger.read("SELECT * FROM days")
            for closed, mode in ((path, 0o400), (path.parent, 0o500)):
                closed.chmod(mode)
                finding = found(check_state(configuration))["usage file"]
                told.append(f"{finding.level.name} {finding.text.replace(str(path), 'FILE')}")
                closed.chmod(0o700 if closed.is_dir() else 0o600)
        return told

    file, folder = forked(unprivileged)
    assert file.startswith("FAIL FILE cannot be used, so each process keeps to its limits")
    assert folder.startswith("FAIL ")
    assert "cannot be written, so each process keeps to its limits by itself" in folder


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


LISTED = http_response(200, JSON, b'{"data": [{"id": "llama3.2:latest"}]}')


def test_a_model_that_nobody_named(raw_server: RawServerFactory) -> None:
    """Where no model is named, the default of another service is not said to be missing."""
    server = raw_server(keep_alive(LISTED))
    finding = connect(OpenAICompatible, base_url=server.url)["OpenAICompatible, models"]
    assert finding.level is Level.FAIL
    assert finding.text == "no model is named; there are llama3.2:latest"
    assert finding.remedy == "name one of these as model"


@pytest.mark.parametrize(
    ("name", "model", "level"),
    [
        ("Ollama", "llama3.2", Level.OK),
        ("Ollama", "llama3.2:latest", Level.OK),
        ("Ollama", "llama3", Level.FAIL),
        ("llama.cpp", "whatever", Level.OK),
        ("llama.cpp", None, Level.OK),
        ("vLLM", "llama3.2:1b", Level.FAIL),
    ],
)
def test_a_programs_own_names(
    raw_server: RawServerFactory, name: str, model: str | None, level: Level
) -> None:
    """Ollama's usual tag can be left out, and llama.cpp's server takes any name."""
    server = raw_server(keep_alive(LISTED))
    given = {"base_url": f"{server.url}/v1", "name": name, **({"model": model} if model else {})}
    finding = connect(OpenAICompatible, **given)[f"{name}, models"]
    assert finding.level is level
    if name == "Ollama" and level is Level.FAIL:
        assert finding.remedy == f"ollama pull {model}"


NOT_THERE = http_response(404, JSON, b'{"detail": "Not Found"}')
PAGE = http_response(200, {"Content-Type": "text/html"}, b"<!doctype html><title>Chat</title>")
ALIVE = http_response(200, {"Content-Type": "text/plain"}, b"Ollama is running")
REFUSED = http_response(401, JSON, b'{"error": {"message": "Incorrect API key provided"}}')


@pytest.mark.parametrize("reply", [NOT_THERE, PAGE, ALIVE], ids=["404", "page", "text"])
def test_what_answers_where_v1_is_missing(raw_server: RawServerFactory, reply: Script) -> None:
    """Whatever a server answers at an address without /v1, that is what is to be looked at."""
    server = raw_server(keep_alive(reply))
    finding = connect(OpenAICompatible, base_url=server.url)["OpenAICompatible, models"]
    assert (finding.level, "/v1" in finding.remedy) == (Level.FAIL, True)


@pytest.mark.parametrize("path", ["/v1", "/openai/deployments/d?api-version=2024-10-21"])
def test_a_server_that_lists_no_models(raw_server: RawServerFactory, path: str) -> None:
    """Where the address looks whole, a missing list is no failure: chats may work."""
    server = raw_server(keep_alive(NOT_THERE))
    finding = connect(OpenAICompatible, base_url=server.url + path)["OpenAICompatible, models"]
    assert (finding.level, finding.remedy.endswith("doctor --live")) == (Level.WARN, True)


def test_a_key_that_was_held_back(
    raw_server: RawServerFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key that was not sent is not told as refused, and nothing says to set it once more."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-another-server")
    server = raw_server(keep_alive(REFUSED))
    findings = connect(OpenAICompatible, base_url=f"{server.url}/v1")
    key = findings["OpenAICompatible, key"]
    assert (key.level, key.text.startswith("OPENAI_API_KEY was held back")) == (Level.WARN, True)
    refused = findings["OpenAICompatible, models"]
    assert refused.level is Level.FAIL
    assert refused.remedy.endswith('api_key_env = "OPENAI_API_KEY"')
    assert server.requests[-1].header("Authorization") is None


def test_a_program_needs_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """A key of another service is not missed by a program on this machine."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-another-service")
    kind = find_type("ollama")
    assert kind is not None
    findings = found(
        check_provider(ProviderSettings.of(kind, {}, "argument"), offline=True, live=False)
    )
    assert (findings["Ollama, key"].level, findings["Ollama, key"].text) == (
        Level.OK,
        "none needed",
    )


def test_a_key_that_is_missing_at_another_address(raw_server: RawServerFactory) -> None:
    """Where a variable's key would not be sent, the way that sends it is told."""
    server = raw_server(keep_alive(REFUSED))
    findings = connect(OpenAICompatible, base_url=f"{server.url}/v1")
    refused = findings["OpenAICompatible, models"]
    assert (refused.level, "api_key_env" in refused.remedy) == (Level.FAIL, True)
    assert "OPENAI_API_KEY" not in repr(findings)


@pytest.mark.parametrize(
    ("name", "remedy"), [("Ollama", "ollama pull llama9"), ("vLLM", "load a model there")]
)
def test_a_program_without_models(raw_server: RawServerFactory, name: str, remedy: str) -> None:
    """A program that has no model yet is told how to fetch the one that is named."""
    server = raw_server(keep_alive(http_response(200, JSON, b'{"data": []}')))
    given = {"base_url": f"{server.url}/v1", "name": name, "model": "llama9"}
    finding = connect(OpenAICompatible, **given)[f"{name}, models"]
    assert (finding.level, finding.remedy) == (Level.WARN, remedy)


def test_a_key_that_is_wrong_says_where_it_is(
    raw_server: RawServerFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A refused key is to be replaced where it stands."""
    server = raw_server(keep_alive(REFUSED))
    monkeypatch.setenv("OPENAI_API_KEY", "sk-old-old-old")
    monkeypatch.setenv("OPENAI_BASE_URL", f"{server.url}/v1")
    refused = connect(OpenAICompatible)["OpenAICompatible, models"]
    assert refused.remedy == "replace the key there: environment OPENAI_API_KEY"


def test_a_provider_without_a_network() -> None:
    """One that sends nothing has no connection to look at."""
    assert list(connect(ScriptedProvider)) == ["ScriptedProvider, key"]
    assert [f.text for f in check_proxies([settings(ScriptedProvider)], offline=False)] == ["none"]


class Faulty(ScriptedProvider):
    """A provider from elsewhere with a defect in a check."""

    def check_credentials(self) -> None:
        """Fail."""
        raise KeyError("token")


def test_a_defect_of_a_provider_from_elsewhere() -> None:
    """What its code raises is one finding, and ends no other check."""
    finding = check(Faulty)["Faulty"]
    assert (finding.level, finding.remedy) == (Level.FAIL, "tell the author of this provider")
    assert "KeyError: 'token'" in finding.text


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
    limited = Configuration((settings(OpenAICompatible, per_day=1),))
    findings |= found(check_state(limited))
    assert findings["usage file"].level is Level.FAIL
    assert "/dev/null" not in repr(findings)
    finding = check(GigaChat, **KEY)["GigaChat, certificates"]
    assert "ca_bundle" in finding.remedy
    assert "llmproviders trust" not in finding.remedy


def test_the_system_store(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system's store is asked for, that is told, of GigaChat, too; or what it needs."""
    for kind in (GigaChat, OpenAICompatible):
        monkeypatch.setitem(sys.modules, "truststore", ssl)
        finding = check(kind, trust="system", **KEY)[f"{kind.__name__}, certificates"]
        assert (finding.level, finding.text) == (Level.OK, "the operating system's store")
        certificates._context.cache_clear()
        monkeypatch.setitem(sys.modules, "truststore", None)
        finding = check(kind, trust="system", **KEY)[f"{kind.__name__}, certificates"]
        assert finding.level is Level.FAIL
        assert "pip install truststore" in finding.text
