"""Ctrl-C at any step of a call: it ends, nothing is left, and the next call works."""

from __future__ import annotations

import ast
from collections.abc import Generator, Iterable
from pathlib import Path

import pytest

import llmproviders
from llmproviders.client import owned
from tests.reliability.interrupts import (
    SUBJECTS,
    Result,
    at_every_step,
    in_processes,
)
from tests.support.interrupts import Interrupter, interrupted

SHORTEST = "complete"
ROOT = Path(llmproviders.__file__).parent
APART = ROOT / "sandbox"


def wrong(results: Iterable[Result]) -> list[str]:
    """What is wrong with results, with the place of each interrupt."""
    return [f"{result.where}: {result.wrong}" for result in results if result.wrong]


def test_every_step() -> None:
    """Before whichever step it comes, no thread, lock, place or descriptor is left behind."""
    results = list(at_every_step(SHORTEST, once=True))
    assert len(results) > 300
    assert wrong(results) == []


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.proxies if name == "socks" else ())
        for name in SUBJECTS
        if name != SHORTEST
    ],
)
def test_steps(name: str) -> None:
    """The same for whatever else calls do, at some of their steps."""
    results = list(at_every_step(name, stride=37, once=True))
    assert len(results) > 5
    assert wrong(results) == []


def test_a_process() -> None:
    """A process ends as Ctrl-C ends it; its files are whole, and open to the others."""
    assert wrong(in_processes(3)) == []


def test_what_a_stream_reads_from_is_closed() -> None:
    """Before whichever step of the outermost generator it comes, the one inside it is closed."""
    step, steps = 1, 0
    while True:
        begun, closed = list[bool](), list[bool]()

        def pieces(begun: list[bool] = begun, closed: list[bool] = closed) -> Generator[str]:
            begun.append(True)
            try:
                yield from ("It ", "scatters.")
            finally:
                closed.append(True)

        interrupter = Interrupter(step)
        result = interrupted(lambda made=pieces: "".join(owned(made(), "x")), interrupter)
        if not interrupter.where:
            break
        assert isinstance(result, KeyboardInterrupt)
        assert closed == begun, interrupter.where
        step, steps = step + 1, steps + len(begun)
    assert steps > 5


def test_no_loop_opens_a_try() -> None:
    """No ``while`` is the first thing in a ``try`` that lets go of something.

    When an interrupt comes as such a loop goes back to its beginning, CPython 3.11 and 3.12 take
    it for one that came before the ``try``, and leave out what stands in ``finally``.
    """
    found = []
    for path in sorted(ROOT.rglob("*.py")):
        if APART in path.parents:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Try) and isinstance(node.body[0], ast.While):
                kinds = [handler.type for handler in node.handlers]
                lets_go = any(k is None or ast.unparse(k) == "BaseException" for k in kinds)
                if lets_go or node.finalbody:
                    found.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert found == []
