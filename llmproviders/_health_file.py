"""Cooldowns in a file that all processes of a user share; whatever happens to it, calls go on."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from ._clock import Scope
from ._files import (
    Unusable,
    make_private_folder,
    read_private,
    replace_private,
    tell_once,
    wait_for_lock,
)
from ._health import Trouble
from ._locks import ForkLock
from ._numbers import is_finite

_VERSION = 1
_MOST_ENTRIES = 256
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
        self.path = Path(path).expanduser().absolute()
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
            return _decode(read_private(self.path))
        except Unusable as trouble:
            tell_once(self.path, trouble)
            return self._seen[1]

    @contextlib.contextmanager
    def _alone(self) -> Iterator[bool]:
        """Keep other processes out; False where that cannot be done, or just could not."""
        held = None
        if time.monotonic() >= self._alone_again:
            try:
                make_private_folder(self.path.parent)
                lock = self.path.with_name(f"{self.path.name}.lock")
                held = wait_for_lock(lock, Scope(), _LOCK_PATIENCE_S)
            except Unusable as trouble:
                tell_once(self.path, trouble)
                self._alone_again = time.monotonic() + _LOCK_PAUSE_S
        if held is None:
            yield False
            return
        with held:
            yield True

    def _save(self, troubles: Mapping[str, Trouble]) -> None:
        try:
            replace_private(self.path, _encode(troubles))
        except Unusable as trouble:
            tell_once(self.path, trouble)


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
    if not all(is_finite(value) and value >= 0 for value in values.values()):
        return None
    trouble = Trouble(**values)
    return trouble if trouble.due <= trouble.at + _FURTHEST_S else None
