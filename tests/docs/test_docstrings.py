"""Every public name is described where it is defined: its arguments, its errors, an example."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import Any, get_args, get_type_hints

import pytest

import llmproviders
from llmproviders import batch, conversation, messages, notebook, provider, sandbox, testing
from llmproviders.config import _settings as config

# Steps of a script, names for annotations, and what is shown where it is used.
PLAIN = {"FRAMINGS", "Before", "Behaviour", "Handler", "Script", "RawConnection", "RawRequest"}
PLAIN |= {"Body", "Read", "Wait", "Pause", "Stall", "Reset", "Close", "Reading", "ClientGone"}

PUBLIC: dict[str, Any] = {
    f"{module.__name__}.{name}": getattr(module, name)
    for module, names in [
        (llmproviders, llmproviders.__all__),
        (batch, batch.__all__),
        (notebook, notebook.__all__),
        (sandbox, sandbox.__all__),
        (testing, [name for name in testing.__all__ if name not in PLAIN]),
        (conversation, ["Conversation"]),
        (config, ["ConfigError"]),
        (messages, ["fold", "normalize"]),
        (provider, ["Call", "Limits", "Reply", "Request"]),
    ]
    for name in names
}
# Made by the library, or plain data for those who write a provider; their use is shown there.
NO_EXAMPLE = {provider.Call, provider.Limits, provider.Reply, provider.Request}


def _is_error(value: Any) -> bool:
    return inspect.isclass(value) and issubclass(value, Exception)


def is_own(value: Any) -> bool:
    """Whether something was written here, not by Python or another library."""
    return str(getattr(value, "__module__", "")).startswith("llmproviders")


def members(cls: type) -> Iterator[tuple[str, Any]]:
    """Yield the public functions and properties that a class itself defines."""
    for name, value in vars(cls).items():
        if not name.startswith("_"):
            if isinstance(value, (classmethod, staticmethod)):
                yield name, value.__func__
            elif isinstance(value, (property, cached_property)) or inspect.isfunction(value):
                yield name, value


def described() -> Iterator[tuple[str, Any, list[str]]]:
    """Yield each name, what it is, and the docstrings in which its arguments may be told."""
    seen = set()
    for name, value in PUBLIC.items():
        if not isinstance(value, type):
            yield name, value, [inspect.getdoc(value) or ""]
            continue
        for cls in value.__mro__:
            if cls in seen or not is_own(cls):
                continue
            seen.add(cls)
            lineage = [base for base in cls.__mro__ if is_own(base)]
            own_name = name if cls is value else cls.__name__
            yield own_name, cls, [base.__doc__ or "" for base in lineage]
            for member, function in members(cls):
                above = [getattr(base, member, None) for base in lineage]
                yield f"{own_name}.{member}", function, [f.__doc__ or "" for f in above if f]


def parameters(value: Any) -> list[str]:
    """Return the names of what something is called with."""
    if isinstance(value, (property, cached_property)):
        return []
    try:
        signature = inspect.signature(value)
    except (TypeError, ValueError):
        return []
    elsewhere: Iterable[str] = ()
    rest = signature.parameters.get("params")
    if rest is not None and rest.kind is rest.VAR_KEYWORD:
        hints = get_type_hints(value.__init__ if isinstance(value, type) else value)
        elsewhere = get_args(hints["params"])[0].__annotations__
    names = [name for name in signature.parameters if name not in ("self", "cls", *elsewhere)]
    return [] if names == ["args", "kwargs"] else names


def raised(value: Any) -> set[str]:
    """Return the names of the errors that the code of a function itself makes and raises."""
    function = value.__init__ if isinstance(value, type) else value
    if not inspect.isfunction(function) or not is_own(function):
        return set()
    try:
        source = inspect.getsource(function)
    except OSError:  # made by dataclass
        return set()
    tree = ast.parse(textwrap.dedent(source))
    return {
        node.exc.func.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Raise)
        and isinstance(node.exc, ast.Call)
        and isinstance(node.exc.func, ast.Name)
        and node.exc.func.id[0].isupper()
    }


EVERY = pytest.mark.parametrize(
    ("value", "docs"),
    [pytest.param(value, docs, id=name) for name, value, docs in described()],
)


@EVERY
def test_what_it_takes(value: Any, docs: list[str]) -> None:
    """Each argument has its line under ``Args:``, or is named in the sentence that says it all."""
    assert docs[0]
    told = set()
    for doc in docs:
        told |= set(re.findall(r"``(\w+)``", doc))
        for names in re.findall(r"^ +([*\w, ]+): ", doc, re.MULTILINE):
            told |= {name.strip(" *") for name in names.split(",")}
    assert [name for name in parameters(value) if name not in told] == []


@EVERY
def test_what_it_raises(value: Any, docs: list[str]) -> None:
    """Each error that its own code raises is told under ``Raises:``."""
    told = "".join(doc.partition("Raises:")[2] for doc in docs)
    assert {error for error in raised(value) if error not in told} == set()


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(value, id=name)
        for name, value in PUBLIC.items()
        if value not in NO_EXAMPLE and not _is_error(value)
    ],
)
def test_how_it_is_used(value: Any) -> None:
    """Each class and function shows a use, which is run with the tests."""
    assert ">>> " in (value.__doc__ or "")
