"""any-llm, which has the retries of the client below it and no second service."""

from __future__ import annotations

from collections.abc import Iterator

from any_llm import AnyLLM

from . import PROMPT, RETRIES, SILENCE_S, TOOL

MESSAGES = [{"role": "user", "content": PROMPT}]


class make:  # noqa: N801 - what every client's module has
    def __init__(self, first: str, second: str) -> None:
        self._client = AnyLLM.create(
            "openai",
            api_key="key",
            api_base=f"{first}/v1",
            max_retries=RETRIES,
            timeout=SILENCE_S,
        )

    def stream(self) -> Iterator[str]:
        for event in self._client.completion(model="m", messages=MESSAGES, stream=True):
            if event.choices and event.choices[0].delta.content:
                yield event.choices[0].delta.content

    def complete(self) -> str:
        return self._client.completion(model="m", messages=MESSAGES).choices[0].message.content

    def tools(self) -> str:
        reply = self._client.completion(model="m", messages=MESSAGES, tools=[TOOL])
        call = reply.choices[0].message.tool_calls[0].function
        return f"{call.name} {call.arguments}"
