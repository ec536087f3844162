"""What is fuzzed: each target takes any bytes and lets nothing but our own errors out of itself."""

from __future__ import annotations

import io
import json
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import TypeVar

from llmproviders import LLMError
from llmproviders._account.tokens import TokenFile, _keepers, token_of
from llmproviders._http.certificates import certificates_in
from llmproviders._http.decoding import Tail, iter_events, iter_lines
from llmproviders._http.error_map import error_of, service_message
from llmproviders._http.types import check_proxy, check_timeout
from llmproviders._http.waits import parse_retry_after
from llmproviders._redact import _concealed, redact
from llmproviders._runtime.files import Unusable
from llmproviders.batch._input import Input, lines_of
from llmproviders.batch._output import _row_in
from llmproviders.config import ConfigError, load
from llmproviders.errors import InvalidRequestError
from llmproviders.failover._health import FileStore
from llmproviders.messages import normalize
from llmproviders.provider import Provider
from llmproviders.results import FinishReason, Reasoning
from tests.reliability.services import JSON, SERVICES, SSE, TEXT, Service, dumps, event
from tests.reliability.stub import StubReply, StubSender, stubbed

T = TypeVar("T")


@dataclass(frozen=True)
class Target:
    """One thing to fuzz.

    Attributes:
        name: how commands call it.
        run: takes any bytes; raises for a defect.
        seeds: inputs that it understands, to begin with.
        words: pieces that its inputs are made of.
        longest: bytes of an input that a long run tries.
    """

    name: str
    run: Callable[[bytes], None]
    seeds: tuple[bytes, ...]
    words: tuple[bytes, ...] = ()
    longest: int = 1024


_JSON_WORDS = (
    *(b'{"', b'":', b'"', b",", b"[", b"]", b"{", b"}", b"null", b"true", b"NaN", b"-1", b"1e400"),
    *(b"1" + b"0" * 400, b'\\ud83d"', b"\\u0000", b'"\\', b"\xef\xbb\xbf", b"\xe5\xa4", b"[" * 500),
)
_STREAM_WORDS = (
    b"\n",
    b"\r\n",
    b"\r",
    b"\n\n",
    b"data: ",
    b"data",
    b": hi\n",
    b"[DONE]",
    b"event:",
)


def _blocks(data: bytes) -> list[bytes]:
    """Cut the input as its own first byte says, so that cuts are part of what is tried."""
    size = 1 + (data[0] if data else 0)
    return [data[i : i + size] for i in range(1, len(data), size)]


def _outcome(make: Callable[[], T], *ours: type[BaseException]) -> T | None:
    try:
        return make()
    except ours:
        return None


def _lines(data: bytes) -> None:
    def split(blocks: list[bytes]) -> list[tuple[bytes, bool]]:
        return [(line, isinstance(line, Tail)) for line in iter_lines(blocks, max_line=1 << 20)]

    cut = split(_blocks(data))
    assert cut == split([data[1:]])
    assert all(b"\n" not in line and b"\r" not in line for line, _ in cut)
    short = _outcome(lambda: list(iter_lines(_blocks(data), max_line=8)), LLMError)
    assert short is None or all(len(line) <= 8 for line in short)


def _events(data: bytes) -> None:
    assert list(iter_events(_blocks(data))) == list(iter_events([data[1:]]))


def _stream_of(service: Service) -> Callable[[bytes], None]:
    types = (SSE, JSON, "text/plain", "")
    provider = service.make("http://127.0.0.1:9")

    def run(data: bytes) -> None:
        kind = types[data[0] % 4] if data else SSE
        finish = None
        try:
            for piece in provider.parse(StubReply(_blocks(data[1:]), kind)):
                assert finish is None
                assert isinstance(piece, str)
                if type(piece) is not str and not isinstance(piece, Reasoning):
                    finish = piece
        except LLMError:
            return
        assert finish is None or isinstance(finish, FinishReason)

    return run


def _forget() -> None:
    """Let nothing that an input left behind slow down or change the next one.

    Each brings keys of its own; a million of them is more than any process has.
    """
    _keepers.clear()
    _concealed.clear()


def _made(service: Service, *replies: StubReply) -> Provider:
    """A provider that has seen nothing yet, to get these replies."""
    _forget()
    return stubbed(service.make("http://127.0.0.1:9"), StubSender(*replies))


def _before_of(service: Service) -> Callable[[bytes], None]:
    def run(data: bytes) -> None:
        assert service.before is not None
        before = StubReply(_blocks(data), service.before[0])
        after = StubReply(list(service.pieces), service.content_type)
        provider = _made(service, before, after)
        _outcome(lambda: provider.complete("Why?"), LLMError)

    return run


def _calls_of(service: Service, calls: tuple[str, ...]) -> Callable[[bytes], None]:
    """The calls of a provider that are not chats."""

    def run(data: bytes) -> None:
        before = []
        if service.before is not None:
            before = [StubReply([service.before[1]], service.before[0])]
        provider = _made(service, *before, StubReply([data], JSON))
        for name in calls:
            arguments = ("a",) if name in ("count_tokens", "embed") else ()
            _outcome(partial(getattr(provider, name), *arguments), LLMError)

    return run


def _retry_after(data: bytes) -> None:
    text = data.decode("latin-1")
    first, _, second = text.partition("\n")
    for headers in ({"retry-after": first, "date": second}, {"retry-after-ms": first}):
        seconds = parse_retry_after(headers, now=1e9)
        assert seconds is None or 0 <= seconds <= 7 * 24 * 3600


@lru_cache(maxsize=1)
def _folder() -> Path:
    return Path(tempfile.mkdtemp(prefix="fuzz-"))


def _file(name: str, data: bytes) -> Path:
    path = _folder() / name
    path.write_bytes(data)
    path.chmod(0o600)
    return path


def _config(data: bytes) -> None:
    path = _file("config.toml", data)
    found = _outcome(lambda: load(path), ConfigError)
    if found is not None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            _outcome(found.client, ConfigError, LLMError)


def _token_file(data: bytes) -> None:
    token = _outcome(lambda: TokenFile(_file("tokens.json", data), "credential").read(), Unusable)
    assert token is None or (token.value.isascii() and token.expires_at == token.expires_at)


def _token_answer(data: bytes) -> None:
    answer = _outcome(lambda: json.loads(data), ValueError, RecursionError)
    if isinstance(answer, dict):
        _outcome(lambda: token_of(answer, now=1e9, date=1e9), LLMError)


def _health_file(data: bytes) -> None:
    store = FileStore(_file("health.json", data), now=lambda: 1e9)
    for trouble in store.read().values():
        assert 0 <= trouble.until < 1e18


def _batch_input(data: bytes) -> None:
    with lines_of(_file("in.jsonl", data)) as read:
        found = _outcome(lambda: Input(read, hashes=True), InvalidRequestError)
        if found is None:
            return
        tasks = list(found.tasks())
        assert len(tasks) == len(found)
        assert all((task.request is None) != (task.error is None) for task in tasks)


def _batch_output(data: bytes) -> None:
    for line in io.BytesIO(data):
        _outcome(lambda line=line: _row_in(line, "line 1"), InvalidRequestError)


def _prompt(data: bytes) -> None:
    value = _outcome(lambda: json.loads(data), ValueError, RecursionError)
    messages = _outcome(lambda: normalize(value), InvalidRequestError)
    assert messages is None or all(isinstance(m["content"], str) for m in messages)


def _proxy(data: bytes) -> None:
    _forget()
    text = data.decode(errors="surrogateescape")
    _outcome(lambda: check_proxy(text), InvalidRequestError)
    _outcome(lambda: check_timeout(text, 1.0), InvalidRequestError)  # type: ignore[arg-type]


def _redaction(data: bytes) -> None:
    text = data.decode(errors="replace")
    once = redact(text)
    assert redact(once) == once


def _error_bodies(data: bytes) -> None:
    said = service_message(data)
    assert said is None or len(said) <= 500
    value = _outcome(lambda: json.loads(data), ValueError, RecursionError)
    assert isinstance(error_of(value), LLMError)


def _trust(data: bytes) -> None:
    assert isinstance(certificates_in(data), list)


def _stream_seeds(service: Service) -> Iterator[bytes]:
    for index, (_, pieces) in enumerate((service.good(stream=True), service.good(stream=False))):
        yield bytes([index, 255]) + b"".join(pieces)
    for content_type, objects in service.examples:
        index, write = (0, event) if content_type == SSE else (1, lambda v: dumps(v) + b"\n")
        yield bytes([index, 40]) + b"".join(write(value) for value in objects)


_CONFIG = b"""[[provider]]
type = "openai"
name = "local"
base_url = "http://localhost:1/v1"
timeout = [1, 2.5]
api_key_env = "KEY"
[[provider]]
type = "gigachat"
verify = true
scope = "GIGACHAT_API_PERS"
api_key_file = "key"
proxy = "http://localhost:1"
[failover]
deadline = 1.5
attempts = 2
on_interrupt = "raise"
fall_through = ["ServerError"]
"""
_PEM = b"-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"
_TROUBLE = {"failures": 1, "at": 1e9, "until": 1e9, "cooldown": 30, "probe_until": 0}
_ROW = {"id": "a", "text": TEXT, "error": None, "request_hash": "0"}
_ASKED = {"id": "a", "prompt": "Why?", "model": "m", "temperature": 1, "system": "s"}

TARGETS = (
    Target("lines", _lines, (b"\x03one\r\ntwo\rthree\n\nfour",), _STREAM_WORDS, 128),
    Target("events", _events, (b"\x03data: a\ndata: b\r\n\r\n: c\n\ndata:d",), _STREAM_WORDS, 128),
    *(
        Target(
            f"parse-{service.name.lower()}",
            _stream_of(service),
            tuple(_stream_seeds(service)),
            (*_JSON_WORDS, *_STREAM_WORDS),
        )
        for service in SERVICES
    ),
    *(
        Target(
            f"before-{service.name.lower()}",
            _before_of(service),
            (b"\xff" + service.before[1],),
            (*_JSON_WORDS, b"<!--", b"<div ", b"data-nonce='", b"<![", b"</", b"&#x", b"<script>"),
        )
        for service in SERVICES
        if service.before is not None
    ),
    Target(
        "calls-gigachat",
        _calls_of(SERVICES[3], ("list_models", "balance", "count_tokens", "embed")),
        (
            b'{"data": [{"id": "m", "embedding": [1.5], "usage": {"prompt_tokens": 1}}]}',
            b'{"balance": [{"usage": "m", "value": 5.5}]}',
            b'[{"tokens": 5, "characters": 6}]',
        ),
        _JSON_WORDS,
    ),
    Target(
        "calls-openai",
        _calls_of(SERVICES[4], ("list_models",)),
        (b'{"object": "list", "data": [{"id": "m", "object": "model"}]}',),
        _JSON_WORDS,
    ),
    Target(
        "retry-after",
        _retry_after,
        (b"120", b"1.5", b"Wed, 21 Oct 2026 07:28:00 GMT\nWed, 21 Oct 2026 07:27:00 GMT"),
        (
            b"Mon, ",
            b" GMT",
            b"99999999",
            b"-",
            b"nan",
            b"inf",
            b"1e309",
            b"+2500",
            b"_",
            b"(",
            b"\\",
        ),
    ),
    Target(
        "config",
        _config,
        (_CONFIG, b"[failover]\ncooldown = 0\n"),
        (
            b"[[",
            b"]]",
            b"=",
            b"inf",
            b"nan",
            b"1979-05-27",
            b'"""',
            b"{a=1}",
            b"true",
            b"[",
            b"type",
        ),
    ),
    Target(
        "token-file",
        _token_file,
        (
            dumps(
                {
                    "version": 1,
                    "tokens": {
                        "credential": {"access_token": "a", "expires_at": 2e9, "fetched_at": 1e9}
                    },
                }
            ),
        ),
        _JSON_WORDS,
    ),
    Target(
        "token-answer",
        _token_answer,
        (b'{"access_token": "a", "expires_at": 2000000000000}', b'{"tok": "a", "exp": 2000000000}'),
        _JSON_WORDS,
    ),
    Target(
        "health-file",
        _health_file,
        (
            dumps(
                {"version": 2, "providers": {"p|u|m": _TROUBLE, "p|u|m|0123456789abcdef": _TROUBLE}}
            ),
        ),
        _JSON_WORDS,
    ),
    Target("batch-input", _batch_input, (dumps(_ASKED) + b'\n"Why?"\n',), (b"\n", *_JSON_WORDS)),
    Target("batch-output", _batch_output, (dumps(_ROW) + b"\n",), (b"\n", b"\0", *_JSON_WORDS)),
    Target(
        "prompt",
        _prompt,
        (dumps([{"role": "user", "content": [{"type": "text", "text": TEXT}]}]), b'"Why?"'),
        (*_JSON_WORDS, b'"tool_calls": ', b'"role": "tool"'),
    ),
    Target(
        "proxy",
        _proxy,
        (b"socks5://u:p@[::1]:1080", b"http://proxy:3128"),
        (b"://", b"[", b"]", b"@", b":", b"%00", b"\xff", b"99999", b"\xe2\x84\x80"),
    ),
    Target(
        "redaction",
        _redaction,
        (b"cannot reach http://u:p@host/ with Bearer abcdefgh", b"Authorization: Basic dTpw"),
        (b"://", b"@", b"Bearer ", b"Basic ", b"***", b"'", b"/"),
    ),
    Target(
        "error-bodies",
        _error_bodies,
        (b'{"error": {"message": "m", "code": 429}}', b'{"status": 401, "message": "m"}'),
        (*_JSON_WORDS, b'"error": '),
    ),
    Target(
        "trust", _trust, (_PEM, b"\x30\x82\x01\x01\x30"), (b"-----BEGIN CERTIFICATE-----", b"=")
    ),
)
BY_NAME = {target.name: target for target in TARGETS}
