"""Programs that serve models on this machine and speak OpenAI's protocol."""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import urlsplit


class LocalServer(NamedTuple):
    """One such program.

    Attributes:
        name: how people call it.
        base_url: its usual address.
        start: the command that starts it.
        pull: the command that fetches a model; {} stands for the model's name. None if there is
            no such command.
    """

    name: str
    base_url: str
    start: str
    pull: str | None = None


LOCAL_SERVERS = {
    "ollama": LocalServer("Ollama", "http://localhost:11434/v1", "ollama serve", "ollama pull {}"),
    "lmstudio": LocalServer(
        "LM Studio", "http://localhost:1234/v1", "lms server start", "lms get {}"
    ),
    "llamacpp": LocalServer("llama.cpp", "http://localhost:8080/v1", "llama-server -m MODEL.gguf"),
    "vllm": LocalServer("vLLM", "http://localhost:8000/v1", "vllm serve MODEL"),
}
"""``type`` in the configuration -> the program."""

_LOOPBACK = ("localhost", "127.0.0.1", "::1")


def local_server_at(url: str) -> LocalServer | None:
    """The program whose usual address on this machine is that of ``url``; None if there is none.

    >>> local_server_at("http://127.0.0.1:11434/v1").name
    'Ollama'
    """
    asked = urlsplit(url)
    if asked.hostname not in _LOOPBACK:
        return None
    servers = LOCAL_SERVERS.values()
    return next((one for one in servers if urlsplit(one.base_url).port == asked.port), None)
