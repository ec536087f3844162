"""GigaChat: Sber's official API, whose every call needs an access token that lives half an hour."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import _trust
from .._chat_completions import parse_chat, parse_list
from .._clock import Scope
from .._concurrency import Place, check_limit
from .._lines import decode_json
from .._log import logger
from .._oauth import CABINET, INDIVIDUAL, Account, check_key, retold
from .._places import token_cache as users_token_cache
from .._redact import conceal
from .._secret import Key, digest
from .._token import TokenKeeper, keeper
from .._trust import UnverifiedTLSWarning
from ..errors import (
    AuthenticationError,
    ConnectionFailed,
    InvalidRequestError,
    LLMError,
    MissingAuthError,
    ProtocolError,
)
from ..provider import (
    Call,
    Catalogue,
    Fetch,
    Limits,
    Provider,
    Reply,
    Request,
    Timeout,
    Trust,
)

if TYPE_CHECKING:
    import requests

__all__ = ["Balance", "Embedding", "GigaChat", "TokenCount", "UnverifiedTLSWarning"]


_FALSE = ("0", "f", "false", "n", "no", "off")
_HEADERS = {"Accept": "application/json, text/event-stream", "Accept-Encoding": "gzip, deflate"}


@dataclass(frozen=True, slots=True)
class Balance:
    """What is left of the tokens that were paid for one model."""

    model: str
    tokens: int


@dataclass(frozen=True, slots=True)
class TokenCount:
    """How many tokens and characters one text has."""

    tokens: int
    characters: int


@dataclass(frozen=True, slots=True)
class Embedding:
    """One text as a vector, and how many tokens it took, where the service says so."""

    vector: list[float]
    prompt_tokens: int | None = None


class GigaChat(Provider):
    """Sber's GigaChat.

    Args:
        api_key: the authorization key as the cabinet shows it, base64 of ``id:secret``, or where
            it is kept; ``GIGACHAT_CREDENTIALS``.
        scope: ``"GIGACHAT_API_PERS"`` (individuals, the default), ``"GIGACHAT_API_B2B"`` (prepaid)
            or ``"GIGACHAT_API_CORP"`` (postpaid); ``GIGACHAT_SCOPE``.
        auth_url: the full address of the token service; ``GIGACHAT_AUTH_URL``.
        access_token: a token made elsewhere, used as it is; ``GIGACHAT_ACCESS_TOKEN``.
        ca_bundle: a file of certificate authorities, PEM or DER, believed for this provider's
            hosts beside the usual ones; ``GIGACHAT_CA_BUNDLE_FILE``.
        verify: False believes any server, with an ``UnverifiedTLSWarning``;
            ``GIGACHAT_VERIFY_SSL_CERTS``.
        token_cache: where the token is kept: None, this process's memory; ``"user"``, a file in
            the user's cache folder; or a file. All processes that name the same file share the
            token, and the places of ``max_concurrency``.
        update_interval: seconds between the pieces of a stream, as the service is to send them.
        max_concurrency: chats and embeddings at a time for one key; default 1 for
            ``GIGACHAT_API_PERS``, else 10. A stream counts until it ends or is closed.
        base_url: with the path that ends in ``/v1``; ``GIGACHAT_BASE_URL``.

    >>> GigaChat().get_model("GigaChat-Pro")
    'GigaChat-2-Pro'
    """

    url = "https://api.giga.chat/v1"
    api_endpoint = f"{url}/chat/completions"
    default_auth_url = "https://ngw.devices.sberbank.ru:9443/api/v2/oauth"
    needs_auth = True
    default_model = "GigaChat-2"
    models = Catalogue("GigaChat-2", "GigaChat-2-Pro", "GigaChat-2-Max")
    model_aliases = {
        "GigaChat:latest": "GigaChat-2",
        "GigaChat": "GigaChat-2",
        "GigaChat-Plus": "GigaChat-2",
        "GigaChat-Pro": "GigaChat-2-Pro",
        "GigaChat-Max": "GigaChat-2-Max",
    }
    open_catalogue = True
    takes = frozenset(
        {
            "temperature",
            "top_p",
            "max_tokens",
            "repetition_penalty",
            "n",
            "functions",
            "function_call",
            "profanity_check",
            "session_id",
        }
    )
    environment = {
        "api_key": ("GIGACHAT_CREDENTIALS",),
        "scope": ("GIGACHAT_SCOPE",),
        "access_token": ("GIGACHAT_ACCESS_TOKEN",),
        "model": ("GIGACHAT_MODEL",),
        "base_url": ("GIGACHAT_BASE_URL",),
        "auth_url": ("GIGACHAT_AUTH_URL",),
        "ca_bundle": ("GIGACHAT_CA_BUNDLE_FILE",),
        "verify": ("GIGACHAT_VERIFY_SSL_CERTS",),
    }

    def __init__(
        self,
        *,
        api_key: Key | None = None,
        scope: str | None = None,
        auth_url: str | None = None,
        access_token: Key | None = None,
        ca_bundle: str | os.PathLike[str] | None = None,
        verify: bool | None = None,
        token_cache: str | os.PathLike[str] | None = None,
        update_interval: float = 0,
        max_concurrency: int | None = None,
        base_url: str | None = None,
        model: str | None = None,
        proxy: str | None = None,
        timeout: Timeout | None = None,
        session: requests.Session | None = None,
        name: str | None = None,
        limits: Limits | None = None,
    ) -> None:
        super().__init__(
            base_url=base_url,
            model=model,
            proxy=proxy,
            timeout=timeout,
            session=session,
            name=name,
            limits=limits,
        )
        self._api_key = api_key
        self._access_token = access_token
        found = self._setting("scope", scope)
        self.scope = INDIVIDUAL if found is None else found
        self.auth_url = self._setting("auth_url", auth_url) or self.default_auth_url
        if max_concurrency is None:
            max_concurrency = 1 if self.scope == INDIVIDUAL else 10
        self.max_concurrency = check_limit(max_concurrency)
        self.update_interval = update_interval
        self.token_cache = token_cache
        self.ca_bundle = ca_bundle or self._setting("ca_bundle", None)
        if verify is None:
            verify = (self._setting("verify", None) or "").strip().lower() not in _FALSE
        self.verify = verify
        if not verify:
            _trust.warn_unverified(self.name)
        self._stand_in: str | None = None
        self._refused_token: str | None = None

    def trust(self) -> Trust:
        """The usual authorities, those of ``ca_bundle``, and those that the user took in."""
        if not self.verify:
            return Trust(verify=False)
        bundle = _trust.bundle(self.ca_bundle) if self.ca_bundle else ""
        return Trust(extra=bundle + _trust.pinned() or None)

    def place(self, scope: Scope) -> AbstractContextManager[float]:
        """Wait for one of the ``max_concurrency`` places of this key."""
        key = self._key()
        token = self._given_token(key)
        if token is not None:
            credential = digest(token)
        elif key is not None:
            credential = self._account(key).credential
        else:
            return nullcontext(0.0)
        return Place(credential, self.max_concurrency, scope, file=self._cache_file())

    def get_model(self, name: str | None) -> str:
        """The service's own name for a model or an alias; None is the default.

        A name that is not known here is passed on: the catalogue changes without notice.

        >>> GigaChat(model="GigaChat-Max").get_model(None)
        'GigaChat-2-Max'
        """
        if name is None and self.model is None:
            name = self._stand_in
        return super().get_model(name)

    def prepare(self, request: Request, fetch: Fetch) -> Call:
        """Put the messages and parameters into a JSON body, and get a token for it."""
        _check_order(request)
        params = self.sampling(request)
        session_id = params.pop("session_id", None)
        body = {
            "model": request.model,
            "messages": [_message(message) for message in request.messages],
            "stream": request.stream,
            "update_interval": self.update_interval,
            **params,
            **request.params.get("extra_body", {}),
        }
        headers = {"X-Session-ID": str(session_id)} if session_id is not None else {}
        return self._call(fetch, "POST", "/chat/completions", json=body, headers=headers)

    def parse(self, reply: Reply) -> Iterator[str]:
        """Read a stream or a whole reply; see ``parse_chat``."""
        return parse_chat(reply)

    def mend(
        self, error: LLMError, call: Call | None, request: Request, fetch: Fetch
    ) -> str | None:
        """Renew a token that was refused, and find a default model that is there.

        Raises:
            ModelNotFoundError: the model that the caller named is not there; with those that are.
        """
        if call is None:
            return None
        if error.status_code == 401:
            return self._renew_token(call, fetch)
        if error.status_code == 404 and isinstance(call.json, dict) and "model" in call.json:
            return self._find_model(error, call, request, fetch)
        return None

    def explain(self, error: LLMError, request: Request) -> LLMError:
        """Say what to do about it, where this service's statuses tell more than their words."""
        if isinstance(error.__cause__, LLMError):
            return error
        if isinstance(error, ConnectionFailed) and error.detail == "certificate":
            return retold(error, _trust.advice(error))
        advice = {
            401: self._advice_on_refusal,
            402: self._advice_on_quota,
            404: self._advice_on_address,
            429: self._advice_on_rate,
        }.get(error.status_code or 0)
        return error if advice is None else retold(error, f"{error}; {advice(request)}")

    def _advice_on_refusal(self, request: Request) -> str:
        if self._given_token(self._key()) is not None:
            return (
                "the access token that was given is not valid (any more; one lives 30 minutes): "
                "give the authorization key instead, GIGACHAT_CREDENTIALS, and tokens are fetched"
            )
        return f"{self.name} refused a token that it had just given; look at the key in {CABINET}"

    def _advice_on_quota(self, request: Request) -> str:
        return (
            f"the tokens paid for {self.get_model(request.model)} are used up, which balance() "
            f"tells for every model: buy more in {CABINET}, or ask another model"
        )

    def _advice_on_address(self, request: Request) -> str:
        hint = "" if self.base_url.endswith("/v1") else ", which usually ends in /v1"
        return f"check base_url{hint}: it is {self.base_url}"

    def _advice_on_rate(self, request: Request) -> str:
        return (
            f"an account has a number of requests at a time ({self.max_concurrency} are made "
            "here): another program, process or machine may be using the same one; processes with "
            "one token_cache wait for one another"
        )

    def check_credentials(self) -> None:
        """Look for an access token, or a key that has the shape of one."""
        key = self._key()
        if self._given_token(key) is not None:
            return
        if key is None:
            raise self._no_key()
        check_key(key)

    def list_models(self) -> list[str]:
        """The names of the models that the service has now.

        Raises:
            LLMError: as for any call.
        """
        return self.ask(
            lambda fetch: self._call(fetch, "GET", "/models"),
            lambda reply: [str(item["id"]) for item in parse_list(reply.read()) if "id" in item],
        )

    def balance(self) -> list[Balance]:
        """What is left of the tokens that were paid for, model by model.

        Raises:
            AuthenticationError: this account pays as it goes, and has no balance.
            LLMError: as for any call.
        """
        try:
            entries = self.ask(
                lambda fetch: self._call(fetch, "GET", "/balance"),
                lambda reply: parse_list(reply.read(), "balance"),
            )
        except AuthenticationError as error:
            if error.status_code != 403:
                raise
            raise retold(error, f"{error}; an account that pays as it goes has no balance") from (
                error
            )
        return [
            Balance(_field(entry, "usage", str), int(_field(entry, "value", int, float)))
            for entry in entries
        ]

    def count_tokens(
        self, texts: str | Sequence[str], *, model: str | None = None
    ) -> list[TokenCount]:
        """How many tokens each of ``texts`` has for a model.

        Raises:
            LLMError: as for any call.
        """
        return [
            TokenCount(_field(entry, "tokens", int), _field(entry, "characters", int))
            for entry in self._about(texts, "/tokens/count", model, Scope())
        ]

    def embed(self, texts: str | Sequence[str], *, model: str = "Embeddings") -> list[Embedding]:
        """A vector for each of ``texts``, in their order.

        Raises:
            LLMError: as for any call.
        """
        scope = Scope()
        try:
            with self.place(scope):
                entries = self._about(texts, "/embeddings", model, scope)
        except LLMError as error:
            error.provider = error.provider or self.name
            raise
        entries.sort(key=lambda entry: _field(entry, "index", int))
        return [
            Embedding(
                [float(number) for number in _field(entry, "embedding", list)],
                (entry.get("usage") or {}).get("prompt_tokens"),
            )
            for entry in entries
        ]

    def _about(
        self, texts: str | Sequence[str], path: str, model: str | None, scope: Scope
    ) -> list[dict[str, Any]]:
        inputs = [texts] if isinstance(texts, str) else list(texts)
        if not inputs or not all(isinstance(text, str) for text in inputs):
            raise InvalidRequestError("texts is a string or a list of strings, at least one")

        def make(fetch: Fetch) -> Call:
            body = {"model": self.get_model(model), "input": inputs}
            return self._call(fetch, "POST", path, json=body)

        def read(reply: Reply) -> list[dict[str, Any]]:
            answer = decode_json(reply.read())
            entries = answer.get("data") if isinstance(answer, dict) else answer
            if not isinstance(entries, list) or len(entries) != len(inputs):
                raise ProtocolError(f"the reply to {path} has not an entry for each text")
            return entries

        return self.ask(make, read, request=Request((), model=model), scope=scope)

    def _call(
        self,
        fetch: Fetch,
        method: str,
        path: str,
        *,
        json: Any = None,
        headers: Mapping[str, str] | None = None,
    ) -> Call:
        return Call(
            method,
            self.base_url + path,
            headers={**_HEADERS, "X-Request-ID": str(uuid.uuid4()), **(headers or {})},
            json=json,
            authorization=f"Bearer {self._bearer(fetch)}",
        )

    # -- the token

    def _key(self) -> str | None:
        key = (self._setting("api_key", self._api_key) or "").strip()
        conceal(key)
        return key or None

    def _given_token(self, key: str | None) -> str | None:
        """The access token to use as it is; none where a key is given nearer, or it has failed."""
        if self._api_key is not None and self._access_token is None:
            return None
        token = self._setting("access_token", self._access_token) or None
        if token == self._refused_token and key is not None:
            return None
        conceal(token)
        return token

    def _account(self, key: str) -> Account:
        return Account(key, self.scope, self.auth_url)

    def _cache_file(self) -> Path | None:
        if self.token_cache is None:
            return None
        if self.token_cache == "user":  # noqa: S105 - it is a place
            return users_token_cache()
        return Path(self.token_cache).expanduser().absolute()

    def _keeper(self, account: Account, scope: Scope) -> TokenKeeper:
        return keeper(account.credential, self._cache_file(), now=scope.clock.wall())

    def _bearer(self, fetch: Fetch) -> str:
        key = self._key()
        token = self._given_token(key)
        if token is not None:
            return token
        if key is None:
            raise self._no_key()
        account = self._account(key)
        return self._keeper(account, fetch.scope).get(
            lambda: account.fetch_token(fetch), fetch.scope, route=fetch.route
        )

    def _no_key(self) -> MissingAuthError:
        return MissingAuthError(
            f"{self.name} needs an authorization key: set GIGACHAT_CREDENTIALS or pass "
            f"api_key=; the cabinet shows it: {CABINET}"
        )

    def _renew_token(self, call: Call, fetch: Fetch) -> str | None:
        refused = (call.authorization or "").removeprefix("Bearer ")
        key = self._key()
        if key is None:
            return None
        if refused == self._given_token(key):
            self._refused_token = refused
        else:
            self._keeper(self._account(key), fetch.scope).refuse(refused)
        return "token"

    # -- the model

    def _find_model(
        self, error: LLMError, call: Call, request: Request, fetch: Fetch
    ) -> str | None:
        asked = str(call.json["model"])
        models = self._listed(call, fetch)
        if models is None:
            return None
        found = _general_model(models, asked)
        is_default = request.model is None and self.model is None
        if is_default and asked == self.get_model(None) and found is not None:
            logger.warning(
                "%s has no model %s any more; %s is asked instead: name one with model= or "
                "GIGACHAT_MODEL",
                self.name,
                asked,
                found,
            )
            self._stand_in = found
            return "model"
        raise self.lacks(
            asked,
            [str(model.get("id")) for model in models],
            status_code=404,
            request_id=error.request_id,
            detail=error.detail,
        ) from error

    def _listed(self, call: Call, fetch: Fetch) -> list[dict[str, Any]] | None:
        question = Call(
            "GET", f"{self.base_url}/models", headers=_HEADERS, authorization=call.authorization
        )
        try:
            with closing(fetch(question)) as reply:
                return parse_list(reply.read())
        except LLMError as failure:
            if fetch.scope.over:
                raise
            logger.debug("the models could not be listed: %s", failure)
            return None


def _general_model(models: list[dict[str, Any]], but: str) -> str | None:
    """The first model for chats in general, other than ``but``."""
    names = [
        model["id"]
        for model in models
        if isinstance(model.get("id"), str)
        and model.get("type", "chat") == "chat"
        and "embed" not in model["id"].lower()
        and model["id"] != but
    ]
    own = [name for name in names if name.lower().startswith("gigachat")]
    return next(iter(own or names), None)


def _check_order(request: Request) -> None:
    systems = [n for n, message in enumerate(request.messages) if message["role"] == "system"]
    if systems in ([], [0]):
        return
    where = "there are two or more" if len(systems) > 1 else f"it is message {systems[0]}"
    raise InvalidRequestError(
        f"GigaChat takes one system message, which has to be the first; {where}: join them"
    )


def _message(message: Mapping[str, Any]) -> dict[str, Any]:
    """A message in this service's terms, where OpenAI's for functions are others."""
    told = dict(message)
    if told["role"] == "tool":
        told["role"] = "function"
        told.pop("tool_call_id", None)
    calls = told.pop("tool_calls", None)
    if calls:
        told["function_call"] = dict(calls[0]["function"])
        if calls[0].get("id"):
            told["functions_state_id"] = calls[0]["id"]
    arguments = (told.get("function_call") or {}).get("arguments")
    if isinstance(arguments, str):
        told["function_call"] = {**told["function_call"], "arguments": _arguments(arguments)}
    return told


def _arguments(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        raise InvalidRequestError("the arguments of a function call are not JSON") from None


def _field(entry: Any, name: str, *kinds: type) -> Any:
    value = entry.get(name) if isinstance(entry, dict) else None
    if type(value) not in kinds:
        raise ProtocolError(f"the reply has {type(value).__name__} where {name} was due")
    return value
