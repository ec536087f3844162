"""LangChain's ``ChatOpenAI``."""

from __future__ import annotations

from collections.abc import Iterator

from langchain_openai import ChatOpenAI

from . import PROMPT


class make:  # noqa: N801 - what every client's module has
    def __init__(self, base: str, service: str) -> None:
        self._chat = ChatOpenAI(base_url=f"{base}/v1", api_key="1234567890", model="bench-1")

    def stream(self) -> Iterator[str]:
        for chunk in self._chat.stream(PROMPT):
            if chunk.content:
                yield chunk.content

    def complete(self) -> str:
        return self._chat.invoke(PROMPT).content
