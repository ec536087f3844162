"""What a call gives back: it reads as text, compares, copies and travels between processes."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable
from dataclasses import FrozenInstanceError
from typing import Any

import pytest

from llmproviders import Attempt, Completion, FinishReason, Restart, ServerError, Usage

ATTEMPT = Attempt("GigaChat", "GigaChat-2", 1.5, 0.25, 2.0, waited=0.5, chunks=3)
FINISH = FinishReason(
    "content_filter",
    raw="blacklist",
    provider="GigaChat",
    model="GigaChat-2",
    usage=Usage(1, 2, 3),
    detail="why",
    reasoning="thoughts",
    tool_calls=[{"function": {"name": "f", "arguments": "{}"}}],
    request_id="r-1",
    attempts=(ATTEMPT,),
)
RESTART = Restart("void", provider="FlowGpt")

TRAVEL = pytest.mark.parametrize(
    "travel",
    [
        *(lambda x, n=n: pickle.loads(pickle.dumps(x, n)) for n in range(2, 6)),
        copy.copy,
        copy.deepcopy,
    ],
)


def attributes(item: Any) -> dict[str, Any]:
    """Every slot of a ``FinishReason`` or ``Restart``."""
    return {name: getattr(item, name) for name in type(item).__slots__}


class TestEmptyStrings:
    @pytest.mark.parametrize("item", [FINISH, RESTART, FinishReason(), Restart()])
    def test_they_add_nothing_to_a_text(self, item: str) -> None:
        """As a ``str`` each is empty, so that joining and printing need no special case."""
        assert isinstance(item, str)
        assert item == ""
        assert not item
        assert "".join(["Hello", item]) == f"Hello{item}" == "Hello"

    @TRAVEL
    @pytest.mark.parametrize("item", [FINISH, RESTART, FinishReason(), Restart()])
    def test_they_travel(self, travel: Callable[[Any], Any], item: str) -> None:
        """A pickle or a copy has the class and every attribute."""
        again = travel(item)
        assert type(again) is type(item)
        assert attributes(again) == attributes(item)

    def test_repr_tells_what_is_known(self) -> None:
        """``repr`` shows the reason and whatever was said, and leaves out what was not."""
        assert repr(FinishReason()) == "FinishReason('stop')"
        assert repr(FinishReason("length", provider="X")) == "FinishReason('length', provider='X')"
        assert "usage=Usage(" in repr(FINISH)
        assert repr(RESTART) == "Restart(discarded_text='void', provider='FlowGpt')"


class TestFinishReason:
    def test_defaults(self) -> None:
        """Without a word of the service's own, ``raw`` is the reason; lists are the item's own."""
        finish = FinishReason("length")
        assert (finish.reason, finish.raw, finish.usage) == ("length", "length", None)
        assert finish.tool_calls == []
        assert finish.tool_calls is not FinishReason().tool_calls

    def test_evolve(self) -> None:
        """``evolve`` changes what is named and nothing else, in a copy."""
        changed = FINISH.evolve(provider="Other")
        assert attributes(changed) == {**attributes(FINISH), "provider": "Other"}
        assert FINISH.provider == "GigaChat"
        with pytest.raises(TypeError):
            FINISH.evolve(unknown=1)


class TestUsage:
    @pytest.mark.parametrize(
        ("value", "usage"),
        [
            ({"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}, Usage(1, 2, 3)),
            ({"total_tokens": 3, "precached_prompt_tokens": 9}, Usage(None, None, 3)),
            ({"prompt_tokens": "1", "completion_tokens": 2.0, "total_tokens": True}, Usage()),
            ({"prompt_tokens": -1, "total_tokens": None}, Usage()),
            ({}, Usage()),
            (None, None),
            ([1, 2, 3], None),
            ("3", None),
        ],
    )
    def test_from_json(self, value: object, usage: Usage | None) -> None:
        """Counts that are whole numbers are taken, whatever else a service puts there."""
        assert Usage.from_json(value) == usage

    def test_as_dict(self) -> None:
        """It can be written as a JSON object."""
        assert Usage(1, None, 3).as_dict() == {
            "prompt_tokens": 1,
            "completion_tokens": None,
            "total_tokens": 3,
        }


class TestAttempt:
    def test_as_dict(self) -> None:
        """It can be written as a JSON object, its error as type and message."""
        attempt = Attempt("A", None, 1.0, None, 0.5, error=ServerError("down"))
        assert json.loads(json.dumps(attempt.as_dict())) == {
            "provider": "A",
            "model": None,
            "started_at": 1.0,
            "first_chunk_after": None,
            "duration": 0.5,
            "error": {"type": "ServerError", "message": "down"},
            "waited": 0.0,
            "chunks": 0,
        }
        assert ATTEMPT.as_dict()["error"] is None


class TestCompletion:
    def test_of(self) -> None:
        """It takes from the end of a stream what the stream's end knew."""
        completion = Completion.of("text", FINISH)
        assert str(completion) == completion.text == "text"
        assert completion.finish_reason is FINISH
        assert (completion.provider, completion.model) == ("GigaChat", "GigaChat-2")
        assert (completion.usage, completion.attempts) == (Usage(1, 2, 3), (ATTEMPT,))

    @TRAVEL
    def test_it_travels(self, travel: Callable[[Any], Any]) -> None:
        """A pickle or a copy equals the original, its finish reason's attributes included."""
        completion = Completion.of("text", FINISH)
        again = travel(completion)
        assert again == completion
        assert attributes(again.finish_reason) == attributes(FINISH)

    @pytest.mark.parametrize("item", [Completion.of("x", FINISH), ATTEMPT, Usage()])
    def test_frozen(self, item: Any) -> None:
        """What happened cannot be changed afterwards."""
        name = next(iter(item.__dataclass_fields__))
        with pytest.raises(FrozenInstanceError):
            setattr(item, name, None)
