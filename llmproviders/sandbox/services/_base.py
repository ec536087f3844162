"""The interface of the sandbox's services."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections import deque
from typing import Any, ClassVar

from llmproviders.sandbox._record import RecordedRequest
from llmproviders.sandbox._reply import HeaderPairs, SandboxReply, Whole
from llmproviders.sandbox._script import ScriptedReply
from llmproviders.sandbox._settings import ReplyText, Settings


class Service(ABC):
    """One service: its paths, what it refuses, what it answers."""

    name: ClassVar[str]
    class_name: ClassVar[str]
    """The provider that uses it."""
    title: ClassVar[str]
    """Its name in replies."""
    base_path: ClassVar[str] = ""
    """The path of its base address; unknown paths below it belong to this service."""
    routes: ClassVar[dict[tuple[str, str], str]]
    """Method and path to the kind of request."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._scripted: deque[ScriptedReply] = deque()
        self._scripted_lock = threading.Lock()
        self._here = threading.local()

    def script(self, reply: ScriptedReply, times: int) -> None:
        """Queue a reply for the next ``times`` chats, after those already queued."""
        with self._scripted_lock:
            self._scripted.extend([reply] * times)

    def say_here(self, reply: ScriptedReply | None) -> None:
        """Answer this thread's request with a reply, before the queued ones; None: as usual."""
        self._here.reply = reply

    def next_reply(self) -> ReplyText | ScriptedReply:
        """Return the next scripted reply, or else the sandbox's default reply."""
        here: ScriptedReply | None = getattr(self._here, "reply", None)
        if here is not None:
            return here
        with self._scripted_lock:
            return self._scripted.popleft() if self._scripted else self.settings.reply

    def arguments(self, url: str) -> dict[str, Any]:
        """Return the constructor's keyword arguments for a sandbox at `url`."""
        return {"base_url": url + self.base_path}

    def environ(self, url: str) -> dict[str, str]:
        """Return the environment variables for a sandbox at `url`."""
        return {f"LLMPROVIDERS_{self.class_name.upper()}_BASE_URL": url + self.base_path}

    @abstractmethod
    def refuse(self, request: RecordedRequest) -> Whole | None:
        """Return the error for a request that the service does not accept; None if it does."""

    @abstractmethod
    def answer(self, request: RecordedRequest, *, empty: bool) -> SandboxReply:
        """Return the reply to an accepted request; one without any text if `empty`."""

    def reply_headers(self, _request: RecordedRequest, /) -> HeaderPairs:
        """Return the headers of every reply of the service, including errors."""
        return ()

    @abstractmethod
    def error(self, status: int, kind: str, /) -> Whole:
        """Return the service's reply with an HTTP status to a request of this kind."""
