"""Batches in memory: what goes in, what comes out, and how much of it is under way."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import weakref
from collections.abc import Generator, Iterator
from concurrent.futures import (
    BrokenExecutor,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
)
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tenacity import wait_none

from llmproviders import (
    Completion,
    DeadlineExceeded,
    FailoverClient,
    InvalidRequestError,
    OpenAICompatible,
    RejectedReplyError,
    ServerError,
)
from llmproviders.batch import BatchResult, _flow, map, run
from llmproviders.provider import Request
from llmproviders.sandbox import Sandbox
from llmproviders.testing import ScriptedProvider
from tests.conftest import RawServerFactory
from tests.support.batches import WAIT_S, Echo, Gate, Inline
from tests.support.rawserver import Stall
from tests.support.served import SERVED


def by_id(results: Iterator[BatchResult]) -> dict[Any, BatchResult]:
    """Run a batch to its end; the results by their ids, each of which came once."""
    found: dict[Any, BatchResult] = {}
    for result in results:
        assert result.id not in found
        found[result.id] = result
    return found


def openai(sandbox: Sandbox, **arguments: Any) -> OpenAICompatible:
    """A provider that asks the sandbox."""
    return OpenAICompatible(**{**sandbox.provider_arguments("openai"), **arguments})


class TestRequests:
    def test_one_result_each(self) -> None:
        """There is one result for each request, with its completion, id and place."""
        results = by_id(run(Echo(), [f"question {n}" for n in range(50)]))
        assert sorted(results) == list(range(1, 51))
        for own_id, result in results.items():
            assert result.index == own_id - 1
            assert result.error is None
            assert isinstance(result.completion, Completion)
            assert result.completion.text == f"question {result.index}"

    def test_no_requests(self) -> None:
        """Nothing asked, nothing answered."""
        assert list(run(Echo(), [])) == []
        assert list(run(Echo(), iter(()))) == []

    def test_forms(self, sandbox: Sandbox) -> None:
        """A string, messages, and objects with prompt or messages, model and parameters are sent
        as complete() would send them.
        """
        messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "b"}]
        requests = [
            "a",
            messages,
            {"prompt": "c", "model": "gpt-4o", "temperature": 0.5, "system": "Rhyme."},
            {"id": "mine", "messages": [{"role": "user", "content": "d"}], "max_tokens": 3},
        ]
        results = by_id(run(openai(sandbox), requests))
        assert [results[key].error for key in (1, 2, 3, "mine")] == [None] * 4
        bodies = [record.json for record in sandbox.requests]
        sent = {body["messages"][-1]["content"]: body for body in bodies}
        assert sent["a"]["messages"] == [{"role": "user", "content": "a"}]
        assert sent["b"]["messages"] == messages
        assert sent["c"]["messages"][0] == {"role": "system", "content": "Rhyme."}
        assert (sent["c"]["model"], sent["c"]["temperature"]) == ("gpt-4o", 0.5)
        assert sent["d"]["max_tokens"] == 3

    @pytest.mark.parametrize(
        ("request_", "why"),
        [
            ("", "empty"),
            ([], "empty"),
            (7, "not int"),
            (None, "not NoneType"),
            ({}, '"prompt" or "messages"'),
            ({"prompt": "a", "messages": "b"}, "both"),
            ({"prompt": ["a"]}, "message 0"),
            ({"prompt": "a", "model": 4}, "model must be a string"),
            ({"prompt": "a", "temprature": 1}, "did you mean 'temperature'"),
            ({"prompt": "a", "id": 1.5}, "an id must be"),
            ({"prompt": "a", "id": True}, "an id must be"),
            ({"prompt": "a", "id": "\ud800"}, "surrogate"),
            ({"prompt": "\ud800"}, "surrogate"),
        ],
    )
    def test_an_invalid_request_is_a_result(self, request_: Any, why: str) -> None:
        """What could not be sent is a result that says why, and the others are done."""
        client = Echo()
        results = by_id(run(client, [request_, "fine"]))
        assert isinstance(results[1].error, InvalidRequestError)
        assert why in str(results[1].error)
        assert results[1].completion is None
        assert results[2].error is None
        assert client.asked == ["fine"]

    def test_ids_that_are_numbers_of_another_library(self) -> None:
        """An id that counts as a whole number is one."""

        class Whole:
            def __index__(self) -> int:
                return 41

        (result,) = run(Echo(), [{"id": Whole(), "prompt": "a"}])
        assert result.id == 41

    def test_duplicate_ids_of_a_list(self) -> None:
        """A list in which an id stands twice is refused at the call, before anything is sent."""
        client = Echo()
        requests = [{"id": "x", "prompt": "a"}, "b", {"id": "x", "prompt": "c"}]
        with pytest.raises(InvalidRequestError, match="'x'"):
            run(client, requests)
        with pytest.raises(InvalidRequestError, match="the id 2"):
            run(client, [{"id": 2, "prompt": "a"}, "b"])
        assert client.asked == []

    def test_duplicate_ids_of_an_iterator(self) -> None:
        """The second request of an id is not sent; the results of those before it come first."""
        client = Echo()
        requests = iter([{"id": "x", "prompt": "a"}, "b", {"id": "x", "prompt": "c"}, "d"])
        found = []
        with pytest.raises(InvalidRequestError, match="'x'"):
            found.extend(result.id for result in run(client, requests))
        assert sorted(found, key=str) == [2, "x"]
        assert sorted(client.asked) == ["a", "b"]

    @given(st.lists(st.one_of(st.none(), st.integers(-2, 12), st.sampled_from("ab")), max_size=12))
    def test_any_duplicate(self, ids: list[Any]) -> None:
        """The first id that stood before is found, given ones and numbers of requests alike."""
        seen: set[Any] = set()
        fine = 0
        for number, own_id in enumerate(ids, 1):
            counts_as = number if own_id is None else own_id
            if counts_as in seen:
                break
            seen.add(counts_as)
            fine += 1
        client = Echo()
        requests = iter([{"id": own_id, "prompt": f"q{n}"} for n, own_id in enumerate(ids)])
        found: list[Any] = []
        try:
            found.extend(result.id for result in run(client, requests, workers=1))
        except InvalidRequestError:
            assert fine < len(ids)
        assert set(found) == seen
        assert len(client.asked) == fine

    def test_an_id_that_cannot_be_read_takes_no_other(self) -> None:
        """A request whose id cannot be read takes the id of no other request, in any order."""
        ids: list[Any] = [0, 1.0, 2, 3.5, 5]
        requests = [{"id": i, "prompt": "a"} for i in ids]
        assert [r.id for r in map(Echo(), requests)] == [0, None, 2, 4, 5]
        assert [r.id for r in map(Echo(), [{"id": 1.5, "prompt": "a"}, *requests[:1], 17])] == [
            1,
            0,
            3,
        ]
        later = [{"id": 1.5, "prompt": "a"}, {"id": 1, "prompt": "a"}]
        assert [r.id for r in map(Echo(), later)] == [None, 1]

    def test_a_number_and_its_string_are_two_ids(self) -> None:
        """Ids are told apart as JSON tells them apart."""
        requests = [{"id": "1", "prompt": "a"}, {"id": 1, "prompt": "b"}]
        assert set(by_id(run(Echo(), requests))) == {"1", 1}

    @pytest.mark.parametrize("wrong", ["one question", b"bytes", {"prompt": "a"}])
    def test_one_request_is_not_a_list(self, wrong: Any) -> None:
        """A lone request, whose letters or keys would be taken for requests, is refused."""
        with pytest.raises(TypeError, match="list"):
            run(Echo(), wrong)

    def test_arguments(self) -> None:
        """A client's class, and no workers, are refused at the call."""
        with pytest.raises(TypeError, match="provider"):
            run(ScriptedProvider, ["a"])  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="workers"):
            run(Echo(), ["a"], workers=0)


class TestResults:
    def test_a_failure_is_a_result(self, sandbox: Sandbox) -> None:
        """A request that the service refuses is a result with the error and its attempts."""
        sandbox.fail("openai", status=500)
        results = list(run(openai(sandbox), ["a", "b", "c"], workers=1))
        failed = [result for result in results if result.error is not None]
        assert len(failed) == 1
        assert isinstance(failed[0].error, ServerError)
        assert failed[0].completion is None
        assert len(failed[0].error.attempts) == 1

    def test_an_unforeseen_error_is_a_result(self) -> None:
        """Whatever a request raises is its own result, not the end of the batch."""

        class Broken(Echo):
            def generate(self, request: Request, scope: Any = None) -> Generator[str, None, None]:
                if request.messages[0]["content"] == "bad":
                    raise ZeroDivisionError("a defect")
                return super().generate(request, scope)

        results = by_id(run(Broken(), ["good", "bad", "good"]))
        assert isinstance(results[2].error, ZeroDivisionError)
        assert results[1].error is None
        assert results[3].error is None

    def test_failover(self, sandbox: Sandbox) -> None:
        """A reply that breaks in the middle is asked for again, as complete() does."""
        sandbox.fail("openai", cut_after=2)
        client = FailoverClient([openai(sandbox)], wait=wait_none(), cooldown=0)
        (result,) = run(client, ["a"])
        assert result.completion is not None
        assert len(result.completion.attempts) == 2
        assert "You asked: a" in result.completion.text

    def test_accept(self) -> None:
        """The client's accept decides, as for complete()."""
        client = FailoverClient(
            [ScriptedProvider(["no"]), ScriptedProvider(["yes"], name="second")],
            accept=lambda completion: completion.text == "yes",
        )
        (result,) = run(client, ["a"])
        assert result.completion is not None
        assert result.completion.provider == "second"

    def test_as_they_finish(self) -> None:
        """A slow request does not hold up the results of the others."""
        client = Gate()
        client.let_through("b", "c")
        results = run(client, ["a", "b", "c"], workers=2)
        first = [next(results).id, next(results).id]
        assert sorted(first) == [2, 3]
        client.let_through()
        assert next(results).id == 1
        assert list(results) == []

    def test_on_result(self) -> None:
        """on_result gets every result, each before it is yielded."""
        told: list[BatchResult] = []
        for number, result in enumerate(run(Echo(), ["a", "b", ""], on_result=told.append)):
            assert told[number] is result
        assert len(told) == 3

    def test_a_result_in_a_line(self) -> None:
        """A result prints as its id and the beginning of its text or its error."""
        whole, failed = run(Echo(), ["a" * 1000, "fail " * 1000], workers=1)
        assert repr(whole).startswith("<BatchResult 1: text 'aaaa")
        assert repr(failed) == "<BatchResult 2: ServerError 'told to fail'>"
        assert len(repr(whole)) < 100

    def test_a_half_reply(self) -> None:
        """A reply that was cut or stopped by a filter is shown with its finish reason."""
        with Sandbox() as sandbox:
            sandbox.reply("openai", "aa", finish="content_filter")
            client = OpenAICompatible(**sandbox.provider_arguments("openai"))
            [half] = run(client, ["a"])
        assert repr(half) == "<BatchResult 1: text (content_filter) 'aa'>"

    def test_results_pickle(self) -> None:
        """A result can be sent to another process."""
        for result in run(Echo(), ["a", "fail"]):
            again = pickle.loads(pickle.dumps(result))
            assert (again.id, again.index) == (result.id, result.index)
            assert type(again.error) is type(result.error)
            assert str(again.completion) == str(result.completion)


class TestWindow:
    def test_workers(self) -> None:
        """As many requests run at a time as there are workers."""
        client = Gate()
        results = run(client, [f"q{n}" for n in range(12)], workers=3)
        client.let_through("q0")
        next(results)
        assert client.wait_running(3)
        client.let_through()
        assert len(list(results)) == 11
        assert client.most_running == 3

    def test_endless_input(self) -> None:
        """An endless input is read only a few requests for each worker ahead of the consumer."""
        read = itertools.count(1)
        last = 0

        def endless() -> Iterator[str]:
            nonlocal last
            for last in read:
                yield f"question {last}"

        results = run(Echo(), endless(), workers=2)
        for taken in range(1, 200):
            next(results)
            assert last <= taken + 4 * 2
        results.close()

    def test_nothing_before_the_first_next(self) -> None:
        """Nothing is read or sent before the first result is wanted."""
        client, source = Echo(), iter(["a", "b"])
        results = run(client, source)
        assert client.asked == []
        assert len(list(results)) == 2
        assert list(source) == []

    def test_results_are_not_kept(self) -> None:
        """A result that was consumed is held by nobody, so that memory stays flat."""
        alive: list[weakref.ref[Any]] = []
        for result in run(Echo(), (f"question {n}" for n in range(40)), workers=2):
            alive.append(weakref.ref(result.completion))
            del result
            assert sum(ref() is not None for ref in alive[:-8]) == 0

    def test_an_error_of_the_input(self) -> None:
        """What the input raises is raised when the requests before it have their results."""

        def breaks() -> Iterator[str]:
            yield "a"
            yield "b"
            raise OSError("the source is gone")

        found = []
        with pytest.raises(OSError, match="the source is gone"):
            found.extend(result.id for result in run(Echo(), breaks()))
        assert sorted(found) == [1, 2]


class TestEnd:
    @pytest.mark.parametrize("how", ["close", "drop", "raise"])
    def test_leaving_early(self, leak_guard: None, sandbox: Sandbox, how: str) -> None:
        """Closing the iterator, dropping it, or an error beside it breaks off what is under way,
        and leaves neither a thread nor a connection.
        """
        sandbox.fail("openai", stall=True, times=100)
        sandbox.fail("gigachat", stall=True)
        client = openai(sandbox)

        def first_is_invalid() -> Iterator[str]:
            yield ""
            for number in itertools.count():
                assert number < 4 or sandbox.wait_for(lambda s: s.count("openai", "chat") >= 3)
                yield f"question {number}"

        results = run(client, first_is_invalid(), workers=3)
        assert next(results).error is not None
        pulled = iter(results)
        if how == "close":
            results.close()
        elif how == "raise":
            with pytest.raises(KeyError):
                results.throw(KeyError())
        del results, pulled
        client.close()

    def test_breaking_off_stalled_requests(self, leak_guard: None, sandbox: Sandbox) -> None:
        """Requests that wait for a silent service, or for their next try, end at once."""
        sandbox.fail("openai", stall=True)
        sandbox.fail("chatglm", status=503, times=100)
        client = FailoverClient([openai(sandbox)])
        waiting = sandbox.client("chatglm", attempts=100, cooldown=0)
        for stuck in (client, waiting):
            service = "openai" if stuck is client else "chatglm"
            results = run(stuck, ["a", *("" for _ in range(20))], workers=1)
            next(results)
            assert sandbox.wait_for(lambda s, of=service: s.count(of, "chat") >= 1)
            results.close()
            stuck.close()

    def test_ctrl_c(self, sandbox: Sandbox, tmp_path: Path) -> None:
        """Ctrl-C while results are awaited says what is finished; a second one ends at once."""
        sandbox.fail("openai", stall=True, times=100)
        program = (
            "from llmproviders import OpenAICompatible\n"
            "from llmproviders.batch import run\n"
            "for result in run(OpenAICompatible(), ['a', 'b', 'c'], workers=2): pass\n"
        )
        process = subprocess.Popen(
            [sys.executable, "-c", program],
            env={**os.environ, **sandbox.environ()},
            stderr=subprocess.PIPE,
        )
        try:
            assert sandbox.wait_for(lambda s: s.count("openai", "chat") == 2, timeout_s=WAIT_S)
            process.send_signal(signal.SIGINT)
            assert process.stderr is not None
            assert process.stderr.readline().startswith(
                b"finishing 2 requests (at most 10 s); press Ctrl-C again to drop them"
            )
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=WAIT_S)
        finally:
            process.kill()
        assert process.returncode == -signal.SIGINT
        assert said.strip().endswith(b"KeyboardInterrupt")

    def test_ctrl_c_while_the_input_waits(self) -> None:
        """An input that has nothing yet does not hold up the end, and nothing more is sent."""
        program = (
            "import sys\n"
            "from llmproviders.batch import run\n"
            "from tests.support.batches import Echo\n"
            "client = Echo()\n"
            "def lines():\n"
            "    yield from ('a', 'b')\n"
            "    print('waits', flush=True)\n"
            "    yield from sys.stdin\n"
            "try:\n"
            "    list(run(client, lines()))\n"
            "except KeyboardInterrupt as stopped:\n"
            "    print(len(stopped.results), len(client.asked))\n"
        )
        process = subprocess.Popen(
            [sys.executable, "-c", program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "waits\n"
            process.send_signal(signal.SIGINT)
            assert process.wait(WAIT_S) == 0
            assert process.stdout.read() == "2 2\n"
        finally:
            process.kill()
            process.communicate()


class Logged(Echo):
    """Writes a line to a file whenever one is made, and one for each request."""

    def __init__(self, log: str) -> None:
        super().__init__()
        self.log = log
        self._write("made")

    def _write(self, word: str) -> None:
        with open(self.log, "a") as log:
            log.write(f"{word} {os.getpid()}\n")

    def generate(self, request: Request, scope: Any = None) -> Generator[str, None, None]:
        """Repeat the last message, or end the whole process."""
        self._write("asked")
        if request.messages[-1]["content"] == "die":
            os._exit(1)
        return super().generate(request, scope)

    def __reduce__(self) -> Any:
        return Logged, (self.log,)


@pytest.fixture(scope="module")
def processes() -> Iterator[ProcessPoolExecutor]:
    """Return a pool of two processes."""
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield pool


class TestExecutors:
    def test_given_threads(self) -> None:
        """Threads of the caller's own do the work, and go on living."""
        names = set()

        class Named(Echo):
            def generate(self, request: Request, scope: Any = None) -> Generator[str, None, None]:
                import threading

                names.add(threading.current_thread().name.partition("_")[0])
                return super().generate(request, scope)

        with ThreadPoolExecutor(2, "mine") as threads:
            assert len(list(run(Named(), ["a", "b", "c"], executor=threads))) == 3
            assert threads.submit(lambda: 5).result() == 5
        assert names == {"mine"}

    def test_any_executor(self) -> None:
        """An executor that nobody has heard of will do, with a client that cannot be pickled."""
        client = FailoverClient([Echo()], accept=lambda completion: completion.text == "a")
        results = by_id(run(client, ["a", "b"], executor=Inline()))
        assert results[1].error is None
        assert results[2].error is not None

    def test_processes(
        self, processes: ProcessPoolExecutor, sandbox: Sandbox, tmp_path: Path
    ) -> None:
        """In other processes the client is the same, and errors come back with their attempts."""
        sandbox.fail("openai", status=500)
        client = FailoverClient([openai(sandbox)], attempts=1, cooldown=0)
        results = list(run(client, [f"q{n}" for n in range(10)], executor=processes))
        assert len(results) == 10
        failed = [result.error for result in results if result.error is not None]
        assert len(failed) == 1
        assert len(getattr(failed[0], "attempts", ())) == 1

    def test_one_client_in_each_process(
        self, processes: ProcessPoolExecutor, tmp_path: Path
    ) -> None:
        """A client is made once in each process, however many requests and batches it serves."""
        log = tmp_path / "log"
        client = Logged(str(log))
        for _ in range(2):
            assert len(list(run(client, [f"q{n}" for n in range(20)], executor=processes))) == 20
        lines = log.read_text().splitlines()
        assert sum(line.startswith("asked") for line in lines) == 40
        made = [line for line in lines if line.startswith("made")]
        assert len(made) == len(set(made)) <= 3

    def test_a_client_that_cannot_travel(self, processes: ProcessPoolExecutor) -> None:
        """A client that cannot be pickled is refused at the call."""
        client = FailoverClient([ScriptedProvider(["a"])], accept=lambda completion: True)
        with pytest.raises(TypeError, match="cannot be sent to other processes"):
            run(client, ["a"], executor=processes)

    def test_a_pool_that_broke(self, tmp_path: Path) -> None:
        """When the executor itself breaks, the batch ends with its error, and does not go on to
        call every request a failure.
        """
        client = Logged(str(tmp_path / "log"))
        requests = ["die", *(f"q{n}" for n in range(1000))]
        spawn = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(1, mp_context=spawn) as pool, pytest.raises(BrokenExecutor):
            list(run(client, requests, executor=pool))

    def test_a_pool_that_broke_at_a_submit(self) -> None:
        """When an executor takes no more requests, the replies to those before come first."""
        results = run(Echo(), (f"q{n}" for n in range(1000)), executor=Inline(breaks_after=3))
        assert [str(next(results).completion) for _ in range(3)] == ["q0", "q1", "q2"]
        with pytest.raises(BrokenExecutor, match="takes no more"):
            next(results)

    def test_an_executor_that_never_answers(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """When an executor broke and does not say how its other requests ended, they are not
        waited for without end.
        """
        monkeypatch.setattr(_flow, "_BROKEN_GRACE_S", 0.0)
        results = run(Echo(), ["a", "b"], executor=Inline(breaks_after=1, answers=False))
        with pytest.raises(BrokenExecutor, match="takes no more"):
            next(results)


class TestKeywordsOfACall:
    """A request of a batch takes what a call of ``complete`` takes."""

    @pytest.mark.parametrize("service", SERVED)
    def test_whole_replies(self, sandbox: Sandbox, service: str) -> None:
        """With ``stream=False``, of all or of one request, a service is asked for the whole."""
        with SERVED[service](**sandbox.provider_arguments(service)) as provider:
            asked = [{"prompt": "a", "stream": False}, {"prompt": "b", "stream": None}, "c"]
            for results in ([*run(provider, asked, workers=1)], map(provider, ["d"], stream=False)):
                assert [result.error for result in results] == [None] * len(results)
        sent = [request for request in sandbox.requests if request.kind == "chat"]
        if provider.supports_tools:
            streams = [request.json["stream"] for request in sent]
            assert streams == [False, True, True, False]
        assert len(sent) == 4

    @pytest.mark.parametrize("stream", [True, 1, "no"])
    def test_no_stream(self, stream: Any) -> None:
        """A batch cannot stream; the row says so, and nothing is sent."""
        provider = ScriptedProvider(["Hi"])
        (result,) = run(provider, [{"prompt": "a", "stream": stream}])
        assert isinstance(result.error, InvalidRequestError)
        assert "stream must be" in str(result.error)
        with pytest.raises((TypeError, InvalidRequestError), match="stream must be"):
            map(provider, ["a"], stream=stream)
        assert provider.requests == []

    def test_a_deadline_of_its_own(self, raw_server: RawServerFactory) -> None:
        """A request's own deadline wins over the batch's and the client's."""
        silent = raw_server([Stall()])
        with OpenAICompatible(base_url=silent.url) as provider:
            client = FailoverClient([provider], deadline=600)
            asked = [{"prompt": "a", "deadline": 0.2, "timeout": [5, 600]}]
            (result,) = run(client, asked, deadline=600)
        assert isinstance(result.error, DeadlineExceeded)
        slow = FailoverClient([ScriptedProvider(["Hi"])], deadline=1e-9)
        (result,) = run(slow, [{"prompt": "a", "deadline": 600}], deadline=1e-9)
        assert str(result.completion) == "Hi"

    def test_accept_and_wrong_ones(self) -> None:
        """``accept`` turns a reply down; a wrong timeout or proxy is the error of its row."""
        asked: list[Any] = [
            {"prompt": "a", "accept": lambda reply: "no good"},
            {"prompt": "a", "timeout": "soon"},
            {"prompt": "a", "proxy": {"https": "x"}},
            {"prompt": "a", "deadline": "60"},
            {"prompt": "a", "accept": 5},
        ]
        errors = [result.error for result in map(ScriptedProvider(["Hi"]), asked)]
        assert isinstance(errors[0], RejectedReplyError)
        for error, word in zip(errors[1:], ("timeout", "proxy", "deadline", "accept"), strict=True):
            assert isinstance(error, InvalidRequestError)
            assert word in str(error)
