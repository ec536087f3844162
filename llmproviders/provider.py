"""What a provider is, and the one ``stream`` that keeps the promise of what a stream yields."""

from __future__ import annotations

import inspect
import sys
import zlib
from abc import abstractmethod
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from . import _environment as _environ
from ._account.keys import Key, digest, find
from ._checks import nearest
from ._http.decoding import whole_characters
from ._http.types import (
    DEFAULT_TIMEOUT,
    HTTPRequest,
    HTTPResponse,
    Limits,
    Rate,
    Sender,
    Timeout,
    Trust,
    check_proxy,
    check_timeout,
    check_url,
)
from ._log import logger
from ._redact import Secret, forget_locals, hidden, redact, scrub
from ._request import Accept, ChatRequest
from ._runtime.scope import SYSTEM_CLOCK, CancelScope, Clock
from ._signals import from_handler, let_through
from .client import BaseClient
from .errors import (
    Attempt,
    ConnectionFailed,
    DeadlineExceeded,
    EmptyReplyError,
    InvalidRequestError,
    LLMError,
    ModelNotFoundError,
    ProtocolError,
    ProviderTimeout,
    RefusedError,
    RejectedReplyError,
    StreamInterrupted,
    Usage,
)
from .results import Attempts, Completion, FinishReason, Reasoning, Restart, rejected

if TYPE_CHECKING:
    import requests
    from typing_extensions import Self


T = TypeVar("T")


__all__ = [
    "BaseClient",
    "Call",
    "Catalogue",
    "Fetch",
    "Limits",
    "Provider",
    "Reply",
    "Request",
    "Timeout",
    "Trust",
]


# Loaded when a provider is made: no call imports anything, since the lock of a module that is being
# imported stays held in a child that is forked meanwhile.
_LOADED_FOR_CALLS = ("encodings.punycode", f"{__package__}._http.transport")


# What authors of providers call them.
Call = HTTPRequest
Reply = HTTPResponse
Request = ChatRequest

USER_AGENT = (
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 "
    "(KHTML, like Gecko) Chrome/142.0.0.0 Safari/537.36"
)


class ModelNames(tuple[str, ...]):
    """Names of models; calling it asks the service for those that it has now."""

    ask: Callable[[], list[str]]

    def __call__(self) -> list[str]:
        return self.ask()


class Catalogue:
    """The class attribute ``models`` of a provider whose service can list its models.

    On the class it is the tuple of known names; on an instance it can be called as well.
    """

    def __init__(self, *names: str) -> None:
        self._names = names

    def __get__(self, instance: Provider | None, owner: type[Provider]) -> ModelNames:
        names = ModelNames(self._names)
        names.ask = owner.list_models if instance is None else instance.list_models  # type: ignore[assignment]
        return names


class Provider(BaseClient):
    """One service. A subclass says what to send, ``prepare``, and what the reply means, ``parse``.

    Args:
        base_url: another address for the same protocol.
        model: this instance's default.
        proxy: a proxy's URL for every request.
        timeout: seconds, or ``(connect, read)``; default ``(10, 60)``.
        session: a ``requests.Session`` to use instead of own connections. A deadline is then
            checked whenever something arrives, and no single wait is longer than what was left
            when the request began.
        name: how it is called in errors, logs and results; default: the class's name.
        limits: how large a reply may be.
        per_minute: how much may be sent in any 60 seconds: a number of requests, or
            ``{"requests": 30, "tokens": 20_000}``. A request that would be too much waits its
            turn, within the deadline.
        per_day: the same for a day of UTC. When it is reached, a call is a
            ``QuotaExceededError`` before anything is sent. Both are counted for each credential
            across all processes of the user.

    What is not given is read from the environment, by the names in ``environment``. Making one
    does no I/O.

    Attributes:
        url: the service's address.
        api_endpoint: where chats are sent, or None where that hangs on ``base_url``.
        working: the state last known, which is no test: one that is False can still be used.
        needs_auth: whether nothing goes without a key.
        supports_stream: whether the service can send a reply as it grows.
        supports_system_message: False: a system prompt is written into the one message.
        supports_message_history: False: a conversation is written into one message.
        default_model: whom to ask where nobody says.
        models: the names that are known.
        model_aliases: other names for them.

    Raises:
        InvalidRequestError: ``timeout`` or ``proxy`` is no such thing.

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
    default_model: ClassVar[str]
    models: ClassVar[tuple[str, ...] | Catalogue] = ()
    model_aliases: ClassVar[Mapping[str, str]] = {}

    #: Whether the service may have models that ``models`` does not name.
    open_catalogue: ClassVar[bool] = False
    #: Parameters that the service takes; others are left out.
    supported_params: ClassVar[frozenset[str]] = frozenset()
    #: Argument -> names of the environment that stand for it, the first that is set wins.
    environment: ClassVar[Mapping[str, tuple[str, ...]]] = {}

    _given: _Arguments

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Remember the arguments, from which a pickle makes the provider anew."""
        self = super().__new__(cls)
        self._given = _Arguments(args, kwargs)
        return self

    def __init__(
        self,
        *,
        base_url: str | None = None,
        model: str | None = None,
        proxy: str | None = None,
        timeout: Timeout | None = None,
        session: requests.Session | None = None,
        name: str | None = None,
        limits: Limits | None = None,
        per_minute: Rate | int | None = None,
        per_day: Rate | int | None = None,
    ) -> None:

        for module in _LOADED_FOR_CALLS:
            import_module(module)
        if session is not None:
            # requests itself imports it with the first request.
            import_module("netrc")
        base_url, proxy = hidden(base_url), hidden(proxy)
        self.name = name or type(self).__name__
        self.base_url = self._address("base_url", base_url) or self.default_base_url().rstrip("/")
        self.model = self._setting("model", model)
        self.timeout = check_timeout(timeout, DEFAULT_TIMEOUT)
        found = self._setting("proxy", proxy)
        self._proxy = (check_proxy(found) if found else None, proxy is not None)
        self._session = session
        self._limits = limits or Limits()
        self.per_minute = per_minute
        self.per_day = per_day
        self._counted = self._make_counter()

    def _make_counter(self) -> Callable[..., Generator[str, None, None]] | None:
        """What counts the requests and holds the limits; None where there is nothing to count."""
        counts_all = _environ.lookup("LLMPROVIDERS_USAGE") not in (None, "0")
        if self.per_minute is None and self.per_day is None and not counts_all:
            return None
        # The door to sqlite3.
        from ._account.quotas import Quota

        return Quota(per_minute=self.per_minute, per_day=self.per_day).counted

    @classmethod
    def default_base_url(cls) -> str:
        """The service's own address."""
        return cls.url

    @classmethod
    def environment_of(cls, argument: str) -> tuple[str, ...]:
        """The names of the environment that stand for ``argument``, the first that is set wins."""
        everywhere = {
            "base_url": (f"LLMPROVIDERS_{cls.__name__.upper()}_BASE_URL",),
            "proxy": ("LLMPROVIDERS_PROXY",),
        }
        return everywhere.get(argument, ()) + tuple(cls.environment.get(argument, ()))

    def _setting(self, argument: str, given: str | None) -> str | None:
        """An argument, or what the environment has for it, without space around it.

        Raises:
            InvalidRequestError: the argument is no text, or blank.
        """
        if given is None:
            return _environ.lookup(*self.environment_of(argument))

        if not isinstance(given, str):
            raise InvalidRequestError(f"{argument} is a text, not {type(given).__name__}")
        if not given.strip():
            raise InvalidRequestError(f"{argument} is blank; leave it out for the default")
        return hidden(given.strip()) if isinstance(given, Secret) else given.strip()

    def _address(self, argument: str, given: str | None) -> str | None:
        """The same for an address, which has to be one."""
        url = self._setting(argument, given)
        if url is None:
            return None

        variables = "the environment's " + " or ".join(self.environment_of(argument))
        return check_url(url, variables if given is None else argument)

    def _secret(self, argument: str, given: Key | None) -> Secret | None:
        """The same for a key or token, wherever it is kept.

        Raises:
            MissingAuthError: the place that was given has none.
            AuthenticationError: what is there cannot be one.
        """
        return find(argument, given, self.environment_of(argument))

    def trust(self) -> Trust:
        """Whose certificates this provider believes."""
        return Trust()

    # -- what a subclass gives

    @abstractmethod
    def prepare(self, request: ChatRequest, fetch: Fetch) -> HTTPRequest:
        """The HTTP request for ``request``.

        Args:
            request: what is asked; ``request.model`` is the service's own name.
            fetch: sends a call that has to come before, within the same deadline and through the
                same proxy; its reply is closed by whoever asked for it.
        """

    @abstractmethod
    def parse(self, reply: HTTPResponse) -> Iterator[str]:
        """Yield the text of ``reply`` piece by piece, then a ``FinishReason``.

        No network of its own, no clock, no retry. Ending without a ``FinishReason`` says that
        the reply was cut.

        Raises:
            ProtocolError: what came cannot be understood.
            LLMError: what the service reports, such as a ``ServerError``.
        """

    def recover(
        self,
        error: LLMError,
        call: HTTPRequest | None,
        request: ChatRequest,
        fetch: Fetch,
    ) -> str | None:
        """Mend what made a request fail before any text, if that can be done at once.

        Args:
            error: what it failed with.
            call: what was sent, or None where ``prepare`` failed.
            request: what the caller asked; its ``model`` is the caller's word.
            fetch: as in :meth:`prepare`.

        Returns:
            A word for what was mended, and the request is repeated; None where nothing was. Each
            word counts once a call.
        """
        return None

    def describe_error(self, error: LLMError, request: ChatRequest) -> LLMError:
        """A better error, where this service's words mean more than the status.

        Args:
            error: what the request failed with; returned as it is where there is no better one.
            request: as in :meth:`recover`.
        """
        return error

    def check_supported(self, request: ChatRequest) -> None:
        """Refuse what this provider cannot do, before anything is waited for or sent.

        Args:
            request: what the caller asked.

        Raises:
            UnsupportedError: it asks for something that this provider cannot do.
        """

    def slot(self, scope: CancelScope) -> AbstractContextManager[float]:
        """Wait for a free place among the requests that the service allows at a time.

        Args:
            scope: how long that may take.

        Returns:
            A block that holds the place; its value is the seconds waited.
        """
        return nullcontext(0.0)

    # -- what a provider does

    def get_model(self, name: str | None) -> str:
        """The service's own name for a model or an alias.

        Args:
            name: the model or alias; None is the default.

        Raises:
            ModelNotFoundError: the service certainly lacks it.

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
            name: the caller's word; None is the default.
            fetch: as in :meth:`prepare`.

        Raises:
            ModelNotFoundError: the service certainly lacks it.
        """
        return self.get_model(name)

    def model_not_found(self, model: str, names: Sequence[str], **about: Any) -> ModelNotFoundError:
        """The error for a model that the service does not have; it names near ones and all.

        Args:
            model: what was asked for.
            names: what there is.
            **about: more for the error, such as its ``status_code``.
        """
        # Neither the name itself nor another word for it is a suggestion.
        others = [name for name in names if name != model]
        others += [alias for alias, name in self.model_aliases.items() if name in others]
        near = nearest(model, others)
        hint = f"; did you mean {near!r}?" if near else "."
        return ModelNotFoundError(
            f"{self.name} has no model {model!r}{hint} It has: {', '.join(names)}",
            provider=self.name,
            **about,
        )

    def check_credentials(self) -> None:
        """Look at the key as far as can be told without asking the service.

        Raises:
            MissingAuthError: a key is needed and there is none.
            AuthenticationError: what there is cannot be a key.
        """

    def list_models(self) -> list[str]:
        """The names of the models that the service has; those known where it cannot be asked."""
        return list(self.models)

    def sampling(self, request: ChatRequest) -> dict[str, Any]:
        """The parameters of ``request`` that this service takes."""
        left_out = [
            n for n in request.params if n not in self.supported_params and n != "extra_body"
        ]
        if left_out:
            logger.debug("%s takes no %s; left out", self.name, ", ".join(sorted(left_out)))
        return {
            n: v for n, v in request.params.items() if n in self.supported_params and v is not None
        }

    def generate(
        self, request: ChatRequest, scope: CancelScope | None = None
    ) -> Generator[str, None, None]:
        """Try once: yield text, then one ``FinishReason``; or raise an ``LLMError``."""
        return attempt(self, request, scope)

    def _limited(
        self,
        stream: Generator[str, None, None],
        request: ChatRequest,
        record: _Record,
        scope: CancelScope,
    ) -> Generator[str, None, None]:
        """The same stream, counted and held to the limits, if there is anything to count."""
        if self._counted is None:
            return stream
        model = request.model or self.model or self.default_model
        return self._counted(
            stream,
            credential=self.credential_digest() or digest(self.base_url),
            provider=self.name,
            model=self.model_aliases.get(model, model),
            messages=request.messages,
            params=request.params,
            scope=scope,
            record=record,
        )

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
            make: the call; it may fetch what has to come before.
            read: what to return.
            request: what it is for, where there is something to say of it, the model above all.
            scope: how long all of it may take; None: as long as it takes.
        """
        return ask(self, make, read, request=request, scope=scope)

    def make_transport(self) -> Sender:
        """What sends this provider's calls; made when the first one is sent."""
        from ._http.transport import Transport

        proxy, asked = self._proxy
        return Transport(
            proxy=proxy,
            asked=asked,
            timeout=self.timeout,
            trust=self.trust(),
            session=self._session,
            limits=self._limits,
        )

    @property
    def _transport(self) -> Sender:
        made: Sender | None = self.__dict__.get("_made_transport")
        if made is None:
            made = self.__dict__.setdefault("_made_transport", self.make_transport())
        return made

    def identity(self) -> list[Any]:
        """The class, the name, the address and the model."""
        return [*super().identity(), self.base_url, self.model or self.default_model]

    def close(self) -> None:
        """Close the connections; the next call opens new ones."""
        made: Sender | None = self.__dict__.get("_made_transport")
        if made is not None:
            made.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return _remake, (type(self), self._given.args, self._given.kwargs)

    def __repr__(self) -> str:

        # A traceback may show one whose making failed.
        name, base_url = getattr(self, "name", None), getattr(self, "base_url", "")
        return f"{type(self).__name__}(name={name!r}, base_url={redact(base_url)!r})"


# Help shows this, and not that __new__ takes any arguments.
Provider.__new__.__signature__ = inspect.signature(  # type: ignore[attr-defined]
    Provider.__init__
)


class _Arguments:
    """What a provider was made with; no ``repr`` shows it, since keys are among it."""

    __slots__ = ("args", "kwargs")

    def __init__(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.args = args
        self.kwargs = kwargs


def _remake(cls: type[Provider], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Provider:
    return cls(*args, **kwargs)


_FOLD_AT = 256


class Transcript:
    """Collects the pieces of a stream, in case it breaks and its text so far is asked for.

    Only a broken stream needs the text again, so what is older than the last few hundred pieces is
    kept compressed: a long stream that the caller does not keep must not fill the memory.
    """

    __slots__ = ("_folded", "_packed", "_packer", "_recent")

    def __init__(self) -> None:
        self._recent: list[str] = []
        self._folded = 0
        self._packed: list[bytes] = []
        self._packer: zlib._Compress | None = None

    def append(self, piece: str) -> None:
        """Add a piece."""
        recent = self._recent
        recent.append(piece)
        if len(recent) >= _FOLD_AT:
            self._fold()

    def _fold(self) -> None:
        if self._packer is None:
            # This small window packs prose as well as the usual one, in 64 KiB instead of 256.
            self._packer = zlib.compressobj(level=1, wbits=13, memLevel=6)
        text = "".join(self._recent).encode("utf-8", "surrogatepass")
        self._packed.append(self._packer.compress(text))
        self._folded += len(self._recent)
        self._recent.clear()

    def text(self) -> str:
        """All pieces, joined."""
        if self._packer is None:
            return "".join(self._recent)
        packed = b"".join([*self._packed, self._packer.copy().flush()])
        folded = zlib.decompress(packed).decode("utf-8", "surrogatepass")
        return "".join([folded, *self._recent])

    @property
    def count(self) -> int:
        """How many pieces there were."""
        return self._folded + len(self._recent)


class Fetch:
    """Sends what has to be sent for one request, and knows how long that may take.

    Attributes:
        scope: the end of the request.
        route: which way it goes; the same for requests that go the same way.
    """

    def __init__(self, provider: Provider, request: ChatRequest, scope: CancelScope) -> None:
        self.scope = scope
        self.route = (provider._proxy, provider.timeout, request.proxy, request.timeout)
        self._provider = provider
        self._request = request
        self._reply: HTTPResponse | None = None

    def __call__(self, call: HTTPRequest) -> HTTPResponse:
        """Send ``call``; the reply is closed by whoever asked for it.

        Raises:
            LLMError: what is not a success.
        """
        request = self._request
        self._reply = self._provider._transport.open(
            call, self.scope, timeout=request.timeout, proxy=request.proxy
        )
        return self._reply

    def close(self) -> None:
        """Close the last reply, if that is still to be done."""
        if self._reply is not None:
            self._reply.close()
            self._reply = None

    def abandon(self) -> None:
        """Close and let go of whatever is still open or held.

        Wherever an interrupt comes, between two steps, in a ``finally``, in the call of a
        ``close``, it goes through here.
        """
        self.scope.cancel("the call was interrupted")
        self.close()


def attempt(
    provider: Provider, request: ChatRequest, scope: CancelScope | None
) -> Generator[str, None, None]:
    """What ``Provider.generate`` yields and raises."""
    if request.deadline is None:
        stream = _replies(provider, request, scope or CancelScope())
    else:
        stream = _bounded(provider, request, scope, request.deadline)
    stream = stream if request.stream else _joined(stream)
    if request.accept is None:
        return stream
    return accepted(stream, request.accept, holds=not request.stream)


def _bounded(
    provider: Provider, request: ChatRequest, parent: CancelScope | None, deadline: float
) -> Generator[str, None, None]:
    scope = CancelScope.lasting(deadline, clock=SYSTEM_CLOCK, parent=parent)
    try:
        yield from _replies(provider, request, scope)
    finally:
        scope.close()


def _replies(
    provider: Provider, request: ChatRequest, scope: CancelScope
) -> Generator[str, None, None]:
    if request.schema is None:
        return _attempt(provider, request, scope)
    return request.schema.replies(
        request,
        lambda one: _attempt(provider, one, scope),
        native=getattr(provider, "supports_schema", False),
        server=(provider.name, provider.base_url, request.model or provider.model),
    )


def _attempt(
    provider: Provider, request: ChatRequest, scope: CancelScope
) -> Generator[str, None, None]:
    record = _Record(provider.name, request.model, scope.clock)
    fetch = Fetch(provider, request, scope)
    mended: set[str] = set()
    handled = sys.exc_info()[1]
    try:
        with _Step(provider, "check_supported"):
            provider.check_supported(request)
        with provider.slot(scope) as waited:
            record.start(waited)
            while True:
                record.call = None
                stream = _prepared(provider, request, fetch, record)
                try:
                    yield from provider._limited(stream, request, record, scope)
                except LLMError as trouble:
                    if record.begun or from_handler(trouble):
                        raise
                    _mend_or_raise(provider, trouble, record.call, request, fetch, mended)
                else:
                    return
    except BaseException as failure:
        if not isinstance(failure, LLMError) or from_handler(failure):
            fetch.abandon()
            forget_locals(failure, but=handled)
            raise
        error = provider.describe_error(failure, request)
        error.provider = error.provider or provider.name
        partial_text = record.transcript.text()
        if partial_text and _broke_off(error):
            error = StreamInterrupted.of(error)
        error.partial_text = partial_text
        error.attempts = Attempts((record.attempt(error),))
        forget_locals(failure, but=handled)
        if error is failure:
            raise
        raise error from failure


def ask(
    provider: Provider,
    make: Callable[[Fetch], HTTPRequest],
    read: Callable[[HTTPResponse], T],
    *,
    request: ChatRequest | None,
    scope: CancelScope | None,
) -> T:
    """What ``Provider.ask`` returns and raises."""
    request = request or ChatRequest(())
    fetch = Fetch(provider, request, scope or CancelScope())
    handled = sys.exc_info()[1]
    try:
        mended: set[str] = set()
        while True:
            call = None
            try:
                with _Step(provider, "prepare"):
                    call = make(fetch)
                with closing(fetch(call)) as reply:
                    with _Step(provider, "parse"):
                        value = read(reply)
                    reply.finish()
                    return value
            except LLMError as failure:
                let_through(failure)
                error = provider.describe_error(failure, request)
                error.provider = error.provider or provider.name
                cause = None if error is failure else failure
                _mend_or_raise(provider, error, call, request, fetch, mended, cause)
    except LLMError as failure:
        forget_locals(failure, but=handled)
        raise
    except BaseException as interrupt:
        fetch.abandon()
        forget_locals(interrupt, but=handled)
        raise


def _mend_or_raise(
    provider: Provider,
    error: LLMError,
    call: HTTPRequest | None,
    request: ChatRequest,
    fetch: Fetch,
    mended: set[str],
    cause: LLMError | None = None,
) -> None:
    word = provider.recover(error, call, request, fetch)
    if word is None or word in mended:
        raise error from cause or error.__cause__
    mended.add(word)
    logger.debug("%s: renewed the %s, asking again", provider.name, word)


def _prepared(
    provider: Provider, request: ChatRequest, fetch: Fetch, record: _Record
) -> Generator[str, None, None]:
    with _Step(provider, "prepare"):
        named = request.to(provider.find_model(request.model, fetch))
        record.model = named.model
        call = record.call = provider.prepare(named, fetch)
    yield from _once(provider, named, fetch, call, record)


def _once(
    provider: Provider, request: ChatRequest, fetch: Fetch, call: HTTPRequest, record: _Record
) -> Generator[str, None, None]:
    record.sent = True
    reply = fetch(call)
    reply.texts = lambda: record.transcript.count
    pieces: Any = None
    try:
        with _Step(provider, "parse"):
            pieces = whole_characters(provider.parse(reply))
        shown = request.reasoning
        finish: str | None = None
        blank: list[str] = []
        for piece in pieces:
            if type(piece) is Reasoning:
                record.begun = True
                if shown:
                    yield piece
                continue
            if type(piece) is not str:
                finish = piece
                break
            blank.append(piece)
            if piece and not piece.isspace():
                record.first_text()
                piece = "".join(blank)
                record.transcript.append(piece)
                yield piece
                break
        if finish is None:
            keep = record.transcript.append
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
        record.usage = finish.usage
        if record.first_text_at is None and not (finish.tool_calls or finish.images):
            raise _no_text(finish)
        # A service in trouble may say a key in any of its words.
        yield finish.evolve(
            raw=_redacted(finish.raw),
            detail=_redacted(finish.detail),
            provider=provider.name,
            model=_redacted(finish.model) or request.model,
            # A long text is written out only where somebody looks at the message.
            message=partial(_with_text, finish.message, record.transcript),
            request_id=_redacted(finish.request_id) or reply.request_id,
            attempts=(record.attempt(None),),
        )
        reply.finish()
    except LLMError as error:
        let_through(error)
        error.request_id = _redacted(error.request_id or reply.request_id)
        raise
    except Exception as error:
        # Only a parser that failed has ended: what a caller throws in finds it waiting.
        if pieces is None or pieces.gi_frame is not None or from_handler(error):
            raise
        raise _own_failure(provider, "parse", error, request_id=reply.request_id) from error
    finally:
        fetch.close()


def _redacted(text: str | None) -> str | None:
    return None if text is None else redact(text)


class _Step:
    """A block of a provider's own code: what it raises beside our errors is a ``ProtocolError``."""

    # No generator with contextlib.contextmanager: that one lets a StopIteration through.
    def __init__(self, provider: Provider, name: str) -> None:
        self._provider = provider
        self._name = name

    def __enter__(self) -> None:
        """Nothing is to be done."""

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        """Translate."""
        if not isinstance(error, Exception) or isinstance(error, LLMError):
            return
        if not from_handler(error):
            raise _own_failure(self._provider, self._name, error) from error


def _own_failure(
    provider: Provider, step: str, error: Exception, *, request_id: str | None = None
) -> ProtocolError:
    scrub(error)
    said = " ".join(str(error).split())[:300]
    return ProtocolError(
        f"{step} of {provider.name} failed: {type(error).__name__}: {said}", request_id=request_id
    )


def _with_text(beside: dict[str, Any], transcript: Transcript) -> dict[str, Any]:
    return {**beside, "role": "assistant", "content": transcript.text()}


def accepted(
    stream: Generator[str, None, None], accept: Accept, *, holds: bool = False
) -> Generator[str, None, None]:
    """The same stream, which fails at its end where ``accept`` turns the reply down.

    Args:
        stream: a reply.
        accept: what it has to please.
        holds: whether its text is kept back until it has.
    """
    kept: list[str] = []
    with closing(stream):
        for piece in stream:
            if type(piece) is str:
                kept.append(piece)
                if holds:
                    continue
            elif isinstance(piece, FinishReason):
                text = "".join(kept)
                _check_accepted(accept, text, piece)
                if holds and text:
                    yield text
            elif isinstance(piece, Restart):
                kept.clear()
            yield piece


def _check_accepted(accept: Accept, text: str, finish: FinishReason) -> None:
    verdict = accept(Completion.of(text, finish))
    reason = verdict if isinstance(verdict, str) else None
    if verdict and reason is None:
        return
    message = f"accept turned the reply down{': ' + reason if reason else ''}"
    raise rejected(message, text, finish, detail=reason, kind=RejectedReplyError)


def _joined(stream: Generator[str, None, None]) -> Generator[str, None, None]:
    pieces: list[str] = []
    with closing(stream):
        for piece in stream:
            if type(piece) is str:
                pieces.append(piece)
            else:
                if pieces and isinstance(piece, FinishReason):
                    yield "".join(pieces)
                yield piece


def _broke_off(error: LLMError) -> bool:
    return isinstance(error, (ProviderTimeout, ConnectionFailed)) and not isinstance(
        error, DeadlineExceeded
    )


def _no_text(finish: FinishReason) -> LLMError:
    if finish.reason == "content_filter":
        return RefusedError(
            "a filter of the service stopped the reply before any text"
            + (f": {finish.detail}" if finish.detail else ""),
            detail=finish.detail,
            request_id=finish.request_id,
        )
    cut = finish.reason == "length"
    alone = " with thoughts alone," if finish.reasoning else ""
    hint = "; raise max_tokens" if cut else ""
    return EmptyReplyError(
        f"the service ended its reply ({finish.raw}){alone} without any text{hint}",
        request_id=finish.request_id,
        # The same request would end likewise, and be paid for once more.
        retryable=False if cut else None,
    )


class _Record:
    """What happens in one attempt.

    Attributes:
        begun: whether text or thoughts have come.
        usage: the tokens, once the service has told them.
        call: what was sent last, or None where ``prepare`` has not come to that.
        sent: whether the request, and not only what comes before it, was handed to the transport.
    """

    def __init__(self, provider: str, model: str | None, clock: Clock) -> None:
        self.provider = provider
        self.model = model
        self.transcript = Transcript()
        self.first_text_at: float | None = None
        self.begun = False
        self.usage: Usage | None = None
        self.call: HTTPRequest | None = None
        self.sent = False
        self._clock = clock
        self.start(0.0)

    def start(self, waited: float) -> None:
        """The attempt begins, after ``waited`` seconds."""
        self._waited = waited
        self._started_at = self._clock.wall()
        self._start = self._clock.monotonic()

    def first_text(self) -> None:
        """The first text is here."""
        self.begun = True
        self.first_text_at = self._clock.monotonic()

    def attempt(self, error: LLMError | None) -> Attempt:
        """The attempt as it ends now."""
        first = self.first_text_at
        return Attempt(
            provider=self.provider,
            model=self.model,
            started_at=self._started_at,
            first_chunk_after=None if first is None else first - self._start,
            duration=self._clock.monotonic() - self._start,
            error=error,
            waited=self._waited,
            chunks=self.transcript.count,
            usage=self.usage,
        )
