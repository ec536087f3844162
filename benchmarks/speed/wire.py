"""The replies of the services in every framing."""

from __future__ import annotations

import json
import random
import zlib
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from zlib import crc32

MODEL = "bench-1"
BLOCK = 16 * 1024
_FEW_BYTES = (1, 400)


_WORDS = (
    "the of and to in is that it was for on are as with his they at be this from have or by one "
    "had not but what all were when we there can an your which their said if do will each about "
    "и в не на я быть он с что а по это она этот к но"
).split()


def piece(index: int) -> str:
    """The text of one piece: five words that compress as well as prose, and no better.

    Without spaces at its ends, which some clients strip.
    """
    bits = crc32(b"%d" % index)
    words = (_WORDS[(bits >> shift) % len(_WORDS)] for shift in (0, 6, 12, 18, 24))
    return f"{' '.join(words)},"


def whole(pieces: int) -> str:
    """The text of a reply."""
    return "".join(map(piece, range(pieces)))


# -- the services: texts -> events


def _dump(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()


def chat_events(texts: Iterable[str], **beside: str) -> Iterator[bytes]:
    """OpenAI's format, which GigaChat and most others use."""
    shared = {"created": 1760000000, "model": MODEL, "object": "chat.completion", **beside}
    for text in texts:
        choice = {"delta": {"content": text, "role": "assistant"}, "index": 0}
        yield b"data: %b\n\n" % _dump({"choices": [choice], **shared})
    end = {"delta": {"content": ""}, "index": 0, "finish_reason": "stop"}
    usage = {"prompt_tokens": 5, "completion_tokens": 5, "total_tokens": 10}
    yield b"data: %b\n\n" % _dump({"choices": [end], "usage": usage, **shared})
    yield b"data: [DONE]\n\n"


def chatglm_events(texts: Iterable[str]) -> Iterator[bytes]:
    """Each event repeats the whole text so far."""
    text, status = "", "init"
    for text in _grown(texts):
        yield _chatglm_event(text, status)
    yield _chatglm_event(text, "finish")


def _grown(texts: Iterable[str]) -> Iterator[str]:
    so_far = ""
    for text in texts:
        so_far += text
        yield so_far


def _chatglm_event(text: str, status: str) -> bytes:
    content = [{"type": "text", "text": text, "status": status}]
    part = {"logic_id": "c0ffee", "role": "assistant", "status": status, "content": content}
    event = {"conversation_id": "5eed", "status": status, "parts": [part], "last_error": {}}
    return b"event:message\ndata: %b\n\n" % _dump(event)


def strict_events(texts: Iterable[str]) -> Iterator[bytes]:
    """The same with an ``id``, which GigaChat leaves out and some clients insist on."""
    return chat_events(texts, id="1", object="chat.completion.chunk")


def call_events(number: int) -> Iterator[bytes]:
    """A call of a function in OpenAI's shape, as the ``number``-th of a conversation."""
    shared = {"created": 1760000000, "model": MODEL, "object": "chat.completion.chunk"}
    function = {"name": "look_up", "arguments": _dump({"word": piece(number)}).decode()}
    call = {"index": 0, "id": f"call_{number}", "type": "function", "function": function}
    for delta, finish in (({"role": "assistant", "tool_calls": [call]}, None), ({}, "tool_calls")):
        choice = {"delta": delta, "index": 0, "finish_reason": finish}
        yield b"data: %b\n\n" % _dump({"choices": [choice], **shared})
    yield b"data: [DONE]\n\n"


def flowgpt_events(texts: Iterable[str]) -> Iterator[bytes]:
    """One JSON object a line."""
    for text in texts:
        yield _dump({"event": "text", "data": text}) + b"\n"


EVENTS: dict[str, Callable[[Iterable[str]], Iterator[bytes]]] = {
    "chat": chat_events,
    "strict": strict_events,
    "page": chat_events,
    "chatglm": chatglm_events,
    "flowgpt": flowgpt_events,
}


def completion(pieces: int) -> bytes:
    """A whole reply in OpenAI's shape, as one JSON object."""
    message = {"role": "assistant", "content": whole(pieces)}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    usage = {"prompt_tokens": 5, "completion_tokens": 5, "total_tokens": 10}
    return _dump(
        {
            "id": "1",
            "object": "chat.completion",
            "created": 1760000000,
            "model": MODEL,
            "choices": [choice],
            "usage": usage,
        }
    )


PAGE = b'<html><body><div data-nonce="abc123" data-post-id="7"></div></body></html>'


# -- the framings: events -> bytes of the body


def chunk(data: bytes) -> bytes:
    """One chunk of the chunked transfer coding."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def _single(events: Iterable[bytes]) -> Iterator[bytes]:
    for event in events:
        yield chunk(event)
    yield chunk(b"")


def _gzip(events: Iterable[bytes]) -> Iterator[bytes]:
    packer = zlib.compressobj(wbits=31)
    for event in events:
        yield chunk(packer.compress(event) + packer.flush(zlib.Z_SYNC_FLUSH))
    yield chunk(packer.flush()) + chunk(b"")


def _close(events: Iterable[bytes]) -> Iterator[bytes]:
    yield from events


def _block(events: Iterable[bytes]) -> Iterator[bytes]:
    body = b"".join(events)
    for start in range(0, len(body), BLOCK):
        yield chunk(body[start : start + BLOCK])
    yield chunk(b"")


def _cut(events: Iterable[bytes]) -> Iterator[bytes]:
    body, random_size, start = b"".join(events), random.Random(1), 0
    while start < len(body):
        size = random_size.randint(*_FEW_BYTES)
        yield chunk(body[start : start + size])
        start += size
    yield chunk(b"")


def _split(events: Iterable[bytes]) -> Iterator[bytes]:
    random_place = random.Random(1)
    for event in events:
        place = random_place.randrange(1, len(event))
        yield chunk(event[:place])
        yield chunk(event[place:])
    yield chunk(b"")


_CHUNKED = b"Transfer-Encoding: chunked\r\n"
FRAMINGS: dict[str, tuple[bytes, Callable[[Iterable[bytes]], Iterator[bytes]]]] = {
    "single": (_CHUNKED, _single),
    "block": (_CHUNKED, _block),
    "cut": (_CHUNKED, _cut),
    "split": (_CHUNKED, _split),
    "close": (b"Connection: close\r\n", _close),
    "gzip": (_CHUNKED + b"Content-Encoding: gzip\r\n", _gzip),
}
"""Name -> the headers that announce it, and how it wraps events."""


def head(headers: bytes, kind: bytes) -> bytes:
    """The start of a reply, up to the blank line."""
    return b"HTTP/1.1 200 OK\r\nContent-Type: %b\r\n%b\r\n" % (kind, headers)


def stream_head(service: str, framing: str) -> bytes:
    """The start of a stream."""
    kind = b"application/json" if service == "flowgpt" else b"text/event-stream; charset=utf-8"
    return head(FRAMINGS[framing][0], kind)


@lru_cache(maxsize=4)
def stream_body(service: str, framing: str, pieces: int) -> bytes:
    """A whole stream after its head."""
    return b"".join(FRAMINGS[framing][1](EVENTS[service](map(piece, range(pieces)))))


def with_length(body: bytes, kind: bytes) -> bytes:
    """A whole reply with a ``Content-Length``."""
    return head(b"Content-Length: %d\r\n" % len(body), kind) + body
