"""GigaChat: Sber's official API, with an OAuth token."""

from __future__ import annotations

from collections.abc import Iterator

from .._chat_completions import parse_chat
from ..provider import Call, Fetch, Provider, Reply, Request


class GigaChat(Provider):
    """GigaChat."""

    url = "https://api.giga.chat/v1"
    needs_auth = True
    default_model = "GigaChat-2"
    open_catalogue = True

    def prepare(self, request: Request, fetch: Fetch) -> Call:
        """Not yet."""
        return Call("POST", f"{self.base_url}/chat/completions")

    def parse(self, reply: Reply) -> Iterator[str]:
        """Read it."""
        return parse_chat(reply)
