"""LangChain's ``with_fallbacks`` over two ``ChatOpenAI``.

Its documents advise to switch retries off where there are fallbacks; that is ``make_impatient``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import openai
from langchain_openai import ChatOpenAI

from . import CONNECT_S, PROMPT, RETRIES, SILENCE_S


class make:  # noqa: N801 - what every client's module has
    retries = RETRIES

    def __init__(self, first: str, second: str) -> None:
        self._chain = self._chat(first).with_fallbacks([self._chat(second)])

    def _chat(self, origin: str) -> Any:
        return ChatOpenAI(
            model="m",
            base_url=f"{origin}/v1",
            api_key="key",
            max_retries=self.retries,
            timeout=openai.Timeout(SILENCE_S, connect=CONNECT_S),
        )

    def stream(self) -> Iterator[str]:
        for chunk in self._chain.stream(PROMPT):
            if chunk.content:
                yield chunk.content

    def complete(self) -> str:
        return self._chain.invoke(PROMPT).content


class make_impatient(make):  # noqa: N801
    retries = 0
