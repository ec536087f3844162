"""What is sent to OpenAI-compatible servers: tools, history, and what a server refuses."""

from __future__ import annotations

import json
from typing import Any

import pytest

from llmproviders import (
    InvalidRequestError,
    ModelNotFoundError,
    OpenAICompatible,
    UnsupportedError,
)
from llmproviders._request import ChatRequest
from llmproviders.errors import LLMError
from llmproviders.providers._chat_requests import refused_field
from tests.conftest import RawServerFactory
from tests.support.calls import Canned, Sender, with_sender
from tests.support.golden import goldens, on_the_wire
from tests.support.http_bytes import http_response
from tests.support.promise import read
from tests.support.rawserver import RawServer, keep_alive

SHORT = goldens("openaicompatible", name="short")[0]
JSON = {"Content-Type": "application/json"}
FINE = [b"".join(on_the_wire(SHORT.body, "chunked", SHORT.content_type))]
WHOLE = http_response(
    200, JSON, b'{"choices": [{"message": {"content": "Hi"}, "finish_reason": "stop"}]}'
)
FUNCTION = {"name": "weather", "parameters": {"type": "object"}}
TOOL = {"type": "function", "function": FUNCTION}


UNSUPPORTED = "'tools' with top_p is not supported, nor is seed."


def sent_by(prompt: Any = "Hi", **params: Any) -> dict[str, Any]:
    """The body that is sent."""
    sender = Sender(Canned(SHORT.body))
    provider = with_sender(OpenAICompatible, sender, base_url="http://127.0.0.1:9/v1", model="m")
    error = read(provider.stream(prompt, **params)).error
    if error is not None:
        raise error
    body: dict[str, Any] = sender.calls[0].json
    return body


def openai_error(message: str, **more: Any) -> dict[str, Any]:
    """An error in OpenAI's shape."""
    return {"error": {"message": message, "type": "invalid_request_error", **more}}


def refusal(answer: Any, status: int = 400) -> Any:
    """A refusal as it is sent."""
    return http_response(status, JSON, json.dumps(answer).encode())


def bodies(server: RawServer) -> list[dict[str, Any]]:
    """The bodies that a server got."""
    return [json.loads(request.body) for request in server.requests]


class TestTools:
    @pytest.mark.parametrize(
        ("params", "expected"),
        [
            ({"functions": [FUNCTION]}, {"tools": [TOOL]}),
            (
                {"functions": [{**FUNCTION, "few_shot_examples": [], "return_parameters": {}}]},
                {"tools": [TOOL]},
            ),
            ({"tools": [TOOL], "functions": [FUNCTION]}, {"tools": [TOOL, TOOL]}),
            (
                {"functions": [FUNCTION], "function_call": {"name": "weather"}},
                {
                    "tools": [TOOL],
                    "tool_choice": {"type": "function", "function": {"name": "weather"}},
                },
            ),
            (
                {"functions": [FUNCTION], "function_call": "auto"},
                {"tools": [TOOL], "tool_choice": "auto"},
            ),
            (
                {"tools": [TOOL], "tool_choice": "required", "parallel_tool_calls": False},
                {"tools": [TOOL], "tool_choice": "required", "parallel_tool_calls": False},
            ),
            (
                {"functions": [FUNCTION], "function_call": "none", "tool_choice": "required"},
                {"tools": [TOOL], "tool_choice": "required"},
            ),
            (
                {"functions": [FUNCTION], "parallel_tool_calls": True},
                {"tools": [TOOL], "parallel_tool_calls": True},
            ),
            ({"tool_choice": "required"}, {"tool_choice": "required"}),
            (
                {"function_call": {"name": "weather"}},
                {"tool_choice": {"type": "function", "function": {"name": "weather"}}},
            ),
            ({"tools": [], "tool_choice": "auto"}, {}),
            ({"functions": [], "function_call": "none", "parallel_tool_calls": True}, {}),
        ],
    )
    def test_functions_are_sent_as_tools(
        self, params: dict[str, Any], expected: dict[str, Any]
    ) -> None:
        """Functions become tools, their choice a choice of tools; what asks for nothing is left."""
        body = sent_by(**params)
        assert not body.keys() & {"functions", "function_call"}
        names = ("tools", "tool_choice", "parallel_tool_calls")
        assert {name: body[name] for name in names if name in body} == expected


class TestHistory:
    def test_a_turn_of_gigachat(self) -> None:
        """Its call gets an id and arguments as text, its result names the call, its ids stay."""
        messages = [
            {"role": "user", "content": "Will it rain?"},
            {
                "role": "assistant",
                "content": "",
                "function_call": {"name": "weather", "arguments": {"city": "Омск"}},
                "functions_state_id": "77d3fb14",
            },
            {"role": "function", "name": "weather", "content": '{"rain": true}'},
        ]
        _, call, result = sent_by(messages)["messages"]
        assert call == {
            "role": "assistant",
            "content": "",
            "tool_calls": [
                {
                    "id": "call_1_0",
                    "type": "function",
                    "function": {"name": "weather", "arguments": '{"city": "Омск"}'},
                }
            ],
        }
        assert result == {
            "role": "tool",
            "name": "weather",
            "tool_call_id": "call_1_0",
            "content": '{"rain": true}',
        }

    def test_what_libraries_write_out_as_null_is_left_out(self) -> None:
        """A message as the official client dumps it has no nulls and no empty list of calls."""
        dumped = {"refusal": None, "audio": None, "function_call": None, "name": None}
        said = {"role": "assistant", "content": "Warm."}
        for calls in (None, []):
            history = [{**said, **dumped, "tool_calls": calls}, {"role": "user", "content": "So?"}]
            assert sent_by(history)["messages"] == [said, history[1]]

    def test_results_without_ids_belong_to_the_calls_in_their_order(self) -> None:
        """Each result answers the first call of the turn that has none, by its name if it has."""
        calls = [
            {"id": c, "function": {"name": f, "arguments": "{}"}} for c, f in ("ax", "by", "cx")
        ]
        messages = [
            {"role": "user", "content": "Go"},
            {"role": "assistant", "content": None, "tool_calls": calls},
            {"role": "tool", "content": "1", "name": "y"},
            {"role": "tool", "content": "2", "name": "x"},
            {"role": "tool", "content": "3", "tool_call_id": "c"},
        ]
        told = sent_by(messages)["messages"]
        assert [message.get("tool_call_id") for message in told[2:]] == ["b", "a", "c"]
        assert [call["type"] for call in told[1]["tool_calls"]] == ["function"] * 3

    def test_ids_that_repeat_in_a_turn(self) -> None:
        """Each call has its own id, and so has its result, although a server repeated them."""
        calls = [{"id": "c", "function": {"name": f, "arguments": "{}"}} for f in "xy"]
        messages = [
            {"role": "user", "content": "Go"},
            {"role": "assistant", "content": None, "tool_calls": calls},
            {"role": "tool", "content": "1", "tool_call_id": "c", "name": "y"},
            {"role": "tool", "content": "2", "tool_call_id": "c"},
        ]
        told = sent_by(messages)["messages"]
        ids = [call["id"] for call in told[1]["tool_calls"]]
        assert len({*ids}) == 2
        assert [message["tool_call_id"] for message in told[2:]] == ids[::-1]

    def test_a_result_whose_id_no_call_has(self) -> None:
        """It gets the id of the call that it answers; servers refuse an unknown one."""
        call = {"id": "a", "function": {"name": "f", "arguments": "{}"}}
        messages = [
            {"role": "user", "content": "Go"},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "content": "1", "tool_call_id": "z"},
        ]
        assert sent_by(messages)["messages"][2]["tool_call_id"] == "a"

    def test_a_turn_of_our_own_is_sent_as_it_was(self) -> None:
        """Ids, text arguments and the reasoning that some services want back are left alone."""
        call = {"id": "x", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}
        turn = {
            "role": "assistant",
            "content": "",
            "tool_calls": [call],
            "reasoning_content": "Hm.",
        }
        result = {"role": "tool", "tool_call_id": "x", "content": "7"}
        told = sent_by([{"role": "user", "content": "Go"}, turn, result])["messages"]
        assert told[1:] == [turn, result]

    def test_files_of_gigachat_cannot_go_elsewhere(self) -> None:
        """A message with its attachments is refused before anything is sent."""
        picture = {"role": "user", "content": "What is this?", "attachments": ["1"]}
        said = {"role": "assistant", "content": "A cat."}
        with pytest.raises(UnsupportedError, match="message 2 has attachments"):
            sent_by([{"role": "user", "content": "Hi", "attachments": []}, said, picture])

    @pytest.mark.parametrize(
        ("result", "called"),
        [
            ({"name": "x"}, "a"),
            ({"name": "y"}, "b"),
            ({}, "a"),
            ({"name": "z"}, "a"),
            ({"tool_call_id": "b", "name": "x"}, "b"),
            ({"tool_call_id": "c"}, "a"),
            ({"tool_call_id": ""}, "a"),
        ],
    )
    def test_which_call_a_result_belongs_to(self, result: dict[str, Any], called: str) -> None:
        """It is the one that it names, else the first of its function, else the first one."""
        calls = [{"id": c, "function": {"name": f, "arguments": "{}"}} for c, f in ("ax", "by")]
        messages = [
            {"role": "user", "content": "Go"},
            {"role": "assistant", "content": "", "tool_calls": calls},
            {"role": "tool", "content": "1", **result},
            {"role": "function", "content": "2"},
        ]
        told = sent_by(messages)["messages"]
        assert [message["role"] for message in told[2:]] == ["tool", "tool"]
        assert told[2]["tool_call_id"] == called
        assert told[3]["tool_call_id"] == ("b" if called == "a" else "a")

    def test_results_of_no_call(self) -> None:
        """One before any call, and one too many, still name a call, as servers want it.

        Of two for one call, it belongs to the one that says its name.
        """
        call = {"function": {"name": "f"}}
        messages = [
            {"role": "tool", "content": "0"},
            {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "content": "1"},
            {"role": "tool", "content": "2", "name": "f"},
            {"role": "assistant", "content": "", "tool_calls": [call, call]},
            {"role": "user", "content": "So?"},
            {"role": "tool", "content": "3"},
            {"role": "assistant", "content": "", "tool_calls": [{"id": "x", "type": "custom"}]},
            {"role": "tool", "content": "4", "name": "f"},
        ]
        told = sent_by(messages)["messages"]
        ids = [message["tool_call_id"] for message in told if message["role"] == "tool"]
        assert ids == ["call_unknown", "call_unknown", "call_1_0", "call_4_0", "call_4_1"]
        assert [c["id"] for c in told[4]["tool_calls"]] == ["call_4_0", "call_4_1"]

    @pytest.mark.parametrize(
        ("arguments", "sent"),
        [
            ({"city": "Омск"}, '{"city": "Омск"}'),
            ('{"a":1}', '{"a":1}'),
            ("", ""),
            (None, "{}"),
            ({}, "{}"),
        ],
    )
    def test_arguments_are_text(self, arguments: Any, sent: str) -> None:
        """Arguments that are no text are written as JSON; none at all are an empty object."""
        call = {"id": "", "type": "custom", "function": {"name": "f", "arguments": arguments}}
        turn = {"role": "assistant", "content": "", "tool_calls": [call, {"id": "x"}]}
        told = sent_by([turn, {"role": "user", "content": "So?"}])["messages"][0]
        assert told["tool_calls"] == [
            {"id": "call_0_0", "type": "custom", "function": {"name": "f", "arguments": sent}},
            {"id": "x", "type": "function"},
        ]


class TestFields:
    def test_more_of_them(self) -> None:
        """The newer parameters are sent; a limit by its newer name is sent by that name alone."""
        body = sent_by(max_completion_tokens=7, reasoning_effort="low")
        assert (body["max_completion_tokens"], body["reasoning_effort"]) == (7, "low")
        assert "max_tokens" not in body

    def test_none_takes_a_field_out(self) -> None:
        """``extra_body`` takes a field out by None, and wins over parameters."""
        body = sent_by(temperature=1, extra_body={"stream_options": None, "temperature": 0})
        assert "stream_options" not in body
        assert body["temperature"] == 0

    def test_the_query_of_an_address_stays_behind_the_path(
        self, raw_server: RawServerFactory
    ) -> None:
        """Azure's addresses have their version in a query: it goes with every request."""
        server = raw_server(keep_alive(FINE, refusal({"data": []}, 200)))
        base_url = f"{server.url}/openai/deployments/mini/?api-version=2024-10-21"
        with OpenAICompatible(base_url=base_url) as provider:
            assert str(provider.complete("Hi")) == SHORT.text
            assert provider.list_models() == []
        assert [request.target for request in server.requests] == [
            "/openai/deployments/mini/chat/completions?api-version=2024-10-21",
            "/openai/deployments/mini/models?api-version=2024-10-21",
        ]


REFUSED = {
    "a name in camel case": (
        "top_p",
        400,
        {"code": "invalid", "error": "Model m does not support parameter topP."},
    ),
    "openai": (
        "max_tokens",
        400,
        openai_error(
            "Unsupported parameter: 'max_tokens' is not supported with this model. "
            "Use 'max_completion_tokens' instead.",
            param="max_tokens",
            code="unsupported_parameter",
        ),
    ),
    "openai, by param alone": (
        "temperature",
        400,
        openai_error("Unsupported value", param="temperature", code="unsupported_value"),
    ),
    "openai's value": (
        "temperature",
        400,
        openai_error(
            "Unsupported value: 'temperature' does not support 0.5 with this model. "
            "Only the default (1) value is supported.",
            param="temperature",
            code="unsupported_value",
        ),
    ),
    "openai, unrecognized": (
        "stream_options",
        400,
        openai_error("Unrecognized request argument supplied: stream_options"),
    ),
    "mistral": (
        "seed",
        422,
        {
            "object": "error",
            "message": {
                "detail": [
                    {
                        "type": "extra_forbidden",
                        "loc": ["body", "seed"],
                        "msg": "Extra inputs are not permitted",
                    }
                ]
            },
        },
    ),
    "fastapi": (
        "top_p",
        422,
        {
            "detail": [
                {
                    "type": "extra_forbidden",
                    "loc": ["body", "top_p"],
                    "msg": "Extra inputs are not permitted",
                }
            ]
        },
    ),
    "azure foundry": (
        "stream_options",
        400,
        {"detail": "Extra parameters ['stream_options'] are not allowed when extra-parameters "},
    ),
}


REFUSED_IN_HISTORY = {
    "mistral": (
        "reasoning_content",
        422,
        {
            "object": "error",
            "message": {
                "detail": [
                    {
                        "type": "extra_forbidden",
                        "loc": ["body", "messages", 1, "assistant", "reasoning_content"],
                        "msg": "Extra inputs are not permitted",
                        "input": "I think.",
                    }
                ]
            },
            "type": "invalid_request_error",
        },
    ),
    "groq": (
        "reasoning_content",
        400,
        openai_error(
            "'messages.1' : for 'role:assistant' the following must be satisfied"
            "[('messages.1' : property 'reasoning_content' is unsupported)]"
        ),
    ),
    "cerebras": (
        "reasoning",
        400,
        {
            "message": "messages.1.assistant.reasoning: property "
            "'messages.1.assistant.reasoning' is unsupported",
            "type": "invalid_request_error",
            "param": "validation_error",
            "code": "wrong_api_format",
        },
    ),
    "openai": (
        "reasoning_details",
        400,
        openai_error(
            "Additional properties are not allowed ('reasoning_details' was unexpected) - "
            "'messages.1'"
        ),
    ),
}


class TestRefusals:
    @pytest.mark.parametrize("refused", REFUSED)
    def test_a_field_that_is_refused_is_left_out(
        self, raw_server: RawServerFactory, refused: str
    ) -> None:
        """The request is sent once more without it, or with its other name; later ones are so."""
        field, status, answer = REFUSED[refused]
        server = raw_server(keep_alive(refusal(answer, status), FINE, FINE))
        params = {"max_tokens": 9, "temperature": 0.5, "seed": 1, "top_p": 0.9}
        with OpenAICompatible(base_url=server.url, model="m") as provider:
            for _ in range(2):
                assert str(provider.complete("Hi", **params)) == SHORT.text
        first, *others = bodies(server)
        assert field in first
        left = {name: value for name, value in first.items() if name != field}
        if field == "max_tokens":
            left["max_completion_tokens"] = 9
        assert others == [left, left]

    @pytest.mark.parametrize("refused", REFUSED_IN_HISTORY)
    def test_thoughts_of_others_are_left_out(
        self, raw_server: RawServerFactory, refused: str
    ) -> None:
        """What another service wrote beside the text of a turn is left out where it is refused.

        The turn itself stays, and later requests are so at once.
        """
        field, status, answer = REFUSED_IN_HISTORY[refused]
        server = raw_server(keep_alive(refusal(answer, status), FINE, FINE))
        call = {"id": "a", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
        turn = {"role": "assistant", "content": "", "tool_calls": [call]}
        question = {"role": "user", "content": "Rain?"}
        result = {"role": "tool", "tool_call_id": "a", "content": "no"}
        with OpenAICompatible(base_url=server.url, model="m") as provider:
            for _ in range(2):
                said = provider.complete([question, {**turn, field: "I think."}, result])
                assert str(said) == SHORT.text
        first, *others = bodies(server)
        assert first["messages"][1][field] == "I think."
        assert [body["messages"] for body in others] == [[question, turn, result]] * 2

    def test_thoughts_and_a_parameter_in_a_row(self, raw_server: RawServerFactory) -> None:
        """A field of the history and one of the request are left out one after the other."""
        refusals = [
            refusal(REFUSED_IN_HISTORY["groq"][2]),
            refusal(REFUSED["mistral"][2], 422),
        ]
        server = raw_server(keep_alive(*refusals, FINE))
        said = {"role": "assistant", "content": "No.", "reasoning_content": "Dry."}
        with OpenAICompatible(base_url=server.url, model="m") as provider:
            assert provider.complete([said, {"role": "user", "content": "So?"}], seed=1).text
        last = bodies(server)[-1]
        assert "seed" not in last
        assert last["messages"][0] == {"role": "assistant", "content": "No."}

    def test_thoughts_beside_a_parameter_that_is_refused(
        self, raw_server: RawServerFactory
    ) -> None:
        """A field of the request that is refused takes nothing out of the history."""
        server = raw_server(keep_alive(refusal(REFUSED["mistral"][2], 422), FINE))
        said = {"role": "assistant", "content": "No.", "reasoning_content": "Dry."}
        history = [said, {"role": "user", "content": "So?"}]
        with OpenAICompatible(base_url=server.url, model="m") as provider:
            assert provider.complete(history, seed=1).text
        assert [body["messages"] for body in bodies(server)] == [history, history]

    def test_a_model_in_extra_body(self, raw_server: RawServerFactory) -> None:
        """A refusal is remembered also where ``extra_body`` names another model, or none."""
        for model in ("another", None):
            server = raw_server(keep_alive(refusal(REFUSED["mistral"][2], 422), FINE, FINE))
            with OpenAICompatible(base_url=server.url, model="m") as provider:
                for _ in range(2):
                    assert provider.complete("Hi", seed=1, extra_body={"model": model}).text
            assert ["seed" in body for body in bodies(server)] == [True, False, False]

    def test_two_fields_in_a_row(self, raw_server: RawServerFactory) -> None:
        """A server that refuses one field after the other gets a third request; models differ."""
        first, second = REFUSED["openai"][2], REFUSED["openai's value"][2]
        server = raw_server(keep_alive(refusal(first), refusal(second), FINE, FINE))
        with OpenAICompatible(base_url=server.url, model="m") as provider:
            provider.complete("Hi", max_tokens=9, temperature=0.5)
            provider.complete("Hi", max_tokens=9, model="another")
        sent = bodies(server)
        assert sent[2].keys() & {"max_tokens", "max_completion_tokens", "temperature"} == {
            "max_completion_tokens"
        }
        assert sent[3]["max_tokens"] == 9

    def test_a_model_that_refuses_more_than_others(self, raw_server: RawServerFactory) -> None:
        """What one model refuses is still sent to the others."""
        server = raw_server(keep_alive(refusal(REFUSED["mistral"][2], 422), FINE, FINE, FINE))
        with OpenAICompatible(base_url=server.url, model="m") as provider:
            for model in ("strict", "m", "strict"):
                assert provider.complete("Hi", seed=1, model=model).text
        assert [(body["model"], "seed" in body) for body in bodies(server)] == [
            ("strict", True),
            ("strict", False),
            ("m", True),
            ("strict", False),
        ]

    def test_before_anything_was_sent(self) -> None:
        """An error of which there is no request leaves nothing out of the next one."""
        sender = Sender(Canned(SHORT.body))
        provider = with_sender(OpenAICompatible, sender, base_url="http://127.0.0.1:9/v1")
        error = InvalidRequestError("no", status_code=400, detail="Unsupported parameter: seed")
        request = ChatRequest.of("Hi", params={"seed": 1})
        assert provider.recover(error, None, request, None) is None  # type: ignore[arg-type]
        assert read(provider.stream("Hi", seed=1)).error is None
        assert sender.calls[0].json["seed"] == 1

    def test_both_names_of_one_field(self, raw_server: RawServerFactory) -> None:
        """A server that takes neither name gets neither, and is not asked for ever."""
        neither = [
            refusal(openai_error(f"Unrecognized request argument supplied: {name}"))
            for name in ("max_tokens", "max_completion_tokens")
        ]
        server = raw_server(keep_alive(*neither, FINE))
        with OpenAICompatible(base_url=server.url, model="m") as provider:
            provider.complete("Hi", max_tokens=9)
        assert not bodies(server)[2].keys() & {"max_tokens", "max_completion_tokens"}

    @pytest.mark.parametrize(
        "words",
        [
            "Your organization must be verified to stream this model.",
            "Streaming is not supported for this model",
            "Unsupported value: 'stream' does not support true with this model.",
        ],
    )
    def test_a_server_that_may_not_stream(self, raw_server: RawServerFactory, words: str) -> None:
        """It is asked for the whole reply instead, then and in later calls."""
        refused = refusal(openai_error(words, param="stream", code="unsupported_value"))
        server = raw_server(keep_alive(refused, WHOLE, WHOLE))
        with OpenAICompatible(base_url=server.url, model="m") as provider:
            assert read(provider.stream("Hi")).text == "Hi"
            assert read(provider.stream("Hi")).text == "Hi"
        assert [body.get("stream") for body in bodies(server)] == [True, None, None]
        assert "stream_options" not in bodies(server)[1]

    @pytest.mark.parametrize(
        ("status", "words"),
        [
            (400, "temperature must be between 0 and 2"),
            (400, "max_tokens is too large: 9. This model supports at most 5"),
            (400, "'tools' is not supported with this model."),
            (400, "Unrecognized request argument supplied: top_k"),
            (
                422,
                "unknown field `top_k`, expected one of `max_tokens`, `stop`, `temperature`",
            ),
            (400, "top_k is not supported; only temperature and max_tokens are supported"),
            (400, "Unknown parameter top_k. Supported parameters: temperature, max_tokens"),
            (400, "temperature: more than 4 digits are not supported"),
            (400, "This model does not support max_tokens greater than 8192"),
            (403, "Unsupported parameter: 'temperature'"),
            (500, "Unsupported parameter: 'temperature'"),
        ],
    )
    def test_what_is_not_tried_again(
        self, raw_server: RawServerFactory, status: int, words: str
    ) -> None:
        """A wrong value, a field that says what to answer, and another status are the error.

        So are the names of fields that would be accepted.
        """
        server = raw_server(keep_alive(refusal(openai_error(words), status)))
        with OpenAICompatible(base_url=server.url, model="m") as provider:
            params = {"temperature": 5, "max_tokens": 9, "extra_body": {"top_k": 1}}
            error = read(provider.stream("Hi", **params)).error
        assert isinstance(error, LLMError)
        assert len(server.requests) == 1

    def test_what_did_not_help_is_forgotten(self, raw_server: RawServerFactory) -> None:
        """A field is left out of later calls only if the call without it succeeded."""
        refused = refusal(openai_error("Unsupported parameter: 'seed'"))
        server = raw_server(keep_alive(refused, refusal(openai_error("no such thing")), FINE))
        with OpenAICompatible(base_url=server.url, model="m") as provider:
            with pytest.raises(InvalidRequestError, match="no such thing"):
                provider.complete("Hi", seed=1)
            assert str(provider.complete("Hi", seed=1)) == SHORT.text
        assert [body.get("seed") for body in bodies(server)] == [1, None, 1]

    @pytest.mark.parametrize("field", ["thinking_blocks", "extra_content"])
    def test_signatures_of_others_are_left_out(
        self, raw_server: RawServerFactory, field: str
    ) -> None:
        """What other services sign a turn or a call with is left out where it is refused."""
        detail = [{"loc": ["body", "messages", 1, field], "msg": "Extra inputs are not permitted"}]
        server = raw_server(keep_alive(refusal({"detail": detail}, 422), FINE))
        function = {"name": "weather", "arguments": "{}"}
        call = {"id": "a", "type": "function", "function": function, "extra_content": {"s": "S"}}
        turn = {"role": "assistant", "content": "", "tool_calls": [call]}
        turn["thinking_blocks"] = [{"type": "thinking", "thinking": "x", "signature": "s"}]
        history = [{"role": "user", "content": "Rain?"}, turn]
        history.append({"role": "tool", "tool_call_id": "a", "content": "yes"})
        with OpenAICompatible(base_url=server.url, model="m") as provider:
            assert str(provider.complete(history)) == SHORT.text
        first, second = map(json.dumps, bodies(server))
        assert field in first
        assert field not in second
        other = {"thinking_blocks": "extra_content", "extra_content": "thinking_blocks"}[field]
        assert other in second

    @pytest.mark.parametrize(
        ("error", "field"),
        [
            (InvalidRequestError("", status_code=400, detail=UNSUPPORTED), "top_p"),
            (InvalidRequestError("", status_code=422, detail=UNSUPPORTED.upper()), "top_p"),
            (InvalidRequestError("", status_code=404, detail=UNSUPPORTED), None),
            (InvalidRequestError("", status_code=400, detail="top_p, seed"), None),
            (InvalidRequestError("", status_code=400, detail="Unsupported: top_pp"), None),
            (InvalidRequestError("", status_code=400), None),
            (ModelNotFoundError("", status_code=400, detail=UNSUPPORTED), None),
        ],
    )
    def test_which_field_is_refused(self, error: InvalidRequestError, field: str | None) -> None:
        """The first that is named, where the request is refused as such, and for that reason."""
        assert refused_field(error, {"seed": 1, "top_p": 1, "tools": []}) == field

    def test_a_field_that_the_caller_put_there(self, raw_server: RawServerFactory) -> None:
        """What stands in ``extra_body`` is the caller's word: it is not left out unasked."""
        server = raw_server(keep_alive(refusal(REFUSED["mistral"][2], 422)))
        with OpenAICompatible(base_url=server.url, model="m") as provider:
            error = read(provider.stream("Hi", extra_body={"seed": 1})).error
        assert isinstance(error, InvalidRequestError)
        assert len(server.requests) == 1
