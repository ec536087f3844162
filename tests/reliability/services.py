"""The services as the fault tests see them: how to reach one, and what a good reply is."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from typing import Any

from llmproviders import ChatGLM, ChatGptt, FlowGpt, GigaChat, OpenAICompatible, YandexGPT
from llmproviders.provider import Provider
from llmproviders.providers import REGISTRY
from tests.support.http_bytes import Body, chunked, http_response

TEXT = "Свет 天空 scatters"
PAGE = b'<html><title>Chat</title><div data-nonce="n0nce-of-page" data-post-id="12"></div></html>'
TOKEN = json.dumps({"access_token": "t0ken-of-service", "expires_at": 4102444800000}).encode()
SSE = "text/event-stream"
JSON = "application/json"


def dumps(value: Any) -> bytes:
    """JSON as the services write it: letters as they are."""
    return json.dumps(value, ensure_ascii=False).encode()


def event(value: Any) -> bytes:
    """One server-sent event."""
    return b"data: " + dumps(value) + b"\n\n"


def _chatglm(*, text: str, status: str) -> dict[str, Any]:
    content = [{"type": "text", "text": text}, {"type": "think", "think": "hm"}]
    part = {"logic_id": "p1", "role": "assistant", "status": status, "content": content}
    return {"conversation_id": "c", "status": status, "parts": [part], "last_error": {}}


def _completion(field: str, message: dict[str, Any], finish: str | None) -> dict[str, Any]:
    choice = {"index": 0, field: message, "finish_reason": finish}
    usage = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
    return {"choices": [choice], "model": "m-1", "usage": usage, "object": "chat.completion"}


def _chat_events() -> tuple[bytes, ...]:
    return (
        event(_completion("delta", {"role": "assistant", "content": TEXT[:5]}, None)),
        event(_completion("delta", {"content": TEXT[5:], "reasoning_content": "hm"}, None)),
        event(_completion("delta", {}, "stop")),
        b"data: [DONE]\n\n",
    )


@dataclass(frozen=True)
class Service:
    """One service.

    Attributes:
        name: the provider's class.
        make: a provider for an origin such as ``http://127.0.0.1:1234``.
        content_type: of a good streamed reply.
        pieces: the lines or events of a good streamed reply; the last one ends it.
        whole: content type and body of a good reply that is not streamed.
        before: the reply to the request that comes before the chat, if there is one.
        examples: replies with every field that is read, for tests that spoil each.
        end_mark: whether the protocol has a mark for the end of a stream.
    """

    name: str
    make: Callable[..., Provider]
    content_type: str
    pieces: tuple[bytes, ...]
    whole: tuple[str, bytes]
    before: tuple[str, bytes] | None
    examples: tuple[tuple[str, tuple[Any, ...]], ...]
    end_mark: bool = True

    def is_before(self, target: str) -> bool:
        """Whether a request's target is that of the request before the chat."""
        return self.before is not None and (target == "/" or target.endswith("/oauth"))

    def before_reply(self) -> list[bytes]:
        """The reply to the request before the chat; its connection is not used again."""
        assert self.before is not None
        content_type, body = self.before
        return http_response(200, {"Content-Type": content_type, "Connection": "close"}, body)

    def good(self, *, stream: bool) -> tuple[str, tuple[bytes, ...]]:
        """Content type and pieces of a good reply."""
        if stream or self.name in ("ChatGLM", "FlowGpt"):
            return self.content_type, self.pieces
        return self.whole[0], (self.whole[1],)

    def reply(self, *, stream: bool, framing: Callable[..., Body] = chunked) -> list[bytes]:
        """A good reply as bytes on the wire."""
        content_type, pieces = self.good(stream=stream)
        return http_response(200, {"Content-Type": content_type}, framing(pieces))


def _guest(cls: type[Provider]) -> Callable[..., Provider]:
    def make(origin: str, *, timeout: float = 2.0, **options: Any) -> Provider:
        return cls(base_url=origin, timeout=timeout, **options)

    return make


_numbers = count()


def _gigachat(origin: str, *, timeout: float = 2.0, **options: Any) -> Provider:
    # A key of its own for each, since the tokens and places of one key are shared.
    key = base64.b64encode(f"id-{next(_numbers)}:key-secret".encode()).decode()
    return GigaChat(
        base_url=f"{origin}/api/v1",
        auth_url=f"{origin}/api/v2/oauth",
        api_key=key,
        timeout=timeout,
        **options,
    )


def _keyed(cls: type[Provider]) -> Callable[..., Provider]:
    own = {"folder_id": "b1g-folder"} if cls is YandexGPT else {}

    def make(origin: str, *, timeout: float = 2.0, **options: Any) -> Provider:
        options = {**own, "max_concurrency": None, **options}
        return cls(base_url=f"{origin}/v1", api_key="sk-of-matrix-1", timeout=timeout, **options)

    return make


_MESSAGE = {
    "role": "assistant",
    "content": TEXT,
    "reasoning_content": "hm",
    "refusal": "no",
    "function_call": {"name": "f", "arguments": "{}"},
    "tool_calls": [
        {"index": 0, "id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    ],
}
_CHAT_WHOLE = (JSON, dumps(_completion("message", {"role": "assistant", "content": TEXT}, "stop")))
_CHAT_EXAMPLES = (
    (SSE, (_completion("delta", _MESSAGE, "stop"),)),
    (JSON, (_completion("message", _MESSAGE, "stop"),)),
    (SSE, ({"error": {"message": "m", "type": "t", "param": None, "code": 429}},)),
)

SERVICES = (
    Service(
        "ChatGLM",
        _guest(ChatGLM),
        SSE,
        (
            event(_chatglm(text=TEXT[:5], status="init")),
            event(_chatglm(text=TEXT, status="init")),
            event(_chatglm(text=TEXT, status="finish")),
        ),
        (JSON, dumps({"status": 1, "message": "none"})),
        None,
        (
            (SSE, (_chatglm(text=TEXT, status="init"), _chatglm(text=TEXT + "!", status="finish"))),
            (
                SSE,
                (
                    _chatglm(text=TEXT, status="init"),
                    {
                        "status": "intervene",
                        "parts": [],
                        "last_error": {"intervene_text": "no", "intervene_type": 1},
                    },
                ),
            ),
            (JSON, ({"status": 40012, "message": "too many", "code": 1, "msg": "m"},)),
        ),
    ),
    Service(
        "ChatGptt",
        _guest(ChatGptt),
        SSE,
        _chat_events(),
        (JSON, dumps({"status": "success", "data": TEXT})),
        ("text/html", PAGE),
        (
            (JSON, ({"status": "success", "data": TEXT, "msg": "m"},)),
            (JSON, ({"status": "error", "msg": "why", "data": None},)),
            *_CHAT_EXAMPLES[::2],
        ),
    ),
    Service(
        "FlowGpt",
        _guest(FlowGpt),
        "text/plain",
        tuple(dumps({"event": "text", "data": part}) + b"\n" for part in (TEXT[:5], TEXT[5:])),
        (JSON, b""),
        None,
        (
            ("text/plain", ({"event": "text", "data": TEXT},)),
            ("text/plain", ({"event": "error", "data": "why"},)),
        ),
        end_mark=False,
    ),
    Service(
        "GigaChat",
        _gigachat,
        SSE,
        _chat_events(),
        _CHAT_WHOLE,
        (JSON, TOKEN),
        _CHAT_EXAMPLES,
    ),
    *(
        Service(kind.__name__, _keyed(kind), SSE, _chat_events(), _CHAT_WHOLE, None, _CHAT_EXAMPLES)
        for kind in REGISTRY.values()
        if issubclass(kind, OpenAICompatible)
    ),
)


def spoiled(value: Any) -> Iterator[Any]:
    """Yield ``value`` with each of its fields, at any depth, gone or of each other type."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield {k: v for k, v in value.items() if k != name}
            for other in (*WRONG, *spoiled(inner)):
                yield {**value, name: other}
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield value[:index] + value[index + 1 :]
            for other in (*WRONG, *spoiled(inner)):
                yield [*value[:index], other, *value[index + 1 :]]


WRONG: tuple[Any, ...] = (
    None,
    True,
    -1,
    10**400,
    1.5,
    float("nan"),
    float("inf"),
    "",
    "word",
    "9" * 5000,
    "\ud800",
    [],
    [None],
    [[]],
    ["word"],
    [{}],
    {},
    {"a": None},
    {"text": 1, "type": "text"},
    [{"type": "text"}],
    [{"index": [], "function": 1}],
)
