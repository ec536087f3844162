"""Azure OpenAI: the version in the query of each request, the key in a header of its own."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from llmproviders import AuthenticationError, FailoverClient, LLMError, OpenAICompatible
from llmproviders.config import load
from tests.conftest import RawServerFactory
from tests.support.http_bytes import http_response
from tests.support.rawserver import Connection, RawServer

KEY = "azure-planted-key-7f3a"

ROOT = Path(__file__).parents[2]

# As Azure streams: the filter's verdict on the prompt comes first, in an event without a choice.
EVENTS: list[Any] = [
    {
        "choices": [],
        "created": 0,
        "id": "",
        "model": "",
        "object": "",
        "prompt_filter_results": [{"prompt_index": 0, "content_filter_results": {}}],
    },
    {"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}], "model": "gpt-4o"},
    {
        "choices": [
            {
                "index": 0,
                "delta": {"content": "Rayleigh"},
                "content_filter_results": {"hate": {"filtered": False, "severity": "safe"}},
            }
        ],
        "model": "gpt-4o",
    },
    {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}], "model": "gpt-4o"},
]


def azure(conn: Connection) -> None:
    """Answer one request as a resource with the deployment ``mini`` does."""
    request = conn.read_request()
    target = urlsplit(request.target)
    headers = {"Content-Type": "application/json"}
    if request.header("api-key") != KEY:
        status, words = 401, f"Access denied due to invalid key {request.header('api-key')}"
    elif not parse_qs(target.query).get("api-version"):
        status, words = 404, "Resource not found"
    elif target.path != "/openai/deployments/mini/chat/completions":
        status, words = 404, "The API deployment for this resource does not exist."
    else:
        stream = "".join(f"data: {json.dumps(event)}\n\n" for event in EVENTS) + "data: [DONE]\n\n"
        headers = {"Content-Type": "text/event-stream"}
        conn.run(http_response(200, headers, stream.encode()))
        return
    error = {"error": {"code": str(status), "message": words}}
    conn.run(http_response(status, headers, json.dumps(error).encode()))


@pytest.fixture
def server(raw_server: RawServerFactory, monkeypatch: pytest.MonkeyPatch) -> RawServer:
    """A resource; OpenAI's key is in the environment, and none of its business."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-planted-openai")
    monkeypatch.setenv("AZURE_OPENAI_API_KEY", KEY)
    return raw_server(azure)


def made(server: RawServer, **arguments: Any) -> OpenAICompatible:
    """A provider for the deployment."""
    base_url = f"{server.url}/openai/deployments/mini?api-version=2024-10-21"
    usual = {"base_url": base_url, "headers": {"api-key": KEY}}
    return OpenAICompatible(**{**usual, **arguments})


def check(server: RawServer, provider: Any) -> None:
    """It answers, and nothing but the one key is sent to it."""
    assert str(provider.complete("Why?")) == "Rayleigh"
    assert "".join(provider.stream("Why?")) == "Rayleigh"
    for request in server.requests:
        assert request.target.endswith("/chat/completions?api-version=2024-10-21")
        assert request.header("api-key") == KEY
        assert request.header("authorization") is None
        assert "sk-planted" not in str(request)


def test_what_the_documents_show(server: RawServer) -> None:
    """The example of the reference answers, with the resource's own address put in."""
    page = (ROOT / "docs" / "reference" / "providers.md").read_text(encoding="utf-8")
    example = re.search(r"```python\n(azure = .*?)```", page, re.DOTALL)
    assert example is not None
    code = example[1].replace("https://<resource>.openai.azure.com", server.url)
    names: dict[str, Any] = {"OpenAICompatible": OpenAICompatible, "os": __import__("os")}
    exec(code.replace("<deployment>", "mini"), names)
    with names["azure"] as provider:
        check(server, provider)


def test_configuration(server: RawServer, tmp_path: Path) -> None:
    """So does the configuration of the reference, whose key stays in its variable."""
    page = (ROOT / "docs" / "reference" / "providers.md").read_text(encoding="utf-8")
    example = re.search(r"```text\n(\[\[provider\]\].*?azure.*?)```", page, re.DOTALL)
    assert example is not None
    text = example[1].replace("https://<resource>.openai.azure.com", server.url)
    path = tmp_path / "config.toml"
    path.write_text(text.replace("<deployment>", "mini"))
    assert KEY not in repr(load(path))
    with FailoverClient.from_config(path) as client:
        check(server, client)


@pytest.mark.parametrize("place", ["session", "extra_headers"])
def test_other_places_for_the_header(server: RawServer, place: str) -> None:
    """The header may come from a session or from the call."""
    import requests

    session = requests.Session()
    if place == "session":
        session.headers["api-key"] = KEY
    with session, made(server, headers={}, session=session) as provider:
        asked = {"extra_headers": {"API-Key": KEY}} if place == "extra_headers" else {}
        assert str(provider.complete("Why?", **asked)) == "Rayleigh"
    assert server.requests[0].header("authorization") is None


def test_a_wrong_key(server: RawServer, caplog: pytest.LogCaptureFixture) -> None:
    """The refusal is about the key, which the service echoes and nobody sees."""
    caplog.set_level(logging.DEBUG)
    wrong = "azure-planted-other-55"
    with made(server, headers={"api-key": wrong}) as provider:
        with pytest.raises(AuthenticationError, match="invalid key") as caught:
            provider.complete("Why?")
        assert wrong not in repr(provider)
        assert wrong not in str(vars(provider))
    assert wrong not in str(caught.value) + repr(caught.value.attempts) + caplog.text


@pytest.mark.parametrize(
    "path", ["/openai/deployments/mini", "/openai/deployments/no?api-version=1"]
)
def test_a_wrong_address(server: RawServer, path: str) -> None:
    """A missing version and a missing deployment are told with the address."""
    provider = made(server, base_url=f"{server.url}{path}")
    with provider, pytest.raises(LLMError) as caught:
        provider.complete("Why?")
    assert caught.value.status_code == 404
