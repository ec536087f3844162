"""LangChain's ``with_fallbacks`` over two ``ChatOpenAI``.

Its documentation advises turning retries off if there are fallbacks; that is ``make_impatient``.
``with_retry`` asks once more after an invalid typed reply.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import openai
from langchain_core.exceptions import OutputParserException
from langchain_openai import ChatOpenAI
from pydantic import ValidationError

from . import CONNECT_S, ORDER_PROMPT, PROMPT, RETRIES, SILENCE_S, TOOL
from .order import Order

NO_GOOD = (OutputParserException, ValidationError)


class make:  # noqa: N801 - what every client's module has
    retries = RETRIES

    def __init__(self, first: str, second: str) -> None:
        chats = [self._chat(origin) for origin in (first, second)]
        self._chain = chats[0].with_fallbacks(chats[1:])
        calling = [chat.bind_tools([TOOL]) for chat in chats]
        self._calling = calling[0].with_fallbacks(calling[1:])
        structured = [
            chat.with_structured_output(Order).with_retry(
                retry_if_exception_type=NO_GOOD, stop_after_attempt=2, wait_exponential_jitter=False
            )
            for chat in chats
        ]
        self._typed = structured[0].with_fallbacks(structured[1:])

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

    def tools(self) -> str:
        call = self._calling.invoke(PROMPT).tool_calls[0]
        return f"{call['name']} {json.dumps(call['args'])}"

    def typed(self) -> Any:
        return self._typed.invoke(ORDER_PROMPT)


class make_impatient(make):  # noqa: N801
    retries = 0
