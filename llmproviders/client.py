"""What a provider is, and the one ``stream`` that keeps the promise of what a stream yields."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator
from contextlib import closing
from typing import TYPE_CHECKING, Any

from ._http.types import Timeout
from ._redact import hidden
from ._request import Accept, ChatRequest
from ._runtime.process import owned
from ._runtime.scope import CancelScope
from ._signals import ignoring
from .conversation import Conversation
from .errors import LLMError
from .messages import Prompt
from .results import Completion, FinishReason, Restart

if TYPE_CHECKING:
    from typing_extensions import Self


class BaseClient(ABC):
    """What answers a prompt: one provider, or several behind one another.

    A subclass gives ``generate``; everything that callers use stands on it.
    """

    name: str

    @abstractmethod
    def generate(
        self, request: ChatRequest, scope: CancelScope | None = None
    ) -> Generator[str, None, None]:
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
        proxy = hidden(proxy)
        request = ChatRequest.of(
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
        if stream:
            raise TypeError("complete() returns the whole reply; use stream()")
        proxy = hidden(proxy)
        return self.answer(
            ChatRequest.of(
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

    def answer(self, request: ChatRequest, scope: CancelScope | None = None) -> Completion:
        """The whole reply to a request that is already checked; what ``complete`` stands on.

        Args:
            request: what is asked, already checked.
            scope: how long it may take; None: as long as it takes.
        """
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
            with ignoring(AttributeError):
                interrupt.partial_text = "".join(pieces)  # type: ignore[attr-defined]
            raise
    return Completion.of("".join(pieces), finish)
