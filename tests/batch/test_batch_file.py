"""Batches from file to file: rows, reruns, interrupts, and what is never lost or paid twice."""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import stat
import sys
import threading
from collections.abc import Generator
from concurrent.futures import BrokenExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmproviders import (
    DeadlineExceeded,
    FailoverClient,
    FinishReason,
    GigaChat,
    InvalidRequestError,
    OpenAICompatible,
    ServerError,
    Usage,
)
from llmproviders._redact import conceal
from llmproviders.batch import BatchLocked, BatchResult, Summary, as_row, run_file
from llmproviders.batch._input import Digests, digest
from llmproviders.batch._interrupts import Interrupts
from llmproviders.provider import Request
from llmproviders.sandbox import Sandbox
from llmproviders.testing import ScriptedProvider
from tests.support.actors import Actor
from tests.support.batches import WAIT_S, Echo, Inline, child
from tests.support.interrupts import Interrupter, interrupted

FIELDS = [
    "id",
    "text",
    "provider",
    "model",
    "finish_reason",
    "usage",
    "attempts",
    "error",
    "request_hash",
]


class Files:
    """An input and an output in a folder of the test's own."""

    def __init__(self, folder: Path) -> None:
        self.input = folder / "in.jsonl"
        self.output = folder / "out.jsonl"

    def ask(self, *requests: Any) -> None:
        """Write the input, a line for each request."""
        self.input.write_text("".join(json.dumps(request) + "\n" for request in requests))

    def run(self, client: Any, **options: Any) -> Summary:
        """Run the batch."""
        return run_file(client, self.input, self.output, **options)

    def rows(self) -> list[dict[str, Any]]:
        """The output's rows; every line is one, and ends."""
        data = self.output.read_bytes()
        assert data == b"" or data.endswith(b"\n")
        return [json.loads(line) for line in data.splitlines()]

    def by_id(self) -> dict[Any, dict[str, Any]]:
        """The output's rows by id, each of which stands once."""
        rows = self.rows()
        found = {row["id"]: row for row in rows}
        assert len(found) == len(rows)
        return found


@pytest.fixture
def files(tmp_path: Path) -> Files:
    """Return an input and an output that do not exist yet."""
    return Files(tmp_path)


def questions(count: int) -> list[dict[str, Any]]:
    """Requests, each with a prompt of its own."""
    return [{"id": f"row {n}", "prompt": f"question {n}"} for n in range(count)]


class TestRows:
    def test_row(self, files: Files, sandbox: Sandbox) -> None:
        """A row has the documented fields, in their order."""
        files.ask({"id": "sky", "prompt": "Why?", "model": "gpt-4o"})
        client = OpenAICompatible(**sandbox.provider_arguments("openai"))
        summary = files.run(client)
        (row,) = files.rows()
        assert list(row) == FIELDS
        assert row["id"] == "sky"
        assert "You asked: Why?" in row["text"]
        assert (row["provider"], row["model"]) == ("OpenAICompatible", "gpt-4o")
        assert (row["finish_reason"], row["error"]) == ("stop", None)
        assert row["usage"]["total_tokens"] == summary.usage.total_tokens
        (attempt,) = row["attempts"]
        assert attempt["provider"] == "OpenAICompatible"
        assert attempt["error"] is None
        assert len(row["request_hash"]) == 64

    def test_error_row(self, files: Files, sandbox: Sandbox) -> None:
        """A failed row has the same fields: the error's class and message, and the attempts."""
        sandbox.fail("openai", status=503)
        files.ask({"id": "sky", "prompt": "Why?"})
        client = OpenAICompatible(**sandbox.provider_arguments("openai"))
        summary = files.run(client)
        (row,) = files.rows()
        assert list(row) == FIELDS
        assert row["error"]["type"] == "ServerError"
        assert "503" in row["error"]["message"]
        assert row["attempts"][0]["error"]["type"] == "ServerError"
        assert (row["text"], row["model"], row["finish_reason"], row["usage"]) == (None,) * 4
        assert row["provider"] == "OpenAICompatible"
        assert (summary.done, summary.failed) == (0, 1)

    def test_drawn_pictures(self, files: Files) -> None:
        """A row has the addresses of the pictures that the service drew, and not without any."""
        files.ask("draw a picture", "Why?")
        with Sandbox() as sandbox:
            client = GigaChat(**sandbox.provider_arguments("gigachat"))
            run_file(client, files.input, files.output, workers=1)
        drawn, plain = files.rows()
        assert [type(address) for address in drawn["images"]] == [str]
        assert "images" not in plain

    def test_a_changed_picture(self, files: Files, tmp_path: Path) -> None:
        """A row whose attached file has other content is done again; another path is no change."""
        picture = tmp_path / "a.png"
        picture.write_bytes(b"\x89PNG\r\n\x1a\n1")
        with Sandbox() as sandbox:
            client = OpenAICompatible(**sandbox.provider_arguments("openai"))

            def run(path: Path) -> tuple[int, int]:
                files.ask({"prompt": "What is it?", "attach": [str(path)]})
                summary = run_file(client, files.input, files.output)
                return summary.done, summary.skipped

            assert run(picture) == (1, 0)
            assert run(picture.rename(tmp_path / "b.png")) == (0, 1)
            (tmp_path / "b.png").write_bytes(b"\x89PNG\r\n\x1a\n2")
            assert run(tmp_path / "b.png") == (1, 0)
            assert len(files.rows()) == 1

    @pytest.mark.parametrize(
        ("before", "after", "again"),
        [
            ({"X-Variant": "a"}, {"X-Variant": "b"}, True),
            ({"X-Variant": "a"}, {"x-variant": "a"}, False),
            (None, {"X-Variant": "a"}, True),
            ({"Authorization": "Bearer one-secret"}, {"Authorization": "Bearer another"}, False),
            ({"X-Request-ID": "1"}, {"X-Request-ID": "2"}, False),
        ],
    )
    def test_changed_headers(
        self, files: Files, before: dict[str, str] | None, after: dict[str, str], again: bool
    ) -> None:
        """Other headers make another request; another key or request number does not."""
        for headers, done in ((before, True), (after, again)):
            files.ask({"prompt": "Why?", "extra_headers": headers})
            summary = run_file(ScriptedProvider(["Yes."]), files.input, files.output)
            assert (summary.done, summary.skipped) == (int(done), int(not done))
        assert "secret" not in files.output.read_text()

    def test_the_summary_counts_cut_rows(self, files: Files) -> None:
        """Rows that ``max_tokens`` cut or a filter stopped count as done, and as what they are."""
        files.ask("one", "two", "three", "four")
        filtered = ["c", FinishReason("content_filter")]
        summary = files.run(
            Actor(["a", FinishReason("length")], ["b"], filtered, filtered), workers=1
        )
        assert (summary.done, summary.failed) == (4, 0)
        assert (summary.cut, summary.filtered) == (1, 2)
        assert [row["finish_reason"] for row in files.rows()] == [
            "length",
            "stop",
            "content_filter",
            "content_filter",
        ]

    def test_summary(self, files: Files) -> None:
        """The summary counts rows and adds up tokens."""
        files.ask("a", "fail", "b", "")
        summary = files.run(Echo())
        assert (summary.done, summary.skipped, summary.failed) == (2, 0, 2)
        assert summary.usage == Usage(2, 4, 6)
        assert 0 < summary.duration < WAIT_S
        assert not summary.stopped

    def test_reasons(self, files: Files) -> None:
        """The summary counts failed rows by the kind of error, with the first one's message."""
        files.ask("a", "b", "")
        down = ScriptedProvider([], error=ServerError("no more"), name="down")
        reasons = dict(files.run(FailoverClient([down], attempts=1), workers=1).reasons)
        assert reasons.pop("down: ServerError: no more") == 2
        ((other, count),) = reasons.items()
        assert other.startswith("InvalidRequestError: ")
        assert count == 1

    def test_reasons_of_the_input(self, files: Files) -> None:
        """What is wrong with lines is told apart, however many are wrong in the same way."""
        lines = [
            '"a"',
            "torn",
            '{"id": 1.5, "prompt": "b"}',
            '{"id": 5, "temprature": 1, "prompt": "c"}',
        ]
        files.input.write_text("\n".join([*lines, '{"id": 7.5, "prompt": "d"}', "{", '""']))
        told = [(why.split(": ", 1)[1], count) for why, count in files.run(Echo()).reasons]
        assert [count for _, count in told] == [2, 2, 1, 1]
        assert told[0][0].startswith("line 2 of the input is not a JSON value")
        assert told[1][0].startswith("an id must be a string or a whole number, not 1.5")
        assert told[2][0].startswith("unknown parameter 'temprature'")
        assert told[3][0].startswith("the prompt is empty")

    def test_reasons_take_no_memory(self, files: Files) -> None:
        """However many different things are wrong, their number is bounded, and all are counted."""
        words = ("a" * n for n in range(1, 300))
        files.ask(
            *({"prompt": "x", word: 1} for word in words), {"prompt": "x", "temperature": "y"}
        )
        reasons = files.run(Echo()).reasons
        assert len(reasons) <= 101
        assert sum(count for _, count in reasons) == 300

    def test_tokens_of_every_try(self, files: Files, sandbox: Sandbox) -> None:
        """The summary has the tokens of rejected replies too, a row's usage those of its reply."""
        sandbox.reply("openai", "no", usage={"prompt_tokens": 5, "completion_tokens": 1})
        sandbox.reply("openai", "yes", usage={"prompt_tokens": 5, "completion_tokens": 2})
        sandbox.reply("openai", "no", usage={"prompt_tokens": 5, "completion_tokens": 4}, times=2)
        files.ask("a", "b")
        client = FailoverClient(
            [OpenAICompatible(**sandbox.provider_arguments("openai"))] * 2,
            attempts=1,
            accept=lambda reply: reply.text == "yes",
        )
        summary = files.run(client, workers=1)
        assert (summary.done, summary.failed) == (1, 1)
        assert (summary.usage.prompt_tokens, summary.usage.completion_tokens) == (20, 11)
        done, _ = files.rows()
        assert done["usage"]["completion_tokens"] == 2

    def test_a_cache_costs_nothing(self, files: Files) -> None:
        """Replies from a cache are marked, and their tokens are not counted."""
        files.ask("a")
        cache = files.output.with_name("replies.db")
        assert files.run(Echo(), cache=cache).usage.total_tokens == 3
        files.output.unlink()
        assert files.run(Echo(), cache=cache).usage.total_tokens is None
        (row,) = files.rows()
        assert row["cached"] is True

    def test_no_tokens_counted(self, files: Files) -> None:
        """Where no service counts tokens, their number is unknown and not zero."""
        files.ask("a")
        assert files.run(ScriptedProvider(["b"])).usage == Usage(None, None, None)

    def test_ids_are_line_numbers(self, files: Files) -> None:
        """A request without an id has the number of its line; blank lines count."""
        files.input.write_text('"a"\n\n   \n{"prompt": "b"}\n{"id": null, "prompt": "c"}\n')
        indexes = {}
        files.run(Echo(), on_result=lambda r: indexes.update({r.id: r.index}))
        assert {own_id: row["text"] for own_id, row in files.by_id().items()} == {
            1: "a",
            4: "b",
            5: "c",
        }
        assert indexes == {1: 0, 4: 3, 5: 4}

    @pytest.mark.parametrize(
        ("line", "why"),
        [
            (b'{"prompt": "a"', "not a JSON value"),
            (b"prompt", "not a JSON value"),
            (b'{"prompt": "\xff"}', "not UTF-8"),
            (b'{"prompt": "a", "temperature": NaN}', "NaN"),
            (b"[" * 100_000, "nested too deeply"),
            (b'{"prompt": "a", "seed": ' + b"1" * 5000 + b"}", "not a JSON value"),
            (b"{}", "needs a"),
            (b"17", "not int"),
            (b'{"prompt": "a", "tempo": 1}', "tempo"),
        ],
    )
    def test_broken_line(self, files: Files, line: bytes, why: str) -> None:
        """A line that is no request becomes an error row with its number; the others are done."""
        files.input.write_bytes(b'"first"\n' + line + b'\n"last"\n')
        summary = files.run(Echo())
        rows = files.by_id()
        assert rows[2]["error"]["type"] == "InvalidRequestError"
        assert why in rows[2]["error"]["message"]
        assert (rows[2]["text"], rows[2]["attempts"], rows[2]["request_hash"]) == (None, [], None)
        assert (summary.done, summary.failed) == (2, 1)

    @pytest.mark.parametrize(
        "data", [b'"a"\n"b"', b'"a"\r\n"b"\r\n', b'\xef\xbb\xbf"a"\n"b"\n', b'\n\n"a"\n\t\n"b"\n\n']
    )
    def test_ways_to_write_lines(self, files: Files, data: bytes) -> None:
        """A missing last line end, CR LF, a byte order mark and blank lines are all right."""
        files.input.write_bytes(data)
        assert files.run(Echo()).done == 2
        assert sorted(row["text"] for row in files.rows()) == ["a", "b"]

    def test_empty_input(self, files: Files) -> None:
        """An empty input gives an empty output."""
        files.ask()
        assert files.run(Echo()).done == 0
        assert files.rows() == []

    @pytest.mark.parametrize(
        "text", ["Зачем? 为什么?", "a\u2028b\u2029c\x85d\x0ce\nf", "\ud83d", "\0"]
    )
    def test_any_text(self, files: Files, text: str) -> None:
        """A row is one line of UTF-8 for every reader, and gives the text back as it was."""

        class Says(Echo):
            def generate(self, request: Request, scope: Any = None) -> Generator[str, None, None]:
                yield text
                yield FinishReason("stop")

        files.ask("a")
        files.run(Says())
        assert len(files.output.read_text(encoding="utf-8").splitlines()) == 1
        assert files.rows()[0]["text"] == text

    def test_tool_calls(self) -> None:
        """Calls that the model asks for are in the row."""

        class Calls(Echo):
            def generate(self, request: Request, scope: Any = None) -> Generator[str, None, None]:
                yield FinishReason("tool_calls", tool_calls=[{"id": "1"}])

        row = as_row(Calls().complete("a"), None)
        assert row["tool_calls"] == [{"id": "1"}]

    def test_no_secret_in_a_row(self, files: Files) -> None:
        """An unforeseen error's message has its secrets masked."""
        conceal("sk-very-secret-key")

        class Careless(Echo):
            def generate(self, request: Request, scope: Any = None) -> Generator[str, None, None]:
                raise RuntimeError("cannot use sk-very-secret-key")

        files.ask("a")
        files.run(Careless())
        assert files.rows()[0]["error"] == {"type": "RuntimeError", "message": "cannot use ***"}

    def test_written_at_once(self, files: Files) -> None:
        """A row is in the file before its result is told."""
        files.ask(*questions(20))

        def in_the_file(result: BatchResult) -> None:
            assert result.id in files.by_id()

        files.run(Echo(), on_result=in_the_file)
        assert len(files.rows()) == 20

    def test_deadline(self, files: Files, sandbox: Sandbox) -> None:
        """Each row has its own deadline, and one that misses it is a failed row."""
        sandbox.fail("openai", stall=True)
        files.ask("a", "b")
        client = FailoverClient([OpenAICompatible(**sandbox.provider_arguments("openai"))])
        summary = files.run(client, workers=1, deadline=0.3)
        assert (summary.done, summary.failed) == (1, 1)
        (failed,) = (row for row in files.rows() if row["error"])
        assert failed["error"]["type"] == DeadlineExceeded.__name__

    def test_input_is_read_as_it_was(self, files: Files) -> None:
        """Lines that are added while the batch runs are left to the next run."""
        files.ask("a", "b")

        def add(_: BatchResult) -> None:
            with files.input.open("a") as more:
                more.write('"c"\n')

        assert files.run(Echo(), on_result=add).done == 2

    @pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes are POSIX's")
    def test_input_from_a_pipe(self, files: Files) -> None:
        """A pipe, which can be read but once, will do as an input."""
        os.mkfifo(files.input)
        writer = threading.Thread(target=files.input.write_text, args=('"a"\n"b"\n',))
        writer.start()
        assert files.run(Echo()).done == 2
        writer.join()


class TestRefused:
    """What is refused before anything is sent."""

    @pytest.mark.parametrize(
        ("lines", "said"),
        [
            (['{"id": "x", "prompt": "a"}', '"b"', '{"id": "x", "prompt": "c"}'], "1, 3"),
            (['{"id": 2, "prompt": "a"}', '"b"'], "1, 2"),
        ],
    )
    def test_duplicate_ids(self, files: Files, lines: list[str], said: str) -> None:
        """Ids that stand twice are named with their lines; nothing is sent or written."""
        files.input.write_text("\n".join(lines))
        client = Echo()
        with pytest.raises(InvalidRequestError, match=said):
            files.run(client)
        assert client.asked == []
        assert not files.output.exists()

    @pytest.mark.parametrize(
        ("lines", "ids"),
        [
            (['{"id": 0, "prompt": "a"}', '{"id": 1, "prompt": "b"}', '{"id": 2, "pro',
              '{"id": 3, "prompt": "d"}'], [0, 1, 3, None]),
            (['{"id": 0, "prompt": "a"}', '{"id": 1.0, "prompt": "b"}',
              '{"id": 2, "prompt": "c"}'], [0, 2, None]),
            (["torn", '{"id": 1, "prompt": "b"}', "torn"], [1, 3, None]),
        ],
        ids=["torn", "a float", "before and after"],
    )  # fmt: skip
    def test_a_broken_line_takes_no_id(
        self, files: Files, lines: list[str], ids: list[int | None]
    ) -> None:
        """A line whose id cannot be read refuses no other line, and a rerun does it again."""
        files.input.write_text("\n".join(lines))
        whole = sum("prompt" in line and "1.0" not in line for line in lines)
        for _ in range(2):
            summary = files.run(Echo())
            assert summary.done + summary.skipped == whole
            assert sorted(files.by_id(), key=lambda i: (i is None, i)) == ids
            assert all((row["error"] is None) == (row["text"] is not None) for row in files.rows())

    def test_a_number_and_its_string(self, files: Files) -> None:
        """The string of a number is another id than the number."""
        files.ask({"id": "1", "prompt": "a"}, {"id": 1, "prompt": "b"})
        assert files.run(Echo()).done == 2

    @pytest.mark.parametrize(
        "foreign",
        [
            "Dear diary,\ntoday I\n",
            '{\n  "key": "value"\n}\n',
            '{"id": 1, "prompt": "an input"}\n',
            "[1, 2]\n",
            "id,text\n1,a\n",
        ],
    )
    def test_foreign_output(self, files: Files, foreign: str) -> None:
        """A file that is not the output of a batch is neither changed nor appended to."""
        files.ask("a")
        files.output.write_text(foreign)
        client = Echo()
        with pytest.raises(InvalidRequestError, match="another output"):
            files.run(client)
        assert client.asked == []
        assert files.output.read_text() == foreign

    def test_input_as_output(self, files: Files) -> None:
        """The input is not taken for the output."""
        files.ask("a")
        with pytest.raises(InvalidRequestError, match="is the input"):
            run_file(Echo(), files.input, files.input)

    def test_device_as_output(self, files: Files) -> None:
        """What cannot be read again is refused as an output."""
        files.ask("a")
        files.output.mkdir()
        with pytest.raises(InvalidRequestError, match="regular file"):
            files.run(Echo())

    def test_no_name_of_a_file(self, files: Files) -> None:
        """A path that no file can have is told with the name of its argument."""
        files.ask("a")
        with pytest.raises(ValueError, match="output: no file can be called"):
            run_file(Echo(), files.input, "a\0b")
        with pytest.raises(ValueError, match="input: no file can be called"):
            run_file(Echo(), "a\0b", files.output)

    def test_missing_input(self, files: Files) -> None:
        """A missing input is an error of the system, and leaves nothing behind."""
        with pytest.raises(FileNotFoundError):
            files.run(Echo())
        assert list(files.input.parent.iterdir()) == []

    def test_missing_folder(self, files: Files) -> None:
        """A folder that is not there is an error of the system."""
        files.ask("a")
        with pytest.raises(FileNotFoundError, match="none"):
            run_file(Echo(), files.input, files.output.parent / "none" / "out.jsonl")

    @pytest.mark.parametrize(
        "options", [{"deadline": 0}, {"max_failures": 0}, {"grace_s": -1}, {"workers": 0}]
    )
    def test_numbers(self, files: Files, options: dict[str, Any]) -> None:
        """Numbers below their least are refused at the call."""
        with pytest.raises(ValueError, match=next(iter(options))):
            files.run(Echo(), **options)

    def test_two_runs(self, files: Files) -> None:
        """A second run of the same output is refused while the first goes on, and not after."""
        files.ask("a")
        refused = []

        def run_again(_: BatchResult) -> None:
            with pytest.raises(BatchLocked, match="another run") as caught:
                files.run(Echo())
            refused.append(caught.value)

        files.run(Echo(), on_result=run_again)
        assert len(refused) == 1
        assert files.run(Echo()).skipped == 1


class TestRerun:
    def test_nothing_left(self, files: Files) -> None:
        """A rerun of what is done sends nothing and leaves the file alone."""
        files.ask(*questions(10))
        files.run(Echo())
        before = files.output.read_bytes(), files.output.stat().st_ino
        client = Echo()
        summary = files.run(client)
        assert (summary.done, summary.skipped, summary.failed) == (0, 10, 0)
        assert client.asked == []
        assert (files.output.read_bytes(), files.output.stat().st_ino) == before

    def test_failed_changed_and_new(self, files: Files) -> None:
        """A rerun does what failed, what was changed and what is new, and nothing else."""
        files.ask(
            {"id": "done", "prompt": "a"},
            {"id": "failed", "prompt": "fail"},
            {"id": "changed", "prompt": "c"},
            {"id": "other model", "prompt": "d"},
            {"id": "other parameter", "prompt": "e", "temperature": 0.1},
        )
        files.run(Echo())
        files.ask(
            {"id": "failed", "prompt": "fail"},
            {"id": "done", "prompt": "a"},
            {"id": "changed", "prompt": "C"},
            {"id": "other model", "prompt": "d", "model": "better"},
            {"id": "other parameter", "prompt": "e", "temperature": 0.2},
            {"id": "new", "prompt": "f"},
        )
        client = Echo()
        summary = files.run(client)
        assert sorted(client.asked) == ["C", "d", "e", "f", "fail"]
        assert (summary.done, summary.skipped, summary.failed) == (4, 1, 1)
        rows = files.by_id()
        assert len(rows) == 6
        assert rows["changed"]["text"] == "C"
        assert rows["other model"]["model"] == "better"

    def test_the_same_request_in_other_words(self, files: Files) -> None:
        """A request that is only written another way is not done again."""
        files.ask({"id": "x", "prompt": "a", "system": "s", "top_p": 1, "seed": 2})
        files.run(Echo())
        messages = [{"content": "s", "role": "system"}, {"role": "user", "content": "a"}]
        files.ask({"seed": 2, "top_p": 1, "messages": messages, "id": "x"})
        assert files.run(Echo()).skipped == 1

    def test_rows_of_other_requests_stay(self, files: Files) -> None:
        """Rows of requests that the input does not have any more stay."""
        files.ask({"id": "old", "prompt": "a"}, {"id": "failed", "prompt": "fail"})
        files.run(Echo())
        files.ask({"id": "new", "prompt": "b"})
        summary = files.run(Echo())
        assert (summary.done, summary.skipped) == (1, 0)
        assert set(files.by_id()) == {"old", "new"}

    def test_an_id_twice_in_the_output(self, files: Files) -> None:
        """Of two rows with one id in the output, the first stays."""
        files.ask({"id": "x", "prompt": "a"})
        files.run(ScriptedProvider(["first"]))
        row = files.output.read_text()
        files.output.write_text(row + row.replace("first", "second"))
        assert files.run(Echo()).skipped == 1
        assert files.by_id()["x"]["text"] == "first"

    def test_torn_anywhere(self, files: Files) -> None:
        """Wherever a crash cut the last row, a rerun has every id once, and does again only what
        was cut.
        """
        files.ask({"id": "a", "prompt": "1"}, {"id": "b", "prompt": "2"})
        files.run(ScriptedProvider(["Reply"]), workers=1)
        whole = files.output.read_bytes()
        end_of_first = whole.index(b"\n") + 1
        near = range(end_of_first - 3, end_of_first + 8)
        for end in sorted({*range(0, len(whole), 23), *near, len(whole) - 2, len(whole) - 1}):
            files.output.write_bytes(whole[:end])
            client = Echo()
            files.run(client)
            assert set(files.by_id()) == {"a", "b"}
            # A row is whole without its line end, too.
            lost = ["1"] * (end < end_of_first - 1) + ["2"] * (end < len(whole) - 1)
            assert sorted(client.asked) == lost

    @pytest.mark.parametrize("rubbish", [b"\0" * 512, b'{"id": "b", "te\n', b"\n\n", b"{\xff\n"])
    def test_torn_rows_in_the_middle(self, files: Files, rubbish: bytes) -> None:
        """What a crash left between rows is dropped."""
        files.ask(*questions(2))
        files.run(Echo(), workers=1)
        first, second = files.output.read_bytes().splitlines(keepends=True)
        files.output.write_bytes(first + rubbish + second)
        summary = files.run(Echo())
        assert summary.done + summary.skipped == 2
        assert len(files.by_id()) == 2

    def test_the_file_keeps_its_mode(self, files: Files) -> None:
        """Rewriting keeps the file's permissions, and leaves nothing beside it."""
        files.ask("fail", "a")
        files.run(Echo())
        files.output.chmod(0o640)
        (files.output.parent / ".out.jsonl.new").write_text("left by a crash")
        files.run(Echo())
        assert stat.S_IMODE(files.output.stat().st_mode) == 0o640
        names = {path.name for path in files.input.parent.iterdir()}
        assert names == {"in.jsonl", "out.jsonl", ".out.jsonl.lock"}

    def test_a_link_as_output(self, files: Files, tmp_path: Path) -> None:
        """A link stays a link to the file that is rewritten."""
        files.ask("fail", "a")
        elsewhere = tmp_path / "elsewhere.jsonl"
        files.output.symlink_to(elsewhere)
        for _ in range(2):
            files.run(Echo())
        assert files.output.is_symlink()
        assert len(elsewhere.read_text().splitlines()) == 2

    @settings(max_examples=15)
    @given(seed=st.integers(0, 2**32))
    def test_any_history(self, seed: int, tmp_path_factory: pytest.TempPathFactory) -> None:
        """After any runs of any inputs, the last one's ids stand once, with its own replies."""
        dice = random.Random(seed)
        files = Files(tmp_path_factory.mktemp("history"))
        for _ in range(4):
            asked = {n: dice.choice(["a", "b", "fail"]) for n in dice.sample(range(8), 5)}
            files.ask(*({"id": n, "prompt": prompt} for n, prompt in asked.items()))
            files.run(Echo(), workers=dice.randint(1, 3))
            rows = files.by_id()
            told = {n: rows[n]["text"] or "fail" for n in asked}
            assert told == asked
            if dice.random() < 0.5:
                data = files.output.read_bytes()
                files.output.write_bytes(data[: dice.randint(0, len(data))])


class TestStop:
    def test_max_failures(self, files: Files) -> None:
        """After so many failures nothing more is sent; what was under way is written."""
        files.ask("a", *(f"fail {n}" for n in range(1000)))
        client = Echo()
        summary = files.run(client, workers=2, max_failures=3)
        assert summary.stopped
        assert 3 <= summary.failed <= 3 + 4 * 2
        assert len(files.by_id()) == len(client.asked) == summary.done + summary.failed

    def test_failures_below_the_limit(self, files: Files) -> None:
        """Fewer failures than allowed do not stop it."""
        files.ask("fail", "a", "fail again", "b")
        summary = files.run(Echo(), max_failures=3)
        assert not summary.stopped
        assert (summary.done, summary.failed) == (2, 2)

    @pytest.mark.parametrize("ending", ["on_result", "executor"])
    def test_other_ends(self, files: Files, ending: str) -> None:
        """When an error of on_result, such as an alarm's, or of the executor ends the batch, every
        reply that has arrived is written, and a rerun does not pay for it again.
        """
        files.ask(*questions(100))

        def refuse(result: BatchResult) -> None:
            if ending == "on_result":
                raise TimeoutError(result.id)

        executor = Inline(breaks_after=None if ending == "on_result" else 7)
        client, again = Echo(), Echo()
        with pytest.raises((TimeoutError, BrokenExecutor)):
            files.run(client, on_result=refuse, executor=executor)
        assert [row["text"] for row in files.rows()] == client.asked
        assert len(client.asked) == (16 if ending == "on_result" else 7)
        assert files.run(again).skipped == len(client.asked)
        assert set(again.asked).isdisjoint(client.asked)
        assert len(files.by_id()) == 100

    def test_what_is_broken_off_has_no_row(self, files: Files, sandbox: Sandbox) -> None:
        """When an error ends the batch, requests still under way are broken off, without a row."""
        sandbox.fail("openai", stall=True, times=100)
        files.ask("a", "b", "")

        def refuse(result: BatchResult) -> None:
            assert sandbox.wait_for(lambda s: s.count("openai", "chat") == 2, timeout_s=WAIT_S)
            raise KeyError(result.id)

        client = OpenAICompatible(**sandbox.provider_arguments("openai"))
        with client, pytest.raises(KeyError):
            files.run(client, on_result=refuse, workers=2)
        assert [row["id"] for row in files.rows()] == [3]

    def test_in_another_thread(self, files: Files) -> None:
        """Where signals cannot be handled, outside the main thread, a batch runs all the same."""
        files.ask("a")
        summaries: list[Summary] = []
        thread = threading.Thread(target=lambda: summaries.append(files.run(Echo())))
        thread.start()
        thread.join()
        assert summaries[0].done == 1

    def test_handlers_are_put_back(self, files: Files) -> None:
        """After a batch the handlers of signals are what they were."""
        files.ask("a")
        before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
        during = []
        files.run(Echo(), on_result=lambda _: during.append(signal.getsignal(signal.SIGINT)))
        after = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
        assert before == after
        assert during[0] != before[0]

    def test_an_ignored_signal_stays_ignored(self, files: Files) -> None:
        """A signal that is ignored, as under nohup, goes on being ignored."""
        files.ask("a")
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            during = []
            files.run(Echo(), on_result=lambda _: during.append(signal.getsignal(signal.SIGINT)))
        finally:
            signal.signal(signal.SIGINT, before)
        assert during == [signal.SIG_IGN]

    def test_progress(self, files: Files, capsys: pytest.CaptureFixture[str]) -> None:
        """A bar on stderr tells rows, rate, failures and tokens; without it nothing is written."""
        files.ask("a", "b")
        files.run(Echo())
        assert capsys.readouterr() == ("", "")
        files.ask("a", "b", "c", "fail")
        files.run(Echo(), progress=True)
        said = capsys.readouterr()
        assert said.out == ""
        last = said.err.split("\r")[-1]
        assert "4/4" in last
        assert "row/s" in last
        assert "1 failed" in last
        assert "3 tokens" in last


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")
class TestSignals:
    @pytest.mark.parametrize(
        ("number", "last_words"),
        [(signal.SIGINT, "KeyboardInterrupt"), (signal.SIGTERM, ""), (signal.SIGHUP, "")],
        ids=["SIGINT", "SIGTERM", "SIGHUP"],
    )
    def test_grace(self, files: Files, number: signal.Signals, last_words: str) -> None:
        """A signal lets what is under way be finished and written, and sends nothing more; then it
        does what it always does.
        """
        files.ask(*questions(50))
        with (
            Sandbox(piece_delay_s=0.02) as sandbox,
            child(files.input, files.output, sandbox.environ(), '{"workers": 2}') as process,
        ):
            process.wait_ready()
            assert sandbox.wait_for(lambda s: s.count("openai", "chat") == 2, timeout_s=WAIT_S)
            process.send(number)
            code, out, err = process.end()
            assert code == -number
            assert "ended" not in out
            assert err.strip().endswith(last_words)
            assert sandbox.count("openai", "chat") == 2
            assert len(files.by_id()) == 2
            assert not any(record.aborted for record in sandbox.requests)
        client = Echo()
        assert files.run(client).skipped == 2
        assert len(files.by_id()) == 50

    def test_processes_finish_too(self, files: Files) -> None:
        """A terminal's Ctrl-C reaches a pool's processes as well, and does not break off what they
        have under way.
        """
        files.ask(*questions(50))
        program = (
            "import multiprocessing, sys\n"
            "from concurrent.futures import ProcessPoolExecutor\n"
            "from llmproviders import OpenAICompatible\n"
            "from llmproviders.batch import run_file\n"
            "spawn = multiprocessing.get_context('spawn')\n"
            "with ProcessPoolExecutor(2, mp_context=spawn) as pool:\n"
            "    files = sys.argv[1:3]\n"
            "    run_file(OpenAICompatible(), *files, executor=pool, workers=2)\n"
        )
        with (
            Sandbox(piece_delay_s=0.02) as sandbox,
            child(files.input, files.output, sandbox.environ(), program=program) as process,
        ):
            assert sandbox.wait_for(lambda s: s.count("openai", "chat") == 2, timeout_s=WAIT_S)
            process.send_to_all(signal.SIGINT)
            code, _, err = process.end()
            assert code == -signal.SIGINT
            assert err.strip().endswith("KeyboardInterrupt")
            assert not any(record.aborted for record in sandbox.requests)
            assert len(files.by_id()) == sandbox.count("openai", "chat")

    @pytest.mark.parametrize("options", ['{"grace_s": 0}', '{"grace_s": 0.2}'])
    def test_grace_is_over(self, files: Files, sandbox: Sandbox, options: str) -> None:
        """What does not end within the grace is broken off, and has no row."""
        sandbox.fail("openai", stall=True, times=1000)
        files.ask(*questions(50))
        with child(files.input, files.output, sandbox.environ(), options) as process:
            process.wait_ready()
            assert sandbox.wait_for(lambda s: s.count("openai", "chat") == 4, timeout_s=WAIT_S)
            process.send(signal.SIGTERM)
            code, _, _ = process.end()
        assert code == -signal.SIGTERM
        assert files.rows() == []

    def test_second_signal(self, files: Files, sandbox: Sandbox) -> None:
        """The first Ctrl-C says what it waits for, and how long; a second one does not wait."""
        sandbox.fail("openai", stall=True, times=1000)
        files.ask(*questions(50))
        program = (
            "import sys\n"
            "from llmproviders import OpenAICompatible\n"
            "from llmproviders.batch import run_file\n"
            "print('ready', flush=True)\n"
            "run_file(OpenAICompatible(), sys.argv[1], sys.argv[2], grace_s=1000)\n"
        )
        with child(files.input, files.output, sandbox.environ(), program=program) as process:
            process.wait_ready()
            assert sandbox.wait_for(lambda s: s.count("openai", "chat") == 4, timeout_s=WAIT_S)
            process.send(signal.SIGINT)
            assert process.process.stderr is not None
            said = process.process.stderr.readline()
            assert said == (
                "finishing 4 requests (at most 1000 s); press Ctrl-C again to drop them\n"
            )
            process.send(signal.SIGINT)
            code, _, err = process.end()
        assert code == -signal.SIGINT
        assert err.strip().endswith("KeyboardInterrupt")

    def test_a_signal_during_the_handler(self) -> None:
        """A signal that interrupts the handler itself is handled right after it, not inside it."""
        steps: list[str] = []

        def stop() -> None:
            steps.append("stop")
            signal.raise_signal(signal.SIGTERM)
            steps.append("stopped")

        before = signal.signal(signal.SIGTERM, lambda *_: steps.append("passed on"))
        try:
            with Interrupts(stop, lambda: steps.append("end")) as interrupts:
                signal.raise_signal(signal.SIGINT)
            interrupts.pass_on()
        finally:
            signal.signal(signal.SIGTERM, before)
        assert steps == ["stop", "stopped", "end", "passed on"]

    @pytest.mark.skipif(
        sys.version_info >= (3, 13),
        reason="Python traces not every call of a handler",
    )
    def test_a_signal_anywhere_in_the_handler(self) -> None:
        """A second signal counts wherever in the handler of the first one it comes."""
        for step in itertools.count(1):
            steps: list[str] = []
            interrupter = Interrupter(step)
            with Interrupts(lambda: steps.append("stop"), lambda: steps.append("end")):  # noqa: B023
                interrupted(lambda: str(signal.raise_signal(signal.SIGTERM)), interrupter)
            if not interrupter.where:
                break
            assert steps == ["stop", "end"], interrupter.where
        assert step > 3

    def test_third_signal(self, files: Files) -> None:
        """A third Ctrl-C ends even what does not listen, such as a callback that never returns."""
        files.ask("a")
        program = (
            "import os, sys, signal\n"
            "from llmproviders.batch import run_file\n"
            "from tests.support.batches import Echo\n"
            "arrived, arriving = os.pipe()\n"
            "os.set_blocking(arriving, False)\n"
            "signal.set_wakeup_fd(arriving)\n"
            "def stuck(result):\n"
            "    print('stuck', flush=True)\n"
            "    while os.read(arrived, 1):\n"
            "        print('stuck', flush=True)\n"
            "run_file(Echo(), sys.argv[1], sys.argv[2], on_result=stuck)\n"
        )
        with child(files.input, files.output, {}, program=program) as process:
            assert process.process.stdout is not None
            for _ in range(3):
                assert process.process.stdout.readline() == "stuck\n"
                process.send(signal.SIGINT)
            code, _, err = process.end()
        assert code == -signal.SIGINT
        assert err.strip().endswith("KeyboardInterrupt")
        assert len(files.rows()) == 1

    def test_full_disk(self, files: Files, sandbox: Sandbox) -> None:
        """Where a row cannot be written the batch ends with the system's error, which names the
        file, and a rerun has every id once.
        """
        files.ask(*questions(100))
        program = (
            "import resource, signal, sys\n"
            "from llmproviders import OpenAICompatible\n"
            "from llmproviders.batch import run_file\n"
            "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
            "resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))\n"
            "run_file(OpenAICompatible(), sys.argv[1], sys.argv[2])\n"
        )
        with child(files.input, files.output, sandbox.environ(), program=program) as process:
            code, _, err = process.end()
        assert code == 1
        assert err.rstrip().endswith(f"File too large: {str(files.output)!r}")
        assert files.output.stat().st_size == 5000
        assert files.run(Echo()).skipped > 0
        assert len(files.by_id()) == 100


class TestDigests:
    @given(st.lists(st.integers(0, 2**64 - 1)), st.lists(st.integers(0, 2**64 - 1)))
    def test_like_a_set(self, added: list[int], others: list[int]) -> None:
        """They know what was added and what was added twice, as a set would."""
        digests = Digests()
        for number in added:
            digests.add(number)
        assert len(digests) == len(added)
        assert all(number in digests for number in added)
        assert [number in digests for number in others] == [n in set(added) for n in others]
        assert digests.repeated() == {n for n in added if added.count(n) > 1}

    def test_many(self) -> None:
        """More than fit one run are still sorted and found, at eight bytes each."""
        digests = Digests()
        numbers = [digest(str(n)) for n in range(150_000)]
        for number in numbers:
            digests.add(number)
        assert list(digests) == sorted(numbers)
        assert digests.repeated() == set()
        assert all(number in digests for number in numbers[::1000])
        assert digest("none") not in digests

    def test_parts(self) -> None:
        """Where one part ends and the next begins counts."""
        assert digest("ab", "c") != digest("a", "bc")
