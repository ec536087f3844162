"""GigaChat, Sber's official service."""

from ..._http.types import UnverifiedTLSWarning
from ._answers import Balance, Embedding, TokenCount, UploadedFile
from ._provider import GigaChat

__all__ = [
    "Balance",
    "Embedding",
    "GigaChat",
    "TokenCount",
    "UnverifiedTLSWarning",
    "UploadedFile",
]
