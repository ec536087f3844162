"""How a ``GigaChat`` is let in, what its service means, and what it answers beside chats."""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from . import _trust
from ._call import Call, Reply, Trust
from ._chat_completions import parse_list, parse_models
from ._clock import Scope
from ._concurrency import Place
from ._lines import decode_json
from ._log import logger
from ._numbers import is_count, is_finite
from ._oauth import CABINET, NOT_A_KEY, Account, check_key, conceal_key
from ._places import token_cache as users_token_cache
from ._printable import one_line
from ._redact import Secret
from ._request import Request
from ._secret import digest
from ._token import TokenKeeper, keeper
from .errors import (
    AuthenticationError,
    ConnectionFailed,
    InvalidRequestError,
    LLMError,
    MissingAuthError,
    ModelNotFoundError,
    ProtocolError,
    QuotaExceededError,
    RateLimitError,
    retold,
)
from .results import Usage

if TYPE_CHECKING:
    from .provider import Fetch
    from .providers.gigachat import GigaChat

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
    bundle = _trust.bundle(giga.ca_bundle) if giga.ca_bundle else ""
    return Trust(extra=bundle + _trust.pinned() or None)


def credential_digest(giga: GigaChat) -> str | None:
    """What ``GigaChat.credential_digest`` does."""
    token = _given_token(giga)
    if token is not None:
        return digest(token)
    key = _key(giga)
    return None if key is None else _account(giga, key).credential


def place(giga: GigaChat, scope: Scope) -> AbstractContextManager[float]:
    """What ``GigaChat.place`` does."""
    credential = giga.credential_digest()
    if credential is None:
        return nullcontext(0.0)
    return Place(credential, giga.max_concurrency, scope, file=_cache_file(giga))


def mend(
    giga: GigaChat, error: LLMError, call: Call | None, request: Request, fetch: Fetch
) -> str | None:
    """What ``GigaChat.mend`` does."""
    if call is None:
        return None
    if isinstance(error, AuthenticationError) and error.status_code in (400, 401):
        return _renew_token(giga, call, fetch)
    if error.status_code == 404 and isinstance(call.json, dict) and "model" in call.json:
        return _find_model(giga, error, call, request, fetch)
    return None


def explain(giga: GigaChat, error: LLMError, request: Request) -> LLMError:
    """What ``GigaChat.explain`` does."""
    if isinstance(error.__cause__, LLMError):
        return error
    if isinstance(error, ConnectionFailed) and error.detail == "certificate":
        return retold(error, _trust.advice(error))
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


def _advice_on_quota(giga: GigaChat, request: Request) -> str:
    return (
        f"the tokens paid for {giga.get_model(request.model)} are used up, which balance() "
        f"tells for every model: buy more in {CABINET}, or ask another model"
    )


def _advice_on_address(giga: GigaChat, error: LLMError, request: Request) -> str:
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


def check_credentials(giga: GigaChat) -> None:
    """What ``GigaChat.check_credentials`` does."""
    if _given_token(giga) is not None:
        return
    key = _key(giga)
    if key is None:
        raise _no_key(giga)
    check_key(key)


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
        for entry in _about(giga, texts, "/tokens/count", model, Scope())
    ]


def embed(giga: GigaChat, texts: str | Sequence[str], *, model: str) -> list[Embedding]:
    """A vector for each of ``texts``, in their order.

    Raises:
        LLMError: as for any call.
    """
    scope = Scope()
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
    giga: GigaChat, texts: str | Sequence[str], path: str, model: str | None, scope: Scope
) -> list[dict[str, Any]]:
    inputs = [texts] if isinstance(texts, str) else list(texts)
    if not inputs or not all(isinstance(text, str) for text in inputs):
        raise InvalidRequestError("texts is a string or a list of strings, at least one")

    def make(fetch: Fetch) -> Call:
        body = {"model": giga.find_model(model, fetch), "input": inputs}
        return make_call(giga, fetch, "POST", path, json=body)

    def read(reply: Reply) -> list[dict[str, Any]]:
        answer = decode_json(reply.read())
        entries = answer.get("data") if isinstance(answer, dict) else answer
        if not isinstance(entries, list) or len(entries) != len(inputs):
            raise ProtocolError(f"the reply to {path} has not an entry for each text")
        return entries

    return giga.ask(make, read, request=Request((), model=model), scope=scope)


def make_call(
    giga: GigaChat,
    fetch: Fetch,
    method: str,
    path: str,
    *,
    json: Any = None,
    headers: Mapping[str, str] | None = None,
) -> Call:
    """A request to the chat service, with the token that lets it in."""
    return Call(
        method,
        giga.base_url + path,
        headers={**HEADERS, "X-Request-ID": str(uuid.uuid4()), **(headers or {})},
        json=json,
        authorization=Secret("Bearer " + _bearer(giga, fetch)),
    )


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


def _keeper(giga: GigaChat, account: Account, scope: Scope) -> TokenKeeper:
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


def _renew_token(giga: GigaChat, call: Call, fetch: Fetch) -> str | None:
    refused = Secret((call.authorization or "").removeprefix("Bearer "))
    key = _key(giga)
    if key is None:
        return None
    if refused == _given_token(giga):
        giga._refused_token = refused
    else:
        _keeper(giga, _account(giga, key), fetch.scope).refuse(refused)
    return "token"


def find_model(giga: GigaChat, name: str | None, fetch: Fetch) -> str:
    """What ``GigaChat.find_model`` does."""
    word = name or giga.model
    if word in giga.model_aliases and giga._listed is None:
        models = _listed(giga, fetch, Secret("Bearer " + _bearer(giga, fetch)))
        if models is not None:
            giga._listed = frozenset(model["id"] for model in models)
    return giga.get_model(name)


def _find_model(
    giga: GigaChat, error: LLMError, call: Call, request: Request, fetch: Fetch
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
    question = Call("GET", f"{giga.base_url}/models", headers=HEADERS, authorization=authorization)
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
