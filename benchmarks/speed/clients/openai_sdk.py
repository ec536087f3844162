"""OpenAI's own client."""

from __future__ import annotations

from collections.abc import Iterator

from openai import OpenAI

from . import PROMPT

_ASKED = {"model": "bench-1", "messages": [{"role": "user", "content": PROMPT}]}


class make:  # noqa: N801 - what every client's module has
    def __init__(self, base: str, service: str) -> None:
        self._client = OpenAI(base_url=f"{base}/v1", api_key="1234567890")

    def stream(self) -> Iterator[str]:
        for event in self._client.chat.completions.create(stream=True, **_ASKED):
            text = event.choices[0].delta.content
            if text:
                yield text

    def complete(self) -> str:
        return self._client.chat.completions.create(**_ASKED).choices[0].message.content
