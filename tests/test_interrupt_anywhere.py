"""Ctrl-C at any line of a call, not only while it waits."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import requests
import urllib3

import llmproviders
from llmproviders import FailoverClient, LLMError
from llmproviders.sandbox import Sandbox

TRACED = tuple(str(Path(module.__file__).parent) for module in (llmproviders, requests, urllib3))
APART = str(Path(llmproviders.__file__).parent / "sandbox")
PLACES = 150


class Interrupter:
    """Raises ``KeyboardInterrupt`` at the nth line that the call runs; counts them without one."""

    def __init__(self, at: int = -1) -> None:
        self._at = at
        self.lines = 0
        self.where = ""

    def __call__(self, frame: FrameType, event: str, arg: Any) -> Callable[..., Any] | None:
        """What Python calls for each function that is entered."""
        name = frame.f_code.co_filename
        return self._line if name.startswith(TRACED) and not name.startswith(APART) else None

    def _line(self, frame: FrameType, event: str, arg: Any) -> Callable[..., Any]:
        if event == "line":
            self.lines += 1
            if self.lines == self._at:
                self.where = f"{frame.f_code.co_filename}:{frame.f_lineno}"
                raise KeyboardInterrupt
        return self._line


def ask(client: FailoverClient, interrupter: Interrupter) -> BaseException:
    """Stream a reply that stalls, and return what ended it, with its traceback."""
    tracing = sys.gettrace()
    sys.settrace(interrupter)
    try:
        for _ in client.stream("Why?", timeout=(5, 0.2)):
            pass
    except (KeyboardInterrupt, LLMError) as error:
        return error
    finally:
        sys.settrace(tracing)
    raise AssertionError("the reply did not stall")


@pytest.mark.usefixtures("leak_guard")
def test_whatever_it_hits_the_connection_is_closed(sandbox: Sandbox) -> None:
    """Whichever line an interrupt hits, the service sees the line close while the error lives."""
    with sandbox.client("openai", attempts=1) as client:
        sandbox.fail("openai", stall=True, cut_after=2, times=PLACES * 2)
        ask(client, Interrupter())
        counting = Interrupter()
        ask(client, counting)
        for at in range(1, counting.lines, counting.lines // PLACES):
            interrupter = Interrupter(at)
            error = ask(client, interrupter)
            assert isinstance(error, (KeyboardInterrupt, LLMError))
            assert sandbox.wait_for(lambda s: s.requests[-1].ended), interrupter.where
