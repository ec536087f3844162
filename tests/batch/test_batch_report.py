"""The report of a batch: what it counts, what it draws, and that it stands alone."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from llmproviders import FailoverClient, ServerError, batch
from llmproviders._display.timeline import AttemptOutcome
from llmproviders.batch import as_row
from llmproviders.batch._report import BatchReport
from llmproviders.errors import SLOWER
from llmproviders.testing import ScriptedProvider

SVG = "{http://www.w3.org/2000/svg}"


def attempt(provider: str, at: float, took: float, **changes: Any) -> dict[str, Any]:
    """An attempt as a row has it, a whole reply unless told otherwise."""
    return {
        "provider": provider,
        "model": None,
        "started_at": at,
        "first_chunk_after": 0.1,
        "duration": took,
        "error": None,
        "waited": 0.0,
        "chunks": 3,
        **changes,
    }


def failed(kind: str, message: str = "no", **changes: Any) -> dict[str, Any]:
    """What an attempt that failed has otherwise."""
    return {"error": {"type": kind, "message": message}, "first_chunk_after": None, **changes}


def row(number: int, *attempts: dict[str, Any], error: str | None = None) -> dict[str, Any]:
    """An output row."""
    return {
        "id": number,
        "error": None if error is None else {"type": error, "message": f"<b>message {number}</b>"},
        "attempts": list(attempts),
        "usage": None if error is not None else {"total_tokens": 10},
    }


ROWS = (
    row(1, attempt("GigaChat", 1000.0, 1.0)),
    row(
        2,
        attempt("GigaChat", 1001.0, 0.1, **failed("ServerError")),
        attempt("GigaChat", 1001.6, 0.1, **failed("RateLimitError"), waited=0.5),
        attempt("ChatGLM", 1001.7, 2.3),
    ),
    row(
        3,
        attempt("GigaChat", 1010.0, 0.2, **failed("StreamInterrupted", first_chunk_after=0.1)),
        attempt("ChatGLM", 1010.2, 0.1, **failed("BlockedError")),
        error="AllProvidersFailed",
    ),
    row(
        4,
        attempt("GigaChat", 1060.0, 0.5, **failed("ProviderTimeout", SLOWER)),
        attempt("ChatGLM", 1060.1, 0.4),
    ),
)


def pictures(report: BatchReport) -> list[ElementTree.Element]:
    """The pictures of a report."""
    found = re.findall(r"<svg.*?</svg>", report.to_html(), re.DOTALL)
    return [ElementTree.fromstring(picture) for picture in found]


def stories(report: BatchReport) -> list[str]:
    """The text alternative of each picture."""
    return [picture.findtext(f"{SVG}desc", "") for picture in pictures(report)]


class TestNumbers:
    def test_rows(self) -> None:
        """Rows, failures and tokens are counted, and the time of a row has its waits in it."""
        report = BatchReport.of(ROWS)
        assert (report.done, report.failed, report.tokens) == (3, 1, 30)
        latencies, outcomes, tries = stories(report)
        assert latencies == ("3 rows whole, 1 failed; median 0.50 s, 95 % 3.00 s, 99 % 3.00 s")
        assert outcomes == (
            "GigaChat: 1 whole reply, 1 cut after text, 2 failed, may pass, "
            f"1 {SLOWER}. ChatGLM: 2 whole reply, 1 failed for good"
        )
        assert tries == "4 first tries, 4 after them, in 60.1 s"

    def test_half_rows(self) -> None:
        """Rows that max_tokens cut or a filter stopped are counted apart from whole ones."""
        rows = [
            {**row(n, attempt("A", 0.0, 1.0)), "finish_reason": reason}
            for n, reason in enumerate(["stop", "length", "content_filter", "content_filter"])
        ]
        report = BatchReport.of(rows)
        assert (report.done, report.cut, report.filtered, report.failed) == (4, 1, 2, 0)
        assert "4 rows: 1 whole, 1 cut by max_tokens, 2 stopped by a filter, 0 failed" in repr(
            report
        )
        latencies, outcomes, _ = stories(report)
        assert latencies.startswith("1 row whole, 3 cut, 0 failed;")
        assert outcomes == "A: 1 whole reply, 3 cut after text"

    def test_tokens_of_every_try(self) -> None:
        """What was rejected or broke off was paid for too; what came from a cache was not."""
        paid = attempt("GigaChat", 1000.0, 1.0, usage={"total_tokens": 4})
        bad = attempt("GigaChat", 1000.0, 1.0, **failed("SchemaError"), usage={"total_tokens": 3})
        rows = [
            {**row(1, bad, paid), "usage": {"total_tokens": 4}},
            row(2, bad, error="SchemaError"),
            {**row(3), "cached": True},
            row(4),
        ]
        assert BatchReport.of(rows).tokens == 4 + 3 + 3 + 10

    def test_failures_have_examples(self) -> None:
        """Each class of failure is a line with a few of its rows, escaped."""
        report = BatchReport.of([row(n, error="ServerError") for n in range(9)])
        html = report.to_html()
        assert "0: &lt;b&gt;message 0&lt;/b&gt;<br>1:" in html
        assert "message 3" not in html
        assert ">9</td>" in html

    def test_rows_without_attempts(self) -> None:
        """What was never sent has no time: it is counted, and there is nothing to draw."""
        assert pictures(BatchReport.of([row(1, error="InvalidRequestError")])) == []
        assert pictures(BatchReport()) == []
        assert "0 rows" in BatchReport().to_html()

    def test_what_the_library_writes(self) -> None:
        """Rows of real results are understood."""
        client = FailoverClient(
            [
                ScriptedProvider([], error=ServerError("down"), name="first"),
                ScriptedProvider(["Yes."], name="second"),
            ],
            attempts=1,
        )
        results = batch.run(client, ["One?", "Two?", ""])
        report = BatchReport.of(as_row(result.completion, result.error) for result in results)
        assert (report.done, report.failed) == (2, 1)
        assert "second: 2 whole reply" in stories(report)[1]

    def test_a_file(self, tmp_path: Path) -> None:
        """A file of rows is read; a torn line is passed over."""
        path = tmp_path / "out.jsonl"
        path.write_text("\n".join([*map(json.dumps, ROWS), '{"id": 5, "err']), encoding="utf-8")
        report = BatchReport.read(path)
        assert (report.name, report.done, report.failed) == ("out.jsonl", 3, 1)


class TestPictures:
    def test_the_distribution(self) -> None:
        """The bars hold every row once, whole ones and failed ones apart."""
        report = BatchReport.of(
            [row(n, attempt("A", 0.0, 0.1 * n)) for n in range(1, 50)]
            + [row(n, attempt("A", 0.0, 7.0, **failed("X")), error="X") for n in range(3)]
        )
        bars = [bar.findtext(f"{SVG}title", "") for bar in pictures(report)[0].iter(f"{SVG}g")]
        numbers = [re.findall(r"\d+", bar.partition(": ")[2]) for bar in bars]
        assert sum(int(number) for pair in numbers for number in pair) == 52

    def test_light_and_dark(self) -> None:
        """The page follows the reader's choice, and the pictures the page."""
        html = BatchReport.of(ROWS).to_html()
        assert "color-scheme:light dark" in html
        assert "prefers-color-scheme:dark" in html
        fills = set(re.findall(r'fill="(#\w+)"', html))
        assert fills <= {outcome.colour for outcome in AttemptOutcome} | {"#3b82d6", "#808080"}

    def test_it_stands_alone(self) -> None:
        """No script, and nothing from elsewhere; the page forbids it, too."""
        html = BatchReport.of(ROWS, name="<script>").to_html()
        assert "<script" not in html
        assert not re.search(r"(?:src|href)=|url\((?!#)|@import", html)
        assert "default-src 'none'" in html

    TIMES = st.floats(0, 2e9) | st.sampled_from([0.0, 1e-9])

    @given(
        st.lists(
            st.builds(
                lambda provider, at, took, bad: row(
                    1,
                    attempt(provider, at, took, **({} if bad is None else failed(bad))),
                    error=bad,
                ),
                st.text(max_size=30),
                TIMES,
                TIMES,
                st.none() | st.text(max_size=20),
            ),
            min_size=1,
            max_size=6,
        )
    )
    def test_any_rows_make_pictures(self, rows: list[dict[str, Any]]) -> None:
        """Whatever the names and numbers, the pictures are well-formed."""
        assert len(pictures(BatchReport.of(rows))) == 3


def test_on_a_page_of_a_notebook() -> None:
    """In a notebook the report is a part of the page, with no head of its own."""
    html = BatchReport.of(ROWS)._repr_html_()
    assert html.startswith("<div>")
    assert "<title>Report" not in html
