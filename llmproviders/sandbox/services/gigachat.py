"""GigaChat: a token service, and the API that takes its tokens."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
import uuid
from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar

from llmproviders.sandbox._record import RecordedRequest
from llmproviders.sandbox._reply import HeaderPairs, SandboxReply, Stream, Whole, json_reply, phrase
from llmproviders.sandbox._samples import sample
from llmproviders.sandbox._script import (
    Script,
    count_words,
    last_user_text,
    split_pieces,
    write_script,
)
from llmproviders.sandbox._settings import Settings
from llmproviders.sandbox.services._base import Service
from llmproviders.sandbox.services._completions import (
    DONE,
    CompletionScript,
    Dialect,
    Object,
    calls_of,
    id_header,
)
from llmproviders.sandbox.services._gigachat_checks import attached, chat_problem, multipart
from llmproviders.sandbox.services._gigachat_files import KeptFiles, draw_png, upload_problem

API_KEY = base64.b64encode(
    b"7c0f3a52-5a6d-4b8e-9c31-5a0db0c5a11e:2d9b7f40-1e8c-4f6a-8b55-5a0db0c5ec7e"
).decode()

USER, PASSWORD = "sandbox", "sandbox-password"

SCOPES = ("GIGACHAT_API_PERS", "GIGACHAT_API_B2B", "GIGACHAT_API_CORP")

_OLDER_NAMES = {
    "GigaChat": "GigaChat-2",
    "GigaChat:latest": "GigaChat-2",
    "GigaChat-Plus": "GigaChat-2",
    "GigaChat-Pro": "GigaChat-2-Pro",
    "GigaChat-Max": "GigaChat-2-Max",
}

_EMBEDDINGS = "Embeddings"

_DIALECT = Dialect(
    finish={"stop": "stop", "length": "length", "filter": "blacklist"},
    stream_object="chat.completion",
    role_in_each_delta=True,
    keep_alive=None,
)

_MAX_EXPIRED_TOKENS = 10_000

_LOGIN = "/api/v1/token"

_FILE = "/api/v1/files/{id}"

_FILE_ID = re.compile(r"/files/([^/]+)")

_PLACE_GRACE_S = 0.25


class GigaChatService(Service):
    """Checks keys, scopes, tokens, limits and messages, and answers whole or in events."""

    name = "gigachat"
    class_name = "GigaChat"
    base_path = "/api"
    title = "GigaChat"
    routes: ClassVar = {
        ("POST", "/api/v2/oauth"): "token",
        ("POST", "/api/v1/chat/completions"): "chat",
        ("GET", "/api/v1/models"): "models",
        ("GET", "/api/v1/balance"): "balance",
        ("POST", "/api/v1/tokens/count"): "tokens",
        ("POST", "/api/v1/embeddings"): "embeddings",
        ("POST", _LOGIN): "token",
        ("POST", "/api/v1/files"): "files",
        ("GET", "/api/v1/files"): "files",
        ("GET", _FILE): "files",
        ("GET", f"{_FILE}/content"): "files",
        ("POST", f"{_FILE}/delete"): "files",
    }

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._tokens = _Tokens(settings)
        self._places = _Places(settings.gigachat_max_concurrency)
        self._files = KeptFiles(settings.clock)
        self._state_ids: set[str] = set()

    def arguments(self, url: str) -> dict[str, Any]:
        """Return the addresses of the API and of the token service, and the key with its scope."""
        return {
            "base_url": f"{url}/api/v1",
            "auth_url": f"{url}/api/v2/oauth",
            "api_key": API_KEY,
            "scope": self.settings.gigachat_scope,
        }

    def environ(self, url: str) -> dict[str, str]:
        """Return the same by the names that the official client reads."""
        arguments = self.arguments(url)
        return {
            "GIGACHAT_BASE_URL": arguments["base_url"],
            "GIGACHAT_AUTH_URL": arguments["auth_url"],
            "GIGACHAT_CREDENTIALS": arguments["api_key"],
            "GIGACHAT_SCOPE": arguments["scope"],
        }

    def expire_tokens(self) -> None:
        """Refuse every token that was issued so far."""
        self._tokens.expire()

    def refuse(self, request: RecordedRequest) -> Whole | None:
        """Return the token service's code and message, or the API's status and message."""
        if request.kind == "token":
            return self._refuse_token(request)
        problem = self._tokens.problem(request.headers.get("authorization", ""))
        if problem:
            return _error(401, problem)
        if request.kind == "chat":
            return self._refuse_chat(request)
        if request.kind == "files":
            return self._refuse_file(request)
        if request.kind == "balance":
            pays_as_it_goes = self.settings.gigachat_scope == "GIGACHAT_API_CORP"
            return _error(403, "Permission denied") if pays_as_it_goes else None
        return _refuse_inputs(request)

    def _refuse_file(self, request: RecordedRequest) -> Whole | None:
        found = _FILE_ID.search(request.path)
        if found:
            kept = self._files.get(found[1], _client(request))
            return None if kept else _error(404, "File not found")
        if request.method != "POST":
            return None
        parts = multipart(request)
        if "file" not in parts or parts.get("purpose", ("", "", b""))[2] != b"general":
            return _error(400, "file and purpose are required")
        _, media_type, content = parts["file"]
        problem = upload_problem(media_type, content)
        return None if problem is None else _error(*problem)

    def _refuse_token(self, request: RecordedRequest) -> Whole | None:
        if request.path == _LOGIN:
            pair = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
            is_known = request.headers.get("authorization") == f"Basic {pair}"
            return None if is_known else _error(401, "Unauthorized")
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        if scheme not in ("Basic", "Bearer"):
            return _token_error(401, 4, "Can't decode 'Authorization' header")
        if key != API_KEY:
            return _token_error(401, 6, "credentials doesn't match db data")
        if not _is_uuid4(request.headers.get("rquid", "")):
            return _token_error(400, 2, "RqUID must be a uuid4")
        scope = request.form.get("scope", "")
        if not scope:
            return _token_error(400, 5, "scope is empty")
        if scope not in SCOPES:
            return _token_error(400, 1, "scope data format invalid")
        if scope != self.settings.gigachat_scope:
            message = "scope from db not fully includes consumed scope"
            return _token_error(400, 7, message)
        return None

    def _refuse_chat(self, request: RecordedRequest) -> Whole | None:
        body = request.json
        if not isinstance(body, dict):
            return _error(400, "Bad request: the body must be a JSON object")
        model = self._model(body)
        if model not in self.settings.gigachat_models:
            return _error(404, "No such model")
        problem = chat_problem(body, self._state_ids)
        if problem:
            return _error(422, f"Invalid params: {problem}")
        if any(self._files.get(one, _client(request)) is None for one in attached(body)):
            return _error(404, "File not found")
        return None if self._places.take() else _error(429, "Too Many Requests")

    def _model(self, body: Object) -> Any:
        asked = body.get("model", self.settings.gigachat_models[0])
        if not isinstance(asked, str):
            return None
        # A host that lists an older name means that model by it.
        known = asked in self.settings.gigachat_models
        return asked if known else _OLDER_NAMES.get(asked, asked)

    def answer(self, request: RecordedRequest, *, empty: bool) -> SandboxReply:
        """Return a token, a completion, or whatever else was asked for."""
        if request.kind == "token":
            issued = self._tokens.issue()
            if request.path == _LOGIN:
                issued = {"tok": issued["access_token"], "exp": issued["expires_at"] // 1000}
            return json_reply({} if empty else issued)
        if request.kind == "chat":
            release = _once(self._places.give_back)
            try:
                reply = self._chat(request, empty=empty)
            except BaseException:
                release()
                raise
            reply.release = release
            return reply
        if request.kind == "files":
            return json_reply({}) if empty else self._answer_file(request)
        answers: dict[str, Callable[[Any], Any]] = {
            "models": self._models,
            "balance": self._balance,
            "tokens": _count_tokens,
            "embeddings": _embeddings,
        }
        answer = {} if empty else answers[request.kind](request.json)
        return json_reply(answer)

    def reply_headers(self, request: RecordedRequest, /) -> HeaderPairs:
        """Return the ids of the request and of the session."""
        return (*id_header(request, "x-request-id"), *id_header(request, "x-session-id"))

    def _answer_file(self, request: RecordedRequest) -> SandboxReply:
        client = _client(request)
        found = _FILE_ID.search(request.path)
        if found is None and request.method == "POST":
            return json_reply(self._files.add(*multipart(request)["file"], client))
        if found is None:
            return json_reply({"data": self._files.list(client), "object": "list"})
        kept = self._files.get(found[1], client)
        assert kept is not None
        if request.path.endswith("/content"):
            return Whole(200, kept.content, content_type=kept.media_type)
        if request.path.endswith("/delete"):
            self._files.delete(found[1])
            return json_reply({"id": found[1], "deleted": True, "access_policy": "private"})
        return json_reply(kept.about)

    def _chat(self, request: RecordedRequest, *, empty: bool) -> SandboxReply:
        body = request.json
        completion = self._completion(request, empty=empty)
        if not body.get("stream"):
            reply = json_reply(completion.whole())
            reply.pieces = len(completion.script.pieces)
            return reply
        frames = completion.frames([completion.call] if completion.call else [])
        end = (completion.finish({"usage": completion.usage}), DONE)
        return Stream(frames, end)

    def _completion(self, request: RecordedRequest, *, empty: bool) -> CompletionScript:
        body = request.json
        messages = [
            {"role": message["role"], "content": message.get("content", "")}
            for message in body["messages"]
        ]
        reply = self.next_reply()
        script = write_script(
            reply,
            self.title,
            messages,
            empty=empty,
            max_tokens=body.get("max_tokens"),
        )
        if not empty and reply is None and script.finish == "stop":
            script = self._more_than_words(script, request)
        calls = [] if empty else calls_of(body, script, last_user_text(messages))
        return CompletionScript(
            dialect=_DIALECT,
            script=script,
            envelope={
                "created": int(self.settings.clock()),
                "model": f"{self._model(body)}:2.0.28.2",
            },
            usage={**script.usage, "precached_prompt_tokens": 0},
            choices=body.get("n") or 1,
            call=self._call(calls[0]) if calls else None,
            call_finish="function_call",
        )

    def _more_than_words(self, script: Script, request: RecordedRequest) -> Script:
        """Return a script that satisfies a schema, draws a picture, or describes attachments."""
        body = request.json
        wanted = body.get("response_format")
        if wanted:
            text = json.dumps(sample(wanted["schema"]), ensure_ascii=False)
            return replace(script, pieces=split_pieces(text))
        text = script.text
        if "draw a picture" in last_user_text(body["messages"]).lower():
            about = self._files.add("drawn.png", "image/png", draw_png(), _client(request))
            text += f' Here it is: <img src="{about["id"]}" fuse="true"/> It is blue.'
        for one in body["messages"][-1].get("attachments") or ():
            kept = self._files.get(one, _client(request))
            assert kept is not None
            text += f" You sent {kept.media_type} of {len(kept.content)} bytes."
        return replace(script, pieces=split_pieces(text)) if text != script.text else script

    def _call(self, call: Object) -> Object:
        state_id = str(uuid.uuid4())
        self._state_ids.add(state_id)
        return {"function_call": call, "functions_state_id": state_id}

    def _models(self, _: Any) -> Object:
        names = (*self.settings.gigachat_models, _EMBEDDINGS)
        about = {"object": "model", "owned_by": "salutedevices"}
        data = [
            {"id": name, **about, "type": "embedder" if name == _EMBEDDINGS else "chat"}
            for name in names
        ]
        return {"data": data, "object": "list"}

    def _balance(self, _: Any) -> Object:
        values = [{"usage": name, "value": 900_000} for name in self.settings.gigachat_models]
        return {"balance": values}

    def error(self, status: int, kind: str, /) -> Whole:
        """Return a JSON object with `message`, and `status` or the token service's `code`."""
        if kind == "token":
            return _token_error(status, status, phrase(status))
        return _error(status, phrase(status))


class _Tokens:
    """The tokens that were issued, and when each one expires."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._expiry: dict[str, float] = {}

    def issue(self) -> Object:
        token = f"sandbox.{uuid.uuid4().hex}{uuid.uuid4().hex}"
        expires_at = self._settings.clock() + self._settings.gigachat_token_life_s
        with self._lock:
            self._expiry[token] = expires_at
            if len(self._expiry) > _MAX_EXPIRED_TOKENS:
                del self._expiry[next(iter(self._expiry))]
        return {"access_token": token, "expires_at": int(expires_at * 1000)}

    def problem(self, authorization: str) -> str | None:
        scheme, _, token = authorization.partition(" ")
        with self._lock:
            expires_at = self._expiry.get(token)
        if scheme != "Bearer" or expires_at is None:
            return "Unauthorized"
        return "Token has expired" if self._settings.clock() >= expires_at else None

    def expire(self) -> None:
        with self._lock:
            self._expiry = dict.fromkeys(self._expiry, 0.0)


class _Places:
    """How many chat requests are answered at a time.

    A client that drops one reply and immediately asks for the next may do so before the sandbox
    notices: a short wait for a free place keeps that request from being refused.
    """

    def __init__(self, places: int) -> None:
        self._free = threading.Semaphore(places)

    def take(self) -> bool:
        return self._free.acquire(timeout=_PLACE_GRACE_S)

    def give_back(self) -> None:
        self._free.release()


def _once(action: Callable[[], None]) -> Callable[[], None]:
    pending = [action]

    def run() -> None:
        if pending:
            pending.pop()()

    return run


def _is_uuid4(text: str) -> bool:
    try:
        parsed = uuid.UUID(text)
    except ValueError:
        return False
    return parsed.version == 4 and str(parsed) == text.lower()


def _refuse_inputs(request: RecordedRequest) -> Whole | None:
    if request.method != "POST":
        return None
    body = request.json
    inputs = body.get("input") if isinstance(body, dict) else None
    if isinstance(inputs, list) and all(isinstance(text, str) for text in inputs):
        return None
    return _error(422, "Invalid params: input must be a list of strings")


def _client(request: RecordedRequest) -> str:
    """The client to which files belong."""
    return request.headers.get("x-client-id", "")


def _count_tokens(body: Object) -> list[Object]:
    return [
        {"object": "tokens", "tokens": count_words(text), "characters": len(text)}
        for text in body["input"]
    ]


def _embeddings(body: Object) -> Object:
    data = [
        {
            "embedding": [byte / 255 for byte in hashlib.sha256(text.encode()).digest()],
            "index": index,
            "object": "embedding",
            "usage": {"prompt_tokens": count_words(text)},
        }
        for index, text in enumerate(body["input"])
    ]
    return {"data": data, "model": body.get("model", _EMBEDDINGS), "object": "list"}


def _error(status: int, message: str) -> Whole:
    return json_reply({"status": status, "message": message}, status=status)


def _token_error(status: int, code: int, message: str) -> Whole:
    return json_reply({"code": code, "message": message}, status=status)
