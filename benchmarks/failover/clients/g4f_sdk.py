"""g4f's ``IterListProvider`` over two providers that speak OpenAI's protocol.

It has no retries, and its blocking client passes no timeout to such providers.
"""

from __future__ import annotations

from collections.abc import Iterator

from g4f.client import Client
from g4f.Provider.template import OpenaiTemplate
from g4f.providers.retry_provider import IterListProvider

from . import PROMPT, SILENCE_S, TOOL

MESSAGES = [{"role": "user", "content": PROMPT}]


class make:  # noqa: N801 - what every client's module has
    def __init__(self, first: str, second: str) -> None:
        providers = [
            type(
                name,
                (OpenaiTemplate,),
                {
                    "base_url": f"{origin}/v1",
                    "working": True,
                    "needs_auth": False,
                    "default_model": "m",
                    "models": ["m"],
                },
            )
            for name, origin in (("First", first), ("Second", second))
        ]
        self._client = Client(provider=IterListProvider(providers, shuffle=False))

    def stream(self) -> Iterator[str]:
        for event in self._client.chat.completions.create(
            messages=MESSAGES, model="m", stream=True, timeout=SILENCE_S, stream_timeout=SILENCE_S
        ):
            if event.choices and event.choices[0].delta.content:
                yield event.choices[0].delta.content

    def complete(self) -> str:
        reply = self._client.chat.completions.create(
            messages=MESSAGES, model="m", timeout=SILENCE_S, stream_timeout=SILENCE_S
        )
        return reply.choices[0].message.content

    def tools(self) -> str:
        reply = self._client.chat.completions.create(
            messages=MESSAGES,
            model="m",
            tools=[TOOL],
            timeout=SILENCE_S,
            stream_timeout=SILENCE_S,
        )
        call = reply.choices[0].message.tool_calls[0].function
        return f"{call.name} {call.arguments}"
