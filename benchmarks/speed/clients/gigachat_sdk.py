"""Sber's own client."""

from __future__ import annotations

from collections.abc import Iterator

from gigachat import GigaChat

from . import PROMPT


class make:  # noqa: N801 - what every client's module has
    def __init__(self, base: str, service: str) -> None:
        self._client = GigaChat(
            base_url=f"{base}/v1",
            access_token="1234567890",
            model="bench-1",
            verify_ssl_certs=False,
        )

    def stream(self) -> Iterator[str]:
        for event in self._client.stream(PROMPT):
            text = event.choices[0].delta.content
            if text:
                yield text

    def complete(self) -> str:
        return self._client.chat(PROMPT).choices[0].message.content
