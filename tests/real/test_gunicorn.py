"""A web application under gunicorn's gevent workers."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import ProxyHandler, build_opener

import pytest
import trustme

from tests.conftest import RawServerFactory
from tests.real.test_patched_sockets import answer
from tests.support.rawserver import Stall

pytestmark = pytest.mark.real_programs

APP = """
import json, os
from llmproviders import FailoverClient, LLMError, OpenAICompatible

urls, bundle = json.loads(os.environ["URLS"]), os.environ["BUNDLE"]
clients = {
    path: FailoverClient(
        [OpenAICompatible(base_url=url, api_key="k", ca_bundle=bundle, max_concurrency=2)],
        deadline=1.5 if path == "/silent" else 60,
        hedge_after=None,
    )
    for path, url in urls.items()
}
if os.environ["WARM"]:
    clients["/plain"].complete("hi")
    clients["/tls"].complete("hi")

def app(environ, start_response):
    try:
        status, text = "200 OK", clients[environ["PATH_INFO"]].complete("hi").text
    except LLMError as error:
        status, text = "503 Failed", type(error).__name__
    start_response(status, [("Content-Type", "text/plain")])
    return [text.encode()]
"""

START_S = 60.0


@contextmanager
def serving(python: str, folder: Path, environ: dict[str, str], *options: str) -> Iterator[str]:
    """Serve the application; yield its address."""
    (folder / "shop.py").write_text(APP)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.set_inheritable(True)
        command = [python, "-m", "gunicorn", "-k", "gevent", "-b", f"fd://{listener.fileno()}"]
        with subprocess.Popen(
            [*command, *options, "shop:app"],
            cwd=folder,
            env={**os.environ, **environ},
            pass_fds=[listener.fileno()],
        ) as process:
            try:
                yield f"http://127.0.0.1:{listener.getsockname()[1]}"
            finally:
                process.terminate()


def get(url: str) -> str:
    """What a visitor sees."""
    try:
        with build_opener(ProxyHandler({})).open(url, timeout=START_S) as reply:
            return reply.read().decode()  # type: ignore[no-any-return]
    except HTTPError as error:
        with error:
            return error.read().decode()


@pytest.mark.parametrize(
    ("warm", "options"), [("", []), ("", ["--preload"]), ("1", ["--preload", "-w", "2"])]
)
def test_gevent_workers(
    real_python: str,
    raw_server: RawServerFactory,
    ca: trustme.CA,
    ca_file: Path,
    tmp_path: Path,
    warm: str,
    options: list[str],
) -> None:
    """Every request is answered, also by a client that was made, or called, before the fork.

    Six visitors wait for a silent service at once, and each is told when the deadline has passed.
    """
    urls = {
        "/plain": f"{raw_server(answer).url}/v1",
        "/tls": f"{raw_server(answer, tls=ca).url}/v1",
        "/silent": f"{raw_server([Stall()], tls=ca).url}/v1",
    }
    environ = {"URLS": json.dumps(urls), "BUNDLE": str(ca_file), "WARM": warm}
    with (
        serving(real_python, tmp_path, environ, *options) as address,
        ThreadPoolExecutor(6) as visitors,
    ):
        for path, seen in (("/plain", "hello"), ("/tls", "hello"), ("/silent", "DeadlineExceeded")):
            assert [*visitors.map(get, [address + path] * 6)] == [seen] * 6
