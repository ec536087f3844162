"""What a provider is, and the one ``stream`` that keeps the promise of what a stream yields."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, nullcontext, suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from . import _environ
from ._call import (
    DEFAULT_TIMEOUT,
    Call,
    Limits,
    Reply,
    Sender,
    Timeout,
    Trust,
    check_proxy,
    check_timeout,
)
from ._characters import whole_characters
from ._clock import Clock, Scope
from ._log import logger
from ._params import check_names, nearest
from ._redact import redact
from ._secret import Key, reveal
from ._transcript import Transcript
from .errors import (
    ConnectionFailed,
    DeadlineExceeded,
    EmptyReplyError,
    InvalidRequestError,
    LLMError,
    ModelNotFoundError,
    ProviderTimeout,
    RefusedError,
    StreamInterrupted,
)
from .messages import Message, Prompt, normalize
from .results import Attempt, Attempts, Completion, FinishReason, Restart

if TYPE_CHECKING:
    import requests
    from typing_extensions import Self

    from .conversation import Conversation

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


T = TypeVar("T")

USER_AGENT = (
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 "
    "(KHTML, like Gecko) Chrome/142.0.0.0 Safari/537.36"
)


@dataclass(frozen=True)
class Request:
    """What a caller asked for, checked, and the same for every provider.

    Attributes:
        messages: the conversation, each content one string.
        model: a model or an alias, or None for the provider's default.
        params: sampling parameters by their usual names.
        stream: False asks the service for the whole reply at once.
        timeout: seconds, or ``(connect, read)``, or None for the provider's.
        proxy: a proxy's URL, or None for the provider's.
    """

    messages: tuple[Message, ...]
    model: str | None = None
    params: Mapping[str, Any] = field(default_factory=dict)
    stream: bool = True
    timeout: Timeout | None = None
    proxy: str | None = None

    @classmethod
    def of(
        cls,
        prompt: Prompt,
        *,
        model: str | None = None,
        timeout: Timeout | None = None,
        proxy: str | None = None,
        stream: bool = True,
        params: Mapping[str, Any],
    ) -> Request:
        """Check what a caller passed; nothing is sent for what is wrong.

        Raises:
            TypeError: a parameter that no service has.
            InvalidRequestError: an empty or misshapen prompt, model, timeout, proxy or
                ``extra_body``.
        """
        check_names(params)
        rest = dict(params)
        system = rest.pop("system", None)
        if rest.get("extra_body") is None:
            rest.pop("extra_body", None)
        elif not isinstance(rest["extra_body"], Mapping):
            raise InvalidRequestError("extra_body is not a dict of fields for the request's body")
        if model is not None and not isinstance(model, str):
            raise InvalidRequestError(f"a model is a name, not {type(model).__name__}")
        if timeout is not None:
            check_timeout(timeout, timeout)
        if proxy is not None:
            check_proxy(proxy)
        return cls(tuple(normalize(prompt, system=system)), model, rest, stream, timeout, proxy)


class BaseClient(ABC):
    """What answers a prompt: one provider, or several behind one another.

    A subclass gives ``generate``; everything that callers use stands on it.
    """

    name: str

    @abstractmethod
    def generate(self, request: Request, scope: Scope | None = None) -> Generator[str, None, None]:
        """Yield text, then one ``FinishReason``; or raise an ``LLMError``.

        Args:
            request: what is asked, already checked.
            scope: how long it may take; None: as long as it takes.
        """

    def stream(
        self,
        prompt: Prompt,
        *,
        model: str | None = None,
        timeout: Timeout | None = None,
        proxy: str | None = None,
        **params: Any,
    ) -> Generator[str, None, None]:
        """Ask, and yield the reply's text as it comes.

        Args:
            prompt: a text or a list of messages.
            model: a model or an alias; None for the default.
            timeout: seconds, or ``(connect, read)``; ``read`` bounds one silence.
            proxy: a proxy's URL for every request of this call.
            **params: sampling parameters, ``system``, ``extra_body``.

        Returns:
            A generator of non-empty ``str``, its last item a ``FinishReason``. Nothing is sent
            before its first ``next()``; closing it closes the connection.

        Raises:
            InvalidRequestError: at once, for what no service could take.
            LLMError: while iterating, for what went wrong.

        >>> from llmproviders.testing import ScriptedProvider
        >>> for chunk in ScriptedProvider(["Rayleigh ", "scattering."]).stream("Why blue?"):
        ...     print(chunk, end="")
        Rayleigh scattering.
        """
        return self.generate(
            Request.of(prompt, model=model, timeout=timeout, proxy=proxy, params=params)
        )

    def complete(
        self,
        prompt: Prompt,
        *,
        model: str | None = None,
        timeout: Timeout | None = None,
        proxy: str | None = None,
        **params: Any,
    ) -> Completion:
        """Ask, and return the whole reply; arguments as for :meth:`stream`.

        >>> from llmproviders.testing import ScriptedProvider
        >>> str(ScriptedProvider(["Rayleigh ", "scattering."]).complete("Why blue?"))
        'Rayleigh scattering.'
        """
        return self.answer(
            Request.of(prompt, model=model, timeout=timeout, proxy=proxy, params=params)
        )

    def answer(self, request: Request, scope: Scope | None = None) -> Completion:
        """The whole reply to a request that is already checked; what ``complete`` stands on."""
        return collect(self.generate(request, scope))

    def create_generator(
        self,
        model: str | None,
        messages: Prompt,
        *,
        stream: bool = True,
        proxy: str | None = None,
        timeout: Timeout | None = None,
        **params: Any,
    ) -> Generator[str, None, None]:
        """The same generator as :meth:`stream`, in another order of arguments.

        With ``stream=False`` the service is asked for the whole reply at once, which then comes
        as one chunk.

        >>> from llmproviders.testing import ScriptedProvider
        >>> generator = ScriptedProvider(["a", "b"]).create_generator(None, "Hi", stream=False)
        >>> list(generator)[:-1]
        ['ab']
        """
        return self.generate(
            Request.of(
                messages, model=model, timeout=timeout, proxy=proxy, stream=stream, params=params
            )
        )

    def conversation(
        self, *, system: str | None = None, model: str | None = None, **arguments: Any
    ) -> Conversation:
        """Begin a conversation, which sends what was said so far with each new turn.

        Args:
            system: the system prompt.
            model: a model or an alias; None for the default.
            **arguments: the others of :class:`~llmproviders.conversation.Conversation`, and
                sampling parameters for every turn.

        >>> from llmproviders.testing import ScriptedProvider
        >>> chat = ScriptedProvider(["Yes."]).conversation(system="Be brief.")
        >>> print(chat.ask("Is the sky blue?"))
        Yes.
        """
        from .conversation import Conversation

        return Conversation(self, system=system, model=model, **arguments)

    @abstractmethod
    def close(self) -> None:
        """Close the connections; the next call opens new ones."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def collect(stream: Generator[str, None, None]) -> Completion:
    """Read a stream to its end; what a ``Restart`` made void does not count.

    What a signal's handler raises, a ``KeyboardInterrupt`` above all, leaves with the text so far
    in its ``partial_text``.
    """
    pieces: list[str] = []
    finish = FinishReason()
    with closing(stream):
        try:
            for piece in stream:
                if type(piece) is str:
                    pieces.append(piece)
                elif isinstance(piece, FinishReason):
                    finish = piece
                elif isinstance(piece, Restart):
                    pieces.clear()
        except LLMError:
            raise
        except BaseException as interrupt:
            with suppress(AttributeError):
                interrupt.partial_text = "".join(pieces)  # type: ignore[attr-defined]
            raise
    return Completion.of("".join(pieces), finish)


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


class Fetch:
    """Sends what has to be sent for one request, and knows how long that may take.

    Attributes:
        scope: the end of the request.
        route: which way it goes; the same for requests that go the same way.
    """

    def __init__(self, provider: Provider, request: Request, scope: Scope) -> None:
        self.scope = scope
        self.route = (provider._proxy, provider.timeout, request.proxy, request.timeout)
        self._provider = provider
        self._request = request

    def __call__(self, call: Call) -> Reply:
        """Send ``call``; the reply is closed by whoever asked for it.

        Raises:
            LLMError: what is not a success.
        """
        request = self._request
        return self._provider._transport.open(
            call, self.scope, timeout=request.timeout, proxy=request.proxy
        )


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

    What is not given is read from the environment, by the names in ``environment``. Making one
    does no I/O.
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
    takes: ClassVar[frozenset[str]] = frozenset()
    #: Argument -> names of the environment that stand for it, the first that is set wins.
    environment: ClassVar[Mapping[str, tuple[str, ...]]] = {}

    _given: tuple[tuple[Any, ...], dict[str, Any]]

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Remember the arguments, from which a pickle makes the provider anew."""
        self = super().__new__(cls)
        self._given = (args, kwargs)
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
    ) -> None:
        self.name = name or type(self).__name__
        self.base_url = (self._setting("base_url", base_url) or self.default_base_url()).rstrip("/")
        self.model = self._setting("model", model)
        self.timeout = check_timeout(timeout, DEFAULT_TIMEOUT)
        found = self._setting("proxy", proxy)
        self._proxy = (check_proxy(found) if found else None, bool(proxy))
        self._session = session
        self._limits = limits or Limits()

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

    def _setting(self, argument: str, given: Key | None) -> str | None:
        if given is not None:
            return reveal(given)
        return _environ.lookup(*self.environment_of(argument))

    def trust(self) -> Trust:
        """Whose certificates this provider believes."""
        return Trust()

    # -- what a subclass gives

    @abstractmethod
    def prepare(self, request: Request, fetch: Fetch) -> Call:
        """The HTTP request for ``request``.

        Args:
            request: what is asked; ``request.model`` is the service's own name.
            fetch: sends a call that has to come before, within the same deadline and through the
                same proxy; its reply is closed by whoever asked for it.
        """

    @abstractmethod
    def parse(self, reply: Reply) -> Iterator[str]:
        """Yield the text of ``reply`` piece by piece, then a ``FinishReason``.

        No network of its own, no clock, no retry. Ending without a ``FinishReason`` says that
        the reply was cut.
        """

    def mend(
        self,
        error: LLMError,
        call: Call | None,
        request: Request,
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

    def explain(self, error: LLMError, request: Request) -> LLMError:
        """A better error for ``error``, where this service's words mean more than the status."""
        return error

    def place(self, scope: Scope) -> AbstractContextManager[float]:
        """Wait for a free place among the requests that the service allows at a time.

        The value of the block is the seconds waited.
        """
        return nullcontext(0.0)

    # -- what a provider does

    def get_model(self, name: str | None) -> str:
        """The service's own name for a model or an alias; None is the default.

        Raises:
            ModelNotFoundError: the service certainly lacks it.

        >>> from llmproviders import FlowGpt
        >>> FlowGpt().get_model("gemini")
        'google-gemini'
        """
        if name is None:
            name = self.model or self.default_model
        name = self.model_aliases.get(name, name)
        if self.open_catalogue or name in self.models:
            return name
        raise self.lacks(name, self.models)

    def lacks(self, model: str, names: Sequence[str], **about: Any) -> ModelNotFoundError:
        """The error for a model that the service does not have; it names near ones and all.

        Args:
            model: what was asked for.
            names: what there is.
            **about: more for the error, such as its ``status_code``.
        """
        near = nearest(model, (*names, *self.model_aliases))
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

    def sampling(self, request: Request) -> dict[str, Any]:
        """The parameters of ``request`` that this service takes."""
        left_out = [n for n in request.params if n not in self.takes and n != "extra_body"]
        if left_out:
            logger.debug("%s takes no %s; left out", self.name, ", ".join(sorted(left_out)))
        return {n: v for n, v in request.params.items() if n in self.takes and v is not None}

    def generate(self, request: Request, scope: Scope | None = None) -> Generator[str, None, None]:
        """Try once: yield text, then one ``FinishReason``; or raise an ``LLMError``."""
        if scope is None:
            scope = Scope()
        record = _Record(self.name, request.model, scope.clock)
        try:
            with self.place(scope) as waited:
                record.start(waited)
                text = self._replies(request, scope, record)
                yield from text if request.stream else _joined(text)
        except LLMError as failure:
            error = self.explain(failure, request)
            error.provider = error.provider or self.name
            partial_text = record.transcript.text()
            if partial_text and _broke_off(error):
                error = interrupted(error)
            error.partial_text = partial_text
            error.attempts = Attempts((record.attempt(error),))
            if error is failure:
                raise
            raise error from failure
        except BaseException:
            # An interrupt can come between two steps, when nobody would close the connection.
            scope.cancel("the call was interrupted")
            raise

    def _replies(
        self, request: Request, scope: Scope, record: _Record
    ) -> Generator[str, None, None]:
        fetch = Fetch(self, request, scope)
        mended: set[str] = set()
        while True:
            named = replace(request, model=self.get_model(request.model))
            record.model = named.model
            call = None
            try:
                call = self.prepare(named, fetch)
                yield from self._once(named, fetch(call), record)
            except LLMError as error:
                if record.first_text_at is not None:
                    raise
                self._mend_or_raise(error, call, request, fetch, mended)
            else:
                return

    def ask(
        self,
        make: Callable[[Fetch], Call],
        read: Callable[[Reply], T],
        *,
        request: Request | None = None,
        scope: Scope | None = None,
    ) -> T:
        """Send a call that is not a chat and return what ``read`` makes of its reply.

        Args:
            make: the call; it may fetch what has to come before.
            read: what to return.
            request: what it is for, where there is something to say of it, the model above all.
            scope: how long all of it may take; None: as long as it takes.
        """
        request = request or Request(())
        fetch = Fetch(self, request, scope or Scope())
        mended: set[str] = set()
        while True:
            call = None
            try:
                call = make(fetch)
                with closing(fetch(call)) as reply:
                    value = read(reply)
                    reply.finish()
                    return value
            except LLMError as failure:
                error = self.explain(failure, request)
                error.provider = error.provider or self.name
                cause = None if error is failure else failure
                self._mend_or_raise(error, call, request, fetch, mended, cause)

    def _mend_or_raise(
        self,
        error: LLMError,
        call: Call | None,
        request: Request,
        fetch: Fetch,
        mended: set[str],
        cause: LLMError | None = None,
    ) -> None:
        word = self.mend(error, call, request, fetch)
        if word is None or word in mended:
            raise error from cause or error.__cause__
        mended.add(word)
        logger.debug("%s: renewed the %s, asking again", self.name, word)

    def _once(self, request: Request, reply: Reply, record: _Record) -> Generator[str, None, None]:
        try:
            pieces = whole_characters(self.parse(reply))
            finish: str | None = None
            blank: list[str] = []
            for piece in pieces:
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
                        finish = piece
                        break
                    if piece:
                        keep(piece)
                        yield piece
            if not isinstance(finish, FinishReason):
                raise StreamInterrupted("the reply ended without its end mark")
            finish = finish.evolve(
                provider=self.name,
                model=finish.model or request.model,
                request_id=finish.request_id or reply.request_id,
            )
            if record.first_text_at is None and not finish.tool_calls:
                raise _no_text(finish)
            yield finish.evolve(attempts=(record.attempt(None),))
            reply.finish()
        except LLMError as error:
            error.request_id = error.request_id or reply.request_id
            raise
        finally:
            reply.close()

    def make_transport(self) -> Sender:
        """What sends this provider's calls; made when the first one is sent."""
        from ._transport import Transport

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

    def close(self) -> None:
        """Close the connections; the next call opens new ones."""
        made: Sender | None = self.__dict__.get("_made_transport")
        if made is not None:
            made.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return _remake, (type(self), *self._given)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(name={self.name!r}, base_url={redact(self.base_url)!r})"


def _remake(cls: type[Provider], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Provider:
    return cls(*args, **kwargs)


def _joined(stream: Generator[str, None, None]) -> Generator[str, None, None]:
    pieces: list[str] = []
    with closing(stream):
        for piece in stream:
            if type(piece) is str:
                pieces.append(piece)
            else:
                if pieces:
                    yield "".join(pieces)
                yield piece


def _broke_off(error: LLMError) -> bool:
    return isinstance(error, (ProviderTimeout, ConnectionFailed)) and not isinstance(
        error, DeadlineExceeded
    )


def interrupted(error: LLMError) -> StreamInterrupted:
    """What an error means for a reply whose text has begun to come."""
    return StreamInterrupted(
        f"the reply was cut short: {error}",
        provider=error.provider,
        request_id=error.request_id,
        status_code=error.status_code,
    )


def _no_text(finish: FinishReason) -> LLMError:
    if finish.reason == "content_filter":
        return RefusedError(
            "a filter of the service stopped the reply before any text"
            + (f": {finish.detail}" if finish.detail else ""),
            detail=finish.detail,
            request_id=finish.request_id,
        )
    hint = "; raise max_tokens" if finish.reason == "length" else ""
    return EmptyReplyError(
        f"the service ended its reply ({finish.raw}) without any text{hint}",
        request_id=finish.request_id,
    )


class _Record:
    """What happens in one attempt."""

    def __init__(self, provider: str, model: str | None, clock: Clock) -> None:
        self.provider = provider
        self.model = model
        self.transcript = Transcript()
        self.first_text_at: float | None = None
        self._clock = clock
        self.start(0.0)

    def start(self, waited: float) -> None:
        """The attempt begins, after ``waited`` seconds."""
        self._waited = waited
        self._started_at = self._clock.wall()
        self._start = self._clock.monotonic()

    def first_text(self) -> None:
        """The first text is here."""
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
        )
