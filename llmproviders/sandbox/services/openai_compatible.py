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


def chat_routes(base_path: str) -> dict[tuple[str, str], str]:
    """Return the routes of a service that speaks this protocol below `base_path`."""
    return {
        ("POST", f"{base_path}/chat/completions"): "chat",
        ("GET", f"{base_path}/models"): "models",
    }


class OpenAICompatibleService(Service):
    """Checks the key, the model and the messages, and answers whole or in events."""

    name = "openai"
    class_name = "OpenAICompatible"
    title = "OpenAI-compatible"
    base_path = "/v1"
    routes: ClassVar = chat_routes(base_path)
    api_key: ClassVar[str] = API_KEY
    dialect: ClassVar[Dialect] = _DIALECT

    @property
    def models(self) -> tuple[str, ...]:
        """The models that the service has, the first one the default."""
        return self.settings.openai_models

    def arguments(self, url: str) -> dict[str, Any]:
        """Return the address, the key and a model."""
        return {**super().arguments(url), "api_key": self.api_key, "model": self.models[0]}

    def environ(self, url: str) -> dict[str, str]:
        """Return the same by the names that the official client reads."""
        arguments = self.arguments(url)
        return {
            "OPENAI_BASE_URL": arguments["base_url"],
            "OPENAI_API_KEY": arguments["api_key"],
            "OPENAI_MODEL": arguments["model"],
        }

    def refuse(self, request: RecordedRequest) -> Whole | None:
        """Return an error object with 401, 404 or 400."""
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or key.strip() != self.api_key:
            message = "Incorrect API key provided. Use the one that the sandbox gives out."
            return self.refusal(401, message, code="invalid_api_key")
        return self._refuse_chat(request.json) if request.kind == "chat" else None

    def _refuse_chat(self, body: Any) -> Whole | None:
        if not isinstance(body, dict):
            return self.refusal(400, "We could not parse the JSON body of your request.")
        if not isinstance(body.get("model"), str):
            return self.refusal(400, "you must provide a model parameter", param="model")
        if body["model"] not in self.models:
            return self.no_such_model(body["model"])
        problem = messages_problem(body.get("messages"), _ROLES) or _content_problem(body)
        if problem:
            return self.refusal(400, problem, param="messages")
        problem = numbers_problem(body)
        return self.refusal(400, problem) if problem else self.refuse_more(body)

    def refuse_more(self, _body: Object, /) -> Whole | None:
        """Return the error for a chat that only this service refuses; None if it does not."""
        return None

    def no_such_model(self, model: str) -> Whole:
        """Return the error for a model that the service does not have."""
        message = f"The model `{model}` does not exist or you have no access to it."
        return self.refusal(404, message, param="model", code="model_not_found")

    def reply_headers(self, request: RecordedRequest, /) -> HeaderPairs:
        """Return the id of the request."""
        return id_header(request, "x-request-id")

    def answer(self, request: RecordedRequest, *, empty: bool) -> SandboxReply:
        """Return the list of models, or a completion, in events where `stream` is true."""
        if request.kind == "models":
            return json_reply({} if empty else self._listing())
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

    def _listing(self) -> Object:
        about = {"object": "model", "created": 1735689600, "owned_by": "sandbox"}
        data = [{"id": name, **about} for name in self.models]
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
            dialect=self.dialect,
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
        return self.refusal(status, phrase(status))

    def refusal(
        self, status: int, message: str, *, param: str | None = None, code: str | None = None
    ) -> Whole:
        """Return an error in the service's own shape."""
        usual = "server_error" if status >= 500 else "invalid_request_error"
        error = {
            "message": message,
            "type": _ERROR_TYPES.get(status, usual),
            "param": param,
            "code": code,
        }
        return json_reply({"error": error}, status=status)


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
