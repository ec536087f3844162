"""A cache in front of a client: what is kept, what it answers, and the file it is in."""

from __future__ import annotations

import json
import logging
import os
import pickle
import resource
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests

from llmproviders import (
    Cached,
    DeadlineExceeded,
    FailoverClient,
    FinishReason,
    GigaChat,
    ModelNotFoundError,
    OpenAICompatible,
    Reasoning,
    ServerError,
    Usage,
    YandexGPT,
)
from llmproviders._runtime.scope import CancelScope
from llmproviders.provider import BaseClient, Call, Fetch, Request
from llmproviders.results import Image
from llmproviders.sandbox import Sandbox
from llmproviders.testing import ScriptedProvider
from tests.conftest import RawServerFactory
from tests.support.processes import in_child
from tests.support.rawserver import Read, Stall


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file that is not there yet."""
    return tmp_path / "replies.db"


@pytest.fixture
def provider() -> ScriptedProvider:
    """A provider that counts its requests."""
    return ScriptedProvider(["Be", "cause."], name="first")


@dataclass
class Point:
    x: int


class Ending(ScriptedProvider):
    """A provider whose reply ends so."""

    def __init__(self, finish: FinishReason, **arguments: Any) -> None:
        super().__init__(["Because."], **arguments)
        self.finish = finish

    def parse(self, reply: Any) -> Iterator[str]:
        """Recite the script."""
        yield from self.chunks
        yield self.finish


class Clock:
    """A clock that stands still."""

    now = 1000.0

    def monotonic(self) -> float:
        """The time."""
        return self.now

    def wall(self) -> float:
        """The time."""
        return self.now

    def sleep(self, seconds: float, wake: object = None) -> None:
        """Pass the time."""
        self.now += seconds


class TestHits:
    def test_a_home_folder(
        self, tmp_path: Path, provider: ScriptedProvider, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """``~`` in the path is the home folder; a name that is no user's is a name."""
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.chdir(tmp_path)
        for path in ("~/replies.db", "~nobody-has-this-name.db"):
            with Cached(provider, path) as client:
                client.complete("Why?")
            assert (tmp_path / path.removeprefix("~/")).is_file()
        assert not (tmp_path / "~").exists()

    def test_the_second_one_is_not_sent(self, path: Path) -> None:
        """The same question gives the same completion, ``cached``, with nothing sent."""
        usage = Usage(prompt_tokens=1, completion_tokens=2)
        finish = FinishReason("stop", raw="done", usage=usage, reasoning="Hm.", request_id="r-1")
        provider = Ending(finish)
        with Cached(provider, path) as client:
            first, second = client.complete("Why?"), client.complete("Why?")
        assert (first.cached, second.cached) == (False, True)
        assert len(provider.requests) == 1
        assert (second.text, second.usage, second.reasoning) == ("Because.", usage, "Hm.")
        assert second.message == first.message
        assert (second.provider, second.model, second.request_id) == (
            first.provider,
            first.model,
            "r-1",
        )
        assert (len(first.attempts), len(second.attempts)) == (1, 0)
        assert second.as_dict()["cached"] is True

    def test_a_stream(self, path: Path, provider: ScriptedProvider) -> None:
        """A stream from the cache yields the text, then the ``FinishReason``; thoughts if asked."""
        with Cached(provider, path) as client:
            assert list(client.stream("Why?"))[:-1] == ["Be", "cause."]
            text, finish = client.stream("Why?")
            assert (text, type(finish), finish.cached) == ("Because.", FinishReason, True)  # type: ignore[attr-defined]
            assert client.complete("Why?").cached
        thinking = Ending(FinishReason("stop", reasoning="Hm."), name="thinking")
        with Cached(thinking, path) as client:
            client.complete("Why?")
            thought, *_ = client.stream("Why?", reasoning=True)
            assert isinstance(thought, Reasoning)
            assert thought.text == "Hm."
            assert [type(item) for item in client.stream("Why?")] == [str, FinishReason]
        with Cached(provider, path) as client:
            kept = [type(item) for item in client.stream("Why?", reasoning=True)]
        assert kept == [str, FinishReason]

    @pytest.mark.parametrize(
        "other",
        [
            {"prompt": "How?"},
            {"model": "m"},
            {"temperature": 0.5},
            {"system": "Be brief."},
            {"extra_body": {"x": 1}},
            {"schema": {"type": "string"}},
        ],
    )
    def test_another_question(self, path: Path, other: dict[str, Any]) -> None:
        """Other messages, another model and other parameters are another question."""
        provider = ScriptedProvider(['"Because."'])
        with Cached(provider, path) as client:
            client.complete("Why?")
            assert not client.complete(**{"prompt": "Why?", **other}).cached
            assert client.complete(**{"prompt": "Why?", **other}).cached

    def test_how_it_is_asked_does_not_count(self, path: Path, provider: ScriptedProvider) -> None:
        """Timeout, proxy, deadline and streaming are no part of the question."""
        with Cached(provider, path) as client:
            client.complete("Why?", timeout=5, deadline=9)
            assert client.complete([{"role": "user", "content": "Why?"}], stream=False).cached

    def test_other_providers(self, path: Path, provider: ScriptedProvider) -> None:
        """Other providers, another order, address or model of theirs are another question."""
        second = ScriptedProvider(["No."], name="second")
        clients: list[Any] = [
            provider,
            second,
            ScriptedProvider(["Be", "cause."], name="first", base_url="http://localhost:1"),
            ScriptedProvider(["Be", "cause."], name="first", model="other"),
            FailoverClient([provider, second]),
            FailoverClient([second, provider]),
            FailoverClient([(provider, "m"), second]),
        ]
        for client in clients:
            cached = Cached(client, path)
            assert not cached.complete("Why?").cached
            assert cached.complete("Why?").cached
            cached.close()

    @pytest.mark.parametrize("reason", ["length", "content_filter", "tool_calls", "other"])
    def test_only_whole_replies(self, path: Path, reason: str) -> None:
        """A reply that ended with anything but ``stop`` is not kept, nor is a failure."""
        provider = Ending(FinishReason(reason))
        with Cached(provider, path) as client:
            client.complete("Why?")
            assert not client.complete("Why?").cached
        failing = ScriptedProvider(["Be"], error=ServerError("down"))
        with Cached(failing, path) as client:
            for _ in range(2):
                with pytest.raises(ServerError):
                    client.complete("Why?")
        assert len(failing.requests) == 2

    def test_a_stream_that_was_left_is_not_kept(
        self, path: Path, provider: ScriptedProvider
    ) -> None:
        """A stream that was closed before its end is no whole reply."""
        with Cached(provider, path) as client:
            stream = client.stream("Why?")
            next(stream)
            stream.close()
            assert not client.complete("Why?").cached

    def test_typed_answers(self, path: Path) -> None:
        """A kept reply gives its ``data`` again."""
        provider = ScriptedProvider(['{"x": 1}'])
        with Cached(provider, path) as client:
            assert client.complete("Where?", schema=Point).data == Point(1)
            again = client.complete("Where?", schema=Point)
        assert (again.data, again.cached) == (Point(1), True)

    def test_calls_of_tools_are_not_kept(self, path: Path) -> None:
        """Whatever the service says about why the reply ended."""
        call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
        provider = Ending(FinishReason("stop", tool_calls=[call]))
        with Cached(provider, path) as client:
            client.complete("Why?")
            again = client.complete("Why?")
        assert (again.cached, again.tool_calls) == (False, [call])

    def test_settings_that_change_replies(self, path: Path) -> None:
        """So do a provider's own settings, where the same question has another reply with them."""
        with Sandbox() as sandbox:
            local = sandbox.provider_arguments("openai_compatible")
            at_yandex = sandbox.provider_arguments("yandexgpt")
            for provider in (
                OpenAICompatible(**local),
                OpenAICompatible(**local, think_tags=False),
                YandexGPT(**at_yandex),
            ):
                with Cached(provider, path) as client:
                    assert [client.complete("Why?").cached for _ in range(2)] == [False, True]
            other = YandexGPT(**{**at_yandex, "folder_id": "another"})
            # The sandbox has models in one folder.
            with Cached(other, path) as client, pytest.raises(ModelNotFoundError):
                client.complete("Why?")

    def test_what_every_request_has(self, path: Path) -> None:
        """Headers and a session's headers and parameters are part of the question: two tenants
        never share a reply. A key is not, nor what only names the program or numbers requests."""

        def session(headers: dict[str, Any] | None = None, params: Any = None) -> requests.Session:
            made = requests.Session()
            made.headers.update(headers or {})
            made.params = params or {}
            return made

        own_key = {"Authorization": "Bearer other-key", "X-Api-Key": "other-key"}
        of_the_program = {"User-Agent": "mine/2", "X-Request-ID": "7", "traceparent": "00-1"}
        different: list[dict[str, Any]] = [
            {},
            {"headers": {"X-Tenant": "a"}},
            {"headers": {"X-Tenant": "b"}},
            {"session": session({"X-Tenant": "c"})},
            {"session": session({"X-Tenant": b"d"})},
            {"session": session(params={"deployment": "a"})},
            {"session": session(params={"deployment": ["a", "b"]})},
            {"session": session(params={"X-Tenant": "a"})},
        ]
        same: list[tuple[int, dict[str, Any]]] = [
            (0, {"headers": {**own_key, **of_the_program}}),
            (0, {"session": session({**own_key, **of_the_program, "X-Tenant": None})}),
            (0, {"session": session(params={"api_key": "other-key", "sig": "7", "none": None})}),
            (0, {"session": session(params="ignored=by-requests")}),
            (1, {"headers": {"x-tenant": "a", **own_key}}),
            (1, {"headers": {"x-tenant": "a"}, "session": session({"X-Tenant": "c"})}),
            (3, {"session": session({"x-tenant": "c"})}),
        ]
        with Sandbox() as sandbox:
            local = sandbox.provider_arguments("openai_compatible")
            for arguments in different:
                with Cached(OpenAICompatible(**local, **arguments), path) as client:
                    assert [client.complete("Why?").cached for _ in range(2)] == [False, True]
            for number, arguments in same:
                like, other = (
                    OpenAICompatible(**local, **given) for given in (different[number], arguments)
                )
                with Cached(other, path) as client:
                    assert client.complete("Why?").cached, arguments
                assert json.dumps(like.identity()) == json.dumps(other.identity())
                assert "other-key" not in json.dumps(other.identity())

    def test_gigachats_check_in_the_environment(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A field that GigaChat gets with every chat is part of the question."""
        with Sandbox() as sandbox:
            for check in ("", "true", "false"):
                monkeypatch.setenv("GIGACHAT_PROFANITY_CHECK", check)
                with Cached(GigaChat(**sandbox.provider_arguments("gigachat")), path) as client:
                    assert [client.complete("Why?").cached for _ in range(2)] == [False, True]

    def test_a_provider_without_such_settings(self) -> None:
        """Nothing stands for settings that it does not have: files of older versions answer it."""
        local = OpenAICompatible(base_url="http://localhost:1/v1", session=requests.Session())
        assert local.identity() == [
            *("OpenAICompatible", "OpenAICompatible", "http://localhost:1/v1", "gpt-4o-mini"),
            True,
        ]

    def test_accept_is_asked(self, path: Path, provider: ScriptedProvider) -> None:
        """A kept reply that ``accept`` turns down is asked for again."""
        with Cached(provider, path) as client:
            client.complete("Why?")
            seen: list[bool] = []

            def accept(completion: Any) -> bool:
                seen.append(completion.cached)
                return not completion.cached

            assert not client.complete("Why?", accept=accept).cached
        assert seen == [True, False]

    def test_it_stands_where_a_client_stands(self, path: Path, provider: ScriptedProvider) -> None:
        """In a ``FailoverClient``, in a conversation, in ``run``, and pickled."""
        client = FailoverClient([Cached(provider, path)])
        client.complete("Why?")
        assert client.complete("Why?").cached
        client.close()
        with Cached(FailoverClient([provider]), path) as outer:
            for _ in range(2):
                outer.complete("Why?")
            assert len(outer.report().recent) == 1
        with pickle.loads(pickle.dumps(Cached(provider, path, ttl=60))) as copy:
            assert copy.complete("Why?").cached
            assert copy.conversation().ask("Why?").cached

            def nothing() -> None:
                pass

            assert not copy.run("Why?", tools=[nothing]).cached
            assert copy.run("Why?", tools=[nothing]).cached

    def test_it_hands_the_deadline_on(self, path: Path, raw_server: RawServerFactory) -> None:
        """The deadline of who asks a cached client ends a stream that is not in the cache."""
        server = raw_server([Read(), Stall()])
        provider = OpenAICompatible(base_url=f"{server.url}/v1", api_key="k", model="m")
        with FailoverClient([Cached(provider, path)], attempts=1, deadline=0.3) as client:
            began = time.monotonic()
            with pytest.raises(DeadlineExceeded):
                list(client.stream("Why?"))
            with pytest.raises(DeadlineExceeded):
                client.complete("Why?")
        assert time.monotonic() - began < 20

    def test_what_it_is_called(self, path: Path, provider: ScriptedProvider) -> None:
        """Its ``repr`` tells the client and the file; its pickle keeps its arguments."""
        clock = Clock()
        made = Cached(provider, path, ttl=60, max_bytes=2**20, clock=clock)
        assert repr(made) == f"Cached({provider!r}, {str(path)!r})"
        with pickle.loads(pickle.dumps(made)) as copy:
            copy.complete("Why?")
            copy.clock.now += 61
            assert not copy.complete("Why?").cached

    def test_ttl(self, path: Path, provider: ScriptedProvider) -> None:
        """After ``ttl`` seconds a reply is asked for again."""
        clock = Clock()
        with Cached(provider, path, ttl=60, clock=clock) as client:
            client.complete("Why?")
            clock.now += 59
            assert client.complete("Why?").cached
            clock.now += 2
            assert not client.complete("Why?").cached
            assert client.complete("Why?").cached

    def test_a_shorter_ttl_of_another(self, path: Path, provider: ScriptedProvider) -> None:
        """What is too old for one client stays for those that have a longer ``ttl`` or none."""
        clock = Clock()
        with (
            Cached(provider, path, clock=clock) as patient,
            Cached(provider, path, ttl=60, clock=clock) as hasty,
        ):
            patient.complete("Why?")
            clock.now += 100
            hasty.complete("How?")
            assert patient.complete("Why?").cached
            assert not hasty.complete("Why?").cached

    def test_clear(self, path: Path, provider: ScriptedProvider) -> None:
        """``clear()`` deletes all, and the text is gone from the file."""
        with Cached(provider, path) as client:
            client.complete("Why?")
            client.clear()
            assert not client.complete("Why?").cached
            client.clear()
        assert b"cause." not in path.read_bytes()

    @pytest.mark.parametrize("arguments", [{"ttl": 0}, {"ttl": "1"}, {"max_bytes": 10}])
    def test_arguments(self, path: Path, provider: ScriptedProvider, arguments: Any) -> None:
        """Wrong arguments are told when it is made, and nothing is written then."""
        with pytest.raises(ValueError, match=next(iter(arguments))):
            Cached(provider, path, **arguments)
        with pytest.raises(TypeError):
            Cached("first", path)  # type: ignore[arg-type]
        for wrong in ("a\0b", "", " "):
            with pytest.raises(ValueError, match="path"):
                Cached(provider, wrong)
        Cached(provider, path)
        assert not path.exists()

    def test_it_grows_to_its_bound(self, path: Path) -> None:
        """Where the file grows too large the oldest replies go; the newest stay."""
        provider = ScriptedProvider(["x" * 5000])
        with Cached(provider, path, max_bytes=256 * 1024) as client:
            for number in range(200):
                client.complete(f"{number}?")
            assert client.complete("199?").cached
            assert not client.complete("0?").cached
        assert path.stat().st_size < 512 * 1024


class Plain(BaseClient):
    """Answers whatever it is asked, and counts."""

    name = "Plain"

    def __init__(self, *finish: FinishReason, text: str = "Yes.") -> None:
        self.finish = list(finish)
        self.text = text
        self.asked = 0
        self.closed = 0
        self.last: tuple[Request, CancelScope | None] | None = None

    def generate(
        self, request: Request, scope: CancelScope | None = None
    ) -> Generator[str, None, None]:
        """Answer."""
        self.asked += 1
        self.last = request, scope
        yield self.text
        yield self.finish[0] if self.finish else FinishReason("stop")

    def credential_digest(self) -> str | None:
        """A digest."""
        return "digest"

    def close(self) -> None:
        """Count."""
        self.closed += 1


class TestWhatItIs:
    def test_it_has_what_its_client_has(self, path: Path) -> None:
        """Name, deadline, clock, ``accept``, identity and digest are those of its client."""
        clock = Clock()
        first = ScriptedProvider(["Yes."], name="first")
        client = FailoverClient([first], deadline=9, accept=lambda _: True, clock=clock)
        cached = Cached(client, path)
        for name in ("name", "deadline", "clock", "accept"):
            assert getattr(cached, name) == getattr(client, name)
        assert cached.identity() == client.identity()
        assert Cached(Plain(), path).credential_digest() == "digest"

    def test_closing_closes_its_client(self, path: Path) -> None:
        """``close()`` closes the client, and the file, so that it can be moved; a call opens both
        again."""
        plain = Plain()
        client = Cached(plain, path)
        client.complete("Why?")
        client.close()
        assert plain.closed == 1
        assert list(path.parent.iterdir()) == [path]
        assert client.complete("Why?").cached
        client.close()

    def test_after_trouble_with_the_file(self, path: Path) -> None:
        """After ``close()`` a file that could not be used is tried again."""
        path.mkdir()
        client = Cached(Plain(), path)
        assert [client.complete("Why?").cached for _ in range(2)] == [False, False]
        path.rmdir()
        assert [client.complete("Why?").cached for _ in range(2)] == [False, False]
        client.close()
        assert [client.complete("Why?").cached for _ in range(2)] == [False, True]
        client.close()

    def test_a_relative_path(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """It stays where it was meant when the working directory changes."""
        other = tmp_path / "other"
        other.mkdir()
        monkeypatch.chdir(tmp_path)
        with Cached(Plain(), "replies.db") as client:
            monkeypatch.chdir(other)
            client.complete("Why?")
        assert (tmp_path / "replies.db").exists()
        assert list(other.iterdir()) == []

    @pytest.mark.parametrize(("most", "is_taken"), [(64 * 1024, True), (64 * 1024 - 1, False)])
    def test_the_smallest_bound(self, path: Path, most: int, is_taken: bool) -> None:
        """A file of less than 64 KiB cannot hold a useful number of replies."""
        if is_taken:
            Cached(Plain(), path, max_bytes=most)
            return
        with pytest.raises(ValueError, match="max_bytes"):
            Cached(Plain(), path, max_bytes=most)


class TestWhatIsKept:
    def test_the_order_of_parameters(self, path: Path, provider: ScriptedProvider) -> None:
        """It does not matter."""
        with Cached(provider, path) as client:
            client.complete("Why?", temperature=0.5, seed=1)
            assert client.complete("Why?", seed=1, temperature=0.5).cached

    def test_attached_files(self, path: Path, tmp_path: Path) -> None:
        """A file counts by what is in it: another name is the same question, another content is
        not. What cannot be read is the client's to tell."""
        one, two = tmp_path / "one", tmp_path / "two"
        one.write_bytes(b"1")
        two.write_bytes(b"1")
        with Cached(Plain(), path) as client:
            assert not client.complete("What?").cached
            assert not client.complete("What?", attach=one).cached
            assert client.complete("What?", attach=two).cached
            two.write_bytes(b"2")
            assert not client.complete("What?", attach=two).cached
            assert client.complete("What?", attach=one).cached
            one.unlink()
            assert [client.complete("What?", attach=one).cached for _ in range(2)] == [False] * 2
            text, _ = client.stream("What?", attach=one)
            assert text == "Yes."

    @pytest.mark.parametrize("attach", [(), ("no-such-file",)])
    def test_what_is_passed_on(self, path: Path, attach: tuple[str, ...]) -> None:
        """The question as it is and the asker's deadline, even if it cannot be told from others."""
        plain = Plain()
        client = FailoverClient([Cached(plain, path)], deadline=9)
        assert client.complete("What?", attach=attach).text == "Yes."
        assert plain.last is not None
        request, scope = plain.last
        assert (request.messages[0]["content"], request.attach) == ("What?", attach)
        assert scope is not None
        assert 0 < scope.remaining() <= 9
        client.close()

    def test_what_is_cached_already(self, path: Path) -> None:
        """A reply from a cache inside is not kept once more: it is as old as it is there."""
        plain = Plain()
        with Cached(Cached(plain, path), path.with_name("outer.db")) as client:
            client.complete("Why?")
            client.clear()
            assert client.complete("Why?").cached
            path.unlink()
            assert not client.complete("Why?").cached
        assert plain.asked == 2

    @pytest.mark.parametrize(
        ("finish", "text"),
        [
            (FinishReason("stop", message={"role": "assistant", "content": object()}), "Yes."),
            (FinishReason("stop"), ""),
            (FinishReason("stop", images=[Image("data:image/png;base64,AAEC")]), "Yes."),
        ],
    )
    def test_what_is_not_kept(self, path: Path, finish: FinishReason, text: str) -> None:
        """No text, pictures, and what JSON has no word for is not kept, and no error."""
        plain = Plain(finish, text=text)
        with Cached(plain, path) as client:
            for _ in range(2):
                list(client.stream("Why?"))
        assert plain.asked == 2

    def test_a_reply_that_is_too_large(self, path: Path) -> None:
        """One reply takes a tenth of the file at most; a larger one is not kept."""
        for length, is_kept in ((5000, True), (7000, False)):
            with Cached(Plain(text="x" * length), path, max_bytes=64 * 1024) as client:
                assert [client.complete(str(length)).cached for _ in range(2)] == [False, is_kept]

    def test_how_old_it_may_be(self, path: Path) -> None:
        """A reply is as old as ``ttl`` says at most; one from the future is not taken."""
        clock = Clock()
        with Cached(Plain(), path, ttl=60, clock=clock) as client:
            client.complete("Why?")
            assert client.complete("Why?").cached
            clock.now += 60
            assert not client.complete("Why?").cached
            clock.now -= 1
            assert not client.complete("Why?").cached

    def test_the_verdict_on_a_kept_reply(self, path: Path) -> None:
        """``accept`` of the call or the client may say no, or why not; the call's comes first."""
        with Cached(Plain(), path) as client:
            client.complete("Why?")
            for verdict, is_cached in ((True, True), (False, False), ("no", False), ("", False)):

                def accept(completion: Any, verdict: Any = verdict) -> Any:
                    return verdict if completion.cached else True

                assert client.complete("Why?", accept=accept).cached is is_cached
        turning_down = FailoverClient([ScriptedProvider(["Yes."])], accept=lambda c: not c.cached)
        with Cached(turning_down, path) as client:
            assert [client.complete("Why?").cached for _ in range(2)] == [False, False]
            assert client.complete("Why?", accept=lambda _: True).cached

    def test_a_kept_reply_that_no_longer_fits(
        self, path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Where the schema refuses a kept reply, it is asked for again, without a warning."""
        with Cached(ScriptedProvider(['{"x": 1}']), path) as client:
            client.complete("Where?", schema=Point)
            with closing(sqlite3.connect(path)) as connection, connection:
                connection.execute("UPDATE replies SET reply = replace(reply, '1}', 'null}')")
            again = client.complete("Where?", schema=Point)
        assert (again.data, again.cached) == (Point(1), False)
        assert caplog.records == []


class TestFile:
    def test_another_one_that_writes(
        self, path: Path, provider: ScriptedProvider, caplog: pytest.LogCaptureFixture
    ) -> None:
        """While another process holds the file for long, replies are sent and not kept; that is
        no trouble to warn of, and is over when it is over."""
        with Cached(provider, path) as client:
            client.complete("Why?")
            with closing(sqlite3.connect(path, isolation_level=None)) as other:
                other.execute("BEGIN IMMEDIATE")
                assert client.complete("Why?").cached
                assert not client.complete("How?").cached
                with pytest.raises(OSError, match="cannot be cleared"):
                    client.clear()
                other.execute("ROLLBACK")
            assert [client.complete("How?").cached for _ in range(2)] == [False, True]
        assert caplog.records == []

    def test_it_is_for_this_user_alone(self, path: Path, provider: ScriptedProvider) -> None:
        """The file and what stands beside it are 0600, and hold no prompt."""
        with Cached(provider, path) as client:
            client.complete("A secret question?")
            files = list(path.parent.iterdir())
            assert path in files
            for file in files:
                assert stat.S_IMODE(file.stat().st_mode) == 0o600
                assert b"secret question" not in file.read_bytes()

    @pytest.mark.parametrize("kind", ["text", "sqlite", "open", "link", "folder", "pipe"])
    def test_what_is_not_ours_is_left_alone(
        self, path: Path, provider: ScriptedProvider, kind: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Another file in its place is never changed: one warning, and every question is sent."""
        if kind == "sqlite":
            with sqlite3.connect(path) as connection:
                connection.execute("CREATE TABLE notes (text)")
            connection.close()
        elif kind == "link":
            path.with_name("target").touch(0o600)
            path.symlink_to("target")
        elif kind == "folder":
            path.mkdir()
        elif kind == "pipe":
            os.mkfifo(path, 0o600)
        else:
            path.write_text("my notes" if kind == "text" else "")
        if path.is_file():
            path.chmod(0o644 if kind == "open" else 0o600)
        before = path.read_bytes() if path.is_file() else None
        with Cached(provider, path) as client, caplog.at_level(logging.WARNING):
            for _ in range(3):
                assert not client.complete("Why?").cached
            with pytest.raises(OSError, match="cannot be cleared"):
                client.clear()
        assert (path.read_bytes() if path.is_file() else None) == before
        assert len(caplog.records) == 1
        assert str(path) in caplog.text

    @pytest.mark.parametrize("at", [100, 4096, 8192])
    def test_a_damaged_file(
        self, path: Path, provider: ScriptedProvider, at: int, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A damaged file is a miss and one warning, and no error."""
        with Cached(provider, path) as client:
            for number in range(200):
                client.complete(f"{number}?")
        data = path.read_bytes()
        path.write_bytes(data[:at] + b"\xff" * 4096 + data[at + 4096 :])
        with Cached(provider, path) as client, caplog.at_level(logging.WARNING):
            for number in range(200):
                assert client.complete(f"{number}?").text == "Because."
        assert len(caplog.records) <= 1

    @pytest.mark.parametrize("reply", ["no JSON", "{}", '{"text": 1}', "[1]", "EMPTY", "NUMBER"])
    def test_a_damaged_row(
        self, path: Path, provider: ScriptedProvider, reply: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A row that cannot be read is a miss and one warning, and is written anew."""
        with Cached(provider, path) as client:
            client.complete("Why?")
            client.complete("How?")
        with closing(sqlite3.connect(path)) as connection, connection:
            (whole,) = connection.execute("SELECT reply FROM replies").fetchone()
            for name, text in (("EMPTY", ""), ("NUMBER", 1)):
                reply = reply.replace(name, json.dumps({**json.loads(whole), "text": text}))
            connection.execute("UPDATE replies SET reply = ?", (reply,))
        with Cached(provider, path) as client, caplog.at_level(logging.WARNING):
            assert not client.complete("Why?").cached
            assert client.complete("Why?").cached
            assert not client.complete("How?").cached
        assert len(caplog.records) == 1

    def test_many_processes(self, path: Path) -> None:
        """Processes that write at the same time lose nothing and damage nothing."""
        code = (
            "import sys\nfrom llmproviders import Cached\n"
            "from llmproviders.testing import ScriptedProvider\n"
            "with Cached(ScriptedProvider(['Yes.']), sys.argv[1]) as client:\n"
            "    for n in range(30): client.complete(f'{sys.argv[2]} {n}')\n"
        )
        running = [
            subprocess.Popen([sys.executable, "-c", code, str(path), str(n)]) for n in range(3)
        ]
        assert [one.wait(60) for one in running] == [0, 0, 0]
        provider = ScriptedProvider(["Yes."])
        with Cached(provider, path) as client:
            hits = [client.complete(f"{p} {n}").cached for p in range(3) for n in range(30)]
        assert all(hits)

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
    def test_a_fork(self, path: Path, provider: ScriptedProvider) -> None:
        """A forked child opens the file anew, and its parent goes on."""
        with Cached(provider, path) as client:
            client.complete("Why?")
            child = os.fork()
            if child == 0:
                ok = client.complete("Why?").cached
                client.complete("Of the child?")
                os._exit(0 if ok else 1)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
            assert client.complete("Why?").cached
            assert client.complete("Of the child?").cached

    def test_a_file_that_can_only_be_read(self, path: Path, provider: ScriptedProvider) -> None:
        """It answers what it has; what it lacks is sent and not kept, after one warning."""
        with Cached(provider, path) as client:
            client.complete("Why?")

        def ask() -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
            with Cached(provider, path) as client:
                assert client.complete("Why?").cached
                assert [client.complete("How?").cached for _ in range(2)] == [False, False]
                assert client.complete("Why?").cached

        in_child(ask)

    def test_a_file_that_is_deleted_meanwhile(self, path: Path, provider: ScriptedProvider) -> None:
        """A process that has it open begins anew, in a file that others see."""
        with Cached(provider, path) as client:
            client.complete("Why?")
            for file in list(path.parent.iterdir()):
                file.unlink()
            assert not client.complete("Why?").cached
            with Cached(provider, path) as other:
                assert other.complete("Why?").cached


class Gated(BaseClient):
    """Answers when it is let, and counts."""

    name = "Gated"

    def __init__(self, error: BaseException | None = None) -> None:
        self.asked = 0
        self.begun = threading.Event()
        self.gate = threading.Event()
        self.error = error

    def generate(
        self, request: Request, scope: CancelScope | None = None
    ) -> Generator[str, None, None]:
        """Wait, then answer."""
        self.asked += 1
        self.begun.set()
        assert self.gate.wait(10)
        if self.error is not None:
            raise self.error
        yield "Yes."
        yield FinishReason("stop")

    def close(self) -> None:
        """Nothing to close."""


class TestSingleFlight:
    def test_threads_that_ask_the_same(self, path: Path) -> None:
        """Of threads that ask the same at once, one sends it and all get its reply."""
        gated = Gated()
        with Cached(gated, path) as client:
            replies: list[Any] = []
            threads = [
                threading.Thread(target=lambda: replies.append(client.complete("Why?")))
                for _ in range(5)
            ]
            for thread in threads:
                thread.start()
            assert gated.begun.wait(10)
            time.sleep(0.1)
            gated.gate.set()
            for thread in threads:
                thread.join(10)
        assert gated.asked == 1
        assert sorted(reply.cached for reply in replies) == [False, True, True, True, True]

    def test_a_failure_is_not_shared(self, path: Path) -> None:
        """Where the one that was sent fails, those that waited ask for themselves."""
        gated = Gated(ServerError("down"))
        with Cached(gated, path) as client:

            def ask() -> None:
                with pytest.raises(ServerError):
                    client.complete("Why?")

            first = threading.Thread(target=ask)
            first.start()
            assert gated.begun.wait(10)
            threading.Timer(0.1, gated.gate.set).start()
            with pytest.raises(ServerError):
                client.complete("Why?")
            first.join(10)
        assert gated.asked == 2

    @pytest.mark.parametrize("error", [ServerError("down"), KeyboardInterrupt()])
    def test_after_a_failure_one_of_those_that_waited_asks(
        self, path: Path, error: BaseException
    ) -> None:
        """Where the first one fails or is interrupted, a second one asks for all the others."""

        class Failing(Gated):
            def generate(
                self, request: Request, scope: CancelScope | None = None
            ) -> Generator[str, None, None]:
                """Fail the first time."""
                self.error = None if self.asked else error
                yield from super().generate(request, scope)

        gated = Failing()
        outcomes: list[object] = []

        def ask() -> None:
            try:
                outcomes.append(client.complete("Why?").cached)
            except BaseException as failure:  # noqa: BLE001 - looked at below
                outcomes.append(failure)

        with Cached(gated, path) as client:
            threads = [threading.Thread(target=ask) for _ in range(6)]
            for thread in threads:
                thread.start()
            assert gated.begun.wait(10)
            time.sleep(0.1)
            gated.gate.set()
            for thread in threads:
                thread.join(10)
        assert gated.asked == 2
        assert sorted(map(str, outcomes)) == sorted([str(error), "False", *["True"] * 4])

    def test_replies_that_are_not_kept(self, path: Path) -> None:
        """Those that waited for one ask at once, each for itself."""
        together = threading.Barrier(4)

        class Cut(Gated):
            def generate(
                self, request: Request, scope: CancelScope | None = None
            ) -> Generator[str, None, None]:
                """Answer, all but the first one at the same time."""
                self.asked += 1
                self.begun.set()
                assert self.gate.wait(10)
                if self.asked > 1:
                    together.wait(10)
                yield "Yes"
                yield FinishReason("length")

        gated = Cut()
        with Cached(gated, path) as client, ThreadPoolExecutor(5) as pool:
            first = pool.submit(client.complete, "Why?")
            assert gated.begun.wait(10)
            others = [pool.submit(client.complete, "Why?") for _ in range(4)]
            time.sleep(0.1)
            gated.gate.set()
            assert [str(reply.result(10)) for reply in (first, *others)] == ["Yes"] * 5
        assert gated.asked == 5

    @pytest.mark.parametrize("own", [True, False])
    def test_waiting_ends_with_the_deadline(self, path: Path, own: bool) -> None:
        """Who waits for another's question waits no longer than its own or the client's deadline
        allows."""
        gated = Gated()
        gated.deadline = None if own else 0.1
        with Cached(gated, path) as client:
            first = threading.Thread(
                target=client.complete, args=("Why?",), kwargs={"deadline": 60}
            )
            first.start()
            assert gated.begun.wait(10)
            with pytest.raises(DeadlineExceeded):
                client.complete("Why?", **({"deadline": 0.1} if own else {}))
            gated.gate.set()
            first.join(10)

    def test_a_question_inside_its_own_answer(self, path: Path, provider: ScriptedProvider) -> None:
        """An ``accept`` that asks the same, and a stream that stays open, do not wait for ever."""
        with Cached(provider, path) as client:
            depth: list[int] = []

            def accept(completion: Any) -> bool:
                depth.append(1)
                return len(depth) > 1 or bool(client.complete("Why?", accept=accept))

            assert client.complete("Why?", accept=accept).text == "Because."
            stream = client.stream("How?")
            next(stream)
            assert client.complete("How?").text == "Because."
            stream.close()


def test_a_hit_opens_no_connection(path: Path) -> None:
    """A hit prepares no request: nothing is sent, and no key is looked for."""

    class Once(ScriptedProvider):
        def prepare(self, request: Request, fetch: Fetch) -> Call:
            assert not self.requests
            return super().prepare(request, fetch)

    with Cached(Once(["Yes."]), path) as client:
        assert [client.complete("Why?").text for _ in range(3)] == ["Yes."] * 3
