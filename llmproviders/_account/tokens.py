"""An access token and its renewal: one fetch for all threads, or for all processes with a file."""

from __future__ import annotations

import copy
import json
import os
from collections import deque
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from math import inf
from pathlib import Path
from typing import Any, TypeGuard

from .._checks import is_finite
from .._log import logger
from .._redact import Secret, conceal
from .._runtime import files as _files
from .._runtime.files import Held, Unusable
from .._runtime.scope import CancelScope, Waker
from .._signals import let_through
from ..errors import AuthenticationError, LLMError, ProtocolError

# How long before its end a token is renewed by one caller, and no longer used by anyone.
_EARLY_S = 300.0
_LATE_S = 60.0

# How long an early renewal may take, and how long to wait after one that failed.
_EARLY_PATIENCE_S = 5.0
_EARLY_PAUSE_S = 30.0

# How long to wait for another process's fetch, and for its writing.
_LOCK_PATIENCE_S = 30.0
_WRITE_PATIENCE_S = 2.0

_WRONG_CLOCK_S = 3600.0

# A larger expiry is in milliseconds: in seconds it would be the year 5138.
_SMALLEST_MS = 1e11

# Beyond this many, keepers of expired tokens are dropped.
_MANY = 256

_FILE_VERSION = 1


@dataclass(frozen=True, slots=True)
class Token:
    """An access token; times are Unix seconds by this machine's clock.

    Attributes:
        value: the token itself.
        expires_at: when the service stops accepting it.
        fetched_at: when it was fetched.
        renew_from: when one caller starts to renew it while others still use it; five minutes
            before the end, or a quarter of the life of a token that lives less than 20 minutes.
    """

    value: Secret
    expires_at: float
    fetched_at: float
    renew_from: float = -inf

    def __post_init__(self) -> None:
        if self.renew_from == -inf:
            early = min(_EARLY_S, self._life / 4)
            object.__setattr__(self, "renew_from", self.expires_at - early)
        conceal(self.value)

    @property
    def _life(self) -> float:
        return max(0.0, self.expires_at - self.fetched_at)

    @property
    def good_until(self) -> float:
        """When it is no longer used: a minute before its end, less for a short-lived one."""
        return self.expires_at - min(_LATE_S, self._life / 10)


def token_of(answer: Mapping[str, Any], *, now: float, date: float | None) -> Token:
    """Read the token from a token service's answer.

    The answer gives its expiry as ``expires_at`` in milliseconds or, in an older form, as ``exp``
    in seconds. The magnitude tells which.

    Args:
        answer: ``{"access_token", "expires_at"}`` or ``{"tok", "exp"}``.
        now: Unix time in seconds by this machine's clock.
        date: the same by the service's, from the answer's ``Date`` header, or None.

    Raises:
        ProtocolError: it holds no token.
        AuthenticationError: the token has already expired, or this machine's clock is wrong;
            ``detail`` is ``"clock"``.

    >>> token_of({"tok": "a.b.c", "exp": 1800}, now=0, date=None).expires_at
    1800.0
    """
    value = answer.get("access_token", answer.get("tok"))
    expires_at = answer.get("expires_at", answer.get("exp"))
    if not _is_token(value):
        raise ProtocolError("the token service's answer has no access_token")
    if not is_finite(expires_at) or expires_at <= 0:
        raise ProtocolError("the token service's answer does not say when the token expires")
    end = expires_at / 1000 if expires_at > _SMALLEST_MS else float(expires_at)
    _check_clock(end, now, date)
    return Token(Secret(value), end, now)


def _check_clock(end: float, now: float, date: float | None) -> None:
    there = now if date is None else date
    ahead = now - there
    if end > now and ahead > -_WRONG_CLOCK_S:
        return
    if end > there:
        raise AuthenticationError(
            f"this machine's clock is {abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} "
            "the token service's, so the validity of tokens cannot be checked: set the clock",
            detail="clock",
        )
    whose = "this machine's" if date is None else "its own"
    raise AuthenticationError(
        f"the token service gave a token that expired {there - end:.0f} s ago by {whose} clock: "
        "check this machine's; if that is right, the service is in trouble",
        detail="clock",
    )


def _is_token(value: Any) -> TypeGuard[str]:
    return isinstance(value, str) and value.isascii() and value.isprintable() and value != ""


class TokenFile:
    """The tokens that the processes of one user share: JSON, by the hash of their credentials."""

    def __init__(self, path: Path, credential: str) -> None:
        self.path = path
        self._credential = credential

    def read(self) -> Token | None:
        """The credential's token, or None.

        Raises:
            Unusable: the file is not one of this user's that holds tokens.
        """
        return _token_in_file(self._tokens().get(self._credential))

    def write(self, token: Token, scope: CancelScope) -> None:
        """Write a token; unexpired tokens of other credentials are kept.

        Raises:
            Unusable: the file cannot be written.
            LLMError: the scope ended.
        """
        lock = _files.locks_folder(self.path) / "write"
        with _files.wait_for_lock(lock, scope, _WRITE_PATIENCE_S):
            now = scope.clock.wall()
            tokens = {
                credential: entry
                for credential, entry in self._tokens().items()
                if (other := _token_in_file(entry)) is not None and other.expires_at > now
            }
            tokens[self._credential] = {
                "access_token": token.value,
                "expires_at": token.expires_at,
                "fetched_at": token.fetched_at,
            }
            content = json.dumps({"version": _FILE_VERSION, "tokens": tokens}, indent=1)
            _files.replace_private(self.path, content.encode(), _tokens_in_file)

    def try_refresh(self, scope: CancelScope) -> Held | None:
        """The lock for fetching the next token, or None if another process holds it.

        Raises:
            Unusable: the lock's file cannot be made.
        """
        lock = _files.locks_folder(self.path) / f"{self._credential[:16]}.refresh"
        return _files.try_lock(lock, scope)

    def _tokens(self) -> Mapping[str, Any]:
        try:
            return _tokens_in_file(_files.read_private(self.path))
        except ValueError as error:
            let_through(error)
            raise Unusable(f"{self.path}: {error}") from error


def _tokens_in_file(data: bytes) -> Mapping[str, Any]:
    """The tokens in a file's content.

    Raises:
        ValueError: it contains something else, or has another version.
    """
    if not data:
        return {}
    content = _files.json_object(data)
    if content is None or not isinstance(content.get("tokens"), dict):
        raise ValueError("it does not contain tokens; delete it, or name another file")
    if content.get("version") != _FILE_VERSION:
        raise ValueError("another version of llmproviders wrote it; name another file")
    tokens: Mapping[str, Any] = content["tokens"]
    return tokens


def _token_in_file(entry: Any) -> Token | None:
    if not isinstance(entry, dict):
        return None
    value, end, start = (entry.get(n) for n in ("access_token", "expires_at", "fetched_at"))
    if not (_is_token(value) and is_finite(end) and is_finite(start)):
        return None
    return Token(Secret(value), float(end), float(start))


class _Flight:
    """One fetch of a token, and those who wait for it."""

    def __init__(self, route: Hashable) -> None:
        self.route = route
        self.error: LLMError | None = None
        self.over = False
        self._waiting: deque[Waker] = deque()

    def wait(self, scope: CancelScope) -> None:
        """Wait until it is over."""
        wake = Waker()
        self._waiting.append(wake)
        while not self.over:
            scope.wait(wake)

    def end(self) -> None:
        """Wake everyone who waits; calling it again does nothing."""
        self.over = True
        while self._waiting:
            self._waiting.popleft().set()


class TokenKeeper:
    """Holds the token of one credential for all threads of this process.

    Made by :func:`keeper`. With a file, it is shared with other processes.
    """

    def __init__(self, credential: str, path: Path | None) -> None:
        self._file = None if path is None else TokenFile(path, credential)
        self._token: Token | None = None
        self._refused: str | None = None
        # Keyed by process, so that a forked child does not wait for its parent's fetch;
        # dict.setdefault is atomic.
        self._flights: dict[int, _Flight] = {}

    def get(
        self, fetch: Callable[[], Token], scope: CancelScope, *, route: Hashable = None
    ) -> Secret:
        """A token that is valid now, fetched if necessary by one thread of one process.

        A failed fetch is not repeated here; the caller decides whether to try again.

        Args:
            fetch: requests a token from the service, within ``scope``.
            scope: how long to wait, and which clock to use.
            route: the network path of ``fetch``. If another thread's fetch by the same route
                fails, this call fails with the same error.

        Raises:
            LLMError: what ``fetch`` raised, or the end of the scope.
        """
        while True:
            token = self._known(scope)
            if token is not None and scope.clock.wall() < token.renew_from:
                return token.value
            mine = flight = _Flight(route)
            # An interrupt may come between any two steps, even before ``finally`` runs.
            scope.attach(mine, partial(self._end_flight, mine))
            try:
                flight = self._flights.setdefault(os.getpid(), mine)
                if flight is mine:
                    return self._fetch_for_all(mine, fetch, scope)
            finally:
                self._end_flight(mine)
                scope.detach(mine)
            if token is not None:
                return token.value
            flight.wait(scope)
            self._end_flight(flight)
            if flight.error is not None and flight.route == route:
                error = copy.copy(flight.error)
                error.provider = None
                raise error from flight.error

    def _end_flight(self, flight: _Flight) -> None:
        """End a flight and let the next one begin; calling it again does nothing."""
        if self._flights.get(os.getpid()) is flight:
            self._flights.pop(os.getpid(), None)
        flight.end()

    def refuse(self, value: str) -> None:
        """Stop using ``value``, which the service no longer accepts, if it is still the token."""
        if self._token is not None and self._token.value == value:
            self._refused = value

    def is_spent(self, now: float) -> bool:
        """Whether it can be dropped: no valid token, and no fetch under way."""
        alive = self._token is not None and now < self._token.expires_at
        return not alive and os.getpid() not in self._flights

    def _known(self, scope: CancelScope, *, look: bool = False) -> Token | None:
        """The token to use now, from memory or else from the file.

        Args:
            scope: which clock to use.
            look: whether to read the file in any case, for a newer one.
        """
        token = self._token if self._usable(self._token, scope) else None
        if token is None or look:
            found = self._in_file()
            if self._usable(found, scope) and (
                token is None or found.expires_at > token.expires_at
            ):
                self._token = token = found
        return token

    def _usable(self, token: Token | None, scope: CancelScope) -> TypeGuard[Token]:
        return (
            token is not None
            and token.value != self._refused
            and scope.clock.wall() < token.good_until
        )

    def _in_file(self) -> Token | None:
        if self._file is None:
            return None
        try:
            return self._file.read()
        except Unusable as trouble:
            self._tell(trouble)
            return None

    def _tell(self, trouble: object) -> None:
        assert self._file is not None
        _files.tell_once(self._file.path, trouble)

    def _fetch_for_all(
        self, flight: _Flight, fetch: Callable[[], Token], scope: CancelScope
    ) -> Secret:
        try:
            token = self._known(scope)
            if token is None:
                token = self._renew(fetch, scope)
            elif scope.clock.wall() >= token.renew_from:
                token = self._renew_early(token, fetch, scope)
        except LLMError as error:
            if not (scope.over or scope.draining):
                flight.error = error
            raise
        return token.value

    def _renew_early(self, old: Token, fetch: Callable[[], Token], scope: CancelScope) -> Token:
        """A new token if it can be fetched quickly, else the old one, which is still valid."""
        limit = scope.limit
        patience = min(_EARLY_PATIENCE_S, scope.remaining() / 2)
        scope.limit = min(limit, scope.clock.monotonic() + patience)
        mine, held = self._claim(scope)
        token = self._known(scope, look=True) or old
        try:
            if not mine or scope.clock.wall() < token.renew_from:
                return token
            return self._keep(fetch(), scope)
        except LLMError as error:
            let_through(error)
            logger.debug("the token could not be renewed before its time: %s", error)
            self._token = replace(token, renew_from=scope.clock.wall() + _EARLY_PAUSE_S)
            return token
        finally:
            scope.limit = limit
            if held is not None:
                held.release()

    def _renew(self, fetch: Callable[[], Token], scope: CancelScope) -> Token:
        """A new token, fetched here or by another process with the same file."""
        monotonic = scope.clock.monotonic
        patience = min(_LOCK_PATIENCE_S, scope.remaining() / 2)
        end = monotonic() + patience
        while True:
            mine, held = self._claim(scope)
            try:
                token = self._known(scope)
                if token is not None:
                    return token
                if mine:
                    return self._keep(fetch(), scope)
            finally:
                if held is not None:
                    held.release()
            if monotonic() >= end:
                self._tell(f"another process has been fetching a token for {patience:.0f} s")
                return self._keep(fetch(), scope)
            _files.pause(scope)

    def _claim(self, scope: CancelScope) -> tuple[bool, Held | None]:
        """Whether this process may fetch now, and the lock to release afterwards."""
        if self._file is None:
            return True, None
        try:
            held = self._file.try_refresh(scope)
        except Unusable as trouble:
            self._tell(trouble)
            return True, None
        return held is not None, held

    def _keep(self, token: Token, scope: CancelScope) -> Token:
        self._token = token
        if self._file is not None:
            try:
                self._file.write(token, scope)
            except Unusable as trouble:
                self._tell(trouble)
        return token


_keepers: dict[tuple[str, Path | None], TokenKeeper] = {}


def keeper(credential: str, path: Path | None, *, now: float) -> TokenKeeper:
    """The one keeper of a credential's token in this process.

    Args:
        credential: a hash of everything the token depends on; see :func:`.keys.digest`.
        path: the file that processes share; None for this process's memory alone.
        now: Unix time in seconds; keepers of tokens that have expired by then may be dropped.
    """
    wanted = credential, path
    if wanted not in _keepers and len(_keepers) >= _MANY:
        # While the items are listed, another thread or a finalizer may add one.
        for key, other in _keepers.copy().items():
            if other.is_spent(now):
                _keepers.pop(key, None)
    return _keepers.setdefault(wanted, TokenKeeper(credential, path))
