"""Call language models from ordinary, blocking Python, with failover."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from .errors import (
    AllProvidersFailed,
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
    ServerError,
    StreamInterrupted,
)
from .failover import FailoverClient
from .provider import Provider
from .providers.chatglm import ChatGLM
from .providers.chatgptt import ChatGptt
from .providers.flowgpt import FlowGpt
from .providers.gigachat import GigaChat
from .providers.openai_compatible import OpenAICompatible
from .results import Attempt, Attempts, Completion, FinishReason, Restart, Usage

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

__version__ = "1.0.0rc1"

__all__ = [
    "AllProvidersFailed",
    "Attempt",
    "Attempts",
    "AuthenticationError",
    "BlockedError",
    "ChatGLM",
    "ChatGptt",
    "Completion",
    "ConnectionFailed",
    "DeadlineExceeded",
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
    "RefusedError",
    "RejectedReplyError",
    "Restart",
    "ServerError",
    "StreamInterrupted",
    "Usage",
]

logging.getLogger(__name__).addHandler(logging.NullHandler())


def load_ipython_extension(ipython: InteractiveShell) -> None:
    """Give an IPython the magics ``%%llm`` and ``%llm_config``; for ``%load_ext llmproviders``."""
    from .notebook._magic import load

    load(ipython)
