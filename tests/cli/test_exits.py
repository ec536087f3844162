"""The exit codes: each with a process that ends so."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from llmproviders import errors
from llmproviders._environment import usage_file
from llmproviders.cli.exits import MEANING, Exit, exit_of_error
from llmproviders.results import Attempt
from llmproviders.sandbox import Sandbox, parse_fault
from tests.cli.conftest import Configure
from tests.cli.process import Running, environ, run

ASK = ("ask", "-p", "chatglm", "Why?")
OPENAI = ("ask", "-p", "openai", "Why?")

CALLS = [
    (Exit.OK, (), ASK),
    (Exit.USAGE, (), ("ask", "--no-such-option")),
    (Exit.USAGE, (), ("no-such-command",)),
    (Exit.USAGE, (), ("ask", "-p", "no-such-provider", "Why?")),
    (Exit.USAGE, (), ("ask", "-p", "chatglm", "  ")),
    (Exit.USAGE, (), (*ASK, "-m", "no-such-model")),
    (Exit.USAGE, (), (*ASK, "--config", "no-such-file.toml")),
    (Exit.INCOMPLETE, ("chatglm=cut:3",), ASK),
    (Exit.INCOMPLETE, ("chatglm=stall:3",), (*ASK, "--deadline", "3")),
    (Exit.INCOMPLETE, ("chatglm=cut:3",), (*ASK, "--json")),
    (Exit.TRY_LATER, ("chatglm=cut:3",), (*ASK, "--no-stream")),
    (Exit.INCOMPLETE, (), (*OPENAI, "--max-tokens", "3")),
    (Exit.OK, (), (*OPENAI, "--max-tokens", "3", "--allow-cut")),
    (Exit.FILTERED, (), (*ASK[:-1], "trip the filter")),
    (Exit.FILTERED, (), (*ASK[:-1], "trip the filter at once")),
    (Exit.FAILED, ("chatglm=html",), ASK),
    (Exit.FAILED, ("openai=402",), OPENAI),
    (Exit.TRY_LATER, ("chatglm=503",), ASK),
    (Exit.TRY_LATER, ("chatglm=reset",), ASK),
    (Exit.TRY_LATER, ("openai=429",), OPENAI),
    (Exit.TRY_LATER, ("chatglm=stall",), (*ASK, "--deadline", "0.5")),
    (Exit.TRY_LATER, ("openai=401", "chatglm=503"), (*OPENAI, "-p", "chatglm")),
    (Exit.CREDENTIALS, ("openai=401", "chatglm=html"), (*OPENAI, "-p", "chatglm")),
]


@pytest.mark.usefixtures("no_retries")
@pytest.mark.parametrize(("code", "faults", "arguments"), CALLS)
def test_call(
    at_sandbox: Sandbox, code: Exit, faults: tuple[str, ...], arguments: tuple[str, ...]
) -> None:
    """Each outcome of a call has its own exit code, and a failure says why on stderr alone."""
    for spec in faults:
        provider, fault = parse_fault(spec)
        at_sandbox.fail(provider, **fault)
    result = run(*arguments)
    assert result.code == code, result
    assert bool(result.err) == (code is not Exit.OK)
    assert bool(result.out) == (
        code in (Exit.OK, Exit.INCOMPLETE) or arguments[-1] == "trip the filter"
    )


def test_missing_key(home: Path) -> None:
    """A key that is nowhere to be found is 77, with the name of the variable to set."""
    result = run("ask", "-p", "openai", "Why?")
    assert (result.code, result.out) == (Exit.CREDENTIALS, "")
    assert "OPENAI_API_KEY" in result.err


@pytest.mark.parametrize("limit", ["deadline", "first_chunk_timeout"])
def test_own_limits(at_sandbox: Sandbox, configure: Configure, limit: str) -> None:
    """A minute that is full may pass, whichever time was too short for it; a spent day does not."""
    provider = '[[provider]]\ntype = "openai"\n'
    for line, code in (("per_minute = 1", Exit.TRY_LATER), ("per_day = 1", Exit.FAILED)):
        configure(f"{provider}{line}\n[failover]\nattempts = 1\n{limit} = 5\n")
        usage_file().unlink(missing_ok=True)
        assert run("ask", "Why?").code == Exit.OK
        result = run("ask", "Why?")
        assert (result.code, result.out) == (code, "")
        assert line.partition(" ")[0] in result.err


def test_nobody_listens(refused_port: int) -> None:
    """A refused connection may pass."""
    address = {"LLMPROVIDERS_CHATGLM_BASE_URL": f"http://127.0.0.1:{refused_port}"}
    assert run("ask", "-p", "chatglm", "Why?", "--deadline", "1", env=address).code == 75


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_unexpected_error(at_sandbox: Sandbox) -> None:
    """What no other code stands for, a full disk for one, is 1."""
    result = run("ask", "-p", "chatglm", "-o", "/dev/full", "Why?")
    assert (result.code, result.out) == (Exit.UNEXPECTED, "")
    assert "No space left" in result.err
    assert "Traceback" not in result.err


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (signal.SIGINT, Exit.INTERRUPTED),
        (signal.SIGTERM, Exit.TERMINATED),
        (signal.SIGHUP, Exit.TERMINATED),
    ],
)
def test_signals(at_sandbox: Sandbox, number: signal.Signals, code: Exit) -> None:
    """Ctrl-C, SIGTERM and SIGHUP end a reply with their codes; the text so far is on stdout."""
    at_sandbox.fail("chatglm", stall=True, cut_after=3)
    with Running("ask", "-p", "chatglm", "Why?") as asking:
        asking.read_until("This is the")
        asking.signal(number)
        result = asking.end()
    assert result.code == code
    assert result.out == "This is the\n"
    assert "Traceback" not in result.err


def test_killed_service(home: Path) -> None:
    """The sandbox killed in the middle of a reply: 3, with the text so far on stdout."""
    with Running("sandbox", "--fail", "chatglm=stall:3") as serving:
        told = serving.read_until("CHATGLM_BASE_URL=.*\n")
        exports = dict(re.findall(r"export (\w+)=(\S+)", told))
        with Running("ask", "-p", "chatglm", "hello", env=exports) as asking:
            asking.read_until("This is the")
            serving.signal(signal.SIGKILL)
            result = asking.end()
    assert (result.code, result.out) == (Exit.INCOMPLETE, "This is the\n")
    assert "cut short" in result.err


def test_every_code_has_a_meaning() -> None:
    """The table names every exit code."""
    assert list(MEANING) == list(Exit)


def test_every_error_has_a_code() -> None:
    """Every class of error, alone and as the failure of the only provider, has the same code."""
    expected = {
        errors.MissingAuthError: 77,
        errors.AuthenticationError: 77,
        errors.QuotaExceededError: 69,
        errors.RateLimitError: 75,
        errors.InvalidRequestError: 2,
        errors.ModelNotFoundError: 2,
        errors.UnsupportedError: 2,
        errors.ServerError: 75,
        errors.BlockedError: 69,
        errors.ConnectionFailed: 75,
        errors.ProviderTimeout: 75,
        errors.DeadlineExceeded: 75,
        errors.StreamInterrupted: 75,
        errors.ProtocolError: 75,
        errors.EmptyReplyError: 75,
        errors.RefusedError: 4,
        errors.RejectedReplyError: 4,
        errors.SchemaError: 4,
        errors.AllProvidersFailed: 69,
    }
    classes = {
        value
        for value in vars(errors).values()
        if isinstance(value, type) and issubclass(value, errors.LLMError)
    }
    assert set(expected) == classes - {errors.LLMError}
    for cls, code in expected.items():
        assert exit_of_error(cls("no")) == code, cls
        assert exit_of_error(_all_failed(cls("no"))) == code, cls


def test_what_several_failures_mean() -> None:
    """What may pass comes first, then a key that would help, then a filter, then the rest."""
    busy, key = errors.RateLimitError("no"), errors.MissingAuthError("no")
    refused, blocked = errors.RefusedError("no"), errors.BlockedError("no")
    model = errors.ModelNotFoundError("no")
    bad = errors.InvalidRequestError("no", status_code=400)
    late = errors.ProviderTimeout("no", retryable=False)
    overtaken = errors.ProviderTimeout(errors.SLOWER, retryable=False)
    certificate = errors.ConnectionFailed("no", retryable=False)
    table = [
        ((key, busy, refused), 75),
        ((blocked, key, refused, model), 77),
        ((blocked, refused, model), 4),
        ((model, model), 2),
        ((model, blocked), 69),
        ((bad,), 69),
        ((certificate,), 69),
        ((model, late), 75),
        ((blocked, overtaken), 69),
        ((model, overtaken), 2),
    ]
    for failures, code in table:
        assert exit_of_error(_all_failed(*failures)) == code, failures


def test_text_makes_a_failure_an_incomplete_reply() -> None:
    """Whatever broke a reply off after text, it is 3; but a reply that accept refused is 4."""
    for cls in (errors.StreamInterrupted, errors.DeadlineExceeded, errors.AllProvidersFailed):
        assert exit_of_error(cls("no", partial_text="so far")) == 3
    assert exit_of_error(errors.RejectedReplyError("no", partial_text="all of it")) == 4


def _all_failed(*failures: errors.LLMError) -> errors.AllProvidersFailed:
    attempts = tuple(Attempt("one", None, 0.0, None, 0.0, error) for error in failures)
    return errors.AllProvidersFailed("no", attempts=attempts)


SIGNALLED = """
import os, random, re, signal, socket, sys, time
from llmproviders.cli.run import run
from llmproviders.cli import sandbox

moments = random.Random(1)
for _ in range(100):
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.dup2(writing, 1)
        os._exit(run(["sandbox"]))
    os.close(writing)
    told = b""
    while b"OPENAI_MODEL" not in told:
        told += os.read(reading, 4096)
    port = int(re.search(rb":([0-9]+)/v1", told)[1])
    number = moments.choice([signal.SIGINT, signal.SIGTERM])
    with socket.create_connection(("127.0.0.1", port)):
        time.sleep(moments.random() * 0.002)
        os.kill(child, number)
        end = time.monotonic() + 20
        while not (ended := os.waitpid(child, os.WNOHANG))[0] and time.monotonic() < end:
            time.sleep(0.002)
        if not ended[0]:
            os.kill(child, signal.SIGKILL)
            sys.exit("a sandbox did not end")
    os.close(reading)
    print(int(number), os.waitstatus_to_exitcode(ended[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_sandbox_that_is_signalled_at_any_moment(home: Path) -> None:
    """With a client connected, Ctrl-C and SIGTERM end it, also just before it begins to wait."""
    code = ["-c", SIGNALLED]
    done = subprocess.run([sys.executable, *code], capture_output=True, text=True, env=environ())
    ends = done.stdout.splitlines()
    assert (done.returncode, done.stderr, len(ends)) == (0, "", 100)
    assert set(ends) == {"2 130", "15 143"}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_checks_that_hang(at_sandbox: Sandbox, number: signal.Signals) -> None:
    """An interrupt ends providers --check at once, whatever the services do."""
    at_sandbox.fail("openai", stall=True, before_head=True, times=9)
    with Running("providers", "--check", "--no-state") as checking:
        assert at_sandbox.wait_for(lambda s: s.count("openai", "chat"), timeout_s=30)
        checking.signal(number)
        assert checking.end().code == 128 + number
