"""The caller's own limits per minute and per day, for all processes that use a credential.

A request is counted before it is sent, with an estimate of its tokens, and corrected by the usage
in the reply. So a process that is killed in between has counted too much, never too little.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Protocol

from .._checks import is_count, shown, whole
from .._http.failures import never_sent
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
from .ledger import DAY_S, Ledger

MINUTE_S = 60.0

DEFAULT_MAX_TOKENS = 1024
"""Tokens reserved for a reply if the request has no ``max_tokens``."""

_BYTES_PER_TOKEN = 3

_MOST_TOKENS = 10**9


class Attempted(Protocol):
    """The state of a request that was counted.

    Attributes:
        sent: whether it was handed to the transport.
        usage: its tokens, once the service has reported them.
    """

    sent: bool
    usage: Usage | None


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
        recent: its row among the requests of the last minute, or None.
    """

    credential: str
    used: tuple[int, str, str]
    tokens: int
    recent: int | None


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
        *,
        credential: str,
        provider: str,
        model: str,
        messages: Sequence[Message],
        params: Mapping[str, Any],
        scope: CancelScope,
        attempt: Attempted,
    ) -> Generator[str, None, None]:
        """Wrap a stream so that its request is counted, and sent once the limits allow it.

        Args:
            stream: prepares and sends the request when it is first read.
            credential: the hash of the credential that the limits apply to.
            provider: the provider's name.
            model: the model that is asked.
            messages: the messages to send.
            params: the other parameters, such as ``max_tokens``.
            scope: how long to wait for the per-minute limit.
            attempt: the state of the request, read when the stream fails.

        Raises:
            QuotaExceededError: the daily limit is reached; nothing was sent.
            DeadlineExceeded: the per-minute limit would delay it beyond the deadline.
        """
        ledger = _ledger.ledger()
        with closing(stream):
            tokens = estimate(messages, params)
            names = _ledger.name_of(provider), _ledger.name_of(model)
            held = self._reserved(ledger, credential, names, tokens, scope)
            is_whole = False
            try:
                for piece in stream:
                    if isinstance(piece, FinishReason):
                        is_whole = True
                        _settle(ledger, held, failed=False, usage=piece.usage)
                    yield piece
            except LLMError as error:
                let_through(error)
                if is_whole:
                    raise
                if attempt.sent and not never_sent(error):
                    _settle(ledger, held, failed=True, usage=attempt.usage)
                else:
                    _give_back(ledger, held)
                raise

    def _reserved(
        self,
        ledger: Ledger,
        credential: str,
        names: tuple[str, str],
        tokens: int,
        scope: CancelScope,
    ) -> Reservation:
        """Reserve, waiting for the per-minute limit if necessary."""
        while True:
            found = ledger.change(
                lambda db: self._try(db, credential, names, tokens, scope.clock.wall()), scope
            )
            if isinstance(found, Reservation):
                return found
            if found >= scope.remaining():
                raise _too_late(found, scope)
            scope.sleep(found)

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
        day = int(now // DAY_S)
        if self._per_day is not None:
            of_today = "SELECT requests, tokens FROM days WHERE (credential, day) = (?, ?)"
            so_far = db.execute(of_today, (credential, day)).fetchone() or (0, 0)
            if self._per_day.is_spent(*so_far):
                raise _day_is_spent(self._per_day, so_far, (day + 1) * DAY_S - now)
        recent = None
        if self._per_minute is not None:
            wait = _wait_for(db, self._per_minute, credential, now)
            if wait > 0:
                return wait
            row = (credential, now, tokens)
            added = db.execute("INSERT INTO recent (credential, at, tokens) VALUES (?, ?, ?)", row)
            recent = added.lastrowid
        _ledger.prune_days(db, day)
        db.execute(
            "INSERT INTO days (credential, day, requests, tokens) VALUES (?, ?, 1, ?) ON CONFLICT"
            " DO UPDATE SET requests = requests + 1, tokens = tokens + excluded.tokens",
            (credential, day, tokens),
        )
        used = _ledger.count_request(db, day, *names)
        return Reservation(credential, used, tokens, recent)


def _wait_for(db: sqlite3.Connection, limit: Limit, credential: str, now: float) -> float:
    """Seconds until the requests of the last minute leave room for one more."""
    # A time in the future means that the clock was set back; the real time is unknown.
    db.execute("UPDATE recent SET at = ? WHERE at > ?", (now, now))
    db.execute("DELETE FROM recent WHERE at <= ?", (now - MINUTE_S,))
    rows = db.execute(
        "SELECT at, tokens FROM recent WHERE credential = ? ORDER BY at", (credential,)
    ).fetchall()
    requests, tokens = len(rows), sum(row[1] for row in rows)
    wait = 0.0
    for at, its_tokens in rows:
        if not limit.is_spent(requests, tokens):
            break
        requests, tokens, wait = requests - 1, tokens - its_tokens, at + MINUTE_S - now
    return wait


def _settle(ledger: Ledger, held: Reservation, *, failed: bool, usage: Usage | None) -> None:
    """Replace the estimate with the usage that the service reported."""
    total = _ledger.total_of(usage)

    def settle(db: sqlite3.Connection) -> None:
        if total is not None and total != held.tokens:
            db.execute(
                "UPDATE days SET tokens = tokens + ? WHERE (credential, day) = (?, ?)",
                (total - held.tokens, held.credential, held.used[0]),
            )
            db.execute("UPDATE recent SET tokens = ? WHERE id = ?", (total, held.recent))
        if failed or usage is not None:
            _ledger.count_result(db, held.used, failed=failed, usage=usage)

    if failed or usage is not None:
        # The reply has arrived: a deadline that has passed since must not lose the count.
        ledger.change(settle, CancelScope())


def _give_back(ledger: Ledger, held: Reservation) -> None:
    """Undo the counts of a request that was never sent."""

    def give_back(db: sqlite3.Connection) -> None:
        db.execute(
            "UPDATE days SET requests = requests - 1, tokens = tokens - ?"
            " WHERE (credential, day) = (?, ?)",
            (held.tokens, held.credential, held.used[0]),
        )
        db.execute("DELETE FROM recent WHERE id = ?", (held.recent,))
        _ledger.uncount_request(db, held.used)

    ledger.change(give_back, CancelScope())


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
