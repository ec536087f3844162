"""openai, which has retries and no second service."""

from __future__ import annotations

from collections.abc import Iterator

import openai

from . import CONNECT_S, PROMPT, RETRIES, SILENCE_S, TOOL

MESSAGES = [{"role": "user", "content": PROMPT}]


class make:  # noqa: N801 - what every client's module has
    def __init__(self, first: str, second: str) -> None:
        self._client = openai.OpenAI(
            base_url=f"{first}/v1",
            api_key="key",
            max_retries=RETRIES,
            timeout=openai.Timeout(SILENCE_S, connect=CONNECT_S),
        )

    def stream(self) -> Iterator[str]:
        for event in self._client.chat.completions.create(
            model="m", messages=MESSAGES, stream=True
        ):
            if event.choices and event.choices[0].delta.content:
                yield event.choices[0].delta.content

    def complete(self) -> str:
        reply = self._client.chat.completions.create(model="m", messages=MESSAGES)
        return reply.choices[0].message.content

    def tools(self) -> str:
        reply = self._client.chat.completions.create(model="m", messages=MESSAGES, tools=[TOOL])
        call = reply.choices[0].message.tool_calls[0].function
        return f"{call.name} {call.arguments}"
