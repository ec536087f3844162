"""Map an error reply to an error class by its status, codes and words."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, NamedTuple

from .. import errors
from .._log import logger
from .._redact import redact
from .._signals import let_through
from .error_rules import BY_STATUS, RULES, SAID_BY_STATUS, STATUS_OF_CODE, WRONG_PATH, Rule, names
from .types import HTTPRequest, HTTPResponse
from .waits import find_wait, parse_reset, parse_retry_after, parse_wait


def class_of_status(status: int) -> type[errors.LLMError]:
    """The error class for an HTTP status when nothing else is known."""
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
    "response",
    "fault",
)

_CODE_FIELDS = names(
    "code type status error error_code errorcode error_type reason status_code statuscode"
    " httpcode httpstatus quotaid errcode"
)

_SAYING = (
    "message",
    "msg",
    "detail",
    "error_description",
    "error_message",
    "errormessage",
    "error_msg",
    "errormsg",
    "errmsg",
    "faultstring",
    "status_msg",
    "base_resp",
    "error",
    "details",
    "reason",
    "title",
    "description",
    "data",
    "response",
    "fault",
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
    return _Told.of(body).words


def is_challenge(page: bytes) -> bool:
    """Whether a page is a browser challenge that only a person can pass."""
    head = page[:8192].lower()
    return any(mark in head for mark in _CHALLENGES)


_CHALLENGES = (b"<title>just a moment...", b"<title>attention required! | cloudflare")

_PAGE_STARTS = (b"<!doctype html", b"<html", b"<head", b"<body")


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
    value = _lowered(value)
    text = _said_in(value, depth - 1)
    metadata = value.get("metadata")
    raw = _said(metadata.get("raw"), depth - 1) if isinstance(metadata, Mapping) else None
    return f"{text}: {raw}" if text and raw and raw not in text else text or raw


def _said_in(fields: Mapping[str, Any], depth: int) -> str | None:
    where, said = fields.get("loc"), fields.get("msg")
    if isinstance(where, list) and isinstance(said, str) and said:
        return f"{'.'.join(map(str, where[:_DEEPEST]))}: {said}"
    for name in ("error", "errors"):
        # An error that is a string may be only a code next to a message; an object has the message.
        if not isinstance(fields.get(name), str) and (text := _said(fields.get(name), depth)):
            return text
    found = next((text for n in _SAYING if (text := _said(fields.get(n), depth))), None)
    param = fields.get("param")
    if found and str(fields.get("code")) in _ABOUT_A_FIELD and isinstance(param, str):
        return found if param in found else f"{param}: {found}"
    return found


def _lowered(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Fields by lower-case name; services write ``message``, ``Message`` or ``MESSAGE``."""
    return {str(name).lower().replace("-", "_"): value for name, value in fields.items()}


def _parsed(text: str | bytes) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        let_through(error)
        return None


def _one_line(text: str, most: int) -> str | None:
    # Redacted before it is cut: half a secret would not be recognized.
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
    value = _lowered(value)
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


class _Told(NamedTuple):
    """What an error body says: codes, words, a status, and how long to wait."""

    value: Any = None
    words: str | None = None
    is_page: bool = False

    @classmethod
    def of(cls, body: bytes) -> _Told:
        """Read a body, whatever its Content-Type is."""
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
        """The class, the status if the reply has none of its own, and a description."""
        if status == 407:
            # The words are the proxy's and about its own login.
            return class_of_status(status), status, SAID_BY_STATUS[status]
        fields = list(islice(_fields(self.value), _MOST_FIELDS))
        codes = [_code(name, value) for name, value in fields if _is_code(name)]
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
        fields = dict(islice(_fields(self.value), _MOST_FIELDS))
        for name, unit in _WAIT_FIELDS.items():
            wait = parse_wait(str(fields.get(name, "")), now=now)
            if wait is not None:
                return wait * unit
        wait = find_wait(self.words or "", now=now)
        if wait is None:
            wait = parse_wait(str(fields.get("estimated_time", "")), now=now)
        headers = {name.replace("_", "-"): str(value) for name, value in fields.items()}
        return parse_reset(headers, now=now) if wait is None else wait


def _is_named(rule: Rule, codes: Iterable[str], status: int | None) -> bool:
    """Whether one of a service's codes matches a rule."""
    # The numbers for a refused key are Zhipu's; Mistral uses the same ones for its failures.
    is_trouble = status is not None and (status >= 500 or status == 429)
    if is_trouble and rule.kind is errors.AuthenticationError:
        codes = (code for code in codes if not code.isdigit())
    return any(code in rule.codes for code in codes)


def _fits(rule: Rule, words: str) -> bool:
    """Whether a service's words match a rule."""
    if not rule.words or not re.search(rule.words, words, re.IGNORECASE):
        return False
    return not (rule.unless and re.search(rule.unless, words, re.IGNORECASE))


def _is_code(name: str) -> bool:
    return name == "grpc" or name.rpartition(".")[2].lower() in _CODE_FIELDS


def _code(name: str, value: Any) -> str:
    owner = name if name == "grpc" else name.rpartition(".")[0]
    return f"{owner}.{value}".lower() if owner else str(value).lower()[:100]


def _title(page: bytes) -> str | None:
    # The table of entities takes longer to load than this module.
    text = page[:65536].decode(errors="replace")
    for name in ("title", "h1", "message"):
        found = re.search(rf"<{name}\b[^>]*>([^<]*)", text, re.IGNORECASE)
        if found is not None and found[1].strip():
            return _one_line(html.unescape(found[1]), 300)
    return None


# -- errors made of it


def error_of(value: Any, *, now: float = 0.0) -> errors.LLMError:
    """The error for an error object inside a successful reply.

    Args:
        value: the object, or the object that contains it.
        now: Unix time in seconds, for hints to wait until a given time.
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
    """Whether a server answered that nothing exists at the address."""
    if type(error) is not errors.InvalidRequestError or error.status_code not in (404, 405):
        return False
    return not error.detail or _fits(WRONG_PATH, error.detail)


def page_error(page: bytes) -> errors.LLMError:
    """The error for a web page that came with status 200 instead of a reply."""
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
    """Raise an error if a reply's status or content type means one.

    Args:
        reply: the reply.
        call: the request that it answers.
        now: Unix time in seconds.
        most: the most bytes to read of an error's body.
    """
    if reply.status == 200 and (call.accept == "html" or reply.content_type != "text/html"):
        return
    if 200 < reply.status < 300 and reply.status not in (204, 205):
        return
    # Data after a reply without a body does not belong to it. It is not read, so that closing the
    # reply closes the connection.
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
