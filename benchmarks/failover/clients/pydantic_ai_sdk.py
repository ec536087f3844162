"""PydanticAI's agent, which shows the model its mistake once, over its ``FallbackModel``."""

from __future__ import annotations

from collections.abc import Iterator

import openai
from pydantic_ai import Agent
from pydantic_ai.exceptions import ModelAPIError, OutputTokenLimitExceeded
from pydantic_ai.models.fallback import FallbackModel
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

from . import CONNECT_S, ORDER_PROMPT, PROMPT, RETRIES, SILENCE_S
from .order import Order


class make:  # noqa: N801 - what every client's module has
    def __init__(self, first: str, second: str) -> None:
        model = FallbackModel(
            self._model(first),
            self._model(second),
            fallback_on=(ModelAPIError, OutputTokenLimitExceeded),
        )
        self._agent = Agent(model)
        self._typed = Agent(model, output_type=Order, retries=1)

    def _model(self, origin: str) -> OpenAIChatModel:
        client = openai.AsyncOpenAI(
            base_url=f"{origin}/v1",
            api_key="key",
            max_retries=RETRIES,
            timeout=openai.Timeout(SILENCE_S, connect=CONNECT_S),
        )
        return OpenAIChatModel("m", provider=OpenAIProvider(openai_client=client))

    def stream(self) -> Iterator[str]:
        run = self._agent.run_stream_sync(PROMPT)
        yield from run.stream_text(delta=True, debounce_by=None)

    def complete(self) -> str:
        return self._agent.run_sync(PROMPT).output

    def typed(self) -> Order:
        return self._typed.run_sync(ORDER_PROMPT).output
