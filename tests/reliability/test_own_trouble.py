"""A provider's own trouble, its settings and its bugs, is never the end of a failover."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from llmproviders import (
    AllProvidersFailed,
    FailoverClient,
    FinishReason,
    GigaChat,
    InvalidRequestError,
    LLMError,
    OpenAICompatible,
    ProtocolError,
    Provider,
    ServerError,
    YandexGPT,
)
from llmproviders._account.keys import KeyFile, KeyVariable
from llmproviders.provider import Call, Fetch, Reply, Request
from llmproviders.providers import REGISTRY
from llmproviders.testing import ScriptedProvider
from tests.conftest import RawServerFactory
from tests.support.calls import Canned, Sender
from tests.support.http_bytes import http_response


class Careless(Provider):
    """A provider from elsewhere; each of its steps may be replaced by one that fails."""

    url = "http://127.0.0.1:9"
    default_model = "m"
    models = ("m",)

    def __init__(self, **steps: Callable[[], Any]) -> None:
        super().__init__()
        self.steps = steps
        self.reply = Canned(b"{}", request_id="r-1")
        self.sender = Sender(self.reply)

    def make_transport(self) -> Sender:
        """What gives the canned reply."""
        return self.sender

    def _step(self, name: str) -> None:
        self.steps.get(name, lambda: None)()

    def get_model(self, name: str | None) -> str:
        """One model."""
        self._step("get_model")
        return "m"

    def prepare(self, request: Request, fetch: Fetch) -> Call:
        """One call."""
        self._step("prepare")
        return Call("POST", self.base_url)

    def parse(self, reply: Reply) -> Iterator[str]:
        """Text, and what comes before, between and after."""
        self._step("parse")
        return self._pieces()

    def _pieces(self) -> Iterator[str]:
        self._step("before")
        yield "text"
        self._step("after")
        yield FinishReason("stop")


def fail(error: BaseException) -> Callable[[], None]:
    """A step that raises ``error``."""

    def step() -> None:
        raise error

    return step


FOREIGN = [
    KeyError("text"),
    TypeError("None"),
    OSError("disk"),
    TimeoutError("own"),
    StopIteration(),
]


class TestForeignExceptions:
    @pytest.mark.parametrize("error", FOREIGN, ids=lambda error: type(error).__name__)
    @pytest.mark.parametrize("step", ["get_model", "prepare", "parse", "before"])
    def test_the_next_provider_is_asked(self, step: str, error: Exception) -> None:
        """What a provider raises is a ``ProtocolError`` with its cause; the next one answers."""
        careless = Careless(**{step: fail(error)})
        with pytest.raises(ProtocolError, match="Careless failed: ") as caught:
            list(careless.stream("Hi"))
        cause = caught.value.__cause__
        # Python makes a RuntimeError of a StopIteration that leaves a generator.
        assert cause is error or (cause is not None and cause.__cause__ is error)
        assert caught.value.provider == "Careless"
        client = FailoverClient([careless, ScriptedProvider(["second"])], attempts=1)
        assert str(client.complete("Hi")) == "second"
        assert careless.reply.closed == (0 if step in ("get_model", "prepare") else 2)

    @pytest.mark.parametrize("error", FOREIGN, ids=lambda error: type(error).__name__)
    @pytest.mark.parametrize(
        "hook", ["slot", "recover", "describe_error", "make_transport", "credential_digest"]
    )
    def test_hooks_that_fail(self, hook: str, error: Exception) -> None:
        """So does the next one where another hook fails, also when both have failed before."""
        kind = type("Hooked", (Careless,), {hook: lambda *_, **__: fail(error)()})
        hooked = kind(before=fail(ServerError("down")))
        second = ScriptedProvider(["second"])
        client = FailoverClient([hooked, second], attempts=1, cooldown=60)
        for _ in range(2):
            assert str(client.complete("Hi")) == "second"
        if hook != "credential_digest":
            with pytest.raises(ProtocolError, match=f"{hook} of Hooked failed: "):
                hooked.complete("Hi")

    @pytest.mark.parametrize("error", FOREIGN, ids=lambda error: type(error).__name__)
    @pytest.mark.parametrize("moment", ["__enter__", "__exit__"])
    def test_slots_that_fail(self, moment: str, error: Exception) -> None:
        """So does the next one where a provider's slot fails when it is taken or given back."""

        class Jammed(contextlib.nullcontext[float]):
            """A slot of somebody else's."""

        setattr(Jammed, moment, lambda *_: fail(error)())
        kind = type("Jamming", (Careless,), {"slot": lambda *_: Jammed(0.0)})
        with pytest.raises(ProtocolError, match="slot of Jamming failed: ") as caught:
            kind().complete("Hi")
        assert caught.value.__cause__ is error
        assert [attempt.provider for attempt in caught.value.attempts] == ["Jamming"]
        client = FailoverClient([kind(), ScriptedProvider(["second"])], attempts=1)
        assert str(client.complete("Hi")) == "second"

    @pytest.mark.parametrize("made", [None, {}, "https://careless.example", ("POST", "url")])
    def test_a_call_that_is_none(self, made: Any) -> None:
        """What ``prepare`` returns in place of a call is the provider's failure."""
        kind = type("Forgetful", (Careless,), {"prepare": lambda *_: made})
        with pytest.raises(ProtocolError, match=r"prepare of Forgetful failed.*not a Call"):
            kind().complete("Hi")
        client = FailoverClient([kind(), ScriptedProvider(["second"])], attempts=1)
        assert str(client.complete("Hi")) == "second"

    @pytest.mark.parametrize("told", [None, "down", ValueError("other")])
    def test_an_error_that_is_described_by_none(self, told: Any) -> None:
        """Where ``describe_error`` returns no error of ours, the failure itself is raised."""
        kind = type("Silent", (Careless,), {"describe_error": lambda *_: told})
        silent = kind(before=fail(ServerError("down")))
        with pytest.raises(ServerError, match="down"):
            silent.complete("Hi")

    def test_headers_that_are_no_table(self) -> None:
        """A call that cannot be sent for the types in it is an error of ours."""
        call = Call("POST", "http://127.0.0.1:9/", headers=["odd"])  # type: ignore[arg-type]
        own = {"prepare": lambda *_: call, "make_transport": Provider.make_transport}
        kind = type("Odd", (Careless,), own)
        with pytest.raises(InvalidRequestError, match="cannot be sent"):
            kind().complete("Hi")

    def test_a_slot_that_is_none(self) -> None:
        """What is no context manager is the provider's failure."""
        kind = type("Slotless", (Careless,), {"slot": lambda *_: 0.0})
        with pytest.raises(ProtocolError, match="slot of Slotless failed: "):
            kind().complete("Hi")

    def test_after_text(self) -> None:
        """After text, too, it is an error of ours, with the text so far and the request's id."""
        with pytest.raises(ProtocolError, match="KeyError: 'x'") as caught:
            list(Careless(after=fail(KeyError("x"))).stream("Hi"))
        assert (caught.value.partial_text, caught.value.request_id) == ("text", "r-1")

    @pytest.mark.parametrize("step", ["prepare", "parse", "before", "after"])
    @pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3)])
    def test_what_ends_a_program_passes(self, step: str, error: BaseException) -> None:
        """A ``KeyboardInterrupt`` and its like leave as they are."""
        with pytest.raises(type(error)):
            list(Careless(**{step: fail(error)}).stream("Hi"))

    def test_what_a_caller_throws_in_passes(self) -> None:
        """An exception that a caller throws into a stream comes back as it is."""
        stream = Careless().stream("Hi")
        assert next(stream) == "text"
        with pytest.raises(KeyError, match="mine"):
            stream.throw(KeyError("mine"))

    @pytest.mark.parametrize("step", ["prepare", "parse", "before", "after"])
    def test_what_a_signals_handler_raises_passes(self, step: str) -> None:
        """An alarm's ``TimeoutError`` is the program's own: it is neither mapped nor retried."""

        def expire(*_: object) -> None:
            raise TimeoutError("the alarm")

        before = signal.signal(signal.SIGALRM, expire)
        careless = Careless(**{step: lambda: os.kill(os.getpid(), signal.SIGALRM)})
        try:
            with pytest.raises(TimeoutError, match="the alarm") as caught:
                FailoverClient([careless, ScriptedProvider(["second"])]).complete("Hi")
        finally:
            signal.signal(signal.SIGALRM, before)
        assert not isinstance(caught.value, LLMError)

    def test_a_secret_in_it_is_masked(self) -> None:
        """What looks like a credential in a foreign exception is masked in ours."""
        error = ValueError("cannot use http://me:hunter22@host/")
        with pytest.raises(ProtocolError) as caught:
            list(Careless(prepare=fail(error)).stream("Hi"))
        assert "hunter22" not in str(caught.value) + str(caught.value.__cause__)


class TestSettings:
    @pytest.mark.parametrize(
        "make",
        [
            lambda folder: OpenAICompatible(base_url="http:///v1"),
            lambda folder: OpenAICompatible(base_url="nowhere"),
            lambda folder: OpenAICompatible(base_url="http://127.0.0.1:99999/v1"),
            lambda folder: OpenAICompatible(base_url="http://a b/v1"),
            lambda folder: OpenAICompatible(base_url="http://127.0.0.1:9/v1", api_key="two\nlines"),
            lambda folder: OpenAICompatible(base_url="http://127.0.0.1:9/v1", api_key="ключ"),
            lambda folder: GigaChat(access_token="t0ken", ca_bundle=folder / "nowhere.pem"),
            lambda folder: GigaChat(access_token="t0ken", ca_bundle=folder),
        ],
    )
    def test_it_moves_on(self, tmp_path: Path, make: Callable[[Path], Provider]) -> None:
        """A bad address, key or bundle of one provider is an error of that one, told by a class
        of ours within its attempt, and the next one answers."""
        try:
            provider = make(tmp_path)
        except LLMError:
            return
        fallback = ScriptedProvider(["second"])
        client = FailoverClient([provider, fallback], attempts=1, fall_through=LLMError)
        reply = client.complete("Hi")
        assert str(reply) == "second"
        assert isinstance(reply.attempts[0].error, LLMError)

    @pytest.mark.parametrize("value", ["a\nb", "ключ", None, 5, object()])
    def test_a_header_that_cannot_be_sent(self, raw_server: RawServerFactory, value: Any) -> None:
        """A header that a provider from elsewhere makes wrong is that provider's failure."""

        class Headers(Careless):
            def make_transport(self) -> Any:
                return Provider.make_transport(self)

            def prepare(self, request: Request, fetch: Fetch) -> Call:
                return Call("POST", server.url, headers={"X-Own": value}, json={})

        server = raw_server(http_response(200, {"Content-Type": "application/json"}, b"{}"))
        with Headers() as provider:
            client = FailoverClient(
                [provider, ScriptedProvider(["second"])], attempts=1, fall_through=LLMError
            )
            reply = client.complete("Hi")
        # What can be sent after all is answered.
        assert str(reply) == "second" or (value == 5 and str(reply) == "text")

    def test_a_wrong_proxy_of_the_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A proxy that cannot be one is told within the attempt."""
        monkeypatch.setenv("HTTPS_PROXY", "ftp://nowhere")
        provider = OpenAICompatible(base_url="https://example.invalid/v1")
        client = FailoverClient(
            [provider, ScriptedProvider(["second"])], attempts=1, fall_through=LLMError
        )
        assert str(client.complete("Hi")) == "second"

    @pytest.mark.parametrize("hedge_after", [None, 0.01])
    @pytest.mark.parametrize("health", [False, True])
    @pytest.mark.parametrize("kept", ["argument", "file", "variable", "nowhere"])
    def test_keys_that_are_none(
        self,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        kept: str,
        health: bool,
        hedge_after: float | None,
    ) -> None:
        """Bad keys of several providers in a row each end their own attempt, call after call.

        The attempts name their providers, also where earlier failures are remembered.
        """
        file = tmp_path / "key"
        file.write_text("two\nlines")
        monkeypatch.setenv("TWO_LINES", "two\nlines")
        key: Any = {
            "argument": "two\nlines",
            "file": KeyFile(str(file)),
            "variable": KeyVariable("TWO_LINES"),
            "nowhere": KeyFile(str(tmp_path / "gone")),
        }[kept]
        kinds = [kind for kind in REGISTRY.values() if "api_key" in kind.environment]
        bad: list[Provider] = []
        for kind in kinds:
            arguments: dict[str, Any] = {"base_url": "http://127.0.0.1:9/v1", "api_key": key}
            if kind is YandexGPT:
                arguments["folder_id"] = "b1g"
            bad.append(kind(**arguments))
        failing = ScriptedProvider([], error=ServerError("down"), name="down")
        memory = {"health": tmp_path / "health.json"} if health else {}
        providers = [failing, *bad, ScriptedProvider(["second"])]
        client = FailoverClient(
            providers, attempts=1, cooldown=600, hedge_after=hedge_after, **memory
        )
        names = {provider.name for provider in bad}
        replies = [client.complete("Hi") for _ in range(3)]
        assert [str(reply) for reply in replies] == ["second"] * 3
        assert names <= {one.provider for one in replies[0].attempts}
        assert not any(one.provider is None for reply in replies for one in reply.attempts)
        with pytest.raises(AllProvidersFailed) as caught:
            FailoverClient(bad, attempts=1, hedge_after=hedge_after, **memory).complete("Hi")
        assert {one.provider for one in caught.value.attempts} == names
        assert "None:" not in str(caught.value)
        assert "lines" not in str(caught.value).replace("one line", "")
