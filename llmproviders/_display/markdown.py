"""Make a model's Markdown safe to render on a page that trusts its content.

A notebook runs HTML and loads pictures in the Markdown that it displays. A model's reply may be
controlled by whoever wrote the text that it was asked about. So tags and pictures are shown as
source text, and so are links that run something when clicked. Links to ``http``, ``https`` and
``mailto`` and relative links stay links. Code and formulas are not changed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

_NAME = r"(?:[^\x00-\x20\x7f-\xa0\u2028\u2029\ufeff:&\\<>%/?#)[\]]|%(?!3[Aa]|[01]))"

_LINK = re.compile(
    # The end of a link's text, or of the name in a link definition, without a backslash before it,
    r"(?<!\\)((?:\\\\)*)\](?=[(:])"
    # not followed by an allowed scheme,
    r"(?!.[ \t\n]*(?:(?i:https?|mailto):"
    # nor by an address without a scheme: one whose first name ends before any colon.
    rf"|{_NAME}+[ \t\n]|{_NAME}*(?:[/?#)]|\Z)))"
)

_CUT = "\0"
"""Replaces the bracket of a disabled link for a moment; Markdown does not use this character."""


_ACTIVE = re.compile(rf"<(?=[A-Za-z/!?])|!(?=\[)|{_CUT}")


_PREFIX = r"(?:[ \t]|>|[-*+](?=[ \t])|\d{1,9}[.)](?=[ \t]))*"

_FENCE = re.compile(rf"(?P<prefix>{_PREFIX})(?P<fence>`{{3,}}|~{{3,}})(?P<info>[^\n]*)")

_IN_LINE = re.compile(
    r"(?P<ticks>(?<!`)`+(?!`))(?P<code>(?:(?!\n[ \t]*\n).){1,2000}?)(?<!`)(?P=ticks)(?!`)"
    r"|(?P<formula>\$\$(?:(?!\n[ \t]*\n).){1,2000}?\$\$|\$(?!\s)[^$\n]{0,500}?[^\s$]\$"
    r"|\\\([^\n]{1,500}?\\\)|\\\[(?:(?!\n[ \t]*\n).){1,2000}?\\\])"
    rf"|(?P<active>\\?<(?=[A-Za-z/!?])|!(?=\[)|{_CUT})",
    re.DOTALL,
)

_ENTITIES = {"<": "&lt;", "!": "&#33;", _CUT: "&#93;"}

_LINE_END = re.compile(r"\r\n?")

_LINE = re.compile(r"[^\n]*\n|[^\n]+")

_PUNCTUATION = re.compile(r"[!-/:-@\[-`{-~]")


def harmless(text: str) -> str:
    r"""Return Markdown that looks like ``text`` and does nothing; an open code block is closed.

    >>> print(harmless("Bold **is** bold, <script>alert(1)</script> is not run."))
    Bold **is** bold, &lt;script>alert(1)&lt;/script> is not run.
    >>> harmless("```python\nprint(1)")
    '```python\nprint(1)\n```'
    """
    text = _LINE_END.sub("\n", text).replace(_CUT, "\ufffd")
    return "".join(_blocks(_LINK.sub(_broken, text)))


def _broken(link: re.Match[str]) -> str:
    return link[1] + _CUT


def _blocks(text: str) -> Iterator[str]:
    prose: list[str] = []
    lines = iter(_LINE.findall(text))
    for line in lines:
        opening = _FENCE.match(line)
        if opening is None or ("`" in opening["fence"] and "`" in opening["info"]):
            prose.append(line)
            continue
        yield _prose("".join(prose))
        prose.clear()
        yield _code_block(opening, line, lines)
    yield _prose("".join(prose))


def _code_block(opening: re.Match[str], line: str, rest: Iterator[str]) -> str:
    fence = opening["fence"]
    closing = re.compile(rf"[ \t>]*{re.escape(fence[0])}{{{len(fence)},}}[ \t]*\n?$")
    body = []
    end = ""
    for inside in rest:
        if closing.match(inside):
            end = inside
            break
        body.append(inside)
    if not _ACTIVE.search(line) and not _ACTIVE.search("".join(body)):
        block = "".join([line, *body])
        margin = re.sub(r"[^ \t>]", " ", opening["prefix"])
        return block + (end or ("" if block.endswith("\n") else "\n") + margin + fence)
    return _verbatim(opening["prefix"], body) + ("\n" if end.endswith("\n") else "")


def _verbatim(prefix: str, body: list[str]) -> str:
    """A block of code as HTML, inside the list item or quotation that ``prefix`` stands for."""
    margin = re.compile(rf"[ \t>]{{0,{len(prefix)}}}")
    written = []
    for line in body:
        code = line.rstrip("\n")
        start = margin.match(code)
        kept = start.group() if start else ""
        written.append((kept, _spelled_out(code[len(kept) :])))
    if not written:
        return f"{prefix}<pre><code></code></pre>"
    first = f"{prefix}<pre><code>{written[0][1]}"
    return "\n".join([first, *(kept + code for kept, code in written[1:])]) + "</code></pre>"


def _prose(text: str) -> str:
    return _IN_LINE.sub(_in_line, text) if _ACTIVE.search(text) else text


def _in_line(found: re.Match[str]) -> str:
    whole = found.group()
    if found["active"]:
        return _ENTITIES[whole[-1]]
    if not _ACTIVE.search(whole):
        return whole
    if found["formula"]:
        return _ACTIVE.sub(lambda sign: _with_brackets(sign.group()) + " ", whole)
    return f"<code>{_spelled_out(found['code'].strip())}</code>"


def _spelled_out(code: str) -> str:
    """Text with every character escaped that means something to Markdown or HTML."""
    return _PUNCTUATION.sub(lambda sign: f"&#{ord(sign.group())};", _with_brackets(code))


def _with_brackets(text: str) -> str:
    return text.replace(_CUT, "]")
