"""What the sandbox asks of a service."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from llmproviders.sandbox._record import RecordedRequest
from llmproviders.sandbox._reply import HeaderPairs, SandboxReply, Whole
from llmproviders.sandbox._settings import Settings


class Service(ABC):
    """One service: its paths, what it refuses, what it answers."""

    name: ClassVar[str]
    title: ClassVar[str]
    """What its replies call it."""
    routes: ClassVar[dict[tuple[str, str], str]]
    """Method and path to the kind of request."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    @abstractmethod
    def refuse(self, request: RecordedRequest) -> Whole | None:
        """Return the error for a request that the service does not accept; None if it does."""

    @abstractmethod
    def answer(self, request: RecordedRequest, *, empty: bool) -> SandboxReply:
        """Return the reply to an accepted request; one without any text if `empty`."""

    def reply_headers(self, _request: RecordedRequest, /) -> HeaderPairs:
        """Return the headers that every reply of the service carries, errors too."""
        return ()

    @abstractmethod
    def error(self, status: int, kind: str, /) -> Whole:
        """Return what the service says along with an HTTP status, in reply to such a request."""
