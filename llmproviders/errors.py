"""Every error that a call can raise.

::

    LLMError
    ├── MissingAuthError          a key is needed and none was given
    ├── AuthenticationError       the service refused the key
    ├── QuotaExceededError        the account's tokens or credit are used up
    ├── RateLimitError            too many requests                               retryable
    ├── InvalidRequestError       the request is wrong (also a ValueError)
    │   ├── ModelNotFoundError    no such model
    │   └── UnsupportedError      this provider or model cannot do what was asked
    ├── ServerError               the service is in trouble                       retryable
    ├── BlockedError              a challenge or access-denied page stands before it
    ├── ConnectionFailed          DNS, refused, reset, TLS, proxy (also a ConnectionError)
    │                                                                             retryable
    ├── ProviderTimeout           connect or read timeout (also a TimeoutError)   retryable
    │   └── DeadlineExceeded      the call's own deadline passed
    ├── StreamInterrupted         the reply was cut short                         retryable
    ├── ProtocolError             the reply cannot be understood (also a RuntimeError)
    │                                                                             retryable
    ├── EmptyReplyError           a reply without text                            retryable
    │   └── RefusedError          a filter stopped it before any text
    ├── RejectedReplyError        the caller's own accept said no
    │   └── SchemaError           the reply does not satisfy the schema
    └── AllProvidersFailed        every provider of a FailoverClient failed
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

from ._printable import one_line, printable
from ._redact import redact, scrub

Error = TypeVar("Error", bound="LLMError")


SLOWER = "another provider was faster"
"""The message of the error that ends an attempt which lost to a parallel one."""


class LLMError(Exception):
    """Something went wrong between a caller and a language model.

    Args:
        message: what happened and what to do about it; secrets in it are masked, and control
            characters are shown as their escapes.
        provider: the provider's name.
        status_code: the HTTP status, if there was one.
        retry_after: seconds that the service asked to wait.
        request_id: the service's id for the request.
        retryable: whether the same request to the same provider may succeed later; by default,
            what is usual for the class.
        partial_text: what had been received of the reply.
        attempts: the attempts made so far, this one included.
        detail: the service's own reason, if it gave one.

    >>> error = ServerError("upstream is down", provider="GigaChat", status_code=503)
    >>> str(error), error.provider, error.status_code, error.retryable
    ('upstream is down', 'GigaChat', 503, True)
    """

    retryable_by_default: ClassVar[bool] = False

    limit: str | None = None
    """The caller's own limit that kept the request from being sent, such as ``"per_day"``, or
    ``"stopped"`` if its batch was stopped; None if the service failed.
    """
    #: What a run with tools had done when it failed.
    steps: tuple[Any, ...] = ()
    #: The tokens of a reply that failed, if the service counted them.
    usage: Usage | None = None
    #: Whether a provider's own code failed, so that the cause's traceback is worth reading.
    is_bug: bool = False

    def __init__(
        self,
        message: str = "",
        *,
        provider: str | None = None,
        status_code: int | None = None,
        retry_after: float | None = None,
        request_id: str | None = None,
        retryable: bool | None = None,
        partial_text: str = "",
        attempts: tuple[Attempt, ...] = (),
        detail: str | None = None,
    ) -> None:

        super().__init__(self._shown(redact(message)))
        self.provider = provider
        self.status_code = status_code
        self.retry_after = retry_after
        self.request_id = request_id
        self.retryable = self.retryable_by_default if retryable is None else retryable
        self.partial_text = partial_text
        self.attempts = tuple(attempts)
        self.detail = None if detail is None else LLMError._shown(redact(detail))

    @staticmethod
    def _shown(message: str) -> str:
        """A message as one line, with control characters shown as their escapes."""
        return message if message.isprintable() else one_line(message)

    @property
    def message(self) -> str:
        """The same as ``str(error)``."""
        return str(self)

    def __copy__(self: Error) -> Error:
        """The same error without its traceback and causes."""
        twin = type(self).__new__(type(self))
        twin.args = self.args
        twin.__dict__.update(self.__dict__)
        return twin

    def __reduce__(self) -> tuple[Any, ...]:

        # Dask has every error's causes pickled along with it.
        scrub(self)
        # The attributes are restored as state, after the error itself, since its attempts refer to
        # it.
        return type(self), self.args, self.__dict__


class MissingAuthError(LLMError):
    """A key is needed and none was given."""


class AuthenticationError(LLMError):
    """The service refused the key (401, 403)."""


class QuotaExceededError(LLMError):
    """The account's tokens, credit or quota are used up; waiting a little does not help."""


class RateLimitError(LLMError):
    """Too many requests (429)."""

    retryable_by_default = True


class InvalidRequestError(LLMError, ValueError):
    """The request is wrong: the service said so (400, 413, 422), or it was found before sending.

    ``status_code`` is None if nothing was sent.
    """


class ModelNotFoundError(InvalidRequestError):
    """The service has no such model."""


class UnsupportedError(InvalidRequestError):
    """This provider or model cannot do what was asked: tools, an image, a schema.

    Found before sending, or reported by the server.
    """


class ServerError(LLMError):
    """The service is in trouble (5xx, or an error inside a reply)."""

    retryable_by_default = True


class BlockedError(LLMError):
    """A bot challenge or an access-denied page stands before the service."""


class ConnectionFailed(LLMError, ConnectionError):  # noqa: N818 - the name is the contract's
    """No connection: DNS, refused, reset, TLS, proxy.

    Retryable, except for certificates and proxy authentication.
    """

    retryable_by_default = True


class ProviderTimeout(LLMError, TimeoutError):  # noqa: N818 - the name is the contract's
    """The service did not connect or answer in time."""

    retryable_by_default = True


class DeadlineExceeded(ProviderTimeout):
    """The deadline of the whole call passed; it has ``partial_text`` and ``attempts``."""

    retryable_by_default = False


class StreamInterrupted(LLMError):  # noqa: N818 - the name is the contract's
    """The reply was cut short; ``partial_text`` is what had arrived."""

    retryable_by_default = True

    @classmethod
    def of(cls: type[Error], error: LLMError) -> Error:
        """The error to raise from ``error`` if text of the reply has already arrived."""
        cut = cls(
            f"the reply was cut short: {error}",
            provider=error.provider,
            request_id=error.request_id,
            status_code=error.status_code,
            retry_after=error.retry_after,
            # A quota that is used up in the middle of a reply stays so.
            retryable=error.retryable,
            detail=error.detail,
        )
        cut.usage = error.usage
        return cut


class ProtocolError(LLMError, RuntimeError):
    """The reply cannot be understood."""

    retryable_by_default = True


class EmptyReplyError(LLMError):
    """The service ended a reply that has no text."""

    retryable_by_default = True


class RefusedError(EmptyReplyError):
    """A filter stopped the reply before any text; ``detail`` has the service's reason."""

    retryable_by_default = False


class RejectedReplyError(LLMError):
    """The caller's own ``accept`` rejected the reply."""


class SchemaError(RejectedReplyError):
    """The reply does not satisfy the schema.

    ``partial_text`` is the reply, ``detail`` the validator's message.
    """


class AllProvidersFailed(LLMError):  # noqa: N818 - the name is the contract's
    """Every provider of a ``FailoverClient`` failed; ``attempts`` has each with its error."""

    @staticmethod
    def _shown(message: str) -> str:
        """A message with a line for each failure; control characters become their escapes."""
        return printable(message)


def retold(error: Error, message: str) -> Error:
    """The same error with another message; raise it from this one."""
    twin = type(error)(
        message,
        provider=error.provider,
        status_code=error.status_code,
        retry_after=error.retry_after,
        request_id=error.request_id,
        retryable=error.retryable,
        detail=error.detail,
    )
    twin.usage = error.usage
    return twin


_MOST_TOKENS = 2**63


# Where services put each count; the first place that has a number wins.
_COUNTS: dict[str, tuple[tuple[str, ...], ...]] = {
    "prompt_tokens": (("prompt_tokens",), ("input_tokens",)),
    "completion_tokens": (("completion_tokens",), ("output_tokens",)),
    "total_tokens": (("total_tokens",),),
    "cached_tokens": (
        ("prompt_tokens_details", "cached_tokens"),
        ("input_tokens_details", "cached_tokens"),
        ("cached_tokens",),
        ("prompt_cache_hit_tokens",),
        ("precached_prompt_tokens",),
        ("cache_read_input_tokens",),
    ),
    "reasoning_tokens": (
        ("completion_tokens_details", "reasoning_tokens"),
        ("output_tokens_details", "reasoning_tokens"),
        ("reasoning_tokens",),
    ),
}


@dataclass(frozen=True, slots=True, repr=False)
class Usage:
    """Tokens of one reply, as the service counted them; None if it did not say.

    Attributes:
        prompt_tokens: tokens of the request.
        completion_tokens: tokens of the reply, its reasoning included.
        total_tokens: both.
        cached_tokens: how many of the prompt's tokens the service had in its cache.
        reasoning_tokens: how many of the reply's tokens were reasoning.

    >>> Usage(prompt_tokens=5, completion_tokens=27, total_tokens=32)
    Usage(prompt_tokens=5, completion_tokens=27, total_tokens=32)
    """

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    total_tokens: int | None = None
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None

    @classmethod
    def from_json(cls, value: object) -> Usage | None:
        """Read ``value``, the ``usage`` object of an OpenAI-like reply; anything else is None.

        >>> Usage.from_json({"input_tokens": 5, "output_tokens": 2.0}).completion_tokens
        2
        """
        if not isinstance(value, Mapping):
            return None
        return cls(**{name: _first_count(value, places) for name, places in _COUNTS.items()})

    def merged(self, later: Usage | None) -> Usage:
        """These counts, replaced by those that ``later`` has."""
        if later is None:
            return self
        return Usage(
            *((new if new is not None else old) for old, new in zip(self, later, strict=True))
        )

    def as_dict(self) -> dict[str, int | None]:
        """The counts as a JSON object."""
        return dict(zip(self.__dataclass_fields__, self, strict=True))

    def __iter__(self) -> Iterator[int | None]:
        return (getattr(self, name) for name in self.__dataclass_fields__)

    def __repr__(self) -> str:
        known = (f"{name}={count}" for name, count in self.as_dict().items() if count is not None)
        return f"Usage({', '.join(known)})"


def _first_count(value: Mapping[str, Any], places: tuple[tuple[str, ...], ...]) -> int | None:
    for place in places:
        found: Any = value
        for name in place:
            found = found.get(name) if isinstance(found, Mapping) else None
        count = _count(found)
        if count is not None:
            return count
    return None


def _count(value: object) -> int | None:
    """A number of tokens, even if a service writes it as a float or as digits."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 16:
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    # False for nan, too.
    return int(value) if 0 <= value < _MOST_TOKENS and value == int(value) else None


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try of one provider.

    Attributes:
        provider: its name.
        model: the model asked for, by the service's own name.
        started_at: Unix time in seconds.
        first_chunk_after: seconds from the start to the first piece of text, or None.
        duration: seconds from the start to the end.
        error: what ended it, or None.
        waited: seconds slept before it, for a retry or for a free slot.
        chunks: pieces of text received.
        usage: the tokens, if the service reported them (even for a failed try); else None.

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
    usage: Usage | None = None

    @property
    def overtaken(self) -> bool:
        """Whether it was ended because a parallel attempt was faster."""
        return self.error is not None and str(self.error) == SLOWER

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
            "usage": None if self.usage is None else self.usage.as_dict(),
        }


def error_as_dict(error: BaseException | None) -> dict[str, str] | None:
    """An error as ``{"type": class name, "message": text}``; None stays None."""
    return None if error is None else {"type": type(error).__name__, "message": str(error)}
