"""ChatGLM's guest web API: cumulative text, in several parts, as server-sent events."""

from __future__ import annotations

import itertools
import re
import uuid
from collections.abc import Iterator
from typing import Any, ClassVar

from llmproviders.sandbox._record import Headers, RecordedRequest
from llmproviders.sandbox._reply import (
    ReplyPiece,
    SandboxReply,
    Stream,
    Whole,
    event,
    json_reply,
    phrase,
)
from llmproviders.sandbox._script import Script, plain_text, write_script
from llmproviders.sandbox._settings import Message
from llmproviders.sandbox.services._base import Service

_HEADERS = {
    "authorization": "undefined",
    "app-name": "chatglm",
    "x-app-platform": "pc",
    "x-app-version": "0.0.1",
}

_META_DATA: dict[str, type] = {
    "if_plus_model": bool,
    "is_test": bool,
    "input_question_type": str,
    "channel": str,
    "draft_id": str,
    "quote_log_id": str,
    "platform": str,
}

_LONG_REPLY = 8


class ChatGLMService(Service):
    """Checks headers and fields, and answers errors with HTTP 200 as the service does."""

    name = "chatglm"
    class_name = "ChatGLM"
    title = "ChatGLM"
    routes: ClassVar = {("POST", "/chatglm/mainchat-api/guest/stream"): "chat"}

    def refuse(self, request: RecordedRequest) -> Whole | None:
        """Return a JSON object with a status that is not zero."""
        problem = _header_problem(request.headers)
        if problem:
            return _error(10018, problem)
        problem = _body_problem(request.json)
        return _error(10001, problem) if problem else None

    def answer(self, request: RecordedRequest, *, empty: bool) -> SandboxReply:
        """Return a thought or some code first, then the text; each event repeats all of it so far.

        The text of a long reply ends in the event that says ``finish``; a short one, before it.
        """
        messages: list[Message] = [
            {"role": message["role"], "content": plain_text(message["content"])}
            for message in request.json["messages"]
        ]
        script = write_script(self.next_reply(), self.title, messages, empty=empty)
        return _ReplyEvents(script).stream()

    def error(self, status: int, _kind: str, /) -> Whole:
        """Return a JSON object with `status` and `message`."""
        return json_reply({"message": phrase(status), "status": status}, status=status)


class _ReplyEvents:
    """The events of one reply."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self._conversation = uuid.uuid4().hex[:24]
        self._ids = [uuid.uuid4().hex for _ in range(3)]
        first, newline, second = script.text.partition("\n")
        # Clients join the parts by a line break, so only a line break may come between them.
        self._texts = [first, second] if first and newline and second else [script.text]

    def stream(self) -> Stream:
        script = self._script
        if script.finish == "filter":
            return Stream(self._frames(script.pieces), (self._intervention(),))
        ends_late = len(script.pieces) >= _LONG_REPLY
        frames = self._frames(script.pieces[:-1] if ends_late else script.pieces)
        told = (self._first_part(), *self._parts(script.text))
        parts = [{**part, "status": "finish"} for part in told]
        return Stream(frames, (self._event("finish", parts, is_text=ends_late),))

    def _frames(self, pieces: list[str]) -> Iterator[ReplyPiece]:
        aside = self._first_part()
        yield self._event("init", [])
        yield self._event("init", [aside])
        for text in itertools.accumulate(pieces):
            yield self._event("init", [aside, *self._parts(text)], is_text=True)

    def _first_part(self) -> dict[str, Any]:
        thought = "".join(self._script.thought)
        item = (
            {"type": "think", "think": thought}
            if thought
            else {"type": "code", "code": "look_up('the question')"}
        )
        return self._part(0, [item])

    def _parts(self, text: str) -> list[dict[str, Any]]:
        if not text:
            return []
        parts = []
        for number, whole in enumerate(self._texts, start=1):
            parts.append(self._part(number, [{"type": "text", "text": text[: len(whole)]}]))
            text = text[len(whole) + 1 :]
            if not text:
                break
        return parts

    def _part(self, number: int, content: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "logic_id": self._ids[number],
            "role": "assistant",
            "status": "init",
            "content": content,
        }

    def _event(
        self, status: str, parts: list[dict[str, Any]], *, is_text: bool = False
    ) -> ReplyPiece:
        told = {"conversation_id": self._conversation, "status": status, "parts": parts}
        return event({**told, "last_error": {}}, is_text=is_text)

    def _intervention(self) -> ReplyPiece:
        error = {
            "intervene_type": "text",
            "intervene_text": "The sandbox's filter was asked to stop this reply.",
            "risk_level": "high",
        }
        return event(
            {
                "conversation_id": self._conversation,
                "status": "intervene",
                "parts": [self._part(1, [])],
                "last_error": error,
            }
        )


def _header_problem(headers: Headers) -> str | None:
    for name, value in _HEADERS.items():
        if headers.get(name) != value:
            return f"header {name} must be {value}"
    if not re.fullmatch(r"[0-9a-f]{32}", headers.get("x-device-id", "")):
        return "header x-device-id must be 32 hex digits"
    if not headers.get("content-type", "").startswith("application/json"):
        return "header content-type must be application/json"
    return None


def _body_problem(body: Any) -> str | None:
    if not isinstance(body, dict):
        return "the body must be a JSON object"
    if not re.fullmatch(r"[0-9a-f]{24}", str(body.get("assistant_id"))):
        return "assistant_id is invalid"
    if not isinstance(body.get("conversation_id"), str):
        return "conversation_id is missing"
    meta_data = body.get("meta_data")
    if not isinstance(meta_data, dict):
        return "meta_data is missing"
    for name, kind in _META_DATA.items():
        if not isinstance(meta_data.get(name), kind):
            return f"meta_data.{name} is missing"
    messages = body.get("messages")
    if not isinstance(messages, list) or len(messages) != 1:
        return "messages must hold one message: guests have no history"
    message = messages[0]
    if not isinstance(message, dict) or message.get("role") != "user":
        return "the message must be a user's"
    content = message.get("content")
    if not isinstance(content, list) or not plain_text(content):
        return "the message's content must be a list of text items"
    return None


def _error(status: int, message: str) -> Whole:
    return json_reply({"message": message, "result": {}, "status": status})
