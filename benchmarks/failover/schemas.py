"""Typed answers from services that get them wrong: ``python -m benchmarks.failover.schemas``."""

from __future__ import annotations

import argparse
import json
import sys
import threading
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.failover import compare, page
from benchmarks.failover.services import JSON, SSE, event, whole
from benchmarks.speed.environments import versions
from tests.support.http_bytes import chunked, http_response
from tests.support.rawserver import Connection, RawServer

CLIENTS = {
    "own": "llmproviders",
    "instructor_sdk": "instructor",
    "pydantic_ai_sdk": "PydanticAI",
    "langchain_sdk": "LangChain `with_structured_output`",
    "litellm_sdk": "LiteLLM Router",
}

GOOD = '{"item": "bolt", "count": 3}'
PROSE = "Three bolts it is."
RIGHT = "item='bolt' count=3"


@dataclass(frozen=True)
class Scenario:
    """How the first service fails; the second one works.

    Attributes:
        name: its name in the table.
        replies: the replies of the first service, one after another, the last one repeated:
            ``"good"``, ``"prose"`` or ``"cut"``.
        refuses: fields of a request that it refuses with a 400.
    """

    name: str
    replies: tuple[str, ...]
    refuses: tuple[str, ...] = ()


SCENARIOS = (
    Scenario("a good reply", ("good",)),
    Scenario("prose, then a good reply", ("prose", "good")),
    Scenario("prose, always", ("prose",)),
    Scenario("`response_format` is refused", ("good",), ("response_format",)),
    Scenario("`response_format` and `tools` are refused", ("good",), ("response_format", "tools")),
    Scenario("cut by `max_tokens`, always", ("cut",)),
)


class Service:
    """Answers chat requests in the requested form: a call of its tool, or a text.

    Attributes:
        paid: how many requests it has answered.
        refused: how many it has refused.
    """

    def __init__(self, scenario: Scenario = SCENARIOS[0]) -> None:
        self.paid = self.refused = 0
        self._scenario = scenario
        self._lock = threading.Lock()

    def handle(self, conn: Connection) -> None:
        """Serve one connection, request after request."""
        while not conn.closed:
            asked = json.loads(conn.read_request().body)
            refused = [field for field in self._scenario.refuses if asked.get(field)]
            with self._lock:
                number = self.paid
                self.paid += not refused
                self.refused += bool(refused)
            if refused:
                about = {"message": f"{refused[0]} is not supported", "param": refused[0]}
                body = {"error": {**about, "type": "invalid_request_error", "code": None}}
                conn.run(http_response(400, JSON, json.dumps(body).encode()))
                continue
            replies = self._scenario.replies
            self._answer(conn, asked, replies[min(number, len(replies) - 1)])

    def _answer(self, conn: Connection, asked: dict[str, Any], reply: str) -> None:
        text = {"good": GOOD, "cut": GOOD[:-8]}.get(reply)
        finish = "length" if reply == "cut" else "stop"
        said: dict[str, Any] = {"content": PROSE if text is None else text}
        if asked.get("tools") and text is not None:
            name = asked["tools"][0]["function"]["name"]
            call = {"index": 0, "id": "call_1", "type": "function"}
            call["function"] = {"name": name, "arguments": text}
            said = {"content": None, "tool_calls": [call]}
            finish = "length" if reply == "cut" else "tool_calls"
        if asked.get("stream"):
            events = [event({"role": "assistant", **said}), event({}, finish), b"data: [DONE]\n\n"]
            conn.run(http_response(200, SSE, chunked(events)))
        else:
            conn.run(http_response(200, JSON, whole(said.pop("content"), finish, **said)))


@dataclass(frozen=True)
class Result:
    """How one client handled one scenario.

    Attributes:
        verdict: ``"right"``, ``"error"`` or ``"wrong"``.
        paid: requests that the first and the second service answered.
        refused: requests that the first one refused.
        error: the error that the client raised.
    """

    verdict: str
    paid: tuple[int, int]
    refused: int
    error: str | None

    def __str__(self) -> str:
        refused = f", {self.refused} refused" if self.refused else ""
        verdict = "**wrong**" if self.verdict == "wrong" else self.verdict
        return f"{verdict}, {self.paid[0]} + {self.paid[1]}{refused}"


def run(scenario: Scenario, client: str, environments: Path | None) -> Result:
    """Play one scenario to one client."""
    warm, first, second = services = (Service(), Service(scenario), Service())
    with ExitStack() as stack:
        origins = [stack.enter_context(RawServer(service.handle)).url for service in services]
        words = (client, "make", "typed", "plain", 1, compare.LIMIT_S)
        (told,) = compare.played(words, origins, environments)
    assert warm.paid, f"{client} did not get as far as its first call"
    error = told.get("error", "it hangs")
    verdict = "error" if error else "right" if told["text"] == RIGHT else "wrong"
    return Result(verdict, (first.paid, second.paid), first.refused, error)


def table(results: Mapping[str, Mapping[str, Result]]) -> str:
    """Results by scenario and client, as Markdown."""
    clients = next(iter(results.values()))
    lines = [
        "| the first service | " + " | ".join(CLIENTS[client] for client in clients) + " |",
        "| --- |" + " --- |" * len(clients),
    ]
    lines += [
        f"| {name} | " + " | ".join(map(str, row.values())) + " |" for name, row in results.items()
    ]
    return "\n".join(lines)


def main() -> int:
    """Compare, print, and write the requested files."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.failover.schemas")
    parser.add_argument("--environments", type=Path, metavar="FOLDER", help="made beforehand")
    parser.add_argument("--docs", action="store_true", help="put the table into the docs")
    options = parser.parse_args()
    folder = options.environments.resolve() if options.environments else None
    clients = list(CLIENTS) if folder else ["own"]
    results: dict[str, dict[str, Result]] = {}
    for scenario in SCENARIOS:
        found = results[scenario.name] = {}
        for client in clients:
            found[client] = run(scenario, client, folder)
            said = f"{scenario.name}, {client}: {found[client]} {found[client].error or ''}"
            print(said, file=sys.stderr, flush=True)
    print(table(results))
    if options.docs:
        page.fill("explanation/comparison.md", "typed", table(results))
        if folder:
            released = versions(folder, clients)
            page.fill("explanation/comparison.md", "typed-versions", released)
    return 0


if __name__ == "__main__":
    sys.exit(main())
