"""gigachat, the official client, which has retries (off unless asked for) and no second service."""

from __future__ import annotations

from collections.abc import Iterator

from gigachat import GigaChat

from . import KEY, PROMPT, RETRIES, SILENCE_S


class make:  # noqa: N801 - what every client's module has
    def __init__(self, first: str, second: str) -> None:
        self._client = GigaChat(
            credentials=KEY,
            base_url=f"{first}/api/v1",
            auth_url=f"{first}/api/v2/oauth",
            model="m",
            timeout=SILENCE_S,
            max_retries=RETRIES,
        )

    def stream(self) -> Iterator[str]:
        for event in self._client.stream(PROMPT):
            if event.choices and event.choices[0].delta.content:
                yield event.choices[0].delta.content

    def complete(self) -> str:
        return self._client.chat(PROMPT).choices[0].message.content


make_with_tokens = make
