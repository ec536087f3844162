"""What a mutant changed: told from the file in which mutmut keeps the mutants of a module."""

from __future__ import annotations

import ast
import builtins
import difflib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from llmproviders import errors

_ERRORS = {
    name
    for module in (errors, builtins)
    for name, value in vars(module).items()
    if isinstance(value, type) and issubclass(value, Exception)
}
_Function = ast.FunctionDef | ast.AsyncFunctionDef


class Change(NamedTuple):
    """How a function was changed.

    Attributes:
        lines: those that went, after a minus, and those that came, after a plus.
        words: whether it is but the wording of an error's message or of a line of the log.
    """

    lines: list[str]
    words: bool


def changes(path: Path) -> dict[str, Change]:
    """The change of each mutant in a mutated module, by the name that mutmut gives its function."""
    functions = {
        node.name: node
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, _Function) and "__mutmut_" in node.name
    }
    return {
        name: _change(functions[f"{name.rpartition('__mutmut_')[0]}__mutmut_orig"], function)
        for name, function in functions.items()
        if not name.endswith("__mutmut_orig")
    }


def _change(before: _Function, after: _Function) -> Change:
    before.name = after.name
    old, new = (ast.unparse(function).splitlines() for function in (before, after))
    compared = difflib.unified_diff(old, new, lineterm="", n=0)
    lines = [line for line in compared if not line.startswith(("---", "+++", "@@"))]
    return Change(lines, _is_words(list(_way_to_difference(before, after))))


def _way_to_difference(before: Any, after: Any) -> Iterator[tuple[Any, Any]]:
    """What encloses the one difference of two trees, from the outside in, in both of them."""
    while True:
        yield before, after
        if isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
            inside = list(zip(before, after, strict=True))
        elif isinstance(before, ast.AST) and type(before) is type(after):
            inside = [(getattr(before, f), getattr(after, f)) for f in before._fields]
        else:
            return
        different = [(one, other) for one, other in inside if _shown(one) != _shown(other)]
        if len(different) != 1:
            return
        before, after = different[0]


def _shown(tree: Any) -> str:
    if isinstance(tree, list):
        return "".join(map(_shown, tree))
    return ast.dump(tree) if isinstance(tree, ast.AST) else repr(tree)


def _is_words(way: list[tuple[Any, Any]]) -> bool:
    """Whether the difference lies in a call of the logger, or is text in an error's message.

    A message is the first argument of an error. Another text in it, or none at all, is another
    wording; a condition, a number or a name that changes in it is more than that.
    """
    calls = [before for before, _ in way if isinstance(before, ast.Call)]
    if any(ast.unparse(call.func).startswith("logger.") for call in calls):
        return True
    nodes = [pair for pair in way if isinstance(pair[0], ast.AST) and isinstance(pair[1], ast.AST)]
    old, new = nodes[-1]
    messages = [call.args[0] for call in calls if ast.unparse(call.func) in _ERRORS and call.args]
    if ast.unparse(new) == "None":
        return any(old is message for message in messages)
    within = any(message is before for message in messages for before, _ in nodes)
    return within and _is_text(old) and _is_text(new)


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)
