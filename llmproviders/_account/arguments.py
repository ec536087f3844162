"""The arguments of every provider's constructor, and their checks."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping
from functools import wraps
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal, TypedDict, TypeVar, cast

from .._checks import shown, text
from .._http.types import Limits, Rate, Timeout
from .._redact import hidden
from .._runtime.files import check_path
from ..errors import InvalidRequestError
from .names import Place, about_unknown

if TYPE_CHECKING:
    import requests as requests
else:

    class _Requests:
        """Replaces requests in annotations; the library is imported when a provider is made."""

        def __getattr__(self, name: str) -> Any:
            return getattr(import_module("requests"), name)

    requests = _Requests()


T = TypeVar("T")

F = TypeVar("F", bound=Callable[..., Any])

PathLike = str | os.PathLike[str]

Cert = PathLike | tuple[PathLike, PathLike]


class ProviderArguments(TypedDict, total=False):
    """The arguments that every provider's constructor takes; see ``Provider``."""

    base_url: str | None
    model: str | None
    proxy: str | None
    timeout: Timeout | None
    session: requests.Session | None
    headers: Mapping[str, str] | None
    ca_bundle: PathLike | None
    verify: bool | None
    cert: Cert | None
    trust: Literal["system"] | None
    per_minute: Rate | int | None
    per_day: Rate | int | None
    name: str | None
    limits: Limits | None


def masked(arguments: ProviderArguments) -> ProviderArguments:
    """The same object with its addresses as secrets: tracebacks may show local variables."""
    for name in ("base_url", "proxy"):
        if name in arguments:
            arguments[name] = hidden(arguments[name])
    return arguments


def spell_out(function: Any, behind: Callable[..., Any]) -> None:
    """Show the keywords of another function instead of ``**`` in a function's signature.

    The configuration, IPython and the documentation read signatures.
    """
    own = inspect.signature(function)
    named = [p for p in own.parameters.values() if p.kind is not p.VAR_KEYWORD]
    if len(named) == len(own.parameters):
        return
    named += [
        parameter
        for parameter in inspect.signature(behind).parameters.values()
        if parameter.kind is parameter.KEYWORD_ONLY and parameter.name not in own.parameters
    ]
    function.__signature__ = own.replace(parameters=named)


def refuses_unknown(place: Place) -> Callable[[F], F]:
    """Decorate a constructor so that an argument that it lacks is a ``TypeError`` with advice.

    Args:
        place: what it makes, for the advice.
    """

    def decorate(function: F) -> F:
        taken = inspect.signature(function).parameters

        # Warnings count the frames of this name.
        @wraps(function)
        def __init__(self: Any, *args: Any, **arguments: Any) -> None:  # noqa: N807
            masked(cast("ProviderArguments", arguments))
            for name in arguments:
                if name not in taken:
                    known = list(inspect.signature(type(self)).parameters)
                    advice = about_unknown(name, known, place) or f"; it has: {', '.join(known)}"
                    raise TypeError(f"{type(self).__name__} has no argument {name!r}{advice}")
            function(self, *args, **arguments)

        return cast("F", __init__)

    return decorate


def for_tests(*names: str) -> Callable[[F], F]:
    """Hide keywords that only tests pass, such as a clock, from a function's signature.

    Args:
        names: the keywords.
    """

    def leave_out(function: F) -> F:
        own = inspect.signature(function)
        shown = [p for p in own.parameters.values() if p.name not in names]
        function.__signature__ = own.replace(parameters=shown)  # type: ignore[attr-defined]
        return function

    return leave_out


def spelled_out(keywords: Any, *, without: str | None = None) -> Callable[[F], F]:
    """Decorate a function so that its signature shows the keywords in its ``**``.

    IPython's Shift-Tab and completion read signatures but do not understand ``Unpack``.

    Args:
        keywords: a ``TypedDict`` of the keywords.
        without: one of them that the function does not take.
    """

    def decorate(function: F) -> F:
        own = inspect.signature(function)
        *named, rest = own.parameters.values()
        listed = [
            inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                default=None,
                annotation=getattr(hint, "__forward_arg__", hint),
            )
            for name, hint in keywords.__annotations__.items()
            if name not in own.parameters and name != without
        ]
        # Type checkers and ``inspect`` still see the original.
        decorated: Any = function
        decorated.__signature__ = own.replace(parameters=[*named, *listed, rest])
        return function

    return decorate


def signature_of(method: Callable[..., Any]) -> inspect.Signature:
    """The signature of a method as callers see it, without ``self``."""
    own = inspect.signature(method)
    return own.replace(parameters=[*own.parameters.values()][1:])


def instance(argument: str, value: T | None, kind: type[T]) -> T | None:
    """Check that an argument is an instance of ``kind`` or None.

    Raises:
        InvalidRequestError: it is something else.
    """
    if value is None or isinstance(value, kind):
        return value
    raise InvalidRequestError(
        f"{argument} must be a {kind.__module__}.{kind.__qualname__}, not {shown(value)}"
    )


def file_path(argument: str, given: object) -> str:
    """The path of a file, ``~`` expanded.

    Raises:
        InvalidRequestError: it is not a path.
    """
    if not isinstance(given, (str, os.PathLike)):
        raise InvalidRequestError(f"{argument} must be the path of a file, not {shown(given)}")
    path = text(argument, os.fspath(given))
    check_path(argument, path)
    return os.path.expanduser(path)


def client_certificate(given: object) -> str | tuple[str, str] | None:
    """The file of a client certificate, or a pair of files for the certificate and its key.

    Raises:
        InvalidRequestError: it is neither.
    """
    if given is None:
        return None
    if not isinstance(given, (tuple, list)):
        return file_path("cert", given)
    if len(given) != 2:
        raise InvalidRequestError("cert must be a file, or a pair (certificate, key) of files")
    certificate, key = given
    return file_path("cert", certificate), file_path("cert", key)
