"""DeepSeek: OpenAI's protocol; it needs thoughts sent back, and sends empty lines while waiting."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

from llmproviders.sandbox._record import RecordedRequest
from llmproviders.sandbox._reply import SandboxReply, Whole
from llmproviders.sandbox._script import plain_text
from llmproviders.sandbox.services._completions import Object
from llmproviders.sandbox.services.openai_compatible import OpenAICompatibleService, chat_routes


class DeepSeekService(OpenAICompatibleService):
    """Refuses a schema, a required call, and a turn with calls but without its thoughts."""

    name = "deepseek"
    class_name = "DeepSeek"
    title = "DeepSeek"
    base_path = "/deepseek"
    routes: ClassVar = {
        target: kind for target, kind in chat_routes(base_path).items() if kind != "embeddings"
    }
    api_key = "sk-sandbox-deepseek-5f1c9b6e"
    dialect: ClassVar = replace(OpenAICompatibleService.dialect, keep_alive=b": keep-alive\n\n")

    @property
    def models(self) -> tuple[str, ...]:
        """The models that the service has, the first one the default."""
        return ("deepseek-flash", "deepseek-v4-pro")

    def environ(self, url: str) -> dict[str, str]:
        """Return the key and the base address."""
        return {
            "LLMPROVIDERS_DEEPSEEK_BASE_URL": url + self.base_path,
            "DEEPSEEK_API_KEY": self.api_key,
        }

    def no_such_model(self, _model: str, /) -> Whole:
        """Return the service's 400 for an unknown model."""
        return self.refusal(400, "Model Not Exist", code="invalid_request_error")

    def refuse_more(self, body: Object, /) -> Whole | None:
        """Return the 400 for a request that only this service refuses; None if it does not."""
        if any(
            message.get("tool_calls") and "reasoning_content" not in message
            for message in body["messages"]
        ):
            return self.refusal(400, "Missing `reasoning_content` field in the assistant message")
        thinks = (body.get("thinking") or {}).get("type", "enabled") == "enabled"
        if thinks and body.get("tool_choice", "auto") not in ("auto", "none"):
            return self.refusal(400, "Thinking mode does not support this tool_choice")
        if body.get("reasoning_effort", "high") not in ("low", "high", "max"):
            return self.refusal(
                400, "unknown variant of reasoning_effort: expected low, high or max"
            )
        form = (body.get("response_format") or {}).get("type", "text")
        if form == "json_schema":
            return self.refusal(400, "This response_format type is unavailable now")
        if form == "json_object" and not any(map(_speaks_of_json, body["messages"])):
            message = "Prompt must contain the word 'json' in some form to use 'json_object'"
            return self.refusal(400, message)
        return None

    def answer(self, request: RecordedRequest, *, empty: bool) -> SandboxReply:
        """Return a reply; a whole one begins with the empty lines sent while waiting."""
        reply = super().answer(request, empty=empty)
        if isinstance(reply, Whole):
            reply.body = b"\n\n" + reply.body
        return reply


def _speaks_of_json(message: Mapping[str, Any]) -> bool:
    return "json" in (plain_text(message.get("content")) or "").lower()
