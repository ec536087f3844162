"""Keys and passwords do not show where tools look: in local variables, attributes, debug output."""

from __future__ import annotations

import base64
import http.client
import json
import logging
import pickle
import traceback
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import requests
import trustme

from llmproviders import (
    GLM,
    AuthenticationError,
    ChatGptt,
    DeepSeek,
    FailoverClient,
    FlowGpt,
    GigaChat,
    InvalidRequestError,
    LLMError,
    OpenAICompatible,
    YandexGPT,
)
from llmproviders._account import tokens as token_module
from llmproviders._account.keys import KeyFile, KeyVariable
from llmproviders._redact import Redacted, Secret
from llmproviders._runtime.scope import CancelScope
from llmproviders.batch import run_file
from llmproviders.provider import Call, Fetch, Provider, Reply, Request
from llmproviders.providers import _finish_words
from llmproviders.results import FinishReason
from tests.conftest import RawServerFactory
from tests.reliability.services import JSON, PAGE, SSE, TEXT, TOKEN, dumps, event
from tests.support.calls import Canned, Sender, with_sender
from tests.support.http_bytes import chunked, http_response
from tests.support.rawserver import Connection, Reset

KEY = "sk-pl4nted-key-0123456789"
PASSWORD = "pl4nted-password"
GIGACHAT_KEY = base64.b64encode(f"client:{PASSWORD}".encode()).decode()
LOGIN = base64.b64encode(f"me:{PASSWORD}".encode()).decode()
PLANTED = (KEY, PASSWORD, GIGACHAT_KEY, LOGIN, "t0ken-of-service", "n0nce-of-page", "c00kie")


def expect_nothing_of(*texts: str) -> None:
    """Fail where a planted secret, or a good part of one, can be read."""
    parts = [secret[:n] for secret in PLANTED for n in (len(secret), 10)]
    parts += [secret[-10:] for secret in PLANTED]
    assert [(part, text) for text in texts for part in parts if part in text] == []


def with_locals(error: BaseException) -> str:
    """A traceback as error reporters render it: with the local variables of every function."""
    return "".join(traceback.TracebackException.from_exception(error, capture_locals=True).format())


def raised_by(call: Callable[[], Any]) -> BaseException:
    """What ``call`` raises; this function's own frame holds no secret."""
    try:
        call()
    except BaseException as error:  # noqa: BLE001 - whatever it is
        return error
    raise AssertionError("nothing was raised")


def _openai(origin: str, **arguments: Any) -> Provider:
    return OpenAICompatible(base_url=f"{origin}/v1", api_key=KEY, **arguments)


def _gigachat(origin: str, **arguments: Any) -> Provider:
    token_module._keepers.clear()
    return GigaChat(
        base_url=f"{origin}/v1", auth_url=f"{origin}/oauth", api_key=GIGACHAT_KEY, **arguments
    )


def _chatgptt(origin: str, **arguments: Any) -> Provider:
    return ChatGptt(base_url=origin, **arguments)


def _official(cls: type[Provider], **own: Any) -> Callable[..., Provider]:
    def make(origin: str, **arguments: Any) -> Provider:
        return cls(base_url=f"{origin}/v1", api_key=KEY, **own, **arguments)

    return make


def _gigachat_of_a_user(origin: str, **arguments: Any) -> Provider:
    token_module._keepers.clear()
    return GigaChat(base_url=f"{origin}/v1", user="me", password=PASSWORD, **arguments)


MAKERS = (
    *(_openai, _gigachat, _gigachat_of_a_user, _chatgptt),
    *(_official(GLM), _official(DeepSeek), _official(YandexGPT, folder_id="b1g-folder")),
)


def failing(script: list[Any]) -> Callable[[Connection], None]:
    """A server whose token and page are good, and whose chat is ``script``."""

    def serve(conn: Connection) -> None:
        request = conn.read_request()
        if request.target in ("/oauth", "/v1/token"):
            conn.run(http_response(200, {"Content-Type": JSON, "Connection": "close"}, TOKEN))
        elif request.target == "/":
            head = {"Content-Type": "text/html", "Set-Cookie": "sid=c00kie", "Connection": "close"}
            conn.run(http_response(200, head, PAGE))
        else:
            conn.run(script)

    return serve


FAILURES: dict[str, list[Any]] = {
    "a server's error": http_response(500, {"Content-Type": JSON}, dumps({"error": "why"})),
    "no reply": [],
    "a reset": [Reset()],
    "no HTTP": [b"nothing like it\r\n\r\n"],
    "cut": http_response(200, {"Content-Type": SSE}, chunked([event({"choices": []})], end=False)),
    "bad JSON": http_response(200, {"Content-Type": SSE}, b"data: {\n\n"),
}


@pytest.mark.parametrize("own", [True, False], ids=["own connections", "a session"])
@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.parametrize("make", MAKERS)
def test_a_traceback_with_local_variables_shows_no_secret(
    make: Callable[..., Provider], failure: str, own: bool, raw_server: RawServerFactory
) -> None:
    """Neither key, token, nonce nor cookie is a local variable of any function that failed."""
    server = raw_server(failing(FAILURES[failure]))
    provider = make(server.url, session=None if own else requests.Session())
    client = FailoverClient([provider], attempts=1)
    for asked in (provider, client):
        error = raised_by(lambda asked=asked: asked.complete("Why?"))  # type: ignore[misc]
        assert isinstance(error, LLMError)
        expect_nothing_of(with_locals(error), *(with_locals(a.error) for a in error.attempts))  # type: ignore[arg-type]
    error = raised_by(lambda: list(provider.stream("Why?")))
    expect_nothing_of(with_locals(error))


@pytest.mark.parametrize("scheme", ["http", "socks5h"])
@pytest.mark.parametrize("target", ["http", "https"])
def test_a_traceback_shows_no_password_of_a_proxy(
    scheme: str, target: str, refused_port: int
) -> None:
    """A proxy's password, given to the provider or to a call, is no local variable either."""
    proxy = f"{scheme}://me:{PASSWORD}@127.0.0.1:{refused_port}"
    url = f"{target}://service.invalid"
    for call in (
        lambda: FlowGpt(base_url=url, proxy=proxy).complete("Why?"),
        lambda: FlowGpt(base_url=url).complete("Why?", proxy=proxy),
        lambda: list(FlowGpt(base_url=url).stream("Why?", proxy=proxy)),
        lambda: FailoverClient([FlowGpt(base_url=url)], attempts=1).complete("?", proxy=proxy),
    ):
        error = raised_by(call)
        assert isinstance(error, LLMError)
        shown = with_locals(error)
        # The frames of this function come last, with the proxy that it made up.
        expect_nothing_of(shown.replace(repr(proxy), ""))


@pytest.mark.parametrize("own", [True, False], ids=["own connections", "a session"])
def test_a_traceback_of_an_interrupt_shows_no_secret(
    own: bool, raw_server: RawServerFactory, caplog: pytest.LogCaptureFixture
) -> None:
    """What a signal's handler raises in the middle of a call takes no key along."""

    def interrupt(record: Any) -> bool:
        raise KeyboardInterrupt

    server = raw_server(failing(FAILURES["no reply"]))
    provider = _openai(server.url, session=None if own else requests.Session())
    log = logging.getLogger("urllib3.connectionpool")
    log.addFilter(interrupt)
    try:
        with caplog.at_level(logging.DEBUG, log.name):
            error = raised_by(lambda: provider.complete("Why?"))
    finally:
        log.removeFilter(interrupt)
    assert type(error) is KeyboardInterrupt
    expect_nothing_of(with_locals(error))


def test_what_the_caller_was_handling_keeps_its_variables(refused_port: int) -> None:
    """Only the functions of the failed call forget their local variables, never the caller's."""

    def fail() -> None:
        telling = "of the caller"
        raise KeyError(telling[:2])

    try:
        fail()
    except KeyError:
        error = raised_by(lambda: _openai(f"http://127.0.0.1:{refused_port}").complete("Why?"))
    assert "telling = 'of the caller'" in with_locals(error)


MADE_WRONGLY: tuple[Callable[[], Any], ...] = (
    lambda: OpenAICompatible(api_key=KEY, base_url="nowhere"),
    lambda: OpenAICompatible(api_key=KEY, base_url=f"http://me:{PASSWORD}@a b/v1"),
    lambda: OpenAICompatible(base_url=KEY),
    lambda: OpenAICompatible(api_key=KEY, proxy=f"http://me:{PASSWORD}@a:port"),
    lambda: OpenAICompatible(api_key=KEY, timeout=-1),
    lambda: GigaChat(api_key=GIGACHAT_KEY, access_token=KEY, base_url="nowhere"),
    lambda: GigaChat(api_key=GIGACHAT_KEY, scope=" "),
    lambda: FlowGpt().complete("Why?", proxy=f"socks5://me:{PASSWORD}@:"),
    lambda: FlowGpt().stream("Why?", proxy=f"http://me:{PASSWORD}/@a"),
    lambda: GigaChat(api_key=f"client:{PASSWORD}").check_credentials(),
)


@pytest.mark.parametrize("make", MADE_WRONGLY)
def test_an_argument_that_is_turned_down_takes_no_secret_along(make: Callable[[], Any]) -> None:
    """The error of a wrong argument shows no key that stood beside it, nor a password in it."""
    error = raised_by(make)
    assert isinstance(error, LLMError)
    expect_nothing_of(with_locals(error))


@pytest.mark.parametrize("make", MAKERS)
def test_attributes_and_prepared_calls_show_no_secret(
    make: Callable[..., Provider], raw_server: RawServerFactory
) -> None:
    """``vars`` of a provider and of what it holds, and a call that it prepared, show no secret."""
    server = raw_server(failing(FAILURES["a server's error"]))
    provider = make(
        server.url.replace("http://", f"http://me:{PASSWORD}@"),
        proxy=f"http://me:{PASSWORD}@127.0.0.1:{server.port}",
    )
    request = Request.of("Why?", proxy=f"http://me:{PASSWORD}@127.0.0.1:9", params={})
    fetch = Fetch(make(server.url)._transport.open, CancelScope())
    call = provider.prepare(Request.of("Why?", model="m", params={}), fetch)
    shown = (vars(provider), request, call, call.headers, call.form, vars(fetch), provider)
    expect_nothing_of(*map(repr, shown))
    expect_nothing_of(repr(vars(provider._transport)))
    assert provider.base_url.startswith(f"http://me:{PASSWORD}@")


def test_a_replys_cookies_do_not_show(raw_server: RawServerFactory) -> None:
    """The cookies that a provider's author gets are texts as any, but are masked in a ``repr``."""
    server = raw_server(http_response(200, {"Set-Cookie": "sid=c00kie"}, b""))
    provider = FlowGpt(base_url=server.url)
    with closing(provider._transport.open(Call("GET", server.url), CancelScope())) as reply:
        assert f"{reply.cookies['sid']}" == "c00kie"
        expect_nothing_of(repr(reply.cookies))


def test_a_pickle_of_a_provider_carries_its_key() -> None:
    """What is hidden from eyes is there where a provider travels to another process."""
    [travelled] = pickle.loads(pickle.dumps([_openai("http://localhost")]))
    call = travelled.prepare(Request.of("Why?", model="m", params={}), None)
    assert call.authorization == f"Bearer {KEY}"


def test_a_secret_is_a_text_that_does_not_show() -> None:
    """A ``Secret`` equals its text and can be sent, but no way of printing it shows it."""
    secret = Secret(KEY)
    assert secret == secret.value == KEY
    assert type(secret.value) is str
    assert secret.encode() == KEY.encode()
    assert pickle.loads(pickle.dumps(secret)) == KEY
    shown = (repr(secret), str(secret), f"{secret}", f"{secret:>30}", "%s" % secret)  # noqa: UP031
    expect_nothing_of(*shown, repr({"key": [secret]}))
    assert repr(Redacted(f"http://me:{PASSWORD}@host/")) == "'http://***@host/'"


@pytest.fixture
def debug_output(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[[], str]:
    """Have ``http.client`` print what it sends and receives; return what reads it."""
    monkeypatch.setattr(http.client.HTTPConnection, "debuglevel", 1)
    return lambda: capsys.readouterr().out


def test_the_debug_output_of_http_client_shows_no_key(
    raw_server: RawServerFactory, debug_output: Callable[[], str]
) -> None:
    """The head of a request is printed with masks, and sent without.

    What the service sends, a cookie above all, is printed by ``http.client`` as it came.
    """
    for make in MAKERS:
        server = raw_server(failing(FAILURES["no HTTP"]))
        raised_by(lambda make=make, server=server: make(server.url).complete("Why?"))  # type: ignore[misc]
        sent = [r.header("Authorization") or r.header("Cookie") for r in server.requests]
        shown = debug_output()
        assert shown.count(": ***") == len([value for value in sent if value])
        said = "\n".join(line for line in shown.splitlines() if line.startswith("send:"))
        assert not any(value in said for value in sent if value)
        assert sent[-1] in (f"Bearer {KEY}", "Bearer t0ken-of-service", "sid=c00kie")


@pytest.mark.parametrize("target", ["http", "https"])
def test_the_debug_output_of_http_client_shows_no_login_of_a_proxy(
    target: str, raw_server: RawServerFactory, debug_output: Callable[[], str]
) -> None:
    """A proxy gets its login, on a tunnel and without one, and nobody sees it."""
    server = raw_server(http_response(502))
    proxy = f"http://me:{quote(PASSWORD)}@127.0.0.1:{server.port}"
    raised_by(lambda: FlowGpt(base_url=f"{target}://service.invalid", proxy=proxy).complete("Why?"))
    shown = debug_output()
    assert "Proxy-Authorization: ***" in shown
    expect_nothing_of(shown)
    assert server.requests[0].header("Proxy-Authorization") == f"Basic {LOGIN}"


def test_a_key_arrives_over_tls(
    raw_server: RawServerFactory, ca: trustme.CA, ca_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A header that is handed over late is part of an ordinary request over TLS, too."""
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(ca_file))
    server = raw_server(http_response(500, {"Content-Type": JSON}, b"{}"), tls=ca)
    raised_by(lambda: _openai(server.url).complete("Why?"))
    [request] = server.requests
    assert request.header("Authorization") == f"Bearer {KEY}"
    assert json.loads(request.body)["model"]


# -- keys with something inside


INSIDE = ("\n", "\r\n", "\r", " ", "\t", "\x0b", "\x85", "\u2028", "\u00a0", "й", "\n\n")
SECOND = "sk-s3cond-key-in-the-file"


def _from_argument(text: str, folder: Path, env: pytest.MonkeyPatch) -> tuple[Provider, str]:
    return OpenAICompatible(api_key=text), "api_key"


def _from_environment(text: str, folder: Path, env: pytest.MonkeyPatch) -> tuple[Provider, str]:
    env.setenv("OPENAI_API_KEY", text)
    return OpenAICompatible(), "OPENAI_API_KEY"


def _from_variable(text: str, folder: Path, env: pytest.MonkeyPatch) -> tuple[Provider, str]:
    env.setenv("MY_KEY", text)
    return OpenAICompatible(api_key=KeyVariable("MY_KEY")), "MY_KEY"


def _from_file(text: str, folder: Path, env: pytest.MonkeyPatch) -> tuple[Provider, str]:
    (folder / "the.key").write_bytes(text.encode())
    return OpenAICompatible(api_key=KeyFile(str(folder / "the.key"))), "the.key"


def _gigachat_key(text: str, folder: Path, env: pytest.MonkeyPatch) -> tuple[Provider, str]:
    env.setenv("GIGACHAT_CREDENTIALS", text)
    return GigaChat(), "GIGACHAT_CREDENTIALS"


def _gigachat_token(text: str, folder: Path, env: pytest.MonkeyPatch) -> tuple[Provider, str]:
    env.setenv("GIGACHAT_ACCESS_TOKEN", text)
    return GigaChat(), "GIGACHAT_ACCESS_TOKEN"


def _gigachat_given_token(text: str, folder: Path, env: pytest.MonkeyPatch) -> tuple[Provider, str]:
    return GigaChat(access_token=text), "access_token"


PLACES = (
    _from_argument,
    _from_environment,
    _from_variable,
    _from_file,
    _gigachat_key,
    _gigachat_token,
    _gigachat_given_token,
)


# No variable can hold a NUL.
@pytest.mark.parametrize(
    ("place", "inside"),
    [
        *((place, inside) for place in PLACES for inside in INSIDE),
        (_from_argument, "\x00"),
        (_from_file, "\x00"),
    ],
)
def test_a_key_with_something_inside_is_refused_without_being_shown(
    place: Callable[..., tuple[Provider, str]],
    inside: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A line end, a space or a strange letter in a key names where it is, and shows none of it."""
    provider, name = place(f" {KEY}{inside}{SECOND}\r\n", tmp_path, monkeypatch)
    for call in (
        lambda: provider.complete("Why?"),
        provider.list_models,
        provider.check_credentials,
        lambda: FailoverClient([provider], attempts=1).complete("Why?"),
    ):
        error = raised_by(call)
        while error.__cause__ is not None and not isinstance(error, AuthenticationError):
            error = error.__cause__
        assert isinstance(error, AuthenticationError), error
        assert name in str(error)
        shown = with_locals(error)
        expect_nothing_of(shown)
        assert SECOND not in shown


@pytest.mark.parametrize("place", PLACES)
def test_a_key_with_something_inside_is_in_no_row(
    place: Callable[..., tuple[Provider, str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Nor is any part of it in a batch's file, in a log, or in what is remembered of failures."""
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("LLMPROVIDERS_USAGE", "1")
    given = tmp_path / "given"
    given.mkdir()
    kept = tmp_path / "kept"
    kept.mkdir()
    provider, _ = place(f"{KEY}\n{SECOND}", given, monkeypatch)
    (kept / "in.jsonl").write_text('{"prompt": "a"}\n{"prompt": "b"}\n')
    client = FailoverClient([provider, provider], attempts=1, health=kept / "health.json")
    summary = run_file(client, kept / "in.jsonl", kept / "out.jsonl")
    assert summary.failed == 2
    written = [path for folder in (kept, Path.home()) for path in folder.rglob("*")]
    seen = "".join(path.read_text(errors="replace") for path in written if path.is_file())
    assert "is not a key or token" in seen
    expect_nothing_of(seen + caplog.text + repr(summary))
    assert SECOND not in seen + caplog.text


@pytest.mark.parametrize("around", ["\n", "\r\n", " ", "\t"], ids=ascii)
@pytest.mark.parametrize("place", PLACES[:4])
def test_space_around_a_key_is_dropped(
    place: Callable[..., tuple[Provider, str]],
    around: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A line end or space around a key, wherever it comes from, does not count."""
    provider, _ = place(f"{around}{KEY}{around}", tmp_path, monkeypatch)
    call = provider.prepare(Request.of("Why?", model="m", params={}), None)  # type: ignore[arg-type]
    assert call.authorization == f"Bearer {KEY}"


def test_space_around_other_settings_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Addresses, models and scopes lose the space around them, arguments and variables alike."""
    monkeypatch.setenv("OPENAI_BASE_URL", " http://localhost:8/v1\r\n")
    monkeypatch.setenv("OPENAI_MODEL", "\tmodel-1\n")
    monkeypatch.setenv("GIGACHAT_SCOPE", "GIGACHAT_API_B2B \n")
    openai = OpenAICompatible()
    assert (openai.base_url, openai.model) == ("http://localhost:8/v1", "model-1")
    assert GigaChat().scope == "GIGACHAT_API_B2B"
    given = GigaChat(scope=" GIGACHAT_API_CORP\n", model=" m\n", base_url="\nhttps://a/v1/ ")
    assert (given.scope, given.model, given.base_url) == ("GIGACHAT_API_CORP", "m", "https://a/v1")
    assert openai.get_model(" gpt-5\n") == "gpt-5"


@pytest.mark.parametrize("name", ["base_url", "api_key", "model", "proxy"])
@pytest.mark.parametrize("value", [5, b"text", ["x"], {"https": "x"}, " ", "\n", ""], ids=repr)
def test_a_setting_of_another_kind_or_blank_is_refused_at_once(name: str, value: Any) -> None:
    """An argument that is no text, or blank, is told by its name when the provider is made."""
    with pytest.raises(InvalidRequestError, match=name):
        OpenAICompatible(**{name: value})


def test_a_blank_variable_counts_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable that holds nothing but space says nothing."""
    for name in ("OPENAI_BASE_URL", "OPENAI_API_KEY", "OPENAI_MODEL", "LLMPROVIDERS_PROXY"):
        monkeypatch.setenv(name, " \n")
    provider = OpenAICompatible()
    assert provider.base_url == OpenAICompatible.url
    assert provider.model is None


class Asking(FlowGpt):
    """A provider of somebody else's, with headers of its own."""

    own: dict[str, str]

    def prepare(self, request: Request, fetch: Fetch) -> Call:
        """Send those headers."""
        return Call("POST", f"{self.base_url}/ask", headers=self.own, json={})


@pytest.mark.parametrize("inside", ["\n", "\r\n", "\r", "\x00", "\x0b", "й"], ids=ascii)
@pytest.mark.parametrize("name", ["X-Api-Key", "X-Other", "Authorization"])
def test_a_header_that_cannot_be_sent_is_not_shown(
    name: str, inside: str, raw_server: RawServerFactory
) -> None:
    """A header with a line break inside is an error that has its name, and nothing of its value."""
    server = raw_server(http_response())
    provider = Asking(base_url=server.url)
    provider.own = {name: f"Bearer {KEY}{inside}{SECOND}"}
    for session in (None, requests.Session()):
        provider._session = session
        error = raised_by(lambda: provider.complete("Why?"))
        assert isinstance(error, InvalidRequestError)
        assert name in str(error)
        texts = (str(error), *(repr(link) for link in (error.__cause__, error.__context__)))
        assert not any(secret in text for secret in (KEY, SECOND) for text in texts)
        provider.close()
    assert server.requests == []


# -- what a service says


def _as_text(said: str) -> list[bytes]:
    return http_response(500, {"Content-Type": "text/plain"}, said.encode())


def _as_json(said: str) -> list[bytes]:
    return http_response(400, {"Content-Type": JSON}, dumps({"error": {"message": said}}))


def _as_detail(said: str) -> list[bytes]:
    return http_response(422, {"Content-Type": JSON}, dumps({"detail": said}))


def _as_event(said: str) -> list[bytes]:
    return http_response(200, {"Content-Type": SSE}, event({"error": said}))


@pytest.mark.parametrize("cut", [300, 500, 297])
@pytest.mark.parametrize("reply", [_as_text, _as_json, _as_detail, _as_event])
def test_a_key_across_the_place_where_words_are_cut_is_masked(
    reply: Callable[[str], list[bytes]], cut: int, raw_server: RawServerFactory
) -> None:
    """However a service's words are cut, no part of a key is left before the cut."""
    for before in range(cut - len(KEY) - 1, cut + 1):
        server = raw_server(reply("x" * before + KEY + "y" * 300))
        error = raised_by(lambda server=server: _openai(server.url).complete("Why?"))  # type: ignore[misc]
        assert isinstance(error, LLMError)
        assert "sk-" not in f"{error} {error.detail} {error.__cause__}"


def test_flowgpts_words_are_redacted_before_they_are_cut(raw_server: RawServerFactory) -> None:
    """A proxy's password that a line of FlowGPT echoes does not show half."""
    from llmproviders._redact import conceal

    conceal(PASSWORD)
    for before in range(300 - len(PASSWORD), 301):
        line = dumps({"event": "error", "data": "x" * before + PASSWORD}) + b"\n"
        server = raw_server(http_response(200, None, chunked([line])))
        error = raised_by(lambda server=server: FlowGpt(base_url=server.url).complete("Why?"))  # type: ignore[misc]
        assert "pl4" not in str(error)


def _naming(field: str) -> list[bytes]:
    said = f"m {KEY}"
    finish = said if field == "finish" else "stop"
    delta: dict[str, Any] = {"content": TEXT}
    chunk = {
        "model": said if field == "model" else "m-1",
        "choices": [{"index": 0, "delta": delta, "finish_reason": finish}],
    }
    headers = {"Content-Type": SSE}
    if field == "request id":
        headers["x-request-id"] = said
    return http_response(200, headers, chunked([event(chunk), b"data: [DONE]\n\n"]))


@pytest.mark.parametrize("field", ["model", "finish", "request id"])
def test_a_key_in_what_names_a_reply_is_masked(
    field: str,
    raw_server: RawServerFactory,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A key echoed as model, finish word or request id shows in no result, row or log line."""
    monkeypatch.setattr(_finish_words, "_unknown_words", set())
    caplog.set_level(logging.DEBUG, "llmproviders")
    server = raw_server(_naming(field))
    provider = _openai(server.url)
    completion = provider.complete("Why?")
    assert completion.text == TEXT
    finish = completion.finish_reason
    shown = [repr(completion), repr(finish), str(finish.model), str(finish.raw)]
    shown += [str(finish.request_id), repr(completion.attempts[0].as_dict())]
    (tmp_path / "in.jsonl").write_text('"Why?"\n')
    run_file(FailoverClient([provider]), tmp_path / "in.jsonl", tmp_path / "out.jsonl", workers=1)
    expect_nothing_of(*shown, (tmp_path / "out.jsonl").read_text(), caplog.text)
    assert ("the finish reason 'm ***'" in caplog.text) is (field == "finish")
    named = {"model": finish.model, "finish": finish.raw, "request id": finish.request_id}
    assert named[field] == "m ***"


def test_a_key_beside_a_text_is_masked_and_what_a_model_says_is_not(
    raw_server: RawServerFactory,
) -> None:
    """A key as id or signature is masked alike wherever it stands; arguments stay as they came."""
    deep: Any = KEY
    for _ in range(300):
        deep = [deep]
    arguments = json.dumps({"key": KEY})
    function = {"name": "f", "arguments": arguments}
    call = {"index": 0, "id": f"call-{KEY}", "type": "function", "function": function, "more": deep}
    thought = {"type": "reasoning.text", "text": KEY, "id": KEY, "signature": KEY}
    delta = {"content": KEY, "tool_calls": [call], "reasoning_details": [thought]}
    chunk = {"choices": [{"index": 0, "delta": delta, "finish_reason": "tool_calls"}]}
    server = raw_server(
        http_response(200, {"Content-Type": SSE}, chunked([event(chunk), b"data: [DONE]\n\n"]))
    )
    finish = _openai(server.url).complete("Why?").finish_reason
    [called] = finish.tool_calls
    assert (called["id"], called["function"]["arguments"]) == ("call-***", arguments)
    assert finish.message["tool_calls"] == [called]
    assert finish.message["content"] == KEY
    [kept] = finish.message["reasoning_details"]
    assert kept == {"type": "reasoning.text", "text": KEY, "id": "***", "signature": "***"}
    assert "***" in str(called["more"])
    assert KEY not in str(called["more"])


def test_a_key_as_the_name_of_a_model_or_a_file_is_masked(
    raw_server: RawServerFactory, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A key that a listing or an upload echoes is in no name, in no file of ours and in no log."""
    caplog.set_level(logging.DEBUG, "llmproviders")
    entry = {**dict.fromkeys(("id", "filename", "purpose", "usage"), KEY), "value": 1}
    entry = {**entry, "bytes": 1, "created_at": 1}
    body = dumps({**entry, "data": [entry], "balance": [entry]})
    server = raw_server(http_response(200, {"Content-Type": JSON, "Connection": "close"}, body))
    asked = _openai(server.url)
    assert asked.list_models() == ["***"]
    giga = GigaChat(base_url=f"{server.url}/v1", access_token=KEY)
    (tmp_path / "a.txt").write_text("text")
    names = [*giga.list_models(), giga.files()[0].id, giga.balance()[0].model]
    uploaded = giga.upload(tmp_path / "a.txt")
    names += [uploaded.id, uploaded.filename, uploaded.purpose]
    assert names == ["***"] * 6
    raised_by(lambda: giga.complete("Why?", attach=[tmp_path / "a.txt"]))
    kept = [path.read_text() for path in Path.home().rglob("gigachat-files.json")]
    assert len(kept) == 1
    sender = Sender(InvalidRequestError("gone", status_code=404), Canned(body, JSON))
    raised_by(lambda: with_sender(GigaChat, sender, access_token=KEY).complete("Why?"))
    assert "*** is asked instead" in caplog.text
    expect_nothing_of(*kept, caplog.text)


def test_what_a_provider_of_somebody_else_says_is_masked(raw_server: RawServerFactory) -> None:
    """A reply's names are masked for every provider, and so is the detail of its end."""

    class Telling(Asking):
        own = {"X-Api-Key": KEY}

        def parse(self, reply: Reply) -> Iterator[str]:
            yield TEXT
            yield FinishReason("stop", raw=KEY, model=KEY, request_id=KEY, detail=KEY)

    _openai("http://localhost").check_credentials()  # so that the key is known
    finish = Telling(base_url=raw_server(http_response()).url).complete("Why?").finish_reason
    assert (finish.raw, finish.model, finish.request_id, finish.detail) == ("***",) * 4


@pytest.mark.parametrize("name", ["key", "api_key", "access_token", "code", "sig", "X-Secret"])
@pytest.mark.parametrize("place", ["base_url", "session", "redirect"])
def test_a_key_in_a_query_is_masked(
    raw_server: RawServerFactory, caplog: pytest.LogCaptureFixture, name: str, place: str
) -> None:
    """A query that lets somebody in shows in no repr, log or error, whoever put it there."""
    caplog.set_level(logging.DEBUG)
    secret = "planted/Secret+7f3a"
    query = f"?version=1&{name}={quote(secret, safe='')}"
    said = json.dumps({"error": {"message": f"no: {secret}"}}).encode()
    headers = {"Content-Type": "application/json"}
    answer = http_response(400, headers, said)
    if place == "redirect":
        answer = http_response(301, {"Location": f"https://elsewhere.example/v1{query}"}, b"")
    server = raw_server(answer)
    session = requests.Session()
    if place == "session":
        session.params = {name: secret}
    base_url = f"{server.url}/v1{query if place == 'base_url' else ''}"
    with OpenAICompatible(base_url=base_url, session=session) as provider:
        with pytest.raises(LLMError) as caught:
            provider.complete("Hi")
        shown = [repr(provider), str(vars(provider)), caplog.text]
    shown += ["".join(traceback.format_exception(caught.value)), str(vars(caught.value))]
    if place != "redirect":
        assert quote(secret, safe="") in server.requests[0].target
    for form in (secret, quote(secret, safe=""), quote(secret)):
        assert form not in "".join(shown)
