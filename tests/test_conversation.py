"""A conversation: which turns are kept, what is sent, and the file it is saved in."""

from __future__ import annotations

import gc
import json
import os
import pickle
import stat
import weakref
from collections.abc import Generator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmproviders import (
    ChatGLM,
    FailoverClient,
    FinishReason,
    FlowGpt,
    InvalidRequestError,
    OpenAICompatible,
    Restart,
    ServerError,
    StreamInterrupted,
)
from llmproviders.conversation import Conversation
from llmproviders.provider import BaseClient, Request
from llmproviders.results import Image
from llmproviders.sandbox import Sandbox
from llmproviders.testing import ScriptedProvider
from tests.support.served import SERVED


def said(chat: Conversation) -> list[str]:
    """What was said, a letter for who said it."""
    return [f"{message['role'][0]}: {message['content']}" for message in chat.messages]


def sent(provider: ScriptedProvider) -> list[str]:
    """What the last request held."""
    return [f"{m['role'][0]}: {m['content']}" for m in provider.requests[-1].messages]


class Odd(BaseClient):
    """A client whose stream has these items."""

    name = "Odd"

    def __init__(self, *items: Any) -> None:
        self.items = items
        self.closed = False

    def generate(self, request: Request, scope: object = None) -> Generator[str, None, None]:
        """Yield the items; raise those that are errors."""
        try:
            for item in self.items:
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            self.closed = True

    def close(self) -> None:
        """Nothing to close."""


class TestTurns:
    def test_each_turn_sends_all_before_it(self) -> None:
        """The model gets the system prompt, the turns so far, and the new message."""
        provider = ScriptedProvider(["Yes."])
        chat = provider.conversation(system="Be brief.")
        assert str(chat.ask("One?")) == "Yes."
        assert "".join(chat.stream("Two?")) == "Yes."
        assert sent(provider) == ["s: Be brief.", "u: One?", "a: Yes.", "u: Two?"]
        assert said(chat) == ["u: One?", "a: Yes.", "u: Two?", "a: Yes."]

    def test_arguments_of_every_turn_and_of_one(self) -> None:
        """Model and parameters hold for every turn; those given with a turn win in it."""
        provider = ScriptedProvider(["Yes."])
        chat = provider.conversation(model="m", temperature=0.5, seed=1)
        chat.ask("One?", seed=2)
        assert provider.requests[-1].model == "m"
        assert provider.requests[-1].params == {"temperature": 0.5, "seed": 2}
        chat.model = None
        list(chat.stream("Two?", model="other"))
        assert provider.requests[-1].model == "other"
        assert provider.requests[-1].params == {"temperature": 0.5, "seed": 1}

    def test_nothing_is_sent_before_the_first_piece_is_wanted(self) -> None:
        """Making a stream sends nothing, and one that is never read is no turn."""
        provider = ScriptedProvider(["Yes."])
        chat = provider.conversation()
        chat.stream("One?").close()
        assert provider.requests == []
        assert chat.messages == []

    def test_what_is_wrong_is_told_at_once(self) -> None:
        """A wrong parameter and an empty message are refused before anything is sent."""
        provider = ScriptedProvider(["Yes."])
        with pytest.raises(TypeError, match="temperature"):
            provider.conversation(temprature=1)
        chat = provider.conversation()
        with pytest.raises(InvalidRequestError):
            chat.stream(" ")
        with pytest.raises(InvalidRequestError):
            chat.ask("")
        assert provider.requests == []

    def test_messages_are_a_copy(self) -> None:
        """Changing what ``messages`` returned changes nothing."""
        chat = ScriptedProvider(["Yes."]).conversation()
        chat.ask("One?")
        chat.messages[0]["content"] = "Another"
        chat.messages.clear()
        assert said(chat) == ["u: One?", "a: Yes."]

    def test_beginning_with_turns(self) -> None:
        """Turns from elsewhere are taken over; a first system message is the prompt."""
        provider = ScriptedProvider(["Yes."])
        chat = provider.conversation(
            messages=[
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": [{"type": "text", "text": "One?"}]},
                {"role": "assistant", "content": "No."},
            ]
        )
        assert chat.system == "Be brief."
        assert said(chat) == ["u: One?", "a: No."]

    def test_undo(self) -> None:
        """The last turn can be taken back, to be said again or otherwise."""
        chat = ScriptedProvider(["Yes."]).conversation()
        chat.ask("One?")
        chat.ask("Two?")
        assert chat.undo() == "Two?"
        assert said(chat) == ["u: One?", "a: Yes."]
        assert chat.undo() == "One?"
        assert chat.undo() is None

    def test_fork(self) -> None:
        """A fork has the same turns and settings, and goes its own way from there."""
        provider = ScriptedProvider(["Yes."])
        chat = provider.conversation(system="S", model="m", max_messages=9, seed=1)
        chat.ask("One?")
        other = chat.fork()
        other.ask("Two?")
        assert said(chat) == ["u: One?", "a: Yes."]
        assert said(other) == ["u: One?", "a: Yes.", "u: Two?", "a: Yes."]
        assert (other.system, other.model, other.max_messages) == ("S", "m", 9)
        assert provider.requests[-1].params == {"seed": 1}


class TestBrokenTurns:
    @pytest.mark.parametrize("broken", [ServerError("down"), StreamInterrupted("cut")])
    def test_a_failed_turn_is_not_kept(self, broken: Exception) -> None:
        """After an error the conversation is as it was, so that the same can be asked again."""
        chat = Odd("Half a ", broken).conversation()
        with pytest.raises(type(broken)):
            list(chat.stream("One?"))
        with pytest.raises(type(broken)):
            chat.ask("One?")
        assert chat.messages == []

    def test_a_stopped_reply_is_kept_as_far_as_it_came(self) -> None:
        """What was read before the stream was closed, dropped or interrupted stays said."""
        client = Odd("Half ", "a ", "reply.", FinishReason())
        chat = client.conversation()
        with closing(chat.stream("Closed?")) as stream:
            next(stream)
        assert said(chat) == ["u: Closed?", "a: Half "]
        assert client.closed
        for piece in chat.stream("Dropped?"):
            assert piece
            break
        gc.collect()
        assert said(chat)[2:] == ["u: Dropped?", "a: Half "]
        chat = Odd("Half ", KeyboardInterrupt()).conversation()
        with pytest.raises(KeyboardInterrupt):
            list(chat.stream("Interrupted?"))
        assert said(chat) == ["u: Interrupted?", "a: Half "]

    @pytest.mark.parametrize("error", [SystemExit(143), RuntimeError("of a handler"), ValueError()])
    def test_text_that_another_exception_stopped_is_kept(self, error: BaseException) -> None:
        """SIGTERM's SystemExit, or what a handler raises, stops a stream as Ctrl-C does."""
        chat = Odd("Half ", "a reply.", FinishReason()).conversation()
        stream = chat.stream("One?")
        next(stream)
        with pytest.raises(type(error)):
            stream.throw(error)
        assert said(chat) == ["u: One?", "a: Half "]

    def test_a_turn_without_text_is_not_kept(self) -> None:
        """Stopped before any text, or calls that are in no message: nothing was said."""
        chat = Odd(KeyboardInterrupt()).conversation()
        with pytest.raises(KeyboardInterrupt):
            list(chat.stream("One?"))
        chat.client = Odd(FinishReason("tool_calls", tool_calls=[{"id": "1"}]))
        assert chat.ask("Two?").finish_reason.tool_calls
        assert chat.messages == []

    @pytest.mark.parametrize("way", ["ask", "stream"])
    def test_the_turns_of_tools_are_kept(self, way: str) -> None:
        """A call, the thinking beside it and its result are part of the history."""
        call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
        message = {
            "role": "assistant",
            "content": "",
            "tool_calls": [call],
            "reasoning_content": "Let me see.",
            "functions_state_id": "s",
        }
        chat = Odd(FinishReason("tool_calls", tool_calls=[call], message=message)).conversation()
        list(chat.stream("Two?")) if way == "stream" else chat.ask("Two?")
        result = {"role": "tool", "tool_call_id": "1", "content": "2"}
        chat.client = Odd("Two.", FinishReason())
        list(chat.stream([result])) if way == "stream" else chat.ask([result])
        assert chat.messages == [
            {"role": "user", "content": "Two?"},
            message,
            result,
            {"role": "assistant", "content": "Two."},
        ]
        assert chat.undo() == "Two?"

    @pytest.mark.parametrize("way", ["ask", "stream"])
    def test_a_picture_is_a_reply(self, way: str) -> None:
        """A turn whose whole reply is a picture is kept, with what the service wants back."""
        message = {"role": "assistant", "content": "", "functions_state_id": "s"}
        chat = Odd(FinishReason(images=[Image("1")], message=message)).conversation()
        list(chat.stream("Draw!")) if way == "stream" else chat.ask("Draw!")
        assert chat.messages == [{"role": "user", "content": "Draw!"}, message]

    def test_what_the_service_wants_back(self) -> None:
        """Fields beside a text are sent back with it; without calls, no thinking is."""
        message = {"content": "", "functions_state_id": "s", "reasoning_content": "Hm."}
        chat = Odd("Here: ", FinishReason(message=message)).conversation()
        chat.ask("Draw!")
        kept = {"role": "assistant", "content": "Here: ", "functions_state_id": "s"}
        assert chat.messages[1:] == [kept]

    @pytest.mark.parametrize("name", ["deepseek", "glm", "openaicompatible"])
    @pytest.mark.parametrize("way", ["ask", "stream", "run"])
    def test_the_thinking_beside_calls_goes_back(
        self, sandbox: Sandbox, name: str, way: str
    ) -> None:
        """The thoughts of a turn that called a function are in every later request."""

        def weather() -> str:
            """Tell the weather."""
            return "rain"

        sandbox.reply(name, tool_calls=[{"name": "weather", "arguments": {}}], reasoning="Let me.")
        with SERVED[name](**sandbox.provider_arguments(name)) as provider:
            chat = provider.conversation(tools=[weather])
            if way == "run":
                chat.run("Rain?")
            else:
                list(chat.stream("Rain?")) if way == "stream" else chat.ask("Rain?")
                call_id = chat.messages[-1]["tool_calls"][0]["id"]
                chat.ask([{"role": "tool", "tool_call_id": call_id, "content": "rain"}])
            chat.ask("Sure?")
        body = sandbox.requests[-1].json
        assert [m["role"] for m in body["messages"]] == [
            *("user", "assistant", "tool", "assistant", "user")
        ]
        assert body["messages"][1]["reasoning_content"] == "Let me."
        assert "reasoning_content" not in body["messages"][3]

    def test_calls_that_nobody_answered_are_not_sent(self) -> None:
        """A new question after a call goes out without the call, which no service would take."""
        call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
        asked = {"role": "assistant", "content": "Hm.", "tool_calls": [call]}
        client = ScriptedProvider(["Yes."])
        chat = client.conversation(messages=[{"role": "user", "content": "Two?"}, asked])
        chat.ask("Still there?")
        assert client.requests[0].messages == (
            {"role": "user", "content": "Two?"},
            {"role": "assistant", "content": "Hm."},
            {"role": "user", "content": "Still there?"},
        )

    def test_what_a_restart_made_void_is_not_kept(self) -> None:
        """Only the text since the last restart is the reply."""
        chat = Odd("Void ", Restart("Void ", provider="x"), "Good.", FinishReason()).conversation()
        assert "".join(chat.stream("One?")) == "Void Good."
        assert said(chat) == ["u: One?", "a: Good."]

    def test_the_next_turn_stops_the_one_before(self) -> None:
        """Two replies never stream at a time: the open one is closed, what came of it is kept."""
        client = Odd("Half ", "a reply.", FinishReason())
        chat = client.conversation()
        first = chat.stream("One?")
        next(first)
        assert "".join(chat.stream("Two?")) == "Half a reply."
        assert list(first) == []
        assert said(chat) == ["u: One?", "a: Half ", "u: Two?", "a: Half a reply."]

    def test_a_dropped_stream_lets_go_at_once(self) -> None:
        """The conversation does not keep a stream alive that the caller has dropped."""
        client = Odd("Half ", "a reply.", FinishReason())
        chat = client.conversation()
        stream = chat.stream("One?")
        next(stream)
        gone = weakref.ref(stream)
        del stream
        assert gone() is None
        assert client.closed


USER_TOO = {"role": "user", "content": "Quick!"}


class TestWhatIsSent:
    def chat(self, **limits: Any) -> tuple[ScriptedProvider, Conversation]:
        """A conversation with three turns of ten characters each."""
        provider = ScriptedProvider(["12345"])
        turns = [
            {"role": role, "content": f"{role[0]}-{number}--"}
            for number in range(3)
            for role in ("user", "assistant")
        ]
        return provider, provider.conversation(system="12345", messages=turns, **limits)

    @pytest.mark.parametrize(
        ("limits", "turns_sent"),
        [
            ({}, 3),
            ({"max_messages": 7}, 3),
            ({"max_messages": 6}, 2),
            ({"max_messages": 4}, 1),
            ({"max_messages": 1}, 0),
            ({"max_characters": 40}, 3),
            ({"max_characters": 39}, 2),
            ({"max_characters": 20}, 1),
            ({"max_characters": 19}, 0),
            ({"max_characters": 1}, 0),
            ({"max_characters": 40, "max_messages": 3}, 1),
        ],
    )
    def test_the_oldest_turns_are_left_out(self, limits: dict[str, int], turns_sent: int) -> None:
        """Whole turns go, the oldest first; system prompt and new message are always sent."""
        provider, chat = self.chat(**limits)
        chat.ask("five-")
        turns = [f"{who}: {who}-{n}--" for n in range(3) for who in "ua"]
        assert sent(provider) == ["s: 12345", *turns[6 - 2 * turns_sent :], "u: five-"]
        assert len(chat.messages) == 8

    @pytest.mark.parametrize("limits", [{"max_messages": 1}, {"max_characters": 10}])
    def test_a_call_goes_with_its_result(self, limits: dict[str, int]) -> None:
        """The turn whose calls the new message answers is always sent, whatever the limit."""
        call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
        provider, chat = self.chat(**limits)
        asked = {"role": "assistant", "content": "", "tool_calls": [call]}
        chat.client = Odd(FinishReason("tool_calls", tool_calls=[call], message=asked))
        chat.ask("Will I need an umbrella?")
        chat.client = provider
        chat.ask([{"role": "tool", "tool_call_id": "1", "content": "It rains all day long."}])
        roles = [message["role"] for message in provider.requests[-1].messages]
        assert roles == ["system", "user", "assistant", "tool"]
        chat.ask("Sure?")
        assert sent(provider) == ["s: 12345", "u: Sure?"]

    def test_a_turn_of_several_messages_goes_as_a_whole(self) -> None:
        """What the user said in several messages is left out together, and undone together."""
        provider = ScriptedProvider(["Ok."])
        chat = provider.conversation(max_messages=4)
        chat.ask([{"role": "user", "content": "A document"}, {"role": "user", "content": "Why?"}])
        chat.ask("How?")
        assert sent(provider) == ["u: A document", "u: Why?", "a: Ok.", "u: How?"]
        chat.ask("When?")
        assert sent(provider) == ["u: How?", "a: Ok.", "u: When?"]
        assert [chat.undo(), chat.undo(), chat.undo(), chat.undo()] == [
            *("When?", "How?", "A document\n\nWhy?", None)
        ]
        assert chat.messages == []

    def test_undo_takes_the_results_of_functions_along(self) -> None:
        """A turn ends with the reply, not with the results that the user added a message to."""
        call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
        chat = ScriptedProvider(["Ok."]).conversation(
            messages=[
                {"role": "user", "content": "One?"},
                {"role": "assistant", "content": "", "tool_calls": [call]},
            ]
        )
        chat.ask([{"role": "tool", "tool_call_id": "1", "content": "1"}, USER_TOO])
        assert chat.undo() == "One?\n\nQuick!"
        assert chat.messages == []

    def test_one_system_prompt(self) -> None:
        """The system prompt of one turn replaces the conversation's, for that turn."""
        provider = ScriptedProvider(["Ok."])
        chat = provider.conversation(system="S")
        chat.ask("One?", system="T")
        assert sent(provider) == ["s: T", "u: One?"]
        list(chat.stream("Two?", system=None))
        assert sent(provider)[0] == "s: S"

    def test_tools_of_every_turn(self, sandbox: Sandbox) -> None:
        """``run`` uses the conversation's functions unless it gets its own."""

        def weather() -> str:
            """Tell the weather."""
            return "rain"

        with OpenAICompatible(**sandbox.provider_arguments("openai")) as provider:
            chat = provider.conversation(tools=[weather])
            sandbox.reply("openai", tool_calls=[{"name": "weather", "arguments": {}}])
            assert [step.result for step in chat.run("Rain?").steps] == ["rain"]
            with pytest.raises(TypeError, match="tools is a list of functions"):
                provider.conversation().run("Rain?")

    def test_messages_are_a_copy(self) -> None:
        """A change of what ``messages`` returned changes nothing, however deep."""
        url = {"url": "data:image/png;base64,AAAA"}
        parts = [{"type": "text", "text": "a"}, {"type": "image_url", "image_url": url}]
        chat = ScriptedProvider().conversation(messages=[{"role": "user", "content": parts}])
        chat.messages[0]["content"][0]["text"] = "b"
        chat.fork().messages[0]["content"].clear()
        assert chat.messages == [{"role": "user", "content": parts}]

    @pytest.mark.parametrize("limits", [{"max_messages": 0}, {"max_characters": -1}])
    def test_impossible_limits(self, limits: dict[str, int]) -> None:
        """A limit below one is refused."""
        with pytest.raises(ValueError, match="at least 1"):
            self.chat(**limits)

    def test_services_without_history_get_one_text(self, sandbox: Sandbox) -> None:
        """Each provider of one client gets the turns as it takes them: as such, or folded."""
        arguments = sandbox.provider_arguments
        official, glm, flow = (
            OpenAICompatible(**arguments("openai")),
            ChatGLM(**arguments("chatglm")),
            FlowGpt(**arguments("flowgpt")),
        )
        chat = FailoverClient([official, glm], attempts=1).conversation(system="Be brief.")
        first = chat.ask("One?")
        sandbox.fail("openai", status=503)
        assert chat.ask("Two?").provider == "ChatGLM"
        [folded] = sandbox.requests[-1].json["messages"]
        assert folded["content"][0]["text"].split("\n") == [
            "System: Be brief.",
            "User: One?",
            f"Assistant: {first}",
            "User: Two?",
            "Assistant:",
        ]
        chat.client = flow
        chat.ask("Three?")
        assert sandbox.requests[-1].json["question"] == "Three?"
        assert sandbox.requests[-1].json["system"] == "Be brief."


class TestFile:
    def test_round_trip(self, tmp_path: Path) -> None:
        """What was saved goes on elsewhere: turns, system prompt, model, limits, parameters."""
        provider = ScriptedProvider(["Ja, größer."])
        chat = provider.conversation(
            system="S", model="m", max_messages=5, max_characters=1000, seed=1, stop=["x"]
        )
        chat.ask("Größer?")
        chat.save(tmp_path / "chat.json")
        again = Conversation.load(tmp_path / "chat.json", provider)
        assert said(again) == ["u: Größer?", "a: Ja, größer."]
        assert (again.system, again.model, again.max_messages) == ("S", "m", 5)
        assert (again.max_characters, again.params) == (1000, {"seed": 1, "stop": ["x"]})
        assert "Größer?" in (tmp_path / "chat.json").read_text("utf-8")

    def test_it_is_private_and_holds_no_key(self, tmp_path: Path) -> None:
        """Only this user can read the file, and no secret of the client is in it."""
        chat = OpenAICompatible(api_key="sk-secret-key").conversation(system="S")
        chat.save(tmp_path / "chat.json")
        assert stat.S_IMODE((tmp_path / "chat.json").stat().st_mode) == 0o600
        assert "sk-secret" not in (tmp_path / "chat.json").read_text()

    def test_arguments_of_calls_are_saved(self, tmp_path: Path) -> None:
        """A deadline and a timeout for every turn are saved, loaded and forked."""
        provider = ScriptedProvider(["Yes."])
        chat = provider.conversation()
        chat.params |= {"deadline": 5, "timeout": (1, 2), "temperature": 0}
        chat.save(tmp_path / "chat.json")
        again = Conversation.load(tmp_path / "chat.json", provider)
        assert again.params == {"deadline": 5, "timeout": [1, 2], "temperature": 0}
        for other in (again, chat.fork()):
            other.ask("Sure?")
            assert provider.requests[-1].timeout in ((1, 2), [1, 2])

    def test_what_may_hold_a_key_is_not_saved(self, tmp_path: Path) -> None:
        """Headers and a proxy's password are not written in clear."""
        chat = ScriptedProvider(["Yes."]).conversation(
            extra_headers={"Authorization": "Bearer sk-secret"}, seed=1
        )
        chat.params["proxy"] = "http://user:secret@127.0.0.1:1"
        chat.save(tmp_path / "chat.json")
        assert "secret" not in (tmp_path / "chat.json").read_text()
        assert Conversation.load(tmp_path / "chat.json", chat.client).params == {"seed": 1}
        assert len(chat.params) == 3

    def test_a_home_folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """``~`` in a path is the home folder, not a folder of that name."""
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.chdir(tmp_path)
        chat = ScriptedProvider(["Yes."]).conversation(system="S")
        chat.save("~/chat.json")
        assert os.listdir(tmp_path) == ["chat.json"]
        assert Conversation.load("~/chat.json", chat.client).system == "S"

    def test_a_failed_save_leaves_the_old_file(self, tmp_path: Path) -> None:
        """What cannot be written as JSON, or at all, leaves the file as it was, and no other."""
        path = tmp_path / "chat.json"
        chat = ScriptedProvider(["Yes."]).conversation()
        chat.save(path)
        before = path.read_bytes()
        chat.params = {"extra_body": {"odd": object()}}
        with pytest.raises(TypeError):
            chat.save(path)
        assert path.read_bytes() == before
        with pytest.raises(NotADirectoryError):
            ScriptedProvider().conversation().save(tmp_path / "chat.json" / "below")
        assert os.listdir(tmp_path) == ["chat.json"]

    @pytest.mark.parametrize(
        "content",
        [
            b"",
            b"\xff",
            b"[]",
            b"{}",
            b'{"version": 2, "params": {}, "messages": []}',
            b'{"version": 1, "params": {}, "messages": [{"role": "nobody"}]}',
            b'{"version": 1, "params": {"odd": 1}, "messages": []}',
            b'{"version": 1, "params": {}, "messages": [], "max_messages": "x"}',
            b'{"version": 1, "params": [], "messages": []}',
        ],
    )
    def test_another_file_is_refused(self, tmp_path: Path, content: bytes) -> None:
        """A file that holds no conversation is named in the error."""
        path = tmp_path / "other.json"
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"other\.json is not a saved conversation"):
            Conversation.load(path, ScriptedProvider())
        with pytest.raises(FileNotFoundError):
            Conversation.load(tmp_path / "missing.json", ScriptedProvider())

    @pytest.mark.parametrize(
        ("content", "mode", "why"),
        [
            (b"Notes of mine.\n", 0o600, "something else than a conversation"),
            (b'{"version": 1, "providers": {}}', 0o600, "something else than a conversation"),
            (b'{"version": 2, "params": {}, "messages": []}', 0o600, "another version"),
            (b'{"version": 1, "params": {}, "messages": []}', 0o644, "open to other users"),
        ],
    )
    def test_another_file_is_not_replaced(
        self, tmp_path: Path, content: bytes, mode: int, why: str
    ) -> None:
        """What is no saved conversation, or is open to others, stays; the error says what to do."""
        path = tmp_path / "chat.json"
        path.write_bytes(content)
        path.chmod(mode)
        with pytest.raises(OSError, match=why) as caught:
            ScriptedProvider().conversation().save(path)
        assert caught.value.filename == str(path)
        assert (path.read_bytes(), stat.S_IMODE(path.stat().st_mode)) == (content, mode)
        assert os.listdir(tmp_path) == ["chat.json"]

    def test_what_an_editor_wrote_is_replaced(self, tmp_path: Path) -> None:
        """A saved conversation that was written anew by another program is one still."""
        path = tmp_path / "chat.json"
        chat = ScriptedProvider(["Yes."]).conversation(system="S")
        chat.save(path)
        path.write_text(json.dumps(json.loads(path.read_bytes()), sort_keys=True))
        chat.ask("Sure?")
        chat.save(path)
        assert said(Conversation.load(path, chat.client)) == ["u: Sure?", "a: Yes."]

    def test_an_empty_file_is_filled(self, tmp_path: Path) -> None:
        """A file without content, as ``mktemp`` makes it, holds nothing that could be lost."""
        path = tmp_path / "chat.json"
        path.touch(0o600)
        ScriptedProvider().conversation().save(path)
        assert Conversation.load(path, ScriptedProvider()).messages == []

    def test_a_name_that_no_file_can_have(self, tmp_path: Path) -> None:
        """A NUL in the path is an error of the file's, as a missing folder is."""
        with pytest.raises(OSError, match="no file can have this name"):
            ScriptedProvider().conversation().save("a\0b")
        with pytest.raises(OSError, match="no file can have this name"):
            Conversation.load("a\0b", ScriptedProvider())

    @given(st.lists(st.text(min_size=1).filter(lambda t: t.strip() and _sendable(t)), max_size=4))
    def test_any_text_survives(self, tmp_path_factory: Any, texts: list[str]) -> None:
        """Whatever was said is read back as it was."""
        path = tmp_path_factory.mktemp("chat") / "chat.json"
        chat = ScriptedProvider(["Yes."]).conversation()
        for text in texts:
            chat.ask(text)
        chat.save(path)
        assert Conversation.load(path, chat.client).messages == chat.messages
        assert json.loads(path.read_bytes())["version"] == 1


def _sendable(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)


def test_it_travels_with_its_client() -> None:
    """It pickles, a reply under way or not."""
    chat = ScriptedProvider(["Half ", "a reply."]).conversation(system="S")
    stream = chat.stream("One?")
    next(stream)
    again = pickle.loads(pickle.dumps(chat))
    assert said(again) == []
    assert again.system == "S"
    assert str(again.ask("Two?")) == "Half a reply."


def test_on_a_page() -> None:
    """A notebook shows who said what, and runs nothing of it."""
    chat = ScriptedProvider(["<b>Yes</b>"]).conversation(system="S")
    chat.ask("Sure?")
    assert chat._repr_markdown_() == (
        "**System**\n\nS\n\n**User**\n\nSure?\n\n**Assistant**\n\n&lt;b>Yes&lt;/b>"
    )
    assert repr(chat).endswith(", 2 messages)")
