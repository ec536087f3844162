"""A provider as one client has it: its health records, its statistics, its budget for retries."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from .._runtime.scope import ForkLock
from ..client import BaseClient
from ..errors import MissingAuthError
from ._health import HealthKey
from ._report import ProviderStats

LEAST_RETRIES_AHEAD = 100
"""A full budget pays for so many retries, or for all of one call where ``attempts`` is larger."""

REPLIES_PER_RETRY = 5
"""So many replies that needed no retry pay for one later."""

_DIGEST_LENGTH = 16


class RetryBudget:
    """How many retries of one provider a client has left, over all its calls.

    Retries help against the odd failure. In an outage they only multiply the load, so they are
    paid from a budget that replies fill up again: a reply after retries gives those back, and any
    other reply a fifth of one. An empty budget leaves each call its first try.

    Args:
        most: retries that a full budget has.
    """

    def __init__(self, most: int) -> None:
        # Counted in whole numbers, since ten times 0.2 is not quite 2.
        self._most = self._left = most * REPLIES_PER_RETRY
        self._lock = ForkLock()

    def take(self) -> bool:
        """Pay for one retry; False where there is nothing left to pay it with."""
        with self._lock.mine:
            if self._left < REPLIES_PER_RETRY:
                return False
            self._left -= REPLIES_PER_RETRY
            return True

    def give_back(self, retries: int) -> None:
        """A whole reply came, after so many retries."""
        if self._left < self._most:
            with self._lock.mine:
                gained = retries * REPLIES_PER_RETRY or 1
                self._left = min(self._most, self._left + gained)


@dataclass(frozen=True)
class Target:
    """A provider as one client has it.

    Attributes:
        client: the provider, or another client.
        model: what it is asked for where the call does not say; None: its own default.
        budget: pays for its retries.
        number: its place in the priority order, from 0.
        namesakes: how many before it have the same name, address and model.
        stats: counts what happens to it.
    """

    client: BaseClient
    model: str | None
    budget: RetryBudget = field(compare=False)
    number: int = 0
    namesakes: int = 0
    stats: ProviderStats = field(default_factory=ProviderStats, compare=False)

    @classmethod
    def all_of(
        cls, chosen: Iterable[tuple[BaseClient, str | None]], *, attempts: int
    ) -> tuple[Target, ...]:
        """A target for each provider and model, in priority order.

        Args:
            chosen: the providers and models.
            attempts: the most tries of each in a call.
        """
        targets: list[Target] = []
        for number, (client, model) in enumerate(chosen):
            server = server_of(client, model)
            namesakes = sum(server_of(other.client, other.model) == server for other in targets)
            budget = RetryBudget(max(LEAST_RETRIES_AHEAD, attempts))
            targets.append(cls(client, model, budget, number, namesakes))
        return tuple(targets)

    def health_key(self) -> HealthKey:
        """The names of its health records; nothing in them is secret.

        It is made anew for each use: a key that was renewed since has no failures yet.
        """
        server = server_of(self.client, self.model)
        try:
            digest = self.client.credential_digest()
        except MissingAuthError:
            # The call itself raises it, where the caller can do something about it.
            digest = None
        if digest is None:
            # Two of one service that look the same may still have different keys.
            alone = f"{server}#{self.namesakes + 1}" if self.namesakes else server
            return HealthKey(alone, alone)
        credential = f"{server}|{digest[:_DIGEST_LENGTH]}"
        # A client of several providers has no server of its own.
        return HealthKey(server if _address(self.client) else credential, credential)


def server_of(client: BaseClient, model: str | None) -> str:
    """A provider's name, its address and the model asked for.

    A password in the address is left out, and so is a query, which may hold a key.
    """
    model = model or getattr(client, "model", None) or ""
    return "|".join((client.name, _address(client), model))


def _address(client: BaseClient) -> str:
    url = urlsplit(getattr(client, "base_url", ""))
    return f"{url.scheme}://{url.netloc.rpartition('@')[2]}{url.path}" if url.netloc else ""
