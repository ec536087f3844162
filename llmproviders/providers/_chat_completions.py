"""Replies in OpenAI's chat completions format, which several services use."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from io import StringIO
from typing import Any, NoReturn

from .._http.decoding import (
    AFTER_END_S,
    MAX_VALUES,
    Document,
    ErrorEvent,
    EventTemplate,
    decode_json,
    decode_object,
    encodable,
    expect,
    is_sentence,
)
from .._http.error_map import error_of, lowered, message_of, page_error
from .._http.types import HTTPResponse
from .._signals import let_through
from ..errors import (
    InvalidRequestError,
    LLMError,
    ProtocolError,
    ServerError,
    StreamInterrupted,
    retold,
)
from ..results import FinishReason, Image, Reasoning, Usage
from ._chat_parts import ThoughtDetails, ToolCalls, thought_of, whole_number
from ._finish_words import reason_of, says_nothing, tell_unknown

MAX_KEPT = 16 * 1024 * 1024
"""Most bytes of UTF-8 kept until a reply ends: its thoughts, tool calls and images."""

MAX_SILENT_EVENTS = 250_000
"""Most events of a reply without text, thoughts or calls."""

_LONGEST_END = 32

_HEAD = 4096  # bytes of a body that show whether it is a page or a sentence

_NOTHING = (b"null", b"[]", b"ping", b"pong", b"keep-alive", b"keepalive", b"heartbeat")
"""Event data that servers send to keep a connection open."""

_TEXT_ALONE = {"role", "content"}

_FINE_CODES = (None, "", 0, 200, "0", "200", "ok", "OK", "success")

# In lower case, as all names below are compared.
_CODES = ("code", "error_code", "errorcode", "errcode", "status_code", "statuscode")

_WORDS = (
    *("message", "msg", "detail", "details", "errors", "error_msg", "errormsg", "errmsg"),
    *("error_message", "errormessage", "error_description", "description", "reason"),
)

_REPLY_FIELDS = ("choices", "delta", "text")

_THOUGHTS = ("reasoning_content", "reasoning", "thinking", "reasoning_details", "thinking_blocks")

_SENT_BACK = ("reasoning_details", "thinking_blocks")
"""Lists of thoughts that services expect back unchanged, with their signatures."""


def _text_alone(event: dict[str, Any]) -> object:
    """The content of an event that has one choice and nothing else to add up."""
    choices = event.get("choices")
    if isinstance(choices, list) and len(choices) == 1 and isinstance(choices[0], dict):
        delta = choices[0].get("delta")
        if isinstance(delta, dict) and delta.keys() <= _TEXT_ALONE:
            return delta.get("content")
    return None


def parse_chat(
    reply: HTTPResponse, *, think_tags: bool = True, events: Iterable[bytes] | None = None
) -> Iterator[str]:
    """Yield the text and the thoughts of the first choice of ``reply``, then a ``FinishReason``.

    The start of the body, not its Content-Type, decides whether it is a stream or one JSON object.
    A stream is complete at ``[DONE]`` or, after a finish reason, when the connection ends in any
    way or a second has passed.

    Args:
        reply: the service's answer.
        think_tags: whether ``<think>...</think>`` at the start is thoughts, not text.
        events: the events of ``reply``, if the caller has begun to read them.

    Raises:
        LLMError: what an error object inside the reply means.
        ProtocolError: a field has the wrong type, or there is too much to keep.
    """
    state = _State(think_tags=think_tags)
    events = reply.events() if events is None else events
    frame = EventTemplate()
    try:
        for data in events:
            piece = frame.text_in(data)
            if piece:
                yield piece
            elif piece is not None:
                state.count_silent()
            elif _is_end(data):
                state.whole = True
                break
            else:
                was_finished = state.raw is not None
                event = state.event_in(data)
                piece = state.take(event, whole=type(data) is Document)
                if state.thought:
                    yield state.new_thought()
                if piece:
                    yield piece
                if state.raw is not None:
                    if piece or not was_finished:
                        # From here on events are parsed in full: each may be the last.
                        frame = EventTemplate()
                        _hasten(reply)
                elif piece and state.spoke and _text_alone(event) == piece:
                    frame.learn(data, piece, _reads)
    except LLMError as error:
        let_through(error)
        # After a finish reason the reply is complete; anything more is optional.
        if state.raw is None or state.failed:
            if isinstance(error, StreamInterrupted) and not state.failed:
                state.check_told()
            error.usage = state.usage
            raise
    if state.raw is None and not state.whole:
        state.cut(reply)
    rest = state.rest()
    if state.thought:
        yield state.new_thought()
    if rest:
        yield rest
    yield state.finish()


def _is_end(data: bytes) -> bool:
    return len(data) < _LONGEST_END and data.strip(b' \t"').upper() == b"[DONE]"


def _hasten(reply: HTTPResponse) -> None:
    # Not in the protocol ``Reply``: test doubles in other packages lack it.
    hasten = getattr(reply, "hasten", None)
    if hasten is not None:
        hasten(AFTER_END_S)


def error_in_event(data: ErrorEvent) -> LLMError:
    """What an event named ``error`` means, whether it holds JSON or plain text."""
    try:
        value = decode_json(data, max_values=MAX_VALUES)
    except LLMError as error:
        let_through(error)
        value = data.decode(errors="replace")
    return error_of(value)


def decode_answer(data: bytes, *, max_values: int | None = None) -> Any:
    """The JSON value in a body that is no stream; arguments as for ``decode_json``.

    Raises:
        LLMError: it is a web page, or a sentence that says what is wrong.
        ProtocolError: it is not JSON in UTF-8, or holds too many values.
    """
    head = data[:_HEAD].lstrip(b"\xef\xbb\xbf \t\r\n")  # a byte order mark, too
    if head.startswith(b"<"):
        raise page_error(data)
    if is_sentence(head.partition(b"\n")[0]):
        raise error_in_event(ErrorEvent(head))
    return decode_json(data, max_values=max_values)


class _ThinkTags:
    """Separates thoughts in ``<think>...</think>`` at the start of a reply from its text.

    Attributes:
        passed: whether all that follows is text.
    """

    _OPEN, _CLOSE = "<think>", "</think>"

    def __init__(self) -> None:
        self.passed = self._inside = self._after = False
        self._space: list[str] = []
        self._held = ""

    def feed(self, piece: str) -> tuple[str, str]:
        """The thoughts and the text in one more piece, as far as they can be separated."""
        thought, text = "", self._held + piece
        if not self._inside and not self._after:
            self._held = text.lstrip()
            self._space.append(text[: len(text) - len(self._held)])
            if len(self._held) < len(self._OPEN) and self._OPEN.startswith(self._held):
                return "", ""
            if not self._held.startswith(self._OPEN):
                self.passed = True
                return self.flush()
            self._inside, text = True, self._held[len(self._OPEN) :]
            self._space.clear()
        self._held = ""
        if self._inside:
            thought, closed, text = text.partition(self._CLOSE)
            if not closed:
                cut = _overlap(thought, self._CLOSE)
                self._held = thought[cut:]
                return thought[:cut], ""
            self._inside, self._after = False, True
        text = text.lstrip()
        self.passed = bool(text)
        return thought, text

    def flush(self) -> tuple[str, str]:
        """The text held back so far; called when the reply has ended."""
        held, self._held = "".join((*self._space, self._held)), ""
        self._space.clear()
        return (held, "") if self._inside else ("", held)


def _overlap(text: str, mark: str) -> int:
    """The index in ``text`` of a partial ``mark`` at its end; otherwise its length."""
    for size in range(len(mark), 0, -1):
        if text.endswith(mark[:size]):
            return len(text) - size
    return len(text)


class Kept:
    """Counts what is kept until a reply ends."""

    def __init__(self) -> None:
        self._size = 0

    def add(self, size: int) -> None:
        """Count ``size`` bytes more, and check that they are not too many."""
        self._size += size
        if self._size > MAX_KEPT:
            raise ProtocolError(
                f"the reply's thoughts, calls of tools and images are larger than {MAX_KEPT} bytes"
            )


class _State:
    """The state of a reply beyond its text.

    Attributes:
        raw: the service's word for why the reply ends, or None.
        whole: whether the reply is complete without such a word.
        failed: whether the service reported an error.
        spoke: whether any text has come.
        usage: the tokens, as far as the service has counted them.
        thought: the new part of the thoughts.
    """

    def __init__(self, *, think_tags: bool) -> None:
        self.raw: str | None = None
        self.whole = False
        self.failed = False
        self.thought = ""
        self._tags = _ThinkTags() if think_tags else None
        self.spoke = self._begun = self._by_delta = False
        self._silent = 0
        self._keep = Kept().add
        self._heard = 0
        self._model: str | None = None
        self.usage: Usage | None = None
        self._told: dict[str, Any] | None = None
        self._thoughts = StringIO()
        self._half_thought = ""
        self._details: dict[str, ThoughtDetails] = {}
        self._detail: list[str] = []
        self._images: list[Image] = []
        self._calls: ToolCalls | None = None
        self._thought_fields: set[str] = set()
        self._functions_state_id: str | None = None

    def event_in(self, data: bytes) -> dict[str, Any]:
        """The object of an event; an empty one if the event has no content.

        Raises:
            LLMError: it reports an error, or cannot be understood.
        """
        self._begun = True
        if type(data) is Document:
            return self._document(data)
        if type(data) is ErrorEvent:
            self._fail(error_in_event(data))
        start = data.lstrip()[:1]
        if start in (b"", b":"):
            return {}
        if len(data) <= _LONGEST_END and data.strip().lower() in _NOTHING:
            return {}
        if start == b"[":
            self._check_list(decode_json(data, max_values=MAX_VALUES))
        if is_sentence(data):
            if self.raw is None:
                self._fail(error_in_event(ErrorEvent(data)))
            return {}
        return decode_object(data)

    def _document(self, data: Document) -> dict[str, Any]:
        value = decode_answer(data, max_values=MAX_VALUES)
        self._check_list(value)
        event = expect(value, dict, "the reply")
        if failure_in(event, whole=True) is None:
            if not isinstance(event.get("choices"), list):
                _check_version(event)
                if message_of(event) is not None:
                    raise error_of(event)
            choices = expect(event.get("choices"), list, "choices")
            # A single piece without the marks of a stream is not the whole reply.
            self.whole = not any(isinstance(one, dict) and one.get("delta") for one in choices)
        return event

    def _check_list(self, value: Any) -> None:
        """Raise the error in a list that came instead of an object."""
        found = _first_error(value)
        if found is not None:
            self._fail(error_of(found))

    def _fail(self, error: LLMError) -> NoReturn:
        """Raise an error that the service reported; after text it means that the reply was cut."""
        self.failed = True
        error.usage = self.usage
        if self.spoke and not isinstance(error, StreamInterrupted):
            raise StreamInterrupted.of(error) from error
        raise error

    def cut(self, reply: HTTPResponse) -> NoReturn:
        """Raise the error for a reply that ended without its end mark."""
        if not self._begun and reply.content_type == "application/json":
            raise ProtocolError("the reply holds neither JSON nor events")
        self.check_told()
        self._fail(StreamInterrupted("the reply ended without its end mark"))

    def check_told(self) -> None:
        """Raise the error in a message that came instead of a reply, if there was one."""
        if self._told is not None:
            self._fail(error_of(self._told))

    def _note(self, event: dict[str, Any]) -> None:
        """Remember a message; it is an error if the reply then ends without a reason."""
        said = {name: value for name, value in event.items() if name not in _REPLY_FIELDS}
        if isinstance(said.get("message"), dict) and "role" in said["message"]:
            del said["message"]
        if self._told is None and message_of(said) is not None:
            self._told = said

    def count_silent(self) -> None:
        """Count one more event without text, thoughts or calls."""
        self._silent += 1
        if self._silent > MAX_SILENT_EVENTS:
            raise ProtocolError(
                f"more than {MAX_SILENT_EVENTS} events of the reply brought no text"
            )

    def take(self, event: dict[str, Any], *, whole: bool) -> str:
        """The text of one event, or of all of a reply."""
        failure = failure_in(event, whole=whole)
        if failure is not None:
            self._fail(error_of(failure))
        choices = event.get("choices")
        if not choices and _has_words(event):
            self._note(event)
        if choices is None:
            if not self._heard:
                _check_version(event)
        elif type(choices) is not list:
            expect(choices, list, "choices")
        if "usage" in event:
            self._count(event["usage"])
        if "x_groq" in event and isinstance(event["x_groq"], dict):
            self._check_error(event["x_groq"])
            self._count(event["x_groq"].get("usage"))
        if not self._model:
            model = event.get("model")
            self._model = model if isinstance(model, str) else None
        heard, text, others = self._heard, "", False
        for choice in choices or ():
            if choice is None:
                continue
            if type(choice) is not dict:
                expect(choice, dict, "choices")
            index = choice.get("index")
            # Without indexes, the first of an event is the first one.
            if not (others and index is None) and _is_first(index):
                text += self._choice(choice)
                if self.raw is not None and reason_of(self.raw) is None:
                    self._note({**choice, **event})
            others = True
        if text:
            self.spoke = self.spoke or not text.isspace()
            self._heard += 1
        elif heard == self._heard:
            self.count_silent()
        return text

    def _choice(self, choice: dict[str, Any]) -> str:
        self._check_error(choice)
        if "usage" in choice:
            self._count(choice["usage"])
        text = self._text_of(choice)
        # Last: anything unreadable before there is a reason is an error.
        self._reason(choice.get("finish_reason"))
        return text

    def _text_of(self, choice: dict[str, Any]) -> str:
        heard = self._heard
        text = self._delta(choice.get("delta"), "delta")
        if text or self._heard > heard:
            self._by_delta = True
        if self._by_delta:
            # A message that follows deltas repeats them.
            return text
        text = self._delta(choice.get("message"), "message", whole=True)
        legacy = choice.get("text")
        return text or (self._say(legacy) if isinstance(legacy, str) else "")

    def _check_error(self, owner: dict[str, Any]) -> None:
        """Raise the error inside another object."""
        if not _is_blank(owner.get("error"), beside_choices=True):
            self._fail(error_of({"error": owner["error"]}))

    def _reason(self, raw: Any) -> None:
        if isinstance(raw, dict) and "type" in raw:
            raw = raw["type"]
        if raw is None or raw is False:
            return
        word = expect(raw, str, "finish_reason")
        if says_nothing(word):
            return
        if self.raw is not None:
            known = reason_of(self.raw)
            # A failed reply stays failed; some gateways end every stream with "stop".
            if known is None or (known != "other" and reason_of(word) == "stop"):
                return
        self.raw = word

    def _count(self, usage: Any) -> None:
        found = Usage.from_json(usage)
        if found is not None:
            self.usage = found if self.usage is None else self.usage.merged(found)

    def _delta(self, delta: Any, field: str, *, whole: bool = False) -> str:
        # PHP writes an empty object as a list.
        if delta is None or delta == []:
            return ""
        if type(delta) is not dict:
            expect(delta, dict, field)
        if not delta:
            return ""
        content = delta.get("content")
        if type(content) is str and delta.keys() <= _TEXT_ALONE:
            return self._say(content)
        self._check_error(delta)
        self._thoughts_in(delta)
        refusal = delta.get("refusal")
        if refusal and isinstance(refusal, str):
            self._refuse(refusal)
        for image in expect(delta.get("images"), list, "images", optional=True):
            self._image(image)
        calls = delta.get("tool_calls")
        if isinstance(calls, dict):
            # Some versions of TGI send one object instead of a list.
            calls = [calls] if calls else []
        for call in expect(calls, list, "tool_calls", optional=True):
            if call is not None:
                self._call(expect(call, dict, "tool_calls"), whole=whole)
        state_id = delta.get("functions_state_id")
        if state_id and isinstance(state_id, str):
            self._functions_state_id = state_id
        function_call = delta.get("function_call")
        # Some gateways report a call in both ways.
        if function_call and not calls:
            # GigaChat has one call per turn and uses its state id as the call's id.
            self._call({"function": function_call, "index": 0, "id": state_id})
        return self._say(self._content(content))

    def _call(self, piece: dict[str, Any], *, whole: bool = False) -> None:
        if self._calls is None:
            self._calls = ToolCalls(self._keep)
        self._calls.add(piece, whole=whole)
        self._heard += 1

    def _thoughts_in(self, delta: dict[str, Any]) -> None:
        said = ""
        for name in _THOUGHTS:
            if name in delta:
                self._thought_fields.add(name)
                said = said or thought_of(delta[name])
                if name in _SENT_BACK:
                    if name not in self._details:
                        self._details[name] = ThoughtDetails(self._keep)
                    self._details[name].add(delta[name])
        self._think(said)

    def _content(self, content: Any) -> str:
        if content is None or isinstance(content, str):
            return content or ""
        text: list[str] = []
        for part in expect(content, list, "content"):
            if part is None or isinstance(part, str):
                text.append(part or "")
                continue
            kind = expect(part, dict, "content").get("type", "text")
            if kind in ("text", "output_text"):
                said = part.get("text")
                said = said.get("value") if isinstance(said, dict) else said
                text.append(expect(said, str, "text", optional="text" in part))
            elif kind in ("thinking", "reasoning"):
                self._think(thought_of(part))
            elif kind == "refusal" and isinstance(part.get("refusal"), str):
                self._refuse(part["refusal"])
            elif kind == "image_url":
                self._image(part)
        return "".join(text)

    def _say(self, text: str) -> str:
        if self._tags is None or not text:
            return text
        thought, text = self._tags.feed(text)
        if self._tags.passed:
            self._tags = None
        else:
            self._heard += 1
        self._think(thought)
        return text

    def _think(self, piece: str) -> None:
        if not piece:
            return
        self._heard += 1
        piece, self._half_thought = encodable(self._half_thought + piece)
        self._keep(len(piece.encode()))
        self._thoughts.write(piece)
        self.thought += piece

    def new_thought(self) -> Reasoning:
        """The new part of the thoughts, for the stream."""
        piece, self.thought = self.thought, ""
        return Reasoning(piece)

    def _refuse(self, piece: str) -> None:
        self._keep(len(piece))
        self._detail.append(piece)
        self._heard += 1

    def _image(self, image: Any) -> None:
        address = image.get("image_url") if isinstance(image, dict) else None
        url = address.get("url") if isinstance(address, dict) else address
        if isinstance(url, str) and url:
            self._keep(len(url))
            self._images.append(Image(url))
            self._heard += 1

    def rest(self) -> str:
        """Text held back because it might have been the start of a tag."""
        if self._tags is None:
            return ""
        thought, text = self._tags.flush()
        self._think(thought)
        return text

    def finish(self) -> FinishReason:
        """The end of the reply.

        Raises:
            LLMError: its finish reason says that it failed.
        """
        calls = [] if self._calls is None else self._calls.finished()
        reason = reason_of(self.raw) if self.raw else "tool_calls" if calls else "stop"
        if reason is None:
            said = f"the service ended the reply with the finish reason {self.raw!r}"
            if self._told is None:
                self._fail(ServerError(said))
            error = error_of(self._told)
            self._fail(retold(error, f"{said}: {error}"))
        if self.raw is None and not calls and not self.spoke:
            self.check_told()
        if reason == "other":
            assert self.raw is not None
            tell_unknown(self.raw)
        if self._detail and reason == "stop":
            reason = "content_filter"
        thoughts = self._thoughts.getvalue()
        return FinishReason(
            reason,
            raw=self.raw,
            model=self._model,
            usage=self.usage,
            detail="".join(self._detail) or None,
            reasoning=thoughts.strip() or None,
            tool_calls=calls,
            images=self._images,
            message=self._sent_back(calls, thoughts),
        )

    def _sent_back(self, calls: list[dict[str, Any]], thoughts: str) -> dict[str, Any]:
        """Fields that the message needs beyond its text when the history is sent again."""
        message: dict[str, Any] = {}
        if calls:
            message["tool_calls"] = calls
            # DeepSeek and GLM refuse a call in the history without its thoughts, even empty ones;
            # Gemini and OpenRouter have signatures in the details.
            if "reasoning_content" in self._thought_fields:
                message["reasoning_content"] = thoughts
            for name, details in self._details.items():
                if joined := details.joined():
                    message[name] = joined
        if self._functions_state_id:
            message["functions_state_id"] = self._functions_state_id
        return message


def failure_in(event: dict[str, Any], *, whole: bool) -> Any:
    """The error in an object, in the form that ``error_of`` takes; None if there is none.

    Args:
        event: an event, or all of a reply.
        whole: whether nothing else follows, so that a message alone is also an error.
    """
    choices = event.get("choices")
    error = event.get("error")
    if not _is_blank(error, beside_choices=isinstance(choices, list)):
        return {**event, "error": _first_error(error)} if _first_error(error) else event
    if event.get("object") == "error" or event.get("type") == "error":
        return event
    base = event.get("base_resp")
    if isinstance(base, dict) and base.get("status_code") not in _FINE_CODES:
        return event
    if choices:
        return None
    # Some services write Error and Message.
    event = lowered(event)
    if any(not _is_blank(event.get(name), beside_choices=True) for name in ("error", "errors")):
        return event
    if not _has_words(event):
        return None
    status = event.get("status")
    number = whole_number(status)
    failed = (
        any(event.get(name) not in _FINE_CODES for name in _CODES)
        or (number is not None and number >= 300)
        or (isinstance(status, str) and reason_of(status) is None)
        or event.get("success") is False
    )
    return event if failed or whole else None


def _first_error(value: Any) -> Any:
    """The first error in a list of errors; None if it is not such a list."""
    if not isinstance(value, list):
        return None
    errors = (item for item in value if isinstance(item, dict))
    return next((e for e in errors if lowered(e).get("error") or _has_words(e)), None)


def _has_words(event: dict[str, Any]) -> bool:
    """Whether an object has a field for a message, with anything in it."""
    event = lowered(event)
    return any(words and words not in _FINE_CODES for words in map(event.get, _WORDS))


def _is_blank(error: Any, *, beside_choices: bool) -> bool:
    """Whether an error field has no error; an empty object has none if there are choices."""
    if error is None or error == 0:  # False is 0, too
        return True
    if isinstance(error, str):
        return error.strip().lower() in ("", "null", "none")
    if not beside_choices:
        return False
    values = error.values() if isinstance(error, dict) else error
    return isinstance(error, (dict, list)) and not any(v not in _FINE_CODES for v in values)


def _is_first(index: Any) -> bool:
    """Whether a choice is the first one; only that one is read."""
    if index is None or type(index) is int:
        return not index
    number = whole_number(index)
    return expect(index if number is None else number, int, "index") == 0


def _check_version(reply: dict[str, Any]) -> None:
    """Refuse a reply of version 2 of GigaChat's API, which has messages instead of choices."""
    if "messages" in reply:
        raise InvalidRequestError(
            "this is a reply of version 2 of GigaChat's API, which is not supported; set "
            "base_url to the address that ends in /v1",
            status_code=200,
        )


def _reads(data: bytes, text: str) -> bool:
    return _text_alone(decode_object(data)) == text
