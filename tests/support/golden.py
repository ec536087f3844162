"""Golden replies: bodies as the services send them, with what has to come out of them.

``tests/golden/<provider>/<name>.body`` has the bytes, ``<name>.json`` beside it what is known of
them: ``content_type``, the ``text``, and either ``finish``, attributes of the ``FinishReason``,
or ``error``, the ``type`` of the error and attributes of it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmproviders import Provider
from llmproviders.providers import REGISTRY
from llmproviders.testing import (
    FRAMINGS,
    GoldenReply,
    RawRequest,
    Script,
    golden_replies,
    http_response,
)
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
class Golden(GoldenReply):
    """One golden reply of a provider."""

    provider: str = ""

    def __str__(self) -> str:
        return f"{self.provider}-{self.name}"


GOLDENS = [
    Golden(**vars(golden), provider=folder.name)
    for folder in sorted(FOLDER.iterdir())
    for golden in golden_replies(folder)
]


def goldens(provider: str | None = None, *, name: str | None = None) -> list[Golden]:
    """The golden replies of a provider, or of all, or of one name."""
    return [
        golden
        for golden in GOLDENS
        if provider in (None, golden.provider) and name in (None, golden.name)
    ]


def on_the_wire(
    body: bytes | Iterable[bytes], framing: str, content_type: str
) -> tuple[bytes, bytes]:
    """The head and the framed body of a reply; a body in one piece is framed line by line."""
    pieces = body.splitlines(keepends=True) if isinstance(body, bytes) else list(body)
    head, *rest = http_response(200, {"Content-Type": content_type}, FRAMINGS[framing](pieces))
    return head, b"".join(rest)


def before(request: RawRequest) -> Script | None:
    """Answer any GET with the page that ChatGptt asks for first."""
    if request.method != "GET":
        return None
    return http_response(200, {"Content-Type": "text/html"}, PAGE)


class Answering:
    """A server's behaviour: the page for a GET, and for a chat whatever ``chat`` is by then."""

    chat: bytes = b""

    def __call__(self, conn: Connection) -> None:
        """Answer requests until one is a chat."""
        while (page := before(conn.read_request())) is not None:
            conn.run(page)
        conn.send(self.chat)
