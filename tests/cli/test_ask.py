"""``llmproviders ask``: where prompts come from, and where replies go."""

from __future__ import annotations

import json
import os
import re
import select
import shlex
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from llmproviders._environment import usage_file
from llmproviders.batch import as_row
from llmproviders.sandbox import Sandbox
from tests.cli.conftest import Configure
from tests.cli.process import PATIENCE_S, command, environ, run
from tests.conftest import RawServerFactory
from tests.support.http_bytes import http_response

ASK = ("ask", "-p", "openai")


@pytest.fixture
def echo(monkeypatch: pytest.MonkeyPatch) -> Sandbox:
    """Serve what was asked as the reply."""
    with Sandbox(reply=lambda messages: str(messages[-1]["content"])) as sandbox:
        for name, value in sandbox.environ().items():
            monkeypatch.setenv(name, value)
        yield sandbox


def test_prompts(echo: Sandbox) -> None:
    """A prompt is the argument, or standard input, or the one with the other below it."""
    table = [
        (("one",), None, "one"),
        ((), "two\n", "two"),
        (("-",), "\ufeffthree", "three"),
        (("four",), "data", "four\n\ndata"),
        (("five",), " \n", "five"),
    ]
    for arguments, stdin, prompt in table:
        result = run(*ASK, *arguments, stdin=stdin)
        assert (result.code, result.out, result.err) == (0, f"{prompt}\n", "")


@contextmanager
def asking(*arguments: str, stdin: int) -> Iterator[subprocess.Popen[bytes]]:
    """The command while it runs, with an open descriptor as its standard input."""
    with subprocess.Popen(
        command(*ASK, *arguments),
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environ(),
    ) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture
def open_pipe() -> Iterator[tuple[int, int]]:
    """Return the ends of a pipe that nobody closes."""
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


def test_an_open_pipe_that_says_nothing(echo: Sandbox, open_pipe: tuple[int, int]) -> None:
    """A pipe that a parent holds open is left alone; with -v a line names both ways out."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        for options, stdin in (
            ((), open_pipe[0]),
            ((), ours.fileno()),
            (("-v",), open_pipe[0]),
            (("-q",), open_pipe[0]),
            (("--no-stdin",), open_pipe[0]),
        ):
            with asking("one", *options, stdin=stdin) as process:
                out, err = process.communicate(timeout=PATIENCE_S)
            assert (process.returncode, out) == (0, b"one\n")
            told = 1 if options == ("-v",) else 0
            assert err.count(b"standard input was left alone: nothing came within a sec") == told
            assert err.count(b"--stdin waits for it, --no-stdin leaves it alone") == told


def test_a_slow_writer(echo: Sandbox, open_pipe: tuple[int, int], tmp_path: Path) -> None:
    """``--stdin`` waits for a command that takes longer than a second to write something."""
    reader, writer = os.pipe()
    file = tmp_path / "reply.txt"
    with asking("one", "--stdin", "-o", str(file), stdin=reader) as waiting:
        # This one starts later, waits for a second and ends.
        with asking("one", stdin=open_pipe[0]) as process:
            process.communicate(timeout=PATIENCE_S)
        assert (waiting.poll(), file.exists()) == (None, False)
        os.write(writer, b"data")
        os.close(writer)
        _, err = waiting.communicate(timeout=PATIENCE_S)
    os.close(reader)
    assert (waiting.returncode, err, file.read_text()) == (0, b"", "one\n\ndata\n")


@pytest.mark.parametrize("stdin", [None, "", " \n"])
@pytest.mark.parametrize("arguments", [("one",), ("-",), ()], ids=str)
def test_standard_input_that_has_to_come(
    echo: Sandbox, stdin: str | None, arguments: tuple[str, ...], tmp_path: Path
) -> None:
    """With ``--stdin``, an empty input is an error: nothing is sent, and a file stays."""
    file = tmp_path / "reply.txt"
    file.write_text("old")
    result = run(*ASK, "--stdin", "-o", str(file), *arguments, stdin=stdin)
    assert (result.code, result.out, echo.count()) == (2, "", 0)
    assert result.err.startswith("llmproviders: standard input is empty; ")
    assert file.read_text() == "old"


def test_a_file_that_was_begun(echo: Sandbox, tmp_path: Path) -> None:
    """With ``--stdin``, the rest of a file that another program has begun to read is added."""
    (tmp_path / "lines").write_text("one\ntwo\n")
    script = 'read -r first; "$@"'
    done = subprocess.run(
        ["bash", "-c", f"{{ {script}; }} < lines", "bash", *command(*ASK, "Why?", "--stdin")],
        capture_output=True,
        env=environ(),
        cwd=tmp_path,
        timeout=PATIENCE_S,
    )
    assert (done.stdout, done.stderr) == (b"Why?\n\ntwo\n", b"")


def test_no_stdin(echo: Sandbox) -> None:
    """--no-stdin adds nothing; -v tells how much was added without it."""
    assert run(*ASK, "one", "--no-stdin", stdin="data").out == "one\n"
    result = run(*ASK, "one", "-v", stdin="data")
    assert result.out == "one\n\ndata\n"
    assert "standard input was added to the prompt: 4 characters" in result.err


def test_a_writer_that_has_begun(echo: Sandbox) -> None:
    """What has begun to come is read to its end, though the end comes late."""
    reader, writer = os.pipe()
    with asking("one", stdin=reader) as process, open(writer, "wb", buffering=0) as pipe:
        pipe.write(b"first ")
        while select.select([reader], [], [], 0)[0]:
            assert process.poll() is None
        pipe.write(b"last")
        pipe.close()
        out, _ = process.communicate(timeout=PATIENCE_S)
    os.close(reader)
    assert out == b"one\n\nfirst last\n"


def test_standard_input_and_the_deadline(echo: Sandbox, open_pipe: tuple[int, int]) -> None:
    """Standard input that does not end is read until the deadline, and nothing is sent."""
    os.write(open_pipe[1], b"for ever")
    for arguments in (("one",), ("-",), ("one", "--stdin")):
        with asking(*arguments, "--deadline", "0.5", stdin=open_pipe[0]) as process:
            out, err = process.communicate(timeout=PATIENCE_S)
        assert (process.returncode, out) == (75, b"")
        assert err == (
            b"llmproviders: the deadline passed before standard input ended:\n"
            b"  OpenAICompatible: not asked\n"
        )
    assert echo.count() == 0


def test_a_signal_while_standard_input_is_read(echo: Sandbox, open_pipe: tuple[int, int]) -> None:
    """SIGTERM ends a command that waits for its prompt."""
    os.write(open_pipe[1], b"for ever")
    with asking("-", stdin=open_pipe[0]) as process:
        while select.select([open_pipe[0]], [], [], 0)[0]:
            assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=PATIENCE_S) == 143


def test_a_loop_over_lines(echo: Sandbox, tmp_path: Path) -> None:
    """A loop that reads a file keeps its lines: a file that was begun is left to its reader."""
    (tmp_path / "lines").write_text("one\ntwo\nthree\n")
    loop = 'while read -r line; do "$@" "$line"; done < lines'
    done = subprocess.run(
        ["bash", "-c", loop, "bash", *command(*ASK)],
        capture_output=True,
        env=environ(),
        cwd=tmp_path,
        timeout=PATIENCE_S,
    )
    assert done.stdout == b"one\ntwo\nthree\n"


LOOPS = {
    "a here-document": 'while read -r line; do "$@" "$line"; done <<EOF\none\ntwo\nthree\nEOF',
    "a pipe": 'printf "one\\ntwo\\nthree\\n" | while read -r line; do "$@" "$line"; done',
}


@pytest.mark.parametrize("shell", ["bash", "sh"])
@pytest.mark.parametrize("loop", LOOPS.values(), ids=list(LOOPS))
def test_a_loop_over_a_pipe(echo: Sandbox, shell: str, loop: str) -> None:
    """``--no-stdin`` leaves a loop's lines to the loop; without it the first call takes them.

    A shell writes a short here-document into a pipe, or into a file that it has begun to read.
    ``-v`` says what was taken, and the way out.
    """

    def looped(*options: str) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [shell, "-c", loop, shell, *command(*ASK, *options)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env=environ(),
            timeout=PATIENCE_S,
        )

    assert looped("--no-stdin").stdout == b"one\ntwo\nthree\n"
    taken = looped("-v")
    if taken.stdout != b"one\ntwo\nthree\n":
        assert taken.stdout == b"one\n\ntwo\nthree\n"
        told = b"standard input was added to the prompt: 10 characters; --no-stdin"
        assert told in taken.stderr


def test_a_script_on_standard_input(echo: Sandbox, tmp_path: Path) -> None:
    """A script that a shell reads from its standard input is not swallowed into the prompt."""
    words = " ".join(command(*ASK))
    (tmp_path / "script").write_text(f"{words} one\n{words} two\n")
    with open(tmp_path / "script", "rb") as script:
        done = subprocess.run(
            ["bash"], stdin=script, capture_output=True, env=environ(), timeout=PATIENCE_S
        )
    assert done.stdout == b"one\ntwo\n"


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="only /proc tells who reads a pipe")
@pytest.mark.parametrize(
    "shell",
    [
        "bash",
        "sh",
        "bash -eo pipefail",
        "bash -s word",
        "bash --norc",
        "bash -c 'exec -a ksh93 bash'",
    ],
)
@pytest.mark.parametrize("before", ["", "timeout 60 "])
def test_a_script_that_is_piped_in(echo: Sandbox, shell: str, before: str) -> None:
    """A script that a shell reads from a pipe, as in a notebook's cell, is not swallowed."""
    line = before + shlex.join(command(*ASK))
    done = subprocess.run(
        shlex.split(shell),
        input=f"{line} one\n{line} two\nprintf data | {line} three\n".encode(),
        capture_output=True,
        env=environ(),
        timeout=PATIENCE_S,
    )
    assert done.stdout == b"one\ntwo\nthree\n\ndata\n"


@pytest.mark.parametrize("script", ["{}; true", "cd / && {} && true", "( {} ); true"])
def test_a_pipe_that_a_script_was_given(echo: Sandbox, script: str, tmp_path: Path) -> None:
    """What is piped into a script is there for the commands in it."""
    words = script.format(shlex.join(command(*ASK, "one")))
    (tmp_path / "script").write_text(words)
    for arguments in (["-c", words], [str(tmp_path / "script")]):
        done = subprocess.run(
            ["bash", *arguments],
            input=b"data",
            capture_output=True,
            env=environ(),
            timeout=PATIENCE_S,
        )
        assert done.stdout == b"one\n\ndata\n"


def test_standard_input_that_cannot_be_read(echo: Sandbox) -> None:
    """Opened for writing, as ``nohup`` leaves it, it is no prompt; without PROMPT that is told."""
    for path in (os.devnull, os.fspath(Path.home() / "written")):
        with open(path, "wb") as file:
            with asking("one", stdin=file.fileno()) as process:
                assert process.communicate(timeout=PATIENCE_S) == (b"one\n", b"")
            with asking(stdin=file.fileno()) as process:
                out, err = process.communicate(timeout=PATIENCE_S)
            assert (process.returncode, out) == (2, b"")
            assert b"standard input cannot be read: Bad file descriptor" in err
            done = subprocess.run(
                command("chat", "-p", "openai"), stdin=file, capture_output=True, env=environ()
            )
            assert done.returncode == 2
            assert b"standard input cannot be read" in done.stderr
    assert echo.count() == 2


def test_pipes_that_do_not_block(echo: Sandbox) -> None:
    """A reply is whole, though its pipe was non-blocking and the reader is late; so is a prompt."""
    text = "a word " * 30_000
    (prompt, asker), (reader, reply) = os.pipe(), os.pipe()
    os.set_blocking(prompt, False)
    os.set_blocking(reply, False)
    with subprocess.Popen(command(*ASK), stdin=prompt, stdout=reply, env=environ()) as process:
        os.close(prompt)
        os.close(reply)
        with open(asker, "wb") as pipe:
            pipe.write(text.encode())
        echo.wait_for(lambda box: box.count() == 1)
        with open(reader, "rb") as file:
            assert file.read().decode() == text + "\n"
        assert process.wait(timeout=PATIENCE_S) == 0


def test_what_is_no_prompt(echo: Sandbox) -> None:
    """No text, or none in UTF-8, is wrong usage, and nothing is sent."""
    for arguments, stdin, words in [
        ((), None, "empty"),
        ((), b"\xcf\xf0\xe8", "iconv -c -f UTF-8 -t UTF-8"),
        (("look:",), b"\xcf\xf0\xe8", "iconv"),
    ]:
        result = run(*ASK, *arguments, stdin=stdin)
        assert (result.code, result.out) == (2, "")
        assert words in result.err
    assert echo.count() == 0


def test_every_argument_is_utf8(at_sandbox: Sandbox) -> None:
    """System prompt and model are UTF-8 in a locale that knows no such letters."""
    env = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    result = run("ask", "-p", "openai", "-s", "Отвечай", "-m", "модель", "Почему?", env=env)
    request = at_sandbox.requests[-1].json
    assert request["messages"][0] == {"role": "system", "content": "Отвечай"}
    assert request["model"] == "модель"
    assert "модель" in result.err


@pytest.mark.skipif(os.name != "posix", reason="elsewhere arguments are text")
def test_every_message_is_utf8(home: Path) -> None:
    """What was wrong is told as it was typed in such a locale, and paths are as they were given."""
    env = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    for words, said in (
        (("почему небо синее?",), "llmproviders ask 'почему небо синее?'"),
        (("ask", "--нет"), "--нет"),
        (("ask", "--deadline", "час", "x"), "'час' is not a valid"),
        (("ask", "-o", "нет/reply", "x"), f"{home}/нет; make it first"),
        (("batch", "нет", "-o", "x"), "'нет' does not exist"),
        (("config", "show", "--config", "нет.toml"), "no configuration at нет.toml"),
    ):
        result = run(*words, env=env, cwd=home)
        assert result.code == 2
        assert said in result.err
    place = home / "папка" / "config.toml"
    assert run("config", "init", "--config", str(place), env=env).out == f"{place}\n"
    assert place.is_file()


@pytest.mark.parametrize("locale", ["C", "POSIX", "no_SUCH.KOI8-R"])
def test_utf8_whatever_the_locale_says(echo: Sandbox, locale: str) -> None:
    """Prompts and replies are UTF-8 in a locale that knows no such letters."""
    env = {"LC_ALL": locale, "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    result = run(*ASK, "Почему? 为什么", stdin="🦊".encode(), env=env)
    assert (result.code, result.out, result.err) == (0, "Почему? 为什么\n\n🦊\n", "")


@pytest.mark.usefixtures("no_retries")
def test_output_is_written_whole_or_not_at_all(echo: Sandbox, tmp_path: Path) -> None:
    """-o prints nothing; a failure leaves the old file and no other beside it."""
    file = tmp_path / "reply.txt"
    file.write_text("old")
    file.chmod(0o640)
    echo.fail("openai", cut_after=3)
    result = run(*ASK, "one two three four five six", "-o", str(file))
    assert (result.code, result.out, file.read_text()) == (3, "", "old")
    result = run(*ASK, "new", "-o", str(file))
    assert (result.code, result.out, result.err) == (0, "", "")
    assert file.read_text() == "new\n"
    assert file.stat().st_mode & 0o777 == 0o640
    assert os.listdir(tmp_path) == ["reply.txt"]


@pytest.mark.parametrize("options", [(), ("--no-stream",), ("-q",)], ids=" ".join)
def test_a_reply_that_max_tokens_cut(echo: Sandbox, options: tuple[str, ...]) -> None:
    """It is printed and the exit code is 3; a line on stderr says so, at a terminal or not."""
    result = run(*ASK, "one two three four", "--max-tokens", "2", *options)
    assert (result.code, result.out) == (3, "one two\n")
    assert "the reply is cut" in result.err
    assert "--allow-cut" in result.err
    assert len(result.err.splitlines()) == 1
    allowed = run(*ASK, "one two three four", "--max-tokens", "2", "--allow-cut", *options)
    assert (allowed.code, allowed.out, allowed.err) == (0, "one two\n", "")


@pytest.mark.parametrize("option", [(), ("--allow-cut",)], ids=" ".join)
def test_a_filtered_reply_and_a_file(
    at_sandbox: Sandbox, tmp_path: Path, option: tuple[str, ...]
) -> None:
    """What a filter stopped leaves a file as it was, with 4; --allow-cut does not change that."""
    file = tmp_path / "reply.txt"
    file.write_text("old")
    asked = ("ask", "-p", "openai", "trip the filter", "-o", str(file), *option)
    result = run(*asked)
    assert (result.code, result.out, file.read_text()) == (4, "", "old")
    assert "the filter of OpenAICompatible stopped the reply" in result.err
    result = run(*asked, "--json")
    assert (result.code, file.read_text()) == (4, "old")
    assert json.loads(result.out)["finish_reason"] == "content_filter"


def test_a_cut_reply_and_a_file(echo: Sandbox, tmp_path: Path) -> None:
    """A file is left as it was, with --json too; --allow-cut writes it."""
    file = tmp_path / "reply.txt"
    file.write_text("old")
    cut = (*ASK, "one two three four", "--max-tokens", "2", "-o", str(file))
    result = run(*cut)
    assert (result.code, result.out, file.read_text()) == (3, "", "old")
    assert "the reply is cut" in result.err
    result = run(*cut, "--json")
    assert (result.code, file.read_text()) == (3, "old")
    assert json.loads(result.out)["finish_reason"] == "length"
    assert run(*cut, "--allow-cut").code == 0
    assert file.read_text() == "one two\n"
    assert os.listdir(tmp_path) == ["reply.txt"]


def test_output_that_cannot_be_written(echo: Sandbox, tmp_path: Path) -> None:
    """A folder that is not there is told before anything is asked."""
    for path in (tmp_path / "no" / "reply.txt", tmp_path):
        result = run(*ASK, "Why?", "-o", str(path))
        assert (result.code, result.out) == (2, "")
        assert str(path) in result.err or str(path.parent) in result.err
    assert echo.count() == 0


@pytest.mark.usefixtures("no_retries")
def test_json(at_sandbox: Sandbox, tmp_path: Path) -> None:
    """--json prints one object with the fields of a batch's row, on failure too; -o takes it."""
    fields = set(as_row(None, ValueError()))
    reply = json.loads(run(*ASK, "Why?", "--json").out)
    assert set(reply) == fields
    assert reply["text"].startswith("This is the")
    assert (reply["finish_reason"], reply["provider"]) == ("stop", "OpenAICompatible")
    assert reply["usage"]["total_tokens"] > 0
    assert (len(reply["attempts"]), reply["error"]) == (1, None)

    file = tmp_path / "reply.json"
    assert run(*ASK, "Why?", "--json", "-o", str(file)).out == ""
    assert json.loads(file.read_text()).keys() == fields

    at_sandbox.fail("openai", cut_after=3)
    result = run(*ASK, "Why?", "--json")
    failure = json.loads(result.out)
    assert (result.code, set(failure)) == (3, fields)
    assert failure["text"] == "This is the"
    assert failure["error"]["type"] == "AllProvidersFailed"
    assert failure["attempts"][0]["error"]["type"] == "StreamInterrupted"


def test_json_of_a_wrong_setup(home: Path) -> None:
    """--json prints an object where the configuration is what failed, too."""
    result = run(*ASK, "Why?", "--json", "--config", "no-such-file")
    assert result.code == 2
    assert json.loads(result.out)["error"]["type"] == "ConfigError"


def test_whole_replies_recover(at_sandbox: Sandbox, configure: Configure) -> None:
    """A reply that is cut is asked for again where nothing was shown; stdout has it once."""
    whole = run(*ASK, "Why?").out
    for options, settings in [(("--no-stream",), ""), ((), 'on_interrupt = "restart"')]:
        configure(f"[failover]\n{settings}\n")
        at_sandbox.fail("openai", cut_after=5)
        result = run(*ASK, "Why?", *options)
        assert (result.code, result.out, result.err) == (0, whole, "")


def test_no_stream_asks_for_the_whole(at_sandbox: Sandbox) -> None:
    """With ``--no-stream`` the service itself is asked for the whole reply at once."""
    for options in ((), ("--no-stream",), ("--json",)):
        assert run(*ASK, "Why?", *options).code == 0
    assert [request.json["stream"] for request in at_sandbox.requests] == [True, False, True]


def test_a_line_break_ends_the_output() -> None:
    """A reply that ends its last line gets no second line break."""
    with Sandbox(reply="a line\n") as sandbox:
        for options in ((), ("--no-stream",)):
            assert run(*ASK, "Why?", *options, env=sandbox.environ()).out == "a line\n"


def test_a_closed_pipe_ends_quietly(at_sandbox: Sandbox) -> None:
    """A reader that has left ends the command as it ends every other tool, without a word."""
    for arguments in ((*ASK, "Why?"), (*ASK, "Why?", "--json"), ("providers",), ("--help",)):
        reader, writer = os.pipe()
        os.close(reader)
        with open(writer, "wb") as pipe:
            ended = subprocess.run(
                command(*arguments),
                stdin=subprocess.DEVNULL,
                stdout=pipe,
                stderr=subprocess.PIPE,
                env=environ(),
            )
        assert (ended.returncode, ended.stderr) == (-signal.SIGPIPE, b"")


def test_what_is_told_on_stderr(at_sandbox: Sandbox) -> None:
    """In a pipe nothing is told; -v tells each attempt; -q not even the warnings."""
    told = {}
    for option in ("", "-v", "-q"):
        at_sandbox.fail("chatglm", html=True)
        result = run("ask", "-p", "chatglm", "-p", "openai", "Why?", "--no-state", *option.split())
        assert result.code == 0
        assert result.out.startswith("This is the OpenAI")
        told[option] = result.err
    assert (told[""], told["-q"]) == ("", "")
    assert "ChatGLM (glm-4): BlockedError" in told["-v"]
    assert "OpenAICompatible (sandbox-small): " in told["-v"]


def test_options_reach_the_service(at_sandbox: Sandbox) -> None:
    """Model, system prompt and sampling parameters are sent as they were given."""
    options = ["-m", "sandbox-large", "--temperature", "0.5", "--max-tokens=7", "--timeout=3,9"]
    assert run(*ASK, "Why?", "-s", "Be brief.", "--allow-cut", *options).code == 0
    body = at_sandbox.requests[-1].json
    assert body["messages"][0] == {"role": "system", "content": "Be brief."}
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("sandbox-large", 0.5, 7)


def test_options_that_make_no_sense(home: Path) -> None:
    """A number out of its range and a wrong timeout are wrong usage, with the option's name."""
    for option, value in [("--deadline", "0"), ("--timeout", "1,2,3"), ("--temperature", "-1")]:
        result = run(*ASK, "Why?", option, value)
        assert result.code == 2
        assert option in result.err


def test_a_proxy_carries_every_request(at_sandbox: Sandbox, refused_port: int) -> None:
    """--proxy holds for loopback addresses, too, and its password is never shown."""
    proxy = f"http://me:hunter22@127.0.0.1:{refused_port}"
    result = run(*ASK, "Why?", "--proxy", proxy, "--deadline", "1")
    assert (result.code, at_sandbox.count()) == (75, 0)
    assert "hunter22" not in result.err


def test_a_lock_keeps_two_runs_apart(at_sandbox: Sandbox, tmp_path: Path) -> None:
    """A second run ends at once with 75 and a line that says so, as an object where asked."""
    from filelock import FileLock

    lock = tmp_path / "report.lock"
    with FileLock(str(lock)):
        result = run(*ASK, "Why?", "--lock", str(lock))
        assert (result.code, result.out) == (75, "")
        assert result.err.count("\n") == 1
        assert str(lock) in result.err
        told = json.loads(run(*ASK, "Why?", "--json", "--lock", str(lock)).out)
        assert str(lock) in told["error"]["message"]
    assert at_sandbox.count() == 0
    assert run(*ASK, "Why?", "--lock", str(lock)).code == 0
    assert run(*ASK, "Why?", "--lock", str(lock / "no-folder")).code == 2


def test_state_between_runs(at_sandbox: Sandbox, home: Path) -> None:
    """A token serves the next run, and what failed is put last by it; --no-state: neither."""
    both = ("ask", "-p", "chatglm", "-p", "gigachat", "Why?")
    at_sandbox.fail("chatglm", html=True, times=2)
    assert run(*both, "--no-state").code == 0
    assert list(home.rglob("*.json")) == []
    assert run(*both).code == 0
    assert run(*both).code == 0
    assert at_sandbox.count("chatglm") == 2
    assert at_sandbox.count("gigachat", "token") == 2
    assert {path.name for path in home.rglob("*.json")} == {"tokens.json", "health.json"}


def test_a_dash_for_a_file(at_sandbox: Sandbox) -> None:
    """-o - is standard output, with the whole reply or the object of one."""
    result = run("ask", "-p", "chatglm", "Why?", "-o", "-")
    assert (result.code, result.err) == (0, "")
    assert result.out.startswith("This is the ChatGLM sandbox")
    assert json.loads(run("ask", "-p", "chatglm", "Why?", "-o", "-", "--json").out)["error"] is None


def test_tokens_on_stderr(at_sandbox: Sandbox) -> None:
    """--usage tells on stderr what a reply took, streamed or whole; stdout has the reply alone."""
    for more in ((), ("--no-stream",)):
        result = run(*ASK, "Why?", "--usage", *more)
        assert result.code == 0
        assert re.fullmatch(
            r"llmproviders: \d+ tokens: \d+ prompt, \d+ completion(, \d+ \w+)*\n", result.err
        )
        assert "tokens" not in result.out


@pytest.mark.parametrize(
    ("content", "said"),
    [(None, "cannot be read"), ("{", "is not JSON"), ("[]", "is not a JSON Schema")],
)
def test_what_is_no_schema(
    at_sandbox: Sandbox, tmp_path: Path, content: str | None, said: str
) -> None:
    """A schema that is not there, or is none, is wrong usage before anything is asked."""
    if content is not None:
        (tmp_path / "s.json").write_text(content)
    result = run(*ASK, "Why?", "--schema", "s.json", cwd=tmp_path)
    assert (result.code, result.out, at_sandbox.count()) == (2, "", 0)
    assert said in result.err


def test_a_reply_that_satisfies_a_schema(echo: Sandbox, tmp_path: Path) -> None:
    """With --schema the reply is the JSON, without what stood around it."""
    (tmp_path / "s.json").write_text(
        '{"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}'
    )
    result = run(*ASK, '{"name": "Ада"}', "--schema", "s.json", cwd=tmp_path)
    assert result.code == 0, result.err
    assert json.loads(result.out) == {"name": "Ада"}


def test_a_reply_from_the_cache(at_sandbox: Sandbox) -> None:
    """With --cache a second run sends nothing."""
    first, second = (run(*ASK, "Why?", "--cache") for _ in range(2))
    assert (first.code, first.out) == (second.code, second.out)
    assert at_sandbox.count("openai", "chat") == 1


def test_what_was_used(at_sandbox: Sandbox) -> None:
    """usage tells what earlier runs asked, as a table or as objects, and from which day on.

    Where there is nothing to tell, it says what is counted.
    """
    assert run(*ASK, "Why?").code == 0
    empty = run("usage")
    assert (empty.code, empty.out) == (0, "")
    for condition in ("per_minute", "per_day", "LLMPROVIDERS_USAGE=1"):
        assert condition in empty.err
    counted = {"LLMPROVIDERS_USAGE": "1"}
    assert run(*ASK, "Why?", env=counted).code == 0
    [row] = json.loads(run("usage", "--json").out)
    assert (row["provider"], row["requests"], row["failures"]) == ("OpenAICompatible", 1, 0)
    assert "OpenAICompatible" in run("usage").out
    assert run("usage", "--since", "2999-01-01").out == ""
    assert run("usage", "--since", "yesterday").code == 2


@pytest.mark.parametrize("quiet", [(), ("-q",)])
def test_a_limit_that_does_not_hold(
    at_sandbox: Sandbox, configure: Configure, quiet: tuple[str, ...]
) -> None:
    """It is told in one line also without a terminal, since other runs may pass the limit."""
    path = usage_file()
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.write_text("my notes")
    path.chmod(0o600)
    provider = '[[provider]]\ntype = "openai"\n'
    configure(provider + "per_day = { requests = 1 }\n")
    result = run("ask", "Why?", *quiet)
    assert (result.code, result.err.count("\n")) == (0, 1)
    assert f"{path} is not shared between processes" in result.err
    configure(provider)
    assert run("ask", "Why?", env={"LLMPROVIDERS_USAGE": "1"}).err == ""


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_counts_that_cannot_be_read(at_sandbox: Sandbox, options: tuple[str, ...]) -> None:
    """usage says so, and does not say that nothing was counted."""
    path = usage_file()
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.write_text("my notes")
    path.chmod(0o600)
    result = run("usage", *options)
    assert (result.code, result.out) == (1, "")
    assert f"the counts in {path} cannot be read" in result.err


def test_a_file_to_look_at(echo: Sandbox, tmp_path: Path) -> None:
    """--attach names files, in order, as the parameter attach does."""
    result = run(*ASK, "Why?", "-a", str(tmp_path / "no.png"))
    assert (result.code, echo.count()) == (2, 0)
    assert "no.png" in result.err


def test_drawn_pictures(at_sandbox: Sandbox) -> None:
    """At a terminal or with -v a line tells how many there were; --json has their addresses."""
    asked = ("ask", "-p", "gigachat", "draw a picture")
    result = run(*asked)
    assert (result.code, result.err) == (0, "")
    assert "the service drew 1 picture" in run(*asked, "-v").err
    assert len(json.loads(run(*asked, "--json").out)["images"]) == 1


def test_drawn_pictures_alone(
    raw_server: RawServerFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reply without text writes nothing, not a blank line."""
    drawn = {"type": "image", "image": [{"image_url": "https://pictures.example/1.png"}]}
    event = {"status": "finish", "parts": [{"logic_id": "a", "content": [drawn]}]}
    body = f"data: {json.dumps(event)}\n\n".encode()
    path = tmp_path / "reply.txt"
    server = raw_server(http_response(200, {"Content-Type": "text/event-stream"}, body))
    monkeypatch.setenv("LLMPROVIDERS_CHATGLM_BASE_URL", server.url)
    asked = ("ask", "-p", "chatglm", "Draw the sea")
    assert (run(*asked).out, run(*asked, "-o", str(path)).code) == ("", 0)
    assert path.read_text() == ""
