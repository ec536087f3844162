"""The sandbox's services, one line each, in the default order of `Sandbox.client`."""

from __future__ import annotations

from llmproviders.sandbox.services._base import Service
from llmproviders.sandbox.services.chatglm import ChatGLMService
from llmproviders.sandbox.services.chatgptt import ChatGpttService
from llmproviders.sandbox.services.deepseek import DeepSeekService
from llmproviders.sandbox.services.flowgpt import FlowGptService
from llmproviders.sandbox.services.gigachat import GigaChatService
from llmproviders.sandbox.services.glm import GLMService
from llmproviders.sandbox.services.openai_compatible import OpenAICompatibleService
from llmproviders.sandbox.services.yandexgpt import YandexGPTService

SERVICES: tuple[type[Service], ...] = (
    GigaChatService,
    OpenAICompatibleService,
    ChatGLMService,
    ChatGpttService,
    FlowGptService,
    GLMService,
    YandexGPTService,
    DeepSeekService,
)
