"""What a sandbox was told at its start, as its services see it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

SLICE_S = 0.2
"""No wait is longer in one go: of a signal that comes just before one, Python learns after it."""


Message = dict[str, Any]
"""One message of a conversation: ``role`` and ``content``, the content as plain text."""


ReplyText = str | Callable[[list[Message]], str] | None
"""A text for every reply, a function of the messages, or None for the sandbox's own words."""


@dataclass(frozen=True)
class Settings:
    """The settings of one sandbox, each explained at `Sandbox`."""

    reply: ReplyText
    piece_delay_s: float
    compress: bool
    chunked: bool
    clock: Callable[[], float]
    gigachat_scope: str
    gigachat_max_concurrency: int
    gigachat_token_life_s: float
    gigachat_models: tuple[str, ...]
    openai_models: tuple[str, ...]
    chatgptt_streams: bool
    chatgptt_nonce_life_s: float
