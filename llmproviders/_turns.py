"""The turns of a run: the model calls functions, gets what they return, and replies in the end."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Iterable, Mapping

from ._log import logger
from ._redact import redact, scrub
from ._runtime.scope import CancelScope
from ._signals import from_handler, let_through
from .errors import Attempt, LLMError, RejectedReplyError
from .messages import Message, as_content
from .results import Attempts, Completion, rejected
from .tools import FunctionTool, Mismatch, OnTool, Steps, Tool, ToolCall, ToolStep, listed

_MOST_WORDS = 2000
"""Characters of an error that go to the model."""


class ToolRun:
    """Asks, runs the functions that the model calls, and asks again until it replies without calls.

    Args:
        tools: functions, and JSON forms of tools that the service runs itself.
        ask: gets the messages, and whether it is the first question.
        max_turns: the most questions to the model.
        on_tool: gets each call and the text that is returned to the model.
        scope: how long all of it may take.

    Raises:
        TypeError: a function is given in JSON form, two have the same name, or there is none.
    """

    def __init__(
        self,
        tools: Iterable[Tool],
        ask: Callable[[tuple[Message, ...], bool], Completion],
        *,
        max_turns: int,
        on_tool: OnTool | None,
        scope: CancelScope,
    ) -> None:
        self._functions = runnable(tools)
        self._ask = ask
        self._max_turns = max_turns
        self._on_tool = on_tool
        self._scope = scope
        self._steps: list[ToolStep] = []
        self._added: list[Message] = []
        self._attempts: tuple[Attempt, ...] = ()
        self._ids: set[str] = set()

    def run(self, messages: tuple[Message, ...]) -> Completion:
        """Return the first reply without calls.

        Raises:
            RejectedReplyError: the model still calls functions after ``max_turns`` questions, or
                ``max_tokens`` cut a call.
            LLMError: a question failed. ``steps`` of every error has the calls that were run.
        """
        self._ids = {str(m["tool_call_id"]) for m in messages if m.get("tool_call_id")}
        try:
            for turn in range(1, self._max_turns + 1):
                completion = self._ask((*messages, *self._added), turn == 1)
                self._attempts = (*self._attempts, *completion.attempts)
                reason = completion.finish_reason.reason
                if not completion.tool_calls or reason == "content_filter":
                    return dataclasses.replace(
                        completion,
                        attempts=Attempts(self._attempts),
                        steps=Steps(self._steps, self._added),
                    )
                if reason == "length" and _is_cut(completion.tool_calls[-1]):
                    said = "max_tokens cut a call of a function; raise max_tokens"
                    raise self._rejection(completion, said, "max_tokens")
                if turn < self._max_turns:
                    self._run_calls(completion, turn)
            said = f"the model still calls functions after {self._max_turns} questions"
            raise self._rejection(completion, f"{said}; raise max_turns", "max_turns")
        except LLMError as error:
            if from_handler(error) is None:
                error.attempts = (*self._attempts, *error.attempts)
                error.steps = Steps(self._steps, self._added)
            raise

    def _rejection(self, completion: Completion, said: str, detail: str) -> RejectedReplyError:
        finish = completion.finish_reason
        error = rejected(said, completion.text, finish, detail=detail, kind=RejectedReplyError)
        # The attempts of all turns come from the run.
        error.attempts = ()
        return error

    def _run_calls(self, completion: Completion, turn: int) -> None:
        calls = [self._with_own_id(call) for call in completion.tool_calls]
        message = {k: v for k, v in completion.message.items() if k != "function_call"}
        results = []
        for call in calls:
            if self._scope.over:
                raise self._scope.error()
            name, result = self._call(call, turn)
            results.append(
                {"role": "tool", "tool_call_id": call["id"], "name": name, "content": result}
            )
        # All together: the history never has a call without its result.
        self._added += [{**message, "tool_calls": calls}, *results]

    def _with_own_id(self, call: ToolCall) -> ToolCall:
        """The call with an id that is unique in this history; servers repeat ids."""
        own, number = str(call.get("id") or ""), len(self._ids)
        while not own or own in self._ids:
            number += 1
            own = f"call_{number}"
        self._ids.add(own)
        return {**call, "id": own}

    def _call(self, call: ToolCall, turn: int) -> tuple[str, str]:
        function = call.get("function") or {}
        name, arguments = str(function.get("name") or ""), function.get("arguments") or ""
        if not isinstance(arguments, str):
            arguments = json.dumps(arguments, ensure_ascii=False)
        began = time.perf_counter()
        failed, tool = True, self._functions.get(name)
        if tool is None:
            known = ", ".join(self._functions)
            result = f"Error: there is no function {name!r}; there are: {known}"
        else:
            try:
                result = as_content(tool(tool.arguments(arguments)))
                failed = False
            except Exception as error:
                let_through(error)
                kind = "wrong arguments" if type(error) is Mismatch else type(error).__name__
                result = redact(f"Error: {kind}: {error}")[:_MOST_WORDS]
                if type(error) is Mismatch:
                    logger.debug("the model called the tool %s with wrong arguments", name)
                else:
                    scrub(error)
                    logger.warning("the tool %s failed; the model knows", name, exc_info=error)
        duration = time.perf_counter() - began
        self._steps.append(ToolStep(turn, name, arguments, result, failed, duration))
        if self._on_tool is not None:
            try:
                self._on_tool(call, result)
            except Exception as error:
                let_through(error)
                logger.exception("on_tool failed; the run continues")
        return name, result


def _is_cut(call: ToolCall) -> bool:
    """Whether the arguments of the last call of a cut reply are missing or incomplete."""
    arguments = dict(call.get("function") or {}).get("arguments")
    try:
        return not (json.loads(arguments) if isinstance(arguments, str) else arguments)
    except (ValueError, RecursionError) as error:
        let_through(error)
        return True


def runnable(tools: Iterable[Tool]) -> dict[str, FunctionTool]:
    """The functions among tools by their names."""
    functions: dict[str, FunctionTool] = {}
    for tool in listed(tools):
        if isinstance(tool, Mapping):
            if tool.get("type") == "function":
                raise TypeError(
                    "run() calls the functions itself and needs them, not their JSON form: pass "
                    "the Python function, whose annotations make the form; complete() takes the "
                    "form and returns the calls"
                )
            continue
        made = FunctionTool(tool)
        if made.name in functions:
            raise TypeError(f"two tools have the name {made.name}")
        functions[made.name] = made
    if not functions:
        raise TypeError("run() needs a function among its tools; without one, use complete()")
    return functions
