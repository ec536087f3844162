"""The methods of every client, whether it uses one provider or several."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable
from contextlib import closing
from dataclasses import replace
from functools import wraps
from typing import Any, TypeVar, cast

from ._account.arguments import spelled_out
from ._checks import whole
from ._http.types import Timeout
from ._log import logger
from ._printable import be_brief
from ._redact import handled_outside, hidden
from ._request import (
    Accept,
    ChatRequest,
    ConversationParams,
    Params,
    ParamsBesideTools,
    Self,
    Unpack,
)
from ._runtime import process
from ._runtime.scope import SYSTEM_CLOCK, CancelScope, Clock
from ._signals import from_handler, ignoring
from ._turns import ToolRun
from .conversation import Conversation
from .errors import AllProvidersFailed, InvalidRequestError, LLMError
from .messages import Message, Prompt
from .results import Completion, StreamText, unless_called
from .tools import OnTool, Tool, listed

T = TypeVar("T")

F = TypeVar("F", bound=Callable[..., Any])

# Files and locks are held by context managers.
_OURS = (__name__.partition(".")[0], "contextlib")


def briefly(function: F) -> F:
    """Have what ``function`` raises printed without this package's frames.

    That is: every ``LLMError``, what is wrong with the arguments, and in a notebook a stopped cell.
    Any other error that came out of the caller's own code, or a library's, keeps its frames.
    """

    @wraps(function)
    def brief(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except KeyboardInterrupt as stop:
            be_brief(stop)
            raise
        except (LLMError, TypeError, ValueError, RuntimeError, ImportError, OSError) as error:
            if not (isinstance(error, LLMError) or _raised_here(error)):
                raise
            shorten(error)
            raise error
        finally:
            # A traceback with local variables would show a key or a proxy's password.
            del args, kwargs

    return cast(F, brief)


def _raised_here(error: BaseException) -> bool:
    """Whether an error that was just caught has passed through this package's functions alone."""
    step = error.__traceback__
    while step is not None:
        if step.tb_frame.f_globals.get("__name__", "").partition(".")[0] not in _OURS:
            return False
        step = step.tb_next
    return True


class BaseClient(ABC):
    """Answers prompts: one provider, or a client of several.

    A subclass implements ``generate`` and ``close``; every other method calls those.

    Attributes:
        name: the client's name in errors, logs and results.
        deadline: seconds for a call that does not set its own, or None.
        accept: checks replies of calls without their own ``accept``, or None.
        clock: the source of time.
    """

    name: str
    deadline: float | None = None
    accept: Accept | None = None
    clock: Clock = SYSTEM_CLOCK

    @abstractmethod
    def generate(
        self, request: ChatRequest, scope: CancelScope | None = None
    ) -> Generator[str, None, None]:
        """Yield text, then one ``FinishReason``; or raise an ``LLMError``.

        Args:
            request: what is asked, already checked.
            scope: how long it may take; None: no limit.
        """

    @abstractmethod
    def close(self) -> None:
        """Close the connections; the next call opens new ones."""

    @spelled_out(Params)
    @briefly
    def stream(
        self,
        prompt: Prompt,
        *,
        model: str | None = None,
        timeout: Timeout | None = None,
        proxy: str | None = None,
        deadline: float | None = None,
        accept: Accept | None = None,
        **params: Unpack[Params],
    ) -> Generator[str, None, None]:
        """Ask, and yield the text of the reply as it arrives.

        Args:
            prompt: a text or a list of messages.
            model: a model or an alias; None for the default.
            timeout: seconds, or ``(connect, read)``; ``read`` limits each wait for data.
            proxy: the URL of a proxy for every request of this call.
            deadline: seconds for this call, counted from the first ``next()``.
            accept: gets the whole reply and returns True, or False or a reason. If it rejects the
                reply, the stream ends with a ``RejectedReplyError``, after its text.
            **params: sampling parameters, ``system``, ``tools``, ``extra_body``, and
                ``reasoning=True`` to also get the model's thinking.

        Returns:
            A generator of non-empty ``str``, its last item a ``FinishReason``. With
            ``reasoning=True`` there are also ``Reasoning`` items, which are empty as ``str``.
            Nothing is sent before the first ``next()``; closing the generator closes the
            connection. A forked child cannot continue it.

        Raises:
            TypeError: an unknown parameter, or ``schema``, which needs the whole reply.
            InvalidRequestError: at once, for a request that no service could accept.
            LLMError: while iterating, if the call fails.

        >>> from llmproviders.testing import ScriptedProvider
        >>> for chunk in ScriptedProvider(["Rayleigh ", "scattering."]).stream("Why blue?"):
        ...     print(chunk, end="")
        Rayleigh scattering.
        """
        if proxy is not None:
            proxy = hidden(proxy)
        return self.create_generator(
            model,
            prompt,
            timeout=timeout,
            proxy=proxy,
            deadline=deadline,
            accept=accept,
            **params,
        )

    @spelled_out(Params)
    @briefly
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
        **params: Unpack[Params],
    ) -> Generator[str, None, None]:
        """The generator of :meth:`stream`, with the model and the messages first.

        Args:
            model: a model or an alias; None for the default.
            messages: a text or a list of messages.
            stream: False asks the service for the whole reply at once, which is then yielded as
                one chunk, after ``accept`` has taken it.
            proxy: as for :meth:`stream`.
            timeout: likewise.
            deadline: likewise.
            accept: likewise.
            **params: likewise; with ``stream=False`` also ``schema``.

        Raises:
            TypeError: as for :meth:`stream`.

        >>> from llmproviders.testing import ScriptedProvider
        >>> generator = ScriptedProvider(["a", "b"]).create_generator(None, "Hi", stream=False)
        >>> list(generator)[:-1]
        ['ab']
        """
        if stream and params.get("schema") is not None:
            raise TypeError("a schema needs the whole reply; use complete()")
        if proxy is not None:
            proxy = hidden(proxy)
        request = ChatRequest.of(
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

    @spelled_out(Params)
    @briefly
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
        **params: Unpack[Params],
    ) -> Completion:
        """Ask, and return the whole reply.

        Args:
            prompt: a text or a list of messages.
            model: a model or an alias; None for the default.
            timeout: seconds, or ``(connect, read)``; ``read`` limits each wait for data.
            proxy: the URL of a proxy for every request of this call.
            deadline: seconds for this call.
            accept: gets the ``Completion`` and returns True, or False or a reason, which becomes
                a ``RejectedReplyError``.
            stream: False asks the service for the whole reply at once. By default the reply
                streams, so that a deadline holds for every piece.
            **params: sampling parameters, ``system``, ``tools``, ``extra_body``, ``attach``, paths
                of files for the model to look at, and ``schema``, a type or a JSON Schema, whose
                value is then in ``data``.

        Raises:
            TypeError: an unknown parameter, or ``stream=True``.
            ImportError: ``schema`` needs ``llmproviders[schema]``.
            InvalidRequestError: no service could accept the request; nothing was sent.
            SchemaError: neither the reply nor a second one satisfies the schema.
            LLMError: there is no complete reply; ``partial_text`` has what arrived.

        >>> from llmproviders.testing import ScriptedProvider
        >>> str(ScriptedProvider(["Rayleigh ", "scattering."]).complete("Why blue?"))
        'Rayleigh scattering.'
        """
        if stream:
            raise TypeError("complete() returns the whole reply; use stream()")
        if proxy is not None:
            proxy = hidden(proxy)
        request = ChatRequest.of(
            prompt,
            model=model,
            timeout=timeout,
            proxy=proxy,
            stream=stream is None,
            deadline=deadline,
            accept=accept,
            params=params,
        )
        return self.answer(request)

    def answer(self, request: ChatRequest, scope: CancelScope | None = None) -> Completion:
        """The whole reply to a checked request; called by ``complete``.

        Args:
            request: what is asked, already checked.
            scope: how long it may take; None: no limit.
        """
        return collect(self.generate(request, scope))

    @spelled_out(Params)
    @briefly
    def run(
        self,
        prompt: Prompt,
        *,
        tools: Iterable[Tool],
        max_turns: int = 8,
        on_tool: OnTool | None = None,
        model: str | None = None,
        timeout: Timeout | None = None,
        proxy: str | None = None,
        deadline: float | None = None,
        accept: Accept | None = None,
        stream: bool | None = None,
        **params: Unpack[ParamsBesideTools],
    ) -> Completion:
        """Ask, call the functions that the model asks for, and ask again until it answers.

        The model gets an error for an unknown name, wrong arguments or an exception. A call is
        never run twice, even if another provider continues.

        Args:
            prompt: a text or a list of messages.
            tools: Python functions; their names, annotations, defaults and docstrings say what
                they do. Tools that the service runs itself can be given in its JSON form.
            max_turns: the most questions to the model.
            on_tool: gets each call and the text that is returned to the model.
            model: as for :meth:`complete`.
            timeout: likewise, for every question.
            proxy: likewise.
            deadline: seconds for all of it, the functions included.
            accept: checks the final reply.
            stream: as for :meth:`complete`, for every question.
            **params: likewise; a ``tool_choice`` holds for the first question alone.

        Returns:
            The final reply, with ``steps``, and with the ``attempts`` of all questions.

        Raises:
            TypeError: a tool is not a function, or JSON cannot describe it.
            RejectedReplyError: the model still calls functions after ``max_turns`` questions, or
                ``max_tokens`` cut a call.
            LLMError: as for :meth:`complete`; ``steps`` has the calls that were run before.

        >>> from llmproviders.testing import ScriptedProvider
        >>> def weather(city: str) -> str:
        ...     "Tell the weather."
        ...     return "rain"
        >>> print(ScriptedProvider(["Take one."]).run("An umbrella?", tools=[weather]))
        Take one.
        """
        if stream:
            raise TypeError("run() returns the whole reply")
        proxy, tools = hidden(proxy), listed(tools)
        max_turns = whole("max_turns", max_turns)
        request = ChatRequest.of(
            prompt,
            model=model,
            timeout=timeout,
            proxy=proxy,
            stream=stream is None,
            deadline=deadline,
            accept=accept,
            params={**params, "tools": tools},
        )
        check = request.accept or self.accept
        if check is not None:
            request = replace(request, accept=unless_called(check))
        forced = ("tool_choice", "function_call")
        free = {k: v for k, v in request.params.items() if k not in forced}
        limit = self.deadline if request.deadline is None else request.deadline
        scope = CancelScope.lasting(limit, clock=self.clock)

        def ask(messages: tuple[Message, ...], first: bool) -> Completion:
            params = request.params if first else free
            question = replace(
                request, messages=messages, params=params, deadline=None, reader="run"
            )
            return self.answer(question, scope)

        run = ToolRun(tools, ask, max_turns=max_turns, on_tool=on_tool, scope=scope)
        try:
            return run.run(request.messages)
        finally:
            scope.close()

    @spelled_out(ConversationParams)
    def conversation(
        self,
        *,
        system: str | None = None,
        model: str | None = None,
        messages: Prompt = (),
        max_messages: int | None = None,
        max_characters: int | None = None,
        **params: Unpack[ConversationParams],
    ) -> Conversation:
        """Begin a conversation, which sends the history with each new turn.

        Args:
            system: the system prompt.
            model: a model or an alias; None for the default.
            messages: turns to begin with.
            max_messages: the most messages to send; older turns are left out.
            max_characters: the most characters to send, likewise.
            **params: sampling parameters for every turn.

        >>> from llmproviders.testing import ScriptedProvider
        >>> chat = ScriptedProvider(["Yes."]).conversation(system="Be brief.")
        >>> print(chat.ask("Is the sky blue?"))
        Yes.
        """
        return Conversation(
            self,
            system=system,
            model=model,
            messages=messages,
            max_messages=max_messages,
            max_characters=max_characters,
            **params,
        )

    def credential_digest(self) -> str | None:
        """A hash of the address and the credential that the next call would use.

        What a service does to one account, such as refusing its key, is remembered by this hash,
        so that it does not count against other accounts.

        Returns:
            The digest, which reveals nothing about the secret; None if there is no credential.

        Raises:
            MissingAuthError: the file or variable that should hold the key has none.
        """
        return None

    def identity(self) -> list[Any]:
        """What distinguishes this client's replies from another's, as JSON: names, addresses."""
        return [type(self).__name__, self.name]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def collect(stream: Generator[str, None, None]) -> Completion:
    """Read a stream to its end; text before a ``Restart`` does not count.

    A ``KeyboardInterrupt``, or any other exception from a signal handler, gets the text so far as
    its ``partial_text``.
    """
    said = StreamText()
    with closing(stream):
        try:
            for piece in stream:
                said.add(piece)
        except LLMError:
            raise
        except BaseException as interrupt:
            with ignoring(AttributeError):
                interrupt.partial_text = said.text  # type: ignore[attr-defined]
            raise
    return said.completion


def owned(stream: Generator[T, None, None], name: str) -> Generator[T, None, None]:
    """The same stream, usable only in the process that makes the first ``next()``.

    In any other process it raises, and closing or dropping it there does not affect its open
    connection.

    Args:
        stream: what to yield from.
        name: the client's name, for the error.

    Raises:
        InvalidRequestError: it is read in another process.
    """
    owner, pid = process.this, os.getpid()
    try:
        for piece in stream:
            yield piece
            if process.this is not owner:
                raise InvalidRequestError(
                    f"this stream belongs to process {pid}, which began to read it; this is "
                    f"process {os.getpid()}, forked from it: start a new stream here",
                    provider=name,
                )
            # CPython 3.12 and 3.13 skip a ``finally`` block if an interrupt arrives where the jump
            # of an ``if`` goes back to the beginning of a loop.
            del piece
    except KeyboardInterrupt as stop:
        be_brief(stop)
        raise
    except LLMError as error:
        shorten(error)
        raise error
    finally:
        if process.this is owner:
            stream.close()
        else:
            process.keep_untouched(stream)


def shorten(error: BaseException) -> None:
    """Have Python print ``error`` in a few lines if it is not caught.

    Its causes lose their tracebacks, and the first one that is not ours hides what led to it, which
    stays in its ``__context__``. The log has all of it at DEBUG. What a provider's own code raised
    keeps its traceback, and what the caller was already handling is still printed.
    """
    if from_handler(error):
        return
    if not isinstance(error, LLMError):
        logger.debug("the call failed", exc_info=error)
    elif error.__cause__ is not None and not isinstance(error, AllProvidersFailed):
        logger.debug("%s failed", error.provider, exc_info=error)
    handled = handled_outside(error)
    error.__traceback__ = None
    link: BaseException = error
    while isinstance(link, LLMError) and link.__cause__ is not None:
        if link.is_bug:
            return
        link = link.__cause__.with_traceback(None)
    if link is not error:
        link.__context__ = handled or link.__cause__ or link.__context__
        link.__cause__ = None
        link.__suppress_context__ = handled is None
