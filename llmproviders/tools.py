"""Python functions as tools: their JSON form, the checks of a call's arguments, and the steps."""

from __future__ import annotations

import dataclasses
import enum
import inspect
import json
import re
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from functools import partial
from itertools import count
from types import NoneType, UnionType
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin

from . import _display
from ._checks import get_type_hints, is_typed_dict, shown, typed_dict_fields
from ._signals import let_through
from .messages import Message, as_json

Tool = Callable[..., Any] | Mapping[str, Any]
ToolCall = dict[str, Any]
OnTool = Callable[[ToolCall, str], object]

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_OTHERWISE = "annotate it with str or dict, and convert the value in the function"


class Mismatch(ValueError):  # noqa: N818 - it goes to the model and reaches no caller
    """A value of the wrong type for its parameter; the message is for the model."""


class _Shape(NamedTuple):
    """A type as a JSON Schema, and how to convert a JSON value to it.

    ``read`` gets the JSON value and its place for messages, and raises a ``Mismatch``.
    """

    schema: dict[str, Any]
    read: Callable[[Any, str], Any]


# -- types

_PLAIN: dict[Any, tuple[str, tuple[type, ...]]] = {
    str: ("string", (str,)),
    int: ("integer", (int,)),
    float: ("number", (int, float)),
    bool: ("boolean", (bool,)),
    **dict.fromkeys((None, NoneType), ("null", (NoneType,))),
}

_DATES: dict[Any, tuple[str, Callable[[str], Any]]] = {
    datetime: ("date-time", lambda text: datetime.fromisoformat(text.replace("Z", "+00:00"))),
    date: ("date", date.fromisoformat),
}


def _shape(kind: Any, within: tuple[Any, ...] = ()) -> _Shape:
    """The shape of a type.

    Raises:
        TypeError: JSON has no such type.
    """
    if kind in within:
        raise TypeError(f"{shown(kind)} contains itself; {_OTHERWISE}")
    origin, args = get_origin(kind), get_args(kind)
    if kind is Any or kind is inspect.Parameter.empty:
        return _Shape({}, lambda value, _: value)
    for name in ("__supertype__", "__value__"):  # of a NewType and of "type X = ..."
        if hasattr(kind, name):
            return _shape(getattr(kind, name), (*within, kind))
    if kind in _PLAIN:
        return _plain(kind)
    if kind in _DATES:
        return _date(kind)
    if origin is typing.Annotated:
        return _annotated(kind, args, within)
    if origin is Literal:
        return _choice([(value, value) for value in args])
    if origin in (Union, UnionType):
        return _union([_shape(arg, within) for arg in args])
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return _choice([(member.value, member) for member in kind])
    if is_typed_dict(kind):
        fields = {
            name: (_shape(hint, (*within, kind)), required)
            for name, (hint, required) in typed_dict_fields(kind).items()
        }
        return _fields(fields, dict)
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        hints = get_type_hints(kind, include_extras=True)
        return _fields(
            {
                field.name: (
                    _with_default(_shape(hints[field.name], (*within, kind)), field.default),
                    field.default is dataclasses.MISSING
                    and field.default_factory is dataclasses.MISSING,
                )
                for field in dataclasses.fields(kind)
                if field.init
            },
            lambda values: kind(**values),
        )
    if hasattr(kind, "model_json_schema") and hasattr(kind, "model_validate"):
        return _validated(kind.model_json_schema(), kind.model_validate, _shape(Any).read)
    return _collection(kind, origin, args, within)


def _plain(kind: Any) -> _Shape:
    name, types = _PLAIN[kind]

    def read(value: Any, place: str) -> Any:
        if type(value) is float and kind is int and value.is_integer():
            return int(value)
        if type(value) not in types:
            raise Mismatch(f"{place} is {_named(value)}, not {name}")
        if kind is not float:
            return value
        try:
            return float(value)
        except OverflowError:
            raise Mismatch(f"{place} is too large a number") from None

    return _Shape({"type": name}, read)


def _date(kind: Any) -> _Shape:
    form, parse = _DATES[kind]

    def read(value: Any, place: str) -> Any:
        try:
            return parse(value)
        except (ValueError, TypeError, AttributeError):
            raise Mismatch(f"{place} is no {form} of ISO 8601") from None

    return _Shape({"type": "string", "format": form}, read)


def _annotated(kind: Any, args: tuple[Any, ...], within: tuple[Any, ...]) -> _Shape:
    """The shape with its description, and with pydantic's checks for the rest of ``Annotated``."""
    schema, read = _shape(args[0], within)
    if not all(isinstance(extra, str) for extra in args[1:]):
        # Without pydantic, and for types that it does not support, only descriptions count.
        try:
            from pydantic import PydanticUserError, TypeAdapter

            made = TypeAdapter(kind)
            schema, read = _validated(made.json_schema(), made.validate_python, read)
        except ImportError as error:
            let_through(error)
        except PydanticUserError:
            pass
    about = (getattr(extra, "description", extra) for extra in args[1:])
    text = next((one for one in about if isinstance(one, str)), None)
    return _Shape({**schema, "description": text} if text else schema, read)


def _choice(pairs: list[tuple[Any, Any]]) -> _Shape:
    """A choice between JSON values, each with its value in Python; 1 and True are two."""
    values = [value for value, _ in pairs]
    schema: dict[str, Any] = {"enum": values} if len(values) > 1 else {"const": values[0]}
    kinds = {type(value) for value in values}
    names = {_PLAIN[kind][0] for kind in kinds if kind in _PLAIN}
    if len(kinds) == len(names) == 1:
        schema["type"] = names.pop()
    if not all(kind in _PLAIN for kind in kinds):
        raise TypeError(f"{shown(values)} are not JSON values")

    def read(value: Any, place: str) -> Any:
        for one, made in pairs:
            if type(one) is type(value) and one == value:
                return made
        choices = ", ".join(json.dumps(one, ensure_ascii=False) for one in values)
        raise Mismatch(f"{place} is not one of {choices}")

    return _Shape(schema, read)


def _union(shapes: Sequence[_Shape]) -> _Shape:
    def read(value: Any, place: str) -> Any:
        faults = []
        for shape in shapes:
            try:
                return shape.read(value, place)
            except Mismatch as error:
                faults.append(str(error))
        raise Mismatch(" and ".join(faults))

    return _Shape({"anyOf": [shape.schema for shape in shapes]}, read)


def _collection(kind: Any, origin: Any, args: tuple[Any, ...], within: tuple[Any, ...]) -> _Shape:
    base = origin or kind
    if base in (dict, Mapping, typing.Mapping):
        inner = _shape(args[1] if len(args) == 2 else Any, within)
        if args and args[0] is not str:
            raise TypeError(f"{shown(kind)}: the keys of a JSON object are strings")

        def read_object(value: Any, place: str) -> Any:
            if not isinstance(value, dict):
                raise Mismatch(f"{place} is {_named(value)}, not object")
            return {key: inner.read(one, f"{place}.{key}") for key, one in value.items()}

        return _Shape({"type": "object", "additionalProperties": inner.schema or True}, read_object)
    if base is tuple and args and args[-1] is not Ellipsis:
        raise TypeError(f"{shown(kind)}: give a dataclass or a list instead")
    made: dict[Any, Callable[[list[Any]], Any]] = {tuple: tuple, set: set, frozenset: frozenset}
    made |= dict.fromkeys((list, Sequence, Iterable), list)
    if base not in made:
        raise TypeError(f"{shown(kind)} is not a type that JSON has; {_OTHERWISE}")
    inner = _shape(args[0] if args else Any, within)
    schema: dict[str, Any] = {"type": "array", "items": inner.schema}
    if base in (set, frozenset):
        schema["uniqueItems"] = True

    def read(value: Any, place: str) -> Any:
        if not isinstance(value, list):
            raise Mismatch(f"{place} is {_named(value)}, not array")
        items = [inner.read(one, f"{place}[{index}]") for index, one in enumerate(value)]
        try:
            return made[base](items)
        except TypeError:
            raise Mismatch(f"{place} has items that no set can hold") from None

    return _Shape(schema, read)


def _fields(
    fields: Mapping[str, tuple[_Shape, bool]],
    make: Callable[[dict[str, Any]], Any],
    *,
    closed: bool = False,
) -> _Shape:
    """An object with named fields, each with its shape and whether it is required."""
    schema: dict[str, Any] = {
        "type": "object",
        "properties": {name: shape.schema for name, (shape, _) in fields.items()},
    }
    required = [name for name, (_, needed) in fields.items() if needed]
    if required:
        schema["required"] = required
    if closed:
        schema["additionalProperties"] = False

    def read(value: Any, place: str) -> Any:
        if not isinstance(value, dict):
            raise Mismatch(f"{place or 'the value'} is {_named(value)}, not object")
        stem = f"{place}." if place else ""
        missing = [stem + name for name in required if name not in value]
        unknown = [stem + name for name in value if name not in fields]
        if missing:
            raise Mismatch(f"{', '.join(missing)} is missing")
        if unknown:
            raise Mismatch(f"{', '.join(unknown)} is unknown")
        given = {name: fields[name][0].read(one, stem + name) for name, one in value.items()}
        try:
            return make(given)
        except (ValueError, TypeError) as error:
            let_through(error)
            raise Mismatch(f"{place}: {error}") from error

    return _Shape(schema, read)


def _validated(schema: dict[str, Any], validate: Callable[[Any], Any], read: Any) -> _Shape:
    """A shape that has pydantic check the value that ``read`` returns."""

    def checked(value: Any, place: str) -> Any:
        made = read(value, place)
        try:
            return validate(made)
        except ValueError as error:
            let_through(error)
            raise Mismatch(f"{place}: {error}") from error

    return _Shape(schema, checked)


def _with_default(shape: _Shape, default: Any) -> _Shape:
    """The shape with its default, if that can be written as JSON."""
    if default is dataclasses.MISSING or default is inspect.Parameter.empty:
        return shape
    try:
        said = json.loads(as_json(default))
    except (TypeError, ValueError) as error:
        let_through(error)
        return shape
    return shape._replace(schema={**shape.schema, "default": said})


def _named(value: Any) -> str:
    """The JSON type of a value."""
    kind = type(value)
    return "object" if kind is dict else "array" if kind is list else _PLAIN[kind][0]


# -- functions

_SPHINX = re.compile(
    r"\s*:(?:param|parameter|arg|argument|key|keyword)\s+(?:[^:]*\s)?\*{0,2}(\w+)\s*:\s*(.*)"
)
_SECTION = re.compile(
    r"((Keyword |Other )?(Args|Arguments|Parameters)|Returns?|Yields?|Raises|Examples?|Notes?):\s*"
)
_REFERENCE = re.compile(r'(?<=")#/\$defs/[^"]+')
_ARGUMENT = re.compile(r"\*{0,2}(\w+)\s*(?:\(.*?\))?\s*:\s*(.*)")


def _described(function: Callable[..., Any]) -> tuple[str, dict[str, str]]:
    """A docstring's description of a function and its parameters, in Google's or Sphinx's style."""
    about: list[str] = []
    parameters: dict[str, list[str]] = {}
    section = current = ""
    indent: int | None = None
    for line in (inspect.getdoc(function) or "").splitlines():
        text = line.strip()
        depth = len(line) - len(line.lstrip())
        if text and not depth and _SECTION.fullmatch(text):
            section, current, indent = text.rstrip(": "), "", None
        elif found := _SPHINX.match(line):
            section, current = "Sphinx", found[1]
            parameters[current] = [found[2]]
        elif text.startswith(">>>") or section == "Doctest":  # until a blank line
            section, current = "Doctest" if text else "", ""
        elif text.startswith(":") and not depth:
            section, current = "Other", ""
        elif section and text and not depth and section != "Sphinx":
            section = ""
            about.append(text)
        elif not section:
            about.append(text)
        elif section.endswith(("Args", "Arguments", "Parameters")) and text:
            indent = depth if indent is None else indent
            found = _ARGUMENT.match(text) if depth <= indent else None
            if found:
                current = found[1]
                parameters[current] = [found[2]]
            elif current:
                parameters[current].append(text)
        elif section == "Sphinx" and current and text and depth:
            parameters[current].append(text)
    told = {name: " ".join(lines).strip() for name, lines in parameters.items()}
    return "\n".join(about).strip(), told


class FunctionTool:
    """A Python function that a model may call.

    Args:
        function: its name, annotations, defaults and docstring make the form.

    Attributes:
        name: its name.
        form: OpenAI's JSON form of it.

    Raises:
        TypeError: it has no name, or a parameter that JSON cannot describe.

    >>> def weather(city: str, days: int = 1) -> str: ...
    >>> FunctionTool(weather).form["function"]["parameters"]["required"]
    ['city']
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        if not hasattr(function, "__name__") and hasattr(function, "name"):
            for inner in ("func", "fn"):  # LangChain's and others' tools
                if callable(getattr(function, inner, None)):
                    raise TypeError(
                        f"{type(function).__name__} is a tool of another library; pass the plain "
                        f"function, which is in its .{inner}"
                    )
        if not callable(function):
            raise TypeError(
                f"a tool is a function or a dict in OpenAI's form, not {shown(function)}"
            )
        plain: Any = function
        given: set[str] = set()
        while isinstance(plain, partial):
            given |= plain.keywords.keys()
            plain = plain.func
        self.name = getattr(plain, "__name__", type(plain).__name__)
        hinted = plain if hasattr(plain, "__name__") else type(plain).__call__
        if self.name == "<lambda>":
            raise TypeError(f"a tool is a function with a name, not {shown(function)}; use def")
        if not _NAME.fullmatch(self.name):
            raise TypeError(
                "a tool's name may have only Latin letters, digits, _ and -, 64 at most; rename "
                f"{self.name!r}"
            )
        if inspect.iscoroutinefunction(hinted):
            raise TypeError(f"the tool {self.name} is a coroutine; give a plain function")
        self._function = function
        about, told = _described(plain)
        try:
            hints = get_type_hints(inspect.unwrap(hinted), include_extras=True)
            parameters = inspect.signature(function).parameters
        except (NameError, ValueError) as error:
            raise TypeError(f"the signature of the tool {self.name}: {error}") from error
        self._positional: dict[str, Any] = {}
        fields: dict[str, tuple[_Shape, bool]] = {}
        for name, parameter in parameters.items():
            if name in given or parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                continue
            try:
                shape = _shape(hints.get(name, Any))
            except TypeError as error:
                raise TypeError(f"the parameter {name} of the tool {self.name}: {error}") from error
            shape = _with_default(shape, parameter.default)
            if told.get(name):
                shape = shape._replace(schema={**shape.schema, "description": told[name]})
            if parameter.kind is parameter.POSITIONAL_ONLY:
                self._positional[name] = parameter.default
            fields[name] = shape, parameter.default is parameter.empty
        self._shape = _fields(fields, dict, closed=True)
        self.form: dict[str, Any] = {
            "type": "function",
            "function": {
                "name": self.name,
                **({"description": about} if about else {}),
                "parameters": _with_shared_definitions(self._shape.schema),
            },
        }

    def arguments(self, text: str) -> dict[str, Any]:
        """The arguments of a call as Python values.

        Raises:
            ValueError: they do not fit the form; the message is for the model.
        """
        try:
            given = json.loads(text or "{}", parse_constant=refuse_constant)
        except (ValueError, RecursionError) as error:
            let_through(error)
            raise Mismatch(f"the arguments are no JSON object: {error}") from None
        arguments: dict[str, Any] = self._shape.read(given, "")
        return arguments

    def __call__(self, arguments: dict[str, Any]) -> Any:
        """Call the function with the result of :meth:`arguments`."""
        named = dict(arguments)
        positional = [named.pop(name, default) for name, default in self._positional.items()]
        return self._function(*positional, **named)


def _with_shared_definitions(schema: dict[str, Any]) -> dict[str, Any]:
    """The same with the definitions of pydantic's models at the root, where references point."""
    shared: dict[str, Any] = {}

    def without(one: Any) -> Any:
        if isinstance(one, list):
            return [without(each) for each in one]
        if not isinstance(one, dict):
            return one
        if "$defs" not in one:
            return {key: without(value) for key, value in one.items()}
        # Another model may have other definitions with the same names.
        for number in count(1):
            suffix = f"_{number}" if number > 1 else ""
            text = _REFERENCE.sub(rf"\g<0>{suffix}", json.dumps(one))
            renamed: dict[str, Any] = json.loads(text)
            own = {name + suffix: each for name, each in renamed.pop("$defs").items()}
            if all(shared.get(name, each) == each for name, each in own.items()):
                break
        shared.update(own)
        return renamed

    whole: dict[str, Any] = without(schema)
    return {**whole, "$defs": shared} if shared else whole


def refuse_constant(word: str) -> Any:
    """Refuse ``NaN`` and the like, for a ``parse_constant`` of ``json``."""
    raise ValueError(f"{word} is not JSON")


def tool_forms(tools: Iterable[Tool]) -> list[dict[str, Any]]:
    """OpenAI's JSON forms of tools; those that are JSON forms already are unchanged."""
    return [dict(t) if isinstance(t, Mapping) else FunctionTool(t).form for t in listed(tools)]


def listed(tools: Any) -> list[Any]:
    """The tools as a list; a ``TypeError`` if they are one tool, or no tools at all."""
    if isinstance(tools, (Mapping, str)) or not isinstance(tools, Iterable):
        raise TypeError(f"tools is a list of functions or of dicts, not {shown(tools)}")
    return list(tools)


@dataclass(frozen=True)
class ToolStep:
    """One call of a function in a run.

    Attributes:
        turn: which of the model's replies asked for it, from 1.
        name: the function's name, as the model gave it.
        arguments: the JSON text that the model gave.
        result: the text that was returned to the model.
        failed: whether that is an error: an unknown name, wrong arguments, an exception.
        duration: seconds that the function took.
    """

    turn: int
    name: str
    arguments: str
    result: str
    failed: bool
    duration: float

    def as_dict(self) -> dict[str, Any]:
        """The step as a JSON object."""
        return dataclasses.asdict(self)


class Steps(tuple[ToolStep, ...]):
    """The steps of a run, in order: a tuple that a notebook shows as a table.

    Attributes:
        messages: the messages added to the conversation before the final reply.
    """

    messages: tuple[Message, ...]

    def __new__(cls, steps: Iterable[ToolStep] = (), messages: Iterable[Message] = ()) -> Steps:
        """Create them from the steps and the messages."""
        self = super().__new__(cls, steps)
        self.messages = tuple(messages)
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (tuple(self), self.messages)

    def _repr_html_(self) -> str:
        head = ("turn", "function", "arguments", "result", "duration")
        seconds = _display.text.seconds
        rows = ((s.turn, s.name, s.arguments, s.result, seconds(s.duration)) for s in self)
        return _display.html.table(f"Steps ({len(self)})", head, rows, numeric=(head[0], head[-1]))
