"""The settings of a provider, from its constructor and the environment."""

from __future__ import annotations

import os
import warnings
from collections.abc import Generator, Mapping
from importlib import import_module
from inspect import Signature
from typing import Any, ClassVar, Literal, Protocol, TypeVar
from urllib.parse import parse_qs, urlsplit

from .. import _environment as _environ
from .._checks import counted_headers, header_fields, shown, text
from .._http.types import (
    DEFAULT_TIMEOUT,
    HTTPRequest,
    Limits,
    Rate,
    Sender,
    Timeout,
    Trust,
    check_proxy,
    check_timeout,
    check_url,
    warn_unverified,
)
from .._redact import Secret, hidden, is_telling, is_telling_in_query, redact
from .._runtime.scope import CancelScope
from ..errors import InvalidRequestError, LLMError, MissingAuthError, retold
from .arguments import (
    Cert,
    client_certificate,
    file_path,
    instance,
    refuses_unknown,
    requests,
    signature_of,
    spell_out,
)
from .keys import Key, Site, belongs_to, find

Made = TypeVar("Made", bound="ProviderBase")


class Counter(Protocol):
    """Counts a provider's requests, and holds its limits; see ``quotas.Quota``."""

    def check_day(self, provider: Any, scope: CancelScope) -> None:
        """Check the daily limit, and count nothing."""

    def counted(
        self,
        stream: Generator[str, None, None],
        provider: Any,
        question: Any,
        scope: CancelScope,
        attempt: Any,
    ) -> Generator[str, None, None]:
        """Wrap a stream so that its request is counted, and sent once the limits allow it."""


USER_AGENT = (
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 "
    "(KHTML, like Gecko) Chrome/142.0.0.0 Safari/537.36"
)

# The wording of the table of errors for a refused key.
_REFUSED_KEY = "refused the key"

# What guest services send instead of a key.
_NO_KEYS = (None, "undefined", "Bearer null")

# They say what sends a request and how its reply is encoded, not what is asked.
_OF_THE_PROGRAM = ("accept", "accept-encoding", "connection", "user-agent")

_FALSE = ("0", "f", "false", "n", "no", "off")


_RENAMED = {
    "mend": "recover",
    "explain": "describe_error",
    "place": "slot",
    "lacks": "model_not_found",
    "takes": "supported_params",
}
"""Old names of a provider's hooks, which other packages may still use."""


class ProviderBase:
    """The settings of one provider; see ``Provider``, which uses them.

    Raises:
        InvalidRequestError: a value that no provider could use.
    """

    url: ClassVar[str]
    #: Argument -> environment variables that stand for it; the first that is set wins.
    environment: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    #: Argument for a key -> arguments for the addresses that it is sent to, if not base_url.
    key_goes_to: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    #: The sites of a service that has several, whose variables are also in ``environment``.
    sites: ClassVar[tuple[Site, ...]] = ()

    __signature__: ClassVar[Signature]
    _given: _Arguments

    def __new__(cls: type[Made], *args: Any, **kwargs: Any) -> Made:
        """Remember the arguments, so that a pickle can recreate the provider."""
        self = super().__new__(cls)
        self._given = _Arguments(args, kwargs)
        return self

    def __init_subclass__(cls, **arguments: Any) -> None:
        """Show the arguments in ``**`` in the signature, and accept hooks by their old names."""
        super().__init_subclass__(**arguments)
        for old, new in _RENAMED.items():
            if old in cls.__dict__:
                warnings.warn(
                    f"{cls.__name__}.{old} is now called {new}",
                    DeprecationWarning,
                    stacklevel=2,
                )
                if new not in cls.__dict__:
                    setattr(cls, new, cls.__dict__[old])
            elif new in cls.__dict__:
                # For super() calls by the old name in a subclass.
                setattr(cls, old, cls.__dict__[new])
        if "__init__" in cls.__dict__:
            spell_out(cls.__init__, super(cls, cls).__init__)
        # Otherwise it would be the signature of __new__.
        cls.__signature__ = signature_of(cls.__init__)

    @refuses_unknown("provider")
    def __init__(
        self,
        *,
        base_url: str | None = None,
        model: str | None = None,
        proxy: str | None = None,
        timeout: Timeout | None = None,
        session: requests.Session | None = None,
        headers: Mapping[str, str] | None = None,
        ca_bundle: str | os.PathLike[str] | None = None,
        verify: bool | None = None,
        cert: Cert | None = None,
        trust: Literal["system"] | None = None,
        per_minute: Rate | int | None = None,
        per_day: Rate | int | None = None,
        name: str | None = None,
        limits: Limits | None = None,
    ) -> None:

        # Calls never import anything: if a process forks during an import, the module's lock stays
        # locked in the child.
        import_module("encodings.punycode")
        import_module(".._http.transport", __package__)
        base_url, proxy = hidden(base_url), hidden(proxy)
        self.name = type(self).__name__ if name is None else text("name", name)
        self.base_url = self._address("base_url", base_url) or self.default_base_url().rstrip("/")
        self.model = self._setting("model", model)
        self.timeout = check_timeout(timeout, DEFAULT_TIMEOUT)
        found = self._setting("proxy", proxy)
        self._proxy = (check_proxy(found) if found else None, proxy is not None)
        self._session = instance("session", session, import_module("requests").Session)
        if session is not None:
            # requests would import it during the first request.
            import_module("netrc")
        self.headers = header_fields("headers", {} if headers is None else headers)
        self.ca_bundle = self._path("ca_bundle", ca_bundle)
        self.verify = self._is_verified(verify)
        if not self.verify:
            warn_unverified(self.name)
        self.cert = client_certificate(cert)
        if trust not in (None, "system"):
            raise InvalidRequestError(f'trust must be "system" or left out, not {shown(trust)}')
        self.system_trust = trust == "system"
        self.per_minute = per_minute
        self.per_day = per_day
        self._quota = self._make_quota()
        self._limits = instance("limits", limits, Limits) or Limits()

    def _make_quota(self) -> Counter | None:
        """Counts requests and enforces the limits; None if there is nothing to count."""
        counts_all = (_environ.lookup("LLMPROVIDERS_USAGE") or "no").lower() not in _FALSE
        if self.per_minute is None and self.per_day is None and not counts_all:
            return None
        # Imported here because it loads sqlite3.
        from .quotas import Quota

        return Quota(per_minute=self.per_minute, per_day=self.per_day)

    @classmethod
    def default_base_url(cls) -> str:
        """The service's own address; with several sites, that of the key in the environment."""
        return next((site.url for site in cls._sites_with_key()), cls.url)

    @classmethod
    def environment_of(cls, argument: str) -> tuple[str, ...]:
        """The environment variables for ``argument``; the first that is set wins."""
        everywhere = {
            "base_url": (f"LLMPROVIDERS_{cls.__name__.upper()}_BASE_URL",),
            "proxy": ("LLMPROVIDERS_PROXY",),
        }
        own = tuple(cls.environment.get(argument, ()))
        if chosen := cls._sites_with_key()[:1]:
            # Variables of another site would send the key to a stranger.
            others = {name for site in cls.sites if site not in chosen for name in site}
            own = tuple(name for name in own if name not in others)
        return everywhere.get(argument, ()) + own

    @classmethod
    def _sites_with_key(cls) -> list[Site]:
        """The sites that have a key in the environment."""
        return [site for site in cls.sites if _environ.lookup(site.api_key)]

    def _site(self) -> Site | None:
        """The one of them that this provider's address belongs to."""
        known = self._sites_with_key()
        return next((one for one in known if belongs_to(self.base_url, one.addresses())), None)

    def _setting(self, argument: str, given: str | None) -> str | None:
        """An argument or its value in the environment, without surrounding white space.

        Raises:
            InvalidRequestError: the argument is not a string, or is blank.
        """
        if given is None:
            return _environ.lookup(*self.environment_of(argument))
        return text(argument, given)

    def _address(self, argument: str, given: str | None) -> str | None:
        """The same for an address, which must be a URL."""
        url = self._setting(argument, given)
        if url is None:
            return None

        variables = "the environment's " + " or ".join(self.environment_of(argument))
        return check_url(url, variables if given is None else argument)

    def _path(self, argument: str, given: str | os.PathLike[str] | None) -> str | None:
        """The same for a file."""
        if given is None:
            given = self._setting(argument, None)
        return None if given is None else file_path(argument, given)

    def _is_verified(self, given: bool | None) -> bool:
        if given is None:
            return (self._setting("verify", None) or "").lower() not in _FALSE
        if not isinstance(given, bool):
            raise InvalidRequestError(
                f"verify must be True or False, not {shown(given)}; pass a file of certificates "
                "with ca_bundle="
            )
        return given

    def secret(self, argument: str, given: Key | None) -> Secret | None:
        """The key or token itself, wherever it is stored; None if there is none or it is not sent.

        Args:
            argument: the constructor's argument, such as ``"api_key"``; ``environment`` has its
                variables.
            given: the value passed to the constructor.

        Raises:
            MissingAuthError: the given file or variable has none.
            AuthenticationError: the value cannot be a key.
        """
        if given is None and self.held_back(argument) is not None:
            return None
        return find(argument, given, self.variables_for(argument))

    def variables_for(self, argument: str) -> tuple[str, ...]:
        """The environment variables for an argument, given this provider's address.

        Args:
            argument: the argument's name, such as ``"api_key"``.
        """
        site = self._site() if argument == "api_key" else None
        return self.environment_of(argument) if site is None else (site.api_key,)

    def held_back(self, argument: str) -> str | None:
        """The environment variable whose key is not sent because it belongs to another address.

        A key from the environment is sent only to the hosts of the default address and of addresses
        from the environment.

        Args:
            argument: the argument that the variable stands for, such as ``"api_key"``.
        """
        found = self._withheld(argument)
        return None if found is None else found[0]

    def why_held_back(self, argument: str) -> str | None:
        """The reason as a sentence, with advice; None if the key is sent or there is none.

        Args:
            argument: as for :meth:`held_back`.
        """
        found = self._withheld(argument)
        if found is None:
            return None
        variable, address = found
        return (
            f"{variable} was held back, since it belongs to another address than "
            f"{redact(address)}; pass the key with {argument}= (in a configuration, "
            f"{argument}_env)"
        )

    def _withheld(self, argument: str) -> tuple[str, str] | None:
        """The variable whose key is not sent, and the address where it does not belong."""
        found = _environ.first_set(self.variables_for(argument))
        address = None if found is None else self.foreign_address(argument)
        return None if found is None or address is None else (found[0], address)

    def foreign_address(self, argument: str) -> str | None:
        """The address that no key from the environment is sent to; None if there is none.

        Args:
            argument: as for :meth:`held_back`.
        """
        addresses = self.key_goes_to.get(argument, ("base_url",))
        foreign = (n for n in addresses if not belongs_to(getattr(self, n), self._homes(n)))
        return next((getattr(self, name) for name in foreign), None)

    def how_to_pass(self, argument: str) -> str:
        """Advice for a missing key: the variables that would be sent, and the argument.

        Args:
            argument: as for :meth:`held_back`.
        """
        variables = " or ".join(self.variables_for(argument))
        if self.foreign_address(argument) is not None:
            return f"pass {argument}= (in a configuration, {argument}_env)"
        return f"set {variables} or pass {argument}="

    def _homes(self, argument: str) -> list[str]:
        """The addresses that keys from the environment belong to."""
        if argument == "base_url" and (site := self._site()):
            return site.addresses()
        own = self.default_base_url() if argument == "base_url" else None
        default: str = own or getattr(self, f"default_{argument}")
        return [default, *filter(None, map(_environ.lookup, self.environment_of(argument)))]

    def trust(self) -> Trust:
        """The certificates that this provider trusts, and the one that it presents."""
        return Trust(
            verify=self.verify,
            ca_bundle=self.ca_bundle,
            bundle_named=" and ".join(("ca_bundle", *self.environment_of("ca_bundle"))),
            cert=self.cert,
            system=self.system_trust,
        )

    def _describe_refusal(
        self, error: LLMError, call: HTTPRequest | None, headers: Mapping[str, str]
    ) -> LLMError:
        """A better error for a refusal if no key was sent; otherwise ``error`` itself.

        Args:
            error: the refusal.
            call: the refused call, or None if nothing was sent.
            headers: the caller's headers for this call.
        """
        if self._sends_key(call, headers):
            return error
        said = error.detail or (f"HTTP {error.status_code}" if error.status_code else str(error))
        why = self.why_held_back("api_key")
        if why is not None:
            return MissingAuthError(
                f"{self.name} needs a key, and none was sent: {why} ({said})",
                status_code=error.status_code,
                request_id=error.request_id,
                detail=error.detail,
            )
        if _REFUSED_KEY not in str(error):
            return error
        hint = f": {self.how_to_pass('api_key')}" if self.variables_for("api_key") else ""
        return retold(error, f"{self.name} needs a key, and none was sent{hint} ({said})")

    def _own_login(self, headers: Mapping[str, str]) -> Secret | None:
        """What the caller sets ``Authorization`` to, or the session's ``auth``, as a text.

        Args:
            headers: the caller's headers for this call.
        """
        value = self._given_header("authorization", headers)
        if value is not None:
            return Secret(repr(value[:]))
        session = self._session
        return Secret(repr(session.auth)) if session is not None and session.auth else None

    def _given_header(self, wanted: str, headers: Mapping[str, str]) -> Any:
        """What the caller sets a header to: for this call, for every call, or in the session.

        Args:
            wanted: its name, in lower case.
            headers: the caller's headers for this call.
        """
        session = {} if self._session is None else self._session.headers
        for given in (headers, self.headers, session):
            for name, value in given.items():
                if name.lower() == wanted and value is not None:
                    return value
        return None

    def _always_sent(self) -> list[Any]:
        """The caller's headers and query parameters in every request, as JSON; empty without any.

        Credentials are left out, and so is what only describes the program that sends them.
        """
        session = self._session
        headers = counted_headers({} if session is None else session.headers)
        headers |= counted_headers(self.headers)
        # requests ignores parameters of any other type.
        given = session is not None and isinstance(session.params, Mapping) and session.params
        params = {str(n): v for n, v in (given or {}).items() if not is_telling_in_query(str(n))}
        sent = [
            {n: str(v) for n, v in headers.items() if v is not None and n not in _OF_THE_PROGRAM},
            {n: str(v) for n, v in params.items() if v is not None},
        ]
        return sent if any(sent) else []

    def _sends_key(self, call: HTTPRequest | None, headers: Mapping[str, str]) -> bool:
        """Whether a call contained anything that may be a key."""
        session = self._session
        names = [*self.headers, *headers, *parse_qs(urlsplit(self.base_url).query)]
        if call is not None:
            names += call.headers
        if session is not None:
            names += [*session.headers, *(session.params or ())]
            if session.auth or session.cert or session.cookies:
                return True
        sent = None if call is None else call.authorization
        return sent not in _NO_KEYS or self.cert is not None or any(map(is_telling, names))

    def make_transport(self) -> Sender:
        """Make the sender of this provider's calls; called when the first one is sent."""
        # Already loaded by the constructor; at the top it would slow every import of this module.
        from .._http.transport import Transport

        proxy, asked = self._proxy
        return Transport(
            proxy=proxy,
            asked=asked,
            timeout=self.timeout,
            trust=self.trust(),
            headers=self.headers,
            session=self._session,
            limits=self._limits,
        )

    @property
    def _transport(self) -> Sender:
        made: Sender | None = self.__dict__.get("_made_transport")
        if made is None:
            made = self.__dict__.setdefault("_made_transport", self.make_transport())
        return made

    def close(self) -> None:
        """Close the connections; the next call opens new ones."""
        made: Sender | None = self.__dict__.get("_made_transport")
        if made is not None:
            made.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return _remake, (type(self), self._given.args, self._given.kwargs)

    def __repr__(self) -> str:

        # A traceback may show an instance whose constructor failed.
        name, base_url = getattr(self, "name", None), getattr(self, "base_url", "")
        return f"{type(self).__name__}(name={name!r}, base_url={redact(base_url)!r})"


class _Arguments:
    """The arguments of a provider; no ``repr`` shows them, since they include keys."""

    __slots__ = ("args", "kwargs")

    def __init__(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.args = args
        self.kwargs = kwargs


def _remake(cls: type[ProviderBase], args: tuple[Any, ...], kwargs: dict[str, Any]) -> ProviderBase:
    return cls(*args, **kwargs)
