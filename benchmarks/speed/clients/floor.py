"""The least that a client can do: a raw socket, a minimal decoder of framing, ``json.loads``."""

from __future__ import annotations

import json
import socket
import zlib
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

_BUFFER = 65536


class make:  # noqa: N801 - what every client's module has
    """Keeps one connection, and trusts all data."""

    def __init__(self, base: str, service: str) -> None:
        parts = urlsplit(base)
        self._address = (parts.hostname, parts.port)
        self._path = f"{parts.path}/v1/chat/completions"
        self._prefix = b"{" if service == "flowgpt" else b"data: {"
        self._text_in = _TEXT_IN[service]
        self._file: Any = None

    def _ask(self, stream: bool) -> dict[bytes, bytes]:
        if self._file is None:
            self._sock = socket.create_connection(self._address)
            self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._file = self._sock.makefile("rb", _BUFFER)
        body = json.dumps({"messages": [{"role": "user", "content": "?"}], "stream": stream})
        start = f"POST {self._path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
        self._sock.sendall((start + body).encode())
        headers = {}
        self._file.readline()
        while line := self._file.readline().strip():
            name, _, value = line.partition(b": ")
            headers[name] = value
        return headers

    def _blocks(self) -> Iterator[bytes]:
        headers = self._ask(True)
        file = self._file
        if b"Transfer-Encoding" not in headers:
            while block := file.read1(_BUFFER):
                yield block
            file.close()
            self._sock.close()
            self._file = None
            return
        unpack = zlib.decompressobj(31).decompress if b"Content-Encoding" in headers else bytes
        while size := int(file.readline(), 16):
            yield unpack(file.read(size))
            file.read(2)
        file.read(2)

    def stream(self) -> Iterator[str]:
        prefix, skip, loads, text_in = (
            self._prefix,
            len(self._prefix) - 1,
            json.loads,
            self._text_in,
        )
        rest = b""
        for block in self._blocks():
            *lines, rest = (rest + block).split(b"\n")
            for line in lines:
                if line.startswith(prefix):
                    text = text_in(loads(line[skip:]))
                    if text:
                        yield text

    def complete(self) -> str:
        headers = self._ask(False)
        data = self._file.read(int(headers[b"Content-Length"]))
        text: str = json.loads(data)["choices"][0]["message"]["content"]
        return text


def _chat(event: Any) -> str | None:
    text: str | None = event["choices"][0]["delta"].get("content")
    return text


def _chatglm() -> Callable[[Any], str]:
    seen = 0

    def text_in(event: Any) -> str:
        nonlocal seen
        text: str = event["parts"][0]["content"][0]["text"]
        new, seen = text[seen:], 0 if event["status"] == "finish" else len(text)
        return new

    return text_in


_TEXT_IN: dict[str, Callable[[Any], Any]] = {
    "chat": _chat,
    "flowgpt": lambda event: event["data"],
    "page": _chat,
    "chatglm": _chatglm(),
}


class drain(make):  # noqa: N801
    """Reads and discards, to measure the server's speed."""

    def stream(self) -> Iterator[str]:
        self._ask(True)
        end = b""
        while not end.endswith(b"\r\n0\r\n\r\n"):
            end = end[-7:] + self._file.read1(_BUFFER)
        return iter(())
