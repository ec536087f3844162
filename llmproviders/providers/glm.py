"""GLM: the official API of Zhipu (BigModel, Z.ai), a variant of OpenAI's protocol."""

from __future__ import annotations

from typing import Any

from .._account.keys import Site
from .._request import ChatRequest
from ..errors import UnsupportedError
from ..provider import Catalogue
from ._chat_requests import TOOL_PARAMS, tool_choice
from .openai_compatible import OpenAICompatible

_COLDEST, _WARMEST = 0.01, 0.99


class GLM(OpenAICompatible):
    """Zhipu's GLM models.

    Args:
        api_key: ``ZHIPUAI_API_KEY``, with ``ZHIPUAI_BASE_URL``; or ``ZAI_API_KEY``, with
            ``ZAI_BASE_URL``, for accounts outside mainland China.
        base_url: default ``https://open.bigmodel.cn/api/paas/v4``, or
            ``https://api.z.ai/api/paas/v4`` if only ``ZAI_API_KEY`` is set.

    Everything else is as in :class:`OpenAICompatible`.

    >>> GLM().get_model(None)
    'glm-5.3'
    """

    # Mainland China and other countries have separate keys and addresses.
    sites = (
        Site("https://open.bigmodel.cn/api/paas/v4", "ZHIPUAI_API_KEY", "ZHIPUAI_BASE_URL"),
        Site("https://api.z.ai/api/paas/v4", "ZAI_API_KEY", "ZAI_BASE_URL"),
    )
    url = sites[0].url
    api_endpoint = f"{url}/chat/completions"
    needs_auth = True
    supports_schema = False
    default_model = "glm-5.3"
    embedding_model = "embedding-3"
    models = Catalogue(
        *("glm-5.3", "glm-5.3-flash", "glm-5.3-flashx", "glm-5.2", "glm-5.1", "glm-5", "glm-4.7"),
        *("glm-4.7-flash", "glm-4.6", "glm-4.6v-flash", "glm-4.5", "glm-4.5-air", "glm-4.5-flash"),
    )
    supported_params = OpenAICompatible.supported_params - {
        "presence_penalty",
        "frequency_penalty",
        "n",
        "max_completion_tokens",
    }
    environment = {
        "api_key": tuple(site.api_key for site in sites),
        "base_url": tuple(site.base_url for site in sites),
    }

    def check_supported(self, request: ChatRequest) -> None:
        """Refuse also a required function call, and a conversation without a user message."""
        super().check_supported(request)
        if not any(message["role"] == "user" for message in request.messages):
            raise UnsupportedError(f"{self.name} needs a user message in the conversation")
        if tool_choice(request.params) not in ("auto", "none"):
            raise UnsupportedError(f'{self.name} only takes the tool_choice "auto"')

    def chat_params(self, request: ChatRequest) -> dict[str, Any]:
        """Parameters within the ranges that the service accepts."""
        params = super().chat_params(request)
        if params.pop("tool_choice", "auto") == "none":
            for name in TOOL_PARAMS:
                params.pop(name, None)
        if "tools" in params and request.stream:
            params["tool_stream"] = True
        if params.get("temperature") == 0:
            del params["temperature"]
            params["do_sample"] = False
        for name in params.keys() & {"temperature", "top_p"}:
            # The service does not accept a top_p of 0.
            params[name] = min(params[name], _WARMEST) or _COLDEST
        if stop := params.get("stop"):
            # The service refuses more than one.
            params["stop"] = [stop] if isinstance(stop, str) else list(stop)[:1]
        return params
