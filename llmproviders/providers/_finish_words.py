"""Services' words for why a reply ended: one table for all that use OpenAI's format."""

from __future__ import annotations

import re

from .._log import logger
from .._redact import redact

FINISH_WORDS: dict[str, tuple[str, ...]] = {
    "stop": (
        *("stop", "eos", "eos_token", "end", "end_turn", "end_of_turn", "stop_sequence"),
        *("stop_token", "stop_words", "stop_string", "stop_string_found", "eos_found", "endoftext"),
        *("end_of_text", "end_id", "complete", "completed", "done", "finish", "finished", "final"),
        *("normal",),
    ),
    "length": (
        *("length", "max_tokens", "max_output_tokens", "max_new_tokens", "max_completion_tokens"),
        *("max_length", "model_length", "model_context_window_exceeded", "context_length"),
        *("context_length_exceeded", "context_window_exceeded", "token_limit", "truncated"),
        *("truncated_final", "incomplete", "limit", "length_limit", "output_limit", "max_output"),
        *("context_limit", "max_context_length", "context_length_reached", "error_limit"),
        *("max_predicted_tokens_reached",),
    ),
    "content_filter": (
        *("content_filter", "content_filtered", "content_filter_stop", "filtered", "filter"),
        *("blacklist", "blocklist", "blocked", "sensitive", "safety", "image_safety", "refusal"),
        *("prohibited_content", "spii", "recitation", "moderation", "error_toxic", "intervene"),
        *(
            "guardrail_intervened",
            "content_policy",
            "content_policy_violation",
            "unsafe",
            "censored",
        ),
        *("moderated", "model_armor", "image_prohibited_content", "image_recitation"),
    ),
    "function_call": ("function_call",),
    "tool_calls": ("tool_calls", "tool_call", "tool_calling", "tool_use"),
}
"""Reason -> services' words for it, in any case."""


FAILED_WORDS = (
    *("error", "errored", "abort", "aborted", "cancel", "cancelled", "canceled", "user_cancel"),
    *("user_stopped", "timeout", "timed_out", "time_out", "time_limit", "request_timeout"),
    *("deadline_exceeded", "failed", "failure", "fail", "exception", "interrupted", "terminated"),
    *("killed", "preempted", "shutdown", "disconnected", "overloaded", "unavailable"),
    *("service_unavailable", "model_unloaded", "rate_limit", "insufficient_system_resource"),
    *("malformed_function_call", "malformed_tool_use", "malformed_model_output"),
    *("malformed_response", "function_call_filter", "unexpected_tool_call"),
    *("too_many_tool_calls", "missing_thought_signature"),
    *("network_error", "server_error", "internal_error", "internal_server_error", "system_error"),
    *("upstream_error", "stream_error", "provider_error", "engine_error", "unknown_error"),
)
"""Words for a failed reply; any other word that ends in ``error`` means the same."""


NO_WORDS = (
    *("", "null", "nil", "none", "undefined", "unspecified", "partial", "in_progress"),
    *("not_finished",),
)
"""Sent by some servers, even with every event, before there is a reason."""


_REASON_OF = {word: reason for reason, words in FINISH_WORDS.items() for word in words}

_HUMP = re.compile(r"(?<=[a-z])(?=[A-Z])")

# Prefixes of enumeration values: FinishReason.STOP, ALTERNATIVE_STATUS_FINAL.
_ENUMERATION = re.compile(r"^(finish_reason|stop_reason|alternative_status)[_.]")

_UNKNOWN_REMEMBERED = 100

_unknown_words: set[str] = set()


def reason_of(word: str) -> str | None:
    """The reason for a service's finish word; None if it means that the reply failed.

    >>> reason_of("MAX_TOKENS"), reason_of("endTurn"), reason_of("abort"), reason_of("hm")
    ('length', 'stop', None, 'other')
    """
    # Gemini adds details after a colon: "content_filter: RECITATION".
    known = _normal(word).partition(":")[0].strip("_")
    failed = known in FAILED_WORDS or known.endswith("error")
    return None if failed else _REASON_OF.get(known, "other")


def _normal(word: str) -> str:
    plain = _HUMP.sub("_", word.strip()).lower().replace("-", "_").replace(" ", "_")
    return _ENUMERATION.sub("", plain).strip("<|>")


def says_nothing(word: str) -> bool:
    """Whether a finish word means nothing, so that the reply goes on."""
    return _normal(word) in NO_WORDS


def tell_unknown(word: str) -> None:
    """Log an unknown finish word once."""
    if word not in _unknown_words and len(_unknown_words) < _UNKNOWN_REMEMBERED:
        _unknown_words.add(word)
        said = redact(word)
        logger.warning("a reply ended with the finish reason %.40r, which is not known", said)
