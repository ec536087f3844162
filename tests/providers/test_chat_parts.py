"""Thoughts and calls of tools that arrive in pieces are put together as they were meant."""

from __future__ import annotations

import json
from typing import Any

import pytest

from llmproviders import ProtocolError
from llmproviders.providers._chat_parts import (
    ThoughtDetails,
    ToolCalls,
    thought_of,
    whole_number,
)


def ignored(_: int) -> None:
    """Keep whatever it is."""


def joined(*events: Any) -> list[dict[str, Any]]:
    """The thoughts that these events make."""
    details = ThoughtDetails(ignored)
    for event in events:
        details.add(event)
    return details.joined()


def called(*pieces: dict[str, Any], whole: bool = False) -> list[dict[str, Any]]:
    """The calls that these pieces make."""
    calls = ToolCalls(ignored)
    for piece in pieces:
        calls.add(piece, whole=whole)
    return calls.finished()


def piece(
    arguments: Any = None, name: str | None = None, *, index: Any = 0, **more: Any
) -> dict[str, Any]:
    """A piece of a call."""
    return {"index": index, "function": {"name": name, "arguments": arguments}, **more}


def told(calls: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """The names and arguments of calls."""
    return [(call["function"]["name"], call["function"]["arguments"]) for call in calls]


class TestThoughts:
    @pytest.mark.parametrize(
        ("value", "thought"),
        [
            ("hm", "hm"),
            ({"summary": "a", "content": "b"}, "a"),
            ({"thinking": "", "reasoning": None, "text": "c"}, "c"),
            ({"content": [{"text": "d"}, "e", {"other": "f"}]}, "de"),
            ([{"thinking": "a"}, "b"], "ab"),
            ({"other": "a"}, ""),
            (None, ""),
            (7, ""),
        ],
    )
    def test_where_they_may_stand(self, value: Any, thought: str) -> None:
        """Whatever a service wraps its thoughts in, they are found, and once each."""
        assert thought_of(value) == thought

    def test_pieces_of_one_are_joined(self) -> None:
        """A thought of the same type and index goes on, and keeps what comes beside it."""
        assert joined(
            [{"type": "reasoning.text", "index": 0, "text": "h", "signature": None}],
            [{"type": "reasoning.text", "index": 0, "text": "m", "signature": "A"}],
            [{"type": "reasoning.text", "index": 0, "text": "", "signature": "B", "id": "x"}],
            [{"type": "reasoning.text", "index": 0, "text": "", "signature": None, "id": None}],
        ) == [
            {"type": "reasoning.text", "index": 0, "text": "hm", "signature": "B", "id": "x"},
        ]

    def test_another_type_or_index_is_another(self) -> None:
        """So is one that has no text, such as one that is encrypted."""
        signed = {"type": "reasoning.encrypted", "data": "S", "index": 1}
        assert joined(
            [{"type": "a", "index": 0, "text": "1"}, {"type": "b", "index": 0, "text": "2"}],
            [{"type": "b", "index": 1, "text": "3"}, {"type": "b", "index": 1, "summary": "4"}],
            [signed, signed],
            [{"type": "a", "index": 0, "text": "5"}],
        ) == [
            {"type": "a", "index": 0, "text": "1"},
            {"type": "b", "index": 0, "text": "2"},
            {"type": "b", "index": 1, "text": "3", "summary": "4"},
            signed,
            signed,
            {"type": "a", "index": 0, "text": "5"},
        ]

    def test_what_is_no_thought(self) -> None:
        """Only a list of objects is looked into; a text that is none is a field like others."""
        assert joined("hm", None, {"text": "hm"}, ["hm", 7, None]) == []
        assert joined([{"text": 7, "thinking": "hm"}]) == [{"text": 7, "thinking": "hm"}]

    def test_one_that_says_nothing_of_itself(self) -> None:
        """A thought without a type or an index is one, be it the first; texts go on in it."""
        assert joined([{"thinking": "h"}], [{"thinking": "m"}]) == [{"thinking": "hm"}]
        assert joined([{}], [{"text": "hm"}]) == [{"text": "hm"}]

    def test_what_is_kept_is_counted(self) -> None:
        """Texts count by their bytes, fields once for as long as they stay the same."""
        kept: list[int] = []
        details = ThoughtDetails(kept.append)
        first = {"type": "t", "more": {"a": "x" * 1000}, "text": "Ъ"}
        details.add([first])
        assert 1000 < sum(kept) < 2000
        before = sum(kept)
        for _ in range(10):
            details.add([first])
        assert sum(kept) == before + 10 * 2
        details.add([{"type": "t", "more": "y" * 100, "text": ""}])
        assert sum(kept) == before + 10 * 2 + 100
        for _ in range(100):
            details.add([{}])
        assert sum(kept) > before + 100 * 100


class TestOneCall:
    @pytest.mark.parametrize(
        "pieces",
        [
            [piece('{"a": ', "f", id="x"), piece("1}")],
            [piece('{"a": ', "f", id="x"), piece("1}", "f", id="x")],
            [piece('{"a": ', "f", id="x"), piece("1}", "", id="")],
            [piece('{"a": ', id="x"), piece("1}", "f")],
            [piece(None, "f"), piece('{"a": '), piece("1}", id="x")],
            [piece(None, "f"), piece('{"a": 1}', "f", id="x")],
            [piece('{"a": ', "f", index=None, id="x"), piece("1}", index=None)],
            [piece('{"a": ', "f", index=None, id="x"), piece("1}", index=None, id="x")],
            [piece('{"a": ', "f", index=None, id="x"), piece("1}", id="x")],
            [piece('{"a": ', "f", index="0", id="x"), piece("1}", index=0.0)],
            [piece('{"a": ', "f", id="x"), piece("1", id="y"), piece("}", id="z")],
            [piece("{}", "f", id="x"), piece('{"a": '), piece("1}")],
            [piece("{}", "f", id="x"), piece("\n"), piece(None), piece([])],
            [piece("{}", "f", id="x"), piece(' {"a": 1}')],
            [piece('{"a": 1}', "f", id="x"), piece("", "f", id="x")],
            [piece({}, "f", id="x"), piece({"a": 1})],
            [piece('{"a": 1}', "f", id="x", index=None)],
        ],
    )
    def test_in_pieces(self, pieces: list[dict[str, Any]]) -> None:
        """Pieces of one call, however a service marks them, are one call."""
        (call,) = called(*pieces)
        assert (call["id"], call["type"], call["function"]["name"]) == ("x", "function", "f")
        arguments = json.loads(call["function"]["arguments"])
        assert arguments in ({"a": 1}, {})
        assert (arguments == {}) is (pieces[-1]["function"]["arguments"] == [])

    @pytest.mark.parametrize(
        "cut",
        [
            ('{"a": "}', '"}'),
            ('{"a": {}', "}"),
            ("[1]", "2"),
            ("1", "2"),
            ('{"', '{": 1}'),
            ('{"a": "', '{"}'),
            ('{"a": "\\\\frac{1}', '{2}"}'),
        ],
    )
    @pytest.mark.parametrize("marks", [{"id": "x"}, {"id": "y"}, {"name": "f"}])
    def test_an_end_that_is_none(self, cut: tuple[str, str], marks: dict[str, str]) -> None:
        """A bracket inside of the arguments does not end a call, nor what is no object."""
        assert told(called(piece(cut[0], "f", id="x"), piece(cut[1], **marks))) == [
            ("f", "".join(cut))
        ]

    def test_an_object_is_written_as_text(self) -> None:
        """Arguments that come as an object are JSON text for the caller, as it is written."""
        assert told(called(piece({"city": "Омск"}, "f"))) == [("f", '{"city": "Омск"}')]

    def test_blanks_around_arguments(self) -> None:
        """White space around them is nobody's, and none at all is an empty object."""
        assert told(called(piece(' \n{"a": 1} ', "f"))) == [("f", '{"a": 1}')]
        assert told(called(piece("  ", "f"))) == [("f", "{}")]

    def test_half_a_character(self) -> None:
        """A half of a character that never came whole can be encoded."""
        assert told(called(piece('{"a": "\ud83d', "f"), piece('\ude00"}'))) == [
            ("f", '{"a": "😀"}')
        ]
        assert told(called(piece('{"a": "\ud83d', "f"))) == [("f", '{"a": "\ufffd')]

    @pytest.mark.parametrize(
        ("given", "arguments"),
        [
            ({"name": "f", "arguments": '{"a": 1}'}, '{"a": 1}'),
            ({"name": "f", "parameters": {"a": 1}}, '{"a": 1}'),
            ({"name": "f", "arguments": '{"a": 1}', "parameters": {"b": 2}}, '{"a": 1}'),
            ({"name": "f", "function": None}, "{}"),
            ({"function": {"name": "f", "parameters": {"b": 2}}}, "{}"),
        ],
    )
    def test_a_flat_one(self, given: dict[str, Any], arguments: str) -> None:
        """A call whose name and arguments stand in it directly is a call, without other copies."""
        (call,) = called(given)
        assert (call["function"]["name"], call["function"]["arguments"]) == ("f", arguments)
        assert call.keys() == {"id", "type", "function"}

    def test_what_comes_beside_it(self) -> None:
        """Other fields are kept, and nothing blank takes the place of what was there."""
        (call,) = called(
            piece('{"a": ', "f", id="x", type="function", extra={"sign": "A"}, note="", n=1),
            piece("1}", "", id="", type="", extra=None, note="later", n=2, index=None),
        )
        assert call == {
            "id": "x",
            "type": "function",
            "extra": {"sign": "A"},
            "note": "later",
            "n": 2,
            "function": {"name": "f", "arguments": '{"a": 1}'},
        }

    def test_one_that_is_no_function(self) -> None:
        """A call of another type is kept as it is, without a function that it does not have."""
        custom = {"id": "x", "type": "custom", "custom": {"name": "f", "input": "hi"}}
        assert called(custom) == [custom]
        assert called({"type": "custom", "custom": {}, "name": "n"})[0].keys() == {
            *("id", "type", "custom"),
        }
        assert called({"type": "search", "function": {"name": "f"}, "id": "x"}) == [
            {"type": "search", "id": "x", "function": {"name": "f", "arguments": "{}"}}
        ]

    @pytest.mark.parametrize("kind", [None, "", "function"])
    def test_one_that_says_nothing(self, kind: str | None) -> None:
        """Neither a name nor arguments make no call."""
        assert called(piece(" ", id="x", type=kind), piece("", "")) == []
        (call,) = called(piece("{}", id="x", type=kind))
        assert call == {"id": "x", "type": "function", "function": {"arguments": "{}"}}

    @pytest.mark.parametrize("wrong", [{"function": "f"}, piece(7, "f"), piece(["a"], "f")])
    def test_what_is_no_call(self, wrong: dict[str, Any]) -> None:
        """A call of another shape is an error."""
        with pytest.raises(ProtocolError):
            called(wrong)


class TestSeveral:
    @pytest.mark.parametrize(
        "pieces",
        [
            [piece('{"a": 1}', "f", id="x"), piece('{"a": 2}', "f", id="y", index=1)],
            [piece('{"a": 1}', "f", id="x"), piece('{"a": 2}', "f", id="y")],
            [piece('{"a": 1}', "f", id="x"), piece('{"a": 2}', "f", id="x")],
            [piece('{"a": 1}', "f", id="x"), piece({"a": 2}, "f", id="x")],
            [piece('{"a": 1}', "f", id="x"), piece('{"a": 2}', "f", id="x", index=1)],
            [piece('{"a": 1}', "f"), piece(' {"a": 2}', "f")],
            [piece('{"a": 1} ', "f"), piece({"a": 2}, "f")],
            [piece('{"a": 1}', "f", index=None), piece('{"a": 2}', "f", index=None)],
            [
                piece('{"a": 1}', "f", id="x", index=None),
                piece('{"a": 2}', "f", id="y", index=None),
            ],
            [piece('{"a": 1}', "f", id="x"), piece('{"a": 2', id="y"), piece("}", "f", id="y")],
        ],
    )
    def test_of_one_function(self, pieces: list[dict[str, Any]]) -> None:
        """Two calls of one function are told apart, and each has its own id."""
        calls = called(*pieces)
        assert [json.loads(call["function"]["arguments"]) for call in calls] == [
            {"a": 1},
            {"a": 2},
        ]
        assert calls[-1]["function"].get("name", "f") == "f"
        assert len({call["id"] for call in calls}) == 2

    @pytest.mark.parametrize(
        "pieces",
        [
            [piece('{"a": ', "f", id="x"), piece("1}"), piece('{"a": 1}', "f", id="x")],
            [piece('{"a": 1}', "f", id="x"), piece({"a": 1}, "f", id="x")],
            [piece("", "f", id="x"), piece('{"a": 1}'), piece('{"a": 1}')],
            [piece('{"a": 1}', "f", id="x"), piece('"{\\"a\\": 1}"', id="x")],
            [piece("{}", "f", id="x"), piece('{"a": ', "f", id="x"), piece("1}", "f", id="x")],
            [piece("", "f", id="x", index=None), piece('{"a": 1}', index=0)],
            [piece("", "f", id="x"), piece('{"a": 1}', id="x", index=1)],
            [piece("", "f", id="x"), piece('{"a": 1}', "f", id="x", index=1)],
            [piece(None, "f", id="x"), piece('{"a": 1}', index=1)],
        ],
    )
    def test_one_that_is_said_twice(self, pieces: list[dict[str, Any]]) -> None:
        """A call that is repeated, or whose index changes, is one call: nothing runs twice."""
        (call,) = called(*pieces)
        assert call["id"] == "x"
        assert call["function"]["name"] == "f"
        assert json.loads(call["function"]["arguments"]) == {"a": 1}

    def test_one_of_yandex_that_is_made_twice(self) -> None:
        """There the id is the function's name, so that the same arguments are a second call."""
        pieces = [piece('{"a": 1}', "f", id="f"), piece('{"a": 1}', "f", id="f")]
        assert told(called(*pieces)) == [("f", '{"a": 1}')] * 2
        assert told(called(piece("{}", "f", id="f"), piece("{}", "f", id="f"))) == [("f", "{}")] * 2

    def test_a_head_and_a_tail_with_other_indexes(self) -> None:
        """A piece with neither id nor name belongs to the call that is still open."""
        pieces = [piece('{"a": 1}', "f", id="x"), piece("", "g", id="y"), piece("{", index=1)]
        pieces.append(piece('"b": 2}', index=1))
        assert told(called(*pieces)) == [("f", '{"a": 1}'), ("g", '{"b": 2}')]
        heads = [piece("", "f", id="x", index=None), piece("", "g", id="y", index=None)]
        tails = [piece('{"a": 1}', index=0), piece('{"b": 2}', index=1)]
        assert told(called(*heads, *tails)) == [("f", '{"a": 1}'), ("g", '{"b": 2}')]

    def test_a_name_in_pieces(self) -> None:
        """Its pieces are joined, whether they come one by one or each with all before it."""
        for more in ("weather", "get_weather"):
            pieces = [piece(None, "get_", id="x"), piece(None, more), piece("{}")]
            assert told(called(*pieces)) == [("get_weather", "{}")]

    def test_another_name_is_another_call(self) -> None:
        """Without ids, a name that differs begins the next call, whatever came of the last."""
        assert told(called(piece(None, "f"), piece('{"a": 1}', "g"))) == [
            ("f", "{}"),
            ("g", '{"a": 1}'),
        ]
        assert told(called(piece('{"a": 1', "f", id="x"), piece("2", "g"))) == [
            ("f", '{"a": 1'),
            ("g", "2"),
        ]

    def test_pieces_that_take_turns(self) -> None:
        """Each piece goes to the call of its index or its id, whenever it comes."""
        for marks in ([{"index": 1}, {"index": 0}], [{"index": None, "id": i} for i in "xy"]):
            first, second = marks
            calls = called(
                piece('{"a": ', "f", **first),
                piece('{"a": ', "g", **second),
                piece("1}", **first),
                piece("2}", **second),
            )
            assert dict(told(calls)) == {"f": '{"a": 1}', "g": '{"a": 2}'}

    def test_in_their_order(self) -> None:
        """They are told in the order of their indexes; those without one come first."""
        pieces = [piece("{}", str(index), index=index) for index in (2, 1, None, 0)]
        assert [name for name, _ in told(called(*pieces))] == ["None", "0", "1", "2"]

    def test_in_a_whole_reply(self) -> None:
        """There each piece is a call, though indexes and ids repeat."""
        calls = called(piece("{", "f", id="x"), piece("}", id="x"), whole=True)
        assert [call["function"]["arguments"] for call in calls] == ["{", "}"]

    def test_ids_that_repeat(self) -> None:
        """Repeated and missing ids are made distinct from all others, the first one stays."""
        ids = ["x", "x", "x_1", "call_4", "", "x", 7]
        calls = called(*(piece("{}", "f", index=n, id=i) for n, i in enumerate(ids)))
        found = [call["id"] for call in calls]
        assert found == ["x", "x_1", "x_1_2", "call_4", "call_5", "x_5", "call_6"]


def test_what_is_kept_is_counted() -> None:
    """Arguments count by their bytes; names and other fields once, until they change."""
    kept: list[int] = []
    calls = ToolCalls(kept.append)
    first = piece("Ъ", "f" * 100, id="x", extra={"a": "y" * 1000})
    calls.add(first)
    assert 1100 < sum(kept) < 1400
    before = sum(kept)
    for _ in range(10):
        calls.add(first)
    assert sum(kept) == before + 10 * 2
    calls.add(piece({"a": "z" * 100}))
    assert sum(kept) > before + 10 * 2 + 100


@pytest.mark.parametrize(
    ("value", "number"),
    [
        *((7, 7), (-1, -1), ("7", 7), ("007", 7), (7.0, 7), ("9" * 15, 999_999_999_999_999)),
        *(("9" * 16, None), (7.5, None), ("7.0", None), ("٧", None), ("-1", None), ("", None)),
        *((True, None), (None, None), ([7], None), (float("inf"), None), (float("nan"), None)),
    ],
)
def test_whole_numbers(value: Any, number: int | None) -> None:
    """A whole number is read from a number or its digits; anything else is none."""
    found = whole_number(value)
    assert (found, type(found)) == (number, type(number))
