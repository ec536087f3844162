"""instructor, which shows the model its mistake, and has no second service."""

from __future__ import annotations

import instructor
import openai

from . import CONNECT_S, ORDER_PROMPT, RETRIES, SILENCE_S
from .order import Order


class make:  # noqa: N801 - what every client's module has
    def __init__(self, first: str, second: str) -> None:
        self._client = instructor.from_openai(
            openai.OpenAI(
                base_url=f"{first}/v1",
                api_key="key",
                max_retries=RETRIES,
                timeout=openai.Timeout(SILENCE_S, connect=CONNECT_S),
            )
        )

    def typed(self) -> Order:
        return self._client.chat.completions.create(
            model="m",
            messages=[{"role": "user", "content": ORDER_PROMPT}],
            response_model=Order,
            max_retries=1,
        )
