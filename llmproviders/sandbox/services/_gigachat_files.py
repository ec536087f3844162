"""The files that the sandbox's GigaChat keeps: those uploaded, and those that it draws."""

from __future__ import annotations

import struct
import threading
import uuid
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

_MOST_BYTES = {"image": 15_000_000, "audio": 35_000_000}

_MOST_TEXT_BYTES = 40_000_000

_IMAGES = ("jpeg", "png", "tiff", "bmp")


class KeptFile(NamedTuple):
    """One file, and the client that it belongs to."""

    about: dict[str, Any]
    media_type: str
    content: bytes
    client: str


class KeptFiles:
    """Files by id; each client only sees its own.

    Args:
        clock: Unix time in seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._files: dict[str, KeptFile] = {}
        self._lock = threading.Lock()

    def add(self, name: str, media_type: str, content: bytes, client: str) -> dict[str, Any]:
        """Keep a file and return the service's description of it."""
        about: dict[str, Any] = {
            "id": str(uuid.uuid4()),
            "object": "file",
            "bytes": len(content),
            "created_at": int(self._clock()),
            "filename": name,
            "purpose": "general",
            "access_policy": "private",
        }
        with self._lock:
            self._files[about["id"]] = KeptFile(about, media_type, content, client)
        return about

    def get(self, file_id: str, client: str) -> KeptFile | None:
        """Return a file of a client, or None."""
        with self._lock:
            found = self._files.get(file_id)
        return found if found is not None and found.client == client else None

    def list(self, client: str) -> list[dict[str, Any]]:
        """Return the files of a client."""
        with self._lock:
            return [kept.about for kept in self._files.values() if kept.client == client]

    def delete(self, file_id: str) -> None:
        """Forget a file."""
        with self._lock:
            self._files.pop(file_id, None)


def upload_problem(media_type: str, content: bytes) -> tuple[int, str] | None:
    """Return the status and the message that refuse a file, or None."""
    kind, _, form = media_type.partition("/")
    if kind not in ("image", "audio", "text", "application") or (
        kind == "image" and form not in _IMAGES
    ):
        return 400, "unsupported file type"
    if len(content) > _MOST_BYTES.get(kind, _MOST_TEXT_BYTES):
        return 413, "Payload too large"
    return None


def draw_png() -> bytes:
    """Return a small picture: one blue pixel."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    header = struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0)
    pixels = zlib.compress(b"\0\x20\x60\xff")
    chunks = ((b"IHDR", header), (b"IDAT", pixels), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*one) for one in chunks)
