"""g4f, on an address that speaks OpenAI's protocol."""

from __future__ import annotations

from collections.abc import Iterator

from g4f.client import Client
from g4f.Provider.template import OpenaiTemplate

from . import PROMPT


class make:  # noqa: N801 - what every client's module has
    def __init__(self, base: str, service: str) -> None:
        address = f"{base}/v1"

        class Local(OpenaiTemplate):
            base_url = address
            api_key = "1234567890"
            working = True
            default_model = "bench-1"
            models = ["bench-1"]

        self._client = Client(provider=Local)
        self._asked = {
            "model": "bench-1",
            "messages": [{"role": "user", "content": PROMPT}],
            "api_key": "1234567890",
        }

    def stream(self) -> Iterator[str]:
        for event in self._client.chat.completions.create(stream=True, **self._asked):
            text = event.choices[0].delta.content
            if text:
                yield text

    def complete(self) -> str:
        return self._client.chat.completions.create(**self._asked).choices[0].message.content
