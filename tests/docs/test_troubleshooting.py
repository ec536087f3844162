"""The page about trouble has the messages that users meet."""

from __future__ import annotations

import base64
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trustme

from llmproviders import FailoverClient, FlowGpt, GigaChat, LLMError, OpenAICompatible, _redact
from llmproviders.batch import BatchLocked, run_file
from llmproviders.batch._output import locked as writing
from llmproviders.cli.exits import CommandError
from llmproviders.cli.files import locked
from llmproviders.cli.trust import command as trust
from llmproviders.provider import Limits
from llmproviders.sandbox import Sandbox
from llmproviders.testing import ScriptedProvider
from tests.conftest import RawServerFactory
from tests.support.http_bytes import http_response
from tests.support.rawserver import Stall

PAGE = Path(__file__).parents[2] / "docs" / "troubleshooting.md"
HEADINGS = re.findall(r"^## (.*)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
ELSEWHERE = "service.example"


@dataclass
class World:
    """What can go wrong."""

    sandbox: Sandbox
    raw_server: RawServerFactory
    ca: trustme.CA
    refused_port: int
    black_hole: int
    folder: Path

    def ask(self, provider: str, prompt: str = "Hi", **arguments: Any) -> None:
        """Ask one provider of the sandbox, once."""
        client = self.sandbox.client(provider, attempts=1)
        client.providers[0].complete(prompt, **arguments)

    def fault(self, provider: str, **fault: Any) -> None:
        """Ask a provider of the sandbox with which something is wrong."""
        self.sandbox.fail(provider, **fault)
        self.ask(provider)

    def giga(self, **arguments: Any) -> None:
        """Ask GigaChat of the sandbox with other arguments."""
        GigaChat(**{**self.sandbox.provider_arguments("gigachat"), **arguments}).complete("Hi")

    def reply(self, *script: Any, **arguments: Any) -> None:
        """Ask a server that sends these bytes."""
        url = self.raw_server(list(script)).url
        OpenAICompatible(base_url=f"{url}/v1", **arguments).complete("Hi")

    def through(self, scheme: str) -> None:
        """Ask through a proxy that wants a password."""
        proxy = self.raw_server(http_response(407)).url
        OpenAICompatible(base_url=f"{scheme}://{ELSEWHERE}/v1", proxy=proxy).complete("Hi")

    def at(self, port: int, **arguments: Any) -> None:
        """Ask at a port."""
        OpenAICompatible(base_url=f"http://127.0.0.1:{port}/v1", **arguments).complete("Hi")

    def download(self) -> None:
        """Fetch GigaChat's certificate where nobody answers."""
        url = f"http://127.0.0.1:{self.refused_port}/ca.crt"
        trust.main(["gigachat", "--download", "--url", url], standalone_mode=False)

    def untrusted(self) -> None:
        """Ask a server whose certificate nobody trusts."""
        url = self.raw_server(http_response(), tls=self.ca).url
        OpenAICompatible(base_url=f"{url}/v1").complete("Hi")

    def stalled(self, **arguments: Any) -> None:
        """Ask a client of one silent provider."""
        self.sandbox.fail("openai", stall=True)
        self.sandbox.client("openai", attempts=1, **arguments).complete("Hi")

    def wrong_clock(self) -> None:
        """Ask a service whose clock is a day behind."""
        with Sandbox(clock=lambda: time.time() - 86400) as sandbox:
            GigaChat(**sandbox.provider_arguments("gigachat")).complete("Hi")

    def unmarked(self) -> None:
        """Ask a service that closes the connection in mid-reply, in good order."""
        with Sandbox(chunked=False) as sandbox:
            sandbox.fail("openai", cut_after=3)
            OpenAICompatible(**sandbox.provider_arguments("openai")).complete("Hi")

    def misconfigured(self, line: str = 'modle = "glm-4"') -> None:
        """Read a configuration with a mistake in it."""
        path = self.folder / "config.toml"
        path.write_text(f'[[provider]]\ntype = "openai"\n{line}\n')
        FailoverClient.from_config(path)

    def batch_twice(self) -> None:
        """Run a batch while another one writes the same output."""
        (self.folder / "in.jsonl").write_text('"Hi"\n')
        output = str(self.folder / "out.jsonl")
        with writing(output):
            run_file(ScriptedProvider(["Yes."]), self.folder / "in.jsonl", output)

    def lock_twice(self) -> None:
        """Hold the lock of the command line twice."""
        path = str(self.folder / "lock")
        with locked(path), locked(path):
            pass


@pytest.fixture
def world(
    sandbox: Sandbox,
    raw_server: RawServerFactory,
    ca: trustme.CA,
    refused_port: int,
    black_hole: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> World:
    """Return what can go wrong, where no earlier test's password is a word of a message."""
    monkeypatch.setattr(_redact, "_concealed", {})
    return World(sandbox, raw_server, ca, refused_port, black_hole, tmp_path)


PAGE_WITHOUT_TOKENS = "<html><body>Welcome</body></html>"
SITE = http_response(headers={"Content-Type": "text/html"}, body=PAGE_WITHOUT_TOKENS.encode())
MOVED = http_response(302, headers={"Location": f"https://{ELSEWHERE}/v1"})
OTHER_KEY = base64.b64encode(b"another:key").decode()

TROUBLE: dict[str, Callable[[World], object]] = {
    "GigaChat needs an authorization key": lambda _: GigaChat().complete("Hi"),
    "the authorization key has to be base64": lambda w: w.giga(api_key="id:secret"),
    "the token service refused the authorization key": lambda w: w.giga(api_key=OTHER_KEY),
    "this key is not for the scope": lambda w: w.giga(scope="GIGACHAT_API_CORP"),
    "this machine's clock is": lambda w: w.wrong_clock(),
    "needs a key, and none was sent": lambda w: w.reply(*http_response(401)),
    "the service refused the key; check it": lambda w: w.fault("openai", status=401),
    "the server's certificate is not trusted": lambda w: w.untrusted(),
    "the certificate could not be fetched from": lambda w: w.download(),
    "the proxy failed": lambda w: w.through("https"),
    "the proxy requires a user and password; put them in its URL": lambda w: w.through("http"),
    "nothing listens at": lambda w: w.at(1234),
    "no connection": lambda w: w.at(w.refused_port),
    "no connection in time": lambda w: w.at(w.black_hole, timeout=(0.2, 5)),
    "no answer in time": lambda w: w.reply(Stall(), timeout=(5, 0.2)),
    "no text came within first_chunk_timeout": lambda w: w.stalled(first_chunk_timeout=0.2),
    "the service has nothing at this address": lambda w: w.reply(*http_response(404)),
    "the service found nothing for this request": (
        lambda w: w.fault("openai", status=404, body={"error": {"message": "No data policy fits"}})
    ),
    "this server or model cannot do what was asked": (
        lambda w: w.fault("openai", status=500, body={"error": "image input is not supported"})
    ),
    "has no model": lambda _: FlowGpt().get_model("gpt-9"),
    "the service answered 503": lambda w: w.fault("openai", status=503),
    "a challenge or access-denied page stands before the service": (
        lambda w: w.fault("openai", html=True)
    ),
    "the page of https://chatgptt.me has no data-nonce": (
        lambda w: w.fault("chatgptt", body=PAGE_WITHOUT_TOKENS, on="page")
    ),
    "too many requests; wait": lambda w: w.fault("openai", status=429),
    "tokens are used up": lambda w: w.fault("openai", status=402),
    "the reply was cut short": lambda w: w.fault("openai", cut_after=3),
    "the reply ended without its end mark": lambda w: w.unmarked(),
    "the service ended its reply": lambda w: w.fault("openai", empty=True),
    "a filter of the service stopped the reply before any text": (
        lambda w: w.ask("openai", "trip the filter at once")
    ),
    "the service answered with a web page where a reply was due; check base_url": (
        lambda w: w.reply(*SITE)
    ),
    "the service redirects to": lambda w: w.reply(*MOVED),
    "a line of the reply is longer than": (
        lambda w: OpenAICompatible(
            **w.sandbox.provider_arguments("openai"), limits=Limits(line=50)
        ).complete("Hi")
    ),
    "the deadline of the call passed": lambda w: w.stalled(deadline=0.2),
    "every provider failed": lambda w: w.stalled(first_chunk_timeout=0.1),
    "unknown parameter": lambda w: w.ask("openai", temprature=1),
    "has no argument": lambda w: OpenAICompatible(proxies={}),  # type: ignore[call-arg]
    "unknown key": lambda w: w.misconfigured(),
    "nobody to ask": lambda _: FailoverClient.from_config(),
    "must not stand here in clear": lambda w: w.misconfigured('api_key = "sk-secret"'),
    "another run is writing": lambda w: w.batch_twice(),
    "another run holds the lock": lambda w: w.lock_twice(),
}


def test_every_heading_is_provoked() -> None:
    """No heading stands there untried, and none twice."""
    assert list(TROUBLE) == HEADINGS


@pytest.mark.parametrize("heading", TROUBLE)
def test_the_message_has_the_heading(heading: str, world: World) -> None:
    """What goes wrong says what the page's heading says, and is of the class that it names."""
    section = PAGE.read_text(encoding="utf-8").partition(f"## {heading}\n")[2].partition("##")[0]
    with pytest.raises((LLMError, TypeError, ValueError, BatchLocked, CommandError)) as caught:
        TROUBLE[heading](world)
    said = str(caught.value).replace(world.sandbox.url, "https://chatgptt.me")
    assert heading in said
    named = re.search(r"`(\w+(?:Error|Failed|Timeout|Interrupted|Exceeded|Locked))`", section)
    if named is not None:
        assert named[1] in {cls.__name__ for cls in type(caught.value).__mro__} | {
            type(attempt.error).__name__ for attempt in getattr(caught.value, "attempts", ())
        }
