"""GigaChat: Sber's official API, whose every call needs an access token that lives half an hour."""

from __future__ import annotations

from ..provider import Catalogue, Provider

TYPE_CHECKING = False

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager
    from typing import Any

    import requests

    from .._clock import Scope
    from .._gigachat import Balance, Embedding, TokenCount
    from .._secret import Key
    from .._trust import UnverifiedTLSWarning
    from ..errors import LLMError
    from ..provider import Call, Fetch, Limits, Reply, Request, Timeout, Trust

__all__ = ["Balance", "Embedding", "GigaChat", "TokenCount", "UnverifiedTLSWarning"]

_FALSE = ("0", "f", "false", "n", "no", "off")


def __getattr__(name: str) -> object:
    if name == "UnverifiedTLSWarning":
        from .. import _trust

        return _trust.UnverifiedTLSWarning
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .. import _gigachat

    return getattr(_gigachat, name)


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
    _modules = ("binascii", "platformdirs", "tempfile", "._gigachat", "._headers")
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
        from .._redact import Redacted, hidden
        from .._secret import take

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
        )
        from .._files import check_path
        from .._numbers import FINITE, seconds, whole
        from .._oauth import INDIVIDUAL

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
            import filelock  # noqa: F401 - no call imports it
        self.ca_bundle = ca_bundle or self._setting("ca_bundle", None)
        if verify is None:
            verify = (self._setting("verify", None) or "").strip().lower() not in _FALSE
        self.verify = verify
        if not verify:
            from .. import _trust

            _trust.warn_unverified(self.name)
        for argument, path in (("token_cache", self.token_cache), ("ca_bundle", self.ca_bundle)):
            if path is not None:
                check_path(argument, path)
        self._stand_in: str | None = None
        # The service's own list, asked for where the caller names a model by an older name.
        self._listed: frozenset[str] | None = None
        self._refused_token: str | None = None

    def trust(self) -> Trust:
        """The usual authorities, those of ``ca_bundle``, and those that the user took in."""
        from .. import _gigachat

        return _gigachat.trust(self)

    def place(self, scope: Scope) -> AbstractContextManager[float]:
        """Wait for one of the ``max_concurrency`` places of this key."""
        from .. import _gigachat

        return _gigachat.place(self, scope)

    def credential_digest(self) -> str | None:
        """A hash of the key, its scope and its token service, or of the token that was given."""
        from .. import _gigachat

        return _gigachat.credential_digest(self)

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
        from .. import _gigachat

        return _gigachat.find_model(self, name, fetch)

    def prepare(self, request: Request, fetch: Fetch) -> Call:
        """Put the messages and parameters into a JSON body, and get a token for it."""
        from dataclasses import replace

        from .._gigachat import make_call

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

    def parse(self, reply: Reply) -> Iterator[str]:
        """Read a stream or a whole reply; see ``parse_chat``."""
        from .._chat_completions import parse_chat

        return parse_chat(reply)

    def mend(
        self, error: LLMError, call: Call | None, request: Request, fetch: Fetch
    ) -> str | None:
        """Renew a token that was refused, and find a default model that is there.

        Raises:
            ModelNotFoundError: the model that the caller named is not there; with those that are.
        """
        from .. import _gigachat

        return _gigachat.mend(self, error, call, request, fetch)

    def explain(self, error: LLMError, request: Request) -> LLMError:
        """Say what to do about it, where this service's statuses tell more than their words."""
        from .. import _gigachat

        return _gigachat.explain(self, error, request)

    def check_credentials(self) -> None:
        """Look for an access token, or a key that has the shape of one."""
        from .. import _gigachat

        _gigachat.check_credentials(self)

    def list_models(self) -> list[str]:
        """The names of the models that the service has now.

        Raises:
            LLMError: as for any call.
        """
        from .. import _gigachat

        return _gigachat.list_models(self)

    def balance(self) -> list[Balance]:
        """What is left of the tokens that were paid for.

        Returns:
            A ``Balance`` (``model``, ``tokens``) for each model.

        Raises:
            AuthenticationError: this account pays as it goes, and has no balance.
            LLMError: as for any call.
        """
        from .. import _gigachat

        return _gigachat.balance(self)

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
        from .. import _gigachat

        return _gigachat.count_tokens(self, texts, model=model)

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
        from .. import _gigachat

        return _gigachat.embed(self, texts, model=model)


def _check_version(base_url: str) -> None:
    """Refuse the address of the API's version 2, whose chats are of another shape."""
    path = base_url.partition("?")[0].rstrip("/").removesuffix("/chat/completions")
    if path.endswith("/v2"):
        from ..errors import InvalidRequestError

        raise InvalidRequestError(
            f"base_url is {base_url}: version 2 of GigaChat's API is not supported; use the "
            "address that ends in /v1"
        )


def _check_order(request: Request) -> None:
    systems = [n for n, message in enumerate(request.messages) if message["role"] == "system"]
    if systems in ([], [0]):
        return
    from ..errors import InvalidRequestError

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
    import json

    from ..errors import InvalidRequestError

    try:
        return json.loads(text)
    except ValueError:
        raise InvalidRequestError("the arguments of a function call are not JSON") from None
