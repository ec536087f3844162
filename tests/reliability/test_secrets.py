"""Keys, tokens, passwords and nonces, planted wherever they come from, turn up nowhere."""

from __future__ import annotations

import base64
import io
import json
import logging
import pickle
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from llmproviders import ChatGptt, FailoverClient, FlowGpt, GigaChat, LLMError, OpenAICompatible
from llmproviders import _token as token_module
from llmproviders._secret import KeyFile, KeyVariable
from llmproviders.batch import run_file
from llmproviders.provider import Provider
from llmproviders.results import Completion
from tests.conftest import RawServerFactory
from tests.reliability.services import JSON, PAGE, SERVICES, SSE, dumps, event
from tests.support.http_bytes import http_response
from tests.support.rawserver import Connection, Request

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
        if hasattr(provider, "list_models"):
            self._call("models", provider.list_models)
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
        self._add("log", self._log.getvalue())
        for path in self._folder.rglob("*"):
            if path.is_file() and path.name not in ("in.jsonl", "the.key"):
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

    def _batch(self, client: FailoverClient) -> None:
        source = self._folder / "in.jsonl"
        source.write_text('"Why?"\n')
        run_file(client, source, self._folder / "out.jsonl", workers=1)

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
def observer(tmp_path: Path) -> Iterator[Observer]:
    """Return an observer with a folder of its own."""
    token_module._keepers.clear()
    with Observer(tmp_path) as watching:
        yield watching


def echo(request: Request) -> str:
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


REPLIES = (
    *(_as_message(status) for status in (400, 401, 403, 404, 500, 200)),
    _as_text,
    _as_event,
    _as_redirect,
    _as_broken_redirect,
    _as_status_line,
    _as_no_http,
    _as_chunk,
    _as_json,
    _as_bad_json,
    _as_finish,
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
    return OpenAICompatible(base_url=f"{origin}/v1")


def _key_variable(origin: str, folder: Path, env: pytest.MonkeyPatch) -> Provider:
    env.setenv("MY_OWN_KEY", SECRET)
    return OpenAICompatible(base_url=f"{origin}/v1", api_key=KeyVariable("MY_OWN_KEY"))


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
    return _gigachat(origin)


def _gigachat_token(origin: str, folder: Path, env: pytest.MonkeyPatch) -> Provider:
    return _gigachat(origin, access_token=SECRET)


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


PLANTED = (
    Planted("argument", _key_argument, pickles=False),
    Planted("environment", _key_environment),
    Planted("a variable of one's own", _key_variable),
    Planted("file", _key_file),
    Planted("user-info of the address", _user_info, pickles=False),
    Planted("GigaChat's key", _gigachat_key, pickles=False, secrets=(SECRET, GIGACHAT_KEY)),
    Planted("GigaChat's variable", _gigachat_environment, secrets=(SECRET, GIGACHAT_KEY)),
    Planted("GigaChat's token", _gigachat_token, pickles=False),
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


def test_a_fetched_token_is_in_the_token_cache_alone(
    raw_server: RawServerFactory, observer: Observer, tmp_path: Path
) -> None:
    """The token that the service gave is echoed by it, and is seen in its own file alone."""
    token = "eyJ0b2tlbiI6InBsYW50ZWQifQ.of-tests"

    def serve(conn: Connection) -> None:
        request = conn.read_request()
        if request.target == "/oauth":
            body = dumps({"access_token": token, "expires_at": 4102444800000})
            conn.run(http_response(200, {"Content-Type": JSON, "Connection": "close"}, body))
        else:
            conn.run(_as_message(500)(echo(request) + token))

    server = raw_server(serve)
    origin = f"http://127.0.0.1:{server.port}"
    provider = _gigachat(origin, api_key=GIGACHAT_KEY, token_cache=tmp_path / "tokens.json")
    observer.watch(provider, pickles=False)
    assert token in observer.seen.pop("tokens.json")
    observer.expect_nothing_of(token, GIGACHAT_KEY)


def test_a_pages_nonce_and_cookies_are_seen_nowhere(
    raw_server: RawServerFactory, observer: Observer
) -> None:
    """ChatGptt's nonce and session cookie do not show when the site echoes them."""
    nonce, cookie = "n0nce-of-page", "c00kie-of-session"

    def serve(conn: Connection) -> None:
        request = conn.read_request()
        if request.target == "/":
            headers = {"Content-Type": "text/html", "Set-Cookie": f"sid={cookie}"}
            conn.run(http_response(200, {**headers, "Connection": "close"}, PAGE))
        else:
            body = dumps({"status": "error", "msg": echo(request)})
            conn.run(http_response(200, {"Content-Type": JSON, "Connection": "close"}, body))

    server = raw_server(serve)
    observer.watch(ChatGptt(base_url=f"http://127.0.0.1:{server.port}"), pickles=True)
    observer.expect_nothing_of(nonce, cookie)


def test_a_good_reply_shows_no_secret_either(
    raw_server: RawServerFactory, observer: Observer
) -> None:
    """Nothing that comes with a whole reply holds the key that it was asked with."""
    server = raw_server(SERVICES[4].reply(stream=True))
    provider = OpenAICompatible(base_url=f"http://127.0.0.1:{server.port}/v1", api_key=SECRET)
    observer.watch(provider, pickles=False)
    observer.expect_nothing_of(SECRET)
