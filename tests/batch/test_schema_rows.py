"""Typed answers in batches: rows have ``data``, tables have the schema's fields."""

from __future__ import annotations

import json
from dataclasses import dataclass, make_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field
from typing_extensions import TypedDict

from llmproviders import InvalidRequestError
from llmproviders.batch import map, run_file, table
from llmproviders.testing import ScriptedProvider

pandas = pytest.importorskip("pandas")

SCHEMA = {"type": "object", "properties": {"word": {"type": "string"}}, "required": ["word"]}


@dataclass
class Mood:
    """What a comment sounds like."""

    word: str
    score: int = 0


def mood() -> ScriptedProvider:
    """A provider that answers with a mood."""
    return ScriptedProvider(['{"word": "good", ', '"score": 3}'])


def test_results() -> None:
    """Each result of a batch with a schema has the validated object."""
    results = map(mood(), ["a", "b"], schema=Mood)
    assert [result.data for result in results] == [Mood("good", 3)] * 2


def test_rows(tmp_path: Path) -> None:
    """A row's own schema makes its ``data``; another schema is another request."""
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text(json.dumps({"prompt": "a", "schema": SCHEMA}))
    assert run_file(mood(), source, output).done == 1
    assert run_file(mood(), source, output).skipped == 1
    (row,) = map_lines(output)
    assert row["data"] == {"word": "good", "score": 3}
    source.write_text(json.dumps({"prompt": "a", "schema": {**SCHEMA, "title": "another"}}))
    assert run_file(mood(), source, output).done == 1


def map_lines(path: Path) -> list[dict[str, object]]:
    """The objects of a file of JSON lines."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_table(tmp_path: Path) -> None:
    """A table has a column for each field of the schema, the same with an output and from it."""
    frame = pandas.DataFrame({"x": [1, 2]}, index=["a", "b"])
    for output in (None, tmp_path / "out.jsonl", tmp_path / "out.jsonl"):
        replies = table(mood(), "{x}", frame, schema=Mood, output=output)
        assert list(replies.columns) == ["word", "score", "error"]
        assert replies.loc["b"].tolist() == ["good", 3, None]


class Renamed(BaseModel):
    """A model whose fields have other names outside Python."""

    first_name: str = Field(alias="firstName")
    last_name: str = Field(validation_alias="lastName")
    age: int = Field(0, serialization_alias="years")


class Outside(BaseModel):
    """A model that is written with the names from outside."""

    model_config = ConfigDict(serialize_by_alias=True)
    first_name: str = Field(alias="firstName")


class RenamedDict(TypedDict):
    """A dict whose key has another name outside Python."""

    first_name: Annotated[str, Field(alias="firstName")]


class Tree(BaseModel):
    """A model that contains itself."""

    first_name: str = Field(alias="firstName")
    below: list[Tree] = []


ANN = '{"firstName": "Ann"}'


@pytest.mark.parametrize("with_output", [False, True])
@pytest.mark.parametrize(
    ("schema", "reply", "values"),
    [
        (Literal["good", "bad"], '"good"', {"data": "good"}),
        (dict[str, int], '{"a": 1}', {"data": {"a": 1}}),
        (Mood | Renamed, '{"word": "good"}', {"data": {"word": "good", "score": 0}}),
        ({"type": "object"}, '{"data": 1}', {"data": {"data": 1}}),
        ({"anyOf": [SCHEMA]}, '{"word": "good"}', {"data": {"word": "good"}}),
        (make_dataclass("D", [("data", dict[str, int])]), '{"data": {}}', {"data": {}}),
        (make_dataclass("T", [("text", str)]), '{"text": "good"}', {"text": "good"}),
        (
            Renamed,
            '{"firstName": "Ann", "lastName": "Lee", "age": 7}',
            {"firstName": "Ann", "lastName": "Lee", "age": 7},
        ),
        (Outside, ANN, {"firstName": "Ann"}),
        (RenamedDict, ANN, {"firstName": "Ann"}),
        (Tree, ANN, {"firstName": "Ann", "below": []}),
    ],
    ids=[
        *("no object", "any keys", "union", "any object", "anyOf", "data", "text"),
        *("aliases", "written by alias", "alias in a dict", "recursive"),
    ],
)
def test_columns(
    schema: Any, reply: str, values: dict[str, Any], with_output: bool, tmp_path: Path
) -> None:
    """A schema's fields are columns, whatever their names and aliases; where it names none, there
    is one column, ``data``, with the whole value.
    """
    output = tmp_path / "out.jsonl" if with_output else None
    frame = pandas.DataFrame({"x": [1]})
    replies = table(ScriptedProvider([reply]), "{x}", frame, schema=schema, output=output)
    assert replies.to_dict("records") == [{**values, "error": None}]


def test_failed_rows() -> None:
    """A failed row has None, NaN among floats, and changes no value of another row."""
    kind = make_dataclass("Kind", [("id", int), ("paid", bool), ("share", float), ("word", str)])
    large = 12345678901234567
    client = ScriptedProvider([json.dumps({"id": large, "paid": True, "share": 0.5, "word": "a"})])
    replies = table(client, "{x}", pandas.DataFrame({"x": [1, None]}), schema=kind)
    assert replies.iloc[0].tolist() == [large, True, 0.5, "a", None]
    assert replies["id"].tolist() == [large, None]
    assert replies["id"].astype("Int64")[0] == large
    assert replies["word"].tolist() == ["a", None]
    assert replies["share"].dtype == float


def test_a_field_called_error() -> None:
    """A field with the name of the table's own column is refused before anything is sent."""
    schema = {"type": "object", "properties": {"error": {"type": "string"}}}
    with pytest.raises(InvalidRequestError, match="called error"):
        table(mood(), "{x}", pandas.DataFrame({"x": [1]}), schema=schema)
