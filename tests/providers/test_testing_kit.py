"""The kit for authors of providers: what it finds, and that it passes what is right."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llmproviders import FinishReason, ModelNotFoundError, Provider, ServerError
from llmproviders.messages import fold
from llmproviders.provider import Call, Fetch, Reply, Request
from llmproviders.testing import (
    FRAMINGS,
    GoldenReply,
    RawRequest,
    RawServer,
    Script,
    ScriptedProvider,
    check_cuts,
    check_golden,
    check_provider,
    golden_replies,
    http_response,
    read_stream,
)

BODY = b'{"piece": "Hel"}\n{"piece": "lo"}\n{"end": true}\n'
GOLDEN = GoldenReply("short", BODY, "application/x-ndjson", "Hello", finish={"reason": "stop"})


class Good(Provider):
    """A provider that keeps every promise."""

    url = "https://good.example"
    default_model = "good-1"
    models = ("good-1", "good-2")
    model_aliases = {"good": "good-1"}
    supported_params = frozenset({"temperature"})

    def __init__(self, *, api_key: str | None = None, **common: Any) -> None:
        super().__init__(**common)
        self.api_key = api_key

    def prepare(self, request: Request, fetch: Fetch) -> Call:
        """Send the conversation as one text."""
        body = {"question": fold(request.messages), **self.sampling(request)}
        return Call("POST", f"{self.base_url}/ask", json=body)

    def parse(self, reply: Reply) -> Iterator[str]:
        """Read lines of JSON up to the end mark."""
        for line in reply.lines():
            event = json.loads(line)
            if event.get("end"):
                yield FinishReason("stop")
                return
            yield event["piece"]


def good(url: str) -> Good:
    """The good one, with a key."""
    return Good(base_url=url, api_key="its-secret-key")


class Careless(Good):
    """Takes the end of the body for the end of the reply."""

    def parse(self, reply: Reply) -> Iterator[str]:
        """Read what comes."""
        for line in reply.lines():
            piece = json.loads(line).get("piece")
            if piece:
                yield piece
        yield FinishReason("stop")


class Swallowing(Good):
    """Leaves out what it cannot read."""

    def parse(self, reply: Reply) -> Iterator[str]:
        """Read what can be read."""
        for line in reply.lines():
            if b"lo" not in line:
                yield json.loads(line).get("piece") or FinishReason("stop")


class Blind(Good):
    """Says that it takes tools, and drops them."""

    supports_tools = True


class Forgetful(Good):
    """Sends the last message alone."""

    def prepare(self, request: Request, fetch: Fetch) -> Call:
        """Drop the turns before."""
        return super().prepare(Request(request.messages[-1:], request.model), fetch)


class Deaf(Good):
    """Takes none of the arguments that every provider has, save one."""

    def __init__(self, *, base_url: str | None = None) -> None:
        super().__init__(base_url=base_url)


class Nameless(Good):
    """Lacks the model that it names as its default."""

    default_model = "good-3"


class Vague(Good):
    """Passes on any name of a model, and does not say so."""

    def get_model(self, name: str | None) -> str:
        """Take anything."""
        return name or "good-1"


class Picky(Good):
    """Refuses a parameter that it does not take, instead of leaving it out."""

    def prepare(self, request: Request, fetch: Fetch) -> Call:
        """Refuse a seed."""
        if "seed" in request.params:
            raise ServerError("no seeds here")
        return super().prepare(request, fetch)


class Talkative(Good):
    """Shows its key."""

    def __repr__(self) -> str:
        return f"Talkative({self.api_key})"


class Sticky(Good):
    """Comes out of a pickle as another one."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Good, ()


class Paged(Good):
    """Asks for a page first."""

    def prepare(self, request: Request, fetch: Fetch) -> Call:
        """Fetch the page, then ask."""
        fetch(Call("GET", f"{self.base_url}/page")).close()
        return super().prepare(request, fetch)


def page(request: RawRequest) -> Script | None:
    """Answer what is asked before a chat."""
    return http_response(200, {}, b"hello") if request.method == "GET" else None


class TestProvider:
    def test_one_that_keeps_every_promise(self) -> None:
        """It passes, one with a request before the chat too."""
        check_provider(good)
        check_provider(lambda url: Paged(base_url=url), before=page)

    @pytest.mark.parametrize(
        ("kind", "words"),
        [
            (Blind, "supports_tools is True, but a request for it is not sent"),
            (Forgetful, "a conversation was sent without 'wombat'"),
            (Deaf, "takes no model, proxy, timeout"),
            (Nameless, "does not have a model that it lists.*good-3"),
            (Vague, "set open_catalogue = True"),
            (Picky, "parameters that it does not take are not left out"),
            (Sticky, "out of a pickle"),
        ],
    )
    def test_what_it_finds(self, kind: type[Good], words: str) -> None:
        """Each broken promise is told by what is broken."""
        with pytest.raises(AssertionError, match=words):
            check_provider(lambda url: kind(base_url=url))

    def test_a_key_in_its_repr(self) -> None:
        """A provider that shows its key is told."""
        with pytest.raises(AssertionError, match="repr shows api_key") as caught:
            check_provider(lambda url: Talkative(base_url=url, api_key="its-secret-key"))
        assert "its-secret-key" not in str(caught.value)

    def test_a_scripted_one_is_refused(self) -> None:
        """What sends nothing at all is not taken for one that does."""
        with pytest.raises(AssertionError, match="is not sent"):
            check_provider(lambda url: ScriptedProvider(["Hi"], base_url=url))


class TestGolden:
    def test_one_that_reads_it(self) -> None:
        """A reply passes in every framing, byte by byte, and cut at every byte."""
        check_golden(GOLDEN, good)
        check_golden(GOLDEN, lambda url: Paged(base_url=url), before=page)
        for framing in FRAMINGS:
            check_cuts(GOLDEN, good, framing)

    def test_an_end_that_is_not_waited_for(self) -> None:
        """A reply that is taken for whole though its end mark is missing is found by a cut."""
        check_golden(GOLDEN, lambda url: Careless(base_url=url))
        with pytest.raises(AssertionError, match=r"short: .*text is 'Hel'"):
            check_cuts(GOLDEN, lambda url: Careless(base_url=url), "close")

    def test_without_an_end_mark(self) -> None:
        """Only where nothing but the connection's end frames it may such a cut go unnoticed."""
        check_cuts(GOLDEN, lambda url: Careless(base_url=url), "close", has_end_mark=False)
        check_cuts(GOLDEN, lambda url: Careless(base_url=url), "chunked", has_end_mark=False)

    def test_text_that_is_lost(self) -> None:
        """A reply without all of its text is found."""
        with pytest.raises(AssertionError, match="short: the text is 'Hel'"):
            check_golden(GOLDEN, lambda url: Swallowing(base_url=url))

    @pytest.mark.parametrize(
        "known",
        [
            {"finish": {"reason": "length"}},
            {"finish": {"usage": {"prompt_tokens": 1}}},
            {"error": {"type": "ServerError"}},
        ],
    )
    def test_another_end(self, known: dict[str, Any]) -> None:
        """A reply that ends otherwise than it has to is found."""
        other = GoldenReply("short", BODY, "application/x-ndjson", "Hello", **known)
        with pytest.raises(AssertionError, match="short: it ended with"):
            check_golden(other, good)

    def test_files(self, tmp_path: Path) -> None:
        """A folder holds a body and what is known of it for each reply."""
        (tmp_path / "short.body").write_bytes(BODY)
        known = {"content_type": "application/x-ndjson", "text": "Hello", "finish": {}}
        (tmp_path / "short.json").write_text(json.dumps(known))
        (golden,) = golden_replies(tmp_path)
        assert (golden.name, golden.body, golden.text) == ("short", BODY, "Hello")
        check_golden(golden, good)


class TestStream:
    @pytest.mark.parametrize(
        ("items", "words"),
        [
            (["a"], "neither a FinishReason nor an error"),
            (["a", "", FinishReason("stop")], "no text"),
            ([" ", "a", FinishReason("stop")], "white space alone"),
            (["a", FinishReason("stop"), "b"], "after the FinishReason"),
            (["a", FinishReason("stop"), FinishReason("stop")], "after the FinishReason"),
            ([b"a", FinishReason("stop")], "not bytes"),
            ([FinishReason("stop")], "neither text nor a tool call"),
        ],
    )
    def test_what_breaks_the_promise(self, items: list[Any], words: str) -> None:
        """Each way to break the promise of a stream is told."""
        with pytest.raises(AssertionError, match=words):
            read_stream(iter(items))

    def test_an_error_without_the_text_so_far(self) -> None:
        """An error has to have the text that came before it."""

        def broken() -> Iterator[str]:
            yield "a"
            raise ServerError("down")

        with pytest.raises(AssertionError, match="partial_text"):
            read_stream(broken())


def test_a_failing_behaviour_fails_the_test() -> None:
    """What a behaviour of the raw server raises is raised where the test leaves the server."""

    def strict(connection: Any) -> None:
        assert connection.read_request().header("X-Must") == "yes"

    with (
        pytest.raises(AssertionError),
        RawServer(strict) as server,
        pytest.raises(Exception, match="closed"),
    ):
        Good(base_url=server.url).complete("Hi")


def test_a_model_that_is_not_there_is_told_before_sending() -> None:
    """The example of the tests keeps to its own list of models."""
    with pytest.raises(ModelNotFoundError):
        Good().complete("Hi", model="good-9")


def test_the_package_itself_does_not_load_the_kit() -> None:
    """Neither ``import llmproviders`` nor a provider that is made loads what tests need."""
    code = (
        "import sys, llmproviders; llmproviders.ChatGLM(); llmproviders.FailoverClient;"
        "print([name for name in sys.modules if name.startswith('llmproviders.testing')])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
