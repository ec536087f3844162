"""Where the system allows a user no more threads: ``ulimit -u``, or a container's limit of pids."""

from __future__ import annotations

import logging
import resource
import sys
import threading
from io import StringIO

import pytest

from llmproviders import ChatGLM, FailoverClient, OpenAICompatible, batch
from llmproviders._log import logger
from llmproviders.sandbox import Sandbox
from tests.reliability.childs import as_root, become_nobody, forked

pytestmark = [
    as_root,
    pytest.mark.skipif(sys.platform != "linux", reason="threads count as processes on Linux alone"),
]


def let_no_thread_start() -> StringIO:
    """Allow this process no more threads; what the log then tells comes into what is returned."""
    resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
    # Nothing limits root.
    become_nobody()
    with pytest.raises(RuntimeError, match="new thread"):
        threading.Thread(target=print).start()
    told = StringIO()
    logger.addHandler(logging.StreamHandler(told))
    logger.setLevel(logging.DEBUG)
    return told


def by_name(sandbox: Sandbox) -> OpenAICompatible:
    """A provider whose address has to be looked up: resolvers know this form, and need no DNS."""
    base_url = sandbox.environ()["OPENAI_BASE_URL"].replace("127.0.0.1", "127.1")
    return OpenAICompatible(base_url=base_url, api_key=sandbox.environ()["OPENAI_API_KEY"])


def test_a_call(sandbox: Sandbox) -> None:
    """Names are looked up in place, hedging is left out, and the log tells of both at DEBUG."""
    glm = ChatGLM(base_url=sandbox.environ()["LLMPROVIDERS_CHATGLM_BASE_URL"])
    sandbox.fail("chatglm", status=503, times=3)

    def ask() -> tuple[str, str]:
        told = let_no_thread_start()
        client = FailoverClient([glm, by_name(sandbox)], hedge_after=0.5, wait=lambda _: 0.0)
        return client.complete("Why?", deadline=60).provider, told.getvalue()

    provider, told = forked(ask)
    assert provider == "OpenAICompatible"
    assert "127.1 is resolved in place" in told
    assert "hedging is left out" in told


def test_a_batch(sandbox: Sandbox) -> None:
    """The caller's thread does the work of a batch, and of each request's waits for a slot."""

    def ask() -> list[str]:
        let_no_thread_start()
        results = batch.run(by_name(sandbox), ["one", "two", "three"], workers=2)
        return [type(result.error).__name__ for result in results]

    assert forked(ask) == ["NoneType"] * 3
