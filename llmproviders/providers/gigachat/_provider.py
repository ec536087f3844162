"""GigaChat: chats, error messages, and the service's other calls."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from importlib import import_module
from typing import Any
from urllib.parse import quote

from ..._account.arguments import ProviderArguments, file_path, masked
from ..._account.keys import Key, digest, take
from ..._account.slots import Slot
from ..._checks import FINITE, seconds, whole
from ..._http.reading import ReplyReader
from ..._http.types import HTTPRequest, HTTPResponse, Trust
from ..._log import logger
from ..._printable import one_line
from ..._redact import Redacted, Secret, redact
from ..._request import ChatRequest, Unpack
from ..._runtime.files import load_locks
from ..._runtime.scope import CancelScope
from ..._signals import let_through
from ...errors import (
    AuthenticationError,
    ConnectionFailed,
    InvalidRequestError,
    LLMError,
    MissingAuthError,
    ModelNotFoundError,
    QuotaExceededError,
    RateLimitError,
    retold,
)
from ...provider import Catalogue, Fetch, Provider
from ...results import Embedding, FinishReason, Image
from .._chat_completions import parse_chat
from .._listings import parse_embeddings, parse_list, parse_models
from . import _answers, _dialect, _root, _settings
from ._answers import Balance, TokenCount, UploadedFile
from ._credentials import INDIVIDUAL, STUDIO, Credentials, GivenToken
from ._files import Attachment, DrawnImages, Uploads, about_file
from ._models import home_of, stand_in

HEADERS = {"Accept": "application/json, text/event-stream", "Accept-Encoding": "gzip, deflate"}


class GigaChat(Provider):
    """Sber's GigaChat.

    Args:
        api_key: the authorization key as your account shows it, base64 of ``id:secret``, or where
            it is stored; ``GIGACHAT_CREDENTIALS``.
        scope: ``"GIGACHAT_API_PERS"`` (individuals, the default), ``"GIGACHAT_API_B2B"`` (prepaid)
            or ``"GIGACHAT_API_CORP"`` (postpaid); ``GIGACHAT_SCOPE``.
        auth_url: the full address of the token service; ``GIGACHAT_AUTH_URL``.
        access_token: an existing token, used unchanged; ``GIGACHAT_ACCESS_TOKEN``.
        user: the user's name, for accounts that log in with one; ``GIGACHAT_USER``.
        password: the user's password, or where it is stored; ``GIGACHAT_PASSWORD``.
        cert: a client certificate, as for any provider; without a key, token or password nothing
            else is sent. ``GIGACHAT_CERT_FILE``, ``GIGACHAT_KEY_FILE``.
        token_cache: where the token is stored: None, this process's memory; ``"user"``, a file in
            the user's cache folder; or a file. All processes that name the same file share the
            token, and the slots of ``max_concurrency``.
        update_interval: the seconds between pieces of a stream that the service should aim for.
        max_concurrency: chats and embeddings at a time for one key; default 1 for
            ``GIGACHAT_API_PERS``, else 10. A stream counts until it ends or is closed.
        base_url: with the path that ends in ``/v1``; ``GIGACHAT_BASE_URL``.

    Everything else is as in :class:`Provider`.

    >>> GigaChat().get_model("GigaChat-Pro")
    'GigaChat-2-Pro'
    """

    url = "https://api.giga.chat/v1"
    api_endpoint = f"{url}/chat/completions"
    default_auth_url = "https://ngw.devices.sberbank.ru:9443/api/v2/oauth"
    needs_auth = True
    key_goes_to = {"api_key": ("auth_url", "base_url")}
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
    supported_params = _dialect.TAKEN
    supports_tools = True
    max_concurrency: int
    supports_schema = True
    supports_images = True
    environment = {
        "api_key": ("GIGACHAT_CREDENTIALS",),
        "scope": ("GIGACHAT_SCOPE",),
        "access_token": ("GIGACHAT_ACCESS_TOKEN",),
        "model": ("GIGACHAT_MODEL",),
        "base_url": ("GIGACHAT_BASE_URL",),
        "auth_url": ("GIGACHAT_AUTH_URL",),
        "ca_bundle": ("GIGACHAT_CA_BUNDLE_FILE",),
        "verify": ("GIGACHAT_VERIFY_SSL_CERTS",),
        "user": ("GIGACHAT_USER",),
        "password": ("GIGACHAT_PASSWORD",),
        "cert": ("GIGACHAT_CERT_FILE",),
        "timeout": ("GIGACHAT_TIMEOUT",),
    }
    _trusts_root = False

    def __init__(
        self,
        *,
        api_key: Key | None = None,
        scope: str | None = None,
        auth_url: str | None = None,
        access_token: Key | None = None,
        user: str | None = None,
        password: Key | None = None,
        token_cache: str | os.PathLike[str] | None = None,
        update_interval: float = 0,
        max_concurrency: int | None = None,
        **common: Unpack[ProviderArguments],
    ) -> None:
        api_key = take("api_key", api_key)
        access_token = take("access_token", access_token)
        password = take("password", password)
        if common.get("timeout") is None:
            common["timeout"] = _settings.timeout()
        if common.get("cert") is None:
            common["cert"] = _settings.certificate()
        super().__init__(**masked(common))
        # Calls never import anything, and importing this class does not load TLS.
        import_module(f"{__package__}._root")
        load_locks()
        _settings.check_version(self.base_url)
        self.scope = self._setting("scope", scope) or INDIVIDUAL
        self.auth_url = self._address("auth_url", auth_url) or Redacted(self.default_auth_url)
        if max_concurrency is None:
            max_concurrency = 1 if self.scope == INDIVIDUAL else 10
        self.max_concurrency = whole("max_concurrency", max_concurrency)
        self.update_interval = seconds("update_interval", update_interval, zero=True, most=FINITE)
        self.token_cache = None if token_cache is None else file_path("token_cache", token_cache)
        keys = {"api_key": api_key, "access_token": access_token, "password": password}
        given = {**keys, "user": user}
        self._credentials = Credentials(
            self.name,
            secret=lambda argument: self.secret(argument, keys[argument]),
            held_back=lambda: self.why_held_back("api_key"),
            given=frozenset(argument for argument, value in given.items() if value is not None),
            user=self._setting("user", user),
            certificate=self._shown_certificate,
            own_login=self._own_login,
            scope=self.scope,
            auth_url=self.auth_url,
            login_url=self._address_of("/token"),
            file=_settings.token_file(self.token_cache),
        )
        checks = _settings.profanity_check()
        self._defaults = {} if checks is None else {"profanity_check": checks}
        _settings.warn_of_unread()
        self._stand_in: str | None = None
        # The service's own list, requested if the caller uses an older model name.
        self._listed_names: frozenset[str] | None = None

    def _shown_certificate(self) -> tuple[str, ...]:
        """The files of the client certificate; empty if there is none."""
        cert = self.cert or (self._session.cert if self._session is not None else None)
        return (cert,) if isinstance(cert, str) else tuple(cert or ())

    def trust(self) -> Trust:
        """The usual authorities, those of ``ca_bundle``, and the pinned root if it is installed."""
        trust = super().trust()
        extra = _root.pinned() or None if self.verify else None
        self._trusts_root = extra is not None
        return replace(trust, extra=extra)

    # -- credentials

    def credential_digest(self) -> str | None:
        """A hash of the key, its scope and its token service, or of the other credentials."""
        try:
            login = self._credentials.find()
        except MissingAuthError:
            raise
        except AuthenticationError:
            # The call itself will report the problem.
            return None
        return None if login is None else login.credential

    def check_credentials(self) -> None:
        """Check that there is an access token or a well-formed key.

        Raises:
            MissingAuthError: there is neither.
            AuthenticationError: the value cannot be one.
        """
        self._credentials.of(CancelScope())

    def slot(self, scope: CancelScope) -> AbstractContextManager[float]:
        """Wait for one of the ``max_concurrency`` slots of this account."""
        try:
            login = self._credentials.of(scope)
        except MissingAuthError:
            # ``prepare`` will report it.
            return nullcontext(0.0)
        return Slot(login.credential, self.max_concurrency, scope, file=self._credentials.file)

    def identity(self) -> list[Any]:
        """Also the fields that every chat has."""
        return [*super().identity(), *self._defaults.items()]

    # -- models

    def get_model(self, name: str | None) -> str:
        """The service's own name for a model or an alias; None is the default.

        An unknown name is passed on: the catalogue changes without notice.

        >>> GigaChat(model="GigaChat-Max").get_model(None)
        'GigaChat-2-Max'
        """
        word = name or self.model
        if word is None and self._stand_in is not None:
            return self._stand_in
        if word is not None and self._listed_names is not None and word in self._listed_names:
            return word
        return super().get_model(name)

    def find_model(self, name: str | None, fetch: Fetch) -> str:
        """The name to send: an older name is replaced only if the service does not list it."""
        word = name or self.model
        if word in self.model_aliases and self._listed_names is None:
            models = self._listed(fetch, self._authorization(fetch))
            if models is not None:
                self._listed_names = frozenset(model["id"] for model in models)
        return self.get_model(name)

    def _listed(self, fetch: Fetch, authorization: str | None) -> list[dict[str, Any]] | None:
        """The models that the service lists; None if they cannot be listed."""
        url = self._address_of("/models")
        question = HTTPRequest("GET", url, HEADERS, authorization=authorization, accept="html")
        try:
            with ReplyReader(fetch(question), fetch.scope) as reply:
                models = parse_models(reply.read())
                reply.finish()
                return models
        except LLMError as failure:
            let_through(failure)
            if fetch.scope.over:
                raise
            logger.debug("the models could not be listed: %s", failure)
            return None

    def _replace_model(
        self, error: LLMError, call: HTTPRequest, request: ChatRequest, fetch: Fetch
    ) -> str | None:
        """Find a replacement for a missing default model; for any other, raise the model list."""
        asked = str(call.json["model"])
        models = self._listed(fetch, call.authorization)
        if models is None:
            return None
        found = stand_in(models, asked)
        is_default = request.model is None and self.model is None
        if is_default and asked == self.get_model(None) and found is not None:
            logger.warning(
                "%s has no model %s any more; %s is asked instead: name one with model= or "
                "GIGACHAT_MODEL",
                self.name,
                asked,
                one_line(redact(found)),
            )
            self._stand_in = found
            return "model"
        failure = self.model_not_found(
            asked,
            [model["id"] for model in models if model["id"] != asked],
            status_code=404,
            request_id=error.request_id,
            detail=error.detail,
        )
        home = home_of(asked, self.base_url)
        said = f"{failure} ({error.detail or 'HTTP 404'})"
        raise retold(failure, f"{said}; {home}" if home else said) from error

    # -- one chat

    def check_supported(self, request: ChatRequest) -> None:
        """Refuse unsupported requests before waiting or sending anything.

        Args:
            request: the caller's request.

        Raises:
            UnsupportedError: it cannot be translated.
            InvalidRequestError: it has the wrong shape, or a file cannot be read.
        """
        _dialect.fields(request.params)
        _dialect.messages(request.messages, _attached(request))

    def prepare(self, request: ChatRequest, fetch: Fetch) -> HTTPRequest:
        """Put the messages and parameters into a JSON body, upload files, and get a token."""
        self._credentials.of(fetch.scope, request.extra_headers)
        params = self.sampling(request)
        messages = _dialect.messages(request.messages, _attached(request))
        body = {
            "model": request.model,
            "messages": messages,
            "stream": request.stream,
            "update_interval": self.update_interval,
            **self._defaults,
            **_dialect.fields(params),
        }
        if not request.params.keys().isdisjoint(("extra_body", "tools")):
            body = request.with_extra_body(body)
        for message in messages:
            if "attachments" in message:
                message["attachments"] = [
                    self._uploaded(one, request, fetch) if isinstance(one, Attachment) else one
                    for one in message["attachments"]
                ]
        headers = {"X-Session-ID": str(params["session_id"])} if "session_id" in params else {}
        return self._call(fetch, "POST", "/chat/completions", json=body, headers=headers)

    def parse(self, reply: HTTPResponse) -> Iterator[str]:
        """Read a stream or a whole reply; see ``parse_chat``. Drawn images are removed."""
        drawn = DrawnImages()
        for piece in parse_chat(reply):
            if type(piece) is str:
                if "<" not in piece and not drawn.held:
                    yield piece
                elif text := drawn.feed(piece):
                    yield text
            elif isinstance(piece, FinishReason):
                if text := drawn.rest():
                    yield text
                # Test doubles of other packages may lack it: it was added to the protocol later.
                asked = getattr(reply, "asked", None) or ChatRequest(())
                images = [Image(i, fetch=partial(self._content, i, asked)) for i in drawn.ids]
                yield piece.evolve(images=[*piece.images, *images])
            else:
                yield piece

    def recover(
        self, error: LLMError, call: HTTPRequest | None, request: ChatRequest, fetch: Fetch
    ) -> str | None:
        """Renew a refused token, upload a missing file again, or replace a missing default model.

        Raises:
            ModelNotFoundError: the caller's model does not exist; the message lists those that do.
        """
        if isinstance(error, AuthenticationError) and error.status_code in (400, 401):
            return "token" if self._renew_token(error, call, fetch) else None
        if call is None or not isinstance(call.json, dict):
            return None
        files = [
            one
            for message in call.json.get("messages", ())
            if isinstance(message, Mapping)
            for one in message.get("attachments", ())
        ]
        if files and error.status_code in (403, 404) and not _is_about_model(error):
            uploads = self._uploads(fetch.scope, request.extra_headers)
            return "files" if uploads.forget(files, fetch.scope) else None
        if error.status_code == 404 and "model" in call.json:
            return self._replace_model(error, call, request, fetch)
        return None

    def _renew_token(self, error: LLMError, call: HTTPRequest | None, fetch: Fetch) -> bool:
        """Whether a refused token can be replaced."""
        if call is not None:
            refused = (call.authorization or "").removeprefix("Bearer ")
        elif isinstance(error.__cause__, LLMError):
            # The token service refused the key.
            return False
        else:
            # A file could not be uploaded.
            refused = self._credentials.of(fetch.scope).token(fetch) or ""
        return self._credentials.refuse(refused, fetch.scope)

    def describe_error(self, error: LLMError, request: ChatRequest) -> LLMError:
        """Add what to do, if this service's status says more than its message."""
        if isinstance(error.__cause__, LLMError):
            return error
        if isinstance(error, ConnectionFailed) and error.detail == "certificate":
            return retold(error, _root.advice(error, trusted=self._trusts_root))
        if error.status_code is None:
            return error
        if isinstance(error, AuthenticationError) and error.status_code in (400, 401):
            advice = self._advice_on_refusal()
        elif isinstance(error, QuotaExceededError):
            asked = self.get_model(request.asked_model())
            advice = (
                f"the tokens paid for {asked} are used up; balance() shows those of every model: "
                f"buy more in {STUDIO}, or ask another model"
            )
        elif isinstance(error, RateLimitError):
            advice = (
                "an account has a limited number of requests at a time "
                f"({self.max_concurrency} are made here): another program, process or machine may "
                "be using the same account; processes with one token_cache wait for one another"
            )
        elif error.status_code == 404 and not _is_about_file(error):
            advice = self._advice_on_address(error, request)
        else:
            return error
        return retold(error, f"{error}; {advice}")

    def _advice_on_refusal(self) -> str:
        if isinstance(self._credentials.find(), GivenToken):
            return (
                "the access token that was given is not valid, or not any more (one lives 30 "
                "minutes): give the authorization key instead (GIGACHAT_CREDENTIALS), and tokens "
                "are fetched with it"
            )
        return f"{self.name} refused a token that it had just given; check the key in {STUDIO}"

    def _advice_on_address(self, error: LLMError, request: ChatRequest) -> str:
        asked = self.get_model(request.asked_model())
        home = home_of(asked, self.base_url)
        if home is not None:
            return home
        if isinstance(error, ModelNotFoundError):
            return f"{asked} was asked for, and the available models could not be listed"
        hint = "" if self.base_url.endswith("/v1") else ", which usually ends in /v1"
        return f"check base_url{hint}: it is {self.base_url}"

    # -- other calls

    def list_models(self) -> list[str]:
        """The names of the service's current models.

        Raises:
            LLMError: as for any call.
        """
        return self.ask(
            lambda fetch: self._call(fetch, "GET", "/models"),
            lambda reply: [redact(model["id"]) for model in parse_models(reply.read())],
        )

    def balance(self) -> list[Balance]:
        """The remaining paid tokens.

        Returns:
            A ``Balance`` (``model``, ``tokens``) for each model.

        Raises:
            AuthenticationError: this account is billed by use and has no balance.
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
            said = f"{error}; an account that pays as it goes has no balance"
            raise retold(error, said) from error
        return [Balance.from_json(entry) for entry in entries]

    def count_tokens(
        self, texts: str | Sequence[str], *, model: str | None = None
    ) -> list[TokenCount]:
        """Count the tokens of texts for a model.

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
        return [TokenCount.from_json(entry) for entry in self._about(texts, "/tokens/count", model)]

    def embed(self, texts: str | Sequence[str], *, model: str | None = None) -> list[Embedding]:
        """Turn texts into vectors.

        Args:
            texts: one text, or several.
            model: a model for vectors; None for ``Embeddings``.

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
        scope = CancelScope()
        try:
            with self.slot(scope):
                entries = self._about(texts, "/embeddings", model or "Embeddings", scope=scope)
        except LLMError as error:
            error.provider = error.provider or self.name
            raise
        except BaseException:
            scope.cancel()
            raise
        return parse_embeddings(entries)

    def _about(
        self,
        texts: str | Sequence[str],
        path: str,
        model: str | None,
        *,
        scope: CancelScope | None = None,
    ) -> list[dict[str, Any]]:
        """The service's answer for each of ``texts``."""
        alone = isinstance(texts, str) or not isinstance(texts, Iterable)
        inputs = [texts] if alone else list(texts)
        if not inputs or not all(isinstance(text, str) for text in inputs):
            raise InvalidRequestError("texts is a string or a list of strings, at least one")

        def make(fetch: Fetch) -> HTTPRequest:
            body = {"model": self.find_model(model, fetch), "input": inputs}
            return self._call(fetch, "POST", path, json=body)

        return self.ask(
            make,
            lambda reply: _answers.read_entries(reply, path, len(inputs)),
            request=ChatRequest((), model=model),
            scope=scope,
        )

    # -- files

    def upload(self, path: str | os.PathLike[str]) -> UploadedFile:
        """Upload a file; the service keeps it until it is deleted.

        Args:
            path: an image (jpeg, png, tiff, bmp), a document or a recording.

        Returns:
            The service's description of it; its ``id`` goes into a message's ``attachments``.

        Raises:
            InvalidRequestError: it cannot be read, is too large, or has a type that GigaChat does
                not accept.
            LLMError: as for any call.

        >>> import tempfile
        >>> from llmproviders.sandbox import Sandbox
        >>> with Sandbox() as sandbox, tempfile.NamedTemporaryFile(suffix=".txt") as file:
        ...     giga = GigaChat(**sandbox.provider_arguments("gigachat"))
        ...     _ = file.write(b"The sea is salt.")
        ...     file.flush()
        ...     uploaded = giga.upload(file.name)
        ...     print(giga.download(uploaded.id))
        b'The sea is salt.'
        """
        attachment = Attachment.of_path(path)
        content = attachment.read()
        with about_file(attachment.name):
            return self.ask(
                lambda fetch: self._upload_call(attachment, content, fetch), UploadedFile.read
            )

    def files(self) -> list[UploadedFile]:
        """The files that the service keeps.

        Raises:
            LLMError: as for any call.
        """
        return self.ask(
            lambda fetch: self._call(fetch, "GET", "/files"),
            lambda reply: [UploadedFile.from_json(entry) for entry in parse_list(reply.read())],
        )

    def download(self, id: str) -> bytes:
        """The content of a file, uploaded or drawn.

        Args:
            id: the file's.

        Raises:
            LLMError: as for any call; there is no such file.
        """
        with about_file(id):
            return self._content(id, ChatRequest(()))

    def _content(self, id: str, asked: ChatRequest) -> bytes:
        """The content of a drawn file, fetched by the same route as the chat that drew it."""
        path = f"/files/{quote(id, safe='')}/content"

        def make(fetch: Fetch) -> HTTPRequest:
            call = self._call(fetch, "GET", path, headers={"Accept": "*/*"})
            # They may name a client, and only that client can read the file.
            return replace(call, extra_headers=asked.extra_headers, accept="any")

        return self.ask(make, _answers.read_content, request=asked)

    def delete(self, id: str) -> None:
        """Delete a file.

        Args:
            id: the file's.

        Raises:
            LLMError: as for any call; there is no such file.
        """
        path = f"/files/{quote(id, safe='')}/delete"
        with about_file(id):
            self.ask(lambda fetch: self._call(fetch, "POST", path), _answers.read_deletion)
        scope = CancelScope()
        self._uploads(scope, {}).forget([id], scope)

    def _uploaded(self, attachment: Attachment, request: ChatRequest, fetch: Fetch) -> str:
        """The service's id for a file, which is uploaded if necessary."""

        def upload(content: bytes) -> str:
            call = self._upload_call(attachment, content, fetch)
            # They may name the client; a chat can only refer to that client's files.
            call = replace(call, extra_headers=request.extra_headers)
            with ReplyReader(fetch(call), fetch.scope) as reply:
                found = _answers.read_id(reply)
                reply.finish()
                return found

        uploads = self._uploads(fetch.scope, request.extra_headers)
        return uploads.id_of(attachment, fetch.scope, upload)

    def _upload_call(self, attachment: Attachment, content: bytes, fetch: Fetch) -> HTTPRequest:
        return replace(
            self._call(fetch, "POST", "/files"),
            form={"purpose": "general"},
            files={"file": (attachment.name, content, attachment.media_type)},
        )

    def _uploads(self, scope: CancelScope, extra_headers: Mapping[str, str]) -> Uploads:
        """The remembered uploads of this account, and of the client if one is named."""
        client = self._given_header("x-client-id", extra_headers)
        account = (self._credentials.of(scope).credential, self.base_url)
        return Uploads(digest(*account, *(() if client is None else (str(client),))))

    def _call(
        self,
        fetch: Fetch,
        method: str,
        path: str,
        *,
        json: Any = None,
        headers: Mapping[str, str] | None = None,
    ) -> HTTPRequest:
        return HTTPRequest(
            method,
            self._address_of(path),
            headers={**HEADERS, "X-Request-ID": str(uuid.uuid4()), **(headers or {})},
            json=json,
            # A gateway may label all it sends as text/html; the parsers recognize a web page.
            accept="html",
            authorization=self._authorization(fetch),
        )

    def _authorization(self, fetch: Fetch) -> Secret | None:
        token = self._credentials.of(fetch.scope).token(fetch)
        return None if token is None else Secret("Bearer " + token)

    def _address_of(self, path: str) -> str:
        base, mark, query = self.base_url.partition("?")
        return f"{base}{path}{mark}{query}"


def _is_about_model(error: LLMError) -> bool:
    return "model" in (error.detail or "").lower()


def _is_about_file(error: LLMError) -> bool:
    return "file" in (error.detail or "").lower()


def _attached(request: ChatRequest) -> list[Attachment]:
    return [Attachment.of_path(path) for path in request.attach]
