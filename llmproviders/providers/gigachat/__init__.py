"""GigaChat, Sber's official service."""

from ..._http.types import UnverifiedTLSWarning
from ._provider import Balance, Embedding, GigaChat, TokenCount

__all__ = ["Balance", "Embedding", "GigaChat", "TokenCount", "UnverifiedTLSWarning"]
