"""Functions as tools: their form, the check of a call, and the run that calls them."""

from __future__ import annotations

import enum
import functools
import json
import pickle
import re
import signal
import sys
import time
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timezone
from datetime import time as clock
from decimal import Decimal
from typing import Annotated, Any, Literal, NewType, Optional, Union

import annotated_types
import numpy
import pydantic
import pytest
from typing_extensions import NotRequired, Required, TypeAliasType, TypedDict

from llmproviders import (
    DeadlineExceeded,
    FailoverClient,
    FinishReason,
    InvalidRequestError,
    Provider,
    RejectedReplyError,
    ServerError,
    StreamInterrupted,
)
from llmproviders._redact import MASK, conceal
from llmproviders.provider import Call, Fetch, Reply, Request
from llmproviders.results import Completion
from llmproviders.testing import ScriptedProvider
from llmproviders.tools import FunctionTool, Steps, ToolStep, tool_forms
from tests.support.actors import FakeClock


class Unit(enum.Enum):
    CELSIUS = "celsius"
    FAHRENHEIT = "fahrenheit"


class Place(TypedDict):
    city: str
    country: NotRequired[str]


@dataclass
class Span:
    start: int
    end: int = 7


def plain(city: str, days: int, exact: float = 0.5, live: bool = True) -> str:
    """Tell the weather."""
    return f"{city} {days} {exact} {live}"


def choices(unit: Unit, mode: Literal["short", "long"] = "short", level: Literal[1, 2] = 1) -> None:
    """Choose."""


def unions(a: int | None = None, b: Optional[str] = None, c: Union[int, str] = 1) -> None:  # noqa: UP007, UP045
    """Take several kinds."""


def collections(
    tags: list[str], counts: dict[str, int], seen: set[int], more: list[list[int]]
) -> None:
    """Take collections."""


def bare(some: dict, all_: list, seen: set = frozenset()) -> None:  # type: ignore[assignment, type-arg]
    """Take collections of whatever there is."""


def objects(place: Place, span: Span, spans: list[Span]) -> None:
    """Take objects."""


def anything(value, other: Any = None) -> None:  # type: ignore[no-untyped-def]
    """Take anything."""


def dated(day: date) -> str:
    """Take a day."""
    return repr(day)


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Mixed(enum.Enum):
    WORD = "a"
    NUMBER = 2
    NOTHING = None


def moments(at: datetime, day: date | None = None) -> None:
    """Take points in time."""


def sequences(
    points: tuple[int, ...],
    names: frozenset[str],
    some: Sequence[int],
    each: Iterable[str] = ("a",),
    pair: tuple = (),  # type: ignore[type-arg]
) -> None:
    """Take other collections."""


def tables(some: dict, more: Mapping, words: dict[str, str]) -> None:  # type: ignore[type-arg]
    """Take objects with fields of any name."""


def mixed(
    word: Literal["ä", 1],
    flag: Literal[1, True],
    level: Level = Level.LOW,
    value: Mixed = Mixed.WORD,
    limit: Literal["auto"] | float = "auto",
    nothing: None = None,
) -> None:
    """Take choices of several kinds."""


def google(city: str, days: int = 1) -> str:
    """Tell the weather.

    It is made up.

    Args:
        city: where, by its
            usual name.
        days (int): how many.

    Returns:
        What to expect.
    """
    return f"{city}: rain for {days}"


def sphinx(city: str, days: int = 1) -> str:
    """Tell the weather.

    It is made up.

    :param city: where, by its
        usual name.
    :param int days: how many.
    :returns: what to expect.
    """
    return f"{city}: rain for {days}"


class Where(pydantic.BaseModel):
    city: str


class Route(pydantic.BaseModel):
    """Two places."""

    start: Where
    end: Where
    unit: Unit = Unit.CELSIUS


@dataclass
class Trip:
    route: Route
    spare: Optional[Route] = None  # noqa: UP045


class Elsewhere(pydantic.BaseModel):
    class Where(pydantic.BaseModel):
        street: int

    where: Where


@dataclass
class Node:
    others: list[Node]


@dataclass
class Linked:
    after: Link | None = None


Link = NewType("Link", Linked)


@dataclass
class Noted:
    other: Annotated[Noted | None, "another"] = None


class Branch(TypedDict):
    twigs: NotRequired[dict[str, Branch]]


class Chain(pydantic.BaseModel):
    links: list[Chain] = []


Metres = NewType("Metres", int)
Height = TypeAliasType("Height", float)


def models(
    routes: list[Route],
    by_name: dict[str, Route],
    where: Where,
    trip: Trip,
    elsewhere: list[Elsewhere],
    either: Route | Elsewhere | None = None,
) -> None:
    """Take models inside of other types, some with parts of the same name."""


def named(width: Metres, widths: list[Metres], height: Height = 1.5) -> None:
    """Take a type with a name of its own."""


class Order(TypedDict):
    count: Annotated[int, pydantic.Field(gt=0, le=9)]
    note: NotRequired[Annotated[str, annotated_types.Len(1, 5)]]


class Pair(typing.TypedDict):
    left: int


class Loose(TypedDict, total=False):
    city: Required[str]
    country: str


def loose(place: Loose, always: Literal["yes"], counts: Mapping[str, list[int]]) -> None:
    """Take fields that are required and others, and one value only."""


@dataclass
class Window:
    width: Annotated[float, pydantic.Field(ge=0.5, multiple_of=0.5)] = 1.0


def constrained(
    days: Annotated[int, pydantic.Field(ge=3, description="how many")],
    code: Annotated[str, pydantic.Field(min_length=2, max_length=3, pattern="^[A-Z]+$")],
    order: Order,
    window: Window,
    share: Annotated[float, annotated_types.Interval(gt=0, lt=1)] = 0.5,
    tags: Annotated[list[Annotated[str, annotated_types.MinLen(1)]], pydantic.Field(max_length=2)]
    | None = None,
    maybe: Annotated[int | None, pydantic.Field(ge=1, examples=[4])] = None,
    where: Annotated[Where | None, pydantic.Field(description="a place")] = None,
    unit: Annotated[Unit, pydantic.Field(json_schema_extra={"x-order": 1})] = Unit.CELSIUS,
    day: Annotated[date, annotated_types.Gt(date(2020, 1, 1))] = date(2024, 2, 29),
    word: Annotated[str, pydantic.StringConstraints(strip_whitespace=True), "a word"] = "",
    marked: Annotated[int, object()] = 1,
) -> None:
    """Take types with bounds."""


def google_odd(city: str, days: int = 1) -> str:
    """Tell the weather.

    It is made up.

    Args:

        city:
            where, by its
            usual name.

    Keyword Args:
        days (int | tuple(int, int), optional): how many.
    Raises:
        ValueError: never.
    """
    return f"{city}: rain for {days}"


def sphinx_odd(city: str, days: int = 1) -> str:
    """Tell the weather.

    It is made up.

    :raises ValueError: never.
    :arg str city: where,

        by its usual name.
    :type days: int
    :keyword days:
        how many.
    :rtype: str
    """
    return f"{city}: rain for {days}"


@dataclass
class Ordered:
    start: int
    end: int

    def __post_init__(self) -> None:
        if self.end < self.start:
            raise ValueError("it ends before it begins")


def ordered(span: Ordered) -> None:
    """Take what checks itself."""


def placed(where: Where, by_name: dict[str, Where] | None = None) -> None:
    """Take models."""


FUNCTIONS = [
    *(plain, choices, unions, collections, objects, anything, dated, google, sphinx),
    *(models, named, constrained, loose, moments, sequences, mixed, tables),
]


def simple(schema: Any, definitions: Any = None) -> Any:
    """A schema without titles and descriptions, its references followed."""
    definitions = schema.get("$defs", {}) if definitions is None else definitions
    if isinstance(schema, list):
        return [simple(one, definitions) for one in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        inside = definitions[schema["$ref"].removeprefix("#/$defs/")]
        return simple({**inside, **{k: v for k, v in schema.items() if k != "$ref"}}, definitions)
    left_out = ("$defs", "description") + (
        ("title",) if isinstance(schema.get("title"), str) else ()
    )
    return {k: simple(v, definitions) for k, v in schema.items() if k not in left_out}


def погода(city: str) -> str:
    """A name that no service takes."""
    return city


@dataclass
class Endless:
    """A type that contains itself."""

    inner: Endless | None = None


class StructuredTool:
    """What LangChain's decorator makes of a function."""

    name = "weather"
    func = staticmethod(погода)


class TestForm:
    @pytest.mark.parametrize("function", FUNCTIONS)
    def test_the_same_as_pydantic(self, function: Any) -> None:
        """The parameters are what pydantic makes of the same function."""
        ours = FunctionTool(function).form["function"]["parameters"]
        assert simple(ours) == simple(pydantic.TypeAdapter(function).json_schema())

    def test_a_function_without_a_signature(self) -> None:
        """A builtin whose signature Python does not know is refused with its name."""
        with pytest.raises(TypeError, match="the signature of the tool max: "):
            FunctionTool(max)

    def test_definitions_stand_at_the_root(self) -> None:
        """Each reference has its definition there, and every definition has but one."""

        def chained(chain: Chain, chains: list[Chain], elsewhere: list[Elsewhere]) -> None:
            """Take models that hold themselves."""

        found = []
        for function in (models, chained):
            parameters = FunctionTool(function).form["function"]["parameters"]
            text = json.dumps(parameters)
            assert text.count('"$defs"') == 1
            assert set(re.findall(r'"#/\$defs/([^"]+)"', text)) == set(parameters["$defs"])
            found.append(sorted(parameters["$defs"]))
        assert found == [["Unit", "Where", "Where_2"], ["Chain", "Where"]]

    def test_defaults_that_json_cannot_say(self) -> None:
        """They are left out of the form, and the parameter may be left out of a call."""

        class Odd:
            def __eq__(self, other: object) -> bool:
                raise ValueError("ambiguous, as an array of numpy is")

            __hash__ = None  # type: ignore[assignment]

        def take(a: float = float("nan"), b: Any = Odd(), c: float = float("inf")) -> None:  # noqa: B008
            """Take."""

        parameters = FunctionTool(take).form["function"]["parameters"]
        assert parameters["properties"] == {
            "a": {"type": "number"},
            "b": {},
            "c": {"type": "number"},
        }
        assert "required" not in parameters

    @pytest.mark.parametrize("function", [google, google_odd, sphinx, sphinx_odd])
    def test_docstrings(self, function: Any) -> None:
        """Descriptions of the function and its parameters come from both styles of docstring."""
        form = FunctionTool(function).form["function"]
        assert form["description"] == "Tell the weather.\n\nIt is made up."
        about = {name: one["description"] for name, one in form["parameters"]["properties"].items()}
        assert about == {"city": "where, by its usual name.", "days": "how many."}

    @pytest.mark.parametrize(
        ("text", "description", "about"),
        [
            (
                "Tell.\n\nArguments:\n    city: where:\n      on: earth.\n\nIt rains.\n\nIt snows.",
                "Tell.\n\nIt rains.\n\nIt snows.",
                {"city": "where: on: earth."},
            ),
            (
                "Tell.\n\nParameters:\n city: where.\n **days: how many.\nRaises:\n city: never.",
                "Tell.",
                {"city": "where.", "days": "how many."},
            ),
            (
                "Tell.\n\nOther Parameters:\n    on earth\n    city (a (b)): where,\n    on earth.",
                "Tell.",
                {"city": "where, on earth."},
            ),
            (
                "Tell.\n\nArgs:\n    city: where.\n\nExample:\n    It rains.\n",
                "Tell.",
                {"city": "where."},
            ),
            (
                "Tell.\n:param str city: where.\n:returns: w\n c\n:parameter days: how\n many.\nA",
                "Tell.",
                {"city": "where.", "days": "how many."},
            ),
            (
                "Tell.\n\nIn short:\n    Args:\n    city: where.",
                "Tell.\n\nIn short:\nArgs:\ncity: where.",
                {},
            ),
            (
                "Tell.\n\n>>> tell('O')\n'rain'\n\nIt rains.\n\n    >>> tell('T')\n    'snow'\n",
                "Tell.\n\nIt rains.",
                {},
            ),
            (
                "Tell.\n\nArgs:\n    city: where.\n\n    >>> 1\n    days: 1\n",
                "Tell.",
                {"city": "where."},
            ),
            ("Tell.\n\nArgs: city: where.", "Tell.\n\nArgs: city: where.", {}),
        ],
    )
    def test_where_a_docstring_speaks_of_what(
        self, text: str, description: str, about: dict[str, str]
    ) -> None:
        """Sections, fields and examples end where the text goes on; only parameters get words."""

        def tell(city: str, days: int) -> None:
            pass

        tell.__doc__ = text
        form = FunctionTool(tell).form["function"]
        found = form["parameters"]["properties"]
        assert form["description"] == description
        assert {n: one["description"] for n, one in found.items() if "description" in one} == about

    def test_annotated(self) -> None:
        """A text in ``Annotated`` describes a parameter; pydantic's models are taken, too."""

        def find(where: Where, day: Annotated[str, "which day"]) -> str:
            return f"{where.city} {day}"

        tool = FunctionTool(functools.partial(find))
        parameters = tool.form["function"]["parameters"]
        assert parameters["properties"]["day"]["description"] == "which day"
        assert tool(tool.arguments('{"where": {"city": "Omsk"}, "day": "Monday"}')) == "Omsk Monday"

    def test_annotated_with_bounds(self) -> None:
        """What pydantic puts into the form holds for a call, too, and the model is told of it."""
        tool = FunctionTool(constrained)
        about = tool.form["function"]["parameters"]["properties"]
        assert about["days"] == {"type": "integer", "minimum": 3, "description": "how many"}
        assert about["word"]["description"] == "a word"
        assert about["marked"] == {"type": "integer", "default": 1}
        given = {"days": 3, "code": "OMS", "order": {"count": 1}, "window": {}}
        found = tool.arguments(json.dumps({**given, "word": " a ", "day": "2024-03-01"}))
        assert (found["days"], found["word"], found["day"]) == (3, "a", date(2024, 3, 1))
        for wrong, words in (
            ({"days": 2}, "days: .*greater than or equal to 3"),
            ({"days": "3"}, "days is string, not integer"),
            ({"code": "oms"}, "code: .*match pattern"),
            ({"order": {"count": 10}}, r"order\.count: .*less than or equal to 9"),
            ({"order": {"count": 1, "note": ""}}, r"order\.note: .*at least 1"),
            ({"window": {"width": 0.7}}, r"window\.width: .*multiple of 0\.5"),
            ({"tags": ["a", "b", "c"]}, "tags: .*at most 2"),
            ({"tags": [""]}, r"tags\[0\]: .*at least 1"),
            ({"day": "2019-01-01"}, "day: .*greater than"),
        ):
            with pytest.raises(ValueError, match=f"(?s){words}"):
                tool.arguments(json.dumps({**given, **wrong}))

    @pytest.mark.skipif(
        sys.version_info >= (3, 12), reason="pydantic has a form for typing.TypedDict"
    )
    def test_annotated_for_which_pydantic_has_no_form(self) -> None:
        """A type that pydantic does not take keeps its own form and its description."""

        def take(pair: Annotated[Pair, pydantic.Field(description="two")]) -> None:
            """Take."""

        tool = FunctionTool(take)
        about = tool.form["function"]["parameters"]["properties"]["pair"]
        assert about["description"] == "two"
        assert about["properties"]["left"]["type"] == "integer"
        assert tool.arguments('{"pair": {"left": 1}}') == {"pair": {"left": 1}}

    def test_what_contains_itself(self) -> None:
        """A type that is inside of itself has no form without references, and is refused."""

        def spread(node: Node) -> None:
            pass

        def typed(branch: list[Branch]) -> None:
            pass

        def linked(link: Link) -> None:
            pass

        def noted(node: Annotated[Noted, "a node"]) -> None:
            pass

        for function, words in (
            (spread, "Node.* contains itself"),
            (typed, "Branch.* contains itself"),
            (noted, "Noted.* contains itself"),
            (linked, "Link.* contains itself"),
        ):
            with pytest.raises(TypeError, match=f"the tool {function.__name__}: .*{words}"):
                FunctionTool(function)

    def test_what_it_is_made_of(self) -> None:
        """The form of an instance comes from its ``__call__``, of a wrapper from what it wraps;
        parameters that take whatever comes are left out."""

        class Desk:
            """A desk."""

            def __call__(self, item: str, count: int = 2) -> str:
                return item * count

        def order(item: str, *more: int, count: int = 2, **rest: int) -> str:
            """A desk."""
            return item * count

        @functools.wraps(order)
        def wrapper(*args: Any, **kwargs: Any) -> str:
            return order(*args, **kwargs)

        for tool, name in ((Desk(), "Desk"), (order, "order"), (wrapper, "order")):
            made = FunctionTool(tool)
            assert made.form == {
                "type": "function",
                "function": {
                    "name": name,
                    "description": "A desk.",
                    "parameters": {
                        "type": "object",
                        "properties": {
                            "item": {"type": "string"},
                            "count": {"type": "integer", "default": 2},
                        },
                        "required": ["item"],
                        "additionalProperties": False,
                    },
                },
            }
            assert made(made.arguments('{"item": "a"}')) == "aa"

    def test_a_partial_of_a_partial(self) -> None:
        """What either of them gives is not the model's to choose."""
        inner = functools.partial(plain, exact=0.25)
        # Without it, Python would make one partial of both.
        inner.note = "kept"  # type: ignore[attr-defined]
        tool = FunctionTool(functools.partial(inner, live=False))
        assert list(tool.form["function"]["parameters"]["properties"]) == ["city", "days"]
        assert tool(tool.arguments('{"city": "Omsk", "days": 1}')) == "Omsk 1 0.25 False"

    def test_without_words(self) -> None:
        """A function without a docstring has no description, nor have its parameters."""

        def silent(x: int) -> int:
            return x

        assert FunctionTool(silent).form["function"] == {
            "name": "silent",
            "parameters": {
                "type": "object",
                "properties": {"x": {"type": "integer"}},
                "required": ["x"],
                "additionalProperties": False,
            },
        }

    def test_positions_that_a_call_leaves_out(self) -> None:
        """A parameter that is given by position keeps its default if the model leaves it out."""

        def order(item: str = "b", count: int = 2, /) -> str:
            return item * count

        tool = FunctionTool(order)
        assert tool(tool.arguments('{"item": "a"}')) == "aa"
        assert tool(tool.arguments('{"count": 3}')) == "bbb"

    def test_methods_partials_and_instances(self) -> None:
        """A bound method has no ``self``; what a partial gives is not the model's to choose."""

        class Desk:
            def order(self, item: str, count: int, /, *, note: str = "") -> str:
                return f"{item} {count} {note}"

            def __call__(self, item: str) -> str:
                return item

        tool = FunctionTool(functools.partial(Desk().order, note="n"))
        assert tool.name == "order"
        assert list(tool.form["function"]["parameters"]["properties"]) == ["item", "count"]
        assert tool(tool.arguments('{"count": 2, "item": "nut"}')) == "nut 2 n"
        assert FunctionTool(Desk()).name == "Desk"

    @pytest.mark.parametrize("kind", [complex, bytes, Endless])
    def test_a_type_that_json_lacks(self, kind: Any) -> None:
        """The advice for such a parameter holds for ``run`` too, which takes no JSON form."""

        def tool(value: Any) -> None:
            pass

        tool.__annotations__["value"] = kind
        with pytest.raises(TypeError, match="annotate it with str or dict") as caught:
            Turns("Yes.").run("Hi", tools=[tool])
        assert "JSON form" not in str(caught.value)

    @pytest.mark.parametrize(
        "flat", [{"type": "function", "name": "f", "parameters": {}}, {"name": "f"}]
    )
    def test_a_flat_form(self, flat: Any) -> None:
        """A form without ``function``, as other interfaces have it, is told with the right one."""
        provider = ScriptedProvider(["Hi"])
        with pytest.raises(InvalidRequestError, match=r"tools\[1\] has no 'function': the form is"):
            provider.complete("Hi", tools=[plain, flat])
        assert provider.requests == []

    @pytest.mark.parametrize(
        "tool", [lambda x: x, 5, "weather", FunctionTool.arguments, {1: 2}.get]
    )
    def test_what_is_no_tool(self, tool: Any) -> None:
        """What has no name or no types that JSON has is a ``TypeError`` before anything is sent."""

        def bad(value: complex) -> None:
            pass

        async def later(x: int) -> None:
            pass

        def keys(counts: dict[int, str]) -> None:
            pass

        def pair(place: tuple[float, float]) -> None:
            pass

        def one(place: tuple[int]) -> None:
            pass

        def values(size: Literal[b"small"]) -> None:
            pass

        provider = ScriptedProvider(["Hi"])
        for wrong, words in (
            (bad, "complex.* is not a type that JSON has"),
            (later, "the tool later is a coroutine"),
            (keys, r"dict\[int, str\].*: the keys of a JSON object are strings"),
            (one, r"tuple\[int\].*: give a dataclass or a list instead"),
            (pair, r"tuple\[float, float\].*: give a dataclass or a list instead"),
            (values, "small.* are not JSON values"),
            (погода, "only Latin letters, digits, _ and -, 64 at most; rename 'погода'"),
            (StructuredTool(), r"StructuredTool is a tool of another library; pass .* its \.func$"),
            (lambda x: x, "a tool is a function with a name, not .*; use def"),
        ):
            with pytest.raises(TypeError, match=words):
                provider.complete("Hi", tools=[wrong])
        if not hasattr(tool, "__qualname__") or "<lambda>" in tool.__qualname__:
            with pytest.raises(TypeError):
                provider.complete("Hi", tools=[tool])
        with pytest.raises(TypeError, match="list"):
            provider.complete("Hi", tools=plain)
        assert provider.requests == []

    def test_forms_are_sent_for_functions(self) -> None:
        """``complete`` sends the forms; what is a form already stays as it is."""
        given = {"type": "function", "function": {"name": "f"}}
        provider = ScriptedProvider(["Hi"])
        provider.complete("Hi", tools=[plain, given])
        assert provider.requests[0].params["tools"] == [*tool_forms([plain]), given]


class TestArguments:
    @pytest.mark.parametrize(
        ("function", "arguments", "value"),
        [
            (
                plain,
                '{"city": "Omsk", "days": 2.0, "exact": 1}',
                {"city": "Omsk", "days": 2, "exact": 1.0},
            ),
            (choices, '{"unit": "celsius", "level": 2}', {"unit": Unit.CELSIUS, "level": 2}),
            (unions, '{"a": null, "c": "x"}', {"a": None, "c": "x"}),
            (unions, "", {}),
            (
                collections,
                '{"tags": [], "counts": {}, "seen": [1, 1], "more": [[1]]}',
                {"tags": [], "counts": {}, "seen": {1}, "more": [[1]]},
            ),
            (
                objects,
                '{"place": {"city": "Omsk"}, "span": {"start": 1}, "spans": []}',
                {"place": {"city": "Omsk"}, "span": Span(1), "spans": []},
            ),
            (dated, '{"day": "2024-02-29"}', {"day": date(2024, 2, 29)}),
            (named, '{"width": 2, "widths": [3.0]}', {"width": 2, "widths": [3]}),
            (
                loose,
                '{"place": {"city": "Omsk"}, "always": "yes", "counts": {"a": [1]}}',
                {"place": {"city": "Omsk"}, "always": "yes", "counts": {"a": [1]}},
            ),
            (bare, '{"some": {"a": 1}, "all_": ["b", 2]}', {"some": {"a": 1}, "all_": ["b", 2]}),
            (
                moments,
                '{"at": "2024-02-29T10:00:00Z", "day": null}',
                {"at": datetime(2024, 2, 29, 10, tzinfo=timezone.utc), "day": None},
            ),
            (
                sequences,
                '{"points": [1, 2], "names": ["a"], "some": [3], "each": ["b"], "pair": [1, "c"]}',
                {
                    "points": (1, 2),
                    "names": frozenset("a"),
                    "some": [3],
                    "each": ["b"],
                    "pair": (1, "c"),
                },
            ),
            (
                mixed,
                '{"word": 1, "flag": 1, "level": 2, "value": null, "limit": 1, "nothing": null}',
                {
                    "word": 1,
                    "flag": 1,
                    "level": Level.HIGH,
                    "value": Mixed.NOTHING,
                    "limit": 1.0,
                    "nothing": None,
                },
            ),
            (mixed, '{"word": "ä", "flag": true}', {"word": "ä", "flag": True}),
        ],
    )
    def test_values(self, function: Any, arguments: str, value: Any) -> None:
        """Arguments become values of the types of their parameters."""
        found = FunctionTool(function).arguments(arguments)
        assert (found, repr(found)) == (value, repr(value))

    @pytest.mark.parametrize(
        ("function", "arguments", "words"),
        [
            (plain, '{"days": 1}', "city is missing"),
            (plain, '{"city": "Omsk", "days": 1, "day": 2}', "day is unknown"),
            (plain, '{"city": "Omsk", "days": "1"}', "days is string, not integer"),
            (plain, '{"city": "Omsk", "days": true}', "days is boolean, not integer"),
            (plain, '{"city": "Omsk", "days": 1.5}', "days is number, not integer"),
            (plain, '{"city": "Omsk", "days": 1, "exact": ' + "9" * 400 + "}", "too large"),
            (plain, "[1]", "the value is array, not object"),
            (plain, '{"city": "Om', "no JSON object"),
            (plain, '{"city": NaN}', "NaN"),
            (plain, "[" * 100_000, "no JSON object"),
            (choices, '{"unit": "kelvin"}', 'unit is not one of "celsius", "fahrenheit"'),
            (choices, '{"unit": "celsius", "level": true}', "level is not one of 1, 2"),
            (unions, '{"a": "x"}', "a is string, not integer and a is string, not null"),
            (objects, '{"place": {}, "span": {"start": 1}, "spans": []}', "place.city is missing"),
            (
                objects,
                '{"place": {"city": "O"}, "span": {"start": 1}, "spans": [{"start": "1"}]}',
                r"spans\[0\].start is string",
            ),
            (dated, '{"day": "2023-02-29"}', "day is no date"),
            (
                loose,
                '{"place": {"country": "R"}, "always": "yes", "counts": {}}',
                "place.city is miss",
            ),
            (
                loose,
                '{"place": {"city": "O"}, "always": "no", "counts": {}}',
                'always is not one of "y',
            ),
            (
                loose,
                '{"place": {"city": "O"}, "always": "yes", "counts": {"a": [1, "2"]}}',
                r"counts.a\[1\] is string, not integer",
            ),
            (bare, '{"some": [1], "all_": []}', "some is array, not object"),
            (bare, '{"some": {}, "all_": {}}', "all_ is object, not array"),
            (bare, '{"some": {}, "all_": [], "seen": [[]]}', "seen has items that no set can hold"),
            (choices, '{"unit": "kelvin"}', "^unit is not one of .celsius., .fahrenheit.$"),
            (plain, "{}", "^city, days is missing$"),
            (plain, '{"city": "O", "days": 1, "a": 1, "b": 2}', "^a, b is unknown$"),
            (plain, '{"city": null, "days": 1}', "^city is null, not string$"),
            (plain, '{"city": {}, "days": 1}', "^city is object, not string$"),
            (plain, '{"city": "O", "days": []}', "^days is array, not integer$"),
            (plain, '{"city": "O", "days": 1, "live": 1}', "^live is integer, not boolean$"),
            (plain, '{"city": "O", "days": 1, "exact": "1"}', "^exact is string, not number$"),
            (objects, '{"place": [], "span": {}, "spans": []}', "^place is array, not object$"),
            (
                objects,
                '{"place": {"city": "O"}, "span": {"end": 1, "x": 2}, "spans": []}',
                "^span.start is missing$",
            ),
            (
                objects,
                '{"place": {"city": "O"}, "span": {"start": 1, "x": 2, "y": 3}, "spans": []}',
                "^span.x, span.y is unknown$",
            ),
            (moments, '{"at": 5}', "^at is no date-time of ISO 8601$"),
            (moments, '{"at": "today"}', "^at is no date-time of ISO 8601$"),
            (mixed, '{"word": "a", "flag": 1}', '^word is not one of "ä", 1$'),
            (
                mixed,
                '{"word": 1, "flag": 1, "value": "ü"}',
                '^value is not one of "a", 2, null$',
            ),
            (
                sequences,
                '{"points": {}, "names": [], "some": []}',
                "^points is object, not array$",
            ),
            (ordered, '{"span": {"start": 2, "end": 1}}', "^span: it ends before it begins$"),
            (
                models,
                '{"routes": [{"start": 1}]}',
                r"(?s)^by_name, where, trip, elsewhere is missing$",
            ),
            (placed, '{"where": {"city": 1}}', "(?s)^where: .*city"),
            (placed, '{"where": {"city": "O"}, "by_name": {"a": {}}}', "(?s)^by_name.a: .*city"),
        ],
    )
    def test_what_does_not_fit(self, function: Any, arguments: str, words: str) -> None:
        """What does not fit the form is told in words that name the place."""
        with pytest.raises(ValueError, match=words):
            FunctionTool(function).arguments(arguments)


class Turns(Provider):
    """Answers one request after another, and keeps the requests.

    A turn is a text, or texts and calls ``(name, arguments)``, or an error to raise.
    """

    url = "turns://here"
    default_model = "turns"
    open_catalogue = True
    supported_params = frozenset({"tools", "tool_choice", "function_call"})
    supports_tools = True

    def __init__(
        self, *turns: Any, ids: str = "same", reason: str = "tool_calls", **arguments: Any
    ) -> None:
        super().__init__(**arguments)
        self.turns = list(turns)
        self.ids = ids
        self.reason = reason
        self.requests: list[Request] = []

    def prepare(self, request: Request, fetch: Fetch) -> Call:
        """Keep the request."""
        self.requests.append(request)
        return Call("POST", self.base_url)

    def parse(self, reply: Reply) -> Iterator[str]:
        """Take the next turn."""
        turn = self.turns.pop(0)
        if isinstance(turn, BaseException):
            raise turn
        if isinstance(turn, str):
            yield turn
            yield FinishReason("stop")
            return
        yield from (said for said in turn if isinstance(said, str))
        calls = [
            {"type": "function", "function": {"name": call[0], "arguments": call[1]}}
            | ({"id": self.ids} if self.ids else {})
            for call in turn
            if not isinstance(call, str)
        ]
        message = {"tool_calls": calls, "own": 1, "function_call": "in an old form"}
        yield FinishReason(self.reason, tool_calls=calls, message=message)

    def make_transport(self) -> Any:
        """Nothing is sent."""
        return ScriptedProvider().make_transport()


class Weather:
    """A tool that counts its calls."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def weather(self, city: str) -> str:
        """Tell the weather."""
        self.calls.append(city)
        if city == "Nowhere":
            raise KeyError("no such place")
        return f"rain in {city}"


def sent(provider: Turns) -> list[tuple[str, str]]:
    """The roles and contents of the last request."""
    return [(m["role"], m["content"]) for m in provider.requests[-1].messages]


OMSK = ("weather", '{"city": "Omsk"}')
TOMSK = ("weather", '{"city": "Tomsk"}')


class TestRun:
    def test_calls_are_run_in_order(self) -> None:
        """Parallel calls run in the model's order; each result stands beside its call."""
        tools = Weather()
        seen: list[Any] = []
        provider = Turns([OMSK, TOMSK], [OMSK], "Take an umbrella.")
        reply = provider.run(
            "Umbrella?", tools=[tools.weather], on_tool=lambda call, result: seen.append(result)
        )
        assert reply.text == "Take an umbrella."
        assert tools.calls == ["Omsk", "Tomsk", "Omsk"]
        assert (
            seen
            == [step.result for step in reply.steps]
            == ["rain in Omsk", "rain in Tomsk", "rain in Omsk"]
        )
        assert [(s.turn, s.name, s.failed) for s in reply.steps] == [
            (1, "weather", False),
            (1, "weather", False),
            (2, "weather", False),
        ]
        assert len(reply.attempts) == 3
        messages = provider.requests[-1].messages
        assert [m["role"] for m in messages] == [
            "user",
            "assistant",
            "tool",
            "tool",
            "assistant",
            "tool",
        ]
        calls = [call["id"] for m in messages for call in m.get("tool_calls", ())]
        assert calls == [m["tool_call_id"] for m in messages if m["role"] == "tool"]
        assert len(set(calls)) == 3
        assert calls[0] == "same"
        assert {m["name"] for m in messages if m["role"] == "tool"} == {"weather"}
        assert messages[1]["own"] == 1
        assert "function_call" not in messages[1]
        assert reply.steps.messages == messages[1:]

    def test_a_later_run_repeats_no_id(self) -> None:
        """An id that an earlier run of the conversation used is not used again."""
        chat = Turns([OMSK], "Yes.", [OMSK], "Sure.").conversation()
        for _ in range(2):
            chat.run("Umbrella?", tools=[Weather().weather])
        calls = [call["id"] for m in chat.messages for call in m.get("tool_calls", ())]
        assert calls == [m["tool_call_id"] for m in chat.messages if m["role"] == "tool"]
        assert len(set(calls)) == 2

    def test_on_tool_gets_the_call(self) -> None:
        """``on_tool`` gets each call as it stands in the history, and its result."""
        seen: list[Any] = []
        provider = Turns([OMSK, TOMSK], "Yes.")
        provider.run("Hi", tools=[Weather().weather], on_tool=lambda *given: seen.append(given))
        history = provider.requests[-1].messages
        assert seen == [
            (call, message["content"])
            for call, message in zip(history[1]["tool_calls"], history[2:], strict=True)
        ]

    def test_how_long_a_function_takes(self) -> None:
        """Each step has the time of its function alone."""
        began = time.perf_counter()
        reply = Turns([OMSK, TOMSK], "Yes.").run("Hi", tools=[Weather().weather])
        whole = time.perf_counter() - began
        assert all(0 <= step.duration < whole for step in reply.steps)

    def test_tools_that_the_service_runs(self) -> None:
        """A form that is no function's is sent along, and nothing here has to run it."""
        search = {"type": "web_search"}
        provider = Turns([OMSK], "Yes.")
        provider.run("Hi", tools=[search, Weather().weather])
        assert [tool["type"] for tool in provider.requests[0].params["tools"]] == [
            "web_search",
            "function",
        ]

    @pytest.mark.parametrize(
        ("call", "arguments", "result"),
        [
            (("weather", {"city": "Омск"}), '{"city": "Омск"}', "rain in Омск"),
            (("weather", ""), "", "Error: wrong arguments: city is missing"),
            (("weather", None), "", "Error: wrong arguments: city is missing"),
            ((None, None), "", "Error: there is no function ''; there are: weather, plain"),
        ],
    )
    def test_odd_calls(self, call: Any, arguments: str, result: str) -> None:
        """Arguments that are no text are taken as JSON, and a call without any as an empty one."""
        reply = Turns([call], "Yes.").run("Hi", tools=[Weather().weather, plain])
        assert [(s.arguments, s.result) for s in reply.steps] == [(arguments, result)]

    def test_an_error_that_says_too_much(self) -> None:
        """What a function's error says is cut, and a secret in it is masked."""
        conceal("s3cret-of-a-tool")

        def fail() -> None:
            raise ValueError("s3cret-of-a-tool" + "x" * 9000)

        result = Turns([("fail", "{}")], "Yes.").run("Hi", tools=[fail]).steps[0].result
        assert result.startswith(f"Error: ValueError: {MASK}xxx")
        assert len(result) == 2000

    def test_no_call_after_the_deadline(self) -> None:
        """Of several calls in one reply, those that are left when the time is over are not run."""
        clock = FakeClock()

        def slow() -> None:
            clock.pass_(2)

        client = FailoverClient([Turns([("slow", "{}")] * 2)], deadline=1, clock=clock)
        with pytest.raises(DeadlineExceeded) as caught:
            client.run("Hi", tools=[slow])
        assert (len(caught.value.steps), caught.value.steps.messages) == (1, ())

    @pytest.mark.parametrize("ids", ["same", ""])
    def test_ids_that_repeat_or_lack(self, ids: str) -> None:
        """A call is known by its place: an id that repeats or is missing mixes nothing up."""
        tools = Weather()
        provider = Turns([OMSK, TOMSK], [OMSK], "Yes.", ids=ids)
        reply = provider.run("Umbrella?", tools=[tools.weather])
        assert tools.calls == ["Omsk", "Tomsk", "Omsk"]
        assert len(reply.steps) == 3

    @pytest.mark.parametrize(
        ("call", "told"),
        [
            (("wether", "{}"), "there is no function 'wether'; there are: weather"),
            (("weather", '{"town": "Omsk"}'), "wrong arguments: city is missing"),
            (("weather", '{"city": '), "wrong arguments: the arguments are no JSON"),
            (("weather", '{"city": "Nowhere"}'), "KeyError: 'no such place'"),
        ],
    )
    def test_what_fails_is_told_to_the_model(self, call: tuple[str, str], told: str) -> None:
        """An unknown name, wrong arguments and an exception are results; the run goes on."""
        provider = Turns([call], "Sorry.")
        reply = provider.run("Umbrella?", tools=[Weather().weather])
        assert reply.text == "Sorry."
        assert reply.steps[0].failed
        assert told in reply.steps[0].result
        assert sent(provider)[-1] == ("tool", reply.steps[0].result)

    def test_results_are_text(self) -> None:
        """What a function returns is told as JSON, a text as it is."""

        def many(kind: str) -> Any:
            span, where = Span(1), Where(city="Tomsk")
            return {"span": span, "unit": Unit.CELSIUS, "day": date(2024, 1, 2), "city": "Омск"} | {
                "where": [where]
            }

        provider = Turns([("many", '{"kind": "x"}')], "Yes.")
        result = provider.run("Hi", tools=[many]).steps[0].result
        assert json.loads(result)["span"] == {"start": 1, "end": 7}
        assert json.loads(result)["where"] == [{"city": "Tomsk"}]
        assert "Омск" in result

    def test_what_json_has_no_word_for_inside_of_a_result(self) -> None:
        """It is told as text, or as the plain numbers that it holds, and the rest as JSON."""

        def price() -> Any:
            prices = numpy.array([1, 2])
            return [{"price": Decimal("9.90"), "at": clock(7, 30), "all": prices, "n": prices[0]}]

        result = Turns([("price", "{}")], "Yes.").run("Hi", tools=[price]).steps[0].result
        assert json.loads(result) == [{"price": "9.90", "at": "07:30:00", "all": [1, 2], "n": 1}]

    @pytest.mark.parametrize("value", [float("nan"), {"x": float("inf")}, object])
    def test_results_that_json_cannot_say(self, value: Any) -> None:
        """They are told as their text: what looks like JSON and is none would be refused."""

        def odd() -> Any:
            return value

        reply = Turns([("odd", "{}")], "Yes.").run("Hi", tools=[odd])
        assert (reply.steps[0].result, reply.steps[0].failed) == (str(value), False)

    @pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, GeneratorExit])
    def test_an_interrupt_is_not_caught(self, kind: type[BaseException]) -> None:
        """Ctrl-C, or anything else that is not an Exception, ends the run, in ``on_tool`` too."""

        def stop(*_: object) -> None:
            raise kind

        with pytest.raises(kind):
            Turns([("stop", "{}")], "Yes.").run("Hi", tools=[stop])
        with pytest.raises(kind):
            Turns([OMSK], "Yes.").run("Hi", tools=[Weather().weather], on_tool=stop)

    def test_what_a_handler_raises_is_not_caught(self) -> None:
        """What a signal's handler raises while a function runs ends the run, whatever its class."""

        def handler(*_: object) -> None:
            raise OSError("too long")

        def slow() -> None:
            signal.raise_signal(signal.SIGALRM)

        before = signal.signal(signal.SIGALRM, handler)
        try:
            with pytest.raises(OSError, match="too long"):
                Turns([("slow", "{}")], "Yes.").run("Hi", tools=[slow])
        finally:
            signal.signal(signal.SIGALRM, before)

    def test_failover_in_the_middle(self) -> None:
        """The first breaks after the function was run: the second goes on, and it ran once."""
        tools = Weather()
        first = Turns([OMSK], ServerError("down"), name="first")
        second = Turns("Yes.", name="second")
        reply = FailoverClient([first, second], attempts=1).run("Umbrella?", tools=[tools.weather])
        assert (reply.text, reply.provider, tools.calls) == ("Yes.", "second", ["Omsk"])
        assert sent(second)[-1] == ("tool", "rain in Omsk")
        assert second.requests[0].messages[1]["tool_calls"][0]["function"]["name"] == "weather"
        assert [a.provider for a in reply.attempts] == ["first", "first", "second"]

    def test_retries_do_not_run_it_again(self) -> None:
        """Whatever is retried after a call, the call stays run once."""
        tools = Weather()
        provider = Turns([OMSK], StreamInterrupted("cut"), ServerError("down"), "Yes.")
        client = FailoverClient([provider], wait=lambda _: 0.0)  # type: ignore[arg-type]
        assert client.run("Umbrella?", tools=[tools.weather]).text == "Yes."
        assert tools.calls == ["Omsk"]

    def test_max_turns(self) -> None:
        """Beyond ``max_turns`` questions it ends; the calls of the last reply are not run."""
        tools = Weather()
        with pytest.raises(RejectedReplyError, match="2 questions") as caught:
            Turns([OMSK], ["Well.", TOMSK]).run("Umbrella?", tools=[tools.weather], max_turns=2)
        assert tools.calls == ["Omsk"]
        assert [step.name for step in caught.value.steps] == ["weather"]
        assert len(caught.value.attempts) == 2
        assert (caught.value.detail, caught.value.partial_text) == ("max_turns", "Well.")
        assert caught.value.provider == "Turns"
        again = pickle.loads(pickle.dumps(caught.value))
        assert again.steps == caught.value.steps

    def test_errors_have_the_steps(self) -> None:
        """What fails for good after a function was run says what was run."""
        with pytest.raises(ServerError) as caught:
            Turns([OMSK], ServerError("down")).run("Umbrella?", tools=[Weather().weather])
        assert caught.value.steps[0].result == "rain in Omsk"
        assert [m["role"] for m in caught.value.steps.messages] == ["assistant", "tool"]
        assert len(caught.value.attempts) == 2

    @pytest.mark.parametrize("own", [True, False])
    def test_one_deadline_over_all(self, own: bool) -> None:
        """A deadline, of the call or of the client, covers the functions and all questions."""

        clock = FakeClock()

        def slow() -> str:
            clock.pass_(2)
            return "done"

        provider = Turns(*[[("slow", "{}")]] * 20)
        client = FailoverClient([provider], deadline=None if own else 5, clock=clock)
        with pytest.raises(DeadlineExceeded) as caught:
            client.run("Hi", tools=[slow], max_turns=20, **({"deadline": 5} if own else {}))
        assert len(caught.value.steps) == 3

    @pytest.mark.parametrize("name", ["tool_choice", "function_call"])
    def test_a_forced_choice_holds_once(self, name: str) -> None:
        """A choice is for the first question: else no run with it could ever end."""
        choice = "required" if name == "tool_choice" else {"name": "weather"}
        provider = Turns([OMSK], "Yes.")
        params: dict[str, Any] = {name: choice}
        provider.run("Umbrella?", tools=[Weather().weather], **params)
        assert [r.params.get(name) for r in provider.requests] == [choice, None]

    def test_accept_checks_the_final_reply(self) -> None:
        """``accept`` is not asked about the calls in between, only about the reply that ends it."""
        seen: list[str] = []

        def accept(completion: Completion) -> bool:
            seen.append(completion.text)
            return True

        FailoverClient([Turns([OMSK], "Yes.")]).run("Hi", tools=[Weather().weather], accept=accept)
        client = FailoverClient([Turns([OMSK], "Yes.")], accept=accept)
        client.run("Hi", tools=[Weather().weather])
        assert seen == ["Yes.", "Yes."]

    def test_a_typed_answer_at_the_end(self) -> None:
        """``schema`` is for the reply that ends the run."""
        provider = Turns([OMSK], '{"start": 1}')
        assert provider.run("Hi", tools=[Weather().weather], schema=Span).data == Span(1)

    @pytest.mark.parametrize(
        ("tools", "words"),
        [
            ([], "needs a function"),
            ([{"type": "web_search"}], "needs a function"),
            ([{"type": "function", "function": {"name": "f"}}, plain], "not their JSON form"),
            ([plain, plain], "two tools have the name plain"),
            (plain, "tools is a list of functions or of dicts, not <function plain"),
            ("plain", "tools is a list of functions"),
            ({"type": "web_search"}, "tools is a list of functions"),
            (5, "tools is a list of functions"),
            ([5], "a tool is a function or a dict in OpenAI's form, not 5"),
        ],
    )
    def test_tools_that_nobody_could_run(self, tools: Any, words: str) -> None:
        """No function, a form without one, and two of one name are a ``TypeError`` at once."""
        provider = Turns("Yes.")
        with pytest.raises(TypeError, match=words):
            provider.run("Hi", tools=tools)
        assert provider.requests == []

    @pytest.mark.parametrize("arguments", ["", "{}", '{"city": ', '{"city": "Om'])
    def test_a_call_that_is_cut(self, arguments: str) -> None:
        """A call that ``max_tokens`` cut is not run, and the error says what to raise."""
        tools = Weather()
        provider = Turns([("weather", arguments)], "Yes.", reason="length")
        with pytest.raises(RejectedReplyError, match="raise max_tokens") as caught:
            provider.run("Umbrella?", tools=[tools.weather])
        assert caught.value.detail == "max_tokens"
        assert caught.value.steps == ()
        assert len(provider.requests) == 1

    def test_a_whole_call_in_a_reply_that_is_cut(self) -> None:
        """A call whose arguments came whole is run, whatever the reply was cut for."""
        provider = Turns([OMSK], "Yes.", reason="length")
        assert len(provider.run("Umbrella?", tools=[Weather().weather]).steps) == 1

    def test_a_call_that_the_filter_stopped(self) -> None:
        """Calls in a reply that the service's filter stopped are not run."""
        provider = Turns([OMSK], reason="content_filter")
        reply = provider.run("Umbrella?", tools=[Weather().weather])
        assert reply.finish_reason.reason == "content_filter"
        assert reply.steps == ()

    def test_max_turns_is_a_number(self) -> None:
        """``max_turns`` below one is refused."""
        with pytest.raises(InvalidRequestError, match="max_turns"):
            Turns("Yes.").run("Hi", tools=[plain], max_turns=0)

    def test_a_tool_that_fails_is_logged(self, caplog: pytest.LogCaptureFixture) -> None:
        """The log has a warning with the traceback of a tool that raises, and no secret in it."""
        conceal("hunter2222")

        def weather(city: str) -> str:
            raise KeyError(f"no {city} for hunter2222")

        reply = Turns([OMSK], "Yes.").run("Umbrella?", tools=[weather])
        assert reply.text == "Yes."
        [record] = [r for r in caplog.records if "weather" in r.getMessage()]
        assert (record.levelname, record.name) == ("WARNING", "llmproviders")
        assert record.exc_info is not None
        assert record.exc_info[0] is KeyError
        assert "raise KeyError" in caplog.text
        assert "hunter2222" not in caplog.text.replace('for hunter2222")', "")

    def test_on_tool_that_fails(self, caplog: pytest.LogCaptureFixture) -> None:
        """An ``on_tool`` that fails is logged; the run goes on."""
        reply = Turns([OMSK], "Yes.").run("Hi", tools=[Weather().weather], on_tool=lambda *_: 1 / 0)
        assert reply.text == "Yes."
        assert "on_tool failed" in caplog.text

    def test_a_conversation_keeps_the_calls(self) -> None:
        """A conversation's turn has the calls and their results, and the next one sends them."""
        provider = Turns([OMSK], "Yes.", "Sure.")
        chat = provider.conversation()
        assert chat.run("Umbrella?", tools=[Weather().weather]).text == "Yes."
        assert [m["role"] for m in chat.messages] == ["user", "assistant", "tool", "assistant"]
        chat.ask("Sure?")
        assert [role for role, _ in sent(provider)] == [
            "user",
            "assistant",
            "tool",
            "assistant",
            "user",
        ]
        chat.undo()
        assert chat.undo() == "Umbrella?"
        assert chat.messages == []

    def test_steps_show_as_a_table(self) -> None:
        """In a notebook the steps are a table, everything in it escaped; they pickle."""
        steps = (
            Turns([("weather", '{"city": "<b>"}')], "Yes.")
            .run("Hi", tools=[Weather().weather])
            .steps
        )
        assert isinstance(steps, Steps)
        assert "&lt;b&gt;" in steps._repr_html_()
        shown = steps._repr_html_()
        assert "<b>" not in shown
        assert "Steps (1)" in shown
        assert [name for name in re.findall(r"<th[^>]*>([^<]*)", shown) if name] == [
            *("turn", "function", "arguments", "result", "duration")
        ]
        again = pickle.loads(pickle.dumps(steps))
        assert (again, again.messages) == (steps, steps.messages)
        assert json.loads(json.dumps(steps[0].as_dict()))["name"] == "weather"

    def test_numbers_stand_at_the_right(self) -> None:
        """In the table of the steps the turn and the seconds do, the texts at the left."""
        shown = Steps([ToolStep(1, "f", "{}", "r", failed=False, duration=1.25)])._repr_html_()
        assert re.findall(r'align:(\w+)">([^<]*)</td>', shown) == [
            ("right", "1"),
            ("left", "f"),
            ("left", "{}"),
            ("left", "r"),
            ("right", "1.25 s"),
        ]
