"""A server that speaks OpenAI's chat completion protocol."""

from __future__ import annotations

import base64
import hashlib
import json
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
from llmproviders.sandbox._script import (
    count_words,
    last_user_text,
    plain_text,
    write_script,
)
from llmproviders.sandbox.services._base import Service
from llmproviders.sandbox.services._completions import (
    DONE,
    CompletionScript,
    Dialect,
    Object,
    answer_to_format,
    calls_of,
    history_problem,
    id_header,
    messages_problem,
    numbers_problem,
)

API_KEY = "sk-sandbox-5f1c9b6e0d3a4a27"

MOST_INPUTS = 64

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
        ("POST", f"{base_path}/embeddings"): "embeddings",
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
    counts_unasked: ClassVar[bool] = False
    """Whether streams report their usage even if the request does not ask for it."""

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
        if request.kind == "embeddings":
            return self._refuse_inputs(request.json)
        return self._refuse_chat(request.json) if request.kind == "chat" else None

    def _refuse_inputs(self, body: Any) -> Whole | None:
        inputs = body.get("input") if isinstance(body, dict) else None
        if not isinstance(inputs, list) or not all(isinstance(text, str) for text in inputs):
            return self.refusal(400, "input must be a list of strings", param="input")
        if len(inputs) > MOST_INPUTS:
            return self.refusal(
                400, f"batch size is invalid, it should not be larger than {MOST_INPUTS}"
            )
        return None

    def _refuse_chat(self, body: Any) -> Whole | None:
        if not isinstance(body, dict):
            return self.refusal(400, "We could not parse the JSON body of your request.")
        if not isinstance(body.get("model"), str):
            return self.refusal(400, "you must provide a model parameter", param="model")
        if body["model"] not in self.models:
            return self.no_such_model(body["model"])
        problem = (
            messages_problem(body.get("messages"), _ROLES)
            or _content_problem(body)
            or history_problem(body["messages"])
        )
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
        if request.kind == "embeddings":
            return json_reply({} if empty else _embeddings(body))
        completion = self._completion(body, empty=empty)
        if not body.get("stream"):
            reply = json_reply(completion.whole())
            reply.pieces = len(completion.script.pieces)
            return reply
        end: tuple[ReplyPiece, ...] = (completion.finish({}), DONE)
        if self.counts_unasked or (body.get("stream_options") or {}).get("include_usage"):
            end = (end[0], completion.usage_event(), DONE)
        return Stream(completion.frames(self.call_deltas(completion.call, body)), end)

    def _listing(self) -> Object:
        about = {"object": "model", "created": 1735689600, "owned_by": "sandbox"}
        data = [{"id": name, **about} for name in self.models]
        return {"object": "list", "data": data}

    def _completion(self, body: Object, *, empty: bool) -> CompletionScript:
        messages = [
            {"role": message["role"], "content": _told(message.get("content"))}
            for message in body["messages"]
        ]
        reply = self.next_reply()
        if reply is None:
            reply = answer_to_format(body)
        stop = body.get("stop")
        script = write_script(
            reply,
            self.title,
            messages,
            empty=empty,
            max_tokens=body.get("max_completion_tokens") or body.get("max_tokens"),
            stop=[stop] if isinstance(stop, str) else stop,
        )
        calls = [] if empty else calls_of(body, script, last_user_text(messages))
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
            call=self._call(calls, as_tool="functions" not in body) if calls else None,
            call_finish="function_call" if "functions" in body else "tool_calls",
        )

    def call_deltas(self, call: Object | None, _body: Object, /) -> list[Object]:
        """Return each call in three deltas: the name first, then the arguments in two pieces."""
        if call is None:
            return []
        if "function_call" in call:
            return [{"function_call": part} for part in _three_deltas(call["function_call"])]
        deltas = []
        for index, one in enumerate(call["tool_calls"]):
            named, first, second = _three_deltas(one["function"])
            pieces = ({**one, "function": named}, {"function": first}, {"function": second})
            deltas += [{"tool_calls": [{"index": index, **piece}]} for piece in pieces]
        return deltas

    def call_id(self, _name: str, /) -> str:
        """Return the id of a call of the function of that name."""
        return f"call_{uuid.uuid4().hex[:24]}"

    def _call(self, calls: list[Object], *, as_tool: bool) -> Object:
        told = [
            {"name": call["name"], "arguments": json.dumps(call["arguments"], ensure_ascii=False)}
            for call in calls
        ]
        if not as_tool:
            return {"function_call": told[0]}
        return {
            "tool_calls": [
                {"id": self.call_id(one["name"]), "type": "function", "function": one}
                for one in told
            ]
        }

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


def _embeddings(body: Object) -> Object:
    """Return vectors, the last one first, so that clients have to sort them by index."""
    data = [
        {
            "object": "embedding",
            "index": index,
            "embedding": [byte / 255 for byte in hashlib.sha256(text.encode()).digest()],
        }
        for index, text in enumerate(body["input"])
    ]
    tokens = sum(map(count_words, body["input"]))
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return {"object": "list", "data": data[::-1], "model": body.get("model"), "usage": usage}


def _content_problem(body: Object) -> str | None:
    for message in body["messages"]:
        content = message.get("content")
        if content is None and message["role"] == "assistant":
            continue
        if plain_text(_without_images(content)) is None:
            return "the content of a message must be a string or a list of text and image items"
    return None


def _without_images(content: Any) -> Any:
    if not isinstance(content, list):
        return content
    return [item for item in content if _image_of(item) is None]


def _image_of(item: Any) -> str | None:
    """Return the address of an image item; None for any other."""
    about = item.get("image_url") if isinstance(item, dict) else None
    url = about.get("url") if isinstance(about, dict) else None
    return url if isinstance(url, str) else None


def _told(content: Any) -> str:
    """Return the text of a message, with the type and size of each image in its place."""
    words = [plain_text(_without_images(content or "")) or ""]
    for item in content if isinstance(content, list) else ():
        url = _image_of(item)
        if url is not None:
            kind, _, data = url.removeprefix("data:").partition(";base64,")
            size = f"{len(base64.b64decode(data))} bytes" if data else url
            words.append(f"[{kind if data else 'image'}, {size}]")
    return " ".join(filter(None, words))


def _three_deltas(called: Object) -> tuple[Object, Object, Object]:
    arguments = called["arguments"]
    middle = len(arguments) // 2
    return (
        {"name": called["name"], "arguments": ""},
        {"arguments": arguments[:middle]},
        {"arguments": arguments[middle:]},
    )
