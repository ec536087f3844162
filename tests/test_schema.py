"""Typed answers: what is sent for a schema, what is taken from a reply, and who is asked again."""

from __future__ import annotations

import builtins
import enum
import json
import pickle
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Annotated, Any, Dict, List, Literal, Optional, TypedDict, Union  # noqa: UP035

import pydantic
import pytest

from llmproviders import (
    AllProvidersFailed,
    ChatGLM,
    DeadlineExceeded,
    FailoverClient,
    InvalidRequestError,
    OpenAICompatible,
    SchemaError,
    ServerError,
    StreamInterrupted,
    UnsupportedError,
)
from llmproviders._request import ChatRequest
from llmproviders.results import Reasoning
from llmproviders.sandbox import Sandbox
from llmproviders.schema import Schema
from llmproviders.testing import ScriptedProvider
from tests.conftest import RawServerFactory
from tests.support.http_bytes import http_response
from tests.support.rawserver import Pause, RawServer, keep_alive


class Size(enum.Enum):
    SMALL = "small"
    LARGE = "large"


@dataclass
class Order:
    item: str
    count: int
    size: Size = Size.SMALL


@dataclass
class Wide:
    items: list[Order] = field(default_factory=list)


class Line(TypedDict):
    item: str
    count: int


class Mail(TypedDict, total=False):
    lines: list[Line]
    urgent: bool


class Model(pydantic.BaseModel):
    item: str
    count: Annotated[int, pydantic.Field(gt=0)]


class Tree(pydantic.BaseModel):
    name: str
    children: list[Tree] = []


GOOD = '{"item": "bolt", "count": 3}'
PROSE = "I would say three bolts."
CITY = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}


class Prompted(ScriptedProvider):
    """A provider without the native form."""

    supports_schema = False


class Native(OpenAICompatible):
    """A server that has the native form."""

    supports_schema = True


def said(text: str, finish: str = "stop") -> list[bytes]:
    """A whole reply of an OpenAI-compatible server."""
    choice = {"message": {"role": "assistant", "content": text}, "finish_reason": finish}
    return answered(200, {"choices": [choice], "model": "m"})


def answered(status: int, value: object) -> list[bytes]:
    """A reply that is JSON."""
    return http_response(status, {"Content-Type": "application/json"}, json.dumps(value).encode())


def native(server: RawServer, **arguments: Any) -> Native:
    """A provider for a server, with the native form.

    Each has a model of its own: a refusal is remembered by address and model for as long as the
    process lives, and a later server may get the same port.
    """
    model = f"m{next(_MODELS)}"
    return Native(base_url=f"{server.url}/v1", api_key="k", model=model, **arguments)


_MODELS = count()


def bodies(server: RawServer) -> list[dict[str, Any]]:
    """What a server was sent."""
    return [json.loads(request.body) for request in server.requests]


def replies(*texts: str) -> Callable[[Sequence[Any]], str]:
    """Replies for a sandbox, one for each request, the last one for ever."""
    left = list(texts)
    return lambda _: left.pop(0) if len(left) > 1 else left[0]


class TestTypes:
    @pytest.mark.parametrize(
        ("schema", "reply", "data"),
        [
            (Order, GOOD, Order("bolt", 3)),
            (Order, '{"item": "bolt", "count": 3, "size": "large"}', Order("bolt", 3, Size.LARGE)),
            (Line, GOOD, {"item": "bolt", "count": 3}),
            (Mail, f'{{"lines": [{GOOD}]}}', {"lines": [{"item": "bolt", "count": 3}]}),
            (list[Line], f"[{GOOD}]", [{"item": "bolt", "count": 3}]),
            (list[Order], f"[{GOOD}]", [Order("bolt", 3)]),
            (Line | None, "null", None),
            (Optional[Line], "null", None),  # noqa: UP045 - typing's own form is another one
            (Union[list[Line], int], f"[{GOOD}]", [{"item": "bolt", "count": 3}]),  # noqa: UP007
            (Annotated[list[Line], "lines"], f"[{GOOD}]", [{"item": "bolt", "count": 3}]),
            (Annotated[Line, ["of no hash"]], GOOD, {"item": "bolt", "count": 3}),
            (Literal["yes", "no"], '"yes"', "yes"),
            (Size, '"large"', Size.LARGE),
            (int, "42", 42),
            (int, "\ufeff 42\n", 42),
            (list[float], "[1.7976931348623157e308]", [sys.float_info.max]),
            (List[Line], f"[{GOOD}]", [{"item": "bolt", "count": 3}]),  # noqa: UP006
            (Dict[str, Line], f'{{"a": {GOOD}}}', {"a": {"item": "bolt", "count": 3}}),  # noqa: UP006
            (tuple[Line, Literal[3]], f"[{GOOD}, 3]", ({"item": "bolt", "count": 3}, 3)),
            (dict[str, int], '{"a": 1}', {"a": 1}),
            (Model, GOOD, Model(item="bolt", count=3)),
            (
                Tree,
                '{"name": "a", "children": [{"name": "b"}]}',
                Tree(name="a", children=[Tree(name="b")]),
            ),
            (CITY, '{"city": "Омск"}', {"city": "Омск"}),
            ({"enum": [1, 2]}, "2", 2),
        ],
    )
    def test_data_is_a_value_of_the_schema(self, schema: Any, reply: str, data: Any) -> None:
        """Every kind of schema gives ``data`` of its own kind, and the text stays the reply."""
        completion = ScriptedProvider([reply]).complete("Order?", schema=schema)
        assert completion.data == data
        assert type(completion.data) is type(data)
        assert completion.text == reply

    @pytest.mark.parametrize(
        "reply", ['{"item": "bolt", "count": "3"}', '{"item": "bolt", "count": true}']
    )
    def test_no_value_is_coerced(self, reply: str) -> None:
        """A text or a truth value where the schema has a number does not satisfy it."""
        with pytest.raises(SchemaError, match=r"count: .*integer"):
            ScriptedProvider([reply]).complete("Order?", schema=Order)

    @pytest.mark.parametrize(
        "schema",
        [
            {"type": "objekt"},
            {"properties": 1},
            {"$ref": "https://example.com/schema.json"},
            {"$ref": "#/$defs/None"},
            {"type": {1, 2}},
            {"maximum": float("nan")},
            Callable[[int], int],
            "object",
            5,
        ],
    )
    def test_what_is_no_schema(self, schema: Any) -> None:
        """What is neither a JSON Schema nor a type that has one is told before anything is sent."""
        provider = ScriptedProvider([GOOD])
        with pytest.raises(InvalidRequestError, match="schema"):
            provider.complete("Order?", schema=schema)
        assert provider.requests == []

    def test_what_an_annotation_demands(self) -> None:
        """What is written beside a type holds, whatever is in the type."""
        short = Annotated[list[Line], "lines", pydantic.Field(max_length=1)]
        assert Schema.of(short).validate(f"[{GOOD}]") == [{"item": "bolt", "count": 3}]
        with pytest.raises(SchemaError, match="at most 1 item"):
            Schema.of(short).validate(f"[{GOOD}, {GOOD}]")

    def test_how_it_is_shown(self) -> None:
        """A schema shows what it was made of, cut short if that is long."""
        assert repr(Schema.of(Size)) == f"Schema.of({Size!r})"
        assert len(repr(Schema.of({"enum": list(range(1000))}))) < 200
        assert Schema.of(Schema.of(Size)) is Schema.of(Size)

    def test_the_prompt_has_it_as_it_is(self) -> None:
        """Letters of any script stand in the prompt as they are, which takes fewer tokens."""
        prompt = Schema.of({**CITY, "description": "Город"}).prompt
        assert '"Город"' in prompt
        assert json.loads(prompt.splitlines()[-1])["properties"] == CITY["properties"]

    def test_one_form_of_the_reply(self) -> None:
        """A schema and a ``response_format`` of the caller's own contradict one another."""
        provider = ScriptedProvider([GOOD])
        with pytest.raises(InvalidRequestError, match="response_format"):
            provider.complete("Order?", schema=Order, response_format={"type": "json_object"})
        assert provider.requests == []

    def test_a_stream_has_no_data(self) -> None:
        """A schema with ``stream()`` is a ``TypeError`` at once; a generator of one chunk works."""
        provider = ScriptedProvider([GOOD])
        with pytest.raises(TypeError, match=r"use complete\(\)"):
            provider.stream("Order?", schema=Order)
        *text, finish = provider.create_generator(None, "Order?", stream=False, schema=Order)
        assert (text, finish.data) == ([GOOD], Order("bolt", 3))  # type: ignore[attr-defined]

    @pytest.mark.parametrize("schema", [Order, CITY])
    def test_without_the_extra(self, schema: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        """Where pydantic or jsonschema is not installed the error has the command to install it."""
        real = builtins.__import__

        def missing(name: str, *args: Any, **kwargs: Any) -> Any:
            if name.partition(".")[0] in ("pydantic", "jsonschema"):
                raise ImportError(f"No module named {name!r}")
            return real(name, *args, **kwargs)

        monkeypatch.setattr(builtins, "__import__", missing)
        made = dict(CITY, title="never prepared") if schema is CITY else list[list[schema]]
        with pytest.raises(ImportError, match=r"pip install 'llmproviders\[schema\]'"):
            ScriptedProvider([GOOD]).complete("Order?", schema=made)

    def test_a_prepared_request_pickles(self) -> None:
        """A request with a schema goes to another process and has the same schema there."""
        request = ChatRequest.of("Order?", params={"schema": Order})
        again = pickle.loads(pickle.dumps(request))
        assert again.schema.json_schema == request.schema.json_schema  # type: ignore[union-attr]
        assert again.schema.validate(GOOD) == Order("bolt", 3)


class TestFindingJSON:
    @pytest.mark.parametrize(
        "reply",
        [
            GOOD,
            f"\ufeff \n{GOOD}\n",
            f"```json\n{GOOD}\n```",
            f"Here it is:\n```\n{GOOD}\n```\nAnything else?",
            f"Sure! {GOOD} Anything else?",
            f"For {{item}} and [1]: {GOOD}",
            f"I mean :-{{ and [sic], {GOOD}",
            f'{GOOD} That is, again: {{"count": 3, "item": "bolt"}}',
            f'Not {{"item": "bolt"}} but {GOOD}',
        ],
    )
    def test_one_value(self, reply: str) -> None:
        """One value is found bare, in a fence, and with prose around it."""
        assert Schema.of(Order).validate(reply) == Order("bolt", 3)

    @pytest.mark.parametrize(
        ("reply", "why"),
        [
            (PROSE, "no JSON value"),
            ("", "no JSON value"),
            (f'{GOOD} or {{"item": "nut", "count": 1}}', "2 different"),
            ('{"item": "bolt", "count": 3', "no JSON value"),
            (f'{{"orders": [{GOOD}, {{"item"', "no JSON value"),
            ("{'item': 'bolt', 'count': 3}", "no JSON value"),
            ('{"item": "bolt", "count": 3,}', "no JSON value"),
            ('{"item": "bolt", "count": 3, "count": 4}', "same key twice"),
            ('{"item": "bolt", "count": NaN}', "NaN"),
            ('{"item": "bolt", "count": 1e999}', "too large"),
            ('{"item": "bolt", "count": ' + "9" * 5000 + "}", "too large"),
            ("[" * 100_000, "too deeply"),
            ('{"a":' * 100_000, "too deeply"),
            (r'{"item": "\ud800", "count": 3}', "hex escape"),
            ("[1] " + " ".join(f"[{n}]" for n in range(1000)), "more than 100"),
        ],
    )
    def test_nothing_is_mended(self, reply: str, why: str) -> None:
        """Broken, cut, ambiguous and hostile JSON is our own error, never a guess."""
        with pytest.raises(SchemaError, match=why):
            Schema.of(Order).validate(reply)

    @pytest.mark.parametrize(
        "reply",
        [
            "x" * 10**7,
            "{" * 10**6,
            "{ " * 10**6,
            '{"' * 10**6,
            "[1, " * 900 + "{x} " * 10**6,
            "```\n" * 10**6,
        ],
    )
    def test_long_replies(self, reply: str) -> None:
        """Megabytes of prose and of brackets are read in seconds, whatever is in them."""
        began = time.monotonic()
        with pytest.raises(SchemaError):
            Schema.of(Order).validate(reply)
        assert time.monotonic() - began < 20

    @pytest.mark.parametrize("wrapped", [True, False])
    @pytest.mark.parametrize("reply", [f"[{GOOD}]", f'{{"value": [{GOOD}]}}'])
    def test_with_or_without_the_wrapper(self, reply: str, wrapped: bool) -> None:
        """Where the root is no object, a reply with the wrapper and one without it are taken."""
        assert Schema.of(list[Order]).validate(reply, wrapped=wrapped) == [Order("bolt", 3)]

    def test_the_wrapper_is_the_models_where_it_was_asked_for(
        self, raw_server: RawServerFactory
    ) -> None:
        """Where both fit, the inside is the reply if the wrapper was asked for, else the whole."""
        anything = Schema.of({})
        assert anything.validate('{"value": 1}', wrapped=True) == 1
        assert anything.validate('{"value": 1}') == {"value": 1}
        field = Schema.of({"type": "object", "properties": {"value": {}}})
        assert field.validate('{"value": {"value": 1}}', wrapped=True) == {"value": {"value": 1}}
        server = raw_server(keep_alive(said('{"value": 1}')))
        with native(server) as provider:
            assert provider.complete("What?", schema={}).data == 1
        assert Prompted(['{"value": 1}']).complete("What?", schema={}).data == {"value": 1}

    def test_a_dict_is_checked_by_jsonschema(self) -> None:
        """A JSON Schema given as a dict holds in all it says, formats too."""
        schema = Schema.of({"type": "object", "properties": {"day": {"format": "date"}}})
        assert schema.validate('{"day": "2024-02-29"}') == {"day": "2024-02-29"}
        with pytest.raises(SchemaError, match=r"day: '2023-02-29' is not a 'date'"):
            schema.validate('{"day": "2023-02-29"}')

    def test_half_a_character(self) -> None:
        """A lone surrogate is refused in a bare reply and in prose; both halves are a character."""
        schema = Schema.of({"type": "object"})
        for reply in (
            r'{"a": "\ud800"}',
            r'{"a": "\uD800"}',
            '{"a": "\ud800"}',
            r'So: {"\udfff": 1}',
        ):
            with pytest.raises(SchemaError, match="half a character"):
                schema.validate(reply)
        assert schema.validate(r'{"a": "\ud83d\ude00"}') == {"a": "\U0001f600"}

    def test_nothing_is_taken_out_of_a_string_that_does_not_end(self) -> None:
        """What stands in a broken value, in a string that was cut, is no reply of its own."""
        with pytest.raises(SchemaError, match="no JSON value"):
            Schema.of(list[int]).validate('{"text": "see [1, 2]')

    def test_a_few_broken_values_do_no_harm(self) -> None:
        """A hundred things that only begin like JSON are passed over; thousands are too many."""
        assert Schema.of(Order).validate("{'a'} [x] {\"} " * 50 + '"' + GOOD) == Order("bolt", 3)
        with pytest.raises(SchemaError, match="too many broken"):
            Schema.of(Order).validate('{"a" ' * 201 + GOOD)
        assert Schema.of(Order).validate('{"a" ' * 200 + GOOD) == Order("bolt", 3)

    @pytest.mark.parametrize(
        ("schema", "reply", "said"),
        [
            (
                Wide,
                '{"items": [{"item": "bolt", "count": "3"}, {"count": 1}]}',
                "items[0].count: Input should be a valid integer; items[1].item: Field required",
            ),
            (int, '"3"', "Input should be a valid integer"),
            (CITY, '{"city": 3}', "city: 3 is not of type 'string'"),
            (CITY, "[]", "[] is not of type 'object'"),
        ],
    )
    def test_what_the_model_is_told(self, schema: Any, reply: str, said: str) -> None:
        """Each fault is told with its place, in the validator's words."""
        with pytest.raises(SchemaError) as caught:
            Schema.of(schema).validate(reply)
        assert str(caught.value) == said

    def test_a_hundred_values(self) -> None:
        """A hundred different values are looked at, however often each is there; no more are."""
        others = " ".join(f"[{number}]" for number in range(99))
        assert Schema.of(Order).validate(f"{others} {others} {GOOD}") == Order("bolt", 3)
        with pytest.raises(SchemaError, match="more than 100"):
            Schema.of(Order).validate(f"{others} [99] {GOOD}")

    @pytest.mark.parametrize("name", ["X", "a.b", ".hidden", "город"])
    def test_the_place_of_a_fault(self, name: str) -> None:
        """Names stand in it as they are, whatever letters they have."""
        schema = {"properties": {name: {"items": {"type": "null"}}}}
        with pytest.raises(SchemaError) as caught:
            Schema.of(schema).validate(json.dumps({name: [None, 1]}))
        assert str(caught.value).startswith(f"{name}[1]: 1 is not of type")

    def test_a_thousand_characters_of_faults(self) -> None:
        """What is just as long is told whole."""
        for length, end in ((47, "'integer'"), (48, "'integer...")):
            reply = json.dumps(["x" * 500] * 3 + ["x" * length])
            with pytest.raises(SchemaError) as caught:
                Schema.of({"items": {"type": "integer"}}).validate(reply)
            assert str(caught.value).endswith(end)

    def test_many_faults_are_told_in_short(self) -> None:
        """Ten faults at most, 300 characters of each, a thousand of all, and dots for more."""
        with pytest.raises(SchemaError) as caught:
            Schema.of(list[int]).validate(json.dumps(["x"] * 20))
        assert str(caught.value).count("valid integer") == 10
        assert not str(caught.value).endswith("...")
        with pytest.raises(SchemaError) as caught:
            Schema.of({"items": {"type": "integer"}}).validate(json.dumps(["x" * 500] * 20))
        assert str(caught.value).startswith(f"[0]: '{'x' * 299}; [1]: '")
        assert len(str(caught.value)) == 1003
        assert str(caught.value).endswith("x...")

    def test_a_number_that_jsonschema_cannot_divide(self) -> None:
        """What the validator itself stumbles over is a reply that does not satisfy the schema."""
        with pytest.raises(SchemaError):
            Schema.of({"multipleOf": 0.1}).validate("9" * 4000)


class TestNativeForm:
    def test_what_is_sent(self, raw_server: RawServerFactory) -> None:
        """The native form is OpenAI's, with the prompt as it was; ``strict`` where it fits."""
        server = raw_server(
            keep_alive(said('{"city": "Omsk"}'), said(GOOD), said('{"city": "Omsk"}'))
        )
        with native(server) as provider:
            provider.complete("Where?", schema=CITY)
            provider.complete("Where?", schema=Order)
            provider.complete("Where?", schema={**CITY, "minProperties": 1})
        first, second, third = bodies(server)
        assert first["response_format"] == {
            "type": "json_schema",
            "json_schema": {"name": "reply", "strict": True, "schema": CITY},
        }
        assert first["messages"] == [{"role": "user", "content": "Where?"}]
        assert second["response_format"]["json_schema"]["name"] == "Order"
        assert "strict" not in second["response_format"]["json_schema"]
        assert "strict" not in third["response_format"]["json_schema"]

    def test_a_root_that_is_no_object_is_wrapped(self) -> None:
        """A list goes out as ``{"value": ...}``, its references still right; an object as it is."""
        form = Schema.of(list[Line]).response_format["json_schema"]
        assert form["strict"] is True
        assert form["schema"]["required"] == ["value"]
        assert form["schema"]["properties"]["value"]["items"] == {"$ref": "#/$defs/Line"}
        assert form["schema"]["$defs"]["Line"]["additionalProperties"] is False
        own = Schema.of({"anyOf": [{"type": "null"}, {"type": "array", "items": {"$ref": "#"}}]})
        value = own.response_format["json_schema"]["schema"]["properties"]["value"]
        assert value["anyOf"][1]["items"] == {"$ref": "#/properties/value"}
        assert "$schema" not in own.response_format["json_schema"]["schema"]
        old = Schema.of(
            {
                "$schema": "http://json-schema.org/draft-07/schema#",
                "type": "array",
                "items": {"$ref": "#/definitions/Line"},
                "maxItems": 3,
                "contains": {"$ref": "#/items"},
                "definitions": {"Line": {"type": "object", "properties": {}}},
            }
        )
        assert old.response_format["json_schema"]["schema"] == {
            "type": "object",
            "properties": {
                "value": {
                    "type": "array",
                    "items": {"$ref": "#/definitions/Line"},
                    "maxItems": 3,
                    "contains": {"$ref": "#/properties/value/items"},
                }
            },
            "required": ["value"],
            "additionalProperties": False,
            "$schema": "http://json-schema.org/draft-07/schema#",
            "definitions": {"Line": {"type": "object", "properties": {}}},
        }
        tree = Schema.of(Tree)
        assert tree.is_object
        assert "value" not in tree.response_format["json_schema"]["schema"]["properties"]
        assert tree.json_schema["$defs"]["Tree"]["properties"]["children"]["items"] == {
            "$ref": "#/$defs/Tree"
        }

    @pytest.mark.parametrize(
        "schema",
        [
            CITY,
            {"type": "object", "properties": {}, "additionalProperties": False},
            {"type": "string", "format": "date"},
            {"enum": [1, 2]},
            {"const": 1},
            {"anyOf": [{"type": "null"}, {"type": "string"}]},
            {"$ref": "#/$defs/A", "$defs": {"A": {"type": "string"}}},
            {"type": "array", "items": CITY},
        ],
    )
    def test_what_is_strict(self, schema: dict[str, Any]) -> None:
        """A schema within the subset that OpenAI takes with ``strict`` is sent so."""
        form = Schema.of(schema).response_format["json_schema"]
        assert form["strict"] is True

    def test_a_reference_stands_alone(self) -> None:
        """OpenAI refuses anything beside ``$ref``: what is told of a field stays, around it."""

        class Inner(pydantic.BaseModel):
            x: int

        class Outer(pydantic.BaseModel):
            inner: Inner = pydantic.Field(description="The inner one.")

        form = Schema.of(Outer).response_format["json_schema"]
        assert form["strict"] is True
        assert form["schema"]["properties"]["inner"] == {
            "description": "The inner one.",
            "anyOf": [{"$ref": "#/$defs/Inner"}],
        }

    @pytest.mark.parametrize(
        "schema",
        [
            {},
            {"title": "anything"},
            {"type": "string", "minLength": 1},
            {"type": "string", "format": "uri"},
            {"type": "array"},
            {"type": "object"},
            {"type": "object", "additionalProperties": True},
            {"type": "object", "additionalProperties": {"type": "string"}},
            {**CITY, "required": []},
            {**CITY, "required": ["city", "street"]},
            {"type": "object", "required": ["city"], "additionalProperties": False},
            {"enum": [{}], "properties": {}},
            {"type": "array", "items": {"type": "object"}},
            {**CITY, "properties": {"city": {"type": "string", "format": "uri"}}},
            {"anyOf": [{"type": "null"}, {}]},
            {"$ref": "#/$defs/A", "$defs": {"A": {"type": "array"}}},
        ],
    )
    def test_what_is_not_strict(self, schema: dict[str, Any]) -> None:
        """Anything else, at any depth, is sent without it, which servers refuse otherwise."""
        assert "strict" not in Schema.of(schema).response_format["json_schema"]

    @pytest.mark.parametrize(
        ("title", "name"),
        [
            ("An order!", "An_order"),
            ("Заказ", "reply"),
            ("", "reply"),
            ("a-b_C9", "a-b_C9"),
            ("__x__", "x"),
            ("x" * 70, "x" * 64),
            ("x" * 63 + " y", "x" * 63),
        ],
    )
    def test_its_name(self, title: str, name: str) -> None:
        """The schema is called by its title, of which only what OpenAI takes is left."""
        form = Schema.of({**CITY, "title": title}).response_format["json_schema"]
        assert form["name"] == name
        assert Schema.of(list[int]).response_format["json_schema"]["name"] == "list"

    @pytest.mark.parametrize(
        ("field", "inside"),
        [
            *((name, {"a": {"$ref": "#/x"}}) for name in ("properties", "patternProperties")),
            ("dependentSchemas", {"a": {"$ref": "#/x"}}),
            *((name, [{"$ref": "#/x"}]) for name in ("anyOf", "allOf", "oneOf", "prefixItems")),
            *((name, {"$ref": "#/x"}) for name in ("items", "additionalProperties", "not", "if")),
            *((name, {"$ref": "#/x"}) for name in ("then", "else", "contains", "propertyNames")),
            *((name, {"$ref": "#/x"}) for name in ("unevaluatedItems", "unevaluatedProperties")),
        ],
    )
    def test_references_at_any_depth(self, field: str, inside: Any) -> None:
        """Wherever a schema may stand, a reference in it is right within the wrapper."""
        given = {"x": {"type": "null"}, field: inside, "const": {"$ref": "#/x"}}
        before = json.dumps(given)
        sent = Schema.of(given).response_format["json_schema"]["schema"]["properties"]["value"]
        moved = json.dumps(inside).replace("#/x", "#/properties/value/x")
        assert sent == {**given, field: json.loads(moved)}
        assert json.dumps(given) == before

    @pytest.mark.parametrize("field", ["$defs", "definitions"])
    def test_references_to_definitions(self, field: str) -> None:
        """Definitions stay at the root, where references to them still are right."""
        given = {
            "anyOf": [{"$ref": f"#/{field}/A"}, {"type": "null"}, True],
            field: {"A": {"items": {"$ref": "#"}}, "B": {"$ref": f"#/{field}/A"}},
        }
        sent = Schema.of(given).response_format["json_schema"]["schema"]
        assert sent == {
            "type": "object",
            "properties": {"value": {"anyOf": given["anyOf"]}},
            "required": ["value"],
            "additionalProperties": False,
            field: {"A": {"items": {"$ref": "#/properties/value"}}, "B": given[field]["B"]},  # type: ignore[call-overload]
        }

    def test_an_open_type_stays_open(self) -> None:
        """A type that takes more fields is sent as it is; every other one is closed."""

        class Open(pydantic.BaseModel, extra="allow"):
            item: str

        assert Schema.of(Open).json_schema["additionalProperties"] is True
        assert Schema.of(Model).json_schema["additionalProperties"] is False
        assert "strict" not in Schema.of(Open).response_format["json_schema"]

    @pytest.mark.parametrize(
        ("status", "error"),
        [
            (
                400,
                {"error": {"message": "This model does not support response_format json_schema"}},
            ),
            (400, {"error": "'response_format.type' must be 'json_object'"}),
            (422, {"detail": [{"loc": ["body", "response_format"], "msg": "Extra inputs"}]}),
            (500, {"error": {"message": "json_schema: failed to parse grammar"}}),
        ],
    )
    def test_a_refused_form_is_asked_for_in_the_prompt(
        self, raw_server: RawServerFactory, status: int, error: Any
    ) -> None:
        """A server that refuses it gets the schema in the prompt, at once and from then on."""
        server = raw_server(keep_alive(answered(status, error), said(GOOD)))
        with native(server) as provider:
            first = provider.complete("Order?", schema=Order)
            second = provider.complete("Order?", schema=Order)
        assert first.data == second.data == Order("bolt", 3)
        assert [a.error is None for a in first.attempts] == [False, True]
        assert len(second.attempts) == 1
        refused, *others = bodies(server)
        assert "response_format" in refused
        for body in others:
            assert "response_format" not in body
            assert '"count"' in body["messages"][-1]["content"]

    def test_a_refusal_after_text_is_none(self, raw_server: RawServerFactory) -> None:
        """A reply that was begun is not asked for again, whatever broke it."""
        event = b'data: {"choices": [{"delta": {"content": "{"}}]}\n\n'
        error = b'data: {"error": {"message": "json_schema: no grammar", "code": 500}}\n\n'
        head = {"Content-Type": "text/event-stream"}
        server = raw_server(keep_alive(http_response(200, head, event + error)))
        with native(server) as provider, pytest.raises(StreamInterrupted):
            provider.complete("Order?", schema=Order)
        assert len(server.requests) == 1

    def test_a_provider_that_refuses_it_itself(self) -> None:
        """What the provider refuses before it sends anything is the error that it is."""
        provider = ScriptedProvider(error=UnsupportedError("no response_format here"))
        with pytest.raises(UnsupportedError, match="no response_format here"):
            provider.complete("Order?", schema=Order)
        assert len(provider.requests) == 1

    def test_it_is_asked_for_once(self) -> None:
        """A provider that has the native form gets it in place of the schema, and no prompt."""
        provider = ScriptedProvider([GOOD])
        provider.complete("Order?", schema=Order)
        (request,) = provider.requests
        assert request.schema is None
        assert request.params["response_format"] == Schema.of(Order).response_format
        assert [message["content"] for message in request.messages] == ["Order?"]

    def test_another_error_is_no_refusal(self, raw_server: RawServerFactory) -> None:
        """A 400 or 500 that does not name the form is the error that it is, after one request."""
        server = raw_server(keep_alive(answered(500, {"error": {"message": "out of memory"}})))
        with native(server) as provider, pytest.raises(ServerError):
            provider.complete("Order?", schema=Order)
        assert len(server.requests) == 1

    def test_a_refusal_of_something_else(self, raw_server: RawServerFactory) -> None:
        """A refused image is the error that it is, and the form is sent as before."""
        image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAEC"}}
        refused = answered(400, {"error": {"message": "m is not a multimodal model"}})
        server = raw_server(keep_alive(refused, said(GOOD)))
        with native(server) as provider:
            with pytest.raises(UnsupportedError):
                provider.complete([{"role": "user", "content": [image]}], schema=Order)
            provider.complete("Order?", schema=Order)
        assert ["response_format" in body for body in bodies(server)] == [True, True]

    def test_what_did_not_help_is_forgotten(self, raw_server: RawServerFactory) -> None:
        """The form is given up for later calls only if the call without it succeeded."""
        trouble = answered(500, {"error": {"message": "structured output: out of memory"}})
        server = raw_server(keep_alive(trouble, trouble, said(GOOD)))
        with native(server) as provider:
            with pytest.raises(ServerError):
                provider.complete("Order?", schema=Order)
            provider.complete("Order?", schema=Order)
        assert ["response_format" in body for body in bodies(server)] == [True, False, True]

    def test_a_form_that_is_ignored_with_200(self, raw_server: RawServerFactory) -> None:
        """A server that ignores the form is caught: the reply is looked at in any case."""
        server = raw_server(keep_alive(said(PROSE)))
        with native(server) as provider, pytest.raises(SchemaError) as caught:
            provider.complete("Order?", schema=Order)
        assert caught.value.partial_text == PROSE
        assert len(server.requests) == len(caught.value.attempts) == 2


class TestRepair:
    def test_prose_once(self) -> None:
        """The bad reply is shown to the same provider with the validator's words, once."""
        with Sandbox(reply=replies(PROSE, GOOD)) as sandbox:
            environ = sandbox.environ()
            provider = OpenAICompatible(
                base_url=environ["OPENAI_BASE_URL"], api_key=environ["OPENAI_API_KEY"]
            )
            with provider:
                completion = provider.complete("Order?", schema=Order)
            first, second = [request.json["messages"] for request in sandbox.requests]
        assert completion.data == Order("bolt", 3)
        assert [type(a.error) for a in completion.attempts] == [SchemaError, type(None)]
        assert second[: len(first)] == first
        assert second[-2] == {"role": "assistant", "content": PROSE}
        assert second[-1]["role"] == "user"
        assert "no JSON value" in second[-1]["content"]

    def test_over_a_guest_service(self) -> None:
        """ChatGLM's protocol, which has neither history nor a native form, does the same."""
        with Sandbox(reply=replies(PROSE, f"Sure:\n```json\n{GOOD}\n```")) as sandbox:
            base_url = sandbox.environ()["LLMPROVIDERS_CHATGLM_BASE_URL"]
            with ChatGLM(base_url=base_url) as provider:
                completion = provider.complete("Order?", schema=Order)
            first, second = [json.dumps(r.json, ensure_ascii=False) for r in sandbox.requests]
        assert completion.data == Order("bolt", 3)
        assert "JSON Schema" in first
        assert PROSE in second

    def test_prose_twice_then_the_next_provider(self) -> None:
        """Three requests: the first provider twice, then the second with the original prompt."""
        first, second = (
            ScriptedProvider([PROSE], name="first"),
            ScriptedProvider([GOOD], name="second"),
        )
        client = FailoverClient([first, second])
        completion = client.complete("Order?", schema=Order)
        assert completion.data == Order("bolt", 3)
        assert completion.provider == "second"
        assert [(a.provider, type(a.error)) for a in completion.attempts] == [
            ("first", SchemaError),
            ("first", SchemaError),
            ("second", type(None)),
        ]
        assert "no JSON value" in str(completion.attempts[0].error)
        assert len(second.requests[0].messages) == 1
        assert len(first.requests[1].messages) == 3

    def test_the_error_ends_with_the_fault(self) -> None:
        """A reply that was not cut is told to be wrong, and nothing is said of ``max_tokens``."""
        with pytest.raises(SchemaError, match=r"schema: there is no JSON value in it$"):
            ScriptedProvider([PROSE]).complete("Order?", schema=Order)

    def test_thoughts_come_at_once(self) -> None:
        """With ``reasoning``, thoughts come as they are, and one empty one marks the first text."""
        said = [Reasoning("Hm, "), Reasoning("three."), GOOD[:5], GOOD[5:9], GOOD[9:]]
        request = ChatRequest.of("Order?", params={"schema": Order, "reasoning": True})
        *pieces, finish = ScriptedProvider(said).generate(request)
        thoughts = [piece for piece in pieces if isinstance(piece, Reasoning)]
        assert [thought.text for thought in thoughts] == ["Hm, ", "three.", ""]
        assert pieces[-1] == GOOD
        assert finish.data == Order("bolt", 3)  # type: ignore[attr-defined]

    def test_it_counts_against_nobody(self) -> None:
        """A provider whose replies do not satisfy the schema is asked first again."""
        first, second = (
            ScriptedProvider([PROSE], name="first"),
            ScriptedProvider([GOOD], name="second"),
        )
        client = FailoverClient([first, second])
        client.complete("Order?", schema=Order)
        assert client.complete("Order?").provider == "first"

    def test_nobody_satisfies_it(self) -> None:
        """One provider: a ``SchemaError``; several: inside ``AllProvidersFailed``."""
        with pytest.raises(SchemaError) as alone:
            ScriptedProvider([PROSE], name="first").complete("Order?", schema=Order)
        assert alone.value.partial_text == PROSE
        assert alone.value.detail == "there is no JSON value in it"
        assert not alone.value.retryable
        several = FailoverClient([ScriptedProvider([PROSE], name=n) for n in ("a", "b")])
        with pytest.raises(AllProvidersFailed, match="SchemaError") as caught:
            several.complete("Order?", schema=Order)
        assert len(caught.value.attempts) == 4

    def test_no_repair_of_a_cut_reply(self, raw_server: RawServerFactory) -> None:
        """A reply that ``max_tokens`` cut is not shown to the model again."""
        server = raw_server(keep_alive(said('{"item": "bo', "length")))
        with native(server) as provider, pytest.raises(SchemaError, match="max_tokens"):
            provider.complete("Order?", schema=Order)
        assert len(server.requests) == 1

    def test_no_repair_of_a_filtered_reply(self, raw_server: RawServerFactory) -> None:
        """Nor is one that a filter ended, and the error says so: it would end likewise."""
        server = raw_server(keep_alive(said('{"item": "bo', "content_filter")))
        with native(server) as provider, pytest.raises(SchemaError, match="a filter"):
            provider.complete("Order?", schema=Order)
        assert len(server.requests) == 1

    def test_one_deadline_over_the_repair(self, raw_server: RawServerFactory) -> None:
        """The deadline of a call holds over both requests."""
        server = raw_server(keep_alive(said(PROSE), [Pause(5.0), *said(GOOD)]))
        with native(server) as provider, pytest.raises(DeadlineExceeded) as caught:
            provider.complete("Order?", schema=Order, deadline=0.5)
        assert len(caught.value.attempts) == 2

    def test_accept_sees_the_data(self) -> None:
        """``accept`` gets the completion with its ``data``."""
        seen = []

        def accept(completion: Any) -> bool:
            seen.append(completion.data)
            return len(seen) > 1

        client = FailoverClient(
            [ScriptedProvider([GOOD], name=n) for n in ("a", "b")], accept=accept
        )
        assert client.complete("Order?", schema=Order).provider == "b"
        assert seen == [Order("bolt", 3)] * 2

    def test_a_call_of_a_tool_is_no_bad_reply(self, raw_server: RawServerFactory) -> None:
        """A reply that calls a tool instead of answering is returned as it is, without data."""
        call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
        message = {"role": "assistant", "content": None, "tool_calls": [call]}
        choice = {"message": message, "finish_reason": "tool_calls"}
        server = raw_server(keep_alive(answered(200, {"choices": [choice]})))
        with native(server) as provider:
            completion = provider.complete("Order?", schema=Order, tools=[{"type": "function"}])
        assert completion.data is None
        assert completion.tool_calls[0]["function"]["name"] == "f"

    def test_a_conversation_keeps_the_good_turn_alone(self) -> None:
        """What was said to repair a reply is no part of the conversation."""
        with Sandbox(reply=replies(PROSE, GOOD)) as sandbox:
            base_url = sandbox.environ()["LLMPROVIDERS_CHATGLM_BASE_URL"]
            with ChatGLM(base_url=base_url) as provider:
                chat = provider.conversation()
                assert chat.ask("Order?", schema=Order).data == Order("bolt", 3)
        assert [m["content"] for m in chat.messages] == ["Order?", GOOD]

    def test_the_first_chunk_is_a_sign_of_life(self, raw_server: RawServerFactory) -> None:
        """``first_chunk_timeout`` bounds the first text of the first reply, not the whole of it."""
        event = b'data: {"choices": [{"delta": {"content": %s}}]}\n\n'
        pieces = [event % json.dumps(piece).encode() for piece in (GOOD[:5], GOOD[5:])]
        end = b'data: {"choices": [{"delta": {}, "finish_reason": "stop"}]}\n\ndata: [DONE]\n\n'
        head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
        server = raw_server([head, pieces[0], Pause(0.8), pieces[1], end])
        with native(server) as provider:
            client = FailoverClient([provider], first_chunk_timeout=0.4, attempts=1)
            assert client.complete("Order?", schema=Order).data == Order("bolt", 3)


def test_the_schema_behind_other_messages() -> None:
    """A part of text of its own is added to parts, and a message to what is not the user's."""
    prompt = Schema.of(Wide).prompt
    provider = Prompted(['{"items": []}'])
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}
    parts = [{"type": "text", "text": "Order?"}, image]
    user = {"role": "user", "content": parts}
    provider.complete([user], schema=Wide)
    provider.complete([user, {"role": "assistant", "content": "Yes?"}], schema=Wide)
    first, second = (request.messages for request in provider.requests)
    assert list(first) == [{"role": "user", "content": [*parts, {"type": "text", "text": prompt}]}]
    assert second[-2:] == (
        {"role": "assistant", "content": "Yes?"},
        {"role": "user", "content": prompt},
    )


def test_the_schema_goes_into_the_last_message_of_the_user() -> None:
    """In the prompt's form the schema follows the question; a conversation stays as it is."""
    provider = Prompted(['{"items": []}'])
    history = [
        {"role": "system", "content": "S"},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Yes?"},
        {"role": "user", "content": [{"type": "text", "text": "Order?"}]},
    ]
    provider.complete(history, schema=Wide)
    sent = provider.requests[0].messages
    assert [m["content"] for m in sent[:3]] == ["S", "Hi", "Yes?"]
    assert "Order?" in str(sent[3]["content"])
    assert "JSON Schema" in str(sent[3]["content"])
    assert provider.requests[0].schema is None
