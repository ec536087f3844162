"""No call imports a module: its lock would stay held in a child that is forked meanwhile."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import trustme

import llmproviders
from llmproviders.sandbox import Sandbox
from tests.support.http_bytes import http_response
from tests.support.proxies import Proxy
from tests.support.rawserver import RawServer, keep_alive

CALLS = """
import sys
import llmproviders
from llmproviders import *

class Finder:
    @staticmethod
    def find_spec(name, path=None, target=None):
        frame, stack = sys._getframe(1), []
        while frame is not None:
            code = frame.f_code
            if "importlib" not in code.co_filename:
                stack.append(f"{code.co_filename}:{frame.f_lineno}")
            frame = frame.f_back
        imported.append((name, stack[:3]))

imported = []

def calls(client, *, times=1, **arguments):
    for _ in range(times):
        for ask in (client.complete, lambda *a, **k: list(client.stream(*a, **k))):
            try:
                ask("Why?", **arguments)
            except LLMError as error:
                errors.append(type(error).__name__)

errors = []
# make
sys.meta_path.insert(0, Finder)
# ask
sys.meta_path.remove(Finder)
print(errors)
assert not imported, imported
"""

FAULTS: tuple[dict[str, object], ...] = (
    {"status": 503},
    {"status": 429, "headers": {"Retry-After": "Wed, 21 Oct 2099 07:28:00 GMT"}},
    {"status": 400, "body": {"error": {"message": "max_tokens is no number"}}},
    {"status": 401},
    {"status": 403, "html": True},
    {"html": True},
    {"status": 404},
    {"garbage": True},
    {"empty": True},
    {"body": "<p>It works!"},
    {"reset": True},
    {"cut_after": 1},
    {"headers": {"Content-Encoding": "br"}},
    {"headers": {"Set-Cookie": "a=b; Expires=Wed, 21 Oct 2099 07:28:00 GMT"}},
    {"headers": {"Content-Type": "text/event-stream; charset=koi8-r"}},
)
CLASSES = {
    "chatglm": "ChatGLM",
    "chatgptt": "ChatGptt",
    "flowgpt": "FlowGpt",
    "gigachat": "GigaChat",
    "openai": "OpenAICompatible",
    "glm": "GLM",
    "yandexgpt": "YandexGPT",
    "deepseek": "DeepSeek",
}


def run(make: str, ask: str, **environment: str) -> None:
    """Make clients in a fresh interpreter, then calls, none of which may import anything."""
    result = subprocess.run(
        [sys.executable, "-c", CALLS.replace("# make", make).replace("# ask", ask)],
        capture_output=True,
        text=True,
        timeout=60,
        env={
            **os.environ,
            "PYTHONPATH": str(Path(llmproviders.__file__).parents[1]),
            **environment,
        },
    )
    assert result.returncode == 0, f"{result.stdout}\n{result.stderr}"


@pytest.mark.parametrize("provider", CLASSES)
def test_every_provider(provider: str, sandbox: Sandbox) -> None:
    """Neither the first call of a provider nor whatever goes wrong in one imports anything."""
    for fault in FAULTS:
        sandbox.fail(provider, **fault, times=2)  # type: ignore[arg-type]
    run(
        f"client = {CLASSES[provider]}()",
        f"calls(client, times={len(FAULTS)})\n"
        "calls(client)\n"
        "calls(client, model='no-such')\n"
        "calls(client, extra_body={'what': object()})\n"
        "list(client.create_generator(None, 'Why?', stream=False))\n"
        "client.close()",
        **sandbox.environ(),
    )


def test_tokens(sandbox: Sandbox, tmp_path: Path) -> None:
    """Nor does the fetching of a token, one that fails, or one that is kept in a file."""
    for fault in ({"status": 503}, {"status": 401}, {"body": "{}"}, {"reset": True}):
        sandbox.fail("gigachat", **fault, on="token")  # type: ignore[arg-type]
    run(
        f"client = GigaChat(token_cache={str(tmp_path / 'cache' / 'tokens.json')!r})\n"
        "wrong = GigaChat(api_key='no key')\n"
        "none = GigaChat(access_token='no-token')",
        "calls(client, times=3)\ncalls(wrong)\ncalls(none)\n"
        "client.embed('Why?'); client.list_models()",
        **sandbox.environ(),
    )


def test_failover(sandbox: Sandbox, tmp_path: Path) -> None:
    """Nor do retries, the next provider, a race, a restart, or the memory of it in a file."""
    sandbox.fail("gigachat", status=503, times=3)
    sandbox.fail("gigachat", cut_after=1)
    sandbox.fail("gigachat", status=429, on="token", times=2)
    sandbox.fail("chatglm", stall=True, before_head=True, times=2)
    run(
        f"health = {str(tmp_path / 'state' / 'health.json')!r}\n"
        "both = [GigaChat(), ChatGLM(timeout=0.3), OpenAICompatible()]\n"
        "client = FailoverClient(both, health=health, on_interrupt='restart')\n"
        "hedged = FailoverClient(both[1:], hedge_after=0.01, deadline=10)\n"
        "nobody = OpenAICompatible(base_url='http://127.0.0.1:1/v1')\n"
        "alone = FailoverClient([nobody], attempts=2)",
        "calls(client)\ncalls(hedged)\ncalls(alone)\nclient.report()",
        **sandbox.environ(),
    )


def test_no_connection(black_hole: int) -> None:
    """Nor does a service that refuses, has no name, or does not answer; nor a strange address."""
    hosts = ("127.0.0.1:1", "service.invalid", "сервис.invalid", f"127.0.0.1:{black_hole}")
    run(
        f"clients = [OpenAICompatible(base_url='http://' + host + '/v1', timeout=0.2)"
        f" for host in {hosts!r}]",
        "for client in clients: calls(client)",
    )


def test_over_tls(ca: trustme.CA, ca_file: Path) -> None:
    """Nor does TLS, with a server that is believed or with one that is not."""
    reply = http_response(200, {"Content-Type": "application/json"}, b"{}")
    with (
        RawServer(keep_alive(reply), tls=ca) as server,
        RawServer(keep_alive(reply), tls=trustme.CA()) as stranger,
    ):
        run(
            f"clients = [OpenAICompatible(base_url=url) for url in {[server.url, stranger.url]!r}]",
            "for client in clients: calls(client)",
            REQUESTS_CA_BUNDLE=str(ca_file),
        )


@pytest.mark.parametrize("fixture", ["http_proxy", "https_proxy", "socks_proxy"])
def test_through_proxies(
    fixture: str, request: pytest.FixtureRequest, ca: trustme.CA, ca_file: Path
) -> None:
    """Nor does any kind of proxy, on the way to a plain server or to one with TLS."""
    proxy: Proxy = request.getfixturevalue(fixture)
    reply = http_response(200, {"Content-Type": "application/json"}, b"{}")
    with (
        RawServer(keep_alive(reply)) as plain,
        RawServer(keep_alive(reply), tls=ca) as server,
    ):
        run(
            f"clients = [OpenAICompatible(base_url=url) for url in {[plain.url, server.url]!r}]",
            f"for client in clients: calls(client, proxy={proxy.url()!r})\n"
            "assert errors == ['ProtocolError'] * 4, errors",
            REQUESTS_CA_BUNDLE=str(ca_file),
        )


def test_with_a_session(sandbox: Sandbox) -> None:
    """Nor does a session of the caller's."""
    sandbox.fail("openai", status=503, times=2)
    run(
        "import requests\nclient = OpenAICompatible(session=requests.Session())",
        "calls(client, times=2)",
        **sandbox.environ(),
    )


@pytest.mark.parametrize(
    "made", ["batch", "conversation", "limits", "cache", "schema", "tools", "files"]
)
def test_what_stands_on_calls(made: str, sandbox: Sandbox, tmp_path: Path) -> None:
    """Nor does a batch or a conversation, a limit or a cache, a typed answer, a tool or a file."""
    (tmp_path / "note.txt").write_text("It scatters.")
    code: dict[str, tuple[str, str]] = {
        "batch": (
            "from llmproviders import batch\nclient = OpenAICompatible()",
            "list(batch.run(client, ['Why?', 'How?'], workers=2))",
        ),
        "conversation": (
            "chat = OpenAICompatible().conversation()",
            "calls(chat.client)\nchat.ask('A')",
        ),
        "limits": (
            "client = OpenAICompatible(per_day=100, per_minute={'tokens': 10**6})",
            "calls(client)",
        ),
        "cache": (
            f"client = Cached(OpenAICompatible(), {str(tmp_path / 'replies.db')!r}, ttl=60)",
            "calls(client, times=2)\nclient.clear()",
        ),
        "schema": (
            (
                "from typing import Literal\nclient = OpenAICompatible()\n"
                "client.complete('Why?', schema=Literal['a', 'b'])"
            ),
            "client.complete('Why?', schema=list[int])",
        ),
        "tools": (
            (
                "def weather(city: str) -> str:\n    'The weather in a city.'\n    return 'rain'\n"
                "client = OpenAICompatible()\nclient.run('Why?', tools=[weather])"
            ),
            "client.run('How?', tools=[weather])",
        ),
        "files": (
            "client = GigaChat()",
            (
                f"calls(client, attach=[{str(tmp_path / 'note.txt')!r}])\n"
                f"client.delete(client.upload({str(tmp_path / 'note.txt')!r}).id)"
            ),
        ),
    }
    folder = str(tmp_path / "state")
    run(*code[made], **sandbox.environ(), XDG_STATE_HOME=folder)
