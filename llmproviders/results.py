"""The results of a call: the end of a stream, a whole reply, and the record of each attempt."""

from __future__ import annotations

import binascii
import re
import zlib
from base64 import b64decode
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any, TypeVar
from urllib.parse import unquote_to_bytes

from . import _display
from ._checks import whole
from ._redact import redact
from ._signals import let_through
from .errors import Attempt as Attempt
from .errors import EmptyReplyError, LLMError, RefusedError, RejectedReplyError
from .errors import Usage as Usage

__all__ = [
    "Attempt",
    "Attempts",
    "Completion",
    "FinishReason",
    "Image",
    "Reasoning",
    "Restart",
    "Usage",
]


@dataclass(frozen=True, slots=True)
class Embedding:
    """One text as a vector.

    Attributes:
        vector: its numbers.
        prompt_tokens: tokens of the text; None if the service did not say.
    """

    vector: list[float]
    prompt_tokens: int | None = None


class Attempts(tuple[Attempt, ...]):
    """The attempts of one call, in order: a tuple that a notebook shows as a timeline and a table.

    Args:
        iterable: the attempts.

    >>> Attempts([Attempt("ChatGLM", "glm-4", 0.0, 0.5, 1.0, chunks=7)]).to_svg()[:4]
    '<svg'
    """

    __slots__ = ()

    def to_svg(self) -> str:
        """The timeline as an SVG file, readable on light and dark pages."""
        return _display.timeline.timeline_svg(self, standalone=True)

    def to_text(self, *, width: int = 100) -> str:
        """The timeline as text, ``width`` columns wide."""
        return _display.timeline.timeline_text(self, width=whole("width", width))

    def _repr_html_(self) -> str:
        return _display.html.attempts(self)

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        printer.text(self.to_text())


_LONGEST_ADDRESS = 64 * 1024


class Image:
    r"""A picture that a service drew.

    Args:
        id: the service's name for it, or its address.
        fetch: gets its bytes, if they have to be requested from the service.

    >>> Image("data:image/png;base64,AAEC").bytes()
    b'\x00\x01\x02'
    """

    __slots__ = ("_fetch", "id")

    def __init__(self, id: str, *, fetch: Callable[[], bytes] | None = None) -> None:
        # A key that an address echoes; the bytes of a picture hold none.
        self.id = id if id.startswith("data:") else redact(id)
        self._fetch = fetch

    @property
    def address(self) -> str:
        """The ``id``, for JSON; a ``data:`` address of more than 64 KiB ends before its data."""
        if len(self.id) <= _LONGEST_ADDRESS:
            return self.id
        return _display.text.shorten(self.id.partition(",")[0], 100) + ",..."

    def bytes(self) -> bytes:
        """The picture's bytes.

        Raises:
            LLMError: the service did not give them.
            ValueError: they are not available here: ``id`` is an address, or this came from a
                pickle.
        """
        if self._fetch is not None:
            return self._fetch()
        found = _DATA_URL.fullmatch(self.id)
        if found is None:
            raise ValueError(f"the image {self.id!r} cannot be fetched from here")
        data = unquote_to_bytes(found["data"])
        try:
            return b64decode(data) if found["base64"] else data
        except binascii.Error as error:
            raise ValueError("the image is not base64") from error

    def _repr_html_(self) -> str:
        try:
            return _display.html.image(self.id, self.bytes())
        except (LLMError, ValueError) as error:
            let_through(error)
            # Displaying a reply does not open an address that the model wrote.
            return _display.html.image(self.id, None)

    def __reduce__(self) -> tuple[Any, ...]:
        # The function that fetches it may hold a key.
        return type(self), (self.id,)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Image) and self.id == other.id

    def __hash__(self) -> int:
        return hash(self.id)

    def __repr__(self) -> str:
        return f"Image({self.id if len(self.id) <= 80 else self.id[:77] + '...'!r})"


_DATA_URL = re.compile(r"data:[^,;]*(?:;(?!base64)[^,;]*)*(?P<base64>;base64)?,(?P<data>.*)", re.S)


class FinishReason(str):
    """The last item of every stream: why the reply ended. Its value as a ``str`` is ``""``.

    Attributes:
        reason: ``"stop"``, ``"length"``, ``"content_filter"``, ``"function_call"``,
            ``"tool_calls"``, or ``"other"`` for an unknown word.
        raw: the service's own word.
        provider: the provider's name.
        model: as the service named it, else as asked.
        usage: a ``Usage``, or None if the service does not count.
        detail: more about the reason, for example why a filter stopped the reply.
        reasoning: the model's thinking, if the service sent it separately from the text.
        tool_calls: the calls that the model asks for, each ``{"id", "type": "function",
            "function": {"name", "arguments": <JSON text>}}`` plus any other fields that the service
            sent.
        message: the assistant's message to put into the history of the next call.
        images: the pictures that the service drew, each an :class:`Image`.
        request_id: the service's id for the request.
        attempts: every attempt of the call, the successful one last.
        data: the reply as parsed by a ``schema``.
        cached: whether the reply came from a cache, without sending anything.

    >>> "".join(["Hello", FinishReason("stop", provider="GigaChat")])
    'Hello'
    """

    __slots__ = (
        "_message",
        "attempts",
        "cached",
        "data",
        "detail",
        "images",
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
    images: list[Image]
    request_id: str | None
    attempts: Attempts
    data: Any
    cached: bool
    _message: dict[str, Any] | Callable[[], dict[str, Any]] | None

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
        message: dict[str, Any] | Callable[[], dict[str, Any]] | None = None,
        images: list[Image] | None = None,
        request_id: str | None = None,
        attempts: tuple[Attempt, ...] = (),
        data: Any = None,
        cached: bool = False,
    ) -> FinishReason:
        """Create one; all arguments except ``reason`` are keywords.

        ``message`` may be a function that makes it when it is first needed.
        """
        self = super().__new__(cls, "")
        self.reason = reason
        self.raw = reason if raw is None else raw
        self.provider = provider
        self.model = model
        self.usage = usage
        self.detail = detail
        self.reasoning = reasoning
        self.tool_calls = tool_calls or []
        self._message = message
        self.images = images or []
        self.request_id = request_id
        self.attempts = Attempts(attempts)
        self.data = data
        self.cached = cached
        return self

    @property
    def message(self) -> dict[str, Any]:
        """The assistant's message to put into the history of the next call."""
        if callable(self._message):
            self._message = self._message()
        return self._message or {"role": "assistant", "content": ""}

    def _arguments(self) -> dict[str, Any]:
        return {name.lstrip("_"): getattr(self, name) for name in self.__slots__}

    def __getnewargs_ex__(self) -> tuple[tuple[()], dict[str, Any]]:
        # A function that makes the message may not be picklable.
        return (), {**self._arguments(), "message": self._message and self.message}

    def __getstate__(self) -> None:
        return None

    def evolve(self, **changes: Any) -> FinishReason:
        """A copy with ``changes`` applied."""
        return type(self)(**{**self._arguments(), **changes})

    def __repr__(self) -> str:
        shown = ", ".join(
            f"{name}={getattr(self, name)!r}"
            for name in ("provider", "model", "usage", "detail", "request_id")
            if getattr(self, name) is not None
        )
        return f"FinishReason({self.reason!r}{', ' + shown if shown else ''})"


Rejection = TypeVar("Rejection", bound=RejectedReplyError)


def rejected(
    message: str, text: str, finish: FinishReason, *, detail: str | None, kind: type[Rejection]
) -> Rejection:
    """The error for a whole reply that was rejected.

    Args:
        message: what is wrong with it.
        text: the reply.
        finish: how it ended.
        detail: the reason alone.
        kind: the error's class.
    """
    error = kind(
        message,
        provider=finish.provider,
        request_id=finish.request_id,
        partial_text=text,
        detail=detail,
    )
    last = (replace(attempt, error=error) for attempt in finish.attempts[-1:])
    error.attempts = (*finish.attempts[:-1], *last)
    return error


def without_text(finish: FinishReason) -> LLMError:
    """The error for a reply that ended without any text."""
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
        # The same request would end the same way, and cost the same again.
        retryable=False if cut else None,
    )


class Reasoning(str):
    """A piece of a model's thinking; a stream yields these with ``reasoning=True``.

    Its value as a ``str`` is ``""``, so joining or printing a stream gives only the reply.

    Attributes:
        text: the piece of thinking.

    >>> thought = Reasoning("The sky scatters blue.")
    >>> str(thought), thought.text
    ('', 'The sky scatters blue.')
    """

    __slots__ = ("text",)

    text: str

    def __new__(cls, text: str = "") -> Reasoning:
        """Create one from a piece of thinking."""
        self = super().__new__(cls, "")
        self.text = text
        return self

    def __getnewargs__(self) -> tuple[str]:
        return (self.text,)

    def __getstate__(self) -> None:
        return None

    def __repr__(self) -> str:
        return f"Reasoning({self.text!r})"


class Restart(str):
    """Marks the point in a stream where a provider failed after text and the reply starts over.

    Its value as a ``str`` is ``""``. The text yielded since the last ``Restart`` is void.

    Attributes:
        discarded_text: the text that is void.
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
        """Create one from the void text and the provider that failed."""
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

    ``reasoning``, ``tool_calls``, ``message`` and ``request_id`` are those of its finish reason.

    Attributes:
        text: the reply.
        finish_reason: why it ended.
        provider: the name of the provider that answered.
        model: as the service named it, else as asked.
        usage: a ``Usage``, or None.
        attempts: every attempt of the call, the successful one last.
        data: the reply as parsed by a ``schema``; None without one.
        cached: whether it came from a cache, without sending anything.
        steps: what a run with tools did, in order.

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
    data: Any = None
    cached: bool = False
    steps: tuple[Any, ...] = ()

    @classmethod
    def of(cls, text: str, finish: FinishReason) -> Completion:
        """Join the ``text`` of a stream with ``finish``, the ``FinishReason`` that ended it."""
        return cls(
            text,
            finish,
            finish.provider,
            finish.model,
            finish.usage,
            finish.attempts,
            data=finish.data,
            cached=finish.cached,
        )

    @property
    def reasoning(self) -> str | None:
        """The model's thinking, if the service sent it separately from the text."""
        return self.finish_reason.reasoning

    @property
    def tool_calls(self) -> list[dict[str, Any]]:
        """The calls that the model asks for."""
        return self.finish_reason.tool_calls

    @property
    def message(self) -> dict[str, Any]:
        """The assistant's message to put into the history of the next call."""
        return self.finish_reason.message

    @property
    def request_id(self) -> str | None:
        """The service's id for the request."""
        return self.finish_reason.request_id

    def as_dict(self) -> dict[str, Any]:
        """The completion as a JSON object, without ``data``, which the text contains.

        ``images`` has the address of each picture, see :attr:`Image.address`.

        >>> from llmproviders.testing import ScriptedProvider
        >>> ScriptedProvider(["Because."]).complete("Why?").as_dict()["finish_reason"]
        'stop'
        """
        return {
            "text": self.text,
            "provider": self.provider,
            "model": self.model,
            "finish_reason": self.finish_reason.reason,
            "usage": None if self.usage is None else self.usage.as_dict(),
            "reasoning": self.reasoning,
            "tool_calls": self.tool_calls,
            "images": [image.address for image in self.finish_reason.images],
            "request_id": self.request_id,
            "cached": self.cached,
            "attempts": [attempt.as_dict() for attempt in self.attempts],
        }

    def __str__(self) -> str:
        return self.text

    def __format__(self, spec: str) -> str:
        return format(self.text, spec)

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        usage = "" if self.usage is None else f", usage={self.usage!r}"
        text = _display.text.shorten(self.text, 200)
        printer.text(
            f"Completion({text!r}, finish_reason={self.finish_reason.reason!r}, "
            f"provider={self.provider!r}, model={self.model!r}{usage})"
        )

    def _repr_html_(self) -> str | None:
        """The text and the images; None, so that the Markdown is shown, if there are none."""
        images = self.finish_reason.images
        return (
            _display.html.paragraphs(self.text, [one._repr_html_() for one in images])
            if images
            else None
        )

    def _repr_markdown_(self) -> str:
        return _display.markdown.harmless(self.text)


class StreamText:
    """Collects what a stream yields: the valid text, the thinking, and the end.

    Attributes:
        finish: the ``FinishReason``, once it has arrived.

    >>> said = StreamText()
    >>> for piece in ["It sc", Restart("It sc"), "It scatters.", FinishReason("stop")]:
    ...     said.add(piece)
    >>> said.text, said.finish
    ('It scatters.', FinishReason('stop'))
    """

    __slots__ = ("_pieces", "_thoughts", "finish")

    def __init__(self) -> None:
        self.finish: FinishReason | None = None
        self._pieces: list[str] = []
        self._thoughts: list[str] = []

    def add(self, piece: str) -> None:
        """Add an item of a stream; a ``Restart`` discards the text before it."""
        if type(piece) is str:
            self._pieces.append(piece)
        elif isinstance(piece, Reasoning):
            self._thoughts.append(piece.text)
        elif isinstance(piece, FinishReason):
            self.finish = piece
        elif isinstance(piece, Restart):
            self._pieces.clear()
            self._thoughts.clear()

    @property
    def text(self) -> str:
        """The text so far."""
        return "".join(self._pieces)

    @property
    def reasoning(self) -> str:
        """The thinking so far, if the stream has ``reasoning=True``."""
        return "".join(self._thoughts)

    @property
    def completion(self) -> Completion:
        """The whole reply; if the stream has not ended yet, as if it ended now."""
        # Not "or": a FinishReason is an empty text.
        finish = FinishReason() if self.finish is None else self.finish
        return Completion.of(self.text, finish)


Accept = Callable[[Completion], "bool | str"]


def accepted(
    stream: Generator[str, None, None], accept: Accept, *, holds: bool = False
) -> Generator[str, None, None]:
    """The same stream, which fails at its end if ``accept`` rejects the reply.

    Args:
        stream: a reply.
        accept: checks the whole reply.
        holds: whether the text is held back until then.
    """
    said = StreamText()
    with closing(stream):
        for piece in stream:
            said.add(piece)
            if said.finish is not None:
                _check_accepted(accept, said.completion)
                if holds and said.text:
                    yield said.text
            elif holds and type(piece) is str:
                continue
            yield piece


def _check_accepted(accept: Accept, reply: Completion) -> None:
    verdict = accept(reply)
    reason = verdict if isinstance(verdict, str) else None
    if verdict and reason is None:
        return
    message = f"accept turned the reply down{': ' + reason if reason else ''}"
    kind = RejectedReplyError
    raise rejected(message, reply.text, reply.finish_reason, detail=reason, kind=kind)


def unless_called(accept: Accept) -> Accept:
    """The same check for the replies of a ``run``, where a reply that calls functions passes."""
    return lambda reply: bool(reply.tool_calls) or accept(reply)


def joined(stream: Generator[str, None, None]) -> Generator[str, None, None]:
    """The same stream with all its text in one piece before the end.

    A ``Restart`` is left out unless thoughts were yielded before it.
    """
    said = StreamText()
    with closing(stream):
        for piece in stream:
            if isinstance(piece, Restart):
                # Its text was held back; thoughts may have been yielded.
                shown = bool(said.reasoning)
                said.add(piece)
                if shown:
                    yield Restart(provider=piece.provider)
                continue
            said.add(piece)
            if said.finish is not None and said.text:
                yield said.text
            if type(piece) is not str:
                yield piece


_FOLD_AT = 256


class Transcript:
    """Collects the pieces of a stream, in case it breaks and its text so far is needed.

    Only a broken stream needs the text again, so all but the last few hundred pieces are kept
    compressed: a long stream must not fill the memory.
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
            # This small window compresses prose as well as the default one, in 64 KiB instead of
            # 256.
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
        """The number of pieces."""
        return self._folded + len(self._recent)
