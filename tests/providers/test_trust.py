"""Whose certificates GigaChat believes, and nobody else does."""

from __future__ import annotations

import base64
import logging
import os
import re
import shlex
import shutil
import socket
import ssl
import subprocess
import sys
import warnings
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, pkcs7, pkcs12
from cryptography.x509.oid import NameOID

from llmproviders import ConnectionFailed, GigaChat, InvalidRequestError, LLMError, OpenAICompatible
from llmproviders.providers.gigachat import UnverifiedTLSWarning, _root
from llmproviders.sandbox import Sandbox
from tests.conftest import RawServerFactory
from tests.support.http_bytes import http_response
from tests.support.proxies import Proxy
from tests.support.rawserver import Connection, RawServer, server_context

PROXIES = ("http_proxy", "http_proxy_with_password", "socks_proxy", "socks_proxy_with_password")


class Front:
    """A sandbox behind TLS."""

    def __init__(self, sandbox: Sandbox, server: RawServer) -> None:
        self.sandbox = sandbox
        self.server = server

    def arguments(self, *, host: str = "127.0.0.1") -> dict[str, Any]:
        """What makes a GigaChat that speaks to it."""
        url = f"https://{host}:{self.server.port}"
        return {
            **self.sandbox.provider_arguments("gigachat"),
            "base_url": f"{url}/api/v1",
            "auth_url": f"{url}/api/v2/oauth",
        }


def front_of(sandbox: Sandbox, raw_server: RawServerFactory, tls: Any) -> Front:
    """Put a sandbox behind TLS."""

    def relay(connection: Connection) -> None:
        with socket.create_connection(("127.0.0.1", sandbox.port)) as upstream:
            connection.relay(upstream)

    return Front(sandbox, raw_server(relay, tls=tls))


@pytest.fixture
def front(sandbox: Sandbox, raw_server: RawServerFactory, ca: trustme.CA) -> Front:
    """A sandbox behind a certificate that nothing on this machine trusts."""
    return front_of(sandbox, raw_server, ca)


def der_of(ca: trustme.CA) -> bytes:
    """A CA's certificate in DER."""
    return ssl.PEM_cert_to_DER_cert(ca.cert_pem.bytes().decode())


def fingerprint_of(ca: trustme.CA) -> str:
    """The fingerprint of a CA's certificate, as viewers show it."""
    return _root.colons(sha256(der_of(ca)).hexdigest())


def answers(arguments: dict[str, Any]) -> bool:
    """Whether a GigaChat with these arguments gives a reply."""
    with GigaChat(**arguments) as client:
        return bool(client.complete("Hi").text)


def certificate_with(
    *, is_ca: bool | None = True, days: tuple[int, int] = (-1, 30)
) -> x509.Certificate:
    """A self-signed certificate, valid between these days from now; None: not said of what."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Somebody")])
    begin, end = (datetime.now(timezone.utc) + timedelta(days=day) for day in days)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(end)
    )
    if is_ca is not None:
        made = made.add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
    return made.sign(key, hashes.SHA256())


class TestDefault:
    def test_fails_with_the_command(self, front: Front) -> None:
        """An unknown authority fails the call at once, and the message names what mends it."""
        with GigaChat(**front.arguments()) as client, pytest.raises(ConnectionFailed) as caught:
            client.complete("Hi")
        assert "llmproviders trust gigachat --download" in str(caught.value)
        assert "ca_bundle" in str(caught.value)
        assert not caught.value.retryable
        assert front.sandbox.requests == []
        assert "is issued by the Russian Trusted Root CA, so this certificate is not" in str(
            caught.value
        )

    def test_api_host(self, front: Front) -> None:
        """The same is said of the API's own host, where a token is at hand."""
        arguments = {**front.arguments(), "access_token": "made-elsewhere"}
        with GigaChat(**arguments) as client:
            with pytest.raises(ConnectionFailed, match="llmproviders trust gigachat"):
                client.complete("Hi")
            with pytest.raises(ConnectionFailed, match="llmproviders trust gigachat"):
                client.models()

    def test_fails_over_at_once(self, front: Front) -> None:
        """With another provider behind it, the call goes on there without a second try."""
        with (
            GigaChat(**front.arguments()) as giga,
            front.sandbox.client(giga, "openai") as client,
        ):
            reply = client.complete("Hi")
        assert reply.provider == "OpenAICompatible"
        assert [attempt.provider for attempt in reply.attempts] == ["GigaChat", "OpenAICompatible"]
        assert len(front.server.connections) == 1

    @pytest.mark.parametrize("token", [{}, {"access_token": "made-elsewhere"}])
    def test_wrong_host(
        self,
        sandbox: Sandbox,
        raw_server: RawServerFactory,
        ca: trustme.CA,
        ca_file: Path,
        token: dict[str, str],
    ) -> None:
        """Where the name is wrong, the address is to be checked, not the authority."""
        front = front_of(sandbox, raw_server, server_context(ca, "elsewhere.example"))
        with (
            GigaChat(**front.arguments(), ca_bundle=ca_file, **token) as client,
            pytest.raises(ConnectionFailed, match="check base_url and auth_url") as caught,
        ):
            client.complete("Hi")
        assert "trust gigachat" not in str(caught.value)

    def test_nobody_there(self, refused_port: int) -> None:
        """Where nothing answers, no authority is to blame."""
        client = GigaChat(
            base_url=f"https://127.0.0.1:{refused_port}/v1", access_token="some-token"
        )
        with client, pytest.raises(ConnectionFailed) as caught:
            client.complete("Hi")
        assert "trust" not in str(caught.value)

    def test_making_one_reads_nothing(self) -> None:
        """A bundle that is not there is reported at the first call, not before."""
        client = GigaChat(ca_bundle="/nowhere/ca.pem", api_key="aWQ6c2VjcmV0")
        with pytest.raises(ConnectionFailed, match="/nowhere/ca") as caught:
            client.complete("Hi")
        assert "GIGACHAT_CA_BUNDLE_FILE" in str(caught.value)
        assert not caught.value.retryable

    @pytest.mark.parametrize("content", [b"", b"no certificate", b"\x30\x03\x02\x01\x05"])
    def test_no_certificate(self, tmp_path: Path, content: bytes) -> None:
        """A bundle without a certificate is said to be one."""
        path = tmp_path / "ca.pem"
        path.write_bytes(content)
        client = GigaChat(ca_bundle=path, api_key="aWQ6c2VjcmV0")
        with pytest.raises(ConnectionFailed, match="holds no certificate"):
            client.complete("Hi")


class TestBundle:
    @pytest.mark.parametrize("form", ["pem", "der", "commented"])
    def test_believed(self, front: Front, ca: trustme.CA, tmp_path: Path, form: str) -> None:
        """A bundle in PEM or in DER is believed, whatever else is written into the file."""
        pem = ca.cert_pem.bytes()
        contents = {
            "pem": pem,
            "der": der_of(ca),
            "commented": "Корневой сертификат\n".encode() + trustme.CA().cert_pem.bytes() + pem,
        }
        path = tmp_path / "ca.crt"
        path.write_bytes(contents[form])
        assert answers({**front.arguments(), "ca_bundle": path})

    def test_from_the_environment(
        self, front: Front, ca_file: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The variable of the official client names a bundle, too."""
        monkeypatch.setenv("GIGACHAT_CA_BUNDLE_FILE", str(ca_file))
        assert answers(front.arguments())

    def test_for_this_provider_alone(self, front: Front, ca_file: Path) -> None:
        """Another provider of the same process does not believe that authority."""
        assert answers({**front.arguments(), "ca_bundle": ca_file})
        other = OpenAICompatible(base_url=f"{front.server.url}/v1", api_key="sk-other-key")
        with other, pytest.raises(ConnectionFailed, match="not trusted"):
            other.complete("Hi")
        with GigaChat(**front.arguments()) as unbundled, pytest.raises(ConnectionFailed):
            unbundled.complete("Hi")

    @pytest.mark.parametrize("proxy", PROXIES)
    def test_through_a_proxy(
        self, front: Front, ca_file: Path, proxy: str, request: pytest.FixtureRequest
    ) -> None:
        """It holds through CONNECT and SOCKS proxies, which carry every request."""
        way: Proxy = request.getfixturevalue(proxy)
        arguments = {**front.arguments(), "proxy": way.url()}
        assert answers({**arguments, "ca_bundle": ca_file})
        assert set(way.targets) == {f"127.0.0.1:{front.server.port}"}
        with GigaChat(**arguments) as client, pytest.raises(ConnectionFailed, match="trust giga"):
            client.complete("Hi")

    def test_not_for_a_proxy(self, front: Front, ca_file: Path, https_proxy: Proxy) -> None:
        """A proxy with a certificate of its own is another party: the bundle is not for it."""
        arguments = {**front.arguments(), "proxy": https_proxy.url(), "ca_bundle": ca_file}
        with GigaChat(**arguments) as client, pytest.raises(ConnectionFailed):
            client.complete("Hi")
        assert https_proxy.targets == []

    def test_beside_the_environments_bundle(
        self,
        front: Front,
        sandbox: Sandbox,
        raw_server: RawServerFactory,
        ca_file: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """``REQUESTS_CA_BUNDLE`` neither replaces the bundle nor is replaced by it."""
        company = trustme.CA()
        company.cert_pem.write_to_path(tmp_path / "company.pem")
        behind = front_of(sandbox, raw_server, company)
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "company.pem"))
        assert answers({**front.arguments(), "ca_bundle": ca_file})
        assert answers({**behind.arguments(), "ca_bundle": ca_file})
        assert answers(behind.arguments())
        with GigaChat(**front.arguments()) as client, pytest.raises(ConnectionFailed):
            client.complete("Hi")


class TestUnverified:
    def test_argument(self, front: Front) -> None:
        """``verify=False`` believes anybody, and warns each time a client is made with it."""
        for _ in range(2):
            with pytest.warns(UnverifiedTLSWarning, match="can read the key") as caught:
                client = GigaChat(**front.arguments(), verify=False)
            assert caught[0].filename == __file__
            with client:
                assert client.complete("Hi").text

    @pytest.mark.parametrize("value", ["false", "False", "0", "no", "off"])
    def test_environment(self, front: Front, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
        """So does the variable of the official client."""
        monkeypatch.setenv("GIGACHAT_VERIFY_SSL_CERTS", value)
        with pytest.warns(UnverifiedTLSWarning, match="^mine does not verify"):
            assert answers({**front.arguments(), "name": "mine"})

    @pytest.mark.parametrize("value", ["true", "1", "maybe", ""])
    def test_anything_else_verifies(
        self, front: Front, monkeypatch: pytest.MonkeyPatch, value: str
    ) -> None:
        """No other value of it does."""
        monkeypatch.setenv("GIGACHAT_VERIFY_SSL_CERTS", value)
        with pytest.raises(ConnectionFailed):
            answers(front.arguments())

    def test_argument_wins(self, front: Front, monkeypatch: pytest.MonkeyPatch) -> None:
        """``verify=True`` wins over the variable."""
        monkeypatch.setenv("GIGACHAT_VERIFY_SSL_CERTS", "false")
        with pytest.raises(ConnectionFailed):
            answers({**front.arguments(), "verify": True})

    def test_every_warning_is_shown(self) -> None:
        """With Python's usual filters, each client that is made shows the warning."""
        code = "from llmproviders import GigaChat\nfor _ in range(3): GigaChat(verify=False)"
        environ = {**os.environ, "PYTHONPATH": str(Path(_root.__file__).parents[3])}
        shown = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, env=environ
        ).stderr
        assert shown.count("UnverifiedTLSWarning") == 3

    def test_others_verify(self, front: Front) -> None:
        """One client that does not verify changes nothing for the others."""
        with pytest.warns(UnverifiedTLSWarning):
            assert answers({**front.arguments(), "verify": False})
        with pytest.raises(ConnectionFailed):
            answers(front.arguments())


@pytest.fixture
def stored(ca: trustme.CA) -> _root.Certificate:
    """The certificate of ``ca``, taken in."""
    return _root.install(ca.cert_pem.bytes(), fingerprint=fingerprint_of(ca))


class TestStore:
    def test_believed(self, front: Front, stored: _root.Certificate) -> None:
        """What was taken in is believed from then on, without any argument."""
        assert answers(front.arguments())

    def test_another_certificate_than_gigachats(
        self, sandbox: Sandbox, raw_server: RawServerFactory, stored: _root.Certificate
    ) -> None:
        """With the root taken in, one that a proxy shows is told as that, and names its issuer."""
        firewall = trustme.CA(organization_name="Corporate Firewall")
        front = front_of(sandbox, raw_server, firewall)
        with GigaChat(**front.arguments()) as client, pytest.raises(ConnectionFailed) as caught:
            client.complete("Hi")
        said = str(caught.value)
        assert "Corporate Firewall" in said
        assert "trusted already" in said
        assert "trust gigachat" not in said

    def test_for_gigachat_alone(self, front: Front, stored: _root.Certificate) -> None:
        """No other provider believes it."""
        other = OpenAICompatible(base_url=f"{front.server.url}/v1", api_key="sk-other-key")
        with other, pytest.raises(ConnectionFailed, match="not trusted"):
            other.complete("Hi")

    def test_where_it_lies(self, home: Path, stored: _root.Certificate, ca: trustme.CA) -> None:
        """It lies in the user's configuration folder, for the user alone, under its fingerprint."""
        assert stored.path.parent == home / "config" / "llmproviders" / "trust" / "gigachat"
        assert stored.path.stat().st_mode & 0o777 == 0o600
        assert stored.fingerprint == stored.path.stem == sha256(der_of(ca)).hexdigest()
        assert _root.installed() == [stored]
        assert "trustme" in stored.subject
        assert stored.expires.endswith("GMT")

    @pytest.mark.parametrize(
        ("said", "trusted", "words"),
        [
            ("Hostname mismatch", False, "; check base_url and auth_url"),
            ("IP address mismatch", False, "; check base_url and auth_url"),
            ("certificate is not valid for 'x'", True, "; check base_url and auth_url"),
            ("certificate has expired", False, "; check this machine's clock"),
            ("certificate is not yet valid", True, "; check this machine's clock"),
            ("it is issued by 'Gate'", False, ". GigaChat's own is issued by the Russian Trusted"),
            ("it is issued by 'Russian Trusted Sub CA'", False, ". GigaChat's hosts need the"),
            ("unable to get its issuer", False, ". GigaChat's hosts need the Russian Trusted Root"),
            ("unable to get its issuer", True, ". The Russian Trusted Root CA is trusted already"),
        ],
    )
    def test_advice(self, said: str, trusted: bool, words: str) -> None:
        """What is wrong with a certificate decides what to do about it."""
        assert _root.advice(ConnectionFailed(said), trusted=trusted).startswith(said + words)

    def test_advice_replaces_the_usual_one(self) -> None:
        """What is advised about other certificates does not stand beside it."""
        error = ConnectionFailed("no issuer; pass the file of its authority with ca_bundle=")
        assert _root.advice(error, trusted=False).startswith("no issuer. GigaChat's hosts need")

    def test_one_that_others_could_have_written(self, ca: trustme.CA) -> None:
        """It is left out, and those after it are used."""
        other = trustme.CA()
        kept = [
            _root.install(one.cert_pem.bytes(), fingerprint=fingerprint_of(one))
            for one in (ca, other)
        ]
        first, second = sorted(certificate.path for certificate in kept)
        first.chmod(0o666)
        assert [certificate.path for certificate in _root.installed()] == [second]

    def test_too_large(self, tmp_path: Path) -> None:
        """A file that is no certificate by its size alone is not read whole."""
        path = tmp_path / "large.pem"
        with path.open("wb") as file:
            file.truncate(17 * 2**20)
        with pytest.raises(OSError, match="larger than 16 MiB"):
            _root.install(path)

    @pytest.mark.parametrize("form", ["pem", "der", "bundle"])
    def test_forms(self, ca: trustme.CA, tmp_path: Path, form: str) -> None:
        """A file in PEM or DER is taken, and out of a bundle the one that is wanted."""
        pem = ca.cert_pem.bytes()
        contents = {"pem": pem, "der": der_of(ca), "bundle": trustme.CA().cert_pem.bytes() + pem}
        path = tmp_path / "russian_trusted_root_ca.cer"
        path.write_bytes(contents[form])
        taken = _root.install(path, fingerprint=fingerprint_of(ca).lower())
        assert taken.path.read_text() == ssl.DER_cert_to_PEM_cert(der_of(ca))
        assert len(_root.installed()) == 1

    def test_other_fingerprint(self, ca: trustme.CA) -> None:
        """Any other certificate than the known one is refused, with both fingerprints."""
        with pytest.raises(InvalidRequestError) as caught:
            _root.install(ca.cert_pem.bytes())
        assert fingerprint_of(ca) in str(caught.value)
        assert _root.colons(_root.KNOWN_FINGERPRINT) in str(caught.value)
        assert _root.installed() == []

    def test_known_fingerprint(self) -> None:
        """The known one is that of the Russian Trusted Root CA."""
        assert _root.colons(_root.KNOWN_FINGERPRINT) == (
            "D2:6D:2D:02:31:B7:C3:9F:92:CC:73:85:12:BA:54:10:"
            "35:19:E4:40:5D:68:B5:BD:70:3E:97:88:CA:8E:CF:31"
        )

    @pytest.mark.parametrize("name", ["TRUSTED CERTIFICATE", "X509 CERTIFICATE"])
    def test_other_headings(self, ca: trustme.CA, tmp_path: Path, name: str) -> None:
        """What OpenSSL writes under another heading is taken, and what stands behind it is not."""
        # What it is trusted for: servers.
        behind = bytes.fromhex("300c300a06082b06010505070301") if name.startswith("T") else b""
        text = base64.encodebytes(der_of(ca) + behind).decode()
        path = tmp_path / "root.crt"
        path.write_text(f"-----BEGIN {name}-----\n{text}-----END {name}-----\n")
        taken = _root.install(path, fingerprint=fingerprint_of(ca))
        assert taken.path.read_text() == ssl.DER_cert_to_PEM_cert(der_of(ca))

    @pytest.mark.parametrize("coding", ["utf-8-sig", "utf-16"])
    def test_as_an_editor_saves_it(self, ca: trustme.CA, coding: str) -> None:
        """A file that went through an editor of Windows is taken all the same."""
        text = ca.cert_pem.bytes().decode().replace("\n", "\r\n")
        _root.install(text.encode(coding), fingerprint=fingerprint_of(ca))
        assert len(_root.installed()) == 1

    @pytest.mark.parametrize("form", ["PEM", "DER"])
    def test_pkcs7(self, ca: trustme.CA, tmp_path: Path, form: str) -> None:
        """A file in PKCS #7 is refused with the command that converts it, which does."""
        path = tmp_path / "root ca.p7b"
        certificate = x509.load_der_x509_certificate(der_of(ca))
        path.write_bytes(pkcs7.serialize_certificates([certificate], getattr(Encoding, form)))
        with pytest.raises(InvalidRequestError, match="PKCS #7") as caught:
            _root.install(path, fingerprint=fingerprint_of(ca))
        (command,) = re.findall("`(openssl .*?)`", str(caught.value))
        if shutil.which("openssl") is None:
            pytest.skip("openssl is not installed")
        subprocess.run(shlex.split(command), check=True, capture_output=True)
        _root.install(f"{path}.pem", fingerprint=fingerprint_of(ca))
        with (
            GigaChat(ca_bundle=path, access_token="t", base_url="https://127.0.0.1:1") as client,
            pytest.raises(ConnectionFailed, match="openssl pkcs7"),
        ):
            client.complete("Hi")

    def test_pkcs12(self, ca: trustme.CA) -> None:
        """So is one in PKCS #12."""
        certificate = x509.load_der_x509_certificate(der_of(ca))
        data = pkcs12.serialize_key_and_certificates(
            b"ca", None, None, [certificate], NoEncryption()
        )
        with pytest.raises(InvalidRequestError, match="openssl pkcs12"):
            _root.install(data, fingerprint=fingerprint_of(ca))

    @pytest.mark.parametrize(
        ("about", "words"),
        [
            ({"is_ca": False}, "a server, not of an authority"),
            ({"is_ca": None}, "a server, not of an authority"),
            ({"days": (-30, -1)}, "not valid now: it expired on"),
            ({"days": (1, 30)}, "it begins on .*clock"),
        ],
    )
    def test_what_vouches_for_nothing(self, about: dict[str, Any], words: str) -> None:
        """A server's certificate, and one that is not valid now, are refused; nothing changes."""
        certificate = certificate_with(**about)
        der = certificate.public_bytes(Encoding.DER)
        with pytest.raises(InvalidRequestError, match=words):
            _root.install(der, fingerprint=sha256(der).hexdigest())
        assert _root.installed() == []

    @pytest.mark.parametrize("content", [b"", b"<html>not found</html>", b"\x30\x82\x01"])
    def test_no_certificate(self, content: bytes) -> None:
        """What is no certificate is refused, in words that say what is wanted."""
        with pytest.raises(InvalidRequestError, match="PEM"):
            _root.install(content)

    @pytest.mark.parametrize("fingerprint", ["", "D2:6D", "xyz", "0" * 63])
    def test_no_fingerprint(self, ca: trustme.CA, fingerprint: str) -> None:
        """What is no fingerprint is refused."""
        with pytest.raises(InvalidRequestError, match="64 hex digits"):
            _root.install(ca.cert_pem.bytes(), fingerprint=fingerprint)

    def test_missing_file(self, tmp_path: Path) -> None:
        """A file that is not there is the usual error."""
        with pytest.raises(FileNotFoundError):
            _root.install(tmp_path / "none.crt")

    def test_unwritable_folder(self, ca: trustme.CA, home: Path) -> None:
        """A configuration folder that cannot be made is the usual error."""
        (home / "config").mkdir()
        (home / "config" / "llmproviders").touch()
        with pytest.raises(OSError, match="trust"):
            _root.install(ca.cert_pem.bytes(), fingerprint=fingerprint_of(ca))

    @pytest.mark.parametrize("change", ["other", "garbage", "more"])
    def test_checked_at_each_load(
        self,
        front: Front,
        stored: _root.Certificate,
        ca: trustme.CA,
        caplog: pytest.LogCaptureFixture,
        change: str,
    ) -> None:
        """A file that was changed since is not believed, and a warning says so."""
        evil = trustme.CA().cert_pem.bytes()
        contents = {"other": evil, "garbage": b"?", "more": ca.cert_pem.bytes() + evil}
        stored.path.write_bytes(contents[change])
        with (
            caplog.at_level(logging.WARNING, "llmproviders"),
            pytest.raises(ConnectionFailed, match="llmproviders trust gigachat"),
        ):
            answers(front.arguments())
        (record,) = caplog.records
        assert "its fingerprint is not" in record.getMessage()
        assert _root.installed() == []

    def test_successor(self, front: Front, stored: _root.Certificate) -> None:
        """A successor is taken in beside the one before."""
        successor = trustme.CA()
        _root.install(successor.cert_pem.bytes(), fingerprint=fingerprint_of(successor))
        assert len(_root.installed()) == 2
        assert answers(front.arguments())

    def test_remove(self, front: Front, stored: _root.Certificate) -> None:
        """What was taken in can be forgotten."""
        assert _root.remove() == [stored.path]
        assert _root.installed() == []
        assert _root.remove() == []
        with pytest.raises(ConnectionFailed):
            answers(front.arguments())

    def test_with_a_bundle(
        self,
        front: Front,
        sandbox: Sandbox,
        raw_server: RawServerFactory,
        stored: _root.Certificate,
        tmp_path: Path,
    ) -> None:
        """The store and a bundle are believed beside one another."""
        other = trustme.CA()
        other.cert_pem.write_to_path(tmp_path / "other.pem")
        behind = front_of(sandbox, raw_server, other)
        assert answers({**behind.arguments(), "ca_bundle": tmp_path / "other.pem"})
        assert answers({**front.arguments(), "ca_bundle": tmp_path / "other.pem"})


class TestDownload:
    @pytest.fixture(autouse=True)
    def _trust_the_site(self, ca_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(ca_file))

    @pytest.fixture
    def root(self) -> trustme.CA:
        """The authority that is downloaded."""
        return trustme.CA()

    @pytest.fixture
    def site(
        self, raw_server: RawServerFactory, ca: trustme.CA, root: trustme.CA
    ) -> Iterator[RawServer]:
        """A site that offers it, over TLS."""
        kind = {"Content-Type": "application/x-x509-ca-cert"}
        return raw_server(http_response(200, kind, root.cert_pem.bytes()), tls=ca)

    def test_taken_in(self, site: RawServer, root: trustme.CA) -> None:
        """What a site offers is taken in, if its fingerprint is right."""
        url = f"{site.url}/root.crt"
        taken = _root.download(url, fingerprint=fingerprint_of(root))
        assert _root.installed() == [taken]
        [request] = site.requests
        assert (request.method, request.target) == ("GET", "/root.crt")
        assert request.header("Accept") == "*/*"

    def test_other_fingerprint(self, site: RawServer) -> None:
        """Anything else is refused."""
        with pytest.raises(InvalidRequestError, match="fingerprint"):
            _root.download(f"{site.url}/root.crt")
        assert _root.installed() == []

    def test_proxy(self, site: RawServer, root: trustme.CA, http_proxy: Proxy) -> None:
        """It goes through the proxy that is given."""
        _root.download(site.url, fingerprint=fingerprint_of(root), proxy=http_proxy.url())
        assert http_proxy.targets == [f"127.0.0.1:{site.port}"]

    def test_untrusted_site(
        self, site: RawServer, root: trustme.CA, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The site's own certificate is verified."""
        monkeypatch.delenv("REQUESTS_CA_BUNDLE")
        with pytest.raises(ConnectionFailed, match="not trusted"):
            _root.download(site.url, fingerprint=fingerprint_of(root))

    def test_site_with_a_stored_authority(
        self, site: RawServer, ca: trustme.CA, root: trustme.CA, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What is installed already vouches for the site."""
        monkeypatch.delenv("REQUESTS_CA_BUNDLE")
        _root.install(ca.cert_pem.bytes(), fingerprint=fingerprint_of(ca))
        taken = _root.download(site.url, fingerprint=fingerprint_of(root))
        assert taken in _root.installed()

    def test_unreachable(self, refused_port: int) -> None:
        """A site that cannot be reached is an error of ours."""
        with pytest.raises(LLMError):
            _root.download(f"https://127.0.0.1:{refused_port}/root.crt")

    def test_real_address(self) -> None:
        """Without an address it is the certificate's own, over TLS."""
        assert _root.DOWNLOAD_URL.startswith("https://gu-st.ru/")


def test_no_warning_by_default() -> None:
    """A client that verifies is made without a word."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        GigaChat()
