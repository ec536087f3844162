"""The caller's own limits per minute and per day, for all processes that use a credential.

A request is counted before it is sent, with an estimate of its tokens, and corrected by the usage
in the reply. So a process that is killed in between has counted too much, never too little.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from .._checks import is_count, shown, whole
from .._http.failures import never_sent
from .._log import logger
from .._runtime.scope import CancelScope
from .._signals import let_through
from ..errors import (
    DeadlineExceeded,
    InvalidRequestError,
    LLMError,
    ProviderTimeout,
    QuotaExceededError,
    Usage,
)
from ..messages import Message
from ..results import FinishReason
from . import ledger as _ledger
from .keys import digest
from .ledger import DAY_S, MINUTE_S, Ledger

DEFAULT_MAX_TOKENS = 1024
"""Tokens reserved for a reply if the request has no ``max_tokens``."""

_BYTES_PER_TOKEN = 3

_MOST_TOKENS = 10**9


class Asked(Protocol):
    """A provider whose requests are counted."""

    name: str
    base_url: str
    model: str | None
    default_model: ClassVar[str]
    model_aliases: ClassVar[Mapping[str, str]]

    def credential_digest(self) -> str | None:
        """The hash of the credential that the limits apply to; None: there is no credential."""


class Question(Protocol):
    """What is asked: the messages, the model or None for the provider's, the other parameters."""

    @property
    def messages(self) -> Sequence[Message]:
        """The messages to send."""

    @property
    def model(self) -> str | None:
        """The model, or None for the provider's."""

    @property
    def params(self) -> Mapping[str, Any]:
        """The other parameters, such as ``max_tokens``."""


class Attempted(Protocol):
    """The state of a request that was counted.

    Attributes:
        sent: whether it was handed to the transport.
        usage: its tokens, once the service has reported them.
    """

    sent: bool
    usage: Usage | None

    def start(self, waited: float) -> None:
        """Begin the attempt, after ``waited`` more seconds."""


@dataclass(frozen=True)
class Limit:
    """How much may be used in a minute or a day; None: no limit.

    Attributes:
        requests: requests.
        tokens: tokens; the request that reaches the limit is still sent.
    """

    requests: int | None = None
    tokens: int | None = None

    @classmethod
    def of(cls, argument: str, value: object) -> Limit | None:
        """Read an argument: a number of requests, or ``{"requests": ..., "tokens": ...}``.

        Raises:
            InvalidRequestError: it is neither.
        """
        if value is None:
            return None
        if not isinstance(value, Mapping):
            return cls(requests=whole(argument, value))
        unknown = value.keys() - {"requests", "tokens"}
        if unknown or not value:
            raise InvalidRequestError(
                f'{argument} must be a number of requests or {{"requests": 1000, "tokens": '
                f"200_000}}, not {shown(value)}"
            )
        return cls(**{name: whole(f"{argument}[{name!r}]", n) for name, n in value.items()})

    def is_spent(self, requests: int, tokens: int) -> bool:
        """Whether this much use leaves nothing for another request."""
        return (self.requests is not None and requests >= self.requests) or (
            self.tokens is not None and tokens >= self.tokens
        )


@dataclass(frozen=True)
class Reservation:
    """The counts for one request before it was sent.

    Attributes:
        credential: the credential that it is counted for.
        used: the day, the provider and the model that it is counted under.
        tokens: the estimated tokens.
        recent: the number and the time of its row among the requests of the last minute.
    """

    credential: str
    used: tuple[int, str, str]
    tokens: int
    recent: tuple[int | None, float]


class Quota:
    """Counts the requests of one provider, and holds its limits.

    Args:
        per_minute: the limit for any 60 seconds, or None.
        per_day: the limit for a UTC day, or None.

    Raises:
        InvalidRequestError: a limit is neither a number nor a dict of numbers.
    """

    def __init__(self, *, per_minute: object, per_day: object) -> None:
        self._per_minute = Limit.of("per_minute", per_minute)
        self._per_day = Limit.of("per_day", per_day)

    def counted(
        self,
        stream: Generator[str, None, None],
        provider: Asked,
        question: Question,
        scope: CancelScope,
        attempt: Attempted,
    ) -> Generator[str, None, None]:
        """Wrap a stream so that its request is counted, and sent once the limits allow it.

        Args:
            stream: prepares and sends the request when it is first read.
            provider: answers it.
            question: what is asked.
            scope: how long to wait for the per-minute limit.
            attempt: the state of the request; it starts over after a wait for the limit.

        Raises:
            QuotaExceededError: the daily limit is reached; nothing was sent.
            DeadlineExceeded: the per-minute limit would delay it beyond the deadline.
        """
        ledger = _ledger.ledger()
        with closing(stream):
            tokens = estimate(question.messages, question.params)
            model = question.model or provider.model or provider.default_model
            model = provider.model_aliases.get(model, model)
            names = _ledger.name_of(provider.name), _ledger.name_of(model)
            held, waited = self._reserved(ledger, _credential_of(provider), names, tokens, scope)
            if waited:
                attempt.start(waited)
            is_whole = False
            try:
                for piece in stream:
                    if isinstance(piece, FinishReason):
                        is_whole = True
                        _settle(ledger, held, scope, failed=False, usage=piece.usage)
                    yield piece
            except LLMError as error:
                let_through(error)
                if is_whole:
                    raise
                if attempt.sent and not never_sent(error):
                    _settle(ledger, held, scope, failed=True, usage=attempt.usage)
                else:
                    _give_back(ledger, held, scope)
                raise

    def check_day(self, provider: Asked, scope: CancelScope) -> None:
        """Check the daily limit, and count nothing.

        Args:
            provider: the provider to be asked.
            scope: how long to wait for other processes that count.

        Raises:
            QuotaExceededError: the daily limit is reached.
        """
        if self._per_day is not None:
            credential, now = _credential_of(provider), scope.clock.wall()
            ledger = _ledger.ledger()
            ledger.look(lambda db: self._check_day(db, credential, now), scope, limited=True)

    def _reserved(
        self,
        ledger: Ledger,
        credential: str,
        names: tuple[str, str],
        tokens: int,
        scope: CancelScope,
    ) -> tuple[Reservation, float]:
        """Reserve, after a wait for the per-minute limit; return the seconds waited, too."""
        limited = self._per_minute is not None or self._per_day is not None
        waited = 0.0
        while True:
            found = ledger.change(
                lambda db: self._try(db, credential, names, tokens, scope.clock.wall()),
                scope,
                limited=limited,
            )
            if isinstance(found, Reservation):
                return found, waited
            if found >= scope.remaining():
                raise _too_late(found, scope)
            scope.sleep(found)
            waited += found

    def _check_day(self, db: sqlite3.Connection, credential: str, now: float) -> None:
        if self._per_day is None:
            return
        day = int(now // DAY_S)
        so_far = _ledger.counts_of(db, credential, day)
        if self._per_day.is_spent(*so_far):
            raise _day_is_spent(self._per_day, so_far, (day + 1) * DAY_S - now)

    def _try(
        self,
        db: sqlite3.Connection,
        credential: str,
        names: tuple[str, str],
        tokens: int,
        now: float,
    ) -> Reservation | float:
        """Reserve, or return how many seconds to wait for the per-minute limit.

        Raises:
            QuotaExceededError: the daily limit is reached.
        """
        self._check_day(db, credential, now)
        rows = _ledger.last_minute(db, credential, now)
        wait = 0.0 if self._per_minute is None else _wait_for(self._per_minute, rows, now)
        if wait > 0:
            return wait
        # Also counted without such a limit: another provider may have one for this key.
        recent = _ledger.count_recent(db, credential, now, tokens)
        day = int(now // DAY_S)
        _ledger.count_day(db, credential, day, tokens)
        used = _ledger.count_request(db, day, *names)
        return Reservation(credential, used, tokens, recent)


def _credential_of(provider: Asked) -> str:
    return provider.credential_digest() or digest(provider.base_url)


def _wait_for(limit: Limit, rows: Sequence[tuple[float, int]], now: float) -> float:
    """Seconds until the requests of the last minute leave room for one more."""
    requests, tokens = len(rows), sum(row[1] for row in rows)
    wait = 0.0
    for at, its_tokens in rows:
        if not limit.is_spent(requests, tokens):
            break
        requests, tokens, wait = requests - 1, tokens - its_tokens, at + MINUTE_S - now
    return wait


def _settle(
    ledger: Ledger,
    held: Reservation,
    scope: CancelScope,
    *,
    failed: bool,
    usage: Usage | None,
) -> None:
    """Replace the estimate with the usage that the service reported."""
    total = _ledger.total_of(usage)

    def settle(db: sqlite3.Connection) -> None:
        if total is not None and total != held.tokens:
            db.execute(
                "UPDATE days SET tokens = tokens + ? WHERE (credential, day) = (?, ?)",
                (total - held.tokens, held.credential, held.used[0]),
            )
            db.execute(
                "UPDATE recent SET tokens = ? WHERE (id, at) = (?, ?)", (total, *held.recent)
            )
        if failed or usage is not None:
            _ledger.count_result(db, held.used, failed=failed, usage=usage)

    if failed or usage is not None:
        _correct(ledger, settle, scope)


def _give_back(ledger: Ledger, held: Reservation, scope: CancelScope) -> None:
    """Undo the counts of a request that was never sent."""

    def give_back(db: sqlite3.Connection) -> None:
        db.execute(
            "UPDATE days SET requests = requests - 1, tokens = tokens - ?"
            " WHERE (credential, day) = (?, ?)",
            (held.tokens, held.credential, held.used[0]),
        )
        db.execute("DELETE FROM recent WHERE (id, at) = (?, ?)", held.recent)
        _ledger.uncount_request(db, held.used)

    _correct(ledger, give_back, scope)


def _correct(
    ledger: Ledger, alter: Callable[[sqlite3.Connection], None], scope: CancelScope
) -> None:
    """Correct what was counted before the request; it stays if others keep the file busy."""
    own = CancelScope(parent=scope, sends=False)
    try:
        ledger.change(alter, own)
    except LLMError as error:
        # Tried once, at least, whether or not the deadline has passed since.
        let_through(error)
        logger.debug("the estimate stays: %s", error)
    finally:
        own.close()


def estimate(messages: Sequence[Message], params: Mapping[str, Any]) -> int:
    """Tokens to reserve: a third of the prompt's bytes, plus the most that the reply may have."""
    most = params.get("max_tokens", params.get("max_completion_tokens"))
    # Parameters are passed to the service unchanged and may be anything.
    if not is_count(most) or most > _MOST_TOKENS:
        most = DEFAULT_MAX_TOKENS
    prompt = sum(_bytes(message.get("content")) for message in messages)
    return prompt // _BYTES_PER_TOKEN + most


def _bytes(content: object) -> int:
    if isinstance(content, str):
        return len(content.encode("utf-8", "surrogatepass"))
    if isinstance(content, (list, tuple)):
        parts = (part.get("text") for part in content if isinstance(part, Mapping))
        return sum(_bytes(part) for part in parts)
    return 0


def _day_is_spent(limit: Limit, used: tuple[int, int], left_s: float) -> QuotaExceededError:
    requests, tokens = used
    what = (
        f"{requests:,} of {limit.requests:,} requests"
        if limit.requests is not None and requests >= limit.requests
        else f"{tokens:,} of {limit.tokens:,} tokens"
    )
    hours, minutes = divmod(int(left_s) // 60, 60)
    error = QuotaExceededError(
        f"the limit per_day is reached: {what} are used; nothing was sent. A new day begins in "
        f"{hours} h {minutes:02} min, at midnight UTC",
        retry_after=left_s,
    )
    error.limit = "per_day"
    return error


def _too_late(wait: float, scope: CancelScope) -> LLMError:
    left = max(0.0, scope.remaining())
    kind = DeadlineExceeded if scope.at <= scope.clock.monotonic() + left else ProviderTimeout
    error = kind(
        f"the limit per_minute allows the next request in {wait:.1f} s, but only {left:.1f} s are "
        "left; nothing was sent",
        retry_after=wait,
        retryable=False,
    )
    error.limit = "per_minute"
    return error
