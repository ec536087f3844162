"""GigaChat's token service: an authorization key in, an access token out."""

from __future__ import annotations

import base64
import binascii
import re
import uuid
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..._account.keys import digest, pasted_with
from ..._account.slots import Slot
from ..._account.tokens import Token, TokenKeeper, keeper, token_of
from ..._environment import token_cache as users_token_cache
from ..._http.decoding import decode_object
from ..._http.error_map import parse_http_date
from ..._http.types import HTTPRequest
from ..._redact import Secret, conceal
from ..._runtime.scope import CancelScope
from ...errors import (
    AuthenticationError,
    BlockedError,
    ConnectionFailed,
    LLMError,
    MissingAuthError,
    retold,
)
from ...provider import Fetch
from . import _root

if TYPE_CHECKING:
    from ._provider import GigaChat


SCOPES = ("GIGACHAT_API_PERS", "GIGACHAT_API_B2B", "GIGACHAT_API_CORP")

INDIVIDUAL, PREPAID, POSTPAID = SCOPES

CABINET = "https://developers.sber.ru/studio"


NOT_A_KEY = (
    "the authorization key has to be base64 of client_id:client_secret, in one line, as the "
    "cabinet shows it"
)

_SCOPES_ARE = f"it is {INDIVIDUAL} for individuals, {PREPAID} prepaid, {POSTPAID} postpaid"

_SCOPE_ADVICE = {
    "is empty": "no scope was given; set GIGACHAT_SCOPE or pass scope=",
    "format invalid": "{scope!r} is no scope; set GIGACHAT_SCOPE or pass scope=",
    "not fully includes": "this key is not for the scope {scope!r}; take the one that the cabinet "
    "shows beside the key",
}


@dataclass(frozen=True)
class Account:
    """What an access token is issued for.

    Attributes:
        key: the authorization key, base64 of ``client_id:client_secret``.
        scope: the version of the API.
        auth_url: the token service's full address.
    """

    key: Secret
    scope: str
    auth_url: str

    @property
    def credential(self) -> str:
        """What its token and its places are remembered by."""
        return digest(self.key, self.scope, self.auth_url)

    def fetch_token(self, fetch: Fetch) -> Token:
        """Ask the token service for a token.

        Raises:
            AuthenticationError: the key cannot be one, or was refused; or a clock is wrong.
            LLMError: as for any call, with what to do about it.
        """
        check_key(self.key)
        call = HTTPRequest(
            "POST",
            self.auth_url,
            headers={"Accept": "application/json", "RqUID": str(uuid.uuid4())},
            form={"scope": self.scope},
            authorization=Secret("Basic " + self.key),
        )
        try:
            with closing(fetch(call)) as reply:
                body = reply.read()
                reply.finish()
        except LLMError as error:
            raise retold(error, self._advice(error)) from error
        date = parse_http_date(reply.headers.get("date"))
        return token_of(decode_object(body), now=fetch.scope.clock.wall(), date=date)

    def _advice(self, error: LLMError) -> str:
        if isinstance(error, ConnectionFailed) and error.detail == "certificate":
            return _root.advice(error)
        said = f"HTTP {error.status_code}: {error.detail or 'without a word'}"
        if isinstance(error, BlockedError):
            return (
                f"a web page came in place of an answer of {self.auth_url}: a firewall or a proxy "
                f"denies access from here, which says nothing about the key ({said})"
            )
        if isinstance(error, AuthenticationError):
            return (
                "the token service refused the authorization key: check that "
                "GIGACHAT_CREDENTIALS, or api_key=, is the whole key of this project, or make a "
                f"new one in {CABINET} ({said})"
            )
        if error.status_code == 404:
            return f"there is no token service at {self.auth_url}; check auth_url ({said})"
        if error.status_code == 400:
            for words, advice in _SCOPE_ADVICE.items():
                if words in (error.detail or ""):
                    return f"{advice.format(scope=self.scope)}: {_SCOPES_ARE} ({said})"
        return f"no access token from {self.auth_url}: {error}"


def conceal_key(key: str) -> None:
    """Mask an authorization key, and the client's secret in it, wherever they turn up."""
    conceal(key)
    identity, _, secret = _pair(key).partition(b":")
    if identity:
        conceal(secret.decode(errors="replace"))


def check_key(key: Secret) -> None:
    """Raise an ``AuthenticationError`` for what cannot be an authorization key, and say why."""
    fault = _fault_of(key)
    if fault is not None:
        raise AuthenticationError(f"{NOT_A_KEY}; {fault}: take it from {CABINET}{_guess(key)}")


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


# What people paste in place of the key, and what to say of it. Nothing of the key is shown.
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
    """A hint at what was pasted in place of the key."""
    for pattern, hint in _PASTED:
        if re.fullmatch(pattern, key):
            return f". {hint}"
    if hint := pasted_with(key):
        return f". {hint}"
    if b":" in _pair(key + "=" * (-len(key) % 4)):
        return ". Its end is missing: it ends with = or == in the cabinet"
    return ""


def _pair(key: str) -> bytes:
    """What the key is base64 of; nothing where it is not base64."""
    try:
        return base64.b64decode(key, validate=True)
    except (binascii.Error, ValueError):
        return b""


def place(giga: GigaChat, scope: CancelScope) -> AbstractContextManager[float]:
    """What ``GigaChat.place`` does."""
    credential = giga.credential_digest()
    if credential is None:
        return nullcontext(0.0)
    return Slot(credential, giga.max_concurrency, scope, file=_cache_file(giga))


def check_credentials(giga: GigaChat) -> None:
    """What ``GigaChat.check_credentials`` does."""
    if _given_token(giga) is not None:
        return
    key = _key(giga)
    if key is None:
        raise _no_key(giga)
    check_key(key)


def _key(giga: GigaChat) -> Secret | None:
    try:
        key = giga._secret("api_key", giga._api_key)
    except AuthenticationError as error:
        said = f"{NOT_A_KEY}; it is not base64: take it from {CABINET} ({error})"
        raise retold(error, said) from error
    if key is not None:
        conceal_key(key)
    return key


def _given_token(giga: GigaChat) -> Secret | None:
    """The access token to use as it is; none where a key is given nearer, or it has failed."""
    if giga._api_key is not None and giga._access_token is None:
        return None
    token = giga._secret("access_token", giga._access_token)
    if token is None or (token == giga._refused_token and _key(giga) is not None):
        return None
    return token


def _account(giga: GigaChat, key: Secret) -> Account:
    return Account(key, giga.scope, giga.auth_url)


def _cache_file(giga: GigaChat) -> Path | None:
    if giga.token_cache is None:
        return None
    if giga.token_cache == "user":  # noqa: S105 - it is a place
        return users_token_cache()
    return Path(giga.token_cache).expanduser().absolute()


def _keeper(giga: GigaChat, account: Account, scope: CancelScope) -> TokenKeeper:
    return keeper(account.credential, _cache_file(giga), now=scope.clock.wall())


def _bearer(giga: GigaChat, fetch: Fetch) -> Secret:
    token = _given_token(giga)
    if token is not None:
        return token
    key = _key(giga)
    if key is None:
        raise _no_key(giga)
    account = _account(giga, key)
    return _keeper(giga, account, fetch.scope).get(
        lambda: account.fetch_token(fetch), fetch.scope, route=fetch.route
    )


def _no_key(giga: GigaChat) -> MissingAuthError:
    return MissingAuthError(
        f"{giga.name} needs an authorization key: set GIGACHAT_CREDENTIALS or pass "
        f"api_key=; the cabinet shows it: {CABINET}"
    )


def _renew_token(giga: GigaChat, call: HTTPRequest, fetch: Fetch) -> str | None:
    refused = Secret((call.authorization or "").removeprefix("Bearer "))
    key = _key(giga)
    if key is None:
        return None
    if refused == _given_token(giga):
        giga._refused_token = refused
    else:
        _keeper(giga, _account(giga, key), fetch.scope).refuse(refused)
    return "token"
