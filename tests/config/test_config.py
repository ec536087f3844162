"""The configuration: what is in force, where it comes from, and what is wrong with a file."""

from __future__ import annotations

import logging
import os
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypedDict

import pytest
from typing_extensions import Unpack

from llmproviders import ChatGLM, FailoverClient, GigaChat, MissingAuthError, OpenAICompatible
from llmproviders._account.keys import KeyFile, KeyVariable
from llmproviders.cli.config import TEMPLATE
from llmproviders.config import ConfigError, NoProviderError, load
from llmproviders.config import _settings as configuration
from llmproviders.config._arguments import arguments_of
from llmproviders.config._types import LOCAL_SERVERS
from llmproviders.providers import REGISTRY
from llmproviders.sandbox import Sandbox
from llmproviders.testing import ScriptedProvider
from tests.reliability.childs import as_root

KEY = "c2VjcmV0LWlkOnNlY3JldC1zZWNyZXQ="
GUESTS = {kind.__name__: kind for kind in REGISTRY.values() if "api_key" not in arguments_of(kind)}


CertFiles = str | os.PathLike[str] | tuple[str | os.PathLike[str], str | os.PathLike[str]]


class Options(TypedDict, total=False):
    """Arguments that a constructor takes as ``**options``."""

    headers: Mapping[str, str] | None
    cert: CertFiles | None


class Rich(ScriptedProvider):
    """A provider from elsewhere whose arguments have every shape that TOML can express."""

    def __init__(
        self,
        *,
        per_day: int | Mapping[str, int] | None = None,
        trust: Literal["system"] | None = None,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(["Hello"], name="Rich")
        self.took = {"per_day": per_day, "trust": trust, **options}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return where the configuration of the test stands."""
    return tmp_path / "config.toml"


def error_of(path: Path, text: str) -> str:
    """Return what is said about a configuration, without the file's own path."""
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load(path).client()
    return str(caught.value).replace(str(path), "FILE")


class TestPlaces:
    def test_order(self, home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        """A path that is given counts before the environment's, that before the user's own."""
        for name in ("given", "environment", "own"):
            (tmp_path / name).write_text(f'[[provider]]\ntype = "chatglm"\nname = "{name}"\n')
        own, _ = configuration.locate()
        own.parent.mkdir(parents=True)
        (tmp_path / "own").rename(own)
        assert load().providers[0].name == "own"
        assert load().path_origin == "default"
        monkeypatch.setenv("LLMPROVIDERS_CONFIG", str(tmp_path / "environment"))
        assert load().providers[0].name == "environment"
        assert load().path_origin == "environment LLMPROVIDERS_CONFIG"
        assert load(tmp_path / "given").providers[0].name == "given"
        assert load(tmp_path / "given").path_origin == "argument"

    def test_home(self, home: Path) -> None:
        """A tilde stands for the home folder."""
        (home / "mine.toml").write_text('[[provider]]\ntype = "flowgpt"\n')
        assert load("~/mine.toml").providers[0].kind.__name__ == "FlowGpt"

    def test_missing(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A file that is named must be there; the user's own need not."""
        with pytest.raises(ConfigError, match=f"no configuration at {path}; .* init"):
            load(path)
        monkeypatch.setenv("LLMPROVIDERS_CONFIG", str(path))
        with pytest.raises(ConfigError, match="no configuration at"):
            load()
        monkeypatch.setenv("LLMPROVIDERS_CONFIG", "")
        assert load().path is None

    def test_a_folder(self, tmp_path: Path) -> None:
        """What is no file of text is told as such."""
        with pytest.raises(ConfigError, match="cannot be read"):
            load(tmp_path)


class TestWithoutConfiguration:
    @pytest.mark.parametrize(
        ("variables", "names"),
        [
            ([], []),
            (["GIGACHAT_CREDENTIALS"], ["GigaChat"]),
            (["GIGACHAT_ACCESS_TOKEN"], ["GigaChat"]),
            (["GIGACHAT_BASE_URL"], []),
            (["OPENAI_API_KEY"], ["OpenAICompatible"]),
            (["OPENAI_BASE_URL"], ["OpenAICompatible"]),
            (["GIGACHAT_CREDENTIALS", "OPENAI_API_KEY"], ["GigaChat", "OpenAICompatible"]),
        ],
    )
    def test_providers(
        self, monkeypatch: pytest.MonkeyPatch, variables: list[str], names: list[str]
    ) -> None:
        """Only those whose credentials, or whose address, are in the environment are asked."""
        for variable in variables:
            monkeypatch.setenv(variable, "http://127.0.0.1:1/v1")
        assert [item.name for item in load().providers] == names

    @pytest.mark.parametrize("name", GUESTS)
    def test_guests(self, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        """A guest service is asked if the environment names its address, behind those with keys."""
        [variable] = GUESTS[name].environment_of("base_url")
        monkeypatch.setenv(variable, "http://127.0.0.1:1")
        monkeypatch.setenv("GIGACHAT_CREDENTIALS", KEY)
        assert [item.name for item in load().providers] == ["GigaChat", name]

    def test_only_settings(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A file without providers leaves them to the environment."""
        path.write_text("[failover]\nattempts = 1\n")
        monkeypatch.setenv("GIGACHAT_CREDENTIALS", KEY)
        assert [item.name for item in load(path).providers] == ["GigaChat"]

    def test_nobody_to_ask(self, path: Path, home: Path) -> None:
        """With nothing to ask there is an error that tells every way on; nothing is sent."""
        with pytest.raises(NoProviderError) as caught:
            FailoverClient.from_config()
        for way in ("GIGACHAT_CREDENTIALS", "config init", "-p ollama", "-p chatglm", "demo"):
            assert way in str(caught.value)
        path.write_text("[failover]\nattempts = 1\n")
        with pytest.raises(NoProviderError, match=f"{path} names no provider") as caught:
            FailoverClient.from_config(path)
        assert 'remove the "# " before one' in str(caught.value)


class TestFromConfig:
    def test_client(self, path: Path) -> None:
        """The client has the providers in order, with their arguments and its own."""
        path.write_text(
            '[[provider]]\ntype = "openai"\nname = "local"\nbase_url = "http://localhost:11434/v1"\n'
            'model = "llama3.2"\ntimeout = [5, 120]\n\n'
            '[[provider]]\ntype = "chatglm"\ntimeout = 7\n\n[failover]\nattempts = 1\n'
        )
        client = FailoverClient.from_config(path)
        local, glm = client.providers
        assert isinstance(local, OpenAICompatible)
        assert (local.name, local.model, local.timeout) == ("local", "llama3.2", (5, 120))
        assert isinstance(glm, ChatGLM)
        assert glm.timeout == (7, 7)

    def test_subclass(self, path: Path) -> None:
        """A subclass makes its own kind."""

        class Mine(FailoverClient):
            pass

        path.write_text('[[provider]]\ntype = "chatglm"\n')
        assert type(Mine.from_config(path)) is Mine

    def test_answers(self, path: Path, sandbox: Sandbox) -> None:
        """A client made of a file and a key file answers."""
        arguments = sandbox.provider_arguments("gigachat")
        (path.parent / "giga.key").write_text(f"\ufeff{arguments['api_key']}\n", encoding="utf-8")
        path.write_text(
            '[[provider]]\ntype = "gigachat"\napi_key_file = "giga.key"\n'
            f'base_url = "{arguments["base_url"]}"\nauth_url = "{arguments["auth_url"]}"\n'
        )
        with FailoverClient.from_config(path) as client:
            assert client.complete("Why?").provider == "GigaChat"

    def test_every_argument_can_be_configured(self, path: Path) -> None:
        """Whatever the constructors take that TOML can express is accepted."""
        values = {
            "str": '"x"',
            "int": "2",
            "float": "0.5",
            "bool": "true",
            "Timeout": "3",
            "os.PathLike[str]": '"file"',
            "dict[str]": '{ X-Team = "blue" }',
            "dict[int]": "{ requests = 9 }",
            "pair[str]": '["a.pem", "a.key"]',
            "pair[os.PathLike[str]]": '["a.pem", "a.key"]',
        }
        special = {
            "trust": '"system"',
            "base_url": '"http://127.0.0.1:1/v1"',
            "proxy": '"http://127.0.0.1:1"',
            "auth_url": '"http://127.0.0.1:1/oauth"',
        }
        for name, kind in REGISTRY.items():
            lines = ["[[provider]]", f'type = "{name}"']
            for argument in arguments_of(kind).values():
                value = (
                    special.get(argument.name) or values[argument.types[-1]]
                    if (not argument.secret)
                    else '"NAME"'
                )
                lines.append(f"{argument.name}{'_env' * argument.secret} = {value}")
            lines.append("[failover]")
            for argument in arguments_of(FailoverClient).values():
                choice = f'"{argument.choices[-1]}"' if argument.choices else ""
                lines.append(f"{argument.name} = {choice or values[argument.types[-1]]}")
            path.write_text("\n".join(lines))
            given = load(path)
            assert set(given.providers[0].given) == set(arguments_of(kind))
            assert isinstance(given.client(), FailoverClient)

    def test_what_toml_cannot_express(self) -> None:
        """Callables, sessions and clocks are no keys."""
        assert {"accept", "on_event", "wait", "retry", "stop", "fall_through", "clock"}.isdisjoint(
            arguments_of(FailoverClient)
        )
        assert {"session", "limits"}.isdisjoint(arguments_of(GigaChat))

    def test_paths(self, path: Path, home: Path) -> None:
        """A relative path lies beside the file, a tilde is the home folder.

        As token_cache "user" is a word, and elsewhere the name of a file.
        """
        path.write_text(
            '[[provider]]\ntype = "gigachat"\ntoken_cache = "user"\nca_bundle = "ca.pem"\n'
            '[failover]\nhealth = "~/health.json"\n'
        )
        found = load(path)
        given = {name: value.value for name, value in found.providers[0].given.items()}
        assert given == {"token_cache": "user", "ca_bundle": str(path.parent / "ca.pem")}
        assert found.failover["health"].value == str(home / "health.json")
        path.write_text('[failover]\nhealth = "user"\n')
        assert load(path).failover["health"].value == str(path.parent / "user")

    def test_byte_order_mark(self, path: Path) -> None:
        """A file as Windows' editor writes it is read."""
        path.write_text('\ufeff[[provider]]\r\ntype = "chatglm"\r\n', encoding="utf-8")
        assert load(path).providers[0].name == "ChatGLM"


class TestShapes:
    def test_tables_and_pairs(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Tables, pairs of paths and choices arrive as the constructor takes them."""
        monkeypatch.setenv("TEAM_KEY", "sk-team")
        (path.parent / "other.key").write_text("sk-other\n")
        path.write_text(
            f"[[provider]]\ntype = '{__name__}:Rich'\ntrust = 'system'\n"
            "cert = ['client.pem', '~/client.key']\nper_day = { requests = 1000 }\n"
            "headers = { X-Team = 'blue', "
            "api-key_env = 'TEAM_KEY', other-key_file = 'other.key' }\n"
        )
        [settings] = load(path).providers
        made = settings.make()
        assert isinstance(made, Rich)
        assert made.took == {
            "per_day": {"requests": 1000},
            "trust": "system",
            "cert": (str(path.parent / "client.pem"), os.path.expanduser("~/client.key")),
            "headers": {"X-Team": "blue", "api-key": "sk-team", "other-key": "sk-other"},
        }
        assert "sk-team" not in repr(made.took["headers"])
        assert settings.type_name == f"{__name__}:Rich"

    def test_numbers_and_texts(self, path: Path) -> None:
        """What may be a table may be a number, and what may be a pair may be one path."""
        path.write_text(f"[[provider]]\ntype = '{__name__}:Rich'\nper_day = 9\ncert = 'a.pem'\n")
        made = load(path).providers[0].make()
        assert isinstance(made, Rich)
        assert made.took["per_day"] == 9
        assert made.took["cert"] == str(path.parent / "a.pem")


class TestTypes:
    @pytest.mark.parametrize("name", LOCAL_SERVERS)
    def test_a_program_on_this_machine(self, path: Path, name: str) -> None:
        """A program's name is an OpenAI-compatible server at its usual address, called by it."""
        path.write_text(f"[[provider]]\ntype = '{name}'\nmodel = 'm'\n")
        [settings] = load(path).providers
        made = settings.make()
        assert isinstance(made, OpenAICompatible)
        server = LOCAL_SERVERS[name]
        assert (made.name, made.base_url) == (server.name, server.base_url)
        assert load(path).choose([name]).providers == (settings,)

    def test_another_address(self, path: Path) -> None:
        """What the file says of a program's address and name wins."""
        path.write_text(
            "[[provider]]\ntype = 'ollama'\nname = 'gpu'\nbase_url = 'http://gpu:11434/v1'\n"
        )
        made = load(path).providers[0].make()
        assert (made.name, made.base_url) == ("gpu", "http://gpu:11434/v1")

    def test_a_type_is_told_from_another(self, path: Path) -> None:
        """openai does not name the programs that speak its protocol, nor the other way round."""
        path.write_text("[[provider]]\ntype = 'ollama'\n[[provider]]\ntype = 'openai'\n")
        found = load(path)
        assert [item.name for item in found.choose(["openai"]).providers] == ["OpenAICompatible"]
        assert [item.name for item in found.choose(["ollama"]).providers] == ["Ollama"]


class TestErrors:
    TABLE = [
        ("[[provider]\n", "FILE:1: this is not TOML: "),
        ("providers = 1\n", "FILE:1: unknown key 'providers'; did you mean 'provider'?"),
        ("\n[provider]\ntype = 'chatglm'\n", "FILE:2: write each provider under [[provider]]"),
        ("failover = 1\n", "FILE:1: write these settings under [failover]"),
        ("[[provider]]\nname = 'x'\n", "FILE:1: type is missing; known: chatglm, "),
        ("[[provider]]\ntype = 'gigachad'\n", "FILE:2: unknown type 'gigachad'; did you mean "),
        (
            "[[provider]]\ntype='chatglm'\n\n[[provider]]\ntype = 'openai'\n# x\nmodle = 'x'\n",
            "FILE:7: unknown key 'modle' in [[provider]]; did you mean 'model'?",
        ),
        ("[failover]\nattempst = 1\n", "FILE:2: unknown key 'attempst' in [failover]; did you "),
        ("[failover]\naccept = 1\n", "FILE:2: unknown key 'accept' in [failover]"),
        ("[failover]\nattempts = '3'\n", "FILE:2: attempts must be a whole number, not '3'"),
        ("[failover]\nattempts = true\n", "FILE:2: attempts must be a whole number, not True"),
        ("[failover]\nattempts = 1.5\n", "FILE:2: attempts must be a whole number, not 1.5"),
        ("[failover]\ndeadline = '9'\n", "FILE:2: deadline must be a number, not '9'"),
        (f"[failover]\ndeadline = 1{'0' * 400}\n", "FILE:2: deadline must be a number, not 1000"),
        (
            "[failover]\non_interrupt = 'retry'\n",
            'FILE:2: on_interrupt must be "raise" or "restart", not \'retry\'',
        ),
        ("[failover]\nhealth = 1\n", "FILE:2: health must be a path, not 1"),
        (
            "[[provider]]\ntype='chatglm'\n[failover]\nattempts = 0\n",
            "FILE:4: [failover]: attempts",
        ),
        (
            "[[provider]]\ntype='chatglm'\ntimeout=[1, 2, 3]\n",
            "FILE:3: timeout must be seconds, or a pair [connect, read] of seconds, not [1, 2, 3]",
        ),
        ("[[provider]]\ntype='chatglm'\ntimeout=-1\n", "FILE:3: ChatGLM: timeout must be"),
        ("[[provider]]\ntype='chatglm'\nproxy='ftp://x'\n", "FILE:3: ChatGLM: the proxy "),
        (
            "[[provider]]\ntype='chatglm'\nproxy='http://me:hunter22@h:1'\n",
            "FILE:3: proxy must not hold a password: set LLMPROVIDERS_PROXY in the environment",
        ),
        (
            "[[provider]]\ntype='openai'\napi_key='sk-secret'\n",
            "FILE:3: api_key must not stand here in clear: write it into a file of its own",
        ),
        *(
            (
                f"[[provider]]\ntype='gigachat'\n{line}\n",
                f"FILE:{number}: {name} must be the name of an environment variable, not the key",
            )
            for line, name, number in (
                ("api_key_env='sk-secret'", "api_key_env", 3),
                ("access_token_env='id1.sk-secret'", "access_token_env", 3),
                ("password_env='hunter22!'", "password_env", 3),
                ("api_key_env='export KEY=sk-secret'", "api_key_env", 3),
                ("headers={ x-key_env='sk-secret' }", "x-key_env", 1),
            )
        ),
        ("[[provider]]\ntype='openai'\napi_key_file=1\n", "FILE:3: api_key_file must be a text"),
        (
            "[[provider]]\ntype='openai'\napi_key_file='a'\napi_key_env='B'\n",
            "FILE:4: api_key is given twice: by api_key_env and by api_key_file",
        ),
        *(
            (
                f"[[provider]]\ntype='gigachat'\n{table}{key}=' '\n",
                f"{place}: {key} must be a {due}",
            )
            for table, place, key, due in (
                ("", "FILE:3", "ca_bundle", "path"),
                ("", "FILE:3", "token_cache", "path"),
                ("", "FILE:3", "cert", "path or a list of two paths"),
                ("", "FILE:3", "api_key_file", "text"),
                ("[failover]\n", "FILE:4", "health", "path"),
            )
        ),
        (
            "[[provider]]\ntype='openai'\n[[provider]]\ntype='openai'\n",
            "FILE:3: there are two providers called 'OpenAICompatible'",
        ),
        ("[[provider]]\ntype='openai'\nname_env='B'\n", "FILE:3: unknown key 'name_env'"),
        (
            '[[provider]]\ntype="openai"\napi_key_file="a\\u0000b"\n',
            "FILE:3: the key file: no file can be called '",
        ),
        (
            '[[provider]]\ntype="gigachat"\ntoken_cache="a\\u0000b"\n',
            "FILE:3: GigaChat: token_cache: no file can be called '",
        ),
        (
            '[[provider]]\ntype="gigachat"\nca_bundle="a\\u0000b"\n',
            "FILE:3: GigaChat: ca_bundle: no file can be called '",
        ),
        (
            '[[provider]]\ntype="chatglm"\n[failover]\nhealth="a\\u0000b"\n',
            "FILE:4: [failover]: health: no file can be called '",
        ),
        (f"deep = {'[' * 5000}{']' * 5000}\n", "FILE cannot be read: it is nested too deeply"),
        (f"deep = {'{a=' * 5000}1{'}' * 5000}\n", "FILE cannot be read: it is nested too deeply"),
        (
            f"[failover]\ndeadline{'.a' * 5000} = 1\n",
            "FILE",
        ),
        (f"{'#' * 2**20}\n", "FILE cannot be read: it is larger than 1 MiB"),
    ]

    TABLE += [
        (
            "[[provider]]\ntype='no_such_module:Mine'\n",
            "FILE:2: type 'no_such_module:Mine' cannot be loaded: No module named",
        ),
        (
            "[[provider]]\ntype='pathlib:Path'\n",
            "FILE:2: type 'pathlib:Path' is not a subclass of llmproviders.Provider",
        ),
        (
            f"[[provider]]\ntype='{__name__}:Rich'\nheaders={{ Authorization='sk-secret' }}\n",
            "FILE:3: headers: the value of 'Authorization' must not stand here in clear: name a",
        ),
        (
            f"[[provider]]\ntype='{__name__}:Rich'\n[provider.headers]\nx-api-key='sk-secret'\n",
            "FILE:3: headers: the value of 'x-api-key' must not stand here in clear: name a",
        ),
        (
            f"[[provider]]\ntype='{__name__}:Rich'\n\nheaders={{ x-key_env='NO_SUCH_KEY' }}\n",
            "FILE:4: the environment variable NO_SUCH_KEY is not set",
        ),
        (
            f"[[provider]]\ntype='{__name__}:Rich'\nheaders=['a']\n",
            "FILE:3: headers must be a table of texts, not ['a']",
        ),
        (
            f"[[provider]]\ntype='{__name__}:Rich'\nper_day='many'\n",
            "FILE:3: per_day must be a whole number or a table of whole numbers, not 'many'",
        ),
        (
            f"[[provider]]\ntype='{__name__}:Rich'\ntrust='all'\n",
            "FILE:3: trust must be \"system\", not 'all'",
        ),
        (
            f"[[provider]]\ntype='{__name__}:Rich'\ncert=['a', 'b', 'c']\n",
            "FILE:3: cert must be a path or a list of two paths, not ['a', 'b', 'c']",
        ),
    ]

    @pytest.mark.parametrize(("text", "expected"), TABLE, ids=[text[:60] for text, _ in TABLE])
    def test_message(self, path: Path, text: str, expected: str) -> None:
        """What is wrong is told with file, line, key and the nearest known one, without secrets."""
        said = error_of(path, text)
        assert said.startswith(expected)
        assert "sk-secret" not in said
        assert "hunter22" not in said

    def test_no_name_of_a_file(self) -> None:
        """A path that no file can have is told as such, its NUL spelled out."""
        with pytest.raises(
            ConfigError, match=r"the configuration: no file can be called 'a\\x00b'"
        ):
            load("a\0b")
        for blank in ("", " "):
            with pytest.raises(ConfigError, match="the configuration is blank"):
                load(blank)

    def test_no_provider_of_that_name(self, path: Path) -> None:
        """A provider that is neither configured nor a type is told with the nearest one."""
        path.write_text('[[provider]]\ntype = "openai"\nname = "local"\n')
        with pytest.raises(ConfigError, match="no provider 'locl'; did you mean 'local'"):
            load(path).choose(["locl"])


class TestChoose:
    def test_names_and_types(self, path: Path) -> None:
        """A name is a configured provider's own, else the type of such ones, else a type."""
        path.write_text(
            '[[provider]]\ntype = "openai"\nname = "a"\n[[provider]]\ntype = "openai"\nname = "b"\n'
            '[[provider]]\ntype = "chatglm"\nname = "GigaChat"\n'
        )
        found = load(path)

        def names(*chosen: str) -> list[str]:
            return [item.name for item in found.choose(chosen).providers]

        assert names("b", "A") == ["b", "a"]
        assert names("OpenAI-Compatible") == ["a", "b"]
        assert names("b", "openai") == ["b", "a"]
        assert names("flowgpt", "a") == ["FlowGpt", "a"]
        assert names() == ["a", "b", "GigaChat"]
        assert found.choose(["gigachat"]).providers[0].kind is ChatGLM


class TestKeys:
    def test_nothing_of_a_key_travels(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Neither a pickle nor a repr of a client holds a key from a file or the environment."""
        (path.parent / "a.key").write_text(KEY)
        monkeypatch.setenv("MY_KEY", "sk-secret-secret")
        path.write_text(
            '[[provider]]\ntype = "gigachat"\napi_key_file = "a.key"\n'
            '[[provider]]\ntype = "openai"\napi_key_env = "MY_KEY"\n'
        )
        client = FailoverClient.from_config(path)
        for provider in client.providers:
            provider.check_credentials()  # type: ignore[attr-defined]
        carried = pickle.dumps(client)
        for text in (carried.decode("latin-1"), repr(client), repr(load(path))):
            assert KEY not in text
            assert "sk-secret" not in text
        again = pickle.loads(carried)
        for provider in again.providers:
            provider.check_credentials()

    def test_a_key_is_read_when_it_is_needed(self, path: Path) -> None:
        """A key file that is not there is told at the first call, as a missing key."""
        path.write_text('[[provider]]\ntype = "gigachat"\napi_key_file = "no.key"\n')
        client = FailoverClient.from_config(path)
        [provider] = client.providers
        with pytest.raises(MissingAuthError, match=r"no\.key cannot be read: No such file"):
            provider.complete("Why?")

    @pytest.mark.parametrize(
        ("content", "said"), [(b" \n", "is empty"), (b"\xff\xfe", "not a text in UTF-8")]
    )
    def test_a_file_without_a_key(self, tmp_path: Path, content: bytes, said: str) -> None:
        """An empty file, and one that is no text, are told as such."""
        (tmp_path / "key").write_bytes(content)
        with pytest.raises(MissingAuthError, match=said):
            KeyFile(str(tmp_path / "key")).read()

    def test_a_variable_without_a_key(self) -> None:
        """A variable that is not set is named."""
        with pytest.raises(MissingAuthError, match="MY_KEY is not set"):
            KeyVariable("MY_KEY").read()

    @pytest.mark.skipif(os.name != "posix", reason="modes are POSIX's")
    def test_a_key_that_others_can_read(self, path: Path, caplog: pytest.LogCaptureFixture) -> None:
        """A key file that is open to others is a warning with the remedy; a closed one is none."""
        key = path.parent / "a.key"
        key.write_text(KEY)
        path.write_text('[[provider]]\ntype = "gigachat"\napi_key_file = "a.key"\n')
        key.chmod(0o640)
        with caplog.at_level(logging.WARNING, "llmproviders"):
            assert len(load(path).warnings) == 1
        assert re.search(rf"mode 0640\); do: chmod 600 {key}", caplog.text)
        key.chmod(0o600)
        assert load(path).warnings == ()

    @as_root
    @pytest.mark.parametrize(("owner", "group"), [(0, 12345), (4321, 12345)])
    def test_a_key_for_a_group(self, path: Path, owner: int, group: int) -> None:
        """A key that its owner gave to a group is no problem; open to all, it keeps its readers."""
        key = path.parent / "a.key"
        key.write_text(KEY)
        os.chown(key, owner, group)
        key.chmod(0o640)
        path.write_text('[[provider]]\ntype = "gigachat"\napi_key_file = "a.key"\n')
        assert load(path).warnings == ()
        key.chmod(0o644)
        [warning] = load(path).warnings
        assert warning.endswith(f"(mode 0644); do: chgrp GROUP {key}; chmod 640 {key}")


class TestOrigins:
    def test_each_value_has_one(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """An argument wins over the file, that over the environment, that over the default."""
        monkeypatch.setenv("GIGACHAT_MODEL", "of-the-environment")
        monkeypatch.setenv("GIGACHAT_SCOPE", "GIGACHAT_API_CORP")
        path.write_text('[[provider]]\ntype = "gigachat"\nmodel = "of-the-file"\n')
        settings = load(path).providers[0]

        def found(name: str, **arguments: Any) -> tuple[Any, str]:
            value = settings.having(**arguments).in_force()[name]
            return value.value, value.origin

        assert found("model") == ("of-the-file", f"{path}:3")
        assert found("model", model="mine") == ("mine", "argument")
        assert found("scope") == ("GIGACHAT_API_CORP", "environment GIGACHAT_SCOPE")
        assert found("max_concurrency") == (10, "default")
        assert found("timeout") == ((10, 60), "default")
        assert found("api_key") == (None, "default")
        assert load(path).having(deadline=9).failover["deadline"].origin == "argument"


def test_the_template_is_a_configuration(path: Path) -> None:
    """The file that init writes is valid as it is, and with every line in use."""
    path.write_text(TEMPLATE)
    assert load(path).providers == ()
    used = re.sub(r"^# (?=\[|\w+ = )", "", TEMPLATE, flags=re.MULTILINE)
    assert "[[provider]]\n" in used
    assert "[failover]\n" in used
    path.write_text(used)
    assert len(load(path).client().providers) == 4


EVALUATED = """
from typing import Optional, Union
from llmproviders.provider import Key
from llmproviders.testing import ScriptedProvider
from tests.reliability.childs import as_root

class Evaluated(ScriptedProvider):
    def __init__(
        self,
        *,
        api_key: Optional[Key] = None,
        token: Key | None = None,
        place: str = "",
        size: Optional[int] = None,
        either: Union[str, int] = 1,
        quoted: "Optional[str]" = None,
        **common,
    ) -> None:
        super().__init__(["Hello"], **common)
        self.took = {"api_key": self.secret("api_key", api_key), "place": place, "size": size}
"""


def test_annotations_that_are_evaluated(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A class whose module does not postpone its annotations can be configured all the same."""
    (tmp_path / "evaluated_of_tests.py").write_text(EVALUATED, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("ITS_KEY", "its-key")
    header = '[[provider]]\ntype = "evaluated_of_tests:Evaluated"\n'
    path.write_text(f'{header}api_key_env = "ITS_KEY"\nplace = "Omsk"\nsize = 7\n')
    (settings,) = load(path).providers
    found = {name: argument.types for name, argument in arguments_of(settings.kind).items()}
    assert (found["token"], found["either"], found["quoted"]) == (
        ("Key",),
        ("str", "int"),
        ("str",),
    )
    made: Any = settings.make()
    assert made.took == {"api_key": "its-key", "place": "Omsk", "size": 7}
    refused = error_of(path, f'{header}api_key = "in-clear"\n')
    assert "must not stand here in clear" in refused
