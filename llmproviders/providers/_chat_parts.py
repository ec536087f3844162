"""The parts of a reply in OpenAI's format that arrive in pieces: thoughts and tool calls."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from io import StringIO
from typing import Any

from .._http.decoding import encodable, expect
from .._signals import let_through
from ..errors import ProtocolError

MAX_TOOL_CALLS = 4096

_MOST_LOOKED_THROUGH = 1024 * 1024
"""Roughly how many characters of a call's arguments are checked as they arrive."""

_THOUGHT_TEXTS = ("thinking", "reasoning", "text", "summary", "content")


def thought_of(value: Any) -> str:
    """The thoughts in a field: a string, an object, or a list of these."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return "".join(map(thought_of, value))
    if isinstance(value, dict):
        return next(filter(None, (thought_of(value.get(name)) for name in _THOUGHT_TEXTS)), "")
    return ""


class ThoughtDetails:
    """The thoughts of a reply; consecutive ones that continue each other are joined."""

    _TEXTS = ("text", "summary", "thinking")

    def __init__(self, keep: Callable[[int], None]) -> None:
        self._keep = keep
        self._entries: list[tuple[dict[str, Any], dict[str, StringIO]]] = []

    def add(self, details: Any) -> None:
        """Add those of one event; anything but a list of objects is ignored."""
        for detail in details if isinstance(details, list) else ():
            if isinstance(detail, dict):
                self._add(detail)

    def _add(self, detail: dict[str, Any]) -> None:
        texts = {n: v for n, v in detail.items() if n in self._TEXTS and isinstance(v, str)}
        fields = {n: v for n, v in detail.items() if n not in texts and v is not None}
        if not texts or not self._continues(fields):
            self._entries.append(({}, {}))
            self._keep(_OVERHEAD)
        last, written = self._entries[-1]
        for name, value in fields.items():
            if last.get(name) != value:
                self._keep(_size(value))
                last[name] = value
        for name, text in texts.items():
            self._keep(len(text.encode("utf-8", "surrogatepass")))
            written.setdefault(name, StringIO()).write(text)

    def _continues(self, fields: dict[str, Any]) -> bool:
        """Whether a text with these fields beside it belongs to the latest thought."""
        if not self._entries:
            return False
        last, _ = self._entries[-1]
        return all(last.get(name) == fields.get(name) for name in ("type", "index"))

    def joined(self) -> list[dict[str, Any]]:
        """All thoughts so far."""
        return [
            {**fields, **{name: text.getvalue() for name, text in written.items()}}
            for fields, written in self._entries
        ]


_OVERHEAD = 256

_FLAT = ("name", "arguments", "parameters")


def _size(value: Any) -> int:
    """About how many bytes a value from JSON takes."""
    return len(value) if isinstance(value, str) else len(json.dumps(value))


def _opens(function: Mapping[str, Any]) -> bool:
    """Whether a piece has the beginning of arguments."""
    arguments = function.get("arguments")
    return isinstance(arguments, dict) or str(arguments or "").lstrip().startswith("{")


class _Call:
    """One call of a tool, as far as it has arrived."""

    def __init__(self, index: int | None) -> None:
        self.index = index
        self.id = ""
        self.fields: dict[str, Any] = {}
        self.function: dict[str, Any] = {}
        self.arguments = StringIO()
        self.closes = False
        self._looked_through = 0

    def is_blank(self) -> bool:
        """Whether it has neither a name nor arguments."""
        named = self.function.get("name") or self.fields.get("type") not in (None, "", "function")
        return not named and not self.arguments.getvalue().strip()

    def is_placeholder(self) -> bool:
        """Whether its arguments only stand in for those that are still to come."""
        return self.arguments.tell() == 2 and self.arguments.getvalue() == "{}"

    def awaits_more_of_its_name(self, own_id: str, function: Mapping[str, Any]) -> bool:
        """Whether a piece has the rest of its name, as some servers split it."""
        name, known = function.get("name"), self.function.get("name")
        return (
            isinstance(name, str)
            and isinstance(known, str)
            and bool(name and known and self.id)
            and name != known
            and not own_id
            and not function.get("arguments")
            and not self.arguments.tell()
        )

    def has_said(self, own_id: str, function: Mapping[str, Any]) -> bool:
        """Whether a piece repeats arguments that are whole; some servers send all of them again."""
        arguments = function.get("arguments")
        name = function.get("name")
        # An id that is the function's name, as with Yandex, does not tell its calls apart.
        if not arguments or not ((own_id == self.id != name) if own_id else not name):
            return False
        try:
            # Some encode them twice.
            for _ in range(2):
                if isinstance(arguments, str) and arguments.strip()[:1] in ("{", '"'):
                    arguments = json.loads(arguments)
            return (
                isinstance(arguments, dict)
                and self.is_whole()
                and bool(arguments == json.loads(self.arguments.getvalue()))
            )
        except (ValueError, RecursionError) as error:
            let_through(error)
            return False

    def is_whole(self) -> bool:
        """Whether its arguments are a complete JSON object, as far as they were checked."""
        # Checking all of them for each piece would take quadratic time.
        if not self.closes or self._looked_through > _MOST_LOOKED_THROUGH:
            return False
        self._looked_through += self.arguments.tell()
        try:
            json.loads(self.arguments.getvalue())
        except (ValueError, RecursionError) as error:
            let_through(error)
            return False
        return True


class ToolCalls:
    """Assembles tool calls from their pieces."""

    def __init__(self, keep: Callable[[int], None]) -> None:
        self._keep = keep
        self._calls: list[_Call] = []
        self._by_index: dict[int, _Call] = {}
        self._by_id: dict[str, _Call] = {}

    def add(self, piece: Mapping[str, Any], *, whole: bool = False) -> None:
        """Add one piece; if the message is ``whole``, each piece is a separate call."""
        function = piece.get("function")
        if function is None and "custom" not in piece:
            function = {name: piece[name] for name in _FLAT if name in piece}
            if "parameters" in function:
                function.setdefault("arguments", function.pop("parameters"))
        function = expect(function or {}, dict, "function")
        index = whole_number(piece.get("index"))
        own_id = piece.get("id")
        own_id = own_id if isinstance(own_id, str) else ""
        call = None if whole else self._find(index, own_id, function)
        if call is None:
            call = self._begin(index)
        elif call.has_said(own_id, function):
            return
        if own_id and not call.id:
            call.id = own_id
            self._by_id[own_id] = call
        for name, value in piece.items():
            if name not in ("index", "id", "function", *_FLAT):
                self._put(call.fields, name, value)
        for name, value in function.items():
            if name == "arguments":
                self._add_arguments(call, value)
            elif name == "name" and call.awaits_more_of_its_name(own_id, function):
                known = call.function["name"]
                self._put(call.function, name, value if value.startswith(known) else known + value)
            else:
                self._put(call.function, name, value)

    def _find(self, index: int | None, own_id: str, function: Mapping[str, Any]) -> _Call | None:
        """The call that a piece continues or repeats; None if it begins a new one."""
        name = function.get("name")
        call = self._by_id.get(own_id) if index is None else self._by_index.get(index)
        if call is None:
            call = self._elsewhere(index, own_id, function)
        if call is None:
            return None
        known = call.function.get("name")
        if own_id and call.id and own_id != call.id:
            # Some versions of vLLM give each piece its own id.
            return None if name or call.is_whole() else call
        if not name or not known or call.awaits_more_of_its_name(own_id, function):
            return call
        # A repeated name: the same call or the next one. In JSON, an object never directly follows
        # another.
        if own_id and call.id:
            # Yandex gives two calls of the same function the same id, its name.
            is_next = call.is_whole() and (own_id == name or not call.is_placeholder())
            is_next = is_next and _opens(function) and not call.has_said(own_id, function)
            return None if is_next else call
        return None if name != known or (_opens(function) and call.is_whole()) else call

    def _elsewhere(
        self, index: int | None, own_id: str, function: Mapping[str, Any]
    ) -> _Call | None:
        """The call of a piece with another index than the call, or where one of them has none."""
        name = function.get("name")
        call = self._by_id.get(own_id)
        if call is not None:
            # Some servers give all calls the same id.
            is_head = name == call.function.get("name") != own_id and not call.arguments.tell()
            is_its = call.index is None or not name or (is_head and _opens(function))
            return call if is_its else None
        if own_id or not self._calls:
            return None
        if index is None:
            return self._calls[-1]
        if name:
            return None
        if 0 <= index < len(self._calls) and self._calls[index].index is None:
            return self._calls[index]
        last = self._calls[-1]
        return None if last.is_whole() else last

    def _begin(self, index: int | None) -> _Call:
        if len(self._calls) == MAX_TOOL_CALLS:
            raise ProtocolError(f"the reply has more than {MAX_TOOL_CALLS} calls of tools")
        call = _Call(index)
        self._calls.append(call)
        if index is not None:
            self._by_index[index] = call
        return call

    def _put(self, fields: dict[str, Any], name: str, value: Any) -> None:
        """Keep a field; a blank value does not overwrite it."""
        if (value is None or value == "") and name in fields:
            return
        if value is not None and fields.get(name) != value:
            self._keep(len(name) + _size(value))
            fields[name] = value

    def _add_arguments(self, call: _Call, value: Any) -> None:
        if value is None or value == []:  # which is how PHP writes an empty object
            return
        if isinstance(value, dict):
            value = json.dumps(value, ensure_ascii=False)
        text = expect(value, str, "arguments")
        # Check the size first, so that the text so far is not joined for each piece.
        if call.is_placeholder() and text.lstrip().startswith("{"):
            call.arguments = StringIO()
        if text.strip():
            call.closes = text.rstrip().endswith("}")
        self._keep(len(text.encode("utf-8", "surrogatepass")))
        call.arguments.write(text)

    def finished(self) -> list[dict[str, Any]]:
        """All calls, in the order of their indexes, each with its own id."""
        ids: set[str] = set()
        found = []
        told = [call for call in self._calls if not call.is_blank()]
        for number, call in enumerate(sorted(told, key=lambda c: c.index or 0)):
            own_id = call.id or f"call_{number}"
            while own_id in ids:
                own_id = f"{call.id or 'call'}_{number}"
                number += 1
            ids.add(own_id)
            arguments, half = encodable(call.arguments.getvalue())
            arguments += "\ufffd" * len(half)
            fields = {"id": own_id, "type": "function", **call.fields}
            fields["type"] = fields["type"] or "function"
            if call.function or fields["type"] == "function":
                fields["function"] = {**call.function, "arguments": arguments.strip() or "{}"}
            found.append(fields)
        return found


def whole_number(value: Any) -> int | None:
    """A whole number, also as digits in a string or as a float."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 16:
        return int(value)
    if type(value) is float and value.is_integer():
        return int(value)
    return value if type(value) is int else None
