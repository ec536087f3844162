"""What GigaChat is sent for tools, schemas and history in OpenAI's shape, byte by byte."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from llmproviders import FailoverClient, FinishReason, GigaChat, InvalidRequestError
from llmproviders._environment import token_cache
from llmproviders.errors import UnsupportedError
from llmproviders.messages import normalize
from llmproviders.providers.gigachat._dialect import fields, messages
from llmproviders.providers.gigachat._files import Attachment
from llmproviders.providers.gigachat._settings import certificate, profanity_check, token_file
from llmproviders.sandbox import Sandbox
from llmproviders.testing import ScriptedProvider
from tests.sandbox.test_sandbox_official import gigachat_client

QUESTION = {"role": "user", "content": "Какая погода?"}
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER = {"name": "weather", "description": "Погода", "parameters": PARAMETERS}
TIME = {"name": "time", "parameters": {"type": "object", "properties": {}}}
PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}


def tool(function: dict[str, Any], **more: Any) -> dict[str, Any]:
    """A function as OpenAI's tools have it."""
    return {"type": "function", "function": {**function, **more}}


def called(call_id: str, arguments: str, name: str = "weather") -> dict[str, Any]:
    """A call as OpenAI's messages have it."""
    return {
        "id": call_id,
        "type": "function",
        "function": {"name": name, "arguments": arguments},
    }


def said(*calls: dict[str, Any], **more: Any) -> dict[str, Any]:
    """An assistant's message that calls tools."""
    return {"role": "assistant", "content": None, "tool_calls": list(calls), **more}


def result(call_id: str, content: str) -> dict[str, Any]:
    """The result of a call as OpenAI's messages have it."""
    return {"role": "tool", "tool_call_id": call_id, "content": content}


def turn(arguments: dict[str, Any], name: str = "weather", **more: Any) -> dict[str, Any]:
    """A call as GigaChat takes it."""
    function_call = {"name": name, "arguments": arguments}
    return {"role": "assistant", "content": "", "function_call": function_call, **more}


def answer(content: str, name: str = "weather") -> dict[str, Any]:
    """A result as GigaChat takes it."""
    return {"role": "function", "name": name, "content": content}


def body_of(sandbox: Sandbox, prompt: Any = "Hi", **params: Any) -> Any:
    """The body of the chat that is sent; the sandbox refuses what the service refuses."""
    with GigaChat(**sandbox.provider_arguments("gigachat")) as giga:
        giga.complete(prompt, **params)
    return [request for request in sandbox.requests if request.kind == "chat"][-1].json


def refused(sandbox: Sandbox, prompt: Any = "Hi", **params: Any) -> str:
    """What is said of a request that is refused before anything is sent."""
    with GigaChat(**sandbox.provider_arguments("gigachat")) as giga:
        with pytest.raises(UnsupportedError) as caught:
            giga.complete(prompt, **params)
        assert sandbox.requests == []
        second = FailoverClient([giga, ScriptedProvider(["second"])], attempts=4)
        reply = second.complete(prompt, **params)
    assert str(reply) == "second"
    assert [type(attempt.error) for attempt in reply.attempts] == [UnsupportedError, type(None)]
    assert sandbox.requests == []
    return str(caught.value)


TOOLS: dict[str, tuple[Any, list[dict[str, Any]]]] = {
    "none": ([], []),
    "one": ([tool(WEATHER, strict=True)], [WEATHER]),
    "two": ([tool(WEATHER), tool({"name": "time"})], [WEATHER, TIME]),
}
NAMED = {"type": "function", "function": {"name": "weather"}}
CHOICES: dict[str, Any] = {"": None, "auto": "auto", "none": "none", "required": "required"}
CHOICES["named"] = NAMED
FORMATS: dict[str, tuple[Any, Any]] = {
    "": (None, None),
    "text": ({"type": "text"}, None),
    "schema": (
        {"type": "json_schema", "json_schema": {"name": "N", "schema": SCHEMA, "strict": True}},
        {"type": "json_schema", "schema": SCHEMA, "strict": True},
    ),
    "own": (
        {"type": "json_schema", "schema": SCHEMA},
        {"type": "json_schema", "schema": SCHEMA},
    ),
}


def expected_choice(tools: str, choice: str) -> Any:
    """What ``function_call`` has to be; UnsupportedError where there is no such thing."""
    if choice == "required":
        return {"name": "weather"} if tools == "one" else UnsupportedError
    if choice == "named":
        return {"name": "weather"} if tools != "none" else InvalidRequestError
    return choice or "auto"


@pytest.mark.parametrize(("tools", "choice", "form"), [*product(TOOLS, CHOICES, FORMATS)])
def test_tools_choices_and_formats(tools: str, choice: str, form: str) -> None:
    """Each combination is sent as GigaChat has it, or refused before anything is sent."""
    given, functions = TOOLS[tools]
    response_format, own_format = FORMATS[form]
    params = {"tools": given, "tool_choice": CHOICES[choice], "response_format": response_format}
    due = expected_choice(tools, choice)
    with Sandbox() as sandbox:
        if isinstance(due, type):
            with (
                GigaChat(**sandbox.provider_arguments("gigachat")) as giga,
                pytest.raises(due),
            ):
                giga.complete("Hi", **params)
            assert sandbox.requests == []
            return
        body = body_of(sandbox, **params)
    assert body == {
        "model": "GigaChat-2",
        "messages": [{"role": "user", "content": "Hi"}],
        "stream": True,
        "update_interval": 0,
        **({"functions": functions, "function_call": due} if functions else {}),
        **({"response_format": own_format} if own_format else {}),
    }


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"tools": [tool(WEATHER), tool(TIME)], "tool_choice": "required"}, "name it"),
        ({"tools": [{"type": "web_search"}]}, "'web_search'"),
        ({"tools": [tool({"name": "погода"})]}, "Latin letter"),
        ({"functions": [{"name": "2nd"}]}, "Latin letter"),
        ({"response_format": {"type": "json_object"}}, "json_object"),
        ({"response_format": {"type": "yaml", "schema": SCHEMA}}, "'yaml'"),
        ({"tools": [tool(WEATHER)], "tool_choice": {"type": "allowed_tools"}}, "allowed_tools"),
        ({"tools": [tool(WEATHER)], "tool_choice": {**NAMED, "type": "custom"}}, "custom"),
        ({"tools": [tool(WEATHER)], "tool_choice": {**NAMED, "function": "x"}}, "'x'"),
        ({"tool_choice": "any"}, "'any' and there are no tools"),
        ({"tools": [{**tool(WEATHER), "type": "custom"}]}, "'custom'"),
        ({"tools": [{"type": "function", "function": "weather"}]}, "'function' only"),
        ({"functions": [{"name": 7}]}, "name 7"),
    ],
)
def test_what_cannot_be_translated(sandbox: Sandbox, params: dict[str, Any], words: str) -> None:
    """What GigaChat has not is not sent, and the next provider is asked at once."""
    assert words in refused(sandbox, **params)


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"tools": [tool(WEATHER)], "tool_choice": "often"}, "cannot be 'often'"),
        ({"tools": [tool(WEATHER)], "function_call": {"name": "time"}}, "'time', which is none"),
        ({"response_format": {"type": "json_schema"}}, "no schema"),
        ({"response_format": {"type": "json_schema", "json_schema": "N"}}, "no schema"),
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": 1}}}, "no schema"),
    ],
)
def test_what_nobody_could_do(params: dict[str, Any], words: str) -> None:
    """What no service could make sense of is told so, and no other provider is asked."""
    with pytest.raises(InvalidRequestError, match=words) as caught:
        fields(params)
    assert type(caught.value) is InvalidRequestError


@pytest.mark.parametrize(
    ("choices", "sent"),
    [
        ({"tool_choice": "any"}, {"name": "weather"}),
        ({"tool_choice": {"name": "weather"}}, {"name": "weather"}),
        ({"tool_choice": NAMED, "function_call": "none"}, "none"),
        (
            {"function_call": {"name": "weather", "partial_arguments": {"city": "A"}, "more": 1}},
            {"name": "weather", "partial_arguments": {"city": "A"}},
        ),
    ],
)
def test_forms_of_a_choice(choices: dict[str, Any], sent: Any) -> None:
    """A function is named in either dialect; GigaChat's own goes first."""
    assert fields({"tools": [tool(WEATHER)], **choices})["function_call"] == sent


def test_fields_of_tools() -> None:
    """A tool keeps what GigaChat has, but no None; a format keeps that it is not strict."""
    given = {**TIME, "description": None, "strict": True, "return_parameters": SCHEMA}
    found = fields(
        {
            "tools": [{"type": "function", "function": given}],
            "response_format": {
                "type": "json_schema",
                "json_schema": {"schema": SCHEMA, "strict": False},
            },
        }
    )
    assert found["functions"] == [{**TIME, "return_parameters": SCHEMA}]
    assert found["response_format"] == {"type": "json_schema", "schema": SCHEMA, "strict": False}


def test_functions_are_sent_as_they_are(sandbox: Sandbox) -> None:
    """Functions in the service's own form keep what only it has."""
    example = {"request": "Погода в Пскове?", "params": {"city": "Псков"}}
    own = {**WEATHER, "few_shot_examples": [example], "return_parameters": SCHEMA}
    body = body_of(sandbox, functions=[own], function_call={"name": "weather"})
    assert (body["functions"], body["function_call"]) == ([own], {"name": "weather"})


@pytest.mark.parametrize(
    ("params", "sent"),
    [
        ({"temperature": 0}, {"top_p": 0}),
        ({"temperature": 0.0, "top_p": 0.9}, {"top_p": 0}),
        ({"temperature": 0.1, "top_p": 0.9}, {"temperature": 0.1, "top_p": 0.9}),
        ({"reasoning_effort": "high"}, {"reasoning_effort": "high"}),
        ({"reasoning_effort": "none"}, {}),
        ({"parallel_tool_calls": True}, {}),
        ({"seed": 7, "stop": ["."]}, {}),
    ],
)
def test_parameters(sandbox: Sandbox, params: dict[str, Any], sent: dict[str, Any]) -> None:
    """How to answer is sent in the service's terms, and left out where it has none."""
    body = body_of(sandbox, **params)
    usual = {"model", "messages", "stream", "update_interval"}
    assert {name: value for name, value in body.items() if name not in usual} == sent


def test_bodies_are_utf_8(sandbox: Sandbox) -> None:
    """Text is sent as UTF-8, since the service counts the tokens of what is sent."""
    body_of(sandbox, "Почему небо голубое? 🌤")
    (chat,) = [request for request in sandbox.requests if request.kind == "chat"]
    assert "Почему небо голубое? 🌤".encode() in chat.body


OWN_ID = "0c5b8d4e-5d0a-4f43-9f3c-6f2f6ad8a4b1"
HISTORIES: dict[str, tuple[list[dict[str, Any]], list[dict[str, Any]]]] = {
    "openai": (
        [said(called("call_abc", '{"city": "Псков"}')), result("call_abc", '{"degrees": 20}')],
        [turn({"city": "Псков"}), answer('{"degrees": 20}')],
    ),
    "two calls in one turn": (
        [
            {**said(called("a", '{"city": "Псков"}'), called("b", "{}", "time")), "content": "Hm"},
            result("b", '"12:00"'),
            result("a", "20"),
        ],
        [
            {**turn({"city": "Псков"}), "content": "Hm"},
            answer("20"),
            turn({}, "time"),
            answer('"12:00"', "time"),
        ],
    ),
    "yandex, whose ids are names": (
        [
            said(called("weather", '{"city": "A"}'), called("weather", '{"city": "B"}')),
            result("weather", "1"),
            result("weather", "2"),
        ],
        [turn({"city": "A"}), answer("1"), turn({"city": "B"}), answer("2")],
    ),
    "deepseek and glm, with their thoughts": (
        [
            said(called("call_00_x", ""), reasoning_content="Hm.", reasoning_details=[{}]),
            result("call_00_x", "warm"),
        ],
        [turn({}), answer('{"result": "warm"}')],
    ),
    "ids that somebody rewrote": (
        [said(called("", '{"city": "A"}')), result("toolu_1", "[1]")],
        [turn({"city": "A"}), answer("[1]")],
    ),
    "OpenAI's functions": (
        [
            {
                "role": "assistant",
                "content": "",
                "function_call": {"name": "weather", "arguments": '{"city": "A"}'},
            },
            {"role": "function", "name": "weather", "content": "NaN"},
        ],
        [turn({"city": "A"}), answer('{"result": "NaN"}')],
    ),
    "text of any provider": (
        [{"role": "assistant", "content": "Warm.", "refusal": None, "annotations": []}],
        [{"role": "assistant", "content": "Warm."}],
    ),
    "texts in parts": (
        [
            {
                "role": "assistant",
                "content": [{"type": "text", "text": "Wa"}, {"type": "text", "text": "rm."}],
            },
            {
                "role": "user",
                "content": [{"type": "text", "text": "So"}, {"type": "text", "text": "?"}],
            },
        ],
        [{"role": "assistant", "content": "Warm."}, {"role": "user", "content": "So?"}],
    ),
    "ids in its form of two calls": (
        [said(called(OWN_ID, "{}"), called(OWN_ID[::-1], "{}", "time"))],
        [turn({}), turn({}, "time")],
    ),
    "results of nothing, with names": (
        [
            {"role": "tool", "name": "time", "content": '"12:00"'},
            {"role": "assistant", "content": "Noon."},
            {"role": "function", "name": "weather", "content": "20"},
        ],
        [
            answer('"12:00"', "time"),
            {"role": "assistant", "content": "Noon."},
            answer("20"),
        ],
    ),
    "an id that is known before one that is not": (
        [
            said(called("a", "{}"), called("b", "{}", "time")),
            result("c", "2"),
            result("a", "1"),
        ],
        [turn({}), answer("1"), turn({}, "time"), answer("2", "time")],
    ),
    "arguments and results of any depth and kind": (
        [
            said(called("a", " \n"), called("b", '{"n": null}'), called("c", "{}")),
            result("a", "[" * 100_000),
            result("b", "Infinity"),
            result("c", "null"),
        ],
        [
            *(turn({}), answer(json.dumps({"result": "[" * 100_000}))),
            *(turn({"n": None}), answer('{"result": "Infinity"}')),
            *(turn({}), answer("null")),
        ],
    ),
    "arguments that are missing": (
        [
            {"role": "assistant", "content": "", "function_call": {"name": "weather"}},
            {"role": "function", "name": "other", "content": "тепло"},
        ],
        [turn({}), answer('{"result": "тепло"}')],
    ),
    "results by name, in another order": (
        [
            said(called("x", "{}"), called("y", "{}", "time")),
            {"role": "function", "name": "time", "content": "2"},
            {"role": "function", "name": "weather", "content": "1"},
        ],
        [turn({}), answer("1"), turn({}, "time"), answer("2", "time")],
    ),
    "a result by name alone": (
        [
            said(called("x", "{}"), called("y", "{}", "time")),
            {"role": "tool", "tool_call_id": "z", "name": "time", "content": "2"},
        ],
        [turn({}), turn({}, "time"), answer("2", "time")],
    ),
    "results that do not follow their calls": (
        [
            said(called("x", "{}")),
            said(called("y", "{}", "time")),
            result("x", "1"),
            QUESTION,
            result("y", "2"),
        ],
        [turn({}), answer("1"), turn({}, "time"), answer("2", "time"), QUESTION],
    ),
    "a call without a result": (
        [said(called("x", "{}"), called("y", "{}", "time")), result("y", "1")],
        [turn({}), turn({}, "time"), answer("1", "time")],
    ),
}


@pytest.mark.parametrize("history", HISTORIES)
def test_history_of_other_services(sandbox: Sandbox, history: str) -> None:
    """History in OpenAI's shape, whoever wrote it, is sent as GigaChat takes it."""
    written, sent = HISTORIES[history]
    kept = json.dumps(written)
    body = body_of(sandbox, [QUESTION, *written, QUESTION])
    assert body["messages"] == [QUESTION, *sent, QUESTION]
    assert json.dumps(written) == kept


@pytest.mark.parametrize("stream", [True, False])
def test_its_own_state_id_goes_back(sandbox: Sandbox, stream: bool) -> None:
    """The id that GigaChat gave to a call goes back with it, from the message as from the call."""
    question = {"role": "user", "content": "Call the tool"}
    with GigaChat(**sandbox.provider_arguments("gigachat")) as giga:
        (finish,) = giga.create_generator(None, [question], tools=[tool(WEATHER)], stream=stream)
        assert isinstance(finish, FinishReason)
        (call,) = finish.tool_calls
        by_call = {"role": "assistant", "content": "", "tool_calls": finish.tool_calls}
        for message in (finish.message, by_call):
            giga.complete([question, message, result(call["id"], "20")], tools=[tool(WEATHER)])
            sent = sandbox.requests[-1].json["messages"]
            state_id = finish.message["functions_state_id"]
            assert sent[1] == turn({"city": "sandbox"}, functions_state_id=state_id)


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ([{"role": "system", "content": "a"}, {"role": "system", "content": "b"}], "two or more"),
        ([QUESTION, {"role": "system", "content": "b"}], "it is message 1"),
        ([QUESTION, said(called("a", "{")), result("a", "1")], "not JSON"),
        ([QUESTION, said(called("a", "[1]")), result("a", "1")], "JSON object, not list"),
        ([QUESTION, said({"id": "a", "type": "custom", "custom": {}})], "calls of functions"),
        ([QUESTION, said(called("a", "[" * 100_000)), result("a", "1")], "not JSON"),
        ([{"role": "system", "content": [PICTURE]}], "not of 'system'"),
        ([QUESTION, {"role": "assistant", "content": [PICTURE]}], "not of 'assistant'"),
    ],
)
def test_history_that_cannot_be_translated(
    sandbox: Sandbox, messages: list[Any], words: str
) -> None:
    """History that GigaChat cannot take is not sent, and the next provider is asked at once."""
    assert words in refused(sandbox, [*messages, QUESTION])


def test_a_system_message_stays_first(sandbox: Sandbox) -> None:
    """It is sent once, as it is, before all others."""
    history = [{"role": "system", "content": "Be brief."}, QUESTION]
    assert body_of(sandbox, history)["messages"] == history


def test_a_state_id_of_several_calls() -> None:
    """The id of a turn goes with its first call; one that is no text is left out."""
    calls = {**said(called("a", "{}"), called("b", "{}", "time")), "content": ""}
    warm = {"role": "assistant", "content": "Warm."}
    for state_id, sent in ((OWN_ID, {"functions_state_id": OWN_ID}), (7, {}), (None, {})):
        told = {"functions_state_id": state_id}
        assert messages([{**calls, **told}, result("a", "1"), {**warm, **told}]) == [
            turn({}, **sent),
            answer("1"),
            turn({}, "time"),
            {**warm, **sent},
        ]


@pytest.mark.parametrize(
    ("history", "words"),
    [
        ([QUESTION, said({"id": "a", "function": {"arguments": "{}"}})], "has no name"),
        ([QUESTION, {"role": "tool", "name": "", "content": "1"}], "belongs to no call"),
        ([QUESTION, {"role": "tool", "name": 7, "content": "1"}], "belongs to no call"),
        ([QUESTION, said(called("a", "{}")), result("a", "1"), result("a", "2")], "to no call"),
    ],
)
def test_history_that_nobody_could_send(history: list[Any], words: str) -> None:
    """A call or a result that belongs to no function is told before anything is sent."""
    with pytest.raises(InvalidRequestError, match=words) as caught:
        messages(normalize(history))
    assert type(caught.value) is InvalidRequestError


class TestAttachments:
    def test_they_go_with_the_last_question(self) -> None:
        """Files are added to what the last message of the user has already."""
        own = {**QUESTION, "attachments": ["1"]}
        note = Attachment("note.txt", None, b"A note.")
        said_so = {"role": "assistant", "content": "Warm."}
        assert messages([own, own, said_so], [note]) == [
            own,
            {**QUESTION, "attachments": ["1", note]},
            said_so,
        ]
        assert own["attachments"] == ["1"]
        assert messages([QUESTION], [note, note])[0]["attachments"] == [note, note]
        with pytest.raises(InvalidRequestError, match="no user message"):
            messages([said_so], [note])

    def test_pictures_in_parts(self) -> None:
        """A picture leaves the text and stands behind the ids that the message has."""
        parts = [{"type": "text", "text": "What "}, PICTURE, {"type": "text", "text": "is it?"}]
        (message,) = messages([{"role": "user", "content": parts, "attachments": ["1"]}])
        own_id, picture = message["attachments"]
        assert (message["content"], own_id) == ("What is it?", "1")
        assert isinstance(picture, Attachment)
        assert (picture.media_type, picture.content) == ("image/png", bytes(3))

    def test_how_many(self) -> None:
        """Ten pictures a request and one a message are taken; ids and texts are not counted."""
        note = Attachment("note.txt", None, b"A note.")
        asked = [{"role": "user", "content": [PICTURE], "attachments": ["1", "2"]}] * 10
        assert len(messages(asked, [note, note])) == 10
        with pytest.raises(UnsupportedError, match="10 images"):
            messages([*asked, asked[0]])
        with pytest.raises(UnsupportedError, match="one image a message"):
            messages(asked, [Attachment("a.png", None, b"a")])


def test_an_alias_is_not_looked_up_for_what_is_refused(sandbox: Sandbox) -> None:
    """What cannot be sent costs no request for the list of models and no slot either."""
    params = {"response_format": {"type": "json_object"}}
    assert refused(sandbox, model="GigaChat-Pro", **params)


class TestEnvironment:
    def test_timeout(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The official client's timeout is read; an argument wins; nonsense names the variable."""
        monkeypatch.setenv("GIGACHAT_TIMEOUT", "7.5")
        assert GigaChat().timeout == (7.5, 7.5)
        assert GigaChat(timeout=3).timeout == (3.0, 3.0)
        for wrong in ("soon", "0", "-1", "nan"):
            monkeypatch.setenv("GIGACHAT_TIMEOUT", wrong)
            with pytest.raises(InvalidRequestError, match=f"^GIGACHAT_TIMEOUT must.* '{wrong}'$"):
                GigaChat()

    @pytest.mark.parametrize("value", ["0", "f", "False", "n", "no", "OFF"])
    def test_what_is_no(self, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
        """Each of the official client's words for no is one, in any case."""
        monkeypatch.setenv("GIGACHAT_PROFANITY_CHECK", value)
        assert profanity_check() is False

    @pytest.mark.parametrize("value", ["1", "t", "True", "y", "yes", "ON"])
    def test_what_is_yes(self, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
        """So is each for yes; without the variable it is neither."""
        assert profanity_check() is None
        monkeypatch.setenv("GIGACHAT_PROFANITY_CHECK", value)
        assert profanity_check() is True

    def test_certificate(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The file of a certificate may come with one of its key; a key alone is none."""
        assert certificate() is None
        monkeypatch.setenv("GIGACHAT_KEY_FILE", "me.key")
        assert certificate() is None
        monkeypatch.setenv("GIGACHAT_CERT_FILE", "me.crt")
        assert certificate() == ("me.crt", "me.key")
        monkeypatch.delenv("GIGACHAT_KEY_FILE")
        assert certificate() == "me.crt"

    def test_the_file_of_tokens(
        self, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It is the user's, or the one that is named, or there is none; a name is made whole."""
        assert token_file(None) is None
        assert token_file("user") == token_cache()
        assert token_file("~/tokens.json") == home / "tokens.json"
        monkeypatch.chdir(tmp_path)
        assert token_file(Path("tokens.json")) == tmp_path / "tokens.json"

    @pytest.mark.parametrize(("value", "sent"), [("false", False), ("True", True), ("0", False)])
    def test_profanity_check(
        self, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, value: str, sent: bool
    ) -> None:
        """The official client's switch is read; a parameter of the call wins."""
        monkeypatch.setenv("GIGACHAT_PROFANITY_CHECK", value)
        assert body_of(sandbox)["profanity_check"] is sent
        assert body_of(sandbox, profanity_check=not sent)["profanity_check"] is not sent
        monkeypatch.setenv("GIGACHAT_PROFANITY_CHECK", "perhaps")
        with pytest.raises(InvalidRequestError, match=r"^GIGACHAT_PROFANITY_CHECK .* 'perhaps'$"):
            GigaChat()

    def test_max_retries(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        """What is not read is said not to be, with what does it here."""
        monkeypatch.setenv("GIGACHAT_MAX_RETRIES", "3")
        GigaChat()
        assert "GIGACHAT_MAX_RETRIES is not read" in caplog.text
        caplog.clear()
        for fine in ("0", None):
            if fine is None:
                monkeypatch.delenv("GIGACHAT_MAX_RETRIES")
            else:
                monkeypatch.setenv("GIGACHAT_MAX_RETRIES", fine)
            GigaChat()
        assert caplog.text == ""


class TestOfficial:
    def test_it_reads_our_bodies(self, sandbox: Sandbox) -> None:
        """The official client's model of a request reads what is sent, and loses nothing of it."""
        chat = pytest.importorskip("gigachat.models.chat")
        for written, _ in HISTORIES.values():
            body = body_of(
                sandbox,
                [QUESTION, *written, QUESTION],
                tools=[tool(WEATHER)],
                response_format=FORMATS["schema"][0],
            )
            read = chat.Chat.model_validate(body).model_dump(exclude_none=True, by_alias=True)
            assert read["messages"] == body["messages"]
            assert read["response_format"] == body["response_format"]
            assert [one["name"] for one in read["functions"]] == ["weather"]

    def test_it_sends_the_same(self, sandbox: Sandbox) -> None:
        """For the same call and its result the official client sends the same messages."""
        question = {"role": "user", "content": "Call the tool"}
        with (
            GigaChat(**sandbox.provider_arguments("gigachat")) as giga,
            gigachat_client(sandbox) as official,
        ):
            functions = [{"name": "time", "parameters": TIME["parameters"]}]
            choice = official.chat({"messages": [question], "functions": functions}).choices[0]
            told = choice.message.model_dump(exclude_none=True)
            outcome = answer('{"now": 1}', "time")
            official.chat({"messages": [question, told, outcome], "functions": functions})
            theirs = sandbox.requests[-1].json["messages"]
            state_id = choice.message.functions_state_id
            history = [
                question,
                said(called(state_id, "{}", "time")),
                result(state_id, '{"now": 1}'),
            ]
            giga.complete(history, functions=functions)
            assert sandbox.requests[-1].json["messages"] == theirs
