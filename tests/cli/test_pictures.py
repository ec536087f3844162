"""What the command line draws: attempts over time, and the report of a batch."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from llmproviders.sandbox import Sandbox
from tests.cli.process import Terminal, run


@pytest.mark.usefixtures("no_retries")
def test_trace(at_sandbox: Sandbox) -> None:
    """``ask --trace`` draws each attempt on standard error; the reply alone goes to the other."""
    at_sandbox.fail("openai", status=503)
    result = run("ask", "-p", "openai", "-p", "chatglm", "--no-state", "--trace", "Why?")
    assert result.code == 0
    assert result.out.startswith("This is the ChatGLM sandbox")
    first, second, scale, key = result.err.splitlines()
    assert re.fullmatch(r"OpenAICompatible · \S+ +░+ +ServerError 503, [\d.]+ m?s", first)
    assert re.fullmatch(r"ChatGLM · glm-4 +░*◆█* +whole reply, \d+ pieces, [\d.]+ m?s", second)
    assert "├0 s" in scale
    assert key == "░ no text yet  ◆ first text  █ text"
    assert max(map(len, result.err.splitlines())) <= 88


@pytest.mark.usefixtures("no_retries")
def test_trace_of_a_failure(at_sandbox: Sandbox) -> None:
    """What failed is drawn as well, also where the reply is an object."""
    at_sandbox.fail("openai", status=503)
    result = run("ask", "-p", "openai", "--no-state", "--trace", "--json", "Why?")
    assert result.code == 75
    assert json.loads(result.out)["error"]
    assert re.search(r"^OpenAICompatible · \S+ +░+ +ServerError 503", result.err, re.MULTILINE)


def test_trace_in_colour(at_sandbox: Sandbox) -> None:
    """At a terminal the bars have the colour of their outcome."""
    with Terminal("ask", "-p", "openai", "--trace", "Why?") as terminal:
        shown = terminal.end().out
    assert "\x1b[32m" in shown
    assert "whole reply" in shown


def test_report(at_sandbox: Sandbox, tmp_path: Path) -> None:
    """``batch --report`` writes a page that stands alone, of earlier runs' rows, too."""
    rows, out, page = (tmp_path / name for name in ("in.jsonl", "out.jsonl", "report.html"))
    rows.write_text('{"prompt": "one"}\n{"prompt": "two"}\n')
    command = ("batch", str(rows), "-o", str(out), "-p", "openai", "--report", str(page))
    result = run(*command)
    assert (result.code, result.out, result.err) == (0, "", "")
    html = page.read_text(encoding="utf-8")
    assert "2 rows: 2 whole, 0 failed" in html
    assert html.count("<svg") == 3
    rows.write_text('{"prompt": "one"}\n{"prompt": "two"}\n{"prompt": ""}\n')
    assert run(*command).code == 65
    assert "3 rows: 2 whole, 1 failed" in page.read_text(encoding="utf-8")


def test_report_that_could_not_be_written(at_sandbox: Sandbox, tmp_path: Path) -> None:
    """A report with no place to go is wrong usage, before anything is sent."""
    rows = tmp_path / "in.jsonl"
    rows.write_text('{"prompt": "one"}\n')
    command = ("batch", str(rows), "-o", str(tmp_path / "out.jsonl"))
    result = run(*command, "--report", str(tmp_path / "none" / "report.html"))
    assert result.code == 2
    assert "there is no folder" in result.err
    assert at_sandbox.count() == 0
