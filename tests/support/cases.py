"""Replies of real servers and gateways, as JSON lines, with what has to come out of each.

``tests/golden/cases/*.jsonl`` has a case on each line: ``id``; ``why``; ``call``, one of
``stream``, ``whole`` and ``models``; the reply, its ``status``, ``type`` (or null), ``headers``,
``framing`` and ``body``; and ``expect``.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmproviders import LLMError, OpenAICompatible, Provider
from tests.support.http_bytes import chunked, content_length, http_response
from tests.support.promise import Reading, read
from tests.support.rawserver import Script, Stall

FOLDER = Path(__file__).parents[1] / "golden" / "cases"


@dataclass(frozen=True)
class Case:
    """One reply, and what has to come out of it."""

    id: str
    why: str
    call: str
    status: int
    type: str | None
    framing: str
    headers: dict[str, str]
    body: str
    expect: dict[str, Any]

    def __str__(self) -> str:
        return self.id

    @property
    def raw(self) -> bytes:
        """The body's bytes."""
        return self.body.encode()

    def script(self) -> Script:
        """The reply as a raw server sends it."""
        framed = (
            content_length(self.raw)
            if self.framing == "length"
            else chunked(self.raw.splitlines(keepends=True), end=self.framing == "chunked")
        )
        headers = {**self.headers, **({"Content-Type": self.type} if self.type else {})}
        reply = http_response(self.status, headers, framed)
        return [*reply, Stall()] if self.framing == "chunked-hold" else reply

    def read(self, provider: Provider) -> Reading:
        """What a provider makes of it, where it is a chat."""
        return read(provider.create_generator(None, "Hi", stream=self.call == "stream"))

    def agrees_with(self, reading: Reading) -> None:
        """Fail unless what was read is what has to come out."""
        expect = self.expect
        if "error" in expect:
            self.agrees_with_error(reading.error)
            assert reading.text == expect.get("partial_text", "")
            return
        finish = reading.finish
        assert finish is not None, reading.error
        assert finish.reason == expect["finish"]
        if "text" in expect:
            assert reading.text == expect["text"]
        for name in ("raw", "reasoning"):
            if name in expect:
                assert getattr(finish, name) == expect[name]
        if "usage" in expect:
            assert finish.usage is not None
            found = finish.usage.as_dict()
            assert {name: found[name] for name in expect["usage"]} == expect["usage"]
        if "tool_calls" in expect:
            self._agrees_with_calls(finish.tool_calls)
            assert finish.message["tool_calls"] == finish.tool_calls

    def _agrees_with_calls(self, calls: list[dict[str, Any]]) -> None:
        functions = [call["function"] for call in calls]
        assert all(type(function["arguments"]) is str for function in functions)
        found = [[f["name"], json.loads(f["arguments"])] for f in functions]
        assert found == self.expect["tool_calls"]
        if "ids" in self.expect:
            assert [call["id"] for call in calls] == self.expect["ids"]
        for name in self.expect.get("kept", ()):
            assert name in calls[0]

    def agrees_with_error(self, error: LLMError | None) -> None:
        """Fail unless this is the error that has to come."""
        expect = self.expect
        kinds = expect["error"] if isinstance(expect["error"], list) else [expect["error"]]
        assert type(error).__name__ in kinds, repr(error)
        assert error is not None
        assert expect.get("message", "") in str(error)
        if "retryable" in expect:
            assert error.retryable is expect["retryable"]
        if "detail" in expect:
            assert error.detail == expect["detail"]


def load(name: str) -> list[Case]:
    """The cases of one file."""
    lines = (FOLDER / name).read_text(encoding="utf-8").splitlines()
    return [Case(**json.loads(line)) for line in lines]


def provider_for(url: str, **arguments: Any) -> OpenAICompatible:
    """The provider that asks a server for a case."""
    return OpenAICompatible(base_url=f"{url}/v1", model="m", **arguments)
