"""Call language models from ordinary, blocking Python, with failover."""

from __future__ import annotations

import logging

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
from .results import Attempt, Completion, FinishReason, Restart, Usage

__version__ = "1.0.0rc1"

__all__ = [
    "AllProvidersFailed",
    "Attempt",
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
