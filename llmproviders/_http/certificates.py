"""Read certificates and build TLS contexts from them."""

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
from urllib3.util import ssl_

from .. import _environment as _environ
from .._printable import one_line
from .._runtime import files as _files
from .._runtime.process import Process, current
from .._signals import let_through
from ..errors import ConnectionFailed, InvalidRequestError
from .types import Trust

LARGEST = 16 * 1024 * 1024
"""Most bytes read from a certificate file."""

# OpenSSL writes TRUSTED if trust settings follow the certificate; older tools write X509.
_PEM = re.compile(
    rb"-----BEGIN (?:TRUSTED |X509 )?CERTIFICATE-----([\sA-Za-z0-9+/=]+)"
    rb"-----END (?:TRUSTED |X509 )?CERTIFICATE-----"
)

_PKCS7_PEM = re.compile(rb"-----BEGIN (PKCS7|PKCS #7 SIGNED DATA)-----")

# The encoded object identifiers of signed data and of data, at the start of such files.
_PKCS7_DER = bytes.fromhex("06092a864886f70d010702")

_PKCS12_DER = bytes.fromhex("06092a864886f70d010701")


def bundle(path: str | os.PathLike[str], named: str = "ca_bundle") -> str:
    """The certificates of a file in PEM or DER, as PEM.

    Args:
        path: the file.
        named: the settings that name it, for the error.

    Raises:
        ConnectionFailed: it cannot be read, or holds no certificate; not retryable.
    """
    try:
        data = _files.read(Path(path).expanduser(), most=LARGEST)
    except OSError as error:
        let_through(error)
        raise _unusable("bundle", path, f"cannot be read: {error.strerror}", named) from error
    found = certificates_in(data)
    if not found:
        convert = conversion_of(data, os.fspath(path))
        problem = "holds no certificate in PEM or DER" + (f"; {convert}" if convert else "")
        raise _unusable("bundle", path, problem, named)
    return "".join(map(as_pem, found))


_USUAL = "REQUESTS_CA_BUNDLE, CURL_CA_BUNDLE, SSL_CERT_FILE and SSL_CERT_DIR"


def _unusable(
    what: str, path: str | os.PathLike[str], problem: str, check: str
) -> ConnectionFailed:
    return ConnectionFailed(
        f"the certificate {what} {os.fspath(path)!r} {problem}; check {check}", retryable=False
    )


def certificates_in(data: bytes) -> list[bytes]:
    """The certificates in ``data``, each in DER; an empty list if one of them is broken."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        # An editor saved the text in UTF-16, which Windows calls Unicode.
        data = data.decode("utf-16", "ignore").encode("ascii", "ignore")
    try:
        found = [_first_value(binascii.a2b_base64(text)) for text in _PEM.findall(data)] or [data]
        reading_context(found)
    except (ssl.SSLError, ValueError, binascii.Error) as error:
        let_through(error)
        return []
    return found


def _first_value(der: bytes) -> bytes:
    """The first DER value, without the trust settings that may follow it."""
    length = der[1] if len(der) > 1 else 0
    start = 2
    if length > 0x80:
        start += length - 0x80
        length = int.from_bytes(der[2:start], "big")
    return der[: start + length]


def conversion_of(data: bytes, path: str = "FILE") -> str | None:
    """The format of a certificate file that is neither PEM nor DER, and how to convert it.

    Args:
        data: its content.
        path: its path, for the command.

    Returns:
        A sentence; None if the format is unknown.
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
    """The same, with the unit and the organization if the certificate has them."""
    names = _names(fields)
    known = (names.get(n) for n in ("commonName", "organizationalUnitName", "organizationName"))
    return one_line(", ".join(filter(None, known)) or "unknown")


def _names(fields: Any) -> dict[str, str]:
    return dict(pair for group in fields or () for pair in group)


def tls_context(trust: Trust) -> ssl.SSLContext:
    """A context for ``trust``, cached because making one takes 30 ms.

    Raises:
        ConnectionFailed: a file of certificates cannot be used; not retryable.
        InvalidRequestError: the system's store is asked for, and ``truststore`` is not installed.
    """
    usual = () if trust.system or not trust.verify else _usual_authorities()
    files = [path for path in (trust.ca_bundle, *_paths(trust.cert), *usual) if path]
    return _context(trust, usual, tuple(map(_stamp, files)), ssl.SSLContext, current())


def give_context(connection: Any) -> None:
    """Give urllib3's connection a context if the one that urllib3 would make cannot work.

    gevent and eventlet replace ``ssl.SSLContext``. The class that urllib3 imported before that
    would then call itself endlessly.
    """
    replaced = ssl_.SSLContext is not ssl.SSLContext
    if replaced and getattr(connection, "ssl_context", connection) is None:
        connection.ssl_context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        verified = ssl_.resolve_cert_reqs(connection.cert_reqs) == ssl.CERT_REQUIRED
        connection.ssl_context.check_hostname = verified


def trusts(trust: Trust, fingerprint: str) -> bool:
    """Whether a certificate is in one of the files of ``trust``.

    Args:
        trust: what is trusted.
        fingerprint: SHA-256 of the certificate, in hex without colons.
    """
    known = tls_context(trust).get_ca_certs(binary_form=True)
    return any(sha256(der).hexdigest() == fingerprint for der in known)


def _usual_authorities() -> tuple[str, ...]:
    """Files and folders of the authorities that every provider trusts."""
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
    """A stamp that changes when the file is replaced."""
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
    # One per process: after a fork, the parent's threads may hold OpenSSL locks in it.
    context = _system_context() if trust.system else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if not trust.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    else:
        own = bundle(trust.ca_bundle, trust.bundle_named) if trust.ca_bundle else ""
        if own or trust.extra:
            context.load_verify_locations(cadata=own + (trust.extra or ""))
    for path in usual:
        _load_authorities(context, path)
    if trust.cert:
        _present(context, _paths(trust.cert))
    return context


def _system_context() -> ssl.SSLContext:
    try:
        # An optional dependency, imported only on request.
        import truststore
    except ImportError as error:
        raise InvalidRequestError(
            'trust="system" needs the package truststore: pip install truststore'
        ) from error
    context: ssl.SSLContext = truststore.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    return context


def _load_authorities(context: ssl.SSLContext, path: str) -> None:
    try:
        if os.path.isdir(path):
            context.load_verify_locations(capath=path)
        else:
            # OpenSSL would block on a pipe and ignore the deadline.
            _files.open_plain(path).close()
            context.load_verify_locations(cafile=path)
    except (OSError, ssl.SSLError) as error:
        let_through(error)
        problem = f"cannot be read: {_reason(error, 'it holds no certificate in PEM')}"
        if isinstance(error, ssl.SSLError) and (
            convert := conversion_of(_files.read(path, most=LARGEST), path)
        ):
            problem += f"; {convert}"
        raise _unusable("bundle", path, problem, _USUAL) from error


def _present(context: ssl.SSLContext, cert: tuple[str, ...]) -> None:
    """Load a client certificate into the context; its key may be in a separate file."""
    try:
        for path in cert:
            _files.open_plain(path).close()
        # Without a password, OpenSSL would ask for one at the terminal.
        certificate, key = (*cert, None)[:2]
        context.load_cert_chain(certificate or "", key, password=lambda: b"")
    except (OSError, ssl.SSLError, ValueError) as error:
        let_through(error)
        problem = f"cannot be used: {_reason(error, 'the certificate and the key do not match')}"
        raise _unusable("and key", " and ".join(cert), problem, "cert") from error


def _reason(error: Exception, otherwise: str) -> str:
    """The system's message, or ``otherwise`` if OpenSSL gives only a code."""
    return otherwise if isinstance(error, ssl.SSLError) else getattr(error, "strerror", otherwise)
