"""PydanticAI's agent, on an address that speaks OpenAI's protocol."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

from . import PROMPT


class make:  # noqa: N801 - what every client's module has
    def __init__(self, base: str, service: str) -> None:
        provider = OpenAIProvider(base_url=f"{base}/v1", api_key="1234567890")
        self._agent = Agent(OpenAIChatModel("bench-1", provider=provider))

    def stream(self) -> Iterator[str]:
        run = self._agent.run_stream_sync(PROMPT)
        yield from run.stream_text(delta=True, debounce_by=None)

    def complete(self) -> str:
        return self._agent.run_sync(PROMPT).output
