"""What a model thinks: apart from its text, a sign of life, and nobody's history."""

from __future__ import annotations

import json
import threading

import pytest
import tenacity

from llmproviders import (
    EmptyReplyError,
    FailoverClient,
    FinishReason,
    FlowGpt,
    LLMError,
    OpenAICompatible,
    ProviderTimeout,
    Reasoning,
    Restart,
    ServerError,
    StreamInterrupted,
)
from llmproviders.messages import fold
from llmproviders.provider import BaseClient
from llmproviders.testing import ScriptedProvider
from tests.support.actors import Act, Actor, FakeClock
from tests.support.calls import Canned, canned

GOOD = ["It ", "scatters."]
SOON = 0.03


def items(client: BaseClient, **params: bool) -> list[tuple[str, str]]:
    """Each item of a stream by its kind and what it says."""
    told = []
    for item in client.stream("Why?", **params):
        said = item.text if isinstance(item, Reasoning) else getattr(item, "reason", str(item))
        told.append((type(item).__name__, said))
    return told


def thinking(*acts: Act, name: str = "thinker") -> Actor:
    """A provider that plays these acts."""
    return Actor(*acts, name=name)


def events(*deltas: dict[str, object], finish: str = "stop") -> Canned:
    """A stream of deltas."""
    told = [{"choices": [{"index": 0, "delta": delta}]} for delta in deltas]
    told.append({"choices": [{"index": 0, "delta": {}, "finish_reason": finish}]})
    body = "".join(f"data: {json.dumps(event)}\n\n" for event in told)
    return Canned(f"{body}data: [DONE]\n\n".encode())


class TestItems:
    def test_only_where_they_are_wanted(self) -> None:
        """A stream yields text alone, or, with ``reasoning=True``, the thoughts as they come."""
        act = [Reasoning("hm, "), Reasoning("yes"), "It ", Reasoning("so"), "scatters."]
        for client in (thinking(act), FailoverClient([thinking(act)])):
            assert [kind for kind, _ in items(client)] == ["str", "str", "FinishReason"]
            assert items(client, reasoning=True) == [
                ("Reasoning", "hm, "),
                ("Reasoning", "yes"),
                ("str", "It "),
                ("Reasoning", "so"),
                ("str", "scatters."),
                ("FinishReason", "stop"),
            ]

    def test_a_clients_thoughts_through_another(self) -> None:
        """A client inside another one passes its provider's thoughts on."""
        inner = FailoverClient([thinking([Reasoning("hm"), *GOOD])])
        assert items(FailoverClient([inner]), reasoning=True)[0] == ("Reasoning", "hm")

    def test_complete_has_them_apart(self) -> None:
        """A completion has the text without the thoughts, and the thoughts beside it."""
        reply = events(
            {"reasoning_content": "hm, "}, {"reasoning_content": "yes"}, {"content": "a"}
        )
        provider = canned(OpenAICompatible, reply, base_url="http://x/v1")
        for params in ({}, {"reasoning": True}):
            completion = provider.complete("Hi", **params)
            assert (completion.text, completion.reasoning) == ("a", "hm, yes")
        whole = provider.create_generator(None, "Hi", stream=False, reasoning=True)
        assert [str(item) for item in whole] == ["", "", "a", ""]

    def test_tags_cut_anywhere_as_they_come(self) -> None:
        """Thoughts in tags are told as they come, whatever the pieces; the tags never are."""
        text = "<think>hm, yes</think>\n\nBlue."
        for size in range(1, len(text)):
            cuts = [text[i : i + size] for i in range(0, len(text), size)]
            provider = canned(
                OpenAICompatible, events(*({"content": c} for c in cuts)), base_url="http://x/v1"
            )
            told = items(provider, reasoning=True)
            assert "".join(said for kind, said in told if kind == "Reasoning") == "hm, yes"
            assert "".join(said for kind, said in told if kind == "str") == "Blue."

    @pytest.mark.parametrize(
        ("pieces", "text", "thought"),
        [
            (["a", "<think>", "b"], "a<think>b", ""),
            (["<think>hm</think>a", " b", "<think>"], "a b<think>", "hm"),
            (["<think>hm</think>\n", " a"], "a", "hm"),
        ],
    )
    def test_once_there_is_text(self, pieces: list[str], text: str, thought: str) -> None:
        """What follows a reply's first text is text, the tags and its white space, too."""
        reply = events(*({"content": piece} for piece in pieces))
        told = items(canned(OpenAICompatible, reply, base_url="http://x/v1"), reasoning=True)
        assert "".join(said for kind, said in told if kind == "str") == text
        assert "".join(said for kind, said in told if kind == "Reasoning") == thought

    def test_tags_after_text_in_another_event(self) -> None:
        """Tags that follow text are text, too, in an event with other fields than those before."""
        reply = events({"content": "a"}, {"content": "<think>b</think>", "refusal": None})
        completion = canned(OpenAICompatible, reply, base_url="http://x/v1").complete("Hi")
        assert (completion.text, completion.reasoning) == ("a<think>b</think>", None)

    def test_tags_beside_a_field(self) -> None:
        """Thoughts that stand in a field and in tags at once are told one after the other."""
        reply = events({"reasoning_content": "hm, ", "content": "<think>yes</think>a"})
        provider = canned(OpenAICompatible, reply, base_url="http://x/v1")
        assert items(provider, reasoning=True)[:2] == [("Reasoning", "hm, yes"), ("str", "a")]

    def test_a_tag_that_is_not_closed(self) -> None:
        """Thoughts that end with the reply are thoughts to their last letter."""
        call = {"index": 0, "id": "1", "function": {"name": "f"}}
        reply = events({"content": "<think>hm</th"}, {"tool_calls": [call]}, finish="tool_calls")
        completion = canned(OpenAICompatible, reply, base_url="http://x/v1").complete("Hi")
        assert (completion.text, completion.reasoning) == ("", "hm</th")

    def test_a_tag_alone(self) -> None:
        """A reply that ends where its thoughts would begin has no text."""
        provider = canned(OpenAICompatible, events({"content": "<think>"}), base_url="http://x/v1")
        with pytest.raises(EmptyReplyError):
            provider.complete("Hi")

    def test_tags_as_text(self) -> None:
        """With ``think_tags=False`` the tags are text as any other."""
        reply = events({"content": "<think>hm</think>Blue."})
        provider = canned(OpenAICompatible, reply, base_url="http://x/v1", think_tags=False)
        completion = provider.complete("Hi")
        assert (completion.text, completion.reasoning) == ("<think>hm</think>Blue.", None)

    def test_half_a_character(self) -> None:
        """A character cut in two between thoughts comes whole, and can be encoded."""
        reply = events({"reasoning": "a\ud83d"}, {"reasoning": "\ude00"}, {"content": "b"})
        provider = canned(OpenAICompatible, reply, base_url="http://x/v1")
        told = [said for kind, said in items(provider, reasoning=True) if kind == "Reasoning"]
        assert told == ["a", "😀"]
        assert provider.complete("Hi").reasoning == "a😀"


class TestEmpty:
    def test_thoughts_alone(self) -> None:
        """Thoughts without text are an empty reply; where the length ended it, for good."""
        for finish, retryable in ((FinishReason("stop"), True), (FinishReason("length"), False)):
            with pytest.raises(EmptyReplyError) as caught:
                thinking([Reasoning("hm"), finish]).complete("Why?")
            assert caught.value.retryable is retryable

    def test_a_length_without_text_is_asked_for_once(self) -> None:
        """The same ceiling is not paid for again: the next provider is asked at once."""
        first = thinking([Reasoning("hm"), FinishReason("length", reasoning="hm")])
        client = FailoverClient([first, ScriptedProvider(GOOD)], wait=tenacity.wait_none())
        assert str(client.complete("Why?")) == "It scatters."
        assert first.tries == 1


class TestSignOfLife:
    def test_the_first_one_meets_the_first_chunk_timeout(self) -> None:
        """A model that thinks in time may think for long before its text."""
        clock = FakeClock()
        first = thinking([1.0, Reasoning("hm"), 60.0, *GOOD])
        client = FailoverClient([first, thinking(GOOD)], first_chunk_timeout=5.0, clock=clock)
        assert client.complete("Why?").provider == "thinker"
        assert first.tries == 1

    def test_one_that_comes_too_late_does_not(self) -> None:
        """Neither text nor a thought in time is a timeout."""
        client = FailoverClient(
            [thinking([6.0, Reasoning("hm"), *GOOD]), ScriptedProvider(GOOD, name="second")],
            first_chunk_timeout=5.0,
            attempts=1,
            clock=FakeClock(),
        )
        completion = client.complete("Why?")
        assert completion.provider == "second"
        assert isinstance(completion.attempts[0].error, ProviderTimeout)

    @pytest.mark.parametrize("reasoning", [False, True])
    def test_the_first_one_stops_a_hedge(self, reasoning: bool) -> None:
        """While a model thinks nobody else is asked, and its reply is the one that comes."""
        written = threading.Event()
        first = thinking([Reasoning("hm"), lambda: written.wait(10 * SOON), *GOOD])
        second = thinking(["no"], name="second")
        with FailoverClient([first, second], hedge_after=SOON) as client:
            told = items(client, reasoning=reasoning)
        assert told[reasoning:] == [("str", "It "), ("str", "scatters."), ("FinishReason", "stop")]
        assert (first.tries, second.tries) == (1, 0)

    def test_it_wins_against_a_slow_one(self) -> None:
        """The one started beside a silent provider wins by its first thought."""
        silent = thinking([60.0, "late"], name="silent")
        second = thinking([Reasoning("hm"), *GOOD], name="second")
        with FailoverClient([silent, second], hedge_after=SOON, attempts=1) as client:
            completion = client.complete("Why?")
        assert (completion.provider, completion.text) == ("second", "It scatters.")

    def test_a_winner_that_breaks_before_its_text(self) -> None:
        """A provider that won by a thought and then fails is followed by the other."""
        first = thinking([Reasoning("hm"), ServerError("down")])
        second = thinking(GOOD, name="second")
        with FailoverClient([first, second], hedge_after=SOON, attempts=1) as client:
            assert client.complete("Why?").provider == "second"


class TestFailures:
    def test_thoughts_that_were_shown_are_void(self) -> None:
        """Where thoughts were shown and the provider fails, a ``Restart`` comes before the next."""
        first = thinking([Reasoning("hm"), ServerError("down")])
        client = FailoverClient([first, thinking(GOOD, name="second")], attempts=1)
        assert [kind for kind, _ in items(client, reasoning=True)] == [
            "Reasoning",
            "Restart",
            "str",
            "str",
            "FinishReason",
        ]
        assert "Restart" not in [kind for kind, _ in items(client)]

    def test_whose_thoughts_are_void(self) -> None:
        """The ``Restart`` names the provider whose thoughts were shown, and voids no text."""
        first = thinking([Reasoning("hm"), ServerError("down")])
        client = FailoverClient([first, thinking(GOOD, name="second")], attempts=1)
        (restart,) = (i for i in client.stream("Why?", reasoning=True) if isinstance(i, Restart))
        assert (restart.provider, restart.discarded_text) == ("thinker", "")

    def test_all_that_was_shown_was_a_thought(self) -> None:
        """Thoughts are no text: what fails after them alone has none."""
        with pytest.raises(LLMError) as caught:
            items(FailoverClient([thinking([Reasoning("hm"), ServerError("down")])], attempts=1))
        assert caught.value.partial_text == ""

    def test_restarts_after_text_begin_with_the_thoughts(self) -> None:
        """A restart stands before the thoughts of the new reply, not between them and its text."""
        first = thinking(["It ", StreamInterrupted("cut")])
        second = thinking([Reasoning("hm"), *GOOD], name="second")
        client = FailoverClient([first, second], attempts=1, on_interrupt="restart")
        kinds = [kind for kind, _ in items(client, reasoning=True)]
        assert kinds == ["str", "Restart", "Reasoning", "str", "str", "FinishReason"]

    def test_an_accepted_reply_keeps_its_text(self) -> None:
        """Thoughts amid the text take nothing from what ``accept`` sees."""
        seen: list[str] = []
        provider = thinking(["It ", Reasoning("hm"), "scatters."])
        client = FailoverClient([provider], accept=lambda c: seen.append(str(c)) or True)
        assert str(client.complete("Why?")) == "It scatters."
        assert seen == ["It scatters."]


class TestHistory:
    def test_a_conversation_leaves_them_out(self) -> None:
        """The next turn is sent what was said, not what was thought."""
        provider = thinking(
            [Reasoning("hm"), "Yes.", FinishReason("stop", reasoning="hm")], ["No."]
        )
        chat = provider.conversation()
        chat.ask("One?")
        "".join(chat.stream("Two?", reasoning=True))
        assert [m["content"] for m in provider.requests[-1].messages] == ["One?", "Yes.", "Two?"]
        assert "hm" not in str(chat.messages)

    def test_folded_history_leaves_them_out(self) -> None:
        """A message that carries its thoughts is folded without them."""
        messages = [
            {"role": "user", "content": "One?"},
            {"role": "assistant", "content": "Yes.", "reasoning_content": "hm"},
            {"role": "user", "content": "Two?"},
        ]
        assert "hm" not in fold(messages)
        sent = canned(FlowGpt, Canned(b'{"event": "text", "data": "a"}\n'))
        assert str(sent.complete(messages)) == "a"

    def test_the_message_for_the_next_call(self) -> None:
        """With calls of tools the thoughts go back, be they empty; without them they do not."""
        call = {"index": 0, "id": "1", "function": {"name": "f", "arguments": "{}"}}
        signed = {"type": "reasoning.encrypted", "data": "S", "index": 0}
        half = [{"type": "thinking", "thinking": "h", "signature": None}]
        rest = [{"type": "thinking", "thinking": "m", "signature": "S"}]
        block = {"type": "thinking", "thinking": "hm", "signature": "S"}
        for deltas, beside in (
            ([{"reasoning_content": "hm"}, {"content": "a"}], {}),
            ([{"reasoning_content": ""}, {"tool_calls": [call]}], {"reasoning_content": ""}),
            ([{"reasoning_content": "hm"}, {"tool_calls": [call]}], {"reasoning_content": "hm"}),
            (
                [{"reasoning_details": [signed], "tool_calls": [call]}],
                {"reasoning_details": [signed]},
            ),
            (
                [{"thinking_blocks": half}, {"thinking_blocks": rest, "tool_calls": [call]}],
                {"thinking_blocks": [block]},
            ),
        ):
            provider = canned(OpenAICompatible, events(*deltas), base_url="http://x/v1")
            message = provider.complete("Hi").message
            calls = message.pop("tool_calls", [])
            assert len(calls) == ("content" not in deltas[-1])
            content = "" if calls else "a"
            assert message == {"role": "assistant", "content": content, **beside}

    def test_a_restart_is_no_part_of_the_message(self) -> None:
        """The message has the text of the reply that counts."""
        first = thinking(["It ", StreamInterrupted("cut")])
        client = FailoverClient([first, thinking(GOOD)], attempts=1, on_interrupt="restart")
        *shown, finish = client.stream("Why?")
        assert any(isinstance(item, Restart) for item in shown)
        assert isinstance(finish, FinishReason)
        assert finish.message == {"role": "assistant", "content": "It scatters."}
