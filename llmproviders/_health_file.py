"""Cooldowns in a file that all processes of a user share; whatever happens to it, calls go on."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, fields
from math import isfinite
from typing import Any

from ._health import Trouble
from ._locks import ForkLock

logger = logging.getLogger("llmproviders")

_VERSION = 1
_MOST_ENTRIES = 256
_MOST_BYTES = 256 * 1024
_FORGOTTEN_AFTER_S = 24 * 3600.0
_FURTHEST_S = 7 * 24 * 3600.0
_LOCK_PATIENCE_S = 0.1
_LOCK_PAUSE_S = 5.0

_Stamp = tuple[int, int, int] | None


class FileStore:
    """Troubles in a file, by Unix time.

    Reading costs one look at the file's date as long as nobody changed it. What cannot be written,
    for want of space, rights or a free lock, is remembered by this process alone.

    Args:
        path: the file; its folder is made when there is something to remember.
        now: Unix time in seconds.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, now: Callable[[], float] = time.time
    ) -> None:
        self.path = os.path.abspath(os.path.expanduser(os.fspath(path)))
        self.now = now
        self._lock = ForkLock()
        self._alone_again = 0.0
        self._seen: tuple[_Stamp, Mapping[str, Trouble]] = (None, {})

    def read(self) -> Mapping[str, Trouble]:
        """All of them, as far as the file can be read."""
        stamp = self._stamp()
        if stamp != self._seen[0]:
            self._seen = (stamp, self._load(stamp))
        return self._seen[1]

    @contextlib.contextmanager
    def change(self) -> Iterator[dict[str, Trouble]]:
        """All of them, to be changed by no other thread meanwhile, and no other process."""
        with self._lock, self._alone() as alone:
            before = self.read()
            troubles = dict(before)
            yield troubles
            if troubles == before:
                return
            troubles = _bounded(troubles, self.now())
            if alone:
                self._save(troubles)
            self._seen = (self._stamp(), troubles)

    def clear(self) -> None:
        """Forget all of them."""
        with self.change() as troubles:
            troubles.clear()

    def _stamp(self) -> _Stamp:
        try:
            status = os.stat(self.path)
        except OSError:
            return None
        return status.st_ino, status.st_mtime_ns, status.st_size

    def _load(self, stamp: _Stamp) -> Mapping[str, Trouble]:
        if stamp is None:
            return {}
        try:
            with open(self.path, "rb") as file:
                return _decode(file.read(_MOST_BYTES + 1))
        except OSError as error:
            self._complain(error)
            return self._seen[1]

    @contextlib.contextmanager
    def _alone(self) -> Iterator[bool]:
        """Keep other processes out; False where that cannot be done, or just could not."""
        from filelock import FileLock

        if time.monotonic() < self._alone_again:
            yield False
            return
        lock = FileLock(f"{self.path}.lock", timeout=_LOCK_PATIENCE_S, mode=0o600)
        try:
            os.makedirs(os.path.dirname(self.path), mode=0o700, exist_ok=True)
            lock.acquire(poll_interval=0.005)
        except (OSError, RuntimeError) as error:
            self._complain(error)
            self._alone_again = time.monotonic() + _LOCK_PAUSE_S
            yield False
            return
        try:
            yield True
        finally:
            with contextlib.suppress(OSError):
                lock.release()

    def _save(self, troubles: Mapping[str, Trouble]) -> None:
        import tempfile

        try:
            handle, beside = tempfile.mkstemp(prefix=".health-", dir=os.path.dirname(self.path))
            try:
                with open(handle, "wb") as file:
                    file.write(_encode(troubles))
                os.replace(beside, self.path)
            except BaseException:
                os.unlink(beside)
                raise
        except OSError as error:
            self._complain(error)

    def _complain(self, error: Exception) -> None:
        logger.debug("%s: cooldowns are not shared: %s", self.path, error)


def _bounded(troubles: Mapping[str, Trouble], now: float) -> dict[str, Trouble]:
    """What is worth remembering: the newest, and nothing that is long over."""
    newest_first = sorted(troubles.items(), key=lambda item: -item[1].at)
    return {
        key: trouble
        for key, trouble in newest_first[:_MOST_ENTRIES]
        if now < max(trouble.at + _FORGOTTEN_AFTER_S, trouble.due)
    }


def _encode(troubles: Mapping[str, Trouble]) -> bytes:
    providers = {key: asdict(trouble) for key, trouble in troubles.items()}
    return json.dumps({"version": _VERSION, "providers": providers}, indent=1).encode()


def _decode(data: bytes) -> dict[str, Trouble]:
    """What a file holds; nothing, where it is not one of these."""
    if len(data) > _MOST_BYTES:
        return {}
    try:
        content = json.loads(data)
        entries = content["providers"].items() if content["version"] == _VERSION else ()
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return {}
    found = ((key, _trouble(entry)) for key, entry in entries)
    return {key: trouble for key, trouble in found if trouble is not None}


def _trouble(entry: object) -> Trouble | None:
    if not isinstance(entry, dict):
        return None
    values: dict[str, Any] = {field.name: entry.get(field.name) for field in fields(Trouble)}
    if not all(type(v) in (int, float) and isfinite(v) and v >= 0 for v in values.values()):
        return None
    trouble = Trouble(**values)
    return trouble if trouble.due <= trouble.at + _FURTHEST_S else None
