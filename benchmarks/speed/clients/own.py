"""This library."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Generator
from pathlib import Path
from typing import Any

import llmproviders
from llmproviders import (
    ChatGLM,
    ChatGptt,
    FailoverClient,
    FlowGpt,
    GigaChat,
    OpenAICompatible,
)

from . import PROMPT


class _Own:
    def __init__(self, client: Any) -> None:
        self._client = client

    def stream(self) -> Generator[str, None, None]:
        generator: Generator[str, None, None] = self._client.stream(PROMPT)
        return generator

    def complete(self) -> str:
        return str(self._client.complete(PROMPT))


def _openai(base: str, **arguments: Any) -> OpenAICompatible:
    return OpenAICompatible(base_url=f"{base}/v1", api_key="1234567890", **arguments)


def openai(base: str, _service: str) -> _Own:
    return _Own(_openai(base))


def failover(base: str, _service: str) -> _Own:
    return _Own(FailoverClient([_openai(base)]))


def limited(base: str, _service: str) -> _Own:
    """With limits that are never reached, so that every call is counted."""
    limits = {"requests": 10**9, "tokens": 10**12}
    return _Own(_openai(base, per_minute=10**9, per_day=limits))


def cached(base: str, _service: str) -> _Own:
    """With a file of replies, in which the first call's is found from the second call on."""
    path = Path(tempfile.mkdtemp()) / "replies.sqlite3"
    return _Own(llmproviders.Cached(_openai(base), path))


def look_up(word: str) -> str:
    """What the model calls."""
    return word


class run(_Own):  # noqa: N801 - the name of a variant
    """Runs the functions that the model calls."""

    def __init__(self, base: str, _service: str) -> None:
        super().__init__(_openai(base))

    def complete(self) -> str:
        return str(self._client.run(PROMPT, tools=[look_up], max_turns=1_000))


class by_hand(run):  # noqa: N801
    """The same, with the loop that one writes without ``run``."""

    def complete(self) -> str:
        messages: list[Any] = [{"role": "user", "content": PROMPT}]
        while True:
            reply = self._client.complete(messages, tools=[look_up])
            if not reply.tool_calls:
                return str(reply)
            messages.append(reply.message)
            for call in reply.tool_calls:
                result = look_up(**json.loads(call["function"]["arguments"]))
                messages.append({"role": "tool", "tool_call_id": call["id"], "content": result})


def gigachat(base: str, _service: str) -> _Own:
    return _Own(GigaChat(base_url=f"{base}/v1", access_token="1234567890"))


def chatglm(base: str, _service: str) -> _Own:
    return _Own(ChatGLM(base_url=base))


def chatgptt(base: str, _service: str) -> _Own:
    return _Own(ChatGptt(base_url=base))


def flowgpt(base: str, _service: str) -> _Own:
    return _Own(FlowGpt(base_url=base))
