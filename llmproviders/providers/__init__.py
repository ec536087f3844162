"""The providers that there are: a line each, by the name that commands and configuration use."""

from __future__ import annotations

from ..provider import Provider
from .chatglm import ChatGLM
from .chatgptt import ChatGptt
from .deepseek import DeepSeek
from .flowgpt import FlowGpt
from .gigachat._provider import GigaChat
from .glm import GLM
from .openai_compatible import OpenAICompatible
from .yandexgpt import YandexGPT

REGISTRY: dict[str, type[Provider]] = {
    "chatglm": ChatGLM,
    "chatgptt": ChatGptt,
    "flowgpt": FlowGpt,
    "gigachat": GigaChat,
    "openaicompatible": OpenAICompatible,
    "glm": GLM,
    "yandexgpt": YandexGPT,
    "deepseek": DeepSeek,
}
ALIASES = {"openai": "openaicompatible"}


def find(name: str) -> type[Provider] | None:
    """The provider of that name, in any case, with or without dashes; None if there is none.

    >>> find("OpenAI-Compatible").__name__
    'OpenAICompatible'
    """
    key = name.lower().replace("-", "").replace("_", "")
    return REGISTRY.get(ALIASES.get(key, key))
