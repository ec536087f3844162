"""What to say about a name that is not known: where it belongs, or what it is called here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

from .._checks import nearest

Place = Literal["call", "provider", "client"]


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_CALL = _words(
    "accept attach extra_body extra_headers frequency_penalty function_call functions "
    "max_completion_tokens max_tokens n parallel_tool_calls presence_penalty profanity_check "
    "reasoning reasoning_effort repetition_penalty response_format schema seed session_id stop "
    "system temperature tool_choice tools top_p"
)

_PROVIDER = _words(
    "access_token api_key auth_url base_url ca_bundle cert data_logging folder_id headers limits "
    "password per_day per_minute scope session think_tags token_cache trust "
    "update_interval verify"
)

_CLIENT = _words(
    "attempts cooldown deadline failure_threshold fall_through first_chunk_timeout health "
    "hedge_after max_retry_after on_event on_interrupt on_length retry wait"
)

_EITHER = frozenset({"model", "proxy", "timeout"})

# Fields that some services know, so that another spelling is not what was meant.
_FIELDS = _words(
    "audio best_of chat_template_kwargs do_sample enable_search enable_thinking guided_choice "
    "guided_json guided_regex keep_alive logit_bias logprobs metadata min_p modalities num_ctx "
    "options prediction prompt_cache_key safety_identifier service_tier store think thinking "
    "thinking_budget top_a top_k top_logprobs typical_p user verbosity web_search "
    "web_search_options"
)


def _each(names: str, meant: str) -> dict[str, str]:
    return dict.fromkeys(names.split(), meant)


# What other libraries call it -> what it is called here.
_OTHER_NAMES: Mapping[Place, Mapping[str, str]] = {
    "call": {
        "proxies": "proxy",
        "request_timeout": "timeout",
        "random_seed": "seed",
        **_each("headers default_headers", "extra_headers"),
        **_each("function functions_list", "tools"),
        **_each("image images image_url image_urls file files attachment attachments", "attach"),
        **_each("max_output_tokens max_new_tokens max_tokens_to_sample num_predict", "max_tokens"),
        **_each("stop_sequences stop_words stops", "stop"),
        **_each("system_prompt system_message system_instruction instructions", "system"),
        **_each(
            "response_model response_schema output_schema output_type json_schema text_format",
            "schema",
        ),
    },
    "provider": {
        "proxies": "proxy",
        "model_name": "model",
        "request_timeout": "timeout",
        "max_concurrent": "max_concurrency",
        **_each("credentials key apikey token auth openai_api_key authorization", "api_key"),
        **_each("api_base endpoint host openai_api_base azure_endpoint api_endpoint", "base_url"),
        **_each("http_client requests_session", "session"),
        **_each("verify_ssl verify_ssl_certs ssl_verify", "verify"),
        **_each("ca_bundle_file ca_file cafile ca_cert ca_certs", "ca_bundle"),
        **_each("default_headers extra_headers", "headers"),
    },
    "client": _each("max_retries retries num_retries max_attempts", "attempts"),
}

_FIRST = "; the messages are the first argument, as in complete([...])"
_WORKERS = "; the limit of a batch is workers=, that of a provider max_concurrency="

_ADVICE: Mapping[Place, Mapping[str, str]] = {
    "call": {
        "stream_options": "; leave it out: the usage comes by itself",
        **_each("messages input contents question", "messages"),
        **_each("max_concurrency concurrency workers max_workers", "workers"),
        **_each("max_retries retries num_retries", "attempts"),
    },
    "provider": {
        "organization": '; pass headers={"OpenAI-Organization": ...}',
        "project": '; pass headers={"OpenAI-Project": ...}',
        "default_query": "; put the query into base_url, behind a question mark",
        **_each("max_retries retries num_retries", "attempts"),
    },
    "client": {},
}

_SENTENCES = {
    "messages": _FIRST,
    "workers": _WORKERS,
    "attempts": "; attempts= is an argument of FailoverClient",
}


def about_unknown(name: str, known: Iterable[str], place: Place) -> str | None:
    """What to do about a name that is none of ``known``; None if nothing similar is known.

    Args:
        name: the unknown name.
        known: the names that are valid there.
        place: where it was given: to a call, a provider, or a ``FailoverClient``.

    >>> about_unknown("top_k", ["top_p"], "call")
    "; if the service knows it, pass extra_body={'top_k': ...}"
    >>> about_unknown("proxies", ["proxy"], "provider")
    '; did you mean proxy?'
    """
    known = list(known)
    same = _OTHER_NAMES[place].get(name)
    if same is not None and (same in known or place == "call"):
        return f"; did you mean {same}?"
    advice = _ADVICE[place].get(name)
    if advice is not None:
        return _SENTENCES.get(advice, advice)
    if name in _FIELDS:
        which = "" if place == "call" else " to the call"
        return f"; if the service knows it, pass extra_body={{{name!r}: ...}}{which}"
    found = _place_of(name, place)
    if found is not None:
        return found
    near = _close(name, known)
    return f"; did you mean {near!r}?" if near else None


def _place_of(name: str, place: Place) -> str | None:
    """Where a name belongs instead."""
    if place != "call" and name in _CALL:
        return f"; pass it to the call, as in complete(..., {name}=...)"
    if place != "client" and name in _CLIENT:
        return "; it is an argument of FailoverClient"
    if place != "provider" and name in _PROVIDER:
        return "; it is an argument of the provider"
    if place == "client" and name in _EITHER:
        return "; it is an argument of a provider, or of the call"
    if place == "client" and (same := _OTHER_NAMES["provider"].get(name)):
        return f"; {same}= is an argument of the provider"
    if place != "call" and (same := _OTHER_NAMES["call"].get(name)):
        return f"; pass {same}= to the call"
    return None


def _close(name: str, known: Iterable[str]) -> str | None:
    """The known name that ``name`` misspells or begins."""
    known = list(known)
    begun = [one for one in known if len(name) > 2 and one.startswith(name.lower())]
    return nearest(name, known, cutoff=0.75) or (begun[0] if len(begun) == 1 else None)
