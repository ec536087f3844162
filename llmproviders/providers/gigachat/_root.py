"""Certificate authorities that one provider trusts in addition to the usual ones.

GigaChat's hosts have certificates under the "Russian Trusted Root CA", which neither certifi nor
most systems know. Certificates in the user's configuration folder are pinned: only one whose
fingerprint is known or was given by the user is stored, and it is checked against its fingerprint
each time it is read.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from types import ModuleType
from typing import Any

from ..._environment import config_folder, why_unwritable
from ..._http.error_rules import CERTIFICATE_HINTS, UNKNOWN_AUTHORITY
from ..._http.types import HTTPRequest, Limits, Timeout, Trust
from ..._log import logger
from ..._runtime import files as _files
from ..._runtime.files import Unusable
from ..._runtime.scope import CancelScope
from ...errors import InvalidRequestError, LLMError

COMMAND = "llmproviders trust gigachat"

#: SHA-256 of the Russian Trusted Root CA in DER; valid from 2022-03-01 to 2032-02-27.
KNOWN_FINGERPRINT = "d26d2d0231b7c39f92cc738512ba54103519e4405d68b5bd703e9788ca8ecf31"

#: The certificate itself, and the page that offers it to people.
DOWNLOAD_URL = "https://gu-st.ru/content/lending/russian_trusted_root_ca_pem.crt"
PAGE_URL = "https://www.gosuslugi.ru/crt"


@dataclass(frozen=True)
class Certificate:
    """An installed certificate.

    Attributes:
        fingerprint: SHA-256 of the DER, in hex without colons.
        subject: its subject, such as ``"Russian Trusted Root CA"``.
        expires: its end in OpenSSL's format, such as ``"Feb 27 21:04:15 2032 GMT"``.
        path: the file that holds it.
    """

    fingerprint: str
    subject: str
    expires: str
    path: Path

    @property
    def expires_at(self) -> float | None:
        """When it expires, in Unix time; None if it is not an authority."""
        return None if self.expires == "unknown" else _certificates().unix_time(self.expires)

    @classmethod
    def of(cls, fingerprint: str, der: bytes, path: Path) -> Certificate:
        """Describe a certificate."""
        described = _certificates().reading_context([der]).get_ca_certs()
        known: dict[str, Any] = next(iter(described), {})
        subject = _certificates().name_in(known.get("subject"))
        return cls(fingerprint, subject, str(known.get("notAfter", "unknown")), path)


def colons(fingerprint: str) -> str:
    """A fingerprint in the usual notation.

    >>> colons("d26d2d")
    'D2:6D:2D'
    """
    return ":".join(re.findall("..", fingerprint.upper()))


def _certificates() -> ModuleType:
    """The module that reads certificates; it loads ``ssl``, as creating a provider does."""
    from ..._http import certificates

    return certificates


def _check_stored(data: bytes) -> None:
    if not _certificates().certificates_in(data):
        raise ValueError(f"it holds no certificate; delete it, or run `{COMMAND} --remove`")


def _check_authority(der: bytes) -> None:
    """Check that a certificate is an authority and valid now.

    Raises:
        InvalidRequestError: it is not.
    """
    known = next(iter(_certificates().reading_context([der]).get_ca_certs()), None)
    if known is None:
        raise InvalidRequestError(
            "it is the certificate of a server, not of an authority; nothing was changed"
        )
    begin, end = (_certificates().unix_time(known[name]) for name in ("notBefore", "notAfter"))
    if not begin <= time.time() <= end:
        what = f"it expired on {known['notAfter']}"
        if time.time() < begin:
            what = f"it begins on {known['notBefore']}: check this machine's clock"
        raise InvalidRequestError(f"it is not valid now: {what}; nothing was changed")


def folder() -> Path:
    """The folder of the certificates that GigaChat trusts."""
    return config_folder() / "trust" / "gigachat"


def install(
    source: bytes | str | os.PathLike[str], *, fingerprint: str | None = None
) -> Certificate:
    """Install a certificate authority, from then on trusted only for GigaChat's hosts.

    Args:
        source: the certificate's content, or a file's path; PEM or DER. If a file has several
            certificates, the one with the right fingerprint is used.
        fingerprint: its SHA-256, with or without colons; None: the known one.

    Raises:
        InvalidRequestError: it has no certificate with that fingerprint, or that one is not an
            authority or not valid now.
        OSError: the file cannot be read, or the configuration folder cannot be written.
    """
    data = (
        source if isinstance(source, bytes) else _files.read(source, most=_certificates().LARGEST)
    )
    wanted = KNOWN_FINGERPRINT if fingerprint is None else _plain(fingerprint)
    found = {sha256(der).hexdigest(): der for der in _certificates().certificates_in(data)}
    if not found:
        convert = _certificates().conversion_of(
            data, "FILE" if isinstance(source, bytes) else os.fspath(source)
        )
        raise InvalidRequestError(
            "there is no certificate in it; "
            + (
                convert
                or "the file must be in PEM (it begins with -----BEGIN CERTIFICATE-----) or in DER"
            )
        )
    if wanted not in found:
        raise InvalidRequestError(
            "it is not the expected certificate: its SHA-256 fingerprint is "
            f"{' and '.join(map(colons, found))}, not {colons(wanted)}; nothing was changed"
        )
    _check_authority(found[wanted])
    path = folder() / f"{wanted}.pem"
    why = why_unwritable(path)
    if why is not None:
        raise OSError(f"{why}, so it cannot be kept; set HOME, or name it with ca_bundle")
    try:
        _files.replace_private(path, _certificates().as_pem(found[wanted]).encode(), _check_stored)
    except Unusable as trouble:
        raise OSError(str(trouble)) from trouble
    return Certificate.of(wanted, found[wanted], path)


def download(
    url: str = DOWNLOAD_URL,
    *,
    fingerprint: str | None = None,
    proxy: str | None = None,
    timeout: Timeout | None = None,
) -> Certificate:
    """Download and install a certificate authority; arguments as for :func:`install`.

    Raises:
        LLMError: it cannot be fetched.
        InvalidRequestError: the download is not the expected certificate.
        OSError: the configuration folder cannot be written.
    """
    from ..._http.transport import Transport

    transport = Transport(
        trust=Trust(extra=pinned() or None), limits=Limits(reply=_certificates().LARGEST)
    )
    try:
        call = HTTPRequest("GET", url, headers={"Accept": "*/*"})
        with closing(transport.open(call, CancelScope(), timeout=timeout, proxy=proxy)) as reply:
            data = reply.read()
    finally:
        transport.close()
    return install(data, fingerprint=fingerprint)


def installed() -> list[Certificate]:
    """The installed certificates that are unchanged."""
    return [Certificate.of(path.stem, der, path) for path, der in _intact(_stored())]


def remove() -> list[Path]:
    """Remove every installed certificate; return the deleted files.

    Raises:
        OSError: a file cannot be deleted.
    """
    gone = _stored()
    for path in gone:
        path.unlink()
    return gone


def pinned() -> str:
    """The installed certificates, as PEM, without any that were changed since."""
    return "".join(_certificates().as_pem(der) for _, der in _intact(_stored()))


def advice(error: LLMError, *, trusted: bool) -> str:
    """Describe a certificate that is not trusted, and what to do about it.

    Args:
        error: the connection's error.
        trusted: whether the root is already installed.
    """
    said = str(error)
    for hint in (UNKNOWN_AUTHORITY, *CERTIFICATE_HINTS.values()):
        said = said.removesuffix(hint)
    if "ostname" in said or "address mismatch" in said or "not valid for" in said:
        return f"{said}; check base_url and auth_url"
    if "expired" in said or "not yet valid" in said:
        return f"{said}; check this machine's clock"
    others = (
        "so this certificate is not GigaChat's: a proxy or a firewall on the way shows its own. "
        "Ask whoever runs it for the file of its authority, and pass that with ca_bundle="
    )
    if trusted:
        return f"{said}. The Russian Trusted Root CA is trusted already, {others}"
    way = f"run `{COMMAND} --download` once (or --file FILE), or pass ca_bundle="
    way += " (GIGACHAT_CA_BUNDLE_FILE)"
    if "issued by" in said and "Russian Trusted" not in said:
        return (
            f"{said}. GigaChat's own is issued by the Russian Trusted Root CA, {others}. "
            f"For GigaChat's own certificate, {way}"
        )
    return f"{said}. GigaChat's hosts need the Russian Trusted Root CA: {way}"


def _plain(fingerprint: str) -> str:
    plain = re.sub(r"[\s:]", "", fingerprint).lower()
    if not re.fullmatch("[0-9a-f]{64}", plain):
        raise InvalidRequestError(
            "a SHA-256 fingerprint has 64 hex digits, with or without colons between them"
        )
    return plain


def _stored() -> list[Path]:
    return sorted(folder().glob("*.pem"))


def _intact(paths: Iterable[Path]) -> Iterator[tuple[Path, bytes]]:
    for path in paths:
        try:
            certificates = _certificates().certificates_in(_files.read_private(path))
        except Unusable as trouble:
            logger.warning("the certificate %s is not used: %s", path, trouble)
            continue
        if [sha256(der).hexdigest() for der in certificates] == [path.stem]:
            yield path, certificates[0]
        else:
            logger.warning(
                "the certificate %s is not used: its fingerprint is not the one that it was "
                "installed with; run `%s` again",
                path,
                COMMAND,
            )
