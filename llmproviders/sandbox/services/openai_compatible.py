"""A server that speaks OpenAI's chat completion protocol."""

from __future__ import annotations

import uuid
from typing import Any, ClassVar

from llmproviders.sandbox._record import RecordedRequest
from llmproviders.sandbox._reply import (
    HeaderPairs,
    ReplyPiece,
    SandboxReply,
    Stream,
    Whole,
    json_reply,
    phrase,
)
from llmproviders.sandbox._script import last_user_text, plain_text, write_script
from llmproviders.sandbox.services._base import Service
from llmproviders.sandbox.services._completions import (
    DONE,
    CompletionScript,
    Dialect,
    Object,
    arguments_text,
    called_function,
    id_header,
    messages_problem,
    numbers_problem,
)

API_KEY = "sk-sandbox-5f1c9b6e0d3a4a27"

_DIALECT = Dialect(
    finish={"stop": "stop", "length": "length", "filter": "content_filter"},
    stream_object="chat.completion.chunk",
    role_in_each_delta=False,
    keep_alive=b": SANDBOX PROCESSING\n\n",
)

_ROLES = ("system", "developer", "user", "assistant", "tool", "function")

_ERROR_TYPES = {
    401: "invalid_request_error",
    402: "insufficient_quota",
    403: "permission_error",
    429: "rate_limit_exceeded",
}


class OpenAICompatibleService(Service):
    """Checks the key, the model and the messages, and answers whole or in events."""

    name = "openai"
    title = "OpenAI-compatible"
    routes: ClassVar = {("POST", "/v1/chat/completions"): "chat", ("GET", "/v1/models"): "models"}

    def refuse(self, request: RecordedRequest) -> Whole | None:
        """Return an error object with 401, 404 or 400."""
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or key.strip() != API_KEY:
            message = "Incorrect API key provided. Use the one that the sandbox gives out."
            return _error(401, message, code="invalid_api_key")
        return self._refuse_chat(request.json) if request.kind == "chat" else None

    def _refuse_chat(self, body: Any) -> Whole | None:
        if not isinstance(body, dict):
            return _error(400, "We could not parse the JSON body of your request.")
        if not isinstance(body.get("model"), str):
            return _error(400, "you must provide a model parameter", param="model")
        if body["model"] not in self.settings.openai_models:
            message = f"The model `{body['model']}` does not exist or you have no access to it."
            return _error(404, message, param="model", code="model_not_found")
        problem = messages_problem(body.get("messages"), _ROLES) or _content_problem(body)
        if problem:
            return _error(400, problem, param="messages")
        problem = numbers_problem(body)
        return _error(400, problem) if problem else None

    def reply_headers(self, request: RecordedRequest, /) -> HeaderPairs:
        """Return the id of the request."""
        return id_header(request, "x-request-id")

    def answer(self, request: RecordedRequest, *, empty: bool) -> SandboxReply:
        """Return the list of models, or a completion, in events where `stream` is true."""
        if request.kind == "models":
            return json_reply({} if empty else self._models())
        body = request.json
        completion = self._completion(body, empty=empty)
        if not body.get("stream"):
            reply = json_reply(completion.whole())
            reply.pieces = len(completion.script.pieces)
            return reply
        end: tuple[ReplyPiece, ...] = (completion.finish({}), DONE)
        if (body.get("stream_options") or {}).get("include_usage"):
            end = (end[0], completion.usage_event(), DONE)
        return Stream(completion.frames(_call_deltas(completion.call)), end)

    def _models(self) -> Object:
        about = {"object": "model", "created": 1735689600, "owned_by": "sandbox"}
        data = [{"id": name, **about} for name in self.settings.openai_models]
        return {"object": "list", "data": data}

    def _completion(self, body: Object, *, empty: bool) -> CompletionScript:
        messages = [
            {"role": message["role"], "content": plain_text(message.get("content") or "")}
            for message in body["messages"]
        ]
        stop = body.get("stop")
        script = write_script(
            self.settings.reply,
            self.title,
            messages,
            empty=empty,
            max_tokens=body.get("max_completion_tokens") or body.get("max_tokens"),
            stop=[stop] if isinstance(stop, str) else stop,
        )
        function = None if empty else called_function(body, last_user_text(messages))
        return CompletionScript(
            dialect=_DIALECT,
            script=script,
            envelope={
                "id": f"chatcmpl-{uuid.uuid4().hex}",
                "created": int(self.settings.clock()),
                "model": body["model"],
            },
            usage=script.usage,
            choices=body.get("n") or 1,
            call=_call(function, as_tool=bool(body.get("tools"))) if function else None,
            call_finish="tool_calls" if body.get("tools") else "function_call",
        )

    def error(self, status: int, _kind: str, /) -> Whole:
        """Return ``{"error": {...}}``."""
        return _error(status, phrase(status))


def _content_problem(body: Object) -> str | None:
    for message in body["messages"]:
        content = message.get("content")
        if content is None and message["role"] == "assistant":
            continue
        if plain_text(content) is None:
            return "the content of a message must be a string or a list of text items"
    return None


def _call(function: Object, *, as_tool: bool) -> Object:
    called = {"name": function.get("name"), "arguments": arguments_text(function)}
    if not as_tool:
        return {"function_call": called}
    tool_call = {"id": f"call_{uuid.uuid4().hex[:24]}", "type": "function", "function": called}
    return {"tool_calls": [tool_call]}


def _call_deltas(call: Object | None) -> list[Object]:
    """Return a call in three deltas: the name first, then the arguments in two pieces."""
    if call is None:
        return []
    if "function_call" in call:
        called = call["function_call"]
        named, first, second = _in_three(called)
        return [{"function_call": part} for part in (named, first, second)]
    tool_call = call["tool_calls"][0]
    named, first, second = _in_three(tool_call["function"])
    return [
        {"tool_calls": [{"index": 0, **tool_call, "function": named}]},
        {"tool_calls": [{"index": 0, "function": first}]},
        {"tool_calls": [{"index": 0, "function": second}]},
    ]


def _in_three(called: Object) -> tuple[Object, Object, Object]:
    arguments = called["arguments"]
    middle = len(arguments) // 2
    return (
        {"name": called["name"], "arguments": ""},
        {"arguments": arguments[:middle]},
        {"arguments": arguments[middle:]},
    )


def _error(
    status: int, message: str, *, param: str | None = None, code: str | None = None
) -> Whole:
    usual = "server_error" if status >= 500 else "invalid_request_error"
    error = {
        "message": message,
        "type": _ERROR_TYPES.get(status, usual),
        "param": param,
        "code": code,
    }
    return json_reply({"error": error}, status=status)
