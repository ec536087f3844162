"""Replies in a notebook: the page as it grows, the magics, and what a stopped cell leaves."""

from __future__ import annotations

import ast
import html
import inspect
import io
import os
import pickle
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmproviders import (
    Attempt,
    Completion,
    FinishReason,
    Restart,
    ServerError,
    StreamInterrupted,
    Usage,
)
from llmproviders.notebook import show, use
from llmproviders.notebook._page import NotebookDisplay, Terminal
from llmproviders.notebook._prompt import MissingVariableError, fill
from llmproviders.notebook._show import _shown
from llmproviders.results import Image
from llmproviders.sandbox import Sandbox
from llmproviders.testing import ScriptedProvider
from tests.support.actors import FakeClock
from tests.support.kernel import Kernel, kernel

FINISH = FinishReason(provider="GigaChat", model="GigaChat-2", usage=Usage(5, 28, 33))


class Display:
    """IPython's ``display``, as far as a page needs it: remembers what was shown, and when."""

    def __init__(self, clock: FakeClock) -> None:
        self._clock = clock
        self.shown: list[dict[str, str]] = []
        self.times: list[float] = []

    def __call__(self, bundle: dict[str, str], *, raw: bool, display_id: bool) -> Display:
        """Show something for the first time."""
        assert raw
        assert display_id
        assert not self.shown, "a reply has one display"
        return self.update(bundle, raw=True)

    def update(self, bundle: dict[str, str], *, raw: bool) -> Display:
        """Show something else in its place."""
        self.shown.append(bundle)
        self.times.append(self._clock.monotonic())
        return self

    @property
    def last(self) -> tuple[str, str]:
        """The text and the note that are on the page."""
        text, _, note = self.shown[-1]["text/markdown"].rpartition("\n\n<div><small>")
        return text, note.removesuffix("</small></div>")


class Scene:
    """A page on a clock, and a stream that plays on both."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.display = Display(self.clock)
        self.closed = False

    def stream(self, *steps: Any) -> Iterator[str]:
        """Yield text, let seconds pass, raise errors."""
        try:
            for step in steps:
                if isinstance(step, float):
                    self.clock.pass_(step)
                elif isinstance(step, BaseException):
                    raise step
                else:
                    yield step
        finally:
            self.closed = True

    def play(self, *steps: Any, note: bool = True) -> Completion:
        """Show the stream on the page."""
        page = NotebookDisplay(self.display, self.clock)
        return _shown(self.stream(*steps), page, self.clock, note=note)


@pytest.fixture
def scene() -> Scene:
    """Return an empty page."""
    return Scene()


class TestPage:
    def test_it_grows(self, scene: Scene) -> None:
        """The page shows the text as it comes, and at its end who said it in how long."""
        reply = scene.play(0.5, "One ", 0.2, "two ", 0.2, "three.", 0.1, FINISH)
        assert reply == Completion.of("One two three.", FINISH)
        texts = [
            bundle["text/markdown"].partition("\n\n<div>")[0] for bundle in scene.display.shown
        ]
        assert texts == ["", "One ", "One two ", "One two three.", "One two three."]
        assert scene.display.last[1] == (
            "GigaChat · GigaChat-2 · 5 + 28 tokens · 1.00 s (first text after 0.50 s)"
        )
        assert scene.closed

    @given(st.lists(st.floats(0.0, 0.3), min_size=1, max_size=60))
    def test_ten_times_a_second_at_most_and_the_last_always(self, pauses: list[float]) -> None:
        """However the pieces come, updates are a tenth of a second apart, but for the last one."""
        scene = Scene()
        steps = [step for number, pause in enumerate(pauses) for step in (pause, f"{number} ")]
        reply = scene.play(*steps, FINISH)
        times = scene.display.times
        assert all(b - a >= 0.0999 for a, b in pairwise(times[1:-1]))
        assert scene.display.last[0] == reply.text == "".join(f"{n} " for n in range(len(pauses)))

    def test_a_long_text_is_renewed_less_often(self, scene: Scene) -> None:
        """Each update carries the whole text, so that their rate sinks as the text grows."""
        piece = "word " * 400
        scene.play(*(step for _ in range(100) for step in (0.05, piece)), FINISH)
        sizes = [len(bundle["text/markdown"]) for bundle in scene.display.shown]
        assert sum(sizes[:-1]) / (scene.display.times[-1] - scene.display.times[0]) < 150_000
        assert len(sizes) > 5

    def test_a_restart_clears_the_text(self, scene: Scene) -> None:
        """Text that is void leaves the page at once, and the note says why."""
        reply = scene.play("Void", Restart("Void", provider="FlowGpt"), 0.2, "Good.", FINISH)
        assert scene.display.shown[1]["text/markdown"].startswith("Void")
        assert scene.display.shown[2]["text/markdown"].startswith("\n\n<div><small>FlowGpt broke")
        assert scene.display.last[0] == reply.text == "Good."

    def test_stopping_keeps_the_text_and_says_so(self, scene: Scene) -> None:
        """Interrupted, the page keeps all text that came, the stream is closed, the cell fails."""
        with pytest.raises(KeyboardInterrupt) as stopped:
            scene.play("Half ", 0.05, "a reply", KeyboardInterrupt())
        assert scene.display.last == (
            "Half a reply",
            "stopped after 50 ms; the connection is closed",
        )
        assert scene.closed
        assert stopped.value.partial_text == "Half a reply"  # type: ignore[attr-defined]
        assert stopped.value._render_traceback_() == ["Stopped."]  # type: ignore[attr-defined]

    def test_an_error_keeps_the_text_and_says_so(self, scene: Scene) -> None:
        """After an error the page keeps the text, and the error goes on to the caller."""
        with pytest.raises(StreamInterrupted):
            scene.play("Half ", 0.05, "a reply", StreamInterrupted("cut"))
        assert scene.display.last == ("Half a reply", "broke off after 50 ms: StreamInterrupted")

    @pytest.mark.parametrize(
        ("finish", "words"),
        [
            (FINISH.evolve(reason="length"), "cut at its largest length"),
            (FINISH.evolve(reason="content_filter", detail="<why>"), "filter: &lt;why&gt;"),
            (FINISH.evolve(reason="tool_calls", tool_calls=[{}, {}]), "asks for 2 calls of a tool"),
        ],
    )
    def test_what_a_reader_must_know(self, scene: Scene, finish: FinishReason, words: str) -> None:
        """A reply that is not simply whole says so, also where the small line is not wanted."""
        scene.play("Text", finish, note=False)
        assert words in scene.display.last[1]

    def test_failed_attempts_are_counted(self, scene: Scene) -> None:
        """The small line tells how many attempts failed before the reply."""
        down = Attempt("ChatGLM", None, 0.0, None, 0.1, ServerError("down"))
        scene.play("Text", FINISH.evolve(attempts=(down, down)))
        assert scene.display.last[1].endswith("after 2 failed attempts")

    def test_without_the_small_line(self, scene: Scene) -> None:
        """A whole reply without the line is its text alone."""
        scene.play("Text", FINISH, note=False)
        assert scene.display.shown[-1] == {"text/markdown": "Text", "text/plain": "Text"}

    def test_nothing_on_the_page_acts(self, scene: Scene) -> None:
        """Neither a model's tags nor a service's names become part of the page."""
        nasty = FINISH.evolve(provider="<img src=x>", model="<b>\n\n# head")
        scene.play("<script>alert(1)</script>", nasty)
        markdown = scene.display.shown[-1]["text/markdown"]
        assert set(re.findall(r"<\w+", markdown)) == {"<div", "<small"}
        assert "\n" not in scene.display.last[1]

    def test_open_code_does_not_take_the_line_along(self, scene: Scene) -> None:
        """The small line stands below a block of code, also while the block is not closed yet."""
        scene.play("```python\nprint(1)", FINISH)
        assert scene.display.last[0] == "```python\nprint(1)\n```"


class TestTerminal:
    def written(self, *steps: Any, note: bool = True) -> str:
        """What a stream looks like on standard output."""
        scene = Scene()
        output = io.StringIO()
        try:
            _shown(scene.stream(*steps), Terminal(output), scene.clock, note=note)
        except (KeyboardInterrupt, StreamInterrupted) as error:
            return f"{output.getvalue()}{type(error).__name__}"
        return output.getvalue()

    def test_text_and_note(self) -> None:
        """The text comes as it is, then the line in brackets."""
        assert self.written("One ", 1.0, "two.", FINISH) == (
            "One two.\n[GigaChat · GigaChat-2 · 5 + 28 tokens · 1.00 s (first text after 0 ms)]\n"
        )
        assert self.written("One\n", FINISH, note=False) == "One\n"

    def test_restart_stop_and_error(self) -> None:
        """What is void, stopped or broken is said on a line of its own."""
        assert self.written("Void", Restart("Void", provider="A"), "Good.", FINISH, note=False) == (
            "Void\n[A broke off; the text above is void]\nGood.\n"
        )
        assert self.written("Half", KeyboardInterrupt()) == (
            "Half\n[stopped after 0 ms; the connection is closed]\nKeyboardInterrupt"
        )
        assert self.written("Half", StreamInterrupted("cut")).endswith(
            "[broke off after 0 ms: StreamInterrupted]\nStreamInterrupted"
        )


class TestShow:
    def test_in_a_script(self, capsys: pytest.CaptureFixture[str]) -> None:
        """Without a notebook ``show`` writes to standard output, and returns the reply."""
        provider = ScriptedProvider(["It ", "scatters."])
        reply = show("Why?", provider, system="Be brief.", note=False)
        assert capsys.readouterr().out == "It scatters.\n"
        assert reply.text == "It scatters."
        assert provider.requests[0].messages[0]["content"] == "Be brief."

    def test_what_can_be_shown(self, capsys: pytest.CaptureFixture[str]) -> None:
        """A stream, a text, messages, and a turn of a conversation."""
        provider = ScriptedProvider(["Yes."])
        chat = provider.conversation()
        for reply in (
            show(provider.stream("Sure?")),
            show([{"role": "user", "content": "Sure?"}], provider),
            show("Sure?", chat),
            show(chat.stream("Really?")),
            show(iter(["Yes", "."])),
        ):
            assert str(reply) == "Yes."
        assert len(chat.messages) == 4
        with pytest.raises(TypeError, match="a stream comes from its client"):
            show(provider.stream("Sure?"), provider)

    def test_the_client_in_use(self, capsys: pytest.CaptureFixture[str]) -> None:
        """Where none is named, the chosen client answers, with what was chosen with it."""
        provider = ScriptedProvider(["Yes."])
        try:
            use(provider, seed=1, temperature=0.5)
            show("Sure?", seed=2)
        finally:
            use(None)
        assert provider.requests[0].params == {"seed": 2, "temperature": 0.5}

    def test_the_configuration(
        self,
        sandbox: Sandbox,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        """Where none was chosen, the configuration or the environment decides."""
        for name, value in sandbox.environ().items():
            if name.startswith("OPENAI"):
                monkeypatch.setenv(name, value)
        assert show("Sure?").provider == "OpenAICompatible"

    def test_the_reply_travels(self, capsys: pytest.CaptureFixture[str]) -> None:
        """What ``show`` returns is a ``Completion`` like any other: it compares and pickles."""
        provider = ScriptedProvider(["Yes."])
        reply = show(provider.stream("Sure?"))
        assert type(reply) is Completion
        assert pickle.loads(pickle.dumps(reply)) == reply

    @pytest.mark.parametrize(
        ("encoding", "shown"),
        [
            ("utf-8", "Ё café 🦊\n"),
            ("latin-1", "\\u0401 café \\U0001f98a\n"),
            ("cp1251", "Ё caf\\xe9 \\U0001f98a\n"),
            ("ascii", "\\u0401 caf\\xe9 \\U0001f98a\n"),
        ],
    )
    def test_on_a_narrow_standard_output(self, encoding: str, shown: str) -> None:
        """Letters that standard output does not know are escaped; the reply has them as they are.

        The line below the reply is shown as well.
        """
        code = (
            "from llmproviders.notebook import show\n"
            "from llmproviders.testing import ScriptedProvider\n"
            "reply = show('?', ScriptedProvider(['\u0401 caf\xe9 ', '\U0001f98a'], name='Имя'))\n"
            "assert reply.text == '\u0401 caf\xe9 \U0001f98a'\n"
        )
        ran = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            env={**os.environ, "PYTHONIOENCODING": encoding},
        )
        assert (ran.returncode, ran.stderr) == (0, b"")
        reply, line = ran.stdout.decode(encoding).splitlines(keepends=True)
        assert reply == shown
        assert "first text after" in line

    def test_without_standard_output(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Where there is no console, as under ``pythonw``, the reply is returned all the same."""
        monkeypatch.setattr(sys, "stdout", None)
        assert show("Why?", ScriptedProvider(["Because."])).text == "Because."

    def test_ipython_is_not_imported(self) -> None:
        """A script that shows replies runs without IPython, and does not load it."""
        code = (
            "import sys\n"
            "sys.modules['IPython'] = sys.modules['ipykernel'] = None\n"
            "from llmproviders.notebook import show\n"
            "from llmproviders.testing import ScriptedProvider\n"
            "reply = show('Why?', ScriptedProvider(['Because.']), note=False)\n"
            "reply.attempts._repr_html_(), reply._repr_markdown_()\n"
        )
        path = str(Path(__file__).parents[2])
        ran = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            env={"PYTHONPATH": path, "PATH": ""},
        )
        assert (ran.stdout, ran.stderr) == ("Because.\n", "")


class TestGiven:
    def test_a_completion(self, capsys: pytest.CaptureFixture[str]) -> None:
        """A reply that is there already is shown, and comes back itself."""
        reply = ScriptedProvider(["It scatters."]).complete("Why?")
        assert show(reply) is reply
        assert capsys.readouterr().out.startswith("It scatters.\n[ScriptedProvider")
        with pytest.raises(TypeError, match="pass only"):
            show(reply, ScriptedProvider(["No."]))

    def test_a_schema(self) -> None:
        """A schema needs the whole reply: it is not offered, and the error says what to do."""
        assert "schema" not in inspect.signature(show).parameters
        assert "temperature" in inspect.signature(show).parameters
        with pytest.raises(TypeError, match=r"show\(client.complete\(prompt, schema"):
            show("Why?", ScriptedProvider(["1"]), schema=int)

    def test_nothing_came(self, scene: Scene) -> None:
        """Where no text came at all, nothing broke off: there is no reply."""
        with pytest.raises(ServerError):
            scene.play(0.05, ServerError("down"))
        assert scene.display.last == ("", "no reply: ServerError")


class TestFill:
    @pytest.mark.parametrize(
        ("prompt", "filled"),
        [
            ("{name}", "value"),
            ("{name}{other}", "value7"),
            ("{{name}}", "{name}"),
            ("{größe}", "ja"),
            ('{"a": {"b": 1}}', '{"a": {"b": 1}}'),
            ("{}{ name }{name.x}{name!r}{0}", "{}{ name }{name.x}{name!r}{0}"),
            ("\\frac{1}{2} {{{name}}}", "\\frac{1}{2} {{name}}"),
            ("{brace}", "{name}"),
        ],
    )
    def test_names_alone_count(self, prompt: str, filled: str) -> None:
        """A name in braces is its value, once; every other brace stays as it is."""
        variables = {"name": "value", "other": 7, "größe": "ja", "brace": "{name}"}
        assert fill(prompt, variables) == filled

    def test_a_missing_name_is_told(self) -> None:
        """The error names the variable and both ways out."""
        with pytest.raises(MissingVariableError) as missing:
            fill("a {typo} b", {})
        assert str(missing.value) == (
            "the prompt has {typo}, but there is no variable typo; "
            "define it, or write {{typo}} for the braces themselves"
        )


@pytest.fixture(scope="module")
def services() -> Iterator[Sandbox]:
    """Serve the sandbox for one kernel."""
    with Sandbox(piece_delay_s=0.02) as serving:
        yield serving


@pytest.fixture(scope="module")
def notebook(services: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    """Run a kernel that has the extension, and the sandbox for its services."""
    home = tmp_path_factory.mktemp("notebook")
    environ = {"HOME": str(home), "IPYTHONDIR": str(home)}
    with kernel({**services.environ(), **environ}) as running:
        assert running.run("%load_ext llmproviders").ok
        assert running.run("%llm_config -p openai").ok
        yield running


@pytest.fixture(autouse=True)
def healed(request: pytest.FixtureRequest) -> Iterator[None]:
    """Let no fault of one test reach the next."""
    yield
    if "services" in request.fixturenames:
        request.getfixturevalue("services").heal()


def stops(services: Sandbox, notebook: Kernel) -> Callable[[], None]:
    """Press stop when the newest reply has stalled after three pieces."""
    before = services.count(kind="chat")

    def stop() -> None:
        assert services.wait_for(
            lambda s: s.count(kind="chat") > before and s.requests[-1].pieces >= 3, timeout_s=20
        )
        notebook.stop()

    return stop


def test_the_steps_of_a_run_are_a_table(notebook: Kernel) -> None:
    """What a model called, with what, and what it was told, a row for each call."""
    code = """
    from llmproviders import OpenAICompatible
    def weather(city: str) -> str:
        return "<b>rain</b>"
    OpenAICompatible().run("Please call the tool", tools=[weather]).steps
    """
    ran = notebook.run(inspect.cleandoc(code))
    assert ran.ok, ran.traceback
    (page,) = [shown["text/html"] for shown in ran.displays]
    assert "Steps (1)" in page
    cells = re.findall(r"<td[^>]*>(.*?)</td>", page)
    told = ["1", "weather", '{"city": "sandbox"}', "<b>rain</b>"]
    assert [html.unescape(cell) for cell in cells[:4]] == told
    assert "<b>" not in page


class TestDrawn:
    def test_by_a_cell(self, notebook: Kernel) -> None:
        """What a service draws stands below the text of its reply, in a display of its own."""
        ran = notebook.run("%%llm -p gigachat --as drawn\nDraw a picture of the sea")
        assert ran.ok, ran.traceback
        assert "Here it is:" in ran.markdown
        (picture,) = [shown["text/html"] for shown in ran.displays[1:]]
        assert picture.startswith("<img ")
        assert "base64,iVBORw0KGgo" in picture

    def test_as_a_value(self, notebook: Kernel) -> None:
        """A reply that is a cell's last value shows its text and what was drawn; so does each."""
        notebook.run("from llmproviders import GigaChat\ngiga = GigaChat()")
        ran = notebook.run("drawn = giga.complete('Draw a picture')\ndrawn")
        assert ran.displays[0]["text/html"].count("<img ") == 1
        assert "It is blue." in ran.displays[0]["text/html"]
        ran = notebook.run("drawn.finish_reason.images[0]")
        assert ran.displays[0]["text/html"].startswith("<img ")

    def test_what_cannot_be_had(self) -> None:
        """An image that is but an address is named, harmlessly, and nothing is fetched."""
        reply = Completion.of("Look:\n<b>", FinishReason(images=[Image("https://x.y/<i>.png")]))
        page = str(reply._repr_html_())
        assert "Look:<br/>&lt;b&gt;" in page
        assert "[image: https://x.y/&lt;i&gt;.png]" in page
        assert Completion.of("Why", FINISH)._repr_html_() is None

    def test_on_a_terminal(self) -> None:
        """It is named on a line of its own."""
        out = io.StringIO()
        stream = iter(["Look: ", FinishReason(images=[Image("https://x.y/1.png")])])
        _shown(stream, Terminal(out), FakeClock(), note=False)
        assert out.getvalue().splitlines() == ["Look: ", "[image: https://x.y/1.png]"]


class TestMagics:
    def test_a_cell_streams(self, notebook: Kernel, services: Sandbox) -> None:
        """A cell's text is asked; the reply grows in one display; the variable keeps it."""
        notebook.run("topic = 'the sky'")
        ran = notebook.run('%%llm --as reply\nWhy is {topic} {{blue}}? {"a": {"b": 1}}')
        assert ran.ok
        assert ran.stderr == ""
        question = 'Why is the sky {blue}? {"a": {"b": 1}}'
        assert services.requests[-1].json["messages"][-1]["content"].strip() == question
        assert len(ran.displays) == 1
        assert ran.updates > 3
        assert "OpenAICompatible · sandbox-small · " in ran.markdown
        text = ast.literal_eval(notebook.value("reply.text"))
        assert ran.markdown.startswith(text)
        assert notebook.value("type(reply).__name__") == "'Completion'"

    def test_options_as_ask_has_them(
        self, notebook: Kernel, services: Sandbox, tmp_path: Path
    ) -> None:
        """Provider, model, system prompt and sampling go into the request; a file has the reply."""
        ran = notebook.run(
            '%%llm -p openai -m sandbox-large -s "Be brief." --temperature 0.25 --max-tokens 9 '
            "--deadline 60 --timeout 5,30 --no-stream -q --allow-cut "
            f"-o {tmp_path / 'reply.txt'}\nWhy?"
        )
        assert ran.ok, ran.stderr
        body = services.requests[-1].json
        assert body["model"] == "sandbox-large"
        assert body["messages"][0] == {"role": "system", "content": "Be brief."}
        assert (body["temperature"], body["max_tokens"]) == (0.25, 9)
        assert ran.updates == 3
        assert "cut at its largest length" in ran.markdown
        notebook.run(f"%cd -q {tmp_path}")
        assert notebook.run("%%llm -q -o -\nWhy?").ok
        notebook.run("%cd -q -")
        assert not (tmp_path / "-").exists()
        assert (tmp_path / "reply.txt").read_text() == ran.displays[0]["text/plain"].split("\n")[
            0
        ] + "\n"

    @pytest.mark.parametrize("asked", ["--max-tokens 3\nWhy?", "\ntrip the filter"])
    def test_half_replies_and_a_file(
        self, notebook: Kernel, services: Sandbox, tmp_path: Path, asked: str
    ) -> None:
        """A reply that was cut or stopped by a filter is shown, and leaves the file as it was."""
        file = tmp_path / "reply.txt"
        file.write_text("old")
        options, _, prompt = asked.partition("\n")
        ran = notebook.run(f"%%llm -p openai -o {file} {options}\n{prompt}")
        assert ran.ok, ran.stderr
        assert ran.displays
        assert file.read_text() == "old"

    def test_attempts_below(self, notebook: Kernel, services: Sandbox) -> None:
        """With --trace or -v the timeline stands below the reply, and below an error, too."""
        services.fail("openai", status=503)
        ran = notebook.run("%%llm -v -p openai -p chatglm\nWhy?")
        assert ran.ok
        assert "after 1 failed attempt" in ran.markdown
        assert ran.displays[1]["text/html"].count("<svg") == 1
        services.fail("openai", status=401)
        ran = notebook.run("%%llm --trace -p openai\nWhy?")
        assert not ran.ok
        assert "<svg" in ran.displays[1]["text/html"]

    def test_a_client_of_the_notebook(self, notebook: Kernel) -> None:
        """A variable's client or conversation can be asked, by name."""
        notebook.run(
            "from llmproviders.testing import ScriptedProvider\n"
            "mine = ScriptedProvider(['Mine.'])\n"
            "chat = mine.conversation()"
        )
        assert notebook.run("%%llm --client mine\nWhy?").markdown.startswith("Mine.")
        assert notebook.run("%%llm --client chat --no-stream\nWhy?").ok
        assert notebook.run("%%llm --client chat\nWhy?").ok
        assert notebook.value("len(chat.messages)") == "4"

    def test_choosing_the_client(self, notebook: Kernel) -> None:
        """``%llm_config`` takes a variable or options, tells what is in use, and goes back."""
        notebook.run(
            "from llmproviders.testing import ScriptedProvider\n"
            "mine = ScriptedProvider(['Mine.'], name='Mine')"
        )
        try:
            assert notebook.run("%llm_config mine -s 'Be brief.'").stdout == (
                "Mine, system='Be brief.'\n"
            )
            assert notebook.run("%%llm\nWhy?").markdown.startswith("Mine.")
            roles = "[m['role'] for m in mine.requests[-1].messages]"
            assert notebook.value(roles) == "['system', 'user']"
            assert notebook.run("%%llm -p chatglm\nWhy?").markdown.startswith("This is the ChatGLM")
            assert notebook.run("%llm_config").stdout.startswith("Mine, ")
            assert "by the configuration: " in notebook.run("%llm_config --reset").stdout
        finally:
            told = notebook.run("%llm_config -p openai -p chatglm --proxy http://u:s3cret@h:1")
            assert told.stdout == "OpenAICompatible, then ChatGLM\n"
            notebook.run("%llm_config -p openai")

    def test_what_was_chosen_is_told(self, notebook: Kernel) -> None:
        """``%llm_config`` tells all that was set for the client, its time limits too."""
        notebook.run(
            "from llmproviders.testing import ScriptedProvider\n"
            "mine = ScriptedProvider(['Mine.'], name='Mine')"
        )
        try:
            told = notebook.run("%llm_config -p openai -m big --deadline 60 --timeout 5 -s Brief.")
            assert told.stdout == (
                "OpenAICompatible, model='big', deadline=60.0, timeout=5.0, system='Brief.'\n"
            )
            assert notebook.run("%llm_config").stdout == told.stdout
            told = notebook.run("%llm_config mine --deadline 60")
            assert told.stdout == "Mine, deadline=60.0\n"
            assert notebook.run("%%llm\nWhy?").markdown.startswith("Mine.")
            for option in ("-p openai", "--first-chunk-timeout 3", "--config ''", "--no-state"):
                assert "choose one" in notebook.run(f"%llm_config mine {option}").stderr
        finally:
            notebook.run("%llm_config -p openai")

    def test_a_picture_is_looked_at(
        self, notebook: Kernel, services: Sandbox, tmp_path: Path
    ) -> None:
        """``-a`` lets the model look at a file, as ``ask`` does."""
        picture = tmp_path / "a picture.png"
        picture.write_bytes(bytes.fromhex("89504e470d0a1a0a") + b"\0" * 20)
        ran = notebook.run(f"%%llm -a '{picture}'\nWhat is this?")
        assert ran.ok, ran.traceback
        assert "image_url" in str(services.requests[-1].body)

    @pytest.mark.parametrize(
        ("cell", "words"),
        [
            ("%%llm\nWhy is {typo}?", "there is no variable typo"),
            ("%%llm --modle x\nWhy?", "--modle"),
            ("%%llm -p gigachap\nWhy?", "'gigachap'"),
            ("%%llm --as 1x\nWhy?", "no name for a variable"),
            ("%%llm --client nobody\nWhy?", "there is no client nobody"),
            ("%%llm --client print\nWhy?", "there is no client print"),
            ("%%llm -s 'open\nWhy?", "quotation mark"),
            ("%%llm -o /no/such/folder/file\nWhy?", "there is no folder"),
            ("%%llm --config ''\nWhy?", "the configuration is blank"),
            ("%llm_config nobody", "there is no client nobody"),
            ("%llm_config mine --reset", "--reset stands alone"),
            ("%llm_config --reset -p chatglm -s 'Be brief.'", "--reset stands alone"),
            ("%llm_config --config ''", "the configuration is blank"),
        ],
    )
    def test_what_is_wrong_is_told_in_a_line(
        self, notebook: Kernel, services: Sandbox, cell: str, words: str
    ) -> None:
        """A mistake in a cell is a line that names it, fails the cell, and sends nothing."""
        before = services.count()
        ran = notebook.run(cell)
        assert not ran.ok
        assert ran.error == "UsageError"
        assert words in ran.stderr
        assert len(ran.stderr.splitlines()) == 1
        assert services.count() == before

    def test_a_failed_reply_is_told_without_frames(
        self, notebook: Kernel, services: Sandbox
    ) -> None:
        """An error of a service is its message, not a traceback through this package."""
        services.fail("openai", status=401)
        ran = notebook.run("%%llm\nWhy?")
        assert not ran.ok
        assert ran.traceback.startswith("AllProvidersFailed: every provider failed")
        assert "File " not in ran.traceback

    @pytest.mark.parametrize("name", ["llm", "llm_config"])
    def test_help(self, notebook: Kernel, name: str) -> None:
        """``%%llm?`` tells every option with its meaning."""
        text = notebook.help(f"%%{name}" if name == "llm" else f"%{name}")
        assert "-p, --provider NAME" in text
        assert "--max-tokens COUNT" in text
        assert "standard error" not in text
        ran = notebook.run(f"%{'%' * (name == 'llm')}{name} --help\nx")
        assert "--max-tokens COUNT" in ran.stdout

    @pytest.mark.parametrize("name", ["ChatGLM", "FlowGpt", "GigaChat", "OpenAICompatible"])
    def test_signatures(self, notebook: Kernel, name: str) -> None:
        """Shift-Tab on a provider, and on its calls, shows the arguments that it takes."""
        notebook.run("from llmproviders import *")
        notebook.run(f"made = {name}()")
        assert "base_url" in notebook.help(name).partition("Docstring")[0]
        for call in ("stream", "complete"):
            assert "prompt" in notebook.help(f"made.{call}").partition("Docstring")[0]

    def test_no_warnings(self, notebook: Kernel) -> None:
        """``show`` and a batch with a progress bar warn of nothing, and the bar is there."""
        notebook.run("import warnings; warnings.simplefilter('always')")
        notebook.run("from llmproviders import *\nfrom llmproviders.notebook import show")
        ran = notebook.run("show('Why?', OpenAICompatible())")
        assert (ran.ok, ran.stderr) == (True, "")
        ran = notebook.run(
            "from llmproviders import batch\n"
            "found = batch.map(OpenAICompatible(), ['a', 'b'], progress=True)"
        )
        assert ran.ok
        assert "Warning" not in ran.stderr
        assert "2/2" in ran.stderr or ran.displays

    def test_a_reply_stands_on_the_page_once(self, notebook: Kernel) -> None:
        """The cell that shows a reply as its last value shows it once; another one shows it."""
        notebook.run("from llmproviders import *\nfrom llmproviders.notebook import show")
        ran = notebook.run("reply = show('Why?', OpenAICompatible()); reply")
        assert len(ran.displays) == 1
        again = notebook.run("reply")
        assert again.displays[0]["text/markdown"] == ast.literal_eval(notebook.value("reply.text"))

    def test_attempts_and_errors_render(self, notebook: Kernel, services: Sandbox) -> None:
        """The attempts of a reply are a timeline and a table on the page."""
        notebook.run("from llmproviders import *")
        ran = notebook.run("OpenAICompatible().complete('Why?').attempts")
        html = ran.displays[0]["text/html"]
        assert "<svg" in html
        assert "<table" in html
        assert "whole reply" in ran.displays[0]["text/plain"]

    def test_the_event_loop_is_left_alone(self, notebook: Kernel) -> None:
        """The kernel's loop runs all the while, and nobody patches it."""
        ran = notebook.run(
            "import asyncio, sys\n"
            "from llmproviders import *\n"
            "patched = 'nest_asyncio' in sys.modules\n"
            "assert asyncio.get_running_loop().is_running()\n"
            "OpenAICompatible().complete('Why?')\n"
            "assert ('nest_asyncio' in sys.modules) == patched"
        )
        assert ran.ok, ran.traceback


class TestStopping:
    def test_stop(self, notebook: Kernel, services: Sandbox) -> None:
        """Stop keeps the text and says so, the service sees the line close, no traceback."""
        notebook.run("reply = 'before'")
        services.fail("openai", stall=True, cut_after=3)
        ran = notebook.run("%%llm --as reply\nWhy?", stops(services, notebook))
        assert not ran.ok
        assert ran.error == "KeyboardInterrupt"
        assert ran.traceback == "Stopped."
        assert ran.markdown.startswith("This")
        assert "stopped after" in ran.markdown
        assert services.wait_for(lambda s: s.requests[-1].aborted, timeout_s=1)
        assert notebook.value("reply") == "'before'"

    def test_stopping_a_batch(self, notebook: Kernel, services: Sandbox) -> None:
        """Stop says what a batch finishes if that takes a moment, and loses no result that was
        paid for.
        """
        notebook.run("from llmproviders import *\nfrom llmproviders import batch")
        before = services.count("openai", "chat")

        def stop() -> None:
            assert services.wait_for(
                lambda s: s.count("openai", "chat") >= before + 4, timeout_s=20
            )
            notebook.stop()

        ran = notebook.run(
            "found = list(batch.run(OpenAICompatible(), ['Why?'] * 500, workers=2))", stop
        )
        assert ran.error == "KeyboardInterrupt"
        assert "finishing" not in ran.stderr or "; stop again to drop " in ran.stderr
        asked = services.count("openai", "chat") - before
        assert ran.traceback.startswith(f"Stopped: {asked} results are in sys.last_value.results")
        assert notebook.value("len(__import__('sys').last_value.results)") == str(asked)

    @pytest.mark.parametrize(
        "call",
        [
            "OpenAICompatible().complete('Why?')",
            "FailoverClient([OpenAICompatible()]).complete('Why?')",
            "OpenAICompatible().run('Why?', tools=[tool])",
            "OpenAICompatible().conversation().ask('Why?')",
            "print(*OpenAICompatible().stream('Why?'))",
        ],
    )
    def test_a_stopped_call_is_a_word(self, notebook: Kernel, services: Sandbox, call: str) -> None:
        """A stopped call is told without the frames of this package."""
        services.fail("openai", stall=True, cut_after=3)
        notebook.run("from llmproviders import *\ndef tool(city: str) -> str:\n    'Look.'")
        ran = notebook.run(call, stops(services, notebook))
        assert ran.error == "KeyboardInterrupt"
        assert ran.traceback == "Stopped."

    def test_a_stopped_table_says_how_far_it_came(
        self, notebook: Kernel, services: Sandbox, tmp_path: Path
    ) -> None:
        """With an output file, a stopped table says how many rows are in it, and what to do."""
        output = tmp_path / "moods.jsonl"
        notebook.run(
            "import pandas\nfrom llmproviders import *\nfrom llmproviders import batch\n"
            "frame = pandas.DataFrame({'q': range(500)})"
        )
        before = services.count("openai", "chat")

        def stop() -> None:
            assert services.wait_for(
                lambda s: s.count("openai", "chat") >= before + 4, timeout_s=20
            )
            notebook.stop()

        ran = notebook.run(
            f"batch.table(OpenAICompatible(), 'Why {{q}}?', frame, output={str(output)!r})", stop
        )
        assert ran.error == "KeyboardInterrupt"
        done = len(output.read_text().splitlines())
        assert done == services.count("openai", "chat") - before
        assert ran.traceback == (
            f"Stopped: {done} of 500 rows are in {output}. Run the cell again to continue."
        )

    @pytest.mark.parametrize(
        "call",
        [
            "batch.map(client, ['Why?'], schma=1)",
            "batch.map(client, 'Why?')",
            "batch.table(client, 'Why {no}?', frame)",
            "batch.table(client, 'Why {q}?', frame, output='/nowhere/at/all.jsonl')",
            "batch.table(client, 'Why {q}?', frame, schema=5)",
            "batch.run_file(client, '/nowhere/in.jsonl', 'out.jsonl')",
            "list(batch.run(client, ['Why?'], workers=0))",
            "show('Why?', client, schma=1)",
            "client.run('Why?', tools=[5])",
            "client.complete('Why?', schma=1)",
            "client.stream('')",
        ],
    )
    def test_wrong_arguments_are_told_in_few_frames(self, notebook: Kernel, call: str) -> None:
        """What is wrong with the arguments is told with the cell and one frame of this package."""
        notebook.run(
            "import pandas\nfrom llmproviders import batch\n"
            "from llmproviders.notebook import show\n"
            "from llmproviders.testing import ScriptedProvider\n"
            "client = ScriptedProvider(['Yes.'])\n"
            "frame = pandas.DataFrame({'q': ['a', 'b']})"
        )
        ran = notebook.run(call)
        assert not ran.ok
        files = re.findall(r"llmproviders/\S*\.py", re.sub(r"\x1b\[[\d;]*m", "", ran.traceback))
        assert len(files) <= 1, ran.traceback

    def test_an_error_of_the_callers_own_code_keeps_its_frames(self, notebook: Kernel) -> None:
        """A callback that fails is seen in the traceback."""
        notebook.run(
            "from llmproviders import batch\n"
            "from llmproviders.testing import ScriptedProvider\n"
            "def mine(result):\n    raise TypeError('mine')"
        )
        ran = notebook.run("list(batch.run(ScriptedProvider(['a']), ['a'], on_result=mine))")
        assert "raise TypeError" in re.sub(r"\x1b\[[\d;]*m", "", ran.traceback)

    def test_it_works_afterwards(self, notebook: Kernel) -> None:
        """The cell after a stopped one gets its reply."""
        assert notebook.run("%%llm\nWhy?").ok


MEASURE = """
import gc, os, stat
def is_socket(number):
    try:
        return stat.S_ISSOCK(os.fstat(int(number)).st_mode)
    except OSError:
        return False
gc.collect()
with open('/proc/self/statm') as statm:
    pages = int(statm.read().split()[1])
print((sum(map(is_socket, os.listdir('/dev/fd'))), pages * os.sysconf('SC_PAGE_SIZE')))
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="measures by /proc")
def test_many_cells_leave_nothing_behind(services: Sandbox, tmp_path: Path) -> None:
    """Two hundred streamed and fifty stopped cells: memory and connections are where they were."""
    environ = {"HOME": str(tmp_path), "IPYTHONDIR": str(tmp_path)}
    with Sandbox() as quick, kernel({**quick.environ(), **environ}) as notebook:
        assert notebook.run("%load_ext llmproviders").ok

        def stream() -> None:
            assert notebook.run("%%llm -p openai --as reply\nWhy?").ok

        def stop() -> None:
            quick.fail("openai", stall=True, cut_after=3)
            ran = notebook.run("%%llm -p openai --as reply\nWhy?", stops(quick, notebook))
            assert ran.error == "KeyboardInterrupt"

        def measure() -> tuple[int, int]:
            sockets, memory = ast.literal_eval(notebook.run(MEASURE).stdout)
            return sockets, memory

        for _ in range(20):
            stream()
        for _ in range(5):
            stop()
        sockets_before, memory_before = measure()
        for number in range(200):
            stream()
            if number % 4 == 0:
                stop()
        assert quick.wait_for(lambda s: all(request.ended for request in s.requests))
        sockets_after, memory_after = measure()
        assert sockets_after <= sockets_before
        assert memory_after - memory_before < 16 * 1024 * 1024
