"""The cost of a process before its first request: imports and ``--help``, in bare interpreters."""

from __future__ import annotations

import json
import os
import subprocess
import sys

_PUBLIC = "from llmproviders import FailoverClient, OpenAICompatible"
_IMPORTS = {
    "own": "import llmproviders",
    "plain.tenacity": "import requests, tenacity",
    "gigachat_sdk": "from gigachat import GigaChat",
    "openai_sdk": "from openai import OpenAI",
    "g4f_sdk": "from g4f.client import Client",
    "litellm_sdk": "from litellm import completion",
    "langchain_sdk": "from langchain_openai import ChatOpenAI",
    "pydantic_ai_sdk": "from pydantic_ai import Agent\n"
    "from pydantic_ai.models.openai import OpenAIChatModel",
    "any_llm_sdk": "from any_llm import AnyLLM",
}
_HELPED = {"python": ["-c", ""], "own": ["-m", "llmproviders", "--help"]}
_TIMED = """
import time
wall, start = time.perf_counter(), time.process_time()
{code}
print((time.process_time() - start) * 1e6, (time.perf_counter() - wall) * 1e6)
"""
_FIRST_CALL = """
import sys
before = set(sys.modules)
{imports}
client = FailoverClient([OpenAICompatible(base_url={url!r})])
assert str(client.complete("Why?"))
print([name for name in sys.modules if name not in before])
"""

# Some modules, such as those that compiled ones create, can be loaded but not imported.
_IMPORT_EACH = """
for name in {names}:
    try:
        __import__(name)
    except ImportError:
        pass
"""


def importing(python: str, client: str, url: str, environment: dict[str, str]) -> dict[str, float]:
    """Processor time of an import in a fresh interpreter.

    ``own.used`` imports everything that a program has loaded after its first call of one provider.
    """
    if client == "own.used":
        code = _PUBLIC + _all_loaded(python, url, environment)
    else:
        code = _IMPORTS[client]
    cpu, wall = map(float, _run([python, "-c", _TIMED.format(code=code)], environment).split())
    return {"cpu": cpu, "wall": wall}


_loaded: dict[str, str] = {}


def _all_loaded(python: str, url: str, environment: dict[str, str]) -> str:
    if python not in _loaded:
        code = _FIRST_CALL.format(imports=_PUBLIC, url=f"{url}/used/chat/single/5/once/v1")
        names = json.loads(_run([python, "-c", code], environment).replace("'", '"'))
        _loaded[python] = _IMPORT_EACH.format(names=names)
    return _loaded[python]


def helping(python: str, client: str, _url: str, environment: dict[str, str]) -> dict[str, float]:
    """Processor time of ``llmproviders --help``, or of a bare interpreter, from start to end."""
    command = [python, *_HELPED[client]]
    read, write = os.pipe()
    pid = os.posix_spawn(
        command[0], command, environment, file_actions=[(os.POSIX_SPAWN_DUP2, write, 1)]
    )
    os.close(write)
    with open(read) as output:
        said = output.read()
    _, status, used = os.wait4(pid, 0)
    assert status == 0
    assert client == "python" or "Usage" in said
    return {"cpu": (used.ru_utime + used.ru_stime) * 1e6}


def _run(command: list[str], environment: dict[str, str]) -> str:
    done = subprocess.run(
        command, check=False, env=environment, capture_output=True, text=True, timeout=120
    )
    if done.returncode != 0:
        sys.stderr.write(done.stderr)
        done.check_returncode()
    return done.stdout
