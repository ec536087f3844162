"""GigaChat, Sber's official service."""

from ..._http.types import UnverifiedTLSWarning
from ...results import Embedding
from ._answers import Balance, TokenCount, UploadedFile
from ._provider import GigaChat

__all__ = [
    "Balance",
    "Embedding",
    "GigaChat",
    "TokenCount",
    "UnverifiedTLSWarning",
    "UploadedFile",
]
