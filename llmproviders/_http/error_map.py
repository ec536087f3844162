"""How long a service asks to wait, in every form that services write it."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta, timezone
from email.utils import parsedate_to_datetime
from itertools import islice
from typing import Any, NamedTuple

from .. import errors
from .._log import logger
from .._redact import redact
from .._signals import let_through
from .types import HTTPRequest, HTTPResponse

_LONGEST_S = 7 * 24 * 3600.0

_NUMBER = re.compile(r"[0-9]{1,18}(\.[0-9]{0,18})?")


# Patterns are compiled when they are first used: most processes never meet an error that asks to
# wait, and compiling takes longer than importing this module.
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}

_AMOUNT = r"[0-9]{1,9}(?:\.[0-9]{0,9})?"

_UNIT = r"(?:ms|milliseconds?|s|secs?|seconds?|m|mins?|minutes?|h|hrs?|hours?|d|days?)(?![a-z])"

_PART = rf"({_AMOUNT})\s*({_UNIT})"

_DURATION = rf"{_AMOUNT}\s*{_UNIT}(?:\s*,?\s*(?:and\s+)?{_AMOUNT}\s*{_UNIT}){{0,4}}"

_IN_WORDS = rf"\b(?:try again|retry|wait|again|resets?|available)\b[^0-9\n]{{0,30}}?({_DURATION})"

_ISO_DATE = (
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})[T ]([0-9]{2}:[0-9]{2}:[0-9]{2})(\.[0-9]+)?\s*"
    r"(Z|UTC|GMT|[+-][0-9]{2}:?[0-9]{2})?"
)

_RESET_AT = (rf"\breset[^0-9\n]{{0,20}}({_ISO_DATE})", rf"({_ISO_DATE})\s*重置")

_BEIJING = timezone(timedelta(hours=8))


def parse_retry_after(headers: Mapping[str, str], *, now: float) -> float | None:
    """Seconds that a reply asks to wait, or None.

    Reads ``retry-after-ms`` (milliseconds), else ``Retry-After`` in any form that
    :func:`parse_wait` knows. Dates are counted from the reply's own ``Date``, so that a wrong
    clock on either side does no harm. Nonsense, negative and absurd (over a week) values are None.
    Source: RFC 9110, 10.2.3.

    Args:
        headers: the reply's headers, looked up without regard to case.
        now: Unix time in seconds, for a reply without ``Date``.

    >>> parse_retry_after({"retry-after-ms": "1500"}, now=0)
    1.5
    """
    milliseconds = _header_number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return _within_a_week(milliseconds / 1000)
    return parse_wait(headers.get("retry-after"), now=_moment_of(headers, now))


def parse_reset(headers: Mapping[str, str], *, now: float) -> float | None:
    """Seconds until the limits that a reply tells are reset, or None where it tells none.

    Reads ``x-ratelimit-reset``, ``x-ratelimit-reset-requests``, ``ratelimit-reset``,
    ``anthropic-ratelimit-tokens-reset`` and the like. Of several, those count whose
    ``remaining`` is 0; if there are none, all do. The longest wait wins.

    Args:
        headers: the reply's headers.
        now: Unix time in seconds, for a reply without ``Date``.

    >>> parse_reset({"x-ratelimit-reset-tokens": "6m0s"}, now=0)
    360.0
    """
    lowered = {str(name).lower(): str(value) for name, value in headers.items()}
    now = _moment_of(lowered, now)
    waits: dict[bool, list[float]] = {True: [], False: []}
    for name, value in lowered.items():
        if "reset" in name and ("ratelimit" in name or "rate-limit" in name):
            wait = parse_wait(value, now=now)
            if wait is not None:
                spent = lowered.get(name.replace("reset", "remaining"), "").strip() == "0"
                waits[spent].append(wait)
    return max(waits[True] or waits[False], default=None)


def parse_wait(value: str | None, *, now: float) -> float | None:
    """Seconds from now that one value of a header or field means, or None.

    It may be a number of seconds, a duration (``2s``, ``1m30s``, ``20 seconds``), a date (of HTTP
    or ISO 8601), or Unix time in seconds or milliseconds.

    Args:
        value: what stands there.
        now: Unix time in seconds.

    >>> parse_wait("1m30s", now=0)
    90.0
    """
    value = (value or "").strip()
    seconds = _header_number(value)
    if seconds is not None:
        # Nothing asks to wait for thirty years: a number as large as that is a moment.
        if seconds >= 1e9:
            seconds = seconds / (1000 if seconds >= 1e11 else 1) - now
    elif re.fullmatch(_DURATION, value, re.IGNORECASE):
        seconds = _duration(value)
    elif (moment := _parse_iso_date(value) or parse_http_date(value)) is not None:
        seconds = moment - now
    return None if seconds is None else _within_a_week(seconds)


def find_wait(words: str, *, now: float) -> float | None:
    """Seconds to wait that a sentence names, or None.

    Args:
        words: what the service says.
        now: Unix time in seconds.

    >>> find_wait("Rate limit reached. Please try again in 7.66s.", now=0)
    7.66
    """
    found = re.search(_IN_WORDS, words, re.IGNORECASE)
    if found is not None:
        return _within_a_week(_duration(found[1]))
    for pattern in _RESET_AT:
        reset = re.search(pattern, words, re.IGNORECASE)
        # Zhipu alone writes such dates without a zone, in its own time.
        moment = None if reset is None else _parse_iso_date(reset[1], zone=_BEIJING)
        if moment is not None:
            return _within_a_week(moment - now)
    return None


def parse_http_date(value: str | None) -> float | None:
    """An HTTP date as Unix time in seconds; None where it is not one."""
    if not value:
        return None
    try:
        moment = parsedate_to_datetime(value)
    except (ValueError, TypeError, OverflowError, IndexError) as error:
        let_through(error)
        return None
    # A date without a zone, or of the zone -0000, is Universal Time, too: HTTP has no other.
    return (moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)).timestamp()


def _parse_iso_date(value: str, *, zone: timezone = timezone.utc) -> float | None:
    found = re.fullmatch(_ISO_DATE, value, re.IGNORECASE)
    if found is None:
        return None
    day, time, fraction, offset = found.groups()
    if offset:
        offset = "+00:00" if offset[0] not in "+-" else f"{offset[:3]}:{offset[-2:]}"
    try:
        moment = datetime.fromisoformat(f"{day}T{time}{offset or ''}")
        moment = moment if offset else moment.replace(tzinfo=zone)
        return moment.timestamp() + float(f"0{fraction or ''}")
    except (ValueError, OverflowError):
        return None


def _moment_of(headers: Mapping[str, str], now: float) -> float:
    date = parse_http_date(headers.get("date"))
    return now if date is None else date


def _duration(text: str) -> float:
    parts = re.findall(_PART, text, re.IGNORECASE)
    return sum(float(amount) * _seconds_in(unit.lower()) for amount, unit in parts)


def _seconds_in(unit: str) -> float:
    if unit == "ms" or unit.startswith("milli"):
        return 0.001
    return _UNITS[unit[0]]


def _within_a_week(seconds: float) -> float | None:
    return seconds if 0 <= seconds <= _LONGEST_S else None


def _header_number(value: str | None) -> float | None:
    found = _NUMBER.fullmatch((value or "").strip())
    return float(found[0]) if found else None


class Rule(NamedTuple):
    """What services say when they mean one class of error.

    Attributes:
        kind: the class.
        status: the HTTP status that usually goes with it; an error that came inside a successful
            reply, without a number of its own, gets it.
        said: what it means for the caller, and what to do.
        codes: values of ``code``, ``type``, ``status`` and ``reason`` in an error, in lower case.
            A number of ``base_resp`` or of gRPC has that as a prefix.
        words: a pattern for the service's words, or "".
        unless: a pattern for words that mean something else after all, or "".
        examples: sentences of real services that ``words`` finds.
    """

    kind: type[errors.LLMError]
    status: int
    said: str
    codes: frozenset[str] = frozenset()
    words: str = ""
    unless: str = ""
    examples: tuple[str, ...] = ()

    def fits(self, words: str) -> bool:
        """Whether a service's words mean this."""
        if not self.words or not re.search(self.words, words, re.IGNORECASE):
            return False
        return not (self.unless and re.search(self.unless, words, re.IGNORECASE))


def _codes(text: str) -> frozenset[str]:
    return frozenset(text.split())


WRONG_PATH = Rule(
    errors.InvalidRequestError,
    404,
    "the service knows no such address; check base_url",
    words=(
        r"unexpected endpoint|404 page not found|invalid url \((post|get)|no route matched"
        r"|unknown (request )?(url|endpoint|route|path)|no such (route|endpoint|path|url)"
        r"|\b(route|endpoint|url|uri|path)\b.{0,80}\b(not found|not exist|wasn't found|unknown)"
        r"|cannot (post|get) /|no handler found|no static resource"
        r"|method not allowed|^(http )?(error )?(404:?\s*[-|]?\s*)?"
        r"((the )?(requested )?(page|file|resource) )?(was )?not found\b[.!]?($|\n| - )"
    ),
    examples=(
        "Unexpected endpoint or method. (POST /chat/completions)",
        "404 page not found",
        "404 Not Found",
        "Not Found",
        "Invalid URL (POST /chat/completions)",
        "Cannot POST /chat/completions",
        "no Route matched with those values",
        "File Not Found",
        "Resource not found",
        "The requested URL was not found on the server.",
        "Method Not Allowed",
    ),
)


RULES: tuple[Rule, ...] = (
    Rule(
        errors.QuotaExceededError,
        402,
        "the account's tokens are used up: there is no quota or credit left",
        codes=_codes(
            "insufficient_quota insufficient_balance insufficient_credits insufficient_funds"
            " insufficient_user_quota quota_exceeded quota_exhausted quotaexceeded"
            " billing_hard_limit_reached billing_not_active billing_error credit_balance_too_low"
            " payment_required exceeded_current_quota_error usage_limit_reached arrearage"
            " accountoverdueerror 1113 1304 1308 1309 1310 30001 base_resp.1008 base_resp.2056"
        ),
        words=(
            r"insufficient[ _](account |user |tokens? )?(balance|credits?|funds|quota)"
            r"|\b(balance|credits?|funds)\b.{0,40}\b(insufficient|too low|not enough|exhausted"
            r"|used up|depleted)|not enough (credits?|balance|funds)|out of credits?"
            r"|run out of (credits?|funds)|requires more credits|have any credits"
            r"|(exceed(ed|ing)|exhausted|reach(ed|ing)|used up|hit)\b.{0,40}\b(quota"
            r"|spend(ing)? (limit|cap)|usage limit|billing limit)\b"
            r"|\bquota\b.{0,40}\b(exceeded|exhausted|reached|used up|depleted|spent)"
            r"|payment required|billing hard limit|usage limit reached"
            r"|余额不足|欠费|额度(不足|已用尽|已用完)|使用上限"
        ),
        # A limit by the minute is worded like a quota, but it is over in a moment.
        unless=(
            r"\A(?![\s\S]*per[ _-]?(day|week|month))[\s\S]*(per[ _-]?(second|minute|min|hour)\b"
            r"|perminute|allowed [0-9]+ requests|(try again|retry) (in|after) [0-9])"
        ),
        examples=(
            "You exceeded your current quota, please check your plan and billing details.",
            "Insufficient Balance",
            "Insufficient balance or no resource package. Please recharge.",
            "Your credit balance is too low to access the API.",
            "This request requires more credits, or fewer max_tokens.",
            "You have exceeded your monthly included credits quota",
            "Quota exceeded for quota metric 'requests' per day",
            "Payment Required",
            "Account suspended due to reaching the monthly spending limit",
            "Your newly created team doesn't have any credits yet",
            "Sorry, your account balance is insufficient",
        ),
    ),
    Rule(
        errors.AuthenticationError,
        401,
        "the service refused the key; check it",
        codes=_codes(
            "invalid_api_key incorrect_api_key api_key_invalid invalidapikey invalid_authentication"
            " invalid_authentication_error authentication_error authenticationerror"
            " authentication_failed invalid_token token_expired"
            " account_deactivated missing_api_key no_api_key 1000 1001 1002 1003 1004 1005"
            " 1110 1111 1112 1120 1121 base_resp.1004 base_resp.2049"
        ),
        words=(
            r"\b(api|access|auth\w*|subscription)[ _-]?(key|token)s?\b.{0,60}\b(not valid|invalid"
            r"|incorrect|wrong|expired|missing|not found|revoked|malformed|disabled|required"
            r"|not provided)"
            r"|\b(invalid|incorrect|wrong|expired|missing|unknown|unauthorized|revoked|no|bad"
            r"|provide an?)\b.{0,20}\b(api|access|auth\w*|bearer|subscription)[ _-]?"
            r"(keys?|tokens?|header|credentials?)\b"
            r"|(invalid|no auth) credentials|\bunauthorized\b|not authenticated|unauthenticated"
            r"|authentication (failed|fails|failure|required|error)"
            r"|decode '?authorization'? header|token (has|is) expired"
        ),
        examples=(
            "API key not valid. Please pass a valid API key.",
            "Incorrect API key provided: ***. You can find your API key at https://x.example.",
            "You didn't provide an API key.",
            "Authentication Fails (no such user)",
            "Can't decode 'Authorization' header",
            "Token has expired",
            "No auth credentials found",
            "Access denied due to invalid subscription key.",
        ),
    ),
    Rule(
        errors.RefusedError,
        400,
        "a filter of the service refused the prompt or the reply",
        codes=_codes(
            "content_filter content_policy_violation responsibleaipolicyviolation contentfilter"
            " datainspectionfailed data_inspection_failed sensitive 1301 content_moderation"
            " moderation_blocked prompt_blocked safety sensitivecontentdetected"
            " inputtextsensitivecontentdetected outputtextsensitivecontentdetected"
            " base_resp.1026 base_resp.1027"
        ),
        words=(
            r"content exists risk|content[ _-]?(filter|polic|moderation)|content management policy"
            r"|responsible ?ai|was filtered|\bflagged\b|requires moderation"
            r"|considered high risk|data may contain inappropriate|inappropriate content"
            r"|(violates?|violating|violation of)\b.{0,40}\b(policy|policies|guidelines|safety)"
            r"|rejected (by|as a result of) (our|the) safety|(prompt|request|response|content) "
            r"(was|is|has been) blocked|blocked (by|due to|for) .{0,30}(safety|policy|moderation)"
            r"|敏感|不安全"
        ),
        examples=(
            "The prompt triggered Azure OpenAI's content management policy.",
            "Content Exists Risk",
            "Your input was flagged by the moderation endpoint.",
            "Input flagged",
            "Output data may contain inappropriate content.",
            "The request was rejected because it was considered high risk",
            "Content violates usage guidelines.",
        ),
    ),
    Rule(
        errors.InvalidRequestError,
        400,
        "the prompt is too long for this model; shorten it",
        codes=_codes(
            "context_length_exceeded exceed_context_size_error context_window_exceeded"
            " contextwindowexceedederror model_context_window_exceeded string_above_max_length"
            " request_too_large prompt_too_long tokens_limit_reached 1261 base_resp.1039"
        ),
        words=(
            r"(maximum|max) (context|model|prompt|input) (length|size)|\bmax ctx"
            r"|context (length|window|size)\b.{0,60}\b(exceed|too|limit|smaller|larger|greater)"
            r"|\b(exceeds?|exceeded|larger than|greater than|longer than|beyond)\b.{0,40}"
            r"\b(context|(maximum|max|input|prompt|token) (length|limit)|max_model_len)\b"
            r"|\b(prompt|input|messages?|conversation|text|request)\b.{0,30}\btoo"
            r" (long|many tokens)"
            r"|too many (input |prompt )?tokens\b:?(?!.{0,20}(wait|per))"
            r"|reduce the length of|range of input length|input token count"
        ),
        unless=r"per[ _-]?(minute|min|day|second)\b|\b[tr]p[md]\b",
        examples=(
            "This model's maximum context length is 4097 tokens.",
            "the request exceeds the available context size",
            "Context size has been exceeded.",
            "prompt is too long: 210000 tokens > 200000 maximum",
            "The input token count (1100000) exceeds the maximum number of tokens allowed",
            "The number of tokens to keep is greater than the context length.",
            "Range of input length should be [1, 30720]",
            "Please reduce the length of the messages or completion.",
        ),
    ),
    Rule(
        errors.UnsupportedError,
        400,
        "this server or model cannot do what was asked",
        codes=_codes("unsupported_content_type image_not_supported tools_not_supported"),
        words=(
            r"\b(does not|doesn't|do not|don't|cannot|can't|not|no longer) (currently )?"
            r"(support|accept|process|handle)s?\b.{0,20}\b(tools?|tool_choice|functions?"
            r"|function[ _]call\w*|images?|image_url|vision|audio|multi-?modal\w*|json_schema"
            r"|json_object|structured outputs?|response_format|system (messages?|prompts?|role)"
            r"|system(?='))\b"
            r"|\b(tools?|tool (use|calls?|calling|choice)|tool_choice|function calling|functions"
            r"|images?|image inputs?|image_url|vision|audio|json_schema|structured outputs?"
            r"|response_format|system (messages?|prompts?|role))\b.{0,40}"
            r"\b(not (currently )?(supported|available|enabled)|unsupported|unavailable"
            r"|only supported by)"
            r"|endpoints found that support|is not a (multi-?modal|vision)|not a multi-?modal"
            r"|unknown variant .?(image_url|image|input_audio|file|json_schema)\b"
            r"|at most 0 (images?|audio)|requires? (the )?--(jinja|enable-auto-tool-choice|mmproj)"
            r"|(tool|function) choice requires|missing data required for image"
            r"|image input modality|only (supports? )?text (input|content|messages)"
        ),
        examples=(
            "registry.example/gemma:2b does not support tools",
            "No endpoints found that support tool use.",
            "No endpoints found that support image input",
            "image input is not supported - hint: you may need to provide the mmproj",
            "Failed to deserialize: unknown variant `image_url`, expected `text`",
            "meta-llama/Llama-3-8B is not a multimodal model",
            "At most 0 image(s) may be provided in one request.",
            "Invalid content type. image_url is only supported by certain models.",
            '"auto" tool choice requires --enable-auto-tool-choice to be set',
            "tools param requires --jinja flag",
            "System role not supported",
            "Unsupported parameter: 'tools' is not supported with this model.",
            "'messages[0].role' does not support 'system' with this model.",
            "This response_format type is unavailable now",
        ),
    ),
    Rule(
        errors.ModelNotFoundError,
        404,
        "the service has no such model",
        codes=_codes(
            "model_not_found modelnotfound model_not_available model_not_supported unknown_model"
            " invalid_model model_decommissioned model_deprecated deploymentnotfound 1211"
            " invalidendpointormodel.notfound modelnotfounderror"
        ),
        words=(
            r"(?<![/\w])(models?|deployment)\b.{0,120}\b(not found|not exist|no longer (available"
            r"|supported|exists?)|(has|have) been (deprecated|decommissioned|retired|removed"
            r"|shut ?down)|is deprecated|not available|not a valid|is unknown|not deployed)"
            r"|\bdoes not have (the )?model|\b(no such|unknown|invalid|not found the|could not find"
            r"( the| real)?) (model|deployment|modelid)|not a valid model|no models? (are )?loaded"
            r"|no endpoints found for|failed to parse model uri|unable to access model"
            r"|^model: \S+($|\n)|模型不存在"
        ),
        # "The model ... in the context", "model is overloaded, not available right now".
        unless=r"overloaded|temporarily|at capacity|currently loading|try again",
        examples=(
            "The model `x` does not exist",
            "The model `gpt-9` does not exist or you do not have access to it.",
            "model 'llama3.2' not found, try pulling it first",
            "models/gemini-x is not found for API version v1main",
            "The API deployment for this resource does not exist.",
            "No such model",
            "Model Not Exist",
            "x is not a valid model ID",
            "Invalid model: x",
            "model: acme-9",
            "Failed to parse model URI",
            "No endpoints found for acme/x.",
            "The model `x` has been decommissioned and is no longer supported.",
            "No models loaded. Please load a model in the developer page.",
        ),
    ),
    WRONG_PATH,
    Rule(
        errors.BlockedError,
        403,
        "something before the service denies access from here; the key was not looked at",
        codes=_codes("unsupported_country_region_territory"),
        words=(
            r"country, region, or territory not supported|location is not supported"
            r"|error code: 10(0[679]|1[0268]|20)\b"
        ),
        examples=(
            "Country, region, or territory not supported",
            "User location is not supported for the API use.",
            "error code: 1020",
        ),
    ),
    Rule(
        errors.RateLimitError,
        429,
        "too many requests; wait",
        codes=_codes(
            "rate_limit_exceeded rate_limit_error rate_limit_reached_error rate_limited ratelimit"
            " ratelimiterror ratelimitexceeded ratelimitreached too_many_requests toomanyrequests"
            " throttled throttling throttlingexception throttling.ratequota"
            " throttling.allocationquota limit_burst_rate engine_overloaded_error"
            " 1302 1303 1305 1312 base_resp.1002"
        ),
        words=(
            r"rate[ _-]?limit|too many (concurrent )?requests|(requests|tokens) per (second|minute"
            r"|min|day)|throttl|concurren\w+.{0,40}(limit|exceed|too)|slow down|请求过多|速率限制"
        ),
        examples=(
            "Rate limit reached for requests",
            "upstream rate limited",
            "Too Many Requests",
            "Request was throttled. Expected available in 7 seconds.",
            "Concurrency limit exceeded",
        ),
    ),
)
"""Looked through from above, codes first and then words; the first row that fits decides."""


BY_STATUS: dict[int, type[errors.LLMError]] = {
    400: errors.InvalidRequestError,
    401: errors.AuthenticationError,
    402: errors.QuotaExceededError,
    403: errors.AuthenticationError,
    404: errors.InvalidRequestError,
    407: errors.ConnectionFailed,
    408: errors.ProviderTimeout,
    409: errors.ServerError,
    413: errors.InvalidRequestError,
    422: errors.InvalidRequestError,
    424: errors.ServerError,
    425: errors.ServerError,
    429: errors.RateLimitError,
    498: errors.RateLimitError,
}
"""What decides where neither code nor words do."""


SAID_BY_STATUS = {
    400: "the service rejected the request as invalid",
    401: "the service refused the key; check it",
    402: "the account's tokens are used up: there is no quota or credit left",
    403: "the service denies access; check the key and its rights",
    404: "the service found nothing for this request; check model and base_url",
    407: "the proxy wants a user and password; give them in its URL",
    408: "the service gave up waiting",
    413: "the request is too large for the service; shorten the prompt",
    422: "the service rejected the request as invalid",
    429: "too many requests; wait",
    498: "the service has no capacity left; wait",
}


STATUS_OF_CODE: dict[str, int] = {
    **dict.fromkeys(
        _codes(
            "invalid_request_error invalid_request badrequesterror bad_request invalid_argument"
            " invalidargument invalidparameter invalid_parameter invalid_parameter_error"
            " validation_error unprocessable_entity_error failed_precondition unsupported_parameter"
            " unsupported_value invalid_value 1210 1212 1213 1214 1215 base_resp.2013"
            " grpc.3 grpc.9 grpc.11"
        ),
        400,
    ),
    **dict.fromkeys(["not_found", "not_found_error", "notfounderror", "grpc.5"], 404),
    **dict.fromkeys(
        _codes(
            "server_error internal_server_error internalservererror internal_error api_error"
            " internal base_resp.1000 base_resp.1013 1234 grpc.2 grpc.13"
        ),
        500,
    ),
    **dict.fromkeys(
        _codes(
            "overloaded_error overloaded unavailable service_unavailable service_unavailable_error"
            " grpc.14"
        ),
        503,
    ),
    **dict.fromkeys(_codes("timeout timeout_error deadline_exceeded base_resp.1001 grpc.4"), 504),
    **dict.fromkeys(["unauthorized", "unauthenticated", "grpc.16"], 401),
    **dict.fromkeys(
        _codes(
            "permission_denied permission_error permissiondeniederror access_denied forbidden"
            " grpc.7"
        ),
        403,
    ),
    **dict.fromkeys(["resource_exhausted", "grpc.8"], 429),
    "grpc.10": 409,
    "grpc.12": 501,
}
"""Words for a status, read where the status itself says nothing: in a reply with 200 or 5xx."""


def class_of_status(status: int) -> type[errors.LLMError]:
    """The error that an HTTP status means where nothing else is said."""
    known = BY_STATUS.get(status)
    if known is not None:
        return known
    if 400 <= status < 500:
        return errors.InvalidRequestError
    if 500 <= status < 600:
        return errors.ServerError
    return errors.ProtocolError


# -- what a body says

_MOST_WORDS = 500

_MOST_LOOKED_THROUGH = 4000

_DEEPEST = 8

_MOST_FIELDS = 500

_CONTAINERS = (
    "error",
    "errors",
    "message",
    "detail",
    "details",
    "innererror",
    "inner_error",
    "base_resp",
    "metadata",
    "violations",
    "headers",
)

_CODE_FIELDS = _codes(
    "code type status error error_code errorcode error_type reason status_code statuscode"
    " httpcode httpstatus quotaid"
)

_SAYING = (
    "message",
    "msg",
    "detail",
    "error_description",
    "error_message",
    "errorMessage",
    "status_msg",
    "base_resp",
    "error",
    "details",
    "reason",
    "title",
    "description",
    "data",
)


_ABOUT_A_FIELD = ("unsupported_parameter", "unsupported_value", "unknown_parameter")


def message_of(value: Any) -> str | None:
    """The service's words in an error object of any shape, None where there are none.

    >>> message_of({"detail": [{"loc": ["body", "seed"], "msg": "Extra inputs"}]})
    'body.seed: Extra inputs'
    """
    return _one_line(_said(value, _DEEPEST) or "", _MOST_WORDS)


def service_message(body: bytes) -> str | None:
    """The service's words in an error's body: JSON, a stream of events, a page or plain text."""
    return _Told.of(body).words


def is_challenge(page: bytes) -> bool:
    """Whether a page is a browser challenge that only a person passes."""
    head = page[:8192].lower()
    return any(mark in head for mark in _CHALLENGES)


_CHALLENGES = (b"<title>just a moment...", b"<title>attention required! | cloudflare")

_PAGE_STARTS = (b"<!doctype html", b"<html", b"<head", b"<body")


def _said(value: Any, depth: int) -> str | None:
    if isinstance(value, str):
        if depth and value[:1] in ("{", "["):
            # Gateways put the error of the service behind them into a text.
            return _said(_parsed(value), depth - 1) or value
        return value.strip() or None
    if not depth:
        return None
    if isinstance(value, list):
        said = (_said(item, depth - 1) for item in value[:_DEEPEST])
        return "; ".join(text for text in said if text) or None
    if not isinstance(value, Mapping):
        return None
    text = _said_in(value, depth - 1)
    metadata = value.get("metadata")
    raw = _said(metadata.get("raw"), depth - 1) if isinstance(metadata, Mapping) else None
    return f"{text}: {raw}" if text and raw and raw not in text else text or raw


def _said_in(fields: Mapping[str, Any], depth: int) -> str | None:
    where, said = fields.get("loc"), fields.get("msg")
    if isinstance(where, list) and isinstance(said, str) and said:
        return f"{'.'.join(map(str, where[:_DEEPEST]))}: {said}"
    for name in ("error", "errors"):
        # An error that is a text may be a mere code beside a sentence; one that is not has it.
        if not isinstance(fields.get(name), str) and (text := _said(fields.get(name), depth)):
            return text
    found = next((text for n in _SAYING if (text := _said(fields.get(n), depth))), None)
    param = fields.get("param")
    if found and str(fields.get("code")) in _ABOUT_A_FIELD and isinstance(param, str):
        return found if param in found else f"{param}: {found}"
    return found


def _parsed(text: str | bytes) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        let_through(error)
        return None


def _one_line(text: str, most: int) -> str | None:
    # Redacted before it is cut: half of a secret is not recognized.
    words = " ".join(redact(text).split())
    return "".join(c for c in words[:most] if c.isprintable()) or None


def _fields(value: Any, depth: int = _DEEPEST, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Names and plain values of an error object, from the inside out."""
    if isinstance(value, str) and depth and value[:1] in ("{", "["):
        value = _parsed(value)
    if isinstance(value, list) and depth:
        for item in value[:_DEEPEST]:
            yield from _fields(item, depth - 1, prefix)
    if not isinstance(value, Mapping) or not depth:
        return
    for name in _CONTAINERS:
        inner = value.get(name)
        if inner:
            yield from _fields(inner, depth - 1, "base_resp." if name == "base_resp" else prefix)
    raw = value.get("raw")
    if isinstance(raw, str):
        yield from _fields(raw, depth - 1, prefix)
    number = value.get("grpcCode", value.get("code") if "details" in value else None)
    if type(number) is int and number < 17:
        yield "grpc", number
    for name, plain in value.items():
        if isinstance(plain, (str, int, float)) and not isinstance(plain, bool):
            yield prefix + str(name), plain


class _Told(NamedTuple):
    """What the body of an error tells: codes, words, a status, and how long to wait."""

    value: Any = None
    words: str | None = None
    is_page: bool = False

    @classmethod
    def of(cls, body: bytes) -> _Told:
        """Read a body, whatever its label says it is."""
        start = body.lstrip()[:20].lower()
        if start.startswith(_PAGE_STARTS):
            return cls(words=_title(body), is_page=True)
        value = _parsed(body)
        if value is None and start.startswith((b"data:", b"event:", b"error:")):
            lines = (line.partition(b":")[2] for line in body.splitlines())
            value = next((found for line in lines if (found := _parsed(line))), None)
        if value is None:
            said = _title(body) or body[: _DEEPEST * _MOST_WORDS].decode(errors="replace")
            return cls(words=_one_line(said, 300))
        return cls(value, message_of(value))

    def look_up(self, status: int | None) -> tuple[type[errors.LLMError], int | None, str | None]:
        """The class, the status where the reply has none of its own, and what it means."""
        if status == 407:
            # It is the proxy that speaks.
            return class_of_status(status), status, SAID_BY_STATUS.get(status)
        fields = list(islice(_fields(self.value), _MOST_FIELDS))
        codes = [_code(name, value) for name, value in fields if _is_code(name)]
        number = next((int(c) for c in codes if re.fullmatch("[45][0-9]{2}", c)), None)
        text = "\n".join(filter(None, [self.words, *codes]))[:_MOST_LOOKED_THROUGH]
        # A request that is too large for a limit by the minute does not fit in the next one either.
        rules = [r for r in RULES if status != 413 or r.kind is not errors.RateLimitError]
        rule = next((rule for rule in rules for code in codes if code in rule.codes), None)
        rule = rule or next((rule for rule in rules if rule.fits(text)), None)
        if rule is None and status in (404, 405) and (self.is_page or not self.words):
            rule = WRONG_PATH
        if rule is not None:
            return rule.kind, number or rule.status, rule.said
        if number is None and (status is None or status >= 500):
            number = next((STATUS_OF_CODE[code] for code in codes if code in STATUS_OF_CODE), None)
        number = number or status
        if number is None:
            return errors.ServerError, None, None
        return class_of_status(number), number, SAID_BY_STATUS.get(number)

    def wait(self, now: float) -> float | None:
        """Seconds that the body asks to wait."""
        fields = dict(islice(_fields(self.value), _MOST_FIELDS))
        for name in ("retryDelay", "retry_after", "retryAfter", "retry_after_seconds"):
            wait = parse_wait(str(fields.get(name, "")), now=now)
            if wait is not None:
                return wait
        wait = find_wait(self.words or "", now=now)
        if wait is None:
            wait = parse_wait(str(fields.get("estimated_time", "")), now=now)
        headers = {name: str(value) for name, value in fields.items()}
        return parse_reset(headers, now=now) if wait is None else wait


def _is_code(name: str) -> bool:
    return name == "grpc" or name.rpartition(".")[2].lower() in _CODE_FIELDS


def _code(name: str, value: Any) -> str:
    owner = name if name == "grpc" else name.rpartition(".")[0]
    return f"{owner}.{value}".lower() if owner else str(value).lower()[:100]


def _title(page: bytes) -> str | None:
    # Its table of entities takes longer to load than this module.
    text = page[:65536].decode(errors="replace")
    for name in ("title", "h1", "message"):
        found = re.search(rf"<{name}\b[^>]*>([^<]*)", text, re.IGNORECASE)
        if found is not None and found[1].strip():
            return _one_line(html.unescape(found[1]), 300)
    return None


# -- errors made of it


def error_of(value: Any, *, now: float = 0.0) -> errors.LLMError:
    """The error that an error object inside a successful reply means.

    Args:
        value: the object, or what holds it.
        now: Unix time in seconds, for hints to wait until a moment.
    """
    told = _Told(value, message_of(value))
    kind, status, said = told.look_up(None)
    return kind(
        ": ".join(filter(None, [said or "the service reports an error", told.words])),
        status_code=status,
        retry_after=told.wait(now),
        detail=told.words,
    )


def is_wrong_path(error: errors.LLMError) -> bool:
    """Whether a server answered that it has nothing at the address."""
    if type(error) is not errors.InvalidRequestError or error.status_code not in (404, 405):
        return False
    return not error.detail or WRONG_PATH.fits(error.detail)


def page_error(page: bytes) -> errors.LLMError:
    """The error for a web page that came with status 200 in place of a reply."""
    if is_challenge(page):
        return errors.BlockedError(
            "a challenge or access-denied page stands before the service", status_code=200
        )
    title = _title(page)
    return errors.ProtocolError(
        "the service answered with a web page where a reply was due; check base_url "
        f"(HTTP 200{': ' + title if title else ''})",
        status_code=200,
        detail=title,
    )


_BODILESS = (204, 205, 304)


def check_reply(reply: HTTPResponse, call: HTTPRequest, *, now: float, most: int) -> None:
    """Raise what a reply's status and kind mean, if that is an error.

    Args:
        reply: what came.
        call: what it answers.
        now: Unix time in seconds.
        most: bytes of an error's body that are read.
    """
    if reply.status == 200 and (call.accept == "html" or reply.content_type != "text/html"):
        return
    if 200 < reply.status < 300 and reply.status not in (204, 205):
        return
    # What comes on a connection after a reply that has no body is not this reply's: it is not
    # read, so that closing the reply closes the connection.
    body = b"" if reply.status < 200 or reply.status in _BODILESS else _error_body(reply, most)
    told = _Told.of(body)
    is_page = told.is_page or (reply.content_type == "text/html" and b"<" in body)
    kind, _, message = told.look_up(reply.status)
    if is_page and (is_challenge(body) or reply.status == 403):
        kind = errors.BlockedError
        message = "a challenge or access-denied page stands before the service"
    elif reply.status in (204, 205):
        kind, message = errors.EmptyReplyError, "the service answered without content"
    elif reply.status == 200:
        kind = errors.ProtocolError
        message = "the service answered with a web page where a reply was due; check base_url"
    message = message or f"the service answered {reply.status}"
    wait = parse_retry_after(reply.headers, now=now)
    if wait is None:
        wait = told.wait(now)
    if wait is None and kind is errors.RateLimitError:
        wait = parse_reset(reply.headers, now=now)
    raise kind(
        f"{message} (HTTP {reply.status}{': ' + told.words if told.words else ''})",
        status_code=reply.status,
        retry_after=wait,
        request_id=reply.request_id,
        retryable=False if reply.status == 407 else None,
        detail=told.words,
    )


def _error_body(reply: HTTPResponse, most: int) -> bytes:
    try:
        return reply.read(most)
    except errors.DeadlineExceeded:
        raise
    except errors.LLMError as error:
        let_through(error)
        logger.debug("the body of an error reply could not be read: %s", error)
        return b""
