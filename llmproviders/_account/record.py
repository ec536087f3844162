"""What is known of an attempt while it is made, and the ``Attempt`` that it becomes."""

from __future__ import annotations

from .._http.types import HTTPRequest
from .._runtime.scope import Clock
from ..errors import Attempt, LLMError, Usage
from ..results import Transcript


class Record:
    """What happens in one attempt.

    Attributes:
        begun: whether text or thoughts have come.
        usage: the tokens, once the service has told them.
        call: what was sent last, or None where ``prepare`` has not come to that.
        sent: whether the request, and not only what comes before it, was handed to the transport.
    """

    def __init__(self, provider: str, model: str | None, clock: Clock) -> None:
        self.provider = provider
        self.model = model
        self.transcript = Transcript()
        self.first_text_at: float | None = None
        self.begun = False
        self.usage: Usage | None = None
        self.call: HTTPRequest | None = None
        self.sent = False
        self._clock = clock
        self.start(0.0)

    def start(self, waited: float) -> None:
        """The attempt begins, after ``waited`` seconds."""
        self._waited = waited
        self._started_at = self._clock.wall()
        self._start = self._clock.monotonic()

    def first_text(self) -> None:
        """The first text is here."""
        self.begun = True
        self.first_text_at = self._clock.monotonic()

    def attempt(self, error: LLMError | None) -> Attempt:
        """The attempt as it ends now."""
        first = self.first_text_at
        return Attempt(
            provider=self.provider,
            model=self.model,
            started_at=self._started_at,
            first_chunk_after=None if first is None else first - self._start,
            duration=self._clock.monotonic() - self._start,
            error=error,
            waited=self._waited,
            chunks=self.transcript.count,
            usage=self.usage,
        )
