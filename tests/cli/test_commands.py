"""The commands beside ask, chat and batch, as processes."""

from __future__ import annotations

import json
import re
import signal
import socket
import ssl
from collections.abc import Callable, Iterator
from hashlib import sha256
from itertools import pairwise
from pathlib import Path

import pytest
import trustme

from llmproviders import FailoverClient
from llmproviders._environment import health_file
from llmproviders.config import ConfigError
from llmproviders.notebook import show
from llmproviders.providers import REGISTRY
from llmproviders.sandbox import Sandbox
from tests.cli.conftest import Configure
from tests.cli.process import Result, Running, run
from tests.conftest import RawServerFactory
from tests.support.http_bytes import http_response
from tests.support.rawserver import keep_alive
from tests.support.served import SERVED


def loaded(result: Result) -> object:
    """Return what a command that went well printed as JSON."""
    assert (result.code, result.err) == (0, ""), result
    return json.loads(result.out)


class TestProviders:
    FIELDS = (
        "name",
        "type",
        "working",
        "needs_auth",
        "key_from",
        "supports_stream",
        "default_model",
        "base_url",
    )

    def test_json(self, at_sandbox: Sandbox) -> None:
        """Each provider is an object with these fields; those in force come first."""
        rows = loaded(run("providers", "--json"))
        assert isinstance(rows, list)
        assert [tuple(row) for row in rows] == [self.FIELDS] * len(REGISTRY)
        assert [row["type"] for row in rows][:3] == ["GigaChat", "OpenAICompatible", "GLM"]
        assert rows[0]["key_from"] == "environment GIGACHAT_CREDENTIALS"
        assert rows[1]["default_model"] == "sandbox-small"
        assert rows[1]["base_url"] == f"{at_sandbox.url}/v1"

    def test_configured(self, configure: Configure, home: Path) -> None:
        """Names and key files of the configuration are told, with the key's place alone."""
        (home / "key").write_text("sk-secret-secret")
        (home / "key").chmod(0o600)
        configure('[[provider]]\ntype = "openai"\nname = "mine"\napi_key_file = "key"\n')
        result = run("providers")
        first = result.out.splitlines()[1]
        assert first.startswith("mine ")
        assert first.endswith(f"file {home / 'key'}")
        assert "sk-secret" not in result.out
        missing = [line for line in result.out.splitlines() if line.startswith("GigaChat")]
        assert missing[0].endswith("set GIGACHAT_CREDENTIALS")

    def test_check(self, at_sandbox: Sandbox) -> None:
        """--check asks each; one that answers is enough, and where none does the code says why."""
        at_sandbox.fail("chatglm", html=True)
        rows = loaded(run("providers", "--check", "--json"))
        assert isinstance(rows, list)
        checks = {row["type"]: row["check"] for row in rows}
        assert checks["GigaChat"].startswith("ok after")
        assert checks["ChatGLM"].startswith("BlockedError: ")
        at_sandbox.close()
        result = run("providers", "--check")
        assert result.code == 75
        assert result.out.count("ConnectionFailed") == len(REGISTRY)


STRANGERS = """
[[provider]]
type = "openai"
name = "stranger"
base_url = "https://llm.stranger.example/v1"

[[provider]]
type = "gigachat"
base_url = "https://giga.stranger.example/api/v1"

[[provider]]
type = "deepseek"
base_url = "https://deep.stranger.example"

[[provider]]
type = "openai"
name = "given"
base_url = "https://llm.stranger.example/v1"
api_key_env = "OPENAI_API_KEY"
"""

KEYS = {
    "OPENAI_API_KEY": "sk-planted-key-1",
    "GIGACHAT_CREDENTIALS": "aWQ6c2VjcmV0LXBsYW50ZWQ=",
    "DEEPSEEK_API_KEY": "sk-planted-key-2",
}


class TestHeldBack:
    """A key of the environment that is not sent to a stranger's address."""

    def test_providers(self, configure: Configure) -> None:
        """It is no key of that provider; the table says that it is held back."""
        configure(STRANGERS)
        rows = loaded(run("providers", "--json", env=KEYS))
        assert isinstance(rows, list)
        found = {row["name"]: row["key_from"] for row in rows}
        assert found["stranger"] is found["GigaChat"] is found["DeepSeek"] is None
        assert found["given"] == "environment OPENAI_API_KEY"
        table = run("providers", env=KEYS).out.splitlines()
        assert [line.split()[0] for line in table if "held back" in line] == [
            *("stranger", "GigaChat", "DeepSeek"),
        ]

    def test_config(self, configure: Configure, home: Path) -> None:
        """It stands in a comment with the reason, so that what is shown sends it no more."""
        configure(STRANGERS)
        again = home / "again.toml"
        shown = run("config", "show", env=KEYS).out
        for name in KEYS:
            assert f'\n# api_key_env = "{name}"' in shown
            assert f"not sent: {name} was held back" in shown
        assert shown.count('\napi_key_env = "OPENAI_API_KEY"') == 1
        again.write_text(shown)
        rows = loaded(run("providers", "--json", "--config", str(again), env=KEYS))
        assert isinstance(rows, list)
        assert [row["key_from"] for row in rows[:4]] == [None] * 3 + ["environment OPENAI_API_KEY"]
        assert not any(key in shown for key in KEYS.values())

    def test_doctor(self, configure: Configure) -> None:
        """It is a warning, or a failure where the service needs one; the remedy is to name it."""
        configure(STRANGERS)
        result = run("doctor", "--offline", env=KEYS)
        said = " ".join(result.out.split())
        assert result.code == 1
        assert "WARN stranger, key: OPENAI_API_KEY was held back" in said
        assert (
            "FAIL GigaChat, key: GigaChat needs an authorization key: GIGACHAT_CREDENTIALS was held"
            in said
        )
        assert "FAIL DeepSeek, key: DeepSeek needs a key: DEEPSEEK_API_KEY was held back" in said
        assert said.count("do: name its variable with api_key_env") == 3
        assert "OK given, key: from environment OPENAI_API_KEY" in said
        assert not any(key in result.out for key in KEYS.values())


class TestModels:
    def test_asks_the_service(self, at_sandbox: Sandbox) -> None:
        """A service that can say is asked; of another one the known names are told."""
        assert loaded(run("models", "openai", "--json"))[0] == "sandbox-small"  # type: ignore[index]
        assert at_sandbox.count("openai", "models") == 1
        assert run("models", "chatglm").out == "glm-4\n"

    def test_a_service_without_models(self, raw_server: RawServerFactory) -> None:
        """An empty list is told on stderr; nothing but names goes to stdout."""
        empty = http_response(200, {"Content-Type": "application/json"}, b'{"data": null}')
        where = {"OPENAI_BASE_URL": f"{raw_server(empty, empty).url}/v1"}
        result = run("models", "openai", env=where)
        assert (result.code, result.out) == (0, "")
        assert "lists no models" in result.err
        assert run("models", "openai", "--json", env=where).out == "[]\n"

    def test_all(self, at_sandbox: Sandbox, configure: Configure) -> None:
        """Without a name each configured provider is named once, before its models."""
        configure('[[provider]]\ntype = "deepseek"\n[[provider]]\ntype = "chatglm"\n')
        listed = [line.split() for line in run("models").out.splitlines()]
        assert listed[0] == ["provider", "model"]
        assert [row[0] for row in listed[1:] if len(row) == 2] == ["DeepSeek", "ChatGLM"]
        assert listed[-1] == ["ChatGLM", "glm-4"]
        found = loaded(run("models", "--json"))
        assert isinstance(found, dict)
        assert found["ChatGLM"] == ["glm-4"]
        at_sandbox.fail("deepseek", status=503, times=9, on="models")
        result = run("models")
        assert (result.code, result.out.split()) == (75, ["provider", "model", "ChatGLM", "glm-4"])
        assert "DeepSeek: " in result.err

    def test_nobody(self) -> None:
        """With nobody configured there is nothing to list, and the way to name one is told."""
        result = run("models")
        assert result.code == 77
        assert "llmproviders models gigachat" in result.err

    def test_several_of_one_type(self, configure: Configure) -> None:
        """A type that stands for several configured ones is refused, with their names."""
        table = '[[provider]]\ntype = "openai"\nname = "%s"\n'
        configure(table % "one" + table % "two")
        result = run("models", "openai")
        assert result.code == 2
        assert "one, two" in result.err


class TestConfig:
    def test_init_path_show(self, home: Path) -> None:
        """init makes what path names and show shows, and never replaces what is there."""
        path = run("config", "path").out.strip()
        assert path.startswith(str(home))
        assert run("config", "init").out == f"{path}\n"
        assert Path(path).is_file()
        assert run("config", "init").code == 2
        assert run("config", "init", "--force").code == 0
        shown = run("config", "show")
        assert shown.out.startswith(f"# {path} (default)\n")
        assert "no configuration" not in shown.out

    def test_show(self, configure: Configure, home: Path) -> None:
        """Every value has its origin, no secret is shown, and what is shown is TOML again."""
        (home / "giga.key").write_text("c2VjcmV0OnNlY3JldA==")
        path = configure(
            '[[provider]]\ntype = "gigachat"\napi_key_file = "giga.key"\n\n'
            '[[provider]]\ntype = "openai"\napi_key_env = "MY_KEY"\n\n[failover]\ndeadline = 9\n'
        )
        env = {
            "GIGACHAT_MODEL": "GigaChat-2-Max",
            "MY_KEY": "sk-secret-secret",
            "LLMPROVIDERS_PROXY": "socks5://me:hunter22@proxy:1080",
        }
        shown = run("config", "show", env=env).out
        lines = [re.sub(r"\s+", " ", line) for line in shown.splitlines()]
        for line in (
            f'api_key_file = "{home / "giga.key"}" # {path}:3; ***',
            'model = "GigaChat-2-Max" # environment GIGACHAT_MODEL',
            'scope = "GIGACHAT_API_PERS" # default',
            f'api_key_env = "MY_KEY" # {path}:7; ***',
            'proxy = "socks5://***@proxy:1080" # environment LLMPROVIDERS_PROXY',
            "timeout = [10.0, 60.0] # default",
            f"deadline = 9 # {path}:10",
        ):
            assert line in lines
        for secret in ("c2VjcmV0", "sk-secret", "hunter22"):
            assert secret not in shown
        again = home / "again.toml"
        again.write_text(shown.replace("proxy =", "# proxy ="))
        assert run("config", "show", "--config", str(again), env=env).code == 0

    def test_a_key_of_two_lines(self, configure: Configure) -> None:
        """What is there and can be no key is told beside its place; nothing of it is shown."""
        configure('[[provider]]\ntype = "openai"\napi_key_env = "MY_KEY"\n')
        result = run("config", "show", env={"MY_KEY": "sk-planted-one\nsk-planted-two"})
        assert result.code == 0
        assert "MY_KEY is not a key or token" in result.out
        assert "planted" not in result.out + result.err

    @pytest.mark.parametrize(
        ("key", "name"),
        [
            ("api_key_env", "sk_planted0123456789"),
            ("api_key_env", "AQVNplantedABCDEFGHIJ_KLMNOPQR"),
            ("api_key_file", "sk-planted-0123456789"),
            ("api_key_file", "0123456789abcdef0123456789abcdef.planted"),
        ],
    )
    def test_a_key_in_the_place_of_a_name(self, configure: Configure, key: str, name: str) -> None:
        """One that could be the name of a variable or a file is masked wherever it is told."""
        configure(f'[[provider]]\ntype = "openai"\n{key} = "{name}"\n')
        said = {
            command: run(*command.split())
            for command in ("ask Why? --json", "doctor --offline", "config show", "providers")
        }
        assert "planted" not in repr(said)
        assert "***" in said["ask Why? --json"].out
        assert f"{key} looks like a key" in said["doctor --offline"].out

    def test_what_the_environment_says_is_toml_again(self, home: Path) -> None:
        """Numbers, switches and files of the environment are shown as the file would have them.

        A client certificate is a credential: it names GigaChat as a key does.
        """
        env = {
            "GIGACHAT_TIMEOUT": "7.5",
            "GIGACHAT_VERIFY_SSL_CERTS": "no",
            "GIGACHAT_CERT_FILE": "/a/client.pem",
            "GIGACHAT_KEY_FILE": "/a/client.key",
        }
        shown = run("config", "show", env=env).out
        again = home / "again.toml"
        again.write_text(shown)
        for text in (shown, run("config", "show", "--config", str(again)).out):
            lines = [line.partition("  #")[0].rstrip() for line in text.splitlines()]
            assert 'type = "gigachat"' in lines
            assert "timeout = [7.5, 7.5]" in lines
            assert "verify = false" in lines
            assert 'cert = ["/a/client.pem", "/a/client.key"]' in lines
        table = run("providers", env=env).out.splitlines()
        assert table[1].startswith("GigaChat ")
        assert table[1].endswith("a client certificate")

    def test_config_before_and_after_the_command(self, home: Path) -> None:
        """--config stands before or after the command; the one after counts."""
        for name in ("one", "two"):
            (home / name).write_text(f'[[provider]]\ntype = "chatglm"\nname = "{name}"\n')
        before = ("--config", str(home / "one"))
        assert '"one"' in run(*before, "config", "show").out
        assert '"two"' in run(*before, "config", "show", "--config", str(home / "two")).out

    @pytest.mark.parametrize("words", [("ask", "Why?"), ("config", "path")])
    def test_a_blank_config(self, words: tuple[str, ...]) -> None:
        """A blank --config, as an unset variable of a script leaves it, is refused everywhere."""
        for line in (("--config", "", *words), (*words, "--config", "")):
            result = run(*line)
            assert (result.code, result.out) == (2, "")
            assert "the configuration is blank" in result.err

    def test_errors(self, configure: Configure) -> None:
        """A configuration that cannot be used is 2, told in one line with file and line."""
        path = configure('[[provider]]\ntype = "chatglm"\nmodle = "x"\n')
        result = run("ask", "Why?")
        assert (result.code, result.out) == (2, "")
        assert f"{path}:3: unknown key 'modle'" in result.err
        assert "did you mean 'model'?" in result.err
        assert result.err.count("\n") == 1


class TestTrust:
    def test_file_list_remove(self, ca: trustme.CA, tmp_path: Path) -> None:
        """A certificate with the right fingerprint is taken in, listed, and forgotten again."""
        file = tmp_path / "ca.pem"
        ca.cert_pem.write_to_path(file)
        wrong = run("trust", "gigachat", "--file", str(file))
        assert (wrong.code, wrong.out) == (2, "")
        assert "D2:6D:2D" in wrong.err
        assert run("trust", "gigachat", "--list").out == ""
        for option in ("--list", "--remove"):
            assert "no certificate is installed" in run("trust", "gigachat", option).err
        der = ssl.PEM_cert_to_DER_cert(file.read_text())
        fingerprint = sha256(der).hexdigest()
        taken = run("trust", "gigachat", "--file", str(file), "--fingerprint", fingerprint)
        assert (taken.code, taken.err) == (0, "")
        assert run("trust", "gigachat", "--list").out == taken.out
        assert run("trust", "gigachat", "--remove").out.startswith("removed ")
        assert run("trust", "gigachat", "--list").out == ""

    def test_download(self, raw_server: RawServerFactory, ca: trustme.CA) -> None:
        """What is downloaded is taken in only with the right fingerprint."""
        der = ssl.PEM_cert_to_DER_cert(ca.cert_pem.bytes().decode())
        server = raw_server(http_response(body=der))
        options = ("trust", "gigachat", "--download", "--url", f"http://127.0.0.1:{server.port}/ca")
        assert run(*options).code == 2
        assert run(*options, "--fingerprint", sha256(der).hexdigest()).code == 0
        assert run("trust", "gigachat", "--download", "--list").code == 2


class TestHealth:
    def test_show_and_reset(self, at_sandbox: Sandbox) -> None:
        """A provider that failed is shown, without secrets, and forgotten on --reset."""
        at_sandbox.fail("chatglm", html=True)
        assert run("ask", "-p", "chatglm", "-p", "openai", "Why?").code == 0
        shown = run("health").out
        assert re.search(r"^ChatGLM +http://127\.0\.0\.1:\d+ +- +every ", shown, re.MULTILINE)
        assert run("health", "--reset").code == 0
        assert "No provider is in trouble" in run("health").out

    def test_whose_failure(self, at_sandbox: Sandbox) -> None:
        """A failure of one key is shown with the beginning of the key's hash."""
        at_sandbox.fail("openai", status=402)
        assert run("ask", "-p", "openai", "-p", "chatglm", "Why?").code == 0
        shown = run("health").out
        row = r"^OpenAICompatible +http://127\.0\.0\.1:\d+/v1 +\S+ +[0-9a-f]{8} +1 "
        assert re.search(row, shown, re.MULTILINE)

    @pytest.mark.parametrize("words", [("health",), ("health", "--reset")])
    def test_a_file_that_is_something_else(self, words: tuple[str, ...]) -> None:
        """A file that is none of ours is told in one line, and left alone."""
        path = health_file()
        path.parent.mkdir(parents=True, mode=0o700)
        path.write_text("mine")
        path.chmod(0o600)
        result = run(*words)
        assert result.code == 0
        assert result.err.count(str(path)) >= 1
        assert result.err.count("is not shared between processes") == 1
        assert path.read_text() == "mine"


class TestSandbox:
    def test_serves_until_it_is_told_to_end(self, home: Path) -> None:
        """It prints the environment first, serves with its faults, and ends on a signal."""
        options = ("--fail", "openai=402", "--fail", "gigachat-token=503", "--delay", "0.001")
        with Running("sandbox", *options) as serving:
            lines = serving.read_until("DEEPSEEK_API_KEY=.*\n").splitlines()
            exported = dict(line.removeprefix("export ").split("=", 1) for line in lines)
            assert all(line.startswith("export ") for line in lines)
            env = {**exported, "GIGACHAT_CREDENTIALS": exported["GIGACHAT_CREDENTIALS"].strip("'")}
            assert run("ask", "-p", "openai", "Why?", env=env).code == 69
            assert run("ask", "-p", "openai", "Why?", env=env).code == 0
            serving.signal(signal.SIGTERM)
            result = serving.end()
        assert (result.code, result.err) == (143, "")
        assert result.out.splitlines() == lines

    def test_wrong_usage(self, sandbox: Sandbox) -> None:
        """An unknown fault and a port that is taken are told, the nearest word with it."""
        result = run("sandbox", "--fail", "chatglm=stal")
        assert result.code == 2
        assert "did you mean 'stall'?" in result.err
        result = run("sandbox", "--port", str(sandbox.port))
        assert result.code == 2
        assert str(sandbox.port) in result.err


class TestDemo:
    def test_tells_the_main_job(self, home: Path) -> None:
        """A stream, a failover, a reply that breaks off and a recovery, and each attempt.

        What the user has set for the real services does not reach the stand-ins.
        """
        settings = {
            "GIGACHAT_ACCESS_TOKEN": "expired",
            "GIGACHAT_MODEL": "retired",
            "LLMPROVIDERS_PROXY": "http://127.0.0.1:1",
        }
        result = run("demo", env=settings)
        assert (result.code, result.err) == (0, "")
        told = re.sub(r"\d+\.\d+ s", "N s", result.out)
        assert told.count("GigaChat (GigaChat-2): ServerError after N s") == 1
        assert told.count("GigaChat (GigaChat-2) after a wait of N s: ServerError") == 1
        assert told.count("This is the DeepSeek sandbox") == 1
        assert told.count("closed the connection early; the text above is void") == 1
        assert told.count("StreamInterrupted") == 2
        assert "\x1b" not in told


ASKING = [
    ("ask", "Why?"),
    ("ask", "--json", "Why?"),
    ("ask", "-o", "out", "Why?"),
    ("chat",),
    ("batch", "in.jsonl", "-o", "out.jsonl"),
    ("models",),
]

WAYS = ("OPENAI_API_KEY", "config init", "ask -p ollama", "-p chatglm", "demo")


class TestNobodyNamed:
    """Where neither a configuration nor the environment names anybody."""

    @pytest.fixture
    def proxied(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
        """A listener through which every request would have to go."""
        with socket.create_server(("127.0.0.1", 0)) as listener:
            proxy = f"http://127.0.0.1:{listener.getsockname()[1]}"
            monkeypatch.setenv("HTTPS_PROXY", proxy)
            monkeypatch.setenv("HTTP_PROXY", proxy)
            yield listener
            listener.setblocking(False)
            with pytest.raises(BlockingIOError):
                listener.accept()

    @pytest.mark.parametrize("configuration", [None, "[failover]\nattempts = 2\n"])
    @pytest.mark.parametrize("words", ASKING, ids=" ".join)
    def test_nothing_is_sent(
        self,
        proxied: socket.socket,
        home: Path,
        configure: Configure,
        tmp_path: Path,
        words: tuple[str, ...],
        configuration: str | None,
    ) -> None:
        """A prompt goes to nobody: 77, and the ways to go on."""
        if configuration is not None:
            configure(configuration)
        (tmp_path / "in.jsonl").write_text('{"prompt": "Why?"}\n')
        result = run(*words, cwd=tmp_path)
        assert (result.code, result.out != "") == (77, "--json" in words)
        for way in WAYS:
            assert way in result.err + result.out
        assert "Traceback" not in result.err
        assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]
        assert {path.name for path in home.iterdir()} <= {"given.toml"}

    @pytest.mark.parametrize("ask", [FailoverClient.from_config, lambda: show("Why?")])
    @pytest.mark.parametrize("configuration", [None, "", "[failover]\nattempts = 2\n"])
    def test_nothing_is_sent_from_a_program(
        self,
        proxied: socket.socket,
        configure: Configure,
        ask: Callable[[], object],
        configuration: str | None,
    ) -> None:
        """``from_config`` and ``show`` ask no guest either, and tell the same ways."""
        if configuration is not None:
            configure(configuration)
        with pytest.raises(ConfigError) as caught:
            ask()
        assert all(way in str(caught.value) for way in WAYS)

    @pytest.mark.parametrize(
        ("configuration", "said"),
        [
            ('[[provider]]\ntype = "chatglm"\nwrong = 1\n', "given.toml:3: unknown key 'wrong'"),
            ('[[provider]]\ntype = "chatglm"\nproxy = "ftp://p:1"\n', "given.toml:3: "),
            ("[[provider", "given.toml: this is not TOML"),
        ],
    )
    @pytest.mark.parametrize("words", ASKING, ids=" ".join)
    def test_a_broken_configuration(
        self,
        proxied: socket.socket,
        configure: Configure,
        tmp_path: Path,
        words: tuple[str, ...],
        configuration: str,
        said: str,
    ) -> None:
        """A configuration that cannot be used is usage: its place is told and nobody is asked."""
        configure(configuration)
        (tmp_path / "in.jsonl").write_text('{"prompt": "Why?"}\n')
        result = run(*words, cwd=tmp_path)
        assert result.code == 2
        assert said in result.err + result.out
        assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]

    def test_doctor(self, proxied: socket.socket, configure: Configure) -> None:
        """Doctor says that nobody is named and probes nobody; likewise if the file is broken."""
        result = run("doctor", "--live")
        assert result.code == 1
        assert re.search("^FAIL  configuration: .*nobody to ask", result.out, re.MULTILINE)
        configure('[[provider]]\ntype = "chatglm"\nwrong = 1\n')
        result = run("doctor", "--live", env={"LLMPROVIDERS_FLOWGPT_BASE_URL": "http://flow.test"})
        assert result.code == 1
        assert "ChatGLM" not in result.out
        assert "FlowGpt" not in result.out

    def test_providers(self, proxied: socket.socket) -> None:
        """--check asks no guest that nobody named, and says so."""
        result = run("providers", "--check")
        [line] = [line for line in result.out.splitlines() if line.startswith("ChatGLM")]
        assert line.endswith("not asked")
        [check] = [
            row["check"]
            for row in json.loads(run("providers", "--check", "--json").out)
            if row["name"] == "ChatGLM"
        ]
        assert check is None


class TestDoctor:
    def test_all_is_well(self, at_sandbox: Sandbox) -> None:
        """Each check is a line with its outcome; without a problem the code is 0."""
        options = [option for name in SERVED for option in ("-p", name)]
        result = run("doctor", "--live", *options)
        assert (result.code, result.err) == (0, "")
        lines = result.out.splitlines()
        assert all(line.startswith(("OK    ", "WARN  ", "      do: ")) for line in lines)
        topics = {line[6:].partition(":")[0] for line in lines if line.startswith("OK")}
        assert {
            "Python",
            "configuration",
            "proxy",
            "GigaChat, key",
            "GigaChat, connection",
            "GigaChat, clock",
            "GigaChat, reply",
            "token cache",
            "health file",
        } <= topics

    def test_offline_connects_to_nothing(self, at_sandbox: Sandbox) -> None:
        """--offline checks what can be checked here; --live beside it is wrong usage."""
        assert run("doctor", "--offline").code == 0
        assert at_sandbox.count() == 0
        assert run("doctor", "--offline", "--live").code == 2

    def test_problems_have_remedies(self, configure: Configure, home: Path) -> None:
        """A bad key, a missing certificate, an open key file, an unreachable proxy: what to do."""
        (home / "key").write_text("sk-secret-secret")
        (home / "key").chmod(0o644)
        configure(
            '[[provider]]\ntype = "gigachat"\nproxy = "socks5://127.0.0.1:1"\n\n'
            '[[provider]]\ntype = "openai"\napi_key_file = "key"\n\n'
            '[[provider]]\ntype = "chatgptt"\n'
        )
        result = run("doctor", "--offline", env={"GIGACHAT_CREDENTIALS": "id:secret"})
        assert (result.code, result.err) == (1, "")
        lines = result.out.splitlines()
        remedies = {
            line[6:].partition(": ")[0]: below.strip()
            for line, below in pairwise(lines)
            if not line.startswith("OK") and below.startswith("      do: ")
        }
        assert remedies["configuration"] == f"do: chmod 600 {home / 'key'}"
        assert remedies["GigaChat, key"].startswith("do: set GIGACHAT_CREDENTIALS")
        assert remedies["GigaChat, certificates"] == "do: llmproviders trust gigachat --download"
        assert remedies["proxy"] == "do: write socks5h:// to leave that to the proxy"
        assert "ChatGptt" in remedies
        assert not [line for line in lines if line.startswith("FAIL") and "do: " not in result.out]

    def test_each_problem_is_told_once(self, configure: Configure, home: Path) -> None:
        """What two providers share is one line: their key file is open to others."""
        (home / "key").write_text("sk-secret-secret")
        (home / "key").chmod(0o644)
        configure(
            '[[provider]]\ntype = "openai"\napi_key_file = "key"\n\n'
            '[[provider]]\ntype = "openai"\nname = "second"\napi_key_file = "key"\n'
        )
        result = run("doctor", "--offline")
        assert result.out.count(f"do: chmod 600 {home / 'key'}") == 1

    def test_a_broken_configuration(self, configure: Configure) -> None:
        """A configuration that cannot be read is one FAIL among the other checks."""
        configure("[[provider]\n")
        result = run("doctor", "--offline")
        assert result.code == 1
        assert re.search(r"^FAIL  configuration: .*:1: this is not TOML", result.out, re.MULTILINE)
        assert not re.search("ChatGLM|GigaChat", result.out)
        assert 'do: edit it: $EDITOR "$(llmproviders config path)"' in result.out

    def test_a_configuration_that_was_named(self, home: Path) -> None:
        """What to do is about the file that was named, and a missing one can be made so."""
        path = home / "its own.toml"
        result = run("doctor", "--offline", "--config", str(path))
        told = " ".join(result.out.split())
        assert f"do: make it: llmproviders config init --config '{path}'" in told
        path.write_text("[[provider]\n")
        told = " ".join(run("doctor", "--offline", "--config", str(path)).out.split())
        assert f"""do: edit it: $EDITOR "$(llmproviders config path --config '{path}')\"""" in told

    def test_a_wrong_clock(self, configure: Configure) -> None:
        """A clock that is ten minutes off fails, and by how much is told."""
        import time

        with Sandbox(clock=lambda: time.time() + 600) as sandbox:
            result = run("doctor", "-p", "chatglm", env=sandbox.environ())
        assert result.code == 1
        assert re.search(r"FAIL  ChatGLM, clock: (599|600|601) s behind the service's", result.out)


def test_an_empty_list_of_models(at_sandbox: Sandbox) -> None:
    """A service without models is said to have none; nothing stands on standard output."""
    at_sandbox.fail("openai", body={"object": "list", "data": []}, status=200, times=2, on="models")
    result = run("models", "openai")
    assert (result.code, result.out) == (0, "")
    assert result.err == "llmproviders: OpenAICompatible lists no models\n"
    assert run("models", "openai", "--json").out == "[]\n"


START = {
    "ollama": "ollama serve",
    "lmstudio": "lms server start",
    "llamacpp": "llama-server -m MODEL.gguf",
    "vllm": "vllm serve MODEL",
}


class TestLocalPrograms:
    @pytest.mark.parametrize("program", START)
    def test_one_that_is_not_running(
        self, configure: Configure, refused_port: int, program: str
    ) -> None:
        """``ask`` says that nothing listens there, and the command that starts the program."""
        address = f"http://127.0.0.1:{refused_port}"
        configure(f'[[provider]]\ntype = "{program}"\nbase_url = "{address}/v1"\nmodel = "m"\n')
        result = run("ask", "Hi")
        assert result.code == 75
        assert f"nothing listens at {address}; start it: `{START[program]}`" in result.err
        assert f"do: start it: {START[program]}" in run("doctor").out

    def test_a_model_that_was_not_fetched(
        self, configure: Configure, raw_server: RawServerFactory
    ) -> None:
        """``ask`` says how to fetch a model that Ollama lacks, and to name one where none is."""
        words = b'{"error": {"message": "model \\"llama9\\" not found, try pulling it first"}}'
        lacks = http_response(404, {"Content-Type": "application/json"}, words)
        server = raw_server(keep_alive(lacks))
        configure(f'[[provider]]\ntype = "ollama"\nbase_url = "{server.url}/v1"\n')
        result = run("ask", "-m", "llama9", "Hi")
        assert result.code == 2
        assert "`ollama pull llama9` fetches it" in result.err
        unnamed = run("ask", "Hi")
        assert "name one with model=" in unnamed.err
        assert "ollama pull" not in unnamed.err
