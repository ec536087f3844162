"""A reply as plain data, before faults and framing."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, NamedTuple

JSON = "application/json; charset=utf-8"

HTML = "text/html; charset=utf-8"

EVENTS = "text/event-stream"


HeaderPairs = tuple[tuple[str, str], ...]


class ReplyPiece(NamedTuple):
    """Bytes that are sent together; `is_text` if they contain a piece of the reply's text."""

    data: bytes
    is_text: bool = False


@dataclass
class Whole:
    """A reply of known length; `pieces` sets how long the service takes for it."""

    status: int
    body: bytes
    content_type: str = JSON
    headers: HeaderPairs = ()
    pieces: int = 0
    release: Callable[[], None] | None = None


@dataclass
class Stream:
    """A reply in pieces: `frames`, made as they are sent, then `end`, which completes the reply.

    `release` is called before `end` is sent, or as soon as it is clear that it will not be.
    """

    frames: Iterable[ReplyPiece]
    end: tuple[ReplyPiece, ...] = ()
    content_type: str = EVENTS
    headers: HeaderPairs = ()
    status: int = 200
    release: Callable[[], None] | None = None


SandboxReply = Whole | Stream


def phrase(status: int) -> str:
    """Return the reason phrase of an HTTP status."""
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Unknown"


def dump(value: Any) -> bytes:
    """Return a value as compact JSON, in UTF-8."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return text.encode("utf-8", "replace")


def json_reply(value: Any, *, status: int = 200) -> Whole:
    """Return a reply that is one JSON value."""
    return Whole(status, dump(value))


def event(value: Any, *, is_text: bool = False) -> ReplyPiece:
    """Return one server-sent event that carries JSON."""
    return ReplyPiece(b"data: " + dump(value) + b"\n\n", is_text)


def html_error(status: int) -> Whole:
    """Return the error page of a web server."""
    title = f"{status} {phrase(status)}"
    page = f"<html><head><title>{title}</title></head><body><h1>{title}</h1></body></html>\n"
    return Whole(status, page.encode(), content_type=HTML)
