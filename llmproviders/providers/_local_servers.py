"""Programs that serve models on this machine and speak OpenAI's protocol."""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import urlsplit


class LocalServer(NamedTuple):
    """One such program.

    Attributes:
        name: its usual name.
        base_url: its usual address.
        start: the command that starts it.
        pull: the command that fetches a model; {} stands for the model's name. None if there is
            no such command.
        any_model: whether it serves its one model under any name.
    """

    name: str
    base_url: str
    start: str
    pull: str | None = None
    any_model: bool = False


LOCAL_SERVERS = {
    "ollama": LocalServer("Ollama", "http://localhost:11434/v1", "ollama serve", "ollama pull {}"),
    "lmstudio": LocalServer(
        "LM Studio", "http://localhost:1234/v1", "lms server start", "lms get {}"
    ),
    "llamacpp": LocalServer(
        "llama.cpp", "http://localhost:8080/v1", "llama-server -m MODEL.gguf", any_model=True
    ),
    "vllm": LocalServer("vLLM", "http://localhost:8000/v1", "vllm serve MODEL"),
}
"""``type`` in the configuration -> the program."""

_LOOPBACK = ("localhost", "127.0.0.1", "::1")


def local_server_at(url: str, name: str = "") -> LocalServer | None:
    """The program that serves ``url``, judged by its name or address.

    Args:
        url: the base address.
        name: the provider's name; if it is a program's name, the address does not matter.

    Returns:
        The program with that name, else the one with that usual address on this machine; None if
        there is none.

    >>> local_server_at("http://127.0.0.1:11434/v1").name
    'Ollama'
    >>> local_server_at("http://10.0.0.7:9000/v1", "Ollama").name
    'Ollama'
    """
    servers = LOCAL_SERVERS.values()
    named = next((one for one in servers if one.name == name), None)
    asked = urlsplit(url)
    if named is not None or asked.hostname not in _LOOPBACK:
        return named
    return next((one for one in servers if urlsplit(one.base_url).port == asked.port), None)
