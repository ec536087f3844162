"""Providers that play a part, on a clock that nobody waits for."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from llmproviders._request import SAMPLING
from llmproviders._runtime.scope import CancelScope
from llmproviders.errors import LLMError
from llmproviders.provider import Call, Fetch, Provider, Reply, Request
from llmproviders.results import FinishReason
from llmproviders.testing._scripted import NoReply

Step = str | float | LLMError | FinishReason | Callable[[], object]
Act = Sequence[Step]
"""One try, step by step: text is yielded, seconds pass, an error is raised, a function is called.

An act that has neither an error nor a ``FinishReason`` at its end ends well.
"""


class FakeClock:
    """A clock that a sleep sets forward at once; ``slept`` has every sleep, in seconds."""

    def __init__(self, *, monotonic: float = 1000.0, wall: float = 1_700_000_000.0) -> None:
        self._lock = threading.Lock()
        self._monotonic = monotonic
        self._wall = wall
        self.slept: list[float] = []

    def monotonic(self) -> float:
        """Seconds since some moment."""
        return self._monotonic

    def wall(self) -> float:
        """Unix time in seconds."""
        return self._wall

    def pass_(self, seconds: float) -> None:
        """Let time pass."""
        with self._lock:
            self._monotonic += seconds
            self._wall += seconds

    def set_wall(self, wall: float) -> None:
        """Set the wall clock, as an administrator does; the other one does not notice."""
        self._wall = wall

    def sleep(self, seconds: float, wake: threading.Event | None = None) -> None:
        """Let time pass, and remember that somebody slept."""
        if wake is None or not wake.is_set():
            self.slept.append(seconds)
            self.pass_(seconds)


class Actor(Provider):
    """Plays an act for each try, in order; the last one for all further tries.

    Args:
        *acts: what it plays; see ``Act``.
        **arguments: as for any provider.

    Attributes:
        requests: what it was asked, a request for each try.
        playing: how many of its replies are open.
    """

    url = "stage://here"
    default_model = "actor"
    open_catalogue = True
    supported_params = SAMPLING

    def __init__(self, *acts: Act, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.acts = acts
        self.requests: list[Request] = []
        self.playing = 0

    @property
    def tries(self) -> int:
        """How often it was asked."""
        return len(self.requests)

    def prepare(self, request: Request, fetch: Fetch) -> Call:
        """Note what is asked."""
        self.requests.append(request)
        return Call("POST", self.base_url)

    def parse(self, reply: Reply) -> Iterator[str]:
        """Play."""
        assert isinstance(reply, _Stage)
        for step in reply.act:
            if isinstance(step, FinishReason):
                yield step
                return
            if isinstance(step, str):
                if reply.scope.over:
                    raise reply.scope.error()
                yield step
            elif isinstance(step, (int, float)):
                reply.scope.sleep(step)
            elif isinstance(step, LLMError):
                raise copy.copy(step)
            else:
                step()
        yield FinishReason("stop")

    def make_transport(self) -> _Theatre:
        """Nothing is sent."""
        return _Theatre(self)


class _Theatre:
    def __init__(self, actor: Actor) -> None:
        self._actor = actor

    def open(self, call: Call, scope: CancelScope, **_: Any) -> _Stage:
        if scope.over:
            raise scope.error()
        return _Stage(self._actor, scope)

    def close(self) -> None:
        pass


class _Stage(NoReply):
    def __init__(self, actor: Actor, scope: CancelScope) -> None:
        super().__init__()
        self.scope = scope
        acts = actor.acts or ((),)
        self.act = acts[min(actor.tries, len(acts)) - 1]
        self._actor: Actor | None = actor
        actor.playing += 1

    def close(self) -> None:
        if self._actor is not None:
            self._actor.playing -= 1
            self._actor = None
