"""YandexGPT: OpenAI's protocol with folders, model addresses and gRPC errors."""

from __future__ import annotations

from typing import Any, ClassVar

from llmproviders.sandbox._record import RecordedRequest
from llmproviders.sandbox._reply import SandboxReply, Stream, Whole, json_reply, phrase
from llmproviders.sandbox.services._completions import Object, is_finish
from llmproviders.sandbox.services.openai_compatible import OpenAICompatibleService, chat_routes

FOLDER = "b1gsandbox5f1c9b6e0d"

_GRPC = {400: 3, 401: 16, 403: 7, 404: 5, 429: 8, 500: 13, 501: 12, 503: 14, 504: 4}

_NAMES = ("yandexgpt-5.1", "yandexgpt-5-lite", "aliceai-llm")


class YandexGPTService(OpenAICompatibleService):
    """Refuses a short model, ``stop``, ``seed`` and ``stream_options``.

    A model named Alice gives no finish reason when it is offered tools, and the id of a call
    is its function's name.
    """

    name = "yandexgpt"
    class_name = "YandexGPT"
    title = "YandexGPT"
    base_path = "/yandex/v1"
    routes: ClassVar = chat_routes(base_path)
    api_key = "AQVNsandbox5f1c9b6e0d3a4a27"
    counts_unasked = True

    @property
    def models(self) -> tuple[str, ...]:
        """The addresses of the models, the first one the default."""
        return tuple(f"gpt://{FOLDER}/{name}/latest" for name in _NAMES)

    def arguments(self, url: str) -> dict[str, Any]:
        """Return the address, the key and the folder."""
        return {
            "base_url": url + self.base_path,
            "api_key": self.api_key,
            "folder_id": FOLDER,
        }

    def environ(self, url: str) -> dict[str, str]:
        """Return the same as variables."""
        return {
            "LLMPROVIDERS_YANDEXGPT_BASE_URL": url + self.base_path,
            "YC_API_KEY": self.api_key,
            "YC_FOLDER_ID": FOLDER,
        }

    def call_id(self, name: str, /) -> str:
        """Return the function's name, so that two calls of one function have the same id."""
        return name

    def no_such_model(self, model: str) -> Whole:
        """Return the error for a model that is not an address, or does not exist."""
        if not model.startswith("gpt://"):
            return self.refusal(400, "Failed to parse model URI")
        return self.refusal(404, f"Failed to get model {model}")

    def refuse_more(self, body: Object, /) -> Whole | None:
        """Return an error that names a field that the service does not take."""
        for name in ("stop", "seed", "stream_options"):
            if name in body:
                return self.refusal(400, f"{name} is not supported")
        return None

    def answer(self, request: RecordedRequest, *, empty: bool) -> SandboxReply:
        """Return the usual reply, without a finish reason if the model is Alice."""
        reply = super().answer(request, empty=empty)
        if request.kind == "models" and isinstance(reply, Whole) and not empty:
            others = [f"emb://{FOLDER}/text-search-doc/latest", f"gpt://{FOLDER}/speech-realtime"]
            data = [{"id": name, "object": "model"} for name in (*self.models, *others)]
            return json_reply({"object": "list", "data": data})
        if (
            isinstance(reply, Stream)
            and "alice" in request.json["model"]
            and "tools" in request.json
        ):
            reply.end = tuple(piece for piece in reply.end if not is_finish(piece))
        return reply

    def refusal(
        self, status: int, message: str, *, param: str | None = None, code: str | None = None
    ) -> Whole:
        """Return an error in the form of a gRPC gateway."""
        error = {
            "grpcCode": _GRPC.get(status, 2),
            "httpCode": status,
            "message": message,
            "httpStatus": phrase(status),
            "details": [],
        }
        return json_reply({"error": error}, status=status)
