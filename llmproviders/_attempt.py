"""One try of one provider: the one stream that keeps the promise of what a stream yields."""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from ._call import Call, Reply
from ._characters import whole_characters
from ._clock import SYSTEM_CLOCK, Clock, Scope
from ._log import logger
from ._redact import forget_locals, redact, scrub
from ._request import Accept, Request
from ._signals import from_handler, ignoring, let_through
from ._transcript import Transcript
from .errors import (
    ConnectionFailed,
    DeadlineExceeded,
    EmptyReplyError,
    LLMError,
    ProtocolError,
    ProviderTimeout,
    RefusedError,
    RejectedReplyError,
    StreamInterrupted,
)
from .results import Attempt, Attempts, Completion, FinishReason, Reasoning, Restart

if TYPE_CHECKING:
    from .provider import Provider

T = TypeVar("T")


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
        self._reply: Reply | None = None

    def __call__(self, call: Call) -> Reply:
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
    provider: Provider, request: Request, scope: Scope | None
) -> Generator[str, None, None]:
    """What ``Provider.generate`` yields and raises."""
    if request.deadline is None:
        stream = _attempt(provider, request, scope or Scope())
    else:
        stream = _bounded(provider, request, scope, request.deadline)
    stream = stream if request.stream else _joined(stream)
    if request.accept is None:
        return stream
    return accepted(stream, request.accept, holds=not request.stream)


def _bounded(
    provider: Provider, request: Request, parent: Scope | None, deadline: float
) -> Generator[str, None, None]:
    scope = Scope.lasting(deadline, clock=SYSTEM_CLOCK, parent=parent)
    try:
        yield from _attempt(provider, request, scope)
    finally:
        scope.close()


def _attempt(provider: Provider, request: Request, scope: Scope) -> Generator[str, None, None]:
    record = _Record(provider.name, request.model, scope.clock)
    fetch = Fetch(provider, request, scope)
    mended: set[str] = set()
    handled = sys.exc_info()[1]
    try:
        with provider.place(scope) as waited:
            record.start(waited)
            while True:
                call = None
                try:
                    with _Step(provider, "prepare"):
                        named = request.to(provider.find_model(request.model, fetch))
                        record.model = named.model
                        call = provider.prepare(named, fetch)
                    yield from _once(provider, named, fetch, call, record)
                except LLMError as trouble:
                    if record.begun or from_handler(trouble):
                        raise
                    _mend_or_raise(provider, trouble, call, request, fetch, mended)
                else:
                    return
    except BaseException as failure:
        if not isinstance(failure, LLMError) or from_handler(failure):
            fetch.abandon()
            forget_locals(failure, but=handled)
            raise
        error = provider.explain(failure, request)
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
    make: Callable[[Fetch], Call],
    read: Callable[[Reply], T],
    *,
    request: Request | None,
    scope: Scope | None,
) -> T:
    """What ``Provider.ask`` returns and raises."""
    request = request or Request(())
    fetch = Fetch(provider, request, scope or Scope())
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
                error = provider.explain(failure, request)
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
    call: Call | None,
    request: Request,
    fetch: Fetch,
    mended: set[str],
    cause: LLMError | None = None,
) -> None:
    word = provider.mend(error, call, request, fetch)
    if word is None or word in mended:
        raise error from cause or error.__cause__
    mended.add(word)
    logger.debug("%s: renewed the %s, asking again", provider.name, word)


def _once(
    provider: Provider, request: Request, fetch: Fetch, call: Call, record: _Record
) -> Generator[str, None, None]:
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
    raise rejected(message, text, finish, detail=reason)


def rejected(
    message: str, text: str, finish: FinishReason, *, detail: str | None
) -> RejectedReplyError:
    """The error that a whole reply becomes which the caller does not want."""
    error = RejectedReplyError(
        message,
        provider=finish.provider,
        request_id=finish.request_id,
        partial_text=text,
        detail=detail,
    )
    last = (replace(attempt, error=error) for attempt in finish.attempts[-1:])
    error.attempts = (*finish.attempts[:-1], *last)
    return error


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
    """

    def __init__(self, provider: str, model: str | None, clock: Clock) -> None:
        self.provider = provider
        self.model = model
        self.transcript = Transcript()
        self.first_text_at: float | None = None
        self.begun = False
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
        )
