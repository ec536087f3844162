"""What a stream promises, whatever a service sends: the one ``stream()`` keeps it for all."""

from __future__ import annotations

import copy
import itertools
import pickle
from collections.abc import Callable, Generator, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmproviders import (
    AuthenticationError,
    ChatGLM,
    ConnectionFailed,
    DeadlineExceeded,
    EmptyReplyError,
    FinishReason,
    FlowGpt,
    InvalidRequestError,
    LLMError,
    ModelNotFoundError,
    ProtocolError,
    Provider,
    ProviderTimeout,
    RateLimitError,
    RefusedError,
    ServerError,
    StreamInterrupted,
    Usage,
)
from llmproviders._runtime.scope import CancelScope
from llmproviders.client import collect
from llmproviders.provider import Call, Fetch, Reply, Request
from llmproviders.testing import ScriptedProvider
from tests.support.actors import FakeClock
from tests.support.calls import Canned, Sender
from tests.support.promise import read

Step = str | LLMError | Callable[[], object]


class Reciter(Provider):
    """Parses every reply to the same steps: text, a ``FinishReason``, an error, a function."""

    url = "http://127.0.0.1:9"
    default_model = "default"
    models = ("default", "large-model")
    model_aliases = {"big": "large-model"}
    supported_params = frozenset({"temperature"})

    def __init__(
        self, *script: Step, answers: tuple[Reply | LLMError, ...] = (), **arguments: Any
    ) -> None:
        super().__init__(**arguments)
        self.script = script
        self.reply = Canned(request_id="r-1")
        self.sender = Sender(*(answers or (self.reply,)))

    def make_transport(self) -> Sender:
        """What it is given."""
        return self.sender

    def prepare(self, request: Request, fetch: Fetch) -> Call:
        """One call."""
        return Call("POST", self.base_url, json={"model": request.model, **self.sampling(request)})

    def parse(self, reply: Reply) -> Iterator[str]:
        """Recite."""
        for step in self.script:
            if isinstance(step, LLMError):
                raise copy.copy(step)
            if isinstance(step, str):
                yield step
            else:
                step()


STOP = FinishReason("stop")
ERRORS = [
    ConnectionFailed("lost"),
    ProviderTimeout("silence"),
    DeadlineExceeded("late"),
    StreamInterrupted("cut"),
    ProtocolError("odd"),
    ServerError("busy"),
    RateLimitError("slow"),
    EmptyReplyError("nothing"),
]
ENDS = [
    STOP,
    FinishReason("length"),
    FinishReason("content_filter", detail="why"),
    FinishReason("tool_calls", tool_calls=[{"id": "1"}]),
    *ERRORS,
]
TEXTS = st.sampled_from(["", " ", "\n\u3000", "a", " b", "天", "\ud83d", "\ude00", "\ufffd"])
SCRIPTS = st.lists(TEXTS | st.sampled_from(ENDS), max_size=8)


def text_of(script: list[Step], end: object) -> str:
    """The text before the first end of a script, nothing where it is blank."""
    text = "".join(itertools.takewhile(lambda step: type(step) is str, script))  # type: ignore[arg-type]
    if not isinstance(end, FinishReason):
        text = text.removesuffix("\ud83d")  # half a character, whose other half never came
    text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text if text.strip() else ""


class TestPromise:
    @given(SCRIPTS)
    def test_whatever_is_parsed(self, script: list[Step]) -> None:
        """Pieces of text and one ``FinishReason``, or an error of ours: never anything else."""
        provider = Reciter(*script)
        reading = read(provider.stream("Hi"))
        end = next((step for step in script if type(step) is not str), None)
        assert reading.text == text_of(script, end)
        whole = isinstance(end, FinishReason) and bool(reading.text or end.tool_calls)
        assert (reading.finish is not None) is whole
        assert provider.reply.closed == 1

    @given(SCRIPTS)
    def test_complete_is_the_joined_stream(self, script: list[Step]) -> None:
        """``complete`` gives what the stream gives, joined; or raises what it raises."""
        reading = read(Reciter(*script).stream("Hi"))
        provider = Reciter(*script)
        if reading.error is not None:
            with pytest.raises(type(reading.error)) as caught:
                provider.complete("Hi")
            assert caught.value.partial_text == reading.text
        else:
            completion = provider.complete("Hi")
            assert str(completion) == reading.text
            assert completion.finish_reason.reason == reading.finish.reason
        assert provider.reply.closed == 1

    @given(SCRIPTS)
    def test_asked_for_at_once_it_is_one_chunk(self, script: list[Step]) -> None:
        """``create_generator(stream=False)`` yields the whole text as one chunk."""
        streamed = read(Reciter(*script).create_generator(None, "Hi"))
        whole = Reciter(*script).create_generator(None, "Hi", stream=False)
        if streamed.error is not None:
            with pytest.raises(type(streamed.error)):
                next(whole)
        else:
            *chunks, finish = whole
            assert isinstance(finish, FinishReason)
            assert chunks == [streamed.text] * bool(streamed.text)

    @given(SCRIPTS, st.integers(0, 9))
    def test_closing_closes_the_reply(self, script: list[Step], taken: int) -> None:
        """Closed at any point, a stream has closed its reply, and one never begun sent nothing."""
        provider = Reciter(*script)
        stream = provider.stream("Hi")
        for _ in range(taken):
            try:
                next(stream)
            except (StopIteration, LLMError):
                break
        stream.close()
        assert provider.reply.closed == bool(taken)
        assert len(provider.sender.calls) == bool(taken)
        assert list(stream) == []

    def test_dropping_closes_the_reply(self) -> None:
        """A stream that nobody holds any more is closed, without the garbage collector."""
        provider = Reciter("a", "b", STOP)
        for _ in provider.stream("Hi"):
            break
        assert provider.reply.closed == 1

    def test_a_stream_read_to_its_end_is_finished(self) -> None:
        """What comes after the end mark is read only when the caller has the finish reason."""
        provider = Reciter("a", STOP)
        stream = provider.stream("Hi")
        assert [next(stream), next(stream)] == ["a", ""]
        assert not provider.reply.finished
        assert list(stream) == []
        assert provider.reply.finished

    def test_white_space_before_the_text_is_kept(self) -> None:
        """White space alone is no text, but comes with the first text after it."""
        assert read(Reciter("", " ", "\n", " a", "", " ", "b", STOP).stream("Hi")).pieces == (
            " \n a",
            " ",
            "b",
        )

    def test_nothing_after_the_finish_reason_counts(self) -> None:
        """What a service says after its end is not read."""
        assert read(Reciter("a", STOP, "b", ServerError("x")).stream("Hi")).pieces == ("a",)

    def test_a_halved_character_is_joined(self) -> None:
        """A character that was cut in two comes whole, and half of one becomes U+FFFD."""
        pieces = read(Reciter("a\ud83d", "\ude00b", "\ude00", "c\ud83d", STOP).stream("Hi")).pieces
        assert pieces == ("a", "😀b", "\ufffd", "c", "\ufffd")


class TestEnds:
    def test_the_finish_reason_is_complete(self) -> None:
        """The last item has the provider's name, the model, the request's id and the attempt."""
        end = FinishReason("length", raw="max", usage=Usage(1, 2, 3), detail="d", reasoning="hm")
        finish = read(Reciter("a", "b", end, name="mine").stream("Hi")).finish
        assert (finish.reason, finish.raw, finish.usage) == ("length", "max", Usage(1, 2, 3))
        assert (finish.detail, finish.reasoning) == ("d", "hm")
        assert (finish.provider, finish.model, finish.request_id) == ("mine", "default", "r-1")
        (attempt,) = finish.attempts
        assert (attempt.provider, attempt.model, attempt.chunks) == ("mine", "default", 2)
        assert attempt.error is None

    def test_the_services_own_words_win(self) -> None:
        """A model and a request id that the reply itself names are not replaced."""
        end = FinishReason("stop", model="m-1", request_id="r-2")
        finish = read(Reciter("a", end).stream("Hi")).finish
        assert (finish.model, finish.request_id) == ("m-1", "r-2")

    @pytest.mark.parametrize(
        ("end", "cls", "words"),
        [
            (STOP, EmptyReplyError, "(stop) without any text"),
            (FinishReason("length"), EmptyReplyError, "raise max_tokens"),
            (FinishReason("content_filter", detail="why"), RefusedError, "before any text: why"),
            (FinishReason("content_filter"), RefusedError, "before any text"),
            (None, StreamInterrupted, "without its end mark"),
            (ServerError("busy"), ServerError, "busy"),
            (ConnectionFailed("lost"), ConnectionFailed, "lost"),
        ],
    )
    def test_no_text(self, end: Any, cls: type[LLMError], words: str) -> None:
        """A reply without text is an error, which says what to do about it where it can."""
        script = [] if end is None else [end]
        for blank in ([], ["", " \n"]):
            error = read(Reciter(*blank, *script).stream("Hi")).error
            assert type(error) is cls
            assert words in str(error)
            assert error.request_id == "r-1"
            assert error.detail == getattr(end, "detail", None)

    @pytest.mark.parametrize("error", ERRORS, ids=lambda e: type(e).__name__)
    def test_an_error_after_text(self, error: LLMError) -> None:
        """A lost connection or a silence cuts the reply short; what else went wrong says itself."""
        cut = isinstance(error, (ConnectionFailed, ProviderTimeout)) and not isinstance(
            error, DeadlineExceeded
        )
        reading = read(Reciter("a", "b", error).stream("Hi"))
        raised = reading.error
        assert type(raised) is (StreamInterrupted if cut else type(error))
        assert type(raised.__cause__) is (type(error) if cut else type(None))
        assert str(error) in str(raised)
        assert (raised.partial_text, raised.provider) == ("ab", "Reciter")
        (attempt,) = raised.attempts
        assert attempt.error is raised
        assert attempt.chunks == 2
        assert pickle.loads(pickle.dumps(raised)).attempts[0].chunks == 2

    def test_a_long_text_is_kept_whole(self) -> None:
        """An error after thousands of pieces has all of them, and counts them."""
        pieces = [f"слово{n} " for n in range(5000)]
        error = read(Reciter(*pieces, ServerError("busy")).stream("Hi")).error
        assert error.partial_text == "".join(pieces)
        assert error.attempts[0].chunks == 5000

    def test_an_attempt_is_timed(self) -> None:
        """An attempt has when it began, and the seconds to its first text and to its end."""
        clock = FakeClock(monotonic=5.0, wall=100.0)
        wait = [lambda s=s: clock.pass_(s) for s in (1.0, 2.0, 4.0)]
        provider = Reciter(wait[0], " ", wait[1], "a", wait[2], STOP)
        finish = list(provider.generate(Request.of("Hi", params={}), CancelScope(clock=clock)))[-1]
        assert isinstance(finish, FinishReason)
        (attempt,) = finish.attempts
        assert (attempt.started_at, attempt.first_chunk_after, attempt.duration) == (
            100.0,
            3.0,
            7.0,
        )
        failed = Reciter(wait[0], ServerError("busy"))
        with pytest.raises(ServerError) as caught:
            list(failed.generate(Request.of("Hi", params={}), CancelScope(clock=clock)))
        (attempt,) = caught.value.attempts
        assert (attempt.first_chunk_after, attempt.duration, attempt.chunks) == (None, 1.0, 0)

    @pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit])
    def test_an_interrupt_keeps_the_text(self, interrupt: type[BaseException]) -> None:
        """Ctrl-C in ``complete`` leaves with the text so far, and closes the reply."""

        def stop() -> None:
            raise interrupt

        provider = Reciter("a", "b", stop)
        with pytest.raises(interrupt) as caught:
            provider.complete("Hi")
        assert caught.value.partial_text == "ab"  # type: ignore[attr-defined]
        assert provider.reply.closed == 1


def generator_of(provider: Provider, prompt: str, **params: Any) -> Generator[str, None, None]:
    """``create_generator`` in the order of ``stream``."""
    return provider.create_generator(None, prompt, **params)


class TestBeforeSending:
    @pytest.mark.parametrize("ask", [Provider.stream, Provider.complete, generator_of])
    @pytest.mark.parametrize(
        ("params", "words"),
        [
            ({"temprature": 1}, "unknown parameter 'temprature'; did you mean 'temperature'"),
            ({"max_token": 1}, "did you mean 'max_tokens'"),
            ({"TopP": 1}, "did you mean 'top_p'"),
            ({"xyzzy": 1}, "unknown parameter 'xyzzy'$"),
            ({"streams": 1}, "unknown parameter 'streams'"),
        ],
    )
    def test_unknown_parameters(
        self, ask: Callable[..., Any], params: dict[str, Any], words: str
    ) -> None:
        """A name that no service has raises ``TypeError`` with the nearest, at the call itself."""
        provider = Reciter("a", STOP)
        with pytest.raises(TypeError, match=words):
            ask(provider, "Hi", **params)
        assert provider.sender.calls == []

    @pytest.mark.parametrize(
        "arguments",
        [
            {"prompt": ""},
            {"prompt": []},
            {"prompt": 7},
            {"prompt": "Hi", "system": 7},
            {"prompt": "Hi", "timeout": 0},
            {"prompt": "Hi", "timeout": -1},
            {"prompt": "Hi", "timeout": float("nan")},
            {"prompt": "Hi", "timeout": "soon"},
            {"prompt": "Hi", "timeout": (1, 2, 3)},
            {"prompt": "Hi", "timeout": (1, 0)},
            {"prompt": "Hi", "proxy": "nonsense://x"},
            {"prompt": "Hi", "proxy": "http://"},
            {"prompt": "Hi", "proxy": "http://host:port"},
            {"prompt": "Hi", "model": 7},
            {"prompt": "Hi", "extra_body": ["x"]},
        ],
    )
    def test_wrong_arguments(self, arguments: dict[str, Any]) -> None:
        """What no service could take is an error at the call, not at the first text."""
        provider = Reciter("a", STOP)
        with pytest.raises(InvalidRequestError) as caught:
            provider.stream(**arguments)
        assert caught.value.status_code is None
        assert provider.sender.calls == []

    @pytest.mark.parametrize("timeout", [1, 0.5, (1, 2), (None, 5), (1, None), [1, 2], None])
    def test_timeouts(self, timeout: Any) -> None:
        """Seconds, or a pair of connect and read, of which None is no limit."""
        provider = Reciter("a", STOP)
        read(provider.stream("Hi", timeout=timeout))
        assert provider.sender.options == [{"timeout": timeout, "proxy": None}]

    def test_nothing_is_sent_before_the_first_next(self) -> None:
        """A stream that nobody reads costs nothing."""
        provider = Reciter("a", STOP)
        stream = provider.stream("Hi")
        assert isinstance(stream, Generator)
        assert provider.sender.calls == []
        next(stream)
        assert len(provider.sender.calls) == 1

    @pytest.mark.parametrize(
        ("name", "words"),
        [
            (
                "larg-model",
                r"no model 'larg-model'; did you mean 'large-model'\? It has: default, l",
            ),
            ("bigg", "did you mean 'big'"),
            ("xyzzy", r"no model 'xyzzy'\. It has: default, large-model"),
        ],
    )
    def test_unknown_models(self, name: str, words: str) -> None:
        """A name that the service lacks is refused with near names, and nothing is sent."""
        provider = Reciter("a", STOP, name="mine")
        for ask in (lambda: provider.get_model(name), lambda: provider.complete("Hi", model=name)):
            with pytest.raises(ModelNotFoundError, match=words) as caught:
                ask()
            assert caught.value.provider == "mine"
        assert provider.sender.calls == []

    @pytest.mark.parametrize(
        ("default", "asked", "model"),
        [
            (None, None, "default"),
            ("big", None, "large-model"),
            ("large-model", "default", "default"),
            (None, "big", "large-model"),
        ],
    )
    def test_models(self, default: str | None, asked: str | None, model: str) -> None:
        """The call's model goes before the instance's, that before the class's; aliases count."""
        provider = Reciter("a", STOP, model=default)
        assert read(provider.stream("Hi", model=asked)).finish.model == model
        assert provider.sender.calls[0].json["model"] == model

    def test_parameters(self) -> None:
        """What the service takes is sent, None is not, the rest is left out."""
        provider = Reciter("a", STOP)
        read(provider.stream("Hi", temperature=0, seed=1))
        read(provider.stream("Hi", temperature=None))
        assert [call.json for call in provider.sender.calls] == [
            {"model": "default", "temperature": 0},
            {"model": "default"},
        ]


class Mending(Reciter):
    """Mends what it is told to, and explains refusals."""

    words: tuple[str | None, ...] = ()
    seen: list[LLMError]

    def recover(
        self, error: LLMError, call: Call | None, request: Request, fetch: Fetch
    ) -> str | None:
        """Give the next word."""
        self.seen = [*getattr(self, "seen", []), error]
        return self.words[len(self.seen) - 1]

    def describe_error(self, error: LLMError, request: Request) -> LLMError:
        """A better word for a refusal."""
        if isinstance(error, AuthenticationError):
            return AuthenticationError("explained", status_code=error.status_code)
        return error


class TestMending:
    def make(self, *words: str | None, failures: int) -> Mending:
        """A provider whose first so many calls are refused."""
        provider = Mending(
            "a", STOP, answers=(*(AuthenticationError("no", status_code=401),) * failures, Canned())
        )
        provider.words = words
        return provider

    @pytest.mark.parametrize(
        ("words", "failures", "calls", "ends_well"),
        [
            (("token",), 1, 2, True),
            ((None,), 1, 1, False),
            (("token", "token"), 2, 2, False),
            (("token", "model"), 2, 3, True),
            (("token", "model", "token"), 3, 3, False),
        ],
    )
    def test_each_word_counts_once(
        self, words: tuple[str | None, ...], failures: int, calls: int, ends_well: bool
    ) -> None:
        """What was mended is asked again, once for each word; then the refusal stands."""
        provider = self.make(*words, failures=failures)
        reading = read(provider.stream("Hi"))
        assert (reading.error is None) is ends_well
        assert len(provider.sender.calls) == calls
        if not ends_well:
            assert (str(reading.error), reading.error.status_code) == ("explained", 401)
            assert type(reading.error.__cause__) is AuthenticationError
            assert len(reading.error.attempts) == 1

    def test_nothing_is_mended_after_text(self) -> None:
        """Once text is out the request is not repeated."""
        provider = Mending("a", AuthenticationError("no"))
        provider.words = ("token",)
        assert read(provider.stream("Hi")).text == "a"
        assert len(provider.sender.calls) == 1
        assert provider.reply.closed == 1

    def test_calls_that_are_no_chats_are_mended_too(self) -> None:
        """``ask`` repeats, explains and closes as a chat does."""
        assert self.ask(self.make("token", failures=1)) == b""
        refused = self.make(None, failures=1)
        with pytest.raises(AuthenticationError, match="explained") as caught:
            self.ask(refused)
        assert caught.value.provider == "Mending"

    @staticmethod
    def ask(provider: Provider) -> bytes:
        """Fetch something."""
        return provider.ask(lambda _: Call("GET", provider.base_url), lambda reply: reply.read())


class TestProvider:
    def test_making_one_does_nothing(self) -> None:
        """No transport is made before the first call, and ``close`` without one is fine."""
        provider = FlowGpt()
        provider.close()
        assert "_made_transport" not in provider.__dict__

    def test_the_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """An address comes from the environment unless an argument says otherwise."""
        monkeypatch.setenv("LLMPROVIDERS_CHATGLM_BASE_URL", "http://127.0.0.1:8123/")
        assert ChatGLM().base_url == "http://127.0.0.1:8123"
        assert ChatGLM(base_url="http://x").base_url == "http://x"
        assert FlowGpt().base_url == FlowGpt.url

    @pytest.mark.parametrize("proxy", ["nonsense://x", "socks9://x:1"])
    def test_a_wrong_proxy_is_found_when_it_is_made(
        self, monkeypatch: pytest.MonkeyPatch, proxy: str
    ) -> None:
        """A proxy of an unknown kind is an error at once, from the environment too."""
        with pytest.raises(InvalidRequestError):
            ChatGLM(proxy=proxy)
        monkeypatch.setenv("LLMPROVIDERS_PROXY", proxy)
        with pytest.raises(InvalidRequestError):
            ChatGLM()

    @pytest.mark.parametrize(
        ("proxy", "secret"),
        [
            ("nonsense://me:hunter22@x:1", "hunter22"),
            ("http://me:hun/ter22@x:1", "ter22"),
            ("http://me:hun#ter22@x:1", "ter22"),
            ("http://me:hun?ter22@x:1", "ter22"),
            ("http://me:hun@ter22@x:port", "ter22"),
            ("me:hunter22@x:port", "hunter22"),
            ("socks5://me:hun ter22@[x", "ter22"),
        ],
    )
    def test_a_wrong_proxy_is_not_printed_with_its_password(self, proxy: str, secret: str) -> None:
        """The error names the proxy without what stands before its last ``@``."""
        with pytest.raises(InvalidRequestError) as caught:
            ChatGLM(proxy=proxy)
        assert secret not in f"{caught.value!r} {caught.value}"
        assert caught.value.__cause__ is None

    def test_repr_masks_a_password(self) -> None:
        """``repr`` names the provider and its address, not what the address holds."""
        provider = ChatGLM(base_url="http://me:hunter22@127.0.0.1:1", name="mine")
        assert repr(provider) == "ChatGLM(name='mine', base_url='http://***@127.0.0.1:1')"

    def test_pickle(self) -> None:
        """A provider travels to another process with its arguments, without its connections."""
        provider = FlowGpt(base_url="http://x", model="gemini", timeout=(1, 2), name="mine")
        again = pickle.loads(pickle.dumps(provider))
        assert type(again) is FlowGpt
        assert (again.base_url, again.name, again.timeout) == ("http://x", "mine", (1.0, 2.0))
        assert again.get_model(None) == "google-gemini"

    def test_the_readme_example_of_a_provider(self) -> None:
        """``with`` closes, ``complete`` collects, and a scripted provider needs no network."""
        with ScriptedProvider(["Hel", "lo"]) as provider:
            assert str(provider.complete("Hi")) == "Hello"
        assert str(collect(provider.stream("Hi"))) == "Hello"
