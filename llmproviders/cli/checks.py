"""What ``llmproviders doctor`` checks, and the remedy for each problem."""

from __future__ import annotations

import os
import re
import socket
import sys
import time
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from enum import Enum
from importlib import metadata
from pathlib import Path
from urllib.parse import urlsplit

from .. import _environment as _places
from .._account.keys import KeyFile, KeyVariable
from .._account.ledger import Ledger
from .._account.tokens import TokenFile
from .._http.certificates import (
    bundle,
    certificates_in,
    reading_context,
    tls_context,
    trusts,
    unix_time,
)
from .._http.error_map import parse_http_date
from .._http.transport import Transport
from .._redact import redact
from .._request import ChatRequest
from .._runtime import files as _files
from .._runtime.scope import SYSTEM_CLOCK, CancelScope
from .._signals import let_through
from ..config._settings import ConfigError, Configuration, ProviderSettings
from ..errors import (
    AuthenticationError,
    BlockedError,
    ConnectionFailed,
    InvalidRequestError,
    LLMError,
    MissingAuthError,
    ProtocolError,
    ProviderTimeout,
    ServerError,
)
from ..failover._health import FileStore, parts_of
from ..provider import Provider
from ..providers import REGISTRY, broken, every, ignored
from ..providers._local_servers import local_server_at
from ..providers.gigachat import _root
from ..providers.gigachat._provider import GigaChat
from .overview import TROUBLESHOOTING
from .providers import ask_one, why_unusable

_PATIENCE_S = 15.0

_PROXY_PATIENCE_S = 5.0

_CLOCK_WARN_S = 30.0

_CLOCK_FAIL_S = 300.0

_EXPIRY_WARN_S = 60 * 24 * 3600.0

_DEFAULT_PORTS = {"http": 80, "https": 443}

_SOCKS_PORT = 1080

_MOST_MODELS = 8

_LIMITS = frozenset(("per_minute", "per_day"))

_NOT_THERE = (404, 405, 501)

_VERSION = re.compile(r"/v\d+\w*$")

# What OpenSSL says of a certificate that no authority makes valid.
_OTHER_HOST = re.compile(r"[Hh]ostname|address mismatch|not valid for")
_OTHER_TIME = re.compile(r"expired|not yet valid")

_RESOLVING_HERE = {"socks4": "socks4a", "socks5": "socks5h"}


class Level(Enum):
    """How serious a finding is."""

    OK = "OK"
    WARN = "WARN"
    FAIL = "FAIL"


@dataclass(frozen=True)
class Finding:
    """What a check found.

    Attributes:
        level: a ``FAIL`` keeps something from working, a ``WARN`` may do so one day.
        topic: what was looked at.
        text: what was found.
        remedy: what to do about it.
    """

    level: Level
    topic: str
    text: str
    remedy: str = ""


def ok(topic: str, text: str) -> Finding:
    """A check that found no problem."""
    return Finding(Level.OK, topic, text)


def warn(topic: str, text: str, remedy: str) -> Finding:
    """Something that works but needs attention."""
    return Finding(Level.WARN, topic, text, remedy)


def fail(topic: str, text: str, remedy: str) -> Finding:
    """A problem that keeps something from working."""
    return Finding(Level.FAIL, topic, text, remedy)


def check_python() -> Iterator[Finding]:
    """Which Python this is, and whether the libraries are new enough."""
    yield ok("Python", ".".join(map(str, sys.version_info[:3])))
    try:
        required = metadata.requires("llmproviders") or []
    except metadata.PackageNotFoundError:
        yield warn("libraries", "not installed as a package", "pip install llmproviders")
        return
    found = []
    for requirement in required:
        match = re.match(r"([\w.-]+)[^;]*?>=\s*([\d.]+)[^;]*(?:;(.*))?$", requirement)
        if match is None or "extra" in (match[3] or "") or "python_version" in (match[3] or ""):
            continue
        name, oldest = match[1], match[2]
        try:
            installed = metadata.version(name)
        except metadata.PackageNotFoundError:
            yield fail("libraries", f"{name} is missing", f"pip install '{name}>={oldest}'")
            continue
        if _numbers(installed) < _numbers(oldest):
            text = f"{name} {installed} is older than {oldest}"
            yield fail("libraries", text, f"pip install -U '{name}>={oldest}'")
        found.append(f"{name} {installed}")
    yield ok("libraries", ", ".join(found))


def check_configuration(configuration: Configuration) -> Iterator[Finding]:
    """Where the configuration is, and what should be fixed in it."""
    names = ", ".join(item.name for item in configuration.providers)
    source = configuration.path or "none; the environment is used"
    if names:
        yield ok("configuration", f"{source}; providers: {names}")
    else:
        text = f"{source}; it names no provider, so there is nobody to ask"
        remedy = "set a key, or write a file: llmproviders config init"
        if configuration.path:
            remedy = 'set a key, or add a [[provider]] to the file: remove the "# " before one'
        yield fail("configuration", text, remedy)
    for warning in configuration.warnings:
        problem, _, remedy = warning.partition("; do: ")
        yield warn("configuration", problem, remedy)


def check_plug_ins() -> Iterator[Finding]:
    """The providers of installed packages, including those that do not load."""
    others = {
        name: why_unusable(ProviderSettings(kind, type=name))
        for name, kind in every().items()
        if name not in REGISTRY
    }
    usable = [name for name, why in others.items() if why is None]
    if usable:
        yield ok("plug-ins", ", ".join(usable))
    for name, why in others.items():
        if why is not None:
            yield warn("plug-ins", f"{name}: {why}", "tell the author of this provider")
    for plug_in in broken().values():
        package = plug_in.package or "PACKAGE"
        remedy = f"pip install -U {package}, or remove it: pip uninstall {package}"
        yield warn("plug-ins", plug_in.why, remedy)
    for plug_in in ignored():
        remedy = 'name its class as type = "module:Class", or ask its author for another name'
        yield warn("plug-ins", plug_in.why, remedy)


def check_provider(settings: ProviderSettings, *, offline: bool, live: bool) -> Iterator[Finding]:
    """One provider: its key, its certificates, its connection, and its clock."""
    try:
        yield from _check_provider(settings, offline=offline, live=live)
    # A third-party class may raise anything.
    except Exception as error:  # noqa: BLE001
        let_through(error)
        text = f"a check failed: {type(error).__name__}: {error}"
        yield fail(settings.name, text, "tell the author of this provider")


def _check_provider(settings: ProviderSettings, *, offline: bool, live: bool) -> Iterator[Finding]:
    name = settings.name
    if not settings.kind.working:
        yield warn(name, "this service was not working at last check", "list another one first")
    try:
        provider = settings.make()
    except ConfigError as error:
        asked_wrong = isinstance(error.__cause__, (ValueError, LLMError))
        remedy = "correct the configuration" if asked_wrong else "tell the author of this provider"
        yield fail(name, str(error), remedy)
        return
    with provider:
        yield from _check_key(name, settings, provider)
        usable = yield from _check_certificates(name, provider)
        if usable and not offline:
            connections = list(_check_connections(settings, provider))
            yield from connections
            if all(finding.level is not Level.FAIL for finding in connections):
                yield from _check_models(settings, provider)
    if live:
        result = ask_one(settings)
        if result.error is None:
            yield ok(f"{name}, reply", str(result))
        else:
            yield fail(f"{name}, reply", str(result), f"look it up in {TROUBLESHOOTING}")


def check_proxies(providers: Iterable[ProviderSettings], *, offline: bool) -> Iterator[Finding]:
    """The proxies in use, each once: whether they answer, and which side resolves names."""
    ways: dict[str, str] = {}
    refused: dict[str, None] = {}
    for settings in providers:
        try:
            provider = settings.make()
            transport = _transport_of(provider)
        except Exception as error:  # noqa: BLE001
            let_through(error)
            # The checks of the provider and of its certificates say what is wrong.
            continue
        with provider:
            try:
                for url in _addresses(provider):
                    proxy = transport.proxy_for(url) if transport is not None else None
                    if proxy is not None:
                        ways.setdefault(proxy, url)
            except (LLMError, ValueError) as error:
                refused.setdefault(str(error))
    for text in refused:
        yield fail("proxy", text, "correct the proxy's address, or remove it")
    if not ways and not refused:
        yield ok("proxy", "none")
    for proxy, url in ways.items():
        yield from _check_proxy(proxy, urlsplit(url).hostname or "", offline=offline)


def check_state(configuration: Configuration) -> Iterator[Finding]:
    """The files that are kept between runs: where they are, and who can read them."""
    caches = {
        _places.token_cache() if value.value == "user" else Path(value.value)
        for settings in configuration.providers
        if (value := settings.given.get("token_cache")) is not None
    }
    why = _places.why_stateless()
    if why is not None:
        text = f"{why}, so nothing is kept between runs"
        yield warn("state", text, "set HOME to a folder of your own")
        caches.discard(_places.token_cache())
    for path in sorted(caches):
        try:
            TokenFile(path, "").read()
        except _files.Unusable as trouble:
            # The user may have named any file, even /dev/null.
            ours = path == _places.token_cache()
            remedy = f"rm {path}" if ours else "set token_cache to another file"
            yield fail("token cache", str(trouble), remedy)
        else:
            yield from _check_folder("token cache", path)
    yield from _check_usage(configuration)
    health = configuration.failover.get("health")
    if health is not None and health.value is not None and not _places.is_nowhere(health.value):
        store = FileStore(health.value)
        wrong = store.trouble()
        if wrong is not None:
            ours = store.path == _places.health_file()
            remedy = f"rm {store.path}" if ours else "name another file as health"
            yield fail("health file", wrong, remedy)
            return
        yield from _check_folder("health file", store.path)
        resting = [key for key, record in store.read().items() if record.until > time.time()]
        for key in resting:
            name, _, _, credential = parts_of(key)
            of_key = f" for the key {credential[:8]}" if credential else ""
            text = f"{name} is put last for a while{of_key}, since it failed"
            yield warn(
                "health file", text, "llmproviders health shows it, health --reset forgets it"
            )


def _check_usage(configuration: Configuration) -> Iterator[Finding]:
    """The file of counts: whether the limits hold across processes."""
    topic, path = "usage file", _places.usage_file()
    limited = any(not _LIMITS.isdisjoint(settings.given) for settings in configuration.providers)
    why = _places.why_unwritable(path)
    if why is not None:
        if limited:
            text = f"{why}, so each process keeps to its limits by itself"
            yield fail(topic, text, "set HOME to a folder of your own")
    elif os.path.lexists(path):
        with closing(Ledger(path)) as ledger:
            # Without a statement that writes, SQLite begins even in a file that it can only read.
            ledger.change(lambda db: db.execute("DELETE FROM days WHERE 0"), CancelScope())
        if ledger.trouble is None:
            yield from _check_folder(topic, path)
            return
        so = ", so each process keeps to its limits by itself" if limited else ""
        text = f"{path} cannot be used{so}: {ledger.trouble}"
        remedy = f"let this user alone read and write it, or start over: rm {path}*"
        yield (fail if limited else warn)(topic, text, remedy)
    elif limited:
        yield from _check_folder(topic, path)


def _check_key(name: str, settings: ProviderSettings, provider: Provider) -> Iterator[Finding]:
    topic = f"{name}, key"
    try:
        provider.check_credentials()
    except LLMError as error:
        yield fail(topic, str(error), _key_remedy(settings, provider))
        return
    source = settings.key_from()
    # A program on this machine needs no key, so that nothing is missing if one is held back.
    why = None if settings.server else settings.why_held_back()
    if why is not None:
        yield warn(topic, why, _key_remedy(settings, provider))
    else:
        yield ok(topic, f"from {source}" if source is not None else "none needed")


def _key_remedy(settings: ProviderSettings, provider: Provider) -> str:
    key = settings.key()
    if key is not None and isinstance(key.value, (KeyFile, KeyVariable)):
        try:
            key.value.read()
        except (MissingAuthError, AuthenticationError) as error:
            return _source_remedy(key.value, error)
    if settings.why_held_back() is not None:
        return "name its variable with api_key_env in the configuration if that server may have it"
    variable = next(iter(settings.kind.environment_of("api_key")), None)
    if variable is not None and provider.foreign_address("api_key") is not None:
        return "name the variable of its key with api_key_env in the configuration"
    return f"set {variable}, or api_key_file in the configuration" if variable else "see above"


def _source_remedy(source: KeyFile | KeyVariable, error: LLMError) -> str:
    """What to do about a file or variable that has no key."""
    if isinstance(source, KeyVariable):
        return f"set {source.name} to the key, and nothing else"
    if isinstance(error.__cause__, PermissionError):
        return f"let this user read it: chown USER {source.path}; or chgrp GROUP, and chmod 640"
    return f"write the key, and nothing else, into {source.path}"


def _refused_key_remedy(settings: ProviderSettings, provider: Provider) -> str:
    held = provider.held_back("api_key")
    if settings.given.get("api_key") is None and held is not None:
        return f'if it is the right key, name it in the configuration: api_key_env = "{held}"'
    source = settings.key_from()
    return _key_remedy(settings, provider) if source is None else f"replace the key there: {source}"


def _check_certificates(name: str, provider: Provider) -> Generator[Finding, None, bool]:
    """The certificates that are trusted; returns whether connections can be made with them."""
    topic = f"{name}, certificates"
    if not any(url.startswith("https:") for url in _addresses(provider)):
        return True
    try:
        trust = provider.trust()
        tls_context(trust)
    except (LLMError, OSError) as error:
        convert = "convert it, " if "openssl" in str(error) else ""
        yield fail(topic, str(error), f"{convert}name another bundle, or remove the setting")
        return False
    if not trust.verify:
        yield warn(topic, "not verified: anybody can pose as the service", "remove verify")
        return True
    if trust.ca_bundle is not None:
        yield from check_bundle(topic, str(trust.ca_bundle), trust.bundle_named)
    if trust.system:
        yield ok(topic, "the operating system's store")
    elif not isinstance(provider, GigaChat):
        yield ok(topic, "the usual authorities")
    elif trust.extra is not None:
        yield from check_expiry(topic, _root.installed())
    elif trusts(trust, _root.KNOWN_FINGERPRINT):
        yield ok(topic, "the usual authorities, GigaChat's among them")
    elif trust.ca_bundle is None:
        text = "GigaChat's authority, the Russian Trusted Root CA, is not trusted"
        remedy = f"{_root.COMMAND} --download"
        if _places.why_unwritable(_root.folder() / "file"):
            remedy = f"get it from {_root.PAGE_URL} and name the file as ca_bundle"
        yield fail(topic, text, remedy)
    return True


def check_bundle(topic: str, path: str, named: str = "ca_bundle") -> Iterator[Finding]:
    """The authorities in a file that the settings name: whether any of them is valid."""
    known = reading_context(certificates_in(bundle(path, named).encode())).get_ca_certs()
    valid = [one for one in known if unix_time(str(one["notAfter"])) > time.time()]
    if valid:
        yield ok(topic, "those of ca_bundle")
    elif known:
        yield fail(topic, f"{path}: it expired on {known[0]['notAfter']}", "name a newer bundle")
    else:
        text = f"{path} holds the certificate of a server, not of an authority"
        yield warn(topic, text, "name the file of the authority that issued it")


def check_expiry(topic: str, installed: Iterable[_root.Certificate]) -> Iterator[Finding]:
    """The installed authorities: whether they are valid, and when they expire."""
    for certificate in installed:
        text = f"{certificate.subject}, until {certificate.expires}"
        if certificate.expires_at is None:
            text = f"{certificate.path} holds no certificate authority"
            yield fail(topic, text, f"{_root.COMMAND} --remove, then --download")
            continue
        left = certificate.expires_at - time.time()
        if left < _EXPIRY_WARN_S:
            tell = fail if left < 0 else warn
            yield tell(topic, text, f"{_root.COMMAND} --file FILE --fingerprint SHA256")
        else:
            yield ok(topic, text)


def _check_connections(settings: ProviderSettings, provider: Provider) -> Iterator[Finding]:
    name = settings.name
    topic = f"{name}, connection"
    transport = _transport_of(provider)
    if transport is None:
        return
    dates = []
    for url in _addresses(provider):
        scope = CancelScope.lasting(_PATIENCE_S, clock=SYSTEM_CLOCK)
        begin = time.monotonic()
        try:
            with closing(transport.probe(url, scope)) as reply:
                date = parse_http_date(reply.headers.get("date"))
        except LLMError as failure:
            error = provider.describe_error(failure, ChatRequest(()))
            yield fail(topic, f"{redact(url)}: {error}", _connection_remedy(error, provider))
            continue
        if date is not None:
            dates.append(time.time() - date)
        yield ok(topic, f"{redact(url)} answers after {time.monotonic() - begin:.1f} s")
    if dates:
        yield from _check_clock(f"{name}, clock", max(dates, key=abs))


def _connection_remedy(error: LLMError, provider: Provider) -> str:
    server = local_server_at(provider.base_url, provider.name)
    if server is not None and isinstance(error, ConnectionFailed):
        return f"start it: {server.start}"
    if isinstance(error, ConnectionFailed) and error.detail == "certificate":
        if isinstance(provider, GigaChat):
            return "do what the message says"
        said = str(error)
        if _OTHER_HOST.search(said):
            return "check base_url: the certificate is that of another host"
        if _OTHER_TIME.search(said):
            return "check this machine's clock; if it is right, the server needs a new certificate"
        return (
            "if that is expected, name the file of its authority: ca_bundle, REQUESTS_CA_BUNDLE; "
            'or, if the system trusts it: trust = "system", and pip install '
            '"llmproviders[truststore]"'
        )
    if isinstance(error, (ConnectionFailed, ProviderTimeout)):
        return "check the network, the proxy and base_url"
    return "check base_url"


def _check_models(settings: ProviderSettings, provider: Provider) -> Iterator[Finding]:
    """Whether the service lists its models, which is free, and has the selected one."""
    if type(provider).list_models is Provider.list_models:
        return
    topic = f"{settings.name}, models"
    try:
        names = provider.list_models()
    except (MissingAuthError, AuthenticationError) as error:
        # The check of the key reports a missing key.
        if error.status_code is not None:
            yield fail(topic, str(error), _refused_key_remedy(settings, provider))
        return
    except LLMError as error:
        path, _, query = provider.base_url.partition("?")
        is_whole = _VERSION.search(path) is not None
        if isinstance(error, (InvalidRequestError, ProtocolError, BlockedError)):
            if error.status_code in _NOT_THERE and (query or is_whole):
                yield warn(topic, str(error), "see whether it answers: llmproviders doctor --live")
                return
        elif is_whole or error.status_code is not None or not isinstance(error, ServerError):
            yield warn(topic, str(error), "try again later")
            return
        # A server that is asked at its root may say in words that it runs.
        remedy = f"base_url is {redact(provider.base_url)}: it usually ends in /v1"
        yield fail(topic, str(error), "check base_url" if is_whole else remedy)
        return
    model = settings.in_force()["model"].value
    server = local_server_at(provider.base_url, provider.name)
    shown = ", ".join(names[:_MOST_MODELS]) + (", ..." if len(names) > _MOST_MODELS else "")
    pull = server.pull.format(provider.model or "MODEL") if server and server.pull else ""
    if not names:
        yield warn(topic, "the server lists none", pull or "load a model there")
    elif _has(names, model, provider) or (server is not None and server.any_model):
        yield ok(topic, f"{len(names)}: {shown}")
    elif provider.model is None:
        yield fail(topic, f"no model is named; there are {shown}", "name one of these as model")
    else:
        text = f"there is no model {model}; there are {shown}"
        yield fail(topic, text, pull or "name one of these as model")


def _has(names: list[str], model: str | None, provider: Provider) -> bool:
    # Ollama's names end in a tag, and the usual one can be left out.
    return model is None or not {model, f"{model}:latest", provider.get_model(model)}.isdisjoint(
        names
    )


def _check_clock(topic: str, ahead_s: float) -> Iterator[Finding]:
    text = f"{abs(ahead_s):.0f} s {'ahead of' if ahead_s > 0 else 'behind'} the service's"
    remedy = "set this machine's clock, for instance: timedatectl set-ntp true"
    if abs(ahead_s) > _CLOCK_FAIL_S:
        yield fail(topic, text, remedy)
    elif abs(ahead_s) > _CLOCK_WARN_S:
        yield warn(topic, text, remedy)
    else:
        yield ok(topic, "in step with the service's")


def _check_proxy(proxy: str, host: str, *, offline: bool) -> Iterator[Finding]:
    parts = urlsplit(proxy)
    shown = redact(proxy)
    here = parts.scheme in _RESOLVING_HERE
    if here:
        text = f"{shown}: names are resolved on this machine"
        yield warn(
            "proxy", text, f"write {_RESOLVING_HERE[parts.scheme]}:// to leave that to the proxy"
        )
    else:
        yield ok("proxy", f"{shown}: the proxy resolves names")
    if offline:
        return
    port = parts.port or _DEFAULT_PORTS.get(parts.scheme, _SOCKS_PORT)
    try:
        socket.create_connection((parts.hostname or "", port), _PROXY_PATIENCE_S).close()
    except OSError as error:
        yield fail("proxy", f"{shown} cannot be reached: {error}", "start it, or name another one")
        return
    if here:
        try:
            socket.getaddrinfo(host, None)
        except OSError:
            yield fail("proxy", f"this machine cannot resolve {host}", "as above")


def _check_folder(topic: str, path: Path) -> Iterator[Finding]:
    closed = _places.closed_folder(path)
    if closed is not None:
        text = f"{path} cannot be written: {closed} is closed"
        yield fail(topic, text, f"chmod u+w {closed}, or name a file in a folder of your own")
    elif path.exists():
        yield ok(topic, f"{path} (mode {path.stat().st_mode & 0o777:04o})")
    else:
        yield ok(topic, f"{path} (not there yet)")


def _addresses(provider: Provider) -> list[str]:
    """The addresses of its requests."""
    auth_url = getattr(provider, "auth_url", None)
    return [provider.base_url] + ([auth_url] if auth_url else [])


def _transport_of(provider: Provider) -> Transport | None:
    """The transport of its requests; None if it has a custom one."""
    transport = provider.make_transport()
    return transport if isinstance(transport, Transport) else None


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])
