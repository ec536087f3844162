"""The service's answers other than chats, read from its JSON."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..._checks import is_count
from ..._http.decoding import Kind, decode_json, expect, expect_number
from ..._http.types import HTTPResponse
from ..._redact import redact
from ...errors import ProtocolError

MAX_FILE = 40_000_000
"""The largest size in bytes of a file that the service keeps."""


@dataclass(frozen=True, slots=True)
class Balance:
    """The remaining paid tokens for one model."""

    model: str
    tokens: int

    @classmethod
    def from_json(cls, entry: Any) -> Balance:
        """Read an entry of ``/balance``."""
        return cls(_word(entry, "usage"), int(expect_number(entry.get("value"), "value")))


@dataclass(frozen=True, slots=True)
class TokenCount:
    """How many tokens and characters one text has."""

    tokens: int
    characters: int

    @classmethod
    def from_json(cls, entry: Any) -> TokenCount:
        """Read an entry of ``/tokens/count``."""
        return cls(_count(entry, "tokens"), _count(entry, "characters"))


@dataclass(frozen=True, slots=True)
class UploadedFile:
    """A file that the service keeps.

    Attributes:
        id: the service's name for it.
        filename: its name when it was uploaded.
        bytes: its size.
        created_at: when it was uploaded, in Unix seconds.
        purpose: its purpose, such as ``"general"``.
    """

    id: str
    filename: str
    bytes: int
    created_at: int
    purpose: str

    @classmethod
    def from_json(cls, entry: Any) -> UploadedFile:
        """Read an entry of ``/files``."""
        return cls(
            id=_word(entry, "id"),
            filename=_word(entry, "filename"),
            bytes=_count(entry, "bytes"),
            created_at=_count(entry, "created_at"),
            purpose=_word(entry, "purpose"),
        )

    @classmethod
    def read(cls, reply: HTTPResponse) -> UploadedFile:
        """Read the answer to an upload."""
        return cls.from_json(decode_json(reply.read()))


def read_content(reply: HTTPResponse) -> bytes:
    """Read a file's content.

    Raises:
        ProtocolError: it is larger than any file that the service keeps.
    """
    content = reply.read(MAX_FILE + 1)
    if len(content) > MAX_FILE:
        raise ProtocolError(f"the file is larger than {MAX_FILE} bytes")
    return content


def _field(entry: Any, name: str, kind: type[Kind]) -> Kind:
    return expect(entry.get(name) if isinstance(entry, dict) else None, kind, name)


def _word(entry: Any, name: str) -> str:
    return redact(_field(entry, name, str))


def _count(entry: Any, name: str) -> int:
    value = _field(entry, name, int)
    if not is_count(value):
        raise ProtocolError(f"the reply has a number where {name} was due that cannot be one")
    return value
