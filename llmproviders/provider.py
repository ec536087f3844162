"""The base class of providers, and the one implementation of ``stream``."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Generator, Hashable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

from ._account.arguments import ProviderArguments
from ._account.catalogue import Catalogue
from ._account.keys import Key
from ._account.settings import ProviderBase
from ._account.slots import Slot
from ._checks import nearest
from ._http.decoding import whole_characters
from ._http.error_map import complete_error
from ._http.reading import ReplyReader
from ._http.types import HTTPRequest, HTTPResponse, Limits, Sender, Timeout, Trust
from ._log import logger
from ._printable import whole_units
from ._redact import forget_locals, redact_data, scrub
from ._request import ChatRequest, Self
from ._runtime.scope import SYSTEM_CLOCK, CancelScope
from ._signals import from_handler, let_through
from .client import BaseClient, T, shorten
from .errors import (
    Attempt,
    AuthenticationError,
    ConnectionFailed,
    DeadlineExceeded,
    LLMError,
    ModelNotFoundError,
    ProtocolError,
    ProviderTimeout,
    StreamInterrupted,
    UnsupportedError,
    Usage,
)
from .results import Attempts, FinishReason, Reasoning, Transcript, accepted, joined, without_text

__all__ = [
    "BaseClient",
    "Call",
    "Catalogue",
    "Fetch",
    "Key",
    "Limits",
    "Provider",
    "ProviderArguments",
    "Reply",
    "Request",
    "Timeout",
    "Trust",
]

# The names that authors of providers use.
Call = HTTPRequest
Reply = HTTPResponse
Request = ChatRequest


class Fetch:
    """Sends the calls of one request, within its time limit.

    Attributes:
        scope: the end of the request.
        route: the network path; the same for requests that take the same path.
        call: the last call sent, or None.
    """

    def __init__(
        self,
        send: Callable[..., HTTPResponse],
        scope: CancelScope,
        *,
        timeout: Timeout | None = None,
        proxy: str | None = None,
        route: Hashable = None,
    ) -> None:
        self.scope = scope
        self.route = route
        self.call: HTTPRequest | None = None
        self._send = send
        self._timeout = timeout
        self._proxy = proxy
        self._reply: HTTPResponse | None = None

    def __call__(self, call: HTTPRequest) -> HTTPResponse:
        """Send ``call`` and return its reply, which the caller closes.

        Raises:
            LLMError: the reply is not a success.
        """
        self.call = call
        self._reply = self._send(call, self.scope, timeout=self._timeout, proxy=self._proxy)
        return self._reply

    def close(self) -> None:
        """Close the last reply, if it is still open."""
        if self._reply is not None:
            self._reply.close()
            self._reply = None

    def abandon(self) -> None:
        """Close and release whatever is still open or held, after an interrupt anywhere."""
        self.scope.cancel("the call was interrupted")
        self.close()


class Provider(ProviderBase, BaseClient):
    """One service. A subclass makes requests in ``prepare`` and reads replies in ``parse``.

    Args:
        base_url: another address for the same protocol.
        model: this instance's default model.
        proxy: a proxy's URL for every request.
        timeout: seconds, or ``(connect, read)``; default ``(10, 60)``.
        session: a ``requests.Session`` to use instead of the provider's own connections. A deadline
            is then checked whenever data arrives, and no single wait is longer than the time left
            when the request began.
        headers: sent with every request, instead of other headers of the same names.
        ca_bundle: a file in PEM or DER with certificates to trust in addition to the usual ones.
        verify: False trusts any server, with an ``UnverifiedTLSWarning``; default True.
        cert: a client certificate: a file, or a pair ``(certificate, key)`` of files.
        trust: ``"system"``: trust the operating system's store; it needs the extra
            ``truststore``.
        per_minute: how much may be sent in any 60 seconds: a number of requests, or
            ``{"requests": 30, "tokens": 20_000}``. A request beyond the limit waits, within the
            deadline.
        per_day: the same for a UTC day. Once it is reached, a call raises ``QuotaExceededError``
            before anything is sent. Both are counted per credential across all processes of the
            user.
        name: the name in errors, logs and results; default: the class's name.
        limits: how large a reply may be.

    Missing arguments are read from the environment variables in ``environment``. Creating a
    provider does no I/O.

    Attributes:
        url: the service's address.
        api_endpoint: where chats are sent, or None if that depends on ``base_url``.
        working: last known state, not a live check; one that is False can still be used.
        needs_auth: whether every call needs a key.
        supports_stream: whether the service can send a reply as it grows.
        supports_system_message: False: a system prompt is written into the one message.
        supports_message_history: False: a conversation is written into one message.
        supports_tools: whether the model can call functions.
        supports_schema: whether the service takes a ``response_format``.
        supports_images: whether the model can look at images and files.
        default_model: model used when none is given.
        models: the known model names.
        model_aliases: other names for them.

    Raises:
        InvalidRequestError: an argument has the wrong type or cannot be used.

    >>> from llmproviders import FinishReason
    >>> from llmproviders.provider import Call
    >>> class Echo(Provider):
    ...     url = "https://echo.example"
    ...     default_model = "echo-1"
    ...     models = ("echo-1",)
    ...
    ...     def prepare(self, request, fetch):
    ...         return Call("POST", f"{self.base_url}/ask", json={"said": request.messages})
    ...
    ...     def parse(self, reply):
    ...         yield from (line.decode() for line in reply.lines())
    ...         yield FinishReason("stop")
    >>> Echo(base_url="http://localhost:8000/").base_url
    'http://localhost:8000'
    """

    url: ClassVar[str]
    api_endpoint: ClassVar[str | None] = None
    working: ClassVar[bool] = True
    needs_auth: ClassVar[bool] = False
    supports_stream: ClassVar[bool] = True
    supports_system_message: ClassVar[bool] = True
    supports_message_history: ClassVar[bool] = True
    supports_tools: ClassVar[bool] = False
    supports_schema: ClassVar[bool] = False
    supports_images: ClassVar[bool] = False
    default_model: ClassVar[str]
    models: ClassVar[tuple[str, ...] | Catalogue] = ()
    model_aliases: ClassVar[Mapping[str, str]] = {}

    #: Whether the service may have models that are not in ``models``.
    open_catalogue: ClassVar[bool] = False
    #: Parameters that the service accepts; others are left out.
    supported_params: ClassVar[frozenset[str]] = frozenset()
    #: Most requests at a time in this process for one key; None: no limit.
    max_concurrency: int | None = None

    @abstractmethod
    def prepare(self, request: ChatRequest, fetch: Fetch) -> HTTPRequest:
        """The HTTP request for ``request``.

        Args:
            request: the request; ``request.model`` is the service's own name.
            fetch: sends a preliminary call, within the same deadline and through the same proxy;
                close its reply.
        """

    @abstractmethod
    def parse(self, reply: HTTPResponse) -> Iterator[str]:
        """Yield the text of ``reply`` piece by piece, then a ``FinishReason``.

        It does not use the network, a clock or retries itself. Ending without a ``FinishReason``
        means that the reply was cut.

        Raises:
            ProtocolError: the reply cannot be understood.
            LLMError: the service reports an error, such as a ``ServerError``.
        """

    def recover(
        self,
        error: LLMError,
        call: HTTPRequest | None,
        request: ChatRequest,
        fetch: Fetch,
    ) -> str | None:
        """Remove the cause of a failure before any text, if that can be done at once.

        Args:
            error: the failure.
            call: the call that was sent, or None if ``prepare`` failed.
            request: the caller's request; its ``model`` is the name that the caller used.
            fetch: as in :meth:`prepare`.

        Returns:
            A word for what was done, after which the request is repeated; None if nothing was. Each
            word counts once per call.
        """
        return None

    def describe_error(self, error: LLMError, request: ChatRequest) -> LLMError:
        """A better error, if this service's message says more than the status.

        Args:
            error: the failure of the request; returned unchanged if there is no better one.
            request: as in :meth:`recover`.
        """
        return error

    def slot(self, scope: CancelScope) -> AbstractContextManager[float]:
        """Wait until fewer than ``max_concurrency`` requests of this key are in progress.

        Args:
            scope: how long that may take.

        Returns:
            A context manager that holds the slot; its value is the seconds waited.
        """
        if self.max_concurrency is None:
            return nullcontext(0.0)
        return Slot(self.credential_digest() or self.base_url, self.max_concurrency, scope)

    def get_model(self, name: str | None) -> str:
        """The service's own name for a model or an alias.

        Args:
            name: the model or alias; None is the default.

        Raises:
            ModelNotFoundError: the service certainly does not have it.

        >>> from llmproviders import FlowGpt
        >>> FlowGpt().get_model("gemini")
        'google-gemini'
        """
        if name is None:
            name = self.model or self.default_model
        name = name.strip()
        name = self.model_aliases.get(name, name)
        if self.open_catalogue or name in self.models:
            return name
        raise self.model_not_found(name, self.models)

    def find_model(self, name: str | None, fetch: Fetch) -> str:
        """The name to send for a model; a provider may ask its service which names it has.

        Args:
            name: the name that the caller used; None is the default.
            fetch: as in :meth:`prepare`.

        Raises:
            ModelNotFoundError: the service certainly does not have it.
        """
        return self.get_model(name)

    def model_not_found(self, model: str, names: Sequence[str], **about: Any) -> ModelNotFoundError:
        """The error for a missing model, with the nearest name and all names.

        Args:
            model: the requested model.
            names: the available models.
            **about: other attributes of the error, such as ``status_code``.
        """
        # Neither the name itself nor another spelling of it is a suggestion.
        others = [name for name in names if name != model]
        others += [alias for alias, name in self.model_aliases.items() if name in others]
        near = nearest(model, others)
        hint = f"; did you mean {near!r}?" if near else "."
        has = f"It has: {', '.join(names)}" if names else "It lists no other model"
        return ModelNotFoundError(
            f"{self.name} has no model {model!r}{hint} {has}",
            provider=self.name,
            **about,
        )

    def check_credentials(self) -> None:
        """Check the key as far as possible without asking the service.

        Raises:
            MissingAuthError: a key is needed and there is none.
            AuthenticationError: the value cannot be a key.
        """

    def list_models(self) -> list[str]:
        """The names of the service's models; the known names if it cannot be asked."""
        return list(self.models)

    def check_supported(self, request: ChatRequest) -> None:
        """Check, before anything is sent, whether this provider supports a request.

        Args:
            request: the caller's request.

        Raises:
            UnsupportedError: it cannot; another provider may.
        """
        wants = (
            ("call functions (tools)", self.supports_tools, request.asks_for_tools()),
            ("answer in a response_format", self.supports_schema, request.asks_for_format()),
            ("look at images or files", self.supports_images, request.asks_for_images()),
        )
        for what, able, asked in wants:
            if asked and not able:
                raise UnsupportedError(
                    f"{self.name} cannot {what}; ask another provider", provider=self.name
                )

    def sampling(self, request: ChatRequest) -> dict[str, Any]:
        """The parameters of ``request`` that this service accepts; the others are left out."""
        known = self.supported_params
        left_out = [n for n in request.params if n not in known and n != "extra_body"]
        if left_out:
            logger.debug("%s takes no %s; left out", self.name, ", ".join(sorted(left_out)))
        return {name: value for name, value in request.params.items() if name in known}

    def generate(
        self, request: ChatRequest, scope: CancelScope | None = None
    ) -> Generator[str, None, None]:
        """Try once: yield text, then one ``FinishReason``; or raise an ``LLMError``."""
        if request.deadline is None:
            stream = self._replies(request, scope)
        else:
            stream = self._within(request.deadline, request, scope)
        if not request.stream:
            stream = joined(stream)
        if request.accept is None:
            return stream
        return accepted(stream, request.accept, holds=not request.stream)

    def _replies(
        self, request: ChatRequest, scope: CancelScope | None
    ) -> Generator[str, None, None]:
        """One reply, or up to two with a schema: the model may correct an invalid one."""
        if request.schema is None:
            return _AttemptRun(self, request, scope).stream()
        return request.schema.replies(
            request,
            lambda one: _AttemptRun(self, one, scope).stream(),
            native=self.supports_schema,
            server=(self.name, self.base_url, request.model or self.model),
        )

    def _within(
        self, deadline: float, request: ChatRequest, parent: CancelScope | None
    ) -> Generator[str, None, None]:
        scope = CancelScope.lasting(deadline, clock=SYSTEM_CLOCK, parent=parent)
        try:
            yield from self._replies(request, scope)
        finally:
            scope.close()

    def ask(
        self,
        make: Callable[[Fetch], HTTPRequest],
        read: Callable[[HTTPResponse], T],
        *,
        request: ChatRequest | None = None,
        scope: CancelScope | None = None,
    ) -> T:
        """Send a call that is not a chat and return what ``read`` makes of its reply.

        Args:
            make: makes the call; it may send preliminary calls.
            read: turns the reply into the value to return.
            request: the request that it is for, if that matters, for example for its model.
            scope: how long all of it may take; None: no limit.
        """
        return _AttemptRun(self, request or ChatRequest(()), scope).ask(make, read)

    def _send(self, call: HTTPRequest, scope: CancelScope, **how: Any) -> HTTPResponse:
        sender: Sender | None = self.__dict__.get("_made_transport")
        if sender is None:
            with _Step(self, "make_transport"):
                sender = self._transport
        return sender.open(call, scope, **how)

    def identity(self) -> list[Any]:
        """The class, the name, the address, the model, and the caller's part of every request."""
        model = self.model or self.default_model
        return [*super().identity(), self.base_url, model, *self._always_sent()]


_NO_TEXT = Transcript()


class _AttemptRun:
    """One attempt of one provider: its steps, its hooks, and its state.

    Attributes:
        usage: the tokens, once the service has reported them.
        sent: whether the request itself, not only a preliminary call, was handed to the transport.
    """

    def __init__(self, provider: Provider, request: ChatRequest, scope: CancelScope | None) -> None:
        self._provider = provider
        self._request = request
        self._scope = scope or CancelScope()
        self._fetch = Fetch(
            provider._send,
            self._scope,
            timeout=request.timeout,
            proxy=request.proxy,
            route=(provider._proxy, provider.timeout, request.proxy, request.timeout),
        )
        self._recovered: set[str] = set()
        self._model = request.model
        self._call: HTTPRequest | None = None
        self._transcript = _NO_TEXT
        self._begun = False
        self._first_text_at: float | None = None
        self.usage: Usage | None = None
        self.sent = False
        self._waited = 0.0
        self.start(0.0)

    def start(self, waited: float) -> None:
        """Begin the attempt, after ``waited`` more seconds."""
        clock = self._scope.clock
        self._waited += waited
        self._started_at, self._began = clock.wall(), clock.monotonic()

    def _attempt(self, error: LLMError | None) -> Attempt:
        """The attempt, ending now."""
        first = self._first_text_at
        return Attempt(
            provider=self._provider.name,
            model=self._model,
            started_at=self._started_at,
            first_chunk_after=None if first is None else first - self._began,
            duration=self._scope.clock.monotonic() - self._began,
            error=error,
            waited=self._waited,
            chunks=self._transcript.count,
            usage=self.usage,
        )

    def stream(self) -> Generator[str, None, None]:
        """Yield text, then one ``FinishReason``; or raise an ``LLMError`` with its attempt."""
        provider, request = self._provider, self._request
        try:
            with _Step(provider, "check_supported"):
                provider.check_supported(request)
                if provider._quota is not None and provider.max_concurrency is not None:
                    # A spent day does not wait for a slot.
                    provider._quota.check_day(provider, self._scope)
            with _Step(provider, "slot") as step, provider.slot(self._scope) as waited:
                # An exception that the caller throws into the generator passes unchanged.
                step.translates = False
                self.start(waited)
                while True:
                    self._call, self.sent = None, False
                    try:
                        yield from self._counted()
                    except LLMError as trouble:
                        if self._begun or from_handler(trouble):
                            raise
                        self._recover_or_raise(trouble, self._call)
                    else:
                        step.translates = True
                        return
        except BaseException as failure:
            if not isinstance(failure, LLMError) or from_handler(failure):
                self._fetch.abandon()
                forget_locals(failure)
                raise
            error = self._described(failure)
            partial_text = self._transcript.text()
            if partial_text and _broke_off(error):
                error = StreamInterrupted.of(error)
            error.partial_text = partial_text
            error.attempts = Attempts((self._attempt(error),))
            forget_locals(failure)
            if error is failure:
                raise
            raise error from failure

    def ask(self, make: Callable[[Fetch], HTTPRequest], read: Callable[[HTTPResponse], T]) -> T:
        """Send the call that ``make`` makes and return what ``read`` makes of its reply."""
        try:
            provider = self._provider
            while True:
                call = None
                try:
                    with _Step(provider, "prepare"):
                        call = make(self._fetch)
                    with ReplyReader(self._fetch(call), self._scope) as reply:
                        with _Step(provider, "parse"):
                            value = read(reply)
                        reply.finish()
                        return value
                except LLMError as failure:
                    let_through(failure)
                    error = self._described(failure)
                    self._recover_or_raise(error, call, None if error is failure else failure)
        except BaseException as failure:
            if not isinstance(failure, LLMError):
                self._fetch.abandon()
            forget_locals(failure)
            if isinstance(failure, LLMError):
                shorten(failure)
            raise failure

    def _counted(self) -> Generator[str, None, None]:
        """The reply to one request, which is counted and limited if limits are set."""
        quota = self._provider._quota
        if quota is None:
            return self._once()
        return quota.counted(self._once(), self._provider, self._request, self._scope, self)

    def _once(self) -> Generator[str, None, None]:
        provider, named = self._provider, self._request
        with _Step(provider, "prepare"):
            self._model = model = provider.find_model(named.model, self._fetch)
            if model != named.model:
                named = replace(named, model=model)
            if not provider.supports_images:
                named = named.texts_alone()
            call = self._call = provider.prepare(named, self._fetch)
            if not isinstance(call, HTTPRequest):
                raise TypeError(f"it returned {type(call).__name__}, not a Call")
        yield from self._reply(named, call)

    def _described(self, failure: LLMError) -> LLMError:
        """The error as callers see it."""
        provider, error = self._provider, failure
        if isinstance(failure, AuthenticationError):
            headers = self._request.extra_headers
            error = provider._describe_refusal(failure, self._fetch.call, headers)
        with _Step(provider, "describe_error"):
            told: object = provider.describe_error(error, self._request)
            error = told if isinstance(told, LLMError) else error
        error.provider = error.provider or provider.name
        return error

    def _recover_or_raise(
        self, error: LLMError, call: HTTPRequest | None, cause: LLMError | None = None
    ) -> None:
        with _Step(self._provider, "recover"):
            word = self._provider.recover(error, call, self._request, self._fetch)
        if word is None or word in self._recovered:
            raise error from cause or error.__cause__
        self._recovered.add(word)
        logger.debug("%s: renewed the %s, asking again", self._provider.name, word)

    def _reply(self, request: ChatRequest, call: HTTPRequest) -> Generator[str, None, None]:
        provider = self._provider
        self.sent = True
        if request.extra_headers:
            call = replace(call, extra_headers=request.extra_headers)
        reply = self._fetch(call)
        reply.texts, reply.asked = lambda: self._transcript.count, request
        pieces: Any = None
        try:
            pieces = whole_characters(provider.parse(reply))
            shown = request.reasoning
            finish: str | None = None
            blank: list[str] = []
            for piece in pieces:
                if type(piece) is Reasoning:
                    self._begun = True
                    if shown:
                        yield piece
                    continue
                if type(piece) is not str:
                    finish = piece
                    break
                blank.append(piece)
                if piece and not piece.isspace():
                    self._begun = True
                    self._first_text_at = self._scope.clock.monotonic()
                    piece = "".join(blank)
                    self._transcript = Transcript()
                    self._transcript.append(piece)
                    yield piece
                    break
            if finish is None:
                keep = self._transcript.append
                for piece in pieces:
                    if type(piece) is not str:
                        if type(piece) is Reasoning:
                            if shown:
                                yield piece
                            continue
                        finish = piece
                        break
                    if piece:
                        keep(piece)
                        yield piece
            if not isinstance(finish, FinishReason):
                raise StreamInterrupted("the reply ended without its end mark")
            self.usage = finish.usage
            if self._first_text_at is None and not (finish.tool_calls or finish.images):
                raise without_text(finish)
            # A failing service may repeat a key anywhere in its message.
            yield finish.evolve(
                raw=redact_data(whole_units(finish.raw)),
                detail=redact_data(whole_units(finish.detail)),
                provider=provider.name,
                model=redact_data(whole_units(finish.model)) or request.model,
                tool_calls=redact_data(finish.tool_calls),
                # A long text is formatted only if the message is read.
                message=partial(_with_text, finish.message, self._transcript),
                request_id=redact_data(finish.request_id) or reply.request_id,
                attempts=(self._attempt(None),),
            )
            reply.finish()
        except LLMError as error:
            let_through(error)
            self.usage = self.usage or error.usage
            complete_error(error, reply, now=self._scope.clock.wall())
            raise
        except Exception as error:
            # Only a parser that failed has ended; an exception thrown in by the caller finds it
            # suspended.
            waits = pieces is not None and pieces.gi_frame is not None
            if waits or from_handler(error):
                raise
            raise _own_failure(provider, "parse", error, request_id=reply.request_id) from error
        finally:
            self._fetch.close()


class _Step:
    """Wraps a provider's own code: any exception other than ours becomes a ``ProtocolError``."""

    # Not contextlib.contextmanager: it lets a StopIteration through.
    def __init__(self, provider: Provider, name: str) -> None:
        self._provider, self._name = provider, name
        self.translates = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        """Translate."""
        if not self.translates or not isinstance(error, Exception) or isinstance(error, LLMError):
            return
        if not from_handler(error):
            raise _own_failure(self._provider, self._name, error) from error


def _own_failure(
    provider: Provider, step: str, error: Exception, *, request_id: str | None = None
) -> ProtocolError:
    scrub(error)
    said = " ".join(str(error).split())[:300]
    failed = f"{step} of {provider.name} failed: {type(error).__name__}: {said}"
    failure = ProtocolError(failed, request_id=request_id)
    failure.is_bug = True
    return failure


def _with_text(beside: dict[str, Any], transcript: Transcript) -> dict[str, Any]:
    return {**redact_data(beside), "role": "assistant", "content": transcript.text()}


def _broke_off(error: LLMError) -> bool:
    broken = isinstance(error, (ProviderTimeout, ConnectionFailed))
    return broken and not isinstance(error, DeadlineExceeded)
