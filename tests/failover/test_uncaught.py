"""What a script prints that catches nothing."""

from __future__ import annotations

import gc
import logging
import re
import subprocess
import sys
import traceback
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

import llmproviders
from llmproviders import (
    AllProvidersFailed,
    FailoverClient,
    LLMError,
    OpenAICompatible,
    ProtocolError,
    ServerError,
)
from llmproviders.provider import Call, Fetch, Provider, Reply, Request
from llmproviders.sandbox import Sandbox
from llmproviders.testing import ScriptedProvider

SCRIPT = """\
from llmproviders import FailoverClient, OpenAICompatible
down = [OpenAICompatible(base_url=f"http://127.0.0.1:{port}/v1", name=n) for n in ("a", "b")]
client = FailoverClient(down, attempts=1)
{call}
"""


@pytest.mark.parametrize(
    "call", ["client.complete('Hi')", "print(*client.stream('Hi'))"], ids=["complete", "stream"]
)
def test_an_uncaught_failure_is_short(call: str, refused_port: int, tmp_path: Path) -> None:
    """It names the line of the script and each provider, not what the libraries went through."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.replace("{port}", str(refused_port)).replace("{call}", call))
    done = subprocess.run(
        [sys.executable, script],
        capture_output=True,
        text=True,
        timeout=60,
        env={"PYTHONPATH": str(Path(llmproviders.__file__).parents[1])},
    )
    told = done.stderr.splitlines()
    assert done.returncode == 1
    assert len(told) <= 16
    assert f'"{script}", line 4' in done.stderr
    assert [line.split(":")[0].strip() for line in told[-2:]] == ["a", "b"]
    assert "urllib3" not in done.stderr


def test_the_log_has_all_of_it(refused_port: int, caplog: pytest.LogCaptureFixture) -> None:
    """At DEBUG each provider's error is logged with its traceback, the libraries' included."""
    caplog.set_level(logging.DEBUG, logger="llmproviders")
    url = f"http://127.0.0.1:{refused_port}/v1"
    with (
        FailoverClient([OpenAICompatible(base_url=url)], attempts=1) as client,
        pytest.raises(AllProvidersFailed) as caught,
    ):
        client.complete("Hi")
    assert "urllib3" in caplog.text
    error = caught.value.attempts[0].error
    assert error is not None
    assert error.__cause__ is not None


ONE = """\
from llmproviders import GigaChat, OpenAICompatible
def weather(city: str) -> str: "Tell the weather."
openai = OpenAICompatible(base_url=f"http://127.0.0.1:{port}/v1", model="m")
giga = GigaChat(base_url=openai.base_url, auth_url=openai.base_url, api_key="YTpi")
{call}
"""


@pytest.mark.parametrize(
    "call",
    [
        "openai.complete('Hi')",
        "openai.complete('Hi', stream=False)",
        "print(*openai.stream('Hi'))",
        "print(*openai.create_generator(None, 'Hi'))",
        "openai.run('Hi', tools=[weather])",
        "openai.conversation().ask('Hi')",
        "openai.list_models()",
        "openai.embed(['Hi'])",
        "giga.complete('Hi')",
        "giga.list_models()",
        "giga.balance()",
        "giga.download('an-id')",
        "giga.files()",
    ],
)
def test_so_is_that_of_a_single_provider(call: str, refused_port: int, tmp_path: Path) -> None:
    """It names the line of the script first and ends with what to do, without the libraries."""
    script = tmp_path / "script.py"
    script.write_text(ONE.replace("{port}", str(refused_port)).replace("{call}", call))
    done = subprocess.run(
        [sys.executable, script],
        capture_output=True,
        text=True,
        timeout=60,
        env={"PYTHONPATH": str(Path(llmproviders.__file__).parents[1])},
    )
    told = done.stderr.splitlines()
    assert done.returncode == 1
    # Newer Pythons mark more of each line of a traceback.
    assert len(told) <= 30, done.stderr
    assert done.stderr.count("Traceback") == 1
    assert f'"{script}", line 5' in done.stderr
    assert not re.search("/(requests|urllib3|http)/", done.stderr)
    assert told[-1].startswith("llmproviders.errors.")
    assert str(refused_port) in told[-1]


def raised_by(call: Callable[[], object]) -> LLMError:
    """What ``call`` raises."""
    with pytest.raises(LLMError) as caught:
        call()
    return caught.value


def printed(error: BaseException) -> str:
    """The error as Python prints it where nobody catches it."""
    return "".join(traceback.format_exception(error))


def test_a_refused_key_is_short(sandbox: Sandbox) -> None:
    """A 401 is told in one traceback that ends in this package's own ``raise``."""
    arguments = {**sandbox.provider_arguments("openai"), "api_key": "sk-wrong"}
    told = printed(raised_by(lambda: OpenAICompatible(**arguments).complete("Hi")))
    assert told.count("Traceback") == 1
    assert len(told.splitlines()) <= 16


def test_the_causes_stay(refused_port: int, caplog: pytest.LogCaptureFixture) -> None:
    """Each error is the cause of the next, down to that of requests, which has the rest in its
    context; the tracebacks of all of them are logged at DEBUG, once."""
    caplog.set_level(logging.DEBUG, logger="llmproviders")
    provider = OpenAICompatible(base_url=f"http://127.0.0.1:{refused_port}/v1")
    for call in (lambda: provider.complete("Hi"), provider.list_models):
        caplog.clear()
        error: BaseException | None = raised_by(call)
        while isinstance(error, LLMError):
            error = error.__cause__
        assert isinstance(error, requests.ConnectionError)
        links = []
        while error is not None:
            links.append(error)
            error = error.__cause__ or error.__context__
        assert isinstance(links[-1], ConnectionRefusedError)
        assert caplog.text.count("Traceback") > 2
        assert sum("failed" in record.message for record in caplog.records) == 1
        assert "connectionpool.py" in caplog.text


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("whole", [False, True])
def test_what_the_caller_was_handling_is_printed(
    refused_port: int, whole: bool, several: bool
) -> None:
    """A call made in an ``except`` does not hide the error that led there."""
    provider = OpenAICompatible(base_url=f"http://127.0.0.1:{refused_port}/v1")
    client = FailoverClient([provider], attempts=1) if several else provider

    def call() -> None:
        try:
            raise KeyError("of the caller")
        except KeyError:
            if whole:
                client.complete("Hi")
            else:
                list(client.stream("Hi"))

    told = printed(raised_by(call))
    assert "KeyError: 'of the caller'" in told
    assert told.count("Traceback") == 2


class Buggy(Provider):
    """A provider from elsewhere whose code fails."""

    url = "http://127.0.0.1:9"
    default_model = "m"
    models = ("m",)

    def prepare(self, request: Request, fetch: Fetch) -> Call:
        """Fail."""
        return {}["no such key"]

    def parse(self, reply: Reply) -> Iterator[str]:
        """Yield nothing."""
        yield ""


def test_a_bug_keeps_its_traceback() -> None:
    """What a provider's own code raises is printed with the line where it happened."""
    error = raised_by(lambda: Buggy().complete("Hi"))
    assert type(error) is ProtocolError
    assert "in prepare" in printed(error)


@pytest.mark.parametrize("client", [ScriptedProvider, FailoverClient])
def test_one_error_raised_again_and_again(client: Any) -> None:
    """The same exception object, raised by a second call that handles the first, is printed."""
    provider = ScriptedProvider([], error=ServerError("down"))
    asked = provider if client is ScriptedProvider else FailoverClient([provider], attempts=1)

    def call() -> None:
        try:
            asked.complete("Hi")
        except LLMError:
            asked.complete("Hi")

    assert "ServerError: down" in printed(raised_by(call))


def test_a_stream_dropped_in_an_except_is_closed(sandbox: Sandbox) -> None:
    """A generator holds nothing that keeps it alive, so that dropping it closes the connection."""
    sandbox.reply("openai", "word " * 2_000)
    provider = OpenAICompatible(**sandbox.provider_arguments("openai"))

    def begin() -> weakref.ref[object]:
        try:
            raise KeyError
        except KeyError:
            stream = provider.stream("Hi")
            next(stream)
            return weakref.ref(stream)

    gc.disable()
    try:
        assert begin()() is None
    finally:
        gc.enable()
