"""The pictures of attempts: as SVG, as a table, and in characters."""

from __future__ import annotations

import re
import unicodedata
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmproviders import (
    Attempt,
    Completion,
    FailoverClient,
    FinishReason,
    LLMError,
    ProviderTimeout,
    ServerError,
    StreamInterrupted,
    _display,
)
from llmproviders._display.text import ticks
from llmproviders._display.timeline import AttemptOutcome, Timeline
from llmproviders._display.timeline import timeline_svg as svg
from llmproviders._display.timeline import timeline_text as text
from llmproviders.errors import SLOWER
from llmproviders.results import Attempts
from llmproviders.testing import ScriptedProvider

DOWN = Attempt("GigaChat", "GigaChat-2", 100.0, None, 0.5, ServerError("down", status_code=503))
REFUSED = Attempt("GigaChat", "GigaChat-2", 100.5, None, 0.1, LLMError("no"))
LATE = Attempt("FlowGpt", None, 100.5, None, 1.0, ProviderTimeout(SLOWER, retryable=False))
CUT = Attempt("FlowGpt", None, 101.0, 0.2, 0.5, StreamInterrupted("cut"), chunks=3)
GOOD = Attempt("ChatGLM", "glm-4", 102.0, 0.5, 1.0, waited=0.5, chunks=7)
STORY = Attempts([DOWN, REFUSED, LATE, CUT, GOOD])
SVG = "{http://www.w3.org/2000/svg}"


def parse(picture: str) -> ElementTree.Element:
    """Read a picture as XML, as a browser would that is strict."""
    return ElementTree.fromstring(picture)


def bars(picture: str) -> list[list[tuple[str, float, float]]]:
    """The fill, place and width of the bars of each row."""
    return [
        [
            (bar.attrib["fill"], float(bar.attrib["x"]), float(bar.attrib["width"]))
            for bar in row.iter(f"{SVG}rect")
        ]
        for row in parse(picture).findall(f"{SVG}g")
    ]


@pytest.mark.parametrize(
    ("attempt", "outcome"),
    [
        (GOOD, AttemptOutcome.WHOLE),
        (CUT, AttemptOutcome.CUT),
        (DOWN, AttemptOutcome.PASSING),
        (REFUSED, AttemptOutcome.FINAL),
        (LATE, AttemptOutcome.OVERTAKEN),
    ],
)
def test_outcome(attempt: Attempt, outcome: AttemptOutcome) -> None:
    """How an attempt ended decides its colour."""
    assert AttemptOutcome.of(attempt) is outcome


class TestSvg:
    def test_a_row_for_each_attempt_in_the_colour_of_its_outcome(self) -> None:
        """Each attempt has one row, coloured by how it ended."""
        rows = bars(svg(STORY))
        assert [row[-1][0] for row in rows] == [AttemptOutcome.of(a).colour for a in STORY]

    def test_lengths_are_seconds(self) -> None:
        """Wait, start, first text and end stand where their seconds are, on one axis."""
        *_, (wait, pending, shown) = bars(svg([DOWN, GOOD]))
        [[first]] = bars(svg([DOWN, GOOD]))[:1]
        second = pending[2]
        assert wait[0].startswith("url(#")
        assert wait[2] == pytest.approx(0.5 * second, abs=0.2)
        assert wait[1] - first[1] == pytest.approx(1.5 * second, abs=0.2)
        assert pending[1] == pytest.approx(wait[1] + wait[2], abs=0.2)
        assert shown[1] == pytest.approx(pending[1] + 0.5 * second, abs=0.2)
        assert shown[2] == pytest.approx(0.5 * second, abs=0.2)

    def test_the_hatch_of_a_wait_is_defined(self) -> None:
        """What a wait is filled with exists under that name in the same picture."""
        picture = svg([GOOD])
        (pattern,) = parse(picture).iter(f"{SVG}pattern")
        assert f'fill="url(#{pattern.attrib["id"]})"' in picture

    def test_the_legend_names_what_is_there_and_nothing_else(self) -> None:
        """A legend explains the colours, the hatch and the mark that the picture has."""
        everything = {outcome.label for outcome in AttemptOutcome} | {"wait", "first text"}
        for attempts, expected in (
            (STORY, everything),
            ([DOWN], {"failed, may pass"}),
            ([replace(GOOD, waited=0.0)], {"whole reply", "first text"}),
        ):
            texts = {node.text for node in parse(svg(attempts)).findall(f"{SVG}text")}
            assert texts & everything == expected

    def test_text_alternative(self) -> None:
        """Who cannot see it hears what it shows: a title, and a sentence for each attempt."""
        picture = parse(svg(STORY))
        title, description = picture.find(f"{SVG}title"), picture.find(f"{SVG}desc")
        assert picture.attrib["role"] == "img"
        assert title is not None
        assert description is not None
        assert (
            picture.attrib["aria-labelledby"] == f"{title.attrib['id']} {description.attrib['id']}"
        )
        assert title.text == "Timeline of 5 attempts"
        assert description.text is not None
        for words in ("ServerError 503, 0.50 s (down)", "after a wait of 0.50 s", "7 pieces"):
            assert words in description.text

    def test_light_and_dark(self) -> None:
        """Text and lines take the page's colour; a file of its own follows the reader's choice."""
        inside, alone = svg(STORY), svg(STORY, standalone=True)
        fixed = set(re.findall(r'(?:fill|stroke)="(#\w+)"', inside))
        assert fixed <= {outcome.colour for outcome in AttemptOutcome} | {"#808080"}
        assert "<style" not in inside
        assert "prefers-color-scheme:dark" in alone

    def test_it_is_the_same_each_time(self) -> None:
        """The same attempts make the same picture, byte by byte."""
        assert svg(STORY) == svg(list(STORY))
        assert svg(STORY) != svg(STORY[:2])

    @pytest.mark.parametrize("attempts", [[], [replace(GOOD, duration=0.0, waited=0.0)]])
    def test_nothing_to_see(self, attempts: list[Attempt]) -> None:
        """No attempt, or one that took no time, is a picture too."""
        assert len(bars(svg(attempts))) == len(attempts)

    def test_many_attempts(self) -> None:
        """Of very many attempts it draws the first ones and says how many more there are."""
        picture = svg([DOWN] * 500)
        assert len(bars(picture)) == 60
        assert "440 more" in picture


class TestPauses:
    CALLS = (DOWN, GOOD, replace(DOWN, started_at=5000.0), replace(GOOD, started_at=5002.0))

    def test_long_pauses_are_cut_short(self) -> None:
        """Of attempts of several calls, hours without any take little room, and are marked."""
        timeline = Timeline.of(self.CALLS, cut_pauses=True)
        assert timeline.end < 6
        [(first, seconds_off), (second, hours_off), (third, _)] = timeline.pauses
        assert (seconds_off, round(hours_off)) == (1.0, 4897)
        assert timeline.rows[0].end < first < timeline.rows[1].wait < second < third
        picture = svg(self.CALLS, cut_pauses=True)
        assert "nothing for 4897.0 s" in picture
        assert "pause, cut short" in picture

    def test_lengths_stay(self) -> None:
        """Cutting a pause moves what comes later, and changes no length."""
        cut, whole = Timeline.of(self.CALLS, cut_pauses=True), Timeline.of(self.CALLS)
        for row, plain in zip(cut.rows, whole.rows, strict=True):
            assert row.end - row.wait == pytest.approx(plain.end - plain.wait)
            assert row.attempt is plain.attempt

    def test_one_call_has_its_own_time(self) -> None:
        """Of one call nothing is cut: a pause in it is part of its story."""
        assert Timeline.of(self.CALLS).pauses == ()
        assert Timeline.of(self.CALLS).end > 4900

    def test_order_does_not_matter(self) -> None:
        """Rows keep their order, also where a later row began before an earlier one."""
        timeline = Timeline.of(self.CALLS[::-1], cut_pauses=True)
        assert [row.attempt for row in timeline.rows] == list(self.CALLS[::-1])
        assert timeline.end == pytest.approx(Timeline.of(self.CALLS, cut_pauses=True).end)


def test_a_report_is_a_table_and_a_timeline() -> None:
    """What a client has seen of its providers renders as HTML, with its recent attempts."""
    client = FailoverClient(
        [
            ScriptedProvider([], error=ServerError("<down>"), name="first"),
            FailoverClient([ScriptedProvider(["Yes."], name="second")], name="inner"),
        ],
        attempts=1,
        name="outer",
    )
    assert parse(client.report()._repr_html_()).find(f".//{SVG}svg") is None
    client.complete("Sure?")
    page = parse(client.report()._repr_html_())
    cells = [[cell.text or "" for cell in row] for row in page.iter("tr")]
    assert [row[0] for row in cells] == ["provider", "first", "inner", "  second"]
    picture = page.find(f".//{SVG}svg")
    assert picture is not None
    stories = [group.findtext(f"{SVG}title") or "" for group in picture.findall(f"{SVG}g")]
    # On a slow machine there is a pause between the two.
    told = [story for story in stories if not story.startswith("nothing for")]
    assert len(told) == len(client.report().recent)


NASTY = st.text(max_size=40) | st.sampled_from(
    ["<script>alert(1)</script>", '"><img src=x>', "]]>", "\x00\x1b[31m", "\ud800", "a\nb"]
)
ANY = st.builds(
    Attempt,
    NASTY,
    st.none() | NASTY,
    st.floats(1e9, 2e9),
    st.none() | st.floats(0, 100),
    st.floats(0, 100),
    st.none() | st.builds(ServerError, NASTY),
    st.floats(0, 10),
    st.integers(0, 10**6),
)


@given(st.lists(ANY, max_size=4))
def test_whatever_they_hold_the_pictures_are_well_formed(attempts: list[Attempt]) -> None:
    """No name and no message breaks a picture, or puts an element of its own into it."""
    for picture in (svg(attempts), svg(attempts, standalone=True)):
        names = {node.tag.removeprefix(SVG) for node in parse(picture).iter()}
        allowed = {"svg", "title", "desc", "style", "defs", "pattern", "g", "rect", "path"}
        assert names <= allowed | {"circle", "text"}
    page = parse(Attempts(attempts)._repr_html_().replace("\x00", ""))
    assert not [node for node in page.iter() if node.tag in ("script", "img")]


@given(st.lists(ANY, min_size=1, max_size=4), st.integers(40, 200))
def test_whatever_they_hold_the_characters_stay_in_their_lines(
    attempts: list[Attempt], width: int
) -> None:
    """A drawing in characters has a line for each attempt, an axis and a key, and no control."""
    lines = text(attempts, width=width).split("\n")
    assert len(lines) == len(attempts) + 2
    assert not {unicodedata.category(c) for c in "".join(lines)} & {"Cc", "Cs", "Zl", "Zp"}


class TestCharacters:
    def test_drawing(self) -> None:
        """A wait, the time until the first text, and the text, each with its own character."""
        assert text([DOWN, GOOD], width=80).split("\n") == [
            "GigaChat · GigaChat-2 ░░░░░                        ServerError 503, 0.50 s",
            "ChatGLM · glm-4                     ╱╱╱╱╱░░░░◆████ whole reply, 7 pieces, 1.00 s",
            "                      ├0 s───────────────├2 s─────",
            "╱ wait  ░ no text yet  ◆ first text  █ text",
        ]

    def test_colour(self) -> None:
        """Colours are there when asked for, and end with the bar."""
        assert "\x1b" not in text(STORY)
        first = text([DOWN], colour=True).split("\n")[0]
        assert re.search(r"\x1b\[33m░+\s*\x1b\[0m ServerError", first)

    def test_wide_names_keep_the_columns(self) -> None:
        """A character that takes two columns is counted as two."""
        chinese = replace(GOOD, provider="智谱清言", model=None)
        latin = replace(GOOD, provider="abcdefgh", model=None)
        first, second, *_ = text([chinese, latin], width=80).split("\n")
        assert len(second) - len(first) == 4

    def test_nothing(self) -> None:
        """No attempt is said in words."""
        assert text([]) == "no attempt"

    def test_many(self) -> None:
        """Of very many attempts it draws the first ones and says how many more there are."""
        assert "440 more" in text([DOWN] * 500)


@pytest.mark.parametrize("end", [1e-6, 0.003, 0.1, 1.0, 1.3, 9.99, 60.0, 3600.0])
@pytest.mark.parametrize("most", [2, 3, 6, 10])
def test_ticks(end: float, most: int) -> None:
    """An axis has between one and ``most`` ticks, evenly apart, none beyond its end."""
    places = [at for at, _ in ticks(end, most)]
    assert 1 <= len(places) <= most
    assert places[0] == 0
    assert places[-1] <= end * (1 + 1e-9)
    assert len(places) > 1 or most == 2


class TestAttempts:
    def test_a_tuple(self) -> None:
        """The attempts of a reply are a tuple, compare as one, and draw themselves on a page."""
        finish = FinishReason(attempts=(DOWN, GOOD))
        reply = Completion.of("Yes.", finish)
        assert isinstance(reply.attempts, tuple)
        assert reply.attempts == (DOWN, GOOD)
        assert reply.attempts._repr_html_().count("<svg") == 1

    def test_table(self) -> None:
        """The table has the same rows as the timeline, and the message of each error in full."""
        page = parse(STORY._repr_html_())
        cells = [[cell.text or "" for cell in row] for row in page.iter("tr")]
        assert cells[0] == [
            "provider",
            "model",
            "waited",
            "first text after",
            "duration",
            "pieces",
            "outcome",
        ]
        assert cells[1] == ["GigaChat", "GigaChat-2", "", "", "0.50 s", "0", "ServerError: down"]
        assert cells[-1] == ["ChatGLM", "glm-4", "0.50 s", "0.50 s", "1.00 s", "7", "whole reply"]
        assert len(cells) == 1 + len(STORY)

    def test_files_and_terminals(self) -> None:
        """A script gets the same picture as a file's text, and in characters."""
        assert "prefers-color-scheme" in STORY.to_svg()
        assert STORY.to_text(width=90) == text(STORY, width=90)


def test_pictures_are_made_of_plain_data() -> None:
    """``_display`` imports no other part of the package, save what makes text harmless."""
    for path in Path(_display.__file__).parent.glob("*.py"):
        found = re.findall(r"^\s*from \.\.(\w+)", path.read_text(encoding="utf-8"), re.MULTILINE)
        assert set(found) <= {"_printable"}, path.name


def test_a_completion_in_a_terminal() -> None:
    """Plain IPython shows a reply in a line: its start, who gave it, and its tokens."""
    reply = ScriptedProvider(["word " * 1000], name="first").complete("Why?")
    shown: list[str] = []
    printer = SimpleNamespace(text=shown.append)
    reply._repr_pretty_(printer, False)
    (line,) = shown
    assert line.startswith("Completion('word word")
    assert "provider='first'" in line
    assert len(line) < 400
