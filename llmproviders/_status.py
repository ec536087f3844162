"""What a service means by a status and by the words that come with it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from . import errors
from ._call import Call, Reply
from ._headers import parse_retry_after
from ._log import logger
from ._redact import redact

BY_STATUS: dict[int, type[errors.LLMError]] = {
    400: errors.InvalidRequestError,
    401: errors.AuthenticationError,
    402: errors.QuotaExceededError,
    403: errors.AuthenticationError,
    404: errors.InvalidRequestError,
    407: errors.ConnectionFailed,
    408: errors.ProviderTimeout,
    413: errors.InvalidRequestError,
    422: errors.InvalidRequestError,
    425: errors.ServerError,
    429: errors.RateLimitError,
}

SAID_BY_STATUS = {
    400: "the service calls the request wrong",
    401: "the service refused the key; check it",
    402: "the service wants to be paid: tokens are used up",
    403: "the service denies access; check the key and its rights",
    404: "the service knows no such address or model; check base_url and model",
    407: "the proxy wants a user and password; give them in its URL",
    413: "the request is too large for the service; shorten the prompt",
    422: "the service calls the request wrong",
    429: "too many requests; wait",
}


def class_of_status(status: int) -> type[errors.LLMError]:
    """The error that an HTTP status means."""
    known = BY_STATUS.get(status)
    if known is not None:
        return known
    if 400 <= status < 500:
        return errors.InvalidRequestError
    if 500 <= status < 600:
        return errors.ServerError
    return errors.ProtocolError


_CHALLENGES = (b"<title>just a moment...", b"<title>attention required! | cloudflare")


def is_challenge(page: bytes) -> bool:
    """Whether a page is a browser challenge that only a person passes."""
    head = page[:8192].lower()
    return any(mark in head for mark in _CHALLENGES)


def service_message(body: bytes) -> str | None:
    """What a service says in an error's body: a field of its JSON, or a short plain text."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return _cut(body.decode(errors="replace").strip(), 300)
    return message_of(value)


def message_of(value: Any) -> str | None:
    """The message in an error object of any of the services' shapes."""
    if isinstance(value, str):
        return _cut(value, 500)
    if not isinstance(value, Mapping):
        return None
    if value.get("error"):
        return message_of(value["error"])
    for name in ("message", "msg", "detail", "data"):
        text = value.get(name)
        if isinstance(text, str) and text:
            return _cut(text, 500)
    return None


def _cut(text: str, length: int) -> str | None:
    """The beginning of a service's text; a key that is cut in two could not be told any more."""
    return redact(text)[:length] or None


def error_of(value: Any) -> errors.LLMError:
    """The error that an error object inside a successful reply means.

    Its ``code`` or ``status`` decides where that is an HTTP status, or a word for one; else the
    service is in trouble.
    """
    inner = value.get("error") if isinstance(value, Mapping) else None
    fields = inner if isinstance(inner, Mapping) else value if isinstance(value, Mapping) else {}
    status = next((n for n in map(_status, (fields.get(k) for k in _STATUS_FIELDS)) if n), None)
    kind = errors.ServerError if status is None else class_of_status(status)
    said = message_of(value)
    return kind(
        f"the service reports an error{': ' + said if said else ''}",
        status_code=status,
        detail=said,
    )


_STATUS_FIELDS = ("status", "code", "type")
_DIGITS = re.compile("[0-9]{3}")
_STATUS_WORDS = {"rate_limit_exceeded": 429, "insufficient_quota": 402, "model_not_found": 404}


def _status(value: Any) -> int | None:
    if isinstance(value, str):
        value = _STATUS_WORDS.get(value, int(value) if _DIGITS.fullmatch(value) else 0)
    return value if type(value) is int and 400 <= value < 600 else None


_BODILESS = (204, 205, 304)


def check_reply(reply: Reply, call: Call, *, now: float, most: int) -> None:
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
    is_page = reply.content_type == "text/html" and b"<" in body
    said = None if is_page else service_message(body)
    kind = class_of_status(reply.status)
    message = SAID_BY_STATUS.get(reply.status, f"the service answered {reply.status}")
    if is_page and (is_challenge(body) or reply.status == 403):
        kind = errors.BlockedError
        message = "a challenge or access-denied page stands before the service"
    elif reply.status in (204, 205):
        kind, message = errors.EmptyReplyError, "the service answered without content"
    elif reply.status == 200:
        message = "the service answered with a web page where a reply was due; check base_url"
    raise kind(
        f"{message} (HTTP {reply.status}{': ' + said if said else ''})",
        status_code=reply.status,
        retry_after=parse_retry_after(reply.headers, now=now),
        request_id=reply.request_id,
        retryable=False if reply.status == 407 else None,
        detail=said,
    )


def _error_body(reply: Reply, most: int) -> bytes:
    try:
        return reply.read(most)
    except errors.DeadlineExceeded:
        raise
    except errors.LLMError as error:
        logger.debug("the body of an error reply could not be read: %s", error)
        return b""
