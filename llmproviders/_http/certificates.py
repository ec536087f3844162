"""Certificate authorities that one provider believes beside the usual ones.

GigaChat's hosts have certificates under the "Russian Trusted Root CA", which neither certifi nor
most systems know. What is taken into the user's configuration folder here is pinned: only a
certificate whose fingerprint is known or was given by the user gets in, and it is checked against
its fingerprint each time it is read.
"""

from __future__ import annotations

import binascii
import os
import re
import ssl
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import certifi

from .. import _environment as _environ
from .. import errors
from .._runtime import files as _files
from .._runtime.process import Process, current
from .._signals import let_through
from ..errors import ConnectionFailed
from .sockets import BoundedTLS
from .types import Trust, UnverifiedTLSWarning

COMMAND = "llmproviders trust gigachat"


_LARGEST = 16 * 1024 * 1024

_UNKNOWN = "unknown"

_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----[\sA-Za-z0-9+/=]+-----END CERTIFICATE-----")


@dataclass(frozen=True)
class Certificate:
    """A certificate that was taken in.

    Attributes:
        fingerprint: SHA-256 of the DER, in hex without colons.
        subject: whom it is for, such as ``"Russian Trusted Root CA"``.
        expires: as OpenSSL writes it, such as ``"Feb 27 21:04:15 2032 GMT"``.
        path: the file that holds it.
    """

    fingerprint: str
    subject: str
    expires: str
    path: Path

    @property
    def expires_at(self) -> float | None:
        """When it expires, in Unix time; None if it is no authority, so that nothing is known."""
        if self.expires == _UNKNOWN:
            return None
        return ssl.cert_time_to_seconds(self.expires)


def bundle(path: str | os.PathLike[str]) -> str:
    """The certificates of a file in PEM or DER, as PEM.

    Raises:
        ConnectionFailed: it cannot be read or has none; not retryable.
    """
    try:
        certificates = _certificates(_files.read(Path(path).expanduser(), most=_LARGEST))
        problem = "" if certificates else "holds no certificate in PEM or DER"
    except OSError as error:
        let_through(error)
        certificates = []
        problem = f"cannot be read: {error.strerror}"
    if problem:
        raise ConnectionFailed(
            f"the certificate bundle {os.fspath(path)!r} {problem}; check ca_bundle and "
            "GIGACHAT_CA_BUNDLE_FILE",
            retryable=False,
        )
    return "".join(map(_as_pem, certificates))


def warn_unverified(name: str) -> None:
    """Warn that a client believes any server; each time, unless the user's filters say else."""
    warnings.simplefilter("always", UnverifiedTLSWarning, append=True)
    warnings.warn(
        f"{name} was told not to verify certificates: whoever sits between can read the key and "
        f"the prompts. `{COMMAND} --download` makes that unnecessary",
        UnverifiedTLSWarning,
        stacklevel=3,
    )


def colons(fingerprint: str) -> str:
    """A fingerprint as certificates' viewers show it.

    >>> colons("d26d2d")
    'D2:6D:2D'
    """
    return ":".join(re.findall("..", fingerprint.upper()))


def _certificates(data: bytes) -> list[bytes]:
    """The certificates in ``data``, each in DER; none where one of them is broken."""
    import ssl

    try:
        blocks = [block.decode() for block in _PEM.findall(data)]
        found = [ssl.PEM_cert_to_DER_cert(block) for block in blocks] or [data]
        _reading_context(found)
    except (ssl.SSLError, ValueError, binascii.Error) as error:
        let_through(error)
        return []
    return found


def _reading_context(certificates: Iterable[bytes]) -> ssl.SSLContext:
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    for certificate in certificates:
        context.load_verify_locations(cadata=certificate)
    return context


def _as_pem(certificate: bytes) -> str:
    import ssl

    return ssl.DER_cert_to_PEM_cert(certificate)


def _check_stored(data: bytes) -> None:
    if not _certificates(data):
        raise ValueError(f"it holds no certificate; delete it, or run `{COMMAND} --remove`")


def _described(fingerprint: str, context: ssl.SSLContext, path: Path) -> Certificate:
    known: dict[str, Any] = next(iter(context.get_ca_certs()), {})
    names = dict(pair for group in known.get("subject", ()) for pair in group)
    subject = names.get("commonName") or names.get("organizationName") or "unknown"
    return Certificate(fingerprint, subject, str(known.get("notAfter", _UNKNOWN)), path)


def tls_context(trust: Trust) -> ssl.SSLContext:
    """A context for ``trust``; the same one for the same trust, for making one takes 30 ms."""
    bundle = _environ.lookup("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE") or certifi.where()
    return _context(trust, bundle, current())


@lru_cache(maxsize=64)
def _context(trust: Trust, bundle: str, _process: Process) -> ssl.SSLContext:
    # One for each process: of OpenSSL's locks in it, threads of the parent may hold some.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.sslsocket_class = BoundedTLS
    if not trust.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context
    try:
        if os.path.isdir(bundle):
            context.load_verify_locations(capath=bundle)
        else:
            # OpenSSL would wait at a pipe, whatever the deadline.
            _files.open_plain(bundle).close()
            context.load_verify_locations(cafile=bundle)
    except (OSError, ssl.SSLError) as error:
        let_through(error)
        reason = getattr(error, "strerror", None) or "it holds no certificate"
        raise errors.ConnectionFailed(
            f"the certificate bundle {bundle!r} cannot be read: {reason}; "
            "check REQUESTS_CA_BUNDLE and CURL_CA_BUNDLE",
            retryable=False,
        ) from error
    if trust.extra is not None:
        context.load_verify_locations(cadata=trust.extra)
    return context
