"""Find out what a mutant changed, from the file in which mutmut keeps a module's mutants."""

from __future__ import annotations

import ast
import builtins
import difflib
import re
from collections.abc import Iterator
from itertools import pairwise, takewhile
from pathlib import Path
from typing import Any, NamedTuple

from llmproviders import errors

_ERRORS = {
    name
    for module in (errors, builtins)
    for name, value in vars(module).items()
    if isinstance(value, type) and issubclass(value, Exception)
}
_CONTEXT = 60
_SQL = re.compile(r"(SELECT|INSERT|UPDATE|DELETE|CREATE|VACUUM)\b")
_Function = ast.FunctionDef | ast.AsyncFunctionDef


class Change(NamedTuple):
    """How a function was changed.

    Attributes:
        lines: removed lines after a minus, and added lines after a plus.
        words: whether it only changes the wording of an error message or of a log line, or the case
            of a header's name or of an SQL statement, which HTTP and SQLite ignore.
    """

    lines: list[str]
    words: bool


def changes(path: Path) -> dict[str, Change]:
    """The change of each mutant in a mutated module, by mutmut's name for its function."""
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
    way = list(_way_to_difference(before, after))
    return Change(_shortened(lines), _is_words(way) or _is_case(way))


def _shortened(lines: list[str]) -> list[str]:
    """The lines, cut to the text around the first difference."""
    letters = zip(*(line[1:] for line in lines), strict=False)
    same = sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, letters))
    begin = max(0, same - _CONTEXT)
    return [line[0] + line[1:][begin : same + _CONTEXT].strip() for line in lines]


def _way_to_difference(before: Any, after: Any) -> Iterator[tuple[Any, Any]]:
    """The nodes that enclose the only difference of two trees, from the outside in."""
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


def _is_case(way: list[tuple[Any, Any]]) -> bool:
    """Whether the difference is the case of a header's name or of an SQL statement."""
    old, new = way[-1]
    if isinstance(old, str) and isinstance(new, str) and _SQL.match(old):
        return old.lower() == new.lower()
    return _is_case_of_header(way)


def _is_case_of_header(way: list[tuple[Any, Any]]) -> bool:
    """Whether the difference is the case of a key, in a dictionary of headers."""
    old, new = way[-1]
    for (outer, _), (inner, _) in pairwise(way):
        if isinstance(outer, ast.Dict) and inner is outer.keys:
            names = [ast.unparse(key).strip("'").lower() for key in outer.keys if key]
            is_headers = any(name == "accept" or name.startswith("x-") for name in names)
            return is_headers and str(old).lower() == str(new).lower()
    return False


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)
