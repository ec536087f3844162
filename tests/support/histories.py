"""Conversations with calls of tools, as each provider writes them."""

from __future__ import annotations

import json
from typing import Any

from llmproviders.sandbox import Sandbox
from tests.support.served import SERVED

QUESTION = {"role": "user", "content": "Идёт дождь?"}
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER = {"name": "weather", "description": "Погода", "parameters": PARAMETERS}
TOOL = {"type": "function", "function": WEATHER}

WRITERS = [name for name, kind in SERVED.items() if kind.supports_tools]


def written_by(sandbox: Sandbox, writer: str, calls: int, thoughts: str | None) -> list[Any]:
    """A conversation with calls of a tool, as a provider wrote it, and their results."""
    question = {"role": "user", "content": "Call the tool"}
    arguments = [json.dumps({"city": city}) for city in ("Омск", "Псков")][:calls]
    scripted = [{"name": "weather", "arguments": json.loads(one)} for one in arguments]
    with SERVED[writer](**sandbox.provider_arguments(writer)) as provider:
        sandbox.reply(writer, tool_calls=scripted, reasoning=thoughts)
        reply = provider.complete([question], tools=[TOOL])
    results = [
        {"role": "tool", "tool_call_id": call["id"], "content": f'{n} mm, "rain"'}
        for n, call in enumerate(reply.tool_calls)
    ]
    return [question, reply.message, *results, QUESTION]
