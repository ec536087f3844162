"""Typed answers: turn a Python type into a schema, send it, and check the reply against it."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Generator, Hashable, Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from functools import lru_cache, reduce
from itertools import islice
from operator import or_
from types import UnionType
from typing import Any, ClassVar, Protocol, TypeVar, Union, get_args, get_origin

from ._checks import is_typed_dict, shown, typed_dict_fields
from ._http.decoding import is_encodable
from ._signals import let_through
from .errors import Attempt, InvalidRequestError, LLMError, SchemaError, UnsupportedError
from .messages import Message
from .results import FinishReason, Reasoning, StreamText, rejected
from .tools import refuse_constant

INSTALL = "pip install 'llmproviders[schema]'"

_REFUSAL = re.compile(
    r"response_?(format|schema)|json_?(schema|object)|json schema|structured.?output"
    r"|guided|grammar",
    re.IGNORECASE,
)

# What else a server may not support.
_OTHER = re.compile(r"tool|function|image|vision|audio|modal|system|file", re.IGNORECASE)

_FENCE = re.compile(r"^[ \t]*```[^\n`]*\n(.*?)^[ \t]*```", re.DOTALL | re.MULTILINE)

# The start of an object or an array; brackets in prose are seldom followed by these.
_START = re.compile(r"\{\s*[\"}]|\[\s*[\"{\[\]0-9tfn-]")

_WRAPPER = re.compile(r'\s*\{\s*"value"\s*:\s*')

_MOST_VALUES = 100
"""The most JSON values to look at in one reply."""

_MOST_BROKEN = 200
"""The most broken values to scan in one reply; finding where each one breaks takes time."""

_MOST_WORDS = 1000

_MOST_SHOWN = 100_000
"""The most characters of a bad reply that are sent back to the model."""

_LARGEST_FLOAT = sys.float_info.max


class SchemaRequest(Protocol):
    """The parts of a ``ChatRequest`` that this module uses."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def messages(self) -> tuple[Message, ...]:
        """The conversation."""

    @property
    def params(self) -> Mapping[str, Any]:
        """The parameters."""

    @property
    def reasoning(self) -> bool:
        """Whether the stream yields ``Reasoning`` items, too."""


Asked = TypeVar("Asked", bound=SchemaRequest)


class Schema:
    """A schema that a reply has to satisfy; create one with :meth:`of`.

    Attributes:
        json_schema: the JSON Schema.
        is_object: whether its root is an object; if not, the native form wraps it.
        response_format: the schema in OpenAI's form, for servers that accept it.
        prompt: the schema as an instruction to the model, for servers that do not.

    >>> Schema.of({"type": "object", "properties": {"name": {"type": "string"}}}).validate(
    ...     'Here it is: {"name": "Ada"}'
    ... )
    {'name': 'Ada'}
    """

    def __init__(
        self, given: Any, json_schema: dict[str, Any], name: str, load: Callable[[str], Any]
    ) -> None:
        self.json_schema = json_schema
        self.is_object = json_schema.get("type") == "object"
        self.response_format = _response_format(json_schema, name, wrap=not self.is_object)
        self.prompt = (
            "Reply with one JSON value that satisfies this JSON Schema, and with nothing else: "
            f"no explanation, no code fence.\n{json.dumps(json_schema, ensure_ascii=False)}"
        )
        self._given = given
        self._load = load
        self._refused_by: set[Hashable] = set()

    @classmethod
    def of(cls, schema: Any) -> Schema:
        """Prepare a schema.

        Args:
            schema: a JSON Schema as a dict, or a type: a dataclass, a ``TypedDict``, ``list[...]``,
                ``Literal``, an ``Enum``, a pydantic model, or any other type that pydantic
                supports.

        Raises:
            ImportError: the extra ``schema`` is not installed.
            InvalidRequestError: it is not a JSON Schema, or a type without one.
        """
        if isinstance(schema, Schema):
            return schema
        if isinstance(schema, Mapping):
            _refuse_format(schema)
            return _of_json(_dump_given(schema))
        if isinstance(schema, str):
            raise InvalidRequestError("schema is a type or a dict, not a text; use json.loads()")
        if {"__dataclass_fields__", "model_fields"}.intersection(dir(type(schema))):
            raise InvalidRequestError(f"schema is a value; pass its type, {type(schema).__name__}")
        try:
            return _of_type(schema)
        except TypeError as error:
            let_through(error)
            # Unhashable types, such as Annotated with a list inside, are prepared each time.
            return _of_type.__wrapped__(schema)

    def fields(self) -> list[str]:
        """The properties of the root as ``data`` names them: by a type's names, not its aliases."""
        made = self.json_schema
        if not isinstance(self._given, Mapping):
            # Loaded since the schema was made.
            adapter = sys.modules["pydantic"].TypeAdapter(_with_typed_dicts(self._given))
            made = _root_resolved(adapter.json_schema(by_alias=False))
        return list(made.get("properties", ()))

    def validate(self, text: str, *, wrapped: bool = False) -> Any:
        """Parse and validate a reply.

        Args:
            text: the reply: one JSON value, alone, in a code fence or with prose around it.
            wrapped: whether the model was asked for ``{"value": ...}`` because the root is not an
                object. A reply with or without that wrapper is accepted in either case.

        Raises:
            SchemaError: there is no JSON value, none satisfies the schema, or several do.
        """
        found: list[tuple[Any, Any]] = []
        faults: list[str] = []
        for value, source in _values(text):
            try:
                data = self._loaded(value, source, wrapped)
                _check_characters(value, source)
                found.append((value, data))
            except SchemaError as error:
                faults.append(str(error))
        different = len(found) if len(found) < 2 else len({_identity(value) for value, _ in found})
        if different == 1:
            return found[0][1]
        if found:
            raise SchemaError(f"{different} different JSON values in it satisfy the schema")
        raise SchemaError(faults[0] if faults else _no_value(text))

    def _loaded(self, value: Any, source: str, wrapped: bool) -> Any:
        sources = [source]
        if not self.is_object and isinstance(value, dict) and value.keys() == {"value"}:
            start = _WRAPPER.match(source)
            if start is not None:
                inside = source[start.end() : source.rindex("}")]
                sources = [inside, source] if wrapped else [source, inside]
        faults: list[SchemaError] = []
        for one in sources:
            try:
                return self._load(one)
            except SchemaError as error:
                faults.append(error)
        raise faults[0]

    def replies(
        self,
        request: Asked,
        attempt: Callable[[Asked], Generator[str, None, None]],
        *,
        native: bool,
        server: Hashable,
    ) -> Generator[str, None, None]:
        """Ask one provider, and yield the reply that satisfies the schema, with its ``data``.

        A reply that does not satisfy it is sent back to the model once, for correction. A server
        that refuses the native form gets the schema in the prompt, immediately, and from then on
        if that helped.

        Args:
            request: what is asked.
            attempt: makes one attempt.
            native: whether the provider supports ``response_format``.
            server: the address and the model, by which a refusal is remembered.

        Raises:
            SchemaError: neither reply satisfies the schema.
            LLMError: as for any attempt; ``attempts`` has all of them.
        """
        made: tuple[Attempt, ...] = ()
        native = native and server not in self._refused_by
        refused = False
        repair: tuple[Message, ...] = ()
        while True:
            try:
                reply = attempt(self._put(request, native, repair))
                text, finish = yield from _read(reply, thoughts=request.reasoning)
            except LLMError as error:
                let_through(error)
                made = error.attempts = (*made, *error.attempts)
                if not (native and _refuses_schema(error)):
                    raise
                native, refused = False, True
                continue
            if refused:
                self._refused_by.add(server)
            if finish.tool_calls:
                data = None
            else:
                try:
                    data = self.validate(text, wrapped=native)
                except SchemaError as fault:
                    rejection = self._rejection(str(fault), text, finish)
                    made = rejection.attempts = (*made, *rejection.attempts)
                    if repair or finish.reason in ("length", "content_filter"):
                        raise rejection from fault.__cause__
                    repair = _repair(text, str(fault))
                    continue
            if text:
                yield text
            yield finish.evolve(attempts=(*made, *finish.attempts), data=data)
            return

    def _put(self, request: Asked, native: bool, repair: tuple[Message, ...]) -> Asked:
        messages, params = request.messages, request.params
        if native:
            params = {**params, "response_format": self.response_format}
        else:
            messages = _instructed(messages, self.prompt)
        return replace(request, messages=(*messages, *repair), params=params, schema=None)

    @staticmethod
    def _rejection(fault: str, text: str, finish: FinishReason) -> SchemaError:
        cut = "; max_tokens cut it, raise max_tokens" if finish.reason == "length" else ""
        cut = "; a filter of the service stopped it" if finish.reason == "content_filter" else cut
        message = f"the reply does not satisfy the schema: {fault}{cut}"
        return rejected(message, text, finish, detail=fault, kind=SchemaError)

    def __reduce__(self) -> tuple[Any, ...]:
        return Schema.of, (self._given,)

    def __repr__(self) -> str:
        return f"Schema.of({shown(self._given)})"


def _read(
    stream: Generator[str, None, None], *, thoughts: bool
) -> Generator[str, None, tuple[str, FinishReason]]:
    """Read a reply; with ``thoughts``, an empty ``Reasoning`` marks its first text."""
    said = StreamText()
    with closing(stream):
        for piece in stream:
            said.add(piece)
            if isinstance(piece, Reasoning):
                yield piece
            elif piece and thoughts:
                thoughts = False
                yield Reasoning()
    return said.text, said.completion.finish_reason


def _refuses_schema(error: LLMError) -> bool:
    """Whether a server, and not the provider before sending, refused the native form."""
    if error.status_code is None or error.partial_text:
        return False
    words = str(error)
    if isinstance(error, UnsupportedError) and not _OTHER.search(words):
        return True
    return error.status_code in (400, 422, 500) and _REFUSAL.search(words) is not None


def _instructed(messages: tuple[Message, ...], prompt: str) -> tuple[Message, ...]:
    """The messages with the schema in the last one, so that a single message stays single."""
    *before, last = messages
    if last["role"] != "user":
        return (*messages, {"role": "user", "content": prompt})
    content = last["content"]
    if isinstance(content, str):
        content = f"{content}\n\n{prompt}"
    else:
        content = [*content, {"type": "text", "text": prompt}]
    return (*before, {**last, "content": content})


def _repair(text: str, fault: str) -> tuple[Message, ...]:
    said = (
        f"Your reply does not satisfy the JSON Schema: {fault}\n"
        "Reply again with the corrected JSON value, and with nothing else."
    )
    return {"role": "assistant", "content": text[:_MOST_SHOWN]}, {"role": "user", "content": said}


# -- JSON in a reply


def _float(digits: str) -> float:
    number = float(digits)
    if abs(number) > _LARGEST_FLOAT:
        raise ValueError("a number in it is too large")
    return number


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("an object in it has the same key twice")
    return made


_DECODER = json.JSONDecoder(
    parse_constant=refuse_constant, parse_float=_float, object_pairs_hook=_object
)


def _values(text: str) -> Iterator[tuple[Any, str]]:
    """The JSON values in a reply, each with its source.

    A reply that is JSON has one. Otherwise they are the contents of code fences, and the objects
    and arrays in the prose. No value is taken from inside a broken one: nothing is scanned twice,
    which also keeps the work linear in the length of the reply.

    Raises:
        SchemaError: there are too many, or one cannot be read.
    """
    text = text.strip().removeprefix("\ufeff").strip()
    try:
        yield _DECODER.decode(text), text
        return
    except (ValueError, RecursionError) as error:
        let_through(error)
        _readable_fault(error)
    seen = set()
    for source in _sources(text):
        if source in seen:
            continue
        seen.add(source)
        if len(seen) > _MOST_VALUES:
            raise SchemaError(f"there are more than {_MOST_VALUES} JSON values in it")
        yield _DECODER.decode(source), source


def _no_value(text: str) -> str:
    """Why a reply has no JSON value: what is wrong with the first one that it begins."""
    start = _START.search(text)
    try:
        _DECODER.raw_decode(text, len(text) if start is None else start.start())
    except (ValueError, RecursionError) as error:
        let_through(error)
        if start is not None and isinstance(error, json.JSONDecodeError):
            return f"there is no JSON value in it: {error.msg} at position {error.pos}"
    return "there is no JSON value in it"


def _sources(text: str) -> Iterator[str]:
    for fence in islice(_FENCE.finditer(text), _MOST_VALUES):
        source = fence[1].strip()
        try:
            _DECODER.decode(source)
        except (ValueError, RecursionError) as error:
            let_through(error)
        else:
            yield source
    at = broken_values = 0
    while (start := _START.search(text, at)) is not None:
        begin = start.start()
        try:
            _, at = _DECODER.raw_decode(text, begin)
        except (ValueError, RecursionError) as error:
            let_through(error)
            broken = _readable_fault(error)
            if broken.msg.startswith("Unterminated string"):
                return
            broken_values += 1
            if broken_values > _MOST_BROKEN:
                raise SchemaError("there are too many broken JSON values in it") from None
            at = broken.pos  # behind its first bracket, at least
        else:
            yield text[begin:at]


def _readable_fault(error: Exception) -> json.JSONDecodeError:
    """The error for a text that is not JSON.

    Raises:
        SchemaError: it looks like JSON, but something is wrong with it.
    """
    if isinstance(error, json.JSONDecodeError):
        return error
    if isinstance(error, RecursionError):
        raise SchemaError("its JSON is nested too deeply") from None
    said = str(error)
    long = "Exceeds the limit" in said
    raise SchemaError("a number in it is too large" if long else said) from None


def _check_characters(value: Any, source: str) -> None:
    """Raise ``SchemaError`` if there is half a character in it (a lone surrogate)."""
    _check_encodable(source)
    # Only an escape can make one in a text that can be encoded; to write all of it takes longer.
    if "\\ud" in source or "\\uD" in source:
        _identity(value)


def _check_encodable(text: str) -> None:
    if not is_encodable(text):
        raise SchemaError("there is half a character in it (a lone surrogate)")


def _identity(value: Any) -> str:
    """The value as a text that does not depend on how it was written."""
    try:
        text = json.dumps(value, ensure_ascii=False, sort_keys=True)
        _check_encodable(text)
    except RecursionError as error:
        let_through(error)
        raise SchemaError("its JSON is nested too deeply") from None
    return text


# -- schemas from types and from JSON


def _missing(error: ImportError) -> ImportError:
    return ImportError(f"schema= needs pydantic and jsonschema: {INSTALL} ({error})")


@lru_cache(maxsize=128)
def _of_type(kind: Any) -> Schema:
    try:
        import pydantic.errors
    except ImportError as error:
        raise _missing(error) from error
    try:
        adapter: pydantic.TypeAdapter[Any] = pydantic.TypeAdapter(_with_typed_dicts(kind))
        made = adapter.json_schema()
    except (pydantic.PydanticUserError, NameError) as error:
        # Its frames keep the frame that called them, as those of a signal handler do.
        raise InvalidRequestError(
            f"schema: {shown(kind)} has no JSON Schema: {error}"
        ) from error.with_traceback(None)

    def load(source: str) -> Any:
        try:
            return adapter.validate_json(source, strict=True)
        except pydantic.ValidationError as error:
            faults = error.errors(include_url=False, include_context=False, include_input=False)
            raise SchemaError(_told((fault["loc"], fault["msg"]) for fault in faults)) from error
        except Exception as error:
            let_through(error)
            raise SchemaError(f"{type(error).__name__}: {error}"[:_MOST_WORDS]) from error

    name = getattr(kind, "__name__", "") or ""
    return Schema(kind, _closed(_root_resolved(made)), name, load)


@lru_cache(maxsize=128)
def _of_json(document: str) -> Schema:
    try:
        import jsonschema
        import referencing.jsonschema
    except ImportError as error:
        raise _missing(error) from error
    schema = json.loads(document)
    kind = jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)
    try:
        kind.check_schema(schema)
        # The empty registry: nothing is ever fetched.
        registry: referencing.Registry[Any] = referencing.Registry()
        resolver = registry.resolver_with_root(
            referencing.jsonschema.DRAFT202012.create_resource(schema)
        )
        for one in _subschemas(schema):
            if isinstance(one.get("$ref"), str) and "$id" not in document:
                resolver.lookup(one["$ref"])
    except RecursionError as error:
        let_through(error)
        raise InvalidRequestError("schema is nested too deeply") from None
    except jsonschema.SchemaError as error:
        where = _place(error.absolute_path)
        raise InvalidRequestError(f"schema is not a JSON Schema: {where}{error.message}") from error
    except referencing.exceptions.Unresolvable as error:
        raise InvalidRequestError(
            f"schema refers to {error.ref!r}, which is not in it; nothing is fetched from elsewhere"
        ) from error
    validator = kind(schema, format_checker=kind.FORMAT_CHECKER, registry=registry)

    def load(source: str) -> Any:
        value = _DECODER.decode(source)
        try:
            faults = list(islice(validator.iter_errors(value), 10))
        except Exception as error:
            let_through(error)
            raise SchemaError(f"{type(error).__name__}: {error}"[:_MOST_WORDS]) from error
        if faults:
            raise SchemaError(_told((fault.absolute_path, fault.message) for fault in faults))
        return value

    return Schema(schema, schema, str(schema.get("title", "")), load)


def _refuse_format(schema: Mapping[str, Any]) -> None:
    """Raise an ``InvalidRequestError`` for what ``response_format`` takes, around the schema."""
    around = schema.keys() <= {"type", "name", "schema", "strict", "description"}
    inner = around and isinstance(schema.get("schema"), Mapping)
    if inner or schema.get("type") in ("json_schema", "json_object"):
        said = "schema is what goes around a JSON Schema in a response_format"
        raise InvalidRequestError(f"{said}: pass the inner one, or all of it as response_format=")


def _dump_given(schema: Mapping[str, Any]) -> str:
    try:
        return json.dumps(schema, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        let_through(error)
        raise InvalidRequestError(f"schema is not JSON: {error}") from error


def _told(faults: Any) -> str:
    """A validator's errors in one line, short enough for a prompt and an error message."""
    said = "; ".join(f"{_place(place)}{words[:300]}" for place, words in islice(faults, 10))
    return said if len(said) <= _MOST_WORDS else f"{said[:_MOST_WORDS]}..."


def _place(path: Any) -> str:
    place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return f"{place.removeprefix('.')}: " if place else ""


def _with_typed_dicts(kind: Any) -> Any:
    """``kind`` with typing's TypedDicts replaced by ones that pydantic accepts on old Pythons."""
    if sys.version_info >= (3, 12):
        return kind
    if is_typed_dict(kind) and type(kind).__module__ == "typing":
        from typing_extensions import NotRequired, TypedDict

        fields = {
            name: hint if required else NotRequired[hint]
            for name, (hint, required) in typed_dict_fields(kind).items()
            for hint in (_with_typed_dicts(hint),)
        }
        return TypedDict(kind.__name__, fields)  # type: ignore[operator]
    origin, args = get_origin(kind), get_args(kind)
    new = tuple(_with_typed_dicts(arg) for arg in args)
    if new == args:
        return kind
    if origin in (Union, UnionType):
        return reduce(or_, new)
    return origin[new]


_MAPS = ("properties", "$defs", "definitions", "patternProperties", "dependentSchemas")
_LISTS = ("anyOf", "allOf", "oneOf", "prefixItems")
_SINGLE = (
    *("items", "additionalProperties", "not", "if", "then", "else", "contains"),
    *("propertyNames", "unevaluatedItems", "unevaluatedProperties"),
)


def _mapped(schema: Any, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Any:
    """A schema with ``change`` applied to it and to every schema inside."""
    if not isinstance(schema, dict):
        return schema
    new = dict(schema)
    for name in _MAPS:
        if isinstance(new.get(name), dict):
            new[name] = {key: _mapped(one, change) for key, one in new[name].items()}
    for name in _LISTS:
        if isinstance(new.get(name), list):
            new[name] = [_mapped(one, change) for one in new[name]]
    for name in _SINGLE:
        if name in new:
            new[name] = _mapped(new[name], change)
    return change(new)


def _subschemas(schema: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []

    def keep(one: dict[str, Any]) -> dict[str, Any]:
        found.append(one)
        return one

    _mapped(schema, keep)
    return found


def _root_resolved(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema without a reference as its root, which pydantic makes for a recursive type."""
    definitions = schema.get("$defs", {})
    for name, one in definitions.items():
        if schema.get("$ref") == f"#/$defs/{name}":
            return {**one, "$defs": definitions}
    return schema


def _closed(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema with only the named properties allowed in each object.

    This is what the model is asked for; a reply with more is still accepted if the type allows it.
    """

    def close(one: dict[str, Any]) -> dict[str, Any]:
        if "properties" in one and "additionalProperties" not in one:
            return {**one, "additionalProperties": False}
        return one

    closed: dict[str, Any] = _mapped(schema, close)
    return closed


_STRICT = frozenset(
    (
        *("type", "properties", "required", "additionalProperties", "items", "enum", "const"),
        *("anyOf", "$ref", "$defs", "title", "description", "pattern", "format", "multipleOf"),
        *("maximum", "minimum", "exclusiveMaximum", "exclusiveMinimum", "minItems", "maxItems"),
    )
)

_STRICT_FORMATS = frozenset(
    ("date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid")
)
"""Source: OpenAI's guide to structured outputs, "Supported schemas"."""


def _is_strict(schema: dict[str, Any]) -> bool:
    """Whether a schema is within the subset that OpenAI accepts with ``strict``."""
    for one in _subschemas(schema):
        if not one.keys() <= _STRICT or one.get("format", "date") not in _STRICT_FORMATS:
            return False
        if not one.keys() & {"type", "enum", "const", "anyOf", "$ref"}:
            return False
        if one.get("type") == "array" and "items" not in one:
            return False
        if one.get("type") == "object" or "properties" in one:
            if one.get("additionalProperties") is not False:
                return False
            if set(one.get("required", ())) != set(one.get("properties", ())):
                return False
    return True


def _response_format(schema: dict[str, Any], name: str, *, wrap: bool) -> dict[str, Any]:
    sent = _wrapped(schema) if wrap else schema
    name = re.sub(r"[^A-Za-z0-9_-]+", "_", name)[:64].strip("_") or "reply"
    strict = {}
    if _is_strict(sent):
        strict, sent = {"strict": True}, _mapped(sent, _with_lone_reference)
    return {"type": "json_schema", "json_schema": {"name": name, **strict, "schema": sent}}


def _with_lone_reference(one: dict[str, Any]) -> dict[str, Any]:
    """The schema with nothing beside ``$ref``, which OpenAI refuses with ``strict``."""
    if "$ref" not in one or len(one) == 1 or one.keys() & {"anyOf", "$defs"}:
        return one
    return {**{k: v for k, v in one.items() if k != "$ref"}, "anyOf": [{"$ref": one["$ref"]}]}


def _wrapped(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema of ``{"value": ...}``, with its references adjusted."""

    def moved(one: dict[str, Any]) -> dict[str, Any]:
        ref = one.get("$ref")
        if not isinstance(ref, str) or not (ref == "#" or ref.startswith("#/")):
            return one
        if ref.startswith(("#/$defs/", "#/definitions/")):
            return one
        return {**one, "$ref": f"#/properties/value{ref[1:]}"}

    inside: dict[str, Any] = _mapped(schema, moved)
    shared: dict[str, Any]
    shared = {n: inside.pop(n) for n in ("$schema", "$defs", "definitions") if n in inside}
    return {
        "type": "object",
        "properties": {"value": inside},
        "required": ["value"],
        "additionalProperties": False,
        **shared,
    }
