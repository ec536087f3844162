"""Replies in a real JupyterLab, in a real browser."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from llmproviders.sandbox import Sandbox
from tests.support.lab import PATIENCE_S, Lab, browser, browsers, jupyterlab, write_notebook

pytestmark = [pytest.mark.browser]
if browsers() is None:
    # pytest reports a module's `skip` in one line, but a `skipif` in one for each test.
    why = "needs a browser: apt-get install chromium chromium-driver"
    pytestmark.append(pytest.mark.skip(reason=why))

NASTY = "<img src=x onerror=\"document.title='it ran'\"> **bold** ![](http://127.0.0.1:9/x.png)"
LONG = "A long reply, word by word. " * 1000
"""It would take five minutes."""

CELLS = (
    "%load_ext llmproviders\n%llm_config -p openai",
    "%%llm\nTell me a long story.",
    "%%llm\nTell me something nasty.",
    "%%llm -v -p chatglm -p openai\nAnd now?",
    "print('ready')",
)
SETUP, STORY, NASTINESS, ATTEMPTS, AFTER = range(len(CELLS))


def reply(messages: list[dict[str, Any]]) -> str:
    """What the sandbox says."""
    question = messages[-1]["content"]
    if "nasty" in question:
        return NASTY
    return LONG if "long" in question else "Nothing."


@pytest.fixture(scope="module")
def services() -> Iterator[Sandbox]:
    """Serve the sandbox, slowly."""
    with Sandbox(reply=reply, piece_delay_s=0.05) as serving:
        yield serving


@pytest.fixture(scope="module")
def lab(services: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Open a notebook in JupyterLab, with the extension loaded."""
    folder = tmp_path_factory.mktemp("lab")
    (folder / "served").mkdir()
    write_notebook(folder / "served" / "replies.ipynb", CELLS)
    with (
        jupyterlab(folder / "served", services.environ()) as url,
        browser(folder / "profile") as driver,
    ):
        opened = Lab(driver, url, "replies.ipynb")
        assert "OpenAICompatible" in opened.run(SETUP)
        yield opened


def words_of(shown: str) -> list[str]:
    """The words of the long reply that a cell shows, without the small line."""
    return shown.partition("\n\n")[0].split() if shown.startswith(LONG[:6]) else []


def test_the_text_grows_on_the_page_and_stop_ends_it(lab: Lab, services: Sandbox) -> None:
    """A reader sees text before the reply has ended; stop keeps it, and closes the connection."""
    lab.start(STORY)
    request = lab.wait(lambda: services.count("openai", "chat") and services.requests[-1])
    states: list[list[str]] = []
    while len(states) < 4:
        words = lab.wait(lambda: words_of(lab.output(STORY)), what="text on the page")
        assert not request.ended
        if not states or words != states[-1]:
            states.append(words)
    story = LONG.split()
    assert all(state == story[: len(state)] for state in states)
    assert [len(state) for state in states] == sorted({len(state) for state in states})

    lab.press_stop()
    lab.wait(lambda: lab.ended(STORY), what="the end of the cell")
    assert services.wait_for(lambda _: request.aborted, timeout_s=PATIENCE_S)
    text, _, note = lab.output(STORY).partition("\n\n")
    assert len(text.split()) >= len(states[-1])
    assert "stopped after" in note
    assert "the connection is closed" in note
    assert "Stopped." in note
    assert "Traceback" not in note
    assert "ready" in lab.run(AFTER)


def test_nothing_that_a_model_writes_acts(lab: Lab) -> None:
    """A tag in a reply is shown, not run, though the page trusts what its cells show."""
    shown = lab.run(NASTINESS)
    assert "onerror=" in shown
    assert "bold" in shown
    cell = lab.cell(NASTINESS)
    assert [node.text for node in lab.find_in(cell, "strong")] == ["bold"]
    assert lab.find_in(cell, "img") == []
    assert lab.driver.title != "it ran"


def test_attempts_are_a_picture_and_a_table(lab: Lab, services: Sandbox) -> None:
    """The timeline is drawn on the page, with the table below it."""
    services.fail("chatglm", status=503)
    lab.run(ATTEMPTS)
    [picture] = lab.find_in(lab.cell(ATTEMPTS), "svg[role=img]")
    assert picture.size["width"] > 400
    assert picture.size["height"] > 60
    [table] = lab.find_in(lab.cell(ATTEMPTS), "table")
    assert "ServerError" in table.text
    assert "whole reply" in table.text
