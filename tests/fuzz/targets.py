"""What is fuzzed: each target takes any bytes and lets nothing but our own errors out of itself."""

from __future__ import annotations

import atexit
import io
import json
import re
import shutil
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

import requests
import trustme
from urllib3.util import parse_url

from llmproviders import Cached, LLMError, OpenAICompatible, SchemaError
from llmproviders._account.ledger import Ledger
from llmproviders._account.quotas import Quota, Reservation, _settle
from llmproviders._account.tokens import TokenFile, _keepers, token_of
from llmproviders._account.usage import DailyUsage, UsageTable, _date_of
from llmproviders._http.certificates import certificates_in
from llmproviders._http.decoding import Tail, iter_events, iter_lines
from llmproviders._http.error_map import check_reply, error_of, parse_retry_after, service_message
from llmproviders._http.redirects import target_of
from llmproviders._http.types import HTTPRequest, check_proxy, check_timeout
from llmproviders._printable import one_line, printable
from llmproviders._redact import _concealed, redact
from llmproviders._runtime.files import Unusable
from llmproviders._runtime.scope import CancelScope
from llmproviders.batch._input import Input, lines_of
from llmproviders.batch._output import _row_in
from llmproviders.config import ConfigError, load
from llmproviders.conversation import Conversation
from llmproviders.errors import InvalidRequestError, QuotaExceededError, Usage
from llmproviders.failover._health import FileStore
from llmproviders.messages import normalize
from llmproviders.provider import Provider
from llmproviders.providers._chat_completions import _ThinkTags as ThinkTags
from llmproviders.providers._chat_parts import ThoughtDetails, ToolCalls, thought_of
from llmproviders.providers.gigachat._files import DrawnImages, _remembered
from llmproviders.results import FinishReason, Reasoning
from llmproviders.schema import _values
from llmproviders.testing import ScriptedProvider
from llmproviders.tools import FunctionTool
from tests.reliability.services import JSON, SERVICES, SSE, TEXT, Service, dumps, event
from tests.reliability.stub import StubReply, StubSender, stubbed
from tests.support.http_bytes import http_response
from tests.support.rawserver import Connection, RawServer

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


_HERE = requests.Request("POST", "https://service.example/v1/chat").prepare()

_AUTHORITY = re.compile(
    r"https?:[/\\\\]*(?:[^/\\\\?#]*@)?(\[[^\]]*\]|[^:/\\\\?#]*)(:[0-9]*)?", re.IGNORECASE
)
"""Where a browser would go, to which a backslash is a slash."""


def _redirect(data: bytes) -> None:
    location = data.decode("latin-1")
    reply = StubReply([], headers={"location": location})
    reply.status = 307
    target = _outcome(lambda: target_of(reply, _HERE), LLMError)  # type: ignore[arg-type]
    if target is None:
        return
    seen_by_browser = _AUTHORITY.match(re.sub("[\t\r\n]", "", target.strip()))
    assert seen_by_browser is not None
    hosts = {
        urlsplit(target).hostname,
        parse_url(target).host,
        seen_by_browser[1].lower(),
        urlsplit(str(requests.Request("GET", target).prepare().url)).hostname,
    }
    assert hosts == {"service.example"}, (location, hosts)
    assert {urlsplit(target).port, parse_url(target).port} <= {None, 443}
    assert target.startswith("https://")


_OWN, _OTHERS = b"own", b"other's"


class _Pair:
    """Two calls to a server that cuts what it sends as an input says."""

    def __init__(self, *, tls: bool) -> None:
        self.data = b""
        self._sent = threading.Event()
        ca = trustme.CA() if tls else None
        self.server = RawServer(self._serve, tls=ca)
        self.server.__enter__()
        atexit.register(self.server.__exit__, None, None, None)
        self.provider = OpenAICompatible(
            base_url=f"{self.server.url}/v1",
            model="m",
            api_key="k",
            ca_bundle=None if ca is None else _file("ca.pem", ca.cert_pem.bytes()),
        )

    def _serve(self, conn: Connection) -> None:
        while True:
            asked = conn.read_request().body
            text = _OTHERS if b"First?" in asked else _OWN
            sent = b"".join(http_response(200, {"Content-Type": JSON}, _whole(text)))
            if text is _OTHERS:
                # Whatever follows the first reply must not be taken for the second one.
                sent += self.data[1:]
                try:
                    conn.run(_blocks(self.data[:1] + sent))
                finally:
                    self._sent.set()
            else:
                conn.run([sent])

    def run(self, data: bytes) -> None:
        """Ask twice: the second reply has to be the second call's."""
        self.data = data
        self._sent.clear()
        first = self.provider.complete("First?", stream=False).text
        assert first.encode() == _OTHERS
        # What comes once the second request is on its way cannot be told from a reply to it.
        assert self._sent.wait(10)
        assert self.provider.complete("Second?", stream=False).text.encode() == _OWN


def _whole(text: bytes) -> bytes:
    return (
        b'{"choices": [{"index": 0, "message": {"content": "%s"}, "finish_reason": "stop"}]}' % text
    )


@cache
def _pair(*, tls: bool) -> _Pair:
    return _Pair(tls=tls)


def _leftovers(data: bytes) -> None:
    _pair(tls=bool(data) and data[0] % 2 == 1).run(data or b"\0")


def _usage_file(data: bytes) -> None:
    path = _vandalized("usage.sqlite3", data)
    book = Ledger(path)
    before = path.read_bytes()
    quota = Quota(per_minute=9, per_day=9)
    with closing(book):
        held = _outcome(
            lambda: book.change(lambda db: quota._try(db, "c", ("p", "m"), 10, 1e9), CancelScope()),
            QuotaExceededError,
        )
        if isinstance(held, Reservation):
            _settle(book, held, CancelScope(), failed=False, usage=Usage(total_tokens=5))
        rows = book.read("SELECT * FROM used")
        str(UsageTable(DailyUsage(_date_of(row[0]), *row[1:]) for row in rows))
    _check_unharmed(path, before, b"LLMu")


def _cache_file(data: bytes) -> None:
    path = _vandalized("replies.db", data)
    before = path.read_bytes()
    with Cached(ScriptedProvider([TEXT]), path) as client:
        for _ in range(2):
            # The bytes of a kept text may have become others, which nobody can tell.
            assert client.complete("Why?").text
    _check_unharmed(path, before, b"llmc")


def _vandalized(name: str, data: bytes) -> Path:
    """A database of ours with the input written over it, at the place that the input names."""
    for ending in ("", "-wal", "-shm", "-journal"):
        (_folder() / (name + ending)).unlink(missing_ok=True)
    whole = _database(name)
    at = int.from_bytes(data[:2], "big") % (len(whole) + 1)
    return _file(name, data[2:] if at == len(whole) else _put(whole, at, data[2:]))


def _put(whole: bytes, at: int, data: bytes) -> bytes:
    return whole[:at] + data + whole[at + len(data) :]


@cache
def _database(name: str) -> bytes:
    """What this package writes into a file of that name."""
    path = Path(tempfile.mkdtemp(prefix="fuzz-")) / name
    if name.startswith("usage"):
        with closing(Ledger(path)) as book:
            book.read("SELECT 1")
    else:
        with Cached(ScriptedProvider([TEXT]), path) as client:
            client.complete("Why?")
    try:
        return path.read_bytes()
    finally:
        shutil.rmtree(path.parent)


def _check_unharmed(path: Path, before: bytes, kind: bytes) -> None:
    is_ours = before[:16] == b"SQLite format 3\0" and before[68:72] == kind
    assert not before or is_ours or path.read_bytes() == before


def _uploads_file(data: bytes) -> None:
    found = _outcome(lambda: _remembered(data), ValueError)
    assert found is None or all(isinstance(one, str) for one in found.values())


def _conversation_file(data: bytes) -> None:
    path = _file("talk.json", data)
    found = _outcome(lambda: Conversation.load(path, ScriptedProvider([TEXT])), ValueError)
    if found is not None:
        _outcome(lambda: found.ask("Why?"), LLMError, TypeError)


def _error_words(data: bytes) -> None:
    statuses = (200, 302, 400, 401, 402, 403, 404, 405, 407, 408, 413, 422, 429, 451, 500, 529)
    reply = StubReply([data[2:]], (JSON, "text/html", "text/plain", SSE)[len(data) % 4])
    reply.status = statuses[data[0] % len(statuses)] if data else 400
    call = HTTPRequest("POST", "https://service.example/v1/chat")
    error = _failure_of(reply, call)
    if error is not None:
        assert error.retry_after is None or 0 <= error.retry_after <= 7 * 24 * 3600
        assert len(str(error)) < 4096
        assert printable(str(error)) == str(error)


def _failure_of(reply: StubReply, call: HTTPRequest) -> LLMError | None:
    try:
        check_reply(reply, call, now=1e9, most=1 << 16)  # type: ignore[arg-type]
    except LLMError as error:
        return error
    return None


def _think_tags(data: bytes) -> None:
    text = data[1:].decode(errors="replace")
    size = 1 + (data[0] if data else 0)

    def told(pieces: list[str]) -> tuple[str, str]:
        tags = ThinkTags()
        parts = [(("", piece) if tags.passed else tags.feed(piece)) for piece in pieces]
        parts.append(tags.flush())
        return "".join(part[0] for part in parts), "".join(part[1] for part in parts)

    thought, said = told([text[i : i + size] for i in range(0, len(text), size)])
    assert (thought.strip(), said.strip()) == tuple(part.strip() for part in told([text]))
    assert len(thought) + len(said) <= len(text)


def _stream_details(data: bytes) -> None:
    value = _outcome(lambda: json.loads(data), ValueError, RecursionError)
    kept: list[int] = []
    details = ThoughtDetails(kept.append)
    for entry in value if isinstance(value, list) else [value]:
        details.add(entry)
        details.add([entry])
        assert isinstance(thought_of(entry), str)
    json.dumps(details.joined())
    assert all(size >= 0 for size in kept)


def _tool_calls(data: bytes) -> None:
    value = _outcome(lambda: json.loads(data), ValueError, RecursionError)
    calls = ToolCalls(lambda size: None)
    for piece in value if isinstance(value, list) else [value]:
        if isinstance(piece, dict):
            _outcome(partial(calls.add, piece), LLMError)
    found = calls.finished()
    assert len({call["id"] for call in found}) == len(found)
    assert all(isinstance(call.get("function", {}).get("arguments", ""), str) for call in found)
    json.dumps(found).encode()


def _weather(
    city: str, days: list[int], when: dict[str, float] | None = None, kind: bool = False
) -> str:
    """The weather.

    Args:
        city: where.
        days: which.
        when: at what hour.
        kind: whether to be kind.
    """
    assert isinstance(city, str)
    assert all(type(day) is int for day in days)
    assert when is None or all(isinstance(hour, float) for hour in when.values())
    assert isinstance(kind, bool)
    return TEXT


def _tool_arguments(data: bytes) -> None:
    tool = FunctionTool(_weather)
    found = _outcome(lambda: tool.arguments(data.decode(errors="replace")), ValueError)
    if found is not None:
        assert tool(found) == TEXT


def _json_in_prose(data: bytes) -> None:
    text = data.decode(errors="replace")
    found = _outcome(lambda: list(_values(text)), SchemaError)
    for value, source in found or ():
        assert source in text
        json.dumps(value, allow_nan=False)


def _drawn_images(data: bytes) -> None:
    text = data[1:].decode(errors="replace")
    size = 1 + (data[0] if data else 0)

    def told(pieces: list[str]) -> tuple[str, list[str]]:
        drawn = DrawnImages()
        said = "".join([*map(drawn.feed, pieces), drawn.rest()])
        return said, drawn.ids

    assert told([text[i : i + size] for i in range(0, len(text), size)]) == told([text])


def _terminal(data: bytes) -> None:
    text = data.decode("utf-8", "surrogateescape")
    for shown in (printable(text), one_line(text)):
        assert printable(shown) == shown
        assert not re.search("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202e\u2066-\u2069]", shown)
    assert len(one_line(text).splitlines()) <= 1


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
        "redirect",
        _redirect,
        (
            b"https://service.example/v2",
            b"/v2/chat?a=b#c",
            b"//service.example:443/",
            b"http://evil:P\\@good:Q/x",
        ),
        (
            *(
                b"https:",
                b"http:",
                b"//",
                b"\\",
                b"/",
                b"@",
                b":",
                b"?",
                b"#",
                b"%40",
                b"%2f",
                b"%5c",
            ),
            *(
                b"service.example",
                b"evil.example",
                b"[::1]",
                b":443",
                b":80",
                b"\t",
                b"\r\n",
                b"\0",
            ),
            *(
                b".",
                b"..",
                b"\xe2\x84\x80",
                b"\xef\xbc\x8f",
                b"xn--",
                b" ",
                b";",
                b"&",
                b"javascript:",
            ),
        ),
        256,
    ),
    Target(
        "leftovers",
        _leftovers,
        (
            b"\x00",
            b"\x01",
            b"\xff" + b"".join(http_response(200, {"Content-Type": JSON}, _whole(_OTHERS))),
            b"\xfe" + b"".join(http_response(200, {"Content-Type": JSON}, _whole(_OTHERS))),
        ),
        (b"HTTP/1.1 200 OK\r\n", b"\r\n", b"\r\n\r\n", b"Content-Length: 0", b"0\r\n\r\n"),
        512,
    ),
    Target("usage-file", _usage_file, (b"\0\0", b"\xff\xffnotes", b"\0\x10\0\0"), (b"\0", b"\xff")),
    Target("cache-file", _cache_file, (b"\0\0", b"\xff\xffnotes", b"\0\x10\0\0"), (b"\0", b"\xff")),
    Target(
        "uploads-file",
        _uploads_file,
        (dumps({"version": 1, "files": {"a": "b"}}),),
        (*_JSON_WORDS, b'"files": ', b'"version": 1'),
    ),
    Target(
        "conversation-file",
        _conversation_file,
        (
            dumps(
                {
                    "version": 1,
                    "params": {"temperature": 1},
                    "messages": [{"role": "user", "content": "Why?"}],
                    "system": "Be brief.",
                    "max_turns": None,
                    "max_chars": None,
                }
            ),
        ),
        (*_JSON_WORDS, b'"messages": ', b'"params": ', b'"version": 1'),
    ),
    Target(
        "error-words",
        _error_words,
        (
            b"\x02-" + dumps({"error": {"message": "max_tokens is too large", "code": "invalid"}}),
            b"\x0c-try again in 1m30s, quota exceeded",
            b"\x03-<html><title>Denied</title>",
        ),
        (
            *_JSON_WORDS,
            *(
                b"quota",
                b"rate limit",
                b"insufficient",
                b"balance",
                b"model",
                b"not found",
                b"retry",
            ),
            *(b"in 5 seconds", b"1h2m", b"\x1b]0;", b"context length", b"<title>", b"data: "),
        ),
    ),
    Target(
        "think-tags",
        _think_tags,
        (b"\x02<think>hm</think> It scatters.", b"\x00 \n<think>a</thin</think>b"),
        (b"<think>", b"</think>", b"<", b"</", b"think", b">", b" ", b"\n"),
        256,
    ),
    Target(
        "stream-details",
        _stream_details,
        (
            dumps([[{"type": "reasoning.text", "text": "a", "index": 0, "signature": None}]]),
            dumps([{"type": "thinking", "thinking": [{"type": "text", "text": "a"}]}]),
        ),
        (*_JSON_WORDS, b'"text": ', b'"summary": ', b'"index": ', b'"thinking": '),
    ),
    Target(
        "tool-calls",
        _tool_calls,
        (dumps([{"index": 0, "id": "a", "function": {"name": "f", "arguments": "{}"}}] * 2),),
        (*_JSON_WORDS, b'"index": ', b'"id": ', b'"function": ', b'"arguments": ', b'"name": "f"'),
    ),
    Target(
        "tool-arguments",
        _tool_arguments,
        (b'{"city": "Omsk", "days": [1, 2], "when": {"noon": 12.5}, "kind": true}',),
        (*_JSON_WORDS, b'"city": ', b'"days": ', b'"when": ', b'"kind": '),
    ),
    Target(
        "json-in-prose",
        _json_in_prose,
        (
            b'Here it is:\n```json\n{"a": [1, "b"]}\n```\nDone.',
            b'{"a": 1}',
            b'so [1, 2] and {"b": {}}',
        ),
        (*_JSON_WORDS, b"```", b"```json\n", b"\n```\n", b" ", b"\n"),
    ),
    Target(
        "drawn-images",
        _drawn_images,
        (b'\x03Here: <img src="b28fbd1e-4a2c-4c9b" fuse="true"/> it is.',),
        (b"<img", b" src=", b'"', b"'", b"fuse=", b"true", b"/>", b">", b"<", b"12345678-abcd"),
        256,
    ),
    Target(
        "terminal",
        _terminal,
        (b"\x1b]52;c;aGk=\x07 text\r\nmore", "\u202etext\u2066".encode()),
        (
            b"\x1b[",
            b"\x9b",
            b"\xc2\x9b",
            b"\r",
            b"\x08",
            b"\n",
            b"\xe2\x80\xae",
            b"\xf3\xa0\x81\x81",
        ),
        256,
    ),
    Target(
        "trust", _trust, (_PEM, b"\x30\x82\x01\x01\x30"), (b"-----BEGIN CERTIFICATE-----", b"=")
    ),
)
BY_NAME = {target.name: target for target in TARGETS}
