"""What users read is plain English, spelt right."""

from __future__ import annotations

import ast
import io
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

import llmproviders

ROOT = Path(__file__).parents[2]
PACKAGE = Path(llmproviders.__file__).parent

PAGES = [*sorted((ROOT / "docs").rglob("*.md")), ROOT / "README.md"]
PAGES = [page for page in PAGES if not page.name.endswith(".ru.md")]

MODULES = sorted(PACKAGE.rglob("*.py"))
"""Every module: its docstrings, comments and messages."""

SCRIPTS = [*sorted((ROOT / "benchmarks").rglob("*.py")), *sorted((ROOT / "docs").glob("*.py"))]
"""Every benchmark and every script of the documentation."""

BANNED = {
    r"(?<!all )(?<!most )(?<!some )(?<!each )(?<!none )(?<!both )\bof which\b": "that, whose",
    r"\bto be had\b": "available",
    r"\bwhom to ask\b": "the providers",
    r"\b(?:is|are|was|were) to be\b": "should be, has to be, or the imperative",
    r"\bin vain\b": "pointless",
    r"\bwhich is no\b": "not a ...",
    r"\bstate last known\b": "last known state",
    r"\bwants to be paid\b": "there is no quota left",
    r"\bcalls the request wrong\b": "rejected the request as invalid",
    r"\bcan be seen\b": "you can see",
    r"\bnothing of (?:it|this|that)\b": "none of it",
    r"\b(?:told|tell|telling) apart\b": "distinguish",
    r"\bhas to be told\b": "needs to know",
    r"\bthat there (?:is|are)\b(?! (?:a|an|no|not|one)\b)": "that exists, or nothing",
    r"\bwhat there is\b": "a word for the thing",
    r",? for one,": "for example",
    r"\bof one's own\b": "of your own",
    r"\blet \w+ be\b": "the imperative",
    r"\bwho(?:ever)? wants\b": "to do it, or the plural",
    r"\bsuch as there (?:is|are)\b": "a word for the thing",
    r"\bwith nothing sent\b": "without sending anything",
    r"\bin the midst of\b|\bamid\b": "in the middle of",
    r"(?<!there )\bis no (?:text|date|list|number|JSON|function|provider|type|key)\b": "is not a",
    r"\b(?:said|say|says) else\b": "says otherwise",
    r"\bbe they\b|\bbe it\b": "even if",
    r"\bcabinet\b": "your account",
    r"\bof somebody else's\b": "third-party",
    r"\bbe had\b": "available",
    r"\bmend(?:s|ed|ing)\b": "fix",
    r"\bwhom\b": "who, or the name",
    r"\bought to\b": "should",
    r"\bsomebody else\b": "another user",
    r"\b(?:begin|start|made|make|write|fetch)(?:s|ed)? anew\b": "start over, again",
    r"\b(?:where|with) nobody\b|\bwhere there (?:is|are)\b": "if there is no ...",
    r"\b(?:is|are|was|were) told\b": "gets, needs to know",
    r"\bcomes? of (?:it|that)\b": "the part that arrived",
    r"\bin good order\b": "properly",
    r"\bsave (?:that|what|those|where|for)\b": "except",
    r"\bpass(?:es|ed)? (?:it|them) (?:by|over)\b|\bpassed over\b": "skip",
    r"\blets? go of\b": "release",
    r"\bha(?:s|ve) to stand\b": "belongs",
    r"\boftener\b|\bdearer\b": "more often, more expensive",
    r"\b(?:script|function|process|program|client|class) of (?:yours|your own)\b": "your script",
    r"\bare no (?:list|text|values?)\b": "are not",
    r"\b(?:say|says|said) of (?:itself|themselves)\b": "claims, declares",
    r"\b(?:thereof|therein|wherein|whereby|heretofore)\b": "a plain word",
}
"""Turns that sound translated, and what to say in their place."""


def _written(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the line and the text of each docstring, message and block of comments."""
    source = path.read_text(encoding="utf-8")
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value
    begin, block = 0, ""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            begin, block = begin or token.start[0], f"{block} {token.string.lstrip('#:')}"
        elif token.type != tokenize.NL and block:
            yield begin, block
            begin, block = 0, ""


def _prose(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the line and the text of each paragraph of a page, blocks of code left out."""
    text = path.read_text(encoding="utf-8")
    blocks = re.compile(r"^ *(`{3,})(?!\{).*?^ *\1", re.DOTALL | re.MULTILINE)
    text = blocks.sub(lambda found: "\n" * found[0].count("\n"), text)
    line = 1
    for paragraph in re.split(r"(\n\n+)", text):
        yield line, paragraph
        line += paragraph.count("\n")


@pytest.mark.parametrize(
    "path", [*PAGES, *MODULES, *SCRIPTS], ids=lambda path: path.relative_to(ROOT).as_posix()
)
def test_no_banned_turn(path: Path) -> None:
    """No page, docstring, comment or message has a turn that sounds translated."""
    texts = _written(path) if path.suffix == ".py" else _prose(path)
    found = [
        f"{path.name}:{line}: {match[0]!r}: say {instead!r}"
        for line, text in texts
        for turn, instead in BANNED.items()
        for match in re.finditer(turn, " ".join(text.split()), re.IGNORECASE)
    ]
    assert found == []


def test_spelling() -> None:
    """codespell finds nothing in pages, docstrings and messages."""
    where = ["README.md", "CHANGELOG.md", "SECURITY.md", "docs", "llmproviders"]
    done = subprocess.run(
        [sys.executable, "-m", "codespell_lib", *where],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stdout) == (0, "")
