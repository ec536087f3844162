"""Which error a status means, and an error object in a reply."""

from __future__ import annotations

from typing import Any

import pytest

from llmproviders._http.error_map import class_of_status, error_of, service_message
from llmproviders.errors import (
    AuthenticationError,
    ConnectionFailed,
    InvalidRequestError,
    LLMError,
    ModelNotFoundError,
    ProtocolError,
    ProviderTimeout,
    QuotaExceededError,
    RateLimitError,
    ServerError,
)

STATUSES: dict[int, type[LLMError]] = {
    400: InvalidRequestError,
    401: AuthenticationError,
    402: QuotaExceededError,
    403: AuthenticationError,
    404: InvalidRequestError,
    407: ConnectionFailed,
    408: ProviderTimeout,
    409: ServerError,
    413: InvalidRequestError,
    422: InvalidRequestError,
    424: ServerError,
    425: ServerError,
    429: RateLimitError,
    498: RateLimitError,
}


class TestStatus:
    @pytest.mark.parametrize("status", range(400, 600))
    def test_failures(self, status: int) -> None:
        """Each 4xx and 5xx has the class of the table, else the one of its hundred."""
        rest = InvalidRequestError if status < 500 else ServerError
        assert class_of_status(status) is STATUSES.get(status, rest)

    @pytest.mark.parametrize("status", [100, 103, 200, 204, 300, 304, 399, 600, 999])
    def test_anything_else(self, status: int) -> None:
        """A status that is neither a success to be read nor a failure cannot be understood."""
        assert class_of_status(status) is ProtocolError

    @pytest.mark.parametrize(
        ("body", "said"),
        [
            (b'{"error": {"message": "no model", "type": "x"}}', "no model"),
            (b'{"error": "plainly"}', "plainly"),
            (b'{"status": 422, "message": "Invalid params"}', "Invalid params"),
            (b'{"status": "error", "msg": "nonce"}', "nonce"),
            (b'{"detail": "Not Found"}', "Not Found"),
            (b'{"event": "error", "data": "busy"}', "busy"),
            (b'"text"', "text"),
            (b"plain text", "plain text"),
            (b"\xff\xfe", "\ufffd\ufffd"),
            (b"x" * 1000, "x" * 300),
            (b'{"message": "' + b"x" * 1000 + b'"}', "x" * 500),
            (b"", None),
            (b"  \n", None),
            (b"{}", None),
            (b"[1]", None),
            (b'{"error": {"message": 7}}', None),
            (b'{"error": null, "message": ""}', None),
            (b"[" * 100_000, "[" * 300),
        ],
    )
    def test_what_a_service_says(self, body: bytes, said: str | None) -> None:
        """The words of an error body are found in every shape that a service has for them."""
        assert service_message(body) == said

    @pytest.mark.parametrize(
        ("value", "cls", "status"),
        [
            ({"error": {"message": "m", "code": 429}}, RateLimitError, 429),
            ({"error": {"message": "m", "code": "401"}}, AuthenticationError, 401),
            ({"error": {"message": "m", "type": "insufficient_quota"}}, QuotaExceededError, 402),
            ({"error": {"message": "m", "code": "rate_limit_exceeded"}}, RateLimitError, 429),
            ({"error": {"message": "m", "code": "model_not_found"}}, ModelNotFoundError, 404),
            ({"error": {"message": "m", "code": "odd", "type": "x"}}, ServerError, None),
            ({"error": "m"}, ServerError, None),
            ({"error": ["m"]}, ServerError, None),
            ({"status": 422, "message": "m"}, InvalidRequestError, 422),
            ({"status": 1, "message": "m"}, ServerError, None),
            ({"code": 10001, "msg": "m"}, ServerError, None),
            ({"status": True}, ServerError, None),
            ({"status": 200}, ServerError, None),
            ("m", ServerError, None),
            (None, ServerError, None),
        ],
    )
    def test_an_error_in_a_success(
        self, value: Any, cls: type[LLMError], status: int | None
    ) -> None:
        """An error object in a reply with status 200 means what its code or status says."""
        error = error_of(value)
        assert (type(error), error.status_code) == (cls, status)
        if "m" in str(value):
            assert str(error).endswith(": m")
