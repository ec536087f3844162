"""FlowGPT's anonymous web API: signed requests, replies in lines of JSON."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from typing import ClassVar

from llmproviders.sandbox._record import Headers, RecordedRequest
from llmproviders.sandbox._reply import (
    ReplyPiece,
    SandboxReply,
    Stream,
    Whole,
    dump,
    json_reply,
    phrase,
)
from llmproviders.sandbox._script import write_script
from llmproviders.sandbox._settings import Message
from llmproviders.sandbox.services._base import Service

MODELS = (
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

_CLOCK_TOLERANCE_S = 300

_FIELD_TYPES: dict[str, type] = {
    "model": str,
    "nsfw": bool,
    "question": str,
    "history": list,
    "system": str,
    "promptId": str,
    "documentIds": list,
    "chatFileDocumentIds": list,
    "generateImage": bool,
    "generateAudio": bool,
}


class FlowGptService(Service):
    """Checks the signature and the fields, and answers one event a line."""

    name = "flowgpt"
    class_name = "FlowGpt"
    title = "FlowGPT"
    routes: ClassVar = {("POST", "/v3/chat-anonymous"): "chat"}

    def refuse(self, request: RecordedRequest) -> Whole | None:
        """Return 401 for a bad signature, 400 for a bad body."""
        problem = self._signature_problem(request.headers)
        if problem:
            return _error(401, problem)
        problem = _body_problem(request)
        return _error(400, problem) if problem else None

    def _signature_problem(self, headers: Headers) -> str | None:
        authorization = headers.get("authorization", "")
        timestamp = headers.get("x-timestamp", "")
        nonce = headers.get("x-nonce", "")
        if authorization != "Bearer null":
            return "Authorization must be 'Bearer null'"
        if not re.fullmatch(r"[0-9]{1,12}", timestamp):
            return "x-timestamp must be whole seconds"
        if abs(int(timestamp) - self.settings.clock()) > _CLOCK_TOLERANCE_S:
            return "x-timestamp is out of range"
        if not re.fullmatch(r"[0-9a-fA-F]{32}", nonce):
            return "x-nonce must be 32 hex digits"
        if not re.fullmatch(r"f-[a-z0-9]{19}", headers.get("x-flow-device-id", "")):
            return "x-flow-device-id is malformed"
        signed = f"{timestamp}-{nonce}-{authorization}".encode()
        expected = hashlib.md5(signed, usedforsecurity=False).hexdigest()
        if headers.get("x-signature") != expected:
            return "x-signature does not match"
        return None

    def answer(self, request: RecordedRequest, *, empty: bool) -> SandboxReply:
        """Return text events among others, with no end mark but the end of the body."""
        body = request.json
        messages: list[Message] = [
            {"role": "system", "content": body["system"]},
            *body["history"],
            {"role": "user", "content": body["question"]},
        ]
        script = write_script(self.next_reply(), self.title, messages, empty=empty)
        return Stream(
            _frames(body["model"], script.pieces), content_type="text/plain; charset=utf-8"
        )

    def error(self, status: int, _kind: str, /) -> Whole:
        """Return a JSON object with `statusCode` and `message`."""
        return _error(status, phrase(status))


def _body_problem(request: RecordedRequest) -> str | None:
    body = request.json
    if not isinstance(body, dict):
        return "the body must be a JSON object"
    for name, kind in _FIELD_TYPES.items():
        if not isinstance(body.get(name), kind):
            return f"{name} is missing or of a wrong type"
    if not isinstance(body.get("temperature"), (int, float)):
        return "temperature is missing or of a wrong type"
    if body["model"] not in MODELS:
        return f"unknown model {body['model']}"
    if body["promptId"] != f"model-{body['model']}":
        return "promptId must be 'model-' and the model"
    if not body["question"]:
        return "question is empty"
    for message in body["history"]:
        if not isinstance(message, dict) or not isinstance(message.get("content"), str):
            return "history must hold messages"
        if message.get("role") not in ("user", "assistant"):
            return "history takes the roles user and assistant"
    return None


def _frames(model: str, pieces: list[str]) -> Iterator[ReplyPiece]:
    yield _line({"event": "start", "data": {"model": model}})
    for number, piece in enumerate(pieces):
        if number % 8 == 4:
            yield _line({"heartbeat": number})
        yield _line({"event": "text", "data": piece}, is_text=True)


def _error(status: int, message: str) -> Whole:
    return json_reply({"statusCode": status, "message": message}, status=status)


def _line(value: dict[str, object], *, is_text: bool = False) -> ReplyPiece:
    return ReplyPiece(dump(value) + b"\n", is_text)
