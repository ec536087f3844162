"""Count the files that a call goes through: ``python -m benchmarks.way``.

A tracer follows a call on the sandbox, over a connection that is already open, from ``stream()``
to its first text, and again with a 503 for the first try. It counts the files of the package that
the call enters, and the moves: calls of a function in another file than the previous call. The
standard library and other packages are not counted.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import llmproviders
from llmproviders import FailoverClient
from llmproviders.sandbox import Sandbox

PACKAGE = str(Path(llmproviders.__file__).parent)
APART = str(Path(PACKAGE) / "sandbox")
PROMPT = "Why is the sky blue?"


class Tracer:
    """Counts while it is active, in the thread that started it.

    Attributes:
        files: the files entered, in order.
        moves: calls from one of them into another.
    """

    def __init__(self) -> None:
        self.files: list[str] = []
        self.moves = 0
        self._here = ""

    def __call__(self, frame: FrameType, event: str, _: Any) -> None:
        """Handle one event of ``sys.setprofile``."""
        if event != "call":
            return
        path = frame.f_code.co_filename
        if not path.startswith(PACKAGE) or path.startswith(APART):
            return
        if path not in self.files:
            self.files.append(path)
        if path != self._here:
            self.moves += 1
            self._here = path


def follow(call: Callable[[], object]) -> Tracer:
    """Trace a call."""
    tracer = Tracer()
    sys.setprofile(tracer)
    try:
        call()
    finally:
        sys.setprofile(None)
    return tracer


def first_text(client: FailoverClient) -> None:
    """Ask, and stop at the first text."""
    stream = client.stream(PROMPT)
    for piece in stream:
        if piece:
            break
    sys.setprofile(None)
    for _ in stream:
        pass


def ways(provider: str) -> tuple[Tracer, Tracer]:
    """Trace a call of one provider, and one that gets a 503 first.

    Args:
        provider: the provider's name in the sandbox.
    """
    with Sandbox() as sandbox, sandbox.client(provider, wait=_no_wait, cooldown=0) as client:
        for _ in range(2):
            first_text(client)
        warm = follow(lambda: first_text(client))
        sandbox.fail(provider, status=503)
        return warm, follow(lambda: first_text(client))


def main() -> None:
    """Print both counts, and the files of the first."""
    for provider in ("gigachat", "openai_compatible"):
        warm, retried = ways(provider)
        print(f"{provider}: warm {len(warm.files)} files, {warm.moves} moves;", end=" ")
        print(f"after a 503 {len(retried.files)} files, {retried.moves} moves")
        for path in warm.files:
            print("   ", Path(path).relative_to(PACKAGE))


def _no_wait(_: object) -> float:
    return 0.0


if __name__ == "__main__":
    main()
