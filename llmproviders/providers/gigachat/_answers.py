"""The service's answers other than chats, read from its JSON."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..._checks import is_count
from ..._http.decoding import Kind, decode_json, expect, expect_number
from ..._http.error_map import error_of
from ..._http.types import HTTPResponse
from ..._redact import redact
from ..._signals import ignoring
from ...errors import ProtocolError, retold
from .._chat_completions import decode_answer, failure_in

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
        return cls.from_json(_uploaded(reply))


def read_id(reply: HTTPResponse) -> str:
    """Read the id in the answer to an upload."""
    return _word(_uploaded(reply), "id")


def _uploaded(reply: HTTPResponse) -> Any:
    entry = decode_answer(reply.read())
    _check(entry, "id")
    return entry


def read_entries(reply: HTTPResponse, path: str, count: int) -> list[dict[str, Any]]:
    """Read what ``path`` answers about ``count`` texts: an entry for each."""
    answer = decode_answer(reply.read())
    _check(answer, "data")
    entries = answer.get("data") if isinstance(answer, dict) else answer
    if not isinstance(entries, list) or len(entries) != count:
        raise ProtocolError(f"the reply to {path} does not have an entry for each text")
    return entries


def read_content(reply: HTTPResponse) -> bytes:
    """Read a file's content.

    Raises:
        LLMError: the error that came instead of it, as a JSON object.
        ProtocolError: it is larger than any file that the service keeps.
    """
    content = reply.read(MAX_FILE + 1)
    if len(content) > MAX_FILE:
        raise ProtocolError(f"the file is larger than {MAX_FILE} bytes")
    answer = None
    # A text file may look like an error; its label is another.
    if reply.content_type == "application/json":
        with ignoring(ProtocolError):
            answer = decode_json(content)
    _check(answer, None)
    return content


def read_deletion(reply: HTTPResponse) -> None:
    """Read the answer to a deletion; nothing, or one word such as ``OK``, means that it is done.

    Raises:
        LLMError: it is an error, or says that the file was not deleted.
        ProtocolError: it is anything else.
    """
    body = reply.read()
    word = body.strip(b'" \t\r\n')
    if not word or (word.isalpha() and word != b"false"):
        return
    answer = decode_answer(body)
    # PHP writes an empty object as a list.
    answer = expect({} if answer == [] else answer, dict, "the reply")
    _check(answer, "id")
    if answer.get("deleted") is False or answer.get("success") is False:
        error = error_of(answer)
        raise retold(error, f"the file was not deleted: {error}")


def _check(answer: Any, due: str | None) -> None:
    """Raise the error that an answer of status 200 holds.

    Args:
        answer: its JSON.
        due: the field that it must have; without it, a message alone is also an error. None: only
            what certainly is an error counts.
    """
    if isinstance(answer, dict):
        failure = failure_in(answer, whole=due is not None and answer.get(due) is None)
        if failure is not None:
            raise error_of(failure)


def _field(entry: Any, name: str, kind: type[Kind]) -> Kind:
    return expect(entry.get(name) if isinstance(entry, dict) else None, kind, name)


def _word(entry: Any, name: str) -> str:
    return redact(_field(entry, name, str))


def _count(entry: Any, name: str) -> int:
    value = _field(entry, name, int)
    if not is_count(value):
        raise ProtocolError(f"the reply has a number where {name} was due that cannot be one")
    return value
