"""The code that people write with requests alone."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator

import requests

from . import PROMPT

_BODY = {"messages": [{"role": "user", "content": PROMPT}]}
_HEADERS = {"Authorization": "Bearer 1234567890"}


def _texts(lines: Iterable[bytes]) -> Iterator[str]:
    for line in lines:
        if line.startswith(b"data: {"):
            text = json.loads(line[6:])["choices"][0]["delta"].get("content")
            if text:
                yield text


class lines:  # noqa: N801 - the name of a variant
    """``iter_lines``, as in every tutorial."""

    def __init__(self, base: str, service: str) -> None:
        self._url = f"{base}/v1/chat/completions"
        self._session = requests.Session()

    def stream(self) -> Iterator[str]:
        body = {**_BODY, "stream": True}
        with self._session.post(self._url, json=body, headers=_HEADERS, stream=True) as response:
            response.raise_for_status()
            yield from _texts(response.iter_lines())


class content(lines):  # noqa: N801
    """``iter_content`` and an own splitter."""

    def stream(self) -> Iterator[str]:
        with self._open() as response:
            response.raise_for_status()
            yield from _texts(_split(response.iter_content(None)))

    def _open(self) -> requests.Response:
        body = {**_BODY, "stream": True}
        return self._session.post(self._url, json=body, headers=_HEADERS, stream=True)


class prepared(content):  # noqa: N801
    """The same, the request prepared once and the environment's proxies not looked up again."""

    def __init__(self, base: str, service: str) -> None:
        super().__init__(base, service)
        request = requests.Request(
            "POST", self._url, json={**_BODY, "stream": True}, headers=_HEADERS
        )
        self._prepared = self._session.prepare_request(request)

    def _open(self) -> requests.Response:
        return self._session.send(self._prepared, stream=True, proxies={})


def _split(blocks: Iterable[bytes]) -> Iterator[bytes]:
    rest = b""
    for block in blocks:
        *whole, rest = (rest + block).split(b"\n")
        yield from whole


class post:  # noqa: N801
    """``requests.post`` for each reply."""

    def __init__(self, base: str, service: str) -> None:
        self._url = f"{base}/v1/chat/completions"

    def complete(self) -> str:
        response = requests.post(
            self._url, json={**_BODY, "stream": False}, headers=_HEADERS, timeout=60
        )
        response.raise_for_status()
        text: str = response.json()["choices"][0]["message"]["content"]
        return text
