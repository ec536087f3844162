"""Replies whose events repeat the whole text so far, as ChatGLM's do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from ._call import Reply
from ._lines import decode_json, decode_object
from ._status import error_of
from .errors import LLMError, ProtocolError
from .results import FinishReason


def parse_cumulative(reply: Reply) -> Iterator[str]:
    """Yield what each event adds to the text of the parts before it, then a ``FinishReason``.

    Raises:
        LLMError: what an error object means.
        ProtocolError: a field of another type than the protocol has.
    """
    if reply.content_type != "text/event-stream":
        raise _refusal(decode_json(reply.read()))
    said = _Said()
    growth = _Growth()
    for data in reply.events():
        added = growth.follow(data)
        if added is not None:
            if new := said.append(added):
                yield new
            continue
        event = decode_object(data)
        status = event.get("status")
        if not isinstance(status, str):
            raise _refusal(event)
        parts = _texts(event)
        if new := said.update(parts, last=status == "finish"):
            yield new
        if status == "finish":
            yield said.finish("stop", raw=status)
            return
        if status == "intervene":
            yield said.finish("content_filter", raw=status, detail=_why(event))
            return
        growth.learn(data, parts, said)


class _Text(NamedTuple):
    text: str
    thought: str


class _Said:
    """The text of each part so far, and what of it is new."""

    def __init__(self) -> None:
        self.speaking: str | None = None
        self._seen: dict[str, str] = {}
        self._thoughts: dict[str, str] = {}
        self._rewritten = False

    def seen(self, key: str) -> str:
        """The text of a part so far, without what may yet change."""
        return self._seen[key]

    def append(self, added: str) -> str:
        """The part that speaks grew by ``added``, which is new."""
        assert self.speaking is not None
        self._seen[self.speaking] += added
        return added

    def update(self, parts: Mapping[str, _Text], *, last: bool) -> str:
        """What is new in an event; in the ``last`` one nothing is held back."""
        new = ""
        for key, (text, thought) in parts.items():
            if thought:
                self._thoughts[key] = thought
            if not last:
                text = text[: _settled(text)]
            if not text:
                continue
            if key not in self._seen:
                new += ("\n" if self._seen else "") + text
                self._seen[key] = text
                self.speaking = key
            else:
                new += self._changed(key, text)
        return new

    def _changed(self, key: str, text: str) -> str:
        seen = self._seen[key]
        if text == seen:
            return ""
        if key == self.speaking and text.startswith(seen):
            self._seen[key] = text
            return text[len(seen) :]
        # What is out stays out. A text that only became shorter may grow back to where it was;
        # of one that was rewritten, or that others have followed, only later growth is told.
        if not seen.startswith(text):
            self._seen[key] = text
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
        )


class _Growth:
    """Reads only the new end of an event that is the last one with more text in one place.

    Events repeat the whole text, so that reading each from its start makes a long reply's cost
    quadratic. Where the text grows is not guessed: of the last event's quotes, it is the one
    before which an inserted letter turns up at the end of the text and nowhere else.
    """

    _CANDIDATES = 24
    _TRIES_WITHOUT_SUCCESS = 4

    def __init__(self) -> None:
        self._before: bytes | None = None
        self._after = b""
        self._tries = self._TRIES_WITHOUT_SUCCESS

    def follow(self, data: bytes) -> str | None:
        """What ``data`` adds to the event before it; None where it has to be read in full."""
        before, after = self._before, self._after
        if (
            before is None
            or len(data) < len(before) + len(after)
            or not data.startswith(before)
            or not data.endswith(after)
        ):
            self._before = None
            return None
        end = len(data) - len(after)
        added = _string_body(data[len(before) : end])
        if added is None or _settled(added) < len(added):
            self._before = None
            return None
        self._before = data[:end]
        self._tries = self._TRIES_WITHOUT_SUCCESS
        return added

    def learn(self, data: bytes, parts: Mapping[str, _Text], said: _Said) -> None:
        """Find where the text of the part that speaks grows in ``data``."""
        speaking = said.speaking
        if speaking is None or speaking not in parts or self._tries == 0:
            return
        self._tries -= 1
        text, thought = parts[speaking]
        if text != said.seen(speaking):
            return
        grown: dict[str, _Text] = {**parts, speaking: _Text(text + "x", thought)}
        end = len(data)
        for _ in range(self._CANDIDATES):
            end = data.rfind(b'"', 0, end)
            if end < 0:
                return
            try:
                found = _texts(decode_object(data[:end] + b"x" + data[end:]))
            except ProtocolError:
                continue
            if found == grown:
                self._before, self._after = data[:end], data[end:]
                return


def _texts(event: Mapping[str, Any]) -> dict[str, _Text]:
    texts: dict[str, _Text] = {}
    for index, part in enumerate(_objects(event.get("parts"), "parts")):
        items = _objects(part.get("content"), "content")
        logic_id = part.get("logic_id")
        key = str(index if logic_id is None else logic_id)
        texts[key] = _Text(_joined(items, "text"), _joined(items, "think"))
    return texts


def _joined(items: list[dict[str, Any]], kind: str) -> str:
    texts = [item.get(kind) for item in items if item.get("type") == kind]
    if not all(isinstance(text, str) for text in texts):
        raise ProtocolError(f"an item of type {kind} has no {kind}")
    return "".join(map(str, texts))


def _objects(value: Any, field: str) -> list[dict[str, Any]]:
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise ProtocolError(f"{field} is not a list of objects")
    return value


def _string_body(raw: bytes) -> str | None:
    """What ``raw`` means between the quotes of a JSON string; None where it cannot stand there."""
    try:
        value = decode_json(b'"%b"' % raw)
        value.encode()
    except (ProtocolError, AttributeError, UnicodeEncodeError):
        return None
    return str(value)


def _settled(text: str) -> int:
    """How much of ``text`` stays: its end may be half a character, which the next event mends."""
    end = len(text)
    while end and (text[end - 1] == "\ufffd" or "\ud800" <= text[end - 1] <= "\udbff"):
        end -= 1
    return end


def _why(event: Mapping[str, Any]) -> str | None:
    error = event.get("last_error")
    said = error.get("intervene_text") if isinstance(error, dict) else None
    return said if isinstance(said, str) and said else "moderation stopped the reply"


def _refusal(answer: Any) -> LLMError:
    if not isinstance(answer, dict) or not answer.keys() & {"message", "msg", "status", "code"}:
        return ProtocolError("the reply is no stream and no error that the service documents")
    return error_of(answer)
