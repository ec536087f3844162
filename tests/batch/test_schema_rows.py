"""Typed answers in batches: rows have ``data``, tables have the schema's fields."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from llmproviders import InvalidRequestError
from llmproviders.batch import map, run_file, table
from llmproviders.testing import ScriptedProvider

pytest.importorskip("pydantic")
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


def test_a_schema_without_fields() -> None:
    """A schema whose root is no object has one column, ``data``."""
    client = ScriptedProvider(['"good"'])
    frame = pandas.DataFrame({"x": [1]})
    replies = table(client, "{x}", frame, schema=Literal["good", "bad"])
    assert replies.to_dict("list") == {"data": ["good"], "error": [None]}


def test_a_field_called_error() -> None:
    """A field with the name of the table's own column is refused before anything is sent."""
    schema = {"type": "object", "properties": {"error": {"type": "string"}}}
    with pytest.raises(InvalidRequestError, match="called error"):
        table(mood(), "{x}", pandas.DataFrame({"x": [1]}), schema=schema)
