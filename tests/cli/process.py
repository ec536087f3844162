"""The installed command as a real process, with pipes or at a terminal."""

from __future__ import annotations

import os
import re
import select
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

PATIENCE_S = 30.0
_ROOT = Path(__file__).parents[2]
_SCRIPT = Path(sys.executable).with_name("llmproviders")


def command(*arguments: str) -> list[str]:
    """Return what starts the command: the installed script, else the module."""
    start = [str(_SCRIPT)] if _SCRIPT.exists() else [sys.executable, "-m", "llmproviders"]
    return [*start, *arguments]


def environ(changes: Mapping[str, str | None] | None = None) -> dict[str, str]:
    """Return the test's environment with changes; None takes a name away."""
    values: dict[str, str | None] = {**os.environ, "COLUMNS": "88"}
    if not _SCRIPT.exists():
        values["PYTHONPATH"] = str(_ROOT)
    values.update(changes or {})
    return {name: value for name, value in values.items() if value is not None}


@dataclass(frozen=True)
class Result:
    """How a process ended, and what it wrote."""

    code: int
    out: str
    err: str


def run(
    *arguments: str,
    stdin: str | bytes | None = None,
    env: Mapping[str, str | None] | None = None,
    cwd: Path | None = None,
) -> Result:
    """Run the command to its end; without ``stdin`` there is nothing to read."""
    data = stdin.encode() if isinstance(stdin, str) else stdin
    source = {"stdin": subprocess.DEVNULL} if data is None else {"input": data}
    done = subprocess.run(  # type: ignore[call-overload]
        command(*arguments),
        **source,
        capture_output=True,
        env=environ(env),
        cwd=cwd,
        timeout=PATIENCE_S,
    )
    return Result(done.returncode, done.stdout.decode(), done.stderr.decode())


class Running:
    """The command while it runs, its output in pipes.

    Args:
        arguments: what stands behind the command's name.
        env: changes to the environment.
        before: the start of a program that starts the command in its own place.
    """

    def __init__(
        self,
        *arguments: str,
        env: Mapping[str, str | None] | None = None,
        before: tuple[str, ...] = (),
    ) -> None:
        self._process = subprocess.Popen(
            [*before, *command(*arguments)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environ(env),
        )
        self._out = b""

    def read_until(self, pattern: str) -> str:
        """Return standard output so far, once it matches."""
        assert self._process.stdout is not None
        self._out = _read_until(self._process.stdout.fileno(), pattern, self._out)
        return self._out.decode()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        self._process.send_signal(number)

    def end(self) -> Result:
        """Wait for the end."""
        out, err = self._process.communicate(timeout=PATIENCE_S)
        return Result(self._process.returncode, (self._out + out).decode(), err.decode())

    def __enter__(self) -> Running:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        for pipe in (self._process.stdout, self._process.stderr):
            _close(pipe)
        self._process.wait()


class Terminal:
    """The command at a pseudo-terminal; ``piped`` streams are no terminal.

    Args:
        arguments: what stands behind the command's name.
        env: changes to the environment.
        piped: ``"stdout"``, ``"stderr"``.
        program: what is started in place of the command.
        columns: how wide it is; 0 where nobody knows.
    """

    def __init__(
        self,
        *arguments: str,
        env: Mapping[str, str | None] | None = None,
        piped: tuple[str, ...] = (),
        program: tuple[str, ...] | None = None,
        columns: int = 100,
    ) -> None:
        self._master, slave = os.openpty()
        _set_size(slave, rows=24, columns=columns)
        streams = {
            name: subprocess.PIPE if name in piped else slave for name in ("stdout", "stderr")
        }
        self._process = subprocess.Popen(
            command(*arguments) if program is None else [*program, *arguments],
            stdin=slave,
            **streams,  # type: ignore[arg-type]
            env=environ({"TERM": "xterm", **(env or {})}),
            start_new_session=True,
            preexec_fn=_take_terminal,  # noqa: PLW1509 - nothing else runs in this process
        )
        os.close(slave)
        self._shown = b""

    def type(self, text: str) -> None:
        """Type something; ``\\x03`` is Ctrl-C, ``\\x04`` Ctrl-D."""
        os.write(self._master, text.encode())

    def signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        self._process.send_signal(number)

    def read_until(self, pattern: str) -> str:
        """Return what the terminal has shown since the last match, once it matches."""
        self._shown = _read_until(self._master, pattern, self._shown)
        shown, self._shown = self._shown, b""
        return shown.decode()

    def hang_up(self) -> int:
        """Close the terminal, as a connection that breaks does, and return the exit code."""
        sink = os.open(os.devnull, os.O_RDONLY)
        os.dup2(sink, self._master)
        os.close(sink)
        return self._process.wait(timeout=PATIENCE_S)

    def end(self) -> Result:
        """Wait for the end; what the terminal has shown is ``out``, ``err`` where that is piped."""
        shown = _read_until(self._master, r"\Z(?!)", self._shown).decode()
        piped = {name: _rest(getattr(self._process, name)) for name in ("stdout", "stderr")}
        code = self._process.wait(timeout=PATIENCE_S)
        if piped["stdout"] is not None:
            return Result(code, piped["stdout"], piped["stderr"] or shown)
        return Result(code, shown, piped["stderr"] or "")

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        for pipe in (self._process.stdout, self._process.stderr):
            _close(pipe)
        os.close(self._master)
        self._process.wait()


def _set_size(terminal: int, *, rows: int, columns: int) -> None:
    import fcntl
    import termios

    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


def _take_terminal() -> None:
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def _rest(pipe: IO[bytes] | None) -> str | None:
    return None if pipe is None else pipe.read().decode()


def _close(pipe: IO[bytes] | None) -> None:
    if pipe is not None:
        pipe.close()


def _read_until(descriptor: int, pattern: str, seen: bytes) -> bytes:
    """Return ``seen`` and what comes, once it matches or there is no more."""
    wanted = re.compile(pattern.encode(), re.DOTALL)
    end = time.monotonic() + PATIENCE_S
    while wanted.search(seen) is None:
        ready, _, _ = select.select([descriptor], [], [], max(0.0, end - time.monotonic()))
        assert ready, f"no {pattern!r} in {seen!r}"
        try:
            data = os.read(descriptor, 65536)
        except OSError:
            # Linux says so when the last process has left a pseudo-terminal.
            return seen
        if not data:
            return seen
        seen += data
    return seen
