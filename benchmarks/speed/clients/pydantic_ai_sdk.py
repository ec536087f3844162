"""PydanticAI's agent, on an address that speaks OpenAI's protocol; one for each thread.

Its connections belong to the event loop of the thread that made them.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator

from openai import AsyncOpenAI
from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

from . import PROMPT


class make:  # noqa: N801 - what every client's module has
    def __init__(self, base: str, service: str) -> None:
        self._base = base
        self._of_thread = threading.local()

    def _agent(self) -> Agent:
        if not hasattr(self._of_thread, "agent"):
            client = AsyncOpenAI(base_url=f"{self._base}/v1", api_key="1234567890")
            model = OpenAIChatModel("bench-1", provider=OpenAIProvider(openai_client=client))
            self._of_thread.agent = Agent(model)
        return self._of_thread.agent

    def stream(self) -> Iterator[str]:
        run = self._agent().run_stream_sync(PROMPT)
        yield from run.stream_text(delta=True, debounce_by=None)

    def complete(self) -> str:
        return self._agent().run_sync(PROMPT).output
