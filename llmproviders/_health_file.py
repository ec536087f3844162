"""Cooldowns in a file that all processes of a user share; whatever happens to it, calls go on."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, TypeVar

from ._clock import Scope
from ._files import (
    Held,
    Unusable,
    beside,
    check_path,
    check_private,
    make_private_folder,
    read_private,
    replace_private,
    tell_once,
    wait_for_lock,
)
from ._health import LONGEST_REST_S, Trouble
from ._locks import ForkLock
from ._numbers import is_finite
from ._signals import let_through

T = TypeVar("T")

# Version 1 kept what one credential had failed with against all others: nothing of it is believed.
_VERSION = 2
_MOST_ENTRIES = 256
_FORGOTTEN_AFTER_S = 24 * 3600.0
_LOCK_PATIENCE_S = 0.1
_LOCK_PAUSE_S = 5.0
_FOREIGN = "it holds something else than cooldowns; name another file as health, or delete it"

_Stamp = tuple[int, int, int] | None


class FileStore:
    """Troubles in a file, by Unix time.

    Reading costs one look at the file's date as long as nobody changed it. What cannot be written,
    for want of space, rights or a free lock, is remembered by this process alone.

    Args:
        path: the file; its folder is made when there is something to remember.
        now: Unix time in seconds.

    Raises:
        ValueError: no file can have that name.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, now: Callable[[], float] = time.time
    ) -> None:
        check_path("health", path)
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

    def change(self, alter: Callable[[dict[str, Trouble]], T]) -> T:
        """Call ``alter`` with all of them, to be changed by nobody else meanwhile."""
        scope = Scope()
        with self._lock.mine:
            try:
                alone = self._keep_others_out(scope)
                before = self.read()
                troubles = dict(before)
                result = alter(troubles)
                if troubles != before:
                    troubles = _bounded(troubles, self.now())
                    if alone is not None:
                        self._save(troubles)
                    self._seen = (self._stamp(), troubles)
                if alone is not None:
                    alone.release()
                return result
            except BaseException:
                scope.cancel()
                raise

    def clear(self) -> None:
        """Forget all of them."""
        self.change(dict.clear)

    def _stamp(self) -> _Stamp:
        try:
            status = os.stat(self.path)
        except OSError as error:
            let_through(error)
            return None
        return status.st_ino, status.st_mtime_ns, status.st_size

    def _load(self, stamp: _Stamp) -> Mapping[str, Trouble]:
        if stamp is None:
            return {}
        try:
            return _decode(read_private(self.path))
        except (Unusable, ValueError) as trouble:
            tell_once(self.path, trouble)
            return self._seen[1]

    def _keep_others_out(self, scope: Scope) -> Held | None:
        """The lock that keeps other processes out; None if it cannot be had, or just could not."""
        if time.monotonic() < self._alone_again:
            return None
        try:
            check_private(self.path)
            make_private_folder(self.path.parent)
            return wait_for_lock(beside(self.path, "{}.lock"), scope, _LOCK_PATIENCE_S)
        except Unusable as trouble:
            tell_once(self.path, trouble)
            self._alone_again = time.monotonic() + _LOCK_PAUSE_S
            return None

    def _save(self, troubles: Mapping[str, Trouble]) -> None:
        try:
            replace_private(self.path, _encode(troubles), _decode)
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
    """What a file holds; of one of an older version, nothing.

    Raises:
        ValueError: it is not one of these, or of a newer version.
    """
    if not data:
        return {}
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        let_through(error)
        content = None
    if not isinstance(content, dict) or content.keys() != {"version", "providers"}:
        raise ValueError(_FOREIGN)
    version, entries = content["version"], content["providers"]
    if type(version) is not int or not isinstance(entries, dict):
        raise ValueError(_FOREIGN)
    if version > _VERSION:
        raise ValueError("a newer version of llmproviders wrote it; name another file as health")
    if version < _VERSION:
        return {}
    found = ((key, _trouble(entry)) for key, entry in entries.items())
    return {key: trouble for key, trouble in found if trouble is not None}


def _trouble(entry: object) -> Trouble | None:
    if not isinstance(entry, dict):
        return None
    values: dict[str, Any] = {field.name: entry.get(field.name) for field in fields(Trouble)}
    if not all(is_finite(value) and value >= 0 for value in values.values()):
        return None
    trouble = Trouble(**values)
    return trouble if trouble.due <= trouble.at + LONGEST_REST_S else None
