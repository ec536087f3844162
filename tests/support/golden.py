"""Golden replies: bodies as the services send them, with what has to come out of them.

``tests/golden/<provider>/<name>.body`` has the bytes, ``<name>.json`` beside it what is known of
them: ``content_type``, the ``text``, and either ``finish``, attributes of the ``FinishReason``,
or ``error``, the ``type`` of the error and attributes of it.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmproviders import Provider
from llmproviders.providers import REGISTRY
from tests.support.http_bytes import (
    Body,
    chunked,
    close_delimited,
    content_length,
    gzip_stream,
    http_response,
)
from tests.support.promise import Reading
from tests.support.rawserver import Connection

FOLDER = Path(__file__).parents[1] / "golden"

PAGE = (
    b"<html><head><title>Chat</title></head><body>"
    b"<div class='wpaicg-chat' data-post-id='7' data-nonce='a1b2c3d4e5'></div></body></html>"
)
"""What any GET is answered with: ChatGptt asks for it first."""


def arguments_at(name: str, url: str) -> dict[str, Any]:
    """What the provider of that name needs for a server at ``url``, which answers chats alone.

    ``arguments.json`` beside the golden replies has it, ``path`` what its base address has behind
    the origin.
    """
    file = FOLDER / name / "arguments.json"
    known = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    return {"base_url": url + known.pop("path", ""), **known}


def provider_at(name: str, url: str, **arguments: Any) -> Provider:
    """Make the provider of that name for a server at ``url``; see :func:`arguments_at`."""
    return REGISTRY[name](**arguments_at(name, url), **arguments)


@dataclass(frozen=True)
class Golden:
    """One golden reply."""

    provider: str
    name: str
    body: bytes
    content_type: str
    text: str
    finish: dict[str, Any] | None
    error: dict[str, Any] | None

    def __str__(self) -> str:
        return f"{self.provider}-{self.name}"

    def agrees_with(self, reading: Reading) -> None:
        """Fail unless what was read is what has to come out."""
        assert reading.text == self.text
        if self.error is not None:
            assert type(reading.error).__name__ == self.error["type"], reading
        known = self.finish or {k: v for k, v in (self.error or {}).items() if k != "type"}
        ended = reading.finish if reading.error is None else reading.error
        found = {name: getattr(ended, name) for name in known}
        if found.get("usage"):
            found["usage"] = dataclasses.asdict(found["usage"])
        assert found == known


def _load(path: Path) -> Golden:
    known = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    known = {"finish": None, "error": None, **known}
    return Golden(path.parent.name, path.stem, path.read_bytes(), **known)


GOLDENS = [_load(path) for path in sorted(FOLDER.glob("*/*.body"))]


def goldens(provider: str | None = None, *, name: str | None = None) -> list[Golden]:
    """The golden replies of a provider, or of all, or of one name."""
    return [
        golden
        for golden in GOLDENS
        if provider in (None, golden.provider) and name in (None, golden.name)
    ]


def _gzipped(frame: Callable[[list[bytes]], Body]) -> Callable[[list[bytes]], Body]:
    def framed(lines: list[bytes]) -> Body:
        body = frame(gzip_stream(lines))
        return dataclasses.replace(body, headers=(*body.headers, ("Content-Encoding", "gzip")))

    return framed


FRAMINGS: dict[str, Callable[[list[bytes]], Body]] = {
    "chunked": chunked,
    "length": content_length,
    "close": close_delimited,
    "gzip-chunked": _gzipped(chunked),
    "gzip-close": _gzipped(close_delimited),
}
"""Every way in which a body can travel; each gets the body's lines, with their ends."""


def on_the_wire(
    body: bytes | Iterable[bytes], framing: str, content_type: str
) -> tuple[bytes, bytes]:
    """The head and the framed body of a reply; a body in one piece is framed line by line."""
    pieces = body.splitlines(keepends=True) if isinstance(body, bytes) else list(body)
    head, *rest = http_response(200, {"Content-Type": content_type}, FRAMINGS[framing](pieces))
    return head, b"".join(rest)


class Answering:
    """A server's behaviour: the page for a GET, and for a chat whatever ``chat`` is by then."""

    chat: bytes = b""

    def __call__(self, conn: Connection) -> None:
        """Answer requests until one is a chat."""
        while conn.read_request().method == "GET":
            conn.send(b"".join(http_response(200, {"Content-Type": "text/html"}, PAGE)))
        conn.send(self.chat)
