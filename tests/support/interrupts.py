"""Interrupts, wherever Python looks for signals and when no wait is woken by them."""

from __future__ import annotations

import _thread
import dis
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import llmproviders

_OURS = str(Path(llmproviders.__file__).parent) + os.sep
_SANDBOX = _OURS + "sandbox"
_SIGNALS_ARE_SEEN = (
    *("CALL", "RESUME", "JUMP_BACKWARD", "JUMP_ABSOLUTE", "POP_JUMP"),
    # What may run code in which they are.
    *("BEFORE_WITH", "SETUP_WITH", "WITH_EXCEPT_START", "FOR_ITER", "SEND", "YIELD_FROM"),
)
_MAY_BE_PROPERTIES = ("LOAD_ATTR", "LOAD_METHOD")


class _Signal(int):
    """The number of a signal, which arrives when ``arrives`` is read.

    To read an attribute that is written in C is nothing after which Python looks for signals, so
    it is seen where it would be, had it come from outside.
    """

    arrives = property(_thread.interrupt_main)


_SIGINT = _Signal(signal.SIGINT)


class Interrupter:
    """A trace function by which SIGINT arrives before the nth step of the library's code.

    A step is an instruction at or after which Python looks for signals. The signal arrives, and
    is seen where Python looks next. A trace function that raised would interrupt in places where
    no signal ever does, above all between the end of a ``with`` block and its ``__exit__``; so
    nothing is traced from then on. Nor does the signal wake a wait that has begun, as one that
    comes just before does not.

    Args:
        at: the number of the step; 0: never.
        once: count a step only the first time that it is taken.

    Attributes:
        steps: how many were taken.
        where: the one at which the signal came, or the empty string.
    """

    def __init__(self, at: int = 0, *, once: bool = False) -> None:
        # Found here, not in the call, whose end is bounded.
        _properties()
        self.steps = 0
        self.where = ""
        self._at = at
        self._taken: set[tuple[CodeType, int]] | None = set() if once else None

    def __call__(self, frame: FrameType, event: str, arg: Any) -> Callable[..., Any] | None:
        """What Python calls for each function that is entered."""
        name = frame.f_code.co_filename
        if not name.startswith(_OURS) or name.startswith(_SANDBOX):
            return None
        frame.f_trace_lines, frame.f_trace_opcodes = False, True
        return self._step

    def _step(self, frame: FrameType, event: str, arg: Any) -> Callable[..., Any]:
        code, offset = frame.f_code, frame.f_lasti
        if event == "opcode" and offset in _steps(code):
            if self._taken is not None:
                if (code, offset) in self._taken:
                    return self._step
                self._taken.add((code, offset))
            self.steps += 1
            if self.steps == self._at:
                self.where = f"{Path(code.co_filename).name}:{frame.f_lineno} {code.co_name}"
                # Python looks for signals in a trace function, too, which may be called once more
                # between the end of a ``with`` block and its ``__exit__``.
                sys.settrace(None)
                _SIGINT.arrives  # noqa: B018 - see there
        return self._step


@cache
def _steps(code: CodeType) -> frozenset[int]:
    return frozenset(
        step.offset
        for step in dis.get_instructions(code)
        if (step.opname.startswith(_SIGNALS_ARE_SEEN) and "INTRINSIC" not in step.opname)
        or (step.opname in _MAY_BE_PROPERTIES and step.argval in _properties())
    )


@cache
def _properties() -> frozenset[str]:
    return frozenset(
        name
        for cls in _subclasses(object)
        if str(cls.__module__).startswith("llmproviders")
        for name, value in list(vars(cls).items())
        if isinstance(value, property)
    )


def _subclasses(cls: type) -> set[type]:
    """All classes below one; the collector does not list those that were frozen."""
    direct = set(type.__subclasses__(cls))
    return direct.union(*map(_subclasses, direct))


def interrupted(call: Callable[[], str], interrupter: Interrupter) -> str | BaseException:
    """What a call returns or raises."""
    before = sys.gettrace()
    # Python 3.12 looks for this when a trace function is set, not when it is called.
    sys._getframe().f_trace_opcodes = True
    try:
        sys.settrace(interrupter)
        result = call()
        # The signal may be seen as late as here.
        sys.settrace(before)
    except BaseException as error:  # noqa: BLE001 - whatever comes out is what is judged
        return error
    finally:
        sys.settrace(before)
    return result


def signalled(call: Callable[[], str], after_s: float) -> str | BaseException:
    """What a call returns or raises if a real SIGINT comes after so many seconds."""
    me = threading.get_ident()

    def send() -> None:
        time.sleep(after_s)
        signal.pthread_kill(me, signal.SIGINT)

    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    sender = threading.Thread(target=send)
    sender.start()
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
        result = call()
        sender.join()
        # The signal may be seen as late as here.
        time.sleep(0.001)
    except BaseException as error:  # noqa: BLE001 - whatever comes out is what is judged
        sender.join()
        return error
    return result


def unnoticed(call: Callable[[], object], waits: Callable[[], object]) -> tuple[object, float]:
    """What a call raises, and how many seconds after a SIGINT that woke no wait of it.

    The signal is sent to another thread: the system then interrupts none of what the main thread
    waits for, as it does not when the signal comes just before the wait.

    Args:
        call: what is interrupted.
        waits: returns, in another thread, when the call is about to wait.
    """
    sent = 0.0

    def send() -> None:
        nonlocal sent
        waits()
        time.sleep(0.05)
        sent = time.monotonic()
        signal.pthread_kill(threading.get_ident(), signal.SIGINT)

    sender = threading.Thread(target=send)
    sender.start()
    try:
        result: object = call()
    except BaseException as error:  # noqa: BLE001 - whatever comes out is what is judged
        result = error
    took = time.monotonic() - sent
    sender.join()
    return result, took
