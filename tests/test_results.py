"""What a call gives back: it reads as text, compares, copies and travels between processes."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable
from dataclasses import FrozenInstanceError
from typing import Any

import pytest

from llmproviders import Attempt, Completion, FinishReason, Reasoning, Restart, ServerError, Usage
from llmproviders.results import Image

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
    message={"role": "assistant", "content": "", "functions_state_id": "s"},
    images=[Image("id-7")],
    request_id="r-1",
    attempts=(ATTEMPT,),
)
RESTART = Restart("void", provider="FlowGpt")
THOUGHT = Reasoning("hm")

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
    @pytest.mark.parametrize(
        "item", [FINISH, RESTART, THOUGHT, FinishReason(), Restart(), Reasoning()]
    )
    def test_they_add_nothing_to_a_text(self, item: str) -> None:
        """As a ``str`` each is empty, so that joining and printing need no special case."""
        assert isinstance(item, str)
        assert item == ""
        assert not item
        assert "".join(["Hello", item]) == f"Hello{item}" == "Hello"

    @TRAVEL
    @pytest.mark.parametrize(
        "item", [FINISH, RESTART, THOUGHT, FinishReason(), Restart(), Reasoning()]
    )
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
        assert repr(THOUGHT) == "Reasoning('hm')"


class TestFinishReason:
    def test_defaults(self) -> None:
        """Without a word of the service's own, ``raw`` is the reason; lists are the item's own."""
        finish = FinishReason("length")
        assert (finish.reason, finish.raw, finish.usage) == ("length", "length", None)
        assert finish.tool_calls == []
        assert finish.tool_calls is not FinishReason().tool_calls

    def test_a_message_is_made_when_it_is_looked_at(self) -> None:
        """A message may be made late, once; a pickle has it made."""
        made: list[int] = []

        def make() -> dict[str, Any]:
            made.append(1)
            return {"role": "assistant", "content": "Hi"}

        finish = FinishReason(message=make).evolve(provider="P")
        assert made == []
        assert pickle.loads(pickle.dumps(finish)).message == {"role": "assistant", "content": "Hi"}
        assert (finish.message["content"], finish.message["role"], made) == ("Hi", "assistant", [1])

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
            ({"total_tokens": 3, "precached_prompt_tokens": 9}, Usage(None, None, 3, 9)),
            ({"prompt_tokens": "1", "completion_tokens": 2.0, "total_tokens": True}, Usage(1, 2)),
            ({"input_tokens": 1, "output_tokens": 2}, Usage(1, 2)),
            ({"prompt_tokens": 1, "prompt_cache_hit_tokens": 1}, Usage(1, cached_tokens=1)),
            ({"prompt_tokens_details": {"cached_tokens": 4}}, Usage(cached_tokens=4)),
            ({"prompt_tokens_details": None, "cached_tokens": 4}, Usage(cached_tokens=4)),
            ({"output_tokens_details": {"reasoning_tokens": 5}}, Usage(reasoning_tokens=5)),
            ({"prompt_tokens": 1.5, "completion_tokens": "2.0", "total_tokens": "x"}, Usage()),
            ({"prompt_tokens": float("nan"), "completion_tokens": float("inf")}, Usage()),
            ({"prompt_tokens": 10**20, "completion_tokens": "9" * 5000}, Usage()),
            ({"prompt_tokens": -1, "total_tokens": None}, Usage()),
            ({}, Usage()),
            (None, None),
            ([1, 2, 3], None),
            ("3", None),
        ],
    )
    def test_from_json(self, value: object, usage: Usage | None) -> None:
        """Counts are taken under each service's name for them, as floats and digits too."""
        assert Usage.from_json(value) == usage

    def test_as_dict(self) -> None:
        """It can be written as a JSON object."""
        assert Usage(1, None, 3).as_dict() == {
            "prompt_tokens": 1,
            "completion_tokens": None,
            "total_tokens": 3,
            "cached_tokens": None,
            "reasoning_tokens": None,
        }

    def test_merged(self) -> None:
        """A later count replaces an earlier one, and one that is missing wipes nothing."""
        assert Usage(1, 2, 3).merged(Usage(None, 5, None, 1)) == Usage(1, 5, 3, 1)
        assert Usage(1).merged(None) == Usage(1)


class TestImage:
    def test_its_address(self) -> None:
        """JSON has the whole address, unless it holds more than 64 KiB of the picture itself."""
        small = "data:image/png;base64,AAEC"
        assert [Image(id).address for id in ("id-7", small)] == ["id-7", small]
        assert Image(small + "A" * 64 * 1024).address == "data:image/png;base64,..."
        assert len(Image("data:" + "A" * 80_000).address) < 120

    def test_bytes(self) -> None:
        """An image has its bytes in its address, or the service is asked for them."""
        assert Image("data:image/png;base64,AAEC").bytes() == bytes([0, 1, 2])
        assert Image("data:text/plain;charset=utf-8,a%20b").bytes() == b"a b"
        assert Image("id-7", fetch=lambda: b"drawn").bytes() == b"drawn"

    @pytest.mark.parametrize("address", ["https://example.org/a.png", "id-7", "data:;base64,A"])
    def test_no_bytes(self, address: str) -> None:
        """An address that nothing is fetched from is an error, and is not fetched."""
        with pytest.raises(ValueError, match="image"):
            Image(address).bytes()

    def test_it_travels_without_what_fetches_it(self) -> None:
        """What fetches the bytes may hold a key, so that a pickle leaves it behind."""
        again = pickle.loads(pickle.dumps(Image("id-7", fetch=lambda: b"drawn")))
        assert again == Image("id-7")
        with pytest.raises(ValueError, match="cannot be fetched"):
            again.bytes()


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
            "usage": None,
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

    def test_what_its_end_knew(self) -> None:
        """Reasoning, calls, message and request id are those of its end."""
        completion = Completion.of("text", FINISH)
        assert completion.reasoning == "thoughts"
        assert completion.tool_calls is FINISH.tool_calls
        assert completion.message["functions_state_id"] == "s"
        assert completion.request_id == "r-1"
        assert (completion.data, completion.cached, completion.steps) == (None, False, ())

    def test_format_and_as_dict(self) -> None:
        """It formats as its text does, and can be written as a JSON object."""
        completion = Completion.of("text", FINISH)
        assert f"{completion:>6}|{completion}" == "  text|text"
        told = json.loads(json.dumps(completion.as_dict()))
        assert (told["text"], told["finish_reason"]) == ("text", "content_filter")
        assert (told["reasoning"], told["request_id"]) == ("thoughts", "r-1")
        assert told["usage"]["total_tokens"] == 3
        assert told["attempts"][0]["provider"] == "GigaChat"
        assert told["images"] == ["id-7"]

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
