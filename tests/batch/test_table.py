"""Batches in order, and batches of a DataFrame."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Generator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from llmproviders import (
    FailoverClient,
    InvalidRequestError,
    OpenAICompatible,
    RateLimitError,
    ServerError,
)
from llmproviders.batch import BatchResult, map, run, run_file, table
from llmproviders.provider import Request
from llmproviders.sandbox import Sandbox
from llmproviders.testing import ScriptedProvider
from tests.support.batches import WAIT_S, Echo, Inline

pandas = pytest.importorskip("pandas")


class Stops(Echo):
    """Is stopped by Ctrl-C at its fiftieth request."""

    def generate(self, request: Request, scope: Any = None) -> Generator[str, None, None]:
        """Repeat the last message, or be stopped."""
        if len(self.asked) == 50:
            raise KeyboardInterrupt
        return super().generate(request, scope)


class Params(Echo):
    """Answers with the model and the parameters that it was given."""

    def generate(self, request: Request, scope: Any = None) -> Generator[str, None, None]:
        """Answer."""
        told = super().generate(request, scope)
        next(told)
        yield json.dumps([request.model, dict(request.params)])
        yield from told


def frame(rows: int) -> Any:
    """A DataFrame with a comment in each row, and an index that is not in order."""
    index = pandas.Index([f"row {(7 * n) % rows}" for n in range(rows)], name="key")
    return pandas.DataFrame({"comment": [f"comment {n}" for n in range(rows)]}, index=index)


def texts(results: list[BatchResult]) -> list[str]:
    """The replies."""
    return [str(result.completion) for result in results]


class TestMap:
    def test_order(self) -> None:
        """Results come in the order of the prompts, failed ones included."""
        prompts = [f"question {n}" if n % 5 else f"fail {n}" for n in range(100)]
        results = map(Echo(), prompts, workers=8)
        assert [result.index for result in results] == list(range(100))
        assert [result.error is None for result in results] == [n % 5 > 0 for n in range(100)]
        assert texts(results)[1] == "question 1"

    def test_parameters(self) -> None:
        """Parameters go with every prompt, and a prompt's own win."""
        prompts = ["a", {"prompt": "b", "temperature": 1}]
        first, second = map(Params(), prompts, model="m", temperature=0)
        assert json.loads(str(first.completion)) == ["m", {"temperature": 0}]
        assert json.loads(str(second.completion)) == ["m", {"temperature": 1}]

    def test_an_unknown_parameter(self) -> None:
        """A parameter that no service has is refused before anything is sent."""
        client = Echo()
        with pytest.raises(TypeError, match="temperature"):
            map(client, ["a"], temprature=0)
        assert client.asked == []

    def test_progress(self, capsys: pytest.CaptureFixture[str]) -> None:
        """A bar is shown where it is asked for, and nowhere else."""
        map(Echo(), ["a", "b"])
        list(run(Echo(), iter(["a", "b"])))
        assert capsys.readouterr() == ("", "")
        map(Echo(), ["a", "fail"], progress=True)
        list(run(Echo(), iter(["a"]), progress=True))
        said = capsys.readouterr().err
        assert "2/2" in said
        assert "1 failed" in said

    def test_deadline(self, sandbox: Sandbox) -> None:
        """Each request has the deadline of its own."""
        sandbox.fail("openai", stall=True)
        client = OpenAICompatible(**sandbox.provider_arguments("openai"))
        results = map(client, ["a", "b"], workers=1, deadline=0.3)
        assert [type(result.error).__name__ for result in results] == [
            "DeadlineExceeded",
            "NoneType",
        ]


class TestPandas:
    def test_a_series_gives_its_index(self) -> None:
        """A Series gives its index as ids; labels that cannot be ids are their text."""
        series = pandas.Series(["a", "b"], index=pandas.to_datetime(["2024-01-02", "2024-01-03"]))
        assert [r.id for r in map(Echo(), series)] == ["2024-01-02 00:00:00", "2024-01-03 00:00:00"]
        series = pandas.Series(["a", "b"], index=[7, 3])
        assert sorted((r.id, str(r.completion)) for r in run(Echo(), series)) == [
            (3, "b"),
            (7, "a"),
        ]

    @pytest.mark.parametrize("call", [map, run])
    def test_a_label_twice(self, call: Any) -> None:
        """An index that names two prompts alike is refused at once, with what to pass."""
        client = Echo()
        series = pandas.concat([pandas.Series(["a", "b"])] * 2)
        with pytest.raises(InvalidRequestError, match=r"has 0 more than once.*reset_index"):
            call(client, series)
        assert client.asked == []
        assert len(map(client, series.reset_index(drop=True))) == 4

    def test_what_is_missing_is_a_failed_row(self) -> None:
        """A value of a Series that is no prompt fails alone."""
        results = map(Echo(), pandas.Series(["a", None, float("nan")]))
        assert [result.error is None for result in results] == [True, False, False]

    @pytest.mark.parametrize("call", [map, run])
    def test_a_frame_by_mistake(self, call: Any) -> None:
        """A DataFrame in place of requests is refused at once, with what to pass."""
        with pytest.raises(TypeError, match=r"pass one of its columns.*batch\.table"):
            call(Echo(), frame(3))

    @pytest.mark.parametrize("call", [map, run, partial(run_file, output="out.jsonl")])
    def test_a_frame_of_another_library(self, call: Any) -> None:
        """So is one of another library, and one in place of a file."""

        class DataFrame:
            columns = ("prompt",)

            def __iter__(self) -> Any:
                return iter(self.columns)

        with pytest.raises(TypeError, match=r"is a DataFrame; pass one of its columns"):
            call(Echo(), DataFrame())


class TestTable:
    def test_the_index_comes_back(self) -> None:
        """The result has the frame's index, its name and its order, and one reply for each row."""
        given = frame(500)
        replies = table(Echo(), "Mood of: {comment}", given, workers=8)
        assert replies.index.equals(given.index)
        assert replies.index.name == "key"
        assert list(replies.columns) == ["text", "error"]
        assert list(replies["text"]) == [f"Mood of: {c}" for c in given["comment"]]
        assert replies["error"].isna().all()

    @pytest.mark.parametrize(
        "index",
        [
            ["a", "a", "b"],
            [3, 1, 3],
            [1.5, float("nan"), float("nan")],
            [("a", 1), ("a", 2), ("b", 1)],
        ],
    )
    def test_any_index(self, index: list[Any], tmp_path: Path) -> None:
        """Labels may repeat, be missing, or have several levels, with an output too."""
        multi = isinstance(index[0], tuple)
        labels = pandas.MultiIndex.from_tuples(index) if multi else pandas.Index(index)
        given = pandas.DataFrame({"c": ["x", "y", "z"]}, index=labels)
        for output in (None, tmp_path / "out.jsonl", tmp_path / "out.jsonl"):
            replies = table(Echo(), "{c}", given, output=output)
            assert replies.index.equals(labels)
            assert list(replies["text"]) == ["x", "y", "z"]

    @pytest.mark.parametrize("with_output", [False, True])
    def test_half_replies(self, tmp_path: Path, with_output: bool) -> None:
        """What max_tokens cut or a filter stopped has its text, and an error that says so."""
        output = tmp_path / "out.jsonl" if with_output else None
        given = pandas.DataFrame({"c": ["x", "y", "z"]})
        with Sandbox() as sandbox:
            for finish in ("length", "stop", "content_filter"):
                sandbox.reply("openai", "one two", finish=finish)
            client = OpenAICompatible(**sandbox.provider_arguments("openai"))
            replies = table(client, "{c}", given, output=output, workers=1)
        assert list(replies["text"]) == ["one two"] * 3
        assert list(replies["error"].fillna("")) == [
            "length: max_tokens cut the reply",
            "",
            "content_filter: the service's filter stopped the reply",
        ]

    def test_a_rerun_pays_for_what_is_missing(self, tmp_path: Path) -> None:
        """A table interrupted at row 50 of 500 pays for the rest only, and is then whole."""
        given, output = frame(500), tmp_path / "out.jsonl"
        stopped = Stops()
        with pytest.raises(KeyboardInterrupt):
            table(stopped, "Mood of: {comment}", given, output=output, workers=1)
        again = Echo()
        replies = table(again, "Mood of: {comment}", given, output=output)
        assert len(again.asked) == 450
        assert set(again.asked).isdisjoint(stopped.asked)
        assert replies.index.equals(given.index)
        assert list(replies["text"]) == [f"Mood of: {c}" for c in given["comment"]]
        third = Echo()
        table(third, "Mood of: {comment}", given.iloc[::-1], output=output)
        assert third.asked == []

    def test_failed_rows(self, tmp_path: Path) -> None:
        """A failed row has its error and no text, and a whole reply the error None, with an output
        and without.
        """
        given = pandas.DataFrame({"c": ["a", "fail", ""]})
        for output in (None, tmp_path / "out.jsonl"):
            replies = table(Echo(), "{c}", given, output=output)
            assert replies["text"].tolist() == ["a", None, None]
            assert replies["error"][0] is None
            assert replies["error"][1] == "ServerError: told to fail"
            assert replies["error"][2].startswith("InvalidRequestError")

    @pytest.mark.parametrize("missing", [None, float("nan"), pandas.NA, pandas.NaT])
    def test_missing_values(self, missing: Any, tmp_path: Path) -> None:
        """A row without a value that its prompt needs is not asked, and says so."""
        given = pandas.DataFrame({"c": ["a", missing, ""], "note": [missing, "b", "c"]})
        for output in (None, tmp_path / "out.jsonl", tmp_path / "out.jsonl"):
            client = Echo()
            replies = table(client, "Mood of: {c}", given, output=output)
            assert replies["text"].isna().tolist() == [False, True, False]
            assert "the row has no value in the column 'c'" in replies["error"][1]
            assert "Mood of: nan" not in client.asked
            assert len(client.asked) in (0, 2)

    def test_a_label_that_cannot_be_written(self, tmp_path: Path) -> None:
        """A lone surrogate in a label, from a file that was read wrongly, costs no row."""
        given = pandas.DataFrame({"c": ["a"]}, index=["\udcff"])
        for output in (None, tmp_path / "out.jsonl"):
            replies = table(Echo(), "{c}", given, output=output)
            assert list(replies["text"]) == ["a"]
            assert replies.index.equals(given.index)

    def test_an_interrupt_keeps_what_has_arrived(self) -> None:
        """Without an output, the results are with the interrupt."""

        class Pressed(Echo):
            def generate(self, request: Request, scope: Any = None) -> Generator[str, None, None]:
                """Repeat the last message; at the fiftieth somebody presses Ctrl-C."""
                if len(self.asked) == 49:
                    os.kill(os.getpid(), signal.SIGINT)
                return super().generate(request, scope)

        client = Pressed()
        with pytest.raises(KeyboardInterrupt) as caught:
            table(client, "Mood of: {comment}", frame(10_000), workers=1)
        results = caught.value.results  # type: ignore[attr-defined]
        assert [result.index for result in results] == list(range(len(client.asked)))
        assert 50 <= len(results) < 10_000

    def test_templates(self) -> None:
        """Columns stand in braces, several at a time and of any type; doubled braces are braces."""
        given = pandas.DataFrame({"a b": [1], "c": ["{c}"]})
        replies = table(Echo(), '{a b} of {c}: {{"x": {c}}}', given)
        assert list(replies["text"]) == ['1 of {c}: {"x": {c}}']

    def test_an_unknown_column(self) -> None:
        """A column that the frame does not have is named with the nearest, before any request."""
        client = Echo()
        with pytest.raises(InvalidRequestError, match=r"'coment'.*did you mean 'comment'"):
            table(client, "{coment}", frame(3))
        assert client.asked == []
        twice = pandas.DataFrame([[1, 2]], columns=["c", "c"])
        with pytest.raises(InvalidRequestError, match="two columns 'c'"):
            table(client, "{c}", twice)
        assert list(table(client, "Why?", twice)["text"]) == ["Why?"]

    def test_no_column(self, tmp_path: Path) -> None:
        """A template without a column would ask one question again and again: nothing is sent."""
        client = Echo()
        for output in (None, tmp_path / "out.jsonl"):
            with pytest.raises(InvalidRequestError, match=r"no column.*such as \{comment\}"):
                table(client, "Mood of {{comment}}?", frame(3), output=output)
        assert client.asked == []
        assert not (tmp_path / "out.jsonl").exists()

    def test_every_provider_failed(self, tmp_path: Path) -> None:
        """The cell for a row that no provider answered has what each one said, in one line."""
        client = FailoverClient(
            [
                ScriptedProvider([], error=ServerError("down", status_code=500), name="a"),
                ScriptedProvider([], error=RateLimitError("busy"), name="b"),
            ],
            attempts=1,
        )
        for output in (None, tmp_path / "out.jsonl"):
            replies = table(client, "{comment}", frame(1), output=output)
            assert list(replies["error"]) == [
                "AllProvidersFailed: a: ServerError: down; b: RateLimitError: busy"
            ]

    def test_no_rows(self, tmp_path: Path) -> None:
        """An empty frame gives an empty table with the same columns."""
        for output in (None, tmp_path / "out.jsonl"):
            replies = table(Echo(), "{comment}", frame(3).iloc[:0], output=output)
            assert list(replies.columns) == ["text", "error"]
            assert len(replies) == 0

    def test_arguments(self) -> None:
        """What is no frame, and what no service takes, is refused at once."""
        with pytest.raises(TypeError, match="DataFrame, not list"):
            table(Echo(), "{c}", ["a"])
        with pytest.raises(TypeError, match="temprature"):
            table(Echo(), "{comment}", frame(2), temprature=1)
        with pytest.raises(TypeError, match="template must be a string, not DataFrame"):
            table(Echo(), frame(2), frame(2))


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")
def test_an_interrupt_of_a_callback_loses_nothing() -> None:
    """Ctrl-C during ``on_result`` keeps the results so far, the one that it was called with, and
    those that have arrived behind it.
    """
    client, pressed = Echo(), []

    def press(result: BatchResult) -> None:
        if result.index == 3:
            pressed.append(result)
            signal.raise_signal(signal.SIGINT)

    questions = [f"question {n}" for n in range(50)]
    with pytest.raises(KeyboardInterrupt) as caught:
        list(run(client, questions, workers=1, executor=Inline(), on_result=press))
    assert texts(caught.value.results) == client.asked == questions[:7]  # type: ignore[attr-defined]
    assert pressed


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")
def test_an_interrupted_list_is_not_lost(tmp_path: Path) -> None:
    """Ctrl-C during ``list(run(...))`` finishes what is under way, and keeps all results."""
    program = (
        "import sys\n"
        "from llmproviders import OpenAICompatible\n"
        "from llmproviders.batch import run\n"
        "try:\n"
        "    list(run(OpenAICompatible(), (f'question {n}' for n in range(1000)), workers=2))\n"
        "except KeyboardInterrupt as stopped:\n"
        "    found = stopped.results\n"
        "    print([r.index for r in found], all(r.completion for r in found))\n"
    )
    with Sandbox(piece_delay_s=0.01) as sandbox:
        process = subprocess.Popen(
            [sys.executable, "-c", program],
            env={**os.environ, **sandbox.environ()},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            assert sandbox.wait_for(lambda s: s.count("openai", "chat") == 10, timeout_s=WAIT_S)
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=WAIT_S)
        finally:
            process.kill()
        assert "finishing" not in err or "press Ctrl-C again to drop" in err
        asked = sandbox.count("openai", "chat")
        assert out.strip() == f"{list(range(asked))} True"
        assert not any(record.aborted for record in sandbox.requests)
