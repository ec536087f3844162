"""Keys, tokens, passwords and nonces, planted wherever they come from, turn up nowhere."""

from __future__ import annotations

import base64
import io
import json
import logging
import pickle
import traceback
from collections.abc import Callable, Generator, Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import requests

from llmproviders import (
    GLM,
    Cached,
    ChatGptt,
    DeepSeek,
    FailoverClient,
    FlowGpt,
    GigaChat,
    LLMError,
    OpenAICompatible,
    YandexGPT,
    usage,
)
from llmproviders._account import tokens as token_module
from llmproviders._account.keys import KeyFile, KeyVariable
from llmproviders._runtime.scope import CancelScope
from llmproviders.batch import BatchReport, run_file
from llmproviders.config import load
from llmproviders.conversation import Conversation
from llmproviders.notebook import show
from llmproviders.provider import Provider, Request
from llmproviders.results import Completion
from tests.cli.process import run
from tests.conftest import RawServerFactory
from tests.reliability.services import JSON, PAGE, SERVICES, SSE, TEXT, dumps, event
from tests.support.http_bytes import http_response
from tests.support.kernel import kernel
from tests.support.rawserver import Connection
from tests.support.rawserver import Request as Received

SECRET = "pl4nted/Secret+of=tests"
USER = "some-user"
GIGACHAT_KEY = base64.b64encode(f"{USER}:{SECRET}".encode()).decode()


def forms(secret: str) -> set[str]:
    """The ways in which a secret can be written."""
    written = {secret, quote(secret, safe=""), quote(secret), json.dumps(secret)[1:-1]}
    with_user = f"{USER}:{secret}"
    packed = {base64.b64encode(text.encode()).decode() for text in (secret, with_user)}
    return written | packed


class Observer:
    """Everything of a client that anybody could read."""

    def __init__(self, folder: Path) -> None:
        self.seen: dict[str, str] = {}
        self._folder = folder
        self._log = io.StringIO()

    def __enter__(self) -> Observer:
        self._handler = logging.StreamHandler(self._log)
        self._handler.setLevel(1)
        self._handler.setFormatter(logging.Formatter("%(name)s %(message)s %(args)s"))
        root = logging.getLogger()
        self._levels = [(name, logging.getLogger(name).level) for name in ("", "llmproviders")]
        for name, _ in self._levels:
            logging.getLogger(name).setLevel(1)
        root.addHandler(self._handler)
        return self

    def __exit__(self, *_: object) -> None:
        logging.getLogger().removeHandler(self._handler)
        for name, level in self._levels:
            logging.getLogger(name).setLevel(level)

    def watch(self, provider: Provider, *, pickles: bool) -> None:
        """Call it in every way, and keep whatever comes of that."""
        events: list[Any] = []
        client = FailoverClient(
            [provider],
            attempts=2,
            wait=lambda state: 0.0,  # type: ignore[arg-type]
            health=self._folder / "health.json",
            on_event=events.append,
        )
        for index, asked in enumerate((provider, client)):
            self._call(f"complete {index}", lambda asked=asked: asked.complete("Why?"))
            self._call(f"stream {index}", lambda asked=asked: list(asked.stream("Why?")))
        self._call("models", provider.list_models)
        if isinstance(provider, (GigaChat, OpenAICompatible)):
            self._call("vectors", lambda: provider.embed(["Why?"]))
        if isinstance(provider, GigaChat):
            self._files(provider)
        self._conversation(client)
        cached = Cached(client, self._folder / "replies.db")
        self._call("cached", lambda: cached.complete("Why?"))
        self._call("found in the cache", lambda: cached.complete("Why?"))
        cached.close()
        self._show(client)
        self._batch(client)
        report = client.report()
        self._add("report", str(report), repr(report), repr(report.as_dict()))
        for name in ("_repr_html_", "_repr_markdown_", "_repr_svg_", "_repr_mimebundle_"):
            if hasattr(report, name):
                self._add(f"report {name}", str(getattr(report, name)()))
        self._add("events", repr(events), *(json.dumps(e.as_dict()) for e in events))
        self._add("repr", repr(provider), repr(client), str(provider), str(client))
        if pickles:
            both = (provider, FailoverClient([provider]))
            self._add("pickle", *(pickle.dumps(one).decode("latin-1") for one in both))
        used = usage()
        self._add("usage", str(used), repr(used), used._repr_html_(), json.dumps(used.as_dicts()))
        self._add("log", self._log.getvalue())
        for path in (*self._folder.rglob("*"), *Path.home().rglob("*")):
            if path.is_file() and path.name not in ("in.jsonl", "the.key", "attached.txt"):
                self._add(str(path.name), path.read_bytes().decode("latin-1"))

    def _call(self, name: str, call: Callable[[], Any]) -> None:
        try:
            result = call()
        except LLMError as error:
            links: list[BaseException | None] = [error, error.__cause__, error.__context__]
            for link in links:
                self._add(f"{name} error", str(link), repr(link))
            self._add(f"{name} attributes", repr(error.__dict__))
            self._add(f"{name} traceback", *traceback.format_exception(error))
            self._add(f"{name} pickled error", pickle.dumps(error).decode("latin-1"))
            for attempt in error.attempts:
                self._add(f"{name} attempt", repr(attempt), json.dumps(attempt.as_dict()))
        else:
            self._add(name, repr(result), pickle.dumps(result).decode("latin-1"))
            if isinstance(result, Completion):
                self._add(f"{name} shown", repr(result.finish_reason))
                for method in ("_repr_markdown_", "_repr_html_"):
                    if hasattr(result, method):
                        self._add(f"{name} {method}", str(getattr(result, method)()))

    def _files(self, provider: GigaChat) -> None:
        attached = self._folder / "attached.txt"
        attached.write_text("a text")
        self._call("upload", lambda: provider.upload(attached))
        self._call("files", provider.files)
        self._call("balance", provider.balance)
        self._call("count", lambda: provider.count_tokens("Why?"))
        self._call("attached", lambda: provider.complete("Why?", attach=[attached]))

    def _conversation(self, client: FailoverClient) -> None:
        talk = Conversation(client)
        self._call("conversation", lambda: talk.ask("Why?"))
        talk.save(self._folder / "talk.json")
        self._add("conversation", repr(talk), repr(talk.messages), str(talk._repr_markdown_()))

    def _show(self, client: FailoverClient) -> None:
        page = io.StringIO()
        with redirect_stdout(page):
            self._call("show", lambda: show("Why?", client))
        self._add("shown", page.getvalue())

    def _batch(self, client: FailoverClient) -> None:
        source, output = self._folder / "in.jsonl", self._folder / "out.jsonl"
        source.write_text('"Why?"\n')
        run_file(client, source, output, workers=1)
        report = BatchReport.read(output)
        self._add("batch report", repr(report), report.to_html(), report._repr_html_())

    def _add(self, name: str, *texts: str) -> None:
        self.seen[name] = self.seen.get(name, "") + "\n".join(texts)

    def expect_nothing_of(self, *secrets: str) -> None:
        """Fail where one of the secrets, in any form, can be read."""
        found = [
            f"{form!r} in {name}: ...{text[max(0, text.index(form) - 120) :][: 160 + len(form)]}..."
            for secret in secrets
            for form in forms(secret)
            for name, text in self.seen.items()
            if form in text
        ]
        assert found == []


@pytest.fixture
def observer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Observer]:
    """Return an observer with a folder of its own; what is used is counted."""
    monkeypatch.setenv("LLMPROVIDERS_USAGE", "1")
    with Observer(tmp_path) as watching:
        yield watching


def echo(request: Received) -> str:
    """All that a request carried, as a service in trouble might say it."""
    headers = "; ".join(f"{name}: {value}" for name, value in request.headers)
    body = request.body.decode("latin-1")
    return f"refused {request.target} {headers} {body} {SECRET} {USER}:{SECRET}"


def _as_message(status: int) -> Callable[[str], list[bytes]]:
    def reply(said: str) -> list[bytes]:
        body = dumps({"message": said, "error": {"message": said, "code": status}})
        headers = {"Content-Type": JSON, "x-request-id": said[-400:]}
        return http_response(status, headers, body)

    return reply


def _as_text(said: str) -> list[bytes]:
    return http_response(500, {"Content-Type": "text/plain"}, said.encode())


def _as_event(said: str) -> list[bytes]:
    return http_response(200, {"Content-Type": SSE}, event({"error": {"message": said}}))


def _as_redirect(said: str) -> list[bytes]:
    place = f"http://{USER}:{quote(SECRET, safe='')}@127.0.0.2/?{quote(said)}"
    return http_response(307, {"Location": place, "Content-Type": JSON})


def _as_redirect_on_the_host(said: str) -> list[bytes]:
    return http_response(307, {"Location": f"/{quote(SECRET, safe='')}?{quote(said)}"})


def _as_broken_redirect(said: str) -> list[bytes]:
    return http_response(307, {"Location": f"http://{USER}:{SECRET}@[half:{SECRET}/"})


def _as_status_line(said: str) -> list[bytes]:
    return [f"HTTP/1.1 {said[-200:]}\r\n\r\n".encode()]


def _as_no_http(said: str) -> list[bytes]:
    return [f"{said[-300:]}\r\n\r\n".encode()]


def _as_chunk(said: str) -> list[bytes]:
    head = (
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    return [head, f"{said[-200:]}\r\n".encode()]


def _as_json(said: str) -> list[bytes]:
    return http_response(200, {"Content-Type": JSON}, dumps({"choices": said}))


def _as_bad_json(said: str) -> list[bytes]:
    return http_response(200, {"Content-Type": JSON}, b'{"a": ' + said.encode())


def _as_finish(said: str) -> list[bytes]:
    choice = {"index": 0, "delta": {"refusal": said}, "finish_reason": "content_filter"}
    body = event({"choices": [choice]}) + b"data: [DONE]\n\n"
    return http_response(200, {"Content-Type": SSE, "x-request-id": said[-300:]}, body)


def _as_names(said: str) -> list[bytes]:
    """A whole reply, in which all but the text is an echo."""
    call = {"index": 0, "id": said, "type": said, "more": said}
    message = {
        "role": "assistant",
        "content": TEXT,
        "tool_calls": [{**call, "function": {"name": "f", "arguments": "{}"}}],
        "images": [{"image_url": {"url": f"https://pictures.invalid/{said}"}}],
        "reasoning_details": [{"type": said, "id": said, "signature": said}],
        "functions_state_id": said,
    }
    choice = {"index": 0, "delta": message, "finish_reason": "stop", "native_finish_reason": said}
    chunk = {
        **dict.fromkeys(("id", "object", "model", "system_fingerprint", "provider"), said),
        "choices": [choice],
        "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3, "more": said},
    }
    names = ("x-request-id", "x-session-id", "openai-organization", "server", "set-cookie")
    headers = {"Content-Type": SSE, **dict.fromkeys(names, said[-300:])}
    return http_response(200, headers, event(chunk) + b"data: [DONE]\n\n")


def _as_listing(said: str) -> list[bytes]:
    """Models, files and a balance, whose names are an echo."""
    entry = {**dict.fromkeys(("id", "filename", "purpose", "object", "usage"), said), "value": 1}
    entry = {**entry, "bytes": 1, "created_at": 1, "embedding": [0.5], "index": 0}
    listing = {**entry, "data": [entry], "balance": [entry]}
    return http_response(200, {"Content-Type": JSON}, dumps(listing))


REPLIES = (
    *(_as_message(status) for status in (400, 401, 403, 404, 500, 200)),
    _as_text,
    _as_event,
    _as_redirect,
    _as_redirect_on_the_host,
    _as_broken_redirect,
    _as_status_line,
    _as_no_http,
    _as_chunk,
    _as_json,
    _as_bad_json,
    _as_finish,
    _as_names,
    _as_listing,
)


def echoing(reply: Callable[[str], list[bytes]]) -> Callable[[Connection], None]:
    """A server that says what it was told."""

    def serve(conn: Connection) -> None:
        while not conn.closed:
            conn.run(reply(echo(conn.read_request())))
            conn.close()

    return serve


@dataclass(frozen=True)
class Planted:
    """A provider whose secret comes from one place.

    Attributes:
        name: the place.
        make: the provider for an origin; the folder and the environment are the test's own.
        pickles: whether a pickle of the provider must not hold the secret.
        secrets: what must be seen nowhere.
    """

    name: str
    make: Callable[[str, Path, pytest.MonkeyPatch], Provider]
    pickles: bool = True
    secrets: tuple[str, ...] = field(default=(SECRET,))


def _key_argument(origin: str, folder: Path, env: pytest.MonkeyPatch) -> Provider:
    return OpenAICompatible(base_url=f"{origin}/v1", api_key=SECRET)


def _key_environment(origin: str, folder: Path, env: pytest.MonkeyPatch) -> Provider:
    env.setenv("OPENAI_API_KEY", SECRET)
    env.setenv("OPENAI_BASE_URL", f"{origin}/v1")
    return OpenAICompatible()


def _key_variable(origin: str, folder: Path, env: pytest.MonkeyPatch) -> Provider:
    env.setenv("MY_OWN_KEY", SECRET)
    return OpenAICompatible(base_url=f"{origin}/v1", api_key=KeyVariable("MY_OWN_KEY"))


def _official(cls: type[Provider], **own: Any) -> Callable[..., Provider]:
    def make(origin: str, folder: Path, env: pytest.MonkeyPatch) -> Provider:
        return cls(base_url=f"{origin}/v1", api_key=SECRET, **own)

    return make


def _official_environment(
    cls: type[Provider], variable: str, **own: Any
) -> Callable[..., Provider]:
    def make(origin: str, folder: Path, env: pytest.MonkeyPatch) -> Provider:
        env.setenv(f"LLMPROVIDERS_{cls.__name__.upper()}_BASE_URL", f"{origin}/v1")
        env.setenv(variable, SECRET)
        return cls(**own)

    return make


def _key_file(origin: str, folder: Path, env: pytest.MonkeyPatch) -> Provider:
    path = folder / "the.key"
    path.write_text(f"{SECRET}\n")
    return OpenAICompatible(base_url=f"{origin}/v1", api_key=KeyFile(str(path)))


def _user_info(origin: str, folder: Path, env: pytest.MonkeyPatch) -> Provider:
    host = origin.removeprefix("http://")
    return FlowGpt(base_url=f"http://{USER}:{quote(SECRET, safe='')}@{host}")


def _gigachat(origin: str, **arguments: Any) -> Provider:
    token_module._keepers.clear()
    return GigaChat(base_url=f"{origin}/v1", auth_url=f"{origin}/oauth", **arguments)


def _gigachat_key(origin: str, folder: Path, env: pytest.MonkeyPatch) -> Provider:
    return _gigachat(origin, api_key=GIGACHAT_KEY, token_cache=folder / "tokens.json")


def _gigachat_environment(origin: str, folder: Path, env: pytest.MonkeyPatch) -> Provider:
    env.setenv("GIGACHAT_CREDENTIALS", GIGACHAT_KEY)
    return _gigachat_at(origin, env)


def _gigachat_at(origin: str, env: pytest.MonkeyPatch) -> Provider:
    """One whose addresses the environment names, so that its keys belong there."""
    env.setenv("GIGACHAT_BASE_URL", f"{origin}/v1")
    env.setenv("GIGACHAT_AUTH_URL", f"{origin}/oauth")
    return _gigachat(origin)


def _gigachat_token(origin: str, folder: Path, env: pytest.MonkeyPatch) -> Provider:
    return _gigachat(origin, access_token=SECRET)


def _gigachat_token_environment(origin: str, folder: Path, env: pytest.MonkeyPatch) -> Provider:
    env.setenv("GIGACHAT_ACCESS_TOKEN", SECRET)
    return _gigachat_at(origin, env)


def _user_info_of_auth_url(origin: str, folder: Path, env: pytest.MonkeyPatch) -> Provider:
    host = origin.removeprefix("http://")
    auth_url = f"http://{USER}:{quote(SECRET, safe='')}@{host}/oauth"
    token_module._keepers.clear()
    return GigaChat(base_url=f"{origin}/v1", auth_url=auth_url, api_key="aWQ6a2V5LXNlY3JldA==")


def _user_info_in_the_environment(origin: str, folder: Path, env: pytest.MonkeyPatch) -> Provider:
    host = origin.removeprefix("http://")
    env.setenv("OPENAI_BASE_URL", f"http://{USER}:{quote(SECRET, safe='')}@{host}/v1")
    return OpenAICompatible()


def _configuration(origin: str, folder: Path, env: pytest.MonkeyPatch) -> Provider:
    (folder / "the.key").write_text(SECRET)
    (folder / "config.toml").write_text(
        f"[[provider]]\ntype = 'openai'\nbase_url = '{origin}/v1'\napi_key_file = 'the.key'\n"
    )
    return load(folder / "config.toml").providers[0].make()


def _session_proxy(origin: str, folder: Path, env: pytest.MonkeyPatch) -> Provider:
    host = origin.removeprefix("http://")
    session = requests.Session()
    session.proxies = {"http": f"http://{USER}:{quote(SECRET, safe='')}@{host}"}
    return FlowGpt(base_url="http://service.invalid", session=session)


def _proxy_argument(origin: str, folder: Path, env: pytest.MonkeyPatch) -> Provider:
    host = origin.removeprefix("http://")
    proxy = f"http://{USER}:{quote(SECRET, safe='')}@{host}"
    return FlowGpt(base_url="http://service.invalid", proxy=proxy)


def _proxy_to_https(origin: str, folder: Path, env: pytest.MonkeyPatch) -> Provider:
    host = origin.removeprefix("http://")
    proxy = f"http://{USER}:{quote(SECRET, safe='')}@{host}"
    return FlowGpt(base_url="https://service.invalid", proxy=proxy)


def _proxy_environment(origin: str, folder: Path, env: pytest.MonkeyPatch) -> Provider:
    host = origin.removeprefix("http://")
    env.setenv("HTTP_PROXY", f"http://{USER}:{quote(SECRET, safe='')}@{host}")
    return FlowGpt(base_url="http://service.invalid")


def _own_proxy_environment(origin: str, folder: Path, env: pytest.MonkeyPatch) -> Provider:
    host = origin.removeprefix("http://")
    env.setenv("LLMPROVIDERS_PROXY", f"socks5h://{USER}:{quote(SECRET, safe='')}@{host}")
    return FlowGpt(base_url="http://service.invalid")


def _proxy_of_the_call(origin: str, folder: Path, env: pytest.MonkeyPatch) -> Provider:
    host = origin.removeprefix("http://")
    proxy = f"http://{USER}:{quote(SECRET, safe='')}@{host}"

    class Asked(FlowGpt):
        def generate(self, request: Request, scope: CancelScope | None = None) -> Generator[str]:
            return super().generate(replace(request, proxy=proxy), scope)

    return Asked(base_url="http://service.invalid")


PLANTED = (
    Planted("argument", _key_argument, pickles=False),
    Planted("environment", _key_environment),
    Planted("a variable of one's own", _key_variable),
    Planted("file", _key_file),
    Planted("GLM's key", _official(GLM), pickles=False),
    Planted("YandexGPT's key", _official(YandexGPT, folder_id="b1g-folder"), pickles=False),
    Planted("DeepSeek's key", _official(DeepSeek), pickles=False),
    Planted("GLM's variable", _official_environment(GLM, "ZAI_API_KEY")),
    Planted(
        "YandexGPT's variable",
        _official_environment(YandexGPT, "YC_API_KEY", folder_id="b1g-folder"),
    ),
    Planted("DeepSeek's variable", _official_environment(DeepSeek, "DEEPSEEK_API_KEY")),
    Planted("user-info of the address", _user_info, pickles=False),
    Planted("GigaChat's key", _gigachat_key, pickles=False, secrets=(SECRET, GIGACHAT_KEY)),
    Planted("GigaChat's variable", _gigachat_environment, secrets=(SECRET, GIGACHAT_KEY)),
    Planted("GigaChat's token", _gigachat_token, pickles=False),
    Planted("GigaChat's token variable", _gigachat_token_environment),
    Planted("user-info of the token service", _user_info_of_auth_url, pickles=False),
    Planted("user-info in the environment", _user_info_in_the_environment),
    Planted("a configuration", _configuration),
    Planted("a session's proxy", _session_proxy, pickles=False),
    Planted("proxy of the call", _proxy_of_the_call, pickles=False),
    Planted("proxy", _proxy_argument, pickles=False),
    Planted("proxy to https", _proxy_to_https, pickles=False),
    Planted("proxy of the environment", _proxy_environment),
    Planted("proxy of our variable", _own_proxy_environment),
)


@pytest.mark.parametrize("planted", PLANTED[:-1], ids=[p.name for p in PLANTED[:-1]])
def test_a_secret_that_is_echoed_is_seen_nowhere(
    planted: Planted,
    raw_server: RawServerFactory,
    observer: Observer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whatever a service says back, no message, log, pickle, file or report has the secret."""
    for reply in REPLIES:
        server = raw_server(echoing(reply))
        provider = planted.make(f"http://127.0.0.1:{server.port}", tmp_path, monkeypatch)
        observer.watch(provider, pickles=planted.pickles)
        assert server.connections
    observer.expect_nothing_of(*planted.secrets)


GIVEN: tuple[dict[str, Any], ...] = (
    {"extra_headers": {"X-Password": "{}"}},
    {"extra_headers": {"x-passwd": "{}"}},
    {"extra_headers": {"X-Pass": "{}"}},
    {"extra_headers": {"X-Client-Credentials": "{}"}},
    {"extra_headers": {"X-Hub-Signature-256": "{}"}},
    {"extra_headers": {"Ocp-Apim-Subscription-Key": "{}"}},
    {"extra_body": {"api_key": "{}"}},
    {"extra_body": {"clientSecret": "{}"}},
    {"extra_body": {"auth": {"token": "{}"}}},
    {"extra_body": {"servers": [{"headers": {"Authorization": "Bearer {}"}}]}},
    {"extra_body": {"passwords": ["{}"]}},
    {"tools": [{"type": "mcp", "headers": {"Authorization": "Bearer {}"}}]},
    {"tools": [{"type": "mcp", "server_url": "https://x.example", "authorization": "{}"}]},
)


def _filled(given: Any, secret: str) -> Any:
    return json.loads(json.dumps(given).replace("{}", secret))


@pytest.mark.parametrize("given", GIVEN, ids=str)
def test_a_secret_of_one_call_is_not_said(
    given: dict[str, Any], raw_server: RawServerFactory
) -> None:
    """A header or a field with a name of a credential is masked where the service says it back."""
    server = raw_server(echoing(_as_message(400)))
    secret = f"s3cret-{GIVEN.index(given)}-of-the-call"
    provider = OpenAICompatible(base_url=f"http://127.0.0.1:{server.port}/v1", model="m")
    with provider, pytest.raises(LLMError) as caught:
        provider.complete("Why?", **_filled(given, secret))
    sent = server.requests[-1]
    assert secret in sent.body.decode() + str(sent.headers)
    assert secret not in f"{caught.value} {vars(caught.value)!r}"
    assert "refused /v1/chat/completions" in str(caught.value)


def test_an_ordinary_field_is_said(raw_server: RawServerFactory) -> None:
    """What the service says about other fields of the body stays readable."""
    server = raw_server(echoing(_as_message(400)))
    provider = OpenAICompatible(base_url=f"http://127.0.0.1:{server.port}/v1", model="m")
    fields = {"key_points": "lighthouse", "tokenizer": "cl100k_base", "prompt_cache_key": "weather"}
    with provider, pytest.raises(LLMError, match="lighthouse") as caught:
        provider.complete("Why?", extra_body=fields)
    assert "cl100k_base" in str(caught.value)


@pytest.mark.parametrize("planted", PLANTED, ids=[planted.name for planted in PLANTED])
def test_a_secret_is_seen_nowhere_when_nobody_answers(
    planted: Planted,
    refused_port: int,
    observer: Observer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What the lower libraries say about a failed connection holds no secret."""
    provider = planted.make(f"http://127.0.0.1:{refused_port}", tmp_path, monkeypatch)
    observer.watch(provider, pickles=planted.pickles)
    observer.expect_nothing_of(*planted.secrets)


@pytest.mark.parametrize("reply", REPLIES)
def test_a_fetched_token_is_in_the_token_cache_alone(
    reply: Callable[[str], list[bytes]],
    raw_server: RawServerFactory,
    observer: Observer,
    tmp_path: Path,
) -> None:
    """The token that the service gave is echoed by it, and is seen in its own file alone."""
    token = "eyJ0b2tlbiI6InBsYW50ZWQifQ.of-tests"

    def serve(conn: Connection) -> None:
        request = conn.read_request()
        if request.target == "/oauth":
            body = dumps({"access_token": token, "expires_at": 4102444800000})
            conn.run(http_response(200, {"Content-Type": JSON, "Connection": "close"}, body))
        else:
            conn.run(reply(echo(request) + token))

    server = raw_server(serve)
    origin = f"http://127.0.0.1:{server.port}"
    provider = _gigachat(origin, api_key=GIGACHAT_KEY, token_cache=tmp_path / "tokens.json")
    observer.watch(provider, pickles=False)
    assert token in observer.seen.pop("tokens.json")
    observer.expect_nothing_of(token, GIGACHAT_KEY)


@pytest.mark.parametrize("reply", REPLIES)
def test_a_pages_nonce_and_cookies_are_seen_nowhere(
    reply: Callable[[str], list[bytes]], raw_server: RawServerFactory, observer: Observer
) -> None:
    """ChatGptt's nonce and session cookie do not show when the site echoes them."""
    nonce, cookie = "n0nce-of-page", "c00kie-of-session"

    def serve(conn: Connection) -> None:
        request = conn.read_request()
        if request.target == "/":
            headers = {"Content-Type": "text/html", "Set-Cookie": f"sid={cookie}"}
            conn.run(http_response(200, {**headers, "Connection": "close"}, PAGE))
        else:
            conn.run(reply(f"{echo(request)} {nonce} {cookie}"))
            conn.close()

    server = raw_server(serve)
    observer.watch(ChatGptt(base_url=f"http://127.0.0.1:{server.port}"), pickles=True)
    observer.expect_nothing_of(nonce, cookie)


def test_a_password_in_a_redirect_is_seen_nowhere(
    raw_server: RawServerFactory, observer: Observer
) -> None:
    """User-info in a redirect is not followed, and does not show when the service says it."""
    password = "p4ssword-of-redirect"

    def serve(conn: Connection) -> None:
        request = conn.read_request()
        if len(server.requests) % 2:
            place = f"http://{USER}:{password}@127.0.0.1:{server.port}/moved"
            conn.run(http_response(307, {"Location": place, "Connection": "close"}))
        else:
            conn.run(_as_message(500)(echo(request) + password))
            conn.close()

    server = raw_server(serve)
    observer.watch(FlowGpt(base_url=f"http://127.0.0.1:{server.port}"), pickles=True)
    assert not any(request.target == "/moved" for request in server.requests)
    observer.expect_nothing_of(password)


def test_a_good_reply_shows_no_secret_either(
    raw_server: RawServerFactory, observer: Observer
) -> None:
    """Nothing that comes with a whole reply holds the key that it was asked with."""
    server = raw_server(SERVICES[4].reply(stream=True))
    provider = OpenAICompatible(base_url=f"http://127.0.0.1:{server.port}/v1", api_key=SECRET)
    observer.watch(provider, pickles=False)
    assert "OpenAICompatible" in observer.seen["usage"]
    observer.expect_nothing_of(SECRET)


COMMANDS = (
    ("ask", "Why?"),
    ("ask", "Why?", "--json", "-vv"),
    ("ask", "Why?", "--no-stream", "-o", "said.txt"),
    ("chat", "-v"),
    ("batch", "in.jsonl", "-o", "out.jsonl", "-vv", "--report", "report.html"),
    ("providers", "--check"),
    ("providers", "--json"),
    ("doctor", "--live"),
    ("health",),
    ("usage",),
    ("usage", "--json"),
    ("config", "show"),
)


@pytest.mark.parametrize("name", ["OPENAI_API_KEY", "GIGACHAT_CREDENTIALS", "LLMPROVIDERS_PROXY"])
def test_the_command_line_shows_no_secret(
    name: str, raw_server: RawServerFactory, tmp_path: Path, home: Path
) -> None:
    """No command, however talkative, writes a secret to its streams or to any file."""
    server = raw_server(echoing(_as_message(500)))
    origin = f"http://127.0.0.1:{server.port}"
    proxy = f"http://{USER}:{quote(SECRET, safe='')}@127.0.0.1:{server.port}"
    env, provider = {
        "OPENAI_API_KEY": ({name: SECRET, "OPENAI_BASE_URL": f"{origin}/v1"}, "openai"),
        "GIGACHAT_CREDENTIALS": (
            {
                name: GIGACHAT_KEY,
                "GIGACHAT_BASE_URL": f"{origin}/v1",
                "GIGACHAT_AUTH_URL": f"{origin}/oauth",
            },
            "gigachat",
        ),
        "LLMPROVIDERS_PROXY": (
            {name: proxy, "LLMPROVIDERS_FLOWGPT_BASE_URL": "http://service.invalid"},
            "flowgpt",
        ),
    }[name]
    (tmp_path / "in.jsonl").write_text('"Why?"\n')
    (tmp_path / "config.toml").write_text(
        f"[[provider]]\ntype = '{provider}'\n[failover]\nattempts = 2\n"
    )
    env |= {"LLMPROVIDERS_CONFIG": str(tmp_path / "config.toml"), "LLMPROVIDERS_USAGE": "1"}
    seen = {}
    for words in COMMANDS:
        ran = run(*words, stdin="Why?\n", env=env, cwd=tmp_path)
        seen[" ".join(words)] = ran.out + ran.err
    assert server.requests
    for path in (*tmp_path.rglob("*"), *home.rglob("*")):
        if path.is_file():
            seen[path.name] = path.read_bytes().decode("latin-1")
    assert {"health.json", "out.jsonl", "report.html"} <= seen.keys()
    secrets = {form for secret in (SECRET, GIGACHAT_KEY) for form in forms(secret)}
    assert [(f, words) for words, text in seen.items() for f in secrets if f in text] == []


def test_a_notebook_shows_no_secret(raw_server: RawServerFactory) -> None:
    """Neither a cell's output nor the traceback of its error has the key."""
    server = raw_server(echoing(_as_message(500)))
    base_url = f"http://127.0.0.1:{server.port}/v1"
    cells = (
        "%load_ext llmproviders",
        "%%llm -vv -p openai\nWhy?",
        "%%llm --no-stream --trace -p openai\nWhy?",
        "%llm_config -p openai",
        "%xmode Context",
        "from llmproviders import *\nclient = FailoverClient([OpenAICompatible()], attempts=2)",
        "client.complete('Why?')",
        "from llmproviders.notebook import show\nshow('Why?', client)",
        "client.report()",
        "client",
        "client.providers",
    )
    with kernel({"OPENAI_API_KEY": SECRET, "OPENAI_BASE_URL": base_url}) as notebook:
        seen = {cell: repr(notebook.run(cell)) for cell in cells}
    assert "ServerError" in seen["client.complete('Why?')"]
    assert [(cell, f) for cell, text in seen.items() for f in forms(SECRET) if f in text] == []
