"""ChatGLM: the guest chat of chatglm.cn, whose events repeat the whole text so far."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from .._account.settings import USER_AGENT
from .._http.decoding import (
    MAX_VALUES,
    Document,
    ErrorEvent,
    EventTemplate,
    decode_object,
    encodable,
    expect,
    is_sentence,
    settled,
)
from .._http.error_map import error_of
from .._http.types import HTTPRequest, HTTPResponse
from .._request import ChatRequest
from ..errors import LLMError, ProtocolError, StreamInterrupted
from ..messages import fold
from ..provider import Fetch, Provider
from ..results import FinishReason, Image, Reasoning
from ._chat_completions import Kept, decode_answer, error_in_event, failure_in

_STATUSES = ("init", "finish", "intervene")


def _event(data: bytes) -> tuple[dict[str, Any], LLMError | None]:
    """The object of an event, or of a body that is not a stream, and its error, if any."""
    if type(data) is ErrorEvent:
        return {}, error_in_event(data)
    if is_sentence(data):
        return {}, error_in_event(ErrorEvent(data))
    if type(data) is Document:
        event = expect(decode_answer(data, max_values=MAX_VALUES), dict, "an object")
    else:
        event = decode_object(data)
    status, error = event.get("status"), event.get("last_error")
    if status in _STATUSES:
        return event, None
    if not isinstance(status, str):
        return event, _refusal(event)
    # A word or digits; only an object without parts can be an error.
    failed = error or ("parts" not in event and failure_in(event, whole=True) is not None)
    return event, error_of(error or event) if failed else None


def _learn(frame: EventTemplate, data: bytes, parts: Mapping[str, _Text], said: _PartTexts) -> None:
    """Teach ``frame`` the position in ``data`` of the text of the growing part."""
    speaking = said.speaking
    if speaking is None or speaking not in parts:
        return
    text, thought = parts[speaking]
    if text == said.seen(speaking):
        frame.learn(
            data,
            text,
            lambda one, grown: (
                _texts(decode_object(one)) == {**parts, speaking: _Text(grown, thought)}
            ),
        )


class _Text(NamedTuple):
    text: str
    thought: str


class _PartTexts:
    """The text of each part so far, and how much of it is new; with the images of all parts."""

    def __init__(self) -> None:
        self.speaking: str | None = None
        self._seen: dict[str, list[str]] = {}
        self._thoughts: dict[str, str] = {}
        self._images: dict[str, Image] = {}
        self._keep = Kept().add
        self._rewritten = False

    def seen(self, key: str) -> str:
        """The text of a part so far, without the end that may still change."""
        pieces = self._seen[key]
        if len(pieces) > 1:
            pieces[:] = ["".join(pieces)]
        return pieces[0]

    def spoke(self) -> bool:
        """Whether any part has more than space."""
        return any("".join(pieces).strip() for pieces in self._seen.values())

    def append(self, added: str) -> None:
        """Add to the growing part."""
        assert self.speaking is not None
        self._seen[self.speaking].append(added)

    def update(self, parts: Mapping[str, _Text], *, last: bool) -> str:
        """Return the new text of an event; for the ``last`` one, hold nothing back."""
        new = ""
        for key, (text, _) in parts.items():
            if not last:
                text = text[: settled(text)]
            if not text:
                continue
            if key not in self._seen:
                new += ("\n" if self._seen else "") + text
                self._seen[key] = [text]
                self.speaking = key
            else:
                new += self._changed(key, text)
        return new

    def think(self, parts: Mapping[str, _Text], *, last: bool) -> str:
        """Return the new thoughts of an event, likewise."""
        new = ""
        for key, (_, thought) in parts.items():
            if last:
                thought, half = encodable(thought)
                thought += "\ufffd" * len(half)
            else:
                thought = thought[: settled(thought)]
            before = self._thoughts.get(key, "")
            if thought and thought != before:
                new += "\n" if self._thoughts and not before else ""
                new += thought[len(before) :] if thought.startswith(before) else ""
                self._thoughts[key] = thought
                self._keep(len(thought) - len(before))
        return new

    def show(self, event: Mapping[str, Any]) -> None:
        """Add the images of an event; most events repeat those of the events before them."""
        for part in _objects(event, "parts"):
            for item in _objects(part, "content"):
                for image in _objects(item, "image") if item.get("type") == "image" else ():
                    url = image.get("image_url")
                    if isinstance(url, str) and url and url not in self._images:
                        self._keep(len(url))
                        self._images[url] = Image(url)

    def _changed(self, key: str, text: str) -> str:
        seen = self.seen(key)
        if text == seen:
            return ""
        if key == self.speaking and text.startswith(seen):
            self._seen[key] = [text]
            return text[len(seen) :]
        # Delivered text cannot be withdrawn. A text that only became shorter may grow back; if it
        # was rewritten, or another part has followed, only later additions are delivered.
        if not seen.startswith(text):
            self._seen[key] = [text]
        self._rewritten = True
        return ""

    def finish(self, reason: str, *, raw: str, detail: str | None = None) -> FinishReason:
        """The end of the reply."""
        if detail is None and self._rewritten:
            detail = "the service rewrote text after it had been delivered"
        return FinishReason(
            reason,
            raw=raw,
            detail=detail,
            reasoning="\n".join(self._thoughts.values()) or None,
            images=list(self._images.values()),
        )


def _texts(event: Mapping[str, Any]) -> dict[str, _Text]:
    """The text and the thoughts of each part, by its id."""
    texts: dict[str, _Text] = {}
    for index, part in enumerate(_objects(event, "parts")):
        items = _objects(part, "content")
        logic_id = part.get("logic_id")
        key = str(index if logic_id in (None, "") else logic_id)
        if key in texts:
            key = f"{key}/{index}"
        texts[key] = _Text(_joined(items, "text"), _joined(items, "think"))
    return texts


def _joined(items: list[dict[str, Any]], kind: str) -> str:
    return "".join(expect(item.get(kind), str, kind) for item in items if item.get("type") == kind)


def _objects(holder: Mapping[str, Any], field: str) -> list[dict[str, Any]]:
    found = expect(holder.get(field), list, field, optional=True)
    return [expect(item, dict, field) for item in found]


def _why(event: Mapping[str, Any]) -> str | None:
    error = event.get("last_error")
    said = error.get("intervene_text") if isinstance(error, dict) else None
    return said if isinstance(said, str) and said else "moderation stopped the reply"


def _refusal(answer: dict[str, Any]) -> LLMError:
    if not answer.keys() & {"message", "msg", "status", "code"}:
        return ProtocolError("the reply is neither a stream nor an error the service documents")
    return error_of(answer)


_GENERAL_ASSISTANT = "65940acff94777010aa6b796"


class ChatGLM(Provider):
    """ChatGLM's guest chat; no key.

    Choose another assistant with ``extra_body={"assistant_id": "..."}``.

    >>> ChatGLM().get_model("all-tools-230b")
    'glm-4'
    """

    url = "https://chatglm.cn"
    api_endpoint = f"{url}/chatglm/mainchat-api/guest/stream"
    supports_system_message = False
    supports_message_history = False
    default_model = "glm-4"
    models = ("glm-4",)
    model_aliases = {"all-tools-230b": "glm-4"}

    def prepare(self, request: ChatRequest, fetch: Fetch) -> HTTPRequest:
        """Fold the conversation into the single message that the service accepts."""
        self.sampling(request)
        text = fold(request.messages)
        body: dict[str, Any] = {
            "assistant_id": _GENERAL_ASSISTANT,
            "conversation_id": "",
            "meta_data": {
                "if_plus_model": False,
                "is_test": False,
                "input_question_type": "xxxx",
                "channel": "",
                "draft_id": "",
                "quote_log_id": "",
                "platform": "pc",
            },
            "messages": [{"role": "user", "content": [{"type": "text", "text": text}]}],
        }
        return HTTPRequest(
            "POST",
            f"{self.base_url}/chatglm/mainchat-api/guest/stream",
            headers={
                "Accept": "text/event-stream",
                "Accept-Encoding": "gzip, deflate",
                "Accept-Language": "en-US,en;q=0.9",
                "App-Name": "chatglm",
                "Origin": "https://chatglm.cn",
                "User-Agent": USER_AGENT,
                "X-App-Platform": "pc",
                "X-App-Version": "0.0.1",
                "X-Device-Id": uuid.uuid4().hex,
            },
            json=request.with_extra_body(body),
            authorization="undefined",
        )

    def parse(self, reply: HTTPResponse) -> Iterator[str]:
        """Yield what each event adds to the text of the parts before it, then a ``FinishReason``.

        A body that is one JSON object is read as one event, whatever its Content-Type.

        Raises:
            LLMError: the service reported an error.
            ProtocolError: a field has the wrong type.
        """
        said = _PartTexts()
        frame = EventTemplate(grows=True)
        for data in reply.events():
            added = frame.text_in(data)
            if added is not None:
                said.append(added)
                if added:
                    yield added
                continue
            event, refusal = _event(data)
            if refusal is not None:
                if not said.spoke() or isinstance(refusal, ProtocolError):
                    raise refusal
                raise StreamInterrupted.of(refusal) from refusal
            status = event["status"]
            parts = _texts(event)
            said.show(event)
            if thought := said.think(parts, last=status != "init"):
                yield Reasoning(thought)
            if new := said.update(parts, last=status == "finish"):
                yield new
            if status == "finish":
                yield said.finish("stop", raw=status)
                return
            if status == "intervene":
                yield said.finish("content_filter", raw=status, detail=_why(event))
                return
            _learn(frame, data, parts, said)
