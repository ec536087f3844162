"""GigaChat, Sber's official service."""

from ..._http.certificates import UnverifiedTLSWarning
from ._provider import Balance, Embedding, GigaChat, TokenCount

__all__ = ["Balance", "Embedding", "GigaChat", "TokenCount", "UnverifiedTLSWarning"]
