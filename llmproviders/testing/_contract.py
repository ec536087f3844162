"""Checks that a provider does what its attributes say."""

from __future__ import annotations

import inspect
import pickle
from base64 import b64encode
from collections.abc import Callable
from typing import Any

from .._redact import is_telling
from ..errors import LLMError, ModelNotFoundError, UnsupportedError
from ..provider import Provider
from ._golden import QUESTION, Before
from ._http_bytes import http_response
from ._promise import require
from ._raw_server import RawConnection, RawServer

# Words that no request contains by itself, and that no encoding of a body changes.
_TOOL, _FIELD, _IMAGE, _SYSTEM, _BEFORE = "kangaroo", "wallaby", b"QUOKKA", "wombat", "dingo"

_PICTURE = b"\x89PNG\r\n\x1a\n" + _IMAGE

_PARAMETERS = {"type": "object", "properties": {_FIELD: {"type": "string"}}}

_FUNCTION = {"name": _TOOL, "description": "An animal.", "parameters": _PARAMETERS}

_LOOK = [
    {"type": "text", "text": QUESTION},
    {
        "type": "image_url",
        "image_url": {"url": f"data:image/png;base64,{b64encode(_PICTURE).decode()}"},
    },
]

_ASKS: dict[str, tuple[dict[str, Any], tuple[bytes, ...]]] = {
    "supports_tools": (
        {"tools": [{"type": "function", "function": _FUNCTION}]},
        (_TOOL.encode(),),
    ),
    "supports_schema": (
        {
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "animal", "schema": _PARAMETERS},
            }
        },
        (_FIELD.encode(),),
    ),
    "supports_images": (
        {"prompt": [{"role": "user", "content": _LOOK}]},
        (_IMAGE, b64encode(_PICTURE).rstrip(b"=")),
    ),
}
"""Attribute -> arguments that use it, and one of the words that then have to be sent."""

_TALK = [
    {"role": "system", "content": f"Be a {_SYSTEM}."},
    {"role": "user", "content": f"Hello, {_BEFORE}."},
    {"role": "assistant", "content": "Hello."},
    {"role": "user", "content": QUESTION},
]

_HOW: dict[str, Any] = {
    "temperature": 1,
    "top_p": 1,
    "max_tokens": 9,
    "stop": ["END"],
    "seed": 1,
    "n": 1,
    "presence_penalty": 1,
    "frequency_penalty": 1,
    "repetition_penalty": 1,
    "reasoning_effort": "low",
    "profanity_check": True,
}
"""Sampling parameters, with values that every service accepts."""

_ATTRIBUTES = {
    "url": str,
    "default_model": str,
    **dict.fromkeys(("working", "needs_auth", "supports_stream", *_ASKS), bool),
}


def check_provider(make: Callable[[str], Provider], *, before: Before | None = None) -> None:
    """Fail unless a provider does what its attributes say.

    It must have the attributes and take the arguments of every provider, know its own models,
    survive pickling, and show no key in its ``repr``. It must send what it claims to support, and
    raise an ``UnsupportedError`` for the rest before sending anything. It must send a system
    prompt and the earlier turns, and leave out parameters that it does not take.

    Args:
        make: makes the provider for a server at an address such as ``"http://127.0.0.1:8123"``;
            with a key, if it needs one. Its class must be at the top of a module.
        before: answers the requests that the provider sends before a chat; see ``check_golden``.

    Raises:
        AssertionError: one of these does not hold.

    >>> from llmproviders import OpenAICompatible
    >>> check_provider(lambda url: OpenAICompatible(base_url=url, api_key="k"))
    """
    with RawServer(_refusing(before)) as server, make(server.url) as provider:
        _check_attributes(provider)
        _check_models(provider)
        _check_pickle(provider)
        for attribute, (question, words) in _ASKS.items():
            _check_ability(provider, server, attribute, question, words)
        sent = _sent(provider, server, {"prompt": _TALK})[1]
        for word in (_SYSTEM, _BEFORE):
            require(word.encode() in sent, f"a conversation was sent without {word!r} from it")
        error, sent = _sent(provider, server, _HOW)
        require(bool(sent), f"parameters that it does not take are not left out: {error!r}")


def _refusing(before: Before | None) -> Callable[[RawConnection], None]:
    refusal = http_response(503, {"Content-Type": "application/json"}, b"{}")

    def answer(connection: RawConnection) -> None:
        while not connection.closed:
            request = connection.read_request()
            answered = before(request) if before is not None else None
            connection.run(refusal if answered is None else answered)

    return answer


def _check_attributes(provider: Provider) -> None:
    for name, kind in _ATTRIBUTES.items():
        value = getattr(provider, name, None)
        require(isinstance(value, kind), f"{name} is {value!r}, which is not a {kind.__name__}")
    common = inspect.signature(Provider).parameters
    own = inspect.signature(type(provider)).parameters
    missing = [n for n in common if n not in own]
    require(not missing, f"it takes no {', '.join(missing)}: pass **arguments on")


def _check_models(provider: Provider) -> None:
    for name in (None, *provider.models, *provider.model_aliases):
        try:
            require(bool(provider.get_model(name)), f"get_model({name!r}) returns nothing")
        except ModelNotFoundError as error:
            raise AssertionError(f"it does not have a model that it lists: {error}") from error
    if not provider.open_catalogue:
        try:
            found = provider.get_model("no-such-model")
        except ModelNotFoundError:
            return
        raise AssertionError(
            f"get_model() accepts an unknown model, as {found!r}: set open_catalogue = True"
        )


def _check_pickle(provider: Provider) -> None:
    copied = pickle.loads(pickle.dumps(provider))  # noqa: S301 - it was pickled here
    for name in ("name", "base_url", "model", "timeout", "headers"):
        value, other = getattr(provider, name), getattr(copied, name)
        require(value == other, f"out of a pickle, its {name} is {other!r}, not {value!r}")
    require(type(copied) is type(provider), f"out of a pickle, it is a {type(copied).__name__}")
    for name, value in provider._given.kwargs.items():
        if is_telling(name) and isinstance(value, str):
            require(value not in repr(provider), f"its repr shows {name}")


def _check_ability(
    provider: Provider,
    server: RawServer,
    attribute: str,
    question: dict[str, Any],
    words: tuple[bytes, ...],
) -> None:
    error, sent = _sent(provider, server, question)
    if not getattr(provider, attribute):
        refused = isinstance(error, UnsupportedError) and not sent
        require(refused, f"{attribute} is False, but a request for it is not refused: {error!r}")
        return
    found = any(word in sent for word in words)
    require(found, f"{attribute} is True, but a request for it is not sent: {error!r}")


def _sent(
    provider: Provider, server: RawServer, question: dict[str, Any]
) -> tuple[LLMError | None, bytes]:
    """The error that a call ended with, and the bodies sent for it."""
    seen = len(server.requests)
    error = None
    try:
        provider.complete(**{"prompt": QUESTION, **question})
    except LLMError as raised:
        error = raised
    return error, b"".join(
        request.target.encode() + request.body for request in server.requests[seen:]
    )
