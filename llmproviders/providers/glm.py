"""GLM: the official API of Zhipu (BigModel, Z.ai), a variant of OpenAI's protocol."""

from __future__ import annotations

from typing import Any

from .. import _environment as _environ
from .._account.keys import belongs_to
from .._request import ChatRequest
from ..errors import UnsupportedError
from ..provider import Catalogue
from .openai_compatible import OpenAICompatible

# Mainland China and other countries have separate keys and addresses.
_SITES = {
    "ZHIPUAI": "https://open.bigmodel.cn/api/paas/v4",
    "ZAI": "https://api.z.ai/api/paas/v4",
}

_WARMEST = 0.99

# The service does not accept a top_p of 0.
_NARROWEST = 0.01


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

    url = _SITES["ZHIPUAI"]
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
    }
    environment = {
        "api_key": tuple(f"{site}_API_KEY" for site in _SITES),
        "base_url": tuple(f"{site}_BASE_URL" for site in _SITES),
    }

    @classmethod
    def environment_of(cls, argument: str) -> tuple[str, ...]:
        """The variables for ``argument``; a key and a base address belong together."""
        names = super().environment_of(argument)
        others = set(_SITES) - {_site()}
        return tuple(n for n in names if not _site() or n.partition("_")[0] not in others)

    @classmethod
    def default_base_url(cls) -> str:
        """The address that the key in the environment belongs to."""
        return _SITES[_site() or "ZHIPUAI"]

    def variables_for(self, argument: str) -> tuple[str, ...]:
        """The same for an instance: with keys for both sites, the one for its address."""
        site = self._site_of_address()
        if argument == "api_key" and site is not None:
            return (f"{site}_API_KEY",)
        return super().variables_for(argument)

    def _homes(self, argument: str) -> list[str]:
        site = self._site_of_address()
        return super()._homes(argument) if site is None else _homes_of(site)

    def _site_of_address(self) -> str | None:
        """The site whose key is in the environment and whose address this is."""
        sites = (site for site in _SITES if _environ.lookup(f"{site}_API_KEY"))
        return next((one for one in sites if belongs_to(self.base_url, _homes_of(one))), None)

    def chat_params(self, request: ChatRequest) -> dict[str, Any]:
        """Parameters within the ranges that the service accepts.

        Raises:
            UnsupportedError: a function call is required, or there is no user message.
        """
        params = super().chat_params(request)
        if not any(message["role"] == "user" for message in request.messages):
            raise UnsupportedError(f"{self.name} needs a user message in the conversation")
        choice = params.pop("tool_choice", "auto")
        if choice == "none":
            params.pop("tools", None)
        elif choice != "auto":
            raise UnsupportedError(f'{self.name} only takes the tool_choice "auto"')
        if "tools" in params and request.stream:
            params["tool_stream"] = True
        for name in params.keys() & {"temperature", "top_p"}:
            params[name] = min(params[name], _WARMEST)
        if params.get("top_p") == 0:
            params["top_p"] = _NARROWEST
        if params.get("temperature") == 0:
            del params["temperature"]
            params["do_sample"] = False
        if stop := params.get("stop"):
            # The service refuses more than one.
            params["stop"] = [stop] if isinstance(stop, str) else list(stop)[:1]
        return params


def _homes_of(site: str) -> list[str]:
    """The addresses that the key of a site belongs to."""
    return [*filter(None, (_SITES[site], _environ.lookup(f"{site}_BASE_URL")))]


def _site() -> str | None:
    """The site whose key is in the environment."""
    return next((site for site in _SITES if _environ.lookup(f"{site}_API_KEY")), None)
