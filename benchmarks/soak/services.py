"""The services of the soak, in a process of their own: a sandbox that is told what to spoil.

Prints the arguments of the providers as a line of JSON, then reads lines of JSON: the arguments of
``Sandbox.fail``, or ``"expire"``. Ends with its standard input.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

from llmproviders.sandbox import Sandbox

PROVIDERS = ("GigaChat", "ChatGLM", "OpenAICompatible")


def reply_to(messages: Sequence[Any]) -> str:
    """The text that every service gives to a question; the soak knows it, too."""
    question = str(messages[-1]["content"])
    return " ".join(f"{question} → ответ {number} 回答" for number in range(3))


def main() -> None:
    """Serve until standard input ends."""
    with Sandbox(
        reply=reply_to, gigachat_scope="GIGACHAT_API_CORP", gigachat_max_concurrency=64
    ) as sandbox:
        arguments = {name: sandbox.provider_arguments(name) for name in PROVIDERS}
        print(json.dumps(arguments), flush=True)
        for line in sys.stdin:
            order = json.loads(line)
            if order == "expire":
                sandbox.expire_tokens()
            else:
                sandbox.fail(order.pop("provider"), **order)


if __name__ == "__main__":
    main()
