"""Importing the public names costs nothing and touches nothing."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

import pytest
import requests

import llmproviders
from llmproviders.providers import REGISTRY

NEVER_NEEDED = ("click", "tqdm", "dask", "tomllib", "llmproviders.sandbox")
"""What no call of a provider needs."""

NEEDED_FOR_STORES = ("filelock",)
NEEDED_BY_PROVIDERS = (
    "requests",
    "urllib3",
    "socks",
    "certifi",
    "ssl",
    "llmproviders._http.transport",
)
NEEDED_BY_CLIENTS = ("tenacity",)
NEEDED_FOR_LIMITS = ("sqlite3", "llmproviders._account.ledger")
HEAVY = (
    *(*NEVER_NEEDED, *NEEDED_FOR_STORES),
    *(*NEEDED_BY_PROVIDERS, *NEEDED_BY_CLIENTS),
)

WATCH = """
import json, os, sys
opened, events = [], []
def hook(event, args):
    if event == "open" and isinstance(args[0], (str, bytes)):
        opened.append(os.path.abspath(os.fsdecode(args[0])))
    elif event.startswith(("socket.", "subprocess.", "os.system", "urllib.")):
        events.append(event + repr(args))
before = set(sys.modules)
sys.addaudithook(hook)
{code}
loaded = sorted(set(sys.modules) - before)
print(json.dumps({{"opened": opened, "events": events, "modules": loaded}}))
"""
PUBLIC = "from llmproviders import " + ", ".join(llmproviders.__all__)
PROVIDERS = "from llmproviders import FailoverClient, "
PROVIDERS += ", ".join(kind.__name__ for kind in REGISTRY.values())
MAKING = PUBLIC + "\nFailoverClient([GigaChat(), ChatGLM(), ChatGptt(), FlowGpt()])\n"
MAKING += "OpenAICompatible(base_url='http://127.0.0.1:9/v1', proxy='http://127.0.0.1:9')"


def run(*arguments: str) -> str:
    """Run a fresh interpreter and return what it prints; on stderr it has to be silent."""
    result = subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": str(Path(llmproviders.__file__).parents[1])},
    )
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    return result.stdout


def watch(code: str) -> dict[str, Any]:
    """Run code in a fresh process and report what it opened, did and loaded."""
    seen: dict[str, Any] = json.loads(run("-c", WATCH.format(code=code)))
    return seen


@pytest.fixture(scope="module")
def imported() -> dict[str, Any]:
    """What importing the public names did."""
    return watch(PUBLIC)


@pytest.fixture(scope="module", params=["import", "make"])
def seen(request: pytest.FixtureRequest, imported: dict[str, Any]) -> dict[str, Any]:
    """What importing the public names did, and what making every provider did."""
    return imported if request.param == "import" else watch(MAKING)


def test_no_socket_no_process(seen: dict[str, Any]) -> None:
    """Neither a socket nor a process comes to be.

    But for the one with which urllib3, as it loads, finds out whether this machine has IPv6.
    """
    probe = ["socket.__new__", "socket.bind"]
    events = [event.partition("(")[0] for event in seen["events"]]
    assert events in ([], probe)
    assert all("'::1'" in event for event in seen["events"][1:])


def test_no_file_of_the_user(seen: dict[str, Any]) -> None:
    """Only Python's own files and the package's are opened: no configuration, no netrc, no key.

    But for what filelock, as it loads, finds out about this machine, in a temporary file for one.
    """
    probes = re.compile(rf"/proc/sys/kernel/|{tempfile.gettempdir()}/(tmp)?\w{{8}}(/probe-\w+)?$")
    prefixes = {Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib", "purelib")}
    prefixes |= {Path(llmproviders.__file__).parent, Path(requests.__file__).parents[1]}
    strangers = [
        path
        for path in seen["opened"]
        if not any(Path(path).is_relative_to(prefix) for prefix in prefixes)
        and not path.startswith("/dev/")
        and not probes.match(path)
    ]
    assert strangers == []


@pytest.mark.parametrize("name", HEAVY)
def test_importing_loads_nothing_heavy(name: str, imported: dict[str, Any]) -> None:
    """What is heavy is not loaded by importing the public names."""
    assert name not in imported["modules"]


@pytest.mark.parametrize(
    ("code", "loaded"),
    [
        ("OpenAICompatible()", NEEDED_BY_PROVIDERS),
        ("ChatGLM(), ChatGptt(), FlowGpt()", NEEDED_BY_PROVIDERS),
        ("GigaChat()", (*NEEDED_BY_PROVIDERS, *NEEDED_FOR_STORES)),
        ("FailoverClient([OpenAICompatible()])", (*NEEDED_BY_PROVIDERS, *NEEDED_BY_CLIENTS)),
        ("FailoverClient([OpenAICompatible()], health='health.json')", ("filelock",)),
        ("OpenAICompatible(per_day=9)", (*NEEDED_BY_PROVIDERS, *NEEDED_FOR_LIMITS)),
    ],
)
def test_what_is_made_loads_what_its_calls_need(code: str, loaded: tuple[str, ...]) -> None:
    """What a call needs is loaded when a provider or a client is made; what none needs is not."""
    modules = watch(f"{PROVIDERS}\n{code}")["modules"]
    assert set(loaded) <= set(modules)
    unneeded = set(NEVER_NEEDED)
    # Some releases of filelock load it.
    if not {"sqlite3", "filelock"} & set(loaded):
        unneeded |= {"sqlite3"}
    if "filelock" not in loaded:
        unneeded |= {"filelock"}
    if "tenacity" not in loaded and "FailoverClient" not in code:
        unneeded |= {"tenacity"}
    assert unneeded.isdisjoint(modules)


def test_importing_loads_next_to_nothing() -> None:
    """The package itself brings none of the modules that cost more than it does."""
    # Without site, whose customizations load what they like.
    loaded = run("-S", "-c", "import sys, llmproviders; print(*sys.modules)").split()
    costly = {"dataclasses", "inspect", "json", "logging", "threading", "urllib"}
    assert costly.isdisjoint(loaded)
    own = {name for name in loaded if name.startswith("llmproviders.")}
    assert own == {"llmproviders._version"}


def test_every_public_name_is_there() -> None:
    """``__all__`` names each thing that the package gives once, and each is documented."""
    assert len(set(llmproviders.__all__)) == len(llmproviders.__all__)
    for name in llmproviders.__all__:
        assert getattr(llmproviders, name).__doc__, name


def test_every_provider_is_there() -> None:
    """Each provider of the registry can be imported from the package, by its class's name."""
    for kind in REGISTRY.values():
        assert getattr(llmproviders, kind.__name__) is kind


def test_the_names_are_known_before_they_are_loaded() -> None:
    """``dir()`` tells of every public name and of the modules that users need; of nothing else."""
    watch("import llmproviders\nassert set(llmproviders.__all__) <= set(dir(llmproviders))")
    told = set(dir(llmproviders)) - set(llmproviders.__all__)
    assert told == {
        *("__version__", "batch", "conversation", "errors"),
        *("notebook", "providers", "sandbox", "testing"),
    }
    assert all(hasattr(llmproviders, name) for name in told)
    with pytest.raises(AttributeError, match="no attribute 'GigaChad'"):
        llmproviders.GigaChad  # type: ignore[attr-defined]  # noqa: B018


@pytest.mark.parametrize("name", REGISTRY)
def test_a_provider_loads_no_other(name: str) -> None:
    """A provider that is named brings what its class is made of, and no other provider."""
    kind = REGISTRY[name]
    code = f"from llmproviders.providers import find; find({name!r})"
    loaded = watch(f"from llmproviders import {kind.__name__}; {code}")["modules"]
    own = {base.__module__ for base in kind.__mro__}
    others = {other.__module__ for other in REGISTRY.values()} - own
    assert others.isdisjoint(loaded)


def test_pictures_are_loaded_when_they_are_drawn() -> None:
    """Importing the public names loads nothing that draws; showing a result does."""
    drawing = "llmproviders._display.html"
    assert drawing not in watch(PUBLIC)["modules"]
    assert (
        drawing in watch("from llmproviders import Attempts; Attempts()._repr_html_()")["modules"]
    )


def test_logging_is_silent_by_default() -> None:
    """A warning of the library prints nothing as long as nobody configured logging."""
    watch(
        "from llmproviders import FailoverClient, InvalidRequestError\n"
        "from llmproviders.testing import ScriptedProvider\n"
        "failing = ScriptedProvider([], error=InvalidRequestError('no', status_code=400))\n"
        "assert str(FailoverClient([failing, ScriptedProvider(['Hi'])]).complete('Hi')) == 'Hi'"
    )


def test_the_registry_looks_for_no_packages() -> None:
    """Finding a built-in provider reads no metadata of installed packages, which takes 5 ms."""
    seen = watch("from llmproviders.providers import find; find('openai')")
    assert "importlib.metadata" not in seen["modules"]
