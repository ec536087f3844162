"""A batch that is killed at any moment: every id once in the end, and nothing paid twice."""

from __future__ import annotations

import collections
import contextlib
import json
import random
import signal
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest

from llmproviders.sandbox import Sandbox
from tests.support.batches import WAIT_S, child

ROWS = 1000
KILLS = 20
REFUSALS = 2
LONGEST_S = 0.25
"""Every other process has so many seconds to itself, at most, once its imports are done; the
others are counted by their requests.
"""


class Services:
    """A sandbox that counts each prompt, and refuses some of them at first."""

    def __init__(self) -> None:
        self.asked: collections.Counter[str] = collections.Counter()
        self._counting = threading.Lock()
        self.sandbox = Sandbox(reply=self._reply)

    def _reply(self, messages: list[dict[str, Any]]) -> str:
        prompt = messages[-1]["content"]
        with self._counting:
            self.asked[prompt] += 1
            if prompt.endswith("7") and self.asked[prompt] <= REFUSALS:
                raise RuntimeError("told to fail")
        return f"the reply to {prompt}"

    def asked_so_far(self) -> collections.Counter[str]:
        """How often each prompt was asked."""
        with self._counting:
            return self.asked.copy()


def whole_rows(output: Path) -> dict[str, dict[str, Any]]:
    """The rows that a crash left whole and that succeeded, each id once."""
    rows: dict[str, dict[str, Any]] = {}
    if not output.exists():
        return rows
    for line in output.read_bytes().splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        assert row["id"] not in rows
        rows[row["id"]] = row
    return {own_id: row for own_id, row in rows.items() if row["error"] is None}


def test_killed_at_random_moments(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A batch killed twenty times has every id once in the end; no row that was written is asked
    for again, and none is lost.
    """
    caplog.set_level("CRITICAL", logger="llmproviders.sandbox")  # it is told to fail
    dice = random.Random(20)
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    ids = [f"row {number}" for number in range(ROWS)]
    source.write_text("".join(json.dumps({"id": i, "prompt": f"of {i}"}) + "\n" for i in ids))
    services = Services()
    killed_at_work = 0
    with services.sandbox as sandbox:
        for number in range(KILLS):
            before, asked_before = whole_rows(output), services.asked_so_far()
            with child(source, output, sandbox.environ()) as process:
                process.wait_ready()
                if number % 2:
                    enough = sandbox.count("openai", "chat") + dice.randint(1, 100)
                    sandbox.wait_for(lambda s, n=enough: s.count("openai", "chat") >= n)
                else:
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        process.process.wait(dice.uniform(0, LONGEST_S))
                process.send(signal.SIGKILL)
                process.process.wait(WAIT_S)
            assert sandbox.wait_for(lambda s: all(record.ended for record in s.requests))
            after, asked = whole_rows(output), services.asked_so_far() - asked_before
            assert before.items() <= after.items(), "a written row was lost"
            assert not asked.keys() & {f"of {own_id}" for own_id in before}, "a row was paid twice"
            killed_at_work += len(before) < len(after) < ROWS
        assert killed_at_work > KILLS / 4
        for _ in range(REFUSALS + 1):
            with child(source, output, sandbox.environ()) as process:
                code, _, errors = process.end()
                assert (code, errors) == (0, "")
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert sorted(row["id"] for row in rows) == sorted(ids)
    assert all(row["text"] == f"the reply to of {row['id']}" for row in rows)
