"""Replies in the shape of OpenAI's chat completions, which several services speak."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ._call import Reply
from ._frame import Frame
from ._lines import decode_json, decode_object
from ._status import error_of
from .errors import InvalidRequestError, ProtocolError, ServerError
from .results import FinishReason, Usage

_REASONS = {
    "stop": "stop",
    "length": "length",
    "max_tokens": "length",
    "content_filter": "content_filter",
    "blacklist": "content_filter",
    "function_call": "function_call",
    "tool_calls": "tool_calls",
}

_TEXT_ALONE = {"role", "content"}


def _text_alone(event: dict[str, Any]) -> str | None:
    """The text of an event that holds one choice and of what adds up nothing but text."""
    choices = event.get("choices")
    if isinstance(choices, list) and len(choices) == 1 and isinstance(choices[0], dict):
        delta = choices[0].get("delta")
        if isinstance(delta, dict) and delta.keys() <= _TEXT_ALONE:
            content = delta.get("content")
            return content if isinstance(content, str) else None
    return None


def parse_chat(reply: Reply) -> Iterator[str]:
    """Yield the text of the first choice of ``reply``, then a ``FinishReason``.

    A stream is whole at ``[DONE]``, or when its body ends in order after a finish reason; a reply
    in JSON comes as one piece.

    Raises:
        LLMError: what an error object inside the reply means.
        ProtocolError: a field of another type than the protocol has.
    """
    state = _State()
    if reply.content_type == "application/json":
        text = state.take(_object(reply.json()), "message")
        if text:
            yield text
        yield state.finish()
        return
    frame = Frame()
    for data in reply.events():
        piece = frame.text_in(data)
        if piece is None:
            if data == b"[DONE]":
                yield state.finish()
                return
            event = decode_object(data)
            piece = state.take(event, "delta")
            if piece:
                yield piece
                if _text_alone(event) == piece:
                    frame.learn(data, piece, _reads)
        elif piece:
            yield piece
    if state.raw is not None:
        yield state.finish()


class _State:
    """What the events so far said beside the text."""

    def __init__(self) -> None:
        self.raw: str | None = None
        self._model: str | None = None
        self._usage: Usage | None = None
        self._reasoning: list[str] = []
        self._detail: list[str] = []
        self._tool_calls: dict[int, dict[str, Any]] = {}

    def take(self, event: dict[str, Any], field: str) -> str:
        """The text of one event; ``field`` is where its choices keep their message."""
        if "error" in event and event["error"] is not None:
            raise error_of(event)
        choices = event.get("choices")
        if choices is None and type(event.get("messages")) is list:
            raise InvalidRequestError(
                "this is a reply of version 2 of GigaChat's API, which is not supported; set "
                "base_url to the address that ends in /v1",
                status_code=200,
            )
        if type(choices) is not list and (choices is not None or "usage" not in event):
            raise _wrong("choices", choices)
        if "usage" in event:
            self._usage = Usage.from_json(event["usage"]) or self._usage
        if not self._model:
            model = event.get("model")
            self._model = model if isinstance(model, str) else None
        text = ""
        for choice in choices or ():
            if type(choice) is not dict:
                raise _wrong("choices", choice)
            index = choice.get("index")
            if index:
                if not isinstance(index, int):
                    raise _wrong("index", index)
                continue
            raw = choice.get("finish_reason")
            if raw is not None:
                self.raw = _string(raw, "finish_reason")
            delta = choice.get(field)
            if type(delta) is dict:
                text += self._delta(delta)
            elif delta is not None:
                raise _wrong(field, delta)
        return text

    def _delta(self, delta: dict[str, Any]) -> str:
        content = delta.get("content")
        if type(content) is str and delta.keys() <= _TEXT_ALONE:
            return content
        for name in ("reasoning_content", "reasoning"):
            reasoning = delta.get(name)
            if isinstance(reasoning, str):
                self._reasoning.append(reasoning)
                break
        refusal = delta.get("refusal")
        if isinstance(refusal, str):
            self._detail.append(refusal)
        for call in _list(delta.get("tool_calls"), "tool_calls"):
            self._tool_call(_mapping(call, "tool_calls"))
        function_call = delta.get("function_call")
        if function_call is not None:
            # GigaChat wants its state id back with the function's result, as others want a call's.
            state = delta.get("functions_state_id")
            self._tool_call({"function": function_call, "index": 0, "id": state})
        return _text(content)

    def _tool_call(self, piece: Mapping[str, Any]) -> None:
        index = piece.get("index", len(self._tool_calls))
        call = self._tool_calls.setdefault(
            index if type(index) is int else 0, {"type": "function", "function": {}}
        )
        call.update({k: v for k, v in piece.items() if k in ("id", "type") and v is not None})
        function = call["function"]
        for name, value in _mapping(piece.get("function") or {}, "function").items():
            if name == "arguments" and isinstance(value, str):
                function[name] = _string(function.get(name) or "", name) + value
            elif value is not None:
                function[name] = value

    def finish(self) -> FinishReason:
        """The end of the reply."""
        if self.raw == "error":
            raise ServerError("the service ended the reply with the finish reason 'error'")
        return FinishReason(
            _REASONS.get(self.raw or "stop", "stop"),
            raw=self.raw,
            model=self._model,
            usage=self._usage,
            detail="".join(self._detail) or None,
            reasoning="".join(self._reasoning) or None,
            tool_calls=[self._tool_calls[index] for index in sorted(self._tool_calls)],
        )


def parse_list(data: bytes, field: str = "data") -> list[dict[str, Any]]:
    """The objects of a listing such as ``{"data": [{"id": ...}, ...]}``."""
    listing = _object(decode_json(data)).get(field)
    if listing is None:
        raise _wrong(field, listing)
    return [dict(_mapping(item, field)) for item in _list(listing, field)]


def parse_models(data: bytes) -> list[dict[str, Any]]:
    """The models of a listing, each with its name as ``id``.

    Servers send ``{"data": [{"id": ...}]}``, ``{"models": [{"name": ...}]}``, a bare list, names
    in place of objects, and null where there are none.

    Raises:
        LLMError: the error that the reply holds in place of a list.
        ProtocolError: the reply holds no list.
    """
    listing = decode_json(data)
    if isinstance(listing, dict):
        field = "data" if "data" in listing else "models"
        if field not in listing and listing.keys() & {"error", "errors", "message", "detail"}:
            raise error_of(listing)
        if field not in listing:
            raise _wrong("data", None)
        listing = _list(listing[field], field)
    models = []
    for item in _list(listing, "the reply"):
        model = {"id": item} if isinstance(item, str) else dict(_mapping(item, "a model"))
        name = next((n for k in ("id", "name", "model") if isinstance(n := model.get(k), str)), "")
        if name:
            models.append({**model, "id": name})
    return models


def _reads(data: bytes, text: str) -> bool:
    return _text_alone(decode_object(data)) == text


def _object(value: Any) -> dict[str, Any]:
    return dict(_mapping(value, "the reply"))


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    if content is None:
        return ""
    parts = (_mapping(part, "content") for part in _list(content, "content"))
    return "".join(_string(p.get("text"), "text") for p in parts if p.get("type") == "text")


def _mapping(value: Any, field: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise _wrong(field, value)
    return value


def _list(value: Any, field: str) -> list[Any]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise _wrong(field, value)
    return value


def _string(value: Any, field: str) -> str:
    if not isinstance(value, str):
        raise _wrong(field, value)
    return value


def _wrong(field: str, value: Any) -> ProtocolError:
    return ProtocolError(f"the reply has {type(value).__name__} where {field} was due")
