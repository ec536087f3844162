"""What a script prints that catches nothing."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import pytest

import llmproviders
from llmproviders import AllProvidersFailed, FailoverClient, OpenAICompatible

SCRIPT = """\
from llmproviders import FailoverClient, OpenAICompatible
down = [OpenAICompatible(base_url=f"http://127.0.0.1:{port}/v1", name=n) for n in ("a", "b")]
client = FailoverClient(down, attempts=1)
{call}
"""


@pytest.mark.parametrize(
    "call", ["client.complete('Hi')", "print(*client.stream('Hi'))"], ids=["complete", "stream"]
)
def test_an_uncaught_failure_is_short(call: str, refused_port: int, tmp_path: Path) -> None:
    """It names the line of the script and each provider, not what the libraries went through."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.replace("{port}", str(refused_port)).replace("{call}", call))
    done = subprocess.run(
        [sys.executable, script],
        capture_output=True,
        text=True,
        timeout=60,
        env={"PYTHONPATH": str(Path(llmproviders.__file__).parents[1])},
    )
    told = done.stderr.splitlines()
    assert done.returncode == 1
    assert len(told) <= 16
    assert f'"{script}", line 4' in done.stderr
    assert [line.split(":")[0].strip() for line in told[-2:]] == ["a", "b"]
    assert "urllib3" not in done.stderr


def test_the_log_has_all_of_it(refused_port: int, caplog: pytest.LogCaptureFixture) -> None:
    """At DEBUG each provider's error is logged with its traceback, the libraries' included."""
    caplog.set_level(logging.DEBUG, logger="llmproviders")
    url = f"http://127.0.0.1:{refused_port}/v1"
    with (
        FailoverClient([OpenAICompatible(base_url=url)], attempts=1) as client,
        pytest.raises(AllProvidersFailed) as caught,
    ):
        client.complete("Hi")
    assert "urllib3" in caplog.text
    error = caught.value.attempts[0].error
    assert error is not None
    assert error.__cause__ is not None
