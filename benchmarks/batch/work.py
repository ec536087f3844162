"""One measurement in a fresh process: ``python -m benchmarks.batch.work KIND IN OUT WORKERS``,
or ``... restart ROWS``.

Prints its figures as JSON. The environment has the address of the service.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

_STATUS = Path("/proc/self/status")

Figures = dict[str, float]


def memory_mb(field: str) -> float:
    """The process's memory: ``VmRSS``, now, or ``VmHWM``, the maximum so far."""
    for line in _STATUS.read_text().splitlines() if _STATUS.exists() else ():
        if line.startswith(field + ":"):
            return int(line.split()[1]) / 1024
    return 0.0


def batch(source: str, output: str, workers: int) -> None:
    """The library's batch, with the client that the command line makes."""
    from llmproviders import FailoverClient, OpenAICompatible
    from llmproviders.batch import run_file

    summary = run_file(FailoverClient([OpenAICompatible()]), source, output, workers=workers)
    assert summary.failed == 0, summary


def loop(source: str, output: str, workers: int) -> None:
    """The loop written by hand: a session for each thread, streamed replies, no retries."""
    import requests

    address = os.environ["OPENAI_BASE_URL"] + "/chat/completions"
    headers = {"Authorization": f"Bearer {os.environ['OPENAI_API_KEY']}"}
    model = os.environ["OPENAI_MODEL"]
    of_thread = threading.local()

    def ask(line: str) -> str:
        if not hasattr(of_thread, "session"):
            of_thread.session = requests.Session()
        row = json.loads(line)
        body = {
            "model": model,
            "messages": [{"role": "user", "content": row["prompt"]}],
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        pieces = []
        with of_thread.session.post(address, json=body, headers=headers, stream=True) as reply:
            reply.raise_for_status()
            for event in reply.iter_lines():
                if event.startswith(b"data: ") and event != b"data: [DONE]":
                    choices = json.loads(event[6:])["choices"]
                    if choices:
                        pieces.append(choices[0]["delta"].get("content") or "")
        return json.dumps({"id": row["id"], "text": "".join(pieces)})

    with (
        open(source) as lines,
        open(output, "w") as rows,
        ThreadPoolExecutor(workers) as threads,
    ):
        for row in threads.map(ask, lines):
            rows.write(row + "\n")
            rows.flush()


KINDS = {"batch": batch, "loop": loop}


def restart(rows: int) -> Figures:
    """Resume a batch with every other row done, up to its first new row."""
    from llmproviders.batch import BatchResult, run_file
    from llmproviders.testing import ScriptedProvider

    client = ScriptedProvider(["This is a reply of some length. " * 6])
    with tempfile.TemporaryDirectory() as folder:
        source, output = Path(folder, "in.jsonl"), Path(folder, "out.jsonl")
        with source.open("w") as lines:
            for number in range(rows):
                prompt = f"What is the answer to question {number}?"
                lines.write(json.dumps({"id": f"row {number}", "prompt": prompt}) + "\n")
        half = Path(folder, "half.jsonl")
        with source.open() as every, half.open("w") as lines:
            lines.writelines(itertools.islice(every, 0, None, 2))
        run_file(client, half, output, on_result=lambda _: client.requests.clear())
        with output.open("a") as torn:
            torn.write('{"id": "row 1", "te')
        began, cpu_began = time.perf_counter(), time.process_time()
        found: Figures = {"rows": rows}

        def note(_: BatchResult) -> None:
            found.setdefault("seconds", time.perf_counter() - began)
            found.setdefault("cpu_seconds", time.process_time() - cpu_began)
            client.requests.clear()  # which it keeps for tests

        run_file(client, source, output, on_result=note)
    return {**found, "peak_mb": memory_mb("VmHWM")}


def main(kind: str, source: str, output: str, workers: str) -> None:
    """Measure one kind."""
    few = source + ".few"
    with open(source) as lines, open(few, "w") as first:
        first.writelines(line for line, _ in zip(lines, range(200), strict=False))
    # Now all lazy imports are done, and every thread has its connection.
    KINDS[kind](few, output + ".few", int(workers))
    before_mb = memory_mb("VmRSS")
    began, cpu_began = time.perf_counter(), time.process_time()
    KINDS[kind](source, output, int(workers))
    seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - cpu_began
    with open(output) as rows:
        count = sum(1 for _ in rows)
    figures = {
        "rows": count,
        "rows_per_s": count / seconds,
        "cpu_ms_per_row": cpu_seconds * 1000 / count,
        "before_mb": before_mb,
        "peak_mb": memory_mb("VmHWM"),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    if sys.argv[1] == "restart":
        print(json.dumps(restart(int(sys.argv[2]))))
    else:
        main(*sys.argv[1:])
