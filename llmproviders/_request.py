"""A caller's request, checked once and the same for every provider."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from numbers import Integral
from typing import Any, Literal, TypedDict

from ._account.names import about_unknown
from ._checks import FINITE, as_float, header_fields, seconds, shown, text, whole
from ._http.types import Timeout, check_proxy, check_timeout
from ._redact import conceal_fields
from .errors import InvalidRequestError
from .messages import Message, Prompt, has_images, normalize, text_of
from .results import Accept as Accept
from .schema import Schema
from .tools import tool_forms

if sys.version_info >= (3, 11):
    from typing import Self as Self
    from typing import Unpack as Unpack
else:
    from typing_extensions import Self as Self
    from typing_extensions import Unpack as Unpack


class SystemParam(TypedDict, total=False):
    """The keyword that is a separate argument when a conversation begins; see ``Params``."""

    system: str | None


class OtherParams(TypedDict, total=False):
    """The keywords of a call beside ``system`` and ``tools``; see ``Params``."""

    temperature: float | None
    top_p: float | None
    max_tokens: int | None
    max_completion_tokens: int | None
    stop: str | Sequence[str] | None
    seed: int | None
    n: int | None
    presence_penalty: float | None
    frequency_penalty: float | None
    repetition_penalty: float | None
    reasoning_effort: str | None
    profanity_check: bool | None
    session_id: str | None
    tool_choice: str | Mapping[str, Any] | None
    parallel_tool_calls: bool | None
    functions: Sequence[Mapping[str, Any]] | None
    function_call: str | Mapping[str, Any] | None
    response_format: Mapping[str, Any] | None
    schema: Any
    attach: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None
    reasoning: bool | None
    extra_headers: Mapping[str, str] | None
    extra_body: Mapping[str, Any] | None


class ParamsBesideTools(SystemParam, OtherParams, total=False):
    """The keywords of ``run``, where ``tools`` is a separate argument; see ``Params``."""


class Params(ParamsBesideTools, total=False):
    """The other keywords of a call: all but ``model``, ``timeout``, ``proxy``, ``deadline``,
    ``accept``.

    None is the same as leaving one out.

    Attributes:
        system: a system prompt, put before the messages.
        temperature, top_p, seed, stop, presence_penalty, frequency_penalty, repetition_penalty:
            how to sample.
        max_tokens: the most tokens in the reply; ``max_completion_tokens`` is the same.
        n: 1; every call returns one reply.
        reasoning_effort: how much to think, such as ``"low"``.
        profanity_check: whether GigaChat filters the reply.
        session_id: GigaChat's ``X-Session-ID``.
        tools, tool_choice, parallel_tool_calls: the functions that the model may call.
        functions, function_call: the older form of ``tools`` and ``tool_choice``.
        response_format: the format of the reply, in OpenAI's form.
        schema: what the reply has to satisfy.
        attach: paths of files for the model to look at.
        reasoning: whether a stream also yields the model's thinking.
        extra_headers: headers of this call.
        extra_body: fields of the JSON body, sent unchanged; None removes a field.
    """

    tools: Sequence[Any] | None


class ConversationParams(OtherParams, total=False):
    """The keywords of every turn of a conversation, which has its own ``system``."""

    tools: Sequence[Any] | None


class CallParams(TypedDict, total=False):
    """The keywords of every call that a client's signatures have in addition to ``Params``."""

    model: str | None
    timeout: Timeout | None
    proxy: str | None
    accept: Accept | None


class BatchParams(Params, CallParams, total=False):
    """The keywords of every request of a batch, whose ``deadline`` is the batch's own."""

    stream: Literal[False] | None


class StreamParams(Params, CallParams, total=False):
    """The keywords of ``stream``."""

    deadline: float | None


class CompleteParams(StreamParams, total=False):
    """The keywords of ``complete``."""

    stream: Literal[False] | None


class RunParams(ParamsBesideTools, CallParams, total=False):
    """The keywords of ``run`` in addition to those of the run itself."""

    deadline: float | None
    stream: Literal[False] | None


Reader = Literal["stream", "restarting", "completion", "run"]
"""Who reads a reply: a stream, one that can handle a ``Restart``, ``complete``, or ``run``."""

KNOWN = frozenset(Params.__annotations__)

_ELSEWHERE = {"system", "schema", "attach", "reasoning", "extra_headers", "extra_body"}

SAMPLING = KNOWN - _ELSEWHERE - {"session_id"}
"""The parameters that a service may have its own field for."""

_COUNTS = {"max_tokens", "max_completion_tokens", "seed", "n"}

_NUMBERS = {
    "temperature",
    "top_p",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
}


def check_names(names: Iterable[str]) -> None:
    """Raise a ``TypeError`` for the first unknown parameter, with what to pass instead."""
    for name in names:
        if name not in KNOWN:
            unknown = f"unknown parameter {name!r}"
            body = f"extra_body={{{name!r}: ...}}"
            advice = about_unknown(name, KNOWN | CallParams.__annotations__.keys(), "call")
            if advice is None:
                # The last words are what callers' tests look for.
                advice = f"; if the service knows it, pass {body}; else correct the {unknown}"
            elif advice.startswith("; did you mean '"):
                advice += f" Or, if the service knows it, pass {body}"
            raise TypeError(unknown + advice)


@dataclass(frozen=True)
class ChatRequest:
    """A caller's request, checked and the same for every provider.

    Attributes:
        messages: the conversation in OpenAI's format; each content is a string, or a list of parts
            if there are images.
        model: a model or an alias, or None for the provider's default.
        params: sampling parameters, tools and ``response_format`` by OpenAI's names.
        stream: False asks the service for the whole reply at once.
        timeout: seconds, or ``(connect, read)``, or None for the provider's.
        proxy: a proxy's URL, or None for the provider's.
        deadline: seconds for the whole call, or None for the client's.
        accept: checks the whole reply; None: the client's.
        reasoning: whether a stream also yields the model's thinking.
        schema: what the reply has to satisfy, or None.
        attach: paths of files for the model to look at.
        extra_headers: headers of this call.
        reader: who reads the reply. It decides whether a client inside another one may start a
            reply over, and whether that client's own ``accept`` applies.
    """

    messages: tuple[Message, ...]
    model: str | None = None
    params: Mapping[str, Any] = field(default_factory=dict)
    stream: bool = True
    timeout: Timeout | None = None
    proxy: str | None = None
    deadline: float | None = None
    accept: Accept | None = None
    reasoning: bool = False
    schema: Schema | None = None
    attach: tuple[str, ...] = ()
    extra_headers: Mapping[str, str] = field(default_factory=dict)
    reader: Reader = "stream"

    @classmethod
    def of(
        cls,
        prompt: Prompt,
        *,
        model: str | None = None,
        timeout: Timeout | None = None,
        proxy: str | None = None,
        stream: bool = True,
        deadline: float | None = None,
        accept: Accept | None = None,
        params: Mapping[str, Any],
    ) -> ChatRequest:
        """Check a caller's arguments; if one is invalid, nothing is sent.

        Args:
            prompt: a text or a list of messages.
            model: a model or an alias, or None.
            timeout: seconds, or ``(connect, read)``, or None.
            proxy: a proxy's URL, or None.
            stream: False asks the service for the whole reply at once.
            deadline: seconds for the whole call, or None.
            accept: gets the whole reply and returns True, or False or a reason; or None.
            params: the other keywords of a call; see :class:`Params`.

        Raises:
            TypeError: a parameter that no service has, an ``accept`` that cannot be called, or
                tools that are neither functions nor JSON forms.
            ImportError: ``schema`` needs the extra of that name.
            InvalidRequestError: an empty or misshapen prompt, model, timeout, proxy, deadline or
                parameter, or an ``n`` above 1.
        """
        check_names(params)
        rest = {name: value for name, value in params.items() if value is not None}
        system = rest.pop("system", None)
        reasoning = bool(rest.pop("reasoning", False))
        schema = rest.pop("schema", None)
        if schema is not None and "response_format" in rest:
            raise InvalidRequestError(
                "schema and response_format both set the format of the reply; give one"
            )
        attach = _paths(rest.pop("attach")) if "attach" in rest else ()
        headers = rest.pop("extra_headers", None)
        extra_headers = {} if headers is None else header_fields("extra_headers", headers)
        if rest.get("tools"):
            rest["tools"] = tool_forms(rest["tools"])
        if rest:
            _check_params(rest)
        if model is not None:
            model = text("model", model)
        if timeout is not None:
            check_timeout(timeout, timeout)
        if proxy is not None:
            proxy = check_proxy(proxy)
        if deadline is not None:
            deadline = seconds("deadline", deadline)
        if accept is not None:
            check_accept(accept)
        messages = tuple(normalize(prompt, system=system))
        return cls(
            messages,
            model,
            rest,
            stream,
            timeout,
            proxy,
            deadline,
            accept,
            reasoning,
            None if schema is None else Schema.of(schema),
            attach,
            extra_headers,
        )

    def plain(self) -> ChatRequest:
        """The same without ``deadline``, ``accept`` and the like, for callers that handle them."""
        if self.deadline is None and self.accept is None:
            return self
        return replace(self, deadline=None, accept=None)

    def asks_for_tools(self) -> bool:
        """Whether a function has to be called, or may be."""
        params = self.params
        return any(params.get(name) for name in ("tools", "functions")) or any(
            params.get(name) not in (None, "auto", "none")
            for name in ("tool_choice", "function_call")
        )

    def asks_for_format(self) -> bool:
        """Whether ``response_format`` asks for something other than text."""
        wanted = self.params.get("response_format")
        return wanted is not None and wanted.get("type") != "text"

    def asks_for_images(self) -> bool:
        """Whether the request has a file or an image to look at."""
        parts = (m["content"] for m in self.messages if not isinstance(m["content"], str))
        return bool(self.attach) or any(map(has_images, parts))

    def texts_alone(self) -> ChatRequest:
        """The same, with one text as the content of each message."""
        if all(isinstance(message["content"], str) for message in self.messages):
            return self
        texts = tuple({**m, "content": text_of(m["content"])} for m in self.messages)
        return replace(self, messages=texts)

    def asked_model(self) -> str | None:
        """The model that is asked for: the one in ``extra_body``, if there is one."""
        return self.params.get("extra_body", {}).get("model") or self.model

    def with_extra_body(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """A JSON body with the fields of ``extra_body``; a value of None removes a field.

        Args:
            body: the fields that the provider sends.
        """
        extra = self.params.get("extra_body", {})
        # Not earlier: the request may come from another process.
        conceal_fields((extra, self.params.get("tools")))
        return {n: v for n, v in {**body, **extra}.items() if n not in extra or v is not None}


def _check_params(params: dict[str, Any]) -> None:
    """Check parameters in place; numbers of other libraries become Python numbers.

    Raises:
        InvalidRequestError: a parameter has the wrong type, or ``n`` is above 1.
    """
    for name in _NUMBERS & params.keys():
        params[name] = _number(name, params[name])
    for name in _COUNTS & params.keys():
        params[name] = whole(name, params[name], least=-(2**63))
    if params.get("n", 1) != 1:
        raise InvalidRequestError("n must be 1 or left out: a call returns one reply")
    if "max_completion_tokens" in params:
        limit = params["max_completion_tokens"]
        if params.setdefault("max_tokens", limit) != limit:
            raise InvalidRequestError("max_tokens and max_completion_tokens are the same; give one")
    for name, kinds, what in _SHAPES:
        value = params.get(name)
        if value is not None and (not isinstance(value, kinds) or isinstance(value, bytes)):
            hint = ""
            if name == "response_format" and not isinstance(value, str):
                hint = "; pass a type as schema="
            raise InvalidRequestError(f"{name} must be {what}, not {shown(value)}{hint}")
    stop = params.get("stop", "")
    if not isinstance(stop, str) and not all(isinstance(word, str) for word in stop):
        raise InvalidRequestError(f"stop must be a string or a list of strings, not {shown(stop)}")
    for name in ("tools", "functions"):
        entries = params.get(name, ())
        if isinstance(entries, str) or not all(isinstance(entry, Mapping) for entry in entries):
            raise InvalidRequestError(f"{name} must be a list of objects, not {shown(entries)}")
    for index, tool in enumerate(params.get("tools") or ()):
        is_flat = "name" in tool and "function" not in tool
        if is_flat and tool.get("type", "function") == "function":
            raise InvalidRequestError(
                f"tools[{index}] has no 'function': the form is {{'type': 'function', 'function': "
                "{'name': ..., 'description': ..., 'parameters': {...}}}"
            )


_SHAPES: tuple[tuple[str, tuple[type, ...], str], ...] = (
    ("stop", (str, Sequence), "a string or a list of strings"),
    ("reasoning_effort", (str,), 'a word such as "low"'),
    ("session_id", (str, int), "a string"),
    ("profanity_check", (int,), "True or False"),
    ("parallel_tool_calls", (int,), "True or False"),
    ("tools", (Sequence,), "a list of objects"),
    ("functions", (Sequence,), "a list of objects"),
    ("tool_choice", (str, Mapping), '"auto", "none", "required" or an object'),
    ("function_call", (str, Mapping), '"auto", "none" or an object'),
    ("response_format", (Mapping,), "an object with a type"),
    ("extra_body", (Mapping,), "a dict of fields for the request's body"),
)


def _number(name: str, value: Any) -> float:
    number = as_float(value)
    if number is None or not abs(number) <= FINITE:
        raise InvalidRequestError(f"{name} must be a number, not {shown(value)}")
    return int(value) if isinstance(value, Integral) else number


def _paths(given: object) -> tuple[str, ...]:
    paths = [given] if isinstance(given, (str, os.PathLike)) else given
    if not isinstance(paths, Sequence) or not all(
        isinstance(path, (str, os.PathLike)) and os.fspath(path) for path in paths
    ):
        raise InvalidRequestError(f"attach must be a path or a list of paths, not {shown(given)}")
    named = tuple(map(os.fspath, paths))
    for path in named:
        if _ADDRESS.match(path):
            raise InvalidRequestError(
                f"attach takes the path of a file, and {shown(path)} is an address; an https: or "
                "data: address goes into a part of a message: {'type': 'image_url', 'image_url': "
                "{'url': ...}}"
            )
    return named


# A ``Path`` made of an address has lost one of its slashes.
_ADDRESS = re.compile(r"(https?|ftp|s3|gs):/|data:[^/]*/|file:/", re.IGNORECASE)


def check_accept(accept: object) -> None:
    """Raise a ``TypeError`` for an ``accept`` that cannot be called."""
    if not callable(accept):
        raise TypeError(
            "accept must be a function that gets the Completion and returns True, or False or a "
            f"reason, not {shown(accept)}"
        )
