"""Reading certificates, and the TLS contexts that are made of them."""

from __future__ import annotations

import binascii
import os
import re
import shlex
import ssl
from collections.abc import Iterable
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import certifi

from .. import _environment as _environ
from .._printable import one_line
from .._runtime import files as _files
from .._runtime.process import Process, current
from .._signals import let_through
from ..errors import ConnectionFailed, InvalidRequestError
from .types import Trust

LARGEST = 16 * 1024 * 1024
"""Bytes of a certificate file that are read at most."""

# OpenSSL writes TRUSTED for a certificate with what it is trusted for behind it, older tools X509.
_PEM = re.compile(
    rb"-----BEGIN (?:TRUSTED |X509 )?CERTIFICATE-----([\sA-Za-z0-9+/=]+)"
    rb"-----END (?:TRUSTED |X509 )?CERTIFICATE-----"
)

_PKCS7_PEM = re.compile(rb"-----BEGIN (PKCS7|PKCS #7 SIGNED DATA)-----")

# How the object identifiers of signed data and of data are written, which such files begin with.
_PKCS7_DER = bytes.fromhex("06092a864886f70d010702")

_PKCS12_DER = bytes.fromhex("06092a864886f70d010701")


def bundle(path: str | os.PathLike[str]) -> str:
    """The certificates of a file in PEM or DER, as PEM.

    Raises:
        ConnectionFailed: it cannot be read, or holds no certificate; not retryable.
    """
    try:
        data = _files.read(Path(path).expanduser(), most=LARGEST)
    except OSError as error:
        let_through(error)
        raise _unusable("bundle", path, f"cannot be read: {error.strerror}", _BUNDLE) from error
    found = certificates_in(data)
    if not found:
        convert = conversion_of(data, os.fspath(path))
        problem = "holds no certificate in PEM or DER" + (f"; {convert}" if convert else "")
        raise _unusable("bundle", path, problem, _BUNDLE)
    return "".join(map(as_pem, found))


_BUNDLE = "ca_bundle and GIGACHAT_CA_BUNDLE_FILE"

_USUAL = "REQUESTS_CA_BUNDLE, CURL_CA_BUNDLE, SSL_CERT_FILE and SSL_CERT_DIR"


def _unusable(
    what: str, path: str | os.PathLike[str], problem: str, check: str
) -> ConnectionFailed:
    return ConnectionFailed(
        f"the certificate {what} {os.fspath(path)!r} {problem}; check {check}", retryable=False
    )


def certificates_in(data: bytes) -> list[bytes]:
    """The certificates in ``data``, each in DER; none where one of them is broken."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        # An editor saved the text as what Windows calls Unicode.
        data = data.decode("utf-16", "ignore").encode("ascii", "ignore")
    try:
        found = [_first_value(binascii.a2b_base64(text)) for text in _PEM.findall(data)] or [data]
        reading_context(found)
    except (ssl.SSLError, ValueError, binascii.Error) as error:
        let_through(error)
        return []
    return found


def _first_value(der: bytes) -> bytes:
    """The first value in DER, without what a trusted certificate has behind it."""
    length = der[1] if len(der) > 1 else 0
    start = 2
    if length > 0x80:
        start += length - 0x80
        length = int.from_bytes(der[2:start], "big")
    return der[: start + length]


def conversion_of(data: bytes, path: str = "FILE") -> str | None:
    """What a file of certificates is that is neither PEM nor DER, and the command that converts it.

    Args:
        data: its content.
        path: its path, for the command.

    Returns:
        A sentence; None where it is nothing that is known.
    """
    form = "PEM" if _PKCS7_PEM.search(data) else "DER" if _PKCS7_DER in data[:40] else None
    file = shlex.quote(path)
    if form is not None:
        option = "" if form == "PEM" else " -inform DER"
        command = f"openssl pkcs7{option} -print_certs -in {file} -out {file}.pem"
        return f"it is PKCS #7: convert it with `{command}`, and take that file"
    if _PKCS12_DER in data[:60]:
        command = f"openssl pkcs12 -nokeys -in {file} -out {file}.pem"
        return f"it is PKCS #12: convert it with `{command}`, and take that file"
    return None


def reading_context(certificates: Iterable[bytes]) -> ssl.SSLContext:
    """A context that has read ``certificates``, in DER; its ``get_ca_certs`` describes them.

    Raises:
        ssl.SSLError: one of them is not a certificate.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    for certificate in certificates:
        context.load_verify_locations(cadata=certificate)
    return context


def unix_time(date: str) -> float:
    """A date of a certificate as Unix time."""
    return ssl.cert_time_to_seconds(date)


def as_pem(certificate: bytes) -> str:
    """A certificate in DER as PEM."""
    return ssl.DER_cert_to_PEM_cert(certificate)


def name_in(fields: Any) -> str:
    """The name in a subject or an issuer, as Python's ssl module gives it."""
    names = _names(fields)
    return one_line(names.get("commonName") or names.get("organizationName") or "unknown")


def full_name_in(fields: Any) -> str:
    """The same, with the unit and the organization where they are told."""
    names = _names(fields)
    known = (names.get(n) for n in ("commonName", "organizationalUnitName", "organizationName"))
    return one_line(", ".join(filter(None, known)) or "unknown")


def _names(fields: Any) -> dict[str, str]:
    return dict(pair for group in fields or () for pair in group)


def tls_context(trust: Trust) -> ssl.SSLContext:
    """A context for ``trust``; the same one for the same trust, since making one takes 30 ms.

    Raises:
        ConnectionFailed: a file of certificates cannot be used; not retryable.
        InvalidRequestError: the system's store is asked for, and ``truststore`` is not installed.
    """
    usual = () if trust.system or not trust.verify else _usual_authorities()
    files = [path for path in (trust.ca_bundle, *_paths(trust.cert), *usual) if path]
    return _context(trust, usual, tuple(map(_stamp, files)), ssl.SSLContext, current())


def believes(trust: Trust, fingerprint: str) -> bool:
    """Whether a certificate is among those that ``trust`` has from files.

    Args:
        trust: what is trusted.
        fingerprint: SHA-256 of the certificate, in hex without colons.
    """
    known = tls_context(trust).get_ca_certs(binary_form=True)
    return any(sha256(der).hexdigest() == fingerprint for der in known)


def _usual_authorities() -> tuple[str, ...]:
    """Files and folders of the authorities that are believed by everybody."""
    named = _environ.lookup("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
    if named:
        return (named,)
    # A variable may name several folders, as OpenSSL reads it.
    folders = (_environ.lookup("SSL_CERT_DIR") or "").split(os.pathsep)
    found = [path for path in (_environ.lookup("SSL_CERT_FILE"), *folders) if path]
    return tuple(found) or (certifi.where(),)


def _paths(cert: Any) -> tuple[str, ...]:
    return (cert,) if isinstance(cert, str) else tuple(cert or ())


def _stamp(path: str | os.PathLike[str]) -> tuple[int, int] | None:
    """What tells whether a file was replaced meanwhile."""
    try:
        status = os.stat(path)
    except OSError as error:
        let_through(error)
        return None
    return status.st_mtime_ns, status.st_size


@lru_cache(maxsize=64)
def _context(
    trust: Trust, usual: tuple[str, ...], _stamps: object, _cls: type, _process: Process
) -> ssl.SSLContext:
    # One for each process: threads of the parent may hold some of OpenSSL's locks in it.
    context = _system_context() if trust.system else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if not trust.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    else:
        own = bundle(trust.ca_bundle) if trust.ca_bundle else ""
        if own or trust.extra:
            context.load_verify_locations(cadata=own + (trust.extra or ""))
    for path in usual:
        _believe(context, path)
    if trust.cert:
        _present(context, _paths(trust.cert))
    return context


def _system_context() -> ssl.SSLContext:
    try:
        # An extra, for those who ask for it.
        import truststore
    except ImportError as error:
        raise InvalidRequestError(
            'trust="system" needs the package truststore: pip install truststore'
        ) from error
    context: ssl.SSLContext = truststore.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    return context


def _believe(context: ssl.SSLContext, path: str) -> None:
    try:
        if os.path.isdir(path):
            context.load_verify_locations(capath=path)
        else:
            # OpenSSL would wait at a pipe, whatever the deadline.
            _files.open_plain(path).close()
            context.load_verify_locations(cafile=path)
    except (OSError, ssl.SSLError) as error:
        let_through(error)
        problem = f"cannot be read: {_reason(error, 'it holds no certificate')}"
        raise _unusable("bundle", path, problem, _USUAL) from error


def _present(context: ssl.SSLContext, cert: tuple[str, ...]) -> None:
    """Let the context show a client certificate, whose key may be in a file of its own."""
    try:
        for path in cert:
            _files.open_plain(path).close()
        # Without a password, OpenSSL would ask for one at the terminal.
        certificate, key = (*cert, None)[:2]
        context.load_cert_chain(certificate or "", key, password=lambda: b"")
    except (OSError, ssl.SSLError, ValueError) as error:
        let_through(error)
        problem = f"cannot be used: {_reason(error, 'it and its key do not fit together')}"
        raise _unusable("and key", " and ".join(cert), problem, "cert") from error


def _reason(error: Exception, otherwise: str) -> str:
    """What the system says, or what OpenSSL means where it gives no more than a code."""
    return otherwise if isinstance(error, ssl.SSLError) else getattr(error, "strerror", otherwise)
