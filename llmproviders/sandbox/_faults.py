"""Faults that a sandbox produces on request: their arguments, queue and short form."""

from __future__ import annotations

import re
import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from llmproviders.sandbox._names import KINDS, is_service, service_name, suggest
from llmproviders.sandbox._reply import HTML, JSON, Whole, dump
from llmproviders.sandbox._settings import LONGEST_WAIT_S, seconds, whole

Body = bytes | str | dict[str, Any] | list[Any]


_CHALLENGE_PAGE = b"""<!DOCTYPE html>
<html lang="en-US"><head><title>Just a moment...</title>
<meta name="robots" content="noindex,nofollow"></head>
<body><div class="main-wrapper" role="main"><h2>Verifying you are human.</h2>
<noscript>Enable JavaScript and cookies to continue</noscript></div>
<script src="/cdn-cgi/challenge-platform/h/b/orchestrate/chl_page/v1"></script></body></html>
"""


@dataclass(frozen=True)
class Fault:
    """One fault: the arguments of :meth:`Sandbox.fail`, checked against one another.

    Args:
        status, headers, body, cut_after, stall, drip_s: as for :meth:`Sandbox.fail`.
        reset, garbage, html, empty, wrong_json, before_head, times: the same.

    Raises:
        ValueError: an argument is invalid, or they do not go together.

    >>> Fault(status=503, times=2).comes_first
    True
    """

    status: int | None = None
    headers: Mapping[str, str] | None = None
    body: Body | None = None
    cut_after: int | None = None
    stall: bool = False
    drip_s: float | None = None
    reset: bool = False
    garbage: bool = False
    html: bool = False
    empty: bool = False
    wrong_json: bool = False
    before_head: bool = False
    times: int = 1

    def __post_init__(self) -> None:
        own_reply = self.status is not None or self.body is not None
        if self.status is not None:
            whole("status", self.status, least=200, most=599)
        if self.cut_after is not None:
            whole("cut_after", self.cut_after, least=0)
        if self.drip_s is not None:
            seconds("drip_s", self.drip_s, most=LONGEST_WAIT_S)
        whole("times", self.times)
        if self.before_head and not (self.stall or self.drip_s):
            raise ValueError(
                "before_head only says where a stall or a drip begins: give one of them"
            )
        if self.html and self.body is not None:
            raise ValueError("html already has a body: give one of html and body")
        modes = {
            "status or body": own_reply and not self.html,
            "stall": self.stall,
            "reset": self.reset,
            "garbage": self.garbage,
            "html": self.html,
            "empty": self.empty,
            "wrong_json": self.wrong_json,
        }
        given = [name for name, is_given in modes.items() if is_given]
        if len(given) > 1:
            raise ValueError(f"one fault at a time, not {' and '.join(given)}")
        if not given and self.cut_after is None and self.drip_s is None and not self.headers:
            raise ValueError("say what should go wrong, for example status=503 or cut_after=3")

    def check_kind(self, kind: str) -> None:
        """Check that a request of a kind can fail in this way.

        Args:
            kind: ``"chat"``, ``"token"`` and so on.

        Raises:
            ValueError: it cannot.
        """
        if self.wrong_json and kind != "chat":
            raise ValueError(f"wrong_json only applies to a chat, not to a {kind!r} request")

    @property
    def comes_first(self) -> bool:
        """Whether it replaces the reply, so that the request is not checked."""
        return (
            self.status is not None
            or self.body is not None
            or self.html
            or (self.stall and self.before_head)
            or (self.reset and self.cut_after is None)
        )

    @property
    def breaks_off(self) -> bool:
        """Whether the reply stays incomplete."""
        return self.stall or self.reset or (self.cut_after is not None and not self.garbage)

    @property
    def after_pieces(self) -> int:
        """Pieces of text that are sent before it."""
        return self.cut_after or 0

    def own_reply(self, usual: Whole) -> Whole:
        """Return the reply to send instead of the service's.

        Args:
            usual: what the service itself says along with the fault's status.
        """
        if self.html:
            return Whole(
                self.status or 200,
                _CHALLENGE_PAGE,
                content_type=HTML,
                headers=(("cf-mitigated", "challenge"),),
            )
        if self.body is None:
            return usual
        data = _as_bytes(self.body)
        kind = JSON if data[:1] in (b"{", b"[") else HTML
        return replace(usual, body=data, content_type=kind)


def _as_bytes(body: Body) -> bytes:
    if isinstance(body, bytes):
        return body
    return body.encode() if isinstance(body, str) else dump(body)


def garble(data: bytes) -> bytes:
    """Corrupt an event, a line or a body so that it is neither UTF-8 nor JSON."""
    content = data.rstrip(b"\n")
    return content[: len(content) * 2 // 3] + b"\xff\xfe" + data[len(content) :]


class FaultQueue:
    """Queues of faults, one for each service and kind of request."""

    def __init__(self) -> None:
        self._queues: dict[tuple[str, str], deque[Fault]] = {}
        self._lock = threading.Lock()

    def add(self, service: str, kind: str, fault: Fault) -> None:
        """Append a fault to its queue."""
        _check_kind(service, kind)
        fault.check_kind(kind)
        with self._lock:
            self._queues.setdefault((service, kind), deque()).append(fault)

    def take(self, service: str, kind: str, *, first: bool) -> Fault | None:
        """Return the next fault if it is due now: before (`first`) or after a request's checks."""
        if not self._queues:
            return None
        with self._lock:
            queue = self._queues.get((service, kind))
            if not queue or queue[0].comes_first is not first:
                return None
            fault = queue.popleft()
            if fault.times > 1:
                queue.appendleft(replace(fault, times=fault.times - 1))
            elif not queue:
                del self._queues[service, kind]
            return fault

    def clear(self, service: str | None) -> None:
        """Remove the faults of one service, or of all."""
        with self._lock:
            for key in [key for key in self._queues if service in (None, key[0])]:
                del self._queues[key]


_WORDS = ("cut", "stall", "drip", "reset", "garbage", "html", "empty", "wrong-json")

_ALWAYS = 10**18

_NUMBER = r"[0-9]+(?:\.[0-9]+)?"

_FAULT = re.compile(
    rf"(?P<what>[a-z]+?(?:-[a-z]+?)?|[0-9]{{3}})(?::(?P<number>{_NUMBER}))?"
    r"(?:x(?P<times>[0-9]{1,18}|always))?"
)

_DRIP_S = 1.0


def parse_fault(spec: str) -> tuple[str, dict[str, Any]]:
    """Read the short form of a fault, as ``llmproviders sandbox --fail`` takes it.

    The form is ``PROVIDER[-KIND]=FAULT[xTIMES]``. KIND is ``token`` (gigachat) or ``page``
    (chatgptt). FAULT is a status, ``429:2`` (with ``Retry-After: 2``), ``cut:N`` (after N pieces),
    ``stall`` or ``reset`` (``:N`` after N pieces), ``drip`` (``:S`` seconds between two bytes, 1
    unless given), ``garbage``, ``html``, ``empty`` or ``wrong-json``. TIMES is a number, 1 unless
    given, or ``always``.

    Args:
        spec: a text of that form, such as ``gigachat=503x2``.

    Returns:
        The service's name and the arguments of :meth:`Sandbox.fail`.

    Raises:
        ValueError: it does not have that form; the message names the nearest known word.

    >>> parse_fault("gigachat=429:2")
    ('gigachat', {'status': 429, 'headers': {'Retry-After': '2'}})
    >>> parse_fault("gigachat-token=401x3")
    ('gigachat', {'status': 401, 'on': 'token', 'times': 3})
    """
    target, equals, text = spec.strip().partition("=")
    match = _FAULT.fullmatch(text.lower())
    if not equals or match is None:
        word = re.split(r"[^a-z-]", text.lower())[0]
        raise ValueError(
            f"cannot read the fault {spec!r}: write PROVIDER=FAULT[xTIMES], for instance "
            f"gigachat=503x2 or chatglm=cut:3; {suggest(word, ('503', '429:2', *_WORDS))}"
        )
    service, kind = _target(target)
    arguments = _fault_arguments(match["what"], match["number"], spec)
    if kind != "chat":
        arguments["on"] = kind
    if match["times"]:
        arguments["times"] = _ALWAYS if match["times"] == "always" else int(match["times"])
    fault = Fault(**{name: value for name, value in arguments.items() if name != "on"})
    fault.check_kind(kind)
    return service, arguments


def _target(target: str) -> tuple[str, str]:
    name, _, kind = target.lower().rpartition("-")
    if is_service(target) or not is_service(name):
        return service_name(target), "chat"
    service = service_name(name)
    _check_kind(service, kind)
    return service, kind


def _check_kind(service: str, kind: str) -> None:
    if kind not in KINDS[service]:
        raise ValueError(f"{service} has no {kind!r} requests; {suggest(kind, KINDS[service])}")


def _fault_arguments(what: str, number: str | None, spec: str) -> dict[str, Any]:
    if what.isdigit():
        headers = {"headers": {"Retry-After": number}} if number else {}
        return {"status": int(what), **headers}
    if what not in _WORDS:
        raise ValueError(f"unknown fault {what!r} in {spec!r}; {suggest(what, _WORDS)}")
    if what == "drip":
        return {"drip_s": float(number) if number else _DRIP_S}
    takes_none = ("garbage", "html", "empty", "wrong-json")
    if number and (what in takes_none or not number.isdigit()):
        raise ValueError(f"{what!r} in {spec!r} takes no such number as {number!r}")
    if what == "cut":
        return {"cut_after": int(number or 0)}
    return {what.replace("-", "_"): True, **({"cut_after": int(number)} if number else {})}
