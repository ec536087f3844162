"""LiteLLM's Router: retries, cooldowns, and a fallback to the second service.

A typed reply is checked if ``enable_json_schema_validation`` is on.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import litellm

from . import KEY, ORDER_PROMPT, PROMPT, RETRIES, SILENCE_S, TOOL
from .order import Order

MESSAGES = [{"role": "user", "content": PROMPT}]
litellm.suppress_debug_info = True
litellm.enable_json_schema_validation = True


class make:  # noqa: N801 - what every client's module has
    def __init__(self, first: str, second: str) -> None:
        self._router = litellm.Router(
            model_list=[
                {"model_name": "first", "litellm_params": self.parameters(first)},
                {"model_name": "second", "litellm_params": self.parameters(second)},
            ],
            fallbacks=[{"first": ["second"]}],
            num_retries=RETRIES,
            timeout=SILENCE_S,
            stream_timeout=SILENCE_S,
            cooldown_time=30,
            allowed_fails=1,
        )

    def parameters(self, origin: str) -> dict[str, Any]:
        return {
            "model": "openai/m",
            "api_base": f"{origin}/v1",
            "api_key": "key",
            "timeout": SILENCE_S,
            "stream_timeout": SILENCE_S,
        }

    def stream(self) -> Iterator[str]:
        for event in self._router.completion(model="first", messages=MESSAGES, stream=True):
            if event.choices and event.choices[0].delta.content:
                yield event.choices[0].delta.content

    def complete(self) -> str:
        return self._router.completion(model="first", messages=MESSAGES).choices[0].message.content

    def tools(self) -> str:
        reply = self._router.completion(model="first", messages=MESSAGES, tools=[TOOL])
        call = reply.choices[0].message.tool_calls[0].function
        return f"{call.name} {call.arguments}"

    def typed(self) -> Order:
        reply = self._router.completion(
            model="first",
            messages=[{"role": "user", "content": ORDER_PROMPT}],
            response_format=Order,
        )
        return Order.model_validate_json(reply.choices[0].message.content)


class make_with_tokens(make):  # noqa: N801
    def parameters(self, origin: str) -> dict[str, Any]:
        os.environ["GIGACHAT_AUTH_URL"] = f"{origin}/api/v2/oauth"
        return {
            **super().parameters(origin),
            "model": "gigachat/GigaChat-2",
            "api_base": f"{origin}/api/v1",
            "api_key": KEY,
        }
