"""This library."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from llmproviders import ChatGLM, ChatGptt, FailoverClient, FlowGpt, GigaChat, OpenAICompatible

from . import PROMPT


class _Own:
    def __init__(self, client: Any) -> None:
        self._client = client

    def stream(self) -> Generator[str, None, None]:
        generator: Generator[str, None, None] = self._client.stream(PROMPT)
        return generator

    def complete(self) -> str:
        return str(self._client.complete(PROMPT))


def _openai(base: str) -> OpenAICompatible:
    return OpenAICompatible(base_url=f"{base}/v1", api_key="1234567890")


def openai(base: str, _service: str) -> _Own:
    return _Own(_openai(base))


def failover(base: str, _service: str) -> _Own:
    return _Own(FailoverClient([_openai(base)]))


def gigachat(base: str, _service: str) -> _Own:
    return _Own(GigaChat(base_url=f"{base}/v1", access_token="1234567890"))


def chatglm(base: str, _service: str) -> _Own:
    return _Own(ChatGLM(base_url=base))


def chatgptt(base: str, _service: str) -> _Own:
    return _Own(ChatGptt(base_url=base))


def flowgpt(base: str, _service: str) -> _Own:
    return _Own(FlowGpt(base_url=base))
