"""Call language models from ordinary, blocking Python, with failover."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ._version import __version__ as __version__

if TYPE_CHECKING:
    from ._account.usage import usage
    from .cache import Cached
    from .errors import (
        AllProvidersFailed,
        Attempt,
        AuthenticationError,
        BlockedError,
        ConnectionFailed,
        DeadlineExceeded,
        EmptyReplyError,
        InvalidRequestError,
        LLMError,
        MissingAuthError,
        ModelNotFoundError,
        ProtocolError,
        ProviderTimeout,
        QuotaExceededError,
        RateLimitError,
        RefusedError,
        RejectedReplyError,
        SchemaError,
        ServerError,
        StreamInterrupted,
        UnsupportedError,
    )
    from .failover._client import FailoverClient
    from .provider import Provider
    from .providers.chatglm import ChatGLM
    from .providers.chatgptt import ChatGptt
    from .providers.deepseek import DeepSeek
    from .providers.flowgpt import FlowGpt
    from .providers.gigachat._provider import GigaChat
    from .providers.glm import GLM
    from .providers.openai_compatible import OpenAICompatible
    from .providers.yandexgpt import YandexGPT
    from .results import Attempts, Completion, FinishReason, Reasoning, Restart, Usage


__all__ = [
    "GLM",
    "AllProvidersFailed",
    "Attempt",
    "Attempts",
    "AuthenticationError",
    "BlockedError",
    "Cached",
    "ChatGLM",
    "ChatGptt",
    "Completion",
    "ConnectionFailed",
    "DeadlineExceeded",
    "DeepSeek",
    "EmptyReplyError",
    "FailoverClient",
    "FinishReason",
    "FlowGpt",
    "GigaChat",
    "InvalidRequestError",
    "LLMError",
    "MissingAuthError",
    "ModelNotFoundError",
    "OpenAICompatible",
    "ProtocolError",
    "Provider",
    "ProviderTimeout",
    "QuotaExceededError",
    "RateLimitError",
    "Reasoning",
    "RefusedError",
    "RejectedReplyError",
    "Restart",
    "SchemaError",
    "ServerError",
    "StreamInterrupted",
    "UnsupportedError",
    "Usage",
    "YandexGPT",
    "usage",
]

_HOMES = {
    "Cached": "cache",
    "FailoverClient": "failover",
    "usage": "_account.usage",
    "Provider": "provider",
    **dict.fromkeys(("ChatGLM", "ChatGptt", "DeepSeek", "FlowGpt"), "providers"),
    **dict.fromkeys(("GLM", "GigaChat", "OpenAICompatible", "YandexGPT"), "providers"),
    **dict.fromkeys(
        ("Attempt", "Attempts", "Completion", "FinishReason", "Reasoning", "Restart", "Usage"),
        "results",
    ),
}
"""Public name -> its module, if that is not ``errors``."""

_FOR_USERS = ("batch", "conversation", "errors", "notebook", "providers", "sandbox", "testing")
"""The modules that users import from."""

_MODULES = (*_FOR_USERS, "failover", "messages", "provider", "results")


def __getattr__(name: str) -> object:
    """Load a public name when it is first used; none costs anything before that."""
    if name in _MODULES:
        return import_module(f"{__name__}.{name}")
    if name in __all__:
        value = getattr(import_module(f"{__name__}.{_HOMES.get(name, 'errors')}"), name)
    elif name[:1].isupper():  # __path__ and the like are looked up before any provider
        value = import_module(f"{__name__}.providers").__getattr__(name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, *_FOR_USERS, "__version__"])


def load_ipython_extension(ipython: Any) -> None:
    """Register the magics ``%%llm`` and ``%llm_config``; IPython calls this for ``%load_ext``."""
    from .notebook._magic import load

    load(ipython)
