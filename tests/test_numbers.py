"""Numbers of callers, configurations and services: what is none is our own error, at once."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction
from math import inf, nan
from pathlib import Path
from typing import Any

import pytest

from llmproviders import (
    FailoverClient,
    GigaChat,
    InvalidRequestError,
    LLMError,
    OpenAICompatible,
    Usage,
    batch,
)
from llmproviders._checks import seconds, whole
from llmproviders.config import ConfigError
from llmproviders.provider import Limits
from llmproviders.results import Attempts
from llmproviders.sandbox import Sandbox
from llmproviders.testing import ScriptedProvider
from tests.conftest import RawServerFactory
from tests.support.http_bytes import http_response

HUGE = 10**400
ENDLESS = 10**5000
"""More digits than Python writes out."""


class Whole:
    """What numpy's integers are: not an ``int``, but taken for one where one is due."""

    def __init__(self, value: int) -> None:
        self._value = value

    def __index__(self) -> int:
        return self._value


def failover(**arguments: Any) -> FailoverClient:
    """A client with these arguments."""
    return FailoverClient([ScriptedProvider(["Hello"])], **arguments)


def run_file(**arguments: Any) -> Any:
    """A batch that has nothing to do."""
    return batch.run_file(ScriptedProvider(), "/dev/null", "/nowhere/out.jsonl", **arguments)


def fault(**arguments: Any) -> None:
    """A fault in a sandbox that was never started."""
    Sandbox().fail("openai", **arguments)


COUNTS: list[tuple[Callable[..., Any], str]] = [
    (failover, "attempts"),
    (failover, "failure_threshold"),
    (GigaChat, "max_concurrency"),
    (OpenAICompatible, "max_concurrency"),
    (Limits, "line"),
    (Limits, "reply"),
    (Limits, "error_body"),
    (lambda **k: batch.run(ScriptedProvider(), ["Hi"], **k), "workers"),
    (run_file, "workers"),
    (run_file, "max_failures"),
    (lambda **k: ScriptedProvider().conversation(**k), "max_messages"),
    (lambda **k: ScriptedProvider().conversation(**k), "max_characters"),
    (Sandbox, "port"),
    (Sandbox, "keep_requests"),
    (Sandbox, "gigachat_max_concurrency"),
    (Attempts().to_text, "width"),
    (fault, "status"),
    (fault, "cut_after"),
    (lambda **k: fault(status=503, **k), "times"),
]
SECONDS: list[tuple[Callable[..., Any], str]] = [
    (failover, "deadline"),
    (failover, "first_chunk_timeout"),
    (failover, "hedge_after"),
    (failover, "cooldown"),
    (failover, "max_retry_after"),
    (GigaChat, "timeout"),
    (lambda **k: ScriptedProvider().complete("Hi", **k), "timeout"),
    (GigaChat, "update_interval"),
    (run_file, "deadline"),
    (run_file, "grace_s"),
    (Sandbox, "piece_delay_s"),
    (Sandbox, "gigachat_token_life_s"),
    (Sandbox, "chatgptt_nonce_life_s"),
    (fault, "drip_s"),
    (lambda **k: Sandbox().wait_for(lambda _: True, **k), "timeout_s"),
]
NOT_NUMBERS = ["60", "", b"1", True, nan, HUGE, -HUGE, ENDLESS, -1, -inf, [1], {}, object(), 1j]


class TestArguments:
    @pytest.mark.parametrize(("take", "name"), COUNTS)
    @pytest.mark.parametrize("value", [*NOT_NUMBERS, 1.5, 3.0, inf], ids=lambda v: type(v).__name__)
    def test_counts(self, take: Callable[..., Any], name: str, value: object) -> None:
        """What is no whole number, or too large for one, is refused with the argument's name."""
        with pytest.raises(InvalidRequestError, match=rf"\b{name} must be a whole number"):
            take(**{name: value})

    @pytest.mark.parametrize(("take", "name"), SECONDS)
    @pytest.mark.parametrize("value", NOT_NUMBERS, ids=lambda v: type(v).__name__)
    def test_seconds(self, take: Callable[..., Any], name: str, value: object) -> None:
        """What is no number of seconds is refused with the argument's name, a text above all."""
        with pytest.raises(InvalidRequestError, match=rf"\b{name} (must be (a number of )?s|is)"):
            take(**{name: value})

    @pytest.mark.parametrize("name", ["cooldown", "update_interval", "piece_delay_s", "drip_s"])
    def test_no_end(self, name: str) -> None:
        """Where a number of seconds has to end, infinity is refused."""
        (take,) = (take for take, known in SECONDS if known == name)
        with pytest.raises(InvalidRequestError, match=name):
            take(**{name: inf})

    def test_a_sentence(self) -> None:
        """The message names the argument, what is right, and what was given."""
        with pytest.raises(InvalidRequestError) as caught:
            failover(deadline="60")
        assert str(caught.value) == "deadline must be a number of seconds above 0, not '60'"
        with pytest.raises(InvalidRequestError) as caught:
            failover(attempts=ENDLESS)
        assert len(str(caught.value)) < 120

    def test_what_will_do(self) -> None:
        """Any whole number counts as one, any real number as seconds; infinity is no limit."""
        assert whole("n", Whole(3)) == 3
        assert type(whole("n", Whole(3))) is int
        assert seconds("n", Fraction(3, 2)) == 1.5
        assert seconds("n", 1e300) == 1e300
        client = failover(
            attempts=Whole(2), deadline=inf, hedge_after=1e300, first_chunk_timeout=1e308
        )
        assert client.complete("Hi").text == "Hello"
        assert GigaChat(max_concurrency=Whole(3)).max_concurrency == 3

    def test_numpys(self) -> None:
        """Numbers of numpy's are numbers."""
        numpy = pytest.importorskip("numpy")
        client = failover(
            attempts=numpy.int64(2), deadline=numpy.float32(9), cooldown=numpy.int8(1)
        )
        assert client.complete("Hi").text == "Hello"
        giga = GigaChat(timeout=numpy.float64(3), update_interval=numpy.int32(1))
        assert json.dumps([giga.timeout, giga.update_interval]) == "[[3.0, 3.0], 1.0]"


class TestConfiguration:
    @pytest.mark.parametrize(
        "text",
        [
            f"[failover]\ndeadline = {'9' * 400}",
            f"[failover]\ndeadline = {'9' * 5000}",
            "[failover]\ndeadline = nan",
            "[failover]\nattempts = nan",
            "[failover]\nattempts = true",
            "[failover]\nattempts = 3.0",
            f"[failover]\ndeadline = {'[' * 5000}",
            f"[failover]\ndeadline = {'[' * 900}{']' * 900}",
            f"[failover]\ndeadline{'.a' * 5000} = 1",
            f"a = {'{a=' * 5000}",
        ],
        ids=lambda text: text[:40],
    )
    def test_numbers(self, tmp_path: Path, text: str) -> None:
        """Numbers that are none, and nesting without end, are errors that name the file."""
        path = tmp_path / "config.toml"
        path.write_text(f"[[provider]]\ntype = 'chatglm'\n{text}\n" if text[0] == "[" else text)
        with pytest.raises(ConfigError, match=r"config\.toml"):
            FailoverClient.from_config(path)

    def test_no_path(self) -> None:
        """A path with a NUL in it is no path, and the error says so."""
        with pytest.raises(ConfigError, match="no file can be called"):
            FailoverClient.from_config("a\0b.toml")

    @pytest.mark.parametrize(
        "options",
        [
            ["ask", "--deadline", "nan"],
            ["ask", "--timeout", "nan"],
            ["ask", "--deadline", "9" * 400],
            ["ask", "--deadline", "1e400"],
            ["ask", "--timeout", "9" * 400],
            ["ask", "--temperature", "nan"],
            ["ask", "--max-tokens", "9" * 5000],
            ["sandbox", "--delay", "nan"],
            ["sandbox", "--delay", "1e300"],
            ["sandbox", "--port", "9" * 5000],
            ["sandbox", "--fail", f"openai=503x{'9' * 5000}"],
            ["sandbox", "--fail", f"openai=cut:{'9' * 5000}"],
            ["sandbox", "--fail", f"openai=drip:{'9' * 5000}"],
        ],
        ids=lambda options: " ".join(options)[:30],
    )
    def test_options(self, options: list[str]) -> None:
        """A number on the command line that is none is wrong usage, told in a line or two."""
        command = [
            sys.executable,
            "-m",
            "llmproviders",
            *options,
            *(["Hi"] * (options[0] == "ask")),
        ]
        run = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert run.returncode == 2
        assert "Traceback" not in run.stderr
        assert options[1] in run.stderr


class TestServices:
    @pytest.mark.parametrize(
        "count",
        [HUGE, 10**4299, 2**63, -1, 1.5, nan, True, "5 or so", None, [5]],
        ids=lambda v: str(v)[:9],
    )
    def test_usage(self, count: object) -> None:
        """A count of tokens that cannot be one counts as not told."""
        usage = Usage.from_json({"prompt_tokens": count, "completion_tokens": 2**63 - 1})
        assert usage == Usage(completion_tokens=2**63 - 1)

    @pytest.mark.parametrize("digits", [400, 4299, 4300, 4301, 100_000])
    @pytest.mark.parametrize("streams", [True, False])
    def test_digits(self, raw_server: RawServerFactory, digits: int, streams: bool) -> None:
        """A reply with a number of thousands of digits is whole, or an error of ours."""
        number = "9" * digits
        choice = '"choices": [{"message": {"content": "ok"}, "finish_reason": "stop"}]'
        body = f'{{{choice}, "usage": {{"prompt_tokens": {number}}}}}'
        kind = "text/event-stream" if streams else "application/json"
        if streams:
            body = f"data: {body.replace('message', 'delta')}\n\ndata: [DONE]\n\n"
        server = raw_server(http_response(200, {"Content-Type": kind}, body.encode()))
        with OpenAICompatible(base_url=f"{server.url}/v1") as provider:
            try:
                reply = provider.complete("Hi")
            except LLMError:
                assert digits > 4300
            else:
                assert reply.text == "ok"
                assert reply.usage == Usage()
                assert json.dumps(reply.finish_reason.usage and reply.finish_reason.usage.as_dict())
