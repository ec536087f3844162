"""This library, with a deadline and a limit for the first text."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from llmproviders import FailoverClient, GigaChat, OpenAICompatible, Restart

from . import CONNECT_S, KEY, ORDER_PROMPT, PROMPT, RETRIES, SILENCE_S, TOOL
from .order import Order

TIMEOUT = (CONNECT_S, SILENCE_S)


class make:  # noqa: N801 - what every client's module has
    def __init__(self, first: str, second: str, **arguments: Any) -> None:
        self._client = FailoverClient(
            [self.provider(first, "first"), self.provider(second, "second")],
            **{
                "attempts": RETRIES + 1,
                "first_chunk_timeout": SILENCE_S,
                "deadline": 18,
                **arguments,
            },
        )

    def provider(self, origin: str, name: str) -> Any:
        return OpenAICompatible(base_url=f"{origin}/v1", model="m", timeout=TIMEOUT, name=name)

    def stream(self) -> Iterator[str]:
        for piece in self._client.stream(PROMPT):
            yield "\0" if isinstance(piece, Restart) else piece

    def complete(self) -> str:
        return str(self._client.complete(PROMPT))

    def tools(self) -> str:
        call = self._client.complete(PROMPT, tools=[TOOL]).tool_calls[0]["function"]
        return f"{call['name']} {call['arguments']}"

    def typed(self) -> Order:
        return self._client.complete(ORDER_PROMPT, schema=Order).data


class make_restarting(make):  # noqa: N801
    def __init__(self, first: str, second: str) -> None:
        super().__init__(first, second, on_interrupt="restart")


class make_impatient(make):  # noqa: N801
    def __init__(self, first: str, second: str) -> None:
        super().__init__(first, second, attempts=1)


class make_with_tokens(make):  # noqa: N801
    def provider(self, origin: str, name: str) -> Any:
        return GigaChat(
            base_url=f"{origin}/api/v1",
            auth_url=f"{origin}/api/v2/oauth",
            api_key=KEY,
            timeout=TIMEOUT,
            name=name,
        )
