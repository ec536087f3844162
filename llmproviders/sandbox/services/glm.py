"""GLM: OpenAI's protocol with Zhipu's own refusals and error codes."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from llmproviders.sandbox._reply import Whole, json_reply
from llmproviders.sandbox.services._completions import Object
from llmproviders.sandbox.services.openai_compatible import OpenAICompatibleService, chat_routes

_CODES = {400: "1210", 401: "1000", 402: "1113", 404: "1211", 429: "1302"}

_STATUSES = {402: 429, 404: 400}
"""What the service sends for other statuses."""


class GLMService(OpenAICompatibleService):
    """Refuses what GLM refuses: any choice but auto, two stop strings, a schema, ..."""

    name = "glm"
    class_name = "GLM"
    title = "GLM"
    base_path = "/api/paas/v4"
    routes: ClassVar = chat_routes(base_path)
    api_key = "5f1c9b6e0d3a4a27.sandboxglm"
    dialect: ClassVar = replace(
        OpenAICompatibleService.dialect,
        finish={"stop": "stop", "length": "length", "filter": "sensitive"},
    )

    @property
    def models(self) -> tuple[str, ...]:
        """The models that the service has, the first one the default."""
        return ("glm-5.3", "glm-5.3-flash", "glm-4.7-flash")

    def environ(self, url: str) -> dict[str, str]:
        """Return the key with its own base address."""
        return {
            "ZHIPUAI_BASE_URL": url + self.base_path,
            "ZHIPUAI_API_KEY": self.api_key,
        }

    def refuse_more(self, body: Object, /) -> Whole | None:
        """Return an error with Zhipu's codes 1210 to 1214."""
        if body.get("tool_choice", "auto") != "auto":
            return self.refusal(400, "tool_choice only supports auto")
        stop = body.get("stop")
        if stop is not None and not (isinstance(stop, list) and len(stop) <= 1):
            return self.refusal(400, "stop must be a list with one string at most")
        for name, least in (("temperature", 0), ("top_p", 0.01)):
            if not least <= body.get(name, 0.5) <= 1:
                return self.refusal(400, f"{name} is out of range")
        if body.get("temperature") == 0:
            return self.refusal(400, "temperature must be above 0; use do_sample")
        if (body.get("response_format") or {}).get("type") == "json_schema":
            return self.refusal(400, "response_format.type must be text or json_object")
        if body.keys() & {"presence_penalty", "frequency_penalty"}:
            return self.refusal(400, "penalties are not taken")
        if all(message["role"] != "user" for message in body["messages"]):
            return self.refusal(400, "messages must have a user message", code="1214")
        return None

    def call_deltas(self, call: Object | None, body: Object, /) -> list[Object]:
        """Return calls in pieces where ``tool_stream`` is set, else each of them whole."""
        calls = (call or {}).get("tool_calls")
        if calls is None or body.get("tool_stream"):
            return super().call_deltas(call, body)
        return [{"tool_calls": [{"index": index, **one}]} for index, one in enumerate(calls)]

    def refusal(
        self, status: int, message: str, *, param: str | None = None, code: str | None = None
    ) -> Whole:
        """Return ``{"error": {"code", "message"}}`` with a code of Zhipu's."""
        known = code if code and code.isdigit() else _CODES.get(status, "1234")
        error = {"code": known, "message": message}
        return json_reply({"error": error}, status=_STATUSES.get(status, status))
