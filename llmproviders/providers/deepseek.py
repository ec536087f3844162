"""DeepSeek: OpenAI's protocol, with thoughts that must be sent back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from .._http.types import HTTPRequest
from .._request import ChatRequest
from ..errors import UnsupportedError
from ..messages import calls_of
from ..provider import Catalogue, Fetch
from ._chat_requests import tool_choice
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
    supported_params = OpenAICompatible.supported_params - {"max_completion_tokens"}
    models = Catalogue("deepseek-flash", "deepseek-v4-pro")
    environment = {"api_key": ("DEEPSEEK_API_KEY",)}

    def check_supported(self, request: ChatRequest) -> None:
        """Refuse also a required function call while the model thinks."""
        super().check_supported(request)
        if tool_choice(request.params) not in ("auto", "none") and _thinks(request.params):
            raise UnsupportedError(
                f'{self.name} only takes the tool_choice "auto" and "none" while it thinks; '
                'extra_body={"thinking": {"type": "disabled"}} keeps it from thinking'
            )

    def chat_params(self, request: ChatRequest) -> dict[str, Any]:
        """The usual parameters, with the nearest reasoning effort that the service has."""
        params = super().chat_params(request)
        effort = params.get("reasoning_effort")
        if effort == "none":
            del params["reasoning_effort"]
            params["thinking"] = {"type": "disabled"}
        elif effort in _EFFORTS:
            params["reasoning_effort"] = _EFFORTS[effort]
        return params

    def prepare(self, request: ChatRequest, fetch: Fetch) -> HTTPRequest:
        """Send the thoughts of each turn that called a tool, even if there were none."""
        history = tuple(
            {**message, "reasoning_content": message.get("reasoning_content") or ""}
            if calls_of(message)
            else message
            for message in request.messages
        )
        return super().prepare(replace(request, messages=history), fetch)


def _thinks(params: Mapping[str, Any]) -> bool:
    thinking = params.get("extra_body", {}).get("thinking")
    if isinstance(thinking, Mapping):
        return thinking.get("type") != "disabled"
    return params.get("reasoning_effort") != "none"
