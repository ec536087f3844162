"""What the page about cron prints works as it stands."""

from __future__ import annotations

import configparser
import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from llmproviders.sandbox import Sandbox
from tests.cli.process import command, environ

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "cron.md"
INSTALLED = "/opt/llmproviders/bin"


def block(mark: str) -> str:
    """Return the block of the page that contains ``mark``."""
    blocks = re.findall(r"```\w+\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    [found] = [text for text in blocks if mark in text]
    return str(found)


@pytest.fixture
def job(home: Path, sandbox: Sandbox, tmp_path: Path) -> dict[str, str]:
    """Set up what the page says, for the sandbox, and return a job's environment."""
    arguments = sandbox.provider_arguments("gigachat")
    folder = home / ".config" / "llmproviders"
    folder.mkdir(parents=True)
    line = 'api_key_file = "gigachat.key"\n'
    places = f'base_url = "{arguments["base_url"]}"\nauth_url = "{arguments["auth_url"]}"\n'
    settings = block('type = "chatglm"').replace(line, line + places)
    (folder / "config.toml").write_text(settings)
    (folder / "gigachat.key").write_text(arguments["api_key"])
    (folder / "gigachat.key").chmod(0o600)
    (home / "llm").mkdir()
    (home / "llm" / "questions.jsonl").write_text('{"id": "sky", "prompt": "Why?"}\n')
    (home / "llm" / "errors.log").write_text("disk full\n")
    # The command stands where the page says, on a path of the test's own.
    scripts = tmp_path / "bin"
    scripts.mkdir()
    script = scripts / "llmproviders"
    script.write_text(f'#!/bin/sh\nexec {shlex.join(command())} "$@"\n')
    script.chmod(0o755)
    only = {name: value for name, value in environ().items() if name == "PYTHONPATH"}
    return {"HOME": str(home), "PATH": f"{scripts}:/usr/bin:/bin", **only}


def test_crontab(job: dict[str, str], home: Path, sandbox: Sandbox) -> None:
    """The jobs succeed in cron's environment, print nothing, and share one token."""
    lines = [line for line in block("MAILTO").splitlines() if line and line[0] != "#"]
    assert lines[0] == f"PATH={INSTALLED}:/usr/bin:/bin"
    jobs = [line.split(maxsplit=5) for line in lines if re.match(r"[\d*]", line)]
    assert len(jobs) == 2
    for *when, run in jobs:
        assert len(when) == 5
        assert "%" not in run
        done = subprocess.run(
            ["/bin/sh", "-c", run],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env=job,
            cwd=home,
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    row = json.loads((home / "llm" / "replies.jsonl").read_text())
    assert (row["id"], row["provider"], row["error"]) == ("sky", "GigaChat", None)
    assert "disk full" in (home / "llm" / "report.txt").read_text()
    assert (home / "llm" / "batch.log").read_text().startswith("llmproviders: 1 done, ")
    assert sandbox.count("gigachat", "token") == 1


def test_systemd_units(job: dict[str, str], home: Path, tmp_path: Path) -> None:
    """The service's command succeeds in its folder; the timer is one that systemd takes."""
    units = {"llm-batch.service": block("ExecStart"), "llm-batch.timer": block("OnCalendar")}
    parsed = {}
    for name, text in units.items():
        (tmp_path / name).write_text(text)
        parsed[name] = configparser.RawConfigParser(strict=True)
        parsed[name].read_string(text)
    service = parsed["llm-batch.service"]["Service"]
    assert service["WorkingDirectory"] == "%h/llm"
    program, *arguments = shlex.split(service["ExecStart"])
    assert program == f"{INSTALLED}/llmproviders"
    done = subprocess.run(
        ["llmproviders", *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env=job,
        cwd=home / "llm",
        executable=job["PATH"].partition(":")[0] + "/llmproviders",
    )
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr.startswith("llmproviders: 1 done, ")
    assert parsed["llm-batch.timer"]["Timer"]["OnCalendar"] == "hourly"
    checker = shutil.which("systemd-analyze")
    if checker is not None:
        checked = subprocess.run(
            [checker, "calendar", "hourly"], capture_output=True, text=True, env=environ()
        )
        assert checked.returncode == 0


def test_script(job: dict[str, str], home: Path, sandbox: Sandbox) -> None:
    """The script in the page is silent where the next run may do, and complains otherwise."""
    script = block("case $?")
    folder = home / "llm"
    settings = home / ".config" / "llmproviders" / "config.toml"
    settings.write_text(settings.read_text() + "attempts = 1\n")
    for status, expected in [(None, (0, "")), (503, (0, "")), (402, (1, "no report today\n"))]:
        if status is not None:
            sandbox.fail("gigachat", status=status)
        asks = script.replace("ask ", "ask -p gigachat --no-state ")
        done = subprocess.run(
            ["/bin/sh", "-c", asks], capture_output=True, text=True, env=job, cwd=folder
        )
        said = done.stderr.splitlines(keepends=True)[-1:] if done.returncode else [""]
        assert (done.returncode, "".join(said)) == expected
        sandbox.heal()
