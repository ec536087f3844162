"""Commands without a home folder, and in another user's."""

from __future__ import annotations

import importlib
import os
import ssl
import sys
import tempfile
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest
import trustme

from llmproviders.cli.overview import COMMANDS
from llmproviders.cli.run import run as run_command
from llmproviders.sandbox import Sandbox
from tests.reliability.childs import as_root, become_homeless, forked

pytestmark = as_root

ASK = ["ask", "-p", "gigachat", "Why?"]


def outcome(words: list[str], home: Path | str | None, folder: Path) -> tuple[int, str, str]:
    """What a command of a user without a name ends with and writes."""
    streams = [folder / name for name in ("out", "err")]
    for stream in streams:
        stream.write_text("")

    def child() -> int:
        for number, stream in enumerate(streams, 1):
            os.dup2(os.open(stream, os.O_WRONLY), number)
        become_homeless()
        if home is not None:
            os.environ["HOME"] = str(home)
        sys.stdin = open(os.devnull)  # noqa: SIM115
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
        code = run_command(words)
        sys.stdout.flush()
        return int(code)

    code = forked(child)
    return code, streams[0].read_text(), streams[1].read_text()


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """A folder outside pytest's own, which each new run of pytest closes to other users."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def let_in(folder: Path) -> None:
    """Let other users enter a folder for temporary files."""
    while folder != Path(tempfile.gettempdir()):
        folder.chmod(0o755)
        folder = folder.parent


def load() -> None:
    """Load the commands and what they load late, since a stranger may not read their files."""
    late = ("_strptime", "encodings.utf_8_sig", "llmproviders._http.certificates")
    for name in (*(f"llmproviders.cli.{command}" for command in COMMANDS), *late):
        importlib.import_module(name)


@pytest.fixture
def giga(at_sandbox: Sandbox) -> Sandbox:
    """A sandbox, and in memory all that the commands load, which a stranger may not read."""
    load()
    at_sandbox.client("gigachat").complete("Why?")
    return at_sandbox


@pytest.mark.parametrize(
    "words",
    [
        ASK,
        [*ASK, "-v"],
        ["providers"],
        ["models", "gigachat"],
        ["health"],
        ["health", "--reset"],
        ["config", "show"],
        ["trust", "gigachat", "--list"],
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("kind", ["none", "foreign"])
def test_commands_work_without_state(
    giga: Sandbox, tmp_path: Path, words: list[str], kind: str
) -> None:
    """Without a home folder, or in one that cannot be written, a command works and says so once."""
    home = None
    if kind == "foreign":
        home = tmp_path / "foreign"
        home.mkdir(mode=0o755)
        let_in(tmp_path)
    code, out, err = outcome(words, home, tmp_path)
    assert code == 0, err
    assert err.count("kept between runs") == ("-v" in words)
    assert "/dev/null" not in out + err
    assert "Traceback" not in err


def test_a_configuration_that_is_closed(giga: Sandbox, tmp_path: Path) -> None:
    """A configuration in another user's folder is told with its file and the way out."""
    home = tmp_path / "foreign"
    (home / ".config").mkdir(parents=True)
    home.chmod(0o700)
    let_in(tmp_path)
    code, out, err = outcome(ASK, home, tmp_path)
    assert (code, out) == (2, "")
    assert f"{home}/.config/llmproviders/config.toml cannot be read: Permission denied" in err
    assert "--config" in err
    code, out, _ = outcome(["doctor", "--offline"], home, tmp_path)
    assert code == 1
    assert "Permission denied" in out


NO_HOMES = [None, "", "/dev/null", "/dev/full", "/dev/null/deep", "/nowhere", "relative", "~"]


@pytest.mark.parametrize("home", NO_HOMES)
def test_the_doctor_tells_that_nothing_is_kept(
    giga: Sandbox, tmp_path: Path, home: str | None
) -> None:
    """Without a folder for them, the doctor warns once that no files are kept, and what to do."""
    _, out, err = outcome(["doctor", "--offline", "-p", "gigachat"], home, tmp_path)
    # Before that it looks at the libraries, whose files a stranger may not read.
    _, _, out = out.partition("configuration: ")
    assert "FAIL" not in out + err
    assert out.count("WARN") == out.count("nothing is kept between runs") == 1
    assert "do: set HOME to a folder of your own" in out
    assert "/dev/null/.c" not in out
    assert "rm " not in out


@pytest.mark.parametrize("home", NO_HOMES)
def test_a_certificate_has_no_place(tmp_path: Path, home: str | None) -> None:
    """Without a folder for it, a certificate is not taken in, and the way to use it is told."""
    ca = trustme.CA()
    der = ssl.PEM_cert_to_DER_cert(ca.cert_pem.bytes().decode())
    path = tmp_path / "root.pem"
    path.write_bytes(ca.cert_pem.bytes())
    let_in(tmp_path)
    load()
    words = ["trust", "gigachat", "--file", str(path), "--fingerprint", sha256(der).hexdigest()]
    code, out, err = outcome(words, home, tmp_path)
    assert (code, out) == (2, ""), err
    assert "cannot be kept; set HOME, or name it with ca_bundle" in err
    assert "/dev/null/.c" not in err


def test_files_that_have_another_place(giga: Sandbox, tmp_path: Path) -> None:
    """Without a home folder the files that the configuration names are still used."""
    kept = tmp_path / "kept"
    kept.mkdir()
    kept.chmod(0o777)
    let_in(tmp_path)
    configuration = tmp_path / "config.toml"
    configuration.write_text(
        '[[provider]]\ntype = "gigachat"\ntoken_cache = "kept/tokens.json"\n'
        '[failover]\nhealth = "kept/health.json"\n'
    )
    code, _, err = outcome([*ASK, "--config", str(configuration)], None, tmp_path)
    assert (code, err) == (0, "")
    assert (kept / "tokens.json").stat().st_size > 0
    code, out, _ = outcome(["health", "--config", str(configuration)], None, tmp_path)
    assert code == 0
    assert str(kept) in out


def test_a_configuration_has_no_place(giga: Sandbox, tmp_path: Path) -> None:
    """Without a home folder no configuration is made, and none is said to be in /dev/null."""
    for words in (["config", "init"], ["config", "path"]):
        code, out, err = outcome(words, None, tmp_path)
        assert (code, out) == (2, "")
        assert "no home folder" in err
        assert "--config" in err
