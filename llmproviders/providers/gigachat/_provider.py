"""How a ``GigaChat`` is let in, what its service means, and what it answers beside chats."""

from __future__ import annotations

import json
import os
import re
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from ..._account.keys import Key, digest, take
from ..._checks import FINITE, is_count, is_finite, seconds, whole
from ..._http import certificates
from ..._http.decoding import decode_json
from ..._http.types import HTTPRequest, HTTPResponse, Limits, Rate, Timeout, Trust
from ..._log import logger
from ..._printable import one_line
from ..._redact import Redacted, Secret, hidden
from ..._request import ChatRequest
from ..._runtime.files import check_path, load_locks
from ..._runtime.scope import CancelScope
from ...errors import (
    AuthenticationError,
    ConnectionFailed,
    InvalidRequestError,
    LLMError,
    ModelNotFoundError,
    ProtocolError,
    QuotaExceededError,
    RateLimitError,
    retold,
)
from ...provider import Catalogue, Fetch, Provider
from ...results import Usage
from .._chat_completions import parse_chat, parse_list, parse_models
from . import _credentials, _root
from ._credentials import CABINET, INDIVIDUAL, _account, _bearer, _given_token, _key, _renew_token

if TYPE_CHECKING:
    import requests


HEADERS = {"Accept": "application/json, text/event-stream", "Accept-Encoding": "gzip, deflate"}


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


def trust(giga: GigaChat) -> Trust:
    """What ``GigaChat.trust`` does."""
    if not giga.verify:
        return Trust(verify=False)
    bundle = certificates.bundle(giga.ca_bundle) if giga.ca_bundle else ""
    return Trust(extra=bundle + _root.pinned() or None)


def credential_digest(giga: GigaChat) -> str | None:
    """What ``GigaChat.credential_digest`` does."""
    token = _given_token(giga)
    if token is not None:
        return digest(token)
    key = _key(giga)
    return None if key is None else _account(giga, key).credential


def mend(
    giga: GigaChat, error: LLMError, call: HTTPRequest | None, request: ChatRequest, fetch: Fetch
) -> str | None:
    """What ``GigaChat.mend`` does."""
    if call is None:
        return None
    if isinstance(error, AuthenticationError) and error.status_code in (400, 401):
        return _renew_token(giga, call, fetch)
    if error.status_code == 404 and isinstance(call.json, dict) and "model" in call.json:
        return _find_model(giga, error, call, request, fetch)
    return None


def explain(giga: GigaChat, error: LLMError, request: ChatRequest) -> LLMError:
    """What ``GigaChat.explain`` does."""
    if isinstance(error.__cause__, LLMError):
        return error
    if isinstance(error, ConnectionFailed) and error.detail == "certificate":
        return retold(error, _root.advice(error))
    if error.status_code is None:
        return error
    if isinstance(error, AuthenticationError) and error.status_code in (400, 401):
        advice = _advice_on_refusal(giga)
    elif isinstance(error, QuotaExceededError):
        advice = _advice_on_quota(giga, request)
    elif isinstance(error, RateLimitError):
        advice = _advice_on_rate(giga)
    elif error.status_code == 404:
        advice = _advice_on_address(giga, error, request)
    else:
        return error
    return retold(error, f"{error}; {advice}")


def _advice_on_refusal(giga: GigaChat) -> str:
    if _given_token(giga) is not None:
        return (
            "the access token that was given is not valid (any more; one lives 30 minutes): "
            "give the authorization key instead, GIGACHAT_CREDENTIALS, and tokens are fetched"
        )
    return f"{giga.name} refused a token that it had just given; look at the key in {CABINET}"


def _advice_on_quota(giga: GigaChat, request: ChatRequest) -> str:
    return (
        f"the tokens paid for {giga.get_model(request.model)} are used up, which balance() "
        f"tells for every model: buy more in {CABINET}, or ask another model"
    )


def _advice_on_address(giga: GigaChat, error: LLMError, request: ChatRequest) -> str:
    asked = giga.get_model(request.model)
    home = _home(giga, asked)
    if home is not None:
        return home
    if isinstance(error, ModelNotFoundError):
        return f"{asked} was asked for, and the models that there are could not be listed"
    hint = "" if giga.base_url.endswith("/v1") else ", which usually ends in /v1"
    return f"check base_url{hint}: it is {giga.base_url}"


def _advice_on_rate(giga: GigaChat) -> str:
    return (
        f"an account has a number of requests at a time ({giga.max_concurrency} are made "
        "here): another program, process or machine may be using the same one; processes with "
        "one token_cache wait for one another"
    )


def list_models(giga: GigaChat) -> list[str]:
    """What ``GigaChat.list_models`` does."""
    return giga.ask(
        lambda fetch: make_call(giga, fetch, "GET", "/models"),
        lambda reply: [model["id"] for model in parse_models(reply.read())],
    )


def balance(giga: GigaChat) -> list[Balance]:
    """What ``GigaChat.balance`` does."""
    try:
        entries = giga.ask(
            lambda fetch: make_call(giga, fetch, "GET", "/balance"),
            lambda reply: parse_list(reply.read(), "balance"),
        )
    except AuthenticationError as error:
        if error.status_code != 403:
            raise
        raise retold(error, f"{error}; an account that pays as it goes has no balance") from (error)
    return [
        Balance(_field(entry, "usage", str), int(_number(entry.get("value"), "value")))
        for entry in entries
    ]


def count_tokens(
    giga: GigaChat, texts: str | Sequence[str], *, model: str | None
) -> list[TokenCount]:
    """What ``GigaChat.count_tokens`` does."""
    return [
        TokenCount(_count(entry, "tokens"), _count(entry, "characters"))
        for entry in _about(giga, texts, "/tokens/count", model, CancelScope())
    ]


def embed(giga: GigaChat, texts: str | Sequence[str], *, model: str) -> list[Embedding]:
    """A vector for each of ``texts``, in their order.

    Raises:
        LLMError: as for any call.
    """
    scope = CancelScope()
    try:
        with giga.place(scope):
            entries = _about(giga, texts, "/embeddings", model, scope)
    except LLMError as error:
        error.provider = error.provider or giga.name
        raise
    except BaseException:
        scope.cancel("the call was interrupted")
        raise
    entries.sort(key=lambda entry: _field(entry, "index", int))
    return [
        Embedding(
            [_number(item, "embedding") for item in _field(entry, "embedding", list)],
            (Usage.from_json(entry.get("usage")) or Usage()).prompt_tokens,
        )
        for entry in entries
    ]


def _about(
    giga: GigaChat, texts: str | Sequence[str], path: str, model: str | None, scope: CancelScope
) -> list[dict[str, Any]]:
    inputs = [texts] if isinstance(texts, str) else list(texts)
    if not inputs or not all(isinstance(text, str) for text in inputs):
        raise InvalidRequestError("texts is a string or a list of strings, at least one")

    def make(fetch: Fetch) -> HTTPRequest:
        body = {"model": giga.find_model(model, fetch), "input": inputs}
        return make_call(giga, fetch, "POST", path, json=body)

    def read(reply: HTTPResponse) -> list[dict[str, Any]]:
        answer = decode_json(reply.read())
        entries = answer.get("data") if isinstance(answer, dict) else answer
        if not isinstance(entries, list) or len(entries) != len(inputs):
            raise ProtocolError(f"the reply to {path} has not an entry for each text")
        return entries

    return giga.ask(make, read, request=ChatRequest((), model=model), scope=scope)


def make_call(
    giga: GigaChat,
    fetch: Fetch,
    method: str,
    path: str,
    *,
    json: Any = None,
    headers: Mapping[str, str] | None = None,
) -> HTTPRequest:
    """A request to the chat service, with the token that lets it in."""
    return HTTPRequest(
        method,
        giga.base_url + path,
        headers={**HEADERS, "X-Request-ID": str(uuid.uuid4()), **(headers or {})},
        json=json,
        authorization=Secret("Bearer " + _bearer(giga, fetch)),
    )


def find_model(giga: GigaChat, name: str | None, fetch: Fetch) -> str:
    """What ``GigaChat.find_model`` does."""
    word = name or giga.model
    if word in giga.model_aliases and giga._listed is None:
        models = _listed(giga, fetch, Secret("Bearer " + _bearer(giga, fetch)))
        if models is not None:
            giga._listed = frozenset(model["id"] for model in models)
    return giga.get_model(name)


def _find_model(
    giga: GigaChat, error: LLMError, call: HTTPRequest, request: ChatRequest, fetch: Fetch
) -> str | None:
    asked = str(call.json["model"])
    models = _listed(giga, fetch, call.authorization)
    if models is None:
        return None
    found = _stand_in(models, asked)
    is_default = request.model is None and giga.model is None
    if is_default and asked == giga.get_model(None) and found is not None:
        logger.warning(
            "%s has no model %s any more; %s is asked instead: name one with model= or "
            "GIGACHAT_MODEL",
            giga.name,
            asked,
            one_line(found),
        )
        giga._stand_in = found
        return "model"
    failure = giga.lacks(
        asked,
        [model["id"] for model in models],
        status_code=404,
        request_id=error.request_id,
        detail=error.detail,
    )
    home = _home(giga, asked)
    said = f"{failure} ({error.detail or 'HTTP 404'})"
    raise retold(failure, f"{said}; {home}" if home else said) from error


# Models that one of the two hosts has and the other has not.
_HOMES = {"gigachat-3-ultra": "https://api.giga.chat/v1"}


def _home(giga: GigaChat, model: str) -> str | None:
    """Where a model lives, if that is another host than the one that was asked."""
    for name, home in _HOMES.items():
        if model.lower().startswith(name) and urlsplit(giga.base_url)[1] != urlsplit(home)[1]:
            return f"{model} is on {home}: set base_url or GIGACHAT_BASE_URL to it"
    return None


def _listed(giga: GigaChat, fetch: Fetch, authorization: str | None) -> list[dict[str, Any]] | None:
    question = HTTPRequest(
        "GET", f"{giga.base_url}/models", headers=HEADERS, authorization=authorization
    )
    try:
        with closing(fetch(question)) as reply:
            models = parse_models(reply.read())
            reply.finish()
            return models
    except LLMError as failure:
        if fetch.scope.over:
            raise
        logger.debug("the models could not be listed: %s", failure)
        return None


def _stand_in(models: list[dict[str, Any]], gone: str) -> str | None:
    """The first model for chats of the tier of ``gone``, the service's own before others.

    A dearer one is never taken unasked.
    """
    names = [
        model["id"]
        for model in models
        if model.get("type", "chat") == "chat"
        and "embed" not in model["id"].lower()
        and model["id"] != gone
        and _tier(model["id"]) == _tier(gone)
    ]
    own = [name for name in names if name.lower().startswith("gigachat")]
    return next(iter(own or names), None)


def _tier(model: str) -> str:
    """What a model costs: ``"ultra"``, ``"max"``, ``"pro"`` or "", the cheapest."""
    found = re.search(r"(?<![a-z])(ultra|max|pro)(?![a-z])", model.lower())
    return found[1] if found else ""


def _field(entry: Any, name: str, *kinds: type) -> Any:
    value = entry.get(name) if isinstance(entry, dict) else None
    if type(value) not in kinds:
        raise ProtocolError(f"the reply has {type(value).__name__} where {name} was due")
    return value


def _count(entry: Any, name: str) -> int:
    value: int = _field(entry, name, int)
    if not is_count(value):
        raise ProtocolError(f"the reply has a number where {name} was due that cannot be one")
    return value


def _number(value: Any, name: str) -> float:
    if not is_finite(value):
        raise ProtocolError(f"the reply has {type(value).__name__} where {name} was due")
    return float(value)


_FALSE = ("0", "f", "false", "n", "no", "off")


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
        per_minute: Rate | None = None,
        per_day: Rate | None = None,
    ) -> None:

        self._api_key = api_key = take("api_key", api_key)
        self._access_token = access_token = take("access_token", access_token)
        base_url, proxy = hidden(base_url), hidden(proxy)
        super().__init__(
            base_url=base_url,
            model=model,
            proxy=proxy,
            timeout=timeout,
            session=session,
            name=name,
            limits=limits,
            per_minute=per_minute,
            per_day=per_day,
        )

        _check_version(self.base_url)
        found = self._setting("scope", scope)
        self.scope = INDIVIDUAL if found is None else found
        self.auth_url = Redacted(self._setting("auth_url", auth_url) or self.default_auth_url)
        if max_concurrency is None:
            max_concurrency = 1 if self.scope == INDIVIDUAL else 10
        self.max_concurrency = whole("max_concurrency", max_concurrency)
        self.update_interval = seconds("update_interval", update_interval, zero=True, most=FINITE)
        self.token_cache = token_cache
        if token_cache is not None:
            load_locks()
        self.ca_bundle = ca_bundle or self._setting("ca_bundle", None)
        if verify is None:
            verify = (self._setting("verify", None) or "").strip().lower() not in _FALSE
        self.verify = verify
        if not verify:
            certificates.warn_unverified(self.name)
        for argument, path in (("token_cache", self.token_cache), ("ca_bundle", self.ca_bundle)):
            if path is not None:
                check_path(argument, path)
        self._stand_in: str | None = None
        # The service's own list, asked for where the caller names a model by an older name.
        self._listed: frozenset[str] | None = None
        self._refused_token: str | None = None

    def trust(self) -> Trust:
        """The usual authorities, those of ``ca_bundle``, and those that the user took in."""
        return trust(self)

    def place(self, scope: CancelScope) -> AbstractContextManager[float]:
        """Wait for one of the ``max_concurrency`` places of this key."""
        return _credentials.place(self, scope)

    def credential_digest(self) -> str | None:
        """A hash of the key, its scope and its token service, or of the token that was given."""
        return credential_digest(self)

    def get_model(self, name: str | None) -> str:
        """The service's own name for a model or an alias; None is the default.

        A name that is not known here is passed on: the catalogue changes without notice.

        >>> GigaChat(model="GigaChat-Max").get_model(None)
        'GigaChat-2-Max'
        """
        word = name or self.model
        if word is None and self._stand_in is not None:
            return self._stand_in
        if word is not None and self._listed is not None and word in self._listed:
            return word
        return super().get_model(name)

    def find_model(self, name: str | None, fetch: Fetch) -> str:
        """The name to send: an older name is replaced only where the service does not list it."""
        return find_model(self, name, fetch)

    def prepare(self, request: ChatRequest, fetch: Fetch) -> HTTPRequest:
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
        call = make_call(self, fetch, "POST", "/chat/completions", json=body, headers=headers)
        # A gateway may say text/html of a stream; the reader tells a web page by itself.
        return replace(call, accept="html")

    def parse(self, reply: HTTPResponse) -> Iterator[str]:
        """Read a stream or a whole reply; see ``parse_chat``."""
        return parse_chat(reply)

    def mend(
        self, error: LLMError, call: HTTPRequest | None, request: ChatRequest, fetch: Fetch
    ) -> str | None:
        """Renew a token that was refused, and find a default model that is there.

        Raises:
            ModelNotFoundError: the model that the caller named is not there; with those that are.
        """
        return mend(self, error, call, request, fetch)

    def explain(self, error: LLMError, request: ChatRequest) -> LLMError:
        """Say what to do about it, where this service's statuses tell more than their words."""
        return explain(self, error, request)

    def check_credentials(self) -> None:
        """Look for an access token, or a key that has the shape of one."""
        _credentials.check_credentials(self)

    def list_models(self) -> list[str]:
        """The names of the models that the service has now.

        Raises:
            LLMError: as for any call.
        """
        return list_models(self)

    def balance(self) -> list[Balance]:
        """What is left of the tokens that were paid for.

        Returns:
            A ``Balance`` (``model``, ``tokens``) for each model.

        Raises:
            AuthenticationError: this account pays as it goes, and has no balance.
            LLMError: as for any call.
        """
        return balance(self)

    def count_tokens(
        self, texts: str | Sequence[str], *, model: str | None = None
    ) -> list[TokenCount]:
        """How many tokens texts have for a model.

        Args:
            texts: one text, or several.
            model: a model or an alias; None for the default.

        Returns:
            A ``TokenCount`` (``tokens``, ``characters``) for each text, in their order.

        Raises:
            LLMError: as for any call.

        >>> from llmproviders.sandbox import Sandbox
        >>> with Sandbox() as sandbox:
        ...     giga = GigaChat(**sandbox.provider_arguments("gigachat"))
        ...     print(giga.count_tokens("Why is the sky blue?"))
        [TokenCount(tokens=5, characters=20)]
        """
        return count_tokens(self, texts, model=model)

    def embed(self, texts: str | Sequence[str], *, model: str = "Embeddings") -> list[Embedding]:
        """Make vectors of texts.

        Args:
            texts: one text, or several.
            model: a model for vectors.

        Returns:
            An ``Embedding`` (``vector``, ``prompt_tokens``) for each text, in their order.

        Raises:
            LLMError: as for any call.

        >>> from llmproviders.sandbox import Sandbox
        >>> with Sandbox() as sandbox:
        ...     giga = GigaChat(**sandbox.provider_arguments("gigachat"))
        ...     sky, sea = giga.embed(["the sky", "the sea"])
        >>> len(sky.vector) == len(sea.vector)
        True
        """
        return embed(self, texts, model=model)


def _check_version(base_url: str) -> None:
    """Refuse the address of the API's version 2, whose chats are of another shape."""
    path = base_url.partition("?")[0].rstrip("/").removesuffix("/chat/completions")
    if path.endswith("/v2"):
        raise InvalidRequestError(
            f"base_url is {base_url}: version 2 of GigaChat's API is not supported; use the "
            "address that ends in /v1"
        )


def _check_order(request: ChatRequest) -> None:
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
        # An id that another service, or our reader, made up is none that this one knows.
        if calls[0].get("id") and not calls[0]["id"].startswith("call_"):
            told.setdefault("functions_state_id", calls[0]["id"])
    arguments = (told.get("function_call") or {}).get("arguments")
    if isinstance(arguments, str):
        told["function_call"] = {**told["function_call"], "arguments": _arguments(arguments)}
    return told


def _arguments(text: str) -> Any:

    try:
        return json.loads(text)
    except ValueError:
        raise InvalidRequestError("the arguments of a function call are not JSON") from None
