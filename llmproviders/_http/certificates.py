"""Reading certificates, and the TLS contexts that are made of them."""

from __future__ import annotations

import binascii
import os
import re
import ssl
from collections.abc import Iterable
from functools import lru_cache
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

_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----[\sA-Za-z0-9+/=]+-----END CERTIFICATE-----")


def bundle(path: str | os.PathLike[str]) -> str:
    """The certificates of a file in PEM or DER, as PEM.

    Raises:
        ConnectionFailed: it cannot be read, or holds no certificate; not retryable.
    """
    try:
        found = certificates_in(_files.read(Path(path).expanduser(), most=LARGEST))
    except OSError as error:
        let_through(error)
        raise _unusable("bundle", path, f"cannot be read: {error.strerror}", _BUNDLE) from error
    if not found:
        raise _unusable("bundle", path, "holds no certificate in PEM or DER", _BUNDLE)
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
    try:
        blocks = [block.decode() for block in _PEM.findall(data)]
        found = [ssl.PEM_cert_to_DER_cert(block) for block in blocks] or [data]
        reading_context(found)
    except (ssl.SSLError, ValueError, binascii.Error) as error:
        let_through(error)
        return []
    return found


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
