"""Uses that a type checker has to accept."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Generator
from pathlib import Path

from llmproviders import (
    Attempt,
    Attempts,
    ChatGLM,
    Completion,
    FailoverClient,
    FinishReason,
    GigaChat,
    LLMError,
    OpenAICompatible,
    Provider,
    Restart,
    StreamInterrupted,
    Usage,
    batch,
)
from llmproviders.batch import BatchReport, BatchResult, Summary, run, run_file
from llmproviders.conversation import Conversation
from llmproviders.notebook import show, use
from llmproviders.sandbox import RecordedRequest, Sandbox
from llmproviders.testing import ScriptedProvider

client = FailoverClient(
    [GigaChat(), (GigaChat(scope="GIGACHAT_API_CORP"), "GigaChat-2-Max"), ChatGLM()],
    deadline=30,
    on_interrupt="restart",
    fall_through=(LLMError,),
    accept=lambda completion: len(completion.text) > 3 or "too short",
    on_event=print,
)
nested = FailoverClient([client, OpenAICompatible(base_url="http://localhost:11434/v1")])

text: str = "".join(client.stream("Hi", model="GigaChat-2", temperature=0.2, timeout=(5, 30)))
stream: Generator[str, None, None] = client.stream(
    [{"role": "system", "content": "Be brief."}, {"role": "user", "content": [{"type": "text"}]}]
)
for chunk in stream:
    if isinstance(chunk, FinishReason):
        usage: Usage | None = chunk.usage
        why: str = chunk.reason
    elif isinstance(chunk, Restart):
        void: str = chunk.discarded_text
    else:
        length: int = len(chunk)

reply: Completion = nested.complete("Hi", max_tokens=5, extra_body={"keep_alive": "5m"})
first: Attempt = reply.attempts[0]
error: LLMError | None = first.error

try:
    reply = client.complete("Hi")
except StreamInterrupted as cut:
    so_far: str = cut.partial_text
    pause: float | None = cut.retry_after
except LLMError as failure:
    again: bool = failure.retryable

with ChatGLM(proxy="socks5h://127.0.0.1:1080", name="guest") as guest:
    guest.create_generator("glm-4", "Hi", stream=False)

provider: type[Provider] = ChatGLM
names: tuple[str, ...] = tuple(GigaChat.models)
names_now: list[str] = list(GigaChat().models())

picture: str = reply.attempts.to_svg()
tried: Attempts = reply.attempts
table: str = str(client.report())
made: FailoverClient = FailoverClient.from_config("config.toml")

chat: Conversation = client.conversation(system="Be brief.", max_messages=20, temperature=0.2)
turn: Completion = chat.ask("Hi")
pieces: Generator[str, None, None] = chat.fork().stream("And then?")
chat.save(Path("chat.json"))
turn = chat.ask("Hi", model="GigaChat-2", deadline=5, stream=False, schema=list[str], tools=[len])
turn = chat.run("Hi", tools=[len], max_turns=3, timeout=(5, 30), temperature=0, system="Be brief.")
pieces = chat.stream("Hi", proxy="http://localhost:3128", accept=lambda reply: True)
answers: list[BatchResult] = batch.map(
    client, ["Hi"], deadline=60, model="GigaChat-2", stream=False
)

with concurrent.futures.ThreadPoolExecutor() as pool:
    for result in run(client, ["Hi", {"id": 7, "prompt": "Hello"}], workers=2, executor=pool):
        row: BatchResult = result
        text = result.completion.text if result.completion is not None else str(result.error)
summary: Summary = run_file(client, "in.jsonl", Path("out.jsonl"), deadline=60, max_failures=10)
failed: int = BatchReport.read("out.jsonl").failed

use(client, temperature=0, model="GigaChat-2")
shown: Completion = show("Hi", client, max_tokens=5)
shown = show(client.stream("Hi"), note=False)

with Sandbox(reply=lambda messages: messages[-1]["content"]) as sandbox:
    sandbox.fail("gigachat", status=429, headers={"Retry-After": "2"}, times=2)
    at_sandbox: FailoverClient = sandbox.client("gigachat", ("openai", "gpt-4o"), attempts=1)
    asked: RecordedRequest = sandbox.requests[0]
recited: str = ScriptedProvider(["Hi"], error=LLMError("down")).complete("Hi").text
