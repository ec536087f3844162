"""The registry: built-in names, programs on this machine, and providers from elsewhere."""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llmproviders import (
    ConnectionFailed,
    GigaChat,
    ModelNotFoundError,
    OpenAICompatible,
    ProtocolError,
    providers,
)
from llmproviders._request import ChatRequest
from llmproviders.cli.checks import Level, check_plug_ins
from llmproviders.config import ConfigError, load
from llmproviders.providers._local_servers import local_server_at
from llmproviders.testing import ScriptedProvider
from tests.support.calls import Canned, canned
from tests.support.promise import read

PLUGIN = '''
from llmproviders.testing import ScriptedProvider
class Mine(ScriptedProvider):
    """A provider from elsewhere."""
'''


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    """Forget what was registered and installed, here and by the tests before."""
    providers._installed.cache_clear()
    yield
    providers._registered.clear()
    providers._installed.cache_clear()


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Install a package whose entry points are given, as pip leaves it on the disk."""

    def install(source: str, **entries: str) -> None:
        (tmp_path / "plugin_of_tests.py").write_text(source, encoding="utf-8")
        about = tmp_path / "plugin_of_tests-1.0.dist-info"
        about.mkdir(exist_ok=True)
        (about / "METADATA").write_text(
            "Metadata-Version: 2.1\nName: plugin-of-tests\nVersion: 1.0\n"
        )
        lines = [f"{name} = {value}" for name, value in entries.items()]
        points = "\n".join(["[llmproviders.providers]", *lines, ""])
        (about / "entry_points.txt").write_text(points, encoding="utf-8")
        monkeypatch.syspath_prepend(str(tmp_path))
        monkeypatch.delitem(sys.modules, "plugin_of_tests", raising=False)

    return install


def configured(folder: Path, kind: str) -> Path:
    """A configuration with one provider of that type."""
    path = folder / "c.toml"
    path.write_text(f'[[provider]]\ntype = "{kind}"\n', encoding="utf-8")
    return path


def test_an_installed_provider_is_found(installed: Any) -> None:
    """A name that is not built in is looked for in installed packages, in any spelling."""
    installed(PLUGIN, **{"my-own": "plugin_of_tests:Mine"})
    kind = providers.find("My_Own")
    assert kind is not None
    assert kind.__name__ == "Mine"
    assert providers.every()["myown"] is kind


def test_built_in_names_win(installed: Any) -> None:
    """Neither an installed package nor a program takes the name of a built-in provider."""
    installed(PLUGIN, gigachat="plugin_of_tests:Mine")
    providers.register(ScriptedProvider, name="GigaChat")
    assert providers.find("gigachat") is GigaChat
    assert providers.every()["gigachat"] is GigaChat


def test_a_program_registers_its_own() -> None:
    """Its class is found by its own name or by a given one; anything else is refused."""
    providers.register(ScriptedProvider)
    providers.register(ScriptedProvider, name="mine")
    assert providers.find("scripted-provider") is providers.find("Mine") is ScriptedProvider
    with pytest.raises(TypeError, match="not a subclass"):
        providers.register(dict)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("source", "entry", "said"),
    [
        ("raise KeyError('x')", "plugin_of_tests:Mine", "KeyError"),
        ("", "plugin_of_tests:Mine", "AttributeError"),
        ("Mine = 7", "plugin_of_tests:Mine", "not a subclass"),
        ("", "no_such_module:Mine", "ModuleNotFoundError"),
    ],
)
def test_a_plug_in_that_does_not_load(installed: Any, source: str, entry: str, said: str) -> None:
    """It is one warning that names it, and the others are found all the same."""
    installed(source, broken=entry, whole="llmproviders.testing:ScriptedProvider")
    with pytest.warns(RuntimeWarning, match=f"'broken'.*{said}") as caught:
        assert providers.find("whole") is ScriptedProvider
    assert len(caught) == 1
    ((name, (why, package)),) = providers.broken().items()
    assert (name, package) == ("broken", "plugin-of-tests")
    assert why.startswith(f"the provider 'broken' ({entry} of plugin-of-tests) does not load: ")
    assert why == str(caught[0].message)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert providers.find("broken") is None


def test_a_warning_names_the_line_that_asked(installed: Any) -> None:
    """What does not load, and what is ignored, is told for the caller's line, not for one of
    ours."""
    again = "llmproviders.testing:ScriptedProvider"
    installed(PLUGIN, gone="plugin_of_tests:Gone", mine="plugin_of_tests:Mine", Mine=again)
    with pytest.warns(RuntimeWarning) as told:
        providers.find("mine")
    assert [warning.filename for warning in told] == [__file__] * 2


def test_the_classes_are_there_by_name() -> None:
    """A built-in class is an attribute of the module, loaded when it is asked for; no other is."""
    assert providers.OpenAICompatible is OpenAICompatible
    assert providers.GigaChat is providers.REGISTRY["gigachat"] is GigaChat
    for name in ("Chat", "Gigachat", "OpenAI", ""):
        with pytest.raises(AttributeError, match=f"'llmproviders.providers'.*'{name}'"):
            getattr(providers, name)


def test_names_in_their_order(installed: Any) -> None:
    """Built-in names come first, then those of the program, then those of packages, each once.

    Of a program's class and a package's with one name, the program's has it.
    """
    installed(PLUGIN, zeta="plugin_of_tests:Mine", Alpha="plugin_of_tests:Mine")
    providers.register(ScriptedProvider, name="Z-eta")
    providers.register(ScriptedProvider, name="beta")
    names = providers.names()
    assert names == [*providers.REGISTRY, "zeta", "beta", "alpha"]
    every = providers.every()
    assert list(every) == names
    assert every["zeta"] is every["beta"] is providers.find("zeta") is ScriptedProvider
    assert every["alpha"] is not ScriptedProvider


def test_nothing_is_found_under_a_strange_name() -> None:
    """A name that nobody has gives nothing, and so does an empty one."""
    assert providers.find("nowhere") is providers.find("") is None
    assert providers.find("openai") is providers.find("Open_AI") is OpenAICompatible


def test_built_in_names_read_no_entry_points(installed: Any) -> None:
    """Nothing of an installed package is loaded for a name that is built in."""
    installed("raise RuntimeError('loaded')", broken="plugin_of_tests:Mine")
    assert providers.find("deepseek") is not None
    assert "plugin_of_tests" not in sys.modules


def test_the_package_itself_loads_no_registry() -> None:
    """``import llmproviders`` neither loads the providers nor what finds installed ones."""
    code = "import sys, llmproviders; print('llmproviders.providers' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"


class TestLocalServers:
    def test_one_that_is_not_running(self) -> None:
        """The error says what is not there and how to start it."""
        gone = ConnectionFailed(
            "no connection: [Errno 111] Connection refused (at localhost:11434)"
        )
        provider = canned(OpenAICompatible, gone, base_url="http://localhost:11434/v1")
        error = read(provider.stream("Hi")).error
        assert isinstance(error, ConnectionFailed)
        assert "nothing listens at http://localhost:11434; start it: `ollama serve`" in str(error)

    def test_a_model_that_was_not_fetched(self) -> None:
        """The error says how to fetch it."""
        body = b'{"error": {"message": "model \'llama9\' not found, try pulling it first"}}'
        gone = Canned(body, "application/json")
        for here in (
            {"base_url": "http://127.0.0.1:11434/v1"},
            {"base_url": "http://far.example/v1", "name": "Ollama"},
        ):
            provider = canned(OpenAICompatible, gone, **here)
            error = read(provider.stream("Hi", model="llama9")).error
            assert isinstance(error, ModelNotFoundError)
            assert str(error).startswith(f"{provider.name} has no model 'llama9': ")
            assert "; `ollama pull llama9` fetches it; list_models()" in str(error)

    def test_one_at_another_address(self) -> None:
        """A program that is named is told by its name, wherever it listens."""
        gone = ConnectionFailed("no connection: Connection refused")
        url = "http://127.0.0.1:5555/v1"
        provider = canned(OpenAICompatible, gone, base_url=url, name="Ollama")
        said = str(read(provider.stream("Hi")).error)
        assert "nothing listens at http://127.0.0.1:5555; start it: `ollama serve`" in said

    def test_a_model_that_nobody_named(self) -> None:
        """The default of another service is not to be fetched: a model has to be named."""
        body = b'{"error": {"message": "model \'gpt-4o-mini\' not found"}}'
        gone = Canned(body, "application/json")
        provider = canned(OpenAICompatible, gone, base_url="http://localhost:11434/v1")
        said = str(read(provider.stream("Hi")).error)
        assert "; name one with model=; list_models()" in said
        assert "pull" not in said

    def test_one_that_really_is_not_running(self, refused_port: int) -> None:
        """The error of the connection stands beside it, without its own advice."""
        url = f"http://127.0.0.1:{refused_port}/v1?key=1"
        with OpenAICompatible(base_url=url, name="vLLM") as provider:
            error = read(provider.stream("Hi")).error
        assert type(error) is ConnectionFailed
        said = str(error)
        assert said.startswith(
            f"nothing listens at http://127.0.0.1:{refused_port}; start it: `vllm serve MODEL` ("
        )
        assert said.endswith(f"(at 127.0.0.1:{refused_port}))")
        assert (error.provider, error.retryable) == ("vLLM", True)

    @pytest.mark.parametrize("deep", [1, 2])
    def test_a_refusal_among_the_causes(self, deep: int) -> None:
        """That a connection was refused is also told by what the error came from."""
        cause: BaseException = ConnectionRefusedError(111, "nobody there")
        for number in range(deep):
            outer = OSError("outer") if number < deep - 1 else ConnectionFailed("no connection")
            if number % 2:
                outer.__context__ = cause
            else:
                outer.__cause__ = cause
            cause = outer
        provider = OpenAICompatible(base_url="http://localhost:1234/v1")
        assert isinstance(cause, ConnectionFailed)
        told = provider.describe_error(cause, ChatRequest((), None))
        assert "start it: `lms server start`" in str(told)

    def test_one_that_did_not_answer(self) -> None:
        """A connection that failed in another way is no sign that the program does not run."""
        gone = ConnectionFailed("no connection: the network is unreachable")
        provider = canned(OpenAICompatible, gone, base_url="http://localhost:8080/v1")
        assert "start it" not in str(read(provider.stream("Hi")).error)

    def test_a_model_of_a_program_that_fetches_none(self) -> None:
        """Where there is no command that fetches it, the names that there are help."""
        body = b'{"error": {"message": "model \'m\' not found"}}'
        provider = canned(
            OpenAICompatible,
            Canned(body, "application/json"),
            base_url="http://[::1]:8000/v1",
            model="m",
        )
        error = read(provider.stream("Hi")).error
        assert isinstance(error, ModelNotFoundError)
        said = str(error)
        assert said.startswith("OpenAICompatible has no model 'm': ")
        assert said.endswith(
            "; list_models(), or `llmproviders models OpenAICompatible`, returns its models"
        )
        assert "fetches" not in said
        assert "name one" not in said
        assert "model 'm' not found" in str(error.detail)

    @pytest.mark.parametrize(
        ("url", "name", "start"),
        [
            ("http://localhost:11434/v1", "", "ollama serve"),
            ("http://127.0.0.1:1234", "mine", "lms server start"),
            ("http://[::1]:8080/v1", "", "llama-server -m MODEL.gguf"),
            ("http://LOCALHOST:8000/v1", "", "vllm serve MODEL"),
            ("http://localhost:11434/v1", "vLLM", "vllm serve MODEL"),
            ("https://far.example/v1", "LM Studio", "lms server start"),
            ("http://localhost:1235/v1", "", None),
            ("http://localhost/v1", "", None),
            ("http://far.example:11434/v1", "ollama", None),
        ],
    )
    def test_which_one_it_is(self, url: str, name: str, start: str | None) -> None:
        """A program is told by its name, or on this machine by its usual port."""
        found = local_server_at(url, name) if name else local_server_at(url)
        assert (found and found.start) == start

    def test_other_servers_are_not_taken_for_one(self) -> None:
        """The same port on another machine, and another port, get no such hint."""
        gone = ConnectionFailed("no connection: Connection refused")
        for url in ("http://10.0.0.7:11434/v1", "http://localhost:11435/v1"):
            error = read(canned(OpenAICompatible, gone, base_url=url).stream("Hi")).error
            assert "start" not in str(error)


class TestBroken:
    """What is broken in one installed package harms nothing else."""

    def test_one_that_exits_while_it_is_imported(self, installed: Any) -> None:
        """A module that ends the program is a plug-in that does not load, and no more."""
        source = "import sys\nsys.exit(3)"
        installed(
            source, broken="plugin_of_tests:Mine", whole="llmproviders.testing:ScriptedProvider"
        )
        with pytest.warns(RuntimeWarning, match="'broken'.*SystemExit: 3"):
            assert list(providers.every())[-1] == "whole"
        assert providers.broken()["broken"].package == "plugin-of-tests"

    def test_one_that_panics_while_it_is_imported(self, installed: Any, tmp_path: Path) -> None:
        """What is no ``Exception``, as a panic of an extension, is told in the same way."""
        source = "class Panic(BaseException): ...\nraise Panic('in an extension')"
        installed(
            source, broken="plugin_of_tests:Mine", whole="llmproviders.testing:ScriptedProvider"
        )
        with pytest.warns(RuntimeWarning, match="'broken'.*Panic: in an extension"):
            assert list(providers.every())[-1] == "whole"
        sys.modules.pop("plugin_of_tests", None)
        with pytest.raises(ConfigError, match="cannot be loaded: Panic: in an extension"):
            load(configured(tmp_path, "plugin_of_tests:Mine"))

    def test_a_reason_of_several_lines(self, installed: Any) -> None:
        """Why it does not load is told on one line."""
        installed("raise ImportError('no libfoo:\\n  not found')", mine="plugin_of_tests:Mine")
        with pytest.warns(RuntimeWarning, match="does not load: ImportError: no libfoo: not found"):
            assert "mine" not in providers.every()

    def test_an_interrupt_while_it_is_imported(self, installed: Any) -> None:
        """Ctrl-C during an import is not taken for a fault of the package."""
        installed("raise KeyboardInterrupt", broken="plugin_of_tests:Mine")
        with pytest.raises(KeyboardInterrupt):
            providers.every()

    @pytest.mark.parametrize("name", ["gigachat", "OpenAI", "open-ai", "Ollama", "llama_cpp"])
    def test_one_whose_name_is_built_in(self, installed: Any, name: str) -> None:
        """It is not loaded, and the doctor tells that it is ignored and what can be done."""
        installed("raise RuntimeError('loaded')", **{name: "plugin_of_tests:Mine"})
        [finding] = check_plug_ins()
        assert finding.level is Level.WARN
        assert f"{name!r} (plugin_of_tests:Mine of plugin-of-tests) is ignored" in finding.text
        assert 'type = "module:Class"' in finding.remedy
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            ((why, package),) = providers.ignored()
        assert (why, package) == (finding.text, "plugin-of-tests")
        assert why.endswith("a built-in one has that name")
        assert providers.broken() == {}

    def test_what_the_doctor_tells(self, installed: Any) -> None:
        """The doctor tells the usable from those that cannot be made and that do not load."""
        source = """
from llmproviders.testing import ScriptedProvider
class Mine(ScriptedProvider): ...
class Demanding(ScriptedProvider):
    def __init__(self, thing, **arguments): ...
"""
        entries = {"mine": "Mine", "alias": "Mine", "demanding": "Demanding", "gone": "Gone"}
        installed(source, **{name: f"plugin_of_tests:{to}" for name, to in entries.items()})
        with pytest.warns(RuntimeWarning, match="'gone'"):
            findings = list(check_plug_ins())
        told = [(finding.level, finding.text.partition(":")[0]) for finding in findings]
        gone = "the provider 'gone' (plugin_of_tests"
        assert told == [(Level.OK, "mine, alias"), (Level.WARN, "demanding"), (Level.WARN, gone)]
        assert "'thing'" in findings[1].text

    def test_metadata_that_cannot_be_read(self, installed: Any, tmp_path: Path) -> None:
        """Entry points that are no text hide those of no other package."""
        installed(PLUGIN, mine="plugin_of_tests:Mine")
        about = tmp_path / "rubbish-1.0.dist-info"
        about.mkdir()
        (about / "METADATA").write_text("Metadata-Version: 2.1\nName: rubbish\nVersion: 1.0\n")
        (about / "entry_points.txt").write_bytes(b"[llmproviders.providers]\nx = \xff\xfe:Y\n")
        kind = providers.find("mine")
        assert kind is not None
        assert kind.__name__ == "Mine"
        assert providers.names() == [*providers.REGISTRY, "mine"]

    def test_two_of_one_name(self, installed: Any) -> None:
        """The first one has the name, and a warning tells of the other."""
        entries = {
            "my-own": "plugin_of_tests:Mine",
            "My_Own": "llmproviders.testing:ScriptedProvider",
        }
        installed(PLUGIN, **entries)
        with pytest.warns(RuntimeWarning, match="ScriptedProvider.* ignored: another one") as told:
            kind = providers.find("myown")
        assert kind is not None
        assert kind.__name__ == "Mine"
        assert [one.why for one in providers.ignored()] == [str(told[0].message)]

    def test_two_of_one_name_of_which_the_first_is_broken(self, installed: Any) -> None:
        """The name stays the broken one's, so that it does not depend on what else is there."""
        installed(PLUGIN, mine="plugin_of_tests:Gone", Mine="plugin_of_tests:Mine")
        with pytest.warns(RuntimeWarning, match="(?i)'mine'") as told:
            assert providers.find("mine") is None
        assert len(told) == 2
        assert list(providers.broken()) == ["mine"]
        assert len(providers.ignored()) == 1

    def test_one_without_a_default_model(self, installed: Any, tmp_path: Path) -> None:
        """A class that lacks what every provider has is listed, and fails where it is asked."""
        source = """
from llmproviders import Provider
class Mine(Provider):
    url = "https://mine.example"
    def prepare(self, request, fetch): ...
    def parse(self, reply): ...
"""
        installed(source, mine="plugin_of_tests:Mine")
        (settings,) = load(configured(tmp_path, "mine")).providers
        assert settings.in_force()["model"].value is None
        error = read(settings.make().stream("Hi")).error
        assert isinstance(error, ProtocolError)
        assert "default_model" in str(error)

    def test_one_that_cannot_be_made(self, installed: Any, tmp_path: Path) -> None:
        """Whatever its constructor raises is an error of the configuration, by file and line."""
        source = PLUGIN + "    def __init__(self, **options):\n        raise KeyError('device')\n"
        installed(source, mine="plugin_of_tests:Mine")
        path = configured(tmp_path, "mine")
        with pytest.raises(
            ConfigError, match=r"c\.toml:2: Mine cannot be made: KeyError"
        ) as caught:
            load(path).client()
        assert isinstance(caught.value.__cause__, KeyError)

    def test_one_that_does_not_load_in_a_configuration(
        self, installed: Any, tmp_path: Path
    ) -> None:
        """The configuration says why, instead of that there is none of that name."""
        installed("raise ImportError('no libfoo')", mine="plugin_of_tests:Mine")
        with (
            pytest.warns(RuntimeWarning, match="'mine'"),
            pytest.raises(ConfigError, match=r"c\.toml:2: .*does not load: ImportError: no libfoo"),
        ):
            load(configured(tmp_path, "mine"))

    def test_names_are_told_without_loading(self, installed: Any) -> None:
        """A hint or the shell's completion names a plug-in, and imports nothing of it."""
        installed("raise RuntimeError('loaded')", broken="plugin_of_tests:Mine")
        assert providers.names()[-1] == "broken"
        assert "plugin_of_tests" not in sys.modules
