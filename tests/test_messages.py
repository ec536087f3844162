"""Prompts become messages, or an error before anything is sent."""

from __future__ import annotations

from typing import Any

import pytest

from llmproviders import InvalidRequestError
from llmproviders.messages import answered, fold, normalize, without_tools


def user(content: Any) -> dict[str, Any]:
    """A user's message."""
    return {"role": "user", "content": content}


PARTS = [{"type": "text", "text": "one "}, {"type": "text", "text": "two"}]
IMAGE = {"type": "image_url", "image_url": {"url": "https://host/a.png", "detail": "low"}}
CALLED = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}
CALL = {"role": "assistant", "content": None, "tool_calls": [CALLED]}
OBJECT = {**CALLED, "function": {"name": "f", "arguments": {"x": 1}}}
OLD_CALL = {"role": "assistant", "content": None, "function_call": {"name": "f"}}


class TestNormalize:
    @pytest.mark.parametrize(
        ("prompt", "messages"),
        [
            ("Hi", [user("Hi")]),
            ("  Hi\n", [user("  Hi\n")]),
            ([user("Hi")], [user("Hi")]),
            ((user("Hi"),), [user("Hi")]),
            ([user(PARTS)], [user("one two")]),
            ([user(tuple(PARTS))], [user("one two")]),
            ([user([]), user("x")], [user(""), user("x")]),
            (
                [{"role": "developer", "content": "Be brief."}, user("Hi")],
                [{"role": "system", "content": "Be brief."}, user("Hi")],
            ),
            ([user("x"), CALL], [user("x"), {**CALL, "content": ""}]),
            ([user("x"), OLD_CALL], [user("x"), {**OLD_CALL, "content": ""}]),
            (
                [user("x"), {"role": "tool", "content": "7", "tool_call_id": "1"}],
                [user("x"), {"role": "tool", "content": "7", "tool_call_id": "1"}],
            ),
            (
                [{"role": "function", "content": "7", "name": "f"}],
                [{"role": "function", "content": "7", "name": "f"}],
            ),
            ([{**user("x"), "name": "me"}], [{**user("x"), "name": "me"}]),
            ([user([IMAGE])], [user([IMAGE])]),
            ([user([*PARTS, IMAGE])], [user([*PARTS, IMAGE])]),
            (
                [user([{"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}])],
                [user([{"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}])],
            ),
            (
                [user("x"), {"role": "assistant", "content": "", "tool_calls": [OBJECT]}],
                [user("x"), {**CALL, "content": ""}],
            ),
            (
                [user("x"), {"role": "tool", "content": "7", "name": "f"}],
                [user("x"), {"role": "tool", "content": "7", "name": "f"}],
            ),
        ],
    )
    def test_taken(self, prompt: Any, messages: list[dict[str, Any]]) -> None:
        """A text, or messages of texts or parts, become messages with one text each."""
        assert normalize(prompt) == messages

    def test_a_system_prompt_comes_first(self) -> None:
        """``system`` is put before the messages, before their own system message too."""
        own = {"role": "system", "content": "own"}
        first = {"role": "system", "content": "given"}
        assert normalize([own, user("x")], system="given") == [first, own, user("x")]

    def test_the_callers_messages_stay_as_they_are(self) -> None:
        """What the caller passed is not changed, and is not what is passed on."""
        prompt = [user(PARTS)]
        normalize(prompt)[0]["content"] = "other"
        assert prompt == [user(PARTS)]

    @pytest.mark.parametrize(
        ("prompt", "said"),
        [
            ("", "empty"),
            (" \n\t\u3000", "empty"),
            ([], "empty"),
            ([user("")], "empty"),
            ([user([])], "empty"),
            ([{"role": "system", "content": "only"}], "empty"),
            (None, "NoneType"),
            (7, "int"),
            (b"Hi", "bytes"),
            ({"role": "user", "content": "Hi"}, "dict"),
            ({"Hi"}, "set"),
            (["Hi"], "message 0 is str"),
            ([user("x"), None], "message 1 is NoneType"),
            ([{"content": "x"}], "role None"),
            ([{"role": "robot", "content": "x"}], "'robot'; known are system, user"),
            ([{"role": "User", "content": "x"}], "'User'"),
            ([{"role": ["user"], "content": "x"}], "message 0 has the role"),
            ([{"role": "user"}], "NoneType"),
            ([user(None)], "NoneType"),
            ([user(7)], "int"),
            ([user(b"x")], "bytes"),
            ([user({"type": "text", "text": "x"})], "dict"),
            ([user(["x"])], "part"),
            ([user([{"type": "text"}])], "part"),
            ([user([{"type": "text", "text": 7}])], "part"),
            (
                [user([{"type": "image_url", "image_url": {"url": "x"}}])],
                "neither https: nor data:",
            ),
            ([user([{"type": "image_url", "image_url": {"url": "http://host/a"}}])], "encrypted"),
            ([user([{"type": "image_url", "image_url": {"url": "https://h/ a"}}])], "address"),
            ([user([{"type": "image_url", "image_url": "https://host/a"}])], "part"),
            ([user([{"type": "input_audio", "input_audio": {}}])], "part"),
            ([{**CALL, "tool_calls": "f"}], "tool_calls that are not a list"),
            ([{**CALL, "tool_calls": ["f"]}], "a call in tool_calls that is not an object"),
            (
                [{**CALL, "tool_calls": [{"function": "f"}]}],
                "not an object with a name and arguments",
            ),
            ([{**OLD_CALL, "function_call": "f"}], "function_call of message 0 is not an object"),
            ([{**CALL, "tool_calls": [{"function": {"name": "f", "arguments": 7}}]}], "arguments"),
            ("half \ud83d", "lone surrogate at position 5"),
        ],
    )
    def test_refused(self, prompt: Any, said: str) -> None:
        """What no service could take is refused, with what is wrong and where."""
        with pytest.raises(InvalidRequestError, match=said) as caught:
            normalize(prompt)
        assert caught.value.status_code is None

    @pytest.mark.parametrize("system", [7, b"x", ["x"]])
    def test_refused_system_prompts(self, system: Any) -> None:
        """A system prompt is a text, or parts, as any message."""
        with pytest.raises(InvalidRequestError):
            normalize("Hi", system=system)


class TestFold:
    @pytest.mark.parametrize(
        ("messages", "text"),
        [
            ([user("Hi")], "Hi"),
            ([{"role": "assistant", "content": "Hi"}], "Hi"),
            ([user(" Hi\n")], " Hi\n"),
            (
                [{"role": "system", "content": "Be brief."}, user("Hi")],
                "System: Be brief.\nUser: Hi\nAssistant:",
            ),
            (
                [user("Hi"), {"role": "assistant", "content": ""}, user("Why?")],
                "User: Hi\nUser: Why?\nAssistant:",
            ),
            (
                [user("a"), {"role": "tool", "content": "7"}],
                "User: a\nTool: 7\nAssistant:",
            ),
            ([user("a\nb"), user("c")], "User: a\nb\nUser: c\nAssistant:"),
            (
                [
                    user("a"),
                    {**CALL, "content": ""},
                    {"role": "tool", "content": "7", "tool_call_id": "1"},
                ],
                'User: a\nAssistant: Called f({"x": 1})\nTool f: 7\nAssistant:',
            ),
        ],
    )
    def test_paragraphs(self, messages: list[dict[str, Any]], text: str) -> None:
        """One message is sent as it is; more become a paragraph each, and a last line asks."""
        assert fold(messages) == text


def called(*calls: tuple[str | None, str]) -> dict[str, Any]:
    """An assistant's message that calls functions, by their ids and names."""
    told = [{"id": i, "function": {"name": name, "arguments": "{}"}} for i, name in calls]
    return {"role": "assistant", "content": None, "tool_calls": told}


def result(call_id: str | None = None, name: str | None = None) -> dict[str, Any]:
    """The result of a function."""
    return {"role": "tool", "tool_call_id": call_id, "name": name, "content": "5"}


NOT_NOW = {"role": "user", "content": "Not now."}


class TestAnswered:
    TWO = called(("1", "rain"), ("2", "price"))

    @pytest.mark.parametrize(
        ("history", "answers"),
        [
            ([TWO, result("1"), result("2")], {1: (0, 0), 2: (0, 1)}),
            ([TWO, result("2"), result("1")], {1: (0, 1), 2: (0, 0)}),
            ([TWO, result(name="price"), result(name="rain")], {1: (0, 1), 2: (0, 0)}),
            ([TWO, result("x", "price"), result("y", "rain")], {1: (0, 1), 2: (0, 0)}),
            ([TWO, result(name="price")], {1: (0, 1)}),
            ([TWO, result(), result("1")], {1: (0, 1), 2: (0, 0)}),
            ([TWO, result(), result()], {1: (0, 0), 2: (0, 1)}),
            ([TWO, result("1"), result("1")], {1: (0, 0)}),
            ([TWO, result("1", "price"), result("2")], {1: (0, 0), 2: (0, 1)}),
            # Repeated ids.
            (
                [called(("c", "rain"), ("c", "price")), result("c"), result("c")],
                {1: (0, 0), 2: (0, 1)},
            ),
            (
                [called(("c", "rain"), ("c", "price")), result("c", "price"), result("c")],
                {1: (0, 1), 2: (0, 0)},
            ),
            (
                [called(("c", "rain")), result("c"), called(("c", "price")), result("c")],
                {1: (0, 0), 3: (2, 0)},
            ),
            ([called(("c", "rain")), called(("c", "price")), result("c")], {2: (0, 0)}),
            # A call that was never answered does not take the result of a later one.
            (
                [called(("c", "rain")), NOT_NOW, TWO, result("2")],
                {3: (2, 1)},
            ),
            (
                [called(("c", "rain")), NOT_NOW, called(("c", "price")), result("c")],
                {3: (2, 0)},
            ),
            # Something between the call and its result.
            (
                [TWO, result("1"), {"role": "user", "content": "wait"}, result("2")],
                {1: (0, 0), 3: (0, 1)},
            ),
            ([called((None, "rain"), (None, "price")), result(), result()], {1: (0, 0), 2: (0, 1)}),
            ([result("1"), TWO], {}),
            ([], {}),
        ],
    )
    def test_by_place(
        self, history: list[dict[str, Any]], answers: dict[int, tuple[int, int]]
    ) -> None:
        """A call is known by its place: ids first, then names, then the order."""
        assert answered([{**message, "content": ""} for message in history]) == answers

    def test_written_out(self) -> None:
        """The name of a written-out result is that of its own call, although ids repeat."""
        history = normalize([called(("c", "rain"), ("c", "price")), result("c"), result("c")])
        assert fold(history).splitlines()[2:4] == ["Tool rain: 5", "Tool price: 5"]
        told = [turn["content"] for turn in without_tools(history)]
        assert told[1:] == ["Result of rain: 5", "Result of price: 5"]
