"""FlowGPT: an anonymous web API, signed per request, that replies in JSON lines."""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Iterator
from typing import Any

from .._account.settings import USER_AGENT
from .._http.decoding import ErrorEvent, EventTemplate, decode_object, expect, is_sentence
from .._http.error_map import error_of
from .._http.types import HTTPRequest, HTTPResponse
from .._request import ChatRequest
from ..errors import LLMError, ProtocolError, StreamInterrupted
from ..messages import without_tools
from ..provider import Fetch, Provider
from ..results import FinishReason
from ._chat_completions import error_in_event, failure_in

_AUTHORIZATION = "Bearer null"

_DEVICE_ALPHABET = "abcdefghijklmnopqrstuvwxyz0123456789"

_GREETING = {"role": "assistant", "content": "Hello, how can I help you today?"}

_SYSTEM = "You are helpful assistant. Follow the user's instructions carefully."


class FlowGpt(Provider):
    """FlowGPT's guest chat; no key.

    >>> FlowGpt().get_model("gemini")
    'google-gemini'
    """

    url = "https://prod-backend-k8s.flowgpt.com"
    api_endpoint = f"{url}/v3/chat-anonymous"
    working = False
    default_model = "gpt-3.5-turbo"
    models = (
        "gpt-3.5-turbo",
        "gpt-3.5-long",
        "gpt-4-turbo",
        "google-gemini",
        "claude-instant",
        "claude-v1",
        "claude-v2",
        "llama2-13b",
        "mythalion-13b",
        "pygmalion-13b",
        "chronos-hermes-13b",
        "Mixtral-8x7B",
        "Dolphin-2.6-8x7B",
    )
    model_aliases = {"gemini": "google-gemini", "gemini-pro": "google-gemini"}
    supported_params = frozenset({"temperature"})

    def prepare(self, request: ChatRequest, fetch: Fetch) -> HTTPRequest:
        """Sign the request; system messages have a separate field."""
        messages = without_tools(request.messages)
        system = [message["content"] for message in messages if message["role"] == "system"]
        turns = [message for message in messages if message["role"] != "system"]
        body: dict[str, Any] = {
            "model": request.model,
            "nsfw": False,
            "question": turns[-1]["content"],
            "history": [_GREETING, *turns[:-1]],
            "system": "\n".join(system) or _SYSTEM,
            "temperature": 0.7,
            "promptId": f"model-{request.model}",
            "documentIds": [],
            "chatFileDocumentIds": [],
            "generateImage": False,
            "generateAudio": False,
            **self.sampling(request),
        }
        return HTTPRequest(
            "POST",
            f"{self.base_url}/v3/chat-anonymous",
            headers=_headers(),
            json=request.with_extra_body(body),
            authorization=_AUTHORIZATION,
        )

    def parse(self, reply: HTTPResponse) -> Iterator[str]:
        """Yield the text events; the reply is whole when its body ends cleanly.

        There is no end mark. If the body is framed only by the end of the connection, a reply that
        was cut between two lines looks complete.
        """
        frame = EventTemplate()
        begun = False
        for line in reply.lines():
            text = frame.text_in(line)
            if text is None:
                try:
                    text = _text_of(line)
                except LLMError as error:
                    if begun and not isinstance(error, ProtocolError):
                        raise StreamInterrupted.of(error) from error
                    raise
                yield text
                if text.strip():
                    begun = True
                    frame.learn(line, text, lambda one, other: _text_of(one) == other)
            else:
                yield text
        yield FinishReason("stop", raw="")


def _text_of(line: bytes) -> str:
    """The text of an event; "" for a blank line or an event of another kind.

    Raises:
        LLMError: it reports an error, or cannot be understood.
    """
    if not line.strip():
        return ""
    if is_sentence(line):
        raise error_in_event(ErrorEvent(line.strip()))
    event = decode_object(line)
    kind = event.get("event")
    if kind == "error" or (kind is None and failure_in(event, whole=True) is not None):
        raise error_of(event)
    if kind != "text":
        return ""
    return expect(event.get("data"), str, "data")


def _headers() -> dict[str, str]:

    timestamp = str(int(time.time()))
    nonce = secrets.token_hex(16)
    signed = f"{timestamp}-{nonce}-{_AUTHORIZATION}"
    device = "".join(secrets.choice(_DEVICE_ALPHABET) for _ in range(19))
    return {
        "Accept": "*/*",
        "Accept-Encoding": "gzip, deflate",
        "Accept-Language": "en-US;q=0.7,en;q=0.3",
        "Origin": "https://flowgpt.com",
        "Referer": "https://flowgpt.com/",
        "Sec-Fetch-Dest": "empty",
        "Sec-Fetch-Mode": "cors",
        "Sec-Fetch-Site": "same-site",
        "User-Agent": USER_AGENT,
        "x-flow-device-id": f"f-{device}",
        "x-nonce": nonce,
        "x-signature": hashlib.md5(signed.encode(), usedforsecurity=False).hexdigest(),
        "x-timestamp": timestamp,
    }
