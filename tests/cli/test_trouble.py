"""Commands in trouble: streams that are closed, files and clusters that are not there, defects."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
from pathlib import Path

import pytest
from filelock import FileLock

from llmproviders.sandbox import Sandbox
from tests.cli.conftest import Configure
from tests.cli.process import Terminal, command, environ, run

ASK = ("ask", "-p", "chatglm")


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """Return a file with three prompts."""
    path = tmp_path / "in.jsonl"
    path.write_text("".join(json.dumps({"id": n, "prompt": f"row {n}"}) + "\n" for n in range(3)))
    return path


@pytest.mark.skipif(os.name != "posix", reason="the shell closes the streams")
def test_closed_streams(at_sandbox: Sandbox, tmp_path: Path) -> None:
    """Without standard streams, as under some daemons, a reply goes to a file.

    Where it was to go to standard output, nothing is asked.
    """
    out = tmp_path / "out.txt"
    shell = ["bash", "-c", 'exec "$@" <&- >&- 2>&-', "bash"]
    done = subprocess.run([*shell, *command(*ASK, "Why?", "-o", str(out))], env=environ())
    assert done.returncode == 0
    assert out.read_text().startswith("This is the ChatGLM sandbox")
    asked = at_sandbox.count()
    for words in ((*ASK, "Why?"), (*ASK, "Why?", "--json"), ("chat", "-p", "chatglm"), ("--help",)):
        done = subprocess.run([*shell, *command(*words)], env=environ())
        assert done.returncode == 1, words
    assert at_sandbox.count() == asked
    shell[2] = 'exec "$@" >&-'
    done = subprocess.run([*shell, *command(*ASK, "Why?")], env=environ(), capture_output=True)
    assert (done.returncode, done.stderr.count(b"\n")) == (1, 1)
    assert b"standard output is closed" in done.stderr


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.usefixtures("no_retries")
@pytest.mark.parametrize("errors", ["/dev/full", "&-", "&5"])
def test_standard_error_that_takes_nothing(at_sandbox: Sandbox, errors: str, rows: Path) -> None:
    """A full disk, a closed or a broken standard error changes neither outcome nor exit code."""
    out = rows.with_name("out.jsonl")
    for fault, words, code in (
        (None, (*ASK, "Why?", "-v"), 0),
        (None, ("batch", str(rows), "-o", str(out), "-p", "chatglm", "-vv"), 0),
        ({"status": 503}, (*ASK, "Why?", "-v"), 75),
        ({"html": True}, (*ASK, "Why?"), 69),
        ({"cut_after": 3}, (*ASK, "Why?"), 3),
        (None, ("ask", "--no-such-option"), 2),
    ):
        if fault is not None:
            at_sandbox.fail("chatglm", **fault)  # type: ignore[arg-type]
        # Descriptor 5 is a pipe that nobody reads any more.
        shell = ["bash", "-c", f'exec 5> >(exit); wait $!; exec "$@" 2>{errors}', "bash"]
        done = subprocess.run(
            [*shell, *command(*words, "--no-state")], env=environ(), stdout=subprocess.PIPE
        )
        assert done.returncode == code, words
        assert bool(done.stdout) == (words[0] == "ask" and code in (0, 3))


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize("words", [("--help",), ("ask", "--help"), ("providers",), ("--version",)])
def test_standard_output_that_takes_nothing(words: tuple[str, ...]) -> None:
    """A full disk is an error, told in a line."""
    with open("/dev/full", "w") as full:
        done = subprocess.run(command(*words), env=environ(), stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 1
    assert done.stderr == b"llmproviders: No space left on device\n"


@pytest.mark.skipif(os.name != "posix", reason="elsewhere arguments are text")
def test_an_argument_that_is_no_utf_8(at_sandbox: Sandbox) -> None:
    """Bytes that are no text are wrong usage, with a word on what to do."""
    done = subprocess.run(
        [*map(os.fsencode, command(*ASK)), b"why \xff?"], capture_output=True, env=environ()
    )
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"not UTF-8" in done.stderr
    assert at_sandbox.count() == 0


def test_a_defect_has_a_code_and_shows_no_secret(at_sandbox: Sandbox, tmp_path: Path) -> None:
    """What nobody foresaw, a broken library for one, is 1, with its traceback and no password."""
    (tmp_path / "requests.py").write_text("raise RuntimeError('http://me:hunter22@proxy is lost')")
    path = os.pathsep.join([str(tmp_path), *filter(None, [environ().get("PYTHONPATH")])])
    result = run(*ASK, "Why?", env={"PYTHONPATH": path})
    assert (result.code, result.out) == (1, "")
    assert "unexpected error" in result.err
    assert "http://***@proxy is lost" in result.err
    assert "hunter22" not in result.err


@pytest.mark.usefixtures("at_sandbox")
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((*ASK, "Why?", "--timeout", "soon"), "neither seconds nor CONNECT,READ"),
        ((*ASK, "Why?", "-o", "/no/such/folder/file"), "no folder"),
        (("trust", "gigachat", "--file", "/no/such/ca.pem"), "/no/such/ca.pem: No such file"),
        (("config", "init", "--config", "/proc/none/config.toml"), "cannot be written"),
    ],
)
def test_wrong_usage(arguments: tuple[str, ...], said: str) -> None:
    """What is asked for and cannot be is 2, and says what."""
    result = run(*arguments)
    assert (result.code, result.out) == (2, "")
    assert said in result.err


@pytest.mark.usefixtures("at_sandbox")
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((*ASK, "-o", ".", "Why?"), ". is a folder; name a file"),
        ((*ASK, "-o", "no/reply.txt", "Why?"), "no; make it first"),
        ((*ASK, "--schema", "nowhere.json", "Why?"), "nowhere.json cannot be read: No such file"),
        ((*ASK, "--lock", "in.jsonl", "Why?", "--no-stdin"), "the lock cannot be made"),
        ((*ASK, "-"), "standard input is not UTF-8 (byte 0)"),
        (("batch", "nowhere.jsonl", "-o", "out.jsonl"), "File 'nowhere.jsonl' does not exist"),
        (("batch", ".", "-o", "out.jsonl"), "File '.' is a directory"),
        (("batch", "in.jsonl", "-o", "no/out.jsonl"), "no; make it first"),
        (("batch", "in.jsonl", "-o", "o", "--report", "no/r.html"), "no; make it first"),
        (("batch", "in.jsonl", "-o", "o", "-p", "openai"), "two requests have the id 'one'"),
        (("chat", "-p", "openai", "--load", "nowhere.json"), "nowhere.json cannot be read"),
        (("sandbox", "--port", "PORT"), "PORT cannot be used"),
    ],
)
def test_what_is_in_the_way(arguments: tuple[str, ...], said: str, tmp_path: Path) -> None:
    """Where the command was typed well, the reason is all that is told, without usage lines."""
    (tmp_path / "in.jsonl").write_text('{"id": "one", "prompt": "?"}\n' * 2)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        words = (port if word == "PORT" else word for word in arguments)
        result = run(*words, stdin=b"\xff", cwd=tmp_path)
    assert (result.code, result.out) == (2, "")
    told = [line for line in result.err.splitlines() if not line.startswith("Talking to ")]
    assert len(told) == 1
    assert told[0].startswith("llmproviders: ")
    assert said.replace("PORT", port) in told[0]


def test_the_deadline_passes(at_sandbox: Sandbox) -> None:
    """Who was asked until then, and for how long, is told in a line each, and who was not."""
    at_sandbox.fail("openai", status=503)
    at_sandbox.fail("openai", stall=True, before_head=True, times=9)
    asked = ("-p", "openai", "-p", "gigachat", "-p", "chatglm", "--deadline", "4", "--no-state")
    told = re.compile(
        r"llmproviders: the deadline of the call passed:\n"
        r"  OpenAICompatible \(sandbox-small\): ServerError after \d\.\d\d s: .+\n"
        r"  OpenAICompatible \(.+\) after a wait of .+ s: DeadlineExceeded after \d\.\d\d s: .+\n"
        r"  GigaChat: not asked\n"
        r"  ChatGLM: not asked\n"
    )
    result = run("ask", "Why?", *asked)
    assert (result.code, result.out) == (75, "")
    assert told.fullmatch(result.err)
    at_sandbox.fail("openai", stall=True, before_head=True)
    result = run("chat", *asked, "--deadline", "0.5", stdin="Why?\n")
    assert "passed:\n  OpenAICompatible (sandbox-small): DeadlineExceeded after 0." in result.err
    assert "\n  GigaChat: not asked\n" in result.err


def test_the_deadline_passes_after_text(at_sandbox: Sandbox) -> None:
    """The exit code stays that of an incomplete reply, and --json has the error's own words."""
    for options in ((), ("--json",)):
        at_sandbox.fail("chatglm", stall=True, cut_after=3)
        result = run(*ASK, "Why?", "-p", "openai", "--deadline", "2", "--no-state", *options)
        assert result.code == 3
        assert "OpenAICompatible: not asked" in result.err
        assert "This is the" in result.out
    assert json.loads(result.out)["error"]["type"] == "DeadlineExceeded"


@pytest.mark.usefixtures("no_retries")
def test_a_service_that_says_nothing(at_sandbox: Sandbox, rows: Path) -> None:
    """``--first-chunk-timeout`` has ask, batch and chat try the next one."""
    out = rows.with_name("out.jsonl")
    for words, stdin in (
        (("ask", "Why?"), None),
        (("batch", str(rows), "-o", str(out)), None),
        (("chat",), "Why?\n"),
    ):
        at_sandbox.fail("chatglm", stall=True, before_head=True, times=9)
        options = ("-p", "chatglm", "-p", "openai", "--first-chunk-timeout", "0.5", "--no-state")
        result = run(*words, *options, stdin=stdin)
        assert result.code == 0, result.err
        assert "OpenAI-compatible" in (out.read_text() if words[0] == "batch" else result.out)
    assert run("ask", "Why?", "--first-chunk-timeout", "0").code == 2


def test_a_certificate_that_cannot_be_fetched(refused_port: int, home: Path) -> None:
    """Where nobody answers, a download may work another time, and a browser may do it now."""
    url = f"http://127.0.0.1:{refused_port}/ca.crt"
    result = run("trust", "gigachat", "--download", "--url", url)
    assert (result.code, result.out) == (75, "")
    assert "refused" in result.err
    assert url in result.err
    assert "https://www.gosuslugi.ru/crt" in result.err
    assert "llmproviders trust gigachat --file FILE" in result.err


def test_a_key_file_that_is_gone(configure: Configure, home: Path) -> None:
    """What shows the configuration says which key is missing, and goes on."""
    configure('[[provider]]\ntype = "openai"\napi_key_file = "gone.key"\n')
    shown = run("config", "show")
    assert shown.code == 0
    assert f"the key file {home / 'gone.key'} cannot be read" in shown.out
    assert "not found where the configuration says" in run("providers").out


def test_a_reply_that_begins_anew(at_sandbox: Sandbox, configure: Configure) -> None:
    """At a terminal it is told that the text above is void; a pipe gets the whole reply alone."""
    configure('[failover]\non_interrupt = "restart"\n')
    at_sandbox.fail("chatglm", cut_after=3)
    with Terminal(*ASK, "Why?", "--no-state") as terminal:
        result = terminal.end()
    assert result.code == 0
    assert re.search(
        "This is the\r\n.*ChatGLM broke off.*This is the ChatGLM", result.out, re.DOTALL
    )
    at_sandbox.fail("chatglm", cut_after=3)
    result = run("chat", "-p", "chatglm", "--no-state", stdin="Why?\n")
    assert result.code == 0
    assert result.out.startswith("This is the ChatGLM sandbox")
    assert result.out.count("This is the") == 1


def test_what_a_conversation_shows(at_sandbox: Sandbox) -> None:
    """The commands tell what is set, and a file that cannot be written ends nothing."""
    lines = ("/system", "/model", "/save /no/such/folder/said.json", "first", "/retry", "/quit")
    result = run("chat", "-p", "openai", stdin="".join(f"{line}\n" for line in lines))
    assert result.code == 0
    for said in ("System prompt: (none)", "Model: (default)", "/no/such/folder/said.json: No such"):
        assert said in result.err
    asked = [[m["content"] for m in request.json["messages"]] for request in at_sandbox.requests]
    assert asked == [["first"], ["first"]]


def test_what_is_told_of_each_row(at_sandbox: Sandbox, rows: Path, tmp_path: Path) -> None:
    """-vv tells each attempt of each row, those of failed ones too."""
    at_sandbox.fail("openai", status=503)
    out = tmp_path / "out.jsonl"
    result = run("batch", str(rows), "-o", str(out), "-p", "openai", "-vv", "--workers", "1")
    assert (result.code, result.out) == (0, "")
    assert result.err.count("OpenAICompatible (sandbox-small): ") >= 3
    assert "ServerError" in result.err
    assert "3 done" in result.err


def test_a_batch_that_another_run_writes(at_sandbox: Sandbox, rows: Path, tmp_path: Path) -> None:
    """An output that another run holds may be free another time; nothing is sent."""
    with FileLock(str(tmp_path / ".out.jsonl.lock")):
        result = run("batch", str(rows), "-o", str(tmp_path / "out.jsonl"), "-p", "openai")
    assert (result.code, result.out) == (75, "")
    assert "another run is writing" in result.err
    assert at_sandbox.count() == 0


def test_a_cluster_that_is_not_there(
    at_sandbox: Sandbox, rows: Path, tmp_path: Path, refused_port: int
) -> None:
    """Where no scheduler answers, there may be one another time; nothing is sent."""
    pytest.importorskip("distributed")
    address = f"tcp://127.0.0.1:{refused_port}"
    arguments = ("batch", str(rows), "-o", str(tmp_path / "out.jsonl"), "-p", "openai")
    patience = {"DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": "0.5s"}
    result = run(*arguments, "--dask", address, env=patience)
    assert (result.code, result.out) == (75, "")
    assert f"no Dask scheduler at {address}" in result.err
    assert at_sandbox.count() == 0


def test_a_cluster_that_is_not_installed(at_sandbox: Sandbox, rows: Path, tmp_path: Path) -> None:
    """Without Dask, the message says how to install it."""
    lost = "raise ModuleNotFoundError('no distributed')"
    (tmp_path / "distributed.py").write_text(lost)
    path = os.pathsep.join([str(tmp_path), *filter(None, [environ().get("PYTHONPATH")])])
    arguments = ("batch", str(rows), "-o", str(tmp_path / "out.jsonl"), "-p", "openai")
    result = run(*arguments, "--dask", "tcp://127.0.0.1:1", env={"PYTHONPATH": path})
    assert (result.code, result.out) == (2, "")
    assert 'pip install "llmproviders[dask]"' in result.err
    assert at_sandbox.count() == 0


@pytest.mark.filterwarnings("ignore::DeprecationWarning:distributed")
def test_a_secret_that_a_cluster_would_show(
    at_sandbox: Sandbox, rows: Path, tmp_path: Path
) -> None:
    """A password that would travel to the scheduler is refused, and nothing is sent."""
    distributed = pytest.importorskip("distributed")
    configured = tmp_path / "config.toml"
    configured.write_text('[[provider]]\ntype = "openai"\n')
    arguments = ("batch", str(rows), "-o", str(tmp_path / "out.jsonl"))
    options = ("--config", str(configured), "--proxy", "http://me:hunter22@127.0.0.1:9")
    settings = {"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0", "silence_logs": 50}
    with distributed.LocalCluster(n_workers=0, **settings) as cluster:
        result = run(*arguments, *options, "--dask", cluster.scheduler_address)
    assert (result.code, result.out) == (2, "")
    assert "contains a secret" in result.err
    assert "hunter22" not in result.err
    assert at_sandbox.count() == 0
