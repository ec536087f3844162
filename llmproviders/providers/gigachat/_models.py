"""The service's models: which one stands in for one that is gone, and on which host one lives."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import urlsplit

# Models that only one of the two hosts has.
_HOMES = {"gigachat-3-ultra": "https://api.giga.chat/v1"}


def home_of(model: str, base_url: str) -> str | None:
    """Where a model lives, if that is another host than the one of ``base_url``."""
    for name, home in _HOMES.items():
        if model.lower().startswith(name) and urlsplit(base_url)[1] != urlsplit(home)[1]:
            return f"{model} is on {home}: set base_url or GIGACHAT_BASE_URL to it"
    return None


def stand_in(models: list[dict[str, Any]], gone: str) -> str | None:
    """The first model for chats of the tier of ``gone``, the service's own before others.

    A dearer one is never taken unasked.
    """
    names = [
        model["id"]
        for model in models
        if model.get("type", "chat") == "chat"
        and "embed" not in model["id"].lower()
        and model["id"] != gone
        and _tier(model["id"]) == _tier(gone)
    ]
    own = [name for name in names if name.lower().startswith("gigachat")]
    return next(iter(own or names), None)


def _tier(model: str) -> str:
    """What a model costs: ``"ultra"``, ``"max"``, ``"pro"`` or "", the cheapest."""
    found = re.search(r"(?<![a-z])(ultra|max|pro)(?![a-z])", model.lower())
    return found[1] if found else ""
