"""Every wait has an end of its own, so that a signal, a deadline and a fork are seen in time."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import llmproviders

ROOT = Path(llmproviders.__file__).parent
FILES = {path.relative_to(ROOT).as_posix(): path for path in sorted(ROOT.rglob("*.py"))}

ENDS: dict[str, int | None] = {
    "wait": 0,
    "wait_for": 1,
    "join": 0,
    "get": 1,
    "acquire": 1,
    "poll": 0,
    "result": 0,
    "communicate": 1,
    "select": 0,
    "select.select": 3,
    "create_connection": 1,
    "time.sleep": None,
    "pause": None,
    "sigwait": None,
    "flock": None,
    "lockf": None,
    "waitpid": None,
    "accept": None,
    "recv": None,
    "getaddrinfo": None,
}
"""What waits, and which argument, counted from 0, says for how long, beside ``timeout``."""

IN_SLICES = "waits in slices itself"
DONE = "is done, or does not wait"
OWN_THREAD = "in a thread of its own, where no signal is handled"

ALLOWED: dict[tuple[str, str], str] = {
    ("_runtime/scope.py", "self._lock.acquire"): DONE,
    ("_account/slots.py", "_files.pause"): IN_SLICES,
    ("_runtime/files.py", "pause"): IN_SLICES,
    ("_account/tokens.py", "_files.pause"): IN_SLICES,
    ("_account/ledger.py", "pause"): IN_SLICES,
    ("_http/connections.py", "serving.get"): DONE,
    ("_http/transport.py", "serving.get"): DONE,
    ("_http/native.py", "select.poll"): DONE,
    ("cli/rendered.py", "captured.get"): DONE,
    ("_http/sockets.py", "sock.recv"): "a socket whose every wait ends with the deadline",
    ("batch/_dask.py", "self._all.acquire"): OWN_THREAD,
    (
        "_http/sockets.py",
        "socket.getaddrinfo",
    ): "an address; or in a thread that can be left behind",
    ("failover/_engine.py", "race.wait"): IN_SLICES,
    ("batch/_file.py", "outcome.result"): DONE,
    ("batch/_workers.py", "future.result"): DONE,
    ("batch/_workers.py", "self._waiting.get"): OWN_THREAD,
    ("batch/_run.py", "outcome.result"): DONE,
    ("cli/checks.py", "socket.getaddrinfo"): "the command line's own look; Ctrl-C ends it",
    ("cli/providers.py", "future.result"): DONE,
    ("cli/sandbox.py", "sandbox.wait"): IN_SLICES,
    ("sandbox/_sandbox.py", "time.sleep"): IN_SLICES,
    ("sandbox/_delivery.py", "self.connection.wait"): OWN_THREAD,
    ("sandbox/_http.py", "selector.select"): OWN_THREAD,
    ("sandbox/_http.py", "self._listener.accept"): OWN_THREAD,
    ("sandbox/_http.py", "self._sock.recv"): OWN_THREAD,
    ("testing/_raw_server.py", "conn.pause"): OWN_THREAD,
    ("testing/_raw_server.py", "select.select"): OWN_THREAD,
    ("testing/_raw_server.py", "self._listener.accept"): OWN_THREAD,
    ("testing/_raw_server.py", "self._sock.recv"): OWN_THREAD,
    ("testing/_raw_server.py", "upstream.recv"): OWN_THREAD,
}
"""What has no end of its own -> why that keeps neither a signal nor a deadline waiting."""


def endless(call: ast.Call) -> bool:
    """Whether a call may wait for as long as it takes."""
    called = ast.unparse(call.func)
    word = called if called in ENDS else called.rpartition(".")[2]
    if word not in ENDS or (word == "join" and _joins_words(call)) or called == "accept":
        return False  # ``accept`` alone is a caller's function
    if word == "get" and call.args and ast.unparse(call.args[0]) != "True":
        return False  # a mapping's, or a queue's that is not to wait
    place = ENDS[word]
    options = {option.arg: ast.unparse(option.value) for option in call.keywords}
    arguments = [ast.unparse(argument) for argument in call.args]
    if options.get("blocking") == "False" or (word == "acquire" and arguments[:1] == ["False"]):
        return False
    given = arguments[place : place + 1] if place is not None else []
    end = options.get("timeout", given[0] if given else "None")
    return end in ("None", "inf")


def _joins_words(call: ast.Call) -> bool:
    what = call.func.value if isinstance(call.func, ast.Attribute) else None
    return isinstance(what, (ast.Constant, ast.JoinedStr))


def found_in(name: str) -> Iterator[tuple[str, int]]:
    """What is called in a file that may wait for as long as it takes, and the line."""
    for node in ast.walk(ast.parse(FILES[name].read_text())):
        if isinstance(node, ast.Call) and endless(node):
            yield ast.unparse(node.func), node.lineno


@pytest.mark.parametrize("name", FILES)
def test_no_wait_without_an_end(name: str) -> None:
    """A wait for an event, a thread, a queue, a lock, a process or a socket goes in slices."""
    found = [(what, line) for what, line in found_in(name) if (name, what) not in ALLOWED]
    assert found == []


def test_what_is_allowed_is_there() -> None:
    """The list of exceptions has no line that nothing stands behind any more."""
    found = {(name, what) for name in FILES for what, _ in found_in(name)}
    assert sorted(ALLOWED.keys() - found) == []


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("event.wait()", True),
        ("event.wait(None)", True),
        ("event.wait(0.2)", False),
        ("thread.join()", True),
        ("thread.join(left)", False),
        ("', '.join(words)", False),
        ("separator.join(words)", False),
        ("tasks.get()", True),
        ("tasks.get(timeout=0.2)", False),
        ("tasks.get(True)", True),
        ("headers.get('date')", False),
        ("lock.acquire()", True),
        ("lock.acquire(blocking=False)", False),
        ("lock.acquire(timeout=0.2)", False),
        ("lock.acquire(False)", False),
        ("select.select([a], [], [])", True),
        ("select.select([a], [], [], 0.2)", False),
        ("selector.select(0.2)", False),
        ("selector.select()", True),
        ("time.sleep(60)", True),
        ("future.result()", True),
    ],
)
def test_the_search_itself(code: str, expected: bool) -> None:
    """The search tells a wait without an end from one that has one."""
    call = ast.parse(code, mode="eval").body
    assert isinstance(call, ast.Call)
    assert endless(call) is expected
