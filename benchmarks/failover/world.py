"""Three services as they behave in reality, with a source for every number.

No service has all of these figures published, so each of the three combines published ones:

- **Incidents.** Mean time to repair and mean time between failures of two large providers' APIs and
  a third service are those of Chu, Talluri, Lu and Iosup, "An Empirical Characterization of Outages
  and Incidents in Public Services for Large Language Models" (ICPE 2025, arXiv 2501.12469, their
  published data): 2.81 h and 5.22 days, 2.56 h and 5.64 days, 3.95 h and 8.74 days. Their
  availability, 99.6 to 99.9 %, is far better than these times imply if every incident stopped
  everything. So one in ten of ours does; the others make the service slow and every seventh request
  fail.
- **Time to the first text.** Median, 95th and 99th percentile and maximum of a day's measurements
  every five minutes, as modelstats.ai published them in 2026 ("LLM API Latency Spikes: What Average
  TTFT Doesn't Tell You") for Claude Haiku 4.5, GPT-4o mini and Gemini 2.5 Flash.
- **Rate limits.** Requests a minute in the providers' documentation for free and first paid tiers:
  20 (OpenRouter's free models), 50 (Anthropic, tier 1), 30 (Groq, free).

Assumptions without a source: two of three requests to a service that is down are refused
immediately with 503, the third hangs; one reply in a thousand is cut in the middle.
"""

from __future__ import annotations

import random
from bisect import bisect_right
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from math import exp, log
from typing import Any, ClassVar

from llmproviders._request import SAMPLING
from llmproviders._runtime.scope import CancelScope
from llmproviders.errors import (
    LLMError,
    ProviderTimeout,
    RateLimitError,
    ServerError,
    StreamInterrupted,
)
from llmproviders.provider import Call, Fetch, Provider, Reply, Request
from llmproviders.results import FinishReason
from tests.support.simclock import SimulatedClock

HOUR = 3600.0
DAY = 24 * HOUR

READ_TIMEOUT_S = 60.0
SHARE_OF_OUTAGES = 0.1
SHARE_REFUSED_WHEN_DOWN = 2 / 3
SHARE_FAILING_WHEN_SLOW = 1 / 7
SLOWER_BY = 4.0
SHARE_CUT = 0.001
PIECES = 8
PIECE_S = 0.2


@dataclass(frozen=True)
class Service:
    """The figures of a service.

    Attributes:
        name: its name here.
        repair_s, between_s: mean seconds that an incident takes, and between two of them.
        first_text_s: median, 95th, 99th percentile and maximum of the time to the first text.
        per_minute: requests that it accepts in a minute.
    """

    name: str
    repair_s: float
    between_s: float
    first_text_s: tuple[float, float, float, float]
    per_minute: int


SERVICES = (
    Service("first", 2.81 * HOUR, 5.22 * DAY, (0.541, 1.591, 4.117, 11.611), 20),
    Service("second", 2.56 * HOUR, 5.64 * DAY, (0.536, 0.844, 4.461, 5.946), 50),
    Service("third", 3.95 * HOUR, 8.74 * DAY, (0.477, 0.776, 1.309, 1.879), 30),
)


def quantile(points: tuple[float, float, float, float], share: float) -> float:
    """The time that ``share`` of requests do not exceed, interpolated between the known points."""
    shares = (0.0, 0.5, 0.95, 0.99, 1.0)
    values = (points[0] * 0.6, *points)
    at = min(bisect_right(shares, share), len(shares) - 1)
    low, high = shares[at - 1], shares[at]
    part = (share - low) / (high - low)
    return exp(log(values[at - 1]) * (1 - part) + log(values[at]) * part)


class Weather:
    """The times of a service's incidents, the same for all clients."""

    def __init__(self, service: Service, lasting_s: float, chance: random.Random) -> None:
        self._begins: list[float] = []
        self._incidents: list[tuple[float, bool]] = []
        at = 0.0
        while at < lasting_s:
            at += chance.expovariate(1 / service.between_s)
            end = at + chance.expovariate(1 / service.repair_s)
            self._begins.append(at)
            self._incidents.append((end, chance.random() < SHARE_OF_OUTAGES))
            at = end

    def at(self, moment: float) -> str:
        """``"fine"``, ``"slow"`` or ``"down"``."""
        index = bisect_right(self._begins, moment) - 1
        if index < 0:
            return "fine"
        end, is_outage = self._incidents[index]
        return "fine" if moment >= end else "down" if is_outage else "slow"


class Simulated(Provider):
    """A service with its incidents, on the simulation's clock."""

    url = "simulated://here"
    default_model = "simulated"
    open_catalogue = True
    supported_params = SAMPLING

    def __init__(
        self, service: Service, weather: Weather, clock: SimulatedClock, chance: random.Random
    ) -> None:
        super().__init__(name=service.name)
        self.asked = 0
        self._service = service
        self._weather = weather
        self._clock = clock
        self._chance = chance
        self._last_minute: deque[float] = deque()

    def prepare(self, request: Request, fetch: Fetch) -> Call:
        """Count it."""
        self.asked += 1
        return Call("POST", self.base_url)

    def make_transport(self) -> Any:
        """Send nothing."""
        return _Road()

    def parse(self, reply: Reply) -> Iterator[str]:
        """Behave as the incidents require."""
        scope: CancelScope = reply.scope  # type: ignore[attr-defined]
        self._check_rate()
        weather, chance = self._weather.at(self._clock.monotonic()), self._chance
        if weather == "down":
            yield from self._down(scope)
        slower = SLOWER_BY if weather == "slow" else 1.0
        scope.sleep(quantile(self._service.first_text_s, chance.random()) * slower)
        if weather == "slow" and chance.random() < SHARE_FAILING_WHEN_SLOW:
            raise ServerError("overloaded", status_code=503)
        pieces = max(2, round(chance.lognormvariate(log(PIECES), 0.5)))
        cut = chance.randrange(pieces) if chance.random() < SHARE_CUT else None
        for number in range(pieces):
            yield "text "
            scope.sleep(PIECE_S)
            if number == cut:
                raise StreamInterrupted("cut")
        yield FinishReason("stop")

    def _down(self, scope: CancelScope) -> Iterator[str]:
        error: LLMError
        if self._chance.random() < SHARE_REFUSED_WHEN_DOWN:
            scope.sleep(0.1)
            error = ServerError("down", status_code=503)
        else:
            scope.sleep(READ_TIMEOUT_S)
            error = ProviderTimeout("nothing came")
        raise error
        yield

    def _check_rate(self) -> None:
        now, recent = self._clock.monotonic(), self._last_minute
        while recent and recent[0] <= now - 60:
            recent.popleft()
        if len(recent) >= self._service.per_minute:
            wait = float(int(recent[0] + 60 - now) + 1)
            raise RateLimitError("too many", status_code=429, retry_after=wait)
        recent.append(now)


class _Road:
    def open(self, call: Call, scope: CancelScope, **_: Any) -> _Nothing:
        if scope.over:
            raise scope.error()
        return _Nothing(scope)

    def close(self) -> None:
        pass


class _Nothing:
    status = 200
    content_type = ""
    request_id: str | None = None
    headers: ClassVar[dict[str, str]] = {}

    def __init__(self, scope: CancelScope) -> None:
        self.scope = scope

    def finish(self) -> None:
        pass

    def close(self) -> None:
        pass
