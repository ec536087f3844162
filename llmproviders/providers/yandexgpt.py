"""YandexGPT: the OpenAI-compatible endpoint of Yandex AI Studio."""

from __future__ import annotations

import re
from typing import Any

from .._checks import boolean
from .._request import ChatRequest
from ..errors import MissingAuthError
from ..provider import Catalogue
from .openai_compatible import OpenAICompatible

# The list has models for vectors and speech too.
_CHATS = re.compile(r"gpt://(?!.*(speech|realtime))")


class YandexGPT(OpenAICompatible):
    """The models of Yandex AI Studio.

    Args:
        api_key: an API key of a service account; ``YC_API_KEY`` or ``YANDEX_CLOUD_API_KEY``.
        folder_id: the folder whose models are used and which is billed; ``YC_FOLDER_ID`` or
            ``YANDEX_CLOUD_FOLDER``.
        data_logging: False keeps prompts and replies out of the service's logs.
        max_concurrency: the most requests at a time in this process for one key; the service allows
            ten per organization.
        **options: as for :class:`OpenAICompatible`.

    A model is a name, or a full address such as ``gpt://<folder>/yandexgpt-5.1/latest``.

    >>> YandexGPT(folder_id="b1g").get_model("yandexgpt-5-lite")
    'gpt://b1g/yandexgpt-5-lite/latest'
    """

    url = "https://ai.api.cloud.yandex.net/v1"
    api_endpoint = f"{url}/chat/completions"
    needs_auth = True
    default_model = "yandexgpt-5.1"
    embedding_model = "text-search-doc"
    models = Catalogue(
        *("yandexgpt-5.1", "yandexgpt-5-pro", "yandexgpt-5-lite", "aliceai-llm"),
        *("aliceai-llm-flash", "qwen3-235b-a22b-fp8", "gpt-oss-120b"),
    )
    supported_params = OpenAICompatible.supported_params - {"stop", "seed"}
    environment = {
        "api_key": ("YC_API_KEY", "YANDEX_CLOUD_API_KEY"),
        "folder_id": ("YC_FOLDER_ID", "YANDEX_CLOUD_FOLDER"),
    }

    def __init__(
        self,
        *,
        folder_id: str | None = None,
        data_logging: bool = True,
        max_concurrency: int | None = 10,
        **options: Any,
    ) -> None:

        super().__init__(max_concurrency=max_concurrency, **options)
        self.folder_id = self._setting("folder_id", folder_id)
        self.data_logging = boolean("data_logging", data_logging)

    def get_model(self, name: str | None) -> str:
        """The full address of a model.

        Raises:
            MissingAuthError: there is no folder to put into it.
        """
        model = super().get_model(name)
        return model if "://" in model else self._in_folder("gpt", model)

    def _in_folder(self, scheme: str, model: str) -> str:
        if self.folder_id is None:
            variables = " or ".join(self.environment_of("folder_id"))
            raise MissingAuthError(
                f"{self.name} needs the id of a folder: set {variables} or pass folder_id="
            )
        version = "" if "/" in model else "/latest"
        return f"{scheme}://{self.folder_id}/{model}{version}"

    def _embedding_name(self, model: str | None) -> str:
        """The full address of a model that makes vectors."""
        name = super()._embedding_name(model)
        return name if "://" in name else self._in_folder("emb", name)

    def identity(self) -> list[Any]:
        """Also the folder, which may have models of its own."""
        return [*super().identity(), self.folder_id]

    def how_to_send(self, request: ChatRequest) -> dict[str, Any]:
        """Ask for a stream or the whole reply; a stream reports its usage unasked."""
        return {"stream": request.stream}

    def list_models(self) -> list[str]:
        """The addresses of the models for chats."""
        return [name for name in super().list_models() if _CHATS.match(name)]

    def _headers(self) -> dict[str, str]:
        headers = super()._headers()
        if self.folder_id is not None:
            headers["OpenAI-Project"] = self.folder_id
        if not self.data_logging:
            headers["x-data-logging-enabled"] = "false"
        return headers
