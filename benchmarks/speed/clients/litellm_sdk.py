"""litellm, on an address that speaks OpenAI's protocol."""

from __future__ import annotations

from collections.abc import Iterator

import litellm

from . import PROMPT


class make:  # noqa: N801 - what every client's module has
    def __init__(self, base: str, service: str) -> None:
        self._asked = {
            "model": "openai/bench-1",
            "messages": [{"role": "user", "content": PROMPT}],
            "api_base": f"{base}/v1",
            "api_key": "1234567890",
        }

    def stream(self) -> Iterator[str]:
        for event in litellm.completion(stream=True, **self._asked):
            text = event.choices[0].delta.content
            if text:
                yield text

    def complete(self) -> str:
        return litellm.completion(**self._asked).choices[0].message.content
