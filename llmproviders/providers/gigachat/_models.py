"""The service's models: replacements for removed ones, and which host has which."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import urlsplit

# Models available on only one of the two hosts.
_HOMES = {"gigachat-3-ultra": "https://api.giga.chat/v1"}


def home_of(model: str, base_url: str) -> str | None:
    """The host of a model, if it differs from that of ``base_url``."""
    for name, home in _HOMES.items():
        if model.lower().startswith(name) and urlsplit(base_url)[1] != urlsplit(home)[1]:
            return f"{model} is on {home}: set base_url or GIGACHAT_BASE_URL to it"
    return None


def stand_in(models: list[dict[str, Any]], gone: str) -> str | None:
    """The first chat model in the tier of ``gone``, preferring the service's own.

    A more expensive one is never chosen automatically.
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
    """The price tier of a model: ``"ultra"``, ``"max"``, ``"pro"`` or "", the cheapest."""
    found = re.search(r"(?<![a-z])(ultra|max|pro)(?![a-z])", model.lower())
    return found[1] if found else ""
