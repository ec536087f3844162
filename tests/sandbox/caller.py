"""Well-formed requests to the services of a sandbox, and the text of their replies."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import time
import uuid
from collections.abc import Iterator
from typing import Any

import requests

from llmproviders.sandbox import Sandbox

PROVIDERS = ("gigachat", "openai", "chatglm", "chatgptt", "flowgpt")
STREAMING = ("gigachat", "openai", "chatglm", "flowgpt")


class Caller:
    """Asks a sandbox as each service's own client would, on kept-alive connections."""

    def __init__(self, sandbox: Sandbox) -> None:
        self.sandbox = sandbox
        self.http = requests.Session()
        self.http.trust_env = False
        self.token: str | None = None

    def close(self) -> None:
        """Close the connections."""
        self.http.close()

    def post(self, path: str, **arguments: Any) -> requests.Response:
        """POST to a path of the sandbox."""
        return self.http.post(self.sandbox.url + path, timeout=20, **arguments)

    def get(self, path: str, **arguments: Any) -> requests.Response:
        """GET a path of the sandbox."""
        return self.http.get(self.sandbox.url + path, timeout=20, **arguments)

    def ask(
        self,
        provider: str,
        text: str = "Why is the sky blue?",
        *,
        stream: bool = True,
        extra: dict[str, Any] | None = None,
    ) -> requests.Response:
        """Send a well-formed chat request; the response's body is not read yet."""
        return getattr(self, f"_{provider}")(text, stream, extra or {})

    def _gigachat(self, text: str, stream: bool, extra: dict[str, Any]) -> requests.Response:
        if self.token is None:
            self.token = self.get_token().json()["access_token"]
        body = {"model": "GigaChat-2", "messages": [user(text)], "stream": stream, **extra}
        headers = {"Authorization": f"Bearer {self.token}"}
        return self.post("/api/v1/chat/completions", json=body, headers=headers, stream=True)

    def get_token(
        self, *, scope: str | None = None, key: str | None = None, **headers: str
    ) -> requests.Response:
        """Ask for a GigaChat token."""
        environ = self.sandbox.environ()
        scope = environ["GIGACHAT_SCOPE"] if scope is None else scope
        usual = {
            "Authorization": f"Basic {key or environ['GIGACHAT_CREDENTIALS']}",
            "RqUID": str(uuid.uuid4()),
        }
        return self.post("/api/v2/oauth", data={"scope": scope}, headers={**usual, **headers})

    def api(self, method: str, path: str, **arguments: Any) -> requests.Response:
        """Call the GigaChat API with a token."""
        if self.token is None:
            self.token = self.get_token().json()["access_token"]
        headers = {"Authorization": f"Bearer {self.token}"}
        url = f"{self.sandbox.url}/api/v1/{path}"
        return self.http.request(method, url, headers=headers, timeout=20, **arguments)

    def _openai(self, text: str, stream: bool, extra: dict[str, Any]) -> requests.Response:
        body = {"model": "sandbox-small", "messages": [user(text)], "stream": stream, **extra}
        headers = {"Authorization": f"Bearer {self.sandbox.environ()['OPENAI_API_KEY']}"}
        return self.post("/v1/chat/completions", json=body, headers=headers, stream=True)

    def _chatglm(self, text: str, stream: bool, extra: dict[str, Any]) -> requests.Response:
        body = {**chatglm_body(text), **extra}
        path = "/chatglm/mainchat-api/guest/stream"
        return self.post(path, json=body, headers=chatglm_headers(), stream=True)

    def _chatgptt(self, text: str, stream: bool, extra: dict[str, Any]) -> requests.Response:
        form = {**chatgptt_form(self.get("/").text, text), **extra}
        return self.post("/wp-admin/admin-ajax.php", data=form, stream=True)

    def _flowgpt(self, text: str, stream: bool, extra: dict[str, Any]) -> requests.Response:
        body = {**flowgpt_body(text), **extra}
        headers = flowgpt_headers()
        return self.post("/v3/chat-anonymous", json=body, headers=headers, stream=True)


def user(text: str) -> dict[str, str]:
    """Return a user's message."""
    return {"role": "user", "content": text}


def chatglm_headers() -> dict[str, str]:
    """Return the headers of ChatGLM's web client."""
    return {
        "Authorization": "undefined",
        "App-Name": "chatglm",
        "X-App-Platform": "pc",
        "X-App-Version": "0.0.1",
        "X-Device-Id": uuid.uuid4().hex,
    }


def chatglm_body(text: str) -> dict[str, Any]:
    """Return a body that ChatGLM takes."""
    return {
        "assistant_id": "65940acff94777010aa6b796",
        "conversation_id": "",
        "meta_data": {
            "if_plus_model": False,
            "is_test": False,
            "input_question_type": "xxxx",
            "channel": "",
            "draft_id": "",
            "quote_log_id": "",
            "platform": "pc",
        },
        "messages": [{"role": "user", "content": [{"type": "text", "text": text}]}],
    }


def chatgptt_form(page: str, text: str) -> dict[str, str]:
    """Return a form that the site takes, with the nonce of its page."""
    found = dict(re.findall(r"data-(nonce|post-id)=[\"']([^\"']+)", page))
    return {
        "_wpnonce": found["nonce"],
        "post_id": found["post-id"],
        "url": "https://chatgptt.me",
        "action": "wpaicg_chat_shortcode_message",
        "message": text,
        "bot_id": "0",
        "chatbot_identity": "shortcode",
        "wpaicg_chat_client_id": uuid.uuid4().hex[:10],
    }


def flowgpt_headers(*, at: float | None = None) -> dict[str, str]:
    """Return headers with a signature of now, or of another Unix time."""
    timestamp = str(int(time.time() if at is None else at))
    nonce = uuid.uuid4().hex
    signed = f"{timestamp}-{nonce}-Bearer null".encode()
    return {
        "Authorization": "Bearer null",
        "x-timestamp": timestamp,
        "x-nonce": nonce,
        "x-signature": hashlib.md5(signed).hexdigest(),
        "x-flow-device-id": "f-" + uuid.uuid4().hex[:19],
    }


def flowgpt_body(text: str) -> dict[str, Any]:
    """Return a body that FlowGPT takes."""
    return {
        "model": "gpt-3.5-turbo",
        "nsfw": False,
        "question": text,
        "history": [{"role": "assistant", "content": "Hello, how can I help you today?"}],
        "system": "You are helpful assistant.",
        "temperature": 0.7,
        "promptId": "model-gpt-3.5-turbo",
        "documentIds": [],
        "chatFileDocumentIds": [],
        "generateImage": False,
        "generateAudio": False,
    }


def events(data: bytes) -> list[Any]:
    """Return the JSON of each server-sent event, ``[DONE]`` as it is."""
    lines = [line[6:] for line in data.split(b"\n") if line.startswith(b"data: ")]
    return ["[DONE]" if line == b"[DONE]" else json.loads(line) for line in lines]


def delta_text(told: list[Any]) -> str:
    """Return the text of chat completion events."""
    deltas = [event["choices"][0]["delta"] for event in told if choices(event)]
    return "".join(delta.get("content") or "" for delta in deltas)


def choices(event: Any) -> list[Any]:
    """Return the choices of a chat completion event; none of ``[DONE]``."""
    return event["choices"] if isinstance(event, dict) else []


def glm_text(event: dict[str, Any]) -> str:
    """Return the text so far of a ChatGLM event."""
    items = [item for part in event["parts"] for item in part["content"]]
    return "\n".join(item["text"] for item in items if item["type"] == "text")


def flow_text(data: bytes) -> str:
    """Return the text of FlowGPT's lines."""
    told = [json.loads(line) for line in data.splitlines()]
    return "".join(event["data"] for event in told if event.get("event") == "text")


def text_of(provider: str, data: bytes) -> str:
    """Return the text of a stream's bytes, as the service's protocol has it."""
    if provider == "flowgpt":
        return flow_text(data)
    if provider == "chatglm":
        told = events(data)
        return glm_text(told[-1]) if told else ""
    if provider == "chatgptt" and not data.startswith(b"data:"):
        return str(json.loads(data)["data"])
    return delta_text(events(data))


@contextlib.contextmanager
def calling(**settings: Any) -> Iterator[Caller]:
    """Ask a sandbox with settings of its own."""
    with Sandbox(**settings) as sandbox, contextlib.closing(Caller(sandbox)) as asking:
        yield asking
