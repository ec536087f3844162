"""The command at a terminal: colour, warnings, the progress bar, and chat."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from llmproviders._account.ledger import Ledger
from llmproviders._environment import health_file, usage_file
from llmproviders._runtime.scope import CancelScope
from llmproviders.cli.exits import Exit
from llmproviders.sandbox import Sandbox
from llmproviders.testing import ScriptedProvider
from tests.cli.conftest import Configure
from tests.cli.process import Running, Terminal, run
from tests.support.terminals import ACTING, HOSTILE

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs pseudo-terminals")

CHAT = ("chat", "-p", "chatglm")
PROMPT = "> $"


def plain(shown: str) -> str:
    """Return what a terminal has shown without colours and cursor movements."""
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]|\r", "", shown)


def test_colour(home: Path) -> None:
    """Colour is for terminals alone, and for those who have not declined it."""
    for env, expected in [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)]:
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
        terminal.type("\x03")
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


@pytest.mark.parametrize("locale", ["C", "POSIX", "C.UTF-8"])
def test_chat_in_any_locale(at_sandbox: Sandbox, locale: str) -> None:
    """Letters beyond ASCII can be typed whatever the locale says."""
    with Terminal(*CHAT, "--no-state", env={"LC_ALL": locale}) as terminal:
        terminal.read_until(PROMPT)
        terminal.type("Почему ё?\n")
        assert "You asked: Почему ё?" in terminal.read_until(f"nothing.*{PROMPT}")


@pytest.mark.parametrize("columns", [40, 72])
@pytest.mark.parametrize("words", [("demo",), ("doctor", "--offline", "-p", "gigachat")])
def test_wrapped_to_the_width(home: Path, words: tuple[str, ...], columns: int) -> None:
    """What is told at a terminal is wrapped between words, so that none is cut in two."""
    with Terminal(*words, env={"COLUMNS": str(columns), "NO_COLOR": "1"}) as terminal:
        lines = plain(terminal.end().out).splitlines()
    ours = [
        line
        for line in lines
        # Replies, code and what the library logs are shown as they are.
        if not line.startswith(("This is the", "    client", "    for", "    reply", "llmp"))
    ]
    assert [line for line in ours if len(line) >= columns and len(line.split()) > 4] == []


def test_chat_without_a_terminal(at_sandbox: Sandbox) -> None:
    """Lines from a pipe are answered one after another, the replies alone on stdout."""
    locale = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    result = run(*CHAT, stdin="one\nдва\n/nothing\n", env=locale)
    assert result.code == 0
    first, second = result.out.splitlines()
    assert "You asked: one." in first
    assert "You asked: два." in second
    assert "There is no /nothing" in result.err


def test_a_chat_that_went_well_tells_nothing(at_sandbox: Sandbox, tmp_path: Path) -> None:
    """Without a terminal, standard error has only what was asked for; with -v, all."""
    saved, words = tmp_path / "talk.json", ("--no-state", "-p", "openai")
    lines = f"/system Be brief.\n/model sandbox-large\none\n/retry\n/save {saved}\n"
    for loaded in ((), ("--load", str(saved))):
        for quiet in ((), ("-q",)):
            result = run("chat", *words, *quiet, *loaded, stdin=lines)
            assert (result.code, result.err) == (0, "")
    assert "Model: sandbox-large" in run("chat", *words, stdin="/model sandbox-large\n/model").err
    result = run("chat", *words, "-v", "--load", str(saved), stdin=lines)
    for told in ("Talking to", "Going on after", "System prompt: Be", "Model: sandbox", "Saved"):
        assert told in result.err
    with Terminal("chat", *words, "-q", "--load", str(saved)) as terminal:
        assert plain(terminal.read_until(PROMPT)).strip() == ">"


CUT = {"choices": [{"message": {"content": "Be"}, "finish_reason": "length"}]}


@pytest.mark.usefixtures("no_retries")
@pytest.mark.parametrize(
    ("fault", "lines", "code"),
    [
        ({"status": 503, "times": 2}, "one\ntwo\n", Exit.TRY_LATER),
        ({"status": 503}, "one\ntwo\n", Exit.TRY_LATER),
        ({"status": 503}, "one\n/quit\ntwo\n", Exit.TRY_LATER),
        ({"status": 503}, "one\n/retry\n", Exit.OK),
        ({"status": 503, "times": 2}, "one\n/retry\n", Exit.TRY_LATER),
        ({"status": 503, "times": 2}, "one\ntwo\n/retry\n", Exit.TRY_LATER),
        ({"status": 401}, "one\ntwo\n", Exit.CREDENTIALS),
        ({"cut_after": 3}, "one\n", Exit.INCOMPLETE),
        ({"status": 200, "body": CUT}, "one\ntwo\n", Exit.INCOMPLETE),
    ],
)
def test_a_chat_without_a_terminal_that_failed(
    at_sandbox: Sandbox, fault: dict[str, Any], lines: str, code: Exit
) -> None:
    """Its code is that of the last failure, as ``ask`` has it; ``/retry`` makes up for one."""
    at_sandbox.fail("openai", **fault)
    assert run(*CHAT[:2], "openai", "--no-state", stdin=lines).code == code


RESTARTING = """
[[provider]]
type = "openai"
[[provider]]
type = "deepseek"
[failover]
on_interrupt = "restart"
attempts = 1
"""


@pytest.mark.parametrize("cuts", [1, 2])
def test_a_chat_prints_no_void_text_into_a_pipe(
    at_sandbox: Sandbox, configure: Configure, cuts: int
) -> None:
    """With restart, a pipe gets the reply that counts alone; one that broke off for good, too."""
    configure(RESTARTING)
    at_sandbox.fail("openai", cut_after=3)
    if cuts == 2:
        at_sandbox.fail("deepseek", cut_after=5)
    result = run("chat", "--no-state", stdin="Why?\n")
    assert result.out.count("This is the") == 1
    if cuts == 1:
        assert (result.code, result.err) == (0, "")
        assert result.out.startswith("This is the DeepSeek sandbox")
        assert result.out.endswith("costs nothing.\n")
    else:
        assert result.code == Exit.INCOMPLETE
        assert "costs nothing" not in result.out


def test_a_saved_chat_with_pictures(at_sandbox: Sandbox, tmp_path: Path) -> None:
    """/save writes the text of messages that have parts, and how many pictures they have."""
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}
    client = ScriptedProvider(["Snow."])
    chat = client.conversation(
        messages=[
            {"role": "user", "content": [{"type": "text", "text": "What is it?"}, picture]},
            {"role": "assistant", "content": "Rain."},
            {"role": "user", "content": [picture, picture]},
            {"role": "assistant", "content": "Snow."},
        ]
    )
    chat.save(tmp_path / "talk.json")
    load = ("--load", str(tmp_path / "talk.json"))
    result = run("chat", "-p", "openai", *load, stdin=f"/save {tmp_path / 'talk.md'}\n")
    assert result.code == 0
    assert (tmp_path / "talk.md").read_text() == (
        "## User\n\nWhat is it?\n\n(1 attachment)\n\n## Assistant\n\nRain.\n\n"
        "## User\n\n(2 attachments)\n\n## Assistant\n\nSnow.\n"
    )


PLAIN = {"NO_COLOR": "1"}
BRACKETED_PASTE = re.compile(r"\x1b\[\?2004[hl]\r?")
LINES = f"{HOSTILE}\n{HOSTILE}"


def acting(shown: str) -> list[str]:
    """Return what a terminal would obey of what it was sent, line ends and editing apart."""
    return ACTING.findall(BRACKETED_PASTE.sub("", re.sub("\r*\n", "\n", shown)))


@pytest.fixture
def hostile(monkeypatch: pytest.MonkeyPatch) -> Iterator[Sandbox]:
    """Point the commands of the test at services whose replies and models' names are hostile."""
    with Sandbox(reply=LINES, openai_models=(f"first{HOSTILE}\nforged", "second")) as sandbox:
        for name, value in sandbox.environ().items():
            if name != "OPENAI_MODEL":
                monkeypatch.setenv(name, value)
        monkeypatch.setenv("OPENAI_MODEL", "second")
        yield sandbox


@pytest.mark.parametrize(
    "arguments",
    [
        ("ask", "Why?"),
        ("ask", "Why?", "--no-stream"),
        ("ask", "Why?", "--json"),
        ("ask", "Why?", "-vv"),
        ("ask", "Why?", "--trace"),
        ("models", "openai"),
        ("models", "openai", "--json"),
    ],
    ids=" ".join,
)
def test_no_reply_reaches_the_terminal_as_it_is(
    hostile: Sandbox, arguments: tuple[str, ...]
) -> None:
    """Nothing of a reply, of a model's name or of a log is obeyed by a terminal; all is seen."""
    options = ("-p", "openai", "--no-state") if arguments[0] == "ask" else ()
    with Terminal(*arguments, *options, env=PLAIN) as terminal:
        result = terminal.end()
    assert result.code == 0
    assert acting(result.out) == []
    assert r"\x1b]52;c;aGk=\x07" in result.out.replace("\\u00", "\\x").replace("\\\\x", "\\x")
    assert not re.search("^forged", result.out, re.MULTILINE)


@pytest.mark.usefixtures("no_retries")
@pytest.mark.parametrize(
    "arguments",
    [
        ("ask", "Why?", "-p", "openai", "-p", "chatglm", "--no-state", "-v", "--trace"),
        ("ask", "Why?", "-p", "openai", "--no-state", "--json"),
        ("providers", "--check", "--no-state"),
        ("providers", "--check", "--no-state", "--json"),
        ("doctor", "--live", "-p", "openai", "--no-state"),
        ("models", "openai"),
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("piped", [(), ("stderr",), ("stdout",)], ids=str)
def test_no_error_reaches_the_terminal_as_it_is(
    at_sandbox: Sandbox, arguments: tuple[str, ...], piped: tuple[str, ...]
) -> None:
    """What a service says of an error is part of one line, at a terminal and in a pipe."""
    body = {"error": {"message": f"no {LINES}\nllmproviders: forged"}}
    for kind in ("chat", "models"):
        at_sandbox.fail("openai", status=503, body=body, times=9, on=kind)
    with Terminal(*arguments, env=PLAIN, piped=piped) as terminal:
        result = terminal.end()
    assert "forged" in result.out + result.err
    assert acting(result.out) == acting(result.err) == []
    assert not re.search("^llmproviders: forged", result.out + result.err, re.MULTILINE)


def test_chat_shows_nothing_that_acts(hostile: Sandbox) -> None:
    """In a conversation, too, replies and errors are text and nothing else."""
    with Terminal(*CHAT[:2], "openai", "--no-state", env=PLAIN) as terminal:
        shown = terminal.read_until(PROMPT)
        terminal.type("first\n")
        shown += terminal.read_until("end\r\n> $")
        hostile.fail("openai", status=400, body={"error": {"message": LINES}})
        terminal.type("second\n")
        shown += terminal.read_until("HTTP 400.*> $")
        terminal.type("/quit\n")
        shown += terminal.end().out
    assert acting(shown) == []


def test_files_show_nothing_that_acts(at_sandbox: Sandbox, home: Path, tmp_path: Path) -> None:
    """Nor does what stands in a file: a conversation, counts, cooldowns, a configuration."""
    talk = tmp_path / "talk.json"
    words = {"version": 1, "params": {}, "system": LINES, "nobody": LINES}
    messages = [{"role": "user", "content": LINES}, {"role": "assistant", "content": LINES}]
    usage_file().parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with closing(Ledger(usage_file())) as book:
        row = (int(time.time() // 86400), LINES, LINES)
        counted = "INSERT INTO used (day, provider, model, requests) VALUES (?, ?, ?, 1)"
        book.change(lambda db: db.execute(counted, row), CancelScope())
    rest = {"failures": 1, "at": time.time(), "until": time.time() + 99, "cooldown": 99}
    rests = {"version": 2, "providers": {f"{LINES}|u|m": {**rest, "probe_until": 0}}}
    health_file().write_text(json.dumps(rests))
    health_file().chmod(0o600)
    commands: list[tuple[str, ...]] = [
        ("usage",),
        ("usage", "--json"),
        ("usage", "--since", HOSTILE.replace("\x00", "")),
        ("health",),
        ("health", "--json"),
        ("ask", "-p", "openai", "Why?", "--schema", str(talk), "--usage"),
        ("ask", "-p", "openai", "Why?", "--attach", f"/no/such/{HOSTILE[1:]}".replace("\x00", "")),
    ]
    for document in ({**words, "messages": messages}, {"messages": []}, LINES):
        talk.write_text(json.dumps(document))
        commands.append(("chat", "-p", "openai", "--no-state", "--load", str(talk)))
        with Terminal(*commands[-1], env=PLAIN) as terminal:
            terminal.type("/list\n/quit\n")
            assert acting(terminal.end().out) == [], document
    for arguments in commands[:-3]:
        with Terminal(*arguments, env=PLAIN) as terminal:
            result = terminal.end()
        assert acting(result.out) == [], arguments
        if arguments in (("usage",), ("health",)):
            assert "owned" in result.out


def test_wrong_usage_shows_nothing_that_acts(configure: Configure) -> None:
    """Names that nobody knows, on the command line or in the configuration, are text as well."""
    configure(f"[[provider]]\ntype = {json.dumps('x' + HOSTILE)}\n")
    name = HOSTILE.replace("\x00", "")
    for arguments in (
        (name,),
        ("ask", f"--{name}"),
        ("ask", "-p", name, "Why?"),
        ("models", name),
        ("ask", "Why?", "-o", f"/no/such/{name}/x"),
        ("ask", "Why?", "--config", f"/no/such/{name}.toml"),
        ("providers",),
        ("doctor", "--offline"),
    ):
        with Terminal(*arguments, env=PLAIN) as terminal:
            result = terminal.end()
        assert result.code in (1, 2), arguments
        assert acting(result.out) == [], arguments


def test_show_at_a_prompt_of_python(home: Path) -> None:
    """show() in a terminal, and a report that is printed there, have nothing that acts."""
    code = (
        "import sys\n"
        "from llmproviders import FailoverClient\n"
        "from llmproviders.notebook import show\n"
        "from llmproviders.testing import ScriptedProvider\n"
        "hostile = sys.argv[1].replace('@', chr(0))\n"
        "provider = ScriptedProvider([hostile[:9], hostile[9:]], name=hostile)\n"
        "client = FailoverClient([(provider, hostile)])\n"
        "show('Why?', client)\n"
        "print(client.report())\n"
    )
    arguments = (code, HOSTILE.replace("\x00", "@"))
    with Terminal(*arguments, program=(sys.executable, "-c")) as terminal:
        result = terminal.end()
    assert result.code == 0
    assert result.out.count("clip") >= 3
    assert acting(result.out) == []


def test_a_pipe_gets_the_reply_as_it_is(hostile: Sandbox) -> None:
    """Pipes and files get every character that the model wrote."""
    assert run("ask", "-p", "openai", "--no-state", "Why?").out == f"{LINES}\n"
    with Terminal("ask", "-p", "openai", "Why?", "-v", piped=("stdout",), env=PLAIN) as terminal:
        result = terminal.end()
    assert result.out == f"{LINES}\n"
    assert acting(result.err) == []


@pytest.mark.parametrize("options", [("-v",), ("-vv",), ("--trace",)], ids=str)
def test_notes_stand_on_lines_of_their_own(at_sandbox: Sandbox, options: tuple[str, ...]) -> None:
    """What is told of attempts never continues the reply's line, nor a reply the notes'."""
    with Terminal("ask", "-p", "chatglm", "Why?", *options, env=PLAIN) as terminal:
        result = terminal.end()
    assert result.code == 0
    assert re.search(r"nothing\.\r\n(llmproviders: |ChatGLM)", result.out)
    assert not re.search(r"[^\n]llmproviders: ", result.out)
    assert "\r\n\r\n" not in result.out


def test_ctrl_d_leaves_the_shell_a_line_of_its_own(at_sandbox: Sandbox) -> None:
    """Ctrl-D ends a conversation and the line of its prompt."""
    with Terminal(*CHAT) as terminal:
        terminal.read_until(PROMPT)
        terminal.type("\x04")
        result = terminal.end()
    assert result.code == 0
    assert plain(result.out).endswith("\n")


@pytest.mark.parametrize("stalls", [True, False], ids=["in a reply", "at the prompt"])
def test_a_terminal_that_goes(at_sandbox: Sandbox, stalls: bool) -> None:
    """A terminal that is closed ends the command, in a reply as SIGTERM does."""
    at_sandbox.fail("chatglm", stall=True, cut_after=3)
    with Terminal(*(("ask", *CHAT[1:], "Why?") if stalls else CHAT)) as terminal:
        terminal.read_until("This is the" if stalls else PROMPT)
        code = terminal.hang_up()
    assert code == 143 if stalls else code in (0, 143)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("term", ["dumb", "xterm"])
def test_a_signal_at_the_prompt(home: Path, term: str, number: signal.Signals) -> None:
    """SIGTERM and SIGHUP end a conversation that waits for a line, or is about to."""
    for _ in range(3):
        with Terminal(*CHAT, env={"TERM": term}) as terminal:
            terminal.read_until(PROMPT)
            terminal.signal(number)
            assert terminal.end().code == 143


@pytest.mark.parametrize("term", ["dumb", "xterm", "", None])
@pytest.mark.parametrize("columns", [0, 1, 5, 20, 300])
def test_chat_at_any_terminal(at_sandbox: Sandbox, term: str | None, columns: int) -> None:
    """A question is answered and Ctrl-D leaves, whatever the terminal can do, however narrow."""
    size = {"COLUMNS": None, "TERM": term, **PLAIN}
    with Terminal(*CHAT, "--no-state", env=size, columns=columns) as terminal:
        terminal.read_until(PROMPT)
        terminal.type("Why?\n")
        assert "You asked: Why?" in terminal.read_until("costs nothing.*> ")
        terminal.type("\x04")
        assert terminal.end().code == 0


def test_nohup(home: Path) -> None:
    """Started under nohup, a command outlives its terminal."""
    ignore = "import os, signal, sys; signal.signal(signal.SIGHUP, signal.SIG_IGN); "
    before = (sys.executable, "-c", f"{ignore}os.execv(sys.argv[1], sys.argv[1:])")
    with Sandbox(reply="one two three four", piece_delay_s=0.05) as sandbox:
        address = {"LLMPROVIDERS_CHATGLM_BASE_URL": sandbox.url}
        with Running("ask", *CHAT[1:], "Why?", env=address, before=before) as asking:
            asking.read_until("one")
            asking.signal(signal.SIGHUP)
            result = asking.end()
    assert (result.code, result.out) == (0, "one two three four\n")


def test_a_conversation_is_taken_up(at_sandbox: Sandbox, tmp_path: Path) -> None:
    """--load goes on with a saved conversation, -m wins over its model; others are refused."""
    saved = tmp_path / "chat.json"
    with Terminal(*CHAT[:2], "openai", "--no-state", "-s", "Be brief.") as terminal:
        terminal.read_until(PROMPT)
        terminal.type("first\n")
        terminal.read_until(f"nothing.*{PROMPT}")
        terminal.type(f"/save {saved}\n")
        terminal.read_until(f"Saved 2.*{PROMPT}")
        terminal.type("/quit\n")
        assert terminal.end().code == 0
    written = json.loads(saved.read_text())
    saved.write_text(json.dumps({**written, "model": "gpt-4o"}))
    again = (*CHAT[:2], "openai", "--no-state", "--load", str(saved))
    for named, model in (((), "gpt-4o"), (("-m", "gpt-4o-mini"), "gpt-4o-mini")):
        with Terminal(*again, *named) as terminal:
            assert "Going on after 2 messages" in terminal.read_until(PROMPT)
            terminal.type("second\n")
            terminal.read_until(f"nothing.*{PROMPT}")
        assert at_sandbox.requests[-1].json["model"] == model
    said = [m["content"] for m in at_sandbox.requests[-1].json["messages"]]
    assert (said[0], said[1], said[3]) == ("Be brief.", "first", "second")
    saved.write_text("{}")
    result = run(*CHAT, "--load", str(saved))
    assert result.code == 2
    assert "is not a saved conversation" in result.err


@pytest.mark.parametrize("piped", [(), ("stdout",)], ids=str)
def test_sandbox_says_where_it_serves(home: Path, piped: tuple[str, ...]) -> None:
    """At a terminal the sandbox says where it serves and how to end it, also if only that is there.

    ``sandbox > llm.env`` would look as if it hung.
    """
    with Terminal("sandbox", piped=piped) as terminal:
        shown = terminal.read_until("Ctrl-C ends it")
        assert re.search(r"serving at http://127\.0\.0\.1:\d+;", plain(shown))
        terminal.type("\x03")
        assert terminal.end().code == 130


MARKED = "Air is **not** blue.\n\n- one\n- two\n\nAn _end_.\n"


def test_markdown_is_rendered() -> None:
    """At a terminal each block that has markup is replaced by what it means."""
    with Sandbox(reply=MARKED) as sandbox:
        with Terminal("ask", "-p", "openai", "Why?", env=sandbox.environ()) as terminal:
            shown = terminal.end().out
        with Terminal("ask", "-p", "openai", "--no-stream", "?", env=sandbox.environ()) as terminal:
            whole = terminal.end().out
    for out in (shown, whole):
        assert "\x1b[1mnot\x1b[0m" in out
        assert " • \x1b[0mone" in out
        assert "\x1b[3mend\x1b[0m" in out
    assert shown.startswith("Air is **not** blue.\r\n"), "it appears as it comes"


@pytest.mark.parametrize(
    ("options", "env", "piped"),
    [((), {}, ("stdout",)), (("--plain",), {}, ()), ((), {"NO_COLOR": "1"}, ())],
)
def test_markdown_as_it_came(
    options: tuple[str, ...], env: dict[str, str], piped: tuple[str, ...]
) -> None:
    """Nothing is rendered in a pipe, with --plain, or for who wants no colour."""
    with (
        Sandbox(reply=MARKED) as sandbox,
        Terminal(
            "ask", "-p", "openai", "Why?", *options, env=sandbox.environ() | env, piped=piped
        ) as terminal,
    ):
        assert terminal.end().out.replace("\r\n", "\n") == MARKED
