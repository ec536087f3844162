"""What a call gives back: the end of a stream, a whole reply, and the record of each attempt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ._numbers import is_count, whole
from .errors import LLMError


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one reply, as the service counted them; None where it did not say.

    Attributes:
        prompt_tokens: those of what was sent.
        completion_tokens: those of the reply.
        total_tokens: both.

    >>> Usage(prompt_tokens=5, completion_tokens=27, total_tokens=32).as_dict()
    {'prompt_tokens': 5, 'completion_tokens': 27, 'total_tokens': 32}
    """

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    total_tokens: int | None = None

    @classmethod
    def from_json(cls, value: object) -> Usage | None:
        """Read ``value``, the ``usage`` object of an OpenAI-like reply; anything else is None."""
        if not isinstance(value, Mapping):
            return None
        counts = {name: value.get(name) for name in cls.__dataclass_fields__}
        return cls(**{n: c for n, c in counts.items() if is_count(c)})

    def as_dict(self) -> dict[str, int | None]:
        """The counts as a JSON object."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try of one provider.

    Attributes:
        provider: its name.
        model: the model asked for, in the service's own name.
        started_at: Unix time in seconds.
        first_chunk_after: seconds from the start to the first piece of text, or None.
        duration: seconds from the start to the end.
        error: what ended it, or None.
        waited: seconds slept before it, for a retry or for a free place.
        chunks: pieces of text received.

    >>> from llmproviders.testing import ScriptedProvider
    >>> attempt = ScriptedProvider(["Yes", "."], name="first").complete("Hi").attempts[0]
    >>> attempt.provider, attempt.error, attempt.chunks
    ('first', None, 2)
    """

    provider: str
    model: str | None
    started_at: float
    first_chunk_after: float | None
    duration: float
    error: LLMError | None = None
    waited: float = 0.0
    chunks: int = 0

    def as_dict(self) -> dict[str, Any]:
        """The attempt as a JSON object, its error as ``{"type", "message"}``."""
        return {
            "provider": self.provider,
            "model": self.model,
            "started_at": self.started_at,
            "first_chunk_after": self.first_chunk_after,
            "duration": self.duration,
            "error": error_as_dict(self.error),
            "waited": self.waited,
            "chunks": self.chunks,
        }


class Attempts(tuple[Attempt, ...]):
    """The attempts of one call, in order: a tuple that a notebook shows as a timeline and a table.

    Args:
        iterable: the attempts.

    >>> Attempts([Attempt("ChatGLM", "glm-4", 0.0, 0.5, 1.0, chunks=7)]).to_svg()[:4]
    '<svg'
    """

    __slots__ = ()

    def to_svg(self) -> str:
        """The timeline as an SVG file, readable on a light and on a dark page."""
        from ._timeline_svg import svg

        return svg(self, standalone=True)

    def to_text(self, *, width: int = 100) -> str:
        """The timeline in characters, ``width`` columns wide."""
        from ._timeline_text import text

        return text(self, width=whole("width", width))

    def _repr_html_(self) -> str:
        from ._html import attempts

        return attempts(self)

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        printer.text(self.to_text())


def error_as_dict(error: BaseException | None) -> dict[str, str] | None:
    """An error as ``{"type": class name, "message": text}``; None stays None."""
    return None if error is None else {"type": type(error).__name__, "message": str(error)}


class FinishReason(str):
    """The last item of every stream: why the reply ended. Its value as a ``str`` is ``""``.

    Attributes:
        reason: ``"stop"``, ``"length"``, ``"content_filter"``, ``"function_call"`` or
            ``"tool_calls"``.
        raw: the service's own word.
        provider: the provider's name.
        model: as the service named it, else as asked.
        usage: a ``Usage``, or None where the service does not count.
        detail: for instance why a filter stopped it.
        reasoning: what the service sent as its thinking, apart from the text.
        tool_calls: the calls that the model asks for, as the service sent them.
        request_id: the service's id for the request.
        attempts: every attempt of the call, the successful one last.

    >>> "".join(["Hello", FinishReason("stop", provider="GigaChat")])
    'Hello'
    """

    __slots__ = (
        "attempts",
        "detail",
        "model",
        "provider",
        "raw",
        "reason",
        "reasoning",
        "request_id",
        "tool_calls",
        "usage",
    )

    reason: str
    raw: str | None
    provider: str | None
    model: str | None
    usage: Usage | None
    detail: str | None
    reasoning: str | None
    tool_calls: list[dict[str, Any]]
    request_id: str | None
    attempts: Attempts

    def __new__(
        cls,
        reason: str = "stop",
        *,
        raw: str | None = None,
        provider: str | None = None,
        model: str | None = None,
        usage: Usage | None = None,
        detail: str | None = None,
        reasoning: str | None = None,
        tool_calls: list[dict[str, Any]] | None = None,
        request_id: str | None = None,
        attempts: tuple[Attempt, ...] = (),
    ) -> FinishReason:
        """Make one; all but ``reason`` by keyword."""
        self = super().__new__(cls, "")
        self.reason = reason
        self.raw = reason if raw is None else raw
        self.provider = provider
        self.model = model
        self.usage = usage
        self.detail = detail
        self.reasoning = reasoning
        self.tool_calls = tool_calls or []
        self.request_id = request_id
        self.attempts = Attempts(attempts)
        return self

    def __getnewargs_ex__(self) -> tuple[tuple[()], dict[str, Any]]:
        return (), {name: getattr(self, name) for name in self.__slots__}

    def __getstate__(self) -> None:
        return None

    def evolve(self, **changes: Any) -> FinishReason:
        """A copy with ``changes`` applied."""
        return type(self)(**{**self.__getnewargs_ex__()[1], **changes})

    def __repr__(self) -> str:
        shown = ", ".join(
            f"{name}={getattr(self, name)!r}"
            for name in ("provider", "model", "usage", "detail", "request_id")
            if getattr(self, name) is not None
        )
        return f"FinishReason({self.reason!r}{', ' + shown if shown else ''})"


class Restart(str):
    """Stands in a stream where a provider failed after text and the reply begins anew.

    Its value as a ``str`` is ``""``. What was yielded since the last one is void.

    Attributes:
        discarded_text: the text that does not count any more.
        provider: the name of the provider that failed.

    >>> from llmproviders import FailoverClient, StreamInterrupted
    >>> from llmproviders.testing import ScriptedProvider
    >>> broken = ScriptedProvider(["It sc"], error=StreamInterrupted("cut"), name="first")
    >>> whole = ScriptedProvider(["It scatters."], name="second")
    >>> client = FailoverClient([broken, whole], attempts=1, on_interrupt="restart")
    >>> for chunk in client.stream("Why is the sky blue?"):
    ...     if isinstance(chunk, Restart):
    ...         print(f"({chunk.provider} broke off after {chunk.discarded_text!r})")
    ...     else:
    ...         print(chunk, end="")
    It sc(first broke off after 'It sc')
    It scatters.
    """

    __slots__ = ("discarded_text", "provider")

    discarded_text: str
    provider: str

    def __new__(cls, discarded_text: str = "", *, provider: str = "") -> Restart:
        """Make one from the text that is void and the provider that failed."""
        self = super().__new__(cls, "")
        self.discarded_text = discarded_text
        self.provider = provider
        return self

    def __getnewargs_ex__(self) -> tuple[tuple[str], dict[str, Any]]:
        return (self.discarded_text,), {"provider": self.provider}

    def __getstate__(self) -> None:
        return None

    def __repr__(self) -> str:
        return f"Restart(discarded_text={self.discarded_text!r}, provider={self.provider!r})"


@dataclass(frozen=True)
class Completion:
    """A whole reply; ``str(completion)`` is its text.

    Attributes:
        text: the reply.
        finish_reason: why it ended.
        provider: the name of the provider that gave it.
        model: as the service named it, else as asked.
        usage: a ``Usage``, or None.
        attempts: every attempt of the call, the successful one last.

    >>> from llmproviders.testing import ScriptedProvider
    >>> reply = ScriptedProvider(["Because."], name="first").complete("Why?")
    >>> print(reply)
    Because.
    >>> reply.finish_reason.reason, reply.provider, len(reply.attempts)
    ('stop', 'first', 1)
    """

    text: str
    finish_reason: FinishReason
    provider: str | None
    model: str | None
    usage: Usage | None
    attempts: Attempts

    @classmethod
    def of(cls, text: str, finish: FinishReason) -> Completion:
        """Join the ``text`` of a stream with ``finish``, the ``FinishReason`` that ended it."""
        return cls(text, finish, finish.provider, finish.model, finish.usage, finish.attempts)

    def __str__(self) -> str:
        return self.text

    def _repr_markdown_(self) -> str:
        from ._markdown import harmless

        return harmless(self.text)
