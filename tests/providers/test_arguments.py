"""The arguments that every provider takes, whatever others it has."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import requests

from llmproviders import Cached, FailoverClient, ProtocolError, Provider
from llmproviders.notebook import show
from llmproviders.provider import Limits
from llmproviders.sandbox import Sandbox
from tests.support.promise import read
from tests.support.proxies import Proxy
from tests.support.served import SERVED


def made(service: str, sandbox: Sandbox, **arguments: Any) -> Provider:
    """A provider that speaks to the sandbox."""
    return SERVED[service](**sandbox.provider_arguments(service), **arguments)


@pytest.mark.parametrize("service", SERVED)
def test_proxy_and_session(sandbox: Sandbox, http_proxy: Proxy, service: str) -> None:
    """A proxy carries every request, be it named itself or by the session that sends them."""
    with requests.Session() as session:
        session.proxies = {"http": http_proxy.url()}
        for arguments in ({"proxy": http_proxy.url()}, {"session": session}):
            with made(service, sandbox, **arguments) as provider:
                assert read(provider.stream("Hi")).text
    assert sandbox.count(service, "chat") == 2
    assert len(http_proxy.targets) == sandbox.count()


@pytest.mark.parametrize("service", SERVED)
def test_name_timeout_and_limits(sandbox: Sandbox, service: str) -> None:
    """What it is called, how long a silence and how long a line may be is the caller's to say."""
    with made(service, sandbox, name="mine", timeout=(5, 6), limits=Limits(line=10)) as provider:
        assert provider.timeout == (5, 6)
        error = read(provider.stream("Hi")).error
    assert isinstance(error, ProtocolError)
    assert error.provider == "mine"
    assert "raise Limits.line" in str(error)


@pytest.mark.parametrize("public", [FailoverClient, Cached, show], ids=lambda one: one.__name__)
def test_a_clock_is_for_tests(public: Callable[..., object]) -> None:
    """No public signature shows the clock that only tests pass; every other keyword is there."""
    names = inspect.signature(public).parameters
    assert "clock" not in names
    assert {"name", "ttl", "note"} & names.keys()
