"""The ways to log in to GigaChat: a key, an existing token, a password or a certificate."""

from __future__ import annotations

import base64
import binascii
import re
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar
from weakref import WeakKeyDictionary

from ..._account.keys import digest, pasted_with
from ..._account.tokens import Token, TokenKeeper, keeper, token_of
from ..._http.decoding import expect
from ..._http.error_map import error_of, parse_http_date
from ..._http.reading import ReplyReader
from ..._http.types import HTTPRequest
from ..._redact import Secret, conceal
from ..._runtime.scope import CancelScope
from ..._signals import let_through
from ...errors import (
    AuthenticationError,
    BlockedError,
    InvalidRequestError,
    LLMError,
    MissingAuthError,
    retold,
)
from ...provider import Fetch
from .._chat_completions import decode_answer, failure_in

SCOPES = ("GIGACHAT_API_PERS", "GIGACHAT_API_B2B", "GIGACHAT_API_CORP")

INDIVIDUAL, PREPAID, POSTPAID = SCOPES

STUDIO = "https://developers.sber.ru/studio"


NOT_A_KEY = (
    "the authorization key has to be base64 of client_id:client_secret, in one line, as "
    "your account shows it"
)

_SCOPES_ARE = f"it is {INDIVIDUAL} for individuals, {PREPAID} prepaid, {POSTPAID} postpaid"

_SCOPE_ADVICE = {
    "is empty": "no scope was given; set GIGACHAT_SCOPE or pass scope=",
    "format invalid": "{scope!r} is not a scope; set GIGACHAT_SCOPE or pass scope=",
    "not fully includes": "this key is not for the scope {scope!r}; take the one that your "
    "account shows beside the key",
}


_TOKENS = ("access_token", "tok")

_STATUS_OF_CODE = {**dict.fromkeys("123457", 400), "6": 401}


class Login(ABC):
    """One way to log in to the service."""

    @property
    @abstractmethod
    def credential(self) -> str:
        """The hash that identifies its slots, tokens and files."""

    @abstractmethod
    def token(self, fetch: Fetch) -> Secret | None:
        """The access token to send now; None if nothing is sent.

        Raises:
            LLMError: as for any call.
        """


@dataclass(frozen=True)
class GivenToken(Login):
    """An access token from elsewhere, used unchanged."""

    value: Secret

    @property
    def credential(self) -> str:
        """The hash of the token."""
        return digest(self.value)

    def token(self, fetch: Fetch) -> Secret:
        """The token."""
        return self.value


@dataclass(frozen=True)
class ClientCertificate(Login):
    """A client certificate, which the connection presents; no token is sent.

    Attributes:
        files: the file of the certificate, and that of the key if separate.
    """

    files: tuple[str, ...]

    @property
    def credential(self) -> str:
        """The hash of the files' names."""
        return digest("certificate", *self.files)

    def token(self, fetch: Fetch) -> None:
        """No token."""


@dataclass(frozen=True)
class OwnLogin(Login):
    """An ``Authorization`` that the caller sets by a header or a session; no token is fetched.

    Attributes:
        value: what the caller set.
    """

    value: Secret

    @property
    def credential(self) -> str:
        """The hash of the value."""
        return digest("own login", self.value)

    def token(self, fetch: Fetch) -> None:
        """No token."""


@dataclass(frozen=True)
class Account(Login):
    """An account that gets access tokens.

    Attributes:
        file: the file in which processes share its token; None: only this process's memory.
    """

    file: Path | None
    address_from: ClassVar[str]
    """The argument with the token service's address."""

    def keeper(self, scope: CancelScope) -> TokenKeeper:
        """The keeper of its token in this process."""
        return keeper(self.credential, self.file, now=scope.clock.wall())

    def token(self, fetch: Fetch) -> Secret:
        """A token that is valid now, fetched if necessary."""
        return self.keeper(fetch.scope).get(
            lambda: self._fetch_token(fetch), fetch.scope, route=fetch.route
        )

    def _fetch_token(self, fetch: Fetch) -> Token:
        call = self._token_request()
        try:
            with ReplyReader(fetch(call), fetch.scope) as reply:
                answer = expect(decode_answer(reply.read()), dict, "a token")
                told = any(answer.get(name) for name in _TOKENS)
                failure = None if told else failure_in(answer, whole=True)
                if failure is not None:
                    # Some of its codes say what its status would.
                    status = _STATUS_OF_CODE.get(str(failure.get("code")))
                    raise error_of({**failure, "status": status} if status else failure)
                reply.finish()
        except LLMError as error:
            advice = self._advice(error, call.url)
            if advice is None:
                raise
            raise retold(error, advice) from error
        date = parse_http_date(reply.headers.get("date"))
        return token_of(answer, now=fetch.scope.clock.wall(), date=date)

    @abstractmethod
    def _token_request(self) -> HTTPRequest:
        """The request for a token."""

    @abstractmethod
    def _advice_on_refusal(self, said: str) -> str:
        """Advice for when the key or password was refused.

        Args:
            said: the status and the service's words.
        """

    def _advice(self, error: LLMError, url: str) -> str | None:
        """Advice for a failed token request; None: the advice for any request applies."""
        if error.detail == "certificate":
            return None
        said = f"HTTP {error.status_code}: {error.detail or 'without a word'}"
        if isinstance(error, BlockedError):
            return (
                f"a web page came instead of an answer from {url}: a firewall or a proxy denies "
                f"access from here, which says nothing about the key ({said})"
            )
        if isinstance(error, AuthenticationError):
            return self._advice_on_refusal(said)
        if error.status_code == 404:
            return f"there is no token service at {url}; check {self.address_from} ({said})"
        return f"no access token from {url}: {error}"


@dataclass(frozen=True)
class KeyAccount(Account):
    """An account with an authorization key.

    Attributes:
        key: base64 of ``client_id:client_secret``.
        scope: the version of the API.
        auth_url: the token service's full address.
    """

    key: Secret
    scope: str
    auth_url: str
    address_from = "auth_url"

    @property
    def credential(self) -> str:
        """The hash of the key, the scope and the token service."""
        return digest(self.key, self.scope, self.auth_url)

    def _token_request(self) -> HTTPRequest:
        return HTTPRequest(
            "POST",
            self.auth_url,
            headers={"Accept": "application/json", "RqUID": str(uuid.uuid4())},
            form={"scope": self.scope},
            authorization=Secret("Basic " + self.key),
            accept="html",
        )

    def _advice_on_refusal(self, said: str) -> str:
        return (
            "the token service refused the authorization key: check that GIGACHAT_CREDENTIALS, "
            "or api_key=, is the whole key of this project, or make a new one in "
            f"{STUDIO} ({said})"
        )

    def _advice(self, error: LLMError, url: str) -> str | None:
        if error.status_code == 400 and not isinstance(error, AuthenticationError):
            for words, advice in _SCOPE_ADVICE.items():
                if words in (error.detail or ""):
                    said = f"HTTP 400: {error.detail}"
                    return f"{advice.format(scope=self.scope)}: {_SCOPES_ARE} ({said})"
        return super()._advice(error, url)


@dataclass(frozen=True)
class UserAccount(Account):
    """An account that logs in with a user and a password.

    Attributes:
        user: the user's name.
        password: the password.
        login_url: the full address that issues a token for them.
    """

    user: str
    password: Secret
    login_url: str
    address_from = "base_url"

    @property
    def credential(self) -> str:
        """The hash of the user, the password and the address."""
        return digest("user", self.user, self.password, self.login_url)

    def _token_request(self) -> HTTPRequest:
        pair = Secret(base64.b64encode((f"{self.user}:" + self.password).encode()).decode())
        conceal(pair)
        return HTTPRequest(
            "POST",
            self.login_url,
            headers={"Accept": "application/json"},
            authorization=Secret("Basic " + pair),
            accept="html",
        )

    def _advice_on_refusal(self, said: str) -> str:
        return (
            f"{self.login_url} refused the user {self.user!r} or the password: check "
            f"GIGACHAT_USER and GIGACHAT_PASSWORD, or user= and password= ({said})"
        )


class Credentials:
    """Finds and checks a provider's credentials, once per call.

    Args:
        name: the provider's name.
        secret: returns the current key, token or password for an argument of the provider.
        held_back: returns why the environment's key is not sent; None if it is sent or missing.
        given: those of ``api_key``, ``access_token`` and ``user`` that were passed to the
            constructor; they take precedence over the environment.
        user: the user's name, or None.
        certificate: returns the files of the client certificate, if there is one.
        own_login: returns what the caller sets ``Authorization`` to, given the headers of a call;
            used without any of the above.
        scope: the version of the API.
        auth_url: the token service's full address.
        login_url: the address that issues a token for a user and a password.
        file: the file in which processes share tokens; None: only this process's memory.
    """

    def __init__(
        self,
        name: str,
        *,
        secret: Callable[[str], Secret | None],
        held_back: Callable[[], str | None],
        given: frozenset[str],
        user: str | None,
        certificate: Callable[[], tuple[str, ...]],
        own_login: Callable[[Mapping[str, str]], Secret | None],
        scope: str,
        auth_url: str,
        login_url: str,
        file: Path | None,
    ) -> None:
        self._name = name
        self._secret = secret
        self._held_back = held_back
        self._given = given
        self._user = user
        self._certificate = certificate
        self._own_login = own_login
        self._scope = scope
        self._auth_url = auth_url
        self._login_url = login_url
        self.file = file
        self._refused_token: str | None = None
        self._found: WeakKeyDictionary[CancelScope, Login] = WeakKeyDictionary()

    def find(self, headers: Mapping[str, str] | None = None) -> Login | None:
        """The current login, from the constructor or else the environment; None if there is none.

        Args:
            headers: the caller's headers for this call.

        Raises:
            MissingAuthError: the file or variable that should hold it has none.
            AuthenticationError: the value cannot be a key.
        """
        ways = {"access_token": self._given_token, "api_key": self._key, "user": self._password}
        # A stable sort: the constructor's arguments come first, each half in the order above.
        for way in sorted(ways, key=lambda name: name not in self._given):
            found: Login | None = ways[way]()
            if found is not None:
                return found
        files = self._certificate()
        if files:
            return ClientCertificate(files)
        own = self._own_login(headers or {})
        return None if own is None else OwnLogin(own)

    def of(self, scope: CancelScope, headers: Mapping[str, str] | None = None) -> Login:
        """The login of one call, looked up when the call first needs it.

        Args:
            scope: the call's.
            headers: the caller's headers for this call.

        Raises:
            MissingAuthError: there is none.
            AuthenticationError: the value cannot be a login.
        """
        login = self._found.get(scope)
        if login is None:
            login = self.find(headers)
            if login is None:
                how = self._held_back() or (
                    "set GIGACHAT_CREDENTIALS or pass api_key=; your account shows it: " + STUDIO
                )
                raise MissingAuthError(f"{self._name} needs an authorization key: {how}")
            self._found[scope] = login
        return login

    def refuse(self, token: str, scope: CancelScope) -> bool:
        """Stop using an access token that the service no longer accepts.

        Returns:
            Whether another one is available.
        """
        login = self._found.pop(scope, None)
        if isinstance(login, Account):
            login.keeper(scope).refuse(token)
            return True
        if not isinstance(login, GivenToken):
            return False
        self._refused_token = login.value
        return not isinstance(self.find(), (GivenToken, ClientCertificate, type(None)))

    def _given_token(self) -> GivenToken | None:
        token = self._secret("access_token")
        if token is None:
            return None
        if token == self._refused_token and (self._key() or self._password()) is not None:
            return None
        return GivenToken(token)

    def _key(self) -> KeyAccount | None:
        try:
            key = self._secret("api_key")
        except AuthenticationError as error:
            said = f"{NOT_A_KEY}; it is not base64: take it from {STUDIO} ({error})"
            raise retold(error, said) from error
        if key is None:
            return None
        conceal_client_secret(key)
        check_key(key)
        return KeyAccount(self.file, key, self._scope, self._auth_url)

    def _password(self) -> UserAccount | None:
        password = self._secret("password")
        if self._user is None and password is None:
            return None
        if self._user is None or password is None:
            lacking = "user" if self._user is None else "password"
            raise MissingAuthError(
                f"{self._name} has a {'password' if lacking == 'user' else 'user'} and no "
                f"{lacking}: set GIGACHAT_{lacking.upper()} or pass {lacking}="
            )
        if ":" in self._user:
            raise InvalidRequestError("the user's name cannot contain a colon")
        return UserAccount(self.file, self._user, password, self._login_url)


def conceal_client_secret(key: str) -> None:
    """Mask the client secret in an authorization key, wherever it appears by itself."""
    identity, _, secret = _pair(key).partition(b":")
    if identity:
        conceal(secret.decode(errors="replace"))


def check_key(key: Secret) -> None:
    """Raise an ``AuthenticationError`` with the reason if it cannot be an authorization key."""
    fault = _fault_of(key)
    if fault is not None:
        raise AuthenticationError(f"{NOT_A_KEY}; {fault}: take it from {STUDIO}{_guess(key)}")


def _fault_of(key: str) -> str | None:
    pair = _pair(key)
    identity, colon, secret = pair.partition(b":")
    if identity and secret:
        return None
    if ":" in key:
        return "it is the pair itself, not encoded"
    if colon:
        return f"decoded, it has no {'client_secret' if identity else 'client_id'}"
    if pair:
        return "decoded, it has no colon; the client secret alone is not it"
    return "it is not base64"


# What people paste instead of the key, and the advice. No part of the key is shown.
_PASTED = (
    (
        r"[A-Za-z0-9_-]{10,}(\.[A-Za-z0-9_-]*){2,4}",
        "It looks like an access token: pass that as access_token=, or set GIGACHAT_ACCESS_TOKEN",
    ),
    (
        r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}",
        "It looks like a client id or a client secret, each of which is only a part of the key",
    ),
)


def _guess(key: str) -> str:
    """A hint about what was pasted instead of the key."""
    for pattern, hint in _PASTED:
        if re.fullmatch(pattern, key):
            return f". {hint}"
    if hint := pasted_with(key):
        return f". {hint}"
    if b":" in _pair(key + "=" * (-len(key) % 4)):
        return ". Its end is missing: it ends with = or == in your account"
    return ""


def _pair(key: str) -> bytes:
    """The decoded key; empty if it is not base64."""
    try:
        return base64.b64decode(key, validate=True)
    except (binascii.Error, ValueError) as error:
        let_through(error)
        return b""
