"""A real Jupyter kernel, a process with a running event loop, driven cell by cell."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jupyter_client.blocking import BlockingKernelClient
from jupyter_client.manager import KernelManager, start_new_kernel

PATIENCE_S = 60.0


@dataclass
class Ran:
    """What running one cell did.

    Attributes:
        ok: whether it came to its end without an error.
        error: the error's class, or the empty string.
        traceback: what was printed of the error.
        stdout, stderr: what it wrote.
        displays: the last state of each display, in order: MIME type to content.
        updates: how often a display was shown or renewed.
    """

    ok: bool = False
    error: str = ""
    traceback: str = ""
    stdout: str = ""
    stderr: str = ""
    displays: list[dict[str, Any]] = field(default_factory=list)
    updates: int = 0

    @property
    def markdown(self) -> str:
        """The Markdown of the first display."""
        return str(self.displays[0]["text/markdown"])


class Kernel:
    """A kernel under test."""

    def __init__(self, manager: KernelManager, client: BlockingKernelClient) -> None:
        self.manager = manager
        self._client = client

    def run(self, code: str, meanwhile: Callable[[], object] | None = None) -> Ran:
        """Run a cell to its end; ``meanwhile`` is called once it has begun."""
        request = self._client.execute(code)
        ran = Ran()
        places: dict[str, int] = {}
        while True:
            message = self._client.get_iopub_msg(timeout=PATIENCE_S)
            if message["parent_header"].get("msg_id") != request:
                continue
            kind, content = message["msg_type"], message["content"]
            if kind == "status" and content["execution_state"] == "idle":
                break
            if kind == "execute_input" and meanwhile is not None:
                meanwhile()
            if kind == "stream":
                setattr(ran, content["name"], getattr(ran, content["name"]) + content["text"])
            elif kind == "error":
                ran.traceback = "\n".join(content["traceback"])
            elif kind in ("display_data", "execute_result", "update_display_data"):
                name = content.get("transient", {}).get("display_id", f"no {len(places)}")
                if kind == "update_display_data":
                    ran.displays[places[name]] = content["data"]
                else:
                    places[name] = len(ran.displays)
                    ran.displays.append(content["data"])
                ran.updates += 1
        while True:
            reply = self._client.get_shell_msg(timeout=PATIENCE_S)
            if reply["parent_header"].get("msg_id") == request:
                break
        ran.ok = reply["content"]["status"] == "ok"
        ran.error = reply["content"].get("ename", "")
        return ran

    def value(self, expression: str) -> str:
        """The ``repr`` of an expression in the kernel."""
        ran = self.run(f"print(repr({expression}))")
        assert ran.ok, ran.traceback
        return ran.stdout.rstrip("\n")

    def help(self, name: str) -> str:
        """What the kernel shows for ``name?``."""
        reply = self._client.inspect(name, reply=True, timeout=PATIENCE_S)
        return str(reply["content"]["data"]["text/plain"])

    def stop(self) -> None:
        """Interrupt it, as the stop button does, once it waits for something.

        A signal that comes just before a system call that waits does not end that call, in any
        Python; a person is never so quick.
        """
        while not self._waits():
            time.sleep(0.001)
        self.manager.interrupt_kernel()

    def _waits(self) -> bool:
        pid = self.manager.provisioner.process.pid
        try:
            status = Path(f"/proc/{pid}/stat").read_text()
        except FileNotFoundError:
            return True
        return status.rpartition(")")[2].split()[0] == "S"


@contextlib.contextmanager
def kernel(environ: Mapping[str, str]) -> Iterator[Kernel]:
    """Start a kernel with these additions to the environment."""
    path = os.pathsep.join(entry for entry in sys.path if entry)
    manager, client = start_new_kernel(env={**os.environ, "PYTHONPATH": path, **environ})
    try:
        yield Kernel(manager, client)
    finally:
        client.stop_channels()
        manager.shutdown_kernel()
