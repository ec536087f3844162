"""The sampling parameters that callers may pass to any provider."""

from __future__ import annotations

TYPE_CHECKING = False

if TYPE_CHECKING:
    from collections.abc import Iterable

SAMPLING = frozenset(
    {
        "temperature",
        "top_p",
        "max_tokens",
        "stop",
        "seed",
        "n",
        "presence_penalty",
        "frequency_penalty",
        "repetition_penalty",
        "functions",
        "function_call",
        "tools",
        "tool_choice",
        "response_format",
        "profanity_check",
    }
)
KNOWN = SAMPLING | {"system", "extra_body", "session_id", "reasoning"}


def check_names(names: Iterable[str]) -> None:
    """Raise a ``TypeError`` that names the nearest parameter, for the first unknown one."""
    for name in names:
        if name not in KNOWN:
            near = nearest(name, KNOWN)
            hint = f"; did you mean {near!r}?" if near else ""
            raise TypeError(f"unknown parameter {name!r}{hint}")


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The one of ``known`` that looks most like ``name``, if any does."""
    from difflib import get_close_matches

    by_lower = {candidate.lower(): candidate for candidate in known}
    found = get_close_matches(name.lower(), by_lower, n=1, cutoff=0.5)
    return by_lower[found[0]] if found else None
