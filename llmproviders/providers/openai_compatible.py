"""Any server that speaks OpenAI's chat completions: Ollama, llama.cpp, vLLM, commercial APIs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar
from weakref import WeakKeyDictionary

from .._account.arguments import ProviderArguments, masked
from .._account.keys import Key, digest, take
from .._checks import boolean, whole
from .._http.error_map import is_wrong_path
from .._http.error_rules import NOTHING_LISTENS
from .._http.types import HTTPRequest, HTTPResponse
from .._redact import Redacted, Secret, conceal, redact
from .._request import SAMPLING, ChatRequest, Unpack
from .._runtime.scope import CancelScope
from ..errors import (
    ConnectionFailed,
    InvalidRequestError,
    LLMError,
    MissingAuthError,
    ModelNotFoundError,
    ProtocolError,
    UnsupportedError,
    retold,
)
from ..messages import RESULTS, Message, answered
from ..provider import Catalogue, Fetch, Provider
from ..results import Embedding
from ._chat_completions import parse_chat
from ._chat_requests import (
    TOOL_PARAMS,
    check_images,
    is_batch_too_large,
    refused_field,
    with_images,
    with_tools,
    without,
)
from ._listings import parse_embeddings, parse_list, parse_models
from ._local_servers import local_server_at

MOST_TEXTS = 256
"""Most texts in one request for vectors, until the server says that this is too many."""

_NO_LIST = (404, 405, 501)

# Only GigaChat has it.
_FOREIGN = ("functions_state_id", "attachments")

_HEADERS = {"Accept": "application/json, text/event-stream", "Accept-Encoding": "gzip, deflate"}


_CHAT_PATH = "/chat/completions"


class OpenAICompatible(Provider):
    """OpenAI, or any server that speaks its protocol: ``/chat/completions`` under ``base_url``.

    Args:
        api_key: the key, if the server needs one, or where it is stored; ``OPENAI_API_KEY``.
        max_concurrency: the most requests at a time in this process for one key; None: no limit.
        think_tags: whether ``<think>...</think>`` at the start of a reply is reasoning, not text.
        base_url: the address with the path, which usually ends in ``/v1``; ``OPENAI_BASE_URL``.

    Everything else is as in :class:`Provider`.

    >>> local = OpenAICompatible(base_url="http://localhost:11434/v1", model="llama3.2")
    >>> local.get_model(None)
    'llama3.2'
    """

    url = "https://api.openai.com/v1"
    api_endpoint = f"{url}/chat/completions"
    default_model = "gpt-4o-mini"
    models = Catalogue("gpt-4o-mini", "gpt-4o")
    open_catalogue = True
    #: Model for ``embed`` at the service's own address, or None.
    embedding_model: ClassVar[str | None] = "text-embedding-3-small"
    supports_tools = True
    supports_schema = True
    supports_images = True
    supported_params = SAMPLING - {"repetition_penalty", "profanity_check"}
    environment: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "api_key": ("OPENAI_API_KEY",),
        "base_url": ("OPENAI_BASE_URL",),
        "model": ("OPENAI_MODEL",),
    }

    def __init__(
        self,
        *,
        api_key: Key | None = None,
        max_concurrency: int | None = None,
        think_tags: bool = True,
        **common: Unpack[ProviderArguments],
    ) -> None:

        self._api_key = api_key = take("api_key", api_key)
        super().__init__(**masked(common))

        self.max_concurrency = (
            None if max_concurrency is None else whole("max_concurrency", max_concurrency)
        )
        self.think_tags = boolean("think_tags", think_tags)
        self._batch = MOST_TEXTS
        self._checked_key: Secret | None = None
        #: Model -> fields that the server refused for it.
        self._refused: dict[str, frozenset[str]] = {}
        #: Call -> those that were first refused in it.
        self._refused_in: WeakKeyDictionary[CancelScope, frozenset[str]] = WeakKeyDictionary()

    def credential_digest(self) -> str | None:
        """A hash of the key and the address; None if there is no key."""
        key = self.secret("api_key", self._api_key)
        return digest(key, self.base_url) if key else None

    def identity(self) -> list[Any]:
        """Also whether thoughts are part of the text."""
        return [*super().identity(), self.think_tags]

    def check_supported(self, request: ChatRequest) -> None:
        """Refuse what the server does not support; all servers accept JSON without a schema.

        Raises:
            UnsupportedError: it does not.
            InvalidRequestError: a file cannot be attached.
        """
        kind = request.params.get("response_format", {}).get("type")
        if kind == "json_schema" and not self.supports_schema:
            raise UnsupportedError(f"{self.name} has no json_schema, only json_object")
        if kind == "json_object":
            others = {n: v for n, v in request.params.items() if n != "response_format"}
            request = replace(request, params=others)
        super().check_supported(request)
        for number, message in enumerate(request.messages):
            if message.get("attachments"):
                raise UnsupportedError(
                    f"message {number} has attachments, which are files of GigaChat; "
                    "use attach= or image parts"
                )
        if request.attach:
            check_images(request.messages, request.attach)

    def prepare(self, request: ChatRequest, fetch: Fetch) -> HTTPRequest:
        """Put the messages and parameters into a JSON body."""
        messages: Sequence[Message] = request.messages
        if request.attach:
            messages = with_images(messages, request.attach)
        body = {
            "model": request.model,
            "messages": _history(messages),
            **self.how_to_send(request),
            **self.chat_params(request),
        }
        refused = self._refused.get(request.model or "")
        if refused:
            body = without(body, refused)
        if not request.params.keys().isdisjoint(("extra_body", "tools")):
            body = request.with_extra_body(body)
        return self._call("POST", _CHAT_PATH, json=body, own_headers=request.extra_headers)

    def how_to_send(self, request: ChatRequest) -> dict[str, Any]:
        """The fields that ask for a stream or for the whole reply, depending on ``request``."""
        if not request.stream:
            return {"stream": False}
        return {"stream": True, "stream_options": {"include_usage": True}}

    def chat_params(self, request: ChatRequest) -> dict[str, Any]:
        """The parameters of ``request`` for this service; subclasses change them."""
        params = self.sampling(request) if request.params else {}
        if not TOOL_PARAMS.isdisjoint(params):
            params = with_tools(params)
        if "max_completion_tokens" in params:
            params.pop("max_tokens", None)
        return params

    def recover(
        self, error: LLMError, call: HTTPRequest | None, request: ChatRequest, fetch: Fetch
    ) -> str | None:
        """Leave out or rename a field that the server says it does not accept.

        This is remembered for the model, unless the call fails nevertheless. Fields of the
        caller's ``extra_body`` stay. The same applies to fields that other services added to
        messages in the history.
        """
        if call is None:
            return None
        # extra_body may have replaced the model in the body.
        model = self.get_model(request.model)
        known = self._refused.get(model, frozenset())
        field = self._refused_field(error, call, request)
        if field is None:
            if in_vain := self._refused_in.pop(fetch.scope, None):
                self._refused[model] = known - in_vain
            return None
        # The other field is meaningless without it.
        names = {field, "stream_options"} if field == "stream" else {field}
        new = self._refused_in.get(fetch.scope, frozenset()) | (names - known)
        self._refused_in[fetch.scope] = new
        self._refused[model] = known | names
        return f"request without {field}"

    @staticmethod
    def _refused_field(error: LLMError, call: HTTPRequest, request: ChatRequest) -> str | None:
        sent = call.json
        if not isinstance(error, InvalidRequestError) or not isinstance(sent, dict):
            return None
        if "messages" not in sent:
            return None
        extra_body = request.params.get("extra_body", {})
        return refused_field(error, {n: v for n, v in sent.items() if n not in extra_body})

    def parse(self, reply: HTTPResponse) -> Iterator[str]:
        """Read a stream or a whole reply; see ``parse_chat``."""
        return parse_chat(reply, think_tags=self.think_tags)

    def describe_error(self, error: LLMError, request: ChatRequest) -> LLMError:
        """Say what to do about a missing model, a wrong address or a server that is not running."""
        if type(error) is ModelNotFoundError and error.status_code is not None:
            local = local_server_at(self.base_url, self.name)
            asked = request.asked_model() or self.model
            message = f"{self.name} has no model {asked or self.default_model!r}: {error}; "
            if asked and local and local.pull:
                message += f"`{local.pull.format(asked)}` fetches it; "
            # The caller did not ask for this default.
            message += "" if asked else "name one with model=; "
            listed = f"list_models(), or `llmproviders models {self.name}`, returns its models"
            return retold(error, message + listed)
        if type(error) is ConnectionFailed and _is_refused(error):
            local = local_server_at(self.base_url, self.name)
            if local is None:
                return error
            origin = self.base_url.partition("?")[0].removesuffix("/v1")
            cause = str(error).removesuffix(NOTHING_LISTENS)
            message = f"nothing listens at {origin}; start it: `{local.start}` ({cause})"
            return retold(error, message)
        if is_wrong_path(error):
            path = self.base_url.partition("?")[0]
            hint = "" if path.endswith("/v1") else "; it usually ends in /v1"
            if path.endswith(_CHAT_PATH):
                hint = f"; leave out {_CHAT_PATH}"
            return retold(error, f"{error}; base_url is {self.base_url}{hint}")
        return error

    def list_models(self) -> list[str]:
        """The names of the server's current models; an empty list if it has none.

        Raises:
            InvalidRequestError: the server does not list its models; chats may still work.
            LLMError: as for any call.
        """
        try:
            return self.ask(
                lambda _: self._call("GET", "/models"),
                lambda reply: [redact(model["id"]) for model in parse_models(reply.read())],
            )
        except LLMError as error:
            if error.status_code not in _NO_LIST:
                raise
            raise InvalidRequestError(
                f"{self.name} does not list its models at {self.base_url}/models: {error}; chats "
                "may work, with model= set to a name that the server knows",
                provider=self.name,
                status_code=error.status_code,
                request_id=error.request_id,
                detail=error.detail,
            ) from error

    def embed(self, texts: str | Sequence[str], *, model: str | None = None) -> list[Embedding]:
        """Turn texts into vectors, in batches of a size that the server accepts.

        Args:
            texts: one text, or several.
            model: a model for vectors; None: the service's usual one, else this instance's model.

        Returns:
            An ``Embedding`` (``vector``, ``prompt_tokens``) for each text, in order.

        Raises:
            InvalidRequestError: a text is missing or not a string.
            LLMError: as for any call.

        >>> from llmproviders.sandbox import Sandbox
        >>> with Sandbox() as sandbox:
        ...     server = OpenAICompatible(**sandbox.provider_arguments("openai"))
        ...     sky, sea = server.embed(["the sky", "the sea"])
        >>> len(sky.vector) == len(sea.vector)
        True
        """
        alone = isinstance(texts, str) or not isinstance(texts, Iterable)
        left: list[Any] = [texts] if alone else list(texts)
        if not all(isinstance(text, str) and text for text in left):
            raise InvalidRequestError(
                "texts must be a string or a list of strings, none of them empty"
            )
        request = ChatRequest((), self._embedding_name(model))
        found: list[Embedding] = []
        most = self._batch
        with self.slot(CancelScope()):
            while left:
                batch = left[:most]
                try:
                    found += self._embed(batch, request)
                except InvalidRequestError as error:
                    if len(batch) == 1 or not is_batch_too_large(error):
                        raise
                    most = len(batch) // 2
                else:
                    del left[: len(batch)]
        # Not before: where a single text is refused, the number was not the cause.
        self._batch = most
        return found

    def _embed(self, texts: list[str], request: ChatRequest) -> list[Embedding]:
        body = {"model": request.model, "input": texts}
        vectors = self.ask(
            lambda _: self._call("POST", "/embeddings", json=body),
            lambda reply: parse_embeddings(parse_list(reply.read())),
            request=request,
        )
        if len(vectors) != len(texts):
            raise ProtocolError(
                f"the reply has {len(vectors)} vectors for {len(texts)} texts", provider=self.name
            )
        return vectors

    def _embedding_name(self, model: str | None) -> str:
        """The name to send for a model that makes vectors.

        Raises:
            InvalidRequestError: none was given, and there is no usual one.
        """
        usual = self.embedding_model if self.needs_auth or self.base_url == self.url else self.model
        name = model or usual
        if not name:
            raise InvalidRequestError(
                f"{self.name} has no usual model for vectors: give model=", provider=self.name
            )
        return name

    def check_credentials(self) -> None:
        """Check that there is a key, if the address needs one."""
        self._key()

    def _key(self, own_headers: Mapping[str, str] | None = None) -> Secret | None:
        if self._checked_key is not None:
            conceal(self._checked_key)
            return self._checked_key
        key = self.secret("api_key", self._api_key)
        if isinstance(self._api_key, str):
            # Keys in files and variables may be renewed at any time.
            self._checked_key = key
        needed = self.needs_auth or self.base_url == self.url
        if key is None and needed and self._own_login(own_headers or {}) is None:
            local = (
                ""
                if self.needs_auth
                else (f", or set {self.environment_of('base_url')[-1]} to a server that needs none")
            )
            how = self.why_held_back("api_key") or self.how_to_pass("api_key") + local
            raise MissingAuthError(f"{self.name} needs a key: {how}")
        return key

    def _headers(self) -> dict[str, str]:
        """The headers of every request, without the key."""
        return dict(_HEADERS)

    def _url(self, path: str) -> str:
        """The address of ``path``, keeping the query of ``base_url``."""
        address, mark, query = self.base_url.partition("?")
        return Redacted(address.rstrip("/") + path + mark + query)

    def _call(
        self,
        method: str,
        path: str,
        json: Any = None,
        own_headers: Mapping[str, str] | None = None,
    ) -> HTTPRequest:

        key = self._key(own_headers)
        return HTTPRequest(
            method,
            self._url(path),
            headers=self._headers(),
            json=json,
            authorization=None if key is None else Secret("Bearer " + key),
            # Some gateways label all they send as text/html; the parsers recognize a web page.
            accept="html",
        )


def _is_refused(error: BaseException | None) -> bool:
    """Whether a connection was refused, judged by the causes of the error."""
    while error is not None:
        if isinstance(error, ConnectionRefusedError) or "refused" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def _history(messages: Sequence[Message]) -> list[Message]:
    """Messages in the form of OpenAI's protocol, whichever provider wrote them.

    Calls have ids that no other call of their message has, and their arguments are strings. A
    result has the id of its call.
    """
    answers = answered(messages) if any(m["role"] in RESULTS for m in messages) else {}
    told: list[Message] = []
    for number, message in enumerate(messages):
        # Some libraries write missing fields as null, which servers refuse.
        message = {n: v for n, v in message.items() if n not in _FOREIGN and v is not None}
        legacy = message.pop("function_call", None)
        calls = message.get("tool_calls") or ([{"function": legacy}] if legacy else [])
        if calls:
            message["tool_calls"] = _with_ids(calls, number)
        else:
            message.pop("tool_calls", None)
        if message["role"] in RESULTS:
            message["role"] = "tool"
            if number in answers:
                turn, call = answers[number]
                message["tool_call_id"] = told[turn]["tool_calls"][call]["id"]
            elif "tool_call_id" not in message:
                message["tool_call_id"] = f"call_{message.get('name', 'unknown')}"
        told.append(message)
    return told


def _with_ids(calls: Sequence[Mapping[str, Any]], number: int) -> list[dict[str, Any]]:
    """The calls of message ``number``, each with its own id."""
    found: list[dict[str, Any]] = []
    ids: set[str] = set()
    for n, call in enumerate(calls):
        told = _call(call, f"call_{number}_{n}")
        if told["id"] in ids:
            told["id"] = f"{told['id']}_{n}"
        ids.add(told["id"])
        found.append(told)
    return found


def _call(call: Mapping[str, Any], usual_id: str) -> dict[str, Any]:
    told = {**call, "id": call.get("id") or usual_id, "type": call.get("type") or "function"}
    function = told.get("function")
    if isinstance(function, Mapping):
        arguments = function.get("arguments")
        if not isinstance(arguments, str):
            arguments = json.dumps(arguments or {}, ensure_ascii=False)
        told["function"] = {**function, "arguments": arguments}
    return told
