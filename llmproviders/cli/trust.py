"""``llmproviders trust``: the certificate authority that GigaChat's hosts need."""

from __future__ import annotations

import click

from .._printable import one_line
from ..errors import InvalidRequestError, LLMError
from ..providers.gigachat import _root
from .arguments import FILE
from .exits import CommandError, Exit, exit_of_error
from .notes import put, say


@click.command(
    "trust", epilog="Example: llmproviders trust gigachat --file russian_trusted_root_ca.cer"
)
@click.argument("provider", type=click.Choice(["gigachat"], case_sensitive=False))
@click.option("--file", type=FILE, metavar="FILE", help="Read it from FILE, PEM or DER.")
@click.option("--download", is_flag=True, help="Fetch it.")
@click.option("--url", metavar="URL", default=_root.DOWNLOAD_URL, help="Where to fetch it.")
@click.option("--proxy", metavar="URL", help="Proxy for fetching it.")
@click.option(
    "--fingerprint", metavar="SHA256", help="Fingerprint of a successor to the known certificate."
)
@click.option("--list", "listing", is_flag=True, help="Show the trusted certificates.")
@click.option("--remove", is_flag=True, help="Remove the trusted certificates.")
def command(
    provider: str,  # noqa: ARG001 - one there is
    file: str | None,
    download: bool,
    url: str,
    proxy: str | None,
    fingerprint: str | None,
    listing: bool,
    remove: bool,
) -> None:
    """Trust the certificate authority that GigaChat needs.

    The Russian Trusted Root CA is copied into the user's configuration folder if its fingerprint is
    the known one. From then on GigaChat, and no other provider, trusts it. It is available at
    https://www.gosuslugi.ru/crt.
    """
    if sum((file is not None, download, listing, remove)) != 1:
        raise click.UsageError("Give one of --file FILE, --download, --list, --remove.")
    try:
        if file is not None:
            _show(_root.install(file, fingerprint=fingerprint))
        elif download:
            _show(_downloaded(url, fingerprint, proxy))
        elif remove:
            removed = _root.remove()
            for path in removed:
                put(f"removed {path}")
            if not removed:
                say("no certificate is installed, so there is nothing to remove")
        else:
            certificates = _root.installed()
            for certificate in certificates:
                _show(certificate)
            if not certificates:
                say("no certificate is installed yet")
    except OSError as error:
        if isinstance(error, ConnectionError):
            raise
        said = f"{error.filename or file}: {error.strerror}" if error.strerror else str(error)
        raise CommandError(said, Exit.USAGE) from error


def _downloaded(url: str, fingerprint: str | None, proxy: str | None) -> _root.Certificate:
    try:
        return _root.download(url, fingerprint=fingerprint, proxy=proxy)
    except InvalidRequestError:  # it arrived, but is another certificate
        raise
    except LLMError as error:
        raise CommandError(
            f"the certificate could not be fetched from {url}: {error}\nDownload it with a browser "
            f"at {_root.PAGE_URL}, then run: llmproviders trust gigachat --file FILE",
            exit_of_error(error),
        ) from error


def _show(certificate: _root.Certificate) -> None:
    put(one_line(certificate.subject))
    put(f"  until {certificate.expires}")
    put(f"  SHA-256 {_root.colons(certificate.fingerprint)}")
    put(f"  {certificate.path}")
