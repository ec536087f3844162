"""A provider without any network, for tests of code that calls language models."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from .._account.arguments import ProviderArguments
from .._http.types import HTTPRequest, HTTPResponse
from .._request import SAMPLING, ChatRequest, Unpack
from .._runtime.scope import CancelScope
from ..errors import LLMError
from ..provider import Fetch, Provider
from ..results import FinishReason


class ScriptedProvider(Provider):
    """Gives the same reply to every call, and then raises ``error`` if there is one.

    It accepts every model and every parameter, and keeps each request in ``requests``.

    Args:
        chunks: the pieces of the reply.
        error: the error to raise after them, instead of ending normally.
        **common: as for any provider; ``name`` is the useful one.

    >>> from llmproviders import FailoverClient, ServerError
    >>> client = FailoverClient(
    ...     [
    ...         ScriptedProvider([], error=ServerError("down"), name="first"),
    ...         ScriptedProvider(["Hello", "!"], name="second"),
    ...     ],
    ...     attempts=1,
    ... )
    >>> reply = client.complete("Hi")
    >>> str(reply), reply.provider, len(reply.attempts)
    ('Hello!', 'second', 2)
    """

    url = "scripted://here"
    default_model = "scripted"
    open_catalogue = True
    supports_tools = True
    supports_schema = True
    supports_images = True
    supported_params = SAMPLING

    def __init__(
        self,
        chunks: Iterable[str] = (),
        error: LLMError | None = None,
        **common: Unpack[ProviderArguments],
    ) -> None:
        super().__init__(**common)
        self.chunks = tuple(chunks)
        self.error = error
        self.requests: list[ChatRequest] = []

    def prepare(self, request: ChatRequest, fetch: Fetch) -> HTTPRequest:
        """Keep the request."""
        self.requests.append(request)
        return HTTPRequest("POST", self.base_url)

    def parse(self, reply: HTTPResponse) -> Iterator[str]:
        """Yield the chunks, then end or raise."""
        yield from self.chunks
        if self.error is not None:
            raise copy.copy(self.error)
        yield FinishReason("stop")

    def make_transport(self) -> _NoTransport:
        """Send nothing."""
        return _NoTransport()


class _NoTransport:
    def open(self, call: HTTPRequest, scope: CancelScope, **_: Any) -> NoReply:
        if scope.over:
            raise scope.error()
        scope.check_sends()
        return NoReply()

    def close(self) -> None:
        pass


class NoReply:
    """A reply without a body."""

    status = 200
    content_type = ""
    request_id: str | None = None

    def __init__(self) -> None:
        self.headers: Mapping[str, str] = {}
        self.cookies: dict[str, str] = {}
        self.texts: Callable[[], int] = int
        self.asked: Any = None

    def lines(self) -> Iterator[bytes]:
        return iter(())

    def events(self) -> Iterator[bytes]:
        return iter(())

    def read(self, limit: int | None = None) -> bytes:
        return b""

    def json(self) -> Any:
        return None

    def finish(self) -> None:
        pass

    def close(self) -> None:
        pass
