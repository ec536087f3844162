"""What a provider is, and the one ``stream`` that keeps the promise of what a stream yields."""

from __future__ import annotations

from abc import ABC, abstractmethod

# What ``typing`` would say: to import it costs more than all that is imported here. For the same
# reason most of what is used below is imported where it is first used.
TYPE_CHECKING = False

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager
    from typing import Any, ClassVar, TypeVar

    import requests
    from typing_extensions import Self

    from ._attempt import Fetch
    from ._call import Call, Limits, Reply, Sender, Timeout, Trust
    from ._clock import Scope
    from ._redact import Secret
    from ._request import Accept, Request
    from ._secret import Key
    from .conversation import Conversation
    from .errors import LLMError, ModelNotFoundError
    from .messages import Prompt
    from .results import Completion

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

_HOMES = {
    "Fetch": "_attempt",
    "Request": "_request",
    **dict.fromkeys(("Call", "Limits", "Reply", "Timeout", "Trust"), "_call"),
}
"""What else those who write a provider find here -> its module."""


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    # The next one finds it without asking here.
    globals()[name] = value = getattr(import_module(f".{_HOMES[name]}", __package__), name)
    return value


_MODULES_OF_CALLS = (
    *("difflib", "encodings.punycode"),
    *(f"{__package__}.{name}" for name in ("_attempt", "_process", "_request", "_transport")),
)
"""What every call needs, or may need, and nothing before it does."""

USER_AGENT = (
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 "
    "(KHTML, like Gecko) Chrome/142.0.0.0 Safari/537.36"
)


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
        deadline: float | None = None,
        accept: Accept | None = None,
        **params: Any,
    ) -> Generator[str, None, None]:
        """Ask, and yield the reply's text as it comes.

        Args:
            prompt: a text or a list of messages.
            model: a model or an alias; None for the default.
            timeout: seconds, or ``(connect, read)``; ``read`` bounds one silence.
            proxy: a proxy's URL for every request of this call.
            deadline: seconds for this call; it begins with the first ``next()``.
            accept: gets the whole reply and returns True, or False or a reason: then the stream
                ends in a ``RejectedReplyError``, though its text is out.
            **params: sampling parameters, ``system``, ``extra_body``, and ``reasoning=True`` to
                get what the model thinks, too.

        Returns:
            A generator of non-empty ``str``, its last item a ``FinishReason``; with
            ``reasoning=True`` also ``Reasoning`` items, which are empty as ``str``. Nothing is
            sent before its first ``next()``; closing it closes the connection. It belongs to the
            process that made that first ``next()``; a forked child cannot go on with it.

        Raises:
            InvalidRequestError: at once, for what no service could take.
            LLMError: while iterating, for what went wrong.

        >>> from llmproviders.testing import ScriptedProvider
        >>> for chunk in ScriptedProvider(["Rayleigh ", "scattering."]).stream("Why blue?"):
        ...     print(chunk, end="")
        Rayleigh scattering.
        """
        from ._process import owned
        from ._redact import hidden
        from ._request import Request

        proxy = hidden(proxy)
        request = Request.of(
            prompt,
            model=model,
            timeout=timeout,
            proxy=proxy,
            deadline=deadline,
            accept=accept,
            params=params,
        )
        return owned(self.generate(request), self.name)

    def complete(
        self,
        prompt: Prompt,
        *,
        model: str | None = None,
        timeout: Timeout | None = None,
        proxy: str | None = None,
        deadline: float | None = None,
        accept: Accept | None = None,
        stream: bool | None = None,
        **params: Any,
    ) -> Completion:
        """Ask, and return the whole reply.

        Args:
            prompt: a text or a list of messages.
            model: a model or an alias; None for the default.
            timeout: seconds, or ``(connect, read)``; ``read`` bounds one silence.
            proxy: a proxy's URL for every request of this call.
            deadline: seconds for this call.
            accept: gets the ``Completion`` and returns True, or False or a reason: then it is a
                ``RejectedReplyError``.
            stream: False asks the service for the whole reply at once; without it the reply
                streams, so that a deadline sees every piece.
            **params: sampling parameters, ``system``, ``extra_body``.

        Raises:
            TypeError: a parameter that no service has, or ``stream=True``.
            InvalidRequestError: what no service could take; nothing was sent.
            LLMError: there is no whole reply; ``partial_text`` has what came of it.

        >>> from llmproviders.testing import ScriptedProvider
        >>> str(ScriptedProvider(["Rayleigh ", "scattering."]).complete("Why blue?"))
        'Rayleigh scattering.'
        """
        from ._redact import hidden
        from ._request import Request

        if stream:
            raise TypeError("complete() returns the whole reply; use stream()")
        proxy = hidden(proxy)
        return self.answer(
            Request.of(
                prompt,
                model=model,
                timeout=timeout,
                proxy=proxy,
                stream=stream is None,
                deadline=deadline,
                accept=accept,
                params=params,
            )
        )

    def answer(self, request: Request, scope: Scope | None = None) -> Completion:
        """The whole reply to a request that is already checked; what ``complete`` stands on.

        Args:
            request: what is asked, already checked.
            scope: how long it may take; None: as long as it takes.
        """
        from ._attempt import collect

        return collect(self.generate(request, scope))

    def create_generator(
        self,
        model: str | None,
        messages: Prompt,
        *,
        stream: bool = True,
        proxy: str | None = None,
        timeout: Timeout | None = None,
        deadline: float | None = None,
        accept: Accept | None = None,
        **params: Any,
    ) -> Generator[str, None, None]:
        """The same generator as :meth:`stream`, in another order of arguments.

        Args:
            model: a model or an alias; None for the default.
            messages: a text or a list of messages.
            stream: False asks the service for the whole reply at once, which then comes as one
                chunk.
            proxy: a proxy's URL for every request of this call.
            timeout: seconds, or ``(connect, read)``; ``read`` bounds one silence.
            deadline: seconds for this call; it begins with the first ``next()``.
            accept: as for :meth:`stream`; with ``stream=False`` it decides before the chunk is
                yielded.
            **params: sampling parameters, ``system``, ``extra_body``.

        Raises:
            InvalidRequestError: at once, for what no service could take.
            LLMError: while iterating, for what went wrong.

        >>> from llmproviders.testing import ScriptedProvider
        >>> generator = ScriptedProvider(["a", "b"]).create_generator(None, "Hi", stream=False)
        >>> list(generator)[:-1]
        ['ab']
        """
        from ._process import owned
        from ._redact import hidden
        from ._request import Request

        proxy = hidden(proxy)
        request = Request.of(
            messages,
            model=model,
            timeout=timeout,
            proxy=proxy,
            stream=stream,
            deadline=deadline,
            accept=accept,
            params=params,
        )
        return owned(self.generate(request), self.name)

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

    def credential_digest(self) -> str | None:
        """A hash of the credential that the next call would be made with, by the address too.

        What a service does to one account, a refused key or a spent quota, is remembered by it,
        so that it does not tell against others.

        Returns:
            The digest, from which no secret can be had; None where there is no credential.

        Raises:
            MissingAuthError: a key that is kept elsewhere is not there.
        """
        return None

    @abstractmethod
    def close(self) -> None:
        """Close the connections; the next call opens new ones."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


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
    takes: ClassVar[frozenset[str]] = frozenset()
    #: Argument -> names of the environment that stand for it, the first that is set wins.
    environment: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    #: Modules to load when one is made. No call imports anything: the lock of a module that is
    #: being imported stays held in a child that is forked meanwhile.
    _modules: ClassVar[tuple[str, ...]] = ()

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
    ) -> None:
        from importlib import import_module

        from ._call import DEFAULT_TIMEOUT, Limits, check_proxy, check_timeout
        from ._redact import hidden

        for module in (*_MODULES_OF_CALLS, *self._modules):
            import_module(module, __package__)
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
            from . import _environ

            return _environ.lookup(*self.environment_of(argument))
        from ._redact import Secret, hidden
        from .errors import InvalidRequestError

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
        from ._call import check_url

        variables = "the environment's " + " or ".join(self.environment_of(argument))
        return check_url(url, variables if given is None else argument)

    def _secret(self, argument: str, given: Key | None) -> Secret | None:
        """The same for a key or token, wherever it is kept.

        Raises:
            MissingAuthError: the place that was given has none.
            AuthenticationError: what is there cannot be one.
        """
        from ._secret import find

        return find(argument, given, self.environment_of(argument))

    def trust(self) -> Trust:
        """Whose certificates this provider believes."""
        from ._call import Trust

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

        Raises:
            ProtocolError: what came cannot be understood.
            LLMError: what the service reports, such as a ``ServerError``.
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
        """A better error, where this service's words mean more than the status.

        Args:
            error: what the request failed with; returned as it is where there is no better one.
            request: as in :meth:`mend`.
        """
        return error

    def place(self, scope: Scope) -> AbstractContextManager[float]:
        """Wait for a free place among the requests that the service allows at a time.

        Args:
            scope: how long that may take.

        Returns:
            A block that holds the place; its value is the seconds waited.
        """
        from contextlib import nullcontext

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
        raise self.lacks(name, self.models)

    def find_model(self, name: str | None, fetch: Fetch) -> str:
        """The name to send for a model; a provider may ask its service which names it has.

        Args:
            name: the caller's word; None is the default.
            fetch: as in :meth:`prepare`.

        Raises:
            ModelNotFoundError: the service certainly lacks it.
        """
        return self.get_model(name)

    def lacks(self, model: str, names: Sequence[str], **about: Any) -> ModelNotFoundError:
        """The error for a model that the service does not have; it names near ones and all.

        Args:
            model: what was asked for.
            names: what there is.
            **about: more for the error, such as its ``status_code``.
        """
        from ._params import nearest
        from .errors import ModelNotFoundError

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

    def sampling(self, request: Request) -> dict[str, Any]:
        """The parameters of ``request`` that this service takes."""
        left_out = [n for n in request.params if n not in self.takes and n != "extra_body"]
        if left_out:
            from ._log import logger

            logger.debug("%s takes no %s; left out", self.name, ", ".join(sorted(left_out)))
        return {n: v for n, v in request.params.items() if n in self.takes and v is not None}

    def generate(self, request: Request, scope: Scope | None = None) -> Generator[str, None, None]:
        """Try once: yield text, then one ``FinishReason``; or raise an ``LLMError``."""
        from ._attempt import attempt

        return attempt(self, request, scope)

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
        from ._attempt import ask

        return ask(self, make, read, request=request, scope=scope)

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
        return _remake, (type(self), self._given.args, self._given.kwargs)

    def __repr__(self) -> str:
        from ._redact import redact

        # A traceback may show one whose making failed.
        name, base_url = getattr(self, "name", None), getattr(self, "base_url", "")
        return f"{type(self).__name__}(name={name!r}, base_url={redact(base_url)!r})"


class _Arguments:
    """What a provider was made with; no ``repr`` shows it, since keys are among it."""

    __slots__ = ("args", "kwargs")

    def __init__(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.args = args
        self.kwargs = kwargs


def _remake(cls: type[Provider], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Provider:
    return cls(*args, **kwargs)
