"""Uses that a type checker has to accept."""

from __future__ import annotations

from collections.abc import Generator

from llmproviders import (
    Attempt,
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
)

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
