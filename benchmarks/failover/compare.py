"""The same faults for every client: ``python -m benchmarks.failover.compare``."""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.failover import page
from benchmarks.failover.services import (
    SCENARIOS,
    Scenario,
    Service,
    calling,
    good,
    serving,
    text_of,
)
from benchmarks.speed.environments import ROOT, python, versions
from tests.support.rawserver import RawServer

LIMIT_S = 20.0
LIMIT_OF_MANY_S = 120.0

OWN = {
    "stream": {"own": "llmproviders", "own.make_restarting": "llmproviders, restarting"},
    "complete": {"own": "llmproviders", "own.make_impatient": "llmproviders, one try each"},
    "tools": {"own": "llmproviders"},
}
OTHERS = {
    "litellm_sdk": "LiteLLM Router",
    "langchain_sdk": "LangChain `with_fallbacks`",
    "langchain_sdk.make_impatient": "LangChain, one try each",
    "g4f_sdk": "g4f `IterListProvider`",
    "openai_sdk": "openai",
    "gigachat_sdk": "gigachat",
    "pydantic_ai_sdk": "PydanticAI `FallbackModel`",
    "any_llm_sdk": "any-llm",
}
TOOLS = ("own", "litellm_sdk", "langchain_sdk", "g4f_sdk", "openai_sdk", "any_llm_sdk")
"""Clients whose call of a tool is asked for; the others run tools themselves or call them apart."""

CALL = 'look_up {"word": "sky"}'
WITH_TOKENS = ("own", "litellm_sdk", "gigachat_sdk")

WHOLE = {text_of("first").strip(), text_of("second").strip()}


@dataclass(frozen=True)
class Result:
    """How one client handled one kind of fault.

    Attributes:
        verdict: ``"right"``; ``"cut"``, ``"empty"``, ``"repeated"`` or ``"mixed"`` if wrong text
            was delivered as the reply, the last two even if an error followed; ``"another's"`` for
            the reply to another call; ``"told on"`` if the prompt or the key went to another host;
            ``"lost"`` if the caller's alarm was swallowed; ``"error"``; ``"hang"``; ``"none"`` if
            the fault does not apply.
        seconds: from the call to its end, or the total of many calls.
        right: how many calls got the right text.
        error: the error that it raised.
    """

    verdict: str
    seconds: float = 0.0
    right: int = 0
    error: str | None = None


def verdict_on(text: str) -> str:
    """The verdict about a text that was taken for a reply."""
    text = text.rpartition("\0")[2].strip()
    if text in WHOLE or text == CALL:
        return "right"
    if not text:
        return "empty"
    if "another-" in text:
        return "another's"
    if text.startswith("look_up"):
        return "cut"
    if any(whole.startswith(text) for whole in WHOLE):
        return "cut"
    names = {word.partition("-")[0] for word in text.split()}
    return "repeated" if len(names) == 1 else "mixed"


Results = dict[str, dict[str, dict[str, dict[str, Any]]]]
"""How -> scenario -> client -> its ``Result`` as a JSON object."""


def run(scenario: Scenario, client: str, how: str, environments: Path | None) -> Result:
    """Play one scenario to one client."""
    module, _, make = client.partition(".")
    if scenario.needs_tokens and module not in WITH_TOKENS:
        return Result("none")
    if scenario.needs_tokens:
        make = "make_with_tokens"
    limit_s = LIMIT_S if scenario.calls == 1 else LIMIT_OF_MANY_S
    words = (module, make or "make", how, scenario.mode, scenario.calls, limit_s)
    well = Service("warm", calling if how == "tools" else good)
    with serving(scenario) as (first, second, told), RawServer(well.handle) as warm:
        result = _judge(played(words, (warm.url, first, second), environments), scenario.mode)
    return replace(result, verdict="told on") if told else result


def played(
    words: Sequence[object], origins: Sequence[str], environments: Path | None
) -> list[dict[str, Any]]:
    """The output of ``benchmarks.failover.sample`` for these arguments and addresses."""
    interpreter = python(environments, str(words[0]))
    command = [interpreter, "-m", "benchmarks.failover.sample", *map(str, words), *origins]
    done = subprocess.run(
        command,
        check=False,
        cwd=ROOT,
        env=_environment(environments),
        capture_output=True,
        text=True,
        timeout=LIMIT_OF_MANY_S + 120,
    )
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    if not lines:
        raise SystemExit(f"failed: {' '.join(command)}\n{done.stderr}")
    return lines


def _environment(environments: Path | None) -> dict[str, str]:
    found = {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": tempfile.gettempdir(),
        # litellm asks the network for prices when it is imported.
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    }
    return found if environments else {**found, "PYTHONPATH": str(ROOT)}


def _judge(lines: list[dict[str, Any]], mode: str) -> Result:
    calls = [line for line in lines if "seconds" in line]
    times = [call["seconds"] for call in calls]
    seconds = max(times, default=0.0) if mode == "gevent" else sum(times)
    verdicts = [_verdict_on_alarm(c) if mode == "alarm" else _verdict(c) for c in calls]
    right = verdicts.count("right")
    if any("hangs" in line for line in lines):
        return Result("hang", seconds, right)
    worst = next((verdict for verdict in verdicts if verdict != "right"), "right")
    error = next((call["error"] for call in calls if call["error"]), None)
    return Result(worst, seconds, right, error)


def _verdict_on_alarm(call: dict[str, Any]) -> str:
    """Whether the caller's own exception arrived."""
    return "right" if (call["error"] or "").startswith("Alarm:") else "lost"


def _verdict(call: dict[str, Any]) -> str:
    delivered = verdict_on(call["text"])
    is_honest = delivered not in ("repeated", "mixed", "another's")
    return "error" if call["error"] and is_honest else delivered


def cell(result: Result, scenario: Scenario) -> str:
    """A result in a cell of a table."""
    if result.verdict == "none":
        return "–"
    if result.verdict == "hang" and scenario.calls > 1:
        return f"**{result.right} of {scenario.calls}** in {LIMIT_OF_MANY_S:.0f} s"
    if result.verdict == "hang":
        return f"**hangs**, > {LIMIT_S:.0f} s"
    many = f" {result.right} of {scenario.calls}" if scenario.calls > 1 else ""
    words = {"right": "right", "error": "error"}.get(
        result.verdict, f"**wrong** ({result.verdict})"
    )
    return f"{words}{many}, {result.seconds:.1f} s"


def table(results: Mapping[str, Mapping[str, Result]], clients: Mapping[str, str]) -> str:
    """Results by scenario and client, as Markdown; what was not played is left empty."""
    lines = [
        "| the first service | " + " | ".join(clients.values()) + " |",
        "| --- |" + " --- |" * len(clients),
    ]
    for scenario in SCENARIOS:
        row = results.get(scenario.name)
        if row is not None:
            cells = (cell(row[client], scenario) if client in row else "" for client in clients)
            lines.append(f"| {scenario.name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _plain(result: Result) -> dict[str, Any]:
    kind = None if result.error is None else result.error.partition(":")[0]
    return {**asdict(result), "seconds": round(result.seconds, 2), "error": kind}


def main() -> int:
    """Compare, print, and write the requested files."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.failover.compare")
    parser.add_argument("--environments", type=Path, metavar="FOLDER", help="made beforehand")
    parser.add_argument("--only", metavar="REGEX", help="scenarios to play")
    parser.add_argument("--how", choices=OWN, action="append", help="tables to make; default all")
    parser.add_argument("--clients", metavar="REGEX", help="clients to play them to")
    parser.add_argument(
        "--json",
        type=Path,
        metavar="FILE",
        help="write all numbers; what is there is not played again",
    )
    parser.add_argument("--docs", action="store_true", help="put the tables into the docs")
    options = parser.parse_args()
    folder = options.environments.resolve() if options.environments else None
    scenarios = [s for s in SCENARIOS if re.search(options.only or "", s.name)]
    known = options.json and options.json.exists() and json.loads(options.json.read_text())
    results: Results = known or {}
    tables = {}
    for how in options.how or OWN:
        own = OWN[how]
        everybody = {**own, **OTHERS} if folder else own
        if how == "tools":
            everybody = {k: v for k, v in everybody.items() if k in TOOLS}
        clients = {k: v for k, v in everybody.items() if re.search(options.clients or "", k)}
        rows = results.setdefault(how, {})
        for scenario in scenarios:
            if how not in scenario.hows:
                continue
            found = rows.setdefault(scenario.name, {})
            for client in clients:
                if client in found:
                    continue
                result = run(scenario, client, how, folder)
                found[client] = _plain(result)
                said = f"{how}, {scenario.name}, {client}: {cell(result, scenario)}"
                print(f"{said} {result.error or ''}", file=sys.stderr, flush=True)
                if options.json:
                    options.json.write_text(json.dumps(results, indent=1) + "\n")
        made = {
            name: {client: Result(**plain) for client, plain in row.items()}
            for name, row in rows.items()
        }
        tables[how] = table(made, clients)
        print(tables[how], end="\n\n")
    if options.docs:
        for how, text in tables.items():
            page.fill("explanation/comparison.md", how, text)
        if folder:
            page.fill("explanation/comparison.md", "versions", versions(folder, ["own", *OTHERS]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
