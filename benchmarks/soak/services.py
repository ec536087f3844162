"""The services of the soak, in a separate process: a sandbox that takes faults from stdin.

Prints the arguments of the providers as a line of JSON, then reads lines of JSON: the arguments of
``Sandbox.fail``, or ``"expire"``. Ends with its standard input.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

from llmproviders.sandbox import Sandbox
from tests.support.http_bytes import http_response
from tests.support.rawserver import Connection, RawServer

PROVIDERS = ("GigaChat", "ChatGLM", "OpenAICompatible")

POISONED = "poisoned"


def reply_to(messages: Sequence[Any]) -> str:
    """Every service's answer to a question, which the soak knows, too."""
    question = str(messages[-1]["content"])
    return " ".join(f"{question} → ответ {number} 回答" for number in range(3))


def _poison(conn: Connection) -> None:
    """Send a right reply and, in the same packet, an unrequested wrong one."""
    while True:
        right = reply_to(json.loads(conn.read_request().body)["messages"])
        conn.run([_whole(right) + _whole("the answer of another call")])


def _whole(text: str) -> bytes:
    choice = {"index": 0, "message": {"content": text}, "finish_reason": "stop"}
    body = json.dumps({"choices": [choice]}).encode()
    return b"".join(http_response(200, {"Content-Type": "application/json"}, body))


def main() -> None:
    """Serve until standard input ends."""
    with (
        RawServer(_poison) as poisoned,
        Sandbox(
            reply=reply_to, gigachat_scope="GIGACHAT_API_CORP", gigachat_max_concurrency=64
        ) as sandbox,
    ):
        arguments = {name: sandbox.provider_arguments(name) for name in PROVIDERS}
        arguments[POISONED] = {"base_url": f"{poisoned.url}/v1", "model": "m", "api_key": "k"}
        print(json.dumps(arguments), flush=True)
        for line in sys.stdin:
            order = json.loads(line)
            if order == "expire":
                sandbox.expire_tokens()
            else:
                sandbox.fail(order.pop("provider"), **order)


if __name__ == "__main__":
    main()
