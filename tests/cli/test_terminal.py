"""The command at a terminal: colour, warnings, the progress bar, and chat."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

from llmproviders.sandbox import Sandbox
from tests.cli.process import Terminal, run

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs pseudo-terminals")

CHAT = ("chat", "-p", "chatglm")
PROMPT = "> $"


def plain(shown: str) -> str:
    """Return what a terminal has shown without colours and cursor movements."""
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]|\r", "", shown)


def test_colour(home: Path) -> None:
    """Colour is for terminals alone, and for those who have not declined it."""
    for env, expected in [({}, True), ({"NO_COLOR": "1"}, False)]:
        with Terminal("doctor", "--offline", env=env) as terminal:
            assert ("\x1b[" in terminal.end().out) is expected


def test_ask_at_a_terminal(at_sandbox: Sandbox) -> None:
    """A prompt can be typed; a failover is told; the reply alone goes to a piped stdout."""
    at_sandbox.fail("chatglm", html=True, times=2)
    options = ("ask", "-p", "chatglm", "-p", "openai", "--no-state")
    with Terminal(*options, piped=("stdout",)) as terminal:
        terminal.read_until("Ctrl-D")
        terminal.type("Why?\n\x04")
        terminal.read_until("OpenAICompatible is next")
        assert terminal.end().out.startswith("This is the OpenAI-compatible sandbox")
    with Terminal(*options, "Why?", "-q") as terminal:
        assert "is next" not in terminal.end().out


def test_ctrl_c_ends_ask(at_sandbox: Sandbox) -> None:
    """Ctrl-C ends a reply with 130 and leaves the cursor on a line of its own."""
    at_sandbox.fail("chatglm", stall=True, cut_after=3)
    with Terminal("ask", "-p", "chatglm", "Why?") as terminal:
        terminal.read_until("This is the")
        terminal.type("\x03")
        result = terminal.end()
    assert result.code == 130
    assert "Traceback" not in result.out
    assert result.out.endswith("\n")


def test_progress_bar(at_sandbox: Sandbox, tmp_path: Path) -> None:
    """batch shows a bar with failures and tokens at a terminal."""
    rows = "".join(json.dumps({"prompt": f"number {n}"}) + "\n" for n in range(5))
    (tmp_path / "in.jsonl").write_text(rows + "{\n")
    files = (str(tmp_path / "in.jsonl"), "-o", str(tmp_path / "out.jsonl"))
    with Terminal("batch", *files, "-p", "openai") as terminal:
        result = terminal.end()
    assert result.code == 65
    assert "6/6" in result.out
    assert re.search(r"1 failed, \d+ tokens", result.out)


def test_chat(at_sandbox: Sandbox, tmp_path: Path) -> None:
    """Questions are answered with the turns before them; lines can be edited; /commands work."""
    with Terminal(*CHAT[:2], "openai", "-s", "Be brief.") as terminal:
        terminal.read_until(PROMPT)
        terminal.type("Why is it bluee\x7f?\n")
        assert "You asked: Why is it blue?" in plain(terminal.read_until("costs nothing.\r\n> $"))
        terminal.type("And red?\n")
        terminal.read_until("nothing.\r\n> $")
        messages = at_sandbox.requests[-1].json["messages"]
        assert [message["role"] for message in messages] == [
            "system",
            "user",
            "assistant",
            "user",
        ]
        assert messages[1]["content"] == "Why is it blue?"

        terminal.type("/retry\n")
        terminal.read_until("nothing.\r\n> $")
        assert at_sandbox.requests[-1].json["messages"] == messages

        for line, answer in [
            ("/modle", "did you mean /model"),
            ("/model sandbox-large", "Model: sandbox-large"),
            ("/system Be long.", "System prompt: Be long."),
            (f"/save {tmp_path / 'said.md'}", "Saved 4 messages"),
            (f"/save {tmp_path / 'said.json'}", "Saved 4 messages"),
            ("/save /no/such/folder/x", "no folder"),
            ("/save", "Name a file"),
            ("/help", "/retry"),
        ]:
            terminal.type(f"{line}\n")
            assert answer in plain(terminal.read_until(f"{re.escape(answer)}[^>]*> $"))
        terminal.type("//why\n")
        terminal.read_until("You asked: /why.*nothing.\r\n> $")
        body = at_sandbox.requests[-1].json
        assert body["model"] == "sandbox-large"
        assert body["messages"][0]["content"] == "Be long."
        terminal.type("\x04")
        assert terminal.end().code == 0
    assert "## User\n\nWhy is it blue?\n" in (tmp_path / "said.md").read_text()
    assert len(json.loads((tmp_path / "said.json").read_text())["messages"]) == 4


def test_ctrl_c_stops_a_reply_and_keeps_the_conversation(at_sandbox: Sandbox) -> None:
    """What came of a stopped reply belongs to the conversation; at the prompt nothing happens."""
    at_sandbox.fail("openai", stall=True, cut_after=3)
    with Terminal(*CHAT[:2], "openai") as terminal:
        terminal.read_until(PROMPT)
        terminal.type("first\n")
        terminal.read_until("This is the")
        terminal.type("\x03")
        terminal.read_until(r"\(stopped\)[^>]*> $")
        terminal.type("half a line")
        terminal.read_until("half a line$")
        terminal.interrupt()
        terminal.read_until("Ctrl-D leaves[^>]*> $")
        terminal.type("second\n")
        terminal.read_until("nothing.\r\n> $")
        terminal.type("/quit\n")
        assert terminal.end().code == 0
    said = [message["content"] for message in at_sandbox.requests[-1].json["messages"]]
    assert said == ["first", "This is the", "second"]


@pytest.mark.usefixtures("no_retries")
def test_a_reply_that_fails_can_be_asked_again(at_sandbox: Sandbox) -> None:
    """An error is told, the conversation goes on without the turn, and /retry asks it again."""
    at_sandbox.fail("openai", status=503)
    with Terminal(*CHAT[:2], "openai", "--no-state") as terminal:
        terminal.read_until(PROMPT)
        terminal.type("/retry\n")
        terminal.read_until("nothing to ask[^>]*> $")
        terminal.type("first\n")
        terminal.read_until("ServerError[^>]*> $")
        terminal.type("/retry\n")
        terminal.read_until("You asked: first.*nothing.\r\n> $")
        terminal.type("/quit\n")
        assert terminal.end().code == 0
    assert [m["content"] for m in at_sandbox.requests[-1].json["messages"]] == ["first"]


def test_chat_without_a_terminal(at_sandbox: Sandbox) -> None:
    """Lines from a pipe are answered one after another, the replies alone on stdout."""
    locale = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    result = run(*CHAT, stdin="one\nдва\n/nothing\n", env=locale)
    assert result.code == 0
    first, second = result.out.splitlines()
    assert "You asked: one." in first
    assert "You asked: два." in second
    assert "There is no /nothing" in result.err
