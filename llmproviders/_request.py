"""What a caller asks for, checked once, whoever answers."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ._checks import nearest, seconds, shown
from ._http.types import Timeout, check_proxy, check_timeout
from .errors import InvalidRequestError
from .messages import Message, Prompt, normalize
from .results import Completion
from .schema import Schema
from .tools import tool_forms

SAMPLING = frozenset(
    {
        "temperature",
        "top_p",
        "max_tokens",
        "max_completion_tokens",
        "reasoning_effort",
        "parallel_tool_calls",
        "stop",
        "seed",
        "n",
        "presence_penalty",
        "frequency_penalty",
        "repetition_penalty",
        "functions",
        "function_call",
        "tools",
        "tool_choice",
        "response_format",
        "profanity_check",
    }
)

KNOWN = SAMPLING | {"system", "extra_body", "session_id", "reasoning", "attach", "schema"}


def check_names(names: Iterable[str]) -> None:
    """Raise a ``TypeError`` that names the nearest parameter, for the first unknown one."""
    for name in names:
        if name not in KNOWN:
            near = nearest(name, KNOWN)
            hint = f"; did you mean {near!r}?" if near else ""
            raise TypeError(f"unknown parameter {name!r}{hint}")


Accept = Callable[[Completion], "bool | str"]


@dataclass(frozen=True)
class ChatRequest:
    """What a caller asked for, checked, and the same for every provider.

    Attributes:
        messages: the conversation, each content one string.
        model: a model or an alias, or None for the provider's default.
        params: sampling parameters by their usual names.
        stream: False asks the service for the whole reply at once.
        timeout: seconds, or ``(connect, read)``, or None for the provider's.
        proxy: a proxy's URL, or None for the provider's.
        deadline: seconds for the whole call, or None for the client's.
        accept: what the whole reply has to please, or None for the client's.
        reasoning: whether a stream also yields what comes of the thinking.
        attach: paths of files for the model to look at.
        schema: what the reply has to satisfy, or None.
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
    attach: tuple[str, ...] = ()
    schema: Schema | None = None

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
        """Check what a caller passed; nothing is sent for what is wrong.

        Args:
            prompt: a text or a list of messages.
            model: a model or an alias, or None.
            timeout: seconds, or ``(connect, read)``, or None.
            proxy: a proxy's URL, or None.
            stream: False asks the service for the whole reply at once.
            deadline: seconds for the whole call, or None.
            accept: gets the whole reply and returns True, or False or a reason; or None.
            params: sampling parameters, ``system``, ``reasoning``, ``extra_body``, ``schema``.

        Raises:
            TypeError: a parameter that no service has, an ``accept`` that cannot be called, or
                tools that are neither functions nor JSON forms.
            ImportError: ``schema`` needs the extra of that name.
            InvalidRequestError: an empty or misshapen prompt, model, timeout, proxy, deadline or
                ``extra_body``.
        """
        check_names(params)
        rest = dict(params)
        system = rest.pop("system", None)
        reasoning = bool(rest.pop("reasoning", False))
        attach = rest.pop("attach", None) or ()
        attach = (attach,) if isinstance(attach, (str, os.PathLike)) else attach
        schema = rest.pop("schema", None)
        if schema is not None and rest.get("response_format") is not None:
            raise InvalidRequestError("schema and response_format say the same; give one")
        if rest.get("tools"):
            rest["tools"] = tool_forms(rest["tools"])
        if rest.get("extra_body") is None:
            rest.pop("extra_body", None)
        elif not isinstance(rest["extra_body"], Mapping):
            raise InvalidRequestError("extra_body is not a dict of fields for the request's body")
        if model is not None and not isinstance(model, str):
            raise InvalidRequestError(f"a model is a name, not {type(model).__name__}")
        if timeout is not None:
            check_timeout(timeout, timeout)
        if proxy is not None:
            proxy = check_proxy(proxy)
        if deadline is not None:
            deadline = seconds("deadline", deadline)
        if accept is not None:
            check_accept(accept)
        paths = tuple(map(os.fspath, attach))
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
            paths,
            None if schema is None else Schema.of(schema),
        )

    def to(self, model: str | None) -> ChatRequest:
        """The same, asked of ``model``."""
        return self if model == self.model else replace(self, model=model)

    def plain(self) -> ChatRequest:
        """The same without what concerns the call, for one that sees to that itself."""
        if self.deadline is None and self.accept is None:
            return self
        return replace(self, deadline=None, accept=None)


def check_accept(accept: object) -> None:
    """Raise a ``TypeError`` for an ``accept`` that cannot be called."""
    if not callable(accept):
        raise TypeError(
            "accept is a function that gets the Completion and returns True, or False or a "
            f"reason, not {shown(accept)}"
        )
