"""DeepSeek: OpenAI's protocol, with thoughts that must be sent back."""

from __future__ import annotations

from typing import Any

from .._http.types import HTTPRequest
from .._request import ChatRequest
from ..errors import UnsupportedError
from ..provider import Catalogue, Fetch
from .openai_compatible import OpenAICompatible

# The service has three levels; other services have more.
_EFFORTS = {"minimal": "low", "medium": "high", "xhigh": "max"}


class DeepSeek(OpenAICompatible):
    """DeepSeek's models.

    Args:
        api_key: ``DEEPSEEK_API_KEY``.

    Everything else is as in :class:`OpenAICompatible`. The model thinks unless
    ``extra_body={"thinking": {"type": "disabled"}}`` or ``reasoning_effort="none"``.

    >>> DeepSeek().get_model(None)
    'deepseek-flash'
    """

    url = "https://api.deepseek.com"
    api_endpoint = f"{url}/chat/completions"
    needs_auth = True
    supports_schema = False
    default_model = "deepseek-flash"
    embedding_model = None
    models = Catalogue("deepseek-flash", "deepseek-v4-pro")
    environment = {"api_key": ("DEEPSEEK_API_KEY",)}

    def chat_params(self, request: ChatRequest) -> dict[str, Any]:
        """The usual parameters, with the nearest reasoning effort that the service has.

        Raises:
            UnsupportedError: a function call is required while it thinks.
        """
        params = super().chat_params(request)
        effort = params.get("reasoning_effort")
        if effort == "none":
            del params["reasoning_effort"]
            params["thinking"] = {"type": "disabled"}
        elif effort in _EFFORTS:
            params["reasoning_effort"] = _EFFORTS[effort]
        asked = {**params, **(request.params.get("extra_body") or {})}
        thinking = asked.get("thinking") or {}
        if params.get("tool_choice", "auto") not in ("auto", "none") and (
            thinking.get("type") != "disabled"
        ):
            raise UnsupportedError(
                f'{self.name} only takes the tool_choice "auto" and "none" while it thinks; '
                'extra_body={"thinking": {"type": "disabled"}} keeps it from thinking'
            )
        return params

    def prepare(self, request: ChatRequest, fetch: Fetch) -> HTTPRequest:
        """Send the thoughts of each turn that called a tool, even if there were none."""
        call = super().prepare(request, fetch)
        for message in call.json["messages"]:
            if message.get("tool_calls"):
                message.setdefault("reasoning_content", "")
        return call
