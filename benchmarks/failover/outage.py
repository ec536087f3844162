"""All services are down, and 16 threads go on calling: ``python -m benchmarks.failover.outage``.

Three services of the sandbox answer every request with 503. The requests that arrive are counted,
with the budget for retries and without one.
"""

from __future__ import annotations

import argparse
from concurrent.futures import ThreadPoolExecutor
from unittest import mock

import tenacity

from llmproviders import AllProvidersFailed
from llmproviders.failover._target import RetryBudget
from llmproviders.sandbox import Sandbox

SERVICES = ("openai", "chatglm", "flowgpt")
THREADS = 16
CALLS, SHORT_CALLS = 100, 10


def arrived(calls: int, *, budget: bool) -> int:
    """Make so many calls in each thread; return how many requests the services got."""
    with Sandbox(keep_requests=10) as sandbox:
        for service in SERVICES:
            sandbox.fail(service, status=503, times=10**6)
        client = sandbox.client(*SERVICES, attempts=3, wait=tenacity.wait_none())

        def call(_: int) -> None:
            for _ in range(calls):
                try:
                    client.complete("Why?")
                except AllProvidersFailed:
                    continue

        limited = RetryBudget.take if budget else lambda _: True
        with mock.patch.object(RetryBudget, "take", limited), client:
            with ThreadPoolExecutor(THREADS) as pool:
                list(pool.map(call, range(THREADS)))
            return sandbox.count(kind="chat")


def main() -> None:
    """Count, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--short", action="store_true", help=f"{SHORT_CALLS} calls a thread")
    calls = SHORT_CALLS if parser.parse_args().short else CALLS
    print(f"{len(SERVICES)} services are down, {THREADS} threads make {calls} calls each\n")
    print("|  | requests | per call |\n| --- | --- | --- |")
    for words, budget in (("without a budget", False), ("with the budget", True)):
        requests = arrived(calls, budget=budget)
        print(f"| {words} | {requests:,} | {requests / (THREADS * calls):.1f} |")


if __name__ == "__main__":
    main()
