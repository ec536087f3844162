"""any-llm, on an address that speaks OpenAI's protocol, ids of replies included."""

from __future__ import annotations

from collections.abc import Iterator

from any_llm import AnyLLM

from . import PROMPT

_ASKED = {"model": "bench-1", "messages": [{"role": "user", "content": PROMPT}]}


class make:  # noqa: N801 - what every client's module has
    def __init__(self, base: str, service: str) -> None:
        base = base.replace("/chat/", "/strict/")
        self._client = AnyLLM.create("openai", api_key="1234567890", api_base=f"{base}/v1")

    def stream(self) -> Iterator[str]:
        for event in self._client.completion(stream=True, **_ASKED):
            text = event.choices[0].delta.content
            if text:
                yield text

    def complete(self) -> str:
        return self._client.completion(**_ASKED).choices[0].message.content
