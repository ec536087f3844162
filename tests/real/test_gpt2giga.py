"""gpt2giga, a server that others wrote, between this client and the sandbox's GigaChat.

It speaks OpenAI's protocol to us and asks the sandbox with GigaChat's official client, so that both
have to be understood by a program that knows neither of them.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llmproviders import OpenAICompatible, RateLimitError, StreamInterrupted
from llmproviders.sandbox import Sandbox
from llmproviders.testing import read_stream
from tests.support.rawserver import free_port

pytestmark = pytest.mark.real_programs

# Read at import, since the tests' own environment has no such variable.
_PYTHON = os.environ.get("LLMPROVIDERS_TEST_REAL") or sys.executable
PROGRAM = Path(_PYTHON).with_name("gpt2giga")
START_S = 60.0

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Whether it rains.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}


@pytest.fixture(scope="module")
def box() -> Iterator[Sandbox]:
    """Serve GigaChat's protocol."""
    with Sandbox(reply="Свет рассеивается.") as running:
        yield running


@pytest.fixture(scope="module")
def gateway(box: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Start gpt2giga in front of the sandbox; its base address."""
    if not PROGRAM.exists() and sys.executable == _PYTHON:
        pytest.skip("needs gpt2giga: pip install -e '.[real]', or let .ci/run do it")
    folder = tmp_path_factory.mktemp("gpt2giga")
    arguments = box.provider_arguments("gigachat")
    environ = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "GIGACHAT_BASE_URL": arguments["base_url"],
        "GIGACHAT_AUTH_URL": arguments["auth_url"],
        "GIGACHAT_CREDENTIALS": arguments["api_key"],
        "GIGACHAT_SCOPE": "GIGACHAT_API_PERS",
    }
    port = free_port()
    options = ["--proxy.host", "127.0.0.1", "--proxy.port", str(port)]
    options += ["--proxy.gigachat-api-mode", "v1"]
    log = folder / "log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [PROGRAM, *options], cwd=folder, env=environ, stdout=output, stderr=output
        )
    try:
        _wait_for(port, process, log)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.kill()
        process.wait()


def _wait_for(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + START_S
    while process.poll() is None and time.monotonic() < end:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            time.sleep(0.1)
        else:
            return
    pytest.fail(f"gpt2giga does not serve:\n{log.read_text()[-4000:]}")


@pytest.fixture
def provider(gateway: str, box: Sandbox) -> Iterator[OpenAICompatible]:
    """A provider that asks the gateway."""
    with OpenAICompatible(base_url=gateway, model="GigaChat-2", api_key="any") as made:
        yield made


def test_stream_and_whole_say_the_same(provider: OpenAICompatible) -> None:
    """A stream and a whole reply have the sandbox's text and count of tokens."""
    stream = read_stream(provider.stream("Почему небо синее?"))
    whole = provider.complete("Почему небо синее?", stream=False)
    assert stream.text == str(whole) == "Свет рассеивается."
    assert stream.finish is not None
    assert stream.finish.reason == whole.finish_reason.reason == "stop"
    assert stream.finish.usage == whole.usage
    assert whole.usage is not None
    assert whole.usage.completion_tokens


def test_a_call_and_its_result(provider: OpenAICompatible, box: Sandbox) -> None:
    """A call of a function goes both ways: as a tool here, as a function at GigaChat's."""
    box.reply("gigachat", tool_calls=[{"name": "weather", "arguments": {"city": "Омск"}}])
    messages: list[Any] = [{"role": "user", "content": "Дождь?"}]
    first = provider.complete(messages, tools=[WEATHER])
    (call,) = first.tool_calls
    assert call["function"]["name"] == "weather"
    assert json.loads(call["function"]["arguments"]) == {"city": "Омск"}
    result = {"role": "tool", "tool_call_id": call["id"], "content": '{"rain": false}'}
    told = provider.complete([*messages, first.message, result], tools=[WEATHER])
    assert str(told) == "Свет рассеивается."
    assert [message["role"] for message in box.requests[-1].json["messages"]] == [
        "user",
        "assistant",
        "function",
    ]


def test_models_and_vectors(provider: OpenAICompatible) -> None:
    """The models of the sandbox are listed, and it makes vectors."""
    assert "GigaChat-2" in provider.list_models()
    sky, sea = provider.embed(["небо", "море"], model="Embeddings")
    assert len(sky.vector) == len(sea.vector) > 1


def test_an_error_inside_a_stream(provider: OpenAICompatible, box: Sandbox) -> None:
    """What the gateway tells inside a 200 is the error that it means."""
    box.fail("gigachat", status=429)
    error = read_stream(provider.stream("Hi")).error
    assert isinstance(error, RateLimitError)


def test_a_reply_that_is_cut_behind_it(provider: OpenAICompatible, box: Sandbox) -> None:
    """A reply that broke off between the gateway and the service is not taken for whole."""
    box.fail("gigachat", cut_after=1)
    reading = read_stream(provider.stream("Hi"))
    assert isinstance(reading.error, StreamInterrupted)
    assert "Свет рассеивается.".startswith(reading.text)
