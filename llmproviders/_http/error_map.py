"""Read an error reply: its class, by status, codes and words, and how long it asks to wait."""

from __future__ import annotations

import html
import json
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, timedelta, timezone
from email.utils import parsedate_to_datetime
from itertools import islice
from typing import Any, NamedTuple

from .. import errors
from .._redact import redact, redact_data
from .._signals import let_through
from .error_rules import (
    BY_STATUS,
    RULES,
    SAID_BY_STATUS,
    STATUS_OF_CODE,
    WRONG_PATH,
    Rule,
    is_challenge,
    names,
)
from .types import ErrorReply, HTTPRequest, HTTPResponse


def class_of_status(status: int) -> type[errors.LLMError]:
    """The error class for an HTTP status when nothing else is known."""
    return BY_STATUS.get(status) or _BY_HUNDRED.get(status // 100) or errors.ProtocolError


_BY_HUNDRED = {4: errors.InvalidRequestError, 5: errors.ServerError}


# -- what a body says

_MOST_WORDS = 500

_MOST_WORDS_OF_A_PAGE = 300

_MOST_OF_A_CODE = 100

_MOST_OF_A_TEXT = 65536  # parsed, it may take many times as much memory

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
    "response",
    "fault",
    "data",
)

_CODE_FIELDS = names(
    "code type status error error_code errorcode error_type reason status_code statuscode"
    " httpcode httpstatus quotaid errcode"
)

_SAYING = (
    *("message", "msg", "detail", "error_description", "error_message"),
    *("errormessage", "error_msg", "errormsg", "errmsg", "faultstring"),
    *("status_msg", "base_resp", "error", "errors", "details"),
    *("messages", "reason", "reasons", "title", "description"),
    *("data", "response", "fault", "invalid_params"),
)

_BY_FIELD = ("errors", "error", "detail", "details", "message", "invalid_params")
"""Fields whose object may have the wrong fields' names, each with what is wrong with it."""

_TEXTS = ("text", "content", "value")

_NO_WORDS = names(
    "param params loc path location instance timestamp time url help doc_url docs_url help_url"
    " documentation_url type_uri domain severity level model_id trace request metadata headers"
    " @type"
)

_WAIT_FIELDS = {
    "retry_after_ms": 0.001,
    **dict.fromkeys(
        (
            *("retrydelay", "retry_after", "retryafter", "retry_after_seconds", "retry_in"),
            *("wait_seconds", "reset_after", "resets_in_seconds", "reset_at"),
        ),
        1.0,
    ),
}
"""Field of an error body that asks to wait -> its unit in seconds."""

_ABOUT_A_FIELD = ("unsupported_parameter", "unsupported_value", "unknown_parameter")


def message_of(value: Any) -> str | None:
    """The service's message in an error object of any shape, or None.

    >>> message_of({"detail": [{"loc": ["body", "seed"], "msg": "Extra inputs"}]})
    'body.seed: Extra inputs'
    """
    return _one_line(_said(value, _DEEPEST) or "", _MOST_WORDS)


def service_message(body: bytes) -> str | None:
    """The service's message in an error body: JSON, a stream of events, a page or plain text."""
    return _ErrorDetails.of(body).words


_CHALLENGED = "a challenge or access-denied page stands before the service"

_PAGE_INSTEAD = "the service answered with a web page where a reply was due; check base_url"

_PAGE_STARTS = (b"<!doctype html", b"<html", b"<head", b"<body")
_LONGEST_START = 20


def _said(value: Any, depth: int) -> str | None:
    if isinstance(value, str):
        if depth and value[:1] in ("{", "["):
            # Gateways put the error of the service behind them into a string.
            return _said(_parsed(value), depth - 1) or value
        return value.strip() or None
    if not depth:
        return None
    if isinstance(value, list):
        said = (_said(item, depth - 1) for item in value[:_DEEPEST])
        return "; ".join(text for text in said if text) or None
    if not isinstance(value, Mapping):
        return None
    value = lowered(value)
    text = _said_in(value, depth - 1)
    metadata = value.get("metadata")
    if isinstance(metadata, Mapping):
        for name in ("raw", "reasons"):
            text = _with(text, _said(metadata.get(name), depth - 1))
    return text


def _with(text: str | None, more: str | None) -> str | None:
    """Words, and more of them unless they say it already."""
    if not text or not more or more in text:
        return text or more
    return f"{text.removesuffix('.')}: {more}"


def _said_in(fields: Mapping[str, Any], depth: int) -> str | None:
    where, said = fields.get("loc"), fields.get("msg")
    if isinstance(where, list) and isinstance(said, str) and said:
        return f"{'.'.join(map(str, where[:_DEEPEST]))}: {said}"
    told = {name: _said(fields[name], depth) for name in _SAYING if name in fields}
    # An error that is a string may be only a code next to a message; an object has the message.
    found = None if isinstance(fields.get("error"), str) else told.get("error")
    found = found or next(filter(None, told.values()), None)
    for name in _BY_FIELD:
        value = fields.get(name)
        # What details repeat of a message is for programs.
        if isinstance(value, (Mapping, list)) and not (found and name in ("details", "message")):
            found = _with(found, told[name] or _said_by_field(value, depth))
    param = fields.get("param")
    if found and str(fields.get("code")) in _ABOUT_A_FIELD and isinstance(param, str):
        return found if param in found else f"{param}: {found}"
    return found


def _said_by_field(value: Any, depth: int) -> str | None:
    """What is said under other names, such as those of the wrong fields: ``{"model": ["..."]}``."""
    if not depth:
        return None
    if isinstance(value, list):
        found = (_said_by_field(item, depth - 1) for item in value[:_DEEPEST])
        return "; ".join(filter(None, found)) or None
    if not isinstance(value, Mapping):
        return None
    said = []
    for name, inner in islice(value.items(), _DEEPEST):
        plain = str(name).lower()
        is_id = isinstance(inner, str) and (_is_code(plain) or plain.endswith("id"))
        if is_id or plain in _NO_WORDS or plain in _SAYING:
            continue
        if text := _said(inner, depth - 1) or _said_by_field(inner, depth - 1):
            said.append(text if plain in _TEXTS else f"{name}: {text}")
    return "; ".join(said) or None


def lowered(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Fields by lower-case name; services write ``message``, ``Message`` or ``MESSAGE``."""
    return {str(name).lower().replace("-", "_"): value for name, value in fields.items()}


def _parsed(text: str | bytes) -> Any:
    try:
        return None if type(text) is str and len(text) > _MOST_OF_A_TEXT else json.loads(text)
    except (ValueError, RecursionError) as error:
        let_through(error)
        return None


def _one_line(text: str, most: int) -> str | None:
    # Redacted before it is cut, a long one between words: half a secret would not be recognized.
    if len(text) > _MOST_OF_A_TEXT:
        text = "".join(text.lstrip()[:_MOST_OF_A_TEXT].rsplit(None, 1)[:1])
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
    value = lowered(value)
    for name in _CONTAINERS:
        inner = value.get(name)
        if inner:
            yield from _fields(inner, depth - 1, "base_resp." if name == "base_resp" else prefix)
    raw = value.get("raw")
    if isinstance(raw, str):
        yield from _fields(raw, depth - 1, prefix)
    number = value.get("grpccode", value.get("code") if "details" in value else None)
    if type(number) is int and number < 17:
        yield "grpc", number
    for name, plain in value.items():
        if isinstance(plain, (str, int, float)) and not isinstance(plain, bool):
            yield prefix + name, plain


class _ErrorDetails(NamedTuple):
    """What an error body says: codes, words, a status, and how long to wait."""

    value: Any = None
    words: str | None = None
    is_page: bool = False

    @classmethod
    def of(cls, body: bytes) -> _ErrorDetails:
        """Read a body, whatever its Content-Type is."""
        start = body.lstrip()[:_LONGEST_START].lower()
        if start.startswith(_PAGE_STARTS):
            return cls(words=_title(body), is_page=True)
        value = _parsed(body)
        if value is None and start.startswith((b"data:", b"event:", b"error:")):
            lines = (line.partition(b":")[2] for line in body.splitlines())
            value = next((found for line in lines if (found := _parsed(line))), None)
        if value is None:
            said = _title(body) or body[: _DEEPEST * _MOST_WORDS].decode(errors="replace")
            return cls(words=_one_line(said, _MOST_WORDS_OF_A_PAGE))
        return cls.of_value(value)

    @classmethod
    def of_value(cls, value: Any) -> _ErrorDetails:
        """Read an error object; if it has no words, its code stands for them."""
        told = cls(value, message_of(value))
        if told.words:
            return told
        codes = (_one_line(str(code), _MOST_OF_A_CODE) for n, code in told.plain() if _is_code(n))
        return told._replace(words=next((c for c in codes if c and _is_telling(c)), None))

    def look_up(self, status: int | None) -> tuple[type[errors.LLMError], int | None, str | None]:
        """The class, the status if the reply has none of its own, and a description."""
        if status == 407:
            # The words are the proxy's and about its own login.
            return class_of_status(status), status, SAID_BY_STATUS[status]
        codes = [_code(name, value) for name, value in self.plain() if _is_code(name)]
        number = next((int(c) for c in codes if re.fullmatch("[45][0-9]{2}", c)), None)
        text = "\n".join(filter(None, [self.words, *codes]))[:_MOST_LOOKED_THROUGH]
        # A request that exceeds a per-minute limit does not fit into the next minute either.
        rules = [r for r in RULES if status != 413 or r.kind is not errors.RateLimitError]
        rule = next((rule for rule in rules if _is_named(rule, codes, status)), None)
        rule = rule or next((rule for rule in rules if _fits(rule, text)), None)
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
        """How many seconds the body asks to wait."""
        fields = {name: str(value) for name, value in self.plain()}
        for name, unit in _WAIT_FIELDS.items():
            wait = parse_wait(fields.get(name), now=now)
            if wait is not None:
                return wait * unit
        wait = find_wait(self.words or "", now=now)
        if wait is None:
            wait = parse_wait(fields.get("estimated_time"), now=now)
        headers = {name.replace("_", "-"): value for name, value in fields.items()}
        return parse_reset(headers, now=now) if wait is None else wait

    def plain(self) -> Iterator[tuple[str, Any]]:
        """The names and plain values in it, from the inside out."""
        return islice(_fields(self.value), _MOST_FIELDS)


def _is_named(rule: Rule, codes: Iterable[str], status: int | None) -> bool:
    """Whether one of a service's codes matches a rule."""
    # The numbers for a refused key are Zhipu's; Mistral uses the same ones for its failures. Those
    # for a locked account come with a 429, too.
    is_trouble = status is not None and (status >= 500 or status == 429)
    if is_trouble and rule.kind is errors.AuthenticationError:
        locked = "11" if status == 429 else " "
        codes = (code for code in codes if not code.isdigit() or code.startswith(locked))
    return any(code in rule.codes for code in codes)


def _fits(rule: Rule, words: str) -> bool:
    """Whether a service's words match a rule."""
    if not rule.words or not re.search(rule.words, words, re.IGNORECASE):
        return False
    return not (rule.unless and re.search(rule.unless, words, re.IGNORECASE))


def _is_code(name: str) -> bool:
    return name == "grpc" or name.rpartition(".")[2].lower() in _CODE_FIELDS


def _is_telling(code: str) -> bool:
    """Whether a code says more than that there is an error, and more than a status."""
    return code.lower() not in _BLANK_CODES and not re.fullmatch("-?[0-9]|[1-5][0-9]{2}", code)


_BLANK_CODES = names("error errors fail failed failure false true null none unknown exception")


def _code(name: str, value: Any) -> str:
    owner = name if name == "grpc" else name.rpartition(".")[0]
    return f"{owner}.{value}".lower() if owner else str(value).lower()[:_MOST_OF_A_CODE]


def _title(page: bytes) -> str | None:
    # The table of entities takes longer to load than this module.
    text = page[:_MOST_OF_A_TEXT].decode(errors="replace")
    for name in ("title", "h1", "message"):
        found = re.search(rf"<{name}\b[^>]*>([^<]*)", text, re.IGNORECASE)
        if found is not None and found[1].strip():
            return _one_line(html.unescape(found[1]), _MOST_WORDS_OF_A_PAGE)
    return None


# -- errors made of it


def error_of(value: Any, *, now: float | None = None) -> errors.LLMError:
    """The error for an error object inside a successful reply.

    Args:
        value: the object, or the object that contains it.
        now: Unix time in seconds, for hints to wait until a given time; None: this machine's.
    """
    now = time.time() if now is None else now
    told = _ErrorDetails.of_value(value)
    kind, status, said = told.look_up(None)
    return kind(
        ": ".join(filter(None, [said or "the service reports an error", told.words])),
        status_code=status,
        retry_after=told.wait(now),
        detail=told.words,
    )


def complete_error(error: errors.LLMError, reply: HTTPResponse, *, now: float) -> None:
    """Add what a reply's headers say to an error found while the reply was read.

    Args:
        error: the error.
        reply: the reply.
        now: Unix time in seconds.
    """
    error.request_id = redact_data(error.request_id or reply.request_id)
    if error.retry_after is None and error.retryable:
        error.retry_after = parse_retry_after(reply.headers, now=now)


def is_wrong_path(error: errors.LLMError) -> bool:
    """Whether a server answered that nothing exists at the address."""
    if type(error) is not errors.InvalidRequestError or error.status_code not in (404, 405):
        return False
    return not error.detail or _fits(WRONG_PATH, error.detail)


def page_error(page: bytes) -> errors.LLMError:
    """The error for a web page that came with status 200 instead of a reply."""
    if is_challenge(page):
        return errors.BlockedError(_CHALLENGED, status_code=200)
    title = _title(page)
    return errors.ProtocolError(
        f"{_PAGE_INSTEAD} (HTTP 200{': ' + title if title else ''})",
        status_code=200,
        detail=title,
    )


_BODILESS = (204, 205, 304)

# What proxies answer when they refuse or cannot reach a service; tinyproxy says 401 for 407.
_PROXIES_SAY = (401, 403, 502, 503, 504)


def check_reply(
    reply: ErrorReply, call: HTTPRequest, *, now: float, most: int, relay: str = ""
) -> None:
    """Raise an error if a reply's status or content type means one.

    Args:
        reply: the reply.
        call: the request that it answers.
        now: Unix time in seconds.
        most: the most bytes to read of an error's body.
        relay: host and port of an HTTP proxy that could have answered in the service's place.
    """
    if reply.status == 200 and (call.accept == "html" or reply.content_type != "text/html"):
        return
    if 200 < reply.status < 300 and reply.status not in (204, 205):
        return
    # Data after a reply without a body does not belong to it. It is not read, so that closing the
    # reply closes the connection.
    body = b"" if reply.status < 200 or reply.status in _BODILESS else reply.read_error(most)
    told = _ErrorDetails.of(body)
    is_page = told.is_page or (reply.content_type == "text/html" and b"<" in body)
    kind, _, message = told.look_up(reply.status)
    if is_page and (is_challenge(body) or reply.status == 403):
        kind, message = errors.BlockedError, _CHALLENGED
    elif reply.status in (204, 205):
        kind, message = errors.EmptyReplyError, "the service answered without content"
    elif reply.status == 200:
        kind, message = errors.ProtocolError, _PAGE_INSTEAD
    message = message or f"the service answered {reply.status}"
    wait = parse_retry_after(reply.headers, now=now)
    if wait is None:
        wait = told.wait(now)
    if wait is None and kind is errors.RateLimitError:
        wait = parse_reset(reply.headers, now=now)
    hint = ""
    if relay and reply.status == 407:
        hint = f"; the proxy is {relay}"
    elif relay and reply.status in _PROXIES_SAY:
        hint = f"; this may be the answer of the proxy {relay}"
    raise kind(
        f"{message} (HTTP {reply.status}{': ' + told.words if told.words else ''}){hint}",
        status_code=reply.status,
        retry_after=wait,
        request_id=reply.request_id,
        retryable=False if reply.status == 407 else None,
        detail=told.words,
    )


# -- how long to wait, in all the forms that services use

_LONGEST_S = 7 * 24 * 3600.0
"""A longer wait is cut to this."""

_ABSURD_S = 366 * 24 * 3600.0

_NUMBER = re.compile(r"[0-9]{1,18}(\.[0-9]{0,18})?")


# Patterns are compiled on first use: most processes never get an error that asks to wait, and
# compiling takes longer than importing this module.
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "秒": 1.0, "分": 60.0, "小": 3600.0}

_AMOUNT = r"[0-9]{1,9}(?:\.[0-9]{0,9})?"

_UNIT = (
    r"(?:ms|milliseconds?|s|secs?|seconds?|m|mins?|minutes?|h|hrs?|hours?|d|days?|秒|分钟|小时)"
    r"(?![a-z])"
)

_PART = rf"({_AMOUNT})\s*({_UNIT})"

_DURATION = rf"{_AMOUNT}\s*{_UNIT}(?:\s*,?\s*(?:and\s+)?{_AMOUNT}\s*{_UNIT}){{0,4}}"

_IN_WORDS = (
    rf"\b(?:try again|retry|wait|again|resets?|available)\b[^0-9\n]{{0,30}}?({_DURATION})"
    rf"|({_DURATION})\s*后(?:再|重)?试"
)

# Not the comma behind a date's weekday.
_BETWEEN_WAITS = r"(?<!mon)(?<!tue)(?<!wed)(?<!thu)(?<!fri)(?<!sat)(?<!sun)(?<!day),"

# ISO 8601 and clocks: PT1M30S, 00:01:30.
_ISO_DURATION = r"PT((?:[0-9.]+[HMS])+)"

_CLOCK = r"([0-9]{1,3}):([0-5][0-9]):([0-5][0-9])"

_ISO_DATE = (
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})[T ]([0-9]{2}:[0-9]{2}:[0-9]{2})(\.[0-9]+)?\s*"
    r"(Z|UTC|GMT|[+-][0-9]{2}:?[0-9]{2})?"
)

_RESET_AT = (
    rf"\b(?:reset|try again|retry)[^0-9\n]{{0,20}}({_ISO_DATE})",
    rf"({_ISO_DATE})\s*重置",
)

_BEIJING = timezone(timedelta(hours=8))


def parse_retry_after(headers: Mapping[str, str], *, now: float) -> float | None:
    """How many seconds a reply asks to wait, or None.

    Reads ``retry-after-ms`` or ``x-ms-retry-after-ms`` (milliseconds), else ``Retry-After`` in any
    form that :func:`parse_wait` knows. Dates are counted from the reply's own ``Date``, so that a
    wrong clock on either side does not matter. Invalid, negative and absurd (over a year) values
    give None; more than a week counts as one. Of several values the longest counts. Source: RFC
    9110, 10.2.3.

    Args:
        headers: the reply's headers; case does not matter.
        now: Unix time in seconds, for a reply without ``Date``.

    >>> parse_retry_after({"retry-after-ms": "1500"}, now=0)
    1.5
    """
    for name in ("retry-after-ms", "x-ms-retry-after-ms"):
        milliseconds = _header_number(headers.get(name))
        if milliseconds is not None:
            return _at_most_a_week(milliseconds / 1000)
    value, now = headers.get("retry-after") or "", _moment_of(headers, now)
    wait = parse_wait(value, now=now)
    if wait is None and "," in value:
        # Sent twice, the header arrives as one; a date has a comma of its own.
        found = (
            parse_wait(one, now=now) for one in re.split(_BETWEEN_WAITS, value, flags=re.IGNORECASE)
        )
        wait = max((one for one in found if one is not None), default=None)
    return wait


def parse_reset(headers: Mapping[str, str], *, now: float) -> float | None:
    """Seconds until the rate limits in a reply's headers are reset, or None.

    Reads ``x-ratelimit-reset``, ``x-ratelimit-reset-requests``, ``ratelimit-reset``,
    ``anthropic-ratelimit-tokens-reset`` and the like. If there are several, only those with
    ``remaining`` 0 count; if none has, all do. The longest wait wins.

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
    # Combined headers, as in the drafts of the standard: 'limit=10, remaining=0, reset=5',
    # '"a";r=0;t=5'.
    for item in re.finditer(r"\b(?:reset|t)=([0-9]+)", lowered.get("ratelimit", "")):
        waits[False].append(float(item[1]))
    return max(waits[True] or waits[False], default=None)


def parse_wait(value: str | None, *, now: float) -> float | None:
    """The seconds from now that a value of a header or field stands for, or None.

    It may be a number of seconds, a duration (``2s``, ``1m30s``, ``20 seconds``, ``PT30S``,
    ``00:00:30``), a date (of HTTP or ISO 8601), or Unix time in seconds or milliseconds.

    Args:
        value: the value.
        now: Unix time in seconds.

    >>> parse_wait("1m30s", now=0)
    90.0
    """
    value = (value or "").strip()
    seconds = _header_number(value)
    if seconds is not None:
        # Nobody asks to wait for thirty years: a number that large is a point in time.
        if seconds >= 1e9:
            seconds = seconds / (1000 if seconds >= 1e11 else 1) - now
    elif re.fullmatch(_DURATION, value, re.IGNORECASE):
        seconds = _duration(value)
    elif (found := re.fullmatch(_ISO_DURATION, value, re.IGNORECASE)) is not None:
        seconds = _duration(found[1])
    elif (found := re.fullmatch(_CLOCK, value)) is not None:
        hours, minutes, rest = map(int, found.groups())
        seconds = hours * 3600.0 + minutes * 60 + rest
    elif (moment := _parse_iso_date(value) or parse_http_date(value)) is not None:
        seconds = moment - now
    return None if seconds is None else _at_most_a_week(seconds)


def find_wait(words: str, *, now: float) -> float | None:
    """The seconds to wait that a sentence mentions, or None.

    Args:
        words: what the service says.
        now: Unix time in seconds.

    >>> find_wait("Rate limit reached. Please try again in 7.66s.", now=0)
    7.66
    """
    found = re.search(_IN_WORDS, words, re.IGNORECASE)
    if found is not None:
        return _at_most_a_week(_duration(found[1] or found[2]))
    for pattern in _RESET_AT:
        reset = re.search(pattern, words, re.IGNORECASE)
        # Only Zhipu writes such dates without a zone, in its local time.
        moment = None if reset is None else _parse_iso_date(reset[1], zone=_BEIJING)
        if moment is not None:
            return _at_most_a_week(moment - now)
    return None


def parse_http_date(value: str | None) -> float | None:
    """An HTTP date as Unix time in seconds; None if it is not one."""
    if not value:
        return None
    try:
        moment = parsedate_to_datetime(value)
    except (ValueError, TypeError, OverflowError, IndexError) as error:
        let_through(error)
        return None
    # A date without a zone, or with the zone -0000, is UTC as well: HTTP has no other.
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
    except (ValueError, OverflowError) as error:
        let_through(error)
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


def _at_most_a_week(seconds: float) -> float | None:
    return min(seconds, _LONGEST_S) if 0 <= seconds <= _ABSURD_S else None


def _header_number(value: str | None) -> float | None:
    found = _NUMBER.fullmatch((value or "").strip())
    return float(found[0]) if found else None
